//! Random commands against a naive model: every outcome, every query, every page of every cursor and every change
//! must agree, on three replicas that differ in all that a node may choose for itself.
//!
//! A failure names its seed and the line that replays it, with what was proposed up to then.

mod access;
mod model;
mod protection;
mod random;
mod rulings;
mod signatures;
mod wish;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use model::{Key, Model};
use random::Random;
use rollcall_registry::query::Forgotten;
use rollcall_registry::state::{Delta, Header, Past, Restoring};
use rollcall_registry::{
    AccessToken, AccessTokenId, ClusterTime, Definition, DefinitionContent, DefinitionKey, Draw, FederationKey,
    FederationRow, Foreign, ForeignKey, HistoryLimits, Instance, JoinToken, JoinTokenId, LeaseId, Once, Options,
    Origin, Outcome, Page, Position, Presence, Proposal, Query, Refusal, Revision, Ruling, RulingKey, SignatureKey,
    SignatureRow, Sort, State, TenantId, Term, WallTime,
};
use wish::Wish;

const SEEDS: std::ops::Range<u64> = 0..50;
const STEPS: usize = 300;

/// Revisions that the replica with the short memory still knows.
const SHORT_HISTORY: usize = 12;

#[test]
fn p2_p4_p6_p7_p8_p10_agrees_with_the_model() {
    match std::env::var("ROLLCALL_SEED") {
        Ok(seed) => drop(check(seed.parse().expect("ROLLCALL_SEED is a number"))),
        Err(_) => {
            let suspected: u64 = SEEDS.map(check).sum();
            assert!(suspected > 500, "only {suspected} leases were protected: what is to be tried hardly happens");
        }
    }
}

/// How many were suspected.
fn check(seed: u64) -> u64 {
    let trace = RefCell::new(String::new());
    let run = AssertUnwindSafe(|| World::new(seed, &trace).run());
    std::panic::catch_unwind(run).unwrap_or_else(|_| {
        let replay = format!("ROLLCALL_SEED={seed} cargo test -p rollcall-registry --test model");
        panic!("seed {seed} fails, see above; replay it with\n    {replay}\n{}", trace.borrow());
    })
}

/// What storage would hold, and the log since.
#[derive(Default)]
struct Kept {
    header: Option<Header>,
    instances: BTreeMap<Key, Arc<Instance>>,
    deadlines: BTreeMap<LeaseId, ClusterTime>,
    past: BTreeMap<Revision, Vec<Past>>,
    join_tokens: BTreeMap<JoinTokenId, JoinToken>,
    access_tokens: BTreeMap<AccessTokenId, AccessToken>,
    definitions: BTreeMap<(TenantId, DefinitionKey), Definition>,
    rulings: BTreeMap<(TenantId, RulingKey), Ruling>,
    signatures: BTreeMap<SignatureKey, SignatureRow>,
    federation: BTreeMap<FederationKey, FederationRow>,
    foreign: BTreeMap<ForeignKey, Foreign>,
    log: Vec<(Term, Proposal)>,
}

/// A query whose next page has not been asked for yet.
struct Cursor {
    query: Query,
    wishes: Vec<Wish>,
    revision: Revision,
    /// What it was ranked by.
    mark: u64,
    shown: usize,
}

struct World<'a> {
    random: Random,
    trace: &'a RefCell<String>,
    model: Model,
    /// Remembers everything.
    state: State,
    /// Forgets early, and hashes otherwise.
    forgetful: State,
    /// Is restored now and then from what it kept, by a process with another seed.
    restored: State,
    kept: Kept,
    cursors: Vec<Cursor>,
    term: Term,
    clock: ClusterTime,
    batch: u64,
}

impl<'a> World<'a> {
    fn new(seed: u64, trace: &'a RefCell<String>) -> Self {
        let short = HistoryLimits { changes_max: SHORT_HISTORY, bytes_max: usize::MAX };
        let options = |seed, history| Options { seed, history };
        Self {
            random: Random::new(seed),
            trace,
            model: Model::default(),
            state: State::new(options(1, HistoryLimits::default())),
            forgetful: State::new(options(2, short)),
            restored: State::new(options(3, HistoryLimits::default())),
            kept: Kept::default(),
            cursors: Vec::new(),
            term: Term(1),
            clock: ClusterTime(0),
            batch: 0,
        }
    }

