//! How the state is kept: what changed since the last checkpoint, and the way back from rows to a state.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Options, Session, State};
use crate::digest::Digest;
use crate::history::History;
use crate::ids::{ClusterTime, Epoch, InstanceId, LeaseId, Revision, TenantId, WallTime};
use crate::index::Slot;
use crate::instance::Instance;

/// What names an instance's row.
pub type InstanceKey = (TenantId, InstanceId);

/// The part of the state that is no row.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    pub epoch: Epoch,
    pub revision: Revision,
    pub now: ClusterTime,
    pub wall: WallTime,
    /// Each node's last batch and its answer, by node.
    pub sessions: BTreeMap<u64, Session>,
    /// Of the whole state, so that a restored one is known to be equal.
    pub digest: Digest,
}

/// What turns the rows of the last checkpoint into the present ones. Removals come before the rest.
#[derive(Debug)]
pub struct Delta {
    pub header: Header,
    pub removed: Vec<InstanceKey>,
    pub removed_leases: Vec<LeaseId>,
    pub instances: Vec<Arc<Instance>>,
    pub deadlines: Vec<(LeaseId, ClusterTime)>,
}

#[derive(Debug, Default)]
pub(super) struct Dirty {
    instances: Vec<Slot>,
    deadlines: Vec<Slot>,
    removed: Vec<InstanceKey>,
    removed_leases: Vec<LeaseId>,
}

/// What of a seat is not in the last checkpoint.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct SeatDirt {
    instance: bool,
    deadline: bool,
    /// The instance has a row.
    kept: bool,
    /// The deadline has a row, under the present lease.
    kept_deadline: bool,
}

impl State {
    pub fn header(&self) -> Header {
        Header {
            epoch: self.epoch,
            revision: self.revision,
            now: self.now,
            wall: self.wall,
            sessions: self.sessions.clone(),
            digest: self.digest(),
        }
    }

    /// How many instances came, changed or went since the last [`Self::take_delta`].
    pub fn unsaved(&self) -> usize {
        self.dirty.instances.len() + self.dirty.removed.len()
    }

    /// Takes what changed since the last call. The caller keeps it or stops: it is not told a second time.
    pub fn take_delta(&mut self) -> Delta {
        let dirty = std::mem::take(&mut self.dirty);
        let mut instances = Vec::with_capacity(dirty.instances.len());
        for slot in dirty.instances {
            // The slot may have been freed and taken again since.
            if let Some(seat) = &mut self.seats[slot as usize]
                && std::mem::take(&mut seat.dirty.instance)
            {
                seat.dirty.kept = true;
                instances.push(seat.instance.clone());
            }
        }
        let mut deadlines = Vec::with_capacity(dirty.deadlines.len());
        for slot in dirty.deadlines {
            if let Some(seat) = &mut self.seats[slot as usize]
                && std::mem::take(&mut seat.dirty.deadline)
            {
                seat.dirty.kept_deadline = true;
                deadlines.push((seat.instance.lease, seat.deadline));
            }
        }
        Delta {
            header: self.header(),
            removed: dirty.removed,
            removed_leases: dirty.removed_leases,
            instances,
            deadlines,
        }
    }

    pub(super) fn mark_instance(&mut self, slot: Slot) {
        if !std::mem::replace(&mut self.seat_mut(slot).dirty.instance, true) {
            self.dirty.instances.push(slot);
        }
    }

    pub(super) fn mark_deadline(&mut self, slot: Slot) {
        if !std::mem::replace(&mut self.seat_mut(slot).dirty.deadline, true) {
            self.dirty.deadlines.push(slot);
        }
    }

    /// Before an instance's lease is replaced.
    pub(super) fn mark_superseded(&mut self, slot: Slot, by: LeaseId) {
        let seat = self.seats[slot as usize].as_mut().expect("an indexed slot is taken");
        if seat.instance.lease != by && std::mem::take(&mut seat.dirty.kept_deadline) {
            self.dirty.removed_leases.push(seat.instance.lease);
        }
    }

    /// Before an instance is removed.
    pub(super) fn mark_removed(&mut self, slot: Slot) {
        let seat = self.seats[slot as usize].as_ref().expect("an indexed slot is taken");
        if seat.dirty.kept {
            self.dirty.removed.push(seat.instance.key());
        }
        if seat.dirty.kept_deadline {
            self.dirty.removed_leases.push(seat.instance.lease);
        }
    }
}

/// Why rows make no state. Each means that what was kept is not what was written.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    #[error("instance {id} of tenant {tenant} has no deadline for its lease {lease}")]
    DeadlineMissing { tenant: TenantId, id: InstanceId, lease: LeaseId },
    #[error("instance {id} of tenant {tenant} has two rows")]
    Twice { tenant: TenantId, id: InstanceId },
    #[error("lease {lease} is held twice")]
    LeaseTwice { lease: LeaseId },
    #[error("{deadlines} deadlines for {instances} instances")]
    DeadlineCount { deadlines: usize, instances: usize },
    #[error("the rows have the digest {found}, but {expected} was written")]
    Digest { found: Digest, expected: Digest },
}

/// A state in the making: first all deadlines in the order of their leases, then all instances.
#[derive(Debug)]
pub struct Restoring {
    state: State,
    expected: Digest,
    deadlines: Vec<(LeaseId, ClusterTime)>,
}

impl Restoring {
    pub fn new(options: Options, header: Header) -> Self {
        let mut state = State::new(options);
        state.epoch = header.epoch;
        state.revision = header.revision;
        state.now = header.now;
        state.wall = header.wall;
        state.sessions = header.sessions;
        state.history = History::new(options.history, header.revision);
        Self { state, expected: header.digest, deadlines: Vec::new() }
    }

    pub fn deadline(&mut self, lease: LeaseId, deadline: ClusterTime) {
        self.deadlines.push((lease, deadline));
    }

    pub fn instance(&mut self, mut instance: Instance) -> Result<(), RestoreError> {
        let lease = instance.lease;
        let Ok(at) = self.deadlines.binary_search_by_key(&lease, |d| d.0) else {
            let (tenant, id) = instance.key();
            return Err(RestoreError::DeadlineMissing { tenant, id, lease });
        };
        if self.state.slot(&instance.tenant, instance.id()).is_some() {
            let (tenant, id) = instance.key();
            return Err(RestoreError::Twice { tenant, id });
        }
        if self.state.lease_slot(lease).is_some() {
            return Err(RestoreError::LeaseTwice { lease });
        }
        instance.tenant = self.state.known_tenant(instance.tenant);
        let slot = self.state.seat_new(Arc::new(instance), self.deadlines[at].1);
        let seat = self.state.seat_mut(slot);
        seat.dirty = SeatDirt { kept: true, kept_deadline: true, ..SeatDirt::default() };
        Ok(())
    }

    pub fn finish(self) -> Result<State, RestoreError> {
        let (deadlines, instances) = (self.deadlines.len(), self.state.len());
        if deadlines != instances {
            return Err(RestoreError::DeadlineCount { deadlines, instances });
        }
        let (found, expected) = (self.state.digest(), self.expected);
        if found != expected {
            return Err(RestoreError::Digest { found, expected });
        }
        Ok(self.state)
    }
}
