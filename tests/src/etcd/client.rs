//! One connection to one etcd node. The messages go straight over hyper's HTTP/2 connection, without the pools and
//! queues of a full gRPC channel, so that a load generator beside three servers takes as little of the machine as it can.

use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use http::uri::PathAndQuery;
use http::{Request, Response, Uri};
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tonic::body::Body;
use tonic::client::Grpc;
use tonic::codec::Streaming;
use tonic::{IntoRequest, Status};

use tower_service::Service;

use super::codec::MessageCodec;
use super::messages::{
    LeaseGrantRequest, LeaseGrantResponse, LeaseKeepAliveRequest, LeaseKeepAliveResponse, PutRequest, PutResponse,
    RangeRequest, RangeResponse, StatusRequest, StatusResponse, WatchCreateRequest, WatchEvent, WatchRequest,
    WatchResponse,
};

const RANGE: PathAndQuery = PathAndQuery::from_static("/etcdserverpb.KV/Range");
const PUT: PathAndQuery = PathAndQuery::from_static("/etcdserverpb.KV/Put");
const LEASE_GRANT: PathAndQuery = PathAndQuery::from_static("/etcdserverpb.Lease/LeaseGrant");
const LEASE_KEEP_ALIVE: PathAndQuery = PathAndQuery::from_static("/etcdserverpb.Lease/LeaseKeepAlive");
const WATCH: PathAndQuery = PathAndQuery::from_static("/etcdserverpb.Watch/Watch");
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
    #[error("no answer from etcd at {address} within {timeout_ms} ms")]
    Timeout { address: String, timeout_ms: u128 },
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
    #[error("the stream to {address} has ended")]
    StreamEnded { address: String },
    #[error("lease {lease} is there no more")]
    LeaseLost { lease: i64 },
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
    address: String,
    timeout: Duration,
}

impl EtcdClient {
    /// Connects to the node that listens for clients at `address`, a `host:port`. `timeout` is for this and for each
    /// request later on.
    pub async fn connect(address: &str, timeout: Duration) -> Result<Self, EtcdError> {
        let named = || address.to_owned();
        let origin: Uri =
            format!("http://{address}").parse().map_err(|source| EtcdError::Address { address: named(), source })?;
        let stream = within(address, timeout, TcpStream::connect(address))
            .await?
            .and_then(|stream| stream.set_nodelay(true).map(|()| stream))
            .map_err(|source| EtcdError::Connect { address: named(), source })?;
        let (sender, connection) =
            within(address, timeout, http2::handshake(TokioExecutor::new(), TokioIo::new(stream)))
                .await?
                .map_err(|source| EtcdError::Handshake { address: named(), source })?;
        // It ends with its sender; what goes wrong on it shows in the requests.
        tokio::spawn(connection.map(|_| ()));
        Ok(Self { grpc: Grpc::with_origin(Connection(sender), origin), address: named(), timeout })
    }

    pub fn address(&self) -> &str {
        &self.address
    }

    async fn unary<Q, A>(&mut self, path: PathAndQuery, request: Q) -> Result<A, EtcdError>
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
    {
        let refused = |source: Status| EtcdError::Refused { path: path.clone(), source: Box::new(source) };
        let exchange = async {
            self.grpc.ready().await.map_err(|source| refused(Status::unavailable(source.to_string())))?;
            let codec = MessageCodec::<Q, A>::default();
            let answer = self.grpc.unary(request.into_request(), path.clone(), codec).await;
            Ok(answer.map_err(refused)?.into_inner())
        };
        within(&self.address, self.timeout, exchange).await?
    }

