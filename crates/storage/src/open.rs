//! Opening everything that one node keeps.

use std::io;
use std::panic::resume_unwind;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;

use rollcall_registry::Options;

use crate::data_dir::DataDir;
use crate::failure::{FailureWatch, Health};
use crate::log::{ImaginedDisk, LogEnd, LogOpenError, LogStore, MemoryLog};
use crate::meter::Histogram;
use crate::state::{self, Backups, Loaded, Roll, SnapshotReceiver, StateMachine, StateOpenError};
use crate::types::LogId;

/// Why a node's stores cannot be opened. Nothing is repaired: a node that has lost something is replaced.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("data directory {path} has no identity")]
    NoIdentity { path: PathBuf },
    #[error("directory {path} is missing")]
    Missing { path: PathBuf },
    #[error("clear away received snapshots in {path}")]
    Snapshots {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("start the thread that checks the log")]
    Thread(#[source] io::Error),
    #[error("take an imagined disk")]
    Imagined(#[source] io::Error),
    #[error(transparent)]
    Log(#[from] LogOpenError),
    #[error(transparent)]
    State(#[from] StateOpenError),
    #[error("the log is purged up to {purged}, but the state was kept only up to {applied:?}")]
    StateBehindLog { purged: LogId, applied: Option<LogId> },
}

/// A node's stores, open.
pub struct Stores<L = LogStore> {
    pub log: L,
    pub log_end: LogEnd,
    pub state_machine: StateMachine,
    pub roll: Roll,
    pub receiver: SnapshotReceiver,
    pub backups: Backups,
    pub failure: FailureWatch,
    /// How long each flush of the log took.
    pub flush_durations: Arc<Histogram>,
}

/// Opens and checks a node's stores; blocks for as long as reading them takes. The directory must bear an identity.
/// `options` are the node's own choices for the state in memory.
pub fn open(dir: &DataDir, options: Options) -> Result<Stores, OpenError> {
    look(dir)?;
    let health = Health::new();
    // The log is made first. So once there is a state, a log that is missing was lost and is not made anew.
    let (log, loaded) = if dir.has_state() {
        open_both(dir, options, &health)?
    } else {
        (LogStore::open(dir, true, health.clone())?, state::load(dir, options)?)
    };
    let state_machine = StateMachine::new(dir, options, loaded, Arc::new(log.reader()), health.clone());
    let parts = LogParts { end: log.end(), purged: log.purged(), flush_durations: log.flush_durations() };
    assemble(dir, log, parts, state_machine, &health)
}

/// As [`open`], but the log is on a disk that is imagined. Must be called within a runtime.
pub fn open_imagined(dir: &DataDir, options: Options, disk: &ImaginedDisk) -> Result<Stores<MemoryLog>, OpenError> {
    look(dir)?;
    let health = Health::new();
    let log = MemoryLog::open(disk, health.clone()).map_err(OpenError::Imagined)?;
    let loaded = state::load(dir, options)?;
    let state_machine = StateMachine::new(dir, options, loaded, Arc::new(log.reader()), health.clone());
    let parts = LogParts { end: log.end(), purged: log.purged(), flush_durations: log.flush_durations() };
    assemble(dir, log, parts, state_machine, &health)
}

fn look(dir: &DataDir) -> Result<(), OpenError> {
    if dir.identity().is_none() {
        return Err(OpenError::NoIdentity { path: dir.path().to_owned() });
    }
    for path in [dir.log_path(), dir.state_path(), dir.snapshots_path()] {
        if !path.is_dir() {
            return Err(OpenError::Missing { path });
        }
    }
    Ok(())
}

/// What others than openraft are told of a log.
struct LogParts {
    end: LogEnd,
    purged: Option<LogId>,
    flush_durations: Arc<Histogram>,
}

fn assemble<L>(
    dir: &DataDir,
    log: L,
    parts: LogParts,
    state_machine: StateMachine,
    health: &Health,
) -> Result<Stores<L>, OpenError> {
    let LogParts { end: log_end, purged, flush_durations } = parts;
    let applied = state_machine.roll().applied();
    if let Some(purged) = purged
        && applied < Some(purged)
    {
        return Err(OpenError::StateBehindLog { purged, applied });
    }
    let receiver = SnapshotReceiver::open(dir.snapshots_path(), health.clone())
        .map_err(|source| OpenError::Snapshots { path: dir.snapshots_path(), source })?;
    let (roll, backups) = (state_machine.roll().clone(), state_machine.backups());
    Ok(Stores { log, log_end, state_machine, roll, receiver, backups, failure: health.watch(), flush_durations })
}

/// Checks the log while the state is loaded: a restart waits for both.
fn open_both(dir: &DataDir, options: Options, health: &Health) -> Result<(LogStore, Loaded), OpenError> {
    thread::scope(|scope| {
        let log = thread::Builder::new()
            .name("log-open".to_owned())
            .spawn_scoped(scope, || LogStore::open(dir, false, health.clone()))
            .map_err(OpenError::Thread)?;
        let loaded = state::load(dir, options);
        let log = log.join().unwrap_or_else(|panic| resume_unwind(panic))?;
        Ok((log, loaded?))
    })
}
