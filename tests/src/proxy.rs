//! One address behind which a node is that is ready, as a load balancer has it.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};

use crate::api::Api;

/// How often each node is asked whether it is ready: a real one asks every second or two, and takes the nodes out of turn
/// that say no.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// Forwards connections to nodes that are ready, in turn. A connection that is open stays where it is.
#[derive(Debug)]
pub struct Proxy {
    address: String,
    serving: AbortHandle,
}

impl Proxy {
    /// # Panics
    /// When there is no free port.
    pub async fn start(nodes: Vec<String>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("a bound address").to_string();
        let serving = tokio::spawn(serve(listener, nodes)).abort_handle();
        Self { address, serving }
    }

    pub fn address(&self) -> &str {
        &self.address
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn serve(listener: TcpListener, nodes: Vec<String>) {
    // All count as ready until they were asked.
    let (ready, mut readers) = (Arc::new(tokio::sync::RwLock::new(nodes.clone())), JoinSet::new());
    readers.spawn(look(nodes, ready.clone()));
    for turn in 0usize.. {
        let Ok((client, _)) = listener.accept().await else { return };
        let ready = ready.clone();
        readers.spawn(async move {
            // Whoever is down refuses, and the next is tried: that is what a load balancer does with a connection.
            let nodes: Vec<String> = ready.read().await.clone();
            for n in 0..nodes.len() {
                if let Ok(node) = TcpStream::connect(&nodes[(turn + n) % nodes.len()]).await {
                    let (mut client, mut node) = (client, node);
                    // Either side may go at any time.
                    let _ = copy_bidirectional(&mut client, &mut node).await;
                    return;
                }
            }
        });
    }
}

/// Keeps the list of those that are ready.
async fn look(nodes: Vec<String>, ready: Arc<tokio::sync::RwLock<Vec<String>>>) {
    let apis: Vec<(String, Api)> = nodes.into_iter().map(|address| (address.clone(), Api::new(&address))).collect();
    let mut looks = tokio::time::interval(LOOK_INTERVAL);
    loop {
        looks.tick().await;
        let mut found = Vec::new();
        for (address, api) in &apis {
            if api.is_ready().await {
                found.push(address.clone());
            }
        }
        *ready.write().await = found;
    }
}
