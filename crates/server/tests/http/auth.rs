//! Who may do what on a node that asks for tokens: every refusal, and what goes on all the same.

use reqwest::{Method, RequestBuilder};
use rollcall_server::{ADMIN_TOKEN, RESET_REQUEST, Settings};
use serde_json::{Value, json};

use crate::node::{Answer, Node, answer};

const SECRET: &str = "dev-identity-signing-key";

/// A node that asks for tokens, and one that may do everything.
pub(crate) async fn guarded() -> (Node, String) {
    guarded_with(Settings::default()).await
}

pub(crate) async fn guarded_with(settings: Settings) -> (Node, String) {
    let mut node = Node::start_as(Settings { auth: Some(true), ..settings.over(Node::founder()) }).await;
    let admin = node.admin().await;
    (node, admin)
}

pub(crate) async fn ask(node: &Node, token: &str, method: Method, path: &str) -> Answer {
    answer(node.request(method, path).bearer_auth(token)).await
}

async fn get(node: &Node, token: &str, path: &str) -> Answer {
    ask(node, token, Method::GET, path).await
}

async fn post(node: &Node, token: &str, path: &str, body: &Value) -> Answer {
    answer(node.request(Method::POST, path).bearer_auth(token).json(body)).await
}

/// Makes a token of these properties.
pub(crate) async fn made(node: &Node, admin: &str, properties: Value) -> String {
    let made = post(node, admin, "/api/tokens", &properties).await;
    assert_eq!(made.status, 201, "{made:?}");
    assert_eq!(made.header("cache-control"), "no-store");
    made.body["token"].as_str().expect("a token").to_owned()
}

fn id_of(token: &str) -> &str {
    token.split('-').nth(1).expect("prefix, id and secret")
}

fn web(id: &str) -> Value {
    json!({ "id": id, "name": "web", "url": format!("http://{id}"), "ttl_ms": 60_000 })
}

#[track_caller]
fn refused(answer: &Answer, status: u16, code: &str) {
    assert_eq!((answer.status, answer.code()), (status, code), "{answer:?}");
}

/// Every operation of the contract, with something in the place of its parameters.
fn operations() -> Vec<(Method, String)> {
    let document = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/openapi.json");
    let document = std::fs::read_to_string(document).expect("the contract");
    let document: Value = serde_json::from_str(&document).expect("JSON");
    let mut operations = Vec::new();
    for (path, item) in document["paths"].as_object().expect("paths") {
        let path = path.replace("{id}", "0000000000000001").replace("{version}", "1");
        for method in item.as_object().expect("operations").keys() {
            let method = Method::from_bytes(method.to_uppercase().as_bytes()).expect("a method");
            operations.push((method, path.clone()));
        }
    }
    operations
}

const OPEN: &[&str] = &["/", "/docs", "/healthz", "/health", "/livez", "/readyz", "/openapi.json"];

#[tokio::test]
async fn without_a_token_there_is_nothing_but_probes_and_pages() {
    let (node, _) = guarded().await;
    let mut asked = 0;
    for (method, path) in operations() {
        let missing = answer(node.request(method.clone(), &path)).await;
        if path.starts_with("/klp/") {
            // What other clusters say proves itself.
            assert_eq!(missing.status, 400, "{method} {path}");
            continue;
        }
        if OPEN.contains(&path.as_str()) {
            assert_eq!(missing.status, 200, "{method} {path}");
            continue;
        }
        asked += 1;
        assert_eq!(missing.status, 401, "{method} {path}");
        assert_eq!(missing.header("www-authenticate"), "Bearer realm=\"rollcall\"", "{method} {path}");
        let wrong = ask(&node, "rctoken-0000000000000001-00", method.clone(), &path).await;
        assert_eq!(wrong.status, 401, "{method} {path}");
        assert_eq!(wrong.header("www-authenticate"), "Bearer realm=\"rollcall\", error=\"invalid_token\"");
    }
    assert!(asked > 30, "the contract has {asked} closed operations");
    refused(&node.get("/api/services").await, 401, "token_missing");
    refused(&node.get("/nowhere").await, 401, "token_missing");
    assert_eq!(node.get("/pages/style.css").await.status, 200);
    // Other contracts have their own words for it.
    assert_eq!(node.get("/v1/agents").await.body, json!({ "detail": "Missing bearer token" }));
    let agents = node.request(Method::GET, "/agents").header("x-protolink-request-id", "r7");
    assert_eq!(answer(agents).await.header("x-protolink-request-id"), "r7");
    for credentials in ["Basic eDp5", "Bearer", "Bearer ", "ApiKey x"] {
        let request = node.request(Method::GET, "/api/services").header("authorization", credentials);
        refused(&answer(request).await, 401, "token_missing");
    }
    let twice = node.request(Method::GET, "/api/services").bearer_auth("a").bearer_auth("b");
    refused(&answer(twice).await, 401, "token_missing");
}

