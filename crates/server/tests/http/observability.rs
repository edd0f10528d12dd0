//! What an operator sees: metrics, the alerts and the dashboard made of them, warnings, slow requests.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};

use futures_util::future::join_all;
use reqwest::Method;
use rollcall_server::Settings;
use serde_json::{Value, json};

use crate::node::{Node, answer};
use crate::tls::secured_among_peers;

/// What of a node's metrics a scrape brings.
#[derive(Debug, Default)]
struct Scrape {
    types: BTreeMap<String, String>,
    helps: BTreeMap<String, String>,
    units: BTreeMap<String, String>,
    /// By name and labels.
    samples: BTreeMap<String, f64>,
}

impl Scrape {
    async fn of(node: &Node) -> Self {
        let answer = node.get("/metrics").await;
        assert_eq!(answer.status, 200);
        let text = answer.body.as_str().expect("metrics are text");
        assert!(text.ends_with("# EOF\n"), "{text}");
        let mut scrape = Self::default();
        for line in text.lines().filter(|line| *line != "# EOF") {
            match line.strip_prefix("# ").and_then(|line| line.split_once(' ')) {
                Some((word, rest)) => {
                    let (name, rest) = rest.split_once(' ').expect("a name and what is said of it");
                    let said = match word {
                        "HELP" => &mut scrape.helps,
                        "TYPE" => &mut scrape.types,
                        "UNIT" => &mut scrape.units,
                        word => panic!("{word} in {line}"),
                    };
                    assert_eq!(said.insert(name.to_owned(), rest.to_owned()), None, "{line} comes twice");
                }
                None => {
                    let (series, value) = line.rsplit_once(' ').expect("a series and its value");
                    let before = scrape.samples.insert(series.to_owned(), value.parse().expect("a number"));
                    assert_eq!(before, None, "{series} comes twice");
                }
            }
        }
        scrape
    }

    /// Every name that a query may use.
    fn names(&self) -> BTreeSet<String> {
        let of_type = |(name, kind): (&String, &String)| -> Vec<String> {
            match kind.as_str() {
                "counter" => vec![format!("{name}_total")],
                "histogram" => ["bucket", "sum", "count"].map(|part| format!("{name}_{part}")).to_vec(),
                _ => vec![name.clone()],
            }
        };
        self.types.iter().flat_map(of_type).collect()
    }

    fn value(&self, series: &str) -> f64 {
        self.samples.get(series).copied().unwrap_or(0.0)
    }
}

fn name_of(series: &str) -> &str {
    series.split_once('{').map_or(series, |(name, _)| name)
}

fn observability() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../cluster/observability")
}

fn read(name: &str) -> String {
    std::fs::read_to_string(observability().join(name)).expect("a file of the repository")
}

#[tokio::test]
async fn metrics_are_named_as_the_trade_names_them() {
    let node = Node::start().await;
    node.register(json!({"id": "a", "name": "n", "url": "http://a"})).await;
    node.get("/api/services/none").await;
    let scrape = Scrape::of(&node).await;
    let names = scrape.names();
    assert!(names.len() > 50, "{names:?}");
    for (name, kind) in &scrape.types {
        assert!(name.starts_with("rollcall_") || name.starts_with("process_"), "{name}");
        assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{name}");
        let help = scrape.helps.get(name).unwrap_or_else(|| panic!("{name} has no help"));
        assert!(help.ends_with('.') && !help.ends_with(".."), "{name}: {help}");
        assert!(["counter", "gauge", "histogram"].contains(&kind.as_str()), "{name} is a {kind}");
        assert!(!name.ends_with("_total"), "{name}: the sample bears the ending");
        for unit in ["ms", "milliseconds", "minutes", "kib", "mib", "percent"] {
            assert!(!name.split('_').any(|word| word == unit), "{name} is not in a base unit");
        }
        for unit in ["seconds", "bytes", "ratio"] {
            let ends = name.ends_with(&format!("_{unit}"));
            assert_eq!(ends, scrape.units.get(name).is_some_and(|said| said == unit), "{name}");
        }
        if name.contains("duration") {
            assert!(name.ends_with("_duration_seconds"), "{name}");
        }
    }
    for series in scrape.samples.keys() {
        assert!(names.contains(name_of(series)) && !series.contains("{}"), "{series}");
        // What tells nodes apart is whoever scrapes to say.
        for label in ["instance=", "node=", "tenant=", "id="] {
            assert!(!series.contains(&format!("{{{label}")) && !series.contains(&format!(",{label}")), "{series}");
        }
    }
    let build = scrape.samples.keys().find(|series| series.starts_with("rollcall_build_info{version="));
    assert_eq!(build.map(|series| scrape.value(series)), Some(1.0));
    assert!(scrape.samples.len() < 1_000, "{} series", scrape.samples.len());
}

