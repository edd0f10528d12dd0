//! What the tests of the stores share: commands that depend on a number only, and one node's stores.

use std::path::Path;

use futures_util::stream;
use openraft::entry::RaftEntry;
use openraft::storage::{RaftLogStorage, RaftLogStorageExt, RaftSnapshotBuilder, RaftStateMachine};
use openraft::{Membership, RaftLogReader};
use rollcall_registry::{
    AccessRole, AccessTokenCommand, AccessTokenId, Admission, CheckScope, ClusterKey, ClusterSeed, ClusterTime,
    Command, Condition, DefinitionChange, DefinitionName, Digest, Direction, Epoch, EventDefinition, FeatureLevel,
    FederationCommand, ForeignBatch, ForeignChange, ForeignMessage, Grant, InstanceId, JoinTokenCommand, JoinTokenId,
    LeaseId, LeaseSet, Metadata, MetadataValue, NewAccessToken, Offered, Options, OrderKind, OwnerKey, OwnerName,
    PackedRegistration, PeerName, PeerTerms, PrincipalId, Proposal, Quota, RankWeights, Reach, Registration,
    Revision, RulingChange, Scopes, SecretDigest, ServiceName, SignatureCommand, SignatureMode, Signing, State,
    Status, Stream, TenantChecks, TenantId, TenantPair, Term, Told, Trust, Verb, Verdict, Visibility, WallTime,
};
use rollcall_storage::{
    ClusterId, DataDir, Identity, LogEntry, LogId, Member, Payload, Snapshot, Stores, TypeConfig,
};

pub(crate) const IDENTITY: Identity = Identity { cluster_id: ClusterId(0xC1), node_id: 7, removed: false };
pub(crate) const TERM: u64 = 3;

pub(crate) fn log_id(index: u64) -> LogId {
    openraft::testing::log_id::<TypeConfig>(TERM, 1, index)
}

/// The log entry `index` of every test: a membership first, then commands of all kinds and a blank here and there.
pub(crate) fn entry(index: u64) -> LogEntry {
    match index {
        0 => {
            let (api_address, peer_address) = ("a".to_owned(), "p".to_owned());
            let member =
                Member { api_address, peer_address, learner: false, replaces: None, feature_level: FeatureLevel(1) };
            let membership = Membership::new(vec![[1].into()], std::collections::BTreeMap::from([(1, member)]));
            LogEntry::new_membership(log_id(0), membership.expect("the voter is a member"))
        }
        index if index % 23 == 0 => LogEntry::new_blank(log_id(index)),
        index => LogEntry::new_normal(log_id(index), Payload::new(proposal(index))),
    }
}

pub(crate) fn entries(range: std::ops::Range<u64>) -> Vec<LogEntry> {
    range.map(entry).collect()
}

pub(crate) fn proposal(n: u64) -> Proposal {
    let tenant = TenantId::parse(if n.is_multiple_of(5) { "t1" } else { "t2" }).expect("a valid tenant");
    let id = InstanceId::parse(&format!("i{}", n % 37)).expect("a valid id");
    let register =
        Command::Register { tenant: tenant.clone(), registration: registration(&id, n), condition: Condition::None };
    let mut commands = vec![register];
    if n.is_multiple_of(3) {
        let leases = LeaseSet::new((n.saturating_sub(20)..n).map(LeaseId).collect());
        commands.push(Command::Renew { tenant: tenant.clone(), leases });
    }
    if n.is_multiple_of(11) {
        commands.push(Command::Deregister { tenant, id, lease: None, condition: Condition::None });
    }
    if n.is_multiple_of(13) {
        commands.push(Command::Expire { term: Term(TERM), up_to: ClusterTime(n * 100), limit: 3 });
    }
    commands.extend(about_tokens(n).map(Command::JoinToken));
    commands.extend(about_access(n).map(Command::AccessToken));
    commands.extend(about_rulings(n, n.saturating_sub(40)));
    if n % 30 == 29 {
        let name = DefinitionName::parse(&format!("event-{n}")).unwrap();
        let event = EventDefinition { name, topic: "facts".into(), document: "{}".into() };
        commands.push(Command::Define {
            tenant: TenantId::parse("default").unwrap(),
            change: DefinitionChange::Event(event),
        });
    }
    commands.extend(about_signatures(n));
    commands.extend(about_peers(n).map(Command::Federation));
    Proposal { stamp: ClusterTime(n * 100), wall: WallTime(1_700_000_000_000 + n), commands, once: Vec::new() }
}

