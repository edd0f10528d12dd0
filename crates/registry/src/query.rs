//! Discovery: what is asked, and how it is answered from posting lists.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

use roaring::RoaringBitmap;
use semver::{Version, VersionReq};
use serde::{Deserialize, Serialize};

use crate::ids::{ClusterTime, InstanceId, Revision, TenantId};
use crate::index::{Index, Slot, Term};
use crate::registration::{Instance, Kind, Protocol, Status, Visibility};
use crate::selector::{Requirement, Selector};
use crate::state::State;

/// Largest page. 1,000 registrations of a few hundred bytes stay under a megabyte of answer.
pub const LIMIT_MAX: usize = 1_000;

/// What an instance must be to be found. An empty list asks for nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Filter {
    pub names: Vec<Box<str>>,
    pub kinds: Vec<Kind>,
    /// All of them.
    pub tags: Vec<Box<str>>,
    /// All of them.
    pub capabilities: Vec<Box<str>>,
    /// Empty: everything but offline.
    pub statuses: Vec<Status>,
    pub visibilities: Vec<Visibility>,
    pub owners: Vec<Box<str>>,
    pub protocols: Vec<Protocol>,
    pub versions: Vec<VersionRange>,
    pub consumed_events: Vec<Box<str>>,
    pub produced_events: Vec<Box<str>>,
    pub regions: Vec<Box<str>>,
    pub zones: Vec<Box<str>>,
    pub selector: Selector,
}

/// A semver range. A version that is no semver is in no range but the one that is spelled the same.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct VersionRange {
    text: String,
    /// None matches the text itself.
    range: Option<VersionReqKey>,
}

/// `VersionReq` has no order; its text has.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct VersionReqKey(VersionReq);

impl PartialOrd for VersionReqKey {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for VersionReqKey {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.to_string().cmp(&other.0.to_string())
    }
}

impl VersionRange {
    /// `^1.2`, `~1.2.3`, `>=1.0, <2.0`, `>=1.0 <2.0`, `1.x`, `*`; a bare version means exactly it, a bare partial one
    /// (`1.2`) any that begins so. Text that starts with a letter is compared as it stands.
    pub fn parse(text: &str) -> Result<Self, semver::Error> {
        let trimmed = text.trim();
        if trimmed.starts_with(|c: char| c.is_alphabetic() && !matches!(c, 'x' | 'X')) {
            return Ok(Self { text: trimmed.to_owned(), range: None });
        }
        let mut comparators = String::new();
        let mut pending = String::new();
        for word in trimmed.split([' ', ',']).filter(|word| !word.is_empty()) {
            pending.push_str(word);
            if word.ends_with(['<', '>', '=', '^', '~']) {
                continue;
            }
            let bare = pending.starts_with(|c: char| c.is_ascii_digit()) && !pending.contains(['*', 'x', 'X']);
            let separator = if comparators.is_empty() { "" } else { ", " };
            comparators.push_str(separator);
            comparators.push_str(if bare { "=" } else { "" });
            comparators.push_str(&pending);
            pending.clear();
        }
        comparators.push_str(&pending);
        Ok(Self { text: trimmed.to_owned(), range: Some(VersionReqKey(VersionReq::parse(&comparators)?)) })
    }

    fn contains(&self, version: &str) -> bool {
        version == self.text
            || self
                .range
                .as_ref()
                .is_some_and(|range| Version::parse(version).is_ok_and(|version| range.0.matches(&version)))
    }
}

impl TryFrom<String> for VersionRange {
    type Error = semver::Error;

    fn try_from(text: String) -> Result<Self, semver::Error> {
        Self::parse(&text)
    }
}

impl From<VersionRange> for String {
    fn from(range: VersionRange) -> Self {
        range.text
    }
}

