//! From the frames of a snapshot to a state: the one way back, at a restart as at an installation.
//!
//! It is what a restart waits for, so it is two threads' work: one reads and decodes, the other makes the state.

use std::panic::resume_unwind;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;

use rollcall_registry::state::{Past, Restoring};
use rollcall_registry::{
    AccessToken, ClusterTime, Definition, FederationRow, Foreign, Instance, JoinToken, LeaseId, Options, Revision,
    Ruling, SignatureRow,
};

use super::frames::{Frame, Row, SnapshotError};
use super::roll::Replicated;
use super::rows::{
    StateHeader, Table, access_token_key, definition_key, federation_key, foreign_key, instance_key, join_token_key,
    lease_key, revision_key, ruling_key, signature_key,
};
use crate::codec::{self, Kind};

/// Decoded frames that wait to be made a state of: enough to even out, a few MiB.
const PIECES_AHEAD_MAX: usize = 8;

/// A frame, decoded.
enum Piece {
    Head(StateHeader),
    Deadlines(Vec<(LeaseId, ClusterTime)>),
    Instances(Vec<Instance>),
    /// From a revision on.
    Past(Vec<(Revision, Vec<Past>)>),
    JoinTokens(Vec<JoinToken>),
    Definitions(Vec<Definition>),
    AccessTokens(Vec<AccessToken>),
    Rulings(Vec<Ruling>),
    Signatures(Vec<SignatureRow>),
    Federation(Vec<FederationRow>),
    Foreign(Vec<Foreign>),
    End,
}

/// Makes a state of the frames that `read` hands on in order, and checks every row and, at the end, the digest of the
/// whole. None if no frame comes.
pub(super) fn load<E: From<SnapshotError>>(
    options: Options,
    read: impl FnOnce(&mut dyn FnMut(Frame) -> Result<(), E>) -> Result<(), E>,
) -> Result<Option<(Replicated, StateHeader)>, E> {
    let (sender, pieces) = sync_channel(PIECES_AHEAD_MAX);
    thread::scope(|scope| {
        let making = thread::Builder::new()
            .name("state-load".to_owned())
            .spawn_scoped(scope, move || make(options, &pieces))
            .map_err(SnapshotError::Thread)?;
        let read = read(&mut |frame| {
            // Who makes the state hangs up only with an error, which then counts.
            Ok(sender.send(decode(frame)?).map_err(|_| SnapshotError::Abandoned)?)
        });
        drop(sender);
        let made = making.join().unwrap_or_else(|panic| resume_unwind(panic))?;
        read.map(|()| made)
    })
}

/// None if the end did not come: whoever reads says why.
fn make(options: Options, pieces: &Receiver<Piece>) -> Result<Option<(Replicated, StateHeader)>, SnapshotError> {
    let mut making: Option<(Restoring, StateHeader)> = None;
    for piece in pieces {
        match (piece, &mut making) {
            (Piece::Head(head), making) => *making = Some((Restoring::new(options, head.header.clone()), head)),
            (Piece::Deadlines(deadlines), Some((restoring, _))) => {
                deadlines.into_iter().for_each(|(lease, deadline)| restoring.deadline(lease, deadline));
            }
            (Piece::Instances(instances), Some((restoring, _))) => {
                for instance in instances {
                    restoring.instance(instance).map_err(SnapshotError::Restore)?;
                }
            }
            (Piece::Past(rows), Some((restoring, _))) => {
                rows.into_iter().for_each(|(first, changes)| restoring.past(first, changes));
            }
            (Piece::JoinTokens(tokens), Some((restoring, _))) => {
                for token in tokens {
                    restoring.join_token(token).map_err(SnapshotError::Restore)?;
                }
            }
            (Piece::Definitions(definitions), Some((restoring, _))) => {
                for definition in definitions {
                    restoring.definition(definition).map_err(SnapshotError::Restore)?;
                }
            }
            (Piece::AccessTokens(tokens), Some((restoring, _))) => {
                for token in tokens {
                    restoring.access_token(token).map_err(SnapshotError::Restore)?;
                }
            }
            (Piece::Rulings(rulings), Some((restoring, _))) => {
                for ruling in rulings {
                    restoring.ruling(ruling).map_err(SnapshotError::Restore)?;
                }
            }
            (Piece::Signatures(rows), Some((restoring, _))) => {
                for row in rows {
                    restoring.signature(row).map_err(SnapshotError::Restore)?;
                }
            }
            (Piece::Federation(rows), Some((restoring, _))) => {
                for row in rows {
                    restoring.federation(row).map_err(SnapshotError::Restore)?;
                }
            }
            (Piece::Foreign(entries), Some((restoring, _))) => {
                for entry in entries {
                    restoring.foreign(entry).map_err(SnapshotError::Restore)?;
                }
            }
            (Piece::End, Some(_)) => return finish(making),
            (_, None) => return Err(SnapshotError::OutOfPlace { frame: 0 }),
        }
    }
    Ok(None)
}

fn finish(making: Option<(Restoring, StateHeader)>) -> Result<Option<(Replicated, StateHeader)>, SnapshotError> {
    let Some((restoring, header)) = making else { return Ok(None) };
    let state = restoring.finish().map_err(SnapshotError::Restore)?;
    let replicated = Replicated::new(state, header.applied, header.membership.clone());
    Ok(Some((replicated, header)))
}

