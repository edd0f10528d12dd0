//! P1, P5, P6: what is left of a cluster that is gone, whole or but for one node.

use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use reqwest::Method;
use rollcall_tests::{Api, Cluster, Events, Node, pass, rollcall, wait_until};
use serde_json::{Value, json};
use tokio::task::JoinSet;

const DEADLINE: Duration = Duration::from_secs(60);

/// What the command line says, as JSON.
async fn told(arguments: &[&str]) -> Value {
    let mut command = tokio::process::Command::from(rollcall());
    let output = command.args(arguments).args(["-o", "json"]).stdin(Stdio::null()).output().await.expect("it runs");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {} {error}", output.status);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{arguments:?} said no JSON: {error}"))
}

async fn digest(api: &Api, index: &Value) -> Value {
    api.get(&format!("/api/cluster/digest?index={index}")).await.ok()["digest"].clone()
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path of plain text")
}

async fn restore(backup: &Path, node: &Node) -> Value {
    let (data_dir, clients, peers) = (node.data_dir(), node.client_address(), node.peer_address());
    let addresses = ["--advertise", &clients, "--peer-advertise", &peers];
    told(&[&["cluster", "restore", text(backup), "--data-dir", text(&data_dir)][..], &addresses].concat()).await
}

/// Registers, beats and deregisters until told to stop, and counts what was acknowledged. Nothing may be refused.
async fn write(writer: usize, api: Api, stop: Arc<AtomicBool>, written: Arc<AtomicU64>) {
    let mut n = 0u64;
    while !stop.load(Ordering::Relaxed) {
        let id = format!("w{writer}-{}", n % 50);
        let body = json!({ "id": id, "name": "busy", "url": format!("http://h/{n}"), "ttl_ms": 600_000 });
        let lease = api.post("/api/services/register", &body).await.ok()["lease"]["id"].clone();
        api.post("/api/heartbeats", &json!({ "leases": [lease] })).await.ok();
        if n.is_multiple_of(7) {
            api.delete(&format!("/api/services/{id}")).await.ok();
        }
        n += 1;
        written.fetch_add(1, Ordering::Relaxed);
    }
}

#[tokio::test]
async fn p2_p5_p6_a_backup_under_writes_becomes_an_equal_cluster_elsewhere() {
    let mut cluster = Cluster::start(3).await;
    for n in 0..20 {
        cluster.nodes[n % 3].api.register(&format!("kept-{n:02}"), 600_000).await;
    }
    let lease = cluster.nodes[0].api.register("short", 5_000).await;
    let (stop, written) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let mut writers = JoinSet::new();
    for (n, node) in cluster.nodes.iter().enumerate() {
        writers.spawn(write(n, node.api.clone(), stop.clone(), written.clone()));
    }
    let more = async |count| {
        let before = written.load(Ordering::Relaxed);
        let more = || async { (written.load(Ordering::Relaxed) >= before + count).then_some(()) };
        wait_until("writing goes on", DEADLINE, more).await;
    };
    let file = cluster.directory().join("roll.backup");
    let mut taken = Value::Null;
    for node in &cluster.nodes {
        more(100).await;
        cluster.nodes[0].api.post("/api/heartbeats", &json!({ "leases": [lease] })).await.ok();
        let endpoint = format!("http://{}", node.client_address());
        taken = told(&["cluster", "backup", text(&file), "--overwrite", "--endpoint", &endpoint]).await;
        for other in &cluster.nodes {
            let digest = digest(&other.api, &taken["applied_index"]).await;
            assert_eq!(digest, taken["digest"], "the backup is not the roll at its index");
        }
        more(100).await;
    }
    stop.store(true, Ordering::Relaxed);
    while let Some(ended) = writers.join_next().await {
        ended.expect("a write was refused while a backup was taken");
    }
    assert_eq!(told(&["cluster", "verify", text(&file)]).await, taken);
    let last = cluster.nodes[0].api.status().await.expect("a status");
    cluster.nodes.iter_mut().for_each(Node::kill9);
    // Longer than the short lease, in which no heartbeat can arrive.
    pass(Duration::from_secs(6)).await;

    let mut new = Cluster::made(async |node| {
        let restored = restore(&file, node).await;
        assert_eq!((&restored["epoch"], &restored["node_id"]), (&json!(1), &json!(1)));
        assert_eq!(restored["backup"], taken);
        assert_ne!(restored["cluster_id"], last["cluster_id"]);
    })
    .await;
    assert_eq!(digest(&new.nodes[0].api, &taken["applied_index"]).await, taken["digest"]);
    let renewed = new.nodes[0].api.post("/api/heartbeats", &json!({ "leases": [lease] })).await.ok();
    assert_eq!(renewed["renewed"], 1, "the short lease ran out while there was no cluster");
    new.grow(2).await;
    let status = new.nodes[2].api.status().await.expect("a status");
    assert_eq!(status["epoch"], 1, "who joins is in the epoch");
    for counter in ["revision", "cluster_time_ms", "applied_index"] {
        assert!(status[counter].as_u64() >= taken[counter].as_u64(), "{counter}: {taken} then {status}");
    }
    let revision = new.nodes[1].api.register("after", 600_000).await;
    assert!(Some(revision) > taken["revision"].as_u64());
    for node in &new.nodes {
        let ids = node.api.ids("consistency=linearizable").await.expect("a list");
        assert_eq!(ids.len() as u64, taken["instances"].as_u64().expect("a count") + 1);
        assert_eq!(ids.iter().filter(|id| id.starts_with("kept-")).count(), 20);
    }
    new.digests_agree().await;
    // Nothing of it goes with one node.
    let leader = new.leader().await;
    new.nodes[leader].kill9();
    new.nodes[(leader + 1) % 3].api.register("later", 600_000).await;
}

