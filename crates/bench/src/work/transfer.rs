//! The lead is handed over again and again, as by an operator, and how long no write is taken each time.

use std::convert::Infallible;
use std::time::Duration;

use hyper::Uri;
use serde_json::json;
use tokio::time::{Instant, MissedTickBehavior};

use super::failover::Writer;
use super::{Finished, Run, ms};
use crate::args::{Common, Window, parse_positive_duration};
use crate::engine::Meter;
use crate::error::Error;
use crate::http::{Call, Connection};
use crate::report::rounded;

#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// `--warm-up` is how long writes are done before the first transfer
    #[command(flatten)]
    window: Window,
    /// How often the lead is handed over
    #[arg(long, default_value = "1s", value_parser = parse_positive_duration)]
    every: Duration,
    /// How long an attempt at one endpoint may take
    #[arg(long, default_value = "1s", value_parser = parse_positive_duration)]
    attempt_timeout: Duration,
    #[command(flatten)]
    pub(super) common: Common,
}

/// One hand-over, as who asked for it sees it.
struct Transfer {
    begun: Instant,
    took: Duration,
}

impl Args {
    pub(super) async fn run(&self, run: &Run) -> Result<Finished, Error> {
        let mut writer = Writer::new(run, self.attempt_timeout);
        let mut meter = Meter::begin(&["write"], &run.processes);
        let mut transfers = Vec::new();
        let first = Instant::now() + self.window.warm_up;
        let end = first + self.window.duration;
        let both = async {
            tokio::select! {
                failed = self.transfer(run, first, &mut transfers) => match failed {
                    Ok(never) => match never {},
                    Err(error) => error,
                },
                never = writer.write(&mut meter) => match never {},
            }
        };
        if let Ok(error) = tokio::time::timeout_at(end, both).await {
            return Err(error);
        }
        let measured = meter.end(&run.processes);
        let present = writer.count(&run.target).await?;

        let ends = transfers.iter().skip(1).map(|transfer| transfer.begun).chain([end]);
        let gaps = transfers.iter().zip(ends).filter_map(|(transfer, next)| writer.longest_gap(transfer.begun, next));
        let round = |duration: Duration| rounded(duration.as_secs_f64() * 1_000.0, 3);
        let mut gaps_ms: Vec<f64> = gaps.map(|gap| round(gap.end - gap.begin)).collect();
        gaps_ms.sort_by(f64::total_cmp);
        let mut took_ms: Vec<f64> = transfers.iter().map(|transfer| round(transfer.took)).collect();
        took_ms.sort_by(f64::total_cmp);
        let own = json!({
            "warm_up_ms": ms(self.window.warm_up), "duration_ms": ms(self.window.duration),
            "every_ms": ms(self.every), "attempt_timeout_ms": ms(self.attempt_timeout),
        });
        let acknowledged = writer.acknowledged.len() as u64;
        let mut report = run.report("transfer", own, &measured).with_extra(json!({
            "transfers": transfers.len(),
            "gap_p50_ms": middle(&gaps_ms),
            "gap_max_ms": gaps_ms.last(),
            "gaps_ms": gaps_ms,
            "transfer_p50_ms": middle(&took_ms),
            "longest_gap_before_ms": round(writer.longest_gap_before(first)),
            "attempts": writer.attempts,
            "failed_attempts": writer.failed_attempts(),
            "acknowledged_and_lost": acknowledged.saturating_sub(present),
        }));
        if gaps_ms.is_empty() {
            report.add_error("the lead was never handed over".to_owned());
        }
        if present < acknowledged {
            report.add_error(format!("{acknowledged} writes were acknowledged, {present} are on the roll"));
        }
        Ok(run.finish(report))
    }

    /// Has the lead handed over to whoever got furthest, until it is dropped.
    async fn transfer(&self, run: &Run, first: Instant, transfers: &mut Vec<Transfer>) -> Result<Infallible, Error> {
        let uri = Uri::from_static("/api/cluster/leader");
        let call = Call::post(uri, Vec::new());
        let mut connection: Connection = run.target.connect_any().await?;
        let mut turns = tokio::time::interval_at(first, self.every);
        turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            turns.tick().await;
            let begun = Instant::now();
            let failed = |source| Error::Request { action: "hand over the lead", source };
            connection.send(&call).await.map_err(failed)?;
            transfers.push(Transfer { begun, took: begun.elapsed() });
        }
    }
}

/// The middle of sorted numbers.
fn middle(sorted: &[f64]) -> Option<f64> {
    sorted.get(sorted.len().saturating_sub(1) / 2).copied()
}
