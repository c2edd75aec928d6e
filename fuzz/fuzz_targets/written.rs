//! What we write, we and hyper read as what was meant: method, target, fields and body.

#![no_main]

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use sidelight::http::framing;
use sidelight::http::head::Framing;
use sidelight::http::{Body, wire};
use sidelight_fuzz::{Pieces, beside, hyper_requests, run};

#[derive(Arbitrary, Debug)]
struct Meant {
    method: u8,
    path: String,
    fields: Vec<(String, Vec<u8>)>,
    pieces: Vec<Vec<u8>>,
    known: bool,
}

const METHODS: [Method; 5] = [Method::GET, Method::POST, Method::PUT, Method::DELETE, Method::OPTIONS];

fuzz_target!(|meant: Meant| {
    let method = &METHODS[usize::from(meant.method) % METHODS.len()];
    let Ok(uri) = http::Uri::try_from(format!("/{}", meant.path)) else { return };
    let Some(target) = uri.path_and_query().map(ToString::to_string) else { return };
    let mut headers = HeaderMap::new();
    for (name, value) in meant.fields.iter().take(50) {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::from_bytes(value)) {
            headers.append(name, value);
        }
    }
    headers.insert("host", HeaderValue::from_static("a"));
    let content = meant.pieces.concat();
    let mut body = Body::empty();
    let mut writer = None;
    if meant.known {
        meant.pieces.iter().filter(|piece| !piece.is_empty()).for_each(|piece| body.push_back(Bytes::copy_from_slice(piece)));
    } else {
        writer = Some(body.open());
    }
    let Ok(framed) = framing::request(&mut headers, Framing::Automatic, method, body.framed_length()) else { return };
    let io = Pieces::new(&[], 1);
    let written = io.written.clone();
    let sent = run(async move {
        let mut io = io;
        let head = wire::request_head(method, &target, &headers);
        let writing = wire::write_message(&mut io, head, framed, &mut body, Duration::from_secs(1));
        let feeding = async {
            let Some(mut writer) = writer else { return };
            for piece in meant.pieces.iter().filter(|piece| !piece.is_empty()) {
                if writer.write(Bytes::copy_from_slice(piece)).await.is_err() {
                    return;
                }
            }
            drop(writer.finish().await);
        };
        beside(writing, feeding).await.0
    });
    if sent.is_err() {
        return;
    }
    let bytes = written.borrow().clone();
    if hyper_would_upgrade(&bytes) {
        return;
    }
    let found = hyper_requests(&bytes);
    assert_eq!(found.len(), 1, "{:?}", String::from_utf8_lossy(&bytes));
    assert_eq!((&found[0].method, found[0].target.as_str()), (method, uri.path_and_query().expect("a path").as_str()));
    let read = found[0].body.as_deref().expect("a whole body");
    // A method that has no body by its nature is sent without one.
    assert!(read.is_empty() || content == read, "{read:?} is not {content:?}");
    assert_eq!(read.len() as u64, sent.unwrap_or_default());
});

fn hyper_would_upgrade(bytes: &[u8]) -> bool {
    bytes.to_ascii_lowercase().windows(9).any(|window| window == b"\nupgrade:")
}
