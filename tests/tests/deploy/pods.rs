//! The pods of the Kubernetes manifest, each as a container: the command and the environment are the manifest's, the
//! names those that the headless service gives. There is no Kubernetes in it.

use std::fs;
use std::time::Duration;

use rollcall_tests::{Docker, wait_until, workspace};

const DEADLINE: Duration = Duration::from_secs(60);

struct Pods {
    docker: Docker,
    script: String,
    /// As the manifest has it, with the name of the pod to be filled in.
    environment: Vec<(String, String)>,
}

impl Pods {
    fn prepare() -> Option<Self> {
        let docker = Docker::start("pods")?;
        let manifest =
            fs::read_to_string(workspace().join("cluster/kubernetes/rollcall.yaml")).expect("the manifest");
        let (_, command) = manifest.split_once("            - |\n").expect("the command is a script");
        let script = command.lines().take_while(|line| line.starts_with("              "));
        let script = script.map(str::trim).collect::<Vec<_>>().join("\n");
        let variable = |line: &str| {
            let (name, value) = line.trim().strip_prefix("- {name: ROLLCALL_")?.split_once(", value: ")?;
            Some((format!("ROLLCALL_{name}"), value.trim_end_matches('}').trim_matches('"').to_owned()))
        };
        let environment: Vec<_> = manifest.lines().filter_map(variable).collect();
        assert!(script.contains("--bootstrap") && script.contains("--join"), "{script}");
        assert!(environment.iter().any(|(name, _)| name == "ROLLCALL_PEER_ADVERTISE"), "{environment:?}");
        docker.docker(&["network", "create", "--label", &docker.label(), docker.name()]);
        Some(Self { docker, script, environment })
    }

    fn container(&self, number: usize) -> String {
        format!("{}-{number}", self.docker.name())
    }

    /// Starts a pod on its volume, which is made if need be.
    fn start(&self, number: usize) {
        let (container, label, pod) = (self.container(number), self.docker.label(), format!("rollcall-{number}"));
        self.docker.docker(&["volume", "create", "--label", &label, &container]);
        let (alias, volume) = (format!("{pod}.rollcall"), format!("{container}:/data"));
        let mut variables = vec![format!("POD_NAME={pod}")];
        variables.extend(
            self.environment.iter().map(|(name, value)| format!("{name}={}", value.replace("$(POD_NAME)", &pod))),
        );
        let mut arguments = vec!["run", "-d", "--name", &container, "--label", &label, "--hostname", &pod];
        arguments.extend(["--network", self.docker.name(), "--network-alias", &alias, "--volume", &volume]);
        arguments.extend(["--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges"]);
        arguments.extend(variables.iter().flat_map(|variable| ["--env", variable.as_str()]));
        arguments.extend(["--entrypoint", "sh", self.docker.image(), "-c", &self.script]);
        self.docker.docker(&arguments);
    }

    fn lose(&self, number: usize) {
        self.docker.docker(&["rm", "-f", &self.container(number)]);
    }

    fn inside(&self, number: usize, command: &[&str]) -> String {
        let container = self.container(number);
        self.docker.docker(&[&["exec", &container, "rollcall"], command].concat())
    }

    fn ready(&self, number: usize) {
        self.inside(number, &["cluster", "wait", "--ready", "--voters", "3", "--timeout", "60s"]);
    }

    fn address(&self, number: usize) -> String {
        let format = format!("{{{{(index .NetworkSettings.Networks \"{}\").IPAddress}}}}", self.docker.name());
        self.docker.inspect(&self.container(number), &format)
    }

    fn cluster_id(&self, number: usize) -> String {
        let status = self.inside(number, &["cluster", "status", "-o", "json"]);
        let status: serde_json::Value = serde_json::from_str(&status).expect("JSON");
        status["cluster_id"].as_str().expect("an id").to_owned()
    }
}

#[tokio::test]
async fn pods_start_in_any_order_and_come_back_elsewhere() {
    let Some(pods) = Pods::prepare() else { return };
    // The founder last: the others must wait for it.
    for number in [2, 1, 0] {
        pods.start(number);
    }
    (0..3).for_each(|number| pods.ready(number));
    pods.inside(2, &["register", "--id", "web-1", "--name", "web", "--url", "http://web", "--ttl-ms", "600000"]);

    // All pods are gone and come back at other addresses.
    let before = [0, 1, 2].map(|number| pods.address(number));
    (0..3).for_each(|number| pods.lose(number));
    for number in [1, 2, 0] {
        pods.start(number);
    }
    let after = [0, 1, 2].map(|number| pods.address(number));
    assert_ne!(before, after, "the engine gave every pod its old address");
    (0..3).for_each(|number| pods.ready(number));
    assert!(pods.inside(0, &["get", "web-1", "--consistency", "linearizable"]).contains("web-1"));

    // The founder's volume is lost: it must not found a second cluster beside the one that lives.
    let cluster_id = pods.cluster_id(1);
    pods.lose(0);
    pods.docker.docker(&["volume", "rm", &pods.container(0)]);
    pods.start(0);
    wait_until("the pod without its volume gives up", DEADLINE, || async {
        (pods.docker.inspect(&pods.container(0), "{{.State.Status}}") == "exited").then_some(())
    })
    .await;
    let logs = pods.docker.try_docker(&["logs", &pods.container(0)]);
    let logs = String::from_utf8_lossy(&logs.stderr);
    assert!(logs.contains("remove node 1 from the cluster first") && !logs.contains("founding"), "{logs}");
    assert_eq!(pods.cluster_id(2), cluster_id);

    // Once its old self was removed it joins by itself.
    pods.inside(1, &["cluster", "remove", "1"]);
    pods.lose(0);
    pods.start(0);
    (0..3).for_each(|number| pods.ready(number));
    assert_eq!(pods.cluster_id(0), cluster_id);
    assert!(pods.inside(0, &["get", "web-1", "--consistency", "linearizable"]).contains("web-1"));
    assert_eq!(pods.docker.remove(), "", "something is left in the engine");
}
