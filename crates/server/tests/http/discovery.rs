//! Who is present, page by page.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::node::{Answer, Node};

fn ids(answer: &Answer) -> Vec<&str> {
    let services = answer.body["services"].as_array().map(Vec::as_slice).unwrap_or_default();
    services.iter().filter_map(|service| service["id"].as_str()).collect()
}

async fn populated() -> Node {
    let node = Node::start().await;
    let bodies = [
        json!({"id": "a", "name": "web", "type": "agent", "version": "1.2.0", "tags": ["x", "y"], "url": "http://a",
            "capabilities": ["ocr", {"capability_name": "translate", "capability_type": "processing"}],
            "metadata": {"env": "prod", "tier": 1}, "locality": {"region": "eu", "zone": "eu-1"}, "owner": "o"}),
        json!({"id": "b", "name": "web", "type": "agent", "version": "2.0.0", "tags": ["x"], "url": "https://b",
            "capabilities": ["ocr"], "metadata": {"env": "dev"}, "consumed_events": ["in"], "produced_events": ["out"]}),
        json!({"id": "c", "name": "db", "type": "service", "url": "grpc://c", "visibility": "public"}),
    ];
    for body in bodies {
        assert_eq!(node.register(body).await.status, 201);
    }
    node
}

#[tokio::test]
async fn every_filter_finds_its_own() {
    let node = populated().await;
    let beat = node.post("/api/services/c/heartbeat", &json!({"status": "maintenance"})).await;
    assert_eq!(beat.status, 200);
    let cases: [(&str, &[&str]); 24] = [
        ("", &["a", "b", "c"]),
        ("name=web", &["a", "b"]),
        ("name=web,db", &["a", "b", "c"]),
        ("type=agent&type=tool", &["a", "b"]),
        ("tags=x,y", &["a"]),
        ("capabilities=ocr", &["a", "b"]),
        ("capabilities=ocr&capabilities=translate", &["a"]),
        ("status=maintenance", &["c"]),
        ("status=active,maintenance", &["a", "b", "c"]),
        ("status=offline", &[]),
        ("visibility=public", &["c"]),
        ("owner=o", &["a"]),
        ("protocol=https,grpc", &["b", "c"]),
        ("version=%5E1.0", &["a"]),
        ("version=%3E%3D1.0,%3C2.0&version=2.x", &["a", "b"]),
        ("consumed_event=in", &["b"]),
        ("produced_event=out", &["b"]),
        ("region=eu&zone=eu-1", &["a"]),
        ("selector=env%3Dprod", &["a"]),
        ("selector=env%20in%20(prod,dev),!tier", &["b"]),
        ("selector=tier%3D1&selector=env", &["a"]),
        ("selector=env!%3Dprod", &["b", "c"]),
        ("include_federated=true&requester_id=me", &["a", "b", "c"]),
        ("consistency=linearizable&min_revision=1&max_staleness_ms=0", &["a", "b", "c"]),
    ];
    for (query, wanted) in cases {
        let found = node.get(&format!("/api/services?{query}")).await;
        assert_eq!((found.status, ids(&found).as_slice()), (200, wanted), "{query}: {found:?}");
        assert_eq!(found.body["total_count"], wanted.len(), "{query}");
        assert_eq!(found.body["local_count"], wanted.len(), "{query}");
        assert_eq!((&found.body["federated_results"], &found.body["federated_count"]), (&json!(false), &json!(0)));
        assert_eq!(found.body["revision"], found.revision());
        assert!(found.body["search_time_ms"].is_number());
    }
    let ranked = node.get("/api/services?sort=rank").await;
    assert_eq!(ids(&ranked), ["a", "b", "c"], "the one in maintenance comes last");
    let linearizable = node.get("/api/services?consistency=linearizable").await;
    assert_eq!(linearizable.header("rollcall-staleness-ms"), "0");
}

#[tokio::test]
async fn all_pages_show_one_revision() {
    let node = Node::start().await;
    for n in 0..7 {
        let registered = node.register(json!({"id": format!("i{n}"), "name": "n", "url": "http://a"})).await;
        assert_eq!(registered.status, 201);
    }
    let first = node.get("/api/services?limit=3").await;
    let mut seen: BTreeSet<String> = ids(&first).iter().map(|id| id.to_string()).collect();
    // What happens between two pages is on neither.
    assert_eq!(node.delete("/api/services/i5").await.status, 200);
    assert_eq!(node.register(json!({"id": "i55", "name": "n", "url": "http://a"})).await.status, 201);
    let mut cursor = first.body["next_cursor"].clone();
    while let Value::String(text) = cursor {
        let page = node.get(&format!("/api/services?limit=3&cursor={text}")).await;
        assert_eq!((page.status, page.revision()), (200, first.revision()), "{page:?}");
        assert_eq!(page.body["total_count"], 7);
        seen.extend(ids(&page).iter().map(|id| id.to_string()));
        cursor = page.body["next_cursor"].clone();
    }
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), ["i0", "i1", "i2", "i3", "i4", "i5", "i6"]);
}

#[tokio::test]
async fn a_cursor_is_good_for_its_own_question_only() {
    let node = populated().await;
    let first = node.get("/api/services?limit=1").await;
    let cursor = first.body["next_cursor"].as_str().unwrap();
    for query in [
        format!("cursor={cursor}&name=web"),
        format!("cursor={cursor}&sort=rank"),
        format!("cursor={}", &cursor[1..]),
        "cursor=AAAA".to_owned(),
        "cursor=".to_owned(),
    ] {
        let refused = node.get(&format!("/api/services?{query}")).await;
        assert_eq!((refused.status, refused.code()), (400, "bad_cursor"), "{query}");
    }
    assert_eq!(node.get(&format!("/api/services?cursor={cursor}&limit=5")).await.status, 200);
}

#[tokio::test]
async fn a_revision_yet_to_come_is_waited_for() {
    let node = Node::start().await;
    let registered = node.register(json!({"id": "a", "name": "n", "url": "http://a"})).await;
    let path = format!("/api/services/a?min_revision={}", registered.revision() + 1);
    let impatient = node.request(reqwest::Method::GET, &path).header("X-Request-Timeout-Ms", "50");
    let refused = crate::node::answer(impatient).await;
    assert_eq!((refused.status, refused.code()), (504, "revision_not_reached"));
    let (read, changed) =
        tokio::join!(node.get(&path), node.register(json!({"id": "a", "name": "n", "url": "http://b"})));
    assert_eq!((read.status, changed.status), (200, 200));
    assert_eq!(read.body["url"], "http://b");
}
