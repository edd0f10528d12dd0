//! `rollcall maintenance | drain | trust | ranking | checks | protection | alerts | tenant | pick`.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use rollcall_api::{AlertForm, CheckScope, QuotaLimits, RankWeights, Strategy};
use rollcall_client::{Consistency, Federated, PickQuery, RankBy};

use super::{FederatedFlag, FilterFlags, Freshness};

#[derive(Debug, Subcommand)]
pub(crate) enum Maintenance {
    /// Take an instance out of service until this is taken back: it is shown in `maintenance`, whatever it says itself
    On(Order),
    /// Put it back into service
    Off { id: String },
    /// Show all orders that stand, drains among them, and those for ids that are off the roll
    List,
}

#[derive(Args, Debug)]
pub(crate) struct Order {
    pub(crate) id: String,
    /// For whoever wonders
    #[arg(long)]
    pub(crate) reason: Option<String>,
}

#[derive(Args, Debug)]
pub(crate) struct Drain {
    #[command(flatten)]
    pub(crate) order: Order,
    /// Take it back
    #[arg(long, conflicts_with = "reason")]
    pub(crate) off: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Trust {
    /// Say how far an owner is trusted: 0 to 10
    Set { owner: String, trust: f64 },
    /// Forget it: the owner counts as one with 5 again
    Unset { owner: String },
    /// Show all owners of whom it is known
    List,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Ranking {
    /// Show what each part counts
    Show,
    /// Say what each part counts; what is left out counts nothing
    Set {
        /// As `capability=0.4,health=0.3,proximity=0.2,trust=0.1`
        #[arg(value_name = "PART=WEIGHT,…", value_parser = parse_weights)]
        weights: RankWeights,
    },
    /// Rank by the default again
    Reset,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Tenant {
    /// Say how much it may have of the cluster
    #[command(subcommand)]
    Quota(Quota),
}

#[derive(Debug, Subcommand)]
pub(crate) enum Quota {
    /// Show the limits, and what the tenant has
    Show,
    /// Set the limits, in the place of those before; what is left out is not limited
    Set(Limits),
    /// Let the tenant have as much as it will
    Clear,
}

#[derive(Args, Debug)]
#[group(required = true, multiple = true)]
pub(crate) struct Limits {
    /// Instances on the roll, offline ones too
    #[arg(long, value_name = "COUNT")]
    registrations: Option<u64>,
    /// Of registrations, and of the metadata that heartbeats reported
    #[arg(long, value_name = "BYTES")]
    bytes: Option<u64>,
    /// At each node, in the place of its own tenant_watchers_max
    #[arg(long, value_name = "COUNT")]
    watchers: Option<u64>,
    /// At each node; heartbeats have an allowance of their own
    #[arg(long, value_name = "COUNT")]
    requests_per_second: Option<u64>,
}

impl From<Limits> for QuotaLimits {
    fn from(limits: Limits) -> Self {
        let Limits { registrations, bytes, watchers, requests_per_second } = limits;
        Self { registrations, bytes, watchers, requests_per_second }
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Checks {
    /// Show which of the tenant's instances the nodes check
    Show,
    /// Say which are checked
    Set {
        /// none, asked (those that ask) or all (those whose URL can be checked)
        scope: CheckScope,
        /// How often those are checked that do not say it themselves, in milliseconds
        #[arg(long, value_name = "MS")]
        interval_ms: Option<u32>,
    },
    /// Check those that ask again
    Reset,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Protection {
    /// Show when leases are held, and whether they are now
    Show,
    /// Say when leases are held
    Set {
        /// Hold them when more than this share of the tenant's leases would run out within the window: 0.001 to 0.999
        #[arg(long)]
        share: f64,
        /// In milliseconds [default: 60000]
        #[arg(long)]
        window_ms: Option<u32>,
        /// How many of those held are struck off in a minute at most [default: 60]
        #[arg(long)]
        release_per_minute: Option<u32>,
        /// With fewer leases there is no protection [default: 10]
        #[arg(long)]
        leases_min: Option<u32>,
    },
    /// Never hold any; who is held is struck off
    Off,
    /// End it for now: who is held is struck off, and for one window nobody is held
    Release,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Alerts {
    /// Show where alerts go
    List,
    /// Have alerts sent somewhere
    Set {
        /// What it is called here
        name: String,
        /// Where alerts are posted
        #[arg(long)]
        url: String,
        /// json, or alertmanager for its API v2 [default: json]
        #[arg(long)]
        format: Option<AlertForm>,
        /// A file with the secret that signs them [default: the one that it has, else one is made up and shown]
        #[arg(long, value_name = "FILE")]
        secret_file: Option<PathBuf>,
        /// Between two alerts about one instance at least, in milliseconds [default: 60000]
        #[arg(long)]
        interval_ms: Option<u32>,
    },
    /// Send alerts there no more
    Remove { name: String },
    /// Send a test alert; ends with 1 if it is not taken
    Test { name: String },
}

#[derive(Args, Debug, Default)]
#[command(next_help_heading = "Ranking")]
pub(crate) struct RankFlags {
    /// What each part counts, as `proximity=1,health=0.5` [default: the tenant's]
    #[arg(long, value_name = "PART=WEIGHT,…", value_parser = parse_weights)]
    weights: Option<RankWeights>,
    /// A capability that is wanted, but not demanded; repeat or separate by commas
    #[arg(long, value_name = "CAPABILITY", value_delimiter = ',')]
    prefer: Vec<String>,
    /// The region of whoever asks
    #[arg(long, value_name = "REGION")]
    near_region: Option<String>,
    /// The zone of whoever asks
    #[arg(long, value_name = "ZONE")]
    near_zone: Option<String>,
    /// Where whoever asks is, in degrees
    #[arg(long, value_name = "LATITUDE,LONGITUDE", value_parser = parse_coordinates, allow_hyphen_values = true)]
    near: Option<[f64; 2]>,
    /// Whoever asks, as it is on the roll: its locality counts, unless another is said
    #[arg(long, value_name = "ID")]
    requester_id: Option<String>,
    /// Show what each rank came of
    #[arg(long)]
    pub(crate) explain: bool,
}

impl From<RankFlags> for RankBy {
    fn from(flags: RankFlags) -> Self {
        Self {
            weights: flags.weights,
            preferred_capabilities: flags.prefer,
            region: flags.near_region,
            zone: flags.near_zone,
            coordinates: flags.near,
            requester_id: flags.requester_id,
            explain: flags.explain,
        }
    }
}

#[derive(Args, Debug)]
pub(crate) struct Pick {
    #[command(flatten)]
    filters: FilterFlags,
    /// How one is chosen: rank, weighted or round_robin [default: rank]
    #[arg(long, help_heading = "Choice")]
    strategy: Option<Strategy>,
    /// A semver range and its share, as `^1.4:95`: one range is drawn first; repeat it
    #[arg(long, value_name = "RANGE:WEIGHT", value_parser = parse_share, help_heading = "Choice")]
    split: Vec<(String, u32)>,
    #[command(flatten)]
    rank: RankFlags,
    #[command(flatten)]
    federated: FederatedFlag,
    #[command(flatten)]
    freshness: Freshness,
}

impl From<Pick> for PickQuery {
    fn from(args: Pick) -> Self {
        Self {
            filters: args.filters.into(),
            strategy: args.strategy,
            split: args.split,
            rank: args.rank.into(),
            consistency: Consistency::from(&args.freshness),
            federated: Federated::from(&args.federated),
        }
    }
}

fn parse_weights(text: &str) -> Result<RankWeights, String> {
    let mut weights = RankWeights::default();
    for pair in text.split(',') {
        let (part, number) = pair.split_once('=').ok_or_else(|| format!("`{pair}`: expected PART=WEIGHT"))?;
        let weight = match part.trim() {
            "capability" => &mut weights.capability,
            "health" => &mut weights.health,
            "proximity" => &mut weights.proximity,
            "trust" => &mut weights.trust,
            other => return Err(format!("`{other}` is none of capability, health, proximity, trust")),
        };
        *weight = number.trim().parse().map_err(|_| format!("`{number}` is no number"))?;
    }
    Ok(weights)
}

fn parse_coordinates(text: &str) -> Result<[f64; 2], String> {
    let (latitude, longitude) = text.split_once(',').ok_or("expected LATITUDE,LONGITUDE")?;
    let degrees = |text: &str| text.trim().parse::<f64>().map_err(|_| format!("`{text}` is no number"));
    Ok([degrees(latitude)?, degrees(longitude)?])
}

fn parse_share(text: &str) -> Result<(String, u32), String> {
    let (range, weight) = text.rsplit_once(':').ok_or("expected RANGE:WEIGHT")?;
    let weight = weight.parse().map_err(|_| format!("`{weight}` is no whole number"))?;
    Ok((range.to_owned(), weight))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_places_and_shares_are_read() {
        let weights = RankWeights { health: 0.5, trust: 1.0, ..RankWeights::default() };
        assert_eq!(parse_weights("trust=1, health=0.5"), Ok(weights));
        assert_eq!(parse_coordinates("52.52, -13"), Ok([52.52, -13.0]));
        assert_eq!(parse_share(">=1, <2:95"), Ok((">=1, <2".to_owned(), 95)));
        for text in ["", "health", "speed=1", "health=x"] {
            assert!(parse_weights(text).is_err(), "{text}");
        }
        for text in ["", "1", "1,x"] {
            assert!(parse_coordinates(text).is_err(), "{text}");
        }
        for text in ["", "^1", "^1:x", "^1:-1"] {
            assert!(parse_share(text).is_err(), "{text}");
        }
    }
}
