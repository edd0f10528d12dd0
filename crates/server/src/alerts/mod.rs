//! Alerts: each change of an instance's condition is told once, in the log and to the tenant's targets.
//!
//! Whoever leads tells. Each node can tell what its leader did not: how far a target was told is part of the replicated state, and
//! what was told up to there is worked out again from the history. So a change of leader drops nothing that the history still
//! has, and repeats what was told since it was last noted.

mod courier;
pub(crate) mod message;
mod tracker;
pub(crate) mod webhook;

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rollcall_registry::{
    AlertTarget, Command, Protecting, Revision, RulingChange, State, TargetName, TenantId, ToldUpTo, WallTime,
};
use rollcall_replica::Replica;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use courier::{Address, Courier};
use message::Notice;
use tracker::{Alert, Tracker, Turn};
use webhook::Poster;

use crate::metrics::AlertMetrics;

/// What alerts are logged as, whatever else is logged.
const TARGET: &str = "alerts";

/// How often it is looked what has waited for long enough, who leads, and where alerts go.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);

/// After something was applied it is waited for so long: a leader that applies thousands of entries in a second, nearly all
/// of them heartbeats, is not to look after each of them.
const SETTLE: Duration = Duration::from_millis(20);

/// Changes that are looked at under one lock.
const STRETCH_CHANGES: usize = 1_024;

/// How often it is noted how far a target was told, if it was told of anything.
const NOTE_INTERVAL: Duration = Duration::from_secs(3);

/// And if it was not, after so many changes: long before the history forgets them.
const NOTE_CHANGES: u64 = 20_000;

/// How long noting may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Between two alerts about one instance in the log.
const LOG_INTERVAL_MS: u64 = 60_000;

/// What the leader before may not have logged any more is logged again.
const LOG_OVERLAP_MS: u64 = 3_000;

type Key = (TenantId, TargetName);

/// Follows the roll until `stop`, and tells while this node leads.
pub(crate) async fn run(replica: Replica, poster: Poster, metrics: AlertMetrics, stop: CancellationToken) {
    let mut applied = replica.roll().subscribe();
    let mut lead: Option<Lead> = None;
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            () = moved(&mut applied, lead.is_some()) => {}
        }
        let term = replica.leads();
        if lead.as_ref().map(|lead| lead.term) != term {
            // What the lead before had in hand is told by whoever leads now.
            lead = term.map(|term| Lead::begin(&replica, term, poster.clone(), metrics.clone()));
        }
        if let Some(lead) = &mut lead {
            lead.look(&replica).await;
        }
    }
    if let Some(lead) = &mut lead {
        lead.note(&replica, true).await;
    }
}

/// Until something was applied, where that is of interest, or it is time to look.
async fn moved(applied: &mut watch::Receiver<u64>, follows: bool) {
    let look = tokio::time::sleep(LOOK_INTERVAL);
    if !follows {
        return look.await;
    }
    tokio::select! {
        () = look => {}
        // Where nothing is applied any more the node is about to end.
        changed = applied.changed() => {
            let pause = if changed.is_ok() { SETTLE } else { LOOK_INTERVAL };
            tokio::time::sleep(pause).await;
        }
    }
}

fn wall() -> u64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX)
}

/// How often protection began, and whether it is in force.
fn stands(protecting: &Protecting) -> (u64, bool) {
    (protecting.begun, protecting.since.is_some())
}

/// What is to be told next of protection, and how it stands then, if anything is.
fn protection_step(told: (u64, bool), now: (u64, bool)) -> Option<((u64, bool), bool)> {
    let ((told_begun, told_in_force), (begun, in_force)) = (told, now);
    if begun < told_begun {
        // It was switched off meanwhile, and counts anew.
        return if told_in_force { Some(((0, false), false)) } else { protection_step((0, false), now) };
    }
    if begun > told_begun {
        return Some(((begun, true), true));
    }
    (told_in_force && !in_force).then_some(((begun, false), false))
}

/// One target that is told.
struct Line {
    target: AlertTarget,
    tracker: Tracker,
    courier: Courier,
    /// Changes up to here were looked at.
    seen: Revision,
    /// As was given to the courier last, and when.
    protection: (u64, bool),
    protection_at: u64,
    noted: ToldUpTo,
    noted_deliveries: u64,
}

