//! Requests by route, method and class of status, and how long they took. Each costs three additions to atomics.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use axum::http::{Method, StatusCode};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::registry::Unit;
use rollcall_replica::meter::{Counter, Counts, Histogram};

use super::EdgeMetrics;
use super::encode::{NS_PER_SECOND, Writer};
use crate::faces::protolink;

/// All routes, as the contract writes them.
const ROUTES: &[&str] = &[
    "/api/services/register",
    "/api/services/{id}/heartbeat",
    "/api/services/{id}/signature",
    "/api/signatures",
    "/api/owner-keys",
    "/api/owner-keys/{owner}",
    "/api/heartbeats",
    "/api/services",
    "/api/services/watch",
    "/api/services/pick",
    "/api/services/{id}/maintenance",
    "/api/services/{id}/drain",
    "/api/orders",
    "/api/alerts",
    "/api/alerts/{name}",
    "/api/alerts/{name}/test",
    "/api/protection",
    "/api/protection/release",
    "/api/trust",
    "/api/trust/{owner}",
    "/api/ranking",
    "/api/quota",
    "/api/checks",
    "/ws/registry",
    "/api/services/{id}",
    "/api/tokens",
    "/api/tokens/{id}",
    "/api/tokens/{id}/rotate",
    "/api/cluster/status",
    "/api/cluster/digest",
    "/api/cluster/backup",
    "/api/cluster/members",
    "/api/cluster/members/{id}/promote",
    "/api/cluster/members/{id}/demote",
    "/api/cluster/members/{id}/replace",
    "/api/cluster/members/{id}/address",
    "/api/cluster/members/{id}",
    "/api/cluster/leader",
    "/api/federation",
    "/api/federation/key",
    "/api/federation/peers",
    "/api/federation/peers/{name}",
    "/api/federation/peers/{name}/pause",
    "/api/federation/peers/{name}/resume",
    "/klp/messages",
    "/klp/changes",
    "/agents",
    "/agents/heartbeat",
    "/status",
    "/healthz",
    "/api/cluster/tokens",
    "/api/cluster/tokens/{id}",
    "/livez",
    "/readyz",
    "/metrics",
    "/openapi.json",
    "/",
    "/docs",
    "/v1/agents",
    "/v1/agents/discover",
    "/v1/agents/{id}/heartbeat",
    "/v1/agents/{id}",
    "/v1/events",
    "/v1/events/{id}",
    "/v1/schemas",
    "/v1/schemas/{id}/validate",
    "/v1/schemas/{id}/compatibility",
    "/v1/schemas/{id}",
    "/v1/schemas/{id}/versions/{version}",
    "/health",
];

/// What is at no route.
const ELSEWHERE: &str = "none";

const METHODS: &[&str] = &["GET", "POST", "PUT", "DELETE", "other"];

const CLASSES: &[&str] = &["1xx", "2xx", "3xx", "4xx", "5xx"];

/// A route with a method.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Route {
    route: usize,
    method: usize,
}

impl Route {
    pub(crate) fn of(method: &Method, path: &str) -> Self {
        let path = protolink::without_namespace(path);
        let route = ROUTES.iter().position(|route| *route == path).or_else(|| {
            ROUTES.iter().position(|route| {
                // Most are told apart by what they begin with.
                if !route.split('{').next().is_some_and(|fixed| path.starts_with(fixed)) {
                    return false;
                }
                let (mut parts, mut wanted) = (path.split('/'), route.split('/'));
                let fits = |part: &str, wanted: &str| {
                    if wanted.starts_with('{') { !part.is_empty() } else { part == wanted }
                };
                wanted.all(|wanted| parts.next().is_some_and(|part| fits(part, wanted))) && parts.next().is_none()
            })
        });
        let method = METHODS.iter().position(|known| *known == method.as_str()).unwrap_or(METHODS.len() - 1);
        Self { route: route.unwrap_or(ROUTES.len()), method }
    }

    pub(crate) fn template(self) -> &'static str {
        ROUTES.get(self.route).copied().unwrap_or(ELSEWHERE)
    }

    pub(crate) fn method(self) -> &'static str {
        METHODS[self.method]
    }
}

#[derive(Debug)]
struct Cell {
    classes: [Counter; CLASSES.len()],
    durations: Histogram,
}

/// What was answered.
#[derive(Debug)]
pub(crate) struct Http(Box<[Cell]>);

