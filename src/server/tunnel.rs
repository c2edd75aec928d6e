//! Bytes both ways between a client and the backend that has taken it over, until both sides have ended, one has failed, or there is a
//! reason to end it: nothing came either way for long, one side has ended and the other does not follow, the process stops, or the service is gone.

use std::fmt;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::time::MissedTickBehavior;

use crate::telemetry::clock;

/// Bytes that are carried at once, in each direction.
const PIECE: usize = 8 << 10;

/// How often it is looked whether there is a reason to end.
const LOOK: Duration = Duration::from_secs(1);

/// How long it may go on that should end, while there is something under way.
const AT_LAST: Duration = Duration::from_secs(10);

/// When a tunnel ends that its ends do not.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// How long nothing may come either way.
    pub idle: Duration,
    /// How long one side may go on that hears nothing from the other, which has ended.
    pub half: Duration,
}

/// Why it has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Both sides have.
    Both,
    /// Nothing came.
    Idle,
    /// One side has, and nothing came from the other.
    Half,
    /// The process stops, or the service is gone; nothing came for a moment.
    Over,
}

impl End {
    /// What metrics call it, if it is a bound that was passed.
    pub fn reason(self) -> Option<&'static str> {
        match self {
            Self::Both | Self::Over => None,
            Self::Idle => Some("tunnel_idle"),
            Self::Half => Some("tunnel_half_closed"),
        }
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Both => "both sides have ended",
            Self::Idle => "nothing came for too long",
            Self::Half => "one side had ended, and nothing came from the other",
            Self::Over => "the process stops, or the service is gone",
        })
    }
}

/// What was carried.
#[derive(Debug, Default)]
pub struct Carried {
    /// Bytes from the client.
    up: AtomicU64,
    /// Bytes to the client.
    down: AtomicU64,
}

impl Carried {
    /// From the client, and to it.
    pub fn both(&self) -> (u64, u64) {
        (self.up.load(Ordering::Relaxed), self.down.load(Ordering::Relaxed))
    }
}

/// Carries bytes. `over` says whether it should end as soon as nothing is under way.
pub async fn carry<A, B>(client: A, backend: B, bounds: Bounds, carried: &Carried, mut over: impl FnMut() -> bool) -> io::Result<End>
where
    A: AsyncRead + AsyncWrite + Clone + Unpin,
    B: AsyncRead + AsyncWrite + Clone + Unpin,
{
    let half = AtomicBool::new(false);
    let up = pump(client.clone(), backend.clone(), &carried.up, &half);
    let down = pump(backend, client, &carried.down, &half);
    let mut both = std::pin::pin!(async { tokio::try_join!(up, down) });
    let mut looks = tokio::time::interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut known, mut since) = (carried.both(), clock::now());
    let mut over_since: Option<Instant> = None;
    loop {
        tokio::select! {
            biased;
            ended = &mut both => return ended.map(|_| End::Both),
            _ = looks.tick() => {}
        }
        let (now, all) = (clock::now(), carried.both());
        if over() && now.duration_since(*over_since.get_or_insert(now)) >= AT_LAST {
            return Ok(End::Over);
        }
        if all != known {
            (known, since) = (all, now);
            continue;
        }
        let quiet = now.duration_since(since);
        if quiet >= bounds.idle {
            return Ok(End::Idle);
        }
        if half.load(Ordering::Relaxed) && quiet >= bounds.half {
            return Ok(End::Half);
        }
        if quiet >= LOOK / 2 && over_since.is_some() {
            return Ok(End::Over);
        }
    }
}

/// One direction. What is counted has been taken by the other side.
async fn pump(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, carried: &AtomicU64, half: &AtomicBool) -> io::Result<()> {
    let mut piece = vec![0; PIECE];
    loop {
        let read = from.read(&mut piece).await?;
        if read == 0 {
            half.store(true, Ordering::Relaxed);
            return to.shutdown().await;
        }
        to.write_all(&piece[..read]).await?;
        to.flush().await?;
        carried.fetch_add(read as u64, Ordering::Relaxed);
    }
}
