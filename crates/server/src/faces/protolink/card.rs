//! An agent card as it comes in: checked, written down as it goes out again, and translated into a registration.
//!
//! A card that is let in can be read by every client. So what a client's parser would stumble over is refused here, with
//! every fault named: a key that it does not know among capabilities or in a skill, a text that is a number.

use axum::http::StatusCode;
use rollcall_api::CapabilityDetail;
use rollcall_registry::ids::check_name;
use rollcall_registry::registration::{Capability, Extras};
use rollcall_registry::{
    InstanceId, Kind, Metadata, MetadataValue, NameError, Protocol, Registration, ServiceName, Visibility,
};
use serde::{Deserialize, Serialize, Serializer};
use serde_json::Value;
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use crate::body;
use crate::fault::{Faults, Fields};
use crate::limits::CARD_PACKED_BYTES_MAX;
use crate::parse::{CAPABILITIES_MAX, ENDPOINTS_MAX, TAGS_MAX, URL_BYTES_MAX, distinct, name_rule};
use crate::reply::Failure;
use crate::translate::{json_text, protocol_of_url};

use super::shown::{self, key};

/// Media types that an agent takes or gives: what one capability lists is repeated for each.
const FORMATS_MAX: usize = 32;

pub(super) const TRANSPORT: &str = "http";
pub(super) const VERSION: &str = "1.0.0";
pub(super) const PROTOCOL_VERSION: &str = "0.8.3";
pub(super) const FORMAT: &str = "text/plain";

/// One of a card's capabilities, which are settings and not what the model calls so: those are a card's skills.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Setting {
    Switch(bool),
    Count(u32),
    /// A switch that may be left undeclared.
    Declared(Option<bool>),
}

/// A card's capabilities in the order in which they are written, each as it is when nothing is said.
pub(super) const SETTINGS: [(&str, Setting); 13] = [
    ("streaming", Setting::Switch(false)),
    ("push_notifications", Setting::Switch(false)),
    ("state_transition_history", Setting::Switch(false)),
    ("delegation", Setting::Switch(true)),
    ("has_llm", Setting::Switch(false)),
    ("max_concurrency", Setting::Count(1)),
    ("message_batching", Setting::Switch(false)),
    ("tool_calling", Setting::Switch(false)),
    ("multi_step_reasoning", Setting::Switch(false)),
    ("timeout_support", Setting::Switch(false)),
    ("rag", Setting::Switch(false)),
    ("code_execution", Setting::Switch(false)),
    ("supports_inference", Setting::Declared(None)),
];

impl Serialize for Setting {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Switch(on) | Self::Declared(Some(on)) => serializer.serialize_bool(*on),
            Self::Count(count) => serializer.serialize_u32(*count),
            Self::Declared(None) => serializer.serialize_unit(),
        }
    }
}

/// A card's capabilities as JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Settings(pub(super) [Setting; SETTINGS.len()]);

impl Serialize for Settings {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(SETTINGS.iter().map(|(name, _)| name).zip(self.0))
    }
}

/// A card as it is answered: the members, and their order, of what a client sends.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Document<'a> {
    pub(super) name: &'a str,
    pub(super) description: &'a str,
    pub(super) url: &'a str,
    pub(super) transport: &'a str,
    pub(super) version: &'a str,
    pub(super) protocol_version: &'a str,
    pub(super) capabilities: Settings,
    pub(super) skills: Vec<SkillDocument<'a>>,
    pub(super) input_formats: Formats<'a>,
    pub(super) output_formats: Formats<'a>,
    pub(super) security_schemes: &'a RawValue,
    pub(super) tags: Vec<&'a str>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    pub(super) additional_interfaces: &'a [Interface],
}

#[derive(Serialize)]
pub(super) struct SkillDocument<'a> {
    pub(super) id: &'a str,
    pub(super) description: &'a str,
    pub(super) input_schema: &'a RawValue,
    pub(super) output_schema: &'a RawValue,
    pub(super) tags: &'a [String],
    pub(super) examples: &'a RawValue,
}