#[tokio::test]
async fn a_secret_that_is_nearly_right_is_wrong() {
    let (node, admin) = guarded().await;
    assert_eq!(get(&node, &admin, "/api/tokens").await.status, 200);
    let last = if admin.ends_with('0') { "1" } else { "0" };
    let nearly = format!("{}{last}", &admin[..admin.len() - 1]);
    refused(&get(&node, &nearly, "/api/tokens").await, 401, "token_invalid");
    refused(&get(&node, &admin.replace("rctoken", "rcjoin"), "/api/tokens").await, 401, "token_invalid");
    let shown = get(&node, &admin, "/api/tokens").await;
    let secret = admin.rsplit('-').next().unwrap();
    assert!(!shown.body.to_string().contains(secret), "the list tells no secret");
    assert_eq!(shown.body["tokens"][0]["role"], "admin");
    assert_eq!(shown.body["tokens"][0]["tenant"], "*");
}

#[tokio::test]
async fn each_role_may_do_what_it_is_for_and_no_more() {
    let (node, admin) = guarded().await;
    let of = async |role: &str, tenant: &str| made(&node, &admin, json!({ "role": role, "tenant": tenant })).await;
    let (reader, agent) = (of("reader", "acme").await, of("agent", "acme").await);
    let (operator, operators) = (of("operator", "acme").await, of("operator", "*").await);

    refused(&post(&node, &reader, "/api/services/register", &web("a")).await, 403, "forbidden");
    assert_eq!(post(&node, &agent, "/api/services/register", &web("a")).await.status, 201);
    assert_eq!(get(&node, &reader, "/api/services").await.body["total_count"], 1);
    assert_eq!(get(&node, &reader, "/api/cluster/status").await.status, 200);
    let digest = get(&node, &reader, "/api/cluster/digest").await;
    refused(&digest, 403, "forbidden");
    assert_eq!(
        digest.body["detail"],
        "this needs the role `reader` over all tenants with the verb `read`; the token has `reader` for tenant `acme`"
    );
    refused(&post(&node, &agent, "/api/cluster/leader", &json!({})).await, 403, "forbidden");
    refused(&post(&node, &operator, "/api/cluster/leader", &json!({})).await, 403, "forbidden");
    assert_ne!(post(&node, &operators, "/api/cluster/leader", &json!({})).await.status, 403);
    refused(&get(&node, &operators, "/api/tokens").await, 403, "forbidden");
    refused(&get(&node, &operators, "/api/cluster/backup").await, 403, "forbidden");
    assert_eq!(get(&node, &admin, "/api/cluster/backup").await.status, 200);
    refused(&get(&node, &operator, "/metrics").await, 403, "forbidden");
    assert_eq!(get(&node, &operators, "/metrics").await.status, 200);
    // An operator changes what others registered.
    let heartbeat = post(&node, &operator, "/api/services/a/heartbeat", &json!({ "status": "maintenance" })).await;
    assert_eq!(heartbeat.status, 200, "{heartbeat:?}");
    assert_eq!(ask(&node, &operator, Method::DELETE, "/api/services/a").await.status, 200);
}

