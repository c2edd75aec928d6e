//! Reading HTTP/1.1 requests: heads (RFC 9112 §3) and how their bodies are delimited (§6.3). Strict:
//! a request whose end others might see elsewhere is refused (§11.2).

use ::http::header;
use ::http::{HeaderMap, Method, Uri, Version};
use bytes::{Bytes, BytesMut};
use httparse::Status;
use tokio::io::AsyncRead;

pub use super::message::ReadError;

use super::h2_fingerprint::PREFACE;
use super::head::RequestHead;
use super::message::{HEAD_READ, Lines, MAX_FIELDS, MessageReader, State, fields_of, has_bare_lf, lines_of, malformed, names};

/// A request head as it came.
#[derive(Debug)]
pub struct RequestLine {
    /// Method.
    pub method: Method,
    /// The target, in whichever form it came (§3.2).
    pub target: Uri,
    /// HTTP/1.0 or HTTP/1.1.
    pub version: Version,
    /// Fields.
    pub headers: HeaderMap,
    /// The whole head, byte by byte.
    pub raw: Bytes,
    /// Whether the client wants the connection to go on (§9.3).
    pub persistent: bool,
}

/// Reads requests from a connection, one after another. Every method is cancel-safe: a dropped call
/// loses nothing.
#[derive(Debug)]
pub struct RequestReader<R> {
    message: MessageReader<R>,
}

impl<R: AsyncRead + Unpin> RequestReader<R> {
    /// A reader at the beginning of a connection.
    pub fn new(io: R) -> Self {
        Self { message: MessageReader::new(io) }
    }

    /// Whether something of the next request is here.
    pub fn has_begun(&self) -> bool {
        !self.message.is_empty()
    }

    /// Whether what is here may be the beginning of HTTP/2 (RFC 9113 §3.4), and not all of it.
    pub fn may_be_preface(&self) -> bool {
        self.message.buffer.len() < PREFACE.len() && PREFACE.starts_with(&self.message.buffer)
    }

    /// Whether this is HTTP/2.
    pub fn is_preface(&self) -> bool {
        self.message.buffer.starts_with(PREFACE)
    }

    /// The connection, and what has been read of it and not been used.
    pub fn into_parts(self) -> (R, BytesMut) {
        self.message.into_parts()
    }

    /// Waits for bytes.
    pub async fn arrive(&mut self) -> Result<(), ReadError> {
        self.message.fill(HEAD_READ).await
    }

    /// The next head, when it is here as a whole.
    pub fn try_head(&mut self, max: usize) -> Result<Option<RequestLine>, ReadError> {
        self.message.try_head(max, |message| parse_head(message, max))
    }

    /// The next head, at most `max` bytes of it.
    pub async fn head(&mut self, max: usize) -> Result<RequestLine, ReadError> {
        loop {
            if let Some(head) = self.try_head(max)? {
                return Ok(head);
            }
            self.arrive().await?;
        }
    }

    /// The next bytes of the body, never empty; `None` at its end.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, ReadError> {
        self.message.chunk().await
    }

    /// The trailer section, once, when the body has ended with one.
    pub fn trailers(&mut self) -> Option<Box<HeaderMap>> {
        self.message.trailers()
    }

    /// Bytes of the body still to come, when the request says so.
    pub fn remaining(&self) -> Option<u64> {
        self.message.remaining()
    }

    /// Whether the request is whole.
    pub fn is_done(&self) -> bool {
        self.message.is_done()
    }

    /// The next request begins.
    pub fn begin(&mut self) {
        self.message.begin();
    }

    /// Takes what has been read behind this request.
    pub fn take_rest(&mut self) -> Bytes {
        self.message.buffer.split().freeze()
    }
}

/// A head that was read before, once more: its fields are all there, those of the connection too. The URI
/// is the target, in whichever form it came.
pub fn reread(raw: &Bytes) -> Option<RequestHead> {
    let start = raw.iter().position(|byte| !byte.is_ascii_whitespace())?;
    let end = start + memchr::memchr(b'\n', &raw[start..])? + 1;
    let mut words = raw[start..end].split(|byte| *byte == b' ');
    let method = Method::from_bytes(words.next()?).ok()?;
    let uri = Uri::try_from(words.next()?).ok()?;
    let version = if words.next()?.starts_with(b"HTTP/1.0") { Version::HTTP_10 } else { Version::HTTP_11 };
    let fields = raw.slice(end..);
    let mut parsed = [httparse::EMPTY_HEADER; MAX_FIELDS];
    let Ok(Status::Complete((_, parsed))) = httparse::parse_headers(&fields, &mut parsed) else { return None };
    let lines = lines_of(&fields, parsed);
    Some(RequestHead { method, uri, version, headers: fields_of(&fields, &lines).ok()?, ..RequestHead::default() })
}

