//! The table of other clusters, and what they tell: beside the roll, so that it takes no revision and is no event.
//!
//! What is told is taken in its cluster's order or not at all. A message says after which revision it comes; one that
//! comes after something that is not known is refused, and one that is known does nothing. So nothing is lost or done
//! twice, whoever repeats, loses or reorders messages.
//!
//! Instances bear the *generation* in which they were told. When all of them are told anew, or none is believed any more, a
//! new generation begins, and what is left of those before is swept away in small parts.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::State;
use super::checkpoint::RestoreError;
use super::foreign::ForeignEntries;
use super::peer_changes::PeerChange;
use super::touched::{TableDelta, Touched};
use crate::command::{Outcome, Refusal};
use crate::digest::{self, RowSum};
use crate::federation::{
    ClusterSeed, FOREIGN_MESSAGES_MAX, FOREIGN_TTL_MS_MAX, FederationCommand, FederationKey, FederationOutcome,
    FederationRefusal, FederationRow, Foreign, ForeignBatch, ForeignChange, ForeignMessage, PEERS_MAX, Peer,
    PeerTerms, Received, Reception, Resync, SWEEP_MAX, Sweep, Told, Unreadable,
};
use crate::history::ChangeKind;
use crate::ids::{ClusterTime, InstanceId, LeaseId, PeerName, Revision, TenantId, WallTime};
use crate::instance::{Instance, Presence, Seldom};
use crate::registration::Visibility;

pub type FederationDelta = TableDelta<FederationKey, FederationRow>;

#[derive(Debug, Default)]
pub(super) struct Federation {
    seed: Option<ClusterSeed>,
    peers: BTreeMap<PeerName, Peer>,
    touched: Touched<FederationKey>,
    pub(super) foreign: ForeignEntries,
}

impl Federation {
    fn row(&self, key: &FederationKey) -> Option<FederationRow> {
        match key {
            FederationKey::Seed => self.seed.map(FederationRow::Seed),
            FederationKey::Peer(name) => self.peers.get(name).map(|peer| FederationRow::Peer(Box::new(peer.clone()))),
        }
    }

    fn put(&mut self, row: FederationRow, rows: &mut RowSum) {
        self.remove(&row.key(), rows);
        rows.add(digest::of_federation_row(&row));
        self.touched.touch(row.key());
        match row {
            FederationRow::Seed(seed) => self.seed = Some(seed),
            FederationRow::Peer(peer) => drop(self.peers.insert(peer.name().clone(), *peer)),
        }
    }

    fn remove(&mut self, key: &FederationKey, rows: &mut RowSum) {
        let Some(row) = self.row(key) else { return };
        rows.remove(digest::of_federation_row(&row));
        self.touched.touch(key.clone());
        match key {
            FederationKey::Seed => self.seed = None,
            FederationKey::Peer(name) => drop(self.peers.remove(name)),
        }
    }

    pub(super) fn take_delta(&mut self) -> FederationDelta {
        let mut touched = std::mem::take(&mut self.touched);
        let delta = touched.take(|key| self.row(key));
        self.touched = touched;
        delta
    }

    /// # Panics
    /// When the table contradicts itself.
    pub(super) fn assert_consistent(&self, rows: &mut RowSum) {
        let keys = self.peers.keys().cloned().map(FederationKey::Peer).chain([FederationKey::Seed]);
        keys.filter_map(|key| self.row(&key)).for_each(|row| rows.add(digest::of_federation_row(&row)));
        self.foreign.assert_consistent(rows);
        for entry in self.foreign.iter() {
            let peer = self.peers.get(&entry.peer).expect("whose instances are known is known");
            assert!(entry.generation <= peer.received.generation, "an instance is of a generation to come");
            let is_swept = entry.generation < peer.received.generation;
            let is_cleared = peer.received.sweep.is_some() || peer.received.resync.is_some();
            assert!(!is_swept || is_cleared, "an instance of an earlier generation is forgotten by the sweep");
        }
        for (name, peer) in &self.peers {
            assert_eq!(name, peer.name(), "a peer stands under another's name");
        }
    }
}

