//! Other clusters asked for what they have not told yet, and what everything but discovery shows of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{StatusCode, Uri};
use axum::routing::any;
use serde_json::{Value, json};

use crate::federation::{Origin, did, found, key, name, of, until_found, web};
use crate::node::{Answer, Node};

/// Something that listens where a cluster is said to be.
struct Place {
    base: String,
    _serving: tokio::task::JoinHandle<()>,
}

impl Place {
    async fn serving(router: Router) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let base = format!("http://{}", listener.local_addr().expect("an address"));
        let serving = tokio::spawn(async move { axum::serve(listener, router).await.expect("it serves") });
        Self { base, _serving: serving }
    }
}

/// What brings messages to a node, unless it is shut.
struct Gate {
    place: Place,
    shut: Arc<AtomicBool>,
}

impl Gate {
    async fn before(node: &Node) -> Self {
        type Way = (String, Arc<AtomicBool>, reqwest::Client);
        async fn pass(State((base, shut, client)): State<Way>, uri: Uri, body: Bytes) -> (StatusCode, Vec<u8>) {
            if shut.load(Ordering::SeqCst) {
                return (StatusCode::SERVICE_UNAVAILABLE, Vec::new());
            }
            let request = client.post(format!("{base}{}", uri.path())).header("content-type", "application/json");
            let answer = request.body(body).send().await.expect("the node answers");
            (answer.status(), answer.bytes().await.expect("a body").to_vec())
        }
        let shut = Arc::new(AtomicBool::new(false));
        let client = reqwest::Client::builder().no_proxy().tls_certs_only([]).build().expect("a client");
        let way: Way = (node.base.clone(), shut.clone(), client);
        Self { place: Place::serving(Router::new().fallback(any(pass)).with_state(way)).await, shut }
    }
}

/// West is told by east until the gate is shut, and can ask east all the time.
async fn told_through_a_gate() -> (Node, Node, Gate) {
    let (east, west) = (Node::start().await, Node::start().await);
    let gate = Gate::before(&west).await;
    assert_eq!(name(&east, "west", &west, json!({"urls": [gate.place.base]})).await.status, 201);
    assert_eq!(name(&west, "east", &east, json!({})).await.status, 201);
    east.register(web("first", "public")).await;
    until_found(&west, &[("first", Some("east"))]).await;
    gate.shut.store(true, Ordering::SeqCst);
    (east, west, gate)
}

async fn live(node: &Node, query: &str) -> Answer {
    let answer = node.get(&format!("/api/services?federated=live&federated_timeout_ms=10000{query}")).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer
}

fn ids(answer: &Answer) -> Vec<&str> {
    answer.body["services"].as_array().expect("services").iter().map(|s| s["id"].as_str().expect("an id")).collect()
}

fn sources(answer: &Answer) -> &Value {
    &answer.body["federated_sources"]
}

#[tokio::test]
async fn what_was_not_told_yet_is_asked_for() {
    let (east, west, gate) = told_through_a_gate().await;
    east.register(web("second", "public")).await;
    east.register(web("hidden", "private")).await;
    assert_eq!(found(&west, "").await, of(&[("first", Some("east"))]), "the gate is shut");
    let answer = live(&west, "").await;
    assert_eq!(
        (ids(&answer), sources(&answer)),
        (vec!["first", "second"], &json!([{"peer": "east", "answered": "live"}]))
    );
    assert_eq!(answer.body["services"][1]["origin"], "east");
    assert_eq!(found(&west, "").await.len(), 2, "what was answered is known from now on");

    // Page by page, each as it is now.
    assert_eq!(east.delete("/api/services/first").await.status, 200);
    for n in 0..4 {
        east.register(web(&format!("w{n}"), "public")).await;
    }
    let first = live(&west, "&limit=3").await;
    assert_eq!(ids(&first), ["second", "w0", "w1"]);
    let cursor = first.body["next_cursor"].as_str().expect("there is more");
    let second = live(&west, &format!("&limit=3&cursor={cursor}")).await;
    assert_eq!((ids(&second), &second.body["total_count"]), (vec!["w2", "w3"], &json!(5)));

    // Nothing new: nothing is taken in.
    let before = west.get("/api/cluster/status").await.body["applied_index"].clone();
    assert_eq!(ids(&live(&west, "").await).len(), 5);
    assert_eq!(
        west.get("/api/cluster/status").await.body["applied_index"],
        before,
        "an answer without news is no entry"
    );

    // By all that asks for one, too.
    east.register(web("third", "public")).await;
    assert_eq!(west.get("/api/services/third?include_federated=true").await.status, 404);
    let got = west.get("/api/services/third?federated=live").await;
    assert_eq!((got.status, &got.body["origin"], got.header("etag")), (200, &json!("east"), ""));
    for id in ["first", "second", "third", "w0", "w1", "w2", "w3"] {
        east.delete(&format!("/api/services/{id}")).await;
    }
    east.register(web("last", "public")).await;
    let picked = west.get("/api/services/pick?federated=live&name=web").await;
    assert_eq!(
        (&picked.body["service"]["id"], &picked.body["candidates"]),
        (&json!("last"), &json!(1)),
        "{picked:?}"
    );
    assert_eq!(picked.body["federated_sources"][0]["answered"], "live");

    // What came by asking is not told a second time.
    gate.shut.store(false, Ordering::SeqCst);
    east.register(web("again", "public")).await;
    until_found(&west, &[("again", Some("east")), ("last", Some("east"))]).await;
    let status = west.get("/api/federation").await;
    assert_eq!(status.body["peers"][0]["receiving"]["lacking"], 0, "{status:?}");
}

