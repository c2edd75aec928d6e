//! `fastly_backend`: what a guest may know about a backend.

use std::time::Duration;

use crate::abi::{Buf, HostError, HostResult, Registrar, Str};
use crate::config;
use crate::sandbox::Sandbox;

/// TLS versions as the ABI numbers them: 2 is TLS 1.2, 3 is TLS 1.3.
const TLS_1_2: u32 = 2;
const TLS_1_3: u32 = 3;

fn find<'a>(sandbox: &'a Sandbox, name: &Str) -> HostResult<&'a config::Backend> {
    let backend = sandbox.services.backends.get(name.text()?);
    Ok(backend.ok_or_else(|| HostError::inval("no backend of that name"))?.config())
}

fn millis(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}

fn exists(sandbox: &mut Sandbox, name: Str) -> HostResult<bool> {
    Ok(sandbox.services.backends.get(name.text()?).is_some())
}

fn is_dynamic(sandbox: &mut Sandbox, name: Str) -> HostResult<bool> {
    find(sandbox, &name)?;
    Ok(false)
}

/// 0 unknown, 1 healthy, 2 unhealthy.
fn is_healthy(sandbox: &mut Sandbox, name: Str) -> HostResult<u32> {
    Ok(match find(sandbox, &name)?.health {
        config::Health::Unknown => 0,
        config::Health::Healthy => 1,
        config::Health::Unhealthy => 2,
    })
}

fn get_host(sandbox: &mut Sandbox, name: Str) -> HostResult<Buf<String>> {
    Ok(Buf(find(sandbox, &name)?.host.clone()))
}

fn get_override_host(sandbox: &mut Sandbox, name: Str) -> HostResult<Buf<String>> {
    find(sandbox, &name)?.override_host.clone().map(Buf).ok_or_else(HostError::none)
}

fn get_port(sandbox: &mut Sandbox, name: Str) -> HostResult<u16> {
    Ok(find(sandbox, &name)?.port)
}

fn get_connect_timeout_ms(sandbox: &mut Sandbox, name: Str) -> HostResult<u32> {
    Ok(millis(find(sandbox, &name)?.connect_timeout))
}

fn get_first_byte_timeout_ms(sandbox: &mut Sandbox, name: Str) -> HostResult<u32> {
    Ok(millis(find(sandbox, &name)?.first_byte_timeout))
}

fn get_between_bytes_timeout_ms(sandbox: &mut Sandbox, name: Str) -> HostResult<u32> {
    Ok(millis(find(sandbox, &name)?.between_bytes_timeout))
}

fn get_http_keepalive_time(sandbox: &mut Sandbox, name: Str) -> HostResult<u32> {
    Ok(millis(find(sandbox, &name)?.keepalive_time))
}

fn is_ssl(sandbox: &mut Sandbox, name: Str) -> HostResult<bool> {
    Ok(find(sandbox, &name)?.tls.is_some())
}

fn get_ssl_min_version(sandbox: &mut Sandbox, name: Str) -> HostResult<u32> {
    find(sandbox, &name)?.tls.as_ref().map(|_| TLS_1_2).ok_or_else(HostError::none)
}

fn get_ssl_max_version(sandbox: &mut Sandbox, name: Str) -> HostResult<u32> {
    find(sandbox, &name)?.tls.as_ref().map(|_| TLS_1_3).ok_or_else(HostError::none)
}

/// TCP keepalive is off for static backends: nothing in the manifest turns it on.
fn no_tcp_keepalive(sandbox: &mut Sandbox, name: Str) -> HostResult<u32> {
    find(sandbox, &name)?;
    Ok(0)
}

pub(super) fn module(m: &mut Registrar<'_>) {
    m.call("exists", exists);
    m.call_partial("is_dynamic", "there are no dynamic backends yet", is_dynamic);
    m.call_partial("is_healthy", "the manifest's fixed health; there are no health checks yet", is_healthy);
    m.call("get_host", get_host);
    m.call("get_override_host", get_override_host);
    m.call("get_port", get_port);
    m.call("get_connect_timeout_ms", get_connect_timeout_ms);
    m.call("get_first_byte_timeout_ms", get_first_byte_timeout_ms);
    m.call("get_between_bytes_timeout_ms", get_between_bytes_timeout_ms);
    m.call("get_http_keepalive_time", get_http_keepalive_time);
    m.call("is_ssl", is_ssl);
    m.call("get_ssl_min_version", get_ssl_min_version);
    m.call("get_ssl_max_version", get_ssl_max_version);
    m.call("get_tcp_keepalive_enable", no_tcp_keepalive);
    m.call("get_tcp_keepalive_interval", no_tcp_keepalive);
    m.call("get_tcp_keepalive_probes", no_tcp_keepalive);
    m.call("get_tcp_keepalive_time", no_tcp_keepalive);
}
