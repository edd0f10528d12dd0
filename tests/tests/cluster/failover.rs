//! P1, P2: nothing acknowledged is lost, and all nodes are one.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use rollcall_tests::{Api, Cluster, wait_until};
use serde_json::json;

const TTL_MS: u64 = 600_000;

#[tokio::test]
async fn writes_at_each_node_are_read_at_each_other() {
    let cluster = Cluster::start(3).await;
    for (place, node) in cluster.nodes.iter().enumerate() {
        node.api.register(&format!("web-{place}"), TTL_MS).await;
    }
    for node in &cluster.nodes {
        wait_until("all three are seen", Duration::from_secs(10), || async {
            (node.api.ids("").await.ok()? == ["web-0", "web-1", "web-2"]).then_some(())
        })
        .await;
    }
    cluster.digests_agree().await;
}

#[tokio::test]
async fn p1_no_acknowledged_write_is_lost_when_leaders_are_killed_under_load() {
    let mut cluster = Cluster::start(3).await;
    let apis: Vec<Api> = cluster.nodes.iter().map(|node| node.api.clone()).collect();
    let acknowledged = Mutex::new(Vec::new());
    let stop = AtomicBool::new(false);
    let write = async |writer: usize| {
        for n in 0.. {
            if stop.load(Ordering::Relaxed) {
                break;
            }
            let id = format!("web-{writer}-{n:05}");
            let body = json!({ "id": id, "name": "web", "url": "http://a", "ttl_ms": TTL_MS });
            // A killed node answers nothing; what it did not acknowledge may or may not be there.
            if let Ok(answer) = apis[(writer + n) % 3].try_post("/api/services/register", &body).await
                && answer.status == 201
            {
                acknowledged.lock().expect("nobody panicked").push(id);
            }
        }
    };
    let disturb = async {
        for _ in 0..3 {
            let leader = cluster.leader().await;
            let before = acknowledged.lock().expect("nobody panicked").len();
            wait_until("some writes are acknowledged", Duration::from_secs(30), || async {
                (acknowledged.lock().expect("nobody panicked").len() > before + 200).then_some(())
            })
            .await;
            cluster.nodes[leader].kill9();
            let killed = Instant::now();
            cluster.nodes[(leader + 1) % 3].api.register("after-the-kill", TTL_MS).await;
            let taken = killed.elapsed();
            assert!(taken < Duration::from_secs(3), "the next write succeeded only after {taken:?}");
            cluster.nodes[leader].start();
            cluster.ready().await;
        }
        stop.store(true, Ordering::Relaxed);
    };
    tokio::join!(join_all((0..6).map(write)), disturb);

    let acknowledged = acknowledged.into_inner().expect("nobody panicked");
    for node in &cluster.nodes {
        let ids = node.api.ids("consistency=linearizable").await.expect("a list");
        let lost = acknowledged.iter().find(|id| ids.binary_search(id).is_err());
        assert!(lost.is_none(), "{lost:?} was acknowledged and is gone");
    }
    cluster.digests_agree().await;
}

#[tokio::test]
async fn p2_digests_agree_after_ten_thousand_mixed_writes_with_kills() {
    const WRITES: usize = 10_000;
    const WRITERS: usize = 24;
    let mut cluster = Cluster::start_with(3, &["--snapshot-entries", "500", "--log-entries-kept", "200"]).await;
    let apis: Vec<Api> = cluster.nodes.iter().map(|node| node.api.clone()).collect();
    let (started, done) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let write = async || {
        loop {
            let n = started.fetch_add(1, Ordering::Relaxed);
            if n >= WRITES {
                break;
            }
            mixed_write(&apis[n % 3], n).await;
            done.fetch_add(1, Ordering::Relaxed);
        }
    };
    let disturb = async {
        for victim in 0..3 {
            wait_until("a quarter more is written", Duration::from_secs(120), || async {
                (done.load(Ordering::Relaxed) >= (victim + 1) * WRITES / 4).then_some(())
            })
            .await;
            cluster.nodes[victim].kill9();
            cluster.leader().await;
            cluster.nodes[victim].start();
            cluster.nodes[victim].ready(Duration::from_secs(60)).await;
        }
    };
    tokio::join!(join_all((0..WRITERS).map(|_| write())), disturb);
    cluster.digests_agree().await;
    assert!(cluster.nodes[0].api.status().await.expect("a status")["revision"].as_u64() > Some(1_000));
}

