//! What a node writes down of who changed what, and how it is read again.

use std::io::Write;
use std::net::TcpListener;
use std::path::Path;
use std::process::Stdio;

use serde_json::Value;

use crate::support::{Running, rollcall, run, wait_until};

fn free_address() -> String {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port").to_string()
}

/// What is written down, as it was read with these filters.
fn read(file: &Path, filters: &[&str]) -> Vec<Value> {
    let (code, out, err) = run(rollcall(&["-o", "json", "audit"]).arg(file).args(filters));
    assert_eq!((code, err.as_str()), (Some(0), ""));
    out.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

#[test]
fn every_change_is_written_down_with_who_made_it_and_heartbeats_are_not() {
    let directory = tempfile::tempdir().expect("a directory");
    let (audit, secret) = (directory.path().join("audit.jsonl"), directory.path().join("admin.token"));
    let address = free_address();
    let mut serve =
        rollcall(&["serve", "--bootstrap", "--auth", "--listen", &address, "--peer-listen", "127.0.0.1:0"]);
    serve.arg("--data-dir").arg(directory.path().join("data"));
    serve.arg("--audit-file").arg(&audit).arg("--admin-token-file").arg(&secret);
    let _node = Running(serve.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the program starts"));
    wait_until("the first token is told", || std::fs::read_to_string(&secret).is_ok_and(|text| text.len() > 80));
    let token = std::fs::read_to_string(&secret).expect("a token");
    let id = token.split('-').nth(1).expect("prefix, id and secret").to_owned();
    let ask = |arguments: &[&str]| {
        let mut command = rollcall(&["--endpoint", &address, "--tenant", "acme"]);
        let (code, out, err) = run(command.args(arguments).env("ROLLCALL_TOKEN", &token));
        assert_eq!(code, Some(0), "{arguments:?}: {out}{err}");
    };
    let register = ["register", "--id", "web-1", "--name", "web", "--url", "http://a"];
    ask(&register);
    // The same again is a renewal.
    ask(&register);
    ask(&["heartbeat", "web-1"]);
    ask(&["heartbeat", "web-1", "--status", "active"]);
    ask(&["heartbeat", "web-1", "--status", "degraded"]);
    ask(&["deregister", "web-1"]);
    ask(&["token", "create", "--role", "agent"]);

    let records = read(&audit, &[]);
    let actions: Vec<_> = records.iter().map(|record| record["action"].as_str().expect("an action")).collect();
    assert_eq!(actions, ["token.create", "register", "update", "deregister", "token.create"], "{records:?}");
    // The node's own change is nobody's.
    assert!(records[0].get("principal").is_none() && records[0]["tenant"] == "*", "{}", records[0]);
    let register = &records[1];
    assert_eq!(register["principal"], format!("token:{id}"));
    assert_eq!(
        (&register["role"], &register["tenant"], &register["id"]),
        (&"admin".into(), &"acme".into(), &"web-1".into())
    );
    assert_eq!((&register["revision"], &register["result"]), (&1.into(), &"applied".into()));
    assert!(!register["request_id"].as_str().expect("a request id").is_empty());
    assert_eq!([&records[2]["revision"], &records[3]["revision"]], [&Value::from(2), &Value::from(3)]);
    let text = std::fs::read_to_string(&audit).expect("the file");
    assert!(!text.contains(token.rsplit('-').next().expect("a secret")), "no secret is written down");

    assert_eq!(read(&audit, &["--id", "web-1"]).len(), 3);
    assert_eq!(read(&audit, &["--action", "deregister,update"]).len(), 2);
    assert_eq!(read(&audit, &["--action", "token"]).len(), 2);
    assert_eq!(read(&audit, &["--action", "regis"]).len(), 0);
    assert_eq!(read(&audit, &["--tenant", "acme"]).len(), 4);
    assert_eq!(read(&audit, &["--tenant", "acme", "--principal", &format!("token:{id}"), "--since", "1h"]).len(), 4);
    assert_eq!(read(&audit, &["--since", "2999-01-01T00:00:00Z"]).len(), 0);
}

#[test]
fn records_are_read_from_a_pipe_past_what_is_none() {
    let torn = "{\"timestamp\":\"2026-11-26T14:03:11.5Z\",\"request_id\":\"r-1\",\"action\":\"register\",\"tenant\":\"acme\",\
                \"id\":\"web\\u001b-1\",\"principal\":\"token:a\",\"revision\":7,\"result\":\"applied\"}\n\
                {\"timestamp\":\"2026-11\n\
                {\"timestamp\":\"2026-11-26T14:03:12Z\",\"action\":\"leader.transfer\",\"tenant\":\"*\",\"id\":\"\",\
                \"result\":\"unknown\"}\n";
    let mut command = rollcall(&["audit", "-"]);
    let streams = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = streams.spawn().expect("the program starts");
    child.stdin.take().expect("a pipe").write_all(torn.as_bytes()).expect("it reads");
    let output = child.wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(
        String::from_utf8(output.stdout).expect("text"),
        "2026-11-26T14:03:11.5Z  register        acme  web\u{fffd}-1  by token:a  revision 7  request r-1\n\
         2026-11-26T14:03:12Z  leader.transfer  *  -  by -  unknown  request -\n"
    );
    let err = String::from_utf8(output.stderr).expect("text");
    assert_eq!(err, "rollcall: line 2 is no record of a change; it is passed over\n");

    let (code, _, err) = run(&mut rollcall(&["audit", "/nowhere/audit"]));
    assert_eq!(code, Some(1));
    assert!(err.starts_with("rollcall: read /nowhere/audit"), "{err}");
}
