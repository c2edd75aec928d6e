//! Where the records of log endpoints go.

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use ::redis::Pipeline;
use serde_json::{Value as Json, json};

use super::Record;
use super::syslog::Syslog;
use crate::config::Config;
use crate::config::logs::{FileSink, HttpSink, LogEndpoint, Sink};
use crate::services::backend::operators::{Elsewhere, Operators};
use crate::services::data::{self, DataError};
use crate::services::platform::Platform;
use crate::services::redis::Redis;

/// Longest wait for somebody who takes records.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// A delivery has failed.
pub(super) enum Failure {
    /// It may go well the next time.
    Passing(String),
    /// It will not.
    Final(String),
}

impl<E: std::fmt::Display> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Passing(error.to_string())
    }
}

/// An open sink.
pub(super) struct Outlet {
    service: Arc<str>,
    kind: Kind,
}

enum Kind {
    Stdout,
    Stderr,
    File(Rotated),
    Syslog(Box<Syslog>),
    Http(Http),
    Otlp(Http),
    Redis { redis: Arc<Redis>, stream: String, max_records: u64 },
}

struct Http {
    client: reqwest::Client,
    settings: HttpSink,
    operators: Arc<Operators>,
}

impl Http {
    fn open(settings: &HttpSink, ca: Option<&[u8]>, operators: &Arc<Operators>) -> Result<Self, DataError> {
        let mut builder = reqwest::Client::builder().timeout(PATIENCE).redirect(reqwest::redirect::Policy::none());
        if let Some(port) = reqwest::Url::parse(&settings.url).ok().and_then(|url| url.port_or_known_default()) {
            builder = builder.dns_resolver(Elsewhere { operators: operators.clone(), port });
        }
        if let (Some(pem), Some(path)) = (ca, &settings.ca) {
            let fail = |error: &dyn std::fmt::Display| DataError::content(path, format!("no certificates: {error}"));
            let roots = reqwest::Certificate::from_pem_bundle(pem).map_err(|error| fail(&error))?;
            if roots.is_empty() {
                return Err(fail(&"there is none in it"));
            }
            builder = builder.tls_certs_only(roots);
        }
        let client = builder.build().map_err(|error| DataError::Setting(format!("{}: {error}", settings.url)))?;
        Ok(Self { client, settings: settings.clone(), operators: operators.clone() })
    }

    /// Names are looked at when they are resolved.
    fn is_operators(&self) -> Option<SocketAddr> {
        let url = reqwest::Url::parse(&self.settings.url).ok()?;
        let ip = url.host_str()?.trim_matches(['[', ']']).parse().ok()?;
        Some(SocketAddr::new(ip, url.port_or_known_default()?)).filter(|address| self.operators.has(*address))
    }

    async fn post(&self, kind: &str, body: String) -> Result<(), Failure> {
        if let Some(address) = self.is_operators() {
            return Err(Failure::Final(Operators::refusal(address)));
        }
        let mut request = self.client.post(&self.settings.url).header("content-type", kind).body(body);
        for (name, value) in &self.settings.headers {
            request = request.header(name, value.as_ref());
        }
        if let Some(path) = &self.settings.authorization {
            request = request.header("authorization", authorization(path)?);
        }
        let answer = request.send().await.map_err(|error| Failure::Passing(whole(&error.without_url())))?;
        let status = answer.status();
        if status.is_success() {
            return Ok(());
        }
        let text = format!("it answered {status}");
        if status.is_server_error() || status.as_u16() == 429 || status.as_u16() == 408 {
            Err(Failure::Passing(text))
        } else {
            Err(Failure::Final(text))
        }
    }
}

/// An error with what is behind it.
fn whole(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(behind) = source {
        text.push_str(": ");
        text.push_str(&behind.to_string());
        source = behind.source();
    }
    text
}

/// Read again for every batch: it may be renewed.
fn authorization(path: &std::path::Path) -> Result<reqwest::header::HeaderValue, DataError> {
    let bytes = data::bytes(path)?;
    if bytes.trim_ascii().is_empty() {
        return Err(DataError::content(path, "there is nothing in it"));
    }
    let mut value = reqwest::header::HeaderValue::from_bytes(bytes.trim_ascii())
        .map_err(|_| DataError::content(path, "this cannot be the value of a header field"))?;
    value.set_sensitive(true);
    Ok(value)
}

