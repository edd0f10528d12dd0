//! A roll as large as a busy cluster's, of agents as they are.

use rollcall_registry::registration::{Capability, Extras};
use rollcall_registry::{
    ClusterTime, Command, Condition, InstanceId, Kind, Metadata, MetadataValue, Options, PackedRegistration,
    Proposal, Protocol, Registration, ServiceName, State, TenantId, Term, Visibility, WallTime,
};

/// Commands in one entry of the log.
const BATCH: u64 = 100;

pub(crate) fn tenant() -> TenantId {
    TenantId::parse("default").expect("a plain name")
}

pub(crate) fn id(n: u64) -> InstanceId {
    InstanceId::parse(&format!("agent-{n}")).expect("a plain name")
}

pub(crate) fn service(n: u64) -> String {
    format!("service-{n}")
}

/// One of a service's tags or capabilities.
pub(crate) fn word(kind: &str, service: u64, step: u64, of: u64) -> String {
    format!("{kind}-{}", (service * 7 + step * 13) % of)
}

/// All metadata but for a note. With a capability and a tag they tell each fifth of each service apart.
pub(crate) fn labels(n: u64, services: u64) -> [(&'static str, String); 4] {
    let service = n % services;
    [
        ("env", ["prod", "staging", "test"][(service % 3) as usize].to_owned()),
        ("team", format!("team-{}", service % 97)),
        ("build", format!("2026.{}", service % 12 + 1)),
        ("cell", ["a", "b", "c", "d", "e"][(n / services % 5) as usize].to_owned()),
    ]
}

/// Text as people write it.
fn note(bytes: usize) -> String {
    const WORDS: &[&str] =
        &["reads ", "invoices ", "and ", "answers ", "questions ", "about ", "them ", "in ", "tongues "];
    (0..).flat_map(|n| WORDS[(n * 7 + n / 3) % WORDS.len()].chars()).take(bytes).collect()
}

/// Five tags, three capabilities, 300 bytes of metadata as JSON, and a URL; `services` tells over how many services the
/// instances are spread.
pub(crate) fn registration(n: u64, services: u64) -> PackedRegistration {
    let (service_number, labels) = (n % services, labels(n, services));
    let json_bytes: usize = labels.iter().map(|(key, value)| key.len() + value.len() + 6).sum();
    let note = note(300 - json_bytes - r#"{"note":""}"#.len());
    let pairs = labels.iter().map(|(key, value)| (*key, value.as_str())).chain([("note", note.as_str())]);
    let registration = Registration {
        id: id(n),
        name: ServiceName::parse(&service(service_number)).expect("a plain name"),
        kind: Kind::Agent,
        protocol: Protocol::Http,
        visibility: Visibility::Private,
        weight: 1,
        ttl_ms: 30_000,
        reap_after_ms: 0,
        url: format!("http://agent-{n}.agents.test:8080").into(),
        version: Some("1.4.2".into()),
        owner: None,
        tags: (0..5).map(|step| word("tag", service_number, step, 200).into()).collect(),
        capabilities: (0..3)
            .map(|step| Capability { name: word("capability", service_number, step, 100).into(), detail: None })
            .collect(),
        consumed_events: Box::default(),
        produced_events: Box::default(),
        metadata: Metadata::new(pairs.map(|(key, value)| (key, MetadataValue::Text(value)))),
        extras: Extras::default(),
    };
    registration.pack()
}

pub(crate) fn register(registration: PackedRegistration) -> Command {
    Command::Register { tenant: tenant(), registration, condition: Condition::None }
}

pub(crate) fn proposal(stamp: ClusterTime, commands: Vec<Command>) -> Proposal {
    Proposal { stamp, wall: WallTime(1_700_000_000_000 + stamp.0), commands, once: Vec::new() }
}

/// As it comes from the log: nothing in it is shared with what was proposed.
pub(crate) fn decoded(proposal: &Proposal) -> Proposal {
    let bytes =
        bincode::serde::encode_to_vec(proposal, bincode::config::standard()).expect("a proposal is plain data");
    decode(&bytes)
}

pub(crate) fn decode(bytes: &[u8]) -> Proposal {
    bincode::serde::decode_from_slice(bytes, bincode::config::standard()).expect("a proposal that was encoded").0
}

/// Registers `instances`, and lets a second pass for each ten thousand.
pub(crate) fn fill(state: &mut State, instances: u64, services: u64) {
    for first in (0..instances).step_by(BATCH as usize) {
        let batch = first..(first + BATCH).min(instances);
        let commands = batch.map(|n| register(registration(n, services))).collect();
        state.apply(Term(1), &decoded(&proposal(ClusterTime(first / 10), commands)));
    }
}

pub(crate) fn filled(instances: u64, services: u64) -> State {
    let mut state = State::new(Options::default());
    fill(&mut state, instances, services);
    state
}
