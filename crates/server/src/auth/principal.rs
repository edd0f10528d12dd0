//! Who asks, as far as it was proven.

use std::sync::Arc;

use axum::http::StatusCode;
use rollcall_registry::{
    AccessRole, AccessTokenId, Actor, Grant, Power, PrincipalId, Reach, Scopes, SecretDigest, TenantId, Viewer,
};

use super::table::Need;
use crate::reply::Failure;

/// Whoever asks, in the extensions of every request that the edge lets through.
#[derive(Clone, Debug)]
pub(crate) struct Identity(pub(crate) Option<Arc<Principal>>);

impl Identity {
    /// Of requests that carry none: everybody's where authentication is switched off, and those of open routes.
    pub(crate) fn nobody() -> Self {
        Self(None)
    }
}

/// What a token proved. There is one shape for all sorts of tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Principal {
    /// What is kept of it with what it registers.
    pub(crate) id: PrincipalId,
    /// Over whose entries it may act.
    pub(crate) reach: Reach,
    pub(crate) role: AccessRole,
    pub(crate) scopes: Scopes,
    /// Whom the token speaks for, in the words of its issuer.
    pub(crate) subject: Option<String>,
    /// What sort of thing that is: an admin, a service, an agent …
    pub(crate) kind: Option<PrincipalKind>,
    /// What the issuer calls its roles.
    pub(crate) roles: Vec<String>,
    pub(crate) credential: Credential,
}

/// What was shown, as far as it must be looked at again while a stream lasts. No secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Credential {
    Token {
        id: AccessTokenId,
        secret: SecretDigest,
    },
    /// A JSON Web Token, with the second since 1970 in which it ends.
    Jwt {
        expires_at_s: u64,
    },
}

impl Principal {
    /// On whose behalf its writes are, with the power that role and scopes give.
    pub(crate) fn actor(&self) -> Actor {
        let power = if !self.scopes.services.is_empty() {
            Power::Services(self.scopes.services.clone())
        } else if self.role >= AccessRole::Operator {
            Power::Tenant
        } else {
            Power::Own
        };
        Actor { principal: self.id.clone(), power }
    }

    /// How far it may administer tokens.
    pub(crate) fn grant(&self) -> Grant {
        Grant { reach: self.reach.clone(), scopes: self.scopes.clone() }
    }

    /// The tenant that is meant, if it is the principal's to mean.
    pub(crate) fn tenant(&self, named: Option<TenantId>) -> Result<Option<TenantId>, Failure> {
        match (&self.reach, named) {
            (Reach::All, named) => Ok(named),
            (Reach::Tenant(own), None) => Ok(Some(own.clone())),
            (Reach::Tenant(own), Some(named)) if named == *own => Ok(Some(named)),
            (Reach::Tenant(own), Some(_)) => {
                Err(forbidden(format!("the token is for tenant `{own}`, and the request names another")))
            }
        }
    }

    /// What it is shown: whoever acts on all of a tenant's sees all of it, everybody else what its owner lets them see.
    pub(crate) fn viewer(&self) -> Viewer {
        if self.role >= AccessRole::Operator {
            return Viewer::All;
        }
        let name = self.subject.as_deref().unwrap_or(self.id.as_str());
        Viewer::One { name: name.into(), principal: Some(self.id.clone()) }
    }

    /// Whether it may do what a route asks for.
    pub(super) fn check(&self, need: Need) -> Result<(), Failure> {
        let is_enough =
            self.role >= need.role && self.scopes.allow(need.verb) && (!need.everywhere || self.reach == Reach::All);
        if is_enough {
            return Ok(());
        }
        let everywhere = if need.everywhere { " over all tenants" } else { "" };
        let (role, verb) = (need.role, need.verb);
        let wanted = format!("this needs the role `{role}`{everywhere} with the verb `{verb}`");
        Err(forbidden(format!("{wanted}; the token has {}", self.described())))
    }

    /// Role, reach and verbs, for whoever has the token.
    fn described(&self) -> String {
        let reach = match &self.reach {
            Reach::All => "over all tenants".to_owned(),
            Reach::Tenant(tenant) => format!("for tenant `{tenant}`"),
        };
        let verbs: Vec<_> = self.scopes.verbs.iter().map(|verb| verb.as_str()).collect();
        let verbs = if verbs.is_empty() { String::new() } else { format!(" with the verbs {}", verbs.join(", ")) };
        format!("`{}` {reach}{verbs}", self.role)
    }

    /// Whether a service of this name may be written.
    pub(crate) fn check_service(&self, name: &str) -> Result<(), Failure> {
        if self.scopes.name_service(name) {
            return Ok(());
        }
        let own = self.scopes.services.join("*, ");
        Err(forbidden(format!("the token's scope names the services {own}*, and `{}` is none", name.escape_debug())))
    }

    /// Whether what is of no service may be written.
    pub(crate) fn check_tenant(&self) -> Result<(), Failure> {
        if self.scopes.services.is_empty() {
            return Ok(());
        }
        let own = self.scopes.services.join("*, ");
        Err(forbidden(format!("the token's scope names the services {own}*, and this concerns more than those")))
    }
}

/// Whoever asks is known, and may not.
pub(crate) fn forbidden(detail: impl Into<String>) -> Failure {
    Failure::new(StatusCode::FORBIDDEN, "forbidden", detail)
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

impl PrincipalKind {
    /// The role of one whose token names none. An issuer's admin administers what its tenant registered, and no tokens.
    pub(super) fn role(self) -> AccessRole {
        match self {
            Self::Admin => AccessRole::Operator,
            Self::User => AccessRole::Reader,
            Self::Service | Self::Agent | Self::Developer | Self::Planner | Self::Worker | Self::Tool => {
                AccessRole::Agent
            }
        }
    }
}
