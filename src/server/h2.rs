//! A client connection that speaks HTTP/2 (RFC 9113): its streams are served at the same time, each in a
//! task of its own.
//!
//! A request's bytes are taken off the connection's windows only as its guest reads them, and a response
//! goes out only as the client's windows allow, so that neither side fills this host's memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use ::http::header::{self, HeaderValue};
use ::http::{HeaderMap, Method, Request, Response, StatusCode, Version};
use async_trait::async_trait;
use bytes::{BufMut, Bytes, BytesMut};
use h2::server::{Connection, SendResponse};
use h2::{Reason, RecvStream};
use parking_lot::Mutex;
use pingora::prelude::timeout;
use pingora::protocols::http::date::get_cached_date;
use pingora::server::ShutdownWatch;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Notify;

use super::connection::{SETTLE, stopping};
use super::exchange::{self, Answered, Answering};
use super::places::Place;
use super::respond::{Failure, not_whole};
use super::{Edge, handoff, hops};
use crate::http::framing::{self, BodyFraming};
use crate::http::h2_stream::{self, Piece};
use crate::http::request::RequestLine;
use crate::http::rewind::{Recorded, Rewound};
use crate::http::{Body, BodyError, BodyStream, h2_fingerprint, wire};
use crate::sandbox::{Client, DownstreamRequest, DownstreamResponse, Received};
use crate::services::descriptors;
use crate::telemetry::Metrics;
use crate::telemetry::access::Entry;
use crate::telemetry::clock;
use crate::telemetry::metrics::Held;
use crate::telemetry::service::ServiceMetrics;
use crate::telemetry::trace::Trace;

/// What a client may send on one stream before its guest reads.
const STREAM_WINDOW: u32 = 64 << 10;

/// What may wait to go out on one stream.
const SEND_BUFFER: usize = 64 << 10;

/// Streams that may be worked on, in multiples of those a client may have open: it can reset a stream whose
/// guest goes on.
const WORKED_ON: usize = 2;

/// How long a client may take to go once it has been told to.
const FAREWELL: Duration = Duration::from_secs(5);

/// What the streams of one connection share.
struct Shared {
    edge: Arc<Edge>,
    client: Arc<Client>,
    /// Counts streams as requests under way.
    place: Arc<Place>,
    fingerprint: Option<Arc<str>>,
    /// Streams that are worked on.
    busy: AtomicUsize,
    /// A guest wants the connection to end.
    end: Notify,
}

/// Serves a connection to its end. `read` is what has been read from it already.
pub async fn serve<T>(edge: &Arc<Edge>, read: Bytes, io: T, client: Arc<Client>, place: Arc<Place>, mut shutdown: ShutdownWatch)
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let io = Rewound::new(read, io, h2_fingerprint::ENOUGH);
    let recorded = io.recorded();
    let streams = edge.limits.h2_streams;
    let mut builder = h2::server::Builder::new();
    builder
        .max_concurrent_streams(streams)
        .initial_window_size(STREAM_WINDOW)
        // A guest that does not read must not hold up the other streams.
        .initial_connection_window_size(STREAM_WINDOW.saturating_mul(streams).min(1 << 30))
        .max_header_list_size(u32::try_from(edge.limits.head).unwrap_or(u32::MAX))
        .max_send_buffer_size(SEND_BUFFER);
    let mut connection = match timeout(edge.limits.head_timeout, builder.handshake::<_, Bytes>(io)).await {
        Ok(Ok(connection)) => connection,
        Ok(Err(error)) => {
            tracing::debug!(target: "sidelight::client", %error, "no HTTP/2");
            return;
        }
        Err(_) => return,
    };
    let mut shared = None;
    let mut leaving = false;
    loop {
        let accepted = tokio::select! {
            biased;
            accepted = connection.accept() => accepted,
            () = stopping(&mut shutdown), if !leaving => {
                leave(&mut connection, &mut leaving);
                continue;
            }
            () = ending(shared.as_ref()), if !leaving => {
                leave(&mut connection, &mut leaving);
                continue;
            }
            () = tokio::time::sleep(if leaving { FAREWELL } else { edge.limits.idle_timeout }) => {
                if is_quiet(&mut connection, shared.as_ref()) {
                    if leaving {
                        return;
                    }
                    leave(&mut connection, &mut leaving);
                }
                continue;
            }
        };
        let (request, respond) = match accepted {
            Some(Ok(accepted)) => accepted,
            Some(Err(error)) => {
                // What the client says ends nothing but its own; what we say is a refusal.
                if error.is_library() {
                    edge.telemetry.metrics.refusals.with_label_values(&["h2"]).inc();
                }
                tracing::debug!(target: "sidelight::client", %error, "connection ended");
                return;
            }
            None => return,
        };
        let shared = shared.get_or_insert_with(|| begin(edge, &client, &place, &recorded));
        accept(shared, request, respond, streams as usize * WORKED_ON);
        if !leaving && descriptors::is_full() {
            leave(&mut connection, &mut leaving);
        }
    }
}