#[tokio::test]
async fn p10_a_token_is_for_its_own_tenant() {
    let (node, admin) = guarded().await;
    let agent = async |tenant: &str| made(&node, &admin, json!({ "role": "agent", "tenant": tenant })).await;
    let (red, blue) = (agent("red").await, agent("blue").await);
    let mut leases = Vec::new();
    for id in ["a", "b", "c"] {
        let registered = post(&node, &red, "/api/services/register", &web(id)).await;
        leases.push(registered.body["lease"]["id"].as_u64().unwrap());
    }
    // Whoever names another is told that he may not, before anything is looked up.
    for (method, path) in [
        (Method::GET, "/api/services"),
        (Method::GET, "/api/services/a"),
        (Method::GET, "/api/services/watch"),
        (Method::DELETE, "/api/services/a"),
        (Method::GET, "/agents"),
        (Method::GET, "/ns/red/agents"),
        (Method::GET, "/v1/agents"),
        (Method::GET, "/status"),
    ] {
        let named = |request: RequestBuilder| match path.starts_with("/ns/") {
            true => request,
            false => request.header("x-tenant-id", "red"),
        };
        let answered = answer(named(node.request(method.clone(), path)).bearer_auth(&blue)).await;
        assert_eq!(answered.status, 403, "{method} {path}: {answered:?}");
    }
    assert_eq!(get(&node, &blue, "/ns/blue/agents").await.status, 200);
    // Whoever names none means his own.
    let found = get(&node, &blue, "/api/services").await;
    assert_eq!((found.body["total_count"].as_u64(), &found.body["services"]), (Some(0), &json!([])));
    refused(&get(&node, &blue, "/api/services/a").await, 404, "not_found");
    refused(&ask(&node, &blue, Method::DELETE, "/api/services/a").await, 404, "not_found");
    refused(&post(&node, &blue, "/api/services/a/heartbeat", &json!({})).await, 404, "lease_not_found");
    let renewed = post(&node, &blue, "/api/heartbeats", &json!({ "leases": leases })).await;
    assert_eq!(renewed.body, json!({ "renewed": 0, "not_found": leases, "superseded": [] }));
    assert_eq!(get(&node, &blue, "/agents").await.body, json!([]));
    assert_eq!(get(&node, &blue, "/v1/agents").await.body["count"], 0);
    // A cursor and a resume point are good for the one who got them.
    let page = get(&node, &red, "/api/services?limit=1").await;
    let cursor = page.body["next_cursor"].as_str().expect("more than a page");
    assert_eq!(get(&node, &red, &format!("/api/services?limit=1&cursor={cursor}")).await.status, 200);
    refused(&get(&node, &blue, &format!("/api/services?limit=1&cursor={cursor}")).await, 400, "bad_cursor");
    let poll = get(&node, &blue, "/api/services?after_revision=0&wait_ms=1").await;
    assert_eq!(poll.body["total_count"], 0);
    // Who may act for all says for whom; the default is `default`.
    assert_eq!(get(&node, &admin, "/api/services").await.body["total_count"], 0);
    let meant = node.request(Method::GET, "/api/services").header("x-tenant-id", "red").bearer_auth(&admin);
    assert_eq!(answer(meant).await.body["total_count"], 3);
}

#[tokio::test]
async fn an_agent_changes_what_it_registered() {
    let (node, admin) = guarded().await;
    let agent = async || made(&node, &admin, json!({ "role": "agent", "tenant": "acme" })).await;
    let (one, other) = (agent().await, agent().await);
    let registered = post(&node, &one, "/api/services/register", &web("a")).await;
    let lease = registered.body["lease"]["id"].as_u64().unwrap();
    assert!(!registered.body.to_string().contains(id_of(&one)), "who registered it is shown to nobody");
    let taken = json!({ "id": "a", "name": "web", "url": "http://elsewhere" });
    refused(&post(&node, &other, "/api/services/register", &taken).await, 403, "forbidden");
    refused(&post(&node, &other, "/api/services/register", &web("a")).await, 403, "forbidden");
    refused(&post(&node, &other, "/api/services/a/heartbeat", &json!({})).await, 403, "forbidden");
    refused(&post(&node, &other, "/api/services/a/heartbeat", &json!({ "status": "error" })).await, 403, "forbidden");
    refused(&ask(&node, &other, Method::DELETE, "/api/services/a").await, 403, "forbidden");
    let renewed = post(&node, &other, "/api/heartbeats", &json!({ "leases": [lease] })).await;
    assert_eq!(renewed.body, json!({ "renewed": 0, "not_found": [lease], "superseded": [] }));
    let own = post(&node, &other, "/api/services/register", &web("b")).await.body["lease"]["id"].as_u64().unwrap();
    let renewed = post(&node, &other, "/api/heartbeats", &json!({ "leases": [lease, own] })).await;
    assert_eq!(renewed.body, json!({ "renewed": 1, "not_found": [lease], "superseded": [] }));

    let renewed = post(&node, &one, "/api/heartbeats", &json!({ "leases": [lease] })).await;
    assert_eq!(renewed.body["renewed"], 1);
    // It stays its own when the token has another secret.
    let rotated = post(&node, &admin, &format!("/api/tokens/{}/rotate", id_of(&one)), &json!({})).await;
    let again = rotated.body["token"].as_str().unwrap();
    assert_eq!(id_of(again), id_of(&one));
    refused(&post(&node, &one, "/api/services/a/heartbeat", &json!({})).await, 401, "token_expired");
    assert_eq!(post(&node, again, "/api/services/a/heartbeat", &json!({})).await.status, 200);
    assert_eq!(post(&node, again, "/api/services/register", &taken).await.status, 200);
    assert_eq!(ask(&node, again, Method::DELETE, "/api/services/a").await.status, 200);
}

