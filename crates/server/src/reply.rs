//! Answers that say no: which status and code each reason has.

use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use rollcall_api::{Problem, QuotaExceeded, WriteOutcome, header as names};
use rollcall_registry::{
    AccessTokenRefusal, DefinitionRefusal, FederationRefusal, JoinTokenRefusal, NameError, QuotaKind, Refusal,
    Revision, SignatureRefusal,
};
use rollcall_replica::{BarrierError, DigestError, Freshness, SubmitError};

use serde_json::Value;

use crate::fault::Faults;
use crate::translate;

/// Try again after this long when nothing better is known.
const RETRY_AFTER_MS: u64 = 1_000;

/// Room on the roll comes when something goes, and not by asking often.
const QUOTA_RETRY_AFTER: Duration = Duration::from_secs(10);

/// What a read shows, told in the headers of its answer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shown {
    pub(crate) revision: Revision,
    pub(crate) freshness: Freshness,
}

/// An answer that says no. It becomes a problem document when the request's id is known.
#[derive(Clone, Debug)]
pub(crate) struct Failure(Box<Parts>);

#[derive(Clone, Debug)]
struct Parts {
    status: StatusCode,
    code: &'static str,
    detail: String,
    errors: Vec<rollcall_api::Fault>,
    retry_after_ms: Option<u64>,
    current_revision: Option<u64>,
    quota: Option<QuotaExceeded>,
    outcome: Option<WriteOutcome>,
    shown: Option<Shown>,
    /// What the router or a layer around it put beside the failure.
    headers: HeaderMap,
    /// What is said in the place of a problem document, where another contract has its own way to say no.
    said: Option<Vec<u8>>,
}

impl Failure {
    pub(crate) fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Self {
        Self(Box::new(Parts {
            status,
            code,
            detail: detail.into(),
            errors: Vec::new(),
            retry_after_ms: (status == StatusCode::SERVICE_UNAVAILABLE).then_some(RETRY_AFTER_MS),
            current_revision: None,
            quota: None,
            outcome: None,
            shown: None,
            headers: HeaderMap::new(),
            said: None,
        }))
    }

    /// A request with faults, each named.
    pub(crate) fn faulty(faults: Faults) -> Self {
        let errors = faults.into_vec();
        let detail = errors.iter().map(|fault| format!("{} {}", fault.field, fault.message)).collect::<Vec<_>>();
        let mut failure = Self::new(StatusCode::BAD_REQUEST, "invalid_request", detail.join("; ").trim());
        failure.0.errors = errors;
        failure
    }

    /// A request with one fault.
    pub(crate) fn fault(field: &str, message: impl Into<String>) -> Self {
        let mut faults = Faults::default();
        faults.push(field, message);
        Self::faulty(faults)
    }

    /// Says of a write whether it may have been applied.
    pub(crate) fn with_outcome(mut self, outcome: WriteOutcome) -> Self {
        self.0.outcome = Some(outcome);
        self
    }

    pub(crate) fn invalid_id(error: &NameError) -> Self {
        Self::fault("id", error.to_string())
    }

