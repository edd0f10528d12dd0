//! The Raft log, the vote, and what is known to be committed.
//!
//! An append writes to RocksDB without waiting for the disk, so that the entries can be read at once, and asks the
//! flush thread to tell when they are durable. Votes go the same way and wait, so that votes and entries become durable
//! in the order in which they were written. While one flush runs, the writes for the next gather.
//!
//! Invariants:
//! - entries have no gap between the purged position and the last one, neither on disk nor in [`Position`];
//! - nothing is acknowledged before the flush that followed its write succeeded;
//! - a reader's bounds and its view of the database are taken under one lock, so that it never takes a truncated or
//!   purged entry for a missing one.

mod db;
mod flusher;
mod memory;
mod tail;
#[cfg(test)]
mod tests;

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::path::Path;
use std::sync::Arc;

use futures_util::{Stream, stream};
use openraft::entry::RaftEntry;
use openraft::storage::{IOFlushed, RaftLogStorage};
use openraft::{LogState, OptionalSend, RaftLogReader};
use parking_lot::Mutex;
use rocksdb::{DB, Direction, IteratorMode, ReadOptions, WriteBatch};

pub use db::LogOpenError;
use db::{COMMITTED, END_KEY, LOG, META, PURGED, Position, STARTS, VOTE, cf};
use flusher::{Flush, Flusher};
pub use memory::{FlushTimes, ImaginedDisk, MemoryLog, MemoryLogReader};

use crate::codec::{self, Kind};
use crate::data_dir::DataDir;
use crate::failure::{Health, StoreFailure};
use crate::meter::Histogram;
use crate::types::{LogEntry, LogId, NodeId, TypeConfig, Vote};

/// Encoded bytes that one read of a range gives at most, if it may be cut short: what a follower takes in one request.
const READ_BYTES_MAX: usize = 1 << 20;

/// Why a range of the log cannot be read.
#[derive(Debug, thiserror::Error)]
enum LogReadError {
    #[error("read the log from {start} until {end}")]
    Read {
        start: u64,
        end: u64,
        #[source]
        source: rocksdb::Error,
    },
    #[error("read log entry {index}")]
    Entry {
        index: u64,
        #[source]
        source: codec::CodecError,
    },
    #[error("log entry {index} is missing")]
    Missing { index: u64 },
}

/// Why an append was refused.
#[derive(Debug, thiserror::Error)]
#[error("append log entry {found} where {expected} comes next")]
struct OutOfOrder {
    expected: u64,
    found: u64,
}

/// What a member needs of its log beside what openraft does.
pub trait NodeLog: RaftLogStorage<TypeConfig> {
    /// Counts the start of a process, durably, and tells its number: later than that of every process before on this log,
    /// and than `least`. Blocks.
    fn count_start(&self, least: u64) -> Result<u64, StoreFailure>;
}

/// Makes durable everything that was appended.
pub(crate) trait FlushLog: Send + Sync {
    /// Blocks.
    fn flush_log(&self) -> Result<(), StoreFailure>;
}

/// The log as openraft writes it. There is one; its readers are [`LogReader`]s.
pub struct LogStore {
    flusher: Flusher,
    shared: Arc<Shared>,
    /// The committed position that the database holds.
    committed_written: Option<LogId>,
}

/// Reads the log beside its writer. Cheap to clone.
#[derive(Clone)]
pub struct LogReader(Arc<Shared>);

/// Tells how far the log reaches. Does not hold the log open.
#[derive(Clone, Debug)]
pub struct LogEnd(Arc<Mutex<Position>>);

impl LogEnd {
    /// The last entry, flushed or not, or the last that was purged if there is none.
    pub fn last(&self) -> Option<LogId> {
        self.0.lock().last
    }
}

struct Shared {
    db: DB,
    health: Health,
    position: Arc<Mutex<Position>>,
    /// Keeps other processes out as long as the log is open.
    _dir: DataDir,
}

/// The flush of a log whose writes go to RocksDB's WAL.
struct FlushWal(Arc<Shared>);

impl Flush for FlushWal {
    fn flush(&mut self) -> io::Result<()> {
        self.0.db.flush_wal(true).map_err(io::Error::other)
    }
}

