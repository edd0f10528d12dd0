//! What is worth an alert: each change of an instance's condition, once, and not oftener than every so often.
//!
//! Pure: it is fed with the changes of the roll in their order, and with the time. So a leader that is new comes to know what
//! the one before it had told by reading the same changes again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use rollcall_registry::state::InstanceKey;
use rollcall_registry::{Change, ChangeKind, Instance, Revision, Status, WallTime};

/// For so long it is remembered that an instance was struck off, so that its return is told as one.
pub(super) const RETURN_MS: u64 = 600_000;

/// What is told of an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Condition {
    /// Nothing is wrong with it, or an operator took it out of service.
    Fine,
    Degraded,
    Error,
    /// It says so, or its lease ran out and it waits to be reaped.
    Offline,
    /// It was struck off because it fell silent.
    Expired,
    /// It was taken off.
    Removed,
}

impl Condition {
    fn of(instance: &Instance) -> Self {
        match instance.status() {
            Status::Active | Status::Maintenance => Self::Fine,
            Status::Degraded => Self::Degraded,
            Status::Error => Self::Error,
            Status::Offline => Self::Offline,
        }
    }

    /// Nobody has to be called.
    pub(super) fn is_quiet(self) -> bool {
        matches!(self, Self::Fine | Self::Removed)
    }

    /// Whether there is nothing to tell between the two.
    fn is_as(self, other: Self) -> bool {
        self == other || (self.is_quiet() && other.is_quiet())
    }
}

/// A change of the roll, as far as it may be worth an alert.
#[derive(Clone, Debug)]
pub(super) struct Turn {
    pub(super) revision: Revision,
    pub(super) wall: WallTime,
    before: Condition,
    now: Condition,
    /// As it is now, or was before it went.
    pub(super) instance: Arc<Instance>,
}

impl Turn {
    /// None if the change can be of no interest, whatever was told before.
    pub(super) fn of(change: &Change<'_>) -> Option<Self> {
        let before = change.before.map_or(Condition::Fine, |before| Condition::of(before));
        let now = match (change.kind, change.after) {
            (_, Some(after)) => Condition::of(after),
            (ChangeKind::Expired, None) => Condition::Expired,
            (_, None) => Condition::Removed,
        };
        // One that comes anew may be one that is known to have gone.
        let is_turn = before != now || change.kind == ChangeKind::Registered;
        let (revision, wall, instance) = (change.revision, change.wall, change.instance().clone());
        is_turn.then_some(Self { revision, wall, before, now, instance })
    }
}

/// An instance is in another condition than was told last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Alert {
    /// As was told last.
    pub(super) before: Condition,
    pub(super) now: Condition,
    /// Of the change that brought the condition about.
    pub(super) revision: Revision,
    pub(super) wall: WallTime,
    pub(super) instance: Arc<Instance>,
}

#[derive(Debug)]
struct Entry {
    told: Condition,
    told_at: u64,
    latest: Turn,
    /// When it is looked at again.
    wake: Option<u64>,
}

/// What was told of each instance of which that is still of interest.
#[derive(Debug)]
pub(super) struct Tracker {
    interval_ms: u64,
    entries: BTreeMap<InstanceKey, Entry>,
    wakes: BTreeSet<(u64, InstanceKey)>,
}

impl Tracker {
    pub(super) fn new(interval_ms: u64) -> Self {
        Self { interval_ms, entries: BTreeMap::new(), wakes: BTreeSet::new() }
    }

    /// Takes in a change, and says what is to be told at once.
    pub(super) fn turn(&mut self, turn: &Turn) -> Option<Alert> {
        let key = turn.instance.key();
        let at = turn.wall.0;
        match self.entries.get_mut(&key) {
            Some(entry) => entry.latest = turn.clone(),
            None if turn.before.is_as(turn.now) => return None,
            None => {
                let entry = Entry { told: turn.before, told_at: 0, latest: turn.clone(), wake: None };
                self.entries.insert(key.clone(), entry);
            }
        }
        self.look(&key, at)
    }

