//! Where the records of log endpoints go.

use std::io::{BufRead as _, BufReader};
use std::net::{TcpListener, UdpSocket};
use std::process::Command;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use hyper::{Response, StatusCode};
use nix::sys::signal::Signal;
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value};

use crate::harness::{PATIENCE, Setup, Sidelight};
use crate::languages;
use crate::origin::{Origin, text};
use crate::redis::Redis;
use crate::tls::Authority;

fn setup(endpoint: &str) -> Setup {
    Setup::behaviours("rust").manifest(&format!("[sidelight.logs.events]\n{endpoint}\n"))
}

fn say(sidelight: &Sidelight, message: &str) {
    assert_eq!(sidelight.get(&format!("/log?msg={message}")).text(), "logged\n");
}

fn json(line: &str) -> serde_json::Value {
    serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))
}

fn is_record(record: &serde_json::Value, message: &str) {
    assert_eq!(
        (record["message"].as_str(), record["service"].as_str(), record["endpoint"].as_str()),
        (Some(message), Some("it"), Some("events"))
    );
    assert_eq!(record["request_id"].as_str().map(str::len), Some(36));
    assert!(record["time"].as_str().is_some_and(|time| time.ends_with('Z')), "{record}");
}

languages!(
    fn a_file(language) {
        let sidelight =
            Setup::behaviours(language).manifest("[sidelight.logs.events]\nkind = \"file\"\npath = \"events.log\"\n").start();
        say(&sidelight, "one");
        say(&sidelight, "two");
        let read = |it: &Sidelight| std::fs::read_to_string(it.path("events.log")).unwrap_or_default();
        sidelight.wait_until("both records", |it| read(it).lines().count() == 2);
        for (line, message) in read(&sidelight).lines().zip(["one", "two"]) {
            is_record(&json(line), message);
        }
        sidelight.wait_metric("sidelight_log_records_total{result=\"written\"}", 2.0);
    }
);

#[test]
fn standard_output() {
    let folder = tempfile::tempdir().expect("a folder");
    // What the process prints is looked at by its file.
    let out = folder.path().join("out");
    let manifest = "name = \"it\"\n[sidelight.logs.\"*\"]\nkind = \"stdout\"\n";
    std::fs::write(folder.path().join("fastly.toml"), manifest).expect("a file");
    let mut child = Command::new(crate::harness::binary())
        .args(["serve", "--addr", "127.0.0.1:0", "--cache-dir"])
        .arg(folder.path().join("modules"))
        .arg(folder.path().join("fastly.toml"))
        .arg(crate::harness::guest("rust", "behaviours"))
        .stdout(std::fs::File::create(&out).expect("a file"))
        .stderr(std::process::Stdio::piped())
        .spawn()
        .expect("starts");
    let lines = BufReader::new(child.stderr.take().expect("a pipe")).lines();
    let addr =
        lines.map_while(Result::ok).find_map(|line| line.split("Listening on http://").nth(1).and_then(|addr| addr.trim().parse().ok()));
    let addr = addr.expect("an address");
    let answer = crate::client::send(addr, "GET /log?msg=tidings HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    assert_eq!(answer.text(), "logged\n");
    let deadline = std::time::Instant::now() + PATIENCE;
    let line = loop {
        if let Some(line) = std::fs::read_to_string(&out).expect("reads").lines().next() {
            break line.to_owned();
        }
        assert!(std::time::Instant::now() < deadline, "nothing is printed");
        std::thread::sleep(Duration::from_millis(10));
    };
    child.kill().expect("dies");
    child.wait().expect("ends");
    is_record(&json(&line), "tidings");
}

fn is_syslog(message: &str) {
    let parts: Vec<&str> = message.splitn(7, ' ').collect();
    assert_eq!((parts[0], parts[2], parts[3], parts[5]), ("<142>1", "-", "it", "events"), "{message}");
    assert!(message.contains("[sidelight@32473 request_id=\"") && message.ends_with("] tidings"), "{message}");
}

#[test]
fn syslog_by_udp() {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("binds");
    socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let url = socket.local_addr().expect("an address");
    let sidelight = setup(&format!("kind = \"syslog\"\nurl = \"udp://{url}\"\nfacility = \"local1\"")).start();
    say(&sidelight, "tidings");
    let mut buffer = [0; 2000];
    let length = socket.recv(&mut buffer).expect("a message");
    is_syslog(std::str::from_utf8(&buffer[..length]).expect("text"));
}

/// Messages of a stream, counted by octets.
fn messages(mut stream: impl std::io::Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        loop {
            let mut length = 0;
            loop {
                let mut byte = [0];
                match stream.read_exact(&mut byte) {
                    Ok(()) if byte[0] == b' ' => break,
                    Ok(()) => length = length * 10 + usize::from(byte[0] - b'0'),
                    Err(_) => return,
                }
            }
            let mut message = vec![0; length];
            if stream.read_exact(&mut message).is_err() || sender.send(String::from_utf8(message).expect("text")).is_err() {
                return;
            }
        }
    });
    receiver
}

