//! `fastly_http_req`: requests, and sending them to backends.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ::http::uri::Authority;
use ::http::{HeaderValue, Method, Uri};
use bytes::Bytes;

use super::{client, heads};
use crate::abi::backend::BackendRecord;
use crate::abi::fields::{kept, parse_name};
use crate::abi::status::ErrorDetail;
use crate::abi::values::{CacheOverrideRecord, Digest16, Handles, InspectRecord};
use crate::abi::{Buf, HostError, HostResult, Paged, Registrar, Status, Str, WithDetail};
use crate::config::{self, resolve};
use crate::http::head::field_names;
use crate::http::{Body, framing};
use crate::sandbox::{
    BadHandle, Edit, EditTarget, GuestRequest, GuestResponse, HandOff, Handle, PendingRequest, Reply, Sandbox, TooMuchHeld,
};
use crate::services::backend::{self, Backend, SendError};
use crate::services::cache::MAX_SURROGATE_KEYS;
use crate::services::http_cache::readthrough::{self, Override, Sender};

type Request = Handle<GuestRequest>;
type BodyHandle = Handle<Body>;
type Answer = (Handle<GuestResponse>, BodyHandle);

/// Changes one response may have waiting.
const MAX_EDITS: usize = 256;

/// Requests to backends that a guest may make however short of memory the process is: as many as production allows.
const FEW_SENDS: u32 = 32;

/// Longest URI, in bytes (production's limit).
const MAX_URI: usize = 8192;

/// Bytes of one that is not as usual.
const LONG_URI: usize = 256;

/// Longest method, in bytes, as in production.
const MAX_METHOD: usize = 8192;

/// The client's request and its body.
fn body_downstream_get(sandbox: &mut Sandbox) -> HostResult<(Request, BodyHandle)> {
    match sandbox.take_incoming()? {
        Some(taken) => Ok(taken),
        None => Err(HostError::Status(Status::Error, "the client's request has been taken".into())),
    }
}

fn method_get(sandbox: &mut Sandbox, request: Request) -> HostResult<Buf<String>> {
    Ok(Buf(sandbox.requests.get(request)?.head.method.as_str().to_owned()))
}

fn method_set(sandbox: &mut Sandbox, request: Request, method: Str) -> HostResult<()> {
    sandbox.requests.get(request)?;
    if method.len() > MAX_METHOD {
        return Err(HostError::inval("a method longer than 8192 bytes"));
    }
    let method = Method::from_bytes(&method).map_err(|_| HostError::inval("not a method"))?;
    let charge = sandbox.charge_method(&method)?;
    let request = sandbox.requests.get_mut(request)?;
    (request.head.method, request.charge) = (method, charge);
    Ok(())
}

fn uri_get(sandbox: &mut Sandbox, request: Request) -> HostResult<Buf<String>> {
    Ok(Buf(sandbox.requests.get(request)?.head.uri.to_string()))
}

fn uri_set(sandbox: &mut Sandbox, request: Request, uri: Str) -> HostResult<()> {
    sandbox.requests.get(request)?;
    if uri.len() > MAX_URI {
        return Err(HostError::inval("a URI longer than 8192 bytes"));
    }
    let uri = match uri.len() {
        // Charged for as long as a request has it.
        LONG_URI.. => Uri::from_maybe_shared(sandbox.account.keep(Bytes::copy_from_slice(&uri))?),
        _ => Uri::try_from(&*uri),
    };
    let uri = uri.map_err(|_| HostError::inval("not a URI"))?;
    sandbox.requests.get_mut(request)?.head.uri = uri;
    Ok(())
}

/// `encodings`: a mask, gzip is 1 and the only one.
fn auto_decompress_response_set(sandbox: &mut Sandbox, request: Request, encodings: u32) -> HostResult<()> {
    let request = sandbox.requests.get_mut(request)?;
    match encodings {
        0 | 1 => request.decompress = encodings == 1,
        _ => return Err(HostError::unsupported("decoding anything but gzip")),
    }
    Ok(())
}

