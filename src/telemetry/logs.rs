//! The process log: human text or JSON lines on standard error.

use std::io::IsTerminal as _;

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
        1 => "info",
        2 => "info,sidelight=debug",
        _ => "debug,sidelight=trace",
    };
    let filter = filter.map_or_else(|| EnvFilter::new(default), EnvFilter::new);
    let colours = std::io::stderr().is_terminal();
    let builder =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(colours).with_span_events(FmtSpan::NONE);
    // A second start (tests) keeps the first.
    let _ = match format {
        Format::Text => builder.try_init(),
        Format::Json => builder.json().flatten_event(true).try_init(),
    };
}
