//! So many new instances as fast as they are taken, and what they cost in memory.

use std::time::Duration;

use serde_json::{Map, Value, json};

use super::register::{Content, Register};
use super::{Finished, Run, each, ms};
use crate::args::{Common, Rate, Sessions, parse_positive_duration};
use crate::engine::{self, Load, Span};
use crate::error::Error;
use crate::report::rounded;

#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    #[command(flatten)]
    sessions: Sessions,
    #[command(flatten)]
    rate: Rate,
    /// How many are registered
    #[arg(long, value_name = "N", default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1..))]
    instances: u32,
    #[command(flatten)]
    content: Content,
    /// How long an instance stands that is not renewed
    #[arg(long, default_value = "1h", value_parser = parse_positive_duration)]
    ttl: Duration,
    #[command(flatten)]
    pub(super) common: Common,
}

impl Args {
    pub(super) async fn run(&self, run: &Run) -> Result<Finished, Error> {
        let documents = self.content.documents(run, "fill", self.ttl);
        let connections = run.target.connect(self.sessions.node, self.sessions.sessions).await?;
        let sessions = each(connections, |_| Register { documents: documents.clone() });
        let span = Span::Count(self.instances.into());
        let load = Load { title: "fill", kinds: &["register"], span, rate_per_s: self.rate.rate };
        let (measured, _) = engine::run(&load, sessions, &run.processes).await;

        let own = json!({
            "sessions": self.sessions.sessions, "node": self.sessions.node.word(), "rate_per_s": self.rate.rate,
            "instances": self.instances, "metadata_bytes": self.content.metadata_bytes,
            "ttl_ms": ms(self.ttl),
        });
        let growth: Map<String, Value> = measured
            .nodes
            .iter()
            .filter_map(|node| {
                let bytes = node.rss_bytes_end? as f64 - node.rss_bytes_begin? as f64;
                Some((node.label.clone(), rounded(bytes / f64::from(self.instances), 1).into()))
            })
            .collect();
        let report = run.report("fill", own, &measured);
        Ok(run.finish(report.with_extra(json!({ "rss_growth_per_registration_bytes": growth }))))
    }
}
