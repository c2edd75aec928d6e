//! How often hostcalls are called, with what status, and how long they take: counted by each thread for itself, since
//! thousands of calls a millisecond on counters that all threads share would be felt.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::RwLock;
use prometheus::core::{Collector, Desc};
use prometheus::proto::{self, LabelPair, Metric, MetricFamily, MetricType};
use thread_local::ThreadLocal;

use super::clock::{self, Ticks};
use super::metrics::Family;

/// Upper bounds of the histogram's buckets, in seconds: from a look at a handle to a wait for a backend.
pub(super) const BOUNDS: &[f64] = &[0.000_001, 0.000_005, 0.000_025, 0.000_1, 0.001, 0.01, 0.1, 1.0, 10.0];
const BUCKETS: usize = BOUNDS.len() + 1;

/// Most hostcalls.
const FUNCTIONS: usize = 320;

/// Most statuses of a hostcall.
const STATUSES: usize = 16;

/// A hostcall that is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Function(u16);

impl Function {
    /// Its number; [`Hostcalls::name`] has its name.
    pub fn number(self) -> u16 {
        self.0
    }
}

/// What one thread has counted of one hostcall. Only that thread writes.
#[derive(Default)]
struct Cell {
    statuses: [AtomicU64; STATUSES],
    buckets: [AtomicU64; BUCKETS],
    /// In ticks.
    time: AtomicU64,
}

/// What one thread has counted.
struct Shard(Box<[Cell]>);

impl Default for Shard {
    fn default() -> Self {
        Self(std::iter::repeat_with(Cell::default).take(FUNCTIONS).collect())
    }
}

/// Adds without the bus: nobody else writes.
fn add(counter: &AtomicU64, by: u64) {
    counter.store(counter.load(Ordering::Relaxed).wrapping_add(by), Ordering::Relaxed);
}

struct Names {
    functions: Vec<(&'static str, &'static str)>,
    numbers: HashMap<(&'static str, &'static str), u16>,
    statuses: &'static [&'static str],
}

struct Inner {
    on: AtomicBool,
    names: RwLock<Names>,
    /// The bounds, in ticks.
    bounds: [u64; BOUNDS.len()],
    shards: ThreadLocal<Shard>,
}

/// Counts hostcalls.
#[derive(Clone)]
pub struct Hostcalls(Arc<Inner>);

impl Default for Hostcalls {
    fn default() -> Self {
        let second = clock::ticks_per_second();
        let mut bounds = [0; BOUNDS.len()];
        for (ticks, bound) in bounds.iter_mut().zip(BOUNDS) {
            *ticks = (bound * second) as u64;
        }
        let names = Names { functions: Vec::new(), numbers: HashMap::new(), statuses: &[] };
        Self(Arc::new(Inner { on: AtomicBool::new(true), names: RwLock::new(names), bounds, shards: ThreadLocal::new() }))
    }
}

