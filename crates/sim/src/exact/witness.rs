//! Sees everything that every node does and every client is told, at once, and holds it against the promises.
//!
//! It keeps the committed log as whoever applied an entry first showed it, a roll of its own that applies it, and a book of
//! leases so plain that it can be checked by eye: what is current, and until when.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;

use rollcall_registry::state::InstanceKey;
use rollcall_registry::{
    ChangeKind, ClusterTime, Command, Digest, Instance, LeaseId, Options, Outcome, Presence, Proposal, Refusal,
    Revision, State, TenantId, Term,
};
use rollcall_replica::Course;
use tokio::time::Instant;

use super::disk::{Entry, Position};
use super::member::was_renewed;
use super::raft::{ELECTION_MS_MAX, ELECTION_MS_MIN, MS, Node};
use super::rewrite::{Rewriter, everything};

/// The most that a node's clock runs fast or slow, in millionths.
pub(crate) const DRIFT_PPM_MAX: u64 = 500;

/// A promise that was not kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken {
    /// As the design numbers them.
    pub promise: &'static str,
    pub what: String,
}

/// A visible change, as watchers are to be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub kind: ChangeKind,
    pub key: InstanceKey,
    pub lease: LeaseId,
}

#[derive(Clone, Debug)]
struct Leased {
    lease: LeaseId,
    ttl_ms: u64,
    deadline: ClusterTime,
    /// Or held as a suspect, which no lease ends later by.
    lapsed: bool,
}

/// One applied entry.
struct Committed {
    at: Position,
    proposal: Option<Arc<Proposal>>,
    outcomes: Vec<Outcome>,
    digest: Digest,
}

/// A renewal that somebody was told of, or a registration.
#[derive(Clone, Copy, Debug)]
struct Renewal {
    index: u64,
    sent_at: u64,
    ttl_ms: u64,
}

#[derive(Clone, Copy, Debug)]
struct Lapse {
    index: u64,
    born: u64,
}

pub(crate) struct Witness {
    pub broken: Option<Broken>,
    /// What a person reads to understand a run.
    pub trace: Vec<String>,
    pub counts: BTreeMap<&'static str, u64>,
    pub changes: Vec<Seen>,
    pub roll: State,
    rewriter: Rc<Rewriter>,
    log: Vec<Committed>,
    book: BTreeMap<InstanceKey, Leased>,
    /// The outcome of each registration, by its url, which no other has.
    effects: BTreeMap<String, Outcome>,
    /// The registrations that changed the roll.
    changing: BTreeSet<String>,
    /// Registrations whose clients were told that nothing was changed.
    refused: BTreeSet<String>,
    /// Entries of which a node said that they are certainly not in the log.
    disowned: Vec<Position>,
    /// How far the log is known to whoever was answered, and since when.
    acked: Vec<(u64, u64)>,
    renewals: BTreeMap<LeaseId, Vec<Renewal>>,
    lapses: BTreeMap<LeaseId, Vec<Lapse>>,
    leaders: BTreeMap<u64, Node>,
    clocks: BTreeMap<u64, u64>,
    clock_max: ClusterTime,
    shown: BTreeMap<Node, Revision>,
    /// Time in which no majority ran, beyond one step of the clock each time.
    pub idle: u64,
    last_stamp: ClusterTime,
    read_index: u64,
}

impl Witness {
    pub(crate) fn new(rewriter: Rc<Rewriter>) -> Self {
        Self {
            broken: None,
            trace: Vec::new(),
            counts: BTreeMap::new(),
            changes: Vec::new(),
            roll: State::new(Options::default()),
            rewriter,
            log: Vec::new(),
            book: BTreeMap::new(),
            effects: BTreeMap::new(),
            changing: BTreeSet::new(),
            refused: BTreeSet::new(),
            disowned: Vec::new(),
            acked: Vec::new(),
            renewals: BTreeMap::new(),
            lapses: BTreeMap::new(),
            leaders: BTreeMap::new(),
            clocks: BTreeMap::new(),
            clock_max: ClusterTime(0),
            shown: BTreeMap::new(),
            idle: 0,
            last_stamp: ClusterTime(0),
            read_index: 0,
        }
    }

    pub(crate) fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    pub(crate) fn note(&mut self, world: u64, what: String) {
        self.trace.push(format!("{:>6} {what}", world / MS));
    }

