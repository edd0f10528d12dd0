//! What watchers are told of other clusters' instances.

use std::time::Duration;

use reqwest::Method;
use rollcall_server::Settings;
use rollcall_signature::SigningKey;
use serde_json::{Value, json};

use crate::events::{Event, Events};
use crate::federation::{Origin, codes, name, now_ms, until_found, web};
use crate::node::{Node, answer};
use crate::socket::Socket;

/// The next events but bookmarks: what and of whom, whose it is, and the id to go on after.
async fn told(events: &mut Events, count: usize) -> Vec<String> {
    let mut told = Vec::new();
    while told.len() < count {
        let event = events.next().await.unwrap_or_else(|| panic!("the stream ended after {told:?}"));
        if event.event != "bookmark" {
            told.push(of(&event));
        }
    }
    told
}

/// Revisions of other clusters depend on what else they did.
fn of(event: &Event) -> String {
    let kind = event.data["update_type"].as_str().unwrap_or(&event.event);
    let service = &event.data["service"];
    let words = [Some(kind), service["id"].as_str(), service["origin"].as_str(), Some(event.id.as_str())];
    words.into_iter().flatten().filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ")
}

fn watch(node: &Node, query: &str) -> reqwest::RequestBuilder {
    node.request(Method::GET, &format!("/api/services/watch{query}"))
}

const FEDERATED: &str = "?include_federated=true";

/// East, and West that is told by it.
async fn told_by_east() -> (Node, Node) {
    let (east, west) = (Node::start().await, Node::start().await);
    assert_eq!(name(&east, "west", &west, json!({})).await.status, 201);
    assert_eq!(name(&west, "east", &east, json!({})).await.status, 201);
    // From here on each change is told by itself.
    east.until("it is told as it comes", async || {
        let status = east.get("/api/federation").await;
        status.body["peers"][0]["sending"]["state"] == "following"
    })
    .await;
    (east, west)
}

fn tagged(id: &str, tag: &str) -> Value {
    let mut service = web(id, "public");
    service["tags"] = json!([tag]);
    service
}

#[tokio::test]
async fn both_are_told_from_the_beginning_and_after_a_resume_point() {
    let (east, west) = told_by_east().await;
    east.register(web("before", "public")).await;
    west.register(web("own", "public")).await;
    until_found(&west, &[("before", Some("east")), ("own", None)]).await;

    let (mut both, mut own) = (Events::of(&west, FEDERATED).await, Events::of(&west, "").await);
    assert_eq!(told(&mut both, 1).await, ["snapshot own"]);
    let shown = both.next().await.expect("a snapshot").data;
    let service = &shown["service"];
    let members = [&service["id"], &service["origin"], &service["stale"], &service["lease"]["id"]];
    assert_eq!(members, [&json!("before"), &json!("east"), &json!(false), &json!(0)]);
    assert_eq!(shown["revision"], 1);
    assert_eq!(told(&mut both, 1).await, ["synced 0-1"], "one word ends both");
    assert_eq!(told(&mut own, 2).await, ["snapshot own", "synced 0-1"]);

    let registered = east.register(web("later", "public")).await;
    let event = loop {
        let event = both.next().await.expect("a change");
        if event.event != "bookmark" {
            break event;
        }
    };
    assert_eq!(of(&event), "registered later east");
    let revisions = [&event.data["revision"], &event.data["service"]["revision"]];
    assert_eq!(revisions, [&registered.body["revision"]; 2], "they are its cluster's");
    assert!(event.data["timestamp"].as_str().is_some_and(|text| text.ends_with('Z')));

    let beat = json!({"status": "degraded"});
    assert_eq!(east.post("/api/services/later/heartbeat", &beat).await.status, 200);
    assert_eq!(told(&mut both, 1).await, ["status_changed later east"]);
    assert_eq!(east.delete("/api/services/before").await.status, 200);
    assert_eq!(told(&mut both, 1).await, ["deregistered before east"]);
    west.register(web("new", "public")).await;
    assert_eq!(told(&mut both, 1).await, ["registered new 0-2"]);
    assert_eq!(told(&mut own, 1).await, ["registered new 0-2"], "who does not ask is not told");

    // What came after the point, and all of the other cluster.
    let mut resumed = Events::open(watch(&west, FEDERATED).header("last-event-id", "0-1")).await;
    let (mut seen, own) = (Vec::new(), "registered new 0-2".to_owned());
    while !(seen.contains(&own) && seen.iter().any(|event: &String| event.starts_with("synced"))) {
        seen.push(of(&resumed.next().await.expect("an event")));
    }
    // A bookmark comes wherever the present is reached, and that may have moved on meanwhile.
    seen.retain(|event| !event.starts_with("bookmark") && !event.starts_with("synced"));
    seen.sort();
    assert_eq!(seen, [own, "snapshot later east".to_owned()]);
    east.register(web("again", "public")).await;
    assert_eq!(told(&mut resumed, 1).await, ["registered again east"]);
}

