//! Clusters that tell each other, through what breaks on either side.

use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use rollcall_tests::{Api, Cluster, Node, pass, rollcall, wait_until};
use serde_json::{Value, json};

const DEADLINE: Duration = Duration::from_secs(60);

/// The median of what it takes until another cluster knows: on a machine that does nothing else it is a few milliseconds.
const SEEN_WITHIN: Duration = Duration::from_millis(200);

fn endpoints(cluster: &Cluster) -> Vec<String> {
    cluster.nodes.iter().map(|node| format!("http://{}", node.client_address())).collect()
}

fn succeeds(cluster: &Cluster, arguments: &[&str]) -> String {
    let mut command: Command = rollcall();
    let Output { status, stdout, stderr } =
        command.args(arguments).args(["--endpoint", &endpoints(cluster).join(",")]).output().expect("it starts");
    assert!(status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&stderr));
    String::from_utf8(stdout).expect("text")
}

/// Has one cluster name another, by any of its nodes.
fn name(cluster: &Cluster, peer: &str, other: &Cluster) {
    let key = succeeds(other, &["federation", "key"]);
    let urls = endpoints(other);
    let urls: Vec<&str> = urls.iter().map(String::as_str).collect();
    succeeds(cluster, &[&["federation", "add", peer][..], &urls, &["--key", key.trim()]].concat());
}

fn name_each_other(clusters: &[(&str, &Cluster)]) {
    for (name, cluster) in clusters {
        for (other_name, other) in clusters.iter().filter(|(other, _)| other != name) {
            self::name(cluster, other_name, other);
        }
    }
}

async fn register(api: &Api, id: &str, url: &str) {
    let body = json!({"id": id, "name": "web", "url": url, "visibility": "public", "ttl_ms": 3_600_000});
    api.post("/api/services/register", &body).await.ok();
}

/// How many of other clusters' are found, if a node answers.
async fn foreign(node: &Node) -> Option<u64> {
    let answer = node.api.try_get("/api/services?include_federated=true&limit=1").await.ok()?;
    answer.body["federated_count"].as_u64()
}

async fn knows(cluster: &Cluster, count: u64) {
    for node in cluster.nodes.iter().filter(|node| node.is_running()) {
        let known = || async { (foreign(node).await == Some(count)).then_some(()) };
        wait_until(&format!("{count} of other clusters are known"), DEADLINE, known).await;
    }
}

/// Their ids and URLs, all of them.
async fn known(node: &Node) -> Vec<(String, String)> {
    let mut known = Vec::new();
    let mut cursor = String::new();
    loop {
        let path = format!("/api/services?include_federated=true&limit=1000{cursor}");
        let answer = node.api.get(&path).await.ok();
        for service in answer["services"].as_array().expect("a list") {
            if service["origin"].is_string() {
                let text = |name: &str| service[name].as_str().expect("a text").to_owned();
                known.push((text("id"), text("url")));
            }
        }
        match answer["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return known,
        }
    }
}

fn expected(range: std::ops::Range<usize>, url: &str) -> Vec<(String, String)> {
    range.map(|n| (format!("s-{n:05}"), url.to_owned())).collect()
}

async fn fill(cluster: &Cluster, range: std::ops::Range<usize>, url: &str) {
    let mut work = tokio::task::JoinSet::new();
    for lane in 0..32 {
        let (api, url) = (cluster.nodes[lane % cluster.nodes.len()].api.clone(), url.to_owned());
        let mine: Vec<usize> = range.clone().filter(|n| n % 32 == lane).collect();
        work.spawn(async move {
            for n in mine {
                register(&api, &format!("s-{n:05}"), &url).await;
            }
        });
    }
    while let Some(done) = work.join_next().await {
        done.expect("registered");
    }
}

#[tokio::test]
async fn what_one_registers_the_others_see_soon_whoever_leads() {
    let mut east = Cluster::start(3).await;
    let (west, north) = (Cluster::start(1).await, Cluster::start(1).await);
    name_each_other(&[("east", &east), ("west", &west), ("north", &north)]);
    register(&east.nodes[0].api, "first", "http://a").await;
    for cluster in [&west, &north] {
        knows(cluster, 1).await;
    }
    let mut took = Vec::new();
    for n in 0..21 {
        let begun = Instant::now();
        let node = &east.nodes[n % 3];
        register(&node.api, &format!("e-{n}"), "http://a").await;
        let seen = async |cluster: &Cluster| {
            while foreign(&cluster.nodes[0]).await != Some(n as u64 + 2) {
                assert!(begun.elapsed() < DEADLINE, "it is not seen in time");
                tokio::task::yield_now().await;
            }
        };
        tokio::join!(seen(&west), seen(&north));
        took.push(begun.elapsed());
    }
    took.sort();
    assert!(took[10] < SEEN_WITHIN, "the median is {:?} of {took:?}", took[10]);

    // Whoever leads next goes on.
    let leader = east.leader().await;
    east.nodes[leader].kill9();
    let other = &east.nodes[(leader + 1) % 3];
    register(&other.api, "after", "http://a").await;
    other.api.delete("/api/services/first").await.ok();
    for cluster in [&west, &north] {
        let both = || async {
            let ids: Vec<String> = known(&cluster.nodes[0]).await.into_iter().map(|(id, _)| id).collect();
            let has = |id: &str| ids.iter().any(|known| known == id);
            (ids.len() == 22 && has("after") && !has("first")).then_some(())
        };
        wait_until("what changed is known", DEADLINE, both).await;
    }
    east.nodes[leader].start();
    east.ready().await;
    // Nothing came back to where it is from, and nothing is of two.
    register(&west.nodes[0].api, "w", "http://w").await;
    knows(&east, 1).await;
    knows(&north, 23).await;
    let status = succeeds(&east, &["federation", "status"]);
    assert!(status.contains("west") && status.contains("north"), "{status}");
    for cluster in [&east, &west, &north] {
        cluster.digests_agree().await;
    }
}

