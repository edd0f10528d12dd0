//! How much of this node clients may use at once. Together the numbers bound its memory: nothing that a client can send
//! or leave hanging is without one.

use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// HTTP connections of clients served at once: as many agents and watchers as one node of a large cluster has, at some
/// 20 KiB each. Those that have become WebSockets are counted as watchers instead.
pub(crate) const CONNECTIONS_MAX: usize = 30_000;

/// Connections beyond the others that are told so, instead of being left to guess; they still reach `/livez`.
pub(crate) const CONNECTIONS_SPARE: usize = 64;

/// Peer connections served at once: a handful for each member, and room for reconnects after a partition. Each may hold
/// some 270 KiB in buffers and small requests.
pub(crate) const PEER_CONNECTIONS_MAX: usize = 512;

/// TLS handshakes of one port under way at once, at some 64 KiB each; who comes meanwhile waits for a turn. A node does
/// some thousand in a second.
pub(crate) const HANDSHAKES_MAX: usize = 1_024;

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

/// One agent card: a hundred tools with the schemas of their input and output.
pub(crate) const CARD_BYTES_MAX: usize = 256 << 10;

/// What a card may become on the roll, where its skills are kept as capabilities beside it. Two fit into a log entry's
/// usual 1 MiB.
pub(crate) const CARD_PACKED_BYTES_MAX: usize = 512 << 10;

/// Cards of one answer: of the smallest, this many are as large as an answer may be.
pub(crate) const CARDS_MAX: usize = 32_768;

/// All cards of one answer: a Protolink client takes 16 MiB, and wants to read what is wrong if there is more.
pub(crate) const CARDS_BYTES_MAX: usize = 15 << 20;

/// Agents shown by name on the status page.
pub(crate) const STATUS_AGENTS_MAX: usize = 1_000;

/// One batch.
pub(crate) const BATCH_BYTES_MAX: usize = 4 << 20;

/// One peer request, or piece of a snapshot: more than the largest that storage's codec makes, which is one log entry of
/// 4 MiB in an envelope.
pub(crate) const PEER_BODY_BYTES_MAX: usize = 8 << 20;

/// Peer requests up to this size are taken in whatever else comes in, and from whoever calls: heartbeats, votes, joining.
pub(crate) const PEER_SMALL_BYTES_MAX: usize = 4 << 10;

/// All larger peer requests that are coming in or in work, in KiB. Those of members are of 1 MiB, and of each there are
/// one or two at once.
pub(crate) const PEER_BODIES_KIB_MAX: usize = 65_536;

/// Read and thrown away of a body that is too large, so that its sender gets to read the answer.
pub(crate) const DISCARDED_BYTES_MAX: usize = 16 << 20;

/// Service objects kept as text, so that who is asked for often is not rendered each time: some sixty thousand.
pub(crate) const RENDERED_BYTES_MAX: usize = 64 << 20;

/// What one watch feed keeps for watchers that have not fetched it yet: seconds of many changes. Who falls behind by
/// more is cut.
pub(crate) const FEED_BYTES_MAX: usize = 4 << 20;

/// What all watch feeds keep together. Beyond it, slow watchers are cut at the next change.
pub(crate) const FEEDS_BYTES_MAX: usize = 128 << 20;

/// What a watcher asks for, as text: it is kept as long as somebody watches, for each question once.
pub(crate) const QUESTION_BYTES_MAX: usize = 8 << 10;

/// A message of a WebSocket client.
pub(crate) const WS_MESSAGE_BYTES_MAX: usize = 64 << 10;

/// Subscriptions of one WebSocket connection.
pub(crate) const WS_SUBSCRIPTIONS_MAX: usize = 256;

/// Backups being read at once. Each reads the disk, has some MiB on their way, and holds on to the state as it was.
pub(crate) const BACKUPS_MAX: usize = 2;

/// A backup must be taken within this time: longer than any takes that is read at all.
pub(crate) const BACKUP_TIMEOUT: Duration = Duration::from_secs(3_600);

/// Longest wait of a long poll.
pub(crate) const POLL_MS_MAX: u64 = 300_000;

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
