//! Who is held although the lease ran out, and when they go.
//!
//! Nothing lapses early by this. It is decided where an expiry is applied, from deadlines, cluster time and the tenant's row
//! of [`Vigil`], so that every node decides alike. Suspects stand in no schedule: they go one after the other, in the order of
//! deadline and lease, each when the row says so.

use std::collections::{BTreeMap, BTreeSet};

use super::State;
use super::schedule::Appointment;
use crate::history::ChangeKind;
use crate::ids::{ClusterTime, TenantId};
use crate::index::Slot;
use crate::instance::{Instance, Presence};
use crate::protection::{Protecting, Protection, Vigil};
use crate::ruling::{Ruled, RulingContent, RulingKey};

/// How often it is looked at whether protection is over. Looking costs as much as there are leases.
const LOOK_MS: u64 = 1_000;

/// How far releases catch up when they come late.
const CATCH_UP_MS: u64 = 1_000;

/// Who is held, by deadline and lease. Derived from the instances.
#[derive(Debug, Default)]
pub(super) struct Held(BTreeMap<TenantId, BTreeSet<Appointment>>);

impl Held {
    pub(super) fn insert(&mut self, tenant: &TenantId, appointment: Appointment) {
        self.0.entry(tenant.clone()).or_default().insert(appointment);
    }

    pub(super) fn remove(&mut self, tenant: &TenantId, appointment: Appointment) {
        let own = self.0.get_mut(tenant);
        let removed = own.is_some_and(|own| own.remove(&appointment));
        assert!(removed, "a suspect of tenant {tenant} was not held");
        if self.0.get(tenant).is_some_and(BTreeSet::is_empty) {
            self.0.remove(tenant);
        }
    }

    pub(super) fn contains(&self, tenant: &TenantId, appointment: Appointment) -> bool {
        self.0.get(tenant).is_some_and(|own| own.contains(&appointment))
    }

    pub(super) fn len(&self) -> usize {
        self.0.values().map(BTreeSet::len).sum()
    }

    pub(super) fn tenants(&self) -> impl Iterator<Item = &TenantId> {
        self.0.keys()
    }

    fn slots(&self, tenant: &TenantId) -> impl Iterator<Item = Slot> {
        self.0.get(tenant).into_iter().flatten().map(|(_, _, slot)| *slot)
    }

    fn of(&self, tenant: &TenantId) -> usize {
        self.0.get(tenant).map_or(0, BTreeSet::len)
    }
}

/// What one expiry decided of each tenant: whether its leases are held, and how many of them lapsed.
pub(super) type Judged = BTreeMap<TenantId, (bool, u32)>;

impl State {
    /// How a tenant's protection stands.
    pub fn protecting(&self, tenant: &TenantId) -> Protecting {
        let vigil = self.rulings.vigil(tenant);
        Protecting {
            protection: self.rulings.protection(tenant),
            since: vigil.and_then(|vigil| vigil.since),
            begun: vigil.map_or(0, |vigil| vigil.begun),
            suspects: self.held.of(tenant),
        }
    }

    /// Tenants whose protection ever came into force since it was switched on, by name.
    pub fn protections(&self) -> impl Iterator<Item = (&TenantId, Protecting)> {
        self.rulings.vigils().map(|(tenant, _)| (tenant, self.protecting(tenant)))
    }

    /// Suspects of all tenants.
    pub fn suspects(&self) -> usize {
        self.held.len()
    }

    /// Tenants whose protection is in force.
    pub fn tenants_protected(&self) -> usize {
        self.rulings.vigils().filter(|(_, vigil)| vigil.since.is_some()).count()
    }

    pub(crate) fn suspects_of(&self, tenant: &TenantId) -> impl Iterator<Item = Slot> {
        self.held.slots(tenant)
    }

    /// When protection has something to do, if that is by `up_to`.
    pub(super) fn protection_due_by(&self, up_to: ClusterTime) -> Option<ClusterTime> {
        let due = self.rulings.vigils().filter_map(|(tenant, vigil)| {
            let look = vigil.since.map(|_| vigil.next_look);
            let release = (self.held.of(tenant) > 0).then_some(vigil.next_release);
            look.into_iter().chain(release).min()
        });
        due.min().filter(|due| *due <= up_to)
    }