#[tokio::test]
async fn agents_of_other_contracts_own_what_they_register() {
    let (node, admin) = guarded().await;
    let agent = async || made(&node, &admin, json!({ "role": "agent", "tenant": "acme" })).await;
    let (one, other) = (agent().await, agent().await);
    let card = json!({ "name": "w", "description": "d", "url": "http://w" });
    let url = json!({ "agent_url": "http://w" });
    assert_eq!(post(&node, &one, "/agents", &card).await.status, 200);
    assert_eq!(post(&node, &other, "/agents", &card).await.status, 403);
    assert_eq!(post(&node, &other, "/agents/heartbeat", &url).await.status, 403);
    assert_eq!(post(&node, &one, "/agents/heartbeat", &url).await.body["status"], "agent heartbeat recorded");
    let soorma = json!({ "agent": { "agentId": "s", "name": "s", "description": "d", "capabilities": [] } });
    assert_eq!(post(&node, &one, "/v1/agents", &soorma).await.status, 200);
    let refused = post(&node, &other, "/v1/agents", &soorma).await;
    assert_eq!(refused.status, 403);
    assert!(refused.body["detail"].as_str().unwrap().contains("somebody else"), "{refused:?}");
    assert_eq!(ask(&node, &other, Method::PUT, "/v1/agents/s/heartbeat").await.status, 403);
    assert_eq!(ask(&node, &other, Method::DELETE, "/v1/agents/s").await.status, 403);
    assert_eq!(ask(&node, &one, Method::DELETE, "/v1/agents/s").await.status, 204);
}

#[tokio::test]
async fn scopes_narrow_a_token() {
    let (node, admin) = guarded().await;
    let scoped =
        json!({ "role": "agent", "tenant": "acme", "services": ["web*", "db-"], "verbs": ["register", "read"] });
    let scoped = made(&node, &admin, scoped).await;
    let agent = made(&node, &admin, json!({ "role": "agent", "tenant": "acme" })).await;
    assert_eq!(post(&node, &agent, "/api/services/register", &web("a")).await.status, 201);
    // It is over services of its names, whoever registered them.
    let moved = json!({ "id": "a", "name": "web", "url": "http://moved" });
    assert_eq!(post(&node, &scoped, "/api/services/register", &moved).await.status, 200);
    let mail = json!({ "id": "m", "name": "mail", "url": "http://m" });
    let outside = post(&node, &scoped, "/api/services/register", &mail).await;
    refused(&outside, 403, "forbidden");
    assert_eq!(outside.body["detail"], "the token's scope names the services web*, db-*, and `mail` is none");
    assert_eq!(post(&node, &agent, "/api/services/register", &mail).await.status, 201);
    let renamed = json!({ "id": "m", "name": "web", "url": "http://m" });
    refused(&post(&node, &scoped, "/api/services/register", &renamed).await, 403, "forbidden");
    // The verbs are as narrow.
    assert_eq!(get(&node, &scoped, "/api/services").await.status, 200);
    refused(&get(&node, &scoped, "/api/services/watch").await, 403, "forbidden");
    refused(&post(&node, &scoped, "/api/services/a/heartbeat", &json!({})).await, 403, "forbidden");
    refused(&ask(&node, &scoped, Method::DELETE, "/api/services/a").await, 403, "forbidden");
}

