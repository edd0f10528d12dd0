//! A node reduced to its wire: it takes one HTTP/1.1 request for each connection and reacts as told.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::JoinSet;

/// Far beyond what any of these tests takes.
const DEADLINE: Duration = Duration::from_secs(20);

/// One request as it arrived.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    /// Method and target, as `GET /api/services?limit=1`.
    pub(crate) line: String,
    /// Names in lower case.
    pub(crate) headers: Vec<(String, String)>,
    /// Null when there is none.
    pub(crate) body: Value,
}

impl Seen {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }
}

pub(crate) enum Reaction {
    Answer(u16, Value),
    /// Reads the request and closes the connection.
    Cut,
    /// Reads the request and says nothing.
    Hang,
    /// Begins a stream of events.
    Events(Feed),
}

/// What one stream of events tells, as the test says it: before the stream begins, or while it is read.
#[derive(Clone)]
pub(crate) struct Feed {
    sender: UnboundedSender<Piece>,
    /// Taken by the connection that is told it.
    pieces: Arc<Mutex<Option<UnboundedReceiver<Piece>>>>,
}

/// None ends the stream.
type Piece = Option<Vec<u8>>;

impl Feed {
    pub(crate) fn of(events: &[String]) -> Self {
        let (sender, pieces) = unbounded_channel();
        let feed = Self { sender, pieces: Arc::new(Mutex::new(Some(pieces))) };
        events.iter().for_each(|event| feed.send(event));
        feed
    }

    /// A stream that ends after these events.
    pub(crate) fn ending(events: &[String]) -> Self {
        let feed = Self::of(events);
        feed.sender.send(None).expect("nobody took it yet");
        feed
    }

    /// Sends some bytes in a packet of their own, as far as that can be said.
    pub(crate) fn send(&self, piece: impl AsRef<[u8]>) {
        self.sender.send(Some(piece.as_ref().to_vec())).expect("the stream is read");
    }

    /// Waits until the reader closes the connection.
    pub(crate) async fn closed(&self) {
        tokio::time::timeout(DEADLINE, self.sender.closed()).await.expect("the reader goes away");
    }

    async fn write(self, mut stream: TcpStream) {
        let pieces = self.pieces.lock().expect("no test panics while it holds this").take();
        let mut pieces = pieces.expect("a feed is for one connection");
        let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n";
        stream.set_nodelay(true).expect("a socket");
        let mut next = Some(head.as_bytes().to_vec());
        while let Some(piece) = next {
            if stream.write_all(&piece).await.is_err() {
                return;
            }
            let mut byte = [0];
            next = tokio::select! {
                piece = pieces.recv() => piece.flatten(),
                _ = stream.read(&mut byte) => None,
            };
        }
    }
}

pub(crate) struct Stub {
    pub(crate) endpoint: String,
    seen: Arc<Mutex<Vec<Seen>>>,
    arrived: Arc<Notify>,
    /// Ends with the stub.
    _tasks: JoinSet<()>,
}

impl Stub {
    /// `react` is given each request and how many came before it.
    pub(crate) async fn start(react: impl Fn(&Seen, usize) -> Reaction + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let endpoint = format!("http://{}", listener.local_addr().expect("an address"));
        let (seen, arrived) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Notify::new()));
        let (all_seen, tell) = (Arc::clone(&seen), Arc::clone(&arrived));
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let (mut hung, mut streams) = (Vec::new(), JoinSet::new());
            loop {
                let Ok((mut stream, _)) = listener.accept().await else { return };
                let Some(request) = read_request(&mut stream).await else { continue };
                let before = all_seen.lock().expect("no test panics while it holds this").len();
                let reaction = react(&request, before);
                all_seen.lock().expect("no test panics while it holds this").push(request);
                tell.notify_waiters();
                match reaction {
                    Reaction::Answer(status, body) => answer(stream, status, &body).await,
                    Reaction::Cut => drop(stream),
                    Reaction::Hang => hung.push(stream),
                    Reaction::Events(feed) => drop(streams.spawn(feed.write(stream))),
                }
            }
        });
        Self { endpoint, seen, arrived, _tasks: tasks }
    }

    /// A node that gives every request the same answer.
    pub(crate) async fn answering(status: u16, body: Value) -> Self {
        Self::start(move |_, _| Reaction::Answer(status, body.clone())).await
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().expect("no test panics while it holds this").clone()
    }

    pub(crate) fn lines(&self) -> Vec<String> {
        self.seen().into_iter().map(|request| request.line).collect()
    }

    /// Waits until what arrived fulfils a condition.
    pub(crate) async fn until(&self, condition: impl Fn(&[Seen]) -> bool) -> Vec<Seen> {
        let wait = async {
            loop {
                let arrival = self.arrived.notified();
                tokio::pin!(arrival);
                arrival.as_mut().enable();
                let seen = self.seen();
                if condition(&seen) {
                    return seen;
                }
                arrival.await;
            }
        };
        tokio::time::timeout(DEADLINE, wait).await.unwrap_or_else(|_| panic!("only {:?} arrived", self.lines()))
    }
}

