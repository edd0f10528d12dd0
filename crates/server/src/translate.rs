//! Between the wire and the roll: the one place where both sets of types meet. The way out that is taken most, service
//! objects, is `render`'s.

use rollcall_api as api;
use rollcall_registry::registration::{Capability, Extras, JsonText};
use rollcall_registry::{
    AlertForm, CheckScope, Coordinates, Instance, InstanceId, Kind, Metadata, MetadataValue, Order, Orders,
    PackedRegistration, Presence, Protection, ProtectionError, Protocol, Quota, QuotaKind, RankWeights,
    RankWeightsError, Registered, Registration, Seldom, ServiceName, SignatureMode, Status, TenantId, Trust, Usage,
    Verdict, View, Visibility,
};
use rollcall_replica::{AutopilotReport, ClusterStatus, Finding, Kept, MemberStatus};
use serde::Serialize;
use serde_json::{Map, Value};

use crate::parse::TtlLimits;
use crate::render::rfc3339;

/// A checked request as the roll wants it, under the id it named or else the one that `new_id` makes.
pub(crate) fn registration(
    request: api::RegisterRequest,
    limits: TtlLimits,
    new_id: impl FnOnce() -> InstanceId,
) -> Registration {
    let id = request.id.map(|id| InstanceId::parse(&id).expect("a parsed request has a valid id"));
    let kind = request.kind.map_or(Kind::Service, kind_in);
    let protocol = request.protocol.map_or_else(|| protocol_of_url(&request.url), protocol_in);
    let locality = request.locality.unwrap_or_default();
    Registration {
        id: id.unwrap_or_else(new_id),
        name: ServiceName::parse(&request.name).expect("a parsed request has a valid name"),
        kind,
        protocol,
        visibility: request.visibility.map_or(Visibility::Private, visibility_in),
        weight: request.weight.unwrap_or(1),
        ttl_ms: request.ttl_ms.unwrap_or(limits.ttl_ms_default),
        reap_after_ms: request.reap_after_ms.unwrap_or(0),
        url: request.url.into(),
        version: request.version.map(Into::into),
        owner: request.owner.map(Into::into),
        tags: texts_in(request.tags),
        capabilities: request.capabilities.unwrap_or_default().into_iter().map(capability_in).collect(),
        consumed_events: texts_in(request.consumed_events),
        produced_events: texts_in(request.produced_events),
        metadata: metadata_in(request.metadata.unwrap_or_default()),
        // Nothing said is one thing, however it is said: else the same content would look changed.
        extras: Extras {
            endpoints: request.endpoints.filter(|list| !list.is_empty()).map(|endpoints| json_text(&endpoints)),
            auth: request.auth.map(|auth| json_text(&auth)),
            signature: request.signature.map(Into::into),
            public_key: request.public_key.map(Into::into),
            region: locality.region.map(Into::into),
            zone: locality.zone.map(Into::into),
            document: None,
            coordinates: locality.latitude.zip(locality.longitude).map(|(latitude, longitude)| {
                Coordinates::from_degrees([latitude, longitude]).expect("a parsed request has a place on Earth")
            }),
            health_check: request.health_check.map(|check| json_text(&check)),
        },
    }
}

/// Metadata as the roll keeps it: text unquoted, all else as compact JSON.
pub(crate) fn metadata_in(metadata: Map<String, Value>) -> Metadata {
    let pairs: Vec<_> = metadata
        .into_iter()
        .map(|(key, value)| match value {
            Value::String(text) => (key, text, false),
            other => (key, other.to_string(), true),
        })
        .collect();
    Metadata::new(pairs.iter().map(|(key, value, is_json)| {
        (key.as_str(), if *is_json { MetadataValue::Json(value) } else { MetadataValue::Text(value) })
    }))
}

pub(crate) fn status_in(status: api::Status) -> Status {
    match status {
        api::Status::Active => Status::Active,
        api::Status::Degraded => Status::Degraded,
        api::Status::Maintenance => Status::Maintenance,
        api::Status::Error => Status::Error,
        api::Status::Offline => Status::Offline,
    }
}

fn kind_in(kind: api::Kind) -> Kind {
    match kind {
        api::Kind::Agent => Kind::Agent,
        api::Kind::Tool => Kind::Tool,
        api::Kind::Service => Kind::Service,
        api::Kind::Api => Kind::Api,
        api::Kind::Device => Kind::Device,
        api::Kind::Node => Kind::Node,
        api::Kind::Gateway => Kind::Gateway,
        api::Kind::Validator => Kind::Validator,
    }
}

fn protocol_in(protocol: api::Protocol) -> Protocol {
    match protocol {
        api::Protocol::Http => Protocol::Http,
        api::Protocol::Https => Protocol::Https,
        api::Protocol::Ws => Protocol::Ws,
        api::Protocol::Klp => Protocol::Klp,
        api::Protocol::Grpc => Protocol::Grpc,
        api::Protocol::Mqtt => Protocol::Mqtt,
    }
}