#[tokio::test]
async fn many_changes_are_asked_for_in_parts() {
    let (east, west, _gate) = told_through_a_gate().await;
    let of_all: Vec<String> = (0..300).map(|n| format!("w{n:03}")).collect();
    for id in &of_all {
        east.register(web(id, "public")).await;
    }
    // Together, too: they share what is asked.
    let answers = futures_util::future::join_all((0..8).map(|_| live(&west, "&name=web&limit=1000"))).await;
    for answer in answers {
        assert_eq!(answer.body["federated_count"], 301, "{:?}", sources(&answer));
    }
}

#[tokio::test]
async fn who_does_not_answer_is_shown_as_it_told_before() {
    let (east, west, gate) = told_through_a_gate().await;
    east.register(web("second", "public")).await;
    drop(east.stop().await);
    let answer = live(&west, "").await;
    let unreachable = json!([{"peer": "east", "answered": "copy", "reason": "unreachable"}]);
    assert_eq!((ids(&answer), sources(&answer)), (vec!["first"], &unreachable));
    assert_eq!(west.post("/api/federation/peers/east/pause", &json!(null)).await.status, 200);
    assert_eq!(sources(&live(&west, "").await)[0]["reason"], "paused");
    drop(gate);
    let faulty = west.get("/api/services?federated=new&federated_timeout_ms=0").await;
    assert_eq!((faulty.status, faulty.faults()), (400, vec!["federated", "federated_timeout_ms"]));
    let contradicts = west.get("/api/services?federated=live&include_federated=false").await;
    assert_eq!(contradicts.faults(), ["federated"]);
    assert_eq!(west.get("/api/services/pick?federated_timeout_ms=5").await.faults(), ["federated_timeout_ms"]);
}

/// What is answered in the name of a cluster.
struct Answering {
    origin: Option<Origin>,
    messages: Vec<Value>,
    closing: Value,
    /// Instead of the question's.
    nonce: Option<&'static str>,
    is_signed: bool,
}

impl Answering {
    fn answer(&mut self, question: &Value) -> Value {
        let Some(origin) = &mut self.origin else { return json!({}) };
        let mut closing =
            json!({"action": "answer", "after": 1, "at": 1, "present": 1, "count": self.messages.len()});
        let more = self.closing.as_object().expect("an object").clone();
        closing.as_object_mut().expect("an object").extend(more);
        let mut closing = origin.message("REGISTRY_SYNC", closing);
        closing["nonce"] = self.nonce.map_or_else(|| question["nonce"].clone(), Into::into);
        let mut closing = origin.sign(closing);
        if !self.is_signed {
            closing["timestamp"] = "2026-01-01T00:00:00.000Z".into();
        }
        json!({"messages": self.messages, "closing": closing})
    }
}

#[tokio::test]
async fn an_answer_that_is_none_is_not_believed() {
    let node = Node::start().await;
    let answering = Arc::new(parking_lot::Mutex::new(Answering {
        origin: None,
        messages: Vec::new(),
        closing: json!({}),
        nonce: None,
        is_signed: true,
    }));
    let answers = answering.clone();
    let answer = async move |body: Bytes| {
        let question = serde_json::from_slice(&body).expect("a question");
        axum::Json(answers.lock().answer(&question))
    };
    let place = Place::serving(Router::new().fallback(any(answer))).await;
    let mut origin = Origin::of(&node, json!({"urls": [place.base]})).await;
    origin.begin(&node).await;
    let message = origin.registration(2, "default", web("a", "public"));
    let told = origin.sign(message);
    let mut tampered = told.clone();
    tampered["payload"]["service"]["url"] = "http://evil".into();

    let asked = async |set: &dyn Fn(&mut Answering)| {
        set(&mut answering.lock());
        let answer = live(&node, "").await;
        let source = sources(&answer)[0].clone();
        (source["reason"].clone(), answer.body["federated_count"].clone())
    };
    assert_eq!(asked(&|_| {}).await, (json!("unreachable"), json!(0)), "that is nothing like an answer");
    answering.lock().origin = Some(origin);
    let none = (json!("invalid_answer"), json!(0));
    let at_2 = || json!({"at": 2, "present": 2});
    assert_eq!(asked(&|answer| answer.nonce = Some("somebody-else-s-1234")).await, none);
    assert_eq!(asked(&|answer| (answer.nonce, answer.is_signed) = (None, false)).await, none);
    assert_eq!(asked(&|answer| (answer.is_signed, answer.closing) = (true, json!({"after": 0}))).await, none);
    let kept_back = json!({"at": 2, "present": 2, "count": 1});
    assert_eq!(asked(&|answer| answer.closing = kept_back.clone()).await, none, "one message is missing");
    let set = |answer: &mut Answering| (answer.closing, answer.messages) = (at_2(), vec![tampered.clone()]);
    assert_eq!(asked(&set).await, none);
    // As it should be.
    assert_eq!(asked(&|answer| answer.messages = vec![told.clone()]).await, (json!(null), json!(1)));
}