/// What `cache_override_*` says: PASS 1, TTL 2, stale-while-revalidate 4, PCI 8, lookup timeout 16. Times are seconds, the
/// timeout milliseconds.
fn cache_override(mask: u32, record: CacheOverrideRecord) -> HostResult<Override> {
    if mask & !0x1f != 0 {
        return Err(HostError::inval("an unknown way to override caching"));
    }
    let given = |bit: u32, time: Duration| (mask & bit != 0).then_some(time);
    Ok(Override {
        pass: mask & 1 != 0,
        ttl: given(2, Duration::from_secs(record.ttl.into())),
        stale_while_revalidate: given(4, Duration::from_secs(record.stale_while_revalidate.into())),
        sensitive: mask & 8 != 0,
        lookup_timeout: given(16, Duration::from_millis(record.lookup_timeout.into())),
        // What is behind is never used.
        surrogate_keys: Bytes::copy_from_slice(&record.surrogate_keys[..record.surrogate_keys.len().min(MAX_SURROGATE_KEYS)]),
    })
}

fn cache_override_set(sandbox: &mut Sandbox, request: Request, mask: u32, ttl: u32, stale_while_revalidate: u32) -> HostResult<()> {
    let record = CacheOverrideRecord { ttl, stale_while_revalidate, surrogate_keys: Vec::new(), lookup_timeout: 0 };
    cache_override_v3_set(sandbox, request, mask, record)
}

fn cache_override_v2_set(
    sandbox: &mut Sandbox,
    request: Request,
    mask: u32,
    ttl: u32,
    stale_while_revalidate: u32,
    keys: Str,
) -> HostResult<()> {
    let record = CacheOverrideRecord { ttl, stale_while_revalidate, surrogate_keys: keys.to_vec(), lookup_timeout: 0 };
    cache_override_v3_set(sandbox, request, mask, record)
}

fn cache_override_v3_set(sandbox: &mut Sandbox, request: Request, mask: u32, record: CacheOverrideRecord) -> HostResult<()> {
    sandbox.requests.get(request)?;
    let mut given = cache_override(mask, record)?;
    given.surrogate_keys = sandbox.account.keep(given.surrogate_keys)?;
    sandbox.requests.get_mut(request)?.cache = given;
    Ok(())
}

/// What a send needs: the backend, if there is one of that name, and the request. The request's
/// and body's handles are dead from here on, whatever becomes of the send.
struct Outgoing {
    backend: Result<Arc<Backend>, SendError>,
    request: backend::Request,
    /// What the guest says about the cache; `None`: it is not asked.
    cache: Option<Override>,
}

fn take(sandbox: &mut Sandbox, request: Request, body: BodyHandle, name: &Str, streaming: bool, cached: bool) -> HostResult<Outgoing> {
    sandbox.requests.get(request)?;
    sandbox.body(body)?;
    let GuestRequest { mut head, decompress, cache, .. } = sandbox.requests.take(request)?;
    if !cached {
        head.headers.remove(readthrough::KEY_FIELD);
    }
    let body = if streaming { sandbox.stream_body(body)? } else { sandbox.take_body(body)? };
    let name = String::from_utf8_lossy(name);
    let backend = sandbox.backend(&name).cloned().ok_or_else(|| SendError::DestinationNotFound(name.into_owned()));
    let sends = sandbox.meter.send();
    if sends > FEW_SENDS && sandbox.account.is_short() {
        sandbox.meter.refuse_memory(true);
        return Err(TooMuchHeld::Short.into());
    }
    if sends > sandbox.bounds.sends {
        let text = format!("more than {} requests to backends", sandbox.bounds.sends);
        return Err(HostError::Status(Status::LimitExceeded, text.into()));
    }
    let request = backend::Request { head, body, decompress, upgrade: None, origin: None };
    Ok(Outgoing { backend, request, cache: cached.then_some(cache) })
}

