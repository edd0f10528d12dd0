//! P9, P10, P11: what watchers are told, by event stream and long poll.

use std::time::{Duration, Instant};

use reqwest::Method;
use rollcall_server::Settings;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::events::Events;
use crate::node::{Node, PATIENCE, answer};

fn body(id: &str, url: &str) -> Value {
    json!({"id": id, "name": "web", "url": url, "tags": ["x"], "ttl_ms": 60_000})
}

#[tokio::test]
async fn p9_a_snapshot_then_every_change_and_no_more() {
    let node = Node::start().await;
    node.register(body("a", "http://a")).await;
    node.register(json!({"id": "other", "name": "db", "url": "http://o"})).await;

    let mut events = Events::of(&node, "?name=web").await;
    assert_eq!(events.header("cache-control"), "no-cache");
    assert_eq!(events.header("rollcall-revision"), "2");
    assert!(!events.header("rollcall-staleness-ms").is_empty());
    let first = events.next().await.unwrap();
    assert_eq!((first.brief().as_str(), first.id.as_str()), ("snapshot a r2", ""));
    assert_eq!(still(first.data["service"].clone()), still(node.get("/api/services/a").await.body));
    let synced = events.next().await.unwrap();
    assert_eq!((synced.brief().as_str(), synced.id.as_str()), ("synced r2", "0-2"));

    let beat = async |body: Value| node.post("/api/services/a/heartbeat", &body).await;
    // Nothing of this changes anything.
    beat(json!({})).await;
    beat(json!({"status": "active"})).await;
    node.register(body("a", "http://a")).await;
    // This does.
    beat(json!({"status": "degraded"})).await;
    beat(json!({"metadata": {"load": "1"}})).await;
    node.register(body("a", "http://b")).await;
    node.register(body("b", "http://b")).await;
    node.register(json!({"id": "b", "name": "db", "url": "http://b"})).await;
    node.delete("/api/services/a").await;
    node.register(json!({"id": "c", "name": "web", "url": "http://c", "ttl_ms": 1000})).await;
    let expected = [
        "status_changed a r3",
        "updated a r4",
        "updated a r5",
        "registered b r6",
        "left b r7",
        "deregistered a r8",
        "registered c r9",
        "expired c r10",
    ];
    let mut told = Vec::new();
    while told.len() < expected.len() {
        let event = events.next().await.unwrap();
        if event.event == "bookmark" {
            continue;
        }
        assert_eq!(event.event, "change");
        assert_eq!(event.id, format!("0-{}", event.data["revision"]));
        assert_eq!(event.data["type"], "service_update");
        assert!(event.data["timestamp"].as_str().unwrap().ends_with('Z'));
        told.push((event.brief(), event.data));
    }
    assert_eq!(told.iter().map(|(brief, _)| brief.as_str()).collect::<Vec<_>>(), expected);
    // Who leaves is shown as it last matched, whoever goes as it last was.
    assert_eq!(told[4].1["service"]["name"], "web");
    assert_eq!(told[5].1["service"]["url"], "http://b");
    assert_eq!(told[7].1["service"]["lease"]["expires_in_ms"], 0);
    node.stop().await.unwrap();
    assert_eq!(events.next().await, None, "a node that ends ends its streams");
}

/// A service object without what changes by itself.
fn still(mut service: Value) -> Value {
    service["lease"]["expires_in_ms"].take();
    service["heartbeat"].take();
    service
}

#[tokio::test]
async fn p9_an_offline_instance_leaves_and_comes_back() {
    let node = Node::start().await;
    let mut usual = Events::of(&node, "").await;
    let mut all = Events::of(&node, "?status=active,offline").await;
    let body = json!({"id": "a", "name": "web", "url": "http://a", "ttl_ms": 1000, "reap_after_ms": 600_000});
    node.register(body).await;
    for events in [&mut usual, &mut all] {
        assert_eq!(events.briefs(2).await, ["synced r0", "registered a r1"]);
    }
    assert_eq!(usual.briefs(1).await, ["left a r2"]);
    assert_eq!(all.briefs(1).await, ["status_changed a r2"]);
    node.post("/api/services/a/heartbeat", &json!({})).await;
    for events in [&mut usual, &mut all] {
        assert_eq!(events.briefs(1).await, ["status_changed a r3"]);
    }
}

