//! How many watch at once, and who is refused.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use rollcall_registry::TenantId;

use crate::metrics::WatchMetrics;
use crate::reply::Failure;

/// Counts watchers against their limits. A long poll is one while it waits; so are a WebSocket connection and each of
/// its subscriptions.
#[derive(Clone)]
pub(crate) struct Places(Arc<Shared>);

/// How many may watch at once.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WatcherLimits {
    pub(crate) node_max: usize,
    pub(crate) tenant_max: usize,
}

struct Shared {
    limits: WatcherLimits,
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
    pub(crate) fn new(limits: WatcherLimits, metrics: WatchMetrics) -> Self {
        Self(Arc::new(Shared { limits, taken: Mutex::default(), metrics }))
    }

    pub(crate) fn take(&self, tenant: &TenantId) -> Result<Place, Failure> {
        let mut taken = self.0.taken.lock();
        let of_tenant = taken.by_tenant.get(tenant).copied().unwrap_or(0);
        let WatcherLimits { node_max, tenant_max } = self.0.limits;
        let refused = if taken.all >= node_max {
            Some((node_max, "this node"))
        } else if of_tenant >= tenant_max {
            Some((tenant_max, "this tenant on this node"))
        } else {
            None
        };
        if let Some((max, whose)) = refused {
            self.0.metrics.refused.inc();
            return Err(Failure::too_many_watchers(format!(
                "{whose} has {max} watchers already, as many as it may have"
            )));
        }
        taken.all += 1;
        taken.by_tenant.insert(tenant.clone(), of_tenant + 1);
        self.0.metrics.watchers.inc();
        Ok(Place { places: self.clone(), tenant: tenant.clone() })
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
