//! The rows of a checkpointed state.
//!
//! | column family | key                    | value                                             |
//! |---------------|------------------------|---------------------------------------------------|
//! | `meta`        | `header`               | applied position, membership, what is no row      |
//! | `deadlines`   | lease, big-endian      | when the lease runs out                           |
//! | `instances`   | tenant, 0, instance id | the instance                                      |
//! | `history`     | revision, big-endian   | the changes from this revision to the next row's  |
//! | `join_tokens` | id, big-endian         | a token with which nodes join                     |
//! | `definitions` | tenant, 0, sort, names | the definition of an event, a schema, a rule      |
//! | `access_tokens` | id, big-endian       | a token that proves who asks                      |
//! | `rulings`     | tenant, 0, sort, name  | what an operator laid down beside the roll        |
//! | `signatures`  | tenant, 0, sort, owner | how a tenant takes signatures, an owner's key     |
//! | `federation`  | sort, name             | another cluster, this one's key                   |
//! | `foreign`     | peer, 0, tenant, 0, id | an instance of another cluster                    |

use std::sync::Arc;

use rocksdb::{ColumnFamily, DB, IteratorMode, WriteBatch};
use rollcall_registry::state::{
    AccessTokenDelta, Delta, FederationDelta, ForeignDelta, Header, JoinTokenDelta, PastDelta, RulingsDelta,
    SignaturesDelta,
};
use rollcall_registry::{
    AccessTokenId, DefinitionKey, FederationKey, FederationRow, ForeignKey, Instance, JoinTokenId, LeaseId, Revision,
    RulingKey, SignatureKey, TenantId,
};
use serde::{Deserialize, Serialize};

use crate::codec::{self, Kind};
use crate::types::{LogId, SnapshotMeta, StoredMembership};

pub(super) const META: &str = "meta";
pub(super) const HEADER: &[u8] = b"header";

/// The row that makes the others a state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StateHeader {
    pub(crate) applied: Option<LogId>,
    pub(crate) membership: StoredMembership,
    pub(crate) header: Header,
}

impl StateHeader {
    pub(super) fn meta(&self) -> SnapshotMeta {
        SnapshotMeta { last_log_id: self.applied, last_membership: self.membership.clone() }
    }
}

/// Where rows stand. Variants are only ever added at the end: the position is the wire format of snapshots.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Table {
    Deadlines,
    Instances,
    History,
    JoinTokens,
    Definitions,
    AccessTokens,
    Rulings,
    Signatures,
    Federation,
    Foreign,
}

impl Table {
    /// In the order in which a state is made of them.
    pub(super) const ALL: [Self; 10] = [
        Self::Deadlines,
        Self::Instances,
        Self::History,
        Self::JoinTokens,
        Self::Definitions,
        Self::AccessTokens,
        Self::Rulings,
        Self::Signatures,
        Self::Federation,
        Self::Foreign,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Deadlines => "deadlines",
            Self::Instances => "instances",
            Self::History => "history",
            Self::JoinTokens => "join_tokens",
            Self::Definitions => "definitions",
            Self::AccessTokens => "access_tokens",
            Self::Rulings => "rulings",
            Self::Signatures => "signatures",
            Self::Federation => "federation",
            Self::Foreign => "foreign",
        }
    }

    pub(super) fn kind(self) -> Kind {
        match self {
            Self::Deadlines => Kind::Deadline,
            Self::Instances => Kind::Instance,
            Self::History => Kind::History,
            Self::JoinTokens => Kind::JoinToken,
            Self::Definitions => Kind::Definition,
            Self::AccessTokens => Kind::AccessToken,
            Self::Rulings => Kind::Ruling,
            Self::Signatures => Kind::Signature,
            Self::Federation => Kind::Federation,
            Self::Foreign => Kind::Foreign,
        }
    }
}

pub(super) fn cf<'a>(db: &'a DB, name: &str) -> &'a ColumnFamily {
    db.cf_handle(name).expect("every column family was opened with the database")
}

pub(super) fn revision_key(revision: Revision) -> [u8; 8] {
    revision.0.to_be_bytes()
}

pub(super) fn lease_key(lease: LeaseId) -> [u8; 8] {
    lease.0.to_be_bytes()
}

pub(super) fn access_token_key(id: AccessTokenId) -> [u8; 8] {
    id.0.to_be_bytes()
}

pub(super) fn join_token_key(id: JoinTokenId) -> [u8; 8] {
    id.0.to_be_bytes()
}

/// A tenant's name holds no zero byte, so that no two instances share a key.
pub(super) fn instance_key(tenant: &TenantId, id: &str) -> Vec<u8> {
    [tenant.as_str().as_bytes(), &[0], id.as_bytes()].concat()
}

/// Neither do names hold one, so that no two definitions share a key.
pub(super) fn definition_key(tenant: &TenantId, key: &DefinitionKey) -> Vec<u8> {
    let (sort, names) = match key {
        DefinitionKey::Event(name) => (b'e', [Some(name), None]),
        DefinitionKey::Schema(name, version) => (b's', [Some(name), Some(version)]),
        DefinitionKey::Compatibility(name) => (b'c', [Some(name), None]),
    };
    let mut bytes = [tenant.as_str().as_bytes(), &[0, sort]].concat();
    for name in names.into_iter().flatten() {
        bytes.push(0);
        bytes.extend_from_slice(name.as_str().as_bytes());
    }
    bytes
}

