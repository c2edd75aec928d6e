//! Sends spans to a collector, by OTLP over HTTP or gRPC, from a thread of its own. Nobody waits for it: what finds no room in
//! its queue is dropped and counted.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use ::http::{HeaderName, HeaderValue};
use opentelemetry::KeyValue;
use opentelemetry_otlp::{SpanExporter, WithExportConfig as _, WithHttpConfig as _, WithTonicConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SpanData, SpanExporter as _};
use prometheus::IntCounter;
use tokio::sync::{mpsc, oneshot};
use tonic::metadata::{MetadataKey, MetadataMap, MetadataValue};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

use super::Finished;
use super::assemble::Assembler;
use super::record::Service;
use crate::config::traces::{Export, Protocol, Traces};
use crate::config::{Secret, files};
use crate::telemetry::clock;
use crate::telemetry::metrics::Metrics;

/// How often the log tells of failures that go on.
const TELL_EVERY: Duration = Duration::from_secs(60);

/// Spans cannot be exported as asked.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A file cannot be read.
    #[error("reading {path}: {error} (a file of [traces], or of an OTEL_… variable)", path = .path.display())]
    File {
        /// Which.
        path: std::path::PathBuf,
        /// What the system said.
        error: std::io::Error,
    },
    /// Something about the collector cannot be used.
    #[error(
        "the collector at `{endpoint}` (--otlp-endpoint, endpoint of [traces], or OTEL_EXPORTER_OTLP_ENDPOINT) cannot be used: {reason}"
    )]
    Endpoint {
        /// Its URL.
        endpoint: String,
        /// Why.
        reason: String,
    },
    /// The thread cannot be started.
    #[error("starting the thread that exports traces: {0}")]
    Thread(std::io::Error),
}

enum Item {
    Trace(Arc<Finished>),
    /// A span of the host's own.
    Span(Box<SpanData>),
    Flush(oneshot::Sender<()>),
}

/// The way into the queue.
pub struct Exporter {
    items: mpsc::UnboundedSender<Item>,
    /// Spans that wait.
    waiting: Arc<AtomicUsize>,
    most: usize,
    dropped: IntCounter,
}

impl Exporter {
    /// Starts the thread.
    pub fn start(export: &Export, settings: &Traces, metrics: &Arc<Metrics>) -> Result<Self, StartError> {
        let (items, queue) = mpsc::unbounded_channel();
        let waiting = Arc::new(AtomicUsize::new(0));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(StartError::Thread)?;
        let transport = {
            let _within = runtime.enter();
            Transport::new(export)?
        };
        let assembler = Assembler::new(settings.hostcalls, settings.slow_hostcall, metrics);
        let worker = Worker {
            queue,
            waiting: waiting.clone(),
            transport,
            assembler,
            export: export.clone(),
            resource: settings.resource.clone(),
            exporters: HashMap::new(),
            gathered: HashMap::new(),
            gathered_spans: 0,
            metrics: metrics.clone(),
            troubled: None,
        };
        let thread = std::thread::Builder::new().name("traces".to_owned());
        thread.spawn(move || runtime.block_on(worker.run())).map_err(StartError::Thread)?;
        let dropped = metrics.trace_spans.with_label_values(&["dropped"]);
        Ok(Self { items, waiting, most: export.queue, dropped })
    }

    /// Whether spans can be exported so; nothing is started.
    pub fn check(export: &Export) -> Result<(), StartError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(StartError::Thread)?;
        let _within = runtime.enter();
        Transport::new(export).map(drop)
    }

    /// Puts a trace into the queue, or drops it.
    pub fn put(&self, trace: Arc<Finished>) {
        let weight = trace.weight();
        if self.take_room(weight) && self.items.send(Item::Trace(trace)).is_err() {
            self.dropped.inc_by(weight as u64);
        }
    }

    /// Puts a span of the host's own into the queue, or drops it.
    pub fn put_span(&self, span: SpanData) {
        if self.take_room(1) && self.items.send(Item::Span(Box::new(span))).is_err() {
            self.dropped.inc();
        }
    }

    fn take_room(&self, weight: usize) -> bool {
        let has_room = self.waiting.fetch_add(weight, Ordering::Relaxed) + weight <= self.most;
        if !has_room {
            self.waiting.fetch_sub(weight, Ordering::Relaxed);
            self.dropped.inc_by(weight as u64);
        }
        has_room
    }

    /// Waits until what is in the queue now has been tried to send.
    pub async fn flush(&self, longest: Duration) {
        let (done, wait) = oneshot::channel();
        if self.items.send(Item::Flush(done)).is_ok() {
            // Longer than that nobody waits.
            let _ = tokio::time::timeout(longest, wait).await;
        }
    }
}

/// Whose spans they are: each has a resource of its own. `None`: the host's.
type Owner = Option<(String, String)>;

