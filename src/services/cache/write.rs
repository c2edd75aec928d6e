//! Writing an object: what a guest writes, or a backend sends, goes into it, and readers follow.

use std::sync::Arc;

use ::http::HeaderMap;
use async_trait::async_trait;
use bytes::Bytes;

use super::content::Content;
use super::store::Store;
use crate::http::BodyError;
use crate::http::body::{BodySink, ReaderGone};

/// What one service may have of what is being written, unless that is one object: another one's stalled origins are its
/// own affair.
const SHARE: (u64, u64) = (3, 4);

/// Who writes an object. Dropped before the end, it fails the object.
pub(super) struct Filler {
    store: Arc<Store>,
    content: Arc<Content>,
    over: bool,
}

impl Filler {
    pub(super) fn new(store: Arc<Store>, content: Arc<Content>) -> Self {
        Self { store, content, over: false }
    }

    /// The object is not to be found any more.
    fn withdraw(&self) {
        if let Some(object) = self.content.object() {
            self.store.fail(&object);
        }
    }

    fn give_up(&mut self, error: BodyError) {
        if !self.over {
            self.over = true;
            self.content.fail(error);
            self.withdraw();
        }
    }

    /// Whether `more` bytes would be too many to keep.
    fn is_too_much(&self, more: u64) -> Option<&'static str> {
        let limits = &self.store.limits;
        if self.content.size() + more > limits.object {
            return Some("an object larger than may be cached");
        }
        if self.store.in_flight.get() + more > limits.memory {
            return Some("more is being written than the cache has room for");
        }
        let (own, others) = self.content.in_flight();
        if others > 0 && own + others + more > limits.memory / SHARE.1 * SHARE.0 {
            return Some("its service writes more than its share of the cache");
        }
        None
    }

    /// Goes on without being kept, for those who read it.
    fn detach(&self, why: &str) {
        let object = self.content.object();
        let about = object.as_ref().map(|object| &*object.about);
        tracing::info!(target: "sidelight::cache", about, why, "not kept");
        self.store.telemetry.metrics.cache_refusals.inc();
        self.content.detach();
        self.withdraw();
    }
}

#[async_trait]
impl BodySink for Filler {
    fn has_room(&self, bytes: usize) -> bool {
        self.over || !self.content.is_detached() && self.is_too_much(bytes as u64).is_none()
    }

    async fn push(&mut self, bytes: Bytes, may_wait: bool) -> Result<(), ReaderGone> {
        if self.over {
            return Err(ReaderGone);
        }
        if !self.content.is_detached()
            && let Some(why) = self.is_too_much(bytes.len() as u64)
        {
            self.detach(why);
            if !may_wait {
                // Whoever reads it may be who writes it: it would wait for itself.
                self.give_up(BodyError::Incomplete(why.to_owned()));
                return Err(ReaderGone);
            }
        }
        if self.content.is_detached() && !self.content.room().await {
            self.over = true;
            self.content.fail(BodyError::Incomplete("nobody reads it any more".to_owned()));
            return Err(ReaderGone);
        }
        if self.content.push(bytes) {
            return Ok(());
        }
        self.over = true;
        self.withdraw();
        Err(ReaderGone)
    }

    fn end(mut self: Box<Self>, trailers: Option<Box<HeaderMap>>) {
        if self.over {
            return;
        }
        self.over = true;
        let detached = self.content.is_detached();
        if !self.content.finish(trailers) {
            self.withdraw();
        } else if !detached && let Some(object) = self.content.object() {
            self.store.keep(&object);
        }
    }

    fn fail(mut self: Box<Self>, error: BodyError) {
        self.give_up(error);
    }
}

impl Drop for Filler {
    fn drop(&mut self) {
        self.give_up(BodyError::Incomplete("whoever wrote it gave up".to_owned()));
    }
}
