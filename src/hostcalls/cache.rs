//! `fastly_cache`: the core cache. Lookups that may have to wait for others are waited for when their outcome is needed,
//! or by `async_io`.

use std::sync::Arc;

use ::http::HeaderMap;
use bytes::Bytes;

use crate::abi::cache::state::{FOUND, MUST_INSERT_OR_UPDATE, STALE, USABLE};
use crate::abi::cache::{BodyRange, CacheWrite, LookupOptions, ReplaceOptions, nanos};
use crate::abi::{Buf, HostError, HostResult, Registrar, Status, Str};
use crate::http::Body;
use crate::sandbox::cache::{CacheEntry, CacheUse};
use crate::sandbox::{GuestRequest, Handle, Sandbox};
use crate::services::cache::{Cache, Error, Face, Found, Key, MAX_KEY, Outcome, Phase};

type Entry = Handle<CacheEntry>;
type BodyHandle = Handle<Body>;

/// What chooses a variant.
fn headers(sandbox: &Sandbox, request: Option<Handle<GuestRequest>>) -> HostResult<HeaderMap> {
    match request {
        Some(request) => Ok(sandbox.requests.get(request)?.head.headers.clone()),
        None => Ok(HeaderMap::new()),
    }
}

/// The service's cache, or that of one that lets it.
fn cache(sandbox: &Sandbox, service: Option<&Str>) -> HostResult<Cache> {
    let own = &sandbox.services.cache;
    let Some(service) = service else { return Ok(own.clone()) };
    let id = service.text()?;
    if id == sandbox.config.service_id {
        return Ok(own.clone());
    }
    own.shared_by(id).ok_or_else(|| HostError::unsupported("no service of that id lets this one use its cache (sidelight.cache.open_to)"))
}

/// An entry, and what it is for people.
fn key(cache: &Cache, key: &Str) -> HostResult<Key> {
    if key.len() > MAX_KEY {
        return Err(HostError::inval("a key longer than 8135 bytes"));
    }
    Ok(cache.key(Face::Core, key))
}

fn about(key: &Str) -> Arc<str> {
    String::from_utf8_lossy(&key[..key.len().min(256)]).into()
}

fn lookup(sandbox: &mut Sandbox, name: Str, options: LookupOptions) -> HostResult<Entry> {
    let cache = cache(sandbox, options.service.as_ref())?;
    let headers = headers(sandbox, options.request)?;
    let key = key(&cache, &name)?;
    let charge = sandbox.charge_lookup(headers.len(), 0)?;
    let found = cache.lookup(&key, &headers);
    cache.count("core", found.as_ref().map_or("miss", |found| if found.phase == Phase::Fresh { "hit" } else { "stale" }));
    let lookup = Outcome { found, ..Outcome::default() }.into();
    let always_range = options.always_range;
    Ok(sandbox.add_cache(CacheEntry { kind: CacheUse::Entry, cache, key, lookup, headers, always_range, body: None, charge })?)
}

fn begin(sandbox: &mut Sandbox, name: &Str, options: &LookupOptions, kind: CacheUse) -> HostResult<Entry> {
    let cache = cache(sandbox, options.service.as_ref())?;
    let headers = headers(sandbox, options.request)?;
    let key = key(&cache, name)?;
    sandbox.items.has_room()?;
    let charge = sandbox.charge_lookup(headers.len(), 0)?;
    let lookup = cache.transaction(key, &headers, false, &|| about(name));
    let always_range = options.always_range;
    Ok(sandbox.add_cache(CacheEntry { kind, cache, key, lookup, headers, always_range, body: None, charge })?)
}

fn transaction_lookup(sandbox: &mut Sandbox, name: Str, options: LookupOptions) -> HostResult<Entry> {
    begin(sandbox, &name, &options, CacheUse::Entry)
}

fn transaction_lookup_async(sandbox: &mut Sandbox, name: Str, options: LookupOptions) -> HostResult<Entry> {
    begin(sandbox, &name, &options, CacheUse::Busy)
}

async fn cache_busy_handle_wait(sandbox: &mut Sandbox, busy: Entry) -> HostResult<Entry> {
    sandbox.cache(busy, CacheUse::Busy)?.lookup.ready().await;
    let entry = sandbox.take_cache(busy, &[CacheUse::Busy])?;
    Ok(sandbox.add_cache(CacheEntry { kind: CacheUse::Entry, ..*entry })?)
}

