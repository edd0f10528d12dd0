//! `rollcall cluster`.

use std::io::IsTerminal;
use std::time::Duration;

use rollcall_api::{ClusterStatusResponse, KeptBecause, Role};
use rollcall_client::Client;
use tokio::time::Instant;

use super::{attempt, backup, client, join_token, members, offline};
use crate::args::{Cluster, Global, StatusView, Wait};
use crate::failure::{Failure, with_sources};
use crate::output::{self, Format, Table};
use crate::process::Signals;

/// Nodes that were just started need this long at most on a busy machine.
const WAIT_DEFAULT: Duration = Duration::from_secs(60);

const POLL_PAUSE: Duration = Duration::from_millis(100);

/// How often a watched status is shown.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);

/// To the first line of a terminal, with nothing left of what stood there.
const CLEAR: &str = "\x1b[H\x1b[2J";

/// A node that does not answer in this time is not ready.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

pub(super) async fn run(global: &Global, command: &Cluster) -> Result<(), Failure> {
    match command {
        Cluster::Status(StatusView { watch: true }) => watch(global).await,
        Cluster::Status(_) => {
            let status = attempt("ask for the cluster status", client(global)?.cluster_status().await)?;
            output::show(global.output, &status, describe)
        }
        Cluster::Add(_)
        | Cluster::Promote(_)
        | Cluster::Demote(_)
        | Cluster::Remove(_)
        | Cluster::Replace(_)
        | Cluster::Relocate(_)
        | Cluster::Transfer(_) => members::run(global, &client(global)?, command).await,
        Cluster::JoinToken(args) => join_token::run(global, &client(global)?, args).await,
        Cluster::Wait(args) => {
            wait(&client(global)?, args, global.timeout.unwrap_or(WAIT_DEFAULT)).await?;
            output::print("ready\n")
        }
        Cluster::Backup(args) => backup::run(global, args).await,
        Cluster::Verify { file } => offline::verify(global, file),
        Cluster::Restore(args) => offline::restore(global, args),
        Cluster::Recover(args) => offline::recover(global, args),
    }
}

/// Shows the status again and again. At a terminal each picture takes the place of the one before; elsewhere they follow
/// one another, in JSON one a line. What fails is said and tried again: a cluster is watched when it is not well.
async fn watch(global: &Global) -> Result<(), Failure> {
    let (client, mut signals) = (client(global)?, Signals::new()?);
    let mut before: Option<(Instant, ClusterStatusResponse)> = None;
    loop {
        let asked = tokio::select! {
            asked = client.cluster_status() => asked,
            _ = signals.next() => return Ok(()),
        };
        let text = match (global.output, asked) {
            (Format::Json, Ok(status)) => {
                serde_json::to_string(&status).map_err(|source| Failure::Render { source })? + "\n"
            }
            (Format::Json, Err(error)) => {
                output::note(&format!("no cluster status: {}", with_sources(&error)));
                String::new()
            }
            (Format::Table, Err(error)) => format!("no cluster status: {}\n", with_sources(&error)),
            (Format::Table, Ok(status)) => {
                let now = Instant::now();
                let pace = before.as_ref().map_or_else(String::new, |(at, before)| pace(before, &status, now - *at));
                let text = describe(&status) + &pace;
                before = Some((now, status));
                text
            }
        };
        let drawn = global.output == Format::Table && std::io::stdout().is_terminal();
        let text = if drawn { format!("{CLEAR}{text}") } else { text };
        if !output::print_while_read(&text)? {
            return Ok(());
        }
        tokio::select! {
            () = tokio::time::sleep(WATCH_INTERVAL) => {}
            _ = signals.next() => return Ok(()),
        }
    }
}

/// What moved since the picture before.
fn pace(before: &ClusterStatusResponse, now: &ClusterStatusResponse, since: Duration) -> String {
    let per_second = |before: u64, now: u64| now.saturating_sub(before) as f64 / since.as_secs_f64();
    let changes = per_second(before.revision, now.revision);
    let entries = per_second(before.applied_index, now.applied_index);
    format!("\n{changes:.1} changes and {entries:.1} log entries per second\n\n")
}

/// Waits until what `wanted` names holds.
pub(super) async fn wait(client: &Client, wanted: &Wait, timeout: Duration) -> Result<(), Failure> {
    let deadline = Instant::now() + timeout;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let client = client.with_timeout(PROBE_TIMEOUT.min(left.max(POLL_PAUSE)));
        let Some(missing) = missing(&client, wanted).await else { return Ok(()) };
        if left.is_zero() {
            return Err(Failure::NotReady { timeout_ms: timeout.as_millis(), missing });
        }
        tokio::time::sleep(POLL_PAUSE.min(left)).await;
    }
}

