//! Discovery: what is asked, and how it is answered from posting lists.

mod federated;
mod foreign;

use std::cmp::Reverse;
use std::ops::Bound::{Excluded, Unbounded};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::filter::Filter;
use crate::ids::{ClusterTime, InstanceId, LeaseId, Revision, TenantId};
use crate::index::{Slot, Wanted};
use crate::instance::Instance;
use crate::rank::{Place, Ranker, Ranking, Score};
use crate::slots::Slots;
use crate::state::State;

pub use federated::{FederatedPage, Origin};
pub use foreign::ForeignPage;

/// Largest page. 1,000 registrations of a few hundred bytes stay under a megabyte of answer.
pub const LIMIT_MAX: usize = 1_000;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Sort {
    #[default]
    Id,
    /// By score, the best first; equal scores by id.
    Rank,
    /// By lease: in the order in which what is on the roll was registered.
    Lease,
}

/// Where in a sorted result a page ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// Descending; the same for all unless sorted by rank.
    score: Reverse<u32>,
    /// The same for all unless sorted by lease.
    lease: LeaseId,
    id: InstanceId,
    /// How many the whole result has: all pages show one revision, so that it is counted for the first alone.
    total: u64,
}

/// What results are sorted by.
type Rank<'a> = (Reverse<u32>, LeaseId, &'a str);

impl Position {
    fn rank(&self) -> Rank<'_> {
        (self.score, self.lease, self.id.as_str())
    }
}

#[derive(Clone, Debug)]
pub struct Query {
    pub tenant: TenantId,
    pub filter: Filter,
    pub sort: Sort,
    /// By what is ranked, where that is asked for.
    pub ranking: Ranking,
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

#[derive(Clone, Debug, Default)]
pub struct Page {
    pub found: Vec<View>,
    /// Of each of the found; empty unless sorted by rank.
    pub scores: Vec<Score>,
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

/// How one of all that are found is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Draw {
    /// The first by rank.
    Best,
    /// By lot, each as often as its weight says; one of weight 0 only where all are. The number is to be random.
    Weighted(u64),
    /// One after the other, in an order that is this node's own. The number is to be counted up.
    Turn(u64),
}

/// One that was chosen.
#[derive(Clone, Debug)]
pub struct Picked {
    pub view: View,
    pub score: Score,
    /// How many it was chosen from.
    pub candidates: u64,
}

impl Query {
    fn rank<'a>(&self, ranker: &Ranker<'_>, instance: &'a Instance) -> Rank<'a> {
        let (score, lease) = match self.sort {
            Sort::Id => (0, LeaseId(0)),
            Sort::Rank => (ranker.score(instance).place(), LeaseId(0)),
            Sort::Lease => (0, turn(instance)),
        };
        (Reverse(score), lease, instance.id())
    }

    fn is_after(&self, rank: Rank<'_>) -> bool {
        self.after.as_ref().is_none_or(|after| rank > after.rank())
    }

