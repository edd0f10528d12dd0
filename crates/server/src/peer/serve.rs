//! The answering side.

use std::io;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::{self, FuturesUnordered};
use rollcall_replica::{PeerRefusal, PeerRoute, Replica};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::OwnedReadHalf;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::codec::{FramedRead, LengthDelimitedCodec};
use tokio_util::sync::CancellationToken;

use super::{PREAMBLE, Verdict, codec, frame, open, prepare};
use crate::limits::{DISCARDED_BYTES_MAX, PEER_CONNECTIONS_MAX, PEER_REQUESTS_MAX};
use crate::listener;

/// A caller says the preamble at once.
const PREAMBLE_TIMEOUT: Duration = Duration::from_secs(5);

/// A connection on which no whole frame came for so long, and nothing is in work, makes room for another.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// For somebody with a browser, or with a client that was given the wrong one of the two ports.
const WRONG_PORT: &[u8] = b"HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain\r\nconnection: close\r\n\r\n\
    This is the peer port of a Rollcall node: it serves nodes only. Clients connect to the other port (`listen`).\n";

/// What answers peers. Until the replica runs every peer is told to come back.
#[derive(Clone, Default)]
pub(crate) struct PeerEdge {
    replica: Arc<OnceLock<Replica>>,
}

type Frames = FramedRead<OwnedReadHalf, LengthDelimitedCodec>;

impl PeerEdge {
    /// Called once, when the replica runs.
    pub(crate) fn open(&self, replica: Replica) {
        assert!(self.replica.set(replica).is_ok(), "the peer edge was opened twice");
    }

    fn replica(&self) -> Result<&Replica, PeerRefusal> {
        self.replica.get().ok_or_else(|| PeerRefusal::Unavailable("this node is starting".to_owned()))
    }

    async fn answer(&self, tag: u8, body: Bytes) -> (Verdict, Bytes) {
        let answered = match (self.replica(), PeerRoute::of(tag)) {
            (Err(refusal), _) => Err(refusal),
            (Ok(_), None) => Err(PeerRefusal::Malformed(format!("there is no peer route {tag}"))),
            (Ok(replica), Some(route)) => replica.handle_peer(route, body).await,
        };
        rendered(answered)
    }

    /// Takes in a snapshot: the frames of this connection until an empty one.
    async fn snapshot(&self, first: Bytes, frames: &mut Frames) -> (Verdict, Bytes) {
        let replica = match self.replica() {
            Ok(replica) => replica,
            Err(refusal) => return rendered(Err(refusal)),
        };
        let (chunks, body) = tokio::sync::mpsc::channel(1);
        let receive = async {
            let mut next = Some(Ok(first));
            while let Some(chunk) = next {
                let ended = matches!(&chunk, Ok(chunk) if chunk.is_empty());
                if ended || chunks.send(chunk).await.is_err() {
                    break;
                }
                next = match frames.next().await {
                    Some(Ok(frame)) => {
                        Some(open(frame).map(|(_, _, body)| body).ok_or(io::ErrorKind::InvalidData.into()))
                    }
                    Some(Err(error)) => Some(Err(error)),
                    None => Some(Err(io::ErrorKind::UnexpectedEof.into())),
                };
            }
            drop(chunks);
            // The end of the stream is not the end of the work.
            std::future::pending::<()>().await;
        };
        let body = stream::unfold(body, async |mut body| body.recv().await.map(|chunk| (chunk, body)));
        tokio::select! {
            answered = replica.handle_snapshot(Box::pin(body)) => rendered(answered),
            () = receive => unreachable!("it waits for ever"),
        }
    }
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

/// Serves peers until `stop`.
pub(crate) async fn serve(listener: TcpListener, stop: CancellationToken, edge: PeerEdge) {
    let connection = {
        let stop = stop.clone();
        move |stream: TcpStream, crowded: bool, abort: CancellationToken| {
            let (edge, stop) = (edge.clone(), stop.clone());
            async move {
                if crowded {
                    return;
                }
                let served = tokio::select! {
                    served = connection(stream, edge, stop) => served,
                    () = abort.cancelled() => Ok(()),
                };
                if let Err(error) = served {
                    tracing::debug!(%error, "a peer connection ended");
                }
            }
        }
    };
    listener::serve(listener, PEER_CONNECTIONS_MAX, stop, connection).await;
}

/// Tells the replica when a connection ends on which appends came.
struct Contact<'a> {
    edge: &'a PeerEdge,
    stop: &'a CancellationToken,
    appends: bool,
}

impl Drop for Contact<'_> {
    fn drop(&mut self) {
        if self.appends
            && !self.stop.is_cancelled()
            && let Some(replica) = self.edge.replica.get()
        {
            replica.contact_lost();
        }
    }
}

