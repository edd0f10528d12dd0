//! What a node counts for its operators, as Prometheus text.

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// All metrics of a node.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    pub(crate) watch: WatchMetrics,
}

/// Cheap to clone; clones count together.
#[derive(Clone, Debug, Default)]
pub(crate) struct WatchMetrics {
    pub(crate) watchers: Gauge,
    pub(crate) feeds: Gauge,
    pub(crate) events: Counter,
    pub(crate) refused: Counter,
    pub(crate) resyncs: Counter,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let mut registry = Registry::with_prefix("rollcall");
        let watch = WatchMetrics::default();
        let WatchMetrics { watchers, feeds, events, refused, resyncs } = watch.clone();
        registry.register(
            "watchers",
            "Places taken by watchers: streams, long polls that wait, WebSocket connections and their subscriptions",
            watchers,
        );
        registry.register("watch_feeds", "Distinct filters that are watched", feeds);
        registry.register("watch_events", "Changes rendered for watchers, once for all that share them", events);
        registry.register("watchers_refused", "Watchers refused with 429 because of a limit", refused);
        registry.register("watch_resyncs", "Watchers that were cut because they were too slow", resyncs);
        Self { registry, watch }
    }

    /// In the text format of OpenMetrics, which Prometheus reads.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        encode(&mut text, &self.registry).expect("writing into memory does not fail");
        text
    }
}
