//! JSON Web Tokens: which key a token must be made with, and what it proves.
//!
//! - A key has one algorithm, chosen by where it was configured. What a token says of its algorithm only selects among the
//!   keys of that algorithm: a public key never serves as a secret, and `none` is no algorithm.
//! - `exp` is required. Issuer and audience are checked when they are configured, and then they must be there.
//! - The tenant is `tenant_id`, else `platform_tenant_id`.

use std::path::PathBuf;

use axum::http::HeaderMap;
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use rollcall_registry::{NameError, TenantId};
use serde::Deserialize;

use super::keys::{JwtConfigError, Keys};
use super::{Principal, PrincipalKind};
use crate::secret::Secret;

/// Longest token that is looked at: headers are bounded, and no issuer makes larger ones.
const TOKEN_BYTES_MAX: usize = 16 << 10;

/// Shortest secret that is taken: shorter ones are found by trying.
const SECRET_BYTES_MIN: usize = 16;

/// How tokens are checked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JwtConfig {
    /// HS256.
    pub secret: Option<Secret>,
    /// RS256, PEM.
    pub public_key_file: Option<PathBuf>,
    /// RS256: a key set, or a file with one.
    pub jwks: Option<String>,
    /// RS256: where a key set is fetched.
    pub jwks_url: Option<String>,
    pub issuer: Option<String>,
    pub audience: Option<String>,
}

impl JwtConfig {
    pub(crate) fn has_keys(&self) -> bool {
        self.secret.is_some() || self.public_key_file.is_some() || self.jwks.is_some() || self.jwks_url.is_some()
    }

    /// What is wrong with it, by key.
    pub(crate) fn faults(&self) -> Vec<(&'static str, String)> {
        let mut faults = Vec::new();
        let is_short = |secret: &Secret| secret.expose().len() < SECRET_BYTES_MIN;
        if self.secret.as_ref().is_some_and(is_short) {
            faults.push(("jwt_secret", format!("must be at least {SECRET_BYTES_MIN} bytes long")));
        }
        if self.jwks.is_some() && self.jwks_url.is_some() {
            faults.push(("jwt_jwks_url", "cannot be combined with jwt_jwks: one of them has the keys".to_owned()));
        }
        let is_url =
            |url: &String| reqwest::Url::parse(url).is_ok_and(|url| matches!(url.scheme(), "http" | "https"));
        if self.jwks_url.as_ref().is_some_and(|url| !is_url(url)) {
            faults.push(("jwt_jwks_url", "must be an http or https URL".to_owned()));
        }
        if !self.has_keys() {
            for (key, value) in [("jwt_issuer", &self.issuer), ("jwt_audience", &self.audience)] {
                if value.is_some() {
                    faults.push((key, "means nothing without a key to check tokens with".to_owned()));
                }
            }
        }
        if faults.is_empty()
            && let Err(error) = Keys::load(self)
        {
            let source = std::error::Error::source(&error).map(|source| format!(": {source}"));
            faults.push((error.key(), format!("{error}{}", source.unwrap_or_default())));
        }
        faults
    }
}

