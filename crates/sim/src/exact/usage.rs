//! How the world is used: agents and readers ask nodes, watchers follow them, and the witness hears what each was told.

use rollcall_registry::{ChangeKind, Command, Outcome, Revision};
use rollcall_replica::SubmitError;
use rollcall_replica::logic::{Answer, ProposeResponse, Request};

use super::clients::{self, Operation};
use super::member::{Who, Wire, was_renewed};
use super::raft::{MS, Node};
use super::reads::Told;
use super::rewrite::everything;
use super::world::{Event, Machine, World};

impl World {
    pub(crate) fn agent(&mut self, agent: usize) {
        if !self.troubled {
            return;
        }
        self.asked += 1;
        let (asked, now, nodes) = (self.asked, self.now, self.machines.len() as u64);
        let mut random = self.random.fork();
        let (operation, pause_ms) = self.agents[agent].next(agent, asked, &mut random, now);
        let node = (self.agents[agent].node - 1) % nodes + 1;
        self.operations.insert(asked, operation);
        if !random.permille(10) {
            self.schedule(now + random.between(50, 2 * MS), Event::Ask(node, asked));
        }
        if random.permille(20) {
            let late = random.between(1, 1_500) * MS;
            self.schedule(now + late, Event::HangUp(node, asked));
        }
        self.schedule(now + pause_ms * MS, Event::Agent(agent));
    }

    pub(crate) fn ask(&mut self, node: Node, asked: u64) {
        let Some(operation) = self.operations.get(&asked) else { return };
        if self.machines[node as usize - 1].member.is_none() {
            self.schedule(self.now + 200, Event::Hear(asked, Err(SubmitError::Stopping), 0));
            return;
        }
        let commands = vec![operation.command.clone()];
        let patience_ms = self.random.pick(&[300, 1_000, 3_000]);
        self.at(node, |member, now, witness| {
            member.submit(Request { commands, ..Request::default() }, Who::Client(asked), patience_ms);
            member.settle(now, witness);
        });
    }

    pub(crate) fn answered(&mut self, node: Node, who: Who, answer: Result<Answer, SubmitError>) {
        match who {
            Who::Client(asked) => {
                let (outcome, index) = match answer {
                    Ok(mut answer) => (Ok(answer.outcomes.remove(0)), answer.log_id.index()),
                    Err(error) => (Err(error), 0),
                };
                if index > 0 {
                    let copies = self.witness.position(index).map_or(0, |at| {
                        let disk = |machine: &Machine| match &machine.member {
                            Some(member) => member.raft.disk.keeps(at),
                            None => machine.disk.keeps(at),
                        };
                        self.machines.iter().filter(|machine| disk(machine)).count()
                    });
                    let quorum = self.machines.len() / 2 + 1;
                    let applied = self.machine(node).member.as_ref().map_or(0, |member| member.applied.index);
                    self.witness.acknowledged(node, index, applied, copies, quorum, self.now);
                }
                // Lost on its way back: the client never knows.
                if !self.random.permille(20) {
                    let late = self.random.between(50, MS);
                    self.schedule(self.now + late, Event::Hear(asked, outcome, index));
                }
            }
            Who::Peer(from, call) => {
                let leader = self.machine(node).member.as_ref().and_then(|member| member.raft.leader);
                let process = self.machine(node).member.as_ref().map_or(0, |member| member.process);
                self.send(node, process, from, Wire::Proposed(call, ProposeResponse::of_answer(answer, leader)));
            }
            Who::Pacer(_) => self.at(node, |member, now, witness| member.paced(&answer, now, witness)),
        }
    }

    pub(crate) fn hear(&mut self, asked: u64, answer: Result<Outcome, SubmitError>, index: u64) {
        let Some(operation) = self.operations.remove(&asked) else { return };
        let mut random = self.random.fork();
        self.agents[operation.agent].hears(&operation, answer.as_ref().map_err(|error| *error), &mut random);
        let Operation { command, sent_at, url, ttl_ms, .. } = operation;
        match (answer, command) {
            (Ok(outcome), Command::Register { .. }) => {
                let url = url.expect("a registration has a url");
                self.witness.registered(&url, &outcome, index, sent_at, ttl_ms);
            }
            (Ok(outcome), Command::Renew { tenant, leases }) => {
                let lease = leases.as_slice()[0];
                let renewed = was_renewed(&outcome, lease);
                self.witness.check_renewal(&tenant, lease, renewed, index);
                if renewed && ttl_ms > 0 {
                    self.witness.renewed(lease, index, sent_at, ttl_ms);
                }
            }
            (Ok(Outcome::Beaten(beaten)), _) => {
                self.witness.renewed(beaten.lease, index, sent_at, beaten.ttl_ms.into());
            }
            (Ok(_), _) => {}
            (Err(error), _) if error.may_have_been_applied() => self.witness.count("unknown"),
            (Err(_), _) => {
                if let Some(url) = url {
                    self.witness.refused(url);
                }
            }
        }
    }

