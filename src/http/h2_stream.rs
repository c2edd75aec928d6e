//! The two directions of an HTTP/2 stream, as bodies (RFC 9113 §8.1).

use std::future::poll_fn;
use std::time::Duration;

use ::http::HeaderMap;
use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream};
use pingora::prelude::timeout;

use super::body::{Body, BodyError};
use super::framing::{self, BodyFraming};

/// Time for the connection to write what is queued, before a stream is reset.
const FLUSH: Duration = Duration::from_millis(20);

/// Why a message is not whole.
#[derive(Debug, thiserror::Error)]
pub enum Unsent {
    /// The peer has ended the stream, or the connection is gone.
    #[error("the stream is gone: {0}")]
    Gone(String),
    /// The peer opened no window for too long.
    #[error("the peer took nothing for {0:?}")]
    Timeout(Duration),
    /// The body failed before its end.
    #[error(transparent)]
    Body(#[from] BodyError),
    /// The body is not as long as its `Content-Length`.
    #[error("the body is not as long as content-length says")]
    Length,
}

impl Unsent {
    /// Its name in traces.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Gone(_) => "client_gone",
            Self::Timeout(_) => "client_timeout",
            Self::Body(_) => "body",
            Self::Length => "body_length",
        }
    }
}

/// What comes on a stream.
pub enum Piece {
    /// Never empty.
    Bytes(Bytes),
    /// The end, and the trailers if there are any.
    End(Option<Box<HeaderMap>>),
}

/// The next piece; the peer may send as much again. Cancel-safe.
pub async fn read(stream: &mut RecvStream) -> Result<Piece, BodyError> {
    let incomplete = |error: h2::Error| BodyError::Incomplete(error.to_string());
    loop {
        match stream.data().await {
            Some(Ok(bytes)) if bytes.is_empty() => {}
            Some(Ok(bytes)) => {
                stream.flow_control().release_capacity(bytes.len()).map_err(incomplete)?;
                return Ok(Piece::Bytes(bytes));
            }
            Some(Err(error)) => return Err(incomplete(error)),
            None => {
                let trailers = stream.trailers().await.map_err(incomplete)?.map(|mut trailers| {
                    framing::strip_from_trailers(&mut trailers);
                    Box::new(trailers)
                });
                return Ok(Piece::End(trailers));
            }
        }
    }
}

/// Writes a body and its end; returns its bytes. Whatever goes wrong, the peer sees that it is not whole. `patience`
/// bounds each wait for the peer; `tell` hears of each piece, how many bytes it has.
pub async fn write(
    stream: &mut SendStream<Bytes>,
    framing: BodyFraming,
    body: &mut Body,
    patience: Duration,
    tell: &(dyn Fn(usize) + Send + Sync),
) -> Result<u64, Unsent> {
    let sent = write_pieces(stream, framing, body, patience, tell).await;
    if let Err(error) = &sent {
        if matches!(error, Unsent::Body(_) | Unsent::Length) {
            // A reset throws away what is queued; the peer is to have what there was.
            tokio::time::sleep(FLUSH).await;
        }
        stream.send_reset(match error {
            Unsent::Body(_) | Unsent::Length => Reason::INTERNAL_ERROR,
            Unsent::Gone(_) | Unsent::Timeout(_) => Reason::CANCEL,
        });
    }
    sent
}

async fn write_pieces(
    stream: &mut SendStream<Bytes>,
    framing: BodyFraming,
    body: &mut Body,
    patience: Duration,
    tell: &(dyn Fn(usize) + Send + Sync),
) -> Result<u64, Unsent> {
    let mut written = 0;
    let gone = |error: h2::Error| Unsent::Gone(error.to_string());
    let mut left = match framing {
        BodyFraming::Length(length) => Some(length),
        BodyFraming::None | BodyFraming::Chunked | BodyFraming::UntilClose => None,
    };
    loop {
        let chunk = tokio::select! {
            biased;
            chunk = body.chunk() => chunk?,
            reset = poll_fn(|cx| stream.poll_reset(cx)) => {
                return Err(Unsent::Gone(reset.map_or_else(|error| error.to_string(), |reason| reason.to_string())));
            }
        };
        let Some(mut chunk) = chunk else { break };
        written += chunk.len() as u64;
        if let Some(left) = &mut left {
            *left = left.checked_sub(chunk.len() as u64).ok_or(Unsent::Length)?;
        }
        let is_last = body.framed_length() == Some(0) && left.is_none_or(|left| left == 0);
        while !chunk.is_empty() {
            stream.reserve_capacity(chunk.len());
            while stream.capacity() == 0 {
                let more = timeout(patience, poll_fn(|cx| stream.poll_capacity(cx))).await.map_err(|_| Unsent::Timeout(patience))?;
                more.ok_or_else(|| Unsent::Gone("closed".to_owned()))?.map_err(gone)?;
            }
            let piece = chunk.split_to(stream.capacity().min(chunk.len()));
            tell(piece.len());
            stream.send_data(piece, is_last && chunk.is_empty()).map_err(gone)?;
        }
        if is_last {
            return Ok(written);
        }
    }
    if left.is_some_and(|left| left > 0) {
        return Err(Unsent::Length);
    }
    let trailers = body.take_trailers().map(|mut trailers| {
        framing::strip_from_trailers(&mut trailers);
        trailers
    });
    match trailers {
        Some(trailers) if !trailers.is_empty() => stream.send_trailers(*trailers).map_err(gone)?,
        _ => stream.send_data(Bytes::new(), true).map_err(gone)?,
    }
    Ok(written)
}
