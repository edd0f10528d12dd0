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
use hyper::{Method, Request, Response, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use rollcall_api::Problem;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::either::Either;

use crate::error::RequestError;

/// The end of an answer, where the numbers stand that follow a page.
const TAIL_BYTES: usize = 1_024;

/// One node's client port.
#[derive(Clone, Debug)]
pub(crate) struct Endpoint {
    /// As `127.0.0.1:7900`.
    pub(crate) authority: String,
    pub(crate) address: SocketAddr,
    /// None: plain.
    pub(crate) tls: Option<Tls>,
    pub(crate) headers: HeaderMap,
    /// With the content type.
    pub(crate) headers_of_json: HeaderMap,
}

/// How a node with TLS is spoken to.
#[derive(Clone, Debug)]
pub(crate) struct Tls {
    pub(crate) config: Arc<ClientConfig>,
    /// For which its certificate must be valid.
    pub(crate) name: ServerName<'static>,
}

/// Plain or TLS.
type Socket = Either<TcpStream, Box<TlsStream<TcpStream>>>;

impl Endpoint {
    async fn connect(&self) -> io::Result<Socket> {
        let stream = TcpStream::connect(self.address).await?;
        stream.set_nodelay(true)?;
        let Some(Tls { config, name }) = &self.tls else { return Ok(Either::Left(stream)) };
        let connector = TlsConnector::from(config.clone());
        Ok(Either::Right(Box::new(connector.connect(name.clone(), stream).await?)))
    }

    fn broken(&self, source: hyper::Error) -> RequestError {
        RequestError::Http { endpoint: self.authority.clone(), source }
    }
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

    /// Sends a request whose answer goes on for as long as somebody listens.
    ///
    /// # Errors
    /// When it does not begin in time, or with another status than the expected one.
    pub(crate) async fn stream(mut self, call: &Call) -> Result<Stream, RequestError> {
        let timeout = self.timeout;
        let begin = async {
            let response = self.ask(call).await?;
            let status = response.status();
            if status == call.expected {
                return Ok(response.into_body());
            }
            self.receive(response.into_body(), Keep::All).await?;
            Err(self.refusal(status))
        };
        match tokio::time::timeout(timeout, begin).await {
            Ok(begun) => {
                let (endpoint, link, body) = (self.endpoint, self.link.expect("an answer came over it"), begun?);
                Ok(Stream { endpoint, link, body })
            }
            Err(_) => Err(self.timed_out()),
        }
    }

    async fn exchange(&mut self, call: &Call) -> Result<StatusCode, RequestError> {
        let response = self.ask(call).await?;
        let status = response.status();
        let keep = if status == call.expected { call.keep } else { Keep::All };
        self.receive(response.into_body(), keep).await?;
        Ok(status)
    }

    /// Sends a request and takes the head of its answer.
    async fn ask(&mut self, call: &Call) -> Result<Response<Incoming>, RequestError> {
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
        link.answer(request).await.map_err(|source| self.endpoint.broken(source))
    }

    /// Takes the rest of an answer.
    async fn receive(&mut self, mut body: Incoming, keep: Keep) -> Result<(), RequestError> {
        self.body.clear();
        let link = self.link.as_mut().expect("an answer came over it");
        while let Some(part) = link.part(&mut body).await.map_err(|source| self.endpoint.broken(source))? {
            take(&mut self.body, &part, keep);
        }
        Ok(())
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

/// An answer that goes on and on.
pub(crate) struct Stream {
    endpoint: Arc<Endpoint>,
    link: Link,
    body: Incoming,
}

impl Stream {
    pub(crate) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// What came next, waited for; none at the end.
    ///
    /// # Errors
    /// When the connection breaks.
    pub(crate) async fn part(&mut self) -> Result<Option<Bytes>, RequestError> {
        self.link.part(&mut self.body).await.map_err(|source| self.endpoint.broken(source))
    }
}

/// A connection and the machine that moves its bytes.
struct Link {
    sender: SendRequest<Full<Bytes>>,
    /// None once it has come to its end: dropping it is what tells those who still wait for it.
    wire: Option<http1::Connection<TokioIo<Socket>, Full<Bytes>>>,
}

impl Link {
    async fn open(endpoint: &Endpoint) -> Result<Self, RequestError> {
        let connected = endpoint.connect().await;
        let stream =
            connected.map_err(|source| RequestError::Connect { endpoint: endpoint.authority.clone(), source })?;
        let (sender, wire) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|source| endpoint.broken(source))?;
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

    async fn answer(&mut self, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, hyper::Error> {
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
