//! Who is shown what, where requests carry an identity; and that everybody sees all where they carry none.

use reqwest::Method;
use rollcall_server::Settings;
use serde_json::{Value, json};

use crate::events::Events;
use crate::node::{Answer, Node, answer};

const SECRET: &str = "a secret of this test, long enough";

fn token(subject: Option<&str>, role: Option<&str>) -> String {
    let mut claims = json!({ "exp": jsonwebtoken::get_current_timestamp() + 600, "platform_tenant_id": "red" });
    if let Some(subject) = subject {
        claims["sub"] = subject.into();
    }
    if let Some(role) = role {
        claims["role"] = role.into();
    }
    let key = jsonwebtoken::EncodingKey::from_secret(SECRET.as_bytes());
    jsonwebtoken::encode(&jsonwebtoken::Header::default(), &claims, &key).expect("a token")
}

async fn populated() -> Node {
    let settings = Settings { jwt_secret: Some(SECRET.to_owned().into()), ..Node::founder() };
    let node = Node::start_as(settings).await;
    for (id, visibility) in [("pub", "public"), ("int", "internal"), ("res", "restricted"), ("pri", "private")] {
        let body = json!({
            "id": id, "name": "web", "url": "http://a", "owner": "ann", "visibility": visibility, "type": "agent",
            "metadata": {"allowed_requesters": ["bob"]},
        });
        let request = node.request(Method::POST, "/api/services/register").header("X-Tenant-ID", "red");
        assert_eq!(answer(request.json(&body)).await.status, 201);
    }
    node
}

#[tokio::test]
async fn a_token_is_shown_what_owners_let_it_see() {
    let node = populated().await;
    let ids = async |token: &str, path: &str| {
        let found = answer(node.request(Method::GET, path).bearer_auth(token)).await;
        let agents = found.body["agents"].as_array().unwrap_or_else(|| panic!("{found:?}"));
        let mut ids: Vec<_> =
            agents.iter().map(|agent| agent["agentId"].as_str().expect("an id").to_owned()).collect();
        ids.sort();
        ids.join(" ")
    };
    // The contract shows one agent of each name, so that each is asked for.
    let seen = async |token: &str| {
        let mut seen = Vec::new();
        for id in ["int", "pri", "pub", "res"] {
            seen.push(ids(token, &format!("/v1/agents?agent_id={id}")).await);
        }
        seen.retain(|id| !id.is_empty());
        seen.join(" ")
    };
    for (subject, role, expected) in [
        (Some("ann"), None, "int pri pub res"),
        (Some("bob"), None, "int pub res"),
        (Some("eve"), None, "int pub"),
        (None, None, "int pub"),
        (Some("eve"), Some("operator"), "int pri pub res"),
        (Some("eve"), Some("auditor"), "int pub"),
    ] {
        let token = token(subject, role);
        assert_eq!(seen(&token).await, expected, "{subject:?} {role:?}");
        assert_eq!(ids(&token, "/v1/agents").await.is_empty(), expected.is_empty());
    }
    // What is hidden can be neither renewed nor taken off, and is not told apart from what is not there.
    let (eve, ann) = (token(Some("eve"), None), token(Some("ann"), None));
    for id in ["pri", "nobody"] {
        let beat = answer(node.request(Method::PUT, &format!("/v1/agents/{id}/heartbeat")).bearer_auth(&eve)).await;
        assert_eq!((beat.status, &beat.body), (404, &json!({"detail": format!("Agent '{id}' not found.")})));
        let gone = answer(node.request(Method::DELETE, &format!("/v1/agents/{id}")).bearer_auth(&eve)).await;
        assert_eq!((gone.status, &gone.body), (404, &json!({"detail": format!("Agent '{id}' not found")})));
    }
    let gone = answer(node.request(Method::DELETE, "/v1/agents/pri").bearer_auth(&ann)).await;
    assert_eq!(gone.status, 204);
}

/// A node that asks for tokens; one of an operator, and two of agents.
async fn guarded() -> (Node, [String; 3]) {
    let mut node =
        Node::start_as(Settings { auth: Some(true), jwt_secret: Some(SECRET.to_owned().into()), ..Node::founder() })
            .await;
    let admin = node.admin().await;
    let mut tokens = Vec::new();
    for role in ["operator", "agent", "agent"] {
        let wanted = json!({ "role": role, "tenant": "red" });
        let made = answer(node.request(Method::POST, "/api/tokens").bearer_auth(&admin).json(&wanted)).await;
        tokens.push(made.body["token"].as_str().unwrap_or_else(|| panic!("{made:?}")).to_owned());
    }
    (node, tokens.try_into().expect("three tokens"))
}

async fn register(node: &Node, token: &str, id: &str, with: Value) -> Answer {
    let mut body = json!({ "id": id, "name": "web", "url": "http://a", "ttl_ms": 60_000 });
    body.as_object_mut().expect("an object").extend(with.as_object().cloned().expect("an object"));
    answer(node.request(Method::POST, "/api/services/register").bearer_auth(token).json(&body)).await
}

