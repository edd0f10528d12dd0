//! P12: disks that are full and disks that lie.

use std::time::Duration;

use rand::SeedableRng;
use rand::rngs::SmallRng;
use rollcall_tests::faults::{Flush, Pace, SmallDisk, in_world};
use rollcall_tests::{Cluster, Node, skip, wait_until};

const DEADLINE: Duration = Duration::from_secs(60);

#[test]
fn p12_a_node_whose_disk_is_full_says_so_and_ends_and_comes_back() {
    let directory = tempfile::Builder::new().prefix("rollcall-").tempdir().expect("a temporary directory");
    let small = match SmallDisk::mount(&directory.path().join("small"), 64 << 20) {
        Ok(small) => small,
        Err(error) => return skip("a full disk", &format!("no file system can be mounted: {error}")),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let settings = || ["--snapshot-entries", "100", "--log-entries-kept", "50"].map(str::to_owned).to_vec();
        let nodes = vec![
            Node::new(directory.path(), "node-1", settings()),
            Node::new(directory.path(), "node-2", settings()),
            Node::new(small.path(), "node-3", settings()),
        ];
        let mut cluster = Cluster::of(directory, nodes).await;
        cluster.nodes[2].api.register("before", 600_000).await;

        small.fill();
        let mut written = 0;
        let status = wait_until("the node ends", DEADLINE, || {
            written += 1;
            let (api, id) = (cluster.nodes[0].api.clone(), format!("during-{written}"));
            let ended = cluster.nodes[2].ended();
            async move {
                // The others take every write, whatever becomes of the third.
                api.register(&id, 600_000).await;
                ended
            }
        })
        .await;
        assert!(!status.success(), "P12: it ended with {status}");
        let log = cluster.nodes[2].log();
        assert!(log.contains("No space left on device"), "the log does not name the fault:\n{log}");

        // With the disk still full it does not come up with less than it had.
        cluster.nodes[2].start();
        let api = cluster.nodes[2].api.clone();
        let early = wait_until("the node ends or is there", DEADLINE, || {
            let ended = cluster.nodes[2].ended();
            let api = api.clone();
            async move { if ended.is_some() { Some(false) } else { api.is_ready().await.then_some(true) } }
        })
        .await;
        small.clear();
        if !early || !cluster.nodes[2].is_running() {
            cluster.nodes[2].start();
        }
        cluster.ready().await;
        cluster.digests_agree().await;
        let ids = cluster.nodes[2].api.ids("consistency=linearizable").await.expect("a list");
        assert_eq!(ids.len(), written + 1);
    });
}

/// Flushed means flushed: a disk that lies about it loses what its node acknowledged. A minority of such disks must not
/// lose what the cluster acknowledged. The node ends when the leader finds out, and another takes its place.
#[test]
fn p1_one_disk_that_lies_loses_nothing_that_the_cluster_acknowledged() {
    const SEED: u64 = 11;
    let mut random = SmallRng::seed_from_u64(SEED);
    in_world(3, SEED, async |mut world| {
        let run = world.run(Pace::STEADY, SEED);
        run.progress(100).await;
        // Not the founder, which without its directory would found another cluster.
        let liar = if world.cluster.leader().await == 1 { 2 } else { 1 };
        world.disks[liar].flush(Flush::Lies);
        run.progress(300).await;
        let before = world.cluster.nodes[liar].api.status().await.expect("a status");
        world.cluster.nodes[liar].kill9();
        let (lost, _) = world.disks[liar].lose_power(&mut random);
        assert!(lost > 0, "the disk lost nothing");
        world.disks[liar].flush(Flush::Honest);
        world.cluster.nodes[liar].start();
        let api = world.cluster.nodes[liar].api.clone();
        let ended = wait_until("the node that forgot ends, or somebody else leads", DEADLINE, || {
            let (ended, api, before) = (world.cluster.nodes[liar].ended(), api.clone(), before["term"].clone());
            async move {
                match ended {
                    Some(status) => Some(Some(status)),
                    None => (api.is_ready().await && api.status().await?["term"] != before).then_some(None),
                }
            }
        })
        .await;
        if let Some(status) = ended {
            assert_eq!(status.code(), Some(1), "{status}");
            let log = world.cluster.nodes[liar].log();
            assert!(log.contains("had acknowledged the log up to entry"), "{log}");
            let member = format!("/api/cluster/members/{}", before["node_id"]);
            world.cluster.nodes[0].api.delete(&member).await.ok();
            std::fs::remove_dir_all(world.cluster.nodes[liar].data_dir()).expect("its directory goes");
            world.cluster.nodes[liar].start();
        }
        run.progress(100).await;
        run.judge(&mut world).await;
    });
}
