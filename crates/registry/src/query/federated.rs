//! Discovery over this cluster's roll and what other clusters told.

use std::cmp::Reverse;

use super::{Forgotten, Page, Query, Sort};
use crate::federation::{Foreign, Peer};
use crate::ids::{PeerName, Revision, TenantId, WallTime};
use crate::index::Slot;
use crate::instance::Instance;
use crate::rank::Ranker;
use crate::state::State;
use crate::visibility::Viewer;

/// Whose an instance is that is not of this cluster.
#[derive(Clone, Debug)]
pub struct Origin {
    pub peer: PeerName,
    /// The cluster has been out of reach for a while.
    pub stale: bool,
    /// When it was last heard.
    pub heard_at: WallTime,
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
            let view = super::View { instance: entry.instance.clone(), deadline: peer.expires_at() };
            let origin = Origin {
                peer: entry.peer.clone(),
                stale: peer.is_stale(self.now()),
                heard_at: peer.received.heard_wall,
            };
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

    /// The first of other clusters' that match, each id once, and how many there are.
    fn foreign_matches(&self, query: &Query, ranker: &Ranker<'_>) -> (Vec<(&Foreign, &Peer)>, u64) {
        let foreign = self.foreign();
        let Some(index) = foreign.index(&query.tenant) else { return (Vec::new(), 0) };
        let (slots, wanted) = (query.filter.slots(index), query.limit + 1);
        let shown = |slot: Slot| {
            let entry = foreign.at(slot);
            let peer = self.peer(&entry.peer).filter(|peer| !peer.leaving)?;
            (self.is_shown(entry, peer) && !self.has_own(&query.tenant, &entry.instance, &query.filter.viewer))
                .then_some((entry, peer))
        };
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
        others.all(|other| {
            let other = self.peer(&other.peer).filter(|other| !other.leaving);
            other.is_none_or(|other| order(other) >= own)
        })
    }

    /// Whether the id is on this cluster's own roll. What is hidden from the viewer is not there, so that nobody learns of
    /// it by what is not shown instead.
    fn has_own(&self, tenant: &TenantId, foreign: &Instance, viewer: &Viewer) -> bool {
        self.slot(tenant, foreign.id()).is_some_and(|slot| viewer.sees(self.instance(slot)))
    }
}
