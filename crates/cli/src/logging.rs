//! Logs go to standard error, so that answers on standard output stay clean.

use std::io;

use rollcall_server::config::LogFormat;
use tracing_subscriber::EnvFilter;

use crate::failure::Failure;

/// Starts logging. `level` is a level or filter directives, as `info` or `warn,rollcall_replica=debug`.
pub(crate) fn start(format: LogFormat, level: &str) -> Result<(), Failure> {
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter(level)?).with_writer(io::stderr);
    match format {
        LogFormat::Text => subscriber.with_ansi(io::IsTerminal::is_terminal(&io::stderr())).init(),
        LogFormat::Json => subscriber.json().init(),
    }
    Ok(())
}

/// Whether [`start`] would take this level.
pub(crate) fn check(level: &str) -> Result<(), Failure> {
    filter(level).map(drop)
}

/// At `info` a node tells what an operator wants to know; the Raft library's own steps begin at `debug`.
fn filter(level: &str) -> Result<EnvFilter, Failure> {
    let directives = if level.eq_ignore_ascii_case("info") { "info,openraft=warn" } else { level };
    EnvFilter::try_new(directives).map_err(|source| Failure::LogLevel { level: level.to_owned(), source })
}
