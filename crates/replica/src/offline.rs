//! What an operator does without a running node: check a backup, make a new cluster of one, and make a cluster of what a
//! single member kept. The storage does it; here new clusters get their ids.

use std::io::Read;
use std::path::Path;

use rollcall_registry::Options;
pub use rollcall_registry::{Epoch, FEATURE_LEVEL};
pub use rollcall_storage::{
    BackupError, BackupSummary, ClusterId, DataDirError, Dropped, Member, Moment, NodeId, RecoveryError,
    RecoveryPlan, RestoreError, receive_backup,
};
use rollcall_storage::{Identity, Recovery as Directory};

use crate::replica::FOUNDER;

/// A cluster out of a backup.
#[derive(Clone, Debug)]
pub struct Restored {
    pub backup: BackupSummary,
    pub cluster_id: ClusterId,
    pub node_id: NodeId,
    pub epoch: Epoch,
}

/// Reads a whole backup and makes the state of it in memory, as a restore does. Blocks.
pub fn verify(source: impl Read) -> Result<BackupSummary, BackupError> {
    rollcall_storage::verify_backup(source, registry_options())
}

/// Makes a new cluster of a backup, in a directory that is new or empty. The node there is its only member, reached as
/// `member` says. Without an `epoch` it is the one after the backup's. Blocks.
pub fn restore(
    source: impl Read,
    path: &Path,
    member: Member,
    epoch: Option<Epoch>,
) -> Result<Restored, RestoreError> {
    let identity = Identity { cluster_id: new_cluster_id(), node_id: FOUNDER, removed: false };
    let (backup, epoch) = rollcall_storage::restore(source, path, identity, member, epoch, registry_options())?;
    Ok(Restored { backup, cluster_id: identity.cluster_id, node_id: identity.node_id, epoch })
}

/// The directory of a node that does not run, open to be made a cluster of its own.
pub struct Recovery(Directory);

impl Recovery {
    /// Opens the directory and works out what there is to keep. Changes nothing. Blocks.
    pub fn open(path: &Path) -> Result<Self, RecoveryError> {
        Directory::open(path, registry_options()).map(Self)
    }

    pub fn plan(&self) -> &RecoveryPlan {
        self.0.plan()
    }

    /// Makes a cluster of one of it, under a new id, and tells that. `member` says how the node is reached from now on;
    /// none leaves that as it was. Blocks.
    pub fn finish(self, member: Option<Member>) -> Result<ClusterId, RecoveryError> {
        self.0.finish(new_cluster_id(), member)
    }
}

/// As a new cluster is founded.
fn new_cluster_id() -> ClusterId {
    ClusterId(rand::random())
}

fn registry_options() -> Options {
    Options { seed: rand::random(), ..Options::default() }
}
