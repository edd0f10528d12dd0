//! The certificates of one port: what an operator names, and what comes of reading it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::danger::ServerCertVerifier;
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::version::{TLS12, TLS13};
use rustls::{CertificateError, ClientConfig, RootCertStore, ServerConfig};

/// A chain with its key takes some kilobytes, a bundle of authorities some hundred.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Clients speak HTTP/1.1 and nothing else here.
const CLIENT_ALPN: &[u8] = b"http/1.1";

/// What nodes speak to each other. A browser or an agent that comes to the wrong port has no protocol in common.
const PEER_ALPN: &[u8] = b"rollcall-peer/1";

/// Which of a node's two ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Port {
    Client,
    Peer,
}

impl Port {
    /// How metrics and logs name it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Peer => "peer",
        }
    }

    /// The setting that names a file.
    pub(crate) fn key(self, part: Part) -> &'static str {
        match (self, part) {
            (Self::Client, Part::Cert) => "tls_cert",
            (Self::Client, Part::Key) => "tls_key",
            (Self::Client, Part::Ca) => "tls_client_ca",
            (Self::Peer, Part::Cert) => "peer_tls_cert",
            (Self::Peer, Part::Key) => "peer_tls_key",
            (Self::Peer, Part::Ca) => "peer_tls_ca",
        }
    }
}

/// Which of a port's files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    Cert,
    Key,
    Ca,
}

/// Where a port's certificates are. A set that is whole: what may be missing is judged by [`Files::named`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Files {
    pub(crate) port: Port,
    /// This node's certificate, and those between it and the authority.
    pub(crate) cert: PathBuf,
    pub(crate) key: PathBuf,
    /// Whose certificates callers must have. Always there at the peer port; at the client port, where it is none,
    /// callers need no certificate.
    pub(crate) ca: Option<PathBuf>,
    /// The host at which peers dial this node.
    pub(crate) host: Option<String>,
}