impl Filter {
    /// Whether one instance is found by this filter: what the posting lists must agree with.
    pub fn matches(&self, instance: &Instance) -> bool {
        let registration = &*instance.registration;
        let any = |wanted: &[Box<str>], value: Option<&str>| {
            wanted.is_empty() || value.is_some_and(|value| wanted.iter().any(|w| **w == *value))
        };
        let any_of = |wanted: &[Box<str>], values: &[Box<str>]| {
            wanted.is_empty() || values.iter().any(|value| wanted.contains(value))
        };
        let status_fits = match self.statuses.as_slice() {
            [] => instance.status() != Status::Offline,
            statuses => statuses.contains(&instance.status()),
        };
        let version = registration.version.as_deref();
        status_fits
            && any(&self.names, Some(registration.name.as_str()))
            && (self.kinds.is_empty() || self.kinds.contains(&registration.kind))
            && self.tags.iter().all(|tag| registration.tags.contains(tag))
            && self.capabilities.iter().all(|name| registration.capabilities.iter().any(|c| c.name == *name))
            && (self.visibilities.is_empty() || self.visibilities.contains(&registration.visibility))
            && any(&self.owners, registration.owner.as_deref())
            && (self.protocols.is_empty() || self.protocols.contains(&registration.protocol))
            && (self.versions.is_empty() || version.is_some_and(|v| self.versions.iter().any(|r| r.contains(v))))
            && any_of(&self.consumed_events, &registration.consumed_events)
            && any_of(&self.produced_events, &registration.produced_events)
            && any(&self.regions, registration.region())
            && any(&self.zones, registration.zone())
            && self.selector.0.iter().all(|requirement| requirement.matches(instance))
    }

    /// The slots that match. Every demand is a set of posting lists; the smallest goes first and only shrinks.
    fn slots<'a>(&'a self, index: &'a Index) -> RoaringBitmap {
        let in_range = |version: &&str| self.versions.iter().any(|range| range.contains(version));
        let versions = match self.versions.as_slice() {
            [] => Vec::new(),
            _ => index.versions().filter(in_range).map(Term::Version).collect(),
        };
        let mut demands: Vec<Vec<Term<'a>>> = Vec::new();
        // An empty list asks for nothing, but a version range that no version is in asks for what is not there.
        let mut any_of = |wanted: bool, terms: Vec<Term<'a>>| {
            if wanted {
                demands.push(terms);
            }
        };
        any_of(!self.names.is_empty(), self.names.iter().map(|v| Term::Name(v)).collect());
        any_of(!self.kinds.is_empty(), self.kinds.iter().map(|v| Term::Kind(v.as_str())).collect());
        any_of(!self.statuses.is_empty(), self.statuses.iter().map(|v| Term::Status(*v)).collect());
        any_of(
            !self.visibilities.is_empty(),
            self.visibilities.iter().map(|v| Term::Visibility(v.as_str())).collect(),
        );
        any_of(!self.owners.is_empty(), self.owners.iter().map(|v| Term::Owner(v)).collect());
        any_of(!self.protocols.is_empty(), self.protocols.iter().map(|v| Term::Protocol(v.as_str())).collect());
        any_of(!self.versions.is_empty(), versions);
        any_of(
            !self.consumed_events.is_empty(),
            self.consumed_events.iter().map(|v| Term::ConsumedEvent(v)).collect(),
        );
        any_of(
            !self.produced_events.is_empty(),
            self.produced_events.iter().map(|v| Term::ProducedEvent(v)).collect(),
        );
        any_of(!self.regions.is_empty(), self.regions.iter().map(|v| Term::Region(v)).collect());
        any_of(!self.zones.is_empty(), self.zones.iter().map(|v| Term::Zone(v)).collect());
        demands.extend(self.tags.iter().map(|tag| vec![Term::Tag(tag)]));
        demands.extend(self.capabilities.iter().map(|name| vec![Term::Capability(name)]));
        for requirement in &self.selector.0 {
            match requirement {
                Requirement::In { key, values } => demands.push(values.iter().map(|v| Term::Label(key, v)).collect()),
                Requirement::Exists { key } => demands.push(vec![Term::LabelKey(key)]),
                Requirement::NotIn { .. } | Requirement::Missing { .. } => {}
            }
        }
        demands.sort_by_cached_key(|terms| terms.iter().map(|t| index.count(*t)).sum::<u64>());

        let mut demands = demands.into_iter();
        let mut found = match demands.next() {
            None => index.all().clone(),
            Some(terms) => terms.iter().fold(RoaringBitmap::new(), |set, t| set | &*index.slots(*t)),
        };
        for terms in demands {
            if found.is_empty() {
                return found;
            }
            match terms.as_slice() {
                [term] => found &= &*index.slots(*term),
                terms => {
                    found = terms.iter().fold(RoaringBitmap::new(), |set, t| set | (&found & &*index.slots(*t)));
                }
            }
        }
        if self.statuses.is_empty() {
            found -= &*index.slots(Term::Status(Status::Offline));
        }
        for requirement in &self.selector.0 {
            match requirement {
                Requirement::NotIn { key, values } => {
                    values.iter().for_each(|value| found -= &*index.slots(Term::Label(key, value)));
                }
                Requirement::Missing { key } => found -= &*index.slots(Term::LabelKey(key)),
                Requirement::In { .. } | Requirement::Exists { .. } => {}
            }
        }
        found
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Sort {
    #[default]
    Id,
    /// By score, the best first; equal scores by id.
    Rank,
}

