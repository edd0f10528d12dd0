//! Instances of other clusters, with their indexes: as a roll of its own for each tenant, without leases.

use std::collections::BTreeMap;
use std::ops::Bound::{Excluded, Included, Unbounded};
use std::sync::Arc;

use smallvec::SmallVec;

use super::peer_changes::{PeerChanges, Record};
use super::rulings::change_kind;
use super::touched::TableDelta;
use crate::digest::{self, RowSum};
use crate::federation::{
    FOREIGN_BYTES_MAX, FOREIGN_BYTES_MAX_OF_PEER, FOREIGN_MAX, FOREIGN_MAX_OF_PEER, Foreign, ForeignKey,
};
use crate::history::ChangeKind;
use crate::ids::{InstanceId, PeerName, TenantId, WallTime};
use crate::index::{Index, Slot};
use crate::instance::Instance;

pub type ForeignDelta = TableDelta<ForeignKey, Foreign>;

#[derive(Debug, Default)]
pub(crate) struct ForeignEntries {
    by_key: BTreeMap<ForeignKey, Slot>,
    seats: Vec<Option<Seat>>,
    free: Vec<Slot>,
    tenants: BTreeMap<TenantId, OfTenant>,
    /// How many each cluster has, and what they take.
    counts: BTreeMap<PeerName, (usize, usize)>,
    bytes: usize,
    /// Not as in the last checkpoint; whoever is gone meanwhile is passed over.
    dirty: Vec<ForeignKey>,
    removed: Vec<ForeignKey>,
    changes: PeerChanges,
}

#[derive(Debug)]
struct Seat {
    entry: Foreign,
    /// Among the dirty ones.
    dirty: bool,
    /// In the last checkpoint.
    kept: bool,
}

#[derive(Debug)]
struct OfTenant {
    index: Index,
    /// Each known by one cluster or by several.
    ids: BTreeMap<InstanceId, SmallVec<[Slot; 1]>>,
    /// Of these, how many are known by several.
    shared: usize,
}

/// How far a look went.
#[derive(Debug, Default)]
pub(super) struct LookedAt {
    pub(super) count: usize,
    pub(super) last: Option<(TenantId, InstanceId)>,
}

