//! `cluster/local`: three nodes on one machine.

use std::fs;
use std::time::Duration;

use rollcall_tests::{Api, Port, Process, rollcall, wait_until, workspace};

/// A loaded machine with two cores starts three nodes in a few seconds.
const START_DEADLINE: Duration = Duration::from_secs(60);

#[tokio::test]
async fn local_configurations_make_a_cluster() {
    let directory = tempfile::Builder::new().prefix("rollcall-").tempdir().expect("a temporary directory");
    let ports: Vec<_> =
        ["7900", "7901", "7910", "7911", "7920", "7921"].map(|number| (number, Port::reserve())).into();
    let mut processes = Vec::new();
    for number in 1..=3 {
        let name = format!("node{number}.toml");
        let file = workspace().join("cluster/local").join(&name);
        let checked = rollcall().args(["config", "check"]).arg(&file).output().expect("the program starts");
        assert!(checked.status.success(), "{name}: {}", String::from_utf8_lossy(&checked.stderr));

        let mut text = fs::read_to_string(&file).expect("a readable configuration");
        for (number, port) in &ports {
            text = text.replace(&format!("127.0.0.1:{number}"), &port.address());
        }
        assert!(!text.contains(":79"), "an address that is not known here would be used as it is:\n{text}");
        fs::write(directory.path().join(&name), text).expect("a file");
        let mut command = rollcall();
        command.args(["serve", "--config", &name]).current_dir(directory.path());
        let mut process = Process::default();
        process.start(command, &directory.path().join(format!("node{number}.log")));
        processes.push(process);
    }
    let nodes: Vec<_> = [0, 2, 4].map(|place: usize| Api::new(&ports[place].1.address())).into();
    for node in &nodes {
        wait_until("all three are voters", START_DEADLINE, || async {
            let status = node.status().await?;
            let voters = status["members"].as_array()?.iter().filter(|member| member["role"] == "voter").count();
            (voters == 3 && node.is_ready().await).then_some(())
        })
        .await;
    }
    nodes[2].register("web-1", 60_000).await;
    for node in &nodes {
        assert_eq!(node.ids("consistency=linearizable").await.expect("a list"), ["web-1"]);
    }
    for number in 1..=3 {
        assert!(directory.path().join(format!("data/local/node-{number}")).is_dir(), "data_dir of node {number}");
    }
}
