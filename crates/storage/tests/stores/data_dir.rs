//! Whose directory it is.

use std::fs;

use crate::common::{IDENTITY, lock};
use rollcall_registry::Options;
use rollcall_storage::{ClusterId, DataDir, DataDirError, Identity, OpenError};

#[test]
fn a_cluster_id_is_shown_as_a_uuid() {
    let id = ClusterId(0x0123_4567_89ab_cdef_0123_4567_89ab_cdef);
    assert_eq!(id.to_string(), "01234567-89ab-cdef-0123-456789abcdef");
    assert_eq!(id.to_string().parse(), Ok(id));
    for wrong in ["", "01234567-89ab-cdef-0123-456789abcde", "+1234567-89ab-cdef-0123-456789abcdef"] {
        assert!(wrong.parse::<ClusterId>().is_err(), "{wrong}");
    }
}

#[test]
fn an_identity_outlives_the_process() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("not/there/yet");
    let data = lock(&path);
    assert_eq!(data.identity(), None);
    data.write_identity(IDENTITY).unwrap();
    data.write_identity(IDENTITY).unwrap();
    let other = Identity { node_id: 8, ..IDENTITY };
    assert!(matches!(data.write_identity(other), Err(DataDirError::Taken { node_id: 7, .. })));
    drop(data);
    assert_eq!(lock(&path).identity(), Some(IDENTITY));
}

#[test]
fn p13_a_second_process_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let data = lock(dir.path());
    let error = DataDir::lock(dir.path()).unwrap_err();
    assert!(matches!(error, DataDirError::InUse { .. }), "{error}");
    drop(data);
    lock(dir.path());
}

#[test]
fn open_stores_keep_the_directory_locked() {
    let dir = tempfile::tempdir().unwrap();
    let stores = crate::common::open(dir.path());
    assert!(matches!(DataDir::lock(dir.path()), Err(DataDirError::InUse { .. })));
    drop(stores);
    lock(dir.path());
}

#[test]
fn p13_a_directory_that_holds_something_else_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("thesis.tex"), "years of work").unwrap();
    let error = DataDir::lock(dir.path()).unwrap_err();
    assert!(matches!(&error, DataDirError::Foreign { found, .. } if found == "thesis.tex"), "{error}");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "something was left behind");
}

#[test]
fn p13_stores_without_an_identity_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    drop(crate::common::open(dir.path()));
    fs::remove_file(dir.path().join("IDENTITY")).unwrap();
    assert!(matches!(DataDir::lock(dir.path()), Err(DataDirError::Foreign { .. })));
}

#[test]
fn p13_another_format_is_refused_and_left_alone() {
    for version in [0, 2] {
        let dir = tempfile::tempdir().unwrap();
        lock(dir.path()).write_identity(IDENTITY).unwrap();
        let path = dir.path().join("IDENTITY");
        let mut record = fs::read(&path).unwrap();
        record[1] = version;
        let seal = record.len() - 4;
        let checksum = crc32c::crc32c_append(crc32c::crc32c(b"IDENTITY"), &record[..seal]);
        record[seal..].copy_from_slice(&checksum.to_le_bytes());
        fs::write(&path, &record).unwrap();
        match DataDir::lock(dir.path()).unwrap_err() {
            DataDirError::OlderFormat { found: 0, known: 1, .. } if version == 0 => {}
            DataDirError::NewerFormat { found: 2, known: 1, .. } if version == 2 => {}
            error => panic!("{error}"),
        }
        assert_eq!(fs::read(&path).unwrap(), record);
    }
}

#[test]
fn p13_a_damaged_identity_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    lock(dir.path()).write_identity(IDENTITY).unwrap();
    let path = dir.path().join("IDENTITY");
    let whole = fs::read(&path).unwrap();
    for at in 0..whole.len() {
        let mut record = whole.clone();
        record[at] ^= 1;
        fs::write(&path, record).unwrap();
        let error = DataDir::lock(dir.path()).unwrap_err();
        assert!(matches!(error, DataDirError::Damaged { .. }), "byte {at}: {error}");
    }
}

#[test]
fn p13_a_removed_node_does_not_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let data = lock(dir.path());
    assert!(matches!(data.mark_removed(), Err(DataDirError::NoIdentity { .. })));
    data.write_identity(IDENTITY).unwrap();
    data.mark_removed().unwrap();
    assert_eq!(data.identity(), Some(Identity { removed: true, ..IDENTITY }));
    drop(data);
    let error = DataDir::lock(dir.path()).unwrap_err();
    assert!(matches!(error, DataDirError::Removed { node_id: 7, .. }), "{error}");
}

#[test]
fn p13_a_lost_store_is_not_made_anew() {
    for lost in ["log", "state", "snapshots"] {
        let dir = tempfile::tempdir().unwrap();
        drop(crate::common::open(dir.path()));
        fs::remove_dir_all(dir.path().join(lost)).unwrap();
        let opened = rollcall_storage::open(&lock(dir.path()), Options::default());
        assert!(matches!(opened, Err(OpenError::Missing { .. })), "{lost}");
    }
    let dir = tempfile::tempdir().unwrap();
    drop(crate::common::open(dir.path()));
    fs::remove_dir_all(dir.path().join("log")).unwrap();
    fs::create_dir(dir.path().join("log")).unwrap();
    let opened = rollcall_storage::open(&lock(dir.path()), Options::default());
    assert!(matches!(opened, Err(OpenError::Log(_))));
}
