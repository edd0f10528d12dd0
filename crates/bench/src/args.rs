//! The flags that several works share.

use std::time::Duration;

use crate::usage::Watched;

/// How many and where.
#[derive(clap::Args, Clone, Debug)]
pub struct Sessions {
    /// How many connections, each with one request at a time
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    pub sessions: u16,
    /// Which nodes are asked: those of the endpoints in turn, or only the cluster's leader, or only its followers
    #[arg(long, value_enum, default_value_t)]
    pub node: Node,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Node {
    #[default]
    Any,
    Leader,
    Followers,
}

impl Node {
    pub fn word(self) -> &'static str {
        match self {
            Self::Any => "any",
            Self::Leader => "leader",
            Self::Followers => "followers",
        }
    }
}

/// Who watches changes of one service, and who makes them.
#[derive(clap::Args, Clone, Copy, Debug)]
pub struct Watching {
    /// How many watch, each on a connection of its own
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=20_000))]
    pub watchers: u32,
    /// Which node they watch at: the first endpoint, or the cluster's leader, or the first of its followers
    #[arg(long, value_enum, default_value_t)]
    pub at: Node,
    /// How many connections changes are sent on, each with one change at a time until all watchers have seen it
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1_000))]
    sessions: u16,
    /// Which nodes changes are sent to: those of the endpoints in turn, or only the cluster's leader, or only its followers
    #[arg(long, value_enum, default_value_t)]
    node: Node,
    /// How many instances the service has; they are registered first, and changed in turn
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    pub instances: u32,
}

impl Watching {
    /// The connections that changes are sent on.
    pub fn sessions(&self) -> Sessions {
        Sessions { sessions: self.sessions, node: self.node }
    }
}

/// Who falls silent all at once.
#[derive(clap::Args, Clone, Copy, Debug)]
pub struct Silence {
    /// How many fall silent
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub instances: u32,
    /// How long one stands that is not renewed
    #[arg(long, default_value = "3s", value_parser = parse_positive_duration)]
    pub ttl: Duration,
}

/// How long.
#[derive(clap::Args, Clone, Debug)]
pub struct Window {
    /// How long is measured: `10s`, `500ms`, `2m`, `1h`
    #[arg(long, default_value = "10s", value_parser = parse_positive_duration)]
    pub duration: Duration,
    /// How long the load runs before it is measured
    #[arg(long, default_value = "2s", value_parser = parse_duration)]
    pub warm_up: Duration,
}

/// How fast.
#[derive(clap::Args, Clone, Debug)]
pub struct Rate {
    /// At most so many operations per second in all, at even intervals. Latency is then measured from the moment the
    /// plan wanted an operation, not from when it was sent
    #[arg(long, value_name = "N", value_parser = parse_rate)]
    pub rate: Option<f64>,
}

/// What holds for every work.
#[derive(clap::Args, Clone, Debug)]
pub struct Common {
    /// Where the random choices begin
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// A node's process, whose processor time and memory are to be reported; repeat for several. Processes that listen
    /// at loopback endpoints are found by themselves
    #[arg(long = "pid", value_name = "LABEL=PID", value_parser = parse_pid)]
    pub pids: Vec<Watched>,
    /// Exit with 0 even if there were errors
    #[arg(long)]
    pub tolerate_errors: bool,
}

/// As `10s`, `500ms`, `1m 30s`; a bare number is seconds.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let wrong = || "expected a duration as `10s`, `500ms`, `2m` or `1h`".to_owned();
    if let Ok(seconds) = text.parse() {
        return Ok(Duration::from_secs(seconds));
    }
    let duration: jiff::SignedDuration = text.parse().map_err(|_| wrong())?;
    Duration::try_from(duration).map_err(|_| wrong())
}

/// As [`parse_duration`], above zero.
pub fn parse_positive_duration(text: &str) -> Result<Duration, String> {
    match parse_duration(text)? {
        Duration::ZERO => Err("must be more than zero".to_owned()),
        duration => Ok(duration),
    }
}

pub(crate) fn parse_rate(text: &str) -> Result<f64, String> {
    let rate: f64 = text.parse().map_err(|_| "expected a number".to_owned())?;
    if rate > 0.0 && rate <= 1e7 { Ok(rate) } else { Err("must be more than 0 and at most 10000000".to_owned()) }
}

fn parse_pid(text: &str) -> Result<Watched, String> {
    let (label, pid) = text.rsplit_once('=').ok_or("expected LABEL=PID")?;
    let pid = pid.parse().ok().filter(|pid| *pid > 0).ok_or("expected LABEL=PID with the number of a process")?;
    Ok(Watched { label: label.to_owned(), pid })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units() {
        assert_eq!(parse_duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_duration("3"), Ok(Duration::from_secs(3)));
        assert_eq!(parse_duration("1m 30s"), Ok(Duration::from_secs(90)));
        assert_eq!(parse_duration("0s"), Ok(Duration::ZERO));
        for text in ["", "-1s", "s", "1 parsec", "99999999999999999999"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
        assert!(parse_positive_duration("0").is_err());
    }

    #[test]
    fn rates_and_processes_are_positive() {
        assert_eq!(parse_rate("0.5"), Ok(0.5));
        for text in ["0", "-1", "nan", "inf", "x"] {
            assert!(parse_rate(text).is_err(), "{text}");
        }
        assert_eq!(parse_pid("n=1=7"), Ok(Watched { label: "n=1".into(), pid: 7 }));
        for text in ["7", "n=", "n=0", "n=-7"] {
            assert!(parse_pid(text).is_err(), "{text}");
        }
    }
}
