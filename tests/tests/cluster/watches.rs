//! P9: what a watcher is told while the nodes it watches die.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use rollcall_tests::{Api, Cluster, Event, Events, Node, wait_until};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval};

/// Nodes that are killed, one after the other.
const KILLS: usize = 6;

/// Changes between a kill and the restart, and between that and the next kill: a second or so of writing.
const CHANGES_BETWEEN: u64 = 400;

const WRITERS: u64 = 5;

/// Each writer's pause: together they write 500 times per second.
const PAUSE: Duration = Duration::from_millis(10);

const DEADLINE: Duration = Duration::from_secs(120);

/// Everything, offline or not.
const ALL: &str = "?status=active,degraded,maintenance,error,offline";

/// A watcher that goes on at the next node when its node is gone.
struct Watcher {
    query: &'static str,
    apis: Vec<Api>,
    at: usize,
    last_id: String,
    /// The changes, each with the revision it has.
    told: Vec<Event>,
    /// Everything up to here was told.
    reached: u64,
    connections: usize,
}

impl Watcher {
    fn new(query: &'static str, apis: Vec<Api>, at: usize) -> Self {
        // Whoever comes later than the first change is told of it all the same.
        let last_id = "0-0".to_owned();
        Self { query, apis, at, last_id, told: Vec::new(), reached: 0, connections: 0 }
    }

    /// Watches until everything up to `end` was told, once there is an end.
    async fn run(mut self, end: impl Fn() -> Option<u64>) -> Self {
        let deadline = Instant::now() + DEADLINE;
        while end().is_none_or(|end| self.reached < end) {
            assert!(Instant::now() < deadline, "{} is at {} and gets no further", self.query, self.reached);
            let api = &self.apis[self.at % self.apis.len()];
            match Events::open(api, self.query, &self.last_id).await {
                Ok(mut events) => {
                    self.connections += 1;
                    while end().is_none_or(|end| self.reached < end) {
                        let Some(event) = events.next().await else { break };
                        self.take(event);
                    }
                }
                Err((0 | 503 | 504, _)) => {}
                Err((status, problem)) => panic!("{} after {}: {status} {problem}", self.query, self.last_id),
            }
            self.at += 1;
        }
        self
    }

    fn take(&mut self, event: Event) {
        let revision = event.revision();
        match event.event.as_str() {
            "change" => {
                assert!(revision > self.reached, "{}: {revision} after {}", self.query, self.reached);
                self.told.push(event.clone());
            }
            "synced" | "bookmark" => assert!(revision >= self.reached),
            other => panic!("{}: {other} {revision}", self.query),
        }
        self.reached = revision;
        assert!(event.id.ends_with(&format!("-{revision}")));
        self.last_id = event.id;
    }

    fn revisions(&self) -> Vec<u64> {
        self.told.iter().map(Event::revision).collect()
    }
}

/// Writes until told to stop; what is refused or lost is not repeated.
async fn write(writer: u64, apis: Vec<Api>, stop: Arc<AtomicBool>) {
    let mut tick = interval(PAUSE);
    tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut n = writer;
    while !stop.load(Ordering::Relaxed) {
        tick.tick().await;
        n += WRITERS;
        let api = &apis[usize::try_from(n % 3).expect("a small number")];
        let id = format!("i-{}", n % 40);
        let name = format!("svc-{}", n % 4);
        if n.is_multiple_of(7) {
            let request = api.request(reqwest::Method::DELETE, &format!("/api/services/{id}"));
            let _ = api.send(request.timeout(Duration::from_secs(3))).await;
        } else {
            let body = json!({ "id": id, "name": name, "url": format!("http://h/{n}"), "ttl_ms": 600_000 });
            let request = api.request(reqwest::Method::POST, "/api/services/register").json(&body);
            let _ = api.send(request.timeout(Duration::from_secs(3))).await;
        }
    }
}

async fn revision(cluster: &Cluster) -> Option<u64> {
    let mut newest = None;
    for node in cluster.nodes.iter().filter(|node| node.is_running()) {
        let status = node.api.status().await;
        newest = newest.max(status.and_then(|status| status["revision"].as_u64()));
    }
    newest
}

async fn changes(cluster: &Cluster, count: u64) {
    let before = wait_until("a node answers", DEADLINE, || revision(cluster)).await;
    wait_until("writing goes on", DEADLINE, || async {
        revision(cluster).await.filter(|now| *now >= before + count)
    })
    .await;
}

