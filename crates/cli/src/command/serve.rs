//! `rollcall serve`.

use std::convert::Infallible;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rollcall_server::config::{Settings, WhenRemoved, unknown_variables};
use rollcall_server::telemetry::Telemetry;
use rollcall_server::tls::Reload;
use rollcall_server::{FirstToken, Server};
use tokio::runtime::Builder;
use tokio::signal::unix::Signal;

use crate::failure::{Failure, with_sources};
use crate::logging;
use crate::output;
use crate::process::{self, Signals};
use crate::supervisor;

/// Hangups ask for the certificates to be read again.
async fn pass_on(hangups: &mut Signal, reload: &Reload) -> Infallible {
    while hangups.recv().await.is_some() {
        reload.now();
    }
    std::future::pending().await
}

/// Tells the first administrator's token, if one is made: once, to whoever started the node or into a file of its own.
async fn tell_first_token(token: FirstToken, file: Option<PathBuf>) -> Infallible {
    if let Some(token) = token.made().await {
        let told = match &file {
            Some(path) => {
                write_secret(path, &token).map_err(|source| Failure::WriteFile { path: path.clone(), source })
            }
            None => output::print(&format!("{}\n", *token)),
        };
        if let Err(failure) = told {
            let failure = with_sources(&failure);
            tracing::error!(
                failure,
                "the first administrator's token is lost: make another by `rollcall token reset`"
            );
        }
    }
    std::future::pending().await
}

fn write_secret(path: &Path, text: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

pub(super) fn run(settings: Settings) -> Result<(), Failure> {
    process::keep_private();
    let config = settings.resolve().map_err(|source| Failure::Settings { source })?;
    let runtime = |threads: &mut Builder| threads.enable_all().build().map_err(|source| Failure::Runtime { source });
    let consensus = runtime(Builder::new_multi_thread().worker_threads(1).thread_name("consensus"))?;
    let runtime = runtime(&mut Builder::new_multi_thread())?;
    let telemetry = {
        let _on = runtime.enter();
        Telemetry::from_env(config.advertise.as_deref().unwrap_or(&config.listen))
    };
    let (telemetry, untraced) = match telemetry {
        Ok(telemetry) => (telemetry, None),
        // A node that cannot be looked at works all the same.
        Err(error) => (None, Some(error)),
    };
    logging::start(config.log_format, &config.log_level, telemetry.as_ref(), config.audit_file.as_deref())?;
    if let Some(error) = untraced {
        tracing::warn!(error = &error as &dyn std::error::Error, "no traces are collected");
    }
    let variables = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    for name in unknown_variables(variables) {
        tracing::warn!(name, "this environment variable means nothing; is it misspelled?");
    }
    let (traced, when_removed) = (telemetry.is_some(), config.when_removed);
    let ended = runtime.block_on(async {
        let mut signals = Signals::new()?;
        let admin_token_file = config.admin_token_file.clone();
        let mut server = Server::bind(config).await.map_err(|source| Failure::Serve { source })?;
        let (probe, reload) = (server.probe(), server.reload());
        let first_token = server.first_token();
        let mut hangups = process::hangups()?;
        let shutdown = async move {
            let signal = tokio::select! {
                signal = signals.next() => signal,
                never = supervisor::keep_informed(&probe) => match never {},
                never = pass_on(&mut hangups, &reload) => match never {},
                never = tell_first_token(first_token, admin_token_file) => match never {},
            };
            tracing::info!(?signal, "shutting down");
            supervisor::tell_stopping().await;
        };
        let ended = server.traced(traced).consensus_on(consensus.handle().clone()).serve(shutdown).await;
        if let Err(error) = &ended
            && error.is_removed()
            && when_removed == WhenRemoved::Wait
        {
            tracing::error!(error = error as &dyn std::error::Error, "nothing is left to do; waiting to be ended");
            let signal = Signals::new()?.next().await;
            tracing::info!(?signal, "ending");
        }
        ended.map_err(|source| Failure::Serve { source })
    });
    if let Some(telemetry) = telemetry {
        telemetry.shutdown();
    }
    ended
}
