//! Reading HTTP/1.1 responses: heads (RFC 9112 §4) and how their bodies are delimited (§6.3).

use ::http::header;
use ::http::{HeaderMap, Method, StatusCode, Version};
use bytes::{Bytes, BytesMut};
use httparse::{ParserConfig, Status};
use tokio::io::AsyncRead;

pub use super::message::ReadError;

use super::head::ResponseHead;
use super::message::{HEAD_READ, Lines, MAX_FIELDS, MAX_HEAD, MessageReader, State, content_length, fields_of, lines_of, malformed, names};

/// Reads one response from a connection. Every method is cancel-safe: a dropped call loses nothing.
#[derive(Debug)]
pub struct ResponseReader<R> {
    message: MessageReader<R>,
    persistent: bool,
}

impl<R: AsyncRead + Unpin> ResponseReader<R> {
    /// A reader of the response to the request just sent on `io`.
    pub fn new(io: R) -> Self {
        Self { message: MessageReader::new(io), persistent: false }
    }

    /// The next head. After an informational one (1xx) there is another. `method` is the request's: it
    /// decides whether there is a body.
    pub async fn head(&mut self, method: &Method) -> Result<ResponseHead, ReadError> {
        loop {
            let persistent = &mut self.persistent;
            if let Some(head) = self.message.try_head(MAX_HEAD, |message| parse_head(message, persistent, method))? {
                return Ok(head);
            }
            self.message.fill(HEAD_READ).await?;
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

    /// Bytes of the body still to come, when the response says so.
    pub fn remaining(&self) -> Option<u64> {
        self.message.remaining()
    }

    /// Whether the response is whole and its connection may carry another exchange.
    pub fn is_reusable(&self) -> bool {
        self.message.is_done() && self.persistent && self.message.is_empty()
    }

    /// The connection.
    pub fn into_io(self) -> R {
        self.message.into_parts().0
    }

    /// The connection, and what has been read of it behind this response.
    pub fn into_parts(self) -> (R, BytesMut) {
        self.message.into_parts()
    }
}

/// Takes a head, when it is there as a whole, and decides how the body is delimited.
fn parse_head<R>(message: &mut MessageReader<R>, persistent: &mut bool, method: &Method) -> Result<Option<ResponseHead>, ReadError> {
    let Some((length, status, version, lines)) = parse(&message.buffer)? else { return Ok(None) };
    if length > MAX_HEAD {
        return Err(ReadError::TooLarge);
    }
    let raw = message.buffer.split_to(length).freeze();
    let mut headers = fields_of(&raw, &lines)?;
    if !status.is_informational() {
        (message.state, *persistent) = delimit(method, status, version, &mut headers)?;
    }
    Ok(Some(ResponseHead { status, version, headers, ..ResponseHead::default() }))
}

/// RFC 9112 §6.3 for responses, and §9.3 for what becomes of the connection.
fn delimit(method: &Method, status: StatusCode, version: Version, headers: &mut HeaderMap) -> Result<(State, bool), ReadError> {
    let says = |word: &str| names(headers, &header::CONNECTION).any(|option| option.eq_ignore_ascii_case(word));
    let mut persistent = if version == Version::HTTP_11 { !says("close") } else { says("keep-alive") && !says("close") };
    let length = content_length(headers)?;
    let codings: Vec<&str> = names(headers, &header::TRANSFER_ENCODING).collect();
    let chunked = codings.last().map(|coding| coding.eq_ignore_ascii_case("chunked"));
    // `identity`, which is none, was one in RFC 2616.
    let understood =
        codings.len() <= 1 && codings.iter().all(|coding| ["chunked", "identity"].iter().any(|known| coding.eq_ignore_ascii_case(known)));
    let bodiless = *method == Method::HEAD || status == StatusCode::NO_CONTENT || status == StatusCode::NOT_MODIFIED;
    let state = match (chunked, length) {
        _ if bodiless => State::Done,
        // Without its coding, a body is what nobody can read.
        _ if !understood => return Err(malformed("a transfer coding other than chunked")),
        (Some(chunked), _) => {
            // Both at once may be an attempt to smuggle: the length does not count, and the connection ends.
            if headers.remove(header::CONTENT_LENGTH).is_some() || version != Version::HTTP_11 {
                persistent = false;
            }
            if chunked { State::ChunkSize } else { State::UntilClose }
        }
        (None, Some(0)) => State::Done,
        (None, Some(length)) => State::Length(length),
        (None, None) => State::UntilClose,
    };
    Ok((state, persistent && state != State::UntilClose))
}

type Head = (usize, StatusCode, Version, Lines);

/// Parses a head; `None` when it is not whole.
fn parse(buffer: &[u8]) -> Result<Option<Head>, ReadError> {
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
    let status = status.ok_or(ReadError::Status)?;
    let version = if response.version == Some(1) { Version::HTTP_11 } else { Version::HTTP_10 };
    Ok(Some((length, status, version, lines_of(buffer, response.headers))))
}

#[cfg(test)]
mod tests {
    use std::io;

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
        let wire = "HTTP/1.1 200 OK\r\ntransfer-encoding: Chunked\r\n\r\n3\r\nabc\r\n2;x=\"y\"\r\nde\r\n0\r\nx-t: 1\r\n\r\n";
        assert_eq!(body(wire).await, ("abcde".to_owned(), true));
        let both = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ncontent-length: 2\r\n\r\n1\r\na\r\n0\r\n\r\n";
        assert_eq!(body(both).await, ("a".to_owned(), false));
        let read = read(Method::GET, both).await.expect("a head");
        assert!(!read.heads[0].headers.contains_key("content-length"));
    }

    #[tokio::test]
    async fn until_close() {
        assert_eq!(body("HTTP/1.1 200 OK\r\n\r\nabc").await, ("abc".to_owned(), false));
        assert_eq!(body("HTTP/1.1 200 OK\r\ntransfer-encoding: identity\r\n\r\nabc").await, ("abc".to_owned(), false));
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
            "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\nabc",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
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
