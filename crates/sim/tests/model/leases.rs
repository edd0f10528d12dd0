//! One instance, its holders, and two nodes of which each may believe that it leads.
//!
//! Within the bounds everything is tried: a leader that stands still for any time, wakes and goes on; one that was deposed
//! and does not know; an election that keeps what the leader before had not committed, or drops it; renewals that come
//! late, to whichever node takes them; a second holder that replaces the first while the first goes on.
//!
//! The clocks, what starts them, what paces an expiry and what applies it are the product's.

use std::io::Write as _;
use std::time::Duration;

use rollcall_registry::{
    ClusterTime, Command, Condition, InstanceId, LeaseId, LeaseSet, Options, Outcome, Proposal, Registration,
    ServiceName, State, TenantId, Term, WallTime,
};
use rollcall_replica::logic::{ClockOptions, Tenure, Told, expiry};
use stateright::{Checker, HasDiscoveries, Model, Property};
use tokio::time::Instant;

/// The world's time goes in such steps: what a leader may be away without being deposed.
const UNIT_MS: u64 = 400;
/// In units.
const GRACE: u64 = 2;
const TTL: u64 = 2;

/// How far the model looks.
#[derive(Clone, Copy, Debug)]
struct Bounds {
    time: u64,
    elections: u64,
    renewals: usize,
    /// Events in one history.
    events: usize,
}

const BOUNDS: Bounds = Bounds { time: 4, elections: 1, renewals: 1, events: 9 };

/// With `ROLLCALL_SIM_MODEL=long`: some minutes.
const BOUNDS_LONG: Bounds = Bounds { time: 5, elections: 1, renewals: 1, events: 12 };

fn bounds() -> Bounds {
    if std::env::var_os("ROLLCALL_SIM_MODEL").is_some_and(|form| form == "long") { BOUNDS_LONG } else { BOUNDS }
}

/// Which rules are kept.
#[derive(Clone, Copy, Debug)]
struct Policy {
    /// A step of the clock is capped.
    step_cap: bool,
    /// What applies an expiry looks again.
    recheck: bool,
    /// An older lease of the id renews nothing.
    incarnation: bool,
}

