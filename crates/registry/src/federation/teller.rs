//! What another cluster is told next: plain state, which a task brings to a wire.
//!
//! The receiver's word counts: a teller begins by asking how far it has come, believes what each answer says of that, and
//! so needs to keep nothing. Whoever leads next asks again. What may have arrived and was not answered is told again in the
//! same words, because the receiver counts them.

use std::sync::Arc;

use super::{Peer, Received, Resync, Stream};
use crate::history::{Change, ChangeKind};
use crate::ids::{InstanceId, PeerName, Revision, TenantId};
use crate::instance::Instance;
use crate::state::State;

/// Messages told at once.
const MESSAGES_MAX: usize = 128;

/// They end when what they tell takes about this much: an answer is then a matter of milliseconds.
const BYTES_MAX: usize = 256 << 10;

/// Changes that are looked at under one lock.
const LOOKED_AT_MAX: usize = 2_048;

/// One thing that is told, before it is put into words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Telling {
    Put { after: Revision, revision: Revision, instance: Arc<Instance>, sort: Put },
    Remove { after: Revision, revision: Revision, tenant: TenantId, id: InstanceId },
    Begin { at: Revision },
    Entry { at: Revision, number: u64, instance: Arc<Instance> },
    End { at: Revision, count: u64 },
    Bookmark { after: Revision, at: Revision },
}

/// What became of an instance that is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Put {
    Registered,
    StatusChanged,
}

/// What is told at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    pub stream: Stream,
    pub tellings: Vec<Telling>,
    /// Up to here there is nothing else to tell.
    looked_at: Revision,
}

impl Batch {
    /// Up to here there is nothing else to tell.
    pub fn looked_at(&self) -> Revision {
        self.looked_at
    }
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// Tell this, and say what was answered.
    Tell(Arc<Batch>),
    /// Ask again at once: there was nothing to tell so far.
    More,
    /// Ask again when something has changed, or a sign of life is due.
    Idle,
}

/// How far a telling of everything has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    pub told: u64,
    /// About.
    pub total: u64,
}

/// One other cluster's.
#[derive(Debug, Default)]
pub struct Teller {
    stream: Option<Stream>,
    phase: Phase,
}

#[derive(Debug, Default)]
enum Phase {
    /// It is not known how far it has come.
    #[default]
    Asking,
    Following {
        /// So far it has come.
        acknowledged: Revision,
        /// So far it was looked.
        looked_at: Revision,
    },
    /// Everything is told.
    All(Box<All>),
}

#[derive(Debug)]
struct All {
    at: Revision,
    step: Step,
    /// What was not answered yet.
    under_way: Option<Arc<Batch>>,
    progress: Progress,
}

#[derive(Debug)]
enum Step {
    Begin,
    /// The next number, and whom it comes after.
    Entries {
        number: u64,
        after: Option<(TenantId, InstanceId)>,
    },
}

impl Teller {
    /// What is to be told now. `is_due` is whether a sign of life is.
    pub fn next(&mut self, state: &State, peer: &Peer, is_due: bool) -> Next {
        let stream = stream(state, peer);
        if self.stream.replace(stream) != Some(stream) {
            self.phase = Phase::Asking;
        }
        match &mut self.phase {
            Phase::Asking => {
                tell(stream, vec![Telling::Bookmark { after: Revision(0), at: Revision(0) }], Revision(0))
            }
            Phase::Following { acknowledged, looked_at } => {
                let changes = if *looked_at <= state.revision() { state.changes_after(*looked_at) } else { None };
                let Some(changes) = changes else {
                    self.phase = Phase::all(state, peer);
                    return Next::More;
                };
                let (tellings, seen) = changed(changes, peer, *acknowledged, *looked_at);
                if !tellings.is_empty() {
                    return tell(stream, tellings, seen);
                }
                *looked_at = seen;
                if seen < state.revision() {
                    Next::More
                } else if is_due {
                    tell(stream, vec![Telling::Bookmark { after: *acknowledged, at: seen }], seen)
                } else {
                    Next::Idle
                }
            }
            Phase::All(all) => Next::Tell(all.batch(stream, state, peer)),
        }
    }

