//! Bodies as ropes: a queue of byte chunks, streams from the network and channels from a guest that
//! is still writing. Appending splices; nothing is copied. A part that ends without its proper end
//! (a connection lost, a writer that abandoned) is an error to whoever reads, so that it can pass
//! the truncation on and never a clean end.

use std::collections::VecDeque;
use std::future::Future;
use std::task::{Context, Poll, Waker};

use ::http::HeaderMap;
use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use tokio::sync::mpsc;

/// Largest piece a guest's single write makes; also what a channel holds per slot.
pub const MAX_CHUNK: usize = 64 << 10;

/// Pieces a streaming writer may be ahead of its reader.
const CHANNEL_DEPTH: usize = 4;

/// Why a body ended early.
#[derive(Clone, Debug, thiserror::Error)]
pub enum BodyError {
    /// The sender went away, or abandoned the body, before its end.
    #[error("body ended early: {0}")]
    Incomplete(String),
    /// Nothing came for longer than allowed.
    #[error("body timed out: {0}")]
    Timeout(String),
    /// What came is not a body.
    #[error("malformed body: {0}")]
    Malformed(String),
}

/// A source of bytes that takes time.
#[async_trait]
pub trait BodyStream: Send {
    /// The next bytes, never empty; `None` at the end. Cancel-safe: a dropped call loses nothing.
    async fn chunk(&mut self) -> Result<Option<Bytes>, BodyError>;

    /// Bytes still to come, when the sender said so.
    fn remaining(&self) -> Option<u64>;

    /// The trailer section, once, after the end.
    fn trailers(&mut self) -> Option<Box<HeaderMap>> {
        None
    }
}

enum Part {
    Bytes(Bytes),
    Stream(Box<dyn BodyStream>),
    Channel(mpsc::Receiver<Piece>),
}

/// What a writer sends down a channel.
enum Piece {
    Bytes(Bytes),
    Body(Body),
    End(Option<Box<HeaderMap>>),
}

/// A message body and the trailers behind it. Reading consumes the body.
#[derive(Default)]
pub struct Body {
    parts: VecDeque<Part>,
    failed: Option<BodyError>,
    trailers: Option<Box<HeaderMap>>,
}

impl std::fmt::Debug for Body {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Body").field("parts", &self.parts.len()).field("known_length", &self.known_length()).finish()
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        let mut body = Self::default();
        body.push_back(bytes);
        body
    }
}

impl Body {
    /// No bytes.
    pub fn empty() -> Self {
        Self::default()
    }

    /// Bytes that come from a stream.
    pub fn stream(stream: Box<dyn BodyStream>) -> Self {
        Self { parts: VecDeque::from([Part::Stream(stream)]), failed: None, trailers: None }
    }

    /// Adds bytes at the end.
    pub fn push_back(&mut self, bytes: Bytes) {
        if !bytes.is_empty() {
            self.parts.push_back(Part::Bytes(bytes));
        }
    }

    /// Adds bytes in front of what has not been read.
    pub fn push_front(&mut self, bytes: Bytes) {
        if !bytes.is_empty() {
            self.parts.push_front(Part::Bytes(bytes));
        }
    }

    /// Moves all of `other` to the end, its trailers behind ours.
    pub fn append(&mut self, mut other: Body) {
        self.parts.append(&mut other.parts);
        if self.failed.is_none() {
            self.failed = other.failed;
        }
        self.add_trailers(other.trailers);
    }

    /// Opens the end for a writer; what is here already comes first. Trailers go with the writer.
    pub fn open(&mut self) -> BodyWriter {
        let (sender, receiver) = mpsc::channel(CHANNEL_DEPTH);
        self.parts.push_back(Part::Channel(receiver));
        BodyWriter { to: To::Reader(sender), trailers: self.trailers.take() }
    }

    /// Whether it has ended before its end.
    pub fn has_failed(&self) -> bool {
        self.failed.is_some()
    }

    /// Whether every byte has been read, so that the trailers are all here.
    pub fn is_read(&self) -> bool {
        self.parts.is_empty() && self.failed.is_none()
    }

    /// The trailers so far.
    pub fn trailers(&self) -> Option<&HeaderMap> {
        self.trailers.as_deref()
    }

    /// The trailers so far, to be added to.
    pub fn trailers_mut(&mut self) -> &mut HeaderMap {
        self.trailers.get_or_insert_default()
    }

    /// The trailers, taken away.
    pub fn take_trailers(&mut self) -> Option<Box<HeaderMap>> {
        self.trailers.take()
    }

    fn add_trailers(&mut self, more: Option<Box<HeaderMap>>) {
        match (&mut self.trailers, more) {
            (_, None) => {}
            (None, more) => self.trailers = more,
            (Some(trailers), Some(more)) => {
                for (name, value) in more.iter() {
                    trailers.append(name, value.clone());
                }
            }
        }
    }

