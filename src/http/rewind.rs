//! A connection from which something has been read already, and whose first bytes can be looked at.

use std::io::{IoSlice, Result};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The first bytes of a connection, while they are of interest.
#[derive(Clone, Debug)]
pub struct Recorded(Arc<Mutex<Option<Vec<u8>>>>);

impl Recorded {
    /// Takes them; nothing is recorded from here on.
    pub fn take(&self) -> Vec<u8> {
        self.0.lock().take().unwrap_or_default()
    }
}

/// Gives `read` first, then what comes on `io`.
#[derive(Debug)]
pub struct Rewound<T> {
    read: Bytes,
    io: T,
    recorded: Recorded,
    limit: usize,
    recording: bool,
}

impl<T> Rewound<T> {
    /// Also records the first `limit` bytes, `read` included.
    pub fn new(read: Bytes, io: T, limit: usize) -> Self {
        Self { read, io, recorded: Recorded(Arc::new(Mutex::new(Some(Vec::new())))), limit, recording: true }
    }

    /// What has been recorded so far, now and later.
    pub fn recorded(&self) -> Recorded {
        self.recorded.clone()
    }

    fn record(&mut self, bytes: &[u8]) {
        if !self.recording {
            return;
        }
        let mut recorded = self.recorded.0.lock();
        match recorded.as_mut().filter(|recorded| recorded.len() < self.limit) {
            Some(recorded) => {
                let room = self.limit - recorded.len();
                recorded.extend_from_slice(&bytes[..bytes.len().min(room)]);
            }
            None => self.recording = false,
        }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Rewound<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<Result<()>> {
        let this = &mut *self;
        let before = buf.filled().len();
        let polled = if this.read.is_empty() {
            Pin::new(&mut this.io).poll_read(cx, buf)
        } else {
            let length = this.read.len().min(buf.remaining());
            buf.put_slice(&this.read[..length]);
            this.read.advance(length);
            Poll::Ready(Ok(()))
        };
        this.record(&buf.filled()[before..]);
        polled
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Rewound<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;

    use super::*;

    #[tokio::test]
    async fn what_was_read_comes_first() {
        let mut io = Rewound::new(Bytes::from_static(b"abc"), &b"defgh"[..], 6);
        let recorded = io.recorded();
        let mut all = String::new();
        io.read_to_string(&mut all).await.expect("reads");
        assert_eq!((all.as_str(), recorded.take().as_slice()), ("abcdefgh", &b"abcdef"[..]));
        assert!(recorded.take().is_empty());
    }
}
