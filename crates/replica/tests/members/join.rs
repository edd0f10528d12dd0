//! Who is let in.

use rollcall_replica::{JoinSecret, StartError};

use super::*;

/// Makes a token at a member; its text.
async fn token(member: &Replica, learners_only: bool, ttl_ms: u64, uses_max: Option<u32>) -> String {
    let secret = JoinSecret::draw();
    let (id, digest) = (secret.id(), secret.digest());
    let create = JoinTokenCommand::Create { id, secret: digest, learners_only, ttl_ms, uses_max };
    let applied = member.submit(Command::JoinToken(create), soon()).await.expect("a token");
    assert!(matches!(applied.outcome, Outcome::JoinToken(_)), "{applied:?}");
    secret.text().to_string()
}

/// Tries to join at `a`; why it was refused.
async fn refused(wires: &Wires, dir: &TempDir, token: Option<&str>) -> String {
    let start = StartMode::Join { peers: vec!["a".to_owned()], token: token.map(str::to_owned) };
    let wire = Wire { wires: wires.clone(), from: "x".to_owned() };
    match Replica::start(wires.options(dir, "x", start, false), wire).await.map(drop) {
        Err(StartError::JoinRefused { reason, .. }) => reason,
        other => panic!("not refused: {other:?}"),
    }
}

async fn join(wires: &Wires, dir: &TempDir, name: &str, token: Option<&str>, learner: bool) -> Replica {
    let start = StartMode::Join { peers: vec!["a".to_owned()], token: token.map(str::to_owned) };
    wires.start_as(dir, name, start, learner).await
}

fn uses(member: &Replica) -> Vec<u32> {
    member.roll().read(|state| state.join_tokens().map(|token| token.uses).collect())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p13_who_brings_a_bad_token_is_refused_and_nothing_changes() {
    let (dir, wires) = (TempDir::new().unwrap(), Wires::default());
    let a = wires.start(&dir, "a", StartMode::Bootstrap).await;
    let good = token(&a, false, 600_000, Some(1)).await;
    let learners = token(&a, true, 600_000, None).await;
    let revoked = token(&a, false, 600_000, None).await;
    let id = JoinSecret::parse(&revoked).unwrap().id();
    a.submit(Command::JoinToken(JoinTokenCommand::Revoke { id }), soon()).await.unwrap();
    // The last one: whoever makes another clears away those that expired.
    let stale = token(&a, false, 1, None).await;
    until("a moment to pass", || async { a.cluster_time().0 > 100 }).await;

    let wrong = format!("{}{}", &good[..good.len() - 4], if good.ends_with("0000") { "1111" } else { "0000" });
    let before = (a.status().await.membership_index, a.roll().applied_index());
    for (bad, why) in [
        ("nonsense", "no join token"),
        (wrong.as_str(), "is not known"),
        (revoked.as_str(), "is not known"),
        (stale.as_str(), "has expired"),
        (learners.as_str(), "admits learners only"),
    ] {
        let reason = refused(&wires, &dir, Some(bad)).await;
        assert!(reason.contains(why) && reason.contains(';'), "{bad}: {reason}");
        assert!(!reason.contains("node 1"), "it tells of a member: {reason}");
    }
    // Not a single entry: whoever knocks cannot fill the log.
    assert_eq!((a.status().await.membership_index, a.roll().applied_index()), before);

    // The directory that was refused is no node's, and joins by a good token.
    let x = join(&wires, &dir, "x", Some(&good), false).await;
    until("it votes", || async { x.status().await.members.iter().filter(|member| member.voter).count() == 2 }).await;
    let l = join(&wires, &dir, "l", Some(&learners), true).await;
    until("all to know", || async { [&a, &x, &l].iter().all(|member| uses(member).iter().sum::<u32>() == 2) }).await;
    // Its one use is spent.
    let used = join(&wires, &dir, "y", None, false).await;
    used.shutdown().await;
    let start = StartMode::Join { peers: vec!["a".to_owned()], token: Some(good) };
    let wire = Wire { wires: wires.clone(), from: "z".to_owned() };
    let again = Replica::start(wires.options(&dir, "z", start, false), wire).await.map(drop);
    let reason = format!("{again:?}");
    assert!(matches!(again, Err(StartError::JoinRefused { .. })) && reason.contains("1 nodes"), "{reason}");
    same_digests(&[&a, &x, &l]).await;
    for member in [&a, &x, &l] {
        member.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p13_where_tokens_are_required_nobody_joins_without_one() {
    let (dir, wires) = (TempDir::new().unwrap(), Wires { join_token_required: true, ..Wires::default() });
    let a = wires.start(&dir, "a", StartMode::Bootstrap).await;
    let before = a.status().await.membership_index;
    assert!(refused(&wires, &dir, None).await.contains("without a join token"));
    assert_eq!(a.status().await.membership_index, before);
    // Whoever an operator adds needs none: the operator proved who asks.
    let (d, ()) = tokio::join!(wires.start_waiting(&dir, "d"), async {
        let add =
            || rollcall_replica::Operation::Add { peer_address: "d".to_owned(), api_address: None, learner: false };
        until("the node is added", || async { a.operate(add(), Default::default(), soon()).await.is_ok() }).await;
    });
    let token = token(&d, false, 600_000, Some(1)).await;
    let x = join(&wires, &dir, "x", Some(&token), false).await;
    until("three voters", || async { x.status().await.members.iter().filter(|member| member.voter).count() == 3 })
        .await;
    for member in [&a, &d, &x] {
        member.shutdown().await;
    }
}