/// Sends and waits for the response.
async fn exchange(sandbox: &mut Sandbox, outgoing: Outgoing) -> Result<backend::Response, SendError> {
    let Outgoing { backend, request, cache } = outgoing;
    match backend {
        // In a box: the call's own future is moved about, and this one is large.
        Ok(backend) => {
            let sent = Box::pin(sent(sandbox.sender(), backend.clone(), request, cache)).await;
            received(sandbox, Some(&backend), sent)
        }
        Err(error) => received(sandbox, None, Err(error)),
    }
}

async fn sent(
    sender: Sender,
    backend: Arc<Backend>,
    request: backend::Request,
    cache: Option<Override>,
) -> Result<backend::Response, SendError> {
    match cache {
        Some(how) => sender.send(backend, request, how).await,
        None => sender.direct(backend, request).await,
    }
}

/// Checks what a backend answered.
fn received(
    sandbox: &Sandbox,
    backend: Option<&Arc<Backend>>,
    sent: Result<backend::Response, SendError>,
) -> Result<backend::Response, SendError> {
    let sent = sent.and_then(|response| {
        let (size, limit) = (framing::size(&response.head.headers), sandbox.bounds.fields_report);
        if size > limit {
            sandbox.meter.large_head();
            tracing::warn!(
                target: "sidelight::limits",
                service = sandbox.config.name,
                request_id = sandbox.id(),
                bytes = size,
                limit,
                "a backend's response has more header fields than production takes"
            );
        }
        if size > sandbox.bounds.fields { Err(SendError::HeadTooLarge) } else { Ok(response) }
    });
    if let Err(error) = &sent {
        let backend = backend.map(|backend| backend.config().name.as_str());
        tracing::warn!(target: "sidelight::guest", service = sandbox.config.name, request_id = sandbox.id(), backend, %error, "a request to a backend failed");
    }
    sent
}

fn keep(sandbox: &mut Sandbox, response: backend::Response) -> HostResult<Answer> {
    let backend::Response { head, body, peer, .. } = response;
    let response = sandbox.responses.insert(GuestResponse { head, peer, close: false })?;
    Ok((response, sandbox.add_body(body)?))
}

fn answer(sandbox: &mut Sandbox, sent: Result<backend::Response, SendError>) -> WithDetail<Answer> {
    match sent {
        Ok(response) => WithDetail { detail: ErrorDetail::OK, result: keep(sandbox, response) },
        Err(error) => WithDetail { detail: ErrorDetail::from(&error), result: Err(error.into()) },
    }
}

async fn send(sandbox: &mut Sandbox, request: Request, body: BodyHandle, backend: Str) -> HostResult<Answer> {
    let outgoing = take(sandbox, request, body, &backend, false, true)?;
    let response = exchange(sandbox, outgoing).await?;
    keep(sandbox, response)
}

async fn send_v2(sandbox: &mut Sandbox, request: Request, body: BodyHandle, backend: Str) -> HostResult<WithDetail<Answer>> {
    let outgoing = take(sandbox, request, body, &backend, false, true)?;
    let sent = exchange(sandbox, outgoing).await;
    Ok(answer(sandbox, sent))
}

/// Past the cache.
async fn send_v3(sandbox: &mut Sandbox, request: Request, body: BodyHandle, backend: Str) -> HostResult<WithDetail<Answer>> {
    let outgoing = take(sandbox, request, body, &backend, false, false)?;
    let sent = exchange(sandbox, outgoing).await;
    Ok(answer(sandbox, sent))
}

fn start(sandbox: &mut Sandbox, outgoing: Outgoing) -> HostResult<Handle<PendingRequest>> {
    let Outgoing { backend, request, cache } = outgoing;
    let backend = backend?;
    let work = sent(sandbox.sender(), backend.clone(), request, cache);
    Ok(sandbox.add_pending(PendingRequest::start(backend, work))?)
}

fn send_async(sandbox: &mut Sandbox, request: Request, body: BodyHandle, backend: Str) -> HostResult<Handle<PendingRequest>> {
    let outgoing = take(sandbox, request, body, &backend, false, true)?;
    start(sandbox, outgoing)
}

