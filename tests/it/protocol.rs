//! HTTP/1.1 towards clients: what is kept, what is refused.

use crate::client::{self, Connection};
use crate::harness::Setup;

fn start() -> crate::harness::Sidelight {
    Setup::behaviours("rust").start()
}

#[test]
fn a_connection_is_kept() {
    let sidelight = start();
    let mut connection = Connection::open(sidelight.addr);
    for i in 0..5 {
        connection.write(format!("POST /echo?{i} HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi").as_bytes());
        let answer = connection.answer();
        assert_eq!(answer.json()["url"], format!("http://a/echo?{i}"));
        assert_eq!(answer.header("connection"), None);
    }
    assert!((sidelight.metric("sidelight_connections") - 1.0).abs() < f64::EPSILON);
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let sidelight = start();
    let mut connection = Connection::open(sidelight.addr);
    connection.write(
        b"POST /echo?1 HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhiGET /echo?2 HTTP/1.1\r\nHost: a\r\n\r\nGET /echo?3 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
    );
    for i in 1..=3 {
        assert_eq!(connection.answer().json()["url"], format!("http://a/echo?{i}"));
    }
    assert!(connection.closed());
}

#[test]
fn close_means_close() {
    let sidelight = start();
    let mut connection = Connection::open(sidelight.addr);
    connection.write(b"GET /synthetic HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    assert_eq!(connection.answer().header("connection"), Some("close"));
    assert!(connection.closed());
}

#[test]
fn http_1_0() {
    let sidelight = start();
    let mut connection = Connection::open(sidelight.addr);
    connection.write(b"GET /stream?n=2&ms=50 HTTP/1.0\r\n\r\n");
    let answer = connection.answer();
    assert_eq!(answer.header("transfer-encoding"), None);
    assert_eq!(answer.text(), "piece 0\npiece 1\n");
    let mut connection = Connection::open(sidelight.addr);
    connection.write(b"GET /synthetic HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    assert_eq!(connection.answer().header("connection"), Some("keep-alive"));
    connection.write(b"GET /synthetic HTTP/1.0\r\n\r\n");
    assert_eq!(connection.answer().status, 418);
    assert!(connection.closed());
}

#[test]
fn expect_100_continue_is_answered_when_the_guest_reads() {
    let sidelight = start();
    let mut connection = Connection::open(sidelight.addr);
    connection.write(b"POST /echo HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n");
    assert_eq!(connection.head().status, 100);
    connection.write(b"hello");
    let answer = connection.answer();
    assert_eq!(answer.json()["body"], "hello");
    assert!(!answer.text().contains("100-continue"), "the expectation was met by us");
}

#[test]
fn expect_100_continue_is_not_answered_when_the_guest_does_not_read() {
    let sidelight = start();
    let mut connection = Connection::open(sidelight.addr);
    connection.write(b"POST /synthetic HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n");
    let answer = connection.answer();
    assert_eq!(answer.status, 418);
    // The body may or may not follow: the connection cannot go on.
    assert!(connection.closed());
}

#[test]
fn an_unread_body_does_not_become_the_next_request() {
    let sidelight = start();
    let mut connection = Connection::open(sidelight.addr);
    let smuggled = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n".repeat(4000);
    connection.write(format!("POST /synthetic HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", smuggled.len()).as_bytes());
    connection.try_write(smuggled.as_bytes());
    assert_eq!(connection.answer().status, 418);
    assert!(connection.closed());
}

fn refused(request: &str, status: u16) {
    let sidelight = start();
    let mut connection = Connection::open(sidelight.addr);
    // The refusal may come before everything is sent.
    connection.try_write(request.as_bytes());
    let answer = connection.answer();
    assert_eq!(answer.status, status, "{}", answer.text());
    assert!(answer.header("x-request-id").is_some());
    assert!(connection.closed());
    assert_eq!(sidelight.get("/synthetic").status, 418);
}

#[test]
fn a_long_target_is_414() {
    refused(&format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(8192)), 414);
}

#[test]
fn a_target_at_the_limit_is_served() {
    let sidelight = start();
    let path = format!("/echo?{}", "x".repeat(8192 - "/echo?".len()));
    assert_eq!(sidelight.get(&path).status, 200);
}

#[test]
fn a_large_head_is_431() {
    refused(&format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(140 << 10)), 431);
}

#[test]
fn a_huge_head_is_431() {
    refused(&format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(3 << 20)), 431);
}

