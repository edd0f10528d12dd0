//! Containers, networks and volumes that end with the test that made them.

use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::process::built;

/// What `cluster/Dockerfile` stands on unless `$ROLLCALL_BASE` names another.
const BASE: &str = "debian:bookworm-slim";

/// Everything made for the project `$1` bears its label, or its name. `docker compose` gives the same label.
const REMOVE: &str = r#"
    exec >/dev/null 2>&1
    cat
    mine="label=com.docker.compose.project=$1"
    docker ps -aq --filter "$mine" | xargs -r docker rm -f -v
    docker network ls -q --filter "$mine" | xargs -r docker network rm
    docker volume ls -q --filter "$mine" | xargs -r docker volume rm
    docker image rm "$1"
"#;

/// What one test has in the Docker engine, under a name of its own, and an image of the built program.
#[derive(Debug)]
pub struct Docker {
    name: String,
    compose: Vec<&'static str>,
    /// Removes everything when the pipe to it ends, which it does even when the test is killed: when nobody holds it any
    /// more, neither the test nor a command that it started.
    remover: Child,
}

impl Docker {
    /// Builds the image. None where there is no engine, or not the image to build on: then there is nothing to see.
    ///
    /// # Panics
    /// When the image cannot be built.
    pub fn start(test: &str) -> Option<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let Some(compose) = find_compose() else {
            skip(test, "there is no Docker engine with Compose");
            return None;
        };
        let base = std::env::var("ROLLCALL_BASE").unwrap_or_else(|_| BASE.to_owned());
        if !succeeds(&["docker", "image", "inspect", &base]) {
            skip(test, &format!("the image {base} is not there; cluster/base-image gets it"));
            return None;
        }
        let name = format!("rollcall-{test}-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let mut remover = Command::new("sh");
        remover.args(["-c", REMOVE, "sh", &name]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        // What ends the test's process group must not end this.
        let remover = remover.process_group(0).spawn().expect("a shell starts");
        let docker = Self { name, compose, remover };
        let mut image = Command::new(workspace().join("scripts/image"));
        image.env("ROLLCALL_BIN", built("rollcall", "rollcall-cli", "ROLLCALL_BIN"));
        docker.expect(image.env("ROLLCALL_IMAGE", docker.image()));
        Some(docker)
    }

    /// Also the name of the Compose project.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The name that `docker image rm` gets.
    pub fn image(&self) -> &str {
        &self.name
    }

    /// The label by which everything is removed that bears it.
    pub fn label(&self) -> String {
        format!("com.docker.compose.project={}", self.name)
    }

    /// Runs `docker` and answers what it printed.
    ///
    /// # Panics
    /// When it fails.
    pub fn docker(&self, arguments: &[&str]) -> String {
        self.expect(Command::new("docker").args(arguments))
    }

    /// Runs `docker`, whatever comes of it.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn try_docker(&self, arguments: &[&str]) -> Output {
        self.run(Command::new("docker").args(arguments))
    }

    /// Runs `docker compose` on the workspace's file, with these variables.
    ///
    /// # Panics
    /// When it fails.
    pub fn compose(&self, variables: &[(&str, String)], arguments: &[&str]) -> String {
        let mut command = Command::new(self.compose[0]);
        command.args(&self.compose[1..]).args(["-p", &self.name, "-f"]).arg(workspace().join("docker-compose.yml"));
        command.env("ROLLCALL_IMAGE", self.image()).envs(variables.iter().cloned());
        self.expect(command.args(arguments))
    }

    /// One value of what `docker inspect` knows of a container.
    ///
    /// # Panics
    /// When there is no such container.
    pub fn inspect(&self, container: &str, format: &str) -> String {
        self.docker(&["inspect", "--format", format, container]).trim().to_owned()
    }

    /// Ends a container's process as a crash would, which its restart policy answers: to the engine `docker kill` is
    /// somebody's wish.
    ///
    /// # Panics
    /// When it does not run.
    pub fn crash(&self, container: &str) {
        let pid = self.inspect(container, "{{.State.Pid}}");
        let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        let killed = name.trim() == "rollcall" && succeeds(&["kill", "-KILL", &pid]);
        if !killed {
            // The engine's processes are out of reach: it runs elsewhere, or the test is not root.
            self.docker(&["kill", container]);
            self.docker(&["start", container]);
        }
    }

    /// Removes everything, and answers what is left all the same.
    ///
    /// # Panics
    /// When the engine cannot be asked.
    pub fn remove(mut self) -> String {
        self.end();
        let mine = format!("label={}", self.label());
        let kinds = [vec!["ps", "-a"], vec!["network", "ls"], vec!["volume", "ls"]];
        let left = kinds.map(|kind| self.docker(&[kind.as_slice(), &["-q", "--filter", &mine]].concat())).concat();
        left + &self.docker(&["image", "ls", "-q", self.image()])
    }

    fn expect(&self, command: &mut Command) -> String {
        let output = self.run(command);
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{command:?}: {}\n{out}{err}", output.status);
        out.into_owned()
    }

    fn run(&self, command: &mut Command) -> Output {
        // None of these commands reads. What outlives a test that was killed holds the remover back until it is done.
        let pipe = self.remover.stdin.as_ref().map(|pipe| pipe.as_fd().try_clone_to_owned().expect("a file more"));
        command.stdin(pipe.map_or_else(Stdio::null, Stdio::from));
        command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"))
    }

    fn end(&mut self) {
        drop(self.remover.stdin.take());
        let _ = self.remover.wait();
    }

    #[expect(clippy::print_stderr, reason = "a failed test shows why")]
    fn show_logs(&self) {
        let mine = format!("label={}", self.label());
        let listed = self.try_docker(&["ps", "-a", "--filter", &mine, "--format", "{{.Names}}"]);
        for container in String::from_utf8_lossy(&listed.stdout).lines() {
            let logs = self.try_docker(&["logs", "--tail", "40", container]);
            eprintln!("---- log of {container}\n{}", String::from_utf8_lossy(&logs.stderr));
        }
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.show_logs();
        }
        self.end();
    }
}

/// The root of the workspace.
///
/// # Panics
/// Never: the package lies in the workspace.
pub fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the package lies in the workspace").to_owned()
}

/// Says that a test saw nothing, and why.
#[expect(clippy::print_stderr, reason = "who reads the output of the test learns that it proved nothing")]
pub fn skip(test: &str, why: &str) {
    eprintln!("{test} is skipped: {why}");
}

/// Today's plugin, or the program of its own that Compose was before.
fn find_compose() -> Option<Vec<&'static str>> {
    let engine = succeeds(&["docker", "version"]);
    let kinds = [["docker", "compose"].as_slice(), &["docker-compose"]];
    kinds.into_iter().find(|kind| engine && succeeds(&[kind, ["version"].as_slice()].concat())).map(<[_]>::to_vec)
}

fn succeeds(command: &[&str]) -> bool {
    let mut process = Command::new(command[0]);
    process.args(&command[1..]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    process.status().is_ok_and(|status| status.success())
}