#[tokio::test]
async fn an_instance_of_another_cluster_leaves_and_comes_by_what_is_asked() {
    let (east, west) = told_by_east().await;
    let mut events = Events::of(&west, "?include_federated=true&tags=gpu").await;
    assert_eq!(told(&mut events, 1).await, ["synced 0-0"]);
    for tag in ["gpu", "cpu", "gpu", "cpu", "tpu"] {
        east.register(tagged("x", tag)).await;
    }
    east.register(tagged("y", "gpu")).await;
    let expected = ["registered x east", "left x east", "updated x east", "left x east", "registered y east"];
    let mut last = Value::Null;
    for expected in expected {
        let event = loop {
            let event = events.next().await.expect("a change");
            if event.event != "bookmark" {
                break event;
            }
        };
        assert_eq!(of(&event), expected);
        if expected.starts_with("left") {
            last = event.data["service"]["tags"].clone();
        }
    }
    assert_eq!(last, json!(["gpu"]), "it is shown as it last matched");
}

#[tokio::test]
async fn the_instances_of_a_removed_peer_are_told_gone() {
    let (east, west) = told_by_east().await;
    for id in ["a", "b"] {
        east.register(web(id, "public")).await;
    }
    until_found(&west, &[("a", Some("east")), ("b", Some("east"))]).await;
    let mut before = Events::of(&west, FEDERATED).await;
    assert_eq!(told(&mut before, 3).await, ["snapshot a east", "snapshot b east", "synced 0-0"]);
    assert_eq!(west.delete("/api/federation/peers/east").await.status, 200);
    let mut after = Events::of(&west, FEDERATED).await;
    assert_eq!(told(&mut after, 1).await, ["synced 0-0"]);
    assert_eq!(told(&mut before, 2).await, ["deregistered a east", "deregistered b east"]);
}

/// Tells registrations, each after the one before it.
async fn tell(origin: &mut Origin, node: &Node, first: u64, tenant: &str, services: Vec<Value>) {
    let numbered = services.into_iter().zip(first..);
    let messages: Vec<_> = numbered
        .map(|(service, revision)| {
            let message = origin.registration(revision, tenant, service);
            origin.sign(message)
        })
        .collect();
    let answer = node.post("/klp/messages", &json!({ "messages": messages })).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(codes(&answer).iter().all(|code| code == "applied"), "{answer:?}");
}

#[tokio::test]
async fn p10_watchers_are_told_of_their_own_tenant_alone() {
    let west = Node::start().await;
    let mut origin = Origin::of(&west, json!({"tenants": {"vertrieb": "sales"}})).await;
    origin.begin(&west).await;
    tell(&mut origin, &west, 2, "sales", vec![web("x", "public")]).await;
    let of_tenant = |tenant: &str| Events::open(watch(&west, FEDERATED).header("x-tenant-id", tenant));
    let (mut own, mut other) = (of_tenant("vertrieb").await, of_tenant("sales").await);
    assert_eq!(told(&mut own, 2).await, ["snapshot x east", "synced 0-0"]);
    assert_eq!(told(&mut other, 1).await, ["synced 0-0"]);
    tell(&mut origin, &west, 3, "sales", vec![web("y", "internal")]).await;
    assert_eq!(told(&mut own, 1).await, ["registered y east"]);
    let request = west.request(Method::POST, "/api/services/register").header("x-tenant-id", "sales");
    assert_eq!(answer(request.json(&web("z", "public"))).await.status, 201);
    assert_eq!(told(&mut other, 1).await, ["registered z 0-1"]);
}

