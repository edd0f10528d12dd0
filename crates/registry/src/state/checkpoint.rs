//! How the state is kept: what changed since the last checkpoint, and the way back from rows to a state.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::access_tokens::AccessTokenDelta;
use super::definitions::DefinitionsDelta;
use super::federation::FederationDelta;
use super::foreign::ForeignDelta;
use super::join_tokens::{JoinToken, JoinTokenDelta, JoinTokenId};
use super::past::{Past, PastDelta};
use super::rulings::RulingsDelta;
use super::signatures::{SignatureKey, SignatureRow, SignaturesDelta};
use super::{ById, Held, Options, Session, State, Tenant};
use crate::access::{AccessToken, AccessTokenId};
use crate::definition::{Definition, DefinitionKey};
use crate::digest::Digest;
use crate::federation::{FederationKey, FederationRow, Foreign, ForeignKey};
use crate::ids::{ClusterTime, Edition, Epoch, InstanceId, LeaseId, Revision, TenantId, WallTime};
use crate::index::{IndexBuilder, Slot};
use crate::instance::{Instance, SUPERSEDED_MAX};
use crate::quota::bytes_of_instance;
use crate::ruling::{Ruling, RulingKey};

/// What names an instance's row.
pub type InstanceKey = (TenantId, InstanceId);

/// The part of the state that is no row.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    pub epoch: Epoch,
    pub revision: Revision,
    /// Of the definitions.
    pub edition: Edition,
    pub now: ClusterTime,
    pub wall: WallTime,
    /// Each node's last batch and its answer, by node.
    pub sessions: BTreeMap<u64, Session>,
    /// Of all but the epoch, so that a restored state is known to be equal.
    pub digest: Digest,
}

/// What turns the rows of the last checkpoint into the present ones. Removals come before the rest.
#[derive(Debug)]
pub struct Delta {
    pub header: Header,
    pub removed: Vec<InstanceKey>,
    pub removed_leases: Vec<LeaseId>,
    pub instances: Vec<Arc<Instance>>,
    pub deadlines: Vec<(LeaseId, ClusterTime)>,
    pub past: PastDelta,
    pub join_tokens: JoinTokenDelta,
    pub access_tokens: AccessTokenDelta,
    pub definitions: DefinitionsDelta,
    pub rulings: RulingsDelta,
    pub signatures: SignaturesDelta,
    pub federation: FederationDelta,
    pub foreign: ForeignDelta,
}

#[derive(Debug, Default)]
pub(super) struct Dirty {
    /// Up to here the history was taken.
    pub(super) past: Revision,
    instances: Vec<Slot>,
    deadlines: Vec<Slot>,
    removed: Vec<InstanceKey>,
    removed_leases: Vec<LeaseId>,
}

/// What of a seat is not in the last checkpoint.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct SeatDirt {
    instance: bool,
    deadline: bool,
    /// The instance has a row.
    kept: bool,
    /// The deadline has a row, under the present lease.
    kept_deadline: bool,
}

impl State {
    pub fn header(&self) -> Header {
        Header {
            epoch: self.epoch,
            revision: self.revision,
            edition: self.definitions.edition,
            now: self.now,
            wall: self.wall,
            sessions: self.sessions.clone(),
            digest: self.digest(),
        }
    }

    /// How many changes there were since the last [`Self::take_delta`].
    pub fn unsaved(&self) -> u64 {
        self.revision.0 - self.dirty.past.0
    }

