//! The unmodified SDK of Protolink against whole clusters. What it does and expects is in `sdk.py` beside this file; it is
//! installed by `scripts/test`.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use rollcall_tests::{Cluster, Event, Events, skip, wait_until, workspace};
use serde_json::json;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};

/// Longer than any scenario, on a busy machine too.
const PATIENCE: Duration = Duration::from_secs(120);

/// The interpreter of the environment that `scripts/lib.sh` makes for an SDK, if it is there.
fn python_of(sdk: &str) -> Option<PathBuf> {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let home = std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
    let home = cache.or(home)?.join("rollcall").join(sdk);
    let python = home.join("bin/python");
    (home.join("installed").is_file() && python.is_file()).then_some(python)
}

fn python() -> Option<PathBuf> {
    python_of("protolink")
}

fn not_installed(test: &str) {
    skip(test, "scripts/test could not install protolink");
}

/// A scenario of the SDK at all nodes of a cluster.
fn scenario(python: PathBuf, cluster: &Cluster, name: &str) -> tokio::process::Command {
    scenario_of(python, "tests/tests/protolink/sdk.py", cluster, name)
}

fn scenario_of(python: PathBuf, scenarios: &str, cluster: &Cluster, name: &str) -> tokio::process::Command {
    let mut command = Command::new(python);
    command.arg(workspace().join(scenarios)).arg(name);
    command.args(cluster.nodes.iter().map(|node| format!("http://{}", node.client_address())));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut command = tokio::process::Command::from(command);
    command.kill_on_drop(true);
    command
}

async fn passes(mut command: tokio::process::Command) -> String {
    let output = tokio::time::timeout(PATIENCE, command.output()).await.expect("it ends in time").expect("it starts");
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}:\n{out}{err}");
    out.into_owned()
}

/// The next event of a kind.
async fn next(events: &mut Events, kind: &str) -> Event {
    loop {
        let event = events.next().await.expect("the stream goes on");
        if event.event == kind {
            return event;
        }
    }
}

async fn plays(name: &str, arguments: &[&str]) {
    let Some(python) = python() else { return not_installed(name) };
    let cluster = Cluster::start_with(3, arguments).await;
    passes(scenario(python, &cluster, name)).await;
    cluster.digests_agree().await;
}

#[tokio::test]
async fn an_agents_life_is_told_to_each_node_and_seen_at_each_other() {
    plays("life", &[]).await;
}

#[tokio::test]
async fn agents_run_find_and_call_each_other() {
    plays("agents", &[]).await;
}

#[tokio::test]
async fn silent_agents_are_struck_off() {
    plays("expiry", &["--protolink-ttl-ms", "4000"]).await;
}

#[tokio::test]
async fn p10_tenants_by_prefix_do_not_see_each_other() {
    plays("tenants", &[]).await;
}

#[tokio::test]
async fn bad_cards_are_refused_and_poison_nothing() {
    plays("malformed", &[]).await;
}

#[tokio::test]
async fn the_sdks_command_line_lists_and_inspects() {
    plays("cli", &[]).await;
}

/// Sixty agents beat at all nodes while the leader is killed and comes back.
#[tokio::test]
async fn p1_p5_nobody_is_lost_when_the_leader_is_killed() {
    let Some(python) = python() else { return not_installed("hold") };
    let mut cluster = Cluster::start_with(3, &["--protolink-ttl-ms", "15000"]).await;
    let mut held = scenario(python, &cluster, "hold").stdin(Stdio::piped()).spawn().expect("it starts");
    let mut out = BufReader::new(held.stdout.take().expect("its output")).lines();
    let ready = tokio::time::timeout(PATIENCE, out.next_line()).await.expect("it says so in time");
    assert_eq!(ready.expect("its output is text").as_deref(), Some("ready"));

    let leader = cluster.leader().await;
    let follower = (leader + 1) % 3;
    let watched = cluster.nodes[follower].api.get("/api/services?tags=held").await.ok();
    assert_eq!(watched["total_count"], 60);
    cluster.nodes[leader].kill9();
    let places = [follower, (leader + 2) % 3];
    cluster.leader_among(&places).await;
    // Those whose node is gone are silent for a while; it must not be for so long that they lapse.
    cluster.nodes[leader].start();
    cluster.ready().await;
    let all_beat = || async {
        let found =
            cluster.nodes[leader].api.get("/api/services?tags=held&limit=100&consistency=linearizable").await.ok();
        let left = found["services"].as_array()?.iter().map(|service| service["lease"]["expires_in_ms"].as_u64());
        // Somebody who lapsed would be missing.
        (found["total_count"] == 60 && left.min()?? > 12_000).then_some(())
    };
    wait_until("everybody has beaten since", PATIENCE, all_beat).await;

    drop(held.stdin.take());
    let mut said = String::new();
    let ended = async {
        held.stderr.take().expect("its errors").read_to_string(&mut said).await.expect("its errors are text");
        held.wait().await.expect("a child can be waited for")
    };
    let status = tokio::time::timeout(PATIENCE, ended).await.expect("it ends in time");
    assert!(status.success(), "{said}");
    cluster.digests_agree().await;
}

