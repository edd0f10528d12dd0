//! What is found where other clusters' instances are asked for too.

use rollcall_registry::{Filter, Query, Ranking, Sort, Viewer, Visibility};

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
