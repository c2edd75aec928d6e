//! What the fuzz targets share: connections that give their bytes in pieces, and what hyper makes of the same bytes.

use std::cell::RefCell;
use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Runs a future that waits for nothing but itself.
pub fn run<T>(future: impl Future<Output = T>) -> T {
    thread_local! {
        static RUNTIME: tokio::runtime::Runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    }
    RUNTIME.with(|runtime| runtime.block_on(future))
}

/// A connection whose other end has sent these bytes, `size` at a time, and sends no more. What is written to it is kept.
pub struct Pieces {
    left: Bytes,
    size: usize,
    /// Whether they come only once something was written: an answer.
    answers: bool,
    waiting: Option<std::task::Waker>,
    /// What was written.
    pub written: Rc<RefCell<Vec<u8>>>,
}

impl Pieces {
    /// Of some bytes.
    pub fn new(bytes: &[u8], size: usize) -> Self {
        Self { left: Bytes::copy_from_slice(bytes), size: size.max(1), answers: false, waiting: None, written: Rc::default() }
    }
}

impl AsyncRead for Pieces {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.answers && self.written.borrow().is_empty() {
            self.waiting = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let length = self.left.len().min(self.size).min(into.remaining());
        into.put_slice(&self.left.split_to(length));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Pieces {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if let Some(waiting) = self.waiting.take() {
            waiting.wake();
        }
        self.written.borrow_mut().extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// One request as somebody has understood it.
#[derive(Debug)]
pub struct Understood {
    /// Its method.
    pub method: Method,
    /// Its target.
    pub target: String,
    /// Its fields.
    pub headers: HeaderMap,
    /// Its body, if it came to its end.
    pub body: Option<Vec<u8>>,
}

/// The requests that hyper's server finds in these bytes.
pub fn hyper_requests(bytes: &[u8]) -> Vec<Understood> {
    let found: Rc<RefCell<Vec<Understood>>> = Rc::default();
    let keep = found.clone();
    run(async move {
        let service = service_fn(move |request: Request<Incoming>| {
            let keep = keep.clone();
            async move {
                let (head, body) = request.into_parts();
                let body = body.collect().await.ok().map(|body| body.to_bytes().to_vec());
                keep.borrow_mut().push(Understood { method: head.method, target: head.uri.to_string(), headers: head.headers, body });
                Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
            }
        });
        drop(
            hyper::server::conn::http1::Builder::new()
                .half_close(true)
                .max_headers(2000)
                .serve_connection(TokioIo::new(Pieces::new(bytes, usize::MAX)), service)
                .await,
        );
    });
    Rc::try_unwrap(found).map(RefCell::into_inner).unwrap_or_default()
}

/// The final response that hyper's client finds in these bytes: status, fields, and the body if it came to its end.
pub fn hyper_response(bytes: &[u8]) -> Option<(StatusCode, HeaderMap, Option<Vec<u8>>)> {
    run(async move {
        let (mut send, connection) = hyper::client::conn::http1::Builder::new()
            .allow_spaces_after_header_name_in_responses(true)
            .allow_obsolete_multiline_headers_in_responses(true)
            .max_headers(2000)
            .handshake(TokioIo::new(Pieces { answers: true, ..Pieces::new(bytes, usize::MAX) }))
            .await
            .ok()?;
        let work = async {
            let request = Request::get("/").header("host", "a").body(Empty::<Bytes>::new()).expect("a request");
            let (head, body) = send.send_request(request).await.ok()?.into_parts();
            let body = body.collect().await.ok().map(|body| body.to_bytes().to_vec());
            Some((head.status, head.headers, body))
        };
        let (found, _) = beside(work, connection).await;
        found
    })
}

/// Both, side by side, until the first is done.
pub async fn beside<A, B>(first: impl Future<Output = A>, second: impl Future<Output = B>) -> (A, Option<B>) {
    let (mut first, mut second) = (std::pin::pin!(first), std::pin::pin!(second));
    let mut other = None;
    let done = std::future::poll_fn(|cx| {
        if other.is_none()
            && let Poll::Ready(ended) = second.as_mut().poll(cx)
        {
            other = Some(ended);
        }
        first.as_mut().poll(cx)
    })
    .await;
    (done, other)
}
