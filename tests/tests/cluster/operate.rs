//! What operators do to a live cluster: nothing of it costs a request or an acknowledged write.

use std::collections::BTreeSet;
use std::process::Output;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use reqwest::Method;
use rollcall_tests::{Api, Cluster, Node, Port, Proxy, rollcall, wait_until};
use serde_json::{Value, json};
use tokio::sync::RwLock;
use tokio::task::JoinSet;

const DEADLINE: Duration = Duration::from_secs(60);

const WRITERS: usize = 3;

/// What a removed node ends with, so that nobody starts it again.
const REMOVED: i32 = 8;

/// What a client waits in all, as one of a fleet would: a request is failed only if no node takes it for so long.
const PATIENCE: Duration = Duration::from_secs(10);

/// Writes at whichever nodes there are, as a client does that knows several of them.
struct Load {
    stop: Arc<AtomicBool>,
    nodes: Arc<RwLock<Vec<Api>>>,
    writers: JoinSet<BTreeSet<String>>,
}

impl Load {
    fn begin(nodes: Vec<Api>) -> Self {
        let (stop, nodes) = (Arc::new(AtomicBool::new(false)), Arc::new(RwLock::new(nodes)));
        let mut writers = JoinSet::new();
        for writer in 0..WRITERS {
            writers.spawn(write(writer, nodes.clone(), stop.clone()));
        }
        Self { stop, nodes, writers }
    }

    async fn at(&self, nodes: Vec<Api>) {
        *self.nodes.write().await = nodes;
    }

    /// Everything that was acknowledged.
    async fn end(self) -> BTreeSet<String> {
        self.stop.store(true, Ordering::Relaxed);
        self.writers.join_all().await.into_iter().flatten().collect()
    }
}

async fn write(writer: usize, nodes: Arc<RwLock<Vec<Api>>>, stop: Arc<AtomicBool>) -> BTreeSet<String> {
    let mut acknowledged = BTreeSet::new();
    for n in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let id = format!("w{writer}-{n:06}");
        let body = json!({ "id": id, "name": "web", "url": "http://web", "ttl_ms": 600_000 });
        let mut turn = writer + n;
        wait_until("a node that takes the write", PATIENCE, || {
            turn += 1;
            let (nodes, body) = (nodes.clone(), body.clone());
            async move {
                let api = { nodes.read().await.get(turn % nodes.read().await.len()).cloned()? };
                let answer = api.try_post("/api/services/register", &body).await.ok()?;
                (answer.status < 300).then_some(())
            }
        })
        .await;
        acknowledged.insert(id);
    }
    acknowledged
}

/// Writes at one node until it takes no more connections, whatever it answers.
async fn write_until_it_is_gone(api: Api) {
    for n in 0.. {
        let body = json!({ "id": format!("late-{n}"), "name": "web", "url": "http://web", "ttl_ms": 600_000 });
        if api.try_post("/api/services/register", &body).await.is_err_and(|error| error.is_connect()) {
            return;
        }
    }
}

/// Runs `rollcall cluster …` against a node.
async fn cluster_command(node: &Node, arguments: &[&str]) -> Output {
    let mut command = rollcall();
    let endpoint = format!("http://{}", node.client_address());
    command.args(["--endpoint", &endpoint, "-o", "json", "cluster"]).args(arguments);
    let run = tokio::task::spawn_blocking(move || command.output().expect("the program runs"));
    run.await.expect("it does not panic")
}

async fn ok(node: &Node, arguments: &[&str]) -> Value {
    let output = cluster_command(node, arguments).await;
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?} ended with {}: {said}", output.status);
    serde_json::from_slice(&output.stdout).expect("the answer is JSON")
}

async fn refused(node: &Node, arguments: &[&str], code: i32, why: &str) {
    let output = cluster_command(node, arguments).await;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
    assert!(said.contains(why), "{arguments:?}: {said}");
}

async fn id_of(node: &Node) -> String {
    node.api.status().await.expect("a status")["node_id"].to_string()
}

/// A node that waits until it is added.
fn waiting(cluster: &Cluster, name: &str) -> Node {
    let mut node = Node::new(cluster.directory(), name, Vec::new());
    node.start();
    node
}

/// All that was acknowledged is there, at this node.
async fn nothing_is_lost(api: &Api, acknowledged: &BTreeSet<String>) {
    let there: BTreeSet<String> = api.ids("consistency=linearizable").await.expect("a list").into_iter().collect();
    let lost: Vec<_> = acknowledged.difference(&there).collect();
    assert!(lost.is_empty(), "{} of {} were lost: {:?}", lost.len(), acknowledged.len(), lost.first());
}