    pub(crate) fn read(&mut self) {
        let pause = self.random.between(10, 120) * MS;
        self.schedule(self.now + pause, Event::Read);
        let node = self.random.between(1, self.machines.len() as u64);
        if self.machine(node).paused > 0 {
            return;
        }
        self.asked += 1;
        let (read, known, now) = (self.asked, self.witness.known(self.now), self.now);
        self.reads.insert(read, (known, now));
        let revision = Revision(self.witness.changes.len() as u64);
        let wanted = clients::read(&mut self.random, revision);
        self.at(node, |member, now, witness| {
            member.read(read, wanted, 2_000, now);
            member.settle(now, witness);
        });
    }

    pub(crate) fn read_told(&mut self, node: Node, told: Told) {
        let Some((known, _)) = self.reads.remove(&told.read) else { return };
        match told.answer {
            Err(_) => self.witness.count("reads refused"),
            Ok(_) if told.confirmed || told.wanted.linearizable => self.witness.read(node, known, told.applied),
            Ok(staleness_ms) => {
                let wanted = told.wanted;
                if wanted.min_revision.is_some_and(|least| told.revision < least)
                    || wanted.max_staleness_ms.is_some_and(|most| staleness_ms > most)
                {
                    self.witness.breaks("P8", format!("node {node} answers {wanted:?} with {told:?}"));
                }
                self.witness.read_locally(node, told.applied, told.revision, staleness_ms, self.now);
            }
        }
    }

    pub(crate) fn watch(&mut self, n: usize) {
        let pause = self.random.between(20, 200) * MS;
        self.schedule(self.now + pause, Event::Watch(n));
        let nodes = self.machines.len() as u64;
        if self.random.permille(100) {
            self.watchers[n].node = self.random.between(1, nodes);
        }
        let node = self.watchers[n].node;
        let moment = self.moment(node);
        let machine = &mut self.machines[node as usize - 1];
        let (Some(member), 0) = (&mut machine.member, machine.paused) else { return };
        let (watcher, witness) = (&mut self.watchers[n], &mut self.witness);
        // A node that is behind has it wait.
        if member.state.revision() < watcher.revision || member.staleness(moment).is_none() {
            return;
        }
        let told: Option<Vec<_>> = member.state.changes_after(watcher.revision).map(|changes| {
            let of = |instance: &rollcall_registry::Instance| (instance.key(), instance.lease);
            changes.map(|change| (change.revision, change.kind, of(change.instance()))).collect()
        });
        let Some(told) = told else {
            // Told that it must start over: the whole roll, and from there.
            witness.count("resyncs");
            watcher.revision = member.state.revision();
            let all = everything(&member.state).map(|view| (view.instance.key(), view.instance.lease));
            watcher.present = all.collect();
            watcher.synced = true;
            return;
        };
        for (revision, kind, (key, lease)) in told {
            let next = Revision(watcher.revision.0 + 1);
            let seen = witness.changes.get(watcher.revision.0 as usize);
            let right = revision == next
                && seen.is_some_and(|seen| seen.kind == kind && (&seen.key, seen.lease) == (&key, lease));
            if !right {
                let seen = seen.cloned();
                witness
                    .breaks("P9", format!("a watcher is told {kind:?} of {key:?} as {revision}, {seen:?} is {next}"));
                return;
            }
            witness.count("changes watched");
            watcher.revision = next;
            match kind {
                ChangeKind::Deregistered | ChangeKind::Expired => drop(watcher.present.remove(&key)),
                ChangeKind::Registered | ChangeKind::Updated | ChangeKind::StatusChanged => {
                    watcher.present.insert(key, lease);
                }
            }
        }
    }
}
