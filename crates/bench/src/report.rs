//! What a work found out: one object for every work, as JSON for programs and as a table for people.

use std::fmt::Write;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::engine::Measured;
use crate::record::{Percentiles, histogram};
use crate::usage::NodeUsage;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    pub work: String,
    /// What was measured, as `rollcall`.
    pub target: String,
    pub parameters: Map<String, Value>,
    /// That succeeded.
    pub operations: u64,
    /// What they achieved; the renewals of a batch are one item each.
    pub items: u64,
    pub errors: u64,
    /// The first that differ.
    pub error_examples: Vec<String>,
    /// Length of the measured window.
    pub seconds: f64,
    pub operations_per_s: f64,
    pub items_per_s: f64,
    /// Of the operations that succeeded; with a rate from the moment the plan wanted them, else from their start.
    pub latency_us: Percentiles,
    /// Null if nothing succeeded.
    pub client_cpu_us_per_operation: Option<f64>,
    /// Of all `nodes` together. Null if there is none, if one's processor time is unknown, or if nothing succeeded.
    pub server_cpu_us_per_operation: Option<f64>,
    pub server_cpu_us_per_item: Option<f64>,
    pub nodes: Vec<NodeUsage>,
    /// What this work alone has to say; units stand last in the names.
    pub extra: Map<String, Value>,
}

impl Report {
    /// All that is the same for every work. A work with several kinds of operations gets them one by one in `extra`, a
    /// load with a rate how well it was kept.
    pub fn new(work: &str, target: &str, parameters: Value, measured: &Measured) -> Self {
        let mut latency_us = histogram();
        for kind in &measured.kinds {
            latency_us += &kind.latency_us;
        }
        let operations = latency_us.len();
        let items = measured.kinds.iter().map(|kind| kind.items).sum();
        let server_cpu_s: Option<f64> = measured.nodes.iter().map(|node| node.cpu_s).sum();
        let server_cpu_s = server_cpu_s.filter(|_| !measured.nodes.is_empty());
        let mut extra = Map::new();
        if measured.kinds.len() > 1 {
            let kinds = measured.kinds.iter().map(|kind| {
                let about = serde_json::json!({
                    "operations": kind.latency_us.len(),
                    "operations_per_s": per(kind.latency_us.len() as f64, measured.seconds),
                    "latency_us": percentiles(&kind.latency_us),
                });
                (kind.name.to_owned(), about)
            });
            extra.insert("kinds".to_owned(), kinds.collect::<Map<_, _>>().into());
        }
        if let Some(lateness_us) = &measured.lateness_us {
            extra.insert("begun_late_us".to_owned(), percentiles(lateness_us));
            extra.insert("not_begun_operations".to_owned(), measured.not_begun.into());
        }
        Self {
            work: work.to_owned(),
            target: target.to_owned(),
            parameters: into_map(parameters),
            operations,
            items,
            errors: measured.errors,
            error_examples: measured.error_examples.clone(),
            seconds: rounded(measured.seconds, 3),
            operations_per_s: per(operations as f64, measured.seconds),
            items_per_s: per(items as f64, measured.seconds),
            latency_us: Percentiles::from(&latency_us),
            client_cpu_us_per_operation: share_us(Some(measured.client_cpu_s), operations),
            server_cpu_us_per_operation: share_us(server_cpu_s, operations),
            server_cpu_us_per_item: share_us(server_cpu_s, items),
            nodes: measured.nodes.clone(),
            extra,
        }
    }

    /// Adds to `extra` what only this work has to say.
    pub fn with_extra(mut self, extra: Value) -> Self {
        self.extra.append(&mut into_map(extra));
        self
    }

    /// Something that must not be, found beside the operations themselves.
    pub fn add_error(&mut self, what: String) {
        self.errors += 1;
        self.error_examples.push(what);
    }

