//! The last changes, newest at the back: what watchers are told from and what lets a reader see a revision that has
//! passed. Derived from the log, in no digest, and bounded; checkpoints keep it, so that a restart forgets nothing.

use std::collections::VecDeque;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::ids::{Revision, WallTime};
use crate::index::{Mark, Wanted};
use crate::instance::Instance;

/// What a change did, as watchers are told. Variants are only ever added at the end: the position is the format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ChangeKind {
    Registered,
    Updated,
    StatusChanged,
    Deregistered,
    Expired,
}

/// One visible change.
#[derive(Clone, Copy, Debug)]
pub struct Change<'a> {
    pub revision: Revision,
    pub kind: ChangeKind,
    pub wall: WallTime,
    pub before: Option<&'a Arc<Instance>>,
    pub after: Option<&'a Arc<Instance>>,
}

impl<'a> Change<'a> {
    /// The instance changed, as it was before if it is gone.
    pub fn instance(&self) -> &'a Arc<Instance> {
        self.after.or(self.before).expect("a change has a before or an after")
    }
}

/// How much history is kept. As soon as either bound is passed the oldest change is forgotten.
#[derive(Clone, Copy, Debug)]
pub struct HistoryLimits {
    pub changes_max: usize,
    /// By the size of what the changes replaced, estimated.
    pub bytes_max: usize,
}

impl Default for HistoryLimits {
    /// 60 s of 4,000 changes per second at half a kilobyte each.
    fn default() -> Self {
        Self { changes_max: 250_000, bytes_max: 128 << 20 }
    }
}

/// A change as it is kept: half a cache line each, because a look into the past goes through all of them. Each takes
/// the revision after the one before it, so that none is written down.
#[derive(Debug)]
pub(crate) struct Record {
    pub(crate) before: Option<Arc<Instance>>,
    pub(crate) after: Option<Arc<Instance>>,
    pub(crate) wall: WallTime,
    pub(crate) kind: ChangeKind,
    /// Of what stood before; of nobody if nothing did.
    pub(crate) mark: Mark,
}

#[derive(Debug)]
pub(crate) struct History {
    limits: HistoryLimits,
    records: VecDeque<Record>,
    bytes: usize,
    /// Everything up to here is forgotten or was never known. The first record's revision is the next.
    floor: Revision,
}

impl History {
    pub(crate) fn new(limits: HistoryLimits, floor: Revision) -> Self {
        Self { limits, records: VecDeque::new(), bytes: 0, floor }
    }

    pub(crate) fn push(&mut self, revision: Revision, record: Record) {
        let next = self.floor.0 + self.records.len() as u64 + 1;
        assert_eq!(revision.0, next, "a change was not recorded, or twice");
        self.bytes += weight(&record);
        self.records.push_back(record);
        while self.records.len() > self.limits.changes_max || self.bytes > self.limits.bytes_max {
            let Some(oldest) = self.records.pop_front() else { break };
            self.bytes -= weight(&oldest);
            self.floor.0 += 1;
        }
    }

    pub(crate) fn floor(&self) -> Revision {
        self.floor
    }

    /// The changes after `revision` in order, or none if some of them are forgotten.
    pub(crate) fn after(&self, revision: Revision) -> Option<impl DoubleEndedIterator<Item = Change<'_>>> {
        let known = self.records_after(revision)?.enumerate();
        Some(known.map(move |(n, record)| Change {
            revision: Revision(revision.0 + 1 + n as u64),
            kind: record.kind,
            wall: record.wall,
            before: record.before.as_ref(),
            after: record.after.as_ref(),
        }))
    }

    fn records_after(
        &self,
        revision: Revision,
    ) -> Option<impl DoubleEndedIterator<Item = &Record> + ExactSizeIterator> {
        let start = usize::try_from(revision.0.checked_sub(self.floor.0)?).ok()?;
        Some(self.records.range(start.min(self.records.len())..))
    }

    /// What of an instance, or of one that came before it under the same id, was on the roll at a revision that is not
    /// forgotten; none if it came later.
    pub(crate) fn version_at<'a>(
        &'a self,
        mut instance: &'a Arc<Instance>,
        revision: Revision,
    ) -> Option<&'a Arc<Instance>> {
        while instance.revision > revision {
            let place = instance.revision.0 - self.floor.0 - 1;
            instance = self.records[usize::try_from(place).ok()?].before.as_ref()?;
        }
        Some(instance)
    }

    /// What stood before each change after `revision` that may have replaced or removed what `wanted` looks for.
    pub(crate) fn replaced_after<'a>(
        &'a self,
        revision: Revision,
        wanted: &Wanted,
    ) -> impl Iterator<Item = (&'a Arc<Instance>, &'a Record)> {
        let records = self.records_after(revision).into_iter().flatten();
        let may_fit = records.filter(|record| wanted.may_fit(record.mark));
        may_fit.filter_map(|record| Some((record.before.as_ref()?, record)))
    }
}

/// What a change weighs: what it replaced, whole, as its row has it. In memory some of it may be shared with what came
/// after; but a checkpoint, a snapshot and a restart are bounded by the same limit.
fn weight(record: &Record) -> usize {
    size_of::<Record>() + record.before.as_ref().map_or(size_of::<Instance>(), |before| before.bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_records_fill_a_cache_line() {
        assert_eq!(size_of::<Record>(), 32);
    }
}
