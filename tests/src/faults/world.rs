//! The cluster, its disks and its network; and a run: load and watchers, faults, healing, judgement.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::disk::{Disk, Libraries};
use super::ledger::{Ledger, Totals};
use super::load::{Load, Pace};
use super::network::Network;
use super::witness::Witnesses;
use crate::api::Api;
use crate::cluster::Cluster;
use crate::docker::skip;
use crate::node::Node;
use crate::wait::wait_until;

/// Small enough that every node writes checkpoints, purges and sends snapshots all the time.
const SETTINGS: [&str; 4] = ["--snapshot-entries", "200", "--log-entries-kept", "100"];

/// After the faults, a loaded machine with two cores.
const HEAL_DEADLINE: Duration = Duration::from_secs(90);

/// Agents that are silent are gone after this, once all is well: the longest TTL, a second, the grace after a change of
/// leader, and what the machine itself may stall.
const SILENCE_DEADLINE: Duration = Duration::from_millis(6_000 + 1_000 + 1_600 + 5_000);

#[derive(Debug)]
pub struct World {
    pub cluster: Cluster,
    pub disks: Vec<Disk>,
    /// None where the machine has none to give.
    pub network: Option<Network>,
}

/// Builds a world of so many nodes, and runs something in it.
///
/// # Panics
/// When there can be no such world, or what runs in it does.
pub fn in_world<T>(nodes: usize, seed: u64, body: impl AsyncFnOnce(World) -> T) -> T {
    let network = Network::new(nodes, seed);
    let network = match network {
        Ok(network) => Some(network),
        Err(error) => {
            skip("every fault of the network", &error.to_string());
            None
        }
    };
    // Nodes die with the thread that started them: this one.
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let world = World::new(nodes, network).await;
        body(world).await
    })
}

impl World {
    async fn new(count: usize, network: Option<Network>) -> Self {
        let directory = tempfile::Builder::new().prefix("rollcall-").tempdir().expect("a temporary directory");
        let libraries = Libraries::build(directory.path());
        let (mut nodes, mut disks) = (Vec::new(), Vec::new());
        for number in 0..count {
            let node = make(directory.path(), number, network.as_ref());
            let disk = Disk::new(libraries.clone(), &node.data_dir());
            nodes.push(node.with_environment(&disk.environment()));
            disks.push(disk);
        }
        Self { cluster: Cluster::of(directory, nodes).await, disks, network }
    }

    pub fn apis(&self) -> Vec<Api> {
        self.cluster.nodes.iter().map(|node| node.api.clone()).collect()
    }

    pub fn count(&self) -> usize {
        self.cluster.nodes.len()
    }

    /// Starts whoever is not running and waits until all are well.
    ///
    /// # Panics
    /// When they are not in time.
    pub async fn heal(&mut self) {
        if let Some(network) = &self.network {
            network.heal();
        }
        for node in self.cluster.nodes.iter_mut().filter(|node| !node.is_running()) {
            node.start();
        }
        self.cluster.ready().await;
    }

    /// Begins a run: clients at work, and watchers.
    pub fn run(&self, pace: Pace, seed: u64) -> Run {
        let ledger = Arc::new(Ledger::default());
        let witnesses = Witnesses::start(&self.apis(), &ledger);
        let load = Load::start(self.apis(), ledger.clone(), pace, seed);
        Run { ledger, load, witnesses, started: Instant::now() }
    }
}

fn make(directory: &Path, number: usize, network: Option<&Network>) -> Node {
    let name = format!("node-{}", number + 1);
    let arguments = SETTINGS.map(str::to_owned).to_vec();
    match network {
        Some(network) => Node::seated(directory, &name, network.seats[number].clone(), arguments),
        None => Node::new(directory, &name, arguments),
    }
}

/// Clients and watchers at work on a world.
#[derive(Debug)]
pub struct Run {
    pub ledger: Arc<Ledger>,
    load: Load,
    witnesses: Witnesses,
    started: Instant,
}

impl Run {
    /// Waits until so many more writes were acknowledged.
    ///
    /// # Panics
    /// When they are not in time: the cluster does not recover.
    pub async fn progress(&self, writes: u64) {
        let before = self.ledger.acknowledged();
        wait_until("writes are acknowledged again", HEAL_DEADLINE, || async {
            (self.ledger.acknowledged() >= before + writes).then_some(())
        })
        .await;
    }

    /// Heals the world, ends the load, and judges: all nodes are of one mind, nobody silent is left, watchers were told
    /// everything, and nothing that anybody was told is a lie.
    ///
    /// # Panics
    /// When a promise was broken.
    pub async fn judge(self, world: &mut World) -> Totals {
        world.heal().await;
        self.progress(20).await;
        let kept = self.load.stop().await;
        let cluster = &world.cluster;
        // P4: agents beat no more.
        wait_until("P4: who is silent is gone", SILENCE_DEADLINE, || async {
            let all = cluster.nodes[0].api.ids("consistency=linearizable&status=active,offline").await.ok()?;
            (!all.iter().any(|id| is_agent(id))).then_some(())
        })
        .await;
        cluster.digests_agree().await;
        for node in &cluster.nodes {
            let ids = node.api.ids("consistency=linearizable").await.expect("a list");
            let there = ids.iter().filter(|id| id.len() >= "i-1000000".len()).count() as u64;
            assert!(there >= kept, "P1: of {kept} acknowledged registrations {there} are there");
        }
        let end = cluster.nodes[0].api.status().await.expect("a status")["revision"].as_u64().expect("a revision");
        let testimonies = self.witnesses.hear(end).await;
        for told in &testimonies[1..] {
            assert!(told.changes == testimonies[0].changes, "P9: two watchers were told different things");
        }
        for told in &testimonies {
            if let Err(faults) = self.ledger.verify(&told.changes, &told.expired_us) {
                panic!("after {:?}:\n{}", self.started.elapsed(), faults.join("\n"));
            }
        }
        self.ledger.totals()
    }
}

fn is_agent(id: &str) -> bool {
    id.len() == "i-1000".len()
}
