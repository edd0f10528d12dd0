//! Members whose programs are not equally new.

use rollcall_replica::{Objection, Operation, StartError};

use super::operate::{objection, operate};
use super::*;

/// A command of the newest level.
fn newer() -> Command {
    let tenant = TenantId::parse("default").expect("a valid tenant");
    Command::Rule { tenant, change: RulingChange::Quota(Some(Quota::default())) }
}

async fn try_start(wires: &Wires, dir: &TempDir, name: &str, start: StartMode) -> StartError {
    let wire = Wire { wires: wires.clone(), from: name.to_owned() };
    Replica::start(wires.options(dir, name, start, false), wire).await.map(drop).expect_err("it is too old")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p13_what_one_member_cannot_read_is_written_by_none() {
    let (dir, wires) = (TempDir::new().unwrap(), Wires::default());
    let (old, new) = (FeatureLevel(1), FEATURE_LEVEL);
    wires.older.lock().extend(["a", "b", "c"].map(|name| (name.to_owned(), old)));
    let [a, b, c] = wires.three(&dir).await;
    let replaced = async |member: Replica, name: &str| {
        drop(member);
        wires.end(name).await;
        wires.older.lock().remove(name);
        wires.resume(&dir, name).await
    };
    let (a, b) = (replaced(a, "a").await, replaced(b, "b").await);
    until("two to be newer", || async {
        let levels = c.status().await.members.into_iter().map(|member| member.feature_level).collect::<Vec<_>>();
        levels == [new, new, old]
    })
    .await;
    for member in [&a, &b, &c] {
        assert_eq!(member.status().await.feature_level, old);
        let refused = member.submit(newer(), soon()).await.unwrap_err();
        assert_eq!(refused, SubmitError::FeatureLevel { needed: new, cluster: old });
        assert!(!refused.may_have_been_applied() && refused.to_string().contains("cluster status"), "{refused}");
        // What all can read goes on.
        member.submit(register("x", "http://x"), soon()).await.unwrap();
    }
    let levels: Vec<_> = a.status().await.members.into_iter().map(|member| member.feature_level).collect();
    assert_eq!(levels, [new, new, old]);

    // The last one is replaced by a newer program.
    drop(c);
    wires.end("c").await;
    wires.older.lock().clear();
    let c = wires.resume(&dir, "c").await;
    for member in [&a, &b, &c] {
        until("the cluster to have the level", || async { member.status().await.feature_level == new }).await;
        member.submit(newer(), soon()).await.unwrap();
    }
    same_digests(&[&a, &b, &c]).await;

    // From now on nobody older gets in, by whichever way, nor back.
    wires.older.lock().extend(["c", "d", "e"].map(|name| (name.to_owned(), old)));
    let before = a.status().await.membership_index;
    let join = StartMode::Join { peers: vec!["b".to_owned()], token: None };
    let refused = try_start(&wires, &dir, "d", join).await;
    assert!(
        matches!(&refused, StartError::JoinRefused { reason, .. } if reason.contains("feature level 1")),
        "{refused}"
    );
    let door = Door::default();
    wires.doors.lock().insert("e".to_owned(), door.clone());
    let waiting = tokio::spawn({
        let (wires, path) = (wires.clone(), dir.path().to_owned());
        let mut options = wires.options(&dir, "e", StartMode::Wait(door), false);
        options.data_dir = path.join("e");
        async move { Replica::start(options, Wire { wires, from: "e".to_owned() }).await.map(drop) }
    });
    let add = || Operation::Add { peer_address: "e".to_owned(), api_address: None, learner: false };
    until("it waits and is refused", || async { objection(operate(&a, add()).await) == Objection::FeatureLevel })
        .await;
    waiting.abort();
    assert_eq!(a.status().await.membership_index, before);
    drop(c);
    wires.end("c").await;
    let refused = try_start(&wires, &dir, "c", StartMode::Wait(Door::default())).await;
    assert!(matches!(refused, StartError::TooOld { own: FeatureLevel(1), .. }), "{refused}");
    for member in [&a, &b] {
        member.shutdown().await;
    }
}
