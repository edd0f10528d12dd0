//! P11, P13: whatever bytes a decoder is given, it neither panics nor allocates more than it may.
//!
//! One test for each source of bytes, in one thread, because all tests of a program share its allocator: it counts what
//! is in use and keeps the peak.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking and says where it was")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use futures_util::{TryStreamExt, stream};
use openraft::entry::RaftEntry;
use openraft::storage::{RaftSnapshotBuilder, RaftStateMachine};
use proptest::collection::vec;
use proptest::prelude::*;
use rollcall_registry::{
    ClusterTime, Command, Condition, Instance, InstanceId, LeaseId, LeaseSet, Metadata, MetadataValue, Once, Options,
    Outcome, Proposal, Registration, ServiceName, TenantId, WallTime,
};
use rollcall_storage::codec::{self, Kind};
use rollcall_storage::{
    ClusterId, DataDir, Identity, LogEntry, LogId, Payload, Reply, SnapshotReceiver, TypeConfig, Vote,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// What decoding may allocate, by the codec's own limit, with as much again for vectors that grow.
const DECODING_BYTES_MAX: usize = 2 * (64 << 20);

/// A stream that is refused early costs little: a buffer of the longest frame, and those on their way.
const RECEIVING_BYTES_MAX: usize = 80 << 20;

static IN_USE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

struct Counting;

#[allow(unsafe_code)] // An allocator is unsafe by contract; this one counts and passes on.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let now = IN_USE.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        PEAK.fetch_max(now, Ordering::Relaxed);
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        IN_USE.fetch_sub(layout.size(), Ordering::Relaxed);
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// What some work had in use at most beyond what was there before. One at a time.
fn peak<T>(work: impl FnOnce() -> T) -> (usize, T) {
    static ALONE: Mutex<()> = Mutex::new(());
    let _alone = ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let before = IN_USE.load(Ordering::Relaxed);
    PEAK.store(before, Ordering::Relaxed);
    let made = work();
    (PEAK.load(Ordering::Relaxed).saturating_sub(before), made)
}

fn tenant() -> TenantId {
    TenantId::parse("t").unwrap()
}

fn registration(n: u64) -> Registration {
    let id = InstanceId::parse(&format!("i{n}")).unwrap();
    Registration {
        metadata: Metadata::new([("k", MetadataValue::Text("value"))]),
        ..Registration::new(id, ServiceName::parse("web").unwrap(), "http://h", 30_000)
    }
}

fn log_entry(n: u64) -> LogEntry {
    let leases = LeaseSet::new((n..n + 40).map(LeaseId).collect());
    let commands = vec![
        Command::Register { tenant: tenant(), registration: registration(n).pack(), condition: Condition::None },
        Command::Renew { tenant: tenant(), leases },
    ];
    let proposal = Proposal { stamp: ClusterTime(n), wall: WallTime(n), commands, once: Vec::new() };
    LogEntry::new_normal(openraft::testing::log_id::<TypeConfig>(1, 1, n), Payload::new(proposal))
}

/// A list that says it has more members than anything has.
fn long_list(kind: Kind) -> Vec<u8> {
    let mut frame = vec![kind as u8, kind.version(), 253];
    frame.extend_from_slice(&(u64::MAX >> 4).to_le_bytes());
    frame.resize(4_096, 1);
    frame
}

fn read_as<T: DeserializeOwned>(kind: Kind, frame: &[u8]) {
    drop(codec::decode::<T>(kind, frame));
    drop(codec::unseal::<T>(kind, b"key", frame));
}

fn read_as_everything(frame: &[u8]) {
    for kind in Kind::ALL {
        let mut frame = frame.to_vec();
        if let Some(first) = frame.first_mut() {
            *first = *kind as u8;
        }
        read_as::<LogEntry>(*kind, &frame);
        read_as::<Vote>(*kind, &frame);
        read_as::<LogId>(*kind, &frame);
        read_as::<Instance>(*kind, &frame);
        read_as::<Identity>(*kind, &frame);
        read_as::<Reply>(*kind, &frame);
        read_as::<Vec<Command>>(*kind, &frame);
        read_as::<Vec<Once>>(*kind, &frame);
        read_as::<Vec<Outcome>>(*kind, &frame);
        read_as::<Vec<Vec<u64>>>(*kind, &frame);
    }
}

/// Changes, repeats, drops and cuts bytes, as a disk or a wire might.
#[derive(Clone, Debug)]
enum Mutation {
    Set(usize, u8),
    Insert(usize, Vec<u8>),
    Remove(usize, usize),
    Cut(usize),
    Repeat(usize, usize),
}

fn mutation() -> impl Strategy<Value = Mutation> {
    prop_oneof![
        4 => (any::<usize>(), any::<u8>()).prop_map(|(at, byte)| Mutation::Set(at, byte)),
        1 => (any::<usize>(), vec(any::<u8>(), 1..12)).prop_map(|(at, bytes)| Mutation::Insert(at, bytes)),
        1 => (any::<usize>(), 1..64usize).prop_map(|(at, count)| Mutation::Remove(at, count)),
        1 => any::<usize>().prop_map(Mutation::Cut),
        1 => (any::<usize>(), 1..64usize).prop_map(|(at, count)| Mutation::Repeat(at, count)),
    ]
}

fn mutate(bytes: &mut Vec<u8>, mutation: &Mutation) {
    if bytes.is_empty() {
        return;
    }
    let place = |at: &usize| at % bytes.len();
    match mutation {
        Mutation::Set(at, byte) => {
            let at = place(at);
            bytes[at] = *byte;
        }
        Mutation::Insert(at, more) => {
            let at = place(at);
            bytes.splice(at..at, more.iter().copied());
        }
        Mutation::Remove(at, count) => {
            let at = place(at);
            bytes.drain(at..(at + count).min(bytes.len()));
        }
        Mutation::Cut(at) => bytes.truncate(place(at)),
        Mutation::Repeat(at, count) => {
            let at = place(at);
            let again = bytes[at..(at + count).min(bytes.len())].to_vec();
            bytes.splice(at..at, again);
        }
    }
}

fn encoded<T: Serialize>(kind: Kind, value: &T) -> Vec<u8> {
    codec::encode(kind, value)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn p11_any_bytes_are_read_within_bounds(bytes in vec(any::<u8>(), 0..2_000)) {
        let (peak, ()) = peak(|| read_as_everything(&bytes));
        prop_assert!(peak <= DECODING_BYTES_MAX, "{peak} bytes");
    }

    #[test]
    fn p11_changed_frames_are_read_within_bounds(n in 0..1_000u64, changes in vec(mutation(), 1..6)) {
        let frames = [
            encoded(Kind::LogEntry, &log_entry(n)),
            encoded(Kind::Vote, &Vote::new_committed(n, 1)),
            encoded(Kind::Identity, &Identity { cluster_id: ClusterId(n.into()), node_id: 7, removed: false }),
            encoded(Kind::PeerRequest, &(0..n).collect::<Vec<u64>>()),
        ];
        for mut frame in frames {
            changes.iter().for_each(|change| mutate(&mut frame, change));
            let (peak, ()) = peak(|| read_as_everything(&frame));
            prop_assert!(peak <= DECODING_BYTES_MAX, "{peak} bytes");
        }
    }
}

#[test]
fn p11_what_a_frame_announces_is_not_allocated() {
    for kind in Kind::ALL {
        let frame = long_list(*kind);
        let (peak, ()) = peak(|| read_as_everything(&frame));
        assert!(peak <= DECODING_BYTES_MAX, "{kind:?}: {peak} bytes");
    }
}

/// A leader's snapshot as it goes over the wire, and who takes it in.
struct Wire {
    bytes: Vec<u8>,
    receiver: SnapshotReceiver,
    _directory: tempfile::TempDir,
}

async fn wire() -> Wire {
    let directory = tempfile::tempdir().unwrap();
    let dir = DataDir::lock(directory.path()).unwrap();
    dir.write_identity(Identity { cluster_id: ClusterId(1), node_id: 1, removed: false }).unwrap();
    let mut stores = rollcall_storage::open(&dir, Options::default()).unwrap();
    let entries = (1..200).map(|n| Ok((log_entry(n), None)));
    stores.state_machine.apply(stream::iter(entries)).await.unwrap();
    let mut builder = stores.state_machine.try_create_snapshot_builder(true).await.unwrap();
    let snapshot = builder.build_snapshot().await.unwrap();
    let chunks: Vec<Bytes> = snapshot.snapshot.into_stream().try_collect().await.unwrap();
    Wire { bytes: chunks.concat(), receiver: stores.receiver.clone(), _directory: directory }
}

/// Whether it was taken in.
async fn take(receiver: &SnapshotReceiver, bytes: &[u8]) -> bool {
    let chunks: Vec<_> = bytes.chunks(1_000).map(|chunk| Ok(Bytes::copy_from_slice(chunk))).collect();
    receiver.receive(stream::iter(chunks)).await.is_ok()
}

#[test]
fn p13_no_changed_snapshot_is_taken_in_and_none_takes_more_than_it_may() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let wire = runtime.block_on(wire());
    assert!(runtime.block_on(take(&wire.receiver, &wire.bytes)));
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig::with_cases(300));
    let changed = runner.run(&vec(mutation(), 1..4), |changes| {
        let mut bytes = wire.bytes.clone();
        changes.iter().for_each(|change| mutate(&mut bytes, change));
        prop_assume!(bytes != wire.bytes);
        let (peak, taken) = peak(|| runtime.block_on(take(&wire.receiver, &bytes)));
        prop_assert!(!taken, "a changed snapshot was taken in");
        prop_assert!(peak <= RECEIVING_BYTES_MAX, "{peak} bytes");
        Ok(())
    });
    changed.unwrap();
    let any = runner.run(&vec(any::<u8>(), 0..5_000), |bytes| {
        let (peak, taken) = peak(|| runtime.block_on(take(&wire.receiver, &bytes)));
        prop_assert!(!taken && peak <= RECEIVING_BYTES_MAX, "{peak} bytes");
        Ok(())
    });
    any.unwrap();
}
