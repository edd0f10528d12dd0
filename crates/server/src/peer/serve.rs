//! The answering side.

use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::{Buf, Bytes};
use futures_util::StreamExt;
use futures_util::stream::{self, FuturesUnordered};
use prometheus_client::metrics::gauge::Gauge;
use rollcall_replica::{ByteStream, Door, PeerRefusal, PeerRoute, Replica};
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::either::Either;
use tokio_util::sync::CancellationToken;

use super::caller::Caller;
use super::receive::{Receiver, Request};
use super::{HEAD_BYTES, LENGTH_BYTES, PREAMBLE, STALL_TIMEOUT, Verdict, frame, prepare, send};
use crate::limits::{PEER_BODIES_KIB_MAX, PEER_CONNECTIONS_MAX};
use crate::listener;
use crate::tls::{self, Gate, Refused};

/// A caller says the preamble at once.
const PREAMBLE_TIMEOUT: Duration = Duration::from_secs(5);

/// A connection on which no request named this cluster and this node makes room for another after this.
pub(super) const STRANGER_TIMEOUT: Duration = Duration::from_secs(5);

/// As does one on which no request came for so long, and nothing is in work.
pub(super) const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// For somebody with a browser, or with a client that was given the wrong one of the two ports.
const WRONG_PORT: &[u8] = b"HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain\r\nconnection: close\r\n\r\n\
    This is the peer port of a Rollcall node: it serves nodes only. Clients connect to the other port (`listen`).\n";

/// For a node that was started without TLS among nodes that have it.
const NEEDS_TLS: &str =
    "this peer port speaks TLS: give all nodes peer_tls_cert, peer_tls_key and peer_tls_ca, or none";

/// Whom peers ask.
pub(crate) trait Member: Clone + Send + Sync + 'static {
    /// Whether what begins so is a request of this cluster for this node.
    fn is_addressed(&self, route: PeerRoute, head: &[u8]) -> bool;

    /// Where whoever sends such a request is reached, as far as this node knows.
    fn sender_address(&self, route: PeerRoute, head: &[u8]) -> Option<String>;

    fn handle_peer(&self, route: PeerRoute, body: Bytes) -> impl Future<Output = Result<Bytes, PeerRefusal>> + Send;

    fn handle_snapshot(&self, body: ByteStream) -> impl Future<Output = Result<Bytes, PeerRefusal>> + Send;

    /// A connection ended on which appends had come.
    fn contact_lost(&self);
}

impl Member for Replica {
    fn is_addressed(&self, route: PeerRoute, head: &[u8]) -> bool {
        self.is_addressed(route, head)
    }

    fn sender_address(&self, route: PeerRoute, head: &[u8]) -> Option<String> {
        self.sender_address(route, head)
    }

    async fn handle_peer(&self, route: PeerRoute, body: Bytes) -> Result<Bytes, PeerRefusal> {
        self.handle_peer(route, body).await
    }

    async fn handle_snapshot(&self, body: ByteStream) -> Result<Bytes, PeerRefusal> {
        self.handle_snapshot(body).await
    }

    fn contact_lost(&self) {
        self.contact_lost();
    }
}

/// What answers peers. Until the member runs every peer is told to come back.
#[derive(Clone)]
pub(crate) struct PeerEdge<M = Replica> {
    member: Arc<OnceLock<M>>,
    /// Where a node without an identity waits to be added.
    door: Door,
    /// For what is larger than small, over all connections; in KiB.
    room: Arc<Semaphore>,
}

impl<M> Default for PeerEdge<M> {
    fn default() -> Self {
        Self::with_room(PEER_BODIES_KIB_MAX)
    }
}

impl<M> PeerEdge<M> {
    pub(super) fn with_room(kib: usize) -> Self {
        Self { member: Arc::default(), door: Door::default(), room: Arc::new(Semaphore::new(kib)) }
    }

    pub(crate) fn door(&self) -> Door {
        self.door.clone()
    }

    pub(super) fn room(&self) -> Arc<Semaphore> {
        self.room.clone()
    }
}

impl<M: Member> PeerEdge<M> {
    /// Called once, when the member runs.
    pub(crate) fn open(&self, member: M) {
        assert!(self.member.set(member).is_ok(), "the peer edge was opened twice");
    }

    pub(super) fn is_addressed(&self, tag: u8, head: &[u8]) -> bool {
        self.member.get().zip(PeerRoute::of(tag)).is_some_and(|(member, route)| member.is_addressed(route, head))
    }

