//! Who belongs to the cluster: what the leader does about it by itself, and telling who is there.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use openraft::{ChangeMembers, Membership};
use rollcall_registry::{ClusterTime, Epoch, FeatureLevel, Revision};
use rollcall_storage::{Member, NodeId};
use tokio::time::{Instant, MissedTickBehavior};

use crate::autopilot::{self, AutopilotReport};
use crate::core::{Core, wall};
use crate::message::{Greeting, InfoResponse, StandingResponse};
use crate::peer::PeerRoute;
use crate::{lead, operate};

/// How often the leader looks for learners that have caught up.
const PROMOTION_INTERVAL: Duration = Duration::from_millis(200);

/// A learner that lacks no more than this has caught up: a voter of its kind would not hold up a commit for long.
pub(crate) const LAG_ENTRIES_MAX: u64 = 100;

/// How often a node that hears from no leader asks whether it still belongs.
const STANDING_INTERVAL: Duration = Duration::from_secs(1);

/// How long a member may take to say how it is before it counts as unreachable.
pub(crate) const INFO_TIMEOUT: Duration = Duration::from_millis(500);

/// On the leader: makes voters of learners that have caught up, completes a change that an earlier leader began, and
/// otherwise does what [`autopilot`] has it do.
pub(crate) async fn promote(core: Arc<Core>) {
    let mut ticks = tokio::time::interval(PROMOTION_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = core.stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        autopilot::look(&core);
        if next_step(&core).is_none() {
            tokio::select! {
                () = core.stop.cancelled() => return,
                () = autopilot::remove_the_dead(&core) => {}
            }
            continue;
        }
        let _one_at_a_time = core.membership.lock().await;
        // What was to be done may be done by now.
        let Some(step) = next_step(&core) else { continue };
        tokio::select! {
            () = core.stop.cancelled() => return,
            () = take(&core, step) => {}
        }
    }
}

/// What a leader does by itself about who belongs to the cluster.
enum Step {
    /// The second half of a change of voters.
    Complete,
    Promote(NodeId),
    Replace {
        predecessor: NodeId,
        successor: NodeId,
    },
}

fn next_step(core: &Core) -> Option<Step> {
    let metrics = &core.metrics();
    metrics.replication.as_ref()?;
    let membership = metrics.membership_config.membership();
    if metrics.membership_config != metrics.committed_membership_config {
        return None;
    }
    if membership.get_joint_config().len() > 1 {
        return Some(Step::Complete);
    }
    let caught_up = |id: &NodeId| {
        operate::lag(metrics, *id).is_some_and(|lag| lag <= LAG_ENTRIES_MAX) && autopilot::is_stable(core, *id)
    };
    let successor = membership.learner_ids().filter(caught_up).find_map(|id| {
        let member = membership.get_node(&id)?;
        (!member.learner).then_some((id, member.replaces))
    });
    successor.map(|(successor, replaces)| match replaces {
        // Whoever was to be replaced may be gone by now.
        Some(predecessor) if membership.get_node(&predecessor).is_some() => Step::Replace { predecessor, successor },
        _ => Step::Promote(successor),
    })
}

async fn take(core: &Core, step: Step) {
    // What fails is tried again with the next tick.
    let (change, retain, leaves) = match step {
        Step::Complete => (ChangeMembers::AddVoterIds(BTreeSet::new()), true, None),
        Step::Promote(id) => (ChangeMembers::AddVoterIds(BTreeSet::from([id])), true, None),
        Step::Replace { predecessor, successor } => {
            let metrics = core.metrics();
            let membership = metrics.membership_config.membership();
            let (Some(gone), Some(member)) = (membership.get_node(&predecessor), membership.get_node(&successor))
            else {
                return;
            };
            let mut voters: BTreeSet<NodeId> = membership.voter_ids().collect();
            let voted = voters.remove(&predecessor);
            if predecessor == core.node_id {
                // Whoever leads then goes on.
                if let Some(next) = lead::best(core, &voters) {
                    lead::hand_over(core, next).await;
                }
                return;
            }
            voters.insert(successor);
            let member = Member { replaces: None, ..member.clone() };
            let mut changes = vec![
                ChangeMembers::SetNodes(BTreeMap::from([(successor, member)])),
                ChangeMembers::ReplaceAllVoters(voters),
            ];
            if !voted {
                changes.push(ChangeMembers::RemoveNodes(BTreeSet::from([predecessor])));
            }
            (ChangeMembers::Batch(changes), false, Some((predecessor, gone.clone())))
        }
    };
    if operate::commit(core, change, retain).await.is_ok()
        && let Some((id, member)) = leaves
    {
        operate::farewell(core, id, &member).await;
    }
}

