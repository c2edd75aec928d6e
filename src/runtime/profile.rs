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

/// A profile of all sandboxes of one program, for a while.
pub struct Session {
    digest: String,
    profiler: Sampler,
}

impl Session {
    /// Begins one.
    pub fn begin(engine: &Engine, guest: &Guest, interval: Duration) -> wasmtime::Result<Self> {
        let module = guest.program.pre.module().clone();
        let name = guest.digest()[..16].to_owned();
        let profiler = GuestProfiler::new(engine, &name, interval, [(name.clone(), module)])?;
        let profiler = Sampler { profiler: Arc::new(Mutex::new(Some(profiler))), interval };
        Ok(Self { digest: guest.digest().to_owned(), profiler })
    }

    /// What takes samples of a program, if it is that of this one.
    pub fn sampler(&self, digest: &str) -> Option<&Sampler> {
        (self.digest == digest).then_some(&self.profiler)
    }

    /// What was recorded.
    pub fn finish(&self) -> wasmtime::Result<Vec<u8>> {
        let profiler = self.profiler.profiler.lock().take().ok_or_else(|| wasmtime::Error::msg("it is finished already"))?;
        let mut profile = Vec::new();
        profiler.finish(&mut profile)?;
        Ok(profile)
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
