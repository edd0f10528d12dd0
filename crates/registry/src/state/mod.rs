//! The roll itself.
//!
//! Invariants, asserted where they could break and all together by [`State::assert_consistent`]:
//! - the revision moves by one with each visible change and by nothing else;
//! - a lease id is the revision that granted it, so none is used twice;
//! - a slot is scheduled no later than it falls due, so that nothing due is overlooked;
//! - the digest's sum equals the sum over the rows.

mod check;
mod checkpoint;
mod expire;
mod once;
mod write;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use hashbrown::HashTable;

pub use checkpoint::{Delta, Header, InstanceKey, RestoreError, Restoring};
pub use once::Session;

use crate::command::{Command, Outcome, Proposal};
use crate::digest::{self, Digest, RowSum};
use crate::history::{Change, ChangeKind, History, HistoryLimits};
use crate::ids::{ClusterTime, Epoch, InstanceId, LeaseId, Revision, TenantId, Term, WallTime};
use crate::index::{Index, Slot};
use crate::query::View;
use crate::registration::Instance;

/// What a node may choose for itself: none of it changes an answer.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Seeds the index's hashes; secret, so that nobody can register terms that collide.
    pub seed: u64,
    pub history: HistoryLimits,
}

/// The replicated state. Equal proposals in equal order make equal states on every machine.
#[derive(Debug)]
pub struct State {
    options: Options,
    epoch: Epoch,
    revision: Revision,
    now: ClusterTime,
    wall: WallTime,

    tenants: BTreeMap<TenantId, Tenant>,
    seats: Vec<Option<Seat>>,
    free: Vec<Slot>,
    /// Current and superseded leases. Looked up, never iterated.
    leases: HashTable<(LeaseId, Slot)>,
    /// When each slot is to be looked at next: at the latest when it falls due. A renewal only moves the deadline in
    /// its seat; the schedule catches up when the old time comes, so that a heartbeat costs no ordered insert.
    schedule: BTreeSet<(ClusterTime, LeaseId, Slot)>,

    /// Each node's last batch and its answer, by node.
    sessions: BTreeMap<u64, Session>,

    rows: RowSum,
    history: History,
    dirty: checkpoint::Dirty,
}

#[derive(Debug)]
struct Tenant {
    ids: BTreeMap<InstanceId, Slot>,
    index: Index,
}

/// One instance with what a renewal changes.
#[derive(Debug)]
struct Seat {
    instance: Arc<Instance>,
    /// When the lease runs out.
    deadline: ClusterTime,
    scheduled: ClusterTime,
    dirty: checkpoint::SeatDirt,
}

impl Seat {
    /// When something must happen if no heartbeat comes: the lapse or, after it, the reaping.
    fn due(&self) -> ClusterTime {
        if self.instance.lapsed {
            self.deadline.plus_ms(self.instance.registration.reap_after_ms.into())
        } else {
            self.deadline
        }
    }
}

