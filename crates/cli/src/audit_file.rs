//! The file in which a node writes down who changed what. Whoever moves it away to keep it finds the next line in a new one.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

pub(crate) struct AuditFile {
    path: PathBuf,
    file: File,
    /// Device and number of the file.
    identity: (u64, u64),
}

impl AuditFile {
    pub(crate) fn open(path: PathBuf) -> io::Result<Self> {
        let (file, identity) = open(&path)?;
        Ok(Self { path, file, identity })
    }

    fn is_in_place(&self) -> bool {
        std::fs::metadata(&self.path).is_ok_and(|found| (found.dev(), found.ino()) == self.identity)
    }
}

/// Names and addresses of all tenants are nobody's but the owner's to read.
fn open(path: &Path) -> io::Result<(File, (u64, u64))> {
    let file = OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
    let found = file.metadata()?;
    Ok((file, (found.dev(), found.ino())))
}

impl Write for AuditFile {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if !self.is_in_place() {
            // Where no new one can be made the old one goes on.
            if let Ok((file, identity)) = open(&self.path) {
                (self.file, self.identity) = (file, identity);
            }
        }
        self.file.write(line)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_was_moved_away_is_followed_by_another() {
        let directory = tempfile::tempdir().unwrap();
        let (path, moved) = (directory.path().join("audit"), directory.path().join("audit.1"));
        std::fs::write(&path, "earlier\n").unwrap();
        let mut file = AuditFile::open(path.clone()).unwrap();
        file.write_all(b"one\n").unwrap();
        std::fs::rename(&path, &moved).unwrap();
        file.write_all(b"two\n").unwrap();
        assert_eq!(std::fs::read_to_string(moved).unwrap(), "earlier\none\n");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "two\n");
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
    }
}
