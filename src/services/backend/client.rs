//! One HTTP/1.1 exchange with a backend over a pooled connection, streamed both ways.
//!
//! pingora supplies sockets, the pool and the response parser; the request body is written by
//! [`wire`](crate::http::wire) on the same connection, so that both directions flow at once.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use ::http::header::{self, HeaderValue};
use ::http::{Method, Uri, Version};
use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use pingora::connectors::TransportConnector;
use pingora::http::RequestHeader;
use pingora::prelude::timeout;
use pingora::protocols::Stream;
use pingora::protocols::http::v1::client::HttpSession;
use pingora::protocols::l4::socket::SocketAddr as PeerAddr;
use pingora::protocols::l4::stream::Stream as L4Stream;
use pingora::upstreams::peer::{Peer, PeerOptions};
use rustls::RootCertStore;
use rustls_pki_types::ServerName;

use super::error::SendError;
use super::{Backend, tls};
use crate::http::framing::{self, BodyFraming};
use crate::http::io::{SharedIo, TlsIo};
use crate::http::wire::{self, WriteError};
use crate::http::{Body, BodyError, BodyStream, RequestHead, ResponseHead};

/// How long a backend may refuse to take request bytes.
const UPLOAD_PATIENCE: Duration = Duration::from_secs(60);

/// Makes connections, for all services of the process.
pub struct Connector {
    transport: TransportConnector,
    system_roots: Arc<RootCertStore>,
}

impl Default for Connector {
    fn default() -> Self {
        Self::new()
    }
}

impl Connector {
    /// A connector with the machine's roots.
    pub fn new() -> Self {
        Self { transport: TransportConnector::new(None), system_roots: Arc::new(tls::system_roots()) }
    }

    /// The machine's root certificates, read once.
    pub fn system_roots(&self) -> &Arc<RootCertStore> {
        &self.system_roots
    }
}

/// A request as a guest sends it.
#[derive(Debug)]
pub struct Request {
    /// The head; its URI's path and query go on the wire behind the backend's prefix.
    pub head: RequestHead,
    /// The body, read as the backend takes it.
    pub body: Body,
}

/// A response whose body may still be coming.
#[derive(Debug)]
pub struct Response {
    /// The head.
    pub head: ResponseHead,
    /// The body, read from the backend as the reader takes it.
    pub body: Body,
    /// The backend's address.
    pub peer: Option<SocketAddr>,
}

impl Backend {
    /// Sends a request and waits for the response head.
    pub async fn send(self: Arc<Self>, request: Request) -> Result<Response, SendError> {
        let result = self.retrying(request).await;
        self.count(result.as_ref().err());
        result
    }

    /// A pooled connection may have been closed at the moment it was used. A request that can be
    /// sent again without harm (RFC 9110 §9.2.2) is, once, on a new connection.
    async fn retrying(self: &Arc<Self>, mut request: Request) -> Result<Response, SendError> {
        let prepared = self.prepare(&mut request)?;
        let again = request.head.method.is_idempotent().then(|| request.body.duplicate()).flatten();
        if let Some(stream) = self.idle.take() {
            self.counters.reused.inc();
            match (self.exchange(stream, &prepared, request.body).await, again) {
                (Err(Failed { error: _, unanswered: true }), Some(body)) => request.body = body,
                (result, _) => return result.map_err(|failed| failed.error),
            }
        }
        self.counters.new.inc();
        let stream = self.connect().await?;
        self.exchange(stream, &prepared, request.body).await.map_err(|failed| failed.error)
    }