impl Line {
    fn give(&self, alert: Alert) {
        self.courier.take(Notice::Instance(alert), self.seen, self.protection);
    }

    /// How far it was told, as it is to be noted.
    fn told(&self) -> ToldUpTo {
        let reached = self.courier.reached();
        let revision = reached.before.map_or(self.seen, |first| Revision(first.0.saturating_sub(1)));
        let (begun, in_force) = reached.protection;
        ToldUpTo { revision: revision.max(self.noted.revision), begun, in_force }
    }

    /// Tells what changed of the tenant's protection, no oftener than the target wants.
    fn look_at_protection(&mut self, now: &Protecting, at: u64) {
        if at < self.protection_at.saturating_add(self.target.interval_ms.into()) || self.courier.room() == 0 {
            return;
        }
        let Some((told, begins)) = protection_step(self.protection, stands(now)) else { return };
        let (begun, suspects) = (told.0, now.suspects);
        let at_wall = now.since.filter(|_| begins).unwrap_or(WallTime(at));
        let notice = match begins {
            true => Notice::Held { begun, at: at_wall, suspects },
            false => Notice::Released { begun: self.protection.0, at: at_wall },
        };
        (self.protection, self.protection_at) = (told, at);
        self.courier.take(notice, self.seen, told);
    }
}

/// What a leader knows of what is told.
struct Lead {
    term: u64,
    epoch: u64,
    poster: Poster,
    metrics: AlertMetrics,
    lines: BTreeMap<Key, Line>,
    log: Tracker,
    /// Changes up to here were looked at for the log.
    logged: Revision,
    /// How protection of each tenant stands in the log.
    protection: BTreeMap<TenantId, (u64, bool)>,
    looked: Option<Instant>,
    noted: Instant,
}

impl Lead {
    fn begin(replica: &Replica, term: u64, poster: Poster, metrics: AlertMetrics) -> Self {
        let (epoch, logged, protection) = replica.roll().read(|state| {
            let since = state.wall().0.saturating_sub(LOG_OVERLAP_MS);
            let changes = state.changes_after(state.oldest_known()).into_iter().flatten().rev();
            let late = changes.take_while(|change| change.wall.0 >= since).count() as u64;
            let protection = state.protections().map(|(tenant, stands_now)| (tenant.clone(), stands(&stands_now)));
            (state.epoch().0, Revision(state.revision().0 - late), protection.collect())
        });
        Self {
            term,
            epoch,
            poster,
            metrics,
            lines: BTreeMap::new(),
            log: Tracker::new(LOG_INTERVAL_MS),
            logged,
            protection,
            looked: None,
            noted: Instant::now(),
        }
    }

    async fn look(&mut self, replica: &Replica) {
        let is_first = self.looked.is_none();
        if self.looked.is_none_or(|looked| looked.elapsed() >= LOOK_INTERVAL) {
            self.looked = Some(Instant::now());
            let fresh = self.find_targets(replica);
            self.learn(replica, &fresh, is_first).await;
            self.pass_time(replica);
        }
        while self.follow(replica) {
            // A long stretch leaves room for whoever else runs here.
            tokio::task::yield_now().await;
        }
        if self.noted.elapsed() >= NOTE_INTERVAL {
            self.noted = Instant::now();
            self.note(replica, false).await;
        }
    }

    /// Takes in the targets as operators laid them down; answers those that are new here.
    fn find_targets(&mut self, replica: &Replica) -> Vec<Key> {
        let targets: BTreeMap<Key, (AlertTarget, ToldUpTo)> = replica.roll().read(|state| {
            let rulings = state.rulings();
            let each = rulings.alerted().flat_map(|tenant| rulings.targets(tenant).map(move |row| (tenant, row)));
            each.map(|(tenant, (name, target, told))| ((tenant.clone(), name.clone()), (target.clone(), told)))
                .collect()
        });
        self.lines.retain(|key, line| targets.get(key).is_some_and(|(target, _)| *target == line.target));
        let mut fresh = Vec::new();
        for (key, (target, told)) in targets {
            if self.lines.contains_key(&key) {
                continue;
            }
            let protection = (told.begun, told.in_force);
            let (tenant, name) = (key.0.clone(), key.1.to_string());
            let address = Address { tenant, name, target: target.clone(), epoch: self.epoch };
            let courier = Courier::start(address, protection, self.poster.clone(), self.metrics.clone());
            let tracker = Tracker::new(target.interval_ms.into());
            let line = Line {
                target,
                tracker,
                courier,
                seen: told.revision,
                protection,
                protection_at: 0,
                noted: told,
                noted_deliveries: 0,
            };
            self.lines.insert(key.clone(), line);
            fresh.push(key);
        }
        self.metrics.targets.set(self.lines.len() as i64);
        fresh
    }

