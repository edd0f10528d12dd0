//! P12, P13: damaged files are refused, or did not matter; a node never comes up with something else than it had.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use rollcall_tests::{Cluster, wait_until};
use serde_json::Value;

const DEADLINE: Duration = Duration::from_secs(60);

/// Damages that are tried; `ROLLCALL_SOAK_MINUTES` tries for so long.
const TRIES: u32 = 16;

#[derive(Clone, Copy, Debug)]
enum Damage {
    /// One bit.
    Flip,
    /// 512 bytes that hold something else.
    Garble,
    /// 512 bytes of zeros, as of a block that was never written.
    Zero,
    /// The end is missing.
    Cut,
    Remove,
}

fn files(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).expect("a readable directory").map(|entry| entry.expect("an entry")) {
        if entry.path().is_dir() {
            found.extend(files(&entry.path()));
        } else {
            found.push(entry.path());
        }
    }
    found.sort();
    found
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a directory");
    for entry in fs::read_dir(from).expect("a readable directory").map(|entry| entry.expect("an entry")) {
        let into = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &into);
        } else {
            fs::copy(entry.path(), into).expect("a copy");
        }
    }
}

/// Whether anything is other than before.
fn damage(path: &Path, kind: Damage, random: &mut SmallRng) -> bool {
    let mut bytes = fs::read(path).expect("a file of the node");
    if bytes.is_empty() {
        return false;
    }
    let before = bytes.clone();
    let at = random.random_range(0..bytes.len());
    let end = bytes.len().min(at + 512);
    match kind {
        Damage::Flip => bytes[at] ^= 1 << random.random_range(0..8),
        Damage::Garble => bytes[at..end].iter_mut().for_each(|byte| *byte = random.random()),
        Damage::Zero => bytes[at..end].fill(0),
        Damage::Cut => bytes.truncate(at),
        Damage::Remove => {
            fs::remove_file(path).expect("a file is removed");
            return true;
        }
    }
    fs::write(path, &bytes).expect("a file is written");
    bytes != before
}

/// What is not the node's, but RocksDB's notes for people and for its next start.
fn is_note(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.starts_with("LOG") || name == "LOCK" || name.starts_with("OPTIONS") || name.ends_with(".dbtmp")
}

#[tokio::test]
async fn p12_damaged_files_are_refused_or_did_not_matter() {
    const SEED: u64 = 21;
    let mut random = SmallRng::seed_from_u64(SEED);
    let mut cluster = Cluster::start_with(3, &["--snapshot-entries", "100", "--log-entries-kept", "150"]).await;
    for n in 0..450 {
        cluster.nodes[n % 3].api.register(&format!("web-{n:03}"), 86_400_000).await;
    }
    cluster.digests_agree().await;
    let victim = cluster.follower().await;
    cluster.nodes[victim].kill9();
    let whole = cluster.directory().join("whole");
    copy(&cluster.nodes[victim].data_dir(), &whole);
    let candidates: Vec<PathBuf> = files(&whole).into_iter().filter(|path| !is_note(path)).collect();

    let (mut refused, mut harmless, mut silent) = (0, 0, Vec::new());
    let kinds = [Damage::Flip, Damage::Flip, Damage::Garble, Damage::Zero, Damage::Cut, Damage::Remove];
    let tries = super::soak().map_or(TRIES, |minutes| minutes * 40);
    for number in 0..tries {
        let data_dir = cluster.nodes[victim].data_dir();
        fs::remove_dir_all(&data_dir).expect("the damaged directory is removed");
        copy(&whole, &data_dir);
        let chosen = candidates.choose(&mut random).expect("a file");
        let path = data_dir.join(chosen.strip_prefix(&whole).expect("below"));
        let kind = *kinds.choose(&mut random).expect("a kind");
        if !damage(&path, kind, &mut random) {
            continue;
        }
        let what = format!("{number}: {kind:?} {}", path.strip_prefix(&data_dir).expect("below").display());
        let said = cluster.nodes[victim].log().len();
        cluster.nodes[victim].start();
        let api = cluster.nodes[victim].api.clone();
        let ended = wait_until(&what, DEADLINE, || {
            let (ended, api) = (cluster.nodes[victim].ended(), api.clone());
            async move {
                match ended {
                    Some(status) => Some(Some(status)),
                    None => api.is_ready().await.then_some(None),
                }
            }
        })
        .await;
        let log = cluster.nodes[victim].log()[said..].to_owned();
        match ended {
            Some(status) => {
                assert!(!status.success() && status.code().is_some(), "{what}: it ended with {status}\n{log}");
                assert!(log.contains("ERROR") || log.contains("rollcall: "), "{what}: nothing is said\n{log}");
                refused += 1;
            }
            None => {
                let ids = api.ids("consistency=linearizable").await.expect("a list");
                if ids.len() != 450 || !agree(&cluster).await {
                    silent.push(format!("{what}: {} of 450 are there", ids.len()));
                }
                harmless += 1;
                cluster.nodes[victim].kill9();
            }
        }
    }
    assert!(silent.is_empty(), "\n{}", silent.join("\n"));
    assert!(refused > 0 && refused + harmless >= tries / 2, "{refused} refused, {harmless} harmless");

    // The whole copy is as good as it was.
    let data_dir = cluster.nodes[victim].data_dir();
    fs::remove_dir_all(&data_dir).expect("the damaged directory is removed");
    copy(&whole, &data_dir);
    cluster.nodes[victim].start();
    cluster.ready().await;
    cluster.digests_agree().await;
}

async fn agree(cluster: &Cluster) -> bool {
    let mut rows = Vec::new();
    for node in &cluster.nodes {
        let digest: Value = node.api.get("/api/cluster/digest").await.body;
        rows.push((digest["applied_index"].clone(), digest["digest"].clone()));
    }
    rows.iter().all(|row| row.0 != rows[0].0 || row.1 == rows[0].1)
}
