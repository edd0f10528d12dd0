//! The replicated state: in memory for reading, in RocksDB for keeping.
//!
//! The log makes an entry durable; the state behind it is checkpointed now and then. A checkpoint is what openraft
//! calls a snapshot: it takes what changed since the checkpoint before, under one lock, and writes it in one batch
//! together with the applied position and the membership. A checkpoint that is flushed is what allows the log before it
//! to be purged. No file of the whole state is written for that: a file would hold once more what the database holds,
//! at the cost of the whole state instead of what changed. A snapshot for a follower is streamed from a consistent view
//! of the checkpoint, and a file exists only where one is received.
//!
//! Invariants:
//! - what is checkpointed is the state after exactly the applied position that stands beside it;
//! - the state in memory is at or ahead of the checkpoint, and the log holds what lies between;
//! - revisions and cluster time never go back, not by a snapshot either.
//!
//! Read in this order: `roll`, `rows`, `checkpoints`, then `frames`, `snapshot` and `receive`, and `backup`.

mod backup;
mod checkpoints;
mod frames;
mod generation;
mod loader;
mod receive;
mod roll;
mod rows;
mod snapshot;
#[cfg(test)]
mod tests;

use std::io;
use std::sync::Arc;

use futures_util::{Stream, TryStreamExt};
use openraft::storage::{EntryResponder, RaftStateMachine};
use openraft::{OptionalSend, RaftSnapshotBuilder};
use rollcall_registry::{Epoch, Options, State};

pub(crate) use backup::BackupReader;
pub use backup::{Backup, BackupError, BackupSummary, Backups, Moment, receive_backup, verify_backup};
use checkpoints::Checkpoints;
pub use frames::SnapshotError;
pub(crate) use generation::CURRENT;
use generation::Generation;
pub use generation::GenerationError;
pub use receive::{ReceiveError, SnapshotReceiver};
use roll::Replicated;
pub use roll::{Roll, StateMeters};
use rows::StateHeader;
pub use snapshot::SnapshotData;
use snapshot::View;

use crate::data_dir::DataDir;
use crate::failure::{Health, StoreFailure};
use crate::log::FlushLog;
use crate::types::{LogEntry, LogId, Snapshot, SnapshotMeta, StoredMembership, TypeConfig};

