//! Both sides of the wires, over real sockets.

mod secured;

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use futures_util::{StreamExt, stream};
use prometheus_client::metrics::gauge::Gauge;
use rollcall_replica::{ByteStream, PeerRefusal, PeerRoute, Sent, Transport, TransportError};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::codec::FramedRead;
use tokio_util::sync::CancellationToken;

use super::serve::{Member, STRANGER_TIMEOUT};
use super::{PREAMBLE, PeerEdge, STALL_TIMEOUT, Verdict, Wires, codec, frame, open, serve};
use crate::limits::{PEER_BODY_BYTES_MAX, PEER_REQUESTS_MAX, PEER_SMALL_BYTES_MAX};
use crate::tls::Gate;

const PATIENCE: Duration = Duration::from_secs(10);
const INFO: u8 = PeerRoute::Info as u8;

/// Answers each request that is meant for it with the length of its body, once there is a permit for it.
#[derive(Clone)]
struct Echo {
    permits: Arc<Semaphore>,
    begun: Arc<AtomicUsize>,
    contacts_lost: Arc<AtomicUsize>,
}

impl Echo {
    fn new(permits: usize) -> Self {
        let permits = Arc::new(Semaphore::new(permits));
        Self { permits, begun: Arc::default(), contacts_lost: Arc::default() }
    }

    async fn has_begun(&self, requests: usize) {
        until("requests to begin", || self.begun.load(SeqCst) >= requests).await;
    }
}

impl Member for Echo {
    fn is_addressed(&self, _route: PeerRoute, head: &[u8]) -> bool {
        head.starts_with(b"to you")
    }

    fn sender_address(&self, _route: PeerRoute, body: &[u8]) -> Option<String> {
        let sender = body.strip_prefix(b"to you from ").filter(|sender| !sender.is_empty())?;
        Some(String::from_utf8_lossy(sender).into_owned())
    }

    async fn handle_peer(&self, route: PeerRoute, body: Bytes) -> Result<Bytes, PeerRefusal> {
        if !self.is_addressed(route, &body) {
            return Err(PeerRefusal::Misdirected("to another".to_owned()));
        }
        self.begun.fetch_add(1, SeqCst);
        self.permits.acquire().await.expect("never closed").forget();
        Ok(Bytes::from(body.len().to_string()))
    }

    async fn handle_snapshot(&self, mut body: ByteStream) -> Result<Bytes, PeerRefusal> {
        let mut bytes = 0;
        while let Some(chunk) = body.next().await {
            bytes += chunk.map_err(|error| PeerRefusal::Malformed(error.to_string()))?.len();
        }
        Ok(Bytes::from(bytes.to_string()))
    }

    fn contact_lost(&self) {
        self.contacts_lost.fetch_add(1, SeqCst);
    }
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

async fn served(edge: PeerEdge<Echo>) -> (String, CancellationToken, JoinHandle<()>) {
    served_through(Gate::default(), edge).await
}

async fn served_through(gate: Gate, edge: PeerEdge<Echo>) -> (String, CancellationToken, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("an address").to_string();
    let stop = CancellationToken::new();
    let server = tokio::spawn(serve(listener, gate, Gauge::default(), stop.clone(), edge));
    (address, stop, server)
}

/// A running member with room for so much.
async fn member(echo: &Echo, room_kib: usize) -> (String, PeerEdge<Echo>, CancellationToken, JoinHandle<()>) {
    let edge = PeerEdge::with_room(room_kib);
    edge.open(echo.clone());
    let (address, stop, server) = served(edge.clone()).await;
    (address, edge, stop, server)
}

/// The calling side, byte by byte.
struct Caller(TcpStream);

impl Caller {
    async fn new(address: &str) -> Self {
        let mut stream = TcpStream::connect(address).await.expect("a listener");
        stream.write_all(PREAMBLE).await.expect("written");
        Self(stream)
    }

    /// What a frame begins with, as if `length` bytes of body followed.
    async fn announce(&mut self, number: u32, tag: u8, length: usize) {
        let mut head = BytesMut::new();
        head.put_u32(u32::try_from(5 + length).expect("a length"));
        head.put_u32(number);
        head.put_u8(tag);
        self.0.write_all(&head).await.expect("written");
    }

