//! What operators lay down and checks find, as plainly as can be.

use std::collections::BTreeMap;

use rollcall_registry::{
    AlertForm, AlertSecret, AlertTarget, ChangeKind, CheckScope, Command, InstanceId, LeaseId, Observed, Order,
    OrderKind, Orders, Outcome, OwnerName, Place, Presence, Quota, QuotaKind, RankWeights, Ranking, Refusal,
    Registration, Revision, Ruled, Ruling, RulingChange, RulingContent, State, Status, TargetName, TenantChecks,
    TenantId, ToldUpTo, Trust, Verdict,
};

use crate::model::{Entry, Key, Model, check_lease};
use crate::protection::{self, Protections};
use crate::random::{CAPABILITIES, OWNERS, REGIONS, Random, ZONES, id, tenant};

/// The table beside the roll.
#[derive(Default)]
pub(crate) struct Rulings {
    absent: BTreeMap<Key, Order>,
    trust: BTreeMap<(TenantId, OwnerName), Trust>,
    ranking: BTreeMap<TenantId, RankWeights>,
    quotas: BTreeMap<TenantId, Quota>,
    checks: BTreeMap<TenantId, TenantChecks>,
    targets: BTreeMap<(TenantId, TargetName), (AlertTarget, ToldUpTo)>,
}

impl Rulings {
    pub(crate) fn agrees_with(&self, protections: &Protections, state: &State) {
        let orders = self.absent.iter().map(|((tenant, id), order)| Ruling {
            tenant: tenant.clone(),
            content: RulingContent::Order { id: id.clone(), order: order.clone() },
        });
        let trust = self.trust.iter().map(|((tenant, owner), trust)| Ruling {
            tenant: tenant.clone(),
            content: RulingContent::Trust { owner: owner.clone(), trust: *trust },
        });
        let ranking = self
            .ranking
            .iter()
            .map(|(tenant, weights)| Ruling { tenant: tenant.clone(), content: RulingContent::Ranking(*weights) });
        let quotas = self
            .quotas
            .iter()
            .map(|(tenant, quota)| Ruling { tenant: tenant.clone(), content: RulingContent::Quota(*quota) });
        let checks = self
            .checks
            .iter()
            .map(|(tenant, checks)| Ruling { tenant: tenant.clone(), content: RulingContent::Checks(*checks) });
        let targets = self.targets.iter().map(|((tenant, name), (target, told))| Ruling {
            tenant: tenant.clone(),
            content: RulingContent::Target { name: name.clone(), target: target.clone(), told: *told },
        });
        let of_tenants = ranking.chain(quotas).chain(checks).chain(targets).chain(protections.rows());
        let mut expected: Vec<_> = orders.chain(trust).chain(of_tenants).collect();
        let mut found: Vec<_> = state.all_rulings().collect();
        let key = |ruling: &Ruling| (ruling.tenant.clone(), ruling.content.key());
        expected.sort_by_key(key);
        found.sort_by_key(key);
        assert_eq!(found, expected);
    }
}

/// The status that others see, worked out the other way round: each opinion overrules those before it.
pub(crate) fn shown_status(entry: &Entry) -> Status {
    let mut shown = match entry.observed.map(|observed| observed.verdict) {
        None | Some(Verdict::Healthy) => Status::Active,
        Some(Verdict::Degraded) => Status::Degraded,
        Some(Verdict::Error) => Status::Error,
    };
    if entry.status != Status::Active && !(entry.status == Status::Degraded && shown == Status::Error) {
        shown = entry.status;
    }
    if entry.orders.maintenance.is_some() || entry.orders.drain.is_some() {
        shown = Status::Maintenance;
    }
    if entry.presence == Presence::Lapsed { Status::Offline } else { shown }
}

fn set(orders: &mut Orders, kind: OrderKind, order: Option<Order>) {
    match kind {
        OrderKind::Maintenance => orders.maintenance = order,
        OrderKind::Drain => orders.drain = order,
    }
}

