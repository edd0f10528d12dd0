//! A log on a disk that is imagined: a simulation says how long a flush takes and when the power goes.
//!
//! What holds of the log on a real disk holds here: nothing is called durable before the flush that followed its write,
//! votes and entries become durable in the order in which they were written, and one flush serves all that waited. What
//! runs on after its disk lost power gets errors: it is what is left of a process that ended.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::io;
use std::ops::RangeBounds;
use std::sync::Arc;
use std::time::Duration;

use openraft::entry::RaftEntry;
use openraft::storage::{IOFlushed, RaftLogStorage};
use openraft::{LogState, OptionalSend, RaftLogReader};
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};

use super::db::Position;
use super::tail::Tail;
use super::{FlushLog, LogEnd, NodeLog};
use crate::failure::{Health, StoreFailure};
use crate::meter::Histogram;
use crate::types::{LogEntry, LogId, TypeConfig, Vote};

/// Requests that may wait for a flush.
const WAITING_MAX: usize = 4096;

/// How long the next flush takes.
pub type FlushTimes = Arc<dyn Fn() -> Duration + Send + Sync>;

/// The process that used the disk has ended.
#[derive(Debug, thiserror::Error)]
#[error("the imagined disk has another holder")]
struct Lost;

/// What one node has on its disk. Outlives the processes that use it, one after the other.
#[derive(Clone)]
pub struct ImaginedDisk(Arc<Mutex<Platter>>);

struct Platter {
    written: Rows,
    durable: Rows,
    /// Counts the processes that used it.
    holder: u64,
    flush_times: FlushTimes,
    lies: bool,
}

#[derive(Clone, Default)]
struct Rows {
    entries: BTreeMap<u64, LogEntry>,
    purged: Option<LogId>,
    committed: Option<LogId>,
    vote: Option<Vote>,
    starts: u64,
}

impl Rows {
    fn last(&self) -> Option<LogId> {
        self.entries.last_key_value().map(|(_, entry)| entry.log_id()).or(self.purged)
    }
}

impl ImaginedDisk {
    pub fn new(flush_times: FlushTimes) -> Self {
        let (written, durable) = Default::default();
        Self(Arc::new(Mutex::new(Platter { written, durable, holder: 0, flush_times, lies: false })))
    }

    /// From now on flushes are acknowledged and do nothing, or do what they say again.
    pub fn lie(&self, lies: bool) {
        self.0.lock().lies = lies;
    }

    /// The process ends; what it wrote stays, flushed or not.
    pub fn end_process(&self) {
        let mut platter = self.0.lock();
        platter.holder += 1;
        platter.durable = platter.written.clone();
    }

    /// The machine loses power, and with it what was not flushed. Tells how many entries that were.
    pub fn lose_power(&self) -> u64 {
        let mut platter = self.0.lock();
        platter.holder += 1;
        let reaches = |rows: &Rows| rows.last().map_or(0, |last| last.index);
        let lost = reaches(&platter.written).saturating_sub(reaches(&platter.durable));
        platter.written = platter.durable.clone();
        lost
    }

    /// Takes the disk from whoever had it.
    fn hold(&self) -> Held {
        let mut platter = self.0.lock();
        platter.holder += 1;
        Held { disk: self.clone(), holder: platter.holder }
    }
}

/// A disk as one process sees it.
#[derive(Clone)]
struct Held {
    disk: ImaginedDisk,
    holder: u64,
}

impl Held {
    fn with<T>(&self, f: impl FnOnce(&mut Platter) -> T) -> Result<T, io::Error> {
        let mut platter = self.disk.0.lock();
        if platter.holder == self.holder { Ok(f(&mut platter)) } else { Err(io::Error::other(Lost)) }
    }

    fn keep(&self, rows: Rows) -> Result<(), io::Error> {
        self.with(|platter| {
            if !platter.lies {
                platter.durable = rows;
            }
        })
    }
}

/// Whom to tell that what was written is durable.
enum Waiting {
    Append(IOFlushed<TypeConfig>),
    Vote(oneshot::Sender<Result<(), io::Error>>),
}

/// The log as openraft writes it.
pub struct MemoryLog {
    held: Held,
    position: Arc<Mutex<Position>>,
    queue: mpsc::Sender<Waiting>,
    health: Health,
    durations: Arc<Histogram>,
}

/// Reads the log beside its writer.
#[derive(Clone)]
pub struct MemoryLogReader {
    held: Held,
    health: Health,
}

impl MemoryLog {
    /// Takes the disk. Must be called within a runtime, in which flushes then take their time.
    pub(crate) fn open(disk: &ImaginedDisk, health: Health) -> Result<Self, io::Error> {
        let held = disk.hold();
        let position = held.with(|platter| {
            let Rows { entries, purged, committed, vote, starts } = &platter.written;
            let first = entries.first_key_value().map_or(purged.map_or(0, |purged| purged.index + 1), |(at, _)| *at);
            let (last, tail) = (platter.written.last(), Tail::new(0));
            Position { first, purged: *purged, last, vote: *vote, committed: *committed, starts: *starts, tail }
        })?;
        let (queue, waiting) = mpsc::channel(WAITING_MAX);
        let durations = Arc::new(Histogram::of_durations());
        tokio::spawn(flush(held.clone(), waiting, durations.clone()));
        Ok(Self { held, position: Arc::new(Mutex::new(position)), queue, health, durations })
    }

