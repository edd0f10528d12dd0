//! Random commands and questions over a small world, so that they meet each other often.

use rollcall_registry::registration::{Capability, Extras};
use rollcall_registry::visibility::ALLOWED_REQUESTERS;
use rollcall_registry::{
    AccessRole, AccessTokenCommand, AccessTokenId, Actor, Admission, ClusterTime, Command, Compared, Compatibility,
    Condition, DefinitionChange, DefinitionKey, DefinitionName, Edition, EventDefinition, Grant, InstanceId,
    JoinTokenCommand, JoinTokenId, Kind, LeaseId, LeaseSet, Metadata, MetadataValue, NewAccessToken,
    PackedRegistration, Power, PrincipalId, Protocol, Reach, Registration, Revision, SchemaDefinition, Scopes,
    SecretDigest, ServiceName, Status, TenantId, Term, Verb, Visibility,
};

use crate::signatures;

/// SplitMix64: one number of state, so that a seed says everything.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    /// True once in `n` times.
    pub(crate) fn once_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    pub(crate) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }

    /// Between `min` and `max` of them, each perhaps more than once.
    pub(crate) fn some<T: Copy>(&mut self, from: &[T], min: u64, max: u64) -> Vec<T> {
        let count = min + self.below(max - min + 1);
        (0..count).map(|_| self.pick(from)).collect()
    }
}

pub(crate) const NAMES: &[&str] = &["web", "db", "mail"];
pub(crate) const TAGS: &[&str] = &["x", "y", "z"];
pub(crate) const CAPABILITIES: &[&str] = &["read", "write", "paint"];
pub(crate) const PRINCIPALS: &[&str] = &["token:1", "token:2", "jwt:x"];
pub(crate) const OWNERS: &[&str] = &["team-a", "team-b"];
pub(crate) const EVENTS: &[&str] = &["order.placed", "order.paid"];
pub(crate) const REGIONS: &[&str] = &["eu", "us"];
pub(crate) const ZONES: &[&str] = &["eu-1", "eu-2", "us-1"];
pub(crate) const VERSIONS: &[&str] = &["1.0.0", "1.2.3", "1.10.0", "2.0.0", "2.1.0-rc.1", "nightly"];
pub(crate) const KEYS: &[&str] = &["env", "tier", "list"];
pub(crate) const VALUES: &[&str] = &["prod", "test", "7"];

pub(crate) fn tenant(random: &mut Random) -> TenantId {
    TenantId::parse(random.pick(&["red", "blue"])).expect("a plain name")
}

pub(crate) fn id(random: &mut Random) -> InstanceId {
    InstanceId::parse(random.pick(&["a", "ab", "b", "c", "d", "é", "z"])).expect("a plain name")
}

fn boxed(texts: Vec<&str>) -> Box<[Box<str>]> {
    texts.into_iter().map(Box::from).collect()
}

fn metadata(random: &mut Random) -> Metadata {
    let pairs = random.some(KEYS, 0, 2).into_iter().map(|key| {
        let value = match random.below(8) {
            0 => MetadataValue::Json("[1]"),
            1 => MetadataValue::Json("7"),
            _ => MetadataValue::Text(random.pick(VALUES)),
        };
        (key, value)
    });
    Metadata::new(pairs)
}

