//! How soon another cluster knows, and what telling everything anew costs those who ask meanwhile.

use std::io::{self, Write};
use std::time::{Duration, Instant};

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use rollcall_tests::mesh::{Mesh, NAMES, public};
use rollcall_tests::{Clients, Times, pass, wait_until};

use crate::DEADLINE;

/// Registrations of which each is looked for at another cluster.
const SAMPLES: u64 = 201;

/// Between two of them, so that they are not in step with what nodes do at intervals.
const APART_MS_MAX: u64 = 40;

/// Windows with a telling of everything and without, in turns.
const ROUNDS: usize = 4;

/// How long one is, if the telling takes as long.
const WINDOW: Duration = Duration::from_secs(10);

/// Of each client.
const PAUSE: Duration = Duration::from_millis(20);

const SENDER: usize = 0;
const RECEIVER: usize = 1;

#[derive(Debug)]
pub(crate) struct Figures {
    random: SmallRng,
    registered: u64,
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1_000.0
}

/// The time within which this part of them was.
fn within(times: &mut [Duration], part: f64) -> Duration {
    times.sort_unstable();
    let place = (times.len() as f64 * part) as usize;
    times.get(place).copied().unwrap_or_default()
}

impl Figures {
    pub(crate) fn new(seed: u64) -> Self {
        Self { random: SmallRng::seed_from_u64(seed), registered: 0 }
    }

    /// Instances that were registered to be looked for.
    pub(crate) fn registered(&self) -> u64 {
        self.registered
    }

    /// From the answer to a registration until another cluster shows it, to somebody who asks again and again.
    pub(crate) async fn seen(&mut self, mesh: &Mesh, when: &str, out: &mut impl Write) -> io::Result<()> {
        let mut took = Vec::new();
        for n in 0..SAMPLES {
            let id = format!("seen-{}", self.registered);
            self.registered += 1;
            let from = &mesh.clusters[SENDER].nodes[n as usize % 3].api;
            let to = &mesh.clusters[1 + n as usize % 2].nodes[n as usize / 2 % 3].api;
            let mut body = public(&id, "http://1");
            body["name"] = id.as_str().into();
            from.post("/api/services/register", &body).await.ok();
            let begun = Instant::now();
            let path = format!("/api/services?include_federated=true&name={id}");
            while to.get(&path).await.ok()["federated_count"] != 1 {
                assert!(begun.elapsed() < DEADLINE, "{id} is not seen");
            }
            took.push(begun.elapsed());
            pass(Duration::from_millis(self.random.random_range(0..APART_MS_MAX))).await;
        }
        let [half, most] = [0.5, 0.99].map(|part| ms(within(&mut took, part)));
        writeln!(out, "seen at another cluster, {when}: median {half:.1} ms, 99 % {most:.1} ms of {SAMPLES}")
    }

    /// Reads and writes at the sender and at a receiver while everything is told anew, and while not.
    pub(crate) async fn beside_a_resync(&self, mesh: &Mesh, out: &mut impl Write) -> io::Result<()> {
        let (mut without, mut with): ([Times; 2], [Times; 2]) = Default::default();
        let (mut told_in, mut windows) = (Vec::new(), 0.0);
        for _ in 0..ROUNDS {
            add(&mut without, measured(mesh, async || true).await);
            mesh.part(SENDER, RECEIVER).await;
            mesh.name(SENDER, RECEIVER).await;
            let leader = mesh.clusters[SENDER].leader().await;
            let is_resyncing = async || {
                let status = mesh.clusters[SENDER].nodes[leader].api.get("/api/federation").await.ok();
                let peers = status["peers"].as_array().expect("a list").clone();
                peers.iter().any(|peer| peer["name"] == NAMES[RECEIVER] && peer["sending"]["state"] == "resyncing")
            };
            wait_until("everything is told anew", DEADLINE, || async { is_resyncing().await.then_some(()) }).await;
            let begun = Instant::now();
            add(&mut with, measured(mesh, &is_resyncing).await);
            windows += begun.elapsed().min(WINDOW).as_secs_f64();
            wait_until("everything was told", DEADLINE, || async { (!is_resyncing().await).then_some(()) }).await;
            told_in.push(begun.elapsed());
            // What was known before and was not told anew is cleared away.
            mesh.all_agree(DEADLINE).await;
        }
        let half = within(&mut told_in, 0.5);
        writeln!(out, "told anew in {half:.1?} (median of {ROUNDS}); {windows:.0} s of it measured")?;
        for (at, who) in [SENDER, RECEIVER].into_iter().zip(["sender", "receiver"]) {
            let (without, with) = (&mut without[at], &mut with[at]);
            let failures = without.failures.len() + with.failures.len();
            assert_eq!(failures, 0, "{:?} {:?}", without.failures, with.failures);
            let kinds =
                [("read", &mut without.reads, &mut with.reads), ("write", &mut without.writes, &mut with.writes)];
            for (kind, without, with) in kinds {
                let [before, meanwhile] = [&mut *without, &mut *with].map(|times| ms(within(times, 0.5)));
                let [before_most, most] = [without, with].map(|times| ms(within(times, 0.99)));
                writeln!(
                    out,
                    "local {kind} at the {who}: median {before:.2} ms, {meanwhile:.2} ms meanwhile: {:.2} times; \
                     99 % {before_most:.1} ms, {most:.1} ms",
                    meanwhile / before
                )?;
            }
        }
        Ok(())
    }
}

fn add(to: &mut [Times; 2], more: [Times; 2]) {
    to.iter_mut().zip(more).for_each(|(to, more)| to.add(more));
}

/// What clients at the sender and at the receiver met, for a window or as long as something goes on.
async fn measured(mesh: &Mesh, goes_on: impl AsyncFn() -> bool) -> [Times; 2] {
    let clients = [SENDER, RECEIVER].map(|at| Clients::start(&mesh.clusters[at], NAMES[at], "private", PAUSE));
    let begun = Instant::now();
    while begun.elapsed() < WINDOW && goes_on().await {
        pass(Duration::from_millis(250)).await;
    }
    let [sender, receiver] = clients;
    [sender.stop().await, receiver.stop().await]
}
