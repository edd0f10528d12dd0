//! What an operator may set, and what comes of it: flags over environment over file over defaults.

mod settings;

use std::net::IpAddr;
use std::path::PathBuf;

use axum::http::HeaderValue;
use rollcall_registry::TenantId;
use rollcall_registry::registration::UnknownWord;

use crate::auth::JwtConfig;
use crate::outbound::Network;
use crate::parse::REAP_AFTER_MS_MAX;
use crate::secret::Secret;
use crate::tls::{self, Port};

pub use settings::{Checks, ConfigError, LogFormat, NodeRole, Settings, Signatures, WhenRemoved, unknown_variables};

/// Longest TTL an operator may allow, 49 days: the state machine counts a lease's milliseconds in 32 bits.
pub const TTL_MS_MAX: u64 = u32::MAX as u64;

const LISTEN: &str = "127.0.0.1:7900";
const PEER_LISTEN: &str = "127.0.0.1:7901";
const HEARTBEAT_INTERVAL_MS: u64 = 100;
const ELECTION_TIMEOUT_MS_MIN: u64 = 400;
const ELECTION_TIMEOUT_MS_MAX: u64 = 800;
const TTL_MS_LEAST: u64 = 1_000;
const TTL_MS_DEFAULT: u64 = 30_000;
const TTL_MS_MOST: u64 = 86_400_000;
/// 30 days: an agent that never sends a heartbeat is listed for as long as anybody will look for it, and yet not for ever.
const PROTOLINK_TTL_MS: u64 = 2_592_000_000;
/// As the original server has them.
const SOORMA_TTL_MS: u64 = 300_000;
const SOORMA_REAP_AFTER_MS: u64 = 60_000;
const SOORMA_ORIGINS: [&str; 2] = ["http://localhost:3000", "http://localhost:8000"];
const SNAPSHOT_ENTRIES: u64 = 20_000;
const LOG_ENTRIES_KEPT: u64 = 20_000;
const HISTORY_CHANGES_MAX: usize = 250_000;
const HISTORY_BYTES_MAX: usize = 128 << 20;
/// Room for a few of the largest registrations.
const HISTORY_BYTES_LEAST: usize = 1 << 20;
const WATCHERS_MAX: usize = 20_000;
const TENANT_WATCHERS_MAX: usize = 15_000;
const SLOW_MS: u64 = 500;
/// A proxy that asks a few times a second has seen that a node leaves.
const DRAIN_MS: u64 = 500;
/// Who supervises a node waits no longer than that until it kills it.
const DRAIN_MS_MAX: u64 = 20_000;
/// A node that restarts, or a cable that is changed, must cost no membership.
const DEAD_NODE_REMOVAL_MS_LEAST: u64 = 5_000;
/// One may fail.
const VOTERS_MIN: usize = 3;
const LOG_LEVEL: &str = "info";

const OPEN_TO_CLIENTS: &str = "is beyond loopback, where anyone can read and write: set tls_cert and tls_key, and auth or \
    tls_client_ca, or secure the network and set insecure";

const OPEN_TO_PEERS: &str = "is beyond loopback, where anyone can act as a node: set peer_tls_cert, peer_tls_key and \
    peer_tls_ca, or secure the network and set insecure";
/// What a node does on a directory that is not a node yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Founding {
    /// Founds a cluster of its own.
    Bootstrap,
    /// Joins the cluster of any of these peer addresses.
    Join { peers: Vec<String>, token: Option<Secret> },
    /// Waits until an operator adds it to a cluster.
    Existing,
}