#[tokio::test]
async fn what_happens_is_counted() {
    let node = Node::start().await;
    let before = Scrape::of(&node).await;
    let brief = json!({"id": "brief", "name": "n", "url": "http://a", "ttl_ms": 1_000});
    assert_eq!(node.register(brief.clone()).await.status, 201);
    assert_eq!(node.register(json!({"id": "kept", "name": "n", "url": "http://a"})).await.status, 201);
    assert_eq!(node.register(json!({"id": "kept", "name": "n", "url": "http://b"})).await.status, 200);
    assert_eq!(node.post("/api/services/kept/heartbeat", &json!({})).await.status, 200);
    assert_eq!(node.post("/api/services/none/heartbeat", &json!({})).await.code(), "lease_not_found");
    node.until("the brief one is struck off", async || node.get("/api/services/brief").await.status == 404).await;
    assert_eq!(node.delete("/api/services/kept").await.status, 200);
    let after = Scrape::of(&node).await;
    let grown = |series: &str| after.value(series) - before.value(series);
    for (series, by) in [
        ("rollcall_registrations_total{result=\"created\"}", 2.0),
        ("rollcall_registrations_total{result=\"replaced\"}", 1.0),
        ("rollcall_renewals_total", 1.0),
        ("rollcall_renewal_margin_ratio_count", 1.0),
        ("rollcall_renewal_margin_ratio_bucket{le=\"0.9\"}", 0.0),
        ("rollcall_renewal_margin_ratio_bucket{le=\"1.0\"}", 1.0),
        ("rollcall_expiries_total", 1.0),
        ("rollcall_deregistrations_total", 1.0),
        ("rollcall_refusals_total{code=\"lease_not_found\"}", 1.0),
        ("rollcall_http_requests_total{route=\"/api/services/register\",method=\"POST\",status=\"2xx\"}", 3.0),
        ("rollcall_http_requests_total{route=\"/api/services/{id}/heartbeat\",method=\"POST\",status=\"4xx\"}", 1.0),
        ("rollcall_http_request_duration_seconds_count{route=\"/api/services/{id}\",method=\"DELETE\"}", 1.0),
    ] {
        assert_eq!(grown(series), by, "{series}");
    }
    for series in [
        "rollcall_log_flush_duration_seconds_count",
        "rollcall_log_flush_duration_seconds_sum",
        "rollcall_commit_duration_seconds_count",
        "rollcall_apply_duration_seconds_count",
        "rollcall_entry_commands_count",
        "rollcall_raft_applied_index",
        "rollcall_cluster_time_seconds",
        "process_cpu_seconds_total",
    ] {
        assert!(grown(series) > 0.0, "{series}");
    }
    for (series, value) in [
        ("rollcall_raft_is_leader", 1.0),
        ("rollcall_raft_leader_known", 1.0),
        ("rollcall_caught_up", 1.0),
        ("rollcall_leader_changes_total", 1.0),
        ("rollcall_raft_members{role=\"voter\"}", 1.0),
        ("rollcall_instances", 0.0),
        // The scrape itself.
        ("rollcall_http_requests_in_work", 1.0),
    ] {
        assert_eq!(after.value(series), value, "{series}");
    }
    for series in ["rollcall_client_connections", "process_open_fds", "rollcall_data_bytes{store=\"log\"}"] {
        assert!(after.value(series) > 0.0, "{series}");
    }
}

