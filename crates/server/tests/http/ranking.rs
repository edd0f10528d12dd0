//! How good a choice each is, and who is picked.

use std::collections::BTreeMap;
use std::fs;

use reqwest::Method;
use serde_json::{Value, json};

use crate::node::{Answer, Node, answer};

const DOCUMENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/RANKING.md");

/// Asked by whoever the worked cases are asked by.
const QUESTION: &str = "/api/services?sort=rank&explain=true&limit=1000&status=active,degraded,maintenance,error,offline\
    &preferred_capabilities=ocr,translate&requester_region=eu&requester_zone=eu-1\
    &requester_latitude=52.52&requester_longitude=13.405";

async fn put(node: &Node, path: &str, body: Value) -> Answer {
    answer(node.request(Method::PUT, path).json(&body)).await
}

fn ids(answer: &Answer) -> Vec<&str> {
    let services = answer.body["services"].as_array().map(Vec::as_slice).unwrap_or_default();
    services.iter().filter_map(|service| service["id"].as_str()).collect()
}

/// The rows of the table under "Worked cases", each by its columns' heads.
fn worked_cases() -> Vec<BTreeMap<String, String>> {
    let text = fs::read_to_string(DOCUMENT).expect("the document is there");
    let section =
        text.split("## Worked cases").nth(1).and_then(|rest| rest.split("\n## ").next()).expect("the section");
    let mut rows = section
        .lines()
        .filter(|line| line.starts_with('|'))
        .map(|line| line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect::<Vec<_>>());
    let head = rows.next().expect("a head");
    rows.filter(|row| !row[0].starts_with("---"))
        .map(|row| head.iter().cloned().zip(row).filter(|(_, cell)| cell != "-").collect())
        .collect()
}

fn registration(id: &str, case: &BTreeMap<String, String>) -> Value {
    let mut locality = json!({});
    for name in ["region", "zone"] {
        case.get(name).into_iter().for_each(|place| locality[name] = json!(place));
    }
    if let Some((latitude, longitude)) = case.get("at").and_then(|at| at.split_once(", ")) {
        locality["latitude"] = latitude.parse::<f64>().expect("a number").into();
        locality["longitude"] = longitude.parse::<f64>().expect("a number").into();
    }
    let has = case.get("has").map_or_else(Vec::new, |has| has.split(", ").collect());
    json!({"id": id, "name": "n", "url": "http://a", "ttl_ms": 60_000, "capabilities": has, "locality": locality,
        "owner": case.get("owner")})
}

#[tokio::test]
async fn the_worked_cases_of_the_document_are_so() {
    let node = Node::start().await;
    for (owner, trust) in [("ours", 10), ("theirs", 0)] {
        assert_eq!(put(&node, &format!("/api/trust/{owner}"), json!({ "trust": trust })).await.status, 200);
    }
    let cases = worked_cases();
    assert!(cases.len() >= 12, "{cases:?}");
    for (n, case) in cases.iter().enumerate() {
        let id = format!("case-{n:02}");
        let registered = node.register(registration(&id, case)).await;
        assert_eq!(registered.status, 201, "{registered:?}");
        if case["status"] != "active" {
            let beat = node.post(&format!("/api/services/{id}/heartbeat"), &json!({"status": case["status"]})).await;
            assert_eq!(beat.status, 200, "{beat:?}");
        }
    }
    let found = node.get(QUESTION).await;
    assert_eq!(found.status, 200, "{found:?}");
    let mut expected = Vec::new();
    for (n, case) in cases.iter().enumerate() {
        let id = format!("case-{n:02}");
        let services = found.body["services"].as_array().unwrap();
        let service = services.iter().find(|service| service["id"] == *id).expect("all are found");
        for part in ["score", "capability", "health", "proximity", "trust"] {
            let wanted: f64 = case[part].parse().expect("a number");
            let shown = service["rank"][part].as_f64().expect("a number");
            assert!((shown - wanted).abs() < 1e-9, "{case:?}: {part} is {shown}");
        }
        expected.push((service["rank"]["score"].as_f64().unwrap(), id));
    }
    expected.sort_by(|a, b| b.0.total_cmp(&a.0).then_with(|| a.1.cmp(&b.1)));
    assert_eq!(ids(&found), expected.iter().map(|(_, id)| id.as_str()).collect::<Vec<_>>());
}