/// As for definitions.
pub(super) fn ruling_key(tenant: &TenantId, key: &RulingKey) -> Vec<u8> {
    let (sort, name) = match key {
        RulingKey::Order(id) => (b'o', id.as_str()),
        RulingKey::Trust(owner) => (b't', owner.as_str()),
        RulingKey::Ranking => (b'r', ""),
        RulingKey::Quota => (b'q', ""),
        RulingKey::Checks => (b'c', ""),
        RulingKey::Protection => (b'p', ""),
        RulingKey::Vigil => (b'v', ""),
        RulingKey::Target(name) => (b'a', name.as_str()),
    };
    [tenant.as_str().as_bytes(), &[0, sort], name.as_bytes()].concat()
}

/// No name holds a zero byte.
pub(super) fn signature_key(key: &SignatureKey) -> Vec<u8> {
    let (tenant, sort, owner) = match key {
        SignatureKey::Mode(tenant) => (tenant, b'm', ""),
        SignatureKey::Owner(tenant, owner) => (tenant, b'o', &**owner),
    };
    [tenant.as_str().as_bytes(), &[0, sort], owner.as_bytes()].concat()
}

pub(super) fn federation_key(key: &FederationKey) -> Vec<u8> {
    match key {
        FederationKey::Seed => b"k".to_vec(),
        FederationKey::Peer(name) => [b"p", name.as_str().as_bytes()].concat(),
    }
}

/// Neither a peer's name nor a tenant's holds a zero byte.
pub(super) fn foreign_key((peer, tenant, id): &ForeignKey) -> Vec<u8> {
    [peer.as_str().as_bytes(), &[0], tenant.as_str().as_bytes(), &[0], id.as_str().as_bytes()].concat()
}

/// About what [`put_delta`] and [`put_past`] add to a batch, rather more than less.
pub(super) fn delta_bytes(delta: &Delta) -> usize {
    /// The key with its length, and of the record what is neither registration nor reported metadata.
    const BESIDE: usize = 128;
    /// Two names, an address and a secret.
    const RULING_BYTES: usize = 1_536;
    let of_instance = |instance: &Arc<Instance>| -> usize {
        instance.tenant.as_str().len() + instance.id().len() + instance.bytes() + BESIDE
    };
    let before = delta.past.changes.iter().filter_map(|change| change.before.as_ref());
    let instances: usize = delta.instances.iter().chain(before).map(of_instance).sum();
    let past = delta.past.changes.len();
    let others = delta.deadlines.len() + delta.removed.len() + delta.removed_leases.len() + past;
    let definitions: usize = delta.definitions.put.iter().map(|definition| definition.content.bytes() + BESIDE).sum();
    let rulings = (delta.rulings.put.len() + delta.rulings.removed.len()) * RULING_BYTES;
    // Two names and what the owner retired.
    let signatures = delta.signatures.put.len() * 2_048;
    let removed = delta.definitions.removed.len()
        + delta.signatures.removed.len() * 4
        + delta.federation.removed.len()
        + delta.foreign.removed.len() * 4;
    let foreign = delta.foreign.put.iter().map(|entry| entry.instance.bytes() + 4 * BESIDE).sum::<usize>();
    let authorities = |row: &FederationRow| match row {
        FederationRow::Peer(peer) => peer.terms.ca.as_ref().map_or(0, |ca| ca.len()),
        FederationRow::Seed(_) => 0,
    };
    let peers: usize = delta.federation.put.iter().map(|row| authorities(row) + 4_096).sum();
    instances + foreign + peers + definitions + rulings + signatures + (others + removed) * BESIDE / 2
}

/// Adds to a batch what turns the rows of the checkpoint before into those of this one.
pub(super) fn put_delta(db: &DB, batch: &mut WriteBatch, delta: &Delta) {
    let (deadlines, instances) = (cf(db, Table::Deadlines.name()), cf(db, Table::Instances.name()));
    for (tenant, id) in &delta.removed {
        batch.delete_cf(instances, instance_key(tenant, id.as_str()));
    }
    for lease in &delta.removed_leases {
        batch.delete_cf(deadlines, lease_key(*lease));
    }
    for instance in &delta.instances {
        let key = instance_key(&instance.tenant, instance.id());
        let record = codec::seal(Kind::Instance, &key, &**instance);
        batch.put_cf(instances, key, record);
    }
    for (lease, deadline) in &delta.deadlines {
        let key = lease_key(*lease);
        batch.put_cf(deadlines, key, codec::seal(Kind::Deadline, &key, deadline));
    }
    put_join_tokens(db, batch, &delta.join_tokens);
    put_access_tokens(db, batch, &delta.access_tokens);
    put_signatures(db, batch, &delta.signatures);
    put_federation(db, batch, &delta.federation);
    put_foreign(db, batch, &delta.foreign);
    let definitions = cf(db, Table::Definitions.name());
    for (tenant, key) in &delta.definitions.removed {
        batch.delete_cf(definitions, definition_key(tenant, key));
    }
    for definition in &delta.definitions.put {
        let key = definition_key(&definition.tenant, &definition.content.key());
        let record = codec::seal(Kind::Definition, &key, &**definition);
        batch.put_cf(definitions, key, record);
    }
    put_rulings(db, batch, &delta.rulings);
}

