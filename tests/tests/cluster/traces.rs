//! Traces: from the client's, through the node that took the request, to the leader.

use reqwest::Method;
use rollcall_tests::{Cluster, Collector, Span};
use serde_json::json;

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const CLIENT_SPAN: &str = "b7ad6b7169203331";

const SERVER: u64 = 2;
const CLIENT: u64 = 3;

#[tokio::test]
async fn a_write_is_one_trace_from_its_client_to_the_leader() {
    let collector = Collector::start().await;
    let environment = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", &*collector.endpoint()),
        ("OTEL_BSP_SCHEDULE_DELAY", "50"),
        ("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment=test"),
    ];
    let cluster = Cluster::start_with_environment(3, &environment).await;
    let (leader, follower) = (cluster.leader().await, cluster.follower().await);
    let (leader, follower) = (&cluster.nodes[leader], &cluster.nodes[follower]);
    let register = follower.api.request(Method::POST, "/api/services/register");
    let register = register
        .header("traceparent", format!("00-{TRACE}-{CLIENT_SPAN}-01"))
        .header("X-Request-ID", "r-1")
        .header("X-Tenant-ID", "t")
        .json(&json!({"id": "a", "name": "n", "url": "http://a"}));
    assert_eq!(follower.api.send(register).await.expect("an answer").status, 201);

    let ours = async |name: &str| collector.span(name, |span| span.trace_id == TRACE && span.name == name).await;
    let at = |span: &Span| span.resource["service.instance.id"].clone();
    let request = ours("POST /api/services/register").await;
    assert_eq!((request.parent_id.as_str(), request.kind, request.is_error), (CLIENT_SPAN, SERVER, false));
    assert_eq!(at(&request), follower.client_address());
    assert_eq!(request.resource["service.name"], "rollcall");
    assert_eq!(request.resource["deployment.environment"], "test");
    for (name, value) in [
        ("id", "r-1"),
        ("tenant", "t"),
        ("http.request.method", "POST"),
        ("http.route", "/api/services/register"),
        ("http.response.status_code", "201"),
    ] {
        assert_eq!(request.attributes.get(name).map(String::as_str), Some(value), "{name}: {request:?}");
    }

    let forward = ours("forward").await;
    assert_eq!((forward.kind, at(&forward)), (CLIENT, follower.client_address()));
    let is_its_batch = |span: &Span| span.span_id == forward.parent_id;
    let batch = collector.span("the follower's batch", is_its_batch).await;
    assert_eq!((batch.name.as_str(), &batch.parent_id), ("batch", &request.span_id));

    let forwarded = ours("forwarded").await;
    assert_eq!((&forwarded.parent_id, forwarded.kind), (&forward.span_id, SERVER));
    assert_eq!(at(&forwarded), leader.client_address());
    let at_leader = collector.span("the leader's batch", |span| span.parent_id == forwarded.span_id).await;
    assert_eq!((at_leader.name.as_str(), at(&at_leader)), ("batch", leader.client_address()));
    // Its end is noted by whoever applied it, while the answer is on its way.
    assert!(request.start_ns <= batch.start_ns && batch.start_ns <= request.end_ns, "{request:?} {batch:?}");
}

#[tokio::test]
async fn a_client_that_is_not_sampled_leaves_no_spans_and_an_sdk_that_is_disabled_none_at_all() {
    let collector = Collector::start().await;
    let endpoint = collector.endpoint();
    let delay = ("OTEL_BSP_SCHEDULE_DELAY", "50");
    let on = Cluster::start_with_environment(1, &[("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint), delay]).await;
    let off = [("OTEL_EXPORTER_OTLP_ENDPOINT", &*endpoint), ("OTEL_SDK_DISABLED", "true"), delay];
    let off = Cluster::start_with_environment(1, &off).await;
    let ask = async |cluster: &Cluster, id: &str, traceparent: Option<&str>| {
        let api = &cluster.nodes[0].api;
        let mut request = api.request(Method::GET, "/api/services/none").header("X-Request-ID", id);
        if let Some(traceparent) = traceparent {
            request = request.header("traceparent", traceparent);
        }
        assert_eq!(api.send(request).await.expect("an answer").status, 404);
    };
    ask(&off, "off", None).await;
    ask(&on, "unsampled", Some(&format!("00-{TRACE}-{CLIENT_SPAN}-00"))).await;
    ask(&on, "sampled", None).await;
    let named = |span: &Span, id: &str| span.attributes.get("id").is_some_and(|found| found == id);
    let span = collector.span("the sampled one", |span| named(span, "sampled")).await;
    assert_eq!((span.parent_id.as_str(), span.attributes["http.route"].as_str()), ("", "/api/services/{id}"));
    let spans = collector.spans();
    assert!(!spans.iter().any(|span| named(span, "unsampled") || named(span, "off")), "{spans:?}");
}
