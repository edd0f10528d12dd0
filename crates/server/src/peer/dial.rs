//! The calling side.

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, Bytes};
use futures_util::StreamExt;
use parking_lot::Mutex;
use rollcall_replica::{ByteStream, PeerRoute, Sent, Transport, TransportError};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio::sync::{OwnedMutexGuard, oneshot};
use tokio::time::Instant;
use tokio_util::codec::FramedRead;
use tokio_util::either::Either;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{PREAMBLE, STALL_TIMEOUT, Verdict, codec, frame, open, prepare, send};
use crate::config::split_address;
use crate::tls::{self, Reader, Secured, Stream, Writer};

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
pub(crate) struct Wires {
    slots: Arc<Mutex<Slots>>,
    /// None: plain.
    secured: Option<Arc<Secured>>,
}

/// By address and lane.
type Slots = HashMap<(String, Lane), Arc<Slot>>;

/// Where the connection of one lane is kept. Held while connecting, so that there is one attempt at a time.
type Slot = tokio::sync::Mutex<Option<Arc<Wire>>>;

/// Why a call has no answer.
enum Lost {
    /// Nothing of the request was sent.
    Before(io::Error),
    After(io::Error),
}

struct Wire {
    /// Held while a frame is written.
    writer: Arc<tokio::sync::Mutex<Writer>>,
    calls: Arc<Mutex<Calls>>,
    /// Ends the reader and the writer, and with them all that waits.
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
    async fn connect(address: &str, secured: Option<&Secured>) -> io::Result<Self> {
        let stream = dial(address, secured).await?;
        let (reader, writer) = tls::split(stream);
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
        let writer = Arc::new(tokio::sync::Mutex::new(writer));
        Ok(Self { writer, calls, _end: end.clone().drop_guard(), end })
    }

    fn is_broken(&self) -> bool {
        self.end.is_cancelled() || self.calls.lock().broken
    }

    /// Waits for its turn until `by`, and from when the request was written for `timeout`.
    async fn call(
        &self,
        route: PeerRoute,
        body: Bytes,
        (by, timeout): (Instant, Duration),
        sent: &Sent,
    ) -> Result<(Verdict, Bytes), Lost> {
        let closed = || io::Error::from(io::ErrorKind::ConnectionReset);
        let late = || io::Error::from(io::ErrorKind::TimedOut);
        let asked_at = Instant::now();
        let turn = tokio::time::timeout_at(by, self.writer.clone().lock_owned()).await;
        let writer = turn.map_err(|_| Lost::Before(late()))?;
        let (sender, answer) = oneshot::channel();
        let number = {
            let mut calls = self.calls.lock();
            if calls.broken || self.end.is_cancelled() {
                return Err(Lost::Before(closed()));
            }
            calls.next = calls.next.wrapping_add(1);
            let number = calls.next;
            calls.waiting.insert(number, sender);
            number
        };
        let _listed = Listed(&self.calls, number);
        sent.set();
        let frame = frame(number, route.number(), body);
        let writing = write(writer, frame, timeout.min(STALL_TIMEOUT), self.end.clone());
        Whole(Some(Box::pin(writing))).await.map_err(Lost::After)?;
        if let Ok(answer) = tokio::time::timeout(timeout, answer).await {
            return answer.map_err(|_| Lost::After(closed()));
        }
        // Nothing came at all, and nothing is on its way out: the way to the peer is gone, whatever the kernel still
        // hopes.
        let is_silent = self.calls.lock().heard_at.is_none_or(|heard_at| heard_at < asked_at);
        if is_silent && self.writer.try_lock().is_ok() {
            self.end.cancel();
        }
        Err(Lost::After(late()))
    }
}

/// Writes a frame. A connection on which it is left half written is of no more use.
async fn write(
    mut writer: OwnedMutexGuard<Writer>,
    frame: impl Buf,
    patience: Duration,
    end: CancellationToken,
) -> io::Result<()> {
    let half_written = end.clone().drop_guard();
    tokio::select! {
        () = end.cancelled() => return Err(io::ErrorKind::ConnectionReset.into()),
        sent = send(&mut writer, frame, patience) => sent?,
    }
    half_written.disarm();
    Ok(())
}

