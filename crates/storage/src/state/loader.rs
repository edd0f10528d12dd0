//! From the frames of a snapshot to a state: the one way back, at a restart as at an installation.

use rollcall_registry::state::Restoring;
use rollcall_registry::{ClusterTime, Instance, LeaseId, Options};

use super::frames::{Frame, Row, SnapshotError};
use super::roll::Replicated;
use super::rows::{StateHeader, Table, instance_key, lease_key};
use crate::codec::{self, Kind};

/// Takes the frames in order and checks every row and, at the end, the digest of the whole.
pub(super) struct Loader {
    options: Options,
    state: Option<(Restoring, StateHeader)>,
}

impl Loader {
    pub(super) fn new(options: Options) -> Self {
        Self { options, state: None }
    }

    pub(super) fn take(&mut self, frame: Frame) -> Result<(), SnapshotError> {
        match (frame, &mut self.state) {
            (Frame::Head(head), state) => {
                *state = Some((Restoring::new(self.options, head.header.clone()), head));
            }
            (Frame::Rows { table, rows }, Some((restoring, _))) => {
                for row in rows {
                    take_row(restoring, table, &row)?;
                }
            }
            (Frame::Rows { .. }, None) => return Err(SnapshotError::OutOfPlace { frame: 0 }),
            (Frame::End { .. }, _) => {}
        }
        Ok(())
    }

    /// None if no frame came.
    pub(super) fn finish(self) -> Result<Option<(Replicated, StateHeader)>, SnapshotError> {
        let Some((restoring, header)) = self.state else { return Ok(None) };
        let state = restoring.finish().map_err(SnapshotError::Restore)?;
        let replicated = Replicated::new(state, header.applied, header.membership.clone());
        Ok(Some((replicated, header)))
    }
}

fn take_row(restoring: &mut Restoring, table: Table, row: &Row) -> Result<(), SnapshotError> {
    let misplaced = || SnapshotError::Key { table: table.name() };
    let unreadable = |source| SnapshotError::Row { table: table.name(), source };
    match table {
        Table::Deadlines => {
            let lease = LeaseId(u64::from_be_bytes(row.key[..].try_into().map_err(|_| misplaced())?));
            let deadline: ClusterTime =
                codec::unseal(Kind::Deadline, &lease_key(lease), &row.record).map_err(unreadable)?;
            restoring.deadline(lease, deadline);
        }
        Table::Instances => {
            let instance: Instance = codec::unseal(Kind::Instance, &row.key, &row.record).map_err(unreadable)?;
            if row.key != instance_key(&instance.tenant, instance.id()) {
                return Err(misplaced());
            }
            restoring.instance(instance).map_err(SnapshotError::Restore)?;
        }
    }
    Ok(())
}