/// Two of three nodes are gone, and `survivor` is left.
fn lose_quorum(cluster: &mut Cluster, survivor: usize) {
    for place in (0..3).filter(|place| *place != survivor) {
        cluster.nodes[place].kill9();
    }
}

#[tokio::test]
async fn p1_p6_one_directory_is_enough_for_everything_that_reached_it() {
    let mut cluster = Cluster::start(3).await;
    for n in 0..20 {
        cluster.nodes[n % 3].api.register(&format!("web-{n:02}"), 600_000).await;
    }
    cluster.digests_agree().await;
    let survivor = cluster.follower().await;
    let api = cluster.nodes[survivor].api.clone();
    let before = api.get("/api/cluster/digest").await.ok();
    let status = api.status().await.expect("a status");
    let mut watch = Events::open(&api, "?name=none", "").await.expect("a stream");
    let point = watch.next().await.expect("an event").id;

    lose_quorum(&mut cluster, survivor);
    // One of the others is away for long, and not gone.
    let lost: Vec<usize> = (0..3).filter(|place| *place != survivor).collect();
    std::fs::remove_dir_all(cluster.nodes[lost[0]].data_dir()).expect("a directory");
    let data_dir = cluster.nodes[survivor].data_dir();
    let recover = ["cluster", "recover", "--data-dir", text(&data_dir)];
    let refused = rollcall().args(recover).arg("--yes").output().expect("it runs");
    assert_eq!(refused.status.code(), Some(1), "a node runs there");
    cluster.nodes[survivor].kill9();
    let refused = rollcall().args(recover).stdin(Stdio::null()).output().expect("it runs");
    assert_eq!(refused.status.code(), Some(2), "nobody confirmed it");

    let planned = told(&[&recover[..], &["--dry-run"]].concat()).await;
    assert_eq!(planned["recovered"], Value::Null);
    let done = told(&[&recover[..], &["--yes"]].concat()).await;
    let mut expected = planned.clone();
    expected["recovered"] = done["recovered"].clone();
    assert_eq!(done, expected, "what was planned is what was done");
    assert_eq!((&done["digest"], &done["applied_index"]), (&before["digest"], &before["applied_index"]));
    assert_eq!(done["cluster_id"], status["cluster_id"]);
    let dropped: Vec<_> = done["dropped"].as_array().expect("a list").iter().map(|d| &d["peer_address"]).collect();
    assert_eq!(dropped.len(), 2);
    for place in &lost {
        assert!(dropped.contains(&&json!(cluster.nodes[*place].peer_address())));
    }

    let away = cluster.nodes.remove(lost[1]);
    cluster.nodes.remove(lost[0]);
    cluster.nodes[0].start();
    cluster.ready().await;
    assert_eq!(digest(&api, &before["applied_index"]).await, before["digest"]);
    let recovered = api.status().await.expect("a status");
    assert_eq!(recovered["node_id"], status["node_id"], "it keeps its id");
    assert_eq!((&recovered["epoch"], &recovered["cluster_id"]), (&json!(1), &done["recovered"]["cluster_id"]));
    for counter in ["revision", "cluster_time_ms", "term"] {
        assert!(recovered[counter].as_u64() >= status[counter].as_u64(), "{counter}: {status} then {recovered}");
    }
    let (refused, problem) = Events::open(&api, "?name=none", &point).await.expect_err("a point of another epoch");
    assert_eq!((refused, &problem["code"]), (410, &json!("revision_compacted")));

    // Who comes back from before belongs to another cluster: neither can it do anything, nor does it get anything.
    let mut away = away;
    away.start();
    cluster.grow(2).await;
    api.register("after", 600_000).await;
    cluster.digests_agree().await;
    assert_eq!(away.api.try_get("/api/services").await.expect("an answer").refused(503), "not_ready");
    let its = wait_until("its status", DEADLINE, || away.api.status()).await;
    assert_eq!(its["cluster_id"], status["cluster_id"]);
    let body = json!({ "id": "lost", "name": "web", "url": "http://a" });
    let request = away.api.request(Method::POST, "/api/services/register").json(&body);
    let refused = away.api.send(request.header("X-Request-Timeout-Ms", "300")).await.expect("an answer");
    assert_eq!(refused.refused(503), "no_leader");
    let members = api.status().await.expect("a status")["members"].clone();
    let members: Vec<_> = members.as_array().expect("a list").iter().map(|m| m["node_id"].clone()).collect();
    assert!(members.len() == 3 && !members.contains(&its["node_id"]), "{members:?}");
    for node in &cluster.nodes {
        assert_eq!(node.api.ids("consistency=linearizable").await.expect("a list").len(), 21);
    }
}

