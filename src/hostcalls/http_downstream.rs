//! `fastly_http_downstream`: the client, its connection, and further requests for this sandbox.

use std::net::IpAddr;

use super::client;
use crate::abi::values::{Digest16, NextRequestOptions};
use crate::abi::{Buf, HostError, HostResult, Paged, Registrar};
use crate::http::Body;
use crate::http::head::field_names;
use crate::sandbox::{GuestRequest, Handle, Received, RequestPromise, Sandbox};

type Request = Handle<GuestRequest>;
type Promise = Handle<RequestPromise>;

/// Where a request came from; NONE for one that the guest made itself.
fn received(sandbox: &Sandbox, request: Request) -> HostResult<&Received> {
    sandbox.requests.get(request)?.received.as_deref().ok_or_else(HostError::none)
}

fn downstream_client_ip_addr(sandbox: &mut Sandbox, request: Request) -> HostResult<IpAddr> {
    Ok(received(sandbox, request)?.client.address.ip())
}

fn downstream_server_ip_addr(sandbox: &mut Sandbox, request: Request) -> HostResult<IpAddr> {
    Ok(received(sandbox, request)?.client.server.ip())
}

fn downstream_client_request_id(sandbox: &mut Sandbox, request: Request) -> HostResult<Buf<String>> {
    Ok(Buf(received(sandbox, request)?.id.to_string()))
}

fn downstream_original_header_count(sandbox: &mut Sandbox, request: Request) -> HostResult<u32> {
    Ok(field_names(&received(sandbox, request)?.raw_head).count() as u32)
}

/// As on the wire: order, case and repetitions kept.
fn downstream_original_header_names(sandbox: &mut Sandbox, request: Request) -> HostResult<Paged> {
    Ok(Paged::new(field_names(&received(sandbox, request)?.raw_head)))
}

fn downstream_tls_cipher_openssl_name(sandbox: &mut Sandbox, request: Request) -> HostResult<Buf<String>> {
    client::cipher(received(sandbox, request)?)
}

fn downstream_tls_protocol(sandbox: &mut Sandbox, request: Request) -> HostResult<Buf<&'static str>> {
    client::protocol(received(sandbox, request)?)
}

fn downstream_tls_client_hello(sandbox: &mut Sandbox, request: Request) -> HostResult<Buf<bytes::Bytes>> {
    client::hello(received(sandbox, request)?)
}

fn downstream_tls_client_servername(sandbox: &mut Sandbox, request: Request) -> HostResult<Buf<String>> {
    client::server_name(received(sandbox, request)?)
}

fn downstream_tls_raw_client_certificate(sandbox: &mut Sandbox, request: Request) -> HostResult<Buf<String>> {
    client::certificate(received(sandbox, request)?)
}

fn downstream_tls_client_cert_verify_result(sandbox: &mut Sandbox, request: Request) -> HostResult<u32> {
    client::certificate_check(received(sandbox, request)?)
}

fn downstream_tls_ja4(sandbox: &mut Sandbox, request: Request) -> HostResult<Buf<String>> {
    client::ja4(received(sandbox, request)?)
}

fn downstream_tls_ja3_md5(sandbox: &mut Sandbox, request: Request) -> HostResult<Digest16> {
    client::ja3(received(sandbox, request)?)
}

/// Prepares to serve a further request in this sandbox.
fn next_request(sandbox: &mut Sandbox, options: NextRequestOptions) -> HostResult<Promise> {
    Ok(sandbox.promise(options.timeout)?)
}

/// The next request and its body; NONE when there will be none.
async fn next_request_wait(sandbox: &mut Sandbox, promise: Promise) -> HostResult<(Request, Handle<Body>)> {
    sandbox.next_request(promise).await?;
    sandbox.take_incoming()?.ok_or_else(HostError::none)
}

fn next_request_abandon(sandbox: &mut Sandbox, promise: Promise) -> HostResult<()> {
    Ok(sandbox.abandon_promise(promise)?)
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

pub(super) fn module(m: &mut Registrar<'_>) {
    const NO_ANALYSIS: &str = "nothing is analysed yet: always false";
    const NOT_COMPUTED: &str = "not computed yet: always NONE";
    const NO_DATA: &str = "there is no such data yet: always NONE";
    const NOT_YET: &str = "not available yet";
    m.call("downstream_client_ip_addr", downstream_client_ip_addr);
    m.call("downstream_server_ip_addr", downstream_server_ip_addr);
    m.call("downstream_client_request_id", downstream_client_request_id);
    m.call("downstream_tls_cipher_openssl_name", downstream_tls_cipher_openssl_name);
    m.call("downstream_tls_protocol", downstream_tls_protocol);
    m.call("downstream_tls_client_hello", downstream_tls_client_hello);
    m.call("downstream_tls_client_servername", downstream_tls_client_servername);
    m.call("downstream_tls_raw_client_certificate", downstream_tls_raw_client_certificate);
    m.call("downstream_tls_client_cert_verify_result", downstream_tls_client_cert_verify_result);
    m.call("downstream_tls_ja4", downstream_tls_ja4);
    m.call_partial("downstream_bot_analyzed", NO_ANALYSIS, no);
    m.call_partial("downstream_bot_detected", NO_ANALYSIS, no);
    m.call_partial("downstream_client_ddos_detected", NO_ANALYSIS, no);
    m.call("downstream_tls_ja3_md5", downstream_tls_ja3_md5);
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
    m.call("next_request", next_request);
    m.call("next_request_abandon", next_request_abandon);
    m.wait("next_request_wait", next_request_wait);
}