/// What is wrong with a port's certificates.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FileFault {
    #[error("read {path}")]
    Read {
        part: Part,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{path} is larger than {FILE_BYTES_MAX} bytes")]
    TooLarge { part: Part, path: PathBuf },
    #[error("{path} holds no PEM {what}")]
    Missing { part: Part, path: PathBuf, what: &'static str },
    #[error("{path} holds a PEM {what} that cannot be read: {reason}")]
    Malformed { part: Part, path: PathBuf, what: &'static str, reason: String },
    #[error("{key} is not the key of the certificate in {cert}")]
    Mismatch { cert: PathBuf, key: PathBuf },
    #[error("{cert} is not signed by the authority in {ca}, so that other nodes will refuse it")]
    Foreign { cert: PathBuf, ca: PathBuf },
    #[error("{cert} is not valid for {host}, the host of this node's peer address: {reason}")]
    WrongName { cert: PathBuf, host: String, reason: String },
    #[error("{cert} cannot be used: {reason}")]
    Unusable { cert: PathBuf, reason: String },
}

impl FileFault {
    /// In one line, for the setting that it belongs to.
    pub(crate) fn told(&self, port: Port) -> (&'static str, String) {
        let mut text = self.to_string();
        if let Some(source) = std::error::Error::source(self) {
            text = format!("{text}: {source}");
        }
        (port.key(self.part()), text)
    }

    fn part(&self) -> Part {
        match self {
            Self::Read { part, .. }
            | Self::TooLarge { part, .. }
            | Self::Missing { part, .. }
            | Self::Malformed { part, .. } => *part,
            Self::Mismatch { .. } => Part::Key,
            Self::Foreign { .. } | Self::WrongName { .. } | Self::Unusable { .. } => Part::Cert,
        }
    }
}

/// A port's certificates, ready for use.
pub(crate) struct Loaded {
    pub(crate) accept: Arc<ServerConfig>,
    /// At the peer port.
    pub(crate) dial: Option<Arc<ClientConfig>>,
    pub(crate) validity: Validity,
}

/// From when to when all of a chain is valid, in seconds since the Unix epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Validity {
    pub(crate) not_before_s: i64,
    pub(crate) not_after_s: i64,
}

impl Files {
    /// What the settings name; none where TLS is off. A set that is not whole is a fault.
    pub(crate) fn named(
        port: Port,
        [cert, key, ca]: [Option<PathBuf>; 3],
        host: Option<&str>,
        fault: &mut impl FnMut(&str, &str),
    ) -> Option<Self> {
        let given = [(Part::Cert, &cert), (Part::Key, &key), (Part::Ca, &ca)];
        if given.iter().all(|(_, path)| path.is_none()) {
            return None;
        }
        let needed = |part| port == Port::Peer || part != Part::Ca;
        for (part, _) in given.iter().filter(|(part, path)| needed(*part) && path.is_none()) {
            let others = given.iter().filter(|(_, path)| path.is_some()).map(|(part, _)| port.key(*part));
            let others = others.collect::<Vec<_>>().join(" and ");
            fault(port.key(*part), &format!("must be given together with {others}"));
        }
        if port == Port::Peer && ca.is_none() {
            return None;
        }
        Some(Self { port, cert: cert?, key: key?, ca, host: host.map(str::to_owned) })
    }

    /// Whether callers must have a certificate.
    pub(crate) fn asks_for_certificates(&self) -> bool {
        self.ca.is_some()
    }

    /// Names every fault of the files by the setting that it belongs to.
    pub(crate) fn check(&self, fault: &mut impl FnMut(&str, &str)) {
        for found in self.load().err().into_iter().flatten() {
            let (key, text) = found.told(self.port);
            fault(key, &text);
        }
    }

    /// The files, to see whether they changed.
    pub(crate) fn paths(&self) -> impl Iterator<Item = &Path> {
        [Some(&self.cert), Some(&self.key), self.ca.as_ref()].into_iter().flatten().map(PathBuf::as_path)
    }

    /// Reads the files and checks that they fit together. Every fault is named. What has expired is none: a node that
    /// cannot be trusted any more tells so, and must not refuse to start for it, or the last quorum might not come back.
    pub(crate) fn load(&self) -> Result<Loaded, Vec<FileFault>> {
        let mut faults = Vec::new();
        let chain = noted(certificates(Part::Cert, &self.cert), &mut faults);
        let key = noted(private_key(&self.key), &mut faults);
        let roots = self.ca.as_ref().map(|ca| noted(authorities(ca), &mut faults));
        let (Some(chain), Some(key), None | Some(Some(_))) = (chain, key, &roots) else { return Err(faults) };
        self.assemble(chain, key, roots.flatten().map(Arc::new)).map_err(|fault| vec![fault])
    }

    fn assemble(
        &self,
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
        roots: Option<Arc<RootCertStore>>,
    ) -> Result<Loaded, FileFault> {
        let validity = self.validity(&chain)?;
        let provider = Arc::new(aws_lc_rs::default_provider());
        if let Some((roots, host)) = roots.as_ref().zip(self.host.as_ref()) {
            self.accepted_by_peers(&chain, roots, host, &provider)?;
        }
        let key = CertifiedKey::from_der(chain, key, &provider).map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => {
                FileFault::Mismatch { cert: self.cert.clone(), key: self.key.clone() }
            }
            error => self.unusable(error),
        })?;
        let key = Arc::new(SingleCertAndKey::from(key));
        let versions = match self.port {
            Port::Client => &[&TLS13, &TLS12][..],
            Port::Peer => &[&TLS13],
        };
        let accept = ServerConfig::builder_with_provider(provider.clone());
        let accept = accept.with_protocol_versions(versions).map_err(|error| self.unusable(error))?;
        let accept = match &roots {
            None => accept.with_no_client_auth(),
            Some(roots) => {
                let verifier = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone()).build();
                accept.with_client_cert_verifier(verifier.map_err(|error| self.unusable(error))?)
            }
        };
        let mut accept = accept.with_cert_resolver(key.clone());
        match self.port {
            Port::Client => {
                accept.alpn_protocols = vec![CLIENT_ALPN.to_vec()];
                // Agents by the thousand come back at once when a node has died. The tickets end with these files, so
                // that whoever is no longer let in is not let in by one either.
                accept.ticketer = aws_lc_rs::Ticketer::new().map_err(|error| self.unusable(error))?;
            }
            Port::Peer => {
                accept.alpn_protocols = vec![PEER_ALPN.to_vec()];
                // A handful of connections that are kept: each is judged anew.
                accept.session_storage = Arc::new(NoServerSessionStorage {});
                accept.send_tls13_tickets = 0;
            }
        }
        let dial = match (self.port, roots) {
            (Port::Client, _) | (_, None) => None,
            (Port::Peer, Some(roots)) => {
                let dial = ClientConfig::builder_with_provider(provider).with_protocol_versions(versions);
                let dial = dial.map_err(|error| self.unusable(error))?;
                let mut dial = dial.with_root_certificates(roots).with_client_cert_resolver(key);
                dial.alpn_protocols = vec![PEER_ALPN.to_vec()];
                dial.resumption = Resumption::disabled();
                Some(Arc::new(dial))
            }
        };
        Ok(Loaded { accept: Arc::new(accept), dial, validity })
    }

    fn unusable(&self, error: impl std::fmt::Display) -> FileFault {
        FileFault::Unusable { cert: self.cert.clone(), reason: error.to_string() }
    }

    /// Judges this node's certificate as its peers will: when they are dialled by it, and when they dial it.
    fn accepted_by_peers(
        &self,
        chain: &[CertificateDer<'static>],
        roots: &Arc<RootCertStore>,
        host: &str,
        provider: &Arc<CryptoProvider>,
    ) -> Result<(), FileFault> {
        let wrong_name =
            |reason: String| FileFault::WrongName { cert: self.cert.clone(), host: host.to_owned(), reason };
        let name = ServerName::try_from(host).map_err(|error| wrong_name(error.to_string()))?;
        let [first, rest @ ..] = chain else { return Ok(()) };
        let now = UnixTime::now();
        let dialled = WebPkiServerVerifier::builder_with_provider(roots.clone(), provider.clone())
            .build()
            .map_err(|error| self.unusable(error))?
            .verify_server_cert(first, rest, &name, &[], now)
            .map(drop);
        let dialling = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone())
            .build()
            .map_err(|error| self.unusable(error))?
            .verify_client_cert(first, rest, now)
            .map(drop);
        for judged in [dialled, dialling] {
            let Err(error) = judged else { continue };
            let rustls::Error::InvalidCertificate(reason) = error else { return Err(self.unusable(error)) };
            let ca = self.ca.clone().unwrap_or_default();
            return Err(match reason {
                // Told apart, because the way out differs. Expiry is no fault here.
                CertificateError::Expired
                | CertificateError::ExpiredContext { .. }
                | CertificateError::NotValidYet
                | CertificateError::NotValidYetContext { .. } => continue,
                CertificateError::UnknownIssuer | CertificateError::BadSignature => {
                    FileFault::Foreign { cert: self.cert.clone(), ca }
                }
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                    wrong_name(reason.to_string())
                }
                reason => self.unusable(reason),
            });
        }
        Ok(())
    }

    fn validity(&self, chain: &[CertificateDer<'_>]) -> Result<Validity, FileFault> {
        let mut whole = Validity { not_before_s: i64::MIN, not_after_s: i64::MAX };
        for certificate in chain {
            let (_, parsed) = x509_parser::parse_x509_certificate(certificate).map_err(|error| {
                let (path, reason) = (self.cert.clone(), error.to_string());
                FileFault::Malformed { part: Part::Cert, path, what: "certificate", reason }
            })?;
            let validity = parsed.validity();
            whole.not_before_s = whole.not_before_s.max(validity.not_before.timestamp());
            whole.not_after_s = whole.not_after_s.min(validity.not_after.timestamp());
        }
        Ok(whole)
    }
}

