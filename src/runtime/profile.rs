//! What guests spend their CPU time on: samples of their stacks at every tick, one file for each sandbox, in the format of
//! Firefox's profiler (profiler.firefox.com loads it).

use std::fs::{self, File};
use std::io::BufWriter;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use wasmtime::{AsContext, Engine, GuestProfiler};

use super::Guest;
use crate::config::host::GuestProfiles;
use crate::telemetry::clock;

/// A profile that is being recorded. It is written when this is dropped: however the guest ends.
pub struct Recording {
    profiler: Sampler,
    path: PathBuf,
}

/// Takes samples.
#[derive(Clone)]
pub struct Sampler {
    profiler: Arc<Mutex<Option<GuestProfiler>>>,
    interval: Duration,
}

impl Recording {
    /// Of a sandbox whose first request is `id`.
    pub fn begin(engine: &Engine, guest: &Guest, profiles: &GuestProfiles, id: &str) -> Option<Self> {
        let module = guest.program.pre.module().clone();
        let name = guest.digest()[..16].to_owned();
        let made = GuestProfiler::new(engine, &name, profiles.interval, [(name.clone(), module)]);
        let profiler = made.inspect_err(|error| tracing::warn!(%error, "no profile can be recorded")).ok()?;
        let path = match profiles.single {
            true => profiles.path.clone(),
            false => profiles.path.join(format!("{}-{id}.json", clock::unix().as_millis())),
        };
        Some(Self { profiler: Sampler { profiler: Arc::new(Mutex::new(Some(profiler))), interval: profiles.interval }, path })
    }

    /// What takes its samples.
    pub fn sampler(&self) -> Sampler {
        self.profiler.clone()
    }
}

impl Sampler {
    /// Notes where the guest is.
    pub fn sample(&self, store: impl AsContext) {
        if let Some(profiler) = &mut *self.profiler.lock() {
            profiler.sample(store, self.interval);
        }
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        let Some(profiler) = self.profiler.profiler.lock().take() else { return };
        let folder = self.path.parent().map_or(Ok(()), fs::create_dir_all);
        let written = folder.and_then(|()| File::create(&self.path)).map_err(wasmtime::Error::from);
        if let Err(error) = written.and_then(|file| profiler.finish(BufWriter::new(file))) {
            tracing::warn!(file = %self.path.display(), %error, "a profile could not be written");
        }
    }
}
