//! A switch fails: half of a tenant's agents fall silent at once.

use std::time::Duration;

use reqwest::Method;
use rollcall_tests::{Api, Cluster, wait_until};
use serde_json::{Value, json};
use tokio_util::task::AbortOnDropHandle;

const DEADLINE: Duration = Duration::from_secs(30);

const AGENTS: usize = 12;
const TTL_MS: u64 = 6_000;

async fn call(api: &Api, tenant: &str, method: Method, path: &str, body: &Value) -> Value {
    let request = api.request(method, path).header("x-tenant-id", tenant).json(body);
    api.send(request).await.expect("an answer").ok()
}

async fn get(api: &Api, tenant: &str, path: &str) -> Value {
    let request = api.request(Method::GET, path).header("x-tenant-id", tenant);
    api.send(request).await.expect("an answer").ok()
}

/// Agents of one tenant, those at even places behind the switch; the others beat at whichever node answers.
struct Fleet {
    tenant: &'static str,
    leases: Vec<u64>,
    _beats: AbortOnDropHandle<()>,
}

/// Renews leases; answers whether a node did so.
async fn renew(api: &Api, tenant: &str, leases: &[u64]) -> bool {
    let request = api.request(Method::POST, "/api/heartbeats").header("x-tenant-id", tenant);
    let answer = api.send(request.json(&json!({ "leases": leases }))).await;
    answer.is_ok_and(|answer| answer.status == 200)
}

impl Fleet {
    async fn register(cluster: &Cluster, tenant: &'static str) -> Self {
        let mut leases = Vec::new();
        for n in 0..AGENTS {
            let body = json!({"id": format!("a{n:02}"), "name": "web", "url": "http://a", "ttl_ms": TTL_MS});
            let api = &cluster.nodes[n % cluster.nodes.len()].api;
            let answer = call(api, tenant, Method::POST, "/api/services/register", &body).await;
            leases.push(answer["lease"]["id"].as_u64().expect("a lease"));
        }
        let elsewhere: Vec<_> = leases.iter().copied().skip(1).step_by(2).collect();
        let nodes: Vec<_> = cluster.nodes.iter().map(|node| node.api.clone()).collect();
        let beats = tokio::spawn(async move {
            let mut beat = tokio::time::interval(Duration::from_millis(TTL_MS / 12));
            loop {
                beat.tick().await;
                for api in &nodes {
                    if renew(api, tenant, &elsewhere).await {
                        break;
                    }
                }
            }
        });
        Self { tenant, leases, _beats: AbortOnDropHandle::new(beats) }
    }

    /// The switch comes back for a moment.
    async fn beat_behind_the_switch(&self, api: &Api) {
        let behind: Vec<_> = self.leases.iter().copied().step_by(2).collect();
        assert!(renew(api, self.tenant, &behind).await, "a node renews");
    }

    /// All that are present, and how many of these are suspect.
    async fn present(&self, api: &Api) -> (usize, usize) {
        let answer = get(api, self.tenant, "/api/services?limit=100&consistency=linearizable").await;
        let services = answer["services"].as_array().expect("a list");
        (services.len(), services.iter().filter(|service| service["suspect"] == true).count())
    }

    async fn until(&self, api: &Api, what: &str, expected: (usize, usize)) {
        wait_until(what, DEADLINE, || async { (self.present(api).await == expected).then_some(()) }).await;
    }
}

fn rule(release_per_minute: u32) -> Value {
    json!({"share": 0.3, "window_ms": 10_000, "release_per_minute": release_per_minute, "leases_min": 4})
}

#[tokio::test]
async fn half_of_a_tenant_falls_silent_with_and_without_protection() {
    let mut cluster = Cluster::start(3).await;
    let follower = cluster.follower().await;
    call(&cluster.nodes[follower].api, "held", Method::PUT, "/api/protection", &rule(1)).await;
    let (held, plain) = (Fleet::register(&cluster, "held").await, Fleet::register(&cluster, "plain").await);
    let api = cluster.nodes[follower].api.clone();
    plain.until(&api, "without protection half are gone", (6, 0)).await;
    held.until(&api, "with it they are suspect", (12, 6)).await;
    let protecting = get(&api, "held", "/api/protection").await;
    assert_eq!((&protecting["in_force"], &protecting["suspects"]), (&json!(true), &json!(6)));
    assert_eq!(get(&api, "plain", "/api/protection").await["in_force"], false);

    // They are served last, and told of.
    let ranked = get(&api, "held", "/api/services?sort=rank").await;
    let order: Vec<_> = ranked["services"].as_array().expect("a list").iter().map(|s| s["suspect"] == true).collect();
    assert_eq!(order, [vec![false; 6], vec![true; 6]].concat());
    for _ in 0..12 {
        let picked = get(&api, "held", "/api/services/pick?strategy=round_robin").await;
        assert_eq!((&picked["candidates"], &picked["service"]["suspect"]), (&json!(6), &Value::Null));
    }

    // The leader dies: nobody who is held is let go by that.
    let leader = cluster.leader().await;
    cluster.nodes[leader].kill9();
    let api = cluster.nodes[(leader + 1) % 3].api.clone();
    cluster.nodes[leader].start();
    cluster.ready().await;
    held.until(&api, "they are held by the next leader", (12, 6)).await;

    // The switch comes back: a heartbeat, and each is as before.
    held.beat_behind_the_switch(&api).await;
    assert_eq!(held.present(&api).await, (12, 0));
    wait_until("protection ends by itself", DEADLINE, || async {
        held.beat_behind_the_switch(&api).await;
        (get(&api, "held", "/api/protection").await["in_force"] == false).then_some(())
    })
    .await;
    assert_eq!(held.present(&api).await, (12, 0), "nobody is lost");
    drop((held, plain));
    cluster.digests_agree().await;
}

#[tokio::test]
async fn who_stays_silent_goes_at_the_rate_or_when_an_operator_says_so() {
    let cluster = Cluster::start(3).await;
    let api = cluster.nodes[1].api.clone();
    call(&api, "default", Method::PUT, "/api/protection", &rule(30)).await;
    let fleet = Fleet::register(&cluster, "default").await;
    fleet.until(&api, "they are suspect", (12, 6)).await;
    let begun = tokio::time::Instant::now();
    fleet.until(&api, "two have gone", (10, 4)).await;
    // One each two seconds, the first of them perhaps just before the others were held.
    assert!(begun.elapsed() >= Duration::from_millis(1_800), "{:?}", begun.elapsed());
    let released = call(&api, "default", Method::POST, "/api/protection/release", &json!({})).await;
    assert_eq!(released["in_force"], false, "{released}");
    fleet.until(&api, "the others go at once", (6, 0)).await;
    drop(fleet);
    cluster.digests_agree().await;
}