    /// The head as it goes on the wire, and the framing of the body.
    fn prepare(&self, request: &mut Request) -> Result<Prepared, SendError> {
        let head = &mut request.head;
        let framing = framing::request(&mut head.headers, head.framing, &head.method, request.body.known_length())
            .map_err(|error| SendError::BadRequest(error.to_string()))?;
        let host = match &self.config.override_host {
            Some(host) => Some(host.clone()),
            None if head.headers.contains_key(header::HOST) => None,
            None => Some(self.host_field(&head.uri)),
        };
        if let Some(host) = host {
            let host = HeaderValue::try_from(host).map_err(|_| SendError::BadRequest("its host is no header value".to_owned()))?;
            head.headers.insert(header::HOST, host);
        }
        let path = head.uri.path_and_query().map_or("/", |path| path.as_str());
        let target = if self.config.path_prefix.is_empty() { path.to_owned() } else { format!("{}{path}", self.config.path_prefix) };
        let mut wire = RequestHeader::build_no_case(head.method.clone(), target.as_bytes(), Some(head.headers.len()))
            .map_err(|error| SendError::BadRequest(error.to_string()))?;
        for (name, value) in &head.headers {
            wire.append_header(name.clone(), value.clone()).map_err(|error| SendError::BadRequest(error.to_string()))?;
        }
        wire.set_version(Version::HTTP_11);
        Ok(Prepared { head: wire, framing })
    }

    /// `Host` for a request that has none: the URI's, else the backend's.
    fn host_field(&self, uri: &Uri) -> String {
        if let Some(authority) = uri.authority() {
            return authority.as_str().rsplit('@').next().unwrap_or_default().to_owned();
        }
        let config = &self.config;
        let host = if config.host.contains(':') { format!("[{}]", config.host) } else { config.host.clone() };
        match (config.port, config.tls.is_some()) {
            (80, false) | (443, true) => host,
            (port, _) => format!("{host}:{port}"),
        }
    }

    /// A new connection, within the connect timeout: name resolution, TCP and TLS.
    async fn connect(&self) -> Result<Stream, SendError> {
        let config = &self.config;
        let resolving = std::sync::atomic::AtomicBool::new(true);
        let work = async {
            let addresses = resolve(&config.host, config.port).await?;
            resolving.store(false, std::sync::atomic::Ordering::Relaxed);
            let mut failure = None;
            for address in addresses {
                match self.connect_to(address).await {
                    Ok(stream) => return Ok(stream),
                    Err(error) => failure = Some(error),
                }
            }
            Err(failure.unwrap_or_else(|| SendError::Dns { host: config.host.clone(), reason: "no addresses".to_owned() }))
        };
        match timeout(config.connect_timeout, work).await {
            Ok(result) => result,
            Err(_) if resolving.load(std::sync::atomic::Ordering::Relaxed) => Err(SendError::DnsTimeout(config.host.clone())),
            Err(_) => Err(SendError::ConnectTimeout(format!("{}:{}", config.host, config.port))),
        }
    }

    async fn connect_to(&self, address: SocketAddr) -> Result<Stream, SendError> {
        let stream = self
            .connector
            .transport
            .new_stream(&BackendPeer { addr: PeerAddr::Inet(address), options: PeerOptions::new() })
            .await
            .map_err(|error| SendError::connecting(&address.to_string(), &error))?;
        let Some(client) = &self.tls else { return Ok(stream) };
        let l4 = stream.into_any().downcast::<L4Stream>().map_err(|_| SendError::Internal("no TCP stream to put TLS on".to_owned()))?;
        let name = ServerName::try_from(client.name().to_owned()).map_err(|error| SendError::Internal(error.to_string()))?;
        let tls =
            TlsIo::connect(client.config().clone(), name, *l4).await.map_err(|error| SendError::handshake(&self.config.host, &error))?;
        Ok(Box::new(tls))
    }

