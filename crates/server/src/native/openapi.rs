//! The contract as a document, made from the code that keeps it.

use std::collections::btree_map::Entry;
use std::sync::LazyLock;

use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use rollcall_api::header as names;
use rollcall_api::watch::{Reached, ServiceUpdate, Snapshot, WsRequest, WsResponse};
use utoipa::openapi::path::{Operation, Parameter, ParameterBuilder, ParameterIn};
use utoipa::openapi::schema::{ArrayBuilder, ObjectBuilder, Type};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{self, ContentBuilder, Ref, RefOr, Required, ResponseBuilder};
use utoipa::{Modify, OpenApi};

use super::{
    access_tokens, alerts, backup, checks, cluster, discovery, federation, health, heartbeats, join_tokens, klp,
    members, orders, pages, pick, protection, quota, ranking, services, signatures, socket, watch,
};
use crate::auth;
use crate::faces::protolink;
use crate::faces::soorma::{self, agents, events, schemas};

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Rollcall",
        description = "The live roll of agents and services: who is here now, what they can do, and how to reach them.\n\n\
            Answers carry `Rollcall-Node` and `Rollcall-Revision`, those of reads `Rollcall-Staleness-Ms`.",
        license(name = "Apache-2.0", identifier = "Apache-2.0"),
    ),
    modifiers(&Conventions),
    paths(
        services::register,
        services::get,
        services::deregister,
        heartbeats::heartbeat,
        heartbeats::heartbeats,
        discovery::discover,
        pick::pick,
        watch::watch,
        socket::socket,
        access_tokens::create,
        access_tokens::list,
        access_tokens::rotate,
        access_tokens::revoke,
        orders::maintain,
        orders::end_maintenance,
        orders::drain,
        orders::end_drain,
        orders::list,
        ranking::trusted,
        ranking::trust,
        ranking::forget_trust,
        ranking::show,
        ranking::set,
        ranking::reset,
        quota::show,
        quota::set,
        quota::clear,
        checks::show,
        checks::set,
        checks::reset,
        alerts::list,
        alerts::set,
        alerts::remove,
        alerts::test,
        protection::show,
        protection::set,
        protection::reset,
        protection::release,
        cluster::status,
        cluster::digest,
        members::add,
        members::promote,
        members::demote,
        members::remove,
        members::replace,
        members::relocate,
        members::transfer,
        join_tokens::create,
        join_tokens::list,
        join_tokens::revoke,
        backup::backup,
        signatures::of_service,
        signatures::mode,
        signatures::set_mode,
        signatures::unset_mode,
        signatures::owner_keys,
        signatures::put_owner_key,
        signatures::remove_owner_key,
        federation::status,
        federation::key,
        federation::add,
        federation::remove,
        federation::pause,
        federation::resume,
        klp::messages,
        klp::changes,
        protolink::register,
        protolink::unregister,
        protolink::heartbeat,
        protolink::discover,
        protolink::status_page,
        protolink::healthz,
        health::livez,
        health::readyz,
        health::metrics,
        document,
        pages::root,
        pages::docs,
        agents::register,
        agents::list,
        agents::discover,
        agents::heartbeat,
        agents::deregister,
        events::define,
        events::list,
        events::remove,
        schemas::define,
        schemas::list,
        schemas::latest,
        schemas::version,
        schemas::remove,
        schemas::validate,
        schemas::compatibility,
        schemas::set_compatibility,
        soorma::health,
    ),
    components(schemas(ServiceUpdate, Snapshot, Reached, WsRequest, WsResponse)),
    tags(
        (name = "services", description = "The roll"),
        (name = "heartbeats", description = "Staying on it"),
        (name = "tokens", description = "Who may do what, where the cluster asks who asks"),
        (name = "operators", description = "What operators order and lay down for a tenant"),
        (name = "cluster", description = "The nodes that keep it"),
        (name = "signatures", description = "Who signs what"),
        (name = "federation", description = "Other clusters, and what they tell: FEDERATION.md"),
        (name = "protolink", description = "The registry contract of Protolink, for its agents; each path also below `/ns/{tenant}`"),
        (name = "health", description = "For orchestrators"),
        (name = "pages", description = "For people"),
        (name = "soorma", description = "The registry contract of Soorma, see FACES.md"),
    ),
)]
struct Document;

