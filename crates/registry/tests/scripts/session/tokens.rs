//! Join tokens in scripts.

use std::collections::BTreeMap;

use rollcall_registry::state::{JoinTokenDelta, Restoring};
use rollcall_registry::{Admission, JoinToken, JoinTokenCommand, JoinTokenId, SecretDigest};

use super::arguments::Arguments;

/// What storage would hold of them.
#[derive(Default)]
pub(super) struct KeptTokens(BTreeMap<JoinTokenId, JoinToken>);

impl KeptTokens {
    /// Keeps a checkpoint's, and says what it wrote.
    pub(super) fn take(&mut self, JoinTokenDelta { removed, put }: JoinTokenDelta) -> Vec<String> {
        let mut said = Vec::new();
        for id in removed {
            assert!(self.0.remove(&id).is_some(), "token {id} was removed, but had no row");
            said.push(format!("- token {}", id.0));
        }
        for token in put {
            said.push(format!("+ {}", line(&token)));
            self.0.insert(token.id, token);
        }
        said
    }

    pub(super) fn restore(&self, restoring: &mut Restoring) -> Result<(), String> {
        self.0.values().try_for_each(|token| restoring.join_token(token.clone())).map_err(|error| error.to_string())
    }
}

/// A write about tokens, if it is one.
pub(super) fn command(verb: &str, arguments: &mut Arguments) -> Result<Option<JoinTokenCommand>, String> {
    if !verb.ends_with("-token") {
        return Ok(None);
    }
    let id = JoinTokenId(arguments.subject()?);
    let learner = match arguments.take("role").as_deref() {
        None => false,
        Some("learner") => true,
        Some(role) => return Err(format!("role: `{role}`")),
    };
    let command = match verb {
        "create-token" => JoinTokenCommand::Create {
            id,
            secret: secret(arguments)?,
            learners_only: learner,
            ttl_ms: arguments.number("ttl_ms")?.ok_or("a ttl_ms is missing")?,
            uses_max: arguments.number("uses")?,
        },
        "spend-token" => JoinTokenCommand::Spend(Admission {
            id,
            secret: secret(arguments)?,
            address: arguments.take("address").ok_or("an address is missing")?.into(),
            learner,
        }),
        _ => JoinTokenCommand::Revoke { id },
    };
    Ok(Some(command))
}

/// A letter repeated: scripts have no SHA-256 and need none.
fn secret(arguments: &mut Arguments) -> Result<SecretDigest, String> {
    let text = arguments.take("secret").ok_or("a secret is missing")?;
    Ok(SecretDigest([text.bytes().next().unwrap_or(0); 32]))
}

pub(super) fn line(token: &JoinToken) -> String {
    let uses = token.uses_max.map_or_else(|| "any".to_owned(), |max| max.to_string());
    let role = if token.learners_only { " learners" } else { "" };
    let admitted = token.admitted.join(",");
    let id = token.id.0;
    format!("token {id}{role} until {} used {} of {uses} by [{admitted}]", token.expires_at, token.uses)
}
