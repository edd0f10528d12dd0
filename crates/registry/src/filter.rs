//! What is looked for, and who fits it.

use roaring::RoaringBitmap;
use semver::{Version, VersionReq};
use serde::{Deserialize, Serialize};
use smallvec::{SmallVec, smallvec};

use crate::index::{Index, Seeds, Term, Wanted};
use crate::instance::Instance;
use crate::packed::Texts;
use crate::registration::{Kind, Protocol, Status, Visibility};
use crate::selector::{Requirement, Selector};
use crate::slots::{Posting, Slots};
use crate::visibility::{Viewer, in_json};

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
    /// Who looks: what is hidden from them is not there.
    pub viewer: Viewer,
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
        self.has(version, Version::parse(version).ok().as_ref())
    }

    /// As [`Self::contains`], with the version parsed, if it parses.
    fn has(&self, text: &str, version: Option<&Version>) -> bool {
        text == self.text || self.range.as_ref().zip(version).is_some_and(|(range, version)| range.0.matches(version))
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
        let registration = instance.registration();
        let any = |wanted: &[Box<str>], value: Option<&str>| {
            wanted.is_empty() || value.is_some_and(|value| wanted.iter().any(|w| **w == *value))
        };
        let status_fits = match self.statuses.as_slice() {
            [] => instance.status() != Status::Offline,
            statuses => statuses.contains(&instance.status()),
        };
        let any_of = |wanted: &[Box<str>], mut values: Texts<'_>| {
            wanted.is_empty() || values.any(|value| wanted.iter().any(|w| **w == *value))
        };
        let version_fits = |text: &str| {
            let version = Version::parse(text).ok();
            self.versions.iter().any(|range| range.has(text, version.as_ref()))
        };
        status_fits
            && any(&self.names, Some(registration.name))
            && (self.kinds.is_empty() || self.kinds.contains(&registration.kind))
            && self.tags.iter().all(|tag| { registration.tags }.any(|t| *t == **tag))
            && self.capabilities.iter().all(|name| { registration.capabilities }.any(|c| *c.name == **name))
            && (self.visibilities.is_empty() || self.visibilities.contains(&registration.visibility))
            && any(&self.owners, registration.owner)
            && (self.protocols.is_empty() || self.protocols.contains(&registration.protocol))
            && (self.versions.is_empty() || registration.version.is_some_and(version_fits))
            && any_of(&self.consumed_events, registration.consumed_events)
            && any_of(&self.produced_events, registration.produced_events)
            && any(&self.regions, registration.extras.region)
            && any(&self.zones, registration.extras.zone)
            && self.selector.0.iter().all(|requirement| requirement.matches(instance))
            && self.viewer.sees_registration(instance, &registration)
    }

    /// The slots that match. Every demand is a set of posting lists; the smallest goes first and only shrinks.
    pub(crate) fn slots(&self, index: &Index) -> Slots {
        let mut demands = self.demands(index);
        demands.sort_unstable_by_key(|demand| demand.len);
        let mut found = match demands.as_slice() {
            [] => Slots::Many(index.all().clone()),
            [first, rest @ ..] => {
                // Two large sets are not copied to be cut down.
                let (mut found, rest) = match (first.as_bitmap(), rest.first().and_then(Demand::as_bitmap)) {
                    (Some(a), Some(b)) => (Slots::Many(a & b), &rest[1..]),
                    _ => (Slots::union(&first.any_of), rest),
                };
                rest.iter().for_each(|demand| found.intersect(&demand.any_of));
                found
            }
        };
        self.each_unwanted(|term| {
            if let Some(posting) = index.posting(term) {
                found.subtract(posting);
            }
        });
        found
    }

    /// What marks of instances that match have in common.
    pub(crate) fn wanted(&self, seed: u64) -> Wanted {
        let (mut wanted, seeds) = (Wanted::default(), Seeds::new(seed));
        self.names.iter().for_each(|name| wanted.name(&seeds, name));
        let mut term = |term| wanted.term(&seeds, term);
        self.tags.iter().for_each(|tag| term(Term::Tag(tag)));
        self.capabilities.iter().for_each(|name| term(Term::Capability(name)));
        // Of several only one need be there, of which a mark says nothing.
        if let [owner] = self.owners.as_slice() {
            term(Term::Owner(owner));
        }
        if let [event] = self.consumed_events.as_slice() {
            term(Term::ConsumedEvent(event));
        }
        if let [event] = self.produced_events.as_slice() {
            term(Term::ProducedEvent(event));
        }
        for requirement in &self.selector.0 {
            if let Requirement::In { key, values } = requirement
                && let [value] = &**values
            {
                term(Term::Label(key, value));
            }
        }
        wanted
    }

    /// Terms of which whatever matches has at least one; the narrowest such demand by experience, or none.
    pub(crate) fn narrowest(&self) -> SmallVec<[Term<'_>; 2]> {
        fn any<'a>(values: &'a [Box<str>], term: impl Fn(&'a str) -> Term<'a>) -> SmallVec<[Term<'a>; 2]> {
            values.iter().map(|value| term(value)).collect()
        }
        let labels = self.selector.0.iter().map(|requirement| match requirement {
            Requirement::In { key, values } => any(values, |value| Term::Label(key, value)),
            Requirement::Exists { key } => smallvec![Term::LabelKey(key)],
            Requirement::NotIn { .. } | Requirement::Missing { .. } => SmallVec::new(),
        });
        let demands = [
            any(&self.names, Term::Name),
            any(&self.capabilities[..self.capabilities.len().min(1)], Term::Capability),
            any(&self.tags[..self.tags.len().min(1)], Term::Tag),
            any(&self.owners, Term::Owner),
            any(&self.consumed_events, Term::ConsumedEvent),
            any(&self.produced_events, Term::ProducedEvent),
            any(&self.zones, Term::Zone),
            any(&self.regions, Term::Region),
        ];
        demands.into_iter().chain(labels).find(|terms| !terms.is_empty()).unwrap_or_default()
    }

    fn demands<'a>(&'a self, index: &'a Index) -> SmallVec<[Demand<'a>; 8]> {
        let mut demands = SmallVec::new();
        // An empty list asks for nothing.
        macro_rules! any_of {
            ($wanted:expr, $term:expr) => {
                if !$wanted.is_empty() {
                    demands.push(Demand::of(index, $wanted.iter().map($term)));
                }
            };
        }
        any_of!(self.names, |v| Term::Name(v));
        any_of!(self.kinds, |v| Term::Kind(*v));
        any_of!(self.statuses, |v| Term::Status(*v));
        any_of!(self.visibilities, |v| Term::Visibility(*v));
        any_of!(self.owners, |v| Term::Owner(v));
        any_of!(self.protocols, |v| Term::Protocol(*v));
        any_of!(self.consumed_events, |v| Term::ConsumedEvent(v));
        any_of!(self.produced_events, |v| Term::ProducedEvent(v));
        any_of!(self.regions, |v| Term::Region(v));
        any_of!(self.zones, |v| Term::Zone(v));
        if !self.versions.is_empty() {
            // A range that no version is in asks for what is not there.
            let in_range = |version: &&str| self.versions.iter().any(|range| range.contains(version));
            demands.push(Demand::of(index, index.versions().filter(in_range).map(Term::Version)));
        }
        demands.extend(self.tags.iter().map(|tag| Demand::of(index, [Term::Tag(tag)])));
        demands.extend(self.capabilities.iter().map(|name| Demand::of(index, [Term::Capability(name)])));
        for requirement in &self.selector.0 {
            match requirement {
                Requirement::In { key, values } => {
                    demands.push(Demand::of(index, values.iter().map(|v| Term::Label(key, v))));
                }
                Requirement::Exists { key } => demands.push(Demand::of(index, [Term::LabelKey(key)])),
                Requirement::NotIn { .. } | Requirement::Missing { .. } => {}
            }
        }
        demands.extend(self.seen(index));
        demands
    }

    /// What [`Viewer::sees`] says, as posting lists: an owner sees all that is theirs, whatever else holds.
    fn seen<'a>(&self, index: &'a Index) -> Option<Demand<'a>> {
        let Viewer::One { name, principal } = &self.viewer else { return None };
        let name_in_json = in_json(name);
        let of_all = [Visibility::Public, Visibility::Internal].map(Term::Visibility);
        let own = [Term::Owner(name), Term::Allowed(&name_in_json)];
        let registered = principal.as_ref().map(|principal| Term::Registrant(principal.as_str()));
        Some(Demand::of(index, of_all.into_iter().chain(own).chain(registered)))
    }

    fn each_unwanted<'a>(&'a self, mut each: impl FnMut(Term<'a>)) {
        if self.statuses.is_empty() {
            each(Term::Status(Status::Offline));
        }
        for requirement in &self.selector.0 {
            match requirement {
                Requirement::NotIn { key, values } => values.iter().for_each(|value| each(Term::Label(key, value))),
                Requirement::Missing { key } => each(Term::LabelKey(key)),
                Requirement::In { .. } | Requirement::Exists { .. } => {}
            }
        }
    }
}

/// A demand met by whoever has any of some terms.
struct Demand<'a> {
    any_of: SmallVec<[Posting<'a>; 2]>,
    /// At most so many meet it.
    len: u64,
}

impl<'a> Demand<'a> {
    fn of<'t>(index: &'a Index, terms: impl IntoIterator<Item = Term<'t>>) -> Self {
        let any_of: SmallVec<[Posting<'a>; 2]> = terms.into_iter().filter_map(|term| index.posting(term)).collect();
        let len = any_of.iter().map(|posting| posting.len()).sum();
        Self { any_of, len }
    }

    /// The one large set that it is, if it is.
    fn as_bitmap(&self) -> Option<&'a RoaringBitmap> {
        match self.any_of.as_slice() {
            [Posting::List(Slots::Many(slots))] => Some(slots),
            _ => None,
        }
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
