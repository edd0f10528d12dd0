//! What operators and orchestrators rely on.

use reqwest::Method;
use serde_json::{Value, json};

use crate::node::{Node, answer};

#[tokio::test]
async fn health_names_its_checks() {
    let node = Node::start().await;
    assert_eq!(node.get("/livez").await.status, 200);
    let ready = node.get("/readyz").await.body;
    assert_eq!(
        (&ready["status"], &ready["checks"], &ready["warnings"]),
        (&json!("ready"), &Value::Null, &Value::Null)
    );
    for path in ["/readyz?verbose", "/readyz?verbose=true"] {
        let verbose = node.get(path).await;
        let checks = verbose.body["checks"].as_array().unwrap();
        assert!(checks.iter().all(|check| check["ok"] == true), "{verbose:?}");
        assert!(checks.iter().any(|check| check["name"] == "leader"), "{verbose:?}");
    }
}

#[tokio::test]
async fn status_and_digest_are_those_of_the_state() {
    let node = Node::start().await;
    let registered = node.register(json!({"id": "a", "name": "n", "url": "http://a"})).await;
    let status = node.get("/api/cluster/status").await.body;
    assert_eq!(status["revision"], registered.revision());
    assert_eq!(status["leader_id"], status["node_id"]);
    assert_eq!(status["members"].as_array().unwrap().len(), 1);
    assert_eq!(status["members"][0]["role"], "voter");
    let api_address = status["members"][0]["api_address"].as_str().unwrap();
    assert_eq!(format!("http://{api_address}"), node.base, "the real port is advertised");

    let digest = node.get("/api/cluster/digest").await;
    assert_eq!(digest.body["digest"].as_str().unwrap().len(), 32);
    let index = digest.body["applied_index"].as_u64().unwrap();
    let same = node.get(&format!("/api/cluster/digest?index={index}")).await;
    assert_eq!(same.body, digest.body);
    let later = format!("/api/cluster/digest?index={}", index + 1_000_000);
    let later = answer(node.request(Method::GET, &later).header("X-Request-Timeout-Ms", "50")).await;
    assert_eq!((later.status, later.code()), (504, "index_not_reached"));
}

#[tokio::test]
async fn requests_keep_their_name_and_trace() {
    let node = Node::start().await;
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let request = node.request(Method::GET, "/api/services/x");
    let named = answer(request.header("X-Request-ID", "abc-1").header("traceparent", trace)).await;
    assert_eq!((named.header("x-request-id"), named.header("traceparent")), ("abc-1", trace));
    assert_eq!(named.body["request_id"], "abc-1");
    assert!(!named.header("rollcall-node").is_empty());
    let unnamed = answer(node.request(Method::GET, "/livez").header("X-Request-ID", "x".repeat(129))).await;
    assert_eq!(unnamed.header("x-request-id").len(), 36);
}

#[tokio::test]
async fn the_contract_is_served() {
    let node = Node::start().await;
    let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/openapi.json");
    let golden: Value = serde_json::from_str(&std::fs::read_to_string(golden).unwrap()).unwrap();
    assert_eq!(node.get("/openapi.json").await.body, golden);
}

#[tokio::test]
async fn a_restart_keeps_the_roll() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start_in(dir.path()).await;
    let registered = node.register(json!({"id": "a", "name": "n", "url": "http://a", "ttl_ms": 600_000})).await;
    assert_eq!(registered.status, 201);
    node.stop().await.unwrap();
    let node = Node::start_in(dir.path()).await;
    let read = node.get("/api/services/a").await;
    assert_eq!((read.status, &read.body["revision"]), (200, &registered.body["revision"]));
    node.stop().await.unwrap();
}
