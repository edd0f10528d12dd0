//! Takes batches from the queue and brings them into the log: as one entry where this node leads, as one request to the
//! leader where it follows, and not at all until there is a leader.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::FusedFuture;
use openraft::errors::ClientWriteError;
use openraft::impls::ProgressResponder;
use openraft::raft::AppendEntriesRequest;
use rollcall_registry::{Command, Origin, Proposal, Write};
use rollcall_storage::{LogId, NodeId, NodeLog, Payload, StoreFailure, Stores, Vote};
use tokio::time::Instant;
use tracing::Instrument;

use crate::core::{Core, Leading, wall};
use crate::merged::Commands;
use crate::message::{ProposeRequest, ProposeResponse};
use crate::passage::{Attempt, Next, Passage, Step};
use crate::peer::{PeerRoute, Sent};
use crate::proposer::{Answer, COMPANY_MIN, Course, Pace, Pending, Waiting};
use crate::trace;

/// How long a follower waits for the leader's answer to a batch. The senders' own deadlines are shorter or equal.
const FORWARD_TIMEOUT: Duration = Duration::from_secs(60);

/// The number of this process, by which the state machine orders the batches of all the node's processes. A directory
/// that a restore made has not counted those whose batches are in the backup. Blocks.
pub(crate) fn count_start<L: NodeLog>(opened: &Stores<L>, node_id: NodeId) -> Result<u64, StoreFailure> {
    let least = opened.roll.read(|state| state.last_start(node_id));
    opened.log.count_start(least)
}

/// `start` is what [`count_start`] told.
pub(crate) async fn drive(core: Arc<Core>, mut waiting: Waiting, start: u64) {
    let mut origin = Origin { node: core.node_id, start, batch: 0 };
    let mut pace = Pace { requests: 0, took: Duration::ZERO, answered_at: Instant::now() };
    loop {
        let batch = tokio::select! {
            () = core.stop.cancelled() => break,
            batch = waiting.next_batch(pace) => batch,
        };
        let Some(batch) = batch else { break };
        origin.batch += 1;
        let (requests, begun) = (batch.len(), Instant::now());
        let span = trace::of_batch(core.options.trace, &batch, origin.batch);
        tokio::select! {
            () = core.stop.cancelled() => break,
            () = bring(&core, batch, origin).instrument(span) => {}
        }
        pace = Pace { requests, took: begun.elapsed(), answered_at: Instant::now() };
    }
    waiting.close();
}

/// A batch at the beginning of its way.
#[derive(Clone, Copy)]
struct Begun {
    batch: u64,
    taken_at: Instant,
}

impl Begun {
    fn decided(self) -> Course {
        Course { batch: self.batch, taken_at: self.taken_at, decided_at: Instant::now() }
    }
}

async fn bring(core: &Arc<Core>, batch: Vec<Pending>, origin: Origin) {
    let mut passage = Passage::new(batch, origin);
    let begun = Begun { batch: origin.batch, taken_at: Instant::now() };
    loop {
        let seen_leader = core.current_leader();
        let lead = core.lead();
        let attempt = match (passage.step(core.node_id, lead.is_some(), seen_leader), lead) {
            (Step::Over, _) => return,
            (Step::Propose(commands), Some(lead)) => Some(propose(core, lead, commands, begun).await),
            (Step::Forward(leader, commands), _) => Some(forward(core, leader, commands, begun).await),
            (Step::Propose(_) | Step::Wait, _) => None,
        };
        match attempt.map(|attempt| passage.came_to(attempt)) {
            Some(Next::Over) => return,
            Some(Next::Deliver(delivery)) if core.roll.applied_index() >= delivery.index() => {
                return delivery.deliver();
            }
            Some(Next::Deliver(delivery)) => {
                // Applied at the leader, but not here yet. The next batch does not wait for that.
                let core = core.clone();
                tokio::spawn(async move {
                    // Told and not waited for: it is answered after a flush here, which nobody needs who is answered.
                    let mut told = pin!(learn_committed(&core, delivery.log_id()).fuse());
                    let applied = core.wait_applied(delivery.index(), Instant::now() + FORWARD_TIMEOUT);
                    let mut applied = pin!(applied);
                    loop {
                        tokio::select! {
                            biased;
                            () = core.stop.cancelled() => break,
                            () = &mut told, if !told.is_terminated() => {}
                            _ = &mut applied => break,
                        }
                    }
                    delivery.deliver();
                });
                return;
            }
            Some(Next::Retry) | None => core.before_retry(seen_leader).await,
        }
    }
}