    /// For people.
    pub fn table(&self) -> String {
        let rate =
            |count: u64, per_s: f64, what: &str| format!("{count} {what} in {} s: {per_s} per s", self.seconds);
        let mut rows = vec![
            ("work", format!("{} at {}", self.work, self.target)),
            ("parameters", listed(&self.parameters)),
            ("operations", rate(self.operations, self.operations_per_s, "operations")),
        ];
        if self.items != self.operations {
            rows.push(("items", rate(self.items, self.items_per_s, "items")));
        }
        rows.push(("errors", self.errors.to_string()));
        rows.extend(self.error_examples.iter().map(|example| ("", example.clone())));
        rows.push(("latency", latency(&self.latency_us)));
        if let Some(us) = self.client_cpu_us_per_operation {
            rows.push(("generator", format!("{us} µs of processor time per operation")));
        }
        if let (Some(us), Some(us_per_item)) = (self.server_cpu_us_per_operation, self.server_cpu_us_per_item) {
            rows.push(("nodes", format!("{us} µs of processor time per operation, {us_per_item} µs per item")));
        }
        let mut rows: Vec<_> = rows.into_iter().map(|(key, value)| vec![key.to_owned(), value]).collect();
        for (key, value) in &self.extra {
            match value {
                Value::Object(parts) if parts.values().any(Value::is_object) => {
                    rows.push(vec![key.clone()]);
                    rows.extend(parts.iter().map(|(part, value)| vec![format!("  {part}"), plain(value)]));
                }
                Value::Array(parts) => {
                    rows.push(vec![key.clone(), parts.len().to_string()]);
                    rows.extend(parts.iter().map(|value| vec![String::new(), plain(value)]));
                }
                value => rows.push(vec![key.clone(), plain(value)]),
            }
        }
        let mut text = aligned(rows);
        if !self.nodes.is_empty() {
            text.push('\n');
            text.push_str(&aligned(node_rows(&self.nodes)));
        }
        text
    }
}

/// A histogram of microseconds as the reports show it.
pub fn percentiles(histogram: &Histogram<u64>) -> Value {
    let shown = Percentiles::from(histogram);
    serde_json::to_value(shown).expect("a struct of numbers is JSON")
}

pub(crate) fn rounded(number: f64, digits: i32) -> f64 {
    let scale = 10_f64.powi(digits);
    (number * scale).round() / scale
}

pub(crate) fn per(count: f64, seconds: f64) -> f64 {
    if seconds > 0.0 { rounded(count / seconds, 1) } else { 0.0 }
}

fn share_us(cpu_s: Option<f64>, count: u64) -> Option<f64> {
    cpu_s.filter(|_| count > 0).map(|cpu_s| rounded(cpu_s * 1e6 / count as f64, 2))
}

fn into_map(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        other => unreachable!("parameters and extras are given as objects, not as {other}"),
    }
}

fn latency(us: &Percentiles) -> String {
    let ms = |us: u64| us as f64 / 1_000.0;
    format!(
        "p50 {:.3}, p90 {:.3}, p99 {:.3}, p99.9 {:.3}, max {:.3}, mean {:.3} ms",
        ms(us.p50),
        ms(us.p90),
        ms(us.p99),
        ms(us.p99_9),
        ms(us.max),
        us.mean / 1_000.0
    )
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Object(map) => listed(map),
        Value::Array(values) => values.iter().map(plain).collect::<Vec<_>>().join(","),
        other => other.to_string(),
    }
}

fn listed(map: &Map<String, Value>) -> String {
    let pair = |(key, value): (&String, &Value)| match value {
        Value::Object(inner) => format!("{key} ({})", listed(inner)),
        value => format!("{key}={}", plain(value)),
    };
    map.iter().map(pair).collect::<Vec<_>>().join(" ")
}

fn node_rows(nodes: &[NodeUsage]) -> Vec<Vec<String>> {
    let mib = |bytes: Option<u64>| bytes.map_or("?".to_owned(), |bytes| format!("{} MiB", bytes >> 20));
    let head = ["NODE", "PID", "CPU", "RSS BEGIN", "RSS END", "RSS PEAK"];
    let mut rows = vec![head.iter().map(|&cell| cell.to_owned()).collect()];
    for node in nodes {
        rows.push(vec![
            node.label.clone(),
            node.pid.to_string(),
            node.cpu_s.map_or("?".to_owned(), |cpu_s| format!("{cpu_s} s")),
            mib(node.rss_bytes_begin),
            mib(node.rss_bytes_end),
            mib(node.rss_bytes_peak),
        ]);
    }
    rows
}