/// Why a token proves nothing.
#[derive(Debug, thiserror::Error)]
pub(super) enum JwtError {
    #[error("the token is {bytes} bytes long, at most {TOKEN_BYTES_MAX} are looked at")]
    TooLong { bytes: usize },
    #[error("read the token's header")]
    Header(#[source] jsonwebtoken::errors::Error),
    #[error("the token is made with {algorithm:?}, which is never accepted")]
    Algorithm { algorithm: Algorithm },
    #[error("there is no key for {algorithm:?}")]
    NotConfigured { algorithm: Algorithm },
    #[error("no key is called {kid:?}")]
    UnknownKey { kid: Option<String> },
    #[error("verify the token")]
    Invalid(#[source] jsonwebtoken::errors::Error),
    #[error("claim {claim} {fault}")]
    Claim { claim: &'static str, fault: String },
    #[error("{header} contradicts the token")]
    Contradicted { header: &'static str },
}

/// What a token says, as far as it is of interest.
#[derive(Debug, Default, Deserialize)]
struct Claims {
    platform_tenant_id: Option<String>,
    tenant_id: Option<String>,
    service_tenant_id: Option<String>,
    service_user_id: Option<String>,
    user_id: Option<String>,
    principal_id: Option<String>,
    sub: Option<String>,
    principal_type: Option<String>,
    roles: Option<Vec<String>>,
}

/// Checks tokens against keys.
pub(super) struct Verifier {
    keys: Keys,
    issuer: Option<String>,
    audience: Option<String>,
}

impl Verifier {
    pub(super) fn new(config: &JwtConfig) -> Result<Self, JwtConfigError> {
        let JwtConfig { issuer, audience, .. } = config.clone();
        Ok(Self { keys: Keys::load(config)?, issuer, audience })
    }

    /// What the token proves, unless the headers beside it say otherwise.
    pub(super) async fn verify(&self, token: &str, headers: &HeaderMap) -> Result<Principal, JwtError> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(JwtError::TooLong { bytes: token.len() });
        }
        let header = decode_header(token).map_err(JwtError::Header)?;
        let kid = header.kid.as_deref();
        let claims = match header.alg {
            Algorithm::HS256 => {
                let secret = self.keys.secret().ok_or(JwtError::NotConfigured { algorithm: header.alg })?;
                self.claims(token, secret, Algorithm::HS256)?
            }
            Algorithm::RS256 if !self.keys.has_public() => {
                return Err(JwtError::NotConfigured { algorithm: header.alg });
            }
            Algorithm::RS256 => {
                let key = self.keys.public(kid).await;
                let key = key.ok_or_else(|| JwtError::UnknownKey { kid: kid.map(str::to_owned) })?;
                self.claims(token, &key, Algorithm::RS256)?
            }
            algorithm => return Err(JwtError::Algorithm { algorithm }),
        };
        claims.principal(headers)
    }

    fn claims(&self, token: &str, key: &DecodingKey, algorithm: Algorithm) -> Result<Claims, JwtError> {
        let mut validation = Validation::new(algorithm);
        validation.leeway = 0;
        validation.validate_nbf = true;
        let mut required = vec!["exp"];
        match &self.audience {
            Some(audience) => {
                validation.set_audience(&[audience]);
                required.push("aud");
            }
            None => validation.validate_aud = false,
        }
        if let Some(issuer) = &self.issuer {
            validation.set_issuer(&[issuer]);
            required.push("iss");
        }
        validation.set_required_spec_claims(&required);
        Ok(decode::<Claims>(token, key, &validation).map_err(JwtError::Invalid)?.claims)
    }
}

impl Claims {
    fn principal(self, headers: &HeaderMap) -> Result<Principal, JwtError> {
        let said = |text: &Option<String>| text.clone().filter(|text| !text.trim().is_empty());
        let platform = said(&self.platform_tenant_id)
            .ok_or_else(|| JwtError::Claim { claim: "platform_tenant_id", fault: "is missing".to_owned() })?;
        let tenant = said(&self.tenant_id).unwrap_or(platform);
        let service_tenant = said(&self.service_tenant_id).unwrap_or_else(|| tenant.clone());
        let users = [&self.service_user_id, &self.user_id, &self.principal_id, &self.sub];
        let subject = users.into_iter().find_map(said);
        for (header, claimed) in [("X-Service-Tenant-ID", Some(&service_tenant)), ("X-User-ID", subject.as_ref())] {
            let mut values = headers.get_all(header).iter().filter(|value| !value.is_empty());
            if values.any(|value| Some(value.as_bytes()) != claimed.map(|text| text.as_bytes())) {
                return Err(JwtError::Contradicted { header });
            }
        }
        let tenant = TenantId::parse(tenant.trim())
            .map_err(|error: NameError| JwtError::Claim { claim: "tenant_id", fault: error.to_string() })?;
        let kind = self.principal_type.map(|word| word.parse::<PrincipalKind>()).transpose().map_err(|()| {
            JwtError::Claim { claim: "principal_type", fault: "is none of the known ones".to_owned() }
        })?;
        Ok(Principal { tenant, subject, kind, roles: self.roles.unwrap_or_default() })
    }
}
