//! Spans as OTLP has them: protobuf over HTTP, written by hand because the usual generator's macros would have RocksDB
//! compiled anew. Field numbers are those of opentelemetry-proto 1.x, which are frozen.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use opentelemetry::trace::{SpanContext, SpanKind, Status};
use opentelemetry::{Array, KeyValue, Value};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::{OTelSdkError, OTelSdkResult};
use opentelemetry_sdk::trace::{SpanData, SpanExporter};
use prost::encoding::{WireType, encode_key, encode_varint};
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Client, Url};
use tokio::runtime::Handle;

use super::{PROTOCOL, TelemetryError};

const TIMEOUT_MS_DEFAULT: u64 = 10_000;
const PATH: &str = "/v1/traces";

/// Where spans go.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Target {
    url: Url,
    headers: HeaderMap,
    timeout: Duration,
}

impl Target {
    /// What the variables ask for; none if nothing.
    pub(super) fn of(variable: impl Fn(&str) -> Option<String>) -> Result<Option<Self>, TelemetryError> {
        let says =
            |name: &str, word: &str| variable(name).is_some_and(|value| value.trim().eq_ignore_ascii_case(word));
        if says("OTEL_SDK_DISABLED", "true") || says("OTEL_TRACES_EXPORTER", "none") {
            return Ok(None);
        }
        // Those for traces alone win over those for all signals.
        let either = |traces: &'static str, all: &'static str| {
            variable(traces).map(|value| (traces, value)).or_else(|| variable(all).map(|value| (all, value)))
        };
        let endpoints = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT");
        let Some((name, endpoint)) = either(endpoints.0, endpoints.1) else { return Ok(None) };
        let of_traces = name == endpoints.0;
        let whole = if of_traces { endpoint.clone() } else { format!("{}{PATH}", endpoint.trim_end_matches('/')) };
        let url = Url::parse(&whole).ok().filter(|url| url.scheme() == "http" && url.has_host());
        let url = url.ok_or(TelemetryError::Endpoint { variable: name, value: endpoint })?;
        let protocol = either("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL");
        if let Some((_, protocol)) = protocol.filter(|(_, protocol)| protocol != PROTOCOL) {
            return Err(TelemetryError::Protocol { protocol });
        }
        let headers = match either("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "OTEL_EXPORTER_OTLP_HEADERS") {
            None => HeaderMap::new(),
            Some((variable, text)) => headers(&text).ok_or(TelemetryError::Headers { variable })?,
        };
        let timeout = either("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "OTEL_EXPORTER_OTLP_TIMEOUT");
        let timeout_ms = timeout.and_then(|(_, ms)| ms.trim().parse().ok()).unwrap_or(TIMEOUT_MS_DEFAULT);
        Ok(Some(Self { url, headers, timeout: Duration::from_millis(timeout_ms) }))
    }
}

fn headers(text: &str) -> Option<HeaderMap> {
    let pair = |pair: &str| {
        let (name, value) = pair.split_once('=')?;
        let value = percent_decoded(value.trim())?;
        Some((name.trim().parse::<HeaderName>().ok()?, HeaderValue::try_from(value).ok()?))
    };
    text.split(',').filter(|part| !part.trim().is_empty()).map(pair).collect()
}

fn percent_decoded(text: &str) -> Option<String> {
    let mut parts = text.split('%');
    let mut bytes = parts.next()?.as_bytes().to_vec();
    for part in parts {
        let (digits, rest) = part.split_at_checked(2)?;
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        bytes.extend_from_slice(rest.as_bytes());
    }
    String::from_utf8(bytes).ok()
}

/// Sends spans to a collector.
pub(super) struct Exporter {
    client: Client,
    url: Url,
    /// The library exports from a thread of its own, which is none of the runtime's.
    runtime: Handle,
    resource: Resource,
}

impl fmt::Debug for Exporter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exporter").field("url", &self.url.as_str()).finish_non_exhaustive()
    }
}

impl Exporter {
    pub(super) fn new(Target { url, headers, timeout }: Target) -> Result<Self, TelemetryError> {
        // Collectors are asked over plain http, so that no authorities need be read.
        let http = Client::builder().tls_certs_only([]).default_headers(headers);
        let client = http.timeout(timeout).build();
        let client = client.map_err(TelemetryError::Client)?;
        Ok(Self { client, url, runtime: Handle::current(), resource: Resource::builder_empty().build() })
    }
}

