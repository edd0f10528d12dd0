//! The contract of Protolink's registry, byte by byte where its clients compare.

use std::time::Duration;

use reqwest::Method;
use rollcall_server::Settings;
use serde_json::{Value, json};

use crate::events::Events;
use crate::node::{Answer, Node, answer};

/// As a client sends it. The number is longer than any machine's, and the order of a schema's members is the sender's.
const WEATHER: &str = concat!(
    r#"{"name":"weather_agent","description":"Weather data","url":"http://127.0.0.1:8010","transport":"http","#,
    r#""version":"2.1.0","protocolVersion":"0.8.3","capabilities":{"streaming":true,"push_notifications":false,"#,
    r#""state_transition_history":false,"delegation":true,"has_llm":true,"max_concurrency":4,"message_batching":false,"#,
    r#""tool_calling":false,"multi_step_reasoning":false,"timeout_support":false,"rag":false,"code_execution":false,"#,
    r#""supports_inference":null},"skills":[{"id":"get_weather","description":"Current weather — now","#,
    r#""input_schema":{"type":"object","properties":{"city":{"type":"string"},"a":{}}},"output_schema":{"type":"object"},"#,
    r#""tags":["weather"],"examples":[{"city":"Athens","n":123456789012345678901234567890,"x":0.30000000000000004}]}],"#,
    r#""inputFormats":["text/plain","application/json"],"outputFormats":["application/json"],"#,
    r#""securitySchemes":{"http":{"type":"http","scheme":"bearer"}},"tags":["weather","forecast"],"#,
    r#""additionalInterfaces":[{"url":"grpc://127.0.0.1:9010","transport":"grpc","protocolVersion":"0.8.3"}]}"#,
);

fn card(name: &str) -> Value {
    json!({"name": name, "description": "d", "url": format!("http://{name}")})
}

impl Node {
    async fn agents(&self, query: &str) -> Vec<String> {
        let found = self.get(&format!("/agents/{query}")).await;
        assert_eq!(found.status, 200, "{query}: {found:?}");
        let cards = found.body.as_array().expect("a list of cards").clone();
        cards.iter().map(|card| card["name"].as_str().expect("a name").to_owned()).collect()
    }

    async fn enrol(&self, card: &Value) {
        let answer = self.post("/agents/", card).await;
        assert_eq!((answer.status, &answer.body), (200, &json!({"status": "agent registered successfully"})));
    }

    async fn send(&self, method: Method, path: &str, body: &'static str) -> Answer {
        answer(self.request(method, path).body(body)).await
    }
}

#[tokio::test]
async fn a_card_comes_back_as_it_came() {
    let node = Node::start().await;
    let registered = node.send(Method::POST, "/agents/", WEATHER).await;
    assert_eq!((registered.status, registered.body), (200, json!({"status": "agent registered successfully"})));
    let found = node.request(Method::GET, "/agents/").send().await.unwrap();
    assert_eq!(found.headers()["content-type"], "application/json");
    assert_eq!(found.text().await.unwrap(), format!("[{WEATHER}]"));
}

#[tokio::test]
async fn what_a_card_does_not_say_is_said_and_what_nobody_knows_is_dropped() {
    let node = Node::start().await;
    let given = json!({
        "role": "gateway", "name": "a", "description": "d", "url": "x", "tags": null, "skills": [{"id": "s"}],
        "interfaces": [{"url": "grpc://a", "more": 1}], "additionalInterfaces": [], "nonsense": {"a": 1},
        "capabilities": {"rag": true},
    });
    node.enrol(&given).await;
    let wanted = json!([{
        "name": "a", "description": "d", "url": "x", "transport": "http", "version": "1.0.0", "protocolVersion": "0.8.3",
        "capabilities": {
            "streaming": false, "push_notifications": false, "state_transition_history": false, "delegation": true,
            "has_llm": false, "max_concurrency": 1, "message_batching": false, "tool_calling": false,
            "multi_step_reasoning": false, "timeout_support": false, "rag": true, "code_execution": false,
            "supports_inference": null,
        },
        "skills": [{
            "id": "s", "description": "", "input_schema": {}, "output_schema": {}, "tags": [], "examples": [],
        }],
        "inputFormats": ["text/plain"], "outputFormats": ["text/plain"], "securitySchemes": {}, "tags": [],
        "additionalInterfaces": [{"url": "grpc://a", "transport": "http", "protocolVersion": "0.8.3"}],
    }]);
    let found = node.request(Method::GET, "/agents").send().await.unwrap().text().await.unwrap();
    assert_eq!(found, wanted.to_string());
}

