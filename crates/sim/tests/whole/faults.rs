//! What goes wrong in a run, and when: drawn from the seed.

use std::fmt;

use rollcall_sim::random::Random;

/// How long faults come.
pub(crate) const TROUBLED_MS: u64 = 15_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Trouble {
    /// The process ends; what it wrote stays.
    Kill,
    /// The machine loses power, and what was not flushed.
    PowerLoss,
    KillAll,
    PowerLossOfAll,
    /// Nobody hears it, and it hears nobody.
    Isolate,
    /// The others do not hear it, but it hears them.
    Mute,
    /// It hears nobody, but the others hear it.
    Deafen,
    /// It and one other do not hear each other, and everybody else hears both.
    Part,
    /// Much is lost, late and out of order.
    Lossy,
    SlowDisk,
    /// The lead is handed over.
    Transfer,
    /// Another node is taken in, and votes once it has caught up.
    Join,
    /// A node is removed, if there are more than three.
    Remove,
}

/// One trouble, from when it comes until it is over.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fault {
    pub at_ms: u64,
    pub for_ms: u64,
    pub trouble: Trouble,
    /// Befalls the leader, if there is one then; else a node that the number chooses.
    pub leader: bool,
    pub number: u64,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { at_ms, for_ms, trouble, leader, number } = self;
        let whom = if *leader { "leader".to_owned() } else { format!("#{number}") };
        write!(f, "at {at_ms} {trouble:?} {whom} for {for_ms}")
    }
}

pub(crate) fn draw(random: &mut Random) -> Vec<Fault> {
    let count = random.between(4, 12);
    let mut faults: Vec<Fault> = (0..count)
        .map(|_| {
            let (trouble, most_ms) = match random.below(24) {
                0..=2 => (Trouble::Kill, 2_500),
                3..=5 => (Trouble::PowerLoss, 2_500),
                6 => (Trouble::KillAll, 3_000),
                7 => (Trouble::PowerLossOfAll, 3_000),
                8..=10 => (Trouble::Isolate, 4_000),
                11 => (Trouble::Mute, 4_000),
                12 => (Trouble::Deafen, 4_000),
                13 => (Trouble::Part, 4_000),
                14..=15 => (Trouble::Lossy, 4_000),
                16..=17 => (Trouble::SlowDisk, 4_000),
                18..=19 => (Trouble::Transfer, 0),
                20..=21 => (Trouble::Join, 0),
                _ => (Trouble::Remove, 0),
            };
            Fault {
                at_ms: random.below(TROUBLED_MS),
                for_ms: random.below(most_ms + 1),
                trouble,
                leader: random.permille(450),
                number: random.below(1_000),
            }
        })
        .collect();
    faults.sort_by_key(|fault| fault.at_ms);
    faults
}
