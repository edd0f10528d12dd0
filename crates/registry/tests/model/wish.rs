//! Questions twice over: as a filter for the state machine, and as a plain predicate for the model.

use rollcall_registry::selector::{Requirement, Selector};
use rollcall_registry::visibility::ALLOWED_REQUESTERS;
use rollcall_registry::{
    Filter, Kind, MetadataValue, PrincipalId, Protocol, Status, VersionRange, Viewer, Visibility,
};

use crate::model::Entry;
use crate::random::{
    CAPABILITIES, EVENTS, KEYS, NAMES, OWNERS, PRINCIPALS, REGIONS, Random, TAGS, VALUES, VERSIONS, ZONES,
};

/// Ranges and which of the world's versions are in them.
const RANGES: &[(&str, &[&str])] = &[
    ("^1.2", &["1.2.3", "1.10.0"]),
    ("~1.2", &["1.2.3"]),
    ("1.2", &["1.2.3"]),
    ("1.x", &["1.0.0", "1.2.3", "1.10.0"]),
    (">=1.2 <2", &["1.2.3", "1.10.0"]),
    (">= 1.10, < 3", &["1.10.0", "2.0.0"]),
    ("*", &["1.0.0", "1.2.3", "1.10.0", "2.0.0"]),
    ("2.1.0-rc.1", &["2.1.0-rc.1"]),
    ("nightly", &["nightly"]),
    ("^9", &[]),
];

