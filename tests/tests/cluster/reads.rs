//! P8: what a read may show.

use std::time::{Duration, Instant};

use rollcall_tests::{Cluster, wait_until};
use serde_json::json;

const TTL_MS: u64 = 60_000;

#[tokio::test]
async fn p8_linearizable_read_follows_write_at_every_node() {
    let cluster = Cluster::start(3).await;
    for round in 0..10 {
        for (writer, node) in cluster.nodes.iter().enumerate() {
            let id = format!("web-{round}-{writer}");
            node.api.register(&id, TTL_MS).await;
            for reader in &cluster.nodes {
                let path = format!("/api/services/{id}?consistency=linearizable");
                let answer = reader.api.get(&path).await;
                assert_eq!(answer.header_number("Rollcall-Staleness-Ms"), 0);
                assert_eq!(answer.ok()["id"], id.as_str());
                let ids = reader.api.ids("consistency=linearizable").await.expect("a list");
                assert_eq!(ids.len(), round * 3 + writer + 1);
            }
        }
    }
}

#[tokio::test]
async fn p8_min_revision_shows_ones_own_write_at_another_node() {
    let cluster = Cluster::start(3).await;
    for round in 0..30 {
        let (writer, reader) = (&cluster.nodes[round % 3].api, &cluster.nodes[(round + 1) % 3].api);
        let id = format!("web-{round}");
        let body = json!({ "id": id, "name": "web", "url": "http://a", "ttl_ms": TTL_MS });
        let answer = writer.post("/api/services/register", &body).await;
        let revision = answer.header_number("Rollcall-Revision");
        assert_eq!(answer.ok()["revision"], revision);
        let answer = reader.get(&format!("/api/services/{id}?min_revision={revision}")).await;
        assert!(answer.header_number("Rollcall-Revision") >= revision);
        assert_eq!(answer.ok()["revision"], revision);
    }

    let request = cluster.nodes[0].api.request(reqwest::Method::GET, "/api/services?min_revision=1000000");
    let answer = cluster.nodes[0].api.send(request.header("X-Request-Timeout-Ms", "300")).await.expect("an answer");
    assert_eq!(answer.refused(504), "revision_not_reached");
}

/// A node that hears nothing from a leader says how old its answers are, and refuses those who want newer ones.
#[tokio::test]
async fn p8_local_reads_say_how_old_they_are() {
    let cluster = Cluster::start(3).await;
    cluster.nodes[0].api.register("web-1", TTL_MS).await;
    let follower = cluster.follower().await;
    let reader = &cluster.nodes[follower].api;
    wait_until("the write is seen", Duration::from_secs(10), || async {
        (reader.get("/api/services/web-1").await.status == 200).then_some(())
    })
    .await;

    let others: Vec<_> = (0..3).filter(|place| *place != follower).map(|place| &cluster.nodes[place]).collect();
    others.iter().for_each(|node| node.stop());
    let cut_off = Instant::now();
    let refused = wait_until("the answer is too old", Duration::from_secs(10), || async {
        let asked = cut_off.elapsed();
        let answer = reader.get("/api/services").await;
        // What was said in the moment before the others halted may still count.
        let true_age_ms = asked.saturating_sub(Duration::from_millis(100)).as_millis() as u64;
        let said_ms = answer.header_number("Rollcall-Staleness-Ms");
        assert!(said_ms >= true_age_ms, "said {said_ms} ms, but nothing arrived for {true_age_ms} ms");
        assert_eq!(answer.ok()["total_count"], 1, "an old answer is still a whole one");
        let answer = reader.get("/api/services?max_staleness_ms=1000").await;
        (answer.status != 200).then_some(answer)
    })
    .await;
    assert_eq!(refused.refused(503), "too_stale");
    assert!(refused.headers.contains_key("Retry-After"));

    let request = reader.request(reqwest::Method::GET, "/api/services?consistency=linearizable");
    let answer = reader.send(request.header("X-Request-Timeout-Ms", "500")).await.expect("an answer");
    assert_eq!(answer.refused(503), "no_leader");
    others.iter().for_each(|node| node.cont());
    cluster.ready().await;
}

/// While writes go on, the revisions of one node's answers never go back, and each answer is what the roll was then:
/// instance `web-N` is written as the N-th, so that an answer with `web-N` has all before it.
#[tokio::test]
async fn p8_local_reads_are_a_prefix_of_the_log() {
    let cluster = Cluster::start(3).await;
    let count = 300;
    let writer = async {
        for n in 0..count {
            cluster.nodes[n % 3].api.register(&format!("web-{n:04}"), TTL_MS).await;
        }
    };
    let read = async |place: usize| {
        let (mut newest, mut seen) = (0, 0);
        while seen < count {
            let answer = cluster.nodes[place].api.get("/api/services?limit=1000").await;
            let revision = answer.header_number("Rollcall-Revision");
            assert!(revision >= newest, "revision {revision} after {newest}");
            let services = answer.ok()["services"].as_array().expect("a list").clone();
            assert!(services.len() >= seen, "instances were lost from sight");
            for (n, service) in services.iter().enumerate() {
                assert_eq!(service["id"], format!("web-{n:04}"), "a later write is seen before an earlier one");
            }
            (newest, seen) = (revision, services.len());
        }
    };
    tokio::join!(writer, read(0), read(1), read(2));
}

/// A page and its cursor show one revision, at whatever node the next page is asked for.
#[tokio::test]
async fn pages_show_one_revision_at_every_node() {
    let cluster = Cluster::start(3).await;
    for n in 0..30 {
        cluster.nodes[0].api.register(&format!("web-{n:02}"), TTL_MS).await;
    }
    let first = cluster.nodes[0].api.get("/api/services?limit=10&consistency=linearizable").await.ok();
    let (mut cursor, mut ids) = (first["next_cursor"].clone(), first["services"].as_array().expect("a list").clone());
    for node in [&cluster.nodes[1], &cluster.nodes[2]] {
        node.api.delete("/api/services/web-29").await;
        node.api.register("web-15a", TTL_MS).await;
        let cursor_text = cursor.as_str().expect("a next page");
        let page = node.api.get(&format!("/api/services?limit=10&cursor={cursor_text}")).await.ok();
        assert_eq!((&page["revision"], &page["total_count"]), (&first["revision"], &first["total_count"]));
        ids.extend(page["services"].as_array().expect("a list").clone());
        cursor = page["next_cursor"].clone();
    }
    let ids: Vec<_> = ids.iter().map(|service| service["id"].as_str().expect("an id")).collect();
    assert_eq!(ids, (0..30).map(|n| format!("web-{n:02}")).collect::<Vec<_>>());
    assert!(cursor.is_null(), "three pages were all");
}
