use std::time::{Duration, Instant};

use rollcall_client::{Client, Error, Filters, ServiceObject, Watch, WatchEvent, WatchFault, WatchQuery, WatchStart};
use serde_json::json;

use crate::stub::{Feed, Reaction, Stub, change, nobody, problem, reached, snapshot};

const WATCH: &str = "GET /api/services/watch";

/// Far beyond what any of these tests takes.
const DEADLINE: Duration = Duration::from_secs(20);

pub(crate) fn client(endpoints: &[&str]) -> Client {
    let endpoints = endpoints.iter().map(|endpoint| (*endpoint).to_owned());
    let builder = Client::builder().endpoints(endpoints).timeout(Duration::from_secs(5));
    builder.watch_silence_max(DEADLINE).build().expect("a client")
}

/// A node that gives each connection the next of these reactions; what comes after them hangs.
pub(crate) async fn node(reactions: impl IntoIterator<Item = Reaction>) -> Stub {
    let reactions = std::sync::Mutex::new(reactions.into_iter().collect::<std::collections::VecDeque<_>>());
    Stub::start(move |_, _| {
        let mut reactions = reactions.lock().expect("nobody panics while holding it");
        reactions.pop_front().unwrap_or(Reaction::Hang)
    })
    .await
}

pub(crate) fn events(events: &[String]) -> Reaction {
    Reaction::Events(Feed::of(events))
}

pub(crate) fn ending(events: &[String]) -> Reaction {
    Reaction::Events(Feed::ending(events))
}

async fn next(watch: &mut Watch) -> Option<Result<WatchEvent, Error>> {
    tokio::time::timeout(DEADLINE, watch.next()).await.expect("an event in time")
}

/// The next events in short.
pub(crate) async fn told(watch: &mut Watch, count: usize) -> Vec<String> {
    let mut told = Vec::new();
    for _ in 0..count {
        let event = next(watch).await.unwrap_or_else(|| panic!("it ended after {told:?}"));
        told.push(match event.unwrap_or_else(|error| panic!("{error:?} after {told:?}")) {
            WatchEvent::Init { cause } => format!("init {cause:?}"),
            WatchEvent::Present(service) => format!("present {}", whose(&service)),
            WatchEvent::Synced(point) => format!("synced {point}"),
            WatchEvent::Changed(update) => format!("{} {}", whose(&update.service), update.update_type),
            WatchEvent::Bookmark(point) => format!("bookmark {point}"),
            WatchEvent::Interrupted { error } => format!("interrupted: {}", fault(&error)),
            WatchEvent::Resumed { .. } => "resumed".to_owned(),
            other => panic!("unexpected {other:?}"),
        });
    }
    told
}

/// An instance's id, and which other cluster's it is.
fn whose(service: &ServiceObject) -> String {
    let origin = service.origin.as_ref().map(|origin| format!(" of {origin}"));
    service.id.clone() + &origin.unwrap_or_default()
}

fn fault(error: &Error) -> String {
    match error {
        Error::Watch { source, .. } => source.to_string(),
        error => error.code().map_or_else(|| error.to_string(), str::to_owned),
    }
}

fn point(watch: &Watch) -> Option<String> {
    watch.resume_point().map(|point| point.to_string())
}

fn resumed_after(stub: &Stub, at: usize) -> Option<String> {
    stub.seen()[at].header("last-event-id").map(str::to_owned)
}

#[tokio::test]
async fn what_is_present_comes_first_and_then_what_changes() {
    let feed = Feed::of(&[]);
    let stub = node([Reaction::Events(feed.clone())]).await;
    let filters = Filters { tags: vec!["gpu".into()], ..Filters::default() };
    let mut watch = client(&[&stub.endpoint]).watch(&filters.into()).await.expect("a node takes it");
    assert_eq!(stub.lines(), [format!("{WATCH}?tags=gpu")]);
    assert_eq!(stub.seen()[0].header("accept"), Some("text/event-stream"));

    let all = [
        ": hello\n\n".to_owned(),
        snapshot("a", 7),
        snapshot("b", 7),
        reached("synced", "0-7"),
        change("updated", "ü", "0-8"),
        "event: of a later version\ndata: {}\n\n".to_owned(),
        reached("bookmark", "0-9"),
    ];
    for byte in all.concat().replace('\n', "\r\n").bytes() {
        feed.send([byte]);
    }
    assert_eq!(told(&mut watch, 3).await, ["init Start", "present a", "present b"]);
    assert_eq!(point(&watch), None, "who was told a part must begin again");
    assert_eq!(told(&mut watch, 1).await, ["synced 0-7"]);
    assert_eq!(point(&watch).as_deref(), Some("0-7"));
    assert_eq!(told(&mut watch, 1).await, ["ü updated"]);
    assert_eq!(point(&watch).as_deref(), Some("0-8"));
    assert_eq!(told(&mut watch, 1).await, ["bookmark 0-9"]);
    assert_eq!(point(&watch).as_deref(), Some("0-9"));
}

