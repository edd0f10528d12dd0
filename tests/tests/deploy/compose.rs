//! `docker compose up`: three containers, crashes, cut networks, and a fourth.

use std::time::Duration;

use rollcall_tests::{Api, Docker, Port, wait_until};

/// Containers start, fall ill and come back in seconds; a loaded machine takes longer.
const DEADLINE: Duration = Duration::from_secs(60);

/// Longer than the test lives.
const TTL_MS: u64 = 600_000;

const NODES: [&str; 3] = ["node1", "node2", "node3"];

/// Which ports the nodes have outside.
const PORT_VARIABLES: [&str; 3] = ["ROLLCALL_NODE1_PORT", "ROLLCALL_NODE2_PORT", "ROLLCALL_NODE3_PORT"];

/// Who is on the roll in the end.
const ALL: [&str; 4] = ["at-node1", "while-crashed", "while-cut-off", "still-cut-off"];

struct Fleet {
    docker: Docker,
    ports: [Port; 3],
    apis: [Api; 3],
}

impl Fleet {
    fn prepare() -> Option<Self> {
        let docker = Docker::start("compose")?;
        let ports = [Port::reserve(), Port::reserve(), Port::reserve()];
        let apis = [0, 1, 2].map(|place: usize| Api::new(&ports[place].address()));
        Some(Self { docker, ports, apis })
    }

    fn compose(&self, arguments: &[&str]) -> String {
        let number = |place: usize| self.ports[place].address().replace("127.0.0.1:", "");
        let variables = [0, 1, 2].map(|place| (PORT_VARIABLES[place], number(place)));
        self.docker.compose(&variables, arguments)
    }

    fn container(&self, place: usize) -> String {
        self.compose(&["ps", "-q", NODES[place]]).trim().to_owned()
    }

    fn network(&self) -> String {
        format!("{}_default", self.docker.name())
    }

    /// Waits until all three are ready voters that reach each other.
    async fn ready(&self) {
        for api in &self.apis {
            wait_until("three voters are ready and reach each other", DEADLINE, || async {
                let status = api.status().await?;
                let members = status["members"].as_array()?;
                let well = |member: &&serde_json::Value| member["role"] == "voter" && member["reachable"] == true;
                (members.iter().filter(well).count() == 3 && api.is_ready().await).then_some(())
            })
            .await;
        }
    }

    async fn health(&self, container: &str, wanted: &str) {
        wait_until(&format!("the engine finds {container} {wanted}"), DEADLINE, || async {
            (self.docker.inspect(container, "{{.State.Health.Status}}") == wanted).then_some(())
        })
        .await;
    }

    async fn leader(&self) -> usize {
        wait_until("a leader says that it is", DEADLINE, || async {
            for (place, api) in self.apis.iter().enumerate() {
                let Some(status) = api.status().await else { continue };
                if status["leader_id"].is_number() && status["leader_id"] == status["node_id"] {
                    return Some(place);
                }
            }
            None
        })
        .await
    }

    /// The number of a container's node.
    fn id_of(&self, container: &str) -> String {
        let status = self.docker.docker(&["exec", container, "rollcall", "cluster", "status", "-o", "json"]);
        let status: serde_json::Value = serde_json::from_str(&status).expect("JSON");
        status["node_id"].to_string()
    }

    /// What the node says of itself, asked from inside its container.
    fn is_ready_inside(&self, container: &str) -> bool {
        let probe = ["exec", container, "rollcall", "cluster", "wait", "--ready", "--timeout", "1s"];
        self.docker.try_docker(&probe).status.success()
    }