    async fn ask(&mut self, number: u32, tag: u8, body: &[u8]) {
        self.announce(number, tag, body.len()).await;
        self.0.write_all(body).await.expect("written");
    }

    /// None when the connection ends.
    async fn answer(&mut self) -> Option<(u32, Verdict, Bytes)> {
        let length = self.0.read_u32().await.ok()? as usize;
        let mut frame = BytesMut::zeroed(length);
        self.0.read_exact(&mut frame).await.ok()?;
        let (number, tag, body) = open(frame).expect("a frame");
        Some((number, Verdict::of(tag).expect("a verdict"), body))
    }
}

fn addressed(bytes: usize) -> Vec<u8> {
    let mut body = b"to you".to_vec();
    body.resize(bytes, 0);
    body
}

#[tokio::test]
async fn nobody_there_is_unreachable() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let sent = Sent::default();
    let call = Wires::default().call(&free.to_string(), PeerRoute::Info, Bytes::new(), PATIENCE, &sent).await;
    assert!(matches!(call, Err(TransportError::Unreachable { .. })), "{call:?}");
}

#[tokio::test]
async fn a_member_that_is_starting_has_certainly_done_nothing() {
    let (address, stop, server) = served(PeerEdge::default()).await;
    let wires = Wires::default();
    for bytes in [0, 10, PEER_BODY_BYTES_MAX] {
        let body = Bytes::from(addressed(bytes));
        let call = wires.call(&address, PeerRoute::Propose, body, PATIENCE, &Sent::default()).await;
        let Err(TransportError::Unreachable { source, .. }) = call else { panic!("{bytes} bytes: {call:?}") };
        assert_eq!(source.to_string(), "this node is starting");
    }
    let body = stream::iter([Ok(Bytes::from_static(b"snap")), Ok(Bytes::from_static(b"shot"))]);
    let call = wires.call_streaming(&address, PeerRoute::Snapshot, Box::pin(body), PATIENCE).await;
    assert!(matches!(call, Err(TransportError::Unreachable { .. })), "{call:?}");
    stop.cancel();
    server.await.unwrap();
}

