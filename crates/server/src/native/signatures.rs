//! Signatures, for operators: how a tenant takes them, and the keys of its owners. And for whoever checks one themselves.

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::http::{StatusCode, Uri};
use axum::response::Response;
use rollcall_api::{
    OwnerKeyInfo, OwnerKeysResponse, Problem, PutOwnerKeyRequest, RemoveOwnerKeyResponse, ServiceSignatureResponse,
    SetSignaturesRequest, SignatureMode as ApiMode, SignaturesResponse,
};
use rollcall_registry::{Command, Outcome, OwnerKey, SignatureCommand, SignatureMode, WallTime};
use rollcall_replica::Consistency;
use rollcall_signature::PublicKey;

use super::{Id, Native, body_missing, json};
use crate::fault::{Faults, Fields};
use crate::parse::name_rule;
use crate::render::rfc3339;
use crate::reply::{self, Failure, Shown};
use crate::request::Context;
use crate::{params, translate};

/// How signatures are taken
#[utoipa::path(
    get, path = "/api/signatures", tag = "signatures", operation_id = "getSignatures",
    responses(
        (status = 200, description = "The tenant's mode", body = SignaturesResponse),
        (status = 400, description = "Faulty; every fault is named", body = Problem),
        (status = 503, description = "`no_leader`, `not_ready`", body = Problem),
    ),
)]
pub(super) async fn mode(State(native): State<Native>, context: Context, uri: Uri) -> Result<Response, Failure> {
    params::none(&uri)?;
    native.latest(&context).await?;
    let own = native.replica.roll().read(|state| state.signature_mode(&context.tenant));
    Ok(native.mode_answer(&context, own))
}

/// Have signatures taken otherwise in a tenant
///
/// It holds at once for whatever is registered, replaced or taken off from then on. Keys stay.
#[utoipa::path(
    put, path = "/api/signatures", tag = "signatures", operation_id = "setSignatures",
    request_body = SetSignaturesRequest,
    responses(
        (status = 200, description = "The tenant has a mode of its own", body = SignaturesResponse),
        (status = 400, description = "Faulty; every fault is named", body = Problem),
        (status = 409, description = "`too_many_signature_modes`: 4096 tenants have one; `feature_level_too_low`", body = Problem),
        (status = 503, description = "`no_leader`, `overloaded`: not applied", body = Problem),
        (status = 504, description = "`outcome_unknown`: may have been applied", body = Problem),
    ),
)]
pub(super) async fn set_mode(
    State(native): State<Native>,
    context: Context,
    request: Request,
) -> Result<Response, Failure> {
    params::none(request.uri())?;
    let wanted = native.parsed(request, context.deadline, parse_mode).await?.ok_or_else(body_missing)?;
    native.change_mode(&context, Some(translate::signature_mode_in(wanted.mode))).await
}

/// Have signatures taken as the nodes are configured to
#[utoipa::path(
    delete, path = "/api/signatures", tag = "signatures", operation_id = "unsetSignatures",
    responses(
        (status = 200, description = "The tenant has no mode of its own", body = SignaturesResponse),
        (status = 400, description = "Faulty; every fault is named", body = Problem),
        (status = 409, description = "`feature_level_too_low`", body = Problem),
        (status = 503, description = "`no_leader`, `overloaded`: not applied", body = Problem),
        (status = 504, description = "`outcome_unknown`: may have been applied", body = Problem),
    ),
)]
pub(super) async fn unset_mode(
    State(native): State<Native>,
    context: Context,
    uri: Uri,
) -> Result<Response, Failure> {
    params::none(&uri)?;
    native.change_mode(&context, None).await
}

/// The owners who have a key
///
/// A key comes with the first signed registration in the owner's name, or by an operator.
#[utoipa::path(
    get, path = "/api/owner-keys", tag = "signatures", operation_id = "listOwnerKeys",
    params(
        ("after" = Option<String>, Query, description = "`next_after` of the page before"),
        ("limit" = Option<u32>, Query, minimum = 1, maximum = 1000, description = "Size of the page, default 50"),
    ),
    responses(
        (status = 200, description = "A page of them, by name", body = OwnerKeysResponse),
        (status = 400, description = "Faulty; every fault is named", body = Problem),
        (status = 503, description = "`no_leader`, `not_ready`", body = Problem),
    ),
)]
pub(super) async fn owner_keys(
    State(native): State<Native>,
    context: Context,
    uri: Uri,
) -> Result<Response, Failure> {
    let (after, limit) = params::owner_page(&uri)?;
    native.latest(&context).await?;
    let mut owner_keys: Vec<_> = native.replica.roll().read(|state| {
        let pinned = state.owner_keys(&context.tenant, after.as_deref().unwrap_or_default()).take(limit + 1);
        pinned.map(|pinned| info(&pinned.owner, pinned.key, pinned.pinned_at)).collect()
    });
    let more = owner_keys.len() > limit;
    owner_keys.truncate(limit);
    let next_after = owner_keys.last().filter(|_| more).map(|last| last.owner.clone());
    Ok(json(StatusCode::OK, &OwnerKeysResponse { owner_keys, next_after }))
}

