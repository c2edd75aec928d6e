//! Log endpoints: what each kind of them needs.

use std::collections::BTreeMap;
use std::time::Duration;

use toml::Spanned;

use super::Resolve;
use crate::config::Secret;
use crate::config::logs::{FileSink, HttpSink, LogEndpoint, LogKind, Sink, SyslogSink, Transport};
use crate::config::options::LogOptions;

impl Resolve<'_> {
    /// All of them, by name.
    pub(super) fn logs(&mut self, from: &BTreeMap<Spanned<String>, LogOptions>) -> BTreeMap<String, LogEndpoint> {
        let mut endpoints = BTreeMap::new();
        for (name, options) in from {
            let lower = name.get_ref().to_ascii_lowercase();
            if lower.is_empty()
                || lower == "stdout"
                || lower == "stderr"
                || lower.starts_with("fst_managed_")
                || lower.contains([':', '\n'])
            {
                self.problem(name, "no name of a log endpoint", "stdout, stderr and fst_managed_… are the platform's; `:` is not allowed");
            }
            if let Some(sink) = self.sink(options) {
                let endpoint = LogEndpoint {
                    sink,
                    queue: options.queue.map_or(LogEndpoint::QUEUE, |records| records as usize),
                    batch: options.batch.map_or(LogEndpoint::BATCH, |records| records as usize),
                    flush: options.flush_ms.map_or(LogEndpoint::FLUSH, |ms| Duration::from_millis(ms.into())),
                };
                endpoints.insert(name.get_ref().clone(), endpoint);
            }
        }
        endpoints
    }

    fn sink(&mut self, from: &LogOptions) -> Option<Sink> {
        let kind = *from.kind.get_ref();
        let http = matches!(kind, LogKind::Http | LogKind::Otlp);
        let given = [
            ("path", from.path.is_some(), kind == LogKind::File),
            ("max_mib", from.max_mib.is_some(), kind == LogKind::File),
            ("keep_files", from.keep_files.is_some(), kind == LogKind::File),
            ("url", from.url.is_some(), http || kind == LogKind::Syslog),
            ("headers", !from.headers.is_empty(), http),
            ("authorization_file", from.authorization_file.is_some(), http),
            ("ca_file", from.ca_file.is_some(), http || kind == LogKind::Syslog),
            ("facility", from.facility.is_some(), kind == LogKind::Syslog),
            ("stream", from.stream.is_some(), kind == LogKind::Redis),
            ("max_records", from.max_records.is_some(), kind == LogKind::Redis),
        ];
        for (key, _, _) in given.iter().filter(|(_, given, fits)| *given && !fits) {
            self.problem(&from.kind, format!("`{key}` means nothing to this kind of endpoint"), "leave it out");
        }
        let ca = from.ca_file.as_ref().map(|file| self.path(file));
        Some(match kind {
            LogKind::Log => Sink::Log,
            LogKind::Stdout => Sink::Stdout,
            LogKind::Stderr => Sink::Stderr,
            LogKind::File => {
                let Some(path) = &from.path else {
                    self.problem(&from.kind, "a file needs a path", "path = \"access.log\"");
                    return None;
                };
                Sink::File(FileSink {
                    path: self.path(path),
                    max_bytes: u64::from(from.max_mib.unwrap_or(100)) << 20,
                    keep: from.keep_files.unwrap_or(5),
                })
            }
            LogKind::Syslog => {
                const HINT: &str = "url = \"tcp://logs.example.com:514\", or udp:// or tls://";
                let Some(url) = &from.url else {
                    self.problem(&from.kind, "syslog needs to know where", HINT);
                    return None;
                };
                let parsed = url.get_ref().split_once("://").and_then(|(scheme, place)| {
                    let transport = match scheme {
                        "udp" => Transport::Udp,
                        "tcp" => Transport::Tcp,
                        "tls" => Transport::Tls,
                        _ => return None,
                    };
                    let place: ::http::uri::Authority = place.parse().ok()?;
                    let host = place.host().trim_start_matches('[').trim_end_matches(']').to_owned();
                    Some((transport, host, place.port_u16().unwrap_or(if transport == Transport::Tls { 6514 } else { 514 })))
                });
                let Some((transport, host, port)) = parsed else {
                    self.problem(url, format!("`{}` is no syslog server", url.get_ref()), HINT);
                    return None;
                };
                Sink::Syslog(SyslogSink { transport, host, port, facility: from.facility.unwrap_or_default(), ca })
            }
            LogKind::Http | LogKind::Otlp => {
                let Some(url) = &from.url else {
                    self.problem(&from.kind, "this endpoint needs a URL", "url = \"https://logs.example.com/v1/logs\"");
                    return None;
                };
                self.url(url)?;
                let mut headers = Vec::new();
                for (name, value) in &from.headers {
                    if ::http::HeaderName::from_bytes(name.get_ref().as_bytes()).is_err()
                        || ::http::HeaderValue::from_str(value.get_ref()).is_err()
                    {
                        self.problem(name, "no header field", "a name and a value");
                    }
                    headers.push((name.get_ref().clone(), Secret::new(value.get_ref().clone().into_bytes())));
                }
                let authorization = from.authorization_file.as_ref().map(|file| self.path(file));
                let http = HttpSink { url: url.get_ref().clone(), headers, authorization, ca };
                if kind == LogKind::Otlp { Sink::Otlp(http) } else { Sink::Http(http) }
            }
            LogKind::Redis => Sink::Redis { stream: from.stream.clone(), max_records: from.max_records.unwrap_or(100_000) },
        })
    }
}