#[tokio::test]
async fn the_leader_knows_how_far_its_peers_are() {
    let first = Node::start().await;
    let second = Node::join(&first).await;
    let answers = "rollcall_raft_peer_answers{peer=";
    let scraped = async |node: &Node| Scrape::of(node).await.samples;
    first
        .until("the second is a voter that answers", async || {
            scraped(&first).await.iter().any(|(series, value)| {
                series.starts_with(answers) && series.contains("role=\"voter\"") && *value == 1.0
            })
        })
        .await;
    let at_leader = scraped(&first).await;
    assert!(at_leader.keys().any(|series| series.starts_with("rollcall_raft_peer_lag_entries{peer=")));
    assert!(!scraped(&second).await.keys().any(|series| series.contains("peer=")), "it does not lead");
    assert!(at_leader["rollcall_peer_connections"] > 0.0);
    second.register(json!({"id": "a", "name": "n", "url": "http://a"})).await;
    assert!(scraped(&second).await["rollcall_forward_duration_seconds_count"] >= 1.0);
    first
        .until("the clocks were compared", async || {
            scraped(&first).await["rollcall_clock_offset_seconds"].abs() < 1.0
        })
        .await;
}

/// Names in a text that look like this program's metrics.
fn metrics_in(text: &str) -> BTreeSet<String> {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let words = text.split(|c| !word(c)).filter(|name| name.starts_with("rollcall_") || name.starts_with("process_"));
    words.map(str::to_owned).collect()
}

#[tokio::test]
async fn every_metric_of_the_alerts_and_the_dashboard_is_there() {
    let (node, _certificates) = secured_among_peers().await;
    node.get("/api/services/none").await;
    let there = Scrape::of(&node).await.names();
    let dashboard: Value = serde_json::from_str(&read("dashboard.json")).unwrap();
    let mut queries = String::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        for target in panel["targets"].as_array().into_iter().flatten() {
            queries.push_str(target["expr"].as_str().unwrap());
            queries.push('\n');
        }
    }
    for (file, text) in [("alerts.yml", read("alerts.yml")), ("dashboard.json", queries)] {
        let used = metrics_in(&text);
        assert!(used.len() > 10, "{file} uses {used:?}");
        let missing: Vec<_> = used.difference(&there).collect();
        assert!(missing.is_empty(), "{file} uses {missing:?}, which no node has");
    }
    let documented = metrics_in(&std::fs::read_to_string(observability().join("../../docs/OPERATIONS.md")).unwrap());
    let unsaid: Vec<_> = Scrape::of(&node)
        .await
        .types
        .into_iter()
        .map(|(name, kind)| if kind == "counter" { format!("{name}_total") } else { name })
        .filter(|name| !documented.contains(name))
        .collect();
    assert!(unsaid.is_empty(), "docs/OPERATIONS.md says nothing of {unsaid:?}");
}

#[test]
fn every_alert_says_what_to_do() {
    let (alerts, operations) =
        (read("alerts.yml"), std::fs::read_to_string(observability().join("../../docs/OPERATIONS.md")).unwrap());
    let mut lines = alerts.lines().map(str::trim);
    let mut count = 0;
    while let Some(line) = lines.next() {
        let Some(name) = line.strip_prefix("- alert: ") else { continue };
        count += 1;
        assert!(operations.lines().any(|line| line == format!("#### {name}")), "no section about {name}");
        let runbook = lines.find(|line| line.starts_with("runbook:")).expect("a runbook for each");
        assert_eq!(runbook, format!("runbook: docs/OPERATIONS.md#{}", name.to_lowercase()));
    }
    assert!(count > 10);
}

