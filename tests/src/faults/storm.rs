//! Faults that a seed chooses: what, whom, when, and how many at once.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::disk::Flush;
use super::network::{Counts, Link};
use super::world::{Run, World};
use crate::wait::pass;

/// A node that was told to fail does so within this, as long as there is something to flush.
const END_DEADLINE: Duration = Duration::from_secs(40);

/// A broken network is met by a packet within this, if by any.
const FELT_DEADLINE: Duration = Duration::from_secs(3);

/// Writes that must succeed after a fault before the next one comes.
const PROGRESS: u64 = 20;

/// One kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    Kill,
    KillLeader,
    KillAll,
    /// Killed at one of the durable steps of a start, a checkpoint, an install or a purge.
    KillAtStep,
    HandOver,
    Freeze,
    FreezeLeader,
    PowerLoss,
    PowerLossOfAll,
    FailingFlush,
    Isolate,
    IsolateLeader,
    OneWay,
    Partial,
    Lossy,
    ClockJump,
    NoDescriptors,
}

impl Fault {
    pub const ALL: [Self; 17] = [
        Self::Kill,
        Self::KillLeader,
        Self::KillAll,
        Self::KillAtStep,
        Self::HandOver,
        Self::Freeze,
        Self::FreezeLeader,
        Self::PowerLoss,
        Self::PowerLossOfAll,
        Self::FailingFlush,
        Self::Isolate,
        Self::IsolateLeader,
        Self::OneWay,
        Self::Partial,
        Self::Lossy,
        Self::ClockJump,
        Self::NoDescriptors,
    ];

    /// Of the network: one at a time, with whatever else.
    pub fn is_of_network(self) -> bool {
        matches!(self, Self::Isolate | Self::IsolateLeader | Self::OneWay | Self::Partial | Self::Lossy)
    }

    /// Whether it takes all nodes at once.
    fn is_of_all(self) -> bool {
        matches!(self, Self::KillAll | Self::PowerLossOfAll)
    }

    fn wants_leader(self) -> bool {
        matches!(self, Self::KillLeader | Self::FreezeLeader | Self::IsolateLeader | Self::Partial)
    }
}

/// What really happened.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    pub faults: BTreeMap<Fault, u64>,
    /// Processes that were killed, with or without their disk's power.
    pub kills: u64,
    pub partitions: u64,
    /// Faults of the network that no packet met: they prove nothing and are counted apart.
    pub unfelt: u64,
    pub overlapping: u64,
    /// What a kill at a durable step interrupted.
    pub interrupted: BTreeMap<String, u64>,
    pub bytes_lost: u64,
    pub bytes_torn: u64,
    pub packets: Counts,
}

impl Tally {
    /// Takes another run's numbers in.
    pub fn add(&mut self, other: &Self) {
        for (fault, count) in &other.faults {
            *self.faults.entry(*fault).or_default() += count;
        }
        for (what, count) in &other.interrupted {
            *self.interrupted.entry(what.clone()).or_default() += count;
        }
        self.kills += other.kills;
        self.partitions += other.partitions;
        self.unfelt += other.unfelt;
        self.overlapping += other.overlapping;
        self.bytes_lost += other.bytes_lost;
        self.bytes_torn += other.bytes_torn;
        self.packets.cut += other.packets.cut;
        self.packets.lost += other.packets.lost;
        self.packets.delayed += other.packets.delayed;
        self.packets.overtaken += other.packets.overtaken;
        self.packets.delivered += other.packets.delivered;
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |f: &mut fmt::Formatter<'_>, rows: Vec<String>| writeln!(f, "  {}", rows.join(", "));
        writeln!(
            f,
            "{} kills, {} partitions ({} faults of the network met no packet), {} times several faults at once",
            self.kills, self.partitions, self.unfelt, self.overlapping
        )?;
        list(f, self.faults.iter().map(|(fault, count)| format!("{count} {fault:?}")).collect())?;
        writeln!(f, "kills at a durable step interrupted")?;
        list(f, self.interrupted.iter().map(|(what, count)| format!("{count} {what}")).collect())?;
        writeln!(f, "power losses took {} unflushed bytes and left {} torn", self.bytes_lost, self.bytes_torn)?;
        let Counts { delivered, cut, lost, delayed, overtaken } = self.packets;
        write!(f, "packets: {delivered} delivered, {cut} cut, {lost} lost, {delayed} delayed, {overtaken} overtaken")
    }
}

/// A fault that is in effect.
struct Struck {
    fault: Fault,
    nodes: Vec<usize>,
    before: Counts,
    /// Since when nobody ran, if it took all.
    since_us: Option<u64>,
}

