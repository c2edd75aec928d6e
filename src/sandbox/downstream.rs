//! The client side of a sandbox: what whoever serves connections must supply, and gets back.

use std::net::SocketAddr;
use std::sync::Arc;

use ::http::HeaderValue;
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::Meter;
use super::items::Edit;
use crate::http::{Body, RequestHead, ResponseHead, framing};
use crate::services::backend::{Backend, SendError};
use crate::telemetry::metrics::{Gauge, Held};
use crate::telemetry::trace::Trace;
use crate::telemetry::trace::context::TraceId;

/// What is known about a client and its connection.
#[derive(Clone, Debug)]
pub struct Client {
    /// The client's address.
    pub address: SocketAddr,
    /// The address it connected to.
    pub server: SocketAddr,
    /// Whether it came by TLS, to here or to a proxy that is trusted to say so.
    pub secure: bool,
    /// What TLS says of it, if it came that way.
    pub tls: Option<ClientTls>,
}

/// What is known of a client's TLS connection.
#[derive(Clone, Debug)]
pub struct ClientTls {
    /// `TLSv1.2` or `TLSv1.3`.
    pub protocol: &'static str,
    /// OpenSSL's name of the cipher suite.
    pub cipher: String,
    /// The name the client asked for.
    pub server_name: Option<String>,
    /// The handshake message the client began with, its header included.
    pub hello: Bytes,
    /// JA3 fingerprint: an MD5.
    pub ja3: Option<[u8; 16]>,
    /// JA4 fingerprint.
    pub ja4: Option<String>,
    /// The client's certificate chain, as PEM.
    pub certificate: Option<String>,
    /// What checking it gave.
    pub verified: CertificateCheck,
}

/// What checking a client certificate gave, as the ABI numbers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CertificateCheck {
    /// It is good.
    Ok = 0,
    /// It is broken, or its signature is wrong.
    Bad = 1,
    /// It has been revoked.
    Revoked = 2,
    /// Its time is over, or has not come.
    Expired = 3,
    /// Nobody known has issued it.
    UnknownIssuer = 4,
    /// There is none.
    Missing = 5,
    /// Something else is wrong with it.
    Unknown = 6,
}

/// What does not change about a request from a client, whatever the guest makes of its head.
#[derive(Debug)]
pub struct Received {
    /// The head as it came; of HTTP/2 in the form of HTTP/1.1, its target absolute.
    pub raw_head: Bytes,
    /// The fingerprint of the client's HTTP/2, if that is what it speaks.
    pub h2_fingerprint: Option<Arc<str>>,
    /// Who asks.
    pub client: Arc<Client>,
    /// Names this request in logs, traces and error answers: a UUID.
    pub id: Arc<str>,
}

/// A client's request on its way to a guest.
#[derive(Debug)]
pub struct DownstreamRequest {
    /// The head, its URI absolute.
    pub head: RequestHead,
    /// The body, read from the client only as it is read here.
    pub body: Body,
    /// Where it came from.
    pub received: Arc<Received>,
    /// Its trace, if it has one.
    pub trace: Option<Arc<Trace>>,
}

/// A guest's answer.
#[derive(Debug, Default)]
pub struct DownstreamResponse {
    /// The head.
    pub head: ResponseHead,
    /// The body, which the guest may still be writing.
    pub body: Body,
    /// Whether the guest wants the client's connection to end with it.
    pub close: bool,
}

/// What a guest sends to a client.
#[derive(Debug)]
pub enum Reply {
    /// An informational head (RFC 9110 §15.2); another reply follows.
    Early(ResponseHead),
    /// The answer.
    Final(DownstreamResponse),
    /// The guest gave the client the response of a backend, which failed.
    Failed {
        /// Why.
        error: SendError,
        /// What the guest wants changed in the error's head.
        edits: Vec<Edit>,
    },
    /// A backend deals with the client from here on.
    HandOff(Box<HandOff>),
}

/// A client that a guest leaves to a backend (abi.md "WebSocket / Fanout handoff").
#[derive(Debug)]
pub struct HandOff {
    /// The request as the guest has changed it; `None`: as it came.
    pub head: Option<RequestHead>,
    /// Who gets the client.
    pub backend: Arc<Backend>,
    /// Which of the backends a GRIP proxy knows is meant, when it is one.
    pub route: Option<HeaderValue>,
}

/// One reply, and behind an early one the way on.
#[derive(Debug)]
struct Link {
    reply: Reply,
    next: Option<oneshot::Receiver<Link>>,
}

/// The way back to the client; one answer fits through it, and early heads before it.
#[derive(Debug)]
pub struct Responder {
    way: oneshot::Sender<Link>,
    /// Early heads so far, and bytes of their fields: nobody says that the client takes them.
    early: (usize, usize),
}

/// Most informational heads before one answer, as backends may send, and bytes of their fields.
const MAX_EARLY: (usize, usize) = (64, 256 << 10);

/// Where a guest's replies arrive.
#[derive(Debug)]
pub struct Answer(Option<oneshot::Receiver<Link>>);

