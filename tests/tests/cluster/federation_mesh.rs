//! Three clusters of three nodes each, of which every one tells both others. The same for longer, with a hundred thousand
//! instances, is `scripts/federation-soak`.

use std::time::Duration;

use reqwest::Method;
use rollcall_tests::mesh::{Mesh, NAMES, fill, known, knows_exactly, public};
use rollcall_tests::{Api, Clients, Cluster, Times, pass, wait_until};
use serde_json::{Value, json};

const DEADLINE: Duration = Duration::from_secs(60);

const EAST: usize = 0;
const WEST: usize = 1;
const NORTH: usize = 2;

/// How long a cluster is cut off.
const CUT: Duration = Duration::from_secs(5);

/// Of each client.
const PAUSE: Duration = Duration::from_millis(100);

async fn register(api: &Api, id: &str) {
    api.post("/api/services/register", &public(id, "http://1")).await.ok();
}

/// How many a tenant of a node is shown of others.
async fn federated_count(api: &Api, tenant: &str) -> Value {
    let request = api.request(Method::GET, "/api/services?include_federated=true").header("x-tenant-id", tenant);
    api.send(request).await.expect("an answer").ok()["federated_count"].clone()
}

#[tokio::test]
async fn what_changes_at_any_node_is_known_at_every_node_of_the_others_and_passed_on_by_nobody() {
    let mesh = Mesh::start().await;
    // At each node three come. One is changed at the next node, and one goes at the one after.
    for (cluster, name) in mesh.clusters.iter().zip(NAMES) {
        for (place, node) in cluster.nodes.iter().enumerate() {
            for what in ["stays", "changes", "goes"] {
                register(&node.api, &format!("{name}-{place}-{what}")).await;
            }
            // Nobody shares this tenant.
            let own = node.api.request(Method::POST, "/api/services/register").header("x-tenant-id", "own");
            let own = own.json(&public(&format!("{name}-{place}-own"), "http://1"));
            node.api.send(own).await.expect("an answer").ok();
        }
    }
    mesh.all_agree(DEADLINE).await;
    for (cluster, name) in mesh.clusters.iter().zip(NAMES) {
        for place in 0..cluster.nodes.len() {
            let at = |step: usize| &cluster.nodes[(place + step) % cluster.nodes.len()].api;
            let path = format!("/api/services/{name}-{place}-changes/heartbeat");
            at(1).post(&path, &json!({ "status": "degraded" })).await.ok();
            at(2).delete(&format!("/api/services/{name}-{place}-goes")).await.ok();
        }
    }
    mesh.all_agree(DEADLINE).await;
    for node in mesh.clusters.iter().flat_map(|cluster| &cluster.nodes) {
        let all = known(&node.api).await.expect("it answers");
        assert_eq!(all.len(), 12);
        assert_eq!(all.values().filter(|known| known.status == "degraded").count(), 6);
        // Others' of the tenant are known to none, neither by its name nor by that which is shared.
        assert_eq!(federated_count(&node.api, "own").await, 0);
    }

    // East does not hear west any more. North tells it everything anew, while it knows west's, and goes on.
    mesh.part(EAST, WEST).await;
    mesh.part(NORTH, EAST).await;
    mesh.name(NORTH, EAST).await;
    register(&mesh.clusters[WEST].nodes[0].api, "west-later").await;
    let [east, west, north] = &mesh.clusters[..] else { unreachable!("there are three") };
    knows_exactly(north, &[("east", east), ("west", west)], DEADLINE).await;
    register(&north.nodes[0].api, "north-later").await;
    knows_exactly(east, &[("north", north)], DEADLINE).await;
    for cluster in &mesh.clusters {
        cluster.digests_agree().await;
    }
}

/// What the peers of a cluster did not take, and what it did not take of theirs.
async fn refused(cluster: &Cluster) -> u64 {
    let count = || async {
        let leader = cluster.leader().await;
        let status = cluster.nodes[leader].api.get("/api/federation").await.ok();
        let peers = status["peers"].as_array()?.iter();
        peers.map(|peer| Some(peer["sending"]["refused"].as_u64()? + peer["receiving"]["lacking"].as_u64()?)).sum()
    };
    wait_until("the leader tells the others", DEADLINE, count).await
}

#[tokio::test]
async fn a_cluster_that_is_cut_off_serves_its_own_and_is_told_what_it_missed() {
    let mut mesh = Mesh::start().await;
    for (cluster, name) in mesh.clusters.iter().zip(NAMES) {
        fill(cluster, (0..50).map(|n| format!("{name}-{n:02}")), "http://1").await;
    }
    mesh.all_agree(DEADLINE).await;
    let clients: Vec<Clients> = mesh
        .clusters
        .iter()
        .zip(NAMES)
        .map(|(cluster, name)| Clients::start(cluster, name, "public", PAUSE))
        .collect();
    mesh.cut_off(NORTH);
    for (cluster, name) in mesh.clusters.iter().zip(NAMES) {
        fill(cluster, (0..10).map(|n| format!("{name}-{n:02}")), "http://2").await;
        fill(cluster, (50..55).map(|n| format!("{name}-{n:02}")), "http://2").await;
        for n in 10..20 {
            cluster.nodes[n % 3].api.delete(&format!("/api/services/{name}-{n:02}")).await.ok();
        }
    }
    pass(CUT).await;
    // The others go on telling each other.
    let (east, west) = (&mesh.clusters[EAST], &mesh.clusters[WEST]);
    register(&east.nodes[1].api, "east-meanwhile").await;
    let is_told = || async { known(&west.nodes[2].api).await?.contains_key("east-meanwhile").then_some(()) };
    wait_until("east is heard at west", DEADLINE, is_told).await;
    let north = known(&mesh.clusters[NORTH].nodes[0].api).await.expect("it answers");
    assert!(north.contains_key("east-10") && !north.contains_key("east-meanwhile"), "north was not cut off");
    let mut times = Times::default();
    for clients in clients {
        times.add(clients.stop().await);
    }
    assert!(times.failures.is_empty(), "{:?}", times.failures);
    let count = times.writes.len();
    assert!(count > 9 * 10, "hardly anything was asked: {count} writes");

    // Whoever leads when the way is whole again goes on where the one before was.
    let leader = mesh.clusters[NORTH].leader().await;
    mesh.clusters[NORTH].nodes[leader].kill9();
    mesh.mend();
    mesh.all_agree(DEADLINE).await;
    mesh.clusters[NORTH].nodes[leader].start();
    mesh.clusters[NORTH].ready().await;
    // And what breaks off in the middle is told once.
    for n in 0..10 {
        for (cluster, name) in mesh.clusters.iter().zip(NAMES) {
            fill(cluster, (20..30).map(|k| format!("{name}-{k:02}")), &format!("http://{n}")).await;
        }
        mesh.sever();
    }
    mesh.all_agree(DEADLINE).await;
    for cluster in &mesh.clusters {
        assert_eq!(refused(cluster).await, 0, "something was told that could not be taken");
        cluster.digests_agree().await;
    }
}
