//! The document and the picture of made-up reports, compared with golden files.

use std::path::Path;

use rollcall_bench::{NodeUsage, Report};
use serde_json::json;

use crate::machine::{Disk, Machine};
use crate::rows::{Row, rows};
use crate::store::{Outcome, Record, Run, Store, Target};
use crate::{document, plot};

fn run(etcd_version: Option<&str>) -> Run {
    let disk = Disk {
        device: "/dev/vda".to_owned(),
        file_system: "ext4".to_owned(),
        fdatasync_us_p50: 180,
        fdatasync_us_p99: 1_400,
    };
    let machine =
        Machine { cpu: "Zuse Z3".to_owned(), cores: 2, memory_bytes: 24 << 30, kernel: "6.1.0".to_owned(), disk };
    Run {
        begun_at: "2026-11-22T10:00:00Z".to_owned(),
        command: "./scripts/bench".to_owned(),
        machine,
        etcd_version: etcd_version.map(str::to_owned),
        quick: false,
    }
}

fn record(step: &str, target: Target, repetition: u32, outcome: Outcome) -> Record {
    Record {
        step: step.to_owned(),
        target,
        repetition,
        part: 1,
        commit: "0123456789ab".to_owned(),
        at: "2026-11-22T10:00:00Z".to_owned(),
        command: format!("{} bench {step}", target.word()),
        outcome,
    }
}

fn report(per_s: f64, cpu_us: f64, p99_us: u64) -> Report {
    let node = |label: &str, growth: u64| NodeUsage {
        label: label.to_owned(),
        pid: 7,
        cpu_s: Some(0.5),
        rss_bytes_begin: Some(50 << 20),
        rss_bytes_end: Some((50 << 20) + growth),
        rss_bytes_peak: Some(60 << 20),
    };
    let report = json!({
        "work": "register", "target": "any", "parameters": {}, "operations": 1_000, "items": 2_000, "errors": 0,
        "error_examples": [], "seconds": 10.0, "operations_per_s": per_s, "items_per_s": per_s * 2.0,
        "latency_us": { "p50": p99_us / 2, "p90": p99_us, "p99": p99_us, "p99_9": p99_us, "max": p99_us, "mean": 1.0 },
        "client_cpu_us_per_operation": 9.5, "server_cpu_us_per_operation": cpu_us, "server_cpu_us_per_item": cpu_us,
        "nodes": [node("n1", 1_200_000), node("n2", 1_000_000)],
        "extra": { "log_bytes_per_item": 3.25, "entries": 0, "lapsed": 2 },
    });
    serde_json::from_value(report).expect("a report")
}

fn good(report: Report) -> Outcome {
    Outcome::Report(Box::new(report))
}

fn records() -> Vec<Record> {
    let mut errors = report(11_000.0, 2.0, 9_000);
    errors.errors = 3;
    vec![
        record("register-64", Target::Rollcall, 1, good(report(13_000.0, 80.0, 9_000))),
        record("register-64", Target::Rollcall, 2, good(report(15_000.4, 95.5, 7_000))),
        record("register-64", Target::Rollcall, 3, good(report(14_000.0, 91.0, 8_000))),
        record("register-64", Target::Etcd, 1, good(report(4_000.0, 400.0, 4_000))),
        record("register-64", Target::Etcd, 2, Outcome::Failure("no leader | none at all\nand more".to_owned())),
        record("heartbeat-batch-100", Target::Rollcall, 1, good(errors)),
        record("checkpoint-rare", Target::Rollcall, 1, good(report(2_000.0, 100.0, 4_000))),
        record("checkpoint-often", Target::Rollcall, 1, good(report(2_000.0, 100.0, 6_000))),
        record("memory", Target::Rollcall, 1, good(report(10_000.0, 100.0, 6_000))),
        record(
            "idle",
            Target::Rollcall,
            1,
            Outcome::Failure("expected within 30s: all nodes have applied".to_owned()),
        ),
    ]
}

fn shown() -> Vec<Row> {
    let steps =
        ["register-64", "heartbeat-batch-100", "memory", "idle", "checkpoint-rare", "checkpoint-often", "hold"];
    rows().into_iter().filter(|row| steps.contains(&row.step.as_str())).collect()
}

fn compare(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/bin/bench-suite/golden").join(name);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, text).expect("a golden file that can be written");
    }
    let golden = std::fs::read_to_string(&path).expect("a golden file; write it by UPDATE_GOLDEN=1");
    assert_eq!(text, golden, "{name} has changed; if that is right, write it anew by UPDATE_GOLDEN=1");
}

#[test]
fn document_shows_medians_goals_ratios_and_failures() {
    let (rows, records) = (shown(), records());
    let measured =
        document::render(&run(Some("3.5.1")), &rows, &records, "$CARGO_TARGET_DIR/bench/x", "benchmarks.svg");
    compare("document.md", &document::replace(document::FRAME, &measured).expect("a frame"));
}

#[test]
fn picture_compares_with_etcd() {
    compare("against-etcd.svg", &plot::render(&shown(), &records()));
}

#[test]
fn picture_without_etcd_compares_with_the_goals() {
    let alone: Vec<Record> = records().into_iter().filter(|record| record.target == Target::Rollcall).collect();
    compare("against-goals.svg", &plot::render(&shown(), &alone));
}

#[test]
fn only_what_stands_between_the_marks_is_replaced() {
    let document = "# By hand\n<!-- measured:begin -->\nold\n<!-- measured:end -->\n## Also by hand\n";
    let replaced = document::replace(document, "new\n").expect("marks");
    assert_eq!(replaced, document.replace("old", "new"));
    for faulty in [
        "no marks",
        "<!-- measured:end --> <!-- measured:begin -->",
        "<!-- measured:begin -->",
        "<!-- measured:begin --><!-- measured:end --><!-- measured:end -->",
    ] {
        assert!(document::replace(faulty, "new\n").is_err(), "{faulty}");
    }
}

#[test]
fn records_are_kept_and_a_step_can_be_forgotten() {
    let directory = tempfile::tempdir().expect("a directory");
    let store = Store::open(directory.path()).expect("a store");
    store.save_run(&run(None)).expect("a run that is kept");
    for record in records() {
        store.save(&record).expect("a record that is kept");
    }
    assert_eq!(store.run().expect("a run"), run(None));
    let mut kept = store.records().expect("records");
    assert_eq!(kept.len(), records().len());
    store.forget("register-64").expect("a step to forget");
    kept.retain(|record| record.step != "register-64");
    assert_eq!(store.records().expect("records"), kept);
}

#[test]
fn every_row_is_measured_by_a_step_and_every_step_shown_by_a_row() {
    let scenarios = crate::plan::scenarios(&crate::plan::Scale::quick());
    let steps: Vec<&str> = scenarios.iter().flat_map(|s| &s.steps).map(|step| step.key.as_str()).collect();
    let rows = rows();
    for row in &rows {
        assert!(steps.contains(&row.step.as_str()), "nothing measures {}", row.step);
        let scenario = scenarios.iter().find(|scenario| scenario.is_named(std::slice::from_ref(&row.step)));
        assert_eq!(scenario.map(|scenario| scenario.long), Some(row.long), "{}", row.title);
    }
    for step in steps {
        assert!(rows.iter().any(|row| row.step == step), "nothing shows {step}");
    }
}
