//! Runs that are kept: a seed, its faults, and what a person sees of it.

use std::fs;
use std::path::PathBuf;

use rollcall_sim::exact::Plan;

fn directory() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/exact/scripts")
}

/// Comments, `seed`, `nodes` and the faults.
fn parse(text: &str) -> Plan {
    let mut plan = Plan { seed: 0, nodes: 3, faults: Vec::new() };
    for line in text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        match line.split_once(' ') {
            Some(("seed", seed)) => plan.seed = seed.parse().expect("a seed is a number"),
            Some(("nodes", nodes)) => plan.nodes = nodes.parse().expect("how many nodes is a number"),
            _ => plan.faults.push(line.parse().unwrap_or_else(|error| panic!("{error}"))),
        }
    }
    plan
}

#[test]
fn p1_to_p9_hold_in_the_scripts_and_nothing_goes_otherwise() {
    let update = std::env::var_os("UPDATE_GOLDEN").is_some();
    let mut faults = Vec::new();
    let scripts = fs::read_dir(directory()).expect("there are scripts").map(|entry| entry.expect("an entry").path());
    for path in scripts {
        let script = fs::read_to_string(&path).expect("a readable script");
        let (plan, expected) =
            script.split_once("---\n").expect("a script has its plan, `---`, and what comes of it");
        let report = parse(plan).run(None);
        assert_eq!(report.broken, None, "{}", path.display());
        let seen = report.trace.join("\n") + "\n";
        if update {
            fs::write(&path, format!("{plan}---\n{seen}")).expect("a writable script");
        } else if seen != expected {
            faults.push(format!("{} goes otherwise:\n{seen}", path.display()));
        }
    }
    assert!(faults.is_empty(), "{}\nif that is meant, write them anew by UPDATE_GOLDEN=1", faults.join("\n"));
}

#[test]
fn a_plan_reads_back_as_it_is_written() {
    for seed in 0..50 {
        let plan = Plan::of_seed(seed);
        assert_eq!(parse(&plan.to_string()), plan);
    }
}
