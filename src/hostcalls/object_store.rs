//! `fastly_object_store`: KV stores by their first name and interface: values only, and errors as statuses.

use super::lookup::{kv_key, kv_store};
use crate::abi::{HostError, HostResult, Registrar, Str};
use crate::http::Body;
use crate::sandbox::kv::interval;
use crate::sandbox::{Handle, KvDone, KvOperation, PendingKv, Sandbox};
use crate::services::kv_store::{Insert, Store};

fn open(sandbox: &mut Sandbox, name: Str) -> HostResult<Handle<Store>> {
    // The oldest SDKs take a store that is not there for a bad name.
    let store = kv_store(sandbox, &name)?.ok_or_else(|| HostError::inval("there is no such KV store"))?;
    Ok(sandbox.kv_stores.insert(store)?)
}

fn lookup_async(sandbox: &mut Sandbox, store: Handle<Store>, key: Str) -> HostResult<Handle<PendingKv>> {
    let store = sandbox.kv_stores.get(store)?.clone();
    let pending = PendingKv::lookup(sandbox.kv_room()?, sandbox.account.clone(), store, kv_key(&key)?);
    Ok(sandbox.add_kv(pending)?)
}

/// The value; no handle is a key that is not there.
async fn pending_lookup_wait(sandbox: &mut Sandbox, pending: Handle<PendingKv>) -> HostResult<Handle<Body>> {
    match sandbox.take_kv(pending, KvOperation::Lookup).await? {
        Some(KvDone::Lookup(Ok(Some(entry)))) => Ok(sandbox.add_body(Body::from(entry.value))?),
        Some(KvDone::Lookup(Ok(None))) => Ok(Handle::NONE),
        Some(KvDone::Lookup(Err(error))) => Err(error.into()),
        _ => Err(HostError::inval("no lookup")),
    }
}

async fn lookup(sandbox: &mut Sandbox, store: Handle<Store>, key: Str) -> HostResult<Handle<Body>> {
    let pending = lookup_async(sandbox, store, key)?;
    pending_lookup_wait(sandbox, pending).await
}

fn insert_async(sandbox: &mut Sandbox, store: Handle<Store>, key: Str, body: Handle<Body>) -> HostResult<Handle<PendingKv>> {
    let store = sandbox.kv_stores.get(store)?.clone();
    let value = sandbox.take_body(body)?;
    let how = Insert { interval: interval(sandbox.config.limits.kv_writes_per_second), ..Insert::default() };
    let pending = PendingKv::insert(sandbox.kv_room()?, store, kv_key(&key)?, value, how);
    Ok(sandbox.add_kv(pending)?)
}

async fn pending_insert_wait(sandbox: &mut Sandbox, pending: Handle<PendingKv>) -> HostResult<()> {
    match sandbox.take_kv(pending, KvOperation::Insert).await? {
        Some(KvDone::Insert(result)) => Ok(result.map(drop)?),
        _ => Err(HostError::inval("no insert")),
    }
}

async fn insert(sandbox: &mut Sandbox, store: Handle<Store>, key: Str, body: Handle<Body>) -> HostResult<()> {
    let pending = insert_async(sandbox, store, key, body)?;
    pending_insert_wait(sandbox, pending).await
}

fn delete_async(sandbox: &mut Sandbox, store: Handle<Store>, key: Str) -> HostResult<Handle<PendingKv>> {
    let store = sandbox.kv_stores.get(store)?.clone();
    let pending = PendingKv::delete(sandbox.kv_room()?, store, kv_key(&key)?);
    Ok(sandbox.add_kv(pending)?)
}

/// A key that is not there is an error.
async fn pending_delete_wait(sandbox: &mut Sandbox, pending: Handle<PendingKv>) -> HostResult<()> {
    match sandbox.take_kv(pending, KvOperation::Delete).await? {
        Some(KvDone::Delete(Ok(true))) => Ok(()),
        Some(KvDone::Delete(Ok(false))) => Err(HostError::none()),
        Some(KvDone::Delete(Err(error))) => Err(error.into()),
        _ => Err(HostError::inval("no delete")),
    }
}

pub(super) fn module(m: &mut Registrar<'_>) {
    m.call("delete_async", delete_async);
    m.wait("insert", insert);
    m.call("insert_async", insert_async);
    m.wait("lookup", lookup);
    m.call("lookup_async", lookup_async);
    m.call("open", open);
    m.wait("pending_delete_wait", pending_delete_wait);
    m.wait("pending_insert_wait", pending_insert_wait);
    m.wait("pending_lookup_wait", pending_lookup_wait);
}
