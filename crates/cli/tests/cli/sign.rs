use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde_json::{Value, json};

use crate::support::{Stub, problem, rollcall, run, service};

fn path(dir: &Path, name: &str) -> String {
    dir.join(name).to_str().expect("a path").to_owned()
}

fn keygen(dir: &Path, name: &str) -> (String, String) {
    let file = path(dir, name);
    let (code, out, err) = run(&mut rollcall(&["sign", "keygen", &file]));
    assert_eq!(code, Some(0), "{err}");
    (file, out.trim().to_owned())
}

#[test]
fn a_key_is_made_once_and_is_its_owners() {
    let directory = tempfile::tempdir().expect("a directory");
    let (key, public) = keygen(directory.path(), "ann.pem");
    assert_eq!(public.len(), 44, "32 bytes in base64");
    let mode = std::fs::metadata(&key).expect("the key").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let (code, _, err) = run(&mut rollcall(&["sign", "keygen", &key]));
    assert_eq!(code, Some(4), "{err}");
    assert!(err.contains("is there already") && err.contains("nothing is overwritten"), "{err}");
    let (code, out, _) = run(&mut rollcall(&["sign", "public-key", &key, "-o", "json"]));
    let shown: Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!((code, &shown), (Some(0), &json!({"public_key": public})));

    let no_key = path(directory.path(), "none.pem");
    std::fs::write(&no_key, "no key").expect("a file");
    let (code, _, err) = run(&mut rollcall(&["sign", "public-key", &no_key]));
    assert_eq!(code, Some(1), "{err}");
    assert!(err.contains("PKCS #8") && err.contains("rollcall sign keygen"), "{err}");
}

#[test]
fn a_signed_registration_has_its_key_and_signature() {
    let directory = tempfile::tempdir().expect("a directory");
    let (key, public) = keygen(directory.path(), "ann.pem");
    let file = path(directory.path(), "web.json");
    let body = json!({"id": "web-1", "name": "web", "url": "http://a", "owner": "ann", "signature": "old"});
    std::fs::write(&file, body.to_string()).expect("a file");
    let sign = |more: &[&str]| run(&mut rollcall(&[&["sign", &file, "--key", &key], more].concat()));
    let (code, out, err) = sign(&[]);
    assert_eq!(code, Some(0), "{err}");
    let signed: Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!((&signed["public_key"], &signed["id"]), (&json!(public), &json!("web-1")));
    assert_ne!(signed["signature"], "old");
    assert_eq!(sign(&[]).1, out, "the same is signed alike");
    let stamped: Value = serde_json::from_str(&sign(&["--stamp"]).1).expect("JSON");
    assert!(stamped["metadata"]["signed_at_ms"].as_u64().is_some() && stamped["signature"] != signed["signature"]);

    let (code, _, err) = run(&mut rollcall(&["sign", &file]));
    assert_eq!(code, Some(2), "{err}");
    std::fs::write(&file, r#"{"metadata": {"n": 9007199254740993}}"#).expect("a file");
    let (code, _, err) = sign(&[]);
    assert_eq!(code, Some(1), "{err}");
    assert!(err.contains("sign the registration: metadata.n") && err.contains("must be a text"), "{err}");

    let of = ["--owner", "ann", "--registration-signature", "sig", "--key", &key];
    let (code, out, err) = run(&mut rollcall(&[&["sign", "deregistration", "web-1"][..], &of].concat()));
    assert_eq!((code, out.trim().len()), (Some(0), 88), "{err}");
}

#[test]
fn what_was_withdrawn_is_signed_anew_with_the_time() {
    let directory = tempfile::tempdir().expect("a directory");
    let (key, _) = keygen(directory.path(), "ann.pem");
    let (first, second) = (
        std::sync::atomic::AtomicBool::new(true),
        json!({
            "success": true, "registration_id": "web-1", "service": service("web-1"),
            "lease": {"id": 3, "ttl_ms": 3_000, "heartbeat_interval_ms": 1_000}, "revision": 3,
        }),
    );
    let stub = Stub::start(move |_| match first.swap(false, std::sync::atomic::Ordering::Relaxed) {
        true => (403, problem(403, "signature_replayed")),
        false => (201, second.clone()),
    });
    let arguments = ["register", "--id", "web-1", "--name", "web", "--url", "http://a", "--owner", "ann"];
    let with = ["--sign-key", &key, "--endpoint", &stub.endpoint];
    let (code, out, err) = run(&mut rollcall(&[&arguments[..], &with].concat()));
    assert_eq!(code, Some(0), "{err}");
    assert!(out.starts_with("registered web-1"), "{out}");
}

#[test]
fn owners_keys_are_listed_page_by_page_and_modes_have_names() {
    let key = |owner: &str| json!({"owner": owner, "public_key": "k", "pinned_at": "2026-01-01T00:00:00Z"});
    let stub = Stub::start(move |line| match line {
        _ if line.contains("after=a") => (200, json!({"owner_keys": [key("b")]})),
        _ if line.starts_with("GET /api/owner-keys") => (200, json!({"owner_keys": [key("a")], "next_after": "a"})),
        _ if line.starts_with("PUT /api/owner-keys/team%2Fann") => (200, key("team/ann")),
        _ if line.starts_with("DELETE /api/owner-keys/b") => (200, json!({"owner": "b", "removed": true})),
        _ if line.starts_with("PUT") => (200, json!({"tenant": "default", "mode": "required", "own": true})),
        _ if line.contains("/api/signatures") => (200, json!({"tenant": "default", "mode": "off", "own": false})),
        _ => (404, problem(404, "not_found")),
    });
    let say = |arguments: &[&str]| run(&mut rollcall(&[arguments, &["--endpoint", &stub.endpoint]].concat()));
    let (code, out, err) = say(&["owner-key", "list"]);
    assert_eq!(code, Some(0), "{err}");
    assert_eq!(out.lines().map(|line| &line[..1]).collect::<String>(), "Oab");
    assert_eq!(say(&["owner-key", "replace", "team/ann", "k"]).1, "the key of team/ann is k\n");
    assert_eq!(say(&["owner-key", "remove", "b"]).1, "b has no key any more\n");
    assert!(say(&["signatures"]).1.starts_with("signatures are off in tenant default, as the nodes"));
    assert!(say(&["signatures", "required"]).1.contains("required in tenant default, by its own choice"));
    let (code, _, err) = say(&["signatures", "sometimes"]);
    assert_eq!(code, Some(2));
    assert!(err.contains("off, accepted, required, default"), "{err}");
}
