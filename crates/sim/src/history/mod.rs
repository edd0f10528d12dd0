//! What clients asked for and were told, and whether it can all be true: nothing else is looked at, neither logs nor
//! states nor the order in which watchers were told.
//!
//! - [`check`] (P1, P8): for each instance there must be one order of its calls that explains every answer, in which no
//!   call comes before one that had been answered before it was asked. A call of unknown outcome may take its place at any
//!   time after it was asked, or never.
//! - [`Leases`] (P3, P5): no lease ends before its time after the last heartbeat that was acknowledged was sent.
//!
//! Stateright's tester of linearizability and its like keep every call in flight in every branch, and what has no known
//! outcome stays in flight for ever: in a storm that is one call in three. So the search here is the project's own.

mod leases;
mod search;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;

pub use leases::{Lease, Leases};

/// An instance, by number.
pub type Key = u64;

/// What was asked. No two calls bring in one value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    /// Brings in this value, whatever is there.
    Write {
        value: u64,
    },
    /// Brings in this value if nothing is there.
    Create {
        value: u64,
    },
    /// Brings in this value if this revision is there.
    Replace {
        value: u64,
        expected: u64,
    },
    Remove,
    /// A linearizable read.
    Read,
}

impl Ask {
    pub(crate) fn value(self) -> Option<u64> {
        match self {
            Self::Write { value } | Self::Create { value } | Self::Replace { value, .. } => Some(value),
            Self::Remove | Self::Read => None,
        }
    }
}

/// What came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// A write took effect as this revision.
    Done { revision: u64 },
    /// A read showed the instance's revision and value, or that it is not there.
    Shown(Option<(u64, u64)>),
    /// The condition did not hold.
    Refused,
    /// It certainly changed nothing.
    NotApplied,
    /// No answer, or one that leaves it open.
    Unknown,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    pub key: Key,
    /// By one clock for all clients, as is `told_us`.
    pub asked_us: u64,
    pub told_us: u64,
    pub ask: Ask,
    pub told: Told,
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { asked_us, told_us, ask, told, .. } = self;
        write!(f, "[{asked_us}..{told_us}] {ask:?} was told {told:?}")
    }
}

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    pub keys: u64,
    pub calls: u64,
    /// Places in orders that were tried.
    pub steps: u64,
    /// Answers that no order explains, in words.
    pub faults: Vec<String>,
    /// Of whom no order was found within the bound, and no proof that there is none.
    pub undecided: Vec<Key>,
}

/// Places that are tried for one instance.
pub const STEPS_MAX: u64 = 1_000_000;

/// Looks for an order of each instance's calls. Instances that end by themselves are not to be among them.
pub fn check(calls: &[Call], steps_max: u64) -> Report {
    let mut by_key: BTreeMap<Key, Vec<Call>> = BTreeMap::new();
    for call in calls {
        by_key.entry(call.key).or_default().push(*call);
    }
    let mut report = Report { keys: by_key.len() as u64, calls: calls.len() as u64, ..Report::default() };
    for (key, calls) in by_key {
        let known = match Known::of(&calls) {
            Ok(known) => known,
            Err(fault) => {
                report.faults.push(format!("P1: i-{key}: {fault}"));
                continue;
            }
        };
        let (verdict, steps) = search::search(&calls, &known, steps_max);
        report.steps += steps;
        match verdict {
            search::Verdict::Explained => {}
            search::Verdict::Undecided => report.undecided.push(key),
            search::Verdict::Violated(what) => report.faults.push(format!("P8: i-{key}: {what}")),
        }
    }
    report
}

/// What the answers say of an instance's values by themselves.
#[derive(Debug, Default)]
pub(crate) struct Known {
    /// The revision of each value that was told.
    pub revisions: BTreeMap<u64, u64>,
    pub values: BTreeMap<u64, u64>,
}

impl Known {
    fn of(calls: &[Call]) -> Result<Self, String> {
        let mut known = Self::default();
        let mut asked = BTreeMap::new();
        for call in calls {
            if let Some(value) = call.ask.value() {
                asked.insert(value, call);
            }
            match (call.ask.value(), call.told) {
                (Some(value), Told::Done { revision }) | (None, Told::Shown(Some((revision, value)))) => {
                    known.note(value, revision)?;
                }
                _ => {}
            }
        }
        for value in known.revisions.keys() {
            match asked.get(value) {
                None => return Err(format!("value {value} is there, and nobody brought it in")),
                Some(call) if matches!(call.told, Told::Refused | Told::NotApplied) => {
                    return Err(format!("value {value} is there, but {call}"));
                }
                Some(_) => {}
            }
        }
        Ok(known)
    }

    fn note(&mut self, value: u64, revision: u64) -> Result<(), String> {
        let first = *self.revisions.entry(value).or_insert(revision);
        let only = *self.values.entry(revision).or_insert(value);
        if first != revision {
            return Err(format!("value {value} was applied twice, as revision {first} and as {revision}"));
        }
        if only != value {
            return Err(format!("revision {revision} is value {only} and value {value}"));
        }
        Ok(())
    }
}
