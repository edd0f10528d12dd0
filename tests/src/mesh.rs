//! Three clusters that tell each other, and what each is to know of the others.

use std::collections::BTreeMap;
use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::api::Api;
use crate::cluster::Cluster;
use crate::node::Node;
use crate::wait::wait_until;
use crate::wire::Wire;

/// What the clusters call each other.
pub const NAMES: [&str; 3] = ["east", "west", "north"];

/// Nodes of each.
const NODES: usize = 3;

/// Nobody who does not beat ends within a test.
const TTL_MS: u64 = 86_400_000;

/// An election, or what was known of a peer cleared away, on a loaded machine.
const DEADLINE: Duration = Duration::from_secs(60);

/// Registrations that are under way at once.
const LANES: usize = 32;

/// Requests for pages hold this many.
const PAGE: usize = 1_000;

/// Three clusters of three nodes each. Every one reaches each of the others over wires of its own.
#[derive(Debug)]
pub struct Mesh {
    pub clusters: Vec<Cluster>,
    /// From whom, to whom, to which of its nodes.
    wires: BTreeMap<(usize, usize), Vec<Wire>>,
}

/// What is known of an instance: whose it is, its revision there, where and how it is, and for whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    pub origin: Option<String>,
    pub revision: u64,
    pub url: String,
    pub status: String,
    pub visibility: String,
    pub is_stale: bool,
}

/// By id. One that is there twice is no roll.
pub type Roll = BTreeMap<String, Known>;

impl Mesh {
    /// Starts them and has each name both others.
    ///
    /// # Panics
    /// When they do not get there in time.
    pub async fn start() -> Self {
        let (east, west, north) = tokio::join!(Cluster::start(NODES), Cluster::start(NODES), Cluster::start(NODES));
        let clusters = vec![east, west, north];
        let mut wires = BTreeMap::new();
        for from in 0..clusters.len() {
            for to in (0..clusters.len()).filter(|to| *to != from) {
                let mut all = Vec::new();
                for node in &clusters[to].nodes {
                    all.push(Wire::to(node.client_address()).await);
                }
                wires.insert((from, to), all);
            }
        }
        let mesh = Self { clusters, wires };
        for (at, peer) in mesh.wires.keys() {
            mesh.name(*at, *peer).await;
        }
        mesh
    }

    /// Has one name another. If it was one before, its terms are laid down anew.
    ///
    /// # Panics
    /// When that is not done.
    pub async fn name(&self, at: usize, peer: usize) {
        let key = key(&self.clusters[peer]).await;
        let urls = self.wires[&(at, peer)].iter().map(|wire| format!("http://{}", wire.address()));
        let body = json!({ "name": NAMES[peer], "public_key": key, "urls": urls.collect::<Vec<_>>() });
        // What is left of it from before has to be cleared away first.
        wait_until("the peer is named", DEADLINE, || async {
            let answer = self.clusters[at].nodes[0].api.post("/api/federation/peers", &body).await;
            match answer.status {
                409 if answer.body["code"] == "peer_leaving" => None,
                _ => Some(answer.ok()),
            }
        })
        .await;
    }

    /// Has one have nothing more to do with another.
    ///
    /// # Panics
    /// When that is not done.
    pub async fn part(&self, at: usize, peer: usize) {
        let path = format!("/api/federation/peers/{}", NAMES[peer]);
        self.clusters[at].nodes[0].api.delete(&path).await.ok();
    }

    /// The wires to and from a cluster.
    fn wires_of(&self, place: usize) -> impl Iterator<Item = &Wire> {
        self.wires.iter().filter(move |((from, to), _)| *from == place || *to == place).flat_map(|(_, wires)| wires)
    }

    /// Cuts a cluster off from the others.
    pub fn cut_off(&self, place: usize) {
        self.wires_of(place).for_each(Wire::cut);
    }

    pub fn mend(&self) {
        self.wires.values().flatten().for_each(Wire::mend);
    }

    /// Breaks off whatever the clusters say to each other at this moment.
    pub fn sever(&self) {
        self.wires.values().flatten().for_each(Wire::sever);
    }

    /// Waits until all know exactly what the others have.
    ///
    /// # Panics
    /// When they do not get there in time.
    pub async fn all_agree(&self, deadline: Duration) {
        for (at, cluster) in self.clusters.iter().enumerate() {
            let others = (0..self.clusters.len()).filter(|other| *other != at);
            let others: Vec<_> = others.map(|other| (NAMES[other], &self.clusters[other])).collect();
            knows_exactly(cluster, &others, deadline).await;
        }
    }
}

