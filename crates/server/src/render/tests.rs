//! The text that is written by hand is the text that a serializer makes of the wire types.

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;
use rollcall_api as api;
use rollcall_registry::{
    ClusterTime, Coordinates, Epoch, Instance, InstanceId, LeaseId, Metadata, MetadataValue, Observed, Order, Orders,
    Page, Presence, Registered, Registration, Revision, Score, Seldom, Status, TenantId, Verdict, View, WallTime,
};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use super::{Moment, Others, Renderer, discovered, rfc3339};
use crate::parse::{self, TtlLimits};
use crate::translate;

const LIMITS: TtlLimits = TtlLimits { ttl_ms_min: 1_000, ttl_ms_default: 30_000, ttl_ms_max: 86_400_000 };

/// What the roll holds of one instance, as the wire shows it.
fn service_object(view: &View, moment: Moment) -> api::ServiceObject {
    let instance = &*view.instance;
    let registration = instance.registration();
    let extras = registration.extras;
    let text = |text: Option<&str>| text.map(str::to_owned);
    let json = |text: &str| serde_json::from_str::<Value>(text).unwrap();
    let degrees = extras.coordinates.map(Coordinates::degrees);
    let locality = api::Locality {
        region: text(extras.region),
        zone: text(extras.zone),
        latitude: degrees.map(|[latitude, _]| latitude),
        longitude: degrees.map(|[_, longitude]| longitude),
    };
    let (orders, observed) = (instance.seldom.orders(), instance.seldom.observed());
    let is_worked_out = !orders.is_empty() || observed.is_some();
    let ttl_ms = u64::from(registration.ttl_ms);
    let beaten = view.deadline.0.checked_sub(ttl_ms);
    let heartbeat = beaten.map_or(instance.registered_at, |beaten| {
        WallTime(moment.wall.0.saturating_sub(moment.now.0.saturating_sub(beaten)))
    });
    api::ServiceObject {
        id: registration.id.to_owned(),
        tenant: instance.tenant.as_str().to_owned(),
        name: registration.name.to_owned(),
        kind: registration.kind.as_str().parse().unwrap(),
        version: text(registration.version),
        tags: registration.tags.map(str::to_owned).collect(),
        url: registration.url.to_owned(),
        protocol: registration.protocol.as_str().parse().unwrap(),
        endpoints: extras.endpoints.map_or_else(Vec::new, |list| json(list).as_array().unwrap().clone()),
        auth: extras.auth.map(json),
        owner: text(registration.owner),
        visibility: registration.visibility.as_str().parse().unwrap(),
        capabilities: registration
            .capabilities
            .map(|capability| capability.detail.map_or_else(|| capability.name.into(), json))
            .collect(),
        consumed_events: registration.consumed_events.map(str::to_owned).collect(),
        produced_events: registration.produced_events.map(str::to_owned).collect(),
        metadata: instance
            .metadata()
            .map(|(key, value)| match value {
                MetadataValue::Text(text) => (key.to_owned(), text.into()),
                MetadataValue::Json(text) => (key.to_owned(), json(text)),
            })
            .collect(),
        locality: (locality != api::Locality::default()).then_some(locality),
        weight: registration.weight,
        ttl_ms: registration.ttl_ms,
        reap_after_ms: registration.reap_after_ms,
        health_check: extras.health_check.map(json),
        signature: text(extras.signature),
        public_key: text(extras.public_key),
        status: instance.status().as_str().parse().unwrap(),
        suspect: instance.is_suspect(),
        reported_status: is_worked_out.then(|| instance.reported_status.as_str().parse().unwrap()),
        operator: (!orders.is_empty()).then(|| translate::orders_out(orders)),
        health: observed.map(|observed| api::HealthInfo {
            verdict: observed.verdict.as_str().parse().unwrap(),
            since: rfc3339(observed.since),
        }),
        lease: api::LeaseInfo {
            id: instance.lease.0,
            ttl_ms: registration.ttl_ms,
            expires_in_ms: view.deadline.0.saturating_sub(moment.cluster_time.0),
        },
        revision: instance.revision.0,
        created_revision: instance.created_revision.0,
        registered_at: rfc3339(instance.registered_at),
        heartbeat: rfc3339(heartbeat),
        origin: None,
        stale: None,
        rank: None,
        check: None,
    }
}

