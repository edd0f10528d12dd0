//! The one binary of Rollcall: it runs nodes, and it speaks to them.
//!
//! - `main` parses, runs, and maps a failure to an exit code ([`failure`]); commands print through [`output`] alone.
//! - Commands that speak to a cluster do so through the client crate and never look into a data directory.
//! - A program started here does not outlive this one ([`process`]).
//!
//! Read in this order: [`args`], [`command`], [`failure`].

mod args;
mod audit_file;
mod command;
mod failure;
mod logging;
mod output;
mod process;
mod supervisor;

use std::io::Write;

use clap::Parser;

use crate::args::Cli;

/// A node allocates and frees some dozens of small pieces for every request, on several threads.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    let cli = Cli::parse();
    match command::run(cli) {
        Ok(code) => code.into(),
        Err(failure) => {
            // Nobody is left to tell when standard error is gone too.
            let _ = std::io::stderr().write_all(failure.report().as_bytes());
            (failure.exit_code() as u8).into()
        }
    }
}
