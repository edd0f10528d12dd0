//! The load generator against real nodes: every work in small.

use std::process::Output;

use rollcall_tests::{Cluster, rollcall};
use serde_json::Value;

/// Small and short.
const LOOP: &[&str] = &["--sessions", "2", "--duration", "300ms", "--warm-up", "100ms"];

async fn bench(cluster: &Cluster, work: &str, arguments: &[&str]) -> (Option<i32>, Value) {
    let mut command = rollcall();
    command.args(["bench", work, "-o", "json"]).args(arguments);
    for node in &cluster.nodes {
        command.args(["--endpoint", &node.client_address()]);
    }
    let Output { status, stdout, stderr } =
        tokio::process::Command::from(command).output().await.expect("the binary starts");
    let report = serde_json::from_slice(&stdout).unwrap_or_else(|error| {
        panic!("{work}: no report ({error}), {status}: {}", String::from_utf8_lossy(&stderr));
    });
    (status.code(), report)
}

/// A work without an error; answers its report.
async fn flawless(cluster: &Cluster, work: &str, arguments: &[&str]) -> Value {
    let (code, report) = bench(cluster, work, arguments).await;
    assert_eq!((code, &report["errors"]), (Some(0), &Value::from(0)), "{report:#}");
    assert_eq!((&report["work"], &report["target"]), (&Value::from(work), &Value::from("rollcall")));
    assert!(number(&report["operations"]) > 0.0 && number(&report["latency_us"]["max"]) > 0.0, "{report:#}");
    let labels: Vec<_> = report["nodes"].as_array().expect("nodes").iter().map(|node| &node["label"]).collect();
    let addresses: Vec<_> = cluster.nodes.iter().map(|node| Value::from(node.client_address())).collect();
    assert_eq!(labels, addresses.iter().collect::<Vec<_>>(), "every node's process is found");
    report
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no number"))
}

#[tokio::test]
async fn each_work_comes_to_its_end_without_an_error() {
    let cluster = Cluster::start(3).await;
    let with = |arguments: &[&'static str]| [LOOP, arguments].concat();

    flawless(&cluster, "register", &with(&["--metadata-bytes", "500"])).await;
    flawless(&cluster, "heartbeat", &with(&["--instances", "50", "--node", "followers"])).await;
    let batched = flawless(&cluster, "heartbeat", &with(&["--instances", "50", "--batch", "20"])).await;
    assert_eq!(number(&batched["items"]), number(&batched["operations"]) * 20.0);

    let paced = with(&["--instances", "20", "--rate", "100", "--consistency", "linearizable"]);
    let paced = flawless(&cluster, "lookup", &paced).await;
    assert!(number(&paced["operations"]) <= 32.0, "{paced:#}");
    assert_eq!(paced["parameters"]["latency_from"], "planned begin");

    let queried = flawless(&cluster, "query", &with(&["--instances", "50", "--hits", "5"])).await;
    assert!(number(&queried["extra"]["search_time_us"]["max"]) > 0.0, "{queried:#}");
    let mixed =
        with(&["--instances", "50", "--hits", "5", "--heartbeat", "40", "--register", "10", "--node", "leader"]);
    let mixed = flawless(&cluster, "mixed", &mixed).await;
    assert!(number(&mixed["extra"]["kinds"]["heartbeat"]["operations"]) > 0.0, "{mixed:#}");

    let filled = flawless(&cluster, "fill", &["--sessions", "2", "--instances", "50"]).await;
    assert_eq!(number(&filled["operations"]), 50.0);
    let held = with(&["--instances", "45", "--batch", "10", "--every", "1s", "--ttl", "5s"]);
    let held = flawless(&cluster, "hold", &held).await;
    assert_eq!((&held["extra"]["lapsed"], number(&held["extra"]["present_at_end"])), (&Value::from(0), 45.0));

    let expired = flawless(&cluster, "expiry", &["--instances", "50", "--ttl", "1s"]).await;
    assert_eq!((&expired["extra"]["early"], number(&expired["items"])), (&Value::from(0), 150.0));
    assert_eq!(expired["extra"]["by_node"].as_object().map(serde_json::Map::len), Some(3));
}

#[tokio::test]
async fn watchers_see_every_change_and_every_end() {
    let cluster = Cluster::start(3).await;
    let window = ["--duration", "300ms", "--warm-up", "100ms"];

    let watched = ["--watchers", "7", "--at", "followers", "--sessions", "2", "--rate", "50"];
    let watched = flawless(&cluster, "watch", &[&window[..], &watched].concat()).await;
    assert_eq!(number(&watched["items"]), number(&watched["operations"]) * 7.0);
    let (first, last) = (&watched["extra"]["seen_by_first_us"], &watched["extra"]["seen_by_last_us"]);
    assert!(number(&first["p50"]) <= number(&last["p50"]) && number(&last["max"]) > 0.0, "{watched:#}");
    assert!(number(&last["max"]) <= number(&watched["latency_us"]["max"]) * 1.01, "{watched:#}");

    let idle = ["--watchers", "30", "--instances", "20", "--sessions", "2", "--rate", "100"];
    let idle = flawless(&cluster, "watch-idle", &[&window[..], &idle].concat()).await;
    assert!(idle["extra"]["rss_growth_per_watcher_bytes"].is_number(), "{idle:#}");
    assert!(number(&idle["extra"]["windows"]["changes"]["operations"]) > 0.0, "{idle:#}");

    let expired = flawless(&cluster, "watch-expiry", &["--instances", "50", "--ttl", "1s"]).await;
    assert_eq!((&expired["extra"]["early"], number(&expired["operations"])), (&Value::from(0), 150.0));
    assert_eq!(expired["extra"]["by_node"].as_object().map(serde_json::Map::len), Some(3));
}

#[tokio::test]
async fn failover_kills_the_leader_and_measures_the_gap() {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let (code, report) = bench(&cluster, "failover", &["--kill", "--warm-up", "300ms", "--duration", "15s"]).await;
    assert_eq!((code, &report["errors"]), (Some(0), &Value::from(0)), "{report:#}");
    let extra = &report["extra"];
    assert_eq!(extra["killed_address"], cluster.nodes[leader].client_address());
    assert_eq!(extra["acknowledged_and_lost"], 0);
    assert!(number(&extra["longest_gap_ms"]) >= number(&extra["longest_gap_before_kill_ms"]), "{report:#}");
    assert!(number(&extra["first_write_after_kill_ms"]) > 0.0, "{report:#}");

    cluster.nodes[leader].kill9();
    cluster.nodes[leader].start();
    cluster.ready().await;
}

#[tokio::test]
async fn transfer_hands_the_lead_over_and_measures_each_gap() {
    let cluster = Cluster::start(3).await;
    let window = ["--warm-up", "300ms", "--duration", "4s", "--every", "1s"];
    let (code, report) = bench(&cluster, "transfer", &window).await;
    assert_eq!((code, &report["errors"]), (Some(0), &Value::from(0)), "{report:#}");
    let extra = &report["extra"];
    assert!(number(&extra["transfers"]) >= 1.0, "{report:#}");
    assert_eq!(
        extra["gaps_ms"].as_array().map(|gaps| gaps.len() as f64),
        Some(number(&extra["transfers"])),
        "{report:#}"
    );
    assert!(number(&extra["gap_max_ms"]) >= number(&extra["gap_p50_ms"]), "{report:#}");
    assert_eq!(extra["acknowledged_and_lost"], 0);
}
