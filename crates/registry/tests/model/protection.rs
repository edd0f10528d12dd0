//! Protection from a mass expiry, as plainly as can be: every lapse that was not protected is remembered by its time.

use std::collections::BTreeMap;

use rollcall_registry::{
    ChangeKind, ClusterTime, Outcome, Presence, Protection, Ruled, Ruling, RulingChange, RulingContent, TenantId,
    Vigil, WallTime,
};

use crate::model::{Entry, Key, Model};
use crate::random::Random;

#[derive(Default)]
pub(crate) struct Protections {
    laid_down: BTreeMap<TenantId, Protection>,
    watches: BTreeMap<TenantId, Watch>,
}

#[derive(Clone, Default)]
struct Watch {
    begun: u64,
    since: Option<WallTime>,
    look: ClusterTime,
    release: ClusterTime,
    freed: bool,
    quiet_until: ClusterTime,
    /// Unprotected lapses since the last protection, and since it was laid down otherwise.
    lapses: Vec<ClusterTime>,
}

fn part(protection: Protection, at: ClusterTime) -> u64 {
    at.0 * 16 / u64::from(protection.window_ms())
}

fn after(now: ClusterTime, protection: Protection) -> ClusterTime {
    ClusterTime(now.0 + u64::from(60_000u32.div_ceil(protection.release_per_minute())))
}

impl Protections {
    /// How often a tenant's began, and whether it is in force.
    pub(crate) fn stands(&self, tenant: &TenantId) -> (u64, bool) {
        self.watches.get(tenant).map_or((0, false), |watch| (watch.begun, watch.since.is_some()))
    }

    pub(crate) fn rows(&self) -> impl Iterator<Item = Ruling> {
        let laid_down = self.laid_down.iter().map(|(tenant, protection)| Ruling {
            tenant: tenant.clone(),
            content: RulingContent::Protection(*protection),
        });
        let vigils = self.watches.iter().map(|(tenant, watch)| {
            let mut lapses: BTreeMap<u64, u32> = BTreeMap::new();
            if let Some(protection) = self.laid_down.get(tenant) {
                watch.lapses.iter().for_each(|at| *lapses.entry(part(*protection, *at)).or_default() += 1);
            }
            // What is too old is forgotten with the next that comes.
            let newest = lapses.keys().next_back().copied().unwrap_or(0);
            let vigil = Vigil {
                begun: watch.begun,
                since: watch.since,
                next_look: watch.look,
                next_release: watch.release,
                freed: watch.freed,
                quiet_until: watch.quiet_until,
                lapses: lapses.into_iter().filter(|(part, _)| part + 16 > newest).collect(),
            };
            Ruling { tenant: tenant.clone(), content: RulingContent::Vigil(vigil) }
        });
        laid_down.chain(vigils)
    }
}

impl Model {
    fn suspects(&self, tenant: &TenantId) -> Vec<Key> {
        let own = self.roll.iter().filter(|(key, entry)| key.0 == *tenant && entry.presence == Presence::Suspect);
        let mut own: Vec<_> = own.map(|(key, entry)| (self.deadlines[key], entry.lease, key.clone())).collect();
        own.sort();
        own.into_iter().map(|(_, _, key)| key).collect()
    }

    pub(crate) fn protect(&mut self, tenant: &TenantId, change: &RulingChange) -> Outcome {
        let (revision, now) = (self.revision(), self.now);
        let held = !self.suspects(tenant).is_empty();
        let protections = &mut self.protections;
        let before = protections.laid_down.get(tenant).copied();
        let watch = protections.watches.get_mut(tenant);
        let changed = match change {
            RulingChange::Protection(Some(protection)) => {
                protections.laid_down.insert(tenant.clone(), *protection);
                if let Some(watch) = watch.filter(|_| before != Some(*protection)) {
                    watch.lapses.clear();
                    watch.release = watch.release.min(after(now, *protection));
                }
                before != Some(*protection)
            }
            RulingChange::Protection(None) => {
                protections.laid_down.remove(tenant);
                if let Some(watch) = watch.filter(|_| before.is_some()) {
                    watch.lapses.clear();
                    (watch.since, watch.freed, watch.release) = (None, true, watch.release.min(now));
                    if !held {
                        protections.watches.remove(tenant);
                    }
                }
                before.is_some()
            }
            _ => match watch {
                Some(watch) if watch.since.is_some() || (held && !watch.freed) => {
                    let window_ms = before.map_or(0, Protection::window_ms);
                    watch.quiet_until = ClusterTime(now.0 + u64::from(window_ms));
                    (watch.since, watch.freed, watch.release) = (None, true, watch.release.min(now));
                    true
                }
                _ => false,
            },
        };
        Outcome::Ruled(Ruled { changed, revision })
    }

    pub(crate) fn protection_due(&self) -> Option<ClusterTime> {
        let watches = self.protections.watches.iter();
        let due = watches.flat_map(|(tenant, watch)| {
            let release = (!self.suspects(tenant).is_empty()).then_some(watch.release);
            [watch.since.map(|_| watch.look), release]
        });
        due.flatten().min()
    }

    /// Silent ones of how many.
    fn silent(&self, tenant: &TenantId, protection: Protection) -> (u64, u64) {
        let own = self.roll.iter().filter(|(key, entry)| key.0 == *tenant && entry.presence != Presence::Lapsed);
        let leases: Vec<_> = own
            .map(|(key, entry)| (self.deadlines[key].0.saturating_sub(self.now.0), entry.registration.ttl_ms))
            .collect();
        let window_ms = u64::from(protection.window_ms());
        let silent = leases.iter().filter(|(left, ttl)| *left <= window_ms && *left <= u64::from(*ttl / 2)).count();
        (silent as u64, leases.len() as u64)
    }

