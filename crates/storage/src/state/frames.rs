//! A snapshot as a stream of bytes, on the wire and in a received file.
//!
//! A frame is `length: u32`, `checksum: u32` (little-endian), payload. Each checksum goes on from the one before it, so
//! that a frame which was changed, lost, repeated or moved breaks the chain at once; the end frame shows that nothing
//! was cut off. First comes the head, then the rows of each table, then the end.

use std::io::{self, Read};

use rollcall_registry::Digest;
use serde::{Deserialize, Serialize};

use super::rows::{StateHeader, Table};
use crate::codec::{self, CodecError, Kind};

const HEAD_BYTES: usize = 8;
/// Rows are gathered into frames of about this size; a longer row has a frame to itself.
pub(super) const FRAME_BYTES: usize = 256 << 10;
/// The longest payload, with its kind and version.
fn payload_bytes_max() -> usize {
    Kind::SnapshotFrame.bytes_max() + 2
}

/// Why a snapshot cannot be read, sent or installed.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    #[error("read snapshot")]
    Read(#[source] io::Error),
    #[error("read snapshot: it ends after {frames} frames without an end frame")]
    Cut { frames: u64 },
    #[error("read snapshot: frame {frame} of {bytes} bytes is longer than the {max} allowed")]
    TooLong { frame: u64, bytes: usize, max: usize },
    #[error("read snapshot: frame {frame} has the checksum {found:#010x}, but {expected:#010x} was computed")]
    Checksum { frame: u64, found: u32, expected: u32 },
    #[error("read snapshot: frame {frame}")]
    Frame {
        frame: u64,
        #[source]
        source: CodecError,
    },
    #[error("read snapshot: frame {frame} is out of place")]
    OutOfPlace { frame: u64 },
    #[error("read snapshot: the end frame counts {expected} rows, but {found} came")]
    RowCount { expected: u64, found: u64 },
    #[error("read snapshot: head and end frame name different digests")]
    Digest,
    #[error("read rows of table {table}")]
    Database {
        table: &'static str,
        #[source]
        source: rocksdb::Error,
    },
    #[error("read a row of table {table}")]
    Row {
        table: &'static str,
        #[source]
        source: CodecError,
    },
    #[error("read a row of table {table}: its key does not fit")]
    Key { table: &'static str },
    #[error("make a state of the rows")]
    Restore(#[source] rollcall_registry::state::RestoreError),
    #[error("start the thread that makes a state of the rows")]
    Thread(#[source] io::Error),
    #[error("send snapshot: the receiver is gone")]
    Abandoned,
}

impl From<SnapshotError> for io::Error {
    fn from(error: SnapshotError) -> Self {
        Self::new(io::ErrorKind::InvalidData, error)
    }
}

/// Variants are only ever added at the end: the position is the format.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Frame {
    Head(StateHeader),
    Rows {
        table: Table,
        rows: Vec<Row>,
    },
    End {
        /// Of all tables.
        rows: u64,
        /// Of the whole state, as in the head.
        digest: Digest,
    },
}

/// As it stands in the database, sealed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Row {
    pub(super) key: Vec<u8>,
    pub(super) record: Vec<u8>,
}

/// Turns frames into bytes.
#[derive(Default)]
pub(super) struct FrameWriter {
    checksum: u32,
}

impl FrameWriter {
    pub(super) fn write(&mut self, frame: &Frame) -> Vec<u8> {
        self.write_payload(&codec::encode(Kind::SnapshotFrame, frame))
    }

    /// What stands before the frames of a snapshot, in the same chain.
    pub(super) fn write_payload(&mut self, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).expect("a frame's length is bounded by the codec").to_le_bytes();
        self.checksum = chain(self.checksum, length, payload);
        [&length[..], &self.checksum.to_le_bytes(), payload].concat()
    }
}

/// Turns bytes into frames and checks that they are a whole snapshot.
pub(super) struct FrameReader<R> {
    source: R,
    checksum: u32,
    /// Of the last frame, head and payload.
    bytes: Vec<u8>,
    frames: u64,
    rows: u64,
    digest: Option<Digest>,
    table: Table,
    ended: bool,
}

impl<R: Read> FrameReader<R> {
    pub(super) fn new(source: R) -> Self {
        let table = Table::ALL[0];
        Self { source, checksum: 0, bytes: Vec::new(), frames: 0, rows: 0, digest: None, table, ended: false }
    }

    /// The next frame, or none after the end frame.
    pub(super) fn next(&mut self) -> Result<Option<Frame>, SnapshotError> {
        let frame = self.frames;
        let Some(payload) = self.next_payload()? else { return Ok(None) };
        let value =
            codec::decode(Kind::SnapshotFrame, payload).map_err(|source| SnapshotError::Frame { frame, source })?;
        self.check_place(frame, &value)?;
        Ok(Some(value))
    }

    /// What is in the next frame, not decoded, or none after the end frame.
    pub(super) fn next_payload(&mut self) -> Result<Option<&[u8]>, SnapshotError> {
        let frame = self.frames;
        self.bytes.resize(HEAD_BYTES, 0);
        let read = read_full(&mut self.source, &mut self.bytes).map_err(SnapshotError::Read)?;
        match (read, self.ended) {
            (0, true) => return Ok(None),
            (_, true) => return Err(SnapshotError::OutOfPlace { frame }),
            (HEAD_BYTES, false) => {}
            (_, false) => return Err(SnapshotError::Cut { frames: frame }),
        }
        let length: [u8; 4] = self.bytes[..4].try_into().expect("four bytes");
        let found = u32::from_le_bytes(self.bytes[4..].try_into().expect("four bytes"));
        let bytes = u32::from_le_bytes(length) as usize;
        if bytes > payload_bytes_max() {
            return Err(SnapshotError::TooLong { frame, bytes, max: payload_bytes_max() });
        }
        self.bytes.resize(HEAD_BYTES + bytes, 0);
        let payload = &mut self.bytes[HEAD_BYTES..];
        if read_full(&mut self.source, payload).map_err(SnapshotError::Read)? < bytes {
            return Err(SnapshotError::Cut { frames: frame });
        }
        let expected = chain(self.checksum, length, payload);
        if found != expected {
            return Err(SnapshotError::Checksum { frame, found, expected });
        }
        self.checksum = expected;
        self.frames += 1;
        Ok(Some(&self.bytes[HEAD_BYTES..]))
    }

    /// The bytes of the last frame.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    fn check_place(&mut self, frame: u64, value: &Frame) -> Result<(), SnapshotError> {
        match (value, self.digest) {
            (Frame::Head(head), None) => self.digest = Some(head.header.digest),
            (Frame::Rows { table, rows }, Some(_)) if *table as u8 >= self.table as u8 => {
                for row in rows {
                    codec::check_seal(table.kind(), &row.key, &row.record)
                        .map_err(|source| SnapshotError::Row { table: table.name(), source })?;
                }
                self.table = *table;
                self.rows += rows.len() as u64;
            }
            (Frame::End { rows, digest }, Some(expected)) => {
                if *rows != self.rows {
                    return Err(SnapshotError::RowCount { expected: *rows, found: self.rows });
                }
                if *digest != expected {
                    return Err(SnapshotError::Digest);
                }
                self.ended = true;
            }
            _ => return Err(SnapshotError::OutOfPlace { frame }),
        }
        Ok(())
    }
}

fn chain(before: u32, length: [u8; 4], payload: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c_append(before, &length), payload)
}

/// Fills the buffer; less than that only at the end of the source.
fn read_full(source: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match source.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(filled)
}
