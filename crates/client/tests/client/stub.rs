//! A node reduced to its wire: it takes one HTTP/1.1 request for each connection and reacts as told.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
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
            let mut hung = Vec::new();
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

/// The answer to a registration.
pub(crate) fn registered(id: &str, lease: u64, ttl_ms: u32) -> Value {
    json!({
        "success": true,
        "registration_id": id,
        "service": {
            "id": id, "tenant": "default", "name": "web", "type": "service", "tags": [], "url": "http://a",
            "protocol": "http", "endpoints": [], "visibility": "private", "capabilities": [], "consumed_events": [],
            "produced_events": [], "metadata": {}, "weight": 1, "ttl_ms": ttl_ms, "reap_after_ms": 0,
            "status": "active", "lease": {"id": lease, "ttl_ms": ttl_ms, "expires_in_ms": ttl_ms}, "revision": lease,
            "created_revision": lease, "registered_at": "2026-01-01T00:00:00Z", "heartbeat": "2026-01-01T00:00:00Z",
        },
        "lease": {"id": lease, "ttl_ms": ttl_ms, "heartbeat_interval_ms": ttl_ms / 3},
        "revision": lease,
    })
}
