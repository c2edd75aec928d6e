//! `fastly_kv_store`: KV stores. An operation is started by one call and waited for by another, or by `async_io`.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde_json::json;

use super::lookup::{kv_key, kv_store};
use crate::abi::stores::{KvAnswer, KvInsertOptions, KvListOptions, KvOptions, KvTaken, MetadataRoom};
use crate::abi::{HostError, HostResult, Registrar, Str};
use crate::http::Body;
use crate::sandbox::kv::interval;
use crate::sandbox::{Handle, KvDone, KvOperation, PendingKv, Sandbox};
use crate::services::kv_store::{Entry, Error, MAX_KEY, MAX_PAGE, PAGE, Page, Store};

fn open(sandbox: &mut Sandbox, name: Str) -> HostResult<Handle<Store>> {
    let store = kv_store(sandbox, &name)?.ok_or_else(|| HostError::inval("there is no such KV store"))?;
    Ok(sandbox.kv_stores.insert(store)?)
}

fn lookup(sandbox: &mut Sandbox, store: Handle<Store>, key: Str, _: KvOptions) -> HostResult<Handle<PendingKv>> {
    let store = sandbox.kv_stores.get(store)?.clone();
    let pending = PendingKv::lookup(sandbox.kv_room()?, sandbox.account.clone(), store, kv_key(&key)?);
    Ok(sandbox.add_kv(pending)?)
}

/// The entry, if there is room for its metadata: then the operation is over, otherwise it can be waited for again.
async fn looked_up(sandbox: &mut Sandbox, pending: Handle<PendingKv>, room: MetadataRoom) -> HostResult<KvAnswer<Option<KvTaken>>> {
    let done = sandbox.kv(pending, KvOperation::Lookup).await?.result().cloned();
    let entry = match done {
        Some(KvDone::Lookup(Ok(Some(entry)))) => entry,
        Some(KvDone::Lookup(Ok(None))) => {
            sandbox.end_kv(pending)?;
            return Ok(KvAnswer::not_found());
        }
        Some(KvDone::Lookup(Err(error))) => {
            sandbox.end_kv(pending)?;
            return Ok(KvAnswer::failed(&error));
        }
        _ => return Err(HostError::inval("no lookup")),
    };
    let Entry { value, metadata, generation } = entry;
    if metadata.len() > room.0 {
        return Ok(KvAnswer::ok(Some(KvTaken { body: None, metadata, generation })));
    }
    sandbox.end_kv(pending)?;
    let body = sandbox.add_body(Body::from(value))?;
    Ok(KvAnswer::ok(Some(KvTaken { body: Some(body.raw()), metadata, generation })))
}

async fn lookup_wait(sandbox: &mut Sandbox, pending: Handle<PendingKv>, room: MetadataRoom) -> HostResult<KvAnswer<Option<KvTaken<u32>>>> {
    let answer = looked_up(sandbox, pending, room).await?;
    Ok(answer.map(|taken| taken.map(KvTaken::narrow)))
}

async fn lookup_wait_v2(sandbox: &mut Sandbox, pending: Handle<PendingKv>, room: MetadataRoom) -> HostResult<KvAnswer<Option<KvTaken>>> {
    looked_up(sandbox, pending, room).await
}

/// Takes the body, whatever becomes of the write.
fn insert(
    sandbox: &mut Sandbox,
    store: Handle<Store>,
    key: Str,
    body: Handle<Body>,
    options: KvInsertOptions,
) -> HostResult<Handle<PendingKv>> {
    let store = sandbox.kv_stores.get(store)?.clone();
    let value = sandbox.take_body(body)?;
    let mut how = options.0?;
    how.interval = interval(sandbox.config.limits.kv_writes_per_second);
    let pending = PendingKv::insert(sandbox.kv_room()?, store, kv_key(&key)?, value, how);
    Ok(sandbox.add_kv(pending)?)
}

/// Some SDKs have no error for a key that is written too often: for them it is a status.
async fn insert_wait(sandbox: &mut Sandbox, pending: Handle<PendingKv>) -> HostResult<KvAnswer<()>> {
    match sandbox.take_kv(pending, KvOperation::Insert).await? {
        Some(KvDone::Insert(Ok(_))) => Ok(KvAnswer::ok(())),
        Some(KvDone::Insert(Err(error @ Error::TooMany))) => Err(error.into()),
        Some(KvDone::Insert(Err(error))) => Ok(KvAnswer::failed(&error)),
        _ => Err(HostError::inval("no insert")),
    }
}

