//! What operators are told of attempts to change what is served, and of what is in force.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::config::diagnostics::Report;
use crate::runtime::Runtime;
use crate::services::Platform;
use crate::telemetry::logs::{self, Format};

/// What became of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// In force.
    Ok,
    /// Everything is as it was.
    Unchanged,
    /// Nothing was changed.
    Failed,
}

/// An attempt to change what is served, as operators are told of it.
#[derive(Clone, Debug, Serialize)]
pub struct Verdict {
    /// What became of it.
    pub result: Outcome,
    /// What made us try: `start`, `signal`, `files`, `request`, `poll`, `trial`, `expiry`, `kubernetes`, `prepared`.
    pub cause: &'static str,
    /// The generation in force afterwards.
    pub generation: u64,
    /// Services that are new or not as they were.
    pub changed: Vec<String>,
    /// Of those, the ones that take only some of the requests at first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub on_trial: Vec<String>,
    /// Services whose newest generation has failed its trial: the one before answers.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub rejected: Vec<String>,
    /// Services that are gone.
    pub removed: Vec<String>,
    /// Services that come and go whose files cannot be used: what was there before, if anything, answers.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub faulty: Vec<ServiceFault>,
    /// Services that come and go whose programs are got ready: what was there before, if anything, answers until they are.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub preparing: Vec<String>,
    /// Settings that differ and take effect only at the next start.
    pub restart_needed: Vec<&'static str>,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The same, fault by fault, when documents are at fault.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<Report>,
    /// When it began, in seconds since the epoch.
    pub at: u64,
    /// How long it took.
    pub ms: u64,
}

/// A service that comes and goes, and cannot be used.
#[derive(Clone, Debug, Serialize)]
pub struct ServiceFault {
    /// Its name.
    pub service: String,
    /// What is wrong.
    pub error: String,
    /// The same, fault by fault, when documents are at fault.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<Report>,
}

/// A service, for operators.
#[derive(Clone, Debug, Serialize)]
pub struct ServiceStatus {
    /// Its name.
    pub name: String,
    /// The generation it came with.
    pub generation: u64,
    /// Hosts; none: every one.
    pub hosts: Vec<String>,
    /// Paths; none: every one.
    pub paths: Vec<String>,
    /// Header fields that its requests have.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
    /// When it is served no longer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires: Option<String>,
    /// Where its program is from.
    pub module: String,
    /// SHA-256 of its program.
    pub digest: String,
    /// How it fares, while the one before still takes some requests.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trial: Option<TrialStatus>,
}

/// A generation on trial, for operators.
#[derive(Clone, Debug, Serialize)]
pub struct TrialStatus {
    /// Of a hundred requests.
    pub percent: u8,
    /// Its answers so far.
    pub answered: u64,
    /// How many of them failed.
    pub failed: u64,
    /// Until it takes over.
    pub seconds_left: u64,
    /// SHA-256 of the program that takes the other requests.
    pub stable_digest: String,
}

/// What this process cannot do now.
pub fn away(platform: &Platform, runtime: &Runtime) -> Vec<String> {
    [platform.degraded(), runtime.degraded()].concat()
}

/// What is in force, for operators.
#[derive(Clone, Debug, Serialize)]
pub struct Status {
    /// Version of this host.
    pub version: &'static str,
    /// Counts what came into force.
    pub generation: u64,
    /// Whether the last attempt is not in force.
    pub degraded: bool,
    /// What state is kept in and cannot be used now, and other parts that have failed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub away: Vec<String>,
    /// Seconds since the start.
    pub uptime: u64,
    /// What is served.
    pub services: Vec<ServiceStatus>,
    /// Services that come and go whose newest files cannot be used.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub faulty: Vec<ServiceFault>,
    /// Services that come and go whose programs are got ready.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub preparing: Vec<String>,
    /// Services whose time is over, and since when.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub expired: BTreeMap<String, String>,
    /// Attempts, the last first.
    pub reloads: Vec<Verdict>,
}

/// As the reloader's own.
const TARGET: &str = "sidelight::app::reload";

impl Verdict {
    /// What came of it and of a later attempt, for whoever waits for both.
    #[must_use]
    pub fn and(mut self, later: Self) -> Self {
        let add = |to: &mut Vec<String>, more: Vec<String>| {
            more.into_iter().for_each(|name| {
                if !to.contains(&name) {
                    to.push(name);
                }
            })
        };
        self.result = match (self.result, later.result) {
            (Outcome::Failed, _) | (_, Outcome::Failed) => Outcome::Failed,
            (Outcome::Ok, _) | (_, Outcome::Ok) => Outcome::Ok,
            (Outcome::Unchanged, Outcome::Unchanged) => Outcome::Unchanged,
        };
        add(&mut self.changed, later.changed);
        add(&mut self.on_trial, later.on_trial);
        add(&mut self.removed, later.removed);
        self.error = self.error.or(later.error);
        self.problems.extend(later.problems);
        self.ms = later.at.saturating_sub(self.at) * 1000 + later.ms;
        Self { generation: later.generation, rejected: later.rejected, faulty: later.faulty, preparing: later.preparing, ..self }
    }

    /// Says in the log what came of it; `well`: what is served is what the files say.
    pub fn log(&self, well: bool) {
        let Self { generation, cause, ms, .. } = *self;
        let error = self.error.as_deref().unwrap_or_default();
        match self.result {
            Outcome::Failed if cause == "start" => {}
            Outcome::Failed if cause == "trial" => tracing::error!(target: TARGET, generation, "{error}"),
            Outcome::Failed => {
                const WHAT: &str = "the new configuration cannot be used; the last good one serves on";
                match logs::format() {
                    // Fields would stand behind the last of several lines.
                    Format::Text => tracing::error!(target: TARGET, "{WHAT} (cause: {cause}, generation {generation})\n{error}"),
                    Format::Json => tracing::error!(target: TARGET, cause, generation, "{WHAT}\n{error}"),
                }
            }
            Outcome::Unchanged if matches!(cause, "poll" | "prepared") => {
                tracing::debug!(target: TARGET, cause, generation, ms, "nothing has changed")
            }
            Outcome::Unchanged if !self.preparing.is_empty() => {
                let services = self.preparing.join(", ");
                tracing::info!(target: TARGET, cause, generation, ms, services, "programs are got ready; what was served is served on until they are");
            }
            Outcome::Unchanged if !self.faulty.is_empty() => {
                let services = self.faulty.iter().map(|fault| fault.service.as_str()).collect::<Vec<_>>().join(", ");
                tracing::info!(target: TARGET, cause, generation, ms, services, "nothing else to change: these cannot be used");
            }
            Outcome::Unchanged if well => {
                tracing::info!(target: TARGET, cause, generation, ms, "nothing to change: what the files say is what is served");
            }
            Outcome::Unchanged => {
                tracing::info!(target: TARGET, cause, generation, ms, "nothing has changed since a generation was taken back");
            }
            Outcome::Ok => {
                let (changed, removed) = (self.changed.join(", "), self.removed.join(", "));
                tracing::info!(target: TARGET, cause, generation, changed, removed, ms, "configuration in force");
            }
        }
        if !self.restart_needed.is_empty() {
            tracing::warn!(target: TARGET, "changed, and in force only after a restart: {}", self.restart_needed.join(", "));
        }
    }
}