#[tokio::test]
async fn operators_direct_what_is_theirs() {
    let (node, admin) = guarded().await;
    let agent = made(&node, &admin, json!({ "role": "agent", "tenant": "acme" })).await;
    let operator = made(&node, &admin, json!({ "role": "operator", "tenant": "acme" })).await;
    let scoped = made(&node, &admin, json!({ "role": "operator", "tenant": "acme", "services": ["web"] })).await;
    let put = async |token: &str, path: &str, body: Value| {
        answer(node.request(Method::PUT, path).bearer_auth(token).json(&body)).await
    };
    let mail = json!({ "id": "m", "name": "mail", "url": "http://m" });
    assert_eq!(post(&node, &agent, "/api/services/register", &web("a")).await.status, 201);
    assert_eq!(post(&node, &agent, "/api/services/register", &mail).await.status, 201);
    let weights = json!({ "weights": { "trust": 1 } });
    for (path, body) in [
        ("/api/services/a/maintenance", json!({})),
        ("/api/services/a/drain", json!({})),
        ("/api/trust/us", json!({ "trust": 9 })),
        ("/api/ranking", weights.clone()),
    ] {
        refused(&put(&agent, path, body.clone()).await, 403, "forbidden");
        refused(&ask(&node, &agent, Method::DELETE, path).await, 403, "forbidden");
        assert_eq!(put(&operator, path, body).await.status, 200, "{path}");
        assert_eq!(ask(&node, &operator, Method::DELETE, path).await.status, 200, "{path}");
    }
    for path in ["/api/orders", "/api/trust", "/api/ranking", "/api/services/pick"] {
        assert_eq!(get(&node, &agent, path).await.status, 200, "{path}");
    }
    // Over services of its names, and nothing that is of none.
    assert_eq!(put(&scoped, "/api/services/a/maintenance", json!({})).await.status, 200);
    refused(&put(&scoped, "/api/services/m/maintenance", json!({})).await, 403, "forbidden");
    refused(&put(&scoped, "/api/services/nobody/drain", json!({})).await, 403, "forbidden");
    refused(&put(&scoped, "/api/trust/us", json!({ "trust": 9 })).await, 403, "forbidden");
    refused(&put(&scoped, "/api/ranking", weights).await, 403, "forbidden");
}

#[tokio::test]
async fn what_is_over_opens_nothing() {
    let (node, admin) = guarded().await;
    let token = made(&node, &admin, json!({ "role": "reader", "ttl_ms": 1_000 })).await;
    node.until("it expires", async || get(&node, &token, "/api/services").await.code() == "token_expired").await;
    let token = made(&node, &admin, json!({ "role": "reader" })).await;
    assert_eq!(get(&node, &token, "/api/services").await.status, 200);
    let path = format!("/api/tokens/{}", id_of(&token));
    assert_eq!(ask(&node, &admin, Method::DELETE, &path).await.body, json!({ "id": id_of(&token), "revoked": true }));
    refused(&get(&node, &token, "/api/services").await, 401, "token_revoked");
    // A second time says the same, and it cannot be brought back.
    assert_eq!(ask(&node, &admin, Method::DELETE, &path).await.status, 200);
    refused(&post(&node, &admin, &format!("{path}/rotate"), &json!({})).await, 409, "token_over");
    // While they overlap both secrets are good.
    let token = made(&node, &admin, json!({ "role": "reader" })).await;
    let path = format!("/api/tokens/{}/rotate", id_of(&token));
    let rotated = post(&node, &admin, &path, &json!({ "overlap_ms": 1_000 })).await;
    assert_eq!(get(&node, rotated.body["token"].as_str().unwrap(), "/api/services").await.status, 200);
    node.until("the one before ends", async || get(&node, &token, "/api/services").await.code() == "token_expired")
        .await;
    let listed = get(&node, &admin, "/api/tokens").await;
    let statuses: Vec<_> = listed.body["tokens"].as_array().unwrap().iter().map(|token| &token["status"]).collect();
    for status in ["active", "expired", "revoked"] {
        assert!(statuses.contains(&&json!(status)), "{statuses:?}");
    }
}

#[tokio::test]
async fn a_stream_ends_with_the_token_that_opened_it() {
    let (node, admin) = guarded().await;
    let revoke = async |token: &str| {
        let revoked = ask(&node, &admin, Method::DELETE, &format!("/api/tokens/{}", id_of(token))).await;
        assert_eq!(revoked.status, 200);
    };
    let token = made(&node, &admin, json!({ "role": "reader" })).await;
    let mut events = node.request(Method::GET, "/api/services/watch").bearer_auth(&token).send().await.unwrap();
    assert!(events.chunk().await.unwrap().is_some(), "the stream begins");
    let poll = tokio::spawn(
        node.request(Method::GET, "/api/services?after_revision=0&wait_ms=300000").bearer_auth(&token).send(),
    );
    revoke(&token).await;
    while events.chunk().await.unwrap().is_some() {}
    assert_eq!(poll.await.unwrap().unwrap().status(), 200, "a long poll ends early");

    // By expiry, and by the end of a JSON Web Token.
    let token = made(&node, &admin, json!({ "role": "reader", "ttl_ms": 2_000 })).await;
    let mut events = node.request(Method::GET, "/api/services/watch").bearer_auth(&token).send().await.unwrap();
    while events.chunk().await.unwrap().is_some() {}
}

