//! Request bodies, checked. What comes out is well formed in every respect that can be judged without the roll.

mod check;
mod laid_down;
mod place;

use std::collections::BTreeMap;

use rollcall_api::{
    Auth, Capability, CapabilityDetail, DeregisterRequest, Endpoint, HeartbeatRequest, HeartbeatsRequest,
    RegisterRequest, Visibility,
};
use rollcall_registry::ids::{NAME_BYTES_MAX, NameError, check_name};
use rollcall_registry::visibility::ALLOWED_REQUESTERS;
use rollcall_registry::{Filter, InstanceId, ServiceName};
use serde_json::{Map, Value};

use crate::fault::{Faults, Fields, LEASE_WANTED};
use crate::params;

pub(crate) use check::checks;
pub(crate) use laid_down::{alert_target, is_stepped, order, protection, quota, ranking, stepped_rule, trust};

/// Long enough for signed URLs; browsers and proxies refuse much longer ones.
pub(crate) const URL_BYTES_MAX: usize = 2_048;
/// Each tag is a posting list that a registration is entered in.
pub(crate) const TAGS_MAX: usize = 64;
/// As many tools as the largest agents offer; each is a posting list.
pub(crate) const CAPABILITIES_MAX: usize = 256;
/// As for capabilities.
pub(crate) const ALLOWED_REQUESTERS_MAX: usize = 256;
/// As for capabilities, of each sort of event.
pub(crate) const EVENTS_MAX: usize = 256;
/// One for each capability, and as many again.
pub(crate) const ENDPOINTS_MAX: usize = 512;
/// Room for shares in millionths.
pub(crate) const WEIGHT_MAX: u32 = 1_000_000;
/// 30 days, so that a forgotten instance does not stay for ever.
pub(crate) const REAP_AFTER_MS_MAX: u32 = 2_592_000_000;
/// A batch of this size is about 100 KB of log.
pub(crate) const LEASES_MAX: usize = 10_000;

/// What the operator chose.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TtlLimits {
    pub(crate) ttl_ms_min: u32,
    pub(crate) ttl_ms_default: u32,
    pub(crate) ttl_ms_max: u32,
}

/// Filters of one subscription.
const FILTERS_MAX: usize = 8;

/// What a WebSocket client sends.
#[derive(Debug)]
pub(crate) enum SocketRequest {
    Subscribe(Subscribe),
    Unsubscribe { subscription_id: u64 },
    Ping,
}

#[derive(Debug)]
pub(crate) struct Subscribe {
    /// Never empty.
    pub(crate) filters: Vec<Filter>,
    pub(crate) from_revision: Option<u64>,
    pub(crate) epoch: Option<u64>,
    /// Other clusters' instances too.
    pub(crate) federated: bool,
}

/// A WebSocket message. Its `request_id` was read before, so that a faulty one is answered under it too.
pub(crate) fn socket_request(message: Value) -> Result<SocketRequest, Faults> {
    let mut faults = Faults::default();
    let request = Fields::open("", message, &mut faults).and_then(socket_request_fields);
    request.filter(|_| faults.is_empty()).ok_or(faults)
}

fn socket_request_fields(mut fields: Fields<'_>) -> Option<SocketRequest> {
    fields.checked("request_id", name_rule);
    let request = match fields.text("type").as_deref() {
        Some("subscribe") => {
            let filters = filters(&mut fields);
            let (from_revision, epoch) = (fields.whole("from_revision"), fields.whole("epoch"));
            if epoch.is_some() && from_revision.is_none() {
                fields.fault("epoch", "needs from_revision");
            }
            let federated = fields.boolean("include_federated").unwrap_or(false);
            Some(SocketRequest::Subscribe(Subscribe { filters, from_revision, epoch, federated }))
        }
        Some("unsubscribe") => match fields.whole("subscription_id") {
            Some(subscription_id) => Some(SocketRequest::Unsubscribe { subscription_id }),
            None => {
                fields.fault("subscription_id", "is required");
                None
            }
        },
        Some("ping") => Some(SocketRequest::Ping),
        _ => {
            fields.fault("type", "must be one of subscribe, unsubscribe, ping");
            None
        }
    };
    fields.finish();
    request
}

