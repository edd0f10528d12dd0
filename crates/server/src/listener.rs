//! Accepting connections and serving HTTP/1.1 on them, with a bound on everything a peer can leave hanging.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use axum::http::Request;
use axum::response::Response;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus_client::metrics::gauge::Gauge;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{Instant, Sleep};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::limits::{CONNECTIONS_SPARE, DRAIN_TIMEOUT, HEADER_BYTES_MAX, HEADER_TIMEOUT, WRITE_TIMEOUT};
use crate::tls::{self, Gate, Refused, Stream};

/// After an accept failed, for want of files most likely: long enough not to spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// For a client that speaks plain HTTP to a port with TLS. Complete, because no HTTP server stands behind it yet.
const PLAIN_HTTP: &[u8] = b"HTTP/1.1 400 Bad Request\r\ncontent-type: application/problem+json\r\nconnection: close\r\n\r\n\
    {\"type\":\"about:blank\",\"title\":\"Bad Request\",\"status\":400,\"detail\":\"this port speaks TLS: use https:// in place of \
    http://, and name the authority of its certificate\",\"code\":\"tls_required\",\"request_id\":\"\"}\n";

/// Takes connections until `stop`, then lets them finish, for a bounded time; `open` counts them. `serve_one` is told of each whether it is
/// one beyond `connections_max`; it must notice `stop` by itself, and end at once when its token is cancelled.
pub(crate) async fn serve<S, F>(
    listener: TcpListener,
    connections_max: usize,
    open: Gauge,
    stop: CancellationToken,
    serve_one: S,
) where
    S: Fn(TcpStream, bool, CancellationToken) -> F,
    F: Future<Output = ()> + Send + 'static,
{
    let seats = Arc::new(Semaphore::new(connections_max));
    let spare = Arc::new(Semaphore::new(CONNECTIONS_SPARE));
    let connections = TaskTracker::new();
    let abort = CancellationToken::new();
    // Connections do not outlive a server that is dropped.
    let _guards = (stop.clone().drop_guard(), abort.clone().drop_guard());
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let (permit, crowded) = match seats.clone().try_acquire_owned() {
            Ok(permit) => (permit, false),
            Err(_) => match spare.clone().try_acquire_owned() {
                Ok(permit) => (permit, true),
                Err(_) => continue,
            },
        };
        let connection = serve_one(stream, crowded, abort.clone());
        let counted = Counted::new(open.clone());
        connections.spawn(async move {
            connection.await;
            drop((permit, counted));
        });
    }
    drop(listener);
    connections.close();
    if tokio::time::timeout(DRAIN_TIMEOUT, connections.wait()).await.is_err() {
        tracing::warn!(connections = connections.len(), "requests still in work are cut off");
        abort.cancel();
        connections.wait().await;
    }
}

/// One of what a gauge counts, until it is dropped.
pub(crate) struct Counted(Gauge);

impl Counted {
    pub(crate) fn new(gauge: Gauge) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// Serves HTTP/1.1 until `stop`. The handler is told of each request whether its connection is one too many.
pub(crate) async fn serve_http<H, F>(
    listener: TcpListener,
    gate: Gate,
    connections_max: usize,
    open: Gauge,
    stop: CancellationToken,
    handler: H,
) where
    H: Fn(Request<Body>, bool) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response> + Send + 'static,
{
    let stopped = stop.clone();
    let serve_one = move |stream, crowded, abort| {
        http_connection(stream, gate.clone(), crowded, stopped.clone(), abort, handler.clone())
    };
    serve(listener, connections_max, open, stop, serve_one).await;
}

async fn http_connection<H, F>(
    stream: TcpStream,
    gate: Gate,
    crowded: bool,
    stop: CancellationToken,
    abort: CancellationToken,
    handler: H,
) where
    H: Fn(Request<Body>, bool) -> F,
    F: Future<Output = Response>,
{
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "cannot set TCP_NODELAY");
    }
    // Without it a client that vanished would be noticed after a quarter of an hour of retransmissions, and keep its place.
    let patience_ms = u32::try_from(WRITE_TIMEOUT.as_millis()).unwrap_or(u32::MAX);
    if let Err(error) = rustix::net::sockopt::set_tcp_user_timeout(&stream, patience_ms) {
        tracing::debug!(%error, "cannot set TCP_USER_TIMEOUT");
    }
    let entered = tokio::select! {
        entered = gate.enter(stream) => entered,
        () = stop.cancelled() => return,
    };
    let stream = match entered {
        Ok(stream) => stream,
        Err(Refused::Plain(stream)) => {
            // Whether it is read is the caller's affair.
            let _ = tls::turn_away(stream, PLAIN_HTTP).await;
            return;
        }
        Err(Refused::Failed(error)) => {
            tracing::debug!(%error, "a client's handshake failed");
            return;
        }
    };
    let service = service_fn(|request: Request<hyper::body::Incoming>| {
        let answer = handler(request.map(Body::new), crowded);
        // Boxed, because hyper keeps room for one on every connection, and most connections wait.
        Box::pin(async { Ok::<_, Infallible>(answer.await) })
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(HEADER_BYTES_MAX)
        // Whoever is one too many is answered once and makes room.
        .keep_alive(!crowded);
    let mut connection = pin!(http.serve_connection(TokioIo::new(WriteBound::new(stream)), service).with_upgrades());
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            tokio::select! {
                ended = connection => ended,
                () = abort.cancelled() => Ok(()),
            }
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended");
    }
}

/// A stream whose writes fail when the peer takes nothing for [`WRITE_TIMEOUT`]: else a reader that stops reading would
/// hold its answer in memory for ever.
struct WriteBound {
    stream: Stream,
    stalled: Option<Pin<Box<Sleep>>>,
}

impl WriteBound {
    fn new(stream: Stream) -> Self {
        Self { stream, stalled: None }
    }

    fn bounded<T>(&mut self, polled: Poll<io::Result<T>>, context: &mut Context<'_>) -> Poll<io::Result<T>> {
        if polled.is_ready() {
            self.stalled = None;
            return polled;
        }
        let stalled =
            self.stalled.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(Instant::now() + WRITE_TIMEOUT)));
        stalled.as_mut().poll(context).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for WriteBound {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buf)
    }
}

impl AsyncWrite for WriteBound {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(context, buf);
        self.bounded(polled, context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write_vectored(context, bufs);
        self.bounded(polled, context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    // A TLS stream holds what it has encrypted until it is flushed, and can stall there.
    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_flush(context);
        self.bounded(polled, context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_shutdown(context);
        self.bounded(polled, context)
    }
}
