//! What refusals are called in scripts.

use rollcall_registry::Refusal;

pub(super) fn name(refusal: &Refusal) -> &'static str {
    match refusal {
        Refusal::NotRegistered => "not_registered",
        Refusal::LeaseNotFound => "lease_not_found",
        Refusal::Superseded { .. } => "superseded",
        Refusal::ConditionFailed { .. } => "condition_failed",
        Refusal::StaleTerm { .. } => "stale_term",
        Refusal::BatchOutdated => "batch_outdated",
        Refusal::MetadataTooLarge { .. } => "metadata_too_large",
        Refusal::JoinToken(_) => "join_token",
        Refusal::Definition(_) => "definition",
        Refusal::AccessToken(_) => "access_token",
        Refusal::NotYours => "not_yours",
        Refusal::TooManyRulings { .. } => "too_many_rulings",
        Refusal::RulingOutOfBounds => "ruling_out_of_bounds",
        Refusal::Signature(_) => "signature",
        Refusal::Federation(_) => "federation",
        Refusal::QuotaExceeded { .. } => "quota_exceeded",
        Refusal::TooManyQuotas { .. } => "too_many_quotas",
    }
}