/// A complete and checked configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    pub data_dir: PathBuf,
    /// `host:port`, port 0 for a free one.
    pub listen: String,
    /// `host:port`, port 0 for a free one.
    pub peer_listen: String,
    /// None: the address listened at.
    pub advertise: Option<String>,
    /// None: the address listened at.
    pub peer_advertise: Option<String>,
    /// None: plain HTTP.
    pub tls: Option<tls::Files>,
    /// None: nodes speak plainly among themselves.
    pub peer_tls: Option<tls::Files>,
    pub founding: Founding,
    /// Requests say by a token who asks.
    pub auth: bool,
    /// None: the first administrator's token goes to standard output.
    pub admin_token_file: Option<PathBuf>,
    pub metrics_open: bool,
    pub join_token_required: bool,
    pub node_role: NodeRole,
    pub when_removed: WhenRemoved,
    /// 0: the leader removes nobody by itself.
    pub dead_node_removal_ms: u64,
    pub voters_min: usize,
    pub learner_stable_ms: u64,
    pub heartbeat_interval_ms: u64,
    pub election_timeout_ms_min: u64,
    pub election_timeout_ms_max: u64,
    pub ttl_ms_min: u32,
    pub ttl_ms_default: u32,
    pub ttl_ms_max: u32,
    pub protolink_ttl_ms: u32,
    pub snapshot_entries: u64,
    pub log_entries_kept: u64,
    pub history_changes_max: usize,
    pub history_bytes_max: usize,
    pub watchers_max: usize,
    pub tenant_watchers_max: usize,
    pub drain_ms: u64,
    /// Empty: any.
    pub tenants: Vec<TenantId>,
    pub signatures: Signatures,
    pub checks: Checks,
    pub check_allow: Vec<Network>,
    pub check_ca: Option<PathBuf>,
    pub soorma_ttl_ms: u32,
    pub soorma_reap_after_ms: u32,
    pub soorma_origins: Vec<HeaderValue>,
    /// None: tokens are not checked.
    pub jwt: Option<JwtConfig>,
    /// Beyond the public internet.
    pub alert_allow: Vec<Network>,
    /// None: what is changed is written down nowhere; `-`: on standard output.
    pub audit_file: Option<PathBuf>,
    /// 0: none is slow.
    pub slow_ms: u64,
    pub log_format: LogFormat,
    pub log_level: String,
}

