//! What a member counts for its operators, and how it stands at one moment.

use std::sync::Arc;
use std::time::Duration;

use rollcall_registry::{ClusterTime, FeatureLevel, Revision, Tally};
use rollcall_storage::NodeId;
use rollcall_storage::meter::{COUNT, Counter, Histogram};

use crate::core::Core;
use crate::membership::cluster_feature_level;

/// Counted where it happens; nothing here is ever taken back.
#[derive(Debug)]
pub struct Meters {
    /// Each flush of the log.
    pub log_flush: Arc<Histogram>,
    /// From a proposal at this leader until its entry is applied here.
    pub commit: Histogram,
    /// From sending a batch to the leader until its answer.
    pub forward: Histogram,
    /// What each proposed entry holds, every renewed lease counted.
    pub entry_commands: Histogram,
    /// Leaders that this node has seen take over.
    pub leader_changes: Counter,
    pub snapshots_sent: Arc<Counter>,
    pub snapshots_received: Counter,
    /// Members that this leader removed because they were out of reach for too long.
    pub autopilot_removals: Counter,
}

impl Meters {
    pub(crate) fn new(log_flush: Arc<Histogram>, snapshots_sent: Arc<Counter>) -> Self {
        Self {
            log_flush,
            commit: Histogram::of_durations(),
            forward: Histogram::of_durations(),
            entry_commands: Histogram::new(COUNT),
            leader_changes: Counter::default(),
            snapshots_sent,
            snapshots_received: Counter::default(),
            autopilot_removals: Counter::default(),
        }
    }
}

/// A member at one moment, as it knows itself.
#[derive(Clone, Debug)]
pub struct Observation {
    pub is_leader: bool,
    /// Whom this node believes to lead.
    pub leader: Option<NodeId>,
    pub term: u64,
    pub last_log_index: u64,
    pub committed_index: u64,
    pub applied_index: u64,
    pub voters: usize,
    pub learners: usize,
    /// What all members can read.
    pub feature_level: FeatureLevel,
    /// All other members; empty where this node does not lead.
    pub followers: Vec<Follower>,
    /// None if this node was never current since it started.
    pub staleness: Option<Duration>,
    pub revision: Revision,
    pub cluster_time: ClusterTime,
    /// On the roll of all tenants, offline ones too.
    pub instances: usize,
    /// Those of them that protection holds, and tenants whose protection is in force.
    pub suspects: usize,
    pub tenants_protected: usize,
    /// Of all tenants, and about what they take.
    pub definitions: usize,
    pub definition_bytes: usize,
    /// What was applied here since the start.
    pub tally: Tally,
    pub waiting_requests: usize,
    pub waiting_bytes: usize,
    /// The peer's wall clock that is farthest off this one's, in ms; none before any was heard.
    pub clock_offset_ms: Option<i64>,
}

/// Another member as the leader sees it.
#[derive(Clone, Copy, Debug)]
pub struct Follower {
    pub node_id: NodeId,
    pub voter: bool,
    /// Answered within the longest election timeout.
    pub answers: bool,
    /// Entries of the leader's log that it is not known to have.
    pub lag_entries: u64,
}

pub(crate) fn observe(core: &Core) -> Observation {
    let metrics = core.metrics();
    let membership = metrics.membership_config.membership();
    let last_log_index = metrics.last_log_index.unwrap_or(0);
    let lately = Duration::from_millis(core.options.election_timeout_ms_max);
    let others = membership.nodes().map(|(id, _)| *id).filter(|id| *id != core.node_id);
    let followers = metrics.replication.as_ref().filter(|_| metrics.state.is_leader()).map(|replication| {
        let voters: Vec<NodeId> = membership.voter_ids().collect();
        let follower = |node_id| {
            let matched = replication.get(&node_id).and_then(Option::as_ref).map_or(0, |log_id| log_id.index());
            Follower {
                node_id,
                voter: voters.contains(&node_id),
                answers: core.answers(node_id, lately),
                lag_entries: last_log_index.saturating_sub(matched),
            }
        };
        others.map(follower).collect()
    });
    let committed = metrics.cluster_committed.as_ref().map_or(0, |log_id| log_id.index());
    let applied_index = core.roll.applied_index();
    let (revision, instances, tally) = core.roll.read(|state| (state.revision(), state.len(), state.tally()));
    let (suspects, tenants_protected) = core.roll.read(|state| (state.suspects(), state.tenants_protected()));
    let (definitions, definition_bytes) = core.roll.read(|state| {
        let definitions = state.definitions();
        (definitions.len(), definitions.bytes())
    });
    let (waiting_requests, waiting_bytes) = core.queue.waiting();
    Observation {
        is_leader: metrics.state.is_leader(),
        leader: metrics.current_leader,
        term: metrics.current_term,
        last_log_index,
        committed_index: committed.max(applied_index),
        applied_index,
        voters: membership.voter_ids().count(),
        learners: membership.learner_ids().count(),
        feature_level: cluster_feature_level(core),
        followers: followers.unwrap_or_default(),
        staleness: core.staleness(),
        revision,
        cluster_time: core.cluster_time(),
        instances,
        suspects,
        tenants_protected,
        definitions,
        definition_bytes,
        tally,
        waiting_requests,
        waiting_bytes,
        clock_offset_ms: core.wall_clocks.farthest(),
    }
}