#[tokio::test]
async fn p9_resumes_after_any_revision_that_is_known() {
    let node = Node::start_as(Settings { history_changes_max: Some(4), ..Node::founder() }).await;
    for n in 1..=6 {
        node.register(body(&format!("i{n}"), "http://i")).await;
    }
    let mut events = Events::of(&node, "?from_revision=4").await;
    assert_eq!(events.briefs(2).await, ["registered i5 r5", "registered i6 r6"]);
    let present = events.next().await.unwrap();
    assert_eq!((present.event.as_str(), present.id.as_str()), ("bookmark", "0-6"));

    let watch = |from: &'static str| node.request(Method::GET, "/api/services/watch").header("last-event-id", from);
    // What the browser sends wins over what it was told to ask for.
    let both = node.request(Method::GET, "/api/services/watch?from_revision=2").header("last-event-id", "0-5");
    assert_eq!(Events::open(both).await.briefs(1).await, ["registered i6 r6"]);
    assert_eq!(Events::open(watch("")).await.briefs(1).await, ["snapshot i1 r6"]);
    assert_eq!(Events::open(watch("0-6")).await.next().await.unwrap().brief(), "bookmark r6");

    for gone in ["0-1", "0-0", "7-6"] {
        let refused = answer(watch(gone)).await;
        assert_eq!((refused.status, refused.code()), (410, "revision_compacted"), "{gone}");
    }
    for bad in ["6", "0-", "-6", "0-6-1", "a-b", "0-+6"] {
        let refused = answer(watch(bad)).await;
        assert_eq!((refused.status, refused.faults()), (400, vec!["Last-Event-ID"]), "{bad}");
    }
    let long = "x".repeat(9_000);
    for path in [format!("/api/services/watch?name={long}"), format!("/api/services?name={long}&after_revision=0")] {
        let refused = node.get(&path).await;
        assert_eq!((refused.status, refused.faults().pop()), (400, Some("query")));
    }
    let refused = node.get("/api/services/watch?limit=1&from_revision=x&color=red").await;
    assert_eq!((refused.status, refused.faults()), (400, vec!["from_revision", "color", "limit"]));
}

#[tokio::test]
async fn p9_a_revision_that_is_not_there_yet_is_waited_for() {
    let node = Node::start().await;
    let early = node.request(Method::GET, "/api/services/watch?from_revision=2");
    let refused = answer(early.try_clone().unwrap().header("x-request-timeout-ms", "50")).await;
    assert_eq!((refused.status, refused.code()), (504, "revision_not_reached"));
    let opening = tokio::spawn(Events::open(early));
    for n in 1..=3 {
        node.register(body(&format!("i{n}"), "http://i")).await;
    }
    assert_eq!(opening.await.unwrap().briefs(1).await, ["registered i3 r3"]);
}

#[tokio::test]
async fn p9_a_restart_forgets_nothing() {
    let dir = tempfile::tempdir().unwrap();
    // The log reaches back a few entries only.
    let settings = || Settings { snapshot_entries: Some(2), log_entries_kept: Some(1), ..Node::founder() };
    let node = Node::serve(dir.path(), settings()).await;
    for n in 1..=3 {
        assert_eq!(node.register(body(&format!("i{n}"), "http://i")).await.status, 201);
    }
    assert_eq!(node.delete("/api/services/i1").await.status, 200);
    for _ in 0..20 {
        assert_eq!(node.post("/api/services/i2/heartbeat", &json!({})).await.status, 200);
    }
    node.stop().await.unwrap();
    let node = Node::serve(dir.path(), settings()).await;
    let mut events = Events::of(&node, "?from_revision=1").await;
    assert_eq!(events.briefs(3).await, ["registered i2 r2", "registered i3 r3", "deregistered i1 r4"]);
}

