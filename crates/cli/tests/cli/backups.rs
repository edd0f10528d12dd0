//! Backups and what is made of them: files, exit codes and words. Of a real node, whose bytes no stub could make up.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::Stdio;

use serde_json::Value;

use crate::support::{Reply, Running, Stub, problem, rollcall, run};

/// A node that founded its cluster, with three instances on the roll.
struct Node {
    endpoint: String,
    _running: Running,
}

impl Node {
    fn start(data_dir: &Path) -> Self {
        let mut command =
            rollcall(&["serve", "--bootstrap", "--listen", "127.0.0.1:0", "--peer-listen", "127.0.0.1:0"]);
        command.arg("--data-dir").arg(data_dir).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut running = Running(command.spawn().expect("the program starts"));
        let mut log = BufReader::new(running.0.stderr.take().expect("a pipe")).lines();
        let endpoint = log.by_ref().find_map(|line| {
            let line = line.expect("text");
            let clients = line.split_once("listening clients=")?.1;
            Some(format!("http://{}", clients.split(' ').next().expect("an address")))
        });
        // It must not come to a stop because nobody reads what it says.
        std::thread::spawn(move || log.for_each(drop));
        let node = Self { endpoint: endpoint.expect("it says where it listens"), _running: running };
        assert_eq!(node.run(&["cluster", "wait", "--ready"]).0, Some(0));
        for id in ["a", "b", "c"] {
            let register = ["register", "--id", id, "--name", "web", "--url", "http://a", "--ttl-ms", "600000"];
            assert_eq!(node.run(&register).0, Some(0));
        }
        node
    }

    fn run(&self, arguments: &[&str]) -> (Option<i32>, String, String) {
        run(&mut rollcall(&[arguments, &["--endpoint", &self.endpoint]].concat()))
    }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path of plain text")
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(dir)
        .expect("a directory")
        .map(|file| file.expect("a file").file_name().into_string().expect("text"))
        .collect();
    names.sort();
    names
}

#[test]
fn a_backup_is_there_whole_or_not_at_all_and_replaces_nothing_unasked() {
    let dir = tempfile::tempdir().expect("a directory");
    let node = Node::start(&dir.path().join("node"));
    let files = dir.path().join("files");
    fs::create_dir(&files).expect("a directory");
    let file = files.join("roll.backup");

    let (code, out, err) = node.run(&["cluster", "backup", text(&file)]);
    assert_eq!((code, err.as_str()), (Some(0), ""), "{out}");
    let fields: Vec<_> = out.lines().map(|line| line.split("  ").next().expect("a field")).collect();
    let expected = ["backup", "cluster", "taken from", "revision", "cluster time", "instances", "size", "digest"];
    assert_eq!(fields, expected, "{out}");
    assert!(out.contains("instances     3\n") && out.contains("revision      3, log index "), "{out}");
    assert_eq!(names(&files), ["roll.backup"]);

    let before = fs::read(&file).expect("the backup");
    let (code, _, err) = node.run(&["cluster", "backup", text(&file)]);
    assert_eq!(code, Some(4), "{err}");
    assert!(err.contains("is there already\n  name another file, or replace it with --overwrite"), "{err}");
    assert_eq!(fs::read(&file).expect("the backup"), before);
    let (code, out, err) = node.run(&["-o", "json", "cluster", "backup", text(&file), "--overwrite"]);
    assert_eq!(code, Some(0), "{err}");
    let summary: Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!((&summary["instances"], &summary["epoch"]), (&3.into(), &0.into()));

    // Standard output is the backup and nothing else.
    let arguments = ["cluster", "backup", "-", "--endpoint", &node.endpoint];
    let output = rollcall(&arguments).output().expect("the program starts");
    assert_eq!(output.status.code(), Some(0));
    let said = String::from_utf8(output.stderr).expect("text");
    assert!(said.starts_with("rollcall: took cluster ") && said.contains("3 instances"), "{said}");
    let piped = files.join("piped");
    fs::write(&piped, output.stdout).expect("a file");
    let (code, out, err) = run(&mut rollcall(&["-o", "json", "cluster", "verify", text(&piped)]));
    assert_eq!(code, Some(0), "{err}");
    let verified: Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!(verified["digest"], summary["digest"]);

    // A node that dies on the way, and one that takes no more.
    let whole = fs::read(&file).expect("the backup");
    for end in [0, 20, whole.len() / 2, whole.len() - 1] {
        let cut = whole[..end].to_vec();
        let stub = Stub::start(move |_| Reply::Bytes { bytes: cut.clone(), length: None });
        let cut = files.join("cut");
        let (code, out, err) = run(&mut rollcall(&["cluster", "backup", text(&cut), "--endpoint", &stub.endpoint]));
        assert_eq!((code, out.as_str()), (Some(1), ""), "{err}");
        assert!(err.contains("cut off or damaged"), "{err}");
        let length = whole.len();
        let half = whole[..end].to_vec();
        let stub = Stub::start(move |_| Reply::Bytes { bytes: half.clone(), length: Some(length) });
        let (code, _, err) = run(&mut rollcall(&["cluster", "backup", text(&cut), "--endpoint", &stub.endpoint]));
        assert_eq!(code, Some(1), "{err}");
        assert!(err.contains("the stream of the backup broke"), "{err}");
    }
    let stub = Stub::start(|_| (429, problem(429, "too_many_backups")));
    let refused = files.join("refused");
    let arguments = ["cluster", "backup", text(&refused), "--timeout", "200ms", "--endpoint", &stub.endpoint];
    assert_eq!(run(&mut rollcall(&arguments)).0, Some(6));
    assert_eq!(names(&files), ["piped", "roll.backup"], "something is left of what was not finished");
}

