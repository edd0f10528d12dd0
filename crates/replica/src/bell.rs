//! Whoever waits for many is woken once.

use std::sync::atomic::{AtomicUsize, Ordering, fence};

use tokio::sync::Notify;

/// Wakes who collects a batch when as many wait as it is waiting for, and not for each of them.
#[derive(Debug)]
pub(crate) struct Bell {
    awaited: AtomicUsize,
    rung: Notify,
}

/// Nobody is waited for.
const NONE_AWAITED: usize = usize::MAX;

impl Bell {
    pub(crate) fn new() -> Self {
        Self { awaited: AtomicUsize::new(NONE_AWAITED), rung: Notify::new() }
    }

    /// To be called when a request was handed in, with how many wait now.
    pub(crate) fn ring_at(&self, waiting: usize) {
        // Either this sees what is awaited, or who awaits it sees the request.
        fence(Ordering::SeqCst);
        if waiting >= self.awaited.load(Ordering::Relaxed) {
            self.rung.notify_one();
        }
    }

    /// Until `count` wait, or sooner. `waiting` tells how many do.
    pub(crate) async fn wait_for(&self, count: usize, waiting: impl Fn() -> usize) {
        self.awaited.store(count, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        if waiting() < count {
            self.rung.notified().await;
        }
    }

    /// From now on nobody is waited for.
    pub(crate) fn rest(&self) {
        self.awaited.store(NONE_AWAITED, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn nobody_is_woken_before_enough_wait() {
        let bell = Bell::new();
        let mut many = pin!(bell.wait_for(3, || 0));
        assert!(many.as_mut().now_or_never().is_none());
        bell.ring_at(1);
        bell.ring_at(2);
        assert!(many.as_mut().now_or_never().is_none());
        bell.ring_at(3);
        many.await;
        // They came before they were waited for.
        bell.wait_for(3, || 3).await;
        bell.rest();
        bell.ring_at(100);
        assert!(bell.wait_for(3, || 0).now_or_never().is_none());
    }
}
