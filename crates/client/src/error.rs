//! What can go wrong, by operation.

use rollcall_api::{Problem, WriteOutcome};

use crate::tls::{self, TlsTrouble};

/// Why a [`Client`](crate::Client) could not be built.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    #[error("no endpoint is given")]
    NoEndpoint,
    #[error("endpoint `{endpoint}` is not the URL of a node: {reason}")]
    Endpoint { endpoint: String, reason: &'static str },
    #[error("the {header} header cannot carry the given {what}")]
    Header { what: &'static str, header: &'static str },
    #[error("what is given as certificate authority holds no PEM certificate")]
    NoAuthority,
    #[error("read the given certificate authority")]
    Authority {
        #[source]
        source: reqwest::Error,
    },
    #[error("use the given client certificate and key")]
    ClientCertificate {
        #[source]
        source: reqwest::Error,
    },
    #[error("use the given signing key")]
    SigningKey {
        #[source]
        source: rollcall_signature::SigningKeyError,
    },
    #[error("start the http client")]
    Http {
        #[source]
        source: reqwest::Error,
    },
}

/// Why a request brought no result.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A node answered no. What it said is kept whole.
    #[error("{}", refusal(*status, problem))]
    Refused { status: u16, problem: Box<Problem> },
    /// No endpoint could be reached, or the connection broke on the way.
    #[error("reach {endpoint}")]
    Unreachable {
        endpoint: String,
        /// The request left this machine and may have been carried out.
        may_have_been_applied: bool,
        #[source]
        source: reqwest::Error,
    },
    /// The time for the whole request is over.
    #[error("no answer from {endpoint} within {timeout_ms} ms")]
    Timeout { endpoint: String, timeout_ms: u64, may_have_been_applied: bool },
    /// The answer is none that a node of this version gives.
    #[error("read the answer of {endpoint} (status {status})")]
    Answer {
        endpoint: String,
        status: u16,
        #[source]
        source: serde_json::Error,
    },
    /// The request cannot be written as JSON.
    #[error("write the request")]
    Request {
        #[source]
        source: serde_json::Error,
    },
    /// The registration cannot be signed: others would read a number in it differently.
    #[error("sign the registration: {}", source.path)]
    Sign {
        #[source]
        source: rollcall_signature::NotCanonical,
    },
    /// No URL path leads to this id: the empty one, `.` and `..` are lost on the way.
    #[error("no request can name the id `{id}`")]
    Id { id: String },
    /// A stream of changes ended or cannot be followed.
    #[error("watch at {endpoint}")]
    Watch {
        endpoint: String,
        #[source]
        source: WatchFault,
    },
}

/// What is wrong with a stream of changes. A [`Watch`](crate::Watch) heals the first six by itself.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WatchFault {
    #[error("the stream ended")]
    Ended,
    #[error("the connection broke")]
    Broken {
        #[source]
        source: reqwest::Error,
    },
    /// Not even the bookmarks came that a node sends while nothing changes.
    #[error("nothing came for {silence_ms} ms")]
    Silent { silence_ms: u64 },
    /// The node cuts off who reads more slowly than the roll changes.
    #[error("the node cut the stream because it was read too slowly")]
    TooSlow,
    /// The roll was restored from a backup: no revision of before says anything about it.
    #[error("the roll was restored from a backup")]
    Restored,
    #[error("the answer is no event stream")]
    NoStream,
    #[error("an event is larger than {size_max} bytes")]
    TooLarge { size_max: usize },
    #[error("a `{event}` carries no resume point")]
    NoResumePoint { event: String },
    #[error("a `{event}` came where none may come")]
    OutOfPlace { event: String },
}

impl WatchFault {
    pub(crate) fn is_healed(&self) -> bool {
        match self {
            Self::Ended
            | Self::Broken { .. }
            | Self::Silent { .. }
            | Self::TooSlow
            | Self::Restored
            | Self::NoStream => true,
            Self::TooLarge { .. } | Self::NoResumePoint { .. } | Self::OutOfPlace { .. } => false,
        }
    }
}

/// The faults where a node names them, for they say more than the summary does.
fn refusal(status: u16, problem: &Problem) -> String {
    let faults: Vec<_> = problem.errors.iter().map(|fault| format!("{}: {}", fault.field, fault.message)).collect();
    let text = match (faults.is_empty(), problem.detail.is_empty()) {
        (false, _) => faults.join("; "),
        (true, false) => problem.detail.clone(),
        (true, true) => problem.title.clone(),
    };
    format!("{text} ({status} {})", problem.code)
}

impl Error {
    /// The stable word for what a node refused, as `lease_superseded`.
    pub fn code(&self) -> Option<&str> {
        match self {
            Self::Refused { problem, .. } => Some(&problem.code),
            _ => None,
        }
    }

    /// The HTTP status of a node's refusal.
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Refused { status, .. } => Some(*status),
            _ => None,
        }
    }

    /// What is the matter with the node's TLS, if that is why it was not reached.
    pub fn tls_trouble(&self) -> Option<TlsTrouble> {
        match self {
            Self::Unreachable { source, .. } | Self::Watch { source: WatchFault::Broken { source }, .. } => {
                tls::trouble(source)
            }
            _ => None,
        }
    }

    /// Whether a write that ended with this error may have taken place all the same.
    pub fn may_have_been_applied(&self) -> bool {
        match self {
            Self::Refused { status, problem } => *status >= 500 && problem.outcome != Some(WriteOutcome::NotApplied),
            Self::Unreachable { may_have_been_applied, .. } | Self::Timeout { may_have_been_applied, .. } => {
                *may_have_been_applied
            }
            Self::Answer { .. } => true,
            Self::Request { .. } | Self::Sign { .. } | Self::Id { .. } | Self::Watch { .. } => false,
        }
    }

    /// Whether the same request may succeed later without anything being changed about it.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Refused { status, .. } => matches!(status, 408 | 429 | 500..),
            Self::Unreachable { .. } | Self::Timeout { .. } => true,
            Self::Watch { source, .. } => source.is_healed(),
            Self::Answer { .. } | Self::Request { .. } | Self::Sign { .. } | Self::Id { .. } => false,
        }
    }

    /// An earlier attempt at the same write may have been carried out, whatever became of the last.
    pub(crate) fn after_unknown_outcome(mut self, outcome_unknown: bool) -> Self {
        if outcome_unknown {
            match &mut self {
                Self::Refused { status: 500.., problem } => problem.outcome = Some(WriteOutcome::Unknown),
                Self::Unreachable { may_have_been_applied, .. } | Self::Timeout { may_have_been_applied, .. } => {
                    *may_have_been_applied = true;
                }
                Self::Refused { .. }
                | Self::Answer { .. }
                | Self::Request { .. }
                | Self::Sign { .. }
                | Self::Id { .. }
                | Self::Watch { .. } => {}
            }
        }
        self
    }
}

/// An error with its sources, in one line for a log.
pub(crate) fn report(error: &dyn std::error::Error) -> String {
    let mut line = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        line.push_str(": ");
        line.push_str(&error.to_string());
        source = error.source();
    }
    line
}
