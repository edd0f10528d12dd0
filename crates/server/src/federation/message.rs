//! The words in which clusters tell each other what is on their rolls, and how these are signed.
//!
//! A message is signed as a whole, but for its signature: so it is for whom it names, in the order that it names, and nothing
//! of it can be changed. Members that this program does not know are signed along and passed over: another version may say
//! more.

use rollcall_registry::federation::teller::{Batch, Put, Telling};
use rollcall_registry::{
    ClusterSeed, ClusterTime, Epoch, ForeignChange, ForeignMessage, Instance, InstanceId, Revision, Status, Stream,
    TenantId, Told, Unreadable, WallTime,
};
use rollcall_signature::{NotCanonical, PublicKey, Signature, SigningKey, canonical};
use serde_json::{Map, Value, json};

use crate::fault::{Faults, Fields};
use crate::limits::CARD_PACKED_BYTES_MAX;
use crate::parse::{self, TtlLimits};
use crate::render::{rfc3339, said};
use crate::translate;

const DID_BEGINNING: &str = "kind:did:";
const DID_END: &str = "#ed25519";

/// What is said holds for so long without another word, in seconds.
const TTL_S: u64 = 3_600;

/// Nothing is passed on.
const HOPS: u32 = 1;

/// Whoever is trusted less by the receiver is not to be believed.
const TRUST_MIN: f64 = 6.0;

const REGISTRATION: &str = "SERVICE_REGISTRATION";
const STATUS_UPDATE: &str = "SERVICE_STATUS_UPDATE";
const DEREGISTRATION: &str = "SERVICE_DEREGISTRATION";
const SYNC: &str = "REGISTRY_SYNC";

/// What another cluster may say of an instance: what its owner said, and nothing else is taken for that.
const MEMBERS: &[&str] = &[
    "id",
    "name",
    "type",
    "version",
    "tags",
    "url",
    "protocol",
    "endpoints",
    "auth",
    "owner",
    "visibility",
    "capabilities",
    "consumed_events",
    "produced_events",
    "metadata",
    "locality",
    "weight",
    "ttl_ms",
    "reap_after_ms",
    "signature",
    "public_key",
];

/// A lease of another cluster is that cluster's affair.
const TTL_ANY: TtlLimits = TtlLimits { ttl_ms_min: 0, ttl_ms_default: 30_000, ttl_ms_max: u32::MAX };

/// The name of a cluster in messages.
pub(crate) fn did(key: &PublicKey) -> String {
    format!("{DID_BEGINNING}{key}{DID_END}")
}

/// The key of the cluster that a name is of.
fn key_of(did: &str) -> Option<PublicKey> {
    PublicKey::parse(did.strip_prefix(DID_BEGINNING)?.strip_suffix(DID_END)?).ok()
}

/// This cluster, as one that signs.
#[derive(Clone)]
pub(crate) struct Own {
    key: SigningKey,
    pub(crate) public_key: PublicKey,
    pub(crate) did: String,
}

impl Own {
    pub(crate) fn of(ClusterSeed(seed): &ClusterSeed) -> Self {
        let key = SigningKey::from_seed(seed);
        let public_key = key.public_key();
        Self { key, public_key, did: did(&public_key) }
    }
}

/// A batch, signed.
pub(crate) struct Words {
    pub(crate) messages: Vec<Value>,
    /// Instances that cannot be put into words.
    pub(crate) unsendable: u64,
}

/// Puts a batch into words for another cluster.
pub(crate) fn words(batch: &Batch, own: &Own, target: &str, told_at: WallTime) -> Words {
    let mut unsendable = 0;
    let messages: Vec<Value> = batch
        .tellings
        .iter()
        .map(|telling| {
            let (kind, payload, bare) = payload(batch.stream, telling, told_at);
            let sign = |payload| sign(kind, payload, own, target, told_at, &nonce());
            sign(payload).unwrap_or_else(|_| {
                // A number in it is read differently by different readers. The receiver is to know that it is not as it was.
                unsendable += 1;
                sign(bare).expect("what is left of it has no such number")
            })
        })
        .collect();
    Words { messages, unsendable }
}

