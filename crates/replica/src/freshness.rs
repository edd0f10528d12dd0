//! How old a local read may be. Pure: instants come in as arguments.
//!
//! A leader's append tells what it had applied when a quorum last answered it; once that much is applied here, this node
//! shows a state that was the cluster's at that moment or later.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use crate::message::{Lead, Stamp};

/// Marks kept while the apply lags behind. More are thinned out: only the precision of the staleness suffers.
const MARKS_MAX: usize = 64;

#[derive(Debug, Default)]
pub struct Freshness {
    /// The latest moment for which this node is known to be current.
    current_at: Option<Instant>,
    /// Moments for which it will be, once the index is applied; both ascending.
    marks: VecDeque<(Instant, u64)>,
}

impl Freshness {
    /// At `at` the cluster had committed `committed`.
    pub fn note(&mut self, at: Instant, committed: u64, applied: u64) {
        self.settle(applied);
        if self.current_at.is_some_and(|current| at <= current) {
            return;
        }
        if committed <= applied {
            self.current_at = Some(at);
            return;
        }
        if let Some(newest) = self.marks.back()
            && (newest.0 >= at || newest.1 > committed)
        {
            return;
        }
        if self.marks.len() == MARKS_MAX {
            self.marks.pop_back();
        }
        self.marks.push_back((at, committed));
    }

    /// Takes in what a leader said along with a request that this node accepted. It was said after this node's last answer
    /// was heard; how long it was on its way nobody knows.
    pub fn hear(&mut self, lead: &Lead, stamps: &Stamps, applied: u64) {
        let said_after = lead.echo.and_then(|echo| stamps.moment(echo));
        let age = Duration::from_millis(lead.quorum_age_ms);
        if let Some(at) = said_after.and_then(|at| at.checked_sub(age)) {
            self.note(at, lead.applied_index, applied);
        }
    }

    /// Since when, at most, a local read is behind; none if this node was never current since it started.
    pub fn staleness(&mut self, now: Instant, applied: u64) -> Option<Duration> {
        self.settle(applied);
        self.current_at.map(|at| now.saturating_duration_since(at))
    }

    fn settle(&mut self, applied: u64) {
        while let Some((at, committed)) = self.marks.front().copied()
            && committed <= applied
        {
            self.current_at = Some(self.current_at.map_or(at, |current| current.max(at)));
            self.marks.pop_front();
        }
    }
}

/// This process's moments as its peers are told them.
#[derive(Clone, Copy, Debug)]
pub struct Stamps {
    process: u64,
    start: Instant,
}

impl Stamps {
    /// `process` is drawn for each start of the process.
    pub fn new(process: u64, start: Instant) -> Self {
        Self { process, start }
    }

    pub(crate) fn process(&self) -> u64 {
        self.process
    }

    pub fn at(&self, moment: Instant) -> Stamp {
        let since_start = moment.saturating_duration_since(self.start);
        Stamp { process: self.process, ms: u64::try_from(since_start.as_millis()).unwrap_or(u64::MAX) }
    }

    /// The moment of a stamp that came back, if it is this process's.
    fn moment(&self, stamp: Stamp) -> Option<Instant> {
        let since_start = Duration::from_millis(stamp.ms);
        (stamp.process == self.process).then(|| self.start.checked_add(since_start)).flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p8_a_node_is_current_only_when_it_has_applied_what_it_was_told() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut freshness = Freshness::default();
        assert_eq!(freshness.staleness(at(0), 0), None);
        freshness.note(at(10), 5, 3);
        assert_eq!(freshness.staleness(at(20), 4), None);
        freshness.note(at(30), 9, 4);
        assert_eq!(freshness.staleness(at(40), 5), Some(Duration::from_millis(30)));
        assert_eq!(freshness.staleness(at(50), 9), Some(Duration::from_millis(20)));
        // An older report, arriving late, makes nothing fresher or staler.
        freshness.note(at(20), 2, 9);
        assert_eq!(freshness.staleness(at(50), 9), Some(Duration::from_millis(20)));
    }

    #[test]
    fn p8_marks_are_bounded_while_the_apply_lags() {
        let start = Instant::now();
        let mut freshness = Freshness::default();
        for n in 0..1_000 {
            freshness.note(start + Duration::from_millis(n), n + 1, 0);
        }
        assert_eq!(freshness.marks.len(), MARKS_MAX);
        assert!(freshness.staleness(start + Duration::from_secs(1), 1_000).is_some());
    }
}
