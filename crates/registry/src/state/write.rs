//! Register, renew, beat, deregister.

use std::sync::Arc;

use super::rulings::change_kind;
use super::{Signing, State};
use crate::access::Actor;
use crate::command::{Beaten, Condition, LeaseSet, Outcome, Refusal, Registered};
use crate::digest;
use crate::health::{Observed, Verdict};
use crate::history::ChangeKind;
use crate::ids::{ClusterTime, InstanceId, LeaseId, PrincipalId, Revision, TenantId};
use crate::index::Slot;
use crate::instance::{Instance, Presence, Seldom};
use crate::metadata::Metadata;
use crate::quota::bytes_of;
use crate::registration::{PackedRegistration, Status};

/// Most bytes of keys and values that heartbeats may merge into one instance: as much as a whole registration may
/// have. Each heartbeat can bring new keys, so without a bound one instance could grow for ever.
const REPORTED_METADATA_BYTES_MAX: u64 = 64 << 10;

fn merge_reported(reported: Option<&Metadata>, patch: &Metadata) -> Result<Metadata, Refusal> {
    let merged = reported.map_or_else(|| patch.clone(), |reported| reported.merged(patch));
    let (bytes, bytes_max) = (merged.pairs().text_bytes() as u64, REPORTED_METADATA_BYTES_MAX);
    if bytes > bytes_max { Err(Refusal::MetadataTooLarge { bytes, bytes_max }) } else { Ok(merged) }
}

/// Whether a patch would change any of an instance's metadata. Both are in order, so that one pass tells.
fn changes(before: &Instance, patch: &Metadata) -> bool {
    let mut own = before.metadata().peekable();
    { patch.pairs() }.any(|pair| {
        while own.next_if(|(key, _)| *key < pair.0).is_some() {}
        own.peek() != Some(&pair)
    })
}

impl State {
    pub(super) fn register(
        &mut self,
        tenant: &TenantId,
        registration: &PackedRegistration,
        condition: Condition,
        by: Option<&Actor>,
        signing: Option<Signing>,
    ) -> Result<Registered, Refusal> {
        let slot = self.slot(tenant, registration.id());
        let view = registration.view();
        self.check_signed_registration(tenant, &view, slot, signing)?;
        self.check(slot, condition)?;
        let registered_by = by.map(|actor| actor.principal.clone());
        let Some(slot) = slot else {
            self.check_quota(tenant, None, bytes_of(registration, None))?;
            let registered = self.register_new(tenant, registration, registered_by);
            self.pin(tenant, view.owner, signing);
            return Ok(registered);
        };
        self.check_actor(slot, by)?;
        let before = self.instance(slot);
        let is_same = before.registration == *registration && !by.is_some_and(|actor| actor.claims(before));
        if is_same && condition != Condition::Anew {
            self.renew_slot(slot);
        } else {
            self.check_quota(tenant, Some(slot), bytes_of(registration, None))?;
            self.retire(slot, view.signed_document());
            self.supersede(slot, registration, registered_by);
        }
        self.pin(tenant, view.owner, signing);
        Ok(self.registered(slot, false))
    }

    fn register_new(
        &mut self,
        tenant: &TenantId,
        registration: &PackedRegistration,
        registered_by: Option<PrincipalId>,
    ) -> Registered {
        self.tally.created += 1;
        let revision = self.next_revision();
        let orders = self.resume_orders(tenant, registration.id());
        let instance = Arc::new(Instance {
            tenant: self.known_tenant(tenant.clone()),
            registration: registration.clone(),
            seldom: Seldom::new(None, Vec::new(), registered_by).with_orders(orders),
            reported_status: Status::Active,
            presence: Presence::Present,
            lease: LeaseId(revision.0),
            revision,
            created_revision: revision,
            registered_at: self.wall,
        });
        let deadline = self.now.plus_ms(registration.ttl_ms().into());
        let slot = self.seat_new(instance.clone(), deadline);
        self.mark_instance(slot);
        self.mark_deadline(slot);
        self.record(ChangeKind::Registered, None, Some(instance));
        self.registered(slot, true)
    }

    /// Other content under the same id, or the same anew: a new incarnation, which the holder of the older lease cannot touch.
    fn supersede(&mut self, slot: Slot, registration: &PackedRegistration, registered_by: Option<PrincipalId>) {
        self.tally.replaced += 1;
        let revision = self.next_revision();
        let before = self.instance(slot);
        let instance = Instance {
            tenant: before.tenant.clone(),
            registration: registration.clone(),
            seldom: before.seldom.after(before.lease, registered_by),
            reported_status: Status::Active,
            presence: Presence::Present,
            lease: LeaseId(revision.0),
            revision,
            created_revision: before.created_revision,
            registered_at: before.registered_at,
        };
        let deadline = self.now.plus_ms(registration.ttl_ms().into());
        self.change(slot, instance, deadline, ChangeKind::Updated);
    }