impl LogStore {
    /// Opens the log and checks it whole. `create` makes a new one where there is none.
    pub(crate) fn open(dir: &DataDir, create: bool, health: Health) -> Result<Self, LogOpenError> {
        let shared = Shared::open(&dir.log_path(), create, dir.clone(), health)?;
        let flush = FlushWal(shared.clone());
        Self::with_flush(shared, flush)
    }

    fn with_flush(shared: Arc<Shared>, flush: impl Flush) -> Result<Self, LogOpenError> {
        let flusher = Flusher::spawn(flush, shared.health.clone()).map_err(LogOpenError::Thread)?;
        let committed_written = shared.position.lock().committed;
        Ok(Self { flusher, shared, committed_written })
    }

    pub(crate) fn reader(&self) -> LogReader {
        LogReader(self.shared.clone())
    }

    pub(crate) fn end(&self) -> LogEnd {
        LogEnd(self.shared.position.clone())
    }

    /// Makes a log that begins behind everything up to `upto`, whatever it held, durably. In the vote of `node_id`, which
    /// is later than any that the node or the log knows of, nobody leads: it has to stand for election.
    pub(crate) fn begin_behind(&self, upto: LogId, node_id: NodeId) -> Result<(), StoreFailure> {
        let voted = self.shared.position.lock().vote.map_or(0, |vote| vote.leader_id.term);
        let vote = Vote::new(voted.max(upto.committed_leader_id().term) + 1, node_id);
        let mut batch = WriteBatch::default();
        let (log, meta) = (cf(&self.shared.db, LOG), cf(&self.shared.db, META));
        batch.delete_range_cf(log, &[][..], &END_KEY[..]);
        batch.put_cf(meta, PURGED, codec::seal(Kind::LogId, PURGED, &upto));
        batch.put_cf(meta, COMMITTED, codec::seal(Kind::LogId, COMMITTED, &upto));
        batch.put_cf(meta, VOTE, codec::seal(Kind::Vote, VOTE, &vote));
        self.shared.write("begin the log anew", batch)?;
        self.reader().flush_log()
    }

    /// Everything up to here is known to be committed; none if nothing is.
    pub(crate) fn committed(&self) -> Option<LogId> {
        self.shared.position.lock().committed
    }

    /// How long each flush took.
    pub(crate) fn flush_durations(&self) -> Arc<Histogram> {
        self.flusher.durations.clone()
    }

    /// Everything up to here is purged; none if nothing was.
    pub(crate) fn purged(&self) -> Option<LogId> {
        self.shared.position.lock().purged
    }
}

impl NodeLog for LogStore {
    fn count_start(&self, least: u64) -> Result<u64, StoreFailure> {
        let start = {
            let mut position = self.shared.position.lock();
            position.starts = position.starts.max(least).saturating_add(1);
            position.starts
        };
        self.shared.put_meta("count the start", STARTS, codec::seal(Kind::Starts, STARTS, &start))?;
        self.reader().flush_log()?;
        Ok(start)
    }
}

impl FlushLog for LogReader {
    fn flush_log(&self) -> Result<(), StoreFailure> {
        self.0.health.guard("flush the log", self.0.db.flush_wal(true))
    }
}

impl LogReader {
    /// Entries from `start` on, at least one if there is one. Blocks.
    pub(crate) fn read_from(&self, start: u64) -> Result<Vec<LogEntry>, StoreFailure> {
        let range = start..;
        let (start, end) = Shared::clip(&self.0.position.lock(), &range);
        if start >= end {
            return Ok(Vec::new());
        }
        self.0.health.guard("read the log", self.0.read_rows(&range, READ_BYTES_MAX))
    }
}

impl Shared {
    fn open(path: &Path, create: bool, dir: DataDir, health: Health) -> Result<Arc<Self>, LogOpenError> {
        let db = db::open(path, create)?;
        let position = db::recover(&db)?;
        Ok(Arc::new(Self { db, health, position: Arc::new(Mutex::new(position)), _dir: dir }))
    }

