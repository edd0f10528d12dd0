//! What an instance says, what operators order, and the status that comes of it.

use reqwest::Method;
use serde_json::{Value, json};

use crate::events::Events;
use crate::node::{Answer, Node, answer};

async fn put(node: &Node, path: &str, body: Value) -> Answer {
    answer(node.request(Method::PUT, path).json(&body)).await
}

async fn registered(node: &Node, id: &str) -> u64 {
    let body = json!({"id": id, "name": "web", "url": "http://a", "ttl_ms": 60_000});
    let registered = node.register(body).await;
    assert_eq!(registered.status, 201, "{registered:?}");
    registered.revision()
}

#[tokio::test]
async fn an_order_stands_until_an_operator_lifts_it() {
    let node = Node::start().await;
    let revision = registered(&node, "a").await;
    assert!(node.get("/api/services/a").await.body.get("reported_status").is_none());

    let ordered = put(&node, "/api/services/a/maintenance", json!({"reason": "a new disk"})).await;
    assert_eq!((ordered.status, ordered.revision()), (200, revision + 1), "{ordered:?}");
    assert_eq!(ordered.body["status"], "maintenance");
    assert_eq!((&ordered.body["changed"], &ordered.body["present"]), (&json!(true), &json!(true)));
    assert_eq!(ordered.body["operator"]["maintenance"]["reason"], "a new disk");
    let again = put(&node, "/api/services/a/maintenance", json!({"reason": "a new disk"})).await;
    assert_eq!((&again.body["changed"], again.revision()), (&json!(false), revision + 1));

    let beat = node.post("/api/services/a/heartbeat", &json!({"status": "degraded"})).await;
    assert_eq!(beat.revision(), revision + 2);
    let shown = node.get("/api/services/a").await.body;
    assert_eq!((&shown["status"], &shown["reported_status"]), (&json!("maintenance"), &json!("degraded")));
    assert_eq!(shown["operator"]["maintenance"]["reason"], "a new disk");
    assert!(shown["operator"].get("drain").is_none());

    // It outlives the instance and what is registered in its place.
    assert_eq!(node.delete("/api/services/a").await.status, 200);
    let orders = node.get("/api/orders?consistency=linearizable").await;
    assert_eq!(orders.body["orders"][0]["service_id"], "a");
    assert_eq!(orders.body["orders"][0]["present"], false);
    registered(&node, "a").await;
    assert_eq!(node.get("/api/services?status=maintenance").await.body["total_count"], 1);
    assert_eq!(node.get("/api/services?status=active").await.body["total_count"], 0);

    let lifted = node.delete("/api/services/a/maintenance").await;
    assert_eq!(
        (lifted.status, &lifted.body["status"], &lifted.body["changed"]),
        (200, &json!("active"), &json!(true))
    );
    assert_eq!(node.delete("/api/services/a/maintenance").await.body["changed"], false);
    assert_eq!(node.get("/api/orders").await.body["orders"], json!([]));
}

#[tokio::test]
async fn a_drain_is_over_when_its_instance_has_gone() {
    let node = Node::start().await;
    registered(&node, "a").await;
    assert_eq!(answer(node.request(Method::PUT, "/api/services/a/drain")).await.body["status"], "maintenance");
    assert_eq!(node.delete("/api/services/a").await.status, 200);
    registered(&node, "a").await;
    assert_eq!(node.get("/api/services/a").await.body["status"], "active");
}

#[tokio::test]
async fn orders_are_refused_by_name() {
    let node = Node::start().await;
    for path in ["/api/services/a/maintenance", "/api/services/a/drain"] {
        let refused = put(&node, path, json!({})).await;
        assert_eq!((refused.status, refused.code()), (404, "not_found"));
        assert_eq!(node.delete(path).await.code(), "not_found");
        let faulty = put(&node, path, json!({"reason": "x".repeat(257), "why": 1})).await;
        assert_eq!((faulty.status, faulty.faults()), (400, vec!["reason", "why"]));
    }
    assert_eq!(node.get("/api/services/a/maintenance").await.status, 405);
    assert_eq!(node.get("/api/orders?limit=1").await.faults(), ["limit"]);
}

#[tokio::test]
async fn a_watcher_is_told_each_change_of_the_shown_status_once() {
    let node = Node::start().await;
    let begin = registered(&node, "a").await;
    put(&node, "/api/services/a/maintenance", json!({})).await;
    node.post("/api/services/a/heartbeat", &json!({"status": "error"})).await;
    put(&node, "/api/services/a/maintenance", json!({"reason": "more"})).await;
    node.delete("/api/services/a/maintenance").await;
    node.post("/api/services/a/heartbeat", &json!({"status": "active", "metadata": {"load": 1}})).await;
    let mut told = Events::of(&node, &format!("?from_revision={begin}")).await;
    let mut changes = Vec::new();
    while changes.len() < 5 {
        let event = told.next().await.expect("the stream goes on");
        if event.event == "change" {
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            changes.push((text(&event.data["update_type"]), text(&event.data["service"]["status"])));
        }
    }
    let expected = [
        ("status_changed", "maintenance"),
        ("updated", "maintenance"),
        ("updated", "maintenance"),
        ("status_changed", "error"),
        ("status_changed", "active"),
    ];
    assert_eq!(changes, expected.map(|(kind, status)| (kind.to_owned(), status.to_owned())));
}
