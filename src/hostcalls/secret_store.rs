//! `fastly_secret_store`: secrets, of stores and of the guest's own making.

use std::sync::Arc;

use crate::abi::{Buf, Hidden, HostError, HostResult, Registrar, Status, Str};
use crate::config::Secret;
use crate::config::stores::is_secret_name;
use crate::sandbox::{Handle, HeldSecret, Sandbox};
use crate::services::secret_store::SecretStore;

fn open(sandbox: &mut Sandbox, name: Str) -> HostResult<Handle<Arc<SecretStore>>> {
    let name = name.text()?;
    if name.is_empty() || name.len() > 255 {
        return Err(HostError::inval("a store's name has 1 to 255 bytes"));
    }
    let store = sandbox.services.secret_stores.get(name).cloned();
    let store = store.ok_or_else(|| HostError::Status(Status::None, format!("there is no secret store `{name}`").into()))?;
    Ok(sandbox.secret_stores.insert(store)?)
}

fn get(sandbox: &mut Sandbox, store: Handle<Arc<SecretStore>>, name: Str) -> HostResult<Handle<Secret>> {
    let store = sandbox.secret_stores.get(store)?;
    let name = name.text()?;
    if !is_secret_name(name) {
        return Err(HostError::inval("no name of a secret"));
    }
    let secret = store.get(name).cloned().ok_or_else(HostError::none)?;
    Ok(Handle::from_raw(sandbox.secrets.insert(HeldSecret { secret, charge: None })?.raw()))
}

/// Makes a secret of bytes the guest has, for calls that take the handle of one.
fn from_bytes(sandbox: &mut Sandbox, bytes: Hidden) -> HostResult<Handle<Secret>> {
    let bytes = bytes.0;
    if bytes.len() > Secret::MAX {
        return Err(HostError::inval("a secret longer than 64 KiB"));
    }
    let charge = Some(sandbox.account.charge(bytes.len())?);
    Ok(Handle::from_raw(sandbox.secrets.insert(HeldSecret { secret: Secret::new(bytes.to_vec()), charge })?.raw()))
}

fn plaintext(sandbox: &mut Sandbox, secret: Handle<Secret>) -> HostResult<Buf<Secret>> {
    Ok(Buf(sandbox.secrets.get(secret)?.secret.clone()))
}

pub(super) fn module(m: &mut Registrar<'_>) {
    m.call("from_bytes", from_bytes);
    m.call("get", get);
    m.call("open", open);
    m.call("plaintext", plaintext);
}