#[tokio::test]
async fn p9_a_large_snapshot_shows_one_revision() {
    let node = Node::start().await;
    // More than a connection holds back, so that the last of it is read when the roll has moved on.
    let padding = "x".repeat(60_000);
    for n in 0..300 {
        let id = format!("i{n:03}");
        let body = json!({"id": id, "name": "web", "url": "http://i", "tags": ["x"], "metadata": {"p": padding}});
        assert_eq!(node.register(body).await.status, 201);
    }
    let mut events = Events::of(&node, "?tags=x").await;
    assert_eq!(events.briefs(1).await, ["snapshot i000 r300"]);
    // Behind the place that is being told.
    node.register(body("i000", "http://j")).await;
    node.delete("/api/services/i299").await;
    let mut told = events.briefs(302).await;
    assert_eq!(told.split_off(299), ["synced r300", "updated i000 r301", "deregistered i299 r302"]);
    assert!(told.iter().enumerate().all(|(n, brief)| *brief == format!("snapshot i{:03} r300", n + 1)), "{told:?}");
}

#[tokio::test]
async fn p10_tenants_do_not_see_each_other() {
    let node = Node::start().await;
    let of = |tenant: &'static str, id: &'static str| {
        let request = node.request(Method::POST, "/api/services/register").header("x-tenant-id", tenant);
        answer(request.json(&body(id, "http://i")))
    };
    let watch = |tenant: &'static str, query: &str| {
        let path = format!("/api/services/watch{query}");
        Events::open(node.request(Method::GET, &path).header("x-tenant-id", tenant))
    };
    of("one", "a").await;
    of("two", "a").await;
    let (mut one, mut two) = (watch("one", "").await, watch("two", "?from_revision=0").await);
    of("two", "b").await;
    of("one", "c").await;
    assert_eq!(one.briefs(3).await, ["snapshot a r2", "synced r2", "registered c r4"]);
    assert_eq!(two.briefs(2).await, ["registered a r2", "registered b r3"]);
}

#[tokio::test]
async fn p11_watchers_are_counted_and_limited() {
    let limits = Settings { watchers_max: Some(4), tenant_watchers_max: Some(2), ..Node::founder() };
    let node = Node::start_as(limits).await;
    let watch = |tenant: &'static str| node.request(Method::GET, "/api/services/watch").header("x-tenant-id", tenant);
    let first = Events::open(watch("one")).await;
    let second = Events::open(watch("one")).await;
    let refused = answer(watch("one")).await;
    assert_eq!((refused.status, refused.code()), (429, "too_many_watchers"));
    assert_eq!(refused.header("retry-after"), "1");
    let _others = [Events::open(watch("two")).await, Events::open(watch("three")).await];
    let refused = answer(watch("four")).await;
    assert!(refused.body["detail"].as_str().unwrap().contains("this node has 4 watchers"), "{refused:?}");
    let metrics = node.get("/metrics").await;
    assert_eq!(metrics.status, 200);
    let metrics = metrics.body.as_str().unwrap().to_owned();
    for line in ["rollcall_watchers 4", "rollcall_watch_feeds 3", "rollcall_watchers_refused_total 2"] {
        assert!(metrics.lines().any(|l| l == line), "{line} in {metrics}");
    }
    // A place is given back as soon as the connection is gone.
    drop((first, second));
    let dropped_at = Instant::now();
    node.until("there is room again", async || watch("one").send().await.unwrap().status() == 200).await;
    // Not only with the next bookmark, which would fail to be written.
    assert!(dropped_at.elapsed() < Duration::from_secs(5), "{:?}", dropped_at.elapsed());
}

/// Fills what a connection holds back, and the feed, with changes of 60 KB.
async fn fill(node: &Node, count: usize) {
    let padding = "x".repeat(60_000);
    for n in 0..count {
        let body = json!({"id": "big", "name": "big", "url": format!("http://h/{n}"), "metadata": {"p": padding}});
        assert!(node.register(body).await.status < 300);
    }
}