fn put_rulings(db: &DB, batch: &mut WriteBatch, delta: &RulingsDelta) {
    let rulings = cf(db, Table::Rulings.name());
    delta.removed.iter().for_each(|(tenant, key)| batch.delete_cf(rulings, ruling_key(tenant, key)));
    for ruling in &delta.put {
        let key = ruling_key(&ruling.tenant, &ruling.content.key());
        let record = codec::seal(Kind::Ruling, &key, ruling);
        batch.put_cf(rulings, key, record);
    }
}

fn put_join_tokens(db: &DB, batch: &mut WriteBatch, delta: &JoinTokenDelta) {
    let tokens = cf(db, Table::JoinTokens.name());
    delta.removed.iter().for_each(|id| batch.delete_cf(tokens, join_token_key(*id)));
    for token in &delta.put {
        let key = join_token_key(token.id);
        batch.put_cf(tokens, key, codec::seal(Kind::JoinToken, &key, token));
    }
}

fn put_access_tokens(db: &DB, batch: &mut WriteBatch, delta: &AccessTokenDelta) {
    let tokens = cf(db, Table::AccessTokens.name());
    delta.removed.iter().for_each(|id| batch.delete_cf(tokens, access_token_key(*id)));
    for token in &delta.put {
        let key = access_token_key(token.id);
        batch.put_cf(tokens, key, codec::seal(Kind::AccessToken, &key, token));
    }
}

fn put_signatures(db: &DB, batch: &mut WriteBatch, delta: &SignaturesDelta) {
    let signatures = cf(db, Table::Signatures.name());
    delta.removed.iter().for_each(|key| batch.delete_cf(signatures, signature_key(key)));
    for row in &delta.put {
        let key = signature_key(&row.key());
        batch.put_cf(signatures, &key, codec::seal(Kind::Signature, &key, row));
    }
}

fn put_federation(db: &DB, batch: &mut WriteBatch, delta: &FederationDelta) {
    let federation = cf(db, Table::Federation.name());
    delta.removed.iter().for_each(|key| batch.delete_cf(federation, federation_key(key)));
    for row in &delta.put {
        let key = federation_key(&row.key());
        batch.put_cf(federation, &key, codec::seal(Kind::Federation, &key, row));
    }
}

fn put_foreign(db: &DB, batch: &mut WriteBatch, delta: &ForeignDelta) {
    let foreign = cf(db, Table::Foreign.name());
    delta.removed.iter().for_each(|key| batch.delete_cf(foreign, foreign_key(key)));
    for entry in &delta.put {
        let key = foreign_key(&entry.key());
        batch.put_cf(foreign, &key, codec::seal(Kind::Foreign, &key, entry));
    }
}

/// Changes of the history in one row, if they are small.
const PAST_CHANGES: usize = 1_024;
/// A row ends when it has about this many bytes; a change of its own may be larger.
const PAST_BYTES: usize = 128 << 10;

/// Adds to a batch what turns the history of the checkpoint before into that of this one.
pub(super) fn put_past(db: &DB, batch: &mut WriteBatch, past: &PastDelta) -> Result<(), rocksdb::Error> {
    let history = cf(db, Table::History.name());
    let mut first = past.first;
    let mut rest = &past.changes[..];
    while !rest.is_empty() {
        let mut bytes = 0;
        let fitting = rest.iter().take(PAST_CHANGES).take_while(|change| {
            let fits = bytes < PAST_BYTES;
            bytes += change.before.as_ref().map_or(0, |before| before.bytes());
            fits
        });
        let (row, later) = rest.split_at(fitting.count());
        let key = revision_key(first);
        batch.put_cf(history, key, codec::seal(Kind::History, &key, &row));
        first.0 += row.len() as u64;
        rest = later;
    }
    // A row is of no use when what comes after it begins with what is remembered, or before.
    let first_known = revision_key(Revision(past.forgotten.0.saturating_add(1)));
    let mut row_before: Option<Box<[u8]>> = None;
    for row in db.iterator_cf(history, IteratorMode::Start) {
        let (key, _) = row?;
        if *key > first_known[..] {
            return Ok(());
        }
        if let Some(useless) = row_before.replace(key) {
            batch.delete_cf(history, useless);
        }
    }
    if let Some(last) = row_before.filter(|_| revision_key(past.first) <= first_known) {
        batch.delete_cf(history, last);
    }
    Ok(())
}

pub(super) fn put_header(db: &DB, batch: &mut WriteBatch, header: &StateHeader) {
    batch.put_cf(cf(db, META), HEADER, codec::seal(Kind::StateHeader, HEADER, header));
}
