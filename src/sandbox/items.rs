//! Things a guest can wait for. They share one table, because `async_io::select` takes any of them.

use std::future::poll_fn;
use std::sync::Arc;

use tokio::sync::oneshot;

use super::Sandbox;
use super::handles::{BadHandle, Handle, TableFull};
use crate::http::Body;
use crate::http::body::BodyWriter;
use crate::services::backend::{Backend, Request, Response, SendError};

/// An entry of the shared table.
#[derive(Debug)]
pub enum AsyncItem {
    /// A body that is read, or not yet sent.
    Body(Body),
    /// The write end of a body that is being sent.
    Streaming(BodyWriter),
    /// A request on its way.
    Pending(PendingRequest),
}

/// A request on its way to a backend, worked on by a task of its own.
#[derive(Debug)]
pub struct PendingRequest {
    arriving: oneshot::Receiver<Result<Response, SendError>>,
    arrived: Option<Result<Response, SendError>>,
}

impl PendingRequest {
    /// Starts sending. The work goes on, within the backend's timeouts, even if nobody waits for it.
    pub fn start(backend: Arc<Backend>, request: Request) -> Self {
        let (sender, arriving) = oneshot::channel();
        tokio::spawn(async move {
            // A receiver that is gone means that the guest lost interest.
            let _ = sender.send(backend.send(request).await);
        });
        Self { arriving, arrived: None }
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

    /// The result, waiting for it.
    pub async fn result(mut self) -> Result<Response, SendError> {
        self.ready().await;
        self.arrived.unwrap_or_else(|| Err(SendError::Internal("no result".to_owned())))
    }
}

impl AsyncItem {
    /// Waits until an operation on the item would not block. Cancel-safe.
    pub async fn ready(&mut self) {
        match self {
            Self::Body(body) => body.ready().await,
            Self::Streaming(writer) => writer.ready().await,
            Self::Pending(pending) => pending.ready().await,
        }
    }

    /// Whether an operation on the item would not block.
    pub fn is_ready(&mut self) -> bool {
        is_ready_now(self.ready())
    }
}

fn is_ready_now(ready: impl Future<Output = ()>) -> bool {
    let ready = std::pin::pin!(ready);
    ready.poll(&mut std::task::Context::from_waker(std::task::Waker::noop())).is_ready()
}

impl Sandbox {
    /// Keeps a body.
    pub fn add_body(&mut self, body: Body) -> Result<Handle<Body>, TableFull> {
        Ok(Handle::from_raw(self.items.insert(AsyncItem::Body(body))?.raw()))
    }

    /// A body that can be read.
    pub fn body(&mut self, handle: Handle<Body>) -> Result<&mut Body, BadHandle> {
        match self.items.get_mut(handle)? {
            AsyncItem::Body(body) => Ok(body),
            AsyncItem::Streaming(_) | AsyncItem::Pending(_) => Err(BadHandle),
        }
    }

    /// Takes a body out; the handle is dead. Anything else stays where it is.
    pub fn take_body(&mut self, handle: Handle<Body>) -> Result<Body, BadHandle> {
        self.body(handle)?;
        match self.items.take(handle)? {
            AsyncItem::Body(body) => Ok(body),
            AsyncItem::Streaming(_) | AsyncItem::Pending(_) => Err(BadHandle),
        }
    }

    /// Takes a body to send it while the guest goes on writing: its handle becomes the write end.
    pub fn stream_body(&mut self, handle: Handle<Body>) -> Result<Body, BadHandle> {
        let body = self.body(handle)?;
        let writer = body.open();
        let body = std::mem::take(body);
        *self.items.get_mut(handle)? = AsyncItem::Streaming(writer);
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
            AsyncItem::Body(_) | AsyncItem::Streaming(_) => Err(BadHandle),
        }
    }

    /// Takes a pending request out; the handle is dead. Anything else stays where it is.
    pub fn take_pending(&mut self, handle: Handle<PendingRequest>) -> Result<PendingRequest, BadHandle> {
        self.pending(handle)?;
        match self.items.take(handle)? {
            AsyncItem::Pending(pending) => Ok(pending),
            AsyncItem::Body(_) | AsyncItem::Streaming(_) => Err(BadHandle),
        }
    }

    /// Waits until one of `handles` is ready and gives its position. All of them must be open; none
    /// is consumed. Cancel-safe.
    pub async fn select(&mut self, handles: &[u32]) -> Result<usize, BadHandle> {
        for raw in handles {
            self.items.get(Handle::<AsyncItem>::from_raw(*raw))?;
        }
        poll_fn(|cx| {
            for (index, raw) in handles.iter().enumerate() {
                let Ok(item) = self.items.get_mut(Handle::<AsyncItem>::from_raw(*raw)) else { continue };
                let ready = std::pin::pin!(item.ready());
                if ready.poll(cx).is_ready() {
                    return std::task::Poll::Ready(Ok(index));
                }
            }
            std::task::Poll::Pending
        })
        .await
    }
}
