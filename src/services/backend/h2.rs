//! Exchanges with a backend over HTTP/2 (RFC 9113): many at once on one connection.
//!
//! Both directions of an exchange are independent here, so a request body that is not at hand goes out in a
//! task of its own, which ends with the exchange.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Weak};
use std::task::Poll;
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

use ::http::header::{self, HeaderValue};
use ::http::uri::{Authority, PathAndQuery, Scheme};
use ::http::{HeaderMap, Request, Uri, Version};
use async_trait::async_trait;
use bytes::Bytes;
use h2::client::{Connection, SendRequest};
use h2::{Reason, RecvStream, SendStream};
use parking_lot::Mutex;
use pingora::prelude::timeout;
use pingora::protocols::Stream;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use super::Backend;
use super::client::{Failed, MAX_INTERIM, Prepared, Response, UPLOAD_PATIENCE};
use super::error::SendError;
use super::flood::{Counted, Use, Watch};
use super::pool::Loans;
use super::room::Place;
use crate::http::framing::{self, BodyFraming};
use crate::http::message::{MAX_HEAD, ReadError};
use crate::http::{Body, BodyError, BodyStream, ResponseHead, h2_stream};
use crate::telemetry::clock;

/// What a backend may send on one stream before somebody reads.
const STREAM_WINDOW: u32 = 256 << 10;

/// Requests on one connection at once, if the backend takes as many.
const MAX_STREAMS: usize = 100;

/// Request bodies up to this that are at hand go out with the head.
const SMALL: u64 = 16 << 10;

/// How long a failed exchange waits to learn how its connection ended.
const EXPLAIN: Duration = Duration::from_millis(100);

/// How long a connection may go on that nobody wants any more.
const AT_LAST: Duration = Duration::from_secs(10);

/// How often a connection is looked at while nothing happens.
const SWEEP: Duration = Duration::from_secs(1);

/// The connections of one backend.
#[derive(Default)]
pub struct Multiplexed {
    open: Mutex<Vec<Arc<Shared>>>,
    loans: Mutex<Loans>,
    /// Held while a connection is made, so that those who come meanwhile share it.
    pub(super) connecting: tokio::sync::Mutex<()>,
}

/// One connection.
pub struct Shared {
    send: SendRequest<Bytes>,
    peer: Option<SocketAddr>,
    /// The thread it was made on, where its task runs.
    home: ThreadId,
    since: Instant,
    last: Mutex<Instant>,
    uses: AtomicU32,
    counts: Arc<Use>,
    end: Arc<End>,
    /// Its copies count the exchanges.
    busy: Arc<()>,
}

/// How a connection ended, once it has.
#[derive(Default)]
struct End {
    closed: AtomicBool,
    told: Notify,
    goodbye: Mutex<Option<(u32, String)>>,
}

impl End {
    fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
    }

    /// What a stream's failure is. One that dies with its connection does not know the code the backend may
    /// have said goodbye with.
    async fn explain(&self, error: &h2::Error) -> SendError {
        if error.is_io() {
            // Without word from the connection's task there is none.
            drop(timeout(EXPLAIN, self.told.notified()).await);
            if let Some((code, reason)) = self.goodbye.lock().clone() {
                return SendError::H2 { frame: 7, code, reason };
            }
        }
        SendError::h2(error)
    }
}

impl Shared {
    /// The other end.
    pub(super) fn peer(&self) -> Option<SocketAddr> {
        self.peer
    }

    fn exchanges(&self) -> usize {
        Arc::strong_count(&self.busy) - 1
    }

    fn is_spent(&self, backend: &Backend) -> bool {
        backend.is_past(self.since, self.uses.load(Ordering::Relaxed))
    }
}

