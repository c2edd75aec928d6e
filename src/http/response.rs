//! Reading HTTP/1.1 responses: heads (RFC 9112 §4, §5), body length (§6.3) and chunked decoding
//! (§7.1). Field values and body bytes are slices of what was read; nothing is copied.

use std::io;

use ::http::header::{self, HeaderName, HeaderValue};
use ::http::{HeaderMap, Method, StatusCode, Version};
use bytes::{Buf, Bytes, BytesMut};
use httparse::{InvalidChunkSize, ParserConfig, Status};
use tokio::io::{AsyncRead, AsyncReadExt};

use super::head::ResponseHead;

/// Largest response head, and largest trailer section, in bytes.
pub const MAX_HEAD: usize = 256 << 10;

/// Most fields of a head.
const MAX_FIELDS: usize = 256;

/// Longest line that gives a chunk's size, extensions included.
const MAX_CHUNK_LINE: usize = 4 << 10;

/// First read: most responses' heads fit.
const HEAD_READ: usize = 4 << 10;

/// Most bytes of one read of a body.
const BODY_READ: usize = 64 << 10;

/// A read of a body whose length is not told beforehand.
const PIECE_READ: usize = 16 << 10;

/// Why a response could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The connection ended before the response did.
    #[error("the connection was closed before the response was whole ({read} bytes of it came)")]
    Closed {
        /// Bytes that had come of what was being read.
        read: usize,
    },
    /// Reading failed.
    #[error("reading: {error}")]
    Io {
        /// What the system said.
        error: io::Error,
        /// Bytes that had come of what was being read.
        read: usize,
    },
    /// The head or the trailers are larger than [`MAX_HEAD`], or have too many fields.
    #[error("its head is larger than {} KiB or has more than {MAX_FIELDS} fields", MAX_HEAD >> 10)]
    TooLarge,
    /// It is not HTTP/1.
    #[error("{0}")]
    Malformed(String),
}

impl ReadError {
    /// Whether not a byte of a response came, as when a kept connection was stale.
    pub fn is_unanswered(&self) -> bool {
        matches!(self, Self::Closed { read: 0 } | Self::Io { read: 0, .. })
    }
}

/// Where the reader is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Head,
    /// Bytes still to come.
    Length(u64),
    ChunkSize,
    /// Bytes of this chunk still to come, not counting its CRLF.
    ChunkData(u64),
    ChunkEnd,
    Trailers,
    UntilClose,
    Done,
}

/// Reads one response from a connection. Every method is cancel-safe: a dropped call loses nothing.
#[derive(Debug)]
pub struct ResponseReader<R> {
    io: R,
    buffer: BytesMut,
    state: State,
    persistent: bool,
    /// How much was there when fields were last found incomplete.
    tried: usize,
}

impl<R: AsyncRead + Unpin> ResponseReader<R> {
    /// A reader of the response to the request just sent on `io`.
    pub fn new(io: R) -> Self {
        Self { io, buffer: BytesMut::new(), state: State::Head, persistent: false, tried: 0 }
    }

    /// The next head. After an informational one (1xx) there is another. `method` is the request's: it
    /// decides whether there is a body.
    pub async fn head(&mut self, method: &Method) -> Result<ResponseHead, ReadError> {
        loop {
            if self.is_worth_parsing() {
                if let Some(head) = self.parse_head(method)? {
                    self.tried = 0;
                    return Ok(head);
                }
                self.tried = self.buffer.len();
            }
            if self.buffer.len() >= MAX_HEAD {
                return Err(ReadError::TooLarge);
            }
            self.fill(HEAD_READ).await?;
        }
    }

