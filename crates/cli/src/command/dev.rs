//! `rollcall dev`: a whole cluster on this machine, one process for each node as anywhere else.

use std::fs::{File, OpenOptions};
use std::io;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rollcall_client::Client;
use serde::Serialize;

use super::cluster;
use crate::args::{Dev, Wait};
use crate::failure::Failure;
use crate::output::{self, Format};
use crate::process::{Signals, Tied, this_program};

/// Between the ports of one node and the next.
const PORT_STEP: u16 = 10;

const READY_TIMEOUT: Duration = Duration::from_secs(60);

/// A node hands over its leadership and flushes before it ends.
const STOP_PATIENCE: Duration = Duration::from_secs(10);

struct Node {
    number: u16,
    client_address: String,
    log: PathBuf,
    process: Tied,
}

#[derive(Serialize)]
struct Ready {
    nodes: usize,
    endpoints: Vec<String>,
    data_dir: PathBuf,
}

pub(super) async fn run(args: &Dev, format: Format) -> Result<(), Failure> {
    let mut signals = Signals::new()?;
    std::fs::create_dir_all(&args.data_dir)
        .map_err(|source| Failure::Prepare { path: args.data_dir.clone(), source })?;
    let mut nodes = Vec::new();
    let result = match start(args, &mut nodes) {
        Ok(()) => {
            let endpoints: Vec<_> = nodes.iter().map(|node| format!("http://{}", node.client_address)).collect();
            tokio::select! {
                result = watch_over(args, format, &endpoints) => result,
                failure = first_end(&mut nodes) => Err(failure),
                _ = signals.next() => Ok(()),
            }
        }
        Err(failure) => Err(failure),
    };
    stop(nodes).await?;
    result
}

fn start(args: &Dev, nodes: &mut Vec<Node>) -> Result<(), Failure> {
    let address = |port: u16| format!("127.0.0.1:{port}");
    let first_peer = address(args.port + 1);
    for number in 1..=args.nodes {
        let port = args.port + (number - 1) * PORT_STEP;
        let (client_address, peer_address) = (address(port), address(port + 1));
        for address in [&client_address, &peer_address] {
            check_free(address)?;
        }
        let log = args.data_dir.join(format!("node-{number}.log"));
        let mut command = this_program()?;
        command
            .arg("serve")
            .arg("--data-dir")
            .arg(args.data_dir.join(format!("node-{number}")))
            .args(["--listen", &client_address, "--peer-listen", &peer_address])
            .stdout(std::process::Stdio::null())
            .stderr(open_log(&log)?);
        if number == 1 {
            command.arg("--bootstrap");
        } else {
            command.args(["--join", &first_peer]);
        }
        for (name, _) in std::env::vars_os() {
            // The nodes of this cluster are told everything that tells them apart; what is meant for a node of its own
            // must not reach all of them.
            let of_a_node = name.to_str().is_some_and(|name| {
                name.starts_with("ROLLCALL_") && !matches!(name, "ROLLCALL_LOG_LEVEL" | "ROLLCALL_LOG_FORMAT")
            });
            if of_a_node {
                command.env_remove(name);
            }
        }
        let process = Tied::start(command)?;
        nodes.push(Node { number, client_address, log, process });
    }
    Ok(())
}

/// Says so before a node has to: the port may be in use by a cluster that runs already.
fn check_free(address: &str) -> Result<(), Failure> {
    TcpListener::bind(address).map(drop).map_err(|source| Failure::Port { address: address.to_owned(), source })
}

fn open_log(path: &Path) -> Result<File, Failure> {
    let file = OpenOptions::new().create(true).append(true).open(path);
    file.map_err(|source: io::Error| Failure::Prepare { path: path.to_owned(), source })
}

/// Says when the cluster is ready, and then never returns.
async fn watch_over(args: &Dev, format: Format, endpoints: &[String]) -> Result<(), Failure> {
    let client = Client::builder().endpoints(endpoints).build().map_err(|source| Failure::Endpoints { source })?;
    let wanted = Wait { ready: true, voters: Some(endpoints.len()) };
    cluster::wait(&client, &wanted, READY_TIMEOUT).await?;
    let ready = Ready { nodes: endpoints.len(), endpoints: endpoints.to_vec(), data_dir: args.data_dir.clone() };
    output::show(format, &ready, |ready| {
        let endpoints = ready.endpoints.join(",");
        let nodes = if ready.nodes == 1 { "node" } else { "nodes" };
        let data_dir = ready.data_dir.display();
        format!(
            "ready: {} {nodes}, data and logs in {data_dir}; Ctrl-C ends them\nexport ROLLCALL_ENDPOINTS={endpoints}\n",
            ready.nodes
        )
    })?;
    std::future::pending().await
}

/// No node should end before it is asked to.
async fn first_end(nodes: &mut [Node]) -> Failure {
    let ends = nodes.iter_mut().map(|node| {
        Box::pin(async {
            match node.process.wait().await {
                Ok(status) => Failure::NodeEnded { node: node.number, status, log: node.log.clone() },
                Err(failure) => failure,
            }
        })
    });
    futures_util::future::select_all(ends).await.0
}

/// All at once: a node that is alone has nobody to hand its leadership to and need not wait for it.
async fn stop(nodes: Vec<Node>) -> Result<(), Failure> {
    let stops = nodes.into_iter().map(|mut node| async move { node.process.stop(STOP_PATIENCE).await.map(drop) });
    futures_util::future::join_all(stops).await.into_iter().collect()
}
