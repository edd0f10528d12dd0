//! What is on the roll, as cards. A card that came in goes out as it was written down then; of everything else, whichever
//! face it came by, a card is made that a client can read.

use std::borrow::Cow;

use rollcall_registry::registration::{CapabilityView, RegistrationView};
use rollcall_registry::{Instance, MetadataValue, Protocol};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::card::{
    Document, FORMAT, Formats, PROTOCOL_VERSION, SETTINGS, Setting, Settings, SkillDocument, TRANSPORT, VERSION,
};

/// Where in an instance's metadata stands what the model has no place for.
pub(super) mod key {
    pub(in super::super) const DESCRIPTION: &str = "description";
    pub(in super::super) const TRANSPORT: &str = "transport";
    pub(in super::super) const PROTOCOL_VERSION: &str = "protocol_version";
    pub(in super::super) const INPUT_FORMATS: &str = "input_formats";
    pub(in super::super) const OUTPUT_FORMATS: &str = "output_formats";
    pub(in super::super) const SECURITY_SCHEMES: &str = "security_schemes";
    pub(in super::super) const INTERFACES: &str = "additional_interfaces";

    pub(in super::super) fn setting(name: &str) -> String {
        format!("capabilities.{name}")
    }
}

/// Before a document of this face, so that it is taken for none of another's.
const KEPT: &str = "protolink:";

pub(super) fn kept(document: &str) -> Box<str> {
    format!("{KEPT}{document}").into()
}

pub(super) fn empty_object() -> &'static RawValue {
    serde_json::from_str("{}").expect("it is JSON")
}

pub(super) fn empty_list() -> &'static RawValue {
    serde_json::from_str("[]").expect("it is JSON")
}

/// An instance as a card.
pub(super) struct Shown<'a> {
    instance: &'a Instance,
    pub(super) registration: RegistrationView<'a>,
}

/// What a capability's object says that a skill has a place for.
#[derive(Default, Deserialize)]
struct Detail<'a> {
    #[serde(borrow, default)]
    description: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    input_schema: Option<&'a RawValue>,
    #[serde(borrow, default)]
    output_schema: Option<&'a RawValue>,
}

impl<'a> Shown<'a> {
    pub(super) fn of(instance: &'a Instance) -> Self {
        Self { instance, registration: instance.registration() }
    }

    fn text(&self, key: &str) -> Option<&'a str> {
        match self.instance.metadata_value(key) {
            Some(MetadataValue::Text(text)) if !text.is_empty() => Some(text),
            _ => None,
        }
    }

    pub(super) fn description(&self) -> Cow<'a, str> {
        let made = || Cow::Owned(format!("{} {}", self.registration.kind, self.registration.name));
        self.text(key::DESCRIPTION).map_or_else(made, Cow::Borrowed)
    }

    /// A client takes no card without one.
    pub(super) fn url(&self) -> Cow<'a, str> {
        match self.registration.url {
            "" => format!("urn:rollcall:{}", self.registration.id).into(),
            url => url.into(),
        }
    }

    pub(super) fn transport(&self) -> &'a str {
        self.text(key::TRANSPORT).unwrap_or(match self.registration.protocol {
            Protocol::Http | Protocol::Https => TRANSPORT,
            Protocol::Ws => "websocket",
            other => other.as_str(),
        })
    }

    pub(super) fn version(&self) -> &'a str {
        self.registration.version.unwrap_or(VERSION)
    }

    pub(super) fn protocol_version(&self) -> &'a str {
        self.text(key::PROTOCOL_VERSION).unwrap_or(PROTOCOL_VERSION)
    }

    /// One of the card's capabilities. What says nothing of it has it not: what knows no Protolink cannot be delegated to.
    pub(super) fn setting(&self, (name, setting): (&str, Setting)) -> Setting {
        let label = self.instance.metadata_value(&key::setting(name)).and_then(MetadataValue::label);
        match setting {
            Setting::Switch(_) => Setting::Switch(label == Some("true")),
            Setting::Count(default) => Setting::Count(label.and_then(|n| n.parse().ok()).unwrap_or(default)),
            Setting::Declared(_) => Setting::Declared(label.and_then(|on| on.parse().ok())),
        }
    }

    fn list(&self, key: &str) -> Formats<'a> {
        match self.instance.metadata_value(key) {
            Some(MetadataValue::Json(json)) if json.starts_with('[') => {
                Formats::Raw(serde_json::from_str(json).expect("metadata is JSON as the edge wrote it"))
            }
            _ => Formats::Default([FORMAT]),
        }
    }

    /// Appends the card.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        if let Some(document) = self.registration.extras.document.and_then(|document| document.strip_prefix(KEPT)) {
            out.extend_from_slice(document.as_bytes());
            return;
        }
        let (description, url) = (self.description(), self.url());
        let capabilities: Vec<_> =
            self.registration.capabilities.map(|capability| (capability, detail(capability))).collect();
        let document = Document {
            name: self.registration.name,
            description: &description,
            url: &url,
            transport: self.transport(),
            version: self.version(),
            protocol_version: self.protocol_version(),
            capabilities: Settings(SETTINGS.map(|setting| self.setting(setting))),
            skills: capabilities.iter().map(|(capability, detail)| skill(capability, detail)).collect(),
            input_formats: self.list(key::INPUT_FORMATS),
            output_formats: self.list(key::OUTPUT_FORMATS),
            security_schemes: empty_object(),
            tags: self.registration.tags.collect(),
            additional_interfaces: &[],
        };
        serde_json::to_writer(out, &document).expect("a card has no failing serializer");
    }
}

fn detail(capability: CapabilityView<'_>) -> Detail<'_> {
    // Another face may have written something else there than a description.
    capability.detail.and_then(|detail| serde_json::from_str(detail).ok()).unwrap_or_default()
}

fn skill<'a>(capability: &CapabilityView<'a>, detail: &'a Detail<'a>) -> SkillDocument<'a> {
    let schema = |schema: Option<&'a RawValue>| schema.filter(|schema| schema.get().starts_with('{'));
    SkillDocument {
        id: capability.name,
        description: detail.description.as_deref().unwrap_or_default(),
        input_schema: schema(detail.input_schema).unwrap_or(empty_object()),
        output_schema: schema(detail.output_schema).unwrap_or(empty_object()),
        tags: &[],
        examples: empty_list(),
    }
}