#[test]
fn syslog_by_tcp_and_again_after_a_loss() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
    let url = listener.local_addr().expect("an address");
    let sidelight = setup(&format!("kind = \"syslog\"\nurl = \"tcp://{url}\"\nfacility = \"local1\"")).start();
    say(&sidelight, "tidings");
    let (stream, _) = listener.accept().expect("a connection");
    let received = messages(stream.try_clone().expect("a stream"));
    is_syslog(&received.recv_timeout(PATIENCE).expect("a message"));
    stream.shutdown(std::net::Shutdown::Both).expect("ends");
    drop(stream);
    std::thread::sleep(Duration::from_millis(50));
    say(&sidelight, "tidings");
    let (stream, _) = listener.accept().expect("another connection");
    is_syslog(&messages(stream).recv_timeout(PATIENCE).expect("a message"));
}

#[test]
fn syslog_by_tls() {
    let authority = Authority::new();
    let leaf = authority.leaf(&["localhost"]);
    let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
    let port = listener.local_addr().expect("an address").port();
    let key = rustls_pki_types::PrivateKeyDer::Pkcs8(leaf.key_der.clone().into());
    let config = rustls::ServerConfig::builder_with_provider(std::sync::Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![leaf.der.clone()], key)
        .expect("a certificate");
    let sidelight = setup(&format!("kind = \"syslog\"\nurl = \"tls://localhost:{port}\"\nfacility = \"local1\"\nca_file = \"ca.pem\""))
        .file("ca.pem", &authority.pem)
        .start();
    say(&sidelight, "tidings");
    let (stream, _) = listener.accept().expect("a connection");
    let connection = rustls::ServerConnection::new(std::sync::Arc::new(config)).expect("a connection");
    is_syslog(&messages(rustls::StreamOwned::new(connection, stream)).recv_timeout(PATIENCE).expect("a message"));
}

/// rsyslog takes what we send, as RFC 5424 has it.
#[test]
fn a_real_syslog_server() {
    let folder = tempfile::tempdir().expect("a folder");
    let port = crate::redis::free_port();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let config = format!(
        "module(load=\"imtcp\")\ninput(type=\"imtcp\" address=\"127.0.0.1\" port=\"{port}\")\n\
         template(name=\"t\" type=\"string\" string=\"%app-name%|%msgid%|%structured-data%|%syslogfacility-text%|%msg%\\n\")\n\
         *.* action(type=\"omfile\" file=\"{}\" template=\"t\")\n",
        path("out")
    );
    std::fs::write(folder.path().join("conf"), config).expect("a file");
    let mut server = Command::new("rsyslogd")
        .args(["-n", "-f", &path("conf"), "-i", &path("pid")])
        .spawn()
        .expect("rsyslogd has to be installed (Debian: rsyslog)");
    let deadline = std::time::Instant::now() + PATIENCE;
    while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(std::time::Instant::now() < deadline, "rsyslogd does not listen");
        std::thread::sleep(Duration::from_millis(20));
    }
    let sidelight = setup(&format!("kind = \"syslog\"\nurl = \"tcp://127.0.0.1:{port}\"")).start();
    say(&sidelight, "tidings");
    sidelight.wait_until("the message", |_| std::fs::read_to_string(folder.path().join("out")).is_ok_and(|text| text.contains("tidings")));
    let text = std::fs::read_to_string(folder.path().join("out")).expect("reads");
    server.kill().expect("dies");
    server.wait().expect("ends");
    let line = text.lines().find(|line| line.contains("tidings")).expect("a line");
    assert!(
        line.starts_with("it|events|[sidelight@32473 request_id=\"") && line.contains("|local0|") && line.ends_with("tidings"),
        "{line}"
    );
}

