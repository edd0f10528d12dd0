//! How late instances that fell silent are seen to be gone.

use hdrhistogram::Histogram;
use serde_json::{Map, json};
use tokio::time::Instant;

use crate::record::{histogram, note_many};
use crate::report::{Report, percentiles};

/// The ends that were seen at one node.
#[derive(Debug)]
pub struct Lapses {
    node: String,
    left: u64,
    early: u64,
    lateness_us: Histogram<u64>,
}

impl Lapses {
    pub fn new(node: &str, instances: u64) -> Self {
        Self { node: node.to_owned(), left: instances, early: 0, lateness_us: histogram() }
    }

    /// How many ends are still to be seen.
    pub fn left(&self) -> u64 {
        self.left
    }

    /// So many ends were seen now that were due at the deadline.
    pub fn note(&mut self, deadline: Instant, count: u64) {
        self.left = self.left.saturating_sub(count);
        match Instant::now().checked_duration_since(deadline) {
            Some(lateness) => note_many(&mut self.lateness_us, lateness, count),
            None => self.early += count,
        }
    }

    /// Adds to a report what was seen at all nodes.
    pub fn tell(mut all: Vec<Self>, report: Report) -> Report {
        all.sort_by(|a, b| a.node.cmp(&b.node));
        let (mut lateness_us, mut early, mut nodes) = (histogram(), 0, Map::new());
        for lapses in &all {
            lateness_us += &lapses.lateness_us;
            early += lapses.early;
            let about = json!({ "early": lapses.early, "lateness_us": percentiles(&lapses.lateness_us) });
            nodes.insert(lapses.node.clone(), about);
        }
        let mut report = report.with_extra(json!({
            "early": early, "lateness_us": percentiles(&lateness_us), "by_node": nodes,
        }));
        if early > 0 {
            report.add_error(format!("{early} instances were struck off before their time"));
        }
        for lapses in all.iter().filter(|lapses| lapses.left > 0) {
            report.add_error(format!("{} instances stay on the roll of {}", lapses.left, lapses.node));
        }
        report
    }
}
