//! What a check finds, in the node's own words: nothing of what the other side says is passed on but numbers.

use std::fmt;

use rollcall_api::CheckPart;
use rollcall_registry::Verdict;
use smallvec::SmallVec;

use crate::outbound::Refused;

/// Above this score a result is healthy.
const HEALTHY_ABOVE: f64 = 0.7;

/// Up to here an answer is as good as one at once.
const FAST_MS: f64 = 500.0;
/// From here on it is as good as none.
const SLOW_MS: f64 = 5_000.0;

/// Why a check could not be made: what it would have found is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Broken {
    /// The name is not known, or nobody could be asked.
    Unknown,
    Refused(Refused),
    /// The authorities of certificates could not be read.
    Untrusting,
}

impl Broken {
    /// For the log: whoever registers a name is not told what it stands for inside.
    pub(super) fn reason(self) -> &'static str {
        match self {
            Self::Unknown => "the name is not known",
            Self::Refused(Refused(sort)) => sort,
            Self::Untrusting => "authorities cannot be read",
        }
    }
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unknown | Self::Refused(_) => "there is no address that may be checked",
            Self::Untrusting => "certificates cannot be judged",
        })
    }
}

/// What is wrong with an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    NotListening,
    Unreachable,
    TimedOut {
        timeout_ms: u32,
    },
    Tls,
    /// The connection ended, or what came is not what was asked for.
    NoAnswer,
    HttpCode(u16),
    GrpcStatus(u32),
    NotServing,
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotListening => f.write_str("connection refused"),
            Self::Unreachable => f.write_str("not reachable"),
            Self::TimedOut { timeout_ms } => write!(f, "no answer within {timeout_ms} ms"),
            Self::Tls => f.write_str("no secure connection"),
            Self::NoAnswer => f.write_str("no answer of the protocol"),
            Self::HttpCode(code) => write!(f, "HTTP code {code}"),
            Self::GrpcStatus(status) => write!(f, "gRPC status {status}"),
            Self::NotServing => f.write_str("not serving"),
        }
    }
}

/// A part of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Connectivity,
    Endpoint,
    Serving,
    ResponseTime,
}

impl Part {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Connectivity => "connectivity",
            Self::Endpoint => "endpoint",
            Self::Serving => "serving",
            Self::ResponseTime => "response_time",
        }
    }
}

/// What one check found.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Finding {
    pub(super) result: Verdict,
    /// None: the check could not be made.
    pub(super) score: Option<f64>,
    pub(super) response_ms: Option<u32>,
    parts: SmallVec<[(Part, f64); 3]>,
    issues: SmallVec<[(Part, Trouble); 2]>,
    pub(super) broken: Option<Broken>,
}

impl Finding {
    pub(super) fn broken(broken: Broken) -> Self {
        Self {
            result: Verdict::Error,
            score: None,
            response_ms: None,
            parts: SmallVec::new(),
            issues: SmallVec::new(),
            broken: Some(broken),
        }
    }

    /// Of the parts that were tried, and of how long the slowest answer took if all were answered.
    pub(super) fn of(tried: &[(Part, Result<(), Trouble>)], response_ms: Option<u32>) -> Self {
        let mut parts: SmallVec<[(Part, f64); 3]> = SmallVec::new();
        parts.extend(tried.iter().map(|(part, outcome)| (*part, if outcome.is_ok() { 1.0 } else { 0.0 })));
        parts.push((Part::ResponseTime, response_ms.map_or(0.0, promptness)));
        let score = parts.iter().map(|(_, score)| score).sum::<f64>() / parts.len() as f64;
        let result = if score > HEALTHY_ABOVE { Verdict::Healthy } else { Verdict::Degraded };
        let issues = tried.iter().filter_map(|(part, outcome)| Some((*part, outcome.err()?))).collect();
        Self { result, score: Some(score), response_ms, parts, issues, broken: None }
    }

    pub(super) fn parts(&self) -> impl Iterator<Item = CheckPart> {
        self.parts.iter().map(|(part, score)| CheckPart { part: part.name().to_owned(), score: rounded(*score) })
    }

    pub(super) fn issues(&self) -> Vec<String> {
        let issues = self.issues.iter().map(|(part, trouble)| format!("{}: {trouble}", part.name()));
        let slow = self.response_ms.filter(|ms| promptness(*ms) <= HEALTHY_ABOVE);
        let slow = slow.map(|ms| format!("{}: {ms} ms", Part::ResponseTime.name()));
        issues.chain(slow).chain(self.broken.map(|broken| broken.to_string())).collect()
    }
}

/// For people to read.
pub(super) fn rounded(score: f64) -> f64 {
    (score * 1e3).round() / 1e3
}

/// 1 for an answer that came fast, falling to 0.
fn promptness(ms: u32) -> f64 {
    ((SLOW_MS - f64::from(ms)) / (SLOW_MS - FAST_MS)).clamp(0.0, 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn score(tried: &[Result<(), Trouble>], response_ms: Option<u32>) -> (f64, Verdict) {
        let parts = [Part::Connectivity, Part::Endpoint];
        let tried: Vec<_> = parts.into_iter().zip(tried.iter().copied()).collect();
        let finding = Finding::of(&tried, response_ms);
        (rounded(finding.score.unwrap()), finding.result)
    }

    #[test]
    fn the_score_is_the_mean_and_above_seven_tenths_is_healthy() {
        let bad = Err(Trouble::HttpCode(500));
        assert_eq!(score(&[Ok(()), Ok(())], Some(3)), (1.0, Verdict::Healthy));
        assert_eq!(score(&[Ok(())], Some(500)), (1.0, Verdict::Healthy));
        assert_eq!(score(&[bad], Some(3)), (0.5, Verdict::Degraded), "one of two");
        assert_eq!(score(&[Ok(()), bad], Some(3)), (0.667, Verdict::Degraded), "one of three");
        assert_eq!(score(&[bad, bad], None), (0.0, Verdict::Degraded));
        // One that slows down: of two parts it takes 3.2 s, of three 4.55 s.
        assert_eq!(score(&[Ok(())], Some(3_199)).1, Verdict::Healthy);
        assert_eq!(score(&[Ok(())], Some(3_200)), (0.7, Verdict::Degraded));
        assert_eq!(score(&[Ok(()), Ok(())], Some(4_549)).1, Verdict::Healthy);
        assert_eq!(score(&[Ok(()), Ok(())], Some(4_600)).1, Verdict::Degraded);
        assert_eq!(promptness(60_000), 0.0);
    }

    #[test]
    fn a_check_that_cannot_be_made_is_an_error_and_tells_nobody_why() {
        let refused = Finding::broken(Broken::Refused(Refused("loopback")));
        assert_eq!((refused.result, refused.score), (Verdict::Error, None));
        assert_eq!(refused.issues(), Finding::broken(Broken::Unknown).issues());
        assert_eq!(refused.broken.unwrap().reason(), "loopback");
    }

    #[test]
    fn issues_say_what_failed() {
        let tried = [(Part::Connectivity, Ok(())), (Part::Endpoint, Err(Trouble::HttpCode(503)))];
        assert_eq!(Finding::of(&tried, Some(4_000)).issues(), ["endpoint: HTTP code 503", "response_time: 4000 ms"]);
    }
}