fn noted<T>(read: Result<T, FileFault>, faults: &mut Vec<FileFault>) -> Option<T> {
    read.map_err(|fault| faults.push(fault)).ok()
}

fn read(part: Part, path: &Path) -> Result<Vec<u8>, FileFault> {
    let fault = |source| FileFault::Read { part, path: path.to_owned(), source };
    if fs::metadata(path).map_err(fault)?.len() > FILE_BYTES_MAX {
        return Err(FileFault::TooLarge { part, path: path.to_owned() });
    }
    fs::read(path).map_err(fault)
}

fn certificates(part: Part, path: &Path) -> Result<Vec<CertificateDer<'static>>, FileFault> {
    let text = read(part, path)?;
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    let all = all.map_err(|error| {
        let reason = error.to_string();
        FileFault::Malformed { part, path: path.to_owned(), what: "certificate", reason }
    })?;
    if all.is_empty() {
        return Err(FileFault::Missing { part, path: path.to_owned(), what: "certificate" });
    }
    Ok(all)
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, FileFault> {
    use rustls::pki_types::pem::Error;
    let text = zeroize::Zeroizing::new(read(Part::Key, path)?);
    PrivateKeyDer::from_pem_slice(&text).map_err(|error| match error {
        Error::NoItemsFound => FileFault::Missing { part: Part::Key, path: path.to_owned(), what: "private key" },
        error => {
            let reason = error.to_string();
            FileFault::Malformed { part: Part::Key, path: path.to_owned(), what: "private key", reason }
        }
    })
}

/// The authorities that this machine trusts; none where there are none, as in a small container. A client that is left
/// to find them by itself cannot be made there.
pub(crate) fn machine_authorities() -> impl Iterator<Item = reqwest::Certificate> {
    let found = rustls_native_certs::load_native_certs().certs.into_iter();
    let usable = found.filter(|certificate| RootCertStore::empty().add(certificate.clone()).is_ok());
    usable.filter_map(|certificate| reqwest::Certificate::from_der(&certificate).ok())
}

/// The authorities that a file names.
pub(crate) fn authorities(path: &Path) -> Result<RootCertStore, FileFault> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(Part::Ca, path)? {
        roots.add(certificate).map_err(|error| {
            let reason = error.to_string();
            FileFault::Malformed { part: Part::Ca, path: path.to_owned(), what: "certificate", reason }
        })?;
    }
    Ok(roots)
}