/// Give an owner a key, or another one
///
/// From then on what is done in the owner's name has to be signed by this key. What the owner withdrew stays withdrawn.
#[utoipa::path(
    put, path = "/api/owner-keys/{owner}", tag = "signatures", operation_id = "putOwnerKey",
    params(("owner" = String, Path, description = "The owner")),
    request_body = PutOwnerKeyRequest,
    responses(
        (status = 200, description = "The owner's key", body = OwnerKeyInfo),
        (status = 400, description = "Faulty; every fault is named", body = Problem),
        (status = 409, description = "`too_many_owner_keys`; `feature_level_too_low`", body = Problem),
        (status = 503, description = "`no_leader`, `overloaded`: not applied", body = Problem),
        (status = 504, description = "`outcome_unknown`: may have been applied", body = Problem),
    ),
)]
pub(super) async fn put_owner_key(
    State(native): State<Native>,
    context: Context,
    owner: Result<Path<String>, PathRejection>,
    request: Request,
) -> Result<Response, Failure> {
    params::none(request.uri())?;
    let owner = checked_owner(owner)?;
    let key = native.parsed(request, context.deadline, parse_key).await?.ok_or_else(body_missing)?;
    let key = OwnerKey(*key.as_bytes());
    let command = SignatureCommand::PutKey { tenant: context.tenant.clone(), owner: owner.clone(), key };
    let (key, pinned_at) = native.change_key(command, &context).await?;
    tracing::info!(tenant = %context.tenant, owner = %owner.escape_debug(), "an owner was given a key");
    Ok(json(StatusCode::OK, &info(&owner, key, pinned_at)))
}

/// Take an owner's key away
///
/// What is done in the owner's name needs no signature then, and the next one that comes gives the owner a key again.
#[utoipa::path(
    delete, path = "/api/owner-keys/{owner}", tag = "signatures", operation_id = "removeOwnerKey",
    params(("owner" = String, Path, description = "The owner")),
    responses(
        (status = 200, description = "Gone", body = RemoveOwnerKeyResponse),
        (status = 400, description = "Faulty; every fault is named", body = Problem),
        (status = 404, description = "`owner_key_not_found`", body = Problem),
        (status = 409, description = "`feature_level_too_low`", body = Problem),
        (status = 503, description = "`no_leader`, `overloaded`: not applied", body = Problem),
        (status = 504, description = "`outcome_unknown`: may have been applied", body = Problem),
    ),
)]
pub(super) async fn remove_owner_key(
    State(native): State<Native>,
    context: Context,
    owner: Result<Path<String>, PathRejection>,
    uri: Uri,
) -> Result<Response, Failure> {
    params::none(&uri)?;
    let owner = checked_owner(owner)?;
    let command = SignatureCommand::RemoveKey { tenant: context.tenant.clone(), owner: owner.clone() };
    native.change_key(command, &context).await?;
    tracing::info!(tenant = %context.tenant, owner = %owner.escape_debug(), "an owner's key was taken away");
    Ok(json(StatusCode::OK, &RemoveOwnerKeyResponse { owner: owner.into(), removed: true }))
}

