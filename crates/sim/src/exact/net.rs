//! The network: what of a message arrives, and when.

use std::collections::BTreeSet;

use super::raft::{MS, Node};
use crate::random::Random;

#[derive(Debug)]
pub(crate) struct Network {
    /// Whom one does not reach.
    pub cut: BTreeSet<(Node, Node)>,
    pub storms: u32,
    random: Random,
}

/// When a message arrives: never, once or twice. In µs from now.
pub(crate) type Arrivals = Vec<u64>;

/// How long a batch may lie unread at a leader, in ms. Its sender gives the connection up long before, and may have been
/// started anew since.
const HELD_UP_MS_MAX: u64 = 6_000;

impl Network {
    pub(crate) fn new(random: Random) -> Self {
        Self { cut: BTreeSet::new(), storms: 0, random }
    }

    /// How long a forwarded batch lies unread, if it does, and after what its sender gives up.
    pub(crate) fn hold_up(&mut self) -> Option<(u64, u64)> {
        let held_up = self.random.permille(15);
        held_up.then(|| (self.random.between(1_000, HELD_UP_MS_MAX) * MS, self.random.between(50, 1_000) * MS))
    }

    pub(crate) fn send(&mut self, from: Node, to: Node) -> Arrivals {
        let random = &mut self.random;
        let (lost, doubled, late) = if self.storms > 0 { (150, 150, 300 * MS) } else { (1, 5, 900) };
        if self.cut.contains(&(from, to)) || random.permille(lost) {
            return Vec::new();
        }
        let copies = if random.permille(doubled) { 2 } else { 1 };
        let mut arrival = || {
            // Most come soon, even in a storm.
            let late = if random.permille(300) { late } else { late / 20 };
            100 + random.below(late + 1)
        };
        (0..copies).map(|_| arrival()).collect()
    }
}