impl SpanExporter for Exporter {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let body = encode_request(&self.resource, &batch);
        let request = self.client.post(self.url.clone()).header(CONTENT_TYPE, "application/x-protobuf").body(body);
        let sent = self.runtime.spawn(async move { request.send().await?.error_for_status().map(drop) });
        let failed = |error: &dyn std::error::Error| OTelSdkError::InternalFailure(error.to_string());
        match sent.await {
            Ok(sent) => sent.map_err(|error| failed(&error)),
            Err(ended) => Err(failed(&ended)),
        }
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.resource = resource.clone();
    }
}

/// `ExportTraceServiceRequest`: one `ResourceSpans` with one `ScopeSpans`.
fn encode_request(resource: &Resource, batch: &[SpanData]) -> Vec<u8> {
    let mut request = Message::default();
    request.message(1, |resource_spans| {
        resource_spans.message(1, |message| {
            resource.iter().for_each(|(key, value)| message.key_value(1, key.as_str(), value));
        });
        resource_spans.message(2, |scope_spans| {
            scope_spans.message(1, |scope| scope.text(1, super::SERVICE));
            batch.iter().for_each(|span| scope_spans.message(2, |message| encode_span(message, span)));
        });
    });
    request.0
}

fn encode_span(message: &mut Message, span: &SpanData) {
    encode_context(message, &span.span_context);
    message.bytes(4, parent(span).as_slice());
    message.text(5, &span.name);
    message.varint(6, kind(&span.span_kind));
    message.fixed64(7, ns(span.start_time));
    message.fixed64(8, ns(span.end_time));
    span.attributes.iter().for_each(|KeyValue { key, value, .. }| message.key_value(9, key.as_str(), value));
    message.varint(10, span.dropped_attributes_count.into());
    for link in span.links.iter() {
        message.message(13, |message| encode_context(message, &link.span_context));
    }
    message.varint(14, span.links.dropped_count.into());
    message.message(15, |status| match &span.status {
        Status::Unset => {}
        Status::Ok => status.varint(3, 1),
        Status::Error { description } => {
            status.text(2, description);
            status.varint(3, 2);
        }
    });
}

/// Trace id, span id and state have the same numbers in spans and links.
fn encode_context(message: &mut Message, context: &SpanContext) {
    message.bytes(1, &context.trace_id().to_bytes());
    message.bytes(2, &context.span_id().to_bytes());
    message.text(3, &context.trace_state().header());
}

fn parent(span: &SpanData) -> Vec<u8> {
    let id = span.parent_span_id.to_bytes();
    if id == [0; 8] { Vec::new() } else { id.to_vec() }
}

fn kind(kind: &SpanKind) -> u64 {
    match kind {
        SpanKind::Internal => 1,
        SpanKind::Server => 2,
        SpanKind::Client => 3,
        SpanKind::Producer => 4,
        SpanKind::Consumer => 5,
    }
}

fn ns(time: SystemTime) -> u64 {
    let since_epoch = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since_epoch.as_nanos()).unwrap_or(u64::MAX)
}

