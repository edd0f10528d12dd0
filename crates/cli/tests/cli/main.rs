//! The program as a shell sees it: arguments and environment in, output and exit codes out.

mod exit_codes;
mod keep_alive;
mod settings;
mod support;
mod watch;
