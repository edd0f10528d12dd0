//! A backup: a snapshot with a few words before it of whose it is, in one chain of checksums. It vouches for itself: what
//! was changed, lost or cut off is noticed without anything beside the file.
//!
//! ```text
//! rollcall-backup\n    so that nothing else is taken for one
//! frame                which cluster, which node, which version of the program
//! frames               a snapshot, see `frames`
//! ```

use std::io::{self, Read, Write};
use std::sync::Weak;

use bytes::Bytes;
use futures_util::Stream;
use rollcall_registry::{ClusterTime, Digest, Epoch, Options, Revision, WallTime};
use serde::{Deserialize, Serialize};

use super::checkpoints::Checkpoints;
use super::frames::{Frame, FrameReader, FrameWriter, SnapshotError};
use super::receive::feed;
use super::rows::{StateHeader, Table};
use super::snapshot::SnapshotData;
use super::{blocking, loader};
use crate::codec::{self, Kind};
use crate::data_dir::ClusterId;
use crate::types::NodeId;

const MAGIC: &[u8; 16] = b"rollcall-backup\n";

/// Why a backup was not taken, read or kept.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    #[error("this is no backup of a Rollcall cluster")]
    Foreign,
    #[error("read the backup")]
    Read(#[source] io::Error),
    #[error("the backup is cut off or damaged")]
    Damaged(#[from] SnapshotError),
    #[error("the backup says in a damaged or unknown way whose it is")]
    Head(#[source] codec::CodecError),
    #[error("the backup holds no state")]
    Empty,
    #[error("the stream of the backup broke")]
    Stream(#[source] io::Error),
    #[error("write the backup")]
    Write(#[source] io::Error),
}

/// Whose backup it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct BackupHead {
    pub(super) cluster_id: ClusterId,
    /// The node that it was taken from.
    pub(super) node_id: NodeId,
    /// Of the program.
    pub(super) version: String,
}

/// What stands in the header of a state, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moment {
    pub epoch: Epoch,
    pub revision: Revision,
    pub cluster_time: ClusterTime,
    /// The leader's wall clock at the last entry.
    pub wall: WallTime,
    pub applied_index: u64,
    pub digest: Digest,
}

impl Moment {
    pub(crate) fn of(StateHeader { applied, header, .. }: &StateHeader) -> Self {
        Self {
            epoch: header.epoch,
            revision: header.revision,
            cluster_time: header.now,
            wall: header.wall,
            applied_index: applied.map_or(0, |applied| applied.index),
            digest: header.digest,
        }
    }
}

/// What a whole backup holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackupSummary {
    pub cluster_id: ClusterId,
    /// The node that it was taken from.
    pub node_id: NodeId,
    /// Of the program that took it.
    pub version: String,
    pub moment: Moment,
    pub instances: u64,
    pub bytes: u64,
}

/// Takes backups of an open state, and does not keep it open. Cheap to clone.
#[derive(Clone)]
pub struct Backups(pub(super) Weak<Checkpoints>);

/// A backup that was taken and is not read yet. It stays as it is while the state moves on.
pub struct Backup {
    head: BackupHead,
    moment: Moment,
    data: SnapshotData,
}

impl Backups {
    /// Writes a checkpoint and takes a view of it: everything applied until now. Must be called on a tokio runtime.
    ///
    /// # Errors
    /// When the state is closed, or the store fails, which is the end of the process.
    pub async fn take(&self, cluster_id: ClusterId, node_id: NodeId, version: &str) -> io::Result<Backup> {
        let head = BackupHead { cluster_id, node_id, version: version.to_owned() };
        let checkpoints = self.0.upgrade().ok_or_else(|| io::Error::other("the state is closed"))?;
        blocking(&checkpoints, |checkpoints| {
            checkpoints.take();
            let (header, data) = checkpoints.write_and_view()?.expect("a checkpoint was just taken");
            Ok(Backup { head, moment: Moment::of(&header), data })
        })
        .await
    }
}

impl Backup {
    pub fn moment(&self) -> &Moment {
        &self.moment
    }

    /// The backup as bytes, read a few chunks ahead. Must be called on a tokio runtime.
    pub fn into_stream(self) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
        let mut writer = FrameWriter::default();
        let head = writer.write_payload(&codec::encode(Kind::BackupHead, &self.head));
        self.data.into_stream_after(writer, [&MAGIC[..], &head].concat())
    }
}

