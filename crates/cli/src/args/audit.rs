//! `rollcall audit`.

use std::path::PathBuf;

use clap::Args;
use jiff::{SignedDuration, Timestamp};

use super::parse_duration;

/// What is left out is no filter; all that are given must fit.
#[derive(Args, Debug)]
pub(crate) struct Audit {
    /// What a node's setting `audit_file` names; `-` reads standard input
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// What was done: `register`, `deregister`, `update`, `token.create` …; `token` stands for all of its kind. Repeat or
    /// separate by commas
    #[arg(long = "action", value_name = "ACTION", value_delimiter = ',')]
    pub(crate) actions: Vec<String>,
    /// To which instance, token, member or definition
    #[arg(long)]
    pub(crate) id: Option<String>,
    /// Who did it: `token:ID` or `jwt:SUBJECT`
    #[arg(long)]
    pub(crate) principal: Option<String>,
    /// No earlier than this: a time as 2026-11-26T14:03:11Z, or so long ago, as `2h`
    #[arg(long, value_name = "TIME", value_parser = parse_since)]
    pub(crate) since: Option<Timestamp>,
}

fn parse_since(text: &str) -> Result<Timestamp, String> {
    if let Ok(time) = text.parse() {
        return Ok(time);
    }
    let wrong = || "expected a time as 2026-11-26T14:03:11Z, or how long ago as `2h`".to_owned();
    let ago = parse_duration(text).map_err(|_| wrong())?;
    let ago = SignedDuration::try_from(ago).map_err(|_| wrong())?;
    Timestamp::now().checked_sub(ago).map_err(|_| wrong())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn since_is_a_time_or_how_long_ago() {
        assert_eq!(parse_since("2026-11-26T14:03:11Z").unwrap().to_string(), "2026-11-26T14:03:11Z");
        assert!(parse_since("2h").unwrap() < Timestamp::now());
        for text in ["", "yesterday", "-2h", "2026-11-26", "99999999999d"] {
            assert!(parse_since(text).is_err(), "{text}");
        }
    }
}
