//! What each route asks of whoever calls it. What is not in the table asks for a token all the same, so that a route that is
//! forgotten here is closed rather than open.

use axum::http::Method;
use rollcall_registry::{AccessRole, Verb};

use crate::metrics::Route;

/// What a principal must have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Need {
    pub(super) role: AccessRole,
    pub(super) verb: Verb,
    /// What belongs to no tenant, or tells of all.
    pub(super) everywhere: bool,
}

/// What a route asks for; none if it is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    /// Probes ask without a token, and the contract and the pages hold nothing that is anybody's.
    Open,
    Needs(Need),
}

const fn needs(role: AccessRole, verb: Verb) -> Access {
    Access::Needs(Need { role, verb, everywhere: false })
}

const fn everywhere(role: AccessRole, verb: Verb) -> Access {
    Access::Needs(Need { role, verb, everywhere: true })
}

const READ: Access = needs(AccessRole::Reader, Verb::Read);
const WATCH: Access = needs(AccessRole::Reader, Verb::Watch);
const REGISTER: Access = needs(AccessRole::Agent, Verb::Register);
const HEARTBEAT: Access = needs(AccessRole::Agent, Verb::Heartbeat);
const DEREGISTER: Access = needs(AccessRole::Agent, Verb::Deregister);
const DEFINE: Access = needs(AccessRole::Agent, Verb::Define);
const ADMINISTER: Access = needs(AccessRole::Admin, Verb::Administer);
/// Counts and digests tell of all tenants.
const READ_ALL: Access = everywhere(AccessRole::Reader, Verb::Read);
/// What tells of all of a tenant's, seen by whoever asks or not.
const AUDIT_TENANT: Access = needs(AccessRole::Operator, Verb::Read);
const OPERATE: Access = everywhere(AccessRole::Operator, Verb::Operate);
/// What an operator says of a tenant's own.
const DIRECT: Access = needs(AccessRole::Operator, Verb::Operate);
/// A backup holds everything of everybody.
const TAKE_ALL: Access = everywhere(AccessRole::Admin, Verb::Administer);

const METRICS: &str = "/metrics";

/// Pages' scripts and styles, which are no part of the contract.
const PAGES: &str = "/pages/";

/// By route and method.
const TABLE: &[(&str, &[(&str, Access)])] = &[
    ("/api/services/register", &[("POST", REGISTER)]),
    ("/api/services/{id}/heartbeat", &[("POST", HEARTBEAT)]),
    ("/api/heartbeats", &[("POST", HEARTBEAT)]),
    ("/api/services", &[("GET", READ)]),
    ("/api/services/pick", &[("GET", READ)]),
    ("/api/services/{id}/maintenance", &[("PUT", DIRECT), ("DELETE", DIRECT)]),
    ("/api/services/{id}/drain", &[("PUT", DIRECT), ("DELETE", DIRECT)]),
    ("/api/orders", &[("GET", READ)]),
    ("/api/trust", &[("GET", READ)]),
    ("/api/trust/{owner}", &[("PUT", DIRECT), ("DELETE", DIRECT)]),
    ("/api/ranking", &[("GET", READ), ("PUT", DIRECT), ("DELETE", DIRECT)]),
    ("/api/quota", &[("GET", AUDIT_TENANT), ("PUT", OPERATE), ("DELETE", OPERATE)]),
    ("/api/checks", &[("GET", READ), ("PUT", DIRECT), ("DELETE", DIRECT)]),
    ("/api/protection", &[("GET", DIRECT), ("PUT", DIRECT), ("DELETE", DIRECT)]),
    ("/api/protection/release", &[("POST", DIRECT)]),
    ("/api/alerts", &[("GET", DIRECT)]),
    ("/api/alerts/{name}", &[("PUT", DIRECT), ("DELETE", DIRECT)]),
    ("/api/alerts/{name}/test", &[("POST", DIRECT)]),
    ("/api/services/watch", &[("GET", WATCH)]),
    ("/ws/registry", &[("GET", WATCH)]),
    ("/api/services/{id}", &[("GET", READ), ("DELETE", DEREGISTER)]),
    ("/api/services/{id}/signature", &[("GET", READ)]),
    ("/api/signatures", &[("GET", READ), ("PUT", DIRECT), ("DELETE", DIRECT)]),
    ("/api/owner-keys", &[("GET", READ)]),
    ("/api/owner-keys/{owner}", &[("PUT", DIRECT), ("DELETE", DIRECT)]),
    ("/api/tokens", &[("GET", ADMINISTER), ("POST", ADMINISTER)]),
    ("/api/tokens/{id}", &[("DELETE", ADMINISTER)]),
    ("/api/tokens/{id}/rotate", &[("POST", ADMINISTER)]),
    ("/api/cluster/status", &[("GET", READ)]),
    ("/api/cluster/digest", &[("GET", READ_ALL)]),
    ("/api/cluster/backup", &[("GET", TAKE_ALL)]),
    ("/api/cluster/members", &[("POST", OPERATE)]),
    ("/api/cluster/members/{id}", &[("DELETE", OPERATE)]),
    ("/api/cluster/members/{id}/promote", &[("POST", OPERATE)]),
    ("/api/cluster/members/{id}/demote", &[("POST", OPERATE)]),
    ("/api/cluster/members/{id}/replace", &[("POST", OPERATE)]),
    ("/api/cluster/members/{id}/address", &[("POST", OPERATE)]),
    ("/api/cluster/leader", &[("POST", OPERATE)]),
    ("/api/cluster/tokens", &[("GET", OPERATE), ("POST", OPERATE)]),
    ("/api/cluster/tokens/{id}", &[("DELETE", OPERATE)]),
    ("/api/federation", &[("GET", OPERATE)]),
    ("/api/federation/key", &[("POST", OPERATE)]),
    ("/api/federation/peers", &[("POST", TAKE_ALL)]),
    ("/api/federation/peers/{name}", &[("DELETE", TAKE_ALL)]),
    ("/api/federation/peers/{name}/pause", &[("POST", OPERATE)]),
    ("/api/federation/peers/{name}/resume", &[("POST", OPERATE)]),
    // What other clusters say proves by its signature whose it is.
    ("/klp/messages", &[("POST", Access::Open)]),
    ("/klp/changes", &[("POST", Access::Open)]),
    ("/agents", &[("GET", READ), ("POST", REGISTER), ("DELETE", DEREGISTER)]),
    ("/agents/heartbeat", &[("POST", HEARTBEAT)]),
    ("/status", &[("GET", READ)]),
    ("/healthz", &[("GET", Access::Open)]),
    ("/livez", &[("GET", Access::Open)]),
    ("/readyz", &[("GET", Access::Open)]),
    (METRICS, &[("GET", READ_ALL)]),
    ("/openapi.json", &[("GET", Access::Open)]),
    ("/", &[("GET", Access::Open)]),
    ("/docs", &[("GET", Access::Open)]),
    ("/v1/agents", &[("GET", READ), ("POST", REGISTER)]),
    ("/v1/agents/discover", &[("GET", READ)]),
    ("/v1/agents/{id}/heartbeat", &[("POST", HEARTBEAT), ("PUT", HEARTBEAT)]),
    ("/v1/agents/{id}", &[("DELETE", DEREGISTER)]),
    ("/v1/events", &[("GET", READ), ("POST", DEFINE)]),
    ("/v1/events/{id}", &[("DELETE", DEFINE)]),
    ("/v1/schemas", &[("GET", READ), ("POST", DEFINE)]),
    ("/v1/schemas/{id}", &[("GET", READ)]),
    ("/v1/schemas/{id}/versions/{version}", &[("GET", READ), ("DELETE", DEFINE)]),
    ("/v1/schemas/{id}/validate", &[("POST", READ)]),
    ("/v1/schemas/{id}/compatibility", &[("GET", READ), ("PUT", DEFINE)]),
    ("/health", &[("GET", Access::Open)]),
];

