//! Why a command failed, which exit code that is, and what the operator can do next. The one place for all three.

use std::fmt::Write as _;
use std::io;
use std::path::PathBuf;

use rollcall_bench::{Error as BenchError, RequestError};
use rollcall_client::{BuildError, Error as ClientError, KeepAliveError, TlsTrouble};
use rollcall_server::RunError;
use rollcall_server::config::ConfigError;
use rollcall_server::offline::{BackupError, DataDirError, RecoveryError, RestoreError};
use rollcall_server::tls::init::InitError;
use rollcall_signature::{NotCanonical, SigningKeyError};

/// Scripts rely on these numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum ExitCode {
    Error = 1,
    /// The command line, or a setting that could stand on it.
    Usage = 2,
    NotFound = 3,
    Conflict = 4,
    NotAllowed = 5,
    Unavailable = 6,
    Timeout = 7,
    /// The node was removed from its cluster: starting it again is of no use, and who supervises it must not.
    Removed = 8,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error("{what}")]
    Usage { what: String },
    #[error("use the given endpoints")]
    Endpoints {
        #[source]
        source: BuildError,
    },
    #[error("{action}")]
    Request {
        action: String,
        #[source]
        source: ClientError,
    },
    #[error("bench")]
    Bench {
        #[source]
        source: BenchError,
    },
    #[error("keep the registration")]
    KeepAlive {
        #[source]
        source: KeepAliveError,
    },
    #[error("read the registration {path}")]
    ReadRegistration {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("parse the registration {path}")]
    ParseRegistration {
        path: PathBuf,
        #[source]
        source: serde_json::Error,
    },
    #[error("the registration {path} is not a JSON object")]
    RegistrationForm { path: PathBuf },
    #[error("start `{program}`")]
    Spawn {
        program: String,
        #[source]
        source: io::Error,
    },
    #[error("watch over `{program}`")]
    Child {
        program: String,
        #[source]
        source: io::Error,
    },
    #[error("listen for signals")]
    Signals {
        #[source]
        source: io::Error,
    },
    #[error("use `{level}` as log_level")]
    LogLevel {
        level: String,
        #[source]
        source: tracing_subscriber::filter::ParseError,
    },
    #[error("configure the node")]
    Settings {
        #[source]
        source: ConfigError,
    },
    #[error("check the configuration")]
    ConfigCheck {
        #[source]
        source: ConfigError,
    },
    #[error("run the node")]
    Serve {
        #[source]
        source: RunError,
    },
    #[error("prepare {path}")]
    Prepare {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("listen on {address}")]
    Port {
        address: String,
        #[source]
        source: io::Error,
    },
    #[error("node {node} ended ({status})")]
    NodeEnded { node: u16, status: std::process::ExitStatus, log: PathBuf },
    #[error("not ready within {timeout_ms} ms: {missing}")]
    NotReady { timeout_ms: u128, missing: String },
    #[error("the change is begun, but not complete within {timeout_ms} ms: {missing}")]
    Unfinished { timeout_ms: u128, missing: String },
    #[error("the target `{name}` did not take the test alert: {why}")]
    AlertNotTaken { name: String, why: String },
    #[error("write to standard output")]
    Print {
        #[source]
        source: io::Error,
    },
    #[error("{action}")]
    Backup {
        action: String,
        #[source]
        source: BackupError,
    },
    #[error("restore {file}")]
    Restore {
        file: PathBuf,
        #[source]
        source: Box<RestoreError>,
    },
    #[error("recover the directory")]
    Recover {
        #[source]
        source: RecoveryError,
    },
    #[error("reset an administrator's token by the directory {path}")]
    TokenReset {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("no node answered in {path} within {timeout_ms} ms")]
    TokenResetUnanswered { path: PathBuf, timeout_ms: u128 },
    #[error("make certificates")]
    TlsInit {
        #[source]
        source: InitError,
    },
    #[error("not confirmed, so nothing was changed")]
    Unconfirmed,
    #[error("interrupted")]
    Interrupted,
    #[error("use {path} as signing key")]
    SigningKey {
        path: PathBuf,
        #[source]
        source: SigningKeyError,
    },
    #[error("sign the registration: {}", source.path)]
    Sign {
        #[source]
        source: NotCanonical,
    },
    #[error("{path} is there already")]
    KeyExists { path: PathBuf },
    #[error("{path} is there already")]
    FileExists { path: PathBuf },
    #[error("read {path}")]
    ReadFile {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("write {path}")]
    WriteFile {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("render the answer")]
    Render {
        #[source]
        source: serde_json::Error,
    },
    #[error("`{name}` is no peer")]
    NoPeer { name: String },
    #[error("start the runtime")]
    Runtime {
        #[source]
        source: io::Error,
    },
}

const NOBODY_THERE: &str = "is a node running there? name others with --endpoint or ROLLCALL_ENDPOINTS";

