//! What a lookup gives: an object, the duty to write one, or the wait for somebody who has it.

use std::sync::Arc;
use std::time::Duration;

use ::http::HeaderMap;
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::Error;
use super::content;
use super::key::{Key, VaryRule};
use super::object::{Object, Phase, Place, StoredHead, WriteOptions};
use super::space::Space;
use super::store::Store;
use crate::http::Body;
use crate::http::body::BodyWriter;

/// An object that was found.
#[derive(Debug)]
pub struct Found {
    pub(super) object: Arc<Object>,
    /// How good it was then.
    pub phase: Phase,
    /// How often it has been used, this time included; 0: it is new.
    pub hits: u64,
    age: Duration,
    /// Keeps what is being written readable from its beginning.
    place: Mutex<Option<content::Place>>,
}

impl Found {
    pub(super) fn new(object: Arc<Object>, phase: Phase, hits: u64, now: u64) -> Self {
        let age = object.age_at(now);
        let place = object.content.get().is_none().then(|| object.content.place());
        Self { object, phase, hits, age, place: Mutex::new(place) }
    }

    /// The object.
    pub fn object(&self) -> Arc<Object> {
        self.object.clone()
    }

    /// How it was written.
    pub fn options(&self) -> &WriteOptions {
        &self.object.options
    }

    /// How old it was when it was found.
    pub fn age(&self) -> Duration {
        self.age
    }

    /// How many bytes it has, if that is known by now.
    pub fn length(&self) -> Option<u64> {
        self.object.content.length()
    }

    /// Its length once all of it is there; `None`: it has failed. Waits.
    pub async fn whole(&self) -> Option<u64> {
        self.object.content.ended().await
    }

    /// Whether all of it is there.
    pub fn is_whole(&self) -> bool {
        self.object.content.get().is_some()
    }

    /// Its bytes from `at` on, before `end` if that is given.
    pub fn body(&self, at: u64, end: Option<u64>) -> Body {
        let place = self.place.lock().take().unwrap_or_else(|| self.object.content.place());
        place.read(at, end)
    }

    /// The head of the response that it is.
    pub fn head(&self) -> Option<&StoredHead> {
        self.object.options.head.as_ref()
    }

    /// Bytes of its writer's own.
    pub fn user_metadata(&self) -> &Bytes {
        &self.object.options.user_metadata
    }

    /// The same object, found as often.
    pub fn again(&self) -> Self {
        let place = (!self.is_whole()).then(|| self.object.content.place());
        Self { object: self.object.clone(), phase: self.phase, hits: self.hits, age: self.age, place: Mutex::new(place) }
    }
}

/// The duty to write an object, while others may wait for it. Dropped, it goes to the next who waits.
pub struct Obligation {
    store: Arc<Store>,
    key: Key,
    flight: u64,
    headers: Arc<HeaderMap>,
    space: Arc<Space>,
    generation: u64,
    about: Arc<str>,
    armed: bool,
}

impl std::fmt::Debug for Obligation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Obligation").field("about", &self.about).field("flight", &self.flight).finish_non_exhaustive()
    }
}

impl Obligation {
    pub(super) fn new(store: Arc<Store>, key: Key, flight: u64, headers: Arc<HeaderMap>, space: Arc<Space>, about: Arc<str>) -> Self {
        let generation = space.generation();
        Self { store, key, flight, headers, space, generation, about, armed: true }
    }

    /// Takes its duty away; gives the flight.
    pub(super) fn disarm(&mut self) -> u64 {
        self.armed = false;
        self.flight
    }

    fn place(&self, vary: &VaryRule) -> Place {
        Place {
            key: self.key,
            variant: vary.variant(&self.headers),
            space: self.space.clone(),
            generation: self.generation,
            about: self.about.clone(),
        }
    }

    /// Begins an object: others read it as it is written.
    pub fn insert(mut self, options: WriteOptions) -> Result<(BodyWriter, Found), Error> {
        let place = self.place(&options.vary);
        let begun = self.store.begin(place, options, Some(self.flight));
        let (filler, object) = begun.ok_or(Error::Gone)?;
        self.armed = false;
        let found = Found::new(object, Phase::Fresh, 0, self.store.now());
        Ok((BodyWriter::into_sink(Box::new(filler)), found))
    }

    /// Writes everything about an object anew but its bytes. Of one that has broken off, there is nothing to go on with;
    /// the duty goes to the next who waits.
    pub fn update(mut self, base: &Arc<Object>, options: WriteOptions) -> Result<Found, Error> {
        if base.content.has_failed() {
            return Err(Error::NotFound);
        }
        let object = self.store.renew(base, self.place(&options.vary), options, self.flight);
        self.armed = false;
        Ok(Found::new(object.clone(), Phase::Fresh, object.hit(), self.store.now()))
    }

    /// Gives all who wait, and the one who asked, what there was before.
    pub fn choose_stale(mut self, object: &Arc<Object>) -> Found {
        self.armed = false;
        self.store.choose(&self.key, self.flight, object)
    }

    /// Has requests like this one do without the cache.
    pub fn record_uncacheable(mut self, max_age: Duration, vary: VaryRule) {
        self.armed = false;
        self.store.mark(self.place(&vary), max_age, vary, self.flight);
    }
}

impl Drop for Obligation {
    fn drop(&mut self) {
        if self.armed {
            self.store.cancel(&self.key, self.flight);
        }
    }
}

/// What there is for a request.
#[derive(Debug, Default)]
pub struct Outcome {
    /// An object that may be used.
    pub found: Option<Found>,
    /// One that may be asked about, or used if nothing else can be had.
    pub stale: Option<Arc<Object>>,
    /// Whether that may be used in case of an error; with `found`: whether that is the case.
    pub stale_if_error: bool,
    /// The duty to write one.
    pub obligation: Option<Obligation>,
    /// Whether requests like this do without the cache.
    pub pass: bool,
}

/// A lookup that may have to wait for somebody else.
#[derive(Debug)]
pub struct Lookup {
    /// For the outcome, until it is there.
    waiting: Option<oneshot::Receiver<Outcome>>,
    outcome: Box<Outcome>,
}

impl From<Result<Outcome, oneshot::Receiver<Outcome>>> for Lookup {
    fn from(asked: Result<Outcome, oneshot::Receiver<Outcome>>) -> Self {
        match asked {
            Ok(outcome) => outcome.into(),
            Err(receiver) => Self { waiting: Some(receiver), outcome: Box::default() },
        }
    }
}

impl From<Outcome> for Lookup {
    fn from(outcome: Outcome) -> Self {
        Self { waiting: None, outcome: Box::new(outcome) }
    }
}

impl Lookup {
    /// Waits until there is an outcome. Cancel-safe.
    pub async fn ready(&mut self) {
        if let Some(receiver) = &mut self.waiting {
            // Nobody settles it any more only when the store is gone: a miss.
            *self.outcome = receiver.await.unwrap_or_default();
            self.waiting = None;
        }
    }

    /// The outcome, waiting for it.
    pub async fn outcome(&mut self) -> &mut Outcome {
        self.ready().await;
        &mut self.outcome
    }

    /// Whether it has to be waited for.
    pub fn is_waiting(&self) -> bool {
        self.waiting.is_some()
    }
}
