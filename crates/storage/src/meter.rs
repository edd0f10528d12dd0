//! What is counted where it happens, for whoever shows it: plain atomics, a few nanoseconds each, and no lock.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// From a fast disk's flush to what somebody waits for, in ns.
pub const DURATION_NS: &[u64] = &[
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    25_000_000,
    50_000_000,
    100_000_000,
    250_000_000,
    500_000_000,
    1_000_000_000,
    2_500_000_000,
    5_000_000_000,
    10_000_000_000,
];

/// From one thing to the most that one log entry holds.
pub const COUNT: &[u64] = &[1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1_024, 2_048, 4_096];

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// How often values fell into each of some ranges.
#[derive(Debug)]
pub struct Histogram {
    /// The largest value of each range, ascending. Beyond the last comes one more.
    bounds: &'static [u64],
    counts: Box<[AtomicU64]>,
    sum: AtomicU64,
}

/// A histogram at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counts {
    pub bounds: &'static [u64],
    /// One more than there are bounds.
    pub counts: Vec<u64>,
    pub sum: u64,
}

impl Histogram {
    pub fn new(bounds: &'static [u64]) -> Self {
        let counts = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Self { bounds, counts, sum: AtomicU64::new(0) }
    }

    pub fn of_durations() -> Self {
        Self::new(DURATION_NS)
    }

    pub fn observe(&self, value: u64) {
        let range = self.bounds.partition_point(|bound| *bound < value);
        self.counts[range].fetch_add(1, Ordering::Relaxed);
        self.sum.fetch_add(value, Ordering::Relaxed);
    }

    /// In ns.
    pub fn observe_duration(&self, duration: Duration) {
        self.observe(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX));
    }

    pub fn counts(&self) -> Counts {
        let counts = self.counts.iter().map(|count| count.load(Ordering::Relaxed)).collect();
        Counts { bounds: self.bounds, counts, sum: self.sum.load(Ordering::Relaxed) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_counts_in_the_first_range_that_holds_it() {
        let histogram = Histogram::new(&[1, 10]);
        [0, 1, 2, 10, 11, u64::from(u32::MAX)].into_iter().for_each(|value| histogram.observe(value));
        assert_eq!(histogram.counts().counts, [2, 2, 2]);
        assert_eq!(histogram.counts().sum, 24 + u64::from(u32::MAX));
    }
}
