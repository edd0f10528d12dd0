//! Whole clusters under faults. A test that holds a promise of the design bears its number.

mod alerts;
mod backups;
mod bad_input;
mod checks;
mod failover;
mod federation;
mod federation_mesh;
mod guarded;
mod identity;
mod join;
mod leases;
mod operate;
mod operators;
mod paused;
mod protection;
mod quotas;
mod reads;
mod restart;
mod secured;
mod signed;
mod soorma;
mod traces;
mod watches;
