//! Several nodes and what is asked of all of them.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use crate::node::{Node, rollcall};
use crate::wait::wait_until;

/// A loaded machine with two cores starts three nodes in a few seconds.
const START_DEADLINE: Duration = Duration::from_secs(60);

/// Some election timeouts, on a loaded machine.
const ELECTION_DEADLINE: Duration = Duration::from_secs(20);

#[derive(Debug)]
pub struct Cluster {
    pub nodes: Vec<Node>,
    directory: TempDir,
    arguments: Vec<String>,
    /// Nodes that there ever were.
    added: usize,
    environment: Vec<(String, String)>,
    /// Where the certificates are, if there are any.
    certificates: Option<PathBuf>,
    /// The administrator's, where requests must say who asks.
    token: Option<String>,
}

impl Cluster {
    /// Starts `count` nodes with default settings and waits until all are ready voters.
    ///
    /// # Panics
    /// When they do not get there in time.
    pub async fn start(count: usize) -> Self {
        Self::start_with(count, &[]).await
    }

    /// As [`Self::start`], with more flags for every node.
    ///
    /// # Panics
    /// When they do not get there in time.
    pub async fn start_with(count: usize, arguments: &[&str]) -> Self {
        Self::start_in(&std::env::temp_dir(), count, arguments).await
    }

    /// As [`Self::start_with`], with all directories below `parent`.
    ///
    /// # Panics
    /// When they do not get there in time.
    pub async fn start_in(parent: &Path, count: usize, arguments: &[&str]) -> Self {
        Self::start_all(parent, count, arguments, &[]).await
    }

    /// As [`Self::start`], with variables set for every node.
    ///
    /// # Panics
    /// When they do not get there in time.
    pub async fn start_with_environment(count: usize, environment: &[(&str, &str)]) -> Self {
        Self::start_all(&std::env::temp_dir(), count, &[], environment).await
    }

    /// As [`Self::start`], with TLS at all ports. The certificates are made as an operator makes them.
    ///
    /// # Panics
    /// When they cannot be made, or the nodes do not get there in time.
    pub async fn start_secured(count: usize) -> Self {
        let mut cluster = Self::empty(&std::env::temp_dir(), &[]);
        cluster.certificates = Some(cluster.certify(count));
        cluster.found(count).await;
        cluster
    }

    /// As [`Self::start_secured`], where every request must say who asks. What is asked through [`Node::api`] is asked by the first
    /// administrator.
    ///
    /// # Panics
    /// When certificates or token cannot be made, or the nodes do not get there in time.
    pub async fn start_guarded(count: usize) -> Self {
        Self::start_guarded_in(&std::env::temp_dir(), count, &[], true).await
    }

    /// As [`Self::start_guarded`], with all directories below `parent`, with more flags for every node, and without TLS if that
    /// is not wanted.
    ///
    /// # Panics
    /// When certificates or token cannot be made, or the nodes do not get there in time.
    pub async fn start_guarded_in(parent: &Path, count: usize, arguments: &[&str], with_tls: bool) -> Self {
        let mut cluster = Self::empty(parent, &[arguments, &["--auth"]].concat());
        cluster.certificates = with_tls.then(|| cluster.certify(count));
        let file = cluster.directory.path().join("admin.token");
        let founding = ["--bootstrap", "--admin-token-file", &file.display().to_string()].map(str::to_owned);
        cluster.add(founding.to_vec());
        cluster.nodes[0].start();
        let token = wait_until("the founder made a token", START_DEADLINE, || async {
            std::fs::read_to_string(&file).ok().filter(|token| !token.is_empty())
        });
        let token = token.await;
        cluster.nodes[0].authenticate(&token);
        cluster.token = Some(token);
        cluster.grow(count - 1).await;
        cluster
    }

    /// The administrator's token.
    ///
    /// # Panics
    /// When the cluster asks for none.
    pub fn token(&self) -> &str {
        self.token.as_deref().expect("a guarded cluster")
    }

