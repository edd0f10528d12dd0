//! One kept HTTP/1.1 connection, driven by the task that uses it: a request costs no other task's wake-up.

use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::{Body, Incoming};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::HeaderMap;
use hyper::{Method, Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use rollcall_api::Problem;
use tokio::net::TcpStream;

use crate::error::RequestError;

/// The end of an answer, where the numbers stand that follow a page.
const TAIL_BYTES: usize = 1_024;

/// One node's client port.
#[derive(Clone, Debug)]
pub(crate) struct Endpoint {
    /// As `127.0.0.1:7900`.
    pub(crate) authority: String,
    pub(crate) address: SocketAddr,
    pub(crate) headers: HeaderMap,
    /// With the content type.
    pub(crate) headers_of_json: HeaderMap,
}

/// How much of an answer is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keep {
    Nothing,
    Tail,
    All,
}

/// A request that can be sent many times.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    method: Method,
    uri: Uri,
    body: Bytes,
    expected: StatusCode,
    keep: Keep,
}

impl Call {
    pub(crate) fn get(uri: Uri) -> Self {
        Self { method: Method::GET, uri, body: Bytes::new(), expected: StatusCode::OK, keep: Keep::Nothing }
    }

    pub(crate) fn post(uri: Uri, body: impl Into<Bytes>) -> Self {
        Self { method: Method::POST, body: body.into(), ..Self::get(uri) }
    }

    /// The status of a success, if it is not 200.
    pub(crate) fn expect(self, expected: StatusCode) -> Self {
        Self { expected, ..self }
    }

    pub(crate) fn keep(self, keep: Keep) -> Self {
        Self { keep, ..self }
    }
}

pub(crate) struct Connection {
    endpoint: Arc<Endpoint>,
    timeout: Duration,
    link: Option<Link>,
    body: Vec<u8>,
}

impl Connection {
    /// # Errors
    /// When nobody listens there.
    pub(crate) async fn open(endpoint: Arc<Endpoint>, timeout: Duration) -> Result<Self, RequestError> {
        let mut connection = Self::new(endpoint, timeout);
        match tokio::time::timeout(timeout, Link::open(&connection.endpoint)).await {
            Ok(link) => connection.link = Some(link?),
            Err(_) => return Err(connection.timed_out()),
        }
        Ok(connection)
    }

    /// It connects at the first request.
    pub(crate) fn new(endpoint: Arc<Endpoint>, timeout: Duration) -> Self {
        Self { endpoint, timeout, link: None, body: Vec::new() }
    }

    pub(crate) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// What was kept of the last answer.
    pub(crate) fn body(&self) -> &[u8] {
        &self.body
    }

    /// Sends a request and takes the whole answer. A connection that the node has closed is made anew.
    ///
    /// # Errors
    /// When there is no answer in time, or not the expected one.
    pub(crate) async fn send(&mut self, call: &Call) -> Result<(), RequestError> {
        let answered = tokio::time::timeout(self.timeout, self.exchange(call)).await;
        let status = match answered {
            Ok(Ok(status)) => status,
            // Whatever still comes on that connection is another request's answer.
            Ok(Err(error)) => {
                self.link = None;
                return Err(error);
            }
            Err(_) => {
                self.link = None;
                return Err(self.timed_out());
            }
        };
        if status == call.expected { Ok(()) } else { Err(self.refusal(status)) }
    }

    async fn exchange(&mut self, call: &Call) -> Result<StatusCode, RequestError> {
        let ready = match &mut self.link {
            Some(link) => link.ready().await,
            None => false,
        };
        if !ready {
            self.link = Some(Link::open(&self.endpoint).await?);
        }
        let link = self.link.as_mut().expect("it was opened above if it was not there");
        let mut request = Request::new(Full::new(call.body.clone()));
        *request.method_mut() = call.method.clone();
        *request.uri_mut() = call.uri.clone();
        *request.headers_mut() =
            if call.body.is_empty() { &self.endpoint.headers } else { &self.endpoint.headers_of_json }.clone();
        let kept = &mut self.body;
        kept.clear();
        let answered = async {
            let response = link.answer(request).await?;
            let status = response.status();
            let keep = if status == call.expected { call.keep } else { Keep::All };
            let mut body = response.into_body();
            while let Some(part) = link.part(&mut body).await? {
                take(kept, &part, keep);
            }
            Ok(status)
        };
        answered.await.map_err(|source| RequestError::Http { endpoint: self.endpoint.authority.clone(), source })
    }

