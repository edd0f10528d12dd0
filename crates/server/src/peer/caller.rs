//! Who calls, by certificate.
//!
//! A request names its sender by the id that the log allotted; the membership knows at which address that node is
//! reached; the caller's certificate must be valid for that host. A sender that this node does not know yet, because it
//! lags behind the membership, is believed: its certificate is of the peers' authority, and a node that lags must not
//! shut out the leader from which it would learn better.

use rustls::client::verify_server_name;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::server::ParsedCertificate;
use tokio_util::either::Either;

use crate::config::split_address;
use crate::tls::Stream;

/// The certificate at the other end of a connection.
pub(super) struct Caller {
    certificate: CertificateDer<'static>,
    /// The address for which it was found valid last: nearly always the only one that is asked for.
    valid_for: Option<String>,
}

impl Caller {
    /// None where there is no TLS, and so nothing to judge by.
    pub(super) fn of(stream: &Stream) -> Option<Self> {
        let Either::Right(stream) = stream else { return None };
        let (_, session) = stream.get_ref();
        let certificate = session.peer_certificates().and_then(<[_]>::first);
        // The handshake has refused whoever has none.
        let certificate = certificate.expect("a peer shows a certificate").clone().into_owned();
        Some(Self { certificate, valid_for: None })
    }

    /// Why the caller cannot be the node at this peer address.
    pub(super) fn judge(&mut self, address: &str) -> Option<String> {
        if self.valid_for.as_deref() == Some(address) {
            return None;
        }
        let judged = split_address(address)
            .ok_or_else(|| "it is no address".to_owned())
            .and_then(|(host, _)| ServerName::try_from(host).map_err(|error| error.to_string()))
            .and_then(|name| {
                let parsed = ParsedCertificate::try_from(&self.certificate).map_err(|error| error.to_string())?;
                verify_server_name(&parsed, &name).map_err(|error| error.to_string())
            });
        match judged {
            Ok(()) => {
                self.valid_for = Some(address.to_owned());
                None
            }
            Err(error) => Some(format!("the caller's certificate is not that of the node at {address}: {error}")),
        }
    }
}
