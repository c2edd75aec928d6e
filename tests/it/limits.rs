//! Guests that misbehave, and clients that do: the damage stays with them.

use std::time::Duration;

use hyper::Response;
use nix::sys::signal::Signal;

use crate::client::{self, Answer, Connection};
use crate::harness::{Setup, Sidelight, guest};
use crate::languages;
use crate::origin::{Origin, text};

fn misbehave() -> Setup {
    Setup::new(guest("rust", "misbehave"))
}

/// An answer that says nothing but an id, under which the log has the cause.
fn opaque(sidelight: &Sidelight, answer: &Answer, status: u16, cause: &str) {
    assert_eq!(answer.status, status, "{}", answer.text());
    let id = answer.header("x-request-id").expect("an id");
    let text = answer.text();
    assert!(text.contains(id), "{text}");
    assert!(text.lines().count() == 2 && !text.contains("wasm") && !text.contains("trap"), "it tells too much: {text}");
    sidelight.log.wait_for(&[id, cause]);
}

#[test]
fn a_trap_is_an_opaque_500() {
    let sidelight = misbehave().start();
    let answer = sidelight.get("/trap");
    opaque(&sidelight, &answer, 500, "unreachable");
    assert_eq!(sidelight.get("/ok").text(), "ok\n");
    sidelight.wait_metric("sidelight_guests_total{outcome=\"trapped\"}", 1.0);
}

#[test]
fn a_loop_ends_at_the_cpu_limit() {
    let sidelight = misbehave().arg("--cpu-limit 100ms").start();
    let answer = sidelight.get("/loop");
    opaque(&sidelight, &answer, 500, "cpu_limit");
    sidelight.log.wait_for(&[answer.header("x-request-id").expect("an id"), "more CPU time than production"]);
    assert!(sidelight.metric("sidelight_guest_cpu_over_production_total") >= 1.0);
    assert_eq!(sidelight.get("/ok").text(), "ok\n");
}

