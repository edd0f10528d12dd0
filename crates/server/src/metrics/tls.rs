//! What the ports know of their certificates; without TLS there are no samples.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::registry::Unit;

use super::encode::Writer;
use crate::tls::Tls;

pub(super) struct Collected(pub(super) Tls);

impl fmt::Debug for Collected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Collected").finish_non_exhaustive()
    }
}

impl Collector for Collected {
    fn encode(&self, encoder: DescriptorEncoder) -> fmt::Result {
        let mut writer = Writer(encoder);
        let port = |port: &crate::tls::Secured| [("port", port.port().name())];
        let ends = self.0.ports().map(|p| (port(p).map(|(k, v)| (k, v.to_owned())), p.validity().not_after_s as f64));
        let help = "When the first certificate in use at a port expires, since the Unix epoch.";
        writer.gauges("tls_certificate_expiry_timestamp", help, Some(Unit::Seconds), ends)?;
        let stale =
            self.0.ports().map(|p| (port(p).map(|(k, v)| (k, v.to_owned())), f64::from(u8::from(p.is_stale()))));
        let help = "1 where the files of a port changed and cannot be used, so that those of before stay in use.";
        writer.gauges("tls_certificate_stale", help, None, stale)?;
        let reloads = self.0.ports().map(|p| (port(p), p.reloads.get()));
        writer.counters("tls_reloads", "Times that the certificates of a port were read again and used.", reloads)?;
        let refused = self.0.ports().map(|p| (port(p), p.refused.get()));
        writer.counters("tls_handshakes_refused", "Connections that got no TLS session at a port.", refused)
    }
}