    fn run(mut self) -> u64 {
        for _ in 0..STEPS {
            self.step();
            self.query();
            self.turn_a_page();
            if self.random.once_in(12) {
                self.checkpoint();
            }
            if self.random.once_in(30) {
                self.restore();
            }
            self.compare();
        }
        self.state.tally().suspected
    }

    /// One entry of the log, on the model and all replicas.
    fn step(&mut self) {
        if self.random.once_in(40) {
            self.term.0 += 1;
            // The new leader's clock starts behind.
            self.clock.0 = self.clock.0.saturating_sub(self.random.below(2_000));
        }
        self.clock = self.clock.plus_ms(self.random.pick(&[0, 0, 1, 100, 400, 1_000]));
        let before = self.model.revision();
        let commands = (0..self.random.below(4))
            .map(|_| random::command(&mut self.random, before, self.clock, self.term))
            .collect();
        let wall = WallTime(1_000_000 + self.random.below(1_000));
        let proposal = Proposal { stamp: self.clock, wall, commands, once: Vec::new() };
        writeln!(self.trace.borrow_mut(), "{:?} {proposal:?}", self.term).expect("writing to a string");

        let expected = self.model.apply(self.term, &proposal);
        let proposal = if self.random.once_in(3) { self.once(proposal) } else { proposal };
        self.apply(&proposal, &expected);
        self.compare_changes(before);
        if !proposal.once.is_empty() && self.random.once_in(2) {
            // Its answer was lost and it is proposed again: the model does not hear of it, so nothing may change.
            self.apply(&proposal, &expected);
            let mut outdated = proposal;
            let origin = &mut outdated.once[0].origin;
            if self.random.once_in(2) {
                origin.batch -= 1;
            } else {
                // Of an earlier process, whatever its number: perhaps it was applied before, and forgotten since.
                *origin = Origin { start: origin.start - 1, batch: self.random.below(100), ..*origin };
            }
            let refused = expected.iter().map(|_| Outcome::Refused(Refusal::BatchOutdated)).collect();
            self.apply(&outdated, &refused);
        }
    }

    fn apply(&mut self, proposal: &Proposal, expected: &Vec<Outcome>) {
        for state in [&mut self.state, &mut self.forgetful, &mut self.restored] {
            assert_eq!(state.apply(self.term, proposal), *expected);
        }
        self.kept.log.push((self.term, proposal.clone()));
    }

    /// The same commands as some node's next batch.
    fn once(&mut self, proposal: Proposal) -> Proposal {
        self.batch += 1;
        // Now and then the nodes start anew.
        let origin = Origin { node: self.random.below(3), start: 1 + self.batch / 20, batch: 1 + self.batch % 20 };
        Proposal { commands: Vec::new(), once: vec![Once { origin, commands: proposal.commands }], ..proposal }
    }

    /// Every revision is one change of one instance, told with what stood before and after.
    fn compare_changes(&self, since: Revision) {
        let changes: Vec<_> = self.state.changes_after(since).expect("everything is remembered").collect();
        assert_eq!(changes.len() as u64, self.model.revision().0 - since.0);
        for (change, revision) in changes.into_iter().zip(since.0 + 1..) {
            let (kind, key, _) = &self.model.past[revision as usize - 1];
            let (before, after) = (self.model.at(Revision(revision - 1)), self.model.at(Revision(revision)));
            assert_eq!((change.revision.0, change.kind), (revision, *kind));
            assert_eq!(change.instance().key(), *key);
            for (roll, told) in [(before, change.before), (after, change.after)] {
                let agrees = match (roll.get(key), told) {
                    (Some(entry), Some(instance)) => entry.is(instance),
                    (None, None) => true,
                    _ => false,
                };
                assert!(agrees, "revision {revision} tells {told:?} of {:?}", roll.get(key));
            }
        }
    }

