//! Agents that are checked: small servers whose condition a test changes while they run.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::task::AbortOnDropHandle;

/// How an agent answers.
#[derive(Clone, Debug)]
pub(crate) enum Mood {
    Code(u16),
    /// Of the health endpoint; whatever else is asked is well.
    Endpoint(u16),
    /// Well, after some time.
    Slow(Duration),
    /// Never.
    Hang,
    Redirect(String),
    /// What is no HTTP.
    Babble,
    /// Headers without an end.
    Endless,
    /// Well, and ends the connection after each answer.
    Curt,
}

pub(crate) struct Agent {
    pub(crate) address: SocketAddr,
    mood: Arc<Mutex<Mood>>,
    /// The heads of all requests.
    asked: Arc<Mutex<Vec<String>>>,
    _serving: AbortOnDropHandle<()>,
}

impl Agent {
    pub(crate) async fn start(mood: Mood) -> Self {
        Self::serve(mood, None).await
    }

    pub(crate) async fn start_secured(mood: Mood, tls: TlsAcceptor) -> Self {
        Self::serve(mood, Some(tls)).await
    }

    async fn serve(mood: Mood, tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let (mood, asked) = (Arc::new(Mutex::new(mood)), Arc::<Mutex<Vec<String>>>::default());
        let serving = {
            let (mood, asked) = (mood.clone(), asked.clone());
            tokio::spawn(async move {
                while let Ok((stream, _)) = listener.accept().await {
                    let (mood, asked, tls) = (mood.clone(), asked.clone(), tls.clone());
                    tokio::spawn(async move {
                        match tls {
                            None => talk(stream, &mood, &asked).await,
                            Some(tls) => {
                                if let Ok(stream) = tls.accept(stream).await {
                                    talk(stream, &mood, &asked).await;
                                }
                            }
                        }
                    });
                }
            })
        };
        Self { address, mood, asked, _serving: AbortOnDropHandle::new(serving) }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn becomes(&self, mood: Mood) {
        *self.mood.lock() = mood;
    }

    pub(crate) fn asked(&self) -> Vec<String> {
        self.asked.lock().clone()
    }
}

async fn talk(mut stream: impl AsyncRead + AsyncWrite + Unpin, mood: &Mutex<Mood>, asked: &Mutex<Vec<String>>) {
    loop {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            match stream.read_u8().await {
                Ok(byte) => head.push(byte),
                Err(_) => return,
            }
        }
        let head = String::from_utf8(head).expect("requests are text");
        let is_endpoint = head.starts_with("GET ");
        asked.lock().push(head);
        let mood = mood.lock().clone();
        let (code, more) = match &mood {
            Mood::Code(code) => (*code, String::new()),
            Mood::Endpoint(code) => (if is_endpoint { *code } else { 200 }, String::new()),
            Mood::Slow(time) => {
                // It is the agent that takes its time, not the test.
                let _ = tokio::time::timeout(*time, std::future::pending::<()>()).await;
                (200, String::new())
            }
            Mood::Hang => return std::future::pending().await,
            Mood::Redirect(to) => (302, format!("location: {to}\r\n")),
            Mood::Curt => (204, "connection: close\r\n".to_owned()),
            Mood::Babble => {
                let _ = stream.write_all(b"* OK IMAP4rev1 ready\r\n").await;
                return;
            }
            Mood::Endless => {
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n").await;
                while stream.write_all(&b"x-filler: xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\r\n".repeat(100)).await.is_ok() {
                }
                return;
            }
        };
        let length = if code == 204 { "" } else { "content-length: 0\r\n" };
        let answer = format!("HTTP/1.1 {code} Whatever it says\r\n{more}{length}\r\n");
        if stream.write_all(answer.as_bytes()).await.is_err() || matches!(mood, Mood::Curt) {
            return;
        }
    }
}

/// What a gRPC server says of its health: of which service it was asked, and its answer.
pub(crate) struct GrpcAgent {
    pub(crate) address: SocketAddr,
    /// `ServingStatus`, or a negative gRPC status.
    status: Arc<Mutex<i32>>,
    asked: Arc<Mutex<Vec<Bytes>>>,
    _serving: AbortOnDropHandle<()>,
}

impl GrpcAgent {
    pub(crate) async fn start(status: i32) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let (status, asked) = (Arc::new(Mutex::new(status)), Arc::<Mutex<Vec<Bytes>>>::default());
        let serving = {
            let (status, asked) = (status.clone(), asked.clone());
            tokio::spawn(async move {
                while let Ok((stream, _)) = listener.accept().await {
                    let (status, asked) = (status.clone(), asked.clone());
                    tokio::spawn(async move { drop(grpc(stream, &status, &asked).await) });
                }
            })
        };
        Self { address, status, asked, _serving: AbortOnDropHandle::new(serving) }
    }

    pub(crate) fn becomes(&self, status: i32) {
        *self.status.lock() = status;
    }

    /// The messages that came, with their prefixes.
    pub(crate) fn asked(&self) -> Vec<Bytes> {
        self.asked.lock().clone()
    }
}

async fn grpc(stream: TcpStream, status: &Mutex<i32>, asked: &Mutex<Vec<Bytes>>) -> Result<(), h2::Error> {
    let mut connection = h2::server::handshake(stream).await?;
    while let Some(request) = connection.accept().await {
        let (request, mut respond) = request?;
        assert_eq!(request.uri().path(), "/grpc.health.v1.Health/Check");
        assert_eq!(request.headers()["content-type"], "application/grpc");
        assert_eq!(request.headers()["te"], "trailers");
        let mut body = request.into_body();
        let mut message = BytesMut::new();
        while let Some(piece) = body.data().await {
            message.extend_from_slice(&piece?);
        }
        asked.lock().push(message.freeze());
        let status = *status.lock();
        let answer = hyper::Response::builder().header("content-type", "application/grpc");
        let refused = (-status).to_string();
        if status < 0 {
            respond.send_response(answer.header("grpc-status", &refused).body(()).expect("a head"), true)?;
            continue;
        }
        let mut stream = respond.send_response(answer.body(()).expect("a head"), false)?;
        let mut message = BytesMut::new();
        message.put_u8(0);
        message.put_u32(2);
        message.put_slice(&[8, u8::try_from(status).expect("a small number")]);
        stream.send_data(message.freeze(), false)?;
        let mut trailers = hyper::HeaderMap::new();
        trailers.insert("grpc-status", hyper::header::HeaderValue::from_static("0"));
        stream.send_trailers(trailers)?;
    }
    Ok(())
}