    /// Works out from the history what was told before, for those that are new here.
    async fn learn(&mut self, replica: &Replica, fresh: &[Key], with_log: bool) {
        if fresh.is_empty() && !with_log {
            return;
        }
        let mut at = replica.roll().read(State::oldest_known);
        loop {
            let Some((turns, next, end)) = replica.roll().read(|state| stretch(state, at)) else {
                // The history begins later by now.
                at = replica.roll().read(State::oldest_known);
                continue;
            };
            for turn in &turns {
                let tenant = &turn.instance.tenant;
                let known = |seen: Revision| turn.revision <= seen;
                for key in fresh.iter().filter(|key| key.0 == *tenant) {
                    if let Some(line) = self.lines.get_mut(key).filter(|line| known(line.seen)) {
                        learn_turn(&mut line.tracker, turn);
                    }
                }
                if with_log && known(self.logged) {
                    learn_turn(&mut self.log, turn);
                }
            }
            at = next;
            if next >= end {
                return;
            }
            tokio::task::yield_now().await;
        }
    }

    /// Tells what has waited for long enough, and what became of protection.
    fn pass_time(&mut self, replica: &Replica) {
        let now = wall();
        for alert in self.log.due(now, usize::MAX) {
            log(&alert.instance.tenant, &Notice::Instance(alert.clone()));
        }
        let protections: BTreeMap<TenantId, Protecting> = replica.roll().read(|state| {
            let stand = state.protections().map(|(tenant, protecting)| (tenant.clone(), protecting));
            stand.collect()
        });
        for ((tenant, _), line) in &mut self.lines {
            for alert in line.tracker.due(now, line.courier.room()) {
                line.give(alert);
            }
            line.look_at_protection(protections.get(tenant).unwrap_or(&Protecting::default()), now);
        }
        for tenant in self.protection.keys().chain(protections.keys()).cloned().collect::<Vec<_>>() {
            let protecting = protections.get(&tenant).cloned().unwrap_or_default();
            let told = self.protection.get(&tenant).copied().unwrap_or_default();
            let Some((told, begins)) = protection_step(told, stands(&protecting)) else { continue };
            let (begun, at) = (told.0, WallTime(now));
            let suspects = protecting.suspects;
            let notice = if begins { Notice::Held { begun, at, suspects } } else { Notice::Released { begun, at } };
            log(&tenant, &notice);
            self.protection.insert(tenant, told);
        }
    }

    /// Takes in the next stretch of changes; answers whether there are more.
    fn follow(&mut self, replica: &Replica) -> bool {
        let mut more = false;
        // All that are up to date look at one stretch; who lags, because there was no room or it is new, at its own.
        let first = self.lines.values().filter(|line| line.courier.room() > 0).map(|line| line.seen);
        let from = first.min().map_or(self.logged, |first| first.min(self.logged));
        let Some((turns, next, end)) = replica.roll().read(|state| stretch(state, from)) else {
            self.lose(replica, from);
            return true;
        };
        more |= next < end;
        for turn in &turns {
            if turn.revision > self.logged
                && let Some(alert) = self.log.turn(turn)
            {
                log(&turn.instance.tenant, &Notice::Instance(alert));
            }
        }
        self.logged = self.logged.max(next);
        for ((tenant, _), line) in &mut self.lines {
            if line.seen < from || line.seen >= next {
                continue;
            }
            let mut has_room = true;
            let seen = line.seen;
            for turn in turns.iter().filter(|turn| turn.revision > seen && turn.instance.tenant == *tenant) {
                if line.courier.room() == 0 {
                    has_room = false;
                    break;
                }
                line.seen = turn.revision;
                if let Some(alert) = line.tracker.turn(turn) {
                    line.give(alert);
                }
            }
            if has_room {
                line.seen = next;
            }
        }
        more
    }

