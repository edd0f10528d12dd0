//! An instance's life: registered, renewed, replaced, removed.

use reqwest::Method;
use serde_json::{Value, json};

use crate::node::{Node, answer};

#[tokio::test]
async fn one_whole_life() {
    let node = Node::start().await;
    let body = json!({"id": "web-1", "name": "web", "url": "http://a:1", "tags": ["x"], "ttl_ms": 5000});

    let first = node.register(body.clone()).await;
    assert_eq!(first.status, 201, "{first:?}");
    assert_eq!(first.body["success"], true);
    assert_eq!(first.body["registration_id"], "web-1");
    let lease = first.body["lease"]["id"].as_u64().unwrap();
    assert_eq!(first.body["lease"], json!({"id": lease, "ttl_ms": 5000, "heartbeat_interval_ms": 1666}));
    assert_eq!(first.body["revision"], first.revision());
    assert_eq!(first.body["service"]["lease"]["id"], lease);

    let read = node.get("/api/services/web-1").await;
    assert_eq!((read.status, read.header("etag")), (200, &*format!("\"{}\"", first.revision())));
    assert_eq!(read.body["status"], "active");
    assert!(read.body["lease"]["expires_in_ms"].as_u64().unwrap() <= 5000);

    let again = node.register(body.clone()).await;
    assert_eq!((again.status, again.revision()), (200, first.revision()));
    assert_eq!(again.body["lease"]["id"], lease, "the same content is a renewal");

    let mut changed = body;
    changed["url"] = "http://b:1".into();
    let changed = node.register(changed).await;
    assert_eq!((changed.status, changed.revision()), (200, first.revision() + 1));
    let newer = changed.body["lease"]["id"].as_u64().unwrap();
    assert!(newer > lease);
    assert_eq!(changed.body["service"]["created_revision"], first.revision());

    let beat = answer(node.request(Method::POST, "/api/services/web-1/heartbeat")).await;
    assert_eq!(beat.status, 200, "{beat:?}");
    assert_eq!(beat.body["lease"], json!({"id": newer, "ttl_ms": 5000}));
    assert_eq!((&beat.body["service_id"], &beat.body["heartbeat_updated"]), (&json!("web-1"), &json!(true)));
    assert_eq!(beat.body["next_heartbeat_in_ms"], 1666);

    let old = node.post("/api/services/web-1/heartbeat", &json!({"lease_id": lease})).await;
    assert_eq!((old.status, old.code()), (409, "lease_superseded"));
    let old = node.delete(&format!("/api/services/web-1?lease_id={lease}")).await;
    assert_eq!((old.status, old.code()), (409, "lease_superseded"));

    let batch = node.post("/api/heartbeats", &json!({"leases": [newer, lease, 999_999, newer]})).await;
    assert_eq!(batch.body, json!({"renewed": 1, "not_found": [999_999], "superseded": [lease]}));

    let gone = node.delete(&format!("/api/services/web-1?lease_id={newer}")).await;
    assert_eq!(gone.body, json!({"service_id": "web-1", "deregistered": true, "revision": gone.revision()}));
    let missing = node.get("/api/services/web-1").await;
    assert_eq!((missing.status, missing.code()), (404, "not_found"));
    assert_eq!(missing.revision(), gone.revision());
    assert!(!missing.header("rollcall-staleness-ms").is_empty() && !missing.header("rollcall-node").is_empty());
    let missing = node.post("/api/services/web-1/heartbeat", &json!({})).await;
    assert_eq!((missing.status, missing.code()), (404, "lease_not_found"));
    assert_eq!(node.delete("/api/services/web-1").await.code(), "not_found");
}

#[tokio::test]
async fn a_heartbeat_that_says_something_is_a_change() {
    let node = Node::start().await;
    let registered = node.register(json!({"id": "a", "name": "n", "url": "http://a", "metadata": {"k": "v"}})).await;
    let beat = |body: Value| {
        let node = &node;
        async move { node.post("/api/services/a/heartbeat", &body).await }
    };
    assert_eq!(beat(json!({})).await.revision(), registered.revision());
    let told = beat(json!({"status": "degraded", "metadata": {"load": 0.5}})).await;
    assert_eq!(told.revision(), registered.revision() + 1);
    assert_eq!(told.body["lease"]["id"], registered.body["lease"]["id"], "the lease stays");
    assert_eq!(beat(json!({"status": "degraded"})).await.revision(), told.revision(), "nothing really changed");
    let read = node.get("/api/services/a").await;
    assert_eq!(read.body["status"], "degraded");
    assert_eq!(read.body["metadata"], json!({"k": "v", "load": 0.5}));
}

