//! WASI preview 1 for guests: arguments, environment, clocks, random numbers, and standard output
//! and error that go to the process log line by line. No files, no sockets, nothing inherited.

use std::sync::{Arc, LazyLock};
use std::time::Instant;

use bytes::Bytes;
use rand::Rng;
use tokio::io::AsyncWrite;
use wasmtime::error::Context as _;
use wasmtime::{Caller, Extern, Linker, Memory, ensure};
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p1::wasi_snapshot_preview1::{self, WasiSnapshotPreview1 as _};
use wasmtime_wasi::p1::{self, WasiP1Ctx};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamResult};
use wasmtime_wasi::{HostMonotonicClock, WasiCtxBuilder, async_trait};
use wiggle::GuestMemory;

use super::Snapshot;
use super::execute::Stay;
use crate::abi::{GuestState, Wasi};
use crate::config::Config;
use crate::config::host::Environment;
use crate::sandbox::Current;
use crate::telemetry::trace::record::Service;
use crate::telemetry::{clock, logs};

/// `argv[0]`.
const PROGRAM: &str = "compute-app";

/// Longest line kept together.
const MAX_LINE: usize = 16 << 10;

/// Most that a program gets of `random_get` at once, in bytes; more is a trap.
const MAX_RANDOM: usize = 64 << 20;

/// Most that a program waits for at once, in `poll_oneoff`; more is `inval`. Each takes memory of the host, for as long as it waits.
const MAX_POLL: u32 = 1024;

/// More than so many of them and of their answers have, in bytes.
const POLL_BYTES: usize = 128 << 10;

// Of the witx documents: `errno` and `clockid`.
const SUCCESS: u32 = 0;
const BAD_DESCRIPTOR: u32 = 8;
const INVALID: u32 = 28;
const OVERFLOW: u32 = 61;
const REALTIME: u32 = 0;
const MONOTONIC: u32 = 1;
const PROCESS_CPU_TIME: u32 = 2;
const THREAD_CPU_TIME: u32 = 3;

/// Links all of WASI preview 1.
pub fn link(linker: &mut Linker<GuestState>) -> wasmtime::Result<()> {
    p1::add_to_linker_async(linker, |state| state.wasi.get())?;
    linker.allow_shadowing(true);
    linker.func_wrap("wasi_snapshot_preview1", "random_get", random_get)?;
    linker.func_wrap("wasi_snapshot_preview1", "clock_time_get", clock_time_get)?;
    linker.func_wrap_async("wasi_snapshot_preview1", "poll_oneoff", |caller, call| Box::new(poll_oneoff(caller, call)))?;
    linker.allow_shadowing(false);
    Ok(())
}

/// Random numbers without a context: every Rust program asks for some, for its hash maps, and most of them for nothing else of WASI.
/// A pointer out of memory, or one that is not aligned, is a trap here, as the witx documents have it.
fn random_get(mut caller: Caller<'_, GuestState>, ptr: u32, len: u32) -> wasmtime::Result<u32> {
    ensure!(len as usize <= MAX_RANDOM, "random_get of {len} bytes; at most {MAX_RANDOM} are given at once");
    rand::rng().fill_bytes(memory(&mut caller, "random_get", ptr, len as usize)?);
    Ok(SUCCESS)
}

/// The clocks without a context: programs of every language read them, and most that do ask WASI for nothing else but random numbers.
fn clock_time_get(mut caller: Caller<'_, GuestState>, clock: u32, _precision: u64, time: u32) -> wasmtime::Result<u32> {
    let now = match clock {
        REALTIME => clock::unix().as_nanos(),
        MONOTONIC => Monotonic.now().into(),
        PROCESS_CPU_TIME | THREAD_CPU_TIME => return Ok(BAD_DESCRIPTOR),
        _ => return Ok(INVALID),
    };
    let Ok(now) = u64::try_from(now) else { return Ok(OVERFLOW) };
    ensure!((time as usize).is_multiple_of(size_of_val(&now)), "clock_time_get to {time:#x}, which is not aligned");
    memory(&mut caller, "clock_time_get", time, size_of_val(&now))?.copy_from_slice(&now.to_le_bytes());
    Ok(SUCCESS)
}

/// WASI's own, for no more than a program has use for.
async fn poll_oneoff(
    mut caller: Caller<'_, GuestState>,
    (subscriptions, events, count, told): (u32, u32, u32, u32),
) -> wasmtime::Result<u32> {
    if count > MAX_POLL {
        return Ok(INVALID);
    }
    let memory = memory_of(&mut caller, "poll_oneoff")?;
    let (bytes, state) = memory.data_and_store_mut(&mut caller);
    let context = state.wasi.get();
    context.set_hostcall_fuel(POLL_BYTES);
    let [subscriptions, events, count, told] = [subscriptions, events, count, told].map(u32::cast_signed);
    let polled =
        wasi_snapshot_preview1::poll_oneoff(context, &mut GuestMemory::Unshared(bytes), subscriptions, events, count, told).await?;
    Ok(polled.cast_unsigned())
}

/// A module's start function runs before its memory is known to us.
fn memory_of(caller: &mut Caller<'_, GuestState>, call: &str) -> wasmtime::Result<Memory> {
    let memory = caller.data().memory.or_else(|| caller.get_export("memory").and_then(Extern::into_memory));
    memory.with_context(|| format!("{call} in a program without a memory"))
}

