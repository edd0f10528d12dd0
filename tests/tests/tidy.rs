//! The architecture's absences and the house rules, over the manifests and the sources. What the compiler and clippy
//! already refuse is not repeated here.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Who may depend on whom. Every arrow points down.
const ARROWS: &[(&str, &[&str])] = &[
    ("rollcall-registry", &[]),
    ("rollcall-storage", &["rollcall-registry"]),
    ("rollcall-replica", &["rollcall-registry", "rollcall-storage"]),
    ("rollcall-api", &[]),
    ("rollcall-signature", &[]),
    ("rollcall-server", &["rollcall-api", "rollcall-registry", "rollcall-replica", "rollcall-signature"]),
    ("rollcall-client", &["rollcall-api", "rollcall-signature"]),
    ("rollcall-bench", &["rollcall-api"]),
    ("rollcall-sim", &["rollcall-registry", "rollcall-replica"]),
    ("rollcall-cli", &["rollcall-api", "rollcall-bench", "rollcall-client", "rollcall-server", "rollcall-signature"]),
    ("rollcall-tests", &["rollcall-bench", "rollcall-sim"]),
];

/// Small data structures and codings: nothing that could do I/O, read a clock or start a task.
const REGISTRY_DEPENDENCIES: &[&str] =
    &["arcstr", "hashbrown", "roaring", "semver", "serde", "smallvec", "subtle", "thiserror", "xxhash-rust"];

/// A library and the only crates that may name it.
const OWNED: &[(&str, &[&str])] = &[
    ("rocksdb", &["rollcall-storage"]),
    ("openraft", &["rollcall-storage", "rollcall-replica"]),
    ("axum", &["rollcall-server"]),
    ("tonic", &["rollcall-tests"]),
    ("prometheus-client", &["rollcall-server"]),
    ("opentelemetry", &["rollcall-server"]),
    ("opentelemetry_sdk", &["rollcall-server"]),
];

const FILE_LINES_MAX: usize = 600;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the package lies in the workspace").to_owned()
}

struct Package {
    name: String,
    manifest: PathBuf,
    /// Without those for tests alone.
    dependencies: BTreeSet<String>,
}

fn packages() -> Vec<Package> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = std::process::Command::new(cargo)
        .args(["metadata", "--no-deps", "--offline", "--format-version", "1"])
        .current_dir(root())
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).expect("cargo metadata is JSON");
    let text = |value: &serde_json::Value| value.as_str().expect("a text").to_owned();
    let package = |package: &serde_json::Value| Package {
        name: text(&package["name"]),
        manifest: text(&package["manifest_path"]).into(),
        dependencies: package["dependencies"]
            .as_array()
            .expect("a list of dependencies")
            .iter()
            .filter(|dependency| dependency["kind"] != "dev")
            .map(|dependency| text(&dependency["name"]))
            .collect(),
    };
    metadata["packages"].as_array().expect("a list of packages").iter().map(package).collect()
}

/// All sources below a directory of the workspace, with their path from its root.
fn sources(directory: &str) -> BTreeMap<String, String> {
    let (root, mut found, mut open) = (root(), BTreeMap::new(), vec![root().join(directory)]);
    while let Some(path) = open.pop() {
        if path.is_dir() {
            open.extend(fs::read_dir(&path).expect("a readable directory").map(|e| e.expect("an entry").path()));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let name = path.strip_prefix(&root).expect("below the root").display().to_string();
            found.insert(name, fs::read_to_string(&path).expect("readable sources"));
        }
    }
    found
}

fn all_sources() -> BTreeMap<String, String> {
    let mut all = sources("crates");
    all.extend(sources("tests"));
    all
}

fn is_test(path: &str) -> bool {
    path.starts_with("tests/") || path.contains("/tests/") || path.ends_with("/tests.rs")
}

/// What is compiled outside tests: the test module stands at the end of its file.
fn without_tests(source: &str) -> &str {
    source.split("#[cfg(test)]").next().unwrap_or(source)
}

fn names_word(source: &str, word: &str) -> bool {
    let boundary = |c: Option<char>| c.is_none_or(|c| !c.is_alphanumeric() && c != '_');
    source.match_indices(word).any(|(at, _)| {
        boundary(source[..at].chars().next_back()) && boundary(source[at + word.len()..].chars().next())
    })
}