fn lease_hash(lease: LeaseId) -> u64 {
    // Leases are counted up, so that a multiplication by an odd constant spreads them and never collides.
    lease.0.wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

impl State {
    pub fn new(options: Options) -> Self {
        Self {
            options,
            epoch: Epoch(0),
            revision: Revision(0),
            now: ClusterTime(0),
            wall: WallTime(0),
            tenants: BTreeMap::new(),
            seats: Vec::new(),
            free: Vec::new(),
            leases: HashTable::new(),
            schedule: BTreeSet::new(),
            sessions: BTreeMap::new(),
            rows: RowSum::default(),
            history: History::new(options.history, Revision(0)),
            dirty: checkpoint::Dirty::default(),
        }
    }

    /// Applies one log entry, proposed and committed in `term`. One outcome for each command, in the proposal's order:
    /// first the plain ones', then those of each batch that is applied once.
    ///
    /// An expiry, and what stands behind it, takes effect last: nobody is struck off by an entry that also holds a sign
    /// of life.
    pub fn apply(&mut self, term: Term, proposal: &Proposal) -> Vec<Outcome> {
        self.now = self.now.max(proposal.stamp);
        self.wall = self.wall.max(proposal.wall);
        let expiry = proposal.commands.iter().position(|command| matches!(command, Command::Expire { .. }));
        let (first, last) = proposal.commands.split_at(expiry.unwrap_or(proposal.commands.len()));
        let mut outcomes: Vec<Outcome> = first.iter().map(|command| self.apply_command(term, command)).collect();
        let mut of_batches = Vec::new();
        for once in &proposal.once {
            self.apply_once(term, once, &mut of_batches);
        }
        outcomes.extend(last.iter().map(|command| self.apply_command(term, command)));
        outcomes.append(&mut of_batches);
        outcomes
    }

    fn apply_command(&mut self, term: Term, command: &Command) -> Outcome {
        let answer = match command {
            Command::Register { tenant, id, registration, condition } => {
                self.register(tenant, id, registration, *condition).map(Outcome::Registered)
            }
            Command::Renew { tenant, leases } => Ok(self.renew(tenant, leases)),
            Command::Beat { tenant, id, lease, status, metadata } => {
                self.beat(tenant, id, *lease, *status, metadata.as_ref()).map(Outcome::Beaten)
            }
            Command::Deregister { tenant, id, lease, condition } => {
                self.deregister(tenant, id, *lease, *condition).map(|revision| Outcome::Deregistered { revision })
            }
            Command::Expire { term: proposed, up_to, limit } => self.expire(*proposed, term, *up_to, *limit),
        };
        answer.unwrap_or_else(Outcome::Refused)
    }

    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    pub fn revision(&self) -> Revision {
        self.revision
    }

    pub fn now(&self) -> ClusterTime {
        self.now
    }

    /// The leader's wall clock at the last entry.
    pub fn wall(&self) -> WallTime {
        self.wall
    }

    /// Instances of all tenants, offline ones too.
    pub fn len(&self) -> usize {
        self.seats.len() - self.free.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Instances of one tenant, offline ones too.
    pub fn tenant_len(&self, tenant: &TenantId) -> usize {
        self.tenants.get(tenant).map_or(0, |t| t.ids.len())
    }

    pub fn digest(&self) -> Digest {
        let scalars = [self.epoch.0, self.revision.0, self.now.0, self.wall.0, self.len() as u64];
        let sessions = self.sessions.iter().flat_map(|(node, session)| [*node, session.start, session.batch]);
        self.rows.with_scalars(scalars.into_iter().chain(sessions))
    }

    pub fn get(&self, tenant: &TenantId, id: &InstanceId) -> Option<View> {
        self.slot(tenant, id).map(|slot| self.view(slot))
    }

    /// The instance that holds a lease now.
    pub fn holder(&self, lease: LeaseId) -> Option<&Arc<Instance>> {
        let slot = self.leases.find(lease_hash(lease), |e| e.0 == lease)?.1;
        Some(&self.seat(slot).instance).filter(|instance| instance.lease == lease)
    }

    /// The visible changes after `revision`, in order; none if some of them are forgotten.
    pub fn changes_after(&self, revision: Revision) -> Option<impl DoubleEndedIterator<Item = &Change>> {
        self.history.after(revision)
    }

    /// The oldest revision that [`Self::changes_after`] still answers for.
    pub fn oldest_known(&self) -> Revision {
        self.history.floor()
    }

    fn seat(&self, slot: Slot) -> &Seat {
        self.seats[slot as usize].as_ref().expect("an indexed slot is taken")
    }

    fn seat_mut(&mut self, slot: Slot) -> &mut Seat {
        self.seats[slot as usize].as_mut().expect("an indexed slot is taken")
    }

    pub(crate) fn slot(&self, tenant: &TenantId, id: &InstanceId) -> Option<Slot> {
        self.tenants.get(tenant)?.ids.get(id).copied()
    }

    pub(crate) fn ids(&self, tenant: &TenantId) -> Option<&BTreeMap<InstanceId, Slot>> {
        Some(&self.tenants.get(tenant)?.ids)
    }

    pub(crate) fn index(&self, tenant: &TenantId) -> Option<&Index> {
        Some(&self.tenants.get(tenant)?.index)
    }

    pub(crate) fn instance(&self, slot: Slot) -> &Instance {
        &self.seat(slot).instance
    }

    pub(crate) fn view(&self, slot: Slot) -> View {
        let seat = self.seat(slot);
        View { instance: seat.instance.clone(), deadline: seat.deadline }
    }

    /// An instance as it was at an earlier revision. Its deadline is known only while its lease is current.
    pub(crate) fn view_of_past(&self, instance: &Arc<Instance>) -> View {
        let slot = self.leases.find(lease_hash(instance.lease), |e| e.0 == instance.lease);
        let deadline = slot
            .map(|(_, slot)| self.seat(*slot))
            .filter(|seat| seat.instance.lease == instance.lease)
            .map_or(ClusterTime(0), |seat| seat.deadline);
        View { instance: instance.clone(), deadline }
    }

    /// Takes the next revision.
    fn next_revision(&mut self) -> Revision {
        self.revision.0 += 1;
        self.revision
    }

    fn record(&mut self, kind: ChangeKind, before: Option<Arc<Instance>>, after: Option<Arc<Instance>>) {
        self.history.push(Change { revision: self.revision, kind, wall: self.wall, before, after });
    }

    /// Puts a new instance on the roll; its revision is the one just taken.
    fn seat_new(&mut self, instance: Arc<Instance>, deadline: ClusterTime) -> Slot {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.seats.push(None);
            Slot::try_from(self.seats.len() - 1).expect("fewer than 2^32 instances")
        });
        let seed = self.options.seed;
        let tenant = self
            .tenants
            .entry(instance.tenant.clone())
            .or_insert_with(|| Tenant { ids: BTreeMap::new(), index: Index::new(seed) });
        tenant.ids.insert(instance.id.clone(), slot);
        tenant.index.insert(slot, &instance);
        self.rows.add(digest::of_instance(&instance));
        self.rows.add(digest::of_deadline(instance.lease, deadline));
        for lease in instance.superseded.iter().chain([&instance.lease]) {
            self.leases.insert_unique(lease_hash(*lease), (*lease, slot), |e| lease_hash(e.0));
        }
        let mut seat = Seat { instance, deadline, scheduled: ClusterTime(0), dirty: Default::default() };
        seat.scheduled = seat.due();
        self.schedule.insert((seat.scheduled, seat.instance.lease, slot));
        self.seats[slot as usize] = Some(seat);
        slot
    }

    /// Changes what stands at a slot; the revision of the new instance is the one just taken.
    fn reseat(&mut self, slot: Slot, instance: Instance, deadline: ClusterTime) -> Arc<Instance> {
        let instance = Arc::new(instance);
        let seat = self.seats[slot as usize].as_mut().expect("an indexed slot is taken");
        let before = std::mem::replace(&mut seat.instance, instance.clone());
        let deadline_before = std::mem::replace(&mut seat.deadline, deadline);
        self.schedule.remove(&(seat.scheduled, before.lease, slot));
        seat.scheduled = seat.due();
        self.schedule.insert((seat.scheduled, instance.lease, slot));

        self.rows.remove(digest::of_instance(&before));
        self.rows.remove(digest::of_deadline(before.lease, deadline_before));
        self.rows.add(digest::of_instance(&instance));
        self.rows.add(digest::of_deadline(instance.lease, deadline));

        if instance.lease != before.lease {
            self.leases.insert_unique(lease_hash(instance.lease), (instance.lease, slot), |e| lease_hash(e.0));
            let forgotten = before.superseded.iter().filter(|lease| !instance.superseded.contains(lease));
            for lease in forgotten {
                forget_lease(&mut self.leases, *lease);
            }
        }
        let tenant = self.tenants.get_mut(&instance.tenant).expect("a seated instance has a tenant");
        tenant.index.remove(slot, &before);
        tenant.index.insert(slot, &instance);
        before
    }

    fn unseat(&mut self, slot: Slot) -> Arc<Instance> {
        let seat = self.seats[slot as usize].take().expect("an indexed slot is taken");
        let instance = seat.instance;
        self.free.push(slot);
        self.schedule.remove(&(seat.scheduled, instance.lease, slot));
        self.rows.remove(digest::of_instance(&instance));
        self.rows.remove(digest::of_deadline(instance.lease, seat.deadline));
        for lease in instance.superseded.iter().chain([&instance.lease]) {
            forget_lease(&mut self.leases, *lease);
        }
        let tenant = self.tenants.get_mut(&instance.tenant).expect("a seated instance has a tenant");
        tenant.index.remove(slot, &instance);
        tenant.ids.remove(&instance.id);
        if tenant.ids.is_empty() {
            assert_eq!(tenant.index.term_count(), 0, "an empty tenant has terms left");
            self.tenants.remove(&instance.tenant);
        }
        instance
    }
}

fn forget_lease(leases: &mut HashTable<(LeaseId, Slot)>, lease: LeaseId) {
    leases.find_entry(lease_hash(lease), |e| e.0 == lease).expect("a held lease is in the table").remove();
}