impl Multiplexed {
    /// A connection with room for one more exchange: one of this thread's, else any, if it may be lent. Where connections are
    /// bounded, it may. What another thread's connection has for this one costs both a change of threads.
    pub(super) fn take(&self, backend: &Backend) -> Option<Arc<Shared>> {
        let thread = thread::current().id();
        let open = self.open.lock();
        let has_room = |shared: &&Arc<Shared>| {
            !shared.end.is_closed()
                && !shared.is_spent(backend)
                && shared.exchanges() < MAX_STREAMS.min(shared.send.current_max_send_streams().max(1))
        };
        if let Some(own) = open.iter().filter(|shared| shared.home == thread).find(has_room) {
            return Some(own.clone());
        }
        let other = open.iter().find(has_room)?;
        (backend.room.is_some() || self.loans.lock().one_more()).then(|| other.clone())
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.open.lock().len()
    }

    /// The connection with the fewest exchanges.
    pub(super) fn any(&self) -> Option<Arc<Shared>> {
        self.open.lock().iter().filter(|shared| !shared.end.is_closed()).min_by_key(|shared| shared.exchanges()).cloned()
    }

    /// Drops what is closed, used up or unused for `keep`.
    fn clean(&self, backend: &Backend, keep: Duration) {
        let now = clock::now();
        self.open.lock().retain(|shared| {
            let idle = shared.exchanges() == 0 && now.duration_since(*shared.last.lock()) >= keep;
            !shared.end.is_closed() && !shared.is_spent(backend) && !idle
        });
    }
}

impl Backend {
    /// Makes a fresh connection one for many exchanges.
    pub(super) async fn multiplex(self: &Arc<Self>, stream: Stream, place: Place) -> Result<Arc<Shared>, SendError> {
        let peer = super::client::peer_of(&stream);
        let mut builder = h2::client::Builder::new();
        builder
            .enable_push(false)
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(STREAM_WINDOW * MAX_STREAMS as u32)
            .max_header_list_size(MAX_HEAD as u32);
        let counts = Arc::new(Use::default());
        let stream = Counted::new(stream, counts.clone());
        let (send, connection) = builder.handshake::<_, Bytes>(stream).await.map_err(|error| SendError::h2(&error))?;
        let end = Arc::new(End::default());
        let now = clock::now();
        let shared = Arc::new(Shared {
            send,
            peer,
            home: thread::current().id(),
            since: now,
            last: Mutex::new(now),
            uses: AtomicU32::new(0),
            counts: counts.clone(),
            end: end.clone(),
            busy: Arc::default(),
        });
        self.multiplexed.open.lock().push(shared.clone());
        tokio::spawn(drive((connection, counts), place, (end, Arc::downgrade(&shared)), Arc::downgrade(self)));
        Ok(shared)
    }