/// Asks another cluster what came after what it told. The answer is in the name of its last word, so that it stands in
/// nobody's way who brings the next one.
pub(super) fn ask(stream: Stream, asked: Asked, own: &Own, target: &str, now: WallTime, nonce: &str) -> Value {
    let Asked { after, told_at } = asked;
    let payload = json!({
        "action": "ask", "stream": stream_out(stream), "after": after.0, "told_at_ms": told_at.0,
    });
    sign(SYNC, payload, own, target, now, nonce).expect("whole numbers below 2^53 are canonical")
}

/// Ends an answer: so far it reaches, and so far the roll had come.
pub(crate) fn closing(
    stream: Stream,
    closing: Closing,
    own: &Own,
    target: &str,
    now: WallTime,
    nonce: &str,
) -> Value {
    let Closing { after, at, present, count } = closing;
    let payload = json!({
        "action": "answer", "stream": stream_out(stream), "after": after.0, "at": at.0, "present": present.0,
        "count": count,
    });
    sign(SYNC, payload, own, target, now, nonce).expect("whole numbers below 2^53 are canonical")
}

fn stream_out(stream: Stream) -> Value {
    json!({ "epoch": stream.epoch.0, "since": stream.since.0 })
}

/// Told apart from all others by whoever gets them.
pub(super) fn nonce() -> String {
    let nonce: [u8; 16] = rand::random();
    nonce.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn sign(
    kind: &str,
    payload: Value,
    own: &Own,
    target: &str,
    told_at: WallTime,
    nonce: &str,
) -> Result<Value, NotCanonical> {
    let mut message = json!({
        "type": kind,
        "source": own.did,
        "target": target,
        "payload": payload,
        "metadata": {
            "priority": "NORMAL",
            "ttl": TTL_S,
            "hop_count": HOPS,
            "trust_requirements": { "minimum_trust_score": TRUST_MIN, "verification_level": "basic" },
        },
        "nonce": nonce,
        "timestamp": rfc3339(told_at),
    });
    let signature = own.key.sign(canonical(&message)?.as_bytes());
    message["signature"] = signature.to_string().into();
    Ok(message)
}

/// What a message says, and what is left of it if that cannot be signed.
fn payload(stream: Stream, telling: &Telling, told_at: WallTime) -> (&'static str, Value, Value) {
    let stream = stream_out(stream);
    let timestamp = rfc3339(told_at);
    match telling {
        Telling::Put { after, revision, instance, sort } => {
            let (kind, action) = match sort {
                Put::Registered => (REGISTRATION, "register"),
                Put::StatusChanged => (STATUS_UPDATE, "status_update"),
            };
            let payload = |service: Value| {
                let signature = service.get("signature").cloned().unwrap_or_default();
                json!({
                    "action": action, "stream": stream, "after": after.0, "revision": revision.0,
                    "tenant": instance.tenant.as_str(), "service": service, "timestamp": timestamp,
                    "signature": signature,
                })
            };
            (kind, payload(document(instance)), payload(json!({ "id": instance.id() })))
        }
        Telling::Remove { after, revision, tenant, id } => {
            let payload = json!({
                "action": "deregister", "stream": stream, "after": after.0, "revision": revision.0,
                "tenant": tenant.as_str(), "service_id": id.as_str(), "timestamp": timestamp,
            });
            (DEREGISTRATION, payload.clone(), payload)
        }
        Telling::Entry { at, number, instance } => {
            let payload = |service: Value| {
                json!({
                    "action": "resync_entry", "stream": stream, "at": at.0, "number": number,
                    "tenant": instance.tenant.as_str(), "service": service,
                })
            };
            (SYNC, payload(document(instance)), payload(json!({ "id": instance.id() })))
        }
        Telling::Begin { at } => {
            let payload = json!({ "action": "resync_begin", "stream": stream, "at": at.0 });
            (SYNC, payload.clone(), payload)
        }
        Telling::End { at, count } => {
            let payload = json!({ "action": "resync_end", "stream": stream, "at": at.0, "count": count });
            (SYNC, payload.clone(), payload)
        }
        Telling::Bookmark { after, at } => {
            let payload = json!({ "action": "bookmark", "stream": stream, "after": after.0, "at": at.0 });
            (SYNC, payload.clone(), payload)
        }
    }
}

/// An instance for another cluster: what it says of itself, its status, and of which revision that is. How callers prove who
/// they are is told but for the token itself.
fn document(instance: &Instance) -> Value {
    let text = said(instance);
    let mut document: Map<String, Value> = serde_json::from_slice(&text).expect("what is rendered is JSON");
    document.shift_remove("tenant");
    if let Some(Value::Object(auth)) = document.get_mut("auth") {
        auth.shift_remove("token");
    }
    document.insert("status".to_owned(), instance.status().as_str().into());
    document.insert("revision".to_owned(), instance.revision.0.into());
    document.insert("registered_at".to_owned(), rfc3339(instance.registered_at).into());
    Value::Object(document)
}

/// A message of another cluster, taken apart and not believed yet.
#[derive(Debug)]
pub(crate) struct Message<T = ForeignMessage> {
    pub(crate) source: PublicKey,
    pub(crate) target: String,
    pub(crate) nonce: String,
    pub(crate) told_at: WallTime,
    pub(crate) ttl_ms: u64,
    pub(crate) hop_count: u32,
    /// How far the receiver must trust the sender, 0 to 10.
    pub(crate) trust_min: f64,
    pub(crate) stream: Stream,
    pub(crate) said: T,
    signature: Signature,
    signed: String,
}

/// What came after what is known is asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked {
    /// So far the one that asks has come.
    pub(crate) after: Revision,
    /// The latest time that it was given by whom it asks.
    pub(crate) told_at: WallTime,
}

