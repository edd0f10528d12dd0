//! The Soorma contract on one node: what the SDK sees, and what its server says to others.

use reqwest::Method;
use rollcall_server::Settings;
use serde_json::{Value, json};

use crate::node::{Answer, Node, answer};

fn event(name: &str) -> Value {
    json!({ "eventName": name, "topic": "action-requests", "description": format!("desc {name}"),
        "payloadSchemaName": null, "responseSchemaName": null, "payloadSchema": null, "responseSchema": null })
}

fn capability(task: &str, consumed: &str, produced: &[&str]) -> Value {
    let produced: Vec<_> = produced.iter().map(|name| event(name)).collect();
    json!({ "taskName": task, "description": "c", "consumedEvent": event(consumed), "producedEvents": produced })
}

fn agent(id: &str, name: &str) -> Value {
    json!({ "agent": { "agentId": id, "name": name, "description": "d",
        "capabilities": [capability("check_parts", "parts.check.requested", &["parts.check.completed"])],
        "consumedEvents": null, "producedEvents": null } })
}

async fn put(node: &Node, path: &str) -> Answer {
    answer(node.request(Method::PUT, path)).await
}

async fn ids(node: &Node, query: &str) -> Vec<String> {
    let found = node.get(&format!("/v1/agents{query}")).await;
    assert_eq!(found.status, 200, "{found:?}");
    let agents = found.body["agents"].as_array().expect("a list of agents");
    assert_eq!(found.body["count"], agents.len());
    agents.iter().map(|agent| agent["agentId"].as_str().expect("an id").to_owned()).collect()
}

fn short_lived() -> Settings {
    Settings { soorma_ttl_ms: Some(1_000), soorma_reap_after_ms: Some(60_000), ..Node::founder() }
}

#[tokio::test]
async fn an_agent_lives_as_the_contract_says() {
    let node = Node::start().await;
    let first = node.post("/v1/agents", &agent("parts-1", "parts-worker:1.0.0")).await;
    assert_eq!(first.status, 200);
    let said =
        json!({ "agentId": "parts-1", "success": true, "message": "Agent 'parts-1' registered successfully." });
    assert_eq!(first.body, said);
    let again = node.post("/v1/agents", &agent("parts-1", "parts-worker:1.0.0")).await;
    assert_eq!(again.body["message"], "Agent 'parts-1' updated successfully.");

    let found = node.get("/v1/agents?agent_id=parts-1").await;
    let mut expected = agent("parts-1", "parts-worker:1.0.0")["agent"].take();
    expected["consumedEvents"] = json!(["parts.check.requested"]);
    expected["producedEvents"] = json!(["parts.check.completed"]);
    assert_eq!(found.body, json!({ "agents": [expected], "count": 1 }));

    for beat in [
        put(&node, "/v1/agents/parts-1/heartbeat").await,
        node.post("/v1/agents/parts-1/heartbeat", &json!({})).await,
    ] {
        assert_eq!(beat.status, 200);
        assert_eq!(beat.body["message"], "Agent 'parts-1' heartbeat refreshed successfully.");
    }
    let gone = node.delete("/v1/agents/parts-1").await;
    assert_eq!((gone.status, gone.body), (204, json!("")));
    let missing = node.delete("/v1/agents/parts-1").await;
    assert_eq!((missing.status, missing.body), (404, json!({ "detail": "Agent 'parts-1' not found" })));
    let missing = put(&node, "/v1/agents/parts-1/heartbeat").await;
    assert_eq!((missing.status, missing.body), (404, json!({ "detail": "Agent 'parts-1' not found." })));
    assert_eq!(node.get("/v1/agents").await.body, json!({ "agents": [], "count": 0 }));
}

#[tokio::test]
async fn of_one_name_the_last_heard_of_is_shown() {
    let node = Node::start().await;
    for (id, name) in [("old", "w:1.0.0"), ("new", "w:1.0.0"), ("green", "w:2.0.0"), ("plain", "x")] {
        assert_eq!(node.post("/v1/agents", &agent(id, name)).await.status, 200);
    }
    assert_eq!(ids(&node, "").await, ["new", "green", "plain"]);
    assert_eq!(ids(&node, "/discover").await, ["new", "green", "plain"]);
    // By id each is found, whatever else it is called.
    assert_eq!(ids(&node, "?agent_id=old").await, ["old"]);
    assert_eq!(ids(&node, "?agentId=old").await, ["old"]);
    node.until("the other one is the last heard of", async || {
        assert_eq!(put(&node, "/v1/agents/old/heartbeat").await.status, 200);
        ids(&node, "?name=W%3A1").await == ["old"]
    })
    .await;
    let plain = node.get("/v1/agents?agent_id=plain").await;
    assert_eq!(plain.body["agents"][0]["name"], "x:1.0.0", "as the SDK's model has it");
}

