use std::io::Write;
use std::net::TcpListener;
use std::process::Stdio;

use serde_json::Value;

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
        &["get"],
        &["get", ""],
        &["cluster", "wait"],
        &["register"],
        &["register", "-", "--", "true"],
        &["discover", "--timeout", "0"],
        &["discover", "--endpoint", "https://127.0.0.1:1"],
        &["discover", "--endpoint", "http://127.0.0.1:1", "--tenant", "a\nb"],
        &["-o", "xml", "discover"],
        &["completions", "tcl"],
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
