//! Discovery over this cluster's roll and what other clusters told.

use std::cmp::Reverse;

use super::{Forgotten, Page, Query};
use crate::federation::{Foreign, Peer};
use crate::ids::{PeerName, Revision, TenantId, WallTime};
use crate::instance::Instance;
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
        let found: Vec<(&Foreign, &Peer)> = self.foreign_matches(query);
        let foreign = found.len() as u64;
        let ranked = found.iter().map(|pair| (&*pair.0.instance, *pair));
        let found = query.first(&ranker, ranked, query.limit + 1);

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

    /// Those of other clusters that match, each id once.
    fn foreign_matches(&self, query: &Query) -> Vec<(&Foreign, &Peer)> {
        let Some(index) = self.foreign().index(&query.tenant) else { return Vec::new() };
        let slots = query.filter.slots(index);
        let entries = slots.iter().map(|slot| self.foreign().at(slot)).filter_map(|entry| {
            let peer = self.peer(&entry.peer).filter(|peer| !peer.leaving)?;
            (self.is_shown(entry, peer) && !self.has_own(&query.tenant, &entry.instance, &query.filter.viewer))
                .then_some((entry, peer))
        });
        entries.collect()
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
