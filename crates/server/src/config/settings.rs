//! The settings by name: flags over environment over file.

use std::io;
use std::path::{Path, PathBuf};

use clap::{ArgAction, Args, ValueEnum};
use serde::Deserialize;

use super::Config;
use crate::secret::Secret;

/// Variables of the `ROLLCALL_` family that belong to the command line and not to a node.
const CLIENT_VARIABLES: &[&str] = &[
    "ROLLCALL_ENDPOINTS",
    "ROLLCALL_TOKEN",
    "ROLLCALL_TENANT",
    "ROLLCALL_CA",
    "ROLLCALL_CLIENT_CERT",
    "ROLLCALL_CLIENT_KEY",
    "ROLLCALL_SIGN_KEY",
];

/// How a node takes part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum NodeRole {
    /// Becomes a voter by itself once it has caught up.
    #[default]
    Voter,
    /// Holds everything and answers reads, and never votes.
    Learner,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    #[default]
    Text,
    Json,
}

/// How signatures of registrations are taken by tenants that say nothing of their own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Signatures {
    /// They are carried, and mean nothing.
    Off,
    /// One that is there must be right, and whose owner has a key must sign.
    #[default]
    Accepted,
    /// Whoever registers must sign.
    Required,
}

/// Whether a node checks instances.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Checks {
    Off,
    /// Those that ask, or whose tenant does.
    #[default]
    On,
}

/// What a node does that was removed from its cluster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum WhenRemoved {
    /// Ends, with an exit code of its own.
    #[default]
    Exit,
    /// Does nothing until it is asked to end: where whoever supervises it starts it again whatever its exit code.
    Wait,
}

