//! How much a tenant may have: what is beyond it is refused, in the words of each contract, and what stands goes on.

use reqwest::{Method, RequestBuilder};
use rollcall_server::Settings;
use serde_json::{Value, json};

use crate::auth::{ask, guarded, guarded_with, made};
use crate::events::Events;
use crate::node::{Answer, Node, answer};

const QUOTA: &str = "/api/quota";

fn of(node: &Node, tenant: &str, method: Method, path: &str) -> RequestBuilder {
    node.request(method, path).header("x-tenant-id", tenant)
}

async fn get(node: &Node, tenant: &str, path: &str) -> Answer {
    answer(of(node, tenant, Method::GET, path)).await
}

async fn post(node: &Node, tenant: &str, path: &str, body: Value) -> Answer {
    answer(of(node, tenant, Method::POST, path).json(&body)).await
}

async fn register(node: &Node, tenant: &str, id: &str, url: &str) -> Answer {
    let body = json!({"id": id, "name": "web", "url": url, "ttl_ms": 60_000});
    post(node, tenant, "/api/services/register", body).await
}

async fn limit(node: &Node, tenant: &str, limits: Value) -> Value {
    let answer = answer(of(node, tenant, Method::PUT, QUOTA).json(&limits)).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!((&answer.body["tenant"], &answer.body["limits"]), (&json!(tenant), &limits));
    answer.body["used"].clone()
}

#[track_caller]
fn exceeded(answer: &Answer, quota: &str, limit: u64, used: u64) {
    assert_eq!((answer.status, answer.code()), (429, "quota_exceeded"), "{answer:?}");
    assert_eq!(answer.body["quota"], json!({"quota": quota, "limit": limit, "used": used}));
    assert!(answer.header("retry-after").parse::<u64>().is_ok_and(|s| s >= 1), "{answer:?}");
    assert!(answer.body["retry_after_ms"].as_u64().is_some_and(|ms| ms >= 1), "{answer:?}");
}

#[tokio::test]
async fn registrations_beyond_the_quota_are_refused_and_renewals_go_on() {
    let node = Node::start().await;
    let lease = register(&node, "one", "a", "http://a").await.body["lease"]["id"].as_u64().unwrap();
    register(&node, "one", "b", "http://b").await;
    let used = limit(&node, "one", json!({"registrations": 2})).await;
    assert_eq!((&used["registrations"], &used["watchers"]), (&json!(2), &json!(0)));
    exceeded(&register(&node, "one", "c", "http://c").await, "registrations", 2, 2);

    // What stands is renewed, said again and changed; another tenant is not concerned.
    assert_eq!(post(&node, "one", "/api/services/a/heartbeat", json!({"lease_id": lease})).await.status, 200);
    let renewed = post(&node, "one", "/api/heartbeats", json!({"leases": [lease]})).await;
    assert_eq!(renewed.body["renewed"], 1, "{renewed:?}");
    assert_eq!(register(&node, "one", "a", "http://a").await.status, 200);
    assert_eq!(register(&node, "one", "b", "http://elsewhere").await.status, 200);
    for id in ["a", "b", "c"] {
        assert_eq!(register(&node, "two", id, "http://a").await.status, 201);
    }

    // Each contract says so in its own way.
    let card = json!({"name": "p", "description": "d", "url": "http://p"});
    exceeded(&post(&node, "one", "/agents/", card).await, "registrations", 2, 2);
    let agent = json!({"agent": {"agentId": "s", "name": "s", "description": "d", "capabilities": []}});
    let refused = post(&node, "one", "/v1/agents", agent).await;
    assert_eq!((refused.status, refused.header("retry-after")), (429, "10"), "{refused:?}");
    let detail = "the tenant's quota allows no more registrations: 2 of 2 are in use";
    assert_eq!(refused.body, json!({ "detail": detail }));
    let metrics = node.get("/metrics").await.body;
    let refusals = "rollcall_quota_refusals_total{quota=\"registrations\"} 3\n";
    assert!(metrics.as_str().unwrap().contains(refusals), "{metrics}");

    // What goes makes room, and so does who says that there is more.
    assert_eq!(answer(of(&node, "one", Method::DELETE, "/api/services/a")).await.status, 200);
    assert_eq!(register(&node, "one", "c", "http://c").await.status, 201);
    exceeded(&register(&node, "one", "d", "http://d").await, "registrations", 2, 2);
    let cleared = answer(of(&node, "one", Method::DELETE, QUOTA)).await;
    assert_eq!((cleared.status, &cleared.body["limits"]), (200, &json!({})));
    assert_eq!(register(&node, "one", "d", "http://d").await.status, 201);
}

