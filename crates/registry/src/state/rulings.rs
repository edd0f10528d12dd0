//! What operators laid down: a table beside the roll, and the orders that instances bear.
//!
//! A maintenance order outlives its instance. When the instance leaves the roll the order moves into the table, and back
//! when the id is registered again; so it stands in one place at a time. A drain is over when its instance has gone.
//! The table takes no revision; an order of an instance on the roll is part of that, and a visible change.

use std::collections::{BTreeMap, BTreeSet};

use super::State;
use super::checkpoint::RestoreError;
use super::touched::{TableDelta, Touched};
use crate::alerting::{AlertTarget, ToldUpTo};
use crate::command::Refusal;
use crate::digest::{self, RowSum};
use crate::health::{Order, OrderKind, Orders, REASON_BYTES_MAX, TenantChecks};
use crate::history::ChangeKind;
use crate::ids::{InstanceId, OwnerName, TargetName, TenantId};
use crate::index::Slot;
use crate::instance::Instance;
use crate::protection::{Protection, Vigil, WINDOW_PARTS};
use crate::quota::{QUOTAS_MAX, Quota};
use crate::rank::{RankWeights, Ranker, Ranking, Trust};
use crate::registration::Status;
use crate::ruling::{RULINGS_MAX, Ruled, Ruling, RulingChange, RulingContent, RulingKey};
use crate::visibility::Viewer;

/// The table, of all tenants.
#[derive(Debug, Default)]
pub struct Rulings {
    tenants: BTreeMap<TenantId, OfTenant>,
    /// Those that have a vigil, so that the others need not be looked through all the time.
    watched: BTreeSet<TenantId>,
    /// Those that have targets.
    alerted: BTreeSet<TenantId>,
    touched: Touched<(TenantId, RulingKey)>,
    /// Tenants that have a quota.
    quotas: usize,
    /// Of the rows of quotas.
    quotas_sum: RowSum,
}

#[derive(Debug, Default)]
struct OfTenant {
    /// Maintenance of ids that are off the roll.
    absent: BTreeMap<InstanceId, Order>,
    /// Ids under maintenance, on the roll or off it.
    in_maintenance: usize,
    trust: BTreeMap<OwnerName, Trust>,
    /// Of the rows of trust.
    trust_sum: RowSum,
    ranking: Option<RankWeights>,
    quota: Option<Quota>,
    checks: Option<TenantChecks>,
    protection: Option<Protection>,
    vigil: Option<Box<Vigil>>,
    targets: BTreeMap<TargetName, (AlertTarget, ToldUpTo)>,
}

impl OfTenant {
    fn is_empty(&self) -> bool {
        let Self { absent, in_maintenance, trust, trust_sum: _, ranking, quota, checks, protection, vigil, targets } =
            self;
        let nothing = absent.is_empty() && *in_maintenance == 0 && trust.is_empty() && targets.is_empty();
        nothing && ranking.is_none() && quota.is_none() && checks.is_none() && protection.is_none() && vigil.is_none()
    }

    fn get(&self, key: &RulingKey) -> Option<RulingContent> {
        match key {
            RulingKey::Order(id) => {
                self.absent.get(id).map(|order| RulingContent::Order { id: id.clone(), order: order.clone() })
            }
            RulingKey::Trust(owner) => {
                self.trust.get(owner).map(|trust| RulingContent::Trust { owner: owner.clone(), trust: *trust })
            }
            RulingKey::Ranking => self.ranking.map(RulingContent::Ranking),
            RulingKey::Quota => self.quota.map(RulingContent::Quota),
            RulingKey::Checks => self.checks.map(RulingContent::Checks),
            RulingKey::Protection => self.protection.map(RulingContent::Protection),
            RulingKey::Vigil => self.vigil.as_deref().cloned().map(RulingContent::Vigil),
            RulingKey::Target(name) => self.targets.get(name).map(|(target, told)| RulingContent::Target {
                name: name.clone(),
                target: target.clone(),
                told: *told,
            }),
        }
    }