    /// Takes in what was answered to a batch. False if the receiver is where it was before.
    pub fn settle(&mut self, state: &State, peer: &Peer, batch: &Batch, answer: &Received) -> bool {
        if self.stream != Some(batch.stream) {
            // The terms have changed meanwhile.
            return true;
        }
        let is_ours = answer.stream == self.stream;
        match &mut self.phase {
            Phase::Asking | Phase::Following { .. } if !is_ours || answer.resync.is_some() => {
                self.phase = Phase::all(state, peer);
                true
            }
            Phase::Asking => {
                let (acknowledged, looked_at) = (answer.position, answer.position);
                self.phase = Phase::Following { acknowledged, looked_at };
                true
            }
            Phase::Following { acknowledged, looked_at } => {
                let moved = answer.position != *acknowledged;
                *acknowledged = answer.position;
                let told = batch.tellings.last().map_or(Revision(0), Telling::reaches);
                *looked_at = if answer.position >= told { batch.looked_at } else { answer.position };
                moved || matches!(batch.tellings[..], [Telling::Bookmark { .. }])
            }
            Phase::All(all) => match all.settle(batch, answer, is_ours) {
                Settled::GoesOn => true,
                Settled::Again => {
                    self.phase = Phase::all(state, peer);
                    false
                }
                Settled::Ended => {
                    let (acknowledged, looked_at) = (answer.position, answer.position);
                    self.phase = Phase::Following { acknowledged, looked_at };
                    true
                }
            },
        }
    }

    /// How far the receiver has come; none before that is known, and while everything is told.
    pub fn acknowledged(&self) -> Option<Revision> {
        match &self.phase {
            Phase::Following { acknowledged, .. } => Some(*acknowledged),
            Phase::Asking | Phase::All(_) => None,
        }
    }

    /// How far a telling of everything has come, while there is one.
    pub fn progress(&self) -> Option<Progress> {
        match &self.phase {
            Phase::All(all) => Some(all.progress),
            Phase::Asking | Phase::Following { .. } => None,
        }
    }
}

impl Telling {
    /// The revision that the receiver has come to with it.
    fn reaches(&self) -> Revision {
        match self {
            Self::Put { revision, .. } | Self::Remove { revision, .. } => *revision,
            Self::Bookmark { at, .. } | Self::Begin { at } | Self::End { at, .. } | Self::Entry { at, .. } => *at,
        }
    }
}

fn tell(stream: Stream, tellings: Vec<Telling>, looked_at: Revision) -> Next {
    Next::Tell(Arc::new(Batch { stream, tellings, looked_at }))
}

/// What of the changes is to be told, and how far that reaches.
fn changed<'a>(
    changes: impl Iterator<Item = Change<'a>>,
    peer: &Peer,
    acknowledged: Revision,
    looked_at: Revision,
) -> (Vec<Telling>, Revision) {
    let (mut tellings, mut bytes) = (Vec::new(), 0);
    let (mut after, mut seen) = (acknowledged, looked_at);
    for change in changes.take(LOOKED_AT_MAX) {
        if tellings.len() >= MESSAGES_MAX || bytes >= BYTES_MAX {
            break;
        }
        let revision = change.revision;
        seen = revision;
        let was_offered = change.before.is_some_and(|before| peer.terms.offers(before));
        let offered = change.after.filter(|instance| peer.terms.offers(instance));
        let telling = match offered {
            Some(instance) => {
                let is_status = was_offered && change.kind == ChangeKind::StatusChanged;
                let sort = if is_status { Put::StatusChanged } else { Put::Registered };
                Telling::Put { after, revision, instance: instance.clone(), sort }
            }
            None if was_offered => {
                let (tenant, id) = change.instance().key();
                Telling::Remove { after, revision, tenant, id }
            }
            None => continue,
        };
        bytes += change.instance().bytes();
        after = revision;
        tellings.push(telling);
    }
    (tellings, seen)
}

enum Settled {
    GoesOn,
    /// Something else went on at the receiver: from the beginning.
    Again,
    Ended,
}

impl Phase {
    fn all(state: &State, peer: &Peer) -> Self {
        let total = peer.terms.tenants.iter().map(|pair| state.tenant_len(&pair.local) as u64).sum();
        let progress = Progress { told: 0, total };
        Self::All(Box::new(All { at: state.revision(), step: Step::Begin, under_way: None, progress }))
    }
}

