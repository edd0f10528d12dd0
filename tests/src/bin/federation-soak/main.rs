//! Three clusters of three nodes that tell each other, with very many instances: figures first, then faults that a seed
//! chooses, until the time is over or one cluster knows something else of another than what that has.
//!
//! It exits with 0 if nothing was broken and everything that should have happened did, with 1 otherwise, and prints the
//! line that replays it.

mod figures;
mod storm;

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use rollcall_tests::mesh::{Mesh, NAMES, fill, foreign};
use rollcall_tests::wait_until;

use crate::figures::Figures;
use crate::storm::{Fault, Storm};

/// A hundred thousand told anew on a loaded machine, some times over.
pub(crate) const DEADLINE: Duration = Duration::from_secs(600);

/// From this on a run must have met every fault.
const PROVES_FROM_MINUTES: u64 = 10;

/// Clusters that tell each other, for a while
#[derive(Clone, Debug, Parser)]
#[command(name = "federation-soak")]
struct Args {
    /// How long faults strike, after the figures
    #[arg(default_value_t = 10, value_parser = clap::value_parser!(u64).range(0..=10_000))]
    minutes: u64,
    /// What chooses faults, victims and times [default: the time of day]
    seed: Option<u64>,
    /// Instances of the first cluster
    #[arg(long, value_name = "N", default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1..=190_000))]
    instances: u32,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let seed = args
        .seed
        .unwrap_or_else(|| u64::from(std::process::id()) ^ jiff::Timestamp::now().as_second().cast_unsigned());
    let Args { minutes, instances, .. } = args;
    // Nodes die with the thread that started them, and a panic in it is a violation.
    let run = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        runtime.expect("a runtime").block_on(run(minutes, seed, instances, &mut io::stdout()))
    });
    match run.join() {
        Ok(Ok(true)) => ExitCode::SUCCESS,
        Ok(Ok(false) | Err(_)) => ExitCode::FAILURE,
        Err(_) => {
            let mut out = io::stdout();
            let _ = writeln!(out, "VIOLATED. To see it again:");
            let _ = writeln!(out, "  ./scripts/federation-soak {minutes} {seed} --instances {instances}");
            ExitCode::FAILURE
        }
    }
}

/// Whether everything held and happened.
async fn run(minutes: u64, seed: u64, instances: u32, out: &mut impl Write) -> io::Result<bool> {
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    writeln!(out, "seed {seed}, {minutes} minutes, {instances} instances; {cores} cores, load {}", load.trim())?;
    let mut mesh = Mesh::start().await;

    let mut figures = Figures::new(seed);
    figures.seen(&mesh, "nothing else on the rolls", out).await?;
    let begun = Instant::now();
    fill(&mesh.clusters[0], (0..instances).map(storm::id), "http://1").await;
    let filled = begun.elapsed();
    let standing = u64::from(instances) + figures.registered();
    for cluster in &mesh.clusters[1..] {
        for node in &cluster.nodes {
            let all = || async { (foreign(node).await? == standing).then_some(()) };
            wait_until("all are known", DEADLINE, all).await;
        }
    }
    let known = begun.elapsed();
    writeln!(
        out,
        "{instances} instances were registered in {filled:.1?}, and known at both others after {known:.1?}"
    )?;
    mesh.all_agree(DEADLINE).await;
    figures.seen(&mesh, "with all of them on the rolls", out).await?;
    figures.beside_a_resync(&mesh, out).await?;
    mesh.all_agree(DEADLINE).await;

    let (mut storm, end) = (Storm::new(seed, instances), Instant::now() + Duration::from_secs(minutes * 60));
    while Instant::now() < end {
        storm.strike(&mut mesh, out).await?;
    }
    let missing = storm.missing();
    writeln!(out, "\n{storm}")?;
    if minutes >= PROVES_FROM_MINUTES && !missing.is_empty() {
        writeln!(out, "NOT PROVED: {missing:?} of {:?} never happened", Fault::ALL)?;
        return Ok(false);
    }
    writeln!(out, "{} know exactly what each other has, each once and as its own.", NAMES.join(", "))?;
    Ok(true)
}
