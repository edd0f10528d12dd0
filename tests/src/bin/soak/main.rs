//! Hours of faults on real clusters: rounds of a few minutes, with three nodes and five in turns, each from a seed of its
//! own, until the time is over or a promise is broken.
//!
//! It exits with 0 if nothing was broken and everything that should have happened did, with 1 otherwise, and prints the
//! line that replays the round.

use std::error::Error;
use std::io::Write;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use rollcall_tests::faults::{Fault, Pace, Storm, Tally, Totals, in_world};

/// Longest storm of one round: then the books are closed, so that memory is bounded and a violation is found soon.
const ROUND: Duration = Duration::from_secs(300);

/// Broken worlds, for a while
#[derive(Debug, Parser)]
#[command(name = "soak")]
struct Args {
    /// How long
    #[arg(default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    minutes: u64,
    /// What chooses faults, victims and times [default: the time of day]
    seed: Option<u64>,
    /// Which round of that seed to begin with
    #[arg(long, default_value_t = 0)]
    round: u64,
    /// Strike with these kinds alone, as the summary names them
    #[arg(long, value_name = "FAULT,…", value_delimiter = ',')]
    only: Vec<String>,
}

struct Round {
    totals: Totals,
    tally: Tally,
    took: Duration,
}

fn main() -> ExitCode {
    match run(&Args::parse(), &mut std::io::stdout()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) | Err(_) => ExitCode::FAILURE,
    }
}

/// Whether everything held.
fn run(args: &Args, out: &mut impl Write) -> Result<bool, Box<dyn Error>> {
    let seed = args
        .seed
        .unwrap_or_else(|| u64::from(std::process::id()) ^ jiff::Timestamp::now().as_second().cast_unsigned());
    let kinds: Vec<Fault> = Fault::ALL
        .into_iter()
        .filter(|kind| args.only.is_empty() || args.only.contains(&format!("{kind:?}")))
        .collect();
    if kinds.is_empty() {
        writeln!(out, "none of {:?} is a fault; there are {:?}", args.only, Fault::ALL)?;
        return Ok(false);
    }
    let end = Instant::now() + Duration::from_secs(args.minutes * 60);
    let (mut totals, mut tally, mut rounds) = (Totals::default(), Tally::default(), 0);
    writeln!(out, "seed {seed}, {} minutes", args.minutes)?;
    while Instant::now() < end || rounds == 0 {
        let number = args.round + rounds;
        let nodes = if number.is_multiple_of(2) { 3 } else { 5 };
        let storm = ROUND.min(end.saturating_duration_since(Instant::now())).max(Duration::from_secs(20));
        let Some(round) = play(seed, number, nodes, storm, &kinds) else {
            writeln!(out, "VIOLATED in round {number}, with {nodes} nodes. To see it again:")?;
            writeln!(out, "  ./scripts/soak {} {seed} --round {number}", args.minutes.min(6))?;
            return Ok(false);
        };
        rounds += 1;
        let Round { totals: these, tally: happened, took } = round;
        writeln!(
            out,
            "round {number}: {nodes} nodes, {took:.0?}: {} calls, {} acknowledged writes, {} kills, {} partitions: all holds",
            these.calls, these.acknowledged, happened.kills, happened.partitions
        )?;
        totals.calls += these.calls;
        totals.acknowledged += these.acknowledged;
        totals.reads += these.reads;
        totals.beats += these.beats;
        totals.unknown += these.unknown;
        tally.add(&happened);
    }
    let Totals { calls, acknowledged, reads, beats, unknown } = totals;
    writeln!(
        out,
        "\n{rounds} rounds: {calls} calls: {acknowledged} acknowledged writes, {reads} reads, {beats} heartbeats,"
    )?;
    writeln!(out, "{unknown} of unknown outcome\n{tally}")?;
    let missing: Vec<&Fault> = kinds.iter().filter(|kind| !tally.faults.contains_key(kind)).collect();
    if args.minutes >= 10 && !missing.is_empty() {
        writeln!(out, "NOT PROVED: {missing:?} never happened")?;
        return Ok(false);
    }
    writeln!(
        out,
        "No acknowledged write lost, nobody struck off early, every read in its place, all nodes of one mind."
    )?;
    Ok(true)
}

/// One round, in a thread of its own, whose panic is a violation.
fn play(seed: u64, number: u64, nodes: usize, storm: Duration, kinds: &[Fault]) -> Option<Round> {
    let (kinds, seed) = (kinds.to_vec(), seed.wrapping_mul(1_000_003).wrapping_add(number));
    let round = std::thread::spawn(move || {
        let started = Instant::now();
        in_world(nodes, seed, async |mut world| {
            let run = world.run(Pace::BRISK, seed);
            run.progress(50).await;
            let mut faults = Storm::new(seed, &kinds, &world);
            faults.rage(&mut world, &run, storm).await;
            let totals = run.judge(&mut world).await;
            Round { totals, tally: faults.tally, took: started.elapsed() }
        })
    });
    round.join().ok()
}
