//! Requests as they come in. What they take of this node's memory is bounded over all connections.
//!
//! Small ones are taken in from anybody. For a larger one room is taken bit by bit as it comes, never by what it
//! announces, and is held until it is answered. A connection gets such room, and may wait for its next request, once a
//! request on it has named this cluster and this node: strangers neither take the room nor keep the seats of members.

use std::io;
use std::sync::Arc;

use bytes::{Buf, Bytes};
use futures_util::Stream;
use futures_util::stream;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};

use super::serve::{IDLE_TIMEOUT, Member, PeerEdge, STRANGER_TIMEOUT};
use super::{HEAD_BYTES, LENGTH_BYTES, timely};
use crate::limits::{PEER_BODY_BYTES_MAX, PEER_REQUESTS_MAX, PEER_SMALL_BYTES_MAX};
use crate::tls::Reader;

/// Read at once of a larger request: whoever sends less in [`super::STALL_TIMEOUT`] is given up.
const PIECE_BYTES: usize = 64 << 10;

/// A request as it came in.
pub(super) struct Request {
    pub number: u32,
    pub tag: u8,
    /// Holds its room. None if it was thrown away: too large for a stranger.
    pub body: Option<Bytes>,
    /// Whether the connection is a member's.
    pub from_member: bool,
    /// One of those that this connection may have in work.
    pub seat: OwnedSemaphorePermit,
}

/// The requests of one connection. They end when nothing is wanted of it any more, and break off when the peer does.
pub(super) struct Receiver<M> {
    reader: BufReader<Reader>,
    edge: PeerEdge<M>,
    seats: Arc<Semaphore>,
    from_member: bool,
    stranger_until: Instant,
}

/// A body with the room that it takes.
struct Held {
    body: Vec<u8>,
    _room: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.body
    }
}

impl<M: Member> Receiver<M> {
    pub(super) fn new(reader: Reader, edge: PeerEdge<M>) -> Self {
        let seats = Arc::new(Semaphore::new(PEER_REQUESTS_MAX));
        let stranger_until = Instant::now() + STRANGER_TIMEOUT;
        Self { reader: BufReader::new(reader), edge, seats, from_member: false, stranger_until }
    }

    pub(super) fn into_stream(self) -> impl Stream<Item = io::Result<Request>> {
        stream::try_unfold(self, async |mut receiver| Ok(receiver.next().await?.map(|request| (request, receiver))))
    }

    async fn next(&mut self) -> io::Result<Option<Request>> {
        let seat = self.seats.clone().acquire_owned().await.expect("the seats are never closed");
        if !self.begins().await? {
            return Ok(None);
        }
        let mut head = [0; LENGTH_BYTES + HEAD_BYTES];
        timely(self.reader.read_exact(&mut head)).await?;
        let mut head = &head[..];
        let (length, number, tag) = (head.get_u32() as usize, head.get_u32(), head.get_u8());
        let length = length.checked_sub(HEAD_BYTES).filter(|length| *length <= PEER_BODY_BYTES_MAX);
        let length = length.ok_or(io::ErrorKind::InvalidData)?;
        let mut body = vec![0; length.min(PEER_SMALL_BYTES_MAX)];
        timely(self.reader.read_exact(&mut body)).await?;
        self.from_member = self.from_member || self.edge.is_addressed(tag, &body);
        let body = if body.len() == length {
            Some(Bytes::from(body))
        } else if self.from_member {
            Some(self.rest(body, length).await?)
        } else {
            let rest = (length - body.len()) as u64;
            timely(tokio::io::copy(&mut (&mut self.reader).take(rest), &mut tokio::io::sink())).await?;
            None
        };
        Ok(Some(Request { number, tag, body, from_member: self.from_member, seat }))
    }

    /// Waits for a request to begin; false if none is worth waiting for.
    async fn begins(&mut self) -> io::Result<bool> {
        loop {
            let until = if self.from_member { Instant::now() + IDLE_TIMEOUT } else { self.stranger_until };
            if until <= Instant::now() {
                return Ok(false);
            }
            match timeout_at(until, self.reader.fill_buf()).await {
                Ok(read) if read.as_ref().is_ok_and(|bytes| bytes.is_empty()) => {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                Ok(read) => return read.map(|_| true),
                // Of its seats this wait has one; who has the others is still to be answered.
                Err(_) if self.from_member && self.seats.available_permits() + 1 < PEER_REQUESTS_MAX => {}
                Err(_) => return Ok(false),
            }
        }
    }

    /// What is beyond the small beginning of a request.
    async fn rest(&mut self, mut body: Vec<u8>, length: usize) -> io::Result<Bytes> {
        let mut room = self.room(body.len()).await?;
        while body.len() < length {
            let more = body.len().max(PIECE_BYTES).min(length - body.len());
            room.merge(self.room(more).await?);
            body.reserve_exact(more);
            let full = body.len() + more;
            while body.len() < full {
                let begun = body.len();
                body.resize(full.min(begun + PIECE_BYTES), 0);
                timely(self.reader.read_exact(&mut body[begun..])).await?;
            }
        }
        Ok(Bytes::from_owner(Held { body, _room: room }))
    }

    async fn room(&self, bytes: usize) -> io::Result<OwnedSemaphorePermit> {
        let kib = u32::try_from(bytes.div_ceil(1 << 10)).expect("a request is smaller than 4 TiB");
        let room = self.edge.room().acquire_many_owned(kib);
        timely(async { Ok(room.await.expect("the room is never closed")) }).await
    }
}
