//! Origins: real HTTP servers in the test process.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex};

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

pub static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| Runtime::new().expect("a runtime"));

pub type Body = UnsyncBoxBody<Bytes, std::io::Error>;

/// A request as the origin got it.
#[derive(Clone, Debug)]
pub struct Seen {
    pub method: String,
    pub target: String,
    pub headers: Vec<(String, String)>,
    pub body: Bytes,
    pub trailers: Vec<(String, String)>,
}

impl Seen {
    pub fn values(&self, name: &str) -> Vec<&str> {
        self.headers.iter().filter(|(n, _)| n == name).map(|(_, value)| value.as_str()).collect()
    }
}

/// A server; it ends with the test process.
#[derive(Clone)]
pub struct Origin {
    pub addr: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    connections: Arc<AtomicUsize>,
}

pub fn text(text: impl Into<Bytes>) -> Body {
    Full::new(text.into()).map_err(|never| match never {}).boxed_unsync()
}

/// A body with trailers behind it; the head must name them in `Trailer`.
pub fn with_trailers(text: impl Into<Bytes>, trailers: &[(&'static str, &'static str)]) -> Body {
    let fields = trailers.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect();
    let frames = [Frame::data(text.into()), Frame::trailers(fields)];
    StreamBody::new(futures_util::stream::iter(frames.map(Ok))).boxed_unsync()
}

fn pairs(headers: &HeaderMap) -> Vec<(String, String)> {
    headers.iter().map(|(n, v)| (n.to_string(), String::from_utf8_lossy(v.as_bytes()).into_owned())).collect()
}

/// A body from a channel; an error cuts it off.
pub fn streamed() -> (tokio::sync::mpsc::Sender<Result<Bytes, std::io::Error>>, Body) {
    let (sender, mut receiver) = tokio::sync::mpsc::channel::<Result<Bytes, std::io::Error>>(1);
    let stream = futures_util::stream::poll_fn(move |cx| receiver.poll_recv(cx).map(|piece| piece.map(|piece| piece.map(Frame::data))));
    (sender, StreamBody::new(stream).boxed_unsync())
}

impl Origin {
    /// Answers with what `answer` makes of the request, its body not read yet.
    pub fn raw<F, R>(answer: F) -> Self
    where
        F: Fn(Request<Incoming>) -> R + Clone + Send + Sync + 'static,
        R: Future<Output = Response<Body>> + Send + 'static,
    {
        let connections = Arc::new(AtomicUsize::new(0));
        let count = connections.clone();
        let listener = RUNTIME.block_on(TcpListener::bind("127.0.0.1:0")).expect("binds");
        let addr = listener.local_addr().expect("an address");
        RUNTIME.spawn(async move {
            loop {
                let Ok((stream, _)) = listener.accept().await else { return };
                count.fetch_add(1, Ordering::Relaxed);
                let answer = answer.clone();
                tokio::spawn(async move {
                    let service = service_fn(move |request| {
                        let answer = answer(request);
                        async move { Ok::<_, Infallible>(answer.await) }
                    });
                    drop(http1::Builder::new().serve_connection(TokioIo::new(stream), service).await);
                });
            }
        });
        Self { addr, seen: Arc::default(), connections }
    }

    /// Keeps every request, then answers with what `answer` makes of it.
    pub fn new<F>(answer: F) -> Self
    where
        F: Fn(&Seen) -> Response<Body> + Send + Sync + 'static,
    {
        let seen: Arc<Mutex<Vec<Seen>>> = Arc::default();
        let keep = seen.clone();
        let answer = Arc::new(answer);
        let origin = Self::raw(move |request: Request<Incoming>| {
            let (keep, answer) = (keep.clone(), answer.clone());
            async move {
                let (head, body) = request.into_parts();
                let (trailers, body) = match body.collect().await {
                    Ok(body) => (body.trailers().map(pairs).unwrap_or_default(), body.to_bytes()),
                    Err(error) => (Vec::new(), Bytes::from(format!("(body failed: {error})"))),
                };
                let headers = pairs(&head.headers);
                let request = Seen { method: head.method.to_string(), target: head.uri.to_string(), headers, body, trailers };
                let response = answer(&request);
                keep.lock().expect("the list").push(request);
                response
            }
        });
        Self { seen, ..origin }
    }

    /// Always the same text.
    pub fn fixed(body: &'static str) -> Self {
        Self::new(move |_| Response::new(text(body)))
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// The last request.
    pub fn last(&self) -> Seen {
        self.seen.lock().expect("the list").last().expect("a request").clone()
    }

    /// Every request.
    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().expect("the list").clone()
    }

    pub fn count(&self) -> usize {
        self.seen.lock().expect("the list").len()
    }

    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}

/// An address where nobody listens.
pub fn refused() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").expect("binds").local_addr().expect("an address")
}
