//! The roll itself.
//!
//! Invariants, asserted where they could break and all together by [`State::assert_consistent`]:
//! - the revision moves by one with each visible change and by nothing else;
//! - a lease id is the revision that granted it, so none is used twice;
//! - a slot is scheduled no later than it falls due, so that nothing due is overlooked, or held as a suspect;
//! - the digest's sum equals the sum over the rows.

mod access_tokens;
mod check;
mod checkpoint;
mod definitions;
mod expire;
mod federation;
mod foreign;
mod join_tokens;
mod once;
mod past;
mod peer_changes;
mod protection;
mod quotas;
mod rulings;
mod schedule;
mod signatures;
mod targets;
mod touched;
mod write;

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use hashbrown::HashTable;

pub use access_tokens::AccessTokenDelta;
pub use checkpoint::{Delta, Header, InstanceKey, RestoreError, Restoring};
pub use definitions::{Definitions, DefinitionsDelta};
pub use federation::FederationDelta;
pub use foreign::ForeignDelta;
pub use join_tokens::{
    Admission, JOIN_TOKEN_TTL_MS_MAX, JOIN_TOKEN_USES_MAX, JOIN_TOKENS_MAX, JoinToken, JoinTokenCommand,
    JoinTokenDelta, JoinTokenId, JoinTokenRefusal, NODE_ADDRESS_BYTES_MAX,
};
pub use once::Session;
pub use past::{Past, PastDelta};
pub use peer_changes::PeerChange;
pub use rulings::{Rulings, RulingsDelta};
pub use signatures::{
    OWNER_KEYS_MAX, OwnerKey, PinnedKey, RETIRED_MAX, SIGNATURE_MODES_MAX, SignatureCommand, SignatureKey,
    SignatureMode, SignatureRefusal, SignatureRow, SignaturesDelta, Signing, TENANT_OWNER_KEYS_MAX,
};
pub use touched::TableDelta;

use crate::access::Actor;
use crate::command::{Command, Outcome, Proposal, Refusal, Write};
use crate::digest::{self, Digest, RowSum};
use crate::history::{Change, ChangeKind, History, HistoryLimits, Record};
use crate::ids::{ClusterTime, Epoch, InstanceId, LeaseId, Revision, TenantId, Term, WallTime};
use crate::index::{Index, Mark, Slot};
use crate::instance::Instance;
use crate::query::View;
use crate::quota::bytes_of_instance;
use crate::registration::PackedRegistration;
use crate::tally::Tally;
use schedule::Schedule;

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
    leases: HashTable<Held>,
    schedule: Schedule,
    /// Suspects, who are in no schedule.
    held: protection::Held,

    /// Each node's last batch and its answer, by node.
    sessions: BTreeMap<u64, Session>,
    definitions: Definitions,

    join_tokens: join_tokens::JoinTokens,
    access_tokens: access_tokens::AccessTokens,
    rulings: Rulings,
    signatures: signatures::Signatures,
    federation: federation::Federation,

    rows: RowSum,
    history: History,
    dirty: checkpoint::Dirty,
    tally: Tally,
}

#[derive(Debug)]
struct Tenant {
    ids: BTreeMap<ById, Slot>,
    index: Index,
    /// What its quota counts, of all its instances.
    bytes: u64,
}

/// A registration ordered by its id, which so is kept but once.
#[derive(Debug)]
pub(crate) struct ById(PackedRegistration);

impl ById {
    pub(crate) fn id(&self) -> &str {
        self.0.id()
    }

    fn is_of(&self, instance: &Instance) -> bool {
        self.0.is_same(&instance.registration)
    }
}

impl PartialEq for ById {
    fn eq(&self, other: &Self) -> bool {
        self.id() == other.id()
    }
}

impl Eq for ById {}