#[tokio::test]
async fn p1_one_to_three_to_five_to_three_nodes_under_writes() {
    let mut cluster = Cluster::start(1).await;
    let load = Load::begin(vec![cluster.nodes[0].api.clone()]);
    for number in 2..=5 {
        let node = waiting(&cluster, &format!("node-{number}"));
        wait_until("the node waits to be added", DEADLINE, || async {
            node.log().contains("waiting for `rollcall cluster add").then_some(())
        })
        .await;
        // At any node: at the one that came last.
        let asked = cluster.nodes.last().expect("a node");
        let added = ok(asked, &["add", &node.peer_address()]).await;
        assert_eq!(added["voters"].as_array().map(Vec::len), Some(number), "{added}");
        node.ready(DEADLINE).await;
        cluster.nodes.push(node);
        load.at(cluster.nodes.iter().map(|node| node.api.clone()).collect()).await;
    }
    for _ in 0..2 {
        // The leader each time. Clients are told first that it goes.
        let leader = cluster.leader().await;
        let mut gone = cluster.nodes.remove(leader);
        load.at(cluster.nodes.iter().map(|node| node.api.clone()).collect()).await;
        // Not all of them: what these have in hand there is answered too.
        let unaware: JoinSet<()> = (0..WRITERS).map(|_| write_until_it_is_gone(gone.api.clone())).collect();
        let removed = ok(&cluster.nodes[0], &["remove", &id_of(&gone).await]).await;
        assert!(!removed["voters"].as_array().expect("a list").contains(&removed["node_id"]), "{removed}");
        assert_eq!(gone.exit(DEADLINE).await.code(), Some(REMOVED), "{}", gone.log_tail());
        assert!(gone.log().contains("was removed from cluster"), "{}", gone.log_tail());
        unaware.join_all().await;
        assert!(!gone.log().contains("cut off"), "writes at it were not answered: {}", gone.log_tail());
        // It does not come back by itself.
        gone.start();
        assert_eq!(gone.exit(DEADLINE).await.code(), Some(REMOVED));
        assert!(gone.log_tail().contains("was removed from cluster"), "{}", gone.log_tail());
    }
    cluster.ready().await;
    let acknowledged = load.end().await;
    assert!(acknowledged.len() > 100, "{} writes are no load", acknowledged.len());
    for node in &cluster.nodes {
        nothing_is_lost(&node.api, &acknowledged).await;
    }
    cluster.digests_agree().await;
}

#[tokio::test]
async fn a_killed_node_is_replaced_by_one_command_and_mistakes_are_refused() {
    let mut cluster = Cluster::start(3).await;
    let load = Load::begin(cluster.nodes.iter().map(|node| node.api.clone()).collect());
    let membership = || async {
        let status = cluster.nodes[0].api.status().await.expect("a status");
        (status["membership_index"].clone(), status["members"].as_array().map(Vec::len))
    };
    let before = membership().await;
    let foreign = Cluster::start(1).await;
    refused(&cluster.nodes[0], &["add", &foreign.nodes[0].peer_address()], 4, "another cluster").await;
    refused(&cluster.nodes[1], &["add", &cluster.nodes[2].peer_address()], 4, "is a member already").await;
    refused(&cluster.nodes[1], &["add", "127.0.0.1:1"], 4, "nobody waits at 127.0.0.1:1").await;
    refused(&cluster.nodes[1], &["remove", "77"], 3, "has no node 77").await;
    refused(&cluster.nodes[2], &["transfer", "77"], 3, "has no node 77").await;
    assert_eq!(membership().await, before, "a refused change left something behind");

    let killed = cluster.follower().await;
    let other = (0..3).find(|place| *place != killed).expect("another node");
    let (dead, alive) = (id_of(&cluster.nodes[killed]).await, id_of(&cluster.nodes[other]).await);
    cluster.nodes[killed].kill9();
    // With one of three dead, the other two are the quorum.
    refused(&cluster.nodes[other], &["remove", &alive], 4, "must answer").await;
    let successor = waiting(&cluster, "successor");
    let peer_address = successor.peer_address();
    wait_until("the successor waits", DEADLINE, || async {
        let plan = ["replace", &dead, &peer_address, "--dry-run"];
        cluster_command(&cluster.nodes[other], &plan).await.status.success().then_some(())
    })
    .await;
    let replaced = ok(&cluster.nodes[other], &["replace", &dead, &peer_address]).await;
    let voters = replaced["voters"].as_array().expect("a list");
    assert_eq!(voters.len(), 3, "{replaced}");
    assert!(!voters.contains(&json!(dead.parse::<u64>().expect("a number"))), "{replaced}");
    let acknowledged = load.end().await;
    nothing_is_lost(&successor.api, &acknowledged).await;
    // It was removed while it was away, and finds out when it comes back.
    cluster.nodes[killed].start();
    assert_eq!(cluster.nodes[killed].exit(DEADLINE).await.code(), Some(REMOVED));
    cluster.nodes[killed] = successor;
    cluster.digests_agree().await;
}