    /// What a client needs: the authority of the nodes' certificates, and a token that opens everything.
    pub fn access(&self) -> (Option<PathBuf>, Option<&str>) {
        let ca = self.certificates.as_ref().map(|directory| directory.join("client-ca.pem"));
        (ca, self.token.as_deref())
    }

    /// Makes certificates for the first nodes. All of them are at one address.
    fn certify(&self, count: usize) -> PathBuf {
        let directory = self.directory.path().join("tls");
        let mut command = rollcall();
        command.args(["tls", "init"]).arg(&directory);
        for number in 1..=count {
            command.args(["--node", &format!("node-{number},127.0.0.1")]);
        }
        let made = command.output().expect("the program starts");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        directory
    }

    async fn start_all(parent: &Path, count: usize, arguments: &[&str], environment: &[(&str, &str)]) -> Self {
        let mut cluster = Self::empty(parent, arguments);
        cluster.environment =
            environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        cluster.found(count).await;
        cluster
    }

    async fn found(&mut self, count: usize) {
        for number in 0..count {
            let founding = match self.nodes.first() {
                None => vec!["--bootstrap".to_owned()],
                Some(first) => vec!["--join".to_owned(), first.peer_address()],
            };
            self.add(founding);
            self.nodes[number].start();
        }
        self.ready().await;
    }

    /// Starts nodes that somebody else made, whose directories are in `directory`, and waits until all are ready voters.
    ///
    /// # Panics
    /// When they do not get there in time.
    pub async fn of(directory: TempDir, mut nodes: Vec<Node>) -> Self {
        let first = nodes[0].peer_address();
        nodes[0].add_argument("--bootstrap");
        for node in &mut nodes[1..] {
            node.add_argument("--join");
            node.add_argument(&first);
        }
        nodes.iter_mut().for_each(Node::start);
        let cluster = Self {
            added: nodes.len(),
            nodes,
            directory,
            arguments: Vec::new(),
            environment: Vec::new(),
            certificates: None,
            token: None,
        };
        cluster.ready().await;
        cluster
    }

    fn empty(parent: &Path, arguments: &[&str]) -> Self {
        let directory =
            tempfile::Builder::new().prefix("rollcall-").tempdir_in(parent).expect("a temporary directory");
        let arguments = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        Self {
            nodes: Vec::new(),
            directory,
            arguments,
            added: 0,
            environment: Vec::new(),
            certificates: None,
            token: None,
        }
    }

    /// A cluster of one node, on what `make` put into its data directory, and waits until it is ready.
    ///
    /// # Panics
    /// When it does not get there in time.
    pub async fn made(make: impl AsyncFnOnce(&Node)) -> Self {
        let mut cluster = Self::empty(&std::env::temp_dir(), &[]);
        cluster.add(Vec::new());
        make(&cluster.nodes[0]).await;
        cluster.nodes[0].start();
        cluster.ready().await;
        cluster
    }

    /// Adds nodes, and waits until all are voters.
    ///
    /// # Panics
    /// When they do not get there in time.
    pub async fn grow(&mut self, count: usize) {
        for _ in 0..count {
            let founding = ["--join", &self.nodes[0].peer_address()].map(str::to_owned);
            self.add(founding.to_vec());
            self.nodes.last_mut().expect("it was just added").start();
        }
        self.ready().await;
    }

    fn add(&mut self, founding: Vec<String>) {
        self.added += 1;
        let arguments = [founding, self.arguments.clone()].concat();
        let name = format!("node-{}", self.added);
        let node = Node::new(self.directory.path(), &name, arguments).with_environment(&self.environment);
        let mut node = match &self.certificates {
            Some(directory) => node.secured(directory, &name),
            None => node,
        };
        if let Some(token) = &self.token {
            node.authenticate(token);
        }
        self.nodes.push(node);
    }

