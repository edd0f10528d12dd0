use super::*;
use proptest::prelude::*;
use serde_json::json;

const LIMITS: TtlLimits = TtlLimits { ttl_ms_min: 1_000, ttl_ms_default: 30_000, ttl_ms_max: 86_400_000 };

fn fields(result: Result<impl Sized, Faults>) -> Vec<String> {
    result.err().expect("the body has faults").into_vec().into_iter().map(|fault| fault.field).collect()
}

#[test]
fn the_least_registration_has_a_name_and_a_url() {
    let request = register(json!({"name": "web", "url": "http://a", "version": null}), LIMITS).unwrap();
    let least = RegisterRequest { name: "web".into(), url: "http://a".into(), ..RegisterRequest::default() };
    assert_eq!(request, least);
}

#[test]
fn a_full_registration_is_what_was_sent() {
    let body = json!({
        "id": "web-1", "name": "web", "type": "agent", "version": "1.2.3", "tags": ["a", "b"], "url": "grpc://a:1",
        "protocol": "grpc",
        "endpoints": [{"path": "/x", "method": "POST", "rate_limit": {"rps": 5}, "auth_required": true}],
        "auth": {"type": "api_key", "token": "t"}, "owner": "o", "visibility": "public",
        "capabilities": ["plain", {"capability_name": "rich", "input_types": ["text"], "complexity_level": 3}],
        "consumed_events": ["c"], "produced_events": ["p"], "metadata": {"env": "prod", "n": 1},
        "locality": {"region": "eu", "zone": "eu-1"}, "weight": 5, "ttl_ms": 5000, "reap_after_ms": 1,
        "signature": "s", "public_key": "k"
    });
    let request = register(body.clone(), LIMITS).unwrap();
    assert_eq!(serde_json::to_value(request).unwrap(), body);
}

#[test]
fn every_fault_of_a_registration_is_named() {
    let body = json!({
        "id": "a\nb", "type": "robot", "url": "nowhere", "tags": ["ok", 7, ""], "nonsense": 1, "ttl_ms": 0,
        "protocol": 5, "weight": -1, "owner": "", "visibility": "secret", "metadata": {"": 1},
        "locality": {"region": "", "planet": "x"}, "auth": {"token": 1}, "reap_after_ms": 1.5,
        "endpoints": [{"path": "/x", "method": "FETCH"}, "x"],
        "capabilities": ["a", {"capability_type": "x"}, {"capability_name": "a", "extra": 1}, 5],
        "consumed_events": "c", "version": "x".repeat(257)
    });
    let mut named = fields(register(body, LIMITS));
    named.sort();
    assert_eq!(
        named,
        [
            "auth.token",
            "auth.type",
            "capabilities[1].capability_name",
            "capabilities[2].capability_name",
            "capabilities[2].extra",
            "capabilities[3]",
            "consumed_events",
            "endpoints[0].method",
            "endpoints[1]",
            "id",
            "locality.planet",
            "locality.region",
            "metadata.",
            "name",
            "nonsense",
            "owner",
            "protocol",
            "reap_after_ms",
            "tags[1]",
            "tags[2]",
            "ttl_ms",
            "type",
            "url",
            "version",
            "visibility",
            "weight",
        ]
    );
}

#[test]
fn lists_have_limits() {
    let many = |n: usize| (0..n).map(|n| n.to_string()).collect::<Vec<_>>();
    let body = |tags: usize, capabilities: usize| json!({"name": "n", "url": "x:y", "tags": many(tags), "capabilities": many(capabilities)});
    assert!(register(body(64, 256), LIMITS).is_ok());
    assert_eq!(fields(register(body(65, 257), LIMITS)), ["tags", "capabilities"]);
}

#[test]
fn repeated_tags_count_once() {
    let request = register(json!({"name": "n", "url": "x:y", "tags": ["b", "a", "b"]}), LIMITS).unwrap();
    assert_eq!(request.tags.unwrap(), ["b", "a"]);
}

