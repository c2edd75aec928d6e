//! What goes around a message: trailers, early hints, keep-alive, content codings, and responses that
//! are for the client before they are there.

use std::io::Write;
use std::net::TcpListener;

use bytes::Bytes;
use hyper::Response;

use crate::client::{Answer, Connection};
use crate::harness::{Setup, Sidelight, guest};
use crate::origin::{self, Origin, Seen};

fn messages() -> Setup {
    Setup::new(guest("rust", "messages"))
}

fn exchange(sidelight: &Sidelight, request: &str) -> Answer {
    let mut connection = Connection::open(sidelight.addr);
    connection.write(request.as_bytes());
    connection.answer()
}

const WITH_TRAILERS: &str = "3\r\nabc\r\n2\r\nde\r\n0\r\nX-Sum: 5\r\nX-Two: a\r\nX-Two: b\r\nContent-Length: 7\r\n\r\n";

/// An origin that answers whatever comes with these bytes, once for each connection.
fn wire(answer: &'static [u8]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
    let addr = listener.local_addr().expect("an address");
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("a connection");
            let mut head = [0; 4096];
            if std::io::Read::read(&mut stream, &mut head).expect("reads") > 0 {
                stream.write_all(answer).expect("writes");
            }
        }
    });
    format!("http://{addr}")
}

#[test]
fn trailers_of_the_client_and_of_the_guest() {
    let sidelight = messages().start();
    let mut connection = Connection::open(sidelight.addr);
    for _ in 0..2 {
        connection.write(format!("POST /trailers HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{WITH_TRAILERS}").as_bytes());
        let answer = connection.answer();
        let text = answer.text();
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].starts_with("before: ") && !lines[0].contains('='), "{text}");
        assert!(lines[1].starts_with("within: ") && !lines[1].contains('='), "{text}");
        assert_eq!(lines[2], "after 5: x-sum=5 x-two=a x-two=b ");
        let trailers: Vec<(&str, &str)> = answer.trailers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        assert_eq!(trailers, [("x-first", "1"), ("x-second", "2"), ("x-second", "3")]);
    }
}

#[test]
fn a_body_without_trailers_has_none() {
    let sidelight = messages().start();
    let answer = sidelight.post("/trailers", "hello");
    assert!(answer.text().ends_with("after 5: \n"), "{}", answer.text());
}

#[test]
fn trailers_pass_through_both_ways() {
    let origin = Origin::new(|seen: &Seen| {
        let trailers: Vec<String> = seen.trailers.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let text = format!("{} {}", String::from_utf8_lossy(&seen.body), trailers.join(" "));
        let body = origin::with_trailers(text, &[("x-back", "1"), ("x-back", "2")]);
        Response::builder().header("trailer", "x-back").body(body).expect("one")
    });
    let sidelight = Setup::new(guest("rust", "passthrough")).backend("origin", origin.url()).start();
    for _ in 0..2 {
        let answer = exchange(
            &sidelight,
            &format!("POST / HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nTransfer-Encoding: chunked\r\n\r\n{WITH_TRAILERS}"),
        );
        assert_eq!(answer.text(), "abcde x-sum=5 x-two=a x-two=b");
        let trailers: Vec<(&str, &str)> = answer.trailers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        assert_eq!(trailers, [("x-back", "1"), ("x-back", "2")]);
    }
    assert_eq!(origin.connections(), 1, "a response with trailers leaves its connection usable");
}

#[test]
fn early_hints_come_before_the_answer() {
    let sidelight = messages().start();
    let mut connection = Connection::open(sidelight.addr);
    for _ in 0..2 {
        connection.write(b"GET /early HTTP/1.1\r\nHost: a\r\n\r\n");
        for path in ["/a.css", "/b.js"] {
            let head = connection.head();
            assert_eq!((head.status, head.header("link")), (103, Some(format!("<{path}>; rel=preload").as_str())));
            assert_eq!(head.header("content-length"), None);
        }
        let answer = connection.answer();
        assert_eq!(
            (answer.status, answer.text().as_str(), answer.header("x-final"), answer.header("link")),
            (200, "final\n", Some("1"), None)
        );
    }
}

