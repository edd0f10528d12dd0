//! Who belongs to the cluster: taking nodes in, promoting them, and telling who is there.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use openraft::ChangeMembers;
use rollcall_registry::{ClusterTime, Epoch, Revision};
use rollcall_storage::{Member, NodeId};
use tokio::time::MissedTickBehavior;

use crate::core::{Core, Metrics};
use crate::message::{InfoResponse, JoinRequest, JoinResponse};
use crate::peer::PeerRoute;

/// How often the leader looks for learners that have caught up.
const PROMOTION_INTERVAL: Duration = Duration::from_millis(200);

/// A learner that lacks no more than this has caught up: a voter of its kind would not hold up a commit for long.
const LAG_ENTRIES_MAX: u64 = 100;

/// How long a member may take to say how it is before it counts as unreachable.
const INFO_TIMEOUT: Duration = Duration::from_millis(500);

/// Takes in a node that has no identity yet: an id from the log, then a learner.
pub(crate) async fn take_in(core: &Core, request: JoinRequest) -> JoinResponse {
    let _one_at_a_time = core.membership.lock().await;
    let not_leader = || JoinResponse::NotLeader {
        leader_peer_address: core
            .current_leader()
            .filter(|leader| *leader != core.node_id)
            .and_then(|leader| core.peer_address(leader)),
    };
    if core.lead().is_none() {
        return not_leader();
    }
    let membership = core.metrics().membership_config;
    let voters: BTreeSet<NodeId> = membership.membership().voter_ids().collect();
    for (id, member) in membership.membership().nodes() {
        if member.peer_address != request.peer_address {
            continue;
        }
        if voters.contains(id) {
            let reason = format!(
                "node {id} is a voter at {}; if its data directory is lost, remove node {id} from the cluster first",
                member.peer_address
            );
            return JoinResponse::Refused { reason };
        }
        if core.answers(*id, 4 * core.quorum_lease()) {
            let reason = format!("node {id} at {} is a member and answers", member.peer_address);
            return JoinResponse::Refused { reason };
        }
        // A join that was cut short: its id is spent, and nothing ever ran under it as a voter.
        let forget = ChangeMembers::RemoveNodes(BTreeSet::from([*id]));
        if let Err(error) = core.raft.change_membership(forget, true).await {
            tracing::warn!(%error, node = id, "cannot forget the learner of an earlier join");
            return not_leader();
        }
    }
    // An entry's index is never given twice, so it makes an id that was never used before.
    let node_id = match core.raft.write_blank().await {
        Ok(written) => written.log_id.index(),
        Err(error) => {
            tracing::warn!(%error, "cannot allot a node id");
            return not_leader();
        }
    };
    let JoinRequest { api_address, peer_address, learner, token: _ } = request;
    let member = Member { api_address, peer_address, learner };
    match core.raft.add_learner(node_id, member.clone(), false).await {
        Ok(_) => {
            tracing::info!(node = node_id, %member, "a node was taken in as a learner");
            JoinResponse::Welcome { cluster: core.cluster, node_id }
        }
        Err(error) => {
            tracing::warn!(%error, node = node_id, "cannot take in a node");
            not_leader()
        }
    }
}

/// On the leader: makes voters of learners that have caught up, and completes a change that an earlier leader began.
pub(crate) async fn promote(core: Arc<Core>) {
    let mut ticks = tokio::time::interval(PROMOTION_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = core.stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        let metrics = core.metrics();
        let Some(change) = next_promotion(&metrics) else { continue };
        let _one_at_a_time = core.membership.lock().await;
        tokio::select! {
            () = core.stop.cancelled() => return,
            changed = core.raft.change_membership(change.clone(), true) => match changed {
                Ok(_) => tracing::info!(?change, "the membership changed"),
                Err(error) => tracing::warn!(%error, ?change, "the membership did not change"),
            },
        }
    }
}

