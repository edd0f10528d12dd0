//! A set of slots: in a row while it is small, in a bitmap when it is not.

use roaring::RoaringBitmap;
use smallvec::SmallVec;

use crate::index::Slot;

/// Slots in a row. A bitmap's containers cost some 80 bytes for each 65,536 slots that they reach over, so that it pays
/// only for more than these.
const FEW_MAX: usize = 128;

#[derive(Clone, Debug)]
pub(crate) enum Slots {
    /// In ascending order.
    Few(SmallVec<[Slot; 4]>),
    Many(RoaringBitmap),
}

impl Default for Slots {
    fn default() -> Self {
        Self::Few(SmallVec::new())
    }
}

impl Slots {
    pub(crate) fn len(&self) -> u64 {
        match self {
            Self::Few(slots) => slots.len() as u64,
            Self::Many(slots) => slots.len(),
        }
    }

    pub(crate) fn contains(&self, slot: Slot) -> bool {
        match self {
            Self::Few(slots) => slots.binary_search(&slot).is_ok(),
            Self::Many(slots) => slots.contains(slot),
        }
    }

    /// The one slot, if there is but one.
    pub(crate) fn only(&self) -> Option<Slot> {
        match self {
            Self::Few(slots) if slots.len() == 1 => slots.first().copied(),
            _ => None,
        }
    }

    pub(crate) fn insert(&mut self, slot: Slot) {
        match self {
            Self::Few(slots) => {
                // Slots are mostly handed out in order.
                let at = match slots.last() {
                    Some(last) if *last >= slot => match slots.binary_search(&slot) {
                        Ok(_) => return,
                        Err(at) => at,
                    },
                    _ => slots.len(),
                };
                if slots.len() < FEW_MAX {
                    slots.insert(at, slot);
                } else {
                    let mut many: RoaringBitmap = slots.iter().copied().collect();
                    many.insert(slot);
                    *self = Self::Many(many);
                }
            }
            Self::Many(slots) => {
                slots.insert(slot);
            }
        }
    }

    pub(crate) fn remove(&mut self, slot: Slot) {
        match self {
            Self::Few(slots) => {
                if let Ok(at) = slots.binary_search(&slot) {
                    slots.remove(at);
                }
            }
            Self::Many(slots) => {
                // Half as many as it took to come here, so that one that comes and goes does not pay each time.
                if slots.remove(slot) && slots.len() <= FEW_MAX as u64 / 2 {
                    *self = Self::Few(slots.iter().collect());
                }
            }
        }
    }
}

impl Slots {
    pub(crate) fn union(any_of: &[Posting<'_>]) -> Self {
        match any_of {
            [] => Self::default(),
            [Posting::List(slots)] => (*slots).clone(),
            _ => {
                let mut union = RoaringBitmap::new();
                any_of.iter().for_each(|posting| match posting {
                    Posting::List(Self::Many(slots)) => union |= slots,
                    posting => union.extend(posting.iter()),
                });
                Self::Many(union)
            }
        }
    }

    /// Keeps what is in any of the others.
    pub(crate) fn intersect(&mut self, any_of: &[Posting<'_>]) {
        match (&mut *self, any_of) {
            (Self::Few(slots), _) => slots.retain(|slot| any_of.iter().any(|posting| posting.contains(*slot))),
            (Self::Many(slots), [Posting::List(Self::Many(other))]) => *slots &= other,
            (Self::Many(slots), _) => {
                let mut kept = RoaringBitmap::new();
                any_of.iter().for_each(|posting| match posting {
                    Posting::List(Self::Many(other)) => kept |= &*slots & other,
                    posting => kept.extend(posting.iter().filter(|slot| slots.contains(*slot))),
                });
                *slots = kept;
            }
        }
    }

    pub(crate) fn subtract(&mut self, other: Posting<'_>) {
        match (&mut *self, other) {
            (Self::Few(slots), _) => slots.retain(|slot| !other.contains(*slot)),
            (Self::Many(slots), Posting::List(Self::Many(other))) => *slots -= other,
            (Self::Many(slots), _) => {
                for slot in other.iter() {
                    slots.remove(slot);
                }
            }
        }
    }

    /// In ascending order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Slot> {
        let (few, many) = match self {
            Self::Few(slots) => (slots.as_slice(), None),
            Self::Many(slots) => (&[][..], Some(slots)),
        };
        few.iter().copied().chain(many.into_iter().flatten())
    }
}

/// Who has a term.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Posting<'a> {
    One(Slot),
    List(&'a Slots),
}

impl<'a> Posting<'a> {
    pub(crate) fn len(self) -> u64 {
        match self {
            Self::One(_) => 1,
            Self::List(slots) => slots.len(),
        }
    }

