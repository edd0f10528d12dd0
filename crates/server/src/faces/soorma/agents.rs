//! Agents: registered, kept alive, found and taken off.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use axum::extract::{Request, State};
use axum::http::{StatusCode, Uri};
use axum::response::Response;
use rollcall_api::HeartbeatRequest;
use rollcall_registry::query::LIMIT_MAX;
use rollcall_registry::{
    Condition, FederatedPage, Filter, InstanceId, LeaseId, Position, Query, Ranking, Refusal, Revision, Sort, Status,
    TenantId, View, Viewer,
};
use serde_json::json;

use super::fields::Faults;
use super::wire::AgentDefinition;
use super::{Caller, Named, current, listed, params, parsed, translate, wire};
use crate::faces::AVAILABLE;
use crate::native::{Native, json as answer, json_text};
use crate::params::Last;
use crate::reply::{self, Failure, Shown};
use crate::request::Context;

/// Instances looked through for one answer, which the contract does not divide into pages.
const SCANNED_MAX: u64 = 100_000;

/// Bytes of one answer: some ten thousand agents.
const ANSWER_BYTES_MAX: usize = 16 << 20;

/// Register an agent
///
/// Upsert by agent id. Events that are not given are those of the capabilities.
#[utoipa::path(
    post, path = "/v1/agents", tag = "soorma", operation_id = "soormaRegisterAgent",
    request_body(content = AgentDefinition, description = "Under the member `agent`"),
    responses(
        (status = 200, description = "`{agentId, success, message}`", body = Value),
        (status = 401, description = "No valid token, where tokens are checked", body = Value),
        (status = 403, description = "Signatures are required, or the owner of the id has a key", body = Value),
        (status = 422, description = "Faulty; every fault is named", body = Value),
        (status = 503, description = "Not applied", body = Value),
    ),
)]
pub(crate) async fn register(
    State(native): State<Native>,
    Caller(context): Caller,
    request: Request,
) -> Result<Response, Failure> {
    let agent = parsed(&native, &context, request, wire::agent).await?;
    let id = agent.agent_id.clone();
    let registration = translate::registration(agent, &native.soorma).pack();
    let registered = native.register(&context, registration, Condition::None, None).await??;
    let word = if registered.created { "registered" } else { "updated" };
    let message = format!("Agent '{id}' {word} successfully.");
    let mut response = answer(StatusCode::OK, &json!({ "agentId": id, "success": true, "message": message }));
    reply::written(&mut response, registered.revision);
    Ok(response)
}

/// Refresh an agent's heartbeat
///
/// One that has expired and is not cleaned up yet comes back.
#[utoipa::path(
    put, path = "/v1/agents/{id}/heartbeat", tag = "soorma", operation_id = "soormaHeartbeat",
    params(("id" = String, Path, description = "The agent")),
    responses(
        (status = 200, description = "`{agentId, success, message}`", body = Value),
        (status = 401, description = "No valid token, where tokens are checked", body = Value),
        (status = 404, description = "Unknown: register again", body = Value),
        (status = 503, description = "Not applied", body = Value),
    ),
)]
pub(crate) async fn heartbeat(
    State(native): State<Native>,
    Caller(context): Caller,
    Named(id): Named<String>,
) -> Result<Response, Failure> {
    let unknown = || Failure::new(StatusCode::NOT_FOUND, "lease_not_found", format!("Agent '{id}' not found."));
    let instance = InstanceId::parse(&id).map_err(|_| unknown())?;
    let beaten = native.beat(&context, &instance, HeartbeatRequest::default()).await.and_then(|beaten| Ok(beaten?));
    let beaten = beaten.map_err(|failure| if failure.code() == "lease_not_found" { unknown() } else { failure })?;
    let message = format!("Agent '{id}' heartbeat refreshed successfully.");
    let mut response = answer(StatusCode::OK, &json!({ "agentId": id, "success": true, "message": message }));
    reply::written(&mut response, beaten.revision);
    Ok(response)
}

/// Take an agent off, with all its capabilities
#[utoipa::path(
    delete, path = "/v1/agents/{id}", tag = "soorma", operation_id = "soormaDeregister",
    params(("id" = String, Path, description = "The agent")),
    responses(
        (status = 204, description = "Gone"),
        (status = 401, description = "No valid token, where tokens are checked", body = Value),
        (status = 404, description = "Unknown", body = Value),
        (status = 503, description = "Not applied", body = Value),
    ),
)]
pub(crate) async fn deregister(
    State(native): State<Native>,
    Caller(context): Caller,
    Named(id): Named<String>,
) -> Result<Response, Failure> {
    let unknown = || Failure::new(StatusCode::NOT_FOUND, "not_found", format!("Agent '{id}' not found"));
    let instance = InstanceId::parse(&id).map_err(|_| unknown())?;
    match native.deregister(&context, instance, None, Condition::None, None).await? {
        Ok(revision) => {
            let mut response = json_text(StatusCode::NO_CONTENT, Vec::new());
            reply::written(&mut response, revision);
            Ok(response)
        }
        Err(Refusal::NotRegistered) => Err(unknown()),
        Err(refusal) => Err(refusal.into()),
    }
}