#[tokio::test]
async fn what_one_face_registers_the_other_finds() {
    let Some(python) = python() else { return not_installed("faces") };
    let cluster = Cluster::start(3).await;
    let api = &cluster.nodes[1].api;
    let native = json!({
        "id": "n-1", "name": "native", "type": "agent", "url": "https://native", "tags": ["shared"],
        "capabilities": [
            {"capability_name": "ocr", "description": "Reads", "input_schema": {"type": "object"}}, "plain",
        ],
    });
    assert_eq!(api.post("/api/services/register", &native).await.status, 201);
    api.register("bare", 60_000).await;
    let mut events = Events::open(api, "?capabilities=get_weather", "").await.expect("a stream");
    next(&mut events, "synced").await;
    passes(scenario(python, &cluster, "faces")).await;
    let told = next(&mut events, "change").await;
    assert_eq!(told.data["service"]["name"], "sdk");
    for query in
        ["name=sdk", "tags=weather,forecast", "capabilities=get_weather", "selector=capabilities.streaming%3Dtrue"]
    {
        let found = api.get(&format!("/api/services?{query}&consistency=linearizable")).await.ok();
        assert_eq!((&found["total_count"], &found["services"][0]["name"]), (&json!(1), &json!("sdk")), "{query}");
    }
}

/// A card is found by Soorma's SDK and by the native API by what it can do, and an agent of Soorma's is a card; a watch on
/// the native API is told of both.
#[tokio::test]
async fn the_sdks_find_each_others_agents() {
    let (Some(protolink), Some(soorma)) = (python(), python_of("soorma")) else {
        return skip("the_sdks_find_each_others_agents", "scripts/test could not install both SDKs");
    };
    let cluster = Cluster::start(3).await;
    let api = &cluster.nodes[2].api;
    let mut events = Events::open(api, "?capabilities=get_weather", "").await.expect("a stream");
    next(&mut events, "synced").await;
    let mut parts = Events::open(api, "?capabilities=check_parts", "").await.expect("a stream");
    next(&mut parts, "synced").await;

    passes(scenario(protolink.clone(), &cluster, "register")).await;
    assert_eq!(next(&mut events, "change").await.data["service"]["name"], "sdk");
    passes(scenario_of(soorma, "tests/soorma/sdk.py", &cluster, "faces")).await;
    assert_eq!(next(&mut parts, "change").await.data["service"]["id"], "parts-1");
    passes(scenario(protolink, &cluster, "soorma")).await;
    for (capability, name) in [("get_weather", "sdk"), ("check_parts", "parts-worker")] {
        let found = api.get(&format!("/api/services?capabilities={capability}&consistency=linearizable")).await.ok();
        let services = found["services"].as_array().expect("services");
        assert_eq!(services.iter().map(|service| service["name"].clone()).collect::<Vec<_>>(), [name]);
    }
}

#[tokio::test]
async fn the_example_runs_by_one_command() {
    if python().is_none() {
        return not_installed("examples/protolink");
    }
    let cluster = Cluster::start(3).await;
    let follower = cluster.follower().await;
    for prefix in ["", "/ns/team-a"] {
        let mut command = tokio::process::Command::new(workspace().join("examples/protolink/run"));
        let registry = format!("http://{}{prefix}", cluster.nodes[follower].client_address());
        command.args(["--registry", &registry, "--word", "thanks"]).stdin(Stdio::null()).kill_on_drop(true);
        let said = passes(command).await;
        assert!(said.contains("traveller found translator") && said.contains("thanks: efcharisto"), "{said}");
    }
    // They unregister when they end.
    assert_eq!(
        cluster.nodes[follower].api.get("/api/services?consistency=linearizable").await.ok()["total_count"],
        0
    );
}
