//! A cluster with everything switched on (TLS at every port, tokens, signatures, quotas) does its main job with two flags more on each
//! command; and what a tenant may have holds at every node, through changes of leader and restarts.

use std::process::{Command, Output};
use std::time::{Duration, Instant};

use reqwest::Method;
use rollcall_tests::{Api, Cluster, Node, rollcall, wait_until};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const DEADLINE: Duration = Duration::from_secs(30);

/// The program as a user types it, with nothing but two flags added.
fn user(cluster: &Cluster, token: &str, line: &str) -> Command {
    let endpoints: Vec<String> = cluster.nodes.iter().map(Node::client_address).collect();
    let mut command = rollcall();
    command.args(line.split(' ')).env("ROLLCALL_ENDPOINTS", endpoints.join(","));
    command.args(["--token", token, "--ca"]).arg(cluster.certificates().join("client-ca.pem"));
    command
}

fn succeeds(mut command: Command) -> String {
    let Output { status, stdout, stderr } = command.output().expect("the program starts");
    assert!(status.success(), "{command:?}: {}", String::from_utf8_lossy(&stderr));
    String::from_utf8(stdout).expect("text")
}

fn fails(mut command: Command, code: i32) -> String {
    let Output { status, stderr, .. } = command.output().expect("the program starts");
    let said = String::from_utf8_lossy(&stderr).into_owned();
    assert_eq!(status.code(), Some(code), "{command:?}: {said}");
    said
}

fn made(cluster: &Cluster, line: &str) -> String {
    succeeds(user(cluster, cluster.token(), &format!("token create {line}"))).trim().to_owned()
}

fn body(id: &str) -> Value {
    json!({ "id": id, "name": "web", "url": format!("http://{id}"), "ttl_ms": 60_000 })
}

async fn register(api: &Api, body: &Value) -> rollcall_tests::Answer {
    api.post("/api/services/register", body).await
}

#[tokio::test]
async fn p2_a_quota_is_counted_exactly_by_all_nodes_together_and_outlives_them() {
    let mut cluster = Cluster::start_guarded(3).await;
    let admin = cluster.token().to_owned();
    let acme = made(&cluster, "--role agent --tenant acme");
    let other = made(&cluster, "--role agent --tenant umbrella");
    let quota = "--tenant acme tenant quota set --registrations 5 --requests-per-second 1000000";
    assert!(succeeds(user(&cluster, &admin, quota)).contains("registrations         5"));
    let apis: Vec<Api> = cluster.nodes.iter().map(|node| node.api.clone().with_token(&acme)).collect();

    // Thirty ask at once at three nodes: five are let in.
    let bodies: Vec<Value> = (0..30).map(|n| body(&format!("web-{n}"))).collect();
    let asked = bodies.iter().enumerate().map(|(n, body)| register(&apis[n % 3], body));
    let answers = futures_util::future::join_all(asked).await;
    let own: Vec<&Value> =
        bodies.iter().zip(&answers).filter(|(_, answer)| answer.status == 201).map(|(body, _)| body).collect();
    assert_eq!(own.len(), 5, "{answers:?}");
    for refused in answers.iter().filter(|answer| answer.status != 201) {
        assert_eq!(refused.refused(429), "quota_exceeded");
        assert_eq!(refused.body["quota"], json!({"quota": "registrations", "limit": 5, "used": 5}));
        assert_eq!(refused.header_number("retry-after"), 10);
    }
    assert!(fails(user(&cluster, &acme, "register --name web --url http://a"), 6).contains("5 of 5 are in use"));

    // What stands goes on, another tenant is not concerned, and no more is let in: at whichever node, whoever leads.
    let holds = async |cluster: &Cluster, round: &str| {
        for (n, node) in cluster.nodes.iter().enumerate().filter(|(_, node)| node.is_running()) {
            let (api, umbrella) = (node.api.clone().with_token(&acme), node.api.clone().with_token(&other));
            assert_eq!(register(&api, &body("one-more")).await.refused(429), "quota_exceeded", "{round}");
            for body in &own {
                let id = body["id"].as_str().expect("an id");
                api.post(&format!("/api/services/{id}/heartbeat"), &json!({})).await.ok();
                register(&api, body).await.ok();
            }
            register(&umbrella, &body(&format!("{round}-{n}"))).await.ok();
            assert_eq!(api.ids("consistency=linearizable").await.expect("a list").len(), 5);
        }
    };
    holds(&cluster, "first").await;
    let leader = cluster.leader().await;
    cluster.nodes[leader].kill9();
    cluster.follower().await;
    holds(&cluster, "after-the-leader").await;
    cluster.nodes[leader].start();
    cluster.ready().await;
    cluster.nodes.iter_mut().for_each(Node::kill9);
    cluster.nodes.iter_mut().for_each(Node::start);
    cluster.ready().await;
    holds(&cluster, "after-all").await;
    cluster.digests_agree().await;

    // Whoever goes makes room for one.
    let gone = own[0]["id"].as_str().expect("an id");
    succeeds(user(&cluster, &acme, &format!("deregister {gone}")));
    succeeds(user(&cluster, &acme, "register --id late --name web --url http://a --ttl-ms 60000"));
    fails(user(&cluster, &acme, "register --id later --name web --url http://a --ttl-ms 60000"), 6);
    let shown: Value =
        serde_json::from_str(&succeeds(user(&cluster, &admin, "--tenant acme tenant quota show -o json")))
            .expect("JSON");
    assert_eq!((&shown["limits"]["registrations"], &shown["used"]["registrations"]), (&json!(5), &json!(5)));
    // A tenant does not lift its own.
    assert!(fails(user(&cluster, &acme, "tenant quota clear"), 5).contains("over all tenants"));
    succeeds(user(&cluster, &admin, "--tenant acme tenant quota clear"));
    succeeds(user(&cluster, &acme, "register --id later --name web --url http://a --ttl-ms 60000"));
}

