//! P1, P5, P6, P8: what a full restart keeps.

use std::time::Duration;

use rollcall_tests::{Cluster, pass, wait_until};
use serde_json::json;

#[tokio::test]
async fn p1_p5_p6_full_restart_keeps_everything() {
    let mut cluster = Cluster::start(3).await;
    for n in 0..20 {
        cluster.nodes[n % 3].api.register(&format!("web-{n:02}"), 600_000).await;
    }
    let lease = cluster.nodes[0].api.register("short", 5_000).await;
    let before = cluster.nodes[0].api.status().await.expect("a status");
    for _ in 0..2 {
        cluster.nodes.iter_mut().for_each(|node| node.kill9());
        // Longer than the short lease, in which no heartbeat could arrive.
        pass(Duration::from_secs(6)).await;
        cluster.nodes.iter_mut().for_each(|node| node.start());
        cluster.ready().await;
        for node in &cluster.nodes {
            let after = node.api.status().await.expect("a status");
            for counter in ["revision", "cluster_time_ms", "term", "applied_index"] {
                assert!(after[counter].as_u64() >= before[counter].as_u64(), "{counter}: {before} then {after}");
            }
            assert_eq!(after["cluster_id"], before["cluster_id"]);
        }
        let answer = cluster.nodes[1].api.post("/api/heartbeats", &json!({ "leases": [lease] })).await.ok();
        assert_eq!(answer["renewed"], 1, "the short lease ran out while everybody was down");
        assert_eq!(cluster.nodes[2].api.ids("consistency=linearizable").await.expect("a list").len(), 21);
    }
    cluster.digests_agree().await;
}

#[tokio::test]
async fn single_node_does_the_whole_job_alone_and_restarts() {
    let mut cluster = Cluster::start(1).await;
    let lease = cluster.nodes[0].api.register("web-1", 60_000).await;
    cluster.nodes[0].api.register("web-2", 60_000).await;
    cluster.nodes[0].api.delete("/api/services/web-2").await.ok();
    cluster.nodes[0].term();
    assert!(cluster.nodes[0].exit(Duration::from_secs(20)).await.success());
    cluster.nodes[0].start();
    cluster.ready().await;
    let service = cluster.nodes[0].api.get("/api/services/web-1").await.ok();
    assert_eq!((&service["lease"]["id"], &service["revision"]), (&json!(lease), &json!(lease)));
    assert_eq!(cluster.nodes[0].api.get("/api/services/web-2").await.refused(404), "not_found");
    assert!(cluster.nodes[0].api.register("web-3", 60_000).await > lease + 2, "a lease id was used twice");
}

/// A restarted node answers with all it ought to know, or says that it does not know.
#[tokio::test]
async fn p8_starting_node_never_answers_with_an_empty_list() {
    let mut cluster = Cluster::start(3).await;
    for n in 0..50 {
        cluster.nodes[0].api.register(&format!("web-{n:02}"), 600_000).await;
    }
    for place in 0..3 {
        cluster.nodes[place].kill9();
        // The others go on meanwhile.
        let other = (place + 1) % 3;
        cluster.nodes[other].api.register(&format!("while-{place}-was-down"), 600_000).await;
        cluster.nodes[place].start();
        let api = &cluster.nodes[place].api;
        wait_until("the node is ready", Duration::from_secs(60), || async {
            let answer = api.try_get("/api/services?limit=1").await.ok()?;
            match answer.status {
                200 => assert_eq!(answer.body["total_count"], 51 + place, "a list with holes"),
                _ => assert_eq!(answer.refused(503), "not_ready"),
            }
            (answer.status == 200 && api.is_ready().await).then_some(())
        })
        .await;
        assert_eq!(api.get("/livez").await.status, 200);
    }
}
