//! Signatures of registrations, checked before anything is brought into the log. Whose key counts the roll decides.

use axum::http::StatusCode;
use rollcall_api::RegisterRequest;
use rollcall_registry::OwnerKey;
use rollcall_signature::{KeyError, NotCanonical, PublicKey, Signature, statement};
use serde_json::Value;

use crate::fault::Faults;
use crate::reply::Failure;

const WITH_SIGNATURE: &str = "is required with a signature";

/// What a registration that bears a signature says, byte for byte. Read before the document is taken apart.
pub(crate) struct Claim(Result<String, NotCanonical>);

/// A registration whose signature is right.
pub(crate) struct Signed {
    pub(crate) key: OwnerKey,
    pub(crate) document: String,
}

impl Claim {
    /// None if there is no signature.
    pub(crate) fn of(document: &Value) -> Option<Self> {
        let document = document.as_object()?;
        document.get(statement::SIGNATURE).filter(|signature| !signature.is_null())?;
        Some(Self(statement::registration(document)))
    }

    /// Checks the signature. In the request key and signature are then spelled in the one way in which they are shown, and
    /// a registration that names no id has the one of its content.
    pub(crate) fn verify(self, request: &mut RegisterRequest) -> Result<Signed, Failure> {
        let mut faults = Faults::default();
        let mut read = |field: &str, fault: &dyn std::fmt::Display| faults.push(field, fault.to_string());
        let signature = request.signature.as_deref().map(Signature::parse);
        let signature = signature.and_then(|parsed| parsed.map_err(|error| read("signature", &error)).ok());
        let key = match request.public_key.as_deref().map(PublicKey::parse) {
            Some(parsed) => parsed.map_err(|error| read("public_key", &error)).ok(),
            None => {
                read("public_key", &WITH_SIGNATURE);
                None
            }
        };
        if request.owner.is_none() {
            read("owner", &format_args!("{WITH_SIGNATURE}: the key is the owner's"));
        }
        let document = self.0.map_err(|error| read(&error.path, &error)).ok();
        let (Some(signature), Some(key), Some(document), true) = (signature, key, document, faults.is_empty()) else {
            return Err(Failure::faulty(faults));
        };
        if !key.verifies(document.as_bytes(), &signature) {
            let detail = "Invalid service registration signature: it is not that of `public_key` over this request \
                          without `signature`, as canonical JSON (RFC 8785)";
            return Err(Failure::new(StatusCode::UNAUTHORIZED, "invalid_signature", detail));
        }
        request.id.get_or_insert_with(|| statement::id_of(&document));
        request.signature = Some(signature.to_string());
        request.public_key = Some(key.to_string());
        Ok(Signed { key: OwnerKey(*key.as_bytes()), document })
    }
}

/// Checks the signature under which an instance is to be taken off: its owner's, over it as it is registered now.
pub(crate) fn verify_removal(
    signature: &Signature,
    OwnerKey(key): OwnerKey,
    (id, owner, registration_signature): (&str, &str, &str),
) -> Result<(), Failure> {
    let statement = statement::deregistration(id, owner, registration_signature);
    let is_right = PublicKey::from_bytes(key).is_ok_and(|key| key.verifies(statement.as_bytes(), signature));
    if is_right { Ok(()) } else { Err(invalid_removal("it is not the owner's for this registration")) }
}

pub(crate) fn invalid_removal(why: &str) -> Failure {
    let detail = format!("Invalid deregistration signature: {why}");
    Failure::new(StatusCode::FORBIDDEN, "invalid_signature", detail)
}

/// A signature in a request, or the fault in how it is spelled.
pub(crate) fn parse(field: &str, text: &str) -> Result<Signature, Failure> {
    Signature::parse(text).map_err(|error: KeyError| Failure::fault(field, error.to_string()))
}

#[cfg(test)]
mod tests {
    use rollcall_signature::SigningKey;
    use serde_json::{Map, json};

    use super::*;
    use crate::parse::{self, TtlLimits};

    const TTL: TtlLimits = TtlLimits { ttl_ms_min: 1_000, ttl_ms_default: 30_000, ttl_ms_max: 86_400_000 };

    fn verified(document: Value) -> Result<(RegisterRequest, Signed), Failure> {
        let claim = Claim::of(&document).expect("a signature is there");
        let mut request = parse::register(document, TTL).map_err(Failure::faulty)?;
        let signed = claim.verify(&mut request)?;
        Ok((request, signed))
    }

    fn signed(mut document: Value, key: &SigningKey) -> Value {
        statement::sign_registration(document.as_object_mut().unwrap(), key).unwrap();
        document
    }

    fn document() -> Value {
        json!({"name": "web", "url": "http://a", "owner": "ann", "metadata": {"load": 0.5, "n": null}})
    }

    fn fields(document: Value) -> String {
        let failure = verified(document).err().expect("it has faults");
        assert_eq!((failure.status().as_u16(), failure.code()), (400, "invalid_request"));
        failure.detail().to_owned()
    }

    #[test]
    fn spellings_of_one_signature_are_one_registration_with_one_id() {
        let key = SigningKey::generate();
        let mut document = signed(document(), &key);
        let (request, once) = verified(document.clone()).unwrap();
        assert_eq!(request.id.as_deref().map(str::len), Some(32));
        let text = document["signature"].as_str().unwrap().trim_end_matches('=').replace('+', "-").replace('/', "_");
        document["signature"] = format!("ed25519:{text}").into();
        let (again, twice) = verified(document).unwrap();
        assert_eq!((request, once.key, once.document), (again, twice.key, twice.document));
    }

    #[test]
    fn whatever_is_changed_is_found_out() {
        let key = SigningKey::generate();
        let good = signed(document(), &key);
        let changed = [
            ("owner", json!("eve")),
            ("metadata", json!({"load": 0.5})),
            ("metadata", json!({"load": 0.50001, "n": null})),
            ("tags", json!([])),
            ("id", json!("another")),
            ("public_key", SigningKey::generate().public_key().to_string().into()),
            ("signature", key.sign(b"something else").to_string().into()),
        ];
        for (name, value) in changed {
            let mut bad = good.clone();
            bad[name] = value;
            let failure = verified(bad).err().unwrap_or_else(|| panic!("{name}"));
            assert_eq!((failure.status().as_u16(), failure.code()), (401, "invalid_signature"), "{name}");
        }
        // The order of members, and blanks, are not what is signed.
        let mut members: Vec<_> = good.as_object().unwrap().clone().into_iter().collect();
        members.reverse();
        assert!(verified(Value::Object(Map::from_iter(members))).is_ok());
    }

    #[test]
    fn every_fault_of_a_signature_is_named() {
        let detail = fields(
            json!({"name": "n", "url": "x:y", "signature": "?", "metadata": {"big": 9_007_199_254_740_993u64}}),
        );
        for part in ["signature must be 64 bytes", "public_key is required", "owner is required", "metadata.big "] {
            assert!(detail.contains(part), "{part} in {detail}");
        }
        let mut document = signed(document(), &SigningKey::generate());
        document["public_key"] = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=".into();
        assert!(fields(document).contains("public_key is no Ed25519 public key"));
    }

    #[test]
    fn what_bears_no_signature_claims_nothing() {
        assert!(Claim::of(&document()).is_none());
        assert!(Claim::of(&json!({"name": "n", "signature": null, "public_key": "x"})).is_none());
        assert!(Claim::of(&json!([])).is_none());
    }
}