#[tokio::test]
async fn the_first_filter_decides() {
    let node = Node::start().await;
    let mut one = agent("one", "Research-Worker:1.0.0");
    one["agent"]["capabilities"] =
        json!([capability("a", "in.one", &["out.one"]), capability("b", "in.two", &["out.one", "out.two"])]);
    let mut two = agent("two", "planner:1.0.0");
    two["agent"]["consumedEvents"] = json!(["only.this"]);
    assert_eq!(node.post("/v1/agents", &one).await.status, 200);
    assert_eq!(node.post("/v1/agents", &two).await.status, 200);
    assert_eq!(ids(&node, "?name=research").await, ["one"]);
    assert_eq!(ids(&node, "?name=RCH-w").await, ["one"]);
    assert_eq!(ids(&node, "?consumed_event=in.two").await, ["one"]);
    assert_eq!(ids(&node, "?consumed_event=in").await, [""; 0], "events match exactly");
    assert_eq!(ids(&node, "?produced_event=out.two").await, ["one"]);
    assert_eq!(ids(&node, "?consumed_event=only.this").await, ["two"], "explicit events win");
    assert_eq!(ids(&node, "?consumed_event=parts.check.requested").await, [""; 0]);
    assert_eq!(ids(&node, "?produced_event=parts.check.completed").await, ["two"], "missing ones are derived");
    assert_eq!(ids(&node, "?agent_id=two&name=research").await, ["two"]);
    assert_eq!(ids(&node, "?name=planner&consumed_event=in.two").await, ["two"]);
    assert_eq!(ids(&node, "?agent_id=&name=planner&unknown=1").await, ["two"], "an empty one is none");
    assert_eq!(ids(&node, "/discover?consumed_event=in.one").await, ["one"]);
}

#[tokio::test]
async fn an_expired_agent_is_hidden_and_comes_back_by_a_heartbeat() {
    let node = Node::start_as(short_lived()).await;
    assert_eq!(node.post("/v1/agents", &agent("a", "w")).await.status, 200);
    assert_eq!(ids(&node, "").await, ["a"]);
    node.until("it expires", async || ids(&node, "").await.is_empty()).await;
    assert_eq!(ids(&node, "?agent_id=a").await, [""; 0]);
    assert_eq!(ids(&node, "?agent_id=a&include_expired=true").await, ["a"]);
    assert_eq!(ids(&node, "?include_expired=1").await, ["a"]);
    assert_eq!(put(&node, "/v1/agents/a/heartbeat").await.status, 200);
    assert_eq!(ids(&node, "").await, ["a"]);
    let invalid = node.get("/v1/agents?include_expired=perhaps").await;
    assert_eq!((invalid.status, &invalid.body["detail"][0]["type"]), (422, &json!("bool_parsing")));
}

#[tokio::test]
async fn a_cleaned_up_agent_is_gone_with_its_capabilities() {
    let node = Node::start_as(Settings { soorma_reap_after_ms: Some(100), ..short_lived() }).await;
    assert_eq!(node.post("/v1/agents", &agent("a", "w")).await.status, 200);
    node.until("it is cleaned up", async || ids(&node, "?include_expired=true").await.is_empty()).await;
    assert_eq!(put(&node, "/v1/agents/a/heartbeat").await.status, 404);
    assert_eq!(node.get("/api/services?capabilities=check_parts&status=offline,active").await.body["total_count"], 0);
}

