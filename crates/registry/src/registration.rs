//! The one record that every face translates into.

use std::fmt;

use arcstr::ArcStr;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::ids::{InstanceId, ServiceName};
use crate::metadata::{Metadata, Pairs};
use crate::packed::{self, Malformed, Packer, Part, Parts, Texts, Unpacker};
use crate::place::Coordinates;

/// An enum whose variants have one lower-case word each, on the wire and in filters.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $word:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum $name { $($(#[$variant_doc])* $variant),+ }

        impl $name {
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word),+ }
            }
        }

        impl std::str::FromStr for $name {
            type Err = $crate::registration::UnknownWord;

            fn from_str(text: &str) -> Result<Self, $crate::registration::UnknownWord> {
                match text {
                    $($word => Ok(Self::$variant),)+
                    _ => Err($crate::registration::UnknownWord { known: &[$($word),+] }),
                }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

pub(crate) use words;

/// A word that is none of the known ones.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("must be one of {}", known.join(", "))]
pub struct UnknownWord {
    pub known: &'static [&'static str],
}

words! {
    /// What sort of thing is registered.
    Kind {
        Agent = "agent", Tool = "tool", Service = "service", Api = "api",
        Device = "device", Node = "node", Gateway = "gateway", Validator = "validator",
    }
}
words! {
    /// How an instance is spoken to.
    Protocol { Http = "http", Https = "https", Ws = "ws", Klp = "klp", Grpc = "grpc", Mqtt = "mqtt" }
}
words! {
    /// Who may see an instance, where requests carry an identity.
    Visibility { Private = "private", Internal = "internal", Restricted = "restricted", Public = "public" }
}
words! {
    /// What others are told of an instance's condition.
    Status { Active = "active", Degraded = "degraded", Maintenance = "maintenance", Error = "error", Offline = "offline" }
}

/// Compact JSON text, checked and re-rendered by the edge that made it. The state machine carries it and never reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JsonText(pub Box<str>);

/// Something an instance can do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capability {
    pub name: Box<str>,
    /// The whole capability object (types, schemas, metrics) where more than a name was given.
    pub detail: Option<JsonText>,
}

/// What few registrations have; one that has none of it spends one byte on it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Extras {
    pub endpoints: Option<JsonText>,
    pub auth: Option<JsonText>,
    pub signature: Option<Box<str>>,
    pub public_key: Option<Box<str>>,
    pub region: Option<Box<str>>,
    pub zone: Option<Box<str>>,
    /// The document as it came in, where a face must give the same bytes back.
    pub document: Option<Box<str>>,
    pub coordinates: Option<Coordinates>,
    /// How the instance asks to be checked.
    pub health_check: Option<JsonText>,
}

/// Before the document of a registration whose signature was verified, so that it is taken for none of a face's.
const SIGNED: &str = "signed:";

impl Extras {
    /// Keeps what was signed, in the bytes that the signature is for.
    pub fn keep_signed(&mut self, document: &str) {
        self.document = Some(format!("{SIGNED}{document}").into());
    }
}

/// Everything an instance says of itself, as an edge makes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registration {
    pub id: InstanceId,
    pub name: ServiceName,
    pub kind: Kind,
    pub protocol: Protocol,
    pub visibility: Visibility,
    pub weight: u32,
    /// How long the lease lasts after a heartbeat.
    pub ttl_ms: u32,
    /// How long a lapsed instance stays on the roll as `offline` before it is removed; 0 removes it at once.
    pub reap_after_ms: u32,
    pub url: Box<str>,
    pub version: Option<Box<str>>,
    pub owner: Option<Box<str>>,
    pub tags: Box<[Box<str>]>,
    pub capabilities: Box<[Capability]>,
    pub consumed_events: Box<[Box<str>]>,
    pub produced_events: Box<[Box<str>]>,
    pub metadata: Metadata,
    pub extras: Extras,
}

impl Registration {
    /// One that says of itself no more than it must: a private service over HTTP, removed when its lease ends.
    pub fn new(id: InstanceId, name: ServiceName, url: &str, ttl_ms: u32) -> Self {
        Self {
            id,
            name,
            kind: Kind::Service,
            protocol: Protocol::Http,
            visibility: Visibility::Private,
            weight: 1,
            ttl_ms,
            reap_after_ms: 0,
            url: url.into(),
            version: None,
            owner: None,
            tags: Box::default(),
            capabilities: Box::default(),
            consumed_events: Box::default(),
            produced_events: Box::default(),
            metadata: Metadata::default(),
            extras: Extras::default(),
        }
    }

