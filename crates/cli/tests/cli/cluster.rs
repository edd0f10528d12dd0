//! What operators see.

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use rustix::process::{Signal, kill_process};
use serde_json::{Value, json};

use crate::support::{Running, Stub, problem, rollcall, run};

const SECRET: &str = "rcjoin-00000000000000ff-0123456789abcdef";

fn token_info() -> Value {
    json!({
        "id": "00000000000000ff", "role": "learner", "expires_in_ms": 1_800_000, "uses_max": 2, "uses": 1,
        "admitted": ["10.0.0.4:7901"], "created_at": "2026-01-01T00:00:00Z",
    })
}

#[test]
fn a_join_token_goes_to_standard_output_alone_and_its_secret_into_no_url() {
    let stub = Stub::start(|line| match line {
        "POST /api/cluster/tokens" => {
            let mut created = token_info();
            created["token"] = SECRET.into();
            (201, created)
        }
        "GET /api/cluster/tokens" => (200, json!({ "tokens": [token_info()] })),
        "DELETE /api/cluster/tokens/00000000000000ff" => (200, json!({ "id": "00000000000000ff", "revoked": true })),
        _ => (404, problem(404, "join_token_not_found")),
    });
    let token = |arguments: &[&str]| {
        run(&mut rollcall(&[&["cluster", "join-token", "--endpoint", stub.endpoint.as_str()], arguments].concat()))
    };
    let (code, out, err) = token(&["--ttl", "30m", "--uses", "2", "--learner"]);
    assert_eq!((code, out.as_str()), (Some(0), format!("{SECRET}\n").as_str()), "{err}");
    assert!(err.contains("2 nodes at most, learners only within 30 min 0 s") && !err.contains(SECRET), "{err}");

    let (code, out, _) = token(&["list"]);
    assert_eq!(code, Some(0));
    let expected = "ID                ROLE     LEFT        USED    ADMITTED       MADE\n\
                    00000000000000ff  learner  30 min 0 s  1 of 2  10.0.0.4:7901  2026-01-01T00:00:00Z\n";
    assert_eq!(out, expected);
    for id in [SECRET, "00000000000000ff"] {
        let (code, out, err) = token(&["revoke", id]);
        assert_eq!((code, out.as_str()), (Some(0), "join token 00000000000000ff was revoked\n"), "{err}");
    }
    assert_eq!(token(&["revoke", "1"]).0, Some(3));
    assert!(stub.requests.try_iter().all(|line| !line.contains("0123456789abcdef")));
    // Both a lifetime and a step would leave one of them without effect.
    assert_eq!(token(&["--ttl", "30m", "list"]).0, Some(2));
}

fn status(revision: u64) -> Value {
    let member = |node_id: u64, feature_level: u64| {
        json!({
            "node_id": node_id, "role": "voter", "api_address": "a:1", "peer_address": "a:2", "reachable": true,
            "applied_index": 7, "lag_entries": 0, "version": "1.0.0", "feature_level": feature_level,
        })
    };
    json!({
        "cluster_id": "c", "epoch": 0, "node_id": 1, "leader_id": 1, "term": 1, "revision": revision,
        "applied_index": 7, "committed_index": 7, "membership_index": 1, "cluster_time_ms": 5, "feature_level": 1,
        "autopilot": {
            "dead_node_removal_ms": 60_000, "voters_min": 3, "learner_stable_ms": 0,
            "findings": [{ "node_id": 2, "silent_ms": 61_000, "kept_because": "voters_min" }],
        },
        "members": [member(1, 2), member(2, 1)],
    })
}

#[test]
fn a_status_names_who_holds_the_level_back_and_who_is_kept() {
    let stub = Stub::start(|_| (200, status(7)));
    let (code, out, err) = run(&mut rollcall(&["cluster", "status", "--endpoint", &stub.endpoint]));
    assert_eq!(code, Some(0), "{err}");
    assert!(out.contains("feature level  1; it will be 2 when all nodes have it: node 2 is at 1\n"), "{out}");
    assert!(out.contains("autopilot      removes after 60 s out of reach, leaves 3 voters or more\n"), "{out}");
    assert!(out.contains("node 2 is out of reach for 61 s and is kept: too few voters would be left\n"), "{out}");
}

#[test]
fn a_watched_status_is_shown_again_until_a_signal_whatever_a_node_says() {
    let asked = std::sync::atomic::AtomicU64::new(0);
    let stub = Stub::start(move |_| match asked.fetch_add(1, std::sync::atomic::Ordering::Relaxed) {
        1 => (500, problem(500, "internal")),
        n => (200, status(n)),
    });
    let watch = ["-o", "json", "cluster", "status", "--watch", "--endpoint", &stub.endpoint];
    let mut child = rollcall(&watch).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
    let stdout = BufReader::new(child.stdout.take().expect("a pipe"));
    let mut running = Running(child);
    let lines: Vec<String> = stdout.lines().take(2).map(|line| line.expect("text")).collect();
    let revisions: Vec<Value> =
        lines.iter().map(|line| serde_json::from_str::<Value>(line).expect("JSON")["revision"].clone()).collect();
    assert_eq!(revisions, [0, 2]);
    kill_process(running.pid(), Signal::INT).expect("it runs");
    assert!(running.0.wait().expect("it ends").success());
}
