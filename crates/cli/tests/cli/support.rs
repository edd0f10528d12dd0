//! The program under test, and a node that is no more than its answers.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Output};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use rustix::process::Pid;
use serde_json::{Value, json};

/// Far beyond what any of these tests takes.
const DEADLINE: Duration = Duration::from_secs(30);

/// The program, with nothing set in its environment that is meant for another.
pub(crate) fn rollcall(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rollcall"));
    command.args(arguments);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("ROLLCALL_") {
            command.env_remove(name);
        }
    }
    command
}

pub(crate) fn run(command: &mut Command) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = command.output().expect("the program starts");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    (status.code(), text(stdout), text(stderr))
}

/// Ends a program with the test, whatever becomes of it.
pub(crate) struct Running(pub(crate) Child);

impl Running {
    pub(crate) fn pid(&self) -> Pid {
        Pid::from_child(&self.0)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Waits for a condition that no message tells of.
pub(crate) fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

pub(crate) enum Reply {
    Json(u16, Value),
    /// A stream of events, and whether it ends after them.
    Events {
        events: String,
        ends: bool,
    },
    /// Bytes, and how many were announced if it was said.
    Bytes {
        bytes: Vec<u8>,
        length: Option<usize>,
    },
}

impl From<(u16, Value)> for Reply {
    fn from((status, body): (u16, Value)) -> Self {
        Self::Json(status, body)
    }
}

/// Answers each request as told, one for each connection, until the test ends.
pub(crate) struct Stub {
    pub(crate) endpoint: String,
    /// Requests as they came, as `GET /api/services`, with the id after which a stream is to go on, as ` after 0-7`.
    pub(crate) requests: Receiver<String>,
}

impl Stub {
    pub(crate) fn start<R: Into<Reply>>(react: impl Fn(&str) -> R + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let endpoint = format!("http://{}", listener.local_addr().expect("an address"));
        let (tell, requests) = channel();
        std::thread::spawn(move || {
            let mut held = Vec::new();
            for stream in listener.incoming() {
                let Some((line, mut stream)) = stream.ok().and_then(read_request) else { continue };
                let reply = react(&line).into();
                if tell.send(line).is_err() {
                    return;
                }
                let (status, header, body, ends) = match reply {
                    Reply::Json(status, body) => {
                        let body = body.to_string().into_bytes();
                        (status, format!("content-length: {}", body.len()), body, true)
                    }
                    Reply::Events { events, ends } => {
                        (200, "content-type: text/event-stream".to_owned(), events.into_bytes(), ends)
                    }
                    Reply::Bytes { bytes, length } => {
                        let length =
                            length.map_or_else(String::new, |length| format!("content-length: {length}\r\n"));
                        (200, format!("{length}content-type: application/octet-stream"), bytes, true)
                    }
                };
                let head = format!("HTTP/1.1 {status} Status\r\n{header}\r\nconnection: close\r\n\r\n");
                // A client that has gone does not want the answer.
                let _ = stream.write_all(&[head.as_bytes(), &body].concat());
                if !ends {
                    held.push(stream);
                }
            }
        });
        Self { endpoint, requests }
    }

    /// Waits for the first request that begins like this.
    pub(crate) fn until(&self, beginning: &str) {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let line = self.requests.recv_timeout(left).unwrap_or_else(|_| panic!("no `{beginning}` arrived"));
            if line.starts_with(beginning) {
                return;
            }
        }
    }
}

fn read_request(stream: TcpStream) -> Option<(String, TcpStream)> {
    let mut reader = BufReader::new(stream);
    let (mut first, mut length, mut after) = (String::new(), 0, String::new());
    reader.read_line(&mut first).ok()?;
    loop {
        let mut header = String::new();
        reader.read_line(&mut header).ok()?;
        let header = header.trim().to_ascii_lowercase();
        if header.is_empty() {
            break;
        }
        if let Some(value) = header.strip_prefix("content-length: ") {
            length = value.parse().ok()?;
        }
        if let Some(id) = header.strip_prefix("last-event-id: ") {
            after = format!(" after {id}");
        }
    }
    reader.read_exact(&mut vec![0; length]).ok()?;
    Some((first.trim().trim_end_matches(" HTTP/1.1").to_owned() + &after, reader.into_inner()))
}

pub(crate) fn problem(status: u16, code: &str) -> Value {
    json!({
        "type": "about:blank", "title": "No", "status": status, "detail": "not now", "code": code, "request_id": "r",
    })
}

pub(crate) fn service(id: &str) -> Value {
    json!({
        "id": id, "tenant": "default", "name": "web", "type": "service", "tags": [], "url": "http://a",
        "protocol": "http", "endpoints": [], "visibility": "private", "capabilities": ["translate"],
        "consumed_events": [], "produced_events": [], "metadata": {"env": "prod"}, "weight": 1, "ttl_ms": 3_000,
        "reap_after_ms": 0, "status": "active", "lease": {"id": 3, "ttl_ms": 3_000, "expires_in_ms": 2_900},
        "revision": 3, "created_revision": 3, "registered_at": "2026-01-01T00:00:00Z",
        "heartbeat": "2026-01-01T00:00:00Z",
    })
}

pub(crate) fn roll(services: Vec<Value>) -> Value {
    let count = services.len();
    json!({
        "services": services, "total_count": count, "search_time_ms": 0.1, "federated_results": false,
        "local_count": count, "federated_count": 0, "revision": 3,
    })
}

/// A node that takes registrations and heartbeats of `web-1`.
pub(crate) fn node() -> Stub {
    Stub::start(|line| match line.split(' ').next() {
        _ if line.ends_with("/register") => {
            let registered = json!({
                "success": true, "registration_id": "web-1", "service": service("web-1"),
                "lease": {"id": 3, "ttl_ms": 3_000, "heartbeat_interval_ms": 1_000}, "revision": 3,
            });
            (201, registered)
        }
        _ if line.ends_with("/heartbeat") => {
            let renewed = json!({
                "service_id": "web-1", "heartbeat_updated": true, "next_heartbeat_due": "2026-01-01T00:00:00Z",
                "next_heartbeat_in_ms": 1_000, "lease": {"id": 3, "ttl_ms": 3_000},
            });
            (200, renewed)
        }
        Some("DELETE") => (200, json!({"service_id": "web-1", "deregistered": true, "revision": 4})),
        _ => (404, problem(404, "not_found")),
    })
}
