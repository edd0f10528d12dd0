//! Which of many filters a change may concern, without asking each.

use hashbrown::HashTable;
use smallvec::SmallVec;

use crate::filter::Filter;
use crate::index::{Seeds, Term};
use crate::instance::Instance;

/// Filters by what an instance must have to be found by them. Each is entered under one of its demands; those that
/// demand nothing by which instances differ much are asked every time.
#[derive(Debug)]
pub struct Interests<K> {
    seeds: Seeds,
    by_term: HashTable<Entry<K>>,
    /// How many entries there are for each field, so that terms of other fields are not even hashed.
    fields: [usize; Term::FIELDS],
    always: Vec<K>,
}

#[derive(Debug)]
struct Entry<K> {
    term: (u64, u32),
    keys: SmallVec<[K; 2]>,
}

impl<K: Copy + Eq> Interests<K> {
    /// `seed` is secret, so that nobody can register terms that collide.
    pub fn new(seed: u64) -> Self {
        Self { seeds: Seeds::new(seed), by_term: HashTable::new(), fields: [0; Term::FIELDS], always: Vec::new() }
    }

    pub fn is_empty(&self) -> bool {
        self.by_term.is_empty() && self.always.is_empty()
    }

    /// Enters a filter under a key, which others may have as well.
    pub fn insert(&mut self, filter: &Filter, key: K) {
        let terms = narrowest(filter);
        if terms.is_empty() {
            self.always.push(key);
        }
        for term in terms {
            let hashed = term.key(&self.seeds);
            let entry = self.by_term.entry(hashed.0, |entry| entry.term == hashed, |entry| entry.term.0);
            let entry = entry.or_insert_with(|| Entry { term: hashed, keys: SmallVec::new() });
            entry.into_mut().keys.push(key);
            self.fields[term.field()] += 1;
        }
    }

    /// Takes back what [`Self::insert`] was given.
    pub fn remove(&mut self, filter: &Filter, key: K) {
        let terms = narrowest(filter);
        if terms.is_empty()
            && let Some(at) = self.always.iter().position(|known| *known == key)
        {
            self.always.swap_remove(at);
        }
        for term in terms {
            let hashed = term.key(&self.seeds);
            let Ok(mut entry) = self.by_term.find_entry(hashed.0, |entry| entry.term == hashed) else { continue };
            let keys = &mut entry.get_mut().keys;
            let Some(at) = keys.iter().position(|known| *known == key) else { continue };
            keys.swap_remove(at);
            if keys.is_empty() {
                entry.remove();
            }
            self.fields[term.field()] -= 1;
        }
    }

    /// Calls `each` with the key of every filter that may find the instance, and of some that do not; with some twice.
    pub fn concerned(&self, instance: &Instance, mut each: impl FnMut(K)) {
        self.always.iter().copied().for_each(&mut each);
        if self.by_term.is_empty() {
            return;
        }
        Term::of(instance, &instance.registration(), |term| {
            if self.fields[term.field()] == 0 {
                return;
            }
            let hashed = term.key(&self.seeds);
            if let Some(entry) = self.by_term.find(hashed.0, |entry| entry.term == hashed) {
                entry.keys.iter().copied().for_each(&mut each);
            }
        });
    }
}

/// Each term once.
fn narrowest(filter: &Filter) -> SmallVec<[Term<'_>; 2]> {
    let mut terms = filter.narrowest();
    terms.sort_unstable();
    terms.dedup();
    terms
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{LeaseId, Revision, TenantId, WallTime};
    use crate::instance::{Presence, Seldom};
    use crate::metadata::{Metadata, MetadataValue};
    use crate::registration::{Kind, Registration, Status, Visibility};
    use crate::{InstanceId, ServiceName};

    fn instance(name: &str, tags: &[&str], label: &'static str) -> Instance {
        let registration = Registration {
            kind: Kind::Agent,
            visibility: Visibility::Public,
            tags: tags.iter().map(|tag| Box::from(*tag)).collect(),
            metadata: Metadata::new([("env", MetadataValue::Text(label))]),
            ..Registration::new(
                InstanceId::parse("i").unwrap(),
                ServiceName::parse(name).unwrap(),
                "http://h/",
                1_000,
            )
        };
        Instance {
            tenant: TenantId::parse("t").unwrap(),
            registration: registration.pack(),
            seldom: Seldom::default(),
            reported_status: Status::Active,
            presence: Presence::Present,
            lease: LeaseId(1),
            revision: Revision(1),
            created_revision: Revision(1),
            registered_at: WallTime(0),
        }
    }

    fn filters() -> Vec<Filter> {
        let texts = |values: &[&str]| values.iter().map(|value| Box::from(*value)).collect::<Vec<_>>();
        let selector = |text: &str| text.parse().unwrap();
        vec![
            Filter::default(),
            Filter { names: texts(&["a", "b"]), ..Filter::default() },
            Filter { tags: texts(&["x", "y"]), ..Filter::default() },
            Filter { names: texts(&["a"]), tags: texts(&["x"]), ..Filter::default() },
            Filter { selector: selector("env=prod"), ..Filter::default() },
            Filter { selector: selector("env!=prod"), ..Filter::default() },
            Filter { selector: selector("env,tier in (1,2)"), ..Filter::default() },
            Filter { kinds: vec![Kind::Agent], ..Filter::default() },
        ]
    }

    fn concerned(interests: &Interests<usize>, instance: &Instance) -> Vec<usize> {
        let mut keys = Vec::new();
        interests.concerned(instance, |key| keys.push(key));
        keys.sort_unstable();
        keys.dedup();
        keys
    }

    #[test]
    fn whoever_may_be_found_is_told_and_hardly_anybody_else() {
        let mut interests = Interests::new(7);
        let filters = filters();
        filters.iter().enumerate().for_each(|(key, filter)| interests.insert(filter, key));
        let instances =
            [instance("a", &["x", "y"], "prod"), instance("b", &[], "test"), instance("c", &["y"], "prod")];
        for instance in &instances {
            let told = concerned(&interests, instance);
            for (key, filter) in filters.iter().enumerate() {
                assert!(!filter.matches(instance) || told.contains(&key), "{filter:?} finds {instance:?}");
            }
        }
        assert_eq!(concerned(&interests, &instances[0]), [0, 1, 2, 3, 4, 5, 6, 7]);
        // By tags the first one counts, by labels the first demand.
        assert_eq!(concerned(&interests, &instances[1]), [0, 1, 5, 6, 7]);
        assert_eq!(concerned(&interests, &instances[2]), [0, 4, 5, 6, 7]);
    }

    #[test]
    fn what_is_removed_is_gone() {
        let mut interests = Interests::new(7);
        let filters = filters();
        for _ in 0..2 {
            filters.iter().enumerate().for_each(|(key, filter)| interests.insert(filter, key));
        }
        for round in 0..2 {
            for (key, filter) in filters.iter().enumerate() {
                interests.remove(filter, key);
                let told = concerned(&interests, &instance("a", &["x", "y"], "prod"));
                assert_eq!(told.contains(&key), round == 0, "{filter:?}");
            }
        }
        assert!(interests.is_empty());
    }
}