fn begin(edge: &Arc<Edge>, client: &Arc<Client>, place: &Arc<Place>, recorded: &Recorded) -> Arc<Shared> {
    let fingerprint = h2_fingerprint::of(&recorded.take()).map(Arc::from);
    Arc::new(Shared {
        edge: edge.clone(),
        client: client.clone(),
        place: place.clone(),
        fingerprint,
        busy: AtomicUsize::new(0),
        end: Notify::new(),
    })
}

async fn ending(shared: Option<&Arc<Shared>>) {
    match shared {
        Some(shared) => shared.end.notified().await,
        None => std::future::pending().await,
    }
}

/// Tells the client to begin nothing more here; streams that are open go on.
fn leave<T: AsyncRead + AsyncWrite + Unpin>(connection: &mut Connection<T, Bytes>, leaving: &mut bool) {
    connection.graceful_shutdown();
    *leaving = true;
}

fn is_quiet<T>(connection: &mut Connection<T, Bytes>, shared: Option<&Arc<Shared>>) -> bool
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    !connection.has_streams() && shared.is_none_or(|shared| shared.busy.load(Ordering::Relaxed) == 0)
}

/// Counts a stream as worked on.
struct Busy(Arc<Shared>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.busy.fetch_sub(1, Ordering::Relaxed);
        self.0.place.end();
    }
}

fn accept(shared: &Arc<Shared>, request: Request<RecvStream>, mut respond: SendResponse<Bytes>, limit: usize) {
    if shared.busy.fetch_add(1, Ordering::Relaxed) >= limit {
        shared.busy.fetch_sub(1, Ordering::Relaxed);
        shared.edge.telemetry.metrics.refusals.with_label_values(&["h2_streams"]).inc();
        respond.send_reset(Reason::ENHANCE_YOUR_CALM);
        return;
    }
    let is_there = shared.place.begin();
    let busy = Busy(shared.clone());
    if !is_there {
        // The connection ends for others to come.
        respond.send_reset(Reason::REFUSED_STREAM);
        return;
    }
    tokio::spawn(Box::pin(async move {
        let begun = clock::now();
        let metrics = &busy.0.edge.telemetry.metrics;
        let _in_flight = Held::new(&metrics.requests_in_flight);
        let mut done = Done::default();
        stream(&busy.0, request, respond, &mut done).await;
        let service = done.service.as_deref().unwrap_or(&busy.0.edge.unserved);
        service.timed(metrics, clock::now().duration_since(begun).as_secs_f64(), done.trace.as_deref());
    }));
}

/// What is known of a request when it is over.
#[derive(Default)]
struct Done {
    trace: Option<Arc<Trace>>,
    entry: Option<Entry>,
    service: Option<Arc<ServiceMetrics>>,
}