struct Worker {
    queue: mpsc::UnboundedReceiver<Item>,
    waiting: Arc<AtomicUsize>,
    transport: Transport,
    assembler: Assembler,
    export: Export,
    resource: Vec<(String, String)>,
    exporters: HashMap<Owner, SpanExporter>,
    gathered: HashMap<Owner, Vec<SpanData>>,
    gathered_spans: usize,
    metrics: Arc<Metrics>,
    /// Since when exports fail, and when that was last told.
    troubled: Option<std::time::Instant>,
}

impl Worker {
    async fn run(mut self) {
        loop {
            // The first of a batch may take as long as it likes.
            let Some(first) = self.queue.recv().await else { return };
            let until = tokio::time::Instant::now() + self.export.delay;
            let mut next = Some(first);
            while let Some(item) = next.take() {
                match item {
                    Item::Trace(trace) => self.take(&trace),
                    Item::Span(span) => self.gather(None, vec![*span]),
                    Item::Flush(done) => {
                        self.send().await;
                        // Who asked may have gone.
                        let _: Result<(), ()> = done.send(());
                        break;
                    }
                }
                if self.gathered_spans >= self.export.batch {
                    break;
                }
                next = tokio::time::timeout_at(until, self.queue.recv()).await.ok().flatten();
            }
            self.send().await;
        }
    }

    fn take(&mut self, trace: &Finished) {
        // Room is given back for what it took.
        self.waiting.fetch_sub(trace.weight(), Ordering::Relaxed);
        let owner = trace.recording.service.as_ref().map(|service: &Arc<Service>| (service.name.clone(), service.digest.clone()));
        let spans = self.assembler.spans(trace);
        self.waiting.fetch_add(spans.len(), Ordering::Relaxed);
        self.gathered_spans += spans.len();
        self.gathered.entry(owner).or_default().extend(spans);
    }

    fn gather(&mut self, owner: Owner, spans: Vec<SpanData>) {
        self.gathered_spans += spans.len();
        self.gathered.entry(owner).or_default().extend(spans);
    }

    /// Sends what is gathered. The library tries again where that may help, for as long as an export may take.
    async fn send(&mut self) {
        for (owner, spans) in std::mem::take(&mut self.gathered) {
            let (count, longest) = (spans.len(), self.export.timeout);
            let sent = match self.exporter(&owner) {
                Ok(exporter) => match tokio::time::timeout(longest, exporter.export(spans)).await {
                    Ok(sent) => sent.map_err(|error| error.to_string()),
                    Err(_) => Err(format!("no answer within {longest:?}")),
                },
                Err(error) => Err(error),
            };
            self.waiting.fetch_sub(count, Ordering::Relaxed);
            self.metrics.trace_spans.with_label_values(&[if sent.is_ok() { "exported" } else { "failed" }]).inc_by(count as u64);
            self.tell(sent);
        }
        self.gathered_spans = 0;
    }

    fn tell(&mut self, sent: Result<(), String>) {
        match (sent, self.troubled) {
            (Ok(()), None) => {}
            (Ok(()), Some(_)) => {
                self.troubled = None;
                tracing::info!(target: "sidelight::traces", "traces are exported again");
            }
            (Err(_), Some(told)) if clock::now().duration_since(told) < TELL_EVERY => {}
            (Err(error), _) => {
                self.troubled = Some(clock::now());
                let endpoint = &self.export.endpoint;
                tracing::warn!(target: "sidelight::traces", endpoint, error, "traces cannot be exported; what is not delivered is lost");
            }
        }
    }

    fn exporter(&mut self, owner: &Owner) -> Result<&mut SpanExporter, String> {
        // Generations of programs come and go; their exporters are cheap.
        if self.exporters.len() > 1000 {
            self.exporters.clear();
        }
        if !self.exporters.contains_key(owner) {
            let mut exporter = self.transport.exporter(&self.export)?;
            exporter.set_resource(&resource(owner, &self.resource));
            self.exporters.insert(owner.clone(), exporter);
        }
        self.exporters.get_mut(owner).ok_or_else(|| "no exporter".to_owned())
    }
}

/// What the spans of a service are of.
fn resource(owner: &Owner, more: &[(String, String)]) -> Resource {
    let mut attributes = vec![
        KeyValue::new("telemetry.sdk.name", "opentelemetry"),
        KeyValue::new("telemetry.sdk.language", "rust"),
        KeyValue::new("service.name", owner.as_ref().map_or_else(|| "sidelight".to_owned(), |(name, _)| name.clone())),
        KeyValue::new("process.pid", i64::from(std::process::id())),
    ];
    match owner {
        Some((_, digest)) => attributes.push(KeyValue::new("service.version", digest.clone())),
        None => attributes.push(KeyValue::new("service.version", env!("CARGO_PKG_VERSION"))),
    }
    // What the operator says goes before.
    attributes.retain(|attribute| !more.iter().any(|(key, _)| key == attribute.key.as_str()));
    attributes.extend(more.iter().map(|(key, value)| KeyValue::new(key.clone(), value.clone())));
    Resource::builder_empty().with_attributes(attributes).build()
}