#[tokio::test]
async fn p3_a_tenant_that_floods_every_node_keeps_its_leases_and_disturbs_nobody() {
    let cluster = Cluster::start_guarded(3).await;
    let acme = made(&cluster, "--role agent --tenant acme");
    let other = made(&cluster, "--role agent --tenant umbrella");
    let ttl_ms = 3_000;
    for (token, id) in [(&acme, "a"), (&other, "u")] {
        cluster.nodes[0].api.clone().with_token(token).register(id, ttl_ms).await;
    }
    let quota = "--tenant acme tenant quota set --requests-per-second 5";
    succeeds(user(&cluster, cluster.token(), quota));

    let end = Instant::now() + Duration::from_millis(4 * ttl_ms);
    let flood = |node: &Node| {
        let api = node.api.clone().with_token(&acme);
        async move {
            let (mut refused, mut served) = (0, 0);
            while Instant::now() < end {
                let answer = api.get("/api/services").await;
                match answer.status {
                    429 => {
                        assert_eq!(answer.body["quota"]["quota"], "requests_per_second", "{answer:?}");
                        refused += 1;
                    }
                    _ => served += 1,
                }
            }
            (refused, served)
        }
    };
    let beats = |token: &str, id: &'static str| {
        let apis: Vec<Api> = cluster.nodes.iter().map(|node| node.api.clone().with_token(token)).collect();
        async move {
            for api in apis.iter().cycle().take_while(|_| Instant::now() < end) {
                api.post(&format!("/api/services/{id}/heartbeat"), &json!({})).await.ok();
                rollcall_tests::pass(Duration::from_millis(ttl_ms / 6)).await;
            }
        }
    };
    let neighbour = {
        let api = cluster.nodes[1].api.clone().with_token(&other);
        async move {
            while Instant::now() < end {
                assert_eq!(api.ids("").await.expect("another tenant is served"), ["u"]);
            }
        }
    };
    let floods = futures_util::future::join_all(cluster.nodes.iter().map(flood));
    let (floods, (), (), ()) = tokio::join!(floods, beats(&acme, "a"), beats(&other, "u"), neighbour);
    for (refused, served) in floods {
        // Five in a second, a second's worth at once, and what came before the node knew of the quota.
        assert!(refused > served && served >= 5, "{refused} refused, {served} served");
    }
    // Nobody lapsed: the lease is the one that was granted first.
    let admin = &cluster.nodes[2].api;
    for tenant in ["acme", "umbrella"] {
        let request =
            admin.request(Method::GET, "/api/services?consistency=linearizable").header("x-tenant-id", tenant);
        let found = wait_until("the tenant is served again", DEADLINE, || async {
            let answer = admin.send(request.try_clone().expect("no body")).await.ok()?;
            (answer.status == 200).then_some(answer.body)
        })
        .await;
        assert_eq!(
            (&found["total_count"], &found["services"][0]["status"]),
            (&json!(1), &json!("active")),
            "{found}"
        );
        assert_eq!(found["services"][0]["revision"], found["services"][0]["created_revision"], "{found}");
    }
}