    /// The history no longer has what comes after a revision: says so to whom it was not told.
    fn lose(&mut self, replica: &Replica, from: Revision) {
        let (oldest, revision) = replica.roll().read(|state| (state.oldest_known(), state.revision()));
        // Either it has begun later since, or the roll was replaced by one that does not reach as far.
        let to = if from < oldest { oldest } else { revision };
        self.logged = if self.logged < oldest { oldest } else { self.logged.min(revision) };
        for line in self.lines.values_mut().filter(|line| line.seen < oldest || line.seen > revision) {
            let notice = Notice::Lost { from: line.seen, to, at: WallTime(wall()) };
            line.seen = to;
            line.tracker = Tracker::new(line.target.interval_ms.into());
            line.courier.take(notice, to, line.protection);
        }
    }

    /// Has it noted how far each target was told.
    async fn note(&mut self, replica: &Replica, ends: bool) {
        let deadline = Instant::now() + PATIENCE;
        for ((tenant, name), line) in &mut self.lines {
            let (told, deliveries) = (line.told(), line.courier.reached().deliveries);
            let is_much = told.revision.0 - line.noted.revision.0 >= NOTE_CHANGES;
            if told == line.noted || (deliveries == line.noted_deliveries && !is_much) {
                continue;
            }
            let change = RulingChange::Told { name: name.clone(), told };
            let command = Command::Rule { tenant: tenant.clone(), change };
            match replica.submit(command, deadline).await {
                Ok(_) => (line.noted, line.noted_deliveries) = (told, deliveries),
                Err(error) => {
                    tracing::debug!(%error, ends, "how far a target was told is not noted; it will be told again");
                    return;
                }
            }
        }
    }
}

fn learn_turn(tracker: &mut Tracker, turn: &Turn) {
    tracker.due(turn.wall.0, usize::MAX);
    tracker.turn(turn);
}

/// What may be of interest of the next changes after a revision, up to where that is, and the newest revision; none if
/// some of them are forgotten, or the roll does not reach there.
fn stretch(state: &State, after: Revision) -> Option<(Vec<Turn>, Revision, Revision)> {
    let revision = state.revision();
    if after > revision {
        return None;
    }
    let turns = state.changes_after(after)?.take(STRETCH_CHANGES).filter_map(|change| Turn::of(&change)).collect();
    let next = Revision(after.0.saturating_add(STRETCH_CHANGES as u64).min(revision.0));
    Some((turns, next, revision))
}

fn log(tenant: &TenantId, notice: &Notice) {
    let (kind, summary) = (notice.kind(), notice.summary());
    let (id, revision) = match notice {
        Notice::Instance(alert) => (Some(alert.instance.id()), Some(alert.revision.0)),
        _ => (None, None),
    };
    let is_quiet = match notice {
        Notice::Instance(alert) => alert.now.is_quiet(),
        Notice::Released { .. } | Notice::Test { .. } => true,
        Notice::Held { .. } | Notice::Lost { .. } => false,
    };
    if is_quiet {
        tracing::info!(target: TARGET, %tenant, kind = kind.as_str(), id, revision, "{summary}");
    } else {
        tracing::warn!(target: TARGET, %tenant, kind = kind.as_str(), id, revision, "{summary}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn protection_is_told_step_by_step() {
        let steps = |mut told: (u64, bool), now: (u64, bool)| {
            let mut steps = Vec::new();
            while let Some((next, begins)) = protection_step(told, now) {
                steps.push((next, begins));
                told = next;
                assert!(steps.len() < 5, "{steps:?}");
            }
            steps
        };
        assert_eq!(steps((0, false), (0, false)), []);
        assert_eq!(steps((0, false), (1, true)), [((1, true), true)]);
        assert_eq!(steps((1, true), (1, false)), [((1, false), false)]);
        // Over again before anybody looked.
        assert_eq!(steps((1, false), (2, false)), [((2, true), true), ((2, false), false)]);
        assert_eq!(steps((1, true), (3, true)), [((3, true), true)]);
        // Switched off, and perhaps on again.
        assert_eq!(steps((2, true), (0, false)), [((0, false), false)]);
        assert_eq!(steps((2, false), (0, false)), []);
        assert_eq!(steps((2, false), (1, true)), [((1, true), true)]);
    }
}
