//! Simulation B: members with the real consensus, storage of the state and tasks, over imagined disks and wires, in one thread
//! whose time passes only when everybody waits: half a minute of theirs takes a second or so.
//!
//! A seed says what goes wrong, who asks what, and how long messages and flushes take. What openraft draws for its elections,
//! and the order in which blocking work comes back, are not in its hand: a seed that failed may have to be tried more than
//! once. What clients were told is held against the promises by [`rollcall_sim::history`].

#![allow(clippy::unwrap_used, reason = "a test fails by panicking and says where it was")]

mod clients;
mod faults;
mod wires;
mod world;

use std::collections::BTreeMap;
use std::io::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rollcall_sim::seeds;
use world::Report;

/// A few seconds' worth.
const SEEDS: u64 = 40;

/// What must have happened for many seeds to prove anything.
const NEEDED: &[&str] = &[
    "acknowledged",
    "changes",
    "crashes",
    "cuts",
    "expiries",
    "messages lost",
    "reads",
    "refused",
    "renewals",
    "silences",
    "unknown",
];

/// Of these, only where there are so many seeds that they cannot fail to happen.
const NEEDED_OF_MANY: &[&str] =
    &["crashes of all", "held up", "joins", "lossy", "removals", "slow disks", "transfers", "unflushed entries lost"];

const MANY: u64 = 100;

/// Lets the run's time pass.
pub(crate) async fn until(passed: Duration) {
    tokio::time::sleep(passed).await;
}

fn replay_line(seed: u64) -> String {
    format!("ROLLCALL_SIM_SEED={seed} cargo test --release --workspace --test whole -- --nocapture many_seeds")
}

fn run(seed: u64, lies: bool) -> Result<Report, String> {
    let run = || {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        let runtime = builder.enable_all().start_paused(true).build().expect("a runtime");
        runtime.block_on(world::run(seed, lies))
    };
    catch_unwind(AssertUnwindSafe(run)).map_err(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default()
    })
}

#[test]
fn p1_to_p9_hold_with_the_real_consensus_in_many_seeds() {
    if let Some(seed) = seeds::replayed() {
        return replay(seed);
    }
    let (first, count) = (seeds::base(), seeds::count(SEEDS));
    let next = AtomicU64::new(0);
    let totals: Mutex<BTreeMap<&'static str, u64>> = Mutex::default();
    let failed: Mutex<Vec<(u64, String)>> = Mutex::default();
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    if n >= count {
                        return;
                    }
                    let seed = first.wrapping_add(n);
                    let fault = match run(seed, false) {
                        Ok(Report { faults, counts, .. }) if faults.is_empty() => {
                            let mut totals = totals.lock().unwrap_or_else(PoisonError::into_inner);
                            counts.into_iter().for_each(|(what, count)| *totals.entry(what).or_default() += count);
                            continue;
                        }
                        Ok(Report { faults, trace, .. }) => format!("{}\n{}", faults.join("\n"), trace.join("\n")),
                        Err(panic) => format!("it panics: {panic}"),
                    };
                    failed.lock().unwrap_or_else(PoisonError::into_inner).push((seed, fault));
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap_or_else(PoisonError::into_inner);
    let told: Vec<String> = failed
        .iter()
        .map(|(seed, fault)| format!("seed {seed}: {fault}\nreplay it with\n    {}", replay_line(*seed)))
        .collect();
    assert!(told.is_empty(), "{} of {count} seeds fail\n{}", told.len(), told.join("\n\n"));
    let totals = totals.into_inner().unwrap_or_else(PoisonError::into_inner);
    let needed = NEEDED.iter().chain(if count >= MANY { NEEDED_OF_MANY } else { &[] });
    let lacking: Vec<_> = needed.filter(|what| totals.get(*what).copied().unwrap_or(0) == 0).collect();
    assert!(lacking.is_empty(), "{count} seeds prove little: none of {lacking:?} happened, only {totals:?}");
    writeln!(std::io::stderr(), "{count} seeds: {totals:?}").expect("stderr is open");
}

/// Prints what happens, and fails if it fails.
fn replay(seed: u64) {
    let Report { faults, counts, trace } = run(seed, false).unwrap();
    writeln!(std::io::stderr(), "{}\n{counts:?}", trace.join("\n")).expect("stderr is open");
    assert!(faults.is_empty(), "seed {seed}: {}", faults.join("\n"));
}

/// That a run can fail: disks that lie lose what was acknowledged, and what clients were told shows it.
#[test]
fn disks_that_lie_are_found_out() {
    let found = (1..=8).any(|seed| match run(seed, true) {
        Ok(Report { faults, .. }) => faults.iter().any(|fault| fault.starts_with("P1") || fault.starts_with("P8")),
        // An assertion of openraft's or of the state machine's is met before.
        Err(_) => true,
    });
    assert!(found, "acknowledged writes were lost, and nobody noticed");
}
