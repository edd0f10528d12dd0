//! The client port with TLS.

use std::error::Error;
use std::path::Path;
use std::time::Instant;

use reqwest::tls::Version;
use reqwest::{Certificate, Client, ClientBuilder, Identity};
use rollcall_server::Settings;
use rollcall_server::tls::init::{Hosts, Made, MadeClient, Trial, init};
use serde_json::json;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::node::{Node, PATIENCE};

struct Secured {
    node: Node,
    made: Made,
    dir: TempDir,
}

fn certificates(dir: &Path) -> Made {
    let nodes = vec![Hosts::parse("127.0.0.1").expect("a host")];
    let clients = vec!["agent".to_owned()];
    init(&Trial { dir: dir.to_owned(), nodes, clients, days: 30 }).expect("certificates")
}

fn trusting(ca: &Path) -> ClientBuilder {
    let ca = std::fs::read(ca).expect("an authority");
    let ca = Certificate::from_pem_bundle(&ca).expect("PEM");
    Client::builder().no_proxy().tls_certs_only(ca).timeout(PATIENCE)
}

fn identity(client: &MadeClient) -> Identity {
    let read = |path: &Path| std::fs::read(path).expect("a file");
    Identity::from_pem(&[read(&client.cert), read(&client.key)].concat()).expect("PEM")
}

/// A node with TLS at the peer port alone, and where its certificates are.
pub(crate) async fn secured_among_peers() -> (Node, TempDir) {
    let dir = tempfile::tempdir().expect("a directory");
    let made = certificates(dir.path());
    let [files] = &made.nodes[..] else { panic!("one node") };
    let settings = Settings {
        peer_tls_cert: Some(files.peer_tls_cert.clone()),
        peer_tls_key: Some(files.peer_tls_key.clone()),
        peer_tls_ca: Some(made.peer_ca.clone()),
        ..Node::founder()
    };
    (Node::start_as(settings).await, dir)
}

impl Secured {
    /// `mutual` is whether clients need certificates.
    async fn start(mutual: bool) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let made = certificates(&dir.path().join("tls"));
        let [files] = &made.nodes[..] else { panic!("one node") };
        let settings = Settings {
            tls_cert: Some(files.tls_cert.clone()),
            tls_key: Some(files.tls_key.clone()),
            tls_client_ca: mutual.then(|| made.client_ca.clone()),
            peer_tls_cert: Some(files.peer_tls_cert.clone()),
            peer_tls_key: Some(files.peer_tls_key.clone()),
            peer_tls_ca: Some(made.peer_ca.clone()),
            ..Node::founder()
        };
        let client = trusting(&made.client_ca);
        let client = if mutual { client.identity(identity(&made.clients[0])) } else { client };
        let client = client.build().expect("a client");
        let node = Node::begin_for(&dir.path().join("data"), settings, "https", client).await;
        node.until("the node becomes ready", async || node.get("/readyz").await.status == 200).await;
        Self { node, made, dir }
    }

    fn address(&self) -> &str {
        self.node.base.strip_prefix("https://").expect("https")
    }

    async fn fails(&self, client: ClientBuilder) -> String {
        let client = client.build().expect("a client");
        let error = client.get(format!("{}/livez", self.node.base)).send().await.expect_err("no answer");
        let mut text = error.to_string();
        let mut source = error.source();
        while let Some(error) = source {
            text = format!("{text}: {error}");
            source = error.source();
        }
        text
    }
}

#[tokio::test]
async fn a_node_with_tls_does_all_that_one_without_does() {
    let secured = Secured::start(false).await;
    let node = &secured.node;
    let registered = node.register(json!({ "id": "a", "name": "web", "url": "http://a" })).await;
    assert_eq!(registered.status, 201, "{registered:?}");
    assert_eq!(node.post("/api/services/a/heartbeat", &json!({})).await.status, 200);
    assert_eq!(node.get("/api/services").await.body["total_count"], 1);
    // More than a TLS stream holds back at once.
    let tags: Vec<_> = (0..60).map(|n| format!("{n:0>200}")).collect();
    for n in 0..30 {
        let body = json!({ "id": format!("b{n}"), "name": "web", "url": "http://b", "tags": tags });
        assert_eq!(node.register(body).await.status, 201);
    }
    assert_eq!(node.get("/api/services?limit=1000").await.body["services"].as_array().map(Vec::len), Some(31));
    let metrics = node.get("/metrics").await.body.as_str().expect("text").to_owned();
    for port in ["client", "peer"] {
        let name = format!("rollcall_tls_certificate_expiry_timestamp_seconds{{port=\"{port}\"}}");
        assert!(metrics.contains(&name), "{metrics}");
    }
    secured.node.stop().await.expect("a good end");
}

#[tokio::test]
async fn plain_http_to_a_tls_port_is_told_so() {
    let secured = Secured::start(false).await;
    let plain = Client::builder().no_proxy().tls_certs_only([]).build().expect("a client");
    let answer = plain.post(format!("http://{}/api/heartbeats", secured.address())).body("{}").send().await;
    let answer = answer.expect("an answer");
    assert_eq!(answer.status(), 400);
    assert_eq!(answer.headers()["content-type"], "application/problem+json");
    let problem: serde_json::Value = answer.json().await.expect("a problem");
    assert_eq!(problem["code"], "tls_required");
    assert!(problem["detail"].as_str().expect("a text").contains("https://"), "{problem}");
}

