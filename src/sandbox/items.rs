//! Things a guest can wait for. They share one table, because `async_io::select` takes any of them.

use std::future::poll_fn;
use std::sync::Arc;

use ::http::{HeaderMap, HeaderName, HeaderValue};
use futures_util::future::BoxFuture;
use tokio::sync::oneshot;

use super::cache::CacheEntry;
use super::handles::{BadHandle, Handle, TableFull};
use super::kv::PendingKv;
use super::{Charge, DownstreamResponse, GuestRequest, Reply, RequestPromise, Responder, Sandbox};
use crate::http::Body;
use crate::http::body::BodyWriter;
use crate::services::backend::{Backend, Response, SendError};
use crate::services::http_cache::Transaction;

/// An entry of the shared table.
#[derive(Debug)]
pub enum AsyncItem {
    /// A body that is read, or not yet sent.
    Body(Body),
    /// The write end of a body that is being sent, and what is charged for the object of the cache that it is of.
    Streaming(BodyWriter, Option<Charge>),
    /// A request on its way.
    Pending(PendingRequest),
    /// A further request from a client.
    Promise(RequestPromise),
    /// An operation of a KV store.
    Kv(PendingKv),
    /// A lookup in the core cache.
    Cache(Box<CacheEntry>),
    /// A lookup of a response.
    HttpCache(Box<(Transaction, Charge)>),
}

/// A request on its way to a backend, worked on by a task of its own.
#[derive(Debug)]
pub struct PendingRequest {
    /// Where it goes.
    pub backend: Arc<Backend>,
    arriving: oneshot::Receiver<Result<Response, SendError>>,
    arrived: Option<Result<Response, SendError>>,
    /// Changes to the head that goes to the client, if this is sent there as it comes.
    pub edits: Edits,
}

/// A change to a head that is not here yet.
#[derive(Clone, Debug)]
pub enum Edit {
    /// Replaces a field.
    Insert(HeaderName, HeaderValue),
    /// Adds to a field.
    Append(HeaderName, HeaderValue),
    /// Removes a field.
    Remove(HeaderName),
}

impl Edit {
    /// Makes the change. A head that has no room stays as it is.
    pub fn apply(self, headers: &mut HeaderMap) {
        // Too many fields are refused when the head is read or sent.
        match self {
            Self::Insert(name, value) => drop(headers.try_insert(name, value)),
            Self::Append(name, value) => drop(headers.try_append(name, value)),
            Self::Remove(name) => drop(headers.remove(name)),
        }
    }
}

/// What a change is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EditTarget {
    /// Whatever the client gets.
    Any,
    /// The backend's response.
    Response,
    /// The host's own answer, if the backend fails.
    Error,
}

/// Changes in the order they were asked for.
#[derive(Debug, Default)]
pub struct Edits(Vec<(EditTarget, Edit)>);

impl Edits {
    /// One more.
    pub fn push(&mut self, target: EditTarget, edit: Edit) {
        self.0.push((target, edit));
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Those for `target`.
    fn of(self, target: EditTarget) -> impl Iterator<Item = Edit> {
        self.0.into_iter().filter(move |(given, _)| *given == EditTarget::Any || *given == target).map(|(_, edit)| edit)
    }
}

impl PendingRequest {
    /// Starts sending. The work goes on, within the backend's timeouts, even if nobody waits for it.
    pub fn start(backend: Arc<Backend>, work: impl Future<Output = Result<Response, SendError>> + Send + 'static) -> Self {
        let (sender, arriving) = oneshot::channel();
        // In a box: what is awaited would otherwise have two places in the task, the one it comes in and the one it is run in.
        let work = Box::pin(work);
        tokio::spawn(async move {
            // A receiver that is gone means that the guest lost interest.
            let _ = sender.send(work.await);
        });
        Self { backend, arriving, arrived: None, edits: Edits::default() }
    }

    /// Waits until there is a result. Cancel-safe.
    pub async fn ready(&mut self) {
        if self.arrived.is_none() {
            let result = (&mut self.arriving).await;
            self.arrived =
                Some(result.unwrap_or_else(|_| Err(SendError::Internal("the request's task ended without a result".to_owned()))));
        }
    }

    /// Whether there is a result.
    pub fn is_ready(&mut self) -> bool {
        is_ready_now(self.ready())
    }

    /// Gives the result to the client when it comes. The guest may end before that.
    pub fn forward(mut self, responder: Responder) {
        tokio::spawn(async move {
            let edits = std::mem::take(&mut self.edits);
            let reply = match self.result().await {
                Ok(Response { mut head, body, .. }) => {
                    edits.of(EditTarget::Response).for_each(|edit| edit.apply(&mut head.headers));
                    Reply::Final(DownstreamResponse { head, body, close: false })
                }
                Err(error) => Reply::Failed { error, edits: edits.of(EditTarget::Error).collect() },
            };
            // A client that is gone needs no answer.
            drop(responder.send(reply));
        });
    }