/// The text, after it was read back.
fn read<T: DeserializeOwned>(text: &[u8]) -> (String, T) {
    let value = serde_json::from_slice(text).expect("it is JSON");
    (String::from_utf8(text.to_vec()).expect("it is text"), value)
}

fn written(renderer: &Renderer, view: &View, moment: Moment) -> String {
    let mut text = Vec::new();
    renderer.at(moment).service(view, &mut text);
    String::from_utf8(text).expect("it is text")
}

/// Numbers are whole: of others a reader may make a neighbour of what was written.
fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any_text().prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(Value::from),
            vec((any_text(), inner), 0..4).prop_map(|members| members.into_iter().collect::<Map<_, _>>().into()),
        ]
    })
}

fn any_text() -> impl Strategy<Value = String> {
    "(\\PC|[\\x00-\\x22\\x5c\\x7f]){0,12}"
}

fn any_name() -> impl Strategy<Value = String> {
    "[a-z\"\\\\é/ ]{1,12}"
}

fn any_capability() -> impl Strategy<Value = Value> {
    (any_name(), option::of((any_text(), any_json()))).prop_map(|(name, detail)| match detail {
        None => name.into(),
        Some((description, schema)) => {
            json!({"capability_name": name, "description": description, "input_schema": schema})
        }
    })
}

fn any_metadata() -> impl Strategy<Value = Map<String, Value>> {
    vec((any_name(), any_json()), 0..5).prop_map(|pairs| pairs.into_iter().collect())
}

/// Bodies of registrations, all members there or not.
fn any_body() -> impl Strategy<Value = Value> {
    let names = || vec(any_name(), 0..4).prop_map(Value::from);
    let text = || any_text().prop_map(Value::from);
    let words = |words: &'static [&'static str]| select(words).prop_map(Value::from);
    let endpoint = (any_name(), any_json())
        .prop_map(|(path, schema)| json!({"path": path, "method": "POST", "input_schema": schema}));
    let first = (
        any_name().prop_map(Value::from),
        words(&["agent", "tool", "service", "api", "device", "node", "gateway", "validator"]),
        any_name().prop_map(Value::from),
        names(),
        words(&["http", "https", "ws", "klp", "grpc", "mqtt"]),
        vec(endpoint, 0..3).prop_map(Value::from),
        text().prop_map(|token| json!({"type": "jwt", "token": token})),
        any_name().prop_map(Value::from),
        words(&["private", "internal", "restricted", "public"]),
    );
    let second = (
        vec(any_capability(), 0..3).prop_map(Value::from),
        names(),
        names(),
        any_metadata().prop_map(Value::from),
        any_name().prop_map(|region| json!({"region": region})),
        (any_name(), option::of((-90.0..=90.0, -180.0..=180.0))).prop_map(|(zone, place)| match place {
            None => json!({"zone": zone}),
            Some((latitude, longitude)) => json!({"zone": zone, "latitude": latitude, "longitude": longitude}),
        }),
        (0..1_000_000u32, 1_000..86_400_000u32, any::<u16>()),
        text(),
        text(),
    );
    (first, second, any::<u32>()).prop_map(|(first, second, there)| {
        let (name, kind, version, tags, protocol, endpoints, auth, owner, visibility) = first;
        let (capabilities, consumed, produced, metadata, region, zone, numbers, signature, public_key) = second;
        let members = [
            ("version", version),
            ("tags", tags),
            ("type", kind),
            ("protocol", protocol),
            ("endpoints", endpoints),
            ("auth", auth),
            ("owner", owner),
            ("visibility", visibility),
            ("capabilities", capabilities),
            ("consumed_events", consumed),
            ("produced_events", produced),
            ("metadata", metadata),
            ("locality", region),
            ("locality", zone),
            ("weight", numbers.0.into()),
            ("ttl_ms", numbers.1.into()),
            ("reap_after_ms", numbers.2.into()),
            ("signature", signature),
            ("public_key", public_key),
            ("health_check", json!({"type": "tcp", "interval_ms": numbers.1.clamp(1_000, 3_600_000)})),
        ];
        let members = members.into_iter().enumerate().filter(|(n, _)| there >> n & 1 == 1);
        let mut body: Map<_, _> = members.map(|(_, (name, value))| (name.to_owned(), value)).collect();
        body.insert("name".to_owned(), name);
        body.insert("url".to_owned(), "http://a/\"quoted\"".into());
        body.into()
    })
}

