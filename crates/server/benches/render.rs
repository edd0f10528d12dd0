//! What an answer to discovery costs to write: `cargo bench --profile release -p rollcall-server --bench render`.

use criterion::{Criterion, criterion_group, criterion_main};
use rollcall_registry::registration::Capability;
use rollcall_registry::{
    ClusterTime, Command, Condition, Filter, InstanceId, Kind, Metadata, MetadataValue, Options, Proposal, Query,
    Ranking, Registration, ServiceName, Sort, State, TenantId, Term, WallTime,
};
use rollcall_server::render::{Moment, Renderer};

const INSTANCES: u64 = 100;

fn tenant() -> TenantId {
    TenantId::parse("default").expect("a plain name")
}

/// Five tags, three capabilities, 300 bytes of metadata.
fn register(n: u64) -> Command {
    let texts =
        |kind: &str, count: u64| (0..count).map(|k| format!("{kind}-{k}").into()).collect::<Box<[Box<str>]>>();
    let note = "answers questions about invoices ".repeat(8);
    let pairs = [("env", "prod"), ("team", "team-7"), ("build", "2026.7"), ("note", note.as_str())];
    let registration = Registration {
        kind: Kind::Agent,
        version: Some("1.4.2".into()),
        tags: texts("tag", 5),
        capabilities: texts("capability", 3).into_iter().map(|name| Capability { name, detail: None }).collect(),
        metadata: Metadata::new(pairs.map(|(key, value)| (key, MetadataValue::Text(value)))),
        ..Registration::new(
            InstanceId::parse(&format!("agent-{n}")).expect("a plain name"),
            ServiceName::parse("service").expect("a plain name"),
            &format!("http://agent-{n}.agents.test:8080"),
            30_000,
        )
    };
    Command::Register { tenant: tenant(), registration: registration.pack(), condition: Condition::None }
}

fn render(c: &mut Criterion) {
    let mut state = State::new(Options::default());
    let commands = (0..INSTANCES).map(register).collect();
    let wall = WallTime(1_700_000_000_000);
    state.apply(Term(1), &Proposal { stamp: ClusterTime(0), wall, commands, once: Vec::new() });
    let filter = Filter { names: vec!["service".into()], ..Filter::default() };
    let query =
        Query { tenant: tenant(), filter, sort: Sort::Id, ranking: Ranking::default(), after: None, limit: 100 };
    let moment = Moment::of(&state, ClusterTime(1_000));
    let page = state.query(&query);

    let known = Renderer::default();
    let bytes = known.at(moment).found(&page.found, &[], usize::MAX).0.len();
    c.bench_function(&format!("write {INSTANCES} services, {bytes} bytes, rendered before"), |b| {
        b.iter(|| known.at(moment).found(&page.found, &[], usize::MAX));
    });
    let fresh = Renderer::of_bytes(0);
    c.bench_function(&format!("write {INSTANCES} services, none rendered before"), |b| {
        b.iter(|| fresh.at(moment).found(&page.found, &[], usize::MAX));
    });
    c.bench_function(&format!("find and write {INSTANCES} services"), |b| {
        b.iter(|| known.at(moment).found(&state.query(&query).found, &[], usize::MAX));
    });
}

criterion_group!(answers, render);
criterion_main!(answers);
