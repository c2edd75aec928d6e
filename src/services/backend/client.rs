//! One exchange with a backend over a pooled connection, streamed both ways: here over HTTP/1.1, in `h2`
//! over HTTP/2.
//!
//! pingora supplies sockets; [`wire`](crate::http::wire) writes the request and
//! [`response`](crate::http::response) reads the answer on the same connection, so that both
//! directions flow at once.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use ::http::header::{self, HeaderValue};
use ::http::{HeaderMap, Method, StatusCode, Uri, Version};
use async_trait::async_trait;
use bytes::Bytes;
use pingora::connectors::TransportConnector;
use pingora::prelude::timeout;
use pingora::protocols::l4::socket::SocketAddr as PeerAddr;
use pingora::protocols::l4::stream::Stream as L4Stream;
use pingora::protocols::{ALPN, Stream, TcpKeepalive};
use pingora::upstreams::peer::{Peer, PeerOptions};
use rustls::RootCertStore;
use rustls_pki_types::ServerName;

use super::error::SendError;
use super::h2::Shared;
use super::operators::Operators;
use super::pool::Life;
use super::room::Place;
use super::slots::Slots;
use super::{Backend, NotAllowed, tls};
use crate::config::HttpVersions;
use crate::http::framing::{self, BodyFraming};
use crate::http::io::{SharedIo, TlsIo};
use crate::http::response::{ReadError, ResponseReader};
use crate::http::wire::{self, WriteError};
use crate::http::{Body, BodyError, BodyStream, RequestHead, ResponseHead};
use crate::http::{cdn_loop, encoding};
use crate::services::share::is_due;
use crate::telemetry::clock;
use crate::telemetry::trace::context::TRACEPARENT;
use crate::telemetry::trace::{Attempt, Origin, Outgoing};

/// Interim responses (RFC 9110 §15.2) in front of one that is final.
pub(super) const MAX_INTERIM: u32 = 64;

/// How often it is looked whether there is a place for one more connection.
const LOOK: Duration = Duration::from_millis(100);

/// How long a backend may refuse to take request bytes.
pub(super) const UPLOAD_PATIENCE: Duration = Duration::from_secs(60);

/// Makes connections, for all services of the process.
pub struct Connector {
    transport: TransportConnector,
    system_roots: Arc<RootCertStore>,
    slots: Arc<Slots>,
    /// Where nobody is connected to.
    operators: Arc<Operators>,
}

impl Default for Connector {
    fn default() -> Self {
        Self::new()
    }
}

impl Connector {
    /// A connector with the machine's roots.
    pub fn new() -> Self {
        Self {
            transport: TransportConnector::new(None),
            system_roots: Arc::new(tls::system_roots()),
            slots: Arc::default(),
            operators: Arc::default(),
        }
    }

    /// The operators' listeners of this process: nobody is connected to them.
    pub fn operators(&self) -> &Arc<Operators> {
        &self.operators
    }

    /// How many connections there may be, of all services.
    pub fn slots(&self) -> &Arc<Slots> {
        &self.slots
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
    /// Whether a gzip-coded response is decoded.
    pub decompress: bool,
    /// The protocol that the connection is asked to change to (RFC 9110 §7.8).
    pub upgrade: Option<HeaderValue>,
    /// The trace that it belongs to.
    pub origin: Option<Origin>,
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
    /// The connection, when it speaks another protocol from here on: status 101.
    pub switched: Option<Box<Switched>>,
}

/// A connection that has left HTTP behind.
#[derive(Debug)]
pub struct Switched {
    /// The connection.
    pub io: SharedIo,
    /// What came on it behind the response's head.
    pub read: Bytes,
    /// Its place among connections.
    pub place: Option<Place>,
}

impl Backend {
    /// Sends a request and waits for the response head.
    pub async fn send(self: Arc<Self>, request: Request) -> Result<Response, SendError> {
        let (decompress, begun) = (request.decompress, clock::now());
        let mut result = match self.is_available() {
            Ok(()) if !self.is_reached() => Ok(Response::instead(502, "the backend is not available\n".to_owned())),
            Ok(()) => self.through_faults(request).await,
            Err(error) => Err(error),
        };
        if decompress && let Ok(response) = &mut result {
            response.body = encoding::gunzip(&mut response.head.headers, std::mem::take(&mut response.body));
        }
        self.counters.time.observe(clock::now().duration_since(begun).as_secs_f64());
        self.count(result.as_ref().err());
        result
    }

