//! The rows of a checkpointed state.
//!
//! | column family | key                    | value                                             |
//! |---------------|------------------------|---------------------------------------------------|
//! | `meta`        | `header`               | applied position, membership, what is no row      |
//! | `deadlines`   | lease, big-endian      | when the lease runs out                           |
//! | `instances`   | tenant, 0, instance id | the instance                                      |

use rocksdb::{ColumnFamily, DB, WriteBatch};
use rollcall_registry::state::{Delta, Header};
use rollcall_registry::{LeaseId, TenantId};
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
}

impl Table {
    /// In the order in which a state is made of them.
    pub(super) const ALL: [Self; 2] = [Self::Deadlines, Self::Instances];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Deadlines => "deadlines",
            Self::Instances => "instances",
        }
    }

    pub(super) fn kind(self) -> Kind {
        match self {
            Self::Deadlines => Kind::Deadline,
            Self::Instances => Kind::Instance,
        }
    }
}

pub(super) fn cf<'a>(db: &'a DB, name: &str) -> &'a ColumnFamily {
    db.cf_handle(name).expect("every column family was opened with the database")
}

pub(super) fn lease_key(lease: LeaseId) -> [u8; 8] {
    lease.0.to_be_bytes()
}

/// A tenant's name holds no zero byte, so that no two instances share a key.
pub(super) fn instance_key(tenant: &TenantId, id: &str) -> Vec<u8> {
    [tenant.as_str().as_bytes(), &[0], id.as_bytes()].concat()
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
}

pub(super) fn put_header(db: &DB, batch: &mut WriteBatch, header: &StateHeader) {
    batch.put_cf(cf(db, META), HEADER, codec::seal(Kind::StateHeader, HEADER, header));
}
