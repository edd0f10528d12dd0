//! How one request finds a node that answers it.
//!
//! Endpoints are tried in the given order, beginning with the one that answered last. What sends a request on to the
//! next one: the connection could not be made, or the node says that it cannot answer now (502, 503, 504). What also
//! does, when the request may happen twice: the connection broke, or the node stayed silent for its share of the
//! time. After a round without an answer comes a pause that grows, until the request's timeout is over. A round in
//! which nobody was even listening ends at once: waiting for a cluster to be started is the caller's decision.

use std::time::Duration;

use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use reqwest::{Method, StatusCode, Url};
use rollcall_api::Problem;
use rollcall_api::header::REQUEST_TIMEOUT_MS;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::Instant;

use crate::client::Client;
use crate::error::Error;

const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// The longest deadline a node accepts.
const NODE_TIMEOUT_MS_MAX: u64 = 60_000;

/// Whether a request may be sent again when nobody knows what became of it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Repeat {
    /// It changes nothing, or a second time changes nothing more.
    Safe,
    /// Only when it certainly was not carried out.
    IfNotApplied,
}

pub(crate) struct Request {
    method: Method,
    /// Path segments, not yet percent-encoded.
    path: Vec<String>,
    query: Vec<(&'static str, String)>,
    headers: HeaderMap,
    body: Option<Vec<u8>>,
    repeat: Repeat,
}

impl Request {
    pub(crate) fn new(method: Method, path: &[&str], repeat: Repeat) -> Self {
        let path = path.iter().map(|&segment| segment.to_owned()).collect();
        Self { method, path, query: Vec::new(), headers: HeaderMap::new(), body: None, repeat }
    }

    pub(crate) fn query(mut self, parameters: Vec<(&'static str, String)>) -> Self {
        self.query.extend(parameters);
        self
    }

    pub(crate) fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.insert(name, value);
        self
    }

    pub(crate) fn json<T: Serialize>(mut self, body: &T) -> Result<Self, Error> {
        self.body = Some(serde_json::to_vec(body).map_err(|source| Error::Request { source })?);
        Ok(self)
    }

    fn url(&self, endpoint: &Url) -> Url {
        let mut url = endpoint.clone();
        url.path_segments_mut()
            .expect("the builder accepts only http URLs, and those have a path")
            .pop_if_empty()
            .extend(&self.path);
        if !self.query.is_empty() {
            url.query_pairs_mut().extend_pairs(&self.query);
        }
        url
    }
}

/// What one attempt at one endpoint came to, when it did not end the request.
struct Failure {
    error: Error,
    /// Nobody listened: no node saw the request.
    unsent: bool,
}

/// What the attempts came to so far.
#[derive(Default)]
struct Vain {
    /// The last refusal: what a node said tells more than another's silence.
    refusal: Option<Error>,
    silence: Option<Error>,
    outcome_unknown: bool,
}

impl Vain {
    fn add(&mut self, error: Error) {
        self.outcome_unknown |= error.may_have_been_applied();
        match error {
            Error::Refused { .. } => self.refusal = Some(error),
            _ => self.silence = Some(error),
        }
    }