    pub(crate) fn breaks(&mut self, promise: &'static str, what: String) {
        self.broken.get_or_insert(Broken { promise, what });
    }

    fn demand(&mut self, holds: bool, promise: &'static str, what: impl FnOnce() -> String) {
        if !holds {
            self.breaks(promise, what());
        }
    }

    pub(crate) fn course(&self, at: Instant) -> Course {
        Course { batch: 0, taken_at: at, decided_at: at }
    }

    pub(crate) fn leads(&mut self, node: Node, term: u64, world: u64) {
        self.count("leaders");
        self.note(world, format!("node {node} leads term {term}"));
        let other = *self.leaders.entry(term).or_insert(node);
        self.demand(other == node, "P2", || format!("term {term} is led by node {other} and by node {node}"));
    }

    pub(crate) fn clock_begins(&mut self, term: u64, world: u64) {
        self.clocks.insert(term, world);
    }

    /// A leader reads its clock.
    pub(crate) fn clock(&mut self, node: Node, clock: ClusterTime, world: u64) {
        self.clock_max = self.clock_max.max(clock);
        let most = (world - self.idle) / MS;
        let most = most + most * DRIFT_PPM_MAX / 1_000_000 + 1;
        self.demand(clock.0 <= most, "P5", || {
            format!("node {node}'s clock is at {clock} ms, but leaders could be there for {most} ms only")
        });
    }

    /// The latest that any leader's clock has shown.
    pub(crate) fn clock_max(&self) -> ClusterTime {
        self.clock_max
    }

    /// A node has applied an entry.
    pub(crate) fn applied(&mut self, node: Node, entry: &Entry, outcomes: &[Outcome], state: &State) {
        let index = entry.at.index as usize;
        if self.log.len() + 1 == index {
            self.commit(entry, outcomes);
        }
        let Some(committed) = self.log.get(index - 1) else {
            return self.breaks("P2", format!("node {node} applies entry {index} before the one before it"));
        };
        let same = committed.at == entry.at && committed.proposal == entry.proposal;
        let equal = committed.digest == state.digest() && committed.outcomes == outcomes;
        let (term, other) = (entry.at.term, committed.at.term);
        self.demand(same, "P1", || {
            format!("node {node} applies entry {index} of term {term}, others another of term {other}")
        });
        self.demand(!same || equal, "P2", || format!("node {node} differs from others after entry {index}"));
    }

    fn commit(&mut self, entry: &Entry, outcomes: &[Outcome]) {
        let index = entry.at.index;
        let disowned = self.disowned.contains(&entry.at);
        self.demand(!disowned, "P1", || format!("entry {index} was called not proposed, and is committed"));
        let Some(proposal) = entry.proposal.clone() else {
            let digest = self.roll.digest();
            self.log.push(Committed { at: entry.at, proposal: None, outcomes: Vec::new(), digest });
            return;
        };
        self.demand(proposal.stamp >= self.last_stamp, "P6", || {
            format!("entry {index} is stamped {} ms, behind an earlier one", proposal.stamp)
        });
        self.last_stamp = proposal.stamp;
        let before = self.roll.revision();
        let own = self.rewriter.apply(&mut self.roll, Term(entry.at.term), &proposal);
        self.demand(own == outcomes, "P2", || format!("entry {index} is answered differently by another node"));
        let committed = Committed {
            at: entry.at,
            proposal: Some(proposal.clone()),
            outcomes: own.clone(),
            digest: self.roll.digest(),
        };
        self.log.push(committed);
        let holders = self.take_changes(before, entry, &proposal);
        self.check_outcomes(index, &proposal, &own, &holders);
        if let Some(Command::Expire { up_to, .. }) = proposal.commands.last()
            && own.iter().any(|outcome| matches!(outcome, Outcome::Expired { more: false, .. }))
        {
            let (now, up_to) = (self.roll.now(), *up_to);
            let overlooked = self.book.iter().find(|(_, it)| !it.lapsed && it.deadline <= up_to.min(now));
            let overlooked = overlooked.map(|(key, it)| format!("{}, due at {} ms", key.1, it.deadline));
            self.demand(overlooked.is_none(), "P4", || format!("entry {index} expires all but {overlooked:?}"));
        }
    }

