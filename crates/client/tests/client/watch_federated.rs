//! What a watch tells of other clusters' instances, over one connection and over several.

use rollcall_client::{Directory, Filters, WatchQuery, WatchStart};
use serde_json::{Value, json};

use crate::directory::{ids, until};
use crate::stub::{Feed, Reaction, Stub, change, problem, reached, service, snapshot};
use crate::watch::{client, ending, events, node, told};

const WATCH: &str = "GET /api/services/watch?include_federated=true";

fn query(start: WatchStart) -> WatchQuery {
    WatchQuery { start, federated: true, ..WatchQuery::default() }
}

/// An instance of another cluster at a revision of that cluster.
fn foreign(id: &str, origin: &str, revision: u64) -> Value {
    let mut service = service(id, 0, 30_000);
    service["origin"] = origin.into();
    service["stale"] = false.into();
    service["revision"] = revision.into();
    service
}

fn there(id: &str, origin: &str, revision: u64) -> String {
    format!("event: snapshot\ndata: {}\n\n", json!({"service": foreign(id, origin, revision), "revision": 7}))
}

/// Of the moment: another time, with another node's words.
fn there_later(id: &str, origin: &str, revision: u64) -> String {
    let mut service = foreign(id, origin, revision);
    service["stale"] = true.into();
    service["lease"]["expires_in_ms"] = 5.into();
    service["heartbeat"] = "2026-02-02T00:00:00Z".into();
    format!("event: snapshot\ndata: {}\n\n", json!({"service": service, "revision": 9}))
}

fn changed(update_type: &str, id: &str, origin: &str, revision: u64) -> String {
    let data = json!({
        "type": "service_update", "update_type": update_type, "service": foreign(id, origin, revision),
        "revision": revision, "timestamp": "2026-01-01T00:00:00Z",
    });
    format!("event: change\ndata: {data}\n\n")
}

#[tokio::test]
async fn their_revisions_move_no_resume_point() {
    let stub = node([
        ending(&[
            snapshot("a", 7),
            there("a", "east", 900),
            reached("synced", "0-7"),
            changed("updated", "a", "east", 901),
            change("updated", "a", "0-8"),
            changed("registered", "b", "east", 3),
        ]),
        events(&[]),
    ])
    .await;
    let mut watch = client(&[&stub.endpoint]).watch(&query(WatchStart::Snapshot)).await.expect("a node takes it");
    let expected = [
        "init Start",
        "present a",
        "present a of east",
        "synced 0-7",
        "a of east updated",
        "a updated",
        "b of east registered",
        "interrupted: the stream ended",
        "resumed",
    ];
    assert_eq!(told(&mut watch, expected.len()).await, expected);
    assert_eq!(stub.lines(), [WATCH, WATCH]);
    assert_eq!(stub.seen()[1].header("last-event-id"), Some("0-8"));
}

#[tokio::test]
async fn what_is_told_anew_on_another_connection_is_told_as_what_changed() {
    let stub = node([
        ending(&[
            there("a", "east", 1),
            there("b", "east", 2),
            there("c", "east", 3),
            there("c", "north", 3),
            reached("synced", "0-7"),
        ]),
        ending(&[there_later("a", "east", 1), there("x", "east", 9)]),
        events(&[
            change("registered", "own", "0-8"),
            there_later("a", "east", 1),
            there("b", "east", 20),
            reached("bookmark", "0-8"),
            there("c", "north", 3),
            reached("synced", "0-8"),
            // The snapshot showed it already.
            changed("updated", "b", "east", 20),
            changed("deregistered", "nobody", "east", 21),
            changed("expired", "b", "east", 20),
            // And once more, because the node forgot what changed.
            there("c", "north", 3),
            reached("synced", "0-8"),
        ]),
    ])
    .await;
    let mut watch = client(&[&stub.endpoint]).watch(&query(WatchStart::Snapshot)).await.expect("a node takes it");
    let expected =
        ["init Start", "present a of east", "present b of east", "present c of east", "present c of north"];
    assert_eq!(told(&mut watch, expected.len()).await, expected);
    assert_eq!(told(&mut watch, 3).await, ["synced 0-7", "interrupted: the stream ended", "resumed"]);
    // A snapshot that was cut short says who is there, and not who is gone.
    assert_eq!(told(&mut watch, 2).await, ["x of east registered", "interrupted: the stream ended"]);
    let expected = [
        "resumed",
        "own registered",
        "b of east updated",
        "bookmark 0-8",
        "c of east deregistered",
        "x of east deregistered",
        "bookmark 0-8",
        "b of east expired",
        "a of east deregistered",
        "bookmark 0-8",
    ];
    assert_eq!(told(&mut watch, expected.len()).await, expected);
}

#[tokio::test]
async fn a_watch_that_begins_after_a_point_is_told_who_is_there() {
    let point = WatchStart::After("0-7".parse().expect("a point"));
    let stub =
        node([events(&[there("a", "east", 1), change("updated", "own", "0-8"), reached("synced", "0-8")])]).await;
    let mut watch = client(&[&stub.endpoint]).watch(&query(point)).await.expect("a node takes it");
    assert_eq!(told(&mut watch, 3).await, ["a of east registered", "own updated", "bookmark 0-8"]);
}

#[tokio::test]
async fn a_new_beginning_is_one_for_other_clusters_too() {
    let stub = node([
        ending(&[there("a", "east", 1), reached("synced", "0-7")]),
        Reaction::Answer(410, problem(410, "revision_compacted", None)),
        events(&[there("b", "east", 2), reached("synced", "0-90"), there("b", "east", 2), reached("synced", "0-90")]),
    ])
    .await;
    let mut watch = client(&[&stub.endpoint]).watch(&query(WatchStart::Snapshot)).await.expect("a node takes it");
    let expected = [
        "init Start",
        "present a of east",
        "synced 0-7",
        "interrupted: the stream ended",
        "resumed",
        "init HistoryGone",
        "present b of east",
        "synced 0-90",
        "bookmark 0-90",
    ];
    assert_eq!(told(&mut watch, expected.len()).await, expected);
}

#[tokio::test]
async fn a_directory_shows_one_of_each_id_and_its_own_clusters_first() {
    let feed = Feed::of(&[
        there("a", "east", 1),
        there("b", "north", 1),
        there("b", "east", 1),
        snapshot("a", 7),
        reached("synced", "0-7"),
    ]);
    let streamed = feed.clone();
    let stub = Stub::start(move |_, _| Reaction::Events(streamed.clone())).await;
    let directory = Directory::start_federated(&client(&[&stub.endpoint]), Filters::default());
    directory.ready().await.expect("it is told all");
    assert_eq!(stub.lines(), [WATCH]);
    let origin = |id: &str| directory.get(id).map(|service| service.origin.clone().unwrap_or_default());
    assert_eq!(ids(&directory), ["a", "b"]);
    assert_eq!((origin("a").as_deref(), origin("b").as_deref()), (Some(""), Some("east")));
    feed.send(changed("deregistered", "b", "east", 2));
    feed.send(change("expired", "a", "0-8"));
    until("others take their place", || {
        origin("a").as_deref() == Some("east") && origin("b").as_deref() == Some("north")
    })
    .await;
    feed.send(changed("left", "a", "east", 3));
    until("nobody has that id any more", || ids(&directory) == ["b"]).await;
}