const KEPT: Policy = Policy { step_cap: true, recheck: true, incarnation: true };

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum What {
    Blank,
    /// A holder's registration; each has content of its own.
    Register {
        holder: u64,
    },
    /// By a holder, of the lease that it was granted.
    Renew {
        holder: u64,
        sent_at: u64,
    },
    /// `watched` is for how long the leader had been there without a break when it proposed this.
    Expire {
        up_to: u64,
        watched: u64,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Item {
    term: u64,
    stamp: u64,
    born: u64,
    what: What,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Node {
    /// It believes to lead this term; 0 where it follows.
    term: u64,
    tenure: Tenure<u64>,
    told: Option<Told<u64>>,
    /// Appended and not committed.
    tail: Vec<Item>,
    /// How much of what is committed it has applied.
    applied: usize,
    /// When a quorum last answered it.
    acked_at: Option<u64>,
    /// When it last looked, and since when without a break.
    looked_at: u64,
    watches_since: u64,
}

/// A request that was sent and reached nobody yet.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Sent {
    Register { holder: u64 },
    Renew { holder: u64, sent_at: u64 },
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct World {
    time: u64,
    term: u64,
    /// Whom the majority follows.
    leader: usize,
    nodes: [Node; 2],
    committed: Vec<Item>,
    sent: Vec<Sent>,
    renewals: usize,
    holders: u64,
    verdict: Verdict,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Verdict {
    /// A lease lapsed sooner than its time after a renewal was sent that took effect.
    early: bool,
    /// A lease lapsed by a leader that had not been there for long enough for agents to find it.
    unwatched: bool,
    /// The holder of an older lease renewed.
    superseded_renewed: bool,
    lapsed: bool,
    superseded_refused: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Action {
    Pass,
    Elect {
        node: usize,
        keeps_tail: bool,
    },
    /// A node that believes to lead reads its clock, and proposes what is due.
    Look(usize),
    Commit,
    /// The leader's clock reaches the other node along with an append.
    Tell,
    Renew {
        holder: u64,
    },
    Replace,
    Receive {
        node: usize,
        sent: usize,
    },
}

struct Leases {
    policy: Policy,
    bounds: Bounds,
    epoch: Instant,
}

fn tenant() -> TenantId {
    TenantId::parse("t").unwrap()
}

fn id() -> InstanceId {
    InstanceId::parse("i").unwrap()
}

impl Leases {
    fn new(policy: Policy) -> Self {
        Self { policy, bounds: bounds(), epoch: Instant::now() + Duration::from_secs(1_000) }
    }

    fn instant(&self, time: u64) -> Instant {
        self.epoch + Duration::from_millis(time * UNIT_MS)
    }

    fn clock_options(&self) -> ClockOptions {
        let step_max = if self.policy.step_cap { UNIT_MS } else { UNIT_MS * 100 };
        ClockOptions { step_max: Duration::from_millis(step_max), grace: Duration::from_millis(GRACE * UNIT_MS) }
    }

    fn command(&self, item: &Item, leases: &[Option<LeaseId>]) -> Option<Command> {
        Some(match item.what {
            What::Blank => return None,
            What::Register { holder } => {
                let url = format!("http://{holder}");
                let name = ServiceName::parse("web").unwrap();
                let ttl_ms = u32::try_from(TTL * UNIT_MS).unwrap();
                let registration = Registration::new(id(), name, &url, ttl_ms).pack();
                Command::Register { tenant: tenant(), registration, condition: Condition::None }
            }
            What::Renew { holder, .. } if self.policy.incarnation => {
                let leases = leases[holder as usize].into_iter().collect();
                Command::Renew { tenant: tenant(), leases: LeaseSet::new(leases) }
            }
            What::Renew { .. } => {
                Command::Beat { tenant: tenant(), id: id(), lease: None, status: None, metadata: None }
            }
            What::Expire { up_to, .. } if self.policy.recheck => {
                Command::Expire { term: Term(item.term), up_to: ClusterTime(up_to), limit: 10 }
            }
            What::Expire { .. } => {
                Command::Deregister { tenant: tenant(), id: id(), lease: None, condition: Condition::None }
            }
        })
    }

    /// Applies a log, and judges it by the plainest book there is: who holds the instance, and what was sent when.
    fn replay(&self, log: &[Item]) -> (State, Verdict) {
        let mut state = State::new(Options::default());
        let mut verdict = Verdict::default();
        let mut leases = vec![None; 3];
        // Who holds the instance, and when the last renewal or registration of that holder was sent that took effect.
        let mut held: Option<(u64, u64)> = None;
        for item in log {
            let Some(command) = self.command(item, &leases) else { continue };
            let is_known = !matches!(&command, Command::Renew { leases, .. } if leases.as_slice().is_empty());
            let proposal = Proposal {
                stamp: ClusterTime(item.stamp),
                wall: WallTime(0),
                commands: vec![command],
                once: Vec::new(),
            };
            let was_there = !state.is_empty();
            let outcomes = state.apply(Term(item.term), &proposal);
            let took_effect = match &outcomes[0] {
                Outcome::Renewed { not_found, superseded } => {
                    is_known && not_found.as_slice().is_empty() && superseded.as_slice().is_empty()
                }
                Outcome::Refused(_) => false,
                _ => true,
            };
            match item.what {
                What::Register { holder } => {
                    if let Outcome::Registered(registered) = &outcomes[0] {
                        leases[holder as usize] = Some(registered.lease);
                        held = Some((holder, item.born));
                    }
                }
                What::Renew { holder, sent_at } => match held {
                    Some((by, last)) if by == holder && took_effect => held = Some((by, last.max(sent_at))),
                    _ if took_effect => verdict.superseded_renewed = true,
                    _ => verdict.superseded_refused |= is_known,
                },
                What::Expire { watched, .. } if was_there && state.is_empty() => {
                    verdict.lapsed = true;
                    verdict.unwatched |= watched < GRACE;
                    verdict.early |= held.take().is_some_and(|(_, last)| item.born < last + TTL);
                }
                What::Expire { .. } | What::Blank => {}
            }
        }
        (state, verdict)
    }

    /// Reads a node's clock as its member would.
    fn look(&self, world: &mut World, node: usize) -> Option<(u64, bool)> {
        let (now, leads) = (world.time, world.leader == node);
        let state = self.replay(&world.committed[..world.nodes[node].applied]).0;
        let applied_by = world.nodes[node].applied.checked_sub(1).map(|last| world.committed[last].term);
        let (options, at) = (self.clock_options(), self.instant(now));
        let Node { term, tenure, told, acked_at, looked_at, watches_since, .. } = &mut world.nodes[node];
        if !tenure.is_of(*term) {
            if !tenure.begin(*term, applied_by, options, state.now(), *told, at) {
                return None;
            }
            (*looked_at, *watches_since) = (now, now);
        }
        if leads {
            *acked_at = Some(now);
        }
        if now - *looked_at > 1 {
            *watches_since = now;
        }
        // Longer than the grace is long enough: states that differ in nothing else are one.
        *watches_since = (*watches_since).max(now.saturating_sub(GRACE));
        *looked_at = now;
        let acked_at = acked_at.map(|acked| self.instant(acked));
        tenure.read(at, acked_at).map(|(clock, may_expire)| (clock.0, may_expire))
    }
}

impl Model for Leases {
    type State = World;
    type Action = Action;

    /// One holder is registered, and its leader leads.
    fn init_states(&self) -> Vec<World> {
        let item = |what| Item { term: 1, stamp: 0, born: 0, what };
        let committed = vec![item(What::Blank), item(What::Register { holder: 0 })];
        let leader = Node { term: 1, applied: 2, acked_at: Some(0), ..Node::default() };
        vec![World {
            time: 0,
            term: 1,
            leader: 0,
            nodes: [leader, Node::default()],
            committed,
            sent: Vec::new(),
            renewals: 0,
            holders: 1,
            verdict: Verdict::default(),
        }]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        if world.time < self.bounds.time {
            actions.push(Action::Pass);
        }
        if world.term <= self.bounds.elections {
            for node in 0..2 {
                let tail = !world.nodes[world.leader].tail.is_empty();
                actions.push(Action::Elect { node, keeps_tail: false });
                if tail {
                    actions.push(Action::Elect { node, keeps_tail: true });
                }
            }
        }
        for node in (0..2).filter(|node| world.nodes[*node].term > 0) {
            actions.push(Action::Look(node));
            actions.extend((0..world.sent.len()).map(|sent| Action::Receive { node, sent }));
        }
        if !world.nodes[world.leader].tail.is_empty() {
            actions.push(Action::Commit);
        }
        actions.push(Action::Tell);
        if world.renewals < self.bounds.renewals {
            actions.extend((0..world.holders).map(|holder| Action::Renew { holder }));
        }
        if world.holders < 2 {
            actions.push(Action::Replace);
        }
    }

    fn next_state(&self, last: &World, action: Action) -> Option<World> {
        let mut world = last.clone();
        match action {
            Action::Pass => {
                world.time += 1;
                let long_ago = world.time.saturating_sub(3);
                for node in &mut world.nodes {
                    node.acked_at = node.acked_at.map(|acked| acked.max(long_ago));
                    node.looked_at = if node.term > 0 { node.looked_at.max(long_ago) } else { 0 };
                }
            }
            Action::Elect { node, keeps_tail } => {
                let tail = std::mem::take(&mut world.nodes[world.leader].tail);
                if node != world.leader {
                    // The one before knows nothing of it, and its tail is its own affair from now on.
                    world.nodes[world.leader].tail.clone_from(&tail);
                }
                world.term += 1;
                world.leader = node;
                let known = world.committed.len();
                let node = &mut world.nodes[node];
                (node.term, node.applied, node.acked_at) = (world.term, known, None);
                node.tenure.end();
                node.tail = if keeps_tail { tail } else { Vec::new() };
                node.tail.push(Item { term: world.term, stamp: 0, born: 0, what: What::Blank });
            }
            Action::Look(node) => {
                let lead = self.look(&mut world, node);
                if let Some((clock, may_expire)) = lead {
                    let (term, born) = (world.nodes[node].term, world.time);
                    let mut state = self.replay(&world.committed[..world.nodes[node].applied]).0;
                    let request = expiry(Term(term), ClusterTime(clock), may_expire, |by| state.next_due_by(by));
                    let watched = born - world.nodes[node].watches_since;
                    let tail = &mut world.nodes[node].tail;
                    let pending = tail.iter().any(|item| matches!(item.what, What::Expire { .. }));
                    if request.is_some() && !pending {
                        let what = What::Expire { up_to: clock, watched };
                        tail.push(Item { term, stamp: clock, born, what });
                    }
                }
            }
            Action::Commit => {
                let tail = std::mem::take(&mut world.nodes[world.leader].tail);
                world.committed.extend(tail);
                world.nodes[world.leader].applied = world.committed.len();
                world.verdict = self.replay(&world.committed).1;
            }
            Action::Tell => {
                let leader = world.leader;
                let clock = self.look(&mut world, leader).map(|(clock, _)| ClusterTime(clock));
                let (term, at) = (world.term, self.epoch);
                let other = &mut world.nodes[1 - world.leader];
                // Whoever accepts an append follows. When it was told decides nothing.
                let told = Told::hear(other.told, term, clock, at);
                *other = Node { told, ..Node::default() };
            }
            Action::Renew { holder } => {
                world.renewals += 1;
                world.sent.push(Sent::Renew { holder, sent_at: world.time });
                world.sent.sort();
            }
            Action::Replace => {
                world.sent.push(Sent::Register { holder: world.holders });
                world.holders += 1;
                world.sent.sort();
            }
            Action::Receive { node, sent } => {
                let (clock, _) = self.look(&mut world, node)?;
                let what = match world.sent.remove(sent) {
                    Sent::Register { holder } => What::Register { holder },
                    Sent::Renew { holder, sent_at } => What::Renew { holder, sent_at },
                };
                // When a renewal was taken decides nothing, but when it was sent.
                let born = if matches!(what, What::Register { .. }) { world.time } else { 0 };
                let term = world.nodes[node].term;
                world.nodes[node].tail.push(Item { term, stamp: clock, born, what });
            }
        }
        (world != *last).then_some(world)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("P3 no early expiry", |_, world: &World| !world.verdict.early),
            Property::always("P5 nobody expires by an absence", |_, world: &World| !world.verdict.unwatched),
            Property::always("P7 no renewal by a superseded holder", |_, world: &World| {
                !world.verdict.superseded_renewed
            }),
            Property::sometimes("a lease lapses", |_, world: &World| world.verdict.lapsed),
            Property::sometimes("a superseded holder is refused", |_, world: &World| {
                world.verdict.superseded_refused
            }),
        ]
    }
}

/// Looks until a promise is found to be broken.
fn found(policy: Policy) -> Vec<&'static str> {
    let broken = HasDiscoveries::AnyFailures;
    let checker = Leases::new(policy).checker().finish_when(broken).spawn_bfs().join();
    let promises = checker.discoveries().into_keys().filter(|name| name.starts_with('P'));
    promises.collect()
}

#[test]
fn p3_p5_p7_hold_in_every_order_of_events() {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let checker = Leases::new(KEPT).checker().threads(threads).target_max_depth(bounds().events).spawn_bfs().join();
    // Names the shortest way to whatever is broken.
    checker.assert_properties();
    let seen = checker.unique_state_count();
    writeln!(std::io::stderr(), "{seen} states").expect("stderr is open");
    assert!(seen > 10_000, "only {seen} states were seen");
}

#[test]
fn an_uncapped_step_is_found() {
    let found = found(Policy { step_cap: false, ..KEPT });
    assert!(found.contains(&"P5 nobody expires by an absence"), "{found:?}");
}

#[test]
fn an_expiry_that_is_not_checked_again_is_found() {
    let found = found(Policy { recheck: false, ..KEPT });
    assert!(found.contains(&"P3 no early expiry"), "{found:?}");
}

#[test]
fn a_forgotten_incarnation_is_found() {
    let found = found(Policy { incarnation: false, ..KEPT });
    assert!(found.contains(&"P7 no renewal by a superseded holder"), "{found:?}");
}
