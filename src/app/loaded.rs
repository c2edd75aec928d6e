//! What is in force of a service.

use std::sync::Arc;
use std::time::Instant;

use super::load::ServicePlan;
use super::prepare::Wanted;
use crate::config::Config;
use crate::runtime::{Snapshot, Target, Trial};

/// Answers after which a trial that fails is ended early.
const ENOUGH: u64 = 10;

/// A service in force, and what it was made of.
#[derive(Clone)]
pub struct Loaded {
    pub plan: ServicePlan,
    /// Of the files that its settings name.
    pub files: [u8; 32],
    /// Of the program's file, if it is one.
    pub source: Option<[u8; 32]>,
    pub snapshot: Arc<Snapshot>,
    /// When it is new and not all requests are its yet.
    pub trial: Option<OnTrial>,
    /// What was tried after it and taken back: it is not tried again.
    pub rejected: Option<Made>,
}

/// What a generation is made of.
#[derive(Clone, PartialEq)]
pub struct Made {
    pub config: Config,
    pub files: [u8; 32],
    pub digest: String,
}

/// A trial of a generation.
#[derive(Clone)]
pub struct OnTrial {
    pub trial: Arc<Trial>,
    pub until: Instant,
    pub max_failed_percent: u8,
    /// Who answers the other requests, and takes over again if it fails.
    pub stable: Arc<Loaded>,
}

impl OnTrial {
    /// Whether it has failed more often than it may. `over`: few answers will do.
    pub fn has_failed(&self, over: bool) -> bool {
        let (answered, failed) = self.trial.counts();
        let enough = answered >= ENOUGH || (over && answered > 0);
        enough && failed * 100 > u64::from(self.max_failed_percent) * answered
    }
}

impl Loaded {
    pub fn made(&self) -> Made {
        Made { config: self.plan.config.clone(), files: self.files, digest: self.snapshot.guest.digest().to_owned() }
    }

    /// Whether it was made from that. (What a reference in a registry leads to may have changed.)
    pub fn is_as(&self, wanted: &Wanted) -> bool {
        self.plan.config == wanted.config && self.files == wanted.files && self.plan.module == wanted.module && self.source == wanted.source
    }

    pub fn target(&self) -> Target {
        match &self.trial {
            None => self.snapshot.clone().into(),
            Some(trial) => Target { stable: trial.stable.snapshot.clone(), candidate: Some(self.snapshot.clone()) },
        }
    }
}
