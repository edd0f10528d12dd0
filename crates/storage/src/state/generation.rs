//! A generation is one RocksDB directory with a checkpointed state. There is one; installing a snapshot makes the
//! next, beside it, and then `CURRENT` is pointed at that in one step. What `CURRENT` does not name is rubbish.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use rocksdb::{DB, FlushOptions};

use super::rows::{META, Table, cf};
use crate::codec::{self, CodecError, Kind};
use crate::fs::{create_dir, read_if_present, replace};
use crate::rocks;

pub(crate) const CURRENT: &str = "CURRENT";
const FIRST: u64 = 1;

/// Memory of all write buffers of one generation together.
const WRITE_BUFFERS_BYTES_MAX: usize = 8 << 20;
/// WAL kept before write buffers are written out: a start reads it all.
const WAL_BYTES_MAX: u64 = 16 << 20;

/// Why no state can be opened or made.
#[derive(Debug, thiserror::Error)]
pub enum GenerationError {
    #[error("read state directory {path}")]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("write state directory {path}")]
    Write {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("state directory {path} does not say which generation is current, but holds `{found}`")]
    CurrentMissing { path: PathBuf, found: String },
    #[error("state directory {path} says in a damaged way which generation is current")]
    CurrentDamaged {
        path: PathBuf,
        #[source]
        source: CodecError,
    },
    #[error("open the state in {path}")]
    Open {
        path: PathBuf,
        #[source]
        source: rocksdb::Error,
    },
}

/// An open generation. Readers of an old one keep it until they are done.
pub(crate) struct Generation {
    // Closed before its directory goes.
    pub(super) db: DB,
    number: u64,
    dir: GenerationDir,
}

struct GenerationDir {
    path: PathBuf,
    superseded: AtomicBool,
}

impl Drop for GenerationDir {
    fn drop(&mut self) {
        if self.superseded.load(Ordering::Relaxed)
            && let Err(error) = fs::remove_dir_all(&self.path)
        {
            tracing::warn!(path = %self.path.display(), %error, "cannot remove a superseded state; the next start will");
        }
    }
}

impl Generation {
    /// Opens the current generation of a state directory and clears away what is none. Makes the first one in a new
    /// directory.
    pub(super) fn open_current(states: &Path) -> Result<Self, GenerationError> {
        let read = |source| GenerationError::Read { path: states.to_owned(), source };
        let number = match read_if_present(&states.join(CURRENT)).map_err(read)? {
            Some(record) => codec::unseal(Kind::Generation, CURRENT.as_bytes(), &record)
                .map_err(|source| GenerationError::CurrentDamaged { path: states.to_owned(), source })?,
            None => {
                if let Some(found) = generation_dirs(states).map_err(read)?.first() {
                    let found = found.display().to_string();
                    return Err(GenerationError::CurrentMissing { path: states.to_owned(), found });
                }
                // Pointed at before it is made: an empty first generation is as good as none.
                point_at(states, FIRST)?;
                FIRST
            }
        };
        let current = states.join(number.to_string());
        for path in generation_dirs(states).map_err(read)? {
            if path != current {
                fs::remove_dir_all(&path).map_err(|source| GenerationError::Write { path, source })?;
            }
        }
        Self::open(current, number, number == FIRST)
    }

    /// Makes an empty generation to follow this one. It is not current before [`Self::make_current`].
    pub(super) fn make_next(&self) -> Result<Self, GenerationError> {
        let (states, number) = (self.states(), self.number + 1);
        let path = states.join(number.to_string());
        if path.exists() {
            fs::remove_dir_all(&path).map_err(|source| GenerationError::Write { path: path.clone(), source })?;
        }
        let next = Self::open(path, number, true)?;
        next.supersede();
        Ok(next)
    }

    /// Points `CURRENT` at this generation, whose rows must be durable.
    pub(super) fn make_current(&self) -> Result<(), GenerationError> {
        // Kept even if this fails, because then nobody knows where `CURRENT` points. The next start clears up.
        self.dir.superseded.store(false, Ordering::Relaxed);
        point_at(self.states(), self.number)
    }

    /// Has the directory removed once nobody reads from it any more.
    pub(super) fn supersede(&self) {
        self.dir.superseded.store(true, Ordering::Relaxed);
    }

    fn open(path: PathBuf, number: u64, create: bool) -> Result<Self, GenerationError> {
        if create {
            create_dir(&path).map_err(|source| GenerationError::Write { path: path.clone(), source })?;
        }
        let mut options = rocks::options(create);
        options.set_db_write_buffer_size(WRITE_BUFFERS_BYTES_MAX);
        options.set_write_buffer_size(WRITE_BUFFERS_BYTES_MAX / 2);
        options.set_max_total_wal_size(WAL_BYTES_MAX);
        // One that an earlier version did not have begins empty.
        options.create_missing_column_families(true);
        let db = DB::open_cf_with_opts(&options, &path, families().map(|name| (name, options.clone())))
            .map_err(|source| GenerationError::Open { path: path.clone(), source })?;
        Ok(Self { db, number, dir: GenerationDir { path, superseded: AtomicBool::new(false) } })
    }

    /// Makes durable what was written without the WAL.
    pub(super) fn flush(&self) -> Result<(), rocksdb::Error> {
        let mut options = FlushOptions::default();
        options.set_wait(true);
        let families: Vec<_> = families().map(|name| cf(&self.db, name)).collect();
        self.db.flush_cfs_opt(&families, &options)
    }

    fn states(&self) -> &Path {
        self.dir.path.parent().expect("a generation stands in the state directory")
    }
}

/// The names of all column families.
fn families() -> impl Iterator<Item = &'static str> {
    [META].into_iter().chain(Table::ALL.map(Table::name))
}

fn point_at(states: &Path, number: u64) -> Result<(), GenerationError> {
    let record = codec::seal(Kind::Generation, CURRENT.as_bytes(), &number);
    replace(states, CURRENT, &record).map_err(|source| GenerationError::Write { path: states.to_owned(), source })
}

fn generation_dirs(states: &Path) -> io::Result<Vec<PathBuf>> {
    let mut dirs = Vec::new();
    for file in fs::read_dir(states)? {
        let path = file?.path();
        if path.is_dir() {
            dirs.push(path);
        }
    }
    Ok(dirs)
}
