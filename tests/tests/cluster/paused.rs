//! P5: time that nobody could use expires nobody.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rollcall_tests::{Api, Cluster, pass};
use serde_json::json;

/// Longer than every TTL below.
const PAUSE: Duration = Duration::from_secs(5);
const TTL_MS: u64 = 2_000;

/// Renews all leases at the first node that answers, until it is told to stop.
async fn keep_alive(apis: Vec<Api>, leases: &[u64], stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        for api in &apis {
            let request = api.request(reqwest::Method::POST, "/api/heartbeats").timeout(Duration::from_millis(600));
            if api.send(request.json(&json!({ "leases": leases }))).await.is_ok_and(|answer| answer.status == 200) {
                break;
            }
        }
        pass(Duration::from_millis(200)).await;
    }
}

async fn assert_untouched(api: &Api, leases: &[u64]) {
    for (n, lease) in leases.iter().enumerate() {
        let service = api.get(&format!("/api/services/web-{n}?consistency=linearizable")).await.ok();
        assert_eq!(service["lease"]["id"], *lease, "another incarnation: the first one expired");
        assert_eq!(service["revision"], *lease, "something changed it");
        assert_eq!(service["status"], "active");
    }
}

#[tokio::test]
async fn p5_leader_that_wakes_from_a_long_pause_expires_nobody() {
    let cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let others: Vec<usize> = (0..3).filter(|place| *place != leader).collect();
    let mut leases = Vec::new();
    for n in 0..5 {
        leases.push(cluster.nodes[others[n % 2]].api.register(&format!("web-{n}"), TTL_MS + 3_000).await);
    }
    let stop = AtomicBool::new(false);
    let agents = keep_alive(others.iter().map(|place| cluster.nodes[*place].api.clone()).collect(), &leases, &stop);
    let test = async {
        pass(Duration::from_millis(500)).await;
        cluster.nodes[leader].stop();
        cluster.leader_among(&others).await;
        pass(PAUSE).await;
        cluster.nodes[leader].cont();
        // Long enough for everything that the old leader may still want to do.
        pass(Duration::from_secs(3)).await;
        cluster.ready().await;
        for node in &cluster.nodes {
            assert_untouched(&node.api, &leases).await;
        }
        stop.store(true, Ordering::Relaxed);
    };
    tokio::join!(agents, test);
    cluster.digests_agree().await;
}

#[tokio::test]
async fn p5_pause_of_the_whole_cluster_expires_nobody() {
    let cluster = Cluster::start(3).await;
    let mut leases = Vec::new();
    for n in 0..5 {
        leases.push(cluster.nodes[n % 3].api.register(&format!("web-{n}"), 4_000).await);
    }
    cluster.nodes.iter().for_each(|node| node.stop());
    pass(PAUSE + Duration::from_secs(2)).await;
    cluster.nodes.iter().for_each(|node| node.cont());
    // Cluster time stood still, so that what was left of each lease is still left.
    for node in &cluster.nodes {
        assert_untouched(&node.api, &leases).await;
    }
    let answer = cluster.nodes[0].api.post("/api/heartbeats", &json!({ "leases": leases })).await.ok();
    assert_eq!(answer["renewed"], 5, "{answer}");
}

#[tokio::test]
async fn p5_lost_quorum_expires_nobody() {
    let cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let lease = cluster.nodes[leader].api.register("web-0", 4_000).await;
    let others: Vec<usize> = (0..3).filter(|place| *place != leader).collect();
    others.iter().for_each(|place| cluster.nodes[*place].stop());
    pass(PAUSE + Duration::from_secs(2)).await;
    let answer = cluster.nodes[leader].api.get("/api/services/web-0").await.ok();
    assert_eq!(answer["lease"]["id"], lease, "an instance was struck off without a quorum");
    others.iter().for_each(|place| cluster.nodes[*place].cont());
    assert_untouched(&cluster.nodes[others[0]].api, &[lease]).await;
}

/// A write during a pause of the leader is held through the election, not refused.
#[tokio::test]
async fn write_is_held_through_an_election() {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    cluster.nodes[leader].kill9();
    for place in (0..3).filter(|place| *place != leader) {
        let body = json!({ "id": format!("web-{place}"), "name": "web", "url": "http://a" });
        let answer = cluster.nodes[place].api.post("/api/services/register", &body).await;
        assert_eq!(answer.status, 201, "{}", answer.body);
    }

    // Without a quorum it is held until its deadline, and then says that it was not applied or may have been.
    let last = cluster.follower().await;
    cluster.nodes[last].kill9();
    let api = &cluster.nodes[(0..3).find(|place| cluster.nodes[*place].is_running()).expect("one is left")].api;
    let body = json!({ "id": "web-9", "name": "web", "url": "http://a" });
    let request = api.request(reqwest::Method::POST, "/api/services/register").json(&body);
    let answer = api.send(request.header("X-Request-Timeout-Ms", "1000")).await.expect("an answer");
    assert!([503, 504].contains(&answer.status), "{} {}", answer.status, answer.body);
    let outcome = answer.body["outcome"].as_str();
    assert!(matches!(outcome, Some("not_applied" | "unknown")), "{}", answer.body);
}