    pub fn pack(&self) -> PackedRegistration {
        let texts = |texts: &[Box<str>], packer: &mut Packer| texts.iter().for_each(|text| packer.text(text));
        let mut packer = Packer::default();
        packer.text(self.id.as_str());
        let words = [self.kind as u32, self.protocol as u32, self.visibility as u32];
        for number in [self.ttl_ms, self.reap_after_ms, self.weight].into_iter().chain(words) {
            packer.number(number.into());
        }
        packer.text(self.name.as_str());
        packer.text(&self.url);
        packer.option(self.version.as_deref());
        packer.option(self.owner.as_deref());
        packer.section(|packer| texts(&self.tags, packer));
        packer.section(|packer| {
            for Capability { name, detail } in &self.capabilities {
                packer.text(name);
                packer.option(detail.as_ref().map(|json| &*json.0));
            }
        });
        packer.section(|packer| texts(&self.consumed_events, packer));
        packer.section(|packer| texts(&self.produced_events, packer));
        packer.text(self.metadata.as_packed());
        packer.section(|packer| self.extras.pack(packer));
        PackedRegistration(packer.as_str().into())
    }
}

impl Extras {
    fn pack(&self, packer: &mut Packer) {
        if *self == Self::default() {
            return;
        }
        let Self { endpoints, auth, signature, public_key, region, zone, document, coordinates, health_check } = self;
        let texts = [signature, public_key, region, zone, document].map(Option::as_deref);
        for text in [endpoints, auth].map(|json| json.as_ref().map(|json| &*json.0)).into_iter().chain(texts) {
            packer.option(text);
        }
        if let Some(coordinates) = coordinates {
            packer.number(COORDINATES);
            packer.section(|packer| {
                coordinates.micro_degrees().into_iter().for_each(|micro| packer.number(zigzag(micro)));
            });
        }
        if let Some(JsonText(health_check)) = health_check {
            packer.number(HEALTH_CHECK);
            packer.text(health_check);
        }
    }
}

/// Behind the first texts stands only what is there, each with its number before it, in ascending order.
const COORDINATES: u64 = 1;
const HEALTH_CHECK: u64 = 2;

/// Whole numbers without a sign: those next to zero first, on either side.
fn zigzag(number: i32) -> u64 {
    ((number << 1) ^ (number >> 31)).cast_unsigned().into()
}

fn unzigzag(number: u64) -> Result<i32, Malformed> {
    let number = u32::try_from(number).map_err(|_| Malformed::Number)?;
    Ok((number >> 1).cast_signed() ^ -(number & 1).cast_signed())
}

/// A registration in one text: what travels, is kept and is digested. Equal content has equal bytes, so that comparing
/// them tells whether it is registered again. It was checked when it was made, and is read in place.
#[derive(Clone, PartialEq, Eq)]
pub struct PackedRegistration(ArcStr);

impl PackedRegistration {
    fn head(&self) -> (&str, Unpacker<'_>) {
        let mut rest = Unpacker(&self.0);
        (rest.text().expect(CHECKED), rest)
    }

    pub fn id(&self) -> &str {
        self.head().0
    }

    pub fn ttl_ms(&self) -> u32 {
        self.head().1.number32().expect(CHECKED)
    }

    pub fn view(&self) -> RegistrationView<'_> {
        RegistrationView::unpack(&self.0).expect(CHECKED)
    }

    pub(crate) fn as_packed(&self) -> &str {
        &self.0
    }

    /// Whether both are one text in memory.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        ArcStr::ptr_eq(&self.0, &other.0)
    }

    /// Bytes that this registration takes.
    pub fn bytes(&self) -> usize {
        self.0.len()
    }
}

const CHECKED: &str = "a packed registration is checked when it comes in";

impl fmt::Debug for PackedRegistration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.view().fmt(f)
    }
}

impl Serialize for PackedRegistration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for PackedRegistration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        packed::deserialize(deserializer, |text| {
            RegistrationView::unpack(text).and_then(RegistrationView::check).map(|()| Self(text.into()))
        })
    }
}

/// A [`Capability`] in a packed registration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CapabilityView<'a> {
    pub name: &'a str,
    /// Compact JSON.
    pub detail: Option<&'a str>,
}

impl<'a> Part<'a> for CapabilityView<'a> {
    fn unpack(rest: &mut Unpacker<'a>) -> Result<Self, Malformed> {
        Ok(Self { name: rest.text()?, detail: rest.option()? })
    }
}

/// [`Extras`] in a packed registration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExtrasView<'a> {
    pub endpoints: Option<&'a str>,
    pub auth: Option<&'a str>,
    pub signature: Option<&'a str>,
    pub public_key: Option<&'a str>,
    pub region: Option<&'a str>,
    pub zone: Option<&'a str>,
    pub document: Option<&'a str>,
    pub coordinates: Option<Coordinates>,
    pub health_check: Option<&'a str>,
}

