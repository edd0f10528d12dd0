//! `rollcall cluster add`, `promote`, `demote`, `remove`, `replace`, `relocate`, `transfer`.
//!
//! The rules are the server's. This asks for a change of the membership that it has seen, so that of two operators one is
//! refused, and then follows the node that catches up.

use std::io::IsTerminal;
use std::time::Duration;

use rollcall_client::api::{
    AddMemberRequest, ClusterChangeResponse, ClusterStatusResponse, MemberInfo, RelocateMemberRequest,
    ReplaceMemberRequest, Role, TransferLeaderRequest,
};
use rollcall_client::{ChangeTerms, Client, ClusterChange};
use tokio::time::Instant;

use super::attempt;
use crate::args::{Cluster, Follow, Global};
use crate::failure::Failure;
use crate::output::{self, Format};

/// A large state over a slow wire takes minutes.
const FOLLOW_DEFAULT: Duration = Duration::from_secs(600);

const POLL_PAUSE: Duration = Duration::from_millis(200);

/// How often progress is told where it cannot be drawn over.
const TELL_INTERVAL: Duration = Duration::from_secs(5);

/// When a change is complete.
#[derive(Clone, Copy)]
enum Goal {
    Now,
    /// The node votes.
    Voter(u64),
    /// The node has caught up.
    Current(u64),
    /// The one votes and the other is gone.
    Replaced {
        by: u64,
        gone: u64,
    },
}

pub(super) async fn run(global: &Global, client: &Client, command: &Cluster) -> Result<(), Failure> {
    let seen = attempt("ask for the cluster status", client.cluster_status().await)?;
    let terms = |dry_run, force| ChangeTerms { dry_run, force, if_membership: Some(seen.membership_index) };
    let (action, change, terms, wait) = match command {
        Cluster::Add(add) => {
            let role = add.learner.then_some(Role::Learner);
            let request = AddMemberRequest {
                peer_address: add.peer_address.clone(),
                api_address: add.api_address.clone(),
                role,
            };
            let action = format!("add the node at {}", add.peer_address);
            (action, ClusterChange::Add(request), terms(add.follow.dry_run, false), waits(&add.follow))
        }
        Cluster::Promote(change) => {
            let follow = &change.follow;
            if !follow.no_wait && !follow.dry_run {
                caught_up(global, client, change.node).await?;
            }
            let promote = ClusterChange::Promote { node_id: change.node };
            // The wait may have been long; what matters is that it is still a learner, which the server checks.
            let terms = ChangeTerms { dry_run: follow.dry_run, force: change.force, if_membership: None };
            (format!("promote node {}", change.node), promote, terms, false)
        }
        Cluster::Demote(change) => {
            let demote = ClusterChange::Demote { node_id: change.node };
            (format!("demote node {}", change.node), demote, terms(change.follow.dry_run, change.force), false)
        }
        Cluster::Remove(change) => {
            let remove = ClusterChange::Remove { node_id: change.node };
            (format!("remove node {}", change.node), remove, terms(change.follow.dry_run, change.force), false)
        }
        Cluster::Replace(replace) => {
            let successor = ReplaceMemberRequest {
                peer_address: replace.peer_address.clone(),
                api_address: replace.api_address.clone(),
            };
            let action = format!("replace node {} by the one at {}", replace.node, replace.peer_address);
            let change = ClusterChange::Replace { node_id: replace.node, successor };
            (action, change, terms(replace.follow.dry_run, replace.force), waits(&replace.follow))
        }
        Cluster::Relocate(relocate) => {
            let to = RelocateMemberRequest {
                peer_address: relocate.peer_address.clone(),
                api_address: relocate.api_address.clone(),
            };
            let action = format!("have node {} be reached at {}", relocate.node, relocate.peer_address);
            (action, ClusterChange::Relocate { node_id: relocate.node, to }, terms(relocate.dry_run, false), false)
        }
        Cluster::Transfer(transfer) => {
            let to = TransferLeaderRequest { node_id: transfer.node };
            ("hand over the lead".to_owned(), ClusterChange::Transfer(to), terms(transfer.dry_run, false), false)
        }
        _ => unreachable!("the others change no membership"),
    };
    let answer = attempt(action, client.change_cluster(&change, terms).await)?;
    answer.warnings.iter().for_each(|warning| output::note(&format!("note: {warning}")));
    let goal = match (&change, answer.node_id.filter(|_| wait)) {
        (ClusterChange::Add(add), Some(id)) if add.role == Some(Role::Learner) => Goal::Current(id),
        (ClusterChange::Add(_), Some(id)) => Goal::Voter(id),
        (ClusterChange::Replace { node_id, .. }, Some(id)) if id != *node_id => {
            Goal::Replaced { by: id, gone: *node_id }
        }
        _ => Goal::Now,
    };
    let after = follow(global, client, goal).await?;
    output::show(global.output, &shown(answer, after), |answer| describe(&change, answer))
}

fn waits(follow: &Follow) -> bool {
    !follow.no_wait && !follow.dry_run
}

/// The answer with what has become of the membership since.
fn shown(answer: ClusterChangeResponse, after: Option<ClusterStatusResponse>) -> ClusterChangeResponse {
    let Some(after) = after else { return answer };
    let ids = |role| after.members.iter().filter(move |member| member.role == role).map(|member| member.node_id);
    ClusterChangeResponse {
        leader_id: after.leader_id.unwrap_or(answer.leader_id),
        membership_index: after.membership_index,
        voters: ids(Role::Voter).collect(),
        learners: ids(Role::Learner).collect(),
        ..answer
    }
}

