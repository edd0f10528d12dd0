//! The last changes of other clusters' instances: what watchers of these are told from. Derived from the log, in no digest,
//! no checkpoint and no history of this roll, so that a cluster that tells everything anew pushes none of this one's
//! changes out; a restored state begins with none.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::history::ChangeKind;
use crate::ids::{PeerName, WallTime};
use crate::instance::Instance;

/// Changes kept: a few seconds of a cluster that tells all it has for the first time. Who falls behind by more begins
/// again with all there are.
const CHANGES_MAX: usize = 16_384;

/// The same by the size of what the changes replaced: twice as many bytes as the changes have at a kilobyte each.
const BYTES_MAX: usize = 32 << 20;

/// One change of an instance of another cluster, as it was taken here.
#[derive(Clone, Copy, Debug)]
pub struct PeerChange<'a> {
    /// Counts all such changes that this process has taken. It is no revision, and means nothing at another node.
    pub sequence: u64,
    pub peer: &'a PeerName,
    pub kind: ChangeKind,
    pub wall: WallTime,
    pub before: Option<&'a Arc<Instance>>,
    pub after: Option<&'a Arc<Instance>>,
}

impl<'a> PeerChange<'a> {
    /// The instance changed, as it was before if it is gone.
    pub fn instance(&self) -> &'a Arc<Instance> {
        self.after.or(self.before).expect("a change has a before or an after")
    }
}

#[derive(Debug)]
pub(super) struct Record {
    pub(super) peer: PeerName,
    pub(super) kind: ChangeKind,
    pub(super) wall: WallTime,
    pub(super) before: Option<Arc<Instance>>,
    pub(super) after: Option<Arc<Instance>>,
}

#[derive(Debug, Default)]
pub(crate) struct PeerChanges {
    records: VecDeque<Record>,
    bytes: usize,
    /// Everything up to here is forgotten or was never known. The first record has the next number.
    floor: u64,
}

impl PeerChanges {
    pub(super) fn push(&mut self, record: Record) {
        self.bytes += weight(&record);
        self.records.push_back(record);
        while self.records.len() > CHANGES_MAX || self.bytes > BYTES_MAX {
            let Some(oldest) = self.records.pop_front() else { break };
            self.bytes -= weight(&oldest);
            self.floor += 1;
        }
    }

    /// The number of the last change.
    pub(crate) fn last(&self) -> u64 {
        self.floor + self.records.len() as u64
    }

    /// The changes after one, in order; none if some of them are forgotten, or not known.
    pub(crate) fn after(&self, sequence: u64) -> Option<impl Iterator<Item = PeerChange<'_>>> {
        let known = usize::try_from(sequence.checked_sub(self.floor)?).ok()?;
        let after = (known <= self.records.len()).then(|| self.records.range(known..))?;
        Some(after.zip(sequence + 1..).map(|(record, sequence)| PeerChange {
            sequence,
            peer: &record.peer,
            kind: record.kind,
            wall: record.wall,
            before: record.before.as_ref(),
            after: record.after.as_ref(),
        }))
    }

    /// Numbers changes from behind those of a state that this one takes the place of. Whoever followed that one finds
    /// that what comes after is not known, wherever it was.
    pub(super) fn succeed(&mut self, before: &Self) {
        assert!(self.records.is_empty(), "a state takes another's place before it changes");
        self.floor = before.last() + 1;
    }

    /// # Panics
    /// When it contradicts itself.
    pub(super) fn assert_consistent(&self) {
        assert_eq!(
            self.bytes,
            self.records.iter().map(weight).sum::<usize>(),
            "the bytes of changes are counted wrong"
        );
    }
}

/// What a change keeps in memory that nothing else does.
fn weight(record: &Record) -> usize {
    size_of::<Record>() + record.before.as_ref().map_or(0, |before| before.bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{InstanceId, LeaseId, Revision, ServiceName, TenantId};
    use crate::instance::{Presence, Seldom};
    use crate::registration::{Registration, Status};

    fn instance(url_bytes: usize) -> Arc<Instance> {
        let id = InstanceId::parse("i").unwrap();
        let url = format!("http://{}", "x".repeat(url_bytes));
        Arc::new(Instance {
            tenant: TenantId::parse("t").unwrap(),
            registration: Registration::new(id, ServiceName::parse("web").unwrap(), &url, 1_000).pack(),
            seldom: Seldom::default(),
            reported_status: Status::Active,
            presence: Presence::Present,
            lease: LeaseId(0),
            revision: Revision(1),
            created_revision: Revision(1),
            registered_at: WallTime(0),
        })
    }

    fn gone(instance: &Arc<Instance>) -> Record {
        let peer = PeerName::parse("east").unwrap();
        let before = Some(instance.clone());
        Record { peer, kind: ChangeKind::Deregistered, wall: WallTime(0), before, after: None }
    }

    fn sequences_after(changes: &PeerChanges, sequence: u64) -> Option<Vec<u64>> {
        Some(changes.after(sequence)?.map(|change| change.sequence).collect())
    }

    #[test]
    fn changes_are_numbered_in_order() {
        let mut changes = PeerChanges::default();
        assert_eq!((changes.last(), sequences_after(&changes, 0)), (0, Some(vec![])));
        let instance = instance(1);
        (0..3).for_each(|_| changes.push(gone(&instance)));
        assert_eq!((changes.last(), sequences_after(&changes, 0)), (3, Some(vec![1, 2, 3])));
        assert_eq!(sequences_after(&changes, 2), Some(vec![3]));
        assert_eq!(sequences_after(&changes, 3), Some(vec![]));
        assert_eq!(sequences_after(&changes, 4), None, "it is not of this state");
    }

    #[test]
    fn they_are_bounded_and_who_is_behind_is_told_so() {
        let mut changes = PeerChanges::default();
        let small = instance(1);
        (0..CHANGES_MAX + 3).for_each(|_| changes.push(gone(&small)));
        assert_eq!(changes.last(), CHANGES_MAX as u64 + 3);
        assert_eq!(sequences_after(&changes, 2), None);
        assert_eq!(sequences_after(&changes, 3).map(|known| known.len()), Some(CHANGES_MAX));
        let large = instance(40_000);
        (0..CHANGES_MAX).for_each(|_| changes.push(gone(&large)));
        changes.assert_consistent();
        assert!(changes.bytes <= BYTES_MAX && changes.bytes > BYTES_MAX - 50_000, "{}", changes.bytes);
        let first = changes.last() - changes.records.len() as u64;
        assert_eq!((sequences_after(&changes, first - 1), changes.records.len() < 1_000), (None, true));
    }

    #[test]
    fn no_number_of_the_state_before_is_known_to_the_one_that_takes_its_place() {
        let (mut before, mut after) = (PeerChanges::default(), PeerChanges::default());
        let instance = instance(1);
        (0..3).for_each(|_| before.push(gone(&instance)));
        after.succeed(&before);
        for sequence in 0..=before.last() {
            assert_eq!(sequences_after(&after, sequence), None);
        }
        assert_eq!(sequences_after(&after, after.last()), Some(vec![]));
        after.push(gone(&instance));
        assert_eq!(sequences_after(&after, 3), None);
        assert_eq!(sequences_after(&after, 4), Some(vec![5]));
    }
}
