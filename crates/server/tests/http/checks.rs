//! What the nodes' own checks find of real agents, and what comes of it.

use std::sync::Arc;
use std::time::Duration;

use reqwest::Method;
use rollcall_server::{Checks, Settings};
use serde_json::{Value, json};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;

use crate::agent::{Agent, GrpcAgent, Mood};
use crate::events::Events;
use crate::node::{Node, answer};

/// A node that may check what runs on this machine.
async fn node() -> Node {
    Node::start_as(Settings { check_allow: Some(vec!["127.0.0.0/8".to_owned()]), ..Node::founder() }).await
}

/// As fast as checks can be, so that a test need not wait for long.
fn quick(more: Value) -> Value {
    let mut check = json!({"interval_ms": 1_000, "timeout_ms": 400, "passes_needed": 1, "failures_needed": 1});
    let more = more.as_object().into_iter().flatten();
    more.for_each(|(key, value)| check[key] = value.clone());
    check
}

async fn register(node: &Node, id: &str, url: &str, check: Value) {
    let body = json!({"id": id, "name": "web", "url": url, "ttl_ms": 60_000, "health_check": check});
    let answer = node.register(body).await;
    assert_eq!(answer.status, 201, "{answer:?}");
}

async fn shown(node: &Node, id: &str) -> Value {
    node.get(&format!("/api/services/{id}")).await.body
}

async fn until_shown(node: &Node, id: &str, status: &str) -> Value {
    node.until(&format!("{id} becomes {status}"), async || {
        let shown = shown(node, id).await;
        shown["status"] == status && shown["check"]["latest"].is_object()
    })
    .await;
    shown(node, id).await
}

#[tokio::test]
async fn an_agent_that_asks_is_checked_and_what_it_is_is_shown() {
    let (node, agent) = (node().await, Agent::start(Mood::Code(200)).await);
    let check = quick(json!({"path": "/health?deep=1", "passes_needed": 2, "failures_needed": 2}));
    register(&node, "a", &format!("{}/base", agent.url()), check.clone()).await;
    node.until("checks find it healthy", async || shown(&node, "a").await["health"]["verdict"] == "healthy").await;

    let body = shown(&node, "a").await;
    assert_eq!((&body["status"], &body["reported_status"]), (&json!("active"), &json!("active")));
    assert_eq!(body["health_check"], check);
    let (check, latest) = (&body["check"], &body["check"]["latest"]);
    assert_eq!((&check["type"], &check["interval_ms"]), (&json!("http"), &json!(1_000)));
    assert_eq!((&check["prober"], &check["prober_address"]), (&json!(1), &json!(node.base.replace("http://", ""))));
    assert_eq!(
        (&latest["result"], &latest["score"], &latest["issues"]),
        (&json!("healthy"), &json!(1.0), &json!([]))
    );
    assert!(latest["in_a_row"].as_u64() >= Some(2) && latest["checked_at"].is_string(), "{latest}");
    let parts: Vec<_> = latest["parts"].as_array().unwrap().iter().map(|part| part["part"].clone()).collect();
    assert_eq!(parts, ["connectivity", "endpoint", "response_time"]);

    // What is sent is the node's own, but for the host, path and query.
    let asked = agent.asked();
    let head = format!(" HTTP/1.1\r\nhost: {}\r\nuser-agent: rollcall-check/", agent.address);
    assert!(asked[0].starts_with(&format!("HEAD /base{head}")), "{}", asked[0]);
    assert!(asked[1].starts_with(&format!("GET /base/health?deep=1{head}")), "{}", asked[1]);
    assert!(asked.iter().all(|head| head.lines().count() == 5 && head.contains("\r\naccept: */*\r\n")), "{asked:?}");

    // One that answers otherwise is told of once, in words that are not its own; it costs no revision until it is a verdict.
    let before = body["revision"].as_u64().unwrap();
    let mut told = Events::of(&node, &format!("?from_revision={before}")).await;
    agent.becomes(Mood::Endpoint(500));
    let body = until_shown(&node, "a", "degraded").await;
    assert_eq!(body["revision"], before + 1);
    assert_eq!(body["health"]["verdict"], "degraded");
    assert_eq!(body["check"]["latest"]["issues"], json!(["endpoint: HTTP code 500"]));
    assert_eq!(body["check"]["latest"]["score"], 0.667);
    assert!(!body.to_string().contains("Whatever"), "{body}");
    let event = loop {
        let event = told.next().await.expect("the stream goes on");
        if event.event == "change" {
            break event;
        }
    };
    assert_eq!(event.data["update_type"], "status_changed");
    agent.becomes(Mood::Curt);
    let body = until_shown(&node, "a", "active").await;
    assert_eq!((&body["health"]["verdict"], &body["revision"]), (&json!("healthy"), &json!(before + 2)));
}

