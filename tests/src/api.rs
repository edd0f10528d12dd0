//! The HTTP contract as a client sees it.

use std::path::Path;
use std::time::Duration;

use reqwest::{Certificate, Method, RequestBuilder, header::HeaderMap};
use serde_json::{Value, json};

/// Longer than any request is held by a node.
const TIMEOUT: Duration = Duration::from_secs(20);

/// Longer than any test.
const WATCH_TIMEOUT: Duration = Duration::from_secs(3_600);

/// One node's client port.
#[derive(Clone, Debug)]
pub struct Api {
    base: String,
    http: reqwest::Client,
    token: Option<String>,
}

/// What a node answered, whatever its status.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    /// Null when the body is no JSON.
    pub body: Value,
}

impl Answer {
    /// The body of a success.
    ///
    /// # Panics
    /// When the status is not 2xx.
    #[track_caller]
    pub fn ok(self) -> Value {
        assert!((200..300).contains(&self.status), "expected a success, got {} {}", self.status, self.body);
        self.body
    }

    /// The problem's code.
    ///
    /// # Panics
    /// When the status is another or the body is no problem.
    #[track_caller]
    pub fn refused(&self, status: u16) -> &str {
        assert_eq!(self.status, status, "{}", self.body);
        let content_type = self.headers.get("content-type").and_then(|value| value.to_str().ok());
        assert!(content_type.is_some_and(|kind| kind.starts_with("application/problem+json")), "{content_type:?}");
        self.body["code"].as_str().expect("a problem has a code")
    }

    /// A header that holds a number.
    ///
    /// # Panics
    /// When it is missing or is none.
    #[track_caller]
    pub fn header_number(&self, name: &str) -> u64 {
        let value = self.headers.get(name).and_then(|value| value.to_str().ok());
        value.and_then(|text| text.parse().ok()).unwrap_or_else(|| panic!("{name} is {value:?}"))
    }
}

impl Api {
    /// # Panics
    /// When no HTTP client can be built.
    pub fn new(address: &str) -> Self {
        let http = reqwest::Client::builder()
            .no_proxy()
            .tls_certs_only([])
            .timeout(TIMEOUT)
            .build()
            .expect("a plain client");
        Self { base: format!("http://{address}"), http, token: None }
    }

    /// A client port with TLS, whose certificate is of this authority.
    ///
    /// # Panics
    /// When the authority cannot be read.
    pub fn secured(address: &str, ca: &Path) -> Self {
        let ca = std::fs::read(ca).expect("an authority");
        let ca = Certificate::from_pem_bundle(&ca).expect("PEM certificates");
        let http = reqwest::Client::builder().no_proxy().tls_certs_only(ca).timeout(TIMEOUT);
        let http = http.build().expect("a client with an authority");
        Self { base: format!("https://{address}"), http, token: None }
    }

    /// The same, saying by this token who asks.
    #[must_use]
    pub fn with_token(self, token: &str) -> Self {
        Self { token: Some(token.to_owned()), ..self }
    }

    /// The same, not saying who asks.
    #[must_use]
    pub fn without_token(self) -> Self {
        Self { token: None, ..self }
    }

    /// A request to be filled and given to [`Self::send`].
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.http.request(method, format!("{}{path}", self.base));
        match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }

    /// # Errors
    /// When no whole answer came.
    pub async fn send(&self, request: RequestBuilder) -> Result<Answer, reqwest::Error> {
        let response = request.send().await?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let body = serde_json::from_slice(&response.bytes().await?).unwrap_or(Value::Null);
        Ok(Answer { status, headers, body })
    }

    /// The head of an event stream; its body may go on for as long as it likes.
    pub(crate) async fn watch(&self, query: &str, last_id: &str) -> Result<reqwest::Response, reqwest::Error> {
        let request = self.request(Method::GET, &format!("/api/services/watch{query}"));
        request.header("last-event-id", last_id).timeout(WATCH_TIMEOUT).send().await
    }

    /// # Errors
    /// When no whole answer came.
    pub async fn try_get(&self, path: &str) -> Result<Answer, reqwest::Error> {
        self.send(self.request(Method::GET, path).timeout(Duration::from_secs(3))).await
    }

    /// # Errors
    /// When no whole answer came.
    pub async fn try_post(&self, path: &str, body: &Value) -> Result<Answer, reqwest::Error> {
        self.send(self.request(Method::POST, path).json(body)).await
    }

    /// # Panics
    /// When no whole answer came.
    pub async fn get(&self, path: &str) -> Answer {
        self.send(self.request(Method::GET, path)).await.unwrap_or_else(|e| panic!("GET {path}: {e:?}"))
    }

    /// What a gauge or counter without labels is, if the node answers.
    pub async fn metric(&self, name: &str) -> Option<u64> {
        let text = self.request(Method::GET, "/metrics").send().await.ok()?.text().await.ok()?;
        text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
    }

    /// # Panics
    /// When no whole answer came.
    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        self.try_post(path, body).await.unwrap_or_else(|e| panic!("POST {path}: {e:?}"))
    }

    /// # Panics
    /// When no whole answer came.
    pub async fn delete(&self, path: &str) -> Answer {
        self.send(self.request(Method::DELETE, path)).await.unwrap_or_else(|e| panic!("DELETE {path}: {e:?}"))
    }

    /// Registers an instance of service `web`; answers its lease.
    ///
    /// # Panics
    /// When it is not registered.
    pub async fn register(&self, id: &str, ttl_ms: u64) -> u64 {
        let body = json!({ "id": id, "name": "web", "url": format!("http://{id}"), "ttl_ms": ttl_ms });
        let answer = self.post("/api/services/register", &body).await.ok();
        answer["lease"]["id"].as_u64().expect("a lease")
    }

    /// The ids of all instances, page by page, at one revision.
    ///
    /// # Errors
    /// The first answer that is no success.
    ///
    /// # Panics
    /// When no whole answer came or it is not what the contract says.
    pub async fn ids(&self, query: &str) -> Result<Vec<String>, Answer> {
        let (mut ids, mut cursor) = (Vec::new(), String::new());
        loop {
            let answer = self.get(&format!("/api/services?limit=1000&{query}{cursor}")).await;
            if answer.status != 200 {
                return Err(answer);
            }
            let services = answer.body["services"].as_array().expect("a list of services");
            ids.extend(services.iter().map(|service| service["id"].as_str().expect("an id").to_owned()));
            match answer.body["next_cursor"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => {
                    assert_eq!(answer.body["total_count"], ids.len(), "the count is not that of the pages");
                    return Ok(ids);
                }
            }
        }
    }

    /// The cluster as this node sees it, if it answers.
    pub async fn status(&self) -> Option<Value> {
        let answer = self.try_get("/api/cluster/status").await.ok()?;
        (answer.status == 200).then_some(answer.body)
    }

    /// Whether the node says that it is ready.
    pub async fn is_ready(&self) -> bool {
        self.try_get("/readyz").await.is_ok_and(|answer| answer.status == 200)
    }
}
