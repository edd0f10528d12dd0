//! A check by HTTP: a HEAD of the URL, a GET of the health endpoint. Nothing is sent that the registration did not name but
//! the host, path and query, no redirect is followed, and of an answer nothing is read but its head.

use std::future::Future;
use std::pin::{Pin, pin};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::{Fuse, FusedFuture, FutureExt};
use http_body_util::Empty;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{ACCEPT, HOST, USER_AGENT};
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;

use super::dial::{Addresses, Dialer};
use super::finding::{Broken, Finding, Part, Trouble};
use super::plan::{Plan, Target};
use super::within;

/// Of an answer's head, status line and headers.
const HEAD_BYTES_MAX: usize = 16 << 10;

pub(super) const AGENT: &str = concat!("rollcall-check/", env!("CARGO_PKG_VERSION"));

/// One connection.
struct Talk {
    sender: SendRequest<Empty<Bytes>>,
    connection: Fuse<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

impl Talk {
    async fn open(dialer: &Dialer, plan: &Plan, place: &Place) -> Result<Self, Trouble> {
        let stream = dialer.connect(&place.addresses).await?;
        let stream = Dialer::secure(&plan.target, place.roots.clone(), b"http/1.1", stream).await?;
        let begun = http1::Builder::new().max_buf_size(HEAD_BYTES_MAX).handshake(TokioIo::new(stream)).await;
        let (sender, connection) = begun.map_err(|_| Trouble::NoAnswer)?;
        let connection: Pin<Box<dyn Future<Output = ()> + Send>> = Box::pin(connection.map(drop));
        Ok(Self { sender, connection: connection.fuse() })
    }

    /// The status of an answer. None: the connection had ended before.
    async fn ask(&mut self, method: Method, target: &Target, path: &str) -> Option<Result<u16, Trouble>> {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, &*target.authority)
            .header(USER_AGENT, AGENT)
            .header(ACCEPT, "*/*")
            .body(Empty::new());
        let Ok(request) = request else { return Some(Err(Trouble::NoAnswer)) };
        let Self { sender, connection } = self;
        let mut answer = pin!(async {
            sender.ready().await.ok()?;
            let answer = sender.send_request(request).await;
            Some(answer.map(|answer| answer.status().as_u16()).map_err(|_| Trouble::NoAnswer))
        });
        if !connection.is_terminated() {
            tokio::select! {
                biased;
                answer = &mut answer => return answer,
                () = connection => {}
            }
        }
        // What came before the end is handed over still.
        answer.await
    }
}

/// Where a target is, looked up once for the whole check.
struct Place {
    addresses: Addresses,
    roots: Option<std::sync::Arc<rustls::RootCertStore>>,
}

pub(super) async fn check(dialer: &Dialer, plan: &Plan) -> Result<Finding, Broken> {
    let limit = Duration::from_millis(plan.timeout_ms.into());
    let looked_up = tokio::time::timeout(limit, dialer.resolve(&plan.target)).await;
    let addresses = looked_up.unwrap_or(Err(Broken::Unknown))?;
    let roots = if plan.target.tls { Some(dialer.roots().await?) } else { None };
    let place = Place { addresses, roots };

    let begun = Instant::now();
    let first = within(plan, async {
        let mut talk = Talk::open(dialer, plan, &place).await?;
        let status = talk.ask(Method::HEAD, &plan.target, &plan.target.path).await;
        Ok((talk, status.unwrap_or(Err(Trouble::NoAnswer))?))
    });
    let (mut talk, connectivity) = match first.await {
        Ok((talk, status)) => (talk, judge(status)),
        Err(trouble) => {
            // Who does not answer at all is not asked again.
            let parts = [(Part::Connectivity, Err(trouble)), (Part::Endpoint, Err(trouble))];
            return Ok(Finding::of(&parts[..if plan.endpoint.is_some() { 2 } else { 1 }], None));
        }
    };
    let took = begun.elapsed();
    let Some(endpoint) = &plan.endpoint else {
        return Ok(Finding::of(&[(Part::Connectivity, connectivity)], Some(ms(took))));
    };

    let begun = Instant::now();
    let second = within(plan, async {
        // The connection may have ended since, by the other side's choice and without fault.
        match talk.ask(Method::GET, &plan.target, endpoint).await {
            Some(Ok(status)) => Ok(status),
            Some(Err(_)) | None => {
                talk = Talk::open(dialer, plan, &place).await?;
                talk.ask(Method::GET, &plan.target, endpoint).await.unwrap_or(Err(Trouble::NoAnswer))
            }
        }
    });
    let (answered, response_ms) = match second.await {
        Ok(status) => (judge(status), Some(ms(took.max(begun.elapsed())))),
        Err(trouble) => (Err(trouble), None),
    };
    Ok(Finding::of(&[(Part::Connectivity, connectivity), (Part::Endpoint, answered)], response_ms))
}

fn judge(status: u16) -> Result<(), Trouble> {
    if (200..300).contains(&status) { Ok(()) } else { Err(Trouble::HttpCode(status)) }
}

pub(super) fn ms(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}