#[tokio::test]
async fn tls_to_a_plain_port_fails_at_once() {
    let node = Node::start().await;
    let client = Client::builder().no_proxy().tls_certs_only([]).build().expect("a client");
    let begun = Instant::now();
    let error = client.get(node.base.replace("http://", "https://")).send().await.expect_err("no answer");
    assert!(error.is_connect() && begun.elapsed() < PATIENCE / 3, "{error:?}");
    node.stop().await.expect("a good end");
}

#[tokio::test]
async fn only_tls_1_2_and_later_and_http_1_1_are_spoken() {
    let secured = Secured::start(false).await;
    for version in [Version::TLS_1_2, Version::TLS_1_3] {
        let client = trusting(&secured.made.client_ca).tls_version_min(version).tls_version_max(version).build();
        let answer = client.expect("a client").get(format!("{}/livez", secured.node.base)).send().await;
        assert_eq!(answer.expect("an answer").status(), 200, "{version:?}");
    }
    // A handshake of TLS 1.0, such as it begins: record and hello say 3.1.
    let mut stream = TcpStream::connect(secured.address()).await.expect("a port");
    let mut hello = vec![22, 3, 1, 0, 45, 1, 0, 0, 41, 3, 1];
    hello.extend([7; 32]);
    hello.extend([0, 0, 2, 0, 0x2f, 1, 0]);
    stream.write_all(&hello).await.expect("written");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.expect("an end");
    // Which of the two reasons is told is up to the library: there is no version in common, and no scheme either.
    assert!(matches!(answer[..], [21, .., 2, 40 | 70]), "a fatal alert: {answer:?}");
}

#[tokio::test]
async fn who_is_not_trusted_is_not_spoken_to() {
    let secured = Secured::start(false).await;
    let other = certificates(&secured.dir.path().join("other"));
    let failure = secured.fails(trusting(&other.client_ca)).await;
    assert!(failure.contains("invalid peer certificate"), "{failure}");
    let failure = secured.fails(trusting(&secured.made.peer_ca)).await;
    assert!(failure.contains("UnknownIssuer"), "{failure}");
}

#[tokio::test]
async fn clients_need_a_certificate_where_they_are_asked_for_one() {
    let secured = Secured::start(true).await;
    assert_eq!(secured.node.get("/api/services").await.status, 200);
    let failure = secured.fails(trusting(&secured.made.client_ca)).await;
    assert!(failure.contains("CertificateRequired"), "{failure}");
    let other = certificates(&secured.dir.path().join("other"));
    let foreign = trusting(&secured.made.client_ca).identity(identity(&other.clients[0]));
    let failure = secured.fails(foreign).await;
    assert!(failure.contains("alert"), "{failure}");
}

#[tokio::test]
async fn p11_who_says_nothing_or_half_a_handshake_makes_room_soon() {
    let secured = Secured::start(false).await;
    let ends = async |said: &[u8]| {
        let mut stream = TcpStream::connect(secured.address()).await.expect("a port");
        stream.write_all(said).await.expect("written");
        let mut rest = Vec::new();
        tokio::time::timeout(PATIENCE, stream.read_to_end(&mut rest)).await.expect("in time").expect("an end");
        rest
    };
    let begun = Instant::now();
    let (nothing, half) = tokio::join!(ends(b""), ends(&[22, 3, 1, 2, 0, 1]));
    assert_eq!((nothing.len(), half.len()), (0, 0));
    assert!(begun.elapsed() < PATIENCE / 2, "{:?}", begun.elapsed());
    // Meanwhile and after, others are served.
    assert_eq!(secured.node.get("/livez").await.status, 200);
}

#[tokio::test]
async fn certificates_are_replaced_while_the_node_serves() {
    let secured = Secured::start(false).await;
    let node = &secured.node;
    let files = &secured.made.nodes[0];
    let other = certificates(&secured.dir.path().join("other"));
    let new_client = || trusting(&other.client_ca).build().expect("a client");
    assert!(new_client().get(format!("{}/livez", node.base)).send().await.is_err());

    // The new certificate without its key: nothing changes but that the node says so.
    std::fs::copy(&other.nodes[0].tls_cert, &files.tls_cert).expect("a file");
    node.reload.now();
    let warned = async || node.get("/readyz?verbose").await.body["warnings"].to_string().contains("tls_key: ");
    node.until("the fault is told", warned).await;
    assert!(
        node.get("/metrics").await.body.to_string().contains("rollcall_tls_certificate_stale{port=\\\"client\\\"} 1")
    );

    std::fs::copy(&other.nodes[0].tls_key, &files.tls_key).expect("a file");
    node.reload.now();
    node.until("the new certificate is used", async || {
        new_client().get(format!("{}/livez", node.base)).send().await.is_ok()
    })
    .await;
    // The connection of before goes on.
    assert_eq!(node.get("/livez").await.status, 200);
    let failure = secured.fails(trusting(&secured.made.client_ca)).await;
    assert!(failure.contains("invalid peer certificate"), "{failure}");
}