#[tokio::test]
async fn weights_are_the_query_s_or_the_tenant_s() {
    let node = Node::start().await;
    for (id, region) in [("a", "us"), ("b", "eu")] {
        node.register(json!({"id": id, "name": "n", "url": "http://a", "locality": {"region": region}})).await;
    }
    node.post("/api/services/b/heartbeat", &json!({"status": "degraded"})).await;
    let ranked = async |query: &str| {
        let found = node.get(&format!("/api/services?sort=rank&requester_region=eu{query}")).await;
        ids(&found).join(" ")
    };
    assert_eq!(ranked("").await, "a b", "0.3 times a half is more than 0.2 times 0.6");
    assert_eq!(ranked("&rank_weights=proximity:1").await, "b a");
    let shown = node.get("/api/ranking").await.body;
    assert_eq!((&shown["weights"]["capability"], &shown["default"]), (&json!(0.4), &json!(true)));
    let set = put(&node, "/api/ranking", json!({"weights": {"proximity": 0.5}})).await;
    assert_eq!((set.status, &set.body["default"]), (200, &json!(false)));
    assert_eq!(ranked("").await, "b a");
    assert_eq!(ranked("&rank_weights=health:1").await, "a b");
    assert_eq!(node.delete("/api/ranking").await.body["default"], true);
    assert_eq!(ranked("").await, "a b");
    for (body, field) in [
        (json!({}), "weights"),
        (json!({"weights": {"health": 1.5}}), "weights.health"),
        (json!({"weights": {}}), "weights"),
        (json!({"weights": {"speed": 1}}), "weights.speed"),
    ] {
        assert_eq!(put(&node, "/api/ranking", body.clone()).await.faults(), [field], "{body}");
    }
    for query in ["rank_weights=health:1", "explain=true", "preferred_capabilities=x"] {
        let refused = node.get(&format!("/api/services?{query}")).await;
        assert_eq!((refused.status, refused.body["detail"].as_str().unwrap().contains("sort=rank")), (400, true));
    }
}

#[tokio::test]
async fn the_requester_s_own_registration_says_where_it_is() {
    let node = Node::start().await;
    for (id, locality) in [
        ("me", json!({"region": "eu", "zone": "eu-1"})),
        ("near", json!({"region": "eu", "zone": "eu-1"})),
        ("far", json!({"region": "us"})),
    ] {
        let name = if id == "me" { "caller" } else { "n" };
        node.register(json!({"id": id, "name": name, "url": "http://a", "locality": locality})).await;
    }
    let ranked = async |query: &str| {
        let found = node.get(&format!("/api/services?name=n&sort=rank{query}")).await;
        ids(&found).join(" ")
    };
    assert_eq!(ranked("").await, "far near");
    assert_eq!(ranked("&requester_id=me").await, "near far");
    assert_eq!(ranked("&requester_id=nobody").await, "far near");
    assert_eq!(ranked("&requester_id=me&requester_region=us").await, "far near");
}

