//! The HTTP API of real nodes: real sockets, real replicas, real directories.

mod agent;
mod alerts;
mod auth;
mod backup;
mod checks;
mod cluster;
mod discovery;
mod events;
mod federation;
mod health;
mod lifecycle;
mod node;
mod observability;
mod operations;
mod pages;
mod protection;
mod protolink;
mod quotas;
mod ranking;
mod refusals;
mod signatures;
mod socket;
mod soorma;
mod tls;
mod visibility;
mod watch;
