use std::io::{BufRead, BufReader, Read};
use std::process::{ChildStdout, Stdio};

use rustix::process::{Signal, kill_process};
use serde_json::{Value, json};

use crate::support::{Reply, Running, Stub, problem, rollcall, run, service};

fn event(name: &str, point: Option<&str>, data: &Value) -> String {
    let id = point.map_or_else(String::new, |point| format!("id: {point}\n"));
    format!("event: {name}\n{id}data: {data}\n\n")
}

fn present(id: &str) -> String {
    event("snapshot", None, &json!({"service": service(id), "revision": 7}))
}

fn synced() -> String {
    event("synced", Some("0-7"), &json!({"revision": 7}))
}

fn change(update_type: &str, id: &str, revision: u64) -> String {
    let data = json!({
        "type": "service_update", "update_type": update_type, "service": service(id), "revision": revision,
        "timestamp": "2026-01-01T00:00:00Z",
    });
    event("change", Some(&format!("0-{revision}")), &data)
}

fn node(events: &[String], ends: bool) -> Stub {
    let events = events.concat();
    Stub::start(move |_| Reply::Events { events: events.clone(), ends })
}

/// A watch with its output.
fn watch(arguments: &[&str]) -> (Running, BufReader<ChildStdout>) {
    let mut command = rollcall(&[&["watch"], arguments].concat());
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program starts");
    let stdout = BufReader::new(child.stdout.take().expect("a pipe"));
    (Running(child), stdout)
}

fn lines(stdout: &mut BufReader<ChildStdout>, count: usize) -> Vec<String> {
    stdout.by_ref().lines().take(count).map(|line| line.expect("text")).collect()
}

#[test]
fn people_read_a_line_for_each_event_until_a_signal() {
    let all = [present("web-1"), present("web-2"), synced(), change("status_changed", "web-1", 8)];
    for signal in [Signal::INT, Signal::TERM] {
        let stub = node(&all, false);
        let (mut running, mut stdout) = watch(&["--endpoint", &stub.endpoint]);
        let expected = [
            "3         present         web-1  web  active  http://a",
            "3         present         web-2  web  active  http://a",
            "7         synced",
            "8         status_changed  web-1  web  active  http://a  2026-01-01T00:00:00Z",
        ];
        assert_eq!(lines(&mut stdout, expected.len()), expected);
        kill_process(running.pid(), signal).expect("it runs");
        assert_eq!(running.0.wait().expect("it ends").code(), Some(0));
        assert_eq!(lines(&mut stdout, 1), [""; 0]);
    }
}

#[test]
fn people_read_whose_instance_it_is() {
    let mut service = service("web-2");
    service["origin"] = "east".into();
    service["revision"] = 40.into();
    let of_east = event("snapshot", None, &json!({"service": service, "revision": 7}));
    let data = json!({
        "type": "service_update", "update_type": "expired", "service": service, "revision": 40,
        "timestamp": "2026-01-01T00:00:00Z",
    });
    let stub = node(&[present("web-1"), of_east, synced(), event("change", None, &data)], false);
    let (_running, mut stdout) = watch(&["--federated", "--endpoint", &stub.endpoint]);
    let expected = [
        "3         present         web-1  web  active  http://a",
        "40        present         web-2  web  active  http://a  from east",
        "7         synced",
        "40        expired         web-2  web  active  http://a  from east  2026-01-01T00:00:00Z",
    ];
    assert_eq!(lines(&mut stdout, expected.len()), expected);
    stub.until("GET /api/services/watch?include_federated=true");
}