async fn caught_up(global: &Global, client: &Client, node: u64) -> Result<(), Failure> {
    let status = attempt("ask for the cluster status", client.cluster_status().await)?;
    // Who is not there, or votes already, is the server's to judge.
    let waits = status.members.iter().any(|member| member.node_id == node && member.role == Role::Learner);
    if waits { follow(global, client, Goal::Current(node)).await.map(drop) } else { Ok(()) }
}

/// Waits until the goal is reached and tells meanwhile how far it is. The status it was reached in.
async fn follow(global: &Global, client: &Client, goal: Goal) -> Result<Option<ClusterStatusResponse>, Failure> {
    let timeout = global.timeout.unwrap_or(FOLLOW_DEFAULT);
    if matches!(goal, Goal::Now) {
        return Ok(None);
    }
    let begun = Instant::now();
    let mut progress = Progress::new(global.output);
    loop {
        let missing = match client.cluster_status().await {
            Ok(status) => match missing(&status, goal) {
                None => {
                    progress.end();
                    return Ok(Some(status));
                }
                Some((missing, behind)) => {
                    progress.tell(&missing, behind);
                    missing
                }
            },
            Err(error) => format!("no cluster status: {error}"),
        };
        if begun.elapsed() >= timeout {
            progress.end();
            return Err(Failure::Unfinished { timeout_ms: timeout.as_millis(), missing });
        }
        tokio::time::sleep(POLL_PAUSE).await;
    }
}

/// What a goal still lacks, and by how many log entries.
fn missing(status: &ClusterStatusResponse, goal: Goal) -> Option<(String, Option<u64>)> {
    let member = |id: u64| status.members.iter().find(|member| member.node_id == id);
    let behind = |id: u64, member: Option<&MemberInfo>| match member {
        None => (format!("node {id} is no member"), None),
        Some(MemberInfo { lag_entries: Some(lag), .. }) => (format!("node {id} catches up"), Some(*lag)),
        Some(_) => (format!("node {id} does not answer yet"), None),
    };
    match goal {
        Goal::Now => None,
        Goal::Voter(id) => match member(id) {
            Some(MemberInfo { role: Role::Voter, .. }) => None,
            other => Some(behind(id, other)),
        },
        Goal::Current(id) => match member(id) {
            Some(MemberInfo { lag_entries: Some(0..=100), .. }) => None,
            other => Some(behind(id, other)),
        },
        Goal::Replaced { by, gone } => match (member(by), member(gone)) {
            (Some(MemberInfo { role: Role::Voter, .. }), None) => None,
            (Some(MemberInfo { role: Role::Voter, .. }), Some(_)) => {
                Some((format!("node {gone} is still there"), None))
            }
            (other, _) => Some(behind(by, other)),
        },
    }
}

/// Tells people how far a node is that catches up.
struct Progress {
    draws: bool,
    begun: Instant,
    told_at: Option<Instant>,
    /// The lag that was seen first, for the rate.
    first: Option<(Instant, u64)>,
}

impl Progress {
    fn new(format: Format) -> Self {
        let draws = std::io::stderr().is_terminal() && format == Format::Table;
        Self { draws, begun: Instant::now(), told_at: None, first: None }
    }

    fn tell(&mut self, what: &str, behind: Option<u64>) {
        let now = Instant::now();
        let mut line = what.to_owned();
        if let Some(behind) = behind {
            let (at, first) = *self.first.get_or_insert((now, behind));
            line += &format!(": {behind} entries behind");
            let done = first.saturating_sub(behind);
            let seconds = (now - at).as_secs_f64();
            if done > 0 && seconds >= 1.0 {
                let rate = done as f64 / seconds;
                line += &format!(", {rate:.0} per second, about {:.0} s left", behind as f64 / rate);
            }
        }
        if self.draws {
            output::progress(&line);
            self.told_at = Some(now);
        } else if now - self.told_at.unwrap_or(self.begun) >= TELL_INTERVAL {
            output::note(&line);
            self.told_at = Some(now);
        }
    }

    fn end(&self) {
        if self.draws && self.told_at.is_some() {
            output::progress("");
        }
    }
}

fn describe(change: &ClusterChange, answer: &ClusterChangeResponse) -> String {
    let node = answer.node_id.map_or_else(|| "the node".to_owned(), |id| format!("node {id}"));
    let done = match change {
        ClusterChange::Add(_) => format!("{node} was added"),
        ClusterChange::Promote { .. } => format!("{node} votes"),
        ClusterChange::Demote { .. } => format!("{node} is a learner"),
        ClusterChange::Remove { .. } => format!("{node} was removed"),
        ClusterChange::Replace { node_id, .. } => format!("{node} takes the place of node {node_id}"),
        ClusterChange::Relocate { to, .. } => format!("{node} is reached at {}", to.peer_address),
        ClusterChange::Transfer(_) => format!("{node} leads"),
    };
    let ids = |ids: &[u64]| match ids {
        [] => "none".to_owned(),
        ids => ids.iter().map(u64::to_string).collect::<Vec<_>>().join(", "),
    };
    let mut text = if answer.dry_run { format!("nothing was changed; it would be: {done}\n") } else { done + "\n" };
    text += &output::fields(&[
        ("leader", answer.leader_id.to_string()),
        ("voters", ids(&answer.voters)),
        ("learners", ids(&answer.learners)),
    ]);
    text
}
