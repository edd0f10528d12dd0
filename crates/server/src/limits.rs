//! How much of this node clients may use at once. Together the numbers bound its memory: nothing that a client can send
//! or leave hanging is without one.

use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Client connections served at once: as many agents as one node of a large cluster has, at some 20 KiB each.
pub(crate) const CONNECTIONS_MAX: usize = 10_000;

/// Connections beyond the others that are told so, instead of being left to guess; they still reach `/livez`.
pub(crate) const CONNECTIONS_SPARE: usize = 64;

/// Peer connections served at once: a handful for each member, and room for reconnects after a partition.
pub(crate) const PEER_CONNECTIONS_MAX: usize = 1_024;

/// Requests of one peer connection in work at once: batches, read indexes and votes, of each one or two.
pub(crate) const PEER_REQUESTS_MAX: usize = 64;

/// Requests in work at once. Writes held through an election count, so it is not much less than the connections.
pub(crate) const REQUESTS_MAX: usize = 8_192;

/// Of those, reads may take this many: whoever looks something up can ask another node.
pub(crate) const READS_MAX: usize = REQUESTS_MAX / 2;

/// Of those, everything but heartbeats may take this many: an agent that cannot renew is struck off.
pub(crate) const WRITES_MAX: usize = REQUESTS_MAX / 4 * 3;

/// All request bodies being read and parsed at once, in KiB; a parsed body takes some ten times its text.
pub(crate) const BODIES_KIB_MAX: usize = 65_536;

/// One registration, heartbeat or deregistration.
pub(crate) const BODY_BYTES_MAX: usize = 64 << 10;

/// One batch.
pub(crate) const BATCH_BYTES_MAX: usize = 4 << 20;

/// One peer request but the snapshot: a full batch of the largest registrations, and framing.
pub(crate) const PEER_BODY_BYTES_MAX: usize = 64 << 20;

/// Read and thrown away of a body that is too large, so that its sender gets to read the answer.
pub(crate) const DISCARDED_BYTES_MAX: usize = 16 << 20;

/// Service objects kept as text, so that who is asked for often is not rendered each time: some sixty thousand.
pub(crate) const RENDERED_BYTES_MAX: usize = 64 << 20;

/// Request line and headers.
pub(crate) const HEADER_BYTES_MAX: usize = 64 << 10;

/// A client's headers must be complete, and a kept connection used again, within this time.
pub(crate) const HEADER_TIMEOUT: Duration = Duration::from_secs(60);

/// A body must be complete within this time, or the request's deadline if that comes earlier.
pub(crate) const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// A client must take some of its answer within this time.
pub(crate) const WRITE_TIMEOUT: Duration = Duration::from_secs(30);

/// Requests in work may go on for this long after shutdown was asked for.
pub(crate) const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// Raises the soft limit on open files to the hard one: the usual 1,024 is less than the connections above.
pub(crate) fn raise_open_files() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, current = limit.current, "the limit on open files stays as it is");
    }
}
