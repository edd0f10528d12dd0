//! Group commit: one thread makes everything durable that was written while the flush before it ran.

use std::io;
use std::thread::JoinHandle;

use openraft::storage::IOFlushed;
use tokio::sync::{mpsc, oneshot};

use crate::failure::{Health, StoreFailure};
use crate::types::TypeConfig;

/// Requests that may wait for a flush. A writer that finds the queue full waits, as it would for the disk.
const WAITING_MAX: usize = 4096;

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
}

impl Flusher {
    pub(super) fn spawn(flush: impl Flush, health: Health) -> io::Result<Self> {
        let (queue, waiting) = mpsc::channel(WAITING_MAX);
        let on_thread = health.clone();
        let thread = std::thread::Builder::new()
            .name("log-flush".to_owned())
            .spawn(move || run(flush, waiting, &on_thread))?;
        Ok(Self { queue: Some(queue), thread: Some(thread), health })
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

fn run(mut flush: impl Flush, mut queue: mpsc::Receiver<Waiting>, health: &Health) {
    let mut group = Vec::new();
    while let Some(first) = queue.blocking_recv() {
        group.push(first);
        while group.len() < WAITING_MAX
            && let Ok(next) = queue.try_recv()
        {
            group.push(next);
        }
        // Every write of the group came before its request, so that one flush covers them all.
        let result = health.check().and_then(|()| health.guard("flush the log", flush.flush()));
        for waiting in group.drain(..) {
            match waiting {
                Waiting::Append(callback) => callback.io_completed(result.clone().map_err(io::Error::from)),
                // Who no longer waits need not be told.
                Waiting::Caller(done) => drop(done.send(result.clone())),
            }
        }
    }
}
