//! When each slot is to be looked at next: at the latest when it falls due.
//!
//! A renewal moves the deadline in its seat and not the schedule, which catches up when the old time comes: a heartbeat
//! costs nothing here, and a lease is looked at about once per TTL. What is far off stands in buckets, unsorted, at four
//! bytes each; a bucket is sorted when its time comes.

use std::collections::{BTreeMap, BTreeSet};

use crate::ids::{ClusterTime, LeaseId};
use crate::index::Slot;

/// A bucket's width. 30,000 registrations per second put some thousands into each: few enough to search through for one
/// that is removed, and to sort between two entries of the log.
const BUCKET_MS: u64 = 128;

/// Looked at, at that time, in the order of time and lease.
pub(super) type Appointment = (ClusterTime, LeaseId, Slot);

#[derive(Debug, Default)]
pub(super) struct Schedule {
    /// All before `opened`.
    near: BTreeSet<Appointment>,
    opened: ClusterTime,
    /// By the number of the bucket.
    far: BTreeMap<u64, Vec<Slot>>,
}

impl Schedule {
    pub(super) fn insert(&mut self, appointment: Appointment) {
        let (at, _, slot) = appointment;
        if at < self.opened {
            self.near.insert(appointment);
        } else {
            self.far.entry(at.0 / BUCKET_MS).or_default().push(slot);
        }
    }

    pub(super) fn remove(&mut self, appointment: Appointment) {
        let (at, _, slot) = appointment;
        let removed = if at < self.opened { self.near.remove(&appointment) } else { self.remove_far(at, slot) };
        assert!(removed, "slot {slot} was not scheduled at {at} ms");
    }

    fn remove_far(&mut self, at: ClusterTime, slot: Slot) -> bool {
        let number = at.0 / BUCKET_MS;
        let Some(bucket) = self.far.get_mut(&number) else { return false };
        let Some(place) = bucket.iter().position(|s| *s == slot) else { return false };
        bucket.swap_remove(place);
        if bucket.is_empty() {
            self.far.remove(&number);
        }
        true
    }

    /// The first appointment, if it is known already.
    pub(super) fn first_near(&self) -> Option<Appointment> {
        self.near.first().copied()
    }

    /// Opens the first bucket, if it begins by `up_to`: its slots are to be inserted again.
    pub(super) fn open(&mut self, up_to: ClusterTime) -> Option<Vec<Slot>> {
        let bucket = self.far.first_entry().filter(|bucket| bucket.key() * BUCKET_MS <= up_to.0)?;
        self.opened = ClusterTime((bucket.key() + 1) * BUCKET_MS);
        Some(bucket.remove())
    }

    pub(super) fn len(&self) -> usize {
        self.near.len() + self.far.values().map(Vec::len).sum::<usize>()
    }

    pub(super) fn contains(&self, appointment: Appointment) -> bool {
        let (at, _, slot) = appointment;
        if at < self.opened {
            self.near.contains(&appointment)
        } else {
            self.far.get(&(at.0 / BUCKET_MS)).is_some_and(|bucket| bucket.contains(&slot))
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Against one sorted set. Each slot has one appointment at most, as in the roll.
        #[test]
        fn whatever_is_due_comes_up_in_order(
            steps in vec((0u64..2_000, 0u32..30, any::<bool>(), 0u64..600), 0..200),
        ) {
            let (mut schedule, mut expected) = (Schedule::default(), BTreeSet::<Appointment>::new());
            let mut now = 0;
            for (after, slot, comes, passes) in steps {
                let appointment = (ClusterTime(now + after), LeaseId(u64::from(slot)), slot);
                if let Some(before) = expected.iter().find(|(_, _, s)| *s == slot).copied() {
                    prop_assert!(schedule.contains(before));
                    schedule.remove(before);
                    expected.remove(&before);
                    prop_assert!(!schedule.contains(before));
                }
                if comes {
                    schedule.insert(appointment);
                    expected.insert(appointment);
                }
                prop_assert_eq!(schedule.len(), expected.len());
                now += passes;
                // Everything due is taken, and nothing that is not.
                while expected.first().is_some_and(|first| first.0.0 <= now) {
                    if schedule.first_near().is_none() {
                        let opened = schedule.open(ClusterTime(now)).unwrap();
                        for slot in opened {
                            schedule.insert(*expected.iter().find(|(_, _, s)| *s == slot).unwrap());
                        }
                        continue;
                    }
                    let first = expected.pop_first().unwrap();
                    prop_assert_eq!(schedule.first_near(), Some(first));
                    schedule.remove(first);
                }
                prop_assert!(schedule.first_near().is_none_or(|near| Some(&near) == expected.first()));
            }
        }
    }
}
