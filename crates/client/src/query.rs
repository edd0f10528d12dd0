//! What a read asks for, as query parameters.

use std::time::Duration;

use rollcall_api::{RankWeights, ResumePoint};

/// How fresh an answer has to be. The default is whatever the asked node shows now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Consistency {
    /// Show every write that was acknowledged before the request.
    pub linearizable: bool,
    /// Show at least this revision, for instance one's own write at another node.
    pub min_revision: Option<u64>,
    /// Refuse (`too_stale`) rather than show a state older than this.
    pub max_staleness_ms: Option<u64>,
}

impl Consistency {
    pub(crate) fn parameters(&self) -> Vec<(&'static str, String)> {
        let mut parameters = Vec::new();
        if self.linearizable {
            parameters.push(("consistency", "linearizable".to_owned()));
        }
        if let Some(revision) = self.min_revision {
            parameters.push(("min_revision", revision.to_string()));
        }
        if let Some(staleness_ms) = self.max_staleness_ms {
            parameters.push(("max_staleness_ms", staleness_ms.to_string()));
        }
        parameters
    }
}

/// The order of the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sort {
    Id,
    /// The best first.
    Rank,
    /// In the order of registration.
    Lease,
}

/// Which registrations are meant. Empty lists do not filter. All of `tags`, `capabilities` and `selectors` must hold; of
/// the other lists any value may.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filters {
    pub names: Vec<String>,
    pub types: Vec<String>,
    pub tags: Vec<String>,
    pub capabilities: Vec<String>,
    /// Default: everything but `offline`.
    pub statuses: Vec<String>,
    pub visibilities: Vec<String>,
    pub owners: Vec<String>,
    pub protocols: Vec<String>,
    /// Semver ranges, as `>=1.2, <2`.
    pub versions: Vec<String>,
    pub consumed_events: Vec<String>,
    pub produced_events: Vec<String>,
    pub regions: Vec<String>,
    pub zones: Vec<String>,
    /// Label selectors over the metadata, as `env=prod,tier in (a,b),!canary`.
    pub selectors: Vec<String>,
}

/// By what results are ranked, beside what operators laid down.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RankBy {
    /// Default: the tenant's.
    pub weights: Option<RankWeights>,
    /// Wanted, but not demanded: the more of these, the better.
    pub preferred_capabilities: Vec<String>,
    /// Where the requester is.
    pub region: Option<String>,
    pub zone: Option<String>,
    /// Latitude and longitude in degrees.
    pub coordinates: Option<[f64; 2]>,
    /// An instance whose locality is the requester's, unless that is said.
    pub requester_id: Option<String>,
    /// Show what each rank came of.
    pub explain: bool,
}

impl RankBy {
    fn parameters(&self) -> Vec<(&'static str, String)> {
        let mut parameters = Vec::new();
        if let Some(RankWeights { capability, health, proximity, trust }) = self.weights {
            let text = format!("capability:{capability},health:{health},proximity:{proximity},trust:{trust}");
            parameters.push(("rank_weights", text));
        }
        parameters.extend(self.preferred_capabilities.iter().map(|name| ("preferred_capabilities", name.clone())));
        let texts = [
            ("requester_region", &self.region),
            ("requester_zone", &self.zone),
            ("requester_id", &self.requester_id),
        ];
        parameters.extend(texts.into_iter().filter_map(|(name, text)| Some((name, text.clone()?))));
        if let Some([latitude, longitude]) = self.coordinates {
            parameters.push(("requester_latitude", latitude.to_string()));
            parameters.push(("requester_longitude", longitude.to_string()));
        }
        if self.explain {
            parameters.push(("explain", "true".to_owned()));
        }
        parameters
    }
}

/// Which registration to pick.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PickQuery {
    pub filters: Filters,
    /// Default: the best by rank.
    pub strategy: Option<rollcall_api::Strategy>,
    /// Semver ranges and what share each is to have, of which one is drawn first.
    pub split: Vec<(String, u32)>,
    pub rank: RankBy,
    pub consistency: Consistency,
    /// From instances of other clusters too.
    pub federated: Federated,
}

impl PickQuery {
    pub(crate) fn parameters(&self) -> Vec<(&'static str, String)> {
        let mut parameters = self.filters.parameters();
        parameters.extend(self.strategy.map(|strategy| ("strategy", strategy.to_string())));
        parameters.extend(self.split.iter().map(|(range, weight)| ("split", format!("{range}:{weight}"))));
        parameters.extend(self.rank.parameters());
        parameters.extend(self.consistency.parameters());
        parameters.extend(self.federated.parameters());
        parameters
    }
}

/// Which registrations to find, and how to answer.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DiscoverQuery {
    pub filters: Filters,
    /// At most this many in one answer, 1 to 1,000; default 50.
    pub limit: Option<u32>,
    /// `next_cursor` of the page before; the other filters stay the same.
    pub cursor: Option<String>,
    pub sort: Option<Sort>,
    /// What is ranked by, with [`Sort::Rank`].
    pub rank: RankBy,
    pub consistency: Consistency,
    /// Instances of other clusters too.
    pub federated: Federated,
}

/// Whether instances of other clusters are asked for too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Federated {
    #[default]
    No,
    /// As they told of them.
    Copy,
    /// As their rolls have them now: they are asked first. Each may take this long; without it what the server has as default.
    Live(Option<Duration>),
}