    fn query(&mut self) {
        let random = &mut self.random;
        let wishes = Wish::random(random);
        let sort = random.pick(&[Sort::Id, Sort::Rank, Sort::Lease]);
        let limit = random.pick(&[1, 2, 3, 1_000]);
        let (tenant, ranking) = (random::tenant(random), rulings::ranking(random));
        let query = Query { tenant, filter: Wish::filter(&wishes), sort, ranking, after: None, limit };
        let newest = self.model.revision();
        let revision = Revision(newest.0.saturating_sub(if random.once_in(2) { 0 } else { random.below(40) }));

        let page = self.state.query(&query);
        assert_eq!(page.revision, newest);
        for view in &page.found {
            let key = view.instance.key();
            assert_eq!(view.deadline, self.model.deadlines[&key]);
        }
        for other in [&self.forgetful, &self.restored] {
            assert_eq!(shown(&other.query(&query)), shown(&page), "replicas answer differently");
        }
        let mark = self.state.ranking_mark(&query.tenant, &query.ranking);
        let cursor = Cursor { query, wishes, revision: newest, mark, shown: 0 };
        self.compare_page(&cursor, &page);
        self.pick(&cursor);

        let cursor = Cursor { revision, ..cursor };
        let page = self.state.query_at(&cursor.query, revision).expect("everything is remembered");
        let next = self.compare_page(&cursor, &page);
        self.keep_open(cursor, next);
    }

    fn turn_a_page(&mut self) {
        if self.cursors.is_empty() {
            return;
        }
        let at = self.random.below(self.cursors.len() as u64) as usize;
        let cursor = self.cursors.swap_remove(at);
        let mark = self.state.ranking_mark(&cursor.query.tenant, &cursor.query.ranking);
        assert_eq!(self.restored.ranking_mark(&cursor.query.tenant, &cursor.query.ranking), mark);
        if cursor.query.sort == Sort::Rank && cursor.mark != mark {
            // Whoever turns pages is told to begin again.
            return;
        }
        let page = self.state.query_at(&cursor.query, cursor.revision).expect("everything is remembered");
        match self.forgetful.query_at(&cursor.query, cursor.revision) {
            Ok(same) => assert_eq!(shown(&same), shown(&page), "replicas answer differently"),
            Err(Forgotten(revision)) => assert!(revision < self.forgetful.oldest_known()),
        }
        let next = self.compare_page(&cursor, &page);
        self.keep_open(cursor, next);
    }

    fn keep_open(&mut self, cursor: Cursor, next: Option<Position>) {
        if let Some(next) = next
            && self.cursors.len() < 8
        {
            let (shown, query) = (cursor.shown + cursor.query.limit, Query { after: Some(next), ..cursor.query });
            self.cursors.push(Cursor { query, shown, ..cursor });
        }
    }

    fn compare_page(&self, cursor: &Cursor, page: &Page) -> Option<Position> {
        let Cursor { query, wishes, revision, shown, mark: _ } = cursor;
        let all = self.model.found(*revision, &query.tenant, wishes, (query.sort, &query.ranking));
        let expected = &all[(*shown).min(all.len())..(*shown + query.limit).min(all.len())];
        let ids: Vec<&str> = page.found.iter().map(|view| view.instance.id()).collect();
        let agrees = page.found.len() == expected.len()
            && page.found.iter().zip(expected).all(|(view, entry)| entry.is(&view.instance));
        assert!(agrees, "{query:?} at {revision} found {ids:?}, expected {expected:?}");
        assert_eq!(page.total, all.len() as u64, "{query:?} at {revision}");
        assert_eq!(page.revision, *revision);
        assert_eq!(page.next.is_some(), shown + query.limit < all.len(), "{query:?} at {revision}");
        page.next.clone()
    }

    /// Whoever is picked was found, the best first and everybody in turn.
    fn pick(&self, Cursor { query, wishes, revision, .. }: &Cursor) {
        let all = self.model.found(*revision, &query.tenant, wishes, (Sort::Rank, &query.ranking));
        // Those who are suspect stand last, and are looked at only if there are no others.
        let believed = all.iter().take_while(|entry| entry.presence != Presence::Suspect).count();
        let all = if believed > 0 { &all[..believed] } else { &all };
        let picked = |draw| self.state.pick(query, draw).map(|picked| picked.view.instance.id().to_owned());
        let id = |entry: &&model::Entry| entry.registration.id.as_str().to_owned();
        assert_eq!(picked(Draw::Best), all.first().map(id));
        let in_turn = (0..all.len() as u64).filter_map(|n| picked(Draw::Turn(n)));
        let by_lot = (0..all.len() as u64).filter_map(|n| picked(Draw::Weighted(n)));
        let mut expected: Vec<_> = all.iter().map(id).collect();
        expected.sort();
        for mut each in [in_turn.collect::<Vec<_>>(), by_lot.collect()] {
            each.sort();
            assert_eq!(each, expected, "all weigh the same");
        }
    }

