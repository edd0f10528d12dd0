//! Logs go to standard error, so that answers on standard output stay clean.

use std::io;

use rollcall_server::config::LogFormat;
use rollcall_server::telemetry::Telemetry;
use tracing::Subscriber;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

use crate::failure::Failure;

/// Starts logging, and hands spans to whoever collects them. `level` is a level or filter directives, as `info` or
/// `warn,rollcall_replica=debug`.
pub(crate) fn start(format: LogFormat, level: &str, telemetry: Option<&Telemetry>) -> Result<(), Failure> {
    let filter = filter(level)?;
    match telemetry {
        // Judged once for everything, which is the cheaper way.
        None => tracing_subscriber::registry().with(filter).with(lines(format)).init(),
        Some(telemetry) => {
            tracing_subscriber::registry().with(telemetry.layer()).with(lines(format).with_filter(filter)).init();
        }
    }
    Ok(())
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

/// At `info` a node tells what an operator wants to know; the Raft library's own steps begin at `debug`.
fn filter(level: &str) -> Result<EnvFilter, Failure> {
    let directives = if level.eq_ignore_ascii_case("info") { "info,openraft=warn" } else { level };
    EnvFilter::try_new(directives).map_err(|source| Failure::LogLevel { level: level.to_owned(), source })
}