#[tokio::test]
async fn all_faces_show_one_roll() {
    let node = Node::start().await;
    assert_eq!(node.post("/v1/agents", &agent("s-1", "parts-worker:2.1.0")).await.status, 200);
    let native =
        node.get("/api/services?capabilities=check_parts&consumed_event=parts.check.requested&version=%5E2").await;
    assert_eq!(native.body["total_count"], 1, "{native:?}");
    let service = &native.body["services"][0];
    assert_eq!(
        (&service["id"], &service["name"], &service["type"]),
        (&json!("s-1"), &json!("parts-worker"), &json!("agent"))
    );
    assert_eq!(service["capabilities"][0]["input_types"], json!(["parts.check.requested"]));
    assert_eq!(service["metadata"]["description"], "d");

    node.register(json!({ "id": "n-1", "name": "translator", "url": "http://a", "version": "1.2.0",
        "capabilities": ["translate", { "capability_name": "summarize", "description": "short", "input_schema": { "type": "object" } }],
        "consumed_events": ["text.sent"], "metadata": { "description": "languages" } }))
    .await;
    let found = node.get("/v1/agents?name=translator").await;
    let seen = &found.body["agents"][0];
    assert_eq!(
        (&seen["agentId"], &seen["name"], &seen["description"]),
        (&json!("n-1"), &json!("translator:1.2.0"), &json!("languages"))
    );
    assert_eq!(seen["capabilities"][0]["consumedEvent"]["eventName"], "unknown");
    assert_eq!(seen["capabilities"][0]["consumedEvent"]["topic"], "action-requests");
    assert_eq!(seen["capabilities"][1]["description"], "short");
    assert_eq!(seen["capabilities"][1]["consumedEvent"]["payloadSchema"], json!({ "type": "object" }));
    assert_eq!(ids(&node, "?consumed_event=text.sent").await, ["n-1"]);
}

#[tokio::test]
async fn events_are_replaced_and_listed_by_name() {
    let node = Node::start().await;
    let mut order = event("order.created");
    order["payloadSchema"] = json!({ "type": "object", "x-kept": [1, { "deep": null }] });
    let first = node.post("/v1/events", &json!({ "event": order })).await;
    let said = json!({ "eventName": "order.created", "success": true, "message": "Event 'order.created' registered successfully." });
    assert_eq!((first.status, first.body), (200, said));
    order["topic"] = "business-facts".into();
    let again = node.post("/v1/events", &json!({ "event": order })).await;
    assert_eq!(again.body["message"], "Event 'order.created' updated successfully.");
    node.post("/v1/events", &json!({ "event": event("a.first") })).await;

    let one = node.get("/v1/events?event_name=order.created").await;
    assert_eq!(one.body, json!({ "events": [order], "count": 1 }), "whole, and with its new topic");
    let all = node.get("/v1/events").await;
    assert_eq!(all.body["events"][0]["eventName"], "a.first");
    assert_eq!(all.body["count"], 2);
    assert_eq!(node.get("/v1/events?topic=business-facts").await.body["count"], 1);
    assert_eq!(node.get("/v1/events?event_name=no").await.body, json!({ "events": [], "count": 0 }));
    assert_eq!(node.delete("/v1/events/a.first").await.status, 204);
    assert_eq!(node.delete("/v1/events/a.first").await.body, json!({ "detail": "Event 'a.first' not found" }));
}

fn schema(name: &str, version: &str, body: &Value) -> Value {
    json!({ "schema": { "schemaName": name, "version": version, "jsonSchema": body, "description": "d",
        "ownerAgentId": "a-1", "createdAt": "1999-01-01T00:00:00", "updatedAt": null } })
}

#[tokio::test]
async fn a_schema_version_is_defined_once_and_the_last_defined_is_the_latest() {
    let node = Node::start().await;
    let body = json!({ "type": "object" });
    let first = node.post("/v1/schemas", &schema("research", "2.0.0", &body)).await;
    let said = json!({ "schemaName": "research", "version": "2.0.0", "success": true,
        "message": "Schema 'research@2.0.0' registered successfully." });
    assert_eq!((first.status, first.body), (200, said));
    assert_eq!(node.post("/v1/schemas", &schema("research", "1.5.0", &body)).await.status, 200);
    let again = node.post("/v1/schemas", &schema("research", "1.5.0", &body)).await;
    let said = json!({ "detail": "Schema 'research@1.5.0' already exists for this tenant" });
    assert_eq!((again.status, again.body), (409, said));

    let latest = node.get("/v1/schemas/research").await;
    assert_eq!((&latest.body["version"], &latest.body["jsonSchema"]), (&json!("1.5.0"), &body));
    assert!(latest.body["createdAt"].as_str().is_some_and(|at| !at.starts_with("1999")), "set by the server");
    assert_eq!(node.get("/v1/schemas/research/versions/2.0.0").await.body["version"], "2.0.0");
    assert_eq!(node.get("/v1/schemas/no").await.body, json!({ "detail": "Schema 'no' not found" }));
    let missing = node.get("/v1/schemas/research/versions/9").await;
    assert_eq!((missing.status, missing.body), (404, json!({ "detail": "Schema 'research@9' not found" })));

    let mut other = schema("alpha", "1", &body);
    other["schema"]["ownerAgentId"] = Value::Null;
    node.post("/v1/schemas", &other).await;
    let listed = node.get("/v1/schemas").await;
    let names: Vec<_> = listed.body["schemas"]
        .as_array()
        .unwrap()
        .iter()
        .map(|each| (&each["schemaName"], &each["version"]))
        .collect();
    assert_eq!(json!(names), json!([["alpha", "1"], ["research", "2.0.0"], ["research", "1.5.0"]]));
    assert_eq!(node.get("/v1/schemas?owner_agent_id=a-1").await.body["count"], 2);
    assert_eq!(node.get("/v1/schemas?owner_agent_id=nobody").await.body["count"], 0);
    assert_eq!(node.delete("/v1/schemas/research/versions/1.5.0").await.status, 204);
    assert_eq!(node.get("/v1/schemas/research").await.body["version"], "2.0.0");
}

