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
    /// Of the applied state: milliseconds that some leader held a quorum since the cluster was founded.
    pub cluster_time_ms: u64,
    pub members: Vec<MemberInfo>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MemberInfo {
    pub node_id: u64,
    pub role: Role,
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
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    Voter,
    /// Holds everything and answers reads, but has no vote.
    Learner,
}

/// `GET /api/cluster/digest`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DigestResponse {
    /// The log index whose state was digested.
    pub applied_index: u64,
    /// 32 hexadecimal digits; equal on all nodes at equal index.
    pub digest: String,
}
