//! How one request finds a node that answers it.
//!
//! Endpoints are tried in the given order, beginning with the one that answered last. What sends a request on to the
//! next one: the connection could not be made, or the node says that it cannot answer now (502, 503, 504). What also
//! does, when the request may happen twice: the connection broke, or the node stayed silent for its share of the
//! time. After a round without an answer comes a pause that grows, until the request's timeout is over. A round in
//! which nobody was even listening ends at once: waiting for a cluster to be started is the caller's decision.

use std::time::Duration;

use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Method, RequestBuilder, Response, StatusCode, Url};
use rollcall_api::header::REQUEST_TIMEOUT_MS;
use rollcall_api::{Problem, QuotaKind};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::Instant;

use crate::client::Client;
use crate::error::{Error, WatchFault};

const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// The longest deadline a node accepts.
const NODE_TIMEOUT_MS_MAX: u64 = 60_000;

/// The media type of a stream of events.
pub(crate) const EVENT_STREAM: &str = "text/event-stream";

/// Stands for the code where something between a node and us answered.
pub(crate) const NOT_OURS: &str = "not_a_rollcall_answer";

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
        self.find_endpoint::<Whole<T>>(request).await.map(|(_, Whole(answer))| answer)
    }

    /// Opens a stream as [`send`](Self::send) sends a request, and tells which endpoint it comes from.
    pub(crate) async fn open(&self, request: &Request) -> Result<(usize, Response), Error> {
        self.find_endpoint::<Response>(request).await
    }

    async fn find_endpoint<A: Answer>(&self, request: &Request) -> Result<(usize, A), Error> {
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
                match A::attempt(self, &self.endpoints()[at], request, share).await {
                    Ok(answer) => {
                        self.prefer(at);
                        return Ok((at, answer));
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

    /// Opens a stream at one endpoint. The timeout ends where the stream begins.
    pub(crate) async fn open_at(
        &self,
        endpoint: usize,
        request: &Request,
        timeout: Duration,
    ) -> Result<Response, Error> {
        Response::attempt(self, &self.endpoints()[endpoint], request, timeout).await.map_err(|failure| failure.error)
    }

    fn prepare(&self, endpoint: &Url, request: &Request, timeout: Duration) -> RequestBuilder {
        // A little less for the node, so that its own word about a missed deadline arrives in time.
        let node_timeout_ms = u64::try_from((timeout * 9 / 10).as_millis()).unwrap_or(u64::MAX);
        let node_timeout_ms = node_timeout_ms.clamp(1, NODE_TIMEOUT_MS_MAX);
        let builder = self
            .http()
            .request(request.method.clone(), request.url(endpoint))
            .headers(request.headers.clone())
            .header(REQUEST_TIMEOUT_MS, node_timeout_ms);
        match &request.body {
            Some(body) => builder.header(CONTENT_TYPE, "application/json").body(body.clone()),
            None => builder,
        }
    }
}

/// What is wanted of a request.
trait Answer: Sized {
    /// Asks one endpoint.
    fn attempt(
        client: &Client,
        endpoint: &Url,
        request: &Request,
        timeout: Duration,
    ) -> impl Future<Output = Result<Self, Failure>> + Send;
}

/// A body that is read to its end and understood.
struct Whole<T>(T);

impl<T: DeserializeOwned> Answer for Whole<T> {
    async fn attempt(client: &Client, endpoint: &Url, request: &Request, timeout: Duration) -> Result<Self, Failure> {
        let in_vain = |source| transport_failure(endpoint, timeout, source);
        let response = client.prepare(endpoint, request, timeout).timeout(timeout).send().await.map_err(in_vain)?;
        let status = response.status();
        let body = response.bytes().await.map_err(in_vain)?;
        if !status.is_success() {
            return Err(refused(status, &body));
        }
        serde_json::from_slice(&body).map(Self).map_err(|source| {
            let error = Error::Answer { endpoint: endpoint.to_string(), status: status.as_u16(), source };
            Failure { error, unsent: false }
        })
    }
}

/// A stream that has begun, of events if they are asked for. Reading it may have no end, and has no timeout here.
impl Answer for Response {
    async fn attempt(client: &Client, endpoint: &Url, request: &Request, timeout: Duration) -> Result<Self, Failure> {
        let in_vain = |source| transport_failure(endpoint, timeout, source);
        let opened = async {
            let response = client.prepare(endpoint, request, timeout).send().await.map_err(in_vain)?;
            let status = response.status();
            if !status.is_success() {
                return Err(refused(status, &response.bytes().await.map_err(in_vain)?));
            }
            let events_wanted = request.headers.get(ACCEPT).is_some_and(|wanted| wanted == EVENT_STREAM);
            let media_type = response.headers().get(CONTENT_TYPE).map_or(&[][..], HeaderValue::as_bytes);
            if events_wanted && !media_type.starts_with(EVENT_STREAM.as_bytes()) {
                let error = Error::Watch { endpoint: endpoint.to_string(), source: WatchFault::NoStream };
                return Err(Failure { error, unsent: false });
            }
            Ok(response)
        };
        match tokio::time::timeout(timeout, opened).await {
            Ok(opened) => opened,
            Err(_) => Err(Failure { error: timed_out(endpoint, timeout), unsent: false }),
        }
    }
}

fn transport_failure(endpoint: &Url, timeout: Duration, source: reqwest::Error) -> Failure {
    let unsent = source.is_connect();
    let error = if source.is_timeout() && !unsent {
        timed_out(endpoint, timeout)
    } else {
        Error::Unreachable {
            endpoint: endpoint.to_string(),
            may_have_been_applied: !unsent,
            source: source.without_url(),
        }
    };
    Failure { error, unsent }
}

fn timed_out(endpoint: &Url, timeout: Duration) -> Error {
    let timeout_ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
    Error::Timeout { endpoint: endpoint.to_string(), timeout_ms, may_have_been_applied: true }
}

fn refused(status: StatusCode, body: &[u8]) -> Failure {
    let error = Error::Refused { status: status.as_u16(), problem: Box::new(problem(status, body)) };
    Failure { error, unsent: false }
}

/// What a node says, or, when something between it and us answered, what that status means.
fn problem(status: StatusCode, body: &[u8]) -> Problem {
    serde_json::from_slice(body).unwrap_or_else(|_| Problem {
        status: status.as_u16(),
        title: status.canonical_reason().unwrap_or("unknown status").to_owned(),
        code: NOT_OURS.to_owned(),
        ..Problem::default()
    })
}

/// Whether another node may do what this one could not.
fn is_elsewhere_worth_trying(error: &Error) -> bool {
    match error {
        Error::Unreachable { .. } | Error::Timeout { .. } => true,
        // Each node has watchers and backups of its own.
        Error::Refused { status: 429, problem } => {
            matches!(problem.code.as_str(), "too_many_watchers" | "too_many_backups")
                || problem.quota.is_some_and(|exceeded| exceeded.quota == QuotaKind::Watchers)
        }
        Error::Refused { status, .. } => matches!(status, 502..=504),
        Error::Watch { source: WatchFault::NoStream, .. } => true,
        Error::Answer { .. } | Error::Request { .. } | Error::Sign { .. } | Error::Id { .. } => false,
        Error::Watch { .. } => false,
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
