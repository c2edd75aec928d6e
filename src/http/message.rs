//! Reading HTTP/1.1 messages, what requests and responses share: field lines (RFC 9112 §5), body
//! length (§6), chunked decoding and trailers (§7.1). Field values and body bytes are slices of what
//! was read; nothing is copied.

use std::io;

use ::http::HeaderMap;
use ::http::header::{self, HeaderName, HeaderValue};
use bytes::{Buf, Bytes, BytesMut};
use httparse::{InvalidChunkSize, Status};
use smallvec::SmallVec;
use tokio::io::{AsyncRead, AsyncReadExt};

use super::framing;

/// Largest response head, and largest trailer section, in bytes.
pub const MAX_HEAD: usize = 256 << 10;

/// Most fields of a head, and of a trailer section.
pub const MAX_FIELDS: usize = 256;

/// Longest line that gives a chunk's size, extensions included.
const MAX_CHUNK_LINE: usize = 4 << 10;

/// First read: most heads fit.
pub const HEAD_READ: usize = 4 << 10;

/// Most bytes of one read of a body.
const BODY_READ: usize = 64 << 10;

/// A read of a body whose length is not told beforehand.
const PIECE_READ: usize = 16 << 10;

/// Why a message could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The connection ended before the message did.
    #[error("the connection was closed before the message was whole")]
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
    /// The head or the trailers are too large, or have too many fields.
    #[error("its head or trailers are too large or have more than {MAX_FIELDS} fields")]
    TooLarge,
    /// The status is not between 100 and 999.
    #[error("its status is not between 100 and 999")]
    Status,
    /// It is not HTTP/1.
    #[error("{0}")]
    Malformed(String),
}

impl ReadError {
    /// Whether not a byte of a message came, as when a kept connection was stale.
    pub fn is_unanswered(&self) -> bool {
        matches!(self, Self::Closed { read: 0 } | Self::Io { read: 0, .. })
    }
}

/// Where the reader is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Before or in a head.
    Head,
    /// Bytes still to come.
    Length(u64),
    /// Before or in the line that gives a chunk's size.
    ChunkSize,
    /// Bytes of this chunk still to come, not counting its CRLF.
    ChunkData(u64),
    /// Before the CRLF behind a chunk.
    ChunkEnd,
    /// Before or in the trailer section.
    Trailers,
    /// The rest of the connection is body.
    UntilClose,
    /// At the message's end.
    Done,
}

/// Reads messages from a connection, one after another. Every method is cancel-safe: a dropped call
/// loses nothing.
#[derive(Debug)]
pub struct MessageReader<R> {
    io: R,
    /// What has been read and not been used.
    pub(super) buffer: BytesMut,
    pub(super) state: State,
    trailers: Option<Box<HeaderMap>>,
    /// How much was there when fields were last found incomplete.
    tried: usize,
}

impl<R: AsyncRead + Unpin> MessageReader<R> {
    /// A reader at the beginning of a message.
    pub fn new(io: R) -> Self {
        Self { io, buffer: BytesMut::new(), state: State::Head, trailers: None, tried: 0 }
    }

