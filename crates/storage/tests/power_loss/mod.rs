//! Runs a process on a disk that can lose power: see the head of `power_loss.c`.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// A watched directory, and the shadow that holds what a disk would.
pub(crate) struct PowerLoss {
    library: PathBuf,
    root: PathBuf,
    shadow: PathBuf,
}

impl PowerLoss {
    /// Works in `dir`, which must be there.
    pub(crate) fn new(dir: &Path) -> Self {
        let dir = dir.canonicalize().expect("the directory is there");
        let (root, shadow) = (dir.join("root"), dir.join("shadow"));
        std::fs::create_dir_all(&root).expect("create the watched directory");
        Self { library: library().to_owned(), root, shadow }
    }

    /// The watched directory, as it is after a kill.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// The directory as it is after the power loss, once the process is dead.
    pub(crate) fn disk(&self) -> PathBuf {
        self.shadow.join("tree")
    }

    /// Has a process run on this disk.
    pub(crate) fn watch<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        command
            .env("LD_PRELOAD", &self.library)
            .env("ROLLCALL_POWER_LOSS_ROOT", &self.root)
            .env("ROLLCALL_POWER_LOSS_SHADOW", &self.shadow)
    }

    /// The power comes back: goes on with what the disk holds.
    pub(crate) fn restore(&self) {
        std::fs::remove_dir_all(&self.root).expect("remove the watched directory");
        std::fs::rename(self.disk(), &self.root).expect("put the disk in its place");
        std::fs::remove_dir_all(&self.shadow).expect("remove the shadow");
    }
}

/// The library, compiled with `cc` once for each test process.
fn library() -> &'static Path {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/power_loss/power_loss.c");
        let library = Path::new(env!("CARGO_TARGET_TMPDIR")).join("power_loss.so");
        // Another test process may do the same at this moment, or use the library.
        let own = library.with_extension(std::process::id().to_string());
        let arguments = ["-shared", "-fPIC", "-O1", "-o"];
        let compiled = Command::new("cc").args(arguments).arg(&own).arg(source).args(["-ldl", "-lpthread"]).status();
        assert!(compiled.expect("a C compiler `cc`").success(), "power_loss.c does not compile");
        std::fs::rename(&own, &library).expect("put the library in its place");
        library
    })
}
