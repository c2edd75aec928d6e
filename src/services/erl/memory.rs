//! Rate counters and penalty boxes in this process.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher as _, RandomState};
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;

use super::{Check, Error, Rates};
use crate::telemetry::clock;

/// Parts with a lock each.
const PARTS: usize = 16;

/// Entries of one part; beyond it, those that nobody counts any more make room, then any.
const ENTRIES: usize = 20_000;

/// Bytes of the entries of one part, of counters and of boxes each; beyond it likewise.
const BYTES: usize = 4 << 20;

/// Tenths of a second that are kept one by one; older counts are kept by the second.
const FINE: u64 = 20;

/// Rate counters and penalty boxes in memory.
#[derive(Default)]
pub struct Memory {
    hasher: RandomState,
    parts: [Mutex<Part>; PARTS],
}

#[derive(Default)]
struct Part {
    counts: HashMap<Key, Series>,
    /// Bytes of that.
    counted: usize,
    /// When each ends, since the epoch.
    boxes: HashMap<Key, Duration>,
    /// Bytes of that.
    boxed: usize,
}

/// Name and entry.
type Key = (Box<str>, Box<str>);

/// Counts by tenths of a second since the epoch, oldest first; those beyond [`FINE`] at the tenth that their second begins with.
#[derive(Default)]
struct Series(VecDeque<(u64, u32)>);

fn tenths(time: Duration) -> u64 {
    u64::try_from(time.as_millis() / 100).unwrap_or(u64::MAX)
}

impl Series {
    fn add(&mut self, now: Duration, delta: u32) {
        let tenth = tenths(now);
        while self.0.front().is_some_and(|(at, _)| at + 620 < tenth) {
            self.0.pop_front();
        }
        match self.0.back_mut() {
            // A clock that went back counts here, too.
            Some((at, count)) if *at >= tenth => *count = count.saturating_add(delta),
            _ => {
                self.0.push_back((tenth, delta));
                self.merge(tenth);
            }
        }
    }

    /// What is not recent is kept by the second.
    fn merge(&mut self, now: u64) {
        let Some(mut index) = self.0.iter().rposition(|(at, _)| at + FINE < now) else { return };
        while index > 0 && self.0[index].0 / 10 == self.0[index - 1].0 / 10 {
            if let Some((_, count)) = self.0.remove(index) {
                let before = &mut self.0[index - 1];
                before.1 = before.1.saturating_add(count);
            }
            index -= 1;
        }
        let at = &mut self.0[index].0;
        *at -= *at % 10;
    }

    /// What was counted in this bucket of ten seconds and those before it, `seconds` together.
    fn bucketed(&self, now: Duration, seconds: u32) -> u32 {
        let start = (now.as_secs() / 10 * 10 + 10).saturating_sub(seconds.into()) * 10;
        self.0.iter().filter(|(at, _)| *at >= start).fold(0, |sum: u32, (_, count)| sum.saturating_add(*count))
    }

    /// What was counted in the last `seconds`, the oldest part in proportion.
    fn count(&self, now: Duration, seconds: u32) -> f64 {
        let end = now.as_secs_f64() * 10.0;
        let start = end - f64::from(seconds) * 10.0;
        let newest = tenths(now);
        let mut sum = 0.0;
        for (at, count) in self.0.iter().rev() {
            let length = if at + FINE < newest { 10.0 } else { 1.0 };
            let until = *at as f64 + length;
            if until <= start {
                break;
            }
            let share = ((until - start) / length).min(1.0);
            sum += f64::from(*count) * share;
        }
        sum
    }

    /// Bytes of memory that it has.
    fn size(&self) -> usize {
        self.0.capacity() * size_of::<(u64, u32)>()
    }

    fn is_idle(&self, now: u64) -> bool {
        self.0.back().is_none_or(|(at, _)| at + 620 < now)
    }
}

/// What an entry costs: its names, and its place.
fn weight(key: &Key) -> usize {
    key.0.len() + key.1.len() + 96
}

impl Part {
    fn add(&mut self, key: Key, now: Duration, delta: u32) -> &Series {
        if !self.counts.contains_key(&key) {
            if self.counts.len() >= ENTRIES || self.counted >= BYTES {
                let (tenth, mut kept) = (tenths(now), Kept::default());
                self.counts.retain(|key, series| !series.is_idle(tenth) && kept.takes(weight(key) + series.size()));
                self.counted = kept.bytes;
            }
            self.counted += weight(&key);
        }
        let series = self.counts.entry(key).or_default();
        let before = series.size();
        series.add(now, delta);
        self.counted = self.counted + series.size() - before;
        series
    }

    fn penalize(&mut self, key: Key, now: Duration, ttl: Duration) {
        if !self.boxes.contains_key(&key) {
            if self.boxes.len() >= ENTRIES || self.boxed >= BYTES {
                let mut kept = Kept::default();
                self.boxes.retain(|key, end| *end > now && kept.takes(weight(key)));
                self.boxed = kept.bytes;
            }
            self.boxed += weight(&key);
        }
        self.boxes.insert(key, now + ttl);
    }
}

/// What is left of a part that was full: three quarters of it at most, so that it is not full again with the next entry.
#[derive(Default)]
struct Kept {
    entries: usize,
    bytes: usize,
}