/// Who strikes.
#[derive(Debug)]
pub struct Storm {
    random: SmallRng,
    kinds: Vec<Fault>,
    pub tally: Tally,
}

impl Storm {
    /// With these kinds of faults; those of the network are left out where there is none.
    pub fn new(seed: u64, kinds: &[Fault], world: &World) -> Self {
        let possible = |fault: &&Fault| world.network.is_some() || !fault.is_of_network();
        let kinds = kinds.iter().filter(possible).copied().collect();
        Self { random: SmallRng::seed_from_u64(seed), kinds, tally: Tally::default() }
    }

    /// Strikes until the time is over; each fault, or several at once, is healed and answered by progress before the next.
    ///
    /// # Panics
    /// When the cluster does not recover, or a node ends that was not told to.
    pub async fn rage(&mut self, world: &mut World, run: &Run, duration: Duration) {
        let end = Instant::now() + duration;
        while Instant::now() < end {
            let together = if self.random.random_bool(0.3) { self.random.random_range(2..=3) } else { 1 };
            self.strike_together(world, run, together).await;
        }
        self.tally.packets = world.network.as_ref().map(|network| network.counts()).unwrap_or_default();
    }

    /// Each kind once, in the order given.
    ///
    /// # Panics
    /// As [`Self::rage`].
    pub async fn each_once(&mut self, world: &mut World, run: &Run) {
        for fault in self.kinds.clone() {
            let nodes = self.choose_nodes(world, fault, &[]).await;
            let struck = self.strike(world, run, fault, nodes).await;
            self.hold().await;
            self.undo(world, run, struck).await;
            self.recover(world, run).await;
        }
        self.tally.packets = world.network.as_ref().map(|network| network.counts()).unwrap_or_default();
    }

    async fn strike_together(&mut self, world: &mut World, run: &Run, count: usize) {
        let mut struck: Vec<Struck> = Vec::new();
        for _ in 0..count {
            let taken: Vec<usize> =
                struck.iter().filter(|it| !it.fault.is_of_network()).flat_map(|it| it.nodes.clone()).collect();
            let network = struck.iter().any(|it| it.fault.is_of_network());
            let free = |fault: &&Fault| match fault.is_of_network() {
                true => !network,
                false => taken.is_empty() || (!fault.is_of_all() && taken.len() < world.count()),
            };
            let possible: Vec<Fault> = self.kinds.iter().filter(free).copied().collect();
            let Some(fault) = possible.choose(&mut self.random).copied() else { break };
            // A node without peers has nothing to flush, and would not end.
            if fault == Fault::FailingFlush && !struck.is_empty() {
                continue;
            }
            let nodes = self.choose_nodes(world, fault, &taken).await;
            let hit = self.strike(world, run, fault, nodes).await;
            struck.push(hit);
            if struck.len() < count {
                self.hold().await;
            }
        }
        self.tally.overlapping += u64::from(struck.len() > 1);
        self.hold().await;
        while !struck.is_empty() {
            let next = self.random.random_range(0..struck.len());
            let next = struck.swap_remove(next);
            self.undo(world, run, next).await;
        }
        self.recover(world, run).await;
    }

    async fn hold(&mut self) {
        pass(Duration::from_millis(self.random.random_range(100..1_800))).await;
    }

    async fn choose_nodes(&mut self, world: &World, fault: Fault, taken: &[usize]) -> Vec<usize> {
        // The network of a node may break whatever else befalls it.
        let is_free = |place: &usize| fault.is_of_network() || !taken.contains(place);
        let free: Vec<usize> = (0..world.count()).filter(is_free).collect();
        if fault.is_of_all() {
            return free;
        }
        let any = *free.choose(&mut self.random).expect("a node is free");
        // There may be none under another fault.
        let leader = if fault.wants_leader() && taken.is_empty() { world.cluster.leader().await } else { any };
        if matches!(fault, Fault::Kill | Fault::Isolate | Fault::PowerLoss) {
            // Often more than one, up to all of them but one.
            let most = (free.len() - 1).max(1);
            let count = self.random.random_range(1..=most);
            return free.choose_multiple(&mut self.random, count).copied().collect();
        }
        vec![leader]
    }