/// By Prometheus' own tool, where that is installed; scripts/test fetches it where it can.
#[test]
#[expect(clippy::print_stderr, reason = "a check that was not made is said")]
fn prometheus_takes_the_rules() {
    for arguments in [["check", "config", "prometheus.yml"], ["test", "rules", "alerts.test.yml"]] {
        match Command::new("promtool").args(arguments).current_dir(observability()).output() {
            Ok(output) => {
                let said = [output.stdout, output.stderr].concat();
                assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&said));
            }
            Err(error) => eprintln!("skipped, because promtool does not run: {error}"),
        }
    }
}

#[tokio::test]
async fn readiness_tells_of_what_hurts_and_is_ready() {
    let node = Node::start().await;
    let known = ["disk_space", "clock_offset", "slow_flush", "filesystem", "open_files"];
    let verbose = node.get("/readyz?verbose").await;
    assert_eq!(verbose.status, 200);
    for warning in verbose.body["warnings"].as_array().into_iter().flatten() {
        assert!(known.contains(&warning["name"].as_str().unwrap()) && warning["detail"].is_string(), "{warning}");
    }
    assert!(node.get("/readyz").await.body["warnings"].is_null());

    // Memory that is mounted is there on every Linux, and forgets.
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let node = Node::start_in(dir.path()).await;
    node.until("it says that it is in memory", async || {
        let warnings = node.get("/readyz?verbose").await.body["warnings"].clone();
        warnings.as_array().into_iter().flatten().any(|warning| warning["name"] == "filesystem")
    })
    .await;
    node.stop().await.unwrap();
}

/// What was logged.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("nobody panicked").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Lines {
    /// The slow requests.
    fn slow(&self) -> Vec<Value> {
        let text = String::from_utf8(self.0.lock().expect("nobody panicked").clone()).expect("logs are text");
        let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).expect("a line of JSON"));
        lines.map(|line| line["fields"].clone()).filter(|fields| fields["message"] == "a slow request").collect()
    }
}

#[tokio::test]
async fn slow_requests_are_told_of_with_where_the_time_went() {
    let lines = Lines::default();
    let writer = lines.clone();
    tracing_subscriber::fmt().json().with_writer(move || writer.clone()).init();
    let node = Node::start_as(Settings { slow_ms: Some(50), ..Node::founder() }).await;
    let request = node.request(Method::GET, "/api/services?min_revision=1000000");
    let request = request.header("X-Request-Timeout-Ms", "100").header("X-Request-ID", "r-1");
    assert_eq!(answer(request.header("X-Tenant-ID", "t")).await.code(), "revision_not_reached");
    let slow = lines.slow();
    let [read] = slow.as_slice() else { panic!("{slow:?}") };
    assert_eq!((&read["id"], &read["route"], &read["tenant"]), (&json!("r-1"), &json!("/api/services"), &json!("t")));
    assert_eq!(read["status"], 504);
    assert!(read["ms"].as_u64().unwrap() >= 100 && read["queue_ms"].is_null(), "{read}");
    // What waits because it was asked to is not slow.
    let poll = "/api/services?after_revision=0&wait_ms=100";
    assert_eq!(node.get(poll).await.status, 200);
    assert_eq!(lines.slow().len(), 1);
    node.stop().await.unwrap();

    let node = Node::start_as(Settings { slow_ms: Some(1), ..Node::founder() }).await;
    let write = async |n: usize| node.register(json!({"id": format!("i-{n}"), "name": "n", "url": "http://a"})).await;
    // Together they take the disk some time.
    node.until("a write is told of", async || {
        join_all((0..200).map(&write)).await;
        lines.slow().iter().any(|line| line["method"] == "POST")
    })
    .await;
    let slow = lines.slow();
    let write = slow.iter().find(|line| line["method"] == "POST").unwrap();
    let ms = |phase: &str| write[phase].as_u64().unwrap_or_else(|| panic!("{phase} in {write}"));
    assert!(ms("queue_ms") + ms("commit_ms") + ms("apply_ms") <= ms("ms"), "{write}");
    assert!(ms("batch") > 0);
}
