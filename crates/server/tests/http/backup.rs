//! Backups over HTTP, and what a restored node makes of what its clients remember.

use reqwest::Method;
use rollcall_server::Settings;
use rollcall_server::config::NodeRole;
use rollcall_server::offline::{self, Member};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::events::Events;
use crate::node::{Node, answer};

/// Long enough that nobody reads it in one go: sockets take a few MB at most.
const LARGE: usize = 400;

async fn fill(node: &Node, count: usize) {
    for n in 0..count {
        let metadata = json!({"n": n, "filling": "x".repeat(50_000)});
        let body =
            json!({"id": format!("i{n}"), "name": "web", "url": "http://a", "ttl_ms": 600_000, "metadata": metadata});
        assert_eq!(node.register(body).await.status, 201);
    }
}

async fn backup(node: &Node) -> (reqwest::header::HeaderMap, Vec<u8>) {
    let response = node.request(Method::GET, "/api/cluster/backup").send().await.expect("an answer");
    assert_eq!(response.status().as_u16(), 200);
    let headers = response.headers().clone();
    (headers, response.bytes().await.expect("a whole body").to_vec())
}

fn member() -> Member {
    Member { api_address: "127.0.0.1:1".to_owned(), peer_address: "127.0.0.1:2".to_owned(), ..Member::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_holds_all_tenants_at_one_index() {
    let node = Node::start().await;
    fill(&node, 3).await;
    let other = node.request(Method::POST, "/api/services/register").header("X-Tenant-ID", "other");
    let other = answer(other.json(&json!({"id": "o", "name": "n", "url": "http://o"}))).await;
    assert_eq!(other.status, 201);
    let (headers, bytes) = backup(&node).await;
    let header = |name: &str| headers[name].to_str().unwrap();
    assert_eq!(header("content-type"), "application/octet-stream");
    assert_eq!(header("content-disposition"), "attachment; filename=\"rollcall-0-4.backup\"");
    assert_eq!((header("rollcall-revision"), header("rollcall-epoch")), ("4", "0"));
    assert!(!header("rollcall-staleness-ms").is_empty());
    let index = header("rollcall-applied-index");

    let summary = offline::verify(&bytes[..]).unwrap();
    let status = node.get("/api/cluster/status").await.body;
    assert_eq!(status["cluster_id"], summary.cluster_id.to_string());
    assert_eq!((summary.instances, summary.bytes), (4, bytes.len() as u64));
    assert_eq!(summary.moment.applied_index.to_string(), index);
    let digest = node.get(&format!("/api/cluster/digest?index={index}")).await;
    assert_eq!(digest.body["digest"], summary.moment.digest.to_string());
    assert_eq!(digest.body["epoch"], 0);
    let faulty = node.get("/api/cluster/backup?all=true").await;
    assert_eq!((faulty.status, faulty.faults()), (400, vec!["all"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn p11_backups_at_once_are_bounded_and_a_reader_that_vanishes_makes_room() {
    let node = Node::start().await;
    fill(&node, LARGE).await;
    let address = node.base.trim_start_matches("http://").to_owned();
    let begin = async || {
        let mut stream = TcpStream::connect(&address).await.unwrap();
        stream.write_all(b"GET /api/cluster/backup HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
        let mut head = [0; 16];
        stream.read_exact(&mut head).await.unwrap();
        assert!(head.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&head));
        stream
    };
    let (first, second) = (begin().await, begin().await);
    let third = node.get("/api/cluster/backup").await;
    assert_eq!((third.status, third.code(), third.header("retry-after")), (429, "too_many_backups", "1"));
    // Who reads slowly holds up nobody.
    let written = node.register(json!({"id": "during", "name": "web", "url": "http://a"})).await;
    assert_eq!(written.status, 201);
    drop(first);
    let has_room = async || answer(node.request(Method::HEAD, "/api/cluster/backup")).await.status == 200;
    node.until("a reader that is gone makes room", has_room).await;
    drop(second);
    let (_, bytes) = backup(&node).await;
    assert_eq!(offline::verify(&bytes[..]).unwrap().instances, LARGE as u64 + 1);
    node.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn p8_a_learner_gives_backups_but_no_node_that_has_not_caught_up() {
    let node = Node::start().await;
    fill(&node, 1).await;
    let dir = tempfile::tempdir().unwrap();
    let learner = Settings {
        join: Some(vec![node.peer_address.clone()]),
        node_role: Some(NodeRole::Learner),
        ..Settings::default()
    };
    let learner = Node::serve(dir.path(), learner).await;
    let (headers, bytes) = backup(&learner).await;
    let summary = offline::verify(&bytes[..]).unwrap();
    assert_eq!(
        (summary.instances, summary.node_id.to_string().as_str()),
        (1, headers["rollcall-node"].to_str().unwrap())
    );
    learner.stop().await.unwrap();
    node.stop().await.unwrap();

    // Nobody tells it what it lacks.
    let alone = Node::serve_unready(dir.path()).await;
    let request = alone.request(Method::GET, "/api/cluster/backup").header("X-Request-Timeout-Ms", "200");
    let refused = answer(request).await;
    assert_eq!((refused.status, refused.code()), (503, "not_ready"));
    alone.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn p9_no_resume_point_and_no_cursor_of_before_a_restore_is_good_after_it() {
    let node = Node::start().await;
    fill(&node, 3).await;
    let page = node.get("/api/services?limit=1").await;
    let cursor = page.body["next_cursor"].as_str().unwrap().to_owned();
    let mut events = Events::of(&node, "").await;
    events.briefs(3).await;
    let point = events.next().await.unwrap().id;
    assert_eq!(point, "0-3");
    let digest = node.get("/api/cluster/digest").await.body;
    let (_, bytes) = backup(&node).await;
    node.stop().await.unwrap();

    let dir = tempfile::tempdir().unwrap();
    let restored = offline::restore(&bytes[..], dir.path(), member(), None).unwrap();
    assert_eq!(restored.backup.moment.digest.to_string(), digest["digest"]);
    let node = Node::serve(dir.path(), Settings::default()).await;
    let status = node.get("/api/cluster/status").await.body;
    assert_eq!((&status["epoch"], &status["revision"]), (&json!(1), &json!(3)));
    assert_eq!(status["cluster_id"], restored.cluster_id.to_string());
    assert_eq!(status["members"][0]["peer_address"], "127.0.0.1:2");

    let watch = |query: &str| node.request(Method::GET, &format!("/api/services/watch{query}"));
    for refused in [
        watch("").header("last-event-id", &point),
        watch("?from_revision=3&epoch=0"),
        watch("?from_revision=2&epoch=0"),
    ] {
        let refused = answer(refused).await;
        assert_eq!((refused.status, refused.code()), (410, "revision_compacted"), "{refused:?}");
    }
    let faulty = answer(watch("?epoch=0")).await;
    assert_eq!((faulty.status, faulty.faults()), (400, vec!["epoch"]));
    let page = node.get(&format!("/api/services?limit=1&cursor={cursor}")).await;
    assert_eq!((page.status, page.code()), (410, "cursor_expired"));

    // The history came along: of the new epoch, every revision of before is one to go on from.
    let mut events = Events::open(watch("?from_revision=2&epoch=1")).await;
    assert_eq!(events.next().await.unwrap().id, "1-3");
    let written = node.register(json!({"id": "after", "name": "web", "url": "http://a"})).await;
    assert_eq!((written.status, written.revision()), (201, 4));
    node.stop().await.unwrap();
}
