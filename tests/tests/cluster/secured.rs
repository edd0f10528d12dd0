//! A cluster with TLS at every port does its main job, and strangers are kept out.

use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use rollcall_tests::{Cluster, Node, rollcall, wait_until};
use serde_json::json;

const DEADLINE: Duration = Duration::from_secs(30);

/// The program as a user types it, with nothing but the authority added.
fn user(cluster: &Cluster, arguments: &[&str]) -> Command {
    let endpoints: Vec<String> = cluster.nodes.iter().map(Node::client_address).collect();
    let mut command = rollcall();
    command.args(arguments).args(["--endpoint", &endpoints.join(",")]);
    command.arg("--ca").arg(cluster.certificates().join("client-ca.pem"));
    command
}

fn succeeds(mut command: Command) -> String {
    let Output { status, stdout, stderr } = command.output().expect("the program starts");
    assert!(status.success(), "{command:?}: {}", String::from_utf8_lossy(&stderr));
    String::from_utf8(stdout).expect("text")
}

#[tokio::test]
async fn a_secured_cluster_does_the_main_job() {
    let mut cluster = Cluster::start_secured(3).await;
    succeeds(user(&cluster, &["cluster", "wait", "--ready", "--voters", "3"]));
    succeeds(user(&cluster, &["register", "--id", "a", "--name", "web", "--url", "http://a", "--ttl-ms", "60000"]));
    succeeds(user(&cluster, &["heartbeat", "a"]));
    for node in &cluster.nodes {
        wait_until("the instance is found at every node", DEADLINE, || async {
            (node.api.ids("").await.ok()? == ["a"]).then_some(())
        })
        .await;
    }

    // The leader is killed: nothing is lost, and it comes back.
    let leader = cluster.leader().await;
    cluster.nodes[leader].kill9();
    succeeds(user(&cluster, &["register", "--id", "b", "--name", "web", "--url", "http://b", "--ttl-ms", "60000"]));
    cluster.nodes[leader].start();
    cluster.ready().await;
    let found = succeeds(user(&cluster, &["discover", "--name", "web", "--consistency", "linearizable"]));
    assert!(found.contains("2 of 2"), "{found}");
    cluster.digests_agree().await;

    // A short-lived one is struck off, and a backup is taken, over TLS as well.
    succeeds(user(&cluster, &["register", "--id", "c", "--name", "web", "--url", "http://c", "--ttl-ms", "1000"]));
    let follower = cluster.follower().await;
    wait_until("the silent one is struck off", DEADLINE, || async {
        (cluster.nodes[follower].api.ids("").await.ok()? == ["a", "b"]).then_some(())
    })
    .await;
    let backup = cluster.directory().join("roll.backup");
    succeeds(user(&cluster, &["cluster", "backup", backup.to_str().expect("a path")]));
}

async fn log_of(node: &Node, told: &str) {
    wait_until(&format!("the log tells of `{told}`"), DEADLINE, || async { node.log().contains(told).then_some(()) })
        .await;
}

/// Of another authority, and of none: neither is taken in, and each learns why.
#[tokio::test]
async fn a_stranger_does_not_join() {
    let cluster = Cluster::start_secured(1).await;
    let foreign = cluster.directory().join("foreign");
    certify(&foreign, "node-1,127.0.0.1");
    let join = || vec!["--join".to_owned(), cluster.nodes[0].peer_address()];
    let mut stranger = Node::new(cluster.directory(), "stranger", join()).secured(&foreign, "node-1");
    stranger.start();
    log_of(&stranger, "invalid peer certificate").await;
    let mut plain = Node::new(cluster.directory(), "plain", join());
    plain.start();
    log_of(&plain, "this peer port speaks TLS").await;
    let status = cluster.nodes[0].api.status().await.expect("a status");
    assert_eq!(status["members"].as_array().map(Vec::len), Some(1), "{status}");
}

fn certify(directory: &Path, node: &str) {
    let mut command = rollcall();
    command.args(["tls", "init"]).arg(directory).args(["--node", node]);
    succeeds(command);
}

/// All nodes are given certificates of a new authority, one after the other, and writes go on.
#[tokio::test]
async fn certificates_are_replaced_under_a_running_cluster() {
    let cluster = Cluster::start_secured(3).await;
    let directory = cluster.certificates();
    // Both authorities are trusted first; then each node gets a certificate of the new one.
    let new = cluster.directory().join("new");
    certify(&new, "node-1,127.0.0.1");
    let read = |path: &Path| std::fs::read_to_string(path).expect("a file");
    let both = read(&directory.join("peer-ca.pem")) + &read(&new.join("peer-ca.pem"));
    std::fs::write(directory.join("peer-ca.pem"), both).expect("a file");
    reloaded(&cluster, 1).await;
    for name in ["peer.pem", "peer.key"] {
        for node in ["node-1", "node-2", "node-3"] {
            std::fs::copy(new.join("node-1").join(name), directory.join(node).join(name)).expect("a file");
        }
    }
    reloaded(&cluster, 2).await;
    // New connections are made of them.
    let leader = cluster.leader().await;
    let follower = cluster.follower().await;
    cluster.nodes[leader].api.post("/api/cluster/leader", &json!({})).await.ok();
    cluster.nodes[follower].api.register("web-1", 60_000).await;
    cluster.digests_agree().await;
}

/// A node is started at another host, with a certificate for that one and no other: it is believed that it has moved, and is
/// a member there, though nobody knew it by that certificate before.
#[tokio::test]
async fn a_node_moves_to_another_host_with_a_certificate_for_that() {
    let mut cluster = Cluster::start_secured(3).await;
    let directory = cluster.certificates().to_owned();
    certify(&directory, "moved,127.0.0.2");
    for place in [cluster.follower().await, cluster.leader().await] {
        cluster.nodes[place].term();
        assert!(cluster.nodes[place].exit(DEADLINE).await.success(), "{}", cluster.nodes[place].log_tail());
        for name in ["peer.pem", "peer.key"] {
            let own = directory.join(format!("node-{}", place + 1)).join(name);
            std::fs::copy(directory.join("moved").join(name), own).expect("a file");
        }
        let elsewhere = cluster.nodes[place].peer_address().replace("127.0.0.1", "127.0.0.2");
        let data_dir = cluster.nodes[place].data_dir();
        cluster.nodes[place].start_on(&data_dir, &elsewhere);
        cluster.nodes[place].ready(DEADLINE).await;
        for node in &cluster.nodes {
            wait_until("all reach it at its new address", DEADLINE, || async {
                let status = node.api.status().await?;
                let members = status["members"].as_array()?;
                let there = members.iter().any(|member| member["peer_address"] == elsewhere.as_str());
                (there && members.iter().all(|member| member["reachable"] == true)).then_some(())
            })
            .await;
        }
        // It takes part: what it is told to write is written.
        cluster.nodes[place].api.register(&format!("by-{place}"), 60_000).await;
    }
    cluster.digests_agree().await;
}

/// Waits until each node has read its peer certificates so many times.
async fn reloaded(cluster: &Cluster, times: usize) {
    for node in &cluster.nodes {
        node.hangup();
    }
    let line = "the certificates were read again";
    for node in &cluster.nodes {
        wait_until("the certificates are read", DEADLINE, || async {
            // One line for each of the two ports.
            (node.log().matches(line).count() >= 2 * times).then_some(())
        })
        .await;
    }
}