/// Asks, on a node that no leader has talked to for long, whether it still belongs to the cluster.
pub(crate) async fn watch_standing(core: Arc<Core>) {
    let silence_max = 4 * Duration::from_millis(core.options.election_timeout_ms_max);
    let mut ticks = tokio::time::interval(STANDING_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut heard_at = Instant::now();
    let mut staleness_before = None;
    loop {
        tokio::select! {
            () = core.stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        let staleness = core.staleness();
        if staleness.is_some_and(|staleness| staleness < silence_max) || staleness < staleness_before {
            heard_at = Instant::now();
        }
        staleness_before = staleness;
        if heard_at.elapsed() < silence_max {
            continue;
        }
        let membership = core.metrics().membership_config.membership().clone();
        let others = membership.nodes().filter(|(id, _)| **id != core.node_id);
        let known: BTreeMap<_, _> = others.map(|(id, member)| (*id, member.peer_address.clone())).collect();
        let answers = ask_standing(&core, &known).await;
        // Whoever leads may have been taken in since this node last heard anything.
        let led_by = |answer: &StandingResponse| match answer {
            StandingResponse::LedBy { node_id, peer_address } => Some((*node_id, peer_address.clone())),
            StandingResponse::Member | StandingResponse::Removed | StandingResponse::NotKnown => None,
        };
        let leaders = answers.iter().filter_map(led_by).filter(|(id, _)| !known.contains_key(id)).collect();
        let of_leaders = ask_standing(&core, &leaders).await;
        if answers.iter().chain(&of_leaders).any(|answer| matches!(answer, StandingResponse::Removed)) {
            core.removed.cancel();
            return;
        }
    }
}

/// What these nodes, at their peer addresses, say of this one's standing.
async fn ask_standing(core: &Core, nodes: &BTreeMap<NodeId, String>) -> Vec<StandingResponse> {
    let asked =
        nodes.iter().map(|(id, address)| core.network.call(*id, address, PeerRoute::Standing, (), INFO_TIMEOUT));
    join_all(asked).await.into_iter().filter_map(Result::ok).collect()
}

/// Whether a node belongs to the cluster, as far as this one can tell.
pub(crate) fn standing(core: &Core, node: NodeId) -> StandingResponse {
    let metrics = core.metrics();
    let membership = metrics.committed_membership_config.membership();
    let leads = core.lead().is_some() && core.staleness().is_some_and(|staleness| staleness < core.quorum_lease());
    match membership.get_node(&node) {
        Some(_) => StandingResponse::Member,
        // An id is taken into the membership before the node learns it, so that only who was removed is unknown here.
        None if leads && operate::is_settled(&metrics) => StandingResponse::Removed,
        None => {
            let leader = metrics.current_leader.filter(|leader| *leader != core.node_id);
            let led_by = leader.and_then(|node_id| Some((node_id, core.peer_address(node_id)?)));
            led_by.map_or(StandingResponse::NotKnown, |(node_id, peer_address)| StandingResponse::LedBy {
                node_id,
                peer_address,
            })
        }
    }
}

pub(crate) fn greeting(core: &Core) -> Greeting {
    Greeting {
        identity: Some((core.cluster, core.node_id)),
        api_address: core.options.api_address.clone(),
        learner: core.options.learner,
        feature_level: core.options.feature_level,
    }
}

/// What all members can read. It never goes down: whoever has a lower level is not taken in.
pub(crate) fn cluster_feature_level(core: &Core) -> FeatureLevel {
    let metrics = core.metrics();
    // A membership that is not committed may be taken back.
    let memberships = [&metrics.membership_config, &metrics.committed_membership_config];
    let levels = memberships.map(|membership| lowest_feature_level(membership.membership()));
    levels.into_iter().flatten().min().unwrap_or(core.options.feature_level)
}

pub(crate) fn lowest_feature_level(membership: &Membership<NodeId, Member>) -> Option<FeatureLevel> {
    membership.nodes().map(|(_, member)| member.feature_level).min()
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
    /// The log entry that set the membership.
    pub membership_index: u64,
    /// What all members can read.
    pub feature_level: FeatureLevel,
    /// Of the applied state.
    pub cluster_time: ClusterTime,
    /// What the leader says of its own doings; none while none answers.
    pub autopilot: Option<AutopilotReport>,
    pub members: Vec<MemberStatus>,
}

#[derive(Clone, Debug)]
pub struct MemberStatus {
    pub node_id: NodeId,
    pub voter: bool,
    pub api_address: String,
    pub peer_address: String,
    /// Whose place it takes once it has caught up.
    pub replaces: Option<NodeId>,
    /// Answered this node just now.
    pub reachable: bool,
    /// Unknown while the member is out of reach.
    pub applied_index: Option<u64>,
    /// How far it is behind what this node knows to be committed.
    pub lag_entries: Option<u64>,
    pub version: Option<String>,
    /// As the membership has it.
    pub feature_level: FeatureLevel,
}

pub(crate) fn info(core: &Core) -> InfoResponse {
    InfoResponse {
        cluster: core.cluster,
        node_id: core.node_id,
        applied_index: core.roll.applied_index(),
        last_log_id: core.log_end.last(),
        version: core.options.version.to_owned(),
        feature_level: core.options.feature_level,
        process: core.stamps.process(),
        autopilot: autopilot::report(core),
        wall: wall(),
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
            let autopilot = info.as_ref().and_then(|info| info.autopilot.clone());
            let status = MemberStatus {
                node_id: *id,
                voter,
                api_address: member.api_address.clone(),
                peer_address: member.peer_address.clone(),
                replaces: member.replaces,
                reachable: info.is_some(),
                applied_index,
                lag_entries: applied_index.map(|applied| committed_index.saturating_sub(applied)),
                version: info.map(|info| info.version),
                feature_level: member.feature_level,
            };
            (status, autopilot)
        }
    });
    let (members, reports): (Vec<_>, Vec<_>) = join_all(members).await.into_iter().unzip();
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
        membership_index: metrics.membership_config.log_id().as_ref().map_or(0, |log_id| log_id.index),
        feature_level: cluster_feature_level(core),
        cluster_time,
        autopilot: reports.into_iter().flatten().next(),
        members,
    }
}
