//! What tenants have of what operators let them have. Told only where whoever reads the metrics has proven that all tenants
//! are theirs to see: everywhere else nobody hears which tenants there are.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use rollcall_registry::{QuotaKind, Usage};
use rollcall_replica::Replica;

use super::encode::Writer;

/// Tenants that are told of, the first by name: their number is the operators' choice, and series cost whoever keeps them.
const TENANTS_MAX: usize = 100;

pub(super) struct Collected(pub(super) Replica);

impl fmt::Debug for Collected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Collected").finish_non_exhaustive()
    }
}

impl Collector for Collected {
    fn encode(&self, encoder: DescriptorEncoder) -> fmt::Result {
        let mut writer = Writer(encoder);
        let of_tenants: Vec<_> = self.0.roll().read(|state| {
            let quotas = state.rulings().quotas().take(TENANTS_MAX);
            quotas.map(|(tenant, quota)| (tenant.as_str().to_owned(), quota, state.usage(tenant))).collect()
        });
        let labels =
            |tenant: &str, kind: QuotaKind| [("tenant", tenant.to_owned()), ("quota", kind.as_str().to_owned())];
        let limits = of_tenants.iter().flat_map(|(tenant, quota, _)| {
            let limits = QuotaKind::ALL.iter().filter_map(|kind| Some((*kind, quota.limit(*kind)?)));
            limits.map(|(kind, limit)| (labels(tenant, kind), limit as f64))
        });
        let help =
            "How much a tenant may have, of the first 100 that have a quota; watchers and requests at each node.";
        writer.gauges("tenant_quota", help, None, limits)?;
        let used = of_tenants.iter().flat_map(|(tenant, _, Usage { registrations, bytes })| {
            let used = [(QuotaKind::Registrations, registrations), (QuotaKind::Bytes, bytes)];
            used.map(|(kind, used)| (labels(tenant, kind), *used as f64))
        });
        writer.gauges("tenant_quota_used", "How much of it the tenant has.", None, used)
    }
}