#[test]
fn others_are_served_while_loops_run() {
    let sidelight = misbehave().arg("--cpu-limit 1s").start();
    let mut looping: Vec<Connection> = (0..8)
        .map(|_| {
            let mut connection = Connection::open(sidelight.addr);
            connection.write(b"GET /loop HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
            connection
        })
        .collect();
    sidelight.wait_metric("sidelight_sandboxes", 8.0);
    for _ in 0..20 {
        assert_eq!(sidelight.get("/ok").text(), "ok\n");
    }
    for connection in &mut looping {
        assert_eq!(connection.answer().status, 500);
    }
}

#[test]
fn a_guest_that_computes_for_long_moves_and_goes_on() {
    let origin = Origin::new(|seen| Response::new(text(seen.body.clone())));
    let sidelight = misbehave().backend("origin", origin.url()).start();
    let answer = sidelight.post("/heavy", "heavy");
    assert_eq!((answer.status, answer.text().as_str()), (200, "heavy"));
    assert!(answer.whole);
    assert_eq!(&origin.last().body[..], b"heavy");
    assert!(sidelight.metric("sidelight_guests_heavy_total") >= 1.0);
    // A connection it made is as good as any other.
    assert_eq!(sidelight.post("/heavy", "a").text(), "a");
    assert_eq!(origin.connections(), 1);
    sidelight.wait_metric("sidelight_sandboxes", 0.0);
}

/// A program that tends to compute for long runs where such guests run from the start, and elsewhere again when it does not any more.
#[test]
fn a_program_whose_guests_compute_for_long() {
    let sidelight = misbehave().arg("--cpu-limit 30ms").start();
    let heavy = |sidelight: &Sidelight| sidelight.metric("sidelight_guests_heavy_total");
    for i in 1..=10 {
        assert_eq!(sidelight.get("/loop").status, 500);
        sidelight.wait_metric("sidelight_sandboxes", 0.0);
        assert!((heavy(&sidelight) - f64::from(i)).abs() < 0.5, "{i}");
    }
    for _ in 0..20 {
        assert_eq!(sidelight.get("/").text(), "ok\n");
    }
    sidelight.wait_metric("sidelight_sandboxes", 0.0);
    assert!((heavy(&sidelight) - 10.0).abs() < 0.5);
}

#[test]
fn a_guest_is_not_charged_for_time_it_had_no_processor() {
    let origin = Origin::new(|seen| Response::new(text(seen.body.clone())));
    let sidelight = misbehave().backend("origin", origin.url()).arg("--cpu-limit 2s").start();
    let mut connection = Connection::open(sidelight.addr);
    // It computes for 32 times 30 ms.
    let body = "x".repeat(30);
    connection.write(format!("POST /heavy HTTP/1.1\r\nHost: a\r\nContent-Length: 30\r\n\r\n{body}").as_bytes());
    sidelight.wait_metric("sidelight_guests_heavy_total", 1.0);
    sidelight.signal(Signal::SIGSTOP);
    std::thread::sleep(Duration::from_secs(3));
    sidelight.signal(Signal::SIGCONT);
    let answer = connection.answer();
    assert_eq!((answer.status, answer.text()), (200, body));
    sidelight.wait_metric("sidelight_guests_total{outcome=\"finished\"}", 1.0);
}

#[test]
fn a_guest_that_moved_keeps_its_wall_limit() {
    let sidelight = misbehave().arg("--wall-limit 200ms --cpu-limit 1m --max-sandboxes 1").start();
    let answer = sidelight.get("/loop");
    opaque(&sidelight, &answer, 503, "wall_limit");
    assert!(sidelight.metric("sidelight_guests_heavy_total") >= 1.0);
    assert_eq!(sidelight.get("/ok").text(), "ok\n");
}

#[test]
fn all_memory_is_an_opaque_500() {
    let sidelight = misbehave().start();
    let answer = sidelight.get("/memory");
    opaque(&sidelight, &answer, 500, "memory_limit");
    assert_eq!(sidelight.get("/ok").text(), "ok\n");
}

#[test]
fn the_wall_limit_is_a_503() {
    let sidelight = Setup::behaviours("rust").arg("--wall-limit 300ms").start();
    // The response has begun: what is left to do is to cut it off.
    let mut connection = Connection::open(sidelight.addr);
    connection.write(b"GET /stream?n=100&ms=100 HTTP/1.1\r\nHost: a\r\n\r\n");
    assert!(!connection.answer().whole);
    sidelight.wait_metric("sidelight_guests_total{outcome=\"wall_limit\"}", 1.0);
    sidelight.wait_metric("sidelight_sandboxes", 0.0);
}

#[test]
fn an_exit_code_without_an_answer() {
    let sidelight = misbehave().start();
    let answer = sidelight.get("/exit?code=3");
    opaque(&sidelight, &answer, 500, "exit code 3");
}

#[test]
fn no_answer_at_all() {
    let sidelight = misbehave().start();
    let answer = sidelight.get("/silent");
    opaque(&sidelight, &answer, 500, "without sending a response");
}

#[test]
fn a_guest_may_go_on_after_its_answer() {
    let sidelight = misbehave().start();
    let answer = sidelight.get("/late");
    assert!(answer.whole);
    sidelight.wait_metric("sidelight_guests_total{outcome=\"finished\"}", 1.0);
}

#[test]
fn a_trap_in_the_middle_of_a_response_cuts_it_off() {
    let sidelight = misbehave().start();
    let mut connection = Connection::open(sidelight.addr);
    connection.write(b"GET /late-trap HTTP/1.1\r\nHost: a\r\n\r\n");
    let answer = connection.answer();
    assert_eq!(answer.status, 200);
    assert!(!answer.whole, "a truncated response must not look complete");
    assert_eq!(sidelight.get("/ok").text(), "ok\n");
}

#[test]
fn more_than_there_are_sandboxes_is_503_with_retry_after() {
    let sidelight = Setup::behaviours("rust").arg("--max-sandboxes 1 --queue-timeout 50ms").start();
    let mut busy = Connection::open(sidelight.addr);
    busy.write(b"GET /stream?n=100&ms=50 HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(busy.head().status, 200);
    let refused = sidelight.get("/synthetic");
    assert_eq!(refused.status, 503);
    assert_eq!(refused.header("retry-after"), Some("1"));
    drop(busy);
    // The stream's reader is gone, so its guest ends, and its sandbox is free again.
    sidelight.wait_metric("sidelight_sandboxes", 0.0);
    assert_eq!(sidelight.get("/synthetic").status, 418);
}

#[test]
fn a_queued_request_gets_the_next_free_sandbox() {
    let sidelight = Setup::behaviours("rust").arg("--max-sandboxes 1 --queue-timeout 30s").start();
    let mut busy = Connection::open(sidelight.addr);
    busy.write(b"GET /stream?n=5&ms=50 HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(busy.head().status, 200);
    assert_eq!(sidelight.get("/synthetic").status, 418);
}

languages!(
    fn a_client_that_goes_away_in_the_middle_of_its_body(language) {
        let sidelight = Setup::behaviours(language).start();
        for _ in 0..3 {
            let mut connection = Connection::open(sidelight.addr);
            connection.write(b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\nonly this");
            sidelight.wait_metric("sidelight_sandboxes", 1.0);
            drop(connection);
            sidelight.wait_metric("sidelight_sandboxes", 0.0);
        }
        assert_eq!(sidelight.get("/synthetic").status, 418);
        sidelight.wait_metric("sidelight_requests_in_flight", 0.0);
    }
);

#[test]
fn a_client_that_stops_reading_is_let_go() {
    let origin = Origin::raw(|_| async {
        let (sender, body) = crate::origin::streamed();
        tokio::spawn(async move { while sender.send(Ok(bytes::Bytes::from(vec![b'x'; 64 << 10]))).await.is_ok() {} });
        Response::new(body)
    });
    let sidelight = Setup::behaviours("rust").backend("origin", origin.url()).arg("--client-timeout 300ms").start();
    let mut connection = Connection::open(sidelight.addr);
    connection.write(b"GET /pass/endless HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(connection.head().status, 200);
    sidelight.wait_metric("sidelight_sandboxes", 0.0);
    sidelight.wait_metric("sidelight_requests_in_flight", 0.0);
    sidelight.wait_metric("sidelight_refusals_total{reason=\"reader_timeout\"}", 1.0);
    assert_eq!(sidelight.get("/synthetic").status, 418);
}

#[test]
fn a_client_that_stops_sending_is_let_go() {
    let sidelight = Setup::behaviours("rust").arg("--client-timeout 300ms").start();
    let mut connection = Connection::open(sidelight.addr);
    connection.write(b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nonly this");
    sidelight.wait_metric("sidelight_sandboxes", 1.0);
    sidelight.wait_metric("sidelight_sandboxes", 0.0);
    assert_eq!(sidelight.get("/synthetic").status, 418);
    std::thread::sleep(Duration::from_millis(10));
    drop(connection);
}

#[test]
fn requests_to_backends_are_bounded_and_reported() {
    let origin = Origin::fixed("x");
    let sidelight = misbehave().backend("origin", origin.url()).arg("--max-backend-requests 40").start();
    let over = "sidelight_guest_backend_requests_over_production_total";
    assert_eq!(sidelight.get("/many?n=32").text(), "32 None\n");
    sidelight.wait_metric("sidelight_sandboxes", 0.0);
    assert!(sidelight.metric(over) < 0.5);
    let told = sidelight.get("/many?n=41").text();
    assert!(told.starts_with("40 Some(") && told.contains("LIMIT_EXCEEDED"), "{told}");
    sidelight.wait_metric(over, 1.0);
    sidelight.log.wait_for(&["more requests to backends than production allows", "backend_requests=41"]);
}

/// As production does it, all of it.
#[test]
fn productions_limits() {
    let origin = Origin::fixed("x");
    let sidelight = misbehave().backend("origin", origin.url()).arg("--limits production").start();
    let told = sidelight.get("/many?n=33").text();
    assert!(told.starts_with("32 Some(") && told.contains("LIMIT_EXCEEDED"), "{told}");
    opaque(&sidelight, &sidelight.get("/loop"), 500, "cpu_limit");
}

/// A head of 70 KiB: more than production takes, and less than the host does.
#[test]
fn large_heads_are_reported_or_refused() {
    let large = "x".repeat(70 << 10);
    let origin = {
        let large = large.clone();
        Origin::new(move |seen| {
            let answer = Response::builder();
            let answer = if seen.target.contains("large") { answer.header("x-large", &large) } else { answer };
            answer.body(text("x")).expect("an answer")
        })
    };
    let request = format!("GET /many?n=1 HTTP/1.1\r\nHost: edge.test\r\nX-Large: {large}\r\nConnection: close\r\n\r\n");
    let over = |head: &str| format!("sidelight_header_fields_over_production_total{{head=\"{head}\"}}");
    for (preset, status, told) in [("staging", 200, "1 None\n"), ("production", 503, "0 Some(")] {
        let sidelight = misbehave().backend("origin", origin.url()).arg(&format!("--limits {preset}")).start();
        let before = origin.count();
        let answer = client::send(sidelight.addr, &request);
        assert_eq!(answer.status, status);
        assert_eq!(origin.count() - before, usize::from(status == 200));
        sidelight.wait_metric(&over("request"), 1.0);
        sidelight.log.wait_for(&["a request has more header fields than production takes", "limit=70656"]);
        let text = sidelight.get("/many?n=1&large=1").text();
        assert!(text.starts_with(told), "{preset}: {text}");
        assert_eq!(text.contains("HttpResponseHeaderSectionTooLarge"), preset == "production", "{text}");
        sidelight.wait_metric(&over("response"), 1.0);
        sidelight.log.wait_for(&["a backend's response has more header fields than production takes"]);
        assert_eq!(sidelight.get("/many?n=1").text(), "1 None\n");
    }
}

#[test]
fn a_guest_is_told_what_it_uses() {
    let sidelight = misbehave().start();
    assert_eq!(sidelight.get("/meter").text(), format!("true true {}\n", 20 << 20));
}

/// A program by itself: its arguments, its output, its exit code.
#[test]
fn a_program_that_is_run_once() {
    let run = |program: &str| {
        let mut command = std::process::Command::new(crate::harness::binary());
        command.arg("run").arg(guest("rust", program)).args(["-x", "--verbose"]).env_remove("RUST_LOG");
        let output = command.output().expect("runs");
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    assert_eq!(run("hello").0, Some(0));
    let (code, out, _) = run("handoff");
    assert_eq!((code, out.as_str()), (Some(0), "upgrade: Ok(None)\n"));
    let output = std::process::Command::new(crate::harness::binary()).args(["run", "/nowhere.wasm"]).output().expect("runs");
    assert_eq!(output.status.code(), Some(4), "{output:?}");
}

/// Where a program spends its CPU time, for Firefox's profiler.
#[test]
fn profiles() {
    let folder = tempfile::tempdir().expect("a folder");
    let profiles = folder.path().join("profiles");
    let sidelight = misbehave().arg(&format!("--cpu-limit 200ms --profile guest,{},1ms", profiles.display())).start();
    assert_eq!(sidelight.get("/loop").status, 500);
    sidelight.wait_metric("sidelight_sandboxes", 0.0);
    let files: Vec<_> = std::fs::read_dir(&profiles).expect("a folder").map(|entry| entry.expect("an entry").path()).collect();
    assert_eq!(files.len(), 1);
    let profile: serde_json::Value = serde_json::from_slice(&std::fs::read(&files[0]).expect("a file")).expect("JSON");
    let samples = profile["threads"][0]["samples"]["length"].as_u64().expect("a number");
    assert!(samples > 20, "{samples}");
    // The test programs carry no names.
    assert!(profile["threads"][0]["stringArray"].to_string().contains("wasm function"), "no function of the program's");
    let (status, log) = misbehave().arg("--profile flame").fails();
    assert_eq!(status.code(), Some(2), "{log}");
    assert!(log.contains("`flame` is no kind of profile"), "{log}");
}
