//! Log endpoints and standard streams.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::client;
use crate::harness::{PATIENCE, Setup, Sidelight, binary, guest};
use crate::languages;

languages!(
    fn records_reach_the_log_with_the_request_id(language) {
        let sidelight = Setup::behaviours(language).start();
        assert_eq!(sidelight.get("/log?msg=tidings").text(), "logged\n");
        let record = sidelight.log.wait_for(&["sidelight::guest_log", "events", "tidings"]);
        let id = |line: &str| line.split("request_id=").nth(1).map(|rest| rest.trim_matches('"').chars().take(36).collect::<String>());
        let request = id(&record).expect("a request id");
        assert_eq!(request.matches('-').count(), 4, "{record}");
        for stream in ["stdout", "stderr"] {
            let line = sidelight.log.wait_for(&[&format!("{stream}: tidings")]);
            assert_eq!(id(&line).as_ref(), Some(&request), "{line}");
            assert!(line.contains("service=\"it\""), "{line}");
        }
        assert!(sidelight.metric("sidelight_log_records_total{result=\"written\"}") >= 1.0);
    }
);

/// What a program logs cannot look like a line of somebody else's.
#[test]
fn a_record_is_one_line() {
    let sidelight = Setup::behaviours("rust").start();
    sidelight.get("/log?msg=a%0a2026-01-01T00:00:00Z%20%20WARN%20made%20up%0db");
    let line = sidelight.log.wait_for(&["sidelight::guest_log", r"a\n2026-01-01T00:00:00Z  WARN made up\rb"]);
    assert!(line.starts_with("20") && !sidelight.log.text().contains("\n2026-01-01"), "{line}");
}

#[test]
fn json_lines() {
    let sidelight = Setup::behaviours("rust").arg("--log-format json").start();
    assert_eq!(sidelight.get("/log?msg=tidings").status, 200);
    let line = sidelight.log.wait_for(&["sidelight::guest_log"]);
    let json: serde_json::Value = serde_json::from_str(&line).expect("JSON");
    assert_eq!(json["endpoint"], "events");
    assert_eq!(json["message"], "tidings");
}