#[tokio::test]
async fn administrators_give_no_more_than_they_have() {
    let (node, admin) = guarded().await;
    let of_red = made(&node, &admin, json!({ "role": "admin", "tenant": "red" })).await;
    let blue = made(&node, &admin, json!({ "role": "agent", "tenant": "blue" })).await;
    let ask_for = async |token: &str, properties: Value| post(&node, token, "/api/tokens", &properties).await;
    // Its own tenant is what is meant.
    let own = ask_for(&of_red, json!({ "role": "reader" })).await;
    assert_eq!((own.status, &own.body["tenant"]), (201, &json!("red")));
    assert_eq!(own.body["created_by"], format!("token:{}", id_of(&of_red)));
    for tenant in ["blue", "*"] {
        refused(&ask_for(&of_red, json!({ "role": "reader", "tenant": tenant })).await, 403, "forbidden");
    }
    let listed = get(&node, &of_red, "/api/tokens").await;
    assert!(listed.body["tokens"].as_array().unwrap().iter().all(|token| token["tenant"] == "red"), "{listed:?}");
    for other in [&blue, &admin] {
        let path = format!("/api/tokens/{}", id_of(other));
        refused(&ask(&node, &of_red, Method::DELETE, &path).await, 404, "token_not_found");
        refused(&post(&node, &of_red, &format!("{path}/rotate"), &json!({})).await, 404, "token_not_found");
    }
    // Nor by scopes.
    let narrow = json!({ "role": "admin", "tenant": "red", "services": ["web"], "verbs": ["administer", "read"] });
    let narrow = made(&node, &admin, narrow).await;
    refused(&ask_for(&narrow, json!({ "role": "agent" })).await, 403, "forbidden");
    refused(&ask_for(&narrow, json!({ "role": "agent", "services": ["web"] })).await, 403, "forbidden");
    let within = json!({ "role": "agent", "services": ["web-1"], "verbs": ["read"] });
    assert_eq!(ask_for(&narrow, within).await.status, 201);
    refused(
        &post(&node, &narrow, &format!("/api/tokens/{}/rotate", id_of(&of_red)), &json!({})).await,
        403,
        "forbidden",
    );
}

#[tokio::test]
async fn every_fault_of_a_wanted_token_is_named() {
    let (node, admin) = guarded().await;
    let faulty = json!({ "tenant": "a b", "role": "root", "services": [""], "verbs": ["fly"], "ttl_ms": 1,
        "description": "x".repeat(257), "more": 1 });
    let faulty = post(&node, &admin, "/api/tokens", &faulty).await;
    assert_eq!(faulty.status, 400);
    assert_eq!(faulty.faults(), ["tenant", "role", "services[0]", "verbs[0]", "ttl_ms", "description", "more"]);
    assert_eq!(post(&node, &admin, "/api/tokens", &json!({})).await.faults(), ["role"]);
    assert_eq!(ask(&node, &admin, Method::DELETE, "/api/tokens/xyz").await.faults(), ["id"]);
    refused(&ask(&node, &admin, Method::DELETE, "/api/tokens/00000000000000ff").await, 404, "token_not_found");
}

fn jwt(claims: &Value) -> String {
    let key = jsonwebtoken::EncodingKey::from_secret(SECRET.as_bytes());
    jsonwebtoken::encode(&jsonwebtoken::Header::default(), claims, &key).expect("a token")
}

