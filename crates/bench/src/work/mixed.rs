//! What a cluster does all day: mostly heartbeats, some lookups, few queries, now and then a registration.

use std::time::Duration;

use rand::distr::Distribution;
use rand::distr::weighted::WeightedIndex;
use rand::rngs::SmallRng;
use serde_json::json;

use super::heartbeat::{Beat, single_calls};
use super::lookup::{Consistency, Find, service};
use super::query::{Ask, Population, search_times};
use super::register::{Content, Register};
use super::{Finished, Operation, Run, lasting_ttl_ms, loop_load, loop_parameters, ms};
use crate::args::{Common, Rate, Sessions, Window, parse_positive_duration};
use crate::engine::{self, Done, Session};
use crate::enrol::enrol;
use crate::error::{Error, RequestError};
use crate::http::Connection;

const KINDS: &[&str] = &["heartbeat", "lookup", "query", "register"];

/// The service that is looked up.
const LOOKUP_INSTANCES: u32 = 100;

#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    #[command(flatten)]
    sessions: Sessions,
    #[command(flatten)]
    window: Window,
    #[command(flatten)]
    rate: Rate,
    /// How many instances are on the roll, to be renewed and queried; they are registered first
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..))]
    instances: u32,
    /// How many of them each query finds
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    hits: u32,
    #[command(flatten)]
    weights: Weights,
    #[command(flatten)]
    content: Content,
    /// How long a new instance stands that is not renewed
    #[arg(long, default_value = "30s", value_parser = parse_positive_duration)]
    ttl: Duration,
    #[command(flatten)]
    pub(super) common: Common,
}

/// Which part of the operations is what.
#[derive(clap::Args, Clone, Copy, Debug)]
#[command(next_help_heading = "Weights")]
struct Weights {
    #[arg(long, value_name = "WEIGHT", default_value_t = 90.0)]
    heartbeat: f64,
    #[arg(long, value_name = "WEIGHT", default_value_t = 8.0)]
    lookup: f64,
    #[arg(long, value_name = "WEIGHT", default_value_t = 1.5)]
    query: f64,
    #[arg(long, value_name = "WEIGHT", default_value_t = 0.5)]
    register: f64,
}

impl Weights {
    /// The kinds in their order.
    fn choice(&self) -> Result<WeightedIndex<f64>, Error> {
        let Self { heartbeat, lookup, query, register } = *self;
        WeightedIndex::new([heartbeat, lookup, query, register]).map_err(|error| Error::Usage {
            what: format!("--heartbeat, --lookup, --query, --register: these weights choose nothing: {error}"),
        })
    }
}

impl Args {
    pub(super) fn check(&self) -> Result<(), Error> {
        self.weights.choice()?;
        Population::new(self.instances, self.hits).map(drop)
    }

    pub(super) async fn run(&self, run: &Run) -> Result<Finished, Error> {
        let Weights { heartbeat, lookup, query, register } = self.weights;
        let kinds = self.weights.choice()?;
        let ttl_ms = lasting_ttl_ms(&self.window);
        let connections = run.target.connect(self.sessions.node, self.sessions.sessions).await?;

        let population = Population::new(self.instances, self.hits)?;
        let documents = population.documents(ttl_ms);
        let (_, connections) = enrol(connections, &documents, self.instances.into()).await?;
        let (name, looked_up) = service(LOOKUP_INSTANCES, ttl_ms);
        let (_, mut connections) = enrol(connections, &looked_up, LOOKUP_INSTANCES.into()).await?;
        let find = Find::by(&format!("name={name}"), LOOKUP_INSTANCES, Consistency::Local);
        for connection in &mut connections {
            find.settle(connection)
                .await
                .map_err(|source| Error::Request { action: "look up the service", source })?;
        }
        let queries = population.queries(Consistency::Local);
        population.settle(&mut connections, &queries).await?;

        let beats = single_calls(&documents, self.instances.into());
        let new = self.content.documents(run, "mixed", self.ttl);
        let mixed = |(place, connection)| Mixed {
            connection,
            random: run.random(place),
            kinds: kinds.clone(),
            beat: Beat { calls: beats.clone(), random: run.random(place) },
            find: find.clone(),
            ask: Ask::new(queries.clone(), run.random(place)),
            register: Register { documents: new.clone() },
        };
        let sessions = connections.into_iter().enumerate().map(mixed).collect();
        let load = loop_load("mixed", KINDS, &self.window, &self.rate);
        let (measured, sessions) = engine::run(&load, sessions, &run.processes).await;
        let own = json!({
            "instances": self.instances, "hits": self.hits, "lookup_instances": LOOKUP_INSTANCES,
            "weights": { "heartbeat": heartbeat, "lookup": lookup, "query": query, "register": register },
            "metadata_bytes": self.content.metadata_bytes, "ttl_ms": ms(self.ttl),
        });
        let own = loop_parameters(&self.sessions, &self.window, &self.rate, own);
        let report = run.report("mixed", own, &measured);
        Ok(run.finish(report.with_extra(search_times(sessions.iter().map(|session| &session.ask)))))
    }
}

/// A session that does now this, now that.
struct Mixed {
    connection: Connection,
    random: SmallRng,
    kinds: WeightedIndex<f64>,
    beat: Beat,
    find: Find,
    ask: Ask,
    register: Register,
}

impl Session for Mixed {
    type Error = RequestError;

    async fn operate(&mut self, number: u64) -> Result<Done, RequestError> {
        let kind = self.kinds.sample(&mut self.random);
        let connection = &mut self.connection;
        let items = match kind {
            0 => self.beat.operate(connection, number).await,
            1 => self.find.operate(connection, number).await,
            2 => self.ask.operate(connection, number).await,
            _ => self.register.operate(connection, number).await,
        };
        Ok(Done { items: items?, kind })
    }

    fn warmed_up(&mut self) {
        self.ask.warmed_up();
    }
}
