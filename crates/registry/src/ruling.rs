//! What operators lay down for a tenant and what outlives the instances that it is about: orders for ids that are off the
//! roll, trust in owners, how results are ranked, who is checked, whether leases are protected, where alerts go, how much
//! it may have.

use serde::{Deserialize, Serialize};

use crate::alerting::{AlertTarget, ToldUpTo};
use crate::health::{Order, OrderKind, TenantChecks};
use crate::ids::{InstanceId, OwnerName, Revision, TargetName, TenantId};
use crate::protection::{Protection, Vigil};
use crate::quota::Quota;
use crate::rank::{RankWeights, Trust};

/// Ids of one tenant that may be under maintenance at once, on the roll or off it; as many owners may be trusted. They do
/// not lapse, so that nothing else would bound them.
pub const RULINGS_MAX: usize = 10_000;

/// Names a ruling within its tenant.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum RulingKey {
    Order(InstanceId),
    Trust(OwnerName),
    Ranking,
    Checks,
    Quota,
    Protection,
    Vigil,
    Target(TargetName),
}

/// A row of the table. Variants are only ever added at the end: the position is the format.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RulingContent {
    /// Maintenance of an id that is off the roll. While it is on the roll, the instance bears its orders itself.
    Order {
        id: InstanceId,
        order: Order,
    },
    Trust {
        owner: OwnerName,
        trust: Trust,
    },
    Ranking(RankWeights),
    Quota(Quota),
    Checks(TenantChecks),
    Protection(Protection),
    /// What is going on about the protection; no operator lays it down.
    Vigil(Vigil),
    /// Where alerts go, and how far they went.
    Target {
        name: TargetName,
        target: AlertTarget,
        told: ToldUpTo,
    },
}

impl RulingContent {
    pub fn key(&self) -> RulingKey {
        match self {
            Self::Order { id, .. } => RulingKey::Order(id.clone()),
            Self::Trust { owner, .. } => RulingKey::Trust(owner.clone()),
            Self::Ranking(_) => RulingKey::Ranking,
            Self::Quota(_) => RulingKey::Quota,
            Self::Checks(_) => RulingKey::Checks,
            Self::Protection(_) => RulingKey::Protection,
            Self::Vigil(_) => RulingKey::Vigil,
            Self::Target { name, .. } => RulingKey::Target(name.clone()),
        }
    }
}

/// A ruling and whose it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ruling {
    pub tenant: TenantId,
    pub content: RulingContent,
}

/// What an operator says. Variants are only ever added at the end: the position is the wire format.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RulingChange {
    /// Gives an order for an instance, or another reason for one that stands.
    Give {
        id: InstanceId,
        kind: OrderKind,
        reason: Option<Box<str>>,
    },
    Lift {
        id: InstanceId,
        kind: OrderKind,
    },
    /// None: nothing is known of the owner.
    Trust {
        owner: OwnerName,
        trust: Option<Trust>,
    },
    /// None: the default.
    Ranking(Option<RankWeights>),
    /// None: nothing is limited.
    Quota(Option<Quota>),
    /// None: the default.
    Checks(Option<TenantChecks>),
    /// None: leases are not protected.
    Protection(Option<Protection>),
    /// Ends protection that is in force, and lets those go that are held.
    Release,
    /// None: nothing is told there any more. A new target is told what changes from now on.
    Target {
        name: TargetName,
        target: Option<AlertTarget>,
    },
    /// A target was told of everything up to there. Only forward.
    Told {
        name: TargetName,
        told: ToldUpTo,
    },
}

impl RulingChange {
    /// About what it takes in a log entry.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Give { id, reason, .. } => id.as_str().len() + reason.as_ref().map_or(0, |reason| reason.len()),
            Self::Lift { id, .. } => id.as_str().len(),
            Self::Trust { owner, .. } => owner.as_str().len(),
            Self::Ranking(_) => size_of::<RankWeights>(),
            Self::Quota(_) => size_of::<Quota>(),
            Self::Checks(_) => size_of::<TenantChecks>(),
            Self::Protection(_) => size_of::<Protection>(),
            Self::Release => 0,
            Self::Target { name, target } => {
                let text = |target: &AlertTarget| target.url.len() + target.secret.expose().len();
                name.as_str().len() + target.as_ref().map_or(0, text) + size_of::<AlertTarget>()
            }
            Self::Told { name, .. } => name.as_str().len() + size_of::<ToldUpTo>(),
        }
    }
}

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ruled {
    /// It was not so before.
    pub changed: bool,
    /// The instance's, where the order is about one on the roll; else the roll's.
    pub revision: Revision,
}