/// Why the state cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum StateOpenError {
    #[error("open the checkpointed state")]
    Generation(#[from] GenerationError),
    #[error("load the checkpointed state")]
    Load(#[from] SnapshotError),
}

/// Why no state was made out of a backup.
#[derive(Debug, thiserror::Error)]
pub enum AdoptError {
    #[error(transparent)]
    Backup(#[from] BackupError),
    #[error("write the state")]
    Rows(#[from] rocksdb::Error),
    #[error("make the state")]
    Generation(#[from] GenerationError),
}

impl From<SnapshotError> for AdoptError {
    fn from(error: SnapshotError) -> Self {
        Self::Backup(error.into())
    }
}

/// The state as openraft changes it. Readers use [`Roll`].
pub struct StateMachine {
    roll: Roll,
    checkpoints: Arc<Checkpoints>,
    health: Health,
}

/// The last checkpoint, in its directory and in memory.
pub(crate) struct Loaded {
    generation: Arc<Generation>,
    replicated: Replicated,
}

/// Makes the state of a new cluster out of a backup's, durably, with another epoch and membership. Its position in the
/// log stays.
pub(crate) fn adopt<R: io::Read>(
    dir: &DataDir,
    options: Options,
    backup: &mut BackupReader<R>,
    epoch: Epoch,
    membership: impl FnOnce(Option<LogId>) -> StoredMembership,
) -> Result<LogId, AdoptError> {
    let generation = Generation::open_current(&dir.state_path())?;
    let of_new_cluster = |mut header: StateHeader| {
        header.header.epoch = epoch;
        header.membership = membership(header.applied);
        header
    };
    let filled: Result<_, AdoptError> = checkpoints::fill(&generation, options, of_new_cluster, |take| {
        while let Some(frame) = backup.next()? {
            take(frame)?;
        }
        Ok(())
    });
    filled?.and_then(|(_, header)| header.applied).ok_or(AdoptError::Backup(BackupError::Empty))
}

/// Loads the last checkpoint; what the log holds beyond it is openraft's to replay.
pub(crate) fn load(dir: &DataDir, options: Options) -> Result<Loaded, StateOpenError> {
    let generation = Arc::new(Generation::open_current(&dir.state_path())?);
    let loaded: Result<_, SnapshotError> = loader::load(options, |take| View::of(generation.clone()).read(take));
    let replicated = match loaded? {
        Some((replicated, _)) => replicated,
        None => Replicated::new(State::new(options), None, StoredMembership::default()),
    };
    Ok(Loaded { generation, replicated })
}

impl StateMachine {
    pub(crate) fn new(
        dir: &DataDir,
        options: Options,
        loaded: Loaded,
        log: Arc<dyn FlushLog>,
        health: Health,
    ) -> Self {
        let roll = Roll::new(loaded.replicated);
        let checkpoints =
            Checkpoints::new(roll.clone(), loaded.generation, options, health.clone(), log, dir.clone());
        Self { roll, checkpoints: Arc::new(checkpoints), health }
    }

    pub fn roll(&self) -> &Roll {
        &self.roll
    }

    pub(crate) fn backups(&self) -> Backups {
        Backups(Arc::downgrade(&self.checkpoints))
    }

    /// What the state would be kept as now.
    pub(crate) fn moment(&self) -> Moment {
        self.roll.with(|replicated| Moment::of(&replicated.header()))
    }

    /// Applies an entry outside of openraft.
    pub(crate) fn apply_entry(&self, entry: LogEntry) {
        self.roll.apply(entry);
    }

    /// Begins an epoch with another membership, durably, behind everything that was applied. Does nothing in the epoch
    /// itself but to write.
    pub(crate) fn begin_epoch(&self, epoch: Epoch, membership: StoredMembership) -> Result<(), StoreFailure> {
        self.roll.with(|replicated| {
            if replicated.state.epoch() < epoch {
                replicated.state.begin_epoch(epoch);
            }
            replicated.membership = membership;
        });
        self.checkpoints.take();
        self.checkpoints.write().map(drop)
    }
}

/// Runs what blocks on a thread that may. A panic there is a failure like any other: what it left half done, such as a
/// checkpoint that was taken and not written, must not be built upon.
async fn blocking<T: Send + 'static>(
    checkpoints: &Arc<Checkpoints>,
    f: impl FnOnce(&Checkpoints) -> Result<T, StoreFailure> + Send + 'static,
) -> Result<T, io::Error> {
    let on_thread = checkpoints.clone();
    match tokio::task::spawn_blocking(move || f(&on_thread)).await {
        Ok(result) => Ok(result?),
        Err(panic) if panic.is_panic() => Err(checkpoints.fail(panic).into()),
        // The runtime shuts down.
        Err(cancelled) => Err(io::Error::other(cancelled)),
    }
}

impl RaftStateMachine<TypeConfig> for StateMachine {
    type SnapshotData = SnapshotData;
    type SnapshotBuilder = CheckpointBuilder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        Ok((self.roll.applied(), self.roll.membership()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> Result<(), io::Error>
    where
        S: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + OptionalSend,
    {
        self.health.check()?;
        let _round = self.roll.begin_round();
        let mut answers = Vec::new();
        while let Some((entry, responder)) = entries.try_next().await? {
            let reply = self.roll.apply(entry);
            answers.extend(responder.map(|responder| (responder, reply)));
        }
        // Before the answers, so that whom an answer wakes sees what it answers.
        self.roll.publish();
        for (responder, reply) in answers {
            responder.send(reply);
        }
        Ok(())
    }

    async fn try_create_snapshot_builder(&mut self, force: bool) -> Option<CheckpointBuilder> {
        if !force && self.checkpoints.is_waiting() {
            return None;
        }
        Some(self.get_snapshot_builder().await)
    }

    async fn get_snapshot_builder(&mut self) -> CheckpointBuilder {
        self.checkpoints.take();
        CheckpointBuilder(self.checkpoints.clone())
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, data: SnapshotData) -> Result<(), io::Error> {
        let meta = meta.clone();
        blocking(&self.checkpoints, move |checkpoints| checkpoints.install(&meta, &data)).await
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, io::Error> {
        blocking(&self.checkpoints, Checkpoints::current).await
    }
}

/// Writes the checkpoint that was taken when this was made, and any taken before it. One that is dropped leaves its
/// checkpoint to the next.
pub struct CheckpointBuilder(Arc<Checkpoints>);

impl RaftSnapshotBuilder<TypeConfig> for CheckpointBuilder {
    type SnapshotData = SnapshotData;

    async fn build_snapshot(&mut self) -> Result<Snapshot, io::Error> {
        let written = blocking(&self.0, Checkpoints::write).await?;
        Ok(written.expect("a checkpoint was written when its builder was made or before"))
    }
}
