//! `fastly_http_downstream`: the client, its connection, and further requests for this sandbox.

use std::net::IpAddr;

use crate::abi::{Buf, HostError, HostResult, Paged, Registrar};
use crate::http::head::field_names;
use crate::sandbox::{GuestRequest, Handle, Sandbox};

type Request = Handle<GuestRequest>;

fn downstream_client_ip_addr(sandbox: &mut Sandbox, request: Request) -> HostResult<IpAddr> {
    sandbox.requests.get(request)?;
    Ok(sandbox.client.address.ip())
}

fn downstream_server_ip_addr(sandbox: &mut Sandbox, request: Request) -> HostResult<IpAddr> {
    sandbox.requests.get(request)?;
    Ok(sandbox.client.server.ip())
}

fn downstream_client_request_id(sandbox: &mut Sandbox, request: Request) -> HostResult<Buf<String>> {
    sandbox.requests.get(request)?;
    Ok(Buf(sandbox.id.to_string()))
}

fn downstream_original_header_count(sandbox: &mut Sandbox, request: Request) -> HostResult<u32> {
    sandbox.requests.get(request)?;
    Ok(field_names(&sandbox.raw_head).count() as u32)
}

/// As on the wire: order, case and repetitions kept.
fn downstream_original_header_names(sandbox: &mut Sandbox, request: Request) -> HostResult<Paged> {
    sandbox.requests.get(request)?;
    Ok(Paged::new(field_names(&sandbox.raw_head)))
}

fn no(sandbox: &mut Sandbox, request: Request) -> HostResult<bool> {
    sandbox.requests.get(request)?;
    Ok(false)
}

fn no_text(sandbox: &mut Sandbox, request: Request) -> HostResult<Buf<&'static str>> {
    sandbox.requests.get(request)?;
    Err(HostError::none())
}

fn no_number(sandbox: &mut Sandbox, request: Request) -> HostResult<u32> {
    sandbox.requests.get(request)?;
    Err(HostError::none())
}

/// The parameters of a digest of 16 bytes: where it goes, and where its length does.
fn no_digest(sandbox: &mut Sandbox, request: Request) -> HostResult<IpAddr> {
    sandbox.requests.get(request)?;
    Err(HostError::none())
}

pub(super) fn module(m: &mut Registrar<'_>) {
    const PLAIN: &str = "there is no TLS listener yet: always NONE, as on a plain connection";
    const NO_ANALYSIS: &str = "nothing is analysed yet: always false";
    const NOT_COMPUTED: &str = "not computed yet: always NONE";
    const NO_DATA: &str = "there is no such data yet: always NONE";
    const NOT_YET: &str = "not available yet";
    const ONE: &str = "a sandbox serves one request so far";
    m.call("downstream_client_ip_addr", downstream_client_ip_addr);
    m.call("downstream_server_ip_addr", downstream_server_ip_addr);
    m.call("downstream_client_request_id", downstream_client_request_id);
    m.call_partial("downstream_tls_cipher_openssl_name", PLAIN, no_text);
    m.call_partial("downstream_tls_protocol", PLAIN, no_text);
    m.call_partial("downstream_tls_client_hello", PLAIN, no_text);
    m.call_partial("downstream_tls_client_servername", PLAIN, no_text);
    m.call_partial("downstream_tls_raw_client_certificate", PLAIN, no_text);
    m.call_partial("downstream_tls_client_cert_verify_result", PLAIN, no_number);
    m.call_partial("downstream_tls_ja4", PLAIN, no_text);
    m.call_partial("downstream_bot_analyzed", NO_ANALYSIS, no);
    m.call_partial("downstream_bot_detected", NO_ANALYSIS, no);
    m.call_partial("downstream_client_ddos_detected", NO_ANALYSIS, no);
    m.call_partial("downstream_tls_ja3_md5", PLAIN, no_digest);
    m.call_partial("downstream_client_h2_fingerprint", NOT_COMPUTED, no_text);
    m.call_partial("downstream_client_oh_fingerprint", NOT_COMPUTED, no_text);
    m.call_partial("downstream_bot_category", NO_DATA, no_text);
    m.call_partial("downstream_bot_category_kind", NO_DATA, no_number);
    m.call_partial("downstream_bot_name", NO_DATA, no_text);
    m.call_partial("downstream_bot_verified", NO_DATA, no_number);
    m.call_partial("downstream_compliance_region", NOT_COMPUTED, no_text);
    m.call("downstream_original_header_count", downstream_original_header_count);
    m.call("downstream_original_header_names", downstream_original_header_names);
    m.call_partial("downstream_resvpnproxy_is_anonymous", NO_DATA, no_number);
    m.call_partial("downstream_resvpnproxy_is_anonymous_vpn", NO_DATA, no_number);
    m.call_partial("downstream_resvpnproxy_is_hosting_provider", NO_DATA, no_number);
    m.call_partial("downstream_resvpnproxy_is_proxy_over_vpn", NO_DATA, no_number);
    m.call_partial("downstream_resvpnproxy_is_public_proxy", NO_DATA, no_number);
    m.call_partial("downstream_resvpnproxy_is_relay_proxy", NO_DATA, no_number);
    m.call_partial("downstream_resvpnproxy_is_residential_proxy", NO_DATA, no_number);
    m.call_partial("downstream_resvpnproxy_is_smart_dns_proxy", NO_DATA, no_number);
    m.call_partial("downstream_resvpnproxy_is_tor_exit_node", NO_DATA, no_number);
    m.call_partial("downstream_resvpnproxy_is_vpn_datacenter", NO_DATA, no_number);
    m.call_partial("downstream_resvpnproxy_vpn_service_name", NO_DATA, no_text);
    m.unsupported("downstream_visits_this_pop", 1, NOT_YET);
    m.unsupported("downstream_visits_this_service", 1, NOT_YET);
    m.call_partial("fastly_key_is_valid", "no Fastly-Key can be configured yet: always false", no);
    m.unsupported("next_request", 3, ONE);
    m.unsupported("next_request_abandon", 1, ONE);
    m.unsupported("next_request_wait", 3, ONE);
}