/// Orders come and go, for instances on the roll and off it; owners are trusted; checks find this and that.
fn about_rulings(n: u64, earlier: u64) -> Vec<Command> {
    let tenant = TenantId::parse(if n.is_multiple_of(5) { "t1" } else { "t2" }).expect("a valid tenant");
    let id = |n: u64| InstanceId::parse(&format!("i{}", n % 37)).expect("a valid id");
    let owner = OwnerName::parse(&format!("o{}", n % 3)).expect("a valid name");
    let rule = |change| Command::Rule { tenant: tenant.clone(), change };
    let reason = n.is_multiple_of(2).then(|| format!("because of {n}").into());
    let kind = if n.is_multiple_of(4) { OrderKind::Drain } else { OrderKind::Maintenance };
    match n % 9 {
        1 | 4 => vec![rule(RulingChange::Give { id: id(n), kind, reason })],
        3 => vec![rule(RulingChange::Lift { id: id(earlier), kind: OrderKind::Maintenance })],
        5 => vec![rule(RulingChange::Trust { owner, trust: Trust::try_from(n as u16).ok() })],
        7 if n.is_multiple_of(2) => vec![rule(RulingChange::Ranking(Some(RankWeights::default())))],
        // Far more than is ever there.
        6 => vec![rule(RulingChange::Quota(
            (!n.is_multiple_of(4)).then(|| Quota { registrations: Some(n + 1_000), ..Quota::default() }),
        ))],
        7 => vec![rule(RulingChange::Checks(Some(TenantChecks {
            scope: CheckScope::All,
            interval_ms: Some(n as u32),
        })))],
        8 => {
            // Of whoever has this lease, if anybody has.
            let lease = LeaseId(n.saturating_sub(1));
            vec![Command::Observe { tenant, id: id(n), lease, verdict: Verdict::Degraded }]
        }
        _ => Vec::new(),
    }
}

/// Owners' keys come by signed registrations and by operators, retire what they signed, and go.
fn about_signatures(n: u64) -> Option<Command> {
    let tenant = TenantId::parse("t3").expect("a valid tenant");
    let mode = SignatureMode::Accepted;
    Some(match n % 19 {
        3 => Command::Signatures(SignatureCommand::SetMode { tenant, mode: Some(mode) }),
        5 => Command::Signatures(SignatureCommand::RemoveKey { tenant, owner: "o2".into() }),
        7 => Command::Signatures(SignatureCommand::PutKey { tenant, owner: "o2".into(), key: OwnerKey([2; 32]) }),
        11 | 13 => {
            let id = InstanceId::parse("signed").expect("a valid id");
            let mut registration = registration(&id, n).view().to_registration();
            registration.owner = Some("o1".into());
            registration.extras.keep_signed(&format!("{n}"));
            Command::RegisterSigned {
                tenant,
                registration: registration.pack(),
                condition: Condition::None,
                signing: Signing { mode, key: Some(OwnerKey([1; 32])) },
            }
        }
        _ => return None,
    })
}