/// The protocol that a URL's scheme stands for; `http` where it stands for none that is known.
pub(crate) fn protocol_of_url(url: &str) -> Protocol {
    let scheme = url.split(':').next().unwrap_or_default().to_ascii_lowercase();
    match scheme.as_str() {
        "https" => Protocol::Https,
        "ws" | "wss" => Protocol::Ws,
        "grpc" | "grpcs" => Protocol::Grpc,
        "mqtt" | "mqtts" => Protocol::Mqtt,
        "klp" => Protocol::Klp,
        _ => Protocol::Http,
    }
}

fn visibility_in(visibility: api::Visibility) -> Visibility {
    match visibility {
        api::Visibility::Private => Visibility::Private,
        api::Visibility::Internal => Visibility::Internal,
        api::Visibility::Restricted => Visibility::Restricted,
        api::Visibility::Public => Visibility::Public,
    }
}

pub(crate) fn signature_mode_in(mode: api::SignatureMode) -> SignatureMode {
    match mode {
        api::SignatureMode::Off => SignatureMode::Off,
        api::SignatureMode::Accepted => SignatureMode::Accepted,
        api::SignatureMode::Required => SignatureMode::Required,
    }
}

pub(crate) fn signature_mode(mode: SignatureMode) -> api::SignatureMode {
    match mode {
        SignatureMode::Off => api::SignatureMode::Off,
        SignatureMode::Accepted => api::SignatureMode::Accepted,
        SignatureMode::Required => api::SignatureMode::Required,
    }
}

fn capability_in(capability: api::Capability) -> Capability {
    match capability {
        api::Capability::Name(name) => Capability { name: name.into(), detail: None },
        api::Capability::Detail(detail) => {
            let text = json_text(&detail);
            Capability { name: detail.capability_name.into(), detail: Some(text) }
        }
    }
}

fn texts_in(texts: Option<Vec<String>>) -> Box<[Box<str>]> {
    texts.unwrap_or_default().into_iter().map(Into::into).collect()
}

pub(crate) fn json_text(value: &impl Serialize) -> JsonText {
    let text = serde_json::to_string(value).expect("wire types have text keys and no failing serializer");
    JsonText(text.into())
}

/// The instance that an accepted registration made, for an answer that cannot be read from the roll because the
/// instance has changed again since.
pub(crate) fn registered_view(tenant: TenantId, registration: PackedRegistration, registered: Registered) -> View {
    let instance = Instance {
        tenant,
        registration,
        seldom: Seldom::default(),
        reported_status: Status::Active,
        presence: Presence::Present,
        lease: registered.lease,
        revision: registered.revision,
        created_revision: registered.created_revision,
        registered_at: registered.registered_at,
    };
    View { instance: instance.into(), deadline: registered.deadline }
}

/// Weights that were checked one by one.
pub(crate) fn rank_weights_in(weights: api::RankWeights) -> Result<RankWeights, RankWeightsError> {
    let api::RankWeights { capability, health, proximity, trust } = weights;
    RankWeights::try_from([capability, health, proximity, trust].map(|weight| (weight * 1e3).round() as u16))
}

pub(crate) fn rank_weights_out(weights: RankWeights) -> api::RankWeights {
    let [capability, health, proximity, trust] = <[u16; 4]>::from(weights).map(|weight| f64::from(weight) / 1e3);
    api::RankWeights { capability, health, proximity, trust }
}

pub(crate) fn quota_in(limits: api::QuotaLimits) -> Quota {
    let api::QuotaLimits { registrations, bytes, watchers, requests_per_second } = limits;
    Quota { registrations, bytes, watchers, requests_per_second }
}

pub(crate) fn quota_out(quota: Quota) -> api::QuotaLimits {
    let Quota { registrations, bytes, watchers, requests_per_second } = quota;
    api::QuotaLimits { registrations, bytes, watchers, requests_per_second }
}

pub(crate) fn quota_kind_out(kind: QuotaKind) -> api::QuotaKind {
    match kind {
        QuotaKind::Registrations => api::QuotaKind::Registrations,
        QuotaKind::Bytes => api::QuotaKind::Bytes,
        QuotaKind::Watchers => api::QuotaKind::Watchers,
        QuotaKind::RequestsPerSecond => api::QuotaKind::RequestsPerSecond,
    }
}

/// With the watchers of this node.
pub(crate) fn usage_out(usage: Usage, watchers: usize) -> api::QuotaUsage {
    let Usage { registrations, bytes } = usage;
    api::QuotaUsage { registrations, bytes, watchers: watchers as u64 }
}
/// Numbers that were checked one by one.
pub(crate) fn protection_in(request: api::ProtectionRequest) -> Result<Protection, ProtectionError> {
    let api::ProtectionRequest { share, window_ms, release_per_minute, leases_min } = request;
    let share_permille = (share * 1e3).round() as u32;
    let rest = [window_ms.unwrap_or(60_000), release_per_minute.unwrap_or(60), leases_min.unwrap_or(10)];
    let [window_ms, release_per_minute, leases_min] = rest;
    Protection::try_from([share_permille, window_ms, release_per_minute, leases_min])
}