#[tokio::test]
async fn p9_another_node_goes_on_after_what_was_told_and_nothing_is_told_twice() {
    let first = node([ending(&[snapshot("a", 7), reached("synced", "0-7"), change("registered", "b", "0-9")])]).await;
    let other = node([events(&[
        change("registered", "b", "0-9"),
        reached("bookmark", "0-8"),
        reached("bookmark", "0-9"),
        change("expired", "a", "0-12"),
    ])])
    .await;
    let filters = Filters { names: vec!["web".into()], ..Filters::default() };
    let client = client(&[&first.endpoint, &other.endpoint]);
    let mut watch = client.watch(&filters.into()).await.expect("a node takes it");
    let expected = [
        "init Start",
        "present a",
        "synced 0-7",
        "b registered",
        "interrupted: the stream ended",
        "resumed",
        "bookmark 0-9",
        "a expired",
    ];
    assert_eq!(told(&mut watch, expected.len()).await, expected);
    assert_eq!(other.lines(), [format!("{WATCH}?name=web")]);
    assert_eq!(resumed_after(&other, 0).as_deref(), Some("0-9"));
    assert_eq!((first.seen().len(), point(&watch).as_deref()), (1, Some("0-12")));
}

#[tokio::test]
async fn a_watch_goes_round_until_a_node_takes_it() {
    let synced = [reached("synced", "0-7")];
    let first = node([ending(&synced), events(&[change("registered", "a", "0-8")])]).await;
    let second = Stub::answering(503, problem(503, "revision_not_reached", None)).await;
    let third = Stub::start(|_, _| Reaction::Cut).await;
    let client = client(&[&first.endpoint, &second.endpoint, &third.endpoint, &nobody().await]);
    let mut watch = client.watch(&WatchQuery::default()).await.expect("a node takes it");
    let expected = ["init Start", "synced 0-7", "interrupted: the stream ended", "resumed", "a registered"];
    assert_eq!(told(&mut watch, 5).await, expected, "an interruption is told once");
    assert_eq!([&first, &second, &third].map(|stub| stub.seen().len()), [2, 1, 1]);
}

#[tokio::test]
async fn a_beginning_that_was_cut_is_told_from_the_start() {
    let stub = node([ending(&[snapshot("a", 7)]), events(&[snapshot("b", 8), reached("synced", "0-8")])]).await;
    let mut watch = client(&[&stub.endpoint]).watch(&WatchQuery::default()).await.expect("a node takes it");
    let expected = [
        "init Start",
        "present a",
        "interrupted: the stream ended",
        "resumed",
        "init Incomplete",
        "present b",
        "synced 0-8",
    ];
    assert_eq!(told(&mut watch, expected.len()).await, expected);
    assert_eq!(resumed_after(&stub, 1), None);
}

#[tokio::test]
async fn p9_a_history_that_is_gone_is_said_and_all_is_told_anew() {
    let gone = || Reaction::Answer(410, problem(410, "revision_compacted", None));
    let stub = node([
        ending(&[snapshot("a", 7), reached("synced", "0-7")]),
        gone(),
        events(&[snapshot("b", 90), reached("synced", "0-90")]),
    ])
    .await;
    let mut watch = client(&[&stub.endpoint]).watch(&WatchQuery::default()).await.expect("a node takes it");
    let expected = [
        "init Start",
        "present a",
        "synced 0-7",
        "interrupted: the stream ended",
        "resumed",
        "init HistoryGone",
        "present b",
        "synced 0-90",
    ];
    assert_eq!(told(&mut watch, expected.len()).await, expected);
    let after: Vec<_> = (0..3).map(|at| resumed_after(&stub, at)).collect();
    assert_eq!(after, [None, Some("0-7".to_owned()), None]);

    let stub = node([gone(), events(&[reached("synced", "0-9")])]).await;
    let query = WatchQuery { start: WatchStart::AfterRevision(3), ..WatchQuery::default() };
    let mut watch = client(&[&stub.endpoint]).watch(&query).await.expect("a node takes it");
    assert_eq!(told(&mut watch, 2).await, ["init HistoryGone", "synced 0-9"]);
    assert_eq!(stub.lines(), [format!("{WATCH}?from_revision=3"), WATCH.to_owned()]);
}

