//! What a node checks: its share, with when each is due and what was last found. Plain state: the time comes in as a tick.

use std::collections::hash_map::Entry as MapEntry;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use jiff::Timestamp;
use rollcall_api::CheckResult;
use rollcall_registry::{InstanceId, LeaseId, TenantId};
use slab::Slab;

use super::finding::{Finding, rounded};
use super::plan::Plan;
use super::share;
use super::verdict::Streak;
use crate::translate;

/// How finely checks are spread.
pub(super) const TICK_MS: u64 = 100;

/// What one node checks: at the shortest interval far more than it could.
pub(super) const TARGETS_MAX: usize = 100_000;

pub(super) type Name = Arc<(TenantId, InstanceId)>;

type Slot = usize;

#[derive(Debug)]
pub(super) struct Table {
    by_name: HashMap<Name, Slot>,
    targets: Slab<Target>,
    /// All that are not being checked, by when they are due.
    due: BTreeSet<(u64, Slot)>,
    /// Given to each target that is put in, so that none is taken for one that had its slot before.
    next_number: u64,
    /// Counted up by each look at the whole roll.
    round: u64,
    targets_max: usize,
}

#[derive(Debug)]
struct Target {
    name: Name,
    number: u64,
    lease: LeaseId,
    plan: Arc<Plan>,
    streak: Streak,
    latest: Option<Latest>,
    /// When it is, or was, due.
    due: u64,
    is_in_work: bool,
    seen: u64,
}

#[derive(Clone, Debug)]
struct Latest {
    at: Timestamp,
    finding: Finding,
}

/// A check that is to be made now.
#[derive(Clone, Debug)]
pub(super) struct Work {
    slot: Slot,
    number: u64,
    pub(super) name: Name,
    pub(super) lease: LeaseId,
    pub(super) plan: Arc<Plan>,
    /// How many ticks ago it was due.
    pub(super) late: u64,
}

/// What became of putting something in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Put {
    /// It is checked, now or as before.
    In,
    /// There is no room.
    Full,
}

impl Default for Table {
    fn default() -> Self {
        Self::with_room(TARGETS_MAX)
    }
}

impl Table {
    fn with_room(targets_max: usize) -> Self {
        Self {
            by_name: HashMap::new(),
            targets: Slab::new(),
            due: BTreeSet::new(),
            next_number: 0,
            round: 0,
            targets_max,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.targets.len()
    }

    /// Has an incarnation checked by a plan. What is so already goes on as it was.
    pub(super) fn put(&mut self, name: (TenantId, InstanceId), lease: LeaseId, plan: Plan, now: u64) -> Put {
        let known = self.by_name.get(&name).copied();
        if let Some(target) = known.map(|slot| &mut self.targets[slot])
            && target.lease == lease
            && *target.plan == plan
        {
            target.seen = self.round;
            return Put::In;
        }
        if let Some(slot) = known {
            self.take_out(slot);
        }
        if self.targets.len() >= self.targets_max {
            return Put::Full;
        }
        // Each at its own time within the interval, so that neither a start nor a failover has all of them checked at once.
        let interval = ticks(plan.interval_ms);
        let due = now + share::hash(1, &name.0, name.1.as_str()) % interval;
        let name = Name::new(name);
        self.next_number += 1;
        let slot = self.targets.insert(Target {
            name: name.clone(),
            number: self.next_number,
            lease,
            plan: Arc::new(plan),
            streak: Streak::default(),
            latest: None,
            due,
            is_in_work: false,
            seen: self.round,
        });
        self.due.insert((due, slot));
        self.by_name.insert(name, slot);
        Put::In
    }

    pub(super) fn remove(&mut self, name: (TenantId, InstanceId)) {
        if let MapEntry::Occupied(entry) = self.by_name.entry(Name::new(name)) {
            let slot = *entry.get();
            self.take_out(slot);
        }
    }

    fn take_out(&mut self, slot: Slot) {
        let target = self.targets.remove(slot);
        self.due.remove(&(target.due, slot));
        self.by_name.remove(&target.name);
    }

    /// Begins a look at the whole roll: what is not put in until it ends is checked no more.
    pub(super) fn begin_round(&mut self) {
        self.round += 1;
    }

    pub(super) fn end_round(&mut self) {
        let unseen = self.targets.iter().filter(|(_, target)| target.seen != self.round).map(|(slot, _)| slot);
        for slot in unseen.collect::<Vec<_>>() {
            self.take_out(slot);
        }
    }

    /// The next check that is due.
    pub(super) fn begin(&mut self, now: u64) -> Option<Work> {
        let (due, slot) = self.due.first().copied().filter(|(due, _)| *due <= now)?;
        self.due.remove(&(due, slot));
        let target = &mut self.targets[slot];
        target.is_in_work = true;
        let (name, plan) = (target.name.clone(), target.plan.clone());
        Some(Work { slot, number: target.number, name, lease: target.lease, plan, late: now - due })
    }

    /// Takes in what a check found. None: it is of no interest any more.
    pub(super) fn note(&mut self, work: &Work, finding: Finding, at: Timestamp) -> Option<Streak> {
        let target = self.target_of(work)?;
        target.streak.add(finding.result);
        target.latest = Some(Latest { at, finding });
        Some(target.streak)
    }

    /// Ends a check: the next is due one interval after this one was, or at once where that is past.
    pub(super) fn end(&mut self, work: &Work, now: u64) {
        let Some(target) = self.target_of(work) else { return };
        let interval = ticks(target.plan.interval_ms);
        // Those that were missed are not made up for.
        let missed = now.saturating_sub(target.due) / interval;
        target.due += interval * (missed + 1);
        target.is_in_work = false;
        let due = (target.due, work.slot);
        self.due.insert(due);
    }

    fn target_of(&mut self, work: &Work) -> Option<&mut Target> {
        self.targets.get_mut(work.slot).filter(|target| target.number == work.number)
    }

    /// What was last found of an incarnation, if it is checked here.
    pub(super) fn latest(&self, name: &(TenantId, InstanceId), lease: LeaseId) -> Option<CheckResult> {
        let slot = self.by_name.get(name)?;
        let target = self.targets.get(*slot).filter(|target| target.lease == lease)?;
        let Latest { at, finding } = target.latest.as_ref()?;
        Some(CheckResult {
            checked_at: format!("{at:.3}"),
            result: translate::verdict_out(finding.result),
            in_a_row: target.streak.in_a_row(),
            score: finding.score.map(rounded),
            response_time_ms: finding.response_ms,
            parts: finding.parts().collect(),
            issues: finding.issues(),
        })
    }
}

fn ticks(interval_ms: u32) -> u64 {
    (u64::from(interval_ms) / TICK_MS).max(1)
}
