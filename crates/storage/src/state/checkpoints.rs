//! Writing checkpoints, and replacing the state by a snapshot. Everything here blocks.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;
use rocksdb::{WriteBatch, WriteOptions};
use rollcall_registry::Options;
use rollcall_registry::state::Delta;
use tokio::task::JoinError;

use super::frames::{Frame, SnapshotError};
use super::generation::{Generation, GenerationError};
use super::loader;
use super::roll::{Replicated, Roll};
use super::rows::{StateHeader, cf, delta_bytes, put_delta, put_header, put_past};
use super::snapshot::{SnapshotData, Source, View};
use crate::data_dir::DataDir;
use crate::failure::{Health, StoreFailure};
use crate::log::FlushLog;
use crate::types::{Snapshot, SnapshotMeta};

/// Why a snapshot was not installed.
#[derive(Debug, thiserror::Error)]
enum InstallError {
    #[error("read the snapshot to be installed")]
    Snapshot(#[from] SnapshotError),
    #[error("write the snapshot's rows")]
    Rows(#[from] rocksdb::Error),
    #[error("make the snapshot's state current")]
    Generation(#[from] GenerationError),
    #[error("the snapshot is empty")]
    Empty,
    #[error("the snapshot is of another log position than was announced")]
    OtherPosition,
    #[error("the snapshot would take the state back")]
    Backwards,
}

/// A checkpoint that was taken and is not written yet.
#[derive(Debug)]
struct Taken {
    header: StateHeader,
    delta: Delta,
}

/// The checkpointed state of one directory.
///
/// A delta is handed out by the state once only. So it is queued under the lock under which it was taken, the queue is
/// written in order, and a write that fails is the end of the process.
pub(super) struct Checkpoints {
    roll: Roll,
    options: Options,
    health: Health,
    log: Arc<dyn FlushLog>,
    current: Mutex<Arc<Generation>>,
    taken: Mutex<VecDeque<Taken>>,
    /// Held while rows are written, so that checkpoints follow one another and the generation stays.
    writing: Mutex<()>,
    /// Keeps other processes out as long as the state is open.
    _dir: DataDir,
}

impl Checkpoints {
    pub(super) fn new(
        roll: Roll,
        generation: Arc<Generation>,
        options: Options,
        health: Health,
        log: Arc<dyn FlushLog>,
        dir: DataDir,
    ) -> Self {
        Self {
            roll,
            options,
            health,
            log,
            current: Mutex::new(generation),
            taken: Mutex::default(),
            writing: Mutex::default(),
            _dir: dir,
        }
    }

    /// Takes what changed since the last call and queues it. Costs as much as changed, whatever the size of the state.
    pub(super) fn take(&self) {
        self.roll.with(|replicated| {
            let delta = replicated.state.take_delta();
            let header = StateHeader {
                applied: replicated.applied,
                membership: replicated.membership.clone(),
                header: delta.header.clone(),
            };
            self.taken.lock().push_back(Taken { header, delta });
        });
    }

    /// Whether a checkpoint was taken and not begun to be written.
    pub(super) fn is_waiting(&self) -> bool {
        !self.taken.lock().is_empty()
    }

    /// Makes durable what was taken, in one batch, and gives back a view of it.
    pub(super) fn write(&self) -> Result<Option<Snapshot>, StoreFailure> {
        Ok(self.write_and_view()?.map(snapshot))
    }

    /// As [`Self::write`], with the header of what is in view.
    pub(super) fn write_and_view(&self) -> Result<Option<(StateHeader, SnapshotData)>, StoreFailure> {
        let _writing = self.writing.lock();
        self.health.check()?;
        let taken = std::mem::take(&mut *self.taken.lock());
        let generation = self.current.lock().clone();
        if let Some(newest) = taken.back() {
            let begun = Instant::now();
            // A batch that grows by doubling would take twice the memory, and keep it.
            let bytes = taken.iter().map(|taken| delta_bytes(&taken.delta)).sum();
            let mut batch = WriteBatch::with_capacity_bytes(bytes);
            for Taken { delta, .. } in &taken {
                put_delta(&generation.db, &mut batch, delta);
                let put = put_past(&generation.db, &mut batch, &delta.past);
                self.health.guard("read the history of the checkpoint before", put)?;
            }
            put_header(&generation.db, &mut batch, &newest.header);
            // openraft may apply what the log has written but not flushed. A checkpoint that outlived its log would not
            // fit what a power loss left of it.
            self.log.flush_log()?;
            self.health.guard("write a checkpoint", generation.db.write(batch))?;
            self.health.guard("flush a checkpoint", generation.db.flush_wal(true))?;
            self.roll.meters().checkpoint.observe_duration(begun.elapsed());
        }
        self.view(generation)
    }

    /// Keeps the failure of a task that panicked.
    pub(super) fn fail(&self, panic: JoinError) -> StoreFailure {
        self.health.fail("work on the state", panic)
    }

    /// A view of the last checkpoint; none before the first.
    pub(super) fn current(&self) -> Result<Option<Snapshot>, StoreFailure> {
        self.health.check()?;
        let generation = self.current.lock().clone();
        Ok(self.view(generation)?.map(snapshot))
    }

    fn view(&self, generation: Arc<Generation>) -> Result<Option<(StateHeader, SnapshotData)>, StoreFailure> {
        let view = View::of(generation);
        let header = self.health.guard("read a checkpoint", view.header())?;
        Ok(header.map(|header| (header, SnapshotData(Source::View(view)))))
    }

    /// Replaces the state, in memory and on disk, by a snapshot. One that is not ahead of the state changes nothing.
    pub(super) fn install(&self, meta: &SnapshotMeta, data: &SnapshotData) -> Result<(), StoreFailure> {
        let _writing = self.writing.lock();
        self.health.check()?;
        if meta.last_log_id <= self.roll.applied() {
            tracing::warn!(?meta.last_log_id, "a snapshot that is not ahead of the state is not installed");
            return Ok(());
        }
        let installed = self.install_ahead(meta, data);
        self.health.guard("install a snapshot", installed)
    }

    fn install_ahead(&self, meta: &SnapshotMeta, data: &SnapshotData) -> Result<(), InstallError> {
        let before = self.current.lock().clone();
        let next = before.make_next()?;
        let filled: Result<_, InstallError> = fill(&next, self.options, |header| header, |take| data.read(take));
        let (mut replicated, header) = filled?.ok_or(InstallError::Empty)?;
        if header.meta() != *meta {
            return Err(InstallError::OtherPosition);
        }
        let (own, new) = (self.roll.read(|state| state.header()), &header.header);
        if (new.epoch, new.revision) < (own.epoch, own.revision) || new.now < own.now {
            return Err(InstallError::Backwards);
        }
        next.make_current()?;
        before.supersede();
        *self.current.lock() = Arc::new(next);
        let replaced = self.roll.with(|current| {
            // What was taken belongs to the rows that are gone.
            self.taken.lock().clear();
            replicated.state.succeed(&current.state);
            std::mem::replace(current, replicated)
        });
        self.roll.publish();
        drop(replaced);
        Ok(())
    }
}

fn snapshot((header, snapshot): (StateHeader, SnapshotData)) -> Snapshot {
    Snapshot { meta: header.meta(), snapshot }
}

/// Writes a snapshot's rows into an empty generation, durably, and makes the state of them. The header is written as
/// `adopt` has it. None if no frame comes.
pub(super) fn fill<E: From<SnapshotError> + From<rocksdb::Error>>(
    generation: &Generation,
    options: Options,
    adopt: impl FnOnce(StateHeader) -> StateHeader,
    read: impl FnOnce(&mut dyn FnMut(Frame) -> Result<(), E>) -> Result<(), E>,
) -> Result<Option<(Replicated, StateHeader)>, E> {
    // The rows are worth something only together, so one flush at the end replaces the WAL.
    let mut unlogged = WriteOptions::default();
    unlogged.disable_wal(true);
    let db = &generation.db;
    let loaded = loader::load(options, |take| {
        read(&mut |frame| {
            if let Frame::Rows { table, rows } = &frame {
                let mut batch = WriteBatch::default();
                for row in rows {
                    batch.put_cf(cf(db, table.name()), &row.key, &row.record);
                }
                db.write_opt(batch, &unlogged)?;
            }
            take(frame)
        })
    })?;
    let Some((replicated, header)) = loaded else { return Ok(None) };
    let header = adopt(header);
    let mut batch = WriteBatch::default();
    put_header(db, &mut batch, &header);
    db.write_opt(batch, &unlogged)?;
    generation.flush()?;
    Ok(Some((replicated, header)))
}