/// Connections to the collector, for the exporters of all services.
enum Transport {
    Http(Arc<reqwest::Client>),
    Grpc(Channel),
}

fn read(path: &std::path::Path) -> Result<Vec<u8>, StartError> {
    files::read(path, files::LARGEST).map_err(|error| StartError::File { path: path.to_owned(), error })
}

impl Transport {
    fn new(export: &Export) -> Result<Self, StartError> {
        let shown = export.endpoint.rsplit('@').next().unwrap_or_default().to_owned();
        let failed = |reason: String| StartError::Endpoint { endpoint: shown.clone(), reason };
        let url = reqwest::Url::parse(&export.endpoint).ok().filter(|url| ["http", "https"].contains(&url.scheme()) && url.has_host());
        let Some(url) = url else {
            return Err(failed("expected an http:// or https:// URL, for example http://127.0.0.1:4318".to_owned()));
        };
        if !url.username().is_empty() || url.password().is_some() {
            return Err(failed(
                "it has a user; credentials go into authorization_file or headers of [traces], or OTEL_EXPORTER_OTLP_HEADERS".to_owned(),
            ));
        }
        for (name, value) in &export.headers {
            if HeaderName::from_bytes(name.as_bytes()).is_err() || HeaderValue::from_bytes(value.as_ref()).is_err() {
                return Err(failed(format!("`{name}` and its value cannot be a header field")));
            }
        }
        let ca = export.ca.as_deref().map(read).transpose()?;
        let client = match &export.client {
            Some((certificate, key)) => Some((read(certificate)?, read(key)?)),
            None => None,
        };
        match export.protocol {
            Protocol::Http => {
                let mut builder = reqwest::Client::builder().timeout(export.timeout);
                if let Some(ca) = ca {
                    let roots = reqwest::Certificate::from_pem_bundle(&ca).map_err(|error| failed(error.to_string()))?;
                    builder = builder.tls_certs_only(roots);
                }
                if let Some((certificate, key)) = client {
                    let identity = reqwest::Identity::from_pem(&[key, b"\n".to_vec(), certificate].concat());
                    builder = builder.identity(identity.map_err(|error| failed(error.to_string()))?);
                }
                Ok(Self::Http(Arc::new(builder.build().map_err(|error| failed(error.to_string()))?)))
            }
            Protocol::Grpc => {
                let mut endpoint = Endpoint::from_shared(export.endpoint.clone()).map_err(|error| failed(error.to_string()))?;
                if endpoint.uri().scheme_str() == Some("https") {
                    let mut tls = ClientTlsConfig::new();
                    tls = match ca {
                        Some(ca) => tls.ca_certificate(Certificate::from_pem(ca)),
                        None => tls.with_native_roots(),
                    };
                    if let Some((certificate, key)) = client {
                        tls = tls.identity(Identity::from_pem(certificate, key));
                    }
                    endpoint = endpoint.tls_config(tls).map_err(|error| failed(error.to_string()))?;
                }
                Ok(Self::Grpc(endpoint.timeout(export.timeout).connect_lazy()))
            }
        }
    }

    fn exporter(&self, export: &Export) -> Result<SpanExporter, String> {
        let value = |secret: &Secret| String::from_utf8_lossy(secret.as_ref()).into_owned();
        let built = match self {
            Self::Http(client) => {
                let headers = export.headers.iter().map(|(name, secret)| (name.clone(), value(secret))).collect();
                let mut builder = SpanExporter::builder()
                    .with_http()
                    .with_shared_http_client(client.clone())
                    .with_protocol(opentelemetry_otlp::Protocol::HttpBinary)
                    .with_endpoint(&export.endpoint)
                    .with_timeout(export.timeout)
                    .with_headers(headers);
                if export.gzip {
                    builder = builder.with_compression(opentelemetry_otlp::Compression::Gzip);
                }
                builder.build()
            }
            Self::Grpc(channel) => {
                let mut metadata = MetadataMap::new();
                for (name, secret) in &export.headers {
                    let (Ok(name), Ok(value)) = (name.parse::<MetadataKey<_>>(), value(secret).parse::<MetadataValue<_>>()) else {
                        return Err(format!("`{name}` cannot be metadata of gRPC"));
                    };
                    metadata.insert(name, value);
                }
                let mut builder =
                    SpanExporter::builder().with_tonic().with_channel(channel.clone()).with_timeout(export.timeout).with_metadata(metadata);
                if export.gzip {
                    builder = builder.with_compression(opentelemetry_otlp::Compression::Gzip);
                }
                builder.build()
            }
        };
        built.map_err(|error| error.to_string())
    }
}