#[tokio::test]
async fn bytes_beyond_the_quota_are_refused() {
    let node = Node::start().await;
    register(&node, "one", "a", "http://a").await;
    let used = get(&node, "one", QUOTA).await.body["used"]["bytes"].as_u64().unwrap();
    limit(&node, "one", json!({ "bytes": used + 10 })).await;
    exceeded(&register(&node, "one", "b", "http://b").await, "bytes", used + 10, used);
    assert_eq!(register(&node, "one", "a", "http://a/1234567").await.status, 200);
    exceeded(&register(&node, "one", "a", "http://a/12345678901").await, "bytes", used + 10, used + 8);
    // A report that does not fit is refused; the heartbeat without it is not.
    let long = json!({"metadata": {"key": "a long value"}});
    exceeded(&post(&node, "one", "/api/services/a/heartbeat", long).await, "bytes", used + 10, used + 8);
    assert_eq!(post(&node, "one", "/api/services/a/heartbeat", json!({})).await.status, 200);
    // A lower quota takes nothing away, and lets it shrink.
    limit(&node, "one", json!({"bytes": 0})).await;
    assert_eq!(register(&node, "one", "a", "http://a/1234567").await.status, 200);
    assert_eq!(register(&node, "one", "a", "http://a").await.status, 200);
    assert_eq!(get(&node, "one", QUOTA).await.body["used"]["bytes"], used);
}

#[tokio::test]
async fn p11_a_tenant_that_floods_a_node_still_renews_and_nobody_else_notices() {
    let node = Node::start().await;
    for tenant in ["one", "two"] {
        register(&node, tenant, "a", "http://a").await;
    }
    limit(&node, "one", json!({"requests_per_second": 5})).await;
    let refused_one = async || {
        let answers = futures_util::future::join_all((0..20).map(|_| get(&node, "one", "/api/services"))).await;
        answers.into_iter().find(|answer| answer.status == 429)
    };
    node.until("the node knows of the quota", async || refused_one().await.is_some()).await;
    for _ in 0..3 {
        let refused = refused_one().await.expect("twenty at once are more than five");
        exceeded(&refused, "requests_per_second", 5, 5);
        assert!(!refused.body["detail"].as_str().unwrap().contains("two"), "{refused:?}");
        exceeded(&register(&node, "one", "b", "http://b").await, "requests_per_second", 5, 5);
        // Heartbeats, of whichever contract, have an allowance of their own.
        assert_eq!(post(&node, "one", "/api/services/a/heartbeat", json!({})).await.status, 200);
        let card = post(&node, "one", "/agents/heartbeat", json!({"agent_url": "http://p"})).await;
        assert_eq!(card.body["status"], "agent not found");
        assert_eq!(answer(of(&node, "one", Method::PUT, "/v1/agents/a/heartbeat")).await.status, 200);
        assert_eq!(get(&node, "two", "/api/services").await.status, 200);
        assert_eq!(register(&node, "two", "b", "http://b").await.status / 100, 2);
    }
    // The quota does not stand in the way of whoever lifts it.
    assert_eq!(get(&node, "one", QUOTA).await.status, 200);
    limit(&node, "one", json!({"requests_per_second": 100_000})).await;
    node.until("the node knows of the other quota", async || refused_one().await.is_none()).await;

    // Heartbeats are bounded as well, by what the tenant has: one in a second where there is nothing to renew.
    limit(&node, "none", json!({"requests_per_second": 1})).await;
    node.until("heartbeats of nobody are refused", async || {
        let beats = (0..3).map(|_| post(&node, "none", "/api/services/x/heartbeat", json!({})));
        let beats = futures_util::future::join_all(beats).await;
        beats.iter().any(|beat| beat.status == 429)
    })
    .await;
}