impl Default for Http {
    fn default() -> Self {
        let cell = || Cell { classes: Default::default(), durations: Histogram::of_durations() };
        Self((0..(ROUTES.len() + 1) * METHODS.len()).map(|_| cell()).collect())
    }
}

impl Http {
    /// `took` is none for a request that waited because it was asked to.
    pub(crate) fn answered(&self, route: Route, status: StatusCode, took: Option<Duration>) {
        let cell = &self.0[route.route * METHODS.len() + route.method];
        let class = usize::from(status.as_u16() / 100).clamp(1, CLASSES.len());
        cell.classes[class - 1].add(1);
        if let Some(took) = took {
            cell.durations.observe_duration(took);
        }
    }

    /// Requests that were answered, and those that were refused or failed.
    pub(crate) fn succeeded_and_failed(&self) -> (u64, u64) {
        let of = |classes: std::ops::Range<usize>| {
            self.0.iter().flat_map(|cell| &cell.classes[classes.clone()]).map(Counter::get).sum()
        };
        (of(0..3), of(3..CLASSES.len()))
    }

    /// With their routes and methods.
    fn cells(&self) -> impl Iterator<Item = (Route, &Cell)> {
        self.0.iter().enumerate().map(|(at, cell)| {
            let route = Route { route: at / METHODS.len(), method: at % METHODS.len() };
            (route, cell)
        })
    }
}

pub(super) struct Collected(pub(super) Arc<EdgeMetrics>);

impl fmt::Debug for Collected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Collected")
    }
}

impl Collector for Collected {
    fn encode(&self, encoder: DescriptorEncoder) -> fmt::Result {
        let mut writer = Writer(encoder);
        let requests = self.0.http.cells().flat_map(|(route, cell)| {
            let classes = CLASSES.iter().zip(&cell.classes).filter(|(_, count)| count.get() > 0);
            classes.map(move |(class, count)| {
                let labels = [("route", route.template()), ("method", route.method()), ("status", *class)];
                (labels, count.get())
            })
        });
        writer.counters("http_requests", "Requests answered, by route, method and class of status.", requests)?;
        let durations: Vec<([(&str, &str); 2], Counts)> = self
            .0
            .http
            .cells()
            .map(|(route, cell)| ([("route", route.template()), ("method", route.method())], cell.durations.counts()))
            .filter(|(_, counts)| counts.counts.iter().any(|count| *count > 0))
            .collect();
        writer.histograms(
            "http_request_duration",
            "From a request's head to its answer's, by route and method, without long polls that were asked to wait.",
            Some(Unit::Seconds),
            NS_PER_SECOND,
            durations.iter().map(|(labels, counts)| (*labels, counts)),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A route that is added to the contract and not here would be counted as none.
    #[test]
    fn every_route_of_the_contract_is_counted_as_itself() {
        let document = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/openapi.json");
        let document: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(document).unwrap()).unwrap();
        let paths = document["paths"].as_object().unwrap();
        assert_eq!(paths.len(), ROUTES.len());
        for (template, item) in paths {
            for method in item.as_object().unwrap().keys() {
                let method = Method::from_bytes(method.to_ascii_uppercase().as_bytes()).unwrap();
                let path = template
                    .replace("{id}", "a-1")
                    .replace("{version}", "1.0.0")
                    .replace("{owner}", "me")
                    .replace("{name}", "east");
                let route = Route::of(&method, &path);
                assert_eq!((route.template(), route.method()), (template.as_str(), method.as_str()));
            }
        }
    }

    #[test]
    fn what_is_below_a_namespace_is_counted_as_what_is_above() {
        assert_eq!(Route::of(&Method::GET, "/ns/a/agents").template(), "/agents");
        assert_eq!(Route::of(&Method::POST, "/ns/a/agents/heartbeat").template(), "/agents/heartbeat");
        for path in ["/ns/a", "/ns//agents", "/ns/a/api/services", "/ns/a/ns/b/agents"] {
            assert_eq!(Route::of(&Method::GET, path).template(), ELSEWHERE, "{path}");
        }
    }

    #[test]
    fn what_clients_make_up_adds_no_series() {
        for path in
            ["//", "/api/services/a/b", "/api/services//heartbeat", "/api/services/a/heartbeat/x", "/favicon.ico"]
        {
            assert_eq!(Route::of(&Method::GET, path).template(), ELSEWHERE, "{path}");
        }
        assert_eq!(Route::of(&Method::from_bytes(b"BREW").unwrap(), "/livez").method(), "other");
    }
}