/// Another cluster is named, tells some instances one after the other, and takes some back; now and then it is removed.
fn about_peers(n: u64) -> Option<FederationCommand> {
    let name = PeerName::parse("east").expect("a valid name");
    let tenant = TenantId::parse("t1").expect("a valid tenant");
    let (key, at) = (ClusterKey([5; 32]), Revision(1));
    let said = |messages| {
        let stream = Stream { epoch: Epoch(1), since: ClusterTime(1) };
        let peer = name.clone();
        let batch = ForeignBatch { peer, key, stream, told_at: WallTime(n), ttl_ms: 3_600_000, messages };
        Some(FederationCommand::Receive(batch))
    };
    let message = |change| {
        let (after, revision, tenant) = (Revision(0), Revision(n + 1), tenant.clone());
        said(vec![ForeignMessage::Change { after, revision, tenant, change }])
    };
    let id = InstanceId::parse(&format!("f{}", n % 7)).expect("a valid id");
    match n % 29 {
        1 => Some(FederationCommand::Found(ClusterSeed([4; 32]))),
        2 => Some(FederationCommand::Add(Box::new(PeerTerms {
            name,
            key,
            urls: ["http://east:7900".into()].into(),
            ca: Some("-----BEGIN CERTIFICATE-----".into()),
            direction: Direction::Both,
            tenants: [TenantPair { local: tenant.clone(), remote: tenant }].into(),
            offered: Offered::Internal,
            selector: "env in (a,b),!c".parse().expect("a valid selector"),
            trust: Trust::try_from(700).expect("a valid trust"),
            priority: 3,
        }))),
        3 => said(vec![ForeignMessage::Begin { at }, ForeignMessage::End { at, count: 0 }]),
        11 => message(ForeignChange::Remove(id)),
        28 if n > 100 => Some(FederationCommand::Remove { name }),
        27 => Some(FederationCommand::Sweep { limit: 2 }),
        5.. => message(ForeignChange::Put(Told {
            registration: registration(&id, n),
            status: Status::Active,
            revision: Revision(n + 1),
            registered_at: WallTime(n),
        })),
        _ => None,
    }
}

/// Tokens come, admit, expire and go.
fn about_tokens(n: u64) -> Option<JoinTokenCommand> {
    let (id, secret) = (JoinTokenId(n % 3), SecretDigest([7; 32]));
    if n.is_multiple_of(17) {
        let uses_max = (!n.is_multiple_of(2)).then_some(2);
        return Some(JoinTokenCommand::Create { id, secret, learners_only: false, ttl_ms: n * 20, uses_max });
    }
    if n.is_multiple_of(31) {
        return Some(JoinTokenCommand::Revoke { id });
    }
    let admission = Admission { id, secret, address: format!("n{n}:1").into(), learner: false };
    n.is_multiple_of(4).then_some(JoinTokenCommand::Spend(admission))
}

/// Access tokens come, are used and rotated, and are revoked.
fn about_access(n: u64) -> Option<AccessTokenCommand> {
    let (id, secret) = (AccessTokenId(n / 20), SecretDigest([9; 32]));
    let token = || NewAccessToken {
        id,
        secret,
        reach: Reach::Tenant(TenantId::parse("t1").expect("a valid tenant")),
        role: AccessRole::Agent,
        scopes: Scopes { services: ["web".into()].into(), verbs: [Verb::Read].into() },
        ttl_ms: Some(60_000),
        description: "a token".into(),
        created_by: Some(PrincipalId::parse("jwt:me").expect("a valid name")),
    };
    match n % 20 {
        3 => Some(AccessTokenCommand::Create { token: token(), first: false }),
        7 => Some(AccessTokenCommand::Used { ids: vec![id] }),
        9 => Some(AccessTokenCommand::Rotate { id, secret, overlap_ms: 500, within: Grant::all() }),
        15 if n % 40 > 20 => Some(AccessTokenCommand::Revoke { id, within: Reach::All }),
        _ => None,
    }
}

/// A registration, and then reports of 60 KB each.
pub(crate) fn large_report(n: u64) -> Proposal {
    let tenant = TenantId::parse("t1").expect("a valid tenant");
    let id = InstanceId::parse("i").expect("a valid id");
    let command = match n {
        0 => Command::Register { tenant, registration: registration(&id, 1), condition: Condition::None },
        n => {
            let text = format!("{n}{}", "x".repeat(60_000));
            let metadata = Some(Metadata::new([("p", MetadataValue::Text(&text))]));
            Command::Beat { tenant, id, lease: None, status: None, metadata }
        }
    };
    Proposal { stamp: ClusterTime(n), wall: WallTime(n), commands: vec![command], once: Vec::new() }
}

