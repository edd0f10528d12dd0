//! Backups, and what is made of them and of directories while no node runs.

use std::fs;
use std::path::Path;

use bytes::Bytes;
use futures_util::{TryStreamExt, stream};
use openraft::RaftLogReader;
use openraft::storage::RaftLogStorage;
use rollcall_registry::{Epoch, FEATURE_LEVEL, Options};
use rollcall_storage::{
    AdoptError, BackupError, BackupSummary, ClusterId, DataDir, DataDirError, Identity, Member, Recovery,
    RecoveryError, RestoreError, Stores, Unfinished, Vote, receive_backup, restore, verify_backup,
};

use crate::common::{
    IDENTITY, TERM, append, apply, checkpoint, copy_dir, digest, digest_after, lock, log_id, memory_dir, open, replay,
};

pub(crate) const NEW: Identity = Identity { cluster_id: ClusterId(0xC2), node_id: 1, removed: false };

pub(crate) fn member() -> Member {
    let (api_address, peer_address) = ("new:1".to_owned(), "new:2".to_owned());
    Member { api_address, peer_address, learner: false, replaces: None, feature_level: FEATURE_LEVEL }
}

/// A backup as it goes over the wire.
pub(crate) async fn backup(stores: &Stores) -> Vec<u8> {
    let backup = stores.backups.take(IDENTITY.cluster_id, IDENTITY.node_id, "0.0.0").await.unwrap();
    let chunks: Vec<Bytes> = backup.into_stream().try_collect().await.unwrap();
    chunks.concat()
}

/// Of a node after the log entry `index`.
pub(crate) async fn backup_at(index: u64) -> Vec<u8> {
    let dir = memory_dir();
    let mut stores = open(dir.path());
    apply(&mut stores, 0..index + 1).await;
    backup(&stores).await
}

pub(crate) fn restored(bytes: &[u8], path: &Path) -> Result<(BackupSummary, Epoch), RestoreError> {
    restore(bytes, path, NEW, member(), None, Options::default())
}

/// What makes the directory the first node of another cluster, after the log entry `index` of the one before.
pub(crate) async fn check_alone(path: &Path, identity: Identity, epoch: Epoch, index: u64) {
    let dir = lock(path);
    assert_eq!(dir.identity(), Some(identity));
    let mut stores = rollcall_storage::open(&dir, Options::default()).unwrap();
    assert_eq!(stores.roll.applied(), Some(log_id(index)));
    assert_eq!(digest(&stores), digest_after(index));
    assert_eq!(stores.roll.read(|state| state.epoch()), epoch);
    let stored = stores.roll.membership();
    assert_eq!(*stored.log_id(), Some(log_id(index)));
    assert_eq!(stored.membership().voter_ids().collect::<Vec<_>>(), [identity.node_id]);
    assert_eq!(stored.membership().nodes().count(), 1);
    assert_eq!(stored.membership().get_node(&identity.node_id), Some(&member()));

    let mut log = stores.log.get_log_reader().await;
    let position = stores.log.get_log_state().await.unwrap();
    assert_eq!((position.last_purged_log_id, position.last_log_id), (Some(log_id(index)), Some(log_id(index))));
    assert_eq!(log.try_get_log_entries(..).await.unwrap(), []);
    let vote = log.read_vote().await.unwrap().unwrap();
    assert!(vote.leader_id.term > TERM && !vote.committed && vote.leader_id.node_id == identity.node_id, "{vote:?}");
    // It goes on from here, and comes back.
    append(&mut stores, index + 1..index + 20).await;
    replay(&mut stores).await;
    checkpoint(&mut stores).await;
    drop((stores, log, dir));
    assert_eq!(digest(&rollcall_storage::open(&lock(path), Options::default()).unwrap()), digest_after(index + 19));
}

