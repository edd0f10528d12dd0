//! The way of a command into the log.
//!
//! Commands wait while the batch before them is in flight, so that a batch grows with the load and there is no timer to
//! tune. On the leader a batch becomes one entry; on a follower it goes to the leader in one request and joins the
//! leader's next entry. Nothing is forwarded twice.
//!
//! What is certain is said: a command that was never sent is "not applied", one that was sent and got no answer is
//! "unknown". Only what is certainly not applied, or does not matter twice, is tried again.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use rollcall_registry::{Command, LeaseId, LeaseSet, Outcome, Revision, TenantId};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::Instant;

/// Requests that may wait. Beyond it a node that cannot keep up says so at once.
const WAITING_MAX: usize = 32_768;

/// What waiting commands may hold, in KiB: 128 MiB.
const WAITING_KIB_MAX: usize = 128 << 10;

/// What goes into one entry, in KiB: enough to pay for a flush, small enough to replicate within a heartbeat.
const BATCH_KIB_MAX: usize = 1_024;

/// Commands in one entry: applying them takes a few milliseconds, for which readers wait at most.
const BATCH_COMMANDS_MAX: usize = 4_096;

/// Why a batch was not applied, or may not have been.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    #[error("no leader was found in time; nothing was changed")]
    NoLeader,
    #[error("too many writes are waiting; nothing was changed")]
    Overloaded { retry_after_ms: u64 },
    #[error("this node is stopping; nothing was changed")]
    Stopping,
    #[error("the write was sent but not answered in time; it may have been applied")]
    Unknown,
}

impl SubmitError {
    pub fn may_have_been_applied(&self) -> bool {
        matches!(self, Self::Unknown)
    }
}

/// What a batch answered, and where it stands in the log.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub outcomes: Vec<Outcome>,
    pub revision: Revision,
    pub index: u64,
}

/// Whether a waiting request can still be taken back.
struct Ticket(AtomicU8);

const WAITING: u8 = 0;
const TAKEN: u8 = 1;
const WITHDRAWN: u8 = 2;

impl Ticket {
    fn claim(&self, state: u8) -> bool {
        self.0.compare_exchange(WAITING, state, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }
}

/// Commands that stand together: one local request, or what a follower collected.
pub(crate) struct Pending {
    pub commands: Vec<Command>,
    /// Came from a follower, or makes sense only here: must not leave this node.
    pub stays: bool,
    reply: oneshot::Sender<Result<Answer, SubmitError>>,
    ticket: Arc<Ticket>,
    kib: usize,
    _room: OwnedSemaphorePermit,
}

impl Pending {
    pub(crate) fn answer(self, answer: Result<Answer, SubmitError>) {
        // Whoever asked may have gone.
        let _ = self.reply.send(answer);
    }
}

/// Where commands are handed in.
#[derive(Clone)]
pub(crate) struct Queue {
    sender: mpsc::Sender<Pending>,
    room: Arc<Semaphore>,
}

/// Where batches are taken out.
pub(crate) struct Waiting {
    receiver: mpsc::Receiver<Pending>,
    /// What did not fit into the batch before.
    held: Option<Pending>,
}

pub(crate) fn queue() -> (Queue, Waiting) {
    let (sender, receiver) = mpsc::channel(WAITING_MAX);
    (Queue { sender, room: Arc::new(Semaphore::new(WAITING_KIB_MAX)) }, Waiting { receiver, held: None })
}

impl Queue {
    /// Hands commands in and waits for the answer until `deadline`.
    pub(crate) async fn submit(
        &self,
        commands: Vec<Command>,
        stays: bool,
        deadline: Instant,
    ) -> Result<Answer, SubmitError> {
        const OVERLOADED: SubmitError = SubmitError::Overloaded { retry_after_ms: 1_000 };
        let kib = commands.iter().map(approximate_kib).sum::<usize>();
        let permits = u32::try_from(kib).map_err(|_| OVERLOADED)?;
        let room = self.room.clone().try_acquire_many_owned(permits).map_err(|_| OVERLOADED)?;
        let (reply, answer) = oneshot::channel();
        let ticket = Arc::new(Ticket(AtomicU8::new(WAITING)));
        let pending = Pending { commands, stays, reply, ticket: ticket.clone(), kib, _room: room };
        self.sender.try_send(pending).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => OVERLOADED,
            mpsc::error::TrySendError::Closed(_) => SubmitError::Stopping,
        })?;
        match tokio::time::timeout_at(deadline, answer).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) if ticket.claim(WITHDRAWN) => Err(SubmitError::Stopping),
            Err(_) if ticket.claim(WITHDRAWN) => Err(SubmitError::NoLeader),
            Ok(Err(_)) | Err(_) => Err(SubmitError::Unknown),
        }
    }
}

