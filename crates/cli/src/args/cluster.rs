//! `rollcall cluster …`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};

use super::parse_duration;

#[derive(Debug, Subcommand)]
pub(crate) enum Cluster {
    /// Show the members, the leader, and how far each node is
    Status(StatusView),
    /// Take in a node that waits to be added: `rollcall serve` on an empty directory, with neither --bootstrap nor --join
    Add(Add),
    /// Make a learner a voter, once it has caught up
    Promote(Change),
    /// Make a voter a learner, for good
    Demote(Change),
    /// Remove a node: it is told so and ends
    Remove(Change),
    /// Have a node that waits to be added take the place of another
    Replace(Replace),
    /// Say where a node is reached from now on; one that is started with another address says so itself
    Relocate(Relocate),
    /// Hand the lead to a voter, or to the one whose log reaches furthest
    Transfer(Transfer),
    /// Make a token with which nodes join, or list and revoke those that there are
    JoinToken(JoinToken),
    /// Wait until the cluster can do its work
    Wait(Wait),
    /// Write the whole roll of all tenants into a file, while the cluster serves
    Backup(Backup),
    /// Read a backup as a restore does, and say what it holds
    Verify { file: PathBuf },
    /// Make a new cluster of a backup, in a directory without a node
    Restore(Restore),
    /// Make a cluster of what one node kept, when the others are gone for good
    Recover(Recover),
}

#[derive(Args, Debug)]
pub(crate) struct StatusView {
    /// Show it anew every second, until a signal
    #[arg(long)]
    pub(crate) watch: bool,
}

#[derive(Args, Debug)]
pub(crate) struct JoinToken {
    #[command(subcommand)]
    pub(crate) step: Option<JoinTokenStep>,
    /// How long it is good: `30m`, `1h`, at most `30d` [default: 1h]
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub(crate) ttl: Option<Duration>,
    /// How many nodes it admits, at most 100 [default: any number]
    #[arg(long, value_name = "N")]
    pub(crate) uses: Option<u32>,
    /// Admit learners only
    #[arg(long)]
    pub(crate) learner: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum JoinTokenStep {
    /// Show all join tokens, without their secrets
    List,
    /// Have nobody join by this token any more
    Revoke {
        /// The token, or its id as `list` shows it
        #[arg(value_name = "ID")]
        id: String,
    },
}

#[derive(Args, Debug)]
pub(crate) struct Backup {
    /// Where to; `-` writes to standard output. The file has its name only once all of it was checked and is durable
    pub(crate) file: PathBuf,
    /// Replace the file if it is there
    #[arg(long)]
    pub(crate) overwrite: bool,
}

#[derive(Args, Debug)]
pub(crate) struct Restore {
    /// The backup
    pub(crate) file: PathBuf,
    /// Where the first node of the new cluster is to keep its data: a new or an empty directory
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: PathBuf,
    /// `host:port` where clients will reach that node
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) advertise: String,
    /// `host:port` where other nodes will reach it
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) peer_advertise: String,
    /// The new cluster's epoch, if the backup's next was in use already: by a cluster that was restored from the same
    /// backup before [default: the backup's + 1]
    #[arg(long)]
    pub(crate) epoch: Option<u64>,
}

#[derive(Args, Debug)]
pub(crate) struct Recover {
    /// The data directory of the node that is left; the node must not run
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: PathBuf,
    /// `host:port` where clients will reach the node [default: as before]
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) advertise: Option<String>,
    /// `host:port` where other nodes will reach it [default: as before]
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) peer_advertise: Option<String>,
    /// Do not ask
    #[arg(long)]
    pub(crate) yes: bool,
    /// Say what would be kept and dropped, and change nothing
    #[arg(long, conflicts_with = "yes")]
    pub(crate) dry_run: bool,
}

#[derive(Args, Debug)]
pub(crate) struct Add {
    /// HOST:PORT of the peer port at which the node waits
    #[arg(value_name = "PEER_ADDRESS")]
    pub(crate) peer_address: String,
    /// HOST:PORT of its client port [default: what the node says itself]
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) api_address: Option<String>,
    /// Keep it a learner: it holds everything and answers reads, but has no vote
    #[arg(long)]
    pub(crate) learner: bool,
    #[command(flatten)]
    pub(crate) follow: Follow,
}

#[derive(Args, Debug)]
pub(crate) struct Change {
    /// The node's number, as the status shows it
    #[arg(value_name = "NODE")]
    pub(crate) node: u64,
    /// Even if fewer voters can be reached than are needed
    #[arg(long)]
    pub(crate) force: bool,
    #[command(flatten)]
    pub(crate) follow: Follow,
}

#[derive(Args, Debug)]
pub(crate) struct Replace {
    /// The number of the node that leaves, as the status shows it
    #[arg(value_name = "NODE")]
    pub(crate) node: u64,
    /// HOST:PORT of the peer port at which its successor waits, or of a learner
    #[arg(value_name = "PEER_ADDRESS")]
    pub(crate) peer_address: String,
    /// HOST:PORT of the successor's client port [default: what it says itself]
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) api_address: Option<String>,
    /// Even if fewer voters can be reached than are needed
    #[arg(long)]
    pub(crate) force: bool,
    #[command(flatten)]
    pub(crate) follow: Follow,
}

#[derive(Args, Debug)]
pub(crate) struct Relocate {
    /// The node's number, as the status shows it
    #[arg(value_name = "NODE")]
    pub(crate) node: u64,
    /// HOST:PORT of its peer port, where it must answer
    #[arg(value_name = "PEER_ADDRESS")]
    pub(crate) peer_address: String,
    /// HOST:PORT of its client port [default: as before]
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) api_address: Option<String>,
    /// Check everything and change nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
}

#[derive(Args, Debug)]
pub(crate) struct Transfer {
    /// Who is to lead [default: the voter whose log reaches furthest]
    #[arg(value_name = "NODE")]
    pub(crate) node: Option<u64>,
    /// Check everything and change nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
}

#[derive(Args, Debug)]
pub(crate) struct Follow {
    /// Check everything and change nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Do not wait until the node has caught up and the change is complete
    #[arg(long)]
    pub(crate) no_wait: bool,
}

#[derive(Args, Debug)]
#[group(required = true, multiple = true)]
pub(crate) struct Wait {
    /// Until every endpoint is ready to serve
    #[arg(long)]
    pub(crate) ready: bool,
    /// Until the cluster has this many voters and all of them are reachable
    #[arg(long, value_name = "N")]
    pub(crate) voters: Option<usize>,
}