#[tokio::test]
async fn a_client_at_the_wrong_port_is_told_so() {
    let (address, _stop, _server) = served(PeerEdge::default()).await;
    let mut stream = TcpStream::connect(&address).await.unwrap();
    stream.write_all(b"GET /api/services HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("peer port"), "{answer}");
}

#[tokio::test]
async fn p11_noise_ends_its_own_connection_and_nothing_else() {
    let (address, _edge, _stop, _server) = member(&Echo::new(1), 64).await;
    let too_large = u32::try_from(5 + PEER_BODY_BYTES_MAX + 1).unwrap().to_be_bytes();
    for noise in [&[0_u8; 64][..], &[0xff; 64], &[0, 0, 0, 2, 1, 1, 0, 0, 0], &[&too_large[..], &[0; 5]].concat()] {
        let mut caller = Caller::new(&address).await;
        caller.0.write_all(noise).await.unwrap();
        assert!(caller.answer().await.is_none(), "{noise:?}");
    }
    assert_eq!(call(&Wires::default(), &address, "to you").await.unwrap(), "6");
}

#[tokio::test]
async fn p11_strangers_take_no_room_and_members_get_through() {
    let echo = Echo::new(10);
    // There is no room at all.
    let (address, edge, _stop, _server) = member(&echo, 0).await;
    let mut stranger = Caller::new(&address).await;
    stranger.ask(1, INFO, &vec![7; PEER_BODY_BYTES_MAX]).await;
    let (number, verdict, reason) = stranger.answer().await.unwrap();
    assert_eq!((number, verdict), (1, Verdict::Refused), "{reason:?}");
    stranger.ask(2, PeerRoute::Snapshot as u8, b"small").await;
    assert_eq!(stranger.answer().await.unwrap().1, Verdict::Refused);
    assert_eq!(echo.begun.load(SeqCst), 0);
    let mut caller = Caller::new(&address).await;
    caller.ask(3, INFO, &addressed(PEER_SMALL_BYTES_MAX)).await;
    assert_eq!(caller.answer().await.unwrap(), (3, Verdict::Answered, Bytes::from("4096")));
    edge.room().add_permits(5);
    caller.ask(4, INFO, &addressed(PEER_SMALL_BYTES_MAX + 1)).await;
    assert_eq!(caller.answer().await.unwrap(), (4, Verdict::Answered, Bytes::from("4097")));
}

#[tokio::test]
async fn p11_what_comes_in_is_bounded_over_all_connections() {
    let echo = Echo::new(0);
    let (address, edge, _stop, _server) = member(&echo, 1_024).await;
    let (mut first, mut second) = (Caller::new(&address).await, Caller::new(&address).await);
    first.ask(1, INFO, &addressed(600 << 10)).await;
    echo.has_begun(1).await;
    assert_eq!(edge.room().available_permits(), 424);
    // The other waits for its room, which comes when the first is answered.
    second.ask(2, INFO, &addressed(600 << 10)).await;
    until("the rest to be taken", || edge.room().available_permits() < 424).await;
    assert_eq!(echo.begun.load(SeqCst), 1);
    echo.permits.add_permits(2);
    assert_eq!(first.answer().await.unwrap().0, 1);
    assert_eq!(second.answer().await.unwrap().0, 2);
    until("the room to be given back", || edge.room().available_permits() == 1_024).await;
}

#[tokio::test]
async fn p11_room_is_taken_by_what_came_and_given_back_when_nothing_more_comes() {
    let echo = Echo::new(10);
    let (address, edge, _stop, _server) = member(&echo, 10_000).await;
    let mut caller = Caller::new(&address).await;
    caller.announce(1, PeerRoute::Append as u8, PEER_BODY_BYTES_MAX).await;
    caller.0.write_all(&addressed(100 << 10)).await.unwrap();
    until("room to be taken", || edge.room().available_permits() < 10_000 - 100).await;
    assert!(edge.room().available_permits() > 10_000 - 2 * 100, "{}", edge.room().available_permits());
    let begun = Instant::now();
    assert!(caller.answer().await.is_none());
    assert!(begun.elapsed() < 2 * STALL_TIMEOUT);
    until("the room to be given back", || edge.room().available_permits() == 10_000).await;
    assert_eq!(echo.begun.load(SeqCst), 0);
}

#[tokio::test]
async fn p11_a_stranger_makes_room_soon_and_a_member_stays() {
    let echo = Echo::new(10);
    let (address, _edge, _stop, _server) = member(&echo, 64).await;
    let append = PeerRoute::Append as u8;
    let (mut silent, mut junk) = (Caller::new(&address).await, Caller::new(&address).await);
    let mut caller = Caller::new(&address).await;
    caller.ask(1, append, &addressed(10)).await;
    assert_eq!(caller.answer().await.unwrap().0, 1);
    let begun = Instant::now();
    let junk_ended = async {
        let mut pace = tokio::time::interval(Duration::from_millis(100));
        junk.ask(1, append, b"junk").await;
        while junk.answer().await.is_some() && junk.0.write_all(&[0, 0, 0, 6, 0, 0, 0, 1, append, 0]).await.is_ok() {
            pace.tick().await;
        }
    };
    let (silent_ended, ()) = tokio::join!(silent.answer(), junk_ended);
    assert!(silent_ended.is_none());
    assert!((STRANGER_TIMEOUT..2 * STRANGER_TIMEOUT).contains(&begun.elapsed()), "{:?}", begun.elapsed());
    assert_eq!(echo.contacts_lost.load(SeqCst), 0, "a stranger's leaving is nobody's loss");
    caller.ask(2, INFO, b"to you").await;
    assert_eq!(caller.answer().await.unwrap().0, 2);
    drop(caller);
    until("the loss of a member to be noticed", || echo.contacts_lost.load(SeqCst) == 1).await;
}

#[tokio::test]
async fn p11_a_connection_has_so_many_requests_in_work_and_no_more() {
    let echo = Echo::new(0);
    let (address, _edge, _stop, _server) = member(&echo, 64).await;
    let (mut caller, mut other) = (Caller::new(&address).await, Caller::new(&address).await);
    for number in 0..PEER_REQUESTS_MAX + 2 {
        caller.ask(u32::try_from(number).unwrap(), INFO, b"to you").await;
    }
    echo.has_begun(PEER_REQUESTS_MAX).await;
    // Another connection's are taken on beside them, and these are not.
    other.ask(0, INFO, b"to you").await;
    echo.has_begun(PEER_REQUESTS_MAX + 1).await;
    assert_eq!(echo.begun.load(SeqCst), PEER_REQUESTS_MAX + 1);
    // Each answer makes room for one more.
    echo.permits.add_permits(1);
    assert!(caller.answer().await.is_some());
    echo.has_begun(PEER_REQUESTS_MAX + 2).await;
    assert_eq!(echo.begun.load(SeqCst), PEER_REQUESTS_MAX + 2);
    echo.permits.add_permits(PEER_REQUESTS_MAX + 2);
    for _ in 0..PEER_REQUESTS_MAX + 1 {
        assert!(caller.answer().await.is_some());
    }
}

#[tokio::test]
async fn at_the_stop_what_is_in_work_is_answered_and_nothing_more_is_begun() {
    let echo = Echo::new(0);
    let (address, _edge, stop, server) = member(&echo, 64).await;
    let mut caller = Caller::new(&address).await;
    caller.ask(1, PeerRoute::Append as u8, b"to you").await;
    echo.has_begun(1).await;
    stop.cancel();
    until("the port to close", || std::net::TcpStream::connect(&address).is_err()).await;
    caller.ask(2, INFO, b"to you").await;
    echo.permits.add_permits(2);
    assert_eq!(caller.answer().await.unwrap().0, 1);
    assert!(caller.answer().await.is_none());
    server.await.unwrap();
    assert_eq!(echo.begun.load(SeqCst), 1);
    assert_eq!(echo.contacts_lost.load(SeqCst), 0, "this node left, not the leader");
}

#[tokio::test]
async fn a_snapshot_comes_in_chunks_of_any_size() {
    let (address, edge, _stop, _server) = member(&Echo::new(0), 16_384).await;
    let chunks = [addressed(100), vec![1; 2 << 20], Vec::new(), vec![2; 1 << 20]];
    let body = stream::iter(chunks.map(|chunk| Ok(Bytes::from(chunk))));
    let call = Wires::default().call_streaming(&address, PeerRoute::Snapshot, Box::pin(body), PATIENCE).await;
    assert_eq!(call.unwrap(), (100 + (3 << 20)).to_string());
    until("the room to be given back", || edge.room().available_permits() == 16_384).await;
}

/// A peer that answers each frame with what `answers` makes of it: the connection's and the frame's number, and the
/// body. One connection at a time.
async fn stub(mut answers: impl FnMut(usize, u32, Bytes) -> Vec<(u32, Bytes)> + Send + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("an address").to_string();
    tokio::spawn(async move {
        for connection in 0.. {
            let Ok((mut stream, _)) = listener.accept().await else { return };
            let mut said = [0; PREAMBLE.len()];
            stream.read_exact(&mut said).await.expect("a preamble");
            let (reader, mut writer) = stream.into_split();
            let mut frames = FramedRead::new(reader, codec());
            while let Some(Ok(next)) = frames.next().await {
                let (number, _, body) = open(next).expect("a frame");
                if body.as_ref() == b"hang up" {
                    break;
                }
                for (number, body) in answers(connection, number, body) {
                    let mut answer = frame(number, Verdict::Answered.code(), body);
                    writer.write_all_buf(&mut answer).await.expect("written");
                }
            }
        }
    });
    address
}

async fn call(wires: &Wires, address: &str, body: &'static str) -> Result<Bytes, TransportError> {
    wires.call(address, PeerRoute::Info, Bytes::from(body), PATIENCE, &Sent::default()).await
}

#[tokio::test]
async fn a_broken_connection_is_replaced_and_a_lost_answer_is_not_taken_for_unsent() {
    let address = stub(|_, number, body| vec![(number, body)]).await;
    let wires = Wires::default();
    assert_eq!(call(&wires, &address, "one").await.unwrap(), "one");
    let lost = call(&wires, &address, "hang up").await;
    assert!(matches!(lost, Err(TransportError::Lost { .. })), "{lost:?}");
    assert_eq!(call(&wires, &address, "two").await.unwrap(), "two");
}

#[tokio::test]
async fn answers_find_their_calls_in_any_order() {
    let mut held = Vec::new();
    let address = stub(move |_, number, body| {
        held.push((number, body));
        if held.len() < 3 { Vec::new() } else { held.drain(..).rev().collect() }
    })
    .await;
    let wires = Wires::default();
    let calls = tokio::join!(call(&wires, &address, "a"), call(&wires, &address, "b"), call(&wires, &address, "c"));
    assert_eq!((calls.0.unwrap(), calls.1.unwrap(), calls.2.unwrap()), ("a".into(), "b".into(), "c".into()));
}

#[tokio::test]
async fn a_connection_on_which_nothing_comes_is_given_up() {
    let address =
        stub(|connection, number, body| if connection == 0 { Vec::new() } else { vec![(number, body)] }).await;
    let (wires, sent) = (Wires::default(), Sent::default());
    let silent = wires.call(&address, PeerRoute::Info, Bytes::from("a"), Duration::from_millis(100), &sent).await;
    assert!(matches!(silent, Err(TransportError::Lost { .. })), "{silent:?}");
    // The stub takes the next connection only when the silent one was closed.
    assert_eq!(call(&wires, &address, "b").await.unwrap(), "b");
}

#[tokio::test]
async fn a_call_that_is_given_up_leaves_the_connection_whole() {
    let address = stub(|connection, number, body| {
        if body.as_ref() == b"silence" { Vec::new() } else { vec![(number, Bytes::from(format!("{connection}")))] }
    })
    .await;
    let wires = Wires::default();
    assert_eq!(call(&wires, &address, "a").await.unwrap(), "0");
    tokio::select! {
        biased;
        answer = call(&wires, &address, "silence") => panic!("{answer:?}"),
        () = tokio::task::yield_now() => {}
    }
    assert_eq!(call(&wires, &address, "b").await.unwrap(), "0");
}

/// A peer whose kernel takes in little by itself: what it reads, and when, is up to the test.
struct Narrow {
    listener: TcpListener,
    address: String,
}

/// More than both kernels keep for a connection to a [`Narrow`] peer.
const LARGE: usize = 4 << 20;

impl Narrow {
    fn new() -> Self {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.set_recv_buffer_size(32 << 10).expect("a small buffer");
        socket.bind("127.0.0.1:0".parse().expect("an address")).expect("a free port");
        let listener = socket.listen(8).expect("a listener");
        let address = listener.local_addr().expect("an address").to_string();
        Self { listener, address }
    }

    async fn accept(&self) -> TcpStream {
        let (mut stream, _) = self.listener.accept().await.expect("a caller");
        stream.read_exact(&mut [0; PREAMBLE.len()]).await.expect("a preamble");
        stream
    }
}

/// Reads one frame and answers it with the length of its body.
async fn answer_one(stream: &mut TcpStream, pause: Duration) -> usize {
    let length = stream.read_u32().await.expect("a length") as usize;
    let mut frame = vec![0; length];
    let mut pace = tokio::time::interval(pause);
    for piece in frame.chunks_mut(64 << 10) {
        stream.read_exact(piece).await.expect("a piece");
        pace.tick().await;
    }
    let (number, _, body) = open(frame.as_slice().into()).expect("a frame");
    let mut answer = super::frame(number, Verdict::Answered.code(), Bytes::from(body.len().to_string()));
    stream.write_all_buf(&mut answer).await.expect("written");
    body.len()
}

fn large_call<'a>(
    wires: &'a Wires,
    peer: &'a Narrow,
    timeout: Duration,
    sent: &'a Sent,
) -> Pin<Box<impl Future<Output = Result<Bytes, TransportError>> + use<'a>>> {
    Box::pin(wires.call(&peer.address, PeerRoute::Info, Bytes::from(vec![0; LARGE]), timeout, sent))
}

