//! A service at one moment: settings, platform and guest together. A request pins the snapshot it
//! starts with and keeps it to its last byte.

use std::sync::Arc;

use arc_swap::ArcSwap;

use super::Guest;
use super::reuse::Waiting;
use crate::config::Config;
use crate::services::Services;

/// One generation of a service. Immutable.
pub struct Snapshot {
    /// Counts up with every change.
    pub generation: u64,
    /// Settings.
    pub config: Arc<Config>,
    /// Platform.
    pub services: Arc<Services>,
    /// Program.
    pub guest: Guest,
    /// Its guests that wait for another request.
    pub waiting: Waiting,
}

/// The snapshot that new requests get.
pub struct Current(ArcSwap<Snapshot>);

impl Current {
    /// Starts with `snapshot`.
    pub fn new(snapshot: Snapshot) -> Self {
        Self(ArcSwap::from_pointee(snapshot))
    }

    /// The snapshot for one request.
    pub fn pin(&self) -> Arc<Snapshot> {
        self.0.load_full()
    }
}