    /// The next bytes of the body, never empty; `None` at its end.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, ReadError> {
        loop {
            match self.state {
                State::Head | State::Done => return Ok(None),
                State::Length(left) => {
                    if self.buffer.is_empty() {
                        self.fill(usize::try_from(left).unwrap_or(BODY_READ).min(BODY_READ)).await?;
                    }
                    let bytes = self.split(left);
                    let left = left - bytes.len() as u64;
                    self.state = if left == 0 { State::Done } else { State::Length(left) };
                    return Ok(Some(bytes));
                }
                State::ChunkSize => match httparse::parse_chunk_size(&self.buffer) {
                    Ok(Status::Complete((length, size))) => {
                        self.buffer.advance(length);
                        self.state = if size == 0 { State::Trailers } else { State::ChunkData(size) };
                    }
                    Ok(Status::Partial) if self.buffer.len() < MAX_CHUNK_LINE => self.fill(PIECE_READ).await?,
                    Ok(Status::Partial) | Err(InvalidChunkSize) => return Err(malformed("a chunk's size is not a hexadecimal number")),
                },
                State::ChunkData(left) => {
                    if self.buffer.is_empty() {
                        self.fill(PIECE_READ).await?;
                    }
                    let bytes = self.split(left);
                    let left = left - bytes.len() as u64;
                    self.state = if left == 0 { State::ChunkEnd } else { State::ChunkData(left) };
                    return Ok(Some(bytes));
                }
                State::ChunkEnd => {
                    if self.buffer.len() < 2 {
                        self.fill(PIECE_READ).await?;
                        continue;
                    }
                    if !self.buffer.starts_with(b"\r\n") {
                        return Err(malformed("a chunk is longer than its size says"));
                    }
                    self.buffer.advance(2);
                    self.state = State::ChunkSize;
                }
                State::Trailers => {
                    if self.is_worth_parsing() {
                        if self.skip_trailers()? {
                            self.state = State::Done;
                            continue;
                        }
                        self.tried = self.buffer.len();
                    }
                    self.fill(PIECE_READ).await?;
                }
                State::UntilClose => {
                    if self.buffer.is_empty() {
                        match self.fill(PIECE_READ).await {
                            Ok(()) => {}
                            Err(ReadError::Closed { .. }) => {
                                self.state = State::Done;
                                return Ok(None);
                            }
                            Err(error) => return Err(error),
                        }
                    }
                    return Ok(Some(self.buffer.split().freeze()));
                }
            }
        }
    }

    /// Bytes of the body still to come, when the response says so.
    pub fn remaining(&self) -> Option<u64> {
        match self.state {
            State::Length(left) => Some(left),
            State::Done => Some(0),
            State::Head | State::ChunkSize | State::ChunkData(_) | State::ChunkEnd | State::Trailers | State::UntilClose => None,
        }
    }

    /// Whether the response is whole and its connection may carry another exchange.
    pub fn is_reusable(&self) -> bool {
        self.state == State::Done && self.persistent && self.buffer.is_empty()
    }

    /// The connection.
    pub fn into_io(self) -> R {
        self.io
    }

    /// Fields that trickle in are not parsed again for every byte: only when an empty line has come, or
    /// when there is twice as much as the last time, so that what is no HTTP is seen early.
    fn is_worth_parsing(&self) -> bool {
        let new = &self.buffer[self.tried.saturating_sub(3).min(self.buffer.len())..];
        let has_empty_line = || new.windows(2).any(|pair| pair == b"\n\n") || new.windows(3).any(|three| three == b"\n\r\n");
        !self.buffer.is_empty() && (self.buffer.len() >= 2 * self.tried || has_empty_line())
    }

    async fn fill(&mut self, size: usize) -> Result<(), ReadError> {
        let read = self.buffer.len();
        self.buffer.reserve(size);
        match self.io.read_buf(&mut self.buffer).await {
            Ok(0) => Err(ReadError::Closed { read }),
            Ok(_) => Ok(()),
            Err(error) => Err(ReadError::Io { error, read }),
        }
    }

    /// What is at hand, at most `limit` bytes.
    fn split(&mut self, limit: u64) -> Bytes {
        let length = usize::try_from(limit).unwrap_or(usize::MAX).min(self.buffer.len());
        self.buffer.split_to(length).freeze()
    }

    /// Takes the trailer section, when it is there as a whole.
    fn skip_trailers(&mut self) -> Result<bool, ReadError> {
        let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
        match httparse::parse_headers(&self.buffer, &mut fields) {
            Ok(Status::Complete((length, _))) => {
                self.buffer.advance(length);
                Ok(true)
            }
            Ok(Status::Partial) if self.buffer.len() < MAX_HEAD => Ok(false),
            Ok(Status::Partial) | Err(httparse::Error::TooManyHeaders) => Err(ReadError::TooLarge),
            Err(error) => Err(malformed(&format!("trailers: {error}"))),
        }
    }

    /// Takes a head, when it is there as a whole, and decides how the body is delimited.
    fn parse_head(&mut self, method: &Method) -> Result<Option<ResponseHead>, ReadError> {
        let Some((length, status, version, lines)) = lines_of(&self.buffer)? else { return Ok(None) };
        if length > MAX_HEAD {
            return Err(ReadError::TooLarge);
        }
        let raw = self.buffer.split_to(length).freeze();
        let mut headers = HeaderMap::with_capacity(lines.len());
        for line in lines {
            let name = HeaderName::from_bytes(&raw[line.name]).map_err(|_| malformed("a field name is not a token"))?;
            headers.append(name, value_of(raw.slice(line.value))?);
        }
        if !status.is_informational() {
            self.delimit(method, status, version, &mut headers)?;
        }
        Ok(Some(ResponseHead { status, version, headers, ..ResponseHead::default() }))
    }

    /// RFC 9112 §6.3 for responses, and §9.3 for what becomes of the connection.
    fn delimit(&mut self, method: &Method, status: StatusCode, version: Version, headers: &mut HeaderMap) -> Result<(), ReadError> {
        let says = |word: &str| names(headers, &header::CONNECTION).any(|option| option.eq_ignore_ascii_case(word));
        self.persistent = if version == Version::HTTP_11 { !says("close") } else { says("keep-alive") && !says("close") };
        let length = content_length(headers)?;
        let last_coding = names(headers, &header::TRANSFER_ENCODING).last().map(|coding| coding.eq_ignore_ascii_case("chunked"));
        let bodiless = *method == Method::HEAD || status == StatusCode::NO_CONTENT || status == StatusCode::NOT_MODIFIED;
        self.state = match (last_coding, length) {
            _ if bodiless => State::Done,
            (Some(chunked), _) => {
                // Both at once may be an attempt to smuggle: the length does not count, and the connection ends.
                if headers.remove(header::CONTENT_LENGTH).is_some() || version != Version::HTTP_11 {
                    self.persistent = false;
                }
                if chunked { State::ChunkSize } else { State::UntilClose }
            }
            (None, Some(0)) => State::Done,
            (None, Some(length)) => State::Length(length),
            (None, None) => State::UntilClose,
        };
        if self.state == State::UntilClose {
            self.persistent = false;
        }
        Ok(())
    }
}

