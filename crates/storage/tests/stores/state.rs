//! Checkpoints, restarts, and snapshots from node to node.

use std::fs;
use std::io;
use std::path::Path;

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use openraft::RaftSnapshotBuilder;
use openraft::storage::{RaftLogStorage, RaftStateMachine};
use rollcall_registry::{HistoryLimits, Options};
use rollcall_storage::{OpenError, ReceiveError, Snapshot, SnapshotReceiver, Stores};

use crate::common::{
    IDENTITY, append, apply, apply_proposals, checkpoint, copy_dir, digest, digest_after, large_report, lock, log_id,
    open, replay,
};

/// A snapshot as it goes over the wire.
pub(crate) async fn bytes(snapshot: Snapshot) -> Vec<u8> {
    let chunks: Vec<Bytes> = snapshot.snapshot.into_stream().try_collect().await.unwrap();
    assert!(chunks.iter().all(|chunk| chunk.len() <= 1 << 20));
    chunks.concat()
}

async fn receive(receiver: &SnapshotReceiver, bytes: &[u8], chunk: usize) -> Result<Snapshot, ReceiveError> {
    let chunks = bytes.chunks(chunk).map(|chunk| Ok(Bytes::copy_from_slice(chunk)));
    receiver.receive(stream::iter(chunks.collect::<Vec<_>>())).await
}

async fn install(stores: &mut Stores, bytes: &[u8]) {
    let snapshot = receive(&stores.receiver, bytes, 1000).await.unwrap();
    stores.state_machine.install_snapshot(&snapshot.meta, snapshot.snapshot).await.unwrap();
}

/// A leader's snapshot after the log entry `index`.
async fn snapshot_at(index: u64) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let mut leader = open(dir.path());
    apply(&mut leader, 0..index + 1).await;
    bytes(checkpoint(&mut leader).await).await
}

#[tokio::test]
async fn p1_p2_p6_checkpoint_and_replay_equal_a_life_without_restart() {
    for cut in [1, 2, 40, 150, 299, 300] {
        let dir = tempfile::tempdir().unwrap();
        let mut stores = open(dir.path());
        append(&mut stores, 0..300).await;
        apply(&mut stores, 0..cut).await;
        let snapshot = checkpoint(&mut stores).await;
        assert_eq!(snapshot.meta.last_log_id, Some(log_id(cut - 1)));
        stores.log.purge(log_id(cut - 1)).await.unwrap();
        let membership = stores.roll.membership();
        // What is applied after the checkpoint goes with the memory, and comes back from the log.
        replay(&mut stores).await;
        drop((stores, snapshot));

        let mut stores = open(dir.path());
        assert_eq!(stores.roll.applied(), Some(log_id(cut - 1)));
        assert_eq!(stores.roll.membership(), membership);
        assert_eq!(digest(&stores), digest_after(cut - 1));
        let restored = stores.roll.read(|state| (state.revision(), state.now()));
        replay(&mut stores).await;
        assert!(stores.roll.read(|state| (state.revision(), state.now())) >= restored);
        assert_eq!(stores.roll.applied_index(), 299);
        assert_eq!(digest(&stores), digest_after(299));
    }
}

#[tokio::test]
async fn p2_many_checkpoints_equal_one() {
    let dir = tempfile::tempdir().unwrap();
    let mut stores = open(dir.path());
    for index in 0..400 {
        apply(&mut stores, index..index + 1).await;
        if index % 7 == 0 {
            checkpoint(&mut stores).await;
        }
    }
    checkpoint(&mut stores).await;
    drop(stores);
    assert_eq!(digest(&open(dir.path())), digest_after(399));
}

/// Every change that the state still knows, as text.
fn changes(stores: &Stores) -> Vec<String> {
    stores.roll.read(|state| {
        let known = state.changes_after(state.oldest_known()).unwrap();
        known.map(|change| format!("{change:?}")).collect()
    })
}

#[tokio::test]
async fn p9_the_history_outlives_a_restart_and_goes_with_a_snapshot() {
    let dir = tempfile::tempdir().unwrap();
    let mut stores = open(dir.path());
    for index in 0..400 {
        apply(&mut stores, index..index + 1).await;
        if index % 50 == 0 {
            checkpoint(&mut stores).await;
        }
    }
    let sent = bytes(checkpoint(&mut stores).await).await;
    let expected = changes(&stores);
    assert!(expected.len() > 100);
    drop(stores);
    assert_eq!(changes(&open(dir.path())), expected);

    let other = tempfile::tempdir().unwrap();
    let mut follower = open(other.path());
    apply(&mut follower, 0..10).await;
    install(&mut follower, &sent).await;
    assert_eq!(changes(&follower), expected);
}

