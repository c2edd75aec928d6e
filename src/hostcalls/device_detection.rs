//! `fastly_device_detection`: devices by user agent.

use crate::abi::{Buf, HostError, HostResult, Registrar, Str};
use crate::sandbox::Sandbox;

fn lookup(sandbox: &mut Sandbox, user_agent: Str) -> HostResult<Buf<String>> {
    sandbox.services.devices.lookup(user_agent.text()?).map(Buf).ok_or_else(HostError::none)
}

pub(super) fn module(m: &mut Registrar<'_>) {
    m.call_partial("lookup", "the manifest's table, and the rules of uap-core that the operator gives", lookup);
}