fn registration(body: Value) -> Option<Registration> {
    // Some bodies are refused: a capability may stand twice.
    let request = parse::register(body, LIMITS).ok()?;
    Some(translate::registration(request, LIMITS, || InstanceId::parse("made-\"up\"").unwrap()))
}

/// An instance in some condition, seen at some time.
fn view(registration: &Registration, reported: Map<String, Value>, numbers: [u64; 6], status: Status) -> View {
    let [lease, revision, created, registered_at, deadline, flags] = numbers;
    let reason = (flags & 32 == 32).then(|| format!("\"{lease}\"").into());
    let order = |flag| (flags & flag == flag).then(|| Order { reason: reason.clone(), since: WallTime(revision) });
    let verdict = if flags & 64 == 64 { Verdict::Healthy } else { Verdict::Error };
    let instance = Instance {
        tenant: TenantId::parse("default").unwrap(),
        registration: registration.pack(),
        seldom: Seldom::new((flags & 1 == 1).then(|| translate::metadata_in(reported)), Vec::new(), None)
            .with_orders(Orders { maintenance: order(4), drain: order(8) })
            .with_observed((flags & 16 == 16).then_some(Observed { verdict, since: WallTime(registered_at) })),
        reported_status: status,
        presence: match flags & (2 | 128) {
            0 => Presence::Present,
            2 => Presence::Lapsed,
            _ => Presence::Suspect,
        },
        lease: LeaseId(lease),
        revision: Revision(revision),
        created_revision: Revision(created),
        registered_at: WallTime(registered_at),
    };
    View { instance: instance.into(), deadline: ClusterTime(deadline) }
}

fn moment(now: u64, wall: u64, ahead: u64) -> Moment {
    Moment { epoch: Epoch(1), now: ClusterTime(now), wall: WallTime(wall), cluster_time: ClusterTime(now + ahead) }
}

/// Times that people live in, and any at all.
fn any_wall() -> impl Strategy<Value = u64> {
    prop_oneof![1_600_000_000_000..1_900_000_000_000u64, any::<u64>()]
}

