//! A snapshot to be sent or installed: a consistent view of the checkpointed state, or a received file.

use std::fs::{self, File};
use std::io::{self, BufReader};
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::{Stream, stream};
use rocksdb::{IteratorMode, ReadOptions};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::frames::{FRAME_BYTES, Frame, FrameReader, FrameWriter, Row, SnapshotError};
use super::generation::Generation;
use super::rows::{HEADER, META, StateHeader, Table, cf};
use crate::codec::{self, Kind};
use crate::rocks;

/// Bytes given out at once.
const CHUNK_BYTES_MAX: usize = 1 << 20;
/// Chunks read ahead of the receiver.
const CHUNKS_AHEAD_MAX: usize = 4;

type Pinned<'a> = rocksdb::Snapshot<'a>;

self_cell::self_cell!(
    /// The state as it stands in the database at one moment, for as long as the view lives.
    pub(super) struct View {
        owner: Arc<Generation>,

        #[covariant]
        dependent: Pinned,
    }
);

impl View {
    pub(super) fn of(generation: Arc<Generation>) -> Self {
        Self::new(generation, |generation| generation.db.snapshot())
    }

    /// None if there is no checkpoint yet.
    pub(super) fn header(&self) -> Result<Option<StateHeader>, SnapshotError> {
        let db = &self.borrow_owner().db;
        let record = self
            .borrow_dependent()
            .get_cf(cf(db, META), HEADER)
            .map_err(|source| SnapshotError::Database { table: META, source })?;
        record
            .map(|record| codec::unseal(Kind::StateHeader, HEADER, &record))
            .transpose()
            .map_err(|source| SnapshotError::Row { table: META, source })
    }

    /// Calls `take` with every frame of the snapshot, in order. Without a checkpoint there is none.
    pub(super) fn read<E: From<SnapshotError>>(&self, mut take: impl FnMut(Frame) -> Result<(), E>) -> Result<(), E> {
        let Some(head) = self.header()? else { return Ok(()) };
        let digest = head.header.digest;
        take(Frame::Head(head))?;
        let mut count = 0;
        for table in Table::ALL {
            count += self.read_table(table, &mut take)?;
        }
        take(Frame::End { rows: count, digest })
    }

    fn read_table<E: From<SnapshotError>>(
        &self,
        table: Table,
        take: &mut impl FnMut(Frame) -> Result<(), E>,
    ) -> Result<u64, E> {
        let mut options = ReadOptions::default();
        options.fill_cache(false);
        options.set_readahead_size(rocks::READAHEAD_BYTES);
        let family = cf(&self.borrow_owner().db, table.name());
        let (mut rows, mut bytes, mut count) = (Vec::new(), 0, 0);
        for row in self.borrow_dependent().iterator_cf_opt(family, options, IteratorMode::Start) {
            let (key, record) = row.map_err(|source| SnapshotError::Database { table: table.name(), source })?;
            let size = key.len() + record.len();
            if bytes > 0 && bytes + size > FRAME_BYTES {
                take(Frame::Rows { table, rows: std::mem::take(&mut rows) })?;
                bytes = 0;
            }
            bytes += size;
            count += 1;
            rows.push(Row { key: key.into(), record: record.into() });
        }
        if !rows.is_empty() {
            take(Frame::Rows { table, rows })?;
        }
        Ok(count)
    }
}

/// A verified file that is deleted when it is dropped.
#[derive(Debug)]
pub(super) struct ReceivedFile {
    pub(super) path: PathBuf,
}

impl ReceivedFile {
    fn open(&self) -> Result<File, SnapshotError> {
        File::open(&self.path).map_err(SnapshotError::Read)
    }
}

impl Drop for ReceivedFile {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.path)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(path = %self.path.display(), %error, "cannot remove a snapshot file; the next start will");
        }
    }
}

/// The content of a snapshot, which stays as it is while the state moves on.
pub struct SnapshotData(pub(super) Source);

pub(super) enum Source {
    View(View),
    File(ReceivedFile),
}

impl std::fmt::Debug for SnapshotData {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self.0 {
            Source::View(_) => "SnapshotData(view)",
            Source::File(_) => "SnapshotData(file)",
        })
    }
}

impl SnapshotData {
    /// The snapshot as bytes, in chunks of at most 1 MiB, for a [`SnapshotReceiver`](crate::SnapshotReceiver). Read on
    /// a blocking thread, a few chunks ahead. Must be called on a tokio runtime.
    pub fn into_stream(self) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
        self.into_stream_after(FrameWriter::default(), Vec::new())
    }

    /// As [`Self::into_stream`], behind the bytes that `writer` wrote.
    pub(super) fn into_stream_after(
        self,
        writer: FrameWriter,
        before: Vec<u8>,
    ) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
        let (sender, chunks) = mpsc::channel(CHUNKS_AHEAD_MAX);
        let reader = tokio::task::spawn_blocking(move || self.send(writer, before, &sender));
        stream::unfold(Some((chunks, reader)), |sending| async {
            let (mut chunks, reader) = sending?;
            match chunks.recv().await {
                Some(chunk) => Some((Ok(chunk), Some((chunks, reader)))),
                None => finish(reader).await.err().map(|error| (Err(error), None)),
            }
        })
    }

    fn send(
        self,
        mut writer: FrameWriter,
        before: Vec<u8>,
        sender: &mpsc::Sender<Bytes>,
    ) -> Result<(), SnapshotError> {
        let send = |bytes: Vec<u8>| {
            let mut bytes = Bytes::from(bytes);
            while !bytes.is_empty() {
                let chunk = bytes.split_to(bytes.len().min(CHUNK_BYTES_MAX));
                sender.blocking_send(chunk).map_err(|_| SnapshotError::Abandoned)?;
            }
            Ok(())
        };
        send(before)?;
        self.read(|frame| send(writer.write(&frame)))
    }

    /// Calls `take` with every frame, in order; blocks.
    pub(super) fn read<E: From<SnapshotError>>(&self, mut take: impl FnMut(Frame) -> Result<(), E>) -> Result<(), E> {
        match &self.0 {
            Source::View(view) => view.read(take),
            Source::File(file) => {
                let mut reader = FrameReader::new(BufReader::new(file.open()?));
                while let Some(frame) = reader.next()? {
                    take(frame)?;
                }
                Ok(())
            }
        }
    }
}

async fn finish(reader: JoinHandle<Result<(), SnapshotError>>) -> io::Result<()> {
    Ok(reader.await.map_err(io::Error::other)??)
}