/// Find agents
///
/// The first of `agent_id`, `name`, `consumed_event` and `produced_event` that is given decides. Of agents that share a
/// name and version, the one with the latest heartbeat is shown.
#[utoipa::path(
    get, path = "/v1/agents", tag = "soorma", operation_id = "soormaAgents",
    params(
        ("agent_id" = Option<String>, Query, description = "The agent with this id"),
        ("name" = Option<String>, Query, description = "Contained in the name, in upper or lower case"),
        ("consumed_event" = Option<String>, Query, description = "Consumed"),
        ("produced_event" = Option<String>, Query, description = "Produced"),
        ("include_expired" = Option<bool>, Query, description = "Those that wait to be cleaned up too"),
        ("include_federated" = Option<bool>, Query, description = "Those of other clusters too"),
    ),
    responses(
        (status = 200, description = "`{agents: […], count}`, by name", body = Value),
        (status = 400, description = "The answer would be too large", body = Value),
        (status = 401, description = "No valid token, where tokens are checked", body = Value),
        (status = 422, description = "Faulty; every fault is named", body = Value),
        (status = 503, description = "This node cannot tell now", body = Value),
    ),
)]
pub(crate) async fn list(
    State(native): State<Native>,
    Caller(context): Caller,
    uri: Uri,
) -> Result<Response, Failure> {
    let params = params(&uri);
    let wider = wider(&params)?;
    let wanted = match params.first_of(&[
        &["agent_id", "agentId"],
        &["name"],
        &["consumed_event", "consumedEvent"],
        &["produced_event", "producedEvent"],
    ]) {
        None => Wanted::All,
        Some((0, id)) => Wanted::Id(id),
        Some((1, part)) => Wanted::Named(part.to_lowercase()),
        Some((2, event)) => Wanted::Consumes(event),
        Some((_, event)) => Wanted::Produces(event),
    };
    found(&native, &context, &wanted, wider).await
}

/// Find agents by the event that they consume
#[utoipa::path(
    get, path = "/v1/agents/discover", tag = "soorma", operation_id = "soormaDiscover",
    params(
        ("consumed_event" = Option<String>, Query, description = "Consumed"),
        ("include_expired" = Option<bool>, Query, description = "Those that wait to be cleaned up too"),
        ("include_federated" = Option<bool>, Query, description = "Those of other clusters too"),
    ),
    responses(
        (status = 200, description = "`{agents: […], count}`, by name", body = Value),
        (status = 400, description = "The answer would be too large", body = Value),
        (status = 401, description = "No valid token, where tokens are checked", body = Value),
        (status = 422, description = "Faulty; every fault is named", body = Value),
        (status = 503, description = "This node cannot tell now", body = Value),
    ),
)]
pub(crate) async fn discover(
    State(native): State<Native>,
    Caller(context): Caller,
    uri: Uri,
) -> Result<Response, Failure> {
    let params = params(&uri);
    let wider = wider(&params)?;
    let event = params.first_of(&[&["consumed_event", "consumedEvent"]]);
    let wanted = event.map_or(Wanted::All, |(_, event)| Wanted::Consumes(event));
    found(&native, &context, &wanted, wider).await
}

/// Who is found beside those that are there.
#[derive(Clone, Copy)]
struct Wider {
    /// Those that wait to be cleaned up.
    expired: bool,
    /// Those of other clusters.
    federated: bool,
}

fn wider(params: &Last) -> Result<Wider, Failure> {
    Ok(Wider {
        expired: switch(params, &["include_expired", "includeExpired"])?,
        federated: switch(params, &["include_federated", "includeFederated"])?,
    })
}

/// A switch that may be spelled in several ways, named by the first.
fn switch(params: &Last, names: &[&'static str]) -> Result<bool, Failure> {
    let Some((_, text)) = params.first_of(&[names]) else { return Ok(false) };
    match text.to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" | "on" | "t" | "y" => Ok(true),
        "false" | "0" | "no" | "off" | "f" | "n" => Ok(false),
        _ => {
            let mut faults = Faults::default();
            let place = ["query".into(), names[0].into()];
            faults.push(
                "bool_parsing",
                &place,
                "Input should be a valid boolean, unable to interpret input",
                &text.into(),
            );
            Err(faults.into_failure())
        }
    }
}

/// What is looked for.
enum Wanted {
    All,
    Id(String),
    /// In lower case.
    Named(String),
    Consumes(String),
    Produces(String),
}

impl Wanted {
    fn filter(&self, viewer: &Viewer, expired: bool) -> Filter {
        let (mut consumed_events, mut produced_events) = (Vec::new(), Vec::new());
        match self {
            Self::Consumes(event) => consumed_events.push(event.as_str().into()),
            Self::Produces(event) => produced_events.push(event.as_str().into()),
            Self::All | Self::Id(_) | Self::Named(_) => {}
        }
        let statuses = match self {
            _ if expired => Status::ALL.to_vec(),
            // Whoever knows it by its id may be itself.
            Self::Id(_) => Vec::new(),
            Self::All | Self::Named(_) | Self::Consumes(_) | Self::Produces(_) => AVAILABLE.to_vec(),
        };
        Filter { statuses, consumed_events, produced_events, viewer: viewer.clone(), ..Filter::default() }
    }
}

