//! What can be done to a node's disk and wall clock: interposed libraries that a program never notices.

use std::ffi::CString;
use std::fs;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use rand::Rng;
use rand::rngs::SmallRng;
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
use rustix::thread::{UnshareFlags, unshare_unsafe};

/// The libraries, compiled once for each run.
#[derive(Clone, Debug)]
pub struct Libraries {
    power_loss: PathBuf,
    wall_clock: PathBuf,
}

impl Libraries {
    /// # Panics
    /// When there is no C compiler `cc`.
    pub fn build(directory: &Path) -> Self {
        let sources = Path::new(env!("CARGO_MANIFEST_DIR"));
        let build = |name: &str, source: &str| {
            let library = directory.join(name);
            let command = ["-shared", "-fPIC", "-O1", "-o"];
            let mut cc = Command::new("cc");
            cc.args(command).arg(&library).arg(sources.join(source)).args(["-ldl", "-lpthread"]);
            assert!(cc.status().expect("a C compiler `cc`").success(), "{source} does not compile");
            library
        };
        Self {
            power_loss: build("power_loss.so", "../crates/storage/tests/power_loss/power_loss.c"),
            wall_clock: build("wall_clock.so", "src/faults/wall_clock.c"),
        }
    }
}

/// What a disk says of a flush.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flush {
    Honest,
    Fails,
    /// It is answered, and nothing is kept.
    Lies,
}

/// The disk of one node, and its wall clock.
#[derive(Debug)]
pub struct Disk {
    libraries: Libraries,
    root: PathBuf,
    shadow: PathBuf,
    orders: PathBuf,
    clock: PathBuf,
}

impl Disk {
    /// Of a node whose data directory is `root`.
    ///
    /// # Panics
    /// When a file cannot be written beside it.
    pub fn new(libraries: Libraries, root: &Path) -> Self {
        fs::create_dir_all(root).expect("a data directory");
        let root = root.canonicalize().expect("the directory is there");
        let beside = |name: &str| root.with_extension(name);
        let disk =
            Self { libraries, shadow: beside("shadow"), orders: beside("orders"), clock: beside("clock"), root };
        disk.flush(Flush::Honest);
        disk.set_clock(0);
        disk
    }

