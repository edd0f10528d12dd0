//! The manifests as their own schemas see them, with the tools that `scripts/test` installs.

use std::path::PathBuf;
use std::process::Command;

use rollcall_tests::{skip, workspace};

/// The oldest Kubernetes that is maintained somewhere, and one of today.
const KUBERNETES_VERSIONS: [&str; 2] = ["1.30", "1.37"];

const MANIFEST: &str = "cluster/kubernetes/rollcall.yaml";

/// A program of the environment that `scripts/lib.sh` makes, if it is there.
fn lint(name: &str) -> Option<Command> {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let home = std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
    let path = cache.or(home)?.join("rollcall/lints/bin").join(name);
    let mut command = Command::new(&path);
    command.current_dir(workspace());
    path.is_file().then_some(command)
}

fn accepts(mut command: Command) {
    let output = command.output().expect("the program starts");
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}:\n{out}{err}");
}

#[test]
fn manifests_are_tidy() {
    let Some(mut yamllint) = lint("yamllint") else { return skip("yamllint", "scripts/test could not install it") };
    yamllint.args(["--strict", "-c", "cluster/yamllint.yaml", "cluster", "docker-compose.yml"]);
    accepts(yamllint);
}

#[test]
fn kubernetes_schemas_accept_the_manifest() {
    for version in KUBERNETES_VERSIONS {
        let Some(mut validate) = lint("kubernetes-validate") else {
            return skip("kubernetes-validate", "scripts/test could not install it");
        };
        validate.args(["--strict", "--kubernetes-version", version, MANIFEST]);
        accepts(validate);
    }
}