#[tokio::test]
async fn payloads_are_validated() {
    let node = Node::start().await;
    let body = json!({ "type": "object", "required": ["q"], "properties": { "q": { "type": "string" } } });
    node.post("/v1/schemas", &schema("research", "1.0.0", &body)).await;
    let good = node.post("/v1/schemas/research/validate", &json!({ "payload": { "q": "x" } })).await;
    assert_eq!(good.body, json!({ "schemaName": "research", "version": "1.0.0", "valid": true, "errors": [] }));
    let bad = node.post("/v1/schemas/research/validate", &json!({ "payload": { "q": 1 }, "version": "1.0.0" })).await;
    assert_eq!((bad.status, &bad.body["valid"], &bad.body["errors"][0]["path"]), (200, &json!(false), &json!("/q")));
    assert_eq!(node.post("/v1/schemas/no/validate", &json!({ "payload": 1 })).await.status, 404);
    assert_eq!(node.post("/v1/schemas/research/validate", &json!({})).await.status, 422);
    node.post("/v1/schemas", &schema("remote", "1", &json!({ "$ref": "http://127.0.0.1:1/x" }))).await;
    let unusable = node.post("/v1/schemas/remote/validate", &json!({ "payload": 1 })).await;
    assert_eq!(unusable.status, 409, "{unusable:?}");
}

#[tokio::test]
async fn new_versions_must_be_compatible_where_that_is_set() {
    let node = Node::start().await;
    let set = async |mode: &str| {
        let request = node.request(Method::PUT, "/v1/schemas/order/compatibility");
        answer(request.json(&json!({ "compatibility": mode }))).await
    };
    let v1 = json!({ "type": "object", "properties": { "id": { "type": "string" } } });
    let v2 = json!({ "type": "object", "properties": { "id": { "type": "string" } }, "required": ["id"] });
    assert_eq!(node.get("/v1/schemas/order/compatibility").await.body["compatibility"], "none");
    assert_eq!(node.post("/v1/schemas", &schema("order", "1", &v1)).await.status, 200);
    assert_eq!(set("sideways").await.status, 422);
    assert_eq!(set("backward").await.body, json!({ "schemaName": "order", "compatibility": "backward" }));
    let refused = node.post("/v1/schemas", &schema("order", "2", &v2)).await;
    assert_eq!(refused.status, 422, "{refused:?}");
    let fault = &refused.body["detail"][0];
    assert_eq!(fault["loc"], json!(["body", "schema", "jsonSchema", "required"]));
    assert!(fault["msg"].as_str().unwrap().contains("not backward compatible with order@1"), "{fault}");
    assert_eq!(set("forward").await.status, 200);
    assert_eq!(node.post("/v1/schemas", &schema("order", "2", &v2)).await.status, 200);
    assert_eq!(set("none").await.status, 200);
    assert_eq!(node.post("/v1/schemas", &schema("order", "3", &json!({ "type": "null" }))).await.status, 200);
}

