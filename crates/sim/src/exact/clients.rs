//! Who uses the roll: agents that register, renew, replace each other and fall silent, readers, and watchers that follow
//! the changes across nodes.

use std::collections::BTreeMap;

use rollcall_registry::state::InstanceKey;
use rollcall_registry::{
    Command, Condition, InstanceId, LeaseId, LeaseSet, Metadata, MetadataValue, Outcome, Protection, Registration,
    Revision, RulingChange, ServiceName, Status,
};
use rollcall_replica::{Consistency, SubmitError};

use super::raft::Node;
use super::rewrite::{TENANTS, tenant};
use crate::random::Random;

/// Fewer ids than agents: they get in each other's way.
const IDS: &[&str] = &["a", "b", "c", "d", "e"];

pub(crate) const AGENTS: u64 = 8;

/// What an agent asked for, and when.
#[derive(Clone, Debug)]
pub(crate) struct Operation {
    pub agent: usize,
    pub command: Command,
    pub sent_at: u64,
    /// The registration's, if it is one.
    pub url: Option<String>,
    /// Of the lease that it renews; 0 if that is not its own.
    pub ttl_ms: u64,
}

#[derive(Debug)]
pub(crate) struct Agent {
    tenant: &'static str,
    id: &'static str,
    ttl_ms: u32,
    reap_after_ms: u32,
    pub lease: Option<LeaseId>,
    /// A lease that it held once.
    former: Option<LeaseId>,
    pub node: Node,
}

fn id(id: &str) -> InstanceId {
    InstanceId::parse(id).expect("a plain name")
}

/// What an operator says of the tenant's leases. Whoever is held is released within what silence is waited for at the end.
fn protection(random: &mut Random) -> RulingChange {
    if random.permille(200) {
        return RulingChange::Release;
    }
    let parts = [random.pick(&[200, 500]), random.pick(&[1_000, 4_000]), random.pick(&[60, 240]), 2];
    let protection = Protection::try_from(parts).expect("within bounds");
    RulingChange::Protection((!random.permille(300)).then_some(protection))
}

impl Agent {
    pub(crate) fn new(random: &mut Random, nodes: u64) -> Self {
        Self {
            tenant: random.pick(TENANTS),
            id: random.pick(IDS),
            ttl_ms: random.pick(&[1_000, 1_500, 3_000]),
            reap_after_ms: random.pick(&[0, 0, 1_000]),
            lease: None,
            former: None,
            node: random.between(1, nodes),
        }
    }

    /// What it asks for now, and how long it waits afterwards.
    pub(crate) fn next(&mut self, agent: usize, number: u64, random: &mut Random, sent_at: u64) -> (Operation, u64) {
        let beat_ms = u64::from(self.ttl_ms) / 3;
        let tenant = tenant(self.tenant);
        let (mut url, mut ttl_ms) = (None, u64::from(self.ttl_ms));
        let (command, pause_ms) = match (self.lease, random.below(40)) {
            (Some(_), 0) => {
                // The other tenant's lease, or one that is long over, or one that never was.
                let lease = self.former.unwrap_or(LeaseId(random.below(40)));
                ttl_ms = 0;
                (Command::Renew { tenant, leases: LeaseSet::new(vec![lease]) }, beat_ms)
            }
            (Some(lease), 1..=3) => {
                let lease = if random.permille(300) { self.former.or(Some(lease)) } else { Some(lease) };
                let status = random.permille(500).then_some(Status::Degraded);
                let text = number.to_string();
                let metadata =
                    random.permille(500).then(|| Metadata::new([("beat", MetadataValue::Text(text.as_str()))]));
                (Command::Beat { tenant, id: id(self.id), lease, status, metadata }, beat_ms)
            }
            (Some(lease), 4) => {
                let lease = random.permille(500).then_some(self.former.unwrap_or(lease));
                (Command::Deregister { tenant, id: id(self.id), lease, condition: Condition::None }, beat_ms)
            }
            (Some(_), 5) => (Command::Rule { tenant, change: protection(random) }, beat_ms),
            (Some(lease), 7..) => (Command::Renew { tenant, leases: LeaseSet::new(vec![lease]) }, beat_ms),
            (None, _) | (Some(_), _) => {
                let unique = format!("http://{agent}/{number}");
                let name = ServiceName::parse("web").expect("a plain name");
                let registration = Registration {
                    reap_after_ms: self.reap_after_ms,
                    ..Registration::new(id(self.id), name, &unique, self.ttl_ms)
                };
                url = Some(unique);
                let condition = random.pick(&[Condition::None, Condition::None, Condition::Absent]);
                (Command::Register { tenant, registration: registration.pack(), condition }, beat_ms)
            }
        };
        // Now and then an agent falls silent for longer than its lease.
        let silent_ms = if random.permille(60) { u64::from(self.ttl_ms) * 2 } else { 0 };
        let pause_ms = random.between(pause_ms / 2, pause_ms) + silent_ms;
        (Operation { agent, command, sent_at, url, ttl_ms }, pause_ms)
    }

    /// What it makes of an answer.
    pub(crate) fn hears(
        &mut self,
        operation: &Operation,
        outcome: Result<&Outcome, SubmitError>,
        random: &mut Random,
    ) {
        let Ok(outcome) = outcome else {
            self.node = random.below(5) + 1;
            return;
        };
        match (outcome, &operation.command) {
            (Outcome::Registered(registered), _) => {
                self.former = self.lease.or(self.former);
                self.lease = Some(registered.lease);
            }
            (Outcome::Renewed { not_found, superseded }, Command::Renew { leases, .. }) => {
                let own = self.lease.filter(|lease| leases.contains(*lease));
                if own.is_some_and(|lease| not_found.contains(lease) || superseded.contains(lease)) {
                    self.lose();
                }
            }
            (Outcome::Deregistered { .. }, _) => self.lose(),
            _ => {}
        }
    }

    fn lose(&mut self) {
        self.former = self.lease.take().or(self.former);
    }
}

/// What a reader asks for.
pub(crate) fn read(random: &mut Random, revision: Revision) -> Consistency {
    let mut wanted = Consistency::default();
    match random.below(8) {
        0..=2 => wanted.linearizable = true,
        3 => wanted.min_revision = Some(Revision(revision.0.saturating_sub(random.below(3)))),
        4 => wanted.max_staleness_ms = Some(random.below(400)),
        _ => {}
    }
    wanted
}

/// Somebody who follows the changes.
#[derive(Debug)]
pub(crate) struct Watcher {
    pub node: Node,
    pub revision: Revision,
    /// Who is on the roll, by what was told.
    pub present: BTreeMap<InstanceKey, LeaseId>,
    /// Whether it has begun with a snapshot.
    pub synced: bool,
}
