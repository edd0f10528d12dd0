//! P11: no client stops a node, and others see nothing of it. What is sent here no HTTP library would send.

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use rollcall_tests::{Cluster, Node, skip, wait_until, workspace};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const DEADLINE: Duration = Duration::from_secs(60);

/// What a node may take of memory for ten thousand connections: some 20 KiB each, and what the allocator keeps.
const CONNECTIONS_BYTES_MAX: u64 = 500 << 20;

/// Longest answer to others meanwhile, on a machine that does all of this at once.
const OTHERS_MAX: Duration = Duration::from_secs(2);

async fn connect(node: &Node) -> TcpStream {
    TcpStream::connect(node.client_address()).await.expect("the node listens")
}

/// Sends all of it, or as much as is taken.
async fn say(stream: &mut TcpStream, bytes: &[u8]) {
    let _ = tokio::time::timeout(DEADLINE, stream.write_all(bytes)).await;
}

/// The status of an answer, none if the connection ended without.
async fn status(stream: &mut TcpStream) -> Option<u16> {
    let mut answer = Vec::new();
    let mut piece = [0; 4_096];
    while !answer.windows(4).any(|bytes| bytes == b"\r\n\r\n") {
        match tokio::time::timeout(DEADLINE, stream.read(&mut piece)).await.expect("an answer or an end in time") {
            Ok(0) | Err(_) => break,
            Ok(read) => answer.extend_from_slice(&piece[..read]),
        }
    }
    String::from_utf8_lossy(&answer).split(' ').nth(1)?.parse().ok()
}

fn resident_bytes(node: &Node) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", node.pid())).expect("the process is there");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("its memory is told");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") << 10
}

/// Others write and read while something goes on; answers the longest that one of them took.
async fn others(node: &Node, rounds: u32) -> Duration {
    let mut longest = Duration::ZERO;
    for n in 0..rounds {
        let asked = Instant::now();
        node.api.register(&format!("other-{n}"), 600_000).await;
        node.api.get(&format!("/api/services/other-{n}")).await.ok();
        longest = longest.max(asked.elapsed());
    }
    longest
}

async fn lives_on(cluster: &Cluster) {
    let node = &cluster.nodes[0];
    assert!(node.is_running());
    node.api.register("after", 600_000).await;
    assert_eq!(node.api.get("/livez").await.status, 200);
    assert!(node.api.is_ready().await);
}