#[tokio::test]
async fn bad_input_is_named_as_the_original_names_it() {
    let node = Node::start().await;
    let empty = node.post("/v1/agents", &json!({})).await;
    let fault = json!({ "type": "missing", "loc": ["body", "agent"], "msg": "Field required", "input": {} });
    assert_eq!((empty.status, empty.body), (422, json!({ "detail": [fault] })));
    assert_eq!(empty.headers["content-type"], "application/json");

    let mut faulty = agent("a", "n");
    faulty["agent"]["capabilities"] =
        json!([{ "taskName": 1, "description": "d", "consumedEvent": "text", "producedEvents": {} }]);
    faulty["agent"].as_object_mut().unwrap().remove("description");
    let faulty = node.post("/v1/agents", &faulty).await;
    assert_eq!(faulty.status, 422);
    let told: Vec<_> =
        faulty.body["detail"].as_array().unwrap().iter().map(|fault| json!([fault["loc"], fault["type"]])).collect();
    assert_eq!(
        json!(told),
        json!([
            [["body", "agent", "description"], "missing"],
            [["body", "agent", "capabilities", 0, "taskName"], "string_type"],
            [["body", "agent", "capabilities", 0, "consumedEvent"], "model_attributes_type"],
            [["body", "agent", "capabilities", 0, "producedEvents"], "list_type"],
        ])
    );
    let broken = node.request(Method::POST, "/v1/agents").header("content-type", "application/json").body("{");
    let broken = answer(broken).await;
    assert_eq!((broken.status, &broken.body["detail"][0]["type"]), (422, &json!("json_invalid")));
    assert_eq!(answer(node.request(Method::POST, "/v1/agents")).await.body["detail"][0]["type"], "missing");
    for (id, name) in [("", "n"), ("watch", "n"), ("a\n", "n"), (&*"x".repeat(300), "n"), ("a", &*"x".repeat(255))] {
        assert_eq!(node.post("/v1/agents", &agent(id, name)).await.status, 422, "{id} {name}");
    }
    let large = json!({ "agent": { "agentId": "x".repeat(70_000) } });
    assert_eq!(node.post("/v1/agents", &large).await.status, 413);
    // Snake case is as good, and what is not known is passed over.
    let snake =
        json!({ "agent": { "agent_id": "s", "name": "n", "description": "", "capabilities": [], "newer": 1 } });
    assert_eq!(node.post("/v1/agents", &snake).await.status, 200);

    assert_eq!(node.get("/v1/nothing").await.body, json!({ "detail": "Not Found" }));
    assert_eq!(node.get("/api/v1/agents").await.status, 404);
    let method = answer(node.request(Method::PATCH, "/v1/agents")).await;
    assert_eq!((method.status, method.body), (405, json!({ "detail": "Method Not Allowed" })));
    assert_eq!(put(&node, "/v1/agents/a%0Ab/heartbeat").await.status, 404);
    assert_eq!(node.get("/health").await.body, json!({ "status": "healthy" }));
    let root = answer(node.request(Method::GET, "/").header("accept", "application/json")).await;
    assert_eq!((&root.body["service"], &root.body["status"]), (&json!("registry-service"), &json!("operational")));
}

