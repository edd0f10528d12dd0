//! Soorma's own SDK, unmodified, against a cluster. What it does stands in `tests/soorma/sdk.py`; the examples are run too.

use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use rollcall_tests::{Cluster, skip, workspace};

const SECRET: &str = "dev-identity-signing-key";

/// The interpreter of the environment that `scripts/lib.sh` makes, if the SDK could be installed.
fn python() -> Option<Command> {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let home = std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
    let home = cache.or(home)?.join("rollcall/soorma");
    let path = home.join("bin/python");
    (home.join("installed").is_file() && path.is_file()).then(|| Command::new(path))
}

fn skipped() {
    skip("the Soorma SDK", "scripts/test could not install it");
}

/// A scenario under way; it dies with the test.
struct Scenario {
    name: &'static str,
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Scenario {
    fn start(mut python: Command, name: &'static str, cluster: &Cluster) -> Self {
        python.arg(workspace().join("tests/soorma/sdk.py")).arg(name);
        python.args(cluster.nodes.iter().map(|node| format!("http://{}", node.client_address())));
        python.env("ROLLCALL_JWT_SECRET", SECRET).env("NO_PROXY", "*");
        let mut child = python.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("the interpreter starts");
        let input = child.stdin.take().expect("it is piped");
        let output = BufReader::new(child.stdout.take().expect("it is piped"));
        Self { name, child, input, output }
    }

    /// Waits for a word; what went wrong instead stands on standard error.
    fn says(&mut self, word: &str) {
        let mut line = String::new();
        self.output.read_line(&mut line).expect("its output is text");
        assert_eq!(line.trim(), word, "the scenario {} failed", self.name);
    }

    fn go(&mut self) {
        writeln!(self.input, "go").expect("it waits for this");
    }

    fn end(&mut self) {
        self.says("done");
        assert!(self.child.wait().expect("it ends").success(), "the scenario {} failed", self.name);
    }
}

impl Drop for Scenario {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sdk_lives_a_whole_life_at_every_node_in_turn() {
    let Some(python) = python() else { return skipped() };
    // So little of the log is kept that a new node needs a snapshot.
    let flags = ["--snapshot-entries", "20", "--log-entries-kept", "5"];
    let mut cluster = Cluster::start_with(3, &flags).await;
    Scenario::start(python, "life", &cluster).end();
    cluster.digests_agree().await;

    cluster.grow(1).await;
    let newcomer = &cluster.nodes[3].api;
    for (path, count) in [("/v1/agents", 6), ("/v1/events", 3), ("/v1/schemas", 6)] {
        assert_eq!(newcomer.get(path).await.ok()["count"], count, "{path}");
    }
    cluster.digests_agree().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p1_p5_no_agent_of_the_sdk_is_lost_with_the_leader() {
    let Some(python) = python() else { return skipped() };
    let mut cluster = Cluster::start(3).await;
    let mut scenario = Scenario::start(python, "failover", &cluster);
    scenario.says("ready");
    let leader = cluster.leader().await;
    cluster.nodes[leader].kill9();
    scenario.go();
    scenario.end();
    cluster.nodes[leader].start();
    cluster.ready().await;
    cluster.digests_agree().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p4_the_sdk_sees_who_fell_silent_go() {
    let Some(python) = python() else { return skipped() };
    let flags = ["--soorma-ttl-ms", "2000", "--soorma-reap-after-ms", "10000"];
    let cluster = Cluster::start_with(3, &flags).await;
    Scenario::start(python, "expiry", &cluster).end();
}

#[tokio::test(flavor = "multi_thread")]
async fn p10_the_tokens_of_the_sdk_keep_tenants_apart() {
    let Some(python) = python() else { return skipped() };
    let cluster = Cluster::start_with(3, &["--jwt-secret", SECRET]).await;
    Scenario::start(python, "tenants", &cluster).end();
}

#[tokio::test(flavor = "multi_thread")]
async fn p11_what_no_sdk_sends_is_refused_by_name() {
    let Some(python) = python() else { return skipped() };
    let cluster = Cluster::start(3).await;
    Scenario::start(python, "malformed", &cluster).end();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_example_runs_by_one_command() {
    if python().is_none() {
        return skipped();
    }
    let cluster = Cluster::start(3).await;
    let url = |place: usize| format!("http://{}", cluster.nodes[place].client_address());
    let mut example = tokio::process::Command::new(workspace().join("examples/soorma/run"));
    example.args([url(0), url(1)]).env("NO_PROXY", "*").stdin(Stdio::null()).kill_on_drop(true);
    let ended = example.output().await.expect("it runs");
    let said = String::from_utf8_lossy(&ended.stdout);
    assert!(ended.status.success(), "{said}{}", String::from_utf8_lossy(&ended.stderr));
    let lines: Vec<_> = said.lines().collect();
    let [there, found, valid, invalid, left] = lines[..] else { panic!("{said}") };
    assert_eq!(there, "parts-1 is on the roll");
    assert_eq!(found, "parts-1 (parts-inventory-worker 1.0.0) takes parts.check.requested on action-requests");
    assert!(valid.ends_with("is valid") && invalid.contains("is not valid: "), "{said}");
    assert_eq!(left, "parts-1 has left");
    assert_eq!(cluster.nodes[2].api.get("/v1/agents").await.ok()["count"], 0);
}
