//! Why a response was, or was not, from the cache, or stored in it: the latest requests, for people who ask.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::policy::{Action, Reason};
use crate::services::cache::{Cache, Key, Outcome, Phase, WriteOptions};
use crate::telemetry::trace::{Origin, Trace};

/// How many requests are remembered.
const REMEMBERED: usize = 1000;

/// Decisions of all services, the latest last.
#[derive(Debug, Default)]
pub struct Decisions(Mutex<VecDeque<Record>>);

/// What the cache said to a lookup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// A response that is fresh.
    Hit,
    /// One past its time, while somebody gets a new one.
    Stale,
    /// One past its time, since none can be had.
    StaleIfError,
    /// None.
    Miss,
    /// One past its time, to be revalidated first.
    Revalidate,
    /// The cache is not to be asked.
    Pass,
}

impl Answer {
    /// As operators and metrics have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::Stale => "stale",
            Self::StaleIfError => "stale-if-error",
            Self::Miss => "miss",
            Self::Revalidate => "revalidate",
            Self::Pass => "pass",
        }
    }
}

/// What was decided about one request.
#[derive(Clone, Debug)]
pub struct Record {
    /// When, since the Unix epoch.
    pub at: Duration,
    /// The service.
    pub service: Arc<str>,
    /// The request of the client that it was made for.
    pub request_id: Arc<str>,
    /// Method and address.
    pub about: Arc<str>,
    /// Whether the guest drove the cache itself.
    pub by_guest: bool,
    /// The entry.
    pub key: Option<Key>,
    /// What the cache said; `None`: nobody waited for it.
    pub lookup: Option<Answer>,
    /// Whether it waited for another request like it.
    pub waited: bool,
    /// Age of what was found.
    pub age: Option<Duration>,
    /// What was done with the response, and why.
    pub action: Option<(Action, Reason)>,
    /// How it was stored.
    pub stored: Option<Stored>,
}

/// How a response was stored.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "as the options of a write")]
pub struct Stored {
    pub max_age: Duration,
    pub initial_age: Duration,
    pub stale_while_revalidate: Duration,
    pub stale_if_error: Duration,
    pub vary: String,
    pub surrogate_keys: String,
}

/// A decision that is being made. It is remembered when it is dropped.
#[derive(Debug)]
pub struct Decision {
    record: Option<(Arc<Decisions>, Box<Record>)>,
    trace: Option<Arc<Trace>>,
    pub(super) key: Option<Key>,
    pub(super) waited: bool,
    pub(super) lookup: Option<Answer>,
}

impl Decisions {
    /// The latest, oldest first, that `wanted` takes.
    pub fn latest(&self, most: usize, wanted: impl Fn(&Record) -> bool) -> Vec<Record> {
        let all = self.0.lock();
        let mut found: Vec<_> = all.iter().rev().filter(|record| wanted(record)).take(most).cloned().collect();
        found.reverse();
        found
    }

    /// Remembers one.
    pub fn push(&self, record: Record) {
        let mut all = self.0.lock();
        if all.len() >= REMEMBERED {
            all.pop_front();
        }
        all.push_back(record);
    }
}

/// Whose decision it is.
#[derive(Clone, Debug)]
pub struct Asker {
    /// The service.
    pub service: Arc<str>,
    /// The request of the client.
    pub request_id: Arc<str>,
    /// Where it is remembered.
    pub decisions: Arc<Decisions>,
    /// Its trace, if it has one.
    pub origin: Option<Origin>,
}

impl Decision {
    /// One about a request.
    pub fn new(asker: &Asker, about: Arc<str>, by_guest: bool) -> Self {
        let record = Record {
            at: crate::telemetry::clock::unix(),
            service: asker.service.clone(),
            request_id: asker.request_id.clone(),
            about,
            by_guest,
            key: None,
            lookup: None,
            waited: false,
            age: None,
            action: None,
            stored: None,
        };
        let trace = asker.origin.as_ref().map(|origin| origin.trace.clone());
        Self { record: Some((asker.decisions.clone(), Box::new(record))), trace, key: None, waited: false, lookup: None }
    }

    /// One that nobody is told.
    pub fn none() -> Self {
        Self { record: None, trace: None, key: None, waited: false, lookup: Some(Answer::Hit) }
    }

    fn change(&mut self, change: impl FnOnce(&mut Record)) {
        if let Some((_, record)) = &mut self.record {
            change(record);
        }
    }

    pub(super) fn note_lookup(&mut self, cache: &Cache, outcome: &Outcome) {
        let answer = match (&outcome.found, &outcome.stale, outcome.pass) {
            (_, _, true) => Answer::Pass,
            (Some(_), _, _) if outcome.stale_if_error => Answer::StaleIfError,
            (Some(found), _, _) if found.phase == Phase::Fresh => Answer::Hit,
            (Some(_), _, _) => Answer::Stale,
            (None, Some(_), _) => Answer::Revalidate,
            (None, None, _) => Answer::Miss,
        };
        self.lookup = Some(answer);
        let counted = match answer {
            Answer::Hit => "hit",
            Answer::Stale | Answer::StaleIfError => "stale",
            Answer::Miss | Answer::Revalidate => "miss",
            Answer::Pass => "pass",
        };
        cache.count("http", counted);
        let age = outcome.found.as_ref().map(|found| found.age());
        self.change(|record| record.age = age);
    }

    pub(super) fn note_action(&mut self, action: Action, reason: Reason) {
        self.change(|record| {
            // What the guest does with a response follows from what the response says, or replaces it.
            if record.action.is_none_or(|(known, _)| known != action) {
                record.action = Some((action, reason));
            }
        });
    }

    pub(super) fn note_options(&mut self, options: &WriteOptions) {
        self.change(|record| {
            record.stored = Some(Stored {
                max_age: options.max_age,
                initial_age: options.initial_age,
                stale_while_revalidate: options.stale_while_revalidate,
                stale_if_error: options.stale_if_error,
                vary: options.vary.to_string(),
                surrogate_keys: options.surrogate_keys.to_string(),
            });
        });
    }

    pub(super) fn note_stale_if_error(&mut self) {
        self.lookup = Some(Answer::StaleIfError);
    }
}

impl Drop for Decision {
    fn drop(&mut self) {
        if let Some((decisions, mut record)) = self.record.take() {
            record.key = self.key;
            record.lookup = self.lookup;
            record.waited = self.waited;
            if let (Some(trace), Some(answer)) = (&self.trace, self.lookup) {
                trace.looked(&record.about, answer.name(), record.action.map(|(action, reason)| (action.name(), reason.text())));
            }
            decisions.push(*record);
        }
    }
}
