//! Alerts reach whoever is to be called, whatever becomes of leaders and receivers.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use reqwest::Method;
use rollcall_tests::{Api, Cluster, Received, Receiver, wait_until};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

const DEADLINE: Duration = Duration::from_secs(60);
const SECRET: &str = "a secret of some length";

async fn put(api: &Api, path: &str, body: &Value) -> Value {
    api.send(api.request(Method::PUT, path).json(body)).await.expect("an answer").ok()
}

async fn beat(api: &Api, id: &str, status: &str) {
    api.post(&format!("/api/services/{id}/heartbeat"), &json!({ "status": status })).await.ok();
}

fn sha256(parts: &[&[u8]]) -> Vec<u8> {
    let mut hash = Sha256::new();
    parts.iter().for_each(|part| hash.update(part));
    hash.finalize().to_vec()
}

/// As RFC 2104 has it.
fn hmac(secret: &str, message: &[u8]) -> String {
    let mut key = [0; 64];
    key[..secret.len()].copy_from_slice(secret.as_bytes());
    let pad = |with: u8| key.map(|byte| byte ^ with);
    let inner = sha256(&[&pad(0x36), message]);
    sha256(&[&pad(0x5c), &inner]).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn check_signature(received: &Received) {
    let timestamp = &received.headers["rollcall-timestamp"];
    let message = [timestamp.as_bytes(), b".", &received.body].concat();
    assert_eq!(received.headers["rollcall-signature"], format!("v1={}", hmac(SECRET, &message)));
    assert_eq!(received.headers["content-type"], "application/json");
}

/// What was taken, in order, as `id kind`, with the alerts' own ids.
fn taken(receiver: &Receiver) -> Vec<(String, String)> {
    let taken = receiver.received().into_iter().filter(|received| received.status == 200);
    let mut alerts = Vec::new();
    for received in taken {
        check_signature(&received);
        for alert in received.json()["alerts"].as_array().expect("a list of alerts") {
            let text = |member: &str| alert[member].as_str().unwrap_or("-").to_owned();
            alerts.push((text("id"), format!("{} {}", text("service_id"), text("kind"))));
        }
    }
    alerts
}

/// Each alert once, in the order in which it was taken first.
fn once(receiver: &Receiver) -> Vec<String> {
    let mut seen = BTreeSet::new();
    taken(receiver).into_iter().filter(|(id, _)| seen.insert(id.clone())).map(|(_, what)| what).collect()
}

async fn until_taken(receiver: &Receiver, expected: &[&str]) {
    wait_until(&format!("{expected:?} are taken"), DEADLINE, || async {
        let once = once(receiver);
        assert!(once.len() <= expected.len(), "{once:?}");
        (once == expected).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_leader_that_is_killed_drops_no_alert_and_a_receiver_that_hangs_holds_nobody_up() {
    let mut cluster = Cluster::start_with(3, &["--alert-allow", "127.0.0.0/8"]).await;
    let (pager, hanging) = (Receiver::start(500).await, Receiver::hanging().await);
    let follower = cluster.follower().await;
    let api = cluster.nodes[follower].api.clone();
    for (name, receiver) in [("pager", &pager), ("hanging", &hanging)] {
        let target = json!({"url": receiver.url(), "secret": SECRET, "interval_ms": 0});
        put(&api, &format!("/api/alerts/{name}"), &target).await;
    }
    for n in 0..20 {
        api.register(&format!("a{n}"), 600_000).await;
    }
    beat(&api, "a1", "degraded").await;
    wait_until("both were tried", DEADLINE, || async {
        (!pager.received().is_empty() && !hanging.received().is_empty()).then_some(())
    })
    .await;

    // The leader dies before anybody took anything; the next one knows what is to be told.
    let leader = cluster.leader().await;
    cluster.nodes[leader].kill9();
    let survivor = (0..3).find(|n| *n != leader).expect("three nodes");
    let api = cluster.nodes[survivor].api.clone();
    beat(&api, "a2", "error").await;
    beat(&api, "a1", "active").await;
    pager.answer(200);
    until_taken(&pager, &["a1 degraded", "a2 error", "a1 recovered"]).await;

    // It is noted how far they were told, so that the leader after that repeats nothing of it.
    wait_until("it is noted", DEADLINE, || async {
        let targets = api.get("/api/alerts").await.ok();
        let told = targets["targets"].as_array()?.iter().find(|target| target["name"] == "pager")?.clone();
        let revision = api.get("/api/services/a1").await.ok()["revision"].as_u64()?;
        (told["told_revision"].as_u64()? >= revision).then_some(())
    })
    .await;
    cluster.nodes[leader].start();
    cluster.ready().await;
    let count = taken(&pager).len();
    let leader = cluster.leader().await;
    cluster.nodes[leader].kill9();
    let api = cluster.nodes[(leader + 1) % 3].api.clone();
    api.delete("/api/services/a2").await.ok();
    until_taken(&pager, &["a1 degraded", "a2 error", "a1 recovered", "a2 removed"]).await;
    assert_eq!(taken(&pager).len(), count + 1, "{:?}", taken(&pager));

    // Whoever hangs is waited for by nobody.
    for n in 3..20 {
        let begun = Instant::now();
        beat(&api, &format!("a{n}"), "degraded").await;
        assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    }
    wait_until("all of them are taken", DEADLINE, || async { (once(&pager).len() == 21).then_some(()) }).await;
    assert!(hanging.received().iter().all(|received| received.status == 0));
}

#[tokio::test]
async fn expiry_return_and_protection_are_told_in_alertmanagers_form_too() {
    let cluster = Cluster::start_with(3, &["--alert-allow", "127.0.0.0/8"]).await;
    let (pager, manager) = (Receiver::start(200).await, Receiver::start(200).await);
    let api = cluster.nodes[0].api.clone();
    let target = json!({"url": pager.url(), "secret": SECRET, "interval_ms": 0});
    put(&api, "/api/alerts/pager", &target).await;
    let target = json!({"url": manager.url(), "secret": SECRET, "format": "alertmanager", "interval_ms": 0});
    put(&api, "/api/alerts/manager", &target).await;
    api.register("web-1", 1_000).await;
    until_taken(&pager, &["web-1 expired"]).await;
    api.register("web-1", 600_000).await;
    until_taken(&pager, &["web-1 expired", "web-1 recovered"]).await;

    let rule = json!({"share": 0.5, "window_ms": 5_000, "release_per_minute": 1, "leases_min": 2});
    put(&api, "/api/protection", &rule).await;
    let leases = [api.register("b", 1_000).await, api.register("c", 1_000).await];
    until_taken(&pager, &["web-1 expired", "web-1 recovered", "- protection_begun"]).await;
    wait_until("it is over", DEADLINE, || async {
        api.post("/api/heartbeats", &json!({ "leases": leases })).await.ok();
        let last = once(&pager).pop()?;
        (last == "- protection_ended").then_some(())
    })
    .await;

    let labelled = || {
        let mut labelled: Vec<Value> = Vec::new();
        for received in manager.received() {
            check_signature(&received);
            labelled.extend(received.json().as_array().expect("a list").clone());
        }
        labelled
    };
    wait_until("Alertmanager has it all", DEADLINE, || async { (labelled().len() >= 4).then_some(()) }).await;
    let brief = |alert: &Value| {
        let ends = if alert["endsAt"] == alert["startsAt"] { "ends" } else { "begins" };
        format!("{} {ends}", alert["labels"]["alertname"].as_str().unwrap_or_default())
    };
    let all = labelled();
    let expected =
        ["RollcallExpired begins", "RollcallExpired ends", "RollcallProtection begins", "RollcallProtection ends"];
    assert_eq!(all.iter().map(brief).collect::<Vec<_>>(), expected, "{all:?}");
    assert_eq!(all[0]["labels"], all[1]["labels"], "what ends is known by its labels");
    assert_eq!((&all[0]["labels"]["instance"], &all[0]["labels"]["service"]), (&json!("web-1"), &json!("web")));

    // A test comes from whichever node is asked, and an address that is not allowed is refused.
    let tested = cluster.nodes[2].api.post("/api/alerts/pager/test", &json!(null)).await.ok();
    assert_eq!((&tested["delivered"], &tested["status"]), (&json!(true), &json!(200)));
    pager.answer(503);
    let tested = cluster.nodes[1].api.post("/api/alerts/pager/test", &json!(null)).await.ok();
    assert_eq!((&tested["delivered"], &tested["error"]), (&json!(false), &json!("answered 503")));
    let bad = json!({"url": "http://169.254.169.254/latest/meta-data"});
    let refused = api.send(api.request(Method::PUT, "/api/alerts/metadata").json(&bad)).await.expect("an answer");
    assert_eq!((refused.status, &refused.body["errors"][0]["field"]), (400, &json!("url")));
}
