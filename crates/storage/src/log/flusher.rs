//! Group commit: one thread makes everything durable that was written while the flush before it ran.

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use openraft::storage::IOFlushed;
use tokio::sync::{mpsc, oneshot};

use crate::failure::{Health, StoreFailure};
use crate::meter::Histogram;
use crate::types::TypeConfig;

/// Requests that may wait for a flush. A writer that finds the queue full waits, as it would for the disk.
const WAITING_MAX: usize = 4096;

/// A flush that takes longer is worth a warning: every write waits for it, and a few of these in a row cost the lead.
const SLOW: Duration = Duration::from_millis(100);

/// Between two warnings; the slow flushes in between are told by their number.
const WARN_INTERVAL: Duration = Duration::from_secs(10);

/// Makes durable what was written before the call.
pub(crate) trait Flush: Send + 'static {
    fn flush(&mut self) -> io::Result<()>;
}

/// Whom to tell that what was written is durable.
enum Waiting {
    Append(IOFlushed<TypeConfig>),
    Caller(oneshot::Sender<Result<(), StoreFailure>>),
}

/// The flush thread's handle. Dropping it completes what waits, then ends the thread.
pub(super) struct Flusher {
    queue: Option<mpsc::Sender<Waiting>>,
    thread: Option<JoinHandle<()>>,
    health: Health,
    pub(super) durations: Arc<Histogram>,
}

impl Flusher {
    pub(super) fn spawn(flush: impl Flush, health: Health) -> io::Result<Self> {
        let (queue, waiting) = mpsc::channel(WAITING_MAX);
        let durations = Arc::new(Histogram::of_durations());
        let (on_thread, measured) = (health.clone(), durations.clone());
        let thread = std::thread::Builder::new()
            .name("log-flush".to_owned())
            .spawn(move || run(flush, waiting, &on_thread, &measured))?;
        Ok(Self { queue: Some(queue), thread: Some(thread), health, durations })
    }

    /// Has a callback called once what was written before is durable, or the flush failed. Callbacks are called in the
    /// order in which they came.
    pub(super) async fn notify(&self, callback: IOFlushed<TypeConfig>) {
        if let Err(mpsc::error::SendError(Waiting::Append(callback))) =
            self.queue().send(Waiting::Append(callback)).await
        {
            callback.io_completed(Err(self.thread_gone().into()));
        }
    }

    /// Waits until what was written before is durable.
    pub(super) async fn durable(&self) -> io::Result<()> {
        let (done, wait) = oneshot::channel();
        self.queue().send(Waiting::Caller(done)).await.map_err(|_| self.thread_gone())?;
        Ok(wait.await.map_err(|_| self.thread_gone())??)
    }

    /// The thread ends early only by a panic.
    fn thread_gone(&self) -> StoreFailure {
        self.health.fail("flush the log", io::Error::other("the flush thread is gone"))
    }

    fn queue(&self) -> &mpsc::Sender<Waiting> {
        self.queue.as_ref().expect("the queue is open until drop")
    }
}

impl Drop for Flusher {
    fn drop(&mut self) {
        self.queue = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the log's flush thread panicked");
        }
    }
}

/// Tells of slow flushes, and not of each.
#[derive(Debug, Default)]
struct Complaints {
    told_at: Option<Instant>,
    /// Since then.
    untold: u64,
}

impl Complaints {
    /// How many slow flushes came since the last warning, this one included, if one is due now.
    fn slow(&mut self, took: Duration, now: Instant) -> Option<u64> {
        if took <= SLOW {
            return None;
        }
        self.untold += 1;
        if self.told_at.is_some_and(|told_at| now.saturating_duration_since(told_at) < WARN_INTERVAL) {
            return None;
        }
        self.told_at = Some(now);
        Some(std::mem::take(&mut self.untold))
    }
}

fn run(mut flush: impl Flush, mut queue: mpsc::Receiver<Waiting>, health: &Health, durations: &Histogram) {
    let (mut group, mut complaints) = (Vec::new(), Complaints::default());
    while let Some(first) = queue.blocking_recv() {
        group.push(first);
        while group.len() < WAITING_MAX
            && let Ok(next) = queue.try_recv()
        {
            group.push(next);
        }
        // Every write of the group came before its request, so that one flush covers them all.
        let begun = Instant::now();
        let result = health.check().and_then(|()| health.guard("flush the log", flush.flush()));
        let took = begun.elapsed();
        durations.observe_duration(took);
        if let Some(slow) = complaints.slow(took, Instant::now()) {
            let ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
            tracing::warn!(
                ms,
                slow,
                "flushing the log is slow: every write waits for it; is the disk busy or failing?"
            );
        }
        for waiting in group.drain(..) {
            match waiting {
                Waiting::Append(callback) => callback.io_completed(result.clone().map_err(io::Error::from)),
                // Who no longer waits need not be told.
                Waiting::Caller(done) => drop(done.send(result.clone())),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slow_flushes_are_told_now_and_then_and_counted_in_between() {
        let start = Instant::now();
        let mut complaints = Complaints::default();
        let mut flush =
            |took_ms, at_s| complaints.slow(Duration::from_millis(took_ms), start + Duration::from_secs(at_s));
        assert_eq!(flush(100, 0), None);
        assert_eq!(flush(101, 1), Some(1));
        assert_eq!(flush(500, 2), None);
        assert_eq!(flush(5, 12), None);
        assert_eq!(flush(500, 13), Some(2));
    }
}
