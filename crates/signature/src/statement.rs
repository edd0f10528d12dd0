//! What is signed, byte for byte.

use aws_lc_rs::digest;
use serde_json::{Map, Value, json};

use crate::canonical::{NotCanonical, canonical};
use crate::key::SigningKey;

/// The member of a registration that holds its signature.
pub const SIGNATURE: &str = "signature";

/// The member of a registration that holds the key that it is signed by. It is signed along.
pub const PUBLIC_KEY: &str = "public_key";

/// Hexadecimal digits of the id of a registration that names none.
const ID_DIGITS: usize = 32;

/// Of a registration: the document as it is sent, without its signature.
///
/// # Errors
/// As [`canonical`].
pub fn registration(document: &Map<String, Value>) -> Result<String, NotCanonical> {
    let mut signed = document.clone();
    signed.shift_remove(SIGNATURE);
    canonical(&Value::Object(signed))
}

/// Of a deregistration. It names the signature of the registration that is to be taken off, so that it is good for no
/// other one of the same id.
pub fn deregistration(id: &str, owner: &str, registration_signature: &str) -> String {
    let statement = json!({
        "action": "deregister", "id": id, "owner": owner, "registration_signature": registration_signature,
    });
    canonical(&statement).expect("it holds no number")
}

/// The id of a registration that names none: what the bytes that were signed hash to, so that it is the same when the
/// registration is sent again.
pub fn id_of(signed: &str) -> String {
    let hash = digest::digest(&digest::SHA256, signed.as_bytes());
    let digits: String = hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    digits[..ID_DIGITS].to_owned()
}

/// Signs a registration by a key: puts in its public key and the signature, in place of what stood there.
///
/// # Errors
/// As [`canonical`].
pub fn sign_registration(document: &mut Map<String, Value>, key: &SigningKey) -> Result<(), NotCanonical> {
    document.insert(PUBLIC_KEY.to_owned(), key.public_key().to_string().into());
    let signature = key.sign(registration(document)?.as_bytes());
    document.insert(SIGNATURE.to_owned(), signature.to_string().into());
    Ok(())
}