/// The client is gone.
#[derive(Debug, thiserror::Error)]
#[error("the client is gone")]
pub struct ClientGone;

/// What a client might not take is held in memory.
#[derive(Debug, thiserror::Error)]
#[error("more than {} informational heads, or {} KiB of them, before one answer", MAX_EARLY.0, MAX_EARLY.1 >> 10)]
pub struct TooManyEarly;

impl Responder {
    /// A responder, and where its replies arrive. That ends without an answer when the responder is
    /// dropped unused: the guest ended.
    pub fn new() -> (Self, Answer) {
        let (sender, receiver) = oneshot::channel();
        (Self { way: sender, early: (0, 0) }, Answer(Some(receiver)))
    }

    /// Takes an informational head into account that is to be sent. One answer has no more than 64 before it, of 256 KiB.
    pub fn count_early(&mut self, head: &ResponseHead) -> Result<(), TooManyEarly> {
        let early = (self.early.0 + 1, self.early.1 + framing::size(&head.headers));
        if early.0 > MAX_EARLY.0 || early.1 > MAX_EARLY.1 {
            return Err(TooManyEarly);
        }
        self.early = early;
        Ok(())
    }

    /// Sends it, unless the client is gone.
    pub fn early(&mut self, head: ResponseHead) {
        let (next, receiver) = oneshot::channel();
        let sender = std::mem::replace(&mut self.way, next);
        drop(sender.send(Link { reply: Reply::Early(head), next: Some(receiver) }));
    }

    /// Answers.
    pub fn send(self, reply: Reply) -> Result<(), ClientGone> {
        self.way.send(Link { reply, next: None }).map_err(|_| ClientGone)
    }
}

impl Answer {
    /// The next reply; `None` when there will be none. Cancel-safe.
    pub async fn next(&mut self) -> Option<Reply> {
        let Link { reply, next } = self.0.as_mut()?.await.ok()?;
        self.0 = next;
        Some(reply)
    }
}

/// The request that a sandbox works on now, for whoever speaks on its behalf.
#[derive(Clone, Debug)]
pub struct Current(Arc<Mutex<Work>>);

/// The id of a request, and its trace.
type Work = (Arc<str>, Option<Arc<Trace>>);

impl Current {
    /// Starts with the request of this id and trace.
    pub fn new(id: Arc<str>, trace: Option<Arc<Trace>>) -> Self {
        Self(Arc::new(Mutex::new((id, trace))))
    }

    /// The id now.
    pub fn id(&self) -> Arc<str> {
        self.0.lock().0.clone()
    }

    /// The id of its trace, if it has one.
    pub fn trace_id(&self) -> Option<TraceId> {
        self.0.lock().1.as_ref().filter(|trace| trace.is_told()).map(|trace| trace.id())
    }

    /// The sandbox went on to another request.
    pub fn set(&self, id: Arc<str>, trace: Option<Arc<Trace>>) {
        *self.0.lock() = (id, trace);
    }

    /// The sandbox is through with its request: its share of the trace.
    pub fn take_trace(&self) -> Option<Arc<Trace>> {
        self.0.lock().1.take()
    }
}

/// A request and the way to answer it.
#[derive(Debug)]
pub struct Parcel {
    /// The request.
    pub request: DownstreamRequest,
    /// The way back.
    pub responder: Responder,
}

/// A parcel for a guest that waits for its next request. One that the guest does not take, because
/// it ends first, goes back to the sender.
#[derive(Debug)]
pub struct Delivery {
    parcel: Option<Box<Parcel>>,
    back: Option<oneshot::Sender<Box<Parcel>>>,
}

impl Delivery {
    /// A delivery, and where it comes back to; the receiver fails once the guest has taken it.
    pub fn new(parcel: Box<Parcel>) -> (Self, oneshot::Receiver<Box<Parcel>>) {
        let (back, returned) = oneshot::channel();
        (Self { parcel: Some(parcel), back: Some(back) }, returned)
    }

    /// Takes it, for good.
    pub fn take(mut self) -> Option<Box<Parcel>> {
        self.parcel.take()
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        if let (Some(parcel), Some(back)) = (self.parcel.take(), self.back.take()) {
            // A sender that is gone has lost interest.
            drop(back.send(parcel));
        }
    }
}

/// A guest's wait for a further request.
pub struct Wait {
    /// Where it arrives.
    pub request: oneshot::Receiver<Delivery>,
    /// Counts the guest as one that waits: no longer than it does.
    pub counted: Held<Gauge>,
}

/// Where a sandbox gets further requests from.
pub trait NextRequests: Send + Sync {
    /// Starts to wait for a request; `None`: there will be no more for this sandbox.
    fn wait(&self) -> Option<Wait>;

    /// The guest goes from the request `done` to its next one: what follows counts for that.
    fn turn(&self, done: &Received, meter: &Meter);

    /// How long a guest may wait for a request.
    fn patience(&self) -> std::time::Duration;
}
