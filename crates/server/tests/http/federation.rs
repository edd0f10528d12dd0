//! Clusters that tell each other what is on their rolls, and what is not taken from whom.

use std::time::{SystemTime, UNIX_EPOCH};

use rollcall_server::Settings;
use rollcall_signature::{SigningKey, canonical};
use serde_json::{Value, json};

use crate::node::{Answer, Node};

pub(crate) fn web(id: &str, visibility: &str) -> Value {
    json!({"id": id, "name": "web", "url": format!("http://{id}"), "visibility": visibility, "ttl_ms": 600_000,
        "tags": ["t"], "capabilities": ["read"], "metadata": {"env": "prod"}})
}

pub(crate) async fn key(node: &Node) -> String {
    node.post("/api/federation/key", &Value::Null).await.body["public_key"].as_str().expect("a key").to_owned()
}

pub(crate) async fn name(node: &Node, peer: &str, other: &Node, more: Value) -> Answer {
    let mut body = json!({"name": peer, "public_key": key(other).await, "urls": [other.base]});
    body.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
    node.post("/api/federation/peers", &body).await
}

/// Ids that are found, with whose they are.
pub(crate) async fn found(node: &Node, query: &str) -> Vec<(String, Value)> {
    let answer = node.get(&format!("/api/services?include_federated=true{query}")).await;
    let services = answer.body["services"].as_array().unwrap_or_else(|| panic!("{answer:?}"));
    services.iter().map(|s| (s["id"].as_str().expect("an id").to_owned(), s["origin"].clone())).collect()
}

pub(crate) fn of(ids: &[(&str, Option<&str>)]) -> Vec<(String, Value)> {
    ids.iter().map(|(id, origin)| ((*id).to_owned(), json!(origin))).collect()
}

pub(crate) async fn until_found(node: &Node, ids: &[(&str, Option<&str>)]) {
    node.until(&format!("{ids:?} are found"), async || found(node, "").await == of(ids)).await;
}

#[tokio::test]
async fn what_is_public_is_told_and_nothing_else() {
    let (east, west) = (Node::start().await, Node::start().await);
    east.register(web("before", "public")).await;
    east.register(web("hidden", "private")).await;
    assert_eq!(name(&east, "west", &west, json!({})).await.status, 201);
    assert_eq!(name(&west, "east", &east, json!({})).await.status, 201);
    west.register(web("own", "public")).await;
    until_found(&west, &[("before", Some("east")), ("own", None)]).await;
    until_found(&east, &[("before", None), ("hidden", None), ("own", Some("west"))]).await;

    // Whoever comes, changes and goes.
    east.register(web("later", "public")).await;
    until_found(&west, &[("before", Some("east")), ("later", Some("east")), ("own", None)]).await;
    let beat = json!({"status": "degraded", "metadata": {"load": 1}});
    assert_eq!(east.post("/api/services/later/heartbeat", &beat).await.status, 200);
    west.until("its status is told", async || found(&west, "&status=degraded").await.len() == 1).await;
    let answer = west.get("/api/services?include_federated=true&status=degraded").await;
    let service = &answer.body["services"][0];
    assert_eq!((&service["origin"], &service["stale"]), (&json!("east"), &json!(false)));
    assert_eq!(service["metadata"], json!({"env": "prod", "load": 1}));
    assert_eq!((&service["lease"]["id"], &service["tags"]), (&json!(0), &json!(["t"])));
    let counts = ["total_count", "local_count", "federated_count"].map(|name| answer.body[name].clone());
    assert_eq!(counts, [json!(1), json!(0), json!(1)]);
    assert_eq!(answer.body["federated_results"], true);

    // What is asked without other clusters is answered without them.
    let alone = west.get("/api/services").await;
    assert_eq!((&alone.body["total_count"], &alone.body["federated_results"]), (&json!(1), &json!(false)));
    assert_eq!(west.get("/api/services/later").await.status, 404, "it is not on this roll");
    assert_eq!(west.delete("/api/services/later").await.status, 404);
    assert_eq!(west.post("/api/services/later/heartbeat", &json!({})).await.status, 404, "nobody renews it here");

    // What is private from now on is told no more.
    east.register(web("before", "private")).await;
    assert_eq!(east.delete("/api/services/later").await.status, 200);
    until_found(&west, &[("own", None)]).await;

    // Who wins where both know an id, and that nobody passes anything on.
    east.register(web("own", "public")).await;
    east.register(web("x", "public")).await;
    until_found(&west, &[("own", None), ("x", Some("east"))]).await;
    let status = east.get("/api/federation").await;
    let peer = &status.body["peers"][0];
    assert_eq!((&peer["name"], &peer["sending"]["state"]), (&json!("west"), &json!("following")));
    assert_eq!(status.body["propagation"]["successful_propagations"], 1);
    let metrics = east.get("/metrics").await;
    let text = metrics.body.as_str().expect("text");
    assert!(text.contains("rollcall_federation_requests_total{peer=\"west\",result=\"failed\"} 0"), "{text}");
}

