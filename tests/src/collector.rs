//! Stands in for an OpenTelemetry collector: takes spans by OTLP over HTTP, and reads them by the schema's field numbers.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::task::AbortOnDropHandle;

use crate::wait::wait_until;

/// A span as it came.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Span {
    pub trace_id: String,
    pub span_id: String,
    /// Empty without a parent.
    pub parent_id: String,
    pub name: String,
    pub kind: u64,
    pub start_ns: u64,
    pub end_ns: u64,
    pub is_error: bool,
    pub attributes: BTreeMap<String, String>,
    /// Span ids.
    pub links: Vec<String>,
    /// Of whoever sent it.
    pub resource: BTreeMap<String, String>,
}

/// Listens until it is dropped.
#[derive(Debug)]
pub struct Collector {
    address: String,
    spans: Arc<Mutex<Vec<Span>>>,
    _task: AbortOnDropHandle<()>,
}

impl Collector {
    /// # Panics
    /// When no port is free.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it is bound").to_string();
        let spans = Arc::<Mutex<Vec<Span>>>::default();
        let received = spans.clone();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, received.clone()));
            }
        });
        Self { address, spans, _task: AbortOnDropHandle::new(task) }
    }

    /// For `OTEL_EXPORTER_OTLP_ENDPOINT`.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// # Panics
    /// Never but after another panic.
    pub fn spans(&self) -> Vec<Span> {
        self.spans.lock().expect("nobody panicked").clone()
    }

    /// The first span that fits, once it has come.
    ///
    /// # Panics
    /// When it does not come in time.
    pub async fn span(&self, what: &str, fits: impl Fn(&Span) -> bool) -> Span {
        let find = || async { self.spans().into_iter().find(|span| fits(span)) };
        wait_until(what, Duration::from_secs(30), find).await
    }
}

/// Answers requests of one connection until it ends.
async fn serve(stream: TcpStream, spans: Arc<Mutex<Vec<Span>>>) {
    let mut stream = BufReader::new(stream);
    loop {
        let (mut head, mut length) = (String::new(), 0);
        loop {
            let mut line = String::new();
            match stream.read_line(&mut line).await {
                Ok(0) | Err(_) => return,
                Ok(_) if line == "\r\n" => break,
                Ok(_) => {}
            }
            if let Some(text) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = text.trim().parse().expect("a length is a number");
            }
            head.push_str(&line.to_ascii_lowercase());
        }
        assert!(head.starts_with("post /v1/traces "), "{head}");
        assert!(head.contains("content-type: application/x-protobuf"), "{head}");
        let mut body = vec![0; length];
        if stream.read_exact(&mut body).await.is_err() {
            return;
        }
        spans.lock().expect("nobody panicked").extend(read_request(&body));
        if stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.is_err() {
            return;
        }
    }
}

/// The value of one field.
enum Field<'b> {
    Number(u64),
    Bytes(&'b [u8]),
}

impl<'b> Field<'b> {
    fn number(&self) -> u64 {
        match self {
            Self::Number(number) => *number,
            Self::Bytes(_) => panic!("a number was expected"),
        }
    }

    fn bytes(&self) -> &'b [u8] {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Number(_) => panic!("bytes were expected"),
        }
    }

    fn text(&self) -> String {
        String::from_utf8(self.bytes().to_vec()).expect("texts are UTF-8")
    }

    fn hex(&self) -> String {
        self.bytes().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// The fields of a protobuf message, in their order.
fn fields(mut message: &[u8]) -> Vec<(u64, Field<'_>)> {
    let mut fields = Vec::new();
    while !message.is_empty() {
        let key = varint(&mut message);
        let field = match key & 7 {
            0 => Field::Number(varint(&mut message)),
            1 => Field::Number(u64::from_le_bytes(take(&mut message, 8).try_into().expect("eight bytes"))),
            2 => {
                let length = usize::try_from(varint(&mut message)).expect("a small length");
                Field::Bytes(take(&mut message, length))
            }
            wire_type => panic!("no field of this schema has wire type {wire_type}"),
        };
        fields.push((key >> 3, field));
    }
    fields
}

fn take<'b>(message: &mut &'b [u8], length: usize) -> &'b [u8] {
    message.split_off(..length).expect("a message is whole")
}

fn varint(message: &mut &[u8]) -> u64 {
    let (mut value, mut shift) = (0, 0);
    loop {
        let byte = take(message, 1)[0];
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return value;
        }
        shift += 7;
    }
}

/// Of `ExportTraceServiceRequest`.
fn read_request(body: &[u8]) -> Vec<Span> {
    let mut spans = Vec::new();
    for (_, resource_spans) in fields(body) {
        let mut resource = BTreeMap::new();
        for (number, field) in fields(resource_spans.bytes()) {
            match number {
                1 => resource.extend(fields(field.bytes()).iter().map(|(_, pair)| key_value(pair.bytes()))),
                2 => {
                    let of_scope = fields(field.bytes());
                    let all = of_scope.iter().filter(|(number, _)| *number == 2);
                    spans.extend(all.map(|(_, span)| Span { resource: resource.clone(), ..read_span(span.bytes()) }));
                }
                number => panic!("ResourceSpans has no field {number} here"),
            }
        }
    }
    spans
}

fn read_span(message: &[u8]) -> Span {
    let mut span = Span::default();
    for (number, field) in fields(message) {
        match number {
            1 => span.trace_id = field.hex(),
            2 => span.span_id = field.hex(),
            4 => span.parent_id = field.hex(),
            5 => span.name = field.text(),
            6 => span.kind = field.number(),
            7 => span.start_ns = field.number(),
            8 => span.end_ns = field.number(),
            9 => span.attributes.extend([key_value(field.bytes())]),
            13 => {
                let link = fields(field.bytes());
                span.links.extend(link.iter().filter(|(number, _)| *number == 2).map(|(_, id)| id.hex()));
            }
            15 => {
                span.is_error = fields(field.bytes()).iter().any(|(number, code)| *number == 3 && code.number() == 2)
            }
            number => panic!("a span has no field {number} here"),
        }
    }
    span
}

fn key_value(message: &[u8]) -> (String, String) {
    let (mut key, mut value) = (String::new(), String::new());
    for (number, field) in fields(message) {
        match number {
            1 => key = field.text(),
            2 => {
                for (kind, any) in fields(field.bytes()) {
                    value = if kind == 1 { any.text() } else { any.number().to_string() };
                }
            }
            number => panic!("a pair has no field {number}"),
        }
    }
    (key, value)
}
