//! By what results are ranked, and how one of them is picked.

use std::fmt;

use axum::http::Uri;
use rollcall_api::{RankWeights as Weights, Strategy};
use rollcall_registry::ids::{NAME_BYTES_MAX, check_name};
use rollcall_registry::{Coordinates, Filter, InstanceId, Place, Ranking, State, TenantId, VersionRange};
use rollcall_replica::Consistency;
use serde::Serialize;

use super::{Federated, Params};
use crate::parse::{is_stepped, stepped_rule};
use crate::reply::Failure;
use crate::translate;

/// Most ranges of one split: a release, its canary, and room for more of either.
const SPLIT_MAX: usize = 16;

/// Most that one range of a split can weigh.
const SPLIT_WEIGHT_MAX: u32 = 1_000_000;

/// Most capabilities that can be preferred: more tell apart nobody.
const PREFERRED_MAX: usize = 64;

/// What a request says of ranking. Where the requester is may yet have to be looked up on the roll.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct RankQuestion {
    ranking: Ranking,
    requester: Option<Box<str>>,
}

impl RankQuestion {
    /// With what the roll says of the requester, unless the request says where it is.
    pub(crate) fn ranking(&self, state: &State, tenant: &TenantId) -> Ranking {
        let mut ranking = self.ranking.clone();
        if ranking.requester.is_unknown()
            && let Some(id) = self.requester.as_ref().and_then(|id| InstanceId::parse(id).ok())
        {
            ranking.requester = state.place_of(tenant, &id);
        }
        ranking
    }
}

/// What is asked for with a pick.
#[derive(Clone, Debug)]
pub(crate) struct Picking {
    pub(crate) filter: Filter,
    pub(crate) rank: RankQuestion,
    pub(crate) strategy: Strategy,
    /// Ranges of versions and what share each is to have; none is one that has them all.
    pub(crate) split: Vec<(VersionRange, u32)>,
    pub(crate) explain: bool,
    pub(crate) consistency: Consistency,
    pub(crate) federated: Federated,
}

pub(crate) fn pick(uri: &Uri) -> Result<Picking, Failure> {
    let mut params = Params::of(uri);
    let filter = params.filter();
    let rank = params.rank();
    let strategies: Vec<_> = Strategy::ALL.iter().map(|strategy| (strategy.as_str(), *strategy)).collect();
    let strategy = params.one_of("strategy", &strategies).unwrap_or(Strategy::Rank);
    let split = params.split(!filter.versions.is_empty());
    let explain = params.explain();
    let consistency = params.consistency();
    let federated = params.federation();
    params.finish()?;
    Ok(Picking { filter, rank, strategy, split, explain, consistency, federated })
}

impl Params {
    pub(super) fn explain(&mut self) -> bool {
        self.one_of("explain", super::SWITCH).unwrap_or(false)
    }

    /// What goes with nothing but `sort=rank`.
    pub(super) fn only_ranked(&mut self) {
        for name in ["rank_weights", "preferred_capabilities", "explain"] {
            if self.given.contains_key(name) {
                self.faults.push(name, "needs sort=rank");
                self.given.remove(name);
            }
        }
    }

    pub(super) fn rank(&mut self) -> RankQuestion {
        let weights = self.rank_weights();
        let preferred = self.names("preferred_capabilities");
        if preferred.len() > PREFERRED_MAX {
            let count = preferred.len();
            self.faults
                .push("preferred_capabilities", format!("has {count} values, at most {PREFERRED_MAX} are allowed"));
        }
        let (region, zone) = (self.name("requester_region"), self.name("requester_zone"));
        let coordinates = self.coordinates();
        let requester = self.name("requester_id");
        RankQuestion {
            ranking: Ranking { weights, preferred, requester: Place { region, zone, coordinates } },
            requester,
        }
    }