impl Waiting {
    /// Everything that waits now, up to the size of one entry; none when no more will come.
    pub(crate) async fn next_batch(&mut self) -> Option<Vec<Pending>> {
        let first = match self.held.take() {
            Some(held) => held,
            None => self.receiver.recv().await?,
        };
        let (mut kib, mut commands) = (first.kib, first.commands.len());
        let mut batch = vec![first];
        while kib < BATCH_KIB_MAX && commands < BATCH_COMMANDS_MAX {
            let Ok(next) = self.receiver.try_recv() else { break };
            kib += next.kib;
            commands += next.commands.len();
            if kib > BATCH_KIB_MAX {
                self.held = Some(next);
                break;
            }
            batch.push(next);
        }
        Some(batch)
    }

    /// Refuses everything that still waits.
    pub(crate) fn close(&mut self) {
        self.receiver.close();
        let waiting = self.held.take().into_iter().chain(std::iter::from_fn(|| self.receiver.try_recv().ok()));
        waiting.for_each(|pending| pending.answer(Err(SubmitError::Stopping)));
    }
}

/// Marks a batch as on its way; drops what its senders gave up.
pub(crate) fn take(batch: &mut Vec<Pending>) {
    batch.retain(|pending| pending.ticket.claim(TAKEN) || pending.ticket.0.load(Ordering::Acquire) == TAKEN);
}

/// Gives back what certainly was not sent, so that its senders may still withdraw it.
pub(crate) fn give_back(batch: &[Pending]) {
    batch.iter().for_each(|pending| pending.ticket.0.store(WAITING, Ordering::Release));
}

fn approximate_kib(command: &Command) -> usize {
    let bytes = match command {
        Command::Register { registration, .. } => registration.approximate_bytes(),
        Command::Renew { leases, .. } => leases.as_slice().len() * 8,
        Command::Beat { metadata, .. } => metadata
            .as_ref()
            .map_or(64, |m| m.iter().map(|(key, value)| key.len() + value.approximate_bytes() + 32).sum()),
        Command::Deregister { .. } | Command::Expire { .. } => 64,
    };
    1 + bytes / 1_024
}

/// Many requests' commands as one entry's: the renewals of a tenant become one command, which costs each heartbeat no
/// more than the distance to the lease before it.
pub(crate) struct Merged {
    pub commands: Vec<Command>,
    /// For each pending, for each of its commands: where its outcome will be.
    places: Vec<Vec<Place>>,
}

enum Place {
    Whole(usize),
    /// Part of a merged renewal.
    Part(usize, LeaseSet),
}

pub(crate) fn merge(batch: &[Pending]) -> Merged {
    let mut tenants: BTreeMap<TenantId, (usize, Vec<LeaseId>)> = BTreeMap::new();
    for command in batch.iter().flat_map(|pending| &pending.commands) {
        if let Command::Renew { tenant, leases } = command {
            let next = tenants.len();
            let entry = tenants.entry(tenant.clone()).or_insert((next, Vec::new()));
            entry.1.extend_from_slice(leases.as_slice());
        }
    }
    let mut commands: Vec<Option<Command>> = vec![None; tenants.len()];
    let mut places = Vec::with_capacity(batch.len());
    for pending in batch {
        let each = pending.commands.iter().map(|command| match command {
            Command::Renew { tenant, leases } => Place::Part(tenants[tenant].0, leases.clone()),
            other => {
                commands.push(Some(other.clone()));
                Place::Whole(commands.len() - 1)
            }
        });
        places.push(each.collect());
    }
    for (tenant, (place, leases)) in tenants {
        commands[place] = Some(Command::Renew { tenant, leases: LeaseSet::new(leases) });
    }
    Merged { commands: commands.into_iter().flatten().collect(), places }
}