    /// Ends what is over.
    pub(super) fn look_after(&mut self, up_to: ClusterTime) {
        let vigils: Vec<_> = self.rulings.vigils().map(|(tenant, vigil)| (tenant.clone(), vigil.clone())).collect();
        for (tenant, vigil) in vigils {
            let is_due = vigil.since.is_some() && vigil.next_look <= up_to;
            match self.rulings.protection(&tenant) {
                None => self.forget_vigil_if_done(&tenant),
                Some(protection) if is_due => {
                    let (silent, leases) = self.silent(&tenant, protection);
                    let next_look = self.now.plus_ms(LOOK_MS);
                    let since = vigil.since.filter(|_| !protection.ends(silent, leases));
                    self.keep_vigil(&tenant, Vigil { since, next_look, ..vigil });
                }
                Some(_) => {}
            }
        }
    }

    /// Whether a lease that is due is held. All of a tenant's that are due at one expiry are judged together.
    pub(super) fn holds(&mut self, slot: Slot, judged: &mut Judged) -> bool {
        let tenant = &self.instance(slot).tenant;
        if let Some((holds, lapses)) = judged.get_mut(tenant) {
            *lapses += u32::from(!*holds);
            return *holds;
        }
        let Some(protection) = self.rulings.protection(tenant) else { return false };
        let tenant = tenant.clone();
        let holds = self.is_in_force(&tenant, protection);
        judged.insert(tenant, (holds, u32::from(!holds)));
        holds
    }

    /// Whether protection is in force, or has to begin now.
    fn is_in_force(&mut self, tenant: &TenantId, protection: Protection) -> bool {
        let vigil = self.rulings.vigil(tenant).cloned().unwrap_or_default();
        if vigil.since.is_some() {
            return true;
        }
        if self.now < vigil.quiet_until {
            return false;
        }
        let (silent, leases) = self.silent(tenant, protection);
        let lapsed = vigil.lapsed_lately(protection, self.now);
        let begins = protection.begins(silent + lapsed, leases + lapsed);
        if begins {
            let vigil = Vigil {
                begun: vigil.begun + 1,
                since: Some(self.wall),
                next_look: self.now.plus_ms(LOOK_MS),
                next_release: self.now.plus_ms(protection.release_ms()),
                freed: false,
                quiet_until: ClusterTime(0),
                // What led to it shall not lead to the next one.
                lapses: Vec::new(),
            };
            self.keep_vigil(tenant, vigil);
        }
        begins
    }

    /// How many of a tenant's leases would lapse within the window if nothing more is heard of them, and how many there
    /// are. A lease of which more than half is left says nothing: whoever beats twice per TTL is heard of by then.
    fn silent(&self, tenant: &TenantId, protection: Protection) -> (u64, u64) {
        let (mut silent, mut leases) = (0, 0);
        for slot in self.ids(tenant).into_iter().flat_map(BTreeMap::values) {
            let seat = self.seat(*slot);
            let left_ms = seat.deadline.0.saturating_sub(self.now.0);
            // Only what has run out can have lapsed; the rest need not be looked at closer.
            if left_ms == 0 && seat.instance.is_lapsed() {
                continue;
            }
            leases += 1;
            let is_late = left_ms * 2 <= seat.ttl_ms.into() && left_ms <= protection.window_ms().into();
            silent += u64::from(is_late);
        }
        (silent, leases)
    }

    pub(super) fn hold(&mut self, slot: Slot) {
        let tenant = self.instance(slot).tenant.clone();
        if self.held.of(&tenant) == 0
            && let Some((protection, vigil)) = self.rulings.protection(&tenant).zip(self.rulings.vigil(&tenant))
        {
            // Nobody has waited since the last release.
            let next_release = vigil.next_release.max(self.now.plus_ms(protection.release_ms()));
            let vigil = Vigil { next_release, ..vigil.clone() };
            self.keep_vigil(&tenant, vigil);
        }
        self.tally.suspected += 1;
        let instance = Instance { presence: Presence::Suspect, ..Instance::clone(self.instance(slot)) };
        let (deadline, revision) = (self.seat(slot).deadline, self.next_revision());
        self.change(slot, Instance { revision, ..instance }, deadline, ChangeKind::StatusChanged);
    }

