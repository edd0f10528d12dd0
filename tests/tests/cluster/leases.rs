//! P3, P4, P7: what a lease is worth.

use std::time::{Duration, Instant};

use rollcall_tests::{Cluster, pass, wait_until};
use serde_json::json;

/// From a change of leader until its clock runs and its grace is over: an election on a loaded machine, then twice the
/// largest election timeout.
const FAILOVER: Duration = Duration::from_millis(4_500);

#[tokio::test]
async fn p4_silent_instance_is_gone_within_ttl_and_a_second() {
    let cluster = Cluster::start(3).await;
    // Past the grace that follows the founding election.
    pass(Duration::from_secs(3)).await;
    let sent = Instant::now();
    cluster.nodes[1].api.register("web-1", 1_000).await;
    let registered = Instant::now();
    for node in &cluster.nodes {
        let present = node.api.get("/api/services/web-1?consistency=linearizable").await.status == 200;
        assert!(present || sent.elapsed() >= Duration::from_secs(1), "expired early");
    }
    wait_until("the instance is struck off everywhere", Duration::from_secs(10), || async {
        for node in &cluster.nodes {
            let overdue = registered.elapsed() > Duration::from_secs(2);
            match node.api.get("/api/services/web-1").await.status {
                404 => assert!(
                    sent.elapsed() >= Duration::from_secs(1),
                    "expired {:?} after it was sent",
                    sent.elapsed()
                ),
                _ => {
                    assert!(!overdue, "still there {:?} after it was registered", registered.elapsed());
                    return None;
                }
            }
        }
        Some(())
    })
    .await;
}

/// With `reap_after_ms` it first turns offline and can come back.
#[tokio::test]
async fn p4_offline_comes_before_reaped_and_a_heartbeat_revives() {
    let cluster = Cluster::start(1).await;
    let api = &cluster.nodes[0].api;
    let body = json!({ "id": "web-1", "name": "web", "url": "http://a", "ttl_ms": 1_000, "reap_after_ms": 600_000 });
    let lease = api.post("/api/services/register", &body).await.ok()["lease"]["id"].clone();
    wait_until("it is offline", Duration::from_secs(10), || async {
        (api.get("/api/services/web-1").await.ok()["status"] == "offline").then_some(())
    })
    .await;
    assert!(api.ids("").await.expect("a list").is_empty(), "offline instances are not found by default");
    assert_eq!(api.ids("status=offline").await.expect("a list"), ["web-1"]);

    let answer = api.post("/api/services/web-1/heartbeat", &json!({ "lease_id": lease })).await.ok();
    assert_eq!(answer["lease"]["id"], lease);
    assert_eq!(api.ids("").await.expect("a list"), ["web-1"]);
}

#[tokio::test]
async fn p3_p4_deadline_is_carried_over_a_failover() {
    let (ttl, killed_after) = (Duration::from_secs(9), Duration::from_secs(7));
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let survivor = (leader + 1) % 3;
    let sent = Instant::now();
    cluster.nodes[survivor].api.register("web-1", ttl.as_millis() as u64).await;
    pass(killed_after.saturating_sub(sent.elapsed())).await;

    cluster.nodes[leader].kill9();
    cluster.leader().await;
    let api = &cluster.nodes[survivor].api;
    let answer = api.get("/api/services/web-1?consistency=linearizable").await.ok();
    let left_ms = answer["lease"]["expires_in_ms"].as_u64().expect("a number");
    // The new leader knows its predecessor's clock as of the last heartbeat between them.
    let left_ms_max = (ttl - killed_after + Duration::from_millis(500)).as_millis() as u64;
    assert!(left_ms <= left_ms_max, "{left_ms} ms are left: the lease was reset");

    let gone = wait_until("the instance is struck off", ttl + FAILOVER, || async {
        (api.get("/api/services/web-1").await.status == 404).then(|| sent.elapsed())
    })
    .await;
    assert!(gone >= ttl, "expired {gone:?} after it was sent: the lease was shortened");
    assert!(gone < killed_after + ttl, "expired {gone:?} after it was sent: the lease was reset");
    assert!(gone <= ttl + Duration::from_secs(1) + FAILOVER, "expired only {gone:?} after it was sent");
}

#[tokio::test]
async fn p3_heartbeats_at_any_node_keep_an_instance_through_failovers() {
    let mut cluster = Cluster::start(3).await;
    let lease = cluster.nodes[0].api.register("web-1", 5_000).await;
    for _ in 0..2 {
        let leader = cluster.leader().await;
        cluster.nodes[leader].kill9();
        let survivors = [(leader + 1) % 3, (leader + 2) % 3];
        for round in 0..20 {
            let api = &cluster.nodes[survivors[round % 2]].api;
            let answer = api.post("/api/services/web-1/heartbeat", &json!({ "lease_id": lease })).await.ok();
            assert_eq!(answer["lease"]["id"], lease);
            pass(Duration::from_millis(100)).await;
        }
        cluster.nodes[leader].start();
        cluster.ready().await;
    }
    for node in &cluster.nodes {
        let service = node.api.get("/api/services/web-1?consistency=linearizable").await.ok();
        assert_eq!((&service["revision"], &service["lease"]["id"]), (&json!(lease), &json!(lease)));
    }
}

#[tokio::test]
async fn p7_older_lease_is_refused_at_every_node() {
    let cluster = Cluster::start(3).await;
    let old = cluster.nodes[0].api.register("web-1", 60_000).await;
    let body = json!({ "id": "web-1", "name": "web", "url": "http://newer", "ttl_ms": 60_000 });
    let new = cluster.nodes[1].api.post("/api/services/register", &body).await;
    assert_eq!(new.status, 200, "it replaced one");
    let new = new.ok();
    assert_ne!(new["lease"]["id"], old);

    for node in &cluster.nodes {
        let beats =
            [json!({ "lease_id": old }), json!({ "lease_id": old, "status": "error", "metadata": { "k": "v" } })];
        for beat in beats {
            let answer = node.api.post("/api/services/web-1/heartbeat", &beat).await;
            assert_eq!(answer.refused(409), "lease_superseded");
        }
        let answer = node.api.delete(&format!("/api/services/web-1?lease_id={old}")).await;
        assert_eq!(answer.refused(409), "lease_superseded");
        let batch = json!({ "leases": [old, new["lease"]["id"], new["lease"]["id"], 999_999] });
        let answer = node.api.post("/api/heartbeats", &batch).await.ok();
        assert_eq!(answer, json!({ "renewed": 1, "not_found": [999_999], "superseded": [old] }));
        let service = node.api.get("/api/services/web-1?consistency=linearizable").await.ok();
        assert_eq!((&service["url"], &service["revision"]), (&json!("http://newer"), &new["revision"]));
        assert_eq!(service["status"], "active");
    }
}