/// None given means one that finds everything.
fn filters(fields: &mut Fields<'_>) -> Vec<Filter> {
    let mut filters = Vec::new();
    for (n, item) in fields.list("filters", FILTERS_MAX).unwrap_or_default().into_iter().enumerate() {
        let member = format!("filters[{n}]");
        match item {
            Value::Object(members) => filters.push(params::filter_of(&member, members, fields.faults)),
            _ => fields.fault(&member, "must be an object"),
        }
    }
    if filters.is_empty() {
        filters.push(Filter::default());
    }
    filters.sort();
    filters.dedup();
    filters
}

/// The body of a registration.
pub(crate) fn register(body: Value, limits: TtlLimits) -> Result<RegisterRequest, Faults> {
    let mut faults = Faults::default();
    let request = Fields::open("", body, &mut faults).and_then(|fields| register_fields(fields, limits));
    request.filter(|_| faults.is_empty()).ok_or(faults)
}

fn register_fields(mut fields: Fields<'_>, limits: TtlLimits) -> Option<RegisterRequest> {
    let id = fields.checked("id", |text| InstanceId::parse(text).map(drop));
    let name = fields.required("name", |text| ServiceName::parse(text).map(drop));
    let url = fields.required("url", check_url);
    let kind = fields.word("type");
    let version = fields.checked("version", name_rule);
    let tags = fields.texts("tags", TAGS_MAX, name_rule).map(distinct);
    let protocol = fields.word("protocol");
    let endpoints = endpoints(&mut fields);
    let auth = fields.open_member("auth").and_then(auth);
    let owner = fields.checked("owner", name_rule);
    let visibility = fields.word("visibility");
    let capabilities = capabilities(&mut fields);
    let consumed_events = fields.texts("consumed_events", EVENTS_MAX, name_rule).map(distinct);
    let produced_events = fields.texts("produced_events", EVENTS_MAX, name_rule).map(distinct);
    let metadata = metadata(&mut fields);
    if visibility == Some(Visibility::Restricted) {
        check_allowed_requesters(metadata.as_ref(), &mut fields);
    }
    let locality = fields.open_member("locality").map(place::locality);
    let weight = fields.number("weight", 0, WEIGHT_MAX);
    let ttl_ms = fields.number("ttl_ms", limits.ttl_ms_min, limits.ttl_ms_max);
    let reap_after_ms = fields.number("reap_after_ms", 0, REAP_AFTER_MS_MAX);
    let lease_ms = ttl_ms.unwrap_or(limits.ttl_ms_default);
    let health_check = fields.open_member("health_check");
    let health_check = health_check.map(|fields| check::health_check(fields, url.as_deref(), lease_ms));
    let signature = fields.text("signature");
    let public_key = fields.text("public_key");
    fields.finish();
    Some(RegisterRequest {
        id,
        name: name?,
        kind,
        version,
        tags,
        url: url?,
        protocol,
        endpoints,
        auth,
        owner,
        visibility,
        capabilities,
        consumed_events,
        produced_events,
        metadata,
        locality,
        weight,
        ttl_ms,
        reap_after_ms,
        health_check,
        signature,
        public_key,
    })
}

/// The body of a heartbeat.
pub(crate) fn heartbeat(body: Value) -> Result<HeartbeatRequest, Faults> {
    let mut faults = Faults::default();
    let request = Fields::open("", body, &mut faults).map(|mut fields| {
        let lease_id = fields.lease("lease_id");
        let status = fields.word("status");
        let metadata = metadata(&mut fields);
        if metadata.as_ref().is_some_and(|metadata| metadata.contains_key(ALLOWED_REQUESTERS)) {
            let member = format!("metadata.{ALLOWED_REQUESTERS}");
            fields.fault(&member, "is changed by registering: a heartbeat changes nobody's rights");
        }
        fields.finish();
        HeartbeatRequest { lease_id, status, metadata }
    });
    request.filter(|_| faults.is_empty()).ok_or(faults)
}

