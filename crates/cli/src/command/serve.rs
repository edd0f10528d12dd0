//! `rollcall serve`.

use rollcall_server::Server;
use rollcall_server::config::{Settings, unknown_variables};

use crate::failure::Failure;
use crate::logging;
use crate::process::Signals;
use crate::supervisor;

pub(super) fn run(settings: Settings) -> Result<(), Failure> {
    let config = settings.resolve().map_err(|source| Failure::Settings { source })?;
    logging::start(config.log_format, &config.log_level)?;
    let variables = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    for name in unknown_variables(variables) {
        tracing::warn!(name, "this environment variable means nothing; is it misspelled?");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|source| Failure::Runtime { source })?;
    runtime.block_on(async {
        let mut signals = Signals::new()?;
        let server = Server::bind(config).await.map_err(|source| Failure::Serve { source })?;
        let probe = server.probe();
        let shutdown = async move {
            let signal = tokio::select! {
                signal = signals.next() => signal,
                never = supervisor::keep_informed(&probe) => match never {},
            };
            tracing::info!(?signal, "shutting down");
            supervisor::tell_stopping().await;
        };
        server.serve(shutdown).await.map_err(|source| Failure::Serve { source })
    })
}
