//! Clients at work: each asks whatever node it likes, notes what it was told, and repeats nothing.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};

use super::ledger::{Ask, Key, Ledger, Told};
use crate::api::{Answer, Api};

/// Instances that all clients write and read, few enough that they meet.
const SHARED: Key = 16;

/// Instances that are registered once and must be there at the end begin here.
const KEPT_FIRST: Key = 1_000_000;

/// Agents begin here.
const AGENTS_FIRST: Key = 1_000;

/// Whether it ends only when somebody removes it.
pub(super) fn lives_on(key: Key) -> bool {
    !(AGENTS_FIRST..KEPT_FIRST).contains(&key)
}

/// TTLs of agents: from the shortest that a node grants to a few elections.
const AGENT_TTL_MS: [u64; 3] = [1_500, 3_000, 6_000];

/// One agent in so many beats falls silent.
const SILENT_ONE_IN: u32 = 60;

/// Nobody who does not beat ends within a run.
const LONG_TTL_MS: u64 = 86_400_000;

/// How long a node may hold a request; what it says after that is of no use to these clients.
const HELD_MS: &str = "3000";
const TIMEOUT: Duration = Duration::from_secs(4);

/// How much is asked.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    pub clients: u32,
    pub agents: u32,
    /// Of each client, if it is answered at once.
    pub pause: Duration,
}

impl Pace {
    /// Some 350 calls a second, most of the time.
    pub const STEADY: Self = Self { clients: 16, agents: 24, pause: Duration::from_millis(40) };

    /// Some 500 calls a second, most of the time: a million in an hour of faults.
    pub const BRISK: Self = Self { clients: 16, agents: 24, pause: Duration::from_millis(25) };
}

/// What clients share.
#[derive(Debug)]
struct Shared {
    apis: Vec<Api>,
    ledger: Arc<Ledger>,
    stop: AtomicBool,
    values: AtomicU64,
    kept: AtomicU64,
    /// The two newest revisions that were acknowledged of each shared instance: each is a lease, too.
    leases: Mutex<Vec<(u64, u64)>>,
}

/// Clients at work, until they are told to stop.
#[derive(Debug)]
pub struct Load {
    shared: Arc<Shared>,
    tasks: JoinSet<()>,
}

impl Load {
    pub fn start(apis: Vec<Api>, ledger: Arc<Ledger>, pace: Pace, seed: u64) -> Self {
        let shared = Arc::new(Shared {
            apis,
            ledger,
            stop: AtomicBool::new(false),
            values: AtomicU64::new(1),
            kept: AtomicU64::new(0),
            leases: Mutex::new(vec![(0, 0); SHARED as usize]),
        });
        let mut tasks = JoinSet::new();
        let random = |number: u32| SmallRng::seed_from_u64(seed ^ (u64::from(number) << 32));
        for number in 0..pace.clients {
            tasks.spawn(client(shared.clone(), pace.pause, random(number)));
        }
        for number in 0..pace.agents {
            tasks.spawn(agent(shared.clone(), AGENTS_FIRST + number, random(1_000 + number)));
        }
        Self { shared, tasks }
    }

    /// Ends all clients; answers the instances that must be there now.
    ///
    /// # Panics
    /// When a client did.
    pub async fn stop(self) -> u64 {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.tasks.join_all().await;
        self.shared.kept.load(Ordering::Relaxed)
    }
}

fn path(key: Key) -> String {
    format!("/api/services/i-{key}")
}

