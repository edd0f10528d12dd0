//! One registered endpoint as the roll holds it.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::health::{self, Observed, Orders};
use crate::ids::{InstanceId, LeaseId, PrincipalId, Revision, TenantId, WallTime};
use crate::metadata::{Metadata, MetadataValue, Pair};
use crate::registration::{PackedRegistration, RegistrationView, Status};

/// How many earlier leases of an id are remembered, so that their holders learn that they were superseded. An older
/// holder is told by id, where the lease's number suffices, and by number that the lease is not found.
pub(crate) const SUPERSEDED_MAX: usize = 16;

/// What few instances have, so that none of it costs the others one word.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seldom(Option<Box<Parts>>);

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Parts {
    reported_metadata: Option<Metadata>,
    superseded: Vec<LeaseId>,
    registered_by: Option<PrincipalId>,
    orders: Orders,
    observed: Option<Observed>,
}

/// How it is kept. Variants are only ever added at the end: the position is the format.
#[derive(Deserialize)]
enum Kept {
    Nothing,
    Usual(Option<Metadata>, Vec<LeaseId>, Option<PrincipalId>),
    Whole(Option<Metadata>, Vec<LeaseId>, Option<PrincipalId>, Orders, Option<Observed>),
}

/// [`Kept`] of what stays where it is.
#[derive(Serialize)]
enum Keeping<'a> {
    Nothing,
    Usual(&'a Option<Metadata>, &'a [LeaseId], &'a Option<PrincipalId>),
    Whole(&'a Option<Metadata>, &'a [LeaseId], &'a Option<PrincipalId>, &'a Orders, Option<Observed>),
}

impl Serialize for Seldom {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let keeping = match self.0.as_deref() {
            None => Keeping::Nothing,
            Some(Parts { reported_metadata, superseded, registered_by, orders, observed }) => {
                if orders.is_empty() && observed.is_none() {
                    Keeping::Usual(reported_metadata, superseded, registered_by)
                } else {
                    Keeping::Whole(reported_metadata, superseded, registered_by, orders, *observed)
                }
            }
        };
        keeping.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Seldom {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self::of(match Kept::deserialize(deserializer)? {
            Kept::Nothing => Parts::default(),
            Kept::Usual(reported_metadata, superseded, registered_by) => {
                Parts { reported_metadata, superseded, registered_by, ..Parts::default() }
            }
            Kept::Whole(reported_metadata, superseded, registered_by, orders, observed) => {
                Parts { reported_metadata, superseded, registered_by, orders, observed }
            }
        }))
    }
}

impl Seldom {
    pub fn new(
        reported_metadata: Option<Metadata>,
        superseded: Vec<LeaseId>,
        registered_by: Option<PrincipalId>,
    ) -> Self {
        Self::of(Parts { reported_metadata, superseded, registered_by, ..Parts::default() })
    }

    fn of(parts: Parts) -> Self {
        Self((parts != Parts::default()).then(|| Box::new(parts)))
    }

    fn parts(&self) -> Parts {
        self.0.as_deref().cloned().unwrap_or_default()
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

    /// What operators ordered for the instance.
    pub fn orders(&self) -> &Orders {
        self.0.as_ref().map_or(Orders::NONE, |parts| &parts.orders)
    }

    /// What checks found of this incarnation.
    pub fn observed(&self) -> Option<Observed> {
        self.0.as_ref()?.observed
    }

    pub(crate) fn with_reported(&self, metadata: Metadata) -> Self {
        Self::of(Parts { reported_metadata: Some(metadata), ..self.parts() })
    }

    #[must_use]
    pub fn with_orders(&self, orders: Orders) -> Self {
        Self::of(Parts { orders, ..self.parts() })
    }

    #[must_use]
    pub fn with_observed(&self, observed: Option<Observed>) -> Self {
        Self::of(Parts { observed, ..self.parts() })
    }

    /// Of the incarnation after the one with `lease`: of its reports and of what checks found nothing is left, orders
    /// stand, and beyond the bound the oldest lease is forgotten.
    pub(crate) fn after(&self, lease: LeaseId, registered_by: Option<PrincipalId>) -> Self {
        let superseded = self.superseded();
        let kept = &superseded[(superseded.len() + 1).saturating_sub(SUPERSEDED_MAX)..];
        let superseded = [kept, &[lease]].concat();
        Self::of(Parts { superseded, registered_by, orders: self.orders().clone(), ..Parts::default() })
    }
}

/// How an instance stands with its lease. Variants are only ever added at the end: the position is the format.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Presence {
    /// Its lease has not run out, or nobody has looked yet.
    #[default]
    Present,
    /// The lease ran out and the instance waits to be reaped or to come back.
    Lapsed,
    /// The lease ran out, and protection keeps the instance on the roll as if it had not.
    Suspect,
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
    pub presence: Presence,
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

    /// Nobody is known to be there.
    pub fn is_lapsed(&self) -> bool {
        self.presence == Presence::Lapsed
    }

    /// Its lease ran out together with too many others for it to be believed.
    pub fn is_suspect(&self) -> bool {
        self.presence == Presence::Suspect
    }

    /// About what it takes by itself, in memory or in a row.
    pub fn bytes(&self) -> usize {
        let reported = self.seldom.reported_metadata().map_or(0, Metadata::bytes);
        let registered_by = self.seldom.registered_by().map_or(0, |by| by.as_str().len());
        let seldom = size_of_val(self.seldom.superseded()) + registered_by + self.seldom.orders().bytes();
        size_of::<Self>() + self.registration.bytes() + reported + seldom
    }

    /// What names the instance among all.
    pub fn key(&self) -> (TenantId, InstanceId) {
        (self.tenant.clone(), InstanceId::kept(self.id()))
    }

    pub fn registration(&self) -> RegistrationView<'_> {
        self.registration.view()
    }

    /// The status that others see, worked out from what the instance says, what operators ordered and what checks found.
    pub fn status(&self) -> Status {
        let observed = self.seldom.observed().map(|observed| observed.verdict);
        health::status(self.is_lapsed(), self.seldom.orders(), self.reported_status, observed)
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
