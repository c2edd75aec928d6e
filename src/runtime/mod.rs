//! Running guests: the engine, loading modules, one execution from instantiation to outcome.
//!
//! [`Runtime::admit`] waits for a free sandbox, [`Runtime::start`] runs a guest in a task of its
//! own. Nothing here knows HTTP connections.

pub mod code_cache;
pub mod engine;
pub mod execute;
pub mod guest;
pub mod snapshot;
pub mod wasi;

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use wasmtime::{Engine, Linker};

use crate::abi::GuestState;
use crate::config::HostConfig;
use crate::config::host::{Environment, Limits, UnknownImports};
use crate::hostcalls;
use crate::telemetry::Telemetry;

pub use execute::Outcome;
pub use guest::{Guest, LoadError};
pub use snapshot::{Current, Snapshot};

/// What every guest of the process shares.
pub struct Runtime {
    engine: Engine,
    linker: Linker<GuestState>,
    sandboxes: Arc<Semaphore>,
    limits: Limits,
    environment: Environment,
    unknown_imports: UnknownImports,
    cache: Option<code_cache::CodeCache>,
    telemetry: Telemetry,
    /// Where guests go that compute for long; always there until this is dropped.
    heavy: Option<tokio::runtime::Runtime>,
}

/// No sandbox came free in time.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("no sandbox came free in time")]
pub struct Overloaded;

/// The runtime cannot start.
#[derive(Debug, thiserror::Error)]
#[error("starting the wasm engine: {0:#}")]
pub struct EngineError(#[from] wasmtime::Error);

impl Runtime {
    /// The engine with its pool of sandboxes, and the linked ABI.
    pub fn new(config: &HostConfig, telemetry: &Telemetry) -> Result<Self, EngineError> {
        let heavy = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(config.threads.max(1))
            .thread_name("heavy guests")
            .enable_all()
            .build()
            .map_err(|error| wasmtime::Error::msg(format!("starting threads for heavy guests: {error}")))?;
        let engine = engine::build(&config.limits)?;
        engine::tick(&engine)?;
        let mut linker = Linker::new(&engine);
        hostcalls::link_all(&mut linker, telemetry)?;
        wasi::link(&mut linker)?;
        Ok(Self {
            engine,
            linker,
            sandboxes: Arc::new(Semaphore::new(config.limits.sandboxes as usize)),
            limits: config.limits.clone(),
            environment: config.environment.clone(),
            unknown_imports: config.unknown_imports,
            cache: config.cache_dir.as_deref().and_then(code_cache::CodeCache::open),
            telemetry: telemetry.clone(),
            heavy: Some(heavy),
        })
    }

    /// Waits, within the queue timeout, until a sandbox is free.
    pub async fn admit(&self) -> Result<OwnedSemaphorePermit, Overloaded> {
        if let Ok(permit) = self.sandboxes.clone().try_acquire_owned() {
            return Ok(permit);
        }
        match tokio::time::timeout(self.limits.queue_timeout, self.sandboxes.clone().acquire_owned()).await {
            Ok(Ok(permit)) => Ok(permit),
            Ok(Err(_)) | Err(_) => Err(Overloaded),
        }
    }

    /// Sandboxes that are free.
    pub fn free(&self) -> usize {
        self.sandboxes.available_permits()
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        // Dropping it would block, which asynchronous code must not.
        if let Some(heavy) = self.heavy.take() {
            heavy.shutdown_background();
        }
    }
}