    /// Whether this request is one of those that reach it: as many of a hundred as the manifest says, evenly.
    fn is_reached(&self) -> bool {
        is_due(&self.tried, self.config.availability.into())
    }

    /// A pooled connection may have been closed at the moment it was used. A request that can be
    /// sent again without harm (RFC 9110 §9.2.2) is, once, on a new connection.
    pub(super) async fn retrying(self: &Arc<Self>, mut request: Request) -> Result<Response, SendError> {
        let mut prepared = self.prepare(&mut request)?;
        let said = request.origin.as_ref().and_then(|_| prepared.headers.get(TRACEPARENT).cloned());
        let mut resend = 0;
        let mut kept = self.kept();
        let mut again = prepared.method.is_idempotent().then(|| request.body.duplicate()).flatten();
        let mut body = request.body;
        loop {
            let attempt = request.origin.as_ref().map(|origin| self.attempt(origin, resend, said.as_ref(), &mut prepared));
            let (road, was_kept) = match kept.take() {
                Some(kept) => (kept, true),
                // Rare, and large: not a part of every exchange's future.
                None => match Box::pin(self.road(attempt.as_ref())).await {
                    Ok(road) => road,
                    Err(error) => return Err(traced(error, attempt.as_ref())),
                },
            };
            if let Some(attempt) = &attempt {
                let (peer, version) = match &road {
                    Road::One(stream, _) => (peer_of(stream), Version::HTTP_11),
                    Road::Two(shared) => (shared.peer(), Version::HTTP_2),
                };
                attempt.connected(peer, was_kept, version, self.config.propagate, &mut prepared.headers);
            }
            match was_kept {
                true => self.counters.reused.inc(),
                false => self.counters.new.inc(),
            }
            let result = match road {
                Road::One(stream, mut life) => {
                    life.uses += 1;
                    self.exchange(stream, life, &prepared, body).await
                }
                Road::Two(shared) => Box::pin(self.exchange_h2(&shared, &prepared, body)).await,
            };
            match result {
                Err(Failed { error, unanswered: true }) if was_kept && let Some(same) = again.take() => {
                    drop(traced(error, attempt.as_ref()));
                    resend += 1;
                    self.counters.retries.inc();
                    body = same;
                }
                Err(failed) => return Err(traced(failed.error, attempt.as_ref())),
                Ok(response) => {
                    return Ok(match attempt {
                        Some(attempt) => watched(response, attempt),
                        None => response,
                    });
                }
            }
        }
    }

    fn attempt(&self, origin: &Origin, resend: u32, said: Option<&HeaderValue>, prepared: &mut Prepared) -> Attempt {
        // An attempt before may have said something else.
        match said {
            Some(said) => drop(prepared.headers.insert(TRACEPARENT, said.clone())),
            None => drop(prepared.headers.remove(TRACEPARENT)),
        }
        let outgoing = Outgoing {
            backend: &self.config.name,
            host: (&self.config.host, self.config.port),
            secure: self.config.tls.is_some(),
            method: &prepared.method,
            target: &prepared.target,
            resend,
            begun: clock::ticks(),
        };
        origin.attempt(&outgoing, &prepared.headers)
    }

    /// A connection that is there.
    fn kept(&self) -> Option<Road> {
        if self.config.http != HttpVersions::One
            && let Some(shared) = self.multiplexed.take(self)
        {
            return Some(Road::Two(shared));
        }
        self.idle.take().filter(|(_, life)| !self.is_spent(life)).map(|(stream, life)| Road::One(stream, life))
    }

