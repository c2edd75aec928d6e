//! The access log: a line for each request, with the fields that were asked for.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use ::http::{Method, StatusCode, Uri, Version};
use bytes::Bytes;

use super::clock;
use super::logs::{self, Format};
use super::secrets;
use super::trace::context::TraceId;
use super::trace::{Arrived, head};
use crate::config::access::{AccessField, AccessSettings};

/// Writes a line for each request.
pub struct AccessLog {
    fields: Vec<AccessField>,
    format: Format,
}

/// A request, from its head to its answer.
pub struct Entry {
    log: Arc<AccessLog>,
    /// When it began, since the Unix epoch.
    at: Duration,
    id: Arc<str>,
    method: Method,
    uri: Uri,
    version: Version,
    client: IpAddr,
    raw_head: Bytes,
    trace: Option<TraceId>,
    service: OnceLock<String>,
    status: AtomicU16,
    bytes: AtomicU64,
}

impl AccessLog {
    /// One as the settings say; `None`: none.
    pub fn new(settings: &AccessSettings, format: Format) -> Option<Arc<Self>> {
        (!settings.fields.is_empty()).then(|| Arc::new(Self { fields: settings.fields.clone(), format }))
    }

    /// A request begins.
    pub fn begin(self: &Arc<Self>, head: &Arrived<'_>, trace: Option<TraceId>) -> Entry {
        Entry {
            log: self.clone(),
            at: clock::unix(),
            id: head.id.clone(),
            method: head.method.clone(),
            uri: head.uri.clone(),
            version: head.version,
            client: head.client.ip(),
            raw_head: head.raw_head.clone(),
            trace,
            service: OnceLock::new(),
            status: AtomicU16::new(0),
            bytes: AtomicU64::new(0),
        }
    }
}

impl Entry {
    /// Notes whose it is.
    pub fn service(&self, name: &str) {
        // Once for each request.
        drop(self.service.set(name.to_owned()));
    }

    /// Notes what the client got.
    pub fn answered(&self, status: StatusCode, bytes: u64) {
        self.status.store(status.as_u16(), Ordering::Relaxed);
        self.bytes.store(bytes, Ordering::Relaxed);
    }

    /// The line, without its end.
    fn line(&self, took: Duration) -> String {
        let mut line = String::with_capacity(256);
        let json = self.log.format == Format::Json;
        if json {
            line.push('{');
        }
        for (at, field) in self.log.fields.iter().enumerate() {
            if at > 0 {
                line.push(if json { ',' } else { ' ' });
            }
            // Writing to a string cannot fail.
            let _ = match json {
                true => write!(line, "\"{}\":", field.name()),
                false => write!(line, "{}=", field.name()),
            };
            self.value(*field, took).write(&mut line, self.log.format);
        }
        if json {
            line.push('}');
        }
        line
    }

    fn value(&self, field: AccessField, took: Duration) -> Value<'_> {
        let of_head = |name: &'static str| {
            let found = head::values(&self.raw_head, name).next();
            found.map_or(Value::None, |value| Value::Text(String::from_utf8_lossy(value).into_owned()))
        };
        match field {
            AccessField::Time => Value::Text(humantime::format_rfc3339_millis(std::time::UNIX_EPOCH + self.at).to_string()),
            AccessField::RequestId => Value::Borrowed(&self.id),
            AccessField::TraceId => self.trace.map_or(Value::None, |trace| Value::Text(trace.to_string())),
            AccessField::Service => self.service.get().map_or(Value::None, |name| Value::Borrowed(name)),
            AccessField::Client => Value::Text(self.client.to_string()),
            AccessField::Method => Value::Borrowed(self.method.as_str()),
            AccessField::Scheme => self.uri.scheme_str().map_or(Value::None, Value::Borrowed),
            AccessField::Host => self.uri.host().map_or(Value::None, Value::Borrowed),
            AccessField::Path => Value::Borrowed(self.uri.path()),
            AccessField::Query => self.uri.query().map_or(Value::None, |query| Value::Text(head::redacted(query).into_owned())),
            AccessField::Version => Value::Borrowed(head::version(self.version)),
            AccessField::Status => match self.status.load(Ordering::Relaxed) {
                0 => Value::None,
                status => Value::Number(f64::from(status)),
            },
            AccessField::Bytes => Value::Number(self.bytes.load(Ordering::Relaxed) as f64),
            AccessField::DurationMs => Value::Number((took.as_secs_f64() * 1e6).round() / 1000.0),
            AccessField::UserAgent => of_head("user-agent"),
            AccessField::Referer => match of_head("referer") {
                Value::Text(url) => Value::Text(head::shown(&url).into_owned()),
                none => none,
            },
        }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let mut line = self.line(clock::unix().saturating_sub(self.at));
        line.push('\n');
        logs::say(&line);
    }
}

enum Value<'a> {
    None,
    Text(String),
    Borrowed(&'a str),
    Number(f64),
}

impl Value<'_> {
    fn write(&self, line: &mut String, format: Format) {
        match self {
            Self::None => line.push_str(if format == Format::Json { "null" } else { "-" }),
            Self::Number(number) => {
                let _ = write!(line, "{number}");
            }
            Self::Text(text) => quoted(line, text, format),
            Self::Borrowed(text) => quoted(line, text, format),
        }
    }
}

/// In JSON always in quotes; in text only where a reader would be misled.
fn quoted(line: &mut String, text: &str, format: Format) {
    let text = &*secrets::hidden(text);
    let plain = format == Format::Text
        && !text.is_empty()
        && text != "-"
        && text.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\\' | b'='));
    if plain {
        line.push_str(text);
    } else {
        let text = serde_json::Value::from(text).to_string();
        line.push_str(&logs::unmisleading(&text, |letter| format!("\\u{:04x}", u32::from(letter))));
    }
}
