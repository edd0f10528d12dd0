//! A capability, a tag and a label out of many: the few instances that have all three.

use std::sync::Arc;
use std::time::Duration;

use hdrhistogram::Histogram;
use rand::Rng;
use rand::rngs::SmallRng;
use serde_json::{Value, json};

use super::lookup::{Consistency, Find, tail_number};
use super::{Finished, Operation, Run, each, lasting_ttl_ms, loop_load, loop_parameters};
use crate::args::{Common, Rate, Sessions, Window};
use crate::documents::{Documents, Shape};
use crate::engine;
use crate::enrol::enrol;
use crate::error::{Error, RequestError};
use crate::http::Connection;
use crate::record::{histogram, note};
use crate::report::percentiles;

#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    #[command(flatten)]
    sessions: Sessions,
    #[command(flatten)]
    window: Window,
    #[command(flatten)]
    rate: Rate,
    /// How many instances are on the roll; they are registered first
    #[arg(long, value_name = "N", default_value_t = 200_000, value_parser = clap::value_parser!(u32).range(1..))]
    instances: u32,
    /// How many of them each query finds
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    hits: u32,
    /// Whether to show what the asked node has, or every write acknowledged before
    #[arg(long, value_enum, default_value_t)]
    consistency: Consistency,
    #[command(flatten)]
    pub(super) common: Common,
}

/// Many are put on the roll before a few sessions query them.
const ENROLLING_SESSIONS: u16 = 256;

impl Args {
    pub(super) fn check(&self) -> Result<(), Error> {
        Population::new(self.instances, self.hits).map(drop)
    }

    pub(super) async fn run(&self, run: &Run) -> Result<Finished, Error> {
        let ttl_ms = lasting_ttl_ms(&self.window);
        let population = Population::new(self.instances, self.hits)?;
        let wanted = self.sessions.sessions;
        let connections = run.target.connect(self.sessions.node, wanted.max(ENROLLING_SESSIONS)).await?;
        let (_, mut connections) = enrol(connections, &population.documents(ttl_ms), self.instances.into()).await?;
        connections.truncate(wanted.into());
        let queries = population.queries(self.consistency);
        population.settle(&mut connections, &queries).await?;

        let load = loop_load("query", &["query"], &self.window, &self.rate);
        let ask = |place| Ask::new(queries.clone(), run.random(place));
        let (measured, sessions) = engine::run(&load, each(connections, ask), &run.processes).await;
        let own = json!({
            "instances": self.instances, "hits": self.hits, "consistency": self.consistency.word(), "ttl_ms": ttl_ms,
        });
        let own = loop_parameters(&self.sessions, &self.window, &self.rate, own);
        let report = run.report("query", own, &measured);
        let searched = sessions.iter().map(|session| &session.operation);
        Ok(run.finish(report.with_extra(search_times(searched))))
    }
}

/// Instances in groups of `hits`. Each group has a capability, a tag and a label that no other group has together,
/// while each of the three alone is shared by many groups.
#[derive(Clone, Copy, Debug)]
pub(super) struct Population {
    instances: u32,
    hits: u32,
    groups: u32,
    /// How many capabilities there are, and as many tags.
    words: u32,
}

impl Population {
    pub(super) fn new(instances: u32, hits: u32) -> Result<Self, Error> {
        if hits > instances {
            return Err(Error::Usage { what: "--hits: there are fewer --instances than that".to_owned() });
        }
        let groups = instances / hits;
        let words = f64::from(groups).cbrt().ceil() as u32;
        Ok(Self { instances, hits, groups, words })
    }

    /// Names of one population stay apart from those of another that is on the roll as well.
    fn words_of(&self, group: u32) -> [String; 3] {
        let [capability, tag, label] =
            [group % self.words, group / self.words % self.words, group / (self.words * self.words)];
        let of = format!("{}x{}", self.instances, self.hits);
        [format!("find-{of}-{capability}"), format!("find-{of}-{tag}"), format!("{of}-{label}")]
    }

