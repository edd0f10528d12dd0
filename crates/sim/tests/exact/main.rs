//! Simulation A over many seeds, the scripts that are kept of it, and the proof that it can fail.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking and says where it was")]

mod scripts;

use std::collections::BTreeMap;
use std::io::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use rollcall_sim::exact::{Broken, Flaw, Plan, Report};
use rollcall_sim::seeds;

/// A few seconds' worth.
const SEEDS: u64 = 300;

/// Seeds within which every deliberate break must show. Most show within ten.
const SEEDS_PER_FLAW: u64 = 600;

/// What must have happened for a run of many seeds to prove anything.
const NEEDED: &[&str] = &[
    "acknowledged",
    "changes",
    "changes watched",
    "crashes",
    "cuts",
    "doubled",
    "held up",
    "lapses",
    "leaders",
    "linearizable reads",
    "local reads",
    "lost",
    "not applied",
    "pauses",
    "reads refused",
    "renewals",
    "resyncs",
    "snapshots",
    "storms",
    "unflushed entries lost",
    "unknown",
];

fn replay_line(seed: u64) -> String {
    format!("ROLLCALL_SIM_SEED={seed} cargo test --release --workspace --test exact -- --nocapture many_seeds")
}

/// A panic of the product's own assertions is a broken promise as well.
fn run(plan: &Plan, flaw: Option<Flaw>) -> Result<Report, String> {
    catch_unwind(AssertUnwindSafe(|| plan.run(flaw))).map_err(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default()
    })
}

/// Runs seeds on all processors until all are done or one fails.
fn each_seed(first: u64, count: u64, run_one: impl Fn(u64) -> bool + Sync) {
    let next = AtomicU64::new(0);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    if n >= count || !run_one(first.wrapping_add(n)) {
                        next.store(count, Ordering::Relaxed);
                        return;
                    }
                }
            });
        }
    });
}

#[test]
fn p1_to_p9_hold_in_many_seeds() {
    if let Some(seed) = seeds::replayed() {
        return replay(seed);
    }
    let totals: Mutex<BTreeMap<&'static str, u64>> = Mutex::default();
    let failed: Mutex<Option<(u64, String)>> = Mutex::default();
    let count = seeds::count(SEEDS);
    each_seed(seeds::base(), count, |seed| {
        let fault = match run(&Plan::of_seed(seed), None) {
            Ok(Report { broken: None, counts, events, .. }) => {
                let mut totals = totals.lock().unwrap_or_else(PoisonError::into_inner);
                counts.into_iter().for_each(|(what, count)| *totals.entry(what).or_default() += count);
                *totals.entry("events").or_default() += events;
                return true;
            }
            Ok(Report { broken: Some(Broken { promise, what }), .. }) => format!("{promise} is broken: {what}"),
            Err(panic) => format!("it panics: {panic}"),
        };
        failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert((seed, fault));
        false
    });
    if let Some((seed, fault)) = failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
        let plan = Plan::of_seed(seed);
        let least = run_to_least(&plan);
        panic!("seed {seed}: {fault}\nreplay it with\n    {}\nas few faults as show it:\n{least}", replay_line(seed));
    }
    let totals = totals.into_inner().unwrap_or_else(PoisonError::into_inner);
    let lacking: Vec<_> = NEEDED.iter().filter(|what| totals.get(*what).copied().unwrap_or(0) == 0).collect();
    assert!(lacking.is_empty(), "{count} seeds prove little: none of {lacking:?} happened, only {totals:?}");
    writeln!(std::io::stderr(), "{count} seeds: {totals:?}").expect("stderr is open");
}

fn run_to_least(plan: &Plan) -> Plan {
    catch_unwind(AssertUnwindSafe(|| plan.shrink(None))).unwrap_or_else(|_| plan.clone())
}

/// Prints what happens, and fails if it fails.
fn replay(seed: u64) {
    let plan = Plan::of_seed(seed);
    let report = plan.run(None);
    let mut stderr = std::io::stderr();
    writeln!(stderr, "{plan}---\n{}\n{:?}", report.trace.join("\n"), report.counts).expect("stderr is open");
    assert_eq!(report.broken, None, "seed {seed}; as few faults as show it:\n{}", plan.shrink(None));
}

/// Which promises each deliberate break may be seen to break.
const FLAWS: &[(Flaw, &[&str])] = &[
    (Flaw::UnflushedCounts, &["P1", "P2"]),
    (Flaw::VoteForgotten, &["P1", "P2"]),
    (Flaw::ClockFromNothing, &["P6"]),
    (Flaw::NoStepCap, &["P5"]),
    (Flaw::NoGrace, &["P5"]),
    (Flaw::ExpiryUnchecked, &["P3"]),
    (Flaw::IncarnationForgotten, &["P7"]),
    (Flaw::NewOriginOnRetry, &["P1"]),
    (Flaw::StartsForgotten, &["P1"]),
    (Flaw::LostIsNotProposed, &["P1"]),
    (Flaw::DiscardedIsNotProposed, &["P1"]),
    (Flaw::Unpinned, &["P6", "P3"]),
    (Flaw::ServesUnready, &["P8", "P6"]),
    (Flaw::ReadWithoutQuorum, &["P8"]),
    (Flaw::ReadWithoutApply, &["P8"]),
    (Flaw::FreshFromArrival, &["P8"]),
    (Flaw::ReplaysTwice, &["P2"]),
    (Flaw::AnsweredBeforeApplied, &["P8"]),
];

#[test]
fn every_deliberate_break_is_found() {
    let tried: Vec<Flaw> = FLAWS.iter().map(|(flaw, _)| *flaw).collect();
    assert_eq!(tried, Flaw::ALL, "a break is not tried");
    let mut survivors = Vec::new();
    let mut table = String::new();
    for (flaw, promises) in FLAWS {
        let found: Mutex<Option<(u64, String)>> = Mutex::default();
        each_seed(1, SEEDS_PER_FLAW, |seed| {
            let broken = match run(&Plan::of_seed(seed), Some(*flaw)) {
                Ok(Report { broken, .. }) => broken.map(|broken| (broken.promise, broken.what)),
                // An assertion of the product's catches it before the witness does.
                Err(panic) => Some(("an assertion", panic)),
            };
            let Some((promise, what)) = broken else { return true };
            let expected = promises.contains(&promise) || promise == "an assertion";
            let what = if expected { what } else { format!("unexpectedly: {what}") };
            found.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert((seed, format!("{promise}: {what}")));
            false
        });
        match found.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Some((seed, what)) => table += &format!("{flaw:?}, seed {seed}: {what}\n"),
            None => survivors.push(*flaw),
        }
    }
    writeln!(std::io::stderr(), "{table}").expect("stderr is open");
    assert!(survivors.is_empty(), "nothing finds {survivors:?}; the others:\n{table}");
    assert!(!table.contains("unexpectedly"), "{table}");
}

#[test]
fn a_seed_says_everything() {
    let plan = Plan::of_seed(7);
    let (first, second) = (plan.run(None), plan.run(None));
    assert_eq!(first.trace, second.trace);
    assert_eq!((first.counts, first.events), (second.counts, second.events));
}