/// The body of a batch of heartbeats.
pub(crate) fn heartbeats(body: Value) -> Result<HeartbeatsRequest, Faults> {
    let mut faults = Faults::default();
    let request = Fields::open("", body, &mut faults).and_then(|mut fields| {
        let leases = match fields.take("leases") {
            None => {
                fields.fault("leases", REQUIRED);
                None
            }
            Some(Value::Array(items)) if items.len() <= LEASES_MAX => Some(leases(items, &mut fields)),
            Some(Value::Array(items)) => {
                fields.fault("leases", format!("has {} entries, at most {LEASES_MAX} are allowed", items.len()));
                None
            }
            Some(_) => {
                fields.fault("leases", "must be a list of lease ids");
                None
            }
        };
        fields.finish();
        Some(HeartbeatsRequest { leases: leases? })
    });
    request.filter(|_| faults.is_empty()).ok_or(faults)
}

fn leases(items: Vec<Value>, fields: &mut Fields<'_>) -> Vec<u64> {
    let mut leases = Vec::with_capacity(items.len());
    for (n, item) in items.into_iter().enumerate() {
        match item.as_u64() {
            Some(lease) => leases.push(lease),
            None => fields.fault(&format!("leases[{n}]"), LEASE_WANTED),
        }
    }
    leases
}

/// The body of a deregistration.
pub(crate) fn deregister(body: Value) -> Result<DeregisterRequest, Faults> {
    let mut faults = Faults::default();
    let request = Fields::open("", body, &mut faults).map(|mut fields| {
        let deregistration_signature = fields.text("deregistration_signature");
        fields.finish();
        DeregisterRequest { deregistration_signature }
    });
    request.filter(|_| faults.is_empty()).ok_or(faults)
}

const REQUIRED: &str = "is required";

impl Fields<'_> {
    /// Text that must be there and that `check` accepts.
    pub(crate) fn required<E: std::fmt::Display>(
        &mut self,
        member: &str,
        check: impl FnOnce(&str) -> Result<(), E>,
    ) -> Option<String> {
        let value = self.take(member);
        match value {
            None => {
                self.fault(member, REQUIRED);
                None
            }
            Some(Value::String(text)) => match check(&text) {
                Ok(()) => Some(text),
                Err(error) => {
                    self.fault(member, error.to_string());
                    None
                }
            },
            Some(_) => {
                self.fault(member, "must be a string");
                None
            }
        }
    }
}