/// What an instance's signature is for
///
/// With it whoever is told of the instance can check for themselves that its owner says so.
#[utoipa::path(
    get, path = "/api/services/{id}/signature", tag = "signatures", operation_id = "getServiceSignature",
    params(
        ("id" = String, Path, description = "The instance"),
        ("consistency" = Option<String>, Query, description = "`local` (default) or `linearizable`"),
        ("min_revision" = Option<u64>, Query, description = "Wait until this revision is shown"),
        ("max_staleness_ms" = Option<u64>, Query, description = "Refuse rather than answer from older state"),
        ("requester_id" = Option<String>, Query, description = "Who asks"),
    ),
    responses(
        (status = 200, description = "Signature, key and what was signed", body = ServiceSignatureResponse),
        (status = 400, description = "Faulty; every fault is named", body = Problem),
        (status = 404, description = "`not_found`; `not_signed`: it was registered without a signature, or none was looked at", body = Problem),
        (status = 503, description = "`not_ready`, `no_leader`, `too_stale`", body = Problem),
        (status = 504, description = "`revision_not_reached`", body = Problem),
    ),
)]
pub(super) async fn of_service(
    State(native): State<Native>,
    context: Context,
    Id(id): Id,
    uri: Uri,
) -> Result<Response, Failure> {
    let consistency = params::read(&uri)?;
    let freshness = native.replica.barrier(consistency, context.deadline).await?;
    let (view, revision) = native.replica.roll().read(|state| (state.get(&context.tenant, &id), state.revision()));
    let shown = Shown { revision, freshness };
    let view = view.filter(|view| context.viewer.sees(&view.instance));
    let view = view.ok_or_else(|| Failure::not_found().shown(shown))?;
    let registration = view.instance.registration();
    let extras = registration.extras;
    let parts = (registration.owner, extras.public_key, extras.signature, registration.signed_document());
    let (Some(owner), Some(public_key), Some(signature), Some(signed_document)) = parts else {
        let detail = "the instance was registered without a signature, or signatures were not looked at then";
        return Err(Failure::new(StatusCode::NOT_FOUND, "not_signed", detail).shown(shown));
    };
    let answer = ServiceSignatureResponse {
        service_id: registration.id.to_owned(),
        owner: owner.to_owned(),
        public_key: public_key.to_owned(),
        signature: signature.to_owned(),
        signed_document: signed_document.to_owned(),
    };
    let mut response = json(StatusCode::OK, &answer);
    reply::show(&mut response, shown);
    Ok(response)
}

impl Native {
    /// Waits until this node shows what was written last: whoever looks whether a key is gone must not be shown an old list.
    async fn latest(&self, context: &Context) -> Result<(), Failure> {
        let wanted = Consistency { linearizable: true, ..Consistency::default() };
        self.replica.barrier(wanted, context.deadline).await?;
        Ok(())
    }

    async fn change_mode(&self, context: &Context, mode: Option<SignatureMode>) -> Result<Response, Failure> {
        let command = SignatureCommand::SetMode { tenant: context.tenant.clone(), mode };
        match self.submit(Command::Signatures(command), context).await?.outcome {
            Outcome::SignatureMode(own) => {
                tracing::info!(tenant = %context.tenant, mode = own.map(SignatureMode::as_str), "signatures are taken otherwise");
                Ok(self.mode_answer(context, own))
            }
            Outcome::Refused(refusal) => Err(refusal.into()),
            other => unreachable!("a change of signatures was answered by {other:?}"),
        }
    }

    async fn change_key(
        &self,
        command: SignatureCommand,
        context: &Context,
    ) -> Result<(OwnerKey, WallTime), Failure> {
        match self.submit(Command::Signatures(command), context).await?.outcome {
            Outcome::OwnerKey { key, pinned_at } => Ok((key, pinned_at)),
            Outcome::Refused(refusal) => Err(refusal.into()),
            other => unreachable!("a change of signatures was answered by {other:?}"),
        }
    }

    fn mode_answer(&self, context: &Context, own: Option<SignatureMode>) -> Response {
        let answer = SignaturesResponse {
            tenant: context.tenant.as_str().to_owned(),
            mode: translate::signature_mode(own.unwrap_or(self.signatures)),
            own: own.is_some(),
        };
        json(StatusCode::OK, &answer)
    }
}

fn checked_owner(owner: Result<Path<String>, PathRejection>) -> Result<Box<str>, Failure> {
    let Path(owner) = owner.map_err(|rejection| Failure::fault("owner", rejection.body_text()))?;
    name_rule(&owner).map_err(|error| Failure::fault("owner", error.to_string()))?;
    Ok(owner.into())
}

fn info(owner: &str, OwnerKey(key): OwnerKey, pinned_at: WallTime) -> OwnerKeyInfo {
    let public_key = PublicKey::from_bytes(key).map_or_else(|error| error.to_string(), |key| key.to_string());
    OwnerKeyInfo { owner: owner.to_owned(), public_key, pinned_at: rfc3339(pinned_at) }
}

fn parse_mode(body: serde_json::Value) -> Result<SetSignaturesRequest, Faults> {
    let mut faults = Faults::default();
    let request = Fields::open("", body, &mut faults).and_then(|mut fields| {
        let mode = fields.required("mode", |text| text.parse::<ApiMode>().map(drop));
        fields.finish();
        Some(SetSignaturesRequest { mode: mode?.parse().ok()? })
    });
    request.filter(|_| faults.is_empty()).ok_or(faults)
}

fn parse_key(body: serde_json::Value) -> Result<PublicKey, Faults> {
    let mut faults = Faults::default();
    let key = Fields::open("", body, &mut faults).and_then(|mut fields| {
        let key = fields.required("public_key", |text| PublicKey::parse(text).map(drop));
        fields.finish();
        PublicKey::parse(&key?).ok()
    });
    key.filter(|_| faults.is_empty()).ok_or(faults)
}