fn parse_head<R>(message: &mut MessageReader<R>, max: usize) -> Result<Option<RequestLine>, ReadError> {
    let Some((length, method, target, version, lines)) = parse(&message.buffer)? else { return Ok(None) };
    if length > max {
        return Err(ReadError::TooLarge);
    }
    let raw = message.buffer.split_to(length).freeze();
    if has_bare_lf(&raw) {
        return Err(malformed("a line does not end with CRLF"));
    }
    let target = Uri::from_maybe_shared(raw.slice(target)).map_err(|error| malformed(&format!("the target: {error}")))?;
    let headers = fields_of(&raw, &lines)?;
    message.state = delimit(version, &headers)?;
    let says = |word: &str| names(&headers, &header::CONNECTION).any(|option| option.eq_ignore_ascii_case(word));
    let persistent = if version == Version::HTTP_11 { !says("close") } else { says("keep-alive") && !says("close") };
    Ok(Some(RequestLine { method, target, version, headers, raw, persistent }))
}

/// RFC 9112 §6.3 for requests. What others in the path may read differently is refused.
fn delimit(version: Version, headers: &HeaderMap) -> Result<State, ReadError> {
    let mut lengths = headers.get_all(header::CONTENT_LENGTH).iter();
    let length = match (lengths.next(), lengths.next()) {
        (None, _) => None,
        (Some(value), None) => {
            let digits = value.to_str().ok().filter(|value| value.bytes().all(|byte| byte.is_ascii_digit()));
            Some(digits.and_then(|value| value.parse().ok()).ok_or_else(|| malformed("content-length is not a number"))?)
        }
        (Some(_), Some(_)) => return Err(malformed("content-length is told twice")),
    };
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    match (codings.next(), length) {
        (None, None | Some(0)) => Ok(State::Done),
        (None, Some(length)) => Ok(State::Length(length)),
        (Some(_), Some(_)) => Err(malformed("both content-length and transfer-encoding")),
        (Some(_), None) if version != Version::HTTP_11 => Err(malformed("transfer-encoding in HTTP/1.0")),
        (Some(coding), None) if codings.next().is_none() && coding.as_bytes().eq_ignore_ascii_case(b"chunked") => Ok(State::ChunkSize),
        (Some(_), None) => Err(malformed("a transfer-encoding other than chunked")),
    }
}

type Head = (usize, Method, std::ops::Range<usize>, Version, Lines);