#[test]
fn batches_by_http() {
    let origin = Origin::fixed("");
    let endpoint = format!(
        "kind = \"http\"\nurl = \"{}/take\"\nflush_ms = 200\nheaders = {{ x-team = \"edge\" }}\nauthorization_file = \"token\"",
        origin.url()
    );
    let sidelight = setup(&endpoint).file("token", "Bearer one\n").start();
    for message in ["one", "two", "three"] {
        say(&sidelight, message);
    }
    let records = |origin: &Origin| {
        origin.seen().iter().flat_map(|seen| String::from_utf8_lossy(&seen.body).lines().map(json).collect::<Vec<_>>()).collect::<Vec<_>>()
    };
    sidelight.wait_until("three records", |_| records(&origin).len() == 3);
    for (record, message) in records(&origin).iter().zip(["one", "two", "three"]) {
        is_record(record, message);
    }
    let seen = origin.last();
    assert_eq!((seen.method.as_str(), seen.target.as_str()), ("POST", "/take"));
    assert_eq!((seen.values("x-team"), seen.values("authorization")), (vec!["edge"], vec!["Bearer one"]));
    sidelight.write("token", "Bearer two");
    say(&sidelight, "four");
    sidelight.wait_until("the new token", |_| origin.last().values("authorization") == ["Bearer two"]);
    sidelight.write("token", "Bea\nrer");
    sidelight.log.wait_for(&["log endpoint `events`", "token: this cannot be the value of a header field"]);
    sidelight.write("token", "Bearer two");
    sidelight.wait_until("the good one", |it| it.operate("GET", "/status").json()["degraded"] == false);
    assert!(!sidelight.log.text().contains("Bearer"));
    // At the end nothing is lost that is still being gathered.
    say(&sidelight, "last");
    sidelight.signal(Signal::SIGTERM);
    assert!(sidelight.end().success());
    assert_eq!(records(&origin).len(), 5);
}

#[test]
fn otlp() {
    let origin = Origin::fixed("{}");
    let sidelight = setup(&format!("kind = \"otlp\"\nurl = \"{}/v1/logs\"\nflush_ms = 50", origin.url())).start();
    say(&sidelight, "tidings");
    sidelight.wait_until("a record", |_| origin.count() == 1);
    let seen = origin.last();
    assert_eq!(seen.values("content-type"), ["application/json"]);
    let sent: ExportLogsServiceRequest = serde_json::from_slice(&seen.body).expect("an ExportLogsServiceRequest");
    let text = |attributes: &[KeyValue], key: &str| {
        let found = attributes.iter().find(|attribute| attribute.key == key).and_then(|attribute| attribute.value.clone());
        match found.and_then(|value| value.value) {
            Some(any_value::Value::StringValue(text)) => text,
            other => panic!("{key}: {other:?}"),
        }
    };
    let logs = &sent.resource_logs[0];
    assert_eq!(text(&logs.resource.as_ref().expect("a resource").attributes, "service.name"), "it");
    let record = &logs.scope_logs[0].log_records[0];
    assert_eq!(record.body.clone().and_then(|body| body.value), Some(any_value::Value::StringValue("tidings".to_owned())));
    assert!(record.time_unix_nano > 1_700_000_000_000_000_000 && record.severity_number == 9);
    assert_eq!(text(&record.attributes, "fastly.log.endpoint"), "events");
    assert_eq!(text(&record.attributes, "request.id").len(), 36);
}

#[test]
fn a_stream_of_redis() {
    let redis = Redis::start();
    let sidelight = setup("kind = \"redis\"\nstream = \"tales\"").arg(&format!("--redis {}", redis.url())).start();
    say(&sidelight, "tidings");
    sidelight.wait_until("a record", |_| redis.say("XLEN tales").trim() == ":1");
    let entry = redis.say("XRANGE tales - +");
    assert!(["tidings", "request_id", "events", "it"].iter().all(|part| entry.contains(part)), "{entry}");
}

/// Somebody who takes nothing: guests do not wait, what finds no room is dropped and counted, and a reload keeps what waits.
#[test]
fn nobody_waits_for_a_sink() {
    let origin = Origin::new(|_| {
        std::thread::sleep(Duration::from_millis(300));
        Response::builder().status(StatusCode::SERVICE_UNAVAILABLE).body(text("")).expect("a response")
    });
    let sidelight = setup(&format!("kind = \"http\"\nurl = \"{}\"\nqueue = 5\nbatch = 1\nflush_ms = 1", origin.url())).start();
    for i in 0..30 {
        say(&sidelight, &i.to_string());
    }
    assert!(sidelight.metric("sidelight_log_records_total{result=\"dropped\"}") >= 20.0);
    sidelight.wait_until("a batch that is given up", |it| it.metric("sidelight_log_records_total{result=\"failed\"}") >= 1.0);
    sidelight.log.wait_for(&["records of a log endpoint are lost", "it answered 503"]);
    assert_eq!(sidelight.get("/synthetic").status, 418);
}
