//! What of other clusters is not taken, and that nothing of it shows.

use reqwest::Method;
use serde_json::{Value, json};

use crate::events::Events;
use crate::federation::{Origin, codes, found, of, web};
use crate::node::{Answer, Node, answer};

/// How far the only peer has been heard.
async fn revision(node: &Node) -> Value {
    node.get("/api/federation").await.body["peers"][0]["receiving"]["revision"].clone()
}

#[tokio::test]
async fn nothing_is_taken_of_several_messages_of_which_one_is_not_what_it_says() {
    let west = Node::start().await;
    let mut origin = Origin::of(&west, json!({})).await;
    origin.begin(&west).await;
    let first = origin.registration(2, "default", web("x", "public"));
    let second = origin.registration(3, "default", web("y", "public"));
    let (first, second) = (origin.sign(first), origin.sign(second));
    for (at, value, status, code) in [
        ("/payload/service/url", json!("http://evil"), 401, "invalid_signature"),
        ("/metadata/hop_count", json!(2), 403, "hop_count_exceeded"),
        ("/metadata/hop_count", json!(u32::MAX), 403, "hop_count_exceeded"),
        ("/timestamp", json!("2026-01-01T00:00:00Z"), 403, "timestamp_out_of_window"),
    ] {
        let mut bad = second.clone();
        *bad.pointer_mut(at).expect("it is there") = value;
        let refused = west.post("/klp/messages", &json!({ "messages": [first, bad] })).await;
        assert_eq!((refused.status, refused.code()), (status, code), "{refused:?}");
        assert_eq!((found(&west, "").await, revision(&west).await), (Vec::new(), json!(1)), "{code}");
    }
    let both = west.post("/klp/messages", &json!({ "messages": [first, second] })).await;
    assert_eq!(codes(&both), ["applied", "applied"]);
    assert_eq!(found(&west, "").await, of(&[("x", Some("east")), ("y", Some("east"))]));
    // Again, alone, and in another order: what is known is not taken again.
    for messages in [json!([first, second]), json!([first]), json!([second, first])] {
        let again = west.post("/klp/messages", &json!({ "messages": messages })).await;
        let is_refused = (again.status, again.code()) == (409, "message_replayed");
        assert!(is_refused || codes(&again).iter().all(|code| code == "already_known"), "{again:?}");
        assert_eq!(revision(&west).await, 3);
    }
    assert_eq!(found(&west, "").await.len(), 2);
}

#[tokio::test]
async fn from_a_peer_that_is_only_told_nothing_is_taken() {
    let west = Node::start().await;
    let mut origin = Origin::of(&west, json!({"direction": "send"})).await;
    let message = origin.signed("REGISTRY_SYNC", json!({"action": "resync_begin", "at": 1}));
    let refused = west.post("/klp/messages", &message).await;
    assert_eq!((refused.status, refused.code()), (403, "not_received"));
}

#[tokio::test]
async fn of_a_tenant_that_is_not_mapped_nothing_shows_anywhere() {
    let west = Node::start().await;
    let mut origin = Origin::of(&west, json!({})).await;
    let of_tenant = |tenant: &'static str, path: &str| west.request(Method::GET, path).header("x-tenant-id", tenant);
    let watch = |tenant, query: &str| Events::open(of_tenant(tenant, &format!("/api/services/watch{query}")));
    let mut watched = Vec::new();
    for tenant in ["default", "secret"] {
        for query in ["", "?include_federated=true"] {
            watched.push((tenant, watch(tenant, query).await));
        }
    }

    // In a telling of everything, as a change, and going.
    let service = |origin: &mut Origin, revision, id| {
        let registration = origin.registration(revision, "secret", web(id, "public"));
        registration["payload"]["service"].clone()
    };
    let entry = service(&mut origin, 1, "entry");
    let mut messages = vec![
        origin.signed("REGISTRY_SYNC", json!({"action": "resync_begin", "at": 1})),
        origin.signed(
            "REGISTRY_SYNC",
            json!({"action": "resync_entry", "at": 1, "number": 0, "tenant": "secret", "service": entry}),
        ),
        origin.signed("REGISTRY_SYNC", json!({"action": "resync_end", "at": 1, "count": 1})),
    ];
    let change = origin.registration(2, "secret", web("change", "public"));
    messages.push(origin.sign(change));
    messages.push(origin.signed(
        "SERVICE_DEREGISTRATION",
        json!({"action": "deregister", "after": 2, "revision": 3, "tenant": "secret", "service_id": "entry"}),
    ));
    let answer_of = west.post("/klp/messages", &json!({ "messages": messages })).await;
    let unmapped = "tenant_not_mapped";
    assert_eq!(codes(&answer_of), ["applied", unmapped, "applied", unmapped, unmapped], "{answer_of:?}");
    let receiving = west.get("/api/federation").await.body["peers"][0]["receiving"].clone();
    assert_eq!((&receiving["instances"], &receiving["lacking"]), (&json!(0), &json!(2)));

    for tenant in ["default", "secret"] {
        for query in ["?include_federated=true", "?include_federated=true&name=web", ""] {
            let all: Answer = answer(of_tenant(tenant, &format!("/api/services{query}"))).await;
            let counts = ["total_count", "local_count", "federated_count"].map(|name| all.body[name].clone());
            assert_eq!((&all.body["services"], counts), (&json!([]), [json!(0), json!(0), json!(0)]), "{tenant}");
            assert_eq!(all.body["federated_results"], false);
        }
        for id in ["entry", "change"] {
            for query in ["", "?include_federated=true"] {
                let one = answer(of_tenant(tenant, &format!("/api/services/{id}{query}"))).await;
                assert!(matches!(one.status, 400 | 404), "{tenant} {one:?}");
            }
        }
        let own = west.request(Method::POST, "/api/services/register").header("x-tenant-id", tenant);
        assert_eq!(answer(own.json(&web("own", "public"))).await.status, 201);
    }
    // The first thing that watchers hear is what came after all that.
    for (tenant, mut events) in watched {
        let briefs = events.briefs(2).await;
        assert!(briefs[0].starts_with("synced") && briefs[1].starts_with("registered own"), "{tenant}: {briefs:?}");
    }
}
