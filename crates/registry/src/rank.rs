//! How good a choice an instance is: a weighted mean of what it can do, how it is, how near it is, and how far its owner
//! is trusted. Whole numbers throughout, so that every node puts the same results into the same order.
//!
//! Nothing in a score changes without a revision, a ruling or another question. How long ago the last heartbeat came is
//! therefore no part of it: the lease judges that, and the pages of one result must not change their order meanwhile.

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::Xxh3;

use crate::ids::TenantId;
use crate::instance::Instance;
use crate::place::{Coordinates, PERMILLE, nearness};
use crate::registration::{RegistrationView, Status};
use crate::state::Rulings;

/// How near an instance is, in thousandths.
const SAME_ZONE: u32 = PERMILLE;
const SAME_REGION: u32 = 800;
/// Nothing is known of one place that is known of the other.
const SOMEWHERE: u32 = 500;
const ELSEWHERE: u32 = 200;

/// What each part counts, in thousandths; only their proportion matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "[u16; 4]", into = "[u16; 4]")]
pub struct RankWeights {
    capability: u16,
    health: u16,
    proximity: u16,
    trust: u16,
}

/// Weights by which nothing can be ranked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("rank weights must be from 0 to 1, and not all 0")]
pub struct RankWeightsError;

impl Default for RankWeights {
    fn default() -> Self {
        Self { capability: 400, health: 300, proximity: 200, trust: 100 }
    }
}

impl TryFrom<[u16; 4]> for RankWeights {
    type Error = RankWeightsError;

    /// Capability, health, proximity and trust, in thousandths.
    fn try_from(weights: [u16; 4]) -> Result<Self, RankWeightsError> {
        let [capability, health, proximity, trust] = weights;
        let within = weights.iter().all(|weight| u32::from(*weight) <= PERMILLE);
        let weights = Self { capability, health, proximity, trust };
        if within && weights != (Self { capability: 0, health: 0, proximity: 0, trust: 0 }) {
            Ok(weights)
        } else {
            Err(RankWeightsError)
        }
    }
}

impl From<RankWeights> for [u16; 4] {
    fn from(weights: RankWeights) -> Self {
        let RankWeights { capability, health, proximity, trust } = weights;
        [capability, health, proximity, trust]
    }
}

/// How far an owner is trusted: from 0 to 10 points, in hundredths of a point.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "u16", into = "u16")]
pub struct Trust(u16);

/// More than there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("trust must be from 0 to 10")]
pub struct TrustError;

impl Trust {
    /// In an owner of whom nothing is known.
    const UNKNOWN: Self = Self(500);

    pub fn hundredths(self) -> u16 {
        self.0
    }

    /// Ten points are the whole, so that hundredths of a point are thousandths of it.
    fn permille(self) -> u32 {
        self.0.into()
    }
}

impl TryFrom<u16> for Trust {
    type Error = TrustError;

    fn try_from(hundredths: u16) -> Result<Self, TrustError> {
        if hundredths <= 1_000 { Ok(Self(hundredths)) } else { Err(TrustError) }
    }
}

impl From<Trust> for u16 {
    fn from(trust: Trust) -> Self {
        trust.0
    }
}

/// Where somebody is, as far as is known.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Place {
    pub region: Option<Box<str>>,
    pub zone: Option<Box<str>>,
    pub coordinates: Option<Coordinates>,
}

impl Place {
    pub fn is_unknown(&self) -> bool {
        *self == Self::default()
    }

    /// Where a registration says that its instance is.
    pub fn of(registration: &RegistrationView<'_>) -> Self {
        let text = |text: Option<&str>| text.map(Box::from);
        let extras = registration.extras;
        Self { region: text(extras.region), zone: text(extras.zone), coordinates: extras.coordinates }
    }

    /// How near an instance is, in thousandths.
    fn proximity(&self, registration: &RegistrationView<'_>) -> u32 {
        let extras = registration.extras;
        let same = |own: Option<&str>, other: Option<&str>| Some(own? == other?);
        let region = same(self.region.as_deref(), extras.region);
        let zone = same(self.zone.as_deref(), extras.zone);
        // Zones of one name in two regions are two zones.
        if zone == Some(true) && region != Some(false) {
            return SAME_ZONE;
        }
        let distance = self.coordinates.zip(extras.coordinates).map(|(own, other)| nearness(own, other));
        let named = match (region, zone) {
            (Some(true), _) => Some(SAME_REGION),
            (Some(false), _) | (None, Some(_)) => Some(ELSEWHERE),
            (None, None) => None,
        };
        named.max(distance).unwrap_or(SOMEWHERE)
    }
}

