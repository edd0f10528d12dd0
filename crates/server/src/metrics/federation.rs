//! How it goes with other clusters.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::registry::Unit;
use rollcall_registry::ClusterTime;
use rollcall_replica::Replica;

use super::encode::Writer;
use crate::federation::Links;

pub(super) struct Collected {
    pub(super) replica: Replica,
    pub(super) links: Links,
}

impl fmt::Debug for Collected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Collected")
    }
}

/// What is known of one other cluster.
struct Known {
    peer: String,
    instances: usize,
    stale: bool,
    lacking: u64,
    silent_ms: Option<u64>,
}

impl Collector for Collected {
    fn encode(&self, encoder: DescriptorEncoder) -> fmt::Result {
        let mut writer = Writer(encoder);
        let (now, links) = (self.replica.cluster_time(), self.links.all());
        let (revision, bytes, known) = self.replica.roll().read(|state| {
            let now = now.max(state.now());
            let receiving = state.peers().filter(|peer| peer.terms.direction.receives());
            let known = receiving.map(|peer| Known {
                peer: peer.name().to_string(),
                instances: state.foreign_count(peer.name()).0,
                stale: peer.is_stale(now),
                lacking: peer.received.lacking,
                silent_ms: Some(peer.received.heard_at).filter(|at| *at > ClusterTime(0)).map(|at| at.ms_until(now)),
            });
            (state.revision(), state.foreign_total().1, known.collect::<Vec<_>>())
        });
        let label = |peer: &str| [("peer", peer.to_owned())];
        let of = |value: &dyn Fn(&Known) -> f64| -> Vec<_> {
            known.iter().map(|known| (label(&known.peer), value(known))).collect()
        };
        let help = "Instances of another cluster that are known here.";
        writer.gauges("federation_foreign_instances", help, None, of(&|known| known.instances as f64))?;
        let help = "What other clusters' instances take; beyond 512 MiB, or half of it of one, more are refused.";
        writer.gauge("federation_foreign", help, Some(Unit::Bytes), bytes as f64)?;
        let help = "1 for another cluster that has been out of reach for more than 30 s.";
        writer.gauges("federation_peer_stale", help, None, of(&|known| f64::from(u8::from(known.stale))))?;
        let help = "Instances that another cluster told and that were not taken.";
        writer.gauges("federation_lacking_instances", help, None, of(&|known| known.lacking as f64))?;
        let help = "Since another cluster was last heard, by cluster time; NaN if it never was.";
        let silence = of(&|known| known.silent_ms.map_or(f64::NAN, |ms| ms as f64 / 1_000.0));
        writer.gauges("federation_silence", help, Some(Unit::Seconds), silence)?;
        let help = "At the leader: revisions that another cluster is behind; NaN while it is not known.";
        let lag = links
            .iter()
            .map(|(peer, link)| (label(peer.as_str()), link.lag(revision).map_or(f64::NAN, |lag| lag as f64)));
        writer.gauges("federation_lag_revisions", help, None, lag)?;
        let help = "At the leader: requests to another cluster, by whether they were answered.";
        let sent = links.iter().flat_map(|(peer, link)| {
            [("ok", link.successes), ("failed", link.failures)]
                .map(|(result, count)| ([("peer", peer.to_string()), ("result", result.to_owned())], count))
        });
        writer.counters("federation_requests", help, sent)
    }
}
