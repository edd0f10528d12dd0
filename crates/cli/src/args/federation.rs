//! `rollcall federation`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

#[derive(Debug, Subcommand)]
pub(crate) enum Federation {
    /// Print the key by which other clusters name this one. It is made if there is none yet
    Key,
    /// Name another cluster: it is told what is offered to it, and believed
    Add(Box<FederationAdd>),
    /// Show the other clusters and what is known of them
    List,
    /// Show how it goes with them: how far each is told, how far each was heard
    Status {
        /// Only this one
        name: Option<String>,
    },
    /// Tell it nothing and take nothing from it, until it is resumed
    Pause { name: String },
    /// Go on with it: what was missed is made up for
    Resume { name: String },
    /// Have nothing more to do with it, and forget what is known of it
    Remove { name: String },
}

#[derive(Args, Debug)]
pub(crate) struct FederationAdd {
    /// What it is called here
    pub(crate) name: String,
    /// The client addresses of any of its nodes, as https://host:7900
    #[arg(required = true, value_name = "URL")]
    pub(crate) urls: Vec<String>,
    /// Its key, as `rollcall federation key` prints it there
    #[arg(long, value_name = "PUBLIC_KEY")]
    pub(crate) key: String,
    /// The authority (PEM) of its nodes' certificates [default: those that the nodes' machines trust]
    #[arg(long, value_name = "FILE")]
    pub(crate) peer_ca: Option<PathBuf>,
    /// Who tells whom [default: both]
    #[arg(long, value_enum)]
    pub(crate) direction: Option<DirectionWord>,
    /// A tenant of this cluster with its name in the other one; repeat it. No other tenant is told of or taken [default:
    /// default=default]
    #[arg(long = "map", value_name = "LOCAL=REMOTE", value_parser = parse_pair)]
    pub(crate) tenants: Vec<(String, String)>,
    /// Whom it is told of: what is public, or what is internal too [default: public]
    #[arg(long, value_enum)]
    pub(crate) offer: Option<OfferWord>,
    /// Of those only whoever has these labels, as `env=prod,!secret`
    #[arg(long, value_name = "LABELS")]
    pub(crate) selector: Option<String>,
    /// 0 to 10; below 6 it is neither told nor believed [default: 6]
    #[arg(long)]
    pub(crate) trust: Option<f64>,
    /// Where several clusters know an id, the one of the highest priority is believed [default: 0]
    #[arg(long)]
    pub(crate) priority: Option<u32>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum DirectionWord {
    Send,
    Receive,
    Both,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum OfferWord {
    Public,
    Internal,
}

fn parse_pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((local, remote)) if !local.is_empty() && !remote.is_empty() => Ok((local.to_owned(), remote.to_owned())),
        _ => Err("must be LOCAL=REMOTE, two names of tenants".to_owned()),
    }
}
