//! Schemas of what events carry: each version is defined once, and the latest is the one that was defined last.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{StatusCode, Uri};
use axum::response::Response;
use rollcall_registry::{
    Compared, Compatibility, Definition, DefinitionChange, DefinitionContent, DefinitionKey, DefinitionName,
    DefinitionRefusal, Refusal, SchemaDefinition,
};
use serde_json::{Value, json};

use super::events::{define_in, removed};
use super::fields::Faults;
use super::wire::{PayloadSchema, Validation};
use super::{Caller, Named, current, listed, params, parsed, shown, translate, wire};
use crate::native::{Native, json as answer, json_text};
use crate::reply::{self, Failure};
use crate::request::Context;
use crate::schema::{self, SchemaError};

/// How often a new version is compared anew because another one came in between.
const COMPARISONS_MAX: usize = 8;

fn not_found(what: &str) -> Failure {
    Failure::new(StatusCode::NOT_FOUND, "not_defined", format!("Schema '{what}' not found"))
}

/// Define a version of a schema
///
/// Where the schema's versions must be compatible, the new one is compared with the latest.
#[utoipa::path(
    post, path = "/v1/schemas", tag = "soorma", operation_id = "soormaDefineSchema",
    request_body(content = PayloadSchema, description = "Under the member `schema`; times are set by the server"),
    responses(
        (status = 200, description = "`{schemaName, version, success, message}`", body = Value),
        (status = 401, description = "No valid token, where tokens are checked", body = Value),
        (status = 409, description = "The version is defined already", body = Value),
        (status = 413, description = "The tenant has as many definitions as it may", body = Value),
        (status = 422, description = "Faulty or not compatible; every fault is named", body = Value),
        (status = 503, description = "Not applied", body = Value),
    ),
)]
pub(crate) async fn define(
    State(native): State<Native>,
    Caller(context): Caller,
    request: Request,
) -> Result<Response, Failure> {
    let schema = translate::schema(parsed(&native, &context, request, wire::schema).await?);
    let (name, version) = (schema.name.clone(), schema.version.clone());
    for _ in 0..COMPARISONS_MAX {
        let compared = compare(&native, &context, &schema).await?;
        let change = DefinitionChange::Schema { schema: schema.clone(), compared };
        match define_in(&native, &context, change).await? {
            Ok(_) => {
                let message = format!("Schema '{name}@{version}' registered successfully.");
                let body = json!({
                    "schemaName": name.as_str(), "version": version.as_str(), "success": true, "message": message,
                });
                return Ok(answer(StatusCode::OK, &body));
            }
            Err(Refusal::Definition(DefinitionRefusal::Exists { .. })) => {
                let detail = format!("Schema '{name}@{version}' already exists for this tenant");
                return Err(Failure::new(StatusCode::CONFLICT, "already_defined", detail));
            }
            Err(Refusal::Definition(DefinitionRefusal::Outdated)) => {}
            Err(refusal) => return Err(refusal.into()),
        }
    }
    Err(Refusal::Definition(DefinitionRefusal::Outdated).into())
}

/// Compares a new version with the latest, if that is demanded. A node that is behind is told so when it proposes.
async fn compare(native: &Native, context: &Context, new: &SchemaDefinition) -> Result<Compared, Failure> {
    let read = || {
        native.replica.roll().read(|state| {
            let definitions = state.definitions();
            let mode = definitions.compatibility(&context.tenant, &new.name);
            let latest = definitions.latest_schema(&context.tenant, &new.name).cloned();
            let key = DefinitionKey::Schema(new.name.clone(), new.version.clone());
            (mode, latest, definitions.get(&context.tenant, &key).is_some())
        })
    };
    // Most schemas need no comparison, and a follower that does not know of one yet is told by the refusal.
    let (mut mode, mut latest, mut exists) = read();
    if mode != Compatibility::None {
        current(native, context).await?;
        (mode, latest, exists) = read();
    }
    let compared = Compared { mode, latest: latest.as_ref().map(|latest| latest.edition) };
    let Some(before) = latest.as_deref().and_then(schema_of) else { return Ok(compared) };
    if mode == Compatibility::None || exists {
        return Ok(compared);
    }
    let (old, latest) = (before.schema.clone(), new.schema.clone());
    let comparing = tokio::task::spawn_blocking(move || {
        let value = |text: &str| serde_json::from_str::<Value>(text).unwrap_or_default();
        schema::incompatibilities(&value(&old), &value(&latest), mode)
    });
    let faults = comparing.await.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()));
    if faults.is_empty() {
        return Ok(compared);
    }
    let mut told = Faults::default();
    for fault in faults {
        let mut place = vec!["body".into(), "schema".into(), "jsonSchema".into()];
        place.extend(fault.path.into_iter().map(Value::from));
        let message = format!("not {mode} compatible with {}@{}: {}", before.name, before.version, fault.message);
        told.push("incompatible_schema", &place, &message, &Value::Null);
    }
    Err(told.into_failure())
}