/// Begins an object, whoever else is about to.
fn insert(sandbox: &mut Sandbox, name: Str, write: CacheWrite) -> HostResult<BodyHandle> {
    let cache = cache(sandbox, write.service.as_ref())?;
    let headers = headers(sandbox, write.request)?;
    let key = key(&cache, &name)?;
    sandbox.items.has_room()?;
    let charge = sandbox.charge_object(&write.options)?;
    let (writer, _) = cache.insert(key, &headers, about(&name), write.options)?;
    Ok(sandbox.add_writer(writer, charge)?)
}

/// In a transaction, the fields that choose the variant came with the lookup.
fn in_transaction(write: CacheWrite) -> HostResult<crate::services::cache::WriteOptions> {
    if write.request.is_some() || write.service.is_some() {
        return Err(HostError::inval("request headers and service are told with the lookup"));
    }
    Ok(write.options)
}

async fn outcome(sandbox: &mut Sandbox, entry: Entry, kind: CacheUse) -> HostResult<&mut Outcome> {
    Ok(sandbox.cache(entry, kind)?.lookup.outcome().await)
}

async fn begun(sandbox: &mut Sandbox, entry: Entry, write: CacheWrite) -> HostResult<(BodyHandle, Found)> {
    let options = in_transaction(write)?;
    sandbox.items.has_room()?;
    let charge = sandbox.charge_object(&options)?;
    let obligation = outcome(sandbox, entry, CacheUse::Entry).await?.obligation.take().ok_or(Error::NotAsked)?;
    let (writer, found) = obligation.insert(options)?;
    Ok((sandbox.add_writer(writer, charge)?, found))
}

async fn transaction_insert(sandbox: &mut Sandbox, entry: Entry, write: CacheWrite) -> HostResult<BodyHandle> {
    Ok(begun(sandbox, entry, write).await?.0)
}

async fn transaction_insert_and_stream_back(sandbox: &mut Sandbox, entry: Entry, write: CacheWrite) -> HostResult<(BodyHandle, Entry)> {
    let charge = sandbox.charge_lookup(0, 0)?;
    let (body, found) = begun(sandbox, entry, write).await?;
    let of = sandbox.cache(entry, CacheUse::Entry)?;
    let back = CacheEntry {
        kind: CacheUse::Entry,
        cache: of.cache.clone(),
        key: of.key,
        lookup: Outcome { found: Some(found), ..Outcome::default() }.into(),
        headers: HeaderMap::new(),
        always_range: of.always_range,
        body: None,
        charge,
    };
    Ok((body, sandbox.add_cache(back)?))
}

async fn transaction_update(sandbox: &mut Sandbox, entry: Entry, write: CacheWrite) -> HostResult<()> {
    let options = in_transaction(write)?;
    let outcome = outcome(sandbox, entry, CacheUse::Entry).await?;
    let base = outcome.found.as_ref().ok_or(Error::NotFound)?.object();
    let obligation = outcome.obligation.take().ok_or(Error::NotAsked)?;
    obligation.update(&base, options)?;
    Ok(())
}

async fn transaction_cancel(sandbox: &mut Sandbox, entry: Entry) -> HostResult<()> {
    let obligation = outcome(sandbox, entry, CacheUse::Entry).await?.obligation.take().ok_or(Error::NotAsked)?;
    drop(obligation);
    Ok(())
}

fn close_busy(sandbox: &mut Sandbox, busy: Entry) -> HostResult<()> {
    drop(sandbox.take_cache(busy, &[CacheUse::Busy])?);
    Ok(())
}

/// SDKs close what they replace with this call, too.
fn close(sandbox: &mut Sandbox, entry: Entry) -> HostResult<()> {
    drop(sandbox.take_cache(entry, &[CacheUse::Entry, CacheUse::Replace])?);
    Ok(())
}

/// What is found is usable: SDKs rely on it.
fn state(outcome: &Outcome) -> u32 {
    let mut state = match &outcome.found {
        Some(found) if found.phase == Phase::Fresh => FOUND | USABLE,
        Some(_) => FOUND | USABLE | STALE,
        None => 0,
    };
    if outcome.obligation.is_some() {
        state |= MUST_INSERT_OR_UPDATE;
    }
    state
}

