//! Who may do what: the tokens that prove who asks, and on whose behalf a write is.
//!
//! A token has a reach (one tenant, or all), a role, and scopes that narrow the role. What is registered remembers by whom,
//! and whoever has power only over what is its own changes nothing else.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq;

use crate::ids::{ClusterTime, PrincipalId, TenantId, WallTime};
use crate::instance::Instance;
use crate::registration::words;

/// Tokens that there may be at once, over all tenants: some hundred agents for each of a hundred tenants. With the longest scopes
/// that are allowed they take 96 MiB, as they usually are 10.
pub const ACCESS_TOKENS_MAX: usize = 32_768;

/// Tokens of one tenant, so that no tenant's administrator leaves the others without any.
pub const ACCESS_TOKENS_MAX_OF_TENANT: usize = 4_096;

/// Longest life that can be asked for, ten years. A token may also live until it is revoked.
pub const ACCESS_TOKEN_TTL_MS_MAX: u64 = 3_650 * 24 * 3_600_000;

/// How long the secret before a rotation may stay good: long enough to bring the new one to a fleet.
pub const ACCESS_TOKEN_OVERLAP_MS_MAX: u64 = 7 * 24 * 3_600_000;

/// Longest description: a line.
pub const ACCESS_TOKEN_DESCRIPTION_BYTES_MAX: usize = 256;

/// Prefixes of service names in one token's scopes.
pub const SCOPE_SERVICES_MAX: usize = 16;

/// Longest of them.
pub const SCOPE_SERVICE_BYTES_MAX: usize = 128;

/// Tokens whose use one command notes.
pub const ACCESS_TOKENS_USED_MAX: usize = 1_024;

/// How coarsely it is noted that a token is used. Each note is a part of a log entry, and whoever wonders whether a token is
/// still needed thinks in days.
pub const ACCESS_TOKEN_USE_INTERVAL_MS: u64 = 3_600_000;

words! {
    /// How much somebody may do. Each may do what those before it may. Variants are only ever added at the end.
    AccessRole {
        /// Finds, reads and watches.
        Reader = "reader",
        /// Registers, and keeps alive and removes what it registered.
        Agent = "agent",
        /// Acts on all that is registered; with a reach over all tenants, on the cluster's nodes too.
        Operator = "operator",
        /// Makes and revokes tokens.
        Admin = "admin",
    }
}

words! {
    /// What can be done, as scopes name it. Variants are only ever added at the end.
    Verb {
        Read = "read",
        Watch = "watch",
        Register = "register",
        Heartbeat = "heartbeat",
        Deregister = "deregister",
        /// Of events and schemas.
        Define = "define",
        Operate = "operate",
        Administer = "administer",
    }
}

/// Over whose entries somebody may act.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reach {
    Tenant(TenantId),
    /// Over every tenant's, and over what belongs to none: the cluster itself.
    All,
}

impl Reach {
    pub fn contains(&self, tenant: &TenantId) -> bool {
        match self {
            Self::Tenant(own) => own == tenant,
            Self::All => true,
        }
    }

    pub fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::All, _) => true,
            (Self::Tenant(own), Self::Tenant(others)) => own == others,
            (Self::Tenant(_), Self::All) => false,
        }
    }
}

/// As it is written: a tenant, or `*`.
impl fmt::Display for Reach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tenant(tenant) => tenant.fmt(f),
            Self::All => f.write_str("*"),
        }
    }
}

/// What narrows a role.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scopes {
    /// Beginnings of the service names that may be written, whoever registered them. Empty: any name may be registered, and
    /// what the role has power over is what may be changed.
    pub services: Box<[Box<str>]>,
    /// Empty: all that the role may do.
    pub verbs: Box<[Verb]>,
}

impl Scopes {
    pub fn allow(&self, verb: Verb) -> bool {
        self.verbs.is_empty() || self.verbs.contains(&verb)
    }

    pub fn name_service(&self, name: &str) -> bool {
        self.services.is_empty() || begins_with_any(name, &self.services)
    }

    /// Whether nothing is in the other's that is not in these.
    pub fn cover(&self, other: &Self) -> bool {
        let verbs = self.verbs.is_empty()
            || (!other.verbs.is_empty() && other.verbs.iter().all(|verb| self.verbs.contains(verb)));
        let services = self.services.is_empty()
            || (!other.services.is_empty()
                && other.services.iter().all(|prefix| begins_with_any(prefix, &self.services)));
        verbs && services
    }