#[tokio::test]
async fn what_moves_is_not_cut_however_slow_it_is() {
    let (wires, sent, peer) = (Wires::default(), Sent::default(), Narrow::new());
    let timeout = Duration::from_millis(250);
    let begun = Instant::now();
    let (called, _) = tokio::join!(large_call(&wires, &peer, timeout, &sent), async {
        answer_one(&mut peer.accept().await, Duration::from_millis(10)).await
    });
    assert_eq!(called.unwrap(), LARGE.to_string());
    assert!(begun.elapsed() > 2 * timeout, "too fast to tell: {:?}", begun.elapsed());
}

#[tokio::test]
async fn a_call_given_up_while_it_is_written_is_written_to_its_end() {
    let (wires, sent, peer) = (Wires::default(), Sent::default(), Narrow::new());
    let mut given_up = large_call(&wires, &peer, PATIENCE, &sent);
    let mut stream = tokio::select! {
        answer = given_up.as_mut() => panic!("{answer:?}"),
        stream = peer.accept() => stream,
    };
    tokio::select! {
        answer = given_up.as_mut() => panic!("{answer:?}"),
        // Some of it has come, and there is no room for the rest.
        ready = stream.readable() => ready.unwrap(),
    }
    drop(given_up);
    // The next call follows on the same connection.
    let (next, bodies) = tokio::join!(call(&wires, &peer.address, "next"), async {
        [
            answer_one(&mut stream, Duration::from_micros(1)).await,
            answer_one(&mut stream, Duration::from_micros(1)).await,
        ]
    });
    assert_eq!((next.unwrap(), bodies), (Bytes::from("4"), [LARGE, 4]));
}

