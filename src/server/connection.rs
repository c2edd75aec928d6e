//! One client connection: HTTP/1.1 requests, one after another.
//!
//! pingora's session reads and parses; [`wire`] writes. Both directions of one request are driven
//! from this task, the guest runs in another.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ::http::header::{self, HeaderValue};
use ::http::uri::{Authority, PathAndQuery, Scheme};
use ::http::{Method, Uri, Version};
use bytes::BytesMut;
use pingora::http::RequestHeader;
use pingora::prelude::timeout;
use pingora::protocols::Stream;
use pingora::protocols::http::date::get_cached_date;
use pingora::protocols::http::v1::server::HttpSession;
use pingora::server::ShutdownWatch;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::Edge;
use super::respond::Failure;
use super::upload::{self, Writer};
use crate::http::framing::{self, BodyFraming};
use crate::http::io::SharedIo;
use crate::http::{Body, RequestHead, wire};
use crate::runtime::Outcome;
use crate::sandbox::{Client, DownstreamRequest, DownstreamResponse, Responder};
use crate::telemetry::clock;
use crate::telemetry::metrics::Held;

/// First read of a request: most heads fit.
const READ_SIZE: usize = 4 << 10;

/// How much of a response is gathered before its head is written, so that a short one gets a
/// length.
const SETTLE: usize = 64 << 10;

/// Time and bytes to take what a client still sends after the last answer, so that it can read that
/// answer before it sees the connection reset.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES: usize = 1 << 20;

/// Serves a connection to its end.
pub async fn serve(edge: &Arc<Edge>, stream: Stream, mut shutdown: ShutdownWatch) {
    let _open = Held::new(&edge.telemetry.metrics.connections);
    let Some(client) = client_of(&stream) else { return };
    let client = Arc::new(client);
    let io = SharedIo::new(stream);
    let mut first = BytesMut::new();
    let mut patience = edge.limits.head_timeout;
    loop {
        if first.is_empty() {
            first.reserve(READ_SIZE);
            let mut reader = io.clone();
            let arrived = tokio::select! {
                biased;
                read = timeout(patience, reader.read_buf(&mut first)) => matches!(read, Ok(Ok(1..))),
                () = stopping(&mut shutdown) => false,
            };
            if !arrived {
                return;
            }
        }
        let mut session = HttpSession::new(Box::new(io.clone()));
        session.set_pipelining_enabled(true);
        session.set_pipelined_prefix(std::mem::take(&mut first));
        session.set_total_drain_timeout(Some(LINGER));
        let request = Exchange { edge, io: &io, client: &client, stopping: *shutdown.borrow() };
        if request.run(&mut session).await == Next::Close {
            linger(&io).await;
            return;
        }
        match session.reuse().await {
            Ok(Some(reusable)) => first = reusable.into_parts().1.unwrap_or_default(),
            Ok(None) | Err(_) => return,
        }
        patience = edge.limits.idle_timeout;
    }
}

async fn stopping(shutdown: &mut ShutdownWatch) {
    // An error means that the server is gone: that too is the end.
    let _ = shutdown.wait_for(|stop| *stop).await;
}

fn client_of(stream: &Stream) -> Option<Client> {
    let digest = stream.get_socket_digest()?;
    let unknown = SocketAddr::from(([0, 0, 0, 0], 0));
    let address = digest.peer_addr().and_then(|addr| addr.as_inet().copied()).unwrap_or(unknown);
    let server = digest.local_addr().and_then(|addr| addr.as_inet().copied()).unwrap_or(unknown);
    Some(Client { address, server })
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
    Keep,
    Close,
}

/// One request and its response.
struct Exchange<'a> {
    edge: &'a Arc<Edge>,
    io: &'a SharedIo,
    client: &'a Arc<Client>,
    stopping: bool,
}

/// What the response must know about its request.
struct Asked {
    method: Method,
    version: Version,
    /// Whether the connection may carry another request.
    keep: AtomicBool,
    id: Arc<str>,
}

