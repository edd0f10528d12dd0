//! What one node keeps on its disk: the Raft log and vote, the checkpointed state, and snapshots in transit.
//!
//! The crate never decides anything: openraft says what to write and when, [`rollcall_registry`] what an entry means.
//! It never guesses either: a record that is damaged, missing or newer than this program is an error, and a write or a
//! flush that failed is the end of the process.
//!
//! - Nothing is acknowledged before it is flushed.
//! - A directory belongs to one node of one cluster, and to one process at a time.
//! - The log has no gap, and reaches back to the last checkpoint of the state.
//! - Every record on disk bears its kind, its version and a checksum.
//!
//! Read in this order: [`types`], [`codec`], [`data_dir`], [`log`], [`state`], then [`open()`] and `offline`. [`meter`] counts
//! for operators.

pub mod codec;
pub mod data_dir;
mod failure;
mod fs;
pub mod log;
pub mod meter;
mod offline;
mod open;
mod rocks;
pub mod state;
pub mod types;

pub use data_dir::{ClusterId, ClusterIdError, DataDir, DataDirError, Identity, Release, Unfinished, WeakDataDir};
pub use failure::{FailureWatch, StoreFailure};
pub use log::{FlushTimes, ImaginedDisk, LogEnd, LogOpenError, LogReader, LogStore, MemoryLog, NodeLog};
pub use offline::{Dropped, Recovery, RecoveryError, RecoveryPlan, RestoreError, restore};
pub use open::{OpenError, Stores, open, open_imagined};
pub use state::{
    AdoptError, Backup, BackupError, BackupSummary, Backups, CheckpointBuilder, GenerationError, Moment,
    ReceiveError, Roll, SnapshotData, SnapshotError, SnapshotReceiver, StateMachine, StateMeters, StateOpenError,
    receive_backup, verify_backup,
};
pub use types::{
    LogEntry, LogId, Member, NodeId, Payload, Reply, Snapshot, SnapshotMeta, StoredMembership, TypeConfig, Vote,
    log_id,
};