fn send_async_streaming(sandbox: &mut Sandbox, request: Request, body: BodyHandle, backend: Str) -> HostResult<Handle<PendingRequest>> {
    let outgoing = take(sandbox, request, body, &backend, true, true)?;
    start(sandbox, outgoing)
}

/// Past the cache.
fn send_async_v2(
    sandbox: &mut Sandbox,
    request: Request,
    body: BodyHandle,
    backend: Str,
    streaming: u32,
) -> HostResult<Handle<PendingRequest>> {
    let outgoing = take(sandbox, request, body, &backend, streaming != 0, false)?;
    start(sandbox, outgoing)
}

async fn result_of(sandbox: &mut Sandbox, pending: Handle<PendingRequest>) -> HostResult<Result<backend::Response, SendError>> {
    let pending = sandbox.take_pending(pending)?;
    let backend = pending.backend.clone();
    let sent = pending.result().await;
    Ok(received(sandbox, Some(&backend), sent))
}

async fn pending_req_wait(sandbox: &mut Sandbox, pending: Handle<PendingRequest>) -> HostResult<Answer> {
    let response = result_of(sandbox, pending).await??;
    keep(sandbox, response)
}

async fn pending_req_wait_v2(sandbox: &mut Sandbox, pending: Handle<PendingRequest>) -> HostResult<WithDetail<Answer>> {
    let sent = result_of(sandbox, pending).await?;
    Ok(answer(sandbox, sent))
}

/// Whether it is done, and the response if so.
type Polled = (bool, Handle<GuestResponse>, BodyHandle);
const NOT_DONE: Polled = (false, Handle::NONE, Handle::NONE);

async fn pending_req_poll(sandbox: &mut Sandbox, pending: Handle<PendingRequest>) -> HostResult<Polled> {
    if !sandbox.pending(pending)?.is_ready() {
        return Ok(NOT_DONE);
    }
    let (response, body) = pending_req_wait(sandbox, pending).await?;
    Ok((true, response, body))
}

async fn pending_req_poll_v2(sandbox: &mut Sandbox, pending: Handle<PendingRequest>) -> HostResult<WithDetail<Polled>> {
    if !sandbox.pending(pending)?.is_ready() {
        return Ok(WithDetail { detail: ErrorDetail::OK, result: Ok(NOT_DONE) });
    }
    let WithDetail { detail, result } = pending_req_wait_v2(sandbox, pending).await?;
    Ok(WithDetail { detail, result: result.map(|(response, body)| (true, response, body)) })
}

/// The position of the first that is done, and its response.
type Selected = (u32, Handle<GuestResponse>, BodyHandle);

async fn first_of(sandbox: &mut Sandbox, handles: &Handles) -> HostResult<(u32, Handle<PendingRequest>)> {
    if handles.0.is_empty() {
        return Err(HostError::inval("nothing to wait for"));
    }
    for raw in &handles.0 {
        sandbox.pending(Handle::from_raw(*raw))?;
    }
    let index = sandbox.select(&handles.0).await?;
    Ok((index as u32, Handle::from_raw(handles.0[index])))
}

async fn pending_req_select(sandbox: &mut Sandbox, handles: Handles) -> HostResult<Selected> {
    let (index, pending) = first_of(sandbox, &handles).await?;
    let (response, body) = pending_req_wait(sandbox, pending).await?;
    Ok((index, response, body))
}

/// The position is stored even when the request failed: the guest must know which one it was.
async fn pending_req_select_v2(sandbox: &mut Sandbox, handles: Handles) -> HostResult<crate::abi::values::DetailedSelect> {
    let (index, pending) = first_of(sandbox, &handles).await?;
    let WithDetail { detail, result } = pending_req_wait_v2(sandbox, pending).await?;
    Ok(crate::abi::values::DetailedSelect { detail, index, result: result.map(|(response, body)| (response.raw(), body.raw())) })
}