impl Failure {
    pub(crate) fn exit_code(&self) -> ExitCode {
        match self {
            Self::Usage { .. }
            | Self::Endpoints { .. }
            | Self::LogLevel { .. }
            | Self::Settings { .. }
            | Self::Unconfirmed => ExitCode::Usage,
            Self::FileExists { .. } | Self::KeyExists { .. } => ExitCode::Conflict,
            Self::NoPeer { .. } => ExitCode::NotFound,
            Self::Serve { source } if source.is_removed() => ExitCode::Removed,
            Self::TlsInit { source } => match source {
                InitError::Exists { .. } => ExitCode::Conflict,
                InitError::Name { .. } | InitError::Twice { .. } => ExitCode::Usage,
                _ => ExitCode::Error,
            },
            Self::Request { source, .. } => of_client(source),
            Self::Bench { source } => of_bench(source),
            Self::KeepAlive { source } => match source {
                KeepAliveError::Superseded { source, .. }
                | KeepAliveError::Register { source, .. }
                | KeepAliveError::Deregister { source, .. } => of_client(source),
                _ => ExitCode::Error,
            },
            Self::NotReady { .. } | Self::Unfinished { .. } | Self::TokenResetUnanswered { .. } => ExitCode::Timeout,
            Self::ReadRegistration { .. }
            | Self::ParseRegistration { .. }
            | Self::RegistrationForm { .. }
            | Self::Spawn { .. }
            | Self::Child { .. }
            | Self::Signals { .. }
            | Self::ConfigCheck { .. }
            | Self::Serve { .. }
            | Self::Prepare { .. }
            | Self::Port { .. }
            | Self::NodeEnded { .. }
            | Self::AlertNotTaken { .. }
            | Self::Print { .. }
            | Self::Backup { .. }
            | Self::Restore { .. }
            | Self::Recover { .. }
            | Self::TokenReset { .. }
            | Self::Interrupted
            | Self::ReadFile { .. }
            | Self::SigningKey { .. }
            | Self::Sign { .. }
            | Self::WriteFile { .. }
            | Self::Render { .. }
            | Self::Runtime { .. } => ExitCode::Error,
        }
    }

    /// What the operator can do about it, where there is something to say.
    fn next_step(&self) -> Option<String> {
        match self {
            Self::Settings { .. } => Some("see `rollcall serve --help` for every setting".to_owned()),
            Self::Port { .. } => Some("another program uses the port; choose others with --port".to_owned()),
            Self::NodeEnded { log, .. } => Some(format!("its log says why: {}", log.display())),
            Self::NotReady { .. } => Some("look at each node's log, or give it longer with --timeout".to_owned()),
            Self::Unfinished { .. } => {
                Some("it goes on by itself; `rollcall cluster status` shows how far it is".to_owned())
            }
            Self::Request { source, .. } => of_client_next_step(source),
            Self::Bench { source: BenchError::Request { source: RequestError::Connect { .. }, .. } } => {
                Some(NOBODY_THERE.to_owned())
            }
            Self::KeyExists { .. } => Some("nothing is overwritten: name another file".to_owned()),
            Self::SigningKey { .. } => Some("make one by `rollcall sign keygen FILE`".to_owned()),
            Self::FileExists { .. } => Some("name another file, or replace it with --overwrite".to_owned()),
            Self::TlsInit { source: InitError::Exists { .. } } => {
                Some("nothing is overwritten: name another directory, or remove what is no longer of use".to_owned())
            }
            Self::TokenReset { .. } => {
                Some("name the data directory of a node that runs, as a user who may write there".to_owned())
            }
            Self::TokenResetUnanswered { .. } => Some(
                "nothing was changed: is it the data directory of a node that runs and has a leader? Its log says more"
                    .to_owned(),
            ),
            Self::Unconfirmed => {
                Some("say --yes where nobody can be asked, or see what it does by --dry-run".to_owned())
            }
            Self::Backup { source: BackupError::Stream(_), .. } => {
                Some("take it again, or from another node".to_owned())
            }
            Self::Restore { source, .. } => match &**source {
                RestoreError::DataDir(source) => of_data_dir(source),
                _ => None,
            },
            Self::Recover { source: RecoveryError::DataDir(source) } => of_data_dir(source),
            Self::Recover { source: RecoveryError::NoAddress { .. } } => {
                Some("with --advertise and --peer-advertise".to_owned())
            }
            Self::KeepAlive { source: KeepAliveError::Superseded { .. } } => {
                Some("give each running instance an id of its own".to_owned())
            }
            _ => None,
        }
    }

    /// The failure with all its sources, and the next step.
    pub(crate) fn report(&self) -> String {
        let mut text = format!("rollcall: {}\n", with_sources(self));
        if let Some(next) = self.next_step() {
            let _ = writeln!(text, "  {next}");
        }
        text
    }
}

/// An error and what caused it, in one line.
pub(crate) fn with_sources(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let _ = write!(text, ": {error}");
        source = error.source();
    }
    text
}

