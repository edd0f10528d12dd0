//! The one place in which requests are judged.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use axum::http::{HeaderMap, Method};
use parking_lot::Mutex;
use rollcall_registry::access::ACCESS_TOKEN_USE_INTERVAL_MS;
use rollcall_registry::{AccessDenied, AccessTokenId, Scopes};
use rollcall_replica::{BarrierError, Consistency, Replica, TokenSecret};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::principal::{Credential, Identity, Principal};
use super::table::{self, Access};
use super::{Auth, TOKEN_PREFIX, bearer, brought, unauthorized};
use crate::faces::protolink;
use crate::metrics::Route;
use crate::reply::Failure;

/// A token that this node does not know may have been made a moment ago at another one; so long it is waited until this node
/// knows what that one knew.
const DOUBT_TIMEOUT: Duration = Duration::from_secs(2);

/// Requests that may wait so at once: whoever makes tokens up must not hold all of the node.
const DOUBTS_MAX: usize = 64;

/// Judges requests. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Gate(Arc<Inner>);

struct Inner {
    auth: Auth,
    replica: Replica,
    metrics_open: bool,
    doubts: Semaphore,
    /// Tokens whose use is to be noted.
    used: Mutex<BTreeSet<AccessTokenId>>,
}

impl Gate {
    pub(crate) fn new(auth: Auth, replica: Replica, metrics_open: bool) -> Self {
        let doubts = Semaphore::new(DOUBTS_MAX);
        Self(Arc::new(Inner { auth, replica, metrics_open, doubts, used: Mutex::default() }))
    }

    /// Whose request it is, if they may do what its route does.
    pub(crate) async fn admit(
        &self,
        route: Route,
        method: &Method,
        path: &str,
        headers: &HeaderMap,
    ) -> Result<Identity, Failure> {
        let Access::Needs(need) = table::access(route, method, path, self.0.metrics_open) else {
            return Ok(Identity::nobody());
        };
        let principal = self.principal(route, headers).await?;
        principal.check(need)?;
        Ok(Identity(Some(Arc::new(principal))))
    }

    /// Whom a request's credentials speak for.
    async fn principal(&self, route: Route, headers: &HeaderMap) -> Result<Principal, Failure> {
        let missing =
            "this cluster asks for a token: send `Authorization: Bearer TOKEN`; `rollcall` takes it by --token";
        let held;
        let token = if protolink::has(route.template()) {
            held = brought::of_protolink(headers);
            held.as_ref().map(|token| token.as_str())
        } else {
            bearer(headers)
        };
        let token = token.ok_or_else(|| unauthorized("token_missing", missing))?;
        if !token.starts_with(TOKEN_PREFIX) {
            let verifier = self.0.auth.0.verifier.as_ref();
            let unknown = || unauthorized("token_invalid", "the bearer token is none of this cluster");
            return self.0.auth.verify(verifier.ok_or_else(unknown)?, token, headers).await;
        }
        let unknown = || denied(AccessDenied::Unknown);
        let secret = TokenSecret::parse(TOKEN_PREFIX, token).ok_or_else(unknown)?;
        match self.check(&secret) {
            Err(AccessDenied::Unknown) => self.check_again(&secret).await,
            checked => checked.map_err(denied),
        }
    }

    /// By what is applied here.
    fn check(&self, secret: &TokenSecret) -> Result<Principal, AccessDenied> {
        let (id, digest) = (AccessTokenId(secret.id()), secret.digest());
        let now = self.0.replica.cluster_time();
        let checked: Result<_, AccessDenied> = self.0.replica.roll().read(|state| {
            let token = state.check_access(id, &digest, now.max(state.now()))?;
            let noted_at = token.use_noted_at;
            let principal = Principal {
                id: token.principal(),
                reach: token.reach.clone(),
                role: token.role,
                scopes: Scopes::clone(&token.scopes),
                subject: None,
                kind: None,
                roles: Vec::new(),
                credential: Credential::Token { id, secret: digest },
            };
            Ok((principal, noted_at.is_none_or(|at| at.ms_until(now) >= ACCESS_TOKEN_USE_INTERVAL_MS)))
        });
        let (principal, is_unnoted) = checked?;
        if is_unnoted {
            self.0.used.lock().insert(id);
        }
        Ok(principal)
    }

    /// After this node has come as far as the cluster was. A node that cannot find that out does not know whether the token
    /// is good, and says so: who is told that it is not gives up.
    async fn check_again(&self, secret: &TokenSecret) -> Result<Principal, Failure> {
        let Ok(_doubt) = self.0.doubts.try_acquire() else { return Err(denied(AccessDenied::Unknown)) };
        let current = Consistency { linearizable: true, ..Consistency::default() };
        match self.0.replica.barrier(current, Instant::now() + DOUBT_TIMEOUT).await {
            Ok(_) => self.check(secret).map_err(denied),
            Err(error @ (BarrierError::NotReady | BarrierError::NoLeader)) => Err(error.into()),
            Err(BarrierError::TooStale { .. } | BarrierError::RevisionNotReached { .. }) => {
                Err(Failure::not_ready([]))
            }
        }
    }

    /// Takes the tokens whose use is to be noted.
    pub(super) fn take_used(&self) -> BTreeSet<AccessTokenId> {
        std::mem::take(&mut *self.0.used.lock())
    }
}

fn denied(denied: AccessDenied) -> Failure {
    let code = match denied {
        AccessDenied::Unknown => "token_invalid",
        AccessDenied::Revoked => "token_revoked",
        AccessDenied::Expired | AccessDenied::Rotated => "token_expired",
    };
    unauthorized(code, denied.to_string())
}