#[tokio::test]
async fn conditions_are_kept() {
    let node = Node::start().await;
    let register = |header: &'static str, value: String, url: &'static str| {
        let body = json!({"id": "c", "name": "n", "url": url});
        answer(node.request(Method::POST, "/api/services/register").header(header, value).json(&body))
    };
    let absent = register("If-Match", "*".into(), "http://a").await;
    assert_eq!((absent.status, absent.code()), (412, "precondition_failed"));
    assert!(absent.body.get("current_revision").is_none());
    let created = register("If-None-Match", "*".into(), "http://a").await;
    assert_eq!(created.status, 201);
    let again = register("If-None-Match", "*".into(), "http://b").await;
    assert_eq!((again.status, &again.body["current_revision"]), (412, &json!(created.revision())));
    let replaced = register("If-Match", format!("\"{}\"", created.revision()), "http://b").await;
    assert_eq!(replaced.status, 200);
    assert_eq!(register("If-Match", format!("\"{}\"", created.revision()), "http://c").await.status, 412);
    assert_eq!(register("If-Match", "W/\"1\"".into(), "http://c").await.status, 400);

    let delete = |value: String| answer(node.request(Method::DELETE, "/api/services/c").header("If-Match", value));
    assert_eq!(delete(format!("\"{}\"", created.revision())).await.status, 412);
    assert_eq!(delete(format!("\"{}\"", replaced.revision())).await.status, 200);
    assert_eq!(delete("*".into()).await.status, 412, "an id that is not there does not match");
}

#[tokio::test]
async fn an_id_is_made_up_and_any_text_is_one() {
    let node = Node::start().await;
    let made_up = node.register(json!({"name": "n", "url": "http://a"})).await;
    assert_eq!(made_up.body["registration_id"].as_str().unwrap().len(), 36);
    let id = "http://a/b?c=d é%";
    assert_eq!(node.register(json!({"id": id, "name": "n", "url": "http://a"})).await.status, 201);
    let encoded = "http:%2F%2Fa%2Fb%3Fc=d%20%C3%A9%25";
    assert_eq!(node.get(&format!("/api/services/{encoded}")).await.body["id"], id);
    assert_eq!(node.post(&format!("/api/services/{encoded}/heartbeat/"), &json!({})).await.status, 200);
    assert_eq!(node.delete(&format!("/api/services/{encoded}/")).await.status, 200);
}

#[tokio::test]
async fn tenants_do_not_meet() {
    let node = Node::start_for(&["a", "b"]).await;
    let as_tenant =
        |method: Method, path: &str, tenant: &str| node.request(method, path).header("X-Tenant-ID", tenant);
    let body = json!({"id": "x", "name": "n", "url": "http://a"});
    let registered = answer(as_tenant(Method::POST, "/api/services/register", "a").json(&body)).await;
    assert_eq!((registered.status, &registered.body["service"]["tenant"]), (201, &json!("a")));
    assert_eq!(answer(as_tenant(Method::GET, "/api/services/x", "b")).await.status, 404);
    assert_eq!(answer(as_tenant(Method::GET, "/api/services", "b")).await.body["total_count"], 0);
    let leases = json!({"leases": [registered.body["lease"]["id"]]});
    let batch = answer(as_tenant(Method::POST, "/api/heartbeats", "b").json(&leases)).await;
    assert_eq!(batch.body["not_found"], leases["leases"]);
    for (tenant, status, code) in [("c", 403, "unknown_tenant"), ("a b", 400, "invalid_request")] {
        let refused = answer(as_tenant(Method::GET, "/api/services", tenant)).await;
        assert_eq!((refused.status, refused.code()), (status, code));
    }
    assert_eq!(node.get("/api/services").await.status, 403, "`default` is not among the tenants");
}