/// Where in a sorted result a page ended.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Position {
    /// Descending; the same for all when sorted by id.
    score: Reverse<u32>,
    id: InstanceId,
}

#[derive(Clone, Debug)]
pub struct Query {
    pub tenant: TenantId,
    pub filter: Filter,
    pub sort: Sort,
    pub after: Option<Position>,
    pub limit: usize,
}

/// An instance with what changes without a revision.
#[derive(Clone, Debug)]
pub struct View {
    pub instance: Arc<Instance>,
    /// When the lease runs out if no heartbeat comes; has passed if the instance is offline.
    pub deadline: ClusterTime,
}

#[derive(Clone, Debug)]
pub struct Page {
    pub found: Vec<View>,
    /// All matches, not only the page's.
    pub total: u64,
    pub revision: Revision,
    /// Where the next page begins, if there is one.
    pub next: Option<Position>,
}

/// The revision asked for is no longer kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("revision {0} is no longer kept")]
pub struct Forgotten(pub Revision);

/// How good a choice an instance is, in thousandths: capability 0.4 (all that was asked for is there, or it would not
/// have been found), health 0.3, proximity 0.2 (0.2 while it is unknown), trust 0.1 (0.5 by default).
fn score(instance: &Instance) -> u32 {
    let health = match instance.status() {
        Status::Active => 300,
        Status::Degraded => 150,
        Status::Maintenance => 90,
        Status::Error => 30,
        Status::Offline => 0,
    };
    400 + health + 40 + 50
}

impl Sort {
    fn position(self, instance: &Instance) -> Position {
        let score = match self {
            Self::Id => 0,
            Self::Rank => score(instance),
        };
        Position { score: Reverse(score), id: instance.id.clone() }
    }
}

impl State {
    /// Answers from the roll as it stands.
    pub fn query(&self, query: &Query) -> Page {
        self.page(query, self.revision(), &BTreeMap::new())
    }

    /// Answers from the roll as it stood at `revision`: the present one with the changes since undone.
    pub fn query_at(&self, query: &Query, revision: Revision) -> Result<Page, Forgotten> {
        if revision > self.revision() {
            return Err(Forgotten(revision));
        }
        let mut undone = BTreeMap::new();
        for change in self.changes_after(revision).ok_or(Forgotten(revision))? {
            let instance = change.instance();
            if instance.tenant == query.tenant {
                undone.entry(&instance.id).or_insert(change.before.as_ref());
            }
        }
        Ok(self.page(query, revision, &undone))
    }

