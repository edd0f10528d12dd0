//! `rollcall cluster backup`.

use std::fs::{self, File, OpenOptions};
use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::{Stream, TryStreamExt};

use super::{attempt, client, offline};
use crate::args::{Backup, Global};
use crate::failure::Failure;
use crate::output;
use crate::process::Signals;

/// Between two words on how far it is.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(200);

pub(super) async fn run(global: &Global, args: &Backup) -> Result<(), Failure> {
    let mut signals = Signals::new()?;
    tokio::select! {
        taken = take(global, args) => taken,
        _ = signals.next() => Err(Failure::Interrupted),
    }
}

async fn take(global: &Global, args: &Backup) -> Result<(), Failure> {
    let client = client(global)?;
    if args.file == Path::new("-") {
        let stdout = io::stdout();
        if stdout.is_terminal() {
            return Err(Failure::Usage {
                what: "a backup is no text: redirect standard output, or name a file".into(),
            });
        }
        let stdout = stdout.as_fd().try_clone_to_owned().map_err(|source| Failure::Print { source })?;
        let backup = attempt("take a backup", client.backup().await)?;
        let (summary, _) = offline::receive(progress(backup.into_stream()), stdout.into(), &args.file).await?;
        // Standard output is the backup.
        output::progress("");
        output::note(&format!("took {}", summary.line()));
        return Ok(());
    }
    refuse_to_overwrite(args)?;
    let partial = Partial::create(&args.file)?;
    let backup = attempt("take a backup", client.backup().await)?;
    let endpoint = backup.endpoint().to_owned();
    let received = offline::receive(progress(backup.into_stream()), partial.file()?, &args.file).await;
    output::progress("");
    let (summary, file) = received?;
    let write = |source| Failure::WriteFile { path: args.file.clone(), source };
    file.sync_all().map_err(write)?;
    refuse_to_overwrite(args)?;
    partial.keep(&args.file).map_err(write)?;
    output::show(global.output, &summary, |summary| {
        let mut fields = vec![("backup", format!("{}, from {endpoint}", args.file.display()))];
        fields.extend(summary.fields());
        output::fields(&fields)
    })
}

fn refuse_to_overwrite(args: &Backup) -> Result<(), Failure> {
    if args.overwrite || !args.file.exists() {
        return Ok(());
    }
    Err(Failure::FileExists { path: args.file.clone() })
}

/// Tells people how much has come.
fn progress(chunks: impl Stream<Item = io::Result<Bytes>> + Send) -> impl Stream<Item = io::Result<Bytes>> + Send {
    let (begun, mut told, mut bytes) = (Instant::now(), Instant::now(), 0u64);
    let is_watched = io::stderr().is_terminal();
    chunks.inspect_ok(move |chunk| {
        bytes += chunk.len() as u64;
        if is_watched && told.elapsed() >= PROGRESS_INTERVAL {
            told = Instant::now();
            let rate = bytes as f64 / begun.elapsed().as_secs_f64();
            output::progress(&format!("{} at {}/s", output::bytes(bytes), output::bytes(rate as u64)));
        }
    })
}

/// The file in the making, beside the one it is to become. Removed when it is dropped.
struct Partial {
    path: PathBuf,
    file: File,
}

impl Partial {
    fn create(target: &Path) -> Result<Self, Failure> {
        let mut path = target.as_os_str().to_owned();
        path.push(".partial");
        let path = PathBuf::from(path);
        // For no other eyes: it holds what registrations of all tenants hold.
        let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path);
        let file = file.map_err(|source| Failure::WriteFile { path: path.clone(), source })?;
        Ok(Self { path, file })
    }

    fn file(&self) -> Result<File, Failure> {
        self.file.try_clone().map_err(|source| Failure::WriteFile { path: self.path.clone(), source })
    }

    /// Gives it its name, durably.
    fn keep(&self, target: &Path) -> io::Result<()> {
        fs::rename(&self.path, target)?;
        let parent = target.parent().filter(|parent| !parent.as_os_str().is_empty());
        File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        // It is gone once it has its name.
        let _ = fs::remove_file(&self.path);
    }
}
