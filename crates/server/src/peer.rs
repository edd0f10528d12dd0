//! The wires between nodes: HTTP/1.1 on kept connections, opaque bodies both ways.

use std::io;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::body::Body;
use axum::http::{Method, Request, StatusCode};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::TryStreamExt;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use rollcall_replica::{ByteStream, PeerRefusal, PeerRoute, Replica, Transport, TransportError};

use crate::limits::{HEADER_TIMEOUT, PEER_BODY_BYTES_MAX};

const PREFIX: &str = "/peer/";

/// A peer that does not take a connection within this time is out of reach; an election waits no longer.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(500);

/// An idle connection is given up before the other side would close it: a request sent into a closing connection is lost.
const IDLE_TIMEOUT: Duration = HEADER_TIMEOUT.checked_div(2).expect("two is not zero");

/// Reason that a refusal may carry.
const REASON_BYTES_MAX: usize = 1_024;

/// Calls peers over kept connections.
#[derive(Clone, Debug)]
pub(crate) struct HttpTransport {
    client: reqwest::Client,
}

impl HttpTransport {
    pub(crate) fn new() -> Result<Self, reqwest::Error> {
        let client = reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .tcp_nodelay(true)
            .connect_timeout(CONNECT_TIMEOUT)
            .pool_idle_timeout(IDLE_TIMEOUT)
            .build()?;
        Ok(Self { client })
    }

    async fn send(
        &self,
        address: &str,
        route: PeerRoute,
        body: reqwest::Body,
        timeout: Duration,
    ) -> Result<Bytes, TransportError> {
        let request = self.client.post(format!("http://{address}{PREFIX}{}", route.as_str()));
        let response = request.timeout(timeout).body(body).send().await.map_err(|error| {
            let address = address.to_owned();
            if error.is_connect() || error.is_builder() {
                TransportError::Unreachable { address, source: error.into() }
            } else {
                TransportError::Lost { address, source: error.into() }
            }
        })?;
        let status = response.status();
        let lost = |error: reqwest::Error| TransportError::Lost { address: address.to_owned(), source: error.into() };
        if status.is_success() {
            return response.bytes().await.map_err(lost);
        }
        let error = response.error_for_status_ref().err();
        let reason = reason(&response.bytes().await.map_err(lost)?);
        match error {
            Some(error) if status.is_server_error() => {
                tracing::debug!(address, %status, reason, "a peer cannot answer");
                Err(lost(error))
            }
            _ => Err(TransportError::Refused { address: address.to_owned(), reason }),
        }
    }
}

fn reason(body: &[u8]) -> String {
    String::from_utf8_lossy(&body[..body.len().min(REASON_BYTES_MAX)]).into_owned()
}

impl Transport for HttpTransport {
    async fn call(
        &self,
        address: &str,
        route: PeerRoute,
        body: Bytes,
        timeout: Duration,
    ) -> Result<Bytes, TransportError> {
        self.send(address, route, body.into(), timeout).await
    }

    async fn call_streaming(
        &self,
        address: &str,
        route: PeerRoute,
        body: ByteStream,
        timeout: Duration,
    ) -> Result<Bytes, TransportError> {
        self.send(address, route, reqwest::Body::wrap_stream(body), timeout).await
    }
}

/// What answers peers. Until the replica runs every peer is told to come back.
#[derive(Clone, Default)]
pub(crate) struct PeerEdge {
    replica: Arc<OnceLock<Replica>>,
}

impl PeerEdge {
    /// Called once, when the replica runs.
    pub(crate) fn open(&self, replica: Replica) {
        assert!(self.replica.set(replica).is_ok(), "the peer edge was opened twice");
    }

    pub(crate) async fn handle(self, request: Request<Body>) -> Response {
        let Some(route) = request.uri().path().strip_prefix(PREFIX).and_then(PeerRoute::parse) else {
            return (StatusCode::NOT_FOUND, "no such peer route").into_response();
        };
        if request.method() != Method::POST {
            return (StatusCode::METHOD_NOT_ALLOWED, "peer routes take POST").into_response();
        }
        let Some(replica) = self.replica.get() else {
            return (StatusCode::SERVICE_UNAVAILABLE, "this node is starting").into_response();
        };
        let answer = match route {
            PeerRoute::Snapshot => {
                let stream = TryStreamExt::map_err(request.into_body().into_data_stream(), io::Error::other);
                replica.handle_snapshot(Box::pin(stream)).await
            }
            PeerRoute::Append
            | PeerRoute::Vote
            | PeerRoute::PreVote
            | PeerRoute::TransferLeader
            | PeerRoute::Propose
            | PeerRoute::ReadIndex
            | PeerRoute::Join
            | PeerRoute::Info => match Limited::new(request.into_body(), PEER_BODY_BYTES_MAX).collect().await {
                Ok(body) => replica.handle_peer(route, body.to_bytes()).await,
                Err(error) if error.is::<LengthLimitError>() => {
                    return (StatusCode::PAYLOAD_TOO_LARGE, "the body is too large").into_response();
                }
                Err(error) => Err(PeerRefusal::Malformed(format!("the body broke off: {error}"))),
            },
        };
        match answer {
            Ok(body) => body.into_response(),
            Err(refusal) => {
                let status = match &refusal {
                    PeerRefusal::Misdirected(_) => StatusCode::MISDIRECTED_REQUEST,
                    PeerRefusal::Malformed(_) => StatusCode::BAD_REQUEST,
                    PeerRefusal::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
                };
                (status, refusal.to_string()).into_response()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn nobody_there_is_unreachable() {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let transport = HttpTransport::new().unwrap();
        let call = transport.call(&free.to_string(), PeerRoute::Info, Bytes::new(), Duration::from_secs(5)).await;
        assert!(matches!(call, Err(TransportError::Unreachable { .. })), "{call:?}");
    }

    #[tokio::test]
    async fn before_the_replica_runs_peers_are_told_to_come_back() {
        let ask = |path: &str, method: &str| Request::builder().method(method).uri(path).body(Body::empty()).unwrap();
        let edge = PeerEdge::default();
        assert_eq!(edge.clone().handle(ask("/peer/vote", "POST")).await.status(), 503);
        assert_eq!(edge.clone().handle(ask("/peer/vote", "GET")).await.status(), 405);
        assert_eq!(edge.handle(ask("/peer/nonsense", "POST")).await.status(), 404);
    }
}