    fn contents(&self) -> impl Iterator<Item = RulingContent> {
        let orders = self.absent.keys().cloned().map(RulingKey::Order);
        let trust = self.trust.keys().cloned().map(RulingKey::Trust);
        let of_the_tenant =
            [RulingKey::Ranking, RulingKey::Quota, RulingKey::Checks, RulingKey::Protection, RulingKey::Vigil];
        let targets = self.targets.keys().cloned().map(RulingKey::Target);
        orders.chain(trust).chain(of_the_tenant).chain(targets).filter_map(|key| self.get(&key))
    }
}

pub type RulingsDelta = TableDelta<(TenantId, RulingKey), Ruling>;

impl Rulings {
    /// How far operators trust an owner.
    pub fn trust(&self, tenant: &TenantId, owner: &str) -> Option<Trust> {
        self.tenants.get(tenant)?.trust.get(owner).copied()
    }

    /// All owners of whom operators said how far they are trusted, by name.
    pub fn trusted(&self, tenant: &TenantId) -> impl Iterator<Item = (&OwnerName, Trust)> {
        self.tenants.get(tenant).into_iter().flat_map(|own| own.trust.iter().map(|(owner, trust)| (owner, *trust)))
    }

    /// The weights that operators gave to a tenant.
    pub fn ranking(&self, tenant: &TenantId) -> Option<RankWeights> {
        self.tenants.get(tenant)?.ranking
    }

    /// What operators let a tenant have.
    pub fn quota(&self, tenant: &TenantId) -> Option<Quota> {
        self.tenants.get(tenant)?.quota
    }

    /// All quotas, by tenant.
    pub fn quotas(&self) -> impl Iterator<Item = (&TenantId, Quota)> {
        self.tenants.iter().filter_map(|(tenant, own)| Some((tenant, own.quota?)))
    }

    /// Differs where quotas are others.
    pub fn quotas_mark(&self) -> u128 {
        self.quotas_sum.mark()
    }

    /// What operators said of a tenant's checks.
    pub fn checks(&self, tenant: &TenantId) -> Option<TenantChecks> {
        self.tenants.get(tenant)?.checks
    }

    /// The tenants of whose checks operators said anything.
    pub fn all_checks(&self) -> impl Iterator<Item = (&TenantId, TenantChecks)> {
        self.tenants.iter().filter_map(|(tenant, own)| Some((tenant, own.checks?)))
    }

    /// Whether and how a tenant's leases are protected.
    pub fn protection(&self, tenant: &TenantId) -> Option<Protection> {
        self.tenants.get(tenant)?.protection
    }

    /// Where a tenant's alerts go, and how far they went, by name.
    pub fn targets(&self, tenant: &TenantId) -> impl Iterator<Item = (&TargetName, &AlertTarget, ToldUpTo)> {
        let own = self.tenants.get(tenant).into_iter().flat_map(|own| own.targets.iter());
        own.map(|(name, (target, told))| (name, target, *told))
    }

    pub fn target(&self, tenant: &TenantId, name: &TargetName) -> Option<&AlertTarget> {
        self.target_row(tenant, name).map(|(target, _)| target)
    }

    pub(super) fn target_row(&self, tenant: &TenantId, name: &TargetName) -> Option<&(AlertTarget, ToldUpTo)> {
        self.tenants.get(tenant)?.targets.get(name)
    }

    /// Tenants that have targets, by name.
    pub fn alerted(&self) -> impl Iterator<Item = &TenantId> {
        self.alerted.iter()
    }

    pub(super) fn vigil(&self, tenant: &TenantId) -> Option<&Vigil> {
        self.tenants.get(tenant)?.vigil.as_deref()
    }