macro_rules! settings {
    ($($(#[$attribute:meta])* $key:ident: $type:ty,)+) => {
        /// Every key, each optional. Read from flags and environment by clap and from a file by [`Settings::from_toml`].
        #[derive(Clone, Debug, Default, PartialEq, Eq, Args, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub struct Settings {
            /// TOML file with any of these settings; flags and environment win over it.
            #[arg(long, value_name = "FILE", env = "ROLLCALL_CONFIG")]
            #[serde(skip)]
            pub config: Option<PathBuf>,
            $($(#[$attribute])* pub $key: Option<$type>,)+
        }

        impl Settings {
            /// Takes from `weaker` what is not set here.
            #[must_use]
            pub fn over(self, weaker: Self) -> Self {
                Self { config: self.config.or(weaker.config), $($key: self.$key.or(weaker.$key),)+ }
            }

            /// The keys of a configuration file.
            const KEYS: &'static [&'static str] = &[$(stringify!($key)),+];
        }
    };
}

settings! {
    /// Where this node keeps everything.
    #[arg(long, value_name = "DIR", env = "ROLLCALL_DATA_DIR")]
    data_dir: PathBuf,
    /// Address for clients [default: 127.0.0.1:7900]; port 0 takes a free one.
    #[arg(long, value_name = "HOST:PORT", env = "ROLLCALL_LISTEN")]
    listen: String,
    /// Address for the other nodes [default: 127.0.0.1:7901]; port 0 takes a free one.
    #[arg(long, value_name = "HOST:PORT", env = "ROLLCALL_PEER_LISTEN")]
    peer_listen: String,
    /// What clients are told to reach this node by [default: the listen address].
    #[arg(long, value_name = "HOST:PORT", env = "ROLLCALL_ADVERTISE")]
    advertise: String,
    /// What the other nodes reach this node by [default: the peer listen address].
    #[arg(long, value_name = "HOST:PORT", env = "ROLLCALL_PEER_ADVERTISE")]
    peer_advertise: String,
    /// Found a new cluster of this one node. Changes nothing on a directory that already is a node.
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true, value_name = "BOOL",
        action = ArgAction::Set, env = "ROLLCALL_BOOTSTRAP")]
    bootstrap: bool,
    /// Join the cluster of these members, by peer address. Changes nothing on a directory that already is a node.
    #[arg(long, value_name = "HOST:PORT,…", value_delimiter = ',', env = "ROLLCALL_JOIN")]
    join: Vec<String>,
    /// Proves to the members that this node may join.
    #[arg(long, value_name = "TOKEN", env = "ROLLCALL_JOIN_TOKEN", hide_env_values = true)]
    join_token: Secret,
    /// Take in only nodes that bring a join token. Say the same at all nodes: whichever leads decides [default: false].
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true, value_name = "BOOL",
        action = ArgAction::Set, env = "ROLLCALL_JOIN_TOKEN_REQUIRED")]
    join_token_required: bool,
    /// Whether this node votes once it has caught up [default: voter].
    #[arg(long, value_enum, value_name = "ROLE", env = "ROLLCALL_NODE_ROLE")]
    node_role: NodeRole,
    /// What to do once this node was removed from its cluster: end with exit code 8, or do nothing until asked to end,
    /// for supervisors that start again whatever ended [default: exit].
    #[arg(long, value_enum, value_name = "WHAT", env = "ROLLCALL_WHEN_REMOVED")]
    when_removed: WhenRemoved,
    /// A node that the leader has not reached for so long is removed from the cluster; 0 removes none [default: 0].
    #[arg(long, value_name = "MS", env = "ROLLCALL_DEAD_NODE_REMOVAL_MS")]
    dead_node_removal_ms: u64,
    /// The leader removes no node by itself that would leave fewer voters [default: 3].
    #[arg(long, value_name = "N", env = "ROLLCALL_VOTERS_MIN")]
    voters_min: usize,
    /// A node that joined must have kept up for so long before it votes [default: 0].
    #[arg(long, value_name = "MS", env = "ROLLCALL_LEARNER_STABLE_MS")]
    learner_stable_ms: u64,
    /// How often the leader calls on its followers [default: 100].
    #[arg(long, value_name = "MS", env = "ROLLCALL_HEARTBEAT_INTERVAL_MS")]
    heartbeat_interval_ms: u64,
    /// A follower waits at least this long for its leader [default: 400].
    #[arg(long, value_name = "MS", env = "ROLLCALL_ELECTION_TIMEOUT_MS_MIN")]
    election_timeout_ms_min: u64,
    /// A follower waits at most this long for its leader [default: 800].
    #[arg(long, value_name = "MS", env = "ROLLCALL_ELECTION_TIMEOUT_MS_MAX")]
    election_timeout_ms_max: u64,
    /// Shortest TTL a registration may ask for [default: 1000].
    #[arg(long, value_name = "MS", env = "ROLLCALL_TTL_MS_MIN")]
    ttl_ms_min: u64,
    /// TTL of a registration that asks for none [default: 30000].
    #[arg(long, value_name = "MS", env = "ROLLCALL_TTL_MS_DEFAULT")]
    ttl_ms_default: u64,
    /// Longest TTL a registration may ask for [default: 86400000].
    #[arg(long, value_name = "MS", env = "ROLLCALL_TTL_MS_MAX")]
    ttl_ms_max: u64,
    /// TTL of an agent that registers by Protolink's contract, which names none [default: ttl_ms_default where that is set,
    /// else 2592000000, 30 days: such agents send heartbeats only if told to].
    #[arg(long, value_name = "MS", env = "ROLLCALL_PROTOLINK_TTL_MS")]
    protolink_ttl_ms: u64,
    /// A snapshot is taken after so many log entries [default: 20000].
    #[arg(long, value_name = "N", env = "ROLLCALL_SNAPSHOT_ENTRIES")]
    snapshot_entries: u64,
    /// So many log entries are kept behind a snapshot for followers that lag [default: 20000].
    #[arg(long, value_name = "N", env = "ROLLCALL_LOG_ENTRIES_KEPT")]
    log_entries_kept: u64,
    /// So many of the last changes are kept for watchers that resume and for pages [default: 250000].
    #[arg(long, value_name = "N", env = "ROLLCALL_HISTORY_CHANGES_MAX")]
    history_changes_max: usize,
    /// So many bytes of what those changes replaced are kept [default: 134217728].
    #[arg(long, value_name = "BYTES", env = "ROLLCALL_HISTORY_BYTES_MAX")]
    history_bytes_max: usize,
    /// Watchers served at once; more are refused with 429 [default: 20000].
    #[arg(long, value_name = "N", env = "ROLLCALL_WATCHERS_MAX")]
    watchers_max: usize,
    /// Watchers of one tenant served at once; more are refused with 429 [default: 15000].
    #[arg(long, value_name = "N", env = "ROLLCALL_TENANT_WATCHERS_MAX")]
    tenant_watchers_max: usize,
    /// This node's certificate (PEM) for clients, with those between it and its authority. Read again when it changes.
    #[arg(long, value_name = "FILE", env = "ROLLCALL_TLS_CERT")]
    tls_cert: PathBuf,
    /// The key of that certificate (PEM).
    #[arg(long, value_name = "FILE", env = "ROLLCALL_TLS_KEY")]
    tls_key: PathBuf,
    /// Clients must have a certificate of one of these authorities (PEM) [default: they need none].
    #[arg(long, value_name = "FILE", env = "ROLLCALL_TLS_CLIENT_CA")]
    tls_client_ca: PathBuf,
    /// This node's certificate (PEM) for the other nodes, valid for the host of its peer address, as server and client.
    #[arg(long, value_name = "FILE", env = "ROLLCALL_PEER_TLS_CERT")]
    peer_tls_cert: PathBuf,
    /// The key of that certificate (PEM).
    #[arg(long, value_name = "FILE", env = "ROLLCALL_PEER_TLS_KEY")]
    peer_tls_key: PathBuf,
    /// The authority of all nodes' peer certificates (PEM), which signs nothing else.
    #[arg(long, value_name = "FILE", env = "ROLLCALL_PEER_TLS_CA")]
    peer_tls_ca: PathBuf,
    /// Every request must say by a token who asks, but for probes and pages. Say the same at all nodes [default: false].
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true, value_name = "BOOL",
        action = ArgAction::Set, env = "ROLLCALL_AUTH")]
    auth: bool,
    /// With auth: where the founder writes the first administrator's token, readable by its owner alone [default: standard
    /// output].
    #[arg(long, value_name = "FILE", env = "ROLLCALL_ADMIN_TOKEN_FILE")]
    admin_token_file: PathBuf,
    /// With auth: anybody may read /metrics, which tells of all tenants [default: false].
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true, value_name = "BOOL",
        action = ArgAction::Set, env = "ROLLCALL_METRICS_OPEN")]
    metrics_open: bool,
    /// Listen beyond loopback although there is neither TLS nor a token.
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true, value_name = "BOOL",
        action = ArgAction::Set, env = "ROLLCALL_INSECURE")]
    insecure: bool,
    /// So long a node that was asked to end goes on answering, each connection once more, while `/readyz` sends new ones
    /// elsewhere; it ends at once where no client is connected [default: 500].
    #[arg(long, value_name = "MS", env = "ROLLCALL_DRAIN_MS")]
    drain_ms: u64,
    /// Accept these tenants only [default: any].
    #[arg(long, value_name = "TENANT,…", value_delimiter = ',', env = "ROLLCALL_TENANTS")]
    tenants: Vec<String>,
    /// How signatures of registrations are taken by tenants that have no mode of their own: say the same at all nodes
    /// [default: accepted].
    #[arg(long, value_enum, value_name = "MODE", env = "ROLLCALL_SIGNATURES")]
    signatures: Signatures,
    /// Whether this node checks instances that ask for it, or whose tenant does: say the same at all nodes [default: on].
    #[arg(long, value_enum, value_name = "WHETHER", env = "ROLLCALL_CHECKS")]
    checks: Checks,
    /// Networks that are checked although they are not on the public internet, as 10.1.0.0/16. Say the same at all nodes
    /// [default: none].
    #[arg(long, value_name = "NETWORK,…", value_delimiter = ',', env = "ROLLCALL_CHECK_ALLOW")]
    check_allow: Vec<String>,
    /// Authorities (PEM) whose certificates checks believe, beside those of this machine.
    #[arg(long, value_name = "FILE", env = "ROLLCALL_CHECK_CA")]
    check_ca: PathBuf,
    /// TTL of agents that register by the Soorma contract, which has no word for it [default: 300000].
    #[arg(long, value_name = "MS", env = "ROLLCALL_SOORMA_TTL_MS")]
    soorma_ttl_ms: u64,
    /// How long such an agent can still come back by a heartbeat after its TTL [default: 60000].
    #[arg(long, value_name = "MS", env = "ROLLCALL_SOORMA_REAP_AFTER_MS")]
    soorma_reap_after_ms: u64,
    /// Pages of these origins may use the Soorma contract from within a browser [default: http://localhost:3000 and :8000].
    #[arg(long, value_name = "ORIGIN,…", value_delimiter = ',', env = "ROLLCALL_SOORMA_ORIGINS")]
    soorma_origins: Vec<String>,
    /// JSON Web Tokens say who asks, beside the cluster's own tokens; without auth they are asked for by the Soorma contract
    /// only. This secret checks those signed with HS256.
    #[arg(long, value_name = "SECRET", env = "ROLLCALL_JWT_SECRET", hide_env_values = true)]
    jwt_secret: Secret,
    /// As jwt_secret, for RS256: a file with a public key in PEM.
    #[arg(long, value_name = "FILE", env = "ROLLCALL_JWT_PUBLIC_KEY_FILE")]
    jwt_public_key_file: PathBuf,
    /// As jwt_secret, for RS256: a JSON Web Key Set, or a file with one.
    #[arg(long, value_name = "JSON|FILE", env = "ROLLCALL_JWT_JWKS")]
    jwt_jwks: String,
    /// As jwt_secret, for RS256: where a JSON Web Key Set is fetched, and fetched anew when a key is missing.
    #[arg(long, value_name = "URL", env = "ROLLCALL_JWT_JWKS_URL")]
    jwt_jwks_url: String,
    /// Tokens must be of this issuer [default: any].
    #[arg(long, value_name = "ISSUER", env = "ROLLCALL_JWT_ISSUER")]
    jwt_issuer: String,
    /// Tokens must be for this audience [default: any].
    #[arg(long, value_name = "AUDIENCE", env = "ROLLCALL_JWT_AUDIENCE")]
    jwt_audience: String,
    /// The claim that names the tenant, `*` for all [default: tenant_id, else platform_tenant_id].
    #[arg(long, value_name = "CLAIM", env = "ROLLCALL_JWT_TENANT_CLAIM")]
    jwt_tenant_claim: String,
    /// The claim that names the role: reader, agent, operator or admin, or a list with any of them [default: role].
    #[arg(long, value_name = "CLAIM", env = "ROLLCALL_JWT_ROLE_CLAIM")]
    jwt_role_claim: String,
    /// The role of tokens that name neither a role nor a principal_type [default: reader].
    #[arg(long, value_name = "ROLE", env = "ROLLCALL_JWT_ROLE_DEFAULT")]
    jwt_role_default: String,
    /// Networks to which alerts may go although they are not on the public internet, as 10.1.0.0/16. Say the same at all
    /// nodes [default: none].
    #[arg(long, value_name = "NETWORK,…", value_delimiter = ',', env = "ROLLCALL_ALERT_ALLOW")]
    alert_allow: Vec<String>,
    /// Where each change is written down, one JSON object a line: who, what, when, by which request. `-` is standard output
    /// [default: nowhere].
    #[arg(long, value_name = "FILE", env = "ROLLCALL_AUDIT_FILE")]
    audit_file: PathBuf,
    /// A request that takes longer is logged as slow; 0 logs none [default: 500].
    #[arg(long, value_name = "MS", env = "ROLLCALL_SLOW_MS")]
    slow_ms: u64,
    /// Form of the log [default: text].
    #[arg(long, value_enum, value_name = "FORMAT", env = "ROLLCALL_LOG_FORMAT")]
    log_format: LogFormat,
    /// What is logged: error, warn, info, debug, trace or filter directives [default: info].
    #[arg(long, value_name = "LEVEL", env = "ROLLCALL_LOG_LEVEL")]
    log_level: String,
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("read configuration file {path}")]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("parse configuration file {path}")]
    Parse {
        path: PathBuf,
        #[source]
        source: Box<toml::de::Error>,
    },
    #[error("configuration is faulty: {}", faults.join("; "))]
    Faulty { faults: Vec<String> },
}

