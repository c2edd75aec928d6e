//! Edge rate limiting: rate counters and penalty boxes.

pub mod memory;
pub mod redis;

#[cfg(test)]
pub mod contract;

use std::time::Duration;

use async_trait::async_trait;

/// Longest name of a counter, a box or an entry, in bytes (fastly:compute WIT, `erl`).
pub const MAX_NAME: usize = 1024;

/// Windows of rates, in seconds.
pub const WINDOWS: [u32; 3] = [1, 10, 60];

/// Why an operation did not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// It cannot be asked for.
    #[error("{0}")]
    Invalid(&'static str),
    /// The counts cannot be had now.
    #[error("rate counters cannot be used: {0}")]
    Unavailable(String),
}

/// An increment, and what is to be found out by it.
#[derive(Clone, Copy, Debug)]
pub struct Check<'a> {
    /// The rate counter.
    pub counter: &'a str,
    /// What is counted.
    pub entry: &'a str,
    /// By how much.
    pub delta: u32,
    /// Seconds: one of [`WINDOWS`].
    pub window: u32,
    /// Highest average per second over the window.
    pub limit: u32,
    /// The penalty box.
    pub penalty_box: &'a str,
    /// How long an entry above the limit stays in it.
    pub ttl: Duration,
}

/// Rate counters and penalty boxes of a service. Rates slide: what is older than the window counts no more, to a tenth of a
/// second in the shortest window and to a second in the others, the oldest part in proportion. Counts are of buckets of ten
/// seconds that begin with the clock's, the one that has begun included, as in production.
#[async_trait]
pub trait Rates: Send + Sync + 'static {
    /// Counts, puts the entry into the box if it is above the limit, and says whether it is in the box.
    async fn check(&self, check: Check<'_>) -> Result<bool, Error>;

    /// Counts.
    async fn increment(&self, counter: &str, entry: &str, delta: u32) -> Result<(), Error>;

    /// The average per second over a window of so many seconds.
    async fn rate(&self, counter: &str, entry: &str, window: u32) -> Result<u32, Error>;

    /// How much was counted in the buckets of so many seconds, at most 60.
    async fn count(&self, counter: &str, entry: &str, seconds: u32) -> Result<u32, Error>;

    /// Puts an entry into a box.
    async fn penalize(&self, penalty_box: &str, entry: &str, ttl: Duration) -> Result<(), Error>;

    /// Whether an entry is in a box.
    async fn is_penalized(&self, penalty_box: &str, entry: &str) -> Result<bool, Error>;
}

/// A time in a box: whole minutes, 1 to 60.
pub fn ttl(seconds: u32) -> Result<Duration, Error> {
    match seconds / 60 {
        minutes @ 1..=60 => Ok(Duration::from_secs(u64::from(minutes) * 60)),
        _ => Err(Error::Invalid("an entry is in a penalty box for one minute to an hour")),
    }
}

/// A window of rates.
pub fn window(seconds: u32) -> Result<u32, Error> {
    if WINDOWS.contains(&seconds) { Ok(seconds) } else { Err(Error::Invalid("a window has 1, 10 or 60 seconds")) }
}

/// How far back counts are asked for.
pub fn duration(seconds: u32) -> Result<u32, Error> {
    if (10..=60).contains(&seconds) && seconds.is_multiple_of(10) {
        Ok(seconds)
    } else {
        Err(Error::Invalid("counts are of 10, 20, 30, 40, 50 or 60 seconds"))
    }
}
