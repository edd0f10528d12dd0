//! What is said is understood, and whatever is changed is found out.

use std::sync::Arc;

use rollcall_registry::{
    LeaseId, Metadata, MetadataValue, Registration, Seldom, ServiceName, TenantPair, Visibility,
};

use super::*;

fn own(byte: u8) -> Own {
    Own::of(&ClusterSeed([byte; 32]))
}

fn instance(metadata: MetadataValue<'_>) -> Arc<Instance> {
    let mut registration = Registration {
        visibility: Visibility::Public,
        owner: Some("ann".into()),
        tags: ["a".into(), "b".into()].into(),
        metadata: Metadata::new([("m", metadata)]),
        ..Registration::new(InstanceId::parse("i").unwrap(), ServiceName::parse("s").unwrap(), "http://a", 7)
    };
    let auth: rollcall_api::Auth =
        serde_json::from_value(json!({"type": "api_key", "token": "hush", "auth_endpoint": "http://a"})).unwrap();
    registration.extras.auth = Some(translate::json_text(&auth));
    registration.extras.region = Some("eu".into());
    Arc::new(Instance {
        tenant: TenantId::parse("t").unwrap(),
        registration: registration.pack(),
        seldom: Seldom::default(),
        reported_status: Status::Degraded,
        presence: rollcall_registry::Presence::Present,
        lease: LeaseId(5),
        revision: Revision(9),
        created_revision: Revision(5),
        registered_at: WallTime(1_700_000_000_123),
    })
}

fn said_of(telling: Telling) -> (Vec<u8>, u64) {
    let (mut state, mut peer) = (rollcall_registry::State::new(Default::default()), None);
    let terms = rollcall_registry::PeerTerms {
        name: rollcall_registry::PeerName::parse("p").unwrap(),
        key: rollcall_registry::ClusterKey([1; 32]),
        urls: ["http://p".into()].into(),
        ca: None,
        direction: rollcall_registry::Direction::Both,
        tenants: [TenantPair { local: TenantId::parse("t").unwrap(), remote: TenantId::parse("t").unwrap() }].into(),
        offered: rollcall_registry::Offered::Public,
        selector: Default::default(),
        trust: rollcall_registry::Trust::try_from(600).unwrap(),
        priority: 0,
    };
    let command = rollcall_registry::Command::Federation(rollcall_registry::FederationCommand::Add(Box::new(terms)));
    let proposal = rollcall_registry::Proposal {
        stamp: ClusterTime(3),
        wall: WallTime(3),
        commands: vec![command],
        once: Vec::new(),
    };
    state.apply(rollcall_registry::Term(1), &proposal);
    let mut teller = rollcall_registry::federation::teller::Teller::default();
    let next = teller.next(&state, peer.get_or_insert_with(|| state.peers().next().unwrap().clone()), false);
    let rollcall_registry::federation::teller::Next::Tell(batch) = next else { panic!("it asks first") };
    let mut batch = Batch::clone(&batch);
    batch.tellings = vec![telling];
    let words = words(&batch, &own(1), &own(2).did, WallTime(1_700_000_000_999));
    (serde_json::to_vec(&json!({ "messages": words.messages })).unwrap(), words.unsendable)
}

fn read(body: &[u8]) -> Result<Message, String> {
    let mut faults = Faults::default();
    let body: Value = serde_json::from_slice(body).unwrap();
    let message = Message::parse("messages[0]", body["messages"][0].clone(), &mut faults);
    let faults: Vec<_> = faults.into_vec().into_iter().map(|f| format!("{} {}", f.field, f.message)).collect();
    message.filter(|_| faults.is_empty()).ok_or(faults.join("; "))
}