impl PartialOrd for ById {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for ById {
    fn cmp(&self, other: &Self) -> Ordering {
        self.id().cmp(other.id())
    }
}

impl Borrow<str> for ById {
    fn borrow(&self) -> &str {
        self.id()
    }
}

/// One instance with what a renewal changes.
#[derive(Debug)]
struct Seat {
    instance: Arc<Instance>,
    /// When the lease runs out.
    deadline: ClusterTime,
    scheduled: ClusterTime,
    /// The registration's, at hand for renewals.
    ttl_ms: u32,
    dirty: checkpoint::SeatDirt,
}

impl Seat {
    /// When something must happen if no heartbeat comes: the lapse or, after it, the reaping.
    fn due(&self) -> ClusterTime {
        if self.instance.is_lapsed() {
            self.deadline.plus_ms(self.instance.registration().reap_after_ms.into())
        } else {
            self.deadline
        }
    }
}

/// A lease and who holds or held it, without the gap that the lease's alignment would leave.
#[derive(Clone, Copy, Debug)]
#[repr(Rust, packed(4))]
struct Held {
    lease: LeaseId,
    slot: Slot,
}

impl Held {
    fn hash(&self) -> u64 {
        lease_hash(self.lease)
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
            schedule: Schedule::default(),
            held: protection::Held::default(),
            sessions: BTreeMap::new(),
            join_tokens: join_tokens::JoinTokens::default(),
            access_tokens: access_tokens::AccessTokens::default(),
            signatures: signatures::Signatures::default(),
            federation: federation::Federation::default(),
            definitions: Definitions::default(),
            rulings: Rulings::default(),
            rows: RowSum::default(),
            history: History::new(options.history, Revision(0)),
            dirty: checkpoint::Dirty::default(),
            tally: Tally::default(),
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
            Command::Register { tenant, registration, condition } => {
                self.register(tenant, registration, *condition, None, None).map(Outcome::Registered)
            }
            Command::Renew { tenant, leases } => Ok(self.renew(tenant, leases, None)),
            Command::Beat { tenant, id, lease, status, metadata } => {
                self.beat(tenant, id, *lease, *status, metadata.as_ref(), None).map(Outcome::Beaten)
            }
            Command::Deregister { tenant, id, lease, condition } => {
                self.deregister(tenant, id, *lease, *condition, None, None)
            }
            Command::Expire { term: proposed, up_to, limit } => self.expire(*proposed, term, *up_to, *limit),
            Command::JoinToken(command) => self.join_token(command),
            Command::Define { tenant, change } => {
                self.define(tenant, change).map(Outcome::Defined).map_err(Refusal::Definition)
            }
            Command::AccessToken(command) => self.access_token(command),
            Command::By { actor, tenant, write } => self.apply_by(actor, tenant, write),
            Command::Rule { tenant, change } => self.rule(tenant, change).map(Outcome::Ruled),
            Command::Observe { tenant, id, lease, verdict } => {
                self.observe(tenant, id, *lease, *verdict).map(|revision| Outcome::Observed { revision })
            }
            Command::RegisterSigned { tenant, registration, condition, signing } => {
                self.register(tenant, registration, *condition, None, Some(*signing)).map(Outcome::Registered)
            }
            Command::DeregisterSigned { tenant, id, lease, condition, signing } => {
                self.deregister(tenant, id, *lease, *condition, None, Some(*signing))
            }
            Command::Signatures(command) => self.change_signatures(command),
            Command::Federation(command) => self.federation(command),
            Command::Unchecked { tenant, id, lease } => {
                self.forget_observed(tenant, id, *lease).map(|revision| Outcome::Observed { revision })
            }
        };
        answer.unwrap_or_else(Outcome::Refused)
    }

    /// As the command of the same name, as far as the actor may.
    fn apply_by(&mut self, actor: &Actor, tenant: &TenantId, write: &Write) -> Result<Outcome, Refusal> {
        let by = Some(actor);
        match write {
            Write::Register { registration, condition } => {
                self.register(tenant, registration, *condition, by, None).map(Outcome::Registered)
            }
            Write::Renew { leases } => Ok(self.renew(tenant, leases, by)),
            Write::Beat { id, lease, status, metadata } => {
                self.beat(tenant, id, *lease, *status, metadata.as_ref(), by).map(Outcome::Beaten)
            }
            Write::Deregister { id, lease, condition } => self.deregister(tenant, id, *lease, *condition, by, None),
            Write::RegisterSigned { registration, condition, signing } => {
                self.register(tenant, registration, *condition, by, Some(*signing)).map(Outcome::Registered)
            }
            Write::DeregisterSigned { id, lease, condition, signing } => {
                self.deregister(tenant, id, *lease, *condition, by, Some(*signing))
            }
        }
    }

    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Begins a later epoch, in which no resume point and no cursor of before is taken for one of now. Restore and
    /// recovery do so; no log entry does.
    pub fn begin_epoch(&mut self, epoch: Epoch) {
        assert!(self.epoch < epoch, "epoch {epoch} begins after epoch {}", self.epoch);
        self.epoch = epoch;
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

    /// Of everything but the epoch: a roll that was restored is the one that was backed up.
    pub fn digest(&self) -> Digest {
        let scalars = [self.revision.0, self.now.0, self.wall.0, self.len() as u64, self.definitions.edition.0];
        let sessions = self.sessions.iter().flat_map(|(node, session)| [*node, session.start, session.batch]);
        self.rows.with_scalars(scalars.into_iter().chain(sessions))
    }

    /// What was applied since this began to count.
    pub fn tally(&self) -> Tally {
        self.tally
    }

    /// Goes on counting from nothing.
    pub fn begin_tally(&mut self) {
        self.tally = Tally::default();
    }

    /// Takes the place of another state of this process: goes on counting where that one was, and gives none of the
    /// numbers of its foreign changes to its own.
    pub fn succeed(&mut self, before: &Self) {
        self.tally = before.tally;
        self.federation.foreign.changes_mut().succeed(before.foreign().changes());
    }

    /// Instances of all tenants after one of them, by tenant and id: to go through the roll a piece at a time.
    pub fn instances_after<'a>(
        &'a self,
        after: Option<&(TenantId, InstanceId)>,
    ) -> impl Iterator<Item = &'a Arc<Instance>> + use<'a> {
        let rest = after.and_then(|(tenant, id)| {
            let ids = &self.tenants.get(tenant)?.ids;
            Some(ids.range::<str, _>((Bound::Excluded(id.as_str()), Bound::Unbounded)))
        });
        let others = match after {
            Some((tenant, _)) => self.tenants.range::<TenantId, _>((Bound::Excluded(tenant), Bound::Unbounded)),
            None => self.tenants.range::<TenantId, _>(..),
        };
        let others = others.flat_map(|(_, tenant)| tenant.ids.iter());
        rest.into_iter().flatten().chain(others).map(|(_, slot)| self.instance(*slot))
    }

