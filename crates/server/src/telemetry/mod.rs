//! Traces for whoever collects them by OTLP, as the `OTEL_…` variables say. Without them no span is made for them.
//!
//! Spans are `tracing`'s, made where the work is done; here is where they go. A request's span goes on from the client's
//! `traceparent`; the batch that its write joins goes on from it, at the leader too.

mod otlp;

use std::time::Duration;

use axum::http::{HeaderValue, StatusCode};
use opentelemetry::trace::{
    SpanContext, SpanId, TraceContextExt, TraceFlags, TraceId, TraceState, TracerProvider as _,
};
use opentelemetry::{Context, KeyValue};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SdkTracerProvider;
use rollcall_registry::TenantId;
use rollcall_replica::{TraceContext, TraceLink};
use tracing::{Level, Span, Subscriber};
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::FilterFn;
use tracing_subscriber::registry::LookupSpan;

use crate::metrics::Route;
use otlp::Exporter;

/// Under which name a node's spans are collected unless `OTEL_SERVICE_NAME` says another.
const SERVICE: &str = "rollcall";

/// How long the last spans may take on their way when the node ends.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);

/// The only protocol spoken.
const PROTOCOL: &str = "http/protobuf";

/// The way between spans and the contexts that travel.
pub(crate) const LINK: TraceLink = TraceLink { context_of, adopt };

/// Why no traces are collected although the environment asks for it.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    #[error("OTEL_EXPORTER_OTLP_PROTOCOL is {protocol}, but only {PROTOCOL} is spoken")]
    Protocol { protocol: String },
    #[error(
        "{variable} is {value}, which is no http:// address; TLS is not spoken: have a collector beside the node"
    )]
    Endpoint { variable: &'static str, value: String },
    #[error("{variable} must be KEY=VALUE,…")]
    Headers { variable: &'static str },
    #[error("make a client for the collector")]
    Client(#[source] reqwest::Error),
}

/// Spans on their way to a collector.
pub struct Telemetry {
    provider: SdkTracerProvider,
}

impl Telemetry {
    /// What the environment asks for: nothing without `OTEL_EXPORTER_OTLP_ENDPOINT` or `…_TRACES_ENDPOINT`, nor where
    /// `OTEL_SDK_DISABLED` is true or `OTEL_TRACES_EXPORTER` is none. `instance` tells this node from the others. Must be
    /// called on a runtime.
    pub fn from_env(instance: &str) -> Result<Option<Self>, TelemetryError> {
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.trim().is_empty());
        let Some(target) = otlp::Target::of(variable)? else { return Ok(None) };
        let exporter = Exporter::new(target)?;
        let mut resource = Resource::builder()
            .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
            .with_attribute(KeyValue::new("service.instance.id", instance.to_owned()));
        let named_otherwise = variable("OTEL_SERVICE_NAME").is_some()
            || variable("OTEL_RESOURCE_ATTRIBUTES").is_some_and(|all| all.contains("service.name="));
        if !named_otherwise {
            resource = resource.with_service_name(SERVICE);
        }
        // Sampler, limits and batching are read from the environment by the library.
        let provider =
            SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource.build()).build();
        Ok(Some(Self { provider }))
    }

    /// Takes in the node's own spans and nothing else.
    pub fn layer<S>(&self) -> impl Layer<S> + Send + Sync + use<S>
    where
        S: Subscriber + for<'span> LookupSpan<'span> + Send + Sync,
    {
        let ours = FilterFn::new(|metadata| {
            let target = metadata.target();
            metadata.is_span()
                && *metadata.level() <= Level::DEBUG
                && (target.starts_with("rollcall_server") || target.starts_with("rollcall_replica"))
        });
        tracing_opentelemetry::layer()
            .with_tracer(self.provider.tracer(SERVICE))
            .with_location(false)
            .with_threads(false)
            .with_tracked_inactivity(false)
            .with_target(false)
            .with_filter(ours.with_max_level_hint(Level::DEBUG))
    }

    /// Sends what has not been sent, for a short while. Blocks.
    pub fn shutdown(self) {
        if let Err(error) = self.provider.shutdown_with_timeout(FLUSH_TIMEOUT) {
            tracing::warn!(%error, "the last spans did not reach their collector");
        }
    }
}

/// Names a request's span and makes it go on from the client's.
pub(crate) fn begin_request(span: &Span, route: Route, traceparent: Option<&HeaderValue>) {
    if span.is_disabled() {
        return;
    }
    if let Some(context) = traceparent.and_then(|value| parse_traceparent(value.to_str().ok()?)) {
        adopt(span, context);
    }
    span.record("otel.name", format!("{} {}", route.method(), route.template()));
    span.record("http.route", route.template());
}

pub(crate) fn end_request(span: &Span, status: StatusCode, tenant: Option<&TenantId>) {
    if span.is_disabled() {
        return;
    }
    // Signed, or it would be collected as a text.
    span.record("http.response.status_code", i64::from(status.as_u16()));
    if let Some(tenant) = tenant {
        span.record("tenant", tenant.as_str());
    }
    if status.is_server_error() {
        span.record("otel.status_code", "ERROR");
    }
}

fn context_of(span: &Span) -> Option<TraceContext> {
    let context = span.context();
    let context = context.span().span_context().clone();
    context.is_valid().then(|| TraceContext {
        trace_id: u128::from_be_bytes(context.trace_id().to_bytes()),
        span_id: u64::from_be_bytes(context.span_id().to_bytes()),
        flags: context.trace_flags().to_u8(),
    })
}

fn adopt(span: &Span, TraceContext { trace_id, span_id, flags }: TraceContext) {
    let parent = SpanContext::new(
        TraceId::from_bytes(trace_id.to_be_bytes()),
        SpanId::from_bytes(span_id.to_be_bytes()),
        TraceFlags::new(flags),
        true,
        TraceState::default(),
    );
    // A span that is only logged has no parent elsewhere.
    let _ = span.set_parent(Context::new().with_remote_span_context(parent));
}

/// A header of W3C's trace context, of version 00 or a later one that begins like it.
fn parse_traceparent(text: &str) -> Option<TraceContext> {
    let mut parts = text.split('-');
    let mut hex = |digits: usize| {
        let part = parts.next().filter(|part| part.len() == digits)?;
        let lower = part.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        lower.then(|| u128::from_str_radix(part, 16).ok()).flatten()
    };
    let version = u8::try_from(hex(2)?).ok()?;
    let (trace_id, span_id, flags) = (hex(32)?, u64::try_from(hex(16)?).ok()?, u8::try_from(hex(2)?).ok()?);
    let ends = version > 0 || parts.next().is_none();
    (version != 0xff && ends && trace_id != 0 && span_id != 0).then_some(TraceContext { trace_id, span_id, flags })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_whole_traceparent_is_followed() {
        let trace = "0af7651916cd43dd8448eb211c80319c";
        let good = format!("00-{trace}-b7ad6b7169203331-01");
        let context = parse_traceparent(&good).unwrap();
        assert_eq!(format!("{:032x}", context.trace_id), trace);
        assert_eq!((context.span_id, context.flags), (0xb7ad_6b71_6920_3331, 1));
        assert!(parse_traceparent(&format!("01{}-more", &good[2..])).is_some());
        for bad in [
            "",
            "00",
            &good[..54],
            &format!("{good}-more"),
            &good.replace("00-", "ff-"),
            &good.to_uppercase(),
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-0af7651916cd43dd8448eb211c80319c-+7ad6b7169203331-01",
        ] {
            assert_eq!(parse_traceparent(bad), None, "{bad}");
        }
    }
}