#[test]
fn what_is_said_is_understood_but_for_the_token() {
    let told = instance(MetadataValue::Json(r#"{"deep":[1,null,"x"]}"#));
    let put =
        Telling::Put { after: Revision(4), revision: Revision(9), instance: told.clone(), sort: Put::StatusChanged };
    let (body, unsendable) = said_of(put);
    assert!(!String::from_utf8_lossy(&body).contains("hush"));
    let message = read(&body).unwrap();
    assert!(message.is_signed());
    assert_eq!((unsendable, message.source, message.target), (0, own(1).public_key, own(2).did));
    assert_eq!((message.told_at, message.ttl_ms, message.hop_count), (WallTime(1_700_000_000_999), 3_600_000, 1));
    let ForeignMessage::Change { after, revision, tenant, change: ForeignChange::Put(put) } = message.said else {
        panic!("it is a change");
    };
    assert_eq!((after, revision, tenant.as_str()), (Revision(4), Revision(9), "t"));
    assert_eq!((put.status, put.revision, put.registered_at), (Status::Degraded, Revision(9), told.registered_at));
    let (mut own, theirs) = (told.registration().to_registration(), put.registration.view().to_registration());
    own.extras.auth = theirs.extras.auth.clone();
    assert_eq!(own, theirs);
    assert_eq!(&*theirs.extras.auth.unwrap().0, r#"{"type":"api_key","auth_endpoint":"http://a"}"#);
}

#[test]
fn all_that_can_be_told_is_understood() {
    let (tenant, id) = (TenantId::parse("t").unwrap(), InstanceId::parse("i").unwrap());
    let (after, revision, at) = (Revision(1), Revision(2), Revision(3));
    let change = ForeignChange::Remove(id.clone());
    let table = [
        (
            Telling::Remove { after, revision, tenant: tenant.clone(), id },
            ForeignMessage::Change { after, revision, tenant, change },
        ),
        (Telling::Begin { at }, ForeignMessage::Begin { at }),
        (Telling::End { at, count: 4 }, ForeignMessage::End { at, count: 4 }),
        (Telling::Bookmark { after, at }, ForeignMessage::Bookmark { after, at }),
    ];
    for (telling, said) in table {
        let message = read(&said_of(telling).0).unwrap();
        assert!(message.is_signed());
        assert_eq!(message.said, said);
    }
}

#[test]
fn what_cannot_be_signed_is_said_to_be_unknown() {
    let instance = instance(MetadataValue::Json("9007199254740993"));
    let (body, unsendable) = said_of(Telling::Entry { at: Revision(1), number: 0, instance });
    assert_eq!(unsendable, 1);
    let message = read(&body).unwrap();
    let ForeignMessage::Entry { told, .. } = message.said else { panic!("it is an entry") };
    assert_eq!(told, Err(Unreadable { id: InstanceId::parse("i").ok() }));
}

#[test]
fn whatever_is_changed_is_found_out() {
    let instance = instance(MetadataValue::Text("x"));
    let (body, _) = said_of(Telling::Entry { at: Revision(1), number: 0, instance });
    let good: Value = serde_json::from_slice(&body).unwrap();
    let changes: [(&str, Value); 8] = [
        ("/messages/0/payload/number", json!(1)),
        ("/messages/0/payload/tenant", json!("other")),
        ("/messages/0/payload/service/url", json!("http://evil")),
        ("/messages/0/payload/stream/epoch", json!(7)),
        ("/messages/0/metadata/hop_count", json!(0)),
        ("/messages/0/target", json!(own(3).did)),
        ("/messages/0/source", json!(own(3).did)),
        ("/messages/0/timestamp", json!("2023-11-14T22:13:21.000Z")),
    ];
    for (at, value) in changes {
        let mut bad = good.clone();
        *bad.pointer_mut(at).unwrap() = value;
        assert!(!read(bad.to_string().as_bytes()).unwrap().is_signed(), "{at}");
    }
    // A member that this version does not know is signed along.
    let mut more = good.clone();
    more["messages"][0]["payload"]["more"] = json!(1);
    assert!(!read(more.to_string().as_bytes()).unwrap().is_signed());
    assert!(read(good.to_string().as_bytes()).unwrap().is_signed());
}

#[test]
fn every_fault_is_named() {
    let body = json!({"messages": [{
        "type": "X", "source": "me", "target": "", "nonce": "short", "timestamp": "soon", "signature": "?",
        "payload": {"action": "register", "after": -1}, "metadata": {"ttl": "x"},
    }]});
    let said = read(body.to_string().as_bytes()).unwrap_err();
    for part in [
        "messages[0].type must be one of",
        "messages[0].source must be",
        "messages[0].nonce must be",
        "messages[0].timestamp must be",
        "messages[0].signature must be",
        "messages[0].payload.after",
        "messages[0].payload.stream is required",
        "messages[0].metadata.ttl",
    ] {
        assert!(said.contains(part), "{part} in {said}");
    }
}