/// What results are ranked by, beside the state.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Ranking {
    /// None: the tenant's, or the default.
    pub weights: Option<RankWeights>,
    /// Capabilities that are wanted, but not demanded.
    pub preferred: Vec<Box<str>>,
    /// Where the requester is.
    pub requester: Place,
}

/// How good a choice an instance is, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Score {
    /// In millionths.
    pub total: u32,
    /// Goes behind all that are not, whatever the total.
    pub suspect: bool,
    /// The rest in thousandths.
    pub capability: u32,
    pub health: u32,
    pub proximity: u32,
    pub trust: u32,
}

impl Score {
    /// What results are sorted by, the highest first: whoever is not suspect is above the best who is.
    pub(crate) fn place(&self) -> u32 {
        if self.suspect { self.total } else { self.total + PERMILLE * PERMILLE + 1 }
    }
}

fn health(status: Status) -> u32 {
    match status {
        Status::Active => PERMILLE,
        Status::Degraded => 500,
        Status::Maintenance => 300,
        Status::Error => 100,
        Status::Offline => 0,
    }
}

/// A ranking with what the state has to say.
pub(crate) struct Ranker<'a> {
    ranking: &'a Ranking,
    weights: RankWeights,
    tenant: &'a TenantId,
    rulings: &'a Rulings,
    /// Nothing is asked for that needs a registration to be read.
    by_health_alone: bool,
}

impl<'a> Ranker<'a> {
    pub(crate) fn new(ranking: &'a Ranking, tenant: &'a TenantId, rulings: &'a Rulings) -> Self {
        let weights = ranking.weights.or_else(|| rulings.ranking(tenant)).unwrap_or_default();
        let by_health_alone =
            ranking.preferred.is_empty() && ranking.requester.is_unknown() && !rulings.trusts_anybody(tenant);
        Self { ranking, weights, tenant, rulings, by_health_alone }
    }

    pub(crate) fn score(&self, instance: &Instance) -> Score {
        let health = health(instance.status());
        let (capability, proximity, trust) = if self.by_health_alone {
            (PERMILLE, SOMEWHERE, Trust::UNKNOWN.permille())
        } else {
            let registration = instance.registration();
            let owner = registration.owner.and_then(|owner| self.rulings.trust(self.tenant, owner));
            let trust = owner.unwrap_or(Trust::UNKNOWN).permille();
            (self.capability(&registration), self.ranking.requester.proximity(&registration), trust)
        };
        let RankWeights { capability: by_capability, health: by_health, proximity: by_proximity, trust: by_trust } =
            self.weights;
        let parts = [(by_capability, capability), (by_health, health), (by_proximity, proximity), (by_trust, trust)];
        let sum: u64 = parts.iter().map(|(weight, part)| u64::from(*weight) * u64::from(*part)).sum();
        let weights: u64 = parts.iter().map(|(weight, _)| u64::from(*weight)).sum();
        let total = (sum * u64::from(PERMILLE) / weights) as u32;
        Score { total, suspect: instance.is_suspect(), capability, health, proximity, trust }
    }

    /// The share of what is preferred that is there.
    fn capability(&self, registration: &RegistrationView<'_>) -> u32 {
        let preferred = &self.ranking.preferred;
        if preferred.is_empty() {
            return PERMILLE;
        }
        let is_there = |name: &str| { registration.capabilities }.any(|own| own.name == name);
        let there = preferred.iter().filter(|name| is_there(name)).count();
        (there * PERMILLE as usize / preferred.len()) as u32
    }

    /// Differs, but for a chance of 2⁻⁶⁴, where another question or another ruling ranks.
    pub(crate) fn mark(&self) -> u64 {
        let mut hash = Xxh3::new();
        let mut text = |text: Option<&str>| {
            // No text is as long as that.
            let length = text.map_or(u64::MAX, |text| text.len() as u64);
            hash.update(&length.to_le_bytes());
            hash.update(text.unwrap_or_default().as_bytes());
        };
        let Ranking { weights: _, preferred, requester: Place { region, zone, coordinates } } = self.ranking;
        preferred.iter().for_each(|name| text(Some(name)));
        text(None);
        [region, zone].into_iter().for_each(|name| text(name.as_deref()));
        let [latitude, longitude] = coordinates.map_or([i32::MAX; 2], Coordinates::micro_degrees);
        hash.update(&latitude.to_le_bytes());
        hash.update(&longitude.to_le_bytes());
        <[u16; 4]>::from(self.weights).into_iter().for_each(|weight| hash.update(&weight.to_le_bytes()));
        hash.update(&self.rulings.trust_mark(self.tenant).to_le_bytes());
        hash.digest()
    }
}
