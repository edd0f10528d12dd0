//! What is asked of the state machine, and what it answers. Both travel: commands through the log, outcomes back to
//! the node that took the request.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::access::{AccessToken, AccessTokenCommand, AccessTokenRefusal, Actor};
use crate::definition::{Defined, DefinitionChange, DefinitionRefusal};
use crate::federation::{FederationCommand, FederationOutcome, FederationRefusal};
use crate::health::Verdict;
use crate::ids::{ClusterTime, FeatureLevel, InstanceId, LeaseId, Revision, TenantId, Term, WallTime};
use crate::metadata::Metadata;
use crate::quota::QuotaKind;
use crate::registration::{PackedRegistration, Status};
use crate::ruling::{Ruled, RulingChange};
use crate::state::{
    JoinToken, JoinTokenCommand, JoinTokenRefusal, OwnerKey, SignatureCommand, SignatureMode, SignatureRefusal,
    Signing,
};

/// The payload of one log entry: what was collected while the entry before it was in flight.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proposal {
    /// Cluster time at the leader when it proposed.
    pub stamp: ClusterTime,
    pub wall: WallTime,
    /// What may be applied twice: renewals and expiries.
    pub commands: Vec<Command>,
    /// What must be applied once, however often it is proposed.
    pub once: Vec<Once>,
}

impl Proposal {
    /// Commands of all sorts.
    pub fn len(&self) -> usize {
        self.commands.len() + self.once.iter().map(|once| once.commands.len()).sum::<usize>()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl fmt::Display for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} commands at {} ms", self.len(), self.stamp)
    }
}

/// What one node collected. When its answer is lost the node proposes it again under the same origin, perhaps through
/// another leader, and is told what the first application answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Once {
    pub origin: Origin,
    pub commands: Vec<Command>,
}

/// Names a batch. A node has one batch under way at a time, so that its last one is all that must be remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    pub node: u64,
    /// Counted up by the node, durably, whenever its process starts: a batch of an earlier process is told from the
    /// present one's, and the earlier of the two is known.
    pub start: u64,
    /// Counted up by the process.
    pub batch: u64,
}

/// One command. Variants are only ever added at the end: the position is the wire format.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    Register {
        tenant: TenantId,
        registration: PackedRegistration,
        condition: Condition,
    },
    /// Renews leases and nothing else. The leases are one tenant's; another's are told as not found.
    Renew {
        tenant: TenantId,
        leases: LeaseSet,
    },
    /// A heartbeat that names the instance, or says more than that it is alive.
    Beat {
        tenant: TenantId,
        id: InstanceId,
        /// The lease the sender believes to hold; none renews whatever is current.
        lease: Option<LeaseId>,
        status: Option<Status>,
        metadata: Option<Metadata>,
    },
    Deregister {
        tenant: TenantId,
        id: InstanceId,
        lease: Option<LeaseId>,
        condition: Condition,
    },
    /// Strikes off what lapsed, at most `limit` instances. Proposed by the leader of `term` alone; an entry that made
    /// it into the log of another term does nothing.
    Expire {
        term: Term,
        up_to: ClusterTime,
        limit: u32,
    },
    /// About the tokens with which nodes join.
    JoinToken(JoinTokenCommand),
    /// Changes what agents agreed upon, beside the roll.
    Define {
        tenant: TenantId,
        change: DefinitionChange,
    },
    /// About the tokens that prove who asks.
    AccessToken(AccessTokenCommand),
    /// A write on somebody's behalf, who may not be allowed it.
    By {
        actor: Actor,
        tenant: TenantId,
        write: Write,
    },
    /// What an operator lays down.
    Rule {
        tenant: TenantId,
        change: RulingChange,
    },
    /// What checks found of an incarnation. It renews nothing.
    Observe {
        tenant: TenantId,
        id: InstanceId,
        lease: LeaseId,
        verdict: Verdict,
    },
    /// A registration with what its edge knows of its signature. `Register` is one whose edge knows nothing of any.
    RegisterSigned {
        tenant: TenantId,
        registration: PackedRegistration,
        condition: Condition,
        signing: Signing,
    },
    /// As `RegisterSigned`, to take off. A signature is for the instance with the lease, which is then named.
    DeregisterSigned {
        tenant: TenantId,
        id: InstanceId,
        lease: Option<LeaseId>,
        condition: Condition,
        signing: Signing,
    },
    /// What operators change about signatures.
    Signatures(SignatureCommand),
    /// About other clusters, and what they tell.
    Federation(FederationCommand),
    /// Nobody checks an incarnation any more: what checks found of it is forgotten.
    Unchecked {
        tenant: TenantId,
        id: InstanceId,
        lease: LeaseId,
    },
}