    /// Takes the entry's changes into the book, and tells which leases were current before, in between or after.
    fn take_changes(&mut self, before: Revision, entry: &Entry, proposal: &Proposal) -> BTreeSet<LeaseId> {
        let now = self.roll.now();
        let mut holders: BTreeSet<LeaseId> = self.book.values().map(|leased| leased.lease).collect();
        let expires = proposal.commands.iter().any(|command| matches!(command, Command::Expire { .. }));
        let own_word = proposal.once.iter().flat_map(|once| &once.commands);
        let deregistered: BTreeSet<_> = own_word
            .filter_map(|command| match command {
                Command::Deregister { tenant, id, .. } => Some((tenant.clone(), id.clone())),
                _ => None,
            })
            .collect();
        let changes: Vec<_> = {
            let changes = self.roll.changes_after(before).expect("the witness remembers everything");
            changes.map(|change| (change.kind, change.before.cloned(), change.after.cloned())).collect()
        };
        // Renewals that come with no change.
        let renewed: Vec<_> = everything(&self.roll).map(|view| (view.instance.key(), view.deadline)).collect();
        for (kind, was, is) in changes {
            let instance = is.as_ref().or(was.as_ref()).expect("a change is of something").clone();
            let (key, lease) = (instance.key(), instance.lease);
            holders.insert(lease);
            self.trace.push(format!(
                "{:>6} r{} {} {} lease={lease}",
                entry.born / MS,
                self.changes.len() + 1,
                format!("{kind:?}").to_lowercase(),
                key.1
            ));
            self.changes.push(Seen { kind, key: key.clone(), lease });
            self.count("changes");
            let struck = kind == ChangeKind::Expired
                || kind == ChangeKind::Deregistered && expires && !deregistered.contains(&key);
            let has_run_out = |instance: &Instance| instance.presence != Presence::Present;
            let lapses =
                is.as_ref().is_some_and(|is| has_run_out(is)) && was.as_ref().is_some_and(|was| !has_run_out(was));
            if let Some(leased) = self.book.get(&key).cloned()
                && (struck || lapses)
                && leased.lease == lease
                && !leased.lapsed
            {
                self.lapses_now(entry, &leased, now);
            }
            let own = is.as_ref().zip(was.as_ref());
            let new_content = own.is_none_or(|(is, was)| is.registration != was.registration);
            if let (Some(is), true) = (&is, new_content) {
                self.applied_once(is.registration().url);
            }
            match is {
                None => drop(self.book.remove(&key)),
                Some(is) => {
                    let ttl_ms = u64::from(is.registration().ttl_ms);
                    let before = self.book.get(&key).filter(|_| has_run_out(&is)).map(|leased| leased.deadline);
                    let released = is.is_lapsed() && was.is_some_and(|was| was.is_suspect());
                    let deadline = if released { now } else { before.unwrap_or(now.plus_ms(ttl_ms)) };
                    self.book.insert(key, Leased { lease, ttl_ms, deadline, lapsed: has_run_out(&is) });
                }
            }
        }
        for (key, deadline) in renewed {
            if let Some(leased) = self.book.get_mut(&key) {
                let as_book = leased.deadline == deadline || deadline == now.plus_ms(leased.ttl_ms);
                leased.deadline = deadline;
                self.demand(as_book, "P3", || format!("{} has a deadline of its own", key.1));
            }
        }
        holders
    }

    fn lapses_now(&mut self, entry: &Entry, leased: &Leased, now: ClusterTime) {
        self.count("lapses");
        let (lease, index, born) = (leased.lease, entry.at.index, entry.born);
        self.demand(leased.deadline <= now, "P3", || {
            format!("entry {index} strikes off lease {lease} at {now} ms, due at {} ms", leased.deadline)
        });
        self.lapses.entry(lease).or_default().push(Lapse { index, born });
        self.check_lease(lease);
        let (term, grace) = (entry.at.term, 2 * ELECTION_MS_MAX * MS);
        let least = grace - grace * DRIFT_PPM_MAX / 1_000_000;
        let led_for = self.clocks.get(&term).map_or(0, |since| born - since);
        self.demand(led_for >= least, "P5", || {
            format!("entry {index} strikes off lease {lease} {} ms after its leader began", led_for / MS)
        });
    }

