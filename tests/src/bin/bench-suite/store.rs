//! The raw reports of a run, one JSON file each. The document is made of them and of nothing else, so it can be made
//! again, and a part can be measured anew beside the rest.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rollcall_bench::Report;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::machine::Machine;

const RUN: &str = "run.json";

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Target {
    Rollcall,
    Etcd,
}

impl Target {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Rollcall => "rollcall",
            Self::Etcd => "etcd",
        }
    }
}

/// What holds for all reports of a directory.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Run {
    /// RFC 3339.
    pub(crate) begun_at: String,
    pub(crate) command: String,
    pub(crate) machine: Machine,
    /// None: there was none to compare with.
    pub(crate) etcd_version: Option<String>,
    /// Everything was cut short: the figures mean nothing.
    pub(crate) quick: bool,
}

/// One measurement of one target.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) step: String,
    pub(crate) target: Target,
    /// From 1.
    pub(crate) repetition: u32,
    /// From 1: a step may be done more than once in a repetition.
    pub(crate) part: u32,
    pub(crate) commit: String,
    /// RFC 3339.
    pub(crate) at: String,
    pub(crate) command: String,
    pub(crate) outcome: Outcome,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Outcome {
    Report(Box<Report>),
    Failure(String),
}

/// Why the raw reports cannot be kept or read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    #[error("make the directory {path}")]
    Make {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("write {path}")]
    Write {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("read {path}")]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("remove {path}")]
    Remove {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("make sense of {path}")]
    Parse {
        path: PathBuf,
        #[source]
        source: serde_json::Error,
    },
}

/// A directory of raw reports.
#[derive(Debug)]
pub(crate) struct Store {
    directory: PathBuf,
}

impl Store {
    pub(crate) fn open(directory: &Path) -> Result<Self, StoreError> {
        fs::create_dir_all(directory).map_err(|source| StoreError::Make { path: directory.to_owned(), source })?;
        Ok(Self { directory: directory.to_owned() })
    }

    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    fn write<T: Serialize>(&self, name: &str, value: &T) -> Result<(), StoreError> {
        let path = self.directory.join(name);
        let json = serde_json::to_string_pretty(value).expect("what is kept here is JSON") + "\n";
        fs::write(&path, json).map_err(|source| StoreError::Write { path, source })
    }

    fn read<T: DeserializeOwned>(path: &Path) -> Result<T, StoreError> {
        let text = fs::read(path).map_err(|source| StoreError::Read { path: path.to_owned(), source })?;
        serde_json::from_slice(&text).map_err(|source| StoreError::Parse { path: path.to_owned(), source })
    }

    pub(crate) fn save_run(&self, run: &Run) -> Result<(), StoreError> {
        self.write(RUN, run)
    }

    pub(crate) fn run(&self) -> Result<Run, StoreError> {
        Self::read(&self.directory.join(RUN))
    }

    pub(crate) fn save(&self, record: &Record) -> Result<(), StoreError> {
        let Record { step, target, repetition, part, .. } = record;
        self.write(&format!("{step}.{}.{repetition}.{part}.json", target.word()), record)
    }

    fn paths(&self) -> Result<Vec<PathBuf>, StoreError> {
        let failed = |source| StoreError::Read { path: self.directory.clone(), source };
        let mut paths = Vec::new();
        for entry in fs::read_dir(&self.directory).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            if path.extension().is_some_and(|extension| extension == "json") && !path.ends_with(RUN) {
                paths.push(path);
            }
        }
        paths.sort();
        Ok(paths)
    }

    /// All records, in the order of their names.
    pub(crate) fn records(&self) -> Result<Vec<Record>, StoreError> {
        self.paths()?.iter().map(|path| Self::read(path)).collect()
    }

    /// Removes what an earlier run measured of a step.
    pub(crate) fn forget(&self, step: &str) -> Result<(), StoreError> {
        let prefix = format!("{step}.");
        for path in self.paths()? {
            if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&prefix)) {
                fs::remove_file(&path).map_err(|source| StoreError::Remove { path, source })?;
            }
        }
        Ok(())
    }
}
