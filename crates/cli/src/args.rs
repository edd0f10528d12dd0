//! The command line: names, flags, and the environment variables behind them.

mod audit;
mod cluster;
mod federation;
mod operator;
mod sign;
mod tls;
mod token;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use rollcall_client::{Consistency, DiscoverQuery, Federated, Filters, Sort, WatchQuery, WatchStart};
use rollcall_server::config::Settings;

use crate::output::Format;

pub(crate) use audit::Audit;
pub(crate) use cluster::{Backup, Cluster, Follow, JoinToken, JoinTokenStep, Recover, Restore, StatusView, Wait};
pub(crate) use federation::{DirectionWord, Federation, FederationAdd, OfferWord};
pub(crate) use operator::{
    Alerts, Checks, Drain, Maintenance, Pick, Protection, Quota, RankFlags, Ranking, Tenant, Trust,
};
pub(crate) use sign::{OwnerKey, Sign, SignKey, SignStep, Signatures};
pub(crate) use tls::{Tls, TlsInit};
pub(crate) use token::{Token, TokenCreate, TokenReset, TokenRotate};

/// The live roll of agents and services: who is here now, what they can do, and how to reach them.
#[derive(Debug, Parser)]
#[command(name = "rollcall", version, arg_required_else_help = true, after_help = EXIT_CODES)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

const EXIT_CODES: &str = "Exit codes: 0 ok, 1 error, 2 usage, 3 not found, 4 conflict, 5 not allowed, 6 unavailable, 7 timeout,\n            8 this node was removed from its cluster";

#[derive(Args, Debug)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Global {
    /// A node's client address; repeat it or separate by commas, so that another node is asked when one is gone. Without
    /// a scheme it is https where --ca is given, and http else
    #[arg(
        long = "endpoint",
        global = true,
        value_name = "URL",
        env = "ROLLCALL_ENDPOINTS",
        value_delimiter = ',',
        default_value = "127.0.0.1:7900"
    )]
    pub(crate) endpoints: Vec<String>,
    /// The bearer token that says who asks
    #[arg(long, global = true, env = "ROLLCALL_TOKEN", hide_env_values = true)]
    pub(crate) token: Option<String>,
    /// Whose roll is meant [default: the token's tenant, or `default`]
    #[arg(long, global = true, env = "ROLLCALL_TENANT")]
    pub(crate) tenant: Option<String>,
    /// The authority (PEM) of the nodes' certificates; nothing is sent over plain http then [default for https: those
    /// that this machine trusts]
    #[arg(long, global = true, value_name = "FILE", env = "ROLLCALL_CA")]
    pub(crate) ca: Option<PathBuf>,
    /// A certificate (PEM) to show to nodes that ask clients for one
    #[arg(long, global = true, value_name = "FILE", env = "ROLLCALL_CLIENT_CERT", requires = "client_key")]
    pub(crate) client_cert: Option<PathBuf>,
    /// The key of that certificate (PEM)
    #[arg(long, global = true, value_name = "FILE", env = "ROLLCALL_CLIENT_KEY", requires = "client_cert")]
    pub(crate) client_key: Option<PathBuf>,
    /// How answers are printed
    #[arg(short, long, global = true, value_enum, default_value = "table")]
    pub(crate) output: Format,
    /// How long a request may take in all: `10s`, `500ms`, `2m`, or a number of seconds [default: 10s]
    #[arg(long, global = true, value_parser = parse_duration)]
    pub(crate) timeout: Option<Duration>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a node
    Serve(Box<Serve>),
    /// Run a whole cluster on this machine, in the foreground
    Dev(Dev),
    /// Look at the cluster, and look after it
    #[command(subcommand)]
    Cluster(Cluster),
    /// Put an instance on the roll
    Register(Box<Register>),
    /// Call in for an instance once
    Heartbeat(Heartbeat),
    /// Take an instance off the roll
    Deregister(Deregister),
    /// Show one instance
    Get(Get),
    /// Find who is present
    Discover(Box<Discover>),
    /// Choose one of those who are present
    Pick(Box<Pick>),
    /// Follow who comes, changes and goes, until a signal
    Watch(Box<Watch>),
    /// Take instances out of service, whatever they say themselves
    #[command(subcommand)]
    Maintenance(Maintenance),
    /// Have an instance finish its work and be given no new one
    Drain(Drain),
    /// Say how far owners are trusted, which counts in rank
    #[command(subcommand)]
    Trust(Trust),
    /// Say by what results are ranked
    #[command(subcommand)]
    Ranking(Ranking),
    /// Look after the other clusters that this one tells and believes
    #[command(subcommand)]
    Federation(Federation),
    /// Say what a tenant may have; --tenant names it
    #[command(subcommand)]
    Tenant(Tenant),
    /// Say which of a tenant's instances the nodes check by themselves
    #[command(subcommand)]
    Checks(Checks),
    /// Say who is told when something goes wrong
    #[command(subcommand)]
    Alerts(Alerts),
    /// Hold leases when too many run out at once
    #[command(subcommand)]
    Protection(Protection),
    /// Put load on a cluster and measure it
    Bench(Box<Bench>),
    /// Say who may do what, where the cluster runs with tokens
    #[command(subcommand)]
    Token(Token),
    /// Sign a registration, or make a key to sign by
    Sign(Sign),
    /// Look after the keys by which owners sign
    #[command(subcommand)]
    OwnerKey(OwnerKey),
    /// Show or change how the tenant takes signatures
    Signatures(Signatures),
    /// Read what a node wrote down of who changed what, and filter it; --tenant is a filter too
    Audit(Audit),
    /// Make certificates for a trial
    #[command(subcommand)]
    Tls(Tls),
    /// Work with configuration files
    #[command(subcommand)]
    Config(Config),
    /// Print a completion script for a shell
    Completions { shell: clap_complete::Shell },
}