/// Makes a backend that requests of this sandbox can be sent to. `target` is a host, with a port if it is not
/// the usual one.
fn register_dynamic_backend(sandbox: &mut Sandbox, name: Str, target: Str, record: BackendRecord) -> HostResult<()> {
    let name = name.text()?.to_owned();
    if name.is_empty() {
        return Err(HostError::inval("a backend needs a name"));
    }
    let target: Authority = target.text()?.parse().map_err(|_| HostError::inval("the target is no host"))?;
    let no_port = target.as_str().strip_prefix(target.host()).is_some_and(|rest| rest.len() > 1) && target.port_u16().is_none();
    if target.as_str().contains('@') || target.host().is_empty() || no_port {
        return Err(HostError::inval("the target is no host"));
    }
    if record.override_host.as_ref().is_some_and(|host| HeaderValue::from_str(host).is_err()) {
        return Err(HostError::inval("the host to set is no header value"));
    }
    let client = match &record.client {
        None => None,
        Some((certificate, key)) => Some(config::ClientCertificate {
            certificate: config::Pem::Inline(certificate.clone()),
            key: config::Pem::Secret(sandbox.secrets.get(Handle::<config::Secret>::from_raw(*key))?.secret.clone()),
        }),
    };
    let port = target.port_u16().unwrap_or(if record.tls { 443 } else { 80 });
    let host = target.host().trim_start_matches('[').trim_end_matches(']').to_owned();
    let pooled = record.pooled;
    let of = |text: &Option<String>| text.as_ref().map_or(0, String::len);
    let texts = [&record.ca, &record.override_host, &record.cert_host, &record.ciphers, &record.sni].map(of);
    let certificates = record.client.as_ref().map_or(0, |(chain, _)| chain.len());
    let bytes = name.len() + texts.iter().sum::<usize>() + certificates;
    Ok(sandbox.register(settings(name, host, port, client, record), pooled, bytes)?)
}

/// What a record leaves out is as in production (fastly:compute WIT, `dynamic-backend-options`).
fn settings(name: String, host: String, port: u16, client: Option<config::ClientCertificate>, record: BackendRecord) -> config::Backend {
    let millis = |given: Option<u32>, default: Duration| given.map_or(default, |given| Duration::from_millis(given.into()));
    let tls = record.tls.then(|| config::BackendTls {
        sni: match record.sni {
            Some(sni) => Some(sni),
            None => record.cert_host.clone().or_else(|| Some(host.clone())),
        }
        // An address is no server name (RFC 6066 §3).
        .filter(|sni| !sni.is_empty() && sni.parse::<IpAddr>().is_err()),
        cert_host: record.cert_host,
        min: record.tls_min.unwrap_or(config::TlsVersion::V1_2),
        max: record.tls_max.unwrap_or(config::TlsVersion::V1_3),
        ciphers: record.ciphers,
        ca: record.ca.map(config::Pem::Inline).into_iter().collect(),
        client,
    });
    let [http, enabled, interval, probes, time] = record.keepalive.unwrap_or_default();
    let [connections, uses, lifetime] = record.pool.unwrap_or_default();
    config::Backend {
        name,
        host,
        port,
        path_prefix: String::new(),
        override_host: record.override_host,
        tls,
        http: if record.grpc { config::HttpVersions::Two } else { config::HttpVersions::One },
        connect_timeout: millis(record.connect_timeout, resolve::CONNECT_TIMEOUT),
        first_byte_timeout: millis(record.first_byte_timeout, resolve::FIRST_BYTE_TIMEOUT),
        between_bytes_timeout: millis(record.between_bytes_timeout, resolve::BETWEEN_BYTES_TIMEOUT),
        keepalive_time: millis(record.keepalive.map(|_| http).filter(|time| *time > 0), resolve::KEEPALIVE_TIME),
        pool: config::PoolLimits { connections, uses, lifetime: Duration::from_millis(lifetime.into()) },
        tcp_keepalive: config::TcpKeepalive { enabled: enabled != 0, time, interval, probes },
        prefer_ipv6: !record.prefer_ipv4,
        health: config::Health::Unknown,
        availability: 100,
        faults: None,
        propagate: None,
        check: record.healthcheck,
        dynamic: true,
    }
}