#[tokio::test]
async fn every_way_to_fail_has_its_name_and_none_is_followed() {
    let (node, agent, trap) =
        (node().await, Agent::start(Mood::Code(503)).await, Agent::start(Mood::Code(200)).await);
    register(&node, "a", &agent.url(), quick(json!({"path": "/h"}))).await;
    let cases = [
        (Mood::Code(503), vec!["connectivity: HTTP code 503", "endpoint: HTTP code 503"], 0.333),
        (Mood::Hang, vec!["connectivity: no answer within 400 ms", "endpoint: no answer within 400 ms"], 0.0),
        (Mood::Babble, vec!["connectivity: no answer of the protocol", "endpoint: no answer of the protocol"], 0.0),
        (Mood::Endless, vec!["connectivity: no answer of the protocol", "endpoint: no answer of the protocol"], 0.0),
        (
            Mood::Redirect("http://169.254.169.254/latest/meta-data/".to_owned()),
            vec!["connectivity: HTTP code 302", "endpoint: HTTP code 302"],
            0.333,
        ),
        (
            Mood::Redirect(format!("{}/inside", trap.url())),
            vec!["connectivity: HTTP code 302", "endpoint: HTTP code 302"],
            0.333,
        ),
    ];
    for (mood, issues, score) in cases {
        agent.becomes(mood.clone());
        node.until(&format!("it is found: {mood:?}"), async || {
            let latest = &shown(&node, "a").await["check"]["latest"];
            latest["issues"] == json!(issues) && latest["score"] == score
        })
        .await;
        assert_eq!(shown(&node, "a").await["status"], "degraded");
    }
    assert_eq!(trap.asked(), [""; 0]);
    // Nobody listens any more.
    drop(agent);
    node.until("nobody listens", async || {
        let latest = &shown(&node, "a").await["check"]["latest"];
        latest["issues"] == json!(["connectivity: connection refused", "endpoint: connection refused"])
    })
    .await;
}

#[tokio::test]
async fn one_that_slows_down_is_degraded_although_it_answers() {
    let (node, agent) = (node().await, Agent::start(Mood::Code(200)).await);
    let check = quick(json!({"timeout_ms": 5_000}));
    register(&node, "a", &agent.url(), check).await;
    node.until("it is healthy", async || shown(&node, "a").await["health"]["verdict"] == "healthy").await;
    agent.becomes(Mood::Slow(Duration::from_millis(3_500)));
    let body = until_shown(&node, "a", "degraded").await;
    let latest = &body["check"]["latest"];
    assert!(latest["response_time_ms"].as_u64().is_some_and(|ms| (3_500..5_000).contains(&ms)), "{latest}");
    assert!(latest["score"].as_f64().is_some_and(|score| score < 0.67), "{latest}");
    agent.becomes(Mood::Code(200));
    until_shown(&node, "a", "active").await;
}

