//! `rollcall tls`.

use std::fmt::Write as _;
use std::path::PathBuf;

use rollcall_server::tls::init::{Hosts, Made, Trial, init};
use serde::Serialize;

use crate::args::{Tls, TlsInit};
use crate::failure::Failure;
use crate::output::{self, Format};

/// What was made, and how it is used.
#[derive(Serialize)]
struct Shown {
    client_ca: PathBuf,
    peer_ca: PathBuf,
    authorities_kept: bool,
    nodes: Vec<ShownNode>,
    clients: Vec<ShownClient>,
}

#[derive(Serialize)]
struct ShownNode {
    name: String,
    tls_cert: PathBuf,
    tls_key: PathBuf,
    peer_tls_cert: PathBuf,
    peer_tls_key: PathBuf,
}

#[derive(Serialize)]
struct ShownClient {
    name: String,
    client_cert: PathBuf,
    client_key: PathBuf,
}

pub(super) fn run(command: Tls, format: Format) -> Result<(), Failure> {
    let Tls::Init(TlsInit { dir, nodes, clients, days }) = command;
    let failed = |source| Failure::TlsInit { source };
    let nodes = nodes.iter().map(|text| Hosts::parse(text)).collect::<Result<_, _>>().map_err(failed)?;
    let made = init(&Trial { dir, nodes, clients, days }).map_err(failed)?;
    output::show(format, &shown(made), text)
}

fn shown(made: Made) -> Shown {
    let node = |node: rollcall_server::tls::init::MadeNode| ShownNode {
        name: node.name,
        tls_cert: node.tls_cert,
        tls_key: node.tls_key,
        peer_tls_cert: node.peer_tls_cert,
        peer_tls_key: node.peer_tls_key,
    };
    let client = |client: rollcall_server::tls::init::MadeClient| ShownClient {
        name: client.name,
        client_cert: client.cert,
        client_key: client.key,
    };
    Shown {
        client_ca: made.client_ca,
        peer_ca: made.peer_ca,
        authorities_kept: made.authorities_kept,
        nodes: made.nodes.into_iter().map(node).collect(),
        clients: made.clients.into_iter().map(client).collect(),
    }
}

fn text(shown: &Shown) -> String {
    let Shown { client_ca, peer_ca, authorities_kept, nodes, clients } = shown;
    let mut text = String::new();
    let word = if *authorities_kept { "kept" } else { "new" };
    let _ = writeln!(text, "authorities  {} and {} ({word})", client_ca.display(), peer_ca.display());
    for ShownNode { name, tls_cert, tls_key, peer_tls_cert, peer_tls_key } in nodes {
        let _ = writeln!(text, "{name:<11}  rollcall serve … \\");
        let _ = writeln!(text, "    --tls-cert {} --tls-key {} \\", tls_cert.display(), tls_key.display());
        let (cert, key, ca) = (peer_tls_cert.display(), peer_tls_key.display(), peer_ca.display());
        let _ = writeln!(text, "    --peer-tls-cert {cert} --peer-tls-key {key} --peer-tls-ca {ca}");
    }
    let _ = writeln!(text, "clients      rollcall --ca {} …, or ROLLCALL_CA", client_ca.display());
    for ShownClient { name, client_cert, client_key } in clients {
        let (cert, key) = (client_cert.display(), client_key.display());
        let _ = writeln!(text, "{name:<11}  --client-cert {cert} --client-key {key}");
    }
    if !clients.is_empty() {
        let _ = writeln!(text, "    for nodes with --tls-client-ca {}", client_ca.display());
    }
    let _ =
        writeln!(text, "The keys of the authorities are needed for further certificates only: keep them elsewhere.");
    text
}
