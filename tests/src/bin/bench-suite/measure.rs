//! The measurements themselves: a load generator's run, or what is seen of nodes that are started, killed and left alone.

use std::error::Error;
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rollcall_bench::{Percentiles, Report};
use rollcall_tests::{pass, wait_until};
use serde_json::{Map, Value, json};
use tokio::process::Command;

use crate::plan::{Action, Scale, Step};
use crate::running::Running;
use crate::store::Target;
use crate::watch::{LogWatch, MemoryWatch};

/// How much of what a program complained of is told.
const COMPLAINT_CHARS_MAX: usize = 400;

/// An applied entry reaches the last node within a few heartbeats.
const REST_DEADLINE: Duration = Duration::from_secs(30);

/// Why a load generator brought no report.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MeasureError {
    #[error("start the load generator")]
    Start(#[source] std::io::Error),
    #[error("the load generator ended with {status}: {complaint}")]
    Ended { status: String, complaint: String },
    #[error("the load generator printed no report")]
    Parse(#[source] serde_json::Error),
    #[error("the report does not say which process was ended")]
    NobodyEnded,
}

/// What was done, and what came of it.
pub(crate) struct Measured {
    pub(crate) command: String,
    pub(crate) report: Report,
}

/// Does one step; answers a report for each part of it.
pub(crate) async fn perform(
    running: &mut Running,
    step: &Step,
    scale: &Scale,
) -> Result<Vec<Measured>, Box<dyn Error>> {
    match &step.action {
        Action::Load(arguments) => Ok(vec![load(running, arguments).await?]),
        Action::Failover(arguments) => {
            let mut all = Vec::new();
            for _ in 0..scale.kills {
                let measured = generate(running, arguments).await?;
                let pid = ended_pid(&measured.report).ok_or(MeasureError::NobodyEnded)?;
                running.revive(pid).await;
                all.push(measured);
            }
            Ok(all)
        }
        Action::Restart => Ok(vec![restart(running).await]),
        Action::Idle(fill) => Ok(vec![idle(running, fill, scale.idle_duration).await?]),
        Action::StartEmpty => unreachable!("this begins without a cluster"),
        Action::Flat(arguments) => Ok(vec![flat(running, arguments).await?]),
    }
}

/// Runs the load generator on this cluster.
async fn generate(running: &Running, arguments: &[String]) -> Result<Measured, MeasureError> {
    let (command, name) = running.generator();
    let report = run(command, arguments).await?;
    Ok(Measured { command: format!("{name} {}", arguments.join(" ")), report })
}

async fn run(mut command: Command, arguments: &[String]) -> Result<Report, MeasureError> {
    command.args(arguments).stdin(Stdio::null()).kill_on_drop(true);
    let output = command.output().await.map_err(MeasureError::Start)?;
    // 1 is also said of errors that were counted, and then there is a report.
    if !output.status.success() && output.stdout.is_empty() {
        let complaint: String = String::from_utf8_lossy(&output.stderr).chars().take(COMPLAINT_CHARS_MAX).collect();
        return Err(MeasureError::Ended {
            status: status_text(output.status),
            complaint: complaint.trim().to_owned(),
        });
    }
    serde_json::from_slice(&output.stdout).map_err(MeasureError::Parse)
}

fn status_text(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("code {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => status.to_string(),
    }
}

/// A run of the load generator, with the growth of the nodes' logs in its window.
async fn load(running: &Running, arguments: &[String]) -> Result<Measured, MeasureError> {
    let mut log = LogWatch::new(running.log_directories());
    let mut measured = tokio::select! {
        measured = generate(running, arguments) => measured?,
        () = log.run() => unreachable!("a watch never ends by itself"),
    };
    log.look();
    let report = &mut measured.report;
    if report.items > 0
        && let Some(bytes) = log.growth_until_rest(Duration::from_secs_f64(report.seconds))
    {
        report.extra.insert("log_bytes_per_node".to_owned(), bytes.round().into());
        report.extra.insert("log_bytes_per_item".to_owned(), (bytes / report.items as f64).into());
    }
    Ok(measured)
}

/// The process that the load generator ended.
fn ended_pid(report: &Report) -> Option<u32> {
    report.extra.get("killed_pid")?.as_u64()?.try_into().ok()
}

async fn restart(running: &mut Running) -> Measured {
    let (count, took) = running.restart().await;
    let command = "suite: kill -9 of a follower, then its start until it counts every registration".to_owned();
    Measured {
        command,
        report: own_report(
            "restart",
            running.target(),
            took,
            json!({ "registrations": count, "answers_ms": ms(took) }),
        ),
    }
}

/// Starts one node that has no data.
pub(crate) async fn start_empty(start: impl Future<Output = Running>) -> (Running, Measured) {
    let begun = std::time::Instant::now();
    let running = start.await;
    let took = begun.elapsed();
    let command = "suite: start of one node without data until it is ready".to_owned();
    let report = own_report("start-empty", running.target(), took, json!({ "ready_ms": ms(took) }));
    (running, Measured { command, report })
}

/// Fills the roll, waits until all nodes have it all, and sees whether anything is written while nobody asks for it.
async fn idle(running: &Running, fill: &[String], duration: Duration) -> Result<Measured, MeasureError> {
    let filled = generate(running, fill).await?;
    let at_rest = || async {
        let before = running.applied().await;
        (before.windows(2).all(|pair| pair[0] == pair[1]) && before == running.applied().await).then_some(before)
    };
    let before = wait_until("all nodes have applied the same", REST_DEADLINE, at_rest).await;
    pass(duration).await;
    let after = running.applied().await;
    let entries: Vec<u64> = before.iter().zip(&after).map(|(before, after)| after - before).collect();
    let extra = json!({ "entries": entries.iter().max(), "applied_begin": before, "applied_end": after, "filled": filled.report.items });
    let command = format!("{}; then nothing for {} s", filled.command, duration.as_secs_f64());
    Ok(Measured { command, report: own_report("idle", running.target(), duration, extra) })
}

/// A long load, and by how much the nodes' memory grew from the second of ten parts of it to the last.
async fn flat(running: &Running, arguments: &[String]) -> Result<Measured, MeasureError> {
    let mut memory = MemoryWatch::new(running.processes());
    let mut measured = tokio::select! {
        measured = generate(running, arguments) => measured?,
        () = memory.run() => unreachable!("a watch never ends by itself"),
    };
    // The load is at the end of the run; what stands before it is its set-up.
    let length = Duration::from_secs_f64(measured.report.seconds);
    let whole = memory.samples.last().map_or(length, |(at, _)| *at);
    let early = memory.at(whole.saturating_sub(length) + length.mul_f64(0.2)).unwrap_or_default();
    let late = memory.at(whole).unwrap_or_default();
    let growths = early.iter().zip(late).filter_map(|(early, late)| Some((*late)? as f64 / (*early)? as f64));
    let extra = &mut measured.report.extra;
    extra.insert("rss_bytes_early".to_owned(), json!(early));
    extra.insert("rss_bytes_late".to_owned(), json!(late));
    extra.insert("rss_growth".to_owned(), json!(growths.reduce(f64::max)));
    Ok(measured)
}

fn ms(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 10_000.0).round() / 10.0
}

/// A report of what the suite measured by itself.
fn own_report(work: &str, target: Target, took: Duration, extra: Value) -> Report {
    let Value::Object(extra) = extra else { unreachable!("extras are given as objects") };
    Report {
        work: work.to_owned(),
        target: target.word().to_owned(),
        parameters: Map::new(),
        operations: 0,
        items: 0,
        errors: 0,
        error_examples: Vec::new(),
        seconds: took.as_secs_f64(),
        operations_per_s: 0.0,
        items_per_s: 0.0,
        latency_us: Percentiles::default(),
        client_cpu_us_per_operation: None,
        server_cpu_us_per_operation: None,
        server_cpu_us_per_item: None,
        nodes: Vec::new(),
        extra,
    }
}
