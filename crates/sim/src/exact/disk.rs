//! What one node has on its disk, and what of it would survive a loss of power.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use rollcall_registry::state::{Delta, Header, InstanceKey, Past, Restoring};
use rollcall_registry::{
    AccessToken, AccessTokenId, ClusterTime, Definition, DefinitionKey, FederationKey, FederationRow, Foreign,
    ForeignKey, Instance, JoinToken, JoinTokenId, LeaseId, Options, Proposal, Revision, Ruling, RulingKey,
    SignatureKey, SignatureRow, State, TenantId,
};

use crate::random::Random;

/// A place in the log. Terms come first: so the further of two logs is the greater.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Position {
    pub term: u64,
    pub index: u64,
}

#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub at: Position,
    /// Nothing in a leader's first.
    pub proposal: Option<Arc<Proposal>>,
    /// When its stamp was read, by the world's clock. No node looks at it.
    pub born: u64,
}

/// A checkpoint: the rows that storage keeps.
#[derive(Clone, Debug)]
pub(crate) struct Rows {
    pub at: Position,
    header: Header,
    instances: BTreeMap<InstanceKey, Arc<Instance>>,
    deadlines: BTreeMap<LeaseId, ClusterTime>,
    past: BTreeMap<Revision, Vec<Past>>,
    join_tokens: BTreeMap<JoinTokenId, JoinToken>,
    access_tokens: BTreeMap<AccessTokenId, AccessToken>,
    definitions: BTreeMap<(TenantId, DefinitionKey), Arc<Definition>>,
    rulings: BTreeMap<(TenantId, RulingKey), Ruling>,
    signatures: BTreeMap<SignatureKey, SignatureRow>,
    federation: BTreeMap<FederationKey, FederationRow>,
    foreign: BTreeMap<ForeignKey, Foreign>,
}

impl Rows {
    /// The rows before with what has changed since.
    pub(crate) fn write(before: Option<&Rc<Self>>, delta: Delta, at: Position) -> Self {
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
        } = delta;
        let mut rows = before.map_or_else(
            || Self {
                at,
                header: header.clone(),
                instances: BTreeMap::new(),
                deadlines: BTreeMap::new(),
                past: BTreeMap::new(),
                join_tokens: BTreeMap::new(),
                access_tokens: BTreeMap::new(),
                definitions: BTreeMap::new(),
                rulings: BTreeMap::new(),
                signatures: BTreeMap::new(),
                federation: BTreeMap::new(),
                foreign: BTreeMap::new(),
            },
            |rows| Self::clone(rows),
        );
        (rows.at, rows.header) = (at, header);
        rows.instances.retain(|key, _| !removed.contains(key));
        rows.deadlines.retain(|lease, _| !removed_leases.contains(lease));
        rows.instances.extend(instances.into_iter().map(|instance| (instance.key(), instance)));
        rows.deadlines.extend(deadlines);
        if !past.changes.is_empty() {
            rows.past.insert(past.first, past.changes);
        }
        rows.join_tokens.retain(|id, _| !join_tokens.removed.contains(id));
        rows.join_tokens.extend(join_tokens.put.into_iter().map(|token| (token.id, token)));
        rows.access_tokens.retain(|id, _| !access_tokens.removed.contains(id));
        rows.access_tokens.extend(access_tokens.put.into_iter().map(|token| (token.id, token)));
        rows.definitions.retain(|key, _| !definitions.removed.contains(key));
        let key = |definition: &Definition| (definition.tenant.clone(), definition.content.key());
        rows.definitions.extend(definitions.put.into_iter().map(|definition| (key(&definition), definition)));
        rows.rulings.retain(|key, _| !rulings.removed.contains(key));
        let key = |ruling: &Ruling| (ruling.tenant.clone(), ruling.content.key());
        rows.rulings.extend(rulings.put.into_iter().map(|ruling| (key(&ruling), ruling)));
        rows.signatures.retain(|key, _| !signatures.removed.contains(key));
        rows.signatures.extend(signatures.put.into_iter().map(|row| (row.key(), row)));
        rows.federation.retain(|key, _| !federation.removed.contains(key));
        rows.federation.extend(federation.put.into_iter().map(|row| (row.key(), row)));
        rows.foreign.retain(|key, _| !foreign.removed.contains(key));
        rows.foreign.extend(foreign.put.into_iter().map(|entry| (entry.key(), entry)));
        rows.past.retain(|first, changes| first.0 + changes.len() as u64 > past.forgotten.0 + 1);
        rows
    }

    /// The state that these rows are of.
    pub(crate) fn restore(&self, options: Options) -> State {
        let mut restoring = Restoring::new(options, self.header.clone());
        self.deadlines.iter().for_each(|(lease, deadline)| restoring.deadline(*lease, *deadline));
        for instance in self.instances.values() {
            restoring.instance(Instance::clone(instance)).expect("the rows of a checkpoint are whole");
        }
        self.past.iter().for_each(|(first, changes)| restoring.past(*first, changes.clone()));
        for token in self.join_tokens.values() {
            restoring.join_token(token.clone()).expect("the rows of a checkpoint are whole");
        }
        for token in self.access_tokens.values() {
            restoring.access_token(token.clone()).expect("the rows of a checkpoint are whole");
        }
        for definition in self.definitions.values() {
            restoring.definition(Definition::clone(definition)).expect("the rows of a checkpoint are whole");
        }
        for ruling in self.rulings.values() {
            restoring.ruling(ruling.clone()).expect("the rows of a checkpoint are whole");
        }
        for row in self.signatures.values() {
            restoring.signature(row.clone()).expect("the rows of a checkpoint are whole");
        }
        for row in self.federation.values() {
            restoring.federation(row.clone()).expect("the rows of a checkpoint are whole");
        }
        for entry in self.foreign.values() {
            restoring.foreign(entry.clone()).expect("the rows of a checkpoint are whole");
        }
        restoring.finish().expect("the rows of a checkpoint are whole")
    }
}