    /// A new connection, or one that others have just made or left; true in that case.
    async fn road(self: &Arc<Self>, attempt: Option<&Attempt>) -> Result<(Road, bool), SendError> {
        if self.config.http == HttpVersions::One {
            return self.road_one(attempt).await;
        }
        let begun = clock::now();
        // Whoever holds it waits for a place, or connects.
        let connecting = timeout(self.config.connect_timeout, self.multiplexed.connecting.lock()).await;
        let _connecting = connecting.map_err(|_| match self.share.is_full() {
            true => self.is_full(),
            false => SendError::ConnectTimeout(format!("{}:{}", self.config.host, self.config.port)),
        })?;
        if let Some(shared) = self.multiplexed.take(self) {
            return Ok((Road::Two(shared), true));
        }
        let place = match self.enter() {
            Some(place) => place,
            // More wait on the connections there are than these carry at once.
            None => match self.multiplexed.any() {
                Some(shared) => return Ok((Road::Two(shared), true)),
                None if self.room.as_ref().is_some_and(|room| room.is_full()) => return Err(self.is_full()),
                None => match self.wait(begun).await? {
                    Ok(place) => place,
                    Err(kept) => return Ok((kept, true)),
                },
            },
        };
        let stream = self.connect(attempt).await?;
        let is_two = stream.selected_alpn_proto() == Some(ALPN::H2);
        match (self.config.http, &self.tls) {
            (HttpVersions::Two, None) => {}
            (HttpVersions::Two, Some(_)) if !is_two => return Err(SendError::Protocol("the backend does not speak HTTP/2".to_owned())),
            _ if is_two => {}
            _ => return Ok((Road::One(stream, Life::new(Some(place))), false)),
        }
        Ok((Road::Two(self.multiplex(stream, place).await?), false))
    }

    /// The same for HTTP/1.1.
    async fn road_one(self: &Arc<Self>, attempt: Option<&Attempt>) -> Result<(Road, bool), SendError> {
        let place = match self.enter() {
            Some(place) => place,
            None => match self.wait(clock::now()).await? {
                Ok(place) => place,
                Err(kept) => return Ok((kept, true)),
            },
        };
        Ok((Road::One(self.connect(attempt).await?, Life::new(Some(place))), false))
    }

    /// A place for a connection, if there is one: among the backend's, where they are bounded, and among those of all.
    fn enter(&self) -> Option<Place> {
        let slot = self.share.enter()?;
        match &self.room {
            None => Some(Place::new(slot, None)),
            Some(room) => match room.enter() {
                Some(bounded) => Some(Place::new(slot, Some(bounded))),
                None => {
                    slot.unused();
                    None
                }
            },
        }
    }

    /// Waits for one, or for a connection that others leave: as long as for a connection, since then.
    async fn wait(&self, since: Instant) -> Result<Result<Place, Road>, SendError> {
        let waiting = async {
            loop {
                if let Some(place) = self.enter() {
                    return Ok(place);
                }
                if let Some(kept) = self.kept() {
                    return Err(kept);
                }
                let of_room = async {
                    match &self.room {
                        Some(room) => room.freed().await,
                        None => std::future::pending().await,
                    }
                };
                tokio::select! {
                    () = of_room => {}
                    () = self.share.freed() => {}
                    // What has gone may be for others than whoever was told.
                    () = tokio::time::sleep(LOOK) => {}
                }
            }
        };
        let time = self.config.connect_timeout.saturating_sub(clock::now().duration_since(since));
        timeout(time, waiting).await.map_err(|_| self.is_full())
    }

    fn is_full(&self) -> SendError {
        match &self.room {
            Some(room) if room.is_full() => SendError::LimitReached(self.config.pool.connections),
            Some(_) | None => SendError::NoDescriptors,
        }
    }

    /// Whether a connection has reached a limit of the pool.
    pub(super) fn is_spent(&self, life: &Life) -> bool {
        self.is_past(life.since, life.uses)
    }

    /// The same of one that has been there since then and carried so many requests.
    pub(super) fn is_past(&self, since: Instant, uses: u32) -> bool {
        let limits = &self.config.pool;
        (limits.uses > 0 && uses >= limits.uses) || (!limits.lifetime.is_zero() && clock::now().duration_since(since) >= limits.lifetime)
    }

