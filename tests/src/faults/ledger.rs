//! What clients asked for and were told, and whether all of it can be true at once.
//!
//! Every change of the roll has a revision, so the order of all changes is known from what watchers were told, and nothing
//! has to be searched for: each answer either has its place in that order or is a lie. Beside it, and without a look at
//! what watchers were told, an order that explains all answers is searched for ([`rollcall_sim::history`]). What is held
//! against the order:
//!
//! - P1: a change that was acknowledged stands where its answer said; one that was refused or not applied stands nowhere,
//!   and one whose outcome is unknown once at most.
//! - P8: a linearizable read shows the roll as it was at its revision, and neither that nor a write's lies before anything
//!   that was answered before it was asked. A local read is no older than it says.
//! - P3, P5: no lease ends before its TTL after the last heartbeat that was acknowledged was sent, and nobody else ends.
//! - P7: a lease that was replaced is never renewed.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard};
use std::time::Instant;

use rollcall_sim::history::{self, Leases};

use super::load::lives_on;

/// An instance, by number: `i-7`.
pub type Key = u32;

/// Violations that are shown; one fault makes thousands.
const SHOWN_MAX: usize = 20;

/// Of those, answers for which the search found no order.
const UNEXPLAINED_MAX: usize = 5;

/// What a leader's clock may step over at most, and more: the longest election timeout.
const CLOCK_STEP_US: u64 = 800_000;

/// Clocks of one machine, read before and after sending.
const ROUNDING_US: u64 = 2_000;

/// What was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    /// Registers this value, whatever is there.
    Write {
        value: u64,
    },
    /// Registers this value if nobody is there.
    Create {
        value: u64,
    },
    /// Registers this value if this revision is there.
    Replace {
        value: u64,
        expected: u64,
    },
    Remove,
    Read,
    ReadLocally,
}

impl Ask {
    fn value(self) -> Option<u64> {
        match self {
            Self::Write { value } | Self::Create { value } | Self::Replace { value, .. } => Some(value),
            Self::Remove | Self::Read | Self::ReadLocally => None,
        }
    }
}

/// What came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// A write took effect as this revision.
    Done { revision: u64 },
    /// A read showed the roll at this revision, and there the instance's own revision and value.
    Shown { at: u64, instance: Option<(u64, u64)>, staleness_ms: u64 },
    /// A condition did not hold.
    Refused,
    /// It certainly changed nothing.
    NotApplied,
    /// No answer, or one that leaves it open.
    Unknown,
}

#[derive(Clone, Copy, Debug)]
struct Call {
    asked_us: u64,
    told_us: u64,
    key: Key,
    ask: Ask,
    told: Told,
}

impl Call {
    fn in_history(&self) -> history::Call {
        let ask = match self.ask {
            Ask::Write { value } => history::Ask::Write { value },
            Ask::Create { value } => history::Ask::Create { value },
            Ask::Replace { value, expected } => history::Ask::Replace { value, expected },
            Ask::Remove => history::Ask::Remove,
            Ask::Read | Ask::ReadLocally => history::Ask::Read,
        };
        let told = match self.told {
            Told::Done { revision } => history::Told::Done { revision },
            Told::Shown { instance, .. } => history::Told::Shown(instance),
            Told::Refused => history::Told::Refused,
            Told::NotApplied => history::Told::NotApplied,
            Told::Unknown => history::Told::Unknown,
        };
        history::Call { key: self.key.into(), asked_us: self.asked_us, told_us: self.told_us, ask, told }
    }
}

/// A change as a watcher was told of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    pub revision: u64,
    pub key: Key,
    /// None when it left the roll.
    pub value: Option<u64>,
    pub expired: bool,
}

#[derive(Debug, Default)]
struct Records {
    calls: Vec<Call>,
    leases: Leases,
    beats: u64,
    /// Leases that a node said are gone, and when.
    gone: Vec<(Key, u64, u64)>,
    stale_renewals: Vec<String>,
    acknowledged: u64,
}

#[derive(Debug)]
pub struct Ledger {
    started: Instant,
    records: Mutex<Records>,
}

impl Default for Ledger {
    fn default() -> Self {
        Self { started: Instant::now(), records: Mutex::default() }
    }
}

/// How much was asked.
#[derive(Clone, Copy, Debug, Default)]
pub struct Totals {
    pub calls: u64,
    pub acknowledged: u64,
    pub reads: u64,
    pub beats: u64,
    pub unknown: u64,
}

