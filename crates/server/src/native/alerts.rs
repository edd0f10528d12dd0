//! Where a tenant's alerts go.

use std::time::{SystemTime, UNIX_EPOCH};

use axum::extract::{FromRequestParts, Path, Request, State};
use axum::http::request::Parts;
use axum::http::{StatusCode, Uri};
use axum::response::Response;
use rollcall_api::{
    AlertTargetInfo, AlertTargetsResponse, Problem, RemoveAlertTargetResponse, SetAlertTargetResponse,
    TestAlertResponse,
};
use rollcall_registry::{
    AlertForm, AlertSecret, AlertTarget, Ruled, RulingChange, TARGET_URL_BYTES_MAX, TargetName, ToldUpTo, WallTime,
};

use super::{Native, body_missing, json};
use crate::alerts::message::{self, Notice};
use crate::fault::Faults;
use crate::reply::Failure;
use crate::request::Context;
use crate::{params, parse, translate};

/// Between two alerts about one instance where nothing is said.
const INTERVAL_MS: u32 = 60_000;

/// The target that the path names.
pub(super) struct Name(TargetName);

impl FromRequestParts<Native> for Name {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, native: &Native) -> Result<Self, Failure> {
        let Path(text) = Path::<String>::from_request_parts(parts, native)
            .await
            .map_err(|rejection| Failure::fault("name", rejection.body_text()))?;
        TargetName::parse(&text).map(Self).map_err(|error| Failure::fault("name", error.to_string()))
    }
}

/// Where the tenant's alerts go
#[utoipa::path(
    get, path = "/api/alerts", tag = "operators", operation_id = "listAlertTargets",
    responses(
        (status = 200, description = "By name, without their secrets", body = AlertTargetsResponse),
        (status = 400, description = "Faulty; every fault is named", body = Problem),
        (status = 503, description = "`no_leader`, `not_ready`", body = Problem),
    ),
)]
pub(super) async fn list(State(native): State<Native>, context: Context, uri: Uri) -> Result<Response, Failure> {
    params::none(&uri)?;
    native.as_laid_down(&context).await?;
    let targets = native.replica.roll().read(|state| {
        let targets = state.rulings().targets(&context.tenant);
        targets.map(|(name, target, told)| info(name, target, told)).collect()
    });
    Ok(json(StatusCode::OK, &AlertTargetsResponse { targets }))
}

/// Have alerts sent somewhere
///
/// A new target is told what changes from now on; one that is set otherwise goes on where it was.
#[utoipa::path(
    put, path = "/api/alerts/{name}", tag = "operators", operation_id = "setAlertTarget",
    params(("name" = String, Path, description = "What the target is called: 1 to 64 letters, digits, `-`, `_`, `.`, `:`")),
    request_body = rollcall_api::AlertTargetRequest,
    responses(
        (status = 200, description = "It is so; a secret that was made up is told here and nowhere else", body = SetAlertTargetResponse),
        (status = 400, description = "Faulty; every fault is named", body = Problem),
        (status = 409, description = "`too_many_rulings`: the tenant has 8 targets; `feature_level_too_low`", body = Problem),
        (status = 503, description = "`no_leader`, `overloaded`: not applied", body = Problem),
        (status = 504, description = "`outcome_unknown`: may have been applied", body = Problem),
    ),
)]
pub(super) async fn set(
    State(native): State<Native>,
    context: Context,
    Name(name): Name,
    request: Request,
) -> Result<Response, Failure> {
    params::none(request.uri())?;
    let request = native.parsed(request, context.deadline, parse::alert_target).await?.ok_or_else(body_missing)?;
    let mut faults = Faults::default();
    if let Err(error) = native.poster.check(&request.url) {
        faults.push("url".to_owned(), error.to_string());
    }
    if request.url.len() > TARGET_URL_BYTES_MAX {
        faults.push("url".to_owned(), format!("is longer than {TARGET_URL_BYTES_MAX} bytes"));
    }
    if !faults.is_empty() {
        return Err(Failure::faulty(faults));
    }
    native.as_laid_down(&context).await?;
    let known = native.target(&context, &name).map(|target| target.secret);
    let given = request.secret.as_deref().and_then(AlertSecret::parse);
    let (secret, made_up) = match given.or(known) {
        Some(secret) => (secret, None),
        None => {
            let bytes: [u8; 32] = rand::random();
            let text: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            (AlertSecret::parse(&text).expect("64 digits are a secret"), Some(text))
        }
    };
    let target = AlertTarget {
        url: request.url.into(),
        form: request.format.map_or(AlertForm::Json, translate::alert_form_in),
        secret,
        interval_ms: request.interval_ms.unwrap_or(INTERVAL_MS),
    };
    let change = RulingChange::Target { name: name.clone(), target: Some(target.clone()) };
    let stands = |native: &Native, _| {
        let told = native.replica.roll().read(|state| {
            let mut targets = state.rulings().targets(&context.tenant);
            targets.find(|(known, ..)| **known == name).map(|(.., told)| told).unwrap_or_default()
        });
        SetAlertTargetResponse { target: info(&name, &target, told), secret: made_up }
    };
    native.lay_down(&context, change, stands).await
}

