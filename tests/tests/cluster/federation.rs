//! Clusters that tell each other, through what breaks on either side.

use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use rollcall_tests::mesh::{fill, foreign, known, knows_exactly, public};
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
    api.post("/api/services/register", &public(id, url)).await.ok();
}

async fn knows(cluster: &Cluster, count: u64) {
    for node in cluster.nodes.iter().filter(|node| node.is_running()) {
        let known = || async { (foreign(node).await == Some(count)).then_some(()) };
        wait_until(&format!("{count} of other clusters are known"), DEADLINE, known).await;
    }
}

fn ids(range: std::ops::Range<usize>) -> impl Iterator<Item = String> {
    range.map(|n| format!("s-{n:05}"))
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
            let known = known(&cluster.nodes[0].api).await?;
            (known.len() == 22 && known.contains_key("after") && !known.contains_key("first")).then_some(())
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
    fill(&east, ids(0..COUNT), "http://1").await;
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
    knows_exactly(&west, &[("east", &east)], DEADLINE).await;
    west.nodes[receiver].start();
    west.ready().await;
    west.digests_agree().await;
}

#[tokio::test]
async fn a_cluster_that_was_out_of_reach_is_told_what_it_missed() {
    let east = Cluster::start(1).await;
    let mut west = Cluster::start(1).await;
    name_each_other(&[("east", &east), ("west", &west)]);
    fill(&east, ids(0..50), "http://1").await;
    knows(&west, 50).await;
    west.nodes[0].stop();
    let begun = Instant::now();
    fill(&east, ids(0..20), "http://2").await;
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
    knows_exactly(&west, &[("east", &east)], DEADLINE).await;
    // Restarted, it knows what it knew, and goes on.
    west.nodes[0].kill9();
    east.nodes[0].api.delete("/api/services/s-00000").await.ok();
    west.nodes[0].start();
    west.ready().await;
    knows(&west, 39).await;
    knows_exactly(&west, &[("east", &east)], DEADLINE).await;
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path of plain text")
}

fn restore(backup: &Path, node: &Node) {
    let (data_dir, clients, peers) = (node.data_dir(), node.client_address(), node.peer_address());
    let arguments = ["cluster", "restore", text(backup), "--data-dir", text(&data_dir)];
    let mut command: Command = rollcall();
    let output = command.args(arguments).args(["--advertise", &clients, "--peer-advertise", &peers]).output();
    let Output { status, stderr, .. } = output.expect("it starts");
    assert!(status.success(), "{}", String::from_utf8_lossy(&stderr));
}

#[tokio::test]
async fn whoever_is_restored_from_a_backup_is_believed_as_it_is_now() {
    let mut east = Cluster::start(1).await;
    let mut west = Cluster::start(1).await;
    name_each_other(&[("east", &east), ("west", &west)]);
    fill(&east, ids(0..30), "http://1").await;
    knows(&west, 30).await;
    let file = east.directory().join("roll.backup");
    succeeds(&east, &["cluster", "backup", text(&file)]);
    // What is registered after the backup is lost with it.
    fill(&east, ids(30..40), "http://1").await;
    fill(&east, ids(0..5), "http://2").await;
    knows(&west, 40).await;
    east.nodes[0].kill9();
    let restored = Cluster::made(async |node| restore(&file, node)).await;
    knows(&west, 30).await;
    knows_exactly(&west, &[("east", &restored)], DEADLINE).await;
    fill(&restored, ids(30..32), "http://3").await;
    knows(&west, 32).await;

    // What the receiver was told after its own backup it is told again.
    let file = west.directory().join("roll.backup");
    succeeds(&west, &["cluster", "backup", text(&file)]);
    fill(&restored, ids(32..40), "http://3").await;
    restored.nodes[0].api.delete("/api/services/s-00000").await.ok();
    knows(&west, 39).await;
    west.nodes[0].kill9();
    std::fs::remove_dir_all(west.nodes[0].data_dir()).expect("it has one");
    restore(&file, &west.nodes[0]);
    west.nodes[0].start();
    west.ready().await;
    knows(&west, 39).await;
    knows_exactly(&west, &[("east", &restored)], DEADLINE).await;
}

/// A cluster on which nothing happens sees too that another has fallen silent.
#[tokio::test]
async fn who_has_been_silent_for_half_a_minute_is_shown_as_such() {
    let (east, west) = (Cluster::start(1).await, Cluster::start(1).await);
    name_each_other(&[("east", &east), ("west", &west)]);
    register(&east.nodes[0].api, "web", "http://1").await;
    knows(&west, 1).await;
    let shown = async |is_stale: bool| {
        let shown = || async { (known(&west.nodes[0].api).await?["web"].is_stale == is_stale).then_some(()) };
        wait_until(&format!("that it is stale is {is_stale}"), DEADLINE, shown).await;
    };
    shown(false).await;
    let begun = Instant::now();
    east.nodes[0].stop();
    shown(true).await;
    assert!(begun.elapsed() > Duration::from_secs(15), "it spoke at least every ten seconds before");
    east.nodes[0].cont();
    shown(false).await;
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
