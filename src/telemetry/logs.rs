//! The process log: human text or JSON lines on standard error.
//!
//! A line that cannot be written (its reader is gone, the disk is full) is lost and counted. It is nobody's failure: no
//! request and no shutdown may depend on who reads the log.

use std::io::{self, IsTerminal as _, Write};
use std::sync::atomic::{AtomicU64, Ordering};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::FmtSpan;

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Starts logging. `verbosity` is the number of `-v`; `filter` (as `RUST_LOG`) wins over it.
pub fn start(verbosity: u8, format: Format, filter: Option<&str>) {
    let default = match verbosity {
        0 => "warn,sidelight=info",
        // pingora tells of its own waits, which are not ours.
        1 => "info,pingora_core=warn",
        2 => "info,pingora_core=warn,sidelight=debug,wiggle=off",
        // WASI's own spans would be in front of every line of a guest's output.
        _ => "debug,sidelight=trace,wiggle=off,wasmtime_wasi=info",
    };
    let filter = filter.map_or_else(|| EnvFilter::new(default), EnvFilter::new);
    let colours = io::stderr().is_terminal();
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(|| Lossy)
        // Those would go where the line could not go.
        .log_internal_errors(false)
        .with_ansi(colours)
        .with_span_events(FmtSpan::NONE);
    // A second start (tests) keeps the first.
    let _ = match format {
        Format::Text => builder.try_init(),
        Format::Json => builder.json().flatten_event(true).try_init(),
    };
}

static LOST: AtomicU64 = AtomicU64::new(0);

/// Lines that could not be written.
pub fn lost() -> u64 {
    LOST.load(Ordering::Relaxed)
}

/// Says something on standard error, if that can be.
pub fn say(text: &str) {
    drop(Lossy.write_all(text.as_bytes()));
}

/// Standard error, whether or not it takes anything.
struct Lossy;

impl Write for Lossy {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if io::stderr().lock().write_all(line).is_err() {
            LOST.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
