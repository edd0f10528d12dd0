//! TLS at a node's two ports: who may come in, and how a node proves who it is.
//!
//! The ports have separate certificates and separate authorities: what lets a client in makes nobody a node. At the peer
//! port both sides show a certificate. The side that dials checks it for the host that it dials; the side that is dialled
//! checks that the caller's is of the peers' authority, and, because a request names its sender, that it is valid for the
//! host at which the membership knows that sender (`peer::caller`). So a node's id, which the log allots, is bound to its
//! peer address by the membership, and its key to the host of that address by the certificate.
//!
//! Certificates are read again when their files change ([`Tls::keep_fresh`]). Files that do not fit together change
//! nothing: the node goes on with what it has and says so.
//!
//! Read in this order: `files`, `gate`, `stream`; then [`init`], which makes certificates for a trial.

mod files;
mod gate;
pub mod init;
mod stream;

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use parking_lot::{Mutex, RwLock};
use prometheus_client::metrics::counter::Counter;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::sync::{Notify, Semaphore};
use tokio_rustls::{TlsConnector, TlsStream};
use tokio_util::either::Either;
use tokio_util::sync::CancellationToken;

use crate::limits::HANDSHAKES_MAX;
use crate::startup::Notice;

pub(crate) use files::{FileFault, Loaded, Validity, authorities, machine_authorities};
pub use files::{Files, Port};
pub(crate) use gate::{Gate, Refused, turn_away};
pub(crate) use stream::{Reader, Stream, Writer, split};

/// How often the files are looked at. Whoever cannot wait sends SIGHUP.
const LOOK_INTERVAL: Duration = Duration::from_secs(10);

/// Long enough before the end for whoever renews certificates by hand.
const EXPIRES_SOON_S: i64 = 14 * 86_400;

/// A node's TLS. Cheap to clone; clones are one.
#[derive(Clone, Default)]
pub(crate) struct Tls {
    pub(crate) clients: Option<Arc<Secured>>,
    pub(crate) peers: Option<Arc<Secured>>,
    wanted: Arc<Notify>,
}

/// Has a node read its certificates again. Cheap to clone.
#[derive(Clone)]
pub struct Reload(Arc<Notify>);

impl Reload {
    /// At once, whether the files changed or not.
    pub fn now(&self) {
        self.0.notify_one();
    }
}

/// The certificates of one port as they are in use now.
pub(crate) struct Secured {
    files: Files,
    current: RwLock<Arc<Loaded>>,
    seen: Mutex<Seen>,
    /// Those that have begun and are not over.
    handshakes: Semaphore,
    pub(crate) refused: Counter,
    pub(crate) reloads: Counter,
}

/// What the last look at the files found.
struct Seen {
    stamps: Vec<Option<Stamp>>,
    /// Why they are not in use.
    fault: Option<String>,
}

/// What changes when a file is written or another is put in its place.
type Stamp = (SystemTime, u64, u64);

/// A port's certificates do not fit together.
#[derive(Debug, thiserror::Error)]
#[error("use the certificates of the {} port: {}", port.name(), faults.join("; "))]
pub struct TlsError {
    port: Port,
    faults: Vec<String>,
}

impl TlsError {
    fn new(port: Port, faults: &[FileFault]) -> Self {
        let faults = faults.iter().map(|fault| fault.told(port)).map(|(key, text)| format!("{key}: {text}"));
        Self { port, faults: faults.collect() }
    }
}

impl Tls {
    pub(crate) fn load(clients: Option<&Files>, peers: Option<&Files>) -> Result<Self, TlsError> {
        let load = |files: Option<&Files>| files.map(|files| Secured::load(files).map(Arc::new)).transpose();
        Ok(Self { clients: load(clients)?, peers: load(peers)?, wanted: Arc::default() })
    }

    pub(crate) fn reload(&self) -> Reload {
        Reload(self.wanted.clone())
    }

    pub(crate) fn ports(&self) -> impl Iterator<Item = &Arc<Secured>> {
        [&self.clients, &self.peers].into_iter().flatten()
    }

    pub(crate) fn client_gate(&self) -> Gate {
        Gate(self.clients.clone())
    }

    pub(crate) fn peer_gate(&self) -> Gate {
        Gate(self.peers.clone())
    }

    /// Reads the certificates again when their files changed or somebody asks for it, until `stop`.
    pub(crate) async fn keep_fresh(&self, stop: CancellationToken) {
        if self.ports().next().is_none() {
            return;
        }
        loop {
            let asked = tokio::select! {
                () = stop.cancelled() => return,
                () = self.wanted.notified() => true,
                () = tokio::time::sleep(LOOK_INTERVAL) => false,
            };
            let ports: Vec<_> = self.ports().cloned().collect();
            let looked = tokio::task::spawn_blocking(move || ports.iter().for_each(|port| port.refresh(asked)));
            looked.await.expect("reading certificates does not panic");
        }
    }

