//! Who joins, and who is refused at the door and changes nothing.

use std::time::Duration;

use rollcall_tests::{Cluster, Node, wait_until};
use serde_json::{Value, json};

const DEADLINE: Duration = Duration::from_secs(60);

/// Node 1 to `count`, as `Cluster` makes them, where nobody joins without a token.
const REQUIRED: &[&str] = &["--join-token-required"];

async fn token(node: &Node, request: Value) -> Value {
    node.api.post("/api/cluster/tokens", &request).await.ok()
}

fn joining(cluster: &Cluster, name: &str, more: &[&str]) -> Node {
    let peers = cluster.nodes.iter().map(Node::peer_address).collect::<Vec<_>>().join(",");
    let arguments = [&["--join", peers.as_str()], more].concat();
    Node::new(cluster.directory(), name, arguments.into_iter().map(str::to_owned).collect())
}

/// Starts a node that is to be refused, and sees that it says why and that the cluster is as it was.
async fn refused(cluster: &Cluster, mut node: Node, why: &str) {
    let members = || async { cluster.nodes[0].api.status().await.expect("a status")["membership_index"].clone() };
    let before = members().await;
    node.start();
    let status = node.exit(DEADLINE).await;
    assert_eq!(status.code(), Some(1), "{}", node.log_tail());
    assert!(node.log().contains(why), "{}", node.log_tail());
    assert_eq!(members().await, before, "a refused node changed the membership");
}

#[tokio::test]
async fn p13_nodes_join_by_a_token_made_at_any_node_and_by_no_other() {
    let mut cluster = Cluster::start_with(1, REQUIRED).await;
    refused(&cluster, joining(&cluster, "without", &[]), "without a join token").await;
    // One token for the two that make it a cluster.
    let created = token(&cluster.nodes[0], json!({ "uses": 2 })).await;
    let text = created["token"].as_str().expect("a token").to_owned();
    for name in ["node-2", "node-3"] {
        let mut node = joining(&cluster, name, &["--join-token", &text]);
        node.start();
        cluster.nodes.push(node);
        cluster.ready().await;
    }
    refused(&cluster, joining(&cluster, "one-too-many", &["--join-token", &text]), "2 nodes that it was made for")
        .await;

    let follower = cluster.follower().await;
    let made = token(&cluster.nodes[follower], json!({ "role": "learner", "ttl_ms": 600_000 })).await;
    let learners = made["token"].as_str().expect("a token").to_owned();
    refused(&cluster, joining(&cluster, "voter", &["--join-token", &learners]), "admits learners only").await;
    for node in &cluster.nodes {
        let listed = node.api.get("/api/cluster/tokens").await.ok();
        assert_eq!(listed["tokens"].as_array().map(Vec::len), Some(2), "{listed}");
        assert!(!listed.to_string().contains(&learners[24..]), "a secret is told");
    }
    let mut learner = joining(&cluster, "learner", &["--join-token", &learners, "--node-role", "learner"]);
    learner.start();
    learner.ready(DEADLINE).await;

    let id = made["id"].as_str().expect("an id");
    let leader = cluster.leader().await;
    let revoked = cluster.nodes[leader].api.delete(&format!("/api/cluster/tokens/{id}")).await.ok();
    assert_eq!(revoked, json!({ "id": id, "revoked": true }));
    let late = joining(&cluster, "late", &["--join-token", &learners, "--node-role", "learner"]);
    refused(&cluster, late, "was revoked").await;
    assert!(learner.is_running(), "who has joined stays");
    assert_eq!(
        cluster.nodes[0].api.delete(&format!("/api/cluster/tokens/{id}")).await.refused(404),
        "join_token_not_found"
    );

    // What was made outlives all processes.
    for place in 0..3 {
        cluster.nodes[place].kill9();
    }
    for place in 0..3 {
        cluster.nodes[place].start();
    }
    let listed = wait_until("the tokens that are left", DEADLINE, || async {
        let answer = cluster.nodes[1].api.try_get("/api/cluster/tokens").await.ok()?;
        (answer.status == 200).then_some(answer.body)
    })
    .await;
    assert_eq!(listed["tokens"][0]["id"], created["id"], "{listed}");
    assert_eq!(listed["tokens"][0]["uses"], 2, "{listed}");
}

/// A directory that was a node's of another cluster stays that node's, whatever `--join` says.
#[tokio::test]
async fn p13_a_reused_directory_joins_nothing() {
    let cluster = Cluster::start(1).await;
    let mut foreign = Cluster::start(1).await;
    foreign.nodes[0].kill9();
    let data_dir = foreign.nodes[0].data_dir();
    let before = cluster.nodes[0].api.status().await.expect("a status");
    let mut reused = joining(&cluster, "reused", &[]);
    reused.start_on(&data_dir, &reused.peer_address());
    reused.ready(DEADLINE).await;
    let status = reused.api.status().await.expect("a status");
    assert_ne!(status["cluster_id"], before["cluster_id"]);
    let after = cluster.nodes[0].api.status().await.expect("a status");
    assert_eq!(after["membership_index"], before["membership_index"]);
    assert_eq!(after["members"].as_array().map(Vec::len), Some(1));
}
