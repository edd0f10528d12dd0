//! The directory that holds one node's data, and whose it is.
//!
//! ```text
//! LOCK        held by the process that uses the directory
//! IDENTITY    format version, cluster id, node id, whether the node was removed
//! UNFINISHED  what was begun on the directory while no node used it, until it is done
//! log/        the Raft log
//! state/      the checkpointed state
//! snapshots/  snapshots being received
//! ```

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use rollcall_registry::Epoch;
use rustix::fs::FlockOperation;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::codec::{self, CodecError, Kind};
use crate::fs::{create_dir, read_if_present, remove, replace};
use crate::types::NodeId;

const LOCK: &str = "LOCK";
const IDENTITY: &str = "IDENTITY";
const LOG: &str = "log";
const STATE: &str = "state";
const SNAPSHOTS: &str = "snapshots";
const IDENTITY_TMP: &str = "IDENTITY.tmp";
const UNFINISHED: &str = "UNFINISHED";
const UNFINISHED_TMP: &str = "UNFINISHED.tmp";
/// What a file system puts into its root by itself.
const LOST_AND_FOUND: &str = "lost+found";

/// Which cluster: drawn at random when it is founded, shown as a UUID.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ClusterId(pub u128);

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(id) = *self;
        let (a, b, c, d) = (id >> 96, (id >> 80) & 0xFFFF, (id >> 64) & 0xFFFF, (id >> 48) & 0xFFFF);
        write!(f, "{a:08x}-{b:04x}-{c:04x}-{d:04x}-{:012x}", id & 0xFFFF_FFFF_FFFF)
    }
}

impl fmt::Debug for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text that is no cluster id.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a cluster id has the form xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx")]
pub struct ClusterIdError;

impl FromStr for ClusterId {
    type Err = ClusterIdError;

    fn from_str(text: &str) -> Result<Self, ClusterIdError> {
        let groups = text.split('-').map(str::len);
        let digits: String = text.split('-').collect();
        if !groups.eq([8, 4, 4, 4, 12]) || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(ClusterIdError);
        }
        u128::from_str_radix(&digits, 16).map(Self).map_err(|_| ClusterIdError)
    }
}

/// Whose data a directory holds. The format version is that of the file's frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    pub cluster_id: ClusterId,
    pub node_id: NodeId,
    /// The node was removed from its cluster and must not come back under this id.
    pub removed: bool,
}

/// What was begun on a directory and not brought to its end. No node runs on it before that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Unfinished {
    /// A new cluster out of a backup. Nothing in the directory is worth anything yet.
    Restore,
    /// The member of a lost cluster becomes a cluster of its own, with this id and epoch.
    Recovery { cluster_id: ClusterId, epoch: Epoch },
}

impl fmt::Display for Unfinished {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Restore => "restore from a backup",
            Self::Recovery { .. } => "recovery",
        })
    }
}

/// Why a directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    #[error("create data directory {path}")]
    Create {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("lock data directory {path}")]
    Lock {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("data directory {path} is in use: a node runs on it, or has not ended yet")]
    InUse { path: PathBuf },
    #[error("read data directory {path}")]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("directory {path} is no data directory: it has no identity but holds `{found}`")]
    Foreign { path: PathBuf, found: String },
    #[error("data directory {path} has format {found}, but this program knows only format {known}")]
    NewerFormat { path: PathBuf, found: u8, known: u8 },
    #[error("data directory {path} has format {found}, which this program no longer reads: it knows format {known}")]
    OlderFormat { path: PathBuf, found: u8, known: u8 },
    #[error("what data directory {path} says of itself is damaged")]
    Damaged {
        path: PathBuf,
        #[source]
        source: CodecError,
    },
    #[error("data directory {path} belongs to node {node_id}, which was removed from cluster {cluster_id}")]
    Removed { path: PathBuf, cluster_id: ClusterId, node_id: NodeId },
    #[error("a {unfinished} in data directory {path} was cut short: run it again")]
    Unfinished { path: PathBuf, unfinished: Unfinished },
    #[error("note what is begun in data directory {path}")]
    WriteUnfinished {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("clear data directory {path}")]
    Clear {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("write the identity of data directory {path}")]
    WriteIdentity {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("data directory {path} belongs to node {node_id} of cluster {cluster_id} already")]
    Taken { path: PathBuf, cluster_id: ClusterId, node_id: NodeId },
    #[error("data directory {path} has no identity")]
    NoIdentity { path: PathBuf },
}

/// A locked data directory. Other processes are kept out until the last clone, and every store opened from it, is
/// dropped.
#[derive(Clone, Debug)]
pub struct DataDir(Arc<Inner>);

/// A data directory that is not held by this: [`Self::upgrade`] gives it back as long as somebody else holds it.
#[derive(Clone, Debug)]
pub struct WeakDataDir(Weak<Inner>);