/// An endpoint where nobody listens.
pub(crate) async fn nobody() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    format!("http://{}", listener.local_addr().expect("an address"))
}

async fn read_request(stream: &mut TcpStream) -> Option<Seen> {
    let mut bytes = Vec::new();
    let head_end = loop {
        if let Some(at) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break at + 4;
        }
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    };
    let head = String::from_utf8(bytes[..head_end].to_vec()).ok()?;
    let mut lines = head.lines();
    let line = lines.next()?.trim_end_matches(" HTTP/1.1").to_owned();
    let headers: Vec<(String, String)> = lines
        .filter_map(|header| header.split_once(": "))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
        .collect();
    let length = headers.iter().find(|(name, _)| name == "content-length").map_or(0, |(_, n)| n.parse().unwrap_or(0));
    while bytes.len() < head_end + length {
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    }
    let body = serde_json::from_slice(&bytes[head_end..]).unwrap_or(Value::Null);
    Some(Seen { line, headers, body })
}

async fn answer(mut stream: TcpStream, status: u16, body: &Value) {
    let body = body.to_string();
    let head = format!("HTTP/1.1 {status} Status\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
    // A client that has gone does not want the answer.
    let _ = stream.write_all((head + &body).as_bytes()).await;
}

/// A problem as a node words it.
pub(crate) fn problem(status: u16, code: &str, outcome: Option<&str>) -> Value {
    let mut problem = json!({
        "type": "about:blank", "title": "No", "status": status, "detail": "not now", "code": code, "request_id": "r",
    });
    if let Some(outcome) = outcome {
        problem["outcome"] = outcome.into();
    }
    problem
}

pub(crate) fn service(id: &str, lease: u64, ttl_ms: u32) -> Value {
    json!({
        "id": id, "tenant": "default", "name": "web", "type": "service", "tags": [], "url": "http://a",
        "protocol": "http", "endpoints": [], "visibility": "private", "capabilities": [], "consumed_events": [],
        "produced_events": [], "metadata": {}, "weight": 1, "ttl_ms": ttl_ms, "reap_after_ms": 0,
        "status": "active", "lease": {"id": lease, "ttl_ms": ttl_ms, "expires_in_ms": ttl_ms}, "revision": lease,
        "created_revision": lease, "registered_at": "2026-01-01T00:00:00Z", "heartbeat": "2026-01-01T00:00:00Z",
    })
}

/// The answer to a registration.
pub(crate) fn registered(id: &str, lease: u64, ttl_ms: u32) -> Value {
    json!({
        "success": true,
        "registration_id": id,
        "service": service(id, lease, ttl_ms),
        "lease": {"id": lease, "ttl_ms": ttl_ms, "heartbeat_interval_ms": ttl_ms / 3},
        "revision": lease,
    })
}

/// `event: snapshot`, of an instance whose lease is 1.
pub(crate) fn snapshot(id: &str, revision: u64) -> String {
    let data = json!({"service": service(id, 1, 30_000), "revision": revision});
    format!("event: snapshot\ndata: {data}\n\n")
}

/// `event: change`, of an instance whose lease is 1.
pub(crate) fn change(update_type: &str, id: &str, point: &str) -> String {
    let data = json!({
        "type": "service_update", "update_type": update_type, "service": service(id, 1, 30_000),
        "revision": revision(point), "timestamp": "2026-01-01T00:00:00Z",
    });
    format!("event: change\nid: {point}\ndata: {data}\n\n")
}

/// `event: synced` or `event: bookmark`.
pub(crate) fn reached(event: &str, point: &str) -> String {
    format!("event: {event}\nid: {point}\ndata: {}\n\n", json!({"revision": revision(point)}))
}

fn revision(point: &str) -> u64 {
    let (_, revision) = point.split_once('-').expect("a resume point");
    revision.parse().expect("a number")
}
