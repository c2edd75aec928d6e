//! One client connection: HTTP/1.1 requests, one after another, or HTTP/2, which `h2` serves.
//!
//! [`RequestReader`] reads and parses, [`wire`] writes. Both directions of one request are driven from
//! this task, the guest runs in another.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use ::http::header::{self, HeaderValue};
use ::http::{Method, Version};
use bytes::{Bytes, BytesMut};
use pingora::prelude::timeout;
use pingora::protocols::http::date::get_cached_date;
use pingora::protocols::{ALPN, Stream};
use pingora::server::ShutdownWatch;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::exchange::{self, Answered, Answering};
use super::hops::Ends;
use super::places::Place;
use super::respond::{Failure, not_whole};
use super::tunnel::Carried;
use super::upload::{self, Upload, Writer};
use super::{Edge, h2, handoff, hops};
use crate::http::framing::{self, BodyFraming};
use crate::http::io::SharedIo;
use crate::http::request::{ReadError, RequestLine, RequestReader};
use crate::http::{Body, RequestHead, wire};
use crate::sandbox::{Client, ClientTls, DownstreamRequest, DownstreamResponse, HandOff, Received};
use crate::services::descriptors;
use crate::telemetry::access::Entry;
use crate::telemetry::clock;
use crate::telemetry::metrics::Held;
use crate::telemetry::service::ServiceMetrics;
use crate::telemetry::trace::Trace;

/// How much of a response is gathered before its head is written, so that a short one gets a
/// length.
pub(super) const SETTLE: usize = 64 << 10;

/// Time and bytes to take what a client still sends after the last answer, so that it can read that
/// answer before it sees the connection reset.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES: usize = 1 << 20;

/// Serves a connection to its end.
pub async fn serve(edge: &Arc<Edge>, stream: Stream, ends: Ends, tls: Option<ClientTls>, place: Arc<Place>, mut shutdown: ShutdownWatch) {
    let _open = Held::new(&edge.telemetry.metrics.connections);
    let client = Arc::new(Client { address: ends.client, server: ends.server, secure: tls.is_some(), tls });
    if stream.selected_alpn_proto() == Some(ALPN::H2) {
        h2::serve(edge, Bytes::new(), stream, client, place, shutdown).await;
        return;
    }
    let plain = client.tls.is_none();
    let io = SharedIo::new(stream);
    let mut reader = RequestReader::new(io.clone());
    let mut patience = edge.limits.head_timeout;
    let mut first = true;
    loop {
        while !reader.has_begun() || (first && plain && reader.may_be_preface()) {
            let arrived = tokio::select! {
                biased;
                read = timeout(patience, reader.arrive()) => matches!(read, Ok(Ok(()))),
                () = stopping(&mut shutdown) => false,
            };
            if !arrived {
                return;
            }
        }
        if first && plain && reader.is_preface() {
            let (io, read) = reader.into_parts();
            h2::serve(edge, read.freeze(), io, client, place, shutdown).await;
            return;
        }
        first = false;
        let exchange = Exchange { edge, io: &io, client: &client, place: &place, shutdown: &shutdown, stopping: *shutdown.borrow() };
        match exchange.run(&mut reader).await {
            Next::Keep => reader.begin(),
            Next::Close => {
                linger(&io).await;
                return;
            }
            Next::Gone => return,
        }
        patience = edge.limits.idle_timeout;
    }
}

pub(super) async fn stopping(shutdown: &mut ShutdownWatch) {
    // An error means that the server is gone: that too is the end.
    let _ = shutdown.wait_for(|stop| *stop).await;
}

/// Ends our half and takes what still comes, for a moment.
async fn linger(io: &SharedIo) {
    let mut io = io.clone();
    if io.shutdown().await.is_err() {
        return;
    }
    let drain = async {
        let mut scratch = BytesMut::with_capacity(16 << 10);
        let mut taken = 0;
        while taken < LINGER_BYTES {
            scratch.clear();
            match io.read_buf(&mut scratch).await {
                Ok(1..) => taken += scratch.len(),
                Ok(0) | Err(_) => return,
            }
        }
    };
    // Whether it ended by itself does not matter.
    let _ = timeout(LINGER, drain).await;
}

/// What becomes of the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// It may carry another request.
    Keep,
    /// It ends, in a way that the client can read what it was sent.
    Close,
    /// There is nobody left.
    Gone,
}

/// What became of an answer.
enum Responded {
    /// It is out; what the client still sends may be of use.
    Whole,
    /// The connection is of no more use.
    Broken,
    /// It is a backend's business.
    HandOff(Box<HandOff>),
}

