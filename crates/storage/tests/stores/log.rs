//! The log keeps what it acknowledged, and refuses what is not whole.

use std::fs;
use std::path::{Path, PathBuf};

use crate::common::{append, copy_dir, entries, entry, last_index, lock, log_id, open};
use futures_util::TryStreamExt;
use openraft::RaftLogReader;
use openraft::storage::RaftLogStorage;
use rollcall_registry::Options;
use rollcall_storage::{LogEntry, LogOpenError, NodeLog, OpenError, Stores, Vote};

fn vote(term: u64) -> Vote {
    Vote::new_committed(term, 1)
}

async fn all(stores: &mut Stores) -> Vec<LogEntry> {
    stores.log.get_log_reader().await.try_get_log_entries(..).await.unwrap()
}

/// The error of opening a directory.
fn refusal(path: &Path) -> OpenError {
    match rollcall_storage::open(&lock(path), Options::default()) {
        Ok(_) => panic!("a damaged directory was opened"),
        Err(error) => error,
    }
}

#[tokio::test]
async fn p1_a_kill_after_any_write_loses_nothing_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let node = dir.path().join("node");
    let mut stores = open(&node);
    let mut step = 0;
    let mut killed = || {
        step += 1;
        let copy = dir.path().join(step.to_string());
        copy_dir(&node, &copy);
        open(&copy)
    };

    append(&mut stores, 0..5).await;
    assert_eq!(all(&mut killed()).await, entries(0..5));

    stores.log.save_vote(&vote(4)).await.unwrap();
    let mut reopened = killed();
    assert_eq!(reopened.log.get_log_reader().await.read_vote().await.unwrap(), Some(vote(4)));

    stores.log.save_committed(Some(log_id(2))).await.unwrap();
    stores.log.truncate_after(Some(log_id(2))).await.unwrap();
    assert_eq!(all(&mut killed()).await, entries(0..3));

    append(&mut stores, 3..9).await;
    let mut reopened = killed();
    assert_eq!(all(&mut reopened).await, entries(0..9));
    assert_eq!(reopened.log.read_committed().await.unwrap(), Some(log_id(2)), "not written with the append");

    crate::common::apply(&mut stores, 0..8).await;
    crate::common::checkpoint(&mut stores).await;
    stores.log.purge(log_id(6)).await.unwrap();
    let mut reopened = killed();
    assert_eq!(all(&mut reopened).await, entries(7..9));
    let state = reopened.log.get_log_state().await.unwrap();
    assert_eq!((state.last_purged_log_id, state.last_log_id), (Some(log_id(6)), Some(log_id(8))));
}

#[tokio::test]
async fn p1_starts_are_counted_and_no_number_comes_twice() {
    let dir = tempfile::tempdir().unwrap();
    let count = |least| {
        let stores = open(dir.path());
        stores.log.count_start(least).unwrap()
    };
    assert_eq!([count(0), count(0), count(0)], [1, 2, 3]);
    // A restore brought in batches of a process that this directory has not seen.
    assert_eq!([count(40), count(0), count(7)], [41, 42, 43]);
}

#[tokio::test]
async fn a_purge_beyond_the_last_entry_moves_the_log_forward() {
    let dir = tempfile::tempdir().unwrap();
    let mut stores = open(dir.path());
    append(&mut stores, 0..5).await;
    crate::common::apply(&mut stores, 0..101).await;
    crate::common::checkpoint(&mut stores).await;
    stores.log.purge(log_id(100)).await.unwrap();
    assert_eq!(last_index(&mut stores).await, Some(100));
    assert_eq!(all(&mut stores).await, []);
    append(&mut stores, 101..103).await;
    drop(stores);
    assert_eq!(all(&mut open(dir.path())).await, entries(101..103));
}

#[tokio::test]
async fn reads_are_cut_at_a_mebibyte_and_never_empty() {
    let dir = tempfile::tempdir().unwrap();
    let mut stores = open(dir.path());
    // More than the decoded tail holds, so that both ways of reading are taken.
    let count = 60_000;
    for start in (0..count).step_by(5_000) {
        append(&mut stores, start..start + 5_000).await;
    }
    let mut reader = stores.log.get_log_reader().await;
    for start in [0, 17, count - 20_000, count - 1] {
        let read = reader.limited_get_log_entries(start, count).await.unwrap();
        assert!(!read.is_empty());
        assert_eq!(read, entries(start..start + read.len() as u64));
        let bytes: usize = read.iter().map(encoded_bytes).sum();
        assert!(bytes <= 1 << 20, "{bytes}");
    }
    let streamed: Vec<_> = reader.entries_stream(5..count).await.try_collect().await.unwrap();
    assert_eq!(streamed.len() as u64, count - 5);
    assert!(streamed.iter().zip(5..).all(|(entry, index)| entry.log_id.index == index));
    drop((stores, reader));
    assert_eq!(last_index(&mut open(dir.path())).await, Some(count - 1));
}