    /// One request and response on `stream`.
    async fn exchange(self: &Arc<Self>, stream: Stream, prepared: &Prepared, mut body: Body) -> Result<Response, Failed> {
        let peer = stream.get_socket_digest().and_then(|digest| digest.peer_addr().and_then(|addr| addr.as_inet().copied()));
        let io = SharedIo::new(stream);
        let mut session = HttpSession::new(Box::new(io.clone()));
        session.write_timeout = Some(UPLOAD_PATIENCE);
        session
            .write_request_header(Box::new(prepared.head.clone()))
            .await
            .map_err(|error| Failed::unanswered(SendError::Terminated(error.to_string())))?;
        let mut writer = io.clone();
        let framing = prepared.framing;
        let mut writing = (framing != BodyFraming::None)
            .then(|| Box::pin(async move { wire::write_message(&mut writer, BytesMut::new(), framing, &mut body, UPLOAD_PATIENCE).await }));

        let first_byte = self.config.first_byte_timeout;
        let mut upload: Option<Result<u64, WriteError>> = None;
        loop {
            if let Some(work) = &mut writing {
                let read = async {
                    match upload {
                        // The clock starts when the request is out.
                        Some(_) => timeout(first_byte, session.read_response()).await,
                        None => Ok(session.read_response().await),
                    }
                };
                tokio::select! {
                    biased;
                    head = read => self.head_arrived(head)?,
                    done = work => {
                        writing = None;
                        if let Err(WriteError::Body(error)) = &done {
                            // The guest or client gave its body up: the backend sees it truncated.
                            return Err(Failed::answered(SendError::RequestBody(error.to_string())));
                        }
                        // Any other failure: the backend may have answered early; look before giving up.
                        upload = Some(done);
                        continue;
                    }
                }
            } else {
                let head = timeout(first_byte, session.read_response()).await;
                match (self.head_arrived(head), &upload) {
                    (Ok(()), _) => {}
                    (Err(_), Some(Err(error))) => return Err(Failed::answered(SendError::Terminated(error.to_string()))),
                    (Err(failed), _) => return Err(failed),
                }
            }
            let status = session.resp_header().map(|head| head.status);
            if !status.is_some_and(|status| status.is_informational()) {
                break;
            }
            if status == Some(::http::StatusCode::SWITCHING_PROTOCOLS) {
                return Err(Failed::answered(SendError::Protocol("unexpected 101 Switching Protocols".to_owned())));
            }
        }

        session.respect_keepalive();
        let Some(head) = session.resp_header() else {
            return Err(Failed::answered(SendError::Internal("no response head".to_owned())));
        };
        let mut response =
            ResponseHead { status: head.status, version: head.version, headers: head.headers.clone(), ..ResponseHead::default() };
        let remaining = body_length(&prepared.head.method, &response);
        framing::strip_hop_by_hop(&mut response.headers);
        let clean = upload.is_none_or(|done| done.is_ok());
        let mut coming = ResponseBody { session: Some(session), io: Some(io), backend: self.clone(), remaining, reusable: clean };
        let body = match writing {
            None if remaining == Some(0) => {
                coming.finish().await;
                Body::empty()
            }
            None => Body::stream(Box::new(coming)),
            // The backend answers while the request is still going out: both go on, in a task.
            Some(writing) => {
                coming.reusable = false;
                relay(coming, writing)
            }
        };
        Ok(Response { head: response, body, peer })
    }

    fn head_arrived(&self, head: Result<pingora::Result<usize>, pingora::prelude::Elapsed>) -> Result<(), Failed> {
        match head {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => {
                let unanswered = error.retry.retry();
                Err(Failed { error: SendError::reading(&error), unanswered })
            }
            Err(_) => Err(Failed::answered(SendError::ResponseTimeout(self.config.first_byte_timeout.as_millis()))),
        }
    }
}

struct Prepared {
    head: RequestHeader,
    framing: BodyFraming,
}

/// A failed exchange; `unanswered`: not a byte came back, as when a pooled connection was stale.
struct Failed {
    error: SendError,
    unanswered: bool,
}

impl Failed {
    fn unanswered(error: SendError) -> Self {
        Self { error, unanswered: true }
    }

    fn answered(error: SendError) -> Self {
        Self { error, unanswered: false }
    }
}

/// The body length a response head promises (RFC 9112 §6.3); `None`: not told beforehand.
fn body_length(method: &Method, head: &ResponseHead) -> Option<u64> {
    use ::http::StatusCode;
    if *method == Method::HEAD || head.status == StatusCode::NO_CONTENT || head.status == StatusCode::NOT_MODIFIED {
        return Some(0);
    }
    if head.headers.contains_key(header::TRANSFER_ENCODING) {
        return None;
    }
    head.headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.trim().parse().ok()
}

async fn resolve(host: &str, port: u16) -> Result<Vec<SocketAddr>, SendError> {
    if let Ok(ip) = host.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(ip, port)]);
    }
    match tokio::net::lookup_host((host, port)).await {
        Ok(found) => Ok(found.collect()),
        Err(error) => Err(SendError::Dns { host: host.to_owned(), reason: error.to_string() }),
    }
}