#[tokio::test]
async fn p9_no_revision_of_another_epoch_continues_this_one() {
    let stub = node([
        ending(&[reached("synced", "0-7")]),
        events(&[reached("bookmark", "1-8")]),
        events(&[snapshot("b", 8), reached("synced", "1-8")]),
    ])
    .await;
    let mut watch = client(&[&stub.endpoint]).watch(&WatchQuery::default()).await.expect("a node takes it");
    let expected = [
        "init Start",
        "synced 0-7",
        "interrupted: the stream ended",
        "resumed",
        "interrupted: the roll was restored from a backup",
        "resumed",
        "init HistoryGone",
        "present b",
        "synced 1-8",
    ];
    assert_eq!(told(&mut watch, expected.len()).await, expected);
    assert_eq!(resumed_after(&stub, 2), None);
}

#[tokio::test]
async fn a_watch_may_begin_after_a_point_or_a_revision() {
    let starts = [
        (WatchStart::After("2-7".parse().expect("a point")), WATCH.to_owned(), Some("2-7")),
        (WatchStart::AfterRevision(7), format!("{WATCH}?from_revision=7"), None),
    ];
    for (start, line, after) in starts {
        let stub = node([ending(&[change("updated", "a", "2-7"), change("updated", "a", "2-8")])]).await;
        let query = WatchQuery { start, ..WatchQuery::default() };
        let mut watch = client(&[&stub.endpoint]).watch(&query).await.expect("a node takes it");
        assert_eq!(point(&watch).as_deref(), after);
        assert_eq!(told(&mut watch, 2).await, ["a updated", "interrupted: the stream ended"]);
        assert_eq!((stub.lines(), resumed_after(&stub, 0).as_deref()), (vec![line], after));
        assert_eq!(point(&watch).as_deref(), Some("2-8"));
    }
}

#[tokio::test]
async fn who_was_too_slow_goes_on_where_it_was() {
    let resync = "event: resync\ndata: {\"revision\":9}\n\n".to_owned();
    let stub = node([
        events(&[reached("synced", "0-7"), change("updated", "a", "0-8"), resync]),
        events(&[change("updated", "b", "0-9")]),
    ])
    .await;
    let mut watch = client(&[&stub.endpoint]).watch(&WatchQuery::default()).await.expect("a node takes it");
    let expected = [
        "init Start",
        "synced 0-7",
        "a updated",
        "interrupted: the node cut the stream because it was read too slowly",
        "resumed",
        "b updated",
    ];
    assert_eq!(told(&mut watch, expected.len()).await, expected);
    assert_eq!(resumed_after(&stub, 1).as_deref(), Some("0-8"));
}

#[tokio::test]
async fn a_connection_on_which_nothing_is_told_is_left() {
    let feed = Feed::of(&[reached("synced", "0-7"), ": a proxy lives\n".to_owned()]);
    let silent = node([Reaction::Events(feed.clone())]).await;
    let other = node([events(&[reached("bookmark", "0-7")])]).await;
    let builder = Client::builder().endpoint(&silent.endpoint).endpoint(&other.endpoint);
    let client = builder.watch_silence_max(Duration::from_millis(100)).build().expect("a client");
    let mut watch = client.watch(&WatchQuery::default()).await.expect("a node takes it");
    let expected = ["init Start", "synced 0-7", "interrupted: nothing came for 100 ms", "resumed", "bookmark 0-7"];
    assert_eq!(told(&mut watch, expected.len()).await, expected);
    assert_eq!(resumed_after(&other, 0).as_deref(), Some("0-7"));
    feed.closed().await;
}

