//! Access tokens in scripts, and on whose behalf a write is.

use std::collections::BTreeMap;

use rollcall_registry::state::{AccessTokenDelta, Restoring};
use rollcall_registry::{
    AccessRole, AccessToken, AccessTokenCommand, AccessTokenId, Actor, ClusterTime, Grant, NewAccessToken, Power,
    PrincipalId, Reach, Scopes, SecretDigest, State, TenantId, Verb,
};

use super::arguments::Arguments;

/// What storage would hold of them.
#[derive(Default)]
pub(super) struct KeptAccess(BTreeMap<AccessTokenId, AccessToken>);

impl KeptAccess {
    /// Keeps a checkpoint's, and says what it wrote.
    pub(super) fn take(&mut self, AccessTokenDelta { removed, put }: AccessTokenDelta) -> Vec<String> {
        let mut said = Vec::new();
        for id in removed {
            assert!(self.0.remove(&id).is_some(), "token {id} was removed, but had no row");
            said.push(format!("- access {}", id.0));
        }
        for token in put {
            said.push(format!("+ {}", line(&token)));
            self.0.insert(token.id, token);
        }
        said
    }

    pub(super) fn restore(&self, restoring: &mut Restoring) -> Result<(), String> {
        let mut rows = self.0.values();
        rows.try_for_each(|token| restoring.access_token(token.clone())).map_err(|error| error.to_string())
    }
}

/// A write about tokens, if it is one.
pub(super) fn command(verb: &str, arguments: &mut Arguments) -> Result<Option<AccessTokenCommand>, String> {
    Ok(Some(match verb {
        "grant" => AccessTokenCommand::Create { first: arguments.flag("first"), token: token(arguments)? },
        "reset" => AccessTokenCommand::Reset { token: token(arguments)? },
        "rotate" => AccessTokenCommand::Rotate {
            id: AccessTokenId(arguments.subject()?),
            secret: secret(arguments)?,
            overlap_ms: arguments.number("overlap_ms")?.unwrap_or(0),
            within: Grant { reach: within(arguments)?, scopes: scopes(arguments)? },
        },
        "withdraw" => {
            AccessTokenCommand::Revoke { id: AccessTokenId(arguments.subject()?), within: within(arguments)? }
        }
        "use" => {
            let ids =
                arguments.list("tokens").iter().map(|id| id.parse().map(AccessTokenId)).collect::<Result<_, _>>();
            AccessTokenCommand::Used { ids: ids.map_err(|error| format!("tokens: {error}"))? }
        }
        _ => return Ok(None),
    }))
}

fn token(arguments: &mut Arguments) -> Result<NewAccessToken, String> {
    Ok(NewAccessToken {
        id: AccessTokenId(arguments.subject()?),
        secret: secret(arguments)?,
        reach: reach(&arguments.take("reach").unwrap_or_else(|| "default".to_owned()))?,
        role: arguments.word::<AccessRole>("role")?.unwrap_or(AccessRole::Agent),
        scopes: scopes(arguments)?,
        ttl_ms: arguments.number("ttl_ms")?,
        description: arguments.take("description").unwrap_or_default().into(),
        created_by: arguments.take("by").map(|by| PrincipalId::parse(&by).map_err(|e| e.to_string())).transpose()?,
    })
}

fn scopes(arguments: &mut Arguments) -> Result<Scopes, String> {
    let verbs = arguments.words::<Verb>("verbs")?;
    Ok(Scopes { services: arguments.texts("services").into(), verbs: verbs.into() })
}

/// How far whoever asks may go: everywhere, unless it is said.
fn within(arguments: &mut Arguments) -> Result<Reach, String> {
    arguments.take("within").map_or(Ok(Reach::All), |text| reach(&text))
}

fn reach(text: &str) -> Result<Reach, String> {
    match text {
        "*" => Ok(Reach::All),
        tenant => TenantId::parse(tenant).map(Reach::Tenant).map_err(|error| error.to_string()),
    }
}

/// A letter repeated: scripts have no SHA-256 and need none.
fn secret(arguments: &mut Arguments) -> Result<SecretDigest, String> {
    let text = arguments.take("secret").ok_or("a secret is missing")?;
    Ok(SecretDigest([text.bytes().next().unwrap_or(0); 32]))
}

/// Whom a write is for, if it says so: `by=PRINCIPAL [power=own|tenant|PREFIX,…]`.
pub(super) fn actor(arguments: &mut Arguments) -> Result<Option<Actor>, String> {
    let Some(by) = arguments.take("by") else { return Ok(None) };
    let principal = PrincipalId::parse(&by).map_err(|error| error.to_string())?;
    let prefixes = arguments.texts("power");
    let power = if prefixes.iter().all(|text| **text == *"own") {
        Power::Own
    } else if prefixes.iter().all(|text| **text == *"tenant") {
        Power::Tenant
    } else {
        Power::Services(prefixes.into())
    };
    Ok(Some(Actor { principal, power }))
}

/// What somebody who brings a token is told.
pub(super) fn admit(state: &State, now: ClusterTime, arguments: &mut Arguments) -> Result<String, String> {
    let (id, secret) = (AccessTokenId(arguments.subject()?), secret(arguments)?);
    Ok(match state.check_access(id, &secret, now) {
        Ok(token) => format!("admitted as {} for {}", token.role, token.reach),
        Err(denied) => format!("denied: {denied}"),
    })
}

pub(super) fn line(token: &AccessToken) -> String {
    let mut line = format!("access {} {} of {}", token.id.0, token.role, token.reach);
    let mut add = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            line.push_str(&format!(" {name} {value}"));
        }
    };
    let listed = |texts: Vec<&str>| (!texts.is_empty()).then(|| texts.join(","));
    add("services", listed(token.scopes.services.iter().map(|text| &**text).collect()));
    add("verbs", listed(token.scopes.verbs.iter().map(|verb| verb.as_str()).collect()));
    add("until", token.expires_at.map(|at| at.to_string()));
    add("former until", token.former.as_ref().map(|former| former.until.to_string()));
    add("by", token.created_by.as_ref().map(ToString::to_string));
    add("used", token.used_at.map(|at| at.to_string()));
    add("revoked", token.revoked_at.map(|at| at.to_string()));
    line
}
