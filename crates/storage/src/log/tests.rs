//! What happens when the disk is slow or refuses: the flush is replaced by one that can be told to.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::ThreadId;
use std::time::{Duration, Instant};

use openraft::entry::RaftEntry;
use openraft::storage::{IOFlushed, RaftLogStorage};
use openraft::type_config::TypeConfigExt;
use parking_lot::Mutex;

use super::flusher::{BRISK, Flush};
use super::{FlushWal, LogStore, Shared};
use crate::data_dir::{ClusterId, DataDir, Identity};
use crate::failure::{FailureWatch, Health};
use crate::types::{LogEntry, TypeConfig, Vote};

/// Asks a script what becomes of each flush, counted from 0, before the disk does it.
struct Scripted<F> {
    disk: FlushWal,
    calls: Arc<AtomicU64>,
    script: F,
}

impl<F: FnMut(u64) -> io::Result<()> + Send + 'static> Flush for Scripted<F> {
    fn flush(&mut self) -> io::Result<()> {
        (self.script)(self.calls.fetch_add(1, Ordering::SeqCst))?;
        self.disk.flush()
    }
}

/// A disk that is nothing but fast or slow.
struct Imagined(Box<dyn FnMut() + Send>);

impl Flush for Imagined {
    fn flush(&mut self) -> io::Result<()> {
        (self.0)();
        Ok(())
    }
}

fn shared(path: &Path, health: &Health) -> Arc<Shared> {
    let dir = DataDir::lock(path).unwrap();
    dir.write_identity(Identity { cluster_id: ClusterId(1), node_id: 1, removed: false }).unwrap();
    Shared::open(&dir.log_path(), true, dir.clone(), health.clone()).unwrap()
}

fn log(
    path: &Path,
    script: impl FnMut(u64) -> io::Result<()> + Send + 'static,
) -> (LogStore, FailureWatch, Arc<AtomicU64>) {
    let health = Health::new();
    let shared = shared(path, &health);
    let calls = Arc::new(AtomicU64::new(0));
    let flush = Scripted { disk: FlushWal(shared.clone()), calls: calls.clone(), script };
    (LogStore::with_flush(shared, flush).unwrap(), health.watch(), calls)
}

/// One flush fails; those after it would work.
fn failing_once(at: u64) -> impl FnMut(u64) -> io::Result<()> {
    move |call| if call == at { Err(io::Error::other("the disk is on fire")) } else { Ok(()) }
}

fn blank(index: u64) -> LogEntry {
    LogEntry::new_blank(openraft::testing::log_id::<TypeConfig>(1, 1, index))
}

/// What the append answered and, if it was taken, what its callback was told.
async fn append(log: &mut LogStore, index: u64) -> Result<io::Result<()>, io::Error> {
    let (done, wait) = TypeConfig::oneshot();
    log.append([blank(index)], IOFlushed::signal(done)).await?;
    Ok(wait.await.expect("a callback is always called"))
}

#[tokio::test]
async fn p12_failed_flush_acknowledges_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (mut log, mut failure, calls) = log(dir.path(), failing_once(2));
    append(&mut log, 0).await.unwrap().unwrap();
    log.save_vote(&Vote::new(2, 1)).await.unwrap();
    assert!(failure.get().is_none());

    append(&mut log, 1).await.unwrap().unwrap_err();
    assert_eq!(failure.failed().await.attempted, "flush the log");

    // Nobody knows what the failed flush left out, so that a good one proves nothing.
    append(&mut log, 2).await.unwrap_err();
    log.save_vote(&Vote::new(3, 1)).await.unwrap_err();
    log.save_committed(Some(blank(0).log_id)).await.unwrap_err();
    log.truncate_after(None).await.unwrap_err();
    log.purge(blank(0).log_id).await.unwrap_err();
    assert_eq!(calls.load(Ordering::SeqCst), 3, "a failed flush was tried again");
}

#[tokio::test]
async fn p12_failed_flush_casts_no_vote() {
    let dir = tempfile::tempdir().unwrap();
    let (mut log, failure, _) = log(dir.path(), failing_once(0));
    log.save_vote(&Vote::new(2, 1)).await.unwrap_err();
    assert!(failure.get().is_some());
}

#[tokio::test]
async fn appends_during_a_flush_share_the_next_one() {
    let dir = tempfile::tempdir().unwrap();
    let (begun, first_begun) = tokio::sync::oneshot::channel();
    let (release, released) = std::sync::mpsc::channel::<()>();
    let mut begun = Some(begun);
    let (mut log, _, calls) = log(dir.path(), move |_| {
        if let Some(begun) = begun.take() {
            begun.send(()).expect("the test waits");
            released.recv().expect("the test releases the flush");
        }
        Ok(())
    });
    let mut waiting = Vec::new();
    let mut append = async |index| {
        let (done, wait) = TypeConfig::oneshot();
        log.append([blank(index)], IOFlushed::signal(done)).await.unwrap();
        waiting.push(wait);
    };
    append(0).await;
    first_begun.await.unwrap();
    for index in 1..500 {
        append(index).await;
    }
    release.send(()).unwrap();
    for wait in waiting {
        wait.await.expect("a callback is always called").unwrap();
    }
    assert_eq!(calls.load(Ordering::SeqCst), 2);
}

/// What a slow disk does.
fn wait_until(then: Instant) {
    while let Some(rest) = then.checked_duration_since(Instant::now()).filter(|rest| !rest.is_zero()) {
        std::thread::sleep(rest);
    }
}

#[tokio::test]
async fn the_writer_s_own_thread_flushes_unless_the_flush_before_was_slow() {
    let dir = tempfile::tempdir().unwrap();
    let (slow, flushed_on) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(None::<ThreadId>)));
    let disk = {
        let (slow, flushed_on) = (slow.clone(), flushed_on.clone());
        Imagined(Box::new(move || {
            *flushed_on.lock() = Some(std::thread::current().id());
            if slow.load(Ordering::SeqCst) {
                wait_until(Instant::now() + 2 * BRISK);
            }
        }))
    };
    let mut log = LogStore::with_flush(shared(dir.path(), &Health::new()), disk).unwrap();
    let mut indexes = 0..;
    let mut next = async || {
        append(&mut log, indexes.next().unwrap()).await.unwrap().unwrap();
        flushed_on.lock().unwrap()
    };
    let here = std::thread::current().id();
    assert_ne!(next().await, here, "nothing is known of the disk yet");
    // On a busy machine a flush that does nothing may take long as well, but not every time.
    let deadline = Instant::now() + Duration::from_secs(30);
    while next().await != here {
        assert!(Instant::now() < deadline, "no flush was ever the writer's");
    }
    slow.store(true, Ordering::SeqCst);
    next().await;
    assert_ne!(next().await, here, "a slow disk holds up the writer's thread");
}
