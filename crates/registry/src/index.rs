//! Which instances of a tenant have which property: posting lists over slots, the small integers that name places in
//! the roll. Slots are this node's own business: they are in no snapshot, no digest and no answer.

use std::collections::BTreeMap;

use hashbrown::{HashTable, hash_table};
use roaring::RoaringBitmap;
use smallvec::SmallVec;
use xxhash_rust::xxh3::{xxh3_64_with_seed, xxh3_128_with_seed};

use crate::instance::Instance;
use crate::registration::{Kind, Protocol, RegistrationView, Status, Visibility};
use crate::slots::{Posting, Slots};
use crate::visibility;

/// A place in the roll.
pub(crate) type Slot = u32;

/// A property an instance can be looked up by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Term<'a> {
    Name(&'a str),
    Kind(Kind),
    Tag(&'a str),
    Capability(&'a str),
    Status(Status),
    Visibility(Visibility),
    Owner(&'a str),
    Protocol(Protocol),
    Version(&'a str),
    ConsumedEvent(&'a str),
    ProducedEvent(&'a str),
    Region(&'a str),
    Zone(&'a str),
    LabelKey(&'a str),
    Label(&'a str, &'a str),
    /// Restricted, and this requester may see it; as JSON spells the name.
    Allowed(&'a str),
    /// Not shown to all, and registered by this principal.
    Registrant(&'a str),
}

impl<'a> Term<'a> {
    pub(crate) const FIELDS: usize = 17;

    /// Calls `each` with every term of an instance, some perhaps twice.
    pub(crate) fn of(instance: &'a Instance, registration: &RegistrationView<'a>, mut each: impl FnMut(Term<'a>)) {
        each(Term::Name(registration.name));
        each(Term::Kind(registration.kind));
        each(Term::Status(instance.status()));
        each(Term::Visibility(registration.visibility));
        each(Term::Protocol(registration.protocol));
        let optional = [
            registration.owner.map(Term::Owner),
            registration.version.map(Term::Version),
            registration.extras.region.map(Term::Region),
            registration.extras.zone.map(Term::Zone),
        ];
        optional.into_iter().flatten().for_each(&mut each);
        visibility::allowed(registration).for_each(|requester| each(Term::Allowed(requester)));
        if let Some(principal) = visibility::registrant(instance, registration) {
            each(Term::Registrant(principal.as_str()));
        }
        registration.tags.for_each(|tag| each(Term::Tag(tag)));
        registration.capabilities.for_each(|capability| each(Term::Capability(capability.name)));
        registration.consumed_events.for_each(|event| each(Term::ConsumedEvent(event)));
        registration.produced_events.for_each(|event| each(Term::ProducedEvent(event)));
        for (key, value) in instance.metadata_over(*registration) {
            each(Term::LabelKey(key));
            if let Some(value) = value.label() {
                each(Term::Label(key, value));
            }
        }
    }

    /// Which of the [`Self::FIELDS`] it is a value of.
    pub(crate) fn field(self) -> usize {
        match self {
            Self::Name(_) => 0,
            Self::Kind(_) => 1,
            Self::Tag(_) => 2,
            Self::Capability(_) => 3,
            Self::Status(_) => 4,
            Self::Visibility(_) => 5,
            Self::Owner(_) => 6,
            Self::Protocol(_) => 7,
            Self::Version(_) => 8,
            Self::ConsumedEvent(_) => 9,
            Self::ProducedEvent(_) => 10,
            Self::Region(_) => 11,
            Self::Zone(_) => 12,
            Self::LabelKey(_) => 13,
            Self::Label(..) => 14,
            Self::Allowed(_) => 15,
            Self::Registrant(_) => 16,
        }
    }

    /// The term as 96 bits. Two terms that share them would be taken for one; with the seed unknown outside the process
    /// nobody can make such a pair, and by chance none will ever be seen.
    pub(crate) fn key(self, seeds: &Seeds) -> (u64, u32) {
        let value = match self {
            Self::Kind(v) => v.as_str(),
            Self::Status(v) => v.as_str(),
            Self::Visibility(v) => v.as_str(),
            Self::Protocol(v) => v.as_str(),
            Self::Name(v)
            | Self::Tag(v)
            | Self::Capability(v)
            | Self::Owner(v)
            | Self::Version(v)
            | Self::ConsumedEvent(v)
            | Self::ProducedEvent(v)
            | Self::Region(v)
            | Self::Zone(v)
            | Self::LabelKey(v)
            | Self::Label(_, v)
            | Self::Allowed(v)
            | Self::Registrant(v) => v,
        };
        let mut seed = seeds.0[self.field()];
        if let Self::Label(key, _) = self {
            seed = xxh3_64_with_seed(key.as_bytes(), seed);
        }
        let hash = xxh3_128_with_seed(value.as_bytes(), seed);
        (hash as u64, (hash >> 64) as u32)
    }
}

/// Each field, and each label's key, is a hash function of its own. These are the fields' seeds, by their numbers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seeds([u64; Term::FIELDS]);

impl Seeds {
    pub(crate) fn new(seed: u64) -> Self {
        Self(std::array::from_fn(|field| xxh3_64_with_seed(&[field as u8], seed)))
    }
}

/// What an instance had, in seven bytes: enough to pass over nearly all that a filter does not look for without reading
/// them. Two bytes are the name's, and each other term has one of the remaining bits; which one only this process knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Mark([u8; 7]);

const NAME_BITS: u32 = 16;
const TERM_BITS: u64 = 40;

/// What marks must show to be worth a look.
#[derive(Debug, Default)]
pub(crate) struct Wanted {
    /// Any of these; none asks for nothing.
    names: SmallVec<[u64; 4]>,
    terms: u64,
}

fn mark_of(term: Term<'_>, hash: u64) -> u64 {
    match term {
        Term::Name(_) => hash & ((1 << NAME_BITS) - 1),
        // Nearly all instances share these.
        Term::Kind(_) | Term::Status(_) | Term::Visibility(_) | Term::Protocol(_) | Term::LabelKey(_) => 0,
        _ => 1 << (u64::from(NAME_BITS) + hash % TERM_BITS),
    }
}

impl Mark {
    /// The one that the instance leaves in the history.
    pub(crate) fn of(seeds: &Seeds, instance: &Instance) -> Self {
        let mut mark = 0;
        Term::of(instance, &instance.registration(), |term| mark |= mark_of(term, term.key(seeds).0));
        Self::new(mark)
    }

    fn new(bits: u64) -> Self {
        let [a, b, c, d, e, f, g, _] = bits.to_le_bytes();
        Self([a, b, c, d, e, f, g])
    }

    fn bits(self) -> u64 {
        let [a, b, c, d, e, f, g] = self.0;
        u64::from_le_bytes([a, b, c, d, e, f, g, 0])
    }
}

impl Wanted {
    /// Instances that have one of these names.
    pub(crate) fn name(&mut self, seeds: &Seeds, name: &str) {
        let term = Term::Name(name);
        self.names.push(mark_of(term, term.key(seeds).0));
    }

    /// Instances that have this term, which is no name.
    pub(crate) fn term(&mut self, seeds: &Seeds, term: Term<'_>) {
        self.terms |= mark_of(term, term.key(seeds).0);
    }

    pub(crate) fn may_fit(&self, mark: Mark) -> bool {
        let bits = mark.bits();
        let name = bits & ((1 << NAME_BITS) - 1);
        bits & self.terms == self.terms && (self.names.is_empty() || self.names.contains(&name))
    }
}

/// A term as it is looked up: 96 bits of its hash, and in the rest of two words either the one slot that has it or the
/// place of the slots that do. Most terms of a large roll are one instance's own, and cost nothing else.
#[derive(Clone, Copy, Debug)]
struct Entry {
    hash: u64,
    check: u32,
    at: At,
}

/// A slot, or with its highest bit set a place in [`Index::lists`].
#[derive(Clone, Copy, Debug)]
struct At(u32);

const LIST: u32 = 1 << 31;

impl At {
    fn slot(slot: Slot) -> Self {
        assert!(slot & LIST == 0, "fewer than 2^31 instances");
        Self(slot)
    }

    fn list(place: usize) -> Self {
        Self(u32::try_from(place).expect("fewer lists than terms, fewer terms than 2^31") | LIST)
    }

    /// The slot, or the place of the list.
    fn get(self) -> Result<Slot, usize> {
        if self.0 & LIST == 0 { Ok(self.0) } else { Err((self.0 & !LIST) as usize) }
    }
}

/// One tenant's index.
#[derive(Debug)]
pub(crate) struct Index {
    seeds: Seeds,
    terms: HashTable<Entry>,
    lists: Vec<Slots>,
    free_lists: Vec<usize>,
    all: RoaringBitmap,
    /// How many instances have a version; ranges are looked up over the distinct ones.
    versions: BTreeMap<Box<str>, u32>,
}

impl Index {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            seeds: Seeds::new(seed),
            terms: HashTable::new(),
            lists: Vec::new(),
            free_lists: Vec::new(),
            all: RoaringBitmap::new(),
            versions: BTreeMap::new(),
        }
    }

    pub(crate) fn insert(&mut self, slot: Slot, instance: &Instance) {
        self.all.insert(slot);
        let registration = instance.registration();
        self.count_version(&registration);
        Term::of(instance, &registration, |term| {
            if let Some(place) = self.enter(term, slot) {
                self.lists[place].insert(slot);
            }
        });
    }

    fn count_version(&mut self, registration: &RegistrationView<'_>) {
        if let Some(version) = registration.version {
            match self.versions.get_mut(version) {
                Some(count) => *count += 1,
                None => drop(self.versions.insert(version.into(), 1)),
            }
        }
    }

    /// Enters a slot under a term, unless the term has a list: its place is returned, and the slot is yet to go into it.
    fn enter(&mut self, term: Term<'_>, slot: Slot) -> Option<usize> {
        let (hash, check) = term.key(&self.seeds);
        let entry = match self.terms.entry(hash, |e| (e.hash, e.check) == (hash, check), |e| e.hash) {
            hash_table::Entry::Vacant(entry) => {
                entry.insert(Entry { hash, check, at: At::slot(slot) });
                return None;
            }
            hash_table::Entry::Occupied(entry) => entry.into_mut(),
        };
        match entry.at.get() {
            Ok(one) if one == slot => None,
            Ok(one) => {
                let place = self.free_lists.pop().unwrap_or_else(|| {
                    self.lists.push(Slots::default());
                    self.lists.len() - 1
                });
                self.lists[place].insert(one);
                entry.at = At::list(place);
                Some(place)
            }
            Err(place) => Some(place),
        }
    }

    /// Returns the mark that the instance leaves in the history.
    pub(crate) fn remove(&mut self, slot: Slot, instance: &Instance) -> Mark {
        self.all.remove(slot);
        let registration = instance.registration();
        if let Some(version) = registration.version
            && let Some(count) = self.versions.get_mut(version)
        {
            *count -= 1;
            if *count == 0 {
                self.versions.remove(version);
            }
        }
        let mut mark = 0;
        Term::of(instance, &registration, |term| {
            let key = term.key(&self.seeds);
            mark |= mark_of(term, key.0);
            self.leave(key, slot);
        });
        Mark::new(mark)
    }

    fn leave(&mut self, (hash, check): (u64, u32), slot: Slot) {
        // A term that the instance has twice is gone the second time.
        let Ok(mut entry) = self.terms.find_entry(hash, |e| (e.hash, e.check) == (hash, check)) else { return };
        match entry.get().at.get() {
            Ok(one) if one == slot => drop(entry.remove()),
            Ok(_) => {}
            Err(place) => {
                let slots = &mut self.lists[place];
                slots.remove(slot);
                if let Some(one) = slots.only() {
                    entry.get_mut().at = At::slot(one);
                    *slots = Slots::default();
                    self.free_lists.push(place);
                }
            }
        }
    }

    pub(crate) fn posting(&self, term: Term<'_>) -> Option<Posting<'_>> {
        let (hash, check) = term.key(&self.seeds);
        let entry = self.terms.find(hash, |e| (e.hash, e.check) == (hash, check))?;
        Some(match entry.at.get() {
            Ok(slot) => Posting::One(slot),
            Err(place) => Posting::List(&self.lists[place]),
        })
    }

    pub(crate) fn all(&self) -> &RoaringBitmap {
        &self.all
    }

    pub(crate) fn versions(&self) -> impl Iterator<Item = &str> {
        self.versions.keys().map(|v| &**v)
    }

    pub(crate) fn term_count(&self) -> usize {
        self.terms.len()
    }
}

/// How many slots are gathered before a bitmap takes them: some lists of a large roll come to a MiB of them.
const GATHERED_MAX: usize = 64;

/// An index in the making, of instances whose slots come in ascending order. What goes into bitmaps is gathered, because
/// a bitmap takes many slots at once for a fraction of what it takes them for one by one.
#[derive(Debug)]
pub(crate) struct IndexBuilder {
    index: Index,
    /// By the place of their list.
    gathered: Vec<Vec<Slot>>,
    all: Vec<Slot>,
}

impl IndexBuilder {
    pub(crate) fn new(seed: u64) -> Self {
        Self { index: Index::new(seed), gathered: Vec::new(), all: Vec::new() }
    }

    pub(crate) fn insert(&mut self, slot: Slot, instance: &Instance) {
        let Self { index, gathered, all } = self;
        if all.len() == GATHERED_MAX {
            append(&mut index.all, all);
        }
        all.push(slot);
        let registration = instance.registration();
        index.count_version(&registration);
        Term::of(instance, &registration, |term| {
            let Some(place) = index.enter(term, slot) else { return };
            let Slots::Many(many) = &mut index.lists[place] else { return index.lists[place].insert(slot) };
            if gathered.len() <= place {
                gathered.resize_with(place + 1, Vec::new);
            }
            let gathered = &mut gathered[place];
            // A term that the instance has twice.
            if gathered.last() == Some(&slot) {
                return;
            }
            if gathered.len() == GATHERED_MAX {
                append(many, gathered);
            }
            gathered.push(slot);
        });
    }

    pub(crate) fn finish(mut self) -> Index {
        append(&mut self.index.all, &mut self.all);
        for (list, gathered) in self.index.lists.iter_mut().zip(&mut self.gathered) {
            if let Slots::Many(many) = list {
                append(many, gathered);
            }
        }
        self.index
    }
}

/// Puts slots into a bitmap, behind what is there already.
fn append(many: &mut RoaringBitmap, gathered: &mut Vec<Slot>) {
    if many.append(gathered.iter().copied()).is_err() {
        // The first of them made a bitmap of the list, and came again.
        many.extend(gathered.iter().copied());
    }
    gathered.clear();
}