impl ForeignEntries {
    pub(super) fn get(&self, key: &ForeignKey) -> Option<&Foreign> {
        self.by_key.get(key).map(|slot| self.at(*slot))
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Foreign> {
        self.by_key.values().map(|slot| self.at(*slot))
    }

    pub(crate) fn at(&self, slot: Slot) -> &Foreign {
        &self.seats[slot as usize].as_ref().expect("an indexed slot is taken").entry
    }

    pub(crate) fn index(&self, tenant: &TenantId) -> Option<&Index> {
        self.tenants.get(tenant).map(|own| &own.index)
    }

    /// All that are known of an id.
    pub(crate) fn of_id(&self, tenant: &TenantId, id: &str) -> impl Iterator<Item = &Foreign> {
        self.slots_of_id(tenant, id).map(|slot| self.at(slot))
    }

    pub(crate) fn slots_of_id<'a>(&'a self, tenant: &TenantId, id: &str) -> impl Iterator<Item = Slot> + use<'a> {
        let slots = self.tenants.get(tenant).and_then(|own| own.ids.get(id));
        slots.into_iter().flatten().copied()
    }

    /// Whether several clusters know an id of a tenant.
    pub(crate) fn has_shared(&self, tenant: &TenantId) -> bool {
        self.tenants.get(tenant).is_some_and(|own| own.shared > 0)
    }

    /// How many ids of a tenant are known.
    pub(crate) fn ids_len(&self, tenant: &TenantId) -> usize {
        self.tenants.get(tenant).map_or(0, |own| own.ids.len())
    }

    /// A tenant's slots by id, those after `after`.
    pub(crate) fn walk<'a>(
        &'a self,
        tenant: &TenantId,
        after: Option<&'a str>,
    ) -> impl Iterator<Item = Slot> + use<'a> {
        let start = after.map_or(Unbounded, Excluded);
        let ids = self.tenants.get(tenant).map(|own| &own.ids);
        ids.into_iter()
            .flat_map(move |ids| ids.range::<str, _>((start, Unbounded)))
            .flat_map(|(_, slots)| slots.iter().copied())
    }

    pub(super) fn len(&self) -> usize {
        self.by_key.len()
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn count_of(&self, peer: &PeerName) -> (usize, usize) {
        self.counts.get(peer).copied().unwrap_or_default()
    }

    /// Whether it may be put in, in place of what stands there.
    pub(super) fn has_room(&self, entry: &Foreign) -> bool {
        let (count, bytes) = self.get(&entry.key()).map_or((0, 0), |before| (1, before.instance.bytes()));
        let (of_peer, bytes_of_peer) = self.count_of(&entry.peer);
        let new = entry.instance.bytes();
        self.by_key.len() - count < FOREIGN_MAX
            && of_peer - count < FOREIGN_MAX_OF_PEER
            && self.bytes - bytes + new <= FOREIGN_BYTES_MAX
            && bytes_of_peer - bytes + new <= FOREIGN_BYTES_MAX_OF_PEER
    }

    pub(super) fn changes(&self) -> &PeerChanges {
        &self.changes
    }

    pub(super) fn changes_mut(&mut self) -> &mut PeerChanges {
        &mut self.changes
    }

    /// Puts in what its cluster tells of it: a change, unless it is known already.
    pub(super) fn tell(&mut self, mut entry: Foreign, wall: WallTime, index_seed: u64, rows: &mut RowSum) {
        let known = self.get(&entry.key()).filter(|known| known.instance == entry.instance);
        if let Some(known) = known.map(|known| known.instance.clone()) {
            // All who have it share one in memory.
            entry.instance = known;
            self.put(entry, index_seed, rows);
            return;
        }
        let (peer, after) = (entry.peer.clone(), entry.instance.clone());
        let before = self.put(entry, index_seed, rows);
        let kind = before.as_ref().map_or(ChangeKind::Registered, |before| change_kind(before, &after));
        self.changes.push(Record { peer, kind, wall, before, after: Some(after) });
    }

    /// Returns what stood there before.
    pub(super) fn put(&mut self, entry: Foreign, index_seed: u64, rows: &mut RowSum) -> Option<Arc<Instance>> {
        let key = entry.key();
        let (before, kept) = self.take(&key, rows).map_or((None, false), |(before, kept)| (Some(before), kept));
        let slot = self.free.pop().unwrap_or_else(|| {
            self.seats.push(None);
            Slot::try_from(self.seats.len() - 1).expect("there are fewer than the bound")
        });
        rows.add(digest::of_foreign(&entry));
        let bytes = entry.instance.bytes();
        let count = self.counts.entry(entry.peer.clone()).or_default();
        *count = (count.0 + 1, count.1 + bytes);
        self.bytes += bytes;
        let own = self.tenants.entry(key.1.clone());
        let own = own.or_insert_with(|| OfTenant { index: Index::new(index_seed), ids: BTreeMap::new(), shared: 0 });
        own.index.insert(slot, &entry.instance);
        let slots = own.ids.entry(key.2.clone()).or_default();
        slots.push(slot);
        own.shared += usize::from(slots.len() == 2);
        self.by_key.insert(key.clone(), slot);
        self.dirty.push(key);
        self.seats[slot as usize] = Some(Seat { entry, dirty: true, kept });
        before
    }

    /// Takes out what is gone, if it was known.
    pub(super) fn remove(&mut self, key: &ForeignKey, kind: ChangeKind, wall: WallTime, rows: &mut RowSum) {
        let Some((before, kept)) = self.take(key, rows) else { return };
        if kept {
            self.removed.push(key.clone());
        }
        self.changes.push(Record { peer: key.0.clone(), kind, wall, before: Some(before), after: None });
    }

    /// Takes it out. Tells whether it is in the last checkpoint.
    fn take(&mut self, key: &ForeignKey, rows: &mut RowSum) -> Option<(Arc<Instance>, bool)> {
        let slot = self.by_key.remove(key)?;
        let Seat { entry, kept, .. } = self.seats[slot as usize].take().expect("an indexed slot is taken");
        self.free.push(slot);
        rows.remove(digest::of_foreign(&entry));
        let bytes = entry.instance.bytes();
        self.bytes -= bytes;
        let count = self.counts.get_mut(&entry.peer).expect("whoever has instances is counted");
        *count = (count.0 - 1, count.1 - bytes);
        if count.0 == 0 {
            self.counts.remove(&entry.peer);
        }
        let own = self.tenants.get_mut(&key.1).expect("whoever has instances is indexed");
        own.index.remove(slot, &entry.instance);
        let slots = own.ids.get_mut(&key.2).expect("every instance is there by its id");
        own.shared -= usize::from(slots.len() == 2);
        slots.retain(|other| *other != slot);
        if slots.is_empty() {
            own.ids.remove(&key.2);
        }
        if own.ids.is_empty() {
            self.tenants.remove(&key.1);
        }
        Some((entry.instance, kept))
    }

    /// Up to `limit` of a cluster's, in order, and those among them that are of an earlier generation.
    pub(super) fn swept(
        &self,
        peer: &PeerName,
        after: Option<&(TenantId, InstanceId)>,
        limit: usize,
        generation: u64,
    ) -> (LookedAt, Vec<ForeignKey>) {
        let (mut looked_at, mut swept) = (LookedAt::default(), Vec::new());
        let least = (peer.clone(), TenantId::least(), InstanceId::kept(""));
        let start = match after {
            Some((tenant, id)) => Excluded((peer.clone(), tenant.clone(), id.clone())),
            None => Included(least),
        };
        let of_peer = self.by_key.range((start, Unbounded)).take_while(|(key, _)| key.0 == *peer);
        for (key, slot) in of_peer.take(limit) {
            looked_at.count += 1;
            looked_at.last = Some((key.1.clone(), key.2.clone()));
            if self.at(*slot).generation < generation {
                swept.push(key.clone());
            }
        }
        (looked_at, swept)
    }

    pub(super) fn take_delta(&mut self) -> ForeignDelta {
        let mut delta = ForeignDelta { removed: std::mem::take(&mut self.removed), put: Vec::new() };
        for key in std::mem::take(&mut self.dirty) {
            let Some(slot) = self.by_key.get(&key) else { continue };
            let seat = self.seats[*slot as usize].as_mut().expect("an indexed slot is taken");
            if std::mem::take(&mut seat.dirty) {
                seat.kept = true;
                delta.put.push(seat.entry.clone());
            }
        }
        delta
    }

    /// It stands in the checkpoint from which it came.
    pub(super) fn mark_kept(&mut self, key: &ForeignKey) {
        let slot = self.by_key[key];
        let seat = self.seats[slot as usize].as_mut().expect("an indexed slot is taken");
        (seat.dirty, seat.kept) = (false, true);
        self.dirty.pop();
    }

    /// # Panics
    /// When the table contradicts itself.
    pub(super) fn assert_consistent(&self, rows: &mut RowSum) {
        let (mut bytes, mut counts) = (0, BTreeMap::<PeerName, (usize, usize)>::new());
        for (key, slot) in &self.by_key {
            let entry = self.at(*slot);
            rows.add(digest::of_foreign(entry));
            assert_eq!(entry.key(), *key, "an instance stands under another's name");
            bytes += entry.instance.bytes();
            let count = counts.entry(key.0.clone()).or_default();
            *count = (count.0 + 1, count.1 + entry.instance.bytes());
            let own = &self.tenants[&key.1];
            assert!(own.ids[&key.2].contains(slot), "an instance is not there by its id");
            assert!(own.index.all().contains(*slot), "an instance is not indexed");
        }
        for (tenant, own) in &self.tenants {
            let shared = own.ids.values().filter(|slots| slots.len() > 1).count();
            assert_eq!(own.shared, shared, "tenant {tenant}: shared ids are counted wrong");
        }
        assert_eq!(self.bytes, bytes, "the bytes of foreign instances are counted wrong");
        assert_eq!(self.counts, counts, "foreign instances are counted wrong");
        let indexed: u64 = self.tenants.values().map(|own| own.index.all().len()).sum();
        assert_eq!(indexed, self.by_key.len() as u64, "indexes know others");
        assert_eq!(self.seats.len() - self.free.len(), self.by_key.len(), "slots are lost");
        self.changes.assert_consistent();
    }
}
