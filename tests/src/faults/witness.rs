//! Watchers that go on at another node when theirs is gone, and remember everything they were told.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::task::JoinSet;

use super::ledger::{Change, Ledger};
use super::load::{key_of, value_of};
use crate::api::Api;
use crate::wait::pass;
use crate::watch::{Event, Events};

/// Everything, offline or not.
const ALL: &str = "?status=active,degraded,maintenance,error,offline";

/// After the last change was written, a watcher has been told of it.
const DEADLINE: Duration = Duration::from_secs(60);

/// Not known yet.
const NO_END: u64 = u64::MAX;

/// What one watcher was told.
#[derive(Debug, Default)]
pub struct Testimony {
    pub changes: Vec<Change>,
    /// When an expiry was told, by revision.
    pub expired_us: HashMap<u64, u64>,
    pub connections: u64,
}

#[derive(Debug)]
pub struct Witnesses {
    end: Arc<AtomicU64>,
    tasks: JoinSet<Testimony>,
}

impl Witnesses {
    /// One watcher that begins at each node.
    pub fn start(apis: &[Api], ledger: &Arc<Ledger>) -> Self {
        let end = Arc::new(AtomicU64::new(NO_END));
        let mut tasks = JoinSet::new();
        for at in 0..apis.len() {
            let watcher = Watcher {
                apis: apis.to_vec(),
                at,
                last_id: "0-0".to_owned(),
                reached: 0,
                ledger: ledger.clone(),
                end: end.clone(),
                told: Testimony::default(),
            };
            tasks.spawn(watcher.run());
        }
        Self { end, tasks }
    }

    /// Waits until all were told everything up to this revision.
    ///
    /// # Panics
    /// When one was not, or was told that it must start over.
    pub async fn hear(self, end: u64) -> Vec<Testimony> {
        self.end.store(end, Ordering::Relaxed);
        let told = tokio::time::timeout(DEADLINE, self.tasks.join_all()).await;
        told.unwrap_or_else(|_| panic!("P9: not all watchers were told everything up to {end} in {DEADLINE:?}"))
    }
}

struct Watcher {
    apis: Vec<Api>,
    at: usize,
    last_id: String,
    reached: u64,
    ledger: Arc<Ledger>,
    end: Arc<AtomicU64>,
    told: Testimony,
}

impl Watcher {
    fn goes_on(&self) -> bool {
        self.reached < self.end.load(Ordering::Relaxed)
    }

    async fn run(mut self) -> Testimony {
        while self.goes_on() {
            let api = &self.apis[self.at % self.apis.len()];
            match Events::open(api, ALL, &self.last_id).await {
                Ok(mut events) => {
                    self.told.connections += 1;
                    self.follow(&mut events).await;
                }
                Err((0 | 503 | 504, _)) => pass(Duration::from_millis(50)).await,
                Err((status, problem)) => panic!("P9: after {}: {status} {problem}", self.last_id),
            }
            self.at += 1;
        }
        self.told
    }

    async fn follow(&mut self, events: &mut Events) {
        while self.goes_on() {
            // A frozen node says nothing; the end may be set meanwhile, and no event may come any more.
            match tokio::time::timeout(Duration::from_secs(12), events.next()).await {
                Ok(Some(event)) => self.take(&event),
                Ok(None) | Err(_) => return,
            }
        }
    }

    fn take(&mut self, event: &Event) {
        let revision = event.revision();
        match event.event.as_str() {
            "change" => {
                assert!(revision > self.reached, "P9: {revision} is told after {}", self.reached);
                let kind = event.data["update_type"].as_str().expect("a kind");
                let expired = kind == "expired";
                let gone = matches!(kind, "left" | "deregistered" | "expired");
                let service = &event.data["service"];
                let key = key_of(service).expect("an instance of this run");
                let value = value_of(service).filter(|_| !gone);
                if expired {
                    self.told.expired_us.insert(revision, self.ledger.now_us());
                }
                self.told.changes.push(Change { revision, key, value, expired });
            }
            "synced" | "bookmark" => assert!(revision >= self.reached, "P9: {revision} after {}", self.reached),
            other => panic!("P9: {other} at {revision}, though all history is kept"),
        }
        self.reached = revision;
        event.id.clone_into(&mut self.last_id);
    }
}