/// One request and its response.
async fn stream(shared: &Shared, request: Request<RecvStream>, mut respond: SendResponse<Bytes>, done: &mut Done) {
    let begun = clock::ticks();
    let edge = &*shared.edge;
    let id = exchange::id();
    let (parts, incoming) = request.into_parts();
    let method = parts.method.clone();
    let line = line(parts);
    let raw_head = line.raw.clone();
    let client = hops::client_of(&edge.hops, &shared.client, &line.headers);
    let length = content_length(&line.headers);
    let checked = length.and_then(|length| Ok((exchange::head(edge, &client, &id, line)?, length)));
    let (mut head, length) = match checked {
        Ok(checked) => checked,
        Err(failure) => return write(shared, &id, &method, failure.refuse(&id, &edge.telemetry.metrics), &mut respond, done).await,
    };
    if head.headers.remove(header::EXPECT).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue")) {
        let mut early = Response::new(());
        *early.status_mut() = StatusCode::CONTINUE;
        // A stream that is gone shows when the answer is written.
        drop(respond.send_informational(early));
    }
    let incoming = Incoming::new(incoming, length, edge.limits.client_timeout, &edge.telemetry.metrics);
    let received = Arc::new(Received { raw_head, client, h2_fingerprint: shared.fingerprint.clone(), id: id.clone() });
    (done.trace, done.entry) = exchange::begin(edge, &received, &mut head, begun);
    let request = DownstreamRequest { head, body: incoming.body(), received: received.clone(), trace: done.trace.clone() };
    let mut answering = Answering::begin(edge, &id, request).await;
    done.service.clone_from(&answering.service);
    if let (Some(entry), Some(service)) = (&done.entry, &done.service) {
        entry.service(&service.name);
    }
    let response = loop {
        match answering.next().await {
            Answered::Early(head) => {
                let mut early = Response::new(());
                (*early.status_mut(), *early.headers_mut()) = (head.status, head.headers);
                drop(respond.send_informational(early));
            }
            Answered::Response(response) => break response,
            Answered::HandOff(_) if incoming.is_begun() => {
                tracing::warn!(target: "sidelight::guest", request_id = &*id, "the request's body was read before the client was handed off; it cannot be sent again");
                break Failure::BadAnswer.answer(&id);
            }
            Answered::HandOff(handed) => {
                let backend = handed.backend.config().name.clone();
                match handoff::send(&received, done.trace.as_ref(), *handed, incoming.body()).await {
                    Ok(response) => break DownstreamResponse { head: response.head, body: response.body, close: false },
                    Err(error) => {
                        tracing::warn!(target: "sidelight::guest", request_id = &*id, backend, %error, "the client could not be handed to the backend");
                        break Failure::of_backend(&error).answer(&id);
                    }
                }
            }
        }
    };
    write(shared, &id, &method, response, &mut respond, done).await;
}

/// A head in the form that HTTP/1.1 has, for the checks that both share.
fn line(parts: ::http::request::Parts) -> RequestLine {
    let mut headers = parts.headers;
    join_cookies(&mut headers);
    let mut raw = BytesMut::with_capacity(512);
    raw.put_slice(format!("{} {} HTTP/2\r\n", parts.method, parts.uri).as_bytes());
    wire::fields(&mut raw, &headers);
    raw.put_slice(b"\r\n");
    RequestLine { method: parts.method, target: parts.uri, version: Version::HTTP_2, headers, raw: raw.freeze(), persistent: true }
}

/// RFC 9113 §8.2.3: cookies may come in pieces.
fn join_cookies(headers: &mut HeaderMap) {
    if headers.get_all(header::COOKIE).iter().nth(1).is_none() {
        return;
    }
    let pieces: Vec<&[u8]> = headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if let Ok(whole) = HeaderValue::from_bytes(&pieces.join(&b"; "[..])) {
        headers.insert(header::COOKIE, whole);
    }
}

/// The length that is told, if one is. (That it is kept to is seen to where frames are read.)
fn content_length(headers: &HeaderMap) -> Result<Option<u64>, Failure> {
    let mut lengths = headers.get_all(header::CONTENT_LENGTH).iter();
    match (lengths.next(), lengths.next()) {
        (None, _) => Ok(None),
        (Some(length), None) => {
            let digits = length.to_str().ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
            Ok(Some(digits.and_then(|digits| digits.parse().ok()).ok_or(Failure::BadRequest)?))
        }
        (Some(_), Some(_)) => Err(Failure::BadRequest),
    }
}

/// A request's stream until somebody reads it.
struct Incoming {
    stream: Option<Arc<Mutex<Option<RecvStream>>>>,
    length: Option<u64>,
    patience: Duration,
    metrics: Arc<Metrics>,
}

impl Incoming {
    fn new(stream: RecvStream, length: Option<u64>, patience: Duration, metrics: &Arc<Metrics>) -> Self {
        let stream = (!stream.is_end_stream()).then(|| Arc::new(Mutex::new(Some(stream))));
        Self { stream, length, patience, metrics: metrics.clone() }
    }

    /// Whether somebody reads it.
    fn is_begun(&self) -> bool {
        self.stream.as_ref().is_some_and(|stream| stream.lock().is_none())
    }

    /// The body; of several, the first to be read has it.
    fn body(&self) -> Body {
        match &self.stream {
            None => Body::empty(),
            Some(stream) => Body::stream(Box::new(RequestBody {
                unread: Some(stream.clone()),
                stream: None,
                remaining: self.length,
                ended: false,
                trailers: None,
                patience: self.patience,
                metrics: self.metrics.clone(),
            })),
        }
    }
}