    /// Bytes still to be read, when every part knows. A body with trailers has no length that could be
    /// told in front.
    pub fn framed_length(&self) -> Option<u64> {
        if self.trailers.is_some() { None } else { self.known_length() }
    }

    /// Bytes still to be read, when every part knows.
    pub fn known_length(&self) -> Option<u64> {
        if self.failed.is_some() {
            return None;
        }
        self.parts.iter().try_fold(0u64, |sum, part| match part {
            Part::Bytes(bytes) => sum.checked_add(bytes.len() as u64),
            Part::Stream(stream) => sum.checked_add(stream.remaining()?),
            Part::Channel(_) => None,
        })
    }

    /// A copy, when every byte is here already; bytes are shared, not copied.
    pub fn duplicate(&self) -> Option<Self> {
        let parts = self.parts.iter().map(|part| match part {
            Part::Bytes(bytes) => Some(Part::Bytes(bytes.clone())),
            Part::Stream(_) | Part::Channel(_) => None,
        });
        Some(Self { parts: parts.collect::<Option<_>>()?, failed: self.failed.clone(), trailers: self.trailers.clone() })
    }

    /// The next bytes, never empty; `None` at the end. Cancel-safe. After an error, the same error.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, BodyError> {
        loop {
            let Some(part) = self.parts.front_mut() else {
                return self.failed.clone().map_or(Ok(None), Err);
            };
            let failure = match part {
                Part::Bytes(_) => {
                    if let Some(Part::Bytes(bytes)) = self.parts.pop_front() {
                        return Ok(Some(bytes));
                    }
                    continue;
                }
                Part::Stream(stream) => match stream.chunk().await {
                    Ok(Some(bytes)) => return Ok(Some(bytes)),
                    Ok(None) => {
                        let trailers = stream.trailers();
                        self.parts.pop_front();
                        self.add_trailers(trailers);
                        continue;
                    }
                    Err(error) => error,
                },
                Part::Channel(receiver) => match receiver.recv().await {
                    Some(Piece::Bytes(bytes)) => return Ok(Some(bytes)),
                    Some(Piece::Body(mut body)) => {
                        // The channel goes on behind what was spliced in.
                        while let Some(part) = body.parts.pop_back() {
                            self.parts.push_front(part);
                        }
                        self.add_trailers(body.trailers);
                        if let Some(error) = body.failed {
                            error
                        } else {
                            continue;
                        }
                    }
                    Some(Piece::End(trailers)) => {
                        self.parts.pop_front();
                        self.add_trailers(trailers);
                        continue;
                    }
                    None => BodyError::Incomplete("the writer abandoned it".to_owned()),
                },
            };
            self.parts.clear();
            self.failed = Some(failure.clone());
            return Err(failure);
        }
    }

    /// All of it, if that is at most `max` bytes; `None` if it is more. One piece is not copied.
    pub async fn collect(&mut self, max: usize) -> Result<Option<Bytes>, BodyError> {
        if self.known_length().is_some_and(|length| length > max as u64) {
            return Ok(None);
        }
        let Some(first) = self.chunk().await? else { return Ok(Some(Bytes::new())) };
        let Some(second) = self.chunk().await? else { return Ok((first.len() <= max).then_some(first)) };
        let mut all = BytesMut::with_capacity(first.len() + second.len() + self.known_length().unwrap_or(0) as usize);
        all.extend_from_slice(&first);
        all.extend_from_slice(&second);
        while let Some(more) = self.chunk().await? {
            if all.len() + more.len() > max {
                return Ok(None);
            }
            all.extend_from_slice(&more);
        }
        Ok((all.len() <= max).then(|| all.freeze()))
    }

    /// As [`chunk`](Self::chunk), at most `max` bytes (not 0). Cancel-safe.
    pub async fn read(&mut self, max: usize) -> Result<Bytes, BodyError> {
        let Some(mut bytes) = self.chunk().await? else { return Ok(Bytes::new()) };
        if bytes.len() > max {
            let rest = bytes.split_off(max);
            self.push_front(rest);
        }
        Ok(bytes)
    }

    /// Waits until a read would return at once: bytes, the end or an error. Cancel-safe.
    pub async fn ready(&mut self) {
        if let Some(Part::Bytes(_)) = self.parts.front() {
            return;
        }
        // An error stays in `failed`, the end stays the end.
        if let Ok(Some(bytes)) = self.chunk().await {
            self.push_front(bytes);
        }
    }

    /// Whether a read would return at once.
    pub fn is_ready(&mut self) -> bool {
        let ready = std::pin::pin!(self.ready());
        ready.poll(&mut Context::from_waker(Waker::noop())).is_ready()
    }

    /// The next bytes if they are here: `Pending` otherwise. For a caller that will wait with
    /// [`chunk`](Self::chunk) afterwards.
    pub fn try_chunk(&mut self) -> Poll<Result<Option<Bytes>, BodyError>> {
        let chunk = std::pin::pin!(self.chunk());
        chunk.poll(&mut Context::from_waker(Waker::noop()))
    }
}

