//! Processes that die: killed, without power, or by a disk that refuses. A child process lives a node's life and says
//! what was acknowledged; whatever happens to it, what it said must be there afterwards.

use std::env;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use bytes::Bytes;
use futures_util::stream;
use openraft::RaftLogReader;
use openraft::storage::{RaftLogStorage, RaftStateMachine};
use rollcall_registry::{Epoch, Options};
use rollcall_storage::{DataDir, DataDirError, NodeLog, Recovery, Stores, Vote};

use crate::common::{
    append, apply, checkpoint, copy_dir, digest, digest_after, entry, last_index, log_id, memory_dir, open, replay,
};
use crate::offline::{NEW, backup_at, check_alone, left_behind, member, restored};
use crate::power_loss::PowerLoss;

const LIFE: &str = "ROLLCALL_TEST_LIFE";
const SNAPSHOT: &str = "ROLLCALL_TEST_SNAPSHOT";
/// The entry up to which the prepared snapshot goes.
const SNAPSHOT_INDEX: u64 = 99;

/// What a child said was acknowledged.
#[derive(Debug, Default)]
struct Acknowledged {
    log: Option<u64>,
    state: Option<u64>,
    vote: Option<u64>,
    start: Option<u64>,
    done: bool,
}

impl Acknowledged {
    fn hear(&mut self, line: &str) {
        let Some((what, number)) = line.strip_prefix("ack ").and_then(|said| said.split_once(' ')) else { return };
        let number = number.parse().expect("a number was said");
        match what {
            "log" => self.log = Some(number),
            "state" => self.state = Some(number),
            "vote" => self.vote = Some(number),
            "start" => self.start = Some(number),
            "done" => self.done = true,
            other => panic!("`{other}` was said"),
        }
    }
}

fn say(what: &str, number: u64) {
    // On a line of its own, whatever the test harness has begun to write.
    let mut out = std::io::stdout().lock();
    write!(out, "\nack {what} {number}\n").and_then(|()| out.flush()).expect("the parent listens");
}

fn vote(term: u64) -> Vote {
    Vote::new_committed(term, 1)
}

/// Not a test: the child's body.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn child() {
    let Ok(life) = env::var(LIFE) else { return };
    let root = PathBuf::from(env::var("ROLLCALL_POWER_LOSS_ROOT").expect("the parent names a directory"));
    let node = root.join("node");
    match life.as_str() {
        "restored" => {
            restore_prepared(&node);
            return say("done", 0);
        }
        "recovered" => {
            recover_prepared(&node);
            return say("done", 0);
        }
        _ => {}
    }
    let mut stores = open(&node);
    match life.as_str() {
        "short" => short_life(&mut stores).await,
        "busy" => busy_life(&mut stores).await,
        // What a log holds when it is opened is acknowledged to the leader without another write.
        "reopened" => say("log", last_index(&mut stores).await.expect("the log is not empty")),
        other => panic!("there is no life `{other}`"),
    }
    say("done", 0);
}

fn restore_prepared(node: &Path) {
    let bytes = std::fs::read(env::var(SNAPSHOT).expect("the parent names a backup")).expect("read the backup");
    restored(&bytes, node).expect("restore");
}

fn recover_prepared(node: &Path) {
    let recovery = Recovery::open(node, Options::default()).expect("open the directory");
    recovery.finish(NEW.cluster_id, Some(member())).expect("recover");
}

/// Every kind of write once or twice.
async fn short_life(stores: &mut Stores) {
    say("start", stores.log.count_start(0).expect("count the start"));
    append(stores, 0..30).await;
    say("log", 29);
    stores.log.save_vote(&vote(5)).await.expect("save a vote");
    say("vote", 5);
    apply(stores, 0..30).await;
    checkpoint(stores).await;
    say("state", 29);
    stores.log.purge(log_id(20)).await.expect("purge");
    append(stores, 30..40).await;
    say("log", 39);
    apply(stores, 30..35).await;
    checkpoint(stores).await;
    say("state", 34);
    let bytes = std::fs::read(env::var(SNAPSHOT).expect("the parent names a snapshot")).expect("read the snapshot");
    let chunks = stream::iter([Ok(Bytes::from(bytes))]);
    let snapshot = stores.receiver.receive(chunks).await.expect("receive");
    stores.state_machine.install_snapshot(&snapshot.meta, snapshot.snapshot).await.expect("install");
    say("state", SNAPSHOT_INDEX);
    stores.log.purge(log_id(SNAPSHOT_INDEX)).await.expect("purge");
    append(stores, 100..110).await;
    say("log", 109);
    apply(stores, 100..110).await;
    checkpoint(stores).await;
    say("state", 109);
}