/// Where a field's name and value are in the head.
struct Line {
    name: std::ops::Range<usize>,
    value: std::ops::Range<usize>,
}

type Head = (usize, StatusCode, Version, Vec<Line>);

/// Parses a head; `None` when it is not whole.
fn lines_of(buffer: &[u8]) -> Result<Option<Head>, ReadError> {
    let mut fields = [const { std::mem::MaybeUninit::uninit() }; MAX_FIELDS];
    let mut response = httparse::Response::new(&mut []);
    let mut config = ParserConfig::default();
    // RFC 9112 §5.1 and §5.2: a recipient repairs these in responses.
    config.allow_spaces_after_header_name_in_responses(true).allow_obsolete_multiline_headers_in_responses(true);
    let length = match config.parse_response_with_uninit_headers(&mut response, buffer, &mut fields) {
        Ok(Status::Complete(length)) => length,
        Ok(Status::Partial) => return Ok(None),
        Err(httparse::Error::TooManyHeaders) => return Err(ReadError::TooLarge),
        Err(error) => return Err(malformed(&format!("{error}; it begins {:?}", String::from_utf8_lossy(&buffer[..buffer.len().min(32)])))),
    };
    let status = response.code.and_then(|code| StatusCode::from_u16(code).ok());
    let status = status.ok_or_else(|| malformed("the status is not between 100 and 999"))?;
    let version = if response.version == Some(1) { Version::HTTP_11 } else { Version::HTTP_10 };
    let at = |part: &[u8]| {
        let start = part.as_ptr() as usize - buffer.as_ptr() as usize;
        start..start + part.len()
    };
    let lines = response.headers.iter().map(|field| Line { name: at(field.name.as_bytes()), value: at(field.value) }).collect();
    Ok(Some((length, status, version, lines)))
}

/// A field value; folded lines are joined by spaces.
fn value_of(raw: Bytes) -> Result<HeaderValue, ReadError> {
    let folded = raw.iter().any(|byte| matches!(byte, b'\r' | b'\n'));
    let value = if folded {
        let joined: Vec<u8> = raw.iter().map(|byte| if matches!(byte, b'\r' | b'\n') { b' ' } else { *byte }).collect();
        HeaderValue::from_maybe_shared(Bytes::from(joined))
    } else {
        HeaderValue::from_maybe_shared(raw)
    };
    value.map_err(|_| malformed("a field value has control characters"))
}

/// The comma-separated words of a field.
fn names<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    headers.get_all(name).iter().filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(',')).map(str::trim)
}

