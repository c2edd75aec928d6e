//! `fastly_http_downstream`: the client, its connection, and further requests for this sandbox.

use std::net::IpAddr;

use super::client;
use crate::abi::values::{Digest16, NextRequestOptions};
use crate::abi::{Buf, HostError, HostResult, Paged, Registrar};
use crate::config::facts::Bot;
use crate::http::Body;
use crate::http::cdn_loop;
use crate::http::head::field_names;
use crate::http::request::reread;
use crate::sandbox::{GuestRequest, Handle, Received, RequestPromise, Sandbox};

type Request = Handle<GuestRequest>;
type Promise = Handle<RequestPromise>;

/// Where a request came from; NONE for one that the guest made itself.
fn received(sandbox: &Sandbox, request: Request) -> HostResult<&Received> {
    sandbox.requests.get(request)?.received.as_deref().ok_or_else(HostError::none)
}

/// The same for calls that SDKs expect to succeed: of one that the guest made itself nothing is known.
fn origin(sandbox: &Sandbox, request: Request) -> HostResult<Option<&Received>> {
    Ok(sandbox.requests.get(request)?.received.as_deref())
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

fn downstream_client_h2_fingerprint(sandbox: &mut Sandbox, request: Request) -> HostResult<Buf<String>> {
    client::h2_fingerprint(received(sandbox, request)?)
}

fn downstream_client_oh_fingerprint(sandbox: &mut Sandbox, request: Request) -> HostResult<Buf<String>> {
    client::oh_fingerprint(received(sandbox, request)?)
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

fn downstream_client_ddos_detected(sandbox: &mut Sandbox, request: Request) -> HostResult<bool> {
    Ok(origin(sandbox, request)?.is_some_and(|received| client::ddos(sandbox, received)))
}

fn downstream_compliance_region(sandbox: &mut Sandbox, request: Request) -> HostResult<Buf<&'static str>> {
    sandbox.requests.get(request)?;
    Ok(client::region(sandbox))
}

fn fastly_key_is_valid(sandbox: &mut Sandbox, request: Request) -> HostResult<bool> {
    Ok(origin(sandbox, request)?.is_some_and(|received| client::has_valid_key(sandbox, received)))
}

fn downstream_bot_analyzed(sandbox: &mut Sandbox, request: Request) -> HostResult<bool> {
    sandbox.requests.get(request)?;
    Ok(sandbox.config.facts.analyses_bots())
}

fn downstream_bot_detected(sandbox: &mut Sandbox, request: Request) -> HostResult<bool> {
    Ok(origin(sandbox, request)?.is_some_and(|received| client::bot(sandbox, received).is_some()))
}

fn bot(sandbox: &Sandbox, request: Request) -> HostResult<&Bot> {
    client::bot(sandbox, received(sandbox, request)?).ok_or_else(HostError::none)
}

fn downstream_bot_name(sandbox: &mut Sandbox, request: Request) -> HostResult<Buf<String>> {
    Ok(Buf(bot(sandbox, request)?.name.clone()))
}

fn downstream_bot_category(sandbox: &mut Sandbox, request: Request) -> HostResult<Buf<&'static str>> {
    Ok(Buf(bot(sandbox, request)?.category.name()))
}

/// 0 is none, when there was a look.
fn downstream_bot_category_kind(sandbox: &mut Sandbox, request: Request) -> HostResult<u32> {
    match client::bot(sandbox, received(sandbox, request)?) {
        Some(bot) => Ok(bot.category as u32),
        None if sandbox.config.facts.analyses_bots() => Ok(0),
        None => Err(HostError::none()),
    }
}

fn downstream_bot_verified(sandbox: &mut Sandbox, request: Request) -> HostResult<bool> {
    Ok(bot(sandbox, request)?.verified)
}

fn vpn_service_name(sandbox: &mut Sandbox, request: Request) -> HostResult<Buf<String>> {
    let vpn = client::vpn(sandbox, received(sandbox, request)?)?;
    vpn.service_name.clone().map(Buf).ok_or_else(HostError::none)
}

/// Calls that answer one field of what is known of a client's network.
macro_rules! vpn {
    ($($call:ident: $field:ident),*) => {
        $(fn $call(sandbox: &mut Sandbox, request: Request) -> HostResult<bool> {
            Ok(client::vpn(sandbox, received(sandbox, request)?)?.$field)
        })*
    };
}

vpn! {
    is_anonymous: anonymous,
    is_anonymous_vpn: anonymous_vpn,
    is_hosting_provider: hosting_provider,
    is_proxy_over_vpn: proxy_over_vpn,
    is_public_proxy: public_proxy,
    is_relay_proxy: relay_proxy,
    is_residential_proxy: residential_proxy,
    is_smart_dns_proxy: smart_dns_proxy,
    is_tor_exit_node: tor_exit_node,
    is_vpn_datacenter: vpn_datacenter
}

/// How often the client's request had passed here before, by its `CDN-Loop` (RFC 8586).
fn visits(sandbox: &mut Sandbox) -> HostResult<u32> {
    let head = reread(&sandbox.received.raw_head);
    Ok(head.map_or(0, |head| cdn_loop::passes(&head.headers)) as u32)
}

pub(super) fn module(m: &mut Registrar<'_>) {
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
    m.call("downstream_bot_analyzed", downstream_bot_analyzed);
    m.call("downstream_bot_detected", downstream_bot_detected);
    m.call("downstream_client_ddos_detected", downstream_client_ddos_detected);
    m.call("downstream_tls_ja3_md5", downstream_tls_ja3_md5);
    m.call("downstream_client_h2_fingerprint", downstream_client_h2_fingerprint);
    m.call_partial("downstream_client_oh_fingerprint", client::OH_IS_OURS, downstream_client_oh_fingerprint);
    m.call("downstream_bot_category", downstream_bot_category);
    m.call("downstream_bot_category_kind", downstream_bot_category_kind);
    m.call("downstream_bot_name", downstream_bot_name);
    m.call("downstream_bot_verified", downstream_bot_verified);
    m.call("downstream_compliance_region", downstream_compliance_region);
    m.call("downstream_original_header_count", downstream_original_header_count);
    m.call("downstream_original_header_names", downstream_original_header_names);
    m.call("downstream_resvpnproxy_is_anonymous", is_anonymous);
    m.call("downstream_resvpnproxy_is_anonymous_vpn", is_anonymous_vpn);
    m.call("downstream_resvpnproxy_is_hosting_provider", is_hosting_provider);
    m.call("downstream_resvpnproxy_is_proxy_over_vpn", is_proxy_over_vpn);
    m.call("downstream_resvpnproxy_is_public_proxy", is_public_proxy);
    m.call("downstream_resvpnproxy_is_relay_proxy", is_relay_proxy);
    m.call("downstream_resvpnproxy_is_residential_proxy", is_residential_proxy);
    m.call("downstream_resvpnproxy_is_smart_dns_proxy", is_smart_dns_proxy);
    m.call("downstream_resvpnproxy_is_tor_exit_node", is_tor_exit_node);
    m.call("downstream_resvpnproxy_is_vpn_datacenter", is_vpn_datacenter);
    m.call("downstream_resvpnproxy_vpn_service_name", vpn_service_name);
    m.call("downstream_visits_this_pop", visits);
    m.call("downstream_visits_this_service", visits);
    m.call("fastly_key_is_valid", fastly_key_is_valid);
    m.call("next_request", next_request);
    m.call("next_request_abandon", next_request_abandon);
    m.wait("next_request_wait", next_request_wait);
}
