//! The way of a command into the log.
//!
//! Commands wait while the batch before them is in flight, so that a batch grows with the load and there is no timer to
//! tune. On the leader a batch becomes one entry; on a follower it goes to the leader in one request and joins the
//! leader's next entry. Nothing is forwarded twice.
//!
//! What is certain is said: a command that was never sent is "not applied", one that was sent and got no answer by its
//! deadline is "unknown". Until then it is proposed again, through whichever leader there is: a renewal does not matter
//! twice, and everything else goes under an origin by which the state machine knows it again.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use rollcall_registry::{AccessTokenCommand, Command, FeatureLevel, Once, Outcome, Revision, Write};
use rollcall_storage::LogId;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::Instant;
use tracing::Span;

use crate::bell::Bell;

/// Requests that may wait. Beyond it a node that cannot keep up says so at once.
const WAITING_MAX: usize = 32_768;

/// Of those, kept free for renewals: an agent that cannot register waits, but one that cannot renew is struck off.
const WAITING_FOR_RENEWALS: usize = WAITING_MAX / 4;

/// What waiting commands may hold, in KiB: 128 MiB.
const WAITING_KIB_MAX: usize = 128 << 10;

/// What goes into one entry, in KiB: enough to pay for a flush, small enough to replicate within a heartbeat. No single
/// command of an edge comes near it.
const BATCH_KIB_MAX: usize = 1_024;

/// Commands in one entry: applying them takes a few milliseconds, for which readers wait at most.
const BATCH_COMMANDS_MAX: usize = 4_096;

/// Requests in the batch before from which on the next one waits for as many.
pub(crate) const COMPANY_MIN: usize = 8;

/// The longest such wait: what a loaded node takes for an entry.
const COMPANY_WAIT_MAX: Duration = Duration::from_millis(3);

/// How the batch before went.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    pub requests: usize,
    pub took: Duration,
    pub answered_at: Instant,
}

/// Why a batch was not applied, or may not have been.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    #[error("no leader was found in time; nothing was changed")]
    NoLeader,
    #[error("too many writes are waiting; nothing was changed")]
    Overloaded { retry_after_ms: u64 },
    #[error("this node is stopping; nothing was changed")]
    Stopping,
    #[error(
        "this needs feature level {needed}, and the cluster is at {cluster} until every node runs a version that has it: \
         `rollcall cluster status` shows which do not; nothing was changed"
    )]
    FeatureLevel { needed: FeatureLevel, cluster: FeatureLevel },
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
pub struct Answer {
    pub outcomes: Vec<Outcome>,
    pub revision: Revision,
    pub log_id: LogId,
    pub course: Course,
}

/// The way that a batch took at this node.
#[derive(Clone, Copy, Debug)]
pub struct Course {
    /// The node's number of it, in the logs of both nodes if it was forwarded.
    pub batch: u64,
    /// When it was taken out of the queue.
    pub taken_at: Instant,
    /// When its entry had been committed, and applied at the leader. It is applied here by the time of the answer.
    pub decided_at: Instant,
}

/// Whether a waiting request can still be taken back.
#[derive(Debug)]
pub struct Ticket(AtomicU8);

const WAITING: u8 = 0;
const TAKEN: u8 = 1;
const WITHDRAWN: u8 = 2;

impl Default for Ticket {
    fn default() -> Self {
        Self(AtomicU8::new(WAITING))
    }
}

impl Ticket {
    /// Whoever asked gives up; tells whether the request certainly goes nowhere.
    pub fn withdraw(&self) -> bool {
        self.claim(WITHDRAWN)
    }

    fn claim(&self, state: u8) -> bool {
        self.0.compare_exchange(WAITING, state, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }
}

/// What is handed in together: one local request, or what a follower collected.
#[derive(Debug, Default)]
pub struct Request {
    pub commands: Vec<Command>,
    /// A follower's commands that are applied once, under its own origin.
    pub once: Vec<Once>,
    /// Came from a follower, or makes sense only here: must not leave this node.
    pub stays: bool,
}

/// Somebody whose request waits or is on its way.
pub trait Asker {
    fn request(&self) -> &Request;

    fn ticket(&self) -> &Ticket;

