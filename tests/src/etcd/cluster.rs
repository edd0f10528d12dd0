//! Three etcd nodes on loopback, with every default that etcd has.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::Duration;

use rustix::process::Signal;
use tempfile::TempDir;

use super::client::{EtcdClient, EtcdError};
use crate::ports::Port;
use crate::process::Process;
use crate::wait::wait_until;

/// A loaded machine with two cores starts three nodes in a few seconds.
const START_DEADLINE: Duration = Duration::from_secs(60);

/// Loopback answers at once, or not while there is no leader.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(3);

/// The program of `$ETCD_BIN` or else on the path, if there is one.
pub fn etcd_binary() -> Option<PathBuf> {
    let named = std::env::var_os("ETCD_BIN").map(PathBuf::from);
    let path = std::env::var_os("PATH").unwrap_or_default();
    named
        .into_iter()
        .chain(std::env::split_paths(&path).map(|directory| directory.join("etcd")))
        .find(|p| p.is_file())
}

#[derive(Debug)]
pub struct EtcdNode {
    name: String,
    directory: PathBuf,
    client_port: Port,
    peer_port: Port,
    process: Process,
}

impl EtcdNode {
    pub fn client_address(&self) -> String {
        self.client_port.address()
    }

    fn peer_url(&self) -> String {
        format!("http://{}", self.peer_port.address())
    }

    pub fn is_running(&self) -> bool {
        self.process.is_running()
    }

    /// # Panics
    /// When it does not run.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Ends the process at once, as a crash would, and waits until it is gone.
    ///
    /// # Panics
    /// When it does not run.
    pub fn kill9(&mut self) {
        self.process.kill9();
    }

    /// Asks the process to end (SIGTERM).
    ///
    /// # Panics
    /// When it does not run.
    pub fn term(&self) {
        self.process.signal(Signal::TERM);
    }

    /// Waits until the process ended by itself.
    ///
    /// # Panics
    /// When it does not end in time.
    pub async fn exit(&mut self, deadline: Duration) -> ExitStatus {
        self.process.exit(deadline).await
    }

    /// # Errors
    /// When the node does not answer.
    pub async fn client(&self) -> Result<EtcdClient, EtcdError> {
        EtcdClient::connect(&self.client_address(), REQUEST_TIMEOUT).await
    }

    /// The leader's id if one is known, and the id of the member itself.
    async fn leader(&self) -> Option<(u64, u64)> {
        let status = self.client().await.ok()?.status().await.ok()?;
        (status.leader != 0).then_some((status.leader, status.header.member_id))
    }

    fn log(&self) -> String {
        fs::read(self.directory.join("log")).map(|b| String::from_utf8_lossy(&b).into_owned()).unwrap_or_default()
    }
}

#[derive(Debug)]
pub struct EtcdCluster {
    pub nodes: Vec<EtcdNode>,
    binary: PathBuf,
    _directory: TempDir,
}

impl EtcdCluster {
    /// Starts `count` nodes below `parent` and waits until all know their leader.
    ///
    /// # Panics
    /// When they do not get there in time.
    pub async fn start_in(parent: &Path, count: usize, binary: &Path) -> Self {
        let directory = tempfile::Builder::new().prefix("etcd-").tempdir_in(parent).expect("a temporary directory");
        let node = |number: usize| {
            let name = format!("node-{number}");
            let home = directory.path().join(&name);
            fs::create_dir_all(&home).expect("a directory for the node");
            let (client_port, peer_port) = (Port::reserve(), Port::reserve());
            EtcdNode { name, directory: home, client_port, peer_port, process: Process::default() }
        };
        let nodes = (1..=count).map(node).collect();
        let mut cluster = Self { nodes, binary: binary.to_owned(), _directory: directory };
        (0..count).for_each(|place| cluster.start_node(place));
        cluster.ready().await;
        cluster
    }

    /// Starts one node with the command line it always has.
    ///
    /// # Panics
    /// When it runs already or cannot be started.
    pub fn start_node(&mut self, place: usize) {
        let members: Vec<String> =
            self.nodes.iter().map(|node| format!("{}={}", node.name, node.peer_url())).collect();
        let node = &mut self.nodes[place];
        let mut command = Command::new(&self.binary);
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("ETCD_")) {
            command.env_remove(name);
        }
        let client_url = format!("http://{}", node.client_address());
        command
            .args(["--name", &node.name, "--initial-cluster-state", "new"])
            .args(["--initial-cluster", &members.join(",")])
            .args(["--listen-client-urls", &client_url, "--advertise-client-urls", &client_url])
            .args(["--listen-peer-urls", &node.peer_url(), "--initial-advertise-peer-urls", &node.peer_url()])
            .arg("--data-dir")
            .arg(node.directory.join("data"));
        let log = node.directory.join("log");
        node.process.start(command, &log);
    }

    /// Waits until every running node knows a leader.
    ///
    /// # Panics
    /// When they do not get there in time.
    pub async fn ready(&self) {
        for node in self.nodes.iter().filter(|node| node.is_running()) {
            wait_until("the etcd node knows a leader", START_DEADLINE, || node.leader()).await;
        }
    }

    /// The leader's place among the nodes, once a leader says of itself that it is.
    ///
    /// # Panics
    /// When none is there in time.
    pub async fn leader(&self) -> usize {
        wait_until("an etcd leader is there", START_DEADLINE, || async {
            for (place, node) in self.nodes.iter().enumerate().filter(|(_, node)| node.is_running()) {
                if node.leader().await.is_some_and(|(leader, own)| leader == own) {
                    return Some(place);
                }
            }
            None
        })
        .await
    }

    /// The version that the nodes say they are.
    ///
    /// # Panics
    /// When the first node does not answer.
    pub async fn version(&self) -> String {
        let mut client = self.nodes[0].client().await.expect("a connection");
        client.status().await.expect("a status").version
    }
}

impl Drop for EtcdCluster {
    #[expect(clippy::print_stderr, reason = "a failed test shows why")]
    fn drop(&mut self) {
        if std::thread::panicking() {
            for node in &self.nodes {
                let log = node.log();
                let lines: Vec<&str> = log.lines().collect();
                eprintln!("---- log of etcd {}\n{}", node.name, lines[lines.len().saturating_sub(20)..].join("\n"));
            }
        }
    }
}
