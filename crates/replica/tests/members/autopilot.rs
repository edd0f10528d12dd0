//! What a leader does about the others by itself.

use rollcall_replica::{Failure, Kept};

use super::*;

async fn voters(member: &Replica) -> Vec<u64> {
    let members = member.status().await.members;
    members.into_iter().filter(|member| member.voter).map(|member| member.node_id).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_dead_are_removed_down_to_the_minimum_and_no_further() {
    let removal = Some(Duration::from_millis(1_500));
    let autopilot = Autopilot { removal, voters_min: 3, learner_stable: Duration::from_millis(300) };
    let (dir, wires) = (TempDir::new().unwrap(), Wires { autopilot, ..Wires::default() });
    let [a, b, c] = wires.three(&dir).await;
    let join = StartMode::Join { peers: vec!["a".to_owned()], token: None };
    let d = wires.start(&dir, "d", join).await;
    until("four voters", || async { voters(&a).await.len() == 4 }).await;
    wires.cut("d");
    // Told at any member, before it happens.
    until("a finding", || async {
        let told = b.status().await.autopilot;
        told.is_some_and(|told| told.findings.iter().any(|f| f.node_id == d.node_id() && f.removal_in_ms.is_some()))
    })
    .await;
    until("three voters", || async { voters(&b).await == [a.node_id(), b.node_id(), c.node_id()] }).await;
    // Between its vote and its place there is a log entry.
    until("three members", || async { b.status().await.members.len() == 3 }).await;
    // Counted by the leader when it is answered, which others may know before it.
    let removals = || [&a, &b, &c].iter().map(|member| member.meters().autopilot_removals.get()).sum::<u64>();
    until("the removal to be counted", || async { removals() > 0 }).await;
    assert_eq!(removals(), 1);
    wires.heal();
    let failed = tokio::time::timeout(Duration::from_secs(30), d.failed()).await.expect("it hears of it");
    assert!(matches!(failed, Failure::Removed { .. }), "{failed}");

    wires.cut("c");
    until("one that is kept though its time is over", || async {
        let told = b.status().await.autopilot;
        let kept = |kept| told.as_ref().is_some_and(|told| told.findings.iter().any(|f| f.kept == Some(kept)));
        kept(Kept::VotersMin)
    })
    .await;
    assert_eq!(voters(&b).await.len(), 3);
    wires.heal();
    until("the member to be back", || async { b.status().await.members.iter().all(|member| member.reachable) }).await;
    for member in [&a, &b, &c, &d] {
        member.shutdown().await;
    }
}
