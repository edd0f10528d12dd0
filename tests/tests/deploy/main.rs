//! What `cluster/` and `docker-compose.yml` promise to those who copy them.

mod compose;
mod local;
mod manifests;
mod pods;
mod systemd;
