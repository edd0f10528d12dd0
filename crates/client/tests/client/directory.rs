use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use rollcall_client::{Client, Directory, Filters, Strategy};

use crate::stub::{Feed, Reaction, Stub, change, problem, reached, snapshot};

/// Far beyond what any of these tests takes.
const DEADLINE: Duration = Duration::from_secs(20);

fn start(stub: &Stub) -> Directory {
    let client = Client::builder().endpoint(&stub.endpoint).build().expect("a client");
    Directory::start(&client, Filters::default())
}

pub(crate) fn ids(directory: &Directory) -> Vec<String> {
    directory.services().iter().map(|service| service.id.clone()).collect()
}

pub(crate) async fn until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn it_mirrors_those_that_match() {
    let feed = Feed::of(&[snapshot("b", 7), snapshot("a", 7)]);
    let streamed = feed.clone();
    let stub = Stub::start(move |_, _| Reaction::Events(streamed.clone())).await;
    let directory = start(&stub);
    assert!(directory.services().is_empty() && directory.pick(Strategy::RoundRobin).is_none());
    feed.send(reached("synced", "0-7"));
    directory.ready().await.expect("it is told all");
    assert_eq!(ids(&directory), ["a", "b"]);

    feed.send(change("registered", "c", "0-8"));
    feed.send(change("left", "a", "0-9"));
    until("c has come and a has gone", || ids(&directory) == ["b", "c"]).await;
    assert!(directory.get("a").is_none());
    assert_eq!(directory.get("c").expect("it is there").id, "c");
    let picked: BTreeSet<_> =
        (0..2).map(|_| directory.pick(Strategy::RoundRobin).expect("somebody").id.clone()).collect();
    assert_eq!(picked.len(), 2);

    directory.report_failure("b");
    for _ in 0..4 {
        assert_eq!(directory.pick(Strategy::LeastRecentlyFailed).expect("somebody").id, "c");
    }
    feed.send(change("updated", "b", "0-10"));
    feed.send(change("expired", "c", "0-11"));
    until("c has gone", || ids(&directory) == ["b"]).await;
    assert_eq!(directory.pick(Strategy::LeastRecentlyFailed).expect("somebody").id, "b");
}

#[tokio::test]
async fn a_new_beginning_replaces_the_old_state_in_one_step() {
    let (first, again) =
        (Feed::ending(&[snapshot("a", 7), snapshot("b", 7), reached("synced", "0-7")]), Feed::of(&[]));
    let (streamed, anew) = (first.clone(), again.clone());
    let stub = Stub::start(move |_, before| match before {
        0 => Reaction::Events(streamed.clone()),
        1 => Reaction::Answer(410, problem(410, "revision_compacted", None)),
        _ => Reaction::Events(anew.clone()),
    })
    .await;
    let directory = start(&stub);
    directory.ready().await.expect("it is told all");
    stub.until(|seen| seen.len() == 3).await;
    again.send(snapshot("b", 90));
    until("it says why it is not up to date", || directory.error().is_some()).await;
    assert_eq!(ids(&directory), ["a", "b"], "the old state stays while the new one is told");
    directory.ready().await.expect("it was ready once");

    again.send(snapshot("c", 90));
    again.send(reached("synced", "0-90"));
    until("the new state is there", || {
        let ids = ids(&directory);
        assert!(ids == ["a", "b"] || ids == ["b", "c"], "never half a state: {ids:?}");
        ids == ["b", "c"]
    })
    .await;
    assert!(directory.error().is_none());
}

#[tokio::test]
async fn it_waits_for_a_cluster_that_is_not_there_yet() {
    let stub = Stub::start(|_, before| match before {
        0..3 => Reaction::Answer(503, problem(503, "not_ready", None)),
        _ => Reaction::Events(Feed::of(&[snapshot("a", 7), reached("synced", "0-7")])),
    })
    .await;
    let directory = start(&stub);
    until("it says what it waits for", || directory.error().is_some()).await;
    assert_eq!(directory.error().expect("an error").code(), Some("not_ready"));
    directory.ready().await.expect("it is told all");
    assert!(directory.error().is_none());
    assert_eq!(ids(&directory), ["a"]);
}

#[tokio::test]
async fn a_refusal_is_told_to_who_waits() {
    let stub = Stub::answering(400, problem(400, "invalid_request", None)).await;
    let directory = start(&stub);
    let error = directory.ready().await.expect_err("refused");
    assert_eq!(error.code(), Some("invalid_request"));
    assert!(directory.services().is_empty());
}

#[tokio::test]
async fn a_directory_that_others_rely_on_outlives_a_refusal() {
    let stub = Stub::start(|_, before| match before {
        0 => Reaction::Events(Feed::ending(&[snapshot("a", 7), reached("synced", "0-7")])),
        1 => Reaction::Answer(401, problem(401, "unauthenticated", None)),
        _ => Reaction::Events(Feed::of(&[snapshot("b", 9), reached("synced", "0-9")])),
    })
    .await;
    let directory = start(&stub);
    directory.ready().await.expect("it is told all");
    until("it says that it was refused", || {
        directory.error().is_some_and(|error| error.code() == Some("unauthenticated"))
    })
    .await;
    assert_eq!(ids(&directory), ["a"]);
    until("it is up to date again", || ids(&directory) == ["b"]).await;
    assert!(directory.error().is_none());
}

#[tokio::test]
async fn its_connection_ends_with_it() {
    let feed = Feed::of(&[reached("synced", "0-7")]);
    let streamed = feed.clone();
    let stub = Stub::start(move |_, _| Reaction::Events(streamed.clone())).await;
    let directory = start(&stub);
    directory.ready().await.expect("it is told all");
    drop(directory);
    feed.closed().await;
}
