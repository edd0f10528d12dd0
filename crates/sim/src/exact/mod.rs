//! Simulation A: several nodes, their disks, clocks and wires, and their clients, as events in one queue.
//!
//! What is the product's own: the state machine with its checkpoints, the way of a batch into the log, the leader's clock,
//! the pacing of expiries, freshness and what a read needs. What is simulated: the replicated log (`raft`), disks, wires,
//! clocks, crashes, and who asks. A `witness` sees all of it at once and holds every event against the promises; when the
//! faults are over everything must come to rest, equal on all nodes, with nobody on the roll.
//!
//! Read in this order: [`faults`], `world` and `usage`, `member`, `batches` and `reads`, `raft` and `disk`, `clients`, `witness`; then [`flaw`].

mod batches;
mod clients;
mod disk;
pub mod faults;
pub mod flaw;
mod member;
mod net;
mod raft;
mod reads;
mod rewrite;
mod usage;
mod witness;
mod world;

use std::collections::BTreeMap;

pub use faults::{Fault, Target, Trouble};
pub use flaw::Flaw;
pub use witness::Broken;

use crate::random::Random;
use world::World;

/// What is to happen: everything follows from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    pub seed: u64,
    pub nodes: u64,
    pub faults: Vec<Fault>,
}

/// How a run went.
#[derive(Clone, Debug)]
pub struct Report {
    pub broken: Option<Broken>,
    /// Faults, leaders and changes of the roll, with their times in ms.
    pub trace: Vec<String>,
    /// How often what happened.
    pub counts: BTreeMap<&'static str, u64>,
    pub events: u64,
}

impl Plan {
    /// What a seed says.
    pub fn of_seed(seed: u64) -> Self {
        let mut random = Random::new(seed ^ 0x5EED);
        let nodes = random.pick(&[3, 3, 5]);
        Self { seed, nodes, faults: faults::draw(&mut random, nodes) }
    }

    pub fn run(&self, flaw: Option<Flaw>) -> Report {
        let mut world = World::new(self.seed, self.nodes, self.faults.clone(), flaw);
        world.run();
        let witness = world.witness;
        Report { broken: witness.broken, trace: witness.trace, counts: witness.counts, events: world.events }
    }

    /// The same failure with as few faults as it takes. Dropping one changes everything after it, so what is left breaks
    /// the same promise and not always in the same way.
    pub fn shrink(&self, flaw: Option<Flaw>) -> Self {
        let Some(Broken { promise, .. }) = self.run(flaw).broken else { return self.clone() };
        let mut least = self.clone();
        let mut at = least.faults.len();
        while at > 0 {
            at -= 1;
            let mut fewer = least.clone();
            fewer.faults.remove(at);
            if fewer.run(flaw).broken.is_some_and(|broken| broken.promise == promise) {
                least = fewer;
            }
        }
        least
    }
}

impl std::fmt::Display for Plan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "seed {}\nnodes {}", self.seed, self.nodes)?;
        self.faults.iter().try_for_each(|fault| writeln!(f, "{fault}"))
    }
}