#[tokio::test]
async fn p2_p6_what_is_restored_is_what_was_backed_up() {
    let source = memory_dir();
    let mut stores = open(source.path());
    apply(&mut stores, 0..200).await;
    checkpoint(&mut stores).await;
    // Not in a checkpoint yet.
    apply(&mut stores, 200..301).await;
    let taken = stores.backups.take(IDENTITY.cluster_id, IDENTITY.node_id, "0.0.0").await.unwrap();
    let moment = taken.moment().clone();
    // The backup stays as it is while the state moves on.
    apply(&mut stores, 301..400).await;
    checkpoint(&mut stores).await;
    let chunks: Vec<_> = taken.into_stream().try_collect().await.unwrap();
    assert_eq!((moment.applied_index, moment.digest), (300, digest_after(300)));

    let received = chunks.iter().cloned().map(Ok);
    let (summary, bytes) = receive_backup(stream::iter(received), Vec::new()).await.unwrap();
    assert_eq!(bytes, chunks.concat(), "what is kept is what came");
    assert_eq!((summary.cluster_id, summary.node_id), (IDENTITY.cluster_id, IDENTITY.node_id));
    assert_eq!((&summary.moment, summary.bytes), (&moment, bytes.len() as u64));
    assert_eq!(verify_backup(&bytes[..], Options::default()).unwrap(), summary);

    let dir = memory_dir();
    let path = dir.path().join("not/there/yet");
    let (again, epoch) = restored(&bytes, &path).unwrap();
    assert_eq!((again, epoch), (summary, Epoch(1)));
    check_alone(&path, NEW, Epoch(1), 300).await;
}

#[tokio::test]
async fn an_epoch_can_be_named_and_is_later_than_the_backups() {
    let bytes = backup_at(30).await;
    let dir = memory_dir();
    let named = |epoch| restore(&bytes[..], dir.path(), NEW, member(), Some(Epoch(epoch)), Options::default());
    assert!(matches!(named(0), Err(RestoreError::Epoch { backup: Epoch(0) })));
    assert_eq!(named(7).unwrap().1, Epoch(7));
    check_alone(dir.path(), NEW, Epoch(7), 30).await;
}

/// The parts that a backup consists of: what it begins with, and its frames.
fn parts(backup: &[u8]) -> Vec<&[u8]> {
    let (magic, mut rest) = backup.split_at(16);
    let mut parts = vec![magic];
    while let Some(length) = rest.first_chunk::<4>() {
        let (frame, after) = rest.split_at(8 + u32::from_le_bytes(*length) as usize);
        parts.push(frame);
        rest = after;
    }
    parts
}

#[tokio::test]
async fn p12_p13_a_backup_that_is_cut_changed_or_reordered_is_refused() {
    let bytes = backup_at(60).await;
    let dir = memory_dir();
    let refused = async |bytes: Vec<u8>, what: String| {
        let verified = verify_backup(&bytes[..], Options::default());
        assert!(matches!(verified, Err(BackupError::Damaged(_) | BackupError::Foreign)), "{what}: {verified:?}");
        let received = receive_backup(stream::iter([Ok(Bytes::from(bytes))]), Vec::new()).await;
        let received = received.map(|(summary, _)| summary);
        assert!(matches!(received, Err(BackupError::Damaged(_) | BackupError::Foreign)), "{what}: {received:?}");
    };
    // Restores write on their way, so that not every byte is tried.
    let restore_refused = |bytes: &[u8], what: &str| {
        let restored = restored(bytes, dir.path());
        assert!(matches!(restored, Err(RestoreError::Backup { .. })), "{what}: {restored:?}");
        let left = fs::read_dir(dir.path()).unwrap().map(|file| file.unwrap().file_name());
        assert!(left.eq(["LOCK"]) || fs::read_dir(dir.path()).unwrap().next().is_none(), "{what}: something is left");
    };
    for end in (0..bytes.len()).step_by(61).chain([bytes.len() - 1]) {
        refused(bytes[..end].to_vec(), format!("cut at {end}")).await;
    }
    for at in (0..bytes.len()).step_by(53) {
        let mut changed = bytes.clone();
        changed[at] ^= 0x20;
        refused(changed, format!("changed at {at}")).await;
    }
    let parts = parts(&bytes);
    assert!(parts.len() >= 7, "magic, whose, head, deadlines, instances, history, end");
    let mut offset = 0;
    for (at, part) in parts.iter().enumerate() {
        let without = |but: &[&[u8]]| [&parts[..at], but, &parts[at + 1..]].concat().concat();
        for (what, changed) in [("lost", without(&[])), ("twice", without(&[part, part]))] {
            restore_refused(&changed, &format!("part {at} {what}"));
            refused(changed, format!("part {at} {what}")).await;
        }
        restore_refused(&bytes[..offset], &format!("cut before part {at}"));
        let mut flipped = bytes.clone();
        flipped[offset + part.len() / 2] ^= 1;
        restore_refused(&flipped, &format!("part {at} changed"));
        offset += part.len();
        if at > 0 {
            let mut swapped = parts.clone();
            swapped.swap(at - 1, at);
            refused(swapped.concat(), format!("part {at} moved")).await;
        }
    }
    refused([&bytes[..], b"x"].concat(), "something after the end".to_owned()).await;
    let broken = stream::iter([Ok(Bytes::from(bytes.clone())), Err(std::io::Error::other("reset"))]);
    assert!(matches!(receive_backup(broken, Vec::new()).await, Err(BackupError::Stream(_))));
    // What is in order is taken, whatever was refused here before.
    restored(&bytes, dir.path()).unwrap();
}