    /// The head as it goes on the wire, and the framing of the body.
    fn prepare(&self, request: &mut Request) -> Result<Prepared, SendError> {
        let head = &mut request.head;
        let framing = framing::request(&mut head.headers, head.framing, &head.method, request.body.framed_length())
            .map_err(|error| SendError::BadRequest(error.to_string()))?;
        let host = match &self.config.override_host {
            Some(host) => Some(host.clone()),
            // RFC 9112 §3.2: whoever gets two refuses them, or takes either.
            None if head.headers.get_all(header::HOST).iter().count() > 1 => {
                return Err(SendError::BadRequest("it has several hosts".to_owned()));
            }
            None if head.headers.contains_key(header::HOST) => None,
            None => Some(self.host_field(&head.uri)),
        };
        if let Some(host) = host {
            let host = HeaderValue::try_from(host).map_err(|_| SendError::BadRequest("its host is no header value".to_owned()))?;
            head.headers.insert(header::HOST, host);
        }
        cdn_loop::mark(&mut head.headers);
        if let Some(protocol) = &request.upgrade {
            head.headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
            head.headers.insert(header::UPGRADE, protocol.clone());
        }
        let path = head.uri.path_and_query().map_or("/", |path| path.as_str());
        let target = if self.config.path_prefix.is_empty() { path.to_owned() } else { format!("{}{path}", self.config.path_prefix) };
        let (method, headers) = (head.method.clone(), std::mem::take(&mut head.headers));
        Ok(Prepared { method, target, headers, framing, upgrades: request.upgrade.is_some() })
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
    async fn connect(&self, attempt: Option<&Attempt>) -> Result<Stream, SendError> {
        let config = &self.config;
        let resolving = std::sync::atomic::AtomicBool::new(true);
        let begun = clock::now();
        let work = async {
            let mut addresses = resolve(&config.host, config.port).await?;
            resolving.store(false, Ordering::Relaxed);
            if let Some(attempt) = attempt {
                attempt.resolved();
            }
            addresses.sort_by_key(|address| address.is_ipv6() != config.prefer_ipv6);
            let mut failure = None;
            for address in addresses {
                if self.targets.as_ref().is_some_and(|targets| !targets.allow_address(address.ip())) {
                    let not_allowed = NotAllowed(format!("{} ({})", config.host, address.ip()));
                    failure = Some(SendError::Unroutable(not_allowed.to_string()));
                    continue;
                }
                if self.connector.operators.has(address) {
                    failure = Some(SendError::Unroutable(Operators::refusal(address)));
                    continue;
                }
                match self.connect_to(address, attempt).await {
                    Ok(stream) => return Ok(stream),
                    Err(error) => failure = Some(error),
                }
            }
            Err(failure.unwrap_or_else(|| SendError::Dns { host: config.host.clone(), reason: "no addresses".to_owned(), rcode: None }))
        };
        match timeout(config.connect_timeout, work).await {
            Ok(result) => {
                self.counters.connect.observe(clock::now().duration_since(begun).as_secs_f64());
                result
            }
            Err(_) if resolving.load(Ordering::Relaxed) => Err(SendError::DnsTimeout(config.host.clone())),
            Err(_) => Err(SendError::ConnectTimeout(format!("{}:{}", config.host, config.port))),
        }
    }

    async fn connect_to(&self, address: SocketAddr, attempt: Option<&Attempt>) -> Result<Stream, SendError> {
        let mut options = PeerOptions::new();
        let keepalive = &self.config.tcp_keepalive;
        options.tcp_keepalive = keepalive.enabled.then(|| TcpKeepalive {
            idle: Duration::from_secs(keepalive.time.max(1).into()),
            interval: Duration::from_secs(keepalive.interval.max(1).into()),
            count: keepalive.probes.max(1) as usize,
            #[cfg(target_os = "linux")]
            user_timeout: Duration::ZERO,
        });
        let client = match &self.tls {
            None => None,
            Some(Ok(client)) => Some(client),
            Some(Err(reason)) => return Err(SendError::TlsConfiguration(reason.clone())),
        };
        let stream = self
            .connector
            .transport
            .new_stream(&BackendPeer { addr: PeerAddr::Inet(address), options })
            .await
            .map_err(|error| SendError::connecting(&address.to_string(), &error))?;
        if let Some(attempt) = attempt {
            attempt.reached();
        }
        let Some(client) = client else { return Ok(stream) };
        let l4 = stream.into_any().downcast::<L4Stream>().map_err(|_| SendError::Internal("no TCP stream to put TLS on".to_owned()))?;
        let name = ServerName::try_from(client.name().to_owned()).map_err(|error| SendError::Internal(error.to_string()))?;
        let tls =
            TlsIo::connect(client.config().clone(), name, *l4).await.map_err(|error| SendError::handshake(&self.config.host, &error))?;
        Ok(Box::new(tls))
    }

    /// One request and response on `stream`.
    async fn exchange(self: &Arc<Self>, stream: Stream, life: Life, prepared: &Prepared, mut body: Body) -> Result<Response, Failed> {
        let peer = peer_of(&stream);
        let io = SharedIo::new(stream);
        let mut reader = ResponseReader::new(io.clone());
        let framing = prepared.framing;
        let bytes = wire::request_head(&prepared.method, &prepared.target, &prepared.headers);
        let mut writer = io;
        let request = Box::pin(async move { wire::write_message(&mut writer, bytes, framing, &mut body, UPLOAD_PATIENCE).await });
        let mut writing = match framing {
            BodyFraming::None => {
                let written = request.await;
                written.map_err(|error| Failed { error: SendError::Terminated(error.to_string()), unanswered: true })?;
                None
            }
            BodyFraming::Length(_) | BodyFraming::Chunked | BodyFraming::UntilClose => Some(request),
        };

        let first_byte = self.config.first_byte_timeout;
        let mut upload: Option<WriteError> = None;
        let mut interim = 0;
        let mut response = loop {
            let arrived = match &mut writing {
                // The clock starts when the request is out.
                Some(work) => tokio::select! {
                    biased;
                    head = reader.head(&prepared.method) => head,
                    done = work => {
                        writing = None;
                        match done {
                            Ok(_) => {}
                            // The guest or client gave its body up, or it is not what its head says: the backend sees it truncated.
                            Err(error @ (WriteError::Body(_) | WriteError::Length { .. })) => {
                                return Err(Failed::answered(SendError::RequestBody(error.to_string())));
                            }
                            // The backend may have answered early; look before giving up.
                            Err(error) => upload = Some(error),
                        }
                        continue;
                    }
                },
                None => match timeout(first_byte, reader.head(&prepared.method)).await {
                    Ok(head) => head,
                    Err(_) => return Err(Failed::answered(SendError::ResponseTimeout(first_byte.as_millis()))),
                },
            };
            match (arrived, &upload) {
                (Ok(head), _) if head.status == StatusCode::SWITCHING_PROTOCOLS => {
                    if prepared.upgrades && writing.is_none() && framing::websocket(&head.headers).is_some() {
                        let (io, read) = reader.into_parts();
                        let switched = Some(Box::new(Switched { io, read: read.freeze(), place: life.place }));
                        return Ok(Response { head, body: Body::empty(), peer, switched });
                    }
                    return Err(Failed::answered(SendError::Upgrade));
                }
                (Ok(head), _) if head.status.is_informational() => {
                    interim += 1;
                    if interim > MAX_INTERIM {
                        let many = ReadError::Malformed("interim responses without end".to_owned());
                        return Err(Failed::answered(SendError::reading(&many)));
                    }
                }
                (Ok(head), _) => break head,
                (Err(read), None) => return Err(Failed { error: SendError::reading(&read), unanswered: read.is_unanswered() }),
                (Err(read), Some(write)) => {
                    return Err(Failed { error: SendError::Terminated(write.to_string()), unanswered: read.is_unanswered() });
                }
            }
        };

        framing::strip_hop_by_hop(&mut response.headers);
        let mut coming = ResponseBody {
            reader: Some(reader),
            life,
            trailers: None,
            backend: self.clone(),
            reusable: writing.is_none() && upload.is_none(),
            failed: false,
        };
        let body = match writing {
            None if coming.remaining() == Some(0) => {
                coming.finish();
                Body::empty()
            }
            None => Body::stream(Box::new(coming)),
            // The backend answers while the request is still going out: both go on, in a task.
            Some(writing) => relay(coming, writing),
        };
        Ok(Response { head: response, body, peer, switched: None })
    }
}

/// Notes a failure in the trace.
fn traced(error: SendError, attempt: Option<&Attempt>) -> SendError {
    if let Some(attempt) = attempt {
        attempt.failed(error.name(), || error.to_string());
    }
    error
}

/// The attempt is over when the response's body is, or when nobody wants that any more.
fn watched(mut response: Response, attempt: Attempt) -> Response {
    attempt.answered(response.head.status, &response.head.headers);
    match response.body.known_length() {
        Some(length) => attempt.received(length as usize),
        None => response.body = Body::stream(Box::new(Watched { body: std::mem::take(&mut response.body), attempt })),
    }
    response
}

/// A response's body that a trace learns of.
struct Watched {
    body: Body,
    attempt: Attempt,
}

#[async_trait]
impl BodyStream for Watched {
    async fn chunk(&mut self) -> Result<Option<Bytes>, BodyError> {
        let chunk = self.body.chunk().await;
        match &chunk {
            Ok(Some(bytes)) => self.attempt.received(bytes.len()),
            Ok(None) => {}
            Err(error) => self.attempt.failed("response_body", || error.to_string()),
        }
        chunk
    }

