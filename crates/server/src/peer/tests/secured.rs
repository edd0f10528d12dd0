//! The wires with TLS.

use super::*;
use crate::tls::Tls;
use crate::tls::init::Made;
use crate::tls::tests::{made, peer_files};

const MINE: &str = "127.0.0.1";

/// Each node's certificates, for the given hosts; all nodes are here.
struct Nodes {
    _dir: tempfile::TempDir,
    made: Made,
}

impl Nodes {
    fn new(hosts: &[&str]) -> Self {
        let (_dir, made) = made(hosts);
        Self { _dir, made }
    }

    fn tls(&self, node: usize, host: &str) -> Tls {
        let files = peer_files(&self.made, &self.made.nodes[node], host);
        Tls::load(None, Some(&files)).expect("good certificates")
    }

    fn wires(&self, node: usize, host: &str) -> Wires {
        Wires::new(self.tls(node, host).peers)
    }

    /// A running member at this machine.
    async fn member(&self, echo: &Echo) -> (String, CancellationToken) {
        let edge = PeerEdge::with_room(1 << 16);
        edge.open(echo.clone());
        let (address, stop, _) = served_through(self.tls(0, MINE).peer_gate(), edge).await;
        (address, stop)
    }
}

async fn refused(wires: &Wires, address: &str) -> String {
    let body = Bytes::from_static(b"to you");
    let error = wires.call(address, PeerRoute::Info, body, PATIENCE, &Sent::default()).await.expect_err("a refusal");
    let mut text = error.to_string();
    let mut source = std::error::Error::source(&error);
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

#[tokio::test]
async fn nodes_of_one_authority_reach_each_other() {
    let nodes = Nodes::new(&["127.0.0.1", "n2,127.0.0.1"]);
    let echo = Echo::new(100);
    let (address, _stop) = nodes.member(&echo).await;
    let wires = nodes.wires(1, "n2");
    assert_eq!(call(&wires, &address, "to you").await.unwrap(), "6");
    // More than the stream holds back at once.
    let body = Bytes::from(addressed(PEER_BODY_BYTES_MAX));
    let answer = wires.call(&address, PeerRoute::Propose, body, PATIENCE, &Sent::default()).await.unwrap();
    assert_eq!(answer, PEER_BODY_BYTES_MAX.to_string());
    let chunks = [Ok(Bytes::from_static(b"to you")), Ok(Bytes::from(vec![7; 1 << 20]))];
    let body = Box::pin(stream::iter(chunks));
    let answer = wires.call_streaming(&address, PeerRoute::Snapshot, body, PATIENCE).await.unwrap();
    assert_eq!(answer, (6 + (1 << 20)).to_string());
}

/// Nothing was done, and both sides know why.
#[tokio::test]
async fn a_node_of_another_authority_is_refused_on_both_sides() {
    let (ours, theirs) = (Nodes::new(&[MINE]), Nodes::new(&[MINE]));
    let echo = Echo::new(100);
    let (address, _stop) = ours.member(&echo).await;
    let refusal = refused(&theirs.wires(0, MINE), &address).await;
    assert!(refusal.starts_with("cannot reach peer") && refusal.contains("invalid peer certificate"), "{refusal}");

    // One that trusts us, with a certificate that we do not trust.
    let mut made = theirs.made.clone();
    let mut both = std::fs::read_to_string(&made.peer_ca).unwrap();
    both.push_str(&std::fs::read_to_string(&ours.made.peer_ca).unwrap());
    let bundle = made.peer_ca.with_file_name("both.pem");
    std::fs::write(&bundle, both).unwrap();
    made.peer_ca = bundle;
    let files = peer_files(&made, &made.nodes[0], MINE);
    let wires = Wires::new(Tls::load(None, Some(&files)).unwrap().peers);
    let refusal = refused(&wires, &address).await;
    assert!(refusal.starts_with("cannot reach peer") && refusal.contains("alert"), "{refusal}");
    assert_eq!(echo.begun.load(SeqCst), 0);
}

/// The authority of clients makes nobody a node, and neither does its being trusted by this machine.
#[tokio::test]
async fn a_client_s_certificate_opens_no_peer_port() {
    let nodes = Nodes::new(&[MINE]);
    let echo = Echo::new(100);
    let (address, _stop) = nodes.member(&echo).await;
    let read = |path: &std::path::Path| std::fs::read(path).unwrap();
    let client = &nodes.made.clients[0];
    let http = reqwest::Client::builder()
        .no_proxy()
        .tls_certs_only(reqwest::Certificate::from_pem_bundle(&read(&nodes.made.peer_ca)).unwrap())
        .identity(reqwest::Identity::from_pem(&[read(&client.cert), read(&client.key)].concat()).unwrap())
        .build()
        .unwrap();
    let error = http.get(format!("https://{address}/")).send().await.expect_err("no answer");
    assert!(format!("{error:?}").contains("Alert"), "{error:?}");
}

#[tokio::test]
async fn a_node_that_is_not_at_its_host_is_not_dialled() {
    // The member's certificate is for another host than the one that is dialled.
    let nodes = Nodes::new(&["10.9.9.9", "127.0.0.1"]);
    let edge = PeerEdge::default();
    let (address, _stop, _) = served_through(nodes.tls(0, "10.9.9.9").peer_gate(), edge).await;
    let refusal = refused(&nodes.wires(1, MINE), &address).await;
    assert!(refusal.contains("not valid for name"), "{refusal}");
}

/// Whoever names another node as the sender must have that node's certificate.
#[tokio::test]
async fn a_node_cannot_speak_for_another() {
    let nodes = Nodes::new(&["127.0.0.1", "n2", "n3"]);
    let echo = Echo::new(100);
    let (address, _stop) = nodes.member(&echo).await;
    let asks = async |node: usize, host: &str, sender: &str| {
        let wires = nodes.wires(node, host);
        let body = Bytes::from(format!("to you from {sender}"));
        wires.call(&address, PeerRoute::Info, body, PATIENCE, &Sent::default()).await
    };
    asks(1, "n2", "n2:7901").await.expect("itself");
    asks(1, "n2", "").await.expect("somebody whom the member does not know");
    for (node, host, sender) in [(1, "n2", "n3:7901"), (2, "n3", "n2:7901"), (1, "n2", "127.0.0.1:7901")] {
        let refusal = asks(node, host, sender).await.expect_err("another's name");
        let TransportError::Refused { reason, .. } = &refusal else { panic!("{refusal:?}") };
        assert!(reason.contains("not that of the node at"), "{reason}");
    }
    assert_eq!(echo.begun.load(SeqCst), 2);
}

/// A node that has moved calls on everybody in its own name, which is not believed yet, while it tells where it is.
#[tokio::test]
async fn a_request_that_is_refused_takes_no_other_with_it() {
    let nodes = Nodes::new(&["127.0.0.1", "n2"]);
    let echo = Echo::new(0);
    let (address, _stop) = nodes.member(&echo).await;
    let wires = nodes.wires(1, "n2");
    let sent = Sent::default();
    let asks = |sender: &str| {
        let body = Bytes::from(format!("to you from {sender}"));
        wires.call(&address, PeerRoute::Info, body, PATIENCE, &sent)
    };
    let believed = async {
        let answer = asks("n2:7901").await;
        answer.expect("the answer to the one that was believed")
    };
    let refused = async {
        echo.has_begun(1).await;
        for _ in 0..3 {
            let refusal = asks("n1:7901").await.expect_err("another's name");
            assert!(matches!(refusal, TransportError::Refused { .. }), "{refusal:?}");
        }
        echo.permits.add_permits(1);
    };
    let (answer, ()) = tokio::join!(believed, refused);
    assert_eq!((answer, echo.begun.load(SeqCst)), (Bytes::from_static(b"19"), 1));
}

#[tokio::test]
async fn plain_and_secured_nodes_tell_each_other_what_is_wrong() {
    let nodes = Nodes::new(&[MINE]);
    let echo = Echo::new(100);
    let (secured, _stop) = nodes.member(&echo).await;
    let refusal = refused(&Wires::default(), &secured).await;
    assert!(refusal.contains("refused: this peer port speaks TLS: give all nodes peer_tls_cert"), "{refusal}");
    let (plain, _edge, _stop, _server) = member(&echo, 64).await;
    let refusal = refused(&nodes.wires(0, MINE), &plain).await;
    assert!(refusal.contains("it speaks no TLS: give all nodes peer_tls_cert"), "{refusal}");
    assert_eq!(echo.begun.load(SeqCst), 0);
}

#[tokio::test]
async fn a_client_at_the_secured_peer_port_is_told_so() {
    let nodes = Nodes::new(&[MINE]);
    let (address, _stop) = nodes.member(&Echo::new(1)).await;
    let mut stream = TcpStream::connect(&address).await.unwrap();
    stream.write_all(b"GET /api/services HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("peer port"), "{answer}");
}