#[tokio::test]
async fn p13_what_is_no_backup_is_refused_by_name() {
    for foreign in [&b"years of work, and no backup"[..], b"{}", b"rollcall"] {
        let refused = verify_backup(foreign, Options::default()).unwrap_err();
        let expected = foreign == b"rollcall";
        assert_eq!(matches!(refused, BackupError::Damaged(_)), expected, "{refused}");
        assert_eq!(matches!(refused, BackupError::Foreign), !expected, "{refused}");
    }
    let dir = memory_dir();
    let path = dir.path().join("new");
    assert!(matches!(
        restored(b"years of work", &path),
        Err(RestoreError::Backup { source: AdoptError::Backup(BackupError::Foreign), .. })
    ));
    assert!(!path.exists(), "the wrong file makes no directory");
}

#[tokio::test]
async fn p13_a_restore_takes_no_directory_that_holds_anything() {
    let bytes = backup_at(30).await;
    let dir = memory_dir();
    let taken = dir.path().join("taken");
    drop(open(&taken));
    assert!(matches!(
        restored(&bytes, &taken),
        Err(RestoreError::DataDir(DataDirError::Taken { cluster_id, node_id: 7, .. })) if cluster_id == IDENTITY.cluster_id
    ));
    let foreign = dir.path().join("foreign");
    fs::create_dir(&foreign).unwrap();
    fs::write(foreign.join("thesis.tex"), "years of work").unwrap();
    assert!(matches!(restored(&bytes, &foreign), Err(RestoreError::DataDir(DataDirError::Foreign { .. }))));
    let used = dir.path().join("used");
    let _lock = lock(&used);
    assert!(matches!(restored(&bytes, &used), Err(RestoreError::DataDir(DataDirError::InUse { .. }))));
}

/// Entries 0 to 59 in the log, the first 40 known to be committed, the first 20 in the state.
pub(crate) async fn left_behind(path: &Path, node_id: u64) {
    let dir = lock(path);
    dir.write_identity(Identity { node_id, ..IDENTITY }).unwrap();
    let mut stores = rollcall_storage::open(&dir, Options::default()).unwrap();
    append(&mut stores, 0..40).await;
    apply(&mut stores, 0..20).await;
    checkpoint(&mut stores).await;
    stores.log.purge(log_id(10)).await.unwrap();
    stores.log.save_committed(Some(log_id(39))).await.unwrap();
    append(&mut stores, 40..60).await;
    stores.log.save_vote(&Vote::new_committed(9, 3)).await.unwrap();
}

fn snapshot_of_files(path: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files = Vec::new();
    let mut open = vec![path.to_owned()];
    while let Some(path) = open.pop() {
        if path.is_dir() {
            open.extend(fs::read_dir(path).unwrap().map(|file| file.unwrap().path()));
        } else {
            files.push((path.display().to_string(), fs::read(&path).unwrap()));
        }
    }
    files.sort();
    files
}

