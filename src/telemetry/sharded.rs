//! Counters and histograms of which every thread fills a part of its own. What all threads write with every request would go from
//! core to core with every request; a part goes nowhere until somebody looks.

use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use prometheus::core::{Collector, Desc};
use prometheus::local::{LocalHistogram, LocalIntCounter};
use prometheus::proto::MetricFamily;
use prometheus::{Histogram, IntCounter};
use thread_local::ThreadLocal;

/// What counts and tells later.
trait Local: Send {
    /// Tells what it has counted since.
    fn tell(&self);
}

impl Local for LocalHistogram {
    fn tell(&self) {
        self.flush();
    }
}

impl Local for LocalIntCounter {
    fn tell(&self) {
        self.flush();
    }
}

/// What one thread has counted and not told. Neighbours must not share a line of the cache.
#[repr(align(128))]
struct Part<L: Local>(Mutex<L>);

impl<L: Local> Drop for Part<L> {
    fn drop(&mut self) {
        self.0.get_mut().tell();
    }
}

struct Whole<M, L: Local> {
    metric: M,
    parts: ThreadLocal<Part<L>>,
}

impl<M: Send + Sync, L: Local> Parted for Whole<M, L> {
    fn add_up(&self) {
        self.parts.iter().for_each(|part| part.0.lock().tell());
    }
}

/// Something that has parts.
trait Parted: Send + Sync {
    /// Adds the parts to the whole.
    fn add_up(&self);
}

/// All that have parts.
#[derive(Default)]
pub struct Shards(Mutex<Vec<Weak<dyn Parted>>>);

impl Shards {
    /// Adds all parts up, for whoever looks now.
    pub fn add_up(&self) {
        self.0.lock().retain(|known| match known.upgrade() {
            Some(known) => {
                known.add_up();
                true
            }
            None => false,
        });
    }

    fn know(&self, new: Weak<dyn Parted>) {
        let mut known = self.0.lock();
        // Names come and go with reloads, and perhaps nobody ever looks.
        if known.len() == known.capacity() {
            known.retain(|known| known.strong_count() > 0);
        }
        known.push(new);
    }
}

macro_rules! sharded {
    ($(#[$about:meta])* $name:ident: $metric:ident, $local:ident) => {
        $(#[$about])*
        #[derive(Clone)]
        pub struct $name(Arc<Whole<$metric, $local>>);

        impl $name {
            /// One whose sum is `metric`, which is right when `shards` are added up.
            pub fn new(metric: $metric, shards: &Shards) -> Self {
                let new = Self::alone(metric);
                let known: Weak<Whole<$metric, $local>> = Arc::downgrade(&new.0);
                shards.know(known);
                new
            }

            /// One whose sum is `metric`, which is right when it is collected.
            pub fn alone(metric: $metric) -> Self {
                Self(Arc::new(Whole { metric, parts: ThreadLocal::new() }))
            }

            fn part(&self) -> parking_lot::MutexGuard<'_, $local> {
                self.0.parts.get_or(|| Part(Mutex::new(self.0.metric.local()))).0.lock()
            }
        }
    };
}

macro_rules! collected {
    ($($name:ident)*) => {
        $(
            impl Collector for $name {
                fn desc(&self) -> Vec<&Desc> {
                    self.0.metric.desc()
                }

                fn collect(&self) -> Vec<MetricFamily> {
                    self.0.add_up();
                    self.0.metric.collect()
                }
            }
        )*
    };
}

collected! { Times Count }

sharded! {
    /// A histogram.
    Times: Histogram, LocalHistogram
}

sharded! {
    /// A counter.
    Count: IntCounter, LocalIntCounter
}

impl Times {
    /// Notes a value.
    pub fn observe(&self, value: f64) {
        self.part().observe(value);
    }
}

impl Count {
    /// One more.
    pub fn inc(&self) {
        self.part().inc();
    }

    /// So many more.
    pub fn inc_by(&self, by: u64) {
        self.part().inc_by(by);
    }
}

#[cfg(test)]
mod tests {
    use prometheus::HistogramOpts;

    use super::*;

    #[test]
    fn parts_add_up() {
        let shards = Shards::default();
        let counter = IntCounter::new("a_total", "a").expect("a counter");
        let histogram = Histogram::with_opts(HistogramOpts::new("b_seconds", "b").buckets(vec![1.0, 2.0])).expect("a histogram");
        let (count, times) = (Count::new(counter.clone(), &shards), Times::new(histogram.clone(), &shards));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..1000 {
                        count.inc();
                        times.observe(1.5);
                    }
                    count.inc_by(10);
                });
            }
        });
        for _ in 0..2 {
            shards.add_up();
            assert_eq!(counter.get(), 4040);
            assert_eq!(histogram.get_sample_count(), 4000);
            assert!((histogram.get_sample_sum() - 6000.0).abs() < 1e-6);
        }
    }

    #[test]
    fn what_is_gone_has_told() {
        let shards = Shards::default();
        let counter = IntCounter::new("a_total", "a").expect("a counter");
        let count = Count::new(counter.clone(), &shards);
        count.inc();
        drop(count);
        assert_eq!(counter.get(), 1);
        shards.add_up();
        assert!(shards.0.lock().is_empty());
    }
}
