//! Through the guest to a backend and back.

use hyper::Response;

use crate::client::{self, Connection};
use crate::harness::{Setup, guest};
use crate::languages;
use crate::origin::{self, Origin, text};

fn echoing() -> Origin {
    Origin::new(|seen| {
        let mut response = Response::builder().status(if seen.target.contains("missing") { 404 } else { 201 });
        response = response
            .header("x-origin", "yes")
            .header("set-cookie", "a=1")
            .header("set-cookie", "b=2")
            .header("date", "Thu, 01 Jan 1970 00:00:00 GMT");
        response.body(text(seen.body.clone())).expect("a response")
    })
}

languages!(
    fn the_request_arrives_and_the_response_returns(language) {
        let origin = echoing();
        let sidelight = Setup::behaviours(language).backend("origin", origin.url()).start();
        let answer = client::send(
            sidelight.addr,
            "PATCH /pass/a/b%20c?q=1&q=2 HTTP/1.1\r\nHost: edge.test\r\nConnection: close\r\nX-One: 1\r\nContent-Length: 7\r\n\r\npayload",
        );
        assert_eq!(answer.status, 201, "{}", answer.text());
        assert_eq!(answer.text(), "payload");
        assert_eq!(answer.header("x-origin"), Some("yes"));
        assert_eq!(answer.values("set-cookie"), ["a=1", "b=2"]);
        assert_eq!(answer.header("date"), Some("Thu, 01 Jan 1970 00:00:00 GMT"), "the origin's date stays");
        assert_eq!(answer.values("date").len(), 1);
        let seen = origin.last();
        assert_eq!((seen.method.as_str(), seen.target.as_str()), ("PATCH", "/a/b%20c?q=1&q=2"));
        assert_eq!(seen.values("x-one"), ["1"]);
        assert_eq!(seen.values("host").len(), 1);
        assert_eq!(&seen.body[..], b"payload");
        assert_eq!(sidelight.get("/pass/missing").status, 404);
    }
);

languages!(
    fn large_bodies_both_ways(language) {
        let origin = echoing();
        let sidelight = Setup::behaviours(language).backend("origin", origin.url()).start();
        let body = "0123456789abcdef".repeat(512 << 10);
        let answer = sidelight.post("/pass/upload", &body);
        assert_eq!(answer.status, 201);
        assert!(answer.whole);
        assert!(answer.body == body.as_bytes(), "{} bytes came back of {}", answer.body.len(), body.len());
    }
);

languages!(
    fn a_refused_backend_is_the_guests_to_answer(language) {
        let sidelight = Setup::behaviours(language).backend("origin", format!("http://{}", origin::refused())).start();
        let answer = sidelight.get("/pass/x");
        assert_eq!(answer.status, 502);
        assert!(answer.text().starts_with("backend error: "), "{}", answer.text());
        assert!(answer.header("x-error").is_some());
        assert!(sidelight.metric("sidelight_backend_requests_total{backend=\"origin\",result=\"connection_refused\"}") >= 1.0);
        assert_eq!(sidelight.get("/synthetic").status, 418, "the next request is served");
    }
);

languages!(
    fn an_unresolvable_backend_is_the_guests_to_answer(language) {
        let sidelight = Setup::behaviours(language).backend("origin", "http://no-such-host.invalid").start();
        let answer = sidelight.get("/pass/x");
        assert_eq!(answer.status, 502);
        assert!(answer.text().starts_with("backend error: "), "{}", answer.text());
        let resolved = ["dns_error", "dns_timeout"].iter().any(|result| {
            sidelight.metric(&format!("sidelight_backend_requests_total{{backend=\"origin\",result=\"{result}\"}}")) >= 1.0
        });
        assert!(resolved);
    }
);

languages!(
    fn an_unknown_backend_is_the_guests_to_answer(language) {
        let sidelight = Setup::behaviours(language).start();
        let answer = sidelight.get("/pass/x");
        assert_eq!(answer.status, 502);
        assert!(answer.text().starts_with("backend error: "), "{}", answer.text());
    }
);

#[test]
fn the_sdk_learns_what_went_wrong() {
    let sidelight = Setup::behaviours("rust").backend("origin", format!("http://{}", origin::refused())).start();
    let text = sidelight.get("/pass/x").text().to_lowercase();
    assert!(text.contains("refused"), "{text}");
}