    /// Why a request is none of the caller's to make; see [`Caller`].
    fn judge(&self, caller: Option<&mut Caller>, tag: u8, body: Option<&Bytes>) -> Option<String> {
        let (caller, member, route) = (caller?, self.member.get()?, PeerRoute::of(tag)?);
        caller.judge(&member.sender_address(route, body?)?)
    }

    async fn answer(&self, tag: u8, body: Option<Bytes>) -> (Verdict, Bytes) {
        let Some(member) = self.member.get() else {
            let answered = match PeerRoute::of(tag).zip(body) {
                Some((route, body)) => self.door.answer(route, body).await,
                None => None,
            };
            return answered.map_or_else(starting, rendered);
        };
        rendered(match (PeerRoute::of(tag), body) {
            (None, _) => Err(PeerRefusal::Malformed(format!("there is no peer route {tag}"))),
            (Some(_), None) => Err(PeerRefusal::Misdirected(NOT_ADDRESSED.to_owned())),
            (Some(route), Some(body)) => member.handle_peer(route, body).await,
        })
    }

    /// Takes in a snapshot: the requests of this connection until an empty one.
    async fn snapshot(
        &self,
        first: Request,
        requests: &mut Pin<&mut impl futures_util::Stream<Item = io::Result<Request>>>,
    ) -> (Verdict, Bytes) {
        let Some(member) = self.member.get() else { return starting() };
        let Some(first_chunk) = first.body.filter(|_| first.from_member) else {
            return rendered(Err(PeerRefusal::Misdirected(NOT_ADDRESSED.to_owned())));
        };
        drop(first.seat);
        let (chunks, body) = tokio::sync::mpsc::channel(1);
        let receive = async {
            let mut next = Ok(first_chunk);
            loop {
                let ended = next.as_ref().is_ok_and(Bytes::is_empty);
                if ended || chunks.send(next).await.is_err() {
                    break;
                }
                next = match requests.next().await {
                    Some(request) => {
                        request.and_then(|request| request.body.ok_or(io::ErrorKind::InvalidData.into()))
                    }
                    None => Err(io::ErrorKind::TimedOut.into()),
                };
            }
            drop(chunks);
            // The end of the stream is not the end of the work.
            std::future::pending::<()>().await;
        };
        let body = stream::unfold(body, async |mut body| body.recv().await.map(|chunk| (chunk, body)));
        tokio::select! {
            answered = member.handle_snapshot(Box::pin(body)) => rendered(answered),
            () = receive => unreachable!("it waits for ever"),
        }
    }
}

const NOT_ADDRESSED: &str = "so large a request must name the cluster and the node that it is meant for";

fn starting() -> (Verdict, Bytes) {
    (Verdict::Starting, Bytes::from_static(b"this node is starting"))
}

fn rendered(answered: Result<Bytes, PeerRefusal>) -> (Verdict, Bytes) {
    let refusal = match answered {
        Ok(body) => return (Verdict::Answered, body),
        Err(refusal) => refusal,
    };
    let verdict = match &refusal {
        PeerRefusal::Misdirected(_) | PeerRefusal::Malformed(_) => Verdict::Refused,
        PeerRefusal::Unavailable(_) => Verdict::Unavailable,
    };
    (verdict, Bytes::from(refusal.to_string()))
}

/// Serves peers until `stop`; `open` counts their connections.
pub(crate) async fn serve<M: Member>(
    listener: TcpListener,
    gate: Gate,
    open: Gauge,
    stop: CancellationToken,
    edge: PeerEdge<M>,
) {
    let connection = {
        let stop = stop.clone();
        move |stream: TcpStream, crowded: bool, abort: CancellationToken| {
            let (edge, gate, stop) = (edge.clone(), gate.clone(), stop.clone());
            async move {
                if crowded {
                    return;
                }
                let served = tokio::select! {
                    served = connection(stream, gate, edge, stop) => served,
                    () = abort.cancelled() => Ok(()),
                };
                if let Err(error) = served {
                    tracing::debug!(%error, "a peer connection ended");
                }
            }
        }
    };
    listener::serve(listener, PEER_CONNECTIONS_MAX, open, stop, connection).await;
}

/// Tells the member when a connection ends on which appends came.
struct Contact<'a, M: Member> {
    edge: &'a PeerEdge<M>,
    stop: &'a CancellationToken,
    appends: bool,
}

impl<M: Member> Drop for Contact<'_, M> {
    fn drop(&mut self) {
        if self.appends
            && !self.stop.is_cancelled()
            && let Some(member) = self.edge.member.get()
        {
            member.contact_lost();
        }
    }
}

