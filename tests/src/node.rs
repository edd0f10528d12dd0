//! One node: a process, its directory and its ports.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process, set_parent_process_death_signal};

use crate::api::Api;
use crate::ports::Port;
use crate::wait::wait_until;

/// How much of a log is shown when a test fails.
const LOG_TAIL_LINES: usize = 60;

#[derive(Debug)]
pub struct Node {
    pub api: Api,
    directory: PathBuf,
    client_port: Port,
    peer_port: Port,
    arguments: Vec<String>,
    process: Option<Child>,
}

impl Node {
    /// A node that is not started yet, with its directory inside `parent`.
    ///
    /// # Panics
    /// When the directory cannot be made.
    pub fn new(parent: &Path, name: &str, arguments: Vec<String>) -> Self {
        let directory = parent.join(name);
        fs::create_dir_all(&directory).expect("a directory for the node");
        let (client_port, peer_port) = (Port::reserve(), Port::reserve());
        let api = Api::new(&client_port.address());
        Self { api, directory, client_port, peer_port, arguments, process: None }
    }

    pub fn client_address(&self) -> String {
        self.client_port.address()
    }

    pub fn peer_address(&self) -> String {
        self.peer_port.address()
    }

    pub fn data_dir(&self) -> PathBuf {
        self.directory.join("data")
    }

    fn log_path(&self) -> PathBuf {
        self.directory.join("log")
    }

    /// Everything the node said in all its lives.
    pub fn log(&self) -> String {
        fs::read(self.log_path()).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// The last lines of the log.
    pub fn log_tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(LOG_TAIL_LINES)..].join("\n")
    }

    pub fn is_running(&self) -> bool {
        self.process.is_some()
    }

    /// Starts the process, with the command line it always has. It is not ready yet.
    ///
    /// # Panics
    /// When it runs already or cannot be started.
    pub fn start(&mut self) {
        self.start_on(&self.data_dir(), &self.peer_address());
    }

    /// Starts the process on another data directory or peer address than its own.
    ///
    /// # Panics
    /// When it runs already or cannot be started.
    pub fn start_on(&mut self, data_dir: &Path, peer_address: &str) {
        assert!(self.process.is_none(), "the node runs already");
        let log = File::options().create(true).append(true).open(self.log_path()).expect("a log file");
        let mut command = rollcall();
        command
            .args(["serve", "--listen", &self.client_address(), "--peer-listen", peer_address, "--data-dir"])
            .arg(data_dir)
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a second handle on the log"))
            .stderr(log);
        die_with_parent(&mut command);
        self.process = Some(command.spawn().expect("the binary starts"));
    }

    fn signal(&self, signal: Signal) {
        let process = self.process.as_ref().expect("the node runs");
        let pid = Pid::from_child(process);
        kill_process(pid, signal).expect("a signal reaches a child that was not waited for");
    }

    /// Ends the process at once, as a crash would, and waits until it is gone.
    ///
    /// # Panics
    /// When it does not run.
    pub fn kill9(&mut self) {
        self.signal(Signal::KILL);
        self.process.take().expect("the node runs").wait().expect("a killed child ends");
    }

    /// Halts the process where it stands (SIGSTOP).
    ///
    /// # Panics
    /// When it does not run.
    pub fn stop(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets a halted process go on (SIGCONT).
    ///
    /// # Panics
    /// When it does not run.
    pub fn cont(&self) {
        self.signal(Signal::CONT);
    }

    /// Asks the process to end (SIGTERM).
    ///
    /// # Panics
    /// When it does not run.
    pub fn term(&self) {
        self.signal(Signal::TERM);
    }

    /// Waits until the process ended by itself.
    ///
    /// # Panics
    /// When it does not end in time.
    pub async fn exit(&mut self, deadline: Duration) -> ExitStatus {
        let mut process = self.process.take().expect("the node runs");
        wait_until("the process ends", deadline, || {
            let status = process.try_wait().expect("a child can be asked");
            async move { status }
        })
        .await
    }

    /// # Panics
    /// When the node is not ready in time.
    pub async fn ready(&self, deadline: Duration) {
        wait_until("the node is ready", deadline, || async { self.api.is_ready().await.then_some(()) }).await;
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

/// Lets the kernel kill the child when the thread that started it ends, even if the test is killed.
#[expect(unsafe_code, reason = "nothing but one system call runs between fork and exec")]
fn die_with_parent(command: &mut Command) {
    // SAFETY: prctl is async-signal-safe and touches no memory of the parent.
    unsafe { command.pre_exec(|| Ok(set_parent_process_death_signal(Some(Signal::KILL))?)) };
}

/// The program, with nothing set in its environment that is meant for another.
///
/// # Panics
/// When there is no binary.
pub fn rollcall() -> Command {
    let mut command = Command::new(binary());
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("ROLLCALL_")) {
        command.env_remove(name);
    }
    command
}

/// # Panics
/// When there is no binary, saying how to build it.
fn binary() -> PathBuf {
    let named = std::env::var_os("ROLLCALL_BIN").map(PathBuf::from);
    let path = named.unwrap_or_else(|| {
        let test = std::env::current_exe().expect("a test knows its own path");
        // The test lies in target/release/deps, the binary in target/release.
        test.ancestors().nth(2).expect("a test lies in a target directory").join("rollcall")
    });
    assert!(
        path.is_file(),
        "{} is missing: build it by `cargo build --release -p rollcall-cli`, or name another by ROLLCALL_BIN",
        path.display()
    );
    path
}
