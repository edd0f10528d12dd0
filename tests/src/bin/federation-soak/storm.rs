//! Faults that a seed chooses, one after the other; after each everything heals, and every cluster must know exactly what
//! the others have.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Write};
use std::time::{Duration, Instant};

use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use reqwest::Method;
use rollcall_tests::mesh::{Mesh, NAMES, Roll, fill, listed};
use rollcall_tests::{Api, Clients, Times, pass, wait_until};

use crate::DEADLINE;

/// Of each client.
const PAUSE: Duration = Duration::from_millis(100);

/// A cluster that is cut off is seen to be so after half a minute.
const CUT_S: std::ops::Range<u64> = 60..180;

/// After this whoever was not heard is shown as such: half a minute, and what a loaded machine adds.
const STALE_DEADLINE: Duration = Duration::from_secs(55);

/// Instances that change in each round.
const CHANGED: u32 = 1_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fault {
    /// A cluster is cut off for a minute or some.
    CutOff,
    /// Everything is told anew, and both leaders die in the middle of it.
    LeadersDie,
    /// A node of each cluster dies.
    NodesDie,
    /// Whatever is said is broken off, again and again.
    Severed,
    /// A leader stands still.
    Frozen,
}

impl Fault {
    pub(crate) const ALL: [Self; 5] = [Self::CutOff, Self::LeadersDie, Self::NodesDie, Self::Severed, Self::Frozen];

    /// Whether all nodes run and hear each other: then nobody who asks may notice.
    fn spares_nodes(self) -> bool {
        matches!(self, Self::CutOff | Self::Severed)
    }
}

/// The id of one of the first cluster's many.
pub(crate) fn id(number: u32) -> String {
    format!("s-{number:06}")
}

#[derive(Debug)]
pub(crate) struct Storm {
    random: SmallRng,
    instances: u32,
    /// Those that are still to come before any comes again.
    next: Vec<Fault>,
    happened: BTreeMap<Fault, u64>,
    kills: u64,
    cut: Duration,
    writes: usize,
    changed: u64,
    longest: Duration,
    value: u64,
}

impl Storm {
    pub(crate) fn new(seed: u64, instances: u32) -> Self {
        Self {
            random: SmallRng::seed_from_u64(seed),
            instances,
            next: Vec::new(),
            happened: BTreeMap::new(),
            kills: 0,
            cut: Duration::ZERO,
            writes: 0,
            changed: 0,
            longest: Duration::ZERO,
            value: 2,
        }
    }

    pub(crate) fn missing(&self) -> Vec<Fault> {
        Fault::ALL.into_iter().filter(|fault| !self.happened.contains_key(fault)).collect()
    }

    fn draw(&mut self) -> Fault {
        if self.next.is_empty() {
            self.next = Fault::ALL.to_vec();
        }
        let place = self.random.random_range(0..self.next.len());
        self.next.swap_remove(place)
    }

    /// One fault, its healing, and the judgement.
    pub(crate) async fn strike(&mut self, mesh: &mut Mesh, out: &mut impl Write) -> io::Result<()> {
        let (fault, begun) = (self.draw(), Instant::now());
        let clients: Vec<Clients> = mesh
            .clusters
            .iter()
            .zip(NAMES)
            .map(|(cluster, name)| Clients::start(cluster, name, "public", PAUSE))
            .collect();
        match fault {
            Fault::CutOff => self.cut_off(mesh).await,
            Fault::LeadersDie => self.leaders_die(mesh).await,
            Fault::NodesDie => self.nodes_die(mesh).await,
            Fault::Severed => self.sever(mesh).await,
            Fault::Frozen => self.freeze(mesh).await,
        }
        let mut times = Times::default();
        for clients in clients {
            times.add(clients.stop().await);
        }
        assert!(!fault.spares_nodes() || times.failures.is_empty(), "{fault:?}: {:?}", times.failures);
        assert!(!times.writes.is_empty(), "nobody wrote");
        let struck = begun.elapsed();
        for cluster in &mut mesh.clusters {
            cluster.nodes.iter_mut().filter(|node| !node.is_running()).for_each(|node| node.start());
            cluster.ready().await;
        }
        mesh.all_agree(DEADLINE).await;
        for cluster in &mesh.clusters {
            cluster.digests_agree().await;
        }
        writeln!(
            out,
            "{fault:?}: {struck:.0?}, agreed after {:.0?}; {} writes, {} failed, the longest took {:.0?}",
            begun.elapsed(),
            times.writes.len(),
            times.failures.len(),
            times.longest()
        )?;
        *self.happened.entry(fault).or_default() += 1;
        self.writes += times.writes.len();
        if fault.spares_nodes() {
            self.longest = self.longest.max(times.longest());
        }
        Ok(())
    }

