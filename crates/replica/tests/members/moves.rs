//! Members that are reached at other addresses than before.

use super::operate::{objection, operate};
use super::*;
use rollcall_replica::{Objection, Operation};

async fn peer_address(member: &Replica, node_id: u64) -> String {
    let members = member.status().await.members;
    members.into_iter().find(|member| member.node_id == node_id).expect("a member").peer_address
}

fn relocate(node: &Replica, peer_address: &str) -> Operation {
    Operation::Relocate { node_id: node.node_id(), peer_address: peer_address.to_owned(), api_address: None }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_starts_elsewhere_says_so_and_all_learn_it() {
    let (dir, wires) = (TempDir::new().unwrap(), Wires::default());
    let [a, b, c] = wires.three(&dir).await;
    let ids = [a.node_id(), b.node_id(), c.node_id()];
    drop((a, b, c));
    // A follower, and then whoever leads.
    for (name, id) in [("c", ids[2]), ("a", ids[0])] {
        let elsewhere = format!("{name}-elsewhere");
        wires.end(name).await;
        wires.moved.lock().insert(name.to_owned(), elsewhere.clone());
        let moved = wires.resume(&dir, name).await;
        let members: Vec<Replica> = wires.members.lock().values().cloned().collect();
        assert_eq!(members.len(), 3);
        for member in &members {
            until("all to know the new address", || async { peer_address(member, id).await == elsewhere }).await;
            until("all to reach it", || async { member.status().await.members.iter().all(|m| m.reachable) }).await;
        }
        moved.submit(register(&format!("by-{name}"), "http://x"), soon()).await.unwrap();
        same_digests(&members.iter().collect::<Vec<_>>()).await;
    }
    // What the membership says already is not said again.
    let members: Vec<Replica> = wires.members.lock().values().cloned().collect();
    let before = members[0].status().await.membership_index;
    drop(members);
    wires.end("b").await;
    let b = wires.resume(&dir, "b").await;
    until("it to be current", || async { b.readiness().iter().all(|check| check.ok) }).await;
    b.submit(register("after", "http://x"), soon()).await.unwrap();
    assert_eq!(b.status().await.membership_index, before);
    let members = wires.members.lock().clone();
    for member in members.into_values() {
        member.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p13_an_address_is_believed_only_if_the_member_answers_there_and_nowhere_else() {
    let (dir, wires) = (TempDir::new().unwrap(), Wires::default());
    let [a, b, c] = wires.three(&dir).await;
    let before = a.status().await.membership_index;
    assert_eq!(objection(operate(&b, relocate(&c, "nowhere")).await), Objection::NodeUnreachable);
    assert_eq!(objection(operate(&b, relocate(&c, "b")).await), Objection::AlreadyMember);
    let foreign = wires.start(&dir, "foreign", StartMode::Bootstrap).await;
    assert_eq!(objection(operate(&b, relocate(&c, "foreign")).await), Objection::NodeUnreachable);

    // A second process on a copy of the directory, as a machine that was cloned.
    let id = c.node_id();
    drop(c);
    wires.end("c").await;
    let copied = std::process::Command::new("cp")
        .arg("-r")
        .args([dir.path().join("c"), dir.path().join("copy")])
        .status()
        .expect("cp runs");
    assert!(copied.success());
    let c = wires.resume(&dir, "c").await;
    let copy = wires.resume(&dir, "copy").await;
    assert_eq!(copy.node_id(), id);
    assert_eq!(objection(operate(&a, relocate(&c, "copy")).await), Objection::ForeignNode);
    assert_eq!(a.status().await.membership_index, before);
    wires.end("copy").await;

    // The same process by another name.
    wires.members.lock().insert("alias".to_owned(), c.clone());
    operate(&b, relocate(&c, "alias")).await.unwrap();
    wires.members.lock().remove("c");
    a.submit(register("x", "http://x"), soon()).await.unwrap();
    until("the member to know", || async { shows(&c, "x") }).await;
    assert_eq!(peer_address(&c, id).await, "alias");
    same_digests(&[&a, &b, &c]).await;
    for member in [&a, &b, &c, &foreign] {
        member.shutdown().await;
    }
}
