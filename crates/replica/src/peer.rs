//! The seam between a replica and the wires that the edge lays: opaque bytes to and from a peer address.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream;

/// What a peer is asked. The number is its name on the wires and is never given to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum PeerRoute {
    Append = 1,
    Vote = 2,
    PreVote = 3,
    TransferLeader = 4,
    /// The only one whose body is a stream.
    Snapshot = 5,
    /// A batch of commands for the leader.
    Propose = 6,
    /// The leader's read index.
    ReadIndex = 7,
    /// A node that has no id yet asks to be taken in.
    Join = 8,
    /// Who are you, and whom do you know?
    Info = 9,
    /// An operator's request for the leader.
    Operate = 10,
    /// Who is there, asked by somebody who does not know.
    Greet = 11,
    /// A node that waits to be added is told who it is.
    Adopt = 12,
    /// A removed node is told so.
    Farewell = 13,
    /// A node that hears from nobody asks whether it still belongs.
    Standing = 14,
    /// A member says what is new of itself.
    Announce = 15,
    /// A member is told that it lost what it had acknowledged.
    Forgot = 16,
}

impl PeerRoute {
    pub const ALL: &[Self] = &[
        Self::Append,
        Self::Vote,
        Self::PreVote,
        Self::TransferLeader,
        Self::Snapshot,
        Self::Propose,
        Self::ReadIndex,
        Self::Join,
        Self::Info,
        Self::Operate,
        Self::Greet,
        Self::Adopt,
        Self::Farewell,
        Self::Standing,
        Self::Announce,
        Self::Forgot,
    ];

    pub fn number(self) -> u8 {
        self as u8
    }

    pub fn of(number: u8) -> Option<Self> {
        Self::ALL.iter().copied().find(|route| route.number() == number)
    }
}

/// Why a peer gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    /// The peer certainly did nothing: it does not listen, it is starting, or no byte of the request went out in time.
    #[error("cannot reach peer {address}")]
    Unreachable {
        address: String,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Something was sent, and whether the peer acted on it is not known.
    #[error("lost peer {address} before it answered")]
    Lost {
        address: String,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The peer understood and refused.
    #[error("peer {address} refused: {reason}")]
    Refused { address: String, reason: String },
}

/// Whether any of a request may have gone out. Whoever drops a call learns from it what it would have answered:
/// before that the peer certainly did nothing.
#[derive(Clone, Debug, Default)]
pub struct Sent(Arc<AtomicBool>);

impl Sent {
    /// Called by the transport before the first byte goes out.
    pub fn set(&self) {
        self.0.store(true, Ordering::Release);
    }

    pub(crate) fn get(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

pub type ByteStream = Pin<Box<dyn Stream<Item = Result<Bytes, std::io::Error>> + Send>>;

/// Carries bytes to peers. Connections are kept; a broken one is dropped at once.
pub trait Transport: Send + Sync + 'static {
    /// `timeout` is how long nothing may happen: for reaching the peer, and then for its answer. While the request is on
    /// its way out and moves on, however slowly, the time does not run.
    fn call(
        &self,
        address: &str,
        route: PeerRoute,
        body: Bytes,
        timeout: Duration,
        sent: &Sent,
    ) -> impl Future<Output = Result<Bytes, TransportError>> + Send;

    /// Whether the process that was at an address has ended for certain: the machine answers that nobody listens there.
    fn is_gone(&self, address: &str) -> impl Future<Output = bool> + Send;

    /// As `call`, with a body too large for memory.
    fn call_streaming(
        &self,
        address: &str,
        route: PeerRoute,
        body: ByteStream,
        timeout: Duration,
    ) -> impl Future<Output = Result<Bytes, TransportError>> + Send;
}

/// Why a peer's request was refused.
#[derive(Debug, thiserror::Error)]
pub enum PeerRefusal {
    /// Another cluster, another node than the one meant, or a format we do not speak. Never retried blindly.
    #[error("{0}")]
    Misdirected(String),
    /// Bytes that do not decode.
    #[error("{0}")]
    Malformed(String),
    /// This node is stopping or broken.
    #[error("{0}")]
    Unavailable(String),
}
