//! What is done to a directory while no node uses it: a new cluster out of a backup, and a cluster of one out of what a
//! member of a lost cluster kept.
//!
//! Both end with a log that begins behind the state, a membership of one voter, a later epoch and another cluster id.
//! By the id, members and directories of the cluster before are strangers to the new one, whatever votes and entries
//! they hold: neither takes anything from the other. By the epoch, no resume point of before is taken for one of now.
//!
//! Each notes first what it begins (`data_dir`'s `UNFINISHED`), and a node does not start on the directory until that is
//! done. Cut short, a restore is begun anew, and a recovery goes on: each of its steps can be taken twice.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::{Path, PathBuf};

use openraft::Membership;
use rollcall_registry::{Epoch, FEATURE_LEVEL, Options};

use crate::data_dir::{ClusterId, DataDir, DataDirError, Identity, Unfinished};
use crate::failure::{Health, StoreFailure};
use crate::log::{LogOpenError, LogStore};
use crate::open::{OpenError, Stores, open};
use crate::state::{self, AdoptError, BackupReader, BackupSummary, Moment};
use crate::types::{LogId, Member, NodeId, StoredMembership};

/// Why no cluster was made out of a backup.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    #[error("restore into {path}")]
    Backup {
        path: PathBuf,
        #[source]
        source: AdoptError,
    },
    #[error("the epoch must be later than the backup's, which is {backup}")]
    Epoch { backup: Epoch },
    #[error("make the log in {path}")]
    Log {
        path: PathBuf,
        #[source]
        source: LogOpenError,
    },
    #[error("write the log in {path}")]
    WriteLog {
        path: PathBuf,
        #[source]
        source: StoreFailure,
    },
}

/// Makes a new cluster, of which this directory's node is the only member, out of a backup. The roll, its revision and
/// cluster time are those of the backup; the epoch is the next, or the one given. Blocks.
///
/// The directory must be new, empty, or left by a restore that was cut short. On an error it is empty again.
pub fn restore(
    source: impl Read,
    path: &Path,
    identity: Identity,
    member: Member,
    epoch: Option<Epoch>,
    options: Options,
) -> Result<(BackupSummary, Epoch), RestoreError> {
    // Before the directory is touched: the wrong file may have been named.
    let mut backup = BackupReader::open(source)
        .map_err(|source| RestoreError::Backup { path: path.to_owned(), source: source.into() })?;
    let before = backup.epoch();
    let epoch = epoch.unwrap_or(Epoch(before.0.saturating_add(1)));
    if epoch <= before {
        return Err(RestoreError::Epoch { backup: before });
    }
    let dir = DataDir::lock_unfinished(path)?;
    let path = path.to_owned();
    match (dir.unfinished(), dir.identity()) {
        (Some(Unfinished::Restore), _) => dir.clear()?,
        (Some(unfinished), _) => return Err(DataDirError::Unfinished { path, unfinished }.into()),
        (None, Some(Identity { cluster_id, node_id, .. })) => {
            return Err(DataDirError::Taken { path, cluster_id, node_id }.into());
        }
        (None, None) => {}
    }
    dir.begin(Unfinished::Restore)?;
    let restored = fill(&dir, &mut backup, identity.node_id, member, epoch, options);
    if restored.is_err()
        && let Err(error) = dir.clear().and_then(|()| dir.finish())
    {
        tracing::warn!(error = &error as &dyn std::error::Error, "the next restore will clear the directory");
    }
    restored?;
    dir.write_identity(identity)?;
    dir.finish()?;
    Ok((backup.summary(), epoch))
}

fn fill<R: Read>(
    dir: &DataDir,
    backup: &mut BackupReader<R>,
    node_id: NodeId,
    member: Member,
    epoch: Epoch,
    options: Options,
) -> Result<(), RestoreError> {
    let path = || dir.path().to_owned();
    let refused = |source| RestoreError::Backup { path: path(), source };
    dir.make_stores()?;
    let membership = |applied| alone(applied, node_id, member);
    let applied = state::adopt(dir, options, backup, epoch, membership).map_err(refused)?;
    let log =
        LogStore::open(dir, true, Health::new()).map_err(|source| RestoreError::Log { path: path(), source })?;
    log.begin_behind(applied, node_id).map_err(|source| RestoreError::WriteLog { path: path(), source })
}

/// One voter, since the entry `set_by`.
fn alone(set_by: Option<LogId>, node_id: NodeId, member: Member) -> StoredMembership {
    let member = Member { learner: false, replaces: None, feature_level: FEATURE_LEVEL, ..member };
    let membership = Membership::new(vec![BTreeSet::from([node_id])], BTreeMap::from([(node_id, member)]));
    StoredMembership::new(set_by, membership.expect("the voter is a member"))
}

/// Why a directory was not recovered.
#[derive(Debug, thiserror::Error)]
pub enum RecoveryError {
    #[error("{path} is no directory")]
    NoDirectory { path: PathBuf },
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    #[error("open the store in {path}")]
    Open {
        path: PathBuf,
        #[source]
        source: OpenError,
    },
    #[error("recover the store in {path}")]
    Store {
        path: PathBuf,
        #[source]
        source: StoreFailure,
    },
    #[error("{path} holds nothing: its node never learned anything from the cluster")]
    Nothing { path: PathBuf },
    #[error("no membership in {path} says at which addresses node {node_id} is reached: name them")]
    NoAddress { path: PathBuf, node_id: NodeId },
}

