//! Receiving a snapshot: verified while it comes in, in a file that is durable before it is handed on.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::{Buf, Bytes};
use futures_util::{Stream, StreamExt};
use tokio::sync::mpsc;

use super::frames::{Frame, FrameReader, SnapshotError};
use super::snapshot::{ReceivedFile, SnapshotData, Source};
use crate::failure::{Health, StoreFailure};
use crate::fs::sync_dir;
use crate::types::{Snapshot, SnapshotMeta};

/// Chunks that wait to be written.
const CHUNKS_WAITING_MAX: usize = 4;

/// Why a snapshot was not received. What was written of it is deleted.
#[derive(Debug, thiserror::Error)]
pub enum ReceiveError {
    #[error("receive snapshot: the stream broke")]
    Stream(#[source] io::Error),
    #[error("receive snapshot")]
    Refused(#[source] SnapshotError),
    #[error("receive snapshot")]
    Write(#[source] StoreFailure),
}

/// Takes snapshots in. Cheap to clone; several may come in at once.
#[derive(Clone, Debug)]
pub struct SnapshotReceiver {
    dir: Arc<PathBuf>,
    count: Arc<AtomicU64>,
    health: Health,
}

impl SnapshotReceiver {
    /// Clears away what an earlier process did not install.
    pub(crate) fn open(dir: PathBuf, health: Health) -> io::Result<Self> {
        for file in fs::read_dir(&dir)? {
            fs::remove_file(file?.path())?;
        }
        Ok(Self { dir: Arc::new(dir), count: Arc::new(AtomicU64::new(0)), health })
    }

    /// Takes in what [`SnapshotData::into_stream`] gave, in chunks of any size. A stream that was cut, changed or
    /// reordered is refused. Dropping the future gives up and deletes what was written.
    pub async fn receive<S>(&self, stream: S) -> Result<Snapshot, ReceiveError>
    where
        S: Stream<Item = io::Result<Bytes>> + Send,
    {
        let number = self.count.fetch_add(1, Ordering::Relaxed);
        let (dir, health) = (self.dir.clone(), self.health.clone());
        let written = feed(stream, move |chunks| write(&dir, number, chunks, &health)).await;
        written.map_err(ReceiveError::Stream)?
    }
}

/// Lets `work` read a stream on a thread that may block. Fails when the stream breaks, whatever `work` made of that.
pub(super) async fn feed<S, T>(stream: S, work: impl FnOnce(Chunks) -> T + Send + 'static) -> io::Result<T>
where
    S: Stream<Item = io::Result<Bytes>> + Send,
    T: Send + 'static,
{
    let (sender, chunks) = mpsc::channel(CHUNKS_WAITING_MAX);
    let working = tokio::task::spawn_blocking(move || work(Chunks::new(chunks)));
    let mut stream = std::pin::pin!(stream);
    let mut broken = None;
    while let Some(chunk) = stream.next().await {
        match chunk {
            Ok(chunk) => {
                if sender.send(chunk).await.is_err() {
                    // Whoever reads has refused, and says why.
                    break;
                }
            }
            Err(error) => {
                broken = Some(error);
                break;
            }
        }
    }
    drop(sender);
    let worked = working.await.map_err(io::Error::other)?;
    match broken {
        Some(error) => Err(error),
        None => Ok(worked),
    }
}

fn write(dir: &Path, number: u64, chunks: Chunks, health: &Health) -> Result<Snapshot, ReceiveError> {
    let guard =
        |result: io::Result<()>| health.guard("write a received snapshot", result).map_err(ReceiveError::Write);
    // Deleted when dropped, unless renamed.
    let unfinished = ReceivedFile { path: dir.join(format!("{number}.tmp")) };
    let created = health.guard("create a snapshot file", File::create(&unfinished.path));
    let mut file = created.map_err(ReceiveError::Write)?;
    let mut reader = FrameReader::new(chunks);
    let mut meta = SnapshotMeta::default();
    while let Some(frame) = reader.next().map_err(ReceiveError::Refused)? {
        if let Frame::Head(head) = frame {
            meta = head.meta();
        }
        guard(file.write_all(reader.bytes()))?;
    }
    let received = ReceivedFile { path: dir.join(format!("{number}.snapshot")) };
    guard(file.sync_all())?;
    guard(fs::rename(&unfinished.path, &received.path))?;
    guard(sync_dir(dir))?;
    Ok(Snapshot { meta, snapshot: SnapshotData(Source::File(received)) })
}

/// Chunks as a source to read from.
pub(super) struct Chunks {
    queue: mpsc::Receiver<Bytes>,
    current: Bytes,
}

impl Chunks {
    fn new(queue: mpsc::Receiver<Bytes>) -> Self {
        Self { queue, current: Bytes::new() }
    }
}

impl Read for Chunks {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            match self.queue.blocking_recv() {
                Some(chunk) => self.current = chunk,
                None => return Ok(0),
            }
        }
        let read = self.current.len().min(buffer.len());
        self.current.copy_to_slice(&mut buffer[..read]);
        Ok(read)
    }
}