#[tokio::test]
async fn tenants_are_shared_by_name_and_no_others() {
    let (east, west) = (Node::start().await, Node::start().await);
    let in_tenant = |node: &Node, tenant: &str, body: &Value| {
        let request = node.request(reqwest::Method::POST, "/api/services/register");
        crate::node::answer(request.header("x-tenant-id", tenant).json(body))
    };
    assert_eq!(in_tenant(&east, "sales", &web("s", "public")).await.status, 201);
    assert_eq!(in_tenant(&east, "hr", &web("h", "public")).await.status, 201);
    assert_eq!(in_tenant(&east, "sales", &web("unlabelled", "public")).await.status, 201);
    let labelled = json!({"id": "i", "name": "web", "url": "http://i", "visibility": "internal", "ttl_ms": 600_000,
        "metadata": {"env": "prod", "share": "yes"}});
    assert_eq!(in_tenant(&east, "sales", &labelled).await.status, 201);
    let terms = json!({"tenants": {"sales": "vertrieb"}, "offered": "internal", "selector": "share=yes"});
    assert_eq!(name(&east, "west", &west, terms).await.status, 201);
    assert_eq!(name(&west, "east", &east, json!({"tenants": {"vertrieb": "sales"}})).await.status, 201);
    let all = async |tenant: &str| {
        let request = west.request(reqwest::Method::GET, "/api/services?include_federated=true");
        crate::node::answer(request.header("x-tenant-id", tenant)).await.body["services"].clone()
    };
    west.until("it is told", async || all("vertrieb").await.as_array().is_some_and(|all| all.len() == 1)).await;
    let shown = all("vertrieb").await;
    assert_eq!((&shown[0]["id"], &shown[0]["tenant"]), (&json!("i"), &json!("vertrieb")));
    for tenant in ["sales", "hr", "default"] {
        assert_eq!(all(tenant).await, json!([]), "{tenant}");
    }
}

