//! The load generator for etcd: the works of `rollcall bench` with the same meaning, the same flags and the same report,
//! by the same engine, so that the two can stand side by side.
//!
//! - A registration is a lease and a key that hangs on it, whose value is the document that Rollcall would be given.
//! - A heartbeat is one round trip of a lease's keep-alive stream; every session has its own stream. etcd does not
//!   replicate a renewal: a follower hands it to the leader, and the leader keeps it in memory alone.
//! - A lookup is one range over the keys of a service.
//! - A watch is one over the keys of a service, each on a connection of its own; a change is a put of a key that is there.
//! - Each session has a connection of its own to one node, as in `rollcall bench`.
//!
//! Read in this order: `target` (which nodes), `work` (what is done), `failover`, `watch`, `watch_expiry`.

mod failover;
mod target;
mod watch;
mod watch_expiry;
mod work;

use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use rollcall_bench::args::parse_positive_duration;
use rollcall_bench::{Report, chain, raise_open_files};

use crate::target::Target;
use crate::work::Work;

/// Put load on an etcd cluster and measure it
#[derive(Debug, Parser)]
struct Cli {
    /// A node's client address; repeat or separate by commas
    #[arg(
        long = "endpoint",
        env = "ETCD_ENDPOINTS",
        value_name = "HOST:PORT",
        value_delimiter = ',',
        required = true
    )]
    endpoints: Vec<String>,
    #[arg(short, long, value_enum, default_value = "table")]
    output: Format,
    /// For each request
    #[arg(long, default_value = "10s", value_parser = parse_positive_duration)]
    timeout: Duration,
    #[command(subcommand)]
    work: Work,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    Table,
    Json,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    let tolerate_errors = cli.work.common().tolerate_errors;
    match measure(&cli).await {
        Ok(report) if print(cli.output, &report).is_err() => ExitCode::FAILURE,
        Ok(report) if report.errors > 0 && !tolerate_errors => ExitCode::FAILURE,
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr().lock(), "bench-etcd: {}", chain(&*error));
            ExitCode::FAILURE
        }
    }
}

async fn measure(cli: &Cli) -> Result<Report, Box<dyn std::error::Error>> {
    raise_open_files();
    let target = Target::find(cli.endpoints.clone(), cli.timeout).await?;
    cli.work.run(&target).await
}

fn print(format: Format, report: &Report) -> std::io::Result<()> {
    let text = match format {
        Format::Table => report.table(),
        Format::Json => serde_json::to_string_pretty(report)? + "\n",
    };
    std::io::stdout().lock().write_all(text.as_bytes())
}