#[tokio::test]
async fn an_agent_comes_stays_and_goes() {
    let node = Node::start().await;
    let url = json!({"agent_url": "http://a"});
    for path in ["/agents/heartbeat", "/agents/heartbeat/"] {
        let unknown = node.post(path, &url).await;
        assert_eq!((unknown.status, unknown.body), (200, json!({"status": "agent not found"})));
    }
    node.enrol(&card("a")).await;
    for _ in 0..2 {
        // Each counts, although they bear one key.
        let beat = node.request(Method::POST, "/agents/heartbeat").header("Idempotency-Key", "http://a").json(&url);
        let beat = answer(beat).await;
        assert_eq!((beat.status, beat.body), (200, json!({"status": "agent heartbeat recorded"})));
    }
    for body in [&url, &url, &json!({"agent_url": null}), &json!({}), &json!({"agent_url": ""})] {
        let gone = answer(node.request(Method::DELETE, "/agents/").json(body)).await;
        assert_eq!((gone.status, gone.body), (200, json!({"status": "agent unregistered successfully"})), "{body}");
    }
    assert_eq!(node.agents("").await, [""; 0]);
    let gone = node.post("/agents/heartbeat", &json!({"agent_url": null})).await;
    assert_eq!((gone.status, gone.body), (200, json!({"status": "agent not found"})));
}

#[tokio::test]
async fn agents_are_listed_in_the_order_of_registration() {
    let node = Node::start().await;
    for name in ["b", "a", "c"] {
        node.enrol(&card(name)).await;
    }
    assert_eq!(node.agents("").await, ["b", "a", "c"]);
    node.post("/agents/heartbeat", &json!({"agent_url": "http://b"})).await;
    assert_eq!(node.agents("").await, ["b", "a", "c"]);
    // The same card again, to the letter, and another of the same URL.
    node.enrol(&card("b")).await;
    assert_eq!(node.agents("").await, ["a", "c", "b"]);
    node.enrol(&json!({"name": "a2", "description": "d", "url": "http://a"})).await;
    assert_eq!(node.agents("").await, ["c", "b", "a2"]);
}

#[tokio::test]
async fn every_filter_finds_its_own() {
    let node = Node::start().await;
    node.send(Method::POST, "/agents/", WEATHER).await;
    let other = json!({
        "name": "calc", "description": "Weather data", "url": "grpc://c", "transport": "grpc", "tags": ["weather", "a b"],
        "capabilities": {"delegation": false, "supports_inference": true},
    });
    node.enrol(&other).await;
    let both: &[&str] = &["weather_agent", "calc"];
    let cases: [(&str, &[&str]); 36] = [
        ("?", both),
        ("?name=calc", &["calc"]),
        ("?name=Calc", &[]),
        ("?name=", &[]),
        ("?name=calc&name=calc", &["calc"]),
        ("?name=calc&name=weather_agent", &[]),
        ("?tags=weather", both),
        ("?tags=weather&tags=forecast", &["weather_agent"]),
        ("?tags=forecast&tags=weather", &["weather_agent"]),
        ("?tags=weather&tags=math", &[]),
        ("?tags=a+b&name=calc", &["calc"]),
        ("?tags=", &[]),
        ("?description=Weather%20data", both),
        ("?url=http://127.0.0.1:8010", &["weather_agent"]),
        ("?url=http%3A%2F%2F127.0.0.1%3A8010&name=calc", &[]),
        ("?transport=grpc", &["calc"]),
        ("?version=2.1.0", &["weather_agent"]),
        ("?version=1.0.0", &["calc"]),
        ("?version=%5E2", &[]),
        ("?protocol_version=0.8.3", both),
        ("?protocolVersion=0.8.3", &[]),
        ("?role=worker", both),
        ("?role=gateway", &[]),
        ("?filter_by=x", both),
        ("?filter_by=", both),
        ("?nonsense=1", &[]),
        ("?skills=get_weather", &[]),
        ("?capabilities=%7B%27streaming%27%3A+True%7D", &[]),
        ("?capabilities.streaming=true", &["weather_agent"]),
        ("?capabilities.streaming=false", &["calc"]),
        ("?capabilities.streaming=maybe", &[]),
        ("?capabilities.delegation=false", &["calc"]),
        ("?capabilities.max_concurrency=4&capabilities.has_llm=true", &["weather_agent"]),
        ("?capabilities.supports_inference=true", &["calc"]),
        ("?capabilities.supports_inference=", &["weather_agent"]),
        ("?capabilities.flying=true", &[]),
    ];
    for (query, wanted) in cases {
        assert_eq!(node.agents(query).await, wanted, "{query}");
    }
    let long = format!("/agents?{}", "tags=a&".repeat(300));
    assert_eq!(node.get(&long).await.faults(), ["query"]);
    assert_eq!(node.agents(&format!("?tags={}", "a".repeat(5_000))).await, [""; 0]);
}