impl Kept {
    fn takes(&mut self, bytes: usize) -> bool {
        let takes = self.entries < ENTRIES / 4 * 3 && self.bytes + bytes <= BYTES / 4 * 3;
        if takes {
            self.entries += 1;
            self.bytes += bytes;
        }
        takes
    }
}

fn key(name: &str, entry: &str) -> Key {
    (name.into(), entry.into())
}

impl Memory {
    /// Everything of one entry is in one part, whichever counters and boxes it is in.
    fn part(&self, entry: &str) -> &Mutex<Part> {
        &self.parts[self.hasher.hash_one(entry) as usize % PARTS]
    }
}

#[async_trait]
impl Rates for Memory {
    async fn check(&self, check: Check<'_>) -> Result<bool, Error> {
        let now = clock::unix();
        let mut part = self.part(check.entry).lock();
        let series = part.add(key(check.counter, check.entry), now, check.delta);
        let above = series.count(now, check.window) > f64::from(check.limit) * f64::from(check.window);
        let boxed = key(check.penalty_box, check.entry);
        if above {
            part.penalize(boxed, now, check.ttl);
            return Ok(true);
        }
        Ok(part.boxes.get(&boxed).is_some_and(|end| *end > now))
    }

    async fn increment(&self, counter: &str, entry: &str, delta: u32) -> Result<(), Error> {
        self.part(entry).lock().add(key(counter, entry), clock::unix(), delta);
        Ok(())
    }

    async fn rate(&self, counter: &str, entry: &str, window: u32) -> Result<u32, Error> {
        let part = self.part(entry).lock();
        let count = part.counts.get(&key(counter, entry)).map_or(0.0, |series| series.count(clock::unix(), window));
        Ok((count / f64::from(window)).round() as u32)
    }

    async fn count(&self, counter: &str, entry: &str, seconds: u32) -> Result<u32, Error> {
        let part = self.part(entry).lock();
        Ok(part.counts.get(&key(counter, entry)).map_or(0, |series| series.bucketed(clock::unix(), seconds)))
    }

    async fn penalize(&self, penalty_box: &str, entry: &str, ttl: Duration) -> Result<(), Error> {
        self.part(entry).lock().penalize(key(penalty_box, entry), clock::unix(), ttl);
        Ok(())
    }

    async fn is_penalized(&self, penalty_box: &str, entry: &str) -> Result<bool, Error> {
        Ok(self.part(entry).lock().boxes.get(&key(penalty_box, entry)).is_some_and(|end| *end > clock::unix()))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn it_keeps_the_contract() {
        super::super::contract::check(Arc::new(Memory::default())).await;
    }

    #[test]
    fn entries_without_end() {
        let (mut part, now) = (Part::default(), Duration::from_secs(1_000_000));
        for i in 0..100_000 {
            part.add(key("counter", &format!("{i}")), now, 1);
            part.penalize(key("box", &format!("{i}")), now, Duration::from_secs(3600));
        }
        assert!((ENTRIES / 2..=ENTRIES).contains(&part.counts.len()), "{}", part.counts.len());
        assert!((ENTRIES / 2..=ENTRIES).contains(&part.boxes.len()), "{}", part.boxes.len());
        let long = "x".repeat(1000);
        for i in 0..20_000 {
            part.add(key("counter", &format!("{i} {long}")), now, 1);
            part.penalize(key("box", &format!("{i} {long}")), now, Duration::from_secs(3600));
        }
        for (map, bytes) in
            [(part.counts.keys().map(weight).sum::<usize>(), part.counted), (part.boxes.keys().map(weight).sum(), part.boxed)]
        {
            assert!((BYTES / 2..=BYTES + 2000).contains(&bytes) && map <= bytes, "{map}, {bytes}");
        }
        // The last one is there.
        assert_eq!(part.counts.get(&key("counter", &format!("19999 {long}"))).map(|series| series.bucketed(now, 10)), Some(1));
        // What was counted and is over makes room.
        part.add(key("counter", "new"), now + Duration::from_secs(120), 1);
        part.counted = BYTES;
        part.add(key("counter", "newer"), now + Duration::from_secs(120), 1);
        assert_eq!(part.counts.len(), 2);
    }

    #[test]
    fn counts_slide() {
        let mut series = Series::default();
        let at = |seconds: f64| Duration::from_secs_f64(1_000_000.0 + seconds);
        // Ten a second for two minutes.
        for i in 0..1200 {
            series.add(at(f64::from(i) / 10.0 + 0.001), 1);
        }
        let now = at(119.999);
        for (seconds, wanted) in [(1, 10.0), (10, 100.0), (30, 300.0), (60, 600.0)] {
            let count = series.count(now, seconds);
            assert!((count - wanted).abs() <= wanted * 0.05, "{seconds} s: {count}");
        }
        assert!(series.0.len() < 90, "{} parts", series.0.len());
        // A million is the beginning of a bucket.
        assert_eq!([10, 20, 60].map(|seconds| series.bucketed(now, seconds)), [100, 200, 600]);
        assert_eq!([10, 20, 60].map(|seconds| series.bucketed(at(120.5), seconds)), [0, 100, 500]);
        assert!((series.count(at(120.499), 1) - 5.0).abs() < 1.1);
        assert!(series.count(at(185.0), 60) < 0.1);
        series.add(at(100.0), 7);
        assert!(series.count(now, 1) >= 16.0, "a clock that goes back loses nothing");
    }
}
