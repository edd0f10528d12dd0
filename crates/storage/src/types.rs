//! The types that openraft is instantiated with.

use std::fmt;
use std::sync::Arc;

use rollcall_registry::{Outcome, Proposal, Revision};
use serde::{Deserialize, Serialize};

use crate::state::SnapshotData;

openraft::declare_raft_types!(
    /// Rollcall's instance of openraft.
    pub TypeConfig:
        D = Payload,
        R = Reply,
        NodeId = NodeId,
        Node = Member,
        AsyncRuntime = openraft_rt_tokio::TokioRuntime,
);

/// Allotted by the log (the index of the entry that allotted it) and never used twice.
pub type NodeId = u64;

/// A position in the log: term, leader and index.
pub type LogId = openraft::alias::LogIdOf<TypeConfig>;
/// The term a node is in, and whom its vote went to.
pub type Vote = openraft::alias::VoteOf<TypeConfig>;
/// One entry of the log: commands, a membership, or nothing.
pub type LogEntry = openraft::alias::EntryOf<TypeConfig>;
/// A membership with the position of the entry that set it.
pub type StoredMembership = openraft::alias::StoredMembershipOf<TypeConfig>;
/// A snapshot's position and membership.
pub type SnapshotMeta = openraft::alias::SnapshotMetaOf<TypeConfig>;
/// A snapshot's position and membership, with its content.
pub type Snapshot = openraft::alias::SnapshotOf<TypeConfig, SnapshotData>;

/// What one log entry carries. Shared by the log's tail, the replication streams and the apply.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Payload(pub Arc<Proposal>);

impl fmt::Display for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What applying one log entry answered.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reply {
    /// One for each command, in order.
    pub outcomes: Vec<Outcome>,
    /// The roll's revision after the entry.
    pub revision: Revision,
}

/// How a node is reached, kept in the replicated membership.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// `host:port` of the client port.
    pub api_address: String,
    /// `host:port` of the peer port.
    pub peer_address: String,
    /// Stays a learner: is never promoted by itself.
    pub learner: bool,
}

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "peers {}, clients {}", self.peer_address, self.api_address)
    }
}
