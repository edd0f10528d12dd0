//! One linearizable read at any of three nodes, while others write and leaders change.
//!
//! What a read needs, and when it may be answered, is the product's to say.

use std::time::Duration;

use rollcall_registry::Revision;
use rollcall_replica::Consistency;
use rollcall_replica::logic::Need;
use stateright::{Checker, Model, Property};

const NODES: usize = 3;

/// How far the model looks.
const WRITES_MAX: u64 = 3;
const TERMS_MAX: u64 = 3;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Policy {
    Kept,
    /// The read is answered as if it were confirmed.
    Skipped,
    /// Whoever believes to lead tells its index without asking a quorum.
    Unconfirmed,
    /// A confirmed read does not wait until its index is applied.
    Unapplied,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Read {
    NotAsked,
    /// It must show `floor`: so much was acknowledged when it began.
    Asked {
        node: usize,
        floor: u64,
    },
    Confirming {
        node: usize,
        floor: u64,
        leader: usize,
        term: u64,
        index: u64,
    },
    Indexed {
        node: usize,
        floor: u64,
        index: u64,
    },
    Answered {
        floor: u64,
        shown: u64,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct World {
    term: u64,
    leader: usize,
    /// Committed and acknowledged.
    written: u64,
    /// The term that each believes to lead, or 0; what it knows as committed; what it has applied.
    nodes: [(u64, u64, u64); NODES],
    read: Read,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Action {
    Write,
    /// A node hears of what is committed, and applies it.
    Learn(usize),
    Elect(usize),
    Ask(usize),
    /// The leader that the node knows of takes its index.
    Index(usize),
    Confirm,
    Answer,
}

struct Barrier(Policy);

const WANTED: Consistency = Consistency { linearizable: true, min_revision: None, max_staleness_ms: None };

impl Model for Barrier {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        let mut nodes = [(0, 0, 0); NODES];
        nodes[0].0 = 1;
        vec![World { term: 1, leader: 0, written: 0, nodes, read: Read::NotAsked }]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        if world.written < WRITES_MAX {
            actions.push(Action::Write);
        }
        if world.term < TERMS_MAX {
            actions.extend((0..NODES).map(Action::Elect));
        }
        actions.extend((0..NODES).map(Action::Learn));
        match world.read {
            Read::NotAsked => actions.extend((0..NODES).map(Action::Ask)),
            Read::Asked { .. } => {
                actions.extend((0..NODES).filter(|node| world.nodes[*node].0 > 0).map(Action::Index));
                actions.push(Action::Answer);
            }
            Read::Confirming { .. } => actions.push(Action::Confirm),
            Read::Indexed { .. } => actions.push(Action::Answer),
            Read::Answered { .. } => {}
        }
    }

    fn next_state(&self, last: &World, action: Action) -> Option<World> {
        let mut world = last.clone();
        match action {
            Action::Write => {
                world.written += 1;
                let leader = &mut world.nodes[world.leader];
                (leader.1, leader.2) = (world.written, world.written);
            }
            Action::Learn(node) => {
                world.nodes[node].1 = world.written;
                world.nodes[node].2 = world.written;
                // Whoever hears the leader follows.
                if node != world.leader {
                    world.nodes[node].0 = 0;
                }
            }
            Action::Elect(node) => {
                world.term += 1;
                world.leader = node;
                // It has everything that is committed, before its own first entry, and may have applied less.
                (world.nodes[node].0, world.nodes[node].1) = (world.term, world.written);
            }
            Action::Ask(node) => world.read = Read::Asked { node, floor: world.written },
            Action::Index(leader) => {
                let Read::Asked { node, floor } = world.read else { return None };
                let (term, index, _) = world.nodes[leader];
                world.read = match self.0 {
                    Policy::Unconfirmed => Read::Indexed { node, floor, index },
                    _ => Read::Confirming { node, floor, leader, term, index },
                };
            }
            Action::Confirm => {
                let Read::Confirming { node, floor, leader, term, index } = world.read else { return None };
                // A quorum answers only the leader that it follows.
                let confirmed = (leader, term) == (world.leader, world.term);
                world.read =
                    if confirmed { Read::Indexed { node, floor, index } } else { Read::Asked { node, floor } };
            }
            Action::Answer => {
                let (node, floor, confirmed) = match world.read {
                    Read::Asked { node, floor } => (node, floor, self.0 == Policy::Skipped),
                    Read::Indexed { node, floor, index } => {
                        let reached = world.nodes[node].2 >= index || self.0 == Policy::Unapplied;
                        (node, floor, reached)
                    }
                    _ => return None,
                };
                let shown = world.nodes[node].2;
                match WANTED.need(confirmed, Some(Duration::ZERO), Revision(shown)) {
                    Ok(Need::Nothing(_)) => world.read = Read::Answered { floor, shown },
                    Ok(Need::Confirmation | Need::Revision(_)) | Err(_) => return None,
                }
            }
        }
        (world != *last).then_some(world)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(
                "P8 a linearizable read shows what was acknowledged",
                |_, world: &World| !matches!(world.read, Read::Answered { floor, shown } if shown < floor),
            ),
            Property::sometimes("a read is answered after a change of leader", |_, world: &World| {
                matches!(world.read, Read::Answered { floor, .. } if floor > 0) && world.term > 1
            }),
        ]
    }
}

const BROKEN: &str = "P8 a linearizable read shows what was acknowledged";

#[test]
fn p8_holds_in_every_order_of_events() {
    let checker = Barrier(Policy::Kept).checker().spawn_bfs().join();
    checker.assert_properties();
    assert!(checker.unique_state_count() > 500, "only {} states were seen", checker.unique_state_count());
}

#[test]
fn a_barrier_that_is_skipped_or_halved_is_found() {
    for policy in [Policy::Skipped, Policy::Unconfirmed, Policy::Unapplied] {
        let checker = Barrier(policy).checker().spawn_bfs().join();
        assert!(checker.discovery(BROKEN).is_some(), "{policy:?} is not found");
    }
}