async fn get_state(sandbox: &mut Sandbox, entry: Entry) -> HostResult<u32> {
    let was_waiting = sandbox.cache(entry, CacheUse::Entry)?.lookup.is_waiting();
    let outcome = outcome(sandbox, entry, CacheUse::Entry).await?;
    let state = state(outcome);
    if was_waiting || state & MUST_INSERT_OR_UPDATE != 0 {
        tracing::trace!(target: "sidelight::cache", state, "looked up");
    }
    Ok(state)
}

async fn found(sandbox: &mut Sandbox, entry: Entry, kind: CacheUse) -> HostResult<&Found> {
    outcome(sandbox, entry, kind).await?.found.as_ref().ok_or_else(HostError::none)
}

async fn user_metadata(sandbox: &mut Sandbox, entry: Entry, kind: CacheUse) -> HostResult<Buf<Bytes>> {
    Ok(Buf(found(sandbox, entry, kind).await?.user_metadata().clone()))
}

/// From `from` to `to`, both included; without `from` the last `to` bytes. What is no range of it, and what is one of an
/// unknown length, is as if all had been asked for.
async fn body(sandbox: &mut Sandbox, entry: Entry, kind: CacheUse, range: BodyRange) -> HostResult<BodyHandle> {
    sandbox.items.has_room()?;
    let last = sandbox.cache(entry, kind)?.body;
    if last.is_some_and(|body| sandbox.body(Handle::from_raw(body)).is_ok()) {
        return Err(Error::BodyOpen.into());
    }
    let always = sandbox.cache(entry, kind)?.always_range;
    let found = found(sandbox, entry, kind).await?;
    let mut length = found.length();
    if length.is_none() && always && range.from.is_none() && range.to.is_some() {
        // Where its last bytes begin is known when it has ended.
        length = found.whole().await;
    }
    let body = match (range.from, range.to, length) {
        (None, None, _) => found.body(0, None),
        (_, _, None) if !always => found.body(0, None),
        (None, Some(count), Some(length)) if (1..=length).contains(&count) => found.body(length - count, None),
        (Some(from), to, Some(length)) if from < length && to.is_none_or(|to| (from..length).contains(&to)) => {
            found.body(from, to.map(|to| to + 1))
        }
        (Some(from), to, None) if to.is_none_or(|to| to >= from) => found.body(from, to.map(|to| to.saturating_add(1))),
        _ => found.body(0, None),
    };
    let body = sandbox.add_body(body)?;
    sandbox.cache(entry, kind)?.body = Some(body.raw());
    Ok(body)
}

async fn length(sandbox: &mut Sandbox, entry: Entry, kind: CacheUse) -> HostResult<u64> {
    found(sandbox, entry, kind).await?.length().ok_or_else(HostError::none)
}

async fn max_age(sandbox: &mut Sandbox, entry: Entry, kind: CacheUse) -> HostResult<u64> {
    Ok(nanos(found(sandbox, entry, kind).await?.options().max_age))
}

async fn stale_while_revalidate(sandbox: &mut Sandbox, entry: Entry, kind: CacheUse) -> HostResult<u64> {
    Ok(nanos(found(sandbox, entry, kind).await?.options().stale_while_revalidate))
}

async fn age(sandbox: &mut Sandbox, entry: Entry, kind: CacheUse) -> HostResult<u64> {
    Ok(nanos(found(sandbox, entry, kind).await?.age()))
}

async fn hits(sandbox: &mut Sandbox, entry: Entry, kind: CacheUse) -> HostResult<u64> {
    Ok(found(sandbox, entry, kind).await?.hits)
}

/// Each of these calls is there for lookups and for replaces.
macro_rules! getters {
    ($($name:ident, $replace_name:ident: $of:ident -> $out:ty;)*) => {
        $(
            async fn $name(sandbox: &mut Sandbox, entry: Entry) -> HostResult<$out> {
                $of(sandbox, entry, CacheUse::Entry).await
            }

            async fn $replace_name(sandbox: &mut Sandbox, entry: Entry) -> HostResult<$out> {
                $of(sandbox, entry, CacheUse::Replace).await
            }
        )*
    };
}
getters! {
    get_user_metadata, replace_get_user_metadata: user_metadata -> Buf<Bytes>;
    get_length, replace_get_length: length -> u64;
    get_max_age_ns, replace_get_max_age_ns: max_age -> u64;
    get_stale_while_revalidate_ns, replace_get_stale_while_revalidate_ns: stale_while_revalidate -> u64;
    get_age_ns, replace_get_age_ns: age -> u64;
    get_hits, replace_get_hits: hits -> u64;
}

