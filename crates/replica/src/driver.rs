//! Takes batches from the queue and brings them into the log: as one entry where this node leads, as one request to the
//! leader where it follows, and not at all until there is a leader.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use openraft::errors::ClientWriteError;
use openraft::impls::ProgressResponder;
use rollcall_registry::{Command, Proposal, WallTime};
use rollcall_storage::{NodeId, Payload};

use crate::core::{Core, Leading};
use crate::message::{ProposeRequest, ProposeResponse};
use crate::peer::PeerRoute;
use crate::proposer::{self, Answer, Merged, Pending, SubmitError, Waiting};

/// How long a follower waits for the leader's answer to a batch. The senders' own deadlines are shorter or equal.
const FORWARD_TIMEOUT: Duration = Duration::from_secs(60);

pub(crate) async fn drive(core: Arc<Core>, mut waiting: Waiting) {
    loop {
        let batch = tokio::select! {
            () = core.stop.cancelled() => break,
            batch = waiting.next_batch() => batch,
        };
        let Some(batch) = batch else { break };
        tokio::select! {
            () = core.stop.cancelled() => break,
            () = bring(&core, batch) => {}
        }
    }
    waiting.close();
}

/// What trying to bring in a batch came to.
enum Attempt {
    Done(Answer),
    /// Certainly not in the log.
    NotProposed,
    Overloaded {
        retry_after_ms: u64,
    },
    /// May be in the log.
    Unknown,
}

async fn bring(core: &Core, mut batch: Vec<Pending>) {
    loop {
        proposer::take(&mut batch);
        if batch.is_empty() {
            return;
        }
        let seen_leader = core.current_leader();
        let (merged, attempt) = if let Some(lead) = core.lead() {
            attempt(&batch, |commands| propose(core, lead, commands)).await
        } else {
            // This batch's other half waits for a leader; these wait for this one, which no longer is.
            let (stay, leave) = batch.into_iter().partition(|pending| pending.stays);
            batch = leave;
            let stay: Vec<Pending> = stay;
            stay.into_iter().for_each(|pending| pending.answer(Err(SubmitError::NoLeader)));
            match seen_leader.filter(|leader| *leader != core.node_id) {
                Some(leader) if !batch.is_empty() => {
                    attempt(&batch, |commands| forward(core, leader, commands)).await
                }
                _ => (None, Attempt::NotProposed),
            }
        };
        match (attempt, merged) {
            (Attempt::Done(answer), Some(merged)) => return merged.distribute(batch, &answer),
            (Attempt::Overloaded { retry_after_ms }, _) => {
                let refuse = |pending: Pending| pending.answer(Err(SubmitError::Overloaded { retry_after_ms }));
                return batch.into_iter().for_each(refuse);
            }
            (Attempt::Unknown, _) => {
                // What may be in the log is tried again only if twice is as good as once.
                let (again, lost): (Vec<_>, Vec<_>) =
                    batch.into_iter().partition(|pending| pending.commands.iter().all(is_repeatable));
                lost.into_iter().for_each(|pending| pending.answer(Err(SubmitError::Unknown)));
                batch = again;
            }
            (Attempt::NotProposed | Attempt::Done(_), _) => proposer::give_back(&batch),
        }
        core.before_retry(seen_leader).await;
    }
}

async fn attempt<F: Future<Output = Attempt>>(
    batch: &[Pending],
    bring: impl FnOnce(Vec<Command>) -> F,
) -> (Option<Merged>, Attempt) {
    let mut merged = proposer::merge(batch);
    let commands = std::mem::take(&mut merged.commands);
    let expected = commands.len();
    let attempt = match bring(commands).await {
        Attempt::Done(answer) if answer.outcomes.len() != expected => {
            tracing::error!(expected, got = answer.outcomes.len(), "an entry answered another number of commands");
            Attempt::Unknown
        }
        attempt => attempt,
    };
    (Some(merged), attempt)
}

/// A renewal applied twice is a renewal.
fn is_repeatable(command: &Command) -> bool {
    match command {
        Command::Renew { .. } | Command::Beat { status: None, metadata: None, .. } => true,
        Command::Beat { .. } | Command::Register { .. } | Command::Deregister { .. } | Command::Expire { .. } => {
            false
        }
    }
}

async fn propose(core: &Core, lead: Leading, commands: Vec<Command>) -> Attempt {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let wall = WallTime(u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX));
    let payload = Payload(Arc::new(Proposal { stamp: lead.now, wall, commands }));
    let (responder, answer) = ProgressResponder::complete_only();
    // Pinned to this leadership: an entry stamped by its clock must not enter the log of another.
    if core.raft.write(payload).with_leader(lead.leader).responder(responder).await.is_err() {
        return Attempt::NotProposed;
    }
    match answer.await {
        Ok(Ok(applied)) => {
            let index = applied.log_id.index();
            Attempt::Done(Answer {
                outcomes: applied.response().outcomes.clone(),
                revision: applied.response().revision,
                index,
            })
        }
        Ok(Err(ClientWriteError::ForwardToLeader(_))) => Attempt::NotProposed,
        Ok(Err(_)) | Err(_) => Attempt::Unknown,
    }
}

async fn forward(core: &Core, leader: NodeId, commands: Vec<Command>) -> Attempt {
    let Some(address) = core.peer_address(leader) else { return Attempt::NotProposed };
    let request = ProposeRequest { commands };
    let answered = core.network.call(leader, &address, PeerRoute::Propose, request, FORWARD_TIMEOUT);
    let answer = tokio::select! {
        answer = answered => answer,
        // A deposed leader may never answer, and what it has in hand is decided without it.
        () = leader_changed(core, leader) => return Attempt::Unknown,
    };
    match answer {
        Ok(ProposeResponse::Applied { outcomes, revision, index }) => {
            Attempt::Done(Answer { outcomes, revision, index })
        }
        Ok(ProposeResponse::NotLeader { .. }) => Attempt::NotProposed,
        Ok(ProposeResponse::Overloaded { retry_after_ms }) => Attempt::Overloaded { retry_after_ms },
        Ok(ProposeResponse::Unknown) => Attempt::Unknown,
        Err(error) => {
            tracing::debug!(%error, leader, "a batch did not reach the leader");
            if error.was_not_sent() { Attempt::NotProposed } else { Attempt::Unknown }
        }
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
