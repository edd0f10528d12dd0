//! The wires between nodes: kept TCP connections on which requests and answers go in frames.
//!
//! A connection begins with [`PREAMBLE`]. From then on each side sends frames: their length, a head of [`HEAD_BYTES`],
//! and a body that means nothing here. Answers come in any order and are told apart by the number of their request. A
//! snapshot has a connection to itself: its frames follow one another, and an empty one ends it.
//!
//! With TLS the handshake comes first, and the side that was dialled says the preamble too: by then it has judged the
//! caller's certificate, which a caller cannot know by the handshake alone.

mod caller;
mod dial;
mod receive;
mod serve;
#[cfg(test)]
mod tests;

use std::future::Future;
use std::io::{self, IoSlice};
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::io::AsyncWriteExt;
use tokio_util::codec::LengthDelimitedCodec;

use crate::limits::PEER_BODY_BYTES_MAX;
use crate::tls::Writer;

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

/// A frame that has begun and of which nothing moves for so long is given up, and its connection with it.
const STALL_TIMEOUT: Duration = Duration::from_secs(3);

/// What the kernel takes of a frame beyond what it has sent: little, so that whoever writes sees whether it moves.
const UNSENT_BYTES_MAX: u32 = 128 << 10;

/// What an answer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Answered,
    /// The peer understood and refused; the body says why.
    Refused,
    /// The peer cannot answer now; the body says why.
    Unavailable,
    /// The peer did nothing: it is starting.
    Starting,
}

impl Verdict {
    fn code(self) -> u8 {
        match self {
            Self::Answered => 0,
            Self::Refused => 1,
            Self::Unavailable => 2,
            Self::Starting => 3,
        }
    }

    fn of(code: u8) -> Option<Self> {
        let all = [Self::Answered, Self::Refused, Self::Unavailable, Self::Starting];
        all.into_iter().find(|verdict| verdict.code() == code)
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

/// Writes a frame, however slowly the peer takes it, unless it takes nothing for as long as `patience`.
async fn send(writer: &mut Writer, mut frame: impl Buf, patience: Duration) -> io::Result<()> {
    while frame.has_remaining() {
        let mut parts = [IoSlice::new(&[]); 2];
        let count = frame.chunks_vectored(&mut parts);
        let written = tokio::time::timeout(patience, writer.write_vectored(&parts[..count])).await??;
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        frame.advance(written);
    }
    // For a plain stream there is nothing to do.
    tokio::time::timeout(patience, writer.flush()).await?
}

/// What must not stall.
async fn timely<T>(step: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    tokio::time::timeout(STALL_TIMEOUT, step).await?
}

/// Sends at once, and notices a peer that is gone even if nothing is sent.
fn prepare(stream: &tokio::net::TcpStream) {
    use rustix::net::sockopt;
    let prepared = stream
        .set_nodelay(true)
        .and_then(|()| Ok(sockopt::set_socket_keepalive(stream, true)?))
        .and_then(|()| Ok(sockopt::set_tcp_keepidle(stream, Duration::from_secs(5))?))
        .and_then(|()| Ok(sockopt::set_tcp_keepintvl(stream, Duration::from_secs(5))?))
        .and_then(|()| Ok(sockopt::set_tcp_user_timeout(stream, 1_000 * SILENCE_MAX_S)?))
        .and_then(|()| socket2::SockRef::from(stream).set_tcp_notsent_lowat(UNSENT_BYTES_MAX));
    if let Err(error) = prepared {
        tracing::debug!(%error, "cannot set a peer connection's options");
    }
}