    fn end_protections(&mut self, up_to: ClusterTime) {
        let tenants: Vec<_> = self.protections.watches.keys().cloned().collect();
        for tenant in tenants {
            let nobody = self.suspects(&tenant).is_empty();
            let Some(protection) = self.protections.laid_down.get(&tenant).copied() else {
                if nobody {
                    self.protections.watches.remove(&tenant);
                }
                continue;
            };
            let (silent, leases) = self.silent(&tenant, protection);
            let watch = self.protections.watches.get_mut(&tenant).expect("it is there");
            if watch.since.is_some() && watch.look <= up_to {
                watch.look = ClusterTime(self.now.0 + 1_000);
                if 2 * silent * 1_000 <= leases * u64::from(protection.share_permille()) {
                    watch.since = None;
                }
            }
        }
    }

    /// Whether what is due of a tenant is held.
    fn holds(&mut self, tenant: &TenantId) -> bool {
        let Some(protection) = self.protections.laid_down.get(tenant).copied() else { return false };
        let (silent, leases) = self.silent(tenant, protection);
        let (now, wall) = (self.now, self.wall);
        let watch = self.protections.watches.get(tenant).cloned().unwrap_or_default();
        if watch.since.is_some() || now < watch.quiet_until {
            return watch.since.is_some();
        }
        let lately = watch.lapses.iter().filter(|at| part(protection, **at) + 16 > part(protection, now)).count();
        let (silent, leases) = (silent + lately as u64, leases + lately as u64);
        let begins = leases >= u64::from(protection.leases_min())
            && silent * 1_000 > leases * u64::from(protection.share_permille());
        if begins {
            let watch = Watch {
                begun: watch.begun + 1,
                since: Some(wall),
                look: ClusterTime(now.0 + 1_000),
                release: after(now, protection),
                ..Watch::default()
            };
            self.protections.watches.insert(tenant.clone(), watch);
        }
        begins
    }

    pub(crate) fn expire(&mut self, up_to: ClusterTime, limit: u32) -> Outcome {
        let up_to = up_to.min(self.now);
        self.end_protections(up_to);
        let (mut count, mut judged, mut lapses) = (0, BTreeMap::new(), Vec::new());
        let more = loop {
            let scheduled = self.roll.iter().filter(|(_, entry)| entry.presence != Presence::Suspect);
            let due = scheduled.map(|(key, entry)| (self.due(key, entry), entry.lease, key));
            let due = due.min().filter(|(due, ..)| *due <= up_to).map(|(_, _, key)| key.clone());
            let released = || {
                let watches = self.protections.watches.iter().filter(|(_, watch)| watch.release <= up_to);
                watches.filter_map(|(tenant, _)| self.suspects(tenant).into_iter().next()).next()
            };
            let Some((key, is_due)) = due.map(|key| (key, true)).or_else(|| Some((released()?, false))) else {
                break false;
            };
            if count == limit {
                break true;
            }
            count += 1;
            let entry = self.roll[&key].clone();
            if !is_due {
                self.let_go(&key, entry, up_to);
            } else if entry.presence == Presence::Lapsed {
                self.remove(&key, ChangeKind::Expired);
            } else if *judged.entry(key.0.clone()).or_insert_with_key(|tenant| self.holds(tenant)) {
                if self.suspects(&key.0).is_empty() {
                    let protection = self.protections.laid_down[&key.0];
                    let watch = self.protections.watches.get_mut(&key.0).expect("it is in force");
                    watch.release = watch.release.max(after(self.now, protection));
                }
                let entry = Entry { presence: Presence::Suspect, ..entry };
                self.change(&key, entry, ChangeKind::StatusChanged);
            } else {
                lapses.push(key.0.clone());
                self.lapse(&key, entry);
            }
        };
        for tenant in lapses.into_iter().filter(|tenant| self.protections.laid_down.contains_key(tenant)) {
            let quiet_until = self.protections.watches.get(&tenant).map_or(ClusterTime(0), |watch| watch.quiet_until);
            if self.now >= quiet_until {
                self.protections.watches.entry(tenant).or_default().lapses.push(self.now);
            }
        }
        Outcome::Expired { count, more }
    }

    fn let_go(&mut self, key: &Key, entry: Entry, up_to: ClusterTime) {
        let protection = self.protections.laid_down.get(&key.0).copied();
        self.deadlines.insert(key.clone(), self.now);
        self.lapse(key, entry);
        let is_last = self.suspects(&key.0).is_empty();
        let watch = self.protections.watches.get_mut(&key.0).expect("suspects are watched");
        match protection {
            Some(protection) if !watch.freed => {
                watch.release = after(watch.release, protection).max(ClusterTime(up_to.0.saturating_sub(1_000)));
            }
            None if is_last => drop(self.protections.watches.remove(&key.0)),
            _ => {}
        }
    }

    fn lapse(&mut self, key: &Key, entry: Entry) {
        if entry.registration.reap_after_ms == 0 {
            self.remove(key, ChangeKind::Expired);
        } else {
            self.change(key, Entry { presence: Presence::Lapsed, ..entry }, ChangeKind::StatusChanged);
        }
    }
}

pub(crate) fn change(random: &mut Random) -> RulingChange {
    match random.below(6) {
        0 => RulingChange::Release,
        1 => RulingChange::Protection(None),
        _ => {
            let parts = [
                random.pick(&[1, 300, 600, 999]),
                random.pick(&[1_000, 3_000]),
                random.pick(&[40, 60, 600]),
                random.pick(&[1, 2, 3]),
            ];
            RulingChange::Protection(Some(Protection::try_from(parts).expect("within bounds")))
        }
    }
}
