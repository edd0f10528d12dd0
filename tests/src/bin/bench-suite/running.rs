//! A cluster of either kind while it runs.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rollcall_bench::{Processes, Watched};
use rollcall_tests::etcd::messages::RangeRequest;
use rollcall_tests::etcd::{EtcdCluster, range_of_prefix};
use rollcall_tests::{Cluster, Node, built, rollcall, wait_until};
use tokio::process::Command;

use crate::plan::Guard;
use crate::store::Target;

/// A node with a million registrations takes a while.
const ANSWER_DEADLINE: Duration = Duration::from_secs(120);

/// A node that was asked to end hands over first.
const END_DEADLINE: Duration = Duration::from_secs(20);

#[derive(Debug)]
pub(crate) enum Running {
    Rollcall(Cluster),
    Etcd(EtcdCluster),
}

impl Running {
    /// # Panics
    /// When the nodes do not get ready in time.
    pub(crate) async fn start(
        target: Target,
        etcd: Option<&Path>,
        data: &Path,
        nodes: usize,
        settings: &[&str],
        guard: Guard,
    ) -> Self {
        match target {
            Target::Rollcall => Self::Rollcall(match guard {
                Guard::None => Cluster::start_in(data, nodes, settings).await,
                Guard::Tokens => Cluster::start_guarded_in(data, nodes, settings, false).await,
                Guard::TlsAndTokens => Cluster::start_guarded_in(data, nodes, settings, true).await,
            }),
            Target::Etcd => {
                let binary = etcd.expect("etcd is only measured where it is");
                Self::Etcd(EtcdCluster::start_in(data, nodes, binary).await)
            }
        }
    }

    pub(crate) fn target(&self) -> Target {
        match self {
            Self::Rollcall(_) => Target::Rollcall,
            Self::Etcd(_) => Target::Etcd,
        }
    }

    /// The load generator for this cluster, and what it is called.
    pub(crate) fn generator(&self) -> (Command, &'static str) {
        match self {
            Self::Rollcall(cluster) => {
                let endpoints: Vec<_> = cluster.nodes.iter().map(Node::client_address).collect();
                let mut command = Command::from(rollcall());
                let (ca, token) = cluster.access();
                let scheme = if ca.is_some() { "https" } else { "http" };
                let urls: Vec<_> = endpoints.iter().map(|endpoint| format!("{scheme}://{endpoint}")).collect();
                command.env("ROLLCALL_ENDPOINTS", urls.join(",")).args(["-o", "json", "bench"]);
                if let Some(ca) = &ca {
                    command.env("ROLLCALL_CA", ca);
                }
                if let Some(token) = token {
                    command.env("ROLLCALL_TOKEN", token);
                }
                let name = match (ca, token) {
                    (None, None) => "rollcall -o json bench",
                    (None, Some(_)) => "rollcall -o json --token … bench",
                    (Some(_), _) => "rollcall -o json --ca … --token … bench",
                };
                (command, name)
            }
            Self::Etcd(cluster) => {
                let endpoints: Vec<_> = cluster.nodes.iter().map(|node| node.client_address()).collect();
                let mut command = Command::new(built("bench-etcd", "rollcall-tests", "BENCH_ETCD_BIN"));
                command.env("ETCD_ENDPOINTS", endpoints.join(",")).args(["-o", "json"]);
                (command, "bench-etcd -o json")
            }
        }
    }

    /// The data directories of the nodes; etcd's are its own affair.
    pub(crate) fn log_directories(&self) -> Vec<PathBuf> {
        match self {
            Self::Rollcall(cluster) => cluster.nodes.iter().map(|node| node.data_dir().join("log")).collect(),
            Self::Etcd(_) => Vec::new(),
        }
    }

    fn pids(&self) -> Vec<u32> {
        match self {
            Self::Rollcall(cluster) => cluster.nodes.iter().map(Node::pid).collect(),
            Self::Etcd(cluster) => cluster.nodes.iter().map(|node| node.pid()).collect(),
        }
    }

    /// For watching the nodes.
    pub(crate) fn processes(&self) -> Processes {
        let watched = |(place, pid): (usize, u32)| Watched { label: format!("node-{}", place + 1), pid: pid as i32 };
        Processes::new(self.pids().into_iter().enumerate().map(watched).collect())
    }

    /// Waits for the node of this process, which somebody else has ended, and starts it again.
    ///
    /// # Panics
    /// When no node has this process, or it does not end, or the cluster does not get ready.
    pub(crate) async fn revive(&mut self, pid: u32) {
        let place = self.pids().iter().position(|own| *own == pid).expect("the ended process was a node's");
        match self {
            Self::Rollcall(cluster) => {
                cluster.nodes[place].exit(END_DEADLINE).await;
                cluster.nodes[place].start();
                cluster.ready().await;
                cluster.leader().await;
            }
            Self::Etcd(cluster) => {
                cluster.nodes[place].exit(END_DEADLINE).await;
                cluster.start_node(place);
                cluster.ready().await;
                cluster.leader().await;
            }
        }
    }

    /// Kills a node that does not lead and starts it again. Answers how many registrations there are, and how long it
    /// took from the start of the process to an answer that counts them all.
    ///
    /// # Panics
    /// When it does not answer in time.
    pub(crate) async fn restart(&mut self) -> (u64, Duration) {
        let place = match self {
            Self::Rollcall(cluster) => cluster.follower().await,
            Self::Etcd(cluster) => (cluster.leader().await + 1) % cluster.nodes.len(),
        };
        let expected = self.count(place).await.expect("a node in peace counts its registrations");
        match self {
            Self::Rollcall(cluster) => cluster.nodes[place].kill9(),
            Self::Etcd(cluster) => cluster.nodes[place].kill9(),
        }
        let begun = Instant::now();
        match self {
            Self::Rollcall(cluster) => cluster.nodes[place].start(),
            Self::Etcd(cluster) => cluster.start_node(place),
        }
        wait_until("the node answers with all it has", ANSWER_DEADLINE, || async {
            (self.count(place).await? == expected).then_some(())
        })
        .await;
        (expected, begun.elapsed())
    }

    /// How many registrations a node shows by itself.
    async fn count(&self, place: usize) -> Option<u64> {
        match self {
            Self::Rollcall(cluster) => {
                let answer = cluster.nodes[place].api.try_get("/api/services?limit=1").await.ok()?;
                if answer.status == 200 { answer.body["total_count"].as_u64() } else { None }
            }
            Self::Etcd(cluster) => {
                let mut client = cluster.nodes[place].client().await.ok()?;
                let all = RangeRequest { serializable: true, count_only: true, ..range_of_prefix("/registry/") };
                u64::try_from(client.range(all).await.ok()?.count).ok()
            }
        }
    }

    /// The last log entry that each node of Rollcall has applied.
    ///
    /// # Panics
    /// When a node does not answer.
    pub(crate) async fn applied(&self) -> Vec<u64> {
        let Self::Rollcall(cluster) = self else { return Vec::new() };
        let mut applied = Vec::new();
        for node in &cluster.nodes {
            let status = node.api.status().await.expect("a node in peace answers");
            applied.push(status["applied_index"].as_u64().expect("a number"));
        }
        applied
    }
}