    /// Whether no lapse of this lease came sooner than its time after a renewal that was acknowledged.
    fn check_lease(&mut self, lease: LeaseId) {
        let (Some(renewals), Some(lapses)) = (self.renewals.get(&lease), self.lapses.get(&lease)) else { return };
        let early = lapses.iter().find_map(|lapse| {
            let early = renewals.iter().find(|renewal| {
                let ttl = renewal.ttl_ms * MS;
                let least = ttl - ttl * 2 * DRIFT_PPM_MAX / 1_000_000 - MS;
                renewal.index <= lapse.index && lapse.born < renewal.sent_at + least
            })?;
            Some((*lapse, *early))
        });
        if let Some((lapse, renewal)) = early {
            let after = lapse.born.saturating_sub(renewal.sent_at) / MS;
            self.breaks(
                "P3",
                format!("lease {lease} of {} ms lapsed {after} ms after a renewal was sent", renewal.ttl_ms),
            );
        }
    }

    fn applied_once(&mut self, url: &str) {
        let first = !self.effects.contains_key(url);
        self.demand(first, "P1", || format!("the registration {url} was applied twice"));
        let refused = self.refused.contains(url);
        self.demand(!refused, "P1", || format!("the registration {url} was applied, but called not applied"));
        self.changing.insert(url.to_owned());
    }

    fn check_outcomes(&mut self, index: u64, proposal: &Proposal, outcomes: &[Outcome], holders: &BTreeSet<LeaseId>) {
        let once = proposal.once.iter().flat_map(|once| &once.commands);
        let mut of_tenant: BTreeMap<LeaseId, TenantId> = BTreeMap::new();
        for (key, leased) in &self.book {
            of_tenant.insert(leased.lease, key.0.clone());
        }
        for (command, outcome) in proposal.commands.iter().chain(once).zip(outcomes) {
            let held = |lease: LeaseId, tenant: &TenantId| {
                holders.contains(&lease) && of_tenant.get(&lease).is_none_or(|of| of == tenant)
            };
            match (command, outcome) {
                (Command::Renew { tenant, leases }, outcome) => {
                    let wrong = leases
                        .as_slice()
                        .iter()
                        .find(|lease| was_renewed(outcome, **lease) && !held(**lease, tenant));
                    self.demand(wrong.is_none(), "P7", || format!("entry {index} renews {wrong:?}, held by nobody"));
                }
                (Command::Beat { tenant, lease: Some(lease), .. }, Outcome::Beaten(_))
                | (Command::Deregister { tenant, lease: Some(lease), .. }, Outcome::Deregistered { .. }) => {
                    let first = outcome.clone();
                    // What was answered before is answered again, whoever holds the instance now.
                    let again = self.log[..index as usize - 1].iter().rev().take(200).any(|earlier| {
                        earlier.proposal.as_ref().is_some_and(|earlier| {
                            earlier.once.iter().any(|once| proposal.once.iter().any(|own| own.origin == once.origin))
                        })
                    });
                    let right = again || held(*lease, tenant);
                    self.demand(right, "P7", || {
                        format!("entry {index} lets lease {lease} change what it does not hold: {first:?}")
                    });
                }
                (Command::Register { registration, .. }, outcome)
                    if *outcome != Outcome::Refused(Refusal::BatchOutdated) =>
                {
                    let url = registration.view().url.to_string();
                    let done = !matches!(outcome, Outcome::Registered(_)) || self.changing.contains(&url);
                    self.demand(done, "P1", || format!("{url} is answered as registered, and never was"));
                    let first = self.effects.entry(url.clone()).or_insert_with(|| outcome.clone()).clone();
                    self.demand(first == *outcome, "P1", || format!("{url} is answered anew: {outcome:?}"));
                }
                _ => {}
            }
        }
    }

    /// A client was told what became of its registration.
    pub(crate) fn registered(&mut self, url: &str, outcome: &Outcome, index: u64, sent_at: u64, ttl_ms: u64) {
        let known = self.effects.get(url) == Some(outcome);
        self.demand(known, "P1", || format!("{url} was answered {outcome:?} by entry {index}, which says otherwise"));
        if let Outcome::Registered(registered) = outcome {
            self.renewed(registered.lease, index, sent_at, ttl_ms);
        }
    }

    /// A client was told that its lease was renewed.
    pub(crate) fn renewed(&mut self, lease: LeaseId, index: u64, sent_at: u64, ttl_ms: u64) {
        self.count("renewals");
        self.renewals.entry(lease).or_default().push(Renewal { index, sent_at, ttl_ms });
        self.check_lease(lease);
    }