    /// By tenant.
    pub(super) fn vigils(&self) -> impl Iterator<Item = (&TenantId, &Vigil)> {
        self.watched.iter().filter_map(|tenant| Some((tenant, self.vigil(tenant)?)))
    }

    /// Maintenance of ids that are off the roll, by id.
    pub fn absent_orders(&self, tenant: &TenantId) -> impl Iterator<Item = (&InstanceId, &Order)> {
        self.tenants.get(tenant).into_iter().flat_map(|own| own.absent.iter())
    }

    pub(crate) fn trusts_anybody(&self, tenant: &TenantId) -> bool {
        self.tenants.get(tenant).is_some_and(|own| !own.trust.is_empty())
    }

    /// Differs where other owners are trusted, or otherwise.
    pub(crate) fn trust_mark(&self, tenant: &TenantId) -> u64 {
        let sum = self.tenants.get(tenant).map(|own| own.trust_sum).unwrap_or_default();
        sum.with_scalars(std::iter::empty()).0 as u64
    }

    fn in_maintenance(&self, tenant: &TenantId) -> usize {
        self.tenants.get(tenant).map_or(0, |own| own.in_maintenance)
    }

    /// Counts an id that comes under maintenance, or is no longer.
    fn count_maintenance(&mut self, tenant: &TenantId, begins: bool) {
        let own = self.tenants.entry(tenant.clone()).or_default();
        own.in_maintenance = if begins { own.in_maintenance + 1 } else { own.in_maintenance - 1 };
        self.forget_if_empty(tenant);
    }

    fn forget_if_empty(&mut self, tenant: &TenantId) {
        if self.tenants.get(tenant).is_some_and(OfTenant::is_empty) {
            self.tenants.remove(tenant);
        }
    }

    pub(super) fn put(&mut self, tenant: &TenantId, content: RulingContent, rows: &mut RowSum) {
        self.take(tenant, &content.key(), rows);
        let row = Ruling { tenant: tenant.clone(), content };
        let sum = digest::of_ruling(&row);
        rows.add(sum);
        let key = row.content.key();
        let own = self.tenants.entry(tenant.clone()).or_default();
        match row.content {
            RulingContent::Order { id, order } => drop(own.absent.insert(id, order)),
            RulingContent::Trust { owner, trust } => {
                own.trust_sum.add(sum);
                own.trust.insert(owner, trust);
            }
            RulingContent::Ranking(weights) => own.ranking = Some(weights),
            RulingContent::Quota(quota) => {
                own.quota = Some(quota);
                self.quotas += 1;
                self.quotas_sum.add(sum);
            }
            RulingContent::Checks(checks) => own.checks = Some(checks),
            RulingContent::Protection(protection) => own.protection = Some(protection),
            RulingContent::Vigil(vigil) => {
                own.vigil = Some(Box::new(vigil));
                self.watched.insert(tenant.clone());
            }
            RulingContent::Target { name, target, told } => {
                own.targets.insert(name, (target, told));
                self.alerted.insert(tenant.clone());
            }
        }
        self.touched.touch((tenant.clone(), key));
    }

    /// Takes a row out; none if there was none.
    pub(super) fn take(&mut self, tenant: &TenantId, key: &RulingKey, rows: &mut RowSum) -> Option<RulingContent> {
        let own = self.tenants.get_mut(tenant)?;
        let content = own.get(key)?;
        let sum = digest::of_ruling(&Ruling { tenant: tenant.clone(), content: content.clone() });
        rows.remove(sum);
        match key {
            RulingKey::Order(id) => drop(own.absent.remove(id)),
            RulingKey::Trust(owner) => {
                own.trust_sum.remove(sum);
                own.trust.remove(owner);
            }
            RulingKey::Ranking => own.ranking = None,
            RulingKey::Quota => {
                own.quota = None;
                self.quotas -= 1;
                self.quotas_sum.remove(sum);
            }
            RulingKey::Checks => own.checks = None,
            RulingKey::Protection => own.protection = None,
            RulingKey::Vigil => {
                own.vigil = None;
                self.watched.remove(tenant);
            }
            RulingKey::Target(name) => {
                own.targets.remove(name);
                if own.targets.is_empty() {
                    self.alerted.remove(tenant);
                }
            }
        }
        self.touched.touch((tenant.clone(), key.clone()));
        self.forget_if_empty(tenant);
        Some(content)
    }