    async fn sees(&self, place: usize, ids: &[&str]) {
        wait_until(&format!("{} sees {ids:?}", NODES[place]), DEADLINE, || async {
            let answer = self.apis[place].try_get("/api/services?limit=1000").await.ok()?;
            let services = answer.body["services"].as_array()?;
            ids.iter().all(|id| services.iter().any(|service| service["id"] == *id)).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn compose_cluster_outlives_crashes_and_cuts() {
    let Some(fleet) = Fleet::prepare() else { return };
    fleet.compose(&["up", "-d"]);
    fleet.ready().await;
    fleet.apis[0].register("at-node1", TTL_MS).await;
    for place in 0..3 {
        fleet.sees(place, &["at-node1"]).await;
        let container = fleet.container(place);
        fleet.health(&container, "healthy").await;
        assert_ne!(fleet.docker.docker(&["exec", &container, "id", "-u"]).trim(), "0", "it runs as root");
    }

    // The leader's process dies: the others take over, and the engine starts it again.
    let crashed = fleet.leader().await;
    let container = fleet.container(crashed);
    fleet.docker.crash(&container);
    fleet.apis[(crashed + 1) % 3].register("while-crashed", TTL_MS).await;
    fleet.ready().await;
    fleet.sees(crashed, &["at-node1", "while-crashed"]).await;

    // The leader is cut off: it says so, and the others go on without it.
    let cut = fleet.leader().await;
    let container = fleet.container(cut);
    fleet.docker.docker(&["network", "disconnect", &fleet.network(), &container]);
    fleet.apis[(cut + 1) % 3].register("while-cut-off", TTL_MS).await;
    wait_until("the cut-off node is not ready", DEADLINE, || async {
        (!fleet.is_ready_inside(&container)).then_some(())
    })
    .await;
    fleet.health(&container, "unhealthy").await;
    fleet.apis[(cut + 2) % 3].register("still-cut-off", TTL_MS).await;
    fleet.docker.docker(&["network", "connect", "--alias", NODES[cut], &fleet.network(), &container]);
    fleet.ready().await;
    fleet.sees(cut, &ALL).await;
    fleet.health(&container, "healthy").await;

    // All containers are made anew, on the volumes that there are.
    fleet.compose(&["down"]);
    fleet.compose(&["up", "-d"]);
    fleet.ready().await;
    for place in 0..3 {
        fleet.sees(place, &ALL).await;
    }

    let fourth = format!("{}-node4", fleet.docker.name());
    let (label, network) = (fleet.docker.label(), fleet.network());
    let run = ["run", "-d", "--name", &fourth, "--label", &label, "--network", &network, "--network-alias", "node4"];
    let serve = ["serve", "--insecure", "--join", "node1:7901,node2:7901,node3:7901"];
    let addresses = ["--listen", "0.0.0.0:7900", "--peer-listen", "0.0.0.0:7901", "--advertise", "node4:7900"];
    let peer_address = ["--peer-advertise", "node4:7901"];
    fleet.docker.docker(&[&run, [fleet.docker.image()].as_slice(), &serve, &addresses, &peer_address].concat());
    let inside = |command: &[&str]| fleet.docker.docker(&[&["exec", &fourth, "rollcall"], command].concat());
    inside(&["cluster", "wait", "--ready", "--voters", "4", "--timeout", "60s"]);
    let roll = inside(&["discover", "--consistency", "linearizable"]);
    assert!(ALL.iter().all(|id| roll.contains(id)), "{roll}");

    // Its volume alone is lost: it founds nothing beside the cluster that lives, and joins once its old self is removed.
    inside(&["cluster", "demote", &fleet.id_of(&fourth)]);
    let cluster_id = fleet.apis[1].status().await.expect("a status")["cluster_id"].clone();
    fleet.compose(&["rm", "-s", "-f", NODES[0]]);
    fleet.docker.docker(&["volume", "rm", &format!("{}_{}", fleet.docker.name(), NODES[0])]);
    fleet.compose(&["up", "-d", NODES[0]]);
    wait_until("node1 says what is to be done", DEADLINE, || async {
        let logs = fleet.compose(&["logs", "--no-color", NODES[0]]);
        assert!(!logs.contains("founding a cluster"), "{logs}");
        logs.contains("remove node 1 from the cluster first").then_some(())
    })
    .await;
    inside(&["cluster", "remove", "1"]);
    fleet.ready().await;
    assert_eq!(fleet.apis[0].status().await.expect("a status")["cluster_id"], cluster_id);
    fleet.sees(0, &ALL).await;

    // A removed node is not started for ever: its container stays and says why.
    let removed = fleet.container(2);
    inside(&["cluster", "remove", &fleet.id_of(&removed)]);
    for life in 1..=2 {
        wait_until("the removed node waits", DEADLINE, || async {
            let logs = fleet.docker.try_docker(&["logs", &removed]);
            let logs = String::from_utf8_lossy(&logs.stdout).into_owned() + &String::from_utf8_lossy(&logs.stderr);
            (logs.matches("waiting to be ended").count() >= life).then_some(())
        })
        .await;
        fleet.health(&removed, "unhealthy").await;
        assert_eq!(fleet.docker.inspect(&removed, "{{.RestartCount}} {{.State.Running}}"), "0 true");
        fleet.docker.docker(&["restart", "--time", "30", &removed]);
    }

    let logs = fleet.compose(&["logs", "--no-color"]);
    let complaint = logs.lines().find(|line| line.contains("means nothing") || line.contains("panicked"));
    assert!(complaint.is_none(), "{complaint:?}");
    assert_eq!(fleet.docker.remove(), "", "something is left in the engine");
}