/// A file that is begun anew when it has grown.
struct Rotated {
    settings: FileSink,
    open: Option<(std::fs::File, u64)>,
}

impl Rotated {
    fn write(&mut self, lines: &[u8]) -> std::io::Result<()> {
        let (mut file, mut size) = match self.open.take() {
            // It may have been moved away by somebody else.
            Some(open) if self.settings.path.exists() => open,
            Some(_) | None => {
                let file = std::fs::File::options().append(true).create(true).open(&self.settings.path)?;
                let size = file.metadata()?.len();
                (file, size)
            }
        };
        if size > 0 && size + lines.len() as u64 > self.settings.max_bytes {
            drop(file);
            self.rotate()?;
            file = std::fs::File::options().append(true).create(true).open(&self.settings.path)?;
            size = 0;
        }
        if let Err(error) = file.write_all(lines) {
            // What is half written must not be there twice.
            drop(file.set_len(size));
            return Err(error);
        }
        self.open = Some((file, size + lines.len() as u64));
        Ok(())
    }

    fn rotate(&self) -> std::io::Result<()> {
        let numbered = |number: u32| -> PathBuf {
            let mut name = self.settings.path.clone().into_os_string();
            name.push(format!(".{number}"));
            name.into()
        };
        if self.settings.keep == 0 {
            return std::fs::remove_file(&self.settings.path);
        }
        for number in (1..self.settings.keep).rev() {
            let from = numbered(number);
            if from.exists() {
                std::fs::rename(from, numbered(number + 1))?;
            }
        }
        std::fs::rename(&self.settings.path, numbered(1))
    }
}

impl Outlet {
    /// Whether what changes without the settings can be used.
    pub(super) fn check(settings: &LogEndpoint) -> Result<(), DataError> {
        match &settings.sink {
            Sink::Http(http) | Sink::Otlp(http) => http.authorization.as_deref().map(authorization).transpose().map(drop),
            Sink::Log | Sink::Stdout | Sink::Stderr | Sink::File(_) | Sink::Syslog(_) | Sink::Redis { .. } => Ok(()),
        }
    }

    /// Opens it; `None` where nothing may be opened.
    pub(super) fn open(
        service: &Arc<str>,
        settings: &LogEndpoint,
        ca: Option<&[u8]>,
        config: &Config,
        platform: &Platform,
    ) -> Result<Option<Self>, DataError> {
        let operators = platform.connector.operators();
        let kind = match &settings.sink {
            Sink::Log => return Ok(None),
            Sink::Stdout => Kind::Stdout,
            Sink::Stderr => Kind::Stderr,
            Sink::File(file) => {
                let mut rotated = Rotated { settings: file.clone(), open: None };
                if platform.is_trial() {
                    data::can_write(&file.path)?;
                } else {
                    rotated.write(b"").map_err(|error| DataError::Read { path: file.path.clone(), error })?;
                }
                Kind::File(rotated)
            }
            Sink::Syslog(syslog) => Kind::Syslog(Box::new(Syslog::open(syslog, ca, operators)?)),
            Sink::Http(http) => Kind::Http(Http::open(http, ca, operators)?),
            Sink::Otlp(http) => Kind::Otlp(Http::open(http, ca, operators)?),
            Sink::Redis { stream, max_records } => {
                let Some(settings) = &config.state.redis else {
                    return Err(DataError::Setting("there is no Redis\n  hint: --redis URL, or [redis] in the host file".to_owned()));
                };
                if platform.is_trial() {
                    return Ok(None);
                }
                let redis = platform.redis(settings)?;
                let stream = stream.clone().unwrap_or_else(|| format!("{}:logs:{service}", redis.prefix()));
                Kind::Redis { redis, stream, max_records: *max_records }
            }
        };
        Ok((!platform.is_trial()).then(|| Self { service: service.clone(), kind }))
    }

    /// Whether records are worth waiting for: each delivery costs a round trip.
    pub(super) fn gathers(&self) -> bool {
        match self.kind {
            Kind::Http(_) | Kind::Otlp(_) => true,
            Kind::Stdout | Kind::Stderr | Kind::File(_) | Kind::Syslog(_) | Kind::Redis { .. } => false,
        }
    }

