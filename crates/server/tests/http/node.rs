//! A node for one test.

use std::path::Path;
use std::time::Duration;

use reqwest::{Client, Method, RequestBuilder, Response};
use rollcall_server::tls::Reload;
use rollcall_server::{Config, FirstToken, RunError, Server, Settings};
use serde_json::Value;
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Far more than a node needs for anything, on a busy machine too.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) struct Node {
    pub(crate) base: String,
    pub(crate) peer_address: String,
    pub(crate) reload: Reload,
    first_token: Option<FirstToken>,
    client: Client,
    stop: CancellationToken,
    serving: JoinHandle<Result<(), RunError>>,
    /// None if the test keeps the directory.
    _dir: Option<TempDir>,
}

/// An answer, read to its end.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: reqwest::header::HeaderMap,
    pub(crate) body: Value,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().expect("headers are text"))
    }

    pub(crate) fn code(&self) -> &str {
        self.body["code"].as_str().unwrap_or_default()
    }

    pub(crate) fn revision(&self) -> u64 {
        self.header("rollcall-revision").parse().expect("the answer names a revision")
    }

    /// The fields of all faults named.
    pub(crate) fn faults(&self) -> Vec<&str> {
        let errors = self.body["errors"].as_array().map(Vec::as_slice).unwrap_or_default();
        errors.iter().filter_map(|error| error["field"].as_str()).collect()
    }
}

fn config(dir: &Path, founding: Settings) -> Config {
    let settings = Settings {
        data_dir: Some(dir.to_owned()),
        listen: Some("127.0.0.1:0".to_owned()),
        peer_listen: Some("127.0.0.1:0".to_owned()),
        ..founding
    };
    settings.resolve().expect("the test's configuration is good")
}

impl Node {
    /// Founds a cluster of one.
    pub(crate) async fn start() -> Self {
        Self::start_for(&[]).await
    }

    /// Founds a cluster of one that accepts these tenants only.
    pub(crate) async fn start_for(tenants: &[&str]) -> Self {
        let tenants = tenants.iter().map(|&tenant| tenant.to_owned()).collect();
        Self::start_as(Settings { tenants: Some(tenants), ..Self::founder() }).await
    }

    /// Founds a cluster of one, or resumes it.
    pub(crate) async fn start_in(dir: &Path) -> Self {
        Self::serve(dir, Self::founder()).await
    }

    /// Joins the cluster of a member.
    pub(crate) async fn join(member: &Self) -> Self {
        Self::start_as(Settings { join: Some(vec![member.peer_address.clone()]), ..Settings::default() }).await
    }

    /// Settings of the founder of a cluster.
    pub(crate) fn founder() -> Settings {
        Settings { bootstrap: Some(true), ..Settings::default() }
    }

    pub(crate) async fn start_as(founding: Settings) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mut node = Self::serve(dir.path(), founding).await;
        node._dir = Some(dir);
        node
    }

    pub(crate) async fn serve(dir: &Path, founding: Settings) -> Self {
        let node = Self::begin(dir, founding).await;
        node.until("the node becomes ready", async || node.get("/readyz").await.status == 200).await;
        node
    }

    /// Resumes a node that answers, but will not become ready because the others are gone.
    pub(crate) async fn serve_unready(dir: &Path) -> Self {
        let node = Self::begin(dir, Settings::default()).await;
        node.until("the node answers", async || node.get("/api/cluster/status").await.status == 200).await;
        node
    }

    async fn begin(dir: &Path, founding: Settings) -> Self {
        let client = Client::builder().no_proxy().tls_certs_only([]).build().expect("a client");
        Self::begin_for(dir, founding, "http", client).await
    }

    /// Begins a node that is spoken to by this client.
    pub(crate) async fn begin_for(dir: &Path, founding: Settings, scheme: &str, client: Client) -> Self {
        let mut server = Server::bind(config(dir, founding)).await.expect("free ports");
        let first_token = Some(server.first_token());
        let base = format!("{scheme}://{}", server.client_address());
        let reload = server.reload();
        let peer_address = server.peer_address().to_string();
        let stop = CancellationToken::new();
        let serving = tokio::spawn(server.serve(stop.clone().cancelled_owned()));
        Self { base, peer_address, reload, first_token, client, stop, serving, _dir: None }
    }

    /// The token of the first administrator, which the founder made.
    pub(crate) async fn admin(&mut self) -> String {
        let made = self.first_token.take().expect("it is told once").made();
        let token = tokio::time::timeout(PATIENCE, made).await.expect("a token in time");
        token.expect("a founder with authentication makes one").to_string()
    }

    /// Waits for a condition.
    pub(crate) async fn until(&self, what: &str, holds: impl AsyncFn() -> bool) {
        let reached = async {
            while !holds().await {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(PATIENCE, reached).await.unwrap_or_else(|_| panic!("{what}: not in time"));
    }

    pub(crate) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, format!("{}{path}", self.base)).timeout(PATIENCE)
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        answer(self.request(Method::GET, path)).await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Answer {
        answer(self.request(Method::POST, path).json(body)).await
    }

    pub(crate) async fn delete(&self, path: &str) -> Answer {
        answer(self.request(Method::DELETE, path)).await
    }

    pub(crate) async fn register(&self, body: Value) -> Answer {
        self.post("/api/services/register", &body).await
    }

    /// Asks the node to stop and waits until it has.
    pub(crate) async fn stop(self) -> Result<(), RunError> {
        self.stop.cancel();
        tokio::time::timeout(PATIENCE, self.serving).await.expect("the node stops").expect("the node does not panic")
    }
}

pub(crate) async fn answer(request: RequestBuilder) -> Answer {
    let response: Response = request.send().await.expect("the node answers");
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    let text = response.text().await.expect("the answer is complete");
    let body = serde_json::from_str(&text).unwrap_or(Value::String(text));
    Answer { status, headers, body }
}