/// Where a body goes that nobody takes bit by bit: a place that keeps it.
#[async_trait]
pub trait BodySink: Send + Sync {
    /// Whether it takes so many bytes at once, without waiting.
    fn has_room(&self, bytes: usize) -> bool;

    /// Takes the next bytes, never empty. An error: no more of them are wanted. Only with `may_wait` may it take its time
    /// until there is room.
    async fn push(&mut self, bytes: Bytes, may_wait: bool) -> Result<(), ReaderGone>;

    /// The proper end, and the trailers behind it.
    fn end(self: Box<Self>, trailers: Option<Box<HeaderMap>>);

    /// The end before the end. So is dropping it.
    fn fail(self: Box<Self>, error: BodyError);
}

/// The end of a body that a writer holds while the other end is being read. Dropping it without
/// [`finish`](Self::finish) abandons the body: its reader gets an error.
pub struct BodyWriter {
    to: To,
    trailers: Option<Box<HeaderMap>>,
}

enum To {
    Reader(mpsc::Sender<Piece>),
    Sink(Box<dyn BodySink>),
    /// What was to be spliced in has failed, and so has the whole.
    Nowhere,
}

impl std::fmt::Debug for BodyWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let to = match &self.to {
            To::Reader(_) => "reader",
            To::Sink(_) => "sink",
            To::Nowhere => "nowhere",
        };
        f.debug_struct("BodyWriter").field("to", &to).finish_non_exhaustive()
    }
}

/// Nobody reads the body any more.
#[derive(Debug, thiserror::Error)]
#[error("nobody reads this body any more")]
pub struct ReaderGone;

impl BodyWriter {
    /// A writer into a place that keeps what is written.
    pub fn into_sink(sink: Box<dyn BodySink>) -> Self {
        Self { to: To::Sink(sink), trailers: None }
    }

    /// Writes, waiting while the reader is behind.
    pub async fn write(&mut self, bytes: Bytes) -> Result<(), ReaderGone> {
        if bytes.is_empty() {
            return Ok(());
        }
        match &mut self.to {
            To::Reader(sender) => sender.send(Piece::Bytes(bytes)).await.map_err(|_| ReaderGone),
            To::Sink(sink) => sink.push(bytes, false).await,
            To::Nowhere => Err(ReaderGone),
        }
    }

    /// Splices a whole body in; it flows as the reader takes it.
    pub async fn append(&mut self, mut body: Body) -> Result<(), ReaderGone> {
        let mut sink = match std::mem::replace(&mut self.to, To::Nowhere) {
            To::Reader(sender) => {
                let sent = sender.send(Piece::Body(body)).await.map_err(|_| ReaderGone);
                self.to = To::Reader(sender);
                return sent;
            }
            To::Sink(sink) => sink,
            To::Nowhere => return Err(ReaderGone),
        };
        // What is here goes in at once, so that who looks next sees it.
        let mut first = None;
        loop {
            match body.try_chunk() {
                Poll::Ready(Ok(Some(bytes))) => {
                    // A copy: it is kept for longer than whoever made it may be charged for.
                    let bytes = Bytes::copy_from_slice(&bytes);
                    if !sink.has_room(bytes.len()) {
                        first = Some(bytes);
                        break;
                    }
                    sink.push(bytes, false).await?;
                }
                Poll::Ready(Ok(None)) => {
                    if let Some(more) = body.take_trailers() {
                        self.trailers_mut().extend(*more);
                    }
                    self.to = To::Sink(sink);
                    return Ok(());
                }
                Poll::Ready(Err(error)) => {
                    sink.fail(error);
                    return Ok(());
                }
                Poll::Pending => break,
            }
        }
        // The rest comes when it comes; what is written behind it waits for it.
        let writer = body.open();
        self.to = writer.to;
        if let Some(more) = writer.trailers {
            self.trailers_mut().extend(*more);
        }
        tokio::spawn(pour(first, body, sink));
        Ok(())
    }

    /// The trailers that will follow the end, to be added to.
    pub fn trailers_mut(&mut self) -> &mut HeaderMap {
        self.trailers.get_or_insert_default()
    }

    /// The proper end.
    pub async fn finish(self) -> Result<(), ReaderGone> {
        match self.to {
            To::Reader(sender) => sender.send(Piece::End(self.trailers)).await.map_err(|_| ReaderGone),
            To::Sink(sink) => {
                sink.end(self.trailers);
                Ok(())
            }
            To::Nowhere => Err(ReaderGone),
        }
    }