    /// What has waited for long enough, `count_max` at most.
    pub(super) fn due(&mut self, now: u64, count_max: usize) -> Vec<Alert> {
        let mut alerts = Vec::new();
        while let Some((at, key)) = self.wakes.first().filter(|(at, _)| *at <= now).cloned()
            && alerts.len() < count_max
        {
            alerts.extend(self.look(&key, at));
        }
        alerts
    }

    /// Looks at an instance: tells, or says when it is looked at again, or forgets it.
    fn look(&mut self, key: &InstanceKey, at: u64) -> Option<Alert> {
        let entry = self.entries.get_mut(key)?;
        if let Some(wake) = entry.wake.take() {
            self.wakes.remove(&(wake, key.clone()));
        }
        let latest = &entry.latest;
        let may_tell_at = entry.told_at.saturating_add(self.interval_ms);
        let alert = (!entry.told.is_as(latest.now) && at >= may_tell_at).then(|| Alert {
            before: entry.told,
            now: latest.now,
            revision: latest.revision,
            wall: latest.wall,
            instance: latest.instance.clone(),
        });
        if alert.is_some() {
            (entry.told, entry.told_at) = (latest.now, at);
        }
        let may_tell_at = entry.told_at.saturating_add(self.interval_ms);
        let wake = match entry.told {
            told if !told.is_as(latest.now) => Some(may_tell_at),
            Condition::Expired => Some(entry.told_at.saturating_add(RETURN_MS.max(self.interval_ms))),
            told if told.is_quiet() => Some(may_tell_at),
            _ => None,
        };
        match wake {
            // What is over is of no more interest once another alert might follow at once.
            Some(wake) if wake <= at => drop(self.entries.remove(key)),
            Some(wake) => {
                entry.wake = Some(wake);
                self.wakes.insert((wake, key.clone()));
            }
            None => {}
        }
        alert
    }
}

#[cfg(test)]
mod tests {
    use rollcall_registry::{
        ClusterTime, Command, Condition as If, InstanceId, Options, Proposal, Registration, ServiceName, State,
        TenantId, Term,
    };

    use super::*;

    const INTERVAL_MS: u64 = 60_000;

    fn tenant() -> TenantId {
        TenantId::parse("t").unwrap()
    }

    fn id() -> InstanceId {
        InstanceId::parse("a").unwrap()
    }

    fn register(ttl_ms: u32) -> Command {
        let registration = Registration::new(id(), ServiceName::parse("web").unwrap(), "http://a", ttl_ms).pack();
        Command::Register { tenant: tenant(), registration, condition: If::Anew }
    }

    fn beat(status: Status) -> Command {
        Command::Beat { tenant: tenant(), id: id(), lease: None, status: Some(status), metadata: None }
    }

    /// A roll that is followed by two: one all the time, and one that begins anew at each change.
    struct World {
        state: State,
        tracker: Tracker,
        turns: Vec<Turn>,
    }

    impl World {
        fn new() -> Self {
            let tracker = Tracker::new(INTERVAL_MS);
            Self { state: State::new(Options::default()), tracker, turns: Vec::new() }
        }

        /// Alerts that a change at a time brings about, after those that time itself does.
        fn at(&mut self, now: u64, command: Option<Command>) -> Vec<(Condition, Condition)> {
            let mut alerts = self.tracker.due(now, usize::MAX);
            let before = self.state.revision();
            let commands = command.into_iter().collect();
            self.state.apply(
                Term(1),
                &Proposal { stamp: ClusterTime(now), wall: WallTime(now), commands, once: Vec::new() },
            );
            let turns = self.state.changes_after(before).unwrap().filter_map(|change| Turn::of(&change));
            for turn in turns.collect::<Vec<_>>() {
                alerts.extend(self.tracker.turn(&turn));
                self.turns.push(turn);
            }
            self.compare_with_a_new_leader(now);
            alerts.into_iter().map(|alert| (alert.before, alert.now)).collect()
        }

