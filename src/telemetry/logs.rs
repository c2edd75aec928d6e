//! The process log: human text or JSON lines on standard error.
//!
//! A line that cannot be written (its reader is gone, the disk is full) is lost and counted. It is nobody's failure: no
//! request and no shutdown may depend on who reads the log.

use std::borrow::Cow;
use std::io::{self, IsTerminal as _, Write};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::secrets;
use super::trace::spans;
use crate::config::diagnostics::misleads;
use parking_lot::Mutex;
use tracing_log::{AsLog as _, log};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::format::FmtSpan;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _, Registry, reload};

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// What is logged, and how to change that.
struct Filter {
    text: Mutex<String>,
    /// As it was at the start.
    first: String,
    format: Format,
    handle: reload::Handle<EnvFilter, Registry>,
}

static FILTER: OnceLock<Filter> = OnceLock::new();

/// Starts logging. `verbosity` is the number of `-v`; `filter` (as `RUST_LOG`) wins over it.
pub fn start(verbosity: u8, format: Format, filter: Option<&str>) {
    let default = match verbosity {
        // Spans of the host's own work are for traces.
        0 => "warn,sidelight=info,sidelight::host=off",
        // pingora tells of its own waits, which are not ours.
        1 => "info,pingora_core=warn,sidelight::host=off",
        2 => "info,pingora_core=warn,sidelight=debug,sidelight::host=off,wiggle=off",
        // WASI's own spans would be in front of every line of a guest's output.
        _ => "debug,sidelight=trace,sidelight::host=off,wiggle=off,wasmtime_wasi=info",
    };
    let text = filter.unwrap_or(default).to_owned();
    let (filter, handle) = reload::Layer::new(EnvFilter::new(without_own_echo(&text)));
    let colours = io::stderr().is_terminal();
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(|| Records)
        // Those would go where the line could not go.
        .log_internal_errors(false)
        .with_ansi(colours)
        .with_span_events(FmtSpan::NONE);
    let lines = match format {
        Format::Text => lines.with_filter(filter).boxed(),
        Format::Json => lines.json().flatten_event(true).with_filter(filter).boxed(),
    };
    // A second start (tests) keeps the first.
    if tracing_subscriber::registry().with(lines).with(spans::layer()).try_init().is_ok() {
        drop(FILTER.set(Filter { first: text.clone(), text: Mutex::new(text), format, handle }));
    }
}

/// A filter without what a line of a log file beside the manifest would itself cause: an event of the watched folder, which is a line again.
fn without_own_echo(filter: &str) -> String {
    if filter.contains("notify") { filter.to_owned() } else { format!("{filter},notify=off") }
}

/// How lines look.
pub fn format() -> Format {
    FILTER.get().map_or(Format::Text, |filter| filter.format)
}

/// A text as a line of the log may have it: in JSON as it is; as text without breaks, behind which anything could be made to look like a line
/// of its own, without what moves a terminal's cursor, and without what turns the direction of reading.
pub fn one_line(text: &str) -> Cow<'_, str> {
    match format() {
        Format::Text => unmisleading(text, |letter| match letter {
            '\n' => "\\n".to_owned(),
            '\r' => "\\r".to_owned(),
            other => other.escape_unicode().to_string(),
        }),
        Format::Json => Cow::Borrowed(text),
    }
}

/// A text whose letters that would mislead a reader of lines are written as `escape` has them.
pub(super) fn unmisleading(text: &str, escape: impl Fn(char) -> String) -> Cow<'_, str> {
    if !text.contains(misleads) {
        return Cow::Borrowed(text);
    }
    Cow::Owned(text.chars().fold(String::with_capacity(text.len() + 16), |mut shown, letter| {
        if misleads(letter) {
            shown.push_str(&escape(letter))
        } else {
            shown.push(letter)
        }
        shown
    }))
}

