//! What is noted of operations: histograms of microseconds, and the first errors.

use std::error::Error;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::engine::Done;

/// Enough to see what goes wrong, few enough to read.
const ERROR_EXAMPLES_MAX: usize = 5;

/// A histogram of microseconds that is exact to three digits and grows as it must.
pub fn histogram() -> Histogram<u64> {
    Histogram::new(3).expect("three digits are within what a histogram can keep")
}

/// A duration once.
pub fn note(histogram: &mut Histogram<u64>, duration: Duration) {
    note_many(histogram, duration, 1);
}

/// The same duration so many times.
pub(crate) fn note_many(histogram: &mut Histogram<u64>, duration: Duration, count: u64) {
    let us = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
    histogram.record_n(us, count).expect("a histogram that grows takes every number");
}

/// A distribution in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Percentiles {
    pub p50: u64,
    pub p90: u64,
    pub p99: u64,
    pub p99_9: u64,
    pub max: u64,
    pub mean: f64,
}

impl From<&Histogram<u64>> for Percentiles {
    fn from(histogram: &Histogram<u64>) -> Self {
        let at = |quantile| histogram.value_at_quantile(quantile);
        Self {
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p99_9: at(0.999),
            max: histogram.max(),
            mean: (histogram.mean() * 10.0).round() / 10.0,
        }
    }
}

/// One sort of operation.
#[derive(Clone, Debug)]
pub struct KindRecord {
    pub name: &'static str,
    /// Of the operations that succeeded, as many as it holds.
    pub latency_us: Histogram<u64>,
    pub items: u64,
}

/// One session's notes, or those of all.
#[derive(Debug)]
pub(crate) struct Record {
    pub(crate) kinds: Vec<KindRecord>,
    pub(crate) lateness_us: Histogram<u64>,
    pub(crate) errors: u64,
    pub(crate) error_examples: Vec<String>,
}

impl Record {
    pub(crate) fn new(kinds: &[&'static str]) -> Self {
        let kind = |name: &&'static str| KindRecord { name, latency_us: histogram(), items: 0 };
        Self {
            kinds: kinds.iter().map(kind).collect(),
            lateness_us: histogram(),
            errors: 0,
            error_examples: Vec::new(),
        }
    }

    pub(crate) fn success(&mut self, done: Done, latency: Duration, lateness: Duration) {
        let kind = &mut self.kinds[done.kind];
        note(&mut kind.latency_us, latency);
        kind.items += done.items;
        note(&mut self.lateness_us, lateness);
    }

    pub(crate) fn error(&mut self, error: &dyn Error) {
        self.errors += 1;
        if self.error_examples.len() < ERROR_EXAMPLES_MAX {
            self.example(chain(error));
        }
    }

    fn example(&mut self, text: String) {
        if self.error_examples.len() < ERROR_EXAMPLES_MAX && !self.error_examples.contains(&text) {
            self.error_examples.push(text);
        }
    }

    /// Adds what another session noted of the same kinds.
    pub(crate) fn add(&mut self, other: &Self) {
        for (kind, more) in self.kinds.iter_mut().zip(&other.kinds) {
            kind.latency_us += &more.latency_us;
            kind.items += more.items;
        }
        self.lateness_us += &other.lateness_us;
        self.errors += other.errors;
        for text in &other.error_examples {
            self.example(text.clone());
        }
    }
}

/// An error and its sources in one line.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_sessions_noted_adds_up() {
        let us = Duration::from_micros;
        let (mut one, mut two) = (Record::new(&["a", "b"]), Record::new(&["a", "b"]));
        one.success(Done { items: 2, kind: 0 }, us(100), us(1));
        one.error(&std::io::Error::other("broken"));
        two.success(Done { items: 5, kind: 1 }, us(200_000_000), us(3));
        two.success(Done { items: 1, kind: 0 }, us(300), us(2));
        two.error(&std::io::Error::other("broken"));
        one.add(&two);
        assert_eq!((one.kinds[0].items, one.kinds[1].items, one.errors), (3, 5, 2));
        assert_eq!(one.error_examples, ["broken"]);
        assert_eq!(one.lateness_us.len(), 3);
        let shown = Percentiles::from(&one.kinds[0].latency_us);
        assert_eq!((shown.p50, shown.p99, shown.max, shown.mean), (100, 300, 300, 200.0));
        // Three digits of 200 seconds.
        assert!(one.kinds[1].latency_us.max().abs_diff(200_000_000) < 200_000);
    }
}