#[derive(Clone, Debug)]
pub(crate) enum Wish {
    Names(Vec<&'static str>),
    Kinds(Vec<Kind>),
    Tags(Vec<&'static str>),
    Capabilities(Vec<&'static str>),
    Statuses(Vec<Status>),
    Visibilities(Vec<Visibility>),
    Owners(Vec<&'static str>),
    Protocols(Vec<Protocol>),
    Versions(Vec<usize>),
    Consumed(Vec<&'static str>),
    Produced(Vec<&'static str>),
    Regions(Vec<&'static str>),
    Zones(Vec<&'static str>),
    LabelIn(&'static str, Vec<&'static str>),
    LabelNotIn(&'static str, Vec<&'static str>),
    LabelExists(&'static str),
    LabelMissing(&'static str),
    /// To be seen by one with this name, or without any.
    Seen(&'static str, Option<&'static str>),
}

impl Wish {
    /// A few wishes, no kind of list twice.
    pub(crate) fn random(random: &mut Random) -> Vec<Self> {
        let mut wishes: Vec<Self> = Vec::new();
        for _ in 0..random.below(4) {
            let wish = match random.below(19) {
                0 => Self::Names(random.some(NAMES, 1, 2)),
                1 => Self::Kinds(random.some(Kind::ALL, 1, 3)),
                2 => Self::Tags(random.some(TAGS, 1, 2)),
                3 => Self::Capabilities(random.some(CAPABILITIES, 1, 2)),
                4 => Self::Statuses(random.some(Status::ALL, 1, 3)),
                5 => Self::Visibilities(random.some(Visibility::ALL, 1, 2)),
                6 => Self::Owners(random.some(OWNERS, 1, 2)),
                7 => Self::Protocols(random.some(Protocol::ALL, 1, 3)),
                8 => Self::Versions(
                    (0..=random.below(2)).map(|_| random.below(RANGES.len() as u64) as usize).collect(),
                ),
                9 => Self::Consumed(random.some(EVENTS, 1, 2)),
                10 => Self::Produced(random.some(EVENTS, 1, 2)),
                11 => Self::Regions(random.some(REGIONS, 1, 2)),
                12 => Self::Zones(random.some(ZONES, 1, 2)),
                13 => Self::LabelIn(random.pick(KEYS), random.some(VALUES, 0, 2)),
                14 => Self::LabelNotIn(random.pick(KEYS), random.some(VALUES, 0, 2)),
                15 => Self::LabelExists(random.pick(KEYS)),
                16 | 17 => Self::Seen(random.pick(OWNERS), random.once_in(2).then(|| random.pick(PRINCIPALS))),
                _ => Self::LabelMissing(random.pick(KEYS)),
            };
            if !wishes.iter().any(|w| std::mem::discriminant(w) == std::mem::discriminant(&wish)) {
                wishes.push(wish);
            }
        }
        wishes
    }

    pub(crate) fn all_hold(wishes: &[Self], entry: &Entry) -> bool {
        let asks_for_status = wishes.iter().any(|wish| matches!(wish, Self::Statuses(_)));
        (asks_for_status || entry.shown_status() != Status::Offline) && wishes.iter().all(|wish| wish.holds(entry))
    }

    fn holds(&self, entry: &Entry) -> bool {
        let registration = &entry.registration;
        let is_one_of = |wanted: &[&str], value: Option<&str>| value.is_some_and(|value| wanted.contains(&value));
        let has = |values: &[Box<str>], wanted: &str| values.iter().any(|value| **value == *wanted);
        let label = |key: &str| match entry.metadata().remove(key) {
            Some((json, true)) if json.starts_with('[') => None,
            Some((text, _)) => Some(text),
            None => None,
        };
        match self {
            Self::Names(wanted) => wanted.contains(&registration.name.as_str()),
            Self::Kinds(wanted) => wanted.contains(&registration.kind),
            Self::Tags(wanted) => wanted.iter().all(|tag| has(&registration.tags, tag)),
            Self::Capabilities(wanted) => {
                wanted.iter().all(|name| registration.capabilities.iter().any(|c| *c.name == **name))
            }
            Self::Statuses(wanted) => wanted.contains(&entry.shown_status()),
            Self::Visibilities(wanted) => wanted.contains(&registration.visibility),
            Self::Owners(wanted) => is_one_of(wanted, registration.owner.as_deref()),
            Self::Protocols(wanted) => wanted.contains(&registration.protocol),
            Self::Versions(wanted) => wanted.iter().any(|n| is_one_of(RANGES[*n].1, registration.version.as_deref())),
            Self::Consumed(wanted) => wanted.iter().any(|event| has(&registration.consumed_events, event)),
            Self::Produced(wanted) => wanted.iter().any(|event| has(&registration.produced_events, event)),
            Self::Regions(wanted) => is_one_of(wanted, registration.extras.region.as_deref()),
            Self::Zones(wanted) => is_one_of(wanted, registration.extras.zone.as_deref()),
            Self::LabelIn(key, wanted) => is_one_of(wanted, label(key).as_deref()),
            Self::LabelNotIn(key, wanted) => !is_one_of(wanted, label(key).as_deref()),
            Self::LabelExists(key) => entry.metadata().contains_key(*key),
            Self::LabelMissing(key) => !entry.metadata().contains_key(*key),
            Self::Seen(viewer, principal) => {
                let named = registration.metadata.pairs().get(ALLOWED_REQUESTERS);
                let named = matches!(named, Some(MetadataValue::Json(list)) if list.contains(viewer));
                let registered_by = entry.registered_by.as_ref().map(PrincipalId::as_str);
                let own = registration.owner.as_deref() == Some(*viewer)
                    || principal.is_some() && registered_by == *principal;
                match registration.visibility {
                    Visibility::Public | Visibility::Internal => true,
                    Visibility::Restricted => own || named,
                    Visibility::Private => own,
                }
            }
        }
    }

    pub(crate) fn filter(wishes: &[Self]) -> Filter {
        let texts = |texts: &[&str]| texts.iter().map(|text| Box::from(*text)).collect();
        let mut filter = Filter::default();
        let mut requirements = Vec::new();
        for wish in wishes {
            match wish {
                Self::Names(wanted) => filter.names = texts(wanted),
                Self::Kinds(wanted) => filter.kinds.clone_from(wanted),
                Self::Tags(wanted) => filter.tags = texts(wanted),
                Self::Capabilities(wanted) => filter.capabilities = texts(wanted),
                Self::Statuses(wanted) => filter.statuses.clone_from(wanted),
                Self::Visibilities(wanted) => filter.visibilities.clone_from(wanted),
                Self::Owners(wanted) => filter.owners = texts(wanted),
                Self::Protocols(wanted) => filter.protocols.clone_from(wanted),
                Self::Versions(wanted) => {
                    let parse = |n: &usize| VersionRange::parse(RANGES[*n].0).expect("a range of the table");
                    filter.versions = wanted.iter().map(parse).collect();
                }
                Self::Consumed(wanted) => filter.consumed_events = texts(wanted),
                Self::Produced(wanted) => filter.produced_events = texts(wanted),
                Self::Regions(wanted) => filter.regions = texts(wanted),
                Self::Zones(wanted) => filter.zones = texts(wanted),
                Self::LabelIn(key, values) => requirements.push(Requirement::In {
                    key: (*key).into(),
                    values: values.iter().map(|v| Box::from(*v)).collect(),
                }),
                Self::LabelNotIn(key, values) => requirements.push(Requirement::NotIn {
                    key: (*key).into(),
                    values: values.iter().map(|v| Box::from(*v)).collect(),
                }),
                Self::LabelExists(key) => requirements.push(Requirement::Exists { key: (*key).into() }),
                Self::LabelMissing(key) => requirements.push(Requirement::Missing { key: (*key).into() }),
                Self::Seen(viewer, principal) => {
                    let principal = principal.map(|text| PrincipalId::parse(text).expect("a plain name"));
                    filter.viewer = Viewer::One { name: (*viewer).into(), principal };
                }
            }
        }
        filter.selector = Selector(requirements.into());
        filter
    }
}

#[test]
fn the_ranges_name_versions_of_the_world() {
    assert!(RANGES.iter().flat_map(|(_, versions)| *versions).all(|version| VERSIONS.contains(version)));
}