pub(crate) fn name_rule(text: &str) -> Result<(), NameError> {
    check_name(text, NAME_BYTES_MAX)
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum UrlError {
    #[error(transparent)]
    Text(#[from] NameError),
    #[error("must begin with a scheme, as in `http://host:port`")]
    SchemeMissing,
}

fn check_url(text: &str) -> Result<(), UrlError> {
    check_name(text, URL_BYTES_MAX)?;
    match text.split_once(':') {
        Some((scheme, rest)) if is_scheme(scheme) && !rest.is_empty() => Ok(()),
        _ => Err(UrlError::SchemeMissing),
    }
}

fn is_scheme(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.'))
}

/// Without repetitions, each where it stood first.
pub(crate) fn distinct(mut texts: Vec<String>) -> Vec<String> {
    let mut seen = std::collections::HashSet::new();
    texts.retain(|text| seen.insert(text.clone()));
    texts
}

fn metadata(fields: &mut Fields<'_>) -> Option<Map<String, Value>> {
    let metadata = fields.object("metadata")?;
    for key in metadata.keys() {
        if let Err(error) = name_rule(key) {
            fields.fault(&format!("metadata.{}", key.escape_debug()), format!("key {error}"));
        }
    }
    Some(metadata)
}

/// Whoever is not named as it should be would not be let in, and nobody would be told why.
fn check_allowed_requesters(metadata: Option<&Map<String, Value>>, fields: &mut Fields<'_>) {
    let Some(allowed) = metadata.and_then(|metadata| metadata.get(ALLOWED_REQUESTERS)) else { return };
    let member = format!("metadata.{ALLOWED_REQUESTERS}");
    let Value::Array(allowed) = allowed else {
        fields.fault(&member, "must be a list of who may see a restricted registration");
        return;
    };
    if allowed.len() > ALLOWED_REQUESTERS_MAX {
        let count = allowed.len();
        fields.fault(&member, format!("has {count} entries, at most {ALLOWED_REQUESTERS_MAX} are allowed"));
    }
    for (n, requester) in allowed.iter().enumerate() {
        let fault = match requester {
            Value::String(name) => name_rule(name).err().map(|error| error.to_string()),
            _ => Some("must be a string".to_owned()),
        };
        if let Some(fault) = fault {
            fields.fault(&format!("{member}[{n}]"), fault);
        }
    }
}

fn auth(mut fields: Fields<'_>) -> Option<Auth> {
    let auth_type = fields.required("type", |text| text.parse::<rollcall_api::AuthType>().map(drop));
    let token = fields.text("token");
    let certificate = fields.text("certificate");
    let public_key = fields.text("public_key");
    let auth_endpoint = fields.text("auth_endpoint");
    fields.finish();
    Some(Auth { auth_type: auth_type?.parse().ok()?, token, certificate, public_key, auth_endpoint })
}

fn endpoints(fields: &mut Fields<'_>) -> Option<Vec<Endpoint>> {
    let items = fields.list("endpoints", ENDPOINTS_MAX)?;
    let endpoint = |(n, item)| {
        let path = fields.path(&format!("endpoints[{n}]"));
        Fields::open(path, item, fields.faults).and_then(endpoint)
    };
    Some(items.into_iter().enumerate().filter_map(endpoint).collect())
}

fn endpoint(mut fields: Fields<'_>) -> Option<Endpoint> {
    let path = fields.required("path", |text| check_name(text, URL_BYTES_MAX));
    let method = fields.required("method", |text| text.parse::<rollcall_api::Method>().map(drop));
    let description = fields.text("description");
    let input_schema = fields.take("input_schema");
    let output_schema = fields.take("output_schema");
    let rate_limit = fields.take("rate_limit");
    let auth_required = fields.boolean("auth_required");
    fields.finish();
    Some(Endpoint {
        path: path?,
        method: method?.parse().ok()?,
        description,
        input_schema,
        output_schema,
        rate_limit,
        auth_required,
    })
}

fn capabilities(fields: &mut Fields<'_>) -> Option<Vec<Capability>> {
    let items = fields.list("capabilities", CAPABILITIES_MAX)?;
    let mut places = BTreeMap::new();
    let mut capabilities = Vec::with_capacity(items.len());
    for (n, item) in items.into_iter().enumerate() {
        let member = format!("capabilities[{n}]");
        let (capability, name, name_path) = match item {
            Value::String(name) => {
                if let Err(error) = name_rule(&name) {
                    fields.fault(&member, error.to_string());
                    continue;
                }
                (Capability::Name(name.clone()), name, member)
            }
            Value::Object(_) => {
                let inner = Fields::open(fields.path(&member), item, fields.faults);
                let Some(detail) = inner.and_then(capability_detail) else { continue };
                let name = detail.capability_name.clone();
                (Capability::Detail(Box::new(detail)), name, format!("{member}.capability_name"))
            }
            _ => {
                fields.fault(&member, "must be a name or an object with `capability_name`");
                continue;
            }
        };
        match places.get(&name) {
            Some(first) => fields.fault(&name_path, format!("repeats capabilities[{first}]")),
            None => {
                places.insert(name, n);
                capabilities.push(capability);
            }
        }
    }
    Some(capabilities)
}

fn capability_detail(mut fields: Fields<'_>) -> Option<CapabilityDetail> {
    let capability_name = fields.required("capability_name", name_rule);
    let capability_type = fields.checked("capability_type", name_rule);
    let description = fields.text("description");
    let version = fields.checked("version", name_rule);
    let input_types = fields.texts("input_types", CAPABILITIES_MAX, name_rule);
    let output_types = fields.texts("output_types", CAPABILITIES_MAX, name_rule);
    let input_schema = fields.take("input_schema");
    let output_schema = fields.take("output_schema");
    let complexity_level = fields.take("complexity_level");
    if complexity_level.as_ref().is_some_and(|level| !level.is_number() && !level.is_string()) {
        fields.fault("complexity_level", "must be a number or a string");
    }
    let performance_metrics = fields.object("performance_metrics");
    let required_permissions = fields.texts("required_permissions", CAPABILITIES_MAX, name_rule);
    fields.finish();
    Some(CapabilityDetail {
        capability_name: capability_name?,
        capability_type,
        description,
        version,
        input_types,
        output_types,
        input_schema,
        output_schema,
        complexity_level,
        performance_metrics,
        required_permissions,
    })
}

#[cfg(test)]
mod tests;
