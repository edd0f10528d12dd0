//! Three nodes over the real wires.

use std::time::Duration;

use serde_json::json;

use crate::node::{Node, PATIENCE};

async fn three() -> [Node; 3] {
    let first = Node::start().await;
    let (second, third) = tokio::join!(Node::join(&first), Node::join(&first));
    let all_vote = async || {
        let status = first.get("/api/cluster/status").await.body;
        let members = status["members"].as_array().map(Vec::as_slice).unwrap_or_default();
        members.len() == 3 && members.iter().all(|member| member["role"] == "voter" && member["reachable"] == true)
    };
    first.until("all three vote", all_vote).await;
    [first, second, third]
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_written_at_one_node_is_read_at_every_other() {
    let nodes = three().await;
    for (n, writer) in nodes.iter().enumerate() {
        let id = format!("i{n}");
        let written = writer.register(json!({"id": id, "name": "n", "url": "http://a"})).await;
        assert_eq!(written.status, 201, "{written:?}");
        for reader in &nodes {
            for query in [format!("min_revision={}", written.revision()), "consistency=linearizable".to_owned()] {
                let read = reader.get(&format!("/api/services/{id}?{query}")).await;
                assert_eq!(read.status, 200, "{query}: {read:?}");
            }
            let beat = reader.post(&format!("/api/services/{id}/heartbeat"), &json!({})).await;
            assert_eq!(beat.status, 200, "{beat:?}");
        }
    }
    let page = nodes[0].get("/api/services?limit=2").await;
    let cursor = page.body["next_cursor"].as_str().unwrap();
    let next = nodes[1].get(&format!("/api/services?limit=2&cursor={cursor}")).await;
    assert_eq!((next.status, next.revision()), (200, page.revision()), "a cursor is good at any node");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_is_asked_to_stop_hands_over() {
    let [first, second, third] = three().await;
    let registered = first.register(json!({"id": "a", "name": "n", "url": "http://a", "ttl_ms": 60_000})).await;
    assert_eq!(registered.status, 201);
    tokio::time::timeout(PATIENCE, first.stop()).await.unwrap().unwrap();
    let begun = tokio::time::Instant::now();
    let written = second.register(json!({"id": "b", "name": "n", "url": "http://b"})).await;
    assert_eq!(written.status, 201, "{written:?}");
    assert!(begun.elapsed() < Duration::from_secs(3), "the write was held through the change of leader");
    let read = third.get("/api/services?consistency=linearizable").await;
    assert_eq!(read.body["total_count"], 2, "{read:?}");
}
