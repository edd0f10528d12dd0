//! The one place where values become bytes and bytes become values: on disk and between peers.
//!
//! A frame is `kind: u8`, `version: u8`, payload (bincode's standard configuration through serde). A frame on disk is
//! sealed: CRC32C (little-endian) follows it, computed over the record's key and the frame, so that a record that was
//! moved is as wrong as one that was changed. The envelope never changes; a payload changes only together with its
//! version, and what bears a version we do not know is refused, never guessed.
//!
//! Version 1 is not frozen yet: until the first release a payload may change under it, its golden with it, and a data
//! directory or a peer of an older build is then of no use. The first tagged release freezes it. From there on a change
//! of any golden takes the kind's next version, and what reads the one before.

use bincode::config::{Configuration, Limit, LittleEndian, Varint};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Bytes of `kind` and `version`.
const HEAD_BYTES: usize = 2;
/// Bytes of a seal.
const SEAL_BYTES: usize = 4;
/// What decoding one frame may allocate: the largest kind's bound, and as much again for what is larger in memory.
const DECODED_BYTES_MAX: usize = 64 << 20;

/// What a frame holds. The numbers are the format: none is ever used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// One entry of the Raft log.
    LogEntry = 1,
    /// The vote: the term and whom it went to.
    Vote = 2,
    /// A position in the log: the committed and the purged one.
    LogId = 3,
    /// An instance on the roll.
    Instance = 4,
    /// When a lease runs out.
    Deadline = 5,
    /// What of the state is no row, with the applied position and the membership.
    StateHeader = 6,
    /// A piece of a streamed snapshot.
    SnapshotFrame = 7,
    /// Whose data a directory holds.
    Identity = 8,
    /// What a node asks a peer.
    PeerRequest = 9,
    /// What a peer answers.
    PeerResponse = 10,
    /// Which generation of the state is current.
    Generation = 11,
    /// The commands of one log entry, within it.
    Proposal = 12,
    /// Changes of the roll, one after the other.
    History = 13,
    /// What a backup tells of itself.
    BackupHead = 14,
    /// What was begun on a directory and is not done.
    Unfinished = 15,
    /// What agents agreed upon beside the roll.
    Definition = 16,
    /// A token with which nodes join.
    JoinToken = 18,
    /// How often the node's process has started.
    Starts = 19,
    /// A token that proves who asks.
    AccessToken = 20,
    /// How a tenant takes signatures, or an owner's key.
    Signature = 21,
    /// What an operator laid down beside the roll.
    Ruling = 40,
    /// Another cluster, or this one's key.
    Federation = 47,
    /// An instance of another cluster.
    Foreign = 48,
}

impl Kind {
    pub const ALL: &[Self] = &[
        Self::LogEntry,
        Self::Vote,
        Self::LogId,
        Self::Instance,
        Self::Deadline,
        Self::StateHeader,
        Self::SnapshotFrame,
        Self::Identity,
        Self::PeerRequest,
        Self::PeerResponse,
        Self::Generation,
        Self::Proposal,
        Self::History,
        Self::BackupHead,
        Self::Unfinished,
        Self::Definition,
        Self::JoinToken,
        Self::Starts,
        Self::AccessToken,
        Self::Ruling,
        Self::Signature,
        Self::Federation,
        Self::Foreign,
    ];

    /// The version that is written, and the only one that is read.
    pub fn version(self) -> u8 {
        1
    }

    /// The longest payload in bytes.
    pub fn bytes_max(self) -> usize {
        match self {
            // A batch of commands: a leader stops at about 1 MiB of them, and none is larger than that.
            Self::Proposal => 4 << 20,
            // A proposal and its position.
            Self::LogEntry => (4 << 20) + 256,
            // Carries at least one log entry, whatever its size, and no more than 1 MiB of them otherwise.
            Self::PeerRequest | Self::PeerResponse => 5 << 20,
            // A registration has at most 512 KiB; what heartbeats report of it comes on top.
            Self::Instance | Self::Foreign => 4 << 20,
            // An edge takes bodies of 64 KiB.
            Self::Definition => 1 << 20,
            // Small ones, and at most one that is not.
            Self::History => 8 << 20,
            // Carries at least one row or the state's header, whatever its size.
            Self::SnapshotFrame => 33 << 20,
            // At most 100 addresses of 260 bytes.
            Self::JoinToken => 32 << 10,
            // At most 16 prefixes of 128 bytes, a line, and two names.
            Self::AccessToken => 8 << 10,
            // Names of 256 bytes, and a reason as long.
            Self::Ruling => 4 << 10,
            // Two names and 64 hashes.
            Self::Signature => 4 << 10,
            // Nine addresses of 2 KiB, authorities of 64 KiB, a selector as long, 256 pairs of tenants.
            Self::Federation => 256 << 10,
            // Each node's last answers: at most 64 times 4,096 of some 40 bytes.
            Self::StateHeader => 32 << 20,
            Self::Vote
            | Self::LogId
            | Self::Deadline
            | Self::Identity
            | Self::Generation
            | Self::BackupHead
            | Self::Unfinished
            | Self::Starts => 256,
        }
    }
}

