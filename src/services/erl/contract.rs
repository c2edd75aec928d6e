//! What every implementation of [`Rates`] does.

use std::sync::Arc;
use std::time::Duration;

use super::{Check, Rates};
use crate::telemetry::clock;

const MINUTE: Duration = Duration::from_secs(60);

/// Runs the whole suite on counters that nobody has used.
pub async fn check(rates: Arc<dyn Rates>) {
    boxes(&*rates).await;
    limits(&*rates).await;
    counts(rates).await;
}

async fn boxes(rates: &dyn Rates) {
    for entry in ["a", "", "{x}", "}", "a:b", "ä", &"e".repeat(1024)] {
        assert_eq!(rates.is_penalized("box", entry).await, Ok(false));
        rates.penalize("box", entry, MINUTE).await.expect("penalizes");
        assert_eq!(rates.is_penalized("box", entry).await, Ok(true));
        assert_eq!(rates.is_penalized("other", entry).await, Ok(false));
    }
    assert_eq!(rates.is_penalized("box", "b").await, Ok(false));
    rates.penalize("box", "brief", Duration::from_millis(50)).await.expect("penalizes");
    while rates.is_penalized("box", "brief").await.expect("asks") {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn limits(rates: &dyn Rates) {
    let check = |entry, delta, window| Check { counter: "rc", entry, delta, window, limit: 10, penalty_box: "pb", ttl: MINUTE };
    // The limit is an average per second over the window: just above it is too much.
    for (entry, window) in [("one", 1), ("ten", 10), ("sixty", 60)] {
        assert_eq!(rates.check(check(entry, 10 * window, window)).await, Ok(false), "{window} s");
        assert_eq!(rates.is_penalized("pb", entry).await, Ok(false));
        assert_eq!(rates.check(check(entry, 10 * window + 1, window)).await, Ok(true), "{window} s");
        assert_eq!(rates.is_penalized("pb", entry).await, Ok(true));
        assert_eq!(rates.check(check(entry, 0, window)).await, Ok(true), "it stays in the box");
    }
    assert_eq!(rates.check(check("other", 1, 1)).await, Ok(false));
    rates.penalize("pb", "boxed", MINUTE).await.expect("penalizes");
    assert_eq!(rates.check(check("boxed", 1, 1)).await, Ok(true), "whoever put it there");
    assert_eq!(rates.count("rc", "boxed", 60).await, Ok(1), "what is limited is counted");
}

/// Four writers for three seconds; every count asked for must be within 5 % of an exact one.
async fn counts(rates: Arc<dyn Rates>) {
    let begun = clock::now();
    let writers: Vec<_> = (0..4)
        .map(|_| {
            let rates = rates.clone();
            tokio::spawn(async move {
                let mut written = Vec::new();
                while begun.elapsed() < Duration::from_secs(3) {
                    rates.increment("many", "entry", 1).await.expect("counts");
                    written.push(clock::now());
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
                written
            })
        })
        .collect();
    let mut written = Vec::new();
    for writer in writers {
        written.extend(writer.await.expect("ends"));
    }
    let now = clock::now();
    for window in [1, 10, 60] {
        let rate = f64::from(rates.rate("many", "entry", window).await.expect("asks"));
        let count = written.iter().filter(|at| now.duration_since(**at) <= Duration::from_secs(window.into())).count();
        let exact = count as f64 / f64::from(window);
        // A rate is a whole number.
        assert!((rate - exact).abs() <= (exact * 0.05).max(0.5), "{window} s: {rate} instead of {exact}");
    }
    // Buckets of a minute hold all of it, but for what a change of the oldest bucket takes.
    let count = rates.count("many", "entry", 60).await.expect("asks");
    assert_eq!(count as usize, written.len(), "an exact count");
    assert_eq!(rates.count("many", "nobody", 60).await, Ok(0));
}
