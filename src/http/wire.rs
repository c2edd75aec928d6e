//! Writing HTTP/1.1 messages. Heads and small pieces are gathered into one write; large pieces go
//! out as they are. Used towards clients and towards backends.

use std::io;
use std::task::Poll;
use std::time::Duration;

use ::http::{HeaderMap, Method, StatusCode};
use bytes::{BufMut, Bytes, BytesMut};
use pingora::prelude::timeout;
use tokio::io::{AsyncWrite, AsyncWriteExt};

use super::body::{Body, BodyError};
use super::framing::{self, BodyFraming};

/// Pieces below this are copied into one buffer; above, they are written by themselves.
const GATHER: usize = 16 << 10;

/// Why a message could not be written whole. The connection is of no more use then.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The peer went away, or the network failed.
    #[error("writing: {0}")]
    Io(#[from] io::Error),
    /// The peer took nothing for too long.
    #[error("the peer took nothing for {0:?}")]
    Timeout(Duration),
    /// The body failed before its end.
    #[error(transparent)]
    Body(#[from] BodyError),
    /// The body is not as long as its `Content-Length`.
    #[error("the body has {got} bytes where content-length promised {promised}")]
    Length {
        /// Bytes that came, at least.
        got: u64,
        /// Bytes that were promised.
        promised: u64,
    },
}

impl WriteError {
    /// Its name in traces.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Io(_) => "client_gone",
            Self::Timeout(_) => "client_timeout",
            Self::Body(_) => "body",
            Self::Length { .. } => "body_length",
        }
    }
}

/// The request line and fields of a request. `target` is in origin form (RFC 9112 §3.2.1), as a
/// parsed URI gives it.
pub fn request_head(method: &Method, target: &str, headers: &HeaderMap) -> BytesMut {
    let mut out = BytesMut::with_capacity(512);
    out.put_slice(method.as_str().as_bytes());
    out.put_u8(b' ');
    out.put_slice(target.as_bytes());
    out.put_slice(b" HTTP/1.1\r\n");
    fields(&mut out, headers);
    out.put_slice(b"\r\n");
    out
}

/// The status line and fields of a response.
pub fn response_head(status: StatusCode, headers: &HeaderMap) -> BytesMut {
    let mut out = BytesMut::with_capacity(512);
    out.put_slice(b"HTTP/1.1 ");
    out.put_slice(status.as_str().as_bytes());
    out.put_u8(b' ');
    out.put_slice(status.canonical_reason().unwrap_or_default().as_bytes());
    out.put_slice(b"\r\n");
    fields(&mut out, headers);
    out.put_slice(b"\r\n");
    out
}

/// Field lines. `HeaderName` and `HeaderValue` cannot hold CR, LF or NUL.
pub fn fields(out: &mut BytesMut, headers: &HeaderMap) {
    for (name, value) in headers {
        out.reserve(name.as_str().len() + value.len() + 4);
        out.put_slice(name.as_str().as_bytes());
        out.put_slice(b": ");
        out.put_slice(value.as_bytes());
        out.put_slice(b"\r\n");
    }
}

/// Reads what of `body` is at hand, up to `limit` bytes, so that a body that is already whole is
/// known to be so. Gives the length to tell in front, if there is one; that of a body which has just failed
/// is the one it promised, so that its reader sees how much is missing.
pub fn settle(body: &mut Body, limit: usize) -> Option<u64> {
    let promised = body.framed_length();
    let mut held: Vec<Bytes> = Vec::new();
    let mut length = 0;
    while length < limit {
        match body.try_chunk() {
            Poll::Ready(Ok(Some(bytes))) => {
                length += bytes.len();
                held.push(bytes);
            }
            Poll::Ready(Ok(None) | Err(_)) | Poll::Pending => break,
        }
    }
    for bytes in held.into_iter().rev() {
        body.push_front(bytes);
    }
    if body.has_failed() { promised } else { body.framed_length() }
}

/// Writes `head` (already serialised) and `body`, framed. `patience` bounds each wait for the peer,
/// not the whole. Returns the number of body bytes.
pub async fn write_message<W: AsyncWrite + Unpin>(
    io: &mut W,
    head: BytesMut,
    framing: BodyFraming,
    body: &mut Body,
    patience: Duration,
) -> Result<u64, WriteError> {
    let mut out = Out { io, buffer: head, patience };
    let mut written: u64 = 0;
    if framing == BodyFraming::None {
        out.flush().await?;
        return Ok(0);
    }
    loop {
        let next = match body.try_chunk() {
            Poll::Ready(next) => next,
            Poll::Pending => {
                // Nothing at hand: what there is goes out now, the rest as it comes.
                out.flush().await?;
                body.chunk().await
            }
        };
        let chunk = match next {
            Ok(Some(chunk)) => chunk,
            Ok(None) => break,
            Err(error) => {
                // The peer gets what there was, and sees that it is not all.
                out.flush().await?;
                return Err(error.into());
            }
        };
        written += chunk.len() as u64;
        match framing {
            BodyFraming::Length(promised) if written > promised => {
                return Err(WriteError::Length { got: written, promised });
            }
            BodyFraming::Chunked => {
                let mut size = [0; 18];
                let size = chunk_size(chunk.len(), &mut size);
                out.put(size);
                out.piece(&chunk).await?;
                out.put(b"\r\n");
            }
            BodyFraming::None | BodyFraming::Length(_) | BodyFraming::UntilClose => out.piece(&chunk).await?,
        }
    }
    match framing {
        BodyFraming::Length(promised) if written < promised => {
            out.flush().await?;
            return Err(WriteError::Length { got: written, promised });
        }
        BodyFraming::Chunked => {
            out.put(b"0\r\n");
            if let Some(mut trailers) = body.take_trailers() {
                framing::strip_from_trailers(&mut trailers);
                fields(&mut out.buffer, &trailers);
            }
            out.put(b"\r\n");
        }
        BodyFraming::None | BodyFraming::Length(_) | BodyFraming::UntilClose => {}
    }
    out.flush().await?;
    Ok(written)
}

