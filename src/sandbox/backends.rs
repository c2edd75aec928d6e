//! Backends as one sandbox sees them: the service's, and those its guest has made.

use std::sync::Arc;
use std::time::Duration;

use super::Sandbox;
use crate::config;
use crate::services::backend::{Backend, NotAllowed};

/// Why a guest cannot have a backend.
#[derive(Clone, Debug, thiserror::Error)]
pub enum RegisterError {
    /// There is one of that name.
    #[error("there is a backend `{0}` already")]
    NameInUse(String),
    /// It has enough.
    #[error("more than {0} dynamic backends")]
    TooMany(u32),
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
        self.services.backends.get(name).or_else(|| self.dynamic.get(name))
    }

    /// Makes a backend, for this sandbox only.
    pub fn register(&mut self, settings: config::Backend, pooled: bool) -> Result<(), RegisterError> {
        self.add_backend(settings, pooled, false)
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
            self.add_backend(settings, true, true)?;
        }
        Ok(Some(name))
    }

    fn add_backend(&mut self, settings: config::Backend, pooled: bool, trusted: bool) -> Result<(), RegisterError> {
        let name = settings.name.clone();
        if self.own_backend(&name).is_some() {
            return Err(RegisterError::NameInUse(name));
        }
        let before = self.dynamic.len();
        if before >= self.bounds.dynamic as usize {
            return Err(RegisterError::TooMany(self.bounds.dynamic));
        }
        let backend = self.services.backends.dynamic(settings, pooled, trusted).inspect_err(|error| {
            tracing::warn!(target: "sidelight::guest", request_id = self.id(), "{error}");
        })?;
        self.dynamic.insert(name, backend);
        let limit = self.bounds.dynamic_report;
        if before == limit as usize {
            self.meter.many_backends();
            tracing::warn!(target: "sidelight::limits", request_id = self.id(), limit, "more dynamic backends than production allows");
        }
        Ok(())
    }
}
