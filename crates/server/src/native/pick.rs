//! One of those who are present.

use std::sync::atomic::{AtomicU64, Ordering};

use axum::extract::State;
use axum::http::{StatusCode, Uri};
use axum::response::Response;
use rollcall_api::{PickResponse, Problem, Strategy};
use rollcall_registry::{ClusterTime, Draw, ForeignOrigin, Picked, Query, Sort, Status, VersionRange};
use xxhash_rust::xxh3::xxh3_64;

use super::{Native, json_text};
use crate::federation;
use crate::params::{self, Picking};
use crate::render::{self, Moment};
use crate::reply::{self, Failure, Shown};
use crate::request::Context;

/// Questions whose turns are counted apart. Two that share a count skip somebody now and then, and nothing worse.
const COUNTS: usize = 1_024;

/// Whose turn it is at this node, by question.
#[derive(Debug)]
pub(super) struct Turns(Box<[AtomicU64]>);

impl Default for Turns {
    /// Every node begins elsewhere, so that not all begin with the same instance.
    fn default() -> Self {
        Self((0..COUNTS).map(|_| AtomicU64::new(u64::from(rand::random::<u32>()))).collect())
    }
}

impl Turns {
    fn next(&self, question: u64) -> u64 {
        self.0[(question % COUNTS as u64) as usize].fetch_add(1, Ordering::Relaxed)
    }
}