    /// What an operator should know of them.
    pub(crate) fn notices(&self) -> Vec<Notice> {
        self.ports().flat_map(|port| port.notices(now_s())).collect()
    }
}

impl Secured {
    fn load(files: &Files) -> Result<Self, TlsError> {
        let stamps = stamps(files);
        let loaded = files.load().map_err(|faults| TlsError::new(files.port, &faults))?;
        Ok(Self {
            files: files.clone(),
            current: RwLock::new(Arc::new(loaded)),
            seen: Mutex::new(Seen { stamps, fault: None }),
            handshakes: Semaphore::new(HANDSHAKES_MAX),
            refused: Counter::default(),
            reloads: Counter::default(),
        })
    }

    pub(crate) fn port(&self) -> Port {
        self.files.port
    }

    pub(crate) fn validity(&self) -> Validity {
        self.current().validity
    }

    fn current(&self) -> Arc<Loaded> {
        self.current.read().clone()
    }

    /// Blocks for some files.
    fn refresh(&self, asked: bool) {
        let mut seen = self.seen.lock();
        // Before they are read: what changes meanwhile is seen the next time.
        let stamps = stamps(&self.files);
        if !asked && stamps == seen.stamps {
            return;
        }
        seen.stamps = stamps;
        let port = self.port().name();
        match self.files.load() {
            Ok(loaded) => {
                let expires = told_time(loaded.validity.not_after_s);
                *self.current.write() = Arc::new(loaded);
                seen.fault = None;
                self.reloads.inc();
                tracing::info!(port, expires, "the certificates were read again; new connections use them");
            }
            Err(faults) => {
                let fault = TlsError::new(self.port(), &faults).faults.join("; ");
                tracing::warn!(
                    port,
                    fault,
                    "the certificates changed and cannot be used; those of before stay in use"
                );
                seen.fault = Some(fault);
            }
        }
    }

    pub(crate) fn is_stale(&self) -> bool {
        self.seen.lock().fault.is_some()
    }

    fn notices(&self, now_s: i64) -> Vec<Notice> {
        let (stale, aging) = match self.port() {
            Port::Client => ("tls_files", "tls_expiry"),
            Port::Peer => ("peer_tls_files", "peer_tls_expiry"),
        };
        let fault = self.seen.lock().fault.clone();
        let fault = fault.map(|fault| {
            let detail = format!("its files changed and cannot be used, those of before stay in use: {fault}");
            Notice { name: stale, detail }
        });
        let aged = self.validity().fault(now_s, EXPIRES_SOON_S);
        let aged = aged.map(|what| {
            let detail = format!("the certificate of the {} port {what}", self.port().name());
            Notice { name: aging, detail }
        });
        [fault, aged].into_iter().flatten().collect()
    }

    /// A handshake with the peer at this host, to which this node shows its own certificate.
    pub(crate) async fn dial(&self, host: &str, stream: TcpStream) -> std::io::Result<Stream> {
        let fault = |reason: String| std::io::Error::new(std::io::ErrorKind::InvalidInput, reason);
        let name = ServerName::try_from(host.to_owned());
        let name = name.map_err(|error| fault(format!("`{host}` can stand in no certificate: {error}")))?;
        let dial = self.current().dial.clone().expect("peers are dialled with the certificates of the peer port");
        let stream = TlsConnector::from(dial).connect(name, stream).await?;
        Ok(Either::Right(Box::new(TlsStream::Client(stream))))
    }
}

impl Validity {
    /// What is wrong with a certificate now, or within a while.
    pub(crate) fn fault(self, now_s: i64, soon_s: i64) -> Option<String> {
        let Self { not_before_s, not_after_s } = self;
        if now_s < not_before_s {
            Some(format!("is not valid before {}", told_time(not_before_s)))
        } else if not_after_s < now_s {
            Some(format!("expired at {}: renew it", told_time(not_after_s)))
        } else if not_after_s < now_s.saturating_add(soon_s) {
            Some(format!("expires at {}: renew it", told_time(not_after_s)))
        } else {
            None
        }
    }
}

fn stamps(files: &Files) -> Vec<Option<Stamp>> {
    files.paths().map(stamp).collect()
}

/// Of what the path leads to: secrets are often mounted behind links that are moved.
fn stamp(path: &Path) -> Option<Stamp> {
    let metadata = fs::metadata(path).ok()?;
    Some((metadata.modified().ok()?, metadata.len(), std::os::unix::fs::MetadataExt::ino(&metadata)))
}

pub(crate) fn now_s() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

fn told_time(seconds: i64) -> String {
    jiff::Timestamp::from_second(seconds).map_or_else(|_| "an unknown time".to_owned(), |time| time.to_string())
}

#[cfg(test)]
pub(crate) mod tests;
