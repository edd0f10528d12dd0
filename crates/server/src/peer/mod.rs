//! The wires between nodes: kept TCP connections on which requests and answers go in frames.
//!
//! A connection begins with [`PREAMBLE`]. From then on each side sends frames: their length, a head of [`HEAD_BYTES`],
//! and a body that means nothing here. Answers come in any order and are told apart by the number of their request. A
//! snapshot has a connection to itself: its frames follow one another, and an empty one ends it.

mod dial;
mod serve;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio_util::codec::LengthDelimitedCodec;

use crate::limits::PEER_BODY_BYTES_MAX;

pub(crate) use dial::Wires;
pub(crate) use serve::{PeerEdge, serve};

/// What a node says first on a connection to another. The number is the version of what follows.
const PREAMBLE: &[u8; 16] = b"rollcall-peer/1\n";

/// The number of the request, and its route or the answer's kind.
const HEAD_BYTES: usize = 5;

/// Before each frame, big endian.
const LENGTH_BYTES: usize = 4;

/// How long a peer that says nothing is believed to be there: with the kernel's probes, a vanished host's connection is
/// given up after this.
const SILENCE_MAX_S: u32 = 15;

/// What an answer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Answered,
    /// The peer understood and refused; the body says why.
    Refused,
    /// The peer cannot answer now; the body says why.
    Unavailable,
}

impl Verdict {
    fn code(self) -> u8 {
        match self {
            Self::Answered => 0,
            Self::Refused => 1,
            Self::Unavailable => 2,
        }
    }

    fn of(code: u8) -> Option<Self> {
        [Self::Answered, Self::Refused, Self::Unavailable].into_iter().find(|verdict| verdict.code() == code)
    }
}

fn codec() -> LengthDelimitedCodec {
    LengthDelimitedCodec::builder()
        .length_field_length(LENGTH_BYTES)
        .max_frame_length(HEAD_BYTES + PEER_BODY_BYTES_MAX)
        .new_codec()
}

/// A frame as it goes out: length and head, then the body, which is not copied.
fn frame(number: u32, tag: u8, body: Bytes) -> impl Buf {
    let length = u32::try_from(HEAD_BYTES + body.len()).expect("a frame is smaller than 4 GiB");
    let mut head = BytesMut::with_capacity(LENGTH_BYTES + HEAD_BYTES);
    head.put_u32(length);
    head.put_u32(number);
    head.put_u8(tag);
    head.chain(body)
}

/// The number, the tag and the body of a frame; none if it is too short to have them.
fn open(frame: BytesMut) -> Option<(u32, u8, Bytes)> {
    let mut frame = frame.freeze();
    (frame.len() >= HEAD_BYTES).then(|| (frame.get_u32(), frame.get_u8(), frame))
}

/// Sends at once, and notices a peer that is gone even if nothing is sent.
fn prepare(stream: &tokio::net::TcpStream) {
    use rustix::net::sockopt;
    let prepared = stream
        .set_nodelay(true)
        .and_then(|()| Ok(sockopt::set_socket_keepalive(stream, true)?))
        .and_then(|()| Ok(sockopt::set_tcp_keepidle(stream, std::time::Duration::from_secs(5))?))
        .and_then(|()| Ok(sockopt::set_tcp_keepintvl(stream, std::time::Duration::from_secs(5))?))
        .and_then(|()| Ok(sockopt::set_tcp_user_timeout(stream, 1_000 * SILENCE_MAX_S)?));
    if let Err(error) = prepared {
        tracing::debug!(%error, "cannot set a peer connection's options");
    }
}