#[test]
fn too_many_headers_are_431() {
    refused(&format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: 1\r\n".repeat(300)), 431);
}

#[test]
fn what_is_not_http_is_400() {
    refused("hello there\r\n\r\n", 400);
}

#[test]
fn no_host_is_400() {
    refused("GET / HTTP/1.1\r\n\r\n", 400);
}

#[test]
fn two_hosts_are_400() {
    refused("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400);
}

#[test]
fn a_host_that_is_none_is_400() {
    refused("GET / HTTP/1.1\r\nHost: a b/c\r\n\r\n", 400);
    for place in ["a:99999999", "a:65536", "a:+80", "a:b", "[::1]:x", "user@a", "user:password@a"] {
        refused(&format!("GET / HTTP/1.1\r\nHost: {place}\r\n\r\n"), 400);
        refused(&format!("GET http://{place}/ HTTP/1.1\r\nHost: a\r\n\r\n"), 400);
    }
    refused("GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n", 400);
    refused("GET a HTTP/1.1\r\nHost: a\r\n\r\n", 400);
}

#[test]
fn connect_is_405() {
    refused("CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n", 405);
}

#[test]
fn two_lengths_are_400() {
    refused("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", 400);
}

#[test]
fn lengths_that_are_no_numbers_are_400() {
    for length in ["x", "-1", "+1", "1, 1", "1 1", "0x1", "99999999999999999999999", ""] {
        refused(&format!("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\na"), 400);
    }
}

#[test]
fn a_length_beside_chunked_is_400() {
    refused("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400);
    refused("POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n", 400);
}

#[test]
fn chunked_in_http_1_0_is_400() {
    refused("POST /echo HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400);
}

#[test]
fn other_transfer_codings_are_400() {
    for coding in ["gzip", "gzip, chunked", "chunked, chunked", "xchunked", "chunked, identity", "\"chunked\""] {
        refused(&format!("POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: {coding}\r\n\r\n0\r\n\r\n"), 400);
    }
    refused("POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: gzip\r\n\r\n0\r\n\r\n", 400);
}

#[test]
fn odd_line_ends_are_400() {
    refused("GET /echo HTTP/1.1\nHost: a\n\n", 400);
    refused("GET /echo HTTP/1.1\r\nHost: a\nX: 1\r\n\r\n", 400);
    refused("GET /echo HTTP/1.1\r\nHost: a\r\nX: 1\r\n\n", 400);
    refused("GET /echo HTTP/1.1\r\nHost: a\rX: 1\r\n\r\n", 400);
    refused("GET /echo HTTP/1.1\r\nHost: a\r\nX: 1\r\n 2\r\n\r\n", 400);
    refused("GET /echo HTTP/1.1\r\nHost : a\r\n\r\n", 400);
}

#[test]
fn after_a_malformed_body_the_connection_is_closed() {
    let sidelight = start();
    for chunk in ["zz\r\n", "\r\n\r\n", ";x\r\n\r\n", " \r\n\r\n", "-1\r\n", "2\r\nabc\r\n", "1;\n\r\n", "fffffffffffffffff\r\n"] {
        let mut connection = Connection::open(sidelight.addr);
        connection.try_write(
            format!(
                "POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{chunk}GET /synthetic HTTP/1.1\r\nHost: a\r\n\r\n"
            )
            .as_bytes(),
        );
        // What the guest makes of it is its own affair; this one traps.
        let answer = connection.answer();
        assert_eq!((answer.status, answer.header("connection")), (500, Some("close")), "{chunk:?}");
        assert!(connection.closed(), "{chunk:?}");
    }
    sidelight.wait_metric("sidelight_sandboxes", 0.0);
}

#[test]
fn an_absolute_target_is_understood() {
    let sidelight = start();
    let answer =
        client::send(sidelight.addr, "GET http://other.example/echo?x HTTP/1.1\r\nHost: other.example\r\nConnection: close\r\n\r\n");
    assert_eq!(answer.json()["url"], "http://other.example/echo?x");
}

#[test]
fn an_absolute_target_wins_over_host() {
    let sidelight = start();
    let answer = client::send(sidelight.addr, "GET http://other.example/echo HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    assert_eq!(answer.json()["url"], "http://other.example/echo");
    assert_eq!(answer.json()["headers"][0][1], "other.example");
}

#[test]
fn a_head_that_drips_is_cut_off() {
    let sidelight = Setup::behaviours("rust").arg("--head-timeout 300ms").start();
    let mut connection = Connection::open(sidelight.addr);
    connection.write(b"GET / HTTP/1.1\r\n");
    // One byte now and then keeps every single read short; the whole is what counts.
    for _ in 0..100 {
        if !connection.try_write(b"X") {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let answer = connection.head();
    assert_eq!(answer.status, 408);
    assert_eq!(sidelight.get("/synthetic").status, 418);
}

#[test]
fn an_idle_connection_is_closed() {
    let sidelight = Setup::behaviours("rust").arg("--idle-timeout 200ms").start();
    let mut connection = Connection::open(sidelight.addr);
    connection.write(b"GET /synthetic HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(connection.answer().status, 418);
    assert!(connection.closed());
}

/// A client cannot take away what a program needs to know of a request.
#[test]
fn fields_for_everybody_are_not_the_connections() {
    let sidelight = Setup::behaviours("rust").start();
    let request = "POST /echo HTTP/1.1\r\nHost: edge.test\r\nConnection: close, host, authorization, cookie, x-own\r\nAuthorization: x\r\nCookie: y\r\nX-Own: z\r\nContent-Length: 0\r\n\r\n";
    let text = client::send(sidelight.addr, request).text();
    for (name, there) in
        [("\"host\"", true), ("\"authorization\"", true), ("\"cookie\"", true), ("\"x-own\"", false), ("\"connection\"", false)]
    {
        assert_eq!(text.contains(name), there, "{name}: {text}");
    }
}
