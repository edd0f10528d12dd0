//! Whether a tenant may have more: judged where an entry is applied, so that no two nodes let through what only one of
//! them may. What stands stays, whatever is laid down later, and what grows by nothing is never refused.

use super::State;
use crate::command::Refusal;
use crate::ids::TenantId;
use crate::index::Slot;
use crate::quota::{Quota, QuotaKind, Usage, bytes_of_instance};

impl State {
    /// What operators laid down for a tenant, if they did.
    pub fn quota(&self, tenant: &TenantId) -> Option<Quota> {
        self.rulings.quota(tenant)
    }

    pub fn usage(&self, tenant: &TenantId) -> Usage {
        let tenant = self.tenants.get(tenant);
        tenant.map_or_else(Usage::default, |own| Usage { registrations: own.ids.len() as u64, bytes: own.bytes })
    }

    /// Whether what stands at a slot, or nothing yet, may take so many bytes from now on.
    pub(super) fn check_quota(&self, tenant: &TenantId, before: Option<Slot>, bytes: u64) -> Result<(), Refusal> {
        let Some(quota) = self.quota(tenant) else { return Ok(()) };
        let used = self.usage(tenant);
        let exceeded = |kind, limit, used| Err(Refusal::QuotaExceeded { kind, limit, used });
        if let Some(limit) = quota.registrations.filter(|_| before.is_none())
            && used.registrations >= limit
        {
            return exceeded(QuotaKind::Registrations, limit, used.registrations);
        }
        let bytes_before = before.map_or(0, |slot| bytes_of_instance(self.instance(slot)));
        if let Some(limit) = quota.bytes.filter(|_| bytes > bytes_before)
            && used.bytes - bytes_before + bytes > limit
        {
            return exceeded(QuotaKind::Bytes, limit, used.bytes);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quota::QUOTAS_MAX;
    use crate::ruling::RulingChange;
    use crate::state::Options;

    #[test]
    fn so_many_tenants_have_a_quota_and_no_more() {
        let mut state = State::new(Options::default());
        let tenant = |n: usize| TenantId::parse(&format!("t{n}")).unwrap();
        let quota = |registrations| {
            RulingChange::Quota(Some(Quota { registrations: Some(registrations), ..Quota::default() }))
        };
        for n in 0..QUOTAS_MAX {
            state.rule(&tenant(n), &quota(1)).unwrap();
        }
        let refused = state.rule(&tenant(QUOTAS_MAX), &quota(1)).unwrap_err();
        assert_eq!(refused, Refusal::TooManyQuotas { max: QUOTAS_MAX as u32 });
        // Another one for who has one is not one more.
        state.rule(&tenant(0), &quota(2)).unwrap();
        state.rule(&tenant(0), &RulingChange::Quota(None)).unwrap();
        state.rule(&tenant(QUOTAS_MAX), &quota(1)).unwrap();
        state.assert_consistent();
    }
}