impl Exchange<'_> {
    async fn run(&self, session: &mut HttpSession) -> Next {
        let read = timeout(self.edge.limits.head_timeout, session.read_request()).await;
        let begun = clock::now();
        let _in_flight = Held::new(&self.edge.telemetry.metrics.requests_in_flight);
        let id: Arc<str> = uuid::Uuid::new_v4().hyphenated().encode_lower(&mut uuid::Uuid::encode_buffer()).to_owned().into();
        let mut asked = Asked { method: Method::GET, version: Version::HTTP_11, keep: AtomicBool::new(false), id };
        let failure = match read {
            Ok(Ok(Some(_))) => None,
            Ok(Ok(None)) => return Next::Close,
            Ok(Err(error)) if is_too_large(&error) => Some(Failure::HeadTooLarge),
            Ok(Err(error)) if *error.etype() == pingora::ErrorType::InvalidHTTPHeader => Some(Failure::BadRequest),
            Ok(Err(_)) => return Next::Close,
            Err(_) => Some(Failure::HeadTimeout),
        };
        let writer = Writer::new(self.io.clone());
        let head = match failure {
            Some(failure) => Err(failure),
            None => self.head(session, &mut asked),
        };
        let head = match head {
            Ok(head) => head,
            Err(failure) => {
                *asked.keep.get_mut() = false;
                self.write(&asked, failure.answer(&asked.id), &writer).await;
                return Next::Close;
            }
        };
        let next = self.answered(session, head, &asked, &writer).await;
        self.edge.telemetry.metrics.request_duration.observe(clock::now().duration_since(begun).as_secs_f64());
        next
    }

    /// Checks the head and takes it out of the session.
    fn head(&self, session: &mut HttpSession, asked: &mut Asked) -> Result<RequestHead, Failure> {
        let limits = &self.edge.limits;
        // Decides how the body is read; must come before the head is taken.
        let _ = session.is_body_empty();
        *asked.keep.get_mut() = session.will_keepalive() && !self.stopping;
        let raw = session.get_headers_raw_bytes();
        if raw.len() > limits.head {
            return Err(Failure::HeadTooLarge);
        }
        let empty = RequestHeader::build_no_case(Method::GET, b"/", None).map_err(|_| Failure::BadRequest)?;
        let mut head: ::http::request::Parts = std::mem::replace(session.req_header_mut(), empty).into();
        asked.method = head.method.clone();
        asked.version = head.version;
        if head.uri.path().len() + head.uri.query().map_or(0, str::len) > limits.uri {
            return Err(Failure::UriTooLong);
        }
        if head.method == Method::CONNECT {
            return Err(Failure::NotAllowed);
        }
        delimited(raw.as_ref(), &head)?;
        let uri = absolute(&mut head, self.client.server)?;
        let (method, version, mut headers) = (head.method, head.version, head.headers);
        framing::strip_hop_by_hop(&mut headers);
        Ok(RequestHead { method, uri, version, headers, ..RequestHead::default() })
    }

    /// Runs the guest and writes its answer, or ours.
    async fn answered(&self, session: &mut HttpSession, mut head: RequestHead, asked: &Asked, writer: &Writer) -> Next {
        let Ok(permit) = self.edge.runtime.admit().await else {
            self.write(asked, Failure::Overloaded.answer(&asked.id), writer).await;
            return self.next(asked, session);
        };
        let expects_continue =
            head.headers.remove(header::EXPECT).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"));
        let (upload, body) = if session.is_body_empty() {
            (None, Body::empty())
        } else {
            let length = head.headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.trim().parse().ok());
            let (upload, body) = upload::channel(length, expects_continue, self.edge.limits.client_timeout);
            (Some(upload), body)
        };
        let (responder, answer) = Responder::new();
        let raw_head = session.get_headers_raw_bytes();
        let request = DownstreamRequest { head, raw_head, body, client: self.client.clone(), id: asked.id.clone() };
        let guest = self.edge.runtime.start(self.edge.current.pin(), request, responder, permit);
        let respond = self.respond(asked, answer, guest, writer);
        let whole = match upload {
            None => respond.await,
            Some(upload) => {
                let mut respond = std::pin::pin!(respond);
                let mut upload = std::pin::pin!(upload.run(session, writer, &asked.keep));
                let mut uploading = true;
                let whole = loop {
                    tokio::select! {
                        biased;
                        whole = &mut respond => break whole,
                        () = &mut upload, if uploading => uploading = false,
                    }
                };
                if uploading && whole {
                    // The client has its answer; the guest may still read.
                    upload.await;
                }
                whole
            }
        };
        if whole { self.next(asked, session) } else { Next::Close }
    }

    fn next(&self, asked: &Asked, session: &mut HttpSession) -> Next {
        // A body nobody read is in the way of the next request.
        if asked.keep.load(Ordering::Relaxed) && session.is_body_done() { Next::Keep } else { Next::Close }
    }

    /// Waits for the guest's answer and writes it. False when the connection is of no more use.
    async fn respond(
        &self,
        asked: &Asked,
        answer: oneshot::Receiver<DownstreamResponse>,
        guest: JoinHandle<Outcome>,
        writer: &Writer,
    ) -> bool {
        let response = match answer.await {
            Ok(response) => response,
            Err(_) => {
                let failure = match guest.await {
                    Ok(outcome) => {
                        if outcome == Outcome::Finished {
                            tracing::warn!(target: "sidelight::guest", request_id = &*asked.id, "guest ended without sending a response");
                        }
                        Failure::of(&outcome)
                    }
                    Err(_) => Failure::Guest,
                };
                failure.answer(&asked.id)
            }
        };
        self.write(asked, response, writer).await
    }

    /// Writes a response. False when the connection is of no more use.
    async fn write(&self, asked: &Asked, response: DownstreamResponse, writer: &Writer) -> bool {
        let DownstreamResponse { mut head, mut body } = response;
        wire::settle(&mut body, SETTLE);
        let chunked_ok = asked.version == Version::HTTP_11;
        let framing = framing::response(&mut head.headers, head.framing, &asked.method, head.status, body.known_length(), chunked_ok);
        let framing = match framing {
            Ok(framing) => framing,
            Err(error) => {
                tracing::warn!(target: "sidelight::guest", request_id = &*asked.id, %error, "the guest's response cannot be sent");
                DownstreamResponse { head, body } = Failure::BadAnswer.answer(&asked.id);
                BodyFraming::Length(body.known_length().unwrap_or_default())
            }
        };
        self.edge.telemetry.metrics.requests.with_label_values(&[head.status.as_str()]).inc();
        if let BodyFraming::Length(length) = framing {
            head.headers.entry(header::CONTENT_LENGTH).or_insert_with(|| HeaderValue::from(length));
        }
        if !head.headers.contains_key(header::DATE) {
            head.headers.insert(header::DATE, get_cached_date());
        }
        let keep = asked.keep.load(Ordering::Relaxed) && framing != BodyFraming::UntilClose;
        if !keep {
            head.headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        } else if asked.version == Version::HTTP_10 {
            head.headers.insert(header::CONNECTION, HeaderValue::from_static("keep-alive"));
        }
        let bytes = wire::response_head(head.status, &head.headers);
        let mut io = writer.for_response().await;
        let written = wire::write_message(&mut *io, bytes, framing, &mut body, self.edge.limits.client_timeout).await;
        if let Err(error) = &written {
            tracing::debug!(target: "sidelight::client", request_id = &*asked.id, %error, "the response did not go out whole");
        }
        written.is_ok() && keep
    }
}