/// Parses a head; `None` when it is not whole.
fn parse(buffer: &[u8]) -> Result<Option<Head>, ReadError> {
    let mut fields = [const { std::mem::MaybeUninit::uninit() }; MAX_FIELDS];
    let mut request = httparse::Request::new(&mut []);
    let length = match request.parse_with_uninit_headers(buffer, &mut fields) {
        Ok(Status::Complete(length)) => length,
        Ok(Status::Partial) => return Ok(None),
        Err(httparse::Error::TooManyHeaders) => return Err(ReadError::TooLarge),
        Err(error) => return Err(malformed(&error.to_string())),
    };
    let method = Method::from_bytes(request.method.unwrap_or_default().as_bytes()).map_err(|_| malformed("the method is not a token"))?;
    let target = request.path.unwrap_or_default();
    let start = target.as_ptr() as usize - buffer.as_ptr() as usize;
    let version = if request.version == Some(1) { Version::HTTP_11 } else { Version::HTTP_10 };
    Ok(Some((length, method, start..start + target.len(), version, lines_of(buffer, request.headers))))
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read(wire: &str) -> Result<(RequestLine, Vec<u8>, Option<Box<HeaderMap>>), ReadError> {
        let mut reader = RequestReader::new(wire.as_bytes());
        let head = reader.head(1024).await?;
        let mut body = Vec::new();
        while let Some(bytes) = reader.chunk().await? {
            body.extend_from_slice(&bytes);
        }
        assert!(reader.is_done());
        Ok((head, body, reader.trailers()))
    }

    async fn refused(wire: &str) {
        assert!(matches!(read(wire).await, Err(ReadError::Malformed(_))), "{wire:?}");
    }

    #[tokio::test]
    async fn a_request() {
        let (head, body, trailers) =
            read("\r\nPOST /a?b HTTP/1.1\r\nHost: h\r\nX-A:  1 \r\ncontent-length: 3\r\n\r\nabc").await.expect("one");
        assert_eq!((head.method, head.target.to_string(), head.version), (Method::POST, "/a?b".to_owned(), Version::HTTP_11));
        assert_eq!((head.headers["x-a"].to_str().expect("text"), head.persistent), ("1", true));
        assert_eq!((body.as_slice(), trailers), (&b"abc"[..], None));
    }

    #[tokio::test]
    async fn pipelined() {
        let mut reader =
            RequestReader::new(&b"GET /1 HTTP/1.1\r\n\r\nPUT /2 HTTP/1.1\r\ncontent-length: 1\r\n\r\nxGET /3 HTTP/1.0\r\n\r\n"[..]);
        for target in ["/1", "/2", "/3"] {
            assert_eq!(reader.head(1024).await.expect("one").target, target);
            while reader.chunk().await.expect("a body").is_some() {}
            reader.begin();
        }
        assert!(!reader.has_begun());
        assert!(reader.head(1024).await.expect_err("the end").is_unanswered());
    }

    #[tokio::test]
    async fn trailers() {
        let wire =
            "POST / HTTP/1.1\r\nTransfer-Encoding: Chunked\r\n\r\n3;a=b\r\nabc\r\n0\r\nX-Sum: 1\r\nContent-Length: 9\r\nx-sum: 2\r\n\r\n";
        let (_, body, trailers) = read(wire).await.expect("one");
        let trailers = trailers.expect("trailers");
        assert_eq!(body, b"abc");
        assert_eq!(trailers.get_all("x-sum").iter().collect::<Vec<_>>(), ["1", "2"]);
        assert_eq!(trailers.len(), 2, "fields that frame a message have no place in trailers");
    }

    #[tokio::test]
    async fn persistence() {
        let persists = async |line: &str| read(&format!("GET / {line}\r\n\r\n")).await.expect("one").0.persistent;
        assert!(persists("HTTP/1.1").await);
        assert!(!persists("HTTP/1.1\r\nConnection: x, Close").await);
        assert!(!persists("HTTP/1.0").await);
        assert!(persists("HTTP/1.0\r\nConnection: Keep-Alive").await);
    }

    #[tokio::test]
    async fn what_may_end_elsewhere_is_refused() {
        for fields in [
            "content-length: 1\r\ncontent-length: 1",
            "content-length: +1",
            "content-length: 1, 1",
            "content-length: ",
            "content-length: 99999999999999999999",
            "content-length: 1\r\ntransfer-encoding: chunked",
            "transfer-encoding: gzip, chunked",
            "transfer-encoding: chunked\r\ntransfer-encoding: chunked",
            "transfer-encoding: xchunked",
            "a: b\r\n c",
            "a : b",
            "a: b\nc: d",
            "a: b\rc: d",
            "a: \0",
            "a b: c",
            ": b",
        ] {
            refused(&format!("POST / HTTP/1.1\r\n{fields}\r\n\r\na")).await;
        }
        refused("POST / HTTP/1.0\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n").await;
        for rest in ["0\r\n\n", "0\r\na: b\n\r\n", "1\nx\r\n0\r\n\r\n", "0x1\r\nx\r\n0\r\n\r\n", "1;a\nb\r\nx\r\n0\r\n\r\n"] {
            refused(&format!("POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n{rest}")).await;
        }
        refused("GET /a b HTTP/1.1\r\n\r\n").await;
        refused("GET / HTTP/1.1\n\n").await;
        refused("GET / HTTP/2.0\r\n\r\n").await;
        refused("GET /\r\n\r\n").await;
    }

    #[test]
    fn once_more() {
        let raw = Bytes::from_static(b"\r\nGET /a?b HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nx: 1\r\nx: 2\r\n\r\n");
        let head = reread(&raw).expect("a head");
        assert_eq!((head.method, head.uri.to_string(), head.headers.len()), (Method::GET, "/a?b".to_owned(), 4));
    }

    #[tokio::test]
    async fn too_large() {
        let wire = format!("GET / HTTP/1.1\r\nx: {}\r\n\r\n", "x".repeat(2000));
        assert!(matches!(read(&wire).await, Err(ReadError::TooLarge)));
    }
}
