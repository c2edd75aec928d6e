//! Fields of requests and responses that decide something: who the client is, what may be cached and for how long, hops, lengths.

#![no_main]

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use libfuzzer_sys::fuzz_target;
use sidelight::http::{RequestHead, ResponseHead, cdn_loop, framing};
use sidelight::services::http_cache::{self, policy};
use sidelight::telemetry::trace::context::Remote;

fuzz_target!(|input: &[u8]| {
    let mut headers = HeaderMap::new();
    for line in input.split(|byte| *byte == b'\n').take(40) {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { continue };
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(&line[..colon]), HeaderValue::from_bytes(&line[colon + 1..])) {
            headers.append(name, value);
        }
    }
    let response = ResponseHead { status: StatusCode::OK, headers: headers.clone(), ..ResponseHead::default() };
    let now = Duration::from_secs(1_700_000_000);
    let _ = policy::freshness(&response, now);
    drop(policy::vary(&headers));
    let _ = policy::judge(&response, Some(100), 1000);
    drop(policy::freshened(&response, &response));
    let _ = cdn_loop::passes(&headers);
    let request = RequestHead { headers: headers.clone(), ..RequestHead::default() };
    drop(policy::backend_request(&request, Some(&headers)));
    let _ = http_cache::default_key(&request);
    let _ = http_cache::key_of_url(&String::from_utf8_lossy(input));
    let _ = policy::date(&String::from_utf8_lossy(input));
    let _ = framing::websocket(&headers);
    let _ = Remote::of(&headers);
    framing::strip_hop_by_hop(&mut headers);
    assert!(!headers.contains_key("transfer-encoding") && !headers.contains_key("keep-alive"));
});
