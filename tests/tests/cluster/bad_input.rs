//! P10, P11: what a client sends is refused with the fault named, changes nothing and breaks nothing.

use reqwest::Method;
use rollcall_tests::{Answer, Api, Cluster};
use serde_json::{Value, json};

/// One bad request: what is sent, the status it deserves and a word that names the fault.
struct Bad<'a> {
    method: Method,
    path: &'a str,
    body: Vec<u8>,
    headers: &'a [(&'a str, &'a str)],
    status: u16,
    names: &'a str,
}

fn get<'a>(path: &'a str, status: u16, names: &'a str) -> Bad<'a> {
    Bad { method: Method::GET, path, body: Vec::new(), headers: &[], status, names }
}

fn post<'a>(path: &'a str, body: impl Into<Vec<u8>>, status: u16, names: &'a str) -> Bad<'a> {
    Bad { method: Method::POST, path, body: body.into(), headers: &[], status, names }
}

/// A registration that is good but for some fields.
fn register(changes: Value, names: &str) -> Bad<'_> {
    let mut body = json!({ "id": "web-9", "name": "web", "url": "http://a" });
    for (field, value) in changes.as_object().expect("an object") {
        body[field] = value.clone();
    }
    post("/api/services/register", body.to_string(), 400, names)
}

async fn send(api: &Api, bad: &Bad<'_>) -> Answer {
    let mut request = api.request(bad.method.clone(), bad.path);
    if !bad.body.is_empty() {
        request = request.header("content-type", "application/json").body(bad.body.clone());
    }
    for (name, value) in bad.headers {
        request = request.header(*name, *value);
    }
    api.send(request).await.unwrap_or_else(|e| panic!("{} {}: {e:?}", bad.method, bad.path))
}