    /// One request and response.
    pub(super) async fn exchange_h2(
        self: &Arc<Self>,
        shared: &Arc<Shared>,
        prepared: &Prepared,
        mut body: Body,
    ) -> Result<Response, Failed> {
        let busy = shared.busy.clone();
        shared.uses.fetch_add(1, Ordering::Relaxed);
        shared.counts.begins(u64::from(STREAM_WINDOW) + MAX_HEAD as u64);
        let mut send = shared.send.clone();
        let failed = async |error: h2::Error, unanswered: bool| {
            if error.is_io() || error.is_go_away() {
                shared.end.close();
            }
            Failed { unanswered: unanswered || is_unprocessed(&error), error: shared.end.explain(&error).await }
        };
        if let Err(error) = poll_fn(|cx| send.poll_ready(cx)).await {
            return Err(failed(error, true).await);
        }
        let bodiless = matches!(prepared.framing, BodyFraming::None | BodyFraming::Length(0));
        let request = request(prepared, self.config().tls.is_some()).map_err(Failed::answered)?;
        let (mut answer, mut stream) = match send.send_request(request, bodiless) {
            Ok(begun) => begun,
            Err(error) => return Err(failed(error, true).await),
        };
        let mut upload = match bodiless {
            true => None,
            false if body.framed_length().is_some_and(|length| length <= SMALL) && body.duplicate().is_some() => {
                // It is all here, and fits into the stream's window.
                send_body(&mut stream, prepared.framing, &mut body, &shared.counts).await.map_err(Failed::answered)?;
                None
            }
            false => {
                let (framing, counts) = (prepared.framing, shared.counts.clone());
                Some(Upload(tokio::spawn(async move { send_body(&mut stream, framing, &mut body, &counts).await })))
            }
        };
        let first_byte = self.config().first_byte_timeout;
        let mut interim = 0;
        let mut answer = poll_fn(|cx| {
            // Nobody is told of them, but there are as many as with HTTP/1.1.
            while let Poll::Ready(Some(one)) = answer.poll_informational(cx) {
                interim += 1;
                match one {
                    Ok(_) if interim > MAX_INTERIM => return Poll::Ready(None),
                    Ok(_) => {}
                    Err(error) => return Poll::Ready(Some(Err(error))),
                }
            }
            Pin::new(&mut answer).poll(cx).map(Some)
        });
        let answered = loop {
            match &mut upload {
                // The clock starts when the request is out.
                Some(Upload(task)) => tokio::select! {
                    biased;
                    answered = &mut answer => break answered,
                    done = task => {
                        upload = None;
                        // The backend may have answered early; look before giving up.
                        if let Ok(Err(error @ SendError::RequestBody(_))) = done {
                            return Err(Failed::answered(error));
                        }
                    }
                },
                None => match timeout(first_byte, &mut answer).await {
                    Ok(answered) => break answered,
                    Err(_) => return Err(Failed::answered(SendError::ResponseTimeout(first_byte.as_millis()))),
                },
            }
        };
        let answered = match answered {
            Some(Ok(answered)) => answered,
            Some(Err(error)) => return Err(failed(error, false).await),
            None => {
                shared.end.close();
                let many = ReadError::Malformed("interim responses without end".to_owned());
                return Err(Failed::answered(SendError::reading(&many)));
            }
        };
        let (parts, stream) = answered.into_parts();
        let mut headers = parts.headers;
        framing::strip_hop_by_hop(&mut headers);
        let remaining = headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
        let head = ResponseHead { status: parts.status, version: Version::HTTP_2, headers, ..ResponseHead::default() };
        let body = if stream.is_end_stream() {
            Body::empty()
        } else {
            let patience = self.config().between_bytes_timeout;
            let shared = shared.clone();
            let coming = Coming { stream: Some(stream), remaining, ended: false, trailers: None, patience, upload, shared, _busy: busy };
            Body::stream(Box::new(coming))
        };
        Ok(Response { head, body, peer: shared.peer, switched: None })
    }
}

/// Keeps a connection going until it ends or nobody wants it.
async fn drive(
    (connection, counts): (Connection<Counted, Bytes>, Arc<Use>),
    place: Place,
    (end, shared): (Arc<End>, Weak<Shared>),
    backend: Weak<Backend>,
) {
    // Behind the place, which it has as long as it is there.
    let _place = place;
    let mut connection = std::pin::pin!(connection);
    let (mut unused, mut watch) = (Duration::ZERO, Watch::default());
    loop {
        tokio::select! {
            ended = &mut connection => {
                if let Err(error) = ended {
                    tracing::debug!(target: "sidelight::backend", %error, "HTTP/2 connection ended");
                    if let Some(reason) = error.reason().filter(|_| error.is_remote()) {
                        *end.goodbye.lock() = Some((reason.into(), error.to_string()));
                    }
                }
                break;
            }
            () = tokio::time::sleep(SWEEP) => {
                if watch.is_flooded(&counts, MAX_STREAMS as u64 * u64::from(STREAM_WINDOW)) {
                    let backend = backend.upgrade();
                    let backend = backend.as_ref().map(|backend| &*backend.config().name);
                    tracing::warn!(target: "sidelight::backend", backend, "a backend sends what is of no use to anybody: its HTTP/2 connection is closed");
                    break;
                }
                // What is still to be written when nobody wants it any more, the backend may not take.
                unused = if shared.strong_count() > 0 { Duration::ZERO } else { unused + SWEEP };
                if unused > AT_LAST {
                    break;
                }
                // Without its backend it ends when its last exchange does.
                if let Some(backend) = backend.upgrade() {
                    backend.multiplexed.clean(&backend, backend.config().keepalive_time);
                }
            }
        }
    }
    end.close();
    end.told.notify_waiters();
    // One that comes to wait only now finds this.
    end.told.notify_one();
    if let Some(backend) = backend.upgrade() {
        backend.multiplexed.clean(&backend, backend.config().keepalive_time);
    }
}

