//! `rollcall cluster`.

use std::time::Duration;

use rollcall_api::{ClusterStatusResponse, Role};
use rollcall_client::Client;
use tokio::time::Instant;

use super::{attempt, backup, client, members, offline};
use crate::args::{Cluster, Global, Wait};
use crate::failure::Failure;
use crate::output::{self, Table};

/// Nodes that were just started need this long at most on a busy machine.
const WAIT_DEFAULT: Duration = Duration::from_secs(60);

const POLL_PAUSE: Duration = Duration::from_millis(100);

/// A node that does not answer in this time is not ready.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

pub(super) async fn run(global: &Global, command: &Cluster) -> Result<(), Failure> {
    match command {
        Cluster::Status => {
            let status = attempt("ask for the cluster status", client(global)?.cluster_status().await)?;
            output::show(global.output, &status, describe)
        }
        Cluster::Add(_)
        | Cluster::Promote(_)
        | Cluster::Demote(_)
        | Cluster::Remove(_)
        | Cluster::Replace(_)
        | Cluster::Transfer(_) => members::run(global, &client(global)?, command).await,
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

fn describe(status: &ClusterStatusResponse) -> String {
    let leader = status.leader_id.map_or_else(|| "none".to_owned(), |leader| leader.to_string());
    let mut text = output::fields(&[
        ("cluster", format!("{}, epoch {}", status.cluster_id, status.epoch)),
        ("leader", format!("{leader}, term {}", status.term)),
        ("revision", status.revision.to_string()),
        ("asked node", status.node_id.to_string()),
        ("log", format!("applied {}, committed {}", status.applied_index, status.committed_index)),
        ("cluster time", format!("{} ms", status.cluster_time_ms)),
    ]);
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