    fn get(&self, tenant: &TenantId, key: &RulingKey) -> Option<RulingContent> {
        self.tenants.get(tenant)?.get(key)
    }

    pub(super) fn take_delta(&mut self) -> RulingsDelta {
        let tenants = &self.tenants;
        self.touched.take(|(tenant, key)| {
            let content = tenants.get(tenant)?.get(key)?;
            Some(Ruling { tenant: tenant.clone(), content })
        })
    }
}

impl State {
    /// What operators laid down beside the roll.
    pub fn rulings(&self) -> &Rulings {
        &self.rulings
    }

    /// All rows of the table, by tenant.
    pub fn all_rulings(&self) -> impl Iterator<Item = Ruling> {
        self.rulings
            .tenants
            .iter()
            .flat_map(|(tenant, own)| own.contents().map(move |content| Ruling { tenant: tenant.clone(), content }))
    }

    /// Differs where the same question would rank otherwise, because of what was laid down since or because it is another.
    pub fn ranking_mark(&self, tenant: &TenantId, ranking: &Ranking) -> u64 {
        Ranker::new(ranking, tenant, &self.rulings).mark()
    }

    /// Orders for the instances on the roll that the viewer is shown, by their ids.
    pub fn orders<'a>(
        &'a self,
        tenant: &TenantId,
        viewer: &Viewer,
    ) -> impl Iterator<Item = (&'a str, &'a Orders)> + use<'a> {
        let shown_as = [Status::Maintenance, Status::Offline];
        let found = self.index(tenant).into_iter().flat_map(move |index| {
            shown_as.into_iter().filter_map(|status| index.posting(crate::index::Term::Status(status)))
        });
        let slots = found.flat_map(|posting| posting.iter().collect::<Vec<_>>());
        let ordered = slots.map(|slot| self.instance(slot)).filter(|instance| !instance.seldom.orders().is_empty());
        let seen = ordered.filter(|instance| viewer.sees(instance));
        let by_id: BTreeMap<_, _> = seen.map(|instance| (instance.id(), instance.seldom.orders())).collect();
        by_id.into_iter()
    }

    /// The orders for one id, on the roll or off it.
    pub fn orders_for(&self, tenant: &TenantId, id: &InstanceId) -> Orders {
        match self.slot(tenant, id.as_str()) {
            Some(slot) => self.instance(slot).seldom.orders().clone(),
            None => {
                let absent = self.rulings.tenants.get(tenant).and_then(|own| own.absent.get(id));
                absent.cloned().map(Orders::of_absent).unwrap_or_default()
            }
        }
    }

    pub(super) fn rule(&mut self, tenant: &TenantId, change: &RulingChange) -> Result<Ruled, Refusal> {
        match change {
            RulingChange::Give { id, kind, reason } => self.give(tenant, id, *kind, reason.as_deref()),
            RulingChange::Lift { id, kind } => self.lift(tenant, id, *kind),
            RulingChange::Trust { owner, trust: Some(trust) } => {
                let is_new = self.rulings.trust(tenant, owner.as_str()).is_none();
                if is_new && self.rulings.trusted(tenant).count() >= RULINGS_MAX {
                    return Err(Refusal::TooManyRulings { max: RULINGS_MAX as u32 });
                }
                Ok(self.lay_down(tenant, RulingContent::Trust { owner: owner.clone(), trust: *trust }))
            }
            RulingChange::Trust { owner, trust: None } => {
                Ok(self.take_back(tenant, &RulingKey::Trust(owner.clone())))
            }
            RulingChange::Ranking(Some(weights)) => Ok(self.lay_down(tenant, RulingContent::Ranking(*weights))),
            RulingChange::Ranking(None) => Ok(self.take_back(tenant, &RulingKey::Ranking)),
            RulingChange::Quota(Some(quota)) => {
                let is_new = self.quota(tenant).is_none();
                if is_new && self.rulings.quotas >= QUOTAS_MAX {
                    return Err(Refusal::TooManyQuotas { max: QUOTAS_MAX as u32 });
                }
                Ok(self.lay_down(tenant, RulingContent::Quota(*quota)))
            }
            RulingChange::Quota(None) => Ok(self.take_back(tenant, &RulingKey::Quota)),
            RulingChange::Checks(Some(checks)) => Ok(self.lay_down(tenant, RulingContent::Checks(*checks))),
            RulingChange::Checks(None) => Ok(self.take_back(tenant, &RulingKey::Checks)),
            RulingChange::Protection(protection) => Ok(self.protect(tenant, *protection)),
            RulingChange::Release => Ok(self.free(tenant)),
            RulingChange::Target { name, target } => self.set_target(tenant, name, target.as_ref()),
            RulingChange::Told { name, told } => Ok(self.note_told(tenant, name, *told)),
        }
    }

    pub(super) fn lay_down(&mut self, tenant: &TenantId, content: RulingContent) -> Ruled {
        let changed = self.rulings.get(tenant, &content.key()).as_ref() != Some(&content);
        if changed {
            let tenant = self.known_tenant(tenant.clone());
            self.rulings.put(&tenant, content, &mut self.rows);
        }
        Ruled { changed, revision: self.revision }
    }

    pub(super) fn take_back(&mut self, tenant: &TenantId, key: &RulingKey) -> Ruled {
        let changed = self.rulings.take(tenant, key, &mut self.rows).is_some();
        Ruled { changed, revision: self.revision }
    }

    fn give(
        &mut self,
        tenant: &TenantId,
        id: &InstanceId,
        kind: OrderKind,
        reason: Option<&str>,
    ) -> Result<Ruled, Refusal> {
        if reason.is_some_and(|reason| reason.len() > REASON_BYTES_MAX) {
            return Err(Refusal::RulingOutOfBounds);
        }
        let order = |standing: Option<&Order>| Order {
            reason: reason.map(Box::from),
            since: standing.map_or(self.wall, |standing| standing.since),
        };
        let Some(slot) = self.slot(tenant, id.as_str()) else {
            let key = RulingKey::Order(id.clone());
            let standing = match self.rulings.get(tenant, &key) {
                Some(RulingContent::Order { order, .. }) if kind == OrderKind::Maintenance => order,
                _ => return Err(Refusal::NotRegistered),
            };
            let content = RulingContent::Order { id: id.clone(), order: order(Some(&standing)) };
            return Ok(self.lay_down(tenant, content));
        };
        let orders = self.instance(slot).seldom.orders();
        let (standing, order) = (orders.get(kind), order(orders.get(kind)));
        if standing == Some(&order) {
            return Ok(Ruled { changed: false, revision: self.instance(slot).revision });
        }
        if kind == OrderKind::Maintenance && standing.is_none() {
            if self.rulings.in_maintenance(tenant) >= RULINGS_MAX {
                return Err(Refusal::TooManyRulings { max: RULINGS_MAX as u32 });
            }
            let tenant = self.instance(slot).tenant.clone();
            self.rulings.count_maintenance(&tenant, true);
        }
        let orders = self.instance(slot).seldom.orders().clone().with(kind, Some(order));
        Ok(self.change_orders(slot, orders))
    }

    fn lift(&mut self, tenant: &TenantId, id: &InstanceId, kind: OrderKind) -> Result<Ruled, Refusal> {
        let Some(slot) = self.slot(tenant, id.as_str()) else {
            let key = RulingKey::Order(id.clone());
            if kind != OrderKind::Maintenance || self.rulings.get(tenant, &key).is_none() {
                return Err(Refusal::NotRegistered);
            }
            let ruled = self.take_back(tenant, &key);
            self.rulings.count_maintenance(tenant, false);
            return Ok(ruled);
        };
        let orders = self.instance(slot).seldom.orders().clone();
        if orders.get(kind).is_none() {
            return Ok(Ruled { changed: false, revision: self.instance(slot).revision });
        }
        if kind == OrderKind::Maintenance {
            self.rulings.count_maintenance(tenant, false);
        }
        Ok(self.change_orders(slot, orders.with(kind, None)))
    }

    /// One visible change, whatever it does to the status that is shown.
    fn change_orders(&mut self, slot: Slot, orders: Orders) -> Ruled {
        let before = self.instance(slot);
        let instance = Instance { seldom: before.seldom.with_orders(orders), ..Instance::clone(before) };
        let kind = change_kind(before, &instance);
        let (deadline, revision) = (self.seat(slot).deadline, self.next_revision());
        self.change(slot, Instance { revision, ..instance }, deadline, kind);
        Ruled { changed: true, revision }
    }

    /// The orders that an id has that comes onto the roll: those that it left it with.
    pub(super) fn resume_orders(&mut self, tenant: &TenantId, id: &str) -> Orders {
        let is_known = self.rulings.tenants.get(tenant).is_some_and(|own| own.absent.contains_key(id));
        // Of nearly all ids nothing is known, and nothing is to be made for them.
        if !is_known {
            return Orders::default();
        }
        let key = RulingKey::Order(InstanceId::kept(id));
        match self.rulings.take(tenant, &key, &mut self.rows) {
            Some(RulingContent::Order { order, .. }) => Orders::of_absent(order),
            _ => Orders::default(),
        }
    }

    /// Keeps what outlives an instance that leaves the roll.
    pub(super) fn keep_orders(&mut self, instance: &Instance) {
        if let Some(order) = &instance.seldom.orders().maintenance {
            let id = InstanceId::kept(instance.id());
            let content = RulingContent::Order { id, order: order.clone() };
            self.rulings.put(&instance.tenant, content, &mut self.rows);
        }
    }

    /// A row that is in the checkpoint.
    pub(super) fn restore_ruling(&mut self, ruling: Ruling) -> Result<(), RestoreError> {
        let Ruling { tenant, content } = ruling;
        let key = content.key();
        let fault = match &content {
            _ if self.rulings.get(&tenant, &key).is_some() => Some("it has two rows"),
            RulingContent::Order { order, .. } if order.since > self.wall => Some("it was given later than now"),
            RulingContent::Vigil(vigil) if vigil.since > Some(self.wall) => Some("it began later than now"),
            RulingContent::Vigil(vigil) if vigil.lapses.len() > WINDOW_PARTS as usize => Some("it counts too much"),
            RulingContent::Target { told, .. } if told.revision > self.revision => {
                Some("it was told what is not yet")
            }
            RulingContent::Order { .. }
            | RulingContent::Target { .. }
            | RulingContent::Trust { .. }
            | RulingContent::Ranking(_)
            | RulingContent::Protection(_)
            | RulingContent::Vigil(_)
            | RulingContent::Quota(_)
            | RulingContent::Checks(_) => None,
        };
        if let Some(fault) = fault {
            return Err(RestoreError::Ruling { tenant, key, fault });
        }
        if let RulingContent::Order { .. } = &content {
            self.rulings.count_maintenance(&tenant, true);
        }
        self.rulings.put(&tenant, content, &mut self.rows);
        self.rulings.touched.restored((tenant, key));
        Ok(())
    }

    /// Once all instances and all rulings are there.
    pub(super) fn finish_rulings(&mut self) -> Result<(), RestoreError> {
        for (tenant, own) in &self.rulings.tenants {
            if let Some(id) = own.absent.keys().find(|id| self.slot(tenant, id.as_str()).is_some()) {
                let (tenant, key) = (tenant.clone(), RulingKey::Order(id.clone()));
                return Err(RestoreError::Ruling { tenant, key, fault: "the instance is on the roll" });
            }
        }
        if let Some(tenant) = self.held.tenants().find(|tenant| self.rulings.vigil(tenant).is_none()) {
            let (tenant, key) = (tenant.clone(), RulingKey::Vigil);
            return Err(RestoreError::Ruling { tenant, key, fault: "it is missing, and there are suspects" });
        }
        let maintained =
            self.seats.iter().flatten().filter(|seat| seat.instance.seldom.orders().maintenance.is_some());
        for tenant in maintained.map(|seat| seat.instance.tenant.clone()).collect::<Vec<_>>() {
            self.rulings.count_maintenance(&tenant, true);
        }
        Ok(())
    }

    /// # Panics
    /// When the table contradicts itself or the roll.
    pub(super) fn assert_rulings(&self, sum: &mut RowSum) {
        let mut in_maintenance: BTreeMap<&TenantId, usize> = BTreeMap::new();
        for seat in self.seats.iter().flatten() {
            if seat.instance.seldom.orders().maintenance.is_some() {
                *in_maintenance.entry(&seat.instance.tenant).or_default() += 1;
            }
        }
        for (tenant, own) in &self.rulings.tenants {
            assert!(!own.is_empty(), "tenant {tenant} is kept without rulings");
            let mut trust_sum = RowSum::default();
            for content in own.contents() {
                let row = digest::of_ruling(&Ruling { tenant: tenant.clone(), content: content.clone() });
                sum.add(row);
                match content {
                    RulingContent::Order { id, .. } => {
                        assert_eq!(self.slot(tenant, id.as_str()), None, "{id} is on the roll, its order beside it");
                        *in_maintenance.entry(tenant).or_default() += 1;
                    }
                    RulingContent::Trust { .. } => trust_sum.add(row),
                    RulingContent::Ranking(_)
                    | RulingContent::Quota(_)
                    | RulingContent::Checks(_)
                    | RulingContent::Protection(_)
                    | RulingContent::Vigil(_)
                    | RulingContent::Target { .. } => {}
                }
            }
            assert_eq!(own.trust_sum, trust_sum, "tenant {tenant}: the sum of trust strayed");
        }
        let watched: Vec<_> = self.rulings.tenants.iter().filter(|(_, own)| own.vigil.is_some()).collect();
        assert!(watched.iter().map(|(tenant, _)| *tenant).eq(&self.rulings.watched), "vigils are overlooked");
        let alerted: Vec<_> = self.rulings.tenants.iter().filter(|(_, own)| !own.targets.is_empty()).collect();
        assert!(alerted.iter().map(|(tenant, _)| *tenant).eq(&self.rulings.alerted), "targets are overlooked");
        for tenant in self.held.tenants() {
            assert!(self.rulings.watched.contains(tenant), "tenant {tenant} has suspects and no vigil");
        }
        for (tenant, own) in &self.rulings.tenants {
            let counted = in_maintenance.remove(tenant).unwrap_or(0);
            assert_eq!(own.in_maintenance, counted, "tenant {tenant}: ids under maintenance are counted wrong");
        }
        assert_eq!(self.rulings.quotas, self.rulings.quotas().count(), "quotas are counted wrong");
        assert!(in_maintenance.is_empty(), "ids under maintenance are not counted");
    }
}

/// What a change within an incarnation is told as.
pub(super) fn change_kind(before: &Instance, after: &Instance) -> ChangeKind {
    let same = before.status() == after.status() && before.is_suspect() == after.is_suspect();
    if same { ChangeKind::Updated } else { ChangeKind::StatusChanged }
}
