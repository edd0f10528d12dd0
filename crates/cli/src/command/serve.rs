//! `rollcall serve`.

use std::convert::Infallible;

use rollcall_server::Server;
use rollcall_server::config::{Settings, WhenRemoved, unknown_variables};
use rollcall_server::telemetry::Telemetry;
use rollcall_server::tls::Reload;
use tokio::runtime::Builder;
use tokio::signal::unix::Signal;

use crate::failure::Failure;
use crate::logging;
use crate::process::{self, Signals};
use crate::supervisor;

/// Hangups ask for the certificates to be read again.
async fn pass_on(hangups: &mut Signal, reload: &Reload) -> Infallible {
    while hangups.recv().await.is_some() {
        reload.now();
    }
    std::future::pending().await
}

pub(super) fn run(settings: Settings) -> Result<(), Failure> {
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
    logging::start(config.log_format, &config.log_level, telemetry.as_ref())?;
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
        let server = Server::bind(config).await.map_err(|source| Failure::Serve { source })?;
        let (probe, reload) = (server.probe(), server.reload());
        let mut hangups = process::hangups()?;
        let shutdown = async move {
            let signal = tokio::select! {
                signal = signals.next() => signal,
                never = supervisor::keep_informed(&probe) => match never {},
                never = pass_on(&mut hangups, &reload) => match never {},
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