    fn is_within_bounds(&self) -> bool {
        self.services.len() <= SCOPE_SERVICES_MAX
            && self.services.iter().all(|prefix| prefix.len() <= SCOPE_SERVICE_BYTES_MAX)
            && self.verbs.len() <= Verb::ALL.len()
    }
}

fn begins_with_any(name: &str, prefixes: &[Box<str>]) -> bool {
    prefixes.iter().any(|prefix| name.starts_with(&**prefix))
}

/// What of a tenant's somebody may change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Power {
    /// What it registered, and what was registered by nobody that is known.
    Own,
    /// Services whose names begin with any of these.
    Services(Box<[Box<str>]>),
    /// All.
    Tenant,
}

/// On whose behalf a write is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Actor {
    pub principal: PrincipalId,
    pub power: Power,
}

impl Actor {
    /// Whether it may renew, change and remove an instance.
    pub fn may_change(&self, instance: &Instance) -> bool {
        match &self.power {
            Power::Own => instance.seldom.registered_by().is_none_or(|by| *by == self.principal),
            Power::Services(prefixes) => begins_with_any(instance.registration().name, prefixes),
            Power::Tenant => true,
        }
    }

    /// Whether registering what is there already makes it the actor's: nobody's becomes somebody's who has power over
    /// nothing else.
    pub(crate) fn claims(&self, instance: &Instance) -> bool {
        self.power == Power::Own && instance.seldom.registered_by().is_none()
    }
}

/// Names a token. Drawn by the node that made it, and no part of the secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct AccessTokenId(pub u64);

impl fmt::Display for AccessTokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// A text that names no token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be 16 hexadecimal digits")]
pub struct TokenIdError;

/// 16 hexadecimal digits, in lower case so that a number has one spelling.
pub(crate) fn token_number(text: &str) -> Result<u64, TokenIdError> {
    let plain = text.len() == 16 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    plain.then(|| u64::from_str_radix(text, 16).ok()).flatten().ok_or(TokenIdError)
}

impl FromStr for AccessTokenId {
    type Err = TokenIdError;

    fn from_str(text: &str) -> Result<Self, TokenIdError> {
        token_number(text).map(Self)
    }
}

/// The SHA-256 of a secret of 256 random bits, which is as hard to guess as the secret. Compared in constant time.
#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SecretDigest(pub [u8; 32]);

impl PartialEq for SecretDigest {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for SecretDigest {}

impl fmt::Debug for SecretDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretDigest(…)")
    }
}

/// A secret that was replaced, and until when it is good all the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FormerSecret {
    pub secret: SecretDigest,
    pub until: ClusterTime,
}

/// A row of the table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccessToken {
    pub id: AccessTokenId,
    pub secret: SecretDigest,
    pub former: Option<FormerSecret>,
    pub reach: Reach,
    pub role: AccessRole,
    pub scopes: Scopes,
    /// None: it is good until it is revoked.
    pub expires_at: Option<ClusterTime>,
    pub description: Box<str>,
    /// Who made it; none while nobody had to say who asks.
    pub created_by: Option<PrincipalId>,
    pub created_at: WallTime,
    pub rotated_at: Option<WallTime>,
    /// As of the last note, which may be [`ACCESS_TOKEN_USE_INTERVAL_MS`] old.
    pub used_at: Option<WallTime>,
    /// When that note came, by cluster time.
    pub use_noted_at: Option<ClusterTime>,
    pub revoked_at: Option<WallTime>,
}

impl AccessToken {
    /// Whom the token speaks for. The same after a rotation, so that what was registered stays its own.
    pub fn principal(&self) -> PrincipalId {
        PrincipalId::of_token(self.id)
    }

    /// Whether it opens nothing any more, whoever brings it.
    pub fn is_over(&self, now: ClusterTime) -> bool {
        self.revoked_at.is_some() || self.expires_at.is_some_and(|at| at <= now)
    }
}

/// A token to be made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewAccessToken {
    pub id: AccessTokenId,
    pub secret: SecretDigest,
    pub reach: Reach,
    pub role: AccessRole,
    pub scopes: Scopes,
    pub ttl_ms: Option<u64>,
    pub description: Box<str>,
    pub created_by: Option<PrincipalId>,
}