/// A write that the leader took and could not commit may be in the log that is left. It is kept, and counted.
#[tokio::test]
async fn p1_what_was_never_acknowledged_is_counted() {
    let mut cluster = Cluster::start(3).await;
    for n in 0..5 {
        cluster.nodes[0].api.register(&format!("web-{n:02}"), 600_000).await;
    }
    cluster.digests_agree().await;
    let survivor = cluster.leader().await;
    lose_quorum(&mut cluster, survivor);
    let api = &cluster.nodes[survivor].api;
    let body = json!({ "id": "uncertain", "name": "web", "url": "http://a", "ttl_ms": 600_000 });
    let request = api.request(Method::POST, "/api/services/register").json(&body);
    let refused = api.send(request.header("X-Request-Timeout-Ms", "300")).await.expect("an answer");
    assert_eq!((refused.status, &refused.body["outcome"]), (504, &json!("unknown")), "{refused:?}");
    cluster.nodes[survivor].kill9();
    let data_dir = cluster.nodes[survivor].data_dir();
    let done = told(&["cluster", "recover", "--data-dir", text(&data_dir), "--yes"]).await;
    assert!(done["unknown_entries"].as_u64() >= Some(1), "{done}");
    assert!(done["unknown_commands"].as_u64() >= Some(1), "{done}");
    let survivor = cluster.nodes.remove(survivor);
    cluster.nodes = vec![survivor];
    cluster.nodes[0].start();
    cluster.ready().await;
    let ids = cluster.nodes[0].api.ids("consistency=linearizable").await.expect("a list");
    assert_eq!((ids.len(), ids[0].as_str()), (6, "uncertain"));
}