#[derive(Args, Debug)]
pub(crate) struct Serve {
    #[command(flatten)]
    pub(crate) settings: Settings,
}

#[derive(Args, Debug)]
pub(crate) struct Dev {
    /// How many nodes
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=9))]
    pub(crate) nodes: u16,
    /// Where the nodes keep their data and logs; an earlier cluster there goes on
    #[arg(long, default_value = "data", value_name = "DIR")]
    pub(crate) data_dir: PathBuf,
    /// The first node's client port; its peer port is the next, and further nodes stand ten ports apart
    #[arg(long, default_value_t = rollcall_api::CLIENT_PORT, value_name = "BASE", value_parser = clap::value_parser!(u16).range(1..=65_000))]
    pub(crate) port: u16,
}

#[derive(Args, Debug)]
pub(crate) struct Register {
    /// The registration as JSON; `-` reads standard input. Flags win over what the file says
    #[arg(value_name = "FILE", required_unless_present_all = ["name", "url"])]
    pub(crate) file: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) fields: RegistrationFields,
    #[command(flatten)]
    pub(crate) key: SignKey,
    /// Only if the id is not on the roll
    #[arg(long, conflicts_with_all = ["if_revision", "keep_alive"])]
    pub(crate) if_absent: bool,
    /// Only if the id's last change is this revision
    #[arg(long, value_name = "REVISION", conflicts_with = "keep_alive")]
    pub(crate) if_revision: Option<u64>,
    /// Beat until a signal or until COMMAND ends, then deregister
    #[arg(long)]
    pub(crate) keep_alive: bool,
    /// Run this program for as long as it is registered; signals are passed on, and its exit code is ours
    #[arg(last = true, value_name = "COMMAND", requires = "keep_alive")]
    pub(crate) command: Vec<String>,
}