#[tokio::test]
async fn p1_p6_a_recovery_keeps_the_whole_log_and_counts_what_is_uncertain() {
    let dir = memory_dir();
    left_behind(dir.path(), 1).await;
    let recovery = Recovery::open(dir.path(), Options::default()).unwrap();
    let plan = recovery.plan().clone();
    assert_eq!((plan.cluster_id, plan.node_id, plan.epoch), (IDENTITY.cluster_id, 1, Epoch(1)));
    assert_eq!((plan.kept.applied_index, plan.kept.digest), (59, digest_after(59)));
    assert_eq!(plan.unknown_entries, 20);
    assert!(plan.unknown_commands > 20, "an entry has commands");
    assert_eq!(plan.member.as_ref().map(|member| member.peer_address.as_str()), Some("p"));
    assert_eq!((plan.dropped.len(), plan.goes_on), (0, false));
    let other = DataDir::lock(dir.path());
    assert!(matches!(other, Err(DataDirError::InUse { .. })), "a node must not start meanwhile");
    let cluster_id = recovery.finish(NEW.cluster_id, Some(member())).unwrap();
    assert_eq!(cluster_id, NEW.cluster_id);
    check_alone(dir.path(), NEW, Epoch(1), 59).await;

    // Again: another epoch and another cluster.
    let recovery = Recovery::open(dir.path(), Options::default()).unwrap();
    assert_eq!((recovery.plan().epoch, recovery.plan().unknown_entries), (Epoch(2), 0));
    recovery.finish(ClusterId(0xC3), None).unwrap();
    check_alone(dir.path(), Identity { cluster_id: ClusterId(0xC3), ..NEW }, Epoch(2), 78).await;
}

#[tokio::test]
async fn a_recovery_that_is_not_confirmed_changes_nothing() {
    let dir = memory_dir();
    left_behind(dir.path(), 1).await;
    // Opening a database writes to it. What the stores hold is the same.
    drop(Recovery::open(dir.path(), Options::default()).unwrap());
    assert!(!dir.path().join("UNFINISHED").exists());
    let identity = fs::read(dir.path().join("IDENTITY")).unwrap();
    drop(Recovery::open(dir.path(), Options::default()).unwrap());
    assert_eq!(fs::read(dir.path().join("IDENTITY")).unwrap(), identity);
    let mut stores = open_as(dir.path());
    assert_eq!(stores.roll.applied_index(), 19);
    assert_eq!(stores.roll.read(|state| state.epoch()), Epoch(0));
    let position = stores.log.get_log_state().await.unwrap();
    assert_eq!((position.last_purged_log_id, position.last_log_id), (Some(log_id(10)), Some(log_id(59))));
    assert_eq!(stores.log.get_log_reader().await.read_vote().await.unwrap(), Some(Vote::new_committed(9, 3)));
}

fn open_as(path: &Path) -> Stores {
    rollcall_storage::open(&lock(path), Options::default()).unwrap()
}

#[tokio::test]
async fn a_recovery_names_whom_it_drops_and_needs_an_address() {
    let dir = memory_dir();
    // The only voter is node 1, and this is another that never learned of its own membership.
    left_behind(dir.path(), 7).await;
    let copy = memory_dir();
    copy_dir(dir.path(), copy.path());
    let recovery = Recovery::open(dir.path(), Options::default()).unwrap();
    let plan = recovery.plan();
    assert_eq!(plan.member, None);
    let dropped: Vec<_> = plan.dropped.iter().map(|dropped| (dropped.node_id, dropped.is_voter)).collect();
    assert_eq!(dropped, [(1, true)]);
    let refused = recovery.finish(NEW.cluster_id, None).unwrap_err();
    assert!(matches!(refused, RecoveryError::NoAddress { node_id: 7, .. }), "{refused}");
    assert!(!dir.path().join("UNFINISHED").exists(), "nothing was begun");
    let recovery = Recovery::open(copy.path(), Options::default()).unwrap();
    recovery.finish(NEW.cluster_id, Some(member())).unwrap();
    check_alone(copy.path(), Identity { node_id: 7, ..NEW }, Epoch(1), 59).await;
}