impl Received {
    /// Nothing of what was told counts any more, and it has to be told anew.
    fn forget(&mut self) {
        self.generation += 1;
        (self.stream, self.resync, self.sweep) = (None, None, Some(Sweep::default()));
        (self.position, self.lacking) = (Revision(0), 0);
    }
}

impl State {
    /// What the cluster's own key is made of, once it has one.
    pub fn cluster_seed(&self) -> Option<ClusterSeed> {
        self.federation.seed
    }

    /// A tenant's instances by id, those after `after`.
    pub fn tenant_instances_after<'a>(
        &'a self,
        tenant: &TenantId,
        after: Option<&'a str>,
    ) -> impl Iterator<Item = &'a Arc<Instance>> + use<'a> {
        use std::ops::Bound::{Excluded, Unbounded};
        let start = after.map_or(Unbounded, Excluded);
        let ids = self.ids(tenant).into_iter();
        ids.flat_map(move |ids| ids.range::<str, _>((start, Unbounded))).map(|(_, slot)| self.instance(*slot))
    }

    /// The other clusters, by name.
    pub fn peers(&self) -> impl Iterator<Item = &Peer> {
        self.federation.peers.values()
    }

    pub fn peer(&self, name: &PeerName) -> Option<&Peer> {
        self.federation.peers.get(name)
    }

    pub(crate) fn foreign(&self) -> &ForeignEntries {
        &self.federation.foreign
    }

    /// Instances of all other clusters that are kept, and what they take.
    pub fn foreign_total(&self) -> (usize, usize) {
        (self.foreign().len(), self.foreign().bytes())
    }

    /// Instances of another cluster that are kept, and what they take.
    pub fn foreign_count(&self, peer: &PeerName) -> (usize, usize) {
        self.federation.foreign.count_of(peer)
    }

    /// The number of the last change of a foreign instance; it is never that of another change in this process.
    pub fn foreign_sequence(&self) -> u64 {
        self.foreign().changes().last()
    }

    /// The changes of foreign instances after one, in order; none if some of them are forgotten.
    pub fn foreign_changes_after(&self, sequence: u64) -> Option<impl Iterator<Item = PeerChange<'_>>> {
        self.foreign().changes().after(sequence)
    }

    /// Whether something has to be cleared away.
    pub fn is_sweep_due(&self, now: ClusterTime) -> bool {
        self.federation.peers.values().any(|peer| peer.received.sweep.is_some() || self.has_lapsed(peer, now))
    }

    /// Nothing was heard of it for so long that nothing it told is believed any more.
    fn has_lapsed(&self, peer: &Peer, now: ClusterTime) -> bool {
        peer.expires_at() <= now && self.foreign_count(peer.name()).0 > 0 && peer.received.sweep.is_none()
    }

    pub(super) fn federation(&mut self, command: &FederationCommand) -> Result<Outcome, Refusal> {
        let outcome = match command {
            FederationCommand::Found(seed) => {
                if self.federation.seed.is_none() {
                    self.federation.put(FederationRow::Seed(*seed), &mut self.rows);
                }
                FederationOutcome::Founded
            }
            FederationCommand::Add(terms) => FederationOutcome::Peer(Box::new(self.add_peer(terms)?)),
            FederationCommand::Pause { name, paused } => {
                let peer = self.federation.peers.get(name).filter(|peer| !peer.leaving);
                let peer = peer.ok_or(FederationRefusal::Unknown)?;
                let peer = Peer { paused: *paused, ..peer.clone() };
                self.put_peer(peer.clone());
                FederationOutcome::Peer(Box::new(peer))
            }
            FederationCommand::Remove { name } => {
                let peer = self.federation.peers.get(name).filter(|peer| !peer.leaving);
                let mut peer = peer.ok_or(FederationRefusal::Unknown)?.clone();
                peer.leaving = true;
                peer.received.forget();
                if self.foreign_count(name).0 == 0 {
                    self.federation.remove(&FederationKey::Peer(name.clone()), &mut self.rows);
                } else {
                    self.put_peer(peer.clone());
                }
                FederationOutcome::Peer(Box::new(peer))
            }
            FederationCommand::Receive(batch) => self.receive(batch)?,
            FederationCommand::Sweep { limit } => {
                FederationOutcome::Swept { more: self.sweep((*limit).min(SWEEP_MAX)) }
            }
        };
        Ok(Outcome::Federation(Box::new(outcome)))
    }

    fn put_peer(&mut self, peer: Peer) {
        self.federation.put(FederationRow::Peer(Box::new(peer)), &mut self.rows);
    }

    fn add_peer(&mut self, terms: &PeerTerms) -> Result<Peer, FederationRefusal> {
        if !terms.is_within_bounds() {
            return Err(FederationRefusal::OutOfBounds);
        }
        let peers = &self.federation.peers;
        if peers.get(&terms.name).is_some_and(|peer| peer.leaving) {
            return Err(FederationRefusal::Leaving);
        }
        if peers.values().any(|peer| *peer.name() == terms.name || !peer.leaving && peer.terms.key == terms.key) {
            return Err(FederationRefusal::Exists);
        }
        if peers.len() >= PEERS_MAX {
            return Err(FederationRefusal::TooMany { max: PEERS_MAX as u32 });
        }
        let peer = Peer {
            terms: Arc::new(terms.clone()),
            since: self.now,
            added_at: self.wall,
            paused: false,
            leaving: false,
            received: Received::default(),
        };
        self.put_peer(peer.clone());
        Ok(peer)
    }

    fn receive(&mut self, batch: &ForeignBatch) -> Result<FederationOutcome, FederationRefusal> {
        let ForeignBatch { peer, key, stream, told_at, ttl_ms, messages } = batch;
        let peer = self.federation.peers.get(peer).filter(|peer| !peer.leaving && peer.terms.key == *key);
        let mut peer = peer.ok_or(FederationRefusal::Unknown)?.clone();
        if messages.len() > FOREIGN_MESSAGES_MAX {
            return Err(FederationRefusal::OutOfBounds);
        }
        if peer.paused {
            return Err(FederationRefusal::Paused);
        }
        if !peer.terms.direction.receives() {
            return Err(FederationRefusal::NotReceived);
        }
        if !peer.terms.is_trusted() {
            return Err(FederationRefusal::NotTrusted);
        }
        if *told_at < peer.received.told_at {
            return Err(FederationRefusal::Replayed);
        }
        // What was said before is no sign of life, and begins nothing anew.
        let is_news = *told_at > peer.received.told_at;
        if is_news {
            let received = &mut peer.received;
            (received.told_at, received.heard_at, received.heard_wall) = (*told_at, self.now, self.wall);
            received.ttl_ms = (*ttl_ms).min(FOREIGN_TTL_MS_MAX);
        }
        let results = messages.iter().map(|message| {
            if peer.received.stream != Some(*stream) && !matches!(message, ForeignMessage::Begin { .. }) {
                return Reception::ResyncNeeded;
            }
            if let ForeignMessage::Begin { at } = message {
                if !is_news {
                    return Reception::Already;
                }
                let received = &mut peer.received;
                received.generation += 1;
                (received.stream, received.sweep) = (Some(*stream), None);
                (received.resync, received.lacking) = (Some(Resync { at: *at, next: 0 }), 0);
                return Reception::Applied;
            }
            self.receive_message(&mut peer, message)
        });
        let results = results.collect();
        let received = peer.received.clone();
        self.put_peer(peer);
        Ok(FederationOutcome::Received { results, received })
    }

    fn receive_message(&mut self, peer: &mut Peer, message: &ForeignMessage) -> Reception {
        let resync = peer.received.resync;
        match message {
            ForeignMessage::Begin { .. } => unreachable!("where a telling begins is seen to before"),
            ForeignMessage::Entry { at, number, tenant, told } => match resync {
                Some(resync) if resync.at != *at || *number > resync.next => Reception::OutOfOrder,
                Some(resync) if *number < resync.next => Reception::Already,
                Some(resync) => {
                    peer.received.resync = Some(Resync { next: resync.next + 1, ..resync });
                    match told {
                        Ok(told) => self.put_foreign(peer, tenant, told),
                        Err(unreadable) => self.unreadable(peer, tenant, unreadable),
                    }
                }
                None => Reception::Already,
            },
            ForeignMessage::End { at, count } => match resync {
                Some(resync) if (resync.at, resync.next) != (*at, *count) => Reception::OutOfOrder,
                Some(_) => {
                    (peer.received.resync, peer.received.position) = (None, *at);
                    peer.received.sweep = Some(Sweep::default());
                    Reception::Applied
                }
                None => Reception::Already,
            },
            ForeignMessage::Change { .. } | ForeignMessage::Bookmark { .. } if resync.is_some() => {
                Reception::OutOfOrder
            }
            ForeignMessage::Bookmark { after, at } => match advance(&mut peer.received.position, *after, *at) {
                Ok(()) => Reception::Applied,
                Err(known) => known,
            },
            ForeignMessage::Change { after, revision, tenant, change } => {
                if let Err(known) = advance(&mut peer.received.position, *after, *revision) {
                    return known;
                }
                match change {
                    ForeignChange::Put(told) => self.put_foreign(peer, tenant, told),
                    ForeignChange::Unreadable(unreadable) => self.unreadable(peer, tenant, unreadable),
                    ForeignChange::Remove(id) => match peer.terms.local(tenant) {
                        Some(local) => self.remove_foreign(peer, local, id, *revision),
                        None => Reception::TenantNotMapped,
                    },
                }
            }
        }
    }

    fn put_foreign(&mut self, peer: &mut Peer, tenant: &TenantId, told: &Told) -> Reception {
        let received = &mut peer.received;
        let Some(local) = peer.terms.local(tenant) else {
            received.lacking += 1;
            return Reception::TenantNotMapped;
        };
        let registration = told.registration.view();
        if matches!(registration.visibility, Visibility::Restricted | Visibility::Private) {
            received.lacking += 1;
            return Reception::NotOffered;
        }
        let local = self.known_tenant(local.clone());
        let key = (peer.terms.name.clone(), local.clone(), InstanceId::kept(registration.id));
        let foreign = &mut self.federation.foreign;
        // A telling of everything may have been ahead of the changes that come after it.
        let newer = foreign.get(&key).filter(|entry| entry.instance.revision > told.revision);
        let instance = match newer {
            Some(entry) if entry.generation == received.generation => return Reception::Already,
            // Of the generation before, by the same roll or by one that was restored: what is told now counts.
            Some(_) | None => Instance {
                tenant: local,
                registration: told.registration.clone(),
                seldom: Seldom::default(),
                reported_status: told.status,
                presence: Presence::Present,
                lease: LeaseId(0),
                revision: told.revision,
                created_revision: told.revision,
                registered_at: told.registered_at,
            },
        };
        let entry = Foreign { peer: key.0.clone(), generation: received.generation, instance: Arc::new(instance) };
        if !foreign.has_room(&entry) {
            received.lacking += 1;
            // What it was is not what it is.
            foreign.remove(&key, ChangeKind::Deregistered, self.wall, &mut self.rows);
            return Reception::Full;
        }
        foreign.tell(entry, self.wall, self.options.seed, &mut self.rows);
        Reception::Applied
    }

    fn unreadable(&mut self, peer: &mut Peer, tenant: &TenantId, unreadable: &Unreadable) -> Reception {
        peer.received.lacking += 1;
        if let Some((local, id)) = peer.terms.local(tenant).zip(unreadable.id.as_ref()) {
            let key = (peer.terms.name.clone(), local.clone(), id.clone());
            self.federation.foreign.remove(&key, ChangeKind::Deregistered, self.wall, &mut self.rows);
        }
        Reception::Unreadable
    }

    fn remove_foreign(&mut self, peer: &Peer, local: &TenantId, id: &InstanceId, revision: Revision) -> Reception {
        let key = (peer.terms.name.clone(), local.clone(), id.clone());
        let foreign = &mut self.federation.foreign;
        match foreign.get(&key) {
            Some(entry) if entry.instance.revision > revision => Reception::Already,
            Some(_) => {
                foreign.remove(&key, ChangeKind::Deregistered, self.wall, &mut self.rows);
                Reception::Applied
            }
            // It was never taken, or was gone before everything was told.
            None => Reception::Applied,
        }
    }

    /// Looks at up to `limit` instances, and takes those away that are of an earlier generation. Tells whether there is more
    /// to do.
    fn sweep(&mut self, limit: u32) -> bool {
        let mut left = limit as usize;
        let names: Vec<PeerName> = self.federation.peers.keys().cloned().collect();
        for name in names {
            let peer = &self.federation.peers[&name];
            if !(peer.received.sweep.is_some() || self.has_lapsed(peer, self.now)) {
                continue;
            }
            if left == 0 {
                return true;
            }
            let mut peer = peer.clone();
            if peer.received.sweep.is_none() {
                peer.received.forget();
            }
            let sweep = peer.received.sweep.take().unwrap_or_default();
            let foreign = &mut self.federation.foreign;
            let (looked_at, swept) = foreign.swept(&name, sweep.after.as_ref(), left, peer.received.generation);
            // Forgotten because its cluster fell silent; or its cluster told all others, or an operator removed the peer.
            let is_lapsed = peer.received.stream.is_none() && !peer.leaving;
            let kind = if is_lapsed { ChangeKind::Expired } else { ChangeKind::Deregistered };
            for key in swept {
                foreign.remove(&key, kind, self.wall, &mut self.rows);
            }
            let last = looked_at.last.filter(|_| looked_at.count == left);
            left -= looked_at.count;
            peer.received.sweep = last.map(|last| Sweep { after: Some(last) });
            if peer.leaving && peer.received.sweep.is_none() {
                self.federation.remove(&FederationKey::Peer(name), &mut self.rows);
            } else {
                self.put_peer(peer);
            }
        }
        self.is_sweep_due(self.now)
    }

    /// A row that is in the checkpoint.
    pub(super) fn restore_federation(&mut self, row: FederationRow) -> Result<(), RestoreError> {
        let key = row.key();
        let fault = match &row {
            _ if self.federation.row(&key).is_some() => Some("it has two rows"),
            FederationRow::Seed(_) => None,
            FederationRow::Peer(_) if self.federation.peers.len() >= PEERS_MAX => Some("there are too many"),
            FederationRow::Peer(peer) => self.fault_of(peer),
        };
        if let Some(fault) = fault {
            return Err(RestoreError::Federation { key, fault });
        }
        self.federation.put(row, &mut self.rows);
        self.federation.touched.restored(key);
        Ok(())
    }

    fn fault_of(&self, peer: &Peer) -> Option<&'static str> {
        let Received { heard_at, heard_wall, ttl_ms, .. } = &peer.received;
        let is_later = |time: ClusterTime, wall: WallTime| time > self.now || wall > self.wall;
        if !peer.terms.is_within_bounds() {
            Some("its terms are out of bounds")
        } else if is_later(peer.since, peer.added_at) {
            Some("it was added later than now")
        } else if is_later(*heard_at, *heard_wall) {
            Some("it was heard later than now")
        } else if *ttl_ms > FOREIGN_TTL_MS_MAX {
            Some("it is believed for too long")
        } else {
            None
        }
    }

    /// An instance that is in the checkpoint.
    pub(super) fn restore_foreign(&mut self, entry: Foreign) -> Result<(), RestoreError> {
        let key = entry.key();
        let foreign = &mut self.federation.foreign;
        let fault = if foreign.get(&key).is_some() {
            "it has two rows"
        } else if !foreign.has_room(&entry) {
            "there are too many"
        } else {
            foreign.put(entry, self.options.seed, &mut self.rows);
            foreign.mark_kept(&key);
            return Ok(());
        };
        Err(RestoreError::Foreign { key, fault })
    }

    /// Once all rows are there.
    pub(super) fn finish_federation(&self) -> Result<(), RestoreError> {
        let is_possible = |entry: &&Foreign| {
            let peer = self.federation.peers.get(&entry.peer);
            peer.is_none_or(|peer| entry.generation > peer.received.generation)
        };
        match self.federation.foreign.iter().find(is_possible) {
            Some(entry) => Err(RestoreError::Foreign { key: entry.key(), fault: "its peer is not known, or later" }),
            None => Ok(()),
        }
    }
}

/// Moves a position on, from what is known to what is told now.
fn advance(position: &mut Revision, after: Revision, to: Revision) -> Result<(), Reception> {
    if to <= *position {
        Err(Reception::Already)
    } else if after > *position {
        Err(Reception::OutOfOrder)
    } else {
        *position = to;
        Ok(())
    }
}