    async fn strike(&mut self, world: &mut World, run: &Run, fault: Fault, nodes: Vec<usize>) -> Struck {
        let before = world.network.as_ref().map(|network| network.counts()).unwrap_or_default();
        *self.tally.faults.entry(fault).or_default() += 1;
        match fault {
            Fault::Kill | Fault::KillLeader | Fault::KillAll => self.kill(world, &nodes),
            Fault::PowerLoss | Fault::PowerLossOfAll => {
                self.kill(world, &nodes);
                self.take_power(world, &nodes);
            }
            Fault::KillAtStep => {
                self.kill(world, &nodes);
                let step = self.random.random_range(1..80).to_string();
                let node = &mut world.cluster.nodes[nodes[0]];
                node.set_variable("ROLLCALL_POWER_LOSS_KILL_AT", Some(&step));
                node.start();
            }
            Fault::HandOver => nodes.iter().for_each(|place| world.cluster.nodes[*place].term()),
            Fault::Freeze | Fault::FreezeLeader => nodes.iter().for_each(|place| world.cluster.nodes[*place].stop()),
            Fault::FailingFlush => nodes.iter().for_each(|place| world.disks[*place].flush(Flush::Fails)),
            Fault::ClockJump => {
                let hours = self.random.random_range(-30..=30) * 3_600 + self.random.random_range(-3_600..=3_600);
                nodes.iter().for_each(|place| world.disks[*place].set_clock(hours));
            }
            Fault::NoDescriptors => self.take_descriptors(world, nodes[0]).await,
            Fault::Isolate | Fault::IsolateLeader | Fault::OneWay | Fault::Partial | Fault::Lossy => {
                self.break_network(world, fault, &nodes);
            }
        }
        let since_us = fault.is_of_all().then(|| run.ledger.now_us());
        Struck { fault, nodes, before, since_us }
    }

    fn kill(&mut self, world: &mut World, nodes: &[usize]) {
        for place in nodes {
            world.cluster.nodes[*place].kill9();
            self.tally.kills += 1;
        }
    }

    fn take_power(&mut self, world: &World, nodes: &[usize]) {
        for place in nodes {
            let (lost, torn) = world.disks[*place].lose_power(&mut self.random);
            self.tally.bytes_lost += lost;
            self.tally.bytes_torn += torn;
        }
    }

    /// Leaves the process hardly any file or connection beyond those that it has, and asks for more.
    async fn take_descriptors(&mut self, world: &World, place: usize) {
        const MORE: u64 = 4;
        let node = &world.cluster.nodes[place];
        let open = std::fs::read_dir(format!("/proc/{}/fd", node.pid())).map_or(64, Iterator::count) as u64;
        set_descriptors(node.pid(), open + MORE);
        let address = node.client_address();
        let asked = (0..MORE * 4).map(|_| {
            let address = address.clone();
            async move { tokio::time::timeout(Duration::from_secs(1), TcpStream::connect(address)).await }
        });
        // They are held for a moment, so that the process is out of descriptors for certain.
        let held = futures_util::future::join_all(asked).await;
        self.hold().await;
        drop(held);
    }

    fn break_network(&mut self, world: &World, fault: Fault, nodes: &[usize]) {
        let network = world.network.as_ref().expect("faults of the network are chosen where there is one");
        let cut = |is: bool| Link { cut: is, ..Link::default() };
        let inside = |place: usize| nodes.contains(&place);
        match fault {
            Fault::OneWay if self.random.random_bool(0.5) => network.set(|from, _| cut(inside(from))),
            Fault::OneWay => network.set(|_, to| cut(inside(to))),
            // The leader and one other do not see each other, and everybody else sees both.
            Fault::Partial => {
                let (one, other) = (nodes[0], (nodes[0] + 1) % world.count());
                network.set(|from, to| cut((from, to) == (one, other) || (from, to) == (other, one)));
            }
            Fault::Lossy => {
                let delay_ms_max = self.random.random_range(5..60);
                network.set(|_, _| Link { cut: false, lost_percent: 20, delay_ms_max });
            }
            _ => network.set(|from, to| cut(inside(from) != inside(to))),
        }
    }

    async fn undo(&mut self, world: &mut World, run: &Run, struck: Struck) {
        let Struck { fault, nodes, before, since_us } = struck;
        if let Some(since_us) = since_us {
            run.ledger.nobody_ran(since_us, run.ledger.now_us());
        }
        if fault.is_of_network() {
            let network = world.network.as_ref().expect("it was struck");
            // Two followers may have nothing to say to each other, and dead nodes have not.
            let end = Instant::now() + FELT_DEADLINE;
            let felt = loop {
                let now = network.counts();
                let hit = if fault == Fault::Lossy { now.lost - before.lost } else { now.cut - before.cut };
                if hit > 0 || Instant::now() >= end {
                    break hit > 0;
                }
                pass(Duration::from_millis(20)).await;
            };
            let count = if felt { &mut self.tally.partitions } else { &mut self.tally.unfelt };
            *count += u64::from(!felt || fault != Fault::Lossy);
            network.heal();
            return;
        }
        for place in nodes {
            self.undo_at(world, fault, place).await;
        }
    }