/// What is still to come, if anything.
async fn missing(client: &Client, wanted: &Wait) -> Option<String> {
    if wanted.ready {
        let unready = client.ready().await.into_iter().find_map(|node| node.fault.map(|why| (node.endpoint, why)));
        if let Some((endpoint, why)) = unready {
            return Some(format!("{endpoint} {why}"));
        }
    }
    let voters_wanted = wanted.voters?;
    match client.cluster_status().await {
        Err(error) => Some(format!("no cluster status: {error}")),
        Ok(status) => {
            let voters = status.members.iter().filter(|member| member.role == Role::Voter);
            let reachable = voters.clone().filter(|member| member.reachable).count();
            let voters = voters.count();
            (voters < voters_wanted || reachable < voters).then(|| format!("{voters} voters, {reachable} reachable"))
        }
    }
}

/// What the leader is about to do by itself; nothing where it was not told to do anything.
fn autopilot(status: &ClusterStatusResponse) -> String {
    let Some(autopilot) = status.autopilot.as_ref().filter(|autopilot| autopilot.dead_node_removal_ms > 0) else {
        return String::new();
    };
    let seconds = |ms: u64| format!("{:.0} s", ms as f64 / 1_000.0);
    let after = seconds(autopilot.dead_node_removal_ms);
    let mut lines =
        vec![format!("removes after {after} out of reach, leaves {} voters or more", autopilot.voters_min)];
    lines.extend(autopilot.last_removed.map(|node| format!("node {node} was removed last")));
    lines.extend(autopilot.findings.iter().map(|finding| {
        let fate = match (finding.removal_in_ms, finding.kept_because) {
            (Some(ms), _) => format!("will be removed in {}", seconds(ms)),
            (None, Some(KeptBecause::VotersMin)) => "is kept: too few voters would be left".to_owned(),
            (None, Some(KeptBecause::QuorumAtRisk)) => "is kept: too few of the others answer".to_owned(),
            (None, Some(KeptBecause::BeingReplaced)) => "is kept: it is being replaced".to_owned(),
            (None, None) => "will be kept".to_owned(),
        };
        format!("node {} is out of reach for {} and {fate}", finding.node_id, seconds(finding.silent_ms))
    }));
    lines
        .iter()
        .enumerate()
        .map(|(n, line)| format!("{:<13}  {line}\n", if n == 0 { "autopilot" } else { "" }))
        .collect()
}

/// The cluster's, and who keeps it from being higher.
fn feature_level(status: &ClusterStatusResponse) -> String {
    let level = status.feature_level;
    let highest = status.members.iter().map(|member| member.feature_level).max().unwrap_or(level);
    if highest <= level {
        return level.to_string();
    }
    let behind = status.members.iter().filter(|member| member.feature_level < highest);
    let behind: Vec<_> =
        behind.map(|member| format!("node {} is at {}", member.node_id, member.feature_level)).collect();
    format!("{level}; it will be {highest} when all nodes have it: {}", behind.join(", "))
}

fn describe(status: &ClusterStatusResponse) -> String {
    let leader = status.leader_id.map_or_else(|| "none".to_owned(), |leader| leader.to_string());
    let mut text = output::fields(&[
        ("cluster", format!("{}, epoch {}", status.cluster_id, status.epoch)),
        ("leader", format!("{leader}, term {}", status.term)),
        ("revision", status.revision.to_string()),
        ("asked node", status.node_id.to_string()),
        ("log", format!("applied {}, committed {}", status.applied_index, status.committed_index)),
        ("feature level", feature_level(status)),
        ("cluster time", format!("{} ms", status.cluster_time_ms)),
    ]);
    text += &autopilot(status);
    let unknown = || "?".to_owned();
    let mut table = Table::new(&["NODE", "ROLE", "CLIENTS", "PEERS", "REACHABLE", "APPLIED", "LAG", "VERSION"]);
    for member in &status.members {
        let role = match member.role {
            Role::Voter if status.leader_id == Some(member.node_id) => "leader",
            Role::Voter => "voter",
            Role::Learner => "learner",
        };
        table.row(vec![
            member.node_id.to_string(),
            role.to_owned(),
            member.api_address.clone(),
            member.peer_address.clone(),
            if member.reachable { "yes" } else { "no" }.to_owned(),
            member.applied_index.map_or_else(unknown, |index| index.to_string()),
            member.lag_entries.map_or_else(unknown, |lag| lag.to_string()),
            member.version.clone().unwrap_or_else(unknown),
        ]);
    }
    text.push('\n');
    text.push_str(&table.render());
    text
}