impl Merged {
    /// Hands each pending its own outcomes.
    pub(crate) fn distribute(self, batch: Vec<Pending>, answer: &Answer) {
        for (pending, places) in batch.into_iter().zip(self.places) {
            let outcomes = places.into_iter().map(|place| match place {
                Place::Whole(at) => answer.outcomes[at].clone(),
                Place::Part(at, leases) => part_of(&answer.outcomes[at], &leases),
            });
            let answer = Answer { outcomes: outcomes.collect(), revision: answer.revision, index: answer.index };
            pending.answer(Ok(answer));
        }
    }
}

fn part_of(outcome: &Outcome, leases: &LeaseSet) -> Outcome {
    let Outcome::Renewed { not_found, superseded } = outcome else { return outcome.clone() };
    let ours = |all: &LeaseSet| {
        let few = all.as_slice().iter().copied().filter(|lease| leases.contains(*lease));
        LeaseSet::new(few.collect())
    };
    Outcome::Renewed { not_found: ours(not_found), superseded: ours(superseded) }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn renew(tenant: &str, leases: &[u64]) -> Command {
        let leases = leases.iter().map(|l| LeaseId(*l)).collect();
        Command::Renew { tenant: TenantId::parse(tenant).unwrap(), leases: LeaseSet::new(leases) }
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(10)
    }

    #[tokio::test]
    async fn heartbeats_of_one_tenant_share_a_command_and_get_their_own_answers() {
        let (queue, mut waiting) = queue();
        let submit = |command| {
            let queue = queue.clone();
            tokio::spawn(async move { queue.submit(vec![command], false, soon()).await })
        };
        let asked = [renew("a", &[3, 5]), renew("b", &[4]), renew("a", &[5, 9])].map(submit);
        while queue.sender.capacity() > WAITING_MAX - 3 {
            tokio::task::yield_now().await;
        }
        let mut batch = waiting.next_batch().await.unwrap();
        assert_eq!(batch.len(), 3);
        take(&mut batch);
        let merged = merge(&batch);
        assert_eq!(merged.commands, [renew("a", &[3, 5, 9]), renew("b", &[4])]);
        let set = |leases: &[u64]| LeaseSet::new(leases.iter().map(|l| LeaseId(*l)).collect());
        let outcomes = vec![
            Outcome::Renewed { not_found: set(&[9]), superseded: set(&[5]) },
            Outcome::Renewed { not_found: set(&[]), superseded: set(&[]) },
        ];
        merged.distribute(batch, &Answer { outcomes, revision: Revision(1), index: 1 });
        let mut answers = Vec::new();
        for asked in asked {
            answers.push(asked.await.unwrap().unwrap().outcomes);
        }
        assert_eq!(answers[0], [Outcome::Renewed { not_found: set(&[]), superseded: set(&[5]) }]);
        assert_eq!(answers[1], [Outcome::Renewed { not_found: set(&[]), superseded: set(&[]) }]);
        assert_eq!(answers[2], [Outcome::Renewed { not_found: set(&[9]), superseded: set(&[5]) }]);
    }

    #[tokio::test]
    async fn what_was_never_sent_is_certainly_not_applied() {
        let (queue, mut waiting) = queue();
        let deadline = Instant::now() + Duration::from_millis(100);
        let error = queue.submit(vec![renew("a", &[1])], false, deadline).await.unwrap_err();
        assert_eq!(error, SubmitError::NoLeader);
        let mut batch = waiting.next_batch().await.unwrap();
        take(&mut batch);
        assert!(batch.is_empty(), "a withdrawn command must not be sent");
    }

    #[tokio::test]
    async fn what_was_sent_and_not_answered_is_unknown() {
        let (queue, mut waiting) = queue();
        let deadline = Instant::now() + Duration::from_millis(100);
        let sending = tokio::spawn(async move {
            let mut batch = waiting.next_batch().await.unwrap();
            take(&mut batch);
            std::future::pending::<()>().await;
            drop(batch);
        });
        let error = queue.submit(vec![renew("a", &[1])], false, deadline).await.unwrap_err();
        assert_eq!(error, SubmitError::Unknown);
        sending.abort();
    }

    #[tokio::test]
    async fn p11_waiting_commands_are_bounded() {
        let (queue, _waiting) = queue();
        let leases: Vec<u64> = (1..=10_000).collect();
        let mut refused = None;
        for _ in 0..WAITING_MAX + 1 {
            let submit = queue.submit(vec![renew("a", &leases)], false, Instant::now());
            if let Err(SubmitError::Overloaded { .. }) = submit.await {
                refused = Some(());
                break;
            }
        }
        assert!(refused.is_some());
    }
}