#[test]
fn connections_are_used_again() {
    let origin = echoing();
    let sidelight = Setup::behaviours("rust").backend("origin", origin.url()).start();
    for _ in 0..10 {
        assert_eq!(sidelight.get("/pass/x").status, 201);
    }
    assert_eq!(origin.count(), 10);
    assert_eq!(origin.connections(), 1);
    assert!(sidelight.metric("sidelight_backend_connections_total{backend=\"origin\",kind=\"reused\"}") >= 9.0);
}

#[test]
fn a_pooled_connection_that_has_died_is_replaced() {
    let first = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(true));
    // A raw server: answers once on each connection, promises keep-alive, and hangs up.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("binds");
    let addr = listener.local_addr().expect("an address");
    std::thread::spawn(move || {
        use std::io::{Read, Write};
        for stream in listener.incoming() {
            let mut stream = stream.expect("a connection");
            let mut scratch = [0; 4096];
            let read = stream.read(&mut scratch).unwrap_or(0);
            if read > 0 {
                stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").expect("writes");
            }
            first.store(false, std::sync::atomic::Ordering::Relaxed);
        }
    });
    let sidelight = Setup::behaviours("rust").backend("origin", format!("http://{addr}")).start();
    for _ in 0..5 {
        let answer = sidelight.get("/pass/x");
        assert_eq!((answer.status, answer.text().as_str()), (200, "ok"));
    }
}

#[test]
fn head_has_no_body_and_keeps_its_length() {
    let origin = Origin::new(|_| Response::builder().header("content-length", "5").body(text("hello")).expect("a response"));
    let sidelight = Setup::behaviours("rust").backend("origin", origin.url()).start();
    let mut connection = Connection::open(sidelight.addr);
    connection.write(b"HEAD /pass/x HTTP/1.1\r\nHost: a\r\n\r\n");
    let head = connection.head();
    assert_eq!((head.status, head.header("content-length")), (200, Some("5")));
    // The connection goes on: nothing of a body follows.
    connection.write(b"GET /pass/x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    assert_eq!(connection.answer().text(), "hello");
    assert!(connection.closed());
}

#[test]
fn path_prefix_and_override_host() {
    let origin = echoing();
    let manifest = format!("[local_server.backends.origin]\nurl = \"{}/base\"\noverride_host = \"www.example.com\"\n", origin.url());
    let sidelight = Setup::behaviours("rust").manifest(&manifest).start();
    assert_eq!(sidelight.get("/pass/x?y").status, 201);
    assert_eq!(origin.last().target, "/base/x?y");
    assert_eq!(origin.last().values("host"), ["www.example.com"]);
}

#[test]
fn a_backend_that_says_nothing_times_out() {
    let origin = Origin::raw(|_| async { std::future::pending::<Response<origin::Body>>().await });
    let manifest = format!("[local_server.backends.origin]\nurl = \"{}\"\nfirst_byte_timeout_ms = 200\n", origin.url());
    let sidelight = Setup::behaviours("rust").manifest(&manifest).start();
    let answer = sidelight.get("/pass/x");
    assert_eq!(answer.status, 502);
    assert!(answer.text().to_lowercase().contains("timeout"), "{}", answer.text());
    assert!(sidelight.metric("sidelight_backend_requests_total{backend=\"origin\",result=\"http_response_timeout\"}") >= 1.0);
}

#[test]
fn a_backend_that_stops_in_the_middle_is_not_a_clean_end() {
    let origin = Origin::raw(|_| async {
        let (sender, body) = origin::streamed();
        tokio::spawn(async move {
            drop(sender.send(Ok("half".into())).await);
            drop(sender.send(Err(std::io::Error::other("gone"))).await);
        });
        Response::new(body)
    });
    let sidelight = Setup::behaviours("rust").backend("origin", origin.url()).start();
    let mut connection = Connection::open(sidelight.addr);
    connection.write(b"GET /pass/x HTTP/1.1\r\nHost: a\r\n\r\n");
    let answer = connection.answer();
    assert!(!answer.whole, "{answer:?}");
    assert_eq!(sidelight.get("/synthetic").status, 418);
}

#[test]
fn a_request_that_goes_round_in_circles_is_508() {
    // Its backend is itself.
    let port = std::net::TcpListener::bind("127.0.0.1:0").expect("binds").local_addr().expect("an address").port();
    let sidelight = Setup::new(guest("rust", "passthrough"))
        .backend("origin", format!("http://127.0.0.1:{port}"))
        .arg(&format!("--addr 127.0.0.1:{port}"))
        .start();
    assert_eq!(sidelight.get("/").status, 508);
    sidelight.wait_metric("sidelight_requests_total{code=\"508\"}", 9.0);
}
