//! The one place that reads the clocks.

use std::cell::Cell;
use std::sync::LazyLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, clock_gettime};

/// How old a reading of a thread's CPU clock may be where "about now" will do.
pub const LATELY: Duration = Duration::from_millis(1);

thread_local! {
    /// The last reading of this thread's CPU clock, and when it was.
    static READING: Cell<Option<(Instant, Duration)>> = const { Cell::new(None) };
}

/// Monotonic time.
pub fn now() -> Instant {
    #[expect(clippy::disallowed_methods, reason = "the one place")]
    Instant::now()
}

/// The processor's own clock, where it can be trusted.
static CLOCK: LazyLock<quanta::Clock> = LazyLock::new(quanta::Clock::new);

/// A reading of the cheapest clock there is; [`between`] says what two of them mean.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticks(pub u64);

/// Monotonic time, in ticks.
pub fn ticks() -> Ticks {
    Ticks(CLOCK.raw())
}

/// The time from one reading to another.
pub fn between(from: Ticks, to: Ticks) -> Duration {
    CLOCK.delta(from.0, to.0.max(from.0))
}

/// How many ticks a second has, nearly.
pub fn ticks_per_second() -> f64 {
    let sample = 1 << 32;
    sample as f64 / CLOCK.delta(0, sample).as_secs_f64()
}

/// Time since the Unix epoch.
pub fn unix() -> Duration {
    wall().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// What a clock on the wall shows.
pub fn wall() -> SystemTime {
    #[expect(clippy::disallowed_methods, reason = "the one place")]
    SystemTime::now()
}

/// CPU time of this thread since it began: time for which the kernel had it wait for a processor is
/// not in it. A system call.
pub fn thread_cpu() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    let reading = Duration::try_from(time).unwrap_or_default();
    READING.set(Some((now(), reading)));
    reading
}

/// As [`thread_cpu`], at `now` or up to [`LATELY`] before it: on a busy thread mostly without the
/// system call.
pub fn thread_cpu_lately(now: Instant) -> Duration {
    match READING.get() {
        Some((at, reading)) if now.duration_since(at) < LATELY => reading,
        _ => thread_cpu(),
    }
}
