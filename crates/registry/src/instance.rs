//! One registered endpoint as the roll holds it.

use serde::{Deserialize, Serialize};

use crate::ids::{InstanceId, LeaseId, Revision, TenantId, WallTime};
use crate::metadata::{Metadata, MetadataValue, Pair};
use crate::registration::{PackedRegistration, RegistrationView, Status};

/// How many earlier leases of an id are remembered, so that their holders learn that they were superseded. An older
/// holder is told by id, where the lease's number suffices, and by number that the lease is not found.
const SUPERSEDED_MAX: usize = 16;

/// Earlier leases of an id, the newest last. Few ids have any, so that none costs one word.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Vec<LeaseId>", into = "Vec<LeaseId>")]
pub struct Superseded(Option<Box<Leases>>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Leases(Vec<LeaseId>);

impl Superseded {
    pub fn as_slice(&self) -> &[LeaseId] {
        self.0.as_ref().map_or(&[], |leases| &leases.0)
    }

    /// One more; beyond the bound the oldest is forgotten.
    pub(crate) fn and(&self, lease: LeaseId) -> Self {
        let leases = self.as_slice();
        let kept = &leases[(leases.len() + 1).saturating_sub(SUPERSEDED_MAX)..];
        [kept, &[lease]].concat().into()
    }
}

impl From<Vec<LeaseId>> for Superseded {
    fn from(leases: Vec<LeaseId>) -> Self {
        Self((!leases.is_empty()).then(|| Box::new(Leases(leases))))
    }
}

impl From<Superseded> for Vec<LeaseId> {
    fn from(superseded: Superseded) -> Self {
        superseded.0.map_or_else(Self::new, |leases| leases.0)
    }
}

/// One registered endpoint: immutable, shared by readers, history and checkpoints. A change makes a new one; a renewal
/// makes none, because the deadline stands beside it.
///
/// There are as many as there are agents, so that every word counts: texts are behind thin pointers, and what few have
/// costs the others one word.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Instance {
    pub tenant: TenantId,
    pub registration: PackedRegistration,
    /// Metadata that heartbeats merged in since the registration; kept apart so that a signature stays valid.
    pub reported_metadata: Option<Metadata>,
    /// What the instance last said of itself.
    pub reported_status: Status,
    /// The lease ran out and the instance waits to be reaped or to come back.
    pub lapsed: bool,
    pub lease: LeaseId,
    /// The revision of the last visible change.
    pub revision: Revision,
    pub created_revision: Revision,
    pub registered_at: WallTime,
    /// Earlier leases of this id, so that a late heartbeat learns that it was superseded.
    pub superseded: Superseded,
}

impl Instance {
    pub fn id(&self) -> &str {
        self.registration.id()
    }

    /// What names the instance among all.
    pub fn key(&self) -> (TenantId, InstanceId) {
        (self.tenant.clone(), InstanceId::kept(self.id()))
    }

    pub fn registration(&self) -> RegistrationView<'_> {
        self.registration.view()
    }

    /// The status that others see.
    pub fn status(&self) -> Status {
        if self.lapsed { Status::Offline } else { self.reported_status }
    }

    /// One metadata value as others see it: what a heartbeat merged in wins.
    pub fn metadata_value(&self, key: &str) -> Option<MetadataValue<'_>> {
        let reported = self.reported_metadata.as_ref().and_then(|reported| reported.pairs().get(key));
        reported.or_else(|| self.registration().metadata.get(key))
    }

    /// The metadata as others see it, by key.
    pub fn metadata(&self) -> impl Iterator<Item = Pair<'_>> {
        let registration = self.registration();
        self.metadata_over(registration)
    }

    /// As [`Self::metadata`], for who has read the registration already.
    pub(crate) fn metadata_over<'a>(&'a self, registration: RegistrationView<'a>) -> impl Iterator<Item = Pair<'a>> {
        let reported = self.reported_metadata.as_ref().map(Metadata::pairs).unwrap_or_default();
        registration.metadata.merge(reported)
    }
}
