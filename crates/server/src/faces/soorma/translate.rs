//! Between the SDK's models and the one model.

use std::collections::HashSet;

use rollcall_registry::registration::{Capability, CapabilityView, Extras, JsonText};
use rollcall_registry::{
    Definition, DefinitionContent, Instance, InstanceId, Kind, Metadata, MetadataValue, Registration,
    RegistrationView, ServiceName, Visibility,
};
use serde::Serialize;
use serde_json::Value;

use super::Terms;
use super::wire::{AgentCapability, AgentDefinition, EventDefinition, PayloadSchema};
use crate::render::rfc3339;

/// Where agents of other faces are asked, as the SDK puts it for capabilities that are mere names.
const TOPIC_DEFAULT: &str = "action-requests";
const EVENT_UNKNOWN: &str = "unknown";

/// Under which key the roll keeps what the agent says of itself.
const DESCRIPTION: &str = "description";

fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("wire types have text keys and no failing serializer")
}

/// An agent as the roll has it. Explicit events win; missing or empty ones are those of its capabilities.
pub(super) fn registration(mut agent: AgentDefinition, terms: &Terms) -> Registration {
    let consumed = agent.capabilities.iter().map(|capability| &capability.consumed_event);
    let consumed = named(agent.consumed_events.take(), consumed);
    let produced = agent.capabilities.iter().flat_map(|capability| &capability.produced_events);
    let produced = named(agent.produced_events.take(), produced);
    (agent.consumed_events, agent.produced_events) = (Some(consumed.clone()), Some(produced.clone()));
    let (name, version) = parts(&agent.name);
    // The model knows a capability once; the document has all of them.
    let mut seen = HashSet::new();
    let capabilities = agent.capabilities.iter().filter(|capability| seen.insert(&capability.task_name));
    let boxed = |texts: Vec<String>| texts.into_iter().map(Into::into).collect();
    let id = InstanceId::parse(&agent.agent_id).expect("a parsed request has a valid id");
    Registration {
        kind: Kind::Agent,
        // Nobody but the tenant's own.
        visibility: Visibility::Internal,
        reap_after_ms: terms.reap_after_ms,
        version: version.map(Into::into),
        capabilities: capabilities.map(capability_in).collect(),
        consumed_events: boxed(consumed),
        produced_events: boxed(produced),
        metadata: Metadata::new([(DESCRIPTION, MetadataValue::Text(&agent.description))]),
        extras: Extras { document: Some(json(&agent).into()), ..Extras::default() },
        ..Registration::new(
            id,
            ServiceName::parse(name).expect("a part of a valid name that is not empty is valid"),
            // Agents are reached by events; they have no address of their own.
            &format!("soorma:{}", agent.agent_id),
            terms.ttl_ms,
        )
    }
}

/// The names that were given, else those of the capabilities' events, each once.
fn named<'a>(given: Option<Vec<String>>, events: impl Iterator<Item = &'a EventDefinition>) -> Vec<String> {
    let given = given.filter(|names| !names.is_empty());
    let mut names = given.unwrap_or_else(|| events.map(|event| event.event_name.clone()).collect());
    let mut seen = HashSet::new();
    names.retain(|name| seen.insert(name.clone()));
    names
}

/// `name:version` at the first colon, as the SDK takes it apart.
fn parts(name: &str) -> (&str, Option<&str>) {
    match name.split_once(':') {
        Some((name, version)) if !name.is_empty() && !version.is_empty() => (name, Some(version)),
        _ => (name, None),
    }
}

/// The other way round.
pub(super) fn wire_name(registration: &RegistrationView<'_>) -> String {
    match registration.version {
        Some(version) => format!("{}:{version}", registration.name),
        None => registration.name.to_owned(),
    }
}

fn capability_in(capability: &AgentCapability) -> Capability {
    let produced: Vec<_> = capability.produced_events.iter().map(|event| event.event_name.clone()).collect();
    let detail = rollcall_api::CapabilityDetail {
        capability_name: capability.task_name.clone(),
        description: Some(capability.description.clone()).filter(|text| !text.is_empty()),
        input_types: Some(vec![capability.consumed_event.event_name.clone()]),
        output_types: Some(produced).filter(|types| !types.is_empty()),
        input_schema: capability.consumed_event.payload_schema.clone().map(Value::Object),
        ..rollcall_api::CapabilityDetail::default()
    };
    Capability { name: capability.task_name.as_str().into(), detail: Some(JsonText(json(&detail).into())) }
}

/// An agent as its SDK reads it: the document that came in, or what can be said of one that came by another face.
pub(super) fn agent_text(instance: &Instance) -> String {
    let registration = instance.registration();
    match registration.extras.document {
        Some(document) if is_own(document, registration.id) => document.to_owned(),
        _ => json(&foreign_agent(instance, &registration)),
    }
}

/// Whether a document is one of this face: other faces keep theirs in the same place.
fn is_own(document: &str, id: &str) -> bool {
    // Told apart by its beginning, which only this face renders so, before it is parsed.
    document.starts_with("{\"agentId\":")
        && serde_json::from_str::<AgentDefinition>(document).is_ok_and(|agent| agent.agent_id == id)
}