#[test]
fn early_hints_are_not_for_http_1_0() {
    let sidelight = messages().start();
    let answer = exchange(&sidelight, "GET /early HTTP/1.0\r\n\r\n");
    assert_eq!((answer.status, answer.text().as_str()), (200, "final\n"));
}

#[test]
fn a_guest_may_end_the_connection() {
    let sidelight = messages().start();
    let mut connection = Connection::open(sidelight.addr);
    connection.write(b"GET /close HTTP/1.1\r\nHost: a\r\n\r\n");
    let answer = connection.answer();
    assert_eq!((answer.text().as_str(), answer.header("connection")), ("last\n", Some("close")));
    assert!(connection.closed());
}

#[test]
fn a_response_for_the_client_before_it_is_there() {
    let origin = Origin::new(|_| {
        std::thread::sleep(std::time::Duration::from_millis(300));
        Response::builder()
            .header("x-insert", "origin")
            .header("x-append", "origin")
            .header("x-remove", "1")
            .body(origin::text("from the origin"))
            .expect("one")
    });
    let sidelight = messages().backend("origin", origin.url()).start();
    let answer = sidelight.get("/pending");
    assert_eq!((answer.status, answer.text().as_str()), (200, "from the origin"));
    assert_eq!(answer.values("x-insert"), ["any"]);
    assert_eq!(answer.values("x-append"), ["origin", "response"]);
    assert_eq!(answer.header("x-remove"), None);
    sidelight.log.wait_for(&["the program goes on"]);
    sidelight.wait_metric("sidelight_guests_total{outcome=\"finished\"}", 1.0);
}

#[test]
fn a_response_for_the_client_that_does_not_come() {
    let closed = TcpListener::bind("127.0.0.1:0").expect("binds").local_addr().expect("an address");
    let sidelight = messages().backend("origin", format!("http://{closed}")).start();
    let answer = sidelight.get("/pending");
    assert_eq!(answer.status, 502);
    assert_eq!(answer.values("x-insert"), ["any"]);
    assert_eq!(answer.values("x-append"), ["error"]);
    sidelight.log.wait_for(&[answer.header("x-request-id").expect("an id"), "refused"]);
}

fn zipped() -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(b"hello, gzip\n").expect("memory");
    encoder.finish().expect("memory")
}

#[test]
fn gzip_is_decoded_when_the_guest_asks_for_it() {
    let origin = Origin::new(|seen| {
        let coding = seen.target.trim_start_matches("/gunzip?").to_owned();
        Response::builder().header("content-encoding", coding).body(origin::text(Bytes::from(zipped()))).expect("one")
    });
    let sidelight = messages().backend("origin", origin.url()).start();
    for coding in ["gzip", "x-gzip"] {
        let answer = sidelight.get(&format!("/gunzip?{coding}"));
        assert_eq!((answer.text().as_str(), answer.header("content-encoding")), ("hello, gzip\n", None));
        assert!(answer.whole);
    }
    let answer = sidelight.get("/gunzip?br");
    assert_eq!((answer.body, answer.headers.iter().any(|(name, value)| name == "content-encoding" && value == "br")), (zipped(), true));
}

#[test]
fn what_only_claims_to_be_gzip_is_cut_off() {
    let url = wire(b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 20\r\nconnection: close\r\n\r\nthis is not any gzip.");
    let sidelight = messages().backend("origin", url).start();
    assert!(!sidelight.get("/gunzip").whole);
}

#[test]
fn header_names_as_the_client_sent_them() {
    let sidelight = messages().start();
    let many: String = (0..200).map(|i| format!("x-Many-{i}: 1\r\n")).collect();
    let answer = exchange(&sidelight, &format!("GET /original HTTP/1.1\r\nhOST: a\r\nX-b: 1\r\nx-A: 2\r\nX-B: 3\r\n{many}\r\n"));
    let names: String = (0..200).map(|i| format!(" x-Many-{i}")).collect();
    assert_eq!(answer.text(), format!("204 hOST X-b x-A X-B{names}\n"));
}
