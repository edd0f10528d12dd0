//! When results make a verdict: not one alone, but enough of them in a row.

use rollcall_registry::Verdict;

/// How many results in a row it takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Thresholds {
    pub(crate) passes: u32,
    pub(crate) failures: u32,
}

/// The results of an instance up to now, as one node saw them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Streak {
    latest: Option<Verdict>,
    /// Results in a row that were the same as the latest.
    same: u32,
    /// Results in a row that were not healthy.
    failed: u32,
}

impl Streak {
    pub(super) fn add(&mut self, result: Verdict) {
        self.same = if self.latest == Some(result) { self.same.saturating_add(1) } else { 1 };
        self.failed = if result == Verdict::Healthy { 0 } else { self.failed.saturating_add(1) };
        self.latest = Some(result);
    }

    pub(super) fn in_a_row(&self) -> u32 {
        self.same
    }

    /// What the results make of the verdict that stands, if anything else.
    pub(super) fn verdict(&self, standing: Option<Verdict>, needed: Thresholds) -> Option<Verdict> {
        let latest = self.latest.filter(|latest| Some(*latest) != standing)?;
        let is_enough = match (standing, latest) {
            (_, Verdict::Healthy) => self.same >= needed.passes,
            // Whoever fails now this way and now that way is not healthy.
            (None | Some(Verdict::Healthy), _) => self.failed >= needed.failures,
            (Some(_), _) => self.same >= needed.failures,
        };
        is_enough.then_some(latest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Verdict::{Degraded, Error, Healthy};

    /// The verdicts that results make one after the other, each beginning from the one before.
    fn verdicts(needed: Thresholds, results: &[Verdict]) -> Vec<Option<Verdict>> {
        let (mut streak, mut standing) = (Streak::default(), None);
        results
            .iter()
            .map(|result| {
                streak.add(*result);
                standing = streak.verdict(standing, needed).or(standing);
                standing
            })
            .collect()
    }

    #[test]
    fn it_takes_enough_in_a_row_both_ways() {
        let needed = Thresholds { passes: 2, failures: 3 };
        let results = [Healthy, Healthy, Degraded, Degraded, Healthy, Degraded, Degraded, Degraded, Healthy, Healthy];
        let expected = [
            None,
            Some(Healthy),
            Some(Healthy),
            Some(Healthy),
            Some(Healthy),
            Some(Healthy),
            Some(Healthy),
            Some(Degraded),
            Some(Degraded),
            Some(Healthy),
        ];
        assert_eq!(verdicts(needed, &results), expected);
    }

    #[test]
    fn one_that_flaps_keeps_its_verdict() {
        let needed = Thresholds { passes: 2, failures: 2 };
        let flapping: Vec<_> = [Healthy, Healthy].into_iter().chain([Degraded, Healthy].repeat(20)).collect();
        assert!(verdicts(needed, &flapping)[1..].iter().all(|verdict| *verdict == Some(Healthy)));
        let failing: Vec<_> = [Error, Error].into_iter().chain([Healthy, Error].repeat(20)).collect();
        assert!(verdicts(needed, &failing)[1..].iter().all(|verdict| *verdict == Some(Error)));
    }

    #[test]
    fn failing_in_turns_is_failing() {
        let needed = Thresholds { passes: 1, failures: 3 };
        let results = [Healthy, Degraded, Error, Degraded, Error, Degraded, Error, Error, Error];
        let last = |count: usize| verdicts(needed, &results[..count]).pop().unwrap();
        assert_eq!(last(3), Some(Healthy));
        assert_eq!(last(4), Some(Degraded));
        // From one failure to another it takes as many of the same.
        assert_eq!((last(8), last(9)), (Some(Degraded), Some(Error)));
    }

    #[test]
    fn one_is_enough_where_one_is_asked_for() {
        let needed = Thresholds { passes: 1, failures: 1 };
        assert_eq!(verdicts(needed, &[Error, Healthy, Degraded]), [Some(Error), Some(Healthy), Some(Degraded)]);
    }

    #[test]
    fn a_node_that_begins_to_check_does_not_undo_what_stands() {
        let needed = Thresholds { passes: 2, failures: 2 };
        let mut streak = Streak::default();
        streak.add(Healthy);
        assert_eq!(streak.verdict(Some(Degraded), needed), None);
        streak.add(Healthy);
        assert_eq!(streak.verdict(Some(Degraded), needed), Some(Healthy));
        assert_eq!(streak.verdict(Some(Healthy), needed), None, "it is so already");
    }
}
