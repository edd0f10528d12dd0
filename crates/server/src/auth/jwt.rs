//! JSON Web Tokens: which key a token must be made with, and what it proves.
//!
//! - A key has one algorithm, chosen by where it was configured. What a token says of its algorithm only selects among the
//!   keys of that algorithm: a public key never serves as a secret, and `none` is no algorithm.
//! - `exp` is required. Issuer and audience are checked when they are configured, and then they must be there.
//! - The tenant is `tenant_id`, else `platform_tenant_id`, or what a claim of the operator's choice says; `*` is all of them.
//! - The role is what the claim `role` says, or one of the operator's choice; else what the sort of principal is for.

use std::path::PathBuf;

use axum::http::HeaderMap;
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use rollcall_registry::{AccessRole, NameError, PrincipalId, Reach, Scopes, TenantId};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::keys::{JwtConfigError, Keys};
use super::{Credential, Principal, PrincipalKind};
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
    /// Which claim names the tenant, if it is another one.
    pub tenant_claim: Option<String>,
    /// Which claim names the role, if it is another one.
    pub role_claim: Option<String>,
    /// The role of tokens that name none: `reader`, if it is not said.
    pub role_default: Option<AccessRole>,
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
        if self.secret.as_ref().is_some_and(|secret| secret.expose().trim_start().starts_with("-----BEGIN")) {
            let detail = "is a key in PEM, which may be known to all: give a public key by jwt_public_key_file";
            faults.push(("jwt_secret", detail.to_owned()));
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
            for (key, is_set) in [
                ("jwt_issuer", self.issuer.is_some()),
                ("jwt_audience", self.audience.is_some()),
                ("jwt_tenant_claim", self.tenant_claim.is_some()),
                ("jwt_role_claim", self.role_claim.is_some()),
                ("jwt_role_default", self.role_default.is_some()),
            ] {
                if is_set {
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
    #[error("read the token's claims")]
    Claims(#[source] serde_json::Error),
    #[error("claim {claim} {fault}")]
    Claim { claim: &'static str, fault: String },
    #[error("the token's header asks for what is not done here (`crit`)")]
    Critical,
    #[error("{header} contradicts the token")]
    Contradicted { header: &'static str },
}

/// What a token says, as far as it is of interest.
#[derive(Debug, Default, Deserialize)]
struct Claims {
    exp: f64,
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
    naming: Naming,
}

/// Where a token says what.
struct Naming {
    tenant_claim: Option<String>,
    role_claim: String,
    role_default: AccessRole,
}

const ROLE_CLAIM: &str = "role";

impl Verifier {
    pub(super) fn new(config: &JwtConfig) -> Result<Self, JwtConfigError> {
        let JwtConfig { issuer, audience, tenant_claim, role_claim, role_default, .. } = config.clone();
        let naming = Naming {
            tenant_claim,
            role_claim: role_claim.unwrap_or_else(|| ROLE_CLAIM.to_owned()),
            role_default: role_default.unwrap_or(AccessRole::Reader),
        };
        Ok(Self { keys: Keys::load(config)?, issuer, audience, naming })
    }

    /// What the token proves, unless the headers beside it say otherwise.
    pub(super) async fn verify(&self, token: &str, headers: &HeaderMap) -> Result<Principal, JwtError> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(JwtError::TooLong { bytes: token.len() });
        }
        let header = decode_header(token).map_err(JwtError::Header)?;
        if has_critical(token) {
            return Err(JwtError::Critical);
        }
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
        let named = |claim: &str| claims.get(claim).cloned();
        let tenant = self.naming.tenant_claim.as_deref().map(|claim| named(claim).unwrap_or(Value::Null));
        let role = named(&self.naming.role_claim);
        let claims: Claims = serde_json::from_value(Value::Object(claims)).map_err(JwtError::Claims)?;
        claims.principal(headers, tenant, role.as_ref(), self.naming.role_default)
    }

    fn claims(&self, token: &str, key: &DecodingKey, algorithm: Algorithm) -> Result<Map<String, Value>, JwtError> {
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
        Ok(decode(token, key, &validation).map_err(JwtError::Invalid)?.claims)
    }
}

impl Claims {
    /// `tenant` is the claim that names it, where that is configured; `role` what the claim that names it says.
    fn principal(
        self,
        headers: &HeaderMap,
        tenant: Option<Value>,
        role: Option<&Value>,
        role_default: AccessRole,
    ) -> Result<Principal, JwtError> {
        let said = |text: &Option<String>| text.clone().filter(|text| !text.trim().is_empty());
        let fault = |claim, fault: String| JwtError::Claim { claim, fault };
        let tenant = match tenant {
            Some(Value::String(tenant)) => said(&Some(tenant)),
            Some(_) => None,
            None => said(&self.tenant_id).or_else(|| said(&self.platform_tenant_id)),
        };
        let tenant = tenant.ok_or_else(|| fault("of the tenant", "is missing".to_owned()))?;
        let service_tenant = said(&self.service_tenant_id).unwrap_or_else(|| tenant.clone());
        let users = [&self.service_user_id, &self.user_id, &self.principal_id, &self.sub];
        let subject = users.into_iter().find_map(said);
        for (header, claimed) in [("X-Service-Tenant-ID", Some(&service_tenant)), ("X-User-ID", subject.as_ref())] {
            let mut values = headers.get_all(header).iter().filter(|value| !value.is_empty());
            if values.any(|value| Some(value.as_bytes()) != claimed.map(|text| text.as_bytes())) {
                return Err(JwtError::Contradicted { header });
            }
        }
        let reach = match tenant.trim() {
            "*" => Reach::All,
            tenant => {
                let tenant = TenantId::parse(tenant);
                Reach::Tenant(tenant.map_err(|error: NameError| fault("of the tenant", error.to_string()))?)
            }
        };
        let kind = self.principal_type.map(|word| word.parse::<PrincipalKind>()).transpose();
        let kind = kind.map_err(|()| fault("principal_type", "is none of the known ones".to_owned()))?;
        let named = role.filter(|role| !role.is_null());
        // Whoever has a role of another system alone may do the least here, whatever those may who name none.
        let role_default = if named.is_some() { AccessRole::Reader } else { role_default };
        let role = named.and_then(role_in).or(kind.map(PrincipalKind::role)).unwrap_or(role_default);
        let id = subject.as_ref().map_or_else(|| "jwt".to_owned(), |subject| format!("jwt:{subject}"));
        let id = PrincipalId::parse(&id).map_err(|error| fault("of the subject", error.to_string()))?;
        Ok(Principal {
            id,
            reach,
            role,
            scopes: Scopes::default(),
            subject,
            kind,
            roles: self.roles.unwrap_or_default(),
            // Whole seconds: a part of one more or less is nobody's business.
            credential: Credential::Jwt { expires_at_s: self.exp as u64 },
        })
    }
}

/// Whether a header has extensions that must be understood (RFC 7515, section 4.1.11): none of them is.
fn has_critical(token: &str) -> bool {
    let header = token.split('.').next().and_then(|part| BASE64_URL_SAFE_NO_PAD.decode(part).ok());
    let header = header.and_then(|text| serde_json::from_slice::<Map<String, Value>>(&text).ok());
    header.is_none_or(|header| header.contains_key("crit"))
}

/// The greatest of the roles that a claim names, in a text or a list of them; what is no role of ours is passed over.
fn role_in(claim: &Value) -> Option<AccessRole> {
    match claim {
        Value::String(text) => text.parse().ok(),
        Value::Array(texts) => texts.iter().filter_map(Value::as_str).filter_map(|text| text.parse().ok()).max(),
        _ => None,
    }
}