/// What is said at the end of an answer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Closing {
    /// What was asked for.
    pub(crate) after: Revision,
    /// So far the answer reaches.
    pub(crate) at: Revision,
    /// So far the roll had come that was asked.
    pub(crate) present: Revision,
    /// Messages of the answer.
    pub(crate) count: u64,
}

impl Message {
    /// Takes a message apart; none if it has faults.
    pub(crate) fn parse(path: &str, value: Value, faults: &mut Faults) -> Option<Self> {
        Self::parse_as(path, value, faults, told_in)
    }

    /// About what it takes in the log.
    pub(crate) fn bytes(&self) -> usize {
        match &self.said {
            ForeignMessage::Change { change: ForeignChange::Put(told), .. }
            | ForeignMessage::Entry { told: Ok(told), .. } => told.registration.bytes(),
            _ => 0,
        }
    }
}

impl Message<Asked> {
    pub(crate) fn parse_question(value: Value, faults: &mut Faults) -> Option<Self> {
        Self::parse_as("", value, faults, |mut fields| {
            let (action, stream) = (fields.required("action", one_of(&["ask"]))?, stream_in(&mut fields));
            let (after, told_at) = (revision(&mut fields, "after"), needed(&mut fields, "told_at_ms"));
            Some((action, stream?, Asked { after: after?, told_at: WallTime(told_at?) }))
        })
    }
}

impl Message<Closing> {
    pub(super) fn parse_closing(value: Value, faults: &mut Faults) -> Option<Self> {
        Self::parse_as("closing", value, faults, |mut fields| {
            let (action, stream) = (fields.required("action", one_of(&["answer"]))?, stream_in(&mut fields));
            let (after, at) = (revision(&mut fields, "after"), revision(&mut fields, "at"));
            let (present, count) = (revision(&mut fields, "present"), needed(&mut fields, "count"));
            Some((action, stream?, Closing { after: after?, at: at?, present: present?, count: count? }))
        })
    }
}