#[derive(Args, Debug, Default)]
pub(crate) struct RegistrationFields {
    #[arg(long)]
    pub(crate) id: Option<String>,
    /// The name that the instances of one service share
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// agent, tool, service, api, device, node, gateway or validator
    #[arg(long = "type", value_name = "TYPE")]
    pub(crate) kind: Option<String>,
    /// Where the instance is reached
    #[arg(long)]
    pub(crate) url: Option<String>,
    #[arg(long)]
    pub(crate) version: Option<String>,
    #[arg(long)]
    pub(crate) owner: Option<String>,
    #[arg(long)]
    pub(crate) visibility: Option<String>,
    /// Repeat or separate by commas
    #[arg(long = "tag", visible_alias = "tags", value_delimiter = ',', value_name = "TAG")]
    pub(crate) tags: Vec<String>,
    /// Repeat or separate by commas
    #[arg(long = "capability", visible_alias = "capabilities", value_delimiter = ',', value_name = "NAME")]
    pub(crate) capabilities: Vec<String>,
    /// Repeat for several; the value is JSON where it can be read as such, otherwise text
    #[arg(long, value_name = "KEY=VALUE", value_parser = parse_pair)]
    pub(crate) metadata: Vec<(String, serde_json::Value)>,
    #[arg(long)]
    pub(crate) weight: Option<u32>,
    /// How long the lease lasts after a heartbeat, in milliseconds
    #[arg(long, value_name = "MS")]
    pub(crate) ttl_ms: Option<u64>,
    /// How long a lapsed instance stays on the roll as `offline`, in milliseconds
    #[arg(long, value_name = "MS")]
    pub(crate) reap_after_ms: Option<u64>,
    /// Have the nodes check the instance, as `{"path": "/health"}`; `{}` asks for the defaults
    #[arg(long, value_name = "JSON", value_parser = parse_object)]
    pub(crate) health_check: Option<serde_json::Map<String, serde_json::Value>>,
}

#[derive(Args, Debug)]
pub(crate) struct Heartbeat {
    pub(crate) id: String,
    /// Only if this lease still holds the instance
    #[arg(long, value_name = "LEASE")]
    pub(crate) lease_id: Option<u64>,
    /// What the instance says of its condition: active, degraded, maintenance, error or offline
    #[arg(long)]
    pub(crate) status: Option<rollcall_api::Status>,
    /// Repeat for several; the value is JSON where it can be read as such, otherwise text
    #[arg(long, value_name = "KEY=VALUE", value_parser = parse_pair)]
    pub(crate) metadata: Vec<(String, serde_json::Value)>,
}

#[derive(Args, Debug)]
pub(crate) struct Deregister {
    pub(crate) id: String,
    /// Only if this lease still holds the instance
    #[arg(long, value_name = "LEASE")]
    pub(crate) lease_id: Option<u64>,
    #[command(flatten)]
    pub(crate) key: SignKey,
}

#[derive(Args, Debug)]
pub(crate) struct Get {
    pub(crate) id: String,
    #[command(flatten)]
    pub(crate) federated: FederatedFlag,
    #[command(flatten)]
    pub(crate) freshness: Freshness,
}