#[tokio::test]
async fn bad_cards_are_refused_with_every_fault_and_poison_nothing() {
    let node = Node::start().await;
    node.enrol(&card("good")).await;
    let before = node.get("/api/services").await.revision();
    let with = |member: &str, value: Value| {
        let mut card = card("bad");
        card[member] = value;
        card
    };
    let cases: [(Value, &[&str]); 21] = [
        (json!({}), &["name", "description", "url"]),
        (json!({"name": "", "description": "", "url": ""}), &["name", "description", "url"]),
        (json!({"name": 1, "description": [], "url": null}), &["name", "description", "url"]),
        (json!([]), &[""]),
        (json!([card("x")]), &[""]),
        (json!("x"), &[""]),
        (with("name", json!("x".repeat(257))), &["name"]),
        (with("url", json!("http://a\nb")), &["url"]),
        (with("transport", json!(1)), &["transport"]),
        (with("version", json!(2)), &["version"]),
        (
            with("capabilities", json!({"flying": true, "streaming": 1})),
            &["capabilities.streaming", "capabilities.flying"],
        ),
        (with("capabilities", json!({"max_concurrency": true})), &["capabilities.max_concurrency"]),
        (with("capabilities", json!([])), &["capabilities"]),
        (
            with("skills", json!([{"id": "s", "price": 1}, {"description": 1}])),
            &["skills[0].price", "skills[1].id", "skills[1].description"],
        ),
        (with("skills", json!({"id": "s"})), &["skills"]),
        (
            with("skills", json!([{"id": "s", "input_schema": "x", "tags": "x", "examples": {}}])),
            &["skills[0].input_schema", "skills[0].tags", "skills[0].examples"],
        ),
        (with("tags", json!("weather")), &["tags"]),
        (with("tags", json!(["a", 1, ""])), &["tags[1]", "tags[2]"]),
        (with("inputFormats", json!("text/plain")), &["inputFormats"]),
        (with("securitySchemes", json!([])), &["securitySchemes"]),
        (with("interfaces", json!([{"transport": "grpc"}, 1])), &["interfaces[0].url", "interfaces[1]"]),
    ];
    for (body, faults) in cases {
        let refused = node.post("/agents/", &body).await;
        assert_eq!((refused.status, refused.code()), (400, "invalid_request"), "{body}: {refused:?}");
        let mut named = refused.faults();
        named.sort_unstable();
        let mut faults = faults.to_vec();
        faults.sort_unstable();
        assert_eq!(named, faults, "{body}");
    }
    for (method, path) in
        [(Method::POST, "/agents/"), (Method::DELETE, "/agents/"), (Method::POST, "/agents/heartbeat")]
    {
        for broken in [
            "",
            "{",
            "{\"a\":",
            "\u{0}",
            "{\"name\":\"a\",\"name\":\"b\"}",
            "[]",
            "5",
            "{\"agent_url\":7,\"name\":7}",
        ] {
            let refused = node.send(method.clone(), path, broken).await;
            assert_eq!(refused.status, 400, "{method} {path} {broken:?}: {refused:?}");
            assert!(refused.body["detail"].is_string());
        }
    }
    let mut large = card("large");
    large["description"] = "x".repeat(300 << 10).into();
    assert_eq!(node.post("/agents/", &large).await.code(), "body_too_large");
    // Each skill lists the formats of all.
    large = card("large");
    large["inputFormats"] = (0..32).map(|n| format!("{n:0>200}")).collect();
    large["skills"] = (0..100).map(|n| json!({"id": format!("s{n}")})).collect();
    assert_eq!(node.post("/agents/", &large).await.code(), "card_too_large");
    assert_eq!(node.agents("").await, ["good"]);
    assert_eq!(node.get("/api/services").await.revision(), before);
}

