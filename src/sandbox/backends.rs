//! Backends as one sandbox sees them: the service's, and those its guest has made.

use std::sync::Arc;
use std::time::Duration;

use super::{Sandbox, TooMuchHeld};
use crate::config;
use crate::services::backend::{Backend, NotAllowed};

/// What a backend costs beside its settings.
const BACKEND: usize = 8 << 10;

/// Why a guest cannot have a backend.
#[derive(Clone, Debug, thiserror::Error)]
pub enum RegisterError {
    /// There is one of that name.
    #[error("there is a backend `{0}` already")]
    NameInUse(String),
    /// It has enough.
    #[error("more than {0} dynamic backends")]
    TooMany(u32),
    /// There is no memory for it.
    #[error(transparent)]
    Held(#[from] TooMuchHeld),
    /// It may not point there.
    #[error(transparent)]
    NotAllowed(#[from] NotAllowed),
}

impl Sandbox {
    /// The backend of that name, the guest's own included; or the one that stands for all other names.
    pub fn backend(&self, name: &str) -> Option<&Arc<Backend>> {
        self.own_backend(name).or_else(|| self.services.backends.get(self.config.catch_all.as_deref()?))
    }

    fn own_backend(&self, name: &str) -> Option<&Arc<Backend>> {
        self.services.backends.get(name).or_else(|| self.dynamic.get(name).map(|(backend, _)| backend))
    }

    /// Makes a backend, for this sandbox only. Its settings have so many bytes.
    pub fn register(&mut self, settings: config::Backend, pooled: bool, bytes: usize) -> Result<(), RegisterError> {
        self.add_backend(settings, pooled, false, bytes)
    }

    /// The backend of a shield, for this sandbox only: made now or before. `None`: the URL is no shield's.
    pub fn shield(
        &mut self,
        url: &str,
        first_byte: Option<Duration>,
        between_bytes: Option<Duration>,
    ) -> Result<Option<String>, RegisterError> {
        let Some(settings) = self.services.shields.backend(url, first_byte, between_bytes) else { return Ok(None) };
        let name = settings.name.clone();
        if !self.dynamic.contains_key(&name) {
            self.add_backend(settings, true, true, 0)?;
        }
        Ok(Some(name))
    }

    fn add_backend(&mut self, settings: config::Backend, pooled: bool, trusted: bool, bytes: usize) -> Result<(), RegisterError> {
        let name = settings.name.clone();
        if self.own_backend(&name).is_some() {
            return Err(RegisterError::NameInUse(name));
        }
        let before = self.dynamic.len();
        if before >= self.bounds.dynamic as usize {
            return Err(RegisterError::TooMany(self.bounds.dynamic));
        }
        // Certificates are kept as they come, and as they are understood.
        let charge = self.account.charge(BACKEND + 2 * bytes)?;
        let backend = self.services.backends.dynamic(settings, pooled, trusted).inspect_err(|error| {
            tracing::warn!(target: "sidelight::guest", service = self.config.name, request_id = self.id(), "{error}");
        })?;
        self.dynamic.insert(name, (backend, charge));
        let limit = self.bounds.dynamic_report;
        if before == limit as usize {
            self.meter.many_backends();
            tracing::warn!(target: "sidelight::limits", service = self.config.name, request_id = self.id(), limit, "more dynamic backends than production allows");
        }
        Ok(())
    }
}
