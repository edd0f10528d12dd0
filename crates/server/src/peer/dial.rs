//! The calling side.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use parking_lot::Mutex;
use rollcall_replica::{ByteStream, PeerRoute, Transport, TransportError};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::oneshot;
use tokio::time::Instant;
use tokio_util::codec::FramedRead;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{PREAMBLE, Verdict, codec, frame, open, prepare};

/// A peer that does not take a connection within this time is out of reach; an election waits no longer.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(500);

/// Reason that a refusal may carry.
const REASON_BYTES_MAX: usize = 1_024;

/// Appends have a connection of their own, so that a large batch on its way to the leader holds up no heartbeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Lane {
    Append,
    Other,
}

/// Calls peers over kept connections. A broken one is dropped at once, and the next call makes a new one.
#[derive(Clone, Default)]
pub(crate) struct Wires(Arc<Mutex<Slots>>);

/// By address and lane.
type Slots = HashMap<(String, Lane), Arc<Slot>>;

/// Where the connection of one lane is kept. Held while connecting, so that there is one attempt at a time.
type Slot = tokio::sync::Mutex<Option<Arc<Wire>>>;

/// What a call came to when its connection is asked.
enum Lost {
    /// Nothing of the request was sent.
    Before(io::Error),
    After(io::Error),
}

struct Wire {
    /// Taken out while a frame is written: a frame that is left half written takes the connection with it.
    writer: tokio::sync::Mutex<Option<OwnedWriteHalf>>,
    calls: Arc<Mutex<Calls>>,
    /// Ends the reader, and with it all that waits.
    end: CancellationToken,
    _end: DropGuard,
}

/// What waits for an answer.
struct Calls {
    next: u32,
    waiting: HashMap<u32, oneshot::Sender<(Verdict, Bytes)>>,
    /// When anything came last.
    heard_at: Option<Instant>,
    broken: bool,
}

/// Takes a call off the list when its caller no longer waits.
struct Listed<'a>(&'a Mutex<Calls>, u32);

impl Drop for Listed<'_> {
    fn drop(&mut self) {
        self.0.lock().waiting.remove(&self.1);
    }
}

impl Wire {
    async fn connect(address: &str) -> io::Result<Self> {
        let stream = dial(address).await?;
        let (reader, writer) = stream.into_split();
        let calls = Arc::new(Mutex::new(Calls { next: 0, waiting: HashMap::new(), heard_at: None, broken: false }));
        let end = CancellationToken::new();
        tokio::spawn({
            let (end, calls) = (end.clone(), calls.clone());
            async move {
                tokio::select! {
                    () = end.cancelled() => {}
                    () = listen(reader, &calls) => {}
                }
                let mut calls = calls.lock();
                calls.broken = true;
                calls.waiting.clear();
            }
        });
        Ok(Self { writer: tokio::sync::Mutex::new(Some(writer)), calls, _end: end.clone().drop_guard(), end })
    }

    fn is_broken(&self) -> bool {
        self.end.is_cancelled() || self.calls.lock().broken
    }

    async fn call(&self, route: PeerRoute, body: Bytes) -> Result<(Verdict, Bytes), Lost> {
        let closed = || io::Error::from(io::ErrorKind::ConnectionReset);
        let mut slot = self.writer.lock().await;
        let Some(mut writer) = slot.take() else {
            self.end.cancel();
            return Err(Lost::Before(closed()));
        };
        let (sender, answer) = oneshot::channel();
        let number = {
            let mut calls = self.calls.lock();
            if calls.broken {
                return Err(Lost::Before(closed()));
            }
            calls.next = calls.next.wrapping_add(1);
            let number = calls.next;
            calls.waiting.insert(number, sender);
            number
        };
        let _listed = Listed(&self.calls, number);
        if let Err(error) = writer.write_all_buf(&mut frame(number, route.number(), body)).await {
            self.end.cancel();
            return Err(Lost::After(error));
        }
        *slot = Some(writer);
        drop(slot);
        answer.await.map_err(|_| Lost::After(closed()))
    }
}

/// Takes in answers until the connection ends.
async fn listen(reader: OwnedReadHalf, calls: &Mutex<Calls>) {
    let mut frames = FramedRead::new(reader, codec());
    while let Some(Ok(frame)) = frames.next().await {
        let answer = open(frame).and_then(|(number, tag, body)| Some((number, Verdict::of(tag)?, body)));
        let Some((number, verdict, body)) = answer else { return };
        let mut calls = calls.lock();
        calls.heard_at = Some(Instant::now());
        if let Some(waiting) = calls.waiting.remove(&number) {
            // Whoever asked may have gone.
            let _ = waiting.send((verdict, body));
        }
    }
}