    pub(crate) fn not_found() -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", Refusal::NotRegistered.to_string())
    }

    pub(crate) fn not_ready(checks: impl IntoIterator<Item = (String, String)>) -> Self {
        let mut faults = Faults::default();
        checks.into_iter().for_each(|(name, detail)| faults.push(name, detail));
        let mut failure = Self::new(StatusCode::SERVICE_UNAVAILABLE, "not_ready", "this node is not ready for work");
        failure.0.errors = faults.into_vec();
        failure
    }

    pub(crate) fn overloaded(what: &str) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "overloaded", format!("this node has too many {what}"))
    }

    pub(crate) fn too_many_watchers(detail: String) -> Self {
        Self::too_many("too_many_watchers", detail)
    }

    pub(crate) fn too_many_backups(detail: String) -> Self {
        Self::too_many("too_many_backups", detail)
    }

    fn too_many(code: &'static str, detail: String) -> Self {
        let mut failure = Self::new(StatusCode::TOO_MANY_REQUESTS, code, detail);
        failure.0.retry_after_ms = Some(RETRY_AFTER_MS);
        failure
    }

    /// A tenant has, or sends, as much as it may.
    pub(crate) fn quota_exceeded(kind: QuotaKind, limit: u64, used: u64, wait: Duration, detail: String) -> Self {
        let mut failure = Self::new(StatusCode::TOO_MANY_REQUESTS, "quota_exceeded", detail);
        failure.0.retry_after_ms = Some(u64::try_from(wait.as_millis()).unwrap_or(u64::MAX).max(1));
        failure.0.quota = Some(QuotaExceeded { quota: translate::quota_kind_out(kind), limit, used });
        failure
    }

    pub(crate) fn revision_compacted(detail: String) -> Self {
        Self::new(StatusCode::GONE, "revision_compacted", detail)
    }

    /// A handler panicked: whatever it had begun may have been done.
    pub(crate) fn panicked() -> Self {
        let detail = "the request ran into a bug; it is logged";
        let mut failure = Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", detail);
        failure.0.outcome = Some(WriteOutcome::Unknown);
        failure
    }

    /// Says in the headers what the read that found nothing looked at.
    pub(crate) fn shown(mut self, shown: Shown) -> Self {
        self.0.shown = Some(shown);
        self
    }

    /// Says no in the words of another contract.
    pub(crate) fn said(mut self, body: &Value) -> Self {
        self.0.said = Some(body.to_string().into_bytes());
        self
    }

    /// As [`Self::said`], unless that was said already.
    pub(crate) fn or_said(self, body: impl FnOnce(&Self) -> Value) -> Self {
        if self.0.said.is_some() {
            return self;
        }
        let body = body(&self);
        self.said(&body)
    }

    pub(crate) fn status(&self) -> StatusCode {
        self.0.status
    }

    pub(crate) fn code(&self) -> &'static str {
        self.0.code
    }

    /// Which quota is used up, if that is why.
    pub(crate) fn quota(&self) -> Option<QuotaExceeded> {
        self.0.quota
    }

    pub(crate) fn detail(&self) -> &str {
        &self.0.detail
    }

    /// What is said. `write` is whether the request was one: its 5xx says whether it may have been applied.
    pub(crate) fn problem(&self, request_id: &str, write: bool) -> Problem {
        let parts = &*self.0;
        let outcome = parts.outcome.unwrap_or(WriteOutcome::NotApplied);
        Problem {
            problem_type: "about:blank".to_owned(),
            title: parts.status.canonical_reason().unwrap_or("Error").to_owned(),
            status: parts.status.as_u16(),
            detail: parts.detail.clone(),
            code: parts.code.to_owned(),
            request_id: request_id.to_owned(),
            outcome: (write && parts.status.is_server_error()).then_some(outcome),
            errors: parts.errors.clone(),
            retry_after_ms: parts.retry_after_ms,
            current_revision: parts.current_revision,
            quota: parts.quota,
        }
    }

    /// The answer; as [`Self::problem`].
    pub(crate) fn render(self, request_id: &str, write: bool) -> Response {
        let problem = self.problem(request_id, write);
        let parts = *self.0;
        let (content_type, body) = match parts.said {
            Some(said) => ("application/json", said),
            None => {
                let body = serde_json::to_vec(&problem).expect("a problem has no failing serializer");
                (names::PROBLEM_JSON, body)
            }
        };
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = parts.status;
        *response.headers_mut() = parts.headers;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
        if parts.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, challenge(parts.code));
        }
        if let Some(ms) = parts.retry_after_ms {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(ms.div_ceil(1_000).max(1)));
        }
        if let Some(shown) = parts.shown {
            show(&mut response, shown);
        }
        response
    }
}