#[tokio::test]
async fn what_is_hidden_here_hides_nothing_of_others() {
    let mut node = Node::start_as(Settings { auth: Some(true), ..Node::founder() }).await;
    let admin = node.admin().await;
    let post = async |token: &str, path: &str, body: Value| {
        answer(node.request(Method::POST, path).bearer_auth(token).json(&body)).await
    };
    let target = post(&admin, "/api/federation/key", Value::Null).await.body["did"].clone();
    let target = target.as_str().expect("a name").to_owned();
    let mut origin = Origin { key: SigningKey::generate(), target, told_at: now_ms() };
    let peer = json!({"name": "east", "public_key": origin.key.public_key().to_string(),
        "urls": ["http://127.0.0.1:1"], "direction": "receive", "tenants": {"red": "red"}});
    assert_eq!(post(&admin, "/api/federation/peers", peer).await.status, 201);
    let mut tokens = Vec::new();
    for role in ["agent", "reader"] {
        let made = post(&admin, "/api/tokens", json!({"role": role, "tenant": "red"})).await;
        tokens.push(made.body["token"].as_str().unwrap_or_else(|| panic!("{made:?}")).to_owned());
    }
    let [agent, reader] = &tokens[..] else { panic!("two tokens") };
    let own = json!({"id": "x", "name": "web", "url": "http://own", "visibility": "private", "ttl_ms": 600_000});
    assert_eq!(post(agent, "/api/services/register", own).await.status, 201);
    origin.begin(&node).await;
    tell(&mut origin, &node, 2, "red", vec![web("x", "internal"), web("y", "public")]).await;

    let of = |token: &str, query: &str| Events::open(watch(&node, query).bearer_auth(token));
    let (mut by_agent, mut by_reader) = (of(agent, FEDERATED).await, of(reader, FEDERATED).await);
    let all = ["snapshot x", "snapshot x east", "snapshot y east", "synced 0-1"];
    assert_eq!(told(&mut by_agent, 4).await, all);
    assert_eq!(told(&mut by_reader, 3).await, all[1..]);
    let mut public = of(reader, "?include_federated=true&visibility=public").await;
    assert_eq!(told(&mut public, 2).await, ["snapshot y east", "synced 0-1"]);
    tell(&mut origin, &node, 4, "red", vec![web("y", "internal")]).await;
    assert_eq!(told(&mut public, 1).await, ["left y east"]);
    assert_eq!(told(&mut by_reader, 1).await, ["updated y east"]);
}

#[tokio::test]
async fn subscriptions_may_ask_for_other_clusters_too() {
    let (east, west) = told_by_east().await;
    east.register(tagged("x", "gpu")).await;
    east.register(tagged("z", "npu")).await;
    until_found(&west, &[("x", Some("east")), ("z", Some("east"))]).await;
    let mut socket = Socket::open(&west).await;
    // Both filters find it, and it is told once.
    let filters = json!([{"tags": "gpu"}, {"name": "web", "tags": ["gpu"]}, {"tags": ["cpu"]}]);
    socket.say(json!({"type": "subscribe", "filters": filters, "include_federated": true})).await;
    assert_eq!(socket.told().await, "1: subscribed r0");
    let shown = socket.hear().await.expect("a snapshot");
    assert_eq!((&shown["type"], &shown["service"]["origin"]), (&json!("snapshot"), &json!("east")));
    assert_eq!(socket.told().await, "1: synced r0");
    socket.say(json!({"type": "subscribe", "filters": [{"tags": "cpu"}]})).await;
    assert_eq!(socket.told().await, "2: subscribed r0");
    assert_eq!(socket.told().await, "2: synced r0");

    east.register(tagged("y", "cpu")).await;
    let update = loop {
        let message = socket.hear().await.expect("the connection lives");
        if message["type"] != "bookmark" {
            break message;
        }
    };
    assert_eq!(
        [&update["type"], &update["subscription_id"], &update["update_type"], &update["service"]["origin"]],
        [&json!("service_update"), &json!(1), &json!("registered"), &json!("east")]
    );
    west.register(tagged("own", "cpu")).await;
    let mut both = [socket.told().await, socket.told().await];
    both.sort();
    assert_eq!(both, ["1: registered own r1", "2: registered own r1"], "who does not ask is not told");
    socket.say(json!({"type": "subscribe", "include_federated": "yes"})).await;
    assert_eq!(socket.hear().await.expect("an answer")["problem"]["errors"][0]["field"], "include_federated");
}

