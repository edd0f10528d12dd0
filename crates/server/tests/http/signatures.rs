//! Signed registrations: whose key counts, what is refused, and that every contract keeps to it.

use reqwest::Method;
use rollcall_server::Settings;
use rollcall_server::config::Signatures;
use rollcall_signature::{PublicKey, Signature, SigningKey, statement};
use serde_json::{Value, json};

use crate::node::{Answer, Node, answer};

fn vector() -> Value {
    serde_json::from_str(include_str!("../../../signature/tests/vector.json")).expect("the vector is JSON")
}

fn signed(mut body: Value, key: &SigningKey) -> Value {
    statement::sign_registration(body.as_object_mut().expect("an object"), key).expect("a canonical text");
    body
}

fn body(id: &str, owner: &str, url: &str) -> Value {
    json!({"id": id, "name": "web", "url": url, "owner": owner, "visibility": "public"})
}

fn removal(registered: &Answer, key: &SigningKey) -> Value {
    let service = &registered.body["service"];
    let text = |name: &str| service[name].as_str().expect("a text");
    let statement = statement::deregistration(text("id"), text("owner"), text("signature"));
    json!({"deregistration_signature": key.sign(statement.as_bytes()).to_string()})
}

async fn delete(node: &Node, path: &str, body: &Value) -> Answer {
    answer(node.request(Method::DELETE, path).json(body)).await
}

fn said(answer: &Answer) -> (u16, &str) {
    (answer.status, answer.code())
}

#[tokio::test]
async fn the_vector_lives_its_life() {
    let node = Node::start().await;
    let vector = vector();
    let request = &vector["request"];
    let registered = node.register(request.clone()).await;
    assert_eq!(registered.status, 201, "{registered:?}");
    for name in ["signature", "public_key", "owner"] {
        assert_eq!(registered.body["service"][name], request[name]);
    }
    let again = node.register(request.clone()).await;
    assert_eq!((again.status, again.revision()), (200, registered.revision()), "sent again it is a renewal");

    // What a heartbeat reports stays apart from what was signed.
    let beat = node.post("/api/services/svc-1/heartbeat", &json!({"metadata": {"load": 1}})).await;
    assert_eq!(beat.status, 200);
    let evidence = node.get("/api/services/svc-1/signature").await;
    assert_eq!(evidence.body["signed_document"], vector["signed_bytes_utf8"]);
    let text = |name: &str| evidence.body[name].as_str().expect("a text");
    let (key, signature) = (PublicKey::parse(text("public_key")), Signature::parse(text("signature")));
    assert!(key.expect("a key").verifies(text("signed_document").as_bytes(), &signature.expect("a signature")));
    let keys = node.get("/api/owner-keys").await;
    assert_eq!(keys.body["owner_keys"][0]["owner"], "agent-7");
    assert_eq!(keys.body["owner_keys"][0]["public_key"], request["public_key"]);

    assert_eq!(said(&node.delete("/api/services/svc-1").await), (403, "signature_required"));
    let removal = json!({"deregistration_signature": vector["deregistration"]["deregistration_signature"]});
    let gone = delete(&node, "/api/services/svc-1", &removal).await;
    assert_eq!((gone.status, &gone.body["deregistered"]), (200, &json!(true)));
    assert_eq!(said(&node.register(request.clone()).await), (403, "signature_replayed"));
    assert_eq!(node.get("/api/services").await.body["total_count"], 0);
}

#[tokio::test]
async fn a_wrong_signature_is_refused_and_leaves_nothing() {
    let node = Node::start().await;
    let key = SigningKey::generate();
    let good = signed(body("a", "ann", "http://a"), &key);
    let mut changed = good.clone();
    changed["url"] = "http://evil".into();
    let refused = node.register(changed).await;
    assert_eq!(said(&refused), (401, "invalid_signature"));
    assert!(refused.body["detail"].as_str().expect("a text").starts_with("Invalid service registration signature"));
    assert_eq!(refused.header("www-authenticate"), "Ed25519");

    let mut faulty = good.clone();
    for name in ["public_key", "owner"] {
        faulty.as_object_mut().expect("an object").remove(name);
    }
    let refused = node.register(faulty).await;
    assert_eq!((refused.status, refused.faults()), (400, vec!["public_key", "owner"]));
    let mut faulty = good.clone();
    (faulty["signature"], faulty["public_key"]) = ("c2hvcnQ=".into(), "no key".into());
    assert_eq!(node.register(faulty).await.faults(), ["signature", "public_key"]);
    assert_eq!(node.get("/api/owner-keys").await.body["owner_keys"], json!([]));
    assert_eq!(node.get("/api/services").await.body["total_count"], 0);
}