/// The key of a cluster; it is made if there is none.
async fn key(cluster: &Cluster) -> String {
    let answer = cluster.nodes[0].api.post("/api/federation/key", &Value::Null).await.ok();
    answer["public_key"].as_str().expect("a key").to_owned()
}

/// What a cluster registers for others to see.
pub fn public(id: &str, url: &str) -> Value {
    json!({ "id": id, "name": "web", "url": url, "visibility": "public", "ttl_ms": TTL_MS })
}

/// Has a cluster register many, at all its running nodes.
///
/// # Panics
/// When one is not registered.
pub async fn fill(cluster: &Cluster, ids: impl Iterator<Item = String>, url: &str) {
    let running: Vec<&Node> = cluster.nodes.iter().filter(|node| node.is_running()).collect();
    let mut lanes = vec![Vec::new(); LANES];
    ids.enumerate().for_each(|(n, id)| lanes[n % LANES].push(id));
    let mut work = JoinSet::new();
    for (lane, ids) in lanes.into_iter().enumerate() {
        let (api, url) = (running[lane % running.len()].api.clone(), url.to_owned());
        work.spawn(async move {
            for id in ids {
                let body = public(&id, &url);
                // A change of leader may come between.
                wait_until("it is registered", DEADLINE, || async {
                    let answer = api.try_post("/api/services/register", &body).await.ok()?;
                    (!matches!(answer.status, 503 | 504)).then(|| answer.ok())
                })
                .await;
            }
        });
    }
    work.join_all().await;
}

/// How many of other clusters' a node finds, if it answers.
pub async fn foreign(node: &Node) -> Option<u64> {
    let answer = node.api.try_get("/api/services?include_federated=true&limit=1").await.ok()?;
    answer.body["federated_count"].as_u64()
}

/// Waits until every running node of a cluster knows exactly what these others have, each once and as theirs.
///
/// # Panics
/// When they do not get there in time.
pub async fn knows_exactly(cluster: &Cluster, others: &[(&str, &Cluster)], deadline: Duration) {
    let mut expected = Roll::new();
    for (name, other) in others {
        let own = offered(other).await;
        expected.extend(own.into_iter().map(|(id, own)| (id, Known { origin: Some((*name).to_owned()), ..own })));
    }
    for node in cluster.nodes.iter().filter(|node| node.is_running()) {
        // Counting costs little, and comparing a hundred thousand does.
        let count = || async { (foreign(node).await? == expected.len() as u64).then_some(()) };
        wait_until(&format!("{} of other clusters are known", expected.len()), deadline, count).await;
        let same = || async { (known(&node.api).await? == expected).then_some(()) };
        wait_until("what is known is what the others have", deadline, same).await;
    }
}

/// What a cluster has itself and lets others see.
///
/// # Panics
/// When it does not answer.
pub async fn offered(cluster: &Cluster) -> Roll {
    let node = cluster.nodes.iter().find(|node| node.is_running()).expect("a node runs");
    let all = || listed(&node.api, "consistency=linearizable");
    let mut all = wait_until("a cluster says what it has", DEADLINE, all).await;
    all.retain(|_, known| known.visibility == "public");
    all
}

/// What a node knows of other clusters, if it answers.
pub async fn known(api: &Api) -> Option<Roll> {
    let mut all = listed(api, "include_federated=true").await?;
    all.retain(|_, known| known.origin.is_some());
    Some(all)
}

/// All that a query finds, page by page; none if a node does not answer, or no longer at that revision.
///
/// # Panics
/// When an id is there twice.
pub async fn listed(api: &Api, query: &str) -> Option<Roll> {
    let (mut roll, mut cursor) = (Roll::new(), String::new());
    loop {
        let path =
            format!("/api/services?limit={PAGE}&status=active,degraded,maintenance,error,offline&{query}{cursor}");
        let answer = api.send(api.request(Method::GET, &path)).await.ok().filter(|answer| answer.status == 200)?;
        for service in answer.body["services"].as_array().expect("a list") {
            let text = |member: &str| service[member].as_str().expect("a text").to_owned();
            let known = Known {
                origin: service["origin"].as_str().map(str::to_owned),
                revision: service["revision"].as_u64().expect("a revision"),
                url: text("url"),
                status: text("status"),
                visibility: text("visibility"),
                is_stale: service["stale"] == true,
            };
            let twice = roll.insert(text("id"), known);
            assert!(twice.is_none(), "{} is there twice: {twice:?}", service["id"]);
        }
        match answer.body["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return Some(roll),
        }
    }
}