#[test]
fn what_is_damaged_cut_or_foreign_is_no_backup() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("roll.backup");
    let node = Node::start(&dir.path().join("node"));
    assert_eq!(node.run(&["cluster", "backup", text(&file)]).0, Some(0));
    let whole = fs::read(&file).expect("the backup");
    let verify = |bytes: &[u8]| {
        fs::write(&file, bytes).expect("a file");
        let (code, out, err) = run(&mut rollcall(&["cluster", "verify", text(&file)]));
        assert!(code == Some(0) || out.is_empty(), "{out}");
        (code, err)
    };
    assert_eq!(verify(&whole), (Some(0), String::new()));
    let mut changed = whole.clone();
    changed[whole.len() / 2] ^= 1;
    let begins = format!("rollcall: verify {}: ", text(&file));
    for (bytes, says) in [
        (&changed[..], "the backup is cut off or damaged: read snapshot: frame "),
        (&whole[..whole.len() - 1], "without an end frame"),
        (&whole[..0], "it ends after 0 frames"),
        (&b"# Rollcall\n\nThe live roll of agents"[..], "this is no backup of a Rollcall cluster"),
    ] {
        let (code, err) = verify(bytes);
        assert_eq!(code, Some(1), "{says}: {err}");
        assert!(err.starts_with(&begins) && err.contains(says), "{says}: {err}");
    }
    let missing = dir.path().join("missing");
    let (code, _, err) = run(&mut rollcall(&["cluster", "verify", text(&missing)]));
    assert_eq!(code, Some(1));
    assert!(err.starts_with(&format!("rollcall: read {}: No such file", text(&missing))), "{err}");
}

#[test]
fn a_directory_is_restored_or_recovered_only_where_that_destroys_nothing() {
    let dir = tempfile::tempdir().expect("a directory");
    let (file, data_dir) = (dir.path().join("roll.backup"), dir.path().join("node"));
    let node = Node::start(&data_dir);
    assert_eq!(node.run(&["cluster", "backup", text(&file)]).0, Some(0));
    let restore = |data_dir: &Path| {
        let addresses = ["--advertise", "10.0.0.1:7900", "--peer-advertise", "10.0.0.1:7901"];
        let arguments = ["cluster", "restore", text(&file), "--data-dir", text(data_dir)];
        run(&mut rollcall(&[&arguments[..], &addresses].concat()))
    };
    let recover = |arguments: &[&str]| {
        let command = ["cluster", "recover", "--data-dir", text(&data_dir)];
        run(rollcall(&[&command, arguments].concat()).stdin(Stdio::null()))
    };
    let (code, _, err) = restore(&data_dir);
    assert_eq!(code, Some(1), "{err}");
    assert!(err.contains("has not ended yet\n  stop the node"), "{err}");
    assert_eq!(recover(&["--yes"]).0, Some(1));
    drop(node);
    let (code, _, err) = restore(&data_dir);
    assert_eq!(code, Some(1), "{err}");
    assert!(err.contains("already\n  name a directory that is new or empty"), "{err}");

    let new = dir.path().join("new");
    let (code, out, err) = restore(&new);
    assert_eq!((code, err.as_str()), (Some(0), ""));
    for says in
        ["restored  cluster ", ", epoch 1\n", "clients 10.0.0.1:7900, peers 10.0.0.1:7901\n", "--join 10.0.0.1:7901"]
    {
        assert!(out.contains(says), "{says}: {out}");
    }
    assert_eq!(restore(&new).0, Some(1), "a second time there is a node");

    let (code, out, _) = recover(&["--dry-run"]);
    assert_eq!(code, Some(0));
    assert!(out.contains("keeps    3 instances at revision 3") && out.ends_with("nothing was changed\n"), "{out}");
    let (code, out, err) = recover(&[]);
    assert_eq!(code, Some(2), "{out}");
    assert!(err.starts_with("rollcall: not confirmed, so nothing was changed\n  say --yes"), "{err}");
    let (code, out, err) = recover(&["--yes", "--advertise", "10.0.0.2:7900"]);
    assert_eq!((code, err.as_str()), (Some(0), ""), "{out}");
    assert!(out.contains("clients 10.0.0.2:7900") && out.contains("recovered  cluster "), "{out}");
}
