//! Signatures in scripts: keys and documents are words, and whoever names a key has signed by it.

use std::collections::BTreeMap;

use rollcall_registry::registration::Extras;
use rollcall_registry::state::{Restoring, SignaturesDelta};
use rollcall_registry::{
    OwnerKey, PinnedKey, SignatureCommand, SignatureKey, SignatureMode, SignatureRow, Signing, State, TenantId,
};

use super::arguments::Arguments;

/// What storage would hold of them.
#[derive(Default)]
pub(super) struct KeptSignatures(BTreeMap<SignatureKey, SignatureRow>);

impl KeptSignatures {
    /// Keeps a checkpoint's, and says what it wrote.
    pub(super) fn take(&mut self, SignaturesDelta { removed, put }: SignaturesDelta) -> Vec<String> {
        let mut said = Vec::new();
        for key in removed {
            assert!(self.0.remove(&key).is_some(), "{key:?} was removed, but had no row");
            said.push(format!("- {key:?}"));
        }
        for row in put {
            said.push(format!("+ {}", line(&row)));
            self.0.insert(row.key(), row);
        }
        said
    }

    pub(super) fn restore(&self, restoring: &mut Restoring) -> Result<(), String> {
        self.0.values().try_for_each(|row| restoring.signature(row.clone())).map_err(|error| error.to_string())
    }
}

/// A write of an operator, if it is one.
pub(super) fn command(
    verb: &str,
    tenant: &TenantId,
    arguments: &mut Arguments,
) -> Result<Option<SignatureCommand>, String> {
    let tenant = tenant.clone();
    Ok(Some(match verb {
        "signatures" => SignatureCommand::SetMode {
            tenant,
            mode: match arguments.subject::<String>()?.as_str() {
                "default" => None,
                word => Some(word.parse::<SignatureMode>().map_err(|error| error.to_string())?),
            },
        },
        "put-key" => SignatureCommand::PutKey {
            tenant,
            owner: owner(arguments)?,
            key: key(&arguments.take("key").ok_or("a key is missing")?),
        },
        "remove-key" => SignatureCommand::RemoveKey { tenant, owner: owner(arguments)? },
        _ => return Ok(None),
    }))
}

/// The owner's name; `filler:N` is one of N bytes.
fn owner(arguments: &mut Arguments) -> Result<Box<str>, String> {
    let owner: String = arguments.subject()?;
    Ok(match owner.strip_prefix("filler:").and_then(|n| n.parse().ok()) {
        Some(bytes) => "x".repeat(bytes).into(),
        None => owner.into(),
    })
}

/// None if the write says nothing of signatures.
pub(super) fn signing(arguments: &mut Arguments) -> Result<Option<Signing>, String> {
    let (mode, by) = (arguments.word::<SignatureMode>("mode")?, arguments.take("key"));
    let key = by.map(|word| key(&word));
    Ok((mode.is_some() || key.is_some()).then(|| Signing { mode: mode.unwrap_or_default(), key }))
}

/// `document=` is what was signed, `signature=` the text of a signature.
pub(super) fn extras(arguments: &mut Arguments, mut extras: Extras) -> Extras {
    if let Some(document) = arguments.take("document") {
        extras.keep_signed(&document);
    }
    extras.signature = arguments.take("signature").map(Into::into);
    extras
}

fn key(word: &str) -> OwnerKey {
    OwnerKey([word.bytes().next().unwrap_or(0); 32])
}

fn key_word(key: OwnerKey) -> char {
    char::from(key.0[0])
}

fn line(row: &SignatureRow) -> String {
    match row {
        SignatureRow::Mode { tenant, mode } => format!("signatures of {tenant}: {mode}"),
        SignatureRow::Key(pinned) => key_line(pinned),
    }
}

fn key_line(pinned: &PinnedKey) -> String {
    let PinnedKey { tenant, owner, key, pinned_at, retired } = pinned;
    let owner = if owner.len() > 64 { "long" } else { owner };
    format!("key of {owner} in {tenant}: {} since {pinned_at}, {} retired", key_word(*key), retired.len())
}

pub(super) fn answer(key: OwnerKey) -> String {
    format!("key {}", key_word(key))
}

pub(super) fn list(state: &State, arguments: &mut Arguments) -> Result<Vec<String>, String> {
    let (tenant, after) = (arguments.tenant()?, arguments.take("after").unwrap_or_default());
    let mode = state.signature_mode(&tenant).map_or("default", SignatureMode::as_str);
    let mut said = vec![format!("signatures: {mode}, {} keys in all", state.owner_key_count())];
    said.extend(state.owner_keys(&tenant, &after).map(|pinned| key_line(pinned)));
    Ok(said)
}