/// A request's body as its guest reads it.
struct RequestBody {
    unread: Option<Arc<Mutex<Option<RecvStream>>>>,
    stream: Option<RecvStream>,
    remaining: Option<u64>,
    ended: bool,
    trailers: Option<Box<HeaderMap>>,
    patience: Duration,
    metrics: Arc<Metrics>,
}

#[async_trait]
impl BodyStream for RequestBody {
    async fn chunk(&mut self) -> Result<Option<Bytes>, BodyError> {
        if let Some(unread) = self.unread.take() {
            self.stream = unread.lock().take();
        }
        let Some(stream) = &mut self.stream else { return Err(BodyError::Incomplete("its stream is gone".to_owned())) };
        let Ok(piece) = timeout(self.patience, h2_stream::read(stream)).await else {
            self.stream = None;
            self.metrics.refusals.with_label_values(&["body_timeout"]).inc();
            return Err(BodyError::Timeout(format!("the client sent nothing for {:?}", self.patience)));
        };
        match piece? {
            Piece::Bytes(bytes) => {
                self.metrics.request_bytes.inc_by(bytes.len() as u64);
                self.remaining = self.remaining.map(|left| left.saturating_sub(bytes.len() as u64));
                self.ended = stream.is_end_stream();
                Ok(Some(bytes))
            }
            Piece::End(trailers) => {
                self.ended = true;
                self.trailers = trailers;
                Ok(None)
            }
        }
    }

    fn remaining(&self) -> Option<u64> {
        // Behind the last byte there may be trailers.
        if self.ended { Some(0) } else { self.remaining.filter(|left| *left > 0) }
    }

    fn trailers(&mut self) -> Option<Box<HeaderMap>> {
        self.trailers.take()
    }
}

/// Writes a response.
async fn write(shared: &Shared, id: &str, method: &Method, response: DownstreamResponse, respond: &mut SendResponse<Bytes>, done: &Done) {
    let DownstreamResponse { mut head, mut body, close } = response;
    let length = wire::settle(&mut body, SETTLE);
    let framing = framing::response(&mut head.headers, head.framing, method, head.status, length, true);
    let framing = match framing {
        Ok(framing) => framing,
        Err(error) => {
            tracing::warn!(target: "sidelight::guest", request_id = id, %error, "the guest's response cannot be sent");
            DownstreamResponse { head, body, .. } = Failure::BadAnswer.answer(id);
            BodyFraming::Length(body.known_length().unwrap_or_default())
        }
    };
    let edge = &*shared.edge;
    done.service.as_deref().unwrap_or(&edge.unserved).answered(&edge.telemetry.metrics, method, head.status);
    // RFC 9113 §8.2.2.
    head.headers.remove(header::TRANSFER_ENCODING);
    head.headers.remove(header::TE);
    if let BodyFraming::Length(length) = framing {
        head.headers.entry(header::CONTENT_LENGTH).or_insert_with(|| HeaderValue::from(length));
    }
    if !head.headers.contains_key(header::DATE) {
        head.headers.insert(header::DATE, get_cached_date());
    }
    if close {
        shared.end.notify_one();
    }
    if let Some(trace) = &done.trace {
        trace.answering(head.status, &head.headers);
    }
    let status = head.status;
    let mut response = Response::new(());
    (*response.status_mut(), *response.headers_mut()) = (head.status, head.headers);
    let bodiless = matches!(framing, BodyFraming::None | BodyFraming::Length(0));
    let sent = match respond.send_response(response, bodiless) {
        Ok(_) if bodiless => Ok(0),
        Ok(mut stream) => h2_stream::write(&mut stream, framing, &mut body, edge.limits.client_timeout, &|_| ()).await,
        Err(error) => Err(h2_stream::Unsent::Gone(error.to_string())),
    };
    edge.telemetry.metrics.response_bytes.inc_by(sent.as_ref().copied().unwrap_or_default());
    if let Some(entry) = &done.entry {
        entry.answered(status, sent.as_ref().copied().unwrap_or_default());
    }
    if let Some(trace) = &done.trace {
        trace.answered(sent.as_ref().copied().unwrap_or_default(), sent.as_ref().err().map(h2_stream::Unsent::name));
    }
    if let Err(error) = &sent {
        if matches!(error, h2_stream::Unsent::Timeout(_)) {
            edge.telemetry.metrics.refusals.with_label_values(&["reader_timeout"]).inc();
        }
        not_whole(id, matches!(error, h2_stream::Unsent::Body(_) | h2_stream::Unsent::Length), error);
    }
}
