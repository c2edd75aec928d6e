//! What a backend sends over HTTP/2 that is of no use to anybody: frames of streams that are over, interim responses, pings.
//! A connection may have some of it, and ends when it has more: nobody's request would pay for reading it.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use pingora::protocols::Stream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes that are read at a stretch; others of the thread have their turn then.
const STRETCH: usize = 128 << 10;

/// What one byte of a body may cost with its frame, in bytes.
const FRAMED: u64 = 16;

/// What may come for a piece of a body that is sent, beside a part of its bytes.
const ANSWERED: u64 = 64;

/// What may be of no use in a second, in bytes, and in all beyond that.
const IDLE: u64 = 64 << 10;
const MOST: i64 = 1 << 20;

/// What is read of a connection, and what for, in bytes.
#[derive(Debug, Default)]
pub(super) struct Use {
    read: AtomicU64,
    useful: AtomicU64,
}

impl Use {
    /// An exchange begins, in which so much may come that nobody takes.
    pub(super) fn begins(&self, bytes: u64) {
        self.useful.fetch_add(bytes, Ordering::Relaxed);
    }

    /// So much of a body is sent: whoever takes it says so, for the connection and for the stream (RFC 9113 §6.9).
    pub(super) fn sent(&self, bytes: usize) {
        self.useful.fetch_add(ANSWERED + bytes as u64 / FRAMED, Ordering::Relaxed);
    }

    /// Somebody has had so much of a body.
    pub(super) fn taken(&self, bytes: usize) {
        self.useful.fetch_add(bytes as u64 * FRAMED, Ordering::Relaxed);
    }
}

/// Looks at it once a second.
#[derive(Debug, Default)]
pub(super) struct Watch {
    read: u64,
    useful: u64,
    debt: i64,
}

impl Watch {
    /// Whether more has come than is of use. `most` is what all exchanges together may have before somebody takes it, in bytes.
    pub(super) fn is_flooded(&mut self, connection: &Use, most: u64) -> bool {
        let (read, useful) = (connection.read.load(Ordering::Relaxed), connection.useful.load(Ordering::Relaxed));
        let cost = i64::try_from(read - self.read).unwrap_or(i64::MAX);
        let worth = i64::try_from(useful - self.useful + IDLE).unwrap_or(i64::MAX);
        (self.read, self.useful) = (read, useful);
        let floor = i64::try_from(most).unwrap_or(i64::MAX);
        self.debt = self.debt.saturating_add(cost).saturating_sub(worth).max(-floor);
        self.debt > MOST
    }
}

/// A connection whose bytes are counted, and which gives others of its thread a turn.
pub(super) struct Counted {
    stream: Stream,
    counts: Arc<Use>,
    stretch: usize,
}

impl Counted {
    pub(super) fn new(stream: Stream, counts: Arc<Use>) -> Self {
        Self { stream, counts, stretch: 0 }
    }
}

impl AsyncRead for Counted {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.stretch >= STRETCH {
            self.stretch = 0;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let before = buf.filled().len();
        let Poll::Ready(read) = Pin::new(&mut self.stream).poll_read(cx, buf) else {
            self.stretch = 0;
            return Poll::Pending;
        };
        let bytes = buf.filled().len() - before;
        self.stretch += bytes;
        self.counts.read.fetch_add(bytes as u64, Ordering::Relaxed);
        Poll::Ready(read)
    }
}

impl AsyncWrite for Counted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_of_no_use_has_an_end() {
        let (counts, mut watch) = (Use::default(), Watch::default());
        let mut second = |read: u64, taken: usize| {
            counts.read.fetch_add(read, Ordering::Relaxed);
            counts.taken(taken);
            watch.is_flooded(&counts, 4 << 20)
        };
        // A byte a frame; a window's worth ahead of who takes it; pings for days.
        assert!((0..100).all(|_| !second(10 << 20, 1 << 20)));
        assert!(!second(3 << 20, 0) && !second(0, 3 << 20));
        assert!((0..1000).all(|_| !second(IDLE, 0)));
        // Two frames of 13 bytes for each that is sent, of one byte or of 16 KiB.
        for (pieces, bytes) in [(1 << 20, 1), (100, 1 << 20)] {
            (0..pieces).for_each(|_| counts.sent(bytes));
            counts.read.fetch_add(pieces * (bytes as u64).div_ceil(16 << 10) * 26, Ordering::Relaxed);
        }
        assert!(!watch.is_flooded(&counts, 4 << 20));
        let mut second = |read: u64, taken: usize| {
            counts.read.fetch_add(read, Ordering::Relaxed);
            counts.taken(taken);
            watch.is_flooded(&counts, 4 << 20)
        };
        // It had some credit.
        assert!((0..5).all(|_| !second(1 << 20, 0)) && second(1 << 20, 0));
    }
}
