//! Calls that `fastly_config_store` and `fastly_dictionary` share, and how both interfaces to KV stores begin.

use std::sync::Arc;

use bytes::Bytes;

use crate::abi::{Buf, HostError, HostResult, Status, Str};
use crate::config::stores::kv_key_fault;
use crate::sandbox::{Handle, Sandbox};
use crate::services::config_store::ConfigStore;
use crate::services::kv_store::Store;

/// Longest name of a store, in bytes.
const MAX_NAME: usize = 255;

/// Opens a store by its name, which is case-sensitive.
pub(super) fn open_config(sandbox: &mut Sandbox, name: Str) -> HostResult<Handle<Arc<ConfigStore>>> {
    if name.is_empty() {
        return Err(HostError::Status(Status::None, "a store has a name".into()));
    }
    if name.len() > MAX_NAME {
        return Err(HostError::unsupported("a store's name has at most 255 bytes"));
    }
    let name = name.text()?;
    let store = sandbox.services.config_stores.get(name).cloned();
    let store = store.ok_or_else(|| HostError::Status(Status::BadHandle, format!("there is no config store `{name}`").into()))?;
    Ok(sandbox.config_stores.insert(store)?)
}

/// The value of a key.
pub(super) fn get_config(sandbox: &mut Sandbox, store: Handle<Arc<ConfigStore>>, key: Str) -> HostResult<Buf<Bytes>> {
    let store = sandbox.config_stores.get(store)?;
    let value = store.get(key.text()?).cloned();
    if sandbox.meter.lookup() > sandbox.bounds.lookups {
        let text = format!("more than {} lookups of config store entries", sandbox.bounds.lookups);
        return Err(HostError::Status(Status::LimitExceeded, text.into()));
    }
    value.map(Buf).ok_or_else(HostError::none)
}

/// A KV store, if there is one of that name.
pub(super) fn kv_store(sandbox: &Sandbox, name: &Str) -> HostResult<Option<Store>> {
    Ok(sandbox.services.kv_stores.get(name.text()?).cloned())
}

/// A key of a KV store.
pub(super) fn kv_key(key: &Str) -> HostResult<String> {
    let key = key.text()?;
    match kv_key_fault(key) {
        None => Ok(key.to_owned()),
        Some(fault) => Err(HostError::inval(format!("this key cannot be: {fault}"))),
    }
}