impl Federated {
    pub(crate) fn parameters(self) -> Vec<(&'static str, String)> {
        let live = || ("federated", "live".to_owned());
        match self {
            Self::No => Vec::new(),
            Self::Copy => vec![("include_federated", "true".to_owned())],
            Self::Live(None) => vec![live()],
            Self::Live(Some(patience)) => {
                vec![live(), ("federated_timeout_ms", patience.as_millis().to_string())]
            }
        }
    }
}

impl Filters {
    pub(crate) fn parameters(&self) -> Vec<(&'static str, String)> {
        let lists: [(&'static str, &[String]); 14] = [
            ("name", &self.names),
            ("type", &self.types),
            ("tags", &self.tags),
            ("capabilities", &self.capabilities),
            ("status", &self.statuses),
            ("visibility", &self.visibilities),
            ("owner", &self.owners),
            ("protocol", &self.protocols),
            ("version", &self.versions),
            ("consumed_event", &self.consumed_events),
            ("produced_event", &self.produced_events),
            ("region", &self.regions),
            ("zone", &self.zones),
            ("selector", &self.selectors),
        ];
        lists.into_iter().flat_map(|(name, values)| values.iter().map(move |v| (name, v.clone()))).collect()
    }
}

impl From<Filters> for DiscoverQuery {
    fn from(filters: Filters) -> Self {
        Self { filters, ..Self::default() }
    }
}

impl DiscoverQuery {
    pub(crate) fn parameters(&self) -> Vec<(&'static str, String)> {
        let mut parameters = self.filters.parameters();
        if let Some(limit) = self.limit {
            parameters.push(("limit", limit.to_string()));
        }
        if let Some(cursor) = &self.cursor {
            parameters.push(("cursor", cursor.clone()));
        }
        if let Some(sort) = self.sort {
            let word = match sort {
                Sort::Id => "id",
                Sort::Rank => "rank",
                Sort::Lease => "lease",
            };
            parameters.push(("sort", word.to_owned()));
        }
        parameters.extend(self.rank.parameters());
        parameters.extend(self.consistency.parameters());
        parameters.extend(self.federated.parameters());
        parameters
    }
}

/// Where a watch begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WatchStart {
    /// With everything that matches now.
    #[default]
    Snapshot,
    /// With the first change after this point, as [`Watch::resume_point`](crate::Watch::resume_point) told it.
    After(ResumePoint),
    /// With the first change after this revision of the roll as it is now, for instance one's own write. Where the roll
    /// was restored from a backup in between, only a [`ResumePoint`] can tell.
    AfterRevision(u64),
}

/// Which registrations to watch, and from where on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WatchQuery {
    pub filters: Filters,
    pub start: WatchStart,
    /// Instances of other clusters too. A watch that begins after a point tells of them as if all came then, and cannot
    /// tell who of those known before is gone.
    pub federated: bool,
}

impl WatchQuery {
    /// Without the start.
    pub(crate) fn parameters(&self) -> Vec<(&'static str, String)> {
        let mut parameters = self.filters.parameters();
        if self.federated {
            parameters.extend(Federated::Copy.parameters());
        }
        parameters
    }
}

impl From<Filters> for WatchQuery {
    fn from(filters: Filters) -> Self {
        Self { filters, ..Self::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_filter_becomes_a_parameter_and_an_empty_query_none() {
        assert!(DiscoverQuery::default().parameters().is_empty());
        let filters = Filters {
            tags: vec!["a".into(), "b".into()],
            selectors: vec!["env in (prod,dev)".into()],
            ..Filters::default()
        };
        let query = DiscoverQuery {
            filters,
            limit: Some(7),
            sort: Some(Sort::Rank),
            consistency: Consistency { linearizable: true, min_revision: Some(9), max_staleness_ms: None },
            federated: Federated::Live(Some(Duration::from_millis(250))),
            ..DiscoverQuery::default()
        };
        let expected = [
            ("tags", "a"),
            ("tags", "b"),
            ("selector", "env in (prod,dev)"),
            ("limit", "7"),
            ("sort", "rank"),
            ("consistency", "linearizable"),
            ("min_revision", "9"),
            ("federated", "live"),
            ("federated_timeout_ms", "250"),
        ];
        assert_eq!(query.parameters(), expected.map(|(name, value)| (name, value.to_owned())));
    }

    #[test]
    fn a_rank_is_asked_for_part_by_part() {
        let query = PickQuery {
            strategy: Some(rollcall_api::Strategy::RoundRobin),
            split: vec![("^1.4".into(), 95), (">=2, <3".into(), 5)],
            rank: RankBy {
                weights: Some(RankWeights { health: 0.25, proximity: 1.0, ..RankWeights::default() }),
                preferred_capabilities: vec!["ocr".into()],
                region: Some("eu".into()),
                coordinates: Some([52.52, -13.0]),
                explain: true,
                ..RankBy::default()
            },
            ..PickQuery::default()
        };
        let expected = [
            ("strategy", "round_robin"),
            ("split", "^1.4:95"),
            ("split", ">=2, <3:5"),
            ("rank_weights", "capability:0,health:0.25,proximity:1,trust:0"),
            ("preferred_capabilities", "ocr"),
            ("requester_region", "eu"),
            ("requester_latitude", "52.52"),
            ("requester_longitude", "-13"),
            ("explain", "true"),
        ];
        assert_eq!(query.parameters(), expected.map(|(name, value)| (name, value.to_owned())));
        assert!(PickQuery::default().parameters().is_empty());
    }
}
