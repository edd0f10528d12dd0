//! Who is believed to be who.
//!
//! With keys a request must carry a token that one of them made, and the token alone says whose it is. Without keys a
//! token proves nothing and decides nothing: the tenant is the one that the header names, as for a request without one.

mod jwt;
mod keys;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::http::{HeaderMap, StatusCode, header};
use rollcall_registry::TenantId;

pub use jwt::JwtConfig;
pub use keys::{JwtConfigError, SetError};

use crate::reply::Failure;
use jwt::{JwtError, Verifier};

/// What a token proved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Principal {
    pub(crate) tenant: TenantId,
    /// Whom the token speaks for.
    pub(crate) subject: Option<String>,
    /// What sort of thing that is: an admin, a service, an agent …
    pub(crate) kind: Option<PrincipalKind>,
    pub(crate) roles: Vec<String>,
}

macro_rules! kinds {
    ($($variant:ident = $word:literal),+ $(,)?) => {
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum PrincipalKind { $($variant),+ }

        impl std::str::FromStr for PrincipalKind {
            type Err = ();

            fn from_str(word: &str) -> Result<Self, ()> {
                match word { $($word => Ok(Self::$variant),)+ _ => Err(()) }
            }
        }
    };
}

kinds! {
    Admin = "admin", Service = "service", Agent = "agent", User = "user", Developer = "developer",
    Planner = "planner", Worker = "worker", Tool = "tool",
}

/// Checks tokens, if there are keys. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Auth(Arc<Inner>);

struct Inner {
    verifier: Option<Verifier>,
    /// It was said that tokens come and are not checked.
    warned: AtomicBool,
}

impl Auth {
    /// Checks nothing without keys.
    pub(crate) fn new(config: Option<&JwtConfig>) -> Result<Self, JwtConfigError> {
        let verifier = config.map(Verifier::new).transpose()?;
        Ok(Self(Arc::new(Inner { verifier, warned: AtomicBool::new(false) })))
    }

    /// Whom the request's token speaks for; none where tokens are not checked.
    pub(crate) async fn principal(&self, headers: &HeaderMap) -> Result<Option<Principal>, Failure> {
        let token = bearer(headers);
        let Some(verifier) = &self.0.verifier else {
            if token.is_some() && !self.0.warned.swap(true, Ordering::Relaxed) {
                tracing::warn!(
                    "a bearer token came, but there is no key to check it with: tokens are passed over, and the tenant \
                     is X-Tenant-ID or `default`; set jwt_secret, jwt_public_key_file, jwt_jwks or jwt_jwks_url"
                );
            }
            return Ok(None);
        };
        let token = token.ok_or_else(|| unauthorized("token_missing", "Missing bearer token"))?;
        match verifier.verify(token, headers).await {
            Ok(principal) => Ok(Some(principal)),
            Err(error) => {
                tracing::debug!(error = &error as &dyn std::error::Error, "a token was refused");
                Err(match error {
                    JwtError::NotConfigured { .. } => {
                        unauthorized("token_unverifiable", "JWT validation not configured")
                    }
                    JwtError::Contradicted { .. } => unauthorized("token_contradicted", &error.to_string()),
                    _ => unauthorized("token_invalid", "Invalid JWT"),
                })
            }
        }
    }
}

fn unauthorized(code: &'static str, detail: &str) -> Failure {
    Failure::new(StatusCode::UNAUTHORIZED, code, detail)
}

/// The bearer token of a request; one that is given twice is none.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return None };
    let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}