async fn client(shared: Arc<Shared>, pause: Duration, mut random: SmallRng) {
    let mut tick = interval(pause);
    tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
    // What this client saw last of each instance, for its conditions.
    let mut seen = vec![0; SHARED as usize];
    while !shared.stop.load(Ordering::Relaxed) {
        tick.tick().await;
        let key = random.random_range(0..SHARED);
        let value = || shared.values.fetch_add(1, Ordering::Relaxed);
        match random.random_range(0..100) {
            0..20 => shared.write(&mut random, key, Ask::Write { value: value() }).await,
            20..35 => {
                let expected = seen[key as usize];
                let ask = if expected == 0 {
                    Ask::Create { value: value() }
                } else {
                    Ask::Replace { value: value(), expected }
                };
                shared.write(&mut random, key, ask).await;
            }
            35..40 => shared.write(&mut random, key, Ask::Remove).await,
            40..45 => {
                let key = KEPT_FIRST + value() as Key;
                shared.write(&mut random, key, Ask::Create { value: u64::from(key) << 32 }).await;
            }
            45..50 => shared.beat_with_an_old_lease(&mut random, key).await,
            50..85 => {
                if let Some(revision) = shared.read(&mut random, key, Ask::Read).await {
                    seen[key as usize] = revision;
                }
            }
            _ => drop(shared.read(&mut random, key, Ask::ReadLocally).await),
        }
    }
}

impl Shared {
    fn api(&self, random: &mut SmallRng) -> &Api {
        &self.apis[random.random_range(0..self.apis.len())]
    }

    async fn send(&self, api: &Api, request: RequestBuilder) -> Option<Answer> {
        api.send(request.header("x-request-timeout-ms", HELD_MS).timeout(TIMEOUT)).await.ok()
    }

    async fn write(&self, random: &mut SmallRng, key: Key, ask: Ask) {
        let api = self.api(random);
        let request = match ask {
            Ask::Write { value } => register(api, key, value, LONG_TTL_MS),
            Ask::Create { value } => register(api, key, value, LONG_TTL_MS).header("if-none-match", "*"),
            Ask::Replace { value, expected } => {
                register(api, key, value, LONG_TTL_MS).header("if-match", format!("\"{expected}\""))
            }
            Ask::Remove | Ask::Read | Ask::ReadLocally => api.request(Method::DELETE, &path(key)),
        };
        let asked_us = self.ledger.now_us();
        let told = written(self.send(api, request).await);
        self.ledger.note(asked_us, key, ask, told);
        let Told::Done { revision } = told else { return };
        if key >= KEPT_FIRST {
            self.kept.fetch_add(1, Ordering::Relaxed);
        } else if ask != Ask::Remove {
            let mut leases = self.leases.lock().expect("nobody panics with the leases");
            let (newest, before) = &mut leases[key as usize];
            if revision > *newest {
                (*newest, *before) = (revision, *newest);
            }
        }
    }

    /// P7: who was replaced is told so, for ever.
    async fn beat_with_an_old_lease(&self, random: &mut SmallRng, key: Key) {
        let (newer, old) = self.leases.lock().expect("nobody panics with the leases")[key as usize];
        if old == 0 {
            return;
        }
        let api = self.api(random);
        let request =
            api.request(Method::POST, &format!("{}/heartbeat", path(key))).json(&json!({ "lease_id": old }));
        if self.send(api, request).await.is_some_and(|answer| answer.status == 200) {
            self.ledger.stale_renewal(key, old, newer);
        }
    }

    /// Answers the instance's own revision, 0 when it is not there.
    async fn read(&self, random: &mut SmallRng, key: Key, ask: Ask) -> Option<u64> {
        let api = self.api(random);
        let consistency = if ask == Ask::Read { "linearizable" } else { "local" };
        let request = api.request(Method::GET, &format!("{}?consistency={consistency}", path(key)));
        let asked_us = self.ledger.now_us();
        let told = shown(self.send(api, request).await);
        self.ledger.note(asked_us, key, ask, told);
        match told {
            Told::Shown { instance, .. } => Some(instance.map_or(0, |(revision, _)| revision)),
            _ => None,
        }
    }
}

