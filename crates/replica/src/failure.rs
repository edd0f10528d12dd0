//! Why a member did not start, and why one that ran breaks.

use std::path::PathBuf;

use rollcall_registry::FeatureLevel;
use rollcall_storage::{ClusterId, DataDirError, NodeId, OpenError, StoreFailure};

/// Why a member did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    #[error("open the store in {path}")]
    Open {
        path: PathBuf,
        #[source]
        source: OpenError,
    },
    #[error("count this start in {path}")]
    Count {
        path: PathBuf,
        #[source]
        source: StoreFailure,
    },
    #[error("the timing is not possible: {reason}")]
    Timing { reason: String },
    #[error("{peer} refused to take this node in: {reason}")]
    JoinRefused { peer: String, reason: String },
    #[error(
        "this program has feature level {own}, but its cluster is at {level} and has written what this program cannot \
         read: run the version that ran here before, or a newer one"
    )]
    TooOld { own: FeatureLevel, level: FeatureLevel },
    #[error("start the raft member")]
    Raft {
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("stopped before it had started")]
    Stopped,
}

impl StartError {
    /// The directory is that of a node that was removed from its cluster.
    pub fn is_removed(&self) -> bool {
        matches!(self, Self::DataDir(DataDirError::Removed { .. }))
    }
}

/// Why a member broke. The process must end: nothing it could do would be safe.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Failure {
    #[error("the store failed")]
    Store(#[source] StoreFailure),
    #[error("the raft member stopped: {0}")]
    Raft(String),
    #[error("a task of this member panicked")]
    Task,
    #[error(
        "node {node_id} was removed from cluster {cluster_id}; its directory {path} is marked and will not be used again: \
         delete it to start a new node there"
    )]
    Removed { cluster_id: ClusterId, node_id: NodeId, path: PathBuf },
    #[error("this node was removed from its cluster, but its directory cannot be marked: {0}")]
    Unmarked(String),
    #[error(
        "node {node_id} had acknowledged the log up to entry {acknowledged}, and its log in {path} ends with entry \
         {last}: the disk, or somebody, lost what was written; do not start the node on this directory again: start \
         another on an empty one, and put it in this one's place with `rollcall cluster replace {node_id}`"
    )]
    Forgot { node_id: NodeId, acknowledged: u64, last: u64, path: PathBuf },
}

impl Failure {
    /// The cluster goes on without this node.
    pub fn is_removed(&self) -> bool {
        matches!(self, Self::Removed { .. } | Self::Unmarked(_))
    }
}