impl Model {
    pub(crate) fn rule(&mut self, tenant: &TenantId, change: &RulingChange) -> Result<Outcome, Refusal> {
        let revision = self.revision();
        let unless_same = |same: bool| Outcome::Ruled(Ruled { changed: !same, revision });
        let rulings = &mut self.rulings;
        match change {
            RulingChange::Trust { owner, trust } => {
                let key = (tenant.clone(), owner.clone());
                let before = rulings.trust.remove(&key);
                trust.map(|trust| rulings.trust.insert(key, trust));
                Ok(unless_same(before == *trust))
            }
            RulingChange::Ranking(weights) => {
                let before = rulings.ranking.remove(tenant);
                weights.map(|weights| rulings.ranking.insert(tenant.clone(), weights));
                Ok(unless_same(before == *weights))
            }
            RulingChange::Quota(quota) => {
                let before = rulings.quotas.remove(tenant);
                quota.map(|quota| rulings.quotas.insert(tenant.clone(), quota));
                Ok(unless_same(before == *quota))
            }
            RulingChange::Checks(checks) => {
                let before = rulings.checks.remove(tenant);
                checks.map(|checks| rulings.checks.insert(tenant.clone(), checks));
                Ok(unless_same(before == *checks))
            }
            RulingChange::Protection(_) | RulingChange::Release => Ok(self.protect(tenant, change)),
            RulingChange::Target { name, target: None } => {
                Ok(unless_same(rulings.targets.remove(&(tenant.clone(), name.clone())).is_none()))
            }
            RulingChange::Target { name, target: Some(target) } => {
                let (begun, in_force) = self.protections.stands(tenant);
                let key = (tenant.clone(), name.clone());
                let before = rulings.targets.get(&key).cloned();
                let told = before.as_ref().map_or(ToldUpTo { revision, begun, in_force }, |(_, told)| *told);
                rulings.targets.insert(key, (target.clone(), told));
                Ok(unless_same(before.is_some_and(|(before, _)| before == *target)))
            }
            RulingChange::Told { name, told } => {
                let own = rulings.targets.get_mut(&(tenant.clone(), name.clone()));
                let own = own.filter(|own| (own.1.revision..=revision).contains(&told.revision) && own.1 != *told);
                let same = own.is_none();
                own.into_iter().for_each(|own| own.1 = *told);
                Ok(unless_same(same))
            }
            RulingChange::Give { id, kind, reason } => {
                let reason = reason.clone();
                self.order(tenant, id, *kind, |before, wall| {
                    let since = before.map_or(wall, |before| before.since);
                    Some(Order { reason, since })
                })
            }
            RulingChange::Lift { id, kind } => self.order(tenant, id, *kind, |_, _| None),
        }
    }

    fn order(
        &mut self,
        tenant: &TenantId,
        id: &InstanceId,
        kind: OrderKind,
        change: impl FnOnce(Option<&Order>, rollcall_registry::WallTime) -> Option<Order>,
    ) -> Result<Outcome, Refusal> {
        let (key, wall) = ((tenant.clone(), id.clone()), self.wall);
        let Some(entry) = self.roll.get(&key).cloned() else {
            let before = self.rulings.absent.get(&key).filter(|_| kind == OrderKind::Maintenance).cloned();
            let before = before.ok_or(Refusal::NotRegistered)?;
            let after = change(Some(&before), wall);
            let changed = after.as_ref() != Some(&before);
            self.rulings.absent.remove(&key);
            after.map(|after| self.rulings.absent.insert(key, after));
            return Ok(Outcome::Ruled(Ruled { changed, revision: self.revision() }));
        };
        let mut after = entry.clone();
        set(&mut after.orders, kind, change(entry.orders.get(kind), wall));
        let changed = after.orders != entry.orders;
        if changed {
            self.change_within(&key, &entry, after);
        }
        Ok(Outcome::Ruled(Ruled { changed, revision: self.roll[&key].revision }))
    }

