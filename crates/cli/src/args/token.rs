//! `rollcall token …`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};

use super::parse_duration;

#[derive(Debug, Subcommand)]
pub(crate) enum Token {
    /// Make a token, for the tenant that --tenant names; `--tenant '*'` for all, and for the cluster itself
    Create(TokenCreate),
    /// Show all tokens, without their secrets
    List,
    /// Have a token open nothing any more
    Revoke {
        /// The token, or its id as `list` shows it
        #[arg(value_name = "ID")]
        id: String,
    },
    /// Give a token another secret; what was registered by it stays its own
    Rotate(TokenRotate),
    /// Revoke the administrators of all tenants and make a new one, by who has the directory of a node that runs
    Reset(TokenReset),
}

#[derive(Args, Debug)]
pub(crate) struct TokenCreate {
    /// reader, agent, operator or admin
    #[arg(long)]
    pub(crate) role: String,
    /// The beginning of the names of services that it may write, whoever registered them; may be repeated [default: it
    /// registers any, and changes its own]
    #[arg(long = "service", visible_alias = "services", value_name = "PREFIX", value_delimiter = ',')]
    pub(crate) services: Vec<String>,
    /// read, watch, register, heartbeat, deregister, define, operate or administer; may be repeated [default: all that the
    /// role may]
    #[arg(long = "verb", visible_alias = "verbs", value_name = "VERB", value_delimiter = ',')]
    pub(crate) verbs: Vec<String>,
    /// How long it is good: `12h`, `90d`, at most `3650d` [default: until it is revoked]
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub(crate) ttl: Option<Duration>,
    /// What it is for
    #[arg(long, value_name = "TEXT")]
    pub(crate) description: Option<String>,
}

#[derive(Args, Debug)]
pub(crate) struct TokenRotate {
    /// The token, or its id as `list` shows it
    #[arg(value_name = "ID")]
    pub(crate) id: String,
    /// So long the secret before stays good: `10m`, at most `7d` [default: not at all]
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub(crate) overlap: Option<Duration>,
}

#[derive(Args, Debug)]
pub(crate) struct TokenReset {
    /// The data directory of a node that runs
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: PathBuf,
}
