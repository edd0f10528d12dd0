//! Whom this client trusts, and what stands between it and a node whom it does not.

use std::error::Error as StdError;
use std::fmt;
use std::io;

use reqwest::{Certificate, ClientBuilder, Identity, Url};
use rustls::{AlertDescription, CertificateError};

use crate::error::BuildError;

/// What is the matter with a node's TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TlsTrouble {
    /// The other end speaks something else.
    NotTls,
    /// Its certificate is not of an authority that is trusted here.
    UnknownAuthority,
    /// Its certificate is for other names.
    WrongName,
    /// Its certificate is not valid now.
    Expired,
    /// It wants a certificate from clients, and another than it was shown.
    ClientCertificate,
    Other,
}

impl fmt::Display for TlsTrouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotTls => "it speaks no TLS",
            Self::UnknownAuthority => "its certificate is not of a trusted authority",
            Self::WrongName => "its certificate is for other names",
            Self::Expired => "its certificate is not valid now",
            Self::ClientCertificate => "it wants a client certificate",
            Self::Other => "the TLS handshake failed",
        })
    }
}

pub(crate) fn configure(
    http: ClientBuilder,
    ca: Option<Vec<u8>>,
    identity: Option<Vec<u8>>,
    endpoints: &[Url],
) -> Result<ClientBuilder, BuildError> {
    let http = match ca {
        Some(pem) => {
            let authorities =
                Certificate::from_pem_bundle(&pem).map_err(|source| BuildError::Authority { source })?;
            if authorities.is_empty() {
                return Err(BuildError::NoAuthority);
            }
            http.tls_certs_only(authorities)
        }
        // The machine's authorities take a while to read, and a slim container has none.
        None if endpoints.iter().all(|endpoint| endpoint.scheme() == "http") => http.tls_certs_only([]),
        None => http,
    };
    match identity {
        None => Ok(http),
        Some(pem) => {
            let identity = Identity::from_pem(&pem).map_err(|source| BuildError::ClientCertificate { source })?;
            Ok(http.identity(identity))
        }
    }
}

/// What is the matter with TLS, if that is what the error is about.
pub(crate) fn trouble(error: &reqwest::Error) -> Option<TlsTrouble> {
    let connecting = error.is_connect();
    let mut next: Option<&(dyn StdError + 'static)> = Some(error);
    while let Some(error) = next {
        if let Some(error) = error.downcast_ref::<rustls::Error>() {
            return Some(of(error));
        }
        // Whoever hangs up on the first words of TLS has not understood them.
        if connecting
            && error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::UnexpectedEof)
        {
            return Some(TlsTrouble::NotTls);
        }
        // An I/O error hides what it carries from `source`.
        let carried = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        next = match carried {
            Some(carried) => Some(carried),
            None => error.source(),
        };
    }
    None
}

fn of(error: &rustls::Error) -> TlsTrouble {
    match error {
        rustls::Error::InvalidMessage(_) => TlsTrouble::NotTls,
        rustls::Error::InvalidCertificate(fault) => match fault {
            CertificateError::UnknownIssuer | CertificateError::BadSignature => TlsTrouble::UnknownAuthority,
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                TlsTrouble::WrongName
            }
            CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. } => TlsTrouble::Expired,
            _ => TlsTrouble::Other,
        },
        rustls::Error::AlertReceived(
            AlertDescription::CertificateRequired
            | AlertDescription::UnknownCA
            | AlertDescription::BadCertificate
            | AlertDescription::DecryptError
            | AlertDescription::CertificateExpired,
        ) => TlsTrouble::ClientCertificate,
        _ => TlsTrouble::Other,
    }
}
