//! Where alerts go, as operators say it.

use reqwest::Method;
use serde_json::{Value, json};

use crate::node::{Answer, Node, answer};

async fn put(node: &Node, path: &str, body: Value) -> Answer {
    answer(node.request(Method::PUT, path).json(&body)).await
}

#[tokio::test]
async fn targets_are_set_shown_without_their_secrets_and_removed() {
    let node = Node::start().await;
    assert_eq!(node.get("/api/alerts").await.body["targets"], json!([]));
    let set = put(&node, "/api/alerts/pager", json!({"url": "https://hooks.example.org/x"})).await;
    assert_eq!(set.status, 200, "{set:?}");
    let secret = set.body["secret"].as_str().expect("one is made up").to_owned();
    assert_eq!(secret.len(), 64);
    let shown = node.get("/api/alerts").await.body;
    let expected = json!({"name": "pager", "url": "https://hooks.example.org/x", "format": "json",
        "interval_ms": 60_000, "told_revision": 0});
    assert_eq!(shown["targets"], json!([expected]));
    assert!(!shown.to_string().contains(&secret));
    // The secret stays unless another is said, and none that was said is told.
    let again = put(&node, "/api/alerts/pager", json!({"url": "https://hooks.example.org/y"})).await;
    assert!(again.body.get("secret").is_none());
    let said = json!({"url": "https://a.example.org", "secret": "0123456789abcdef", "format": "alertmanager"});
    assert!(put(&node, "/api/alerts/chat", said).await.body.get("secret").is_none());
    assert_eq!(node.delete("/api/alerts/chat").await.body, json!({"name": "chat", "removed": true}));
    assert_eq!(node.delete("/api/alerts/chat").await.body["removed"], false);
    for n in 0..7 {
        put(&node, &format!("/api/alerts/t{n}"), json!({"url": "https://a.example.org"})).await;
    }
    let full = put(&node, "/api/alerts/more", json!({"url": "https://a.example.org"})).await;
    assert_eq!((full.status, full.code()), (409, "too_many_rulings"));
}

#[tokio::test]
async fn targets_are_refused_by_name() {
    let node = Node::start().await;
    for url in ["", "pager", "ftp://a.example.org", "http://127.0.0.1:1/", "http://[::1]/", "http://10.1.2.3/"] {
        let refused = put(&node, "/api/alerts/pager", json!({ "url": url })).await;
        assert_eq!((refused.status, refused.faults()), (400, vec!["url"]), "{url}");
    }
    let long = format!("https://a.example.org/{}", "x".repeat(1_024));
    assert_eq!(put(&node, "/api/alerts/pager", json!({ "url": long })).await.faults(), ["url"]);
    let faulty = json!({"url": "https://a.example.org", "secret": "short", "format": "xml", "x": 1});
    assert_eq!(put(&node, "/api/alerts/pager", faulty).await.faults(), ["format", "secret", "x"]);
    let named = put(&node, "/api/alerts/a%20b", json!({"url": "https://a.example.org"})).await;
    assert_eq!(named.faults(), ["name"]);
    assert_eq!(node.get("/api/alerts/pager").await.status, 405);
    let unknown = node.post("/api/alerts/pager/test", &json!(null)).await;
    assert_eq!((unknown.status, unknown.code()), (404, "not_found"));
}