#[tokio::test]
async fn ids_of_requests_come_back_and_wrong_methods_are_told_the_right_ones() {
    let node = Node::start().await;
    let get = |id: &'static str| node.request(Method::GET, "/agents/").header("X-Protolink-Request-ID", id);
    assert_eq!(answer(get("abc")).await.header("x-protolink-request-id"), "abc");
    let without = node.get("/agents/").await;
    assert_eq!(without.headers.get("x-protolink-request-id").map(|id| id.as_bytes()), Some(&b""[..]));
    // On a refusal too.
    let refused =
        answer(node.request(Method::POST, "/agents").header("X-Protolink-Request-ID", "abc").body("{")).await;
    assert_eq!((refused.status, refused.header("x-protolink-request-id")), (400, "abc"));
    for (method, path, allowed) in [
        (Method::PUT, "/agents/", "DELETE,GET,HEAD,POST"),
        (Method::GET, "/agents/heartbeat", "POST"),
        (Method::POST, "/status", "GET,HEAD"),
        (Method::DELETE, "/ns/t/status", "GET,HEAD"),
    ] {
        let refused = answer(node.request(method, path).header("X-Protolink-Request-ID", "abc")).await;
        assert_eq!((refused.status, refused.code()), (405, "method_not_allowed"), "{path}");
        let mut methods: Vec<&str> = refused.header("allow").split(',').collect();
        methods.sort_unstable();
        assert_eq!(
            (methods.join(",").as_str(), refused.header("x-protolink-request-id")),
            (allowed, "abc"),
            "{path}"
        );
    }
    let head = answer(node.request(Method::HEAD, "/agents/")).await;
    assert_eq!((head.status, head.body), (200, json!("")));
    assert_eq!(node.get("/agents/x").await.status, 404);
}

#[tokio::test]
async fn silent_agents_are_gone_after_the_configured_time() {
    let node = Node::start_as(Settings { protolink_ttl_ms: Some(3_000), ..Node::founder() }).await;
    node.enrol(&card("silent")).await;
    node.enrol(&card("alive")).await;
    let gone = async || {
        let beat = node.post("/agents/heartbeat", &json!({"agent_url": "http://alive"})).await;
        assert_eq!(beat.body, json!({"status": "agent heartbeat recorded"}));
        node.agents("").await == ["alive"]
    };
    node.until("the silent one is struck off", gone).await;
    let beat = node.post("/agents/heartbeat", &json!({"agent_url": "http://silent"})).await;
    assert_eq!(beat.body, json!({"status": "agent not found"}));
    node.enrol(&card("silent")).await;
    assert_eq!(node.agents("").await.last().map(String::as_str), Some("silent"));

    let node = Node::start().await;
    node.enrol(&card("silent")).await;
    let ttl_ms = node.get("/api/services").await.body["services"][0]["ttl_ms"].as_u64().unwrap();
    assert_eq!(Duration::from_millis(ttl_ms), Duration::from_secs(30 * 86_400));
}