#[derive(Args, Debug, Default)]
#[command(next_help_heading = "Freshness")]
pub(crate) struct Freshness {
    /// Whether to show what the asked node has, or every write acknowledged before
    #[arg(long, value_enum, default_value_t)]
    pub(crate) consistency: Level,
    /// Show at least this revision
    #[arg(long, value_name = "REVISION")]
    pub(crate) min_revision: Option<u64>,
    /// Fail rather than show a state older than this, in milliseconds
    #[arg(long, value_name = "MS")]
    pub(crate) max_staleness_ms: Option<u64>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Level {
    #[default]
    Local,
    Linearizable,
}

impl From<&Freshness> for Consistency {
    fn from(freshness: &Freshness) -> Self {
        Self {
            linearizable: freshness.consistency == Level::Linearizable,
            min_revision: freshness.min_revision,
            max_staleness_ms: freshness.max_staleness_ms,
        }
    }
}

/// Filters may be repeated or hold several values separated by commas. All tags, capabilities and selectors must fit;
/// of the other filters any value may.
#[derive(Args, Debug)]
#[command(next_help_heading = "Filters")]
pub(crate) struct FilterFlags {
    #[arg(long)]
    name: Vec<String>,
    #[arg(long = "type", value_name = "TYPE")]
    kind: Vec<String>,
    #[arg(long, visible_alias = "tag", value_name = "TAG")]
    tags: Vec<String>,
    #[arg(long, visible_alias = "capability", value_name = "CAPABILITY")]
    capabilities: Vec<String>,
    /// Default: everything but `offline`
    #[arg(long)]
    status: Vec<String>,
    #[arg(long)]
    visibility: Vec<String>,
    #[arg(long)]
    owner: Vec<String>,
    #[arg(long)]
    protocol: Vec<String>,
    /// A semver range, as `>=1.2, <2`
    #[arg(long)]
    version: Vec<String>,
    #[arg(long, value_name = "EVENT")]
    consumed_event: Vec<String>,
    #[arg(long, value_name = "EVENT")]
    produced_event: Vec<String>,
    #[arg(long)]
    region: Vec<String>,
    #[arg(long)]
    zone: Vec<String>,
    /// Labels of the metadata, as `env=prod,tier in (a,b),!canary`
    #[arg(short = 'l', long)]
    selector: Vec<String>,
}

impl From<FilterFlags> for Filters {
    fn from(flags: FilterFlags) -> Self {
        Self {
            names: flags.name,
            types: flags.kind,
            tags: flags.tags,
            capabilities: flags.capabilities,
            statuses: flags.status,
            visibilities: flags.visibility,
            owners: flags.owner,
            protocols: flags.protocol,
            versions: flags.version,
            consumed_events: flags.consumed_event,
            produced_events: flags.produced_event,
            regions: flags.region,
            zones: flags.zone,
            selectors: flags.selector,
        }
    }
}

#[derive(Args, Debug)]
pub(crate) struct Discover {
    #[command(flatten)]
    filters: FilterFlags,
    /// At most this many, 1 to 1,000 [default: 50]
    #[arg(long, help_heading = "Paging")]
    limit: Option<u32>,
    /// Where the page before ended
    #[arg(long, help_heading = "Paging")]
    cursor: Option<String>,
    #[arg(long, value_enum, help_heading = "Paging")]
    sort: Option<Order>,
    #[command(flatten)]
    rank: RankFlags,
    #[command(flatten)]
    federated: FederatedFlag,
    #[command(flatten)]
    freshness: Freshness,
}

#[derive(Args, Debug, Default)]
pub(crate) struct FederatedFlag {
    /// Instances of other clusters too: as they told of them (copy, what it means without a word), or as they have them
    /// now (live)
    #[arg(long, value_enum, value_name = "HOW", num_args = 0..=1, require_equals = true, default_missing_value = "copy")]
    federated: Option<FederatedWord>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum FederatedWord {
    Copy,
    Live,
}

impl From<&FederatedFlag> for Federated {
    fn from(flag: &FederatedFlag) -> Self {
        match flag.federated {
            None => Self::No,
            Some(FederatedWord::Copy) => Self::Copy,
            Some(FederatedWord::Live) => Self::Live(None),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Order {
    Id,
    Rank,
    Lease,
}

impl From<Discover> for DiscoverQuery {
    fn from(args: Discover) -> Self {
        Self {
            filters: args.filters.into(),
            consistency: Consistency::from(&args.freshness),
            limit: args.limit,
            cursor: args.cursor,
            sort: args.sort.map(|order| match order {
                Order::Id => Sort::Id,
                Order::Rank => Sort::Rank,
                Order::Lease => Sort::Lease,
            }),
            rank: args.rank.into(),
            federated: Federated::from(&args.federated),
        }
    }
}

#[derive(Args, Debug)]
pub(crate) struct Watch {
    #[command(flatten)]
    filters: FilterFlags,
    /// Go on after this point, as `-o json` prints it, instead of beginning with who is present: EPOCH-REVISION, or a
    /// REVISION of the roll as it is now
    #[arg(long, value_name = "POINT", value_parser = parse_start, help_heading = "Start")]
    from_revision: Option<WatchStart>,
    /// Instances of other clusters too
    #[arg(long)]
    federated: bool,
}

impl From<Watch> for WatchQuery {
    fn from(args: Watch) -> Self {
        let Watch { filters, from_revision, federated } = args;
        Self { filters: filters.into(), start: from_revision.unwrap_or_default(), federated }
    }
}

#[derive(Args, Debug)]
pub(crate) struct Bench {
    #[command(subcommand)]
    pub(crate) work: rollcall_bench::Work,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Config {
    /// Read a node's configuration file and name every fault in it
    Check { file: PathBuf },
}

/// A number of seconds, or a number with `ms`, `s` or `m`. Above zero.
fn parse_duration(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let number: u64 = digits.parse().map_err(|_| "expected a number with `ms`, `s`, `m`, `h` or `d`".to_owned())?;
    let ms_per_unit: u64 = match &text[digits.len()..] {
        "ms" => 1,
        "" | "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        unit => return Err(format!("unknown unit `{unit}`; use `ms`, `s`, `m`, `h` or `d`")),
    };
    match number.checked_mul(ms_per_unit) {
        None => Err("too long".to_owned()),
        Some(0) => Err("must be more than zero".to_owned()),
        Some(ms) => Ok(Duration::from_millis(ms)),
    }
}

fn parse_start(text: &str) -> Result<WatchStart, String> {
    let revision = text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok()).flatten();
    let point = || text.parse().map(WatchStart::After);
    revision.map(WatchStart::AfterRevision).map_or_else(point, Ok).map_err(|error| format!("{error}, or a REVISION"))
}

fn parse_pair(text: &str) -> Result<(String, serde_json::Value), String> {
    let (key, value) = text.split_once('=').ok_or_else(|| "expected KEY=VALUE".to_owned())?;
    let value = serde_json::from_str(value).unwrap_or_else(|_| serde_json::Value::String(value.to_owned()));
    Ok((key.to_owned(), value))
}

fn parse_object(text: &str) -> Result<serde_json::Map<String, serde_json::Value>, String> {
    serde_json::from_str(text).map_err(|error| format!("expected a JSON object: {error}"))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;
    use rollcall_api::ResumePoint;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn durations_have_units() {
        assert_eq!(parse_duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_duration("3"), Ok(Duration::from_secs(3)));
        assert_eq!(parse_duration("3s"), Ok(Duration::from_secs(3)));
        assert_eq!(parse_duration("2m"), Ok(Duration::from_secs(120)));
        assert_eq!(parse_duration("1h"), Ok(Duration::from_secs(3_600)));
        assert_eq!(parse_duration("2d"), Ok(Duration::from_secs(172_800)));
        for text in ["", "0", "0ms", "-1", "s", "1w", "1.5s", "99999999999999999999"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_watch_goes_on_after_a_point_or_a_revision() {
        assert_eq!(parse_start("7"), Ok(WatchStart::AfterRevision(7)));
        assert_eq!(parse_start("1-7"), Ok(WatchStart::After(ResumePoint { epoch: 1, revision: 7 })));
        for text in ["", "-7", "7-", "+7", "a", "1-2-3", "99999999999999999999"] {
            assert!(parse_start(text).is_err(), "{text}");
        }
    }

    #[test]
    fn metadata_values_are_json_or_text() {
        assert_eq!(parse_pair("a=1"), Ok(("a".into(), 1.into())));
        assert_eq!(parse_pair("a=x=y"), Ok(("a".into(), "x=y".into())));
        assert!(parse_pair("a").is_err());
    }

    #[test]
    fn a_registration_is_a_file_or_at_least_a_name_and_a_url() {
        let parse = |args: &[&str]| Cli::try_parse_from([&["rollcall", "register"], args].concat());
        assert!(parse(&["-"]).is_ok());
        assert!(parse(&["--name", "web", "--url", "http://a"]).is_ok());
        assert!(parse(&["--name", "web"]).is_err());
        assert!(parse(&["f.json", "--", "true"]).is_err(), "a command needs --keep-alive");
        assert!(parse(&["f.json", "--keep-alive", "--", "sleep", "-1"]).is_ok());
    }
}