    /// A client was told that its renewal by number did, or did not, take effect.
    pub(crate) fn check_renewal(&mut self, tenant: &TenantId, lease: LeaseId, told: bool, index: u64) {
        let Some(Committed { proposal: Some(proposal), outcomes, .. }) = self.log.get(index as usize - 1) else {
            return self.breaks("P1", format!("a renewal was answered by entry {index}, which renews nothing"));
        };
        let said = proposal.commands.iter().zip(outcomes).find_map(|(command, outcome)| match command {
            Command::Renew { tenant: of, leases } if of == tenant && leases.contains(lease) => {
                Some(was_renewed(outcome, lease))
            }
            _ => None,
        });
        self.demand(said == Some(told), "P1", || format!("entry {index} says otherwise of lease {lease}"));
    }

    /// A node takes its entry for one that is in no log.
    pub(crate) fn disowned(&mut self, at: Position) {
        let committed = self.position(at.index) == Some(at);
        self.demand(!committed, "P1", || format!("entry {} is committed, but called not proposed", at.index));
        self.disowned.push(at);
    }

    /// A client was told that nothing was changed.
    pub(crate) fn refused(&mut self, url: String) {
        self.count("not applied");
        let applied = self.effects.contains_key(&url);
        self.demand(!applied, "P1", || format!("the registration {url} was applied, but called not applied"));
        self.refused.insert(url);
    }

    /// A node answered a client out of an entry.
    pub(crate) fn acknowledged(
        &mut self,
        node: Node,
        index: u64,
        applied: u64,
        copies: usize,
        quorum: usize,
        at: u64,
    ) {
        self.count("acknowledged");
        self.demand(copies >= quorum, "P1", || {
            format!("entry {index} was acknowledged when {copies} nodes had it on disk")
        });
        self.demand(applied >= index, "P8", || {
            format!("node {node} answered out of entry {index}, but has applied {applied} only")
        });
        let most = self.acked.last().map_or(0, |(_, most)| *most);
        if index > most {
            self.acked.push((at, index));
        }
    }

    pub(crate) fn position(&self, index: u64) -> Option<Position> {
        Some(self.log.get(usize::try_from(index).ok()?.checked_sub(1)?)?.at)
    }

    pub(crate) fn acked_until(&self, at: u64) -> u64 {
        let known = self.acked.partition_point(|(since, _)| *since <= at);
        self.acked[..known].last().map_or(0, |(_, index)| *index)
    }

    /// What every linearizable read from now on must show.
    pub(crate) fn known(&self, at: u64) -> u64 {
        self.acked_until(at).max(self.read_index)
    }

    /// A linearizable read was answered that began when `known` was.
    pub(crate) fn read(&mut self, node: Node, known: u64, applied: u64) {
        self.count("linearizable reads");
        self.demand(applied >= known, "P8", || {
            format!("node {node} showed entry {applied} to a read that began after {known} was known")
        });
        self.read_index = self.read_index.max(applied);
    }

    /// A local read was answered, as no older than it says.
    pub(crate) fn read_locally(&mut self, node: Node, applied: u64, revision: Revision, staleness_ms: u64, at: u64) {
        self.count("local reads");
        let age = (staleness_ms + 2) * MS;
        let known = self.acked_until(at.saturating_sub(age + age * 2 * DRIFT_PPM_MAX / 1_000_000));
        self.demand(applied >= known, "P8", || {
            format!("node {node} showed entry {applied} as {staleness_ms} ms old, when {known} was known before that")
        });
        let before = self.shown.insert(node, revision).unwrap_or_default();
        self.demand(before <= revision, "P6", || {
            format!("node {node} showed revision {before}, and then {revision}")
        });
    }

    /// A node took another's checkpoint.
    pub(crate) fn installed(&mut self, node: Node, at: Position, before: &State, after: &State) {
        self.count("snapshots");
        let back = before.revision() > after.revision() || before.now() > after.now();
        self.demand(!back, "P6", || format!("node {node} went back by a snapshot"));
        let equal = self.log.get(at.index as usize - 1).is_some_and(|committed| committed.digest == after.digest());
        self.demand(equal, "P2", || format!("node {node} differs after the snapshot of entry {}", at.index));
    }

    pub(crate) fn last_index(&self) -> u64 {
        self.log.len() as u64
    }

    /// A stretch without a running majority has ended.
    pub(crate) fn was_idle(&mut self, stretch: u64) {
        self.idle += stretch.saturating_sub(ELECTION_MS_MIN * MS + 10 * MS);
    }
}
