//! What a guest sees of a request.

use crate::client;
use crate::harness::Setup;
use crate::languages;

fn values(json: &serde_json::Value, name: &str) -> Vec<String> {
    let headers = json["headers"].as_array().expect("a list");
    headers
        .iter()
        .filter(|pair| pair[0].as_str().is_some_and(|n| n.eq_ignore_ascii_case(name)))
        .map(|pair| pair[1].as_str().expect("text").to_owned())
        .collect()
}

languages!(
    fn method_uri_headers_and_body(language) {
        let sidelight = Setup::behaviours(language).start();
        let body = "hello wörld";
        let answer = client::send(
            sidelight.addr,
            &format!(
                "PUT /echo/a%20b?x=1&y=%2F HTTP/1.1\r\nHost: shop.example:8080\r\nConnection: close, X-Hop\r\nX-Hop: 1\r\nX-Two: a\r\nX-Two: b\r\nX-Case: MiXed\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            ),
        );
        assert_eq!(answer.status, 200, "{}", answer.text());
        let json = answer.json();
        assert_eq!(json["method"], "PUT");
        assert_eq!(json["url"], "http://shop.example:8080/echo/a%20b?x=1&y=%2F");
        assert_eq!(json["body"], body);
        assert_eq!(json["body_len"], body.len());
        assert_eq!(values(&json, "host"), ["shop.example:8080"]);
        assert_eq!(values(&json, "x-case"), ["MiXed"]);
        assert_eq!(values(&json, "x-two").join(", "), "a, b");
        // What belongs to the connection stays with it.
        assert!(values(&json, "connection").is_empty());
        assert!(values(&json, "x-hop").is_empty());
    }
);

languages!(
    fn a_chunked_body(language) {
        let sidelight = Setup::behaviours(language).start();
        let answer = client::send(
            sidelight.addr,
            "POST /echo HTTP/1.1\r\nHost: a\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n6;x=y\r\n world\r\n0\r\n\r\n",
        );
        let json = answer.json();
        assert_eq!(json["body"], "hello world");
        assert!(values(&json, "transfer-encoding").is_empty());
    }
);

languages!(
    fn no_body_at_all(language) {
        let sidelight = Setup::behaviours(language).start();
        let json = sidelight.get("/echo").json();
        assert_eq!(json["method"], "GET");
        assert_eq!(json["body_len"], 0);
    }
);

languages!(
    fn a_large_body(language) {
        let sidelight = Setup::behaviours(language).start();
        let body = "0123456789abcdef".repeat(64 << 10);
        let json = sidelight.post("/echo", &body).json();
        assert_eq!(json["body_len"], body.len());
        assert!(json["body"] == body.as_str(), "the body came back changed");
    }
);