impl NewAccessToken {
    pub(crate) fn is_within_bounds(&self) -> bool {
        self.ttl_ms.is_none_or(|ttl_ms| (1..=ACCESS_TOKEN_TTL_MS_MAX).contains(&ttl_ms))
            && self.description.len() <= ACCESS_TOKEN_DESCRIPTION_BYTES_MAX
            && self.scopes.is_within_bounds()
    }
}

/// How far somebody who administers tokens may go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    pub reach: Reach,
    pub scopes: Scopes,
}

impl Grant {
    /// Of whoever may do everything.
    pub fn all() -> Self {
        Self { reach: Reach::All, scopes: Scopes::default() }
    }

    /// Whether who has it may give this away.
    pub fn covers(&self, reach: &Reach, scopes: &Scopes) -> bool {
        self.reach.covers(reach) && self.scopes.cover(scopes)
    }
}

/// What is asked of the table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum AccessTokenCommand {
    Create {
        token: NewAccessToken,
        /// Only if there is no token at all, nor a revoked one.
        first: bool,
    },
    /// Replaces the secret.
    Rotate {
        id: AccessTokenId,
        secret: SecretDigest,
        /// So long the one before stays good.
        overlap_ms: u64,
        within: Grant,
    },
    Revoke {
        id: AccessTokenId,
        within: Reach,
    },
    /// Notes that tokens are in use. Those that are not there are passed over.
    Used {
        ids: Vec<AccessTokenId>,
    },
    /// Revokes all that administer every tenant, and makes one that does.
    Reset {
        token: NewAccessToken,
    },
}

/// Why the table was not changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum AccessTokenRefusal {
    /// Said of another tenant's too.
    #[error("there is no such token")]
    Unknown,
    #[error("the token was revoked or has expired")]
    Over,
    #[error("there is a token of this id already")]
    Exists,
    #[error("there are {max} tokens already; revoke some")]
    TooMany { max: u32 },
    #[error("the tenant has {max} tokens already; revoke some")]
    TooManyOfTenant { max: u32 },
    #[error("there is a token already: the first one was made before")]
    NotFirst,
    #[error("the token may do more than who asks for it")]
    BeyondGrant,
    #[error("a token is beyond what is kept")]
    OutOfBounds,
}

/// Why a token proves nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AccessDenied {
    /// Said of a wrong secret too, so that ids cannot be tried out.
    #[error("the token is not known to this cluster")]
    Unknown,
    #[error("the token was revoked")]
    Revoked,
    #[error("the token has expired")]
    Expired,
    /// A rotation replaced it.
    #[error("the token was rotated, and this is the secret of before")]
    Rotated,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scopes(services: &[&str], verbs: &[Verb]) -> Scopes {
        Scopes { services: services.iter().map(|text| Box::from(*text)).collect(), verbs: verbs.into() }
    }

    #[test]
    fn scopes_narrow_and_are_given_away_no_wider() {
        let all = Scopes::default();
        let web = scopes(&["web-"], &[Verb::Read, Verb::Register]);
        assert!(web.allow(Verb::Read) && !web.allow(Verb::Deregister) && all.allow(Verb::Administer));
        assert!(web.name_service("web-1") && !web.name_service("we") && all.name_service("x"));
        assert!(all.cover(&web) && all.cover(&all) && web.cover(&web));
        assert!(!web.cover(&all));
        assert!(web.cover(&scopes(&["web-a", "web-b"], &[Verb::Read])));
        for wider in [scopes(&["web"], &[Verb::Read]), scopes(&["web-"], &[]), scopes(&[], &[Verb::Read])] {
            assert!(!web.cover(&wider), "{wider:?}");
        }
    }

    #[test]
    fn p10_one_tenant_is_not_all() {
        let (red, blue) = (TenantId::parse("red").unwrap(), TenantId::parse("blue").unwrap());
        let own = Reach::Tenant(red.clone());
        assert!(own.contains(&red) && !own.contains(&blue) && Reach::All.contains(&blue));
        assert!(Reach::All.covers(&own) && own.covers(&own));
        assert!(!own.covers(&Reach::All) && !own.covers(&Reach::Tenant(blue)));
    }

    #[test]
    fn words_are_read_as_they_are_written() {
        for role in AccessRole::ALL {
            assert_eq!(role.as_str().parse(), Ok(*role));
        }
        for verb in Verb::ALL {
            assert_eq!(verb.as_str().parse(), Ok(*verb));
        }
        assert!("root".parse::<AccessRole>().is_err());
        assert!(AccessRole::Reader < AccessRole::Agent && AccessRole::Operator < AccessRole::Admin);
    }
}
