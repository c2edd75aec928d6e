//! Which requests are traced.

use parking_lot::Mutex;

use super::context::TraceId;
use crate::config::traces::Sample;
use crate::telemetry::clock::{self, Ticks};

/// Decides about traces that begin here.
pub struct Sampler {
    sample: Sample,
    /// Of a rate: how many may be traced at once, and when that was so.
    room: Mutex<(f64, Ticks)>,
}

impl Sampler {
    /// One that takes what `sample` says.
    pub fn new(sample: Sample) -> Self {
        let room = match sample {
            Sample::Ratio(_) => 0.0,
            Sample::PerSecond(rate) => rate.max(1.0).min(if rate > 0.0 { f64::MAX } else { 0.0 }),
        };
        Self { sample, room: Mutex::new((room, clock::ticks())) }
    }

    /// Whether a trace is taken. Of a share, all who see the trace's id decide alike: its last 56 bits are random
    /// (W3C Trace Context, Level 2).
    pub fn takes(&self, trace: TraceId, now: Ticks) -> bool {
        match self.sample {
            Sample::Ratio(ratio) => {
                let random = (trace.0 as u64) & ((1 << 56) - 1);
                (random as f64) < ratio * (1_u64 << 56) as f64
            }
            Sample::PerSecond(rate) => {
                let mut room = self.room.lock();
                let (left, at) = *room;
                let left = (left + clock::between(at, now).as_secs_f64() * rate).min(rate.max(1.0));
                // Parts of a second do not add up exactly.
                let takes = left >= 1.0 - 1e-6;
                *room = (if takes { left - 1.0 } else { left }, now.max(at));
                takes
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share() {
        let of = |ratio: f64| {
            let sampler = Sampler::new(Sample::Ratio(ratio));
            let ids = (0..10_000).map(|_| TraceId(uuid::Uuid::new_v4().as_u128()));
            ids.filter(|id| sampler.takes(*id, Ticks(0))).count()
        };
        assert_eq!((of(0.0), of(1.0)), (0, 10_000));
        let tenth = of(0.1);
        assert!((800..1200).contains(&tenth), "{tenth}");
    }

    #[test]
    fn so_many_a_second() {
        let second = clock::ticks_per_second();
        let sampler = Sampler::new(Sample::PerSecond(10.0));
        let begun = clock::ticks();
        let at = |seconds: f64| Ticks(begun.0 + (seconds * second) as u64);
        let taken = |from: f64| (0..100).filter(|i| sampler.takes(TraceId(1), at(from + f64::from(*i) * 0.001))).count();
        assert!((10..=12).contains(&taken(0.0)));
        assert!((9..=12).contains(&taken(1.1)));
        // A long quiet is not saved up.
        assert!((10..=12).contains(&taken(100.0)));
        let none = Sampler::new(Sample::PerSecond(0.0));
        assert!(!none.takes(TraceId(1), at(0.0)) && !none.takes(TraceId(1), at(1e6)));
        // Less than one a second is one now and then.
        let few = Sampler::new(Sample::PerSecond(0.5));
        let taken = (0..20).filter(|i| few.takes(TraceId(1), at(f64::from(*i)))).count();
        assert!((9..=11).contains(&taken), "{taken}");
    }
}
