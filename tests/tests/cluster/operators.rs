//! What operators order and lay down holds everywhere, whatever becomes of nodes and instances.

use std::time::Duration;

use reqwest::Method;
use rollcall_tests::{Api, Cluster, Node, wait_until};
use serde_json::{Value, json};

const DEADLINE: Duration = Duration::from_secs(30);

async fn put(api: &Api, path: &str, body: &Value) -> Value {
    api.send(api.request(Method::PUT, path).json(body)).await.expect("an answer").ok()
}

/// What every running node shows of an instance, once it shows all that was acknowledged.
async fn shown(cluster: &Cluster, id: &str) -> Value {
    let mut all: Vec<Value> = Vec::new();
    for node in cluster.nodes.iter().filter(|node| node.is_running()) {
        let shown = node.api.get(&format!("/api/services/{id}?consistency=linearizable")).await.ok();
        all.push(json!([shown["status"], shown["operator"], shown["revision"]]));
    }
    assert!(all.windows(2).all(|pair| pair[0] == pair[1]), "nodes differ: {all:?}");
    all.swap_remove(0)
}

#[tokio::test]
async fn an_order_outlives_leader_nodes_and_instance() {
    let mut cluster = Cluster::start(3).await;
    for n in 0..3 {
        cluster.nodes[n].api.register(&format!("web-{n}"), 60_000).await;
    }
    let follower = cluster.follower().await;
    put(&cluster.nodes[follower].api, "/api/services/web-0/maintenance", &json!({"reason": "a new disk"})).await;
    put(&cluster.nodes[follower].api, "/api/services/web-1/drain", &json!({})).await;
    put(&cluster.nodes[follower].api, "/api/trust/ours", &json!({"trust": 9})).await;
    put(&cluster.nodes[follower].api, "/api/ranking", &json!({"weights": {"trust": 1}})).await;
    let ordered = shown(&cluster, "web-0").await;
    assert_eq!((&ordered[0], &ordered[1]["maintenance"]["reason"]), (&json!("maintenance"), &json!("a new disk")));

    // The leader dies; heartbeats and registrations go on at whoever is left.
    let leader = cluster.leader().await;
    cluster.nodes[leader].kill9();
    let survivor = cluster.follower().await;
    let api = &cluster.nodes[survivor].api;
    api.post("/api/services/web-0/heartbeat", &json!({"status": "active", "metadata": {"k": 1}})).await.ok();
    let body = json!({ "id": "web-0", "name": "web", "url": "http://elsewhere", "ttl_ms": 60_000 });
    api.post("/api/services/register", &body).await.ok();
    assert_eq!(shown(&cluster, "web-0").await[0], "maintenance");
    api.delete("/api/services/web-0").await.ok();
    api.delete("/api/services/web-1").await.ok();
    cluster.nodes[leader].start();
    cluster.ready().await;

    // All of them die, and start from what they kept.
    cluster.nodes.iter_mut().for_each(Node::kill9);
    cluster.nodes.iter_mut().for_each(Node::start);
    cluster.ready().await;
    cluster.digests_agree().await;
    for node in &cluster.nodes {
        let orders = node.api.get("/api/orders?consistency=linearizable").await.ok();
        let orders = orders["orders"].as_array().expect("a list").clone();
        assert_eq!(orders.len(), 1, "the drain is over: {orders:?}");
        assert_eq!((&orders[0]["service_id"], &orders[0]["present"]), (&json!("web-0"), &json!(false)));
        assert_eq!(node.api.get("/api/trust").await.ok()["owners"][0]["trust"], 9.0);
        assert_eq!(node.api.get("/api/ranking").await.ok()["weights"]["trust"], 1.0);
    }
    for n in [0, 1] {
        cluster.nodes[n].api.register(&format!("web-{n}"), 60_000).await;
    }
    assert_eq!(shown(&cluster, "web-0").await[0], "maintenance");
    assert_eq!(shown(&cluster, "web-1").await[0], "active");
    let lifted = cluster.nodes[0].api.delete("/api/services/web-0/maintenance").await.ok();
    assert_eq!(lifted["status"], "active");
    assert_eq!(shown(&cluster, "web-0").await[0], "active");
}

#[tokio::test]
async fn every_node_ranks_and_pages_alike() {
    let cluster = Cluster::start(3).await;
    for n in 0..12 {
        let locality = json!({"region": if n % 2 == 0 { "eu" } else { "us" }, "latitude": n, "longitude": 10 * n });
        let body = json!({ "id": format!("web-{n:02}"), "name": "web", "url": "http://a", "ttl_ms": 60_000,
            "owner": format!("o{}", n % 3), "locality": locality });
        cluster.nodes[n % 3].api.post("/api/services/register", &body).await.ok();
    }
    put(&cluster.nodes[0].api, "/api/trust/o1", &json!({"trust": 10})).await;
    let question =
        "/api/services?sort=rank&requester_region=eu&requester_latitude=3&requester_longitude=25&explain=true";
    let mut whole: Vec<Value> = Vec::new();
    for node in &cluster.nodes {
        let answer = node.api.get(&format!("{question}&consistency=linearizable")).await.ok();
        let ranked = answer["services"].as_array().expect("a list").iter().map(|s| json!([s["id"], s["rank"]]));
        whole.push(ranked.collect());
    }
    assert!(whole.windows(2).all(|pair| pair[0] == pair[1]), "{whole:?}");
    // Each page from another node.
    let (mut paged, mut cursor) = (Vec::new(), String::new());
    for node in cluster.nodes.iter().cycle() {
        let answer = node.api.get(&format!("{question}&limit=5{cursor}")).await.ok();
        paged.extend(answer["services"].as_array().expect("a list").iter().map(|s| json!([s["id"], s["rank"]])));
        match answer["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(Value::from(paged), whole[0]);
    // What was laid down in between ends the pages, at every node as soon as it knows.
    let first = cluster.nodes[0].api.get(&format!("{question}&limit=5")).await.ok();
    let cursor = first["next_cursor"].as_str().expect("more pages").to_owned();
    put(&cluster.nodes[1].api, "/api/trust/o2", &json!({"trust": 0})).await;
    for node in &cluster.nodes {
        wait_until("the pages end", DEADLINE, || async {
            let answer = node.api.get(&format!("{question}&limit=5&cursor={cursor}")).await;
            (answer.status == 410).then_some(())
        })
        .await;
    }
}