    /// The next suspect to go, if that is by `up_to`.
    pub(super) fn first_released_by(&self, up_to: ClusterTime) -> Option<Slot> {
        self.held.0.iter().find_map(|(tenant, held)| {
            let vigil = self.rulings.vigil(tenant).expect("suspects are of a tenant with a vigil");
            let (_, _, slot) = held.first().filter(|_| vigil.next_release <= up_to)?;
            Some(*slot)
        })
    }

    /// Lets a suspect go. Its time to be reaped begins now: until now it was on the roll as if nothing were wrong.
    pub(super) fn release(&mut self, slot: Slot, up_to: ClusterTime) {
        let tenant = self.instance(slot).tenant.clone();
        self.lapse(slot, self.now);
        let vigil = self.rulings.vigil(&tenant).expect("suspects are of a tenant with a vigil").clone();
        match self.rulings.protection(&tenant) {
            Some(protection) if !vigil.freed => {
                let next = vigil.next_release.plus_ms(protection.release_ms());
                let next_release = next.max(ClusterTime(up_to.0.saturating_sub(CATCH_UP_MS)));
                self.keep_vigil(&tenant, Vigil { next_release, ..vigil });
            }
            Some(_) => {}
            None => self.forget_vigil_if_done(&tenant),
        }
    }

    /// What lapsed unprotected counts until the window is over.
    pub(super) fn note_lapses(&mut self, judged: Judged) {
        for (tenant, (_, lapses)) in judged {
            let vigil = self.rulings.vigil(&tenant).cloned().unwrap_or_default();
            if let Some(protection) = self.rulings.protection(&tenant)
                && lapses > 0
                && self.now >= vigil.quiet_until
            {
                let mut vigil = vigil;
                vigil.note_lapses(protection, self.now, lapses);
                self.keep_vigil(&tenant, vigil);
            }
        }
    }

    pub(super) fn protect(&mut self, tenant: &TenantId, protection: Option<Protection>) -> Ruled {
        let vigil = self.rulings.vigil(tenant).cloned();
        let Some(protection) = protection else {
            let ruled = self.take_back(tenant, &RulingKey::Protection);
            if let Some(vigil) = vigil.filter(|_| ruled.changed) {
                let next_release = vigil.next_release.min(self.now);
                let vigil = Vigil { since: None, freed: true, next_release, lapses: Vec::new(), ..vigil };
                self.keep_vigil(tenant, vigil);
                self.forget_vigil_if_done(tenant);
            }
            return ruled;
        };
        let ruled = self.lay_down(tenant, RulingContent::Protection(protection));
        if let Some(vigil) = vigil.filter(|_| ruled.changed) {
            // Parts of another window are not to be compared.
            let next_release = vigil.next_release.min(self.now.plus_ms(protection.release_ms()));
            self.keep_vigil(tenant, Vigil { next_release, lapses: Vec::new(), ..vigil });
        }
        ruled
    }

    /// Ends a tenant's protection, and lets those go that are held: an operator knows that they are gone.
    pub(super) fn free(&mut self, tenant: &TenantId) -> Ruled {
        let unchanged = Ruled { changed: false, revision: self.revision };
        let vigil = self.rulings.vigil(tenant).cloned();
        let Some(vigil) = vigil.filter(|vigil| vigil.since.is_some() || self.held.of(tenant) > 0) else {
            return unchanged;
        };
        if vigil.freed && vigil.since.is_none() {
            return unchanged;
        }
        let window_ms = self.rulings.protection(tenant).map_or(0, Protection::window_ms);
        let (quiet_until, next_release) = (self.now.plus_ms(window_ms.into()), vigil.next_release.min(self.now));
        self.keep_vigil(tenant, Vigil { since: None, freed: true, next_release, quiet_until, ..vigil });
        Ruled { changed: true, ..unchanged }
    }

    fn keep_vigil(&mut self, tenant: &TenantId, vigil: Vigil) {
        if self.rulings.vigil(tenant) != Some(&vigil) {
            let tenant = self.known_tenant(tenant.clone());
            self.rulings.put(&tenant, RulingContent::Vigil(vigil), &mut self.rows);
        }
    }

    /// What is going on about a tenant that is no longer protected is of interest while anybody is held.
    fn forget_vigil_if_done(&mut self, tenant: &TenantId) {
        if self.rulings.protection(tenant).is_none() && self.held.of(tenant) == 0 {
            self.rulings.take(tenant, &RulingKey::Vigil, &mut self.rows);
        }
    }
}