    /// Some of the many change, some go and come.
    async fn change(&mut self, mesh: &Mesh) {
        let cluster = &mesh.clusters[0];
        let (mut changed, mut gone) = (Vec::new(), Vec::new());
        for _ in 0..CHANGED.min(self.instances) {
            let id = id(self.random.random_range(0..self.instances));
            if self.random.random_ratio(1, 4) { gone.push(id) } else { changed.push(id) }
        }
        self.changed += (changed.len() + gone.len()) as u64;
        let running: Vec<_> = cluster.nodes.iter().filter(|node| node.is_running()).collect();
        for (n, id) in gone.iter().enumerate() {
            // It may have gone in an earlier round.
            let (api, path) = (&running[n % running.len()].api, format!("/api/services/{id}"));
            let is_gone = || async {
                let answer = api.send(api.request(Method::DELETE, &path)).await.ok()?;
                matches!(answer.status, 200 | 404).then_some(())
            };
            wait_until("it is removed", DEADLINE, is_gone).await;
        }
        self.value += 1;
        fill(cluster, changed.into_iter(), &format!("http://{}", self.value)).await;
    }

    async fn cut_off(&mut self, mesh: &Mesh) {
        let victim = self.random.random_range(0..mesh.clusters.len());
        // Each node knows what the clients of both others registered: few enough to look at again and again.
        for node in mesh.clusters.iter().flat_map(|cluster| &cluster.nodes) {
            let all = || async { (busy(&node.api).await?.len() == 6).then_some(()) };
            wait_until("the clients' instances are known", DEADLINE, all).await;
        }
        let (begun, lasts) = (Instant::now(), Duration::from_secs(self.random.random_range(CUT_S)));
        mesh.cut_off(victim);
        self.change(mesh).await;
        for (at, cluster) in mesh.clusters.iter().enumerate() {
            for node in &cluster.nodes {
                // All that is known of whom nobody hears is stale, and nothing else.
                let marked = || async {
                    let all = busy(&node.api).await?;
                    let is_right = |origin: Option<&str>, is_stale: bool| {
                        let is_lost = at == victim || origin == Some(NAMES[victim]);
                        is_stale == is_lost
                    };
                    all.values().all(|known| is_right(known.origin.as_deref(), known.is_stale)).then_some(())
                };
                wait_until("who is not heard is shown as such", STALE_DEADLINE, marked).await;
            }
        }
        pass(lasts.saturating_sub(begun.elapsed())).await;
        self.change(mesh).await;
        self.cut += begun.elapsed();
        mesh.mend();
    }

    async fn leaders_die(&mut self, mesh: &mut Mesh) {
        let receiver = self.random.random_range(1..mesh.clusters.len());
        mesh.part(0, receiver).await;
        mesh.name(0, receiver).await;
        let leader = mesh.clusters[receiver].leader().await;
        let node = &mesh.clusters[receiver].nodes[leader];
        let some = || async {
            let status = node.api.get("/api/federation").await.ok();
            let peer = status["peers"].as_array()?.iter().find(|peer| peer["name"] == NAMES[0])?.clone();
            peer["receiving"]["resync_received"].as_u64().filter(|count| *count > 0)
        };
        let so_far = wait_until("some are told anew", DEADLINE, some).await;
        assert!(so_far < u64::from(self.instances), "all were told before anybody died");
        for at in [0, receiver] {
            self.kill(mesh, at, true).await;
        }
        mesh.clusters[0].leader().await;
        self.change(mesh).await;
    }

    async fn nodes_die(&mut self, mesh: &mut Mesh) {
        for at in 0..mesh.clusters.len() {
            self.kill(mesh, at, false).await;
        }
        for at in 0..mesh.clusters.len() {
            mesh.clusters[at].leader().await;
        }
        self.change(mesh).await;
    }

    async fn kill(&mut self, mesh: &mut Mesh, at: usize, leader: bool) {
        let cluster = &mut mesh.clusters[at];
        let place = if leader {
            cluster.leader().await
        } else {
            let places: Vec<usize> = (0..cluster.nodes.len()).collect();
            *places.choose(&mut self.random).expect("a cluster has nodes")
        };
        cluster.nodes[place].kill9();
        self.kills += 1;
    }

    async fn sever(&mut self, mesh: &Mesh) {
        for _ in 0..20 {
            self.change(mesh).await;
            mesh.sever();
            pass(Duration::from_millis(self.random.random_range(0..500))).await;
        }
    }

    async fn freeze(&mut self, mesh: &Mesh) {
        let cluster = &mesh.clusters[self.random.random_range(0..mesh.clusters.len())];
        let leader = cluster.leader().await;
        cluster.nodes[leader].stop();
        pass(Duration::from_secs(self.random.random_range(2..15))).await;
        cluster.nodes[leader].cont();
        cluster.leader().await;
        mesh.clusters[0].ready().await;
        self.change(mesh).await;
    }
}

/// The instances of others' clients that a node knows, if it answers.
async fn busy(api: &Api) -> Option<Roll> {
    let mut all = listed(api, "include_federated=true&name=busy").await?;
    all.retain(|_, known| known.origin.is_some());
    Some(all)
}

impl fmt::Display for Storm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { happened, kills, cut, writes, changed, longest, .. } = self;
        let rounds: Vec<String> = happened.iter().map(|(fault, count)| format!("{fault:?} {count}")).collect();
        write!(
            f,
            "{}; {kills} kills, {cut:.0?} cut off, {changed} of the many changed, {writes} writes beside.\nWhile no node \
             was struck none of these failed, and the longest took {longest:.0?}.",
            rounds.join(", ")
        )
    }
}