/// Send alerts there no more
#[utoipa::path(
    delete, path = "/api/alerts/{name}", tag = "operators", operation_id = "removeAlertTarget",
    params(("name" = String, Path, description = "The target")),
    responses(
        (status = 200, description = "It is none", body = RemoveAlertTargetResponse),
        (status = 400, description = "Faulty; every fault is named", body = Problem),
        (status = 409, description = "`feature_level_too_low`", body = Problem),
        (status = 503, description = "`no_leader`, `overloaded`: not applied", body = Problem),
        (status = 504, description = "`outcome_unknown`: may have been applied", body = Problem),
    ),
)]
pub(super) async fn remove(
    State(native): State<Native>,
    context: Context,
    Name(name): Name,
    uri: Uri,
) -> Result<Response, Failure> {
    params::none(&uri)?;
    let change = RulingChange::Target { name: name.clone(), target: None };
    let stands = |_: &Native, ruled: Ruled| RemoveAlertTargetResponse {
        name: name.as_str().to_owned(),
        removed: ruled.changed,
    };
    native.lay_down(&context, change, stands).await
}

/// Send a test alert
///
/// Once, from the node that is asked.
#[utoipa::path(
    post, path = "/api/alerts/{name}/test", tag = "operators", operation_id = "testAlertTarget",
    params(("name" = String, Path, description = "The target")),
    responses(
        (status = 200, description = "Whether the target took it", body = TestAlertResponse),
        (status = 400, description = "Faulty; every fault is named", body = Problem),
        (status = 404, description = "`not_found`", body = Problem),
        (status = 503, description = "`no_leader`, `not_ready`", body = Problem),
    ),
)]
pub(super) async fn test(
    State(native): State<Native>,
    context: Context,
    Name(name): Name,
    uri: Uri,
) -> Result<Response, Failure> {
    params::none(&uri)?;
    native.as_laid_down(&context).await?;
    let target = native
        .target(&context, &name)
        .ok_or_else(|| Failure::new(StatusCode::NOT_FOUND, "not_found", "the tenant has no such target of alerts"))?;
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let notice = Notice::Test { at: WallTime(u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX)) };
    let epoch = native.replica.roll().read(|state| state.epoch().0);
    let body = message::body(target.form, &context.tenant, epoch, [&notice].into_iter());
    // A target that hangs must not have the request fail.
    let patience = context.deadline.checked_duration_since(tokio::time::Instant::now()).unwrap_or_default() / 2;
    let posted = tokio::time::timeout(patience, native.poster.post(&target, body)).await;
    let (delivered, status, error) = match posted {
        Ok(Ok(status)) => (true, Some(status), None),
        Ok(Err(error)) => (false, error.status(), Some(error.to_string())),
        Err(_) => (false, None, Some("no answer in time".to_owned())),
    };
    let answer = TestAlertResponse { name: name.as_str().to_owned(), delivered, status, error };
    Ok(json(StatusCode::OK, &answer))
}

fn info(name: &TargetName, target: &AlertTarget, told: ToldUpTo) -> AlertTargetInfo {
    AlertTargetInfo {
        name: name.as_str().to_owned(),
        url: target.url.to_string(),
        format: translate::alert_form_out(target.form),
        interval_ms: target.interval_ms,
        told_revision: told.revision.0,
    }
}

impl Native {
    fn target(&self, context: &Context, name: &TargetName) -> Option<AlertTarget> {
        self.replica.roll().read(|state| state.rulings().target(&context.tenant, name).cloned())
    }
}