/// Refuses heads of which others in the path may think otherwise where the message ends, and so
/// where the next one begins (RFC 9112 §2.2, §6.1, §6.3, §11.2).
fn delimited(raw: &[u8], head: &::http::request::Parts) -> Result<(), Failure> {
    if memchr::memchr_iter(b'\n', raw).any(|at| at == 0 || raw.get(at - 1) != Some(&b'\r')) {
        return Err(Failure::BadRequest);
    }
    let mut lengths = head.headers.get_all(header::CONTENT_LENGTH).iter();
    let length = lengths.next();
    if lengths.next().is_some() || length.is_some_and(|value| !value.as_bytes().iter().all(u8::is_ascii_digit)) {
        return Err(Failure::BadRequest);
    }
    let mut codings = head.headers.get_all(header::TRANSFER_ENCODING).iter();
    let Some(coding) = codings.next() else { return Ok(()) };
    let chunked = codings.next().is_none() && coding.as_bytes().eq_ignore_ascii_case(b"chunked");
    // pingora has taken a length beside it out of the headers.
    let name = header::CONTENT_LENGTH.as_str().as_bytes();
    let with_length = raw.split(|b| *b == b'\n').any(|line| line.get(..name.len()).is_some_and(|start| start.eq_ignore_ascii_case(name)));
    if chunked && !with_length && head.version == Version::HTTP_11 { Ok(()) } else { Err(Failure::BadRequest) }
}

fn is_too_large(error: &pingora::Error) -> bool {
    let text = error.to_string();
    text.contains("larger than") || error.root_cause().to_string().contains("too many headers")
}

/// The absolute URI of a request, as the guest sees it (RFC 9112 §3.3). `Host` must be there and
/// well-formed; an absolute target wins over it.
fn absolute(head: &mut ::http::request::Parts, server: SocketAddr) -> Result<Uri, Failure> {
    let mut hosts = head.headers.get_all(header::HOST).iter();
    let host = match (hosts.next(), hosts.next()) {
        (Some(host), None) => Some(
            host.to_str()
                .ok()
                .and_then(|host| host.parse::<Authority>().ok())
                .filter(|host| !host.as_str().contains('@'))
                .ok_or(Failure::BadRequest)?,
        ),
        (None, _) if head.version == Version::HTTP_11 => return Err(Failure::BadRequest),
        (None, _) => None,
        (Some(_), Some(_)) => return Err(Failure::BadRequest),
    };
    let mut parts = std::mem::take(&mut head.uri).into_parts();
    let authority = match (parts.authority.take(), host) {
        (Some(authority), _) => {
            let value = HeaderValue::from_str(authority.as_str()).map_err(|_| Failure::BadRequest)?;
            head.headers.insert(header::HOST, value);
            authority
        }
        (None, Some(host)) => host,
        (None, None) => server.to_string().parse().map_err(|_| Failure::BadRequest)?,
    };
    let path = match parts.path_and_query.take() {
        Some(path) if path.as_str().starts_with('/') => path,
        Some(path) if path.as_str().is_empty() => PathAndQuery::from_static("/"),
        Some(path) if path.as_str() == "*" && head.method == Method::OPTIONS => PathAndQuery::from_static("/"),
        Some(path) if path.as_str().starts_with('?') => format!("/{path}").parse().map_err(|_| Failure::BadRequest)?,
        None => PathAndQuery::from_static("/"),
        Some(_) => return Err(Failure::BadRequest),
    };
    Uri::builder().scheme(Scheme::HTTP).authority(authority).path_and_query(path).build().map_err(|_| Failure::BadRequest)
}