    pub fn get(&self, tenant: &TenantId, id: &InstanceId) -> Option<View> {
        self.slot(tenant, id.as_str()).map(|slot| self.view(slot))
    }

    /// The instance that holds a lease now.
    pub fn holder(&self, lease: LeaseId) -> Option<&Arc<Instance>> {
        let slot = self.lease_slot(lease)?;
        Some(&self.seat(slot).instance).filter(|instance| instance.lease == lease)
    }

    fn lease_slot(&self, lease: LeaseId) -> Option<Slot> {
        self.leases.find(lease_hash(lease), |held| { held.lease } == lease).map(|held| held.slot)
    }

    fn remember_lease(&mut self, lease: LeaseId, slot: Slot) {
        self.leases.insert_unique(lease_hash(lease), Held { lease, slot }, Held::hash);
    }

    fn forget_lease(&mut self, lease: LeaseId) {
        let held = self.leases.find_entry(lease_hash(lease), |held| { held.lease } == lease);
        held.expect("a held lease is in the table").remove();
    }

    /// The visible changes after `revision`, in order; none if some of them are forgotten.
    pub fn changes_after(&self, revision: Revision) -> Option<impl DoubleEndedIterator<Item = Change<'_>>> {
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

    pub(crate) fn slot(&self, tenant: &TenantId, id: &str) -> Option<Slot> {
        self.tenants.get(tenant)?.ids.get(id).copied()
    }

    pub(crate) fn ids(&self, tenant: &TenantId) -> Option<&BTreeMap<ById, Slot>> {
        Some(&self.tenants.get(tenant)?.ids)
    }

    pub(crate) fn index(&self, tenant: &TenantId) -> Option<&Index> {
        Some(&self.tenants.get(tenant)?.index)
    }

    pub(crate) fn index_seed(&self) -> u64 {
        self.options.seed
    }

    pub(crate) fn history(&self) -> &History {
        &self.history
    }

    pub(crate) fn instance(&self, slot: Slot) -> &Arc<Instance> {
        &self.seat(slot).instance
    }

    pub(crate) fn view(&self, slot: Slot) -> View {
        let seat = self.seat(slot);
        View { instance: seat.instance.clone(), deadline: seat.deadline }
    }

    /// An instance as it was at an earlier revision. Its deadline is known only while its lease is current.
    pub fn view_of_past(&self, instance: &Arc<Instance>) -> View {
        let seat = self.lease_slot(instance.lease).map(|slot| self.seat(slot));
        let deadline = seat.filter(|seat| seat.instance.lease == instance.lease).map(|seat| seat.deadline);
        View { instance: instance.clone(), deadline: deadline.unwrap_or(ClusterTime(0)) }
    }

    /// The tenant as the roll already spells it, so that all its instances share one text.
    fn known_tenant(&self, tenant: TenantId) -> TenantId {
        self.tenants.get_key_value(&tenant).map_or(tenant, |(known, _)| known.clone())
    }

    /// Takes the next revision.
    fn next_revision(&mut self) -> Revision {
        self.revision.0 += 1;
        self.revision
    }

    fn record(&mut self, kind: ChangeKind, before: Option<(Arc<Instance>, Mark)>, after: Option<Arc<Instance>>) {
        let (before, mark) = before.map_or((None, Mark::default()), |(before, mark)| (Some(before), mark));
        self.history.push(self.revision, Record { before, after, wall: self.wall, kind, mark });
    }

