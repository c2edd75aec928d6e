//! `fastly_erl`: edge rate limiting: rate counters and penalty boxes.

use crate::abi::stores::CheckRate;
use crate::abi::{HostError, HostResult, Registrar, Str};
use crate::sandbox::Sandbox;
use crate::services::erl::{self, Check, MAX_NAME};

fn name(text: &Str) -> HostResult<&str> {
    if text.len() > MAX_NAME {
        return Err(HostError::inval("a name has at most 1024 bytes"));
    }
    text.text()
}

/// Counts, and says whether the entry is to be limited: one round trip, wherever the counts are.
async fn check_rate(sandbox: &mut Sandbox, check: CheckRate) -> HostResult<bool> {
    let rates = sandbox.services.rates.clone();
    let check = Check {
        counter: name(&check.counter)?,
        entry: name(&check.entry)?,
        delta: check.delta,
        window: erl::window(check.window)?,
        limit: check.limit,
        penalty_box: name(&check.penalty_box)?,
        ttl: erl::ttl(check.ttl)?,
    };
    Ok(rates.check(check).await?)
}

async fn ratecounter_increment(sandbox: &mut Sandbox, counter: Str, entry: Str, delta: u32) -> HostResult<()> {
    let rates = sandbox.services.rates.clone();
    Ok(rates.increment(name(&counter)?, name(&entry)?, delta).await?)
}

/// The average per second over a window.
async fn ratecounter_lookup_rate(sandbox: &mut Sandbox, counter: Str, entry: Str, window: u32) -> HostResult<u32> {
    let rates = sandbox.services.rates.clone();
    Ok(rates.rate(name(&counter)?, name(&entry)?, erl::window(window)?).await?)
}

async fn ratecounter_lookup_count(sandbox: &mut Sandbox, counter: Str, entry: Str, duration: u32) -> HostResult<u32> {
    let rates = sandbox.services.rates.clone();
    Ok(rates.count(name(&counter)?, name(&entry)?, erl::duration(duration)?).await?)
}

async fn penaltybox_add(sandbox: &mut Sandbox, penalty_box: Str, entry: Str, ttl: u32) -> HostResult<()> {
    let rates = sandbox.services.rates.clone();
    Ok(rates.penalize(name(&penalty_box)?, name(&entry)?, erl::ttl(ttl)?).await?)
}

async fn penaltybox_has(sandbox: &mut Sandbox, penalty_box: Str, entry: Str) -> HostResult<bool> {
    let rates = sandbox.services.rates.clone();
    Ok(rates.is_penalized(name(&penalty_box)?, name(&entry)?).await?)
}

pub(super) fn module(m: &mut Registrar<'_>) {
    m.wait("check_rate", check_rate);
    m.wait("penaltybox_add", penaltybox_add);
    m.wait("penaltybox_has", penaltybox_has);
    m.wait("ratecounter_increment", ratecounter_increment);
    m.wait("ratecounter_lookup_count", ratecounter_lookup_count);
    m.wait("ratecounter_lookup_rate", ratecounter_lookup_rate);
}