#[tokio::test]
async fn pages_end_where_they_would_be_ranked_otherwise() {
    let node = Node::start().await;
    for id in ["a", "b", "c"] {
        node.register(json!({"id": id, "name": "n", "url": "http://a", "owner": id})).await;
    }
    let first = node.get("/api/services?sort=rank&limit=1").await;
    let cursor = first.body["next_cursor"].as_str().unwrap();
    let next = async || node.get(&format!("/api/services?sort=rank&limit=1&cursor={cursor}")).await;
    assert_eq!(ids(&next().await), ["b"]);
    let elsewhere = node.get(&format!("/api/services?sort=rank&limit=1&requester_zone=x&cursor={cursor}")).await;
    assert_eq!((elsewhere.status, elsewhere.code()), (400, "bad_cursor"));
    put(&node, "/api/trust/c", json!({"trust": 9.5})).await;
    let expired = next().await;
    assert_eq!((expired.status, expired.code()), (410, "cursor_expired"));
    assert_eq!(ids(&node.get("/api/services?sort=rank&limit=1").await), ["c"]);
    assert_eq!(node.get("/api/trust").await.body, json!({"owners": [{"owner": "c", "trust": 9.5}]}));
    assert_eq!(node.delete("/api/trust/c").await.body, json!({"owner": "c"}));
    assert_eq!(ids(&next().await), ["b"], "all is as it was");
    for bad in [json!({"trust": 11}), json!({}), json!({"trust": "5"})] {
        assert_eq!(put(&node, "/api/trust/c", bad.clone()).await.faults(), ["trust"], "{bad}");
    }
}

#[tokio::test]
async fn one_is_picked_for_each_call() {
    let node = Node::start().await;
    let nobody = node.get("/api/services/pick").await;
    assert_eq!((nobody.status, nobody.code()), (404, "nobody_fits"));
    for (id, version, weight) in [("a", "1.4.0", 3), ("b", "1.4.1", 1), ("c", "2.0.0", 1)] {
        node.register(json!({"id": id, "name": "n", "version": version, "url": "http://a", "weight": weight})).await;
    }
    let picked = async |query: &str| {
        let picked = node.get(&format!("/api/services/pick?{query}")).await;
        assert_eq!(picked.status, 200, "{picked:?}");
        picked
    };
    let best = picked("explain=true").await;
    assert_eq!((&best.body["service"]["id"], &best.body["candidates"]), (&json!("a"), &json!(3)));
    assert_eq!((&best.body["strategy"], &best.body["service"]["rank"]["score"]), (&json!("rank"), &json!(0.85)));
    assert_eq!(best.body["revision"], best.revision());

    let mut turns = Vec::new();
    for _ in 0..6 {
        turns.push(picked("strategy=round_robin").await.body["service"]["id"].as_str().unwrap().to_owned());
    }
    assert_eq!(turns[..3], turns[3..]);
    turns.truncate(3);
    turns.sort();
    assert_eq!(turns, ["a", "b", "c"]);

    let split = "strategy=weighted&split=%5E1.4:95&split=%5E2:5&split=%5E3:1000";
    let mut canaries = 0;
    for _ in 0..200 {
        let picked = picked(split).await.body;
        let is_canary = picked["service"]["id"] == "c";
        assert_eq!(picked["version_range"], if is_canary { "^2" } else { "^1.4" });
        canaries += u32::from(is_canary);
    }
    // 10 expected, and one standard deviation is 3.
    assert!((1..30).contains(&canaries), "{canaries} of 200");

    // Whoever an operator takes out is not picked, and its range has no share.
    put(&node, "/api/services/c/drain", json!({})).await;
    assert_eq!(picked(split).await.body["version_range"], "^1.4");
    assert_eq!(picked("version=%5E1").await.body["candidates"], 2);
    for id in ["a", "b"] {
        node.post(&format!("/api/services/{id}/heartbeat"), &json!({"status": "degraded"})).await;
    }
    assert_eq!(picked("").await.body["candidates"], 2);
    assert_eq!(picked("status=maintenance").await.body["service"]["id"], "c");
    let faulty = node.get("/api/services/pick?split=1&strategy=best&limit=3").await;
    assert_eq!(faulty.faults(), ["strategy", "split", "limit"]);
    let refused = node.register(json!({"id": "pick", "name": "n", "url": "http://a"})).await;
    assert_eq!(refused.faults(), ["id"]);
}
