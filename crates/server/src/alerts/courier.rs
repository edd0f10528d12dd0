//! What waits to be told to one target, and the task that tells it. Whatever the target does, nobody else waits for it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rollcall_registry::{AlertTarget, Revision, TenantId};
use tokio::sync::Notify;
use tokio_util::task::AbortOnDropHandle;

use super::message::{self, Notice};
use super::webhook::Poster;
use crate::metrics::AlertMetrics;

/// What waits for one target. More stays in the history until there is room.
const WAITING_MAX: usize = 1_000;

/// Told in one request: some 300 bytes each.
const BATCH_MAX: usize = 100;

const BACKOFF_MIN: Duration = Duration::from_secs(1);
const BACKOFF_MAX: Duration = Duration::from_secs(60);

#[derive(Debug)]
struct Item {
    notice: Notice,
    /// The changes up to and with this one had been looked at when it was found.
    mark: Revision,
    /// How protection stands once it is told.
    protection: (u64, bool),
}

#[derive(Debug)]
struct Waiting {
    items: VecDeque<Item>,
    /// Of what was told.
    protection: (u64, bool),
    /// How often something was told.
    deliveries: u64,
}

/// How far a target was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reached {
    /// None: of everything that was found.
    pub(super) before: Option<Revision>,
    pub(super) protection: (u64, bool),
    pub(super) deliveries: u64,
}

/// Ends its task when it is dropped.
#[derive(Debug)]
pub(super) struct Courier {
    shared: Arc<Shared>,
    metrics: AlertMetrics,
    _task: AbortOnDropHandle<()>,
}

#[derive(Debug)]
struct Shared {
    waiting: Mutex<Waiting>,
    comes: Notify,
}

/// Where it goes, and in whose name.
#[derive(Clone, Debug)]
pub(super) struct Address {
    pub(super) tenant: TenantId,
    pub(super) name: String,
    pub(super) target: AlertTarget,
    pub(super) epoch: u64,
}

impl Courier {
    pub(super) fn start(address: Address, protection: (u64, bool), poster: Poster, metrics: AlertMetrics) -> Self {
        let waiting = Mutex::new(Waiting { items: VecDeque::new(), protection, deliveries: 0 });
        let shared = Arc::new(Shared { waiting, comes: Notify::new() });
        let task = tokio::spawn(carry(shared.clone(), address, poster, metrics.clone()));
        Self { shared, metrics, _task: AbortOnDropHandle::new(task) }
    }

    /// How many more may come.
    pub(super) fn room(&self) -> usize {
        WAITING_MAX.saturating_sub(self.shared.waiting.lock().items.len())
    }

    pub(super) fn take(&self, notice: Notice, mark: Revision, protection: (u64, bool)) {
        self.metrics.waiting.inc();
        self.shared.waiting.lock().items.push_back(Item { notice, mark, protection });
        self.shared.comes.notify_one();
    }

    pub(super) fn reached(&self) -> Reached {
        let waiting = self.shared.waiting.lock();
        Reached {
            before: waiting.items.front().map(|item| item.mark),
            protection: waiting.protection,
            deliveries: waiting.deliveries,
        }
    }
}

impl Drop for Courier {
    fn drop(&mut self) {
        // What still waits is told by whoever leads next.
        self.metrics.waiting.dec_by(self.shared.waiting.lock().items.len() as i64);
    }
}

/// Counts a target as failing for as long as it lives.
struct Failing(AlertMetrics);

impl Failing {
    fn begin(metrics: &AlertMetrics) -> Self {
        metrics.failing.inc();
        Self(metrics.clone())
    }
}

impl Drop for Failing {
    fn drop(&mut self) {
        self.0.failing.dec();
    }
}

async fn carry(shared: Arc<Shared>, address: Address, poster: Poster, metrics: AlertMetrics) {
    let Address { tenant, name, target, epoch } = address;
    let mut backoff = BACKOFF_MIN;
    let mut failing = None;
    loop {
        // One at a time while it fails: perhaps a target takes no large ones.
        let batch_max = if failing.is_some() { 1 } else { BATCH_MAX };
        let (body, count) = {
            let waiting = shared.waiting.lock();
            let batch = waiting.items.iter().take(batch_max);
            (message::body(target.form, &tenant, epoch, batch.clone().map(|item| &item.notice)), batch.count())
        };
        if count == 0 {
            shared.comes.notified().await;
            continue;
        }
        match poster.post(&target, body).await {
            Ok(_) => {
                let mut waiting = shared.waiting.lock();
                for item in waiting.items.drain(..count).collect::<Vec<_>>() {
                    waiting.protection = item.protection;
                }
                waiting.deliveries += 1;
                metrics.waiting.dec_by(count as i64);
                metrics.sent.inc_by(count as u64);
                (backoff, failing) = (BACKOFF_MIN, None);
            }
            Err(error) => {
                metrics.failures.inc();
                if failing.is_none() {
                    tracing::warn!(%tenant, target = name, %error, "a target for alerts cannot be told; it is tried again");
                }
                failing.get_or_insert_with(|| Failing::begin(&metrics));
                tokio::time::sleep(backoff.mul_f64(rand::random_range(0.8..1.2))).await;
                backoff = (backoff * 2).min(BACKOFF_MAX);
            }
        }
    }
}