/// Queues a change to the head that the client gets if the request is sent there as it comes (see
/// `send_downstream_pending`). `target`: 0 whatever comes, 1 the backend's response, 2 the host's error.
fn queue(sandbox: &mut Sandbox, pending: Handle<PendingRequest>, target: u32, edit: Edit) -> HostResult<()> {
    let target = match target {
        0 => EditTarget::Any,
        1 => EditTarget::Response,
        2 => EditTarget::Error,
        other => return Err(HostError::inval(format!("{other} is no kind of response"))),
    };
    let edits = &mut sandbox.pending(pending)?.edits;
    if edits.len() >= MAX_EDITS {
        return Err(HostError::Status(Status::LimitExceeded, "too many changes to one response".into()));
    }
    edits.push(target, edit);
    Ok(())
}

fn pending_req_header_insert(sandbox: &mut Sandbox, pending: Handle<PendingRequest>, name: Str, value: Str, target: u32) -> HostResult<()> {
    let name = parse_name(&name)?;
    let value = kept(&sandbox.account, &name, &value, 0)?;
    queue(sandbox, pending, target, Edit::Insert(name, value))
}

fn pending_req_header_append(sandbox: &mut Sandbox, pending: Handle<PendingRequest>, name: Str, value: Str, target: u32) -> HostResult<()> {
    let name = parse_name(&name)?;
    let value = kept(&sandbox.account, &name, &value, 0)?;
    queue(sandbox, pending, target, Edit::Append(name, value))
}

fn pending_req_header_remove(sandbox: &mut Sandbox, pending: Handle<PendingRequest>, name: Str, target: u32) -> HostResult<()> {
    queue(sandbox, pending, target, Edit::Remove(parse_name(&name)?))
}

/// The client's request goes to a backend, and with it the client: no other answer is possible, and the
/// guest may end. Given to a `proxy`, the request names the backend it is for.
fn hand_off(sandbox: &mut Sandbox, request: Option<Request>, name: &Str, proxy: Option<Arc<Backend>>) -> HostResult<()> {
    let head = request.map(|request| Ok::<_, BadHandle>(sandbox.requests.get(request)?.head.clone())).transpose()?;
    let backend = sandbox.backend(name.text()?).ok_or_else(|| HostError::inval("no backend of that name"))?;
    let route = HeaderValue::from_bytes(name).map_err(|_| HostError::inval("the backend's name is no header value"))?;
    let (backend, route) = match proxy {
        None => (backend.clone(), None),
        Some(proxy) => (proxy, Some(route)),
    };
    let Some(responder) = sandbox.responder.take() else {
        return Err(HostError::Status(Status::Error, "the client has been answered".into()));
    };
    // A client that is gone needs no answer.
    drop(responder.send(Reply::HandOff(Box::new(HandOff { head, backend, route }))));
    Ok(())
}

fn hand_websocket(sandbox: &mut Sandbox, request: Option<Request>, name: &Str) -> HostResult<()> {
    if !sandbox.config.websockets {
        return Err(HostError::unsupported("WebSocket hand-off is switched off: local_server.websockets_passthrough"));
    }
    hand_off(sandbox, request, name, None)
}

fn hand_grip(sandbox: &mut Sandbox, request: Option<Request>, name: &Str) -> HostResult<()> {
    let Some(proxy) = sandbox.services.backends.grip_proxy().cloned() else {
        tracing::warn!(target: "sidelight::guest", service = sandbox.config.name, request_id = sandbox.id(), "a client was to be handed to Fanout, and there is no GRIP proxy: --grip-proxy says where a Pushpin is");
        return Err(HostError::unsupported("there is no GRIP proxy"));
    };
    hand_off(sandbox, request, name, Some(proxy))
}