    pub(crate) fn observe(
        &mut self,
        tenant: &TenantId,
        id: &InstanceId,
        lease: LeaseId,
        verdict: Option<Verdict>,
    ) -> Result<Outcome, Refusal> {
        let key = (tenant.clone(), id.clone());
        let entry = self.roll.get(&key).ok_or(Refusal::NotRegistered)?.clone();
        check_lease(&entry, Some(lease))?;
        if entry.observed.map(|observed| observed.verdict) != verdict {
            let observed = verdict.map(|verdict| Observed { verdict, since: self.wall });
            self.change_within(&key, &entry, Entry { observed, ..entry.clone() });
        }
        Ok(Outcome::Observed { revision: self.roll[&key].revision })
    }

    /// Whether so many bytes may stand in the place of what stands there. All of the tenant's entries are counted anew.
    pub(crate) fn check_quota(&self, key: &Key, after: u64) -> Result<(), Refusal> {
        let Some(quota) = self.rulings.quotas.get(&key.0) else { return Ok(()) };
        let own: Vec<_> = self.roll.iter().filter(|((tenant, _), _)| *tenant == key.0).collect();
        let before = self.roll.get(key).map_or(0, bytes);
        let (count, sum) = (own.len() as u64, own.into_iter().map(|(_, entry)| bytes(entry)).sum::<u64>());
        let is_new = !self.roll.contains_key(key);
        let judged = [
            (QuotaKind::Registrations, quota.registrations, count, count + u64::from(is_new), is_new),
            (QuotaKind::Bytes, quota.bytes, sum, sum + after - before, after > before),
        ];
        for (kind, limit, used, wanted, grows) in judged {
            if let Some(limit) = limit.filter(|limit| grows && wanted > *limit) {
                return Err(Refusal::QuotaExceeded { kind, limit, used });
            }
        }
        Ok(())
    }

    pub(crate) fn change_within(&mut self, key: &Key, before: &Entry, after: Entry) {
        let is_suspect = |entry: &Entry| entry.presence == Presence::Suspect;
        let same = before.shown_status() == after.shown_status() && is_suspect(before) == is_suspect(&after);
        self.change(key, after, if same { ChangeKind::Updated } else { ChangeKind::StatusChanged });
    }

    /// The orders that an id comes back to.
    pub(crate) fn resume_orders(&mut self, key: &Key) -> Orders {
        Orders { maintenance: self.rulings.absent.remove(key), drain: None }
    }

    pub(crate) fn keep_orders(&mut self, key: &Key, entry: &Entry) {
        if let Some(order) = entry.orders.maintenance.clone() {
            self.rulings.absent.insert(key.clone(), order);
        }
    }

    /// In millionths, from the words of the documents.
    pub(crate) fn score(&self, tenant: &TenantId, ranking: &Ranking, entry: &Entry) -> u32 {
        let registration = &entry.registration;
        let weights = ranking.weights.or_else(|| self.rulings.ranking.get(tenant).copied()).unwrap_or_default();
        let weights = <[u16; 4]>::from(weights).map(u64::from);
        let has = |name: &str| registration.capabilities.iter().any(|capability| *capability.name == *name);
        let there = ranking.preferred.iter().filter(|name| has(name)).count() as u64;
        let capability = (there * 1_000).checked_div(ranking.preferred.len() as u64).unwrap_or(1_000);
        let health = match entry.shown_status() {
            Status::Active => 1_000,
            Status::Degraded => 500,
            Status::Maintenance => 300,
            Status::Error => 100,
            Status::Offline => 0,
        };
        let Place { region, zone, .. } = &ranking.requester;
        let same = |own: &Option<Box<str>>, other: &Option<Box<str>>| Some(own.as_ref()? == other.as_ref()?);
        let (region, zone) = (same(region, &registration.extras.region), same(zone, &registration.extras.zone));
        let proximity = match (region, zone) {
            (Some(true) | None, Some(true)) => 1_000,
            (Some(true), _) => 800,
            (Some(false), _) | (None, Some(false)) => 200,
            (None, None) => 500,
        };
        let owner = registration.owner.as_deref().and_then(|owner| OwnerName::parse(owner).ok());
        let trust = owner.and_then(|owner| self.rulings.trust.get(&(tenant.clone(), owner)));
        let trust = trust.map_or(500, |trust| u64::from(trust.hundredths()));
        let parts = [capability, health, proximity, trust];
        let sum: u64 = weights.iter().zip(parts).map(|(weight, part)| weight * part).sum();
        (sum * 1_000 / weights.iter().sum::<u64>()) as u32
    }
}

