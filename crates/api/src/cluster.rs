//! The cluster, for operators.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// `GET /api/cluster/status`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ClusterStatusResponse {
    pub cluster_id: String,
    /// Moved by restore and recover only.
    pub epoch: u64,
    /// The node that answered.
    pub node_id: u64,
    /// `null` while this node knows no leader.
    #[schema(required)]
    pub leader_id: Option<u64>,
    pub term: u64,
    pub revision: u64,
    pub applied_index: u64,
    pub committed_index: u64,
    /// The log entry that set the membership: `if_membership` of a change.
    #[serde(default)]
    pub membership_index: u64,
    /// What all nodes can read: the lowest of the members'. What needs a higher one is refused.
    #[serde(default)]
    pub feature_level: u64,
    /// Of the applied state: milliseconds that some leader held a quorum since the cluster was founded.
    pub cluster_time_ms: u64,
    /// What the leader does about the members by itself; absent while none answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub autopilot: Option<AutopilotInfo>,
    pub members: Vec<MemberInfo>,
}

/// What the leader does about the members by itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AutopilotInfo {
    /// After how long out of reach a node is removed; 0 for never.
    pub dead_node_removal_ms: u64,
    /// Fewer voters are never left.
    pub voters_min: u64,
    /// How long a learner must have kept up before it votes.
    pub learner_stable_ms: u64,
    /// The last node that this leader removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_removed: Option<u64>,
    /// Who is out of reach, the longest first.
    pub findings: Vec<AutopilotFinding>,
}

/// A node that the leader does not reach.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AutopilotFinding {
    pub node_id: u64,
    /// Since this leader leads, at most.
    pub silent_ms: u64,
    /// When it will be removed; absent if it will not be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub removal_in_ms: Option<u64>,
    /// Why it is kept although its time is over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept_because: Option<KeptBecause>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum KeptBecause {
    /// Fewer voters than the minimum would be left.
    VotersMin,
    /// Of those who would be left too few answer.
    QuorumAtRisk,
    /// Another is about to take its place.
    BeingReplaced,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MemberInfo {
    pub node_id: u64,
    pub role: Role,
    /// Whose place this learner takes once it has caught up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaces: Option<u64>,
    /// `host:port` of the client port.
    pub api_address: String,
    /// `host:port` of the peer port.
    pub peer_address: String,
    /// Whether the answering node hears from it.
    pub reachable: bool,
    /// `null` while the answering node does not know it.
    #[schema(required)]
    pub applied_index: Option<u64>,
    /// How many log entries it is behind; `null` while the answering node does not know it.
    #[schema(required)]
    pub lag_entries: Option<u64>,
    /// Of the program it runs; `null` while the answering node does not know it.
    #[schema(required)]
    pub version: Option<String>,
    /// What its program can read.
    #[serde(default)]
    pub feature_level: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    Voter,
    /// Holds everything and answers reads, but has no vote.
    Learner,
}

/// `POST /api/cluster/members`: takes in a node that waits to be added.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AddMemberRequest {
    /// `host:port` of the peer port at which it waits.
    pub peer_address: String,
    /// `host:port` of its client port; what it says itself, if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_address: Option<String>,
    /// `voter` (default): is promoted once it has caught up. `learner`: is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<Role>,
}

/// `POST /api/cluster/members/{id}/replace`: who takes the place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ReplaceMemberRequest {
    /// `host:port` of the peer port of a node that waits to be added, or of a learner.
    pub peer_address: String,
    /// `host:port` of its client port; what it says itself, if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_address: Option<String>,
}

/// `POST /api/cluster/members/{id}/address`: where a node is reached from now on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RelocateMemberRequest {
    /// `host:port` of the peer port. The node must answer there.
    pub peer_address: String,
    /// `host:port` of the client port; as before, if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_address: Option<String>,
}

/// `POST /api/cluster/leader`: whom to hand the lead to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TransferLeaderRequest {
    /// The voter whose log reaches furthest, if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_id: Option<u64>,
}

/// What came of a change of the cluster, or would come of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ClusterChangeResponse {
    /// The node it was about; `null` of a dry run that would add one.
    #[schema(required)]
    pub node_id: Option<u64>,
    pub leader_id: u64,
    /// The log entry that set the membership.
    pub membership_index: u64,
    pub voters: Vec<u64>,
    pub learners: Vec<u64>,
    /// What an operator should know about it.
    pub warnings: Vec<String>,
    /// Nothing was changed.
    pub dry_run: bool,
}

/// `GET /api/cluster/digest`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DigestResponse {
    /// The log index whose state was digested.
    pub applied_index: u64,
    /// 32 hexadecimal digits; equal on all nodes at equal index, and before and after a restore or a recovery.
    pub digest: String,
    /// No part of what is digested.
    pub epoch: u64,
}