#[tokio::test]
async fn p11_each_fault_is_named_and_changes_nothing() {
    let cluster = Cluster::start(1).await;
    let api = &cluster.nodes[0].api;
    let lease = api.register("web-1", 600_000).await;
    let before = api.get("/api/services/web-1").await.ok();
    let revision = api.status().await.expect("a status")["revision"].clone();

    let many_leases = json!({ "leases": (1..=10_001).collect::<Vec<u64>>() }).to_string();
    let large = json!({ "id": "web-9", "name": "web", "url": "http://a", "metadata": { "k": "x".repeat(70 << 10) } });
    let tags: Vec<String> = (0..65).map(|n| format!("t{n}")).collect();
    let beat = "/api/services/web-1/heartbeat";
    let bad = [
        register(json!({ "colour": "red" }), "colour"),
        register(json!({ "locality": { "planet": "mars" } }), "planet"),
        register(json!({ "name": 7 }), "name"),
        register(json!({ "name": "" }), "name"),
        register(json!({ "name": null }), "name"),
        register(json!({ "tags": "x" }), "tags"),
        register(json!({ "tags": [1] }), "tags"),
        register(json!({ "tags": tags }), "tags"),
        register(json!({ "metadata": [] }), "metadata"),
        register(json!({ "capabilities": [{}] }), "capabilities"),
        register(json!({ "type": "spaceship" }), "type"),
        register(json!({ "protocol": "carrier-pigeon" }), "protocol"),
        register(json!({ "visibility": "secret" }), "visibility"),
        register(json!({ "id": "a\u{7}b" }), "id"),
        register(json!({ "id": "a\nb" }), "id"),
        register(json!({ "id": "" }), "id"),
        register(json!({ "id": "x".repeat(257) }), "id"),
        register(json!({ "id": 5 }), "id"),
        register(json!({ "ttl_ms": 0 }), "ttl_ms"),
        register(json!({ "ttl_ms": 999 }), "ttl_ms"),
        register(json!({ "ttl_ms": 86_400_001_u64 }), "ttl_ms"),
        register(json!({ "ttl_ms": -1 }), "ttl_ms"),
        register(json!({ "ttl_ms": "30s" }), "ttl_ms"),
        register(json!({ "ttl_ms": 1e30 }), "ttl_ms"),
        register(json!({ "reap_after_ms": -1 }), "reap_after_ms"),
        register(json!({ "weight": -1 }), "weight"),
        register(json!({ "url": "" }), "url"),
        post("/api/services/register", large.to_string(), 413, "body_too_large"),
        post("/api/services/register", "{\"name\": ", 400, "json"),
        post("/api/services/register", "[]", 400, "object"),
        post("/api/services/register", "{}", 400, "name"),
        post("/api/services/register", vec![0xff, 0xfe], 400, "json"),
        post("/api/services/register", "[".repeat(50_000), 400, "json"),
        post(beat, "{\"colour\":1}", 400, "colour"),
        post(beat, "{\"status\":\"asleep\"}", 400, "status"),
        post(beat, "{\"lease_id\":\"1\"}", 400, "lease_id"),
        post(beat, "{\"lease_id\":-1}", 400, "lease_id"),
        post(beat, "{\"metadata\":7}", 400, "metadata"),
        post("/api/services/a%07b/heartbeat", "{}", 400, "id"),
        post("/api/services/web-8/heartbeat", "{}", 404, "lease_not_found"),
        post("/api/heartbeats", many_leases, 400, "leases"),
        post("/api/heartbeats", "{\"leases\":[-1]}", 400, "leases"),
        post("/api/heartbeats", "{\"leases\":[1.5]}", 400, "leases"),
        post("/api/heartbeats", "{\"leases\":7}", 400, "leases"),
        post("/api/heartbeats", "{}", 400, "leases"),
        get("/api/services?limit=-1", 400, "limit"),
        get("/api/services?limit=1001", 400, "limit"),
        get("/api/services?limit=ten", 400, "limit"),
        get("/api/services?colour=red", 400, "colour"),
        get("/api/services?cursor=bm9uc2Vuc2U", 400, "cursor"),
        get("/api/services?sort=size", 400, "sort"),
        get("/api/services?status=asleep", 400, "status"),
        get("/api/services?version=%3E%3E1", 400, "version"),
        get("/api/services?selector=a%20in%20b", 400, "selector"),
        get("/api/services?consistency=perfect", 400, "consistency"),
        get("/api/services?min_revision=-1", 400, "min_revision"),
        get("/api/services?max_staleness_ms=x", 400, "max_staleness_ms"),
        get("/api/services/a%07b", 400, "id"),
        get("/api/services/web-8", 404, "not_found"),
        get("/api/nowhere", 404, "nowhere"),
        get("/api/cluster/digest?index=x", 400, "index"),
        Bad { headers: &[("X-Tenant-ID", "a b")], ..get("/api/services", 400, "tenant") },
        Bad { headers: &[("X-Tenant-ID", "nobody")], ..get("/api/services/web-1", 404, "not_found") },
        Bad { headers: &[("X-Tenant-ID", "nobody")], ..post(beat, "{}", 404, "lease_not_found") },
        Bad { headers: &[("X-Request-Timeout-Ms", "0")], ..get("/api/services", 400, "timeout") },
        Bad { headers: &[("X-Request-Timeout-Ms", "60001")], ..get("/api/services", 400, "timeout") },
        Bad {
            headers: &[("If-None-Match", "*")],
            ..post("/api/services/register", before_as_registration(), 412, "precondition_failed")
        },
        Bad {
            headers: &[("If-Match", "\"999\"")],
            ..post("/api/services/register", before_as_registration(), 412, "precondition_failed")
        },
        Bad {
            headers: &[("If-Match", "seven")],
            ..post("/api/services/register", before_as_registration(), 400, "if-match")
        },
        Bad { method: Method::DELETE, ..get("/api/services/web-8", 404, "not_found") },
        Bad { method: Method::DELETE, ..get("/api/services/web-1?lease_id=x", 400, "lease_id") },
        Bad { method: Method::PATCH, ..get("/api/services/web-1", 405, "method") },
    ];
    let mut faults = Vec::new();
    for bad in &bad {
        let answer = send(api, bad).await;
        let told = answer.body.to_string().to_lowercase();
        let problem = answer.headers.get("content-type").is_some_and(|kind| kind == "application/problem+json");
        if answer.status != bad.status || !told.contains(bad.names) || !problem || answer.body["code"].is_null() {
            let sent = String::from_utf8_lossy(&bad.body[..bad.body.len().min(120)]).into_owned();
            faults.push(format!(
                "{} {} {sent}\n    expected {} naming `{}`, got {} {told}",
                bad.method, bad.path, bad.status, bad.names, answer.status
            ));
        }
    }
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));

    let after = api.get("/api/services/web-1").await.ok();
    assert_eq!(after["lease"]["id"], lease);
    assert_eq!((&after["revision"], &after["url"]), (&before["revision"], &before["url"]));
    assert_eq!(api.status().await.expect("a status")["revision"], revision, "a refused request changed something");
    assert_eq!(api.ids("").await.expect("a list"), ["web-1"]);
}

