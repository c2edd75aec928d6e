//! What `fastly_http_downstream` and its older twins in `fastly_http_req` tell of a client.

use bytes::Bytes;

use crate::abi::values::Digest16;
use crate::abi::{Buf, HostError, HostResult};
use crate::sandbox::{ClientTls, Received};

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