    pub(crate) fn contains(self, slot: Slot) -> bool {
        match self {
            Self::One(one) => one == slot,
            Self::List(slots) => slots.contains(slot),
        }
    }

    pub(crate) fn iter(self) -> impl Iterator<Item = Slot> + 'a {
        let (one, list) = match self {
            Self::One(slot) => (Some(slot), None),
            Self::List(slots) => (None, Some(slots)),
        };
        one.into_iter().chain(list.into_iter().flat_map(Slots::iter))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::collection::{btree_set, vec};
    use proptest::prelude::*;

    use super::*;

    fn slots(set: &BTreeSet<Slot>) -> Slots {
        let mut slots = Slots::default();
        set.iter().for_each(|slot| slots.insert(*slot));
        slots
    }

    fn set(slots: &Slots) -> BTreeSet<Slot> {
        slots.iter().collect()
    }

    /// One, few or many, over several of a bitmap's containers.
    fn any_set() -> impl Strategy<Value = BTreeSet<Slot>> {
        let slot = || (0..400u32).prop_map(|slot| slot * 500);
        prop_oneof![btree_set(slot(), 0..3), btree_set(slot(), 0..60), btree_set(slot(), 129..300)]
    }

    proptest! {
        #[test]
        fn is_a_set(changes in vec((0u32..400, any::<bool>()), 0..1_500), step in 1u32..100_000) {
            let (mut slots, mut expected) = (Slots::default(), BTreeSet::new());
            for (slot, comes) in changes.into_iter().map(|(slot, comes)| (slot * step, comes)) {
                if comes {
                    slots.insert(slot);
                    expected.insert(slot);
                } else {
                    slots.remove(slot);
                    expected.remove(&slot);
                }
                prop_assert_eq!(slots.len(), expected.len() as u64);
                prop_assert_eq!(slots.contains(slot), comes);
                prop_assert_eq!(slots.only(), expected.first().copied().filter(|_| expected.len() == 1));
            }
            prop_assert!(slots.iter().eq(expected));
        }

        #[test]
        fn sets_are_joined_cut_and_taken_from(sets in vec(any_set(), 1..4), others in vec(any_set(), 0..3), one in 0..400u32) {
            let (lists, others) = (sets.iter().map(slots).collect::<Vec<_>>(), others);
            let mut any_of: Vec<_> = lists.iter().map(Posting::List).collect();
            any_of.push(Posting::One(one * 500));
            let mut joined: BTreeSet<_> = sets.iter().flatten().copied().collect();
            joined.insert(one * 500);
            prop_assert_eq!(set(&Slots::union(&any_of)), joined.clone());
            prop_assert_eq!(set(&Slots::union(&any_of[..1])), sets[0].clone());
            for other in others {
                let (mut cut, mut cut_by_one) = (slots(&other), slots(&other));
                cut.intersect(&any_of);
                prop_assert_eq!(set(&cut), other.intersection(&joined).copied().collect());
                cut_by_one.intersect(&any_of[..1]);
                prop_assert_eq!(set(&cut_by_one), other.intersection(&sets[0]).copied().collect());
                let mut left = slots(&other);
                any_of.iter().for_each(|posting| left.subtract(*posting));
                prop_assert_eq!(set(&left), other.difference(&joined).copied().collect());
            }
        }
    }
}