#[tokio::test]
async fn a_prefix_names_a_tenant() {
    let node = Node::start_for(&["default", "one", "two"]).await;
    node.enrol(&card("of-all")).await;
    assert_eq!(node.post("/ns/one/agents/", &card("of-one")).await.status, 200);
    assert_eq!(node.agents("").await, ["of-all"]);
    let found = node.get("/ns/one/agents/").await;
    assert_eq!(found.body.as_array().unwrap().len(), 1);
    assert_eq!(node.get("/ns/two/agents").await.body, json!([]));
    let native = node.request(Method::GET, "/api/services").header("X-Tenant-ID", "one");
    assert_eq!(answer(native).await.body["services"][0]["name"], "of-one");
    let beat = |path: &str| {
        let path = path.to_owned();
        let node = &node;
        async move { node.post(&path, &json!({"agent_url": "http://of-one"})).await.body["status"].clone() }
    };
    assert_eq!(beat("/ns/one/agents/heartbeat").await, "agent heartbeat recorded");
    assert_eq!(beat("/ns/two/agents/heartbeat").await, "agent not found");
    assert_eq!(node.get("/ns/one/readyz").await.body["ready"], true);
    assert!(node.get("/ns/one/status").await.body.as_str().unwrap().contains("of-one"));

    let same = node.request(Method::GET, "/ns/one/agents").header("X-Tenant-ID", "one");
    assert_eq!(answer(same).await.status, 200);
    let other = node.request(Method::GET, "/ns/one/agents").header("X-Tenant-ID", "two");
    assert_eq!(answer(other).await.faults(), ["tenant"]);
    assert_eq!(node.get("/ns/a%20b/agents").await.faults(), ["tenant"]);
    assert_eq!(node.get("/ns/three/agents").await.code(), "unknown_tenant");
}

#[tokio::test]
async fn the_native_face_finds_cards_and_tells_of_them() {
    let node = Node::start().await;
    let mut events = Events::of(&node, "?capabilities=get_weather").await;
    assert_eq!(events.next().await.unwrap().event, "synced");
    node.send(Method::POST, "/agents/", WEATHER).await;
    assert_eq!(events.next().await.unwrap().brief(), "registered http://127.0.0.1:8010 r1");
    for query in [
        "name=weather_agent",
        "tags=weather,forecast",
        "type=agent",
        "protocol=http",
        "version=%5E2",
        "visibility=public",
        "selector=transport%3Dhttp,capabilities.streaming%3Dtrue,!capabilities.rag,capabilities.max_concurrency%3D4",
        "selector=protocol_version%3D0.8.3",
    ] {
        assert_eq!(node.get(&format!("/api/services?{query}")).await.body["total_count"], 1, "{query}");
    }
    let service = &node.get("/api/services/http:%2F%2F127.0.0.1:8010").await.body;
    assert_eq!(
        service["capabilities"],
        json!([{
            "capability_name": "get_weather", "description": "Current weather — now",
            "input_types": ["text/plain", "application/json"], "output_types": ["application/json"],
            "input_schema": {"type": "object", "properties": {"city": {"type": "string"}, "a": {}}},
            "output_schema": {"type": "object"},
        }])
    );
    assert_eq!(service["metadata"]["description"], "Weather data");
    assert_eq!(service["metadata"]["additional_interfaces"][0]["url"], "grpc://127.0.0.1:9010");
    assert_eq!(service["metadata"]["security_schemes"]["http"]["scheme"], "bearer");
    node.request(Method::DELETE, "/agents/")
        .json(&json!({"agent_url": "http://127.0.0.1:8010"}))
        .send()
        .await
        .unwrap();
    assert_eq!(events.next().await.unwrap().brief(), "deregistered http://127.0.0.1:8010 r2");
}