    /// The first `wanted` that come after the query's position, in order.
    fn first<'a, T: Copy>(
        &self,
        ranker: &Ranker<'_>,
        found: impl Iterator<Item = (&'a Instance, T)>,
        wanted: usize,
    ) -> Vec<T> {
        let ranked = found.map(|(instance, each)| (self.rank(ranker, instance), each));
        let mut ranked: Vec<_> = ranked.filter(|(rank, _)| self.is_after(*rank)).collect();
        if ranked.len() > wanted && wanted > 0 {
            ranked.select_nth_unstable_by_key(wanted - 1, |(rank, _)| *rank);
            ranked.truncate(wanted);
        }
        ranked.sort_unstable_by_key(|(rank, _)| *rank);
        ranked.into_iter().map(|(_, each)| each).collect()
    }
}

/// Where an instance stands in the order of registration. Those of other clusters have no lease here and come last.
fn turn(instance: &Instance) -> LeaseId {
    if instance.lease == LeaseId(0) { LeaseId(u64::MAX) } else { instance.lease }
}

impl Draw {
    /// Chooses one of `count` that are gone through in one order each time.
    fn of<'a, T, I>(self, ranker: &Ranker<'_>, count: u64, all: impl Fn() -> I) -> Option<T>
    where
        I: Iterator<Item = (&'a Instance, T)>,
    {
        let nth = |n: u64| all().nth(usize::try_from(n % count.max(1)).ok()?).map(|(_, each)| each);
        match self {
            Self::Best => {
                let ranked =
                    all().map(|(instance, each)| ((Reverse(ranker.score(instance).place()), instance.id()), each));
                ranked.min_by(|(a, _), (b, _)| a.cmp(b)).map(|(_, each)| each)
            }
            Self::Turn(n) => nth(n),
            Self::Weighted(random) => {
                let weight = |instance: &Instance| u64::from(instance.registration().weight);
                let sum: u64 = all().map(|(instance, _)| weight(instance)).sum();
                match random.checked_rem(sum) {
                    None => nth(random),
                    Some(mut drawn) => all().find_map(|(instance, each)| {
                        let weight = weight(instance);
                        let is_drawn = drawn < weight;
                        drawn = drawn.saturating_sub(weight);
                        is_drawn.then_some(each)
                    }),
                }
            }
        }
    }
}

impl Page {
    /// `found` may hold one more than the query's limit, which tells that there is a next page.
    fn new(query: &Query, ranker: &Ranker<'_>, mut found: Vec<View>, total: u64, revision: Revision) -> Self {
        let more = found.len() > query.limit;
        found.truncate(query.limit);
        let scores = match query.sort {
            Sort::Rank => found.iter().map(|view| ranker.score(&view.instance)).collect(),
            Sort::Id | Sort::Lease => Vec::new(),
        };
        let mut page = Self { found, scores, total, revision, next: None };
        if more {
            page.next = page.end(query.sort);
        }
        page
    }

    /// Ends the page after its first `count`.
    pub fn cut(&mut self, sort: Sort, count: usize) {
        if count < self.found.len() {
            self.found.truncate(count);
            self.scores.truncate(count);
            self.next = self.end(sort);
        }
    }

    fn end(&self, sort: Sort) -> Option<Position> {
        let instance = &self.found.last()?.instance;
        let lease = if sort == Sort::Lease { turn(instance) } else { LeaseId(0) };
        let score = Reverse(self.scores.last().map_or(0, Score::place));
        Some(Position { score, lease, id: InstanceId::kept(instance.id()), total: self.total })
    }
}

impl State {
    fn ranker<'a>(&'a self, query: &'a Query) -> Ranker<'a> {
        Ranker::new(&query.ranking, &query.tenant, self.rulings())
    }

    /// Chooses one of all that match now, whatever the query says of order and pages; a suspect only where all are.
    pub fn pick(&self, query: &Query, draw: Draw) -> Option<Picked> {
        let (found, ranker) = (self.believed(query), self.ranker(query));
        let candidates = found.len();
        let all = || found.iter().map(|slot| (&**self.instance(slot), slot));
        let slot = draw.of(&ranker, candidates, all)?;
        let view = self.view(slot);
        let score = ranker.score(&view.instance);
        Some(Picked { view, score, candidates })
    }

    /// Those that match and are not suspect, or if all are, all.
    fn believed(&self, query: &Query) -> Slots {
        let found = self.slots(query);
        let mut believed = found.clone();
        self.suspects_of(&query.tenant).for_each(|slot| believed.remove(slot));
        if believed.len() == 0 { found } else { believed }
    }

    /// How many match now.
    pub fn count(&self, query: &Query) -> u64 {
        self.slots(query).len()
    }

    /// Where the instance of an id says that it is; unknown if there is none.
    pub fn place_of(&self, tenant: &TenantId, id: &InstanceId) -> Place {
        let slot = self.slot(tenant, id.as_str());
        slot.map(|slot| Place::of(&self.instance(slot).registration())).unwrap_or_default()
    }

    /// Answers from the roll as it stands.
    pub fn query(&self, query: &Query) -> Page {
        let (found, ranker) = (self.slots(query), self.ranker(query));
        let wanted = query.limit + 1;
        let slots = match self.is_walked(query, &found) {
            true => self
                .walk(query)
                .filter(|(_, slot)| found.contains(*slot))
                .map(|(_, slot)| slot)
                .take(wanted)
                .collect(),
            false => query.first(&ranker, found.iter().map(|slot| (&**self.instance(slot), slot)), wanted),
        };
        let views = slots.into_iter().map(|slot| self.view(slot)).collect();
        Page::new(query, &ranker, views, found.len(), self.revision())
    }