fn redirect_to_websocket_proxy(sandbox: &mut Sandbox, backend: Str) -> HostResult<()> {
    hand_websocket(sandbox, None, &backend)
}

fn redirect_to_websocket_proxy_v2(sandbox: &mut Sandbox, request: Request, backend: Str) -> HostResult<()> {
    hand_websocket(sandbox, Some(request), &backend)
}

fn redirect_to_grip_proxy(sandbox: &mut Sandbox, backend: Str) -> HostResult<()> {
    hand_grip(sandbox, None, &backend)
}

fn redirect_to_grip_proxy_v2(sandbox: &mut Sandbox, request: Request, backend: Str) -> HostResult<()> {
    hand_grip(sandbox, Some(request), &backend)
}

fn downstream_client_ip_addr(sandbox: &mut Sandbox) -> HostResult<IpAddr> {
    Ok(sandbox.received.client.address.ip())
}

fn downstream_server_ip_addr(sandbox: &mut Sandbox) -> HostResult<IpAddr> {
    Ok(sandbox.received.client.server.ip())
}

fn downstream_client_request_id(sandbox: &mut Sandbox) -> HostResult<Buf<String>> {
    Ok(Buf(sandbox.id().to_owned()))
}

fn downstream_tls_cipher_openssl_name(sandbox: &mut Sandbox) -> HostResult<Buf<String>> {
    client::cipher(&sandbox.received)
}

fn downstream_tls_protocol(sandbox: &mut Sandbox) -> HostResult<Buf<&'static str>> {
    client::protocol(&sandbox.received)
}

fn downstream_tls_client_hello(sandbox: &mut Sandbox) -> HostResult<Buf<Bytes>> {
    client::hello(&sandbox.received)
}

fn downstream_tls_raw_client_certificate(sandbox: &mut Sandbox) -> HostResult<Buf<String>> {
    client::certificate(&sandbox.received)
}

fn downstream_tls_client_cert_verify_result(sandbox: &mut Sandbox) -> HostResult<u32> {
    client::certificate_check(&sandbox.received)
}

fn downstream_tls_ja4(sandbox: &mut Sandbox) -> HostResult<Buf<String>> {
    client::ja4(&sandbox.received)
}

fn downstream_tls_ja3_md5(sandbox: &mut Sandbox) -> HostResult<Digest16> {
    client::ja3(&sandbox.received)
}

fn downstream_client_h2_fingerprint(sandbox: &mut Sandbox) -> HostResult<Buf<String>> {
    client::h2_fingerprint(&sandbox.received)
}

fn downstream_client_oh_fingerprint(sandbox: &mut Sandbox) -> HostResult<Buf<String>> {
    client::oh_fingerprint(&sandbox.received)
}

fn original_header_count(sandbox: &mut Sandbox) -> HostResult<u32> {
    Ok(field_names(&sandbox.received.raw_head).count() as u32)
}

fn original_header_names_get(sandbox: &mut Sandbox) -> HostResult<Paged> {
    Ok(Paged::new(field_names(&sandbox.received.raw_head)))
}

fn downstream_client_ddos_detected(sandbox: &mut Sandbox) -> HostResult<bool> {
    Ok(client::ddos(sandbox, &sandbox.received))
}

fn downstream_compliance_region(sandbox: &mut Sandbox) -> HostResult<Buf<&'static str>> {
    Ok(client::region(sandbox))
}

fn fastly_key_is_valid(sandbox: &mut Sandbox) -> HostResult<bool> {
    Ok(client::has_valid_key(sandbox, &sandbox.received))
}

