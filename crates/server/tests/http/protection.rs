//! Protection from a mass expiry, as clients are told of it.

use reqwest::Method;
use serde_json::{Value, json};

use crate::events::Events;
use crate::node::{Answer, Node, answer};

async fn put(node: &Node, body: Value) -> Answer {
    answer(node.request(Method::PUT, "/api/protection").json(&body)).await
}

#[tokio::test]
async fn it_is_off_until_an_operator_says_otherwise() {
    let node = Node::start().await;
    let off = node.get("/api/protection").await.body;
    assert_eq!((off.get("protection"), &off["in_force"], &off["begun"]), (None, &json!(false), &json!(0)));
    let set = put(&node, json!({"share": 0.25})).await;
    let rule = json!({"share": 0.25, "window_ms": 60_000, "release_per_minute": 60, "leases_min": 10});
    assert_eq!((set.status, &set.body["protection"]), (200, &rule), "{set:?}");
    assert_eq!(node.get("/api/protection").await.body["protection"], rule);
    let faulty = put(&node, json!({"share": 1, "window_ms": 1, "leases": 1})).await;
    assert_eq!((faulty.status, faulty.faults()), (400, vec!["share", "window_ms", "leases"]));
    assert_eq!(put(&node, json!({"share": 0.5, "release_per_minute": 6_001})).await.faults(), ["release_per_minute"]);
    assert_eq!(node.get("/api/protection/release").await.status, 405);
    assert_eq!(node.post("/api/protection/release", &json!(null)).await.status, 200);
    assert!(node.delete("/api/protection").await.body.get("protection").is_none());
    assert_eq!(node.get("/api/protection?x=1").await.faults(), ["x"]);
}

#[tokio::test]
async fn watchers_and_metrics_tell_of_suspects() {
    let node = Node::start().await;
    put(&node, json!({"share": 0.5, "window_ms": 5_000, "release_per_minute": 1, "leases_min": 2})).await;
    let mut leases = Vec::new();
    for id in ["a", "b", "c"] {
        let body =
            json!({"id": id, "name": "web", "url": "http://a", "ttl_ms": if id == "c" { 60_000 } else { 1_000 }});
        leases.push(node.register(body).await.body["lease"]["id"].clone());
    }
    let mut told = Events::of(&node, "?from_revision=3").await;
    let mut change = async || {
        loop {
            let event = told.next().await.expect("the stream goes on");
            if event.event == "change" {
                let service = &event.data["service"];
                break json!([event.data["update_type"], service["id"], service["status"], service["suspect"]]);
            }
        }
    };
    assert_eq!(change().await, json!(["status_changed", "a", "active", true]));
    assert_eq!(change().await, json!(["status_changed", "b", "active", true]));
    let shown = node.get("/api/services/a").await.body;
    assert_eq!((&shown["suspect"], &shown["lease"]["expires_in_ms"]), (&json!(true), &json!(0)));
    let metrics = node.request(Method::GET, "/metrics").send().await.expect("an answer").text().await.expect("text");
    for line in ["rollcall_suspects 2.0", "rollcall_tenants_protected 1.0", "rollcall_suspicions_total 2.0"] {
        assert!(metrics.lines().any(|found| found == line), "{line} is not in {metrics}");
    }
    // Back by a heartbeat, under its lease.
    node.post("/api/heartbeats", &json!({"leases": [leases[0]]})).await;
    assert_eq!(change().await, json!(["status_changed", "a", "active", null]));
    node.post("/api/protection/release", &json!({})).await;
    assert_eq!(change().await, json!(["expired", "b", "active", true]));
}