/// A member that does not belong to the recovered cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dropped {
    pub node_id: NodeId,
    pub member: Member,
    pub is_voter: bool,
}

/// What a recovery keeps and what it drops.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecoveryPlan {
    /// Of the cluster that is lost.
    pub cluster_id: ClusterId,
    pub node_id: NodeId,
    /// How the node is reached, if a membership that it knows says so.
    pub member: Option<Member>,
    /// What is kept, in the epoch before.
    pub kept: Moment,
    pub instances: u64,
    pub epoch: Epoch,
    /// Entries at the end of the log of which this node does not know whether they were committed. They are kept.
    pub unknown_entries: u64,
    /// Commands in those entries.
    pub unknown_commands: u64,
    pub dropped: Vec<Dropped>,
    /// An earlier recovery of this directory was cut short, and this one goes on with it.
    pub goes_on: bool,
}

/// A directory that can be recovered. Nothing in it was changed yet; what its log holds was applied in memory.
pub struct Recovery {
    dir: DataDir,
    stores: Stores,
    applied: LogId,
    plan: RecoveryPlan,
}

impl Recovery {
    /// Opens the directory of a node that does not run, and applies its whole log in memory. Blocks.
    pub fn open(path: &Path, options: Options) -> Result<Self, RecoveryError> {
        let path = path.to_owned();
        if !path.is_dir() {
            return Err(RecoveryError::NoDirectory { path });
        }
        let dir = DataDir::lock_unfinished(&path)?;
        if let Some(unfinished @ Unfinished::Restore) = dir.unfinished() {
            return Err(DataDirError::Unfinished { path, unfinished }.into());
        }
        let Some(Identity { cluster_id, node_id, .. }) = dir.identity() else {
            return Err(DataDirError::NoIdentity { path }.into());
        };
        let stores = open(&dir, options).map_err(|source| RecoveryError::Open { path: path.clone(), source })?;
        let known = stores.log.committed().max(stores.roll.applied());
        let (unknown_entries, unknown_commands) =
            apply_rest(&stores, known).map_err(|source| RecoveryError::Store { path: path.clone(), source })?;
        let Some(applied) = stores.roll.applied() else { return Err(RecoveryError::Nothing { path }) };

        let kept = stores.state_machine.moment();
        let membership = stores.roll.membership().membership().clone();
        let voters: BTreeSet<NodeId> = membership.voter_ids().collect();
        let others = membership.nodes().filter(|(id, _)| **id != node_id);
        let dropped = others.map(|(id, member)| Dropped {
            node_id: *id,
            member: member.clone(),
            is_voter: voters.contains(id),
        });
        let (goes_on, epoch) = match dir.unfinished() {
            Some(Unfinished::Recovery { epoch, .. }) => (true, epoch),
            _ => (false, Epoch(kept.epoch.0 + 1)),
        };
        let plan = RecoveryPlan {
            cluster_id,
            node_id,
            member: membership.get_node(&node_id).cloned(),
            kept,
            instances: stores.roll.read(|state| state.len() as u64),
            epoch,
            unknown_entries,
            unknown_commands,
            dropped: dropped.collect(),
            goes_on,
        };
        Ok(Self { dir, stores, applied, plan })
    }

    pub fn plan(&self) -> &RecoveryPlan {
        &self.plan
    }

    /// Makes a cluster of one of the directory, under a new id, and tells that. A recovery that goes on keeps the id it
    /// began with. `member` says how the node is reached; none leaves that as it was. Blocks.
    pub fn finish(self, new_id: ClusterId, member: Option<Member>) -> Result<ClusterId, RecoveryError> {
        let Self { dir, stores, applied, plan } = self;
        let path = || dir.path().to_owned();
        let node_id = plan.node_id;
        let member = member.or(plan.member).ok_or_else(|| RecoveryError::NoAddress { path: path(), node_id })?;
        let cluster_id = match dir.unfinished() {
            Some(Unfinished::Recovery { cluster_id, .. }) => cluster_id,
            _ => {
                dir.begin(Unfinished::Recovery { cluster_id: new_id, epoch: plan.epoch })?;
                new_id
            }
        };
        let membership = alone(Some(applied), node_id, member);
        let Stores { log, state_machine, .. } = &stores;
        let written = state_machine.begin_epoch(plan.epoch, membership);
        let written = written.and_then(|()| log.begin_behind(applied, node_id));
        written.map_err(|source| RecoveryError::Store { path: path(), source })?;
        drop(stores);
        dir.move_to(cluster_id)?;
        dir.finish()?;
        Ok(cluster_id)
    }
}

/// Applies what the log holds beyond the state. Counts the entries behind what is known to be committed, and their
/// commands.
fn apply_rest(stores: &Stores, known: Option<LogId>) -> Result<(u64, u64), StoreFailure> {
    let log = stores.log.reader();
    let (mut entries, mut commands) = (0, 0);
    loop {
        let next = stores.roll.applied().map_or(0, |applied| applied.index + 1);
        let piece = log.read_from(next)?;
        if piece.is_empty() {
            return Ok((entries, commands));
        }
        for entry in piece {
            if Some(entry.log_id) > known {
                entries += 1;
                if let openraft::EntryPayload::Normal(payload) = &entry.payload {
                    commands += payload.proposal().len() as u64;
                }
            }
            stores.state_machine.apply_entry(entry);
        }
    }
}