    /// One slot more than there were.
    fn slot_new(&mut self) -> Slot {
        self.seats.push(None);
        Slot::try_from(self.seats.len() - 1).expect("fewer than 2^32 instances")
    }

    /// Puts a new instance on the roll; its revision is the one just taken.
    fn seat_new(&mut self, instance: Arc<Instance>, deadline: ClusterTime) -> Slot {
        let slot = self.free.pop().unwrap_or_else(|| self.slot_new());
        let seed = self.options.seed;
        let tenant = self.tenants.entry(instance.tenant.clone()).or_insert_with(|| Tenant {
            ids: BTreeMap::new(),
            index: Index::new(seed),
            bytes: 0,
        });
        tenant.bytes += bytes_of_instance(&instance);
        tenant.ids.insert(ById(instance.registration.clone()), slot);
        tenant.index.insert(slot, &instance);
        self.seat_at(slot, instance, deadline);
        slot
    }

    /// Fills a slot, in all but the tenant's ids and index.
    fn seat_at(&mut self, slot: Slot, instance: Arc<Instance>, deadline: ClusterTime) {
        self.rows.add(digest::of_instance(&instance));
        self.rows.add(digest::of_deadline(instance.lease, deadline));
        for lease in instance.seldom.superseded().iter().chain([&instance.lease]) {
            self.remember_lease(*lease, slot);
        }
        let ttl_ms = instance.registration.ttl_ms();
        let seat = Seat { instance, deadline, scheduled: ClusterTime(0), ttl_ms, dirty: Default::default() };
        self.seats[slot as usize] = Some(seat);
        self.appoint(slot);
    }

    /// Changes what stands at a slot; the revision of the new instance is the one just taken. Returns what stood there
    /// before, with its mark.
    fn reseat(&mut self, slot: Slot, instance: Instance, deadline: ClusterTime) -> (Arc<Instance>, Mark) {
        let instance = Arc::new(instance);
        let seat = self.seats[slot as usize].as_mut().expect("an indexed slot is taken");
        let before = std::mem::replace(&mut seat.instance, instance.clone());
        let deadline_before = std::mem::replace(&mut seat.deadline, deadline);
        seat.ttl_ms = instance.registration.ttl_ms();
        let scheduled = seat.scheduled;
        self.disappoint(slot, &before, deadline_before, scheduled);
        self.appoint(slot);

        self.rows.remove(digest::of_instance(&before));
        self.rows.remove(digest::of_deadline(before.lease, deadline_before));
        self.rows.add(digest::of_instance(&instance));
        self.rows.add(digest::of_deadline(instance.lease, deadline));

        if instance.lease != before.lease {
            self.remember_lease(instance.lease, slot);
            let kept = instance.seldom.superseded();
            let forgotten = before.seldom.superseded().iter().filter(|lease| !kept.contains(lease));
            forgotten.for_each(|lease| self.forget_lease(*lease));
        }
        let tenant = self.tenants.get_mut(&instance.tenant).expect("a seated instance has a tenant");
        tenant.bytes = tenant.bytes - bytes_of_instance(&before) + bytes_of_instance(&instance);
        if !instance.registration.is_same(&before.registration) {
            // The key must not keep the old registration alive.
            tenant.ids.remove(before.id());
            tenant.ids.insert(ById(instance.registration.clone()), slot);
        }
        let mark = tenant.index.remove(slot, &before);
        tenant.index.insert(slot, &instance);
        (before, mark)
    }

    fn unseat(&mut self, slot: Slot) -> (Arc<Instance>, Mark) {
        let seat = self.seats[slot as usize].take().expect("an indexed slot is taken");
        let instance = seat.instance;
        self.free.push(slot);
        self.disappoint(slot, &instance, seat.deadline, seat.scheduled);
        self.rows.remove(digest::of_instance(&instance));
        self.rows.remove(digest::of_deadline(instance.lease, seat.deadline));
        for lease in instance.seldom.superseded().iter().chain([&instance.lease]) {
            self.forget_lease(*lease);
        }
        let tenant = self.tenants.get_mut(&instance.tenant).expect("a seated instance has a tenant");
        tenant.bytes -= bytes_of_instance(&instance);
        let mark = tenant.index.remove(slot, &instance);
        tenant.ids.remove(instance.id());
        if tenant.ids.is_empty() {
            assert_eq!(tenant.index.term_count(), 0, "an empty tenant has terms left");
            self.tenants.remove(&instance.tenant);
        }
        (instance, mark)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_there_is_one_of_for_each_instance_is_small() {
        assert_eq!(size_of::<Instance>(), 64);
        assert_eq!(size_of::<Option<Seat>>(), 32);
        assert_eq!(size_of::<Held>(), 12);
        assert_eq!(size_of::<ById>(), 8);
    }
}
