//! Between the wire and the roll: the one place where both sets of types meet.

use std::sync::Arc;

use jiff::Timestamp;
use rollcall_api as api;
use rollcall_registry::registration::{Capability, Extras, JsonText, Locality, MetadataValue};
use rollcall_registry::{
    ClusterTime, Instance, InstanceId, Kind, Metadata, Protocol, Registered, Registration, ServiceName, State,
    Status, TenantId, View, Visibility, WallTime,
};
use rollcall_replica::{ClusterStatus, MemberStatus};
use serde::Serialize;
use serde_json::{Map, Value};

use crate::parse::TtlLimits;

/// A checked request as the roll wants it, with the id it named.
pub(crate) fn registration(request: api::RegisterRequest, limits: TtlLimits) -> (Option<InstanceId>, Registration) {
    let id = request.id.map(|id| InstanceId::parse(&id).expect("a parsed request has a valid id"));
    let kind = request.kind.map_or(Kind::Service, kind_in);
    let protocol = request.protocol.map_or_else(|| protocol_of_url(&request.url), protocol_in);
    let extras = Extras {
        endpoints: request.endpoints.filter(|list| !list.is_empty()).map(|endpoints| json_text(&endpoints)),
        auth: request.auth.map(|auth| json_text(&auth)),
        signature: request.signature.map(Into::into),
        public_key: request.public_key.map(Into::into),
        locality: request.locality.map(locality_in).unwrap_or_default(),
        document: None,
    };
    let registration = Registration {
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
        extras: (extras != Extras::default()).then(|| Box::new(extras)),
    };
    (id, registration)
}