#[tokio::test]
async fn both_leaders_die_while_everything_is_told() {
    const COUNT: usize = 6_000;
    let (mut east, mut west) = (Cluster::start(3).await, Cluster::start(3).await);
    fill(&east, 0..COUNT, "http://1").await;
    name(&west, "east", &east);
    name(&east, "west", &west);
    let some = || async { foreign(&west.nodes[0]).await.filter(|count| *count > 0) };
    let so_far = wait_until("some are told", DEADLINE, some).await;
    let (sender, receiver) = (east.leader().await, west.leader().await);
    east.nodes[sender].kill9();
    west.nodes[receiver].kill9();
    assert!(so_far < COUNT as u64, "all were told before anybody died");
    // What changes meanwhile is not missed either.
    register(&east.nodes[(sender + 1) % 3].api, "s-00000", "http://2").await;
    east.nodes[(sender + 1) % 3].api.delete("/api/services/s-00001").await.ok();
    knows(&west, COUNT as u64 - 1).await;
    let mut all = expected(0..COUNT, "http://1");
    all[0].1 = "http://2".to_owned();
    all.remove(1);
    let node = west.nodes.iter().find(|node| node.is_running()).expect("two run");
    let same = || async { (known(node).await == all).then_some(()) };
    wait_until("it is what the other has", DEADLINE, same).await;
    west.nodes[receiver].start();
    west.ready().await;
    west.digests_agree().await;
}

#[tokio::test]
async fn a_cluster_that_was_out_of_reach_is_told_what_it_missed() {
    let east = Cluster::start(1).await;
    let mut west = Cluster::start(1).await;
    name_each_other(&[("east", &east), ("west", &west)]);
    fill(&east, 0..50, "http://1").await;
    knows(&west, 50).await;
    west.nodes[0].stop();
    let begun = Instant::now();
    fill(&east, 0..20, "http://2").await;
    for n in 20..30 {
        east.nodes[0].api.delete(&format!("/api/services/s-{n:05}")).await.ok();
    }
    assert!(begun.elapsed() < DEADLINE, "nobody here waits for who is out of reach");
    let failing = || async {
        let status = east.nodes[0].api.get("/api/federation").await.ok();
        (status["peers"][0]["sending"]["state"] == "failing").then_some(())
    };
    wait_until("it is said that the other is out of reach", DEADLINE, failing).await;
    west.nodes[0].cont();
    knows(&west, 40).await;
    let all = [expected(0..20, "http://2"), expected(30..50, "http://1")].concat();
    assert_eq!(known(&west.nodes[0]).await, all);
    // Restarted, it knows what it knew, and goes on.
    west.nodes[0].kill9();
    east.nodes[0].api.delete("/api/services/s-00000").await.ok();
    west.nodes[0].start();
    west.ready().await;
    knows(&west, 39).await;
    assert_eq!(known(&west.nodes[0]).await, all[1..]);
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path of plain text")
}

#[tokio::test]
async fn whoever_is_restored_from_a_backup_is_believed_as_it_is_now() {
    let mut east = Cluster::start(1).await;
    let west = Cluster::start(1).await;
    name_each_other(&[("east", &east), ("west", &west)]);
    fill(&east, 0..30, "http://1").await;
    knows(&west, 30).await;
    let file = east.directory().join("roll.backup");
    succeeds(&east, &["cluster", "backup", text(&file)]);
    // What is registered after the backup is lost with it.
    fill(&east, 30..40, "http://1").await;
    fill(&east, 0..5, "http://2").await;
    knows(&west, 40).await;
    east.nodes[0].kill9();
    let restored = Cluster::made(async |node| {
        let (data_dir, clients, peers) = (node.data_dir(), node.client_address(), node.peer_address());
        let arguments = ["cluster", "restore", text(&file), "--data-dir", text(&data_dir)];
        let mut command: Command = rollcall();
        let output = command.args(arguments).args(["--advertise", &clients, "--peer-advertise", &peers]).output();
        assert!(output.expect("it starts").status.success());
    })
    .await;
    knows(&west, 30).await;
    let same = || async { (known(&west.nodes[0]).await == expected(0..30, "http://1")).then_some(()) };
    wait_until("it is what the restored one has", DEADLINE, same).await;
    fill(&restored, 30..32, "http://3").await;
    knows(&west, 32).await;
}

#[tokio::test]
async fn nothing_is_told_over_an_idle_link_but_that_it_is_alive() {
    let (east, west) = (Cluster::start(1).await, Cluster::start(1).await);
    name_each_other(&[("east", &east), ("west", &west)]);
    let lease = east.nodes[0].api.register("beats", 5_000).await;
    let answer = || async {
        let status = east.nodes[0].api.get("/api/federation").await.ok();
        (status["peers"][0]["sending"]["state"] == "following").then(|| status["peers"][0]["sending"].clone())
    };
    let before = wait_until("it follows", DEADLINE, answer).await;
    for _ in 0..25 {
        east.nodes[0].api.post("/api/heartbeats", &json!({ "leases": [lease] })).await.ok();
        pass(Duration::from_millis(100)).await;
    }
    let after = answer().await.expect("it follows still");
    let count = |sending: &Value| sending["successes"].as_u64().expect("a count");
    assert!(count(&after) - count(&before) <= 2, "{before} then {after}");
}