/// How to say who asks, and whether what was said was wrong (RFC 6750).
fn challenge(code: &str) -> HeaderValue {
    HeaderValue::from_static(match code {
        // No token is a remedy for a wrong signature.
        "invalid_signature" => "Ed25519",
        "token_missing" => "Bearer realm=\"rollcall\"",
        _ => "Bearer realm=\"rollcall\", error=\"invalid_token\"",
    })
}

/// Carries the failure out of the router, to be rendered where the request's id is known.
impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let mut response = self.0.status.into_response();
        response.extensions_mut().insert(self);
        response
    }
}

/// Takes the failure out of a response that carries one. Headers that were added on the way out stay: the router's `Allow`,
/// and what a face's contract wants on every answer.
pub(crate) fn failure_of(response: &mut Response) -> Option<Failure> {
    let mut failure = response.extensions_mut().remove::<Failure>()?;
    failure.0.headers = std::mem::take(response.headers_mut());
    failure.0.headers.remove(header::CONTENT_LENGTH);
    Some(failure)
}

/// Tells what a read showed.
pub(crate) fn show(response: &mut Response, shown: Shown) {
    let headers = response.headers_mut();
    headers.insert(names::REVISION, HeaderValue::from(shown.revision.0));
    headers.insert(names::STALENESS_MS, HeaderValue::from(shown.freshness.staleness_ms));
}