/// What holds for every operation and is therefore said in one place.
struct Conventions;

impl Modify for Conventions {
    fn modify(&self, document: &mut openapi::OpenApi) {
        let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).description(Some(BEARER)).build();
        let components = document.components.get_or_insert_default();
        components.add_security_scheme("bearer", SecurityScheme::Http(bearer));
        for (path, item) in &mut document.paths.paths {
            let operations = [
                ("GET", &mut item.get),
                ("POST", &mut item.post),
                ("PUT", &mut item.put),
                ("DELETE", &mut item.delete),
            ];
            for (method, operation) in operations {
                let Some(operation) = operation else { continue };
                if !auth::is_open(path, method) {
                    close(operation);
                }
                if matches!(operation.operation_id.as_deref(), Some("discover" | "pick")) {
                    operation.parameters.get_or_insert_default().splice(..0, filters().chain(rank()));
                } else if operation.operation_id.as_deref() == Some("watch") {
                    operation.parameters.get_or_insert_default().splice(..0, filters());
                }
                if ["/api/", "/agents", "/status"].iter().any(|beginning| path.starts_with(beginning)) {
                    operation.parameters.get_or_insert_default().extend(common_headers());
                }
                // Other contracts have their own way to say no.
                if operation.tags.iter().flatten().any(|tag| tag == "soorma") {
                    continue;
                }
                for (status, response) in &mut operation.responses.responses {
                    let RefOr::T(response) = response else { continue };
                    if status.starts_with(['4', '5'])
                        && let Some(problem) = response.content.shift_remove("application/json")
                    {
                        response.content.insert(names::PROBLEM_JSON.to_owned(), problem);
                    }
                }
            }
        }
    }
}

const BEARER: &str = "A token of the cluster (`rctoken-…`) or a JSON Web Token, where `auth` is set.";

/// Says what is said to whoever may not, where the cluster wants to know who asks, and to whoever has enough.
fn close(operation: &mut Operation) {
    let bearer = SecurityRequirement::new::<_, [String; 0], String>("bearer", []);
    operation.security = Some(vec![bearer, SecurityRequirement::default()]);
    let is_of = |face: &str| operation.tags.iter().flatten().any(|tag| tag == face);
    let (of_soorma, of_protolink) = (is_of("soorma"), is_of("protolink"));
    let unknown = match of_protolink {
        true => "`{\"error\": …}`: who asks is not known",
        false => "`token_missing`, `token_invalid`, `token_expired`, `token_revoked`: who asks is not known",
    };
    for (status, description) in [
        ("401", unknown),
        ("403", "`forbidden`: who asks may not; the detail names what is needed"),
        ("429", "`quota_exceeded`: the tenant has, or sends, as much as it may"),
    ] {
        let said = ResponseBuilder::new().description(description);
        let said = match of_soorma || of_protolink && status == "401" {
            true => said,
            false => {
                let problem = ContentBuilder::new().schema(Some(Ref::from_schema_name("Problem"))).build();
                said.content("application/json", problem)
            }
        };
        match operation.responses.responses.entry(status.to_owned()) {
            Entry::Vacant(entry) => {
                entry.insert(RefOr::T(said.build()));
            }
            Entry::Occupied(mut entry) => {
                if let RefOr::T(response) = entry.get_mut() {
                    response.description = format!("{}; {description}", response.description);
                }
            }
        }
    }
}