#[tokio::test]
async fn nothing_within_is_reached_unless_an_operator_allows_it() {
    let (node, agent) = (Node::start().await, Agent::start(Mood::Code(200)).await);
    let port = agent.address.port();
    for (id, host) in [
        ("literal", "127.0.0.1"),
        ("number", "0x7f000001"),
        ("short", "127.1"),
        ("mapped", "[::ffff:127.0.0.1]"),
        ("loopback6", "[::1]"),
        ("name", "localhost"),
        ("any", "0.0.0.0"),
        ("private", "10.0.0.1"),
        ("metadata", "169.254.169.254"),
        ("nat64", "[64:ff9b::7f00:1]"),
        ("unknown", "no-such-host.invalid"),
    ] {
        register(&node, id, &format!("http://{host}:{port}"), quick(json!({}))).await;
        let of = |kind: &str| quick(json!({"type": kind}));
        register(&node, &format!("{id}-tcp"), &format!("http://{host}:{port}"), of("tcp")).await;
        register(&node, &format!("{id}-grpc"), &format!("http://{host}:{port}"), of("grpc")).await;
    }
    let all = "/api/services?status=error&limit=100";
    node.until("all are in error", async || node.get(all).await.body["total_count"] == 33).await;
    for service in node.get(all).await.body["services"].as_array().unwrap() {
        let latest = shown(&node, service["id"].as_str().unwrap()).await["check"]["latest"].clone();
        assert_eq!(latest["result"], "error", "{service}");
        assert_eq!(latest["issues"], json!(["there is no address that may be checked"]), "{service}");
        assert!(latest.get("score").is_none(), "{latest}");
    }
    assert_eq!(agent.asked(), [""; 0]);
    // What asks is recognised although it is refused: the rank counts what is shown.
    let ranked = node.get("/api/services?sort=rank&explain=true&limit=1").await.body;
    assert_eq!(ranked["services"][0]["rank"]["health"], 0.1);
}

#[tokio::test]
async fn one_that_flaps_keeps_its_verdict_and_writes_nothing() {
    let (node, agent) = (node().await, Agent::start(Mood::Code(200)).await);
    register(&node, "a", &agent.url(), quick(json!({"failures_needed": 2}))).await;
    node.until("it is healthy", async || shown(&node, "a").await["health"]["verdict"] == "healthy").await;
    let revision = shown(&node, "a").await["revision"].clone();
    for round in 0..3 {
        for (mood, result) in [(Mood::Code(500), "degraded"), (Mood::Code(200), "healthy")] {
            let (asked, is_failing) = (agent.asked().len(), result == "degraded");
            agent.becomes(mood);
            node.until(&format!("round {round} finds {result}"), async || {
                agent.asked().len() > asked && shown(&node, "a").await["check"]["latest"]["result"] == result
            })
            .await;
            // A second failure in a row would be one too many.
            if is_failing {
                agent.becomes(Mood::Code(200));
            }
        }
    }
    let body = shown(&node, "a").await;
    assert_eq!((&body["revision"], &body["status"]), (&revision, &json!("active")));
}

#[tokio::test]
async fn a_passing_check_renews_where_it_is_asked_to_and_a_failing_one_does_not() {
    let (node, agent) = (node().await, Agent::start(Mood::Code(200)).await);
    for (id, renews) in [("renewed", true), ("left", false)] {
        let check = quick(json!({"renews": renews}));
        let body = json!({"id": id, "name": "web", "url": agent.url(), "ttl_ms": 3_000, "health_check": check});
        assert_eq!(node.register(body).await.status, 201);
    }
    node.until("the one that nobody renews is gone", async || node.get("/api/services/left").await.status == 404)
        .await;
    let beaten = shown(&node, "renewed").await["heartbeat"].clone();
    node.until("it was renewed again", async || shown(&node, "renewed").await["heartbeat"] != beaten).await;
    agent.becomes(Mood::Code(500));
    node.until("a check that fails renews nothing", async || node.get("/api/services/renewed").await.status == 404)
        .await;
}

#[tokio::test]
async fn no_check_undoes_an_operator() {
    let (node, agent) = (node().await, Agent::start(Mood::Code(500)).await);
    register(&node, "a", &agent.url(), quick(json!({}))).await;
    until_shown(&node, "a", "degraded").await;
    assert_eq!(answer(node.request(Method::PUT, "/api/services/a/maintenance")).await.status, 200);
    for (mood, verdict) in [(Mood::Code(200), "healthy"), (Mood::Code(404), "degraded"), (Mood::Code(200), "healthy")]
    {
        agent.becomes(mood);
        node.until("checks go on", async || shown(&node, "a").await["health"]["verdict"] == verdict).await;
        assert_eq!(shown(&node, "a").await["status"], "maintenance");
    }
    assert_eq!(node.delete("/api/services/a/maintenance").await.body["status"], "active");
}

