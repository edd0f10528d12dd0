//! Writes metrics that are looked up when somebody asks.

use std::fmt::Result;

use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelValue, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Unit;
use rollcall_replica::meter::Counts;

/// Durations are counted in ns and shown in seconds.
pub(super) const NS_PER_SECOND: f64 = 1e9;

/// One metric after the other.
pub(super) struct Writer<'a>(pub(super) DescriptorEncoder<'a>);

impl Writer<'_> {
    pub(super) fn gauge(&mut self, name: &str, help: &str, unit: Option<Unit>, value: f64) -> Result {
        self.0.encode_descriptor(name, help, unit.as_ref(), MetricType::Gauge)?.encode_gauge(&value)
    }

    pub(super) fn gauges<const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<Unit>,
        values: impl IntoIterator<Item = ([(&'static str, String); N], f64)>,
    ) -> Result {
        let mut encoder = self.0.encode_descriptor(name, help, unit.as_ref(), MetricType::Gauge)?;
        values.into_iter().try_for_each(|(labels, value)| encoder.encode_family(&labels)?.encode_gauge(&value))
    }

    pub(super) fn counter(&mut self, name: &str, help: &str, unit: Option<Unit>, value: f64) -> Result {
        let mut encoder = self.0.encode_descriptor(name, help, unit.as_ref(), MetricType::Counter)?;
        encoder.encode_counter::<NoLabelSet, _, f64>(&value, None)
    }

    pub(super) fn counters<const N: usize, L: EncodeLabelValue>(
        &mut self,
        name: &str,
        help: &str,
        values: impl IntoIterator<Item = ([(&'static str, L); N], u64)>,
    ) -> Result {
        let mut encoder = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        values.into_iter().try_for_each(|(labels, value)| {
            encoder.encode_family(&labels)?.encode_counter::<NoLabelSet, _, f64>(&value, None)
        })
    }

    pub(super) fn histogram(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<Unit>,
        counts: &Counts,
        per_unit: f64,
    ) -> Result {
        let encoder = self.0.encode_descriptor(name, help, unit.as_ref(), MetricType::Histogram)?;
        write(encoder, counts, per_unit)
    }

    pub(super) fn histograms<'c, const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<Unit>,
        per_unit: f64,
        all: impl IntoIterator<Item = ([(&'static str, &'static str); N], &'c Counts)>,
    ) -> Result {
        let mut encoder = self.0.encode_descriptor(name, help, unit.as_ref(), MetricType::Histogram)?;
        all.into_iter().try_for_each(|(labels, counts)| write(encoder.encode_family(&labels)?, counts, per_unit))
    }
}

/// `per_unit` of what is counted are one of what is shown. Divided by, because bounds are read by people.
fn write(mut encoder: MetricEncoder<'_>, counts: &Counts, per_unit: f64) -> Result {
    let bounds = counts.bounds.iter().map(|bound| *bound as f64 / per_unit).chain([f64::INFINITY]);
    let buckets: Vec<(f64, u64)> = bounds.zip(counts.counts.iter().copied()).collect();
    let (sum, count) = (counts.sum as f64 / per_unit, counts.counts.iter().sum());
    encoder.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)
}