#[tokio::test]
async fn a_json_web_token_is_as_good_on_every_route() {
    let settings = Settings { jwt_secret: Some(SECRET.to_owned().into()), ..Settings::default() };
    let (node, admin) = guarded_with(settings).await;
    let exp = jsonwebtoken::get_current_timestamp() + 600;
    let claims = |sub: &str, role: &str| json!({ "exp": exp, "tenant_id": "acme", "sub": sub, "role": role });
    let (one, other) = (jwt(&claims("one", "agent")), jwt(&claims("other", "agent")));
    assert_eq!(post(&node, &one, "/api/services/register", &web("a")).await.status, 201);
    refused(&post(&node, &other, "/api/services/a/heartbeat", &json!({})).await, 403, "forbidden");
    // Another token of the same subject is the same principal.
    let again = jwt(&json!({ "exp": exp + 1, "tenant_id": "acme", "sub": "one", "role": "agent" }));
    assert_eq!(post(&node, &again, "/api/services/a/heartbeat", &json!({})).await.status, 200);
    assert_eq!(get(&node, &jwt(&claims("x", "reader")), "/api/services").await.body["total_count"], 1);
    refused(&get(&node, &one, "/api/tokens").await, 403, "forbidden");
    assert_eq!(get(&node, &jwt(&claims("x", "admin")), "/api/tokens").await.body, json!({ "tokens": [] }));
    let all = jwt(&json!({ "exp": exp, "tenant_id": "*", "sub": "o", "role": "operator" }));
    assert_eq!(get(&node, &all, "/metrics").await.status, 200);
    let other_tenant = node.request(Method::GET, "/api/services").header("x-tenant-id", "red").bearer_auth(&one);
    refused(&answer(other_tenant).await, 403, "forbidden");
    assert_eq!(get(&node, &one, "/v1/agents").await.status, 200);

    // Forged, stripped, of another algorithm, over.
    let good = claims("one", "admin");
    let (head, _) = one.rsplit_once('.').unwrap();
    let (_, payload) =
        jwt(&good).split_once('.').map(|(a, b)| (a.to_owned(), b.rsplit_once('.').unwrap().0.to_owned())).unwrap();
    let none = format!("eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0.{payload}.");
    let key = jsonwebtoken::EncodingKey::from_secret(b"another secret of theirs");
    let forged = jsonwebtoken::encode(&jsonwebtoken::Header::default(), &good, &key).unwrap();
    let header = jsonwebtoken::Header::new(jsonwebtoken::Algorithm::HS512);
    let key = jsonwebtoken::EncodingKey::from_secret(SECRET.as_bytes());
    let hs512 = jsonwebtoken::encode(&header, &good, &key).unwrap();
    let over = jwt(&json!({ "exp": exp - 601, "tenant_id": "acme", "role": "admin" }));
    for token in [format!("{head}."), head.to_owned(), none, forged, hs512, over, "x.y.z".to_owned()] {
        let refused = get(&node, &token, "/api/services").await;
        assert_eq!(refused.status, 401, "{token}");
    }

    // A stream ends when the token does.
    let short =
        jwt(&json!({ "exp": jsonwebtoken::get_current_timestamp() + 2, "tenant_id": "acme", "role": "reader" }));
    let mut events = node.request(Method::GET, "/api/services/watch").bearer_auth(&short).send().await.unwrap();
    assert_eq!(events.status(), 200);
    while events.chunk().await.unwrap().is_some() {}
    drop(admin);
}

#[tokio::test]
async fn metrics_are_open_where_the_operator_says_so() {
    let (node, _) = guarded_with(Settings { metrics_open: Some(true), ..Settings::default() }).await;
    assert_eq!(node.get("/metrics").await.status, 200);
    assert_eq!(node.get("/api/services").await.status, 401);
}

#[tokio::test]
async fn the_first_token_is_made_once_and_reset_by_who_has_the_directory() {
    let dir = tempfile::tempdir().unwrap();
    let settings = || Settings { auth: Some(true), ..Node::founder() };
    let mut node = Node::serve(dir.path(), settings()).await;
    let first = node.admin().await;
    node.stop().await.unwrap();
    let node = Node::serve(dir.path(), settings()).await;
    let listed = get(&node, &first, "/api/tokens").await;
    assert_eq!(listed.body["tokens"].as_array().unwrap().len(), 1, "no second first token is made");

    std::fs::write(dir.path().join(RESET_REQUEST), "").unwrap();
    node.until("it is answered", async || !dir.path().join(RESET_REQUEST).exists()).await;
    let path = dir.path().join(ADMIN_TOKEN);
    let second = std::fs::read_to_string(&path).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&path).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    refused(&get(&node, &first, "/api/tokens").await, 401, "token_revoked");
    let listed = get(&node, &second, "/api/tokens").await;
    assert_eq!(listed.body["tokens"].as_array().unwrap().len(), 2);
    node.until("a use is noted", async || {
        let listed = get(&node, &second, "/api/tokens").await;
        listed.body["tokens"].as_array().unwrap().iter().any(|token| token["last_used_at"].is_string())
    })
    .await;
}