/// Appends until it is killed, with votes, checkpoints and purges in between.
async fn busy_life(stores: &mut Stores) {
    say("start", stores.log.count_start(0).expect("count the start"));
    replay(stores).await;
    let mut next = last_index(stores).await.map_or(0, |last| last + 1);
    loop {
        let end = next + 1 + next % 3;
        append(stores, next..end).await;
        say("log", end - 1);
        apply(stores, next..end).await;
        if next % 10 == 0 {
            stores.log.save_vote(&vote(next)).await.expect("save a vote");
            say("vote", next);
        }
        if next % 25 == 0 {
            checkpoint(stores).await;
            say("state", end - 1);
            stores.log.purge(log_id(next.saturating_sub(10))).await.expect("purge");
        }
        next = end;
    }
}

/// A snapshot as it comes over the wire.
async fn prepare_snapshot(path: &Path) {
    let dir = memory_dir();
    let mut leader = open(dir.path());
    apply(&mut leader, 0..SNAPSHOT_INDEX + 1).await;
    let snapshot = checkpoint(&mut leader).await;
    std::fs::write(path, crate::state::bytes(snapshot).await).unwrap();
}

fn spawn(life: &str, power: &PowerLoss, configure: impl FnOnce(&mut Command)) -> Child {
    let mut command = Command::new(env::current_exe().unwrap());
    command.args(["crash::child", "--exact", "--nocapture", "--test-threads=1"]).env(LIFE, life);
    command.stdout(Stdio::piped()).stderr(Stdio::null());
    configure(power.watch(&mut command));
    command.spawn().unwrap()
}

/// Listens to a child until it is dead or has said `lines_max` lines, and then kills it.
fn listen(mut child: Child, lines_max: usize, acknowledged: &mut Acknowledged) {
    let out = BufReader::new(child.stdout.take().unwrap());
    let mut heard = 0;
    for line in out.lines() {
        let line = line.unwrap();
        acknowledged.hear(&line);
        heard += usize::from(line.starts_with("ack "));
        if heard == lines_max {
            // The lines that are in the pipe already were acknowledged too, but need not be heard.
            child.kill().unwrap();
            break;
        }
    }
    child.wait().unwrap();
}

/// Whether everything acknowledged is there, and nothing that never was.
async fn check(node: &Path, acknowledged: &Acknowledged) {
    let mut stores = open(node);
    assert!(
        stores.log.count_start(0).ok() > acknowledged.start,
        "a start was counted and forgotten: {acknowledged:?}"
    );
    let kept_vote = stores.log.get_log_reader().await.read_vote().await.unwrap();
    assert!(kept_vote >= acknowledged.vote.map(vote), "{kept_vote:?}, but {acknowledged:?}");
    assert!(stores.roll.applied_index() >= acknowledged.state.unwrap_or(0), "{acknowledged:?}");
    assert!(last_index(&mut stores).await.max(acknowledged.state) >= acknowledged.log, "{acknowledged:?}");

    let held = stores.log.get_log_reader().await.try_get_log_entries(..).await.unwrap();
    assert!(held.iter().all(|kept| *kept == entry(kept.log_id.index)), "an entry is another");
    replay(&mut stores).await;
    let applied = stores.roll.applied_index();
    assert!(Some(applied) >= acknowledged.log.max(acknowledged.state), "at {applied}, but {acknowledged:?}");
    assert_eq!(digest(&stores), digest_after(applied), "at {applied}");
}

/// Lives the short life again and again, each time with the next step gone wrong, until one goes through.
async fn at_each_step(variable: &str) {
    let dir = memory_dir();
    let snapshot = dir.path().join("snapshot");
    prepare_snapshot(&snapshot).await;
    for step in 1.. {
        let run = dir.path().join(step.to_string());
        std::fs::create_dir(&run).unwrap();
        let power = PowerLoss::new(&run);
        let mut acknowledged = Acknowledged::default();
        let child = spawn("short", &power, |command| {
            command.env(variable, step.to_string()).env(SNAPSHOT, &snapshot);
        });
        listen(child, usize::MAX, &mut acknowledged);
        for (left, node) in [("a kill", power.root().join("node")), ("power loss", power.disk().join("node"))] {
            println!("{variable}={step}, after {left}: {acknowledged:?}");
            check(&node, &acknowledged).await;
        }
        std::fs::remove_dir_all(&run).unwrap();
        assert!(step < 1000, "the life does not end");
        if acknowledged.done {
            assert!(step > 20, "only {step} steps were tried");
            break;
        }
    }
}

