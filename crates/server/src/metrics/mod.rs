//! What a node counts for its operators, as Prometheus text. Hot paths add to atomics; everything else is looked up when
//! somebody asks.

mod encode;
mod federation;
mod http;
mod node;
#[cfg(target_os = "linux")]
mod process;
mod tenants;
mod tls;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use rollcall_replica::Replica;

use crate::federation::Links;
use crate::native::Surroundings;

pub(crate) use http::{Http, Route};

/// All metrics of a node.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    pub(crate) watch: WatchMetrics,
    pub(crate) checks: CheckMetrics,
    pub(crate) alerts: AlertMetrics,
}

/// What is counted around every request and connection, before the replica runs too.
#[derive(Debug, Default)]
pub(crate) struct EdgeMetrics {
    pub(crate) http: Http,
    pub(crate) refusals: Family<Refused, Counter>,
    pub(crate) quota_refusals: Family<Exceeded, Counter>,
    pub(crate) in_work: Gauge,
    pub(crate) client_connections: Gauge,
    pub(crate) peer_connections: Gauge,
}

/// The `code` of a problem document; there are some thirty.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(crate) struct Refused {
    pub(crate) code: &'static str,
}

/// Which quota was used up. Whose it was is told to nobody else.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(crate) struct Exceeded {
    pub(crate) quota: &'static str,
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

/// Of the checks that this node makes. Cheap to clone; clones count together.
#[derive(Clone, Debug, Default)]
pub(crate) struct CheckMetrics {
    pub(crate) checks: Family<Checked, Counter>,
    pub(crate) targets: Gauge,
    pub(crate) in_work: Gauge,
    pub(crate) late: Counter,
    pub(crate) refused: Counter,
    pub(crate) verdicts: Counter,
}

/// By what was checked, and what that found.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(crate) struct Checked {
    pub(crate) kind: &'static str,
    pub(crate) result: &'static str,
}
/// Cheap to clone; clones count together.
#[derive(Clone, Debug, Default)]
pub(crate) struct AlertMetrics {
    pub(crate) targets: Gauge,
    pub(crate) waiting: Gauge,
    pub(crate) failing: Gauge,
    pub(crate) sent: Counter,
    pub(crate) failures: Counter,
}

impl Metrics {
    pub(crate) fn new(replica: Replica, links: Links, surroundings: &Surroundings) -> Self {
        let Surroundings { metrics: edge, data_dir, tls, tell_tenants, .. } = surroundings;
        let mut whole = Registry::default();
        let registry = whole.sub_registry_with_prefix("rollcall");
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
        let checks = CheckMetrics::default();
        let CheckMetrics { checks: made, targets, in_work, late, refused, verdicts } = checks.clone();
        registry.register("checks", "Checks that this node made, by what was tried and what that found", made);
        registry.register("check_targets", "Instances that this node checks: its share", targets);
        registry.register("checks_in_work", "Checks under way", in_work);
        registry.register("checks_late", "Checks that began more than a second after they were due", late);
        registry.register("check_targets_refused", "Instances not checked because this node has too many", refused);
        registry.register("check_verdicts", "Verdicts that this node brought into the log", verdicts);
        let alerts = AlertMetrics::default();
        let AlertMetrics { targets, waiting, failing, sent, failures } = alerts.clone();
        registry.register("alert_targets", "At the leader: targets that are told of alerts, of all tenants", targets);
        registry.register("alerts_waiting", "At the leader: alerts found that a target was not told of yet", waiting);
        registry.register("alert_targets_failing", "At the leader: targets that could not be told last", failing);
        registry.register("alerts_sent", "Alerts that targets took from this node", sent);
        registry.register(
            "alert_failures",
            "Requests to targets that failed; what was in them is sent again",
            failures,
        );
        registry.register("refusals", "Answers that say no, by the code of the problem", edge.refusals.clone());
        registry.register(
            "quota_refusals",
            "Answers of 429 because a tenant has, or sends, as much as its quota allows",
            edge.quota_refusals.clone(),
        );
        registry.register(
            "http_requests_in_work",
            "Requests being answered, without those that wait",
            edge.in_work.clone(),
        );
        registry.register("client_connections", "Connections of clients", edge.client_connections.clone());
        registry.register(
            "peer_connections",
            "Connections that other nodes made to this one",
            edge.peer_connections.clone(),
        );
        registry.register_collector(Box::new(http::Collected(edge.clone())));
        registry.register_collector(Box::new(federation::Collected { replica: replica.clone(), links }));
        if *tell_tenants {
            registry.register_collector(Box::new(tenants::Collected(replica.clone())));
        }
        registry.register_collector(Box::new(node::Collected { replica, data_dir: data_dir.clone() }));
        registry.register_collector(Box::new(tls::Collected(tls.clone())));
        #[cfg(target_os = "linux")]
        whole.register_collector(Box::new(process::Collected));
        Self { registry: whole, watch, checks, alerts }
    }

    /// In the text format of OpenMetrics, which Prometheus reads. Looks at files: blocks for a moment.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        encode(&mut text, &self.registry).expect("writing into memory does not fail");
        text
    }
}
