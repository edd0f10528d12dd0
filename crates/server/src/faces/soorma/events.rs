//! Events: what is published where, and what it carries.

use axum::extract::{Request, State};
use axum::http::{StatusCode, Uri};
use axum::response::Response;
use rollcall_registry::{Command, Defined, DefinitionChange, DefinitionContent, DefinitionKey, Outcome, Refusal};
use serde_json::json;

use super::wire::EventDefinition;
use super::{Caller, Named, current, listed, params, parsed, shown, translate, wire};
use crate::native::{Native, json as answer, json_text};
use crate::reply::{self, Failure};
use crate::request::Context;

/// Brings a change of a definition into the log. A refusal comes back for whoever knows the name of what was refused.
pub(super) async fn define_in(
    native: &Native,
    context: &Context,
    change: DefinitionChange,
) -> Result<Result<Defined, Refusal>, Failure> {
    let command = Command::Define { tenant: context.tenant.clone(), change };
    match native.submit(command, context).await?.outcome {
        Outcome::Defined(defined) => Ok(Ok(defined)),
        Outcome::Refused(refusal) => Ok(Err(refusal)),
        other => unreachable!("a definition was answered by {other:?}"),
    }
}

/// Define an event, or replace its definition
#[utoipa::path(
    post, path = "/v1/events", tag = "soorma", operation_id = "soormaDefineEvent",
    request_body(content = EventDefinition, description = "Under the member `event`"),
    responses(
        (status = 200, description = "`{eventName, success, message}`", body = Value),
        (status = 401, description = "No valid token, where tokens are checked", body = Value),
        (status = 413, description = "The tenant has as many definitions as it may", body = Value),
        (status = 422, description = "Faulty; every fault is named", body = Value),
        (status = 503, description = "Not applied", body = Value),
    ),
)]
pub(crate) async fn define(
    State(native): State<Native>,
    Caller(context): Caller,
    request: Request,
) -> Result<Response, Failure> {
    let event = parsed(&native, &context, request, wire::event).await?;
    let name = event.event_name.clone();
    let change = DefinitionChange::Event(translate::event(event));
    let defined = define_in(&native, &context, change).await??;
    let word = if defined.created { "registered" } else { "updated" };
    let message = format!("Event '{name}' {word} successfully.");
    Ok(answer(StatusCode::OK, &json!({ "eventName": name, "success": true, "message": message })))
}

/// Find events
#[utoipa::path(
    get, path = "/v1/events", tag = "soorma", operation_id = "soormaEvents",
    params(
        ("event_name" = Option<String>, Query, description = "The event with this name"),
        ("topic" = Option<String>, Query, description = "Those of this topic"),
    ),
    responses(
        (status = 200, description = "`{events: […], count}`, by name", body = Value),
        (status = 401, description = "No valid token, where tokens are checked", body = Value),
        (status = 503, description = "This node cannot tell now", body = Value),
    ),
)]
pub(crate) async fn list(
    State(native): State<Native>,
    Caller(context): Caller,
    uri: Uri,
) -> Result<Response, Failure> {
    let wanted = params(&uri).first_of(&[&["event_name", "eventName"], &["topic"]]);
    let freshness = current(&native, &context).await?;
    let found: Vec<_> = native.replica.roll().read(|state| {
        let definitions = state.definitions();
        match &wanted {
            Some((0, name)) => {
                let key = wire::definition_name(name).map(DefinitionKey::Event);
                key.and_then(|key| definitions.get(&context.tenant, &key)).cloned().into_iter().collect()
            }
            _ => definitions.events(&context.tenant).cloned().collect(),
        }
    });
    let events = found.iter().filter_map(|definition| match (&definition.content, &wanted) {
        (DefinitionContent::Event(event), Some((1, topic))) if *event.topic != **topic => None,
        (DefinitionContent::Event(event), _) => Some(&event.document),
        (DefinitionContent::Schema(_) | DefinitionContent::Compatibility { .. }, _) => None,
    });
    let mut response = json_text(StatusCode::OK, listed("events", &events.collect::<Vec<_>>()));
    reply::show(&mut response, shown(&native, freshness));
    Ok(response)
}

/// Remove an event's definition
///
/// Not in the original contract: definitions do not lapse, and their number is bounded.
#[utoipa::path(
    delete, path = "/v1/events/{id}", tag = "soorma", operation_id = "soormaRemoveEvent",
    params(("id" = String, Path, description = "The event")),
    responses(
        (status = 204, description = "Gone"),
        (status = 401, description = "No valid token, where tokens are checked", body = Value),
        (status = 404, description = "Unknown", body = Value),
        (status = 503, description = "Not applied", body = Value),
    ),
)]
pub(crate) async fn remove(
    State(native): State<Native>,
    Caller(context): Caller,
    Named(name): Named<String>,
) -> Result<Response, Failure> {
    let unknown = || Failure::new(StatusCode::NOT_FOUND, "not_defined", format!("Event '{name}' not found"));
    let key = wire::definition_name(&name).map(DefinitionKey::Event).ok_or_else(unknown)?;
    removed(define_in(&native, &context, DefinitionChange::Remove(key)).await?, unknown)
}

/// The answer to the removal of a definition.
pub(super) fn removed(
    outcome: Result<Defined, Refusal>,
    unknown: impl FnOnce() -> Failure,
) -> Result<Response, Failure> {
    match outcome {
        Ok(_) => Ok(json_text(StatusCode::NO_CONTENT, Vec::new())),
        Err(Refusal::Definition(rollcall_registry::DefinitionRefusal::NotDefined)) => Err(unknown()),
        Err(refusal) => Err(refusal.into()),
    }
}
