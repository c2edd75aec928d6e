//! The one place that reads the clock.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Monotonic time.
pub fn now() -> Instant {
    #[expect(clippy::disallowed_methods, reason = "the one place")]
    Instant::now()
}

/// Time since the Unix epoch.
pub fn unix() -> Duration {
    #[expect(clippy::disallowed_methods, reason = "the one place")]
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}
