//! Clients of one cluster, each at a node of its own: they write there and read what they wrote, and time both.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};

use crate::api::Api;
use crate::cluster::Cluster;

/// Nobody who does not beat ends within a test.
const TTL_MS: u64 = 86_400_000;

/// At work until they are stopped.
#[derive(Debug)]
pub struct Clients {
    stop: Arc<AtomicBool>,
    tasks: JoinSet<Times>,
}

/// How long each took, and what was not answered as it should be.
#[derive(Clone, Debug, Default)]
pub struct Times {
    pub writes: Vec<Duration>,
    pub reads: Vec<Duration>,
    pub failures: Vec<String>,
}

impl Times {
    pub fn add(&mut self, other: Self) {
        self.writes.extend(other.writes);
        self.reads.extend(other.reads);
        self.failures.extend(other.failures);
    }

    /// The longest of all.
    pub fn longest(&self) -> Duration {
        self.writes.iter().chain(&self.reads).max().copied().unwrap_or_default()
    }
}

impl Clients {
    /// One at each running node. Each has an instance of its own, whose id begins with `name`, and changes it once in each pause.
    pub fn start(cluster: &Cluster, name: &str, visibility: &'static str, pause: Duration) -> Self {
        let (stop, mut tasks) = (Arc::new(AtomicBool::new(false)), JoinSet::new());
        for (place, node) in cluster.nodes.iter().enumerate().filter(|(_, node)| node.is_running()) {
            let id = format!("{name}-busy-{place}");
            tasks.spawn(client(node.api.clone(), id, visibility, pause, stop.clone()));
        }
        Self { stop, tasks }
    }

    /// # Panics
    /// When a client did.
    pub async fn stop(self) -> Times {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Times::default();
        self.tasks.join_all().await.into_iter().for_each(|times| all.add(times));
        all
    }
}

async fn client(api: Api, id: String, visibility: &'static str, pause: Duration, stop: Arc<AtomicBool>) -> Times {
    let (mut times, mut tick, path) = (Times::default(), interval(pause), format!("/api/services/{id}"));
    tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
    for n in 0u64.. {
        tick.tick().await;
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let url = format!("http://h/{n}");
        let body = json!({ "id": id, "name": "busy", "url": url, "visibility": visibility, "ttl_ms": TTL_MS });
        let begun = Instant::now();
        match api.try_post("/api/services/register", &body).await {
            Ok(answer) if matches!(answer.status, 200 | 201) => times.writes.push(begun.elapsed()),
            Ok(answer) => times.failures.push(format!("a write was answered {} {}", answer.status, answer.body)),
            Err(error) => times.failures.push(format!("a write was not answered: {error:?}")),
        }
        let begun = Instant::now();
        match api.send(api.request(Method::GET, &path)).await {
            Ok(answer) if answer.status == 200 => times.reads.push(begun.elapsed()),
            Ok(answer) => times.failures.push(format!("a read was answered {} {}", answer.status, answer.body)),
            Err(error) => times.failures.push(format!("a read was not answered: {error:?}")),
        }
    }
    times
}