/// What heartbeats report can make a short registration long, and comes anew with each change.
#[tokio::test]
async fn p11_a_long_history_of_large_reports_fits_into_rows() {
    let dir = tempfile::tempdir().unwrap();
    let mut stores = open(dir.path());
    apply_proposals(&mut stores, (0..300).map(large_report)).await;
    checkpoint(&mut stores).await;
    let expected = changes(&stores);
    drop(stores);
    assert_eq!(changes(&open(dir.path())), expected);
}

#[tokio::test]
async fn p9_a_history_that_is_forgotten_whole_is_no_hindrance() {
    let dir = tempfile::tempdir().unwrap();
    let mut stores = open(dir.path());
    apply(&mut stores, 0..100).await;
    checkpoint(&mut stores).await;
    drop(stores);
    let none = HistoryLimits { changes_max: 0, bytes_max: 0 };
    for _ in 0..2 {
        let options = Options { history: none, ..Options::default() };
        let mut stores = rollcall_storage::open(&lock(dir.path()), options).unwrap();
        assert!(changes(&stores).is_empty());
        let next = stores.roll.applied_index() + 1;
        apply(&mut stores, next..next + 10).await;
        checkpoint(&mut stores).await;
    }
    assert!(changes(&open(dir.path())).is_empty());
}

#[tokio::test]
async fn what_the_history_forgets_is_not_kept_either() {
    let dir = tempfile::tempdir().unwrap();
    lock(dir.path()).write_identity(IDENTITY).unwrap();
    let options = |changes_max| Options {
        history: HistoryLimits { changes_max, ..HistoryLimits::default() },
        ..Options::default()
    };
    let mut stores = rollcall_storage::open(&lock(dir.path()), options(20)).unwrap();
    for index in 0..400 {
        apply(&mut stores, index..index + 1).await;
        // Now and then more was forgotten than was ever kept.
        if index % 7 == 0 && !(100..300).contains(&index) {
            checkpoint(&mut stores).await;
        }
    }
    checkpoint(&mut stores).await;
    let expected = changes(&stores);
    assert_eq!(expected.len(), 20);
    drop(stores);
    // With room for all there is.
    let known = changes(&open(dir.path()));
    assert!(known.ends_with(&expected));
    assert!(known.len() < 60, "{} changes are kept of 20", known.len());
}

#[tokio::test]
async fn a_checkpoint_whose_builder_is_dropped_is_written_with_the_next() {
    let dir = tempfile::tempdir().unwrap();
    let mut stores = open(dir.path());
    apply(&mut stores, 0..50).await;
    drop(stores.state_machine.try_create_snapshot_builder(true).await.unwrap());
    assert!(stores.state_machine.try_create_snapshot_builder(false).await.is_none(), "one is outstanding");
    apply(&mut stores, 50..100).await;
    checkpoint(&mut stores).await;
    drop(stores);
    let stores = open(dir.path());
    assert_eq!(stores.roll.applied_index(), 99);
    assert_eq!(digest(&stores), digest_after(99));
}

#[tokio::test]
async fn checkpoints_are_written_in_the_order_in_which_they_were_taken() {
    let dir = tempfile::tempdir().unwrap();
    let mut stores = open(dir.path());
    apply(&mut stores, 0..50).await;
    let mut first = stores.state_machine.try_create_snapshot_builder(true).await.unwrap();
    apply(&mut stores, 50..100).await;
    let mut second = stores.state_machine.try_create_snapshot_builder(true).await.unwrap();
    second.build_snapshot().await.unwrap();
    let late = first.build_snapshot().await.unwrap();
    assert_eq!(late.meta.last_log_id, Some(log_id(99)));
    drop((stores, first, second, late));
    assert_eq!(digest(&open(dir.path())), digest_after(99));
}

#[tokio::test]
async fn digests_of_the_last_entries_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    let mut stores = open(dir.path());
    assert_eq!(stores.roll.digest_at(0), None);
    apply(&mut stores, 0..200).await;
    for index in [1, 23, 199] {
        assert_eq!(stores.roll.digest_at(index), Some(digest_after(index)), "{index}");
    }
    assert_eq!(stores.roll.digest_at(200), None);
    apply(&mut stores, 200..9000).await;
    assert_eq!(stores.roll.digest_at(9000 - 8193), None);
    assert!(stores.roll.digest_at(9000 - 8192).is_some());
}