    /// Delivers all of them, or as good as none.
    pub(super) async fn write(&mut self, records: &[Record]) -> Result<(), Failure> {
        let Self { service, kind } = self;
        match kind {
            Kind::Stdout => Ok(std::io::stdout().lock().write_all(lines(service, records).as_bytes())?),
            Kind::Stderr => Ok(std::io::stderr().lock().write_all(lines(service, records).as_bytes())?),
            Kind::File(file) => Ok(file.write(lines(service, records).as_bytes())?),
            Kind::Syslog(syslog) => syslog.write(service, records).await,
            Kind::Http(http) => http.post("application/x-ndjson", lines(service, records)).await,
            Kind::Otlp(http) => http.post("application/json", otlp(service, records).to_string()).await,
            Kind::Redis { redis, stream, max_records } => {
                let mut commands = Pipeline::new();
                for record in records {
                    let command = commands.cmd("XADD").arg(&*stream).arg("MAXLEN").arg("~").arg(*max_records).arg("*");
                    command.arg("time").arg(time(record)).arg("service").arg(&**service).arg("endpoint").arg(&*record.endpoint);
                    command.arg("request_id").arg(&*record.request_id).arg("message").arg(&record.content[..]);
                }
                redis.pipeline(commands).await?;
                Ok(())
            }
        }
    }
}

/// RFC 3339, in milliseconds.
pub(super) fn time(record: &Record) -> String {
    humantime::format_rfc3339_millis(UNIX_EPOCH + record.at).to_string()
}

/// What was written, without the end of its last line.
pub(super) fn message(record: &Record) -> String {
    String::from_utf8_lossy(&record.content).trim_end_matches('\n').to_owned()
}

/// A line of JSON for each.
fn lines(service: &str, records: &[Record]) -> String {
    let mut lines = String::new();
    for record in records {
        let mut line = json!({
            "time": time(record), "service": service, "endpoint": &*record.endpoint, "request_id": &*record.request_id,
            "message": message(record),
        });
        if let Some(span) = record.span {
            line["trace_id"] = span.trace.to_string().into();
        }
        if record.cut > 0 {
            line["cut_bytes"] = record.cut.into();
        }
        lines.push_str(&line.to_string());
        lines.push('\n');
    }
    lines
}

/// An ExportLogsServiceRequest (OTLP 1.x, JSON encoding).
fn otlp(service: &str, records: &[Record]) -> Json {
    let attribute = |key: &str, value: &str| json!({ "key": key, "value": { "stringValue": value } });
    let record = |record: &Record| {
        let nanos = record.at.as_nanos().to_string();
        let mut shown = json!({
            "timeUnixNano": nanos, "observedTimeUnixNano": nanos, "severityNumber": 9, "severityText": "INFO",
            "body": { "stringValue": message(record) },
            "attributes": [attribute("fastly.log.endpoint", &record.endpoint), attribute("request.id", &record.request_id)],
        });
        if let Some(span) = record.span {
            shown["traceId"] = span.trace.to_string().into();
            shown["spanId"] = span.span.to_string().into();
            shown["flags"] = u8::from(span.sampled).into();
        }
        shown
    };
    let records: Vec<Json> = records.iter().map(record).collect();
    json!({ "resourceLogs": [{
        "resource": { "attributes": [attribute("service.name", service)] },
        "scopeLogs": [{ "scope": { "name": "sidelight", "version": env!("CARGO_PKG_VERSION") }, "logRecords": records }],
    }] })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_begun_anew() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a.log");
        let mut file = Rotated { settings: FileSink { path: path.clone(), max_bytes: 10, keep: 2 }, open: None };
        for line in ["one\n", "two\n", "three\n", "a line that is too long\n", "four\n"] {
            file.write(line.as_bytes()).expect("writes");
        }
        let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).ok();
        assert_eq!(read("a.log").as_deref(), Some("four\n"));
        assert_eq!(read("a.log.1").as_deref(), Some("a line that is too long\n"));
        assert_eq!(read("a.log.2").as_deref(), Some("three\n"));
        assert_eq!(read("a.log.3"), None);
        std::fs::remove_file(&path).expect("somebody else takes it away");
        file.write(b"five\n").expect("writes");
        assert_eq!(read("a.log").as_deref(), Some("five\n"));
    }
}