impl Hostcalls {
    /// A hostcall by the module and the name that guests import it by. `statuses`: names of what calls may come to, by number;
    /// the same for all.
    pub fn function(&self, module: &'static str, name: &'static str, statuses: &'static [&'static str]) -> Function {
        let mut names = self.0.names.write();
        assert!(statuses.len() <= STATUSES, "more statuses than there is room for");
        names.statuses = statuses;
        if let Some(number) = names.numbers.get(&(module, name)) {
            return Function(*number);
        }
        let number = names.functions.len();
        assert!(number < FUNCTIONS, "more hostcalls than there is room for");
        names.functions.push((module, name));
        names.numbers.insert((module, name), number as u16);
        Function(number as u16)
    }

    /// Whether calls are counted.
    pub fn is_on(&self) -> bool {
        self.0.on.load(Ordering::Relaxed)
    }

    /// Counts calls no more.
    pub fn switch_off(&self) {
        self.0.on.store(false, Ordering::Relaxed);
    }

    /// Counts a call.
    pub fn count(&self, function: Function, status: usize, from: Ticks, to: Ticks) {
        let Some(cell) = self.0.shards.get_or_default().0.get(usize::from(function.0)) else { return };
        let time = to.0.saturating_sub(from.0);
        let bucket = self.0.bounds.iter().position(|bound| time <= *bound).unwrap_or(BOUNDS.len());
        if let (Some(count), Some(bucket)) = (cell.statuses.get(status), cell.buckets.get(bucket)) {
            add(count, 1);
            add(bucket, 1);
        }
        add(&cell.time, time);
    }

    /// Module and name of a hostcall.
    pub fn name(&self, number: u16) -> (&'static str, &'static str) {
        self.0.names.read().functions.get(usize::from(number)).copied().unwrap_or(("", ""))
    }

    /// The name of a status.
    pub fn status(&self, number: u8) -> &'static str {
        self.0.names.read().statuses.get(usize::from(number)).copied().unwrap_or("")
    }

    /// All that have been called, by name, with the sums over threads.
    pub fn totals(&self) -> Vec<Total> {
        let names = self.0.names.read();
        let all = names.functions.iter().enumerate().map(|(number, (module, name))| {
            let mut total = Total { module, name, statuses: Vec::new(), buckets: [0; BUCKETS], seconds: 0.0 };
            let mut statuses = [0; STATUSES];
            let mut time = 0;
            for cell in self.0.shards.iter().filter_map(|shard| shard.0.get(number)) {
                for (sum, count) in statuses.iter_mut().zip(&cell.statuses) {
                    *sum += count.load(Ordering::Relaxed);
                }
                for (sum, count) in total.buckets.iter_mut().zip(&cell.buckets) {
                    *sum += count.load(Ordering::Relaxed);
                }
                time += cell.time.load(Ordering::Relaxed);
            }
            total.statuses = names.statuses.iter().copied().zip(statuses).filter(|(_, count)| *count > 0).collect();
            total.seconds = time as f64 / clock::ticks_per_second();
            total
        });
        all.filter(|total| !total.statuses.is_empty()).collect()
    }
}