    /// Nobody listens for the answer any more.
    fn is_abandoned(&self) -> bool;

    fn answer(self, answer: Result<Answer, SubmitError>);
}

/// A request that waits or is on its way, and the task that awaits it.
pub(crate) struct Pending {
    pub request: Request,
    reply: oneshot::Sender<Result<Answer, SubmitError>>,
    ticket: Arc<Ticket>,
    kib: usize,
    _room: OwnedSemaphorePermit,
    /// Of whoever asked; none where traces are not collected.
    span: Span,
}

impl Pending {
    pub(crate) fn span(&self) -> &Span {
        &self.span
    }
}

impl Asker for Pending {
    fn request(&self) -> &Request {
        &self.request
    }

    fn ticket(&self) -> &Ticket {
        &self.ticket
    }

    fn is_abandoned(&self) -> bool {
        self.reply.is_closed()
    }

    fn answer(self, answer: Result<Answer, SubmitError>) {
        // Whoever asked may have gone.
        let _ = self.reply.send(answer);
    }
}

/// Where commands are handed in.
#[derive(Clone)]
pub(crate) struct Queue {
    sender: mpsc::Sender<Pending>,
    bell: Arc<Bell>,
    room: Arc<Semaphore>,
    traced: bool,
}

/// Where batches are taken out.
pub(crate) struct Waiting {
    receiver: mpsc::Receiver<Pending>,
    bell: Arc<Bell>,
    /// What did not fit into the batch before.
    held: Option<Pending>,
}

/// `traced` keeps each request's span, for the batch's.
pub(crate) fn queue(traced: bool) -> (Queue, Waiting) {
    let (sender, receiver) = mpsc::channel(WAITING_MAX);
    let (bell, room) = (Arc::new(Bell::new()), Arc::new(Semaphore::new(WAITING_KIB_MAX)));
    (Queue { sender, bell: bell.clone(), room, traced }, Waiting { receiver, bell, held: None })
}

impl Queue {
    /// How many requests wait, and how many bytes are held for them and for those on their way.
    pub(crate) fn waiting(&self) -> (usize, usize) {
        let kib = WAITING_KIB_MAX.saturating_sub(self.room.available_permits());
        (WAITING_MAX.saturating_sub(self.sender.capacity()), kib << 10)
    }

    /// Hands commands in and waits for the answer until `deadline`.
    pub(crate) async fn submit(&self, request: Request, deadline: Instant) -> Result<Answer, SubmitError> {
        const OVERLOADED: SubmitError = SubmitError::Overloaded { retry_after_ms: 1_000 };
        if self.sender.capacity() <= WAITING_FOR_RENEWALS && !request.is_vital() {
            return Err(OVERLOADED);
        }
        let kib = request.each().map(approximate_kib).sum::<usize>();
        let permits = u32::try_from(kib).map_err(|_| OVERLOADED)?;
        if !request.is_vital() && self.room.available_permits() < kib + WAITING_KIB_MAX / 4 {
            return Err(OVERLOADED);
        }
        let room = self.room.clone().try_acquire_many_owned(permits).map_err(|_| OVERLOADED)?;
        let (reply, answer) = oneshot::channel();
        let ticket = Arc::new(Ticket::default());
        let span = if self.traced { Span::current() } else { Span::none() };
        let pending = Pending { request, reply, ticket: ticket.clone(), kib, _room: room, span };
        self.sender.try_send(pending).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => OVERLOADED,
            mpsc::error::TrySendError::Closed(_) => SubmitError::Stopping,
        })?;
        self.bell.ring_at(WAITING_MAX - self.sender.capacity());
        match tokio::time::timeout_at(deadline, answer).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) if ticket.withdraw() => Err(SubmitError::Stopping),
            Err(_) if ticket.withdraw() => Err(SubmitError::NoLeader),
            Ok(Err(_)) | Err(_) => Err(SubmitError::Unknown),
        }
    }
}

