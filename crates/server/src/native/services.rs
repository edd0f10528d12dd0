//! Register, read and deregister one instance.

use axum::extract::{Request, State};
use axum::http::{HeaderValue, StatusCode, Uri, header};
use axum::response::Response;
use rollcall_api::{
    DeregisterRequest, DeregisterResponse, Problem, RegisterRequest, RegisterResponse, ServiceObject, Visibility,
};
use rollcall_registry::{
    Command, Condition, InstanceId, LeaseId, Outcome, OwnerKey, PackedRegistration, Refusal, Registered, Revision,
    SignatureMode, Signing, TenantId, Viewer,
};
use rollcall_replica::Consistency;
use rollcall_signature::Signature;
use serde_json::Value;
use uuid::Uuid;

use super::{Id, Native, body_missing, json, json_text};
use crate::federation;
use crate::render::Moment;
use crate::reply::{self, Failure, Shown};
use crate::request::{self, Context};
use crate::signing::{self, Claim};
use crate::{params, parse, translate};

/// Put an instance on the roll
///
/// The same content again is a renewal; other content under the same id is a new incarnation with a new lease.
#[utoipa::path(
    post, path = "/api/services/register", tag = "services", operation_id = "register",
    params(
        ("If-Match" = Option<String>, Header, description = "`*` or the quoted revision that is to be replaced"),
        ("If-None-Match" = Option<String>, Header, description = "`*`: create only"),
    ),
    request_body = RegisterRequest,
    responses(
        (status = 201, description = "New on the roll", body = RegisterResponse),
        (status = 200, description = "Replaced or renewed", body = RegisterResponse),
        (status = 400, description = "Faulty; every fault is named", body = Problem),
        (status = 401, description = "`invalid_signature`", body = Problem),
        (status = 403, description = "`signature_required`: by the tenant, or by the owner who has a key; `owner_key_mismatch`: the owner has another key; `owner_mismatch`: the instance is another owner's; `signature_replayed`: its owner withdrew this registration", body = Problem),
        (status = 409, description = "`feature_level_too_low`: an older node could not read what it says; `too_many_owner_keys`, `signatures_changed`", body = Problem),
        (status = 412, description = "`precondition_failed`: the condition does not hold", body = Problem),
        (status = 413, description = "`body_too_large`: more than 64 KiB", body = Problem),
        (status = 415, description = "`unsupported_media_type`: not JSON", body = Problem),
        (status = 503, description = "`no_leader`, `overloaded`: not applied", body = Problem),
        (status = 504, description = "`outcome_unknown`: may have been applied", body = Problem),
    ),
)]
pub(super) async fn register(
    State(native): State<Native>,
    context: Context,
    request: Request,
) -> Result<Response, Failure> {
    params::none(request.uri())?;
    let condition = request::condition(request.headers())?;
    let are_looked_at = native.signature_mode(&context.tenant) != SignatureMode::Off;
    let parse = |body: Value| {
        let claim = if are_looked_at { Claim::of(&body) } else { None };
        parse::register(body, native.ttl).map(|request| (request, claim))
    };
    let parsed = native.parsed(request, context.deadline, parse).await?;
    let (mut request, claim) = parsed.ok_or_else(body_missing)?;
    let signed = claim.map(|claim| claim.verify(&mut request)).transpose()?;
    if context.principal().is_some() {
        // What says nothing else is found by the tenant, whether or not requests carry an identity.
        request.visibility.get_or_insert(Visibility::Internal);
    }
    let mut registration = translate::registration(request, native.ttl, new_id);
    if let Some(signed) = &signed {
        registration.extras.keep_signed(&signed.document);
    }
    let (id, registration) = (registration.id.clone(), registration.pack());
    let key = signed.map(|signed| signed.key);
    let registered = native.register(&context, registration.clone(), condition, key).await??;

    let cluster_time = native.replica.cluster_time();
    let (view, moment) = native.replica.roll().read(|state| {
        let view = state.get(&context.tenant, &id);
        let unchanged = |view: &rollcall_registry::View| {
            view.instance.lease == registered.lease && view.instance.revision == registered.revision
        };
        (view.filter(unchanged), Moment::of(state, cluster_time))
    });
    let view = view.unwrap_or_else(|| translate::registered_view(context.tenant, registration, registered));
    let text = native.renderer.at(moment).registered(&view, &registered);
    let status = if registered.created { StatusCode::CREATED } else { StatusCode::OK };
    let mut response = json_text(status, text);
    response.headers_mut().insert(header::ETAG, entity_tag(registered.revision));
    reply::written(&mut response, registered.revision);
    Ok(response)
}

fn new_id() -> InstanceId {
    InstanceId::parse(&Uuid::new_v4().to_string()).expect("a UUID is a valid id")
}

fn entity_tag(revision: Revision) -> HeaderValue {
    HeaderValue::try_from(format!("\"{revision}\"")).expect("digits in quotes are a valid header")
}

