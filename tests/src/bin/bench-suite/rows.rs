//! What is shown of the measurements: one row for each number, with its goal.

use rollcall_bench::Report;

use crate::figures::{Summary, Unit};
use crate::store::{Outcome, Record, Target};

/// One number, and what it should be.
pub(crate) struct Row {
    pub(crate) step: String,
    pub(crate) title: String,
    pub(crate) unit: Unit,
    pub(crate) goal: Goal,
    pub(crate) value: Value,
    /// Whether it is measured only by a long run.
    pub(crate) long: bool,
    /// Whether only Rollcall has it, although the step is measured at etcd too.
    pub(crate) own: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Goal {
    AtLeast(f64),
    AtMost(f64),
    /// No goal of its own; more is better.
    More,
    /// No goal of its own; less is better.
    Less,
}

impl Goal {
    /// Whether a number is as it should be; none where there is no goal.
    pub(crate) fn is_met(self, number: f64) -> Option<bool> {
        match self {
            Self::AtLeast(least) => Some(number >= least),
            Self::AtMost(most) => Some(number <= most),
            Self::More | Self::Less => None,
        }
    }

    /// How many times better `own` is than `other`.
    pub(crate) fn ratio(self, own: f64, other: f64) -> Option<f64> {
        let (above, below) = match self {
            Self::AtLeast(_) | Self::More => (own, other),
            Self::AtMost(_) | Self::Less => (other, own),
        };
        (above > 0.0 && below > 0.0).then(|| above / below)
    }
}

/// Where a number comes from.
pub(crate) enum Value {
    Of(fn(&Report) -> Option<f64>),
    /// By what the same number of another step is multiplied.
    Over {
        step: &'static str,
        of: fn(&Report) -> Option<f64>,
    },
}

/// What one target showed of one row.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Cell {
    pub(crate) summary: Option<Summary>,
    pub(crate) failures: Vec<String>,
    /// Operations that failed in runs that have a number all the same.
    pub(crate) errors: u64,
}

impl Row {
    fn new(step: impl Into<String>, title: impl Into<String>, unit: Unit, goal: Goal, value: Value) -> Self {
        Self { step: step.into(), title: title.into(), unit, goal, value, long: false, own: false }
    }

    fn long(self) -> Self {
        Self { long: true, ..self }
    }

    fn own(self) -> Self {
        Self { own: true, ..self }
    }

    pub(crate) fn cell(&self, records: &[Record], target: Target) -> Cell {
        let (mut numbers, mut cell) = (Vec::new(), Cell::default());
        if self.own && target != Target::Rollcall {
            return cell;
        }
        for record in records.iter().filter(|record| record.step == self.step && record.target == target) {
            match &record.outcome {
                Outcome::Failure(text) => cell.failures.push(text.clone()),
                Outcome::Report(report) => match self.number(report, record, records) {
                    Some(number) => {
                        numbers.push(number);
                        cell.errors += report.errors;
                    }
                    None => cell.failures.push("the report does not have the number".to_owned()),
                },
            }
        }
        cell.summary = Summary::of(&numbers);
        cell
    }

    fn number(&self, report: &Report, record: &Record, records: &[Record]) -> Option<f64> {
        match &self.value {
            Value::Of(of) => of(report),
            Value::Over { step, of } => {
                let same = |other: &&Record| {
                    (other.step.as_str(), other.target, other.repetition, other.part)
                        == (step, record.target, record.repetition, record.part)
                };
                match &records.iter().find(same)?.outcome {
                    Outcome::Report(other) => Some(of(report)? / of(other)?).filter(|ratio| ratio.is_finite()),
                    Outcome::Failure(_) => None,
                }
            }
        }
    }
}

fn extra(report: &Report, path: &[&str]) -> Option<f64> {
    let (first, rest) = path.split_first()?;
    rest.iter().try_fold(report.extra.get(*first)?, |value, name| value.get(name))?.as_f64()
}

/// Of microseconds.
fn extra_ms(report: &Report, path: &[&str]) -> Option<f64> {
    extra(report, path).filter(|_| report.operations > 0).map(|us| us / 1_000.0)
}

fn per_s(report: &Report) -> Option<f64> {
    (report.operations > 0).then_some(report.operations_per_s)
}

fn items_per_s(report: &Report) -> Option<f64> {
    (report.operations > 0).then_some(report.items_per_s)
}

fn p50_ms(report: &Report) -> Option<f64> {
    (report.operations > 0).then_some(report.latency_us.p50 as f64 / 1_000.0)
}

fn p99_ms(report: &Report) -> Option<f64> {
    (report.operations > 0).then_some(report.latency_us.p99 as f64 / 1_000.0)
}

fn log_bytes_per_item(report: &Report) -> Option<f64> {
    extra(report, &["log_bytes_per_item"])
}

