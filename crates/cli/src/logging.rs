//! Logs go to standard error, so that answers on standard output stay clean.

use std::io;
use std::path::Path;
use std::sync::Mutex;

use rollcall_server::audit;
use rollcall_server::config::LogFormat;
use rollcall_server::telemetry::Telemetry;
use tracing::{Level, Subscriber};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

use crate::audit_file::AuditFile;
use crate::failure::Failure;

/// Starts logging, and hands spans to whoever collects them. `level` is a level or filter directives, as `info` or
/// `warn,rollcall_replica=debug`.
/// Where there is an `audit_file`, what is changed is written there and not among what is logged.
pub(crate) fn start(
    format: LogFormat,
    level: &str,
    telemetry: Option<&Telemetry>,
    audit_file: Option<&Path>,
) -> Result<(), Failure> {
    let filter = filter(level)?;
    if telemetry.is_none() && audit_file.is_none() {
        // Judged once for everything, which is the cheaper way.
        tracing_subscriber::registry().with(filter).with(lines(format)).init();
        return Ok(());
    }
    let filter = match audit_file {
        Some(_) => filter.add_directive(format!("{}=off", audit::TARGET).parse().expect("a directive")),
        None => filter,
    };
    let records = audit_file.map(records).transpose()?;
    let spans = telemetry.map(Telemetry::layer);
    tracing_subscriber::registry().with(spans).with(records).with(lines(format).with_filter(filter)).init();
    Ok(())
}

/// What is changed, one JSON object a line.
fn records<S>(path: &Path) -> Result<Box<dyn Layer<S> + Send + Sync>, Failure>
where
    S: Subscriber + for<'span> LookupSpan<'span> + Send + Sync,
{
    let writer: Box<dyn io::Write + Send> = match path.as_os_str().as_encoded_bytes() {
        b"-" => Box::new(io::stdout()),
        _ => {
            let opened = AuditFile::open(path.to_owned());
            Box::new(opened.map_err(|source| Failure::WriteFile { path: path.to_owned(), source })?)
        }
    };
    let lines = tracing_subscriber::fmt::layer().json().flatten_event(true).with_current_span(false);
    let lines = lines.with_span_list(false).with_level(false).with_target(false).with_writer(Mutex::new(writer));
    Ok(lines.with_filter(Targets::new().with_target(audit::TARGET, Level::INFO)).boxed())
}

fn lines<S>(format: LogFormat) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'span> LookupSpan<'span> + Send + Sync,
{
    let lines = tracing_subscriber::fmt::layer().with_writer(io::stderr);
    match format {
        LogFormat::Text => lines.with_ansi(io::IsTerminal::is_terminal(&io::stderr())).boxed(),
        LogFormat::Json => lines.json().boxed(),
    }
}

/// Whether [`start`] would take this level.
pub(crate) fn check(level: &str) -> Result<(), Failure> {
    filter(level).map(drop)
}

/// At `info` a node tells what an operator wants to know; the Raft library's own steps begin at `debug`, and what clients
/// change has a file of its own.
fn filter(level: &str) -> Result<EnvFilter, Failure> {
    let directives = if level.eq_ignore_ascii_case("info") { "info,openraft=warn,audit=warn" } else { level };
    EnvFilter::try_new(directives).map_err(|source| Failure::LogLevel { level: level.to_owned(), source })
}
