//! How the history is kept, so that watchers go on where they were after every node was restarted.
//!
//! A change is kept as what it replaced. What it made needs no second copy: each instance bears the revision that made
//! it, and stands on the roll or was replaced by a later change. So the history is put together from its end.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::State;
use super::checkpoint::RestoreError;
use crate::history::{ChangeKind, History, Record};
use crate::ids::{Revision, WallTime};
use crate::index::{Mark, Seeds};
use crate::instance::Instance;

/// A change as it is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Past {
    pub kind: ChangeKind,
    pub wall: WallTime,
    pub before: Option<Arc<Instance>>,
}

/// What of the history is not in the last checkpoint, and what is no longer in it.
#[derive(Debug)]
pub struct PastDelta {
    /// The first of the changes; each takes the revision after the one before it.
    pub first: Revision,
    pub changes: Vec<Past>,
    /// Everything up to here is forgotten.
    pub forgotten: Revision,
}

impl State {
    pub(super) fn take_past(&mut self) -> PastDelta {
        let forgotten = self.history.floor();
        let kept = std::mem::replace(&mut self.dirty.past, self.revision).max(forgotten);
        let changes = self.history.after(kept).into_iter().flatten();
        let changes =
            changes.map(|change| Past { kind: change.kind, wall: change.wall, before: change.before.cloned() });
        PastDelta { first: Revision(kept.0 + 1), changes: changes.collect(), forgotten }
    }

    /// Puts a history together that ends at the present.
    pub(super) fn restore_past(&mut self, past: Vec<Past>) -> Result<(), RestoreError> {
        let count = past.len() as u64;
        let Some(floor) = self.revision.0.checked_sub(count) else {
            return Err(RestoreError::PastTooLong { changes: count, revision: self.revision });
        };
        // What each change made, by its place.
        let mut made: Vec<Option<Arc<Instance>>> = vec![None; past.len()];
        let place = |revision: Revision| usize::try_from(revision.0.checked_sub(floor + 1)?).ok();
        for seat in self.seats.iter().flatten() {
            if let Some(made) = place(seat.instance.revision).and_then(|place| made.get_mut(place)) {
                *made = Some(seat.instance.clone());
            }
        }
        let seeds = Seeds::new(self.options.seed);
        let mut records = Vec::with_capacity(past.len());
        for (n, Past { kind, wall, before }) in past.into_iter().enumerate().rev() {
            let revision = Revision(floor + 1 + n as u64);
            let after = made[n].take();
            let before = before.map(|before| self.as_known(before, after.as_deref()));
            if !fits(kind, revision, before.as_deref(), after.as_deref()) {
                return Err(RestoreError::Past { revision });
            }
            let mark = before.as_deref().map_or(Mark::default(), |before| Mark::of(&seeds, before));
            if let Some(before) = &before
                && let Some(made) = place(before.revision).and_then(|place| made.get_mut(place))
            {
                *made = Some(before.clone());
            }
            records.push(Record { before, after, wall, kind, mark });
        }
        self.history = History::new(self.options.history, Revision(floor));
        for (n, record) in records.into_iter().rev().enumerate() {
            self.history.push(Revision(floor + 1 + n as u64), record);
        }
        self.dirty.past = self.revision;
        Ok(())
    }

    /// The instance with what it has in common with its successor and the roll, so that this is there but once.
    fn as_known(&self, before: Arc<Instance>, after: Option<&Instance>) -> Arc<Instance> {
        let mut before = Arc::unwrap_or_clone(before);
        before.tenant = self.known_tenant(before.tenant);
        if let Some(after) = after
            && after.registration == before.registration
        {
            before.registration = after.registration.clone();
        }
        Arc::new(before)
    }
}

/// Whether a change can have replaced one by the other.
fn fits(kind: ChangeKind, revision: Revision, before: Option<&Instance>, after: Option<&Instance>) -> bool {
    let is_older = before.is_none_or(|before| before.revision < revision);
    is_older
        && match (kind, before, after) {
            (ChangeKind::Registered, None, Some(_)) => true,
            (ChangeKind::Updated | ChangeKind::StatusChanged, Some(before), Some(after)) => {
                before.tenant == after.tenant && before.id() == after.id()
            }
            (ChangeKind::Deregistered | ChangeKind::Expired, Some(_), None) => true,
            _ => false,
        }
}