#[tokio::test]
async fn an_operator_says_for_a_tenant_who_is_checked() {
    let (node, agent) = (node().await, Agent::start(Mood::Code(500)).await);
    let put = async |body: Value| answer(node.request(Method::PUT, "/api/checks").json(&body)).await;
    let usual = node.get("/api/checks").await;
    assert_eq!(usual.body, json!({"scope": "asked", "default": true, "enabled": true}));
    // By what the metadata name, too.
    let mut body = json!({"id": "named", "name": "web", "url": agent.url(), "ttl_ms": 3_000, "reap_after_ms": 600_000,
        "metadata": {"health_check_endpoint": "/health"}});
    assert_eq!(node.register(body.clone()).await.status, 201);
    body["id"] = "silent".into();
    body["metadata"] = json!({});
    assert_eq!(node.register(body).await.status, 201);
    let other = json!({"id": "other", "name": "web", "url": agent.url(), "ttl_ms": 60_000});
    let registering = node.request(Method::POST, "/api/services/register").header("x-tenant-id", "t2").json(&other);
    assert_eq!(answer(registering).await.status, 201);

    node.until("who asks is checked", async || shown(&node, "named").await["health"]["verdict"] == "degraded").await;
    assert!(agent.asked().iter().any(|head| head.starts_with("GET /health HTTP")), "{:?}", agent.asked());
    assert!(shown(&node, "silent").await.get("check").is_none());

    let all = put(json!({"scope": "all", "interval_ms": 1_000})).await;
    assert_eq!(all.body, json!({"scope": "all", "interval_ms": 1_000, "default": false, "enabled": true}));
    node.until("whoever there is is checked", async || {
        shown(&node, "silent").await["health"]["verdict"] == "degraded"
    })
    .await;
    assert_eq!(shown(&node, "silent").await["check"]["interval_ms"], 1_000);
    // What was found of those that are checked no more is forgotten.
    assert_eq!(put(json!({"scope": "none"})).await.status, 200);
    node.until("nothing is known of anybody", async || {
        let [named, silent] = [shown(&node, "named").await, shown(&node, "silent").await];
        named.get("health").or(silent.get("health")).or(named.get("check")).is_none()
    })
    .await;
    assert_eq!(node.delete("/api/checks").await.body["default"], true);
    node.until("who asks is checked again", async || shown(&node, "named").await["health"].is_object()).await;
    assert!(shown(&node, "silent").await.get("health").is_none());
    let in_t2 = answer(node.request(Method::GET, "/api/services/other").header("x-tenant-id", "t2")).await;
    assert!(in_t2.body.get("check").is_none(), "another tenant said nothing: {in_t2:?}");
    let faulty = put(json!({"scope": "some", "interval_ms": 5})).await;
    assert_eq!((faulty.status, faulty.faults()), (400, vec!["scope", "interval_ms"]));
}