#[tokio::test]
async fn p13_what_cannot_be_recovered_is_refused() {
    let dir = memory_dir();
    let missing = dir.path().join("missing");
    let recover = |path: &Path| Recovery::open(path, Options::default()).map(drop).unwrap_err();
    assert!(matches!(recover(&missing), RecoveryError::NoDirectory { .. }));
    assert!(!missing.exists());
    let new = dir.path().join("new");
    fs::create_dir(&new).unwrap();
    assert!(matches!(recover(&new), RecoveryError::DataDir(DataDirError::NoIdentity { .. })));
    let unused = dir.path().join("unused");
    drop(open(&unused));
    assert!(matches!(recover(&unused), RecoveryError::Nothing { .. }));
    let running = dir.path().join("running");
    let _stores = open(&running);
    assert!(matches!(recover(&running), RecoveryError::DataDir(DataDirError::InUse { .. })));
    let removed = dir.path().join("removed");
    let removed_dir = lock(&removed);
    removed_dir.write_identity(IDENTITY).unwrap();
    removed_dir.mark_removed().unwrap();
    drop(removed_dir);
    assert!(matches!(recover(&removed), RecoveryError::DataDir(DataDirError::Removed { .. })));
    let damaged = dir.path().join("damaged");
    left_behind(&damaged, 1).await;
    fs::write(damaged.join("state/CURRENT"), "no generation").unwrap();
    assert!(matches!(recover(&damaged), RecoveryError::Open { .. }));
}

/// Notes of what was begun keep every other use of the directory out.
#[tokio::test]
async fn what_was_begun_is_brought_to_its_end_and_nothing_else_is_done() {
    let bytes = backup_at(30).await;
    let dir = memory_dir();
    left_behind(dir.path(), 1).await;
    let seal = |unfinished: &Unfinished| {
        rollcall_storage::codec::seal(rollcall_storage::codec::Kind::Unfinished, b"UNFINISHED", unfinished)
    };
    let note = |unfinished: &Unfinished| fs::write(dir.path().join("UNFINISHED"), seal(unfinished)).unwrap();

    let began = Unfinished::Recovery { cluster_id: ClusterId(0xC9), epoch: Epoch(5) };
    note(&began);
    let refused = DataDir::lock(dir.path()).unwrap_err();
    let expected = format!("a recovery in data directory {} was cut short: run it again", dir.path().display());
    assert_eq!(refused.to_string(), expected);
    let before = snapshot_of_files(dir.path());
    assert!(matches!(
        restored(&bytes, dir.path()),
        Err(RestoreError::DataDir(DataDirError::Unfinished { unfinished: Unfinished::Recovery { .. }, .. }))
    ));
    assert_eq!(snapshot_of_files(dir.path()), before);
    let recovery = Recovery::open(dir.path(), Options::default()).unwrap();
    assert!(recovery.plan().goes_on);
    let cluster_id = recovery.finish(NEW.cluster_id, Some(member())).unwrap();
    assert_eq!(cluster_id, ClusterId(0xC9), "the id that was begun with");
    check_alone(dir.path(), Identity { cluster_id, ..NEW }, Epoch(5), 59).await;

    note(&Unfinished::Restore);
    let refused = DataDir::lock(dir.path()).unwrap_err().to_string();
    assert!(refused.starts_with("a restore from a backup in data directory"), "{refused}");
    assert!(matches!(
        Recovery::open(dir.path(), Options::default()).map(drop),
        Err(RecoveryError::DataDir(DataDirError::Unfinished { unfinished: Unfinished::Restore, .. }))
    ));
    restored(&bytes, dir.path()).unwrap();
    check_alone(dir.path(), NEW, Epoch(1), 30).await;

    fs::write(dir.path().join("UNFINISHED"), "something").unwrap();
    assert!(matches!(DataDir::lock(dir.path()), Err(DataDirError::Damaged { .. })));
}