/// `len` in hexadecimal and CRLF.
fn chunk_size(mut len: usize, out: &mut [u8; 18]) -> &[u8] {
    let mut at = 16;
    out[16..].copy_from_slice(b"\r\n");
    while {
        at -= 1;
        out[at] = b"0123456789abcdef"[len & 15];
        len >>= 4;
        len > 0
    } {}
    &out[at..]
}

struct Out<'a, W> {
    io: &'a mut W,
    buffer: BytesMut,
    patience: Duration,
}

impl<W: AsyncWrite + Unpin> Out<'_, W> {
    fn put(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    async fn piece(&mut self, bytes: &Bytes) -> Result<(), WriteError> {
        if self.buffer.len() + bytes.len() <= GATHER {
            self.put(bytes);
            return Ok(());
        }
        self.send().await?;
        limit(self.patience, self.io.write_all(bytes)).await
    }

    async fn send(&mut self) -> Result<(), WriteError> {
        if !self.buffer.is_empty() {
            limit(self.patience, self.io.write_all(&self.buffer)).await?;
            self.buffer.clear();
        }
        Ok(())
    }

    async fn flush(&mut self) -> Result<(), WriteError> {
        self.send().await?;
        limit(self.patience, self.io.flush()).await
    }
}

async fn limit(patience: Duration, work: impl Future<Output = io::Result<()>>) -> Result<(), WriteError> {
    match timeout(patience, work).await {
        Ok(done) => Ok(done?),
        Err(_) => Err(WriteError::Timeout(patience)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(10);

    async fn write(framing: BodyFraming, mut body: Body) -> (Result<u64, WriteError>, String) {
        let mut out = Vec::new();
        let done = write_message(&mut out, BytesMut::from("H\r\n\r\n"), framing, &mut body, LONG).await;
        (done, String::from_utf8(out).expect("text"))
    }

    #[test]
    fn head_lines() {
        let mut headers = HeaderMap::new();
        headers.append("a", "1".parse().expect("a value"));
        headers.append("a", "2".parse().expect("a value"));
        assert_eq!(request_head(&Method::PUT, "/a?b", &headers), "PUT /a?b HTTP/1.1\r\na: 1\r\na: 2\r\n\r\n");
        assert_eq!(response_head(StatusCode::NOT_FOUND, &headers), "HTTP/1.1 404 Not Found\r\na: 1\r\na: 2\r\n\r\n");
    }

    #[tokio::test]
    async fn length() {
        let (done, text) = write(BodyFraming::Length(3), Body::from(Bytes::from_static(b"abc"))).await;
        assert_eq!((done.expect("writes"), text.as_str()), (3, "H\r\n\r\nabc"));
    }

    #[tokio::test]
    async fn chunked() {
        let big = Bytes::from(vec![b'x'; 20_000]);
        let mut body = Body::from(Bytes::from_static(b"hello world, hello"));
        body.push_back(big.clone());
        let (done, text) = write(BodyFraming::Chunked, body).await;
        assert_eq!(done.expect("writes"), 20_018);
        let big = String::from_utf8(big.to_vec()).expect("text");
        assert_eq!(text, format!("H\r\n\r\n12\r\nhello world, hello\r\n4e20\r\n{big}\r\n0\r\n\r\n"));
    }

    #[tokio::test]
    async fn trailers() {
        let mut body = Body::from(Bytes::from_static(b"abc"));
        body.trailers_mut().insert("x-sum", "1".parse().expect("a value"));
        let (done, text) = write(BodyFraming::Chunked, body).await;
        assert_eq!((done.expect("writes"), text.as_str()), (3, "H\r\n\r\n3\r\nabc\r\n0\r\nx-sum: 1\r\n\r\n"));
    }

    #[tokio::test]
    async fn an_abandoned_body_has_no_end() {
        let mut body = Body::from(Bytes::from_static(b"abc"));
        drop(body.open());
        let (done, text) = write(BodyFraming::Chunked, body).await;
        assert!(matches!(done, Err(WriteError::Body(_))));
        assert_eq!(text, "H\r\n\r\n3\r\nabc\r\n");
    }

    #[tokio::test]
    async fn a_wrong_length_is_an_error() {
        let (done, _) = write(BodyFraming::Length(2), Body::from(Bytes::from_static(b"abc"))).await;
        assert!(matches!(done, Err(WriteError::Length { got: 3, promised: 2 })));
        let (done, text) = write(BodyFraming::Length(4), Body::from(Bytes::from_static(b"abc"))).await;
        assert!(matches!(done, Err(WriteError::Length { got: 3, promised: 4 })));
        assert_eq!(text, "H\r\n\r\nabc");
    }

    #[tokio::test]
    async fn a_finished_body_is_settled() {
        let mut body = Body::from(Bytes::from_static(b"a"));
        let mut writer = body.open();
        writer.write(Bytes::from_static(b"bc")).await.expect("is read");
        assert_eq!(settle(&mut body, 1024), None);
        writer.finish().await.expect("is read");
        assert_eq!(settle(&mut body, 1024), Some(3));
    }

    #[test]
    fn sizes() {
        assert_eq!(chunk_size(0, &mut [0; 18]), b"0\r\n");
        assert_eq!(chunk_size(255, &mut [0; 18]), b"ff\r\n");
        assert_eq!(chunk_size(usize::MAX, &mut [0; 18]), b"ffffffffffffffff\r\n");
    }
}