#[tokio::test]
async fn questions_are_answered_to_whom_they_are_for() {
    let node = Node::start().await;
    let mut origin = Origin::of(&node, json!({"direction": "both"})).await;
    let ask = |more: Value| {
        let mut payload = json!({"action": "ask", "after": 0, "told_at_ms": 0});
        payload.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        payload
    };
    // By terms that are not these, everything would have to be told.
    let question = origin.signed("REGISTRY_SYNC", ask(json!({})));
    let refused = node.post("/klp/changes", &question).await;
    assert_eq!((refused.status, refused.code()), (409, "resync_needed"), "{refused:?}");
    let mut tampered = question.clone();
    tampered["payload"]["after"] = 1.into();
    assert_eq!(node.post("/klp/changes", &tampered).await.code(), "invalid_signature");
    let mut foreign = origin.message("REGISTRY_SYNC", ask(json!({})));
    foreign["target"] = did(&rollcall_signature::SigningKey::generate().public_key().to_string()).into();
    assert_eq!(node.post("/klp/changes", &origin.sign(foreign)).await.code(), "wrong_target");
    let bookmark = origin.signed("REGISTRY_SYNC", json!({"action": "bookmark", "after": 0, "at": 0}));
    let faulty = node.post("/klp/changes", &bookmark).await;
    assert_eq!((faulty.status, faulty.faults()), (400, vec!["payload.action"]), "{faulty:?}");
    assert_eq!(node.post("/api/federation/peers/east/pause", &json!(null)).await.status, 200);
    let question = origin.signed("REGISTRY_SYNC", ask(json!({})));
    assert_eq!(node.post("/klp/changes", &question).await.code(), "peer_paused");
    let unknown = Node::start().await;
    let _ = key(&unknown).await;
    assert_eq!(unknown.post("/klp/changes", &question).await.code(), "unknown_peer");
}

#[tokio::test]
async fn the_faces_show_other_clusters_where_they_are_asked_to() {
    let (east, west) = (Node::start().await, Node::start().await);
    assert_eq!(name(&east, "west", &west, json!({"offered": "internal"})).await.status, 201);
    assert_eq!(name(&west, "east", &east, json!({})).await.status, 201);
    let card = |url: &str, name: &str| json!({"name": name, "url": url, "description": "d", "version": "1.0.0"});
    assert_eq!(east.post("/agents", &card("http://far", "far")).await.status, 200);
    assert_eq!(west.post("/agents", &card("http://near", "near")).await.status, 200);
    west.until("east's is known", async || found(&west, "").await.len() == 2).await;

    let names = async |path: &str, member: Option<&str>| {
        let answer = west.get(path).await;
        let list = member.map_or(&answer.body, |member| &answer.body[member]);
        let list = list.as_array().unwrap_or_else(|| panic!("{path}: {answer:?}"));
        list.iter().map(|agent| agent["name"].as_str().expect("a name").to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(names("/agents", None).await, ["near"]);
    assert_eq!(names("/agents?include_federated=true", None).await, ["near", "far"]);
    assert_eq!(names("/agents?include_federated=true&name=far", None).await, ["far"]);
    assert_eq!(west.get("/agents?include_federated=perhaps").await.status, 400);
    assert_eq!(names("/v1/agents", Some("agents")).await.len(), 1);
    assert_eq!(names("/v1/agents?include_federated=true", Some("agents")).await.len(), 2);
    let id = found(&west, "&name=far").await[0].0.clone();
    assert_eq!(names(&format!("/v1/agents?agent_id={id}"), Some("agents")).await.len(), 0);
    assert_eq!(names(&format!("/v1/agents?agent_id={id}&include_federated=1"), Some("agents")).await.len(), 1);
}
