//! The client and its operations: one method for each route.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use reqwest::{Method, Url};
use rollcall_api::header::TENANT_ID;
use rollcall_api::{
    ClusterChangeResponse, ClusterStatusResponse, CreateJoinTokenRequest, CreatedJoinToken, CreatedToken,
    DeregisterResponse, DigestResponse, DiscoverResponse, HeartbeatRequest, HeartbeatResponse, HeartbeatsRequest,
    HeartbeatsResponse, JoinTokensResponse, RegisterResponse, RevokeJoinTokenResponse, RevokeTokenResponse,
    RotateTokenRequest, ServiceObject, TokensResponse,
};
use rollcall_signature::{SigningKey, SigningKeyError};
use serde::Serialize;

use crate::backup::Backup;
use crate::cluster::{ChangeTerms, ClusterChange};
use crate::error::{BuildError, Error};
use crate::keep_alive::KeepAlive;
use crate::query::{Consistency, DiscoverQuery, Federated, WatchQuery};
use crate::request::{Repeat, Request};
use crate::tls;
use crate::watch::Watch;

/// How long a connection may take to be made. Nodes stand in one network; a dead one must not use up the request.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

const TOKENS: [&str; 2] = ["api", "tokens"];

const JOIN_TOKENS: [&str; 3] = ["api", "cluster", "tokens"];

const TIMEOUT_DEFAULT: Duration = Duration::from_secs(10);

/// Three of the bookmarks that a node sends while nothing changes.
const WATCH_SILENCE_MAX_DEFAULT: Duration = Duration::from_secs(30);

/// Speaks to a cluster through any of its nodes. Cheap to clone; clones share their connections.
#[derive(Clone, Debug)]
pub struct Client {
    shared: Arc<Shared>,
    timeout: Duration,
}

#[derive(Debug)]
struct Shared {
    http: reqwest::Client,
    /// Never empty.
    endpoints: Vec<Url>,
    /// The endpoint that answered last.
    preferred: AtomicUsize,
    watch_silence_max: Duration,
    /// What is registered and taken off is signed by it.
    signing_key: Option<SigningKey>,
}

/// What a [`Client`] is made of.
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct Builder {
    endpoints: Vec<String>,
    token: Option<String>,
    tenant: Option<String>,
    ca: Option<Vec<u8>>,
    identity: Option<Vec<u8>>,
    signing_key: Option<Result<SigningKey, SigningKeyError>>,
    timeout: Option<Duration>,
    watch_silence_max: Option<Duration>,
}

impl Builder {
    /// One node's client port, as `https://10.0.0.1:7900`, `http://10.0.0.1:7900`, or short `10.0.0.1:7900`, which is
    /// https where a [`ca`](Self::ca) is given and http else. Give several, so that requests find another node when one
    /// is gone.
    pub fn endpoint(mut self, endpoint: impl Into<String>) -> Self {
        self.endpoints.push(endpoint.into());
        self
    }

    pub fn endpoints(mut self, endpoints: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.endpoints.extend(endpoints.into_iter().map(Into::into));
        self
    }

    /// This node's client port and no other.
    pub fn only_endpoint(mut self, endpoint: impl Into<String>) -> Self {
        self.endpoints = vec![endpoint.into()];
        self
    }

    /// The bearer token that says who asks.
    pub fn token(mut self, token: impl Into<String>) -> Self {
        self.token = Some(token.into());
        self
    }

    /// The tenant. Default: the one that the token is for, or `default`.
    pub fn tenant(mut self, tenant: impl Into<String>) -> Self {
        self.tenant = Some(tenant.into());
        self
    }

    /// Nodes are trusted whose certificate is of one of these authorities (PEM), and no others. Without it those are
    /// trusted that this machine trusts. Nothing is then sent over plain http.
    pub fn ca(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.ca = Some(pem.into());
        self
    }