/// Tells what a write wrote.
pub(crate) fn written(response: &mut Response, revision: Revision) {
    response.headers_mut().insert(names::REVISION, HeaderValue::from(revision.0));
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        let (status, code) = match refusal {
            // The resource that the URL names is not there.
            Refusal::NotRegistered => (StatusCode::NOT_FOUND, "not_found"),
            // Its own code, because the sender's way on differs: register again.
            Refusal::LeaseNotFound => (StatusCode::NOT_FOUND, "lease_not_found"),
            // The sender is one of two that claim the id, and the older one: it must stop.
            Refusal::Superseded { .. } => (StatusCode::CONFLICT, "lease_superseded"),
            // `If-Match` or `If-None-Match` did not hold.
            Refusal::ConditionFailed { .. } => (StatusCode::PRECONDITION_FAILED, "precondition_failed"),
            // The node's own repetition came too late to learn what became of the first attempt.
            Refusal::BatchOutdated => (StatusCode::GATEWAY_TIMEOUT, "outcome_unknown"),
            // What heartbeats reported adds up to more than a registration may hold.
            Refusal::MetadataTooLarge { .. } => (StatusCode::PAYLOAD_TOO_LARGE, "metadata_too_large"),
            // As many as are kept: something has to be taken back first.
            Refusal::TooManyRulings { .. } => (StatusCode::CONFLICT, "too_many_rulings"),
            // The edge checks bounds first.
            Refusal::RulingOutOfBounds => (StatusCode::BAD_REQUEST, "invalid_request"),
            Refusal::JoinToken(refusal) => match refusal {
                JoinTokenRefusal::Unknown => (StatusCode::NOT_FOUND, "join_token_not_found"),
                // Two draws of 64 random bits were the same: the sender asks again.
                JoinTokenRefusal::Exists => (StatusCode::CONFLICT, "join_token_exists"),
                JoinTokenRefusal::TooMany { .. } => (StatusCode::CONFLICT, "too_many_join_tokens"),
                // The edge checks bounds first, and nodes show tokens to members only.
                JoinTokenRefusal::OutOfBounds
                | JoinTokenRefusal::Expired
                | JoinTokenRefusal::UsedUp { .. }
                | JoinTokenRefusal::LearnersOnly => (StatusCode::CONFLICT, "join_token_refused"),
            },
            // Only the leader's own expiry is proposed with a term; no client can cause this.
            Refusal::StaleTerm { .. } => (StatusCode::INTERNAL_SERVER_ERROR, "internal"),
            // A version of a schema is defined once.
            Refusal::Definition(DefinitionRefusal::Exists { .. }) => (StatusCode::CONFLICT, "already_defined"),
            Refusal::Definition(DefinitionRefusal::NotDefined) => (StatusCode::NOT_FOUND, "not_defined"),
            // Somebody defined another version in between, time and again: the same request may succeed later.
            Refusal::Definition(DefinitionRefusal::Outdated) => (StatusCode::CONFLICT, "definition_changed"),
            // The tenant, or the cluster, holds as much as it may: something has to be removed first.
            Refusal::Definition(
                DefinitionRefusal::TooMany { .. }
                | DefinitionRefusal::TooLarge { .. }
                | DefinitionRefusal::Full { .. },
            ) => (StatusCode::PAYLOAD_TOO_LARGE, "definitions_full"),
            Refusal::AccessToken(refusal) => match refusal {
                AccessTokenRefusal::Unknown => (StatusCode::NOT_FOUND, "token_not_found"),
                // What is over is not brought back: another one is made.
                AccessTokenRefusal::Over => (StatusCode::CONFLICT, "token_over"),
                // Two draws of 64 random bits were the same: the sender asks again.
                AccessTokenRefusal::Exists => (StatusCode::CONFLICT, "token_exists"),
                AccessTokenRefusal::TooMany { .. } | AccessTokenRefusal::TooManyOfTenant { .. } => {
                    (StatusCode::CONFLICT, "too_many_tokens")
                }
                AccessTokenRefusal::BeyondGrant => (StatusCode::FORBIDDEN, "forbidden"),
                // The edge checks bounds first, and nobody but a node asks for the first token.
                AccessTokenRefusal::OutOfBounds | AccessTokenRefusal::NotFirst => {
                    (StatusCode::CONFLICT, "token_refused")
                }
            },
            // Who asks is known, and what is asked for is another's.
            Refusal::NotYours => (StatusCode::FORBIDDEN, "forbidden"),
            Refusal::Signature(refusal) => of_signature(refusal),
            Refusal::Federation(refusal) => of_federation(refusal),
            Refusal::QuotaExceeded { kind, limit, used } => {
                return Self::quota_exceeded(kind, limit, used, QUOTA_RETRY_AFTER, refusal.to_string());
            }
            // One of another tenant has to be taken back first.
            Refusal::TooManyQuotas { .. } => (StatusCode::CONFLICT, "too_many_quotas"),
        };
        let detail = match refusal {
            Refusal::NotYours => format!(
                "{refusal}: the role `agent` changes what its token registered, or services that its scope names; the role \
                 `operator` changes all of the tenant's"
            ),
            _ => refusal.to_string(),
        };
        let mut failure = Self::new(status, code, detail);
        match refusal {
            Refusal::ConditionFailed { current } => {
                failure.0.current_revision = current.map(|revision| revision.0);
            }
            Refusal::BatchOutdated => failure.0.outcome = Some(WriteOutcome::Unknown),
            Refusal::NotRegistered
            | Refusal::LeaseNotFound
            | Refusal::Superseded { .. }
            | Refusal::MetadataTooLarge { .. }
            | Refusal::JoinToken(_)
            | Refusal::Definition(_)
            | Refusal::AccessToken(_)
            | Refusal::NotYours
            | Refusal::TooManyRulings { .. }
            | Refusal::RulingOutOfBounds
            | Refusal::Signature(_)
            | Refusal::Federation(_)
            | Refusal::QuotaExceeded { .. }
            | Refusal::TooManyQuotas { .. }
            | Refusal::StaleTerm { .. } => {}
        }
        failure
    }
}

