//! One file for each group of commands.

mod audit;
mod backup;
mod bench;
mod cluster;
mod completions;
mod config;
mod dev;
mod federation;
mod instance;
mod join_token;
mod members;
mod offline;
mod operator;
mod owner_key;
mod register;
mod serve;
mod sign;
mod tls;
mod token;
mod token_reset;
mod watch;

use std::future::Future;
use std::path::PathBuf;

use rollcall_client::{Builder, Client};
use rollcall_server::config::LogFormat;

use crate::args::{Cli, Command, Global};
use crate::failure::Failure;
use crate::logging;

/// Runs the command; the exit code of a success is 0 unless it is another program's.
pub(crate) fn run(cli: Cli) -> Result<u8, Failure> {
    let Cli { global, command } = cli;
    let done = |()| 0;
    match command {
        Command::Serve(args) => serve::run(args.settings).map(done),
        Command::Sign(args) => sign::run(args, global.output).map(done),
        Command::OwnerKey(args) => block_on(owner_key::run(&global, args)).map(done),
        Command::Signatures(args) => block_on(owner_key::signatures(&global, &args)).map(done),
        Command::Tls(args) => tls::run(args, global.output).map(done),
        Command::Config(args) => config::run(&args).map(done),
        Command::Completions { shell } => completions::run(shell).map(done),
        Command::Dev(args) => block_on(dev::run(&args, global.output)).map(done),
        Command::Cluster(args) => block_on(cluster::run(&global, &args)).map(done),
        Command::Register(args) => block_on(register::run(&global, *args)),
        Command::Heartbeat(args) => block_on(instance::heartbeat(&global, args)).map(done),
        Command::Deregister(args) => block_on(instance::deregister(&global, &args)).map(done),
        Command::Get(args) => block_on(instance::get(&global, &args)).map(done),
        Command::Discover(args) => block_on(instance::discover(&global, *args)).map(done),
        Command::Pick(args) => block_on(operator::pick(&global, *args)).map(done),
        Command::Maintenance(args) => block_on(operator::maintenance(&global, args)).map(done),
        Command::Drain(args) => block_on(operator::drain(&global, args)).map(done),
        Command::Trust(args) => block_on(operator::trust(&global, args)).map(done),
        Command::Ranking(args) => block_on(operator::ranking(&global, args)).map(done),
        Command::Federation(args) => block_on(federation::run(&global, args)).map(done),
        Command::Tenant(args) => block_on(operator::tenant(&global, args)).map(done),
        Command::Checks(args) => block_on(operator::checks(&global, args)).map(done),
        Command::Alerts(args) => block_on(operator::alerts(&global, args)).map(done),
        Command::Protection(args) => block_on(operator::protection(&global, args)).map(done),
        Command::Watch(args) => block_on(watch::run(&global, *args)).map(done),
        Command::Token(args) => block_on(token::run(&global, args)).map(done),
        Command::Audit(args) => audit::run(&global, &args).map(done),
        Command::Bench(args) => block_on(bench::run(&global, args.work)),
    }
}

/// Everything but a node does with the main thread alone; programs are started on it and tied to it.
fn block_on<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let level = std::env::var("ROLLCALL_LOG_LEVEL").unwrap_or_else(|_| "warn".to_owned());
    logging::start(LogFormat::Text, &level, None, None)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| Failure::Runtime { source })?;
    runtime.block_on(work)
}

fn read_file(path: &PathBuf) -> Result<Vec<u8>, Failure> {
    std::fs::read(path).map_err(|source| Failure::ReadFile { path: path.clone(), source })
}

fn client(global: &Global) -> Result<Client, Failure> {
    client_of_tenant(global, global.tenant.as_deref())
}

/// A client whose requests are for this tenant.
fn client_of_tenant(global: &Global, tenant: Option<&str>) -> Result<Client, Failure> {
    build(builder(global, tenant)?)
}

fn build(builder: Builder) -> Result<Client, Failure> {
    builder.build().map_err(|source| Failure::Endpoints { source })
}

fn builder(global: &Global, tenant: Option<&str>) -> Result<Builder, Failure> {
    let mut builder = Client::builder().endpoints(global.endpoints.iter().filter(|text| !text.is_empty()));
    if let Some(ca) = &global.ca {
        builder = builder.ca(read_file(ca)?);
    }
    if let Some((cert, key)) = global.client_cert.as_ref().zip(global.client_key.as_ref()) {
        builder = builder.client_certificate(read_file(cert)?, read_file(key)?);
    }
    if let Some(token) = &global.token {
        builder = builder.token(token);
    }
    if let Some(tenant) = tenant {
        builder = builder.tenant(tenant);
    }
    if let Some(timeout) = global.timeout {
        builder = builder.timeout(timeout);
    }
    Ok(builder)
}

/// Says what was attempted when a request fails.
fn attempt<T>(action: impl Into<String>, result: Result<T, rollcall_client::Error>) -> Result<T, Failure> {
    result.map_err(|source| Failure::Request { action: action.into(), source })
}

/// The id of what may be a whole token, so that no secret goes into a URL.
fn bare_token_id(token: &str) -> &str {
    match token.split('-').collect::<Vec<_>>()[..] {
        [_, id, _] => id,
        _ => token,
    }
}

/// A time for people: its two largest units.
fn spoken_time(ms: u64) -> String {
    let seconds = ms.div_ceil(1_000);
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3_600 => format!("{} min {} s", seconds / 60, seconds % 60),
        3_600..86_400 => format!("{} h {} min", seconds / 3_600, seconds % 3_600 / 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds % 86_400 / 3_600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_id_of_a_token_is_told_on() {
        assert_eq!(bare_token_id("00000000000000ff"), "00000000000000ff");
        assert_eq!(bare_token_id("rcjoin-00000000000000ff-abcdef"), "00000000000000ff");
    }

    #[test]
    fn times_have_two_units() {
        let times = [1, 59_000, 61_000, 3_600_000, 90_000_000].map(spoken_time);
        assert_eq!(times, ["1 s", "59 s", "1 min 1 s", "1 h 0 min", "1 d 1 h"]);
    }
}