#[tokio::test]
async fn p11_requests_that_no_library_would_send_are_refused_or_cut_off() {
    let cluster = Cluster::start(1).await;
    let node = &cluster.nodes[0];
    let revision = node.api.status().await.expect("a status")["revision"].clone();
    let post = |length: &str, body: &[u8]| {
        let mut bytes = format!(
            "POST /api/services/register HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n{length}\r\n\r\n"
        )
        .into_bytes();
        bytes.extend_from_slice(body);
        bytes
    };
    let whole = |body: &[u8]| post(&format!("content-length: {}", body.len()), body);
    let registration =
        |field: &str| format!("{{\"id\":\"x\",\"name\":\"web\",\"url\":\"http://a\",{field}}}").into_bytes();
    let nested = |open: &str, close: &str, depth: usize| format!("{}1{}", open.repeat(depth), close.repeat(depth));
    let bad_text =
        [b"{\"id\":\"x\",\"name\":\"".as_slice(), &[0xc3, 0x28, 0xff], b"\",\"url\":\"http://a\"}"].concat();
    let huge_header = format!("GET /api/services HTTP/1.1\r\nhost: a\r\nx-long: {}\r\n\r\n", "a".repeat(1 << 20));
    let many_headers = format!("GET /api/services HTTP/1.1\r\nhost: a\r\n{}\r\n", "x-many: a\r\n".repeat(5_000));
    let long_line = format!("GET /api/services?name={} HTTP/1.1\r\nhost: a\r\n\r\n", "a".repeat(1 << 20));
    let cases: Vec<(&str, Vec<u8>, &[u16])> = vec![
        (
            "deep arrays in metadata",
            whole(&registration(&format!("\"metadata\":{{\"k\":{}}}", nested("[", "]", 20_000)))),
            &[400],
        ),
        ("deep objects", whole(nested("{\"a\":", "}", 9_000).as_bytes()), &[400]),
        ("deep arrays, never closed", whole("[".repeat(60_000).as_bytes()), &[400]),
        ("bad UTF-8 in a body", whole(&bad_text), &[400]),
        ("a lone surrogate", whole(&registration("\"version\":\"\\ud800\"")), &[400]),
        ("a number beyond all bounds", whole(&registration("\"ttl_ms\":1e999")), &[400]),
        ("a member twice", whole(&registration("\"tags\":[],\"tags\":[]")), &[400]),
        ("bad UTF-8 in a path", b"GET /api/services/%ff%fe HTTP/1.1\r\nhost: a\r\n\r\n".to_vec(), &[400, 404]),
        ("bad UTF-8 in a query", b"GET /api/services?name=%ff HTTP/1.1\r\nhost: a\r\n\r\n".to_vec(), &[400]),
        ("raw bytes in a target", b"GET /api/\xff\xfe HTTP/1.1\r\nhost: a\r\n\r\n".to_vec(), &[400, 404]),
        (
            "raw bytes in a header",
            b"GET /api/services HTTP/1.1\r\nhost: a\r\nx-tenant-id: \xff\r\n\r\n".to_vec(),
            &[400],
        ),
        ("a zero byte in a header", b"GET /api/services HTTP/1.1\r\nhost: a\r\nx-a: \0\r\n\r\n".to_vec(), &[400]),
        ("a header of 1 MiB", huge_header.into_bytes(), &[431]),
        ("thousands of headers", many_headers.into_bytes(), &[431]),
        ("a request line of 1 MiB", long_line.into_bytes(), &[414, 431]),
        ("a length beyond all bounds", post("content-length: 99999999999999999999999", b""), &[400]),
        ("a negative length", post("content-length: -1", b""), &[400]),
        ("two lengths", post("content-length: 3\r\ncontent-length: 4", b"{}  "), &[400]),
        ("a length of 10 GB", post("content-length: 10000000000", b"{"), &[413]),
        ("a chunk that is no number", post("transfer-encoding: chunked", b"zz\r\n"), &[400]),
        ("a chunk of 2^64 bytes", post("transfer-encoding: chunked", b"ffffffffffffffff\r\n{"), &[400, 408, 413]),
        ("no HTTP", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(), &[400]),
        ("no HTTP version that there is", b"GET / HTTP/9.9\r\n\r\n".to_vec(), &[400, 505]),
    ];
    let mut faults = Vec::new();
    for (what, bytes, expected) in cases {
        let mut stream = connect(node).await;
        say(&mut stream, &bytes).await;
        let status = status(&mut stream).await;
        // Who sends what is not HTTP may be cut off without a word.
        if status.is_some_and(|status| !expected.contains(&status)) {
            faults.push(format!("{what}: expected {expected:?}, got {status:?}"));
        }
    }
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
    assert_eq!(
        node.api.status().await.expect("a status")["revision"],
        revision,
        "a refused request changed something"
    );
    lives_on(&cluster).await;
}

/// A body that goes on for ever, in chunks, is ended by the node and not by the client.
#[tokio::test]
async fn p11_an_endless_body_is_cut_off() {
    let cluster = Cluster::start(1).await;
    let node = &cluster.nodes[0];
    let before = resident_bytes(node);
    let mut stream = connect(node).await;
    say(&mut stream, b"POST /api/heartbeats HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n").await;
    let chunk = [b"10000\r\n".as_slice(), &[b' '; 1 << 16], b"\r\n"].concat();
    let mut sent = 0_u64;
    while stream.write_all(&chunk).await.is_ok() {
        sent += chunk.len() as u64;
        assert!(sent < 1 << 30, "a body of 1 GiB was taken");
    }
    assert!(resident_bytes(node) < before + (64 << 20), "the body was kept");
    lives_on(&cluster).await;
}

