//! `fastly_backend`: what a guest may know about a backend.

use std::time::Duration;

use crate::abi::{Buf, HostError, HostResult, Registrar, Str};
use crate::config;
use crate::sandbox::Sandbox;

fn find<'a>(sandbox: &'a Sandbox, name: &Str) -> HostResult<&'a config::Backend> {
    let backend = sandbox.backend(name.text()?);
    Ok(backend.ok_or_else(|| HostError::inval("no backend of that name"))?.config())
}

fn millis(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}

fn exists(sandbox: &mut Sandbox, name: Str) -> HostResult<bool> {
    Ok(sandbox.backend(name.text()?).is_some())
}

fn is_dynamic(sandbox: &mut Sandbox, name: Str) -> HostResult<bool> {
    Ok(find(sandbox, &name)?.dynamic)
}

/// 0 unknown, 1 healthy, 2 unhealthy.
fn is_healthy(sandbox: &mut Sandbox, name: Str) -> HostResult<u32> {
    let backend = sandbox.backend(name.text()?).ok_or_else(|| HostError::inval("no backend of that name"))?;
    Ok(match backend.health() {
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
    find(sandbox, &name)?.tls.as_ref().map(|tls| tls.min as u32).ok_or_else(HostError::none)
}

fn get_ssl_max_version(sandbox: &mut Sandbox, name: Str) -> HostResult<u32> {
    find(sandbox, &name)?.tls.as_ref().map(|tls| tls.max as u32).ok_or_else(HostError::none)
}

fn get_tcp_keepalive_enable(sandbox: &mut Sandbox, name: Str) -> HostResult<bool> {
    Ok(find(sandbox, &name)?.tcp_keepalive.enabled)
}

fn get_tcp_keepalive_interval(sandbox: &mut Sandbox, name: Str) -> HostResult<u32> {
    Ok(find(sandbox, &name)?.tcp_keepalive.interval)
}

fn get_tcp_keepalive_probes(sandbox: &mut Sandbox, name: Str) -> HostResult<u32> {
    Ok(find(sandbox, &name)?.tcp_keepalive.probes)
}

fn get_tcp_keepalive_time(sandbox: &mut Sandbox, name: Str) -> HostResult<u32> {
    Ok(find(sandbox, &name)?.tcp_keepalive.time)
}

pub(super) fn module(m: &mut Registrar<'_>) {
    m.call("exists", exists);
    m.call("is_dynamic", is_dynamic);
    m.call("is_healthy", is_healthy);
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
    m.call("get_tcp_keepalive_enable", get_tcp_keepalive_enable);
    m.call("get_tcp_keepalive_interval", get_tcp_keepalive_interval);
    m.call("get_tcp_keepalive_probes", get_tcp_keepalive_probes);
    m.call("get_tcp_keepalive_time", get_tcp_keepalive_time);
}