pub(crate) fn registration(id: &InstanceId, n: u64) -> PackedRegistration {
    let registration = Registration {
        visibility: Visibility::Public,
        reap_after_ms: if n.is_multiple_of(2) { 500 } else { 0 },
        metadata: Metadata::new([("n", MetadataValue::Text(if n.is_multiple_of(2) { "0" } else { "1" }))]),
        ..Registration::new(
            id.clone(),
            ServiceName::parse("web").expect("a valid name"),
            &format!("http://h/{}", n % 3),
            1000 + (n % 7) as u32 * 300,
        )
    };
    registration.pack()
}

/// The digest after the log entry `index`, worked out without any storage.
pub(crate) fn digest_after(index: u64) -> Digest {
    let mut state = State::new(Options::default());
    for index in (1..=index).filter(|index| index % 23 != 0) {
        state.apply(Term(TERM), &proposal(index));
    }
    state.digest()
}

pub(crate) fn lock(path: &Path) -> DataDir {
    DataDir::lock(path).expect("the directory is free and ours")
}

/// Founds a node in a new directory, or opens the one that is there.
pub(crate) fn open(path: &Path) -> Stores {
    let dir = lock(path);
    dir.write_identity(IDENTITY).expect("the directory is new or ours");
    rollcall_storage::open(&dir, Options::default()).expect("the stores are whole")
}

/// Appends and waits until it is durable.
pub(crate) async fn append(stores: &mut Stores, range: std::ops::Range<u64>) {
    stores.log.blocking_append(entries(range)).await.expect("append");
}

pub(crate) async fn apply(stores: &mut Stores, range: std::ops::Range<u64>) {
    let entries = entries(range).into_iter().map(|entry| Ok((entry, None)));
    stores.state_machine.apply(stream::iter(entries)).await.expect("apply");
}

/// Applies proposals as the first entries of a log.
pub(crate) async fn apply_proposals(stores: &mut Stores, proposals: impl Iterator<Item = Proposal>) {
    let entries =
        (1..).zip(proposals).map(|(index, proposal)| LogEntry::new_normal(log_id(index), Payload::new(proposal)));
    let entries: Vec<_> = entries.map(|entry| Ok((entry, None))).collect();
    stores.state_machine.apply(stream::iter(entries)).await.expect("apply");
}

/// Applies what the log holds beyond the state, as a restart does.
pub(crate) async fn replay(stores: &mut Stores) {
    let start = stores.roll.applied().map_or(0, |applied| applied.index + 1);
    let mut reader = stores.log.get_log_reader().await;
    let held = reader.try_get_log_entries(start..).await.expect("read the log");
    let held = held.into_iter().map(|entry| Ok((entry, None)));
    stores.state_machine.apply(stream::iter(held)).await.expect("apply");
}

pub(crate) async fn checkpoint(stores: &mut Stores) -> Snapshot {
    let builder = stores.state_machine.try_create_snapshot_builder(true).await;
    builder.expect("a forced checkpoint").build_snapshot().await.expect("write a checkpoint")
}

pub(crate) async fn last_index(stores: &mut Stores) -> Option<u64> {
    let state = stores.log.get_log_state().await.expect("read the log's state");
    state.last_log_id.map(|last| last.index)
}

pub(crate) fn digest(stores: &Stores) -> Digest {
    stores.roll.read(|state| {
        state.assert_consistent();
        state.digest()
    })
}

/// A directory in memory where there is one, for tests that do not depend on the disk and would wait for it long.
pub(crate) fn memory_dir() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    let dir = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    dir.expect("a directory")
}

/// What a kill leaves: the files as they are in the page cache.
pub(crate) fn copy_dir(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("create a directory");
    for file in std::fs::read_dir(from).expect("read a directory") {
        let file = file.expect("read a directory");
        let target = to.join(file.file_name());
        if file.file_type().expect("a file's type").is_dir() {
            copy_dir(&file.path(), &target);
        } else {
            std::fs::copy(file.path(), target).expect("copy a file");
        }
    }
}