    fn remaining(&self) -> Option<u64> {
        self.body.framed_length()
    }

    fn trailers(&mut self) -> Option<Box<HeaderMap>> {
        self.body.take_trailers()
    }
}

/// A request as it goes on the wire.
pub(super) struct Prepared {
    pub method: Method,
    /// In origin form, the backend's prefix in front.
    pub target: String,
    /// With `Host`, and with the fields that frame a body in HTTP/1.1.
    pub headers: HeaderMap,
    pub framing: BodyFraming,
    upgrades: bool,
}

/// What carries an exchange.
enum Road {
    One(Stream, Life),
    Two(Arc<Shared>),
}

/// A failed exchange; `unanswered`: the backend has done nothing with it, as when a pooled connection was
/// stale.
pub(super) struct Failed {
    pub error: SendError,
    pub unanswered: bool,
}

impl Failed {
    pub(super) fn answered(error: SendError) -> Self {
        Self { error, unanswered: false }
    }
}

/// The address of the other end.
pub(super) fn peer_of(stream: &Stream) -> Option<SocketAddr> {
    stream.get_socket_digest()?.peer_addr()?.as_inet().copied()
}

async fn resolve(host: &str, port: u16) -> Result<Vec<SocketAddr>, SendError> {
    if let Ok(ip) = host.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(ip, port)]);
    }
    match tokio::net::lookup_host((host, port)).await {
        Ok(found) => Ok(found.collect()),
        Err(error) => Err(SendError::resolving(host, &error)),
    }
}

