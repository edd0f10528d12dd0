use std::time::{Duration, Instant};

use rollcall_client::{Client, Condition, Consistency, DiscoverQuery, Error};
use serde_json::{Value, json};

use crate::stub::{Reaction, Stub, nobody, problem, registered};

fn client(endpoints: &[&str]) -> Client {
    let endpoints = endpoints.iter().map(|endpoint| (*endpoint).to_owned());
    Client::builder().endpoints(endpoints).timeout(Duration::from_secs(5)).build().expect("a client")
}

fn empty_roll() -> Value {
    json!({
        "services": [], "total_count": 0, "search_time_ms": 0.1, "federated_results": false, "local_count": 0,
        "federated_count": 0, "revision": 7,
    })
}

fn deregistered() -> Value {
    json!({"service_id": "web-1", "deregistered": true, "revision": 8})
}

#[tokio::test]
async fn an_endpoint_where_nobody_listens_is_passed_over_and_then_left_out() {
    let stub = Stub::answering(200, empty_roll()).await;
    let client = client(&[&nobody().await, &stub.endpoint]);
    assert_eq!(client.discover(&DiscoverQuery::default()).await.expect("an answer").revision, 7);
    client.discover(&DiscoverQuery::default()).await.expect("an answer");
    assert_eq!(stub.seen().len(), 2);
}

#[tokio::test]
async fn a_node_that_cannot_answer_now_is_passed_over() {
    let busy = Stub::answering(503, problem(503, "not_ready", None)).await;
    let stub = Stub::answering(200, empty_roll()).await;
    let client = client(&[&busy.endpoint, &stub.endpoint]);
    client.discover(&DiscoverQuery::default()).await.expect("an answer");
    client.discover(&DiscoverQuery::default()).await.expect("an answer");
    assert_eq!((busy.seen().len(), stub.seen().len()), (1, 2), "the one that answered is asked first from then on");
}

#[tokio::test]
async fn a_single_busy_node_is_asked_again() {
    let stub = Stub::start(|_, before| match before {
        0 | 1 => Reaction::Answer(503, problem(503, "no_leader", None)),
        _ => Reaction::Answer(200, empty_roll()),
    })
    .await;
    client(&[&stub.endpoint]).discover(&DiscoverQuery::default()).await.expect("an answer");
    assert_eq!(stub.seen().len(), 3);
}

#[tokio::test]
async fn a_node_that_hangs_costs_its_share_of_the_time() {
    let hung = Stub::start(|_, _| Reaction::Hang).await;
    let stub = Stub::answering(200, empty_roll()).await;
    let client = client(&[&hung.endpoint, &stub.endpoint]).with_timeout(Duration::from_secs(2));
    let started = Instant::now();
    client.discover(&DiscoverQuery::default()).await.expect("an answer");
    assert!(started.elapsed() >= Duration::from_millis(900), "the first was given its half");
}

#[tokio::test]
async fn when_every_node_hangs_the_whole_timeout_is_told() {
    let hung = [Stub::start(|_, _| Reaction::Hang).await, Stub::start(|_, _| Reaction::Hang).await];
    let client = client(&[&hung[0].endpoint, &hung[1].endpoint]).with_timeout(Duration::from_millis(300));
    let error = client.discover(&DiscoverQuery::default()).await.expect_err("nobody answered");
    assert!(matches!(error, Error::Timeout { timeout_ms: 300, .. }), "{error:?}");
}

#[tokio::test]
async fn when_time_is_over_what_a_node_said_outranks_silence() {
    let (busy, hung) =
        (Stub::answering(503, problem(503, "no_leader", None)).await, Stub::start(|_, _| Reaction::Hang).await);
    let client = client(&[&busy.endpoint, &hung.endpoint]).with_timeout(Duration::from_millis(300));
    let error = client.discover(&DiscoverQuery::default()).await.expect_err("nobody answered");
    assert_eq!(error.code(), Some("no_leader"));
}

#[tokio::test]
async fn when_nobody_listens_anywhere_the_answer_is_quick() {
    let client = client(&[&nobody().await, &nobody().await]).with_timeout(Duration::from_secs(3_600));
    let error = client.discover(&DiscoverQuery::default()).await.expect_err("nobody listens");
    assert!(matches!(error, Error::Unreachable { may_have_been_applied: false, .. }), "{error:?}");
}

#[tokio::test]
async fn a_refusal_is_final_and_kept_whole() {
    let mut body = problem(400, "invalid_request", None);
    body["errors"] = json!([{"field": "ttl_ms", "message": "must be 1000 to 86400000"}]);
    let (stub, other) = (Stub::answering(400, body).await, Stub::answering(200, empty_roll()).await);
    let client = client(&[&stub.endpoint, &other.endpoint]);
    let error = client.register(&json!({"name": "web", "ttl_ms": 0})).await.expect_err("refused");
    assert_eq!(error.to_string(), "ttl_ms: must be 1000 to 86400000 (400 invalid_request)");
    assert_eq!((error.code(), error.status()), (Some("invalid_request"), Some(400)));
    assert!(!error.may_have_been_applied());
    assert!(other.seen().is_empty());
}