/// What each registration adds to a node's memory, at the node where it is most.
fn rss_bytes_per_item(report: &Report) -> Option<f64> {
    let growth = |node: &rollcall_bench::NodeUsage| Some(node.rss_bytes_end? as f64 - node.rss_bytes_begin? as f64);
    let growths: Option<Vec<f64>> = report.nodes.iter().map(growth).collect();
    let most = growths?.into_iter().max_by(f64::total_cmp)?;
    (report.items > 0).then(|| most / report.items as f64)
}

/// All rows, in the order in which they are shown.
pub(crate) fn rows() -> Vec<Row> {
    use Goal::{AtLeast, AtMost, Less, More};
    use Unit::{Bytes, Count, Ms, PerS, Times, Us};
    let mut rows = Vec::new();
    let cpu = |report: &Report| report.server_cpu_us_per_operation;
    let cpu_per_item = |report: &Report| report.server_cpu_us_per_item;

    for (work, sessions, least, most_us) in [
        ("register", 64, 12_000.0, 90.0),
        ("register", 256, 20_000.0, 90.0),
        ("heartbeat", 64, 25_000.0, 40.0),
        ("heartbeat", 256, 35_000.0, 40.0),
    ] {
        let step = format!("{work}-{sessions}");
        rows.extend([
            Row::new(&step, format!("{work}, {sessions} sessions"), PerS, AtLeast(least), Value::Of(per_s)),
            Row::new(&step, "… processor time of all three servers, each", Us, AtMost(most_us), Value::Of(cpu)),
            Row::new(&step, "… latency, p99", Ms, Less, Value::Of(p99_ms)),
        ]);
    }
    let step = "heartbeat-batch-100";
    rows.extend([
        Row::new(step, "renewals in batches of 100", PerS, AtLeast(400_000.0), Value::Of(items_per_s)),
        Row::new(step, "… processor time of all three servers, each", Us, AtMost(2.5), Value::Of(cpu_per_item)),
        Row::new(step, "… log at a node for each renewal", Bytes, AtMost(8.0), Value::Of(log_bytes_per_item)),
        Row::new(
            "heartbeat-64",
            "log at a node for each single renewal",
            Bytes,
            AtMost(8.0),
            Value::Of(log_bytes_per_item),
        )
        .own(),
    ]);
    let plain = "heartbeat-plain";
    rows.push(Row::new(plain, "heartbeat, 64 sessions, without tokens and TLS", PerS, More, Value::Of(per_s)));
    rows.push(Row::new(plain, "… processor time of all three servers, each", Us, Less, Value::Of(cpu)));
    for (step, with) in [("heartbeat-tokens", "tokens"), ("heartbeat-tls-tokens", "tokens and TLS at all ports")] {
        rows.extend([
            Row::new(step, format!("… with {with}"), PerS, More, Value::Of(per_s)),
            Row::new(step, "… against without", Times, More, Value::Over { step: plain, of: per_s }),
            Row::new(step, "… processor time of all three servers, each", Us, Less, Value::Of(cpu)),
            Row::new(step, "… against without", Times, Less, Value::Over { step: plain, of: cpu }),
        ]);
    }
    for (place, most_ms) in [("leader", 1.0), ("follower", 1.5)] {
        for work in ["register", "heartbeat"] {
            let title = format!("{work} alone at the {place}, p50");
            rows.push(Row::new(format!("{work}-alone-{place}"), title, Ms, AtMost(most_ms), Value::Of(p50_ms)));
        }
    }
    for (kind, least, most_us) in [("local", 15_000.0, 60.0), ("linearizable", 12_000.0, 90.0)] {
        let step = format!("lookup-{kind}");
        rows.extend([
            Row::new(&step, format!("{kind} lookup of 100"), PerS, AtLeast(least), Value::Of(per_s)),
            Row::new(&step, "… processor time of all three servers, each", Us, AtMost(most_us), Value::Of(cpu)),
            Row::new(&step, "… latency, p99", Ms, Less, Value::Of(p99_ms)),
        ]);
    }
    let search = |report: &Report| extra(report, &["search_time_us", "p99"]);
    rows.push(Row::new(
        "query",
        "query with 20 hits among 200,000 at 400 /s, in the server, p99",
        Us,
        AtMost(150.0),
        Value::Of(search),
    ));

    let gap = |report: &Report| extra(report, &["longest_gap_ms"]);
    let handed = |report: &Report| extra(report, &["gap_p50_ms"]);
    let handed_most = |report: &Report| extra(report, &["gap_max_ms"]);
    rows.extend([
        Row::new("failover-kill", "writes stand still at kill -9 of the leader", Ms, AtMost(700.0), Value::Of(gap)),
        Row::new("failover-term", "writes stand still at SIGTERM to the leader", Ms, AtMost(100.0), Value::Of(gap)),
        Row::new(
            "transfer",
            "writes stand still when the lead is handed over, p50",
            Ms,
            AtMost(200.0),
            Value::Of(handed),
        ),
        Row::new("transfer", "… at most", Ms, Less, Value::Of(handed_most)),
    ]);

    let answers = |report: &Report| extra(report, &["answers_ms"]);
    let ready = |report: &Report| extra(report, &["ready_ms"]);
    rows.extend([
        Row::new(
            "memory",
            "memory of a node for each of 200,000 registrations",
            Bytes,
            AtMost(1_000.0),
            Value::Of(rss_bytes_per_item),
        ),
        Row::new(
            "restart",
            "restart of a killed node with 200,000 to its first whole answer",
            Ms,
            AtMost(500.0),
            Value::Of(answers),
        ),
        Row::new("start-empty", "start of a node without data", Ms, Less, Value::Of(ready)),
    ]);

    let seen_p50 = |report: &Report| extra_ms(report, &["seen_by_last_us", "p50"]);
    let seen_p99 = |report: &Report| extra_ms(report, &["seen_by_last_us", "p99"]);
    rows.extend([
        Row::new("watch-one", "change seen by one watcher at a follower, p50", Ms, AtMost(1.5), Value::Of(seen_p50)),
        Row::new("watch-one", "… p99", Ms, Less, Value::Of(seen_p99)),
        Row::new(
            "watch-1000",
            "change seen by the last of 1,000 watchers of one node, p50",
            Ms,
            AtMost(6.0),
            Value::Of(seen_p50),
        ),
        Row::new("watch-1000", "… p99", Ms, Less, Value::Of(seen_p99)),
        Row::new(
            "watch-1000",
            "… processor time of all three servers, each watcher and change",
            Us,
            AtMost(8.0),
            Value::Of(cpu_per_item),
        ),
    ]);
    let without = |report: &Report| extra(report, &["server_cpu_us_per_change_without_watchers"]);
    let with = |report: &Report| extra(report, &["server_cpu_us_per_change_with_watchers"]);
    let quotient = |report: &Report| extra(report, &["server_cpu_with_against_without"]);
    let per_watcher = |report: &Report| extra(report, &["rss_growth_per_watcher_bytes"]);
    rows.extend([
        Row::new(
            "watch-idle",
            "1,000 changes/s that nobody watches: processor time of all three servers, each",
            Us,
            Less,
            Value::Of(without),
        ),
        Row::new("watch-idle", "… beside 10,000 watchers of other services", Us, Less, Value::Of(with)),
        Row::new("watch-idle", "… beside them against without", Times, AtMost(1.1), Value::Of(quotient)),
        Row::new(
            "watch-idle",
            "memory of a node for each idle watcher",
            Bytes,
            AtMost(20_000.0),
            Value::Of(per_watcher),
        ),
    ]);

    let lapsed = |report: &Report| extra(report, &["lapsed"]);
    let lookups = |report: &Report| extra(report, &["lookup_latency_us", "p99"]).map(|us| us / 1_000.0);
    let renewals = |report: &Report| extra(report, &["renewals_per_s"]);
    rows.extend([
        Row::new("hold", "a million registrations kept alive: lapsed", Count, AtMost(0.0), Value::Of(lapsed)).long(),
        Row::new("hold", "… renewals", PerS, More, Value::Of(renewals)).long(),
        Row::new("hold", "… lookups meanwhile, p99", Ms, AtMost(5.0), Value::Of(lookups)).long(),
    ]);

    let entries = |report: &Report| extra(report, &["entries"]);
    let late = |report: &Report| extra_ms(report, &["lateness_us", "p99"]);
    let early = |report: &Report| extra(report, &["early"]);
    let growth = |report: &Report| extra(report, &["rss_growth"]);
    rows.extend([
        Row::new(
            "idle",
            "log entries of an idle cluster with 10,000 leases in 10 s",
            Count,
            AtMost(0.0),
            Value::Of(entries),
        ),
        Row::new("checkpoint-rare", "register at 2,000 /s without checkpoints, p99", Ms, Less, Value::Of(p99_ms)),
        Row::new("checkpoint-often", "… with checkpoints, p99", Ms, Less, Value::Of(p99_ms)),
        Row::new(
            "checkpoint-often",
            "… with them against without, p99",
            Times,
            AtMost(2.0),
            Value::Over { step: "checkpoint-rare", of: p99_ms },
        ),
        Row::new("expiry", "expiry after the deadline, p99", Ms, Less, Value::Of(late)),
        Row::new("expiry", "… before it", Count, AtMost(0.0), Value::Of(early)),
        Row::new(
            "watch-expiry",
            "expiry of 1,000 at once told to a watcher after the deadline, p99",
            Ms,
            AtMost(150.0),
            Value::Of(late),
        ),
        Row::new("watch-expiry", "… before it", Count, AtMost(0.0), Value::Of(early)),
        Row::new(
            "memory-flat",
            "memory after ten minutes of load against two",
            Times,
            AtMost(1.05),
            Value::Of(growth),
        )
        .long(),
    ]);
    rows
}
