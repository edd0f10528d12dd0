//! What the state machine's work costs on a roll of 200,000: `cargo bench --profile release -p rollcall-registry`.

// The ban is for what replicas must agree on.
#![allow(clippy::disallowed_types)]

mod load;

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use load::{GROUPS, decode, filled, id, proposal, register, registration, service, tenant, words_of_group};
use rollcall_registry::state::Restoring;
use rollcall_registry::{
    ClusterTime, Command, Filter, Instance, LeaseId, LeaseSet, Options, Position, Query, Ranking, Revision, Sort,
    State, Status, Term,
};

const INSTANCES: u64 = 200_000;
/// So that each has a hundred instances.
const SERVICES: u64 = 2_000;

/// How often a query is asked to know what it costs by itself.
const TRIES: usize = 5;

fn usual_roll() -> State {
    filled(INSTANCES, |n| registration(n, SERVICES))
}

fn query(filter: Filter, after: Option<Position>) -> Query {
    Query { tenant: tenant(), filter, sort: Sort::Id, ranking: Ranking::default(), after, limit: 100 }
}

fn by_name(n: u64) -> Query {
    query(Filter { names: vec![service(n % SERVICES).into()], ..Filter::default() }, None)
}

/// What only one group has all of: 20 instances.
fn narrow(n: u64) -> Query {
    let [capability, tag, label] = words_of_group(n);
    let filter = Filter {
        capabilities: vec![capability.into()],
        tags: vec![tag.into()],
        selector: format!("find={label}").parse().expect("a selector"),
        ..Filter::default()
    };
    query(filter, None)
}

/// The same numbers in an order that no cache foresees.
fn scattered(n: u64) -> u64 {
    n.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 20
}

fn queries(c: &mut Criterion) {
    let state = usual_roll();
    let again = by_name(7);
    c.bench_function("query by name, 100 hits, the same again", |b| b.iter(|| state.query(&again)));
    let mut n = 0;
    c.bench_function("query by name, 100 hits", |b| {
        b.iter_batched(
            || {
                n += 1;
                by_name(scattered(n))
            },
            |query| state.query(&query),
            BatchSize::SmallInput,
        );
    });

    let cost = |query: &Query| {
        let asked = (0..TRIES).map(|_| {
            let begun = Instant::now();
            black_box(state.query(query));
            begun.elapsed()
        });
        asked.min().unwrap_or(Duration::ZERO)
    };
    let all: Vec<Query> = (0..GROUPS).map(narrow).collect();
    assert!(all.iter().all(|query| state.query(query).total == 20));
    let worst = all.iter().max_by_key(|query| cost(query)).expect("there are services");
    let name = "query by capability, tag and label, 20 hits";
    c.bench_function(&format!("{name}, worst of {}", all.len()), |b| b.iter(|| state.query(worst)));
    c.bench_function(&format!("{name}, in turn"), |b| {
        let mut all = all.iter().cycle();
        b.iter(|| all.next().map(|query| state.query(query)));
    });
}

fn writes(c: &mut Criterion) {
    let mut state = usual_roll();
    let mut n = 0;
    for count in [1, 100] {
        c.bench_function(&format!("renew {count} of {INSTANCES}"), |b| {
            b.iter_batched(
                || {
                    n += 1;
                    // The leases of one batch are those of one host, which registered them one after the other.
                    let first = 1 + scattered(n) % (INSTANCES - count);
                    let leases = LeaseSet::new((first..first + count).map(LeaseId).collect());
                    proposal(
                        ClusterTime(INSTANCES / 10 + n / 1_000),
                        vec![Command::Renew { tenant: tenant(), leases }],
                    )
                },
                |proposal| state.apply(Term(1), &proposal),
                BatchSize::SmallInput,
            );
        });
    }
    let stamp = state.now();
    let mut n = INSTANCES;
    c.bench_function("decode and apply a register", |b| {
        b.iter_batched(
            || {
                n += 1;
                let proposal = proposal(stamp, vec![register(registration(n, SERVICES))]);
                bincode::serde::encode_to_vec(proposal, bincode::config::standard()).expect("plain data")
            },
            |bytes| state.apply(Term(1), &decode(&bytes)),
            BatchSize::SmallInput,
        );
    });
}

/// What a restart does with the rows, once they are read.
fn restores(c: &mut Criterion) {
    let mut state = usual_roll();
    let mut delta = state.take_delta();
    delta.deadlines.sort_unstable();
    delta.instances.sort_unstable_by(|a, b| a.id().cmp(b.id()));
    let mut group = c.benchmark_group("restart");
    group.sample_size(10);
    group.bench_function(format!("restore {INSTANCES}"), |b| {
        b.iter_batched(
            || delta.instances.iter().map(|instance| Instance::clone(instance)).collect::<Vec<_>>(),
            |instances| {
                let mut restoring = Restoring::new(Options::default(), delta.header.clone());
                delta.deadlines.iter().for_each(|(lease, deadline)| restoring.deadline(*lease, *deadline));
                for instance in instances {
                    restoring.instance(instance).expect("the rows are whole");
                }
                restoring.finish().expect("the rows are whole")
            },
            BatchSize::PerIteration,
        );
    });
}

/// A roll that has changed since: half are other statuses, a quarter removals, a quarter new.
fn changed(changes: u64) -> (State, Revision) {
    let mut state = usual_roll();
    let (before, stamp) = (state.revision(), state.now());
    for n in 0..changes {
        let id = id(n * 7 % INSTANCES);
        let command = match n % 4 {
            0 | 1 => {
                Command::Beat { tenant: tenant(), id, lease: None, status: Some(Status::Degraded), metadata: None }
            }
            2 => Command::Deregister {
                tenant: tenant(),
                id,
                lease: None,
                condition: rollcall_registry::Condition::None,
            },
            _ => register(registration(INSTANCES + n, SERVICES)),
        };
        state.apply(Term(1), &proposal(stamp, vec![command]));
    }
    assert_eq!(state.revision().0, before.0 + changes, "each command is a change");
    (state, before)
}

fn looks_back(c: &mut Criterion) {
    for changes in [10_000, 100_000] {
        let (state, revision) = changed(changes);
        let mut n = 0;
        c.bench_function(&format!("query by name as it was {changes} changes ago"), |b| {
            b.iter(|| {
                n += 1;
                state.query_at(&by_name(scattered(n)), revision).expect("it is kept")
            });
        });
        c.bench_function(&format!("query by capability, tag and label as it was {changes} changes ago"), |b| {
            b.iter(|| {
                n += 1;
                state.query_at(&narrow(scattered(n)), revision).expect("it is kept")
            });
        });
        let first = state.query_at(&query(Filter::default(), None), revision).expect("it is kept");
        let second = query(Filter::default(), first.next);
        c.bench_function(&format!("second page of all as it was {changes} changes ago"), |b| {
            b.iter(|| state.query_at(&second, revision).expect("it is kept"));
        });
    }
}

criterion_group!(roll, queries, writes, restores, looks_back);
criterion_main!(roll);