#[tokio::test]
async fn tokens_can_be_made_before_they_are_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::serve(dir.path(), Node::founder()).await;
    let made = node.post("/api/tokens", &json!({ "role": "admin", "tenant": "*" })).await;
    assert_eq!((made.status, &made.body["created_by"]), (201, &Value::Null));
    let admin = made.body["token"].as_str().unwrap().to_owned();
    // What is private and registered by nobody is hidden from all agents from then on.
    let mut shared = web("a");
    shared["visibility"] = json!("internal");
    for service in [shared.clone(), web("hidden")] {
        assert_eq!(node.register(service).await.status, 201);
    }
    node.stop().await.unwrap();
    let node = Node::serve(dir.path(), Settings { auth: Some(true), ..Settings::default() }).await;
    refused(&node.get("/api/services").await, 401, "token_missing");
    assert_eq!(get(&node, &admin, "/api/services").await.body["total_count"], 2);
    // What nobody registered becomes whose registers it.
    let agent = async || self::made(&node, &admin, json!({ "role": "agent", "tenant": "default" })).await;
    let (one, other) = (agent().await, agent().await);
    assert_eq!(post(&node, &other, "/api/services/a/heartbeat", &json!({})).await.status, 200);
    refused(&post(&node, &other, "/api/services/hidden/heartbeat", &json!({})).await, 404, "lease_not_found");
    assert_eq!(post(&node, &one, "/api/services/register", &shared).await.status, 200);
    refused(&post(&node, &other, "/api/services/a/heartbeat", &json!({})).await, 403, "forbidden");
}

#[tokio::test]
async fn protolinks_clients_bring_the_same_tokens_in_each_of_their_ways() {
    const CARD: &str = r#"{"name":"weather","description":"d","url":"http://weather"}"#;
    let (node, admin) = guarded().await;
    let token = made(&node, &admin, json!({ "role": "agent", "tenant": "acme" })).await;
    let reader = made(&node, &admin, json!({ "role": "reader", "tenant": "acme" })).await;
    // `weather:…` as RFC 7617 has it, and as the SDK sends it.
    let named = format!("weather:{token}");
    let ways = [
        vec![("x-api-key", token.clone()), ("authorization", format!("ApiKey {token}"))],
        vec![("x-api-key", token.clone())],
        vec![("authorization", format!("Bearer {token}"))],
        vec![("authorization", format!("Basic {named}"))],
        vec![("authorization", format!("Basic {token}"))],
    ];
    for way in ways {
        let ask = |method: Method, path: &str| {
            let request = node.request(method, path);
            way.iter().fold(request, |request, (name, value)| request.header(*name, value))
        };
        for path in ["/agents/", "/ns/acme/agents/"] {
            assert_eq!(answer(ask(Method::POST, path).body(CARD)).await.status, 200, "{way:?}");
            assert_eq!(answer(ask(Method::GET, path)).await.body[0]["name"], "weather");
        }
        let other = answer(ask(Method::GET, "/ns/red/agents/")).await;
        assert_eq!(other.status, 403);
        let beat = ask(Method::POST, "/agents/heartbeat").body(r#"{"agent_url":"http://weather"}"#);
        assert_eq!(answer(beat).await.body["status"], "agent heartbeat recorded");
        // They are this contract's, and nobody else's.
        let native = answer(ask(Method::GET, "/api/services")).await;
        assert_eq!(native.status == 200, way[0].1.starts_with("Bearer"), "{native:?}");
    }

    let missing = answer(node.request(Method::GET, "/agents/").header("x-protolink-request-id", "r7")).await;
    assert_eq!((missing.status, missing.body.clone()), (401, json!({ "error": "Missing credentials" })));
    assert_eq!(
        (missing.header("content-type"), missing.header("x-protolink-request-id")),
        ("application/json", "r7")
    );
    let wrong = answer(node.request(Method::GET, "/status").header("x-api-key", "rctoken-00-00")).await;
    assert_eq!(wrong.status, 401);
    assert!(wrong.body["error"].as_str().unwrap().starts_with("Authentication failed: "), "{wrong:?}");
    let two = node.request(Method::GET, "/agents/").header("x-api-key", &reader).bearer_auth(&token);
    assert_eq!(answer(two).await.status, 401, "which of them is meant?");
    let request = node.request(Method::POST, "/agents/").header("x-api-key", &reader).body(CARD);
    refused(&answer(request).await, 403, "forbidden");
    // Addresses are written down on the way.
    let in_query = answer(node.request(Method::GET, &format!("/agents/?api_key={token}"))).await;
    assert_eq!(in_query.status, 401);
    assert_eq!(answer(node.request(Method::GET, "/healthz")).await.status, 200);
}