    fn timed_out(&self) -> RequestError {
        RequestError::Timeout { endpoint: self.endpoint.authority.clone(), timeout_ms: self.timeout.as_millis() }
    }

    fn refusal(&self, status: StatusCode) -> RequestError {
        if status.is_success() {
            return RequestError::UnexpectedStatus { status: status.as_u16() };
        }
        let problem: Problem = serde_json::from_slice(&self.body).unwrap_or_default();
        RequestError::Refused { status: status.as_u16(), code: problem.code, detail: problem.detail }
    }
}

fn take(kept: &mut Vec<u8>, part: &[u8], keep: Keep) {
    match keep {
        Keep::Nothing => {}
        Keep::All => kept.extend_from_slice(part),
        Keep::Tail => {
            let part = &part[part.len().saturating_sub(TAIL_BYTES)..];
            let surplus = (kept.len() + part.len()).saturating_sub(TAIL_BYTES);
            kept.drain(..surplus);
            kept.extend_from_slice(part);
        }
    }
}

/// A connection and the machine that moves its bytes.
struct Link {
    sender: SendRequest<Full<Bytes>>,
    /// None once it has come to its end: dropping it is what tells those who still wait for it.
    wire: Option<http1::Connection<TokioIo<TcpStream>, Full<Bytes>>>,
}

impl Link {
    async fn open(endpoint: &Endpoint) -> Result<Self, RequestError> {
        let connected = async {
            let stream = TcpStream::connect(endpoint.address).await?;
            stream.set_nodelay(true)?;
            Ok::<_, io::Error>(stream)
        };
        let stream = connected
            .await
            .map_err(|source| RequestError::Connect { endpoint: endpoint.authority.clone(), source })?;
        let (sender, wire) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|source| RequestError::Http { endpoint: endpoint.authority.clone(), source })?;
        Ok(Self { sender, wire: Some(wire) })
    }

    /// An error of the machine is also told to whoever waits for an answer.
    fn turn(&mut self, context: &mut Context<'_>) {
        if self.wire.as_mut().is_some_and(|wire| Pin::new(wire).poll(context).is_ready()) {
            self.wire = None;
        }
    }

    /// Whether it takes a request; false once the node has closed it.
    async fn ready(&mut self) -> bool {
        poll_fn(|context| {
            self.turn(context);
            self.sender.poll_ready(context)
        })
        .await
        .is_ok()
    }

    async fn answer(&mut self, request: Request<Full<Bytes>>) -> Result<hyper::Response<Incoming>, hyper::Error> {
        let mut answer = pin!(self.sender.send_request(request));
        poll_fn(|context| {
            self.turn(context);
            answer.as_mut().poll(context)
        })
        .await
    }

    /// The next part of an answer's body.
    async fn part(&mut self, body: &mut Incoming) -> Result<Option<Bytes>, hyper::Error> {
        let frame = poll_fn(|context| {
            // The machine reads on only when it knows that somebody waits.
            if let Poll::Ready(frame) = Pin::new(&mut *body).poll_frame(context) {
                return Poll::Ready(frame);
            }
            self.turn(context);
            Pin::new(&mut *body).poll_frame(context)
        })
        .await;
        match frame {
            None => Ok(None),
            Some(Ok(frame)) => Ok(Some(frame.into_data().unwrap_or_default())),
            Some(Err(error)) => Err(error),
        }
    }
}
