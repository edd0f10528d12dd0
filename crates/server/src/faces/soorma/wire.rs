//! What the SDK sends and reads: its models, by its names.

use rollcall_registry::ids::NAME_BYTES_MAX;
use rollcall_registry::{Compatibility, DefinitionName, InstanceId, ServiceName};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::fields::{self, Faults, Fields};
use crate::parse::{CAPABILITIES_MAX, EVENTS_MAX};

/// What a plain name becomes that no version was given to.
const VERSION_DEFAULT: &str = "1.0.0";

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct AgentDefinition {
    pub(super) agent_id: String,
    /// `name:version`.
    pub(super) name: String,
    pub(super) description: String,
    pub(super) capabilities: Vec<AgentCapability>,
    pub(super) consumed_events: Option<Vec<String>>,
    pub(super) produced_events: Option<Vec<String>>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct AgentCapability {
    pub(super) task_name: String,
    pub(super) description: String,
    pub(super) consumed_event: EventDefinition,
    pub(super) produced_events: Vec<EventDefinition>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = SoormaEventDefinition)]
pub(super) struct EventDefinition {
    pub(super) event_name: String,
    pub(super) topic: String,
    pub(super) description: String,
    pub(super) payload_schema_name: Option<String>,
    pub(super) response_schema_name: Option<String>,
    pub(super) payload_schema: Option<Map<String, Value>>,
    pub(super) response_schema: Option<Map<String, Value>>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct PayloadSchema {
    pub(super) schema_name: String,
    pub(super) version: String,
    pub(super) json_schema: Map<String, Value>,
    pub(super) description: Option<String>,
    pub(super) owner_agent_id: Option<String>,
    /// Set by the server.
    pub(super) created_at: Option<String>,
    /// Set by the server.
    pub(super) updated_at: Option<String>,
}

/// What is to be validated, and against which version; none is the latest.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub(super) struct Validation {
    pub(super) payload: Value,
    pub(super) version: Option<String>,
}

fn body() -> Vec<Value> {
    vec!["body".into()]
}

/// `{"agent": {…}}`
pub(super) fn agent(value: Value, faults: &mut Faults) -> Option<AgentDefinition> {
    let mut envelope = Fields::open(body(), value, faults)?;
    let mut fields = envelope.open_member("agent")?;
    let agent_id = fields.checked("agentId", |text| InstanceId::parse(text).map(drop));
    let version = fields.optional_name("version");
    let name = fields.checked("name", |text| ServiceName::parse(text).map(drop));
    let description = fields.text("description");
    let capabilities = fields.list("capabilities", CAPABILITIES_MAX, capability);
    let consumed_events = fields.optional_list("consumedEvents", EVENTS_MAX, fields::name);
    let produced_events = fields.optional_list("producedEvents", EVENTS_MAX, fields::name);
    let name = name.map(|name| versioned(name, version.as_deref()));
    if let Some(name) = name.as_ref().filter(|name| name.len() > NAME_BYTES_MAX) {
        let place = fields.place("name");
        let message =
            format!("String is {} bytes long with its version, at most {NAME_BYTES_MAX} are allowed", name.len());
        faults.push("string_too_long", &place, &message, &Value::Null);
        return None;
    }
    Some(AgentDefinition {
        agent_id: agent_id?,
        name: name?,
        description: description?,
        capabilities: capabilities?,
        consumed_events,
        produced_events,
    })
}

/// As the SDK's model does it, on both ends.
fn versioned(name: String, version: Option<&str>) -> String {
    if name.contains(':') { name } else { format!("{name}:{}", version.unwrap_or(VERSION_DEFAULT)) }
}

fn capability(place: Vec<Value>, value: Value, faults: &mut Faults) -> Option<AgentCapability> {
    let mut fields = Fields::open(place, value, faults)?;
    let task_name = fields.name("taskName");
    let description = fields.text("description");
    let consumed_event = fields.open_member("consumedEvent").and_then(event_fields);
    let produced_events = fields.list("producedEvents", EVENTS_MAX, |place, value, faults| {
        Fields::open(place, value, faults).and_then(event_fields)
    });
    Some(AgentCapability {
        task_name: task_name?,
        description: description?,
        consumed_event: consumed_event?,
        produced_events: produced_events?,
    })
}

fn event_fields(mut fields: Fields<'_>) -> Option<EventDefinition> {
    let event_name = fields.name("eventName");
    let topic = fields.name("topic");
    let description = fields.text("description");
    let payload_schema_name = fields.optional_name("payloadSchemaName");
    let response_schema_name = fields.optional_name("responseSchemaName");
    let payload_schema = fields.optional_object("payloadSchema");
    let response_schema = fields.optional_object("responseSchema");
    Some(EventDefinition {
        event_name: event_name?,
        topic: topic?,
        description: description?,
        payload_schema_name,
        response_schema_name,
        payload_schema,
        response_schema,
    })
}

/// `{"event": {…}}`
pub(super) fn event(value: Value, faults: &mut Faults) -> Option<EventDefinition> {
    Fields::open(body(), value, faults)?.open_member("event").and_then(event_fields)
}

/// `{"schema": {…}}`. Times are the server's to set.
pub(super) fn schema(value: Value, faults: &mut Faults) -> Option<PayloadSchema> {
    let mut envelope = Fields::open(body(), value, faults)?;
    let mut fields = envelope.open_member("schema")?;
    let schema_name = fields.name("schemaName");
    let version = fields.name("version");
    let json_schema = fields.object("jsonSchema");
    let description = fields.optional_text("description");
    let owner_agent_id = fields.optional_name("ownerAgentId");
    Some(PayloadSchema {
        schema_name: schema_name?,
        version: version?,
        json_schema: json_schema?,
        description,
        owner_agent_id,
        created_at: None,
        updated_at: None,
    })
}

/// `{"payload": …, "version"?: …}`
pub(super) fn validation(value: Value, faults: &mut Faults) -> Option<Validation> {
    let mut fields = Fields::open(body(), value, faults)?;
    let version = fields.optional_name("version");
    Some(Validation { payload: fields.required("payload")?, version })
}

/// `{"compatibility": "backward"}`
pub(super) fn compatibility(value: Value, faults: &mut Faults) -> Option<Compatibility> {
    let mut fields = Fields::open(body(), value, faults)?;
    let word = fields.text("compatibility")?;
    let place = fields.place("compatibility");
    word.parse().map_err(|error| faults.push("enum", &place, &format!("Input {error}"), &word.into())).ok()
}

pub(super) fn definition_name(text: &str) -> Option<DefinitionName> {
    DefinitionName::parse(text).ok()
}