#[tokio::test]
async fn a_node_with_too_many_watchers_is_passed_over() {
    let busy = Stub::answering(429, problem(429, "too_many_watchers", None)).await;
    let other = node([events(&[reached("synced", "0-7")])]).await;
    let client = client(&[&busy.endpoint, &other.endpoint]);
    let mut watch = client.watch(&WatchQuery::default()).await.expect("the other node takes it");
    assert_eq!(told(&mut watch, 2).await, ["init Start", "synced 0-7"]);
}

#[tokio::test]
async fn a_node_that_asks_for_it_is_left_alone_for_a_while() {
    let mut full = problem(429, "too_many_watchers", None);
    full["retry_after_ms"] = json!(300);
    let reactions =
        [ending(&[reached("synced", "0-7")]), Reaction::Answer(429, full), events(&[reached("bookmark", "0-7")])];
    let stub = node(reactions).await;
    let mut watch = client(&[&stub.endpoint]).watch(&WatchQuery::default()).await.expect("a node takes it");
    assert_eq!(told(&mut watch, 3).await, ["init Start", "synced 0-7", "interrupted: the stream ended"]);
    let interrupted = Instant::now();
    assert_eq!(told(&mut watch, 2).await, ["resumed", "bookmark 0-7"]);
    assert!(interrupted.elapsed() >= Duration::from_millis(300));
}

#[tokio::test]
async fn a_refusal_is_told_at_once_and_ends_a_watch() {
    for (status, word) in [(400, "invalid_request"), (403, "unknown_tenant")] {
        let stub = Stub::answering(status, problem(status, word, None)).await;
        let error = client(&[&stub.endpoint]).watch(&WatchQuery::default()).await.expect_err("refused");
        assert_eq!((error.status(), error.code(), stub.seen().len()), (Some(status), Some(word), 1));
    }
    let refusal = Reaction::Answer(403, problem(403, "unknown_tenant", None));
    let stub = node([ending(&[reached("synced", "0-7")]), refusal]).await;
    let mut watch = client(&[&stub.endpoint]).watch(&WatchQuery::default()).await.expect("a node takes it");
    assert_eq!(told(&mut watch, 3).await, ["init Start", "synced 0-7", "interrupted: the stream ended"]);
    let error = next(&mut watch).await.expect("an item").expect_err("refused");
    assert_eq!(error.code(), Some("unknown_tenant"));
    for _ in 0..2 {
        assert!(next(&mut watch).await.is_none());
    }
}

#[tokio::test]
async fn what_is_no_stream_of_events_is_passed_over() {
    let other = node([events(&[reached("synced", "0-7")])]).await;
    let page = Stub::answering(200, json!("welcome")).await;
    let mut watch = client(&[&page.endpoint, &other.endpoint])
        .watch(&WatchQuery::default())
        .await
        .expect("the other node takes it");
    assert_eq!(told(&mut watch, 2).await, ["init Start", "synced 0-7"]);
}

#[tokio::test]
async fn what_cannot_be_understood_ends_a_watch() {
    let large = format!("event: change\nid: 0-8\ndata: {}\n\n", "x".repeat(2 << 20));
    let pointless = format!("event: bookmark\ndata: {}\n\n", json!({"revision": 8}));
    let garbled = "event: change\nid: 0-8\ndata: {\n\n".to_owned();
    for wrong in [large, pointless, garbled, snapshot("a", 8), reached("synced", "0-8")] {
        let stub = node([events(&[reached("synced", "0-7"), wrong.clone()])]).await;
        let mut watch = client(&[&stub.endpoint]).watch(&WatchQuery::default()).await.expect("a node takes it");
        assert_eq!(told(&mut watch, 2).await, ["init Start", "synced 0-7"]);
        let error = next(&mut watch).await.expect("an item").expect_err("it cannot be understood");
        let is_expected = match &error {
            Error::Answer { status: 200, .. } => wrong.contains("{\n"),
            Error::Watch { source: WatchFault::TooLarge { .. }, .. } => wrong.len() > 1 << 20,
            Error::Watch { source: WatchFault::NoResumePoint { event }, .. } => event == "bookmark",
            Error::Watch { source: WatchFault::OutOfPlace { event }, .. } => wrong.contains(event),
            _ => false,
        };
        assert!(is_expected, "{error:?}");
        assert!(next(&mut watch).await.is_none());
        assert_eq!(point(&watch).as_deref(), Some("0-7"));
    }
}
