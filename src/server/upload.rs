//! A request body on its way from the client to whoever the guest gives it to. Nothing is read
//! from the client before it is asked for, then at most one piece ahead.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ::http::HeaderMap;
use async_trait::async_trait;
use bytes::Bytes;
use pingora::prelude::timeout;
use tokio::io::AsyncWriteExt;
use tokio::sync::{Mutex, Notify, mpsc};

use crate::http::io::SharedIo;
use crate::http::request::{ReadError, RequestReader};
use crate::http::{Body, BodyError, BodyStream};
use crate::telemetry::Metrics;

/// What comes from the client.
enum Piece {
    Bytes(Bytes),
    End(Option<Box<HeaderMap>>),
}

/// The connection's write half, which a `100 Continue` and the response share.
pub struct Writer {
    io: Mutex<SharedIo>,
    answered: AtomicBool,
}

impl Writer {
    /// The write half of `io`.
    pub fn new(io: SharedIo) -> Self {
        Self { io: Mutex::new(io), answered: AtomicBool::new(false) }
    }

    /// The write half for the response; nothing else is written from here on.
    pub async fn for_response(&self) -> tokio::sync::MutexGuard<'_, SharedIo> {
        self.answered.store(true, Ordering::Relaxed);
        self.io.lock().await
    }

    /// Sends an informational head, unless the response has begun.
    pub async fn send_early(&self, head: &[u8], patience: Duration) -> std::io::Result<()> {
        let send = async {
            let mut io = self.io.lock().await;
            io.write_all(head).await?;
            io.flush().await
        };
        timeout(patience, send).await.unwrap_or(Err(std::io::ErrorKind::TimedOut.into()))
    }

    async fn send_continue(&self) -> std::io::Result<()> {
        let mut io = self.io.lock().await;
        if self.answered.load(Ordering::Relaxed) {
            return Ok(());
        }
        io.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await?;
        io.flush().await
    }
}

/// The connection's side of a body.
pub struct Upload {
    pieces: mpsc::Sender<Result<Piece, BodyError>>,
    asked: Arc<Notify>,
    begun: Arc<AtomicBool>,
    expects_continue: bool,
    patience: Duration,
    metrics: Arc<Metrics>,
}

/// A request body of `length` bytes, if the client said so, and the side that fills it.
pub fn channel(length: Option<u64>, expects_continue: bool, patience: Duration, metrics: &Arc<Metrics>) -> (Upload, Body) {
    let (pieces, receiver) = mpsc::channel(1);
    let asked = Arc::new(Notify::new());
    let body = ClientBody { pieces: receiver, asked: Some(asked.clone()), remaining: length, trailers: None };
    (Upload { pieces, asked, begun: Arc::default(), expects_continue, patience, metrics: metrics.clone() }, Body::stream(Box::new(body)))
}

impl Upload {
    /// Tells whether something of the body has been asked for.
    pub fn begun(&self) -> Arc<AtomicBool> {
        self.begun.clone()
    }

    /// Reads from the client as the body is read, until its end or until nobody wants more. After a
    /// body that cannot be read to its end nobody knows where the next request begins: `keep` is
    /// made false then.
    pub async fn run(self, reader: &mut RequestReader<SharedIo>, writer: &Writer, keep: &AtomicBool) {
        tokio::select! {
            () = self.asked.notified() => {}
            () = self.pieces.closed() => return,
        }
        self.begun.store(true, Ordering::Relaxed);
        if self.expects_continue && writer.send_continue().await.is_err() {
            return;
        }
        loop {
            let Ok(slot) = self.pieces.reserve().await else { return };
            let piece = match timeout(self.patience, reader.chunk()).await {
                Ok(Ok(Some(bytes))) => {
                    self.metrics.request_bytes.inc_by(bytes.len() as u64);
                    Ok(Piece::Bytes(bytes))
                }
                Ok(Ok(None)) => {
                    slot.send(Ok(Piece::End(reader.trailers())));
                    return;
                }
                Ok(Err(error @ (ReadError::Malformed(_) | ReadError::Status | ReadError::TooLarge))) => {
                    self.metrics.refusals.with_label_values(&["bad_body"]).inc();
                    Err(BodyError::Malformed(error.to_string()))
                }
                Ok(Err(error @ (ReadError::Closed { .. } | ReadError::Io { .. }))) => Err(BodyError::Incomplete(error.to_string())),
                Err(_) => {
                    self.metrics.refusals.with_label_values(&["body_timeout"]).inc();
                    Err(BodyError::Timeout(format!("the client sent nothing for {:?}", self.patience)))
                }
            };
            let failed = piece.is_err();
            if failed {
                keep.store(false, Ordering::Relaxed);
            }
            slot.send(piece);
            if failed {
                return;
            }
        }
    }
}

/// The guest's side.
struct ClientBody {
    pieces: mpsc::Receiver<Result<Piece, BodyError>>,
    asked: Option<Arc<Notify>>,
    remaining: Option<u64>,
    trailers: Option<Box<HeaderMap>>,
}

#[async_trait]
impl BodyStream for ClientBody {
    async fn chunk(&mut self) -> Result<Option<Bytes>, BodyError> {
        if let Some(asked) = self.asked.take() {
            asked.notify_one();
        }
        match self.pieces.recv().await.transpose()? {
            Some(Piece::Bytes(bytes)) => {
                self.remaining = self.remaining.map(|left| left.saturating_sub(bytes.len() as u64));
                Ok(Some(bytes))
            }
            Some(Piece::End(trailers)) => {
                self.trailers = trailers;
                Ok(None)
            }
            None => Err(BodyError::Incomplete("its connection is gone".to_owned())),
        }
    }

    fn remaining(&self) -> Option<u64> {
        self.remaining
    }

    fn trailers(&mut self) -> Option<Box<HeaderMap>> {
        self.trailers.take()
    }
}