    /// Answers the revision of it.
    pub async fn put(&mut self, key: Bytes, value: Bytes, lease: i64) -> Result<i64, EtcdError> {
        let answer: PutResponse = self.unary(PUT, PutRequest { key, value, lease }).await?;
        Ok(answer.header.revision)
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

    /// Opens a stream of renewals, with a first one for `lease`: etcd does not answer the stream before it.
    pub async fn keep_alive(mut self, lease: i64) -> Result<KeepAlive, EtcdError> {
        let (renewals, answers) = self.streaming(LEASE_KEEP_ALIVE, LeaseKeepAliveRequest { id: lease }).await?;
        let mut stream = KeepAlive { renewals, answers, address: self.address, timeout: self.timeout };
        stream.answer(lease).await?;
        Ok(stream)
    }

    /// Watches a range of keys from now on.
    pub async fn watch(mut self, range: RangeRequest) -> Result<Watch, EtcdError> {
        let create = WatchCreateRequest { key: range.key, range_end: range.range_end };
        let (requests, answers) = self.streaming(WATCH, WatchRequest { create }).await?;
        let mut watch = Watch { _requests: requests, answers, address: self.address };
        let address = watch.address.clone();
        let created = within(&address, self.timeout, watch.answer()).await??;
        if created.created { Ok(watch) } else { Err(EtcdError::StreamEnded { address }) }
    }

    /// Opens a stream with its first request.
    async fn streaming<Q, A>(
        &mut self,
        path: PathAndQuery,
        first: Q,
    ) -> Result<(mpsc::Sender<Q>, Streaming<A>), EtcdError>
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
    {
        let refused = |source: Status| EtcdError::Refused { path: path.clone(), source: Box::new(source) };
        let (sender, mut queue) = mpsc::channel(1);
        sender.try_send(first).unwrap_or_else(|_| unreachable!("a new queue has room for one"));
        let requests = futures_util::stream::poll_fn(move |context| queue.poll_recv(context));
        let open = async {
            self.grpc.ready().await.map_err(|source| refused(Status::unavailable(source.to_string())))?;
            let codec = MessageCodec::<Q, A>::default();
            self.grpc.streaming(requests.into_request(), path.clone(), codec).await.map_err(refused)
        };
        let answers = within(&self.address, self.timeout, open).await??.into_inner();
        Ok((sender, answers))
    }
}

/// The changes of a range of keys.
#[derive(Debug)]
pub struct Watch {
    /// The stream ends with it.
    _requests: mpsc::Sender<WatchRequest>,
    answers: Streaming<WatchResponse>,
    address: String,
}

impl Watch {
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Waits for the changes that come next.
    pub async fn next(&mut self) -> Result<Vec<WatchEvent>, EtcdError> {
        Ok(self.answer().await?.events)
    }

    async fn answer(&mut self) -> Result<WatchResponse, EtcdError> {
        let refused = |source| EtcdError::Refused { path: WATCH, source: Box::new(source) };
        let answer = self.answers.message().await.map_err(refused)?;
        answer
            .filter(|answer| !answer.canceled)
            .ok_or_else(|| EtcdError::StreamEnded { address: self.address.clone() })
    }
}

/// A stream of renewals, one at a time.
#[derive(Debug)]
pub struct KeepAlive {
    renewals: mpsc::Sender<LeaseKeepAliveRequest>,
    answers: Streaming<LeaseKeepAliveResponse>,
    address: String,
    timeout: Duration,
}

impl KeepAlive {
    /// Renews a lease and waits for the answer.
    pub async fn renew(&mut self, lease: i64) -> Result<(), EtcdError> {
        if self.renewals.send(LeaseKeepAliveRequest { id: lease }).await.is_err() {
            return Err(EtcdError::StreamEnded { address: self.address.clone() });
        }
        self.answer(lease).await
    }

    async fn answer(&mut self, lease: i64) -> Result<(), EtcdError> {
        let answer = within(&self.address, self.timeout, self.answers.message()).await?;
        let answer = answer
            .map_err(|source| EtcdError::Refused { path: LEASE_KEEP_ALIVE, source: Box::new(source) })?
            .ok_or_else(|| EtcdError::StreamEnded { address: self.address.clone() })?;
        if answer.id != lease || answer.ttl_s <= 0 {
            return Err(EtcdError::LeaseLost { lease });
        }
        Ok(())
    }
}

async fn within<T>(address: &str, timeout: Duration, work: impl Future<Output = T>) -> Result<T, EtcdError> {
    tokio::time::timeout(timeout, work)
        .await
        .map_err(|_| EtcdError::Timeout { address: address.to_owned(), timeout_ms: timeout.as_millis() })
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