    pub(super) fn renew(&mut self, tenant: &TenantId, leases: &LeaseSet, by: Option<&Actor>) -> Outcome {
        let (mut not_found, mut superseded) = (Vec::new(), Vec::new());
        for lease in leases.as_slice() {
            match self.lease_slot(*lease) {
                Some(slot) if self.instance(slot).tenant != *tenant => not_found.push(*lease),
                Some(slot) if self.instance(slot).lease != *lease => superseded.push(*lease),
                Some(slot) if self.check_actor(slot, by).is_err() => not_found.push(*lease),
                Some(slot) => self.renew_slot(slot),
                None => not_found.push(*lease),
            }
        }
        Outcome::Renewed { not_found: LeaseSet::new(not_found), superseded: LeaseSet::new(superseded) }
    }

    pub(super) fn beat(
        &mut self,
        tenant: &TenantId,
        id: &InstanceId,
        lease: Option<LeaseId>,
        status: Option<Status>,
        metadata: Option<&Metadata>,
        by: Option<&Actor>,
    ) -> Result<Beaten, Refusal> {
        let slot = self.slot(tenant, id.as_str()).ok_or(Refusal::LeaseNotFound)?;
        self.check_lease(slot, lease)?;
        self.check_actor(slot, by)?;
        let before = self.instance(slot);
        let status = status.unwrap_or(before.reported_status);
        let reported = match metadata {
            Some(patch) if changes(before, patch) => Some(merge_reported(before.seldom.reported_metadata(), patch)?),
            _ => None,
        };
        if let Some(reported) = &reported {
            self.check_quota(tenant, Some(slot), bytes_of(&before.registration, Some(reported)))?;
        }
        if status == before.reported_status && reported.is_none() {
            self.renew_slot(slot);
        } else {
            let seldom = reported.map_or(before.seldom.clone(), |reported| before.seldom.with_reported(reported));
            let instance =
                Instance { reported_status: status, seldom, presence: Presence::Present, ..Instance::clone(before) };
            let kind = change_kind(before, &instance);
            let deadline = self.renewed_deadline(slot);
            let revision = self.next_revision();
            self.change(slot, Instance { revision, ..instance }, deadline, kind);
        }
        let seat = self.seat(slot);
        Ok(Beaten { lease: seat.instance.lease, ttl_ms: seat.ttl_ms, revision: seat.instance.revision })
    }

    /// Takes note of what checks found. What they found already is no change, and so costs no revision.
    pub(super) fn observe(
        &mut self,
        tenant: &TenantId,
        id: &InstanceId,
        lease: LeaseId,
        verdict: Verdict,
    ) -> Result<Revision, Refusal> {
        let slot = self.slot(tenant, id.as_str()).ok_or(Refusal::NotRegistered)?;
        self.check_lease(slot, Some(lease))?;
        let before = self.instance(slot);
        if before.seldom.observed().is_some_and(|observed| observed.verdict == verdict) {
            return Ok(before.revision);
        }
        let observed = Some(Observed { verdict, since: self.wall });
        Ok(self.change_observed(slot, observed))
    }

    /// Forgets what checks found.
    pub(super) fn forget_observed(
        &mut self,
        tenant: &TenantId,
        id: &InstanceId,
        lease: LeaseId,
    ) -> Result<Revision, Refusal> {
        let slot = self.slot(tenant, id.as_str()).ok_or(Refusal::NotRegistered)?;
        self.check_lease(slot, Some(lease))?;
        match self.instance(slot).seldom.observed() {
            None => Ok(self.instance(slot).revision),
            Some(_) => Ok(self.change_observed(slot, None)),
        }
    }

    fn change_observed(&mut self, slot: Slot, observed: Option<Observed>) -> Revision {
        let before = self.instance(slot);
        let instance = Instance { seldom: before.seldom.with_observed(observed), ..Instance::clone(before) };
        let kind = change_kind(before, &instance);
        let (deadline, revision) = (self.seat(slot).deadline, self.next_revision());
        self.change(slot, Instance { revision, ..instance }, deadline, kind);
        revision
    }

