//! One registered endpoint as the roll holds it.

use serde::{Deserialize, Serialize};

use crate::ids::{InstanceId, LeaseId, PrincipalId, Revision, TenantId, WallTime};
use crate::metadata::{Metadata, MetadataValue, Pair};
use crate::registration::{PackedRegistration, RegistrationView, Status};

/// How many earlier leases of an id are remembered, so that their holders learn that they were superseded. An older
/// holder is told by id, where the lease's number suffices, and by number that the lease is not found.
pub(crate) const SUPERSEDED_MAX: usize = 16;

/// What few instances have, so that none of it costs the others one word.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Seldom(Option<Box<Parts>>);

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Parts {
    reported_metadata: Option<Metadata>,
    superseded: Vec<LeaseId>,
    registered_by: Option<PrincipalId>,
}

impl Seldom {
    pub fn new(
        reported_metadata: Option<Metadata>,
        superseded: Vec<LeaseId>,
        registered_by: Option<PrincipalId>,
    ) -> Self {
        let is_there = reported_metadata.is_some() || !superseded.is_empty() || registered_by.is_some();
        Self(is_there.then(|| Box::new(Parts { reported_metadata, superseded, registered_by })))
    }

    /// Metadata that heartbeats merged in since the registration; kept apart so that a signature stays valid.
    pub fn reported_metadata(&self) -> Option<&Metadata> {
        self.0.as_ref()?.reported_metadata.as_ref()
    }

    /// Earlier leases of the id, newest last, so that a late heartbeat learns that it was superseded.
    pub fn superseded(&self) -> &[LeaseId] {
        self.0.as_ref().map_or(&[], |parts| &parts.superseded)
    }

    /// Who registered the instance, where requests carry an identity. Shown to nobody.
    pub fn registered_by(&self) -> Option<&PrincipalId> {
        self.0.as_ref()?.registered_by.as_ref()
    }

    pub(crate) fn with_reported(&self, metadata: Metadata) -> Self {
        Self::new(Some(metadata), self.superseded().to_vec(), self.registered_by().cloned())
    }

    /// Of the incarnation after the one with `lease`: of its reports nothing is left, and beyond the bound the oldest
    /// lease is forgotten.
    pub(crate) fn after(&self, lease: LeaseId, registered_by: Option<PrincipalId>) -> Self {
        let superseded = self.superseded();
        let kept = &superseded[(superseded.len() + 1).saturating_sub(SUPERSEDED_MAX)..];
        Self::new(None, [kept, &[lease]].concat(), registered_by)
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
    pub seldom: Seldom,
    /// What the instance last said of itself.
    pub reported_status: Status,
    /// The lease ran out and the instance waits to be reaped or to come back.
    pub lapsed: bool,
    pub lease: LeaseId,
    /// The revision of the last visible change.
    pub revision: Revision,
    pub created_revision: Revision,
    pub registered_at: WallTime,
}

impl Instance {
    pub fn id(&self) -> &str {
        self.registration.id()
    }

    /// About what it takes by itself, in memory or in a row.
    pub fn bytes(&self) -> usize {
        let reported = self.seldom.reported_metadata().map_or(0, Metadata::bytes);
        let registered_by = self.seldom.registered_by().map_or(0, |by| by.as_str().len());
        let seldom = reported + size_of_val(self.seldom.superseded()) + registered_by;
        size_of::<Self>() + self.registration.bytes() + seldom
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
        let reported = self.seldom.reported_metadata().and_then(|reported| reported.pairs().get(key));
        reported.or_else(|| self.registration().metadata.get(key))
    }

    /// The metadata as others see it, by key.
    pub fn metadata(&self) -> impl Iterator<Item = Pair<'_>> {
        let registration = self.registration();
        self.metadata_over(registration)
    }

    /// As [`Self::metadata`], for who has read the registration already.
    pub(crate) fn metadata_over<'a>(&'a self, registration: RegistrationView<'a>) -> impl Iterator<Item = Pair<'a>> {
        let reported = self.seldom.reported_metadata().map(Metadata::pairs).unwrap_or_default();
        registration.metadata.merge(reported)
    }
}