impl Waiting {
    /// Everything that waits now, up to the size of one entry; none when no more will come.
    ///
    /// Whoever the batch before answered may be about to ask again, and an entry that goes without them costs as much as
    /// one that takes them along. So where there were many, this waits until as many are there again, but no longer than
    /// that batch took.
    pub(crate) async fn next_batch(&mut self, before: Pace) -> Option<Vec<Pending>> {
        let first = match self.held.take() {
            Some(held) => held,
            None => self.receiver.recv().await?,
        };
        let (mut kib, mut commands) = (first.kib, first.request.each().count());
        let mut batch = vec![first];
        let mut patience = pin!(tokio::time::sleep_until(before.answered_at + before.took.min(COMPANY_WAIT_MAX)));
        let mut patient = before.requests >= COMPANY_MIN;
        while kib < BATCH_KIB_MAX && commands < BATCH_COMMANDS_MAX {
            let next = match self.receiver.try_recv() {
                Ok(next) => next,
                Err(_) if !patient || batch.len() >= before.requests => break,
                Err(_) => {
                    let missing = before.requests - batch.len();
                    tokio::select! {
                        biased;
                        () = self.bell.wait_for(missing, || self.receiver.len()) => {}
                        () = patience.as_mut() => patient = false,
                    }
                    self.bell.rest();
                    continue;
                }
            };
            kib += next.kib;
            commands += next.request.each().count();
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
pub(crate) fn take(batch: &mut Vec<impl Asker>) {
    batch.retain(|asker| {
        // Whoever hung up may not have come to withdraw it.
        let ticket = asker.ticket();
        !asker.is_abandoned() && (ticket.claim(TAKEN) || ticket.0.load(Ordering::Acquire) == TAKEN)
    });
}

/// Gives back what certainly was not sent, so that its senders may still withdraw it.
pub(crate) fn give_back(batch: &[impl Asker]) {
    batch.iter().for_each(|asker| asker.ticket().0.store(WAITING, Ordering::Release));
}

fn approximate_kib(command: &Command) -> usize {
    let bytes = match command {
        Command::Register { registration, .. } | Command::RegisterSigned { registration, .. } => registration.bytes(),
        Command::Renew { leases, .. } => leases.as_slice().len() * 8,
        Command::Beat { metadata, .. } => metadata.as_ref().map_or(64, |metadata| metadata.bytes()),
        Command::Deregister { .. }
        | Command::DeregisterSigned { .. }
        | Command::Expire { .. }
        | Command::JoinToken(_)
        | Command::Observe { .. }
        | Command::Unchecked { .. }
        | Command::Signatures(_) => 64,
        Command::Federation(command) => command.bytes(),
        Command::Rule { change, .. } => change.bytes(),
        Command::Define { change, .. } => change.bytes(),
        Command::AccessToken(AccessTokenCommand::Used { ids }) => ids.len() * 8,
        // Those with the longest scopes are of 2 KiB.
        Command::AccessToken(_) => 512,
        Command::By { write, .. } => match write {
            Write::Register { registration, .. } | Write::RegisterSigned { registration, .. } => {
                registration.bytes() + 64
            }
            Write::Renew { leases } => leases.as_slice().len() * 8 + 64,
            Write::Beat { metadata, .. } => metadata.as_ref().map_or(64, |metadata| metadata.bytes()) + 64,
            Write::Deregister { .. } | Write::DeregisterSigned { .. } => 128,
        },
    };
    1 + bytes / 1_024
}

impl Request {
    /// Whether it is no more than what a follower's batch may be. What comes from a peer must be checked: an entry that
    /// is too large to be read again must not be written.
    pub(crate) fn fits_an_entry(&self) -> bool {
        let kib: usize = self.each().map(approximate_kib).sum();
        kib <= BATCH_KIB_MAX && self.each().count() <= BATCH_COMMANDS_MAX && self.once.len() <= 1
    }

    /// Whether it keeps the roll true: renewals, expiries, and what followers collected, of which most are renewals.
    fn is_vital(&self) -> bool {
        let keeps = |command: &Command| match command {
            Command::Renew { .. } | Command::Beat { .. } => true,
            Command::By { write, .. } => matches!(write, Write::Renew { .. } | Write::Beat { .. }),
            _ => false,
        };
        self.stays || self.each().all(keeps)
    }

    fn each(&self) -> impl Iterator<Item = &Command> {
        self.commands.iter().chain(self.once.iter().flat_map(|once| &once.commands))
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use rollcall_registry::{LeaseId, LeaseSet, Origin, TenantId};

    use super::*;
    use crate::merged::{Sizes, merge};

    fn renew(tenant: &str, leases: &[u64]) -> Command {
        let leases = leases.iter().map(|l| LeaseId(*l)).collect();
        Command::Renew { tenant: TenantId::parse(tenant).unwrap(), leases: LeaseSet::new(leases) }
    }

    fn request(command: Command) -> Request {
        Request { commands: vec![command], ..Request::default() }
    }

    const ORIGIN: Origin = Origin { node: 1, start: 2, batch: 3 };

    fn alone() -> Pace {
        Pace { requests: 0, took: Duration::ZERO, answered_at: Instant::now() }
    }

    #[tokio::test]
    async fn a_batch_waits_for_as_many_as_were_answered_while_patience_lasts() {
        let (queue, mut waiting) = queue(false);
        let submit = |n: u64| {
            let queue = queue.clone();
            tokio::spawn(async move { queue.submit(request(renew("a", &[n])), soon()).await })
        };
        let crowd = |answered_at| Pace { requests: 20, took: COMPANY_WAIT_MAX, answered_at };
        let mut asked: Vec<_> = (0..19).map(submit).collect();
        while queue.sender.capacity() > WAITING_MAX - 19 {
            tokio::task::yield_now().await;
        }
        // The last of them comes when the others are taken out and waited for.
        let mut last = None;
        let (batch, ()) = tokio::join!(waiting.next_batch(crowd(soon())), async {
            while queue.sender.capacity() < WAITING_MAX {
                tokio::task::yield_now().await;
            }
            last = Some(submit(19));
        });
        assert_eq!(batch.unwrap().len(), 20);
        // Fewer come back, and the time is over: nobody is kept.
        asked.extend((0..5).map(submit).chain(last));
        while queue.sender.capacity() > WAITING_MAX - 5 {
            tokio::task::yield_now().await;
        }
        assert_eq!(waiting.next_batch(crowd(Instant::now() - COMPANY_WAIT_MAX)).await.unwrap().len(), 5);
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(10)
    }

    #[tokio::test]
    async fn heartbeats_of_one_tenant_share_a_command_and_get_their_own_answers() {
        let (queue, mut waiting) = queue(false);
        let submit = |command| {
            let queue = queue.clone();
            tokio::spawn(async move { queue.submit(request(command), soon()).await })
        };
        let asked = [renew("a", &[3, 5]), renew("b", &[4]), renew("a", &[5, 9])].map(submit);
        while queue.sender.capacity() > WAITING_MAX - 3 {
            tokio::task::yield_now().await;
        }
        let mut batch = waiting.next_batch(alone()).await.unwrap();
        assert_eq!(batch.len(), 3);
        take(&mut batch);
        let mut merged = merge(&batch, ORIGIN);
        let commands = merged.take_commands();
        assert_eq!(commands, (vec![renew("a", &[3, 5, 9]), renew("b", &[4])], Vec::new()));
        let set = |leases: &[u64]| LeaseSet::new(leases.iter().map(|l| LeaseId(*l)).collect());
        let outcomes = vec![
            Outcome::Renewed { not_found: set(&[9]), superseded: set(&[5]) },
            Outcome::Renewed { not_found: set(&[]), superseded: set(&[]) },
        ];
        let course = Course { batch: 1, taken_at: Instant::now(), decided_at: Instant::now() };
        let log_id = openraft::testing::log_id::<rollcall_storage::TypeConfig>(1, 1, 1);
        let answer = Answer { outcomes, revision: Revision(1), log_id, course };
        merged.distribute(batch, &answer, &Sizes::of(&commands));
        let answers = futures_util::future::join_all(asked).await;
        let answers: Vec<_> = answers.into_iter().map(|answer| answer.unwrap().unwrap().outcomes).collect();
        assert_eq!(answers[0], [Outcome::Renewed { not_found: set(&[]), superseded: set(&[5]) }]);
        assert_eq!(answers[1], [Outcome::Renewed { not_found: set(&[]), superseded: set(&[]) }]);
        assert_eq!(answers[2], [Outcome::Renewed { not_found: set(&[9]), superseded: set(&[5]) }]);
    }

    #[tokio::test]
    async fn what_was_never_sent_is_certainly_not_applied() {
        let (queue, mut waiting) = queue(false);
        let deadline = Instant::now() + Duration::from_millis(100);
        let error = queue.submit(request(renew("a", &[1])), deadline).await.unwrap_err();
        assert_eq!(error, SubmitError::NoLeader);
        let mut batch = waiting.next_batch(alone()).await.unwrap();
        take(&mut batch);
        assert!(batch.is_empty(), "a withdrawn command must not be sent");
    }

    #[tokio::test]
    async fn p1_what_nobody_waits_for_any_more_is_not_sent_later() {
        let (queue, mut waiting) = queue(false);
        let asked = tokio::spawn(async move { queue.submit(request(renew("a", &[1])), soon()).await });
        let mut batch = waiting.next_batch(alone()).await.unwrap();
        take(&mut batch);
        assert_eq!(batch.len(), 1);
        // There is no leader, so it may still be withdrawn; its sender hangs up without a word.
        give_back(&batch);
        asked.abort();
        assert!(asked.await.unwrap_err().is_cancelled());
        take(&mut batch);
        assert!(batch.is_empty(), "a write from a sender that is gone would be applied later");
    }

    #[tokio::test]
    async fn what_was_sent_and_not_answered_is_unknown() {
        let (queue, mut waiting) = queue(false);
        let deadline = Instant::now() + Duration::from_millis(100);
        let sending = tokio::spawn(async move {
            let mut batch = waiting.next_batch(alone()).await.unwrap();
            take(&mut batch);
            std::future::pending::<()>().await;
            drop(batch);
        });
        let error = queue.submit(request(renew("a", &[1])), deadline).await.unwrap_err();
        assert_eq!(error, SubmitError::Unknown);
        sending.abort();
    }

    /// None if it waits now; nobody waits for it.
    fn refused_at_once(queue: &Queue, command: Command) -> Option<SubmitError> {
        let submit = queue.submit(request(command), soon());
        submit.now_or_never().map(|refused| refused.expect_err("nobody answers here"))
    }

    #[tokio::test]
    async fn p11_a_renewal_finds_room_where_a_registration_does_not() {
        let (queue, _waiting) = queue(false);
        let deregister = || Command::Deregister {
            tenant: TenantId::parse("a").unwrap(),
            id: rollcall_registry::InstanceId::parse("i").unwrap(),
            lease: None,
            condition: rollcall_registry::Condition::None,
        };
        for _ in 0..WAITING_MAX - WAITING_FOR_RENEWALS {
            assert_eq!(refused_at_once(&queue, deregister()), None);
        }
        assert!(matches!(refused_at_once(&queue, deregister()), Some(SubmitError::Overloaded { .. })));
        assert_eq!(refused_at_once(&queue, renew("a", &[1])), None);
    }

    #[tokio::test]
    async fn p11_what_waits_is_bounded_in_bytes() {
        let (queue, mut waiting) = queue(false);
        // So large that the bytes run out long before the count does.
        let leases: Vec<u64> = (1..=100_000).collect();
        let command = || renew("a", &leases);
        let kib = approximate_kib(&command());
        let most = WAITING_KIB_MAX / kib;
        assert!(most < WAITING_MAX / 4, "the count would be the bound");
        for _ in 0..most {
            assert_eq!(refused_at_once(&queue, command()), None);
        }
        let refused = refused_at_once(&queue, command());
        assert!(matches!(refused, Some(SubmitError::Overloaded { .. })), "{refused:?}");
        // What is taken out makes room again.
        drop(waiting.next_batch(alone()).await.unwrap());
        assert_eq!(refused_at_once(&queue, command()), None);
    }

    #[tokio::test]
    async fn p11_what_waits_is_bounded_in_number() {
        let (queue, _waiting) = queue(false);
        for _ in 0..WAITING_MAX {
            assert_eq!(refused_at_once(&queue, renew("a", &[1])), None);
        }
        let refused = refused_at_once(&queue, renew("a", &[1]));
        assert!(matches!(refused, Some(SubmitError::Overloaded { .. })), "{refused:?}");
        assert!(queue.room.available_permits() > WAITING_KIB_MAX / 2, "the bytes were the bound");
    }
}