fn none(faults: Vec<String>) {
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

#[test]
fn every_arrow_points_down() {
    let packages = packages();
    let mut faults = Vec::new();
    for package in &packages {
        let Some((_, allowed)) = ARROWS.iter().find(|(name, _)| *name == package.name) else {
            faults.push(format!("{} has no place in the plan", package.name));
            continue;
        };
        let inner = package.dependencies.iter().filter(|name| name.starts_with("rollcall-"));
        for name in inner.filter(|name| !allowed.contains(&name.as_str())) {
            faults.push(format!("{} must not depend on {name}", package.name));
        }
    }
    assert_eq!(packages.len(), ARROWS.len(), "a crate of the plan is missing");
    none(faults);
}

#[test]
fn the_state_machine_depends_on_small_pure_crates_only() {
    let packages = packages();
    let registry = packages.iter().find(|package| package.name == "rollcall-registry").expect("it is there");
    let extra: Vec<_> =
        registry.dependencies.iter().filter(|name| !REGISTRY_DEPENDENCIES.contains(&name.as_str())).collect();
    assert!(extra.is_empty(), "the registry depends on {extra:?}");
}

#[test]
fn the_state_machine_names_no_clock_and_no_unordered_map() {
    let mut faults = Vec::new();
    for (path, source) in sources("crates/registry/src") {
        for word in ["HashMap", "HashSet", "Instant", "SystemTime"] {
            if names_word(&source, word) {
                faults.push(format!("{path} names {word}"));
            }
        }
    }
    none(faults);
}

#[test]
fn each_library_has_its_owner() {
    let mut faults = Vec::new();
    for package in packages() {
        for (library, owners) in OWNED {
            if !owners.contains(&package.name.as_str())
                && package.dependencies.iter().any(|name| name == library || name.starts_with(&format!("{library}-")))
            {
                faults.push(format!("{} must not depend on {library}", package.name));
            }
        }
    }
    none(faults);
}

/// The commands that talk to a cluster know the server only by its contract.
#[test]
fn client_commands_do_not_reach_the_server() {
    let local = ["serve", "supervisor", "dev", "config", "offline", "tls", "token_reset"];
    let mut faults = Vec::new();
    for (path, source) in sources("crates/cli/src") {
        let stem = Path::new(&path).file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
        let wires = ["main", "args", "lib", "mod", "failure", "logging"].contains(&stem);
        if names_word(&source, "rollcall_server") && !local.contains(&stem) && !wires {
            faults.push(format!("{path} names the server"));
        }
        if names_word(&source, "rollcall_registry") {
            faults.push(format!("{path} names the registry"));
        }
    }
    none(faults);
}

#[test]
fn every_crate_inherits_the_lints() {
    let mut faults = Vec::new();
    for package in packages() {
        let manifest = fs::read_to_string(&package.manifest).expect("a readable manifest");
        let manifest: toml::Table = manifest.parse().expect("a manifest is TOML");
        let inherits = manifest.get("lints").and_then(|lints| lints.get("workspace")).and_then(toml::Value::as_bool);
        if inherits != Some(true) {
            faults.push(format!("{} does not inherit the workspace's lints", package.name));
        }
    }
    none(faults);
}

#[test]
fn no_file_needs_a_long_scroll() {
    let long = |(path, source): (String, String)| {
        let lines = source.lines().count();
        (lines > FILE_LINES_MAX).then(|| format!("{path} has {lines} lines, at most {FILE_LINES_MAX} are allowed"))
    };
    none(all_sources().into_iter().filter_map(long).collect());
}

#[test]
fn nothing_unwraps_outside_tests() {
    let unwraps = |(path, source): &(String, String)| !is_test(path) && without_tests(source).contains(".unwrap()");
    none(sources("crates").into_iter().filter(unwraps).map(|(path, _)| format!("{path} unwraps")).collect());
}

#[test]
fn every_crate_opens_with_its_map() {
    let mut faults = Vec::new();
    for package in packages() {
        let directory = package.manifest.parent().expect("a manifest lies in a directory");
        let entry = ["src/lib.rs", "src/main.rs"].map(|name| directory.join(name));
        let entry = entry.iter().find(|path| path.exists()).expect("a crate has sources");
        let source = fs::read_to_string(entry).expect("readable sources");
        if source.lines().take_while(|line| line.starts_with("//!")).count() < 3 {
            faults.push(format!("{} does not say what the crate is", entry.display()));
        }
    }
    none(faults);
}

/// A test that sleeps is slow when it works and wrong when the machine is. Tests wait for a condition instead, and only
/// the loop that does so sleeps, a function called `until` or `wait_until`.
#[test]
fn tests_wait_for_conditions_only() {
    let mut faults = Vec::new();
    for (path, source) in all_sources().iter().filter(|(path, _)| !path.ends_with("tidy.rs")) {
        let tested = if is_test(path) { source.as_str() } else { &source[without_tests(source).len()..] };
        let mut function = "";
        for line in tested.lines() {
            if let Some((_, rest)) = line.split_once("fn ") {
                function = rest.split(['(', '<']).next().unwrap_or_default();
            }
            let sleeps = ["thread::sleep", "time::sleep", " sleep("].iter().any(|call| line.contains(call));
            if sleeps && !["until", "wait_until"].contains(&function) && !line.trim_start().starts_with("use ") {
                faults.push(format!("{path}: {function} sleeps"));
            }
        }
    }
    none(faults);
}