fn allowed(random: &mut Random) -> Metadata {
    let lists = [r#"["team-a"]"#, r#"["x","team-b","team-a"]"#, "[]", r#"["nobody"]"#];
    let list = random.once_in(2).then(|| (ALLOWED_REQUESTERS, MetadataValue::Json(random.pick(&lists))));
    Metadata::new(list)
}

/// Few enough that the same content comes up again.
fn registration(random: &mut Random) -> Registration {
    let id = id(random);
    if random.once_in(2) {
        return plain(id, random.pick(&["http://a", "http://b"]), random.pick(&[1_000, 3_000]));
    }
    let extras = Extras {
        region: random.once_in(2).then(|| random.pick(REGIONS).into()),
        zone: random.once_in(2).then(|| random.pick(ZONES).into()),
        ..Extras::default()
    };
    let capability = |name: &str| Capability { name: name.into(), detail: None };
    Registration {
        id,
        name: ServiceName::parse(random.pick(NAMES)).expect("a plain name"),
        kind: random.pick(Kind::ALL),
        protocol: random.pick(Protocol::ALL),
        visibility: random.pick(Visibility::ALL),
        weight: 1,
        ttl_ms: random.pick(&[1_000, 2_000, 5_000]),
        reap_after_ms: random.pick(&[0, 1, 2_000]),
        url: "http://a".into(),
        version: random.once_in(2).then(|| random.pick(VERSIONS).into()),
        owner: random.once_in(2).then(|| random.pick(OWNERS).into()),
        tags: boxed(random.some(TAGS, 0, 3)),
        capabilities: random.some(CAPABILITIES, 0, 2).into_iter().map(capability).collect(),
        consumed_events: boxed(random.some(EVENTS, 0, 2)),
        produced_events: boxed(random.some(EVENTS, 0, 2)),
        metadata: metadata(random).merged(&allowed(random)),
        extras,
    }
}

fn plain(id: InstanceId, url: &str, ttl_ms: u32) -> Registration {
    let name = ServiceName::parse("web").expect("a plain name");
    Registration { reap_after_ms: 2_000, ..Registration::new(id, name, url, ttl_ms) }
}

/// Comes back as it was packed, which the model relies on.
fn packed(random: &mut Random) -> PackedRegistration {
    let registration = registration(random);
    let packed = registration.pack();
    assert_eq!(packed.view().to_registration(), registration);
    packed
}

/// As one whose signature was verified, or that says so.
fn signed(random: &mut Random) -> PackedRegistration {
    let mut registration = registration(random);
    registration.owner = (!random.once_in(6)).then(|| random.pick(OWNERS).into());
    if !random.once_in(4) {
        registration.extras.keep_signed(random.pick(&["1", "2", "3"]));
    }
    registration.extras.signature = random.once_in(3).then(|| "s".into());
    registration.pack()
}

/// A number near the newest ones: one that exists, existed or never did.
fn recent(random: &mut Random, revision: Revision) -> u64 {
    (revision.0 + 1).saturating_sub(random.below(12))
}

fn condition(random: &mut Random, revision: Revision) -> Condition {
    match random.below(12) {
        0 => Condition::Absent,
        1 => Condition::Present,
        2 | 3 => Condition::Unchanged(Revision(recent(random, revision))),
        4 => Condition::Anew,
        _ => Condition::None,
    }
}

fn lease(random: &mut Random, revision: Revision) -> Option<LeaseId> {
    random.once_in(2).then(|| LeaseId(recent(random, revision)))
}

/// Of few names, so that they meet each other.
fn definition_change(random: &mut Random) -> DefinitionChange {
    let name = |text: &str| DefinitionName::parse(text).expect("a plain name");
    let (event, schema) = (name(random.pick(&["e", "f"])), name(random.pick(&["s", "t"])));
    let version = name(random.pick(&["1", "2", "3"]));
    let mode = random.pick(Compatibility::ALL);
    match random.below(8) {
        0 | 1 => DefinitionChange::Event(EventDefinition {
            name: event,
            topic: random.pick(&["x", "y"]).into(),
            document: random.pick(&["{}", "[]"]).into(),
        }),
        2..=4 => DefinitionChange::Schema {
            schema: SchemaDefinition {
                name: schema,
                version,
                owner: random.once_in(2).then(|| "o".into()),
                description: None,
                schema: random.pick(&["{}", "true"]).into(),
            },
            compared: Compared { mode, latest: random.once_in(2).then(|| Edition(random.below(30))) },
        },
        5 => DefinitionChange::Compatibility { name: schema, mode },
        6 => DefinitionChange::Remove(DefinitionKey::Event(event)),
        _ => DefinitionChange::Remove(match random.below(2) {
            0 => DefinitionKey::Schema(schema, version),
            _ => DefinitionKey::Compatibility(schema),
        }),
    }
}

pub(crate) fn command(random: &mut Random, revision: Revision, now: ClusterTime, term: Term) -> Command {
    let tenant = tenant(random);
    let command = match random.below(31) {
        27.. => crate::rulings::command(random, revision.0),
        18 => Command::Signatures(signatures::command(random, tenant)),
        19 | 20 => Command::DeregisterSigned {
            tenant,
            id: id(random),
            lease: lease(random, revision),
            condition: condition(random, revision),
            signing: signatures::signing(random),
        },
        21..=23 => Command::RegisterSigned {
            tenant,
            registration: signed(random),
            condition: condition(random, revision),
            signing: signatures::signing(random),
        },
        0..=4 => Command::Register { tenant, registration: packed(random), condition: condition(random, revision) },
        5..=7 => {
            let leases = (0..random.below(6)).map(|_| LeaseId(recent(random, revision))).collect();
            Command::Renew { tenant, leases: LeaseSet::new(leases) }
        }
        8..=10 => Command::Beat {
            tenant,
            id: id(random),
            lease: lease(random, revision),
            status: random.once_in(2).then(|| random.pick(Status::ALL)),
            metadata: random.once_in(2).then(|| metadata(random)),
        },
        11 => Command::Deregister {
            tenant,
            id: id(random),
            lease: lease(random, revision),
            condition: condition(random, revision),
        },
        12 | 13 => Command::JoinToken(join_token(random)),
        14 | 15 => Command::Define { tenant, change: definition_change(random) },
        16 | 17 => Command::AccessToken(access_token(random)),
        _ => Command::Expire {
            term: if random.once_in(8) { Term(term.0 + 1) } else { term },
            up_to: ClusterTime((now.0 + 1_000).saturating_sub(random.below(2_000))),
            limit: random.pick(&[0, 1, 2, 100, u32::MAX]),
        },
    };
    if random.once_in(2) { command } else { command.by(actor(random)) }
}

fn principal(random: &mut Random) -> PrincipalId {
    PrincipalId::parse(random.pick(PRINCIPALS)).expect("a plain name")
}

fn actor(random: &mut Random) -> Actor {
    let power = match random.below(4) {
        0 => Power::Tenant,
        1 => Power::Services(boxed(random.some(&["web", "d", ""], 1, 2))),
        _ => Power::Own,
    };
    Actor { principal: principal(random), power }
}

fn reach(random: &mut Random) -> Reach {
    if random.once_in(3) { Reach::All } else { Reach::Tenant(tenant(random)) }
}

fn scopes(random: &mut Random) -> Scopes {
    let services = boxed(random.some(&["web", "web-1"], 0, 1));
    Scopes { services, verbs: random.some(&[Verb::Read, Verb::Administer], 0, 1).into() }
}

fn access_token(random: &mut Random) -> AccessTokenCommand {
    let id = AccessTokenId(random.below(3));
    let secret = SecretDigest([random.pick(b"abc"); 32]);
    let token = NewAccessToken {
        id,
        secret,
        reach: reach(random),
        role: random.pick(AccessRole::ALL),
        scopes: scopes(random),
        ttl_ms: random.pick(&[None, Some(0), Some(1), Some(5_000)]),
        description: random.pick(&["", "d"]).into(),
        created_by: random.once_in(2).then(|| principal(random)),
    };
    match random.below(8) {
        0..=2 => AccessTokenCommand::Create { token, first: random.once_in(4) },
        3 | 4 => AccessTokenCommand::Rotate {
            id,
            secret,
            overlap_ms: random.pick(&[0, 1_000, u64::MAX]),
            within: Grant { reach: reach(random), scopes: scopes(random) },
        },
        5 => AccessTokenCommand::Revoke { id, within: reach(random) },
        6 => AccessTokenCommand::Used {
            ids: random.some(&[0, 1, 2, 3], 0, 2).into_iter().map(AccessTokenId).collect(),
        },
        _ => AccessTokenCommand::Reset { token },
    }
}

fn join_token(random: &mut Random) -> JoinTokenCommand {
    let id = JoinTokenId(random.below(3));
    let secret = SecretDigest([random.pick(b"aab"); 32]);
    let learner = random.once_in(4);
    match random.below(8) {
        0..=2 => JoinTokenCommand::Create {
            id,
            secret,
            learners_only: learner,
            ttl_ms: random.pick(&[0, 1, 1_000, 5_000]),
            uses_max: random.pick(&[None, Some(0), Some(1), Some(2)]),
        },
        3 => JoinTokenCommand::Revoke { id },
        _ => {
            let address = random.pick(&["n1:1", "n2:1", "n3:1"]).into();
            JoinTokenCommand::Spend(Admission { id, secret, address, learner })
        }
    }
}