/// A protobuf message that is being written. What is empty or zero is left out, as the format has it.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn varint(&mut self, field: u32, value: u64) {
        if value != 0 {
            self.present(field, value);
        }
    }

    /// A number that says something even if it is zero.
    fn present(&mut self, field: u32, value: u64) {
        encode_key(field, WireType::Varint, &mut self.0);
        encode_varint(value, &mut self.0);
    }

    fn fixed64(&mut self, field: u32, value: u64) {
        encode_key(field, WireType::SixtyFourBit, &mut self.0);
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    fn bytes(&mut self, field: u32, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.delimited(field, bytes);
        }
    }

    fn text(&mut self, field: u32, text: &str) {
        self.bytes(field, text.as_bytes());
    }

    fn delimited(&mut self, field: u32, bytes: &[u8]) {
        encode_key(field, WireType::LengthDelimited, &mut self.0);
        encode_varint(bytes.len() as u64, &mut self.0);
        self.0.extend_from_slice(bytes);
    }

    fn message(&mut self, field: u32, write: impl FnOnce(&mut Self)) {
        let mut inner = Self::default();
        write(&mut inner);
        self.delimited(field, &inner.0);
    }

    fn key_value(&mut self, field: u32, key: &str, value: &Value) {
        self.message(field, |message| {
            message.text(1, key);
            message.message(2, |message| message.any_value(value));
        });
    }

    /// `AnyValue`, of which exactly one field is set.
    fn any_value(&mut self, value: &Value) {
        match value {
            Value::String(text) => self.delimited(1, text.as_str().as_bytes()),
            Value::Bool(holds) => self.present(2, u64::from(*holds)),
            Value::I64(number) => self.present(3, number.cast_unsigned()),
            Value::F64(number) => self.fixed64(4, number.to_bits()),
            Value::Array(array) => self.message(5, |list| match array {
                Array::Bool(all) => all.iter().for_each(|one| list.element(&Value::Bool(*one))),
                Array::I64(all) => all.iter().for_each(|one| list.element(&Value::I64(*one))),
                Array::F64(all) => all.iter().for_each(|one| list.element(&Value::F64(*one))),
                Array::String(all) => all.iter().for_each(|one| list.element(&Value::String(one.clone()))),
                // Whatever kinds come later are shown as they print.
                other => list.element(&Value::String(other.to_string().into())),
            }),
            other => self.delimited(1, other.to_string().as_bytes()),
        }
    }

    fn element(&mut self, value: &Value) {
        self.message(1, |message| message.any_value(value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(variables: &[(&str, &str)]) -> Result<Option<Target>, TelemetryError> {
        Target::of(|name| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned()))
    }

    #[test]
    fn the_variables_say_whether_and_where() {
        const ENDPOINT: (&str, &str) = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4318/");
        const TRACES: (&str, &str) = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://t:1/x");
        assert_eq!(target(&[]).unwrap(), None);
        assert_eq!(target(&[ENDPOINT, ("OTEL_SDK_DISABLED", "True")]).unwrap(), None);
        assert_eq!(target(&[ENDPOINT, ("OTEL_TRACES_EXPORTER", "none")]).unwrap(), None);
        assert_eq!(target(&[ENDPOINT]).unwrap().unwrap().url.as_str(), "http://c:4318/v1/traces");
        assert_eq!(target(&[ENDPOINT, TRACES]).unwrap().unwrap().url.as_str(), "http://t:1/x");
        let more =
            [("OTEL_EXPORTER_OTLP_HEADERS", "a=1, b = x%20y"), ("OTEL_EXPORTER_OTLP_TIMEOUT", "250"), ENDPOINT];
        let Target { headers, timeout, .. } = target(&more).unwrap().unwrap();
        assert_eq!((headers["a"].to_str().unwrap(), headers["b"].to_str().unwrap()), ("1", "x y"));
        assert_eq!(timeout, Duration::from_millis(250));
    }

    #[test]
    fn what_cannot_be_done_is_said() {
        const ENDPOINT: (&str, &str) = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4318");
        for (variables, named) in [
            (&[("OTEL_EXPORTER_OTLP_ENDPOINT", "https://c:4318")][..], "https://c:4318"),
            (&[("OTEL_EXPORTER_OTLP_ENDPOINT", "c:4318")], "OTEL_EXPORTER_OTLP_ENDPOINT"),
            (&[ENDPOINT, ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")], "grpc"),
            (&[ENDPOINT, ("OTEL_EXPORTER_OTLP_HEADERS", "novalue")], "OTEL_EXPORTER_OTLP_HEADERS"),
            (&[ENDPOINT, ("OTEL_EXPORTER_OTLP_HEADERS", "a=%4")], "OTEL_EXPORTER_OTLP_HEADERS"),
        ] {
            let error = target(variables).unwrap_err().to_string();
            assert!(error.contains(named), "{error}");
        }
    }

    /// Written down by hand from the schema.
    #[test]
    fn values_have_the_bytes_of_the_schema() {
        let bytes = |value: Value| {
            let mut message = Message::default();
            message.key_value(9, "k", &value);
            message.0
        };
        assert_eq!(bytes(Value::I64(-1))[..9], [0x4a, 16, 0x0a, 1, b'k', 0x12, 11, 0x18, 0xff]);
        assert_eq!(bytes(Value::Bool(false)), [0x4a, 7, 0x0a, 1, b'k', 0x12, 2, 0x10, 0]);
        assert_eq!(bytes("".into()), [0x4a, 7, 0x0a, 1, b'k', 0x12, 2, 0x0a, 0]);
        assert_eq!(bytes(1.0.into()), [0x4a, 14, 0x0a, 1, b'k', 0x12, 9, 0x21, 0, 0, 0, 0, 0, 0, 0xf0, 0x3f]);
        let list = Value::Array(Array::I64(vec![1, 2]));
        assert_eq!(bytes(list), [0x4a, 15, 0x0a, 1, b'k', 0x12, 10, 0x2a, 8, 0x0a, 2, 0x18, 1, 0x0a, 2, 0x18, 2]);
    }
}