/// Whether the backend says that it has done nothing with the request (RFC 9113 §8.7).
fn is_unprocessed(error: &h2::Error) -> bool {
    error.reason() == Some(Reason::REFUSED_STREAM) || error.is_go_away() || error.is_io()
}

/// The head (RFC 9113 §8.3.1).
fn request(prepared: &Prepared, secure: bool) -> Result<Request<()>, SendError> {
    let bad = |what: &str| SendError::BadRequest(what.to_owned());
    let mut headers = prepared.headers.clone();
    let authority = headers.remove(header::HOST);
    let authority =
        authority.as_ref().and_then(|host| Authority::try_from(host.as_bytes()).ok()).ok_or_else(|| bad("its host is no authority"))?;
    let path = PathAndQuery::try_from(prepared.target.as_str()).map_err(|_| bad("its path is none"))?;
    let scheme = if secure { Scheme::HTTPS } else { Scheme::HTTP };
    let uri = Uri::builder().scheme(scheme).authority(authority).path_and_query(path).build();
    headers.remove(header::TRANSFER_ENCODING);
    if headers.get(header::TE).is_some_and(|value| value.as_bytes() != b"trailers") {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
    let mut request = Request::new(());
    *request.method_mut() = prepared.method.clone();
    *request.uri_mut() = uri.map_err(|error| bad(&error.to_string()))?;
    *request.version_mut() = Version::HTTP_2;
    *request.headers_mut() = headers;
    Ok(request)
}

/// Writes a request's body; the backend sees it if that fails.
async fn send_body(stream: &mut SendStream<Bytes>, framing: BodyFraming, body: &mut Body, counts: &Use) -> Result<(), SendError> {
    match h2_stream::write(stream, framing, body, UPLOAD_PATIENCE, &|bytes| counts.sent(bytes)).await {
        Ok(_) => Ok(()),
        Err(error @ (h2_stream::Unsent::Body(_) | h2_stream::Unsent::Length)) => Err(SendError::RequestBody(error.to_string())),
        Err(error) => Err(SendError::Terminated(error.to_string())),
    }
}

/// A request's body on its way; it stops with the exchange.
struct Upload(JoinHandle<Result<(), SendError>>);

impl Drop for Upload {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A response's body as it comes.
struct Coming {
    stream: Option<RecvStream>,
    remaining: Option<u64>,
    ended: bool,
    trailers: Option<Box<HeaderMap>>,
    patience: Duration,
    /// The request's, which may go on.
    upload: Option<Upload>,
    shared: Arc<Shared>,
    _busy: Arc<()>,
}

impl Drop for Coming {
    fn drop(&mut self) {
        *self.shared.last.lock() = clock::now();
    }
}

#[async_trait]
impl BodyStream for Coming {
    async fn chunk(&mut self) -> Result<Option<Bytes>, BodyError> {
        let Some(stream) = &mut self.stream else { return Ok(None) };
        let error = match timeout(self.patience, h2_stream::read(stream)).await {
            Ok(Ok(h2_stream::Piece::Bytes(bytes))) => {
                self.remaining = self.remaining.map(|left| left.saturating_sub(bytes.len() as u64));
                self.shared.counts.taken(bytes.len());
                self.ended = stream.is_end_stream();
                return Ok(Some(bytes));
            }
            Ok(Ok(h2_stream::Piece::End(trailers))) => {
                self.trailers = trailers;
                (self.stream, self.upload) = (None, None);
                self.ended = true;
                return Ok(None);
            }
            Ok(Err(error)) => error,
            Err(_) => BodyError::Timeout(format!("the backend sent nothing for {} ms", self.patience.as_millis())),
        };
        (self.stream, self.upload) = (None, None);
        Err(error)
    }

    fn remaining(&self) -> Option<u64> {
        // Behind the last byte there may be trailers.
        if self.ended { Some(0) } else { self.remaining.filter(|left| *left > 0) }
    }

    fn trailers(&mut self) -> Option<Box<HeaderMap>> {
        self.trailers.take()
    }
}
