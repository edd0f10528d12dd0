//! A cluster that asks for tokens, with TLS at every port, does its main job; and who may do what holds at every node.

use std::process::{Command, Output};
use std::time::Duration;

use rollcall_tests::{Cluster, Node, rollcall, wait_until};
use serde_json::json;

const DEADLINE: Duration = Duration::from_secs(30);

/// The program as a user types it, with nothing but two flags added.
fn user(cluster: &Cluster, token: &str, arguments: &[&str]) -> Command {
    let endpoints: Vec<String> = cluster.nodes.iter().map(Node::client_address).collect();
    let mut command = rollcall();
    command.args(arguments).args(["--endpoint", &endpoints.join(","), "--token", token]);
    command.arg("--ca").arg(cluster.certificates().join("client-ca.pem"));
    command
}

fn succeeds(mut command: Command) -> String {
    let Output { status, stdout, stderr } = command.output().expect("the program starts");
    assert!(status.success(), "{command:?}: {}", String::from_utf8_lossy(&stderr));
    String::from_utf8(stdout).expect("text")
}

fn fails(mut command: Command, code: i32) -> String {
    let Output { status, stderr, .. } = command.output().expect("the program starts");
    let said = String::from_utf8_lossy(&stderr).into_owned();
    assert_eq!(status.code(), Some(code), "{command:?}: {said}");
    said
}

const WEB: [&str; 8] = ["--name", "web", "--url", "http://a", "--ttl-ms", "60000", "--type", "service"];

#[tokio::test]
async fn a_guarded_cluster_does_the_main_job() {
    let mut cluster = Cluster::start_guarded(3).await;
    let admin = cluster.token().to_owned();
    succeeds(user(&cluster, &admin, &["cluster", "wait", "--ready", "--voters", "3"]));
    let made = |arguments: &[&str]| {
        let arguments = [&["token", "create"], arguments].concat();
        succeeds(user(&cluster, &admin, &arguments)).trim().to_owned()
    };
    let agent = made(&["--role", "agent", "--tenant", "acme"]);
    let other = made(&["--role", "agent", "--tenant", "acme", "--ttl", "1h", "--description", "another"]);
    let reader = made(&["--role", "reader", "--tenant", "acme"]);
    let register = |id: &str| [&["register", "--id", id][..], &WEB].concat().join(" ");
    let words = |line: &str| line.split(' ').map(str::to_owned).collect::<Vec<_>>();
    let run = |token: &str, line: &str| {
        let words = words(line);
        user(&cluster, token, &words.iter().map(String::as_str).collect::<Vec<_>>())
    };
    succeeds(run(&agent, &register("a")));
    succeeds(run(&agent, "heartbeat a"));
    assert!(succeeds(run(&reader, "discover --consistency linearizable")).contains("1 of 1"));
    // Exit code 5: not allowed.
    assert!(fails(run("rctoken-x", "discover"), 5).contains("token_invalid"));
    assert!(fails(run(&reader, &register("b")), 5).contains("this needs the role `agent`"));
    assert!(fails(run(&other, "deregister a"), 5).contains("registered by somebody else"));
    assert!(fails(run(&agent, "discover --tenant umbrella"), 5).contains("for tenant `acme`"));
    assert!(fails(run(&agent, "token list"), 5).contains("this needs the role `admin`"));

    // The leader is killed: nothing is lost, and tokens are good at whoever is left.
    let leader = cluster.leader().await;
    cluster.nodes[leader].kill9();
    let again = [&["register", "--id", "b"][..], &WEB].concat();
    succeeds(user(&cluster, &agent, &again));
    cluster.nodes[leader].start();
    cluster.ready().await;
    cluster.digests_agree().await;

    // A revocation counts at every node, and after a restart of all.
    let id = agent.split('-').nth(1).expect("an id");
    succeeds(user(&cluster, &admin, &["token", "revoke", id]));
    let closed = async |cluster: &Cluster| {
        for node in &cluster.nodes {
            let api = node.api.clone().with_token(&agent);
            wait_until("the token is refused", DEADLINE, || async {
                let answer = api.try_get("/api/services").await.ok()?;
                (answer.status == 401 && answer.body["code"] == "token_revoked").then_some(())
            })
            .await;
        }
    };
    closed(&cluster).await;
    for node in &mut cluster.nodes {
        node.kill9();
    }
    for node in &mut cluster.nodes {
        node.start();
    }
    cluster.ready().await;
    closed(&cluster).await;
    let list = succeeds(user(&cluster, &admin, &["token", "list"]));
    assert!(list.contains("revoked") && list.contains("another"), "{list}");
    assert!(!list.contains(agent.rsplit('-').next().expect("a secret")), "{list}");

    // No secret is in any log.
    for token in [&admin, &agent, &other, &reader] {
        let secret = token.rsplit('-').next().expect("a secret");
        for node in &cluster.nodes {
            assert!(!node.log().contains(secret), "a token is in the log of {}", node.client_address());
        }
    }
}

#[tokio::test]
async fn whoever_has_the_directory_gets_an_administrators_token() {
    let cluster = Cluster::start_guarded(1).await;
    let data_dir = cluster.nodes[0].data_dir();
    let mut command = rollcall();
    command.args(["token", "reset", "--data-dir"]).arg(&data_dir);
    let token = succeeds(command).trim().to_owned();
    let answer = cluster.nodes[0].api.get("/api/tokens").await;
    assert_eq!(answer.refused(401), "token_revoked");
    let answer = cluster.nodes[0].api.clone().with_token(&token).get("/api/tokens").await;
    assert_eq!(answer.ok()["tokens"].as_array().map(Vec::len), Some(2));
    assert!(!data_dir.join("admin-token").exists(), "the token does not lie about");

    // Where no node runs nothing is left behind that a later start would find.
    let elsewhere = cluster.directory().join("elsewhere");
    std::fs::create_dir(&elsewhere).expect("a directory");
    let mut command = rollcall();
    command.args(["token", "reset", "--timeout", "200ms", "--data-dir"]).arg(&elsewhere);
    assert!(fails(command, 7).contains("no node answered"));
    assert_eq!(std::fs::read_dir(&elsewhere).expect("a directory").count(), 0);
}

/// A token that was made at one node is good at the others at once, and a node that cannot know says so.
#[tokio::test]
async fn a_node_that_does_not_know_yet_asks_before_it_refuses() {
    let mut cluster = Cluster::start_guarded(3).await;
    for place in [1, 2, 0] {
        let made = cluster.nodes[place].api.post("/api/tokens", &json!({ "role": "reader" })).await.ok();
        let token = made["token"].as_str().expect("a token");
        for node in &cluster.nodes {
            node.api.clone().with_token(token).get("/api/services").await.ok();
        }
    }
    let follower = cluster.follower().await;
    for place in (0..3).filter(|place| *place != follower) {
        cluster.nodes[place].kill9();
    }
    let unknown = "rctoken-0000000000000001-0000000000000000000000000000000000000000000000000000000000000000";
    let lonely = cluster.nodes[follower].api.clone();
    wait_until("the node knows that it is alone", DEADLINE, || async {
        let answer = lonely.clone().with_token(unknown).try_get("/api/services").await.ok()?;
        (answer.status == 503).then_some(())
    })
    .await;
    // What it knows it answers.
    lonely.get("/api/services").await.ok();
    let answer = lonely.without_token().get("/api/services").await;
    assert_eq!(answer.refused(401), "token_missing");
}