    pub(super) fn deregister(
        &mut self,
        tenant: &TenantId,
        id: &InstanceId,
        lease: Option<LeaseId>,
        condition: Condition,
        by: Option<&Actor>,
        signing: Option<Signing>,
    ) -> Result<Outcome, Refusal> {
        let slot = self.slot(tenant, id.as_str());
        self.check(slot, condition)?;
        let slot = slot.ok_or(Refusal::NotRegistered)?;
        self.check_signed_removal(slot, signing)?;
        self.check_lease(slot, lease)?;
        self.check_actor(slot, by)?;
        if signing.is_some_and(|signing| signing.key.is_some()) {
            self.retire(slot, None);
        }
        self.tally.deregistered += 1;
        Ok(Outcome::Deregistered { revision: self.strike_off(slot, ChangeKind::Deregistered) })
    }

    /// Removes an instance as one visible change.
    pub(super) fn strike_off(&mut self, slot: Slot, kind: ChangeKind) -> Revision {
        self.mark_removed(slot);
        let before = self.unseat(slot);
        self.keep_orders(&before.0);
        let revision = self.next_revision();
        self.record(kind, Some(before), None);
        revision
    }

    /// Replaces what stands at a slot as one visible change.
    pub(super) fn change(&mut self, slot: Slot, instance: Instance, deadline: ClusterTime, kind: ChangeKind) {
        assert_eq!(instance.revision, self.revision, "a change bears the revision it took");
        self.mark_superseded(slot, instance.lease);
        let deadline_before = self.seat(slot).deadline;
        let before = self.reseat(slot, instance, deadline);
        let after = self.seat(slot).instance.clone();
        self.mark_instance(slot);
        if (after.lease, deadline) != (before.0.lease, deadline_before) {
            self.mark_deadline(slot);
        }
        self.record(kind, Some(before), Some(after));
    }

    /// Moves a deadline and nothing else, unless the lease had run out: then the instance visibly comes back.
    fn renew_slot(&mut self, slot: Slot) {
        let deadline = self.renewed_deadline(slot);
        let seat = self.seat(slot);
        if seat.instance.presence != Presence::Present {
            let instance = Instance { presence: Presence::Present, ..(*seat.instance).clone() };
            let revision = self.next_revision();
            self.change(slot, Instance { revision, ..instance }, deadline, ChangeKind::StatusChanged);
            return;
        }
        let (lease, before) = (seat.instance.lease, seat.deadline);
        if deadline != before {
            self.rows.remove(digest::of_deadline(lease, before));
            self.rows.add(digest::of_deadline(lease, deadline));
            self.seat_mut(slot).deadline = deadline;
            self.mark_deadline(slot);
        }
    }

    /// The deadline of a lease that is renewed now; counts the renewal.
    fn renewed_deadline(&mut self, slot: Slot) -> ClusterTime {
        let (before, ttl_ms) = (self.seat(slot).deadline, self.seat(slot).ttl_ms);
        let deadline = self.now.plus_ms(ttl_ms.into());
        assert!(before <= deadline, "cluster time went back: a renewal would shorten a lease");
        self.tally.renewal(before, self.now, ttl_ms);
        deadline
    }

    fn registered(&self, slot: Slot, created: bool) -> Registered {
        let seat = self.seat(slot);
        Registered {
            created,
            lease: seat.instance.lease,
            revision: seat.instance.revision,
            created_revision: seat.instance.created_revision,
            registered_at: seat.instance.registered_at,
            deadline: seat.deadline,
        }
    }

    fn check(&self, slot: Option<Slot>, condition: Condition) -> Result<(), Refusal> {
        let current = slot.map(|slot| self.instance(slot).revision);
        let holds = match condition {
            Condition::None | Condition::Anew => true,
            Condition::Absent => current.is_none(),
            Condition::Present => current.is_some(),
            Condition::Unchanged(revision) => current == Some(revision),
        };
        if holds { Ok(()) } else { Err(Refusal::ConditionFailed { current }) }
    }

    /// Whoever acts on nobody's behalf may change everything: where requests carry no identity, nothing is anybody's.
    fn check_actor(&self, slot: Slot, by: Option<&Actor>) -> Result<(), Refusal> {
        let allowed = by.is_none_or(|actor| actor.may_change(self.instance(slot)));
        if allowed { Ok(()) } else { Err(Refusal::NotYours) }
    }

    /// An id's leases only grow, so that an older number was superseded even if it is no longer remembered.
    fn check_lease(&self, slot: Slot, lease: Option<LeaseId>) -> Result<(), Refusal> {
        let instance = self.instance(slot);
        match lease {
            Some(lease) if lease < instance.lease => Err(Refusal::Superseded { by: instance.lease }),
            Some(lease) if lease > instance.lease => Err(Refusal::LeaseNotFound),
            _ => Ok(()),
        }
    }
}
