use std::time::Duration;

use rollcall_client::{Client, KeepAliveError};
use serde_json::{Value, json};
use tokio::sync::oneshot;

use crate::stub::{Reaction, Seen, Stub, problem, registered};

/// Short, so that the tests are; a heartbeat is due every 30 ms.
const TTL_MS: u32 = 90;

const BEAT: &str = "POST /api/services/web-1/heartbeat";
const REGISTER: &str = "POST /api/services/register";

fn client(stub: &Stub) -> Client {
    Client::builder().endpoint(&stub.endpoint).timeout(Duration::from_secs(2)).build().expect("a client")
}

fn web() -> Value {
    json!({"name": "web", "url": "http://a"})
}

fn count(seen: &[Seen], line: &str) -> usize {
    seen.iter().filter(|request| request.line == line).count()
}

/// A node that grants leases 1, 2, … and treats heartbeats as `beat` says, given how many registrations there were.
async fn node(beat: impl Fn(usize) -> Reaction + Send + Sync + 'static) -> Stub {
    let registrations = std::sync::atomic::AtomicUsize::new(0);
    Stub::start(move |request, _| {
        let method = request.line.split(' ').next().expect("a method");
        match (request.line.as_str(), method) {
            (REGISTER, _) => {
                let lease = registrations.fetch_add(1, std::sync::atomic::Ordering::SeqCst) + 1;
                Reaction::Answer(201, registered("web-1", lease as u64, TTL_MS))
            }
            (BEAT, _) => beat(registrations.load(std::sync::atomic::Ordering::SeqCst)),
            (_, "DELETE") => {
                Reaction::Answer(200, json!({"service_id": "web-1", "deregistered": true, "revision": 9}))
            }
            (line, _) => panic!("unexpected {line}"),
        }
    })
    .await
}

fn renewed() -> Reaction {
    Reaction::Answer(
        200,
        json!({
            "service_id": "web-1", "heartbeat_updated": true, "next_heartbeat_due": "2026-01-01T00:00:00Z",
            "next_heartbeat_in_ms": TTL_MS / 3, "lease": {"id": 1, "ttl_ms": TTL_MS},
        }),
    )
}

#[tokio::test]
async fn it_beats_with_its_lease_until_it_is_told_to_stop_and_then_deregisters() {
    let stub = node(|_| renewed()).await;
    let presence = client(&stub).keep_alive(&web()).await.expect("registered");
    assert_eq!((presence.service().id.as_str(), presence.lease().id), ("web-1", 1));
    let (stop, stopped) = oneshot::channel::<()>();
    let running = tokio::spawn(presence.run(async {
        let _ = stopped.await;
    }));
    let seen = stub.until(|seen| count(seen, BEAT) >= 3).await;
    assert!(seen.iter().filter(|request| request.line == BEAT).all(|request| request.body["lease_id"] == 1));
    stop.send(()).expect("it still runs");
    running.await.expect("no panic").expect("deregistered");
    assert_eq!(stub.lines().last().map(String::as_str), Some("DELETE /api/services/web-1?lease_id=1"));
}

#[tokio::test]
async fn a_lease_that_is_gone_is_registered_again_under_the_same_id() {
    let stub = node(|registrations| match registrations {
        1 => Reaction::Answer(404, problem(404, "lease_not_found", None)),
        _ => renewed(),
    })
    .await;
    let presence = client(&stub).keep_alive(&web()).await.expect("registered");
    let (stop, stopped) = oneshot::channel::<()>();
    let running = tokio::spawn(presence.run(async {
        let _ = stopped.await;
    }));
    let seen = stub.until(|seen| seen.last().is_some_and(|r| r.line == BEAT && r.body["lease_id"] == 2)).await;
    let registrations: Vec<_> = seen.iter().filter(|request| request.line == REGISTER).collect();
    assert_eq!(registrations[0].body["id"], Value::Null, "the node chose the first id");
    assert_eq!(registrations[1].body["id"], "web-1");
    stop.send(()).expect("it still runs");
    running.await.expect("no panic").expect("deregistered");
    assert_eq!(stub.lines().last().map(String::as_str), Some("DELETE /api/services/web-1?lease_id=2"));
}

#[tokio::test]
async fn a_newer_registration_ends_it_and_is_left_alone() {
    let stub = node(|_| Reaction::Answer(409, problem(409, "lease_superseded", None))).await;
    let presence = client(&stub).keep_alive(&web()).await.expect("registered");
    let error = presence.run(std::future::pending()).await.expect_err("superseded");
    assert!(matches!(&error, KeepAliveError::Superseded { id, .. } if id == "web-1"), "{error:?}");
    assert_eq!(stub.lines(), [REGISTER, BEAT], "neither registered again nor deregistered");
}

#[tokio::test]
async fn a_cluster_that_is_away_is_borne() {
    let stub = node(|_| Reaction::Answer(500, problem(500, "internal", Some("unknown")))).await;
    let presence = client(&stub).keep_alive(&web()).await.expect("registered");
    let (stop, stopped) = oneshot::channel::<()>();
    let running = tokio::spawn(presence.run(async {
        let _ = stopped.await;
    }));
    stub.until(|seen| count(seen, BEAT) >= 4).await;
    assert!(!running.is_finished());
    stop.send(()).expect("it still runs");
    running.await.expect("no panic").expect("deregistered");
}

#[tokio::test]
async fn a_new_registration_whose_outcome_is_unknown_is_made_again_and_not_mistaken_for_another_program() {
    let registrations = std::sync::atomic::AtomicUsize::new(0);
    let stub = Stub::start(move |request, _| match request.line.as_str() {
        REGISTER => match registrations.fetch_add(1, std::sync::atomic::Ordering::SeqCst) {
            // It is made, but the answer is lost.
            1 => Reaction::Answer(500, problem(500, "internal", Some("unknown"))),
            before => Reaction::Answer(201, registered("web-1", before.min(1) as u64 + 1, TTL_MS)),
        },
        _ if request.body["lease_id"] == 2 => renewed(),
        _ if registrations.load(std::sync::atomic::Ordering::SeqCst) == 1 => {
            Reaction::Answer(404, problem(404, "lease_not_found", None))
        }
        _ => Reaction::Answer(409, problem(409, "lease_superseded", None)),
    })
    .await;
    let presence = client(&stub).keep_alive(&web()).await.expect("registered");
    let running = tokio::spawn(presence.run(std::future::pending()));
    let seen = stub.until(|seen| seen.last().is_some_and(|r| r.line == BEAT && r.body["lease_id"] == 2)).await;
    let lines: Vec<_> = seen.iter().map(|request| request.line.as_str()).collect();
    assert_eq!(lines, [REGISTER, BEAT, REGISTER, REGISTER, BEAT]);
    assert!(!running.is_finished());
}
