//! Waiting for a further request in the same sandbox (abi.md "next_request").

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::downstream::{Delivery, NextRequests, Wait};
use super::items::AsyncItem;
use super::{BadHandle, Handle, Sandbox, TableFull};

/// A request that may come. It can arrive only while the guest looks for it: a guest that is busy
/// elsewhere, or has not answered the request before, keeps no client waiting.
pub struct RequestPromise {
    source: Arc<dyn NextRequests>,
    state: State,
    deadline: Instant,
}

enum State {
    /// Nobody has looked yet.
    New,
    Waiting(Wait),
    Here(Delivery),
    Over,
}

impl std::fmt::Debug for RequestPromise {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let state = match &self.state {
            State::New => "new",
            State::Waiting(_) => "waiting",
            State::Here(_) => "here",
            State::Over => "over",
        };
        f.debug_struct("RequestPromise").field("state", &state).finish()
    }
}

impl RequestPromise {
    fn new(source: Arc<dyn NextRequests>, timeout: Option<Duration>) -> Self {
        let longest = source.patience();
        let deadline = Instant::now() + timeout.map_or(longest, |timeout| timeout.min(longest));
        Self { source, state: State::New, deadline }
    }

    /// Waits until a request is here or none will come. `free`: the guest may get one now. Cancel-safe.
    pub async fn ready(&mut self, free: bool) {
        if let State::New = self.state
            && free
        {
            self.state = self.source.wait().map_or(State::Over, State::Waiting);
        }
        match &mut self.state {
            State::New => {
                tokio::time::sleep_until(self.deadline).await;
                self.state = State::Over;
            }
            State::Waiting(Wait { request: arriving, .. }) => {
                self.state = match timeout_at(self.deadline, &mut *arriving).await {
                    Ok(Ok(delivery)) => State::Here(delivery),
                    Ok(Err(_)) => State::Over,
                    Err(_) => {
                        // One that arrived at the last moment is taken all the same.
                        arriving.close();
                        arriving.try_recv().map_or(State::Over, State::Here)
                    }
                };
            }
            State::Here(_) | State::Over => {}
        }
    }
}

/// Why a promise cannot be had or kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NextError {
    /// There is one already.
    #[error("the guest waits for a request already")]
    Outstanding,
    /// The request before has no answer yet.
    #[error("the request before has not been answered")]
    Unanswered,
    /// No such promise.
    #[error(transparent)]
    Handle(#[from] BadHandle),
    /// Too many handles.
    #[error(transparent)]
    Full(#[from] TableFull),
}

impl Sandbox {
    /// Whether the guest may get a further request.
    pub(super) fn is_free(&self) -> bool {
        self.responder.is_none()
    }

    /// Prepares to wait for a request, no longer than `timeout`.
    pub fn promise(&mut self, timeout: Option<Duration>) -> Result<Handle<RequestPromise>, NextError> {
        if self.promise.is_some_and(|handle| self.items.get(handle).is_ok()) {
            return Err(NextError::Outstanding);
        }
        let promise = RequestPromise::new(self.next.clone(), timeout);
        let handle = Handle::from_raw(self.items.insert(AsyncItem::Promise(promise))?.raw());
        self.promise = Some(handle);
        Ok(handle)
    }

    /// Gives a promise up; a request that came in the meantime goes to another sandbox.
    pub fn abandon_promise(&mut self, handle: Handle<RequestPromise>) -> Result<(), NextError> {
        self.look_at_promise(handle)?;
        self.items.take(handle)?;
        self.promise = None;
        Ok(())
    }

    fn look_at_promise(&mut self, handle: Handle<RequestPromise>) -> Result<&mut RequestPromise, BadHandle> {
        match self.items.get_mut(handle)? {
            AsyncItem::Promise(promise) => Ok(promise),
            AsyncItem::Body(_)
            | AsyncItem::Streaming(..)
            | AsyncItem::Pending(_)
            | AsyncItem::Kv(_)
            | AsyncItem::Cache(_)
            | AsyncItem::HttpCache(_) => Err(BadHandle),
        }
    }

    /// Waits for the promised request, if it comes, and makes it the current and incoming one. The
    /// promise is gone either way.
    pub async fn next_request(&mut self, handle: Handle<RequestPromise>) -> Result<(), NextError> {
        self.look_at_promise(handle)?;
        if !self.is_free() {
            return Err(NextError::Unanswered);
        }
        self.rest();
        self.look_at_promise(handle)?.ready(true).await;
        self.promise = None;
        self.incoming = None;
        let AsyncItem::Promise(RequestPromise { state: State::Here(delivery), .. }) = self.items.take(handle)? else {
            return Ok(());
        };
        let Some(parcel) = delivery.take() else { return Ok(()) };
        self.next.turn(&self.received, &self.meter);
        self.turn(&parcel.request);
        self.incoming = Some(parcel.request);
        self.responder = Some(parcel.responder);
        Ok(())
    }
}
