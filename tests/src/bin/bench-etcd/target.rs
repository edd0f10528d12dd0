//! The etcd cluster under load.

use std::net::SocketAddr;
use std::time::Duration;

use rollcall_bench::Processes;
use rollcall_bench::args::{Common, Node};
use rollcall_tests::etcd::{EtcdClient, EtcdError};

#[derive(Debug)]
pub(crate) struct Target {
    pub(crate) endpoints: Vec<String>,
    pub(crate) timeout: Duration,
    pub(crate) version: String,
    leader: Option<String>,
}

impl Target {
    /// Asks every node who it is and who leads.
    ///
    /// # Errors
    /// When one of them does not answer.
    pub(crate) async fn find(endpoints: Vec<String>, timeout: Duration) -> Result<Self, EtcdError> {
        let (mut leader, mut version) = (None, String::new());
        for endpoint in &endpoints {
            let status = EtcdClient::connect(endpoint, timeout).await?.status().await?;
            version = status.version;
            if status.leader == status.header.member_id {
                leader = Some(endpoint.clone());
            }
        }
        Ok(Self { endpoints, timeout, version, leader })
    }

    pub(crate) fn leader(&self) -> Option<&str> {
        self.leader.as_deref()
    }

    fn nodes(&self, node: Node) -> Vec<&String> {
        let fits = |endpoint: &&String| match node {
            Node::Any => true,
            Node::Leader => Some(*endpoint) == self.leader.as_ref(),
            Node::Followers => self.leader.as_ref().is_some_and(|leader| leader != *endpoint),
        };
        self.endpoints.iter().filter(fits).collect()
    }

    /// The first of the nodes that a work asks.
    pub(crate) fn first(&self, node: Node) -> Option<&str> {
        self.nodes(node).first().map(|node| node.as_str())
    }

    /// Opens that many connections, to the nodes in turn.
    ///
    /// # Errors
    /// When one of the nodes cannot be reached.
    pub(crate) async fn connect(&self, node: Node, count: u16) -> Result<Vec<EtcdClient>, EtcdError> {
        let mut clients = Vec::with_capacity(count.into());
        for endpoint in self.nodes(node).into_iter().cycle().take(count.into()) {
            clients.push(EtcdClient::connect(endpoint, self.timeout).await?);
        }
        Ok(clients)
    }

    /// The nodes' processes: those that were named, else those that are found on this machine.
    pub(crate) fn processes(&self, common: &Common) -> Processes {
        if !common.pids.is_empty() {
            return Processes::new(common.pids.clone());
        }
        let addresses: Vec<SocketAddr> = self.endpoints.iter().filter_map(|endpoint| endpoint.parse().ok()).collect();
        Processes::listening_at(&addresses)
    }
}
