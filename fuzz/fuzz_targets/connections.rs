//! What a connection begins with: a PROXY header, a ClientHello, HTTP/2's preface and settings.

#![no_main]

use libfuzzer_sys::fuzz_target;
use sidelight::http::{client_hello, h2_fingerprint};
use sidelight::server::hops;
use sidelight_fuzz::{Pieces, run};

fuzz_target!(|input: &[u8]| {
    if let Some(message) = client_hello::message(input)
        && let Some(hello) = client_hello::ClientHello::parse(&message)
    {
        let _ = hello.ja3();
        assert!(hello.ja4().is_ascii());
    }
    if let Some(hello) = client_hello::ClientHello::parse(input) {
        drop((hello.ja3(), hello.ja4()));
    }
    drop(h2_fingerprint::of(input));
    drop(run(hops::announced(&mut Pieces::new(input, 7))));
});