    fn page(
        &self,
        query: &Query,
        revision: Revision,
        undone: &BTreeMap<&InstanceId, Option<&Arc<Instance>>>,
    ) -> Page {
        let mut found = match self.index(&query.tenant) {
            Some(index) => query.filter.slots(index),
            None => RoaringBitmap::new(),
        };
        let mut restored: Vec<&Arc<Instance>> = Vec::new();
        for (id, before) in undone {
            if let Some(slot) = self.slot(&query.tenant, id) {
                found.remove(slot);
            }
            restored.extend(before.filter(|before| query.filter.matches(before)));
        }
        let total = found.len() + restored.len() as u64;

        // One more than the page tells whether there is a next one.
        let wanted = query.limit + 1;
        let after = query.after.as_ref();
        let mut page: Vec<(Position, View)> = self
            .first_after(query, &found, wanted)
            .into_iter()
            .map(|slot| self.view(slot))
            .chain(restored.into_iter().map(|before| self.view_of_past(before)))
            .map(|view| (query.sort.position(&view.instance), view))
            .filter(|(position, _)| after.is_none_or(|after| position > after))
            .collect();
        page.sort_by(|a, b| a.0.cmp(&b.0));
        let more = page.len() > query.limit;
        page.truncate(query.limit);
        let next = if more { page.last().map(|(position, _)| position.clone()) } else { None };
        Page { found: page.into_iter().map(|(_, view)| view).collect(), total, revision, next }
    }

    /// At least the first `wanted` of the found slots that come after the query's position; perhaps more.
    fn first_after(&self, query: &Query, found: &RoaringBitmap, wanted: usize) -> Vec<Slot> {
        let Some(ids) = self.ids(&query.tenant) else { return Vec::new() };
        // Either all that was found is sorted, or the ids are walked in order until enough of them were found: the
        // walk passes ids/found ids for each hit.
        let walk_is_cheaper = (found.len() as u128).pow(2) > wanted as u128 * ids.len() as u128;
        if query.sort == Sort::Id && walk_is_cheaper {
            use std::ops::Bound::{Excluded, Unbounded};
            let start = query.after.as_ref().map_or(Unbounded, |after| Excluded(&after.id));
            let walk = ids.range::<InstanceId, _>((start, Unbounded)).map(|(_, slot)| *slot);
            return walk.filter(|slot| found.contains(*slot)).take(wanted).collect();
        }
        let position = |slot: Slot| query.sort.position(self.instance(slot));
        let mut slots: Vec<(Position, Slot)> = found
            .iter()
            .map(|slot| (position(slot), slot))
            .filter(|(position, _)| query.after.as_ref().is_none_or(|after| position > after))
            .collect();
        if slots.len() > wanted {
            slots.select_nth_unstable(wanted - 1);
            slots.truncate(wanted);
        }
        slots.into_iter().map(|(_, slot)| slot).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_ranges_mean_what_people_write() {
        let holds = |range: &str, version: &str| VersionRange::parse(range).unwrap().contains(version);
        assert!(holds("^1.2", "1.9.0"));
        assert!(!holds("^1.2", "2.0.0"));
        assert!(holds(">=1.0, <2.0", "1.5.0"));
        assert!(holds(">=1.0 <2.0", "1.5.0"));
        assert!(holds(">= 1.0 < 2.0", "1.5.0"));
        assert!(!holds(">=1.0 <2.0", "2.0.0"));
        assert!(holds("1.2.3", "1.2.3"));
        assert!(!holds("1.2.3", "1.2.4"));
        assert!(holds("1.2", "1.2.9"));
        assert!(!holds("1.2", "1.3.0"));
        assert!(holds("1.x", "1.3.0"));
        assert!(holds("*", "0.0.1"));
        assert!(holds("nightly", "nightly"));
        assert!(!holds("*", "nightly"));
        assert!(VersionRange::parse(">=").is_err());
        assert!(VersionRange::parse("1.2.3.4").is_err());
    }
}
