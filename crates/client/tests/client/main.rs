//! The client against nodes that answer as the test tells them to.

mod directory;
mod failover;
mod keep_alive;
mod stub;
mod watch;
mod watch_federated;