#[tokio::test]
async fn nobody_takes_over_what_an_owner_signed() {
    let node = Node::start().await;
    let (ann, eve) = (SigningKey::generate(), SigningKey::generate());
    let registered = node.register(signed(body("a", "ann", "http://a"), &ann)).await;
    for (attempt, expected) in [
        (body("a", "ann", "http://evil"), (403, "signature_required")),
        (body("b", "ann", "http://evil"), (403, "signature_required")),
        (json!({"id": "a", "name": "web", "url": "http://evil"}), (403, "owner_mismatch")),
        (signed(body("a", "ann", "http://evil"), &eve), (403, "owner_key_mismatch")),
        (signed(body("a", "eve", "http://evil"), &eve), (403, "owner_mismatch")),
    ] {
        let refused = node.register(attempt.clone()).await;
        assert_eq!(said(&refused), expected, "{attempt}");
        assert!(refused.body.get("current_revision").is_none());
    }
    let soorma = json!({"agent": {"agentId": "a", "name": "web:1", "description": "", "capabilities": []}});
    let refused = node.post("/v1/agents", &soorma).await;
    assert_eq!((refused.status, refused.body["detail"].is_string()), (403, true), "{refused:?}");
    assert_eq!(answer(node.request(Method::DELETE, "/v1/agents/a")).await.status, 403);
    assert_eq!(node.get("/api/services/a").await.revision(), registered.revision(), "nothing was written");

    // The owner's replacement, and what it replaced.
    let first = signed(body("a", "ann", "http://a"), &ann);
    let replaced = node.register(signed(body("a", "ann", "http://b"), &ann)).await;
    assert_eq!(replaced.status, 200, "{replaced:?}");
    assert_eq!(said(&node.register(first).await), (403, "signature_replayed"));

    // A deregistration is for one registration, and by its owner.
    let refused = delete(&node, "/api/services/a", &removal(&registered, &ann)).await;
    assert_eq!(said(&refused), (403, "invalid_signature"), "it was signed for the registration before");
    assert_eq!(said(&delete(&node, "/api/services/a", &removal(&replaced, &eve)).await), (403, "invalid_signature"));
    let misspelled = delete(&node, "/api/services/a", &json!({"deregistration_signature": "?"})).await;
    assert_eq!((misspelled.status, misspelled.faults()), (400, vec!["deregistration_signature"]));
    let lease = registered.body["lease"]["id"].as_u64().expect("a lease");
    let stale = delete(&node, &format!("/api/services/a?lease_id={lease}"), &removal(&replaced, &ann)).await;
    assert_eq!(said(&stale), (409, "lease_superseded"));
    assert_eq!(delete(&node, "/api/services/a", &removal(&replaced, &ann)).await.status, 200);
    let unknown = delete(&node, "/api/services/a", &removal(&replaced, &ann)).await;
    assert_eq!(said(&unknown), (404, "not_found"));
}

#[tokio::test]
async fn a_registration_without_id_has_that_of_its_content() {
    let node = Node::start().await;
    let key = SigningKey::generate();
    let mut document = body("", "ann", "http://a");
    document.as_object_mut().expect("an object").remove("id");
    let document = signed(document, &key);
    let first = node.register(document.clone()).await;
    let members = document.as_object().expect("an object");
    let id = statement::id_of(&statement::registration(members).expect("a canonical text"));
    assert_eq!((first.status, &first.body["registration_id"]), (201, &json!(id)));
    let again = node.register(document).await;
    assert_eq!((again.status, again.revision()), (200, first.revision()), "a retry makes no second instance");
}

#[tokio::test]
async fn a_tenant_may_require_signatures_of_every_contract() {
    let node = Node::start().await;
    let mode = async || node.get("/api/signatures").await.body;
    assert_eq!(mode().await, json!({"tenant": "default", "mode": "accepted", "own": false}));
    let put = async |body: Value| answer(node.request(Method::PUT, "/api/signatures").json(&body)).await;
    assert_eq!(put(json!({"mode": "sometimes"})).await.faults(), ["mode"]);
    assert_eq!(put(json!({})).await.faults(), ["mode"]);
    assert_eq!(put(json!({"mode": "required"})).await.status, 200);
    assert_eq!(mode().await, json!({"tenant": "default", "mode": "required", "own": true}));

    assert_eq!(said(&node.register(body("a", "ann", "http://a")).await), (403, "signature_required"));
    let card = json!({"name": "agent", "description": "d", "url": "http://agent:1"});
    let refused = node.post("/agents", &card).await;
    assert_eq!(said(&refused), (403, "signature_required"));
    let soorma = json!({"agent": {"agentId": "s", "name": "s:1", "description": "", "capabilities": []}});
    let refused = node.post("/v1/agents", &soorma).await;
    assert_eq!((refused.status, refused.body["detail"].is_string()), (403, true));
    let other = node.request(Method::POST, "/api/services/register").header("X-Tenant-ID", "other");
    assert_eq!(answer(other.json(&body("a", "ann", "http://a"))).await.status, 201, "another tenant's is its own");
    assert_eq!(node.register(signed(body("a", "ann", "http://a"), &SigningKey::generate())).await.status, 201);

    assert_eq!(put(json!({"mode": "off"})).await.status, 200);
    let nonsense = json!({"id": "n", "name": "n", "url": "http://n", "signature": "s", "public_key": "k"});
    let registered = node.register(nonsense).await;
    assert_eq!(
        (registered.status, &registered.body["service"]["signature"]),
        (201, &json!("s")),
        "carried as it came"
    );
    assert_eq!(said(&node.get("/api/services/n/signature").await), (404, "not_signed"));
    assert_eq!(node.delete("/api/services/a").await.status, 200);
    let unset = node.delete("/api/signatures").await;
    assert_eq!(unset.body, json!({"tenant": "default", "mode": "accepted", "own": false}));
}

