//! The comparison suite at its smallest: that it measures, keeps the raw reports and writes the document.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use rollcall_tests::etcd::etcd_binary;
use serde_json::Value;
use tempfile::TempDir;

fn suite(output: &TempDir, arguments: &[&str], configure: impl FnOnce(&mut Command)) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bench-suite"));
    command.arg("--quick").args(arguments).arg("--output").arg(output.path());
    command.arg("--data").arg(output.path().join("data"));
    configure(&mut command);
    command.output().expect("the suite starts")
}

fn directory() -> TempDir {
    tempfile::Builder::new().prefix("rollcall-bench-").tempdir().expect("a temporary directory")
}

fn text(output: &TempDir, name: &str) -> String {
    fs::read_to_string(output.path().join(name)).expect("a file of the suite")
}

/// The cells of the row with this title.
fn row(document: &str, title: &str) -> Vec<String> {
    let line = document.lines().find(|line| line.starts_with(&format!("| {title} |")));
    let line = line.unwrap_or_else(|| panic!("no row {title}:\n{document}"));
    line.split('|').map(|cell| cell.trim().to_owned()).collect()
}

fn succeeded(output: &Output) {
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{out}\n{err}");
}

#[test]
fn rows_are_measured_and_written_down() {
    let output = directory();
    succeeded(&suite(&output, &["--without-etcd", "--only", "heartbeat,restart,idle,watch-idle"], |_| ()));
    let document = text(&output, "BENCHMARKS.md");
    assert!(row(&document, "heartbeat, 64 sessions")[2].ends_with("/s"), "{document}");
    assert!(row(&document, "log at a node for each single renewal")[2].ends_with(" B"), "{document}");
    assert!(row(&document, "restart of a killed node with 200,000 to its first whole answer")[2].ends_with(" ms"));
    assert!(row(&document, "memory of a node for each idle watcher")[2].ends_with(" B"), "{document}");
    assert_eq!(row(&document, "register, 64 sessions")[2], "not measured");
    assert!(text(&output, "benchmarks.svg").ends_with("</svg>\n"));
    let raw: Value = serde_json::from_str(&text(&output, "heartbeat-64.rollcall.1.1.json")).expect("JSON");
    assert_eq!(raw["outcome"]["report"]["errors"], 0, "{raw}");
    assert!(raw["outcome"]["report"]["nodes"].as_array().is_some_and(|nodes| nodes.len() == 3), "{raw}");
    assert_eq!(left_over(&output.path().join("data")), 0, "clusters leave their data behind");
}

/// What tokens and TLS cost is measured in one run, and shown against the same load without them.
#[test]
fn clusters_with_tokens_and_tls_are_measured_beside_one_without() {
    let output = directory();
    let only = "heartbeat-plain,heartbeat-tokens,heartbeat-tls-tokens";
    succeeded(&suite(&output, &["--without-etcd", "--only", only], |_| ()));
    let document = text(&output, "BENCHMARKS.md");
    for with in ["tokens", "tokens and TLS at all ports"] {
        assert!(row(&document, &format!("… with {with}"))[2].ends_with("/s"), "{document}");
    }
    let ratios = document.lines().filter(|line| line.starts_with("| … against without |"));
    assert_eq!(ratios.filter(|line| line.contains("× | one run")).count(), 4, "{document}");
    for step in only.split(',') {
        let raw: Value = serde_json::from_str(&text(&output, &format!("{step}.rollcall.1.1.json"))).expect("JSON");
        let report = &raw["outcome"]["report"];
        assert_eq!(report["errors"], 0, "{raw}");
        assert!(report["operations"].as_u64().is_some_and(|operations| operations > 0), "{raw}");
        assert!(!raw.to_string().contains("rctoken-"), "a token is written down: {raw}");
    }
}

fn left_over(data: &Path) -> usize {
    fs::read_dir(data).expect("a data directory").count()
}

/// Where there is no etcd there is nothing to see.
#[test]
fn etcd_stands_beside_if_it_is_installed() {
    if etcd_binary().is_none() {
        return;
    }
    let output = directory();
    succeeded(&suite(&output, &["--only", "register-64,failover-kill,watch,watch-expiry"], |_| ()));
    let document = text(&output, "BENCHMARKS.md");
    let titles = [
        "register, 64 sessions",
        "writes stand still at kill -9 of the leader",
        "change seen by one watcher at a follower, p50",
        "change seen by the last of 1,000 watchers of one node, p50",
        "expiry of 1,000 at once told to a watcher after the deadline, p99",
    ];
    for title in titles {
        let cells = row(&document, title);
        assert!(!cells[2].contains("failed") && !cells[6].is_empty() && cells[8].ends_with('×'), "{cells:?}");
    }
    assert!(text(&output, "benchmarks.svg").contains("Rollcall against etcd"));
}

#[test]
fn what_failed_is_shown_as_failed() {
    let output = directory();
    let missing = |command: &mut Command| {
        command.env("ROLLCALL_BIN", "/nowhere/rollcall");
    };
    let outcome = suite(&output, &["--without-etcd", "--only", "start-empty"], missing);
    assert_eq!(outcome.status.code(), Some(1));
    let document = text(&output, "BENCHMARKS.md");
    let cell = &row(&document, "start of a node without data")[2];
    assert!(cell.starts_with("failed: /nowhere/rollcall is missing"), "{cell}");

    let outcome = suite(&output, &["--only", "no-such-row"], |_| ());
    assert!(String::from_utf8_lossy(&outcome.stderr).contains("no-such-row"));
    assert_eq!(outcome.status.code(), Some(1));
}