/// Whoever reads the log may go away: no request and no end depends on it.
#[test]
fn a_log_that_nobody_takes() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("fastly.toml"), "name = \"it\"\n").expect("a manifest");
    let (addr, admin) = (free(), free());
    let mut child = std::process::Command::new(binary())
        .args(["serve", "-vvv", "--addr", &addr.to_string(), "--admin", &admin.to_string()])
        .arg("--cache-dir")
        .arg(folder.path().join("modules"))
        .arg(folder.path().join("fastly.toml"))
        .arg(guest("rust", "misbehave"))
        .stderr(std::process::Stdio::piped())
        .spawn()
        .expect("starts");
    drop(child.stderr.take());
    let deadline = std::time::Instant::now() + PATIENCE;
    while std::net::TcpStream::connect(addr).is_err() {
        assert!(std::time::Instant::now() < deadline, "it does not listen");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    for (path, status) in [("/trap", 500), ("/ok", 200), ("/silent", 500), ("/exit", 500)] {
        let answer = client::send(addr, &format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"));
        assert_eq!(answer.status, status, "{path}");
    }
    let metrics = client::send(admin, "GET /metrics HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").text();
    let lost = metrics.lines().find_map(|line| line.strip_prefix("sidelight_log_lines_lost_total ")).expect("a metric");
    assert!(lost.parse::<u64>().expect("a number") > 10, "{lost}");
    kill(Pid::from_raw(child.id() as i32), Signal::SIGTERM).expect("signals");
    while child.try_wait().expect("a status").is_none() {
        assert!(std::time::Instant::now() < deadline, "it does not end");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    assert_eq!(child.wait().expect("a status").code(), Some(0));
}

/// An address that was free a moment ago.
fn free() -> std::net::SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").expect("binds").local_addr().expect("an address")
}

/// Why a request got a 5xx is in the log, under its id, without asking for more of it.
#[test]
fn causes_are_in_the_log() {
    let nobody = free();
    let sidelight = Setup::new(guest("rust", "passthrough"))
        .backend("origin", format!("http://{nobody}"))
        .arg("--max-sandboxes 1 --queue-timeout 50ms")
        .start();
    assert!(sidelight.get("/").status >= 500);
    sidelight.log.wait_for(&["WARN", "a request to a backend failed", "backend=\"origin\"", "refused", "request_id="]);
    let sidelight = Setup::behaviours("rust").arg("--max-sandboxes 1 --queue-timeout 50ms").start();
    let mut held = client::Connection::open(sidelight.addr);
    held.write(b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhello");
    sidelight.wait_metric("sidelight_sandboxes", 1.0);
    let answer = sidelight.get("/synthetic");
    assert_eq!(answer.status, 503);
    sidelight.log.wait_for(&[
        "WARN",
        "no sandbox came free in time",
        "service=\"it\"",
        "bound=\"--max-sandboxes\"",
        answer.header("x-request-id").expect("an id"),
    ]);
    sidelight.wait_metric("sidelight_requests_overloaded_total", 1.0);
    drop(held);
    sidelight.log.wait_for(&["WARN", "a body that a guest reads broke off", "request_id="]);
}

/// A line for each request, in the form that the log has.
#[test]
fn the_access_log() {
    let ask = |sidelight: &Sidelight| {
        let request = "GET /synthetic?a=b&token=hunter2 HTTP/1.1\r\nHost: a.test\r\nUser-Agent: it \"1\"\r\nConnection: close\r\n\r\n";
        assert_eq!(client::send(sidelight.addr, request).status, 418);
    };
    let fields = "--access-log=method,host,path,query,status,bytes,service,client,user_agent,referer,version";
    let sidelight = Setup::behaviours("rust").arg(fields).start();
    ask(&sidelight);
    sidelight.log.wait_for(&[
        "method=GET host=a.test path=/synthetic query=\"a=b&token=REDACTED\" status=418 bytes=21 service=it client=127.0.0.1 \
         user_agent=\"it \\\"1\\\"\" referer=- version=1.1",
    ]);
    // Letters that break lines, or move a terminal's cursor, are not written as they are.
    let misleading =
        "GET /synthetic?\u{2028}=\u{85} HTTP/1.1\r\nHost: a.test\r\nUser-Agent: a\u{9b}2J\u{202e}b\r\nConnection: close\r\n\r\n";
    client::send(sidelight.addr, misleading);
    sidelight.log.wait_for(&["user_agent=\"a\\u009b2J\\u202eb\""]);
    assert!(!sidelight.log.text().contains(['\u{2028}', '\u{85}', '\u{9b}', '\u{202e}']));
    // One that is no request has none; one that no service has does.
    assert_eq!(client::send(sidelight.addr, "nonsense\r\n\r\n").status, 400);
    let sidelight = Setup::behaviours("rust").arg("--access-log --log-format json").start();
    ask(&sidelight);
    let line = sidelight.log.wait("the line", |line| line.contains("\"path\":\"/synthetic\"").then(|| line.to_owned()));
    let line: serde_json::Value = serde_json::from_str(&line).expect("JSON");
    assert_eq!((&line["status"], &line["bytes"], &line["trace_id"]), (&418.into(), &21.into(), &serde_json::Value::Null));
    assert_eq!(line["request_id"].as_str().map(str::len), Some(36));
    assert!(line["duration_ms"].as_f64().is_some_and(|time| time > 0.0 && time < 60_000.0));
    let (status, log) = Setup::behaviours("rust").arg("--access-log=colour").fails();
    assert!(status.code() == Some(2) && log.contains("`colour`") && log.contains("duration_ms"), "{log}");
}

/// What a guest was when it trapped, on request.
#[test]
fn core_dumps() {
    let folder = tempfile::tempdir().expect("a folder");
    let dumps = folder.path().join("dumps");
    let sidelight = Setup::new(guest("rust", "misbehave")).arg(&format!("--core-dumps {}", dumps.display())).start();
    assert_eq!(sidelight.get("/trap").status, 500);
    sidelight.log.wait_for(&["a core dump of the guest was written"]);
    let files: Vec<_> = std::fs::read_dir(&dumps).expect("the folder").map(|file| file.expect("a file").path()).collect();
    let dump = std::fs::read(&files[0]).expect("the dump");
    // A wasm module whose custom sections are the dump's (the tool conventions' format), with the guest's memory in it.
    assert!(dump.starts_with(b"\0asm") && dump.windows(9).any(|part| part == b"corestack") && dump.len() > 100_000, "{}", dump.len());
    // Nobody else's to read.
    use std::os::unix::fs::PermissionsExt as _;
    let mode = |path: &std::path::Path| std::fs::metadata(path).expect("there").permissions().mode() & 0o777;
    assert_eq!((mode(&dumps), mode(&files[0])), (0o700, 0o600));
    assert_eq!(sidelight.get("/").status, 200);
    assert_eq!(std::fs::read_dir(&dumps).expect("the folder").count(), 1);
}