fn delete(sandbox: &mut Sandbox, store: Handle<Store>, key: Str, _: KvOptions) -> HostResult<Handle<PendingKv>> {
    let store = sandbox.kv_stores.get(store)?.clone();
    let pending = PendingKv::delete(sandbox.kv_room()?, store, kv_key(&key)?);
    Ok(sandbox.add_kv(pending)?)
}

async fn delete_wait(sandbox: &mut Sandbox, pending: Handle<PendingKv>) -> HostResult<KvAnswer<()>> {
    match sandbox.take_kv(pending, KvOperation::Delete).await? {
        Some(KvDone::Delete(Ok(true))) => Ok(KvAnswer::ok(())),
        Some(KvDone::Delete(Ok(false))) => Ok(KvAnswer::not_found()),
        Some(KvDone::Delete(Err(error))) => Ok(KvAnswer::failed(&error)),
        _ => Err(HostError::inval("no delete")),
    }
}

fn page(options: &KvListOptions) -> Result<Page, Error> {
    let after = match &options.cursor {
        Some(cursor) => {
            let key = STANDARD.decode(cursor).ok().and_then(|key| String::from_utf8(key).ok());
            Some(key.ok_or(Error::BadRequest("no cursor of a list"))?)
        }
        None => None,
    };
    let limit = options.limit.unwrap_or(PAGE);
    if limit == 0 {
        return Err(Error::BadRequest("a list of no keys"));
    }
    Ok(Page { prefix: options.prefix.clone().unwrap_or_default(), after, limit: limit.min(MAX_PAGE) })
}

fn list(sandbox: &mut Sandbox, store: Handle<Store>, options: KvListOptions) -> HostResult<Handle<PendingKv>> {
    let store = sandbox.kv_stores.get(store)?.clone();
    let page = page(&options);
    let keys = page.as_ref().map_or(0, |page| page.limit as usize);
    let charge = sandbox.account.charge(keys * MAX_KEY)?;
    let pending = PendingKv::list(sandbox.kv_room()?, charge, store, page, options.eventual);
    Ok(sandbox.add_kv(pending)?)
}

/// A body of JSON: the keys, and how to go on.
async fn list_wait(sandbox: &mut Sandbox, pending: Handle<PendingKv>) -> HostResult<KvAnswer<Option<Handle<Body>>>> {
    let listed = sandbox.kv(pending, KvOperation::List).await?;
    let (done, page, eventual) = (listed.result().cloned(), listed.page.clone(), listed.eventual);
    sandbox.end_kv(pending)?;
    let listing = match done {
        Some(KvDone::List(Ok(listing))) => listing,
        Some(KvDone::List(Err(error))) => return Ok(KvAnswer::failed(&error)),
        _ => return Err(HostError::inval("no list")),
    };
    let page = page.unwrap_or(Page { prefix: String::new(), after: None, limit: PAGE });
    let mut meta = json!({ "limit": page.limit });
    if !page.prefix.is_empty() {
        meta["prefix"] = page.prefix.into();
    }
    if let (true, Some(last)) = (listing.more, listing.keys.last()) {
        meta["next_cursor"] = STANDARD.encode(last).into();
    }
    if eventual {
        meta["consistency"] = "eventual".into();
    }
    let text = json!({ "data": listing.keys, "meta": meta }).to_string();
    Ok(KvAnswer::ok(Some(sandbox.add_body(Body::from(Bytes::from(text)))?)))
}

pub(super) fn module(m: &mut Registrar<'_>) {
    m.call("delete", delete);
    m.wait("delete_wait", delete_wait);
    m.call_partial("insert", "background fetch has no effect: what is written is there at once", insert);
    m.wait("insert_wait", insert_wait);
    m.call("list", list);
    m.wait("list_wait", list_wait);
    m.call("lookup", lookup);
    m.wait("lookup_wait", lookup_wait);
    m.wait("lookup_wait_v2", lookup_wait_v2);
    m.call("open", open);
}