/// One request and its response.
struct Exchange<'a> {
    edge: &'a Arc<Edge>,
    io: &'a SharedIo,
    client: &'a Arc<Client>,
    place: &'a Place,
    shutdown: &'a ShutdownWatch,
    stopping: bool,
}

/// A request under way on a connection.
struct UnderWay<'a>(&'a Place);

impl<'a> UnderWay<'a> {
    /// `None`: the connection ends for others to come.
    fn begin(place: &'a Place) -> Option<Self> {
        place.begin().then_some(Self(place))
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// What the response must know about its request.
struct Asked {
    method: Method,
    version: Version,
    /// Whether the connection may carry another request.
    keep: AtomicBool,
    id: Arc<str>,
    trace: Option<Arc<Trace>>,
    /// Its line in the access log.
    entry: Option<Entry>,
    /// What is counted of the service that answers.
    service: OnceLock<Arc<ServiceMetrics>>,
}

impl Asked {
    fn service<'a>(&'a self, edge: &'a Edge) -> &'a ServiceMetrics {
        self.service.get().map_or(&edge.unserved, |service| service)
    }
}

/// Stands for one that was never read.
fn unread_method() -> Method {
    Method::from_bytes(b"_").unwrap_or_default()
}

impl Exchange<'_> {
    async fn run(&self, reader: &mut RequestReader<SharedIo>) -> Next {
        let limits = &self.edge.limits;
        let read = match reader.try_head(limits.head) {
            Ok(None) => timeout(limits.head_timeout, reader.head(limits.head)).await,
            Ok(Some(line)) => Ok(Ok(line)),
            Err(error) => Ok(Err(error)),
        };
        let Some(_under_way) = UnderWay::begin(self.place) else { return Next::Gone };
        let (begun, ticks) = (clock::now(), clock::ticks());
        let _in_flight = Held::new(&self.edge.telemetry.metrics.requests_in_flight);
        let mut asked = Asked {
            method: Method::GET,
            version: Version::HTTP_11,
            keep: AtomicBool::new(false),
            id: exchange::id(),
            trace: None,
            entry: None,
            service: OnceLock::new(),
        };
        let writer = Writer::new(self.io.clone());
        let was_read = matches!(read, Ok(Ok(_)));
        let head = match read {
            Ok(Ok(line)) => self.head(line, &mut asked),
            Ok(Err(ReadError::TooLarge)) => Err(Failure::HeadTooLarge),
            Ok(Err(ReadError::Malformed(reason))) => {
                tracing::debug!(target: "sidelight::client", request_id = &*asked.id, reason, "not a request");
                Err(Failure::BadRequest)
            }
            Ok(Err(ReadError::Status)) => Err(Failure::BadRequest),
            Ok(Err(ReadError::Closed { .. } | ReadError::Io { .. })) => return Next::Gone,
            Err(_) => Err(Failure::HeadTimeout),
        };
        let (mut head, received) = match head {
            Ok(head) => head,
            Err(failure) => {
                *asked.keep.get_mut() = false;
                if !was_read {
                    asked.method = unread_method();
                }
                let answer = failure.refuse(&asked.id, &self.edge.telemetry.metrics);
                self.write(&asked, answer, &writer).await;
                return Next::Close;
            }
        };
        (asked.trace, asked.entry) = exchange::begin(self.edge, &received, &mut head, ticks);
        let next = self.answered(reader, head, received, &asked, &writer).await;
        let time = clock::now().duration_since(begun).as_secs_f64();
        asked.service(self.edge).timed(&self.edge.telemetry.metrics, time, asked.trace.as_deref());
        next
    }

    /// Checks a head and makes it what the guest sees.
    fn head(&self, line: RequestLine, asked: &mut Asked) -> Result<(RequestHead, Received), Failure> {
        *asked.keep.get_mut() = line.persistent && !self.stopping && !descriptors::is_full();
        asked.method = line.method.clone();
        asked.version = line.version;
        let client = hops::client_of(&self.edge.hops, self.client, &line.headers);
        let received = Received { raw_head: line.raw.clone(), client, h2_fingerprint: None, id: asked.id.clone() };
        Ok((exchange::head(self.edge, &received.client, &asked.id, line)?, received))
    }

    /// Runs the guest and writes its answer, or ours.
    async fn answered(
        &self,
        reader: &mut RequestReader<SharedIo>,
        mut head: RequestHead,
        received: Received,
        asked: &Asked,
        writer: &Writer,
    ) -> Next {
        let expects_continue =
            head.headers.remove(header::EXPECT).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"));
        let (upload, body) = self.upload(reader, expects_continue);
        let begun = upload.as_ref().map(Upload::begun);
        let received = Arc::new(received);
        let request = DownstreamRequest { head, body, received: received.clone(), trace: asked.trace.clone() };
        let responded = match upload {
            None => self.respond(asked, request, writer).await,
            // In a box: most requests have no body, and their futures need no room for it.
            Some(upload) => Box::pin(self.beside(upload, reader, writer, asked, self.respond(asked, request, writer))).await,
        };
        let whole = match responded {
            Responded::Whole => true,
            Responded::Broken => false,
            Responded::HandOff(_) if begun.is_some_and(|begun| begun.load(Ordering::Relaxed)) => {
                tracing::warn!(target: "sidelight::guest", request_id = &*asked.id, "the request's body was read before the client was handed off; it cannot be sent again");
                self.write(asked, Failure::BadAnswer.answer(&asked.id), writer).await
            }
            Responded::HandOff(handed) => {
                // Rare, and large.
                return Box::pin(self.hand_off(*handed, reader, &received, expects_continue, asked, writer)).await;
            }
        };
        self.next(whole, asked, reader)
    }

    /// What becomes of the connection behind an answer. A body nobody read is in the way of the next
    /// request.
    fn next(&self, whole: bool, asked: &Asked, reader: &RequestReader<SharedIo>) -> Next {
        if whole && asked.keep.load(Ordering::Relaxed) && reader.is_done() { Next::Keep } else { Next::Close }
    }

    /// The request's body, and what fills it if there is one.
    fn upload(&self, reader: &RequestReader<SharedIo>, expects_continue: bool) -> (Option<Upload>, Body) {
        if reader.is_done() {
            return (None, Body::empty());
        }
        let (upload, body) =
            upload::channel(reader.remaining(), expects_continue, self.edge.limits.client_timeout, &self.edge.telemetry.metrics);
        (Some(upload), body)
    }

    /// Answers while the request's body flows.
    async fn beside(
        &self,
        upload: Upload,
        reader: &mut RequestReader<SharedIo>,
        writer: &Writer,
        asked: &Asked,
        respond: impl Future<Output = Responded>,
    ) -> Responded {
        let mut respond = std::pin::pin!(respond);
        let mut upload = std::pin::pin!(upload.run(reader, writer, &asked.keep));
        let mut uploading = true;
        let responded = loop {
            tokio::select! {
                biased;
                responded = &mut respond => break responded,
                () = &mut upload, if uploading => uploading = false,
            }
        };
        if uploading && matches!(responded, Responded::Whole) {
            // The client has its answer; the guest may still read.
            upload.await;
        }
        responded
    }

    /// Leaves the client to a backend.
    async fn hand_off(
        &self,
        handed: HandOff,
        reader: &mut RequestReader<SharedIo>,
        received: &Received,
        expects_continue: bool,
        asked: &Asked,
        writer: &Writer,
    ) -> Next {
        let (upload, body) = self.upload(reader, expects_continue);
        let backend = handed.backend.config().name.clone();
        let its = handed.backend.clone();
        let mut switched = None;
        let respond = async {
            let response = match handoff::send(received, asked.trace.as_ref(), handed, body).await {
                Ok(mut response) => {
                    if let Some(connection) = response.switched.take() {
                        switched = Some((response, *connection));
                        return Responded::Broken;
                    }
                    DownstreamResponse { head: response.head, body: response.body, close: false }
                }
                Err(error) => {
                    tracing::warn!(target: "sidelight::guest", request_id = &*asked.id, backend, %error, "the client could not be handed to the backend");
                    Failure::of_backend(&error).answer(&asked.id)
                }
            };
            if self.write(asked, response, writer).await { Responded::Whole } else { Responded::Broken }
        };
        let responded = match upload {
            None => respond.await,
            Some(upload) => self.beside(upload, reader, writer, asked, respond).await,
        };
        let Some((response, connection)) = switched else {
            return self.next(matches!(responded, Responded::Whole), asked, reader);
        };
        asked.service(self.edge).answered(&self.edge.telemetry.metrics, &asked.method, response.head.status);
        let carried = Carried::default();
        let mut known = self.edge.current.routes();
        // Whoever stops or removes a service means what goes on, too. (What takes a service's place leaves it alone.)
        let over = || {
            let now = self.edge.current.routes();
            let gone = !Arc::ptr_eq(&now, &known) && !now.services().iter().any(|service| its.is_of(&service.services.backends));
            if !gone {
                known = now;
            }
            gone || *self.shutdown.borrow()
        };
        match handoff::splice(self.edge, self.io, reader.take_rest(), response, connection, &carried, over).await {
            Ok(end) => {
                let (up, down) = carried.both();
                tracing::debug!(target: "sidelight::client", request_id = &*asked.id, backend, up, down, "upgraded connection ended: {end}")
            }
            Err(error) => {
                tracing::debug!(target: "sidelight::client", request_id = &*asked.id, backend, %error, "upgraded connection broke")
            }
        }
        Next::Gone
    }

    /// Has the request answered and writes the answer; informational heads go out on the way to it.
    async fn respond(&self, asked: &Asked, request: DownstreamRequest, writer: &Writer) -> Responded {
        let mut answering = Answering::begin(self.edge, &asked.id, request).await;
        if let Some(service) = answering.service.clone() {
            if let Some(entry) = &asked.entry {
                entry.service(&service.name);
            }
            // Once for each request.
            drop(asked.service.set(service));
        }
        let response = loop {
            match answering.next().await {
                Answered::Response(response) => break response,
                Answered::HandOff(handed) => return Responded::HandOff(handed),
                // RFC 9110 §15.2: a client of HTTP/1.0 would not understand it.
                Answered::Early(_) if asked.version != Version::HTTP_11 => {}
                Answered::Early(head) => {
                    let head = wire::response_head(head.status, &head.headers);
                    // Behind a part of it nothing can follow.
                    if let Err(error) = writer.send_early(&head, self.edge.limits.client_timeout).await {
                        if error.kind() == std::io::ErrorKind::TimedOut {
                            self.edge.telemetry.metrics.refusals.with_label_values(&["reader_timeout"]).inc();
                        }
                        not_whole(&asked.id, false, &error);
                        return Responded::Broken;
                    }
                }
            }
        };
        if self.write(asked, response, writer).await { Responded::Whole } else { Responded::Broken }
    }

    /// Writes a response. False when nothing that the client still sends is of use.
    async fn write(&self, asked: &Asked, response: DownstreamResponse, writer: &Writer) -> bool {
        let DownstreamResponse { mut head, mut body, close } = response;
        let length = wire::settle(&mut body, SETTLE);
        let chunked_ok = asked.version == Version::HTTP_11;
        let framing = framing::response(&mut head.headers, head.framing, &asked.method, head.status, length, chunked_ok);
        let framing = match framing {
            Ok(framing) => framing,
            Err(error) => {
                tracing::warn!(target: "sidelight::guest", request_id = &*asked.id, %error, "the guest's response cannot be sent");
                DownstreamResponse { head, body, .. } = Failure::BadAnswer.answer(&asked.id);
                BodyFraming::Length(body.known_length().unwrap_or_default())
            }
        };
        asked.service(self.edge).answered(&self.edge.telemetry.metrics, &asked.method, head.status);
        if let BodyFraming::Length(length) = framing {
            head.headers.entry(header::CONTENT_LENGTH).or_insert_with(|| HeaderValue::from(length));
        }
        if !head.headers.contains_key(header::DATE) {
            head.headers.insert(header::DATE, get_cached_date());
        }
        let keep = asked.keep.load(Ordering::Relaxed) && !close && framing != BodyFraming::UntilClose;
        if !keep {
            head.headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        } else if asked.version == Version::HTTP_10 {
            head.headers.insert(header::CONNECTION, HeaderValue::from_static("keep-alive"));
        }
        let bytes = wire::response_head(head.status, &head.headers);
        if let Some(trace) = &asked.trace {
            trace.answering(head.status, &head.headers);
        }
        let mut io = writer.for_response().await;
        let written = wire::write_message(&mut *io, bytes, framing, &mut body, self.edge.limits.client_timeout).await;
        self.edge.telemetry.metrics.response_bytes.inc_by(written.as_ref().copied().unwrap_or_default());
        if let Some(entry) = &asked.entry {
            entry.answered(head.status, written.as_ref().copied().unwrap_or_default());
        }
        if let Some(trace) = &asked.trace {
            trace.answered(written.as_ref().copied().unwrap_or_default(), written.as_ref().err().map(wire::WriteError::name));
        }
        if let Err(error) = &written {
            if matches!(error, wire::WriteError::Timeout(_)) {
                self.edge.telemetry.metrics.refusals.with_label_values(&["reader_timeout"]).inc();
            }
            not_whole(&asked.id, matches!(error, wire::WriteError::Body(_) | wire::WriteError::Length { .. }), error);
        }
        if !keep {
            asked.keep.store(false, Ordering::Relaxed);
        }
        // Whoever waits for the connection's end to know that of the response must not wait for anything else.
        written.is_ok() && framing != BodyFraming::UntilClose
    }
}