/// What a program's call has to fill.
fn memory<'a>(caller: &'a mut Caller<'_, GuestState>, call: &str, ptr: u32, len: usize) -> wasmtime::Result<&'a mut [u8]> {
    let memory = memory_of(caller, call)?;
    let begin = ptr as usize;
    let end = begin.saturating_add(len);
    memory.data_mut(caller).get_mut(begin..end).with_context(|| format!("{call} to {begin:#x}..{end:#x}, which is not in memory"))
}

/// The monotonic clock of all programs: nanoseconds since this process came to run the first, and one more, since Go's runtime takes none
/// for a clock that does not work.
struct Monotonic;

static BEGUN: LazyLock<Instant> = LazyLock::new(clock::now);

impl HostMonotonicClock for Monotonic {
    fn resolution(&self) -> u64 {
        1
    }

    fn now(&self) -> u64 {
        // 584 years.
        u64::try_from(clock::now().saturating_duration_since(*BEGUN).as_nanos()).unwrap_or(u64::MAX - 1) + 1
    }
}

/// The `FASTLY_*` variables that are the same for every request of a service.
pub fn variables(environment: &Environment, config: &Config) -> Arc<[(String, String)]> {
    let text = |value: &str| value.to_owned();
    [
        ("FASTLY_CUSTOMER_ID", text(&environment.customer_id)),
        ("FASTLY_HOSTNAME", text(&environment.hostname)),
        ("FASTLY_IS_STAGING", text(if environment.staging { "1" } else { "0" })),
        ("FASTLY_NAMESPACE_ID", text(&config.service_id)),
        ("FASTLY_POP", text(&environment.pop)),
        ("FASTLY_REGION", text(&environment.region)),
        ("FASTLY_SERVICE_ID", text(&config.service_id)),
        ("FASTLY_SERVICE_VERSION", environment.service_version.to_string()),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value))
    .collect()
}

/// WASI for a sandbox whose first request is `id`, and which works on `current`. Where the process has arguments for it, the
/// program is run by itself: its output is the process's.
pub fn context(stay: &Arc<Stay>, generation: u64, id: &Arc<str>, current: &Current) -> Wasi {
    let (stay, id, current) = (stay.clone(), id.clone(), current.clone());
    Wasi::later(move || made(&stay.snapshot, generation, &id, &current, stay.runtime.arguments.as_deref()))
}

fn made(snapshot: &Snapshot, generation: u64, id: &str, current: &Current, arguments: Option<&[String]>) -> WasiP1Ctx {
    let mut builder = WasiCtxBuilder::new();
    builder
        // The one that `clock_time_get` shows.
        .monotonic_clock(Monotonic)
        .envs(&snapshot.guest.variables)
        .env("FASTLY_TRACE_ID", id.replace('-', ""))
        .env("FASTLY_CACHE_GENERATION", generation.to_string());
    match arguments {
        None => {
            let lines = |name| LogLines { name, service: snapshot.traced.clone(), current: current.clone(), unfinished: Vec::new() };
            builder.arg(PROGRAM).stdout(lines("stdout")).stderr(lines("stderr"))
        }
        Some(arguments) => builder.args(arguments).inherit_stdout().inherit_stderr(),
    };
    builder.build_p1()
}

/// A stream whose lines become log records.
#[derive(Clone)]
struct LogLines {
    name: &'static str,
    service: Arc<Service>,
    current: Current,
    unfinished: Vec<u8>,
}

impl LogLines {
    fn take(&mut self, bytes: &[u8]) {
        for piece in bytes.split_inclusive(|b| *b == b'\n') {
            self.unfinished.extend_from_slice(piece);
            if piece.ends_with(b"\n") || self.unfinished.len() > MAX_LINE {
                self.emit();
            }
        }
    }

    fn emit(&mut self) {
        let text = String::from_utf8_lossy(&self.unfinished);
        let text = text.trim_end_matches(['\n', '\r']);
        if !text.is_empty() {
            let trace_id = self.current.trace_id().map(tracing::field::display);
            let service = &self.service.name;
            tracing::info!(target: "sidelight::guest", service, stream = self.name, request_id = &*self.current.id(), trace_id, "{}", logs::one_line(text));
        }
        self.unfinished.clear();
    }
}

impl Drop for LogLines {
    fn drop(&mut self) {
        self.emit();
    }
}

impl IsTerminal for LogLines {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for LogLines {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(self.clone())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

impl OutputStream for LogLines {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.take(&bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(64 << 10)
    }
}

#[async_trait]
impl Pollable for LogLines {
    async fn ready(&mut self) {}
}

impl AsyncWrite for LogLines {
    fn poll_write(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
        bytes: &[u8],
    ) -> std::task::Poll<std::io::Result<usize>> {
        self.take(bytes);
        std::task::Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: std::pin::Pin<&mut Self>, _: &mut std::task::Context<'_>) -> std::task::Poll<std::io::Result<()>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: std::pin::Pin<&mut Self>, _: &mut std::task::Context<'_>) -> std::task::Poll<std::io::Result<()>> {
        std::task::Poll::Ready(Ok(()))
    }
}
