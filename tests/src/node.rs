//! One node: a process, its directory and its ports.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::Duration;

use rustix::process::Signal;

use crate::api::Api;
use crate::faults::Seat;
use crate::ports::Port;
use crate::process::{Process, built};
use crate::wait::wait_until;

/// How much of a log is shown when a test fails.
const LOG_TAIL_LINES: usize = 60;

#[derive(Debug)]
pub struct Node {
    pub api: Api,
    directory: PathBuf,
    client_address: String,
    peer_address: String,
    /// The ports are kept for a node on this machine's loopback, and its own in a network namespace.
    _ports: Option<(Port, Port)>,
    seat: Option<Seat>,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    process: Process,
}

impl Node {
    /// A node that is not started yet, with its directory inside `parent`.
    ///
    /// # Panics
    /// When the directory cannot be made.
    pub fn new(parent: &Path, name: &str, arguments: Vec<String>) -> Self {
        let (client, peer) = (Port::reserve(), Port::reserve());
        let addresses = (client.address(), peer.address());
        Self { _ports: Some((client, peer)), ..Self::at(parent, name, addresses, arguments) }
    }

    /// As [`Self::new`], in a network namespace.
    ///
    /// # Panics
    /// When the directory cannot be made.
    pub fn seated(parent: &Path, name: &str, seat: Seat, mut arguments: Vec<String>) -> Self {
        let addresses = (format!("{}:7900", seat.address), format!("{}:7901", seat.address));
        arguments.push("--insecure".to_owned());
        Self { seat: Some(seat), ..Self::at(parent, name, addresses, arguments) }
    }

    fn at(parent: &Path, name: &str, addresses: (String, String), arguments: Vec<String>) -> Self {
        let directory = parent.join(name);
        fs::create_dir_all(&directory).expect("a directory for the node");
        let (client_address, peer_address) = addresses;
        Self {
            api: Api::new(&client_address),
            directory,
            client_address,
            peer_address,
            _ports: None,
            seat: None,
            arguments,
            environment: Vec::new(),
            process: Process::default(),
        }
    }

    /// With variables set for the process.
    #[must_use]
    pub fn with_environment(self, variables: &[(String, String)]) -> Self {
        Self { environment: variables.to_vec(), ..self }
    }

    /// With certificates that `rollcall tls init` made in `directory` under this name.
    #[must_use]
    pub fn secured(mut self, directory: &Path, name: &str) -> Self {
        let own = directory.join(name);
        let flags = [
            ("--tls-cert", own.join("tls.pem")),
            ("--tls-key", own.join("tls.key")),
            ("--peer-tls-cert", own.join("peer.pem")),
            ("--peer-tls-key", own.join("peer.key")),
            ("--peer-tls-ca", directory.join("peer-ca.pem")),
        ];
        self.arguments
            .extend(flags.into_iter().flat_map(|(flag, path)| [flag.to_owned(), path.display().to_string()]));
        self.api = Api::secured(&self.client_address(), &directory.join("client-ca.pem"));
        self
    }

    /// Whoever asks through [`Self::api`] has this token from now on.
    pub fn authenticate(&mut self, token: &str) {
        self.api = self.api.clone().with_token(token);
    }

    /// Has the process read its certificates again (SIGHUP).
    ///
    /// # Panics
    /// When it does not run.
    pub fn hangup(&self) {
        self.process.signal(Signal::HUP);
    }

    pub fn client_address(&self) -> String {
        self.client_address.clone()
    }

    pub fn peer_address(&self) -> String {
        self.peer_address.clone()
    }

    /// With one more flag or flag's value for all its lives from now on.
    pub fn add_argument(&mut self, argument: &str) {
        self.arguments.push(argument.to_owned());
    }

    /// With a variable set for its next lives, or set no more.
    pub fn set_variable(&mut self, name: &str, value: Option<&str>) {
        self.environment.retain(|(known, _)| known != name);
        self.environment.extend(value.map(|value| (name.to_owned(), value.to_owned())));
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
        self.process.is_running()
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
        let mut command = rollcall();
        command
            .args(["serve", "--listen", &self.client_address(), "--peer-listen", peer_address, "--data-dir"])
            .arg(data_dir)
            .args(&self.arguments)
            .envs(self.environment.iter().cloned());
        if let Some(seat) = &self.seat {
            seat.enter(&mut command);
        }
        self.process.start(command, &self.log_path());
    }

    /// Whether the process ended by itself; from then on it does not run.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.process.ended()
    }

    /// # Panics
    /// When it does not run.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Ends the process at once, as a crash would, and waits until it is gone.
    ///
    /// # Panics
    /// When it does not run.
    pub fn kill9(&mut self) {
        self.process.kill9();
    }

    /// Halts the process where it stands (SIGSTOP).
    ///
    /// # Panics
    /// When it does not run.
    pub fn stop(&self) {
        self.process.signal(Signal::STOP);
    }

    /// Lets a halted process go on (SIGCONT).
    ///
    /// # Panics
    /// When it does not run.
    pub fn cont(&self) {
        self.process.signal(Signal::CONT);
    }

    /// Asks the process to end (SIGTERM).
    ///
    /// # Panics
    /// When it does not run.
    pub fn term(&self) {
        self.process.signal(Signal::TERM);
    }

    /// Waits until the process ended by itself.
    ///
    /// # Panics
    /// When it does not end in time.
    pub async fn exit(&mut self, deadline: Duration) -> ExitStatus {
        self.process.exit(deadline).await
    }

    /// # Panics
    /// When the node is not ready in time.
    pub async fn ready(&self, deadline: Duration) {
        wait_until("the node is ready", deadline, || async { self.api.is_ready().await.then_some(()) }).await;
    }
}

/// The program, with nothing set in its environment that is meant for another.
///
/// # Panics
/// When there is no binary, saying how to build it.
pub fn rollcall() -> Command {
    let mut command = Command::new(built("rollcall", "rollcall-cli", "ROLLCALL_BIN"));
    let foreign = |name: &str| name.starts_with("ROLLCALL_") || name.starts_with("OTEL_");
    for (name, _) in std::env::vars_os().filter(|(name, _)| foreign(&name.to_string_lossy())) {
        command.env_remove(name);
    }
    command
}
