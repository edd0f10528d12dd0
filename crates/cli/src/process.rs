//! Signals, and programs that must not outlive this one.

use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::fs::Mode;
use rustix::process::{Pid, Signal};
use tokio::process::{Child, Command};
use tokio::signal::unix::{self, SignalKind};

use crate::failure::Failure;

/// What is written from now on, by whomever in this process, is its owner's alone: logs, states and backups hold secrets.
pub(crate) fn keep_private() {
    rustix::process::umask(Mode::RWXG | Mode::RWXO);
}

/// The signals that ask this program to end.
pub(crate) struct Signals {
    interrupt: unix::Signal,
    terminate: unix::Signal,
}

impl Signals {
    pub(crate) fn new() -> Result<Self, Failure> {
        let listen = |kind| unix::signal(kind).map_err(|source| Failure::Signals { source });
        Ok(Self { interrupt: listen(SignalKind::interrupt())?, terminate: listen(SignalKind::terminate())? })
    }

    pub(crate) async fn next(&mut self) -> Signal {
        tokio::select! {
            _ = self.interrupt.recv() => Signal::INT,
            _ = self.terminate.recv() => Signal::TERM,
        }
    }
}

/// Each asks a node to read its certificates again.
pub(crate) fn hangups() -> Result<unix::Signal, Failure> {
    unix::signal(SignalKind::hangup()).map_err(|source| Failure::Signals { source })
}

/// A program in a process group of its own, so that a terminal's Ctrl-C reaches it through us alone and once.
pub(crate) struct Tied {
    program: String,
    group: Pid,
    child: Child,
}

impl Tied {
    /// Starts a program that the kernel kills when this one is killed. To be called on the main thread: the tie is to
    /// the thread that starts the program.
    pub(crate) fn start(mut command: Command) -> Result<Self, Failure> {
        let program = command.as_std().get_program().to_string_lossy().into_owned();
        command.process_group(0).kill_on_drop(true);
        tie_to_parent(&mut command);
        let child = command.spawn().map_err(|source| Failure::Spawn { program: program.clone(), source })?;
        let group = child
            .id()
            .and_then(|id| Pid::from_raw(id.cast_signed()))
            .expect("a child that was not waited for has a process id");
        Ok(Self { program, group, child })
    }

    /// Passes a signal on to the program and whatever it started.
    pub(crate) fn signal(&self, signal: Signal) {
        // It may have ended in this moment, and then there is nobody to tell.
        let _ = rustix::process::kill_process_group(self.group, signal);
    }

    pub(crate) async fn wait(&mut self) -> Result<ExitStatus, Failure> {
        self.child.wait().await.map_err(|source| Failure::Child { program: self.program.clone(), source })
    }

    /// Asks it to end, and ends it when it has not done so in time.
    pub(crate) async fn stop(&mut self, patience: Duration) -> Result<ExitStatus, Failure> {
        self.signal(Signal::TERM);
        if let Ok(ended) = tokio::time::timeout(patience, self.wait()).await {
            return ended;
        }
        tracing::warn!(program = self.program, "did not end when asked to, killing it");
        self.signal(Signal::KILL);
        self.wait().await
    }
}

#[cfg(target_os = "linux")]
fn tie_to_parent(command: &mut Command) {
    let parent = rustix::process::getpid();
    let tie = move || {
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
        // The parent may have died before the line above, and then no signal comes.
        if rustix::process::getppid() != Some(parent) {
            return Err(rustix::io::Errno::SRCH.into());
        }
        Ok(())
    };
    #[expect(unsafe_code, reason = "the kernel offers this to the new process alone, between fork and exec")]
    // SAFETY: the closure makes two system calls; it neither allocates nor takes a lock.
    unsafe {
        command.pre_exec(tie);
    }
}

/// Other systems have no such tie; a program left behind is struck off when its lease runs out.
#[cfg(not(target_os = "linux"))]
fn tie_to_parent(_command: &mut Command) {}

/// The exit code a shell would show.
pub(crate) fn shell_code(status: ExitStatus) -> u8 {
    use std::os::unix::process::ExitStatusExt;
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(1);
    u8::try_from(code).unwrap_or(1)
}

/// This program, started again with other arguments.
pub(crate) fn this_program() -> Result<Command, Failure> {
    let path = std::env::current_exe().map_err(|source| Failure::Spawn { program: "rollcall".to_owned(), source })?;
    let mut command = Command::new(path);
    command.stdin(Stdio::null());
    Ok(command)
}