/// What is logged.
pub fn filter() -> String {
    FILTER.get().map(|filter| filter.text.lock().clone()).unwrap_or_default()
}

/// Changes what is logged, from now on: as `RUST_LOG` says it.
pub fn set_filter(text: &str) -> Result<(), String> {
    let filter = FILTER.get().ok_or("this process has no log of its own")?;
    let text = if text == "default" { &filter.first } else { text };
    let plain = |part: &str| !part.trim().is_empty() && !part.trim().contains(char::is_whitespace);
    if !text.split(',').all(plain) {
        return Err("a filter is a list of levels, and of TARGET=LEVEL".to_owned());
    }
    let parsed = EnvFilter::builder().parse(without_own_echo(text)).map_err(|error| error.to_string())?;
    filter.handle.reload(parsed).map_err(|error| error.to_string())?;
    // What libraries write with `log` comes no further than this.
    log::set_max_level(LevelFilter::current().as_log());
    text.clone_into(&mut filter.text.lock());
    Ok(())
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

/// What is logged, one record at a time. Lines of one that has several are indented, but for the first: no text that is told looks like a record
/// of its own. Values of secret stores are not in it.
struct Records;

impl Write for Records {
    fn write(&mut self, record: &[u8]) -> io::Result<usize> {
        let shown = std::str::from_utf8(record).map(secrets::hidden).unwrap_or_default();
        let shown = if shown.is_empty() { record } else { shown.as_bytes() };
        match shown.split_last().filter(|(_, text)| text.contains(&b'\n')) {
            Some((b'\n', text)) => {
                let lines: Vec<&[u8]> = text.split(|byte| *byte == b'\n').collect();
                Lossy.write_all(&[&lines.join(&b"\n  "[..]), &b"\n"[..]].concat())?;
            }
            _ => Lossy.write_all(shown)?,
        }
        Ok(record.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Standard error, whether or not it takes anything.
struct Lossy;

/// Whether the last line got no further than into its middle.
static TORN: AtomicBool = AtomicBool::new(false);

impl Write for Lossy {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if put(&mut io::stderr().lock(), line, &TORN).is_err() {
            LOST.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes a line. One that is torn (the disk is full) ends before the next one begins, so that it spoils no other.
fn put(out: &mut impl Write, line: &[u8], torn: &AtomicBool) -> io::Result<()> {
    if torn.load(Ordering::Relaxed) {
        out.write_all(b"\n")?;
        torn.store(false, Ordering::Relaxed);
    }
    let mut left = line;
    while !left.is_empty() {
        match out.write(left) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(taken) => {
                left = &left[taken..];
                torn.store(!left.is_empty(), Ordering::Relaxed);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file on a disk that has room for so many bytes.
    struct File {
        has: Vec<u8>,
        room: usize,
    }

    impl Write for File {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let taken = bytes.len().min(self.room - self.has.len());
            if taken == 0 {
                return Err(io::ErrorKind::StorageFull.into());
            }
            self.has.extend(&bytes[..taken]);
            Ok(taken)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_torn_line_spoils_no_other() {
        let torn = AtomicBool::new(false);
        let mut file = File { has: Vec::new(), room: 10 };
        put(&mut file, b"first\n", &torn).expect("has room");
        for _ in 0..3 {
            put(&mut file, b"second\n", &torn).expect_err("has none");
        }
        file.room = 100;
        put(&mut file, b"third\n", &torn).expect("has room");
        put(&mut file, b"fourth\n", &torn).expect("has room");
        assert_eq!(String::from_utf8_lossy(&file.has), "first\nseco\nthird\nfourth\n");
        // Nothing of a line is no torn line.
        file.room = file.has.len();
        put(&mut file, b"fifth\n", &torn).expect_err("has none");
        file.room = 100;
        put(&mut file, b"sixth\n", &torn).expect("has room");
        assert!(file.has.ends_with(b"fourth\nsixth\n"));
    }
}
