//! Bytes of a backend: whatever they are, no panic; and a whole response that we take, hyper takes with the same status, fields and body.

#![no_main]

use http::{Method, StatusCode};
use libfuzzer_sys::fuzz_target;
use sidelight::http::response::ResponseReader;
use sidelight_fuzz::{Pieces, hyper_response, run};

type Found = Option<(StatusCode, http::HeaderMap, Option<Vec<u8>>)>;

fn ours(bytes: &[u8], size: usize) -> Found {
    run(async {
        let mut reader = ResponseReader::new(Pieces::new(bytes, size));
        let head = loop {
            let head = reader.head(&Method::GET).await.ok()?;
            if !head.status.is_informational() || head.status == StatusCode::SWITCHING_PROTOCOLS {
                break head;
            }
        };
        let mut body = Vec::new();
        let whole = loop {
            match reader.chunk().await {
                Ok(Some(piece)) => body.extend_from_slice(&piece),
                Ok(None) => break true,
                Err(_) => break false,
            }
        };
        Some((head.status, head.headers, whole.then_some(body)))
    })
}

/// Fields with any white space in values as one space: a folded line is joined by one or more of them (RFC 9112 §5.2).
fn spaced(headers: &http::HeaderMap) -> Vec<(String, Vec<Vec<u8>>)> {
    let words = |value: &http::HeaderValue| {
        value.as_bytes().split(|byte| b" \t".contains(byte)).filter(|word| !word.is_empty()).map(<[u8]>::to_vec).collect()
    };
    let mut all: Vec<(String, Vec<Vec<u8>>)> = headers.iter().map(|(name, value)| (name.to_string(), words(value))).collect();
    all.sort();
    all
}

fuzz_target!(|input: &[u8]| {
    let Some((&size, bytes)) = input.split_first() else { return };
    let found = ours(bytes, usize::MAX);
    assert_eq!(format!("{found:?}"), format!("{:?}", ours(bytes, usize::from(size))));
    let Some((status, headers, Some(body))) = found else { return };
    if status == StatusCode::SWITCHING_PROTOCOLS {
        return;
    }
    // Another coding than chunked lasts until the connection ends (RFC 9112 §6.3, rule 4); hyper does not take it at all. In HTTP/1.0 there is none.
    let chunked = |value: &http::HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"chunked");
    if bytes.starts_with(b"HTTP/1.0") && headers.contains_key("transfer-encoding")
        || !headers.get_all("transfer-encoding").iter().all(chunked)
    {
        return;
    }
    let (mut headers, mut theirs) = (headers, hyper_response(bytes));
    // A length beside a coding says nothing, and whoever passes the response on takes it away (RFC 9112 §6.3, rule 3). Hyper shows it, we do
    // where there is no body at all.
    for fields in [Some(&mut headers), theirs.as_mut().map(|(_, theirs, _)| theirs)].into_iter().flatten() {
        if fields.contains_key("transfer-encoding") {
            fields.remove("content-length");
        }
    }
    let same = theirs
        .as_ref()
        .is_some_and(|theirs| theirs.0 == status && spaced(&theirs.1) == spaced(&headers) && theirs.2.as_ref() == Some(&body));
    assert!(same, "ours: {status} {headers:?} {body:?}\ntheirs: {theirs:?}");
});