async fn connection<M: Member>(
    stream: TcpStream,
    gate: Gate,
    edge: PeerEdge<M>,
    stop: CancellationToken,
) -> io::Result<()> {
    prepare(&stream);
    let from = stream.peer_addr().ok();
    let mut stream = match gate.enter(stream).await {
        Ok(stream) => stream,
        Err(Refused::Plain(stream)) => {
            tracing::warn!(?from, "something without TLS calls the peer port");
            return turn_plain_away(stream).await;
        }
        Err(Refused::Failed(error)) => {
            tracing::warn!(?from, %error, "a handshake at the peer port failed");
            return Ok(());
        }
    };
    let mut said = [0; PREAMBLE.len()];
    let listened = tokio::time::timeout(PREAMBLE_TIMEOUT, stream.read_exact(&mut said)).await;
    let Ok(Ok(_)) = listened else { return Ok(()) };
    if said != *PREAMBLE {
        tracing::warn!(?from, "something that is no node of this version calls the peer port");
        return match stream {
            Either::Left(stream) => tls::turn_away(stream, WRONG_PORT).await,
            // Who has a node's certificate needs no explanation.
            Either::Right(_) => Ok(()),
        };
    }
    let mut caller = Caller::of(&stream);
    let (reader, mut writer) = tls::split(stream);
    if caller.is_some() {
        send(&mut writer, &PREAMBLE[..], STALL_TIMEOUT).await?;
    }
    let mut requests = pin!(Receiver::new(reader, edge.clone()).into_stream());
    let mut working = FuturesUnordered::new();
    let mut open_for_more = true;
    let mut contact = Contact { edge: &edge, stop: &stop, appends: false };
    // Handlers run within this task: an answer costs no more than one wake-up.
    loop {
        tokio::select! {
            biased;
            Some((number, verdict, body)) = working.next() => {
                let verdict: Verdict = verdict;
                send(&mut writer, frame(number, verdict.code(), body), STALL_TIMEOUT).await?;
            }
            request = requests.next(), if open_for_more => {
                let Some(request) = request.transpose()? else {
                    // Whoever still wants something connects anew.
                    contact.appends = false;
                    open_for_more = false;
                    continue;
                };
                let (number, route) = (request.number, PeerRoute::of(request.tag));
                contact.appends |= request.from_member && route == Some(PeerRoute::Append);
                if let Some(reason) = edge.judge(caller.as_mut(), request.tag, request.body.as_ref()) {
                    tracing::warn!(?from, reason, "a peer's request was refused");
                    // Whatever else is in work on this connection goes on: a node that has moved calls on all sorts, and
                    // is believed in nothing but that it has.
                    send(&mut writer, frame(number, Verdict::Refused.code(), reason.into()), STALL_TIMEOUT).await?;
                    continue;
                }
                if route == Some(PeerRoute::Snapshot) {
                    let (verdict, body) = edge.snapshot(request, &mut requests).await;
                    return send(&mut writer, frame(number, verdict.code(), body), STALL_TIMEOUT).await;
                }
                let edge = &edge;
                working.push(async move {
                    let (verdict, body) = edge.answer(request.tag, request.body).await;
                    drop(request.seat);
                    (number, verdict, body)
                });
            }
            () = stop.cancelled(), if open_for_more => open_for_more = false,
            else => return Ok(()),
        }
    }
}

/// Says why nothing comes of it: to a node in the form of an answer, to all else as to a client.
async fn turn_plain_away(mut stream: TcpStream) -> io::Result<()> {
    let mut said = [0; PREAMBLE.len()];
    let listened = tokio::time::timeout(PREAMBLE_TIMEOUT, stream.read_exact(&mut said)).await;
    let Ok(Ok(_)) = listened else { return Ok(()) };
    if said != *PREAMBLE {
        return tls::turn_away(stream, WRONG_PORT).await;
    }
    let mut head = [0; LENGTH_BYTES + HEAD_BYTES];
    let asked = tokio::time::timeout(PREAMBLE_TIMEOUT, stream.read_exact(&mut head)).await;
    let Ok(Ok(_)) = asked else { return Ok(()) };
    let number = (&head[LENGTH_BYTES..]).get_u32();
    let mut answer = frame(number, Verdict::Refused.code(), Bytes::from_static(NEEDS_TLS.as_bytes()));
    let answer = answer.copy_to_bytes(answer.remaining());
    tls::turn_away(stream, &answer).await
}
