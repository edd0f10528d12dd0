//! `rollcall tls`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

#[derive(Debug, Subcommand)]
pub(crate) enum Tls {
    /// Make two authorities and the certificates of nodes: one authority for clients, one for nodes among themselves.
    /// Nothing is overwritten; a directory with authorities gets certificates for further nodes
    Init(TlsInit),
}

#[derive(Args, Debug)]
pub(crate) struct TlsInit {
    /// Where to
    #[arg(value_name = "DIR")]
    pub(crate) dir: PathBuf,
    /// A node by a host name or address at which clients and nodes reach it, and further ones; repeat it for each node
    #[arg(long = "node", value_name = "NAME[,ADDRESS…]", required_unless_present = "clients")]
    pub(crate) nodes: Vec<String>,
    /// A client that is to have a certificate, for nodes with tls_client_ca; may be repeated
    #[arg(long = "client", value_name = "NAME")]
    pub(crate) clients: Vec<String>,
    /// How long the certificates are good
    #[arg(long, default_value_t = 365, value_parser = clap::value_parser!(u32).range(1..=3_650))]
    pub(crate) days: u32,
}
