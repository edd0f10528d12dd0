//! One connection to one etcd node. The messages go straight over hyper's HTTP/2 connection, without the pools and
//! queues of a full gRPC channel, so that a load generator beside three servers takes as little of the machine as it can.

use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::{FutureExt, Stream};
use http::uri::PathAndQuery;
use http::{Request, Response, Uri};
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use tokio::net::TcpStream;
use tonic::body::Body;
use tonic::client::Grpc;
use tonic::codec::Streaming;
use tonic::{IntoRequest, Status};

use tower_service::Service;

use super::codec::MessageCodec;
use super::messages::{
    LeaseGrantRequest, LeaseGrantResponse, LeaseKeepAliveRequest, LeaseKeepAliveResponse, PutRequest, PutResponse,
    RangeRequest, RangeResponse, StatusRequest, StatusResponse,
};

/// Loopback answers at once or not at all.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

const RANGE: PathAndQuery = PathAndQuery::from_static("/etcdserverpb.KV/Range");
const PUT: PathAndQuery = PathAndQuery::from_static("/etcdserverpb.KV/Put");
const LEASE_GRANT: PathAndQuery = PathAndQuery::from_static("/etcdserverpb.Lease/LeaseGrant");
const LEASE_KEEP_ALIVE: PathAndQuery = PathAndQuery::from_static("/etcdserverpb.Lease/LeaseKeepAlive");
const STATUS: PathAndQuery = PathAndQuery::from_static("/etcdserverpb.Maintenance/Status");

/// Why a request has no answer.
#[derive(Debug, thiserror::Error)]
pub enum EtcdError {
    #[error("connect to etcd at {address}")]
    Connect {
        address: String,
        #[source]
        source: std::io::Error,
    },
    #[error("connect to etcd at {address}: no answer within {CONNECT_TIMEOUT:?}")]
    ConnectTimeout { address: String },
    #[error("speak HTTP/2 to etcd at {address}")]
    Handshake {
        address: String,
        #[source]
        source: hyper::Error,
    },
    #[error("{address} is no address of an etcd node")]
    Address {
        address: String,
        #[source]
        source: http::uri::InvalidUri,
    },
    #[error("etcd refuses {path}: {} ({:?})", source.message(), source.code())]
    Refused {
        path: PathAndQuery,
        #[source]
        source: Box<Status>,
    },
}

/// What [`Grpc`] sends its requests over.
#[derive(Clone, Debug)]
struct Connection(SendRequest<Body>);

impl Service<Request<Body>> for Connection {
    type Response = Response<Incoming>;
    type Error = hyper::Error;
    type Future = BoxFuture<'static, Result<Self::Response, hyper::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), hyper::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        self.0.send_request(request).boxed()
    }
}

#[derive(Clone, Debug)]
pub struct EtcdClient {
    grpc: Grpc<Connection>,
}

impl EtcdClient {
    /// Connects to the node that listens for clients at `address`, a `host:port`.
    pub async fn connect(address: &str) -> Result<Self, EtcdError> {
        let named = || address.to_owned();
        let origin: Uri =
            format!("http://{address}").parse().map_err(|source| EtcdError::Address { address: named(), source })?;
        let stream = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(address))
            .await
            .map_err(|_| EtcdError::ConnectTimeout { address: named() })?
            .and_then(|stream| stream.set_nodelay(true).map(|()| stream))
            .map_err(|source| EtcdError::Connect { address: named(), source })?;
        let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .map_err(|source| EtcdError::Handshake { address: named(), source })?;
        // It ends with its sender; what goes wrong on it shows in the requests.
        tokio::spawn(connection.map(|_| ()));
        Ok(Self { grpc: Grpc::with_origin(Connection(sender), origin) })
    }

    async fn unary<Q, A>(&mut self, path: PathAndQuery, request: Q) -> Result<A, EtcdError>
    where
        Q: Message + Default + 'static,
        A: Message + Default + 'static,
    {
        let refused = |source: Status| EtcdError::Refused { path: path.clone(), source: Box::new(source) };
        self.grpc.ready().await.map_err(|source| refused(Status::unavailable(source.to_string())))?;
        let codec = MessageCodec::<Q, A>::default();
        let answer = self.grpc.unary(request.into_request(), path.clone(), codec).await;
        Ok(answer.map_err(refused)?.into_inner())
    }

    pub async fn put(&mut self, key: Bytes, value: Bytes, lease: i64) -> Result<(), EtcdError> {
        let _: PutResponse = self.unary(PUT, PutRequest { key, value, lease }).await?;
        Ok(())
    }

    /// The id of a new lease.
    pub async fn grant(&mut self, ttl_s: i64) -> Result<i64, EtcdError> {
        let answer: LeaseGrantResponse = self.unary(LEASE_GRANT, LeaseGrantRequest { ttl_s, id: 0 }).await?;
        Ok(answer.id)
    }

    pub async fn range(&mut self, request: RangeRequest) -> Result<RangeResponse, EtcdError> {
        self.unary(RANGE, request).await
    }

    pub async fn status(&mut self) -> Result<StatusResponse, EtcdError> {
        self.unary(STATUS, StatusRequest {}).await
    }

    /// Answers for the leases that `requests` names, in their order.
    pub async fn keep_alive(
        &mut self,
        requests: impl Stream<Item = LeaseKeepAliveRequest> + Send + 'static,
    ) -> Result<Streaming<LeaseKeepAliveResponse>, EtcdError> {
        let refused = |source: Status| EtcdError::Refused { path: LEASE_KEEP_ALIVE, source: Box::new(source) };
        self.grpc.ready().await.map_err(|source| refused(Status::unavailable(source.to_string())))?;
        let codec = MessageCodec::<LeaseKeepAliveRequest, LeaseKeepAliveResponse>::default();
        let answer = self.grpc.streaming(requests.into_request(), LEASE_KEEP_ALIVE, codec).await;
        Ok(answer.map_err(refused)?.into_inner())
    }
}

/// The whole range of keys that begin with `prefix`.
pub fn range_of_prefix(prefix: &str) -> RangeRequest {
    let mut end = prefix.as_bytes().to_vec();
    // Prefixes here are ASCII, so the last byte can be counted up.
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    RangeRequest { key: Bytes::copy_from_slice(prefix.as_bytes()), range_end: end.into(), ..RangeRequest::default() }
}