impl<'a> ExtrasView<'a> {
    fn unpack(section: &'a str) -> Result<Self, Malformed> {
        let mut rest = Unpacker(section);
        if rest.is_empty() {
            return Ok(Self::default());
        }
        let mut extras = Self {
            endpoints: rest.option()?,
            auth: rest.option()?,
            signature: rest.option()?,
            public_key: rest.option()?,
            region: rest.option()?,
            zone: rest.option()?,
            document: rest.option()?,
            coordinates: None,
            health_check: None,
        };
        let mut last = 0;
        while !rest.is_empty() {
            let number = rest.number()?;
            if number <= last {
                return Err(Malformed::Order);
            }
            last = number;
            let text = rest.text()?;
            match number {
                COORDINATES => {
                    let mut part = Unpacker(text);
                    let micro_degrees = [unzigzag(part.number()?)?, unzigzag(part.number()?)?];
                    let coordinates = Coordinates::from_micro_degrees(micro_degrees);
                    extras.coordinates = Some(coordinates.map_err(|_| Malformed::Number)?);
                    part.end()?;
                }
                HEALTH_CHECK => extras.health_check = Some(text),
                _ => return Err(Malformed::Word),
            }
        }
        // Nothing has one spelling: no section at all.
        if extras == Self::default() { Err(Malformed::Long) } else { Ok(extras) }
    }
}

/// A [`Registration`] read where it lies in its packed text.
#[derive(Clone, Copy, Debug)]
pub struct RegistrationView<'a> {
    pub id: &'a str,
    pub ttl_ms: u32,
    pub reap_after_ms: u32,
    pub weight: u32,
    pub kind: Kind,
    pub protocol: Protocol,
    pub visibility: Visibility,
    pub name: &'a str,
    pub url: &'a str,
    pub version: Option<&'a str>,
    pub owner: Option<&'a str>,
    pub tags: Texts<'a>,
    pub capabilities: Parts<'a, CapabilityView<'a>>,
    pub consumed_events: Texts<'a>,
    pub produced_events: Texts<'a>,
    pub metadata: Pairs<'a>,
    pub extras: ExtrasView<'a>,
}

impl<'a> RegistrationView<'a> {
    /// Reads all but the items of the lists.
    fn unpack(text: &'a str) -> Result<Self, Malformed> {
        let mut rest = Unpacker(text);
        let view = Self {
            id: rest.text()?,
            ttl_ms: rest.number32()?,
            reap_after_ms: rest.number32()?,
            weight: rest.number32()?,
            kind: rest.word(Kind::ALL)?,
            protocol: rest.word(Protocol::ALL)?,
            visibility: rest.word(Visibility::ALL)?,
            name: rest.text()?,
            url: rest.text()?,
            version: rest.option()?,
            owner: rest.option()?,
            tags: Parts::of(rest.text()?),
            capabilities: Parts::of(rest.text()?),
            consumed_events: Parts::of(rest.text()?),
            produced_events: Parts::of(rest.text()?),
            metadata: Parts::of(rest.text()?),
            extras: ExtrasView::unpack(rest.text()?)?,
        };
        rest.end()?;
        Ok(view)
    }

    fn check(self) -> Result<(), Malformed> {
        InstanceId::check(self.id)?;
        ServiceName::check(self.name)?;
        self.tags.check()?;
        self.capabilities.check()?;
        self.consumed_events.check()?;
        self.produced_events.check()?;
        self.metadata.check_order()
    }

