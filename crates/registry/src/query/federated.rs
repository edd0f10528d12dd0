//! Discovery over this cluster's roll and what other clusters told.

use std::cmp::Reverse;
use std::sync::Arc;

use super::{Draw, Forgotten, Page, Picked, Query, Sort, View};
use crate::federation::{Foreign, Peer, Received};
use crate::ids::{ClusterTime, InstanceId, PeerName, Revision, TenantId, WallTime};
use crate::index::Slot;
use crate::instance::Instance;
use crate::rank::Ranker;
use crate::slots::Slots;
use crate::state::State;
use crate::visibility::Viewer;

/// Whose an instance is that is not of this cluster.
#[derive(Clone, Debug)]
pub struct Origin {
    pub peer: PeerName,
    /// After this it has been out of reach for a while. The roll does not know that it is so: where nothing changes its time
    /// stands still.
    pub stale_after: ClusterTime,
    /// When it was last heard.
    pub heard_at: WallTime,
}

impl Origin {
    fn of(peer: &Peer) -> Self {
        let Received { heard_wall, .. } = peer.received;
        Self { peer: peer.name().clone(), stale_after: peer.stale_after(), heard_at: heard_wall }
    }
}

/// A page of both. In `page` the totals are this cluster's alone.
#[derive(Clone, Debug, Default)]
pub struct FederatedPage {
    pub page: Page,
    /// Of each of the found: whose it is, unless it is this cluster's own.
    pub origins: Vec<Option<Origin>>,
    /// All matches of other clusters.
    pub foreign: u64,
}

/// One of this cluster's alone.
impl From<Page> for FederatedPage {
    fn from(page: Page) -> Self {
        Self { page, origins: Vec::new(), foreign: 0 }
    }
}

/// What a cluster told of an instance.
pub(super) fn told_by(peer: &Peer, instance: &Arc<Instance>) -> (View, Origin) {
    (View { instance: instance.clone(), deadline: peer.expires_at() }, Origin::of(peer))
}

/// One that may be chosen.
#[derive(Clone, Copy)]
enum Seat<'a> {
    Own(Slot, &'a Instance),
    Foreign(&'a Foreign, &'a Peer),
}

impl<'a> Seat<'a> {
    fn instance(self) -> &'a Instance {
        match self {
            Self::Own(_, instance) => instance,
            Self::Foreign(entry, _) => &entry.instance,
        }
    }
}

impl State {
    /// As [`Self::query`], or [`Self::query_at`] where a revision is named, with what is known of other clusters. Of these
    /// only the present is known, whatever the revision. An id that this cluster has itself, or one of higher priority, is
    /// shown as that knows it.
    pub fn query_federated(&self, query: &Query, revision: Option<Revision>) -> Result<FederatedPage, Forgotten> {
        let local = match revision {
            None => self.query(query),
            Some(revision) => self.query_at(query, revision)?,
        };
        let ranker = self.ranker(query);
        let (found, foreign) = self.foreign_matches(query, &ranker);

        let more = local.next.is_some();
        let own = local.found.iter().map(|view| (query.rank(&ranker, &view.instance), (view.clone(), None)));
        let others = found.iter().map(|(entry, peer)| {
            let (view, origin) = told_by(peer, &entry.instance);
            (query.rank(&ranker, &entry.instance), (view, Some(origin)))
        });
        let mut merged: Vec<_> = own.chain(others).collect();
        merged.sort_by_key(|(rank, _)| *rank);
        // The local page ends where its limit is; what would come behind it is on the next one.
        let wanted = query.limit + usize::from(!more);
        merged.truncate(wanted);
        let (views, mut origins): (Vec<_>, Vec<_>) = merged.into_iter().map(|(_, each)| each).unzip();
        let mut page = Page::new(query, &ranker, views, local.total, local.revision);
        if more && page.next.is_none() {
            page.next = page.end(query.sort);
        }
        origins.truncate(page.found.len());
        Ok(FederatedPage { page, origins, foreign })
    }

    /// An instance of this cluster, or if it has none of that id which `viewer` sees, of another.
    pub fn get_federated(
        &self,
        tenant: &TenantId,
        id: &InstanceId,
        viewer: &Viewer,
    ) -> Option<(View, Option<Origin>)> {
        if let Some(view) = self.get(tenant, id).filter(|view| viewer.sees(&view.instance)) {
            return Some((view, None));
        }
        let known = self.foreign().of_id(tenant, id.as_str());
        let mut known = known.filter_map(|entry| Some((entry, self.staying(entry)?)));
        let (entry, peer) = known.find(|(entry, peer)| viewer.sees(&entry.instance) && self.is_shown(entry, peer))?;
        let (view, origin) = told_by(peer, &entry.instance);
        Some((view, Some(origin)))
    }

