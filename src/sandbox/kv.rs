//! Operations of KV stores that are on their way. They run whether or not the guest waits for them.

use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::{Semaphore, oneshot};

use super::handles::{BadHandle, Handle, TableFull};
use super::{Account, AsyncItem, Charge, Sandbox};
use crate::http::Body;
use crate::services::kv_store::{Entry, Error, Insert, Listing, MAX_VALUE, Page, Store};

/// Kinds of operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "as the store's")]
pub enum KvOperation {
    Lookup,
    Insert,
    Delete,
    List,
}

/// Operations of one sandbox that are worked on at once: each may hold a value in memory.
pub const AT_ONCE: usize = 16;

/// What an operation gave.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "as the operations")]
pub enum KvDone {
    Lookup(Result<Option<Entry>, Error>),
    Insert(Result<u64, Error>),
    Delete(Result<bool, Error>),
    List(Result<Listing, Error>),
}

/// An operation on its way.
#[derive(Debug)]
pub struct PendingKv {
    operation: KvOperation,
    /// How a list answers what it was asked.
    pub page: Option<Page>,
    /// Whether the list need not be of this moment.
    pub eventual: bool,
    arriving: Option<oneshot::Receiver<KvDone>>,
    arrived: Option<KvDone>,
    /// For what a list holds.
    _charge: Option<Charge>,
}

impl PendingKv {
    /// Starts it, as soon as one of `room` is free. What needs no waiting is done at once.
    fn start(operation: KvOperation, room: Arc<Semaphore>, work: BoxFuture<'static, KvDone>) -> Self {
        let mut pending = Self { operation, page: None, eventual: false, arriving: None, arrived: None, _charge: None };
        let mut work = Box::pin(async move {
            // It is never closed.
            let _room = room.acquire_owned().await;
            work.await
        });
        match work.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(done) => pending.arrived = Some(done),
            Poll::Pending => {
                let (sender, receiver) = oneshot::channel();
                tokio::spawn(async move {
                    // A receiver that is gone means that the guest lost interest.
                    let _ = sender.send(work.await);
                });
                pending.arriving = Some(receiver);
            }
        }
        pending
    }

    /// Looks a key up. The value is on `account`.
    pub fn lookup(room: Arc<Semaphore>, account: Arc<Account>, store: Store, key: String) -> Self {
        let work = async move {
            KvDone::Lookup(match store.lookup(&key).await {
                Ok(Some(entry)) => match account.keep(entry.value) {
                    Ok(value) => Ok(Some(Entry { value, ..entry })),
                    Err(refused) => Err(Error::Unavailable(refused.to_string())),
                },
                other => other,
            })
        };
        Self::start(KvOperation::Lookup, room, Box::pin(work))
    }

    /// Writes a value once all of it is there.
    pub fn insert(room: Arc<Semaphore>, store: Store, key: String, mut value: Body, how: Insert) -> Self {
        let work = async move {
            KvDone::Insert(match value.collect(MAX_VALUE).await {
                Ok(Some(value)) => store.insert(&key, value, &how).await,
                Ok(None) => Err(Error::TooLarge),
                Err(error) => {
                    tracing::warn!(target: "sidelight::guest", %error, "a value for a KV store broke off; nothing is written");
                    Err(Error::BadRequest("the value broke off"))
                }
            })
        };
        Self::start(KvOperation::Insert, room, Box::pin(work))
    }

    /// Takes a key out.
    pub fn delete(room: Arc<Semaphore>, store: Store, key: String) -> Self {
        Self::start(KvOperation::Delete, room, Box::pin(async move { KvDone::Delete(store.delete(&key).await) }))
    }

    /// Lists keys; an error is what cannot be asked. `charge`: for the keys that may come.
    pub fn list(room: Arc<Semaphore>, charge: Charge, store: Store, page: Result<Page, Error>, eventual: bool) -> Self {
        let (kept, asked) = (page.clone().ok(), page);
        let work = async move {
            KvDone::List(match asked {
                Ok(page) => store.list(&page).await,
                Err(error) => Err(error),
            })
        };
        Self { page: kept, eventual, _charge: Some(charge), ..Self::start(KvOperation::List, room, Box::pin(work)) }
    }

    /// Waits until there is a result. Cancel-safe.
    pub async fn ready(&mut self) {
        if self.arrived.is_some() {
            return;
        }
        let Some(arriving) = &mut self.arriving else { return };
        let lost = || Error::Unavailable("its task ended without a result".to_owned());
        let done = arriving.await.unwrap_or_else(|_| match self.operation {
            KvOperation::Lookup => KvDone::Lookup(Err(lost())),
            KvOperation::Insert => KvDone::Insert(Err(lost())),
            KvOperation::Delete => KvDone::Delete(Err(lost())),
            KvOperation::List => KvDone::List(Err(lost())),
        });
        self.arrived = Some(done);
    }

    /// The result, if it is there.
    pub fn result(&self) -> Option<&KvDone> {
        self.arrived.as_ref()
    }
}

/// Least time between writes of one key that may follow each other so often in a second; 0 is as often as they like.
pub fn interval(per_second: u32) -> Duration {
    if per_second == 0 { Duration::ZERO } else { Duration::from_secs(1) / per_second }
}

impl Sandbox {
    /// Keeps an operation that there was room for.
    pub fn add_kv(&mut self, pending: PendingKv) -> Result<Handle<PendingKv>, TableFull> {
        Ok(Handle::from_raw(self.items.insert(AsyncItem::Kv(pending))?.raw()))
    }

    /// Room for an operation, or why there is none: asked for before it begins, so that nothing is written that the guest is
    /// told was not. More than so many wait for each other.
    pub fn kv_room(&mut self) -> Result<Arc<Semaphore>, TableFull> {
        self.items.has_room()?;
        Ok(self.kv_room.get_or_insert_with(|| Arc::new(Semaphore::new(AT_ONCE))).clone())
    }

    /// Waits for an operation of this kind; it stays where it is.
    pub async fn kv(&mut self, handle: Handle<PendingKv>, operation: KvOperation) -> Result<&mut PendingKv, BadHandle> {
        match self.items.get_mut(handle)? {
            AsyncItem::Kv(pending) if pending.operation == operation => {
                pending.ready().await;
                Ok(pending)
            }
            AsyncItem::Kv(_)
            | AsyncItem::Cache(_)
            | AsyncItem::HttpCache(_)
            | AsyncItem::Body(_)
            | AsyncItem::Streaming(..)
            | AsyncItem::Pending(_)
            | AsyncItem::Promise(_) => Err(BadHandle),
        }
    }

    /// Waits for an operation of this kind and takes its result; the handle is dead.
    pub async fn take_kv(&mut self, handle: Handle<PendingKv>, operation: KvOperation) -> Result<Option<KvDone>, BadHandle> {
        let done = self.kv(handle, operation).await?.arrived.take();
        self.end_kv(handle)?;
        Ok(done)
    }

    /// Gives up an operation whose result has been told; the handle is dead.
    pub fn end_kv(&mut self, handle: Handle<PendingKv>) -> Result<(), BadHandle> {
        self.items.take(handle).map(drop)
    }
}