proptest! {
    #[test]
    fn a_service_object_is_what_a_serializer_makes_of_it(
        body in any_body(),
        reported in any_metadata(),
        (lease, revision, created) in any::<(u64, u64, u64)>(),
        (registered_at, wall) in (any_wall(), any_wall()),
        (deadline, now, ahead) in (0..200_000_000u64, 0..200_000_000u64, 0..100_000u64),
        flags in 0..256u64,
        status in select(Status::ALL),
    ) {
        if let Some(registration) = registration(body) {
            let view = view(&registration, reported, [lease, revision, created, registered_at, deadline, flags], status);
            let (renderer, moment) = (Renderer::default(), moment(now, wall, ahead));
            let expected = service_object(&view, moment);
            let text = written(&renderer, &view, moment);
            prop_assert_eq!(&text, &serde_json::to_string(&expected).unwrap());
            prop_assert_eq!(&text, &written(&renderer, &view, moment), "the second time");
            prop_assert_eq!(read::<api::ServiceObject>(text.as_bytes()).1, expected);
        }
    }

    #[test]
    fn answers_are_what_a_serializer_makes_of_them(
        bodies in vec(any_body(), 0..4),
        total in any::<u64>(),
        revision in any::<u64>(),
        micros in 0..10_000_000u64,
        next in option::of("[0-9a-f]{1,20}"),
    ) {
        let (renderer, moment) = (Renderer::default(), moment(6_000, 1_700_000_001_000, 500));
        let registrations: Vec<_> = bodies.into_iter().filter_map(registration).collect();
        let view = |(n, registration)| {
            view(registration, Map::new(), [n as u64; 6], Status::Active)
        };
        let found: Vec<_> = registrations.iter().enumerate().map(view).collect();

        if let Some(view) = found.first() {
            let registered = Registered {
                created: true,
                lease: view.instance.lease,
                revision: view.instance.revision,
                created_revision: view.instance.created_revision,
                registered_at: view.instance.registered_at,
                deadline: view.deadline,
            };
            let ttl_ms = view.instance.registration.ttl_ms();
            let expected = api::RegisterResponse {
                success: true,
                registration_id: view.instance.id().to_owned(),
                service: service_object(view, moment),
                lease: api::LeaseGrant {
                    id: registered.lease.0,
                    ttl_ms,
                    heartbeat_interval_ms: translate::heartbeat_interval_ms(ttl_ms),
                },
                revision: registered.revision.0,
            };
            let (text, answer) = read::<api::RegisterResponse>(&renderer.at(moment).registered(view, &registered));
            prop_assert_eq!(text, serde_json::to_string(&expected).unwrap());
            prop_assert_eq!(answer, expected);
        }

        let score = |n: u32| Score { total: n * 123_456, suspect: false, capability: n, health: 500, proximity: 200, trust: 1_000 };
        let scores: Vec<_> = if total % 2 == 0 { (0..4).map(score).collect() } else { Vec::new() };
        let (mut text, shown) = renderer.at(moment).found(&found, &scores, usize::MAX);
        prop_assert_eq!(shown, found.len());
        let services = found.iter().enumerate().map(|(n, view)| {
            let rank = scores.get(n).map(|score| api::RankInfo {
                score: f64::from(score.total) / 1e6,
                capability: f64::from(score.capability) / 1e3,
                health: 0.5,
                proximity: 0.2,
                trust: 1.0,
            });
            api::ServiceObject { rank, ..service_object(view, moment) }
        }).collect();
        let page = Page { found, total, revision: Revision(revision), ..Page::default() };
        discovered(&mut text, &page, Others::default(), std::time::Duration::from_micros(micros), next.as_deref());
        let expected = api::DiscoverResponse {
            services,
            total_count: total,
            search_time_ms: micros as f64 / 1_000.0,
            federated_results: false,
            local_count: total,
            federated_count: 0,
            federated_sources: None,
            revision,
            next_cursor: next,
        };
        let (text, answer) = read::<api::DiscoverResponse>(&text);
        prop_assert_eq!(text, serde_json::to_string(&expected).unwrap());
        prop_assert_eq!(answer, expected);
    }
}

fn of(body: Value) -> View {
    view(&registration(body).unwrap(), Map::new(), [7, 7, 7, 1_700_000_000_000, 35_000, 0], Status::Active)
}

fn now() -> Moment {
    moment(6_000, 1_700_000_001_000, 500)
}

fn object(view: &View, moment: Moment) -> Value {
    serde_json::from_str(&written(&Renderer::default(), view, moment)).unwrap()
}