#[tokio::test]
async fn a_deregistration_that_may_have_happened_is_not_repeated() {
    let cut = Stub::start(|_, _| Reaction::Cut).await;
    let unknown = Stub::answering(503, problem(503, "no_leader", Some("unknown"))).await;
    let other = Stub::answering(200, deregistered()).await;
    for first in [&cut, &unknown] {
        let client = client(&[&first.endpoint, &other.endpoint]);
        let error = client.deregister("web-1", None).await.expect_err("nobody knows");
        assert!(error.may_have_been_applied(), "{error:?}");
    }
    assert!(other.seen().is_empty());
}

#[tokio::test]
async fn a_deregistration_that_did_not_happen_is_repeated() {
    let busy = Stub::answering(503, problem(503, "no_leader", Some("not_applied"))).await;
    let other = Stub::answering(200, deregistered()).await;
    let client = client(&[&nobody().await, &busy.endpoint, &other.endpoint]);
    client.deregister("web-1", Some(3)).await.expect("an answer");
    assert_eq!(other.lines(), ["DELETE /api/services/web-1?lease_id=3"]);
}

#[tokio::test]
async fn a_registration_is_repeated_when_a_second_time_changes_nothing() {
    let cut = Stub::start(|_, _| Reaction::Cut).await;
    let other = Stub::answering(201, registered("web-1", 3, 30_000)).await;
    let client = client(&[&cut.endpoint, &other.endpoint]);
    let named = json!({"id": "web-1", "name": "web", "url": "http://a"});
    let nameless = json!({"name": "web", "url": "http://a"});

    let error = client.register(&nameless).await.expect_err("a second one would be another instance");
    assert!(error.may_have_been_applied());
    let error = client.register_if(&named, Condition::Absent).await.expect_err("the second would be refused");
    assert!(error.may_have_been_applied());
    assert!(other.seen().is_empty());

    client.register(&named).await.expect("an upsert may happen twice");
    assert_eq!(other.lines(), ["POST /api/services/register"]);
}

#[tokio::test]
async fn conditions_travel_as_preconditions() {
    let stub = Stub::answering(201, registered("web-1", 3, 30_000)).await;
    let client = client(&[&stub.endpoint]);
    let registration = json!({"id": "web-1", "name": "web", "url": "http://a"});
    client.register_if(&registration, Condition::Absent).await.expect("an answer");
    client.register_if(&registration, Condition::Revision(7)).await.expect("an answer");
    let seen = stub.seen();
    assert_eq!(seen[0].header("if-none-match"), Some("*"));
    assert_eq!(seen[1].header("if-match"), Some("\"7\""));
}

#[tokio::test]
async fn a_request_says_who_asks_and_how_long_it_waits() {
    let stub = Stub::answering(404, problem(404, "not_found", None)).await;
    let client = Client::builder()
        .endpoint(&stub.endpoint)
        .token("secret")
        .tenant("acme")
        .timeout(Duration::from_secs(2))
        .build()
        .expect("a client");
    client.get("web-1", Consistency::default()).await.expect_err("not found");
    let seen = stub.seen();
    assert_eq!(seen[0].header("authorization"), Some("Bearer secret"));
    assert_eq!(seen[0].header("x-tenant-id"), Some("acme"));
    let node_timeout_ms: u64 = seen[0].header("x-request-timeout-ms").expect("a deadline").parse().expect("a number");
    assert!((1_000..2_000).contains(&node_timeout_ms), "{node_timeout_ms}");
}

#[tokio::test]
async fn an_answer_from_something_else_is_told_by_its_status() {
    let stub = Stub::answering(418, json!("a teapot")).await;
    let error = client(&[&stub.endpoint]).cluster_status().await.expect_err("no node");
    assert_eq!((error.status(), error.code()), (Some(418), Some("not_a_rollcall_answer")));

    let stub = Stub::answering(200, json!("a teapot")).await;
    let error = client(&[&stub.endpoint]).cluster_status().await.expect_err("no node");
    assert!(matches!(error, Error::Answer { status: 200, .. }), "{error:?}");
}

#[tokio::test]
async fn readiness_is_asked_of_every_endpoint() {
    let (ready, busy) = (Stub::answering(200, json!({})).await, Stub::answering(503, json!({})).await);
    let nobody = nobody().await;
    let answers = client(&[&ready.endpoint, &busy.endpoint, &nobody]).ready().await;
    let faults: Vec<_> = answers.iter().map(|node| node.fault.as_deref()).collect();
    assert_eq!(faults, [None, Some("answers 503 Service Unavailable"), Some("nobody listens")]);
}