    pub(crate) fn reader(&self) -> MemoryLogReader {
        MemoryLogReader { held: self.held.clone(), health: self.health.clone() }
    }

    pub(crate) fn end(&self) -> LogEnd {
        LogEnd(self.position.clone())
    }

    pub(crate) fn flush_durations(&self) -> Arc<Histogram> {
        self.durations.clone()
    }

    pub(crate) fn purged(&self) -> Option<LogId> {
        self.position.lock().purged
    }

    /// Writes to the disk, and then where the log stands.
    fn write(&self, rows: impl FnOnce(&mut Rows)) -> Result<(), io::Error> {
        let (last, purged, first) = self.held.with(|platter| {
            let written = &mut platter.written;
            rows(written);
            (written.last(), written.purged, written.entries.first_key_value().map(|(at, _)| *at))
        })?;
        let mut position = self.position.lock();
        (position.last, position.purged) = (last, purged);
        position.first = first.unwrap_or_else(|| purged.map_or(0, |purged| purged.index + 1));
        Ok(())
    }

    async fn hand_in(&self, waiting: Waiting) -> Result<(), io::Error> {
        self.queue.send(waiting).await.map_err(|_| io::Error::other(Lost))
    }
}

/// Flushes for all that wait, one flush after the other.
async fn flush(held: Held, mut queue: mpsc::Receiver<Waiting>, durations: Arc<Histogram>) {
    while let Some(first) = queue.recv().await {
        let mut group = vec![first];
        group.extend(std::iter::from_fn(|| queue.try_recv().ok()));
        // What is written while the flush runs is left to the next.
        let begun = held.with(|platter| (platter.written.clone(), (platter.flush_times)()));
        let flushed = match begun {
            Ok((rows, time)) => {
                tokio::time::sleep(time).await;
                durations.observe_duration(time);
                held.keep(rows)
            }
            Err(lost) => Err(lost),
        };
        for waiting in group {
            let flushed = flushed.as_ref().map(drop).map_err(|_| io::Error::other(Lost));
            match waiting {
                Waiting::Append(callback) => callback.io_completed(flushed),
                // Who no longer waits need not be told.
                Waiting::Vote(done) => drop(done.send(flushed)),
            }
        }
    }
}

impl FlushLog for MemoryLogReader {
    fn flush_log(&self) -> Result<(), StoreFailure> {
        let flushed = self.held.with(|platter| platter.written.clone()).and_then(|rows| self.held.keep(rows));
        self.health.guard("flush the log", flushed)
    }
}

impl NodeLog for MemoryLog {
    fn count_start(&self, least: u64) -> Result<u64, StoreFailure> {
        let counted = self.held.with(|platter| {
            let start = platter.written.starts.max(least).saturating_add(1);
            (platter.written.starts, platter.durable.starts) = (start, start);
            start
        });
        self.health.guard("count the start", counted)
    }
}

impl RaftLogReader<TypeConfig> for MemoryLogReader {
    async fn try_get_log_entries<RB>(&mut self, range: RB) -> Result<Vec<LogEntry>, io::Error>
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let bounds = (range.start_bound().cloned(), range.end_bound().cloned());
        self.held.with(|platter| platter.written.entries.range(bounds).map(|(_, entry)| entry.clone()).collect())
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        self.held.with(|platter| platter.written.vote)
    }
}

impl RaftLogStorage<TypeConfig> for MemoryLog {
    type LogReader = MemoryLogReader;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, io::Error> {
        let position = self.position.lock();
        Ok(LogState { last_purged_log_id: position.purged, last_log_id: position.last })
    }

    async fn get_log_reader(&mut self) -> MemoryLogReader {
        self.reader()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        self.write(|rows| rows.vote = Some(*vote))?;
        let (done, wait) = oneshot::channel();
        self.hand_in(Waiting::Vote(done)).await?;
        wait.await.map_err(|_| io::Error::other(Lost))?
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        self.write(|rows| rows.committed = committed)
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        self.held.with(|platter| platter.written.committed)
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = LogEntry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<LogEntry> = entries.into_iter().collect();
        self.write(|rows| rows.entries.extend(entries.into_iter().map(|entry| (entry.index(), entry))))?;
        self.hand_in(Waiting::Append(callback)).await
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> Result<(), io::Error> {
        let end = last.map_or(0, |last| last.index + 1);
        self.write(|rows| drop(rows.entries.split_off(&end)))
    }

    async fn purge(&mut self, upto: LogId) -> Result<(), io::Error> {
        self.write(|rows| {
            if rows.purged < Some(upto) {
                rows.entries = rows.entries.split_off(&(upto.index + 1));
                rows.purged = Some(upto);
            }
        })
    }
}