fn before_as_registration() -> String {
    json!({ "id": "web-1", "name": "web", "url": "http://elsewhere" }).to_string()
}

#[tokio::test]
async fn p11_every_fault_of_a_body_is_named_at_once() {
    let cluster = Cluster::start(1).await;
    let body = json!({ "id": "a\tb", "name": "", "ttl_ms": 0, "colour": 1, "tags": [1] });
    let answer = cluster.nodes[0].api.post("/api/services/register", &body).await;
    assert_eq!(answer.status, 400);
    let errors = answer.body["errors"].as_array().expect("a list of errors");
    for field in ["id", "name", "url", "ttl_ms", "colour", "tags"] {
        let named = |error: &Value| {
            error["field"].as_str().is_some_and(|name| name.starts_with(field)) && error["message"].is_string()
        };
        assert!(errors.iter().any(named), "{field} is not named: {errors:?}");
    }
}

#[tokio::test]
async fn foreign_cursors_are_refused() {
    let (one, other) = (Cluster::start(1).await, Cluster::start(1).await);
    for cluster in [&one, &other] {
        for n in 0..4 {
            cluster.nodes[0].api.register(&format!("web-{n}"), 600_000).await;
        }
    }
    let page = one.nodes[0].api.get("/api/services?limit=2&name=web").await.ok();
    let cursor = page["next_cursor"].as_str().expect("a next page");
    let api = &one.nodes[0].api;
    assert_eq!(api.get(&format!("/api/services?limit=2&name=web&cursor={cursor}")).await.status, 200);
    let other_question = api.get(&format!("/api/services?limit=2&name=db&cursor={cursor}")).await;
    assert_eq!(other_question.refused(400), "bad_cursor");
    let tail = &cursor[..cursor.len() - 1];
    let flipped = if cursor.ends_with('A') { format!("{tail}B") } else { format!("{tail}A") };
    let mangled = api.get(&format!("/api/services?limit=2&name=web&cursor={flipped}")).await;
    assert_eq!(mangled.refused(400), "bad_cursor");
    let request = api.request(Method::GET, &format!("/api/services?limit=2&name=web&cursor={cursor}"));
    let tenant = api.send(request.header("X-Tenant-ID", "other")).await.expect("an answer");
    assert_eq!(tenant.refused(400), "bad_cursor");
}

#[tokio::test]
async fn p10_tenants_are_apart() {
    let cluster = Cluster::start(1).await;
    let api = &cluster.nodes[0].api;
    let as_tenant = async |tenant: &str, method: Method, path: &str, body: Option<Value>| {
        let mut request = api.request(method, path).header("X-Tenant-ID", tenant);
        if let Some(body) = body {
            request = request.json(&body);
        }
        api.send(request).await.expect("an answer")
    };
    let body = json!({ "id": "web-1", "name": "web", "url": "http://red", "tags": ["x"] });
    let red = as_tenant("red", Method::POST, "/api/services/register", Some(body)).await.ok();
    let lease = red["lease"]["id"].clone();
    assert_eq!(red["service"]["tenant"], "red");

    let list = as_tenant("blue", Method::GET, "/api/services?tags=x", None).await.ok();
    assert_eq!((&list["total_count"], &list["services"]), (&json!(0), &json!([])));
    assert_eq!(as_tenant("blue", Method::GET, "/api/services/web-1", None).await.status, 404);
    assert_eq!(as_tenant("blue", Method::DELETE, "/api/services/web-1", None).await.status, 404);
    let batch = as_tenant("blue", Method::POST, "/api/heartbeats", Some(json!({ "leases": [lease] }))).await.ok();
    assert_eq!(batch, json!({ "renewed": 0, "not_found": [lease], "superseded": [] }));
    let beat = json!({ "lease_id": lease });
    let beat = as_tenant("blue", Method::POST, "/api/services/web-1/heartbeat", Some(beat)).await;
    assert_eq!(beat.refused(404), "lease_not_found");
    assert_eq!(as_tenant("red", Method::GET, "/api/services", None).await.ok()["total_count"], 1);
}
