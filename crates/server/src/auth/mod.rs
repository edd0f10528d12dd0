//! Who is believed to be who, and what they may do.
//!
//! With authentication switched on every request is judged in one place, by the [`Gate`] at the edge: what it brings proves a
//! [`Principal`], and a table says what each route asks for. Handlers get the principal in their context and cannot be
//! reached without. A token is checked against the state that is applied here, without asking anybody: a revocation counts
//! as soon as the node has applied it, for streams that are under way too.
//!
//! With authentication switched off nobody is anybody and the tenant is the one that the header names. Only where keys for
//! JSON Web Tokens are configured all the same do the routes of Soorma's contract ask for one, as its own server does.
//!
//! Read in this order: `principal`, `table`, `brought`, `gate`, `jwt` and `keys`, `leash`, `attend`.

mod attend;
mod brought;
mod gate;
mod jwt;
mod keys;
mod leash;
mod principal;
mod table;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::http::{HeaderMap, StatusCode};

pub use attend::{ADMIN_TOKEN, FirstToken, RESET_REQUEST};
pub(crate) use attend::{Attendance, FirstTokenSender, attend, first_token};
pub(crate) use brought::API_KEY;
use brought::bearer;
pub(crate) use gate::Gate;
pub use jwt::JwtConfig;
pub use keys::{JwtConfigError, SetError};
pub(crate) use leash::{Leash, Leashes};
pub(crate) use principal::{Credential, Identity, Principal, PrincipalKind, forbidden};
pub(crate) use table::is_open;

use crate::reply::Failure;
use jwt::{JwtError, Verifier};

/// What access tokens begin with.
pub(crate) const TOKEN_PREFIX: &str = "rctoken";

/// Checks JSON Web Tokens, if there are keys. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Auth(Arc<Inner>);

struct Inner {
    verifier: Option<Verifier>,
    /// Requests are judged at the edge.
    enforced: bool,
    /// It was said that tokens come and are not checked.
    warned: AtomicBool,
}

impl Auth {
    /// Checks nothing without keys.
    pub(crate) fn new(config: Option<&JwtConfig>, enforced: bool) -> Result<Self, JwtConfigError> {
        let verifier = config.map(Verifier::new).transpose()?;
        Ok(Self(Arc::new(Inner { verifier, enforced, warned: AtomicBool::new(false) })))
    }

    /// Whether requests carry an identity.
    pub(crate) fn is_enforced(&self) -> bool {
        self.0.enforced
    }

    /// Whom a JSON Web Token speaks for; none where they are not checked.
    pub(crate) async fn principal(&self, headers: &HeaderMap) -> Result<Option<Principal>, Failure> {
        let token = bearer(headers);
        let Some(verifier) = &self.0.verifier else {
            if token.is_some() && !self.0.warned.swap(true, Ordering::Relaxed) {
                tracing::warn!(
                    "a bearer token came, but there is no key to check it with: tokens are passed over, and the tenant \
                     is X-Tenant-ID or `default`; set auth, or jwt_secret, jwt_public_key_file, jwt_jwks or jwt_jwks_url"
                );
            }
            return Ok(None);
        };
        let token = token.ok_or_else(|| unauthorized("token_missing", "Missing bearer token"))?;
        self.verify(verifier, token, headers).await.map(Some)
    }

    async fn verify(&self, verifier: &Verifier, token: &str, headers: &HeaderMap) -> Result<Principal, Failure> {
        verifier.verify(token, headers).await.map_err(|error| {
            tracing::debug!(error = &error as &dyn std::error::Error, "a token was refused");
            match error {
                JwtError::NotConfigured { .. } => unauthorized("token_unverifiable", "JWT validation not configured"),
                JwtError::Contradicted { .. } => unauthorized("token_contradicted", error.to_string()),
                _ => unauthorized("token_invalid", "Invalid JWT"),
            }
        })
    }
}

fn unauthorized(code: &'static str, detail: impl Into<String>) -> Failure {
    Failure::new(StatusCode::UNAUTHORIZED, code, detail)
}