    /// Takes what changed since the last call. The caller keeps it or stops: it is not told a second time.
    pub fn take_delta(&mut self) -> Delta {
        let past = self.take_past();
        let dirty = std::mem::take(&mut self.dirty);
        self.dirty.past = dirty.past;
        let mut instances = Vec::with_capacity(dirty.instances.len());
        for slot in dirty.instances {
            // The slot may have been freed and taken again since.
            if let Some(seat) = &mut self.seats[slot as usize]
                && std::mem::take(&mut seat.dirty.instance)
            {
                seat.dirty.kept = true;
                instances.push(seat.instance.clone());
            }
        }
        let mut deadlines = Vec::with_capacity(dirty.deadlines.len());
        for slot in dirty.deadlines {
            if let Some(seat) = &mut self.seats[slot as usize]
                && std::mem::take(&mut seat.dirty.deadline)
            {
                seat.dirty.kept_deadline = true;
                deadlines.push((seat.instance.lease, seat.deadline));
            }
        }
        Delta {
            header: self.header(),
            removed: dirty.removed,
            removed_leases: dirty.removed_leases,
            instances,
            deadlines,
            past,
            join_tokens: self.join_tokens.take_delta(),
            access_tokens: self.access_tokens.take_delta(),
            definitions: self.take_definitions(),
            rulings: self.rulings.take_delta(),
            signatures: self.signatures.take_delta(),
            federation: self.federation.take_delta(),
            foreign: self.federation.foreign.take_delta(),
        }
    }

    pub(super) fn mark_instance(&mut self, slot: Slot) {
        if !std::mem::replace(&mut self.seat_mut(slot).dirty.instance, true) {
            self.dirty.instances.push(slot);
        }
    }

    pub(super) fn mark_deadline(&mut self, slot: Slot) {
        if !std::mem::replace(&mut self.seat_mut(slot).dirty.deadline, true) {
            self.dirty.deadlines.push(slot);
        }
    }

    /// Before an instance's lease is replaced.
    pub(super) fn mark_superseded(&mut self, slot: Slot, by: LeaseId) {
        let seat = self.seats[slot as usize].as_mut().expect("an indexed slot is taken");
        if seat.instance.lease != by && std::mem::take(&mut seat.dirty.kept_deadline) {
            self.dirty.removed_leases.push(seat.instance.lease);
        }
    }

    /// Before an instance is removed.
    pub(super) fn mark_removed(&mut self, slot: Slot) {
        let seat = self.seats[slot as usize].as_ref().expect("an indexed slot is taken");
        if seat.dirty.kept {
            self.dirty.removed.push(seat.instance.key());
        }
        if seat.dirty.kept_deadline {
            self.dirty.removed_leases.push(seat.instance.lease);
        }
    }
}

