//! `fastly_log`: named endpoints; one write is one record.

use crate::abi::{Bytes64K, HostResult, Registrar, Str};
use crate::sandbox::{Handle, Sandbox};
use crate::services::log::Endpoint;

fn endpoint_get(sandbox: &mut Sandbox, name: Str) -> HostResult<Handle<Endpoint>> {
    let endpoint = sandbox.services.logs.get(&name)?;
    Ok(sandbox.logs.insert(endpoint)?)
}

fn write(sandbox: &mut Sandbox, endpoint: Handle<Endpoint>, record: Bytes64K) -> HostResult<u32> {
    let endpoint = sandbox.logs.get(endpoint)?;
    sandbox.services.logs.write(endpoint, sandbox.id(), sandbox.span(), &record.0);
    Ok(record.0.len() as u32)
}

pub(super) fn module(m: &mut Registrar<'_>) {
    m.call("endpoint_get", endpoint_get);
    m.call("write", write);
}
