//! Shares of requests, spread evenly: of those that reach a backend, of faults on purpose, of a generation on trial.

use std::sync::atomic::{AtomicU64, Ordering};

/// Whether this one of many belongs to a share of them, a percentage. `counter` counts those that were asked about.
pub fn is_due(counter: &AtomicU64, share: u64) -> bool {
    match share {
        0 => false,
        100.. => true,
        _ => {
            let before = counter.fetch_add(1, Ordering::Relaxed);
            (before + 1).wrapping_mul(share) / 100 > before.wrapping_mul(share) / 100
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_spread_evenly() {
        for share in [0, 1, 10, 25, 33, 50, 99, 100] {
            let counter = AtomicU64::new(0);
            let due: Vec<bool> = (0..300).map(|_| is_due(&counter, share)).collect();
            for hundred in due.chunks(100) {
                assert_eq!(hundred.iter().filter(|due| **due).count() as u64, share);
            }
            if share == 25 {
                assert_eq!(due[..8], [false, false, false, true, false, false, false, true]);
            }
        }
    }
}