    async fn undo_at(&mut self, world: &mut World, fault: Fault, place: usize) {
        let node = &mut world.cluster.nodes[place];
        match fault {
            Fault::Kill | Fault::KillLeader | Fault::KillAll | Fault::PowerLoss | Fault::PowerLossOfAll => {
                node.start()
            }
            Fault::Freeze | Fault::FreezeLeader => node.cont(),
            Fault::HandOver => {
                let status = node.exit(END_DEADLINE).await;
                assert!(status.success(), "a node that was asked to end did so with {status}");
                node.start();
            }
            Fault::KillAtStep => {
                node.set_variable("ROLLCALL_POWER_LOSS_KILL_AT", None);
                let end = Instant::now() + Duration::from_secs(5);
                let ended = loop {
                    if node.ended().is_some() || Instant::now() >= end {
                        break !node.is_running();
                    }
                    pass(Duration::from_millis(20)).await;
                };
                if ended {
                    self.tally.kills += 1;
                    *self.tally.interrupted.entry(interrupted(&node.log())).or_default() += 1;
                } else {
                    // It takes fewer durable steps than that in so short a time.
                    node.kill9();
                    self.tally.kills += 1;
                }
                // Half of the time the power was gone, too.
                if self.random.random_bool(0.5) {
                    self.take_power(world, &[place]);
                }
                world.cluster.nodes[place].start();
            }
            Fault::FailingFlush => {
                let status = node.exit(END_DEADLINE).await;
                assert!(!status.success(), "P12: a node whose disk failed ended with {status}");
                world.disks[place].flush(Flush::Honest);
                self.take_power(world, &[place]);
                world.cluster.nodes[place].start();
            }
            Fault::NoDescriptors => {
                if let Some(status) = node.ended() {
                    // P12: it may need a file to go on; then it says so.
                    assert!(!status.success(), "a node without descriptors ended with {status}");
                    node.start();
                } else {
                    set_descriptors(node.pid(), 20_000);
                }
            }
            // The clock stays wrong until it jumps again.
            Fault::ClockJump => {}
            Fault::Isolate | Fault::IsolateLeader | Fault::OneWay | Fault::Partial | Fault::Lossy => {}
        }
    }

    /// Everybody runs, and writes are acknowledged again.
    async fn recover(&mut self, world: &mut World, run: &Run) {
        for (place, node) in world.cluster.nodes.iter_mut().enumerate() {
            if let Some(status) = node.ended() {
                panic!("node {} ended by itself with {status}", place + 1);
            }
        }
        run.progress(PROGRESS).await;
        // Now and then the next fault does not wait until everybody is back.
        if self.random.random_bool(0.7) {
            world.cluster.ready().await;
        }
    }
}

/// The soft limit of a running process; the hard one stays, so that it can be raised again.
fn set_descriptors(pid: u32, count: u64) {
    let pid = Pid::from_raw(pid.cast_signed());
    let maximum = rustix::process::getrlimit(Resource::Nofile).maximum;
    let limit = Rlimit { current: Some(count.min(maximum.unwrap_or(count))), maximum };
    prlimit(pid, Resource::Nofile, limit).expect("a child's limits can be set");
}

/// What the last kill at a durable step interrupted: the step, and where below the data directory.
fn interrupted(log: &str) -> String {
    let told = log.lines().rev().find_map(|line| line.split_once("power_loss: killed at step "));
    let Some((_, told)) = told else { return "nothing that is known".to_owned() };
    let (_, step) = told.split_once(": ").unwrap_or_default();
    let (what, path) = step.split_once(" /").unwrap_or_default();
    let below = path.split("/data/").nth(1).unwrap_or("(root)");
    let kind = |name: &str| match name {
        name if name.ends_with(".log") => "write-ahead log",
        name if name.ends_with(".sst") => "table",
        name if name.starts_with("MANIFEST") => "manifest",
        name if name.ends_with(".dbtmp") || name == "CURRENT" => "current",
        "IDENTITY" | "IDENTITY.tmp" => "identity",
        name if name.starts_with("OPTIONS") => "options",
        _ => "directory or other",
    };
    let area = below.split('/').next().unwrap_or_default();
    let name = below.rsplit('/').next().unwrap_or_default();
    format!("{what} {} ({})", area, kind(name))
}