#[tokio::test]
async fn what_cannot_be_checked_as_it_asks_is_refused() {
    let node = Node::start().await;
    let faults = async |url: &str, check: Value| {
        let body = json!({"name": "web", "url": url, "ttl_ms": 30_000, "health_check": check});
        let answer = node.register(body).await;
        assert_eq!(answer.status, 400, "{answer:?}");
        answer.faults().into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(faults("klp://a", json!({})).await, ["health_check.type"]);
    assert_eq!(faults("http://a", json!({"path": "http://b/"})).await, ["health_check.path"]);
    assert_eq!(
        faults("http://a", json!({"headers": {"x": "y"}, "body": "z"})).await,
        ["health_check.headers", "health_check.body"]
    );
    assert_eq!(
        faults("http://a", json!({"renews": true, "interval_ms": 20_000})).await,
        ["health_check.interval_ms"]
    );
}

#[tokio::test]
async fn tcp_and_grpc_are_checked_in_their_own_ways() {
    let (node, grpc) = (node().await, GrpcAgent::start(1).await);
    let tcp = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let tcp_url = format!("mqtt://{}", tcp.local_addr().expect("an address"));
    register(&node, "tcp", &tcp_url, quick(json!({}))).await;
    register(&node, "grpc", &format!("grpc://{}", grpc.address), quick(json!({"service": "a.B"}))).await;
    for id in ["tcp", "grpc"] {
        node.until(&format!("{id} is healthy"), async || shown(&node, id).await["health"]["verdict"] == "healthy")
            .await;
        assert_eq!(shown(&node, id).await["check"]["type"], id);
    }
    assert!(grpc.asked().iter().all(|message| message[..] == *b"\0\0\0\0\x05\x0a\x03a.B"), "{:?}", grpc.asked());
    for (status, issue) in
        [(2, "serving: not serving"), (-12, "serving: gRPC status 12"), (-5, "serving: gRPC status 5")]
    {
        grpc.becomes(status);
        node.until(issue, async || shown(&node, "grpc").await["check"]["latest"]["issues"] == json!([issue])).await;
        assert_eq!(until_shown(&node, "grpc", "degraded").await["check"]["latest"]["parts"][0]["score"], 1.0);
    }
    grpc.becomes(1);
    until_shown(&node, "grpc", "active").await;
    drop(tcp);
    let body = until_shown(&node, "tcp", "degraded").await;
    assert_eq!(body["check"]["latest"]["issues"], json!(["connectivity: connection refused"]));
}

/// What speaks TLS by a certificate for these names, and the certificate.
fn secured(names: &[&str]) -> (TlsAcceptor, String) {
    let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
    let made = rcgen::generate_simple_self_signed(names).expect("a certificate");
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).expect("a key");
    let provider = Arc::new(tokio_rustls::rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = config.expect("versions").with_no_client_auth().with_single_cert(vec![made.cert.der().clone()], key);
    (TlsAcceptor::from(Arc::new(config.expect("they fit"))), made.cert.pem())
}

#[tokio::test]
async fn certificates_are_verified_by_the_host() {
    let (right, right_pem) = secured(&["localhost", "127.0.0.1"]);
    let (wrong, wrong_pem) = secured(&["elsewhere.example"]);
    let (stranger, _) = secured(&["127.0.0.1"]);
    let dir = tempfile::tempdir().expect("a directory");
    let ca = dir.path().join("ca.pem");
    std::fs::write(&ca, format!("{right_pem}{wrong_pem}")).expect("a file");
    let settings = Settings {
        check_allow: Some(vec!["127.0.0.0/8".to_owned(), "::1".to_owned()]),
        check_ca: Some(ca),
        ..Node::founder()
    };
    let node = Node::start_as(settings).await;
    let mut agents = Vec::new();
    for (id, tls) in [("right", right), ("wrong", wrong), ("stranger", stranger)] {
        let agent = Agent::start_secured(Mood::Code(200), tls).await;
        register(&node, id, &format!("https://{}", agent.address), quick(json!({"timeout_ms": 2_000}))).await;
        agents.push(agent);
    }
    node.until("the right one is healthy", async || shown(&node, "right").await["health"]["verdict"] == "healthy")
        .await;
    for id in ["wrong", "stranger"] {
        let body = until_shown(&node, id, "degraded").await;
        assert_eq!(body["check"]["latest"]["issues"], json!(["connectivity: no secure connection"]));
    }
    assert!(agents[1..].iter().all(|agent| agent.asked().is_empty()));
}

#[tokio::test]
async fn a_node_that_is_told_to_checks_nothing() {
    let allow = Some(vec!["127.0.0.0/8".to_owned()]);
    let (dir, agent) = (tempfile::tempdir().expect("a directory"), Agent::start(Mood::Code(500)).await);
    let settings = Settings { check_allow: allow.clone(), ..Node::founder() };
    let node = Node::serve(dir.path(), settings).await;
    register(&node, "a", &agent.url(), quick(json!({}))).await;
    until_shown(&node, "a", "degraded").await;
    node.stop().await.expect("it ends well");
    let node =
        Node::serve(dir.path(), Settings { checks: Some(Checks::Off), check_allow: allow, ..Node::founder() }).await;
    node.until("what was found is forgotten", async || shown(&node, "a").await.get("health").is_none()).await;
    assert_eq!(node.get("/api/checks").await.body["enabled"], false);
    let asked = agent.asked().len();
    node.until("time passes", async || {
        node.get("/metrics").await.body.as_str().is_some_and(|text| text.contains("rollcall_check_targets 0"))
    })
    .await;
    assert_eq!((agent.asked().len(), shown(&node, "a").await.get("check")), (asked, None));
}
