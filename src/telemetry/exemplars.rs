//! Traces as examples of what histograms count (OpenMetrics 1.0, "Exemplars"): the latest of each bucket's neighbourhood.

use std::collections::HashMap;
use std::time::Duration;

use parking_lot::Mutex;
use prometheus::proto::LabelPair;

use super::clock;
use super::trace::context::TraceId;

/// Series that may have examples.
const MAX_SERIES: usize = 4096;

/// Examples of one series, from which those of its buckets are chosen.
const KEPT: usize = 32;

/// One of the values that were counted.
#[derive(Clone, Debug)]
pub struct Exemplar {
    /// The value.
    pub value: f64,
    /// The trace of the request that it is from.
    pub trace: TraceId,
    /// When, since the Unix epoch.
    pub at: Duration,
}

/// The latest examples, by series.
#[derive(Default)]
pub struct Exemplars(Mutex<HashMap<Series, Vec<Exemplar>>>);

type Series = (String, Vec<(String, String)>);

impl Exemplars {
    /// Notes one. Labels in the order of their names.
    pub fn note(&self, family: &str, labels: &[(&str, &str)], value: f64, trace: TraceId) {
        let series = (family.to_owned(), labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect());
        let mut all = self.0.lock();
        if all.len() >= MAX_SERIES && !all.contains_key(&series) {
            return;
        }
        let kept = all.entry(series).or_default();
        if kept.len() >= KEPT {
            // The nearest by value is the one that is missed least: buckets are ranges of values.
            let distance = |kept: &Exemplar| (kept.value.max(1e-9) / value.max(1e-9)).ln().abs();
            let nearest = kept.iter().enumerate().min_by(|(_, a), (_, b)| distance(a).total_cmp(&distance(b))).map(|(at, _)| at);
            kept.remove(nearest.unwrap_or_default());
        }
        kept.push(Exemplar { value, trace, at: clock::unix() });
    }

    /// Those of a series, the latest last.
    pub fn of(&self, family: &str, labels: &[LabelPair]) -> Vec<Exemplar> {
        let mut labels: Vec<_> = labels.iter().map(|pair| (pair.name().to_owned(), pair.value().to_owned())).collect();
        labels.sort();
        self.0.lock().get(&(family.to_owned(), labels)).cloned().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extremes_stay() {
        let exemplars = Exemplars::default();
        exemplars.note("f", &[], 30.0, TraceId(1));
        for i in 0..1000 {
            exemplars.note("f", &[], 0.001 + f64::from(i) * 1e-9, TraceId(2));
        }
        let kept = exemplars.of("f", &[]);
        assert_eq!(kept.len(), KEPT);
        assert!(kept.iter().any(|kept| kept.trace == TraceId(1)));
        assert!((kept[KEPT - 1].value - 0.001_000_999).abs() < 1e-12);
    }
}