    /// The bytes that the signature is for, where it was verified.
    pub fn signed_document(&self) -> Option<&'a str> {
        self.extras.document?.strip_prefix(SIGNED)
    }

    /// As an edge would make it.
    pub fn to_registration(self) -> Registration {
        let text = |text: Option<&str>| text.map(Box::from);
        let json = |json: Option<&str>| json.map(|json| JsonText(json.into()));
        let capability = |capability: CapabilityView<'_>| Capability {
            name: capability.name.into(),
            detail: json(capability.detail),
        };
        Registration {
            id: InstanceId::kept(self.id),
            name: ServiceName::kept(self.name),
            kind: self.kind,
            protocol: self.protocol,
            visibility: self.visibility,
            weight: self.weight,
            ttl_ms: self.ttl_ms,
            reap_after_ms: self.reap_after_ms,
            url: self.url.into(),
            version: text(self.version),
            owner: text(self.owner),
            tags: self.tags.map(Box::from).collect(),
            capabilities: self.capabilities.map(capability).collect(),
            consumed_events: self.consumed_events.map(Box::from).collect(),
            produced_events: self.produced_events.map(Box::from).collect(),
            metadata: Metadata::new(self.metadata),
            extras: Extras {
                endpoints: json(self.extras.endpoints),
                auth: json(self.extras.auth),
                signature: text(self.extras.signature),
                public_key: text(self.extras.public_key),
                region: text(self.extras.region),
                zone: text(self.extras.zone),
                document: text(self.extras.document),
                coordinates: self.extras.coordinates,
                health_check: json(self.extras.health_check),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::option;
    use proptest::prelude::*;
    use proptest::sample::select;

    use super::*;
    use crate::metadata::MetadataValue;

    fn text() -> impl Strategy<Value = Box<str>> {
        ".{0,70}".prop_map(Into::into)
    }

    fn texts() -> impl Strategy<Value = Box<[Box<str>]>> {
        vec(text(), 0..4).prop_map(Into::into)
    }

    fn json() -> impl Strategy<Value = Option<JsonText>> {
        option::of(text().prop_map(JsonText))
    }

    fn capabilities() -> impl Strategy<Value = Box<[Capability]>> {
        let capability = (text(), json()).prop_map(|(name, detail)| Capability { name, detail });
        vec(capability, 0..3).prop_map(Into::into)
    }

    fn metadata() -> impl Strategy<Value = Metadata> {
        vec((text(), text(), any::<bool>()), 0..4).prop_map(|pairs| {
            Metadata::new(pairs.iter().map(|(key, value, is_json)| {
                (&**key, if *is_json { MetadataValue::Json(value) } else { MetadataValue::Text(value) })
            }))
        })
    }

    fn extras() -> impl Strategy<Value = Extras> {
        let texts = [(); 5].map(|()| option::of(text()));
        let coordinates = option::of((-90_000_000..=90_000_000i32, -180_000_000..=180_000_000i32));
        let jsons = [(); 3].map(|()| json());
        (jsons, texts, coordinates).prop_map(|([endpoints, auth, health_check], texts, coordinates)| {
            let [signature, public_key, region, zone, document] = texts;
            let place = |(latitude, longitude)| Coordinates::from_micro_degrees([latitude, longitude]).unwrap();
            let coordinates = coordinates.map(place);
            Extras { endpoints, auth, signature, public_key, region, zone, document, coordinates, health_check }
        })
    }

    fn name() -> impl Strategy<Value = String> {
        r"[^\pC]{1,64}"
    }

    prop_compose! {
        fn registration()(
            (id, name, url) in (name(), name(), text()),
            kind in select(Kind::ALL),
            protocol in select(Protocol::ALL),
            visibility in select(Visibility::ALL),
            [weight, ttl_ms, reap_after_ms] in any::<[u32; 3]>(),
            (version, owner) in (option::of(text()), option::of(text())),
            (tags, consumed_events, produced_events) in (texts(), texts(), texts()),
            capabilities in capabilities(),
            metadata in metadata(),
            extras in prop_oneof![Just(Extras::default()), extras()],
        ) -> Registration {
            let (id, name) = (InstanceId::kept(&id), ServiceName::kept(&name));
            Registration {
                id, name, kind, protocol, visibility, weight, ttl_ms, reap_after_ms, url, version, owner, tags,
                capabilities, consumed_events, produced_events, metadata, extras,
            }
        }
    }

    fn read(text: &str) -> Result<PackedRegistration, serde::de::value::Error> {
        use serde::de::IntoDeserializer;
        PackedRegistration::deserialize(text.into_deserializer())
    }

    proptest! {
        #[test]
        fn content_and_bytes_stand_for_each_other(registration in registration(), other in registration()) {
            let packed = registration.pack();
            prop_assert_eq!(packed.view().to_registration(), registration.clone());
            prop_assert_eq!((packed.id(), packed.ttl_ms()), (registration.id.as_str(), registration.ttl_ms));
            prop_assert_eq!(read(packed.as_packed()).unwrap(), packed.clone());
            prop_assert_eq!(packed == other.pack(), registration == other);
        }

        /// What is let in is what some registration is packed into, and can be read to its end. Its id and its name are
        /// such as an edge lets in.
        #[test]
        fn p13_changed_bytes_are_refused_or_are_another_registration(
            registration in registration(),
            at in any::<prop::sample::Index>(),
            byte in any::<u8>(),
            cut in any::<bool>(),
        ) {
            let mut bytes = registration.pack().as_packed().as_bytes().to_vec();
            let at = at.index(bytes.len());
            if cut { bytes.truncate(at) } else { bytes[at] = byte }
            if let Ok(text) = String::from_utf8(bytes)
                && let Ok(packed) = read(&text)
            {
                let registration = packed.view().to_registration();
                let again = registration.pack();
                prop_assert_eq!(again.as_packed(), text);
                prop_assert_eq!(InstanceId::parse(packed.id()), Ok(registration.id));
                prop_assert_eq!(ServiceName::parse(packed.view().name), Ok(registration.name));
            }
        }
    }
}