#[tokio::test]
async fn p10_tokens_keep_tenants_apart() {
    let secret = "dev-identity-signing-key";
    let settings = Settings { jwt_secret: Some(secret.to_owned().into()), ..Node::founder() };
    let node = Node::start_as(settings).await;
    let token = |tenant: &str| {
        let claims = json!({ "exp": jsonwebtoken::get_current_timestamp() + 600, "platform_tenant_id": tenant });
        let key = jsonwebtoken::EncodingKey::from_secret(secret.as_bytes());
        jsonwebtoken::encode(&jsonwebtoken::Header::default(), &claims, &key).unwrap()
    };
    let (red, blue) = (token("red"), token("blue"));
    let ask = async |method: Method, path: &str, token: &str, body: Option<&Value>| {
        let request = node.request(method, path).bearer_auth(token);
        answer(body.into_iter().fold(request, |request, body| request.json(body))).await
    };
    let missing = node.get("/v1/agents").await;
    assert_eq!((missing.status, &missing.body), (401, &json!({ "detail": "Missing bearer token" })));
    assert_eq!(missing.header("www-authenticate"), "Bearer realm=\"rollcall\"");
    let alone = answer(node.request(Method::GET, "/v1/agents").header("x-tenant-id", "red")).await;
    assert_eq!(alone.status, 401);
    assert_eq!(ask(Method::GET, "/v1/agents", "x.y.z", None).await.body, json!({ "detail": "Invalid JWT" }));
    assert_eq!(node.get("/health").await.status, 200, "needs no token");
    let root = |token| node.request(Method::GET, "/").header("accept", "application/json").bearer_auth(token);
    assert_eq!((answer(root("x.y.z")).await.status, answer(root(&red)).await.status), (401, 200));

    assert_eq!(ask(Method::POST, "/v1/agents", &red, Some(&agent("a", "n"))).await.status, 200);
    let body = schema("s", "1", &json!({}));
    assert_eq!(ask(Method::POST, "/v1/schemas", &red, Some(&body)).await.status, 200);
    assert_eq!(ask(Method::POST, "/v1/events", &red, Some(&json!({ "event": event("e") }))).await.status, 200);
    for path in ["/v1/agents", "/v1/events", "/v1/schemas", "/v1/agents?agent_id=a"] {
        assert_eq!(ask(Method::GET, path, &blue, None).await.body["count"], 0, "{path}");
        assert_eq!(ask(Method::GET, path, &red, None).await.body["count"], 1, "{path}");
    }
    assert_eq!(ask(Method::PUT, "/v1/agents/a/heartbeat", &blue, None).await.status, 404);
    assert_eq!(ask(Method::DELETE, "/v1/agents/a", &blue, None).await.status, 404);
    assert_eq!(ask(Method::GET, "/v1/schemas/s", &blue, None).await.status, 404);
    assert_eq!(ask(Method::POST, "/v1/schemas", &blue, Some(&body)).await.status, 200, "another tenant's is its own");
    assert_eq!(
        ask(Method::POST, "/v1/agents", &blue, Some(&agent("a", "n"))).await.body["message"],
        "Agent 'a' registered successfully."
    );
}

#[tokio::test]
async fn pages_of_known_origins_may_ask() {
    let node = Node::start().await;
    let ask = async |method: Method, origin: &'static str| {
        let request = node.request(method, "/v1/agents").header("origin", origin);
        answer(
            request
                .header("access-control-request-method", "POST")
                .header("access-control-request-headers", "authorization"),
        )
        .await
    };
    let preflight = ask(Method::OPTIONS, "http://localhost:3000").await;
    assert_eq!((preflight.status, preflight.header("access-control-allow-origin")), (200, "http://localhost:3000"));
    assert_eq!(preflight.header("access-control-allow-credentials"), "true");
    assert_eq!(preflight.header("access-control-allow-headers"), "authorization");
    assert_eq!(
        ask(Method::GET, "http://localhost:8000").await.header("access-control-allow-origin"),
        "http://localhost:8000"
    );
    let refused = node.request(Method::PUT, "/v1/agents/no/heartbeat").header("origin", "http://localhost:3000");
    let refused = answer(refused).await;
    assert_eq!((refused.status, refused.header("access-control-allow-origin")), (404, "http://localhost:3000"));
    assert_eq!(ask(Method::GET, "http://elsewhere").await.header("access-control-allow-origin"), "");
    assert_eq!(
        answer(node.request(Method::GET, "/api/services").header("origin", "http://localhost:3000"))
            .await
            .header("access-control-allow-origin"),
        ""
    );
}

#[tokio::test]
async fn without_keys_a_token_decides_nothing() {
    let node = Node::start().await;
    let ask = node.request(Method::POST, "/v1/agents").bearer_auth("x.y.z").json(&agent("a", "n"));
    assert_eq!(answer(ask).await.status, 200);
    assert_eq!(ids(&node, "").await, ["a"], "it is the default tenant's");
    let other = answer(node.request(Method::GET, "/v1/agents").header("x-tenant-id", "other")).await;
    assert_eq!(other.body["count"], 0);
}

#[tokio::test]
async fn definitions_outlive_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start_in(dir.path()).await;
    node.post("/v1/events", &json!({ "event": event("e") })).await;
    node.post("/v1/schemas", &schema("s", "1", &json!({ "type": "string" }))).await;
    let before = node.get("/v1/schemas/s").await.body;
    let digest = node.get("/api/cluster/backup").await;
    assert_eq!(digest.status, 200, "a checkpoint is written");
    node.post("/v1/schemas", &schema("s", "2", &json!({ "type": "string" }))).await;
    node.stop().await.unwrap();
    let node = Node::start_in(dir.path()).await;
    assert_eq!(node.get("/v1/events").await.body["count"], 1);
    assert_eq!(node.get("/v1/schemas/s/versions/1").await.body, before);
    assert_eq!(node.get("/v1/schemas/s").await.body["version"], "2");
}