fn of_signature(refusal: SignatureRefusal) -> (StatusCode, &'static str) {
    match refusal {
        // The way on: sign.
        SignatureRefusal::Required | SignatureRefusal::OwnerSigns => (StatusCode::FORBIDDEN, "signature_required"),
        SignatureRefusal::OtherKey => (StatusCode::FORBIDDEN, "owner_key_mismatch"),
        SignatureRefusal::OtherOwner => (StatusCode::FORBIDDEN, "owner_mismatch"),
        SignatureRefusal::Replayed => (StatusCode::FORBIDDEN, "signature_replayed"),
        // Only the edge's view of the mode was old: the same request is judged by the new one.
        SignatureRefusal::Unverified => (StatusCode::CONFLICT, "signatures_changed"),
        // The edge names the fault first.
        SignatureRefusal::OwnerMissing => (StatusCode::BAD_REQUEST, "invalid_request"),
        SignatureRefusal::TooManyOwners { .. } => (StatusCode::CONFLICT, "too_many_owner_keys"),
        SignatureRefusal::TooManyModes { .. } => (StatusCode::CONFLICT, "too_many_signature_modes"),
        SignatureRefusal::NoKey => (StatusCode::NOT_FOUND, "owner_key_not_found"),
    }
}

fn of_federation(refusal: FederationRefusal) -> (StatusCode, &'static str) {
    match refusal {
        FederationRefusal::Unknown => (StatusCode::NOT_FOUND, "peer_not_found"),
        FederationRefusal::Exists => (StatusCode::CONFLICT, "peer_exists"),
        // It is gone in a moment.
        FederationRefusal::Leaving => (StatusCode::CONFLICT, "peer_leaving"),
        FederationRefusal::TooMany { .. } => (StatusCode::CONFLICT, "too_many_peers"),
        // The edge names the fault first.
        FederationRefusal::OutOfBounds => (StatusCode::BAD_REQUEST, "invalid_request"),
        // Who says it is known, and is not listened to.
        FederationRefusal::Paused => (StatusCode::FORBIDDEN, "peer_paused"),
        FederationRefusal::NotReceived => (StatusCode::FORBIDDEN, "not_received"),
        FederationRefusal::NotTrusted => (StatusCode::FORBIDDEN, "not_trusted"),
        FederationRefusal::Replayed => (StatusCode::CONFLICT, "message_replayed"),
    }
}

impl From<SubmitError> for Failure {
    fn from(error: SubmitError) -> Self {
        let (status, code, retry_after_ms) = match &error {
            SubmitError::NoLeader => (StatusCode::SERVICE_UNAVAILABLE, "no_leader", Some(RETRY_AFTER_MS)),
            SubmitError::Overloaded { retry_after_ms } => {
                (StatusCode::SERVICE_UNAVAILABLE, "overloaded", Some(*retry_after_ms))
            }
            SubmitError::Stopping => (StatusCode::SERVICE_UNAVAILABLE, "shutting_down", Some(RETRY_AFTER_MS)),
            // No other node takes it either, and time alone does not help.
            SubmitError::FeatureLevel { .. } => (StatusCode::CONFLICT, "feature_level_too_low", None),
            // The answer did not come in time; retrying blindly could apply it twice, so no delay is advised.
            SubmitError::Unknown => (StatusCode::GATEWAY_TIMEOUT, "outcome_unknown", None),
        };
        let outcome = if error.may_have_been_applied() { WriteOutcome::Unknown } else { WriteOutcome::NotApplied };
        let mut failure = Self::new(status, code, error.to_string());
        (failure.0.retry_after_ms, failure.0.outcome) = (retry_after_ms, Some(outcome));
        failure
    }
}

impl From<BarrierError> for Failure {
    fn from(error: BarrierError) -> Self {
        let (status, code) = match error {
            // The node answered nothing since it started; another one may.
            BarrierError::NotReady => (StatusCode::SERVICE_UNAVAILABLE, "not_ready"),
            BarrierError::NoLeader => (StatusCode::SERVICE_UNAVAILABLE, "no_leader"),
            BarrierError::TooStale { .. } => (StatusCode::SERVICE_UNAVAILABLE, "too_stale"),
            // The node works, but what was waited for did not come in time.
            BarrierError::RevisionNotReached { .. } => (StatusCode::GATEWAY_TIMEOUT, "revision_not_reached"),
        };
        let mut failure = Self::new(status, code, error.to_string());
        if let BarrierError::RevisionNotReached { at } = error {
            failure.0.current_revision = Some(at.0);
        }
        failure
    }
}