#[tokio::test]
async fn what_the_native_face_registers_is_a_card() {
    let node = Node::start().await;
    let native = json!({
        "id": "t-1", "name": "translator", "type": "tool", "url": "wss://t", "tags": ["language"], "version": "3.0.0",
        "capabilities": ["detect", {"capability_name": "translate", "description": "Any to any", "input_schema": {"type": "object"}, "output_schema": true}],
        "metadata": {"description": "Translates", "capabilities.streaming": true, "input_formats": ["text/html"]},
    });
    assert_eq!(node.register(native).await.status, 201);
    assert_eq!(node.register(json!({"id": "p", "name": "plain", "url": "http://p"})).await.status, 201);
    let cards = node.get("/agents/").await.body;
    let card = &cards[0];
    assert_eq!(
        (&card["name"], &card["description"], &card["url"]),
        (&json!("translator"), &json!("Translates"), &json!("wss://t"))
    );
    assert_eq!(
        (&card["transport"], &card["version"], &card["tags"]),
        (&json!("websocket"), &json!("3.0.0"), &json!(["language"]))
    );
    assert_eq!(
        (&card["capabilities"]["streaming"], &card["capabilities"]["delegation"]),
        (&json!(true), &json!(false))
    );
    assert_eq!((&card["inputFormats"], &card["outputFormats"]), (&json!(["text/html"]), &json!(["text/plain"])));
    assert_eq!(
        card["skills"],
        json!([
            {"id": "detect", "description": "", "input_schema": {}, "output_schema": {}, "tags": [], "examples": []},
            {"id": "translate", "description": "Any to any", "input_schema": {"type": "object"}, "output_schema": {}, "tags": [], "examples": []},
        ])
    );
    assert_eq!((&cards[1]["description"], &cards[1]["version"]), (&json!("service plain"), &json!("1.0.0")));
    assert_eq!(node.agents("?transport=websocket&capabilities.streaming=true").await, ["translator"]);
    assert_eq!(node.agents("?description=service+plain&version=1.0.0&transport=http").await, ["plain"]);
}

#[tokio::test]
async fn long_urls_are_agents_like_others() {
    let node = Node::start().await;
    let long = format!("http://a/{}", "x".repeat(600));
    for url in [long.as_str(), "watch", "urn:sha256:00"] {
        let (body, named) = (json!({"name": "a", "description": "d", "url": url}), json!({"agent_url": url}));
        node.enrol(&body).await;
        assert_eq!(node.get("/agents/").await.body[0]["url"], url);
        let service = node.get("/api/services").await.body["services"][0].clone();
        assert!(service["id"].as_str().unwrap().starts_with("urn:sha256:"), "{service}");
        assert_eq!(service["id"].as_str().unwrap().len(), "urn:sha256:".len() + 64);
        assert_eq!(node.post("/agents/heartbeat", &named).await.body["status"], "agent heartbeat recorded");
        answer(node.request(Method::DELETE, "/agents/").json(&named)).await;
        assert_eq!(node.agents("").await, [""; 0]);
    }
}

#[tokio::test]
async fn the_status_page_shows_agents_and_runs_nothing_of_theirs() {
    let node = Node::start().await;
    node.enrol(
        &json!({"name": "<script>alert(1)</script>", "description": "\"d\" & 'e'", "url": "javascript:alert(1)"}),
    )
    .await;
    node.enrol(&json!({"name": "plain", "description": "d", "url": "http://p?a=1&b=\"2\""})).await;
    for path in ["/status", "/status/"] {
        let page = node.get(path).await;
        assert_eq!((page.status, page.header("content-type")), (200, "text/html; charset=utf-8"));
        assert!(page.header("content-security-policy").contains("default-src 'none'"));
        let html = page.body.as_str().unwrap();
        for part in ["Registry", "HTTP", "plain", "&lt;script&gt;", "&quot;d&quot; &amp; &#x27;e&#x27;", "2 agents"] {
            assert!(html.contains(part), "{part} in {html}");
        }
        assert!(!html.contains("<script") && !html.contains("href=\"javascript"), "{html}");
        assert!(html.contains("href=\"http://p?a=1&amp;b=&quot;2&quot;\""), "{html}");
    }
}

#[tokio::test]
async fn probes_find_what_they_look_for() {
    let node = Node::start().await;
    for path in ["/healthz", "/readyz", "/ns/a/healthz", "/ns/a/readyz", "/readyz?verbose"] {
        let health = node.get(path).await;
        assert_eq!(health.status, 200, "{path}");
        for (name, value) in [("status", json!("ready")), ("ready", json!(true)), ("transport", json!("http"))] {
            assert_eq!(health.body[name], value, "{path}");
        }
        assert_eq!(health.body["url"], node.base, "{path}");
        assert_eq!(health.body["capabilities"]["networked"], true, "{path}");
        assert!(health.body["metrics"]["requests_succeeded"].as_u64() > Some(0), "{path}");
    }
    assert_eq!(answer(node.request(Method::HEAD, "/healthz")).await.status, 200);
}