    /// Whether a write would be taken at once.
    pub fn is_ready(&self) -> bool {
        match &self.to {
            To::Reader(sender) => sender.capacity() > 0 || sender.is_closed(),
            To::Sink(_) | To::Nowhere => true,
        }
    }

    /// Waits until a write would be taken at once. Cancel-safe.
    pub async fn ready(&self) {
        if let To::Reader(sender) = &self.to {
            // An error means nobody reads: a write would return at once.
            let _ = sender.reserve().await;
        }
    }
}

/// Moves all of a body into a place that keeps it.
async fn pour(first: Option<Bytes>, mut body: Body, mut sink: Box<dyn BodySink>) {
    if let Some(bytes) = first
        && sink.push(bytes, true).await.is_err()
    {
        return;
    }
    loop {
        match body.chunk().await {
            Ok(Some(bytes)) => {
                if sink.push(bytes, true).await.is_err() {
                    return;
                }
            }
            Ok(None) => return sink.end(body.take_trailers()),
            Err(error) => return sink.fail(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use ::http::HeaderValue;

    use super::*;

    async fn all(mut body: Body) -> Result<Vec<u8>, BodyError> {
        let mut out = Vec::new();
        while let Some(bytes) = body.chunk().await? {
            out.extend_from_slice(&bytes);
        }
        Ok(out)
    }

    #[tokio::test]
    async fn splices_in_order() {
        let mut body = Body::from(Bytes::from_static(b"b"));
        body.push_front(Bytes::from_static(b"a"));
        body.append(Body::from(Bytes::from_static(b"cd")));
        assert_eq!(body.known_length(), Some(4));
        assert_eq!(body.read(1).await.expect("reads"), "a");
        assert_eq!(all(body).await.expect("reads"), b"bcd");
    }

    #[tokio::test]
    async fn a_writer_is_read_as_it_writes() {
        let mut body = Body::from(Bytes::from_static(b"head "));
        let mut writer = body.open();
        assert_eq!(body.known_length(), None);
        assert!(body.is_ready());
        assert_eq!(body.chunk().await.expect("reads").expect("some"), "head ");
        assert!(!body.is_ready());
        writer.write(Bytes::from_static(b"one ")).await.expect("is read");
        assert!(body.is_ready());
        let mut inner = Body::from(Bytes::from_static(b"two "));
        let mut inner_writer = inner.open();
        writer.append(inner).await.expect("is read");
        inner_writer.write(Bytes::from_static(b"three ")).await.expect("is read");
        inner_writer.finish().await.expect("is read");
        writer.write(Bytes::from_static(b"four")).await.expect("is read");
        writer.finish().await.expect("is read");
        assert_eq!(all(body).await.expect("reads"), b"one two three four");
    }

    #[tokio::test]
    async fn trailers_are_there_when_all_is_read() {
        let mut body = Body::from(Bytes::from_static(b"a"));
        body.trailers_mut().insert("x-one", HeaderValue::from_static("1"));
        assert_eq!((body.known_length(), body.framed_length()), (Some(1), None));
        let mut writer = body.open();
        writer.trailers_mut().append("x-two", HeaderValue::from_static("2"));
        assert_eq!(body.trailers(), None);
        writer.finish().await.expect("is read");
        let mut whole = Body::from(Bytes::from_static(b"b"));
        whole.trailers_mut().append("x-two", HeaderValue::from_static("0"));
        whole.append(body);
        assert!(!whole.is_read());
        while whole.chunk().await.expect("reads").is_some() {}
        assert!(whole.is_read());
        let trailers = whole.trailers().expect("trailers");
        assert_eq!(trailers.get_all("x-two").iter().collect::<Vec<_>>(), ["0", "2"]);
        assert_eq!(trailers["x-one"], "1");
    }

    #[tokio::test]
    async fn an_abandoned_body_is_an_error_for_good() {
        let mut body = Body::empty();
        let mut writer = body.open();
        writer.write(Bytes::from_static(b"x")).await.expect("is read");
        drop(writer);
        assert_eq!(body.chunk().await.expect("reads").expect("some"), "x");
        assert!(matches!(body.chunk().await, Err(BodyError::Incomplete(_))));
        assert!(body.is_ready());
        assert!(matches!(body.chunk().await, Err(BodyError::Incomplete(_))));
    }

    #[tokio::test]
    async fn a_writer_waits_for_its_reader_and_learns_that_it_left() {
        let mut body = Body::empty();
        let mut writer = body.open();
        for _ in 0..CHANNEL_DEPTH {
            assert!(writer.is_ready());
            writer.write(Bytes::from_static(b"x")).await.expect("is read");
        }
        assert!(!writer.is_ready());
        drop(body);
        assert!(writer.is_ready());
        assert!(writer.write(Bytes::from_static(b"x")).await.is_err());
    }
}
