//! Renewals, one by one or in batches.

use std::sync::Arc;

use hyper::Uri;
use rand::Rng;
use rand::rngs::SmallRng;
use rand::seq::SliceRandom;
use rollcall_api::{HeartbeatsRequest, HeartbeatsResponse};
use serde_json::json;

use super::register::SERVICES;
use super::{Finished, Operation, Run, each, lasting_ttl_ms, loop_load, loop_parameters};
use crate::args::{Common, Rate, Sessions, Window};
use crate::documents::{Documents, Shape};
use crate::engine;
use crate::enrol::enrol;
use crate::error::{Error, RequestError};
use crate::http::{Call, Connection, Keep};

pub(super) const HEARTBEATS: &str = "/api/heartbeats";

#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    #[command(flatten)]
    sessions: Sessions,
    #[command(flatten)]
    window: Window,
    #[command(flatten)]
    rate: Rate,
    /// How many instances are on the roll; they are registered first
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..))]
    instances: u32,
    /// Renew so many by one request, as the host of many agents does
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    batch: Option<u32>,
    #[command(flatten)]
    pub(super) common: Common,
}

impl Args {
    pub(super) fn check(&self) -> Result<(), Error> {
        match self.batch {
            Some(batch) if batch > self.instances => {
                Err(Error::Usage { what: "--batch: there are fewer --instances than that".to_owned() })
            }
            _ => Ok(()),
        }
    }

    pub(super) async fn run(&self, run: &Run) -> Result<Finished, Error> {
        let ttl_ms = lasting_ttl_ms(&self.window);
        let shape = |number| Shape::usual(format!("bench-heartbeat-{number}"), number, 300, ttl_ms);
        let documents = Arc::new(Documents::new("bench-heartbeat-".to_owned(), (0..SERVICES).map(shape)));
        let connections = run.target.connect(self.sessions.node, self.sessions.sessions).await?;
        let (leases, connections) = enrol(connections, &documents, self.instances.into()).await?;

        let load = loop_load("heartbeat", &["heartbeat"], &self.window, &self.rate);
        let measured = match self.batch {
            None => {
                let calls = single_calls(&documents, self.instances.into());
                let beat = |place| Beat { calls: calls.clone(), random: run.random(place) };
                engine::run(&load, each(connections, beat), &run.processes).await.0
            }
            Some(batch) => {
                let hosts = connections.len();
                let beat = |place| {
                    let mut random = run.random(place);
                    Batch { calls: batch_calls(&leases, batch as usize, (place, hosts), &mut random), random }
                };
                engine::run(&load, each(connections, beat), &run.processes).await.0
            }
        };
        let own = json!({ "instances": self.instances, "batch": self.batch, "ttl_ms": ttl_ms });
        let own = loop_parameters(&self.sessions, &self.window, &self.rate, own);
        Ok(run.finish(run.report("heartbeat", own, &measured)))
    }
}

/// The heartbeat of each instance by itself.
pub(super) fn single_calls(documents: &Documents, instances: u64) -> Arc<Vec<Call>> {
    let uri = |number| format!("/api/services/{}/heartbeat", documents.id(number));
    let call = |number| Call::post(Uri::try_from(uri(number)).expect("a bench's ids need no coding"), "");
    Arc::new((0..instances).map(call).collect())
}

/// The requests of one of several hosts, each of whose agents were registered one after another: the blocks at every
/// so manieth place, their leases in any order. A host without a block of its own shares the first.
fn batch_calls(leases: &[u64], batch: usize, (place, hosts): (usize, usize), random: &mut SmallRng) -> Vec<Call> {
    let blocks: Vec<&[u64]> = leases.chunks_exact(batch).collect();
    let mut own: Vec<_> = blocks.iter().skip(place).step_by(hosts).copied().collect();
    if own.is_empty() {
        own.push(blocks[place % blocks.len()]);
    }
    let call = |block: &[u64]| {
        let mut leases = block.to_vec();
        leases.shuffle(random);
        batch_call(leases)
    };
    own.into_iter().map(call).collect()
}

/// Renews many at once.
pub(super) fn batch_call(leases: Vec<u64>) -> Call {
    let body = serde_json::to_vec(&HeartbeatsRequest { leases }).expect("a list of numbers is JSON");
    Call::post(Uri::from_static(HEARTBEATS), body).keep(Keep::All)
}

/// What became of a batch.
pub(super) fn batch_answer(connection: &Connection) -> Result<HeartbeatsResponse, RequestError> {
    serde_json::from_slice(connection.body())
        .map_err(|error| RequestError::Unexpected { what: format!("no heartbeats were answered: {error}") })
}

/// Renews an instance chosen at random.
pub(super) struct Beat {
    pub(super) calls: Arc<Vec<Call>>,
    pub(super) random: SmallRng,
}

impl Operation for Beat {
    async fn operate(&mut self, connection: &mut Connection, _number: u64) -> Result<u64, RequestError> {
        let chosen = self.random.random_range(0..self.calls.len());
        connection.send(&self.calls[chosen]).await?;
        Ok(1)
    }
}

/// Renews one of its blocks chosen at random.
struct Batch {
    calls: Vec<Call>,
    random: SmallRng,
}

impl Operation for Batch {
    async fn operate(&mut self, connection: &mut Connection, _number: u64) -> Result<u64, RequestError> {
        let chosen = self.random.random_range(0..self.calls.len());
        connection.send(&self.calls[chosen]).await?;
        let answer = batch_answer(connection)?;
        if answer.not_found.is_empty() && answer.superseded.is_empty() {
            return Ok(answer.renewed);
        }
        let (lost, replaced) = (answer.not_found.len(), answer.superseded.len());
        Err(RequestError::Unexpected { what: format!("{lost} leases were not found, {replaced} were superseded") })
    }
}
