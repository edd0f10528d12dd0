//! The program under test, and a node that is no more than its answers.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Output};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

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

/// Waits for a condition that no message tells of.
pub(crate) fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Answers each request as told, one for each connection, until the test ends.
pub(crate) struct Stub {
    pub(crate) endpoint: String,
    /// Requests as they came, as `GET /api/services`.
    pub(crate) requests: Receiver<String>,
}

impl Stub {
    pub(crate) fn start(react: impl Fn(&str) -> (u16, Value) + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let endpoint = format!("http://{}", listener.local_addr().expect("an address"));
        let (tell, requests) = channel();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Some((line, mut stream)) = stream.ok().and_then(read_request) else { continue };
                let (status, body) = react(&line);
                if tell.send(line).is_err() {
                    return;
                }
                let body = body.to_string();
                let head = format!(
                    "HTTP/1.1 {status} Status\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
                    body.len()
                );
                // A client that has gone does not want the answer.
                let _ = stream.write_all((head + &body).as_bytes());
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
    let (mut first, mut length) = (String::new(), 0);
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
    }
    reader.read_exact(&mut vec![0; length]).ok()?;
    Some((first.trim().trim_end_matches(" HTTP/1.1").to_owned(), reader.into_inner()))
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