/// A connection on which the preamble was said.
async fn dial(address: &str) -> io::Result<TcpStream> {
    let connecting = async {
        let mut stream = TcpStream::connect(address).await?;
        prepare(&stream);
        stream.write_all(PREAMBLE).await?;
        Ok(stream)
    };
    tokio::time::timeout(CONNECT_TIMEOUT, connecting).await.map_err(|_| io::ErrorKind::TimedOut)?
}

impl Wires {
    fn slot(&self, address: &str, lane: Lane) -> Arc<Slot> {
        let mut slots = self.0.lock();
        // One for each member ever reached: a handful.
        slots.entry((address.to_owned(), lane)).or_default().clone()
    }

    async fn wire(&self, address: &str, lane: Lane) -> io::Result<Arc<Wire>> {
        let slot = self.slot(address, lane);
        let mut kept = slot.lock().await;
        if let Some(wire) = kept.as_ref().filter(|wire| !wire.is_broken()) {
            return Ok(wire.clone());
        }
        *kept = None;
        let wire = Arc::new(Wire::connect(address).await?);
        *kept = Some(wire.clone());
        Ok(wire)
    }
}

impl Transport for Wires {
    async fn call(
        &self,
        address: &str,
        route: PeerRoute,
        body: Bytes,
        timeout: Duration,
    ) -> Result<Bytes, TransportError> {
        let lane = if route == PeerRoute::Append { Lane::Append } else { Lane::Other };
        let asked_at = Instant::now();
        let deadline = asked_at + timeout;
        let connected = tokio::time::timeout_at(deadline, self.wire(address, lane)).await;
        let wire = connected
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
            .map_err(|source| unreachable(address, source))?;
        match tokio::time::timeout_at(deadline, wire.call(route, body)).await {
            Ok(Ok((verdict, body))) => judge(address, verdict, body),
            Ok(Err(Lost::Before(source))) => Err(unreachable(address, source)),
            Ok(Err(Lost::After(source))) => Err(lost(address, source)),
            Err(_) => {
                // Nothing came at all: the way to the peer is gone, whatever the kernel still hopes.
                if wire.calls.lock().heard_at.is_none_or(|heard_at| heard_at < asked_at) {
                    wire.end.cancel();
                }
                Err(lost(address, io::ErrorKind::TimedOut.into()))
            }
        }
    }

    async fn is_gone(&self, address: &str) -> bool {
        let connected = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await;
        matches!(connected, Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused)
    }

    async fn call_streaming(
        &self,
        address: &str,
        route: PeerRoute,
        mut body: ByteStream,
        timeout: Duration,
    ) -> Result<Bytes, TransportError> {
        let mut stream = dial(address).await.map_err(|source| unreachable(address, source))?;
        let talk = async {
            let (reader, mut writer) = stream.split();
            let mut answers = FramedRead::new(reader, codec());
            let send = async {
                while let Some(chunk) = body.next().await {
                    let chunk = chunk?;
                    if !chunk.is_empty() {
                        writer.write_all_buf(&mut frame(0, route.number(), chunk)).await?;
                    }
                }
                writer.write_all_buf(&mut frame(0, route.number(), Bytes::new())).await
            };
            // A peer that refuses says so without taking the rest.
            let answer = tokio::select! {
                biased;
                answer = answers.next() => answer,
                sent = send => {
                    sent?;
                    answers.next().await
                }
            };
            let answer = answer.ok_or(io::ErrorKind::UnexpectedEof)??;
            let (_, tag, body) = open(answer).ok_or(io::ErrorKind::InvalidData)?;
            Ok((Verdict::of(tag).ok_or(io::ErrorKind::InvalidData)?, body))
        };
        let answered = tokio::time::timeout(timeout, talk).await;
        match answered.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
            Ok((verdict, body)) => judge(address, verdict, body),
            Err(source) => Err(lost(address, source)),
        }
    }
}

fn judge(address: &str, verdict: Verdict, body: Bytes) -> Result<Bytes, TransportError> {
    let reason = || String::from_utf8_lossy(&body[..body.len().min(REASON_BYTES_MAX)]).into_owned();
    match verdict {
        Verdict::Answered => Ok(body),
        Verdict::Refused => Err(TransportError::Refused { address: address.to_owned(), reason: reason() }),
        Verdict::Unavailable => Err(lost(address, io::Error::other(reason()))),
    }
}

fn unreachable(address: &str, source: io::Error) -> TransportError {
    TransportError::Unreachable { address: address.to_owned(), source: source.into() }
}

fn lost(address: &str, source: io::Error) -> TransportError {
    TransportError::Lost { address: address.to_owned(), source: source.into() }
}
