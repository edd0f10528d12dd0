//! A child process that dies with whoever started it.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process, set_parent_process_death_signal};

use crate::wait::wait_until;

/// A program that may be running.
#[derive(Debug, Default)]
pub struct Process {
    child: Option<Child>,
}

impl Process {
    pub fn is_running(&self) -> bool {
        self.child.is_some()
    }

    /// Starts the program with both of its outputs appended to a file.
    ///
    /// # Panics
    /// When it runs already or cannot be started.
    pub fn start(&mut self, mut command: Command, log: &Path) {
        assert!(self.child.is_none(), "the process runs already");
        let log = File::options().create(true).append(true).open(log).expect("a log file");
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("a second handle on the log")).stderr(log);
        die_with_parent(&mut command);
        self.child = Some(command.spawn().expect("the binary starts"));
    }

    fn child(&self) -> &Child {
        self.child.as_ref().expect("the process runs")
    }

    /// # Panics
    /// When it does not run.
    pub fn pid(&self) -> u32 {
        self.child().id()
    }

    /// # Panics
    /// When it does not run.
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(self.child()), signal)
            .expect("a signal reaches a child that was not waited for");
    }

    /// Ends the process at once and waits until it is gone.
    ///
    /// # Panics
    /// When it does not run.
    pub fn kill9(&mut self) {
        self.signal(Signal::KILL);
        self.child.take().expect("the process runs").wait().expect("a killed child ends");
    }

    /// How the process ended, if it did so by itself; from then on it does not run.
    ///
    /// # Panics
    /// When the system does not know the child.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        let status = self.child.as_mut()?.try_wait().expect("a child can be asked")?;
        self.child = None;
        Some(status)
    }

    /// Waits until the process ended by itself.
    ///
    /// # Panics
    /// When it does not end in time.
    pub async fn exit(&mut self, deadline: Duration) -> ExitStatus {
        let mut child = self.child.take().expect("the process runs");
        wait_until("the process ends", deadline, || {
            let status = child.try_wait().expect("a child can be asked");
            async move { status }
        })
        .await
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Lets the kernel kill the child when the thread that started it ends, even if the test is killed.
#[expect(unsafe_code, reason = "nothing but one system call runs between fork and exec")]
fn die_with_parent(command: &mut Command) {
    // SAFETY: prctl is async-signal-safe and touches no memory of the parent.
    unsafe { command.pre_exec(|| Ok(set_parent_process_death_signal(Some(Signal::KILL))?)) };
}

/// The program of this name in the target directory that the caller was built in, unless the variable names another.
///
/// # Panics
/// When there is none, saying how to build it.
pub fn built(name: &str, package: &str, variable: &str) -> PathBuf {
    let named = std::env::var_os(variable).map(PathBuf::from);
    let path = named.unwrap_or_else(|| {
        let own = std::env::current_exe().expect("a program knows its own path");
        let directory = own.parent().expect("a program lies in a directory");
        // A test lies in target/release/deps, programs in target/release.
        let release =
            if directory.ends_with("deps") { directory.parent().expect("a target directory") } else { directory };
        release.join(name)
    });
    assert!(
        path.is_file(),
        "{} is missing: build it by `cargo build --release -p {package}`, or name another by {variable}",
        path.display()
    );
    path
}