    /// A certificate with its chain, and its key (both PEM), for nodes that ask clients for one.
    pub fn client_certificate(mut self, cert_pem: impl AsRef<[u8]>, key_pem: impl AsRef<[u8]>) -> Self {
        self.identity = Some([cert_pem.as_ref(), b"\n", key_pem.as_ref()].concat());
        self
    }

    /// Signs whatever is registered and taken off by this Ed25519 key (PKCS #8, PEM), which is the owner's: a registration
    /// that names no owner is refused then.
    pub fn signing_key(mut self, pem: &str) -> Self {
        self.signing_key = Some(SigningKey::from_pem(pem));
        self
    }

    /// How long one request may take in all, over all endpoints it tries. Default 10 s; a node holds a request no
    /// longer than 60 s.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// After how long without a word a watch takes its connection for dead. Default 30 s: a node says something at
    /// least every 10 s.
    pub fn watch_silence_max(mut self, silence_max: Duration) -> Self {
        self.watch_silence_max = Some(silence_max);
        self
    }

    /// # Errors
    /// When no endpoint is given, one is no URL of a node, token or tenant do not fit into a header, or certificates
    /// cannot be used.
    pub fn build(self) -> Result<Client, BuildError> {
        let secure = self.ca.is_some();
        let endpoints =
            self.endpoints.iter().map(|text| parse_endpoint(text, secure)).collect::<Result<Vec<_>, _>>()?;
        if endpoints.is_empty() {
            return Err(BuildError::NoEndpoint);
        }
        let mut headers = HeaderMap::new();
        if let Some(token) = &self.token {
            let mut value = HeaderValue::from_str(&format!("Bearer {token}"))
                .map_err(|_| BuildError::Header { what: "token", header: "Authorization" })?;
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        if let Some(tenant) = &self.tenant {
            let value = HeaderValue::from_str(tenant)
                .map_err(|_| BuildError::Header { what: "tenant", header: "X-Tenant-ID" })?;
            headers.insert(TENANT_ID, value);
        }
        let http = tls::configure(reqwest::Client::builder(), self.ca, self.identity, &endpoints)?
            .default_headers(headers)
            .user_agent(concat!("rollcall-client/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT_TIMEOUT)
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .build()
            .map_err(|source| BuildError::Http { source })?;
        let watch_silence_max = self.watch_silence_max.unwrap_or(WATCH_SILENCE_MAX_DEFAULT);
        let signing_key = self.signing_key.transpose().map_err(|source| BuildError::SigningKey { source })?;
        let shared = Shared { http, endpoints, preferred: AtomicUsize::new(0), watch_silence_max, signing_key };
        Ok(Client { shared: Arc::new(shared), timeout: self.timeout.unwrap_or(TIMEOUT_DEFAULT) })
    }
}

/// `secure` is whether plain http is out of the question.
fn parse_endpoint(text: &str, secure: bool) -> Result<Url, BuildError> {
    let invalid = |reason| BuildError::Endpoint { endpoint: text.to_owned(), reason };
    let scheme = if secure { "https" } else { "http" };
    let full = if text.contains("://") { text.to_owned() } else { format!("{scheme}://{text}") };
    let url = Url::parse(&full).map_err(|_| invalid("it cannot be parsed"))?;
    match url.scheme() {
        "https" => {}
        // A token must not go over the wire in the clear because somebody forgot a letter.
        "http" if secure => return Err(invalid("it is plain http, but a certificate authority is given: use https")),
        "http" => {}
        _ => return Err(invalid("the scheme is neither https nor http")),
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(invalid("it has a query or a fragment"));
    }
    Ok(url)
}

/// What must hold for a registration to take place; otherwise the node answers 412 `precondition_failed` with the
/// current revision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// The id is not on the roll.
    Absent,
    /// The id is on the roll, and its last change is this revision.
    Revision(u64),
}

impl Client {
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// The same client with another timeout for each request.
    #[must_use]
    pub fn with_timeout(&self, timeout: Duration) -> Self {
        Self { shared: Arc::clone(&self.shared), timeout }
    }

    /// Registers, or replaces what is registered under the id. `registration` is a [`RegisterRequest`](crate::RegisterRequest), or any value
    /// that becomes such JSON: the node checks it and names every fault.
    ///
    /// The same content again is a renewal, so this is repeated when its outcome is unknown; not so when the id is
    /// left to the node, because a second time would make a second instance.
    ///
    /// # Errors
    /// 400 with every fault of the registration in [`Problem::errors`](crate::Problem::errors).
    pub async fn register(&self, registration: &impl Serialize) -> Result<RegisterResponse, Error> {
        let document = serde_json::to_value(registration).map_err(|source| Error::Request { source })?;
        self.register_document(&document, None).await
    }

    /// Registers if `condition` holds. Not repeated when its outcome is unknown.
    ///
    /// # Errors
    /// As [`register`](Self::register), and 412 when the condition does not hold.
    pub async fn register_if(
        &self,
        registration: &impl Serialize,
        condition: Condition,
    ) -> Result<RegisterResponse, Error> {
        let document = serde_json::to_value(registration).map_err(|source| Error::Request { source })?;
        self.register_document(&document, Some(condition)).await
    }

    /// Registers, and returns what keeps the registration alive.
    ///
    /// # Errors
    /// As [`register`](Self::register).
    pub async fn keep_alive(&self, registration: &impl Serialize) -> Result<KeepAlive, Error> {
        let document = serde_json::to_value(registration).map_err(|source| Error::Request { source })?;
        KeepAlive::start(self.clone(), document).await
    }

    /// Renews a lease, and reports a status or metadata where given.
    ///
    /// # Errors
    /// 404 `lease_not_found`: register again. 409 `lease_superseded`: a newer registration holds this id; stop.
    pub async fn heartbeat(&self, id: &str, heartbeat: &HeartbeatRequest) -> Result<HeartbeatResponse, Error> {
        let path = ["api", "services", addressable(id)?, "heartbeat"];
        self.send(&Request::new(Method::POST, &path, Repeat::Safe).json(heartbeat)?).await
    }

    /// Renews many leases at once, at most 10,000. The answer names those that were not renewed.
    ///
    /// # Errors
    /// 400 for more leases than that.
    pub async fn heartbeats(&self, leases: &[u64]) -> Result<HeartbeatsResponse, Error> {
        let body = HeartbeatsRequest { leases: leases.to_vec() };
        self.send(&Request::new(Method::POST, &["api", "heartbeats"], Repeat::Safe).json(&body)?).await
    }

    /// Takes an instance off the roll. With `lease_id` only if that lease still holds it. Not repeated when its outcome
    /// is unknown: a registration made in between would be struck off.
    ///
    /// # Errors
    /// 404 `not_found`; 409 `lease_superseded` when a newer registration holds the id.
    pub async fn deregister(&self, id: &str, lease_id: Option<u64>) -> Result<DeregisterResponse, Error> {
        let path = ["api", "services", addressable(id)?];
        let parameters = lease_id.map(|lease| ("lease_id", lease.to_string())).into_iter().collect();
        let request = Request::new(Method::DELETE, &path, Repeat::IfNotApplied).query(parameters);
        let request = match self.signed_deregistration(id).await? {
            Some(signed) => request.json(&signed)?,
            None => request,
        };
        self.send(&request).await
    }

    /// One instance by its id.
    ///
    /// # Errors
    /// 404 `not_found` when it is not on the roll or not to be seen.
    pub async fn get(&self, id: &str, consistency: Consistency) -> Result<ServiceObject, Error> {
        self.get_federated(id, consistency, Federated::No).await
    }

    /// As [`Self::get`]; where this cluster has none of that id, another one's if it is asked for.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub async fn get_federated(
        &self,
        id: &str,
        consistency: Consistency,
        federated: Federated,
    ) -> Result<ServiceObject, Error> {
        let path = ["api", "services", addressable(id)?];
        let request = Request::new(Method::GET, &path, Repeat::Safe).query(consistency.parameters());
        self.send(&request.query(federated.parameters())).await
    }

    /// Who is present and fits the query.
    ///
    /// # Errors
    /// 400 for a malformed filter; 410 `cursor_expired`; 503 and 504 when the wanted consistency cannot be had in time.
    pub async fn discover(&self, query: &DiscoverQuery) -> Result<DiscoverResponse, Error> {
        self.send(&Request::new(Method::GET, &["api", "services"], Repeat::Safe).query(query.parameters())).await
    }

    /// Follows who comes, changes and goes: a stream that heals itself. It is taken by a node when this returns; until
    /// then it is a request like any other. To have the picture at hand instead of its changes, see
    /// [`Directory`](crate::Directory).
    ///
    /// # Errors
    /// 400 for a malformed filter; 429 `too_many_watchers`; 503 and 504 when no node reaches the start in time. A start
    /// whose history is gone is no error: the watch then begins with [`Init`](crate::WatchEvent::Init).
    pub async fn watch(&self, query: &WatchQuery) -> Result<Watch, Error> {
        Watch::open(self.clone(), query).await
    }

    /// How the cluster looks from the node that answers.
    ///
    /// # Errors
    /// Only when no node answers: a cluster without a leader has a status too.
    pub async fn cluster_status(&self) -> Result<ClusterStatusResponse, Error> {
        self.send(&Request::new(Method::GET, &["api", "cluster", "status"], Repeat::Safe)).await
    }

    /// Changes who belongs to the cluster, who votes, or who leads. Not repeated when its outcome is unknown: the
    /// cluster's status shows what came of it.
    ///
    /// # Errors
    /// 404 `node_not_found`; 409 with what stands in the way, as `quorum_at_risk` or `membership_changed`.
    pub async fn change_cluster(
        &self,
        change: &ClusterChange,
        terms: ChangeTerms,
    ) -> Result<ClusterChangeResponse, Error> {
        let request = change.request()?.query(terms.parameters());
        self.send(&request).await
    }

    /// Makes a token with which nodes join. Not repeated when its outcome is unknown: one may be there whose secret
    /// nobody knows, and that expires by itself.
    ///
    /// # Errors
    /// 400 for a lifetime or a number of uses beyond the bounds; 409 `too_many_join_tokens`.
    pub async fn create_join_token(&self, token: &CreateJoinTokenRequest) -> Result<CreatedJoinToken, Error> {
        self.send(&Request::new(Method::POST, &JOIN_TOKENS, Repeat::IfNotApplied).json(token)?).await
    }

    /// All join tokens, without their secrets.
    ///
    /// # Errors
    /// 503 while no leader is known.
    pub async fn join_tokens(&self) -> Result<JoinTokensResponse, Error> {
        self.send(&Request::new(Method::GET, &JOIN_TOKENS, Repeat::Safe)).await
    }

    /// Revokes a join token by its id.
    ///
    /// # Errors
    /// 404 `join_token_not_found`.
    pub async fn revoke_join_token(&self, id: &str) -> Result<RevokeJoinTokenResponse, Error> {
        let [api, cluster, tokens] = JOIN_TOKENS;
        let path = [api, cluster, tokens, addressable(id)?];
        self.send(&Request::new(Method::DELETE, &path, Repeat::IfNotApplied)).await
    }

    /// Makes a token that says who asks. `token` is a [`CreateTokenRequest`](rollcall_api::CreateTokenRequest), or any value that
    /// becomes such JSON. Not repeated when its outcome is unknown: one may be there whose secret nobody knows.
    ///
    /// # Errors
    /// 400 with every fault; 403 for more than whoever asks may do; 409 `too_many_tokens`.
    pub async fn create_token(&self, token: &impl Serialize) -> Result<CreatedToken, Error> {
        self.send(&Request::new(Method::POST, &TOKENS, Repeat::IfNotApplied).json(token)?).await
    }

    /// All tokens that whoever asks may administer, without their secrets.
    ///
    /// # Errors
    /// 503 while no leader is known.
    pub async fn tokens(&self) -> Result<TokensResponse, Error> {
        self.send(&Request::new(Method::GET, &TOKENS, Repeat::Safe)).await
    }

    /// Gives a token another secret. Not repeated when its outcome is unknown.
    ///
    /// # Errors
    /// 404 `token_not_found`; 409 `token_over`.
    pub async fn rotate_token(&self, id: &str, rotation: &RotateTokenRequest) -> Result<CreatedToken, Error> {
        let [api, tokens] = TOKENS;
        let path = [api, tokens, addressable(id)?, "rotate"];
        self.send(&Request::new(Method::POST, &path, Repeat::IfNotApplied).json(rotation)?).await
    }

    /// Revokes a token by its id. A second time changes nothing more.
    ///
    /// # Errors
    /// 404 `token_not_found`.
    pub async fn revoke_token(&self, id: &str) -> Result<RevokeTokenResponse, Error> {
        let [api, tokens] = TOKENS;
        let path = [api, tokens, addressable(id)?];
        self.send(&Request::new(Method::DELETE, &path, Repeat::Safe)).await
    }

    /// The digest of a node's whole state at exactly log index `index`, or where the node now is.
    ///
    /// # Errors
    /// 410 when the node is past that index and no longer knows it.
    pub async fn digest(&self, index: Option<u64>) -> Result<DigestResponse, Error> {
        let parameters = index.map(|index| ("index", index.to_string())).into_iter().collect();
        self.send(&Request::new(Method::GET, &["api", "cluster", "digest"], Repeat::Safe).query(parameters)).await
    }

    /// The whole roll of all tenants as one file, from one node, while it serves. Another node is asked when one takes too
    /// many; from where it began to come it comes on.
    ///
    /// # Errors
    /// 429 `too_many_backups`; 503 `not_ready`.
    pub async fn backup(&self) -> Result<Backup, Error> {
        let request = Request::new(Method::GET, &["api", "cluster", "backup"], Repeat::Safe);
        let (at, response) = self.open(&request).await?;
        Ok(Backup { endpoint: self.shared.endpoints[at].to_string(), response })
    }

    /// Whether each endpoint is ready to serve, asked once and of all at the same time, in the order they were given.
    pub async fn ready(&self) -> Vec<Readiness> {
        let mut asked = tokio::task::JoinSet::new();
        for (at, endpoint) in self.shared.endpoints.iter().enumerate() {
            let mut url = endpoint.clone();
            url.path_segments_mut()
                .expect("the builder accepts only http URLs, and those have a path")
                .pop_if_empty()
                .push("readyz");
            let get = self.shared.http.get(url).timeout(self.timeout);
            asked.spawn(async move {
                let fault = match get.send().await {
                    Ok(response) if response.status().is_success() => None,
                    Ok(response) => Some(format!("answers {}", response.status())),
                    Err(error) => Some(match tls::trouble(&error) {
                        Some(trouble) => trouble.to_string(),
                        None if error.is_connect() => "nobody listens".to_owned(),
                        None => "does not answer".to_owned(),
                    }),
                };
                (at, fault)
            });
        }
        let mut answers = asked.join_all().await;
        answers.sort_by_key(|(at, _)| *at);
        let endpoints = self.shared.endpoints.iter().map(Url::to_string);
        endpoints.zip(answers).map(|(endpoint, (_, fault))| Readiness { endpoint, fault }).collect()
    }

    pub(crate) fn http(&self) -> &reqwest::Client {
        &self.shared.http
    }

    pub(crate) fn timeout(&self) -> Duration {
        self.timeout
    }

    pub(crate) fn timeout_ms(&self) -> u64 {
        u64::try_from(self.timeout.as_millis()).unwrap_or(u64::MAX)
    }

    pub(crate) fn signing_key(&self) -> Option<&SigningKey> {
        self.shared.signing_key.as_ref()
    }

    pub(crate) fn watch_silence_max(&self) -> Duration {
        self.shared.watch_silence_max
    }

    pub(crate) fn endpoints(&self) -> &[Url] {
        &self.shared.endpoints
    }

    /// Positions of the endpoints, beginning with the one that answered last.
    pub(crate) fn endpoints_in_order(&self) -> impl Iterator<Item = usize> + use<> {
        let count = self.shared.endpoints.len();
        let first = self.shared.preferred.load(Ordering::Relaxed);
        (0..count).map(move |step| (first + step) % count)
    }

    pub(crate) fn prefer(&self, endpoint: usize) {
        self.shared.preferred.store(endpoint, Ordering::Relaxed);
    }
}

/// What one endpoint says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Readiness {
    pub endpoint: String,
    /// Why it is not ready; none when it is.
    pub fault: Option<String>,
}