/// What is asked of a request. `metrics_open` is whether everybody may read the metrics.
pub(super) fn access(route: Route, method: &Method, path: &str, metrics_open: bool) -> Access {
    // Browsers ask by it whether they may ask, without a token.
    if *method == Method::OPTIONS || path.starts_with(PAGES) {
        return Access::Open;
    }
    let template = route.template();
    if metrics_open && template == METRICS {
        return Access::Open;
    }
    // The router answers it like a GET.
    let method = if *method == Method::HEAD { "GET" } else { method.as_str() };
    let row = TABLE.iter().find(|(route, _)| *route == template);
    let access = row.and_then(|(_, methods)| methods.iter().find(|(known, _)| *known == method));
    access.map_or(READ, |(_, access)| *access)
}

/// Whether an operation of the contract asks for nothing.
pub(crate) fn is_open(template: &str, method: &str) -> bool {
    let row = TABLE.iter().find(|(route, _)| *route == template);
    let mut methods = row.into_iter().flat_map(|(_, methods)| methods.iter());
    methods.any(|(known, access)| *known == method && *access == Access::Open)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A route that is added to the contract and not here would be open to every token.
    #[test]
    fn every_operation_of_the_contract_has_its_row() {
        let document = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/openapi.json");
        let document: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(document).unwrap()).unwrap();
        let mut operations = Vec::new();
        for (path, item) in document["paths"].as_object().unwrap() {
            operations.extend(item.as_object().unwrap().keys().map(|method| (path.as_str(), method.to_uppercase())));
        }
        let mut rows: Vec<_> = TABLE
            .iter()
            .flat_map(|(path, methods)| methods.iter().map(|(method, _)| (*path, (*method).to_owned())))
            // By POST too, as the original server has it; the contract names one of the two.
            .filter(|row| *row != ("/v1/agents/{id}/heartbeat", "POST".to_owned()))
            .collect();
        operations.sort();
        rows.sort();
        assert_eq!(rows, operations);
    }

    #[test]
    fn what_is_not_known_is_not_open() {
        let of = |method: &str, path: &str| {
            let method = Method::from_bytes(method.as_bytes()).unwrap();
            access(Route::of(&method, path), &method, path, false)
        };
        for (method, path) in [
            ("GET", "/nowhere"),
            ("PUT", "/livez"),
            ("BREW", "/api/services"),
            ("GET", "/ns/a/api/services"),
            ("GET", "/pages"),
        ] {
            assert_eq!(of(method, path), READ, "{method} {path}");
        }
        assert_eq!(of("HEAD", "/api/cluster/backup"), TAKE_ALL);
        assert_eq!(of("POST", "/ns/a/agents"), REGISTER);
        assert_eq!(of("OPTIONS", "/v1/agents"), Access::Open);
        for path in ["/livez", "/ns/a/healthz", "/pages/style.css", "/"] {
            assert_eq!(of("GET", path), Access::Open, "{path}");
        }
    }

    #[test]
    fn metrics_are_open_where_it_is_said() {
        let route = Route::of(&Method::GET, METRICS);
        assert_eq!(access(route, &Method::GET, METRICS, false), READ_ALL);
        assert_eq!(access(route, &Method::GET, METRICS, true), Access::Open);
    }
}