    /// What makes a process live on this disk.
    pub fn environment(&self) -> Vec<(String, String)> {
        let text = |path: &Path| path.display().to_string();
        let preload = format!("{}:{}", text(&self.libraries.power_loss), text(&self.libraries.wall_clock));
        [
            ("LD_PRELOAD", preload),
            ("ROLLCALL_POWER_LOSS_ROOT", text(&self.root)),
            ("ROLLCALL_POWER_LOSS_SHADOW", text(&self.shadow)),
            ("ROLLCALL_POWER_LOSS_APPENDED", "1".to_owned()),
            ("ROLLCALL_POWER_LOSS_ORDERS", text(&self.orders)),
            ("ROLLCALL_WALL_CLOCK", text(&self.clock)),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .to_vec()
    }

    /// As of now, whether or not the process runs.
    ///
    /// # Panics
    /// When the order cannot be written.
    pub fn flush(&self, flush: Flush) {
        let word = match flush {
            Flush::Honest => "honest",
            Flush::Fails => "fail",
            Flush::Lies => "lie",
        };
        fs::write(&self.orders, word).expect("an order is written");
    }

    /// Puts the wall clock off by so much.
    ///
    /// # Panics
    /// When the offset cannot be written.
    pub fn set_clock(&self, seconds: i64) {
        // In place: the process has the file mapped.
        let mut file =
            fs::File::options().create(true).truncate(false).write(true).open(&self.clock).expect("a clock");
        file.write_all(&seconds.to_ne_bytes()).expect("the clock is set");
    }

    /// The process is dead and so was its disk: what was not flushed is gone or, half of the time, there up to somewhere.
    /// Answers how many bytes of it were there, and how many of them survived.
    ///
    /// # Panics
    /// When the files cannot be put in place.
    pub fn lose_power(&self, random: &mut SmallRng) -> (u64, u64) {
        if !self.shadow.join("whole").exists() {
            // It was killed before it wrote anything.
            if self.shadow.exists() {
                fs::remove_dir_all(&self.shadow).expect("remove the shadow");
            }
            return (0, 0);
        }
        let tree = self.shadow.join("tree");
        // The disk was in the middle of writing what nobody had it flush.
        let torn = random.random_bool(0.5);
        let mut counts = (0, 0);
        self.tear(&tree, &self.root, torn.then_some(random), &mut counts);
        fs::remove_dir_all(&self.root).expect("remove what the page cache had");
        fs::rename(&tree, &self.root).expect("put the disk in its place");
        fs::remove_dir_all(&self.shadow).expect("remove the shadow");
        counts
    }

    fn tear(&self, disk: &Path, cache: &Path, mut random: Option<&mut SmallRng>, counts: &mut (u64, u64)) {
        let mut names: Vec<_> =
            fs::read_dir(disk).expect("a readable directory").map(|e| e.expect("an entry")).collect();
        names.sort_by_key(fs::DirEntry::file_name);
        for entry in names {
            let (kept, live) = (entry.path(), cache.join(entry.file_name()));
            if kept.is_dir() {
                self.tear(&kept, &live, random.as_deref_mut(), counts);
                continue;
            }
            let (Ok(kept_size), Ok(live_size)) =
                (fs::metadata(&kept).map(|it| it.len()), fs::metadata(&live).map(|it| it.len()))
            else {
                continue;
            };
            let lost = live_size.saturating_sub(kept_size);
            counts.0 += lost;
            let Some(random) = random.as_deref_mut().filter(|_| lost > 0) else { continue };
            let survives = random.random_range(0..=lost);
            let mut bytes = vec![0; usize::try_from(survives).expect("a tail fits into memory")];
            let mut file = fs::File::open(&live).expect("a file of the node");
            file.seek(SeekFrom::Start(kept_size)).expect("the file is longer");
            file.read_exact(&mut bytes).expect("the file is longer");
            let mut file = fs::File::options().append(true).open(&kept).expect("a file of the disk");
            file.write_all(&bytes).expect("the tail is written");
            counts.1 += survives;
        }
    }
}

/// A small file system that can be filled, in memory. It is seen by the thread that mounted it and whoever that starts, and
/// gone with the last of them.
#[derive(Debug)]
pub struct SmallDisk {
    path: PathBuf,
}

impl SmallDisk {
    /// # Errors
    /// When the machine does not let us mount anything.
    #[expect(unsafe_code, reason = "a mount namespace of one's own takes nothing from anybody")]
    pub fn mount(path: &Path, bytes: u64) -> std::io::Result<Self> {
        fs::create_dir_all(path)?;
        // SAFETY: open files stay shared with the other threads; only what is mounted where changes.
        unsafe { unshare_unsafe(UnshareFlags::NEWNS) }?;
        mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
        let size = CString::new(format!("size={bytes}"))?;
        mount("rollcall", path, "tmpfs", MountFlags::empty(), Some(size.as_c_str()))?;
        Ok(Self { path: path.to_owned() })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    fn ballast(&self) -> PathBuf {
        self.path.join("ballast")
    }

    /// Leaves not a byte free.
    ///
    /// # Panics
    /// When something else than the lack of room stops it.
    pub fn fill(&self) {
        let mut file = fs::File::create(self.ballast()).expect("a file");
        for piece in [1 << 16, 1] {
            let bytes = vec![1; piece];
            while file.write_all(&bytes).is_ok() {}
        }
    }

    /// # Panics
    /// When it was not filled.
    pub fn clear(&self) {
        fs::remove_file(self.ballast()).expect("what fills the disk is removed");
    }
}