#[derive(Serialize)]
#[serde(untagged)]
pub(super) enum Formats<'a> {
    List(&'a [String]),
    /// A list as JSON.
    Raw(&'a RawValue),
    Default([&'static str; 1]),
}

impl<'a> Formats<'a> {
    fn of(list: Option<&'a [String]>) -> Self {
        list.map_or(Self::Default([FORMAT]), Self::List)
    }
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Interface {
    url: String,
    transport: String,
    protocol_version: String,
}

/// What of a card is kept as the very text that came in: numbers of any length, and the order of members.
#[derive(Deserialize)]
struct Verbatim<'a> {
    #[serde(borrow, default)]
    skills: Option<Vec<VerbatimSkill<'a>>>,
    #[serde(borrow, default, rename = "securitySchemes")]
    security_schemes: Option<&'a RawValue>,
}

#[derive(Default, Deserialize)]
struct VerbatimSkill<'a> {
    #[serde(borrow, default)]
    input_schema: Option<&'a RawValue>,
    #[serde(borrow, default)]
    output_schema: Option<&'a RawValue>,
    #[serde(borrow, default)]
    examples: Option<&'a RawValue>,
}

#[derive(Debug)]
struct Skill {
    id: String,
    description: String,
    input_schema: Option<Value>,
    output_schema: Option<Value>,
    tags: Vec<String>,
}

/// A card that was checked.
#[derive(Debug)]
pub(super) struct Card {
    name: String,
    description: String,
    url: String,
    transport: Option<String>,
    version: Option<String>,
    protocol_version: Option<String>,
    settings: [Setting; SETTINGS.len()],
    skills: Vec<Skill>,
    input_formats: Option<Vec<String>>,
    output_formats: Option<Vec<String>>,
    /// Null is said, and is not the same as nothing.
    security_schemes: Option<Value>,
    tags: Vec<String>,
    interfaces: Vec<Interface>,
    document: String,
}

impl Card {
    pub(super) fn parse(text: &[u8]) -> Result<Self, Failure> {
        let value = body::parse(text)?;
        let mut faults = Faults::default();
        let card = Fields::open("", value, &mut faults).and_then(card);
        let Some(mut card) = card.filter(|_| faults.is_empty()) else { return Err(Failure::faulty(faults)) };
        let verbatim: Verbatim<'_> = serde_json::from_slice(text).expect("a checked card has these members");
        card.document = card.document(verbatim);
        Ok(card)
    }

    fn document(&self, verbatim: Verbatim<'_>) -> String {
        let verbatim_skills = verbatim.skills.unwrap_or_default();
        let skills = self.skills.iter().zip(&verbatim_skills).map(|(skill, verbatim)| SkillDocument {
            id: &skill.id,
            description: &skill.description,
            input_schema: verbatim.input_schema.unwrap_or(shown::empty_object()),
            output_schema: verbatim.output_schema.unwrap_or(shown::empty_object()),
            tags: &skill.tags,
            examples: verbatim.examples.unwrap_or(shown::empty_list()),
        });
        let document = Document {
            name: &self.name,
            description: &self.description,
            url: &self.url,
            transport: self.transport.as_deref().unwrap_or(TRANSPORT),
            version: self.version.as_deref().unwrap_or(VERSION),
            protocol_version: self.protocol_version.as_deref().unwrap_or(PROTOCOL_VERSION),
            capabilities: Settings(self.settings),
            skills: skills.collect(),
            input_formats: Formats::of(self.input_formats.as_deref()),
            output_formats: Formats::of(self.output_formats.as_deref()),
            security_schemes: match &self.security_schemes {
                Some(Value::Null) => RawValue::NULL,
                Some(_) | None => verbatim.security_schemes.unwrap_or(shown::empty_object()),
            },
            tags: self.tags.iter().map(String::as_str).collect(),
            additional_interfaces: &self.interfaces,
        };
        serde_json::to_string(&document).expect("a card has no failing serializer")
    }

    /// The card in the words of the model, with a lease of this length.
    pub(super) fn registration(self, ttl_ms: u32) -> Result<Registration, Failure> {
        let Self { name, url, transport, version, input_formats, output_formats, .. } = &self;
        let protocol = match transport.as_deref() {
            Some("grpc") => Protocol::Grpc,
            Some("websocket") => Protocol::Ws,
            _ => protocol_of_url(url),
        };
        let mut capabilities: Vec<Capability> = Vec::with_capacity(self.skills.len());
        for skill in &self.skills {
            // A card may say a skill twice; the model wants each name once.
            if !capabilities.iter().any(|capability| *capability.name == *skill.id) {
                capabilities.push(skill.capability(input_formats.as_ref(), output_formats.as_ref()));
            }
        }
        let registration = Registration {
            id: id_of(url),
            name: ServiceName::parse(name).expect("a checked card has a valid name"),
            kind: Kind::Agent,
            protocol,
            visibility: Visibility::Public,
            weight: 1,
            ttl_ms,
            reap_after_ms: 0,
            url: url.as_str().into(),
            version: version.as_deref().map(Into::into),
            owner: None,
            tags: distinct(self.tags.clone()).into_iter().map(Into::into).collect(),
            capabilities: capabilities.into(),
            consumed_events: Box::default(),
            produced_events: Box::default(),
            metadata: self.metadata(),
            extras: Extras { document: Some(shown::kept(&self.document)), ..Extras::default() },
        };
        let bytes = registration.pack().bytes();
        if bytes > CARD_PACKED_BYTES_MAX {
            let detail = format!(
                "the card takes {bytes} bytes with its skills, at most {CARD_PACKED_BYTES_MAX} are allowed: shorten schemas or examples"
            );
            return Err(Failure::new(StatusCode::PAYLOAD_TOO_LARGE, "card_too_large", detail));
        }
        Ok(registration)
    }

    /// What selectors can ask for, and what else the model has no place for.
    fn metadata(&self) -> Metadata {
        let mut pairs: Vec<(String, String, bool)> = Vec::new();
        let mut text = |key: &str, value: Option<&str>| {
            pairs.extend(value.map(|value| (key.to_owned(), value.to_owned(), false)));
        };
        text(key::DESCRIPTION, Some(&self.description));
        text(key::TRANSPORT, Some(self.transport.as_deref().unwrap_or(TRANSPORT)));
        text(key::PROTOCOL_VERSION, Some(self.protocol_version.as_deref().unwrap_or(PROTOCOL_VERSION)));
        for ((name, _), setting) in SETTINGS.iter().zip(self.settings) {
            // What is off is not there, so that a few labels say it all.
            if !matches!(setting, Setting::Switch(false) | Setting::Declared(None)) {
                pairs.push((key::setting(name), json(&setting), true));
            }
        }
        for (key, list) in [(key::INPUT_FORMATS, &self.input_formats), (key::OUTPUT_FORMATS, &self.output_formats)] {
            pairs.extend(list.as_ref().map(|list| (key.to_owned(), json(list), true)));
        }
        if let Some(schemes @ Value::Object(members)) = &self.security_schemes
            && !members.is_empty()
        {
            pairs.push((key::SECURITY_SCHEMES.to_owned(), json(schemes), true));
        }
        if !self.interfaces.is_empty() {
            pairs.push((key::INTERFACES.to_owned(), json(&self.interfaces), true));
        }
        Metadata::new(pairs.iter().map(|(key, value, is_json)| {
            (key.as_str(), if *is_json { MetadataValue::Json(value) } else { MetadataValue::Text(value) })
        }))
    }
}

impl Skill {
    fn capability(&self, input_types: Option<&Vec<String>>, output_types: Option<&Vec<String>>) -> Capability {
        let schema = |schema: &Option<Value>| schema.clone().filter(|s| s.as_object().is_some_and(|s| !s.is_empty()));
        let detail = CapabilityDetail {
            capability_name: self.id.clone(),
            description: Some(self.description.clone()).filter(|text| !text.is_empty()),
            input_types: input_types.cloned(),
            output_types: output_types.cloned(),
            input_schema: schema(&self.input_schema),
            output_schema: schema(&self.output_schema),
            ..CapabilityDetail::default()
        };
        Capability { name: self.id.as_str().into(), detail: Some(json_text(&detail)) }
    }
}

fn json(value: &impl Serialize) -> String {
    json_text(value).0.into()
}

/// A card's identity is its URL, and that is its id. One that cannot be an id, because it is too long or a reserved word, is
/// named by its SHA-256; so is one that looks like such a name, so that no two URLs have one id.
pub(super) fn id_of(url: &str) -> InstanceId {
    const HASHED: &str = "urn:sha256:";
    let plain = Some(url).filter(|url| !url.starts_with(HASHED)).and_then(|url| InstanceId::parse(url).ok());
    plain.unwrap_or_else(|| {
        let hash = Sha256::digest(url.as_bytes());
        InstanceId::parse(&format!("{HASHED}{hash:x}")).expect("a hash is a valid id")
    })
}

fn check_url(text: &str) -> Result<(), NameError> {
    check_name(text, URL_BYTES_MAX)
}

fn any_text(text: &str) -> Result<(), NameError> {
    if text.is_empty() { Err(NameError::Empty) } else { Ok(()) }
}

/// What stands at the top of a card and is not known is dropped, as members of later versions are.
fn card(mut fields: Fields<'_>) -> Option<Card> {
    let name = fields.required("name", |text| ServiceName::parse(text).map(drop));
    let description = fields.required("description", any_text);
    let url = fields.required("url", check_url);
    let transport = fields.checked("transport", name_rule);
    let version = fields.checked("version", name_rule);
    let protocol_version = fields.checked("protocolVersion", name_rule);
    let settings = settings(&mut fields);
    let skills = objects(&mut fields, "skills", CAPABILITIES_MAX, skill);
    let input_formats = fields.texts("inputFormats", FORMATS_MAX, name_rule);
    let output_formats = fields.texts("outputFormats", FORMATS_MAX, name_rule);
    let security_schemes = match fields.take_nullable("securitySchemes") {
        Some(value) if !value.is_null() && !value.is_object() => {
            fields.fault("securitySchemes", "must be an object");
            None
        }
        value => value,
    };
    let tags = fields.texts("tags", TAGS_MAX, name_rule).unwrap_or_default();
    // The first is what the Python attribute is called, and counts if both are there.
    let interfaces = objects(&mut fields, "interfaces", ENDPOINTS_MAX, interface);
    let additional = objects(&mut fields, "additionalInterfaces", ENDPOINTS_MAX, interface);
    Some(Card {
        name: name?,
        description: description?,
        url: url?,
        transport,
        version,
        protocol_version,
        settings,
        skills: skills.unwrap_or_default(),
        input_formats,
        output_formats,
        security_schemes,
        tags,
        interfaces: interfaces.or(additional).unwrap_or_default(),
        document: String::new(),
    })
}

/// Each object of a list, read by `read`.
fn objects<T>(
    fields: &mut Fields<'_>,
    member: &str,
    count_max: usize,
    read: impl Fn(Fields<'_>) -> Option<T>,
) -> Option<Vec<T>> {
    let items = fields.list(member, count_max)?;
    let object = |(n, item)| {
        let path = fields.path(&format!("{member}[{n}]"));
        Fields::open(path, item, fields.faults).and_then(&read)
    };
    Some(items.into_iter().enumerate().filter_map(object).collect())
}

fn settings(fields: &mut Fields<'_>) -> [Setting; SETTINGS.len()] {
    let mut settings = SETTINGS.map(|(_, setting)| setting);
    let Some(mut given) = fields.open_member("capabilities") else { return settings };
    for ((name, _), setting) in SETTINGS.iter().zip(&mut settings) {
        let said = match setting {
            Setting::Switch(_) => given.boolean(name).map(Setting::Switch),
            Setting::Declared(_) => given.boolean(name).map(|on| Setting::Declared(Some(on))),
            Setting::Count(_) => given.number(name, 0, u32::MAX).map(Setting::Count),
        };
        *setting = said.unwrap_or(*setting);
    }
    given.finish();
    settings
}

fn skill(mut fields: Fields<'_>) -> Option<Skill> {
    let id = fields.required("id", name_rule);
    let description = fields.text("description").unwrap_or_default();
    let input_schema = fields.object("input_schema").map(Value::Object);
    let output_schema = fields.object("output_schema").map(Value::Object);
    let tags = fields.texts("tags", TAGS_MAX, name_rule).unwrap_or_default();
    // What they are is the agent's affair.
    fields.list("examples", usize::MAX);
    fields.finish();
    Some(Skill { id: id?, description, input_schema, output_schema, tags })
}

fn interface(mut fields: Fields<'_>) -> Option<Interface> {
    let url = fields.required("url", check_url);
    let transport = fields.checked("transport", name_rule).unwrap_or_else(|| TRANSPORT.to_owned());
    let protocol_version =
        fields.checked("protocolVersion", name_rule).unwrap_or_else(|| PROTOCOL_VERSION.to_owned());
    Some(Interface { url: url?, transport, protocol_version })
}

/// `agent_url` of a heartbeat or a deregistration; none if it is null, empty or missing.
pub(super) fn agent_url(text: &[u8]) -> Result<Option<String>, Failure> {
    let value = body::parse(text)?;
    let mut faults = Faults::default();
    let url = Fields::open("", value, &mut faults).and_then(|mut fields| fields.text("agent_url"));
    if faults.is_empty() { Ok(url.filter(|url| !url.is_empty())) } else { Err(Failure::faulty(faults)) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn no_two_urls_have_one_id() {
        assert_eq!(id_of("http://a:1/b?c#d").as_str(), "http://a:1/b?c#d");
        assert_eq!(id_of(&"x".repeat(256)).as_str(), "x".repeat(256));
        let hashed = ["watch", "register", "urn:sha256:", &"x".repeat(257), &"x".repeat(2_048)].map(id_of);
        assert!(hashed.iter().all(|id| id.as_str().len() == "urn:sha256:".len() + 64));
        // Whoever takes a hashed name for a URL gets another one.
        let posing = id_of(hashed[3].as_str());
        assert!(!hashed.contains(&posing));
    }

    #[test]
    fn what_was_written_down_is_what_is_read_again() {
        let given = json!({
            "name": "a", "description": "d", "url": "u", "tags": ["b", "a", "b"], "securitySchemes": null,
            "skills": [{"id": "s", "examples": [0]}, {"id": "s", "input_schema": {"b": 1, "a": 2}}],
        });
        let text = given.to_string().replace("[0]", "[123456789012345678901234567890]");
        let first = Card::parse(text.as_bytes()).unwrap();
        for kept in ["\"securitySchemes\":null", "[123456789012345678901234567890]", "{\"b\":1,\"a\":2}"] {
            assert!(first.document.contains(kept), "{kept} in {}", first.document);
        }
        let again = Card::parse(first.document.as_bytes()).unwrap();
        assert_eq!(again.document, first.document);
        let registration = first.registration(1_000).unwrap();
        assert_eq!((registration.tags.len(), registration.capabilities.len()), (2, 1));
    }

    /// A value of any type, often one that is right.
    fn member() -> impl Strategy<Value = Value> {
        prop_oneof![
            Just(json!(null)),
            Just(json!("x")),
            Just(json!("")),
            Just(json!(7)),
            Just(json!(true)),
            Just(json!([])),
            Just(json!(["x", "y"])),
            Just(json!([{"id": "s", "url": "u"}])),
            Just(json!([[{}]])),
            Just(json!({"streaming": true, "max_concurrency": 4})),
            Just(json!({"id": {}})),
        ]
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(text in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = (Card::parse(&text), agent_url(&text));
        }

        #[test]
        fn what_is_let_in_can_be_read_again(members in proptest::collection::vec((0..14usize, member()), 0..8)) {
            let mut card = json!({"name": "n", "description": "d", "url": "u"});
            let names = [
                "name", "description", "url", "transport", "version", "protocolVersion", "capabilities", "skills",
                "inputFormats", "outputFormats", "securitySchemes", "tags", "interfaces", "more",
            ];
            for (at, value) in members {
                card[names[at]] = value;
            }
            if let Ok(card) = Card::parse(card.to_string().as_bytes()) {
                let again = Card::parse(card.document.as_bytes()).unwrap();
                prop_assert_eq!(&again.document, &card.document);
                prop_assert!(card.registration(1).is_ok());
            }
        }
    }
}