impl Ledger {
    pub fn now_us(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_micros()).expect("a test ends some day")
    }

    fn records(&self) -> MutexGuard<'_, Records> {
        self.records.lock().expect("nobody panics with the records")
    }

    /// A call that was asked at `asked_us` and answered, or given up, now.
    pub fn note(&self, asked_us: u64, key: Key, ask: Ask, told: Told) {
        let told_us = self.now_us();
        let mut records = self.records();
        records.acknowledged += u64::from(matches!(told, Told::Done { .. }));
        records.calls.push(Call { asked_us, told_us, key, ask, told });
    }

    /// A registration or heartbeat of this lease, sent at `sent_us`, was acknowledged.
    pub fn renewed(&self, key: Key, lease: u64, ttl_ms: u64, sent_us: u64) {
        let mut records = self.records();
        records.beats += 1;
        records.leases.renewed((key.into(), lease), ttl_ms * 1_000, sent_us);
    }

    /// No process ran in this stretch.
    pub fn nobody_ran(&self, from_us: u64, until_us: u64) {
        self.records().leases.stood_still(from_us, until_us, CLOCK_STEP_US);
    }

    /// A heartbeat was told that there is no such lease.
    pub fn lease_gone(&self, key: Key, lease: u64) {
        let now = self.now_us();
        self.records().gone.push((key, lease, now));
    }

    /// The holder of a lease that is known to be replaced was told that it is renewed.
    pub fn stale_renewal(&self, key: Key, lease: u64, newer: u64) {
        let text = format!("P7: i-{key}: lease {lease} was renewed after lease {newer} had replaced it");
        self.records().stale_renewals.push(text);
    }

    pub fn acknowledged(&self) -> u64 {
        self.records().acknowledged
    }

    pub fn totals(&self) -> Totals {
        let records = self.records();
        let count = |is: fn(&Call) -> bool| records.calls.iter().filter(|call| is(call)).count() as u64;
        Totals {
            calls: records.calls.len() as u64 + records.beats,
            acknowledged: records.acknowledged,
            reads: count(|call| matches!(call.told, Told::Shown { .. })),
            beats: records.beats,
            unknown: count(|call| call.told == Told::Unknown),
        }
    }

    /// Holds everything against the changes in their order, and the times at which expiries were told.
    ///
    /// # Errors
    /// What cannot be true, in words.
    pub fn verify(&self, changes: &[Change], expired_us: &HashMap<u64, u64>) -> Result<(), Vec<String>> {
        let records = self.records();
        let mut faults = records.stale_renewals.clone();
        faults.extend(unexplained(&records.calls));
        let roll = Timeline::new(changes, &mut faults);
        for call in &records.calls {
            if let Some(fault) = roll.judge(call) {
                faults.push(fault);
            }
        }
        order_in_time(&records.calls, &roll, &mut faults);
        lives(&records, &roll, expired_us, &mut faults);
        if faults.is_empty() {
            return Ok(());
        }
        let more = faults.len().saturating_sub(SHOWN_MAX);
        faults.truncate(SHOWN_MAX);
        if more > 0 {
            faults.push(format!("… and {more} more"));
        }
        Err(faults)
    }
}

/// The roll at every revision.
struct Timeline<'a> {
    /// The change of revision 1 comes first.
    changes: &'a [Change],
    /// Of each instance, its revisions in order, each with the value.
    by_key: HashMap<Key, Vec<(u64, Option<u64>)>>,
    by_value: HashMap<u64, u64>,
}

impl<'a> Timeline<'a> {
    fn new(changes: &'a [Change], faults: &mut Vec<String>) -> Self {
        let (mut by_key, mut by_value) = (HashMap::<Key, Vec<_>>::new(), HashMap::new());
        for (place, change) in changes.iter().enumerate() {
            if change.revision != place as u64 + 1 {
                faults.push(format!("P9: revision {} is told in the place of {}", change.revision, place + 1));
            }
            by_key.entry(change.key).or_default().push((change.revision, change.value));
            if let Some(value) = change.value
                && let Some(earlier) = by_value.insert(value, change.revision)
            {
                faults.push(format!("P1: one write was applied twice, as {earlier} and {}", change.revision));
            }
        }
        Self { changes, by_key, by_value }
    }

    /// The instance just after this revision: its own revision and value.
    fn at(&self, key: Key, revision: u64) -> Option<(u64, u64)> {
        let changes = self.by_key.get(&key)?;
        let later = changes.partition_point(|(of, _)| *of <= revision);
        let (of, value) = changes.get(later.checked_sub(1)?)?;
        Some((*of, (*value)?))
    }

