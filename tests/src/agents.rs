//! Agents that nodes check: one server that is many of them, told apart by the first segment of the path.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::task::AbortOnDropHandle;

/// Answers until it is dropped.
#[derive(Debug)]
pub struct Agents {
    address: String,
    known: Arc<Mutex<Known>>,
    _task: AbortOnDropHandle<()>,
}

#[derive(Debug)]
struct Known {
    /// What those answer that are not well.
    codes: BTreeMap<String, u16>,
    /// How often each was asked.
    asked: BTreeMap<String, u64>,
}

impl Agents {
    /// All of them are well.
    ///
    /// # Panics
    /// When no port is free.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it is bound").to_string();
        let known = Arc::new(Mutex::new(Known { codes: BTreeMap::new(), asked: BTreeMap::new() }));
        let shared = known.clone();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let shared = shared.clone();
                tokio::spawn(async move { serve(stream, &shared).await });
            }
        });
        Self { address, known, _task: AbortOnDropHandle::new(task) }
    }

    pub fn url(&self, id: &str) -> String {
        format!("http://{}/{id}", self.address)
    }

    /// From now on one of them answers so.
    ///
    /// # Panics
    /// Never but after another panic.
    pub fn answer(&self, id: &str, code: u16) {
        self.known.lock().expect("nobody panicked").codes.insert(id.to_owned(), code);
    }

    /// How many requests came for one of them.
    ///
    /// # Panics
    /// Never but after another panic.
    pub fn asked(&self, id: &str) -> u64 {
        self.known.lock().expect("nobody panicked").asked.get(id).copied().unwrap_or(0)
    }
}

/// Answers requests of one connection until it ends.
async fn serve(stream: TcpStream, known: &Mutex<Known>) {
    let mut stream = BufReader::new(stream);
    loop {
        let mut line = String::new();
        if !stream.read_line(&mut line).await.is_ok_and(|bytes| bytes > 0) {
            return;
        }
        let path = line.split(' ').nth(1).unwrap_or_default();
        let id = path.split('/').nth(1).unwrap_or_default().to_owned();
        while line != "\r\n" {
            line.clear();
            if !stream.read_line(&mut line).await.is_ok_and(|bytes| bytes > 0) {
                return;
            }
        }
        let code = {
            let mut known = known.lock().expect("nobody panicked");
            let code = known.codes.get(&id).copied().unwrap_or(200);
            *known.asked.entry(id).or_default() += 1;
            code
        };
        let answer = format!("HTTP/1.1 {code} So\r\ncontent-length: 0\r\n\r\n");
        if stream.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}
