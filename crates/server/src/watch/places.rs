//! How many watch at once, and who is refused.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rollcall_registry::{QuotaKind, TenantId};

use crate::metrics::WatchMetrics;
use crate::quotas::Quotas;
use crate::reply::Failure;

/// Watchers go of themselves, sooner or later.
const WATCHERS_RETRY_AFTER: Duration = Duration::from_secs(1);

/// Counts watchers against their limits. A long poll is one while it waits; so are a WebSocket connection and each of
/// its subscriptions.
#[derive(Clone)]
pub(crate) struct Places(Arc<Shared>);

/// How many may watch at once.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WatcherLimits {
    pub(crate) node_max: usize,
    /// Of a tenant whose quota says nothing else.
    pub(crate) tenant_max: usize,
}

struct Shared {
    limits: WatcherLimits,
    quotas: Quotas,
    taken: Mutex<Taken>,
    metrics: WatchMetrics,
}

#[derive(Default)]
struct Taken {
    all: usize,
    /// Of tenants that have any.
    by_tenant: HashMap<TenantId, usize>,
}

impl Places {
    pub(crate) fn new(limits: WatcherLimits, quotas: Quotas, metrics: WatchMetrics) -> Self {
        Self(Arc::new(Shared { limits, quotas, taken: Mutex::default(), metrics }))
    }

    pub(crate) fn take(&self, tenant: &TenantId) -> Result<Place, Failure> {
        let quota = self.0.quotas.now(tenant).and_then(|quota| quota.watchers);
        let mut taken = self.0.taken.lock();
        let of_tenant = taken.by_tenant.get(tenant).copied().unwrap_or(0);
        let WatcherLimits { node_max, tenant_max } = self.0.limits;
        let has = |whose: &str, max: u64| format!("{whose} has {max} watchers already, as many as it may have");
        let refused = if taken.all >= node_max {
            Some(Failure::too_many_watchers(has("this node", node_max as u64)))
        } else if let Some(limit) = quota {
            let detail = || has("this tenant on this node", limit);
            let used = of_tenant as u64;
            (used >= limit)
                .then(|| Failure::quota_exceeded(QuotaKind::Watchers, limit, used, WATCHERS_RETRY_AFTER, detail()))
        } else {
            (of_tenant >= tenant_max)
                .then(|| Failure::too_many_watchers(has("this tenant on this node", tenant_max as u64)))
        };
        if let Some(failure) = refused {
            self.0.metrics.refused.inc();
            return Err(failure);
        }
        taken.all += 1;
        taken.by_tenant.insert(tenant.clone(), of_tenant + 1);
        self.0.metrics.watchers.inc();
        Ok(Place { places: self.clone(), tenant: tenant.clone() })
    }

    pub(crate) fn taken_by(&self, tenant: &TenantId) -> usize {
        self.0.taken.lock().by_tenant.get(tenant).copied().unwrap_or(0)
    }
}

/// The right to watch, given back when it is dropped.
pub(crate) struct Place {
    places: Places,
    tenant: TenantId,
}

impl Drop for Place {
    fn drop(&mut self) {
        let shared = &self.places.0;
        let mut taken = shared.taken.lock();
        taken.all -= 1;
        match taken.by_tenant.get_mut(&self.tenant) {
            Some(1) => drop(taken.by_tenant.remove(&self.tenant)),
            Some(count) => *count -= 1,
            None => unreachable!("a place was given back twice"),
        }
        shared.metrics.watchers.dec();
    }
}
