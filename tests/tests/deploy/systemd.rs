//! `cluster/systemd`: what systemd itself says of the unit. That a node tells systemd how it is, is tested with the
//! program.

use std::fs;
use std::path::Path;
use std::process::Command;

use rollcall_tests::{built, skip, workspace};

/// What `systemd-analyze security` may find, in tenths: 10 is "OK", 100 is a service with the run of the machine.
const EXPOSURE_MAX: &str = "20";

fn analyze(arguments: &[&str], unit: &Path) {
    let output = Command::new("systemd-analyze").args(arguments).arg(unit).output().expect("systemd-analyze starts");
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "systemd-analyze {arguments:?}:\n{out}{err}");
    assert!(!err.contains("rollcall.service"), "systemd-analyze {arguments:?} complains:\n{err}");
}

#[test]
fn systemd_accepts_the_unit_and_finds_it_confined() {
    if !Command::new("systemd-analyze").arg("--version").output().is_ok_and(|output| output.status.success()) {
        skip("the check of the unit", "there is no systemd-analyze");
        return;
    }
    let directory = tempfile::Builder::new().prefix("rollcall-").tempdir().expect("a temporary directory");
    let unit = directory.path().join("rollcall.service");
    let text = fs::read_to_string(workspace().join("cluster/systemd/rollcall.service")).expect("the unit");
    assert!(text.contains("\nType=notify\n"), "{text}");
    // It is checked that what the unit starts is there.
    let program = built("rollcall", "rollcall-cli", "ROLLCALL_BIN");
    let installed = text.replace("/usr/local/bin/rollcall", program.to_str().expect("a path"));
    fs::write(&unit, installed).expect("a file");
    analyze(&["verify", "--man=no"], &unit);
    analyze(&["security", "--offline=true", "--no-pager", "--threshold", EXPOSURE_MAX], &unit);
}
