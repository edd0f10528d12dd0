//! What nodes say to each other, besides what openraft has them say.

use rollcall_registry::{ClusterTime, Command, FeatureLevel, Once, Outcome, Revision, WallTime};
use rollcall_storage::{ClusterId, LogId, NodeId, Vote};
use serde::{Deserialize, Serialize};

use crate::autopilot::AutopilotReport;
use crate::operate::{Operation, Terms};
use crate::trace::TraceContext;

/// What goes around every request between members, so that none acts on what was meant for another.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Envelope<T> {
    pub cluster: ClusterId,
    pub from: NodeId,
    pub target: NodeId,
    /// Present when the sender leads.
    pub lead: Option<Lead>,
    pub body: T,
}

/// What an [`Envelope`] begins with.
#[derive(Debug, Deserialize)]
pub(crate) struct EnvelopeHead {
    pub cluster: ClusterId,
    pub from: NodeId,
    pub target: NodeId,
}

/// What a leader tells along the way.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Lead {
    pub clock: ClusterTime,
    /// How long ago a quorum last answered the leader, in ms: what it says of the commit is that old.
    pub quorum_age_ms: u64,
    /// What the leader had applied when it took `quorum_age_ms`: everything acknowledged until that quorum answered.
    pub applied_index: u64,
    /// The receiver's own stamp from its last answer: proof that this was said later than that.
    pub echo: Option<Stamp>,
}

/// A moment by one process's monotonic clock, told to a peer and back. Means nothing to any other process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp {
    /// Drawn when the process started.
    pub process: u64,
    pub ms: u64,
}

/// The answer to an append, with the moment of answering.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Stamped<T> {
    pub stamp: Stamp,
    pub answer: T,
}

/// Commands collected by a follower, for the leader's next entry. Never forwarded a second time.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ProposeRequest {
    pub commands: Vec<Command>,
    pub once: Vec<Once>,
    /// The follower's number of it, by which both nodes' logs tell of the same batch.
    pub batch: u64,
    /// Where the trace of one of its requests goes on.
    pub trace: Option<TraceContext>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum ProposeResponse {
    Applied {
        outcomes: Vec<Outcome>,
        revision: Revision,
        /// Where the entry stands: as good as the leader's word that it is committed.
        log_id: LogId,
    },
    /// Not proposed: ask the leader named, or wait for one.
    NotLeader { leader: Option<NodeId> },
    /// Not proposed: too much is waiting.
    Overloaded { retry_after_ms: u64 },
    /// Proposed, and lost sight of.
    Unknown,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum ReadIndexResponse {
    /// Whoever has applied this much shows everything that was acknowledged before the request.
    Index(u64),
    NotLeader {
        leader: Option<NodeId>,
    },
}

/// A node without an identity asks to be taken in.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct JoinRequest {
    pub api_address: String,
    pub peer_address: String,
    pub learner: bool,
    pub token: Option<String>,
    pub feature_level: FeatureLevel,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum JoinResponse {
    Welcome {
        cluster: ClusterId,
        node_id: NodeId,
    },
    /// Ask the leader, if one is known; else again later.
    NotLeader {
        leader_peer_address: Option<String>,
    },
    Refused {
        reason: String,
    },
}

/// An operator's request on its way to the leader.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct OperateRequest {
    pub operation: Operation,
    pub terms: Terms,
}

/// Who listens at a peer address, before anything is known of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Greeting {
    /// None while it waits to be added.
    pub identity: Option<(ClusterId, NodeId)>,
    pub api_address: String,
    pub learner: bool,
    pub feature_level: FeatureLevel,
}

/// What a node that was added is told: who it is from now on.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Adoption {
    pub cluster: ClusterId,
    pub node_id: NodeId,
}

/// Whether a node that hears from nobody still belongs to the cluster.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum StandingResponse {
    Member,
    /// Said only by a leader whose quorum answered just now.
    Removed,
    NotKnown,
    /// Ask the leader, whom a node that was away for long may not know.
    LedBy {
        node_id: NodeId,
        peer_address: String,
    },
}

/// What a member says of itself when the membership says otherwise.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Announcement {
    pub api_address: String,
    pub peer_address: String,
    pub feature_level: FeatureLevel,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum AnnounceResponse {
    Noted,
    /// Ask the leader, if one is known, at this peer address; else again later.
    NotLeader {
        leader: Option<(NodeId, String)>,
    },
    Refused {
        reason: String,
    },
}

/// What a leader knows of a member whose log no longer has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Forgotten {
    /// Under which the member acknowledged it.
    pub vote: Vote,
    /// The furthest entry that it said it has on its disk.
    pub acknowledged: u64,
}

/// Who a node is and how far it got.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct InfoResponse {
    pub cluster: ClusterId,
    pub node_id: NodeId,
    pub applied_index: u64,
    /// How far its log reaches, flushed or not.
    pub last_log_id: Option<LogId>,
    pub version: String,
    pub feature_level: FeatureLevel,
    /// Drawn when the process started: two processes on copies of one directory are told apart by it.
    pub process: u64,
    /// From a leader.
    pub autopilot: Option<AutopilotReport>,
    /// By the node's wall clock.
    pub wall: WallTime,
}