#[test]
fn a_registration_comes_back_as_it_was_sent() {
    let body = json!({
        "id": "web-1", "name": "web", "type": "tool", "version": "1.2.3", "tags": ["b", "a"], "url": "http://a:1",
        "protocol": "grpc",
        "endpoints": [{"path": "/x", "method": "POST", "input_schema": {"z": 1, "a": [2]}, "auth_required": false}],
        "auth": {"type": "jwt", "auth_endpoint": "/login"}, "owner": "o", "visibility": "internal",
        "capabilities": ["plain", {"capability_name": "rich", "performance_metrics": {"p99_ms": 1.5}}],
        "consumed_events": ["c"], "produced_events": ["p"],
        "metadata": {"a": "text", "b": 1, "c": null, "d": {"e": [true]}, "f": "{\"not\": \"an object\"}"},
        "locality": {"region": "eu"}, "weight": 0, "ttl_ms": 5000, "reap_after_ms": 9, "signature": "s",
        "public_key": "k"
    });
    let object = object(&of(body.clone()), now());
    for (member, value) in body.as_object().unwrap() {
        assert_eq!(&object[member], value, "{member}");
    }
    assert_eq!(object["lease"], json!({"id": 7, "ttl_ms": 5000, "expires_in_ms": 28_500}));
    assert_eq!(object["status"], "active");
    assert_eq!(object["registered_at"], "2023-11-14T22:13:20.000Z");
}

#[test]
fn defaults_are_shown() {
    let object = object(&of(json!({"id": "i", "name": "n", "url": "wss://a"})), now());
    for (member, value) in [("type", "service"), ("protocol", "ws"), ("visibility", "private")] {
        assert_eq!(object[member], value, "{member}");
    }
    assert_eq!((&object["weight"], &object["ttl_ms"]), (&json!(1), &json!(30_000)));
    // Renewed at 5,000 of cluster time, one second before the roll's last entry.
    assert_eq!(object["heartbeat"], "2023-11-14T22:13:20.000Z");
}

#[test]
fn empty_and_absent_are_the_same_content() {
    let absent = of(json!({"id": "i", "name": "n", "url": "http://a"}));
    let empty = of(json!({
        "id": "i", "name": "n", "url": "http://a", "endpoints": [], "locality": {}, "tags": [], "metadata": {},
        "type": "service", "weight": 1, "ttl_ms": 30_000, "version": null
    }));
    assert_eq!(absent.instance, empty.instance);
}

#[test]
fn a_lapsed_lease_has_nothing_left() {
    let late = moment(6_000, 0, 93_000);
    let object = object(&of(json!({"id": "i", "name": "n", "url": "http://a"})), late);
    assert_eq!(object["lease"]["expires_in_ms"], 0);
}

#[test]
fn another_revision_or_epoch_is_another_text() {
    let (renderer, view) = (Renderer::default(), of(json!({"id": "i", "name": "n", "url": "http://a"})));
    let changed = Instance {
        revision: Revision(8),
        seldom: Seldom::new(Some(Metadata::new([("a", MetadataValue::Text("b"))])), Vec::new(), None),
        ..Instance::clone(&view.instance)
    };
    let changed = View { instance: changed.into(), ..view.clone() };
    let elsewhere =
        View { instance: of(json!({"id": "j", "name": "n", "url": "http://a"})).instance, ..view.clone() };
    let restored = Moment { epoch: Epoch(2), ..now() };
    for (view, moment) in [(&view, now()), (&changed, now()), (&elsewhere, restored), (&view, now())] {
        let expected = serde_json::to_string(&service_object(view, moment)).unwrap();
        assert_eq!(written(&renderer, view, moment), expected);
    }
}

#[test]
fn p11_a_page_ends_before_it_is_too_large() {
    let (renderer, view) = (Renderer::default(), of(json!({"id": "i", "name": "n", "url": "http://a"})));
    let one = written(&renderer, &view, now()).len();
    let found = vec![view; 4];
    let shown = |bytes_max| renderer.at(now()).found(&found, &[], bytes_max).1;
    let rest = "{\"services\":[".len();
    assert_eq!(shown(0), 1, "so that the next page makes progress");
    assert_eq!(shown(rest + one), 1);
    assert_eq!(shown(rest + 2 * one + 1), 2);
    assert_eq!(shown(usize::MAX), 4);
}