/// Read one instance
///
/// Whatever its status.
#[utoipa::path(
    get, path = "/api/services/{id}", tag = "services", operation_id = "getService",
    params(
        ("id" = String, Path, description = "The instance"),
        ("consistency" = Option<String>, Query, description = "`local` (default) or `linearizable`"),
        ("min_revision" = Option<u64>, Query, description = "Wait until this revision is shown"),
        ("max_staleness_ms" = Option<u64>, Query, description = "Refuse rather than answer from older state"),
        ("include_federated" = Option<bool>, Query, description = "If this cluster has none of the id, that of another cluster, as it told of it"),
        ("federated" = Option<String>, Query, description = "`copy`: as `include_federated=true`; `live`: the other clusters are asked first for what they have not told yet"),
        ("federated_timeout_ms" = Option<u64>, Query, minimum = 1, maximum = 10000, description = "How long each of them may take, with `federated=live`, default 1000"),
        ("requester_id" = Option<String>, Query, description = "Who asks"),
    ),
    responses(
        (status = 200, description = "The instance; `ETag` is its revision in quotes, unless it is another cluster's", body = ServiceObject),
        (status = 400, description = "Faulty; every fault is named", body = Problem),
        (status = 404, description = "`not_found`", body = Problem),
        (status = 503, description = "`not_ready`, `no_leader`, `too_stale`", body = Problem),
        (status = 504, description = "`revision_not_reached`", body = Problem),
    ),
)]
pub(super) async fn get(
    State(native): State<Native>,
    context: Context,
    Id(id): Id,
    uri: Uri,
) -> Result<Response, Failure> {
    let (consistency, federated) = params::read_instance(&uri)?;
    let sources = native.refresh(federated, &context.tenant).await;
    let freshness = native.replica.barrier(consistency, context.deadline).await?;
    let cluster_time = native.replica.cluster_time();
    let (found, checks, revision, moment) = native.replica.roll().read(|state| {
        let checks = state.rulings().checks(&context.tenant);
        let found = match federated.is_asked() {
            true => state.get_federated(&context.tenant, &id, &context.viewer),
            false => state.get(&context.tenant, &id).map(|view| (view, None)),
        };
        (found, checks, state.revision(), Moment::of(state, cluster_time))
    });
    let shown = Shown { revision, freshness };
    let found = found.filter(|(view, _)| context.viewer.sees(&view.instance));
    let (view, origin) = found.ok_or_else(|| Failure::not_found().shown(shown))?;
    let (mut text, mut rendering) = (Vec::new(), native.renderer.at(moment));
    let is_own = origin.is_none();
    match origin {
        Some(mut origin) => {
            federation::freshen(&mut origin, sources.as_deref());
            rendering.one(&view, Some(&origin), None, &mut text);
        }
        None => rendering.checked(&view, native.checker.info(&view.instance, checks).as_ref(), &mut text),
    }
    let mut response = json_text(StatusCode::OK, text);
    // What another cluster calls a revision is no condition for a change here.
    if is_own {
        response.headers_mut().insert(header::ETAG, entity_tag(view.instance.revision));
    }
    reply::show(&mut response, shown);
    Ok(response)
}

/// Take an instance off the roll
#[utoipa::path(
    delete, path = "/api/services/{id}", tag = "services", operation_id = "deregister",
    params(
        ("id" = String, Path, description = "The instance"),
        ("lease_id" = Option<u64>, Query, description = "Only while this lease is current"),
        ("If-Match" = Option<String>, Header, description = "`*` or the quoted revision that is to be removed"),
    ),
    request_body(content = Option<DeregisterRequest>),
    responses(
        (status = 200, description = "Removed", body = DeregisterResponse),
        (status = 400, description = "Faulty; every fault is named", body = Problem),
        (status = 403, description = "`signature_required`: the owner has a key; `invalid_signature`, `owner_key_mismatch`", body = Problem),
        (status = 404, description = "`not_found`, or `lease_not_found` for a lease that was never granted", body = Problem),
        (status = 409, description = "`lease_superseded`: a newer registration holds the id", body = Problem),
        (status = 412, description = "`precondition_failed`: the condition does not hold", body = Problem),
        (status = 503, description = "`no_leader`, `overloaded`: not applied", body = Problem),
        (status = 504, description = "`outcome_unknown`: may have been applied", body = Problem),
    ),
)]
pub(super) async fn deregister(
    State(native): State<Native>,
    context: Context,
    Id(id): Id,
    request: Request,
) -> Result<Response, Failure> {
    let lease = params::lease(request.uri())?.map(LeaseId);
    let condition = request::condition(request.headers())?;
    let request = native.parsed(request, context.deadline, parse::deregister).await?.unwrap_or_default();
    let service_id = id.as_str().to_owned();
    let revision = match request.deregistration_signature {
        Some(text) if native.signature_mode(&context.tenant) != SignatureMode::Off => {
            let signature = signing::parse("deregistration_signature", &text)?;
            let (key, signed_lease) = native.owner_of_removal(&context, &id, &signature).await?;
            native.deregister(&context, id, lease.or(Some(signed_lease)), condition, Some(key)).await??
        }
        _ => native.deregister(&context, id, lease, condition, None).await??,
    };
    let answer = DeregisterResponse { service_id, deregistered: true, revision: revision.0 };
    let mut response = json(StatusCode::OK, &answer);
    reply::written(&mut response, revision);
    Ok(response)
}

