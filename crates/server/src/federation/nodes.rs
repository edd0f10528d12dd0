//! Another cluster's nodes, as its operator's terms name them.

use std::error::Error as StdError;
use std::time::Duration;

use reqwest::header::CONTENT_TYPE;
use reqwest::redirect::Policy;
use reqwest::{Certificate, Client, StatusCode, Url};
use rollcall_api::Problem;
use rollcall_registry::PeerTerms;
use serde::de::DeserializeOwned;

use crate::tls::machine_authorities;

/// Where a cluster takes what it is told.
pub(super) const MESSAGES: &str = "messages";

/// Where it is asked for what it has to tell.
pub(super) const CHANGES: &str = "changes";

/// One request, until its answer has come whole.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// Why a cluster was not reached.
#[derive(Debug, thiserror::Error)]
pub(super) enum NodesError {
    #[error("make a client for the peer")]
    Client(#[source] reqwest::Error),
    #[error("`{url}` is no http or https URL")]
    Url { url: String },
    #[error("reach {url}")]
    Reach {
        url: String,
        #[source]
        source: reqwest::Error,
    },
    #[error("{url} refused: {code}: {detail}")]
    Refused { url: String, code: String, detail: String },
    #[error("{url} answered {status} with something else than was asked for")]
    Answer { url: String, status: StatusCode },
}

pub(super) fn in_one_line(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

/// The peer's nodes, and which of them answered last.
#[derive(Debug)]
pub(super) struct Nodes {
    http: Client,
    urls: Vec<Url>,
    at: usize,
}

/// Follows no redirect, and believes the peer's own authorities where it has some.
fn client(ca: Option<&str>) -> Result<Client, reqwest::Error> {
    let client = Client::builder().redirect(Policy::none()).timeout(REQUEST_TIMEOUT).connect_timeout(CONNECT_TIMEOUT);
    match ca {
        Some(pem) => client.tls_certs_only(Certificate::from_pem_bundle(pem.as_bytes())?).build(),
        None => client.tls_certs_only(machine_authorities()).build(),
    }
}

/// Whether a text holds certificates.
pub(crate) fn check_authorities(pem: &str) -> Result<(), String> {
    match Certificate::from_pem_bundle(pem.as_bytes()) {
        Ok(certificates) if certificates.is_empty() => Err("there is none in it".to_owned()),
        Ok(_) => client(Some(pem)).map(drop).map_err(|error| in_one_line(&error)),
        Err(error) => Err(in_one_line(&error)),
    }
}

/// Below which address of a node the routes for other clusters are.
pub(crate) fn klp_url(url: &str) -> Option<Url> {
    let mut url = Url::parse(url).ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host())?;
    url.set_query(None);
    url.set_fragment(None);
    url.path_segments_mut().ok()?.pop_if_empty().extend(["klp", ""]);
    Some(url)
}

impl Nodes {
    pub(super) fn of(terms: &PeerTerms) -> Result<Self, NodesError> {
        let url = |url: &str| klp_url(url).ok_or_else(|| NodesError::Url { url: url.to_owned() });
        let urls = terms.urls.iter().map(|text| url(text)).collect::<Result<_, _>>()?;
        Ok(Self { http: client(terms.ca.as_deref()).map_err(NodesError::Client)?, urls, at: 0 })
    }

    /// Asks one node after the other, beginning with the one that answered last. An answer has `bytes_max` at most.
    pub(super) async fn post<T: DeserializeOwned>(
        &mut self,
        route: &str,
        body: Vec<u8>,
        bytes_max: usize,
    ) -> Result<T, NodesError> {
        let (mut last, begin) = (None, self.at);
        for step in 0..self.urls.len() {
            let at = (begin + step) % self.urls.len();
            // Whoever gives up waiting for this one begins with the next.
            self.at = (at + 1) % self.urls.len();
            let url = self.urls[at].join(route).expect("a route is a relative address");
            match post(&self.http, &url, body.clone(), bytes_max).await {
                Ok(answer) => {
                    self.at = at;
                    return Ok(answer);
                }
                Err(error) => last = Some(error),
            }
        }
        Err(last.expect("a peer has an address"))
    }
}

async fn post<T: DeserializeOwned>(
    http: &Client,
    url: &Url,
    body: Vec<u8>,
    bytes_max: usize,
) -> Result<T, NodesError> {
    let reach = |source| NodesError::Reach { url: url.to_string(), source };
    let request = http.post(url.clone()).header(CONTENT_TYPE, "application/json").body(body);
    let mut response = request.send().await.map_err(reach)?;
    let status = response.status();
    let mut text = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(reach)? {
        text.extend_from_slice(&chunk);
        if text.len() > bytes_max {
            return Err(NodesError::Answer { url: url.to_string(), status });
        }
    }
    if status.is_success() {
        return serde_json::from_slice(&text).map_err(|_| NodesError::Answer { url: url.to_string(), status });
    }
    match serde_json::from_slice::<Problem>(&text) {
        Ok(Problem { code, detail, .. }) => Err(NodesError::Refused { url: url.to_string(), code, detail }),
        Err(_) => Err(NodesError::Answer { url: url.to_string(), status }),
    }
}