    /// A caller asked for one timeout and is told of that one, not of an endpoint's share.
    fn into_error(self, client: &Client) -> Error {
        let error = match self.refusal.or(self.silence) {
            Some(Error::Timeout { endpoint, may_have_been_applied, .. }) => {
                Error::Timeout { endpoint, timeout_ms: client.timeout_ms(), may_have_been_applied }
            }
            Some(error) => error,
            None => Error::Timeout {
                endpoint: client.endpoints()[0].to_string(),
                timeout_ms: client.timeout_ms(),
                may_have_been_applied: false,
            },
        };
        error.after_unknown_outcome(self.outcome_unknown)
    }
}

impl Client {
    /// Sends a request until a node answers it or the timeout is over.
    pub(crate) async fn send<T: DeserializeOwned>(&self, request: &Request) -> Result<T, Error> {
        let deadline = Instant::now() + self.timeout();
        let left = || deadline.saturating_duration_since(Instant::now());
        let mut pause = PAUSE_MIN;
        let mut vain = Vain::default();
        loop {
            let mut somebody_listened = false;
            for (step, at) in self.endpoints_in_order().enumerate() {
                // A node that hangs costs its share of the time and not all of it, where the request may be repeated.
                let share = match request.repeat {
                    Repeat::Safe => left() / u32::try_from(self.endpoints().len() - step).unwrap_or(u32::MAX),
                    Repeat::IfNotApplied => left(),
                };
                if share.is_zero() {
                    break;
                }
                match self.attempt(&self.endpoints()[at], request, share).await {
                    Ok(answer) => {
                        self.prefer(at);
                        return Ok(answer);
                    }
                    Err(Failure { error, unsent }) => {
                        somebody_listened |= !unsent;
                        let repeatable = request.repeat == Repeat::Safe || !error.may_have_been_applied();
                        if !(repeatable && is_elsewhere_worth_trying(&error)) {
                            return Err(error.after_unknown_outcome(vain.outcome_unknown));
                        }
                        tracing::debug!(%error, "trying the next endpoint");
                        vain.add(error);
                    }
                }
            }
            if left() < PAUSE_MIN || !somebody_listened {
                return Err(vain.into_error(self));
            }
            tokio::time::sleep(pause.mul_f64(rand::random_range(0.5..=1.0)).min(left() / 2)).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    async fn attempt<T: DeserializeOwned>(
        &self,
        endpoint: &Url,
        request: &Request,
        timeout: Duration,
    ) -> Result<T, Failure> {
        // A little less for the node, so that its own word about a missed deadline arrives in time.
        let node_timeout_ms = u64::try_from((timeout * 9 / 10).as_millis()).unwrap_or(u64::MAX);
        let node_timeout_ms = node_timeout_ms.clamp(1, NODE_TIMEOUT_MS_MAX);
        let mut builder = self
            .http()
            .request(request.method.clone(), request.url(endpoint))
            .headers(request.headers.clone())
            .header(REQUEST_TIMEOUT_MS, node_timeout_ms)
            .timeout(timeout);
        if let Some(body) = &request.body {
            builder = builder.header(reqwest::header::CONTENT_TYPE, "application/json").body(body.clone());
        }
        let transport_failure = |source: reqwest::Error| {
            let unsent = source.is_connect();
            let endpoint = endpoint.to_string();
            let error = if source.is_timeout() && !unsent {
                let timeout_ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
                Error::Timeout { endpoint, timeout_ms, may_have_been_applied: true }
            } else {
                Error::Unreachable { endpoint, may_have_been_applied: !unsent, source: source.without_url() }
            };
            Failure { error, unsent }
        };
        let response = builder.send().await.map_err(transport_failure)?;
        let status = response.status();
        let body = response.bytes().await.map_err(transport_failure)?;
        if !status.is_success() {
            let error = Error::Refused { status: status.as_u16(), problem: Box::new(problem(status, &body)) };
            return Err(Failure { error, unsent: false });
        }
        serde_json::from_slice(&body).map_err(|source| {
            let error = Error::Answer { endpoint: endpoint.to_string(), status: status.as_u16(), source };
            Failure { error, unsent: false }
        })
    }
}

/// What a node says, or, when something between it and us answered, what that status means.
fn problem(status: StatusCode, body: &[u8]) -> Problem {
    serde_json::from_slice(body).unwrap_or_else(|_| Problem {
        status: status.as_u16(),
        title: status.canonical_reason().unwrap_or("unknown status").to_owned(),
        code: "not_a_rollcall_answer".to_owned(),
        ..Problem::default()
    })
}

/// Whether another node may do what this one could not.
fn is_elsewhere_worth_trying(error: &Error) -> bool {
    match error {
        Error::Unreachable { .. } | Error::Timeout { .. } => true,
        Error::Refused { status, .. } => matches!(status, 502..=504),
        Error::Answer { .. } | Error::Request { .. } | Error::Id { .. } => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_percent_encoded_as_one_path_segment() {
        let request = Request::new(Method::GET, &["api", "services", "a/b c?d"], Repeat::Safe);
        let url = request.url(&Url::parse("http://127.0.0.1:7900").expect("a URL"));
        assert_eq!(url.as_str(), "http://127.0.0.1:7900/api/services/a%2Fb%20c%3Fd");
    }

    #[test]
    fn an_endpoint_may_have_a_path_of_its_own() {
        let request = Request::new(Method::GET, &["readyz"], Repeat::Safe).query(vec![("verbose", String::new())]);
        for endpoint in ["http://gateway/rollcall", "http://gateway/rollcall/"] {
            let url = request.url(&Url::parse(endpoint).expect("a URL"));
            assert_eq!(url.as_str(), "http://gateway/rollcall/readyz?verbose=");
        }
    }
}
