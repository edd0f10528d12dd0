//! What was applied, counted for operators.

use crate::ids::ClusterTime;

/// How many parts of its TTL a lease is divided into when it is counted how much of it was left.
pub const MARGIN_PARTS: usize = 10;

/// What this process has applied since it began to count. No part of the state: it is in no digest, no checkpoint and no
/// answer, and differs between nodes that began to count at different entries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// New ids on the roll.
    pub created: u64,
    /// New incarnations under an id that was on the roll.
    pub replaced: u64,
    pub deregistered: u64,
    /// Leases that lapsed while their instance stays on the roll for a while.
    pub lapsed: u64,
    /// Leases that ran out while protection keeps their instance on the roll.
    pub suspected: u64,
    /// Instances struck off because no heartbeat came.
    pub expired: u64,
    /// Renewals by how much of the TTL was left. The first are those that came after the deadline; of the others, the
    /// `n`-th had at most `n` tenths left.
    pub renewed: [u64; MARGIN_PARTS + 1],
    /// What was left at all renewals together, in thousandths of a TTL.
    pub margin_permille: u64,
}

impl Tally {
    pub(crate) fn renewal(&mut self, deadline: ClusterTime, now: ClusterTime, ttl_ms: u32) {
        let left_ms = deadline.0.saturating_sub(now.0);
        let permille = (left_ms * 1_000).checked_div(ttl_ms.into()).unwrap_or(0).min(1_000);
        let part = permille.div_ceil(1_000 / MARGIN_PARTS as u64).max(u64::from(left_ms > 0));
        self.renewed[part as usize] += 1;
        self.margin_permille += permille;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_renewal_counts_by_what_was_left_of_the_lease() {
        let mut tally = Tally::default();
        for (left_ms, part) in [(0, 0), (1, 1), (1_000, 1), (1_001, 1), (1_010, 2), (6_666, 7), (10_000, 10)] {
            let before = tally.renewed[part];
            tally.renewal(ClusterTime(50_000 + left_ms), ClusterTime(50_000), 10_000);
            assert_eq!(tally.renewed[part], before + 1, "{left_ms} ms left");
        }
        // A deadline that has passed, and one of an earlier, longer TTL.
        tally.renewal(ClusterTime(1), ClusterTime(50_000), 10_000);
        tally.renewal(ClusterTime(90_000), ClusterTime(50_000), 10_000);
        assert_eq!((tally.renewed[0], tally.renewed[10]), (2, 2));
        assert_eq!(tally.margin_permille, 100 + 100 + 101 + 666 + 1_000 + 1_000);
    }
}
