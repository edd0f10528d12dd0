//! The signatures of one registration, made elsewhere: what is signed here is what others sign.

use rollcall_signature::{PublicKey, Signature, SigningKey, statement};
use serde_json::{Map, Value};

fn vector() -> Value {
    serde_json::from_str(include_str!("vector.json")).expect("the vector is JSON")
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().unwrap_or_else(|| panic!("{name} is a text"))
}

fn request(vector: &Value) -> &Map<String, Value> {
    vector["request"].as_object().expect("an object")
}

#[test]
fn the_registration_is_signed_as_elsewhere() {
    let vector = vector();
    let request = request(&vector);
    let signed = statement::registration(request).expect("it has a canonical text");
    assert_eq!(signed, text(&vector, "signed_bytes_utf8"));
    assert_eq!(statement::id_of(&signed), text(&vector, "signed_bytes_sha256")[..32]);
    let key = PublicKey::parse(text(&vector["request"], "public_key")).expect("a key");
    let signature = Signature::parse(text(&vector["request"], "signature")).expect("a signature");
    assert!(key.verifies(signed.as_bytes(), &signature));
    assert!(!key.verifies(&signed.as_bytes()[1..], &signature));
}

#[test]
fn its_deregistration_is_signed_as_elsewhere() {
    let vector = vector();
    let request = &vector["request"];
    let signed = statement::deregistration(text(request, "id"), text(request, "owner"), text(request, "signature"));
    assert_eq!(signed, text(&vector["deregistration"], "signed_bytes_utf8"));
    let key = PublicKey::parse(text(request, "public_key")).expect("a key");
    let signature = Signature::parse(text(&vector["deregistration"], "deregistration_signature"));
    assert!(key.verifies(signed.as_bytes(), &signature.expect("a signature")));
}

#[test]
fn the_same_key_makes_the_same_signatures() {
    let vector = vector();
    let seed = text(&vector, "private_key_hex");
    let seed: Vec<u8> = (0..32).map(|n| u8::from_str_radix(&seed[2 * n..2 * n + 2], 16).expect("digits")).collect();
    // PKCS #8 of an Ed25519 key is its seed behind a head that is always the same.
    let head = [0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];
    let pem = pem::encode(&pem::Pem::new("PRIVATE KEY", [&head[..], &seed].concat()));
    let key = SigningKey::from_pem(&pem).expect("a key");
    let mut document = request(&vector).clone();
    document.remove("signature");
    document.remove("public_key");
    statement::sign_registration(&mut document, &key).expect("it has a canonical text");
    assert_eq!(document, *request(&vector));
}
