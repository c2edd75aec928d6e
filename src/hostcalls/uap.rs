//! `fastly_uap`: user-agent parsing, deprecated in favour of device detection.

use crate::abi::{Buf, HostError, HostResult, Registrar, Str};
use crate::sandbox::Sandbox;

/// Family, major, minor and patch version, each in a buffer of its own.
type Parts = (Buf<String>, Buf<String>, Buf<String>, Buf<String>);

fn parse(sandbox: &mut Sandbox, user_agent: Str) -> HostResult<Parts> {
    let devices = &sandbox.services.devices;
    if !devices.parses() {
        return Err(HostError::unsupported("there are no rules to parse user agents by (sidelight.user_agents)"));
    }
    let agent = devices.parse(user_agent.text()?).ok_or_else(HostError::none)?;
    Ok((Buf(agent.family), Buf(agent.major), Buf(agent.minor), Buf(agent.patch)))
}

pub(super) fn module(m: &mut Registrar<'_>) {
    m.call_partial("parse", "with the rules of uap-core that the operator gives; without them UNSUPPORTED", parse);
}