impl Settings {
    /// The settings of a file's text. Every fault is named, each with its key.
    pub(super) fn from_toml(text: &str) -> Result<(Self, Vec<String>), toml::de::Error> {
        let table: toml::Table = toml::from_str(text)?;
        let (mut settings, mut faults) = (Self::default(), Vec::new());
        for (key, value) in table {
            if !Self::KEYS.contains(&key.as_str()) {
                faults.push(format!("{key}: unknown key"));
                continue;
            }
            // One key at a time, because a deserializer stops at its first fault.
            match Self::deserialize(toml::Table::from_iter([(key.clone(), value)])) {
                Ok(one) => settings = settings.over(one),
                Err(error) => faults.push(format!("{key}: {}", error.message())),
            }
        }
        Ok((settings, faults))
    }

    /// Reads the file if one is named, fills in the defaults and checks the whole. Relative paths are relative to the
    /// working directory.
    pub fn resolve(self) -> Result<Config, ConfigError> {
        let (file, mut faults) = match &self.config {
            None => (Self::default(), Vec::new()),
            Some(path) => Self::read(path)?,
        };
        let config = Config::new(self.over(file), &mut faults);
        match config {
            Some(config) if faults.is_empty() => Ok(config),
            _ => Err(ConfigError::Faulty { faults }),
        }
    }

    fn read(path: &Path) -> Result<(Self, Vec<String>), ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.into(), source })?;
        Self::from_toml(&text).map_err(|source| ConfigError::Parse { path: path.into(), source: Box::new(source) })
    }
}

/// `ROLLCALL_…` variables that mean nothing: probably misspelled, and worth a warning.
pub fn unknown_variables(names: impl IntoIterator<Item = String>) -> Vec<String> {
    let known = |name: &str| {
        let key = name.trim_start_matches("ROLLCALL_").to_ascii_lowercase();
        CLIENT_VARIABLES.contains(&name) || key == "config" || Settings::KEYS.contains(&key.as_str())
    };
    names.into_iter().filter(|name| name.starts_with("ROLLCALL_") && !known(name)).collect()
}