/// What there was of one hostcall.
#[derive(Clone, Debug)]
pub struct Total {
    /// The wasm module guests import it from.
    pub module: &'static str,
    /// Its name there.
    pub name: &'static str,
    /// How many calls came to each status.
    pub statuses: Vec<(&'static str, u64)>,
    /// How many took longer than a bound and no longer than the next; behind the last: than any.
    pub buckets: [u64; BUCKETS],
    /// How long all of them took.
    pub seconds: f64,
}

impl Total {
    /// The time within which this share of the calls returned, in seconds: as exact as the buckets are.
    pub fn quantile(&self, share: f64) -> Option<f64> {
        let count: u64 = self.buckets.iter().sum();
        let wanted = share * count as f64;
        let mut below = 0.0;
        for (at, found) in self.buckets.iter().enumerate().filter(|(_, found)| **found > 0) {
            let found = *found as f64;
            if below + found >= wanted {
                let lower = at.checked_sub(1).map_or(0.0, |before| BOUNDS[before]);
                let upper = BOUNDS.get(at).copied().unwrap_or(lower);
                // None took longer than all together.
                return Some((lower + (upper - lower) * (wanted - below) / found).min(self.seconds));
            }
            below += found;
        }
        None
    }
}

/// What Prometheus gets of them: the counters or the histograms.
#[derive(Clone)]
pub(super) struct Exported {
    hostcalls: Hostcalls,
    desc: Desc,
    name: &'static str,
    help: &'static str,
    times: bool,
}

impl Exported {
    pub(super) fn new(hostcalls: &Hostcalls, family: &Family, times: bool) -> prometheus::Result<Self> {
        let Family { name, help, .. } = *family;
        let labels = family.label_names().into_iter().map(str::to_owned).collect();
        let desc = Desc::new(name.to_owned(), help.to_owned(), labels, HashMap::new())?;
        Ok(Self { hostcalls: hostcalls.clone(), desc, name, help, times })
    }
}

impl Collector for Exported {
    fn desc(&self) -> Vec<&Desc> {
        vec![&self.desc]
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let mut family = MetricFamily::default();
        family.set_name(self.name.to_owned());
        family.set_help(self.help.to_owned());
        family.set_field_type(if self.times { MetricType::HISTOGRAM } else { MetricType::COUNTER });
        let totals = self.hostcalls.totals();
        let metrics = if self.times { totals.iter().map(time).collect() } else { totals.iter().flat_map(counts).collect() };
        family.set_metric(metrics);
        vec![family]
    }
}

fn labelled(total: &Total, status: Option<&str>) -> Metric {
    let labels = [("function", total.name), ("interface", total.module)].into_iter().chain(status.map(|status| ("status", status)));
    let pair = |(name, value): (&str, &str)| {
        let mut pair = LabelPair::default();
        pair.set_name(name.to_owned());
        pair.set_value(value.to_owned());
        pair
    };
    let mut metric = Metric::default();
    metric.set_label(labels.map(pair).collect());
    metric
}

fn counts(total: &Total) -> impl Iterator<Item = Metric> {
    total.statuses.iter().map(|(status, count)| {
        let mut counter = proto::Counter::default();
        counter.set_value(*count as f64);
        let mut metric = labelled(total, Some(status));
        metric.set_counter(counter);
        metric
    })
}

fn time(total: &Total) -> Metric {
    let mut below = 0;
    let buckets = BOUNDS.iter().chain([&f64::INFINITY]).zip(total.buckets).map(|(bound, count)| {
        below += count;
        let mut bucket = proto::Bucket::default();
        bucket.set_cumulative_count(below);
        bucket.set_upper_bound(*bound);
        bucket
    });
    let mut histogram = proto::Histogram::default();
    histogram.set_bucket(buckets.collect());
    histogram.set_sample_count(total.buckets.iter().sum());
    histogram.set_sample_sum(total.seconds);
    let mut metric = labelled(total, None);
    metric.set_histogram(histogram);
    metric
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_thread_counts() {
        let hostcalls = Hostcalls::default();
        let function = hostcalls.function("m", "f", &["ok", "error"]);
        assert_eq!(hostcalls.function("m", "f", &["ok", "error"]), function);
        assert_eq!(hostcalls.name(function.number()), ("m", "f"));
        hostcalls.function("m", "never", &["ok", "error"]);
        let millisecond = (clock::ticks_per_second() / 1000.0) as u64;
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let hostcalls = &hostcalls;
                scope.spawn(move || {
                    for _ in 0..1000 {
                        hostcalls.count(function, usize::from(thread == 0), Ticks(millisecond), Ticks(millisecond * 3));
                    }
                });
            }
        });
        // A clock that goes back takes no time.
        hostcalls.count(function, 0, Ticks(5), Ticks(4));
        let totals = hostcalls.totals();
        assert_eq!(totals.len(), 1);
        assert_eq!(totals[0].statuses, [("ok", 3001), ("error", 1000)]);
        assert_eq!(totals[0].buckets, [1, 0, 0, 0, 0, 4000, 0, 0, 0, 0]);
        assert!((totals[0].seconds - 8.0).abs() < 0.01, "{}", totals[0].seconds);
        let median = totals[0].quantile(0.5).expect("calls");
        assert!((0.001..0.01).contains(&median), "{median}");
    }

    #[test]
    fn threads_that_are_gone_leave_what_they_counted() {
        let hostcalls = Hostcalls::default();
        let function = hostcalls.function("m", "f", &["ok"]);
        for _ in 0..50 {
            let hostcalls = hostcalls.clone();
            std::thread::spawn(move || hostcalls.count(function, 0, Ticks(0), Ticks(1))).join().expect("a thread");
        }
        assert_eq!(hostcalls.totals()[0].statuses, [("ok", 50)]);
    }
}