#[tokio::test]
async fn operators_name_pause_and_remove_peers() {
    let (east, west) = (Node::start().await, Node::start().await);
    let faulty = json!({"name": "a b", "public_key": "?", "urls": ["ftp://x"], "ca": "no", "direction": "up",
        "tenants": {"a": "x", "b": "x"}, "offered": "all", "selector": "(", "trust": 11, "priority": -1, "x": 1});
    let refused = east.post("/api/federation/peers", &faulty).await;
    assert_eq!(refused.status, 400);
    let expected = [
        "name",
        "public_key",
        "urls[0]",
        "urls",
        "ca",
        "direction",
        "tenants.b",
        "offered",
        "selector",
        "trust",
        "priority",
        "x",
    ];
    let faults = refused.faults();
    assert!(expected.iter().all(|field| faults.contains(field) || *field == "urls"), "{faults:?}");
    let own = name(&east, "me", &east, json!({})).await;
    assert_eq!((own.status, own.faults()), (400, vec!["public_key"]));

    east.register(web("x", "public")).await;
    assert_eq!(name(&east, "west", &west, json!({})).await.status, 201);
    assert_eq!(name(&east, "west", &west, json!({})).await.code(), "peer_exists");
    assert_eq!(name(&east, "other", &west, json!({})).await.code(), "peer_exists", "the key is known already");
    assert_eq!(name(&west, "east", &east, json!({})).await.status, 201);
    until_found(&west, &[("x", Some("east"))]).await;

    let paused = west.post("/api/federation/peers/east/pause", &Value::Null).await;
    assert_eq!((paused.status, &paused.body["paused"]), (200, &json!(true)));
    east.register(web("y", "public")).await;
    east.until("it is told that it is paused", async || {
        let status = east.get("/api/federation").await;
        let error = status.body["propagation"]["propagation_results"][0]["error"].clone();
        error.as_str().is_some_and(|error| error.contains("peer_paused"))
    })
    .await;
    assert_eq!(found(&west, "").await, of(&[("x", Some("east"))]));
    assert_eq!(west.post("/api/federation/peers/east/resume", &Value::Null).await.status, 200);
    until_found(&west, &[("x", Some("east")), ("y", Some("east"))]).await;

    assert_eq!(west.delete("/api/federation/peers/east").await.status, 200);
    assert_eq!(found(&west, "").await, []);
    assert_eq!(west.delete("/api/federation/peers/east").await.code(), "peer_not_found");
    west.until("nothing is left of it", async || west.get("/api/federation").await.body["peers"] == json!([])).await;
    // Named again, it tells everything again.
    assert_eq!(name(&west, "east", &east, json!({})).await.status, 201);
    until_found(&west, &[("x", Some("east")), ("y", Some("east"))]).await;
}

/// A cluster of which there is no more than its key.
pub(crate) struct Origin {
    pub(crate) key: SigningKey,
    pub(crate) target: String,
    pub(crate) told_at: u64,
}

pub(crate) fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_millis() as u64
}

pub(crate) fn did(key: &str) -> String {
    format!("kind:did:{key}#ed25519")
}

impl Origin {
    /// Named by a node as `east`.
    pub(crate) async fn of(node: &Node, more: Value) -> Self {
        let key = SigningKey::generate();
        let mut body = json!({"name": "east", "public_key": key.public_key().to_string(), "urls": ["http://127.0.0.1:1"],
                "direction": "receive"});
        body.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        let named = node.post("/api/federation/peers", &body).await;
        assert_eq!(named.status, 201, "{named:?}");
        Self { key, target: did(&self::key(node).await), told_at: now_ms() }
    }

    pub(crate) fn message(&mut self, kind: &str, mut payload: Value) -> Value {
        self.told_at += 1;
        payload["stream"] = json!({"epoch": 1, "since": 5});
        let instant = rfc3339(self.told_at);
        json!({
            "type": kind, "source": did(&self.key.public_key().to_string()), "target": self.target, "payload": payload,
            "metadata": {"priority": "NORMAL", "ttl": 3600, "hop_count": 1,
                "trust_requirements": {"minimum_trust_score": 6.0, "verification_level": "basic"}},
            "nonce": format!("nonce-{:016}", self.told_at), "timestamp": instant,
        })
    }

    pub(crate) fn sign(&self, mut message: Value) -> Value {
        message.as_object_mut().expect("an object").remove("signature");
        let text = canonical(&message).expect("canonical");
        message["signature"] = self.key.sign(text.as_bytes()).to_string().into();
        message
    }

    pub(crate) fn signed(&mut self, kind: &str, payload: Value) -> Value {
        let message = self.message(kind, payload);
        self.sign(message)
    }

    /// Tells all that it has: nothing, at revision 1.
    pub(crate) async fn begin(&mut self, node: &Node) {
        for payload in
            [json!({"action": "resync_begin", "at": 1}), json!({"action": "resync_end", "at": 1, "count": 0})]
        {
            let message = self.signed("REGISTRY_SYNC", payload);
            let answer = node.post("/klp/messages", &message).await;
            assert_eq!((answer.status, codes(&answer)), (200, vec!["applied".to_owned()]), "{answer:?}");
        }
    }

