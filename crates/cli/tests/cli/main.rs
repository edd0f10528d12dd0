//! The program as a shell sees it: arguments and environment in, output and exit codes out.

mod audit;
mod backups;
mod cluster;
mod exit_codes;
mod keep_alive;
mod operator;
mod settings;
mod sign;
mod supervised;
mod support;
mod tls;
mod watch;
