//! Group commit: one flush makes everything durable that was written while the flush before it ran.
//!
//! The one who flushes, the [`Round`], is passed on and never copied, so that there is one flush at a time and callbacks
//! come in order. While the disk is brisk a flush takes less than handing it to another thread and back, twice a kernel's
//! wake-up, so that it is a task of the runtime that wrote: one that gives way to whatever is ready first, such as
//! sending what was written to the followers. Where the flush before was slow, a thread of its own flushes.

use std::io;
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use openraft::storage::IOFlushed;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};

use crate::failure::{Health, StoreFailure};
use crate::meter::Histogram;
use crate::types::TypeConfig;

/// Requests that may wait for a flush. A writer that finds the queue full waits, as it would for the disk.
const WAITING_MAX: usize = 4096;

/// After a flush that took longer the next ones are the thread's: a task that flushes holds up the others of its runtime.
pub(super) const BRISK: Duration = Duration::from_millis(1);

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

/// The flushes' handle. Dropping it completes what waits, then ends the thread.
pub(super) struct Flusher {
    queue: mpsc::Sender<Waiting>,
    idle: Idle,
    to_thread: Option<Arc<std::sync::mpsc::Sender<Box<Round>>>>,
    thread: Option<JoinHandle<()>>,
    health: Health,
    pub(super) durations: Arc<Histogram>,
}

/// Where the one who flushes is while nothing waits.
type Idle = Arc<Mutex<Option<Box<Round>>>>;

/// Who flushes, with all that is needed for it.
struct Round {
    flush: Box<dyn Flush>,
    queue: mpsc::Receiver<Waiting>,
    health: Health,
    durations: Arc<Histogram>,
    complaints: Complaints,
    /// How long the last flush took.
    took: Option<Duration>,
}

impl Flusher {
    pub(super) fn spawn(flush: impl Flush, health: Health) -> io::Result<Self> {
        let (queue, waiting) = mpsc::channel(WAITING_MAX);
        let durations = Arc::new(Histogram::of_durations());
        let round = Round {
            flush: Box::new(flush),
            queue: waiting,
            health: health.clone(),
            durations: durations.clone(),
            complaints: Complaints::default(),
            took: None,
        };
        let idle: Idle = Arc::new(Mutex::new(Some(Box::new(round))));
        let (to_thread, rounds) = std::sync::mpsc::channel::<Box<Round>>();
        let place = idle.clone();
        let thread = std::thread::Builder::new().name("log-flush".to_owned()).spawn(move || {
            rounds.into_iter().for_each(|round| run(round, &place));
        })?;
        Ok(Self { queue, idle, to_thread: Some(Arc::new(to_thread)), thread: Some(thread), health, durations })
    }

    /// Has a callback called once what was written before is durable, or the flush failed. Callbacks are called in the
    /// order in which they came.
    pub(super) async fn notify(&self, callback: IOFlushed<TypeConfig>) {
        if let Err(Waiting::Append(callback)) = self.hand_in(Waiting::Append(callback)).await {
            callback.io_completed(Err(self.gone().into()));
        }
    }

    /// Waits until what was written before is durable.
    pub(super) async fn durable(&self) -> io::Result<()> {
        let (done, wait) = oneshot::channel();
        self.hand_in(Waiting::Caller(done)).await.map_err(|_| self.gone())?;
        Ok(wait.await.map_err(|_| self.gone())??)
    }

    /// Gives it back if nobody flushes any more.
    async fn hand_in(&self, waiting: Waiting) -> Result<(), Waiting> {
        self.queue.send(waiting).await.map_err(|mpsc::error::SendError(waiting)| waiting)?;
        // Else whoever flushes now looks into the queue before it is idle.
        if let Some(round) = self.idle.lock().take() {
            self.begin(round);
        }
        Ok(())
    }

    fn begin(&self, round: Box<Round>) {
        match Handle::try_current() {
            Ok(runtime) if round.is_brisk() => {
                let (idle, to_thread) = (self.idle.clone(), self.to_thread.as_ref().map(Arc::downgrade));
                runtime.spawn(run_beside(round, idle, to_thread.unwrap_or_default()));
            }
            // The thread ends early only by a panic; then the round is gone, and the queue with it.
            _ => drop(self.to_thread.as_ref().map(|to_thread| to_thread.send(round))),
        }
    }

    /// Whoever flushed ended early, by a panic.
    fn gone(&self) -> StoreFailure {
        self.health.fail("flush the log", io::Error::other("nobody flushes any more"))
    }
}

impl Drop for Flusher {
    fn drop(&mut self) {
        self.to_thread = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the log's flush thread panicked");
        }
    }
}

impl Round {
    fn is_brisk(&self) -> bool {
        self.took.is_some_and(|took| took <= BRISK)
    }

    /// Flushes once for all that wait, and tells them.
    fn flush(&mut self) {
        let group: Vec<Waiting> = std::iter::from_fn(|| self.queue.try_recv().ok()).take(WAITING_MAX).collect();
        // Every write of the group came before its request, so that one flush covers them all.
        let begun = Instant::now();
        let result = self.health.check().and_then(|()| self.health.guard("flush the log", self.flush.flush()));
        let took = begun.elapsed();
        self.took = Some(took);
        self.durations.observe_duration(took);
        if let Some(slow) = self.complaints.slow(took, Instant::now()) {
            let ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
            tracing::warn!(
                ms,
                slow,
                "flushing the log is slow: every write waits for it; is the disk busy or failing?"
            );
        }
        for waiting in group {
            match waiting {
                Waiting::Append(callback) => callback.io_completed(result.clone().map_err(io::Error::from)),
                // Who no longer waits need not be told.
                Waiting::Caller(done) => drop(done.send(result.clone())),
            }
        }
    }

    /// Becomes idle, unless somebody came meanwhile.
    fn rest(self: Box<Self>, idle: &Idle) -> Option<Box<Self>> {
        let mut place = idle.lock();
        if self.queue.is_empty() {
            *place = Some(self);
            return None;
        }
        Some(self)
    }
}

/// Flushes on this thread until nobody waits.
fn run(mut round: Box<Round>, idle: &Idle) {
    loop {
        round.flush();
        match round.rest(idle) {
            Some(more) => round = more,
            None => return,
        }
    }
}

/// Flushes as a task until nobody waits, or until a flush is slow.
async fn run_beside(mut round: Box<Round>, idle: Idle, to_thread: Weak<std::sync::mpsc::Sender<Box<Round>>>) {
    loop {
        // Whatever is ready goes first: what was written to the followers, and what the last flush was waited for.
        tokio::task::yield_now().await;
        round.flush();
        let Some(more) = round.rest(&idle) else { return };
        round = match to_thread.upgrade() {
            Some(to_thread) if !more.is_brisk() => return drop(to_thread.send(more)),
            _ => more,
        };
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