#[derive(Debug, Default)]
pub(crate) struct Disk {
    /// Kept before it is spoken of.
    pub term: u64,
    pub voted_for: Option<u64>,
    /// How many processes have started on it.
    pub starts: u64,
    /// The log begins after this.
    pub purged: Position,
    pub log: Vec<Entry>,
    /// Up to here the log survives a loss of power.
    pub flushed: u64,
    pub rows: Option<Rc<Rows>>,
}

impl Disk {
    pub(crate) fn last(&self) -> Position {
        self.log.last().map_or(self.purged, |entry| entry.at)
    }

    pub(crate) fn entry(&self, index: u64) -> Option<&Entry> {
        self.log.get(usize::try_from(index.checked_sub(self.purged.index + 1)?).ok()?)
    }

    pub(crate) fn position(&self, index: u64) -> Option<Position> {
        if index == self.purged.index { Some(self.purged) } else { self.entry(index).map(|entry| entry.at) }
    }

    /// Drops everything after an index.
    pub(crate) fn truncate(&mut self, index: u64) {
        self.log.truncate(usize::try_from(index.saturating_sub(self.purged.index)).unwrap_or(usize::MAX));
        self.flushed = self.flushed.min(index);
    }

    /// Forgets what a checkpoint has made needless.
    pub(crate) fn purge(&mut self, index: u64) {
        if let Some(at) = self.position(index).filter(|at| at.index > self.purged.index) {
            self.log.drain(..usize::try_from(index - self.purged.index).expect("a short log"));
            self.purged = at;
            self.flushed = self.flushed.max(index);
        }
    }

    /// Takes another's checkpoint in place of everything up to it.
    pub(crate) fn install(&mut self, rows: Rc<Rows>) {
        let at = rows.at;
        if self.position(at.index) == Some(at) {
            self.purge(at.index);
        } else {
            self.log.clear();
            (self.purged, self.flushed) = (at, at.index);
        }
        self.flushed = self.flushed.max(at.index);
        self.rows = Some(rows);
    }

    /// A loss of power: what was not flushed is gone, or by chance some of it is not.
    pub(crate) fn lose_power(&mut self, random: &mut Random) -> u64 {
        let unflushed = self.last().index - self.flushed;
        let lost = random.below(unflushed + 1);
        let kept = self.last().index - lost;
        let flushed = self.flushed;
        self.truncate(kept);
        self.flushed = flushed.max(kept);
        lost
    }

    /// Whether a loss of power leaves this entry, or a checkpoint that holds it.
    pub(crate) fn keeps(&self, at: Position) -> bool {
        self.rows.as_ref().is_some_and(|rows| rows.at.index >= at.index)
            || self.flushed >= at.index && self.position(at.index).is_some_and(|held| held == at)
    }
}
