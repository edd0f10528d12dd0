//! Watching by WebSocket.

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{self, Bytes, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

use crate::node::{Node, PATIENCE};

pub(crate) struct Socket(WebSocketStream<MaybeTlsStream<TcpStream>>);

impl Socket {
    pub(crate) async fn open(node: &Node) -> Self {
        Self::open_for(node, "default").await
    }

    async fn open_for(node: &Node, tenant: &'static str) -> Self {
        let url = format!("{}/ws/registry", node.base.replace("http", "ws"));
        let mut request = url.into_client_request().expect("a URL");
        request.headers_mut().insert("x-tenant-id", tenant.parse().expect("a header"));
        Self(tokio_tungstenite::connect_async(request).await.expect("a WebSocket").0)
    }

    async fn send(&mut self, message: Message) {
        self.0.send(message).await.expect("the node listens");
    }

    pub(crate) async fn say(&mut self, json: Value) {
        self.send(Message::text(json.to_string())).await;
    }

    /// The next message; none at the end.
    pub(crate) async fn hear(&mut self) -> Option<Value> {
        loop {
            let message = tokio::time::timeout(PATIENCE, self.0.next()).await.expect("a message in time");
            match message {
                Some(Ok(Message::Text(text))) => {
                    return Some(serde_json::from_str(&text).expect("messages are JSON"));
                }
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                Some(Ok(Message::Close(_)) | Err(_)) | None => return None,
                Some(Ok(other)) => panic!("{other:?}"),
            }
        }
    }

    /// Why the other end closes the connection; none if it does not say so.
    async fn closed(&mut self) -> Option<CloseCode> {
        loop {
            match tokio::time::timeout(PATIENCE, self.0.next()).await.expect("an end in time") {
                Some(Ok(Message::Close(frame))) => return frame.map(|frame| frame.code),
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return None,
            }
        }
    }

    pub(crate) async fn told(&mut self) -> String {
        loop {
            let message = self.hear().await.expect("the connection lives");
            let kind = message["update_type"].as_str().or(message["type"].as_str()).expect("a type");
            let of = &message["subscription_id"];
            match message["service"]["id"].as_str() {
                _ if kind == "bookmark" => {}
                Some(id) => return format!("{of}: {kind} {id} r{}", message["revision"]),
                None => return format!("{of}: {kind} r{}", message["revision"]),
            }
        }
    }
}

async fn register(node: &Node, id: &str, name: &str) {
    node.register(json!({"id": id, "name": name, "url": "http://i"})).await;
}

#[tokio::test]
async fn many_subscriptions_on_one_connection() {
    let node = Node::start().await;
    register(&node, "a", "web").await;
    let mut socket = Socket::open(&node).await;
    socket.say(json!({"type": "subscribe", "filters": [{"name": "web"}], "request_id": "q-1"})).await;
    let subscribed = socket.hear().await.unwrap();
    assert_eq!(
        subscribed,
        json!({"type": "subscribed", "subscription_id": 1, "epoch": 0, "revision": 1, "request_id": "q-1"})
    );
    assert_eq!(socket.told().await, "1: snapshot a r1");
    assert_eq!(socket.told().await, "1: synced r1");

    // What any of its filters finds, and each once.
    let filters = json!([{"name": ["web", "db"]}, {"types": ["service"], "name": "db"}]);
    socket.say(json!({"type": "subscribe", "filters": filters, "from_revision": 0, "epoch": 0})).await;
    assert_eq!(socket.told().await, "2: subscribed r0");
    assert_eq!(socket.told().await, "2: registered a r1");

    register(&node, "b", "db").await;
    assert_eq!(socket.told().await, "2: registered b r2");
    register(&node, "c", "web").await;
    let mut told = [socket.told().await, socket.told().await];
    told.sort();
    assert_eq!(told, ["1: registered c r3", "2: registered c r3"]);

    socket.say(json!({"type": "unsubscribe", "subscription_id": 2})).await;
    assert_eq!(socket.hear().await.unwrap(), json!({"type": "unsubscribed", "subscription_id": 2}));
    register(&node, "d", "db").await;
    register(&node, "e", "web").await;
    assert_eq!(socket.told().await, "1: registered e r5");
    let metrics = node.get("/metrics").await.body;
    assert!(metrics.as_str().unwrap().contains("rollcall_watchers 2\n"), "{metrics}");
    node.stop().await.unwrap();
    // It is told why, before the process may end.
    assert_eq!(socket.closed().await, Some(CloseCode::Away));
}

#[tokio::test]
async fn p10_a_page_of_another_site_is_refused() {
    let node = Node::start().await;
    let host = node.base.trim_start_matches("http://");
    let open = async |origin: &str| {
        let mut request = format!("ws://{host}/ws/registry").into_client_request().unwrap();
        request.headers_mut().insert("origin", origin.parse().unwrap());
        tokio_tungstenite::connect_async(request).await
    };
    assert!(open(&node.base).await.is_ok());
    for foreign in ["http://elsewhere.test", "null", "http://127.0.0.1", ""] {
        match open(foreign).await {
            Err(tungstenite::Error::Http(answer)) => assert_eq!(answer.status(), 403, "{foreign}"),
            other => panic!("{foreign}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn garbage_is_answered_and_the_connection_lives_on() {
    let node = Node::start().await;
    let mut socket = Socket::open(&node).await;
    let refused = |answer: &Value| {
        assert_eq!(answer["type"], "error", "{answer}");
        let problem = &answer["problem"];
        let faults = problem["errors"].as_array().map(Vec::as_slice).unwrap_or_default();
        let fields: Vec<_> = faults.iter().map(|fault| fault["field"].as_str().unwrap()).collect();
        (problem["status"].as_u64().unwrap(), problem["code"].as_str().unwrap().to_owned(), fields.join(" "))
    };
    for (garbage, fields) in [
        ("", ""),
        ("{", ""),
        ("[]", ""),
        ("7", ""),
        (r#"{"type": "subscribe", "type": "subscribe"}"#, ""),
        ("{}", "type"),
        (r#"{"type": "shout", "request_id": 7}"#, "request_id type"),
        (r#"{"type": "unsubscribe"}"#, "subscription_id"),
        (r#"{"type": "subscribe", "filter": {}, "epoch": 1}"#, "epoch filter"),
        (r#"{"type": "subscribe", "from_revision": -1}"#, "from_revision"),
        (
            r#"{"type": "subscribe", "filters": [7, {"color": "red", "status": ["gone", true]}]}"#,
            "filters[0] filters[1].status filters[1].status filters[1].color",
        ),
    ] {
        socket.send(Message::text(garbage)).await;
        let answer = socket.hear().await.unwrap();
        assert_eq!(refused(&answer), (400, "invalid_request".to_owned(), fields.to_owned()), "{garbage}");
    }
    socket.send(Message::Binary(Bytes::from_static(&[0xff, 0xfe]))).await;
    assert_eq!(refused(&socket.hear().await.unwrap()).0, 400);
    socket.say(json!({"type": "unsubscribe", "subscription_id": 5, "request_id": "q"})).await;
    let answer = socket.hear().await.unwrap();
    assert_eq!((refused(&answer).0, &answer["request_id"]), (404, &json!("q")));
    socket.say(json!({"type": "subscribe", "from_revision": 0, "epoch": 9})).await;
    assert_eq!(refused(&socket.hear().await.unwrap()), (410, "revision_compacted".to_owned(), String::new()));
    socket.say(json!({"type": "ping"})).await;
    assert_eq!(socket.hear().await.unwrap(), json!({"type": "pong"}));

    socket.say(json!({"type": "subscribe"})).await;
    assert_eq!(socket.told().await, "1: subscribed r0".replace('1', "2"));
    assert_eq!(socket.told().await, "2: synced r0");
    register(&node, "a", "web").await;
    assert_eq!(socket.told().await, "2: registered a r1");

    // Beyond any limit: that connection ends, and no other.
    let mut hostile = Socket::open(&node).await;
    hostile.send(Message::text("x".repeat(1 << 20))).await;
    assert_eq!(hostile.hear().await, None);
    register(&node, "b", "web").await;
    assert_eq!(socket.told().await, "2: registered b r2");
    let plain = node.get("/ws/registry").await;
    assert_eq!((plain.status, plain.code()), (426, "upgrade_required"));
}

#[tokio::test]
async fn p10_a_subscription_is_its_tenants() {
    let node = Node::start().await;
    let mut other = Socket::open_for(&node, "other").await;
    other.say(json!({"type": "subscribe", "from_revision": 0})).await;
    assert_eq!(other.told().await, "1: subscribed r0");
    register(&node, "a", "web").await;
    let own = json!({"id": "b", "name": "web", "url": "http://i"});
    let request = node.request(reqwest::Method::POST, "/api/services/register").header("x-tenant-id", "other");
    crate::node::answer(request.json(&own)).await;
    assert_eq!(other.told().await, "1: registered b r2");
}
