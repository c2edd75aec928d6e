//! The names hostcalls had before their modules: `env.xqd_*`, still imported by programs built with
//! old SDKs.

/// Old prefix, module, and the calls that keep their name behind the prefix.
pub const PREFIXED: &[(&str, &str, &[&str])] = &[
    ("xqd_", "fastly_abi", &["init"]),
    ("xqd_body_", "fastly_http_body", &["append", "new", "read", "write", "close"]),
    ("xqd_log_", "fastly_log", &["endpoint_get", "write"]),
    (
        "xqd_req_",
        "fastly_http_req",
        &[
            "body_downstream_get",
            "cache_override_set",
            "downstream_client_ip_addr",
            "downstream_client_request_id",
            "downstream_tls_cipher_openssl_name",
            "downstream_tls_client_hello",
            "downstream_tls_protocol",
            "header_append",
            "header_insert",
            "header_names_get",
            "header_remove",
            "header_value_get",
            "header_values_get",
            "header_values_set",
            "method_get",
            "method_set",
            "new",
            "original_header_count",
            "original_header_names_get",
            "send",
            "send_async",
            "send_async_streaming",
            "uri_get",
            "uri_set",
            "version_get",
            "version_set",
        ],
    ),
    ("xqd_", "fastly_http_req", &["pending_req_poll", "pending_req_select", "pending_req_wait"]),
    (
        "xqd_resp_",
        "fastly_http_resp",
        &[
            "header_append",
            "header_insert",
            "header_names_get",
            "header_remove",
            "header_value_get",
            "header_values_get",
            "header_values_set",
            "new",
            "send_downstream",
            "status_get",
            "status_set",
            "version_get",
            "version_set",
        ],
    ),
];

/// Old names that follow no rule: old name, module, name.
pub const IRREGULAR: &[(&str, &str, &str)] = &[("xqd_body_close_downstream", "fastly_http_body", "close")];

/// Every alias: old name, module, name.
pub fn aliases() -> impl Iterator<Item = (String, &'static str, &'static str)> {
    let regular =
        PREFIXED.iter().flat_map(|(prefix, module, names)| names.iter().map(move |name| (format!("{prefix}{name}"), *module, *name)));
    regular.chain(IRREGULAR.iter().map(|(old, module, name)| ((*old).to_owned(), *module, *name)))
}
