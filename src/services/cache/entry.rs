//! An entry of the store: the objects of one key, who writes, who waits, and what all that says to a request.

use std::collections::VecDeque;
use std::sync::Arc;

use ::http::HeaderMap;
use smallvec::SmallVec;
use tokio::sync::oneshot;

use super::key::{Variant, VaryRule};
use super::lookup::Outcome;
use super::object::{Object, Phase};
use super::space::Space;

/// Vary rules that one entry remembers, the latest first.
pub const MAX_RULES: usize = 8;

/// Variants that one entry has; the oldest makes room.
pub const MAX_VARIANTS: usize = 128;

/// An entry: objects of one key.
#[derive(Default)]
pub(super) struct Slot {
    /// The latest first.
    pub(super) rules: SmallVec<[VaryRule; 1]>,
    pub(super) objects: SmallVec<[Arc<Object>; 1]>,
    /// Who has been asked to write an object.
    pub(super) flights: SmallVec<[Flight; 1]>,
    pub(super) waiters: VecDeque<Waiter>,
}

pub(super) struct Flight {
    pub(super) id: u64,
    pub(super) variant: Variant,
}

pub(super) struct Waiter {
    pub(super) headers: Arc<HeaderMap>,
    pub(super) asked: Asked,
    pub(super) about: Arc<str>,
    pub(super) outcome: oneshot::Sender<Outcome>,
}

/// What somebody wants of an entry.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    pub(super) space: Arc<Space>,
    /// Whether what is past its time is of use: to be revalidated, or if there is an error.
    pub(super) stale: bool,
    /// Whether an object is to be replaced, however fresh it is.
    pub(super) replaces: bool,
}

/// What an entry says to a request.
pub(super) enum Verdict {
    /// Use this; `leads`: and get a new one.
    Found { object: Arc<Object>, leads: bool },
    /// Get one. What there is: to be revalidated, replaced, or used if that fails.
    Lead { stale: Option<Arc<Object>> },
    /// Do without the cache.
    Pass,
    /// Somebody is getting one.
    Wait,
}

impl Slot {
    pub(super) fn is_empty(&self) -> bool {
        self.objects.is_empty() && self.flights.is_empty() && self.waiters.is_empty()
    }

    /// The variants that would do for a request, of the latest rule first.
    pub(super) fn variants(&self, headers: &HeaderMap) -> SmallVec<[Variant; 2]> {
        if self.rules.is_empty() {
            return SmallVec::from_elem(VaryRule::default().variant(headers), 1);
        }
        self.rules.iter().map(|rule| rule.variant(headers)).collect()
    }

    /// The youngest object that would do for a request.
    pub(super) fn youngest(&self, variants: &[Variant], now: u64) -> Option<&Arc<Object>> {
        let fitting = self.objects.iter().filter(|object| variants.contains(&object.variant) && !object.is_gone());
        fitting.min_by_key(|object| object.age_at(now))
    }

    pub(super) fn verdict(&self, headers: &HeaderMap, asked: &Asked, now: u64) -> Verdict {
        let variants = self.variants(headers);
        let best = self.youngest(&variants, now);
        let phase = best.map_or(Phase::Stale, |object| object.phase_at(now));
        let in_flight = || self.flights.iter().any(|flight| variants.contains(&flight.variant));
        if asked.replaces {
            let usable = best.filter(|object| !object.pass && phase <= Phase::WhileRevalidating);
            return if in_flight() { Verdict::Wait } else { Verdict::Lead { stale: usable.cloned() } };
        }
        match (best, phase) {
            (Some(object), Phase::Fresh) if object.pass => Verdict::Pass,
            (Some(object), Phase::Fresh) => Verdict::Found { object: object.clone(), leads: false },
            (Some(object), Phase::WhileRevalidating) if !object.pass => Verdict::Found { object: object.clone(), leads: !in_flight() },
            _ if in_flight() => Verdict::Wait,
            (Some(object), _) if asked.stale && !object.pass => Verdict::Lead { stale: Some(object.clone()) },
            _ => Verdict::Lead { stale: None },
        }
    }

    /// A rule that objects follow is the latest from now on. What no rule leads to any more is given.
    pub(super) fn remember(&mut self, rule: &VaryRule) -> Vec<Arc<Object>> {
        if let Some(at) = self.rules.iter().position(|known| known == rule) {
            self.rules[..=at].rotate_right(1);
            return Vec::new();
        }
        self.rules.insert(0, rule.clone());
        if self.rules.len() <= MAX_RULES {
            return Vec::new();
        }
        let Some(forgotten) = self.rules.pop() else { return Vec::new() };
        let (lost, kept): (Vec<_>, Vec<_>) = self.objects.drain(..).partition(|object| object.options.vary == forgotten);
        self.objects = kept.into();
        lost
    }
}