#[tokio::test]
async fn p1_all_nodes_restart_one_after_the_other_and_no_request_fails() {
    let mut cluster = Cluster::start(3).await;
    let load = Load::begin(cluster.nodes.iter().map(|node| node.api.clone()).collect());
    for place in 0..3 {
        cluster.nodes[place].term();
        assert!(cluster.nodes[place].exit(DEADLINE).await.success(), "{}", cluster.nodes[place].log_tail());
        cluster.nodes[place].start();
        cluster.nodes[place].ready(DEADLINE).await;
    }
    let acknowledged = load.end().await;
    nothing_is_lost(&cluster.nodes[0].api, &acknowledged).await;
    cluster.digests_agree().await;
}

/// Clients that know one address only, behind which some node is ready at any time. They take no answer but a success, and
/// try nothing twice.
#[tokio::test]
async fn p1_all_nodes_restart_behind_one_address_and_no_request_fails() {
    let mut cluster = Cluster::start(3).await;
    let proxy = Proxy::start(cluster.nodes.iter().map(Node::client_address).collect()).await;
    let (stop, mut writers) = (Arc::new(AtomicBool::new(false)), JoinSet::new());
    for writer in 0..WRITERS {
        // One keeps its connection as long as it is let, one makes a new one each time.
        let (api, stop) = (Api::new(proxy.address()), stop.clone());
        writers.spawn(async move {
            let (mut acknowledged, mut failed) = (BTreeSet::new(), Vec::new());
            for n in 0.. {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                let id = format!("w{writer}-{n:06}");
                let body = json!({ "id": id, "name": "web", "url": "http://web", "ttl_ms": 600_000 });
                let request = api.request(Method::POST, "/api/services/register").json(&body);
                let request = if writer == 0 { request.header("connection", "close") } else { request };
                match api.send(request).await {
                    Ok(answer) if answer.status == 201 => drop(acknowledged.insert(id)),
                    Ok(answer) => failed.push(format!("{id}: {} {}", answer.status, answer.body)),
                    Err(error) => failed.push(format!("{id}: {error:?}")),
                }
            }
            (acknowledged, failed)
        });
    }
    for place in 0..3 {
        cluster.nodes[place].term();
        assert!(cluster.nodes[place].exit(DEADLINE).await.success(), "{}", cluster.nodes[place].log_tail());
        cluster.nodes[place].start();
        cluster.nodes[place].ready(DEADLINE).await;
    }
    stop.store(true, Ordering::Relaxed);
    let (acknowledged, failed): (Vec<_>, Vec<_>) = writers.join_all().await.into_iter().unzip();
    let failed = failed.concat();
    let acknowledged: BTreeSet<String> = acknowledged.into_iter().flatten().collect();
    assert!(failed.is_empty(), "{} requests failed beside {}: {failed:#?}", failed.len(), acknowledged.len());
    assert!(acknowledged.len() > 100, "{} writes are no load", acknowledged.len());
    nothing_is_lost(&cluster.nodes[0].api, &acknowledged).await;
    cluster.digests_agree().await;
}

/// A node that is started on its directory at another address is a member there.
#[tokio::test]
async fn a_node_moves_by_being_started_elsewhere() {
    let mut cluster = Cluster::start(3).await;
    let load = Load::begin(cluster.nodes.iter().map(|node| node.api.clone()).collect());
    let mut spares = Vec::new();
    for place in [cluster.follower().await, cluster.leader().await] {
        cluster.nodes[place].term();
        assert!(cluster.nodes[place].exit(DEADLINE).await.success(), "{}", cluster.nodes[place].log_tail());
        spares.push(Port::reserve());
        let (data_dir, elsewhere) = (cluster.nodes[place].data_dir(), spares[spares.len() - 1].address());
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
    }
    let moved = cluster.follower().await;
    let own = cluster.nodes[moved].api.status().await.expect("a status");
    refused(&cluster.nodes[0], &["relocate", &own["node_id"].to_string(), "127.0.0.1:1"], 4, "does not answer").await;
    let acknowledged = load.end().await;
    for node in &cluster.nodes {
        nothing_is_lost(&node.api, &acknowledged).await;
    }
    cluster.digests_agree().await;
}
