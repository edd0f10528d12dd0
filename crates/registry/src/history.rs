//! The last changes, newest at the back: what watchers are told from and what lets a reader see a revision that has
//! passed. Derived from the log, in no snapshot and no digest, and bounded.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::ids::{Revision, WallTime};
use crate::registration::Instance;

/// What a change did, as watchers are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChangeKind {
    Registered,
    Updated,
    StatusChanged,
    Deregistered,
    Expired,
}

/// One visible change.
#[derive(Clone, Debug)]
pub struct Change {
    pub revision: Revision,
    pub kind: ChangeKind,
    pub wall: WallTime,
    pub before: Option<Arc<Instance>>,
    pub after: Option<Arc<Instance>>,
}

impl Change {
    /// The instance changed, as it was before if it is gone.
    pub fn instance(&self) -> &Arc<Instance> {
        self.after.as_ref().or(self.before.as_ref()).expect("a change has a before or an after")
    }
}

/// How much history is kept. As soon as either bound is passed the oldest change is forgotten.
#[derive(Clone, Copy, Debug)]
pub struct HistoryLimits {
    pub changes_max: usize,
    /// By the size of the registrations that only the history still holds, estimated.
    pub bytes_max: usize,
}

impl Default for HistoryLimits {
    /// 60 s of 4,000 changes per second at half a kilobyte each.
    fn default() -> Self {
        Self { changes_max: 250_000, bytes_max: 128 << 20 }
    }
}

#[derive(Debug)]
pub(crate) struct History {
    limits: HistoryLimits,
    changes: VecDeque<Change>,
    bytes: usize,
    /// Everything up to here is forgotten or was never known.
    floor: Revision,
}

impl History {
    pub(crate) fn new(limits: HistoryLimits, floor: Revision) -> Self {
        Self { limits, changes: VecDeque::new(), bytes: 0, floor }
    }

    pub(crate) fn push(&mut self, change: Change) {
        let newest = self.changes.back().map_or(self.floor, |c| c.revision);
        assert!(newest < change.revision, "change {} recorded after {newest}", change.revision);
        self.bytes += weight(&change);
        self.changes.push_back(change);
        while self.changes.len() > self.limits.changes_max || self.bytes > self.limits.bytes_max {
            let Some(oldest) = self.changes.pop_front() else { break };
            self.bytes -= weight(&oldest);
            self.floor = oldest.revision;
        }
    }

    pub(crate) fn floor(&self) -> Revision {
        self.floor
    }

    /// The changes after `revision` in order, or none if some of them are forgotten.
    pub(crate) fn after(&self, revision: Revision) -> Option<impl DoubleEndedIterator<Item = &Change>> {
        if revision < self.floor {
            return None;
        }
        let start = self.changes.partition_point(|c| c.revision <= revision);
        Some(self.changes.range(start..))
    }
}

/// What a change keeps alive: the replaced registration and reported metadata, if they were, and the change itself.
fn weight(change: &Change) -> usize {
    let Some(before) = &change.before else { return size_of::<Change>() + size_of::<Instance>() };
    let after = change.after.as_ref();
    let registration = match after {
        Some(after) if Arc::ptr_eq(&after.registration, &before.registration) => 0,
        _ => before.registration.approximate_bytes(),
    };
    let reported = match (&before.reported_metadata, after.and_then(|after| after.reported_metadata.as_ref())) {
        (Some(before), Some(after)) if Arc::ptr_eq(before, after) => 0,
        (Some(before), _) => before.approximate_bytes(),
        (None, _) => 0,
    };
    size_of::<Change>() + size_of::<Instance>() + size_of_val(&*before.superseded) + registration + reported
}
