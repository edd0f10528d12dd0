//! etcd beside Rollcall: a cluster of real etcd processes and the part of its v3 API that a comparison needs.

mod client;
mod cluster;
mod codec;
pub mod messages;

pub use client::{EtcdClient, EtcdError, KeepAlive, Watch, range_of_prefix};
pub use cluster::{EtcdCluster, EtcdNode, etcd_binary};