    pub(crate) fn registration(&mut self, revision: u64, tenant: &str, mut service: Value) -> Value {
        service["status"] = "active".into();
        service["revision"] = revision.into();
        service["registered_at"] = "2026-01-01T00:00:00Z".into();
        let payload = json!({"action": "register", "after": revision - 1, "revision": revision, "tenant": tenant,
            "service": service});
        self.message("SERVICE_REGISTRATION", payload)
    }
}

/// RFC 3339, by the calendar that the test needs not know itself.
pub(crate) fn rfc3339(ms: u64) -> String {
    let seconds = ms / 1_000;
    let (days, time) = (seconds / 86_400, seconds % 86_400);
    // Civil from days, by Howard Hinnant.
    let z = days as i64 + 719_468;
    let era = z / 146_097;
    let doe = z - era * 146_097;
    let yoe = (doe - doe / 1_460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let (day, month) = (doy - (153 * mp + 2) / 5 + 1, if mp < 10 { mp + 3 } else { mp - 9 });
    let year = yoe + era * 400 + i64::from(month <= 2);
    let (hour, minute, second, ms) = (time / 3_600, time / 60 % 60, time % 60, ms % 1_000);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{ms:03}Z")
}

pub(crate) fn codes(answer: &Answer) -> Vec<String> {
    let results = answer.body["results"].as_array().unwrap_or_else(|| panic!("{answer:?}"));
    results.iter().map(|result| result["code"].as_str().expect("a code").to_owned()).collect()
}

#[tokio::test]
async fn who_is_not_who_they_say_or_says_it_again_is_refused() {
    let west = Node::start().await;
    let mut origin = Origin::of(&west, json!({})).await;
    origin.begin(&west).await;
    let good = origin.registration(2, "default", web("x", "public"));
    let refused = async |message: &Value, status: u16, code: &str| {
        let answer = west.post("/klp/messages", message).await;
        assert_eq!((answer.status, answer.code()), (status, code), "{answer:?}");
        assert_eq!(found(&west, "").await, []);
    };
    // Tampered with, or signed by another key.
    for (at, value) in [
        ("/payload/service/url", json!("http://evil")),
        ("/payload/tenant", json!("other")),
        ("/payload/revision", json!(3)),
        ("/metadata/ttl", json!(7)),
    ] {
        let mut bad = origin.sign(good.clone());
        *bad.pointer_mut(at).expect("it is there") = value;
        refused(&bad, 401, "invalid_signature").await;
    }
    let eve = Origin { key: SigningKey::generate(), target: origin.target.clone(), told_at: 0 };
    let mut bad = good.clone();
    bad["signature"] = eve.sign(good.clone())["signature"].clone();
    refused(&bad, 401, "invalid_signature").await;
    let mut unknown = good.clone();
    unknown["source"] = did(&eve.key.public_key().to_string()).into();
    refused(&eve.sign(unknown), 403, "unknown_peer").await;
    // For somebody else, passed on, or come back.
    let with = |at: &str, value: Value| {
        let mut message = good.clone();
        *message.pointer_mut(at).expect("it is there") = value;
        origin.sign(message)
    };
    refused(&with("/target", did(&eve.key.public_key().to_string()).into()), 403, "wrong_target").await;
    refused(&with("/target", "broadcast".into()), 403, "wrong_target").await;
    refused(&with("/metadata/hop_count", json!(2)), 403, "hop_count_exceeded").await;
    let mut own = good.clone();
    own["source"] = origin.target.clone().into();
    own["signature"] = "A".repeat(86).into();
    refused(&own, 403, "own_message").await;
    // Of another time.
    refused(&with("/timestamp", rfc3339(now_ms() - 600_000).into()), 403, "timestamp_out_of_window").await;
    refused(&with("/timestamp", rfc3339(now_ms() + 600_000).into()), 403, "timestamp_out_of_window").await;
    let earlier = with("/timestamp", rfc3339(now_ms() - 60_000).into());
    refused(&earlier, 409, "message_replayed").await;
    refused(&with("/metadata/trust_requirements/minimum_trust_score", json!(8.5)), 403, "not_trusted").await;

    // What is right is taken once, and one of those that are refused does not harm what is known.
    let signed = origin.sign(good.clone());
    for code in ["applied", "already_known"] {
        let answer = west.post("/klp/messages", &json!({ "messages": [signed] })).await;
        assert_eq!((answer.status, codes(&answer)), (200, vec![code.to_owned()]));
        assert_eq!(answer.body["received"]["revision"], 2);
    }
    assert_eq!(found(&west, "").await, of(&[("x", Some("east"))]));
}

#[tokio::test]
async fn each_message_is_told_what_became_of_it() {
    let west = Node::start().await;
    let mut origin = Origin::of(&west, json!({"tenants": {"west": "east"}})).await;
    let early = origin.registration(2, "east", web("x", "public"));
    let answer = west.post("/klp/messages", &origin.sign(early)).await;
    assert_eq!(codes(&answer), ["resync_needed"]);
    assert_eq!(answer.body["received"]["stream"], Value::Null);
    origin.begin(&west).await;
    let faulty = json!({"id": "u", "name": "", "url": "nowhere"});
    let messages: Vec<Value> = [
        origin.registration(2, "default", web("x", "public")),
        origin.registration(3, "east", web("p", "private")),
        origin.registration(4, "east", faulty),
        origin.registration(5, "east", web("x", "public")),
        // Something is missing before it.
        origin.registration(9, "east", web("y", "public")),
    ]
    .into_iter()
    .map(|message| origin.sign(message))
    .collect();
    let answer = west.post("/klp/messages", &json!({ "messages": messages })).await;
    assert_eq!(codes(&answer), ["tenant_not_mapped", "not_offered", "unreadable", "applied", "out_of_order"]);
    assert_eq!(answer.body["received"]["revision"], 5);
    let status = west.get("/api/federation").await;
    let known = &status.body["peers"][0]["receiving"];
    assert_eq!((&known["instances"], &known["lacking"], &known["revision"]), (&json!(1), &json!(3), &json!(5)));
    assert_eq!(found(&west, "").await, [], "the tenant that asks is none of these");

    let broken = west.post("/klp/messages", &json!({"messages": [{"type": "X"}, 7]})).await;
    assert_eq!(broken.status, 400);
    assert!(broken.faults().contains(&"messages[0].source") && broken.faults().contains(&"messages[1]"));
    assert_eq!(west.post("/klp/messages", &json!({"messages": []})).await.faults(), ["messages"]);
    assert_eq!(west.get("/klp/messages").await.status, 405);
}

#[tokio::test]
async fn whom_an_operator_does_not_trust_enough_is_neither_told_nor_believed() {
    let west = Node::start().await;
    let mut origin = Origin::of(&west, json!({"trust": 5.99})).await;
    let message = origin.signed("REGISTRY_SYNC", json!({"action": "resync_begin", "at": 1}));
    assert_eq!(west.post("/klp/messages", &message).await.code(), "not_trusted");
    let (east, north) = (Node::start().await, Node::start().await);
    east.register(web("x", "public")).await;
    assert_eq!(name(&east, "north", &north, json!({"trust": 5})).await.status, 201);
    assert_eq!(name(&north, "east", &east, json!({})).await.status, 201);
    // Nothing is to come: what the peer is told is known by whether there is a link at all.
    let status = east.get("/api/federation").await;
    assert_eq!(status.body["peers"][0]["sending"], Value::Null);
    assert_eq!(found(&north, "").await, []);
}

#[tokio::test]
async fn messages_need_no_token_and_operators_do() {
    let mut node = Node::start_as(Settings { auth: Some(true), ..Node::founder() }).await;
    let admin = node.admin().await;
    assert_eq!(node.get("/api/federation").await.status, 401);
    assert_eq!(node.post("/api/federation/peers", &json!({})).await.status, 401);
    let key = node.request(reqwest::Method::POST, "/api/federation/key").bearer_auth(&admin);
    let key = crate::node::answer(key).await;
    let target = key.body["did"].as_str().expect("a name").to_owned();
    let mut origin = Origin { key: SigningKey::generate(), target, told_at: now_ms() };
    let message = origin.signed("REGISTRY_SYNC", json!({"action": "resync_begin", "at": 1}));
    assert_eq!(node.post("/klp/messages", &message).await.code(), "unknown_peer");
}