#[tokio::test]
async fn p9_a_change_while_a_snapshot_is_told_is_told_once() {
    let west = Node::start().await;
    let mut origin = Origin::of(&west, json!({})).await;
    origin.begin(&west).await;
    // More than a connection holds back, so that the last of it is read when the roll has moved on.
    let padding = "x".repeat(60_000);
    let large = |id: &str, url: &str| {
        let mut service = web(id, "public");
        service["url"] = url.into();
        service["metadata"] = json!({ "p": padding });
        service
    };
    for first in (0..300).step_by(30) {
        let services = (first..first + 30).map(|n| large(&format!("i{n:03}"), "http://1")).collect();
        tell(&mut origin, &west, first + 2, "default", services).await;
    }
    let mut events = Events::of(&west, FEDERATED).await;
    assert_eq!(told(&mut events, 1).await, ["snapshot i000 east"]);
    // Behind and before the place that is being told.
    let changed = ["i000", "i298", "i0001", "i2981"].map(|id| large(id, "http://2"));
    tell(&mut origin, &west, 302, "default", changed.to_vec()).await;
    let gone =
        json!({"action": "deregister", "after": 305, "revision": 306, "tenant": "default", "service_id": "i299"});
    let message = origin.signed("SERVICE_DEREGISTRATION", gone);
    assert_eq!(codes(&west.post("/klp/messages", &message).await), ["applied"]);
    tell(&mut origin, &west, 307, "default", vec![web("last", "public")]).await;

    let mut seen = Vec::new();
    while seen.last().is_none_or(|last: &String| !last.starts_with("registered end ")) {
        let event = events.next().await.expect("an event");
        let url = event.data["service"]["url"].as_str().unwrap_or_default().to_owned();
        seen.push(format!("{} {url}", of(&event)));
        if event.event == "synced" {
            tell(&mut origin, &west, 308, "default", vec![web("end", "public")]).await;
        }
    }
    seen.retain(|seen| !seen.starts_with("bookmark"));
    let snapshot: Vec<_> = (1..298).map(|n| format!("snapshot i{n:03} east http://1")).collect();
    let rest = seen.split_off(snapshot.len());
    assert_eq!(seen, snapshot);
    let expected = [
        "snapshot i298 east http://2",
        "snapshot i2981 east http://2",
        "snapshot last east http://last",
        "synced 0-0 ",
        "updated i000 east http://2",
        "registered i0001 east http://2",
        "registered end east http://end",
    ];
    assert_eq!(rest, expected);
}

#[tokio::test]
async fn p11_who_stops_reading_is_told_all_anew_and_is_not_cut() {
    // More than the roll remembers and connections hold back.
    const CHANGES: u64 = 1_200;
    const AT_ONCE: u64 = 60;
    let west = Node::start().await;
    let mut origin = Origin::of(&west, json!({})).await;
    origin.begin(&west).await;
    let padding = "x".repeat(40_000);
    let large = |n: u64| {
        let mut service = web("big", "public");
        service["url"] = format!("http://h/{n}").into();
        service["metadata"] = json!({ "p": padding });
        service
    };
    tell(&mut origin, &west, 2, "default", vec![large(0), web("small", "public")]).await;
    let mut events = Events::of(&west, FEDERATED).await;
    assert_eq!(told(&mut events, 3).await, ["snapshot big east", "snapshot small east", "synced 0-0"]);
    for first in (0..CHANGES).step_by(AT_ONCE as usize) {
        let services = (first..first + AT_ONCE).map(|n| large(n + 1)).collect();
        tell(&mut origin, &west, first + 4, "default", services).await;
    }
    let (mut changes, mut snapshots, mut url) = (0, Vec::new(), Value::Null);
    while url != format!("http://h/{CHANGES}") {
        let event = tokio::time::timeout(Duration::from_secs(20), events.next()).await.expect("an event in time");
        let event = event.expect("it is not cut");
        match event.event.as_str() {
            "change" => changes += 1,
            "snapshot" | "synced" => snapshots.push(of(&event)),
            _ => {}
        }
        if event.data["service"]["id"] == "big" {
            url = event.data["service"]["url"].clone();
        }
    }
    assert!(changes < CHANGES, "all was held in memory");
    if snapshots.last().is_some_and(|last| last == "snapshot big east") {
        snapshots.extend(told(&mut events, 2).await);
    }
    let rounds: Vec<_> = snapshots.chunks(3).collect();
    assert!(!rounds.is_empty(), "{changes} changes and no snapshot");
    for round in rounds {
        assert_eq!(round, ["snapshot big east", "snapshot small east", "synced 0-0"]);
    }
    let metrics = west.get("/metrics").await.body;
    assert!(metrics.as_str().expect("text").contains("rollcall_watch_resyncs_total 0"), "{metrics}");
}