#[tokio::test]
async fn subscribers_are_told_the_applied_index() {
    let dir = tempfile::tempdir().unwrap();
    let mut stores = open(dir.path());
    let mut applied = stores.roll.subscribe();
    assert_eq!(*applied.borrow_and_update(), 0);
    apply(&mut stores, 0..10).await;
    applied.changed().await.unwrap();
    assert_eq!(*applied.borrow_and_update(), 9);
    assert_eq!(stores.roll.applying_since(), None);
}

#[tokio::test]
async fn p2_a_streamed_snapshot_makes_an_equal_state() {
    let dir = tempfile::tempdir().unwrap();
    let mut leader = open(dir.path());
    apply(&mut leader, 0..300).await;
    checkpoint(&mut leader).await;
    let snapshot = leader.state_machine.get_current_snapshot().await.unwrap().unwrap();
    // The view stays while the state moves on.
    apply(&mut leader, 300..400).await;
    checkpoint(&mut leader).await;
    let sent = bytes(snapshot).await;

    for chunk in [1, 7, 4096, usize::MAX] {
        let dir = tempfile::tempdir().unwrap();
        let mut follower = open(dir.path());
        apply(&mut follower, 0..20).await;
        let received = receive(&follower.receiver, &sent, chunk).await.unwrap();
        let meta = received.meta.clone();
        assert_eq!(meta.last_log_id, Some(log_id(299)));
        follower.state_machine.install_snapshot(&meta, received.snapshot).await.unwrap();
        assert_eq!(digest(&follower), digest_after(299));
        assert_eq!(*follower.roll.subscribe().borrow(), 299);
        let current = follower.state_machine.get_current_snapshot().await.unwrap().unwrap();
        assert_eq!(current.meta, meta);
        drop(current);
        assert_eq!(fs::read_dir(dir.path().join("snapshots")).unwrap().count(), 0, "a file is left");
        assert_eq!(generations(dir.path()), ["2"]);
        apply(&mut follower, 300..350).await;
        checkpoint(&mut follower).await;
        drop(follower);
        assert_eq!(digest(&open(dir.path())), digest_after(349));
    }
}

fn generations(node: &Path) -> Vec<String> {
    let files = fs::read_dir(node.join("state")).unwrap().map(|file| file.unwrap());
    let dirs = files.filter(|file| file.file_type().unwrap().is_dir());
    dirs.map(|dir| dir.file_name().into_string().unwrap()).collect()
}

#[tokio::test]
async fn a_view_outlives_the_state_it_shows() {
    let sent = snapshot_at(200).await;
    let dir = tempfile::tempdir().unwrap();
    let mut stores = open(dir.path());
    apply(&mut stores, 0..50).await;
    let old = checkpoint(&mut stores).await;
    install(&mut stores, &sent).await;
    let other = tempfile::tempdir().unwrap();
    let mut follower = open(other.path());
    install(&mut follower, &bytes(old).await).await;
    assert_eq!(digest(&follower), digest_after(49));
    assert_eq!(generations(dir.path()), ["2"]);
}

#[tokio::test]
async fn p6_an_older_snapshot_changes_nothing() {
    let sent = snapshot_at(50).await;
    let dir = tempfile::tempdir().unwrap();
    let mut stores = open(dir.path());
    apply(&mut stores, 0..100).await;
    install(&mut stores, &sent).await;
    assert_eq!(stores.roll.applied_index(), 99);
    assert_eq!(digest(&stores), digest_after(99));
}

