//! The types that openraft is instantiated with.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use rollcall_registry::{FeatureLevel, Outcome, Proposal, Revision};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::codec::{self, Kind};
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

/// The position of a leader's entry.
pub fn log_id(term: u64, leader: NodeId, index: u64) -> LogId {
    LogId::new(Vote::new_committed(term, leader).leader_id, index)
}

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

/// What one log entry carries. Encoded once, by the leader that proposed it; from there on the same bytes go to every
/// peer and into every log.
#[derive(Clone, Debug)]
pub struct Payload {
    proposal: Arc<Proposal>,
    /// A frame of its own, as [`codec::encode`] makes it.
    encoded: Bytes,
}

impl Payload {
    pub fn new(proposal: Proposal) -> Self {
        let encoded = Bytes::from(codec::encode(Kind::Proposal, &proposal));
        Self { proposal: Arc::new(proposal), encoded }
    }

    pub fn proposal(&self) -> &Proposal {
        &self.proposal
    }
}

impl PartialEq for Payload {
    fn eq(&self, other: &Self) -> bool {
        self.encoded == other.encoded
    }
}

impl Eq for Payload {}

impl Serialize for Payload {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.encoded.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Payload {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let encoded = Bytes::deserialize(deserializer)?;
        let proposal = codec::decode(Kind::Proposal, &encoded).map_err(D::Error::custom)?;
        Ok(Self { proposal: Arc::new(proposal), encoded })
    }
}

impl fmt::Display for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.proposal.fmt(f)
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
    /// Takes the place of this node once it has caught up.
    pub replaces: Option<NodeId>,
    /// Of the program that it runs, or ran when it was last heard.
    pub feature_level: FeatureLevel,
}

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "peers {}, clients {}", self.peer_address, self.api_address)
    }
}
