//! The HTTP API of one real node: real sockets, a real replica, a real directory.

mod discovery;
mod lifecycle;
mod node;
mod operations;
mod refusals;