fn schema_of(definition: &Definition) -> Option<&SchemaDefinition> {
    match &definition.content {
        DefinitionContent::Schema(schema) => Some(schema),
        DefinitionContent::Event(_) | DefinitionContent::Compatibility { .. } => None,
    }
}

/// Find schemas
#[utoipa::path(
    get, path = "/v1/schemas", tag = "soorma", operation_id = "soormaSchemas",
    params(("owner_agent_id" = Option<String>, Query, description = "Those that this agent brought")),
    responses(
        (status = 200, description = "`{schemas: […], count}`, all versions, by name and then as they were defined", body = Value),
        (status = 401, description = "No valid token, where tokens are checked", body = Value),
        (status = 503, description = "This node cannot tell now", body = Value),
    ),
)]
pub(crate) async fn list(
    State(native): State<Native>,
    Caller(context): Caller,
    uri: Uri,
) -> Result<Response, Failure> {
    let owner = params(&uri).first_of(&[&["owner_agent_id", "ownerAgentId"]]).map(|(_, owner)| owner);
    let freshness = current(&native, &context).await?;
    let mut found: Vec<_> =
        native.replica.roll().read(|state| state.definitions().schemas(&context.tenant).cloned().collect());
    let is_wanted = |definition: &Arc<Definition>| {
        let brought_by = schema_of(definition).and_then(|schema| schema.owner.as_deref());
        owner.is_none() || brought_by == owner.as_deref()
    };
    found.retain(is_wanted);
    found.sort_by_cached_key(|definition| {
        (schema_of(definition).map(|schema| schema.name.clone()), definition.edition)
    });
    let texts: Vec<_> = found.iter().map(|definition| translate::schema_text(definition)).collect();
    let mut response = json_text(StatusCode::OK, listed("schemas", &texts));
    reply::show(&mut response, shown(&native, freshness));
    Ok(response)
}

/// A version of a schema, the latest if none is named; `name` and `version` are as the path has them.
async fn find(
    native: &Native,
    context: &Context,
    name: &str,
    version: Option<&str>,
) -> Result<(Arc<Definition>, reply::Shown), Failure> {
    let what = version.map_or(name.to_owned(), |version| format!("{name}@{version}"));
    let name = wire::definition_name(name).ok_or_else(|| not_found(&what))?;
    let version =
        version.map(|version| wire::definition_name(version).ok_or_else(|| not_found(&what))).transpose()?;
    let freshness = current(native, context).await?;
    let found = native.replica.roll().read(|state| {
        let definitions = state.definitions();
        match version {
            Some(version) => definitions.get(&context.tenant, &DefinitionKey::Schema(name, version)).cloned(),
            None => definitions.latest_schema(&context.tenant, &name).cloned(),
        }
    });
    let shown = shown(native, freshness);
    found.map(|found| (found, shown)).ok_or_else(|| not_found(&what).shown(shown))
}

async fn one(native: Native, context: Context, name: &str, version: Option<&str>) -> Result<Response, Failure> {
    let (definition, shown) = find(&native, &context, name, version).await?;
    let mut response = json_text(StatusCode::OK, translate::schema_text(&definition).into_bytes());
    reply::show(&mut response, shown);
    Ok(response)
}

/// The version of a schema that was defined last
#[utoipa::path(
    get, path = "/v1/schemas/{id}", tag = "soorma", operation_id = "soormaSchema",
    params(("id" = String, Path, description = "The schema")),
    responses(
        (status = 200, description = "The schema", body = PayloadSchema),
        (status = 401, description = "No valid token, where tokens are checked", body = Value),
        (status = 404, description = "Unknown", body = Value),
        (status = 503, description = "This node cannot tell now", body = Value),
    ),
)]
pub(crate) async fn latest(
    State(native): State<Native>,
    Caller(context): Caller,
    Named(name): Named<String>,
) -> Result<Response, Failure> {
    one(native, context, &name, None).await
}

/// One version of a schema
#[utoipa::path(
    get, path = "/v1/schemas/{id}/versions/{version}", tag = "soorma", operation_id = "soormaSchemaVersion",
    params(("id" = String, Path, description = "The schema"), ("version" = String, Path, description = "Its version")),
    responses(
        (status = 200, description = "The schema", body = PayloadSchema),
        (status = 401, description = "No valid token, where tokens are checked", body = Value),
        (status = 404, description = "Unknown", body = Value),
        (status = 503, description = "This node cannot tell now", body = Value),
    ),
)]
pub(crate) async fn version(
    State(native): State<Native>,
    Caller(context): Caller,
    Named((name, version)): Named<(String, String)>,
) -> Result<Response, Failure> {
    one(native, context, &name, Some(&version)).await
}

/// Remove one version of a schema
///
/// Not in the original contract: definitions do not lapse, and their number is bounded.
#[utoipa::path(
    delete, path = "/v1/schemas/{id}/versions/{version}", tag = "soorma", operation_id = "soormaRemoveSchema",
    params(("id" = String, Path, description = "The schema"), ("version" = String, Path, description = "Its version")),
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
    Named((name, version)): Named<(String, String)>,
) -> Result<Response, Failure> {
    let unknown = || not_found(&format!("{name}@{version}"));
    let key = wire::definition_name(&name).zip(wire::definition_name(&version));
    let (name, version) = key.ok_or_else(unknown)?;
    let change = DefinitionChange::Remove(DefinitionKey::Schema(name.clone(), version.clone()));
    removed(define_in(&native, &context, change).await?, || not_found(&format!("{name}@{version}")))
}