    fn judge(&self, call: &Call) -> Option<String> {
        let key = call.key;
        let place = call.ask.value().and_then(|value| self.by_value.get(&value).copied());
        match call.told {
            Told::Unknown => None,
            Told::Refused | Told::NotApplied => {
                place.map(|of| format!("P1: i-{key}: {:?} was told {:?} and is revision {of}", call.ask, call.told))
            }
            Told::Done { revision } => {
                let change = usize::try_from(revision).ok().and_then(|it| self.changes.get(it.checked_sub(1)?));
                let is_there = change.is_some_and(|it| it.key == key && it.value == call.ask.value() && !it.expired);
                let before = self.at(key, revision.saturating_sub(1));
                let condition = match call.ask {
                    Ask::Create { .. } => before.is_none(),
                    Ask::Replace { expected, .. } => before.is_some_and(|(of, _)| of == expected),
                    Ask::Remove => before.is_some(),
                    Ask::Write { .. } | Ask::Read | Ask::ReadLocally => true,
                };
                (!is_there || !condition).then(|| {
                    format!(
                        "P1: i-{key}: {:?} was acknowledged as {revision}, which is {change:?} after {before:?}",
                        call.ask
                    )
                })
            }
            Told::Shown { at, instance, .. } => {
                let there = self.at(key, at);
                (there != instance)
                    .then(|| format!("P8: i-{key}: a read at {at} showed {instance:?} instead of {there:?}"))
            }
        }
    }
}

/// Of answers in the order of their times, the newest revision so far.
struct Known(Vec<(u64, u64)>);

impl Known {
    fn new(calls: &[Call]) -> Self {
        let mut known: Vec<(u64, u64)> = calls
            .iter()
            .filter_map(|call| match (call.ask, call.told) {
                (_, Told::Done { revision }) => Some((call.told_us, revision)),
                (Ask::Read, Told::Shown { at, .. }) => Some((call.told_us, at)),
                _ => None,
            })
            .collect();
        known.sort_unstable();
        let mut newest = 0;
        for (_, revision) in &mut known {
            newest = newest.max(*revision);
            *revision = newest;
        }
        Self(known)
    }

    /// What had been answered before this moment.
    fn before(&self, us: u64) -> u64 {
        let later = self.0.partition_point(|(told_us, _)| *told_us < us);
        later.checked_sub(1).map_or(0, |place| self.0[place].1)
    }
}

/// P8: nothing takes its place before what was answered before it was asked.
fn order_in_time(calls: &[Call], roll: &Timeline<'_>, faults: &mut Vec<String>) {
    let known = Known::new(calls);
    for call in calls {
        let key = call.key;
        let fault = match (call.ask, call.told) {
            (Ask::Read, Told::Shown { at, .. }) => {
                let known = known.before(call.asked_us);
                (at < known).then(|| format!("P8: i-{key}: a linearizable read shows {at}, and {known} was known"))
            }
            (_, Told::Shown { at, staleness_ms, .. }) => {
                let fresh_us = call.asked_us.saturating_sub(staleness_ms * 1_000 + ROUNDING_US);
                let known = known.before(fresh_us);
                (at < known).then(|| {
                    format!("P8: i-{key}: a read shows {at}, says it is {staleness_ms} ms old, and {known} was known")
                })
            }
            (ask, told) => {
                // A write of unknown outcome has its place too, if it took effect.
                let place = match told {
                    Told::Done { revision } => Some(revision),
                    _ => ask.value().and_then(|value| roll.by_value.get(&value).copied()),
                };
                let known = known.before(call.asked_us);
                place.filter(|of| *of <= known).map(|of| {
                    format!("P8: i-{key}: {ask:?} is revision {of}, and {known} was known before it was asked")
                })
            }
        };
        faults.extend(fault);
    }
}

/// P1, P8: answers for which no order was found.
fn unexplained(calls: &[Call]) -> Vec<String> {
    let long_lived = calls.iter().filter(|call| lives_on(call.key) && call.ask != Ask::ReadLocally);
    let calls: Vec<history::Call> = long_lived.map(Call::in_history).collect();
    let report = history::check(&calls, history::STEPS_MAX);
    let undecided = |key| format!("P8: i-{key}: neither an order nor a proof that there is none was found");
    let mut faults = report.faults;
    faults.extend(report.undecided.into_iter().map(undecided));
    faults.truncate(UNEXPLAINED_MAX);
    faults
}

