//! The nodes' own checks go on, whoever dies.

use std::collections::BTreeMap;
use std::time::Duration;

use rollcall_tests::{Agents, Cluster, wait_until};
use serde_json::{Value, json};

const DEADLINE: Duration = Duration::from_secs(60);

const AGENTS: usize = 30;

const TARGETS: &str = "rollcall_check_targets";

fn id(n: usize) -> String {
    format!("web-{n:02}")
}

/// What a node shows of all agents by status.
async fn count(cluster: &Cluster, node: usize, status: &str) -> Option<u64> {
    let answer = cluster.nodes[node].api.try_get(&format!("/api/services?status={status}")).await.ok()?;
    answer.body["total_count"].as_u64()
}

async fn until_all_are(cluster: &Cluster, nodes: &[usize], status: &str) {
    for node in nodes {
        wait_until(&format!("all are {status} at node {node}"), DEADLINE, || async {
            (count(cluster, *node, status).await? == AGENTS as u64).then_some(())
        })
        .await;
    }
}

async fn check(cluster: &Cluster, node: usize, n: usize) -> Option<Value> {
    let answer = cluster.nodes[node].api.try_get(&format!("/api/services/{}", id(n))).await.ok()?;
    answer.body.get("check").cloned()
}

/// Who checks whom, once all of these nodes say the same of all agents and each of these checks some.
async fn shares(cluster: &Cluster, nodes: &[usize]) -> BTreeMap<usize, u64> {
    wait_until("the nodes agree on who checks whom", DEADLINE, || async {
        let mut shares = BTreeMap::new();
        for n in 0..AGENTS {
            let mut said = Vec::new();
            for node in nodes {
                said.push(check(cluster, *node, n).await?["prober"].as_u64()?);
            }
            if said.iter().any(|prober| *prober != said[0]) {
                return None;
            }
            shares.insert(n, said[0]);
        }
        let probers: Vec<u64> = shares.values().copied().collect();
        for node in nodes {
            // Each checks its share and nobody else's.
            let (own, targets) = (node_id(cluster, *node).await, cluster.nodes[*node].api.metric(TARGETS).await?);
            if targets == 0 || targets != probers.iter().filter(|prober| **prober == own).count() as u64 {
                return None;
            }
        }
        Some(shares)
    })
    .await
}

async fn node_id(cluster: &Cluster, node: usize) -> u64 {
    cluster.nodes[node].api.status().await.expect("a status")["node_id"].as_u64().expect("an id")
}

#[tokio::test]
async fn checks_go_on_when_prober_and_leader_die() {
    let agents = Agents::start().await;
    let mut cluster = Cluster::start_with(3, &["--check-allow", "127.0.0.0/8"]).await;
    for n in 0..AGENTS {
        let check = json!({"path": "/health", "interval_ms": 1_000, "passes_needed": 2, "failures_needed": 2});
        let body = json!({"id": id(n), "name": "web", "url": agents.url(&id(n)), "ttl_ms": 600_000,
            "health_check": check});
        cluster.nodes[n % 3].api.post("/api/services/register", &body).await.ok();
    }
    let before = shares(&cluster, &[0, 1, 2]).await;
    for n in 0..AGENTS {
        let shown = || async {
            let body = cluster.nodes[n % 3].api.try_get(&format!("/api/services/{}", id(n))).await.ok()?.body;
            (body["health"]["verdict"] == "healthy").then_some(())
        };
        wait_until(&format!("{} is found healthy", id(n)), DEADLINE, shown).await;
    }

    // What is as it was writes nothing, however often it is checked.
    let revision = cluster.nodes[0].api.get("/api/services?consistency=linearizable").await.ok()["revision"].clone();
    let asked: Vec<u64> = (0..AGENTS).map(|n| agents.asked(&id(n))).collect();
    wait_until("all are checked again and again", DEADLINE, || async {
        (0..AGENTS).all(|n| agents.asked(&id(n)) >= asked[n] + 6).then_some(())
    })
    .await;
    let now = cluster.nodes[0].api.get("/api/services?consistency=linearizable").await.ok()["revision"].clone();
    assert_eq!(now, revision);
    // The figures are at the node that checks, and nowhere else.
    for node in 0..3 {
        let own = node_id(&cluster, node).await;
        for (n, prober) in &before {
            let check = check(&cluster, node, *n).await.expect("it is checked");
            assert_eq!(check.get("latest").is_some(), *prober == own, "{n} at node {own}: {check}");
        }
    }

    // A follower dies, and its share is others'; nobody else's moves.
    let (follower, leader) = (cluster.follower().await, cluster.leader().await);
    let gone = node_id(&cluster, follower).await;
    cluster.nodes[follower].kill9();
    (0..AGENTS).for_each(|n| agents.answer(&id(n), 500));
    let survivors: Vec<usize> = (0..3).filter(|node| *node != follower).collect();
    until_all_are(&cluster, &survivors, "degraded").await;
    let after = shares(&cluster, &survivors).await;
    assert!(before.iter().all(|(n, prober)| *prober == gone || after[n] == *prober), "{before:?} became {after:?}");

    // It comes back, and the leader dies, with a share of its own.
    cluster.nodes[follower].start();
    cluster.ready().await;
    assert_eq!(shares(&cluster, &[0, 1, 2]).await, before);
    cluster.nodes[leader].kill9();
    (0..AGENTS).for_each(|n| agents.answer(&id(n), 204));
    let survivors: Vec<usize> = (0..3).filter(|node| *node != leader).collect();
    until_all_are(&cluster, &survivors, "active").await;
    cluster.nodes[leader].start();
    cluster.ready().await;
    until_all_are(&cluster, &[0, 1, 2], "active").await;
    cluster.digests_agree().await;
}

#[tokio::test]
async fn passing_checks_keep_a_lease_through_the_loss_of_prober_and_leader() {
    let agents = Agents::start().await;
    let mut cluster = Cluster::start_with(3, &["--check-allow", "127.0.0.0/8"]).await;
    let check = json!({"interval_ms": 1_000, "failures_needed": 1, "renews": true});
    let body =
        json!({"id": id(0), "name": "web", "url": agents.url(&id(0)), "ttl_ms": 15_000, "health_check": check});
    cluster.nodes[0].api.post("/api/services/register", &body).await.ok();
    let prober_of = || async { check_prober(&cluster).await };
    let prober = wait_until("somebody checks it", DEADLINE, prober_of).await;
    let mut victims = Vec::new();
    for node in 0..3 {
        if node_id(&cluster, node).await == prober {
            victims.push(node);
        }
    }
    for round in 0..2 {
        // First the prober, then whoever leads.
        let victim = if round == 0 { victims[0] } else { cluster.leader().await };
        let asked = agents.asked(&id(0));
        cluster.nodes[victim].kill9();
        wait_until("others check it for longer than its lease", DEADLINE, || async {
            (agents.asked(&id(0)) >= asked + 20).then_some(())
        })
        .await;
        cluster.nodes[victim].start();
        cluster.ready().await;
        assert_eq!(cluster.nodes[victim].api.get(&format!("/api/services/{}", id(0))).await.status, 200);
    }
    agents.answer(&id(0), 500);
    wait_until("it lapses once checks fail", DEADLINE, || async {
        let answer = cluster.nodes[0].api.try_get(&format!("/api/services/{}", id(0))).await.ok()?;
        (answer.status == 404).then_some(())
    })
    .await;
}

async fn check_prober(cluster: &Cluster) -> Option<u64> {
    check(cluster, 0, 0).await?["prober"].as_u64()
}