impl All {
    fn batch(&mut self, stream: Stream, state: &State, peer: &Peer) -> Arc<Batch> {
        if let Some(batch) = &self.under_way {
            return batch.clone();
        }
        let at = self.at;
        let tellings = match &self.step {
            Step::Begin => vec![Telling::Begin { at }],
            Step::Entries { number, after } => {
                let mut bytes = 0;
                let offered = offered(state, peer, after.as_ref()).take(MESSAGES_MAX).take_while(|instance| {
                    let fits = bytes < BYTES_MAX;
                    bytes += instance.bytes();
                    fits
                });
                let entries = offered.zip(*number..).map(|(instance, number)| Telling::Entry {
                    at,
                    number,
                    instance: instance.clone(),
                });
                let mut entries: Vec<_> = entries.collect();
                if entries.is_empty() {
                    entries.push(Telling::End { at, count: *number });
                }
                entries
            }
        };
        let batch = Arc::new(Batch { stream, tellings, looked_at: at });
        self.under_way = Some(batch.clone());
        batch
    }

    fn settle(&mut self, batch: &Batch, answer: &Received, is_ours: bool) -> Settled {
        let ended = matches!(batch.tellings[..], [Telling::End { .. }]);
        match answer.resync.filter(|resync| is_ours && resync.at == self.at) {
            Some(Resync { next, .. }) => {
                if let Step::Begin = self.step {
                    self.step = Step::Entries { number: 0, after: None };
                }
                // It may have taken a part of them.
                for telling in &batch.tellings {
                    if let (Telling::Entry { number, instance, .. }, Step::Entries { number: own, after }) =
                        (telling, &mut self.step)
                        && *number < next
                    {
                        (*own, *after) = (number + 1, Some(instance.key()));
                    }
                }
                let is_there = matches!(self.step, Step::Entries { number, .. } if number == next);
                self.progress.told = next;
                self.progress.total = self.progress.total.max(next);
                self.under_way = None;
                if is_there && !ended { Settled::GoesOn } else { Settled::Again }
            }
            None if is_ours && ended && answer.resync.is_none() && answer.position >= self.at => Settled::Ended,
            None => Settled::Again,
        }
    }
}

/// What one that asks is told next, having come to `position`, where it was looked up to `looked_at`; nothing if nothing of it
/// is for this peer. None if it has to be told everything, because some of what came after is forgotten.
pub fn missing(state: &State, peer: &Peer, position: Revision, looked_at: Revision) -> Option<Batch> {
    if looked_at > state.revision() {
        return None;
    }
    let (mut tellings, looked_at) = changed(state.changes_after(looked_at)?, peer, position, looked_at);
    if let Some(after) = tellings.last().map(Telling::reaches).filter(|after| *after < looked_at) {
        tellings.push(Telling::Bookmark { after, at: looked_at });
    }
    Some(Batch { stream: stream(state, peer), tellings, looked_at })
}

/// What the present terms of a peer make of this life of the roll.
fn stream(state: &State, peer: &Peer) -> Stream {
    Stream { epoch: state.epoch(), since: peer.since }
}

/// All that is offered after an instance, by tenant and id. The terms' order of tenants is theirs for good.
fn offered<'a>(
    state: &'a State,
    peer: &'a Peer,
    after: Option<&'a (TenantId, InstanceId)>,
) -> impl Iterator<Item = &'a Arc<Instance>> {
    let tenants = peer.terms.tenants.iter().map(|pair| &pair.local);
    let rest = tenants.skip_while(move |tenant| after.is_some_and(|(last, _)| last != *tenant));
    let all = rest.flat_map(move |tenant| {
        let id = after.filter(|(last, _)| last == tenant).map(|(_, id)| id.as_str());
        state.tenant_instances_after(tenant, id)
    });
    all.filter(move |instance| peer.terms.offers(instance))
}

/// Whether a peer is told anything.
pub fn is_told(peer: &Peer) -> bool {
    peer.terms.direction.sends() && !peer.paused && !peer.leaving && peer.terms.is_trusted()
}

/// Names what is told to whom under which terms: another one is another telling.
pub fn telling_of(peer: &Peer) -> (PeerName, crate::ids::ClusterTime) {
    (peer.name().clone(), peer.since)
}