    /// Keeps what changed, as storage would: removals first.
    fn checkpoint(&mut self) {
        let Delta {
            header,
            removed,
            removed_leases,
            instances,
            deadlines,
            past,
            join_tokens,
            access_tokens,
            definitions,
            rulings,
            signatures,
            federation,
            foreign,
        } = self.restored.take_delta();
        for key in removed {
            assert!(self.kept.instances.remove(&key).is_some(), "{key:?} was removed, but had no row");
        }
        for lease in removed_leases {
            assert!(self.kept.deadlines.remove(&lease).is_some(), "lease {lease} was removed, but had no row");
        }
        for instance in instances {
            let key = instance.key();
            let before = self.kept.instances.insert(key, instance.clone());
            assert_ne!(before, Some(instance), "an unchanged row was written");
        }
        for (lease, deadline) in deadlines {
            let before = self.kept.deadlines.insert(lease, deadline);
            assert_ne!(before, Some(deadline), "an unchanged row was written");
        }
        if !past.changes.is_empty() {
            let before = self.kept.past.insert(past.first, past.changes);
            assert_eq!(before, None, "a part of the history was written twice");
        }
        for id in join_tokens.removed {
            assert!(self.kept.join_tokens.remove(&id).is_some(), "token {id} was removed, but had no row");
        }
        for token in join_tokens.put {
            self.kept.join_tokens.insert(token.id, token);
        }
        for id in access_tokens.removed {
            assert!(self.kept.access_tokens.remove(&id).is_some(), "token {id} was removed, but had no row");
        }
        for token in access_tokens.put {
            self.kept.access_tokens.insert(token.id, token);
        }
        for key in definitions.removed {
            assert!(self.kept.definitions.remove(&key).is_some(), "{key:?} was removed, but had no row");
        }
        for definition in definitions.put {
            let key = (definition.tenant.clone(), definition.content.key());
            let before = self.kept.definitions.insert(key, (*definition).clone());
            assert_ne!(before, Some((*definition).clone()), "an unchanged row was written");
        }
        for row in rulings.removed {
            assert!(self.kept.rulings.remove(&row).is_some(), "{row:?} was removed, but had no row");
        }
        for ruling in rulings.put {
            self.kept.rulings.insert((ruling.tenant.clone(), ruling.content.key()), ruling);
        }
        for key in federation.removed {
            assert!(self.kept.federation.remove(&key).is_some(), "{key:?} was removed, but had no row");
        }
        self.kept.federation.extend(federation.put.into_iter().map(|row| (row.key(), row)));
        for key in foreign.removed {
            assert!(self.kept.foreign.remove(&key).is_some(), "{key:?} was removed, but had no row");
        }
        self.kept.foreign.extend(foreign.put.into_iter().map(|entry| (entry.key(), entry)));
        for key in signatures.removed {
            assert!(self.kept.signatures.remove(&key).is_some(), "{key:?} was removed, but had no row");
        }
        for row in signatures.put {
            self.kept.signatures.insert(row.key(), row);
        }
        self.kept.header = Some(header);
        self.kept.log.clear();
    }

