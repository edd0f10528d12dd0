//! P12, P13: a node takes nothing that is not its own.

use std::time::Duration;

use reqwest::Method;
use rollcall_tests::{Api, Cluster, Node, wait_until};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const EXIT_DEADLINE: Duration = Duration::from_secs(20);

#[tokio::test]
async fn p12_second_process_on_one_directory_is_refused() {
    let cluster = Cluster::start(1).await;
    cluster.nodes[0].api.register("web-1", 60_000).await;
    let mut second = Node::new(cluster.directory(), "second", vec!["--bootstrap".to_owned()]);
    second.start_on(&cluster.nodes[0].data_dir(), &second.peer_address());
    let status = second.exit(EXIT_DEADLINE).await;
    assert_eq!(status.code(), Some(1), "{}", second.log());
    let directory = cluster.nodes[0].data_dir().display().to_string();
    assert!(second.log().contains(&directory), "the log does not name the directory: {}", second.log());
    assert!(!second.log().contains("panicked"), "{}", second.log());
    assert_eq!(cluster.nodes[0].api.ids("").await.expect("a list"), ["web-1"]);
}

/// Secrets of the cluster are in its log, its state and its snapshots.
#[tokio::test]
async fn what_a_node_keeps_is_its_owner_s_alone() {
    use std::os::unix::fs::PermissionsExt;
    let cluster = Cluster::start(1).await;
    cluster.nodes[0].api.register("web-1", 60_000).await;
    let (mut open, mut files) = (vec![cluster.nodes[0].data_dir()], 0);
    while let Some(path) = open.pop() {
        let data = path.metadata().expect("it is there");
        if data.is_dir() {
            open.extend(std::fs::read_dir(&path).expect("a directory").map(|entry| entry.expect("an entry").path()));
        }
        let mode = data.permissions().mode();
        assert_eq!(mode & 0o077, 0, "{} has mode {mode:o}", path.display());
        files += 1;
    }
    assert!(files > 5, "there are {files} files");
}

#[tokio::test]
async fn p12_damaged_directory_is_refused() {
    let mut cluster = Cluster::start(1).await;
    cluster.nodes[0].kill9();
    // Whatever the files are called: a node that cannot read its own must not start anew.
    let mut open = vec![cluster.nodes[0].data_dir()];
    while let Some(path) = open.pop() {
        if path.is_dir() {
            open.extend(std::fs::read_dir(path).expect("a directory").map(|entry| entry.expect("an entry").path()));
        } else if path.metadata().is_ok_and(|data| data.len() > 0) {
            std::fs::write(path, b"this is no longer what was written").expect("a writable file");
        }
    }
    cluster.nodes[0].start();
    let status = cluster.nodes[0].exit(EXIT_DEADLINE).await;
    assert_eq!(status.code(), Some(1), "{}", cluster.nodes[0].log());
}

/// A node of another cluster stands at the address of a member: neither learns anything from the other.
#[tokio::test]
async fn p13_peer_of_another_cluster_is_refused() {
    let mut cluster = Cluster::start(3).await;
    let mut foreign = Cluster::start(1).await;
    cluster.nodes[0].api.register("ours", 600_000).await;
    foreign.nodes[0].api.register("theirs", 600_000).await;
    let (ours, theirs) = (
        cluster.nodes[0].api.status().await.expect("a status")["cluster_id"].clone(),
        foreign.nodes[0].api.status().await.expect("a status")["cluster_id"].clone(),
    );
    assert_ne!(ours, theirs);

    let replaced = cluster.follower().await;
    let address = cluster.nodes[replaced].peer_address();
    cluster.nodes[replaced].kill9();
    foreign.nodes[0].kill9();
    let data_dir = foreign.nodes[0].data_dir();
    foreign.nodes[0].start_on(&data_dir, &address);
    foreign.nodes[0].ready(Duration::from_secs(60)).await;
    for n in 0..50 {
        let writer = &cluster.nodes[(replaced + 1 + n % 2) % 3];
        writer.api.register(&format!("web-{n}"), 600_000).await;
    }
    let answer = foreign.nodes[0].api.status().await.expect("a status");
    assert_eq!(answer["cluster_id"], theirs);
    assert_eq!(foreign.nodes[0].api.ids("consistency=linearizable").await.expect("a list"), ["theirs"]);

    // The true member comes back and catches up.
    foreign.nodes[0].kill9();
    cluster.nodes[replaced].start();
    cluster.ready().await;
    assert_eq!(cluster.nodes[replaced].api.ids("").await.expect("a list").len(), 51);
    cluster.digests_agree().await;
}

#[tokio::test]
async fn p13_noise_at_the_peer_port_is_refused() {
    let cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let status = cluster.nodes[leader].api.status().await.expect("a status");
    for node in &cluster.nodes {
        // A client that mixes up the two ports is told so.
        let mixed_up = Api::new(&node.peer_address());
        let request = mixed_up.request(Method::POST, "/api/services/register").body(b"{}".to_vec());
        assert_eq!(mixed_up.send(request).await.expect("an answer").status, 400);
        for route in 0..=12 {
            for body in [Vec::new(), b"{}".to_vec(), vec![0xff; 1_000], vec![0; 100_000]] {
                let mut noise = b"rollcall-peer/1\n".to_vec();
                noise.extend(u32::try_from(5 + body.len()).expect("short").to_be_bytes());
                noise.extend([0, 0, 0, 7, route]);
                noise.extend(body);
                // What a snapshot's frames end with.
                noise.extend([0, 0, 0, 5, 0, 0, 0, 7, route]);
                let mut stream = TcpStream::connect(node.peer_address()).await.expect("connected");
                stream.write_all(&noise).await.expect("sent");
                let mut head = [0; 9];
                stream.read_exact(&mut head).await.expect("an answer");
                assert_eq!(head[4..], [0, 0, 0, 7, 1], "route {route}: not refused");
            }
        }
    }
    cluster.nodes[0].api.register("web-1", 60_000).await;
    let after = cluster.nodes[leader].api.status().await.expect("a status");
    assert_eq!((&after["term"], &after["leader_id"]), (&status["term"], &status["leader_id"]));
}

/// The same command line that founded or joined restarts a node, in any order.
#[tokio::test]
async fn founding_flags_change_nothing_on_a_restart() {
    let mut cluster = Cluster::start(3).await;
    let before = cluster.nodes[0].api.status().await.expect("a status");
    for place in [2, 0, 1] {
        cluster.nodes[place].kill9();
        cluster.nodes[place].start();
        cluster.ready().await;
    }
    let after = wait_until("a status", Duration::from_secs(10), || cluster.nodes[0].api.status()).await;
    assert_eq!((&after["cluster_id"], &after["node_id"]), (&before["cluster_id"], &before["node_id"]));
    assert_eq!(after["members"].as_array().map(Vec::len), Some(3));
}
