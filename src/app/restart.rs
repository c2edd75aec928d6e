//! What a reload cannot change.

use std::time::Duration;

use crate::config::HostConfig;

/// Settings that differ and cannot change while the process runs.
pub fn needed(now: &HostConfig, wanted: &HostConfig) -> Vec<&'static str> {
    let (a, b) = (&now.limits, &wanted.limits);
    let checks = [
        ("listen", now.listen != wanted.listen),
        ("tls", now.tls != wanted.tls),
        ("admin", now.admin != wanted.admin),
        ("admin_token_file", now.admin_token != wanted.admin_token),
        ("admin_hosts", now.admin_hosts != wanted.admin_hosts),
        ("admin_open", now.admin_open != wanted.admin_open),
        ("probes", now.probes != wanted.probes),
        ("inspect", now.inspect != wanted.inspect),
        ("traces", now.traces != wanted.traces),
        ("metrics", now.hostcall_metrics != wanted.hostcall_metrics),
        ("access_log", now.access != wanted.access),
        ("core_dumps", now.core_dumps != wanted.core_dumps),
        ("threads", now.threads != wanted.threads),
        ("cache", now.cache != wanted.cache || (now.cache.disk > 0 && now.state.data_dir != wanted.state.data_dir)),
        ("cache_dir", now.cache_dir != wanted.cache_dir),
        ("insecure_registries", now.insecure_registries != wanted.insecure_registries),
        ("fetch_timeout", now.fetch_timeout != wanted.fetch_timeout),
        ("registry_auth", now.registry_auth != wanted.registry_auth),
        ("services_dir", now.dropins.as_ref().map(|from| &from.folder) != wanted.dropins.as_ref().map(|from| &from.folder)),
        ("kubernetes", now.kubernetes != wanted.kubernetes),
        ("drain_timeout", now.drain_timeout != wanted.drain_timeout),
        ("trusted_proxies", now.trusted_proxies != wanted.trusted_proxies),
        ("proxy_protocol", now.proxy_protocol != wanted.proxy_protocol),
        ("unknown_imports", now.unknown_imports != wanted.unknown_imports),
        ("limits.sandboxes", a.sandboxes != b.sandboxes),
        ("limits.memory", a.memory != b.memory),
        ("limits.total_memory", a.total_memory != b.total_memory),
        ("limits.keep_resident", a.keep_resident != b.keep_resident),
        ("limits of clients", (a.uri, a.head, a.h2_streams) != (b.uri, b.head, b.h2_streams)),
        ("timeouts of clients", timeouts(now) != timeouts(wanted)),
    ];
    checks.into_iter().filter(|(_, differs)| *differs).map(|(name, _)| name).collect()
}

fn timeouts(host: &HostConfig) -> [Duration; 4] {
    [host.limits.head_timeout, host.limits.idle_timeout, host.limits.client_timeout, host.limits.tunnel_idle]
}