/// P3, P5: who ended, and whether it was time.
fn lives(records: &Records, roll: &Timeline<'_>, expired_us: &HashMap<u64, u64>, faults: &mut Vec<String>) {
    let mut leases = records.leases.clone();
    for change in roll.changes.iter().filter(|change| change.expired) {
        let Some((lease, _)) = roll.at(change.key, change.revision - 1) else {
            faults.push(format!("P9: i-{} expired at {} and was not there", change.key, change.revision));
            continue;
        };
        if let Some(us) = expired_us.get(&change.revision) {
            leases.ended((change.key.into(), lease), *us);
        }
    }
    records.gone.iter().for_each(|(key, lease, us)| leases.ended(((*key).into(), *lease), *us));
    faults.extend(leases.faults());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(revision: u64, key: Key, value: Option<u64>) -> Change {
        Change { revision, key, value, expired: false }
    }

    /// When it was asked and answered, what, and how.
    type Said = (u64, u64, Ask, Told);

    fn ledger(calls: &[Said]) -> Ledger {
        let ledger = Ledger::default();
        for (asked_us, told_us, ask, told) in calls {
            let call = Call { asked_us: *asked_us, told_us: *told_us, key: 1, ask: *ask, told: *told };
            ledger.records().calls.push(call);
        }
        ledger
    }

    fn faults(calls: &[Said], changes: &[Change]) -> String {
        ledger(calls).verify(changes, &HashMap::new()).err().unwrap_or_default().join("\n")
    }

    const W: fn(u64) -> Ask = |value| Ask::Write { value };
    const DONE: fn(u64) -> Told = |revision| Told::Done { revision };
    const SHOWN: fn(u64, Option<(u64, u64)>) -> Told = |at, instance| Told::Shown { at, instance, staleness_ms: 0 };

    #[test]
    fn what_is_true_is_believed() {
        let changes = [change(1, 1, Some(10)), change(2, 1, Some(11)), change(3, 1, None)];
        let calls = [
            (0, 10, Ask::Create { value: 10 }, DONE(1)),
            (12, 30, Ask::Replace { value: 11, expected: 1 }, Told::Unknown),
            (20, 40, Ask::Read, SHOWN(2, Some((2, 11)))),
            (20, 45, Ask::Read, SHOWN(1, Some((1, 10)))),
            (50, 60, Ask::Remove, DONE(3)),
            (61, 70, W(12), Told::NotApplied),
            (61, 70, Ask::Read, SHOWN(3, None)),
        ];
        assert_eq!(faults(&calls, &changes), "");
    }

    #[test]
    fn each_lie_is_seen() {
        let one = [change(1, 1, Some(10))];
        let two = [change(1, 1, Some(10)), change(2, 1, Some(11))];
        let lies: &[(&[Said], &[Change], &str)] = &[
            (&[(0, 1, W(10), DONE(1)), (2, 3, W(11), DONE(2))], &one, "acknowledged as 2, which is None"),
            (&[(0, 1, W(10), Told::NotApplied)], &one, "NotApplied and is revision 1"),
            (&[(0, 1, W(10), Told::Refused)], &one, "Refused and is revision 1"),
            (&[], &[change(1, 1, Some(10)), change(2, 1, Some(10))], "applied twice"),
            (&[], &[change(2, 1, Some(10))], "in the place of 1"),
            (&[(0, 1, W(10), DONE(1)), (2, 3, Ask::Read, SHOWN(0, None))], &one, "shows 0, and 1 was known"),
            (&[(0, 1, Ask::Read, SHOWN(1, None))], &one, "instead of Some((1, 10))"),
            (&[(0, 1, W(11), DONE(2)), (2, 3, W(10), DONE(1))], &two, "2 was known before it was asked"),
            (&[(0, 1, W(11), DONE(2)), (2, 3, W(10), Told::Unknown)], &two, "2 was known before it was asked"),
            (&[(0, 1, Ask::Replace { value: 11, expected: 7 }, DONE(2))], &two, "after Some((1, 10))"),
            (&[(0, 1, Ask::Create { value: 11 }, DONE(2))], &two, "after Some((1, 10))"),
            (
                &[(0, 1, W(10), DONE(1)), (9_000, 9_001, Ask::ReadLocally, SHOWN(0, None))],
                &one,
                "says it is 0 ms old, and 1 was known",
            ),
        ];
        for (calls, changes, word) in lies {
            let told = faults(calls, changes);
            assert!(told.contains(word), "`{word}` is not in: {told}");
        }
    }

    #[test]
    fn an_early_end_is_seen() {
        let expired = Change { revision: 2, key: 1, value: None, expired: true };
        let ledger = Ledger::default();
        ledger.renewed(1, 1, 1_000, 500_000);
        ledger.renewed(1, 1, 1_000, 400_000);
        let changes = [change(1, 1, Some(10)), expired];
        let at = |us| ledger.verify(&changes, &HashMap::from([(2, us)]));
        assert!(at(1_500_000).is_ok());
        assert!(at(1_499_999).expect_err("it is early")[0].starts_with("P3"));
    }
}
