//! Bad input: a 4xx that names the fault, and nothing changed.

use reqwest::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::node::{Answer, Node, PATIENCE, answer};

fn assert_problem(refused: &Answer, status: u16, code: &str, what: &str) {
    assert_eq!((refused.status, refused.code()), (status, code), "{what}: {refused:?}");
    assert_eq!(refused.header("content-type"), "application/problem+json", "{what}");
    assert_eq!(refused.body["status"], status, "{what}");
    assert_eq!(refused.body["request_id"], refused.header("x-request-id"), "{what}");
    assert!(refused.body["title"].is_string() && refused.body["detail"].is_string(), "{what}");
}

#[tokio::test]
async fn every_fault_of_a_body_is_named_and_nothing_changes() {
    let node = Node::start().await;
    let before = node.get("/api/services").await.revision();
    let cases: [(&str, Value, &[&str]); 8] = [
        ("/api/services/register", json!({"name": "n", "url": "http://a", "extra": 1}), &["extra"]),
        ("/api/services/register", json!({"name": 5, "url": []}), &["name", "url"]),
        ("/api/services/register", json!({"id": "a\u{1}", "name": "n", "url": "http://a"}), &["id"]),
        ("/api/services/register", json!({"name": "n", "url": "http://a", "ttl_ms": 0}), &["ttl_ms"]),
        ("/api/services/register", json!([]), &[""]),
        ("/api/heartbeats", json!({"leases": vec![1; 10_001]}), &["leases"]),
        ("/api/heartbeats", json!({"leases": [-1], "x": 0}), &["leases[0]", "x"]),
        ("/api/services/x/heartbeat", json!({"status": "fine", "lease_id": "1"}), &["lease_id", "status"]),
    ];
    for (path, body, faults) in cases {
        let refused = node.post(path, &body).await;
        assert_problem(&refused, 400, "invalid_request", path);
        assert_eq!(refused.faults(), faults, "{path}");
    }
    assert_eq!(node.get("/api/services").await.revision(), before);
}

#[tokio::test]
async fn bodies_that_are_no_json_are_refused() {
    let node = Node::start().await;
    let post = |path: &str, content_type: &'static str, body: Vec<u8>| {
        answer(node.request(Method::POST, path).header("content-type", content_type).body(body))
    };
    let register = "/api/services/register";
    for broken in ["{", "{\"name\": }", "{} {}", "nonsense", "{\"name\": \"a\", \"name\": \"b\"}", "\u{feff}{}"] {
        let refused = post(register, "application/json", broken.into()).await;
        assert_problem(&refused, 400, "malformed_json", broken);
        assert!(refused.body["detail"].as_str().unwrap().contains("line 1 column"), "{broken}");
    }
    assert_problem(&post(register, "application/json", vec![b'"', 0xff, b'"']).await, 400, "malformed_json", "utf-8");
    assert_problem(
        &post(register, "application/json", "[".repeat(60_000).into()).await,
        400,
        "malformed_json",
        "deep",
    );
    assert_problem(&post(register, "text/plain", "{}".into()).await, 415, "unsupported_media_type", "text");
    assert_problem(&post(register, "application/json", Vec::new()).await, 400, "invalid_request", "empty");

    let large = serde_json::to_vec(&json!({"name": "n", "url": "http://a", "metadata": {"x": "x".repeat(70 << 10)}}));
    let large = large.expect("JSON renders");
    assert_problem(&post(register, "application/json", large.clone()).await, 413, "body_too_large", "70 KiB");
    let beat = post("/api/services/a/heartbeat", "application/json", large).await;
    assert_problem(&beat, 413, "body_too_large", "70 KiB heartbeat");
    let batch = post("/api/heartbeats", "application/json", vec![b' '; (4 << 20) + 1]).await;
    assert_problem(&batch, 413, "body_too_large", "4 MiB and one");
}

#[tokio::test]
async fn bad_parameters_and_headers_are_named() {
    let node = Node::start().await;
    for (path, faults) in [
        ("/api/services?limit=-1", vec!["limit"]),
        ("/api/services?limit=1001&frobnicate=1", vec!["limit", "frobnicate"]),
        ("/api/services?sort=id&sort=id", vec!["sort"]),
        ("/api/services?type=robot&status=fine", vec!["type", "status"]),
        ("/api/services?selector=a%20b", vec!["selector"]),
        ("/api/services/a?limit=1", vec!["limit"]),
        ("/api/services/a%00", vec!["id"]),
        ("/api/services/%ff", vec!["id"]),
        ("/api/cluster/digest?index=x", vec!["index"]),
        ("/api/cluster/status?x=1", vec!["x"]),
    ] {
        let refused = node.get(path).await;
        assert_problem(&refused, 400, "invalid_request", path);
        assert_eq!(refused.faults(), faults, "{path}");
    }
    for (header, value) in [("X-Request-Timeout-Ms", "0"), ("X-Request-Timeout-Ms", "60001"), ("X-Tenant-ID", "a b")]
    {
        let refused = answer(node.request(Method::GET, "/api/services").header(header, value)).await;
        assert_problem(&refused, 400, "invalid_request", header);
        assert_eq!(refused.faults(), [header]);
    }
}

#[tokio::test]
async fn routes_and_methods_that_are_not_there_are_problems() {
    let node = Node::start().await;
    for path in ["/nonsense", "/api", "/api/services/a/b", "/peer/vote"] {
        assert_problem(&node.get(path).await, 404, "no_such_route", path);
    }
    for (method, path, allow) in [
        (Method::PUT, "/api/services", "GET,HEAD"),
        (Method::GET, "/api/services/register", "POST"),
        (Method::GET, "/api/heartbeats/", "POST"),
        (Method::PATCH, "/api/services/a", "GET,HEAD,DELETE"),
    ] {
        let refused = answer(node.request(method, path)).await;
        assert_problem(&refused, 405, "method_not_allowed", path);
        assert_eq!(refused.header("allow"), allow, "{path}");
    }
}

/// A sender that declares much, sends all of it and only then reads still reads the answer.
#[tokio::test]
async fn whoever_sends_too_much_gets_to_read_why() {
    let node = Node::start().await;
    let address = node.base.trim_start_matches("http://");
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let bytes = 8 << 20;
    let head = format!("POST /api/services/register HTTP/1.1\r\nhost: x\r\ncontent-length: {bytes}\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(&vec![b' '; bytes]).await.unwrap();
    let mut answer = vec![0; 1024];
    let read = tokio::time::timeout(PATIENCE, stream.read(&mut answer)).await.unwrap().unwrap();
    let answer = String::from_utf8_lossy(&answer[..read]);
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
}

#[tokio::test]
async fn bytes_that_are_no_http_do_not_stop_the_node() {
    let node = Node::start().await;
    let address = node.base.trim_start_matches("http://");
    let long = format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(100_000));
    for bytes in [&b"\x16\x03\x01\x00\xff"[..], b"NONSENSE\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", long.as_bytes()] {
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        // The node may hang up in the middle of it.
        let _ = stream.write_all(bytes).await;
        let _ = stream.shutdown().await;
        let mut answer = Vec::new();
        let _ = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("the node hangs up");
    }
    assert_eq!(node.get("/readyz").await.status, 200);
}
