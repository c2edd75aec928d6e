//! Metrics, as Prometheus itself takes them.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::client;
use crate::harness::{PATIENCE, Setup, Sidelight, binary, guest};
use crate::origin::Origin;
use crate::redis::free_port;

/// A Prometheus that scrapes every second.
struct Prometheus {
    child: Child,
    addr: String,
    _folder: tempfile::TempDir,
}

impl Prometheus {
    fn start(sidelight: &Sidelight) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let config = folder.path().join("prometheus.yml");
        let text = format!(
            "global:\n  scrape_interval: 1s\nscrape_configs:\n- job_name: sidelight\n  static_configs:\n  - targets: [\"{}\"]\n",
            sidelight.admin
        );
        std::fs::write(&config, text).expect("writes");
        let addr = format!("127.0.0.1:{}", free_port());
        let child = Command::new("prometheus")
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.tsdb.path={}", folder.path().join("data").display()))
            .arg(format!("--web.listen-address={addr}"))
            .args(["--enable-feature=exemplar-storage", "--log.level=error"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("prometheus: {error} (Debian: prometheus)"));
        Self { child, addr, _folder: folder }
    }

    /// The first value of a query, once there is one that will do.
    fn wait(&self, query: &str, wanted: impl Fn(f64) -> bool) -> f64 {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let answer = self.ask(&format!("/api/v1/query?query={}", encoded(query)));
            let value = answer["data"]["result"][0]["value"][1].as_str().and_then(|value| value.parse().ok());
            if let Some(value) = value.filter(|value| wanted(*value)) {
                return value;
            }
            assert!(Instant::now() < deadline, "{query}: {answer}");
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    fn ask(&self, path: &str) -> Value {
        let addr = self.addr.parse().expect("an address");
        if std::net::TcpStream::connect(&self.addr).is_err() {
            return Value::Null;
        }
        let answer = client::send(addr, &format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"));
        serde_json::from_str(&answer.text()).unwrap_or_default()
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn encoded(text: &str) -> String {
    text.bytes().map(|byte| if byte.is_ascii_alphanumeric() { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

fn scrape(sidelight: &Sidelight, accept: &str) -> client::Answer {
    let request = format!("GET /metrics HTTP/1.1\r\nHost: a\r\nAccept: {accept}\r\nConnection: close\r\n\r\n");
    client::send(sidelight.admin, &request)
}

fn busy() -> (Origin, Sidelight) {
    let origin = Origin::fixed("hello");
    let sidelight = Setup::new(guest("rust", "passthrough")).backend("origin", origin.url()).start();
    for index in 0..20 {
        assert_eq!(sidelight.get(&format!("/{index}")).status, 200);
    }
    (origin, sidelight)
}

#[test]
fn promtool_finds_nothing_wrong() {
    let (_origin, sidelight) = busy();
    let mut check = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("promtool: {error} (Debian: prometheus)"));
    let text = scrape(&sidelight, "text/plain").text();
    std::io::Write::write_all(&mut check.stdin.take().expect("a pipe"), text.as_bytes()).expect("writes");
    let said = check.wait_with_output().expect("ends");
    let said = format!("{}{}", String::from_utf8_lossy(&said.stdout), String::from_utf8_lossy(&said.stderr));
    assert_eq!(said, "");
}

/// What is asked of a staging proxy first: how slow each backend is, and what programs call.
#[test]
fn prometheus_answers() {
    let (_origin, sidelight) = busy();
    let prometheus = Prometheus::start(&sidelight);
    prometheus.wait("up", |up| up == 1.0);
    prometheus.wait("count(sidelight_requests_total)", |count| count >= 1.0);
    let deadline = Instant::now() + PATIENCE;
    let slow = "histogram_quantile(0.99, sum by (backend, le) (rate(sidelight_backend_request_duration_seconds_bucket[10s])))";
    let rates = "sum(rate(sidelight_hostcalls_total{function=~\"send.*\"}[10s]))";
    let answered = |query: &str| {
        let answer = prometheus.ask(&format!("/api/v1/query?query={}", encoded(query)));
        answer["data"]["result"][0]["value"][1].as_str().and_then(|value| value.parse::<f64>().ok()).is_some_and(|value| value > 0.0)
    };
    let mut paths = (0..).map(|index| format!("/more/{index}"));
    while !(answered(slow) && answered(rates)) {
        assert!(Instant::now() < deadline, "no rates");
        assert_eq!(sidelight.get(&paths.next().expect("a path")).status, 200);
        std::thread::sleep(Duration::from_millis(50));
    }
    // It has taken OpenMetrics, in which counters' metadata have no suffix.
    let metadata = prometheus.ask("/api/v1/targets/metadata?metric=sidelight_requests");
    assert_eq!(metadata["data"][0]["type"], "counter", "{metadata}");
}

/// From a slow bucket to the trace of a request that was in it.
#[test]
fn exemplars_lead_to_traces() {
    let collector = Origin::fixed("");
    let sidelight = Setup::new(guest("rust", "hello")).arg(&format!("--otlp-endpoint {}", collector.url())).start();
    let prometheus = Prometheus::start(&sidelight);
    prometheus.wait("up", |up| up == 1.0);
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let request = format!("GET / HTTP/1.1\r\nHost: a\r\ntraceparent: 00-{trace}-00f067aa0ba902b7-01\r\nConnection: close\r\n\r\n");
    assert_eq!(client::send(sidelight.addr, &request).status, 200);
    let deadline = Instant::now() + PATIENCE;
    loop {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("a time").as_secs();
        let query = format!("query=sidelight_request_duration_seconds_bucket&start={}&end={}", now - 600, now + 600);
        let found = prometheus.ask(&format!("/api/v1/query_exemplars?{query}"));
        let example = &found["data"][0]["exemplars"][0];
        if example["labels"]["trace_id"] == trace {
            assert_eq!(found["data"][0]["seriesLabels"]["service"], "it");
            break;
        }
        assert!(Instant::now() < deadline, "no exemplar: {found}");
        std::thread::sleep(Duration::from_millis(200));
    }
}

#[test]
fn what_is_asked_for_is_what_comes() {
    let (_origin, sidelight) = busy();
    let plain = scrape(&sidelight, "text/plain;version=0.0.4");
    assert_eq!(plain.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    assert!(plain.text().contains("# TYPE sidelight_requests_total counter\n"));
    let open = scrape(&sidelight, "application/openmetrics-text;version=1.0.0,text/plain;q=0.5");
    assert_eq!(open.header("content-type"), Some("application/openmetrics-text; version=1.0.0; charset=utf-8"));
    assert!(
        open.text()
            .contains("# TYPE sidelight_requests counter\nsidelight_requests_total{code=\"200\",method=\"GET\",service=\"it\"} 20\n")
    );
    assert!(open.text().contains("sidelight_backend_request_duration_seconds_bucket{backend=\"origin\",service=\"it\",le=\"1.0\"} 20\n"));
    assert!(open.text().ends_with("\n# EOF\n"));
    let memory = sidelight.metric("process_resident_memory_bytes");
    assert!(memory > 1e6, "{memory}");
}

/// Bytes both ways, over both versions of HTTP.
#[test]
fn bytes_of_bodies() {
    let sidelight = Setup::behaviours("rust").start();
    let length = sidelight.post("/echo", &"x".repeat(1000)).body.len() as f64;
    assert!((sidelight.metric("sidelight_request_body_bytes_total") - 1000.0).abs() < 0.5);
    sidelight.wait_metric("sidelight_response_body_bytes_total", length);
    let body = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(body.path(), "x".repeat(500)).expect("writes");
    let sent = Command::new("curl")
        .args([
            "-s",
            "--http2-prior-knowledge",
            "--data-binary",
            &format!("@{}", body.path().display()),
            &format!("http://{}/echo", sidelight.addr),
        ])
        .output()
        .expect("curl");
    sidelight.wait_metric("sidelight_request_body_bytes_total", 1500.0);
    sidelight.wait_metric("sidelight_response_body_bytes_total", length + sent.stdout.len() as f64);
}

/// The rules we offer: valid, doing what they say on made-up series, and about metrics that there are.
#[test]
fn the_rules() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/prometheus");
    for args in [["check", "rules", "rules.yml"], ["test", "rules", "rules_test.yml"]] {
        let output = Command::new("promtool").args(args).current_dir(&folder).output().expect("promtool (Debian: prometheus)");
        let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success() && said.contains("SUCCESS"), "{said}");
    }
    let reference = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/observability.md")).expect("the document");
    let rules = std::fs::read_to_string(folder.join("rules.yml")).expect("the rules");
    let mut names = 0;
    for word in rules.split(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != ':').filter(|word| word.starts_with("sidelight_")) {
        let name = word.trim_end_matches("_bucket");
        assert!(reference.contains(&format!("| `{name}` |")), "{word}");
        names += 1;
    }
    assert!(names > 10);
}

/// Whatever clients send, there are no more series than before: nothing of theirs is a label.
#[test]
fn clients_make_no_series() {
    let sidelight = Setup::new(guest("rust", "hello")).start();
    let series = || scrape(&sidelight, "text/plain").text().lines().filter(|line| line.starts_with("sidelight_")).count();
    let ask = |connection: &mut client::Connection, method: &str, number: u32| {
        let fields = format!("Host: host-{number}.test\r\nUser-Agent: agent-{number}\"\\\r\nX-Forwarded-For: 192.0.2.{}\r\n", number % 250);
        connection.write(format!("{method} /path-{number}?q={number} HTTP/1.1\r\n{fields}\r\n").as_bytes());
        assert_eq!(connection.answer().status, 200);
    };
    let mut connection = client::Connection::open(sidelight.addr);
    // A method that is known, and one that is not.
    ask(&mut connection, "GET", 0);
    ask(&mut connection, "BREW", 0);
    sidelight.wait_metric("sidelight_requests_total", 2.0);
    let before = series();
    for number in 1..5000 {
        ask(&mut connection, if number % 2 == 0 { "GET" } else { "BREW" }, number);
    }
    for number in 0..50 {
        ask(&mut connection, &format!("BREW{number}"), number);
    }
    assert_eq!(series(), before);
    assert!((sidelight.metric("sidelight_requests_total{method=\"_OTHER\"}") - 2551.0).abs() < 0.5);
}

/// Switched off, there are none, also of requests that are traced.
#[test]
fn hostcalls_that_are_not_counted() {
    let collector = Origin::fixed("");
    let host = format!(
        "[metrics]\nhostcalls = false\n[traces]\nendpoint = \"{}\"\ndelay = \"20ms\"\n[services.it]\nmodule = \"{}\"\n",
        collector.url(),
        guest("rust", "hello").display()
    );
    let sidelight = Setup::host(&host).start();
    assert_eq!(sidelight.get("/").status, 200);
    sidelight.wait_until("a trace", |it| it.metric("sidelight_trace_spans_total{result=\"exported\"}") > 5.0);
    assert!(sidelight.metric("sidelight_requests_total") > 0.5);
    assert!(!scrape(&sidelight, "text/plain").text().contains("sidelight_hostcalls_total{"));
}

/// The reference in the documents is what the binary says of itself, and what it exports is in it.
#[test]
fn the_reference_is_true() {
    let output = Command::new(binary()).args(["metrics", "--docs"]).output().expect("runs");
    let reference = String::from_utf8(output.stdout).expect("text");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/observability.md");
    let document = std::fs::read_to_string(&path).expect("the document");
    let (begin, end) = ("<!-- sidelight metrics --docs -->\n\n", "\n<!-- end -->");
    let from = document.find(begin).expect("its beginning") + begin.len();
    let to = from + document[from..].find(end).expect("its end");
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(&path, format!("{}{reference}{}", &document[..from], &document[to..])).expect("writes");
    } else {
        assert_eq!(&document[from..to], reference, "docs/observability.md is not up to date: BLESS=1 cargo test the_reference");
    }
    let (_origin, sidelight) = busy();
    let text = scrape(&sidelight, "text/plain").text();
    for line in text.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
        let (name, kind) = line.split_once(' ').expect("name and type");
        assert!(reference.contains(&format!("| `{name}` | {kind} |")), "{line}");
    }
}