/// The writing of a frame. It goes on when its caller gives up, because others wait for the connection.
struct Whole(Option<Pin<Box<dyn Future<Output = io::Result<()>> + Send>>>);

impl Future for Whole {
    type Output = io::Result<()>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let writing = self.0.as_mut().expect("polled after it was done");
        let polled = writing.as_mut().poll(context);
        if polled.is_ready() {
            self.0 = None;
        }
        polled
    }
}

impl Drop for Whole {
    fn drop(&mut self) {
        if let (Some(writing), Ok(runtime)) = (self.0.take(), Handle::try_current()) {
            runtime.spawn(writing);
        }
    }
}

/// Takes in answers until the connection ends.
async fn listen(reader: Reader, calls: &Mutex<Calls>) {
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
async fn dial(address: &str, secured: Option<&Secured>) -> io::Result<Stream> {
    let connecting = async {
        let mut plain = TcpStream::connect(address).await?;
        prepare(&plain);
        let Some(secured) = secured else {
            plain.write_all(PREAMBLE).await?;
            return Ok(Either::Left(plain));
        };
        let (host, _) = split_address(address).ok_or(io::ErrorKind::InvalidInput)?;
        let mut stream = secured.dial(host, plain).await.map_err(hinted)?;
        stream.write_all(PREAMBLE).await?;
        stream.flush().await?;
        let mut said = [0; PREAMBLE.len()];
        stream.read_exact(&mut said).await?;
        if said == *PREAMBLE { Ok(stream) } else { Err(io::ErrorKind::InvalidData.into()) }
    };
    tokio::time::timeout(CONNECT_TIMEOUT, connecting).await.map_err(|_| io::ErrorKind::TimedOut)?
}

/// Says what an operator can do about a handshake that failed, where its reason does not.
fn hinted(error: io::Error) -> io::Error {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(rustls::Error::InvalidMessage(_)) => {
            io::Error::other("it speaks no TLS: give all nodes peer_tls_cert, peer_tls_key and peer_tls_ca, or none")
        }
        _ => error,
    }
}

impl Wires {
    pub(crate) fn new(secured: Option<Arc<Secured>>) -> Self {
        Self { slots: Arc::default(), secured }
    }

    fn slot(&self, address: &str, lane: Lane) -> Arc<Slot> {
        let mut slots = self.slots.lock();
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
        let wire = Arc::new(Wire::connect(address, self.secured.as_deref()).await?);
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
        sent: &Sent,
    ) -> Result<Bytes, TransportError> {
        let lane = if route == PeerRoute::Append { Lane::Append } else { Lane::Other };
        let by = Instant::now() + timeout.min(STALL_TIMEOUT);
        let connected = tokio::time::timeout_at(by, self.wire(address, lane)).await;
        let wire = connected
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
            .map_err(|source| unreachable(address, source))?;
        match wire.call(route, body, (by, timeout), sent).await {
            Ok((verdict, body)) => judge(address, verdict, body),
            Err(Lost::Before(source)) => Err(unreachable(address, source)),
            Err(Lost::After(source)) => Err(lost(address, source)),
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
        let dialled = dial(address, self.secured.as_deref()).await;
        let stream = dialled.map_err(|source| unreachable(address, source))?;
        let talk = async {
            let (reader, mut writer) = tls::split(stream);
            let mut answers = FramedRead::new(reader, codec());
            let send = async {
                while let Some(chunk) = body.next().await {
                    let chunk = chunk?;
                    if !chunk.is_empty() {
                        writer.write_all_buf(&mut frame(0, route.number(), chunk)).await?;
                    }
                }
                writer.write_all_buf(&mut frame(0, route.number(), Bytes::new())).await?;
                writer.flush().await
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
        Verdict::Starting => Err(unreachable(address, io::Error::other(reason()))),
    }
}

fn unreachable(address: &str, source: io::Error) -> TransportError {
    TransportError::Unreachable { address: address.to_owned(), source: source.into() }
}

fn lost(address: &str, source: io::Error) -> TransportError {
    TransportError::Lost { address: address.to_owned(), source: source.into() }
}
