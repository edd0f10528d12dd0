//! `rollcall sign`.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use rollcall_client::Client;
use rollcall_signature::{SigningKey, statement};
use serde::Serialize;
use serde_json::{Map, Value, json};
use zeroize::Zeroizing;

use super::register::read_document;
use crate::args::{Global, Sign, SignKey, SignStep};
use crate::failure::Failure;
use crate::output::{self, Format};

/// In the metadata of a registration: when it was signed.
const SIGNED_AT: &str = "signed_at_ms";

#[derive(Serialize)]
struct Key {
    public_key: String,
}

#[derive(Serialize)]
struct Deregistration {
    deregistration_signature: String,
}

pub(super) fn run(args: Sign, format: Format) -> Result<(), Failure> {
    match args.step {
        None => {
            let (Some(file), Some(key)) = (args.file, args.key) else {
                return Err(Failure::Usage { what: "name a registration, and a key with --key".to_owned() });
            };
            let document = signed(read_document(&file)?, &read_key(&key)?, args.stamp)?;
            // It is JSON in either form: it is what is registered.
            output::show(Format::Json, &document, |_| String::new())
        }
        Some(SignStep::Keygen { file }) => {
            let key = SigningKey::generate();
            write_new(&file, key.to_pem().as_bytes())?;
            show_public(&key, format)
        }
        Some(SignStep::PublicKey { file }) => show_public(&read_key(&file)?, format),
        Some(SignStep::Deregistration { id, owner, registration_signature, key }) => {
            let statement = statement::deregistration(&id, &owner, &registration_signature);
            let deregistration_signature = read_key(&key)?.sign(statement.as_bytes()).to_string();
            output::show(format, &Deregistration { deregistration_signature }, |signed| {
                format!("{}\n", signed.deregistration_signature)
            })
        }
    }
}

/// A client that signs, if a key is named.
pub(super) fn client(global: &Global, key: &SignKey) -> Result<Client, Failure> {
    let Some(path) = &key.sign_key else { return super::client(global) };
    let pem = std::fs::read_to_string(path).map_err(|source| Failure::ReadFile { path: path.clone(), source })?;
    super::build(super::builder(global, global.tenant.as_deref())?.signing_key(&Zeroizing::new(pem)))
}

fn signed(mut document: Map<String, Value>, key: &SigningKey, stamp: bool) -> Result<Value, Failure> {
    if stamp {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let metadata = document.entry("metadata").or_insert_with(|| json!({}));
        if let Some(metadata) = metadata.as_object_mut() {
            metadata.insert(SIGNED_AT.to_owned(), u64::try_from(now.as_millis()).unwrap_or(u64::MAX).into());
        }
    }
    statement::sign_registration(&mut document, key).map_err(|source| Failure::Sign { source })?;
    Ok(Value::Object(document))
}

fn show_public(key: &SigningKey, format: Format) -> Result<(), Failure> {
    let key = Key { public_key: key.public_key().to_string() };
    output::show(format, &key, |key| format!("{}\n", key.public_key))
}

fn read_key(path: &Path) -> Result<SigningKey, Failure> {
    let text = std::fs::read_to_string(path).map_err(|source| Failure::ReadFile { path: path.to_owned(), source })?;
    SigningKey::from_pem(&Zeroizing::new(text))
        .map_err(|source| Failure::SigningKey { path: path.to_owned(), source })
}

fn write_new(path: &Path, text: &[u8]) -> Result<(), Failure> {
    let written = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let written = written.and_then(|mut file| file.write_all(text).and_then(|()| file.sync_all()));
    written.map_err(|source| match source.kind() {
        io::ErrorKind::AlreadyExists => Failure::KeyExists { path: path.to_owned() },
        _ => Failure::WriteFile { path: path.to_owned(), source },
    })
}
