use std::io::Write;
use std::net::TcpListener;
use std::process::Stdio;

use serde_json::{Value, json};

use crate::support::{Stub, node, problem, roll, rollcall, run, service};

#[test]
fn an_answer_is_zero_and_the_two_forms_are_a_table_and_json() {
    let stub = Stub::start(|_| (200, roll(vec![service("web-1")])));
    let (code, out, _) = run(rollcall(&["discover", "--endpoint", &stub.endpoint]).env("RUST_BACKTRACE", "0"));
    assert_eq!(code, Some(0));
    let expected = "ID     NAME  TYPE     STATUS  URL       CAPABILITIES  LEASE LEFT\n\
                    web-1  web   service  active  http://a  translate     2.9 s\n\
                    1 of 1 at revision 3\n";
    assert_eq!(out, expected);

    let (code, out, _) = run(&mut rollcall(&["-o", "json", "discover", "--endpoint", &stub.endpoint]));
    assert_eq!(code, Some(0));
    let json: Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!(json["services"][0]["id"], "web-1");
}

#[test]
fn refusals_have_their_exit_codes() {
    let refusals = [
        (400, "invalid_request", 1),
        (401, "unauthenticated", 5),
        (403, "unknown_tenant", 5),
        (404, "not_found", 3),
        (409, "lease_superseded", 4),
        (412, "precondition_failed", 4),
        (503, "no_leader", 6),
        (504, "revision_not_reached", 7),
    ];
    for (status, word, expected) in refusals {
        let stub = Stub::start(move |_| (status, problem(status, word)));
        let (code, out, err) =
            run(&mut rollcall(&["get", "web-1", "--endpoint", &stub.endpoint, "--timeout", "300ms"]));
        assert_eq!((code, out.as_str()), (Some(expected), ""), "{status}: {err}");
        assert!(err.starts_with(&format!("rollcall: get `web-1`: not now ({status} {word})\n")), "{err}");
    }
}

#[test]
fn a_node_that_is_not_there_is_unavailable_and_one_that_is_silent_is_a_timeout() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let endpoint = format!("http://{}", listener.local_addr().expect("an address"));
    let arguments = ["cluster", "status", "--endpoint", &endpoint, "--timeout", "300ms"];
    let (code, _, err) = run(&mut rollcall(&arguments));
    assert_eq!(code, Some(7), "{err}");
    drop(listener);
    let (code, _, err) = run(&mut rollcall(&arguments));
    assert_eq!(code, Some(6), "{err}");
    assert!(err.contains("--endpoint"), "the next step is named: {err}");
}

#[test]
fn waiting_in_vain_is_a_timeout_that_says_for_what() {
    let stub = Stub::start(|_| (503, problem(503, "not_ready")));
    let arguments = ["cluster", "wait", "--ready", "--endpoint", &stub.endpoint, "--timeout", "200ms"];
    let (code, _, err) = run(&mut rollcall(&arguments));
    assert_eq!(code, Some(7));
    assert!(err.contains("answers 503"), "{err}");
}

#[test]
fn a_wrong_command_line_is_a_usage_error() {
    let wrong: &[&[&str]] = &[
        &["frobnicate"],
        &["discover", "--no-such-flag"],
        &["discover", "--limit", "-1"],
        &["watch", "--limit", "3"],
        &["watch", "--from-revision", "a"],
        &["get"],
        &["get", ""],
        &["cluster", "wait"],
        &["cluster", "backup"],
        &["cluster", "verify"],
        &["cluster", "restore", "f", "--data-dir", "d", "--advertise", "a:1"],
        &["cluster", "recover"],
        &["cluster", "recover", "--data-dir", "d", "--dry-run", "--yes"],
        &["register"],
        &["register", "-", "--", "true"],
        &["discover", "--timeout", "0"],
        &["discover", "--endpoint", "http://127.0.0.1:1", "--tenant", "a\nb"],
        &["-o", "xml", "discover"],
        &["completions", "tcl"],
        &["bench"],
        &["bench", "register", "--duration", "0"],
        &["bench", "heartbeat", "--instances", "5", "--batch", "6"],
        &["bench", "mixed", "--heartbeat", "-1"],
        &["bench", "hold", "--ttl", "10s", "--every", "5s"],
        &["serve"],
    ];
    for arguments in wrong {
        let (code, out, err) = run(&mut rollcall(arguments));
        assert_eq!((code, out.as_str()), (Some(2), ""), "{arguments:?}: {err}");
        assert!(!err.is_empty(), "{arguments:?}");
    }
}

