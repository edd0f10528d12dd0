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
