//! Stands in for whoever takes alerts: answers as it is told, and remembers what came.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::task::AbortOnDropHandle;

/// Does not answer at all.
const HANGS: u16 = 0;

/// One request, whatever was answered.
#[derive(Clone, Debug)]
pub struct Received {
    /// By names in small letters.
    pub headers: BTreeMap<String, String>,
    pub body: Vec<u8>,
    /// What was answered.
    pub status: u16,
}

impl Received {
    /// # Panics
    /// When the body is no JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("a body of JSON")
    }
}

/// Listens until it is dropped.
#[derive(Debug)]
pub struct Receiver {
    address: String,
    status: Arc<AtomicU16>,
    received: Arc<Mutex<Vec<Received>>>,
    _task: AbortOnDropHandle<()>,
}

impl Receiver {
    /// One that answers with this status.
    ///
    /// # Panics
    /// When no port is free.
    pub async fn start(status: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it is bound").to_string();
        let (status, received) = (Arc::new(AtomicU16::new(status)), Arc::<Mutex<Vec<Received>>>::default());
        let (answer, remember) = (status.clone(), received.clone());
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, answer.clone(), remember.clone()));
            }
        });
        Self { address, status, received, _task: AbortOnDropHandle::new(task) }
    }

    /// One that takes requests and never answers.
    ///
    /// # Panics
    /// When no port is free.
    pub async fn hanging() -> Self {
        Self::start(HANGS).await
    }

    pub fn url(&self) -> String {
        format!("http://{}/alerts", self.address)
    }

    /// Answers otherwise from now on.
    pub fn answer(&self, status: u16) {
        self.status.store(status, Ordering::SeqCst);
    }

    /// # Panics
    /// Never but after another panic.
    pub fn received(&self) -> Vec<Received> {
        self.received.lock().expect("nobody panicked").clone()
    }
}

/// Answers requests of one connection until it ends.
async fn serve(stream: TcpStream, status: Arc<AtomicU16>, received: Arc<Mutex<Vec<Received>>>) {
    let mut stream = BufReader::new(stream);
    loop {
        let mut headers = BTreeMap::new();
        loop {
            let mut line = String::new();
            match stream.read_line(&mut line).await {
                Ok(0) | Err(_) => return,
                Ok(_) if line == "\r\n" => break,
                Ok(_) => {}
            }
            if let Some((name, value)) = line.split_once(':') {
                headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
            }
        }
        let length = headers.get("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
        let mut body = vec![0; length];
        if stream.read_exact(&mut body).await.is_err() {
            return;
        }
        let status = status.load(Ordering::SeqCst);
        received.lock().expect("nobody panicked").push(Received { headers, body, status });
        if status == HANGS {
            return std::future::pending().await;
        }
        let answer = format!("HTTP/1.1 {status} Whatever\r\ncontent-length: 0\r\n\r\n");
        if stream.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}
