//! Names of the HTTP headers that have a meaning of their own, in lower case as HTTP/2 and most libraries want them.

/// On answers: the revision written, or the revision that the answer shows.
pub const REVISION: &str = "rollcall-revision";

/// On answers of reads: milliseconds since the contact with the leader that showed the node current; 0 for
/// linearizable reads.
pub const STALENESS_MS: &str = "rollcall-staleness-ms";

/// On backups: the epoch, which restore and recovery move.
pub const EPOCH: &str = "rollcall-epoch";

/// On backups: the index of the last log entry in it.
pub const APPLIED_INDEX: &str = "rollcall-applied-index";

/// On answers: the id of the node that answered.
pub const NODE: &str = "rollcall-node";

/// On requests and answers: names the request in logs, at most 128 visible ASCII characters. Made up if absent.
pub const REQUEST_ID: &str = "x-request-id";

/// On requests: how long the server may take, in milliseconds, 1 to 60,000, 10,000 if absent.
pub const REQUEST_TIMEOUT_MS: &str = "x-request-timeout-ms";

/// On requests: the tenant whose roll is meant; if absent, the one that the token is for, else `default`. A token that is for
/// one tenant can mean no other.
pub const TENANT_ID: &str = "x-tenant-id";

/// On requests and answers: W3C trace context.
pub const TRACEPARENT: &str = "traceparent";

/// The media type of errors.
pub const PROBLEM_JSON: &str = "application/problem+json";