    fn write(&self, attempted: &'static str, batch: WriteBatch) -> Result<(), StoreFailure> {
        self.health.check()?;
        self.health.guard(attempted, self.db.write(batch))
    }

    fn put_meta(&self, attempted: &'static str, key: &[u8], record: Vec<u8>) -> Result<(), StoreFailure> {
        let mut batch = WriteBatch::default();
        batch.put_cf(cf(&self.db, META), key, record);
        self.write(attempted, batch)
    }

    /// The part of a range that the log holds.
    fn clip(position: &Position, range: &impl RangeBounds<u64>) -> (u64, u64) {
        let start = match range.start_bound() {
            Bound::Included(start) => *start,
            Bound::Excluded(before) => before.saturating_add(1),
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(last) => last.saturating_add(1),
            Bound::Excluded(end) => *end,
            Bound::Unbounded => u64::MAX,
        };
        (start.max(position.first), end.min(position.next().unwrap_or(0)))
    }

    /// Reads from the database; blocks.
    fn read_rows(&self, range: &impl RangeBounds<u64>, bytes_max: usize) -> Result<Vec<LogEntry>, LogReadError> {
        let position = self.position.lock();
        let (start, end) = Self::clip(&position, range);
        let mut options = ReadOptions::default();
        options.fill_cache(false);
        options.set_iterate_lower_bound(start.to_be_bytes());
        options.set_iterate_upper_bound(end.to_be_bytes());
        let mode = IteratorMode::From(&start.to_be_bytes(), Direction::Forward);
        let mut rows = self.db.iterator_cf_opt(cf(&self.db, LOG), options, mode);
        // The iterator shows the log as it is now, whatever is purged or truncated from here on.
        drop(position);

        let mut entries = Vec::new();
        let mut bytes = 0;
        for index in start..end {
            let (key, record) = rows
                .next()
                .ok_or(LogReadError::Missing { index })?
                .map_err(|source| LogReadError::Read { start, end, source })?;
            if *key != index.to_be_bytes() {
                return Err(LogReadError::Missing { index });
            }
            if bytes > 0 && bytes + record.len() > bytes_max {
                break;
            }
            bytes += record.len();
            let entry = db::decode_entry(index, &record).map_err(|source| LogReadError::Entry { index, source })?;
            entries.push(entry);
        }
        Ok(entries)
    }
}

impl LogReader {
    /// The entries of a range that the log holds, at least one of them and then only until `bytes_max` is reached.
    async fn read<R>(&self, range: R, bytes_max: usize) -> Result<Vec<LogEntry>, io::Error>
    where
        R: RangeBounds<u64> + Send + 'static,
    {
        self.0.health.check()?;
        {
            let position = self.0.position.lock();
            let (start, end) = Shared::clip(&position, &range);
            if start >= end {
                return Ok(Vec::new());
            }
            if let Some(entries) = position.tail.read(start, end, bytes_max) {
                return Ok(entries);
            }
        }
        let shared = self.0.clone();
        let read = tokio::task::spawn_blocking(move || {
            let entries = shared.read_rows(&range, bytes_max);
            shared.health.guard("read the log", entries)
        });
        Ok(read.await.map_err(io::Error::other)??)
    }
}

fn bounds(range: &impl RangeBounds<u64>) -> (Bound<u64>, Bound<u64>) {
    (range.start_bound().cloned(), range.end_bound().cloned())
}

impl RaftLogReader<TypeConfig> for LogReader {
    async fn try_get_log_entries<RB>(&mut self, range: RB) -> Result<Vec<LogEntry>, io::Error>
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        self.read(bounds(&range), usize::MAX).await
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        Ok(self.0.position.lock().vote)
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<LogEntry>, io::Error> {
        self.read(start..end, READ_BYTES_MAX).await
    }