impl Config {
    /// Names every fault; none is returned only together with one.
    fn new(settings: Settings, faults: &mut Vec<String>) -> Option<Self> {
        let mut fault = |key: &str, message: &str| faults.push(format!("{key}: {message}"));

        if settings.data_dir.as_ref().is_none_or(|dir| dir.as_os_str().is_empty()) {
            fault("data_dir", "must be given");
        }
        let insecure = settings.insecure.unwrap_or(false);
        let listen = settings.listen.unwrap_or_else(|| LISTEN.to_owned());
        let peer_listen = settings.peer_listen.unwrap_or_else(|| PEER_LISTEN.to_owned());
        let peer_host = split_address(settings.peer_advertise.as_ref().unwrap_or(&peer_listen)).map(|(host, _)| host);
        let named = [settings.tls_cert, settings.tls_key, settings.tls_client_ca];
        let tls = tls::Files::named(Port::Client, named, None, &mut fault);
        let named = [settings.peer_tls_cert, settings.peer_tls_key, settings.peer_tls_ca];
        let peer_tls = tls::Files::named(Port::Peer, named, peer_host, &mut fault);
        for files in [&tls, &peer_tls].into_iter().flatten() {
            files.check(&mut fault);
        }
        let auth = settings.auth.unwrap_or(false);
        let knows_clients = tls.as_ref().is_some_and(|files| auth || files.asks_for_certificates());
        for (key, address, advertised, secured, remedy) in [
            ("listen", &listen, &settings.advertise, knows_clients, OPEN_TO_CLIENTS),
            ("peer_listen", &peer_listen, &settings.peer_advertise, peer_tls.is_some(), OPEN_TO_PEERS),
        ] {
            match split_address(address) {
                None => fault(key, "must be HOST:PORT"),
                Some((host, _)) if !insecure && !is_loopback(host) && !secured => fault(key, remedy),
                Some((host, _)) if is_wildcard(host) && advertised.is_none() => {
                    fault(key, "listens at every address of this machine: say which one to advertise");
                }
                Some(_) => {}
            }
        }
        if listen == peer_listen && split_address(&listen).is_some_and(|(_, port)| port != 0) {
            fault("peer_listen", "must differ from listen");
        }
        for (key, address) in [("advertise", &settings.advertise), ("peer_advertise", &settings.peer_advertise)] {
            if let Some(address) = address {
                match split_address(address) {
                    Some((host, port)) if port != 0 && !is_wildcard(host) => {}
                    _ => fault(key, "must be HOST:PORT that others can connect to"),
                }
            }
        }

        let peers: Vec<String> = settings.join.unwrap_or_default().into_iter().filter(|p| !p.is_empty()).collect();
        if peers.iter().any(|peer| split_address(peer).is_none_or(|(_, port)| port == 0)) {
            fault("join", "must be a list of HOST:PORT");
        }
        let founding = match (settings.bootstrap.unwrap_or(false), peers.is_empty()) {
            (true, false) => {
                fault("bootstrap", "cannot be combined with join: a node founds a cluster or joins one");
                Founding::Bootstrap
            }
            (true, true) => Founding::Bootstrap,
            (false, false) => {
                // Nothing in a variable is nothing brought.
                let token = settings.join_token.filter(|token| !token.expose().is_empty());
                Founding::Join { peers, token }
            }
            (false, true) => Founding::Existing,
        };

        let heartbeat_interval_ms = settings.heartbeat_interval_ms.unwrap_or(HEARTBEAT_INTERVAL_MS);
        let election_timeout_ms_min = settings.election_timeout_ms_min.unwrap_or(ELECTION_TIMEOUT_MS_MIN);
        let election_timeout_ms_max = settings.election_timeout_ms_max.unwrap_or(ELECTION_TIMEOUT_MS_MAX);
        if heartbeat_interval_ms == 0 {
            fault("heartbeat_interval_ms", "must be at least 1");
        }
        if heartbeat_interval_ms >= election_timeout_ms_min {
            fault("election_timeout_ms_min", "must be greater than heartbeat_interval_ms");
        }
        if election_timeout_ms_min >= election_timeout_ms_max {
            fault("election_timeout_ms_max", "must be greater than election_timeout_ms_min");
        }

        let ttl_ms_min = settings.ttl_ms_min.unwrap_or(TTL_MS_LEAST);
        let ttl_ms_max = settings.ttl_ms_max.unwrap_or(TTL_MS_MOST);
        let ttl_ms_default =
            settings.ttl_ms_default.unwrap_or(TTL_MS_DEFAULT.clamp(ttl_ms_min, ttl_ms_max.max(ttl_ms_min)));
        if ttl_ms_min == 0 {
            fault("ttl_ms_min", "must be at least 1");
        }
        if ttl_ms_max > TTL_MS_MAX || ttl_ms_max < ttl_ms_min {
            fault("ttl_ms_max", &format!("must be ttl_ms_min to {TTL_MS_MAX}"));
        }
        if !(ttl_ms_min..=ttl_ms_max).contains(&ttl_ms_default) {
            fault("ttl_ms_default", "must be ttl_ms_min to ttl_ms_max");
        }

        // Whoever said what is given to those who ask for nothing meant these too.
        let protolink_ttl_ms = settings.protolink_ttl_ms.or(settings.ttl_ms_default).unwrap_or(PROTOLINK_TTL_MS);
        if !(1..=TTL_MS_MAX).contains(&protolink_ttl_ms) {
            fault("protolink_ttl_ms", &format!("must be 1 to {TTL_MS_MAX}"));
        }
        // What is not said fits whatever else the operator chose.
        let soorma_ttl_ms =
            settings.soorma_ttl_ms.unwrap_or(SOORMA_TTL_MS.clamp(ttl_ms_min, ttl_ms_max.max(ttl_ms_min)));
        if !(ttl_ms_min..=ttl_ms_max).contains(&soorma_ttl_ms) {
            fault("soorma_ttl_ms", "must be ttl_ms_min to ttl_ms_max");
        }
        let soorma_reap_after_ms = settings.soorma_reap_after_ms.unwrap_or(SOORMA_REAP_AFTER_MS);
        if soorma_reap_after_ms > REAP_AFTER_MS_MAX.into() {
            fault("soorma_reap_after_ms", &format!("must be at most {REAP_AFTER_MS_MAX}"));
        }
        let origins = settings.soorma_origins.unwrap_or_else(|| SOORMA_ORIGINS.map(str::to_owned).to_vec());
        let origin = |origin: &String| {
            let is_one = origin.split_once("://").is_some_and(|(_, host)| !host.is_empty() && !host.contains('/'));
            HeaderValue::from_str(origin).ok().filter(|_| is_one)
        };
        let soorma_origins: Option<Vec<_>> = origins.iter().filter(|text| !text.is_empty()).map(origin).collect();
        if soorma_origins.is_none() {
            fault("soorma_origins", "must be a list of SCHEME://HOST[:PORT]");
        }
        let soorma_origins = soorma_origins.unwrap_or_default();
        let jwt = JwtConfig {
            secret: settings.jwt_secret,
            public_key_file: settings.jwt_public_key_file,
            jwks: settings.jwt_jwks,
            jwks_url: settings.jwt_jwks_url,
            issuer: settings.jwt_issuer,
            audience: settings.jwt_audience,
            tenant_claim: settings.jwt_tenant_claim,
            role_claim: settings.jwt_role_claim,
            role_default: settings.jwt_role_default.and_then(|role| {
                role.parse().map_err(|error: UnknownWord| fault("jwt_role_default", &error.to_string())).ok()
            }),
        };
        for (key, message) in jwt.faults() {
            fault(key, &message);
        }
        let jwt = Some(jwt).filter(JwtConfig::has_keys);

        let history_changes_max = settings.history_changes_max.unwrap_or(HISTORY_CHANGES_MAX);
        if history_changes_max == 0 {
            fault("history_changes_max", "must be at least 1");
        }
        let watchers_max = settings.watchers_max.unwrap_or(WATCHERS_MAX);
        let tenant_watchers_max = settings.tenant_watchers_max.unwrap_or(TENANT_WATCHERS_MAX);
        for (key, max) in [("watchers_max", watchers_max), ("tenant_watchers_max", tenant_watchers_max)] {
            if max == 0 {
                fault(key, "must be at least 1");
            }
        }
        let history_bytes_max = settings.history_bytes_max.unwrap_or(HISTORY_BYTES_MAX);
        if history_bytes_max < HISTORY_BYTES_LEAST {
            fault("history_bytes_max", &format!("must be at least {HISTORY_BYTES_LEAST}"));
        }
        let dead_node_removal_ms = settings.dead_node_removal_ms.unwrap_or(0);
        if (1..DEAD_NODE_REMOVAL_MS_LEAST).contains(&dead_node_removal_ms) {
            fault("dead_node_removal_ms", &format!("must be 0 or at least {DEAD_NODE_REMOVAL_MS_LEAST}"));
        }
        let voters_min = settings.voters_min.unwrap_or(VOTERS_MIN);
        if voters_min == 0 {
            fault("voters_min", "must be at least 1");
        }
        let snapshot_entries = settings.snapshot_entries.unwrap_or(SNAPSHOT_ENTRIES);
        if snapshot_entries == 0 {
            fault("snapshot_entries", "must be at least 1");
        }
        let mut tenants = Vec::new();
        for tenant in settings.tenants.unwrap_or_default().iter().filter(|tenant| !tenant.is_empty()) {
            match TenantId::parse(tenant) {
                Ok(tenant) => tenants.push(tenant),
                Err(error) => fault("tenants", &format!("`{}`: {error}", tenant.escape_debug())),
            }
        }
        let mut check_allow = Vec::new();
        for network in settings.check_allow.unwrap_or_default().iter().filter(|network| !network.is_empty()) {
            match network.trim().parse() {
                Ok(network) => check_allow.push(network),
                Err(error) => fault("check_allow", &format!("`{}` {error}", network.escape_debug())),
            }
        }
        if let Some(error) = settings.check_ca.as_ref().and_then(|path| tls::authorities(path).err()) {
            let source = std::error::Error::source(&error).map(|source| format!(": {source}"));
            fault("check_ca", &format!("{error}{}", source.unwrap_or_default()));
        }
        let mut alert_allow = Vec::new();
        for network in settings.alert_allow.unwrap_or_default().iter().filter(|network| !network.is_empty()) {
            match network.trim().parse() {
                Ok(network) => alert_allow.push(network),
                Err(error) => fault("alert_allow", &format!("`{}` {error}", network.escape_debug())),
            }
        }
        let drain_ms = settings.drain_ms.unwrap_or(DRAIN_MS);
        if drain_ms > DRAIN_MS_MAX {
            fault("drain_ms", &format!("must be at most {DRAIN_MS_MAX}"));
        }
        let log_level = settings.log_level.unwrap_or_else(|| LOG_LEVEL.to_owned());
        if log_level.trim().is_empty() {
            fault("log_level", "must not be empty");
        }

        Some(Self {
            data_dir: settings.data_dir?,
            listen,
            peer_listen,
            advertise: settings.advertise,
            peer_advertise: settings.peer_advertise,
            tls,
            peer_tls,
            founding,
            auth,
            admin_token_file: settings.admin_token_file,
            metrics_open: settings.metrics_open.unwrap_or(false),
            join_token_required: settings.join_token_required.unwrap_or(false),
            node_role: settings.node_role.unwrap_or_default(),
            when_removed: settings.when_removed.unwrap_or_default(),
            dead_node_removal_ms,
            voters_min,
            learner_stable_ms: settings.learner_stable_ms.unwrap_or(0),
            heartbeat_interval_ms,
            election_timeout_ms_min,
            election_timeout_ms_max,
            ttl_ms_min: u32::try_from(ttl_ms_min).ok()?,
            ttl_ms_default: u32::try_from(ttl_ms_default).ok()?,
            ttl_ms_max: u32::try_from(ttl_ms_max).ok()?,
            protolink_ttl_ms: u32::try_from(protolink_ttl_ms).ok()?,
            snapshot_entries,
            log_entries_kept: settings.log_entries_kept.unwrap_or(LOG_ENTRIES_KEPT),
            history_changes_max,
            history_bytes_max,
            watchers_max,
            tenant_watchers_max,
            drain_ms,
            tenants,
            signatures: settings.signatures.unwrap_or_default(),
            checks: settings.checks.unwrap_or_default(),
            check_allow,
            check_ca: settings.check_ca,
            soorma_ttl_ms: u32::try_from(soorma_ttl_ms).ok()?,
            soorma_reap_after_ms: u32::try_from(soorma_reap_after_ms).ok()?,
            soorma_origins,
            jwt,
            alert_allow,
            audit_file: settings.audit_file.filter(|path| !path.as_os_str().is_empty()),
            slow_ms: settings.slow_ms.unwrap_or(SLOW_MS),
            log_format: settings.log_format.unwrap_or_default(),
            log_level,
        })
    }
}