fn decode(frame: Frame) -> Result<Piece, SnapshotError> {
    Ok(match frame {
        Frame::Head(head) => Piece::Head(head),
        Frame::Rows { table: Table::Deadlines, rows } => {
            Piece::Deadlines(rows.iter().map(decode_deadline).collect::<Result<_, _>>()?)
        }
        Frame::Rows { table: Table::Instances, rows } => {
            Piece::Instances(rows.iter().map(decode_instance).collect::<Result<_, _>>()?)
        }
        Frame::Rows { table: Table::History, rows } => {
            Piece::Past(rows.iter().map(decode_past).collect::<Result<_, _>>()?)
        }
        Frame::Rows { table: Table::JoinTokens, rows } => {
            Piece::JoinTokens(rows.iter().map(decode_join_token).collect::<Result<_, _>>()?)
        }
        Frame::Rows { table: Table::Definitions, rows } => {
            Piece::Definitions(rows.iter().map(decode_definition).collect::<Result<_, _>>()?)
        }
        Frame::Rows { table: Table::AccessTokens, rows } => {
            Piece::AccessTokens(rows.iter().map(decode_access_token).collect::<Result<_, _>>()?)
        }
        Frame::Rows { table: Table::Rulings, rows } => {
            Piece::Rulings(rows.iter().map(decode_ruling).collect::<Result<_, _>>()?)
        }
        Frame::Rows { table: Table::Signatures, rows } => {
            Piece::Signatures(rows.iter().map(decode_signature).collect::<Result<_, _>>()?)
        }
        Frame::Rows { table: Table::Federation, rows } => {
            Piece::Federation(rows.iter().map(decode_federation).collect::<Result<_, _>>()?)
        }
        Frame::Rows { table: Table::Foreign, rows } => {
            Piece::Foreign(rows.iter().map(decode_foreign).collect::<Result<_, _>>()?)
        }
        Frame::End { .. } => Piece::End,
    })
}

fn misplaced(table: Table) -> SnapshotError {
    SnapshotError::Key { table: table.name() }
}

fn unreadable(table: Table) -> impl FnOnce(codec::CodecError) -> SnapshotError {
    move |source| SnapshotError::Row { table: table.name(), source }
}

fn decode_deadline(row: &Row) -> Result<(LeaseId, ClusterTime), SnapshotError> {
    let table = Table::Deadlines;
    let lease = LeaseId(u64::from_be_bytes(row.key[..].try_into().map_err(|_| misplaced(table))?));
    let deadline = codec::unseal(Kind::Deadline, &lease_key(lease), &row.record).map_err(unreadable(table))?;
    Ok((lease, deadline))
}

fn decode_instance(row: &Row) -> Result<Instance, SnapshotError> {
    let table = Table::Instances;
    let instance: Instance = codec::unseal(Kind::Instance, &row.key, &row.record).map_err(unreadable(table))?;
    if row.key != instance_key(&instance.tenant, instance.id()) {
        return Err(misplaced(table));
    }
    Ok(instance)
}

fn decode_past(row: &Row) -> Result<(Revision, Vec<Past>), SnapshotError> {
    let table = Table::History;
    let first = Revision(u64::from_be_bytes(row.key[..].try_into().map_err(|_| misplaced(table))?));
    let changes = codec::unseal(Kind::History, &revision_key(first), &row.record).map_err(unreadable(table))?;
    Ok((first, changes))
}

fn decode_join_token(row: &Row) -> Result<JoinToken, SnapshotError> {
    let table = Table::JoinTokens;
    let token: JoinToken = codec::unseal(Kind::JoinToken, &row.key, &row.record).map_err(unreadable(table))?;
    if row.key != join_token_key(token.id) {
        return Err(misplaced(table));
    }
    Ok(token)
}

fn decode_access_token(row: &Row) -> Result<AccessToken, SnapshotError> {
    let table = Table::AccessTokens;
    let token: AccessToken = codec::unseal(Kind::AccessToken, &row.key, &row.record).map_err(unreadable(table))?;
    if row.key != access_token_key(token.id) {
        return Err(misplaced(table));
    }
    Ok(token)
}

fn decode_definition(row: &Row) -> Result<Definition, SnapshotError> {
    let table = Table::Definitions;
    let definition: Definition = codec::unseal(Kind::Definition, &row.key, &row.record).map_err(unreadable(table))?;
    if row.key != definition_key(&definition.tenant, &definition.content.key()) {
        return Err(misplaced(table));
    }
    Ok(definition)
}

fn decode_ruling(row: &Row) -> Result<Ruling, SnapshotError> {
    let table = Table::Rulings;
    let ruling: Ruling = codec::unseal(Kind::Ruling, &row.key, &row.record).map_err(unreadable(table))?;
    if row.key != ruling_key(&ruling.tenant, &ruling.content.key()) {
        return Err(misplaced(table));
    }
    Ok(ruling)
}

fn decode_signature(row: &Row) -> Result<SignatureRow, SnapshotError> {
    let table = Table::Signatures;
    let signature: SignatureRow = codec::unseal(Kind::Signature, &row.key, &row.record).map_err(unreadable(table))?;
    if row.key != signature_key(&signature.key()) {
        return Err(misplaced(table));
    }
    Ok(signature)
}

fn decode_federation(row: &Row) -> Result<FederationRow, SnapshotError> {
    let table = Table::Federation;
    let federation: FederationRow =
        codec::unseal(Kind::Federation, &row.key, &row.record).map_err(unreadable(table))?;
    if row.key != federation_key(&federation.key()) {
        return Err(misplaced(table));
    }
    Ok(federation)
}

fn decode_foreign(row: &Row) -> Result<Foreign, SnapshotError> {
    let table = Table::Foreign;
    let entry: Foreign = codec::unseal(Kind::Foreign, &row.key, &row.record).map_err(unreadable(table))?;
    if row.key != foreign_key(&entry.key()) {
        return Err(misplaced(table));
    }
    Ok(entry)
}