fn foreign_agent(instance: &Instance, registration: &RegistrationView<'_>) -> AgentDefinition {
    let texts = |texts: rollcall_registry::Texts<'_>| Some(texts.map(str::to_owned).collect());
    let description = match instance.metadata_value(DESCRIPTION) {
        Some(MetadataValue::Text(text)) => text.to_owned(),
        Some(MetadataValue::Json(_)) | None => String::new(),
    };
    AgentDefinition {
        agent_id: registration.id.to_owned(),
        name: wire_name(registration),
        description,
        capabilities: registration.capabilities.map(foreign_capability).collect(),
        consumed_events: texts(registration.consumed_events),
        produced_events: texts(registration.produced_events),
    }
}

fn foreign_capability(capability: CapabilityView<'_>) -> AgentCapability {
    let detail: Value = capability.detail.and_then(|json| serde_json::from_str(json).ok()).unwrap_or_default();
    let description = detail["description"].as_str().unwrap_or_default().to_owned();
    AgentCapability {
        task_name: capability.name.to_owned(),
        consumed_event: EventDefinition {
            event_name: EVENT_UNKNOWN.to_owned(),
            topic: TOPIC_DEFAULT.to_owned(),
            description: description.clone(),
            payload_schema_name: None,
            response_schema_name: None,
            payload_schema: detail["input_schema"].as_object().cloned(),
            response_schema: detail["output_schema"].as_object().cloned(),
        },
        description,
        produced_events: Vec::new(),
    }
}

/// An event as the roll keeps it.
pub(super) fn event(event: EventDefinition) -> rollcall_registry::EventDefinition {
    let document = json(&event).into();
    let name = super::wire::definition_name(&event.event_name).expect("a parsed request has a valid name");
    rollcall_registry::EventDefinition { name, topic: event.topic.into(), document }
}

pub(super) fn schema(schema: PayloadSchema) -> rollcall_registry::SchemaDefinition {
    let name = |text: &str| super::wire::definition_name(text).expect("a parsed request has valid names");
    rollcall_registry::SchemaDefinition {
        name: name(&schema.schema_name),
        version: name(&schema.version),
        owner: schema.owner_agent_id.map(Into::into),
        description: schema.description.map(Into::into),
        schema: json(&schema.json_schema).into(),
    }
}

/// A version of a schema as its SDK reads it; empty for what is none.
pub(super) fn schema_text(definition: &Definition) -> String {
    let DefinitionContent::Schema(schema) = &definition.content else { return String::new() };
    // The schema itself is JSON text already.
    format!(
        r#"{{"schemaName":{},"version":{},"jsonSchema":{},"description":{},"ownerAgentId":{},"createdAt":"{}","updatedAt":"{}"}}"#,
        json(&schema.name.as_str()),
        json(&schema.version.as_str()),
        schema.schema,
        json(&schema.description),
        json(&schema.owner),
        rfc3339(definition.defined_at),
        rfc3339(definition.updated_at),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn names(texts: &[Box<str>]) -> Vec<&str> {
        texts.iter().map(|text| &**text).collect()
    }

    #[test]
    fn names_are_taken_apart_and_put_together() {
        for name in ["a:1.0.0", "a:b:c", "a", ":1", "a:", ":"] {
            let (part, version) = parts(name);
            let registration = Registration {
                version: version.map(Into::into),
                ..Registration::new(
                    InstanceId::parse("i").unwrap(),
                    ServiceName::parse(part).unwrap(),
                    "http://a",
                    1_000,
                )
            };
            assert_eq!(wire_name(&registration.pack().view()), name);
        }
        assert_eq!(parts("worker:2.0.0"), ("worker", Some("2.0.0")));
    }

    #[test]
    fn events_of_capabilities_count_where_none_are_given() {
        let event = |name: &str| {
            json!({ "eventName": name, "topic": "t", "description": "", "payloadSchemaName": null,
                "responseSchemaName": null, "payloadSchema": null, "responseSchema": null })
        };
        let agent = |consumed: Value| -> AgentDefinition {
            serde_json::from_value(json!({ "agentId": "a", "name": "n:1", "description": "d", "capabilities": [
                { "taskName": "x", "description": "", "consumedEvent": event("in"), "producedEvents": [event("out"), event("out")] },
                { "taskName": "y", "description": "", "consumedEvent": event("in"), "producedEvents": [event("more")] },
            ], "consumedEvents": consumed, "producedEvents": null }))
            .unwrap()
        };
        let terms = Terms { ttl_ms: 300_000, reap_after_ms: 60_000, origins: [].into() };
        let derived = registration(agent(json!([])), &terms);
        assert_eq!(names(&derived.consumed_events), ["in"]);
        assert_eq!(names(&derived.produced_events), ["out", "more"]);
        let given = registration(agent(json!(["only"])), &terms);
        assert_eq!(names(&given.consumed_events), ["only"]);
        assert_eq!(given.name.as_str(), "n");
    }
}
