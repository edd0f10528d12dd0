//! Handing over the lead: asked for by an operator, or because the leader is about to go.

use std::collections::BTreeSet;
use std::time::Duration;

use openraft::async_runtime::WatchReceiver;
use rollcall_storage::NodeId;

use crate::core::Core;
use crate::operate::{Objection, OperateError, Operated, Terms, index, nodes, refused, voters};

/// Of these voters the one that answers and whose log reaches furthest, but not this node.
pub(crate) fn best(core: &Core, voters: &BTreeSet<NodeId>) -> Option<NodeId> {
    let metrics = core.metrics();
    let replication = metrics.replication.as_ref()?;
    voters
        .iter()
        .filter(|id| **id != core.node_id && core.answers(**id, core.quorum_lease()))
        .filter_map(|id| Some((replication.get(id)?.as_ref()?.index, *id)))
        .max()
        .map(|(_, id)| id)
}

/// Gives the lead to a voter, so that clients wait a round trip and not an election. Tells whether anybody took it.
pub(crate) async fn hand_over(core: &Core, successor: NodeId) -> bool {
    if core.raft.trigger().transfer_leader(successor).await.is_err() {
        return false;
    }
    let patience = Duration::from_millis(2 * core.options.election_timeout_ms_max);
    let mut server = core.raft.server_metrics();
    let moved = async {
        while server.borrow_watched().current_leader.is_none_or(|leader| leader == core.node_id) {
            if server.changed().await.is_err() {
                return;
            }
        }
    };
    let moved = tokio::time::timeout(patience, moved).await.is_ok();
    if moved {
        tracing::info!(successor, "handed over the lead");
    } else {
        tracing::warn!(successor, "no one took over the lead in time; the others will elect");
    }
    moved
}

/// The leader's part of an operator's request.
pub(crate) async fn transfer(core: &Core, to: Option<NodeId>, terms: Terms) -> Result<Operated, OperateError> {
    let metrics = core.metrics();
    let (nodes, voters) = (nodes(&metrics), voters(&metrics));
    let operated = |leader_id| Operated {
        node_id: Some(leader_id),
        leader_id,
        membership_index: index(&metrics),
        voters: voters.clone(),
        learners: nodes.keys().filter(|id| !voters.contains(id)).copied().collect(),
        warnings: Vec::new(),
    };
    let successor = match to {
        Some(to) if to == core.node_id => return Ok(operated(to)),
        Some(node_id) if !nodes.contains_key(&node_id) => return Err(OperateError::NoSuchNode { node_id }),
        Some(to) if !voters.contains(&to) => {
            let reason = format!("node {to} is a learner; promote it before it can lead");
            return Err(refused(Objection::NotAVoter, reason));
        }
        Some(to) if !core.answers(to, core.quorum_lease()) => {
            return Err(refused(Objection::NodeUnreachable, format!("node {to} does not answer")));
        }
        Some(to) => to,
        None => best(core, &voters).ok_or_else(|| {
            refused(Objection::NodeUnreachable, "no other voter answers that could take over the lead")
        })?,
    };
    if terms.dry_run {
        return Ok(operated(successor));
    }
    if !hand_over(core, successor).await {
        return Err(OperateError::Unknown);
    }
    Ok(operated(core.current_leader().unwrap_or(successor)))
}

/// Gives the lead to the follower that has got furthest.
pub(crate) async fn leave(core: &Core) {
    let metrics = core.metrics();
    if !metrics.state.is_leader() {
        return;
    }
    let voters = metrics.membership_config.membership().voter_ids().collect();
    if let Some(successor) = best(core, &voters) {
        hand_over(core, successor).await;
    }
}