/// Columns as wide as their widest cell. What a server said must not drive the terminal.
fn aligned(rows: Vec<Vec<String>>) -> String {
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let widths: Vec<_> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    let mut text = String::new();
    for row in &rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            let cell: String = cell.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
            let _ = write!(line, "{cell:<width$}  ");
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::record::{KindRecord, note_many};

    fn measured(kinds: &[&'static str]) -> Measured {
        let kind = |name: &&'static str| {
            let mut latency_us = histogram();
            note_many(&mut latency_us, std::time::Duration::from_micros(1_500), 100);
            KindRecord { name, latency_us, items: 1_000 }
        };
        Measured {
            seconds: 2.0,
            kinds: kinds.iter().map(kind).collect(),
            lateness_us: None,
            not_begun: 0,
            errors: 1,
            error_examples: vec!["no leader (503 no_leader)".to_owned()],
            client_cpu_s: 0.001,
            nodes: vec![NodeUsage {
                label: "127.0.0.1:7900".to_owned(),
                pid: 7,
                cpu_s: Some(0.5),
                rss_bytes_begin: Some(10 << 20),
                rss_bytes_end: Some(12 << 20),
                rss_bytes_peak: None,
            }],
        }
    }

    #[test]
    fn a_report_is_one_object_with_these_names() {
        let report = Report::new("heartbeat", "rollcall", json!({"sessions": 2}), &measured(&["heartbeat"]))
            .with_extra(json!({"search_time_us": 3}));
        let expected = json!({
            "work": "heartbeat", "target": "rollcall", "parameters": {"sessions": 2},
            "operations": 100, "items": 1_000, "errors": 1, "error_examples": ["no leader (503 no_leader)"],
            "seconds": 2.0, "operations_per_s": 50.0, "items_per_s": 500.0,
            "latency_us": {"p50": 1_500, "p90": 1_500, "p99": 1_500, "p99_9": 1_500, "max": 1_500, "mean": 1_500.0},
            "client_cpu_us_per_operation": 10.0,
            "server_cpu_us_per_operation": 5_000.0, "server_cpu_us_per_item": 500.0,
            "nodes": [{
                "label": "127.0.0.1:7900", "pid": 7, "cpu_s": 0.5, "rss_bytes_begin": 10_485_760,
                "rss_bytes_end": 12_582_912, "rss_bytes_peak": null,
            }],
            "extra": {"search_time_us": 3},
        });
        let json = serde_json::to_string_pretty(&report).expect("JSON");
        assert_eq!(json, serde_json::to_string_pretty(&expected).expect("JSON"));
        assert_eq!(serde_json::from_str::<Report>(&json).expect("a report"), report);
    }

    #[test]
    fn a_cost_that_is_not_known_in_full_is_not_told() {
        let mut unknown = measured(&["heartbeat"]);
        unknown.nodes[0].cpu_s = None;
        let report = Report::new("heartbeat", "rollcall", json!({}), &unknown);
        assert_eq!((report.server_cpu_us_per_operation, report.server_cpu_us_per_item), (None, None));
        unknown.nodes.clear();
        assert_eq!(Report::new("heartbeat", "rollcall", json!({}), &unknown).server_cpu_us_per_operation, None);
    }

    #[test]
    fn the_table_is_for_people() {
        let mut report =
            Report::new("mixed", "rollcall", json!({"sessions": 2, "endpoints": ["a", "b"]}), &measured(&["x", "y"]));
        report.add_error("bad\u{1b}[2J".to_owned());
        let kind = "operations=100 operations_per_s=50.0 latency_us (p50=1500 p90=1500 p99=1500 p99_9=1500 max=1500 mean=1500.0)";
        let expected = format!(
            "\
work        mixed at rollcall
parameters  sessions=2 endpoints=a,b
operations  200 operations in 2 s: 100 per s
items       2000 items in 2 s: 1000 per s
errors      2
            no leader (503 no_leader)
            bad\u{fffd}[2J
latency     p50 1.500, p90 1.500, p99 1.500, p99.9 1.500, max 1.500, mean 1.500 ms
generator   5 µs of processor time per operation
nodes       2500 µs of processor time per operation, 250 µs per item
kinds
  x         {kind}
  y         {kind}

NODE            PID  CPU    RSS BEGIN  RSS END  RSS PEAK
127.0.0.1:7900  7    0.5 s  10 MiB     12 MiB   ?
"
        );
        assert_eq!(report.table(), expected);
    }
}
