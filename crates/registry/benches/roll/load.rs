//! A roll as large as a busy cluster's, of agents as they are.

use rollcall_registry::registration::Capability;
use rollcall_registry::{
    ClusterTime, Command, Condition, InstanceId, Kind, Metadata, MetadataValue, Options, PackedRegistration,
    Proposal, Registration, ServiceName, State, TenantId, Term, WallTime,
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

/// Instances of one group have a capability, a tag and a label that no others have together, while each of the three
/// alone is shared by many groups.
pub(crate) const GROUPS: u64 = 10_000;

/// Capability, tag and label of a group: its digits to the base of 22, the cube root of their number.
pub(crate) fn words_of_group(n: u64) -> [String; 3] {
    let group = n % GROUPS;
    [group % 22, group / 22 % 22, group / 484].map(|digit| format!("find-{digit}"))
}

/// One of a service's tags or capabilities.
fn word(kind: &str, service: u64, step: u64, of: u64) -> Box<str> {
    format!("{kind}-{}", (service * 7 + step * 13) % of).into()
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
    let number = n % services;
    let [capability, tag, label] = words_of_group(n);
    let labels = [
        ("env", ["prod", "staging", "test"][(number % 3) as usize].to_owned()),
        ("team", format!("team-{}", number % 40)),
        ("build", format!("2026.{}", number % 12 + 1)),
        ("find", label),
    ];
    let json_bytes: usize = labels.iter().map(|(key, value)| key.len() + value.len() + 6).sum();
    let note = note(300 - json_bytes - r#"{"note":""}"#.len());
    let pairs = labels.iter().map(|(key, value)| (*key, value.as_str())).chain([("note", note.as_str())]);
    let registration = Registration {
        kind: Kind::Agent,
        version: Some("1.4.2".into()),
        tags: (1..5).map(|step| word("tag", number, step, 200)).chain([tag.into()]).collect(),
        capabilities: (1..3)
            .map(|step| word("capability", number, step, 100))
            .chain([capability.into()])
            .map(|name| Capability { name, detail: None })
            .collect(),
        metadata: Metadata::new(pairs.map(|(key, value)| (key, MetadataValue::Text(value)))),
        ..Registration::new(
            id(n),
            ServiceName::parse(&service(number)).expect("a plain name"),
            &format!("http://agent-{n}.agents.test:8080"),
            30_000,
        )
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

/// A roll of so many, with a second passed for each ten thousand.
pub(crate) fn filled(instances: u64, registration: impl Fn(u64) -> PackedRegistration) -> State {
    let mut state = State::new(Options::default());
    for first in (0..instances).step_by(BATCH as usize) {
        let batch = first..(first + BATCH).min(instances);
        let commands = batch.map(|n| register(registration(n))).collect();
        state.apply(Term(1), &decoded(&proposal(ClusterTime(first / 10), commands)));
    }
    state
}
