//! `rollcall owner-key` and `rollcall signatures`.

use rollcall_api::{OwnerKeyInfo, OwnerKeysResponse, SignatureMode, SignaturesResponse};

use super::{attempt, client};
use crate::args::{Global, OwnerKey, Signatures};
use crate::failure::Failure;
use crate::output::{self, Table};

/// Owners asked for at once.
const PAGE: u32 = 1_000;

/// As the nodes are configured to.
const DEFAULT: &str = "default";

pub(super) async fn run(global: &Global, command: OwnerKey) -> Result<(), Failure> {
    let client = client(global)?;
    match command {
        OwnerKey::List => {
            let mut all = OwnerKeysResponse { owner_keys: Vec::new(), next_after: None };
            loop {
                let page = client.owner_keys(all.next_after.as_deref(), Some(PAGE)).await;
                let page = attempt("list the owners' keys", page)?;
                all.owner_keys.extend(page.owner_keys);
                all.next_after = page.next_after;
                if all.next_after.is_none() {
                    return output::show(global.output, &all, |all| list(&all.owner_keys));
                }
            }
        }
        OwnerKey::Replace { owner, public_key } => {
            let key = client.put_owner_key(&owner, &public_key).await;
            let key = attempt(format!("give `{owner}` a key"), key)?;
            output::show(global.output, &key, |key| {
                format!("the key of {} is {}\n", output::printable(&key.owner), key.public_key)
            })
        }
        OwnerKey::Remove { owner } => {
            let removed = attempt(format!("take the key of `{owner}` away"), client.remove_owner_key(&owner).await)?;
            output::show(global.output, &removed, |removed| {
                format!("{} has no key any more\n", output::printable(&removed.owner))
            })
        }
    }
}

pub(super) async fn signatures(global: &Global, args: &Signatures) -> Result<(), Failure> {
    let client = client(global)?;
    let answer = match args.mode.as_deref() {
        None => attempt("ask how signatures are taken", client.signatures().await)?,
        Some(word) => {
            let mode = match word {
                DEFAULT => None,
                word => Some(word.parse::<SignatureMode>().map_err(|error| Failure::Usage {
                    what: format!("`{}`: {error}, {DEFAULT}", output::printable(word)),
                })?),
            };
            attempt("have signatures taken otherwise", client.set_signatures(mode).await)?
        }
    };
    output::show(global.output, &answer, |SignaturesResponse { tenant, mode, own }| {
        let whence = if *own { "by its own choice" } else { "as the nodes are configured to" };
        format!("signatures are {mode} in tenant {tenant}, {whence}\n")
    })
}

fn list(keys: &[OwnerKeyInfo]) -> String {
    if keys.is_empty() {
        return "no owner has a key\n".to_owned();
    }
    let mut table = Table::new(&["OWNER", "PUBLIC KEY", "SINCE"]);
    keys.iter().for_each(|key| table.row(vec![key.owner.clone(), key.public_key.clone(), key.pinned_at.clone()]));
    table.render()
}