    /// As [`Self::pick`], with those of other clusters. Whoever is suspect, or of a cluster that is out of reach by `now`, is
    /// chosen only where all are.
    pub fn pick_federated(&self, query: &Query, draw: Draw, now: ClusterTime) -> Option<(Picked, Option<Origin>)> {
        let (own, ranker) = (self.slots(query), self.ranker(query));
        let own = own.iter().map(|slot| (slot, self.instance(slot)));
        let own = own.map(|(slot, instance)| (Seat::Own(slot, instance), instance.is_suspect()));
        let foreign = self.foreign_slots(query);
        let foreign = foreign.iter().filter_map(|slot| {
            let (entry, peer) = self.shown(query, slot)?;
            Some((Seat::Foreign(entry, peer), peer.is_stale(now)))
        });
        let mut found: Vec<(Seat<'_>, bool)> = own.chain(foreign).collect();
        if found.iter().any(|(_, is_doubted)| !is_doubted) {
            found.retain(|(_, is_doubted)| !is_doubted);
        }
        let candidates = found.len() as u64;
        let seat = draw.of(&ranker, candidates, || found.iter().map(|(seat, _)| (seat.instance(), *seat)))?;
        let (view, origin) = match seat {
            Seat::Own(slot, _) => (self.view(slot), None),
            Seat::Foreign(entry, peer) => {
                let (view, origin) = told_by(peer, &entry.instance);
                (view, Some(origin))
            }
        };
        let score = ranker.score(&view.instance);
        Some((Picked { view, score, candidates }, origin))
    }

    /// How many match now, with those of other clusters.
    pub fn count_federated(&self, query: &Query) -> u64 {
        let foreign = self.foreign_slots(query);
        let foreign = foreign.iter().filter(|slot| self.shown(query, *slot).is_some());
        self.count(query) + foreign.count() as u64
    }

    fn foreign_slots(&self, query: &Query) -> Slots {
        self.foreign().index(&query.tenant).map(|index| query.filter.slots(index)).unwrap_or_default()
    }

    /// The cluster whose an instance is, unless it is being removed.
    fn staying(&self, entry: &Foreign) -> Option<&Peer> {
        self.peer(&entry.peer).filter(|peer| !peer.leaving)
    }

    /// An instance of another cluster that matches, unless the id is shown as somebody else knows it.
    fn shown<'a>(&'a self, query: &Query, slot: Slot) -> Option<(&'a Foreign, &'a Peer)> {
        let entry = self.foreign().at(slot);
        let peer = self.staying(entry)?;
        let is_shown =
            self.is_shown(entry, peer) && !self.has_own(&query.tenant, &entry.instance, &query.filter.viewer);
        is_shown.then_some((entry, peer))
    }

    /// The first of other clusters' that match, each id once, and how many there are.
    fn foreign_matches(&self, query: &Query, ranker: &Ranker<'_>) -> (Vec<(&Foreign, &Peer)>, u64) {
        let foreign = self.foreign();
        let (slots, wanted) = (self.foreign_slots(query), query.limit + 1);
        let shown = |slot: Slot| self.shown(query, slot);
        // Of many, nearly all are nobody else's: who is not is found on the shorter way.
        let is_plain = !foreign.has_shared(&query.tenant) && self.peers().all(|peer| !peer.leaving);
        let ids = foreign.ids_len(&query.tenant) as u128;
        let is_walked = query.sort == Sort::Id && u128::from(slots.len()).pow(2) > (wanted as u128) * ids;
        if is_plain && is_walked && self.tenant_len(&query.tenant) < slots.len() as usize {
            let own = self
                .tenant_instances_after(&query.tenant, None)
                .filter(|instance| query.filter.viewer.sees(instance));
            let hidden = own.flat_map(|own| foreign.slots_of_id(&query.tenant, own.id()));
            let hidden = hidden.filter(|slot| slots.contains(*slot)).count() as u64;
            let after = query.after.as_ref().map(|after| after.id.as_str());
            let walk = foreign.walk(&query.tenant, after).filter(|slot| slots.contains(*slot));
            return (walk.filter_map(shown).take(wanted).collect(), slots.len() - hidden);
        }
        let found: Vec<(&Foreign, &Peer)> = slots.iter().filter_map(shown).collect();
        let count = found.len() as u64;
        let ranked = found.iter().map(|pair| (&*pair.0.instance, *pair));
        (query.first(ranker, ranked, wanted), count)
    }

    /// Whether no cluster of higher priority knows the id.
    fn is_shown(&self, entry: &Foreign, peer: &Peer) -> bool {
        let order = |peer: &Peer| (Reverse(peer.terms.priority), peer.terms.name.clone());
        let own = order(peer);
        let mut others = self.foreign().of_id(&entry.instance.tenant, entry.instance.id());
        others.all(|other| self.staying(other).is_none_or(|other| order(other) >= own))
    }

    /// Whether the id is on this cluster's own roll. What is hidden from the viewer is not there, so that nobody learns of
    /// it by what is not shown instead.
    fn has_own(&self, tenant: &TenantId, foreign: &Instance, viewer: &Viewer) -> bool {
        self.slot(tenant, foreign.id()).is_some_and(|slot| viewer.sees(self.instance(slot)))
    }
}
