//! What can go wrong, by operation.

use std::io;

use crate::board::NotSeen;

/// Why a work could not be done. Errors while it is being measured are counted instead.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The command line asks for something that cannot be.
    #[error("{what}")]
    Usage { what: String },
    #[error("{action}")]
    Request {
        action: &'static str,
        #[source]
        source: RequestError,
    },
    #[error("{failed} of {count} registrations failed: {example}")]
    SetUp { count: u64, failed: u64, example: String },
    #[error("find the process of {label}, to kill it")]
    NoProcess { label: String },
    #[error("send a signal to process {pid} ({label})")]
    Signal {
        label: String,
        pid: i32,
        #[source]
        source: io::Error,
    },
}

/// Why one request brought no result.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    #[error("connect to {endpoint}")]
    Connect {
        endpoint: String,
        #[source]
        source: io::Error,
    },
    #[error("speak HTTP with {endpoint}")]
    Http {
        endpoint: String,
        #[source]
        source: hyper::Error,
    },
    #[error("no answer from {endpoint} within {timeout_ms} ms")]
    Timeout { endpoint: String, timeout_ms: u128 },
    #[error("{detail} ({status} {code})")]
    Refused { status: u16, code: String, detail: String },
    #[error("status {status} is not the expected one")]
    UnexpectedStatus { status: u16 },
    /// A change that was acknowledged.
    #[error(transparent)]
    NotSeen(#[from] NotSeen),
    /// A success, but not what the work needs.
    #[error("{what}")]
    Unexpected { what: String },
}