/// Why rows make no state. Each means that what was kept is not what was written.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    #[error("instance {id} of tenant {tenant} has no deadline for its lease {lease}")]
    DeadlineMissing { tenant: TenantId, id: InstanceId, lease: LeaseId },
    #[error("instance {id} of tenant {tenant} has two rows")]
    Twice { tenant: TenantId, id: InstanceId },
    #[error("instance {id} of tenant {tenant} stands out of order")]
    Order { tenant: TenantId, id: InstanceId },
    #[error("lease {lease} is held twice")]
    LeaseTwice { lease: LeaseId },
    #[error("instance {id} of tenant {tenant} cannot be: {fault}")]
    Impossible { tenant: TenantId, id: InstanceId, fault: &'static str },
    #[error("{deadlines} deadlines for {instances} instances")]
    DeadlineCount { deadlines: usize, instances: usize },
    #[error("the history has {changes} changes, but the revision is {revision}")]
    PastTooLong { changes: u64, revision: Revision },
    #[error("the history's change {revision} does not fit what it changed")]
    Past { revision: Revision },
    #[error("join token {id} has two rows, or cannot be")]
    JoinToken { id: JoinTokenId },
    #[error("access token {id} has two rows, or cannot be")]
    AccessToken { id: AccessTokenId },
    #[error("definition {key:?} of tenant {tenant} cannot be: {fault}")]
    Definition { tenant: TenantId, key: DefinitionKey, fault: &'static str },
    #[error("ruling {key:?} of tenant {tenant} cannot be: {fault}")]
    Ruling { tenant: TenantId, key: RulingKey, fault: &'static str },
    #[error("{key:?} cannot be: {fault}")]
    Signature { key: SignatureKey, fault: &'static str },
    #[error("{key:?} cannot be: {fault}")]
    Federation { key: FederationKey, fault: &'static str },
    #[error("the foreign instance {key:?} cannot be: {fault}")]
    Foreign { key: ForeignKey, fault: &'static str },
    #[error("the rows have the digest {found}, but {expected} was written")]
    Digest { found: Digest, expected: Digest },
}

/// A state in the making: first all deadlines in the order of their leases, then all instances in that of their keys, then
/// the history in its order, the tokens, the definitions, the rulings, what is known of signatures and of other clusters
/// whenever.
#[derive(Debug)]
pub struct Restoring {
    state: State,
    expected: Digest,
    deadlines: Vec<(LeaseId, ClusterTime)>,
    past: Vec<Past>,
    /// The revision of the last of them.
    past_end: Revision,
    /// Whose instances come.
    tenant: Option<RestoringTenant>,
}

/// What is to become a tenant of the roll. Rows come in order, so that tree and index can be made at once for less.
#[derive(Debug)]
struct RestoringTenant {
    name: TenantId,
    ids: Vec<(ById, Slot)>,
    index: IndexBuilder,
    bytes: u64,
}

impl RestoringTenant {
    fn new(name: TenantId, seed: u64) -> Self {
        Self { name, ids: Vec::new(), index: IndexBuilder::new(seed), bytes: 0 }
    }
}

impl Restoring {
    pub fn new(options: Options, header: Header) -> Self {
        let mut state = State::new(options);
        state.epoch = header.epoch;
        state.revision = header.revision;
        state.definitions.edition = header.edition;
        state.now = header.now;
        state.wall = header.wall;
        state.sessions = header.sessions;
        Self {
            state,
            expected: header.digest,
            deadlines: Vec::new(),
            past: Vec::new(),
            past_end: Revision(0),
            tenant: None,
        }
    }

    pub fn deadline(&mut self, lease: LeaseId, deadline: ClusterTime) {
        self.deadlines.push((lease, deadline));
    }

    pub fn instance(&mut self, mut instance: Instance) -> Result<(), RestoreError> {
        let lease = instance.lease;
        let Ok(at) = self.deadlines.binary_search_by_key(&lease, |d| d.0) else {
            let (tenant, id) = instance.key();
            return Err(RestoreError::DeadlineMissing { tenant, id, lease });
        };
        self.check_order(&instance)?;
        if self.state.lease_slot(lease).is_some() {
            return Err(RestoreError::LeaseTwice { lease });
        }
        self.check(&instance, self.deadlines[at].1)?;
        if self.state.seats.is_empty() {
            self.state.seats.reserve(self.deadlines.len());
            self.state.leases.reserve(self.deadlines.len(), Held::hash);
        }
        if self.tenant.as_ref().is_none_or(|tenant| tenant.name != instance.tenant) {
            self.end_tenant();
        }
        let seed = self.state.options.seed;
        let tenant = self.tenant.get_or_insert_with(|| RestoringTenant::new(instance.tenant.clone(), seed));
        instance.tenant = tenant.name.clone();
        tenant.bytes += bytes_of_instance(&instance);
        let (slot, instance) = (self.state.slot_new(), Arc::new(instance));
        tenant.ids.push((ById(instance.registration.clone()), slot));
        tenant.index.insert(slot, &instance);
        self.state.seat_at(slot, instance, self.deadlines[at].1);
        let seat = self.state.seat_mut(slot);
        seat.dirty = SeatDirt { kept: true, kept_deadline: true, ..SeatDirt::default() };
        Ok(())
    }

    /// The digest only tells that these are the rows that were written. What applying asserts must hold for them too.
    fn check(&self, instance: &Instance, deadline: ClusterTime) -> Result<(), RestoreError> {
        let (state, Instance { lease, revision, created_revision, .. }) = (&self.state, instance);
        let superseded = instance.seldom.superseded();
        let fault = if *revision > state.revision {
            "its revision is ahead of the roll's"
        } else if lease.0 > revision.0 {
            "its lease is ahead of its revision"
        } else if created_revision.0 > superseded.first().unwrap_or(lease).0 {
            "it is younger than its first lease"
        } else if superseded.len() > SUPERSEDED_MAX {
            "it remembers too many leases"
        } else if !superseded.is_sorted_by(|a, b| a < b) || superseded.last() >= Some(lease) {
            "its leases are out of order"
        } else if superseded.iter().any(|lease| state.lease_slot(*lease).is_some()) {
            "it remembers another's lease"
        } else if deadline > state.now.plus_ms(instance.registration.ttl_ms().into()) {
            "its deadline is farther off than its TTL"
        } else if instance.is_lapsed() && (deadline > state.now || instance.registration().reap_after_ms == 0) {
            "it lapsed before its time"
        } else if instance.is_suspect() && deadline > state.now {
            "it is suspect before its time"
        } else if instance.registered_at > state.wall {
            "it was registered later than now"
        } else if instance.seldom.observed().is_some_and(|observed| observed.since > state.wall) {
            "it was observed later than now"
        } else {
            return Ok(());
        };
        let (tenant, id) = instance.key();
        Err(RestoreError::Impossible { tenant, id, fault })
    }

    pub fn join_token(&mut self, token: JoinToken) -> Result<(), RestoreError> {
        let id = token.id;
        if self.state.restore_join_token(token) { Ok(()) } else { Err(RestoreError::JoinToken { id }) }
    }

    pub fn access_token(&mut self, token: AccessToken) -> Result<(), RestoreError> {
        let id = token.id;
        if self.state.restore_access_token(token) { Ok(()) } else { Err(RestoreError::AccessToken { id }) }
    }

    /// Changes from revision `first` on. What came before a gap is of no use and forgotten.
    pub fn past(&mut self, first: Revision, changes: Vec<Past>) {
        if Some(first.0) != self.past_end.0.checked_add(1) {
            self.past.clear();
        }
        self.past_end = Revision(first.0.saturating_add(changes.len() as u64).saturating_sub(1));
        self.past.extend(changes);
    }

    /// How a tenant takes signatures, or an owner's key, in any order.
    pub fn signature(&mut self, row: SignatureRow) -> Result<(), RestoreError> {
        self.state.restore_signature(row)
    }

    /// Another cluster, or this one's key, in any order.
    pub fn federation(&mut self, row: FederationRow) -> Result<(), RestoreError> {
        self.state.restore_federation(row)
    }

    /// An instance of another cluster, in any order.
    pub fn foreign(&mut self, entry: Foreign) -> Result<(), RestoreError> {
        self.state.restore_foreign(entry)
    }

    /// A definition, in any order.
    pub fn definition(&mut self, definition: Definition) -> Result<(), RestoreError> {
        self.state.restore_definition(definition)
    }

    /// What an operator laid down, in any order.
    pub fn ruling(&mut self, ruling: Ruling) -> Result<(), RestoreError> {
        self.state.restore_ruling(ruling)
    }

    /// An instance comes after all before it: so none comes twice, and a tenant that ended does not come again.
    fn check_order(&self, instance: &Instance) -> Result<(), RestoreError> {
        let Some(RestoringTenant { name, ids, .. }) = &self.tenant else { return Ok(()) };
        let last = ids.last().map(|(last, _)| (name.as_str(), last.id()));
        match last.cmp(&Some((instance.tenant.as_str(), instance.id()))) {
            Ordering::Less => Ok(()),
            Ordering::Equal => {
                let (tenant, id) = instance.key();
                Err(RestoreError::Twice { tenant, id })
            }
            Ordering::Greater => {
                let (tenant, id) = instance.key();
                Err(RestoreError::Order { tenant, id })
            }
        }
    }

    fn end_tenant(&mut self) {
        if let Some(RestoringTenant { name, ids, index, bytes }) = self.tenant.take() {
            let tenant = Tenant { ids: BTreeMap::from_iter(ids), index: index.finish(), bytes };
            self.state.tenants.insert(name, tenant);
        }
    }

    pub fn finish(mut self) -> Result<State, RestoreError> {
        self.end_tenant();
        let (deadlines, instances) = (self.deadlines.len(), self.state.len());
        if deadlines != instances {
            return Err(RestoreError::DeadlineCount { deadlines, instances });
        }
        self.state.finish_rulings()?;
        self.state.finish_federation()?;
        let (found, expected) = (self.state.digest(), self.expected);
        if found != expected {
            return Err(RestoreError::Digest { found, expected });
        }
        if self.past_end != self.state.revision {
            // What does not reach the present is of no use: nothing after it would be known.
            self.past.clear();
        }
        self.state.restore_past(self.past)?;
        Ok(self.state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::instance::{Presence, Seldom};
    use crate::{
        Command, Condition, Kind, Metadata, MetadataValue, PackedRegistration, Proposal, Registration, ServiceName,
        Term,
    };

    fn registration(n: u64) -> PackedRegistration {
        let number = n.to_string();
        let registration = Registration {
            kind: Kind::Agent,
            version: Some(if n.is_multiple_of(2) { "1.0.0" } else { "1.1.0" }.into()),
            // One that all have twice, one that some have, one that few have.
            tags: ["all".into(), "all".into(), format!("of-{}", n % 5).into(), format!("few-{}", n / 3).into()]
                .into(),
            metadata: Metadata::new([("number", MetadataValue::Text(&number))]),
            ..Registration::new(
                InstanceId::parse(&format!("i{n}")).unwrap(),
                ServiceName::parse(&format!("s{}", n % 7)).unwrap(),
                "http://a",
                1_000 + n as u32,
            )
        };
        registration.pack()
    }

    fn tenant(name: &str) -> TenantId {
        TenantId::parse(name).unwrap()
    }

    /// Of two tenants, with enough instances that postings of all sizes come about, and what is kept of it.
    fn filled() -> (State, Delta) {
        let mut state = State::new(Options::default());
        for n in 0..2_000 {
            let tenant = tenant(if n % 3 == 0 { "red" } else { "blue" });
            let command = Command::Register { tenant, registration: registration(n), condition: Condition::None };
            let proposal =
                Proposal { stamp: ClusterTime(n), wall: WallTime(n), commands: vec![command], once: Vec::new() };
            state.apply(Term(1), &proposal);
        }
        let mut delta = state.take_delta();
        delta.deadlines.sort_unstable();
        delta.instances.sort_unstable_by_key(|instance| instance.key());
        (state, delta)
    }

    fn restore(delta: &Delta, instances: impl IntoIterator<Item = Arc<Instance>>) -> Result<State, RestoreError> {
        let mut restoring = Restoring::new(Options::default(), delta.header.clone());
        delta.deadlines.iter().for_each(|(lease, deadline)| restoring.deadline(*lease, *deadline));
        for instance in instances {
            restoring.instance(Instance::clone(&instance))?;
        }
        restoring.finish()
    }

    #[test]
    fn p2_a_restored_state_has_the_indexes_of_one_that_lived() {
        let (lived, delta) = filled();
        let restored = restore(&delta, delta.instances.iter().cloned()).unwrap();
        restored.assert_consistent();
        assert_eq!(restored.digest(), lived.digest());
        for name in ["red", "blue"] {
            let versions =
                |state: &State| state.index(&tenant(name)).unwrap().versions().collect::<Vec<_>>().join(" ");
            assert_eq!(versions(&restored), versions(&lived));
        }
    }

    #[test]
    fn p13_rows_that_come_twice_or_out_of_order_are_refused() {
        let (_, delta) = filled();
        let rows = || delta.instances.clone();
        let mut twice = rows();
        twice.insert(5, twice[4].clone());
        assert!(matches!(restore(&delta, twice).unwrap_err(), RestoreError::Twice { .. }));
        let mut swapped = rows();
        swapped.swap(4, 5);
        assert!(matches!(restore(&delta, swapped).unwrap_err(), RestoreError::Order { .. }));
        let mut again = rows();
        let first = again.remove(0);
        again.push(first);
        assert!(matches!(restore(&delta, again).unwrap_err(), RestoreError::Order { .. }));
        let mut lacking = rows();
        lacking.pop();
        assert!(matches!(restore(&delta, lacking).unwrap_err(), RestoreError::DeadlineCount { .. }));
    }

    fn register(id: &str, url: &str) -> Command {
        let (id, name) = (InstanceId::parse(id).unwrap(), ServiceName::parse("web").unwrap());
        let registration = Registration::new(id, name, url, 1_000).pack();
        Command::Register { tenant: tenant("t"), registration, condition: Condition::None }
    }

    /// Two instances: `a` with leases 1 and 2, and `b` with lease 3. `change` is done to `b` before it is restored.
    fn restored(change: impl FnOnce(&mut Instance, &mut ClusterTime)) -> Result<State, RestoreError> {
        let mut state = State::new(Options::default());
        let commands = vec![register("a", "http://1"), register("a", "http://2"), register("b", "http://3")];
        let proposal = Proposal { stamp: ClusterTime(5), wall: WallTime(7), commands, once: Vec::new() };
        state.apply(Term(1), &proposal);
        let Delta { header, instances, deadlines, .. } = state.take_delta();
        let [a, b] = instances.try_into().expect("two instances");
        let (mut b, mut deadline) = (Instance::clone(&b), deadlines[1].1);
        change(&mut b, &mut deadline);
        let mut restoring = Restoring::new(Options::default(), header);
        let mut deadlines = [deadlines[0], (b.lease, deadline)];
        deadlines.sort();
        deadlines.into_iter().for_each(|(lease, deadline)| restoring.deadline(lease, deadline));
        restoring.instance(Instance::clone(&a))?;
        restoring.instance(b)?;
        restoring.finish()
    }

    #[test]
    fn p13_a_row_that_no_state_can_hold_is_refused() {
        restored(|_, _| {}).unwrap().assert_consistent();
        let refused = |expected: &str, change: &dyn Fn(&mut Instance, &mut ClusterTime)| {
            let refused = restored(|instance, deadline| change(instance, deadline)).unwrap_err();
            assert_eq!(refused.to_string(), format!("instance b of tenant t cannot be: {expected}"));
        };
        let earlier = |leases: &[u64]| Seldom::new(None, leases.iter().copied().map(LeaseId).collect(), None);
        let remembers = |leases: &'static [u64]| {
            move |b: &mut Instance, _: &mut ClusterTime| {
                (b.created_revision, b.seldom) = (Revision(0), earlier(leases))
            }
        };
        refused("its revision is ahead of the roll's", &|b, _| b.revision = Revision(4));
        refused("its lease is ahead of its revision", &|b, _| b.lease = LeaseId(4));
        refused("it is younger than its first lease", &|b, _| b.created_revision = Revision(4));
        refused("it is younger than its first lease", &|b, _| b.seldom = earlier(&[0]));
        refused("it remembers too many leases", &remembers(&[0; SUPERSEDED_MAX + 1]));
        refused("its leases are out of order", &remembers(&[0, 0]));
        refused("its leases are out of order", &remembers(&[3]));
        refused("it remembers another's lease", &remembers(&[1]));
        refused("it remembers another's lease", &remembers(&[0, 2]));
        refused("its deadline is farther off than its TTL", &|_, deadline| *deadline = ClusterTime(1_006));
        refused("it lapsed before its time", &|b, _| b.presence = Presence::Lapsed);
        refused("it lapsed before its time", &|b, deadline| {
            (b.presence, *deadline) = (Presence::Lapsed, ClusterTime(5))
        });
        refused("it is suspect before its time", &|b, _| b.presence = Presence::Suspect);
        refused("it was registered later than now", &|b, _| b.registered_at = WallTime(8));
        // Nothing is wrong with these, but that they are not what was written.
        assert!(matches!(restored(|_, at| *at = ClusterTime(1_004)), Err(RestoreError::Digest { .. })));
        assert!(matches!(restored(|b, _| b.registered_at = WallTime(6)), Err(RestoreError::Digest { .. })));
    }
}