pub(crate) fn protection_out(protection: Protection) -> api::ProtectionRule {
    api::ProtectionRule {
        share: f64::from(protection.share_permille()) / 1e3,
        window_ms: protection.window_ms(),
        release_per_minute: protection.release_per_minute(),
        leases_min: protection.leases_min(),
    }
}

pub(crate) fn alert_form_in(form: api::AlertForm) -> AlertForm {
    match form {
        api::AlertForm::Json => AlertForm::Json,
        api::AlertForm::Alertmanager => AlertForm::Alertmanager,
    }
}

pub(crate) fn alert_form_out(form: AlertForm) -> api::AlertForm {
    match form {
        AlertForm::Json => api::AlertForm::Json,
        AlertForm::Alertmanager => api::AlertForm::Alertmanager,
    }
}

pub(crate) fn trust_out(trust: Trust) -> f64 {
    f64::from(trust.hundredths()) / 1e2
}

pub(crate) fn orders_out(orders: &Orders) -> api::OperatorOrders {
    let order = |order: &Order| api::OrderInfo {
        reason: order.reason.as_deref().map(str::to_owned),
        since: rfc3339(order.since),
    };
    let Orders { maintenance, drain } = orders;
    api::OperatorOrders { maintenance: maintenance.as_ref().map(order), drain: drain.as_ref().map(order) }
}

pub(crate) fn status_out(status: Status) -> api::Status {
    match status {
        Status::Active => api::Status::Active,
        Status::Degraded => api::Status::Degraded,
        Status::Maintenance => api::Status::Maintenance,
        Status::Error => api::Status::Error,
        Status::Offline => api::Status::Offline,
    }
}

pub(crate) fn check_scope_in(scope: api::CheckScope) -> CheckScope {
    match scope {
        api::CheckScope::Nobody => CheckScope::Nobody,
        api::CheckScope::Asked => CheckScope::Asked,
        api::CheckScope::All => CheckScope::All,
    }
}

pub(crate) fn check_scope_out(scope: CheckScope) -> api::CheckScope {
    match scope {
        CheckScope::Nobody => api::CheckScope::Nobody,
        CheckScope::Asked => api::CheckScope::Asked,
        CheckScope::All => api::CheckScope::All,
    }
}

pub(crate) fn verdict_out(verdict: Verdict) -> api::Verdict {
    match verdict {
        Verdict::Healthy => api::Verdict::Healthy,
        Verdict::Degraded => api::Verdict::Degraded,
        Verdict::Error => api::Verdict::Error,
    }
}

/// How often to beat: thrice within the TTL, so that two heartbeats may be lost.
pub(crate) fn heartbeat_interval_ms(ttl_ms: u32) -> u32 {
    (ttl_ms / 3).max(1)
}

pub(crate) fn cluster_status(status: ClusterStatus) -> api::ClusterStatusResponse {
    api::ClusterStatusResponse {
        cluster_id: status.cluster_id,
        epoch: status.epoch.0,
        node_id: status.node_id,
        leader_id: status.leader_id,
        term: status.term,
        revision: status.revision.0,
        applied_index: status.applied_index,
        committed_index: status.committed_index,
        membership_index: status.membership_index,
        feature_level: status.feature_level.0,
        cluster_time_ms: status.cluster_time.0,
        autopilot: status.autopilot.map(autopilot),
        members: status.members.into_iter().map(member).collect(),
    }
}

fn autopilot(report: AutopilotReport) -> api::AutopilotInfo {
    let finding = |finding: Finding| api::AutopilotFinding {
        node_id: finding.node_id,
        silent_ms: finding.silent_ms,
        removal_in_ms: finding.removal_in_ms,
        kept_because: finding.kept.map(|kept| match kept {
            Kept::VotersMin => api::KeptBecause::VotersMin,
            Kept::QuorumAtRisk => api::KeptBecause::QuorumAtRisk,
            Kept::BeingReplaced => api::KeptBecause::BeingReplaced,
        }),
    };
    api::AutopilotInfo {
        dead_node_removal_ms: report.removal_ms.unwrap_or(0),
        voters_min: report.voters_min,
        learner_stable_ms: report.learner_stable_ms,
        last_removed: report.last_removed,
        findings: report.findings.into_iter().map(finding).collect(),
    }
}

fn member(member: MemberStatus) -> api::MemberInfo {
    api::MemberInfo {
        node_id: member.node_id,
        role: if member.voter { api::Role::Voter } else { api::Role::Learner },
        replaces: member.replaces,
        api_address: member.api_address,
        peer_address: member.peer_address,
        reachable: member.reachable,
        applied_index: member.applied_index,
        lag_entries: member.lag_entries,
        version: member.version,
        feature_level: member.feature_level.0,
    }
}