#[tokio::test]
async fn with_everything_switched_on_the_main_job_is_done() {
    let mut cluster = Cluster::start_guarded(3).await;
    let admin = cluster.token().to_owned();
    succeeds(user(&cluster, &admin, "cluster wait --ready --voters 3"));
    succeeds(user(&cluster, &admin, "--tenant acme signatures accepted"));
    succeeds(user(&cluster, &admin, "--tenant acme tenant quota set --registrations 4 --bytes 100000 --watchers 8"));
    let (agent, other) = (made(&cluster, "--role agent --tenant acme"), made(&cluster, "--role agent --tenant acme"));
    let reader = made(&cluster, "--role reader --tenant acme");
    let narrow = made(&cluster, "--role agent --tenant acme --service mail-");
    let stranger = made(&cluster, "--role agent --tenant umbrella");
    let short = made(&cluster, "--role reader --tenant acme --ttl 1s");
    let revoked = made(&cluster, "--role reader --tenant acme");
    succeeds(user(&cluster, &admin, &format!("token revoke {}", revoked.split('-').nth(1).expect("an id"))));

    let key = cluster.directory().join("ann.pem").display().to_string();
    succeeds(user(&cluster, &agent, &format!("sign keygen {key}")));
    let signed = format!("--name web --owner ann --ttl-ms 60000 --sign-key {key}");
    let mut register = user(&cluster, &agent, &format!("register --id signed --url http://old {signed}"));
    register.arg("-o").arg("json");
    succeeds(register);
    let old = cluster.nodes[0].api.clone().with_token(&agent).get("/api/services/signed/signature").await.ok();
    succeeds(user(&cluster, &agent, &format!("register --id signed --url http://new {signed}")));
    succeeds(user(&cluster, &agent, "register --id plain --name web --url http://plain --ttl-ms 60000"));
    succeeds(user(&cluster, &agent, "heartbeat plain"));
    assert!(succeeds(user(&cluster, &reader, "discover --name web --consistency linearizable")).contains("2 of 2"));
    assert!(succeeds(user(&cluster, &reader, "get signed")).contains("http://new"));
    succeeds(user(&cluster, &reader, "pick --name web"));

    // The leader is killed: nothing is lost, and whoever is left takes writes.
    let leader = cluster.leader().await;
    cluster.nodes[leader].kill9();
    succeeds(user(&cluster, &agent, "register --id third --name web --url http://third --ttl-ms 60000"));
    cluster.nodes[leader].start();
    cluster.ready().await;
    // One that falls silent is struck off.
    succeeds(user(&cluster, &agent, "register --id brief --name web --url http://brief --ttl-ms 1000"));
    wait_until("the silent one is struck off", DEADLINE, || async {
        let api = cluster.nodes[leader].api.clone().with_token(&agent);
        (api.ids("consistency=linearizable").await.ok()? == ["plain", "signed", "third"]).then_some(())
    })
    .await;
    succeeds(user(&cluster, &agent, "register --id fourth --name web --url http://fourth --ttl-ms 60000"));
    let page = cluster.nodes[0].api.clone().with_token(&agent).get("/api/services?limit=1").await.ok();
    let cursor = page["next_cursor"].as_str().expect("more pages").to_owned();
    let resume = page["revision"].as_u64().expect("a revision");

    // What must not be is refused, at every node.
    for node in &cluster.nodes {
        let by = |token: &str| node.api.clone().with_token(token);
        let services = "/api/services";
        assert_eq!(node.api.clone().without_token().get(services).await.refused(401), "token_missing");
        assert_eq!(by("rctoken-x").get(services).await.refused(401), "token_invalid");
        // {"alg":"none"} and a payload, without a signature.
        let stripped = "eyJhbGciOiJub25lIn0.eyJ0ZW5hbnRfaWQiOiJhY21lIn0.";
        assert_eq!(by(stripped).get(services).await.refused(401), "token_invalid");
        wait_until("the short token is over", DEADLINE, || async {
            let answer = by(&short).get(services).await;
            (answer.status == 401 && answer.body["code"] == "token_expired").then_some(())
        })
        .await;
        assert_eq!(by(&revoked).get(services).await.refused(401), "token_revoked");
        let foreign = by(&stranger);
        let elsewhere = foreign.request(Method::GET, services).header("x-tenant-id", "acme");
        assert_eq!(foreign.send(elsewhere).await.expect("an answer").refused(403), "forbidden");
        assert_eq!(foreign.get(&format!("{services}?cursor={cursor}")).await.refused(400), "bad_cursor");
        assert_eq!(foreign.ids("").await.expect("a list"), [""; 0]);
        let since = foreign.get(&format!("{services}?after_revision={}&wait_ms=1", resume - 1)).await.ok();
        assert_eq!(since["total_count"], 0, "{since}");
        let new = |id: &str| json!({ "id": id, "name": "web", "url": "http://evil", "ttl_ms": 60_000 });
        let write = async |token: &str, body: &Value| by(token).post("/api/services/register", body).await;
        assert_eq!(write(&reader, &new("r")).await.refused(403), "forbidden");
        assert_eq!(write(&narrow, &new("n")).await.refused(403), "forbidden");
        assert_eq!(write(&other, &new("plain")).await.refused(403), "forbidden");
        assert_eq!(by(&other).delete("/api/services/plain").await.refused(403), "forbidden");
        // Without the owner's signature, with one that is for something else, and with one that is over.
        assert_eq!(write(&agent, &new("signed")).await.refused(403), "owner_mismatch");
        let mut tampered = new("signed");
        tampered["owner"] = json!("ann");
        assert_eq!(write(&agent, &tampered).await.refused(403), "signature_required");
        for field in ["signature", "public_key"] {
            tampered[field] = old[field].clone();
        }
        assert_eq!(write(&agent, &tampered).await.refused(401), "invalid_signature");
        // The quota is used up: what stands goes on.
        assert_eq!(write(&agent, &new("fifth")).await.refused(429), "quota_exceeded");
        by(&agent).post("/api/services/plain/heartbeat", &json!({})).await.ok();
        // Plain HTTP is told so.
        let mut plain = TcpStream::connect(node.client_address()).await.expect("a connection");
        plain.write_all(b"GET /livez HTTP/1.1\r\nhost: h\r\n\r\n").await.expect("it is sent");
        let mut told = String::new();
        plain.read_to_string(&mut told).await.expect("an answer");
        assert!(told.starts_with("HTTP/1.1 400 ") && told.contains("tls_required"), "{told}");
    }
    assert!(fails(user(&cluster, &agent, "register --name web --url http://a"), 6).contains("4 of 4 are in use"));
    cluster.digests_agree().await;
}