        /// Whoever reads the same changes later knows the same.
        fn compare_with_a_new_leader(&self, now: u64) {
            let mut other = Tracker::new(INTERVAL_MS);
            for turn in &self.turns {
                other.due(turn.wall.0, usize::MAX);
                other.turn(turn);
            }
            other.due(now, usize::MAX);
            let known = |tracker: &Tracker| {
                let entries = tracker.entries.iter();
                entries.map(|(key, entry)| (key.clone(), entry.told, entry.told_at, entry.wake)).collect::<Vec<_>>()
            };
            assert_eq!(known(&self.tracker), known(&other));
        }
    }

    #[test]
    fn each_change_of_condition_is_told_once() {
        use Condition::{Degraded, Error, Fine};
        let mut world = World::new();
        assert_eq!(world.at(0, Some(register(600_000))), []);
        assert_eq!(world.at(70_000, Some(beat(Status::Degraded))), [(Fine, Degraded)]);
        assert_eq!(world.at(71_000, Some(beat(Status::Degraded))), []);
        assert_eq!(world.at(140_000, Some(beat(Status::Error))), [(Degraded, Error)]);
        assert_eq!(world.at(210_000, Some(beat(Status::Active))), [(Error, Fine)]);
        assert_eq!(world.at(280_000, None), []);
        assert!(world.tracker.entries.is_empty() && world.tracker.wakes.is_empty(), "what is over is forgotten");
    }

    #[test]
    fn one_that_flaps_is_told_once_an_interval_and_then_as_it_is() {
        use Condition::{Degraded, Fine};
        let mut world = World::new();
        world.at(0, Some(register(6_000_000)));
        let mut told = Vec::new();
        for n in 0..240 {
            let status = if n % 2 == 0 { Status::Degraded } else { Status::Active };
            told.extend(world.at(100_000 + n * 1_000, Some(beat(status))));
        }
        // At once, and then after each minute in which it was something else; the changes at these very times are later.
        assert_eq!(told.len(), 4, "{told:?}");
        assert!(told.iter().all(|turn| [(Fine, Degraded), (Degraded, Fine)].contains(turn)));
        let last = told.last().copied().unwrap().1;
        let rest = world.at(1_000_000, None);
        assert_eq!(rest, if last == Degraded { vec![(Degraded, Fine)] } else { vec![] });
    }

    #[test]
    fn a_short_fault_that_is_over_before_it_may_be_told_is_not() {
        use Condition::{Degraded, Fine};
        let mut world = World::new();
        world.at(0, Some(register(6_000_000)));
        assert_eq!(world.at(100_000, Some(beat(Status::Degraded))), [(Fine, Degraded)]);
        assert_eq!(world.at(110_000, Some(beat(Status::Active))), []);
        assert_eq!(world.at(120_000, Some(beat(Status::Degraded))), []);
        assert_eq!(world.at(400_000, None), [], "it is what was told");
        assert_eq!(world.at(401_000, Some(beat(Status::Active))), [(Degraded, Fine)]);
    }

    #[test]
    fn who_was_struck_off_and_comes_back_has_recovered() {
        use Condition::{Expired, Fine, Removed};
        let mut world = World::new();
        world.at(0, Some(register(5_000)));
        let expire = |now| Command::Expire { term: Term(1), up_to: ClusterTime(now), limit: 10 };
        assert_eq!(world.at(100_000, Some(expire(100_000))), [(Fine, Expired)]);
        assert_eq!(world.at(200_000, Some(register(5_000))), [(Expired, Fine)]);
        let deregister = Command::Deregister { tenant: tenant(), id: id(), lease: None, condition: If::None };
        assert_eq!(world.at(201_000, Some(deregister.clone())), [], "nothing was wrong with it");
        world.at(300_000, Some(register(500_000)));
        assert_eq!(world.at(301_000, Some(beat(Status::Error))), [(Fine, Condition::Error)]);
        assert_eq!(world.at(400_000, Some(deregister)), [(Condition::Error, Removed)]);
        // After a while nobody knows that it was there before.
        world.at(500_000, Some(register(5_000)));
        assert_eq!(world.at(600_000, Some(expire(600_000))), [(Fine, Expired)]);
        assert_eq!(world.at(600_000 + RETURN_MS, None), []);
        assert!(world.tracker.entries.is_empty());
        assert_eq!(world.at(601_000 + RETURN_MS, Some(register(5_000))), []);
    }
}