fn encoded_bytes(entry: &LogEntry) -> usize {
    rollcall_storage::codec::encode(rollcall_storage::codec::Kind::LogEntry, entry).len()
}

/// The WAL with the entries, in a closed directory.
fn wal(path: &Path) -> PathBuf {
    let files = fs::read_dir(path.join("log")).unwrap().map(|file| file.unwrap().path());
    let mut wals: Vec<_> = files.filter(|path| path.extension().is_some_and(|e| e == "log")).collect();
    wals.sort_by_key(|path| fs::metadata(path).unwrap().len());
    wals.pop().unwrap()
}

#[tokio::test]
async fn p1_a_torn_tail_costs_only_what_was_torn() {
    let dir = tempfile::tempdir().unwrap();
    let mut stores = open(dir.path());
    append(&mut stores, 0..100).await;
    let killed = dir.path().join("killed");
    copy_dir(&dir.path().join("log"), &killed.join("log"));
    let whole = fs::metadata(wal(&killed)).unwrap().len();
    append(&mut stores, 100..101).await;
    let copy = tempfile::tempdir().unwrap();
    fs::remove_dir_all(&killed).unwrap();
    copy_dir(dir.path(), copy.path());
    // The last record is half on the disk.
    let path = wal(copy.path());
    let torn = fs::metadata(&path).unwrap().len();
    assert!(torn > whole);
    fs::File::options().write(true).open(&path).unwrap().set_len(whole + (torn - whole) / 2).unwrap();
    assert_eq!(all(&mut open(copy.path())).await, entries(0..100));
}

#[tokio::test]
async fn p12_p13_a_flipped_byte_in_the_middle_of_the_log_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut stores = open(dir.path());
    for index in 0..200 {
        append(&mut stores, index..index + 1).await;
    }
    let copy = tempfile::tempdir().unwrap();
    copy_dir(dir.path(), copy.path());
    let path = wal(copy.path());
    let mut bytes = fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x10;
    fs::write(&path, bytes).unwrap();
    let error = refusal(copy.path());
    assert!(matches!(error, OpenError::Log(_)), "{error}");
}

#[tokio::test]
async fn p12_p13_a_damaged_or_missing_entry_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut stores = open(dir.path());
    append(&mut stores, 0..20).await;
    drop(stores);

    let damaged = |change: &dyn Fn(&rocksdb::DB)| {
        let copy = tempfile::tempdir().unwrap();
        copy_dir(dir.path(), copy.path());
        let families = ["log", "meta"];
        let db = rocksdb::DB::open_cf(&rocksdb::Options::default(), copy.path().join("log"), families).unwrap();
        change(&db);
        drop(db);
        refusal(copy.path())
    };
    let key = 10u64.to_be_bytes();
    let record = |db: &rocksdb::DB| db.get_cf(db.cf_handle("log").unwrap(), key).unwrap().unwrap();

    let error = damaged(&|db| db.delete_cf(db.cf_handle("log").unwrap(), key).unwrap());
    assert!(matches!(error, OpenError::Log(LogOpenError::Gap { expected: 10, found: 11 })), "{error}");

    let error = damaged(&|db| {
        let mut record = record(db);
        record[5] ^= 1;
        db.put_cf(db.cf_handle("log").unwrap(), key, record).unwrap();
    });
    assert!(matches!(error, OpenError::Log(LogOpenError::Entry { index: 10, .. })), "{error}");

    // An entry in another's place is whole by itself.
    let error = damaged(&|db| {
        db.put_cf(db.cf_handle("log").unwrap(), 20u64.to_be_bytes(), record(db)).unwrap();
    });
    assert!(matches!(error, OpenError::Log(LogOpenError::Entry { index: 20, .. })), "{error}");
}

#[tokio::test]
async fn p1_a_state_that_lost_what_the_log_purged_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut stores = open(dir.path());
    append(&mut stores, 0..20).await;
    crate::common::apply(&mut stores, 0..20).await;
    crate::common::checkpoint(&mut stores).await;
    stores.log.purge(log_id(10)).await.unwrap();
    drop(stores);
    fs::remove_dir_all(dir.path().join("state/1")).unwrap();
    let error = refusal(dir.path());
    assert!(matches!(error, OpenError::StateBehindLog { applied: None, .. }), "{error}");
}

#[tokio::test]
async fn an_append_that_leaves_a_gap_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut stores = open(dir.path());
    append(&mut stores, 0..2).await;
    let callback = openraft::storage::IOFlushed::noop();
    stores.log.append([entry(3)], callback).await.unwrap_err();
    assert!(stores.failure.get().is_some());
}