/// Why bytes are not the value they should be.
#[derive(Debug, thiserror::Error)]
pub enum CodecError {
    #[error("decode {kind:?}: {bytes} bytes are too few for a frame")]
    Truncated { kind: Kind, bytes: usize },
    #[error("decode {kind:?}: its checksum is {found:#010x}, but {expected:#010x} was computed")]
    Checksum { kind: Kind, found: u32, expected: u32 },
    #[error("decode {kind:?}: found a frame of kind {found}")]
    Kind { kind: Kind, found: u8 },
    #[error("decode {kind:?}: found version {found}, but only version {known} is known")]
    Version { kind: Kind, found: u8, known: u8 },
    #[error("decode {kind:?}: {bytes} bytes are more than the {max} allowed")]
    TooLarge { kind: Kind, bytes: usize, max: usize },
    #[error("decode {kind:?} version {version}")]
    Malformed {
        kind: Kind,
        version: u8,
        #[source]
        source: bincode::error::DecodeError,
    },
    #[error("decode {kind:?} version {version}: {bytes} bytes are left over")]
    Trailing { kind: Kind, version: u8, bytes: usize },
}

impl From<CodecError> for std::io::Error {
    fn from(error: CodecError) -> Self {
        Self::new(std::io::ErrorKind::InvalidData, error)
    }
}

fn configuration() -> Configuration<LittleEndian, Varint, Limit<DECODED_BYTES_MAX>> {
    bincode::config::standard().with_limit::<DECODED_BYTES_MAX>()
}

/// Frames a value.
///
/// # Panics
/// When the value is longer than its kind allows, which its maker must prevent: written, it could not be read again.
pub fn encode<T: Serialize>(kind: Kind, value: &T) -> Vec<u8> {
    let mut frame = vec![kind as u8, kind.version()];
    bincode::serde::encode_into_std_write(value, &mut frame, bincode::config::standard())
        .expect("every framed type serializes into memory");
    let bytes = frame.len() - HEAD_BYTES;
    assert!(bytes <= kind.bytes_max(), "encode {kind:?}: {bytes} bytes are more than {} allowed", kind.bytes_max());
    frame
}

/// Reads a whole frame of the given kind.
pub fn decode<T: DeserializeOwned>(kind: Kind, frame: &[u8]) -> Result<T, CodecError> {
    let (value, left_over) = decode_head(kind, frame)?;
    match left_over {
        0 => Ok(value),
        bytes => Err(CodecError::Trailing { kind, version: kind.version(), bytes }),
    }
}

/// Reads what a frame of the given kind begins with, and tells how many bytes follow. The frame may be cut off there.
pub fn decode_head<T: DeserializeOwned>(kind: Kind, frame: &[u8]) -> Result<(T, usize), CodecError> {
    let Some((&[found_kind, version], payload)) = frame.split_first_chunk::<HEAD_BYTES>() else {
        return Err(CodecError::Truncated { kind, bytes: frame.len() });
    };
    if found_kind != kind as u8 {
        return Err(CodecError::Kind { kind, found: found_kind });
    }
    if version != kind.version() {
        return Err(CodecError::Version { kind, found: version, known: kind.version() });
    }
    if payload.len() > kind.bytes_max() {
        return Err(CodecError::TooLarge { kind, bytes: payload.len(), max: kind.bytes_max() });
    }
    let (value, read) = bincode::serde::decode_from_slice(payload, configuration())
        .map_err(|source| CodecError::Malformed { kind, version, source })?;
    Ok((value, payload.len() - read))
}

/// Frames and seals a value that is kept under `key`.
///
/// # Panics
/// As [`encode`].
pub fn seal<T: Serialize>(kind: Kind, key: &[u8], value: &T) -> Vec<u8> {
    let mut record = encode(kind, value);
    let checksum = crc32c::crc32c_append(crc32c::crc32c(key), &record);
    record.extend_from_slice(&checksum.to_le_bytes());
    record
}

/// Reads a whole sealed record that was found under `key`.
pub fn unseal<T: DeserializeOwned>(kind: Kind, key: &[u8], record: &[u8]) -> Result<T, CodecError> {
    decode(kind, check_seal(kind, key, record)?)
}

/// Reads what a sealed record begins with. Its checksum vouches for the rest.
pub(crate) fn unseal_head<T: DeserializeOwned>(kind: Kind, key: &[u8], record: &[u8]) -> Result<T, CodecError> {
    decode_head(kind, check_seal(kind, key, record)?).map(|(value, _)| value)
}

/// The frame in a sealed record, after its checksum was verified.
pub(crate) fn check_seal<'a>(kind: Kind, key: &[u8], record: &'a [u8]) -> Result<&'a [u8], CodecError> {
    let Some((frame, &seal)) = record.split_last_chunk::<SEAL_BYTES>() else {
        return Err(CodecError::Truncated { kind, bytes: record.len() });
    };
    let (found, expected) = (u32::from_le_bytes(seal), crc32c::crc32c_append(crc32c::crc32c(key), frame));
    if found != expected {
        return Err(CodecError::Checksum { kind, found, expected });
    }
    Ok(frame)
}
