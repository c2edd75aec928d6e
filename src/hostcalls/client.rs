//! What `fastly_http_downstream` and its older twins in `fastly_http_req` tell of a client.

use bytes::Bytes;
use sha2::{Digest, Sha256};

use crate::abi::values::Digest16;
use crate::abi::{Buf, HostError, HostResult};
use crate::config::facts::{ClientFacts, Vpn};
use crate::http::head::field_names;
use crate::http::request::reread;
use crate::sandbox::{ClientTls, Received, Sandbox};

fn tls(received: &Received) -> HostResult<&ClientTls> {
    received.client.tls.as_ref().ok_or_else(HostError::none)
}

pub(super) fn cipher(received: &Received) -> HostResult<Buf<String>> {
    Ok(Buf(tls(received)?.cipher.clone()))
}

pub(super) fn protocol(received: &Received) -> HostResult<Buf<&'static str>> {
    Ok(Buf(tls(received)?.protocol))
}

pub(super) fn hello(received: &Received) -> HostResult<Buf<Bytes>> {
    Ok(Buf(tls(received)?.hello.clone()))
}

pub(super) fn server_name(received: &Received) -> HostResult<Buf<String>> {
    tls(received)?.server_name.clone().map(Buf).ok_or_else(HostError::none)
}

pub(super) fn certificate(received: &Received) -> HostResult<Buf<String>> {
    tls(received)?.certificate.clone().map(Buf).ok_or_else(HostError::none)
}

pub(super) fn certificate_check(received: &Received) -> HostResult<u32> {
    Ok(tls(received)?.verified as u32)
}

pub(super) fn ja3(received: &Received) -> HostResult<Digest16> {
    tls(received)?.ja3.map(Digest16).ok_or_else(HostError::none)
}

pub(super) fn ja4(received: &Received) -> HostResult<Buf<String>> {
    tls(received)?.ja4.clone().map(Buf).ok_or_else(HostError::none)
}

/// What is ours about the fingerprint of the original fields.
pub(super) const OH_IS_OURS: &str = "tells apart the fields' names, order and case; how production computes it is not published";

pub(super) fn h2_fingerprint(received: &Received) -> HostResult<Buf<String>> {
    received.h2_fingerprint.as_deref().map(|fingerprint| Buf(fingerprint.to_owned())).ok_or_else(HostError::none)
}

/// 32 hexadecimal digits of a SHA-256 of the names as they came, with commas between.
pub(super) fn oh_fingerprint(received: &Received) -> HostResult<Buf<String>> {
    let mut digest = Sha256::new();
    for (n, name) in field_names(&received.raw_head).enumerate() {
        if n > 0 {
            digest.update(b",");
        }
        digest.update(name);
    }
    // Programs of the Rust SDK ask for it at every request.
    let digits = digest.finalize().into_iter().take(16).flat_map(|byte| [byte >> 4, byte & 15]);
    Ok(Buf(digits.map(|digit| char::from(b"0123456789abcdef"[usize::from(digit)])).collect()))
}

/// What the manifest says of the client.
fn facts<'a>(sandbox: &'a Sandbox, received: &Received) -> Option<&'a ClientFacts> {
    sandbox.config.facts.client(received.client.address.ip())
}

pub(super) fn ddos(sandbox: &Sandbox, received: &Received) -> bool {
    facts(sandbox, received).is_some_and(|client| client.ddos_detected)
}

pub(super) fn bot<'a>(sandbox: &'a Sandbox, received: &Received) -> Option<&'a crate::config::facts::Bot> {
    facts(sandbox, received)?.bot.as_ref()
}

pub(super) fn vpn<'a>(sandbox: &'a Sandbox, received: &Received) -> HostResult<&'a Vpn> {
    facts(sandbox, received).and_then(|client| client.vpn.as_ref()).ok_or_else(HostError::none)
}

pub(super) fn region(sandbox: &Sandbox) -> Buf<&'static str> {
    Buf(sandbox.config.facts.compliance_region.name())
}

/// Whether the request, as it came, has a `Fastly-Key` that is one of the service's.
pub(super) fn has_valid_key(sandbox: &Sandbox, received: &Received) -> bool {
    let keys = &sandbox.config.facts.fastly_keys;
    if keys.is_empty() {
        return false;
    }
    let head = reread(&received.raw_head);
    let given = head.as_ref().and_then(|head| head.headers.get("fastly-key"));
    given.is_some_and(|given| keys.iter().any(|key| key.is(given.as_bytes())))
}