impl WeakDataDir {
    pub fn upgrade(&self) -> Option<DataDir> {
        self.0.upgrade().map(DataDir)
    }
}

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    identity: Mutex<Option<Identity>>,
    unfinished: Mutex<Option<Unfinished>>,
    /// The lock lives as long as the open file.
    _lock: File,
    /// Dropped behind the lock, which tells those who wait for it.
    held: watch::Sender<()>,
}

/// Tells when a directory is free again. Does not hold it.
#[derive(Debug)]
pub struct Release(watch::Receiver<()>);

impl Release {
    /// Resolves when nothing in this process holds the directory any more: every store is closed and every task that
    /// still wrote to one has ended.
    pub async fn released(mut self) {
        // Nothing is ever sent: only the sender's end is waited for.
        while self.0.changed().await.is_ok() {}
    }
}

impl DataDir {
    /// Creates the directory if need be and takes it for this process. Refuses a directory that another process uses,
    /// that holds something else, whose format is newer, whose node was removed, or on which something was begun that
    /// is not done.
    pub fn lock(path: impl AsRef<Path>) -> Result<Self, DataDirError> {
        let dir = Self::lock_unfinished(path)?;
        match dir.unfinished() {
            Some(unfinished) => Err(DataDirError::Unfinished { path: dir.path().to_owned(), unfinished }),
            None => Ok(dir),
        }
    }

    /// As [`Self::lock`], for who brings to an end what was begun.
    pub(crate) fn lock_unfinished(path: impl AsRef<Path>) -> Result<Self, DataDirError> {
        let path = path.as_ref().to_owned();
        let parent = path.parent().unwrap_or(&path);
        fs::create_dir_all(parent)
            .and_then(|()| create_dir(&path))
            .map_err(|source| DataDirError::Create { path: path.clone(), source })?;
        // Looked at before the lock file is made, so that nothing is left behind in a directory that is not ours.
        look(&path)?;
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(path.join(LOCK))
            .map_err(|source| DataDirError::Lock { path: path.clone(), source })?;
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(DataDirError::InUse { path }),
            Err(errno) => return Err(DataDirError::Lock { path, source: errno.into() }),
        }
        let (identity, unfinished) = look(&path)?;
        if let Some(Identity { cluster_id, node_id, removed: true }) = identity {
            return Err(DataDirError::Removed { path, cluster_id, node_id });
        }
        let (identity, unfinished) = (Mutex::new(identity), Mutex::new(unfinished));
        Ok(Self(Arc::new(Inner { path, identity, unfinished, _lock: lock, held: watch::Sender::new(()) })))
    }

    pub fn path(&self) -> &Path {
        &self.0.path
    }

    pub fn downgrade(&self) -> WeakDataDir {
        WeakDataDir(Arc::downgrade(&self.0))
    }

    pub fn release(&self) -> Release {
        Release(self.0.held.subscribe())
    }

    /// Whose data this is; none in a new directory.
    pub fn identity(&self) -> Option<Identity> {
        *self.0.identity.lock()
    }

    /// What was begun here and is not done.
    pub(crate) fn unfinished(&self) -> Option<Unfinished> {
        *self.0.unfinished.lock()
    }

    /// Notes, durably, what is begun.
    pub(crate) fn begin(&self, unfinished: Unfinished) -> Result<(), DataDirError> {
        let mut current = self.0.unfinished.lock();
        let record = codec::seal(Kind::Unfinished, UNFINISHED.as_bytes(), &unfinished);
        replace(&self.0.path, UNFINISHED, &record)
            .map_err(|source| DataDirError::WriteUnfinished { path: self.0.path.clone(), source })?;
        *current = Some(unfinished);
        Ok(())
    }

    /// Notes, durably, that what was begun is done.
    pub(crate) fn finish(&self) -> Result<(), DataDirError> {
        let mut current = self.0.unfinished.lock();
        remove(&self.0.path, UNFINISHED)
            .map_err(|source| DataDirError::WriteUnfinished { path: self.0.path.clone(), source })?;
        *current = None;
        Ok(())
    }

    /// Removes the stores and the identity that a restore made.
    pub(crate) fn clear(&self) -> Result<(), DataDirError> {
        let mut identity = self.0.identity.lock();
        let failed = |source| DataDirError::Clear { path: self.0.path.clone(), source };
        for dir in [self.log_path(), self.state_path(), self.snapshots_path()] {
            match fs::remove_dir_all(&dir) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
                _ => {}
            }
        }
        remove(&self.0.path, IDENTITY).map_err(failed)?;
        *identity = None;
        Ok(())
    }

    /// Makes the directories of the stores, unless they are there.
    pub(crate) fn make_stores(&self) -> Result<(), DataDirError> {
        for dir in [self.log_path(), self.state_path(), self.snapshots_path()] {
            create_dir(&dir).map_err(|source| DataDirError::Create { path: dir, source })?;
        }
        Ok(())
    }

    /// Gives a new directory to a node, durably, and makes the directories of its stores: where one of them is missing
    /// later, it was lost. Writing the same identity again changes nothing.
    pub fn write_identity(&self, identity: Identity) -> Result<(), DataDirError> {
        let mut current = self.0.identity.lock();
        match *current {
            Some(own) if own == identity => Ok(()),
            Some(Identity { cluster_id, node_id, .. }) => {
                Err(DataDirError::Taken { path: self.0.path.clone(), cluster_id, node_id })
            }
            None => {
                self.make_stores()?;
                self.keep_identity(identity)?;
                *current = Some(identity);
                Ok(())
            }
        }
    }

    /// Marks the node as removed from its cluster, durably: the directory is refused from now on.
    pub fn mark_removed(&self) -> Result<(), DataDirError> {
        let mut current = self.0.identity.lock();
        let identity = current.ok_or_else(|| DataDirError::NoIdentity { path: self.0.path.clone() })?;
        let identity = Identity { removed: true, ..identity };
        self.keep_identity(identity)?;
        *current = Some(identity);
        Ok(())
    }

    /// Gives the directory to another cluster, durably.
    pub(crate) fn move_to(&self, cluster_id: ClusterId) -> Result<(), DataDirError> {
        let mut current = self.0.identity.lock();
        let identity = current.ok_or_else(|| DataDirError::NoIdentity { path: self.0.path.clone() })?;
        let identity = Identity { cluster_id, ..identity };
        self.keep_identity(identity)?;
        *current = Some(identity);
        Ok(())
    }

    fn keep_identity(&self, identity: Identity) -> Result<(), DataDirError> {
        let record = codec::seal(Kind::Identity, IDENTITY.as_bytes(), &identity);
        replace(&self.0.path, IDENTITY, &record)
            .map_err(|source| DataDirError::WriteIdentity { path: self.0.path.clone(), source })
    }

    /// How much each store holds. Files come and go meanwhile, so that it is a little inexact; what cannot be read
    /// counts nothing.
    pub fn usage(path: &Path) -> [(&'static str, u64); 3] {
        [LOG, STATE, SNAPSHOTS].map(|store| (store, bytes_below(&path.join(store))))
    }

    pub(crate) fn log_path(&self) -> PathBuf {
        self.0.path.join(LOG)
    }

    pub(crate) fn state_path(&self) -> PathBuf {
        self.0.path.join(STATE)
    }

    /// Whether a state was ever opened here.
    pub(crate) fn has_state(&self) -> bool {
        self.state_path().join(crate::state::CURRENT).exists()
    }

    pub(crate) fn snapshots_path(&self) -> PathBuf {
        self.0.path.join(SNAPSHOTS)
    }
}