#[test]
fn programs_read_json_with_the_point_to_go_on_from() {
    let bookmark = event("bookmark", Some("0-9"), &json!({"revision": 9}));
    let stub = node(&[present("web-1"), synced(), change("expired", "web-1", 8), bookmark], false);
    let (_running, mut stdout) = watch(&["-o", "json", "--endpoint", &stub.endpoint]);
    let parse = |line: &String| serde_json::from_str::<Value>(line).expect("JSON");
    let told: Vec<_> = lines(&mut stdout, 5).iter().map(parse).collect();
    let expected = [
        json!({"type": "init", "cause": "start"}),
        json!({"type": "snapshot", "service": service("web-1")}),
        json!({"type": "synced", "revision": 7, "resume_point": "0-7"}),
        json!({
            "type": "service_update", "update_type": "expired", "service": service("web-1"), "revision": 8,
            "timestamp": "2026-01-01T00:00:00Z", "resume_point": "0-8",
        }),
        json!({"type": "bookmark", "revision": 9, "resume_point": "0-9"}),
    ];
    assert_eq!(told, expected);
}

#[test]
fn it_goes_on_at_another_node_and_says_so() {
    let first = node(&[present("web-1"), synced()], true);
    let other = node(&[change("updated", "web-1", 7), change("expired", "web-1", 9)], false);
    let (mut running, mut stdout) =
        watch(&["--tag", "gpu", "--endpoint", &first.endpoint, "--endpoint", &other.endpoint]);
    let words: Vec<_> =
        lines(&mut stdout, 3).iter().filter_map(|line| Some(line.split_whitespace().nth(1)?.to_owned())).collect();
    assert_eq!(words, ["present", "synced", "expired"]);
    other.until("GET /api/services/watch?tags=gpu after 0-7");
    kill_process(running.pid(), Signal::INT).expect("it runs");
    assert_eq!(running.0.wait().expect("it ends").code(), Some(0));
    let mut told = String::new();
    running.0.stderr.take().expect("a pipe").read_to_string(&mut told).expect("text");
    let expected = format!(
        "rollcall: watch at {}/: the stream ended; trying to go on at another node\n\
         rollcall: going on after 0-7 at {}/\n",
        first.endpoint, other.endpoint
    );
    assert_eq!(told, expected);
}

#[test]
fn it_goes_on_from_a_point_or_begins_again_where_that_is_gone() {
    let gone = Stub::start(|line| match line {
        "GET /api/services/watch" => Reply::Events { events: synced(), ends: false },
        _ => Reply::Json(410, problem(410, "revision_compacted")),
    });
    for (from, request) in [("3", "?from_revision=3"), ("0-3", " after 0-3")] {
        let (_running, mut stdout) = watch(&["--from-revision", from, "-o", "json", "--endpoint", &gone.endpoint]);
        assert_eq!(lines(&mut stdout, 1), [r#"{"type":"init","cause":"history_gone"}"#]);
        gone.until(&format!("GET /api/services/watch{request}"));
    }
}

#[test]
fn a_watch_that_no_node_takes_has_its_exit_code() {
    let refusals = [
        (400, "invalid_request", 1),
        (401, "unauthenticated", 5),
        (403, "unknown_tenant", 5),
        (429, "too_many_watchers", 6),
        (503, "not_ready", 6),
        (504, "revision_not_reached", 7),
    ];
    for (status, word, expected) in refusals {
        let stub = Stub::start(move |_| (status, problem(status, word)));
        let (code, out, err) = run(&mut rollcall(&["watch", "--endpoint", &stub.endpoint, "--timeout", "300ms"]));
        assert_eq!((code, out.as_str()), (Some(expected), ""), "{status}: {err}");
        assert!(err.starts_with(&format!("rollcall: watch: not now ({status} {word})\n")), "{err}");
    }
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let endpoint = format!("http://{}", listener.local_addr().expect("an address"));
    drop(listener);
    assert_eq!(run(&mut rollcall(&["watch", "--endpoint", &endpoint])).0, Some(6));
}

#[test]
fn it_ends_when_its_reader_went_away() {
    let stub = node(&[present("web-1"), synced()], false);
    let (mut running, stdout) = watch(&["--endpoint", &stub.endpoint]);
    drop(stdout);
    assert_eq!(running.0.wait().expect("it ends").code(), Some(0));
}
