//! What a read asks for, as query parameters.

use rollcall_api::ResumePoint;

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
    /// The healthiest first.
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

/// Which registrations to find, and how to answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DiscoverQuery {
    pub filters: Filters,
    /// At most this many in one answer, 1 to 1,000; default 50.
    pub limit: Option<u32>,
    /// `next_cursor` of the page before; the other filters stay the same.
    pub cursor: Option<String>,
    pub sort: Option<Sort>,
    pub consistency: Consistency,
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
        parameters.extend(self.consistency.parameters());
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
}

impl From<Filters> for WatchQuery {
    fn from(filters: Filters) -> Self {
        Self { filters, start: WatchStart::default() }
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
        ];
        assert_eq!(query.parameters(), expected.map(|(name, value)| (name, value.to_owned())));
    }
}