fn next_promotion(metrics: &Metrics) -> Option<ChangeMembers<NodeId, Member>> {
    let replication = metrics.replication.as_ref()?;
    let membership = metrics.membership_config.membership();
    if metrics.membership_config != metrics.committed_membership_config {
        return None;
    }
    if membership.get_joint_config().len() > 1 {
        return Some(ChangeMembers::AddVoterIds(BTreeSet::new()));
    }
    let last = metrics.last_log_index.unwrap_or(0);
    let caught_up = membership.learner_ids().find(|id| {
        let wanted = membership.get_node(id).is_some_and(|member| !member.learner);
        let matched = replication.get(id).and_then(|log_id| log_id.as_ref()).map(|log_id| log_id.index());
        wanted && matched.is_some_and(|matched| matched.saturating_add(LAG_ENTRIES_MAX) >= last)
    })?;
    Some(ChangeMembers::AddVoterIds(BTreeSet::from([caught_up])))
}

/// The cluster as one node sees it.
#[derive(Clone, Debug)]
pub struct ClusterStatus {
    pub cluster_id: String,
    pub epoch: Epoch,
    pub node_id: NodeId,
    pub leader_id: Option<NodeId>,
    pub term: u64,
    pub revision: Revision,
    pub applied_index: u64,
    pub committed_index: u64,
    /// Of the applied state.
    pub cluster_time: ClusterTime,
    pub members: Vec<MemberStatus>,
}

#[derive(Clone, Debug)]
pub struct MemberStatus {
    pub node_id: NodeId,
    pub voter: bool,
    pub api_address: String,
    pub peer_address: String,
    /// Answered this node just now.
    pub reachable: bool,
    /// Unknown while the member is out of reach.
    pub applied_index: Option<u64>,
    /// How far it is behind what this node knows to be committed.
    pub lag_entries: Option<u64>,
    pub version: Option<String>,
}

pub(crate) fn info(core: &Core) -> InfoResponse {
    InfoResponse {
        cluster: core.cluster,
        node_id: core.node_id,
        applied_index: core.roll.applied_index(),
        last_log_id: core.log_end.last(),
        version: core.options.version.to_owned(),
    }
}

/// What a member says of itself, if it answers in time.
pub(crate) async fn ask_info(core: &Core, id: NodeId, member: &Member, timeout: Duration) -> Option<InfoResponse> {
    let asked = core.network.call(id, &member.peer_address, PeerRoute::Info, (), timeout);
    asked.await.inspect_err(|error| tracing::debug!(%error, node = id, "a member is out of reach")).ok()
}

pub(crate) async fn status(core: &Core) -> ClusterStatus {
    let metrics = core.metrics();
    let applied_index = core.roll.applied_index();
    let committed = metrics.cluster_committed.as_ref().map_or(0, |log_id| log_id.index());
    let committed_index = committed.max(applied_index);
    let membership = metrics.membership_config.membership().clone();
    // While the voters change, a vote counts in both the old set and the new one. Only who is in both is relied on.
    let settled = metrics.committed_membership_config.membership().get_joint_config().clone();
    let is_voter = |id: &NodeId| settled.iter().all(|voters| voters.contains(id));
    let members = membership.nodes().map(|(id, member)| {
        let voter = is_voter(id);
        async move {
            let info =
                if *id == core.node_id { Some(info(core)) } else { ask_info(core, *id, member, INFO_TIMEOUT).await };
            let applied_index = info.as_ref().map(|info| info.applied_index);
            MemberStatus {
                node_id: *id,
                voter,
                api_address: member.api_address.clone(),
                peer_address: member.peer_address.clone(),
                reachable: info.is_some(),
                applied_index,
                lag_entries: applied_index.map(|applied| committed_index.saturating_sub(applied)),
                version: info.map(|info| info.version),
            }
        }
    });
    let members = join_all(members).await;
    let (epoch, revision, cluster_time) = core.roll.read(|state| (state.epoch(), state.revision(), state.now()));
    ClusterStatus {
        cluster_id: core.cluster.to_string(),
        epoch,
        node_id: core.node_id,
        leader_id: metrics.current_leader,
        term: metrics.current_term,
        revision,
        applied_index,
        committed_index,
        cluster_time,
        members,
    }
}