/// A response body read straight from its connection, which goes back to the pool at the end.
struct ResponseBody {
    session: Option<HttpSession>,
    io: Option<SharedIo>,
    backend: Arc<Backend>,
    remaining: Option<u64>,
    reusable: bool,
}

impl ResponseBody {
    /// The response is whole: keep the connection if both sides want to.
    async fn finish(&mut self) {
        let (Some(session), Some(io)) = (self.session.take(), self.io.take()) else { return };
        if !self.reusable {
            return;
        }
        let Some(half) = session.reuse().await else { return };
        drop(half);
        if let Some(stream) = io.into_stream() {
            self.backend.idle.put(stream);
        }
    }
}

#[async_trait]
impl BodyStream for ResponseBody {
    async fn chunk(&mut self) -> Result<Option<Bytes>, BodyError> {
        let patience = self.backend.config.between_bytes_timeout;
        loop {
            let Some(session) = &mut self.session else { return Ok(None) };
            let read = match timeout(patience, session.read_body_bytes()).await {
                Ok(read) => read,
                Err(_) => {
                    self.session = None;
                    return Err(BodyError::Timeout(format!("the backend sent nothing for {} ms", patience.as_millis())));
                }
            };
            match read {
                Ok(Some(bytes)) if bytes.is_empty() => {}
                Ok(Some(bytes)) => {
                    self.remaining = self.remaining.map(|left| left.saturating_sub(bytes.len() as u64));
                    return Ok(Some(bytes));
                }
                Ok(None) => {
                    self.finish().await;
                    return Ok(None);
                }
                Err(error) => {
                    self.session = None;
                    return Err(BodyError::Incomplete(error.to_string()));
                }
            }
        }
    }

    fn remaining(&self) -> Option<u64> {
        self.remaining
    }
}

/// Goes on writing the request while the response is read through a channel.
fn relay(mut from: ResponseBody, writing: impl Future<Output = Result<u64, WriteError>> + Send + 'static) -> Body {
    let remaining = from.remaining;
    let mut body = Body::empty();
    let mut to = body.open();
    tokio::spawn(async move {
        let reading = async {
            loop {
                match from.chunk().await {
                    Ok(Some(bytes)) => to.write(bytes).await.ok()?,
                    Ok(None) => return to.finish().await.ok(),
                    // Dropping the writer tells the reader that this was not all.
                    Err(_) => return None,
                }
            }
        };
        let mut reading = std::pin::pin!(reading);
        tokio::select! {
            // A response that is whole, or that nobody wants, ends the exchange.
            _ = &mut reading => {}
            _ = writing => {
                reading.await;
            }
        }
    });
    Body::stream(Box::new(Relayed { body, remaining }))
}

/// A channel body that knows the length the response head promised.
struct Relayed {
    body: Body,
    remaining: Option<u64>,
}

#[async_trait]
impl BodyStream for Relayed {
    async fn chunk(&mut self) -> Result<Option<Bytes>, BodyError> {
        let chunk = self.body.chunk().await?;
        if let (Some(left), Some(bytes)) = (&mut self.remaining, &chunk) {
            *left = left.saturating_sub(bytes.len() as u64);
        }
        Ok(chunk)
    }

    fn remaining(&self) -> Option<u64> {
        self.remaining
    }
}

/// What pingora's connector needs to know: an address. TLS is put on top by us.
#[derive(Clone, Debug)]
struct BackendPeer {
    addr: PeerAddr,
    options: PeerOptions,
}

impl fmt::Display for BackendPeer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.addr)
    }
}

impl Peer for BackendPeer {
    fn address(&self) -> &PeerAddr {
        &self.addr
    }

    fn tls(&self) -> bool {
        false
    }

    fn sni(&self) -> &str {
        ""
    }

    fn reuse_hash(&self) -> u64 {
        // pingora's pool is not used: see `pool`.
        0
    }

    fn get_peer_options(&self) -> Option<&PeerOptions> {
        Some(&self.options)
    }

    fn matches_fd<V: std::os::fd::AsRawFd>(&self, _fd: V) -> bool {
        true
    }
}