#[tokio::test]
async fn the_node_says_what_holds_where_a_tenant_says_nothing() {
    let settings = Settings { signatures: Some(Signatures::Required), ..Node::founder() };
    let node = Node::start_as(settings).await;
    assert_eq!(said(&node.register(body("a", "ann", "http://a")).await), (403, "signature_required"));
    assert_eq!(node.register(signed(body("a", "ann", "http://a"), &SigningKey::generate())).await.status, 201);
    let settings = Settings { signatures: Some(Signatures::Off), ..Node::founder() };
    let node = Node::start_as(settings).await;
    let nonsense = json!({"id": "n", "name": "n", "url": "http://n", "owner": "ann", "signature": "s"});
    assert_eq!(node.register(nonsense).await.status, 201);
    assert_eq!(delete(&node, "/api/services/n", &json!({"deregistration_signature": "?"})).await.status, 200);
}

#[tokio::test]
async fn operators_look_after_the_keys() {
    let node = Node::start().await;
    let (old, new) = (SigningKey::generate(), SigningKey::generate());
    let path = "/api/owner-keys/team%2Fann";
    assert_eq!(node.register(signed(body("a", "team/ann", "http://a"), &old)).await.status, 201);
    let put =
        async |path: &str, key: &str| answer(node.request(Method::PUT, path).json(&json!({"public_key": key}))).await;
    assert_eq!(put(path, "nonsense").await.faults(), ["public_key"]);
    assert_eq!(put("/api/owner-keys/a%0Ab", &new.public_key().to_string()).await.faults(), ["owner"]);
    let hex: String = new.public_key().as_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    let replaced = put(path, &format!("ed25519:{hex}")).await;
    assert_eq!(replaced.body["public_key"], new.public_key().to_string(), "{replaced:?}");
    let lost = node.register(signed(body("a", "team/ann", "http://b"), &old)).await;
    assert_eq!(said(&lost), (403, "owner_key_mismatch"));
    assert_eq!(node.register(signed(body("a", "team/ann", "http://b"), &new)).await.status, 200);

    for owner in ["b", "c"] {
        assert_eq!(put(&format!("/api/owner-keys/{owner}"), &hex).await.status, 200);
    }
    let page = node.get("/api/owner-keys?limit=2").await.body;
    assert_eq!((&page["owner_keys"][1]["owner"], &page["next_after"]), (&json!("c"), &json!("c")));
    let page = node.get("/api/owner-keys?limit=2&after=c").await.body;
    assert_eq!((&page["owner_keys"][0]["owner"], page.get("next_after")), (&json!("team/ann"), None));
    assert_eq!(node.get("/api/owner-keys?limit=0&x=1").await.faults(), ["limit", "x"]);

    assert_eq!(node.delete(path).await.body, json!({"owner": "team/ann", "removed": true}));
    assert_eq!(said(&node.delete(path).await), (404, "owner_key_not_found"));
    assert_eq!(node.delete("/api/services/a").await.status, 200, "nobody's any more");
}

#[tokio::test]
async fn keys_outlive_a_restart() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let node = Node::start_in(dir.path()).await;
    let key = SigningKey::generate();
    let first = signed(body("a", "ann", "http://a"), &key);
    assert_eq!(node.register(first.clone()).await.status, 201);
    assert_eq!(node.register(signed(body("a", "ann", "http://b"), &key)).await.status, 200);
    let required = node.request(Method::PUT, "/api/signatures").json(&json!({"mode": "required"}));
    assert_eq!(answer(required).await.status, 200);
    let digest = node.get("/api/cluster/digest").await.body["digest"].clone();
    node.stop().await.expect("a clean end");

    let node = Node::start_in(dir.path()).await;
    assert_eq!(said(&node.register(first).await), (403, "signature_replayed"));
    assert_eq!(said(&node.register(body("b", "bob", "http://b")).await), (403, "signature_required"));
    assert!(digest.is_string());
}