/// Kills a child that works on the directory without a node at each step, until one goes through. What a kill and what a
/// power loss left is then looked at by `check`.
async fn killed_at_each_step(life: &str, prepare: impl AsyncFn(&Path), check: impl AsyncFn(&Path)) {
    let dir = memory_dir();
    let backup = dir.path().join("backup");
    std::fs::write(&backup, backup_at(SNAPSHOT_INDEX).await).unwrap();
    let prepared = dir.path().join("prepared");
    prepare(&prepared).await;
    for step in 1.. {
        let run = dir.path().join(step.to_string());
        std::fs::create_dir(&run).unwrap();
        let power = PowerLoss::new(&run);
        if prepared.exists() {
            copy_dir(&prepared, &power.root().join("node"));
        }
        let mut acknowledged = Acknowledged::default();
        let child = spawn(life, &power, |command| {
            command.env("ROLLCALL_POWER_LOSS_KILL_AT", step.to_string()).env(SNAPSHOT, &backup);
        });
        listen(child, usize::MAX, &mut acknowledged);
        for (left, root) in [("a kill", power.root().to_owned()), ("power loss", power.disk())] {
            println!("step {step}, after {left}: {acknowledged:?}");
            // Before the first step nothing is durable, and there is no disk.
            if root.exists() {
                check(&root.join("node")).await;
            }
        }
        std::fs::remove_dir_all(&run).unwrap();
        assert!(step < 1000, "it does not end");
        if acknowledged.done {
            assert!(step > 10, "only {step} steps were tried");
            break;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_that_was_killed_is_refused_or_whole_and_is_restored_again() {
    killed_at_each_step(
        "restored",
        async |_| (),
        async |node| {
            let is_whole = match DataDir::lock(node) {
                Ok(dir) => dir.identity().is_some(),
                Err(DataDirError::Unfinished { .. }) => false,
                Err(error) => panic!("{error}"),
            };
            if !is_whole {
                restored(&backup_at(SNAPSHOT_INDEX).await, node).unwrap();
            }
            check_alone(node, NEW, Epoch(1), SNAPSHOT_INDEX).await;
        },
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recovery_that_was_killed_is_untouched_or_whole_or_is_recovered_again() {
    let left = async |node: &Path| left_behind(node, NEW.node_id).await;
    killed_at_each_step("recovered", left, async |node| {
        let is_whole = match DataDir::lock(node) {
            Ok(dir) => dir.identity() == Some(NEW),
            Err(DataDirError::Unfinished { .. }) => false,
            Err(error) => panic!("{error}"),
        };
        if !is_whole {
            recover_prepared(node);
        }
        check_alone(node, NEW, Epoch(1), 59).await;
    })
    .await;
}

/// The tool's own test: what was not synced is gone.
#[test]
fn a_power_loss_forgets_what_was_not_synced() {
    let dir = memory_dir();
    let power = PowerLoss::new(dir.path());
    let run = |script: &str| {
        let mut shell = Command::new("sh");
        let status = power.watch(shell.args(["-e", "-c", script]).current_dir(power.root())).status();
        assert!(status.unwrap().success(), "{script}");
    };
    let disk = || {
        let files = std::fs::read_dir(power.disk()).unwrap().map(|file| file.unwrap().path());
        let mut files: Vec<_> = files
            .map(|path| {
                format!("{}={}", path.file_name().unwrap().display(), std::fs::read_to_string(&path).unwrap())
            })
            .collect();
        files.sort();
        files.join(" ")
    };
    run("echo -n 1 > lost; echo -n 1 | dd of=kept conv=fsync");
    assert_eq!(disk(), "", "the names are not synced");
    run("sync .");
    assert_eq!(disk(), "kept=1 lost=");
    run("echo -n 2 >> kept; mv kept moved");
    assert_eq!(disk(), "kept=1 lost=");
    run("sync -d moved; rm lost");
    assert_eq!(disk(), "kept=12 lost=");
    run("sync .");
    assert_eq!(disk(), "moved=12");
}

#[tokio::test(flavor = "multi_thread")]
async fn p1_p6_a_kill_or_power_loss_at_any_step_loses_nothing_acknowledged() {
    at_each_step("ROLLCALL_POWER_LOSS_KILL_AT").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p12_a_disk_that_fails_from_any_sync_on_acknowledges_nothing_more() {
    at_each_step("ROLLCALL_POWER_LOSS_FAIL_AT").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p1_power_losses_at_random_moments_lose_nothing_acknowledged() {
    let dir = memory_dir();
    let power = PowerLoss::new(dir.path());
    let mut acknowledged = Acknowledged::default();
    let mut random = std::process::id();
    for round in 0..8 {
        random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let lines = 1 + (random >> 16) as usize % 120;
        listen(spawn("busy", &power, |_| ()), lines, &mut acknowledged);
        println!("round {round}, after {lines} lines: {acknowledged:?}");
        power.restore();
        check(&power.root().join("node"), &acknowledged).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn p1_what_a_killed_process_left_is_durable_once_it_is_open_again() {
    let dir = memory_dir();
    let power = PowerLoss::new(dir.path());
    let mut acknowledged = Acknowledged::default();
    for lines in [3, 20, 40] {
        listen(spawn("busy", &power, |_| ()), lines, &mut acknowledged);
        listen(spawn("reopened", &power, |_| ()), usize::MAX, &mut acknowledged);
        assert!(std::mem::take(&mut acknowledged.done));
        power.restore();
        check(&power.root().join("node"), &acknowledged).await;
    }
}