/// What a command of the same name does, on somebody's behalf. No command itself, so that none holds another: whatever is
/// decoded ends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Write {
    Register {
        registration: PackedRegistration,
        condition: Condition,
    },
    /// Leases of others in the tenant are told as not found.
    Renew {
        leases: LeaseSet,
    },
    Beat {
        id: InstanceId,
        lease: Option<LeaseId>,
        status: Option<Status>,
        metadata: Option<Metadata>,
    },
    Deregister {
        id: InstanceId,
        lease: Option<LeaseId>,
        condition: Condition,
    },
    RegisterSigned {
        registration: PackedRegistration,
        condition: Condition,
        signing: Signing,
    },
    DeregisterSigned {
        id: InstanceId,
        lease: Option<LeaseId>,
        condition: Condition,
        signing: Signing,
    },
}

impl Command {
    /// What a node must be able to read to take part in a cluster whose log has this.
    pub fn feature_level(&self) -> FeatureLevel {
        let asks = |registration: &PackedRegistration| registration.view().extras.health_check.is_some();
        match self {
            Self::Register { registration, .. }
            | Self::RegisterSigned { registration, .. }
            | Self::By {
                write: Write::Register { registration, .. } | Write::RegisterSigned { registration, .. },
                ..
            } if asks(registration) => FeatureLevel(5),
            Self::Register { registration, .. } | Self::By { write: Write::Register { registration, .. }, .. }
                if registration.view().extras.coordinates.is_some() =>
            {
                FeatureLevel(4)
            }
            Self::Register { .. }
            | Self::Renew { .. }
            | Self::Beat { .. }
            | Self::Deregister { .. }
            | Self::Expire { .. } => FeatureLevel(1),
            Self::JoinToken(_) | Self::Define { .. } => FeatureLevel(2),
            Self::By { write: Write::RegisterSigned { .. } | Write::DeregisterSigned { .. }, .. } => FeatureLevel(4),
            Self::AccessToken(_) | Self::By { .. } => FeatureLevel(3),
            Self::Rule {
                change:
                    RulingChange::Checks(_)
                    | RulingChange::Quota(_)
                    | RulingChange::Protection(_)
                    | RulingChange::Release
                    | RulingChange::Target { .. }
                    | RulingChange::Told { .. },
                ..
            }
            | Self::Unchecked { .. }
            | Self::Federation(_) => FeatureLevel(5),
            Self::Rule { .. }
            | Self::Observe { .. }
            | Self::RegisterSigned { .. }
            | Self::DeregisterSigned { .. }
            | Self::Signatures(_) => FeatureLevel(4),
        }
    }

    /// The same on somebody's behalf, if it is a write of the roll.
    #[must_use]
    pub fn by(self, actor: Actor) -> Self {
        let (tenant, write) = match self {
            Self::Register { tenant, registration, condition } => {
                (tenant, Write::Register { registration, condition })
            }
            Self::Renew { tenant, leases } => (tenant, Write::Renew { leases }),
            Self::Beat { tenant, id, lease, status, metadata } => {
                (tenant, Write::Beat { id, lease, status, metadata })
            }
            Self::Deregister { tenant, id, lease, condition } => (tenant, Write::Deregister { id, lease, condition }),
            Self::RegisterSigned { tenant, registration, condition, signing } => {
                (tenant, Write::RegisterSigned { registration, condition, signing })
            }
            Self::DeregisterSigned { tenant, id, lease, condition, signing } => {
                (tenant, Write::DeregisterSigned { id, lease, condition, signing })
            }
            Self::Expire { .. }
            | Self::JoinToken(_)
            | Self::Define { .. }
            | Self::AccessToken(_)
            | Self::By { .. }
            | Self::Rule { .. }
            | Self::Observe { .. }
            | Self::Signatures(_)
            | Self::Federation(_)
            | Self::Unchecked { .. } => return self,
        };
        Self::By { actor, tenant, write }
    }
}