/// Whether it is absence that is demanded, and the header's value.
pub(crate) fn condition_header(condition: Condition) -> (bool, HeaderValue) {
    match condition {
        Condition::Absent => (true, HeaderValue::from_static("*")),
        Condition::Revision(revision) => {
            let tag = HeaderValue::from_str(&format!("\"{revision}\""));
            (false, tag.expect("digits in quotes are a header value"))
        }
    }
}

/// An id as a path segment. `.` and `..` do not survive in a URL, and nothing would name another route.
pub(crate) fn addressable(id: &str) -> Result<&str, Error> {
    if matches!(id, "" | "." | "..") { Err(Error::Id { id: id.to_owned() }) } else { Ok(id) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_http_urls_or_host_and_port() {
        let build = |endpoint: &str| Client::builder().endpoint(endpoint).build();
        assert!(build("http://127.0.0.1:7900").is_ok());
        assert!(build("[::1]:7900").is_ok());
        let client = build("node-1:7900").expect("an endpoint without a scheme");
        assert_eq!(client.endpoints()[0].as_str(), "http://node-1:7900/");
        assert_eq!(build("https://node-1:7900").expect("https").endpoints()[0].as_str(), "https://node-1:7900/");
        for endpoint in ["ftp://a", "http://", "http://a?b", ""] {
            assert!(matches!(build(endpoint), Err(BuildError::Endpoint { .. })), "{endpoint}");
        }
        assert!(matches!(Client::builder().build(), Err(BuildError::NoEndpoint)));
    }

    #[test]
    fn with_an_authority_nothing_is_plain() {
        let endpoint = |text: &str| parse_endpoint(text, true).map(|url| url.to_string());
        assert_eq!(endpoint("node-1:7900").expect("a short one"), "https://node-1:7900/");
        let refused = endpoint("http://node-1:7900").expect_err("plain http");
        assert!(refused.to_string().contains("use https"), "{refused}");
    }

    #[test]
    fn certificates_that_are_none_are_refused() {
        let builder = || Client::builder().endpoint("https://a");
        for ca in ["", "no PEM"] {
            assert!(matches!(builder().ca(ca).build(), Err(BuildError::NoAuthority)), "{ca}");
        }
        let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        assert!(matches!(builder().ca(broken).build(), Err(BuildError::Http { .. })));
        let built = builder().client_certificate("no PEM", "no PEM").build();
        assert!(matches!(built, Err(BuildError::ClientCertificate { .. })), "{built:?}");
    }

    #[test]
    fn a_token_that_fits_no_header_is_refused() {
        let build = Client::builder().endpoint("http://a").token("a\nb").build();
        assert!(matches!(build, Err(BuildError::Header { what: "token", .. })));
    }

    #[tokio::test]
    async fn ids_that_name_another_route_are_refused() {
        let client = Client::builder().endpoint("http://127.0.0.1:9").build().expect("a client");
        for id in ["", ".", ".."] {
            assert!(matches!(client.get(id, Consistency::default()).await, Err(Error::Id { .. })), "{id}");
        }
    }
}