#[tokio::test]
async fn what_is_left_half_written_takes_the_connection_with_it() {
    let (wires, sent, peer) = (Wires::default(), Sent::default(), Narrow::new());
    let mut stalled = large_call(&wires, &peer, Duration::from_millis(300), &sent);
    let mut stream = tokio::select! {
        answer = stalled.as_mut() => panic!("{answer:?}"),
        stream = peer.accept() => stream,
    };
    // Meanwhile another waits for its turn in vain: of that one nothing was sent.
    let waiting = Sent::default();
    let body = Bytes::from("waits");
    let (stalled, waited) =
        tokio::join!(stalled, wires.call(&peer.address, PeerRoute::Info, body, Duration::from_millis(50), &waiting));
    assert!(matches!(waited, Err(TransportError::Unreachable { .. })), "{waited:?}");
    assert!(matches!(stalled, Err(TransportError::Lost { .. })), "{stalled:?}");
    let (next, _) = tokio::join!(call(&wires, &peer.address, "next"), async {
        answer_one(&mut peer.accept().await, Duration::from_micros(1)).await
    });
    assert_eq!(next.unwrap(), "4");
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).await.unwrap();
    assert!(rest.len() < LARGE, "the frame came whole");
}

#[tokio::test]
async fn who_waits_for_its_turn_cuts_nobody_off() {
    let (wires, sent, peer) = (Wires::default(), Sent::default(), Narrow::new());
    let mut moving = large_call(&wires, &peer, PATIENCE, &sent);
    let mut stream = tokio::select! {
        answer = moving.as_mut() => panic!("{answer:?}"),
        stream = peer.accept() => stream,
    };
    let waiting = Sent::default();
    let body = Bytes::from("waits");
    let waited = wires.call(&peer.address, PeerRoute::Info, body, Duration::from_millis(50), &waiting).await;
    assert!(matches!(waited, Err(TransportError::Unreachable { .. })), "{waited:?}");
    let (moved, _) = tokio::join!(moving, answer_one(&mut stream, Duration::from_micros(1)));
    assert_eq!(moved.unwrap(), LARGE.to_string());
}