async fn found(native: &Native, context: &Context, wanted: &Wanted, wider: Wider) -> Result<Response, Failure> {
    let freshness = current(native, context).await?;
    let filter = wanted.filter(&context.viewer, wider.expired);
    let is_federated = wider.federated;
    let (agents, revision) = match wanted {
        Wanted::Id(id) => one(native, &context.tenant, id, &filter, is_federated),
        Wanted::Named(part) => {
            let (agents, revision) = latest(native, &context.tenant, &filter, is_federated)?;
            let agents = agents.into_iter().filter(|(name, _)| name.to_lowercase().contains(part));
            (agents.map(|(_, view)| view).collect(), revision)
        }
        Wanted::All | Wanted::Consumes(_) | Wanted::Produces(_) => {
            let (agents, revision) = latest(native, &context.tenant, &filter, is_federated)?;
            (agents.into_values().collect(), revision)
        }
    };
    let mut texts = Vec::with_capacity(agents.len());
    let mut bytes = 0;
    for view in agents {
        let text = translate::agent_text(&view.instance);
        bytes += text.len();
        if bytes > ANSWER_BYTES_MAX {
            return Err(too_many(format!("more than {ANSWER_BYTES_MAX} bytes of agents")));
        }
        texts.push(text);
    }
    let mut response = json_text(StatusCode::OK, listed("agents", &texts));
    reply::show(&mut response, Shown { revision, freshness });
    Ok(response)
}

fn too_many(what: String) -> Failure {
    let detail = format!("the answer would be {what}; ask for a name or an event, or page through /api/services");
    Failure::new(StatusCode::BAD_REQUEST, "answer_too_large", detail)
}

fn one(native: &Native, tenant: &TenantId, id: &str, filter: &Filter, is_federated: bool) -> (Vec<View>, Revision) {
    native.replica.roll().read(|state| {
        let view = InstanceId::parse(id).ok().and_then(|id| match is_federated {
            true => state.get_federated(tenant, &id, &filter.viewer).map(|(view, _)| view),
            false => state.get(tenant, &id),
        });
        (view.into_iter().filter(|view| filter.matches(&view.instance)).collect(), state.revision())
    })
}

/// When an instance was last heard of: its lease runs for a TTL from there. Of those heard of at once the one that was
/// registered later counts, for it is what the others were restarted as.
fn heard(view: &View) -> (u64, LeaseId) {
    let ttl_ms = u64::from(view.instance.registration.ttl_ms());
    (view.deadline.0.saturating_sub(ttl_ms), view.instance.lease)
}

/// Of all that the filter finds, for each name and version the one last heard of; by name. One of another cluster stands for a
/// name only where this cluster has none, for its heartbeats are not told.
fn latest(
    native: &Native,
    tenant: &TenantId,
    filter: &Filter,
    is_federated: bool,
) -> Result<(BTreeMap<String, View>, Revision), Failure> {
    let mut latest: BTreeMap<String, (View, bool)> = BTreeMap::new();
    let mut page_after: Option<(Position, Revision)> = None;
    loop {
        let (after, revision) = page_after.map_or((None, None), |(after, at)| (Some(after), Some(at)));
        let query = Query {
            tenant: tenant.clone(),
            filter: filter.clone(),
            sort: Sort::Id,
            ranking: Ranking::default(),
            after,
            limit: LIMIT_MAX,
        };
        // Page by page, so that apply is not held up for long; all at one revision.
        let page = native.replica.roll().read(|state| match (is_federated, revision) {
            (true, revision) => state.query_federated(&query, revision),
            (false, None) => Ok(state.query(&query).into()),
            (false, Some(revision)) => state.query_at(&query, revision).map(Into::into),
        });
        let Ok(FederatedPage { page, origins, foreign }) = page else {
            // More changes than are remembered passed since the first page.
            latest.clear();
            page_after = None;
            continue;
        };
        if page.total + foreign > SCANNED_MAX {
            return Err(too_many(format!("{} instances", page.total + foreign)));
        }
        for (n, view) in page.found.into_iter().enumerate() {
            let is_own = origins.get(n).is_none_or(Option::is_none);
            let name = translate::wire_name(&view.instance.registration());
            match latest.entry(name) {
                Entry::Vacant(entry) => {
                    entry.insert((view, is_own));
                }
                Entry::Occupied(mut entry) => {
                    let (known, is_known_own) = entry.get();
                    if (is_own, heard(&view)) > (*is_known_own, heard(known)) {
                        entry.insert((view, is_own));
                    }
                }
            }
        }
        match page.next {
            Some(next) => page_after = Some((next, page.revision)),
            None => {
                let latest = latest.into_iter().map(|(name, (view, _))| (name, view));
                return Ok((latest.collect(), page.revision));
            }
        }
    }
}
