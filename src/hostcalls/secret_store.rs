//! `fastly_secret_store`: secrets. Those the guest makes; there are no stores of them yet.

use crate::abi::{Buf, HostError, HostResult, Registrar, Str};
use crate::config::Secret;
use crate::sandbox::{Handle, Sandbox};

const WHY: &str = "there are no secret stores yet";

/// Makes a secret of bytes the guest has, for calls that take the handle of one.
fn from_bytes(sandbox: &mut Sandbox, bytes: Str) -> HostResult<Handle<Secret>> {
    if bytes.len() > Secret::MAX {
        return Err(HostError::inval("a secret longer than 64 KiB"));
    }
    Ok(sandbox.secrets.insert(Secret::new(bytes.to_vec()))?)
}

fn plaintext(sandbox: &mut Sandbox, secret: Handle<Secret>) -> HostResult<Buf<Secret>> {
    Ok(Buf(sandbox.secrets.get(secret)?.clone()))
}

pub(super) fn module(m: &mut Registrar<'_>) {
    m.call("from_bytes", from_bytes);
    m.unsupported("get", 4, WHY);
    m.unsupported("open", 3, WHY);
    m.call("plaintext", plaintext);
}