/// One write of a kind and an instance that `n` chooses. Whether it succeeds is not of interest here.
async fn mixed_write(api: &Api, n: usize) {
    let id = format!("web-{}", n * 7_919 % 500);
    let path = format!("/api/services/{id}");
    let ttl_ms = [1_000, TTL_MS, TTL_MS, TTL_MS][n % 4];
    let status = ["degraded", "active"][n / 10 % 2];
    let answer = match n % 10 {
        0..=4 => {
            let body = json!({
                "id": id, "name": format!("service-{}", n % 7), "url": format!("http://{}", n % 3),
                "tags": [format!("t{}", n % 5)], "metadata": { "n": n % 11 }, "ttl_ms": ttl_ms,
            });
            api.try_post("/api/services/register", &body).await
        }
        5 | 6 => api.try_post(&format!("{path}/heartbeat"), &json!({})).await,
        7 => {
            let body = json!({ "status": status, "metadata": { "load": n % 13 } });
            api.try_post(&format!("{path}/heartbeat"), &body).await
        }
        8 => {
            api.try_post(
                "/api/heartbeats",
                &json!({ "leases": (n as u64 / 2..n as u64 / 2 + 50).collect::<Vec<_>>() }),
            )
            .await
        }
        _ => api.send(api.request(reqwest::Method::DELETE, &path)).await,
    };
    if let Ok(answer) = answer {
        assert!(answer.status < 500 || answer.status == 503 || answer.status == 504, "{}", answer.body);
    }
}

/// A process that ended is gone for certain, and nobody waits for its lease to run out.
#[tokio::test]
async fn a_leader_whose_process_ended_is_succeeded_without_an_election_timeout() {
    const TIMEOUT_MS_MIN: u64 = 60_000;
    let timeouts = ["--election-timeout-ms-min", "60000", "--election-timeout-ms-max", "120000"];
    let mut cluster = Cluster::start_with(3, &timeouts).await;
    for _ in 0..2 {
        let leader = cluster.leader().await;
        cluster.nodes[leader].kill9();
        let killed = Instant::now();
        cluster.nodes[(leader + 1) % 3].api.register("after-the-kill", TTL_MS).await;
        assert!(killed.elapsed() < Duration::from_millis(TIMEOUT_MS_MIN), "it took {:?}", killed.elapsed());
        cluster.nodes[leader].start();
        cluster.ready().await;
    }
    cluster.digests_agree().await;
}

/// SIGTERM is no failure: the leader hands over and ends in peace, and the next write hardly waits.
#[tokio::test]
async fn leader_hands_over_when_it_is_asked_to_end() {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    cluster.nodes[leader].term();
    let asked = Instant::now();
    cluster.nodes[(leader + 1) % 3].api.register("web-1", TTL_MS).await;
    assert!(asked.elapsed() < Duration::from_secs(3), "the next write took {:?}", asked.elapsed());
    let status = cluster.nodes[leader].exit(Duration::from_secs(20)).await;
    assert!(status.success(), "{status}");
}

#[tokio::test]
async fn follower_far_behind_catches_up_by_snapshot() {
    let mut cluster = Cluster::start_with(3, &["--snapshot-entries", "50", "--log-entries-kept", "20"]).await;
    cluster.nodes[0].api.register("before", TTL_MS).await;
    let behind = cluster.follower().await;
    cluster.nodes[behind].kill9();
    let writer = (behind + 1) % 3;
    for n in 0..400 {
        cluster.nodes[writer].api.register(&format!("web-{n:03}"), TTL_MS).await;
    }
    cluster.nodes[writer].api.delete("/api/services/before").await.ok();

    // P8: an answer is all or nothing, however early it is asked for.
    cluster.nodes[behind].start();
    let api = &cluster.nodes[behind].api;
    let count = wait_until("the node answers", Duration::from_secs(60), || async {
        let answer = api.try_get("/api/services?limit=1").await.ok()?;
        if answer.status != 200 {
            assert_eq!(answer.refused(503), "not_ready");
            return None;
        }
        answer.body["total_count"].as_u64()
    })
    .await;
    assert_eq!(count, 400, "a node that is not ready does not guess");
    cluster.ready().await;
    cluster.digests_agree().await;

    // What came by snapshot survives a restart.
    cluster.nodes[behind].kill9();
    cluster.nodes[behind].start();
    cluster.ready().await;
    assert_eq!(cluster.nodes[behind].api.ids("").await.expect("a list").len(), 400);
    cluster.digests_agree().await;
}