/// Reads a backup and checks it frame by frame.
pub(crate) struct BackupReader<R> {
    frames: FrameReader<R>,
    head: BackupHead,
    state: StateHeader,
    /// The head of the snapshot, until it is taken.
    first: Option<Frame>,
    /// What was read of the source before that.
    opening: Vec<u8>,
    instances: u64,
    bytes: u64,
}

impl<R: Read> BackupReader<R> {
    /// Reads up to the head of the snapshot.
    pub(crate) fn open(mut source: R) -> Result<Self, BackupError> {
        let mut magic = Vec::new();
        source.by_ref().take(MAGIC.len() as u64).read_to_end(&mut magic).map_err(BackupError::Read)?;
        if !MAGIC.starts_with(&magic) {
            return Err(BackupError::Foreign);
        }
        if magic.len() < MAGIC.len() {
            return Err(SnapshotError::Cut { frames: 0 }.into());
        }
        let mut frames = FrameReader::new(source);
        let head = frames.next_payload()?.unwrap_or_default();
        let head = codec::decode(Kind::BackupHead, head).map_err(BackupError::Head)?;
        let mut opening = [&magic[..], frames.bytes()].concat();
        let first = frames.next()?;
        let Some(Frame::Head(state)) = &first else { return Err(BackupError::Empty) };
        let state = state.clone();
        opening.extend_from_slice(frames.bytes());
        Ok(Self { frames, head, state, first, bytes: opening.len() as u64, opening, instances: 0 })
    }

    /// The next frame of the snapshot, or none after its end.
    pub(super) fn next(&mut self) -> Result<Option<Frame>, BackupError> {
        if let Some(first) = self.first.take() {
            return Ok(Some(first));
        }
        let Some(frame) = self.frames.next()? else { return Ok(None) };
        self.bytes += self.frames.bytes().len() as u64;
        if let Frame::Rows { table: Table::Instances, rows } = &frame {
            self.instances += rows.len() as u64;
        }
        Ok(Some(frame))
    }

    pub(crate) fn epoch(&self) -> Epoch {
        self.state.header.epoch
    }

    /// What it holds. Counts what was read so far.
    pub(crate) fn summary(&self) -> BackupSummary {
        let BackupHead { cluster_id, node_id, version } = self.head.clone();
        let (moment, instances, bytes) = (Moment::of(&self.state), self.instances, self.bytes);
        BackupSummary { cluster_id, node_id, version, moment, instances, bytes }
    }
}

/// Copies a backup and checks the checksum, the place and the seal of everything in it on the way. What comes out is
/// whole; that a state can be made of it only [`verify_backup`] shows.
fn copy_backup(source: impl Read, sink: &mut impl Write) -> Result<BackupSummary, BackupError> {
    let mut backup = BackupReader::open(source)?;
    sink.write_all(&std::mem::take(&mut backup.opening)).map_err(BackupError::Write)?;
    backup.first = None;
    while backup.next()?.is_some() {
        sink.write_all(backup.frames.bytes()).map_err(BackupError::Write)?;
    }
    sink.flush().map_err(BackupError::Write)?;
    Ok(backup.summary())
}

/// Copies a backup out of a stream, and checks it on the way: checksums, order, seals, and that nothing was cut off. The
/// sink comes back with the summary, to be made durable. Must be called on a tokio runtime.
pub async fn receive_backup<S, W>(stream: S, mut sink: W) -> Result<(BackupSummary, W), BackupError>
where
    S: Stream<Item = io::Result<Bytes>> + Send,
    W: Write + Send + 'static,
{
    let copied = feed(stream, move |chunks| copy_backup(chunks, &mut sink).map(|summary| (summary, sink))).await;
    copied.map_err(BackupError::Stream)?
}

/// Reads a whole backup and makes the state of it in memory, as a restore does: everything that could be wrong with it is
/// found.
pub fn verify_backup(source: impl Read, options: Options) -> Result<BackupSummary, BackupError> {
    let mut backup = BackupReader::open(source)?;
    let loaded: Result<_, BackupError> = loader::load(options, |take| {
        while let Some(frame) = backup.next()? {
            take(frame)?;
        }
        Ok(())
    });
    loaded?.ok_or(BackupError::Empty)?;
    Ok(backup.summary())
}
