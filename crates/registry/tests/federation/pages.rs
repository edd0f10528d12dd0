//! What is found where other clusters' instances are asked for too.

use rollcall_registry::{ClusterTime, Draw, Filter, InstanceId, Query, Ranking, Sort, Viewer, Visibility};

use super::{filled, tell_all, tenant};

#[test]
fn what_this_cluster_has_itself_is_shown_as_it_knows_it() {
    let (_, mut receiver, _) = filled();
    receiver.register("rouge", "y", "http://own", Visibility::Private, false);
    let shown: Vec<_> = receiver.foreign("rouge").into_keys().collect();
    assert_eq!(shown, ["x", "z"]);
    // Of what is hidden nobody learns by what is not shown instead.
    let filter = Filter { viewer: Viewer::named("a stranger"), ..Filter::default() };
    let query = Query {
        tenant: tenant("rouge"),
        filter,
        sort: Sort::Id,
        ranking: Ranking::default(),
        after: None,
        limit: 10,
    };
    let found = receiver.state.query_federated(&query, None).expect("it is possible");
    assert_eq!(found.foreign, 3);
}

#[test]
fn pages_hold_both_in_one_order() {
    let (_, mut receiver, _) = filled();
    for id in ["a", "xx", "yy", "zz"] {
        receiver.register("rouge", id, "http://own", Visibility::Public, false);
    }
    for limit in 1..9 {
        let mut query = Query {
            tenant: tenant("rouge"),
            filter: Filter::default(),
            sort: Sort::Id,
            ranking: Ranking::default(),
            after: None,
            limit,
        };
        let mut ids = Vec::new();
        let revision = receiver.state.revision();
        loop {
            let first = query.after.is_none();
            let found = receiver.state.query_federated(&query, (!first).then_some(revision)).expect("it is possible");
            assert_eq!((found.page.total, found.foreign), (4, 3));
            assert_eq!(found.page.found.len(), found.origins.len());
            for (view, origin) in found.page.found.iter().zip(&found.origins) {
                let id = view.instance.id();
                assert_eq!(origin.is_some(), ["x", "y", "z"].contains(&id), "{id}");
                ids.push(id.to_owned());
            }
            match found.page.next {
                Some(next) => query.after = Some(next),
                None => break,
            }
        }
        assert_eq!(ids, ["a", "x", "xx", "y", "yy", "z", "zz"], "pages of {limit}");
    }
}

#[test]
fn pages_of_many_are_those_of_few() {
    let (mut origin, mut receiver, mut teller) = filled();
    for n in 0..40 {
        origin.register("red", &format!("f-{n:02}"), "http://1", Visibility::Public, false);
    }
    tell_all(&mut origin, &mut receiver, &mut teller, &mut 50);
    receiver.register("rouge", "f-05", "http://own", Visibility::Public, false);
    receiver.register("rouge", "f-06", "http://own", Visibility::Private, false);
    for (viewer, own) in [(Viewer::All, vec!["f-05", "f-06"]), (Viewer::named("a stranger"), vec!["f-05"])] {
        for limit in [1, 2, 3, 7, 100] {
            let filter = Filter { viewer: viewer.clone(), ..Filter::default() };
            let tenant = tenant("rouge");
            let mut query = Query { tenant, filter, sort: Sort::Id, ranking: Ranking::default(), after: None, limit };
            let mut ids = Vec::new();
            loop {
                let found = receiver.state.query_federated(&query, None).expect("it is the present");
                assert_eq!((found.page.total, found.foreign), (own.len() as u64, 43 - own.len() as u64));
                for (view, origin) in found.page.found.iter().zip(&found.origins) {
                    assert_eq!(origin.is_none(), own.contains(&view.instance.id()));
                    ids.push(view.instance.id().to_owned());
                }
                let Some(next) = found.page.next else { break };
                query.after = Some(next);
            }
            let many = (0..40).map(|n| format!("f-{n:02}"));
            assert_eq!(ids, many.chain(["x", "y", "z"].map(str::to_owned)).collect::<Vec<_>>(), "pages of {limit}");
        }
    }
}

fn all() -> Query {
    let (tenant, filter, ranking) = (tenant("rouge"), Filter::default(), Ranking::default());
    Query { tenant, filter, sort: Sort::Id, ranking, after: None, limit: 1 }
}

#[test]
fn one_is_found_by_its_id_wherever_it_is() {
    let (_, mut receiver, _) = filled();
    receiver.register("rouge", "y", "http://own", Visibility::Private, false);
    let url = |receiver: &super::Cluster, id: &str, viewer: &Viewer| {
        let id = InstanceId::parse(id).expect("it is possible");
        let (view, origin) = receiver.state.get_federated(&tenant("rouge"), &id, viewer)?;
        Some((view.instance.registration().url.to_owned(), origin.map(|origin| origin.peer.as_str().to_owned())))
    };
    let own = ("http://own".to_owned(), None);
    let others = ("http://1".to_owned(), Some("a".to_owned()));
    assert_eq!(url(&receiver, "x", &Viewer::All), Some(others.clone()));
    assert_eq!(url(&receiver, "y", &Viewer::All), Some(own));
    assert_eq!(url(&receiver, "y", &Viewer::named("a stranger")), Some(others), "what is hidden is not there");
    assert_eq!(url(&receiver, "w", &Viewer::All), None);
}

#[test]
fn others_are_chosen_from_too_and_whoever_is_out_of_reach_last() {
    let (_, mut receiver, _) = filled();
    receiver.register("rouge", "own", "http://own", Visibility::Public, false);
    receiver.register("rouge", "x", "http://own", Visibility::Public, false);
    let chosen = |receiver: &super::Cluster, turn: u64| {
        let (picked, origin) =
            receiver.state.pick_federated(&all(), Draw::Turn(turn), receiver.now).expect("somebody is there");
        (picked.view.instance.id().to_owned(), origin.is_some(), picked.candidates)
    };
    let around = |receiver: &super::Cluster| {
        let mut seen: Vec<_> = (0..4).map(|turn| chosen(receiver, turn)).collect();
        seen.sort();
        seen.dedup();
        seen
    };
    let of = |id: &str, is_foreign: bool, candidates: u64| (id.to_owned(), is_foreign, candidates);
    assert_eq!(around(&receiver), [of("own", false, 4), of("x", false, 4), of("y", true, 4), of("z", true, 4)]);
    assert_eq!(receiver.state.count_federated(&all()), 4);
    receiver.now = ClusterTime(receiver.now.0 + 31_000);
    assert_eq!(around(&receiver), [of("own", false, 2), of("x", false, 2)]);
    for id in ["own", "x"] {
        let (tenant, id) = (tenant("rouge"), InstanceId::parse(id).expect("it is possible"));
        let condition = rollcall_registry::Condition::None;
        receiver.apply(rollcall_registry::Command::Deregister { tenant, id, lease: None, condition });
    }
    assert_eq!(
        around(&receiver),
        [of("x", true, 3), of("y", true, 3), of("z", true, 3)],
        "they are better than nobody"
    );
}