/// What the roll looks like to somebody who was told everything.
fn mirror(told: &[Event]) -> BTreeMap<String, u64> {
    let mut roll = BTreeMap::new();
    for event in told {
        let (id, revision) = (event.data["service"]["id"].as_str().expect("an id"), event.revision());
        match event.data["update_type"].as_str().expect("a kind") {
            "registered" | "updated" | "status_changed" => {
                roll.insert(id.to_owned(), revision);
            }
            "left" | "deregistered" | "expired" => {
                assert!(roll.remove(id).is_some(), "{id} went at {revision} and was not there");
            }
            other => panic!("{other}"),
        }
    }
    roll
}

#[tokio::test]
async fn p9_every_change_once_and_in_order_while_the_watched_nodes_die() {
    // Whoever was away comes back by a snapshot more often than by the log.
    let mut cluster = Cluster::start_with(3, &["--snapshot-entries", "100", "--log-entries-kept", "50"]).await;
    let apis: Vec<Api> = cluster.nodes.iter().map(|node| node.api.clone()).collect();
    let (end, stop) = (Arc::new(std::sync::OnceLock::new()), Arc::new(AtomicBool::new(false)));
    let mut watchers = JoinSet::new();
    for (n, query) in [ALL, ALL, ALL, "?name=svc-1", "?name=svc-2,svc-3", "?name=svc-1"].into_iter().enumerate() {
        let end = end.clone();
        watchers.spawn(Watcher::new(query, apis.clone(), n).run(move || end.get().copied()));
    }
    let mut writers = JoinSet::new();
    (0..WRITERS).for_each(|n| drop(writers.spawn(write(n, apis.clone(), stop.clone()))));

    for kill in 0..KILLS {
        changes(&cluster, CHANGES_BETWEEN).await;
        let victim = if kill % 2 == 0 { cluster.leader().await } else { kill % 3 };
        cluster.nodes[victim].kill9();
        changes(&cluster, CHANGES_BETWEEN).await;
        cluster.nodes[victim].start();
        cluster.nodes[victim].ready(DEADLINE).await;
    }
    stop.store(true, Ordering::Relaxed);
    writers.join_all().await;
    // All nodes are at rest at one revision, and it is the end.
    cluster.digests_agree().await;
    let last = revision(&cluster).await.expect("a node answers");
    end.set(last).expect("the end is set once");

    let told = watchers.join_all().await;
    let (all, filtered): (Vec<_>, Vec<_>) = told.iter().partition(|watcher| watcher.query == ALL);
    for watcher in &all {
        let expected: Vec<u64> = (1..=last).collect();
        assert_eq!(watcher.revisions(), expected, "a change is missing");
        assert!(watcher.told.len() as u64 >= 2 * KILLS as u64 * CHANGES_BETWEEN);
        assert!(watcher.connections > 1, "its node never died");
        let listed = apis[0].get("/api/services?limit=1000&consistency=linearizable").await.ok();
        let listed = listed["services"].as_array().expect("a list").iter();
        let field = |service: &Value| {
            (service["id"].as_str().expect("an id").to_owned(), service["revision"].as_u64().expect("a revision"))
        };
        assert_eq!(mirror(&watcher.told), listed.map(field).collect::<BTreeMap<_, _>>());
    }
    for watcher in &filtered {
        let wanted = |event: &&Event| {
            let name = event.data["service"]["name"].as_str().expect("a name");
            watcher.query.split(['=', ',']).any(|text| text == name)
        };
        // An instance's name never changes while it is there: n % 40 decides n % 4.
        let expected: Vec<u64> = all[0].told.iter().filter(wanted).map(Event::revision).collect();
        assert_eq!(watcher.revisions(), expected, "{}", watcher.query);
    }

    // All nodes end at once; some of them had what they know from a snapshot.
    cluster.nodes.iter_mut().for_each(Node::kill9);
    cluster.nodes.iter_mut().for_each(Node::start);
    for node in &cluster.nodes {
        node.ready(DEADLINE).await;
        let again = Watcher::new(ALL, vec![node.api.clone()], 0).run(|| Some(last)).await;
        assert_eq!(again.revisions(), all[0].revisions(), "a node forgot what changed");
    }
}

#[tokio::test]
async fn p9_a_learner_tells_its_watchers_too() {
    let mut cluster = Cluster::start(1).await;
    let learner = cluster.learner().await;
    let watched: Vec<Events> = join_all([0, learner].map(|place| {
        let api = cluster.nodes[place].api.clone();
        async move { Events::open(&api, "?name=web", "").await.expect("a stream") }
    }))
    .await;
    cluster.nodes[learner].api.register("web-1", 60_000).await;
    for mut events in watched {
        assert_eq!(events.next().await.expect("an event").event, "synced");
        let change = events.next().await.expect("an event");
        assert_eq!((change.event.as_str(), change.revision()), ("change", 1));
    }
}