#[tokio::test]
async fn a_quota_of_watchers_stands_in_the_place_of_the_node_s() {
    let node = Node::start_as(Settings { tenant_watchers_max: Some(2), ..Node::founder() }).await;
    let watch = |tenant: &'static str| of(&node, tenant, Method::GET, "/api/services/watch");
    limit(&node, "one", json!({"watchers": 1})).await;
    limit(&node, "two", json!({"watchers": 3})).await;
    let mut watching = Vec::new();
    watching.push(Events::open(watch("one")).await);
    let refused = answer(watch("one")).await;
    exceeded(&refused, "watchers", 1, 1);
    assert_eq!(get(&node, "one", QUOTA).await.body["used"]["watchers"], 1);
    for _ in 0..3 {
        watching.push(Events::open(watch("two")).await);
    }
    exceeded(&answer(watch("two")).await, "watchers", 3, 3);
    for _ in 0..2 {
        watching.push(Events::open(watch("three")).await);
    }
    assert_eq!(answer(watch("three")).await.code(), "too_many_watchers");
}

#[tokio::test]
async fn what_is_no_quota_is_refused_by_name() {
    let node = Node::start().await;
    for (body, fields) in [
        (json!({}), vec![""]),
        (json!({"registrations": -1, "x": 1}), vec!["registrations", "x"]),
        (json!({"requests_per_second": 0}), vec!["requests_per_second"]),
    ] {
        let refused = answer(of(&node, "one", Method::PUT, QUOTA).json(&body)).await;
        assert_eq!((refused.status, refused.faults()), (400, fields), "{body}");
    }
    assert_eq!(get(&node, "one", QUOTA).await.body["limits"], json!({}));
}

#[tokio::test]
async fn p10_a_tenant_sees_its_own_quota_and_sets_none() {
    let (node, admin) = guarded().await;
    let operator = made(&node, &admin, json!({"role": "operator", "tenant": "one"})).await;
    let everywhere = made(&node, &admin, json!({"role": "operator", "tenant": "*"})).await;
    let agent = made(&node, &admin, json!({"role": "agent", "tenant": "one"})).await;
    let put = async |token: &str, tenant: &str| {
        let request = of(&node, tenant, Method::PUT, QUOTA).bearer_auth(token);
        answer(request.json(&json!({"registrations": 7}))).await
    };
    for token in [&operator, &agent] {
        assert_eq!(put(token, "one").await.code(), "forbidden");
        assert_eq!(ask(&node, token, Method::DELETE, QUOTA).await.code(), "forbidden");
    }
    for tenant in ["one", "two"] {
        assert_eq!(put(&everywhere, tenant).await.status, 200);
    }
    assert_eq!(ask(&node, &agent, Method::GET, QUOTA).await.code(), "forbidden");
    let shown = ask(&node, &operator, Method::GET, QUOTA).await;
    assert_eq!((&shown.body["tenant"], &shown.body["limits"]["registrations"]), (&json!("one"), &json!(7)));
    let other = answer(of(&node, "two", Method::GET, QUOTA).bearer_auth(&operator)).await;
    assert_eq!(other.code(), "forbidden");
    // Only who may see all tenants hears which there are.
    let told = "rollcall_tenant_quota{tenant=\"two\",quota=\"registrations\"} 7.0";
    let metrics = ask(&node, &everywhere, Method::GET, "/metrics").await.body;
    assert!(metrics.as_str().unwrap().contains(told), "{metrics}");
    assert!(metrics.as_str().unwrap().contains("rollcall_tenant_quota_used{tenant=\"two\",quota=\"bytes\"} 0.0"));
    assert_eq!(ask(&node, &operator, Method::GET, "/metrics").await.code(), "forbidden");

    let (open, admin) = guarded_with(Settings { metrics_open: Some(true), ..Settings::default() }).await;
    let request = of(&open, "two", Method::PUT, QUOTA).bearer_auth(&admin);
    assert_eq!(answer(request.json(&json!({"registrations": 7}))).await.status, 200);
    let metrics = open.get("/metrics").await;
    assert_eq!(metrics.status, 200);
    assert!(!metrics.body.as_str().unwrap().contains("rollcall_tenant_"), "{}", metrics.body);
}