fn of_status(status: u16) -> ExitCode {
    match status {
        404 => ExitCode::NotFound,
        409 | 412 => ExitCode::Conflict,
        401 | 403 => ExitCode::NotAllowed,
        408 | 504 => ExitCode::Timeout,
        429 | 502 | 503 => ExitCode::Unavailable,
        _ => ExitCode::Error,
    }
}

fn of_bench(error: &BenchError) -> ExitCode {
    match error {
        BenchError::Usage { .. } => ExitCode::Usage,
        BenchError::Request { source, .. } => match source {
            RequestError::Connect { .. } | RequestError::Http { .. } => ExitCode::Unavailable,
            RequestError::Timeout { .. } => ExitCode::Timeout,
            RequestError::Refused { status, .. } => of_status(*status),
            _ => ExitCode::Error,
        },
        _ => ExitCode::Error,
    }
}

fn of_client(error: &ClientError) -> ExitCode {
    match error {
        ClientError::Refused { status, .. } => of_status(*status),
        ClientError::Unreachable { .. } => ExitCode::Unavailable,
        ClientError::Timeout { .. } => ExitCode::Timeout,
        ClientError::Id { .. } => ExitCode::Usage,
        _ => ExitCode::Error,
    }
}

fn of_data_dir(error: &DataDirError) -> Option<String> {
    let step = match error {
        DataDirError::InUse { .. } => "stop the node that runs on it",
        DataDirError::Taken { .. } | DataDirError::Foreign { .. } => "name a directory that is new or empty",
        DataDirError::NoIdentity { .. } => "name the data directory of a node",
        _ => return None,
    };
    Some(step.to_owned())
}

/// What to do about a node's TLS.
fn of_tls(trouble: TlsTrouble) -> Option<&'static str> {
    Some(match trouble {
        TlsTrouble::NotTls => "the port speaks no TLS: is it the client port, and has the node tls_cert and tls_key?",
        TlsTrouble::UnknownAuthority => "name the authority of its certificate with --ca or ROLLCALL_CA",
        TlsTrouble::WrongName => "use a name that its certificate is for, or give the node one for this name",
        TlsTrouble::Expired => "renew the node's certificate, and look at both clocks",
        TlsTrouble::ClientCertificate => {
            "show a certificate of the authority that the node names as tls_client_ca: --client-cert and --client-key"
        }
        _ => return None,
    })
}

fn of_client_next_step(error: &ClientError) -> Option<String> {
    if let Some(step) = error.tls_trouble().and_then(of_tls) {
        return Some(step.to_owned());
    }
    let step = match error {
        ClientError::Unreachable { .. } => NOBODY_THERE,
        ClientError::Timeout { .. } => "ask another node with --endpoint, or wait longer with --timeout",
        ClientError::Refused { problem, .. } => match problem.code.as_str() {
            "no_leader" | "not_ready" => "see `rollcall cluster status` for the members that are missing",
            "lease_not_found" => "register the instance again",
            "token_missing" => "give a token by --token or ROLLCALL_TOKEN; `rollcall token create` makes one",
            "token_invalid" | "token_expired" | "token_revoked" => {
                "use another token; whoever administers the cluster makes one by `rollcall token create`"
            }
            "signature_required" => "sign by the owner's key, with --sign-key",
            "owner_key_mismatch" => {
                "sign by the owner's key, or have an operator replace it: `rollcall owner-key replace`"
            }
            "tls_required" => "use https:// in place of http://, and name the authority with --ca or ROLLCALL_CA",
            "too_many_watchers" => "watch at another node with --endpoint, or later",
            "cursor_expired" => "start again without --cursor",
            _ => return None,
        },
        _ => return None,
    };
    Some(step.to_owned())
}

#[cfg(test)]
mod tests {
    use rollcall_client::Problem;

    use super::*;

    fn refused(status: u16, code: &str) -> Failure {
        let problem = Problem { status, code: code.to_owned(), detail: "no".to_owned(), ..Problem::default() };
        let source = ClientError::Refused { status, problem: Box::new(problem) };
        Failure::Request { action: "get `a`".to_owned(), source }
    }

    #[test]
    fn every_answer_has_its_exit_code() {
        let codes = [
            (400, ExitCode::Error),
            (401, ExitCode::NotAllowed),
            (403, ExitCode::NotAllowed),
            (404, ExitCode::NotFound),
            (409, ExitCode::Conflict),
            (410, ExitCode::Error),
            (412, ExitCode::Conflict),
            (413, ExitCode::Error),
            (500, ExitCode::Error),
            (503, ExitCode::Unavailable),
            (504, ExitCode::Timeout),
        ];
        for (status, code) in codes {
            assert_eq!(refused(status, "x").exit_code(), code, "{status}");
        }
    }

    #[test]
    fn a_report_has_the_sources_and_the_next_step() {
        let report = refused(503, "no_leader").report();
        assert_eq!(
            report,
            "rollcall: get `a`: no (503 no_leader)\n  see `rollcall cluster status` for the members that are missing\n"
        );
    }
}
