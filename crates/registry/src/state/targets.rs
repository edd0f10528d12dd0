//! Where a tenant's alerts go, and how far they went.

use super::State;
use crate::alerting::{AlertTarget, TARGETS_MAX, ToldUpTo};
use crate::command::Refusal;
use crate::ids::{TargetName, TenantId};
use crate::ruling::{Ruled, RulingContent, RulingKey};

impl State {
    pub(super) fn set_target(
        &mut self,
        tenant: &TenantId,
        name: &TargetName,
        target: Option<&AlertTarget>,
    ) -> Result<Ruled, Refusal> {
        let Some(target) = target else { return Ok(self.take_back(tenant, &RulingKey::Target(name.clone()))) };
        if !target.is_within_bounds() {
            return Err(Refusal::RulingOutOfBounds);
        }
        let told = match self.rulings.target_row(tenant, name) {
            Some((_, told)) => *told,
            None if self.rulings.targets(tenant).count() >= TARGETS_MAX => {
                return Err(Refusal::TooManyRulings { max: TARGETS_MAX as u32 });
            }
            None => {
                let protecting = self.protecting(tenant);
                ToldUpTo { revision: self.revision, begun: protecting.begun, in_force: protecting.since.is_some() }
            }
        };
        Ok(self.lay_down(tenant, RulingContent::Target { name: name.clone(), target: target.clone(), told }))
    }

    /// Nothing is untold: who led before may still say what it knew.
    pub(super) fn note_told(&mut self, tenant: &TenantId, name: &TargetName, told: ToldUpTo) -> Ruled {
        let unchanged = Ruled { changed: false, revision: self.revision };
        let Some((target, before)) = self.rulings.target_row(tenant, name) else {
            return unchanged;
        };
        if told.revision < before.revision || told.revision > self.revision {
            return unchanged;
        }
        let target = target.clone();
        self.lay_down(tenant, RulingContent::Target { name: name.clone(), target, told })
    }
}