    /// Loads the last checkpoint and replays the log since.
    fn restore(&mut self) {
        let Some(header) = self.kept.header.clone() else { return };
        let options = Options { seed: self.random.next(), history: HistoryLimits::default() };
        let mut restoring = Restoring::new(options, header);
        self.kept.deadlines.iter().for_each(|(lease, deadline)| restoring.deadline(*lease, *deadline));
        for instance in self.kept.instances.values() {
            restoring.instance((**instance).clone()).expect("the rows are whole");
        }
        // Part of it may have been lost on the way; then what came before is forgotten.
        let first = if self.random.once_in(3) {
            Revision(self.random.below(self.model.revision().0 + 1))
        } else {
            Revision(0)
        };
        self.kept.past.range(first..).for_each(|(first, changes)| restoring.past(*first, changes.clone()));
        for token in self.kept.join_tokens.values() {
            restoring.join_token(token.clone()).expect("the rows are whole");
        }
        for token in self.kept.access_tokens.values() {
            restoring.access_token(token.clone()).expect("the rows are whole");
        }
        for definition in self.kept.definitions.values() {
            restoring.definition(definition.clone()).expect("the rows are whole");
        }
        for ruling in self.kept.rulings.values() {
            restoring.ruling(ruling.clone()).expect("the rows are whole");
        }
        for row in self.kept.federation.values() {
            restoring.federation(row.clone()).expect("the rows are whole");
        }
        for entry in self.kept.foreign.values() {
            restoring.foreign(entry.clone()).expect("the rows are whole");
        }
        for row in self.kept.signatures.values() {
            restoring.signature(row.clone()).expect("the rows are whole");
        }
        self.restored = restoring.finish().expect("the rows are whole");
        let known = self.kept.past.range(first..).next().map_or(self.restored.revision().0, |(first, _)| first.0 - 1);
        assert_eq!(self.restored.oldest_known(), Revision(known));
        for (term, proposal) in &self.kept.log {
            self.restored.apply(*term, proposal);
        }
    }

    fn compare(&mut self) {
        let model = &self.model;
        // Mostly what a leader asks, and now and then all there is to know.
        let by = if self.random.once_in(10) { ClusterTime(u64::MAX) } else { model.now };
        for state in [&mut self.state, &mut self.forgetful, &mut self.restored] {
            state.assert_consistent();
            assert_eq!((state.now(), state.wall()), (model.now, model.wall));
            assert_eq!(state.revision(), model.revision());
            assert!(state.join_tokens().eq(model.join_tokens.values()));
            assert!(state.access_tokens().eq(model.access_tokens.values()));
            model.rulings.agrees_with(&model.protections, state);
            model.signatures.compare(state);
            assert_eq!(state.len(), model.roll.len());
            let definitions = state.definitions();
            assert_eq!(definitions.len(), model.definitions.len());
            for definition in &model.definitions {
                let Definition { tenant, content, .. } = definition;
                let found = definitions.get(tenant, &content.key());
                assert_eq!(found.map(|found| &**found), Some(definition));
                if let DefinitionContent::Schema(schema) = content {
                    let of_name = |other: &&Definition| match &other.content {
                        DefinitionContent::Schema(other_schema) => {
                            other.tenant == *tenant && other_schema.name == schema.name
                        }
                        _ => false,
                    };
                    let latest = model.definitions.iter().filter(of_name).map(|other| other.edition).max();
                    let found = definitions.latest_schema(tenant, &schema.name);
                    assert_eq!(found.map(|found| found.edition), latest);
                }
            }
            assert_eq!(state.next_due_by(by), model.next_due().filter(|due| *due <= by));
            for ((tenant, id), entry) in &model.roll {
                let view = state.get(tenant, id).expect("the model has it");
                assert!(entry.is(&view.instance), "{:?} is {entry:?}", view.instance);
                assert_eq!(view.deadline, model.deadlines[&(tenant.clone(), id.clone())]);
                assert_eq!(state.holder(entry.lease), Some(&view.instance));
                let own = model.roll.keys().filter(|key| key.0 == *tenant).count();
                assert_eq!(state.tenant_len(tenant), own);
            }
        }
        assert_eq!(self.state.digest(), self.forgetful.digest());
        assert_eq!(self.state.digest(), self.restored.digest());
        let oldest = model.revision().0.saturating_sub(SHORT_HISTORY as u64);
        assert_eq!(self.forgetful.oldest_known(), Revision(oldest));
    }
}

fn shown(page: &Page) -> (Vec<&Arc<Instance>>, u64, Revision, Option<&Position>) {
    (page.found.iter().map(|view| &view.instance).collect(), page.total, page.revision, page.next.as_ref())
}