#[test]
fn a_registration_comes_from_standard_input_or_from_flags() {
    let stub = node();
    let mut child = rollcall(&["register", "-", "--endpoint", &stub.endpoint])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let mut stdin = child.stdin.take().expect("a pipe");
    stdin.write_all(br#"{"name": "web", "url": "http://a"}"#).expect("it reads");
    drop(stdin);
    let output = child.wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(output.stdout, b"registered web-1 at revision 3, lease 3 for 3000 ms\n");

    let arguments = ["register", "--name", "web", "--url", "http://a", "--endpoint", &stub.endpoint];
    assert_eq!(run(&mut rollcall(&arguments)).0, Some(0));
}

#[test]
fn a_registration_that_is_no_json_is_an_error_with_its_place() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("web.json");
    std::fs::write(&file, "{\"name\": }").expect("a file");
    let (code, _, err) = run(&mut rollcall(&["register", file.to_str().expect("a path")]));
    assert_eq!(code, Some(1));
    assert!(err.contains("line 1 column 10"), "{err}");
}

#[test]
fn every_shell_has_completions() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let (code, out, _) = run(&mut rollcall(&["completions", shell]));
        assert_eq!(code, Some(0), "{shell}");
        assert!(out.contains("deregister"), "{shell}");
    }
}

#[test]
fn a_reader_that_went_away_is_no_failure() {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let status = rollcall(&["completions", "bash"]).stdout(writer).status().expect("the program starts");
    assert_eq!(status.code(), Some(0));
}

/// Lists the leases it was told of; knows nobody when a heartbeat comes.
fn forgetful(line: &str) -> (u16, Value) {
    if line.ends_with("/api/cluster/status") {
        let status = json!({
            "cluster_id": "c", "epoch": 0, "node_id": 1, "leader_id": 1, "term": 1, "revision": 0, "applied_index": 1,
            "committed_index": 1, "cluster_time_ms": 0, "members": [],
        });
        return (200, status);
    }
    if line.ends_with("/api/services/register") {
        return (201, json!({"lease": {"id": 7}}));
    }
    (404, problem(404, "lease_not_found"))
}

#[test]
fn errors_of_a_bench_are_told_by_its_exit_code_after_the_report() {
    let stub = Stub::start(forgetful);
    let arguments =
        ["bench", "heartbeat", "--sessions", "1", "--instances", "1", "--duration", "100ms", "-o", "json"];
    let arguments = [&arguments[..], &["--warm-up", "0", "--endpoint", &stub.endpoint]].concat();
    let (code, out, err) = run(&mut rollcall(&arguments));
    assert_eq!(code, Some(1), "{err}");
    let report: Value = serde_json::from_str(&out).expect("JSON");
    assert!(report["errors"].as_u64() > Some(0), "{report:#}");
    assert_eq!(report["error_examples"], json!(["not now (404 lease_not_found)"]));

    let (code, _, err) = run(&mut rollcall(&[&arguments[..], &["--tolerate-errors"]].concat()));
    assert_eq!(code, Some(0), "{err}");
}

#[test]
fn a_bench_that_cannot_reach_a_node_is_unavailable_and_one_that_may_not_kill_is_a_usage_error() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let endpoint = format!("http://{}", listener.local_addr().expect("an address"));
    drop(listener);
    for work in ["register", "heartbeat", "lookup", "query", "mixed", "fill", "hold", "expiry"] {
        let (code, out, err) = run(&mut rollcall(&["bench", work, "--endpoint", &endpoint]));
        assert_eq!((code, out.as_str()), (Some(6), ""), "{work}: {err}");
        assert!(err.contains("--endpoint"), "the next step is named: {err}");
    }
    let (code, _, err) = run(&mut rollcall(&["bench", "failover", "--endpoint", &endpoint]));
    assert_eq!(code, Some(2), "{err}");
    let (code, _, err) = run(&mut rollcall(&["bench", "failover", "--kill", "--endpoint", &endpoint]));
    assert_eq!(code, Some(6), "{err}");
}