/// Validate a payload against a schema
///
/// JSON Schema 2020-12. The latest version counts if none is named.
#[utoipa::path(
    post, path = "/v1/schemas/{id}/validate", tag = "soorma", operation_id = "soormaValidate",
    params(("id" = String, Path, description = "The schema")),
    request_body = Validation,
    responses(
        (status = 200, description = "`{schemaName, version, valid, errors: [{path, message, schemaPath}]}`", body = Value),
        (status = 401, description = "No valid token, where tokens are checked", body = Value),
        (status = 404, description = "Unknown", body = Value),
        (status = 409, description = "The schema cannot be used for validation, and why", body = Value),
        (status = 422, description = "Faulty; every fault is named", body = Value),
        (status = 503, description = "This node cannot tell now", body = Value),
    ),
)]
pub(crate) async fn validate(
    State(native): State<Native>,
    Caller(context): Caller,
    Named(name): Named<String>,
    request: Request,
) -> Result<Response, Failure> {
    let Validation { payload, version } = parsed(&native, &context, request, wire::validation).await?;
    let (definition, shown) = find(&native, &context, &name, version.as_deref()).await?;
    let schema = schema_of(&definition).expect("a schema was looked for");
    let violations = native.validators.validate(&definition, payload).await.map_err(|error| match error {
        SchemaError::Busy => Failure::overloaded("validations in work"),
        SchemaError::PayloadTooDeep { .. } | SchemaError::TooMuchWork { .. } => {
            let mut faults = Faults::default();
            faults.push("too_complex", &["body".into(), "payload".into()], &error.to_string(), &Value::Null);
            faults.into_failure()
        }
        SchemaError::Unusable { .. } => {
            let detail = format!("Schema '{}@{}' {error}", schema.name, schema.version);
            Failure::new(StatusCode::CONFLICT, "schema_unusable", detail)
        }
    })?;
    let body = json!({
        "schemaName": schema.name.as_str(),
        "version": schema.version.as_str(),
        "valid": violations.is_empty(),
        "errors": violations,
    });
    let mut response = answer(StatusCode::OK, &body);
    reply::show(&mut response, shown);
    Ok(response)
}

fn compatibility_of(name: &str) -> Result<DefinitionName, Failure> {
    wire::definition_name(name).ok_or_else(|| not_found(name))
}

fn told(name: &DefinitionName, mode: Compatibility) -> Response {
    answer(StatusCode::OK, &json!({ "schemaName": name.as_str(), "compatibility": mode.as_str() }))
}

/// What new versions of a schema must be
#[utoipa::path(
    get, path = "/v1/schemas/{id}/compatibility", tag = "soorma", operation_id = "soormaCompatibility",
    params(("id" = String, Path, description = "The schema")),
    responses(
        (status = 200, description = "`{schemaName, compatibility}`: none, backward, forward or full", body = Value),
        (status = 401, description = "No valid token, where tokens are checked", body = Value),
        (status = 404, description = "No schema can have such a name", body = Value),
        (status = 503, description = "This node cannot tell now", body = Value),
    ),
)]
pub(crate) async fn compatibility(
    State(native): State<Native>,
    Caller(context): Caller,
    Named(name): Named<String>,
) -> Result<Response, Failure> {
    let name = compatibility_of(&name)?;
    let freshness = current(&native, &context).await?;
    let mode = native.replica.roll().read(|state| state.definitions().compatibility(&context.tenant, &name));
    let mut response = told(&name, mode);
    reply::show(&mut response, shown(&native, freshness));
    Ok(response)
}

/// Set what new versions of a schema must be
#[utoipa::path(
    put, path = "/v1/schemas/{id}/compatibility", tag = "soorma", operation_id = "soormaSetCompatibility",
    params(("id" = String, Path, description = "The schema")),
    request_body(content = Value, description = "`{compatibility}`: none, backward, forward or full"),
    responses(
        (status = 200, description = "`{schemaName, compatibility}`", body = Value),
        (status = 401, description = "No valid token, where tokens are checked", body = Value),
        (status = 404, description = "No schema can have such a name", body = Value),
        (status = 413, description = "The tenant has as many definitions as it may", body = Value),
        (status = 422, description = "Faulty; every fault is named", body = Value),
        (status = 503, description = "Not applied", body = Value),
    ),
)]
pub(crate) async fn set_compatibility(
    State(native): State<Native>,
    Caller(context): Caller,
    Named(name): Named<String>,
    request: Request,
) -> Result<Response, Failure> {
    let name = compatibility_of(&name)?;
    let mode = parsed(&native, &context, request, wire::compatibility).await?;
    let change = DefinitionChange::Compatibility { name: name.clone(), mode };
    define_in(&native, &context, change).await??;
    Ok(told(&name, mode))
}