impl<T> Message<T> {
    fn parse_as(
        path: &str,
        value: Value,
        faults: &mut Faults,
        payload_in: impl FnOnce(Fields<'_>) -> Option<(String, Stream, T)>,
    ) -> Option<Self> {
        let signed = value.as_object().map(|members| {
            let mut signed = members.clone();
            signed.shift_remove("signature");
            canonical(&Value::Object(signed))
        });
        let mut fields = Fields::open(path, value, faults)?;
        let signed = match signed? {
            Ok(signed) => Some(signed),
            Err(error) => {
                fields.fault(&error.path, error.to_string());
                None
            }
        };
        let kind = fields.required("type", one_of(&[REGISTRATION, STATUS_UPDATE, DEREGISTRATION, SYNC]));
        let source = fields.required("source", |text| key_of(text).map(drop).ok_or("must be `kind:did:KEY#ed25519`"));
        let target = fields.required("target", parse::name_rule);
        let nonce = fields.required("nonce", |text| {
            let is_nonce = (16..=64).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
            is_nonce.then_some(()).ok_or("must be 16 to 64 visible ASCII characters")
        });
        let told_at = fields.required("timestamp", |text| instant(text).map(drop).ok_or("must be RFC 3339"));
        let signature = fields.required("signature", |text| Signature::parse(text).map(drop));
        let metadata = fields.open_member("metadata").and_then(metadata);
        let payload = match fields.take("payload") {
            Some(payload) => Fields::open(fields.path("payload"), payload, fields.faults).and_then(payload_in),
            None => {
                fields.fault("payload", "is required");
                None
            }
        };
        if metadata.is_none() {
            fields.fault("metadata", "is required, with ttl, hop_count and trust_requirements");
        }
        let (ttl_s, hop_count, trust_min) = metadata?;
        let (action, stream, said) = payload?;
        let kind = kind?;
        if kind_of(&action) != kind {
            fields.fault("type", format!("must be {} with that action", kind_of(&action)));
            return None;
        }
        Some(Self {
            source: key_of(&source?)?,
            target: target?,
            nonce: nonce?,
            told_at: instant(&told_at?)?,
            ttl_ms: ttl_s.saturating_mul(1_000),
            hop_count,
            trust_min,
            stream,
            said,
            signature: Signature::parse(&signature?).ok()?,
            signed: signed?,
        })
    }

    /// Whether it is from whom it says.
    pub(crate) fn is_signed(&self) -> bool {
        self.source.verifies(self.signed.as_bytes(), &self.signature)
    }
}

fn one_of<'a>(words: &'a [&'a str]) -> impl FnOnce(&str) -> Result<(), String> + 'a {
    move |text| {
        let is_known = words.contains(&text);
        is_known.then_some(()).ok_or_else(|| format!("must be one of {}", words.join(", ")))
    }
}

fn kind_of(action: &str) -> &'static str {
    match action {
        "register" => REGISTRATION,
        "status_update" => STATUS_UPDATE,
        "deregister" => DEREGISTRATION,
        _ => SYNC,
    }
}

/// RFC 3339 to milliseconds since 1970.
fn instant(text: &str) -> Option<WallTime> {
    let instant: jiff::Timestamp = text.parse().ok()?;
    u64::try_from(instant.as_millisecond()).ok().map(WallTime)
}

/// Seconds to live, hops, and the trust that is asked for.
fn metadata(mut fields: Fields<'_>) -> Option<(u64, u32, f64)> {
    let ttl = fields.whole("ttl");
    let hop_count = fields.number("hop_count", 0, u32::MAX);
    let trust = fields.open_member("trust_requirements").and_then(|mut fields| {
        fields.checked("verification_level", |word| {
            let known = ["none", "basic", "strong", "cryptographic"];
            let is_known = known.contains(&word.to_ascii_lowercase().as_str());
            is_known.then_some(()).ok_or_else(|| format!("must be one of {}", known.join(", ")))
        });
        match fields.take("minimum_trust_score").as_ref().map(Value::as_f64) {
            Some(Some(score)) if (0.0..=10.0).contains(&score) => Some(score),
            _ => {
                fields.fault("minimum_trust_score", "must be a number from 0 to 10");
                None
            }
        }
    });
    Some((ttl?, hop_count?, trust?))
}

fn stream_in(fields: &mut Fields<'_>) -> Option<Stream> {
    let stream = fields.open_member("stream").and_then(|mut fields| {
        let (epoch, since) = (needed(&mut fields, "epoch"), needed(&mut fields, "since"));
        Some(Stream { epoch: Epoch(epoch?), since: ClusterTime(since?) })
    });
    if stream.is_none() {
        fields.fault("stream", "is required, with epoch and since");
    }
    stream
}

fn told_in(mut fields: Fields<'_>) -> Option<(String, Stream, ForeignMessage)> {
    let actions =
        ["register", "status_update", "deregister", "resync_begin", "resync_entry", "resync_end", "bookmark"];
    let action = fields.required("action", one_of(&actions))?;
    let stream = stream_in(&mut fields);
    let said = match action.as_str() {
        "register" | "status_update" | "deregister" => {
            let (after, revision) = (revision(&mut fields, "after"), revision(&mut fields, "revision"));
            let tenant = tenant(&mut fields);
            let change = match action.as_str() {
                "deregister" => {
                    let id = fields.required("service_id", |text| InstanceId::parse(text).map(drop));
                    id.and_then(|id| InstanceId::parse(&id).ok()).map(ForeignChange::Remove)
                }
                _ => service(&mut fields).map(|told| told.map_or_else(ForeignChange::Unreadable, ForeignChange::Put)),
            };
            ForeignMessage::Change { after: after?, revision: revision?, tenant: tenant?, change: change? }
        }
        "resync_begin" => ForeignMessage::Begin { at: revision(&mut fields, "at")? },
        "resync_entry" => {
            let (at, number) = (revision(&mut fields, "at"), needed(&mut fields, "number"));
            let (tenant, told) = (tenant(&mut fields), service(&mut fields));
            ForeignMessage::Entry { at: at?, number: number?, tenant: tenant?, told: told? }
        }
        "resync_end" => {
            let (at, count) = (revision(&mut fields, "at"), needed(&mut fields, "count"));
            ForeignMessage::End { at: at?, count: count? }
        }
        _ => {
            let (after, at) = (revision(&mut fields, "after"), revision(&mut fields, "at"));
            ForeignMessage::Bookmark { after: after?, at: at? }
        }
    };
    Some((action, stream?, said))
}

fn needed(fields: &mut Fields<'_>, member: &str) -> Option<u64> {
    let number = fields.whole(member);
    if number.is_none() {
        fields.fault(member, "is required: a whole number");
    }
    number
}

fn revision(fields: &mut Fields<'_>, member: &str) -> Option<Revision> {
    needed(fields, member).map(Revision)
}

fn tenant(fields: &mut Fields<'_>) -> Option<TenantId> {
    let name = fields.required("tenant", |text| TenantId::parse(text).map(drop))?;
    TenantId::parse(&name).ok()
}

/// The instance that a message is about. What this cluster cannot have is no fault of the message: another version may know
/// more.
fn service(fields: &mut Fields<'_>) -> Option<Result<Told, Unreadable>> {
    let Some(mut document) = fields.object("service") else {
        fields.fault("service", "is required: an object");
        return None;
    };
    let id = document.get("id").and_then(Value::as_str).and_then(|id| InstanceId::parse(id).ok());
    let told = (|| {
        let text = |member: &str| document.get(member).and_then(Value::as_str);
        let status: Status = text("status")?.parse().ok()?;
        let registered_at = instant(text("registered_at")?)?;
        let revision = Revision(document.get("revision")?.as_u64()?);
        document.retain(|member, _| MEMBERS.contains(&member.as_str()));
        id.as_ref()?;
        let request = parse::register(Value::Object(std::mem::take(&mut document)), TTL_ANY).ok()?;
        let registration = translate::registration(request, TTL_ANY, || unreachable!("it has an id")).pack();
        let told = Told { registration, status, revision, registered_at };
        Some(told).filter(|told| told.registration.bytes() <= CARD_PACKED_BYTES_MAX)
    })();
    Some(told.ok_or(Unreadable { id }))
}

#[cfg(test)]
mod tests;
