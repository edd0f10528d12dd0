//! What operators ask for, at any member.

use rollcall_replica::{Failure, Objection, OperateError, Operated, Operation, StartError, Terms};
use rollcall_storage::DataDirError;

use super::*;

pub(super) async fn operate(member: &Replica, operation: Operation) -> Result<Operated, OperateError> {
    member.operate(operation, Terms::default(), soon()).await
}

fn add(name: &str) -> Operation {
    Operation::Add { peer_address: name.to_owned(), api_address: None, learner: false }
}

pub(super) fn objection(refused: Result<Operated, OperateError>) -> Objection {
    match refused {
        Err(OperateError::Refused { objection, .. }) => objection,
        other => panic!("{other:?}"),
    }
}

async fn voters(member: &Replica) -> Vec<u64> {
    let members = member.status().await.members;
    members.into_iter().filter(|member| member.voter).map(|member| member.node_id).collect()
}

async fn removed(member: &Replica) -> bool {
    let failed = tokio::time::timeout(Duration::from_secs(30), member.failed()).await;
    matches!(failed.expect("it hears of it"), Failure::Removed { .. })
}

async fn end(members: &[&Replica]) {
    for member in members {
        member.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_waits_is_added_and_votes() {
    let (dir, wires) = (TempDir::new().unwrap(), Wires::default());
    let [a, b, c] = wires.three(&dir).await;
    let (d, added) = tokio::join!(wires.start_waiting(&dir, "d"), async {
        let plan = Terms { dry_run: true, ..Terms::default() };
        until("a node behind its door", || async { b.operate(add("d"), plan, soon()).await.is_ok() }).await;
        assert_eq!(voters(&a).await.len(), 3, "a dry run changed something");
        // At a follower.
        operate(&b, add("d")).await.unwrap()
    });
    assert_eq!(added.node_id, Some(d.node_id()));
    assert!(added.warnings[0].starts_with("4 voters bear the loss of no more"), "{:?}", added.warnings);
    until("a fourth voter", || async { voters(&d).await.contains(&d.node_id()) }).await;
    same_digests(&[&a, &b, &c, &d]).await;

    let before = a.status().await.membership_index;
    assert_eq!(objection(operate(&c, add("b")).await), Objection::AlreadyMember);
    assert_eq!(objection(operate(&c, add("nobody")).await), Objection::NodeUnreachable);
    let foreign = wires.start(&dir, "x", StartMode::Bootstrap).await;
    assert_eq!(objection(operate(&c, add("x")).await), Objection::ForeignNode);
    assert_eq!(a.status().await.membership_index, before);
    end(&[&a, &b, &c, &d, &foreign]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_was_removed_while_it_was_away_hears_of_it_though_it_does_not_know_who_leads() {
    let (dir, wires) = (TempDir::new().unwrap(), Wires::default());
    let [a, b, c] = wires.three(&dir).await;
    wires.cut("c");
    let d = wires.start(&dir, "d", StartMode::Join { peers: vec!["a".to_owned()], token: None }).await;
    until("a fourth voter", || async { voters(&a).await.contains(&d.node_id()) }).await;
    operate(&a, Operation::Remove { node_id: c.node_id() }).await.unwrap();
    until("the newcomer leads", || async {
        // Refused until the newcomer's log reaches far enough.
        let asked = operate(&b, Operation::Transfer { to: Some(d.node_id()) }).await;
        asked.is_ok_and(|done| done.leader_id == d.node_id())
    })
    .await;
    wires.heal();
    assert!(removed(&c).await);
    end(&[&a, &b, &c, &d]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removed_node_is_told_and_does_not_come_back() {
    let (dir, wires) = (TempDir::new().unwrap(), Wires::default());
    let [a, b, c] = wires.three(&dir).await;
    let plan = Terms { dry_run: true, ..Terms::default() };
    let plan = b.operate(Operation::Remove { node_id: a.node_id() }, plan, soon()).await.unwrap();
    assert_eq!((plan.voters.len(), plan.learners.len()), (2, 0), "{plan:?}");
    // The leader, of all: it hands over and is removed by the next.
    let gone = operate(&b, Operation::Remove { node_id: a.node_id() }).await.unwrap();
    assert_ne!(gone.leader_id, a.node_id());
    assert_eq!(gone.voters.into_iter().collect::<Vec<_>>(), [b.node_id(), c.node_id()]);
    assert!(removed(&a).await);
    end(&[&a]).await;
    let wire = Wire { wires: wires.clone(), from: "a".to_owned() };
    match Replica::start(wires.options(&dir, "a", StartMode::Bootstrap, false), wire).await.map(drop) {
        Err(StartError::DataDir(DataDirError::Removed { .. })) => {}
        other => panic!("{other:?}"),
    }
    assert_eq!(operate(&c, Operation::Remove { node_id: 99 }).await, Err(OperateError::NoSuchNode { node_id: 99 }));
    end(&[&b, &c]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_would_cost_the_quorum_is_refused() {
    let (dir, wires) = (TempDir::new().unwrap(), Wires::default());
    let [a, b, c] = wires.three(&dir).await;
    wires.cut("c");
    for operation in [Operation::Remove { node_id: b.node_id() }, Operation::Demote { node_id: b.node_id() }] {
        let refused = operate(&a, operation.clone()).await;
        assert_eq!(objection(refused), Objection::QuorumAtRisk);
        // What it would cost is said, and nothing done.
        let forced = Terms { dry_run: true, force: true, if_membership: None };
        let forced = a.operate(operation, forced, soon()).await.unwrap();
        assert!(forced.warnings.iter().any(|warning| warning.contains("nothing could be written")), "{forced:?}");
    }
    assert_eq!(voters(&a).await.len(), 3);
    // The one that is away may go.
    operate(&b, Operation::Remove { node_id: c.node_id() }).await.unwrap();
    assert_eq!(voters(&a).await, [a.node_id(), b.node_id()]);
    wires.heal();
    assert!(removed(&c).await, "it finds out when it is back");
    end(&[&a, &b, &c]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_operators_one_is_refused() {
    let (dir, wires) = (TempDir::new().unwrap(), Wires::default());
    let [a, b, c] = wires.three(&dir).await;
    let terms = Terms { if_membership: Some(a.status().await.membership_index), ..Terms::default() };
    let demote = |node: &Replica| Operation::Demote { node_id: node.node_id() };
    let (one, other) = tokio::join!(b.operate(demote(&c), terms, soon()), c.operate(demote(&b), terms, soon()));
    let refused: Vec<_> = [one, other].into_iter().filter(Result::is_err).collect();
    assert_eq!(refused.len(), 1, "{refused:?}");
    assert_eq!(objection(refused.into_iter().next().unwrap()), Objection::MembershipChanged);
    assert_eq!(voters(&a).await.len(), 2);
    end(&[&a, &b, &c]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_demoted_voter_stays_a_learner_until_it_is_promoted() {
    let (dir, wires) = (TempDir::new().unwrap(), Wires::default());
    let [a, b, c] = wires.three(&dir).await;
    operate(&c, Operation::Demote { node_id: c.node_id() }).await.unwrap();
    // Time enough for whoever would promote it by itself.
    a.submit(register("x", "http://x"), soon()).await.unwrap();
    until("the learner to know", || async { shows(&c, "x") }).await;
    assert_eq!(voters(&a).await, [a.node_id(), b.node_id()]);
    assert!(a.status().await.members.iter().any(|member| member.node_id == c.node_id()));
    let not_a_voter = operate(&a, Operation::Transfer { to: Some(c.node_id()) }).await;
    assert_eq!(objection(not_a_voter), Objection::NotAVoter);
    operate(&b, Operation::Promote { node_id: c.node_id() }).await.unwrap();
    until("three voters", || async { voters(&a).await.len() == 3 }).await;

    let led = operate(&a, Operation::Transfer { to: Some(c.node_id()) }).await.unwrap();
    assert_eq!(led.leader_id, c.node_id());
    until("the others to know", || async { b.status().await.leader_id == Some(c.node_id()) }).await;
    let led = operate(&b, Operation::Transfer { to: None }).await.unwrap();
    assert_ne!(led.leader_id, c.node_id());
    end(&[&a, &b, &c]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_node_is_replaced_in_one_step() {
    let (dir, wires) = (TempDir::new().unwrap(), Wires::default());
    let [a, b, c] = wires.three(&dir).await;
    a.submit(register("x", "http://x"), soon()).await.unwrap();
    wires.cut("c");
    let replace =
        |name: &str| Operation::Replace { node_id: c.node_id(), peer_address: name.to_owned(), api_address: None };
    assert_eq!(objection(operate(&b, replace("c")).await), Objection::AlreadyMember);
    let (d, ()) = tokio::join!(wires.start_waiting(&dir, "d"), async {
        until("the replacement", || async { operate(&b, replace("d")).await.is_ok() }).await;
    });
    let expected = [a.node_id(), b.node_id(), d.node_id()];
    until("the new voters", || async { voters(&b).await == expected }).await;
    assert_eq!(b.status().await.members.len(), 3);
    until("the successor to know everything", || async { shows(&d, "x") }).await;
    wires.heal();
    assert!(removed(&c).await);
    end(&[&a, &b, &c, &d]).await;
}