/// How many commands an entry is to those who sent them: renewals were merged.
fn count((commands, once): &Commands) -> u64 {
    let counts = commands.iter().chain(once.iter().flat_map(|once| &once.commands)).map(|command| match command {
        Command::Renew { leases, .. } | Command::By { write: Write::Renew { leases }, .. } => {
            leases.as_slice().len() as u64
        }
        Command::Register { .. }
        | Command::Beat { .. }
        | Command::Deregister { .. }
        | Command::Expire { .. }
        | Command::JoinToken(_)
        | Command::Define { .. }
        | Command::AccessToken(_)
        | Command::By { .. }
        | Command::Rule { .. }
        | Command::Observe { .. }
        | Command::RegisterSigned { .. }
        | Command::DeregisterSigned { .. }
        | Command::Signatures(_)
        | Command::Federation(_)
        | Command::Unchecked { .. } => 1,
    });
    counts.sum()
}

async fn propose(core: &Core, lead: Leading, commands: Commands, begun: Begun) -> Attempt {
    let (meters, proposed_at) = (&core.meters, Instant::now());
    let size = count(&commands);
    core.network.set_crowd(size >= COMPANY_MIN as u64);
    let (commands, once) = commands;
    let payload = Payload::new(Proposal { stamp: lead.now, wall: wall(), commands, once });
    let (responder, answer) = ProgressResponder::complete_only();
    // Pinned to this leadership: an entry stamped by its clock must not enter the log of another.
    if core.raft.write(payload).with_leader(lead.leader).responder(responder).await.is_err() {
        return Attempt::NotProposed;
    }
    match answer.await {
        Ok(Ok(applied)) => {
            let (log_id, course) = (applied.log_id, begun.decided());
            meters.entry_commands.observe(size);
            meters.commit.observe_duration(course.decided_at - proposed_at);
            Attempt::Done(Answer {
                outcomes: applied.response().outcomes.clone(),
                revision: applied.response().revision,
                log_id,
                course,
            })
        }
        Ok(Err(ClientWriteError::ForwardToLeader(_))) => Attempt::NotProposed,
        Ok(Err(_)) | Err(_) => Attempt::Unknown,
    }
}

async fn forward(core: &Core, leader: NodeId, commands: Commands, begun: Begun) -> Attempt {
    let span = trace::of_forward(core.options.trace, leader);
    forward_traced(core, leader, commands, begun).instrument(span).await
}

async fn forward_traced(core: &Core, leader: NodeId, (commands, once): Commands, begun: Begun) -> Attempt {
    let Some(address) = core.peer_address(leader) else { return Attempt::NotProposed };
    let (batch, trace) = (begun.batch, trace::to_peer(core.options.trace));
    tracing::debug!(batch, leader, "forwarding a batch");
    let (request, sent) = (ProposeRequest { commands, once, batch, trace }, Sent::default());
    let sent_at = Instant::now();
    let answered =
        core.network.call_telling(leader, &address, PeerRoute::Propose, request, FORWARD_TIMEOUT, sent.clone());
    let answer = tokio::select! {
        answer = answered => answer,
        // A deposed leader may never answer, and what it has in hand is decided without it.
        () = leader_changed(core, leader) => {
            return if sent.get() { Attempt::Unknown } else { Attempt::NotProposed };
        }
    };
    match answer {
        Ok(response) => {
            if matches!(response, ProposeResponse::Applied { .. }) {
                core.meters.forward.observe_duration(sent_at.elapsed());
            }
            Attempt::of_response(response, || begun.decided())
        }
        Err(error) => {
            tracing::debug!(%error, leader, "a batch did not reach the leader");
            if error.was_not_sent() { Attempt::NotProposed } else { Attempt::Unknown }
        }
    }
}

/// The leader's answer says that an entry of its own is committed, which is what it would say by an append that holds
/// nothing. A leader with much to do says it with its next entry only (`network::without_mere_commits`).
async fn learn_committed(core: &Core, log_id: LogId) {
    let leader = log_id.committed_leader_id();
    let append = AppendEntriesRequest {
        vote: Vote::new_committed(leader.term, leader.node_id),
        prev_log_id: Some(log_id),
        entries: Vec::new(),
        leader_commit: Some(log_id),
    };
    // Whatever is wrong with it, the leader's own appends settle it.
    if let Err(error) = core.raft.append_entries(append).await {
        tracing::debug!(%error, "what the leader answered was not learnt from");
    }
}

async fn leader_changed(core: &Core, leader: NodeId) {
    loop {
        core.before_retry(Some(leader)).await;
        if core.current_leader() != Some(leader) {
            return;
        }
    }
}