/// What must hold for a write to take place, and what it makes of what stands there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Condition {
    None,
    /// `If-None-Match: *`: the id is not on the roll.
    Absent,
    /// `If-Match: *`: the id is on the roll.
    Present,
    /// `If-Match: "REVISION"`: the id's last change is this one.
    Unchanged(Revision),
    /// Nothing must hold, and a registration is a new incarnation even if it says what the one before it said: for
    /// contracts whose clients know no leases and are listed in the order in which they last registered.
    Anew,
}

/// Distinct lease ids in ascending order. In a log entry each costs the few bytes of its distance to the one before.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LeaseSet(Vec<LeaseId>);

impl LeaseSet {
    pub fn new(mut leases: Vec<LeaseId>) -> Self {
        leases.sort_unstable();
        leases.dedup();
        Self(leases)
    }

    pub fn as_slice(&self) -> &[LeaseId] {
        &self.0
    }

    pub fn contains(&self, lease: LeaseId) -> bool {
        self.0.binary_search(&lease).is_ok()
    }
}

impl Serialize for LeaseSet {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut before = 0;
        serializer.collect_seq(self.0.iter().map(|lease| {
            let distance = lease.0 - before;
            before = lease.0;
            distance
        }))
    }
}

impl<'de> Deserialize<'de> for LeaseSet {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut leases: Vec<LeaseId> = Deserialize::deserialize(deserializer)?;
        let mut before = 0u64;
        for (n, lease) in leases.iter_mut().enumerate() {
            if n > 0 && lease.0 == 0 {
                return Err(serde::de::Error::custom("a lease stands twice in a lease set"));
            }
            before = before
                .checked_add(lease.0)
                .ok_or_else(|| serde::de::Error::custom("a lease set runs past the largest lease"))?;
            lease.0 = before;
        }
        Ok(Self(leases))
    }
}