/// What the Next-Gen WAF says of a request, as JSON; here that is what the manifest says.
fn inspect(sandbox: &mut Sandbox, request: Request, body: BodyHandle, info: InspectRecord) -> HostResult<Buf<String>> {
    let head = &sandbox.requests.get(request)?.head;
    let path = head.uri.path().to_owned();
    sandbox.body(body)?;
    let Some(inspect) = &sandbox.config.facts.inspect else {
        return Err(HostError::unsupported("there is no Next-Gen WAF: [sidelight.inspect] has its answers"));
    };
    let address = info.client.unwrap_or(sandbox.received.client.address.ip());
    let verdict = inspect.judge(address, &path);
    let answer = serde_json::json!({
        "waf_response": verdict.response,
        "redirect_url": verdict.redirect_url,
        "tags": verdict.tags,
        "verdict": verdict.verdict,
        "decision_ms": 0,
    });
    Ok(Buf(answer.to_string()))
}

pub(super) fn module(m: &mut Registrar<'_>) {
    heads::declare::<GuestRequest>(m);
    m.call("body_downstream_get", body_downstream_get);
    m.call("method_get", method_get);
    m.call("method_set", method_set);
    m.call("uri_get", uri_get);
    m.call("uri_set", uri_set);
    m.call("auto_decompress_response_set", auto_decompress_response_set);
    m.call("cache_override_set", cache_override_set);
    m.call("cache_override_v2_set", cache_override_v2_set);
    m.call("cache_override_v3_set", cache_override_v3_set);

    m.wait("send", send);
    m.wait("send_v2", send_v2);
    m.wait("send_v3", send_v3);
    m.call("send_async", send_async);
    m.call("send_async_streaming", send_async_streaming);
    m.call("send_async_v2", send_async_v2);
    m.wait("pending_req_wait", pending_req_wait);
    m.wait("pending_req_wait_v2", pending_req_wait_v2);
    m.wait("pending_req_poll", pending_req_poll);
    m.wait("pending_req_poll_v2", pending_req_poll_v2);
    m.wait("pending_req_select", pending_req_select);
    m.wait("pending_req_select_v2", pending_req_select_v2);

    m.call("pending_req_header_insert", pending_req_header_insert);
    m.call("pending_req_header_append", pending_req_header_append);
    m.call("pending_req_header_remove", pending_req_header_remove);

    m.call("downstream_client_ip_addr", downstream_client_ip_addr);
    m.call("downstream_server_ip_addr", downstream_server_ip_addr);
    m.call("downstream_client_request_id", downstream_client_request_id);
    m.call("downstream_client_ddos_detected", downstream_client_ddos_detected);
    m.call("downstream_tls_cipher_openssl_name", downstream_tls_cipher_openssl_name);
    m.call("downstream_tls_protocol", downstream_tls_protocol);
    m.call("downstream_tls_client_hello", downstream_tls_client_hello);
    m.call("downstream_tls_raw_client_certificate", downstream_tls_raw_client_certificate);
    m.call("downstream_tls_client_cert_verify_result", downstream_tls_client_cert_verify_result);
    m.call("downstream_tls_ja4", downstream_tls_ja4);
    m.call("downstream_tls_ja3_md5", downstream_tls_ja3_md5);
    m.call("downstream_client_h2_fingerprint", downstream_client_h2_fingerprint);
    m.call_partial("downstream_client_oh_fingerprint", client::OH_IS_OURS, downstream_client_oh_fingerprint);
    m.call("downstream_compliance_region", downstream_compliance_region);
    m.call("fastly_key_is_valid", fastly_key_is_valid);
    m.call("original_header_count", original_header_count);
    m.call("original_header_names_get", original_header_names_get);

    m.call("register_dynamic_backend", register_dynamic_backend);
    m.call("inspect", inspect);
    m.unsupported("on_behalf_of", 3, "uses the cache of another service, which no SDK asks for; the core cache has an option for that");
    m.call("redirect_to_grip_proxy", redirect_to_grip_proxy);
    m.call("redirect_to_grip_proxy_v2", redirect_to_grip_proxy_v2);
    m.call("redirect_to_websocket_proxy", redirect_to_websocket_proxy);
    m.call("redirect_to_websocket_proxy_v2", redirect_to_websocket_proxy_v2);
    m.call("upgrade_websocket", redirect_to_websocket_proxy);
}
