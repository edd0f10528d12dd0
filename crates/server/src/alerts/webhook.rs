//! One request to a target: to an address that was looked at, with nothing followed and nothing read.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::redirect::Policy;
use reqwest::{Client, Url};
use rollcall_registry::AlertTarget;
use tokio::sync::OnceCell;

use super::message;
use crate::outbound::{Network, Refused, admit};
use crate::tls::machine_authorities;

/// From the first packet to the status line.
const TIMEOUT: Duration = Duration::from_secs(10);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// When the request was made, in seconds since 1970.
pub(super) const TIMESTAMP: &str = "rollcall-timestamp";
/// What proves who made it.
pub(super) const SIGNATURE: &str = "rollcall-signature";

/// Why a target was not told.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PostError {
    #[error("{0}")]
    Address(#[from] AddressError),
    #[error("no client can be made: {}", cause(.0))]
    Client(#[source] reqwest::Error),
    #[error("no answer: {}", cause(.0))]
    Send(#[source] reqwest::Error),
    #[error("answered {0}")]
    Status(u16),
}

impl PostError {
    /// What was answered, if anything was.
    pub(crate) fn status(&self) -> Option<u16> {
        match self {
            Self::Status(status) => Some(*status),
            Self::Address(_) | Self::Client(_) | Self::Send(_) => None,
        }
    }
}

/// Why an address is none that alerts can go to.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum AddressError {
    #[error("must be an http:// or https:// URL with a host")]
    Malformed,
    #[error("leads to a {0} address, which `alert_allow` does not name")]
    Refused(&'static str),
}

/// What lies at the bottom: the layers above only say that something was being sent.
fn cause(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

/// Posts alerts. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Poster {
    /// Made when it is first needed: the machine's authorities are read for it.
    client: Arc<OnceCell<Client>>,
    allowed: Arc<[Network]>,
}

/// Resolves names once, to what may be connected to.
struct Guarded(Arc<[Network]>);

impl Resolve for Guarded {
    fn resolve(&self, name: Name) -> Resolving {
        let allowed = self.0.clone();
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let mut refused = None;
            let mut admitted = Vec::new();
            for address in found {
                match admit(address.ip(), &allowed) {
                    Ok(ip) => admitted.push(SocketAddr::new(ip, 0)),
                    Err(Refused(sort)) => refused = Some(AddressError::Refused(sort)),
                }
            }
            match refused {
                Some(error) if admitted.is_empty() => Err(error.into()),
                _ => Ok(Box::new(admitted.into_iter()) as Addrs),
            }
        })
    }
}

impl Poster {
    pub(crate) fn new(allowed: &[Network]) -> Self {
        Self { client: Arc::default(), allowed: allowed.into() }
    }

    async fn client(&self) -> Result<&Client, PostError> {
        let allowed = self.allowed.clone();
        let make = || {
            let builder = Client::builder()
                .no_proxy()
                .tls_certs_only(machine_authorities())
                .redirect(Policy::none())
                .timeout(TIMEOUT)
                .connect_timeout(CONNECT_TIMEOUT)
                .pool_max_idle_per_host(1)
                .user_agent(concat!("rollcall/", env!("CARGO_PKG_VERSION")))
                .dns_resolver(Arc::new(Guarded(allowed)));
            builder.build().map_err(PostError::Client)
        };
        let making = || async {
            match tokio::task::spawn_blocking(make).await {
                Ok(client) => client,
                Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
            }
        };
        self.client.get_or_try_init(making).await
    }

    /// The address, if alerts may go there as far as can be told without asking for names.
    pub(crate) fn check(&self, url: &str) -> Result<Url, AddressError> {
        let url = Url::parse(url).map_err(|_| AddressError::Malformed)?;
        let host = url.host_str().filter(|_| matches!(url.scheme(), "http" | "https"));
        let host = host.ok_or(AddressError::Malformed)?;
        // What is no name is not resolved.
        if let Ok(address) = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
            admit(address, &self.allowed).map_err(|Refused(sort)| AddressError::Refused(sort))?;
        }
        Ok(url)
    }

    /// Tells a target. Whatever it answers but 2xx is a failure, and what it says beside is not read.
    pub(crate) async fn post(&self, target: &AlertTarget, body: Vec<u8>) -> Result<u16, PostError> {
        let url = self.check(&target.url)?;
        let timestamp = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let signature = message::signature(target.secret.expose(), timestamp, &body);
        let request = self.client().await?.post(url).header("content-type", "application/json");
        let request = request.header(TIMESTAMP, timestamp).header(SIGNATURE, signature).body(body);
        let answer = request.send().await.map_err(|error| PostError::Send(error.without_url()))?;
        let status = answer.status();
        if status.is_success() { Ok(status.as_u16()) } else { Err(PostError::Status(status.as_u16())) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_that_are_not_allowed_are_refused_before_anything_is_sent() {
        let none = Poster::new(&[]);
        for (url, sort) in [
            ("http://127.0.0.1/x", "loopback"),
            ("http://[::1]/x", "loopback"),
            ("http://10.0.0.1", "private"),
            ("http://169.254.169.254/latest/meta-data", "metadata"),
            ("http://2130706433/", "loopback"),
            ("http://0x7f.1/", "loopback"),
            ("http://[::ffff:127.0.0.1]/", "loopback"),
        ] {
            assert_eq!(none.check(url), Err(AddressError::Refused(sort)), "{url}");
        }
        for url in ["", "pager", "ftp://a/", "http://", "file:///etc/passwd", "unix:/x"] {
            assert_eq!(none.check(url), Err(AddressError::Malformed), "{url}");
        }
        assert!(none.check("https://hooks.example.org/x?y=z").is_ok());
        let private = Poster::new(&["10.0.0.0/8".parse().unwrap()]);
        assert!(private.check("http://10.0.0.1/").is_ok());
        assert!(private.check("http://127.0.0.1/").is_err());
    }

    #[tokio::test]
    async fn a_name_that_leads_to_loopback_is_refused() {
        let poster = Poster::new(&[]);
        let target = AlertTarget {
            url: "http://localhost:9/".into(),
            form: rollcall_registry::AlertForm::Json,
            secret: rollcall_registry::AlertSecret::parse("a secret of some length").unwrap(),
            interval_ms: 0,
        };
        let error = poster.post(&target, Vec::new()).await.unwrap_err().to_string();
        assert!(error.contains("leads to a loopback address"), "{error}");
    }
}