#[tokio::test]
async fn every_way_of_reading_shows_each_what_is_theirs_to_see() {
    let (node, [operator, one, two]) = guarded().await;
    let get = async |token: &str, path: &str| answer(node.request(Method::GET, path).bearer_auth(token)).await;
    let ids = async |token: &str| {
        let found = get(token, "/api/services").await;
        let services = found.body["services"].as_array().unwrap_or_else(|| panic!("{found:?}"));
        assert_eq!(found.body["total_count"], services.len());
        let ids = services.iter().map(|service| service["id"].as_str().expect("an id"));
        ids.collect::<Vec<_>>().join(" ")
    };
    let watch = |token: &str| {
        let request = node.request(Method::GET, "/api/services/watch").bearer_auth(token);
        Events::open(request)
    };
    let mut watchers = [watch(&one).await, watch(&two).await, watch(&operator).await];
    for watcher in &mut watchers {
        assert_eq!(watcher.briefs(1).await, ["synced r0"]);
    }

    // What says nothing of visibility is found by the tenant.
    let plain = register(&node, &one, "plain", json!({})).await;
    assert_eq!((plain.status, &plain.body["service"]["visibility"]), (201, &json!("internal")), "{plain:?}");
    assert_eq!(register(&node, &one, "secret", json!({"visibility": "private"})).await.status, 201);
    assert_eq!(register(&node, &one, "anns", json!({"visibility": "private", "owner": "ann"})).await.status, 201);
    let friends = json!({"visibility": "restricted", "owner": "x", "metadata": {"allowed_requesters": ["ann"]}});
    assert_eq!(register(&node, &one, "shared", friends).await.status, 201);
    assert_eq!(register(&node, &one, "end", json!({})).await.status, 201);

    let ann = token(Some("ann"), Some("reader"));
    let bob = token(Some("bob"), Some("operator"));
    assert_eq!(ids(&one).await, "anns end plain secret shared");
    assert_eq!(ids(&two).await, "end plain");
    assert_eq!(ids(&ann).await, "anns end plain shared");
    assert_eq!(ids(&operator).await, "anns end plain secret shared");
    assert_eq!(ids(&bob).await, "anns end plain secret shared");
    for (token, id, status) in
        [(&one, "secret", 200), (&two, "secret", 404), (&two, "shared", 404), (&ann, "anns", 200)]
    {
        assert_eq!(get(token, &format!("/api/services/{id}")).await.status, status, "{id}");
    }
    // Orders for what is hidden, and picks of it, are hidden too.
    let order = node.request(Method::PUT, "/api/services/secret/maintenance").bearer_auth(&operator);
    assert_eq!(answer(order).await.status, 200);
    for (token, count) in [(&one, 1), (&two, 0), (&operator, 1)] {
        assert_eq!(get(token, "/api/orders").await.body["orders"].as_array().map(Vec::len), Some(count));
    }
    let pick = "/api/services/pick?visibility=private,restricted";
    assert_eq!((get(&one, pick).await.status, get(&two, pick).await.code()), (200, "nobody_fits"));
    // To beat or take off what is hidden is to beat or take off what is not there.
    for id in ["secret", "nowhere"] {
        let path = format!("/api/services/{id}");
        let beat = answer(node.request(Method::POST, &format!("{path}/heartbeat")).bearer_auth(&two)).await;
        assert_eq!((beat.status, beat.code()), (404, "lease_not_found"));
        let gone = answer(node.request(Method::DELETE, &path).bearer_auth(&two)).await;
        assert_eq!((gone.status, gone.code()), (404, "not_found"));
    }

    // Watchers were told of the same, and of no more.
    let told = async |watcher: &mut Events| {
        let mut told = Vec::new();
        loop {
            let brief = watcher.briefs(1).await.remove(0);
            let is_end = brief.contains(" end ");
            told.push(brief);
            if is_end {
                return told.join(", ");
            }
        }
    };
    let [by_one, by_two, by_operator] = &mut watchers;
    let all =
        "registered plain r1, registered secret r2, registered anns r3, registered shared r4, registered end r5";
    assert_eq!(told(by_one).await, all);
    assert_eq!(told(by_two).await, "registered plain r1, registered end r5");
    assert_eq!(told(by_operator).await, all);
    // Hidden later is left.
    assert_eq!(register(&node, &one, "plain", json!({"visibility": "private"})).await.status, 200);
    assert_eq!(by_two.briefs(1).await, ["left plain r7"]);
    assert_eq!(by_one.briefs(2).await, ["status_changed secret r6", "updated plain r7"]);
    let polled = get(&two, "/api/services?after_revision=5&wait_ms=60000").await;
    assert_eq!((polled.status, &polled.body["total_count"]), (200, &json!(1)), "{polled:?}");
}

#[tokio::test]
async fn without_identities_a_tenant_sees_all_of_its_own() {
    let node = populated().await;
    let found = node.request(Method::GET, "/api/services?requester_id=eve").header("X-Tenant-ID", "red");
    assert_eq!(answer(found).await.body["total_count"], 4);
    let private = node.request(Method::GET, "/api/services/pri").header("X-Tenant-ID", "red");
    assert_eq!(answer(private).await.status, 200);
    let narrowed =
        node.request(Method::GET, "/api/services?visibility=private,restricted").header("X-Tenant-ID", "red");
    let ids: Vec<Value> = answer(narrowed).await.body["services"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|service| service["id"].clone())
        .collect();
    assert_eq!(ids, ["pri", "res"]);
}