/// What became of one command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    Registered(Registered),
    /// The leases of a `Renew` that were not renewed; all others were.
    Renewed {
        not_found: LeaseSet,
        superseded: LeaseSet,
    },
    Beaten(Beaten),
    Deregistered {
        revision: Revision,
    },
    /// How many instances turned offline or suspect or were removed, and whether more were due than the limit let through.
    Expired {
        count: u32,
        more: bool,
    },
    Refused(Refusal),
    /// The token as it is now, or was when it was revoked.
    JoinToken(Box<JoinToken>),
    Defined(Defined),
    /// The token as it is now.
    AccessToken(Box<AccessToken>),
    /// That tokens are used was noted.
    Noted,
    Ruled(Ruled),
    /// The instance's revision.
    Observed {
        revision: Revision,
    },
    /// An owner with their key as it is now, or was when it was removed.
    OwnerKey {
        key: OwnerKey,
        pinned_at: WallTime,
    },
    /// How a tenant now takes signatures, if it says so itself.
    SignatureMode(Option<SignatureMode>),
    Federation(Box<FederationOutcome>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registered {
    /// The id was not on the roll before.
    pub created: bool,
    pub lease: LeaseId,
    /// The instance's revision; an earlier one when the registration was a renewal.
    pub revision: Revision,
    pub created_revision: Revision,
    pub registered_at: WallTime,
    pub deadline: ClusterTime,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Beaten {
    pub lease: LeaseId,
    pub ttl_ms: u32,
    pub revision: Revision,
}

/// A deterministic no: part of the replicated answer, equal on every node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    #[error("no such instance is on the roll")]
    NotRegistered,
    #[error("the instance does not hold that lease")]
    LeaseNotFound,
    #[error("a newer registration holds the instance, with lease {by}")]
    Superseded { by: LeaseId },
    #[error("the instance is at revision {}", current.map_or("none".to_owned(), |r| r.to_string()))]
    ConditionFailed { current: Option<Revision> },
    #[error("proposed in term {proposed}, but the entry is of term {entry}")]
    StaleTerm { proposed: Term, entry: Term },
    /// A later batch of the same node, or of a later process of it, was answered already: nobody waits for this one.
    #[error("the batch is older than the last one of its node")]
    BatchOutdated,
    /// What heartbeats merged in so far and this patch together are more than an instance may report.
    #[error("the reported metadata would be {bytes} bytes long, at most {bytes_max} are allowed")]
    MetadataTooLarge { bytes: u64, bytes_max: u64 },
    #[error(transparent)]
    JoinToken(#[from] JoinTokenRefusal),
    #[error(transparent)]
    Definition(DefinitionRefusal),
    #[error(transparent)]
    AccessToken(#[from] AccessTokenRefusal),
    /// Whoever asks has power over what is its own, or over other services.
    #[error("the instance was registered by somebody else")]
    NotYours,
    #[error("the tenant has {max} of these already, as many as are kept; take back some that are of no more use")]
    TooManyRulings { max: u32 },
    #[error("what was to be laid down is beyond what is kept")]
    RulingOutOfBounds,
    #[error(transparent)]
    Signature(#[from] SignatureRefusal),
    #[error(transparent)]
    Federation(#[from] FederationRefusal),
    /// What stands stays, and goes on being renewed.
    #[error("the tenant's quota allows no more {kind}: {used} of {limit} are in use")]
    QuotaExceeded { kind: QuotaKind, limit: u64, used: u64 },
    #[error("{max} tenants have a quota already, as many as may")]
    TooManyQuotas { max: u32 },
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::Power;
    use crate::ids::{PrincipalId, ServiceName};
    use crate::place::Coordinates;
    use crate::registration::{JsonText, Registration};

    #[test]
    fn a_lease_set_is_sorted_and_distinct() {
        let set = LeaseSet::new(vec![LeaseId(7), LeaseId(3), LeaseId(7)]);
        assert_eq!(set.as_slice(), [LeaseId(3), LeaseId(7)]);
        assert!(set.contains(LeaseId(7)));
        assert!(!set.contains(LeaseId(4)));
    }

    #[test]
    fn a_registration_that_an_older_node_cannot_read_is_of_a_later_level() {
        let tenant = TenantId::parse("t").unwrap();
        let (id, name) = (InstanceId::parse("a").unwrap(), ServiceName::parse("n").unwrap());
        let level = |coordinates| {
            let mut registration = Registration::new(id.clone(), name.clone(), "http://a", 1_000);
            registration.extras.coordinates = coordinates;
            let (registration, condition) = (registration.pack(), Condition::None);
            let command = Command::Register { tenant: tenant.clone(), registration, condition };
            let actor = Actor { principal: PrincipalId::parse("token:1").unwrap(), power: Power::Own };
            (command.feature_level().0, command.by(actor).feature_level().0)
        };
        assert_eq!(level(None), (1, 3));
        assert_eq!(level(Some(Coordinates::from_micro_degrees([1, 2]).unwrap())), (4, 4));
        let actor = Actor { principal: PrincipalId::parse("token:1").unwrap(), power: Power::Own };
        let signing = Signing { mode: SignatureMode::default(), key: None };
        let (lease, condition) = (None, Condition::None);
        let mut registration = Registration::new(id.clone(), name, "http://a", 1_000);
        registration.extras.health_check = Some(JsonText("{}".into()));
        let (registration, checked) = (registration.pack(), tenant.clone());
        let checked = Command::RegisterSigned { tenant: checked, registration, condition, signing };
        assert_eq!((checked.feature_level().0, checked.by(actor.clone()).feature_level().0), (5, 5));
        let signed = Command::DeregisterSigned { tenant, id, lease, condition, signing };
        assert_eq!((signed.feature_level().0, signed.by(actor).feature_level().0), (4, 4));
    }
}