async fn get_body(sandbox: &mut Sandbox, entry: Entry, range: BodyRange) -> HostResult<BodyHandle> {
    body(sandbox, entry, CacheUse::Entry, range).await
}

async fn replace_get_body(sandbox: &mut Sandbox, entry: Entry, range: BodyRange) -> HostResult<BodyHandle> {
    body(sandbox, entry, CacheUse::Replace, range).await
}

fn replace(sandbox: &mut Sandbox, name: Str, options: ReplaceOptions) -> HostResult<Entry> {
    let ReplaceOptions { lookup: options, strategy } = options;
    let cache = cache(sandbox, options.service.as_ref())?;
    let headers = headers(sandbox, options.request)?;
    let key = key(&cache, &name)?;
    sandbox.items.has_room()?;
    let charge = sandbox.charge_lookup(headers.len(), 0)?;
    let lookup = cache.replace(key, &headers, strategy, about(&name));
    let always_range = options.always_range;
    Ok(sandbox.add_cache(CacheEntry { kind: CacheUse::Replace, cache, key, lookup, headers, always_range, body: None, charge })?)
}

async fn replace_get_state(sandbox: &mut Sandbox, entry: Entry) -> HostResult<u32> {
    Ok(state(outcome(sandbox, entry, CacheUse::Replace).await?))
}

/// The handle is dead from here on.
async fn replace_insert(sandbox: &mut Sandbox, entry: Entry, write: CacheWrite) -> HostResult<BodyHandle> {
    let options = write.options;
    let charge = sandbox.charge_object(&options)?;
    outcome(sandbox, entry, CacheUse::Replace).await?;
    let mut replaced = sandbox.take_cache(entry, &[CacheUse::Replace])?;
    let about: Arc<str> = "replaced".into();
    let (writer, _) = match replaced.lookup.outcome().await.obligation.take() {
        Some(obligation) => obligation.insert(options)?,
        // It waits for nobody.
        None => replaced.cache.insert(replaced.key, &replaced.headers, about, options)?,
    };
    match sandbox.add_writer(writer, charge) {
        Ok(body) => Ok(body),
        Err(full) => Err(HostError::Status(Status::LimitExceeded, full.to_string().into())),
    }
}

pub(super) fn module(m: &mut Registrar<'_>) {
    m.wait("cache_busy_handle_wait", cache_busy_handle_wait);
    m.call("close", close);
    m.call("close_busy", close_busy);
    m.wait("get_age_ns", get_age_ns);
    m.wait("get_body", get_body);
    m.wait("get_hits", get_hits);
    m.wait("get_length", get_length);
    m.wait("get_max_age_ns", get_max_age_ns);
    m.wait("get_stale_while_revalidate_ns", get_stale_while_revalidate_ns);
    m.wait("get_state", get_state);
    m.wait("get_user_metadata", get_user_metadata);
    m.call("insert", insert);
    m.call("lookup", lookup);
    m.call("replace", replace);
    m.wait("replace_get_age_ns", replace_get_age_ns);
    m.wait("replace_get_body", replace_get_body);
    m.wait("replace_get_hits", replace_get_hits);
    m.wait("replace_get_length", replace_get_length);
    m.wait("replace_get_max_age_ns", replace_get_max_age_ns);
    m.wait("replace_get_stale_while_revalidate_ns", replace_get_stale_while_revalidate_ns);
    m.wait("replace_get_state", replace_get_state);
    m.wait("replace_get_user_metadata", replace_get_user_metadata);
    m.wait("replace_insert", replace_insert);
    m.wait("transaction_cancel", transaction_cancel);
    m.wait("transaction_insert", transaction_insert);
    m.wait("transaction_insert_and_stream_back", transaction_insert_and_stream_back);
    m.call("transaction_lookup", transaction_lookup);
    m.call("transaction_lookup_async", transaction_lookup_async);
    m.wait("transaction_update", transaction_update);
}
