//! Signatures in a whole cluster: whoever signs first at one node is the owner at all of them, through failover and restart.

use std::process::{Command, Output};

use rollcall_tests::{Cluster, Node, rollcall};
use serde_json::{Value, json};

fn run(cluster: &Cluster, arguments: &[&str]) -> Output {
    let endpoints: Vec<String> = cluster.nodes.iter().map(Node::client_address).collect();
    let mut command: Command = rollcall();
    command.args(arguments).args(["--endpoint", &endpoints.join(",")]).output().expect("the program starts")
}

fn succeeds(cluster: &Cluster, arguments: &[&str]) -> String {
    let Output { status, stdout, stderr } = run(cluster, arguments);
    assert!(status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&stderr));
    String::from_utf8(stdout).expect("text")
}

fn document(url: &str) -> Value {
    json!({"id": "web-1", "name": "web", "url": url, "owner": "ann", "ttl_ms": 600_000})
}

#[tokio::test]
async fn p1_p2_whose_key_counts_is_known_everywhere_and_outlives_all() {
    let mut cluster = Cluster::start(3).await;
    let directory = cluster.directory().to_owned();
    let path = |name: &str| directory.join(name).to_str().expect("a path").to_owned();
    let (key, file) = (path("ann.pem"), path("web.json"));
    let public = succeeds(&cluster, &["sign", "keygen", &key]);
    let signed = |cluster: &Cluster, url: &str| -> Value {
        std::fs::write(&file, document(url).to_string()).expect("a file");
        serde_json::from_str(&succeeds(cluster, &["sign", &file, "--key", &key])).expect("JSON")
    };
    let (first, second) = (signed(&cluster, "http://a"), signed(&cluster, "http://b"));
    cluster.nodes[0].api.post("/api/services/register", &first).await.ok();
    cluster.nodes[1].api.post("/api/services/register", &second).await.ok();

    // The one who leads dies, and then everybody at once.
    let leader = cluster.leader().await;
    cluster.nodes[leader].kill9();
    cluster.nodes[leader].start();
    cluster.ready().await;
    cluster.nodes.iter_mut().for_each(|node| node.kill9());
    cluster.nodes.iter_mut().for_each(|node| node.start());
    cluster.ready().await;
    for node in &cluster.nodes {
        let register = async |body: &Value| node.api.post("/api/services/register", body).await;
        assert_eq!(register(&document("http://evil")).await.refused(403), "signature_required");
        assert_eq!(register(&first).await.refused(403), "signature_replayed");
        assert_eq!(register(&second).await.ok()["service"]["url"], "http://b");
        assert_eq!(node.api.delete("/api/services/web-1").await.refused(403), "signature_required");
        let keys = node.api.get("/api/owner-keys").await.ok();
        assert_eq!(keys["owner_keys"][0]["public_key"], public.trim());
    }
    cluster.digests_agree().await;

    // The owner takes it off, and has it again by signing that it is meant.
    succeeds(&cluster, &["deregister", "web-1", "--sign-key", &key]);
    assert_eq!(cluster.nodes[2].api.post("/api/services/register", &second).await.refused(403), "signature_replayed");
    std::fs::write(&file, document("http://b").to_string()).expect("a file");
    succeeds(&cluster, &["register", &file, "--sign-key", &key]);

    // An operator gives the owner another key.
    let other = path("other.pem");
    let public = succeeds(&cluster, &["sign", "keygen", &other]);
    succeeds(&cluster, &["owner-key", "replace", "ann", public.trim()]);
    let lost = run(&cluster, &["register", &file, "--sign-key", &key]);
    assert_eq!(lost.status.code(), Some(5), "{}", String::from_utf8_lossy(&lost.stderr));
    succeeds(&cluster, &["register", &file, "--sign-key", &other]);
    cluster.digests_agree().await;
}

#[tokio::test]
async fn a_wrapped_program_signs_its_registration_and_its_end() {
    let cluster = Cluster::start(1).await;
    let key = cluster.directory().join("ann.pem").to_str().expect("a path").to_owned();
    succeeds(&cluster, &["sign", "keygen", &key]);
    succeeds(&cluster, &["signatures", "required"]);
    for _ in 0..2 {
        let arguments = ["register", "--id", "web-1", "--name", "web", "--url", "http://a", "--owner", "ann"];
        let with = ["--sign-key", &key, "--keep-alive", "--", "true"];
        // The endpoints would go to the program.
        let mut command: Command = rollcall();
        command.args(arguments).args(with).env("ROLLCALL_ENDPOINTS", cluster.nodes[0].client_address());
        let Output { status, stderr, .. } = command.output().expect("the program starts");
        assert!(status.success(), "{}", String::from_utf8_lossy(&stderr));
        let gone = cluster.nodes[0].api.get("/api/services/web-1").await;
        assert_eq!(gone.refused(404), "not_found", "{}", String::from_utf8_lossy(&stderr));
    }
}