    /// The result, waiting for it.
    pub async fn result(mut self) -> Result<Response, SendError> {
        self.ready().await;
        self.arrived.unwrap_or_else(|| Err(SendError::Internal("no result".to_owned())))
    }
}

impl AsyncItem {
    /// Waits until an operation on the item would not block. `free`: the guest may get a further
    /// request now. Cancel-safe.
    async fn ready(&mut self, free: bool) {
        match self {
            Self::Body(body) => body.ready().await,
            Self::Streaming(writer, _) => writer.ready().await,
            Self::Pending(pending) => pending.ready().await,
            Self::Promise(promise) => promise.ready(free).await,
            Self::Kv(pending) => pending.ready().await,
            Self::Cache(entry) => entry.lookup.ready().await,
            Self::HttpCache(held) => held.0.ready().await,
        }
    }
}

fn is_ready_now(ready: impl Future<Output = ()>) -> bool {
    let ready = std::pin::pin!(ready);
    ready.poll(&mut std::task::Context::from_waker(std::task::Waker::noop())).is_ready()
}

/// A request from a client, as its guest holds it.
pub type Incoming = (Handle<GuestRequest>, Handle<Body>);

impl Sandbox {
    /// Gives the client's request and its body to the guest, once.
    pub fn take_incoming(&mut self) -> Result<Option<Incoming>, TableFull> {
        let Some(incoming) = self.incoming.take() else { return Ok(None) };
        let received = Some(incoming.received);
        let request = self.requests.insert(GuestRequest { head: incoming.head, received, ..GuestRequest::default() })?;
        Ok(Some((request, self.add_body(incoming.body)?)))
    }

    /// Keeps a body.
    pub fn add_body(&mut self, body: Body) -> Result<Handle<Body>, TableFull> {
        Ok(Handle::from_raw(self.items.insert(AsyncItem::Body(body))?.raw()))
    }

    /// A body that can be read.
    pub fn body(&mut self, handle: Handle<Body>) -> Result<&mut Body, BadHandle> {
        match self.items.get_mut(handle)? {
            AsyncItem::Body(body) => Ok(body),
            _ => Err(BadHandle),
        }
    }

    /// Takes a body out; the handle is dead. Anything else stays where it is.
    pub fn take_body(&mut self, handle: Handle<Body>) -> Result<Body, BadHandle> {
        self.body(handle)?;
        match self.items.take(handle)? {
            AsyncItem::Body(body) => Ok(body),
            _ => Err(BadHandle),
        }
    }

    /// Takes a body to send it while the guest goes on writing: its handle becomes the write end.
    pub fn stream_body(&mut self, handle: Handle<Body>) -> Result<Body, BadHandle> {
        let body = self.body(handle)?;
        let writer = body.open();
        let body = std::mem::take(body);
        *self.items.get_mut(handle)? = AsyncItem::Streaming(writer, None);
        Ok(body)
    }

    /// Keeps a pending request.
    pub fn add_pending(&mut self, pending: PendingRequest) -> Result<Handle<PendingRequest>, TableFull> {
        Ok(Handle::from_raw(self.items.insert(AsyncItem::Pending(pending))?.raw()))
    }

    /// A pending request.
    pub fn pending(&mut self, handle: Handle<PendingRequest>) -> Result<&mut PendingRequest, BadHandle> {
        match self.items.get_mut(handle)? {
            AsyncItem::Pending(pending) => Ok(pending),
            _ => Err(BadHandle),
        }
    }

    /// Takes a pending request out; the handle is dead. Anything else stays where it is.
    pub fn take_pending(&mut self, handle: Handle<PendingRequest>) -> Result<PendingRequest, BadHandle> {
        self.pending(handle)?;
        match self.items.take(handle)? {
            AsyncItem::Pending(pending) => Ok(pending),
            _ => Err(BadHandle),
        }
    }

    /// Whether an operation on the item would not block.
    pub fn is_ready(&mut self, handle: Handle<AsyncItem>) -> Result<bool, BadHandle> {
        let free = self.is_free();
        Ok(is_ready_now(self.items.get_mut(handle)?.ready(free)))
    }

    /// Waits until one of `handles` is ready and gives the position of the first that is. All of
    /// them must be open; none is consumed. Cancel-safe.
    pub async fn select(&mut self, handles: &[u32]) -> Result<usize, BadHandle> {
        let free = self.is_free();
        if let [only] = handles
            && free
            && matches!(self.items.get(Handle::<AsyncItem>::from_raw(*only)), Ok(AsyncItem::Promise(_)))
        {
            self.rest();
        }
        // The futures live as long as the wait does: the timers in them must.
        let mut waits: Vec<(usize, BoxFuture<'_, ()>)> = Vec::with_capacity(handles.len());
        for (item, index) in self.items.get_many_mut(handles)? {
            waits.push((index, Box::pin(item.ready(free))));
        }
        waits.sort_unstable_by_key(|(index, _)| *index);
        poll_fn(|cx| match waits.iter_mut().find_map(|(index, wait)| wait.as_mut().poll(cx).is_ready().then_some(*index)) {
            Some(index) => std::task::Poll::Ready(Ok(index)),
            None => std::task::Poll::Pending,
        })
        .await
    }
}
