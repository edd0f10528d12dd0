//! The bytes on disk and between peers. From the first release on a golden changes only together with its kind's
//! version.

use openraft::entry::RaftEntry;
use proptest::prelude::*;
use rollcall_registry::{
    AccessRole, AccessToken, AccessTokenCommand, AccessTokenId, Actor, ClusterTime, Command, Compatibility,
    Condition, Definition, DefinitionChange, DefinitionContent, DefinitionName, Edition, EventDefinition,
    FormerSecret, Instance, InstanceId, LeaseId, LeaseSet, Outcome, Power, Presence, PrincipalId, Proposal, Reach,
    Revision, SchemaDefinition, Scopes, SecretDigest, Seldom, Status, TenantId, Term, Verb, WallTime,
};
use rollcall_storage::codec::{self, CodecError, Kind};
use rollcall_storage::{Identity, LogEntry, LogId, Payload, Reply, Vote};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::common::{IDENTITY, entry, log_id, registration};

/// The frame as text, after it was read back.
fn frame<T: Serialize + DeserializeOwned>(kind: Kind, value: &T) -> String {
    let frame = codec::encode(kind, value);
    let again: T = codec::decode(kind, &frame).unwrap();
    assert_eq!(codec::encode(kind, &again), frame, "{kind:?}");
    frame.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn p13_every_kind_has_its_bytes() {
    let tenant = TenantId::parse("t").unwrap();
    let id = InstanceId::parse("i").unwrap();
    let principal = PrincipalId::parse("jwt:p").unwrap();
    let token = AccessToken {
        id: AccessTokenId(7),
        secret: SecretDigest([1; 32]),
        former: Some(FormerSecret { secret: SecretDigest([2; 32]), until: ClusterTime(9) }),
        reach: Reach::Tenant(tenant.clone()),
        role: AccessRole::Operator,
        scopes: Scopes { services: ["w".into()].into(), verbs: [Verb::Watch].into() },
        expires_at: Some(ClusterTime(10)),
        description: "d".into(),
        created_by: Some(principal.clone()),
        created_at: WallTime(3),
        rotated_at: None,
        used_at: Some(WallTime(4)),
        use_noted_at: Some(ClusterTime(5)),
        revoked_at: None,
    };
    let instance = Instance {
        tenant: tenant.clone(),
        registration: registration(&id, 1),
        seldom: Seldom::new(None, vec![LeaseId(2)], Some(principal.clone())),
        reported_status: Status::Degraded,
        presence: Presence::Present,
        lease: LeaseId(300),
        revision: Revision(301),
        created_revision: Revision(2),
        registered_at: WallTime(1_700_000_000_000),
    };
    let other = TenantId::parse("u").unwrap();
    let name = |text: &str| DefinitionName::parse(text).unwrap();
    let event = EventDefinition { name: name("e"), topic: "x".into(), document: "{}".into() };
    let schema = SchemaDefinition {
        name: name("s"),
        version: name("1"),
        owner: Some("o".into()),
        description: None,
        schema: "true".into(),
    };
    let definition = |content| Definition {
        tenant: other.clone(),
        content,
        edition: Edition(3),
        defined_at: WallTime(4),
        updated_at: WallTime(5),
    };
    let rule = DefinitionContent::Compatibility { name: name("s"), mode: Compatibility::Full };
    let commands = [
        Command::Register {
            tenant: tenant.clone(),
            registration: registration(&id, 1),
            condition: Condition::Absent,
        },
        Command::Renew {
            tenant: tenant.clone(),
            leases: LeaseSet::new(vec![LeaseId(1000), LeaseId(1001), LeaseId(1003)]),
        },
        Command::Beat {
            tenant: tenant.clone(),
            id: id.clone(),
            lease: None,
            status: Some(Status::Error),
            metadata: None,
        },
        Command::Deregister { tenant, id, lease: Some(LeaseId(3)), condition: Condition::Unchanged(Revision(9)) },
        Command::Expire { term: Term(4), up_to: ClusterTime(70_000), limit: 256 },
        Command::Define { tenant: other.clone(), change: DefinitionChange::Event(event.clone()) },
        Command::AccessToken(AccessTokenCommand::Revoke { id: AccessTokenId(7), within: Reach::All }),
        Command::Renew { tenant: other.clone(), leases: LeaseSet::new(vec![LeaseId(4)]) }
            .by(Actor { principal: principal.clone(), power: Power::Services(["w".into()].into()) }),
    ];
    let entries = commands.map(|command| {
        let proposal =
            Proposal { stamp: ClusterTime(5), wall: WallTime(6), commands: vec![command], once: Vec::new() };
        frame(Kind::LogEntry, &LogEntry::new_normal(log_id(7), Payload::new(proposal)))
    });
    let reply = Reply { outcomes: vec![Outcome::Expired { count: 1, more: false }], revision: Revision(8) };
    let frames = [
        frame(Kind::LogEntry, &entry(0)),
        frame(Kind::LogEntry, &entry(23)),
        frame(Kind::Vote, &Vote::new_committed(3, 1)),
        frame(Kind::LogId, &log_id(300)),
        frame(Kind::Instance, &instance),
        frame(Kind::Deadline, &ClusterTime(70_000)),
        frame(Kind::Identity, &IDENTITY),
        frame(Kind::PeerRequest, &"ask".to_owned()),
        frame(Kind::PeerResponse, &reply),
        frame(Kind::Definition, &definition(DefinitionContent::Schema(schema))),
        frame(Kind::Definition, &definition(rule)),
        frame(Kind::AccessToken, &token),
    ];
    assert_eq!(
        entries,
        [
            "0101030107012f0c0105060100017424016954140001020003037765620a687474703a2f2f682f3100000000000004016e0231000100",
            "0101030107010f0c0105060101017403fbe803010200",
            "0101030107010f0c0105060102017401690001030000",
            "0101030107010f0c0105060103017401690103030900",
            "010103010701100c010506010404fc70110100fb000100",
            "010103010701110c010506010601750001650178027b7d00",
            "0101030107010a0c010506010702070100",
            "010103010701160c0105060108056a77743a7001010177017501010400",
        ]
    );
    assert_eq!(
        frames,
        [
            "010103010002010101010101610170000001",
            "010103011700",
            "0201030101",
            "03010301fb2c01",
            "0401017424016954140001020003037765620a687474703a2f2f682f3100000000000004016e0231000100010201056a77743a70\
             0100fb2c01fb2d0102fd0068e5cf8b010000",
            "0501fc70110100",
            "0801c10700",
            "09010361736b",
            "0a010104010008",
            "10010175010173013101016f000474727565030405",
            "1001017502017303030405",
            "1401070101010101010101010101010101010101010101010101010101010101010101\
             01020202020202020202020202020202020202020202020202020202020202020209\
             000174020101770101010a016401056a77743a7003000104010500",
        ]
    );
}

#[test]
fn p13_a_sealed_record_belongs_to_its_key() {
    let record = codec::seal(Kind::Deadline, b"key", &ClusterTime(5));
    assert_eq!(codec::unseal::<ClusterTime>(Kind::Deadline, b"key", &record).unwrap(), ClusterTime(5));
    let moved = codec::unseal::<ClusterTime>(Kind::Deadline, b"kez", &record);
    assert!(matches!(moved, Err(CodecError::Checksum { .. })));
    for at in 0..record.len() {
        let mut changed = record.clone();
        changed[at] ^= 0x40;
        let read = codec::unseal::<ClusterTime>(Kind::Deadline, b"key", &changed);
        assert!(matches!(read, Err(CodecError::Checksum { .. })), "byte {at}");
    }
}

#[test]
fn p13_what_is_not_understood_is_refused_by_name() {
    let read = |frame: &[u8]| codec::decode::<ClusterTime>(Kind::PeerRequest, frame).unwrap_err();
    assert!(matches!(read(&[]), CodecError::Truncated { bytes: 0, .. }));
    assert!(matches!(read(&[9]), CodecError::Truncated { bytes: 1, .. }));
    assert!(matches!(read(&[10, 1, 5]), CodecError::Kind { kind: Kind::PeerRequest, found: 10 }));
    assert!(matches!(read(&[9, 1]), CodecError::Malformed { version: 1, .. }));
    assert!(matches!(read(&[9, 1, 5, 0]), CodecError::Trailing { bytes: 1, .. }));
    let newer = read(&[9, 2, 5]);
    assert_eq!(newer.to_string(), "decode PeerRequest: found version 2, but only version 1 is known");
}

#[test]
fn p11_a_frame_longer_than_its_kind_allows_is_refused() {
    let mut frame = vec![Kind::Vote as u8, 1];
    frame.resize(2 + Kind::Vote.bytes_max() + 1, 0);
    let error = codec::decode::<Vote>(Kind::Vote, &frame).unwrap_err();
    assert!(matches!(error, CodecError::TooLarge { bytes: 257, max: 256, .. }), "{error}");
    // A length that promises more than there is allocates nothing.
    let error = codec::decode::<Vec<u64>>(Kind::PeerRequest, &[9, 1, 253, 255, 255, 255, 255, 255, 255, 255, 127]);
    assert!(matches!(error, Err(CodecError::Malformed { .. })));
}

fn decode_as_everything(bytes: &[u8]) {
    for kind in Kind::ALL {
        let mut frame = vec![*kind as u8, kind.version()];
        frame.extend_from_slice(bytes);
        drop(codec::decode::<LogEntry>(*kind, &frame));
        drop(codec::decode::<Vote>(*kind, &frame));
        drop(codec::decode::<LogId>(*kind, &frame));
        drop(codec::decode::<Instance>(*kind, &frame));
        drop(codec::decode::<Identity>(*kind, &frame));
        drop(codec::decode::<Reply>(*kind, &frame));
    }
}

proptest! {
    #[test]
    fn p11_random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        decode_as_everything(&bytes);
        drop(codec::unseal::<LogEntry>(Kind::LogEntry, b"", &bytes));
    }

    #[test]
    fn p11_changed_entries_never_panic(index in 1u64..500, at in 0usize..1000, byte in any::<u8>()) {
        let mut frame = codec::encode(Kind::LogEntry, &entry(index));
        let at = 2 + at % (frame.len() - 2);
        frame[at] = byte;
        decode_as_everything(&frame[2..]);
    }
}