/// Host and port; an IPv6 host stands in brackets.
pub(crate) fn split_address(address: &str) -> Option<(&str, u16)> {
    let (host, port) = address.rsplit_once(':')?;
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let well_formed = match bare {
        Some(bare) => bare.parse::<std::net::Ipv6Addr>().is_ok(),
        None => !host.is_empty() && !host.contains([':', '/', ' ']),
    };
    well_formed.then_some((bare.unwrap_or(host), port.parse().ok()?))
}

fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

fn is_wildcard(host: &str) -> bool {
    host.parse::<IpAddr>().is_ok_and(|ip| ip.is_unspecified())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(text: &str) -> Vec<String> {
        let (settings, mut faults) = Settings::from_toml(text).unwrap();
        Config::new(settings, &mut faults);
        faults
    }

    #[test]
    fn defaults_fill_what_is_not_set() {
        let (settings, mut faults) = Settings::from_toml("data_dir = \"/d\"\nbootstrap = true").unwrap();
        let config = Config::new(settings, &mut faults).unwrap();
        assert!(faults.is_empty(), "{faults:?}");
        assert_eq!(config.listen, "127.0.0.1:7900");
        assert_eq!(config.founding, Founding::Bootstrap);
        assert_eq!((config.ttl_ms_min, config.ttl_ms_default, config.ttl_ms_max), (1_000, 30_000, 86_400_000));
    }

    #[test]
    fn agents_that_name_no_ttl_stay_unless_told_otherwise() {
        let ttl_ms = |text: &str| {
            let (settings, mut faults) = Settings::from_toml(&format!("data_dir = \"d\"\n{text}")).unwrap();
            Config::new(settings, &mut faults).map(|config| config.protolink_ttl_ms)
        };
        assert_eq!(ttl_ms(""), Some(2_592_000_000));
        assert_eq!(ttl_ms("ttl_ms_default = 5000"), Some(5_000));
        assert_eq!(ttl_ms("ttl_ms_default = 5000\nprotolink_ttl_ms = 700"), Some(700));
        assert_eq!(faults("data_dir = \"d\"\nprotolink_ttl_ms = 0"), ["protolink_ttl_ms: must be 1 to 4294967295"]);
    }

    #[test]
    fn every_fault_is_named_at_once() {
        let faults = faults(
            "nonsense = 1\nttl_ms_min = \"x\"\nlisten = \"0.0.0.0:1\"\nbootstrap = true\njoin = [\"a:1\", \"b\"]\n\
             election_timeout_ms_min = 50\nsnapshot_entries = 0\ntenants = [\"a b\"]\nwatchers_max = 0",
        );
        for key in [
            "nonsense",
            "ttl_ms_min",
            "data_dir",
            "listen",
            "bootstrap",
            "join",
            "election_timeout_ms_min",
            "snapshot_entries",
            "tenants",
            "watchers_max",
        ] {
            assert!(faults.iter().any(|fault| fault.starts_with(&format!("{key}: "))), "{key} in {faults:?}");
        }
    }

    #[test]
    fn beyond_loopback_asks_for_insecure() {
        assert!(faults("data_dir = \"d\"\nlisten = \"10.0.0.1:1\"")[0].starts_with("listen: is beyond loopback"));
        assert!(faults("data_dir = \"d\"\nlisten = \"10.0.0.1:1\"\ninsecure = true").is_empty());
        // Tokens that anybody on the way can read keep nobody out.
        assert!(faults("data_dir = \"d\"\nlisten = \"10.0.0.1:1\"\nauth = true")[0].starts_with("listen: is beyond"));
        assert!(faults("data_dir = \"d\"\nlisten = \"[::1]:0\"\npeer_listen = \"localhost:0\"").is_empty());
        assert!(faults("data_dir = \"d\"\nlisten = \"[::]:1\"\ninsecure = true")[0].contains("advertise"));
    }

    #[test]
    fn stronger_settings_win() {
        let strong = Settings { listen: Some("a:1".to_owned()), ..Settings::default() };
        let weak = Settings { listen: Some("b:1".to_owned()), insecure: Some(true), ..Settings::default() };
        let settings = strong.over(weak);
        assert_eq!((settings.listen.as_deref(), settings.insecure), (Some("a:1"), Some(true)));
    }

    #[test]
    fn misspelled_variables_are_found() {
        let names = ["ROLLCALL_DATA_DIR", "ROLLCALL_DATADIR", "ROLLCALL_TOKEN", "ROLLCALL_CONFIG", "PATH"];
        assert_eq!(unknown_variables(names.map(str::to_owned)), ["ROLLCALL_DATADIR"]);
    }
}
