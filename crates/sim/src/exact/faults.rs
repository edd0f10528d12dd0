//! What goes wrong in a run, and when. A plan is drawn from the seed and is otherwise plain data: it can be written down
//! as text, read back, and made smaller while the failure stays.

use std::fmt;
use std::str::FromStr;

use super::raft::Node;
use crate::random::Random;

/// Whom a fault befalls. Who leads is known only when it comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    Leader,
    Node(Node),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// Loses what was not flushed, and starts again from its disk.
    Crash(Target),
    CrashAll,
    /// The process stands still; its clock, its disk and the world go on.
    Pause(Target),
    PauseAll,
    /// Nobody hears it, and it hears nobody.
    Isolate(Target),
    /// The others do not hear it, but it hears them.
    Mute(Target),
    /// Much is lost, late, doubled and out of order.
    Storm,
    SlowDisk(Target),
    /// Another stands for election although there is a leader.
    Depose(Target),
}

/// One trouble, from when it comes until it is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    pub at_ms: u64,
    pub for_ms: u64,
    pub trouble: Trouble,
}

/// How long faults come in a run.
pub const TROUBLED_MS: u64 = 20_000;

pub(crate) fn draw(random: &mut Random, nodes: u64) -> Vec<Fault> {
    let count = random.between(3, 14);
    let mut faults: Vec<_> = (0..count)
        .map(|_| {
            let node = Target::Node(random.between(1, nodes));
            let target = if random.permille(500) { Target::Leader } else { node };
            let (trouble, most_ms) = match random.below(16) {
                0..=3 => (Trouble::Crash(target), 3_000),
                4 => (Trouble::CrashAll, 4_000),
                5..=6 => (Trouble::Pause(target), 6_000),
                7 => (Trouble::PauseAll, 6_000),
                8..=9 => (Trouble::Isolate(target), 5_000),
                10 => (Trouble::Mute(target), 4_000),
                11..=12 => (Trouble::Storm, 4_000),
                13 => (Trouble::SlowDisk(target), 4_000),
                _ => (Trouble::Depose(node), 0),
            };
            let at_ms = random.between(1_000, TROUBLED_MS - 1);
            Fault { at_ms, for_ms: random.below(most_ms + 1), trouble }
        })
        .collect();
    faults.sort_by_key(|fault| fault.at_ms);
    faults
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Leader => f.write_str("leader"),
            Self::Node(node) => write!(f, "{node}"),
        }
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Crash(target) => write!(f, "crash {target}"),
            Self::CrashAll => f.write_str("crash all"),
            Self::Pause(target) => write!(f, "pause {target}"),
            Self::PauseAll => f.write_str("pause all"),
            Self::Isolate(target) => write!(f, "isolate {target}"),
            Self::Mute(target) => write!(f, "mute {target}"),
            Self::Storm => f.write_str("storm"),
            Self::SlowDisk(target) => write!(f, "slow-disk {target}"),
            Self::Depose(target) => write!(f, "depose {target}"),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at {} {} for {}", self.at_ms, self.trouble, self.for_ms)
    }
}

/// A line that is no fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoFault(pub String);

impl fmt::Display for NoFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "expected `at MS TROUBLE [TARGET] for MS`, not `{}`", self.0)
    }
}

impl std::error::Error for NoFault {}

impl FromStr for Fault {
    type Err = NoFault;

    fn from_str(line: &str) -> Result<Self, NoFault> {
        let no_fault = || NoFault(line.to_owned());
        let words: Vec<&str> = line.split_whitespace().collect();
        let number = |text: &str| text.parse::<u64>().map_err(|_| no_fault());
        let (at, trouble, target, length) = match words.as_slice() {
            ["at", at, trouble, target, "for", length] => (at, trouble, *target, length),
            ["at", at, trouble, "for", length] => (at, trouble, "", length),
            _ => return Err(no_fault()),
        };
        let whom = || match target {
            "leader" => Ok(Target::Leader),
            node => number(node).map(Target::Node),
        };
        let trouble = match (*trouble, target) {
            ("crash", "all") => Trouble::CrashAll,
            ("crash", _) => Trouble::Crash(whom()?),
            ("pause", "all") => Trouble::PauseAll,
            ("pause", _) => Trouble::Pause(whom()?),
            ("isolate", _) => Trouble::Isolate(whom()?),
            ("mute", _) => Trouble::Mute(whom()?),
            ("storm", "") => Trouble::Storm,
            ("slow-disk", _) => Trouble::SlowDisk(whom()?),
            ("depose", _) => Trouble::Depose(whom()?),
            _ => return Err(no_fault()),
        };
        Ok(Self { at_ms: number(at)?, for_ms: number(length)?, trouble })
    }
}