/// Choose one instance
///
/// Takes the filters of discovery. Without `status` those that are `active` are chosen from, or if there are none those
/// that are `degraded`, and nobody else. With `split` a range of versions is drawn by weight first, among the ranges that
/// have anybody: a release and its canary.
#[utoipa::path(
    get, path = "/api/services/pick", tag = "services", operation_id = "pick",
    params(
        ("strategy" = Option<Strategy>, Query, description = "`rank` (default): the best; `weighted`: by lot, by the instances' `weight`; `round_robin`: one after the other, as this node counts"),
        ("split" = Option<Vec<String>>, Query, description = "RANGE:WEIGHT, as `^1.4:95`; repeat it for up to 16 ranges"),
        ("consistency" = Option<String>, Query, description = "`local` (default) or `linearizable`"),
        ("min_revision" = Option<u64>, Query, description = "Wait until this revision is shown"),
        ("max_staleness_ms" = Option<u64>, Query, description = "Refuse rather than answer from older state"),
        ("include_federated" = Option<bool>, Query, description = "From instances of other clusters too, as these told of them"),
        ("federated" = Option<String>, Query, description = "`copy`: as `include_federated=true`; `live`: the other clusters are asked first for what they have not told yet"),
        ("federated_timeout_ms" = Option<u64>, Query, minimum = 1, maximum = 10000, description = "How long each of them may take, with `federated=live`, default 1000"),
    ),
    responses(
        (status = 200, description = "The one", body = PickResponse),
        (status = 400, description = "Faulty; every fault is named", body = Problem),
        (status = 404, description = "`nobody_fits`", body = Problem),
        (status = 503, description = "`not_ready`, `no_leader`, `too_stale`", body = Problem),
        (status = 504, description = "`revision_not_reached`", body = Problem),
    ),
)]
pub(super) async fn pick(State(native): State<Native>, context: Context, uri: Uri) -> Result<Response, Failure> {
    let Picking { mut filter, rank, strategy, split, explain, consistency, federated } = params::pick(&uri)?;
    filter.viewer = context.viewer.clone();
    let sources = native.refresh(federated, &context.tenant).await;
    let freshness = native.replica.barrier(consistency, context.deadline).await?;
    let draw = match strategy {
        Strategy::Rank => Draw::Best,
        Strategy::Weighted => Draw::Weighted(rand::random()),
        Strategy::RoundRobin => {
            let asked = serde_json::to_vec(&(&context.tenant, &filter)).expect("a filter has no failing serializer");
            Draw::Turn(native.turns.next(xxh3_64(&asked)))
        }
    };
    let (tenant, lot) = (context.tenant, rand::random());
    let cluster_time = native.replica.cluster_time();
    let (chosen, revision, moment) = native.replica.roll().read(|state| {
        let ranking = rank.ranking(state, &tenant);
        let query = Query { tenant, filter, sort: Sort::Id, ranking, after: None, limit: 1 };
        let roll = Roll { state, federated_at: federated.is_asked().then(|| cluster_time.max(state.now())) };
        (roll.choose(query, &split, lot, draw), state.revision(), Moment::of(state, cluster_time))
    });
    let shown = Shown { revision, freshness };
    let Choice { picked, mut origin, range } = chosen.ok_or_else(|| nobody_fits().shown(shown))?;
    let Picked { view, score, candidates } = picked;
    if let Some(origin) = &mut origin {
        federation::freshen(origin, sources.as_deref());
    }

    let mut text = br#"{"service":"#.to_vec();
    native.renderer.at(moment).one(&view, origin.as_ref(), explain.then_some(&score), &mut text);
    let mut rest = format!(r#","strategy":"{strategy}","candidates":{candidates}"#);
    if let Some(range) = range {
        let range = serde_json::to_string(&String::from(range)).expect("text has no failing serializer");
        rest.push_str(&format!(r#","version_range":{range}"#));
    }
    rest.push_str(&format!(r#","revision":{revision}"#));
    text.extend_from_slice(rest.as_bytes());
    render::sources(&mut text, sources.as_deref());
    text.push(b'}');
    let mut response = json_text(StatusCode::OK, text);
    reply::show(&mut response, shown);
    Ok(response)
}

/// From whom it is chosen.
#[derive(Clone, Copy)]
struct Roll<'a> {
    state: &'a rollcall_registry::State,
    /// From other clusters' instances too, as they are to be believed at this time.
    federated_at: Option<ClusterTime>,
}

struct Choice {
    picked: Picked,
    /// Of another cluster's.
    origin: Option<ForeignOrigin>,
    /// Drawn, if the choice is split.
    range: Option<VersionRange>,
}

impl Roll<'_> {
    /// One of the best condition that there is, of a range that is drawn if the choice is split. A suspect is chosen where
    /// there are no others.
    fn choose(self, mut query: Query, split: &[(VersionRange, u32)], lot: u64, draw: Draw) -> Option<Choice> {
        let conditions = match std::mem::take(&mut query.filter.statuses) {
            asked if asked.is_empty() => vec![vec![Status::Active], vec![Status::Degraded]],
            asked => vec![asked],
        };
        let mut doubted = None;
        for condition in conditions {
            query.filter.statuses = condition;
            let range = match split {
                [] => None,
                split => match self.draw_range(&query, split, lot) {
                    Some(range) => Some(range),
                    None => continue,
                },
            };
            query.filter.versions.extend(range.clone());
            let picked = self.pick(&query, draw);
            if range.is_some() {
                query.filter.versions.clear();
            }
            match picked.map(|(picked, origin)| Choice { picked, origin, range }) {
                Some(choice) if self.doubts(&choice) => doubted = doubted.or(Some(choice)),
                None => {}
                choice => return choice,
            }
        }
        doubted
    }

    /// Whether it is better than nobody, and no more.
    fn doubts(self, Choice { picked, origin, .. }: &Choice) -> bool {
        let is_stale = |origin: &ForeignOrigin| self.federated_at.is_some_and(|now| now > origin.stale_after);
        picked.score.suspect || origin.as_ref().is_some_and(is_stale)
    }

    fn pick(self, query: &Query, draw: Draw) -> Option<(Picked, Option<ForeignOrigin>)> {
        match self.federated_at {
            Some(now) => self.state.pick_federated(query, draw, now),
            None => self.state.pick(query, draw).map(|picked| (picked, None)),
        }
    }

    /// One of the ranges in which there is anybody, each as often as its weight says.
    fn draw_range(self, query: &Query, split: &[(VersionRange, u32)], lot: u64) -> Option<VersionRange> {
        let is_there = |range: &VersionRange| {
            let mut query = query.clone();
            query.filter.versions = vec![range.clone()];
            let count = match self.federated_at {
                Some(_) => self.state.count_federated(&query),
                None => self.state.count(&query),
            };
            count > 0
        };
        let there: Vec<_> = split.iter().filter(|(range, weight)| *weight > 0 && is_there(range)).collect();
        let sum: u64 = there.iter().map(|(_, weight)| u64::from(*weight)).sum();
        let mut drawn = lot.checked_rem(sum)?;
        let share = there.into_iter().find(|(_, weight)| {
            let is_drawn = drawn < u64::from(*weight);
            drawn = drawn.saturating_sub(u64::from(*weight));
            is_drawn
        });
        share.map(|(range, _)| range.clone())
    }
}

fn nobody_fits() -> Failure {
    let detail =
        "nobody that could be picked is on the roll: `GET /api/services` with the same filters shows who is there";
    Failure::new(StatusCode::NOT_FOUND, "nobody_fits", detail)
}

#[cfg(test)]
mod tests {
    use rollcall_registry::{
        Command, Condition, Filter, InstanceId, Options, Proposal, Ranking, Registration, ServiceName, State,
        TenantId, Term, WallTime,
    };

    use super::*;

    fn tenant() -> TenantId {
        TenantId::parse("default").unwrap()
    }

    /// Three of version 1 and one of version 2, of weights 1, 2, 0 and 4.
    fn state() -> State {
        let instances = [("a", "1.0.0", 1), ("b", "1.0.0", 2), ("c", "1.1.0", 0), ("d", "2.0.0", 4)];
        let commands = instances.map(|(id, version, weight)| {
            let (id, name) = (InstanceId::parse(id).unwrap(), ServiceName::parse("web").unwrap());
            let registration = Registration {
                version: Some(version.into()),
                weight,
                ..Registration::new(id, name, "http://a", 10_000)
            };
            Command::Register { tenant: tenant(), registration: registration.pack(), condition: Condition::None }
        });
        let mut state = State::new(Options::default());
        let (stamp, wall) = (ClusterTime(0), WallTime(0));
        state.apply(Term(1), &Proposal { stamp, wall, commands: commands.into(), once: Vec::new() });
        state
    }

    fn own(state: &State) -> Roll<'_> {
        Roll { state, federated_at: None }
    }

    fn query() -> Query {
        let (tenant, filter, ranking) = (tenant(), Filter::default(), Ranking::default());
        Query { tenant, filter, sort: Sort::Id, ranking, after: None, limit: 1 }
    }

    fn range(text: &str, weight: u32) -> (VersionRange, u32) {
        (VersionRange::parse(text).unwrap(), weight)
    }

    fn beat(state: &mut State, id: &str, status: Status) {
        let command = Command::Beat {
            tenant: tenant(),
            id: InstanceId::parse(id).unwrap(),
            lease: None,
            status: Some(status),
            metadata: None,
        };
        let (stamp, wall) = (ClusterTime(0), WallTime(0));
        state.apply(Term(1), &Proposal { stamp, wall, commands: vec![command], once: Vec::new() });
    }

    #[test]
    fn each_is_drawn_as_often_as_it_weighs() {
        let state = state();
        let mut drawn = std::collections::BTreeMap::new();
        for n in 0..70 {
            let Choice { picked, origin, range } = own(&state).choose(query(), &[], 0, Draw::Weighted(n)).unwrap();
            assert_eq!((picked.candidates, range, origin.is_none()), (4, None, true));
            *drawn.entry(picked.view.instance.id().to_owned()).or_insert(0) += 1;
        }
        assert_eq!(drawn.into_iter().collect::<Vec<_>>(), [("a".into(), 10), ("b".into(), 20), ("d".into(), 40)]);
    }

    #[test]
    fn a_split_gives_each_range_its_share_whatever_its_instances_weigh() {
        let state = state();
        let split = [range("^1", 95), range("^2", 5), range("^3", 900)];
        let canaries = (0..1_000).filter(|lot| {
            let choice = own(&state).choose(query(), &split, *lot, Draw::Weighted(*lot));
            let Choice { picked, range, .. } = choice.unwrap();
            let range = String::from(range.unwrap());
            assert_eq!(range == "^2", picked.view.instance.id() == "d", "{range}");
            range == "^2"
        });
        assert_eq!(canaries.count(), 50, "a range without anybody has no share");
    }

    #[test]
    fn who_is_degraded_is_chosen_where_nobody_is_active() {
        let mut state = state();
        let picked = |state: &State| own(state).choose(query(), &[], 0, Draw::Best).map(|choice| choice.picked);
        for id in ["a", "b", "c"] {
            beat(&mut state, id, Status::Degraded);
        }
        assert_eq!(picked(&state).unwrap().view.instance.id(), "d");
        beat(&mut state, "d", Status::Error);
        let degraded = picked(&state).unwrap();
        assert_eq!((degraded.view.instance.id(), degraded.candidates), ("a", 3));
        for id in ["a", "b", "c"] {
            beat(&mut state, id, Status::Maintenance);
        }
        assert!(picked(&state).is_none());
        let mut asked = query();
        asked.filter.statuses = vec![Status::Error];
        assert_eq!(own(&state).choose(asked, &[], 0, Draw::Best).unwrap().picked.view.instance.id(), "d");
    }

    #[test]
    fn turns_go_around() {
        let (state, turns) = (state(), Turns::default());
        let next = || own(&state).choose(query(), &[], 0, Draw::Turn(turns.next(7))).unwrap().picked;
        let mut seen: Vec<String> = (0..4).map(|_| next().view.instance.id().into()).collect();
        seen.sort();
        assert_eq!(seen, ["a", "b", "c", "d"]);
    }
}