    fn name(&mut self, name: &str) -> Option<Box<str>> {
        let text = self.single(name)?;
        match check_name(&text, NAME_BYTES_MAX) {
            Ok(()) => Some(text.into()),
            Err(error) => {
                self.faults.push(name, error.to_string());
                None
            }
        }
    }

    /// `capability:0.4,health:0.3`; what is left out counts nothing.
    fn rank_weights(&mut self) -> Option<rollcall_registry::RankWeights> {
        if !self.given.contains_key("rank_weights") {
            return None;
        }
        let given = self.many("rank_weights", true, |text| Weight::parse(text).map(|weight| weight.sortable()));
        let mut weights = Weights::default();
        for pair in given.windows(2).filter(|pair| pair[0].0 == pair[1].0) {
            self.faults.push("rank_weights", format!("names {} twice", pair[0].0));
        }
        for (part, thousandths) in given {
            let weight = match part {
                Part::Capability => &mut weights.capability,
                Part::Health => &mut weights.health,
                Part::Proximity => &mut weights.proximity,
                Part::Trust => &mut weights.trust,
            };
            *weight = f64::from(thousandths) / 1_000.0;
        }
        match translate::rank_weights_in(weights) {
            Ok(weights) => Some(weights),
            Err(error) => {
                self.faults.push("rank_weights", error.to_string());
                None
            }
        }
    }

    fn coordinates(&mut self) -> Option<Coordinates> {
        let mut degrees = |name: &str, max: f64| {
            let text = self.single(name)?;
            let degrees = text.parse::<f64>().ok().filter(|degrees| (-max..=max).contains(degrees));
            if degrees.is_none() {
                self.faults.push(name, format!("must be a number from -{max} to {max}"));
            }
            Some(degrees)
        };
        let (latitude, longitude) = (degrees("requester_latitude", 90.0), degrees("requester_longitude", 180.0));
        match (latitude, longitude) {
            (Some(_), None) => self.faults.push("requester_longitude", "is required with requester_latitude"),
            (None, Some(_)) => self.faults.push("requester_latitude", "is required with requester_longitude"),
            (Some(_), Some(_)) | (None, None) => {}
        }
        Coordinates::from_degrees([latitude??, longitude??]).ok()
    }

    /// `^1.4:95`, repeated.
    fn split(&mut self, has_version: bool) -> Vec<(VersionRange, u32)> {
        if has_version && self.given.contains_key("split") {
            self.faults.push("split", "cannot be combined with version: it names the ranges itself");
        }
        let split = self.many("split", false, share);
        if split.len() > SPLIT_MAX {
            self.faults.push("split", format!("has {} ranges, at most {SPLIT_MAX} are allowed", split.len()));
        }
        if !split.is_empty() && split.iter().all(|(_, weight)| *weight == 0) {
            self.faults.push("split", "must give some range a weight");
        }
        split
    }
}

#[derive(Debug, thiserror::Error)]
enum ShareError {
    #[error("must be RANGE:WEIGHT, as in `^1.4:95`")]
    WeightMissing,
    #[error("its weight must be a whole number from 0 to {SPLIT_WEIGHT_MAX}")]
    Weight,
    #[error("{0}")]
    Range(String),
}

fn share(text: &str) -> Result<(VersionRange, u32), ShareError> {
    let (range, weight) = text.rsplit_once(':').ok_or(ShareError::WeightMissing)?;
    let plain = weight.bytes().all(|b| b.is_ascii_digit());
    let weight = weight.parse().ok().filter(|weight| plain && *weight <= SPLIT_WEIGHT_MAX);
    let range = VersionRange::parse(range).map_err(|error| ShareError::Range(error.to_string()))?;
    Ok((range, weight.ok_or(ShareError::Weight)?))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    Capability,
    Health,
    Proximity,
    Trust,
}

const PARTS: [(&str, Part); 4] = [
    ("capability", Part::Capability),
    ("health", Part::Health),
    ("proximity", Part::Proximity),
    ("trust", Part::Trust),
];

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = PARTS.iter().find(|(_, part)| part == self).map_or("", |(word, _)| word);
        f.write_str(word)
    }
}