    /// Takes a head with `parse`, when it is there as a whole.
    pub fn try_head<T>(
        &mut self,
        max: usize,
        parse: impl FnOnce(&mut Self) -> Result<Option<T>, ReadError>,
    ) -> Result<Option<T>, ReadError> {
        if self.is_worth_parsing() {
            if let Some(head) = parse(self)? {
                self.tried = 0;
                return Ok(Some(head));
            }
            self.tried = self.buffer.len();
        }
        if self.buffer.len() >= max { Err(ReadError::TooLarge) } else { Ok(None) }
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
                    Ok(Status::Complete((length, _))) if has_bare_lf(&self.buffer[..length]) => {
                        return Err(malformed("the line of a chunk's size does not end with CRLF"));
                    }
                    // httparse takes no digit at all for zero.
                    Ok(Status::Complete(_)) if !self.buffer.first().is_some_and(u8::is_ascii_hexdigit) => {
                        return Err(malformed("a chunk's size has no digit"));
                    }
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
                        if self.take_trailers()? {
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

    /// Bytes of the body still to come, when the message says so.
    pub fn remaining(&self) -> Option<u64> {
        match self.state {
            State::Length(left) => Some(left),
            State::Done => Some(0),
            State::Head | State::ChunkSize | State::ChunkData(_) | State::ChunkEnd | State::Trailers | State::UntilClose => None,
        }
    }

    /// The trailer section, once, when the body has ended with one.
    pub fn trailers(&mut self) -> Option<Box<HeaderMap>> {
        self.trailers.take()
    }

    /// Whether the message is whole.
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Whether nothing is here that has not been used.
    pub fn is_empty(&self) -> bool {
        self.buffer.is_empty()
    }

    /// The next message begins.
    pub fn begin(&mut self) {
        (self.state, self.trailers, self.tried) = (State::Head, None, 0);
    }

    /// The connection, and what has been read of it and not been used.
    pub fn into_parts(self) -> (R, BytesMut) {
        (self.io, self.buffer)
    }

    /// Fields that trickle in are not parsed again for every byte: only when an empty line has come, or
    /// when there is twice as much as the last time, so that what is no HTTP is seen early.
    fn is_worth_parsing(&self) -> bool {
        let new = &self.buffer[self.tried.saturating_sub(3).min(self.buffer.len())..];
        let has_empty_line = || new.windows(2).any(|pair| pair == b"\n\n") || new.windows(3).any(|three| three == b"\n\r\n");
        !self.buffer.is_empty() && (self.buffer.len() >= 2 * self.tried || has_empty_line())
    }

    /// Reads once, `size` bytes if that many are there.
    pub async fn fill(&mut self, size: usize) -> Result<(), ReadError> {
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
    fn take_trailers(&mut self) -> Result<bool, ReadError> {
        let mut parsed = [httparse::EMPTY_HEADER; MAX_FIELDS];
        let (length, lines) = match httparse::parse_headers(&self.buffer, &mut parsed) {
            Ok(Status::Complete((length, parsed))) => (length, lines_of(&self.buffer, parsed)),
            Ok(Status::Partial) if self.buffer.len() < MAX_HEAD => return Ok(false),
            Ok(Status::Partial) | Err(httparse::Error::TooManyHeaders) => return Err(ReadError::TooLarge),
            Err(error) => return Err(malformed(&format!("trailers: {error}"))),
        };
        let raw = self.buffer.split_to(length).freeze();
        if has_bare_lf(&raw) {
            return Err(malformed("a line of the trailers does not end with CRLF"));
        }
        if !lines.is_empty() {
            let mut trailers = fields_of(&raw, &lines)?;
            framing::strip_from_trailers(&mut trailers);
            self.trailers = Some(Box::new(trailers));
        }
        Ok(true)
    }
}

/// Where a field's name and value are in what was parsed.
pub struct Line {
    name: std::ops::Range<usize>,
    value: std::ops::Range<usize>,
}

/// The lines of most messages, without an allocation.
pub type Lines = SmallVec<[Line; 16]>;

/// Where `parsed` is in `buffer`.
pub fn lines_of(buffer: &[u8], parsed: &[httparse::Header<'_>]) -> Lines {
    let at = |part: &[u8]| {
        let start = part.as_ptr() as usize - buffer.as_ptr() as usize;
        start..start + part.len()
    };
    parsed.iter().map(|field| Line { name: at(field.name.as_bytes()), value: at(field.value) }).collect()
}

/// The fields of a section.
pub fn fields_of(raw: &Bytes, lines: &[Line]) -> Result<HeaderMap, ReadError> {
    let mut headers = HeaderMap::with_capacity(lines.len());
    for line in lines {
        let name = HeaderName::from_bytes(&raw[line.name.clone()]).map_err(|_| malformed("a field name is not a token"))?;
        headers.append(name, value_of(raw.slice(line.value.clone()))?);
    }
    Ok(headers)
}

/// Whether a line ends without CR, which others in the path may take for no end (RFC 9112 §2.2).
pub fn has_bare_lf(raw: &[u8]) -> bool {
    memchr::memchr_iter(b'\n', raw).any(|at| at == 0 || raw[at - 1] != b'\r')
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
pub fn names<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    headers.get_all(name).iter().filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(',')).map(str::trim)
}

/// The one length that is told; several different ones are an error.
pub fn content_length(headers: &HeaderMap) -> Result<Option<u64>, ReadError> {
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

/// Malformed, and why.
pub fn malformed(reason: &str) -> ReadError {
    ReadError::Malformed(reason.to_owned())
}
