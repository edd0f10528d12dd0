//! What a tenant may have of this node, where operators limit it: watchers, and requests per second. What a tenant may
//! have on the roll is judged where entries are applied.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use rollcall_registry::quota::QUOTAS_MAX;
use rollcall_registry::{Quota, QuotaKind, TenantId};
use rollcall_replica::Replica;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use crate::reply::Failure;

/// After the log has moved it is looked no oftener than this whether quotas are others.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// What a tenant may send at once after it was quiet: as much as in so long a time.
const BURST: Duration = Duration::from_secs(1);

/// Heartbeats per second for each instance that the tenant has, beside as many as it may send requests: those of agents
/// with the shortest TTL, each beating at a third of it, and then some. So what keeps the tenant on the roll goes on however
/// much else it sends.
const HEARTBEATS_PER_INSTANCE: u64 = 4;

/// Counts requests by the quotas as they were a moment ago, so that no request waits for the roll to find out that its tenant has
/// none. Cheap to clone; the task that follows the roll ends with the last
/// clone.
#[derive(Clone)]
pub(crate) struct Quotas {
    shared: Arc<Shared>,
    _task: Arc<AbortOnDropHandle<()>>,
}

struct Shared {
    replica: Replica,
    known: RwLock<HashMap<TenantId, Quota>>,
    paces: Mutex<HashMap<TenantId, Paces>>,
}

/// What a request is to its tenant's quota.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sort {
    Heartbeat,
    Other,
}

/// How fast a tenant goes.
#[derive(Clone, Copy, Debug, Default)]
struct Paces {
    heartbeats: Pace,
    others: Pace,
}

/// A bucket of tokens that fills at some rate: all that must be known of it is when it is full again. None: it is.
#[derive(Clone, Copy, Debug, Default)]
struct Pace(Option<Instant>);

impl Pace {
    /// Takes a token, of `per_second` that come; else says when there is one.
    fn take(&mut self, per_second: u64, now: Instant) -> Result<(), Duration> {
        let cost = Duration::from_secs(1) / u32::try_from(per_second.max(1)).unwrap_or(u32::MAX);
        let full_at = self.0.map_or(now, |full_at| full_at.max(now)) + cost;
        let ahead = full_at - now;
        // Whoever may send one in a second may send that one.
        if ahead > BURST.max(cost) {
            return Err(ahead - BURST.max(cost));
        }
        self.0 = Some(full_at);
        Ok(())
    }

    fn is_full(self, now: Instant) -> bool {
        self.0.is_none_or(|full_at| full_at <= now)
    }
}

impl Quotas {
    /// Must be called on a runtime.
    pub(crate) fn start(replica: Replica) -> Self {
        let shared = Arc::new(Shared { replica, known: RwLock::default(), paces: Mutex::default() });
        let task = tokio::spawn(follow(shared.clone()));
        Self { shared, _task: Arc::new(AbortOnDropHandle::new(task)) }
    }

    /// As what is applied here says now: for what is asked seldom.
    pub(crate) fn now(&self, tenant: &TenantId) -> Option<Quota> {
        self.shared.replica.roll().read(|state| state.quota(tenant))
    }

    fn known(&self, tenant: &TenantId) -> Option<Quota> {
        self.shared.known.read().get(tenant).copied()
    }

    /// Lets a request through, if its tenant has not sent too many.
    pub(crate) fn admit(&self, tenant: &TenantId, sort: Sort) -> Result<(), Failure> {
        let Some(limit) = self.known(tenant).and_then(|quota| quota.requests_per_second) else { return Ok(()) };
        let per_second = match sort {
            Sort::Other => limit,
            Sort::Heartbeat => {
                let instances = self.shared.replica.roll().read(|state| state.usage(tenant).registrations);
                limit.saturating_add(instances.saturating_mul(HEARTBEATS_PER_INSTANCE))
            }
        };
        let now = Instant::now();
        let mut paces = self.shared.paces.lock();
        if paces.len() >= QUOTAS_MAX && !paces.contains_key(tenant) {
            // What is full again says no more than what is not there.
            paces.retain(|_, pace| !(pace.heartbeats.is_full(now) && pace.others.is_full(now)));
        }
        let of_tenant = paces.entry(tenant.clone()).or_default();
        let pace = match sort {
            Sort::Heartbeat => &mut of_tenant.heartbeats,
            Sort::Other => &mut of_tenant.others,
        };
        pace.take(per_second, now).map_err(|wait| {
            let detail = match sort {
                Sort::Other => {
                    format!("the tenant's quota allows {limit} requests in a second at each node, heartbeats apart")
                }
                Sort::Heartbeat => format!(
                    "the tenant sends more heartbeats than it has instances for: {per_second} in a second at each node are allowed"
                ),
            };
            Failure::quota_exceeded(QuotaKind::RequestsPerSecond, per_second, per_second, wait, detail)
        })
    }
}

impl Shared {
    /// Looks at the roll, unless all is as it was when it had this mark.
    fn learn(&self, mark: &mut Option<u128>) {
        let found = self.replica.roll().read(|state| {
            let rulings = state.rulings();
            let found = rulings.quotas_mark();
            (mark.replace(found) != Some(found))
                .then(|| rulings.quotas().map(|(tenant, quota)| (tenant.clone(), quota)).collect::<HashMap<_, _>>())
        });
        if let Some(found) = found {
            self.paces.lock().retain(|tenant, _| found.contains_key(tenant));
            *self.known.write() = found;
        }
    }
}

async fn follow(shared: Arc<Shared>) {
    let mut applied = shared.replica.roll().subscribe();
    let mut mark = None;
    loop {
        shared.learn(&mut mark);
        if applied.changed().await.is_err() {
            return;
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(pace: &mut Pace, per_second: u64, tries: usize, now: Instant) -> usize {
        (0..tries).filter(|_| pace.take(per_second, now).is_ok()).count()
    }

    #[test]
    fn a_second_s_worth_at_once_and_then_as_they_come() {
        let (begun, mut pace) = (Instant::now(), Pace::default());
        let after = |ms| begun + Duration::from_millis(ms);
        assert_eq!(taken(&mut pace, 10, 30, begun), 10);
        let wait = pace.take(10, begun).unwrap_err();
        assert_eq!(wait, Duration::from_millis(100));
        assert_eq!(taken(&mut pace, 10, 30, after(99)), 0);
        assert_eq!(taken(&mut pace, 10, 30, after(350)), 3);
        assert!(!pace.is_full(after(350)));
        assert!(pace.is_full(after(2_000)));
        assert_eq!(taken(&mut pace, 10, 30, after(60_000)), 10, "no more is saved up than a second's worth");
        // Another limit holds from the next request on.
        assert_eq!(taken(&mut pace, 2, 30, after(60_000)), 0);
        assert_eq!(taken(&mut pace, 1_000_000, 30, after(61_000)), 30);
    }

    #[test]
    fn one_in_a_second_is_one_in_a_second() {
        let (now, mut pace) = (Instant::now(), Pace::default());
        assert_eq!(taken(&mut pace, 1, 5, now), 1);
        assert_eq!(taken(&mut pace, 1, 5, now + Duration::from_secs(1)), 1);
    }
}