#[tokio::test]
async fn p9_p11_a_reader_that_stops_is_cut_and_others_see_nothing_of_it() {
    const CHANGES: usize = 300;
    let node = Node::start().await;
    let mut stalled = TcpStream::connect(node.base.trim_start_matches("http://")).await.unwrap();
    stalled
        .write_all(b"GET /api/services/watch?name=big HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n")
        .await
        .unwrap();
    let mut head = [0; 15];
    stalled.read_exact(&mut head).await.unwrap();
    assert_eq!(&head, b"HTTP/1.1 200 OK");

    let mut reader = Events::of(&node, "?name=big").await;
    let reading = async {
        let told = reader.briefs(CHANGES + 1).await;
        assert_eq!(told[0], "synced r0");
        for (n, brief) in told[1..].iter().enumerate() {
            assert_eq!(brief.rsplit_once(' ').unwrap().1, format!("r{}", n + 1));
        }
    };
    tokio::join!(reading, fill(&node, CHANGES));

    let mut rest = Vec::new();
    tokio::time::timeout(PATIENCE, stalled.read_to_end(&mut rest)).await.expect("the stream ends").unwrap();
    let text = String::from_utf8(rest).unwrap();
    let told = text.matches("event: change").count();
    assert!(told < CHANGES, "all was held in memory");
    let (_, resync) = text.split_once("event: resync").expect("it is told that it was cut");
    assert!(resync.contains(&format!(r#"data: {{"revision":{told}}}"#)), "{told} were told, then {resync}");
    let metrics = node.get("/metrics").await.body;
    assert!(metrics.as_str().unwrap().contains("rollcall_watch_resyncs_total 1"), "{metrics}");

    // It goes on after the last one it saw.
    let mut resumed = Events::of(&node, &format!("?name=big&from_revision={told}")).await;
    let last = resumed.briefs(CHANGES - told).await.pop().unwrap();
    assert_eq!(last, format!("updated big r{CHANGES}"));
}

#[tokio::test]
async fn a_long_poll_answers_when_something_changed() {
    let node = Node::start().await;
    node.register(body("a", "http://a")).await;
    let ids = |answer: &crate::node::Answer| {
        let services = answer.body["services"].as_array().unwrap();
        services.iter().map(|service| service["id"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    // It changed before.
    let poll = node.get("/api/services?name=web&after_revision=0&wait_ms=60000").await;
    assert_eq!((ids(&poll), poll.body["revision"].as_u64()), (vec!["a".to_owned()], Some(1)));
    // Nothing changes.
    let poll = node.get("/api/services?name=web&after_revision=1&wait_ms=50").await;
    assert_eq!((ids(&poll), poll.revision()), (vec!["a".to_owned()], 1));
    // It changes while it is waited for; what else changes is no reason to answer.
    let waiting = answer(node.request(Method::GET, "/api/services?name=web&after_revision=1&wait_ms=60000"));
    let (poll, ()) = tokio::join!(waiting, async {
        node.register(json!({"id": "o", "name": "db", "url": "http://o"})).await;
        node.register(body("b", "http://b")).await;
    });
    assert_eq!((ids(&poll), poll.revision()), (vec!["a".to_owned(), "b".to_owned()], 3));
    // Who left is a change as well.
    let waiting = answer(node.request(Method::GET, "/api/services?name=web&after_revision=3&wait_ms=60000"));
    let (poll, _) = tokio::join!(waiting, node.delete("/api/services/a"));
    assert_eq!(ids(&poll), ["b"]);

    let refused = node.get("/api/services?after_revision=100&wait_ms=5").await;
    assert_eq!((refused.status, refused.code()), (504, "revision_not_reached"));
    let refused = node.get("/api/services?wait_ms=5").await;
    assert_eq!((refused.status, refused.faults()), (400, vec!["wait_ms"]));
    let refused = node.get("/api/services?after_revision=1&cursor=x&wait_ms=300001").await;
    assert_eq!((refused.status, refused.faults()), (400, vec!["wait_ms", "after_revision"]));
}