    /// Reads piece by piece, so that a long replay is not in memory at once.
    async fn entries_stream<RB>(
        &mut self,
        range: RB,
    ) -> impl Stream<Item = Result<LogEntry, io::Error>> + OptionalSend
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let reader = self.clone();
        let start = bounds(&range);
        stream::unfold(Some((start, Vec::new().into_iter())), move |state| {
            let reader = reader.clone();
            async move {
                let (mut rest, mut piece) = state?;
                loop {
                    if let Some(entry) = Iterator::next(&mut piece) {
                        rest.0 = Bound::Excluded(RaftEntry::index(&entry));
                        return Some((Ok(entry), Some((rest, piece))));
                    }
                    match reader.read(rest, READ_BYTES_MAX).await {
                        Ok(entries) if entries.is_empty() => return None,
                        Ok(entries) => piece = entries.into_iter(),
                        Err(error) => return Some((Err(error), None)),
                    }
                }
            }
        })
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = LogReader;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, io::Error> {
        let position = self.shared.position.lock();
        Ok(LogState { last_purged_log_id: position.purged, last_log_id: position.last })
    }

    async fn get_log_reader(&mut self) -> LogReader {
        LogReader(self.shared.clone())
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        self.shared.put_meta("write the vote", VOTE, codec::seal(Kind::Vote, VOTE, vote))?;
        self.flusher.durable().await?;
        self.shared.position.lock().vote = Some(*vote);
        Ok(())
    }

    /// Written with the next append: an older position is corrected by the leader, and replaying fewer entries loses
    /// none.
    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        self.shared.health.check()?;
        self.shared.position.lock().committed = committed;
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        Ok(self.shared.position.lock().committed)
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = LogEntry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let (mut next, committed) = {
            let position = self.shared.position.lock();
            (position.next(), position.committed)
        };
        let mut appended = Vec::new();
        let mut batch = WriteBatch::default();
        for entry in entries {
            let (index, key) = (entry.index(), entry.index().to_be_bytes());
            if let Some(expected) = next.filter(|expected| *expected != index) {
                let error = OutOfOrder { expected, found: index };
                return Err(self.shared.health.fail("append to the log", error).into());
            }
            next = Some(index + 1);
            let record = codec::seal(Kind::LogEntry, &key, &entry);
            batch.put_cf(cf(&self.shared.db, LOG), key, &record);
            appended.push((entry, record.len()));
        }
        if committed > self.committed_written
            && let Some(committed) = committed
        {
            let record = codec::seal(Kind::LogId, COMMITTED, &committed);
            batch.put_cf(cf(&self.shared.db, META), COMMITTED, record);
        }
        self.shared.write("append to the log", batch)?;
        self.committed_written = self.committed_written.max(committed);
        {
            let mut position = self.shared.position.lock();
            for (entry, bytes) in appended {
                if position.last.is_none() {
                    position.first = entry.index();
                }
                position.last = Some(entry.log_id());
                position.tail.push(entry, bytes);
            }
        }
        self.flusher.notify(callback).await;
        Ok(())
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> Result<(), io::Error> {
        let end = last.map_or(0, |last| last.index + 1);
        {
            let mut position = self.shared.position.lock();
            if position.next().is_none_or(|next| next <= end) {
                return Ok(());
            }
            position.last = last.max(position.purged);
            position.tail.truncate(end);
        }
        let mut batch = WriteBatch::default();
        batch.delete_range_cf(cf(&self.shared.db, LOG), &end.to_be_bytes()[..], &END_KEY[..]);
        Ok(self.shared.write("truncate the log", batch)?)
    }

    /// Not flushed: what comes back after a crash is purged again.
    async fn purge(&mut self, upto: LogId) -> Result<(), io::Error> {
        let (start, end) = {
            let mut position = self.shared.position.lock();
            if position.purged >= Some(upto) {
                return Ok(());
            }
            let (start, end) = (position.first, upto.index + 1);
            position.purged = Some(upto);
            // A snapshot may be ahead of the log.
            if position.next().is_none_or(|next| next <= end) {
                position.last = Some(upto);
            }
            position.first = start.max(end);
            position.tail.purge(end);
            (start.min(end), end)
        };
        let mut batch = WriteBatch::default();
        batch.put_cf(cf(&self.shared.db, META), PURGED, codec::seal(Kind::LogId, PURGED, &upto));
        batch.delete_range_cf(cf(&self.shared.db, LOG), start.to_be_bytes(), end.to_be_bytes());
        Ok(self.shared.write("purge the log", batch)?)
    }
}
