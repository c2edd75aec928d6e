//! Traces: what a collector gets of a request, and what clients, programs and backends are told of it.

use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use hyper::{Response, StatusCode};
use nix::sys::signal::Signal;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{TraceService, TraceServiceServer};
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value};
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use prost::Message as _;

use crate::client;
use crate::harness::{Log, PATIENCE, Setup, Sidelight, guest};
use crate::languages;
use crate::origin::{Origin, RUNTIME, refused, text};
use crate::redis::free_port;
use crate::tls::{self, Authority, Leaf};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00f067aa0ba902b7";

/// A span, and what it is of.
#[derive(Clone, Debug)]
struct Got {
    resource: Vec<KeyValue>,
    span: Span,
}

fn value(attributes: &[KeyValue], key: &str) -> String {
    let found = attributes.iter().find(|attribute| attribute.key == key).and_then(|attribute| attribute.value.clone());
    match found.and_then(|value| value.value) {
        Some(any_value::Value::StringValue(text)) => text,
        Some(any_value::Value::IntValue(number)) => number.to_string(),
        Some(any_value::Value::BoolValue(flag)) => flag.to_string(),
        Some(any_value::Value::DoubleValue(number)) => number.to_string(),
        other => format!("{other:?}"),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Got {
    fn get(&self, key: &str) -> String {
        value(&self.span.attributes, key)
    }

    fn of(&self, key: &str) -> String {
        value(&self.resource, key)
    }

    fn is(&self, kind: SpanKind) -> bool {
        self.span.kind == kind as i32
    }

    fn id(&self) -> String {
        hex(&self.span.span_id)
    }

    fn parent(&self) -> String {
        hex(&self.span.parent_span_id)
    }

    fn trace(&self) -> String {
        hex(&self.span.trace_id)
    }

    fn failed(&self) -> bool {
        self.span.status.as_ref().is_some_and(|status| status.code == 2)
    }

    fn within(&self, outer: &Self) -> bool {
        outer.span.start_time_unix_nano <= self.span.start_time_unix_nano && self.span.end_time_unix_nano <= outer.span.end_time_unix_nano
    }
}

fn spans(request: ExportTraceServiceRequest) -> Vec<Got> {
    let of_resource = request.resource_spans.into_iter().flat_map(|spans| {
        let resource = spans.resource.unwrap_or_default().attributes;
        let all = spans.scope_spans.into_iter().flat_map(|spans| spans.spans);
        all.map(move |span| Got { resource: resource.clone(), span }).collect::<Vec<_>>()
    });
    of_resource.collect()
}

/// A collector of ours.
#[derive(Clone)]
enum Collector {
    Http(Arc<Origin>),
    Grpc(Arc<Mutex<Vec<Got>>>, String),
}

struct Service(Arc<Mutex<Vec<Got>>>);

#[tonic::async_trait]
impl TraceService for Service {
    async fn export(
        &self,
        request: tonic::Request<ExportTraceServiceRequest>,
    ) -> Result<tonic::Response<ExportTraceServiceResponse>, tonic::Status> {
        if request.metadata().get("x-key").is_none_or(|key| key != "k") {
            return Err(tonic::Status::unauthenticated("no key"));
        }
        self.0.lock().expect("the list").extend(spans(request.into_inner()));
        Ok(tonic::Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Collector {
    fn http() -> Self {
        Self::Http(Arc::new(Origin::fixed("")))
    }

    fn grpc() -> Self {
        Self::grpc_with(|server| server, "http", "127.0.0.1")
    }

    /// With TLS, for clients whose certificate an authority has issued.
    fn grpc_tls(leaf: &Leaf, clients: &Authority) -> Self {
        let identity = tonic::transport::Identity::from_pem(&leaf.pem, &leaf.key_pem);
        let roots = tonic::transport::Certificate::from_pem(&clients.pem);
        let tls = tonic::transport::ServerTlsConfig::new().identity(identity).client_ca_root(roots);
        Self::grpc_with(|server| server.tls_config(tls).expect("a certificate"), "https", "localhost")
    }

    fn grpc_with(
        change: impl FnOnce(tonic::transport::Server) -> tonic::transport::Server,
        scheme: &'static str,
        host: &'static str,
    ) -> Self {
        let list: Arc<Mutex<Vec<Got>>> = Arc::default();
        let listener = RUNTIME.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).expect("binds");
        let addr = listener.local_addr().expect("an address");
        let service = TraceServiceServer::new(Service(list.clone())).accept_compressed(tonic::codec::CompressionEncoding::Gzip);
        let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
        let mut server = change(tonic::transport::Server::builder());
        RUNTIME.spawn(server.add_service(service).serve_with_incoming(incoming));
        Self::Grpc(list, format!("{scheme}://{host}:{}", addr.port()))
    }

    fn url(&self) -> String {
        match self {
            Self::Http(origin) => origin.url(),
            Self::Grpc(_, url) => url.clone(),
        }
    }

    fn got(&self) -> Vec<Got> {
        match self {
            Self::Grpc(list, _) => list.lock().expect("the list").clone(),
            Self::Http(origin) => {
                let decoded = origin.seen().into_iter().flat_map(|seen| {
                    assert_eq!((seen.method.as_str(), seen.target.as_str()), ("POST", "/v1/traces"));
                    assert_eq!(seen.values("content-type"), ["application/x-protobuf"]);
                    let body = match seen.values("content-encoding").as_slice() {
                        ["gzip"] => {
                            let mut plain = Vec::new();
                            std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(&seen.body[..]), &mut plain).expect("gzip");
                            plain
                        }
                        _ => seen.body.to_vec(),
                    };
                    spans(ExportTraceServiceRequest::decode(&body[..]).expect("an ExportTraceServiceRequest"))
                });
                decoded.collect()
            }
        }
    }

    /// The spans of one trace, once its request's is there.
    fn wait(&self, trace: &str) -> Vec<Got> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let got: Vec<Got> = self.got().into_iter().filter(|got| got.trace() == trace).collect();
            if got.iter().any(|got| got.is(SpanKind::Server)) {
                return got;
            }
            assert!(Instant::now() < deadline, "no trace {trace}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// The spans of the only trace.
    fn only(&self) -> Vec<Got> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let got = self.got();
            if let Some(server) = got.iter().find(|got| got.is(SpanKind::Server)) {
                let trace = server.trace();
                return got.into_iter().filter(|got| got.trace() == trace).collect();
            }
            assert!(Instant::now() < deadline, "no trace");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

fn setup(collector: &Collector, more: &str, manifest: &str) -> Setup {
    let host = format!(
        "[traces]\nendpoint = \"{}\"\ndelay = \"20ms\"\n{more}\n[services.it]\nmanifest = \"fastly.toml\"\nmodule = \"{}\"\n",
        collector.url(),
        guest("rust", "behaviours").display()
    );
    Setup::host(&host).file("fastly.toml", &format!("manifest_version = 3\nname = \"it\"\n{manifest}"))
}

fn backends(named: &[(&str, &Origin)]) -> String {
    named.iter().map(|(name, origin)| format!("[local_server.backends.{name}]\nurl = \"{}\"\n", origin.url())).collect()
}

fn get(sidelight: &Sidelight, path: &str, fields: &str) -> client::Answer {
    client::send(sidelight.addr, &format!("GET {path} HTTP/1.1\r\nHost: a.test\r\n{fields}Connection: close\r\n\r\n"))
}

fn traceparent(flags: &str) -> String {
    format!("traceparent: 00-{TRACE}-{PARENT}-{flags}\r\n")
}

/// Exactly one.
fn one(got: &[Got], wanted: impl Fn(&Got) -> bool) -> &Got {
    let found: Vec<&Got> = got.iter().filter(|got| wanted(got)).collect();
    assert_eq!(found.len(), 1, "{:#?}", got.iter().map(|got| &got.span.name).collect::<Vec<_>>());
    found[0]
}

/// One request through a program with several backends: every span, what it says, and whose child it is.
fn whole_tree(collector: &Collector, more: &str) {
    let (one_, two, three) = (Origin::fixed("1"), Origin::fixed("2"), Origin::fixed("3"));
    let sidelight = setup(collector, more, &backends(&[("one", &one_), ("two", &two), ("three", &three)])).start();
    let answer = get(&sidelight, "/fanout?token=hunter2&a=b", &format!("{}user-agent: it/1\r\ntracestate: v=1\r\n", traceparent("01")));
    assert_eq!((answer.status, answer.text().as_str()), (200, "1,2,3"));
    let got = collector.wait(TRACE);

    let server = one(&got, |got| got.is(SpanKind::Server));
    assert_eq!((server.span.name.as_str(), server.parent().as_str()), ("GET", PARENT));
    assert_eq!(server.span.trace_state, "v=1");
    for (key, expected) in [
        ("http.request.method", "GET"),
        ("url.scheme", "http"),
        ("url.path", "/fanout"),
        ("url.query", "token=REDACTED&a=b"),
        ("server.address", "a.test"),
        ("server.port", "80"),
        ("client.address", "127.0.0.1"),
        ("network.protocol.version", "1.1"),
        ("user_agent.original", "it/1"),
        ("http.response.status_code", "200"),
        ("http.response.body.size", "5"),
        ("sidelight.service", "it"),
    ] {
        assert_eq!(server.get(key), expected, "{key}");
    }
    assert!(!server.failed());
    assert_eq!((server.of("service.name").as_str(), server.of("service.version").len()), ("it", 64));

    let ran = one(&got, |got| got.span.name == "guest");
    assert!(ran.is(SpanKind::Internal) && ran.parent() == server.id(), "{ran:?}");
    assert!(server.span.start_time_unix_nano <= ran.span.start_time_unix_nano);
    for (key, expected) in [
        ("faas.trigger", "http"),
        ("faas.name", "it"),
        ("faas.coldstart", "true"),
        ("faas.invocation_id", &server.get("sidelight.request.id")),
        ("sidelight.guest.outcome", "finished"),
    ] {
        assert_eq!(ran.get(key), expected, "{key}");
    }
    assert!(
        ran.get("wasm.cpu.time").parse::<f64>().expect("seconds") > 0.0
            && ran.get("wasm.memory.size").parse::<u64>().expect("bytes") > 65536
    );

    let calls: Vec<&Got> = got.iter().filter(|got| got.span.name.starts_with("fastly_")).collect();
    assert!(calls.iter().all(|call| call.is(SpanKind::Internal) && call.parent() == ran.id() && call.within(ran)));
    let counted: u32 = calls.iter().map(|call| call.get("fastly.hostcall.count").parse().unwrap_or(1)).sum();
    assert_eq!(ran.get("fastly.hostcalls.count"), counted.to_string());
    assert_eq!(calls.iter().filter(|call| ["one", "two", "three"].contains(&call.get("fastly.hostcall.name").as_str())).count(), 3);
    assert!(calls.iter().any(|call| call.span.name == "fastly_http_resp.send_downstream" && call.get("fastly.hostcall.status") == "ok"));

    let sent: Vec<&Got> = got.iter().filter(|got| got.is(SpanKind::Client)).collect();
    assert_eq!(sent.len(), 3);
    for (backend, origin, path) in [("one", &one_, "/a"), ("two", &two, "/b"), ("three", &three, "/c")] {
        let sent = one(&got, |got| got.get("sidelight.backend") == backend);
        let call = one(&got, |call| call.id() == sent.parent());
        assert!(call.span.name.starts_with("fastly_http_req.send_async"), "{}", call.span.name);
        let authority = origin.url().replace("http://", "");
        let seen = origin.last();
        for (key, expected) in [
            ("http.request.method", "GET"),
            ("url.full", format!("http://{}{path}", seen.values("host")[0]).as_str()),
            ("server.address", "127.0.0.1"),
            ("network.peer.address", "127.0.0.1"),
            ("network.peer.port", authority.split(':').nth(1).expect("a port")),
            ("network.protocol.version", "1.1"),
            ("sidelight.connection.reused", "false"),
            ("http.response.status_code", "200"),
            ("http.response.body.size", "1"),
        ] {
            assert_eq!(sent.get(key), expected, "{key} of {backend}");
        }
        // The backend has been told of just this span.
        assert_eq!(seen.values("traceparent"), [format!("00-{TRACE}-{}-01", sent.id())]);
        let events: Vec<&str> = sent.span.events.iter().map(|event| event.name.as_str()).collect();
        assert_eq!(events, ["resolved", "reached", "connected", "response head"]);
    }
    // Whatever is said is in the reference.
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/observability.md");
    let reference = std::fs::read_to_string(path).expect("the document");
    for got in &got {
        let events = got.span.events.iter().flat_map(|event| event.attributes.iter());
        for attribute in got.span.attributes.iter().chain(&got.resource).chain(events) {
            assert!(reference.contains(&format!("`{}`", attribute.key)), "{} is not in docs/observability.md", attribute.key);
        }
    }
    // Each is once in it, and all are of one tree.
    assert_eq!(got.len(), 2 + calls.len() + sent.len());
}

#[test]
fn the_whole_tree_by_http() {
    whole_tree(&Collector::http(), "gzip = true");
}

#[test]
fn the_whole_tree_by_grpc() {
    whole_tree(&Collector::grpc(), "protocol = \"grpc\"\nheaders = { x-key = \"k\" }\ngzip = true");
}

/// With TLS both ways; without the client's certificate, or the collector's issuer, nothing goes out.
#[test]
fn by_tls() {
    drop(rustls::crypto::ring::default_provider().install_default());
    let (theirs, ours) = (Authority::new(), Authority::new());
    let (server, client_leaf) = (theirs.leaf(&["localhost"]), ours.leaf(&["sidelight"]));
    let files = |setup: Setup| {
        let pair = format!("{}{}", client_leaf.pem, client_leaf.key_pem);
        setup.file("ca.pem", &theirs.pem).file("client.pem", &pair).file("other.pem", &ours.pem)
    };
    let exported = |it: &Sidelight, result: &str| it.metric(&format!("sidelight_trace_spans_total{{result=\"{result}\"}}"));
    let collector = Collector::grpc_tls(&server, &ours);
    let more = "protocol = \"grpc\"\nheaders = { x-key = \"k\" }\nca_file = \"ca.pem\"\ncertificate_file = \"client.pem\"";
    let sidelight = files(setup(&collector, more, "")).start();
    assert_eq!(get(&sidelight, "/synthetic", &traceparent("01")).status, 418);
    assert!(collector.wait(TRACE).len() > 2);
    // By HTTP, to a collector that asks for a certificate, too.
    let (addr, names) = tls::origin(&server, Some(&ours));
    let host = |more: &str| {
        let host = format!(
            "[traces]\nendpoint = \"https://localhost:{}\"\ndelay = \"20ms\"\ntimeout = \"500ms\"\n{more}\n[services.it]\nmodule = \"{}\"\n",
            addr.port(),
            guest("rust", "hello").display()
        );
        let sidelight = files(Setup::host(&host)).start();
        assert_eq!(get(&sidelight, "/", &traceparent("01")).status, 200);
        sidelight
    };
    let sidelight = host("ca_file = \"ca.pem\"\ncertificate_file = \"client.pem\"");
    sidelight.wait_until("spans", |it| exported(it, "exported") > 2.0);
    assert_eq!(names.lock().expect("the list").last().cloned().flatten().as_deref(), Some("localhost"));
    for more in ["ca_file = \"ca.pem\"", "ca_file = \"other.pem\"\ncertificate_file = \"client.pem\""] {
        let sidelight = host(more);
        sidelight.wait_until("a failure", |it| exported(it, "failed") > 2.0);
        assert!(exported(&sidelight, "exported") < 0.5);
    }
}

/// What programs log is found from their trace, and the other way round.
#[test]
fn logs_know_the_trace() {
    let (collector, logs) = (Collector::http(), Origin::fixed("{}"));
    let manifest = format!("[sidelight.logs.events]\nkind = \"otlp\"\nurl = \"{}/v1/logs\"\nflush_ms = 50\n", logs.url());
    let sidelight = setup(&collector, "", &manifest).start();
    assert_eq!(get(&sidelight, "/log?msg=tidings", &traceparent("01")).status, 200);
    sidelight.wait_until("a record", |_| logs.count() == 1);
    let sent: serde_json::Value = serde_json::from_slice(&logs.last().body).expect("JSON");
    let record = &sent["resourceLogs"][0]["scopeLogs"][0]["logRecords"][0];
    let got = collector.wait(TRACE);
    let ran = one(&got, |got| got.span.name == "guest");
    assert_eq!((&record["traceId"], &record["spanId"], &record["flags"]), (&TRACE.into(), &ran.id().into(), &1.into()));
    sidelight.log.wait_for(&["stdout: tidings", &format!("trace_id={TRACE}")]);
}

/// What is changed in the file and cannot be in force is said.
#[test]
fn changes_that_need_a_restart() {
    let collector = Collector::http();
    let sidelight = setup(&collector, "", "").start();
    let host = std::fs::read_to_string(sidelight.path("sidelight.toml")).expect("the file");
    sidelight.write("sidelight.toml", &host.replace("delay = \"20ms\"", "delay = \"20ms\"\nsample = \"none\""));
    assert_eq!(sidelight.reload()["restart_needed"], serde_json::json!(["traces"]));
}

/// Rotel, a collector of somebody else's, prints what it gets.
struct Rotel {
    child: Child,
    log: Log,
    http: u16,
    grpc: u16,
}

impl Rotel {
    fn start() -> Self {
        let (http, grpc) = (free_port(), free_port());
        let program = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/guests/out/rotel/rotel-agent");
        let mut child = Command::new(program)
            .args(["start", "--otlp-http-endpoint", &format!("127.0.0.1:{http}"), "--otlp-grpc-endpoint", &format!("127.0.0.1:{grpc}")])
            .args(["--debug-log", "traces", "--debug-log-verbosity", "detailed", "--exporter", "blackhole"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{program}: {error} (tests/guests/build.sh rotel)"));
        let log = Log::default();
        log.follow(child.stdout.take().expect("a pipe"));
        log.follow(child.stderr.take().expect("a pipe"));
        let deadline = Instant::now() + PATIENCE;
        while [http, grpc].iter().any(|port| std::net::TcpStream::connect(("127.0.0.1", *port)).is_err()) {
            assert!(Instant::now() < deadline, "rotel does not listen: {}", log.text());
            std::thread::sleep(Duration::from_millis(50));
        }
        Self { child, log, http, grpc }
    }
}

impl Drop for Rotel {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

#[test]
fn rotel_takes_them() {
    let rotel = Rotel::start();
    for (port, protocol) in [(rotel.http, "http/protobuf"), (rotel.grpc, "grpc")] {
        let (one, two, three) = (Origin::fixed("1"), Origin::fixed("2"), Origin::fixed("3"));
        let mut setup = Setup::behaviours("rust").arg(&format!("--otlp-endpoint http://127.0.0.1:{port} --otlp-protocol {protocol}"));
        for (name, origin) in [("one", &one), ("two", &two), ("three", &three)] {
            setup = setup.backend(name, origin.url());
        }
        let sidelight = setup.start();
        let trace = format!("{:032x}", u32::from(port));
        let fields = format!("traceparent: 00-{trace}-{PARENT}-01\r\n");
        assert_eq!(get(&sidelight, "/fanout", &fields).text(), "1,2,3");
        // At the latest when it ends.
        sidelight.signal(Signal::SIGTERM);
        assert_eq!(sidelight.end().code(), Some(0));
        let told = one.last().values("traceparent")[0].to_owned();
        rotel.log.wait_for(&["Parent ID", PARENT]);
        for part in [
            trace.as_str(),
            &told[36..52],
            "fastly_http_req.send_async",
            "SPAN_KIND_SERVER",
            "SPAN_KIND_CLIENT",
            "SPAN_KIND_INTERNAL",
            "sidelight.backend",
        ] {
            rotel.log.wait(part, |line| line.contains(part).then_some(()));
        }
    }
}

/// What backends are told: by policy, and never of what is none of their business.
#[test]
fn who_is_told() {
    let collector = Collector::http();
    let origin = Origin::fixed("it");
    let told = |policy: &str, fields: &str| {
        let options = if policy.is_empty() { String::new() } else { format!("[sidelight.backends.origin]\npropagate = \"{policy}\"\n") };
        let sidelight = setup(&collector, "", &format!("{}{options}", backends(&[("origin", &origin)]))).start();
        assert_eq!(get(&sidelight, "/pass/x", fields).status, 200);
        origin.last().values("traceparent").iter().map(|&text| text.to_owned()).collect::<Vec<_>>()
    };
    // Where it is, is not of the public Internet.
    for policy in ["", "internal", "always"] {
        let told = told(policy, &traceparent("01"));
        assert!(told.len() == 1 && told[0].starts_with(&format!("00-{TRACE}-")) && !told[0].contains(PARENT), "{policy}: {told:?}");
    }
    // A program that sends its client's fields on does so as in production.
    assert_eq!(told("never", &traceparent("01")), [format!("00-{TRACE}-{PARENT}-01")]);
    assert_eq!(told("never", ""), Vec::<String>::new());
    // A client's that does not want to be recorded.
    let told = told("", &traceparent("00"));
    assert!(told[0].starts_with(&format!("00-{TRACE}-")) && told[0].ends_with("-00"), "{told:?}");
}

#[test]
fn what_programs_see() {
    let collector = Collector::http();
    let seen = |more: &str, fields: &str| {
        let sidelight = setup(&collector, more, "").start();
        let json = get(&sidelight, "/echo", fields).json();
        let list = json["headers"].as_array().expect("headers").clone();
        let of = |name: &str| list.iter().find(|pair| pair[0] == name).and_then(|pair| pair[1].as_str()).map(str::to_owned);
        (of("traceparent"), of("x-sidelight-trace"))
    };
    let (told, _) = seen("", &traceparent("01"));
    assert!(told.is_some_and(|told| told.starts_with(&format!("00-{TRACE}-")) && !told.contains(PARENT)));
    assert_eq!(seen("tell_guest = false", &traceparent("01")).0, Some(format!("00-{TRACE}-{PARENT}-01")));
    assert_eq!(seen("tell_guest = false", "").0, None);
    // The secret is for the host.
    assert_eq!(seen("", "x-sidelight-trace: s\r\n").1, None);
}

#[test]
fn parents_of_clients() {
    let ask = |more: &str, fields: &str| {
        let collector = Collector::http();
        let sidelight = setup(&collector, more, "").start();
        assert_eq!(get(&sidelight, "/synthetic", fields).status, 418);
        one(&collector.only(), |got| got.is(SpanKind::Server)).clone()
    };
    let adopted = ask("", &traceparent("01"));
    assert_eq!((adopted.trace().as_str(), adopted.parent().as_str()), (TRACE, PARENT));
    let linked = ask("parent = \"link\"", &traceparent("00"));
    assert_ne!(linked.trace(), TRACE);
    assert_eq!((hex(&linked.span.links[0].trace_id).as_str(), hex(&linked.span.links[0].span_id).as_str()), (TRACE, PARENT));
    assert_eq!(linked.parent(), "");
    let ignored = ask("parent = \"ignore\"", &traceparent("01"));
    assert!(ignored.trace() != TRACE && ignored.span.links.is_empty() && ignored.parent().is_empty());
    // What is no trace context is none, and no error.
    let broken = ask("", &format!("traceparent: 00-{TRACE}-0000000000000000-01\r\n"));
    assert!(broken.trace() != TRACE && broken.parent().is_empty());
    // A trace that begins here has the request's own id.
    assert_eq!(broken.trace(), broken.get("sidelight.request.id").replace('-', ""));
}

#[test]
fn samples() {
    let collector = Collector::http();
    let secret = "open sesame";
    let more = "sample = \"none\"\nkeep_errors = true\nkeep_slow = \"300ms\"\nforce_file = \"force\"";
    let sidelight = setup(&collector, more, "").file("force", &format!("{secret}\n")).start();
    let ask = |id: u32, path: &str, fields: &str| {
        let trace = format!("{id:032x}");
        drop(get(&sidelight, path, &format!("traceparent: 00-{trace}-{PARENT}-00\r\n{fields}")));
        trace
    };
    let quiet = ask(1, "/synthetic", "");
    let wrong = ask(2, "/synthetic", "x-sidelight-trace: open\r\n");
    let slow = ask(3, "/stream?n=3&ms=200", "");
    let failed = ask(4, "/pass/x", "");
    let forced = ask(5, "/synthetic", &format!("x-sidelight-trace: {secret}\r\n"));
    let sampled = {
        // The client decides.
        let trace = format!("{:032x}", 6);
        drop(get(&sidelight, "/synthetic", &format!("traceparent: 00-{trace}-{PARENT}-01\r\n")));
        trace
    };
    // Without a client's word it is none.
    drop(get(&sidelight, "/synthetic", ""));
    let sampling = |trace: &str| one(&collector.wait(trace), |got| got.is(SpanKind::Server)).get("sidelight.sampling");
    for (trace, why) in [(&slow, "tail"), (&failed, "tail"), (&forced, "None"), (&sampled, "None")] {
        assert_eq!(sampling(trace), why, "{trace}");
    }
    sidelight.signal(Signal::SIGTERM);
    assert_eq!(sidelight.end().code(), Some(0));
    let got = collector.got();
    assert!(got.iter().all(|got| got.trace() != quiet && got.trace() != wrong));
    let requests = got.iter().filter(|got| got.is(SpanKind::Server));
    let traces: std::collections::BTreeSet<String> = requests.map(Got::trace).collect();
    assert_eq!(traces.len(), 4);
    let failed = one(&got, |got| got.trace() == failed && got.is(SpanKind::Server)).clone();
    assert!(failed.failed() && failed.get("error.type") == "502", "{failed:?}");
}

/// A miss asks the backend, a hit does not; both say what the cache did.
#[test]
fn what_the_cache_said() {
    let collector = Collector::http();
    let origin = Origin::new(|_| Response::builder().header("cache-control", "max-age=60").body(text("it")).expect("a response"));
    let host = format!(
        "[traces]\nendpoint = \"{}\"\ndelay = \"20ms\"\n[services.it]\nmanifest = \"fastly.toml\"\nmodule = \"{}\"\n",
        collector.url(),
        guest("rust", "cached").display()
    );
    let manifest = format!("manifest_version = 3\nname = \"it\"\n{}", backends(&[("origin", &origin)]));
    let sidelight = Setup::host(&host).file("fastly.toml", &manifest).start();
    for (number, said, asked) in [(1, "miss", 1), (2, "hit", 0)] {
        let trace = format!("{number:032x}");
        assert_eq!(get(&sidelight, "/x", &format!("traceparent: 00-{trace}-{PARENT}-01\r\n")).status, 200);
        let got = collector.wait(&trace);
        let ran = one(&got, |got| got.span.name == "guest");
        let [event] = ran.span.events.as_slice() else { panic!("{:?}", ran.span.events) };
        assert_eq!((event.name.as_str(), value(&event.attributes, "fastly.cache.result").as_str()), ("cache", said));
        assert!(value(&event.attributes, "fastly.cache.request").starts_with("GET "));
        assert_eq!(got.iter().filter(|got| got.is(SpanKind::Client)).count(), asked);
    }
}

/// The levels of hostcalls' spans; requests to backends keep a parent that is there.
#[test]
fn levels() {
    let origin = Origin::fixed("it");
    let ask = |more: &str| {
        let collector = Collector::http();
        let sidelight = setup(&collector, more, &backends(&[("origin", &origin)])).start();
        assert_eq!(get(&sidelight, "/pass/x", "").status, 200);
        let got = collector.only();
        let sent = one(&got, |got| got.is(SpanKind::Client));
        let parent = one(&got, |parent| parent.id() == sent.parent()).span.name.clone();
        let ran = one(&got, |got| got.span.name == "guest");
        assert!(ran.get("fastly.hostcalls.count").parse::<u32>().expect("a number") > 10);
        let dropped = ran.get("fastly.hostcalls.dropped");
        (got.iter().filter(|got| got.span.name.starts_with("fastly_")).count(), parent, dropped)
    };
    let (all, parent, _) = ask("");
    assert!(all > 10 && parent.starts_with("fastly_http_req.send"), "{all} {parent}");
    let (slow, parent, _) = ask("hostcalls = \"slow\"\nslow_hostcall = \"10s\"");
    assert!(slow == 1 && parent.starts_with("fastly_http_req.send"), "{slow} {parent}");
    for more in ["hostcalls = \"off\"", "hostcalls = \"summary\""] {
        let (none, parent, _) = ask(more);
        assert_eq!((none, parent.as_str()), (0, "guest"));
    }
    let (few, parent, dropped) = ask("max_hostcalls = 3");
    assert_eq!((few, parent.as_str()), (3, "guest"));
    assert!(dropped.parse::<u32>().expect("a number") > 5);
}

languages!(
    /// A guest that serves several requests: each has a trace of its own, at once when it is answered.
    fn sandboxes_that_are_reused(language) {
        let collector = Collector::http();
        let host = format!(
            "[traces]\nendpoint = \"{}\"\ndelay = \"20ms\"\n[services.it]\nmodule = \"{}\"\n",
            collector.url(),
            guest(language, "reuse").display()
        );
        let sidelight = Setup::host(&host).start();
        for (number, cold) in [(1, "true"), (2, "false"), (3, "false")] {
            let trace = format!("{number:032x}");
            drop(get(&sidelight, "/", &format!("traceparent: 00-{trace}-{PARENT}-01\r\n")));
            // While the guest waits for its next request.
            let got = collector.wait(&trace);
            let ran = one(&got, |got| got.span.name == "guest");
            assert_eq!((ran.get("faas.coldstart").as_str(), ran.get("sidelight.guest.outcome").as_str()), (cold, "finished"));
            assert!(ran.span.end_time_unix_nano - ran.span.start_time_unix_nano < 5_000_000_000);
        }
    }
);

#[test]
fn guests_that_fail() {
    let collector = Collector::http();
    let host = format!(
        "[traces]\nendpoint = \"{}\"\ndelay = \"20ms\"\n[services.it]\nmodule = \"{}\"\n",
        collector.url(),
        guest("rust", "misbehave").display()
    );
    let sidelight = Setup::host(&host).start();
    let status = get(&sidelight, "/trap", "").status;
    assert_eq!(status, 500);
    let got = collector.only();
    let server = one(&got, |got| got.is(SpanKind::Server));
    assert!(server.failed() && server.get("error.type") == "trapped", "{server:?}");
    let ran = one(&got, |got| got.span.name == "guest");
    assert!(ran.failed() && ran.get("error.type") == "trapped", "{ran:?}");
    assert!(ran.span.status.as_ref().is_some_and(|status| status.message.contains("unreachable")), "{ran:?}");
}

/// A connection that had ended is tried again: two attempts, of which the second says so.
#[test]
fn attempts_that_are_repeated() {
    let collector = Collector::http();
    let origin = Origin::new(|_| Response::builder().header("keep-alive", "x").body(text("it")).expect("a response"));
    let sidelight = setup(&collector, "", &backends(&[("origin", &origin)])).start();
    let _ = (&origin, StatusCode::OK);
    assert_eq!(get(&sidelight, "/pass/x", &format!("traceparent: 00-{:032x}-{PARENT}-01\r\n", 1)).status, 200);
    assert_eq!(get(&sidelight, "/pass/x", &format!("traceparent: 00-{:032x}-{PARENT}-01\r\n", 2)).status, 200);
    let got = collector.wait(&format!("{:032x}", 2));
    let sent = one(&got, |got| got.is(SpanKind::Client));
    assert_eq!(sent.get("sidelight.connection.reused"), "true");
    // A backend that nobody is at.
    let nobody = format!("[local_server.backends.origin]\nurl = \"http://{}\"\n", refused());
    let sidelight = setup(&collector, "", &nobody).start();
    assert_eq!(get(&sidelight, "/pass/x", &format!("traceparent: 00-{:032x}-{PARENT}-01\r\n", 3)).status, 502);
    let got = collector.wait(&format!("{:032x}", 3));
    let sent = one(&got, |got| got.is(SpanKind::Client));
    assert!(sent.failed() && sent.get("error.type") == "connection_refused", "{sent:?}");
}

/// A collector that is away, or refuses, or takes for ever: requests go on, and what is lost is counted.
#[test]
fn collectors_in_trouble() {
    let away = format!("http://{}", refused());
    let slow = Origin::new(|_| {
        std::thread::sleep(Duration::from_secs(3));
        Response::new(text(""))
    });
    let refuses = Origin::new(|_| Response::builder().status(StatusCode::FORBIDDEN).body(text("no")).expect("a response"));
    for url in [away, slow.url(), refuses.url()] {
        let host = format!(
            "[traces]\nendpoint = \"{url}\"\ndelay = \"20ms\"\nqueue = 200\ntimeout = \"300ms\"\n[services.it]\nmodule = \"{}\"\n",
            guest("rust", "hello").display()
        );
        let sidelight = Setup::host(&host).start();
        let mut connection = client::Connection::open(sidelight.addr);
        for _ in 0..200 {
            connection.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
            assert_eq!(connection.answer().status, 200);
        }
        let lost = |it: &Sidelight, why: &str| it.metric(&format!("sidelight_trace_spans_total{{result=\"{why}\"}}"));
        sidelight.wait_until("spans that are lost", |it| lost(it, "failed") > 0.0);
        sidelight.log.wait_for(&["traces cannot be exported"]);
        assert_eq!(get(&sidelight, "/", "").status, 200);
        if url == slow.url() {
            // No room in the queue, meanwhile.
            assert!(lost(&sidelight, "dropped") > 0.0);
        }
        sidelight.signal(Signal::SIGTERM);
        assert_eq!(sidelight.end().code(), Some(0));
    }
}

#[test]
fn by_variables() {
    let collector = Collector::http();
    let sidelight = Setup::new(guest("rust", "hello"))
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url())
        .env("OTEL_RESOURCE_ATTRIBUTES", "k8s.pod.name=p1,deployment.environment.name=staging")
        .env("OTEL_SERVICE_NAME", "shop")
        .env("OTEL_BSP_SCHEDULE_DELAY", "20")
        .env("OTEL_TRACES_SAMPLER", "sometimes")
        .start();
    sidelight.log.wait_for(&["OTEL_TRACES_SAMPLER, or a part of it, is not used"]);
    assert_eq!(sidelight.get("/").status, 200);
    let got = collector.only();
    let server = one(&got, |got| got.is(SpanKind::Server));
    let resource = ["service.name", "k8s.pod.name", "deployment.environment.name"].map(|key| server.of(key));
    assert_eq!(resource, ["shop", "p1", "staging"]);
}

/// A program that traces itself, with Fastly's own library: its spans are a part of the tree.
#[test]
fn programs_that_trace_themselves() {
    let collector = Collector::http();
    let theirs = Origin::fixed("{}");
    let origin = Origin::fixed("it");
    let host = format!(
        "[traces]\nendpoint = \"{}\"\ndelay = \"20ms\"\n[services.it]\nmanifest = \"fastly.toml\"\nmodule = \"{}\"\n",
        collector.url(),
        guest("js", "otel").display()
    );
    let manifest = format!("manifest_version = 3\nname = \"it\"\n{}", backends(&[("origin", &origin), ("otlp-collector", &theirs)]));
    let sidelight = Setup::host(&host).file("fastly.toml", &manifest).start();
    assert_eq!(get(&sidelight, "/", &traceparent("01")).text(), "it");
    let got = collector.wait(TRACE);
    sidelight.wait_until("the program's spans", |_| theirs.count() > 0);
    let sent: serde_json::Value = serde_json::from_slice(&theirs.last().body).expect("JSON");
    let scopes = sent["resourceSpans"][0]["scopeSpans"].as_array().expect("scopes");
    let theirs: Vec<&serde_json::Value> = scopes.iter().flat_map(|scope| scope["spans"].as_array().expect("spans")).collect();
    let named = |name: &str| *theirs.iter().find(|span| span["name"] == name).unwrap_or_else(|| panic!("no {name}: {theirs:?}"));
    assert!(theirs.iter().all(|span| span["traceId"] == TRACE));
    let ran = one(&got, |got| got.span.name == "guest");
    assert_eq!(named("FetchEvent")["parentSpanId"], ran.id());
    let fetch = one(&got, |got| got.get("sidelight.backend") == "origin");
    assert_eq!(named("Backend Fetch")["spanId"], fetch.parent());
    assert_eq!(origin.last().values("traceparent"), [format!("00-{TRACE}-{}-01", fetch.id())]);
    // Its own export is a request like others.
    let export = one(&got, |got| got.get("sidelight.backend") == "otlp-collector");
    assert!(export.is(SpanKind::Client) && export.get("url.full").ends_with("/v1/traces"));
}

/// The host's own work: reloads, and the programs they load.
#[test]
fn reloads() {
    let collector = Collector::http();
    let sidelight = setup(&collector, "", "").start();
    sidelight.write("fastly.toml", "manifest_version = 3\nname = \"it\"\nservice_id = \"another\"\n");
    drop(sidelight.reload());
    let of_host = |name: &str| {
        collector.got().into_iter().filter(|got| got.span.name == name && got.of("service.name") == "sidelight").collect::<Vec<_>>()
    };
    // It may have been seen before it was asked for.
    sidelight.wait_until("spans", |_| of_host("reload").iter().any(|got| got.get("generation") == "2"));
    let reload = of_host("reload").into_iter().find(|got| got.get("generation") == "2" && got.get("result") == "ok").expect("the second");
    assert_eq!((reload.get("result").as_str(), reload.get("generation").as_str()), ("ok", "2"));
    let load = of_host("load program").into_iter().find(|got| got.trace() == reload.trace()).expect("its program");
    assert_eq!((load.parent(), load.get("service").as_str()), (reload.id(), "it"));
}

#[test]
fn what_cannot_be() {
    let (status, log) = Setup::new(guest("rust", "hello")).arg("--otlp-endpoint collector:4318").fails();
    assert!(status.code() == Some(2) && log.contains("collector:4318") && log.contains("http"), "{log}");
    let (status, log) = Setup::new(guest("rust", "hello")).arg("--otlp-endpoint http://user:hunter2@c:4318").fails();
    assert!(status.code() == Some(2) && log.contains("it has a user") && !log.contains("hunter2"), "{log}");
    // `check` says the same.
    for more in [
        "endpoint = \"collector\"",
        "endpoint = \"http://c\"\nca_file = \"nope.pem\"",
        "endpoint = \"http://c\"\nheaders = { \"bad name\" = \"x\" }",
    ] {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("sidelight.toml");
        std::fs::write(&file, format!("[traces]\n{more}\n[services.it]\nmodule = \"{}\"\n", guest("rust", "hello").display()))
            .expect("writes");
        let output = Command::new(crate::harness::binary()).arg("check").arg(&file).output().expect("runs");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(2) && said.contains("[traces]"), "{said}");
    }
    let (status, log) = Setup::new(guest("rust", "hello")).arg("--otlp-endpoint http://c --trace most").fails();
    assert!(status.code() == Some(2) && log.contains("10/s"), "{log}");
}