/// Slow heads, slow bodies, silent and half-closed connections: a thousand of each, and others see nothing of it.
#[tokio::test]
async fn p11_slow_and_silent_clients_are_nobodys_problem() {
    const EACH: usize = 700;
    let cluster = Cluster::start(1).await;
    let node = &cluster.nodes[0];
    let beginnings: [&[u8]; 4] = [
        b"",
        b"GET /api/services HTTP/1.1\r\nho",
        b"POST /api/services/register HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: 60000\r\n\r\n{",
        b"GET /api/services/watch HTTP/1.1\r\nhost: a\r\n\r\n",
    ];
    let mut held = Vec::new();
    for beginning in beginnings {
        let opened = join_all((0..EACH).map(|_| async move {
            let mut stream = connect(node).await;
            stream.write_all(beginning).await.expect("the beginning is taken");
            stream
        }));
        held.extend(opened.await);
    }
    let mut drip = async || {
        for stream in &mut held {
            // One byte more, for ever; those that were given up by now do not take it.
            let _ = stream.try_write(b"x");
        }
    };
    let mut longest = Duration::ZERO;
    for _ in 0..10 {
        drip().await;
        longest = longest.max(others(node, 5).await);
    }
    assert!(longest < OTHERS_MAX, "others waited {longest:?}");
    // Half-open: they close their side, and wait.
    for stream in &mut held {
        let _ = stream.shutdown().await;
    }
    assert!(others(node, 10).await < OTHERS_MAX);
    lives_on(&cluster).await;
}

#[tokio::test]
async fn p11_ten_thousand_connections_are_served() {
    const CONNECTIONS: usize = 10_000;
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(u64::MAX);
    if limit < CONNECTIONS as u64 + 500 {
        return skip("ten thousand connections", &format!("this process may have {limit} open files"));
    }
    let cluster = Cluster::start(1).await;
    let node = &cluster.nodes[0];
    node.api.register("web-1", 600_000).await;
    let before = resident_bytes(node);
    let ask = async |stream: &mut TcpStream| {
        say(stream, b"GET /api/services/web-1 HTTP/1.1\r\nhost: a\r\n\r\n").await;
        status(stream).await
    };
    let mut held = Vec::new();
    while held.len() < CONNECTIONS {
        held.extend(join_all((0..500).map(|_| connect(node))).await);
    }
    let answered = join_all(held.iter_mut().map(ask)).await;
    assert_eq!(answered.iter().filter(|status| **status == Some(200)).count(), CONNECTIONS);
    let taken = resident_bytes(node).saturating_sub(before);
    assert!(taken < CONNECTIONS_BYTES_MAX, "{taken} bytes for {CONNECTIONS} connections");
    let longest = others(node, 20).await;
    assert!(longest < OTHERS_MAX, "others waited {longest:?}");
    drop(held);
    lives_on(&cluster).await;
}

/// Requests made of the OpenAPI document, good ones and bad ones: each answer is one that the document knows, and it knows
/// no 500.
#[tokio::test]
async fn p11_schemathesis_finds_nothing_that_the_document_does_not_say() {
    let Some(program) = schemathesis() else {
        return skip("schemathesis", "it is not installed; `scripts/test` installs it where PyPI is reached");
    };
    let cluster = Cluster::start(1).await;
    let address = cluster.nodes[0].client_address();
    let (examples, seconds) = super::soak().map_or((8, 40), |minutes| (2_000, minutes * 60));
    let document = workspace().join("docs/openapi.json");
    // Streams have no end, and membership is not to be changed at random. A quota that is laid down at random turns most of
    // what follows away, so it comes last.
    for paths in [
        ["--exclude-path-regex", "watch|/ws/|backup|/api/cluster/(members|leader)|/api/quota"],
        ["--include-path", "/api/quota"],
    ] {
        let mut command = Command::new(&program);
        command
            .args(["run", &document.display().to_string(), "--url", &format!("http://{address}")])
            .args(["--no-color", "--seed", "1"])
            .args(["--max-examples", &examples.to_string(), "--max-time", &seconds.to_string()])
            .args(["--phases", "examples,coverage,fuzzing", "--generation-database", "none"])
            .args(["--request-timeout", "15"])
            .args(paths)
            .args(["--checks", "status_code_conformance,content_type_conformance,response_schema_conformance"])
            // It leaves notes where it runs.
            .current_dir(cluster.directory());
        let output = tokio::task::spawn_blocking(move || command.output()).await.expect("no panic");
        let output = output.expect("it runs");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    }
    cluster.nodes[0].api.delete("/api/quota").await.ok();
    wait_until("the node is as it was", DEADLINE, || async { cluster.nodes[0].api.is_ready().await.then_some(()) })
        .await;
    lives_on(&cluster).await;
}

/// Where `scripts/test` installed it.
fn schemathesis() -> Option<PathBuf> {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let home = std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
    Some(cache.or(home)?.join("rollcall/schemathesis/bin/schemathesis")).filter(|path| path.is_file())
}