#[test]
fn the_ttl_stays_within_its_limits() {
    let ttl = |ttl: Value| register(json!({"name": "n", "url": "x:y", "ttl_ms": ttl}), LIMITS);
    for good in [1_000, 86_400_000] {
        assert!(ttl(good.into()).is_ok(), "{good}");
    }
    for bad in [json!(0), json!(999), json!(86_400_001), json!(-1), json!(1e12), json!("1000"), json!(u64::MAX)] {
        assert_eq!(fields(ttl(bad.clone())), ["ttl_ms"], "{bad}");
    }
}

#[test]
fn a_batch_has_a_limit_and_holds_numbers_only() {
    assert_eq!(heartbeats(json!({"leases": vec![1; 10_000]})).unwrap().leases.len(), 10_000);
    assert_eq!(fields(heartbeats(json!({"leases": vec![1; 10_001]}))), ["leases"]);
    assert_eq!(fields(heartbeats(json!({"leases": [1, "2", -3], "x": 1}))), ["leases[1]", "leases[2]", "x"]);
    assert_eq!(fields(heartbeats(json!({}))), ["leases"]);
    assert_eq!(fields(heartbeats(json!([1]))), [""]);
}

#[test]
fn a_heartbeat_may_be_empty() {
    assert_eq!(heartbeat(json!({})).unwrap(), HeartbeatRequest::default());
    assert_eq!(fields(heartbeat(json!({"lease_id": "1", "status": "fine", "x": 1}))), ["lease_id", "status", "x"]);
}

#[test]
fn who_may_see_a_restricted_registration_is_named_by_text() {
    let body = |visibility: &str, allowed: Value| json!({"name": "n", "url": "x:y", "visibility": visibility, "metadata": {"allowed_requesters": allowed}});
    assert!(register(body("restricted", json!(["a", "b"])), LIMITS).is_ok());
    assert!(register(body("public", json!(7)), LIMITS).is_ok(), "elsewhere it means nothing");
    assert_eq!(fields(register(body("restricted", json!("a")), LIMITS)), ["metadata.allowed_requesters"]);
    let faulty = ["metadata.allowed_requesters[1]", "metadata.allowed_requesters[2]"];
    assert_eq!(fields(register(body("restricted", json!(["a", 1, ""])), LIMITS)), faulty);
    let many: Vec<_> = (0..257).map(|n| n.to_string()).collect();
    assert_eq!(fields(register(body("restricted", json!(many)), LIMITS)), ["metadata.allowed_requesters"]);
    let beat = heartbeat(json!({"metadata": {"allowed_requesters": ["eve"], "load": 1}}));
    assert_eq!(fields(beat), ["metadata.allowed_requesters"]);
}

fn any_json() -> impl Strategy<Value = Value> {
    let member = proptest::sample::select(vec![
        "id",
        "name",
        "url",
        "tags",
        "capabilities",
        "capability_name",
        "endpoints",
        "path",
        "method",
        "auth",
        "type",
        "metadata",
        "locality",
        "region",
        "ttl_ms",
        "weight",
        "leases",
        "lease_id",
        "status",
        "x",
    ]);
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,8}".prop_map(Value::from),
        Just(Value::from("http://a")),
    ];
    leaf.prop_recursive(4, 64, 8, move |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            proptest::collection::vec((member.clone(), inner), 0..8).prop_map(|members| members
                .into_iter()
                .map(|(k, v)| (k.to_owned(), v))
                .collect::<Map<_, _>>()
                .into()),
        ]
    })
}

proptest! {
    #[test]
    fn no_json_makes_it_panic(body in any_json()) {
        if let Ok(request) = register(body.clone(), LIMITS) {
            let id = || InstanceId::parse("made-up").unwrap();
            crate::translate::registration(request, LIMITS, id).pack();
        }
        let _ = heartbeat(body.clone());
        let _ = heartbeats(body.clone());
        let _ = deregister(body);
    }
}