    /// Adds a node that stays a learner, and waits until it is ready.
    ///
    /// # Panics
    /// When it does not get there in time.
    pub async fn learner(&mut self) -> usize {
        let place = self.nodes.len();
        let founding = ["--join", &self.nodes[0].peer_address(), "--node-role", "learner"].map(str::to_owned);
        self.add(founding.to_vec());
        self.nodes[place].start();
        self.nodes[place].ready(START_DEADLINE).await;
        place
    }

    /// Waits until every running node is ready and every node of the cluster is a voter.
    ///
    /// # Panics
    /// When they do not get there in time.
    pub async fn ready(&self) {
        let count = self.nodes.len();
        for node in self.nodes.iter().filter(|node| node.is_running()) {
            node.ready(START_DEADLINE).await;
            wait_until("every node is a voter", START_DEADLINE, || async {
                let status = node.api.status().await?;
                let members = status["members"].as_array()?;
                (members.iter().filter(|member| member["role"] == "voter").count() == count).then_some(())
            })
            .await;
        }
    }

    /// The leader's place among the nodes, once a leader says of itself that it is.
    ///
    /// # Panics
    /// When none is there in time.
    pub async fn leader(&self) -> usize {
        let places: Vec<usize> = (0..self.nodes.len()).filter(|place| self.nodes[*place].is_running()).collect();
        self.leader_among(&places).await
    }

    /// As [`Self::leader`], asking only some of the nodes: the others may be halted.
    ///
    /// # Panics
    /// When none is there in time.
    pub async fn leader_among(&self, places: &[usize]) -> usize {
        wait_until("a leader is there", ELECTION_DEADLINE, || async {
            for place in places {
                let Some(status) = self.nodes[*place].api.status().await else { continue };
                if status["leader_id"].is_number() && status["leader_id"] == status["node_id"] {
                    return Some(*place);
                }
            }
            None
        })
        .await
    }

    /// A running node that is not the leader.
    ///
    /// # Panics
    /// When no leader is there in time, or nobody else.
    pub async fn follower(&self) -> usize {
        let leader = self.leader().await;
        let running = |place: &usize| *place != leader && self.nodes[*place].is_running();
        (0..self.nodes.len()).find(running).expect("a node beside the leader")
    }

    /// Waits until every node has applied the same entry, and compares the digests there.
    ///
    /// # Panics
    /// When they do not come to rest in time, or differ.
    pub async fn digests_agree(&self) {
        let rest = || async {
            let mut rows = Vec::new();
            for node in &self.nodes {
                let digest: Value = node.api.try_get("/api/cluster/digest").await.ok()?.body;
                rows.push((digest["applied_index"].as_u64()?, digest["digest"].as_str()?.to_owned()));
            }
            rows.iter().all(|(index, _)| *index == rows[0].0).then_some(rows)
        };
        let rows = wait_until("all nodes applied the same entry", START_DEADLINE, rest).await;
        assert!(rows.iter().all(|(_, digest)| *digest == rows[0].1), "nodes differ at one index: {rows:?}");
    }

    /// Where the certificates of a secured cluster are.
    ///
    /// # Panics
    /// When the cluster has none.
    pub fn certificates(&self) -> &Path {
        self.certificates.as_deref().expect("a secured cluster")
    }

    /// A directory for what is no node of the cluster.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }
}

impl Drop for Cluster {
    #[expect(clippy::print_stderr, reason = "a failed test shows why")]
    fn drop(&mut self) {
        if std::thread::panicking() {
            for (number, node) in self.nodes.iter().enumerate() {
                eprintln!("---- log of node {}, {}\n{}", number + 1, node.client_address(), node.log_tail());
            }
            return;
        }
        for node in &self.nodes {
            let log = node.log();
            let panic = log.lines().find(|line| line.contains("panicked"));
            assert!(panic.is_none(), "a node's log tells of a panic: {panic:?}");
        }
    }
}
