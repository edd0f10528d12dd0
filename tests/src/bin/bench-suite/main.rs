//! The comparison suite: real clusters of Rollcall and, where it is installed, of etcd, in turns under the same load on
//! the same machine; a document with every figure beside its goal, and a picture.
//!
//! - Only one cluster runs at a time, with three nodes on loopback and its data on a real disk.
//! - Every number in the document comes from a JSON report that is kept. What failed is shown as failed.
//! - A document's other parts are left as they are: only what stands between its marks is replaced.
//!
//! Read in this order: `plan` (what is measured), `rows` (what is shown, and the goals), `suite` (the order of it),
//! `measure`, then `document` and `plot`.

mod document;
mod figures;
#[cfg(test)]
mod golden;
mod machine;
mod measure;
mod plan;
mod plot;
mod rows;
mod running;
mod store;
mod suite;
mod watch;

use std::error::Error;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use rollcall_bench::args::{parse_duration, parse_positive_duration};
use rollcall_bench::chain;

/// Measure Rollcall, and etcd beside it
#[derive(Debug, Parser)]
#[command(name = "bench-suite")]
pub(crate) struct Args {
    /// How often everything is measured
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    repetitions: u32,
    /// How long each load is measured
    #[arg(long, default_value = "10s", value_parser = parse_positive_duration)]
    duration: Duration,
    /// How long each load runs before it is measured
    #[arg(long, default_value = "3s", value_parser = parse_duration)]
    warm_up: Duration,
    /// Measure only these, and what shares a cluster with them: `register-64`, `heartbeat`, `memory` …
    #[arg(long, value_name = "ROW,…", value_delimiter = ',')]
    only: Vec<String>,
    /// Measure also what takes minutes: a million registrations kept alive, memory over ten minutes
    #[arg(long)]
    long: bool,
    /// Everything once and tiny, to see that it works; the figures mean nothing
    #[arg(long)]
    quick: bool,
    /// Leave etcd out even if it is installed
    #[arg(long)]
    without_etcd: bool,
    /// Where the raw reports go; those of an earlier run that are not measured again stay, and are shown with the new
    /// [default: a new directory below bench/ in the target directory]
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,
    /// Where the nodes keep their data; must be on a disk [default: below the target directory]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// The document whose measured part is replaced; the picture goes beside it [default: docs/BENCHMARKS.md; with
    /// --quick or --only, BENCHMARKS.md in the output directory]
    #[arg(long, value_name = "FILE")]
    document: Option<PathBuf>,
    /// Measure nothing; make the document anew from the reports in --output
    #[arg(long, requires = "output")]
    render: bool,
    /// List what can be measured
    #[arg(long)]
    list: bool,
}

/// One thread, because the nodes die with the thread that started them.
#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match suite::run(Args::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr().lock(), "bench-suite: {}", chain(&*error));
            ExitCode::FAILURE
        }
    }
}

/// Writes a line for whoever waits. A reader that went away has seen enough.
pub(crate) fn tell(line: &str) {
    let mut stdout = std::io::stdout().lock();
    let _ = writeln!(stdout, "{line}").and_then(|()| stdout.flush());
}

pub(crate) type Outcome<T> = Result<T, Box<dyn Error>>;