/// The one length that is told; several different ones are an error.
fn content_length(headers: &HeaderMap) -> Result<Option<u64>, ReadError> {
    let mut length = None;
    for value in headers.get_all(header::CONTENT_LENGTH) {
        for word in value.as_bytes().split(|byte| *byte == b',') {
            let word = word.trim_ascii();
            let digits = !word.is_empty() && word.iter().all(u8::is_ascii_digit);
            let number = std::str::from_utf8(word).ok().filter(|_| digits).and_then(|word| word.parse::<u64>().ok());
            let number = number.ok_or_else(|| malformed("content-length is not a number"))?;
            if length.is_some_and(|length| length != number) {
                return Err(malformed("content-length is told twice, differently"));
            }
            length = Some(number);
        }
    }
    Ok(length)
}

fn malformed(reason: &str) -> ReadError {
    ReadError::Malformed(reason.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Read {
        heads: Vec<ResponseHead>,
        body: Result<Vec<u8>, ReadError>,
        reusable: bool,
    }

    /// Reads `wire` as the answer to `method`, whole and then byte by byte: both must agree.
    async fn read(method: Method, wire: &str) -> Result<Read, ReadError> {
        let whole = read_in(method.clone(), wire, wire.len()).await;
        let bytewise = read_in(method, wire, 1).await;
        match (&whole, &bytewise) {
            (Ok(a), Ok(b)) => {
                assert_eq!(a.heads.len(), b.heads.len());
                assert_eq!(a.body.as_ref().ok(), b.body.as_ref().ok());
                assert_eq!(a.reusable, b.reusable);
            }
            (a, b) => assert_eq!(a.is_err(), b.is_err()),
        }
        whole
    }

    async fn read_in(method: Method, wire: &str, step: usize) -> Result<Read, ReadError> {
        let mut io = tokio_pieces(wire, step);
        let mut reader = ResponseReader::new(&mut io);
        let mut heads = Vec::new();
        loop {
            let head = reader.head(&method).await?;
            let last = !head.status.is_informational();
            heads.push(head);
            if last {
                break;
            }
        }
        let mut bytes = Vec::new();
        let body = loop {
            match reader.chunk().await {
                Ok(Some(chunk)) => {
                    assert!(!chunk.is_empty());
                    bytes.extend_from_slice(&chunk);
                }
                Ok(None) => break Ok(bytes),
                Err(error) => break Err(error),
            }
        };
        Ok(Read { heads, body, reusable: reader.is_reusable() })
    }

    /// A connection that gives `wire` in pieces of `step` bytes.
    fn tokio_pieces(wire: &str, step: usize) -> impl AsyncRead + Unpin {
        struct Pieces(Bytes, usize);
        impl AsyncRead for Pieces {
            fn poll_read(
                mut self: std::pin::Pin<&mut Self>,
                _: &mut std::task::Context<'_>,
                buffer: &mut tokio::io::ReadBuf<'_>,
            ) -> std::task::Poll<io::Result<()>> {
                let length = self.1.min(self.0.len()).min(buffer.remaining());
                let piece = self.0.split_to(length);
                buffer.put_slice(&piece);
                std::task::Poll::Ready(Ok(()))
            }
        }
        Pieces(Bytes::copy_from_slice(wire.as_bytes()), step.max(1))
    }

    async fn body(wire: &str) -> (String, bool) {
        let read = read(Method::GET, wire).await.expect("a head");
        (String::from_utf8(read.body.expect("a body")).expect("text"), read.reusable)
    }

    #[tokio::test]
    async fn lengths() {
        assert_eq!(body("HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabc").await, ("abc".to_owned(), true));
        assert_eq!(body("HTTP/1.1 200 OK\r\ncontent-length: 3\r\ncontent-length: 3\r\n\r\nabc").await, ("abc".to_owned(), true));
        assert_eq!(body("HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n").await, (String::new(), true));
        // More than was asked for: that connection cannot be trusted.
        assert!(!read_in(Method::GET, "HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabcd", 100).await.expect("a head").reusable);
    }

    #[tokio::test]
    async fn chunks() {
        let wire = "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, Chunked\r\n\r\n3\r\nabc\r\n2;x=\"y\"\r\nde\r\n0\r\nx-t: 1\r\n\r\n";
        assert_eq!(body(wire).await, ("abcde".to_owned(), true));
        let both = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ncontent-length: 2\r\n\r\n1\r\na\r\n0\r\n\r\n";
        assert_eq!(body(both).await, ("a".to_owned(), false));
        let read = read(Method::GET, both).await.expect("a head");
        assert!(!read.heads[0].headers.contains_key("content-length"));
    }

    #[tokio::test]
    async fn until_close() {
        assert_eq!(body("HTTP/1.1 200 OK\r\n\r\nabc").await, ("abc".to_owned(), false));
        assert_eq!(body("HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\nabc").await, ("abc".to_owned(), false));
        assert_eq!(body("HTTP/1.0 200 OK\r\n\r\nabc").await, ("abc".to_owned(), false));
    }

    #[tokio::test]
    async fn persistence() {
        assert!(!body("HTTP/1.1 200 OK\r\nconnection: foo, Close\r\ncontent-length: 0\r\n\r\n").await.1);
        assert!(!body("HTTP/1.0 200 OK\r\ncontent-length: 0\r\n\r\n").await.1);
        assert!(body("HTTP/1.0 200 OK\r\nconnection: keep-alive\r\ncontent-length: 0\r\n\r\n").await.1);
    }

    #[tokio::test]
    async fn heads_without_bodies() {
        let read = read(Method::HEAD, "HTTP/1.1 200 OK\r\ncontent-length: 30\r\n\r\n").await.expect("a head");
        assert!(read.reusable);
        assert_eq!(read.heads[0].headers["content-length"], "30");
        assert_eq!(body("HTTP/1.1 304 Not Modified\r\ncontent-length: 30\r\n\r\n").await, (String::new(), true));
        assert_eq!(body("HTTP/1.1 204 No Content\r\n\r\n").await, (String::new(), true));
    }

    #[tokio::test]
    async fn informational_heads_come_first() {
        let read = read(Method::GET, "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\na")
            .await
            .expect("a head");
        let statuses: Vec<u16> = read.heads.iter().map(|head| head.status.as_u16()).collect();
        assert_eq!(statuses, [103, 200]);
        assert_eq!(read.body.expect("a body"), b"a");
    }

    #[tokio::test]
    async fn fields() {
        let read = read(Method::GET, "HTTP/1.1 299 \r\nA: 1\r\na : 2\r\nfolded: one\r\n two\r\nb: \u{e9}\r\ncontent-length: 0\r\n\r\n")
            .await
            .expect("a head");
        let headers = &read.heads[0].headers;
        assert_eq!(headers.get_all("a").iter().collect::<Vec<_>>(), ["1", "2"]);
        assert_eq!(headers["folded"].to_str().expect("text").split_whitespace().collect::<Vec<_>>(), ["one", "two"]);
        assert_eq!(headers["b"].as_bytes(), "\u{e9}".as_bytes());
    }

    #[tokio::test]
    async fn truncated() {
        for wire in [
            "HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nab",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nab",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n",
        ] {
            let read = read(Method::GET, wire).await.expect("a head");
            assert!(matches!(read.body, Err(ReadError::Closed { .. })), "{wire:?}");
            assert!(!read.reusable);
        }
        let error = read_in(Method::GET, "", 1).await.err().expect("no head");
        assert!(error.is_unanswered());
        let error = read_in(Method::GET, "HTTP/1.1 2", 1).await.err().expect("no head");
        assert!(matches!(error, ReadError::Closed { read: 10 }) && !error.is_unanswered());
    }

    #[tokio::test]
    async fn not_http() {
        for wire in [
            "SSH-2.0-OpenSSH\r\n",
            "HTTP/1.1 20 OK\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 3\r\ncontent-length: 4\r\n\r\nabcd",
            "HTTP/1.1 200 OK\r\ncontent-length: +3\r\n\r\nabc",
            "HTTP/1.1 200 OK\r\ncontent-length: \r\n\r\nabc",
            "HTTP/1.1 200 OK\r\na b: 1\r\n\r\n",
        ] {
            assert!(matches!(read(Method::GET, wire).await, Err(ReadError::Malformed(_))), "{wire:?}");
        }
        for body in ["x\r\nabc", "3\r\nabcd\r\n0\r\n\r\n", "-1\r\n", "11111111111111111\r\n"] {
            let wire = format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{body}");
            assert!(matches!(read(Method::GET, &wire).await.expect("a head").body, Err(ReadError::Malformed(_))), "{body:?}");
        }
    }

    #[tokio::test]
    async fn too_large() {
        let fields: String = (0..=MAX_FIELDS).map(|i| format!("x-{i}: 1\r\n")).collect();
        assert!(matches!(read(Method::GET, &format!("HTTP/1.1 200 OK\r\n{fields}\r\n")).await, Err(ReadError::TooLarge)));
        let long = format!("HTTP/1.1 200 OK\r\nx: {}\r\n\r\n", "x".repeat(MAX_HEAD));
        assert!(matches!(read_in(Method::GET, &long, 1000).await, Err(ReadError::TooLarge)));
    }
}