impl Native {
    /// How a tenant takes signatures.
    pub(super) fn signature_mode(&self, tenant: &TenantId) -> SignatureMode {
        self.replica.roll().read(|state| state.signature_mode(tenant)).unwrap_or(self.signatures)
    }

    /// Puts a registration on the roll, signed by a key that was verified or by none.
    pub(crate) async fn register(
        &self,
        context: &Context,
        registration: PackedRegistration,
        condition: Condition,
        key: Option<OwnerKey>,
    ) -> Result<Result<Registered, Refusal>, Failure> {
        let (tenant, mode) = (context.tenant.clone(), self.signatures);
        // Where nothing is said of signatures, nodes that know none can read it.
        let is_plain = key.is_none() && registration.view().extras.signature.is_none();
        let command = if is_plain && mode == SignatureMode::Accepted {
            Command::Register { tenant, registration, condition }
        } else {
            Command::RegisterSigned { tenant, registration, condition, signing: Signing { mode, key } }
        };
        match self.submit(command, context).await?.outcome {
            Outcome::Registered(registered) => Ok(Ok(registered)),
            Outcome::Refused(refusal) => Ok(Err(refusal)),
            other => unreachable!("a registration was answered by {other:?}"),
        }
    }

    /// Takes an instance off the roll. What is hidden from who asks is not there.
    pub(crate) async fn deregister(
        &self,
        context: &Context,
        id: InstanceId,
        lease: Option<LeaseId>,
        condition: Condition,
        key: Option<OwnerKey>,
    ) -> Result<Result<Revision, Refusal>, Failure> {
        if self.is_hidden(context, &id) {
            return Ok(Err(match condition {
                Condition::Present | Condition::Unchanged(_) => Refusal::ConditionFailed { current: None },
                Condition::None | Condition::Absent | Condition::Anew => Refusal::NotRegistered,
            }));
        }
        let (tenant, mode) = (context.tenant.clone(), self.signatures);
        let command = if key.is_none() && mode == SignatureMode::Accepted {
            Command::Deregister { tenant, id, lease, condition }
        } else {
            Command::DeregisterSigned { tenant, id, lease, condition, signing: Signing { mode, key } }
        };
        match self.submit(command, context).await?.outcome {
            Outcome::Deregistered { revision } => Ok(Ok(revision)),
            Outcome::Refused(refusal) => Ok(Err(refusal)),
            other => unreachable!("a deregistration was answered by {other:?}"),
        }
    }

    /// Whether an instance is there that who asks must not see.
    pub(super) fn is_hidden(&self, context: &Context, id: &InstanceId) -> bool {
        let hides = |view: rollcall_registry::View| !context.viewer.sees(&view.instance);
        context.viewer != Viewer::All
            && self.replica.roll().read(|state| state.get(&context.tenant, id)).is_some_and(hides)
    }

    /// Whose signature a deregistration bears: the owner's over the instance as it is registered now, by which lease.
    async fn owner_of_removal(
        &self,
        context: &Context,
        id: &InstanceId,
        signature: &Signature,
    ) -> Result<(OwnerKey, LeaseId), Failure> {
        // The signature is for what was registered last, through whichever node.
        let latest = Consistency { linearizable: true, ..Consistency::default() };
        self.replica.barrier(latest, context.deadline).await?;
        let found = self.replica.roll().read(|state| {
            let view = state.get(&context.tenant, id)?;
            let owner = view.instance.registration().owner;
            let key = owner.and_then(|owner| state.owner_key(&context.tenant, owner)).map(|pinned| pinned.key);
            Some((view, key))
        });
        let found = found.filter(|(view, _)| context.viewer.sees(&view.instance));
        let (view, key) = found.ok_or_else(Failure::not_found)?;
        let registration = view.instance.registration();
        let is_signed = registration.signed_document().is_some();
        let parts = (key, registration.owner, registration.extras.signature.filter(|_| is_signed));
        let (Some(key), Some(owner), Some(registration_signature)) = parts else {
            return Err(signing::invalid_removal("the registration bears none, or its owner has no key"));
        };
        signing::verify_removal(signature, key, (registration.id, owner, registration_signature))?;
        Ok((key, view.instance.lease))
    }
}
