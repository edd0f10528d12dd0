//! The log's rows in RocksDB: how they are keyed, opened and checked.

use std::path::{Path, PathBuf};

use rocksdb::{ColumnFamily, DB, IteratorMode, ReadOptions};

use super::tail::Tail;
use crate::codec::{self, CodecError, Kind};
use crate::rocks;
use crate::types::{LogEntry, LogId, Vote};

pub(super) const LOG: &str = "log";
pub(super) const META: &str = "meta";
pub(super) const VOTE: &[u8] = b"vote";
pub(super) const COMMITTED: &[u8] = b"committed";
pub(super) const PURGED: &[u8] = b"purged";
pub(super) const STARTS: &[u8] = b"starts";

/// Behind every possible key of an entry.
pub(super) const END_KEY: [u8; 9] = [0xFF; 9];

/// Entries of the tail kept decoded, by their encoded size: a few seconds of a loaded node, and what a follower that
/// is a little behind asks for.
const TAIL_BYTES_MAX: usize = 4 << 20;

/// Memory per write buffer; a full one becomes a file.
const WRITE_BUFFER_BYTES: usize = 4 << 20;
/// One is filled while another is written out.
const WRITE_BUFFERS_MAX: i32 = 2;
/// WAL kept before the oldest write buffer is written out, which bounds the replay at a restart: what is rarely written,
/// such as the vote, would otherwise keep it all.
const WAL_BYTES_MAX: u64 = 16 << 20;

/// Why a log cannot be opened. None of it is passed over: what is missing may have been acknowledged.
#[derive(Debug, thiserror::Error)]
pub enum LogOpenError {
    #[error("open the log in {path}")]
    Open {
        path: PathBuf,
        #[source]
        source: rocksdb::Error,
    },
    #[error("read the log")]
    Read(#[source] rocksdb::Error),
    #[error("read the log's {name}")]
    Meta {
        name: &'static str,
        #[source]
        source: CodecError,
    },
    #[error("a key of {bytes} bytes stands in the log")]
    Key { bytes: usize },
    #[error("read log entry {index}")]
    Entry {
        index: u64,
        #[source]
        source: CodecError,
    },
    #[error("log entry {expected} is missing: {found} stands in its place")]
    Gap { expected: u64, found: u64 },
    #[error("log entry {found} is older than the entry before it")]
    TermOrder { found: LogId },
    #[error("start the log's flush thread")]
    Thread(#[source] std::io::Error),
}

/// Where the log stands.
#[derive(Debug)]
pub(super) struct Position {
    /// The index of the first entry, if there are any.
    pub(super) first: u64,
    pub(super) purged: Option<LogId>,
    /// The last entry, or the purged position if there is none.
    pub(super) last: Option<LogId>,
    pub(super) vote: Option<Vote>,
    pub(super) committed: Option<LogId>,
    /// How often a process has started on this log.
    pub(super) starts: u64,
    pub(super) tail: Tail,
}

impl Position {
    /// The index that the next entry gets; none if the log is new, where openraft's tests start anywhere.
    pub(super) fn next(&self) -> Option<u64> {
        self.last.map(|last| last.index + 1)
    }
}

pub(super) fn open(path: &Path, create: bool) -> Result<DB, LogOpenError> {
    let mut options = rocks::options(create);
    options.set_write_buffer_size(WRITE_BUFFER_BYTES);
    options.set_max_write_buffer_number(WRITE_BUFFERS_MAX);
    options.set_max_total_wal_size(WAL_BYTES_MAX);
    options.set_wal_bytes_per_sync(1 << 20);
    DB::open_cf_with_opts(&options, path, [(LOG, options.clone()), (META, options.clone())])
        .map_err(|source| LogOpenError::Open { path: path.to_owned(), source })
}

pub(super) fn cf<'a>(db: &'a DB, name: &str) -> &'a ColumnFamily {
    db.cf_handle(name).expect("every column family was opened with the database")
}

/// Reads where the log stands and checks every entry: none is missing, misplaced or damaged.
///
/// All of it is durable, even what the process before wrote and did not flush: RocksDB writes what it recovers from the
/// WAL into flushed files before it is open.
pub(super) fn recover(db: &DB) -> Result<Position, LogOpenError> {
    let purged: Option<LogId> = meta(db, "purged position", PURGED, Kind::LogId)?;
    let committed = meta(db, "committed position", COMMITTED, Kind::LogId)?;
    let vote = meta(db, "vote", VOTE, Kind::Vote)?;
    let starts = meta(db, "count of starts", STARTS, Kind::Starts)?.unwrap_or(0);
    let first = purged.map_or(0, |purged| purged.index + 1);
    let tail = Tail::new(TAIL_BYTES_MAX);
    let mut position = Position { first, purged, last: purged, vote, committed, starts, tail };

    let mut read_options = ReadOptions::default();
    read_options.fill_cache(false);
    read_options.set_readahead_size(rocks::READAHEAD_BYTES);
    let rows = db.iterator_cf_opt(cf(db, LOG), read_options, IteratorMode::Start);
    for (expected, row) in (first..).zip(rows) {
        let (key, record) = row.map_err(LogOpenError::Read)?;
        let index = u64::from_be_bytes((*key).try_into().map_err(|_| LogOpenError::Key { bytes: key.len() })?);
        if index != expected {
            return Err(LogOpenError::Gap { expected, found: index });
        }
        // The checksum covers the commands too; they are decoded when they are applied.
        let log_id: LogId = codec::unseal_head(Kind::LogEntry, &key, &record)
            .map_err(|source| LogOpenError::Entry { index, source })?;
        if log_id.index != index {
            return Err(LogOpenError::Gap { expected, found: log_id.index });
        }
        if position.last > Some(log_id) {
            return Err(LogOpenError::TermOrder { found: log_id });
        }
        position.last = Some(log_id);
    }
    Ok(position)
}

pub(super) fn decode_entry(index: u64, record: &[u8]) -> Result<LogEntry, CodecError> {
    codec::unseal(Kind::LogEntry, &index.to_be_bytes(), record)
}

fn meta<T: serde::de::DeserializeOwned>(
    db: &DB,
    name: &'static str,
    key: &[u8],
    kind: Kind,
) -> Result<Option<T>, LogOpenError> {
    let record = db.get_cf(cf(db, META), key).map_err(LogOpenError::Read)?;
    record
        .map(|record| codec::unseal(kind, key, &record))
        .transpose()
        .map_err(|source| LogOpenError::Meta { name, source })
}