    pub(super) fn documents(&self, ttl_ms: u64) -> Arc<Documents> {
        let prefix = format!("bench-query-{}x{}-", self.instances, self.hits);
        let usual = |group| Shape::usual(format!("bench-query-{}", group % 1_000), u64::from(group), 300, ttl_ms);
        let shape = |group| {
            let mut shape = usual(group);
            let [capability, tag, label] = self.words_of(group);
            shape.capabilities[0] = capability;
            shape.tags[0] = tag;
            shape.labels.push(("find", label));
            shape
        };
        let documents = Documents::new(prefix, (0..self.groups).map(shape));
        Arc::new(documents.with_spare((self.groups * self.hits).into(), &usual(0)))
    }

    pub(super) fn queries(&self, consistency: Consistency) -> Arc<Vec<Find>> {
        let query = |group| {
            let [capability, tag, label] = self.words_of(group);
            let filter = format!("capabilities={capability}&tags={tag}&selector=find%3D{label}");
            Find::by(&filter, self.hits, consistency)
        };
        Arc::new((0..self.groups).map(query).collect())
    }

    /// Waits until each node shows the last ones that were registered.
    pub(super) async fn settle(&self, connections: &mut [Connection], queries: &[Find]) -> Result<(), Error> {
        let last = queries.last().expect("a population has a group");
        for connection in connections {
            last.settle(connection).await.map_err(|source| Error::Request { action: "query the roll", source })?;
        }
        Ok(())
    }
}

/// Asks for a group chosen at random.
pub(super) struct Ask {
    queries: Arc<Vec<Find>>,
    random: SmallRng,
    /// What the node itself says that it took.
    search_us: Histogram<u64>,
}

impl Ask {
    pub(super) fn new(queries: Arc<Vec<Find>>, random: SmallRng) -> Self {
        Self { queries, random, search_us: histogram() }
    }
}

impl Operation for Ask {
    async fn operate(&mut self, connection: &mut Connection, _number: u64) -> Result<u64, RequestError> {
        let chosen = self.random.random_range(0..self.queries.len());
        self.queries[chosen].ask(connection).await?;
        let search_ms: f64 = tail_number(connection.body(), "search_time_ms")?;
        note(&mut self.search_us, Duration::try_from_secs_f64(search_ms / 1_000.0).unwrap_or_default());
        Ok(1)
    }

    fn warmed_up(&mut self) {
        self.search_us.reset();
    }
}

/// What the nodes say that their searches took.
pub(super) fn search_times<'a>(asked: impl IntoIterator<Item = &'a Ask>) -> Value {
    let mut all = histogram();
    for ask in asked {
        all += &ask.search_us;
    }
    json!({ "search_time_us": percentiles(&all) })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use rollcall_api::RegisterRequest;

    use super::*;

    #[test]
    fn each_query_fits_as_many_instances_as_told() {
        for (instances, hits) in [(1, 1), (7, 3), (200, 20), (1_000, 3)] {
            let population = Population::new(instances, hits).expect("fewer hits than instances");
            let documents = population.documents(30_000);
            let all: Vec<RegisterRequest> = (0..instances)
                .map(|number| serde_json::from_slice(&documents.render(number.into())).expect("JSON"))
                .collect();
            let mut words = BTreeSet::new();
            for group in 0..population.groups {
                let [capability, tag, label] = population.words_of(group);
                let fits = |instance: &&RegisterRequest| {
                    let has =
                        |words: &Option<Vec<String>>, word| words.as_ref().is_some_and(|all| all.contains(word));
                    let capable = instance
                        .capabilities
                        .as_ref()
                        .is_some_and(|all| all.contains(&rollcall_api::Capability::Name(capability.clone())));
                    let labelled =
                        instance.metadata.as_ref().is_some_and(|all| all.get("find") == Some(&json!(label)));
                    capable && has(&instance.tags, &tag) && labelled
                };
                assert_eq!(all.iter().filter(fits).count(), hits as usize, "{instances}/{hits} group {group}");
                words.insert([capability, tag, label]);
            }
            assert_eq!(words.len(), population.groups as usize);
        }
        assert!(Population::new(2, 3).is_err());
    }
}