async fn connection(mut stream: TcpStream, edge: PeerEdge, stop: CancellationToken) -> io::Result<()> {
    prepare(&stream);
    let mut said = [0; PREAMBLE.len()];
    let listened = tokio::time::timeout(PREAMBLE_TIMEOUT, stream.read_exact(&mut said)).await;
    let Ok(Ok(_)) = listened else { return Ok(()) };
    if said != *PREAMBLE {
        tracing::warn!(from = ?stream.peer_addr().ok(), "something that is no node of this version calls the peer port");
        return tokio::time::timeout(PREAMBLE_TIMEOUT, turn_away(stream)).await?;
    }
    let (reader, mut writer) = stream.into_split();
    let mut frames: Frames = FramedRead::new(reader, codec());
    let mut working = FuturesUnordered::new();
    let mut open_for_more = true;
    let mut contact = Contact { edge: &edge, stop: &stop, appends: false };
    // Handlers run within this task: an answer costs no more than one wake-up.
    loop {
        tokio::select! {
            biased;
            Some((number, verdict, body)) = working.next() => {
                let verdict: Verdict = verdict;
                writer.write_all_buf(&mut frame(number, verdict.code(), body)).await?;
            }
            frame_in = tokio::time::timeout(IDLE_TIMEOUT, frames.next()),
                if open_for_more && working.len() < PEER_REQUESTS_MAX =>
            {
                let frame_in = match frame_in {
                    Ok(Some(frame_in)) => frame_in,
                    Ok(None) => return Ok(()),
                    Err(_) if !working.is_empty() => continue,
                    Err(_) => {
                        // Whoever still wants something connects anew.
                        contact.appends = false;
                        return Ok(());
                    }
                };
                let (number, tag, body) = open(frame_in?).ok_or(io::ErrorKind::InvalidData)?;
                contact.appends |= PeerRoute::of(tag) == Some(PeerRoute::Append);
                if PeerRoute::of(tag) == Some(PeerRoute::Snapshot) {
                    let (verdict, body) = edge.snapshot(body, &mut frames).await;
                    return writer.write_all_buf(&mut frame(number, verdict.code(), body)).await;
                }
                let edge = &edge;
                working.push(async move {
                    let (verdict, body) = edge.answer(tag, body).await;
                    (number, verdict, body)
                });
            }
            () = stop.cancelled(), if open_for_more => open_for_more = false,
            else => return Ok(()),
        }
    }
}

/// Says what port this is. What the caller still sends is read, or the kernel would take the answer back.
async fn turn_away(mut stream: TcpStream) -> io::Result<()> {
    stream.write_all(WRONG_PORT).await?;
    stream.shutdown().await?;
    tokio::io::copy(&mut stream.take(DISCARDED_BYTES_MAX as u64), &mut tokio::io::sink()).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use rollcall_replica::{Transport, TransportError};
    use tokio::task::JoinHandle;

    use super::super::{Wires, codec, frame, open};
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(10);

    async fn served() -> (String, CancellationToken, JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address").to_string();
        let stop = CancellationToken::new();
        let server = tokio::spawn(serve(listener, stop.clone(), PeerEdge::default()));
        (address, stop, server)
    }

    #[tokio::test]
    async fn nobody_there_is_unreachable() {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let call = Wires::default().call(&free.to_string(), PeerRoute::Info, Bytes::new(), PATIENCE).await;
        assert!(matches!(call, Err(TransportError::Unreachable { .. })), "{call:?}");
    }

    #[tokio::test]
    async fn before_the_replica_runs_peers_are_told_to_come_back() {
        let (address, stop, server) = served().await;
        let wires = Wires::default();
        for route in [PeerRoute::Vote, PeerRoute::Append] {
            let call = wires.call(&address, route, Bytes::new(), PATIENCE).await;
            let Err(TransportError::Lost { source, .. }) = call else { panic!("{call:?}") };
            assert_eq!(source.to_string(), "this node is starting");
        }
        let body = stream::iter([Ok(Bytes::from_static(b"snap")), Ok(Bytes::from_static(b"shot"))]);
        let call = wires.call_streaming(&address, PeerRoute::Snapshot, Box::pin(body), PATIENCE).await;
        assert!(matches!(call, Err(TransportError::Lost { .. })), "{call:?}");
        stop.cancel();
        server.await.unwrap();
    }

    #[tokio::test]
    async fn a_client_at_the_wrong_port_is_told_so() {
        let (address, _stop, _server) = served().await;
        let mut stream = TcpStream::connect(&address).await.unwrap();
        stream.write_all(b"GET /api/services HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("peer port"), "{answer}");
    }

    #[tokio::test]
    async fn p11_noise_ends_its_own_connection_and_nothing_else() {
        let (address, _stop, _server) = served().await;
        for noise in [&[0_u8; 64][..], &[0xff; 64], &[0, 0, 0, 2, 1, 1]] {
            let mut stream = TcpStream::connect(&address).await.unwrap();
            stream.write_all(PREAMBLE).await.unwrap();
            stream.write_all(noise).await.unwrap();
            let mut rest = Vec::new();
            // Closed or reset; in any case it ends.
            let _ = stream.read_to_end(&mut rest).await;
        }
        let call = Wires::default().call(&address, PeerRoute::Info, Bytes::new(), PATIENCE).await;
        assert!(matches!(call, Err(TransportError::Lost { .. })), "{call:?}");
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
        wires.call(address, PeerRoute::Info, Bytes::from(body), PATIENCE).await
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
        let calls =
            tokio::join!(call(&wires, &address, "a"), call(&wires, &address, "b"), call(&wires, &address, "c"));
        assert_eq!((calls.0.unwrap(), calls.1.unwrap(), calls.2.unwrap()), ("a".into(), "b".into(), "c".into()));
    }

    #[tokio::test]
    async fn a_connection_on_which_nothing_comes_is_given_up() {
        let address =
            stub(|connection, number, body| if connection == 0 { Vec::new() } else { vec![(number, body)] }).await;
        let wires = Wires::default();
        let silent = wires.call(&address, PeerRoute::Info, Bytes::from("a"), Duration::from_millis(100)).await;
        assert!(matches!(silent, Err(TransportError::Lost { .. })), "{silent:?}");
        // The stub takes the next connection only when the silent one was closed.
        assert_eq!(call(&wires, &address, "b").await.unwrap(), "b");
    }

    #[tokio::test]
    async fn a_call_that_is_given_up_leaves_the_connection_whole() {
        let address = stub(|connection, number, body| {
            if body.as_ref() == b"silence" {
                Vec::new()
            } else {
                vec![(number, Bytes::from(format!("{connection}")))]
            }
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
}