/// What discovery and watching are filtered by.
fn filters() -> impl Iterator<Item = Parameter> {
    let texts = || ArrayBuilder::new().items(ObjectBuilder::new().schema_type(Type::String)).build();
    let filters = [
        ("name", "Service name"),
        ("type", "Sort of thing: agent, tool, service, api, device, node, gateway, validator"),
        ("tags", "All of these"),
        ("capabilities", "All of these, by name"),
        ("status", "active, degraded, maintenance, error, offline; default: everything but `offline`"),
        ("visibility", "private, internal, restricted, public"),
        ("owner", "Owner"),
        ("protocol", "http, https, ws, klp, grpc, mqtt"),
        ("version", "Semver range (`^1.2`, `>=1.0, <2.0`, `1.x`); a comma belongs to the range"),
        ("consumed_event", "Consumes it"),
        ("produced_event", "Produces it"),
        ("region", "Region"),
        ("zone", "Zone"),
        ("selector", "Over metadata: `env=prod,tier in (a,b),!canary`; all must hold"),
    ];
    filters.into_iter().map(move |(name, description)| {
        ParameterBuilder::new()
            .name(name)
            .parameter_in(ParameterIn::Query)
            .required(Required::False)
            .schema(Some(texts()))
            .description(Some(description))
            .build()
    })
}

/// By what results are ranked.
fn rank() -> impl Iterator<Item = Parameter> {
    let text = || ObjectBuilder::new().schema_type(Type::String).build();
    let number = || ObjectBuilder::new().schema_type(Type::Number).build();
    let parameters = [
        (
            "rank_weights",
            text(),
            "`capability:0.4,health:0.3,proximity:0.2,trust:0.1`; what is left out counts nothing",
        ),
        ("preferred_capabilities", text(), "Wanted, but not demanded: the more of these, the better"),
        ("requester_region", text(), "Where the requester is"),
        ("requester_zone", text(), "Where the requester is"),
        ("requester_latitude", number(), "Where the requester is, -90 to 90; with `requester_longitude`"),
        ("requester_longitude", number(), "Where the requester is, -180 to 180"),
        ("requester_id", text(), "Who asks: an instance's id, whose locality is the requester's unless that is said"),
        ("explain", ObjectBuilder::new().schema_type(Type::Boolean).build(), "Show what each rank came of"),
    ];
    parameters.into_iter().map(|(name, schema, description)| {
        ParameterBuilder::new()
            .name(name)
            .parameter_in(ParameterIn::Query)
            .required(Required::False)
            .schema(Some(schema))
            .description(Some(description))
            .build()
    })
}

fn common_headers() -> [Parameter; 4] {
    let header = |name: &str, schema_type, description: &str| {
        ParameterBuilder::new()
            .name(name)
            .parameter_in(ParameterIn::Header)
            .required(Required::False)
            .schema(Some(ObjectBuilder::new().schema_type(schema_type)))
            .description(Some(description))
            .build()
    };
    [
        header("X-Tenant-ID", Type::String, "Whose roll is meant; if absent the token's, else `default`"),
        header("X-Request-Timeout-Ms", Type::Integer, "How long the answer may take, 1 to 60000, default 10000"),
        header("X-Request-ID", Type::String, "Names the request in logs; made up if absent"),
        header("traceparent", Type::String, "W3C trace context"),
    ]
}

static TEXT: LazyLock<String> = LazyLock::new(|| {
    let text = Document::openapi().to_pretty_json().expect("an OpenAPI document has no failing serializer");
    text + "\n"
});

/// This document
#[utoipa::path(
    get, path = "/openapi.json", tag = "health", operation_id = "openapi",
    responses((status = 200, description = "OpenAPI 3.1", body = serde_json::Value)),
)]
pub(super) async fn document() -> Response {
    let content_type = (header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    ([content_type], TEXT.as_str()).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    /// `UPDATE_GOLDEN=1` writes the file anew.
    #[test]
    fn the_document_in_docs_is_this_one() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/openapi.json");
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(&path, TEXT.as_str()).unwrap();
        }
        let golden = std::fs::read_to_string(&path).unwrap();
        assert!(golden == *TEXT, "docs/openapi.json is not what the code says; UPDATE_GOLDEN=1 writes it anew");
    }
}