/// A response body read straight from its connection, which goes back to the pool at the end.
struct ResponseBody {
    reader: Option<ResponseReader<SharedIo>>,
    life: Life,
    trailers: Option<Box<HeaderMap>>,
    backend: Arc<Backend>,
    reusable: bool,
    failed: bool,
}

impl ResponseBody {
    /// The response is whole: keep the connection if both sides want to.
    fn finish(&mut self) {
        let Some(mut reader) = self.reader.take() else { return };
        self.trailers = reader.trailers();
        if !self.reusable || !reader.is_reusable() || self.backend.is_spent(&self.life) {
            return;
        }
        if let Some(stream) = reader.into_io().into_stream() {
            self.backend.idle.put(stream, std::mem::take(&mut self.life));
        }
    }
}

#[async_trait]
impl BodyStream for ResponseBody {
    async fn chunk(&mut self) -> Result<Option<Bytes>, BodyError> {
        let patience = self.backend.config.between_bytes_timeout;
        let Some(reader) = &mut self.reader else { return Ok(None) };
        let error = match timeout(patience, reader.chunk()).await {
            Ok(Ok(Some(bytes))) => return Ok(Some(bytes)),
            Ok(Ok(None)) => {
                self.finish();
                return Ok(None);
            }
            Ok(Err(error @ (ReadError::Malformed(_) | ReadError::Status))) => BodyError::Malformed(error.to_string()),
            Ok(Err(error)) => BodyError::Incomplete(error.to_string()),
            Err(_) => BodyError::Timeout(format!("the backend sent nothing for {} ms", patience.as_millis())),
        };
        self.reader = None;
        self.failed = true;
        Err(error)
    }

    fn remaining(&self) -> Option<u64> {
        match &self.reader {
            Some(reader) => reader.remaining(),
            None => (!self.failed).then_some(0),
        }
    }

    fn trailers(&mut self) -> Option<Box<HeaderMap>> {
        self.trailers.take()
    }
}

/// Goes on writing the request while the response is read through a channel.
fn relay(mut from: ResponseBody, writing: impl Future<Output = Result<u64, WriteError>> + Send + 'static) -> Body {
    let remaining = from.remaining();
    let mut body = Body::empty();
    let mut to = body.open();
    tokio::spawn(async move {
        let reading = async {
            loop {
                match from.chunk().await {
                    Ok(Some(bytes)) => to.write(bytes).await.ok()?,
                    Ok(None) => {
                        if let Some(trailers) = from.trailers() {
                            *to.trailers_mut() = *trailers;
                        }
                        return to.finish().await.ok();
                    }
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

    fn trailers(&mut self) -> Option<Box<HeaderMap>> {
        self.body.take_trailers()
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