impl From<DigestError> for Failure {
    fn from(error: DigestError) -> Self {
        let (status, code) = match error {
            DigestError::Gone { .. } => (StatusCode::GONE, "digest_gone"),
            DigestError::NotReached { .. } => (StatusCode::GATEWAY_TIMEOUT, "index_not_reached"),
        };
        Self::new(status, code, error.to_string())
    }
}

/// The request's body did not come in time.
pub(crate) fn body_timeout(waited: Duration) -> Failure {
    let detail = format!("the body did not arrive within {} ms", waited.as_millis());
    Failure::new(StatusCode::REQUEST_TIMEOUT, "body_timeout", detail)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rollcall_registry::{LeaseId, Term};

    #[test]
    fn each_refusal_has_its_status_and_code() {
        let refusals = [
            (Refusal::NotRegistered, 404, "not_found"),
            (Refusal::LeaseNotFound, 404, "lease_not_found"),
            (Refusal::Superseded { by: LeaseId(2) }, 409, "lease_superseded"),
            (Refusal::ConditionFailed { current: Some(Revision(5)) }, 412, "precondition_failed"),
            (Refusal::BatchOutdated, 504, "outcome_unknown"),
            (Refusal::MetadataTooLarge { bytes: 2, bytes_max: 1 }, 413, "metadata_too_large"),
            (JoinTokenRefusal::Unknown.into(), 404, "join_token_not_found"),
            (JoinTokenRefusal::TooMany { max: 256 }.into(), 409, "too_many_join_tokens"),
            (AccessTokenRefusal::Unknown.into(), 404, "token_not_found"),
            (AccessTokenRefusal::BeyondGrant.into(), 403, "forbidden"),
            (Refusal::NotYours, 403, "forbidden"),
            (Refusal::TooManyRulings { max: 10_000 }, 409, "too_many_rulings"),
            (SignatureRefusal::OwnerSigns.into(), 403, "signature_required"),
            (SignatureRefusal::Replayed.into(), 403, "signature_replayed"),
            (Refusal::QuotaExceeded { kind: QuotaKind::Bytes, limit: 1, used: 1 }, 429, "quota_exceeded"),
            (Refusal::TooManyQuotas { max: 1 }, 409, "too_many_quotas"),
            (Refusal::StaleTerm { proposed: Term(1), entry: Term(2) }, 500, "internal"),
        ];
        for (refusal, status, code) in refusals {
            let failure = Failure::from(refusal);
            assert_eq!((failure.status().as_u16(), failure.code()), (status, code));
        }
        assert_eq!(
            Failure::from(Refusal::ConditionFailed { current: Some(Revision(5)) }).0.current_revision,
            Some(5)
        );
    }

    #[test]
    fn a_failed_write_says_whether_it_may_have_been_applied() {
        let outcome = |failure: Failure| failure.0.outcome;
        assert_eq!(outcome(SubmitError::NoLeader.into()), Some(WriteOutcome::NotApplied));
        assert_eq!(outcome(SubmitError::Stopping.into()), Some(WriteOutcome::NotApplied));
        assert_eq!(outcome(SubmitError::Unknown.into()), Some(WriteOutcome::Unknown));
        assert_eq!(outcome(Refusal::BatchOutdated.into()), Some(WriteOutcome::Unknown));
        assert_eq!(outcome(Failure::panicked()), Some(WriteOutcome::Unknown));
    }

    #[test]
    fn every_503_says_when_to_come_back() {
        for failure in
            [Failure::from(BarrierError::NotReady), Failure::from(SubmitError::NoLeader), Failure::not_ready([])]
        {
            let response = failure.render("r", false);
            assert_eq!(response.headers()[header::RETRY_AFTER], "1");
        }
    }
}