struct Weight(Part, f64);

#[derive(Debug, thiserror::Error)]
enum WeightError {
    #[error("must be PART:NUMBER with a part of capability, health, proximity, trust")]
    Part,
    #[error("{}", stepped_rule(1, 1_000))]
    Number,
}

impl Weight {
    fn parse(text: &str) -> Result<Self, WeightError> {
        let (word, number) = text.split_once(':').ok_or(WeightError::Part)?;
        let part = PARTS.iter().find(|(known, _)| *known == word).ok_or(WeightError::Part)?.1;
        let number = number.parse().ok().filter(|number| is_stepped(*number, 1, 1_000));
        Ok(Self(part, number.ok_or(WeightError::Number)?))
    }

    fn sortable(&self) -> (Part, u16) {
        (self.0, (self.1 * 1_000.0).round() as u16)
    }
}

#[cfg(test)]
mod tests {
    use rollcall_registry::RankWeights;

    use super::*;

    fn picking(query: &str) -> Result<Picking, Failure> {
        pick(&format!("/api/services/pick?{query}").parse().unwrap())
    }

    fn detail(query: &str) -> String {
        picking(query).expect_err(query).detail().to_owned()
    }

    #[test]
    fn weights_are_read_part_by_part() {
        let rank = picking("rank_weights=proximity:1,health:0.25").unwrap().rank;
        assert_eq!(rank.ranking.weights, Some(RankWeights::try_from([0, 250, 1_000, 0]).unwrap()));
        assert_eq!(picking("").unwrap().rank, RankQuestion::default());
        for (query, fault) in [
            ("rank_weights=speed:1", "must be PART:NUMBER"),
            ("rank_weights=health", "must be PART:NUMBER"),
            ("rank_weights=health:2", "must be a number from 0 to 1"),
            ("rank_weights=health:0.0001", "at most 3 decimals"),
            ("rank_weights=health:NaN", "must be a number"),
            ("rank_weights=health:1,health:0.5", "names health twice"),
            ("rank_weights=health:0", "not all 0"),
        ] {
            assert!(detail(query).contains(fault), "{query}: {}", detail(query));
        }
    }

    #[test]
    fn a_requester_is_somewhere_on_earth() {
        let rank = picking("requester_latitude=52.52&requester_longitude=13.405&requester_zone=a").unwrap().rank;
        let place = rank.ranking.requester;
        assert_eq!(place.coordinates, Some(Coordinates::from_degrees([52.52, 13.405]).unwrap()));
        assert_eq!(place.zone.as_deref(), Some("a"));
        assert!(detail("requester_latitude=1").contains("requester_longitude is required"));
        assert!(
            detail("requester_latitude=91&requester_longitude=x").contains("requester_longitude must be a number")
        );
        assert!(detail("requester_region=").contains("requester_region must not be empty"));
    }

    #[test]
    fn a_split_names_ranges_and_their_shares() {
        let split = picking("split=%5E1.4:95&split=%3E%3D2.0,%20%3C3:5").unwrap().split;
        let shares: Vec<_> = split.iter().map(|(range, weight)| (String::from(range.clone()), *weight)).collect();
        let expected = [(">=2.0, <3".to_owned(), 5), ("^1.4".to_owned(), 95)];
        assert!(expected.iter().all(|share| shares.contains(share)), "{shares:?}");
        for (query, fault) in [
            ("split=^1.4", "RANGE:WEIGHT"),
            ("split=^1.4:-1", "its weight must be"),
            ("split=^1.4:+1", "its weight must be"),
            ("split=%3E%3D:1", "split"),
            ("split=1:0&split=2:0", "some range a weight"),
            ("split=1:1&version=2", "cannot be combined"),
            ("strategy=best", "strategy must be one of rank, weighted, round_robin"),
        ] {
            assert!(detail(query).contains(fault), "{query}: {}", detail(query));
        }
    }
}