/// Metadata as the roll keeps it: text unquoted, all else as compact JSON.
pub(crate) fn metadata_in(metadata: Map<String, Value>) -> Metadata {
    let value = |value| match value {
        Value::String(text) => MetadataValue::Text(text.into()),
        other => MetadataValue::Json(json_text(&other)),
    };
    Metadata::new(metadata.into_iter().map(|(key, v)| (key.into(), value(v))).collect())
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
fn protocol_of_url(url: &str) -> Protocol {
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

fn locality_in(locality: api::Locality) -> Locality {
    Locality { region: locality.region.map(Into::into), zone: locality.zone.map(Into::into) }
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

fn json_text(value: &impl Serialize) -> JsonText {
    let text = serde_json::to_string(value).expect("wire types have text keys and no failing serializer");
    JsonText(text.into())
}

/// When an answer is rendered, for the times that it shows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment {
    /// Cluster time and wall clock of the roll that was read: the same instant.
    now: ClusterTime,
    wall: WallTime,
    /// Cluster time as well as this node can tell.
    cluster_time: ClusterTime,
}

impl Moment {
    pub(crate) fn of(state: &State, cluster_time: ClusterTime) -> Self {
        Self { now: state.now(), wall: state.wall(), cluster_time }
    }
}

/// What the roll holds of one instance, as the wire shows it.
pub(crate) fn service_object(view: &View, moment: Moment) -> api::ServiceObject {
    let instance = &*view.instance;
    let registration = &*instance.registration;
    let extras = registration.extras.as_deref();
    let texts = |texts: &[Box<str>]| texts.iter().map(|text| text.to_string()).collect();
    let text = |text: Option<&str>| text.map(str::to_owned);
    let endpoints = match extras.and_then(|e| e.endpoints.as_ref()).map(json_value) {
        Some(Value::Array(endpoints)) => endpoints,
        _ => Vec::new(),
    };
    let locality = api::Locality { region: text(registration.region()), zone: text(registration.zone()) };
    api::ServiceObject {
        id: instance.id.as_str().to_owned(),
        tenant: instance.tenant.as_str().to_owned(),
        name: registration.name.as_str().to_owned(),
        kind: kind_out(registration.kind),
        version: text(registration.version.as_deref()),
        tags: texts(&registration.tags),
        url: registration.url.to_string(),
        protocol: protocol_out(registration.protocol),
        endpoints,
        auth: extras.and_then(|e| e.auth.as_ref()).map(json_value),
        owner: text(registration.owner.as_deref()),
        visibility: visibility_out(registration.visibility),
        capabilities: registration.capabilities.iter().map(capability_out).collect(),
        consumed_events: texts(&registration.consumed_events),
        produced_events: texts(&registration.produced_events),
        metadata: instance.metadata().map(|(key, value)| (key.to_owned(), metadata_out(value))).collect(),
        locality: (locality != api::Locality::default()).then_some(locality),
        weight: registration.weight,
        ttl_ms: registration.ttl_ms,
        reap_after_ms: registration.reap_after_ms,
        signature: text(extras.and_then(|e| e.signature.as_deref())),
        public_key: text(extras.and_then(|e| e.public_key.as_deref())),
        status: status_out(instance.status()),
        lease: api::LeaseInfo {
            id: instance.lease.0,
            ttl_ms: registration.ttl_ms,
            expires_in_ms: moment.cluster_time.ms_until(view.deadline),
        },
        revision: instance.revision.0,
        created_revision: instance.created_revision.0,
        registered_at: rfc3339(instance.registered_at),
        heartbeat: rfc3339(last_heartbeat(view, moment)),
    }
}

/// The last heartbeat moved the deadline to one TTL after itself. The wall clock then is today's less the cluster time
/// since, which is exact but for the time that cluster time stood still.
fn last_heartbeat(view: &View, moment: Moment) -> WallTime {
    let ttl_ms = u64::from(view.instance.registration.ttl_ms);
    match view.deadline.0.checked_sub(ttl_ms) {
        Some(beaten) => WallTime(moment.wall.0.saturating_sub(ClusterTime(beaten).ms_until(moment.now))),
        None => view.instance.registered_at,
    }
}

/// The instance that an accepted registration made, for an answer that cannot be read from the roll because the
/// instance has changed again since.
pub(crate) fn registered_view(
    tenant: TenantId,
    id: InstanceId,
    registration: Arc<Registration>,
    registered: Registered,
) -> View {
    let instance = Instance {
        tenant,
        id,
        registration,
        reported_metadata: None,
        reported_status: Status::Active,
        lapsed: false,
        lease: registered.lease,
        revision: registered.revision,
        created_revision: registered.created_revision,
        registered_at: registered.registered_at,
        superseded: Box::default(),
    };
    View { instance: instance.into(), deadline: registered.deadline }
}

/// How often to beat: thrice within the TTL, so that two heartbeats may be lost.
pub(crate) fn heartbeat_interval_ms(ttl_ms: u32) -> u32 {
    (ttl_ms / 3).max(1)
}

/// RFC 3339 in UTC with milliseconds; the latest instant that can be written for one beyond it.
pub(crate) fn rfc3339(wall: WallTime) -> String {
    let millisecond = i64::try_from(wall.0).unwrap_or(i64::MAX);
    let instant = Timestamp::from_millisecond(millisecond).unwrap_or(Timestamp::MAX);
    format!("{instant:.3}")
}

fn capability_out(capability: &Capability) -> Value {
    match &capability.detail {
        None => capability.name.to_string().into(),
        Some(detail) => json_value(detail),
    }
}

fn metadata_out(value: &MetadataValue) -> Value {
    match value {
        MetadataValue::Text(text) => text.to_string().into(),
        MetadataValue::Json(json) => json_value(json),
    }
}

fn json_value(JsonText(text): &JsonText) -> Value {
    serde_json::from_str(text).expect("JSON text on the roll was rendered by an edge")
}

fn status_out(status: Status) -> api::Status {
    match status {
        Status::Active => api::Status::Active,
        Status::Degraded => api::Status::Degraded,
        Status::Maintenance => api::Status::Maintenance,
        Status::Error => api::Status::Error,
        Status::Offline => api::Status::Offline,
    }
}

fn kind_out(kind: Kind) -> api::Kind {
    match kind {
        Kind::Agent => api::Kind::Agent,
        Kind::Tool => api::Kind::Tool,
        Kind::Service => api::Kind::Service,
        Kind::Api => api::Kind::Api,
        Kind::Device => api::Kind::Device,
        Kind::Node => api::Kind::Node,
        Kind::Gateway => api::Kind::Gateway,
        Kind::Validator => api::Kind::Validator,
    }
}

fn protocol_out(protocol: Protocol) -> api::Protocol {
    match protocol {
        Protocol::Http => api::Protocol::Http,
        Protocol::Https => api::Protocol::Https,
        Protocol::Ws => api::Protocol::Ws,
        Protocol::Klp => api::Protocol::Klp,
        Protocol::Grpc => api::Protocol::Grpc,
        Protocol::Mqtt => api::Protocol::Mqtt,
    }
}

fn visibility_out(visibility: Visibility) -> api::Visibility {
    match visibility {
        Visibility::Private => api::Visibility::Private,
        Visibility::Internal => api::Visibility::Internal,
        Visibility::Restricted => api::Visibility::Restricted,
        Visibility::Public => api::Visibility::Public,
    }
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
        cluster_time_ms: status.cluster_time.0,
        members: status.members.into_iter().map(member).collect(),
    }
}

fn member(member: MemberStatus) -> api::MemberInfo {
    api::MemberInfo {
        node_id: member.node_id,
        role: if member.voter { api::Role::Voter } else { api::Role::Learner },
        api_address: member.api_address,
        peer_address: member.peer_address,
        reachable: member.reachable,
        applied_index: member.applied_index,
        lag_entries: member.lag_entries,
        version: member.version,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parse;
    use rollcall_registry::{LeaseId, Revision};
    use serde_json::json;

    const LIMITS: TtlLimits = TtlLimits { ttl_ms_min: 1_000, ttl_ms_default: 30_000, ttl_ms_max: 86_400_000 };

    fn view(body: Value) -> View {
        let (id, registration) = registration(parse::register(body, LIMITS).unwrap(), LIMITS);
        let registered = Registered {
            created: true,
            lease: LeaseId(7),
            revision: Revision(7),
            created_revision: Revision(7),
            registered_at: WallTime(1_700_000_000_000),
            deadline: ClusterTime(35_000),
        };
        registered_view(TenantId::parse("default").unwrap(), id.unwrap(), registration.into(), registered)
    }

    fn moment() -> Moment {
        Moment { now: ClusterTime(6_000), wall: WallTime(1_700_000_001_000), cluster_time: ClusterTime(6_500) }
    }

    #[test]
    fn a_registration_comes_back_as_it_was_sent() {
        let body = json!({
            "id": "web-1", "name": "web", "type": "tool", "version": "1.2.3", "tags": ["b", "a"], "url": "http://a:1",
            "protocol": "grpc",
            "endpoints": [{"path": "/x", "method": "POST", "input_schema": {"z": 1, "a": [2]}, "auth_required": false}],
            "auth": {"type": "jwt", "auth_endpoint": "/login"}, "owner": "o", "visibility": "internal",
            "capabilities": ["plain", {"capability_name": "rich", "performance_metrics": {"p99_ms": 1.5}}],
            "consumed_events": ["c"], "produced_events": ["p"],
            "metadata": {"a": "text", "b": 1, "c": null, "d": {"e": [true]}, "f": "{\"not\": \"an object\"}"},
            "locality": {"region": "eu"}, "weight": 0, "ttl_ms": 5000, "reap_after_ms": 9, "signature": "s",
            "public_key": "k"
        });
        let object = serde_json::to_value(service_object(&view(body.clone()), moment())).unwrap();
        for (member, value) in body.as_object().unwrap() {
            assert_eq!(&object[member], value, "{member}");
        }
        assert_eq!(object["lease"], json!({"id": 7, "ttl_ms": 5000, "expires_in_ms": 28_500}));
        assert_eq!(object["status"], "active");
        assert_eq!(object["registered_at"], "2023-11-14T22:13:20.000Z");
    }

    #[test]
    fn defaults_are_shown() {
        let object = service_object(&view(json!({"id": "i", "name": "n", "url": "wss://a"})), moment());
        assert_eq!((object.kind, object.protocol), (api::Kind::Service, api::Protocol::Ws));
        assert_eq!((object.visibility, object.weight, object.ttl_ms), (api::Visibility::Private, 1, 30_000));
        // Renewed at 5,000 of cluster time, one second before the roll's last entry.
        assert_eq!(object.heartbeat, "2023-11-14T22:13:20.000Z");
    }

    #[test]
    fn empty_and_absent_are_the_same_content() {
        let absent = view(json!({"id": "i", "name": "n", "url": "http://a"}));
        let empty = view(json!({
            "id": "i", "name": "n", "url": "http://a", "endpoints": [], "locality": {}, "tags": [], "metadata": {},
            "type": "service", "weight": 1, "ttl_ms": 30_000, "version": null
        }));
        assert_eq!(absent.instance, empty.instance);
    }

    #[test]
    fn a_lapsed_lease_has_nothing_left() {
        let late = Moment { cluster_time: ClusterTime(99_000), ..moment() };
        assert_eq!(
            service_object(&view(json!({"id": "i", "name": "n", "url": "http://a"})), late).lease.expires_in_ms,
            0
        );
    }
}