#[tokio::test]
async fn p12_p13_a_cut_changed_or_reordered_snapshot_is_refused() {
    let sent = snapshot_at(60).await;
    let dir = tempfile::tempdir().unwrap();
    let stores = open(dir.path());
    let refused = async |bytes: &[u8], what: String| match receive(&stores.receiver, bytes, 5000).await {
        Err(ReceiveError::Refused(_)) => {}
        other => panic!("{what}: {other:?}"),
    };
    for end in (0..sent.len()).step_by(97).chain([sent.len() - 1]) {
        refused(&sent[..end], format!("cut at {end}")).await;
    }
    for at in (0..sent.len()).step_by(89) {
        let mut changed = sent.clone();
        changed[at] ^= 0x20;
        refused(&changed, format!("changed at {at}")).await;
    }
    let mut frames = Vec::new();
    let mut rest = &sent[..];
    while let Some(length) = rest.first_chunk::<4>() {
        let (frame, after) = rest.split_at(8 + u32::from_le_bytes(*length) as usize);
        frames.push(frame);
        rest = after;
    }
    assert!(frames.len() >= 4, "head, deadlines, instances, end");
    for at in 1..frames.len() {
        let mut reordered = frames.clone();
        reordered.swap(at - 1, at);
        refused(&reordered.concat(), format!("frame {at} moved")).await;
        let mut repeated = frames.clone();
        repeated.insert(at, frames[at]);
        refused(&repeated.concat(), format!("frame {at} twice")).await;
        let mut lacking = frames.clone();
        lacking.remove(at);
        refused(&lacking.concat(), format!("frame {at} lost")).await;
    }
    refused(&[&sent[..], b"x"].concat(), "something after the end".to_owned()).await;

    let broken = stream::iter([Ok(Bytes::from(sent.clone()))]).chain(stream::iter([Err(io::Error::other("reset"))]));
    assert!(matches!(stores.receiver.receive(broken).await, Err(ReceiveError::Stream(_))));
    assert_eq!(fs::read_dir(dir.path().join("snapshots")).unwrap().count(), 0, "something is left");
    assert!(stores.failure.get().is_none(), "a bad snapshot is the sender's fault");
}

#[tokio::test]
async fn what_a_crash_left_of_an_installation_is_cleared_away() {
    let dir = tempfile::tempdir().unwrap();
    let mut stores = open(dir.path());
    apply(&mut stores, 0..30).await;
    checkpoint(&mut stores).await;
    drop(stores);
    copy_dir(&dir.path().join("state/1"), &dir.path().join("state/2"));
    fs::write(dir.path().join("snapshots/0.tmp"), "half").unwrap();
    fs::write(dir.path().join("snapshots/1.snapshot"), "whole").unwrap();
    let stores = open(dir.path());
    assert_eq!(digest(&stores), digest_after(29));
    assert_eq!(generations(dir.path()), ["1"]);
    assert_eq!(fs::read_dir(dir.path().join("snapshots")).unwrap().count(), 0);
}

#[tokio::test]
async fn p12_p13_a_damaged_state_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut stores = open(dir.path());
    apply(&mut stores, 0..30).await;
    checkpoint(&mut stores).await;
    drop(stores);

    let refused = |what: &str, damage: &dyn Fn(&Path)| {
        let copy = tempfile::tempdir().unwrap();
        copy_dir(dir.path(), copy.path());
        damage(copy.path());
        match rollcall_storage::open(&lock(copy.path()), Options::default()) {
            Err(OpenError::State(_)) => {}
            Err(other) => panic!("{what}: {other}"),
            Ok(_) => panic!("{what}: opened"),
        }
    };
    let flip = |path: &Path, at: usize| {
        let mut bytes = fs::read(path).unwrap();
        bytes[at] ^= 4;
        fs::write(path, bytes).unwrap();
    };
    for at in 0..fs::metadata(dir.path().join("state/CURRENT")).unwrap().len() as usize {
        refused("CURRENT", &|node| flip(&node.join("state/CURRENT"), at));
    }
    const FAMILIES: [&str; 11] = [
        "meta",
        "deadlines",
        "instances",
        "history",
        "join_tokens",
        "definitions",
        "access_tokens",
        "rulings",
        "signatures",
        "federation",
        "foreign",
    ];
    type Change<'a> = &'a dyn Fn(&rocksdb::DB, &rocksdb::ColumnFamily, &[u8], Vec<u8>);
    let edit = |node: &Path, family: &str, change: Change<'_>| {
        let db = rocksdb::DB::open_cf(&rocksdb::Options::default(), node.join("state/1"), FAMILIES).unwrap();
        let cf = db.cf_handle(family).unwrap();
        let (key, record) = db.iterator_cf(cf, rocksdb::IteratorMode::Start).next().unwrap().unwrap();
        change(&db, cf, &key, record.into());
    };
    for family in FAMILIES {
        refused(family, &|node| {
            edit(node, family, &|db, cf, key, mut record| {
                record[3] ^= 4;
                db.put_cf(cf, key, record).unwrap();
            });
        });
    }
    for family in ["deadlines", "instances", "definitions", "rulings", "signatures", "federation", "foreign"] {
        refused("a lost row", &|node| edit(node, family, &|db, cf, key, _| db.delete_cf(cf, key).unwrap()));
    }
}