    /// Answers from the roll as it stood at `revision`: the present one with the changes since undone. It is ranked by
    /// what operators have laid down now: whoever turns pages looks whether [`Self::ranking_mark`] is what it was.
    pub fn query_at(&self, query: &Query, revision: Revision) -> Result<Page, Forgotten> {
        if revision < self.oldest_known() || revision > self.revision() {
            return Err(Forgotten(revision));
        }
        let (found, ranker) = (self.slots(query), self.ranker(query));
        let marks = query.filter.wanted(self.index_seed());
        let (instances, total) = match &query.after {
            Some(after) if self.is_walked(query, &found) => {
                (self.walk_at(query, &ranker, revision, &found), after.total)
            }
            _ => self.undo(query, &ranker, revision, &found, &marks),
        };
        let views = instances.into_iter().map(|instance| self.view_of_past(instance)).collect();
        Ok(Page::new(query, &ranker, views, total, revision))
    }

    fn slots(&self, query: &Query) -> Slots {
        self.index(&query.tenant).map(|index| query.filter.slots(index)).unwrap_or_default()
    }

    /// Whether it is cheaper to walk the ids in order until enough of them were found than to sort all that was found:
    /// the walk passes ids/found ids for each hit.
    fn is_walked(&self, query: &Query, found: &Slots) -> bool {
        let ids = self.ids(&query.tenant).map_or(0, |ids| ids.len()) as u128;
        query.sort == Sort::Id && u128::from(found.len()).pow(2) > (query.limit as u128 + 1) * ids
    }

    /// All ids of the tenant after the query's position.
    fn walk(&self, query: &Query) -> impl Iterator<Item = (&str, Slot)> {
        let start = query.after.as_ref().map_or(Unbounded, |after| Excluded(after.id.as_str()));
        let ids = self.ids(&query.tenant).into_iter();
        ids.flat_map(move |ids| ids.range::<str, _>((start, Unbounded))).map(|(id, slot)| (id.id(), *slot))
    }

    /// The first that matched at a revision, in the order of their ids: who is still on the roll, by a walk, and who was
    /// removed since.
    fn walk_at<'a>(
        &'a self,
        query: &'a Query,
        ranker: &Ranker<'_>,
        revision: Revision,
        found: &'a Slots,
    ) -> Vec<&'a Arc<Instance>> {
        let (history, wanted, anything) = (self.history(), query.limit + 1, Wanted::default());
        let present = self.walk(query).filter_map(|(_, slot)| {
            let instance = self.instance(slot);
            let at = history.version_at(instance, revision)?;
            let fits = if Arc::ptr_eq(at, instance) { found.contains(slot) } else { query.filter.matches(at) };
            fits.then_some(at)
        });
        let present: Vec<_> = present.take(wanted).collect();
        // Who comes after a full page is not looked at further.
        let last = present.get(query.limit).map(|instance| instance.id());
        // A removal's mark tells what was removed, which need not be what stood at the revision.
        let removed = history.replaced_after(revision, &anything).filter(|(_, record)| record.after.is_none());
        let removed = removed.map(|(before, _)| before).filter(|before| {
            let rank = query.rank(ranker, before);
            before.tenant == query.tenant && query.is_after(rank) && last.is_none_or(|last| rank.2 < last)
        });
        let removed = removed.filter_map(|before| history.version_at(before, revision));
        let removed = removed.filter(|before| query.filter.matches(before));
        let both = present.iter().copied().chain(removed);
        query.first(ranker, both.map(|instance| (&**instance, instance)), wanted)
    }

    /// The first that matched at a revision, and how many did: those that match and have not changed since, and of those
    /// that have changed what they were.
    fn undo<'a>(
        &'a self,
        query: &'a Query,
        ranker: &Ranker<'_>,
        revision: Revision,
        found: &'a Slots,
        marks: &'a Wanted,
    ) -> (Vec<&'a Arc<Instance>>, u64) {
        let present = found.iter().map(|slot| self.instance(slot)).filter(|instance| instance.revision <= revision);
        // The first change of each since then: what stood before it stood at the revision.
        let replaced = self.history().replaced_after(revision, marks).map(|(before, _)| before);
        let replaced = replaced.filter(|before| before.revision <= revision && before.tenant == query.tenant);
        let both: Vec<_> = present.chain(replaced.filter(|before| query.filter.matches(before))).collect();
        let total = both.len() as u64;
        (query.first(ranker, both.into_iter().map(|instance| (&**instance, instance)), query.limit + 1), total)
    }
}