/// A question's ranking.
pub(crate) fn ranking(random: &mut Random) -> Ranking {
    if random.once_in(2) {
        return Ranking::default();
    }
    let requester = Place {
        region: random.once_in(2).then(|| random.pick(REGIONS).into()),
        zone: random.once_in(2).then(|| random.pick(ZONES).into()),
        coordinates: None,
    };
    let mut preferred: Vec<Box<str>> = random.some(CAPABILITIES, 0, 3).into_iter().map(Box::from).collect();
    preferred.sort();
    preferred.dedup();
    Ranking { weights: random.once_in(3).then(|| weights(random)), preferred, requester }
}

pub(crate) fn bytes(entry: &Entry) -> u64 {
    let reported = entry.reported.iter().map(|(key, (value, _))| key.len() + value.len()).sum::<usize>() as u64;
    registered_bytes(&entry.registration) + reported
}

pub(crate) fn registered_bytes(registration: &Registration) -> u64 {
    registration.pack().bytes() as u64
}

/// Tight enough that a handful of entries comes to it.
fn quota(random: &mut Random) -> Quota {
    let registrations = random.once_in(2).then(|| random.below(8));
    let bytes = random.once_in(2).then(|| random.below(600));
    Quota { registrations, bytes, watchers: None, requests_per_second: random.once_in(3).then_some(7) }
}

fn weights(random: &mut Random) -> RankWeights {
    let each = [(); 4].map(|()| random.pick(&[0, 1, 500, 1_000]));
    RankWeights::try_from(each).unwrap_or_default()
}

fn target(random: &mut Random, revision: u64) -> RulingChange {
    let name = TargetName::parse(random.pick(&["pager", "chat"])).expect("a plain name");
    if random.once_in(2) {
        let revision = Revision((revision + 1).saturating_sub(random.below(12)));
        let told = ToldUpTo { revision, begun: random.below(2), in_force: random.once_in(2) };
        return RulingChange::Told { name, told };
    }
    let target = AlertTarget {
        url: random.pick(&["http://a", "http://b"]).into(),
        form: random.pick(AlertForm::ALL),
        secret: AlertSecret::parse("a secret of some length").expect("long enough"),
        interval_ms: random.pick(&[0, 60_000]),
    };
    RulingChange::Target { name, target: (!random.once_in(4)).then_some(target) }
}

pub(crate) fn command(random: &mut Random, revision: u64) -> Command {
    let (tenant, kind) = (tenant(random), random.pick(OrderKind::ALL));
    let change = match random.below(14) {
        0 | 1 => {
            let lease = LeaseId((revision + 1).saturating_sub(random.below(12)));
            if random.once_in(4) {
                return Command::Unchecked { tenant, id: id(random), lease };
            }
            return Command::Observe { tenant, id: id(random), lease, verdict: random.pick(Verdict::ALL) };
        }
        2 | 3 => {
            let reason = random.once_in(2).then(|| random.pick(&["a", "b"]).into());
            RulingChange::Give { id: id(random), kind, reason }
        }
        4 | 5 => RulingChange::Lift { id: id(random), kind },
        6 => RulingChange::Trust {
            owner: OwnerName::parse(random.pick(OWNERS)).expect("a plain name"),
            trust: random.once_in(3).then(|| Trust::try_from(random.pick(&[0, 400, 1_000])).expect("up to ten")),
        },
        // Now and then none, so that there are times without.
        7 => RulingChange::Quota((!random.once_in(3)).then(|| quota(random))),
        8 => RulingChange::Checks(random.once_in(2).then(|| TenantChecks {
            scope: random.pick(CheckScope::ALL),
            interval_ms: random.pick(&[None, Some(1_000)]),
        })),
        9 | 10 => protection::change(random),
        11 => target(random, revision),
        _ => RulingChange::Ranking(random.once_in(2).then(|| weights(random))),
    };
    Command::Rule { tenant, change }
}
