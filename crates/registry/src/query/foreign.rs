//! Other clusters' instances as each of them tells its own, for watchers: all of them a page at a time, and each change.

use super::federated::told_by;
use super::{Origin, View};
use crate::filter::Filter;
use crate::ids::{ClusterTime, InstanceId, TenantId};
use crate::index::Slot;
use crate::slots::{Posting, Slots};
use crate::state::{PeerChange, State};

/// Instances that are looked at for one page: it may end without having found as many as it could hold.
const LOOKED_AT_MAX: usize = 2_048;

/// Some of other clusters' instances, as they are now.
#[derive(Clone, Debug, Default)]
pub struct ForeignPage {
    /// In the order of ids. One that several clusters tell of comes once for each of them.
    pub found: Vec<(View, Origin)>,
    /// Up to where all were found, if there are more.
    pub end: Option<InstanceId>,
    /// The number of the last change that it shows.
    pub sequence: u64,
}

impl State {
    /// The foreign instances of a tenant that any of the filters finds, after an id: about `limit` of them, and not many more
    /// than take `bytes_max`. Those of one id are never parted. What this cluster has itself hides none of them.
    pub fn foreign_page(
        &self,
        tenant: &TenantId,
        filters: &[Filter],
        after: Option<&InstanceId>,
        limit: usize,
        bytes_max: usize,
    ) -> ForeignPage {
        let mut page = ForeignPage { sequence: self.foreign_sequence(), ..ForeignPage::default() };
        let foreign = self.foreign();
        let Some(index) = foreign.index(tenant) else { return page };
        let each: Vec<Slots> = filters.iter().map(|filter| filter.slots(index)).collect();
        let slots = Slots::union(&each.iter().map(Posting::List).collect::<Vec<_>>());
        let (mut bytes, mut last) = (0, None::<&str>);
        for (looked_at, slot) in self.foreign_slots_after(tenant, &slots, after, limit).enumerate() {
            let entry = foreign.at(slot);
            let id = entry.instance.id();
            let is_full = page.found.len() >= limit || bytes >= bytes_max || looked_at >= LOOKED_AT_MAX;
            if is_full && last.is_some_and(|last| last != id) {
                page.end = last.map(InstanceId::kept);
                break;
            }
            last = Some(id);
            let peer = self.peer(&entry.peer).filter(|peer| !peer.leaving);
            if let Some(peer) = peer.filter(|_| slots.contains(slot)) {
                bytes += entry.instance.bytes();
                page.found.push(told_by(peer, &entry.instance));
            }
        }
        page
    }

    /// In the order of ids, those after `after`: all those among `slots`, and where they are many others between them.
    fn foreign_slots_after<'a>(
        &'a self,
        tenant: &TenantId,
        slots: &Slots,
        after: Option<&'a InstanceId>,
        limit: usize,
    ) -> Box<dyn Iterator<Item = Slot> + 'a> {
        let foreign = self.foreign();
        let after = after.map(InstanceId::as_str);
        // As with queries: the walk passes ids/slots ids for each hit.
        let ids = foreign.ids_len(tenant) as u128;
        if u128::from(slots.len()).pow(2) > limit as u128 * ids {
            return Box::new(foreign.walk(tenant, after));
        }
        let with_id = slots.iter().map(|slot| (foreign.at(slot).instance.id(), slot));
        let mut sorted: Vec<_> = with_id.filter(|(id, _)| after.is_none_or(|after| *id > after)).collect();
        sorted.sort_unstable();
        Box::new(sorted.into_iter().map(|(_, slot)| slot))
    }

    /// The instance of a change as it is, or as it was before it went.
    pub fn foreign_changed(&self, change: &PeerChange<'_>) -> (View, Origin) {
        let instance = change.instance();
        self.peer(change.peer).map_or_else(
            // Nothing is left of the peer but this.
            || {
                let view = View { instance: instance.clone(), deadline: ClusterTime(0) };
                (view, Origin { peer: change.peer.clone(), stale_after: ClusterTime(0), heard_at: change.wall })
            },
            |peer| told_by(peer, instance),
        )
    }
}