fn register(api: &Api, key: Key, value: u64, ttl_ms: u64) -> RequestBuilder {
    let body = json!({
        "id": format!("i-{key}"), "name": format!("svc-{}", key % 4), "url": format!("http://h/{value}"), "ttl_ms": ttl_ms,
        "capabilities": [format!("c{}", value % 5)],
    });
    api.request(Method::POST, "/api/services/register").json(&body)
}

/// The value of a service object.
pub(super) fn value_of(service: &Value) -> Option<u64> {
    service["url"].as_str()?.strip_prefix("http://h/")?.parse().ok()
}

/// The number of a service object.
pub(super) fn key_of(service: &Value) -> Option<Key> {
    service["id"].as_str()?.strip_prefix("i-")?.parse().ok()
}

fn written(answer: Option<Answer>) -> Told {
    let Some(answer) = answer else { return Told::Unknown };
    match answer.status {
        200 | 201 => answer.body["revision"].as_u64().map_or(Told::Unknown, |revision| Told::Done { revision }),
        404 | 412 => Told::Refused,
        503 | 504 if answer.body["outcome"] == "not_applied" => Told::NotApplied,
        503 | 504 if answer.body["outcome"] == "unknown" => Told::Unknown,
        status => panic!("a good write was answered {status} {}", answer.body),
    }
}

fn shown(answer: Option<Answer>) -> Told {
    let Some(answer) = answer else { return Told::Unknown };
    let instance = match answer.status {
        200 => {
            let revision = answer.body["revision"].as_u64().expect("an instance has a revision");
            Some((revision, value_of(&answer.body).expect("an instance has a value")))
        }
        404 => None,
        503 | 504 => return Told::Unknown,
        status => panic!("a good read was answered {status} {}", answer.body),
    };
    let (at, staleness_ms) =
        (answer.header_number("rollcall-revision"), answer.header_number("rollcall-staleness-ms"));
    Told::Shown { at, instance, staleness_ms }
}

/// An agent: registers, beats three times in each TTL at whatever node, and falls silent some day, to come again.
async fn agent(shared: Arc<Shared>, key: Key, mut random: SmallRng) {
    while !shared.stop.load(Ordering::Relaxed) {
        let ttl_ms = AGENT_TTL_MS[random.random_range(0..AGENT_TTL_MS.len())];
        let value = shared.values.fetch_add(1, Ordering::Relaxed);
        let api = shared.api(&mut random);
        let sent_us = shared.ledger.now_us();
        let told = written(shared.send(api, register(api, key, value, ttl_ms)).await);
        shared.ledger.note(sent_us, key, Ask::Write { value }, told);
        let mut beat = interval(Duration::from_millis(ttl_ms / 3));
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        beat.tick().await;
        if let Told::Done { revision: lease } = told {
            shared.ledger.renewed(key, lease, ttl_ms, sent_us);
            while shared.beat(&mut random, key, lease, ttl_ms).await && !random.random_ratio(1, SILENT_ONE_IN) {
                beat.tick().await;
            }
        }
        beat.tick().await;
    }
}

impl Shared {
    /// Whether the lease goes on, as far as the agent knows.
    async fn beat(&self, random: &mut SmallRng, key: Key, lease: u64, ttl_ms: u64) -> bool {
        let api = self.api(random);
        let request =
            api.request(Method::POST, &format!("{}/heartbeat", path(key))).json(&json!({ "lease_id": lease }));
        let sent_us = self.ledger.now_us();
        let answer = self.send(api, request).await;
        match answer.as_ref().map(|answer| answer.status) {
            Some(200) => self.ledger.renewed(key, lease, ttl_ms, sent_us),
            Some(404) => {
                self.ledger.lease_gone(key, lease);
                return false;
            }
            // Its own registration of before, whose answer it never got.
            Some(409) => return false,
            None | Some(503 | 504) => {}
            Some(status) => panic!("a good heartbeat was answered {status} {:?}", answer.map(|it| it.body)),
        }
        !self.stop.load(Ordering::Relaxed)
    }
}