fn bytes_below(dir: &Path) -> u64 {
    let bytes = |entry: fs::DirEntry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => bytes_below(&entry.path()),
        Ok(metadata) => metadata.len(),
        Err(_) => 0,
    };
    fs::read_dir(dir).into_iter().flatten().flatten().map(bytes).sum()
}

/// Whose directory it is, and what was begun on it.
fn look(path: &Path) -> Result<(Option<Identity>, Option<Unfinished>), DataDirError> {
    let unfinished = read_record(path, UNFINISHED, Kind::Unfinished)?;
    let identity = read_record(path, IDENTITY, Kind::Identity)?;
    if identity.is_none() {
        check_unused(path, unfinished.is_some())?;
    }
    Ok((identity, unfinished))
}

/// Refuses a directory without an identity that holds anything but what is left of an attempt to give it one.
fn check_unused(path: &Path, is_unfinished: bool) -> Result<(), DataDirError> {
    let read = |source| DataDirError::Read { path: path.to_owned(), source };
    for file in fs::read_dir(path).map_err(read)? {
        let file = file.map_err(read)?;
        let name = file.file_name();
        let expected =
            [LOCK, IDENTITY_TMP, UNFINISHED, UNFINISHED_TMP, LOST_AND_FOUND].iter().any(|own| name == *own);
        // A crash before the identity was written leaves these, empty.
        let unused = [LOG, STATE, SNAPSHOTS].iter().any(|own| name == *own)
            && (is_unfinished || fs::read_dir(file.path()).map_err(read)?.next().is_none());
        if !expected && !unused {
            let found = name.to_string_lossy().into_owned();
            return Err(DataDirError::Foreign { path: path.to_owned(), found });
        }
    }
    Ok(())
}

fn read_record<T: DeserializeOwned>(path: &Path, name: &str, kind: Kind) -> Result<Option<T>, DataDirError> {
    let read = |source| DataDirError::Read { path: path.to_owned(), source };
    let Some(record) = read_if_present(&path.join(name)).map_err(read)? else { return Ok(None) };
    match codec::unseal(kind, name.as_bytes(), &record) {
        Ok(value) => Ok(Some(value)),
        Err(CodecError::Version { found, known, .. }) => {
            let path = path.to_owned();
            Err(if found > known {
                DataDirError::NewerFormat { path, found, known }
            } else {
                DataDirError::OlderFormat { path, found, known }
            })
        }
        Err(source) => Err(DataDirError::Damaged { path: path.to_owned(), source }),
    }
}
