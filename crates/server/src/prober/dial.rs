//! Connecting to what is checked: a name is looked up once, and what is connected to is an address that was judged.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use rustls::crypto::aws_lc_rs;
use rustls::pki_types::ServerName;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, RootCertStore};
use smallvec::SmallVec;
use tokio::net::{TcpStream, lookup_host};
use tokio::sync::{OnceCell, Semaphore};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::either::Either;

use super::finding::{Broken, Trouble};
use super::plan::Target;
use crate::outbound::{self, Network, Refused};
use crate::tls;

/// Look-ups at once: each takes a thread for as long as the name servers take.
const LOOKUPS_MAX: usize = 32;

/// Addresses of one name that are tried one after the other.
const ADDRESSES_MAX: usize = 4;

/// Addresses that were judged.
pub(super) type Addresses = SmallVec<[SocketAddr; 1]>;

pub(super) type Wire = Either<TcpStream, Box<TlsStream<TcpStream>>>;

/// Connects to nothing else than what may be checked.
pub(super) struct Dialer {
    allowed: Box<[Network]>,
    /// Trusted beside the authorities of this machine.
    ca: Option<PathBuf>,
    roots: OnceCell<Arc<RootCertStore>>,
    lookups: Semaphore,
}

impl Dialer {
    pub(super) fn new(allowed: &[Network], ca: Option<PathBuf>) -> Self {
        Self { allowed: allowed.into(), ca, roots: OnceCell::new(), lookups: Semaphore::new(LOOKUPS_MAX) }
    }

    /// The addresses of a target that may be checked, at least one.
    pub(super) async fn resolve(&self, target: &Target) -> Result<Addresses, Broken> {
        let judge = |address: IpAddr| outbound::admit(address, &self.allowed);
        if let Ok(address) = target.host.parse::<IpAddr>() {
            let address = judge(address).map_err(Broken::Refused)?;
            return Ok(Addresses::from_elem(SocketAddr::new(address, target.port), 1));
        }
        let _turn = self.lookups.acquire().await.expect("it is never closed");
        let found = lookup_host((&*target.host, target.port)).await.map_err(|_| Broken::Unknown)?;
        let (mut addresses, mut refused) = (Addresses::new(), None::<Refused>);
        for found in found {
            match judge(found.ip()) {
                Ok(address) if addresses.len() < ADDRESSES_MAX => {
                    addresses.push(SocketAddr::new(address, target.port));
                }
                Ok(_) => {}
                Err(reason) => refused = Some(reason),
            }
        }
        match refused {
            _ if !addresses.is_empty() => Ok(addresses),
            Some(reason) => Err(Broken::Refused(reason)),
            None => Err(Broken::Unknown),
        }
    }

    /// Connects to the first of the addresses that takes it.
    pub(super) async fn connect(&self, addresses: &[SocketAddr]) -> Result<TcpStream, Trouble> {
        let mut trouble = Trouble::Unreachable;
        for address in addresses {
            match TcpStream::connect(address).await {
                Ok(stream) => {
                    // What is sent is small, and waits for nothing.
                    let _ = stream.set_nodelay(true);
                    return Ok(stream);
                }
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => trouble = Trouble::NotListening,
                Err(_) => {}
            }
        }
        Err(trouble)
    }

    /// The authorities whose certificates are believed; read once, when they are first needed.
    pub(super) async fn roots(&self) -> Result<Arc<RootCertStore>, Broken> {
        let roots = self.roots.get_or_try_init(|| async {
            let ca = self.ca.clone();
            let reading = tokio::task::spawn_blocking(move || {
                let mut roots = match ca {
                    Some(ca) => tls::authorities(&ca)?,
                    None => RootCertStore::empty(),
                };
                roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
                Ok::<_, tls::FileFault>(Arc::new(roots))
            });
            match reading.await {
                Ok(Ok(roots)) => Ok(roots),
                Ok(Err(error)) => {
                    tracing::warn!(%error, "check_ca cannot be read");
                    Err(Broken::Untrusting)
                }
                Err(_) => Err(Broken::Untrusting),
            }
        });
        roots.await.cloned()
    }

    /// Makes a connection secure where the target asks for it. The certificate must be valid for the host.
    pub(super) async fn secure(
        target: &Target,
        roots: Option<Arc<RootCertStore>>,
        protocol: &[u8],
        stream: TcpStream,
    ) -> Result<Wire, Trouble> {
        let Some(roots) = roots else { return Ok(Either::Left(stream)) };
        let provider = Arc::new(aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider).with_protocol_versions(&[&TLS13, &TLS12]);
        let mut config = config.map_err(|_| Trouble::Tls)?.with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = vec![protocol.to_vec()];
        // Each check is to see the certificate.
        config.resumption = rustls::client::Resumption::disabled();
        let name = ServerName::try_from(target.host.to_string()).map_err(|_| Trouble::Tls)?;
        let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await.map_err(|_| Trouble::Tls)?;
        Ok(Either::Right(Box::new(stream)))
    }
}
