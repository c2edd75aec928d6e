//! `fastly_shielding`: shields, and backends that lead to them.

use crate::abi::stores::ShieldOptions;
use crate::abi::{Buf, HostError, HostResult, Registrar, Status, Str};
use crate::sandbox::Sandbox;

/// Whether it is this host, and its URLs, each followed by NUL.
fn shield_info(sandbox: &mut Sandbox, name: Str) -> HostResult<Buf<Vec<u8>>> {
    let name = name.text()?;
    if name.is_empty() {
        return Err(HostError::inval("a shield has a name"));
    }
    let info = sandbox.services.shields.info(name);
    let mut block = vec![u8::from(info.is_me)];
    for url in [info.unencrypted, info.encrypted] {
        block.extend_from_slice(url.as_bytes());
        block.push(0);
    }
    Ok(Buf(block))
}

/// The name of a backend for one of a shield's URLs.
fn backend_for_shield(sandbox: &mut Sandbox, url: Str, options: ShieldOptions) -> HostResult<Buf<String>> {
    let backend = sandbox.shield(url.text()?, options.first_byte, options.between_bytes)?;
    backend.map(Buf).ok_or_else(|| HostError::Status(Status::Inval, "that is no URL of a shield".into()))
}

pub(super) fn module(m: &mut Registrar<'_>) {
    m.call_partial("backend_for_shield", "the cache key has no effect: there is no cache on the way yet", backend_for_shield);
    m.call("shield_info", shield_info);
}
