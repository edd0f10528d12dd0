//! Which instances of a tenant have which property: posting lists over slots, the small integers that name places in
//! the roll. Slots are this node's own business: they are in no snapshot, no digest and no answer.

use std::borrow::Cow;
use std::collections::BTreeMap;

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;
use roaring::RoaringBitmap;
use xxhash_rust::xxh3::{Xxh3, xxh3_128_with_seed};

use crate::registration::{Instance, Status};

/// A place in the roll.
pub(crate) type Slot = u32;

/// A property an instance can be looked up by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Term<'a> {
    Name(&'a str),
    Kind(&'a str),
    Tag(&'a str),
    Capability(&'a str),
    Status(Status),
    Visibility(&'a str),
    Owner(&'a str),
    Protocol(&'a str),
    Version(&'a str),
    ConsumedEvent(&'a str),
    ProducedEvent(&'a str),
    Region(&'a str),
    Zone(&'a str),
    LabelKey(&'a str),
    Label(&'a str, &'a str),
}

impl<'a> Term<'a> {
    /// Calls `each` with every term of an instance, some perhaps twice.
    pub(crate) fn of(instance: &'a Instance, mut each: impl FnMut(Term<'a>)) {
        let registration = &*instance.registration;
        each(Term::Name(registration.name.as_str()));
        each(Term::Kind(registration.kind.as_str()));
        each(Term::Status(instance.status()));
        each(Term::Visibility(registration.visibility.as_str()));
        each(Term::Protocol(registration.protocol.as_str()));
        let optional = [
            registration.owner.as_deref().map(Term::Owner),
            registration.version.as_deref().map(Term::Version),
            registration.region().map(Term::Region),
            registration.zone().map(Term::Zone),
        ];
        optional.into_iter().flatten().for_each(&mut each);
        registration.tags.iter().for_each(|tag| each(Term::Tag(tag)));
        registration.capabilities.iter().for_each(|c| each(Term::Capability(&c.name)));
        registration.consumed_events.iter().for_each(|e| each(Term::ConsumedEvent(e)));
        registration.produced_events.iter().for_each(|e| each(Term::ProducedEvent(e)));
        for (key, value) in instance.metadata() {
            each(Term::LabelKey(key));
            if let Some(value) = value.label() {
                each(Term::Label(key, value));
            }
        }
    }

    /// The term as 128 bits. Two terms that share them would be taken for one; with the seed unknown outside the
    /// process nobody can make such a pair, and by chance none will ever be seen.
    fn key(self, seed: u64) -> u128 {
        let plain = |field: u8, value: &str| {
            let mut hash = Xxh3::with_seed(seed);
            hash.update(&[field]);
            hash.update(value.as_bytes());
            hash.digest128()
        };
        match self {
            Self::Name(v) => plain(0, v),
            Self::Kind(v) => plain(1, v),
            Self::Tag(v) => plain(2, v),
            Self::Capability(v) => plain(3, v),
            Self::Status(v) => plain(4, v.as_str()),
            Self::Visibility(v) => plain(5, v),
            Self::Owner(v) => plain(6, v),
            Self::Protocol(v) => plain(7, v),
            Self::Version(v) => plain(8, v),
            Self::ConsumedEvent(v) => plain(9, v),
            Self::ProducedEvent(v) => plain(10, v),
            Self::Region(v) => plain(11, v),
            Self::Zone(v) => plain(12, v),
            Self::LabelKey(v) => plain(13, v),
            Self::Label(key, value) => {
                let key = xxh3_128_with_seed(key.as_bytes(), seed);
                let mut hash = Xxh3::with_seed(seed);
                hash.update(&[14]);
                hash.update(&key.to_le_bytes());
                hash.update(value.as_bytes());
                hash.digest128()
            }
        }
    }
}

/// Most terms of a large roll are one instance's own, so a single slot costs no allocation.
#[derive(Clone, Debug)]
enum Posting {
    One(Slot),
    Many(Box<RoaringBitmap>),
}

impl Posting {
    fn len(&self) -> u64 {
        match self {
            Self::One(_) => 1,
            Self::Many(slots) => slots.len(),
        }
    }

    fn insert(&mut self, slot: Slot) {
        match self {
            Self::One(one) if *one == slot => {}
            Self::One(one) => *self = Self::Many(Box::new(RoaringBitmap::from_iter([*one, slot]))),
            Self::Many(slots) => {
                slots.insert(slot);
            }
        }
    }

    /// True when nothing is left.
    fn remove(&mut self, slot: Slot) -> bool {
        match self {
            Self::One(one) => *one == slot,
            Self::Many(slots) => {
                slots.remove(slot);
                slots.is_empty()
            }
        }
    }

    fn as_bitmap(&self) -> Cow<'_, RoaringBitmap> {
        match self {
            Self::One(slot) => Cow::Owned(RoaringBitmap::from_iter([*slot])),
            Self::Many(slots) => Cow::Borrowed(slots),
        }
    }
}

/// One tenant's index.
#[derive(Debug)]
pub(crate) struct Index {
    seed: u64,
    postings: HashTable<(u128, Posting)>,
    all: RoaringBitmap,
    /// How many instances have a version; ranges are looked up over the distinct ones.
    versions: BTreeMap<Box<str>, u32>,
}

impl Index {
    pub(crate) fn new(seed: u64) -> Self {
        Self { seed, postings: HashTable::new(), all: RoaringBitmap::new(), versions: BTreeMap::new() }
    }

    pub(crate) fn insert(&mut self, slot: Slot, instance: &Instance) {
        self.all.insert(slot);
        if let Some(version) = &instance.registration.version {
            match self.versions.get_mut(version) {
                Some(count) => *count += 1,
                None => drop(self.versions.insert(version.clone(), 1)),
            }
        }
        let seed = self.seed;
        Term::of(instance, |term| {
            let key = term.key(seed);
            match self.postings.entry(key as u64, |e| e.0 == key, |e| e.0 as u64) {
                Entry::Occupied(mut entry) => entry.get_mut().1.insert(slot),
                Entry::Vacant(entry) => drop(entry.insert((key, Posting::One(slot)))),
            }
        });
    }

    pub(crate) fn remove(&mut self, slot: Slot, instance: &Instance) {
        self.all.remove(slot);
        if let Some(version) = &instance.registration.version
            && let Some(count) = self.versions.get_mut(version)
        {
            *count -= 1;
            if *count == 0 {
                self.versions.remove(version);
            }
        }
        let seed = self.seed;
        Term::of(instance, |term| {
            let key = term.key(seed);
            // A term that the instance has twice is gone the second time.
            if let Ok(mut entry) = self.postings.find_entry(key as u64, |e| e.0 == key)
                && entry.get_mut().1.remove(slot)
            {
                entry.remove();
            }
        });
    }

    fn posting(&self, term: Term<'_>) -> Option<&Posting> {
        let key = term.key(self.seed);
        self.postings.find(key as u64, |e| e.0 == key).map(|e| &e.1)
    }

    pub(crate) fn count(&self, term: Term<'_>) -> u64 {
        self.posting(term).map_or(0, Posting::len)
    }

    pub(crate) fn slots(&self, term: Term<'_>) -> Cow<'_, RoaringBitmap> {
        self.posting(term).map_or_else(|| Cow::Owned(RoaringBitmap::new()), Posting::as_bitmap)
    }

    pub(crate) fn all(&self) -> &RoaringBitmap {
        &self.all
    }

    pub(crate) fn versions(&self) -> impl Iterator<Item = &str> {
        self.versions.keys().map(|v| &**v)
    }

    pub(crate) fn term_count(&self) -> usize {
        self.postings.len()
    }
}
