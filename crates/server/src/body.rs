//! Reading a request's body: bounded in size, in time, and in what all of them hold together.

use std::sync::Arc;

use axum::body::{Body, HttpBody};
use axum::http::{HeaderMap, HeaderValue, Request, StatusCode, header};
use bytes::BytesMut;
use futures_util::StreamExt;

use serde_json::Value;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use crate::json;
use crate::limits::{BODY_TIMEOUT, DISCARDED_BYTES_MAX};
use crate::reply::{self, Failure};

/// A parsed body with its share of the memory that bodies may take, given back when the value was turned into
/// something smaller.
pub(crate) struct JsonBody {
    pub(crate) value: Value,
    _share: OwnedSemaphorePermit,
}

/// A body as it came in, with its share of the memory that bodies may take.
pub(crate) struct TextBody {
    pub(crate) text: BytesMut,
    share: OwnedSemaphorePermit,
}

/// Reads JSON of at most `bytes_max`; none if there is no body.
pub(crate) async fn read_json(
    request: Request<Body>,
    bytes_max: usize,
    deadline: Instant,
    bodies: &Arc<Semaphore>,
) -> Result<Option<JsonBody>, Failure> {
    let content_type = request.headers().get(header::CONTENT_TYPE).cloned();
    let Some(body) = read_text(request, bytes_max, deadline, bodies).await? else { return Ok(None) };
    check_content_type(content_type.as_ref())?;
    let value = parse(&body.text)?;
    Ok(Some(JsonBody { value, _share: body.share }))
}

/// Parses what [`read_text`] read.
pub(crate) fn parse(text: &[u8]) -> Result<Value, Failure> {
    json::parse(text).map_err(|error| Failure::new(StatusCode::BAD_REQUEST, "malformed_json", error.to_string()))
}

/// Reads a body of at most `bytes_max`, whatever its type is said to be; none if there is no body.
pub(crate) async fn read_text(
    request: Request<Body>,
    bytes_max: usize,
    deadline: Instant,
    bodies: &Arc<Semaphore>,
) -> Result<Option<TextBody>, Failure> {
    if request.body().is_end_stream() {
        return Ok(None);
    }
    let (parts, body) = request.into_parts();
    let declared = content_length(&parts.headers);
    let asks_first = parts.headers.contains_key(header::EXPECT);
    if declared.is_some_and(|bytes| bytes > DISCARDED_BYTES_MAX || (asks_first && bytes > bytes_max)) {
        // The sender asks before it sends, or would not come to its end.
        return Err(too_large(bytes_max));
    }
    let kib = declared.unwrap_or(bytes_max).min(bytes_max).div_ceil(1024).max(1);
    let share = bodies.clone().try_acquire_many_owned(u32::try_from(kib).unwrap_or(u32::MAX));
    let share = share.map_err(|_| Failure::overloaded("request bodies in memory"))?;

    let begun = Instant::now();
    let until = deadline.min(begun + BODY_TIMEOUT);
    let text = tokio::time::timeout_at(until, collect(body, bytes_max))
        .await
        .map_err(|_| reply::body_timeout(until - begun))??;
    if text.is_empty() {
        return Ok(None);
    }
    check_content_encoding(&parts.headers)?;
    Ok(Some(TextBody { text, share }))
}

async fn collect(body: Body, bytes_max: usize) -> Result<BytesMut, Failure> {
    let mut chunks = body.into_data_stream();
    let mut text = BytesMut::new();
    let mut seen = 0;
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|error| {
            Failure::new(StatusCode::BAD_REQUEST, "incomplete_body", format!("the body broke off: {error}"))
        })?;
        seen += chunk.len();
        if seen <= bytes_max {
            text.extend_from_slice(&chunk);
        } else {
            text = BytesMut::new();
        }
        if seen > DISCARDED_BYTES_MAX {
            break;
        }
    }
    if seen > bytes_max { Err(too_large(bytes_max)) } else { Ok(text) }
}

fn content_length(headers: &HeaderMap) -> Option<usize> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

fn too_large(bytes_max: usize) -> Failure {
    let detail = format!("the body is larger than {bytes_max} bytes");
    Failure::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", detail)
}

fn unsupported(detail: String) -> Failure {
    Failure::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", detail)
}

fn check_content_encoding(headers: &HeaderMap) -> Result<(), Failure> {
    match headers.get(header::CONTENT_ENCODING).filter(|encoding| *encoding != "identity") {
        Some(encoding) => Err(unsupported(format!("the content encoding {encoding:?} is not understood"))),
        None => Ok(()),
    }
}

/// JSON by name or by silence.
fn check_content_type(content_type: Option<&HeaderValue>) -> Result<(), Failure> {
    let Some(content_type) = content_type else { return Ok(()) };
    let text = content_type.to_str().unwrap_or_default();
    let media_type = text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let is_json = media_type == "application/json" || (media_type.contains('/') && media_type.ends_with("+json"));
    if is_json {
        Ok(())
    } else {
        Err(unsupported(format!("the content type must be application/json, is {content_type:?}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    async fn read(
        builder: axum::http::request::Builder,
        body: Body,
        bytes_max: usize,
    ) -> Result<Option<Value>, Failure> {
        let deadline = Instant::now() + Duration::from_secs(5);
        let bodies = Arc::new(Semaphore::new(1024));
        read_json(builder.body(body).unwrap(), bytes_max, deadline, &bodies)
            .await
            .map(|body| body.map(|body| body.value))
    }

    #[tokio::test]
    async fn a_body_is_json_by_name_or_by_silence() {
        let with = |content_type: &str| Request::builder().header("content-type", content_type);
        assert_eq!(read(Request::builder(), Body::from("{}"), 10).await.unwrap(), Some(serde_json::json!({})));
        assert!(read(with("application/json; charset=utf-8"), Body::from("1"), 10).await.is_ok());
        assert!(read(with("application/merge-patch+json"), Body::from("1"), 10).await.is_ok());
        assert_eq!(read(with("text/plain"), Body::from("1"), 10).await.unwrap_err().status(), 415);
        assert_eq!(read(with("text/plain"), Body::empty(), 10).await.unwrap(), None);
    }

    #[tokio::test]
    async fn limits_are_kept() {
        let failure = read(Request::builder(), Body::from("[1,2,3,4]"), 8).await.unwrap_err();
        assert_eq!((failure.status().as_u16(), failure.code()), (413, "body_too_large"));
        let never = Body::from_stream(futures_util::stream::pending::<Result<bytes::Bytes, std::io::Error>>());
        let failure = read(Request::builder().header("content-length", "10000000000"), never, 8).await.unwrap_err();
        assert_eq!(failure.status().as_u16(), 413, "nobody waits for 10 GB");
        let failure = read(Request::builder(), Body::from("{\"a\":"), 8).await.unwrap_err();
        assert_eq!((failure.status().as_u16(), failure.code()), (400, "malformed_json"));
        assert!(failure.detail().contains("line 1 column 5"), "{}", failure.detail());
    }

    #[tokio::test]
    async fn all_bodies_share_one_budget() {
        let deadline = Instant::now() + Duration::from_secs(5);
        let bodies = Arc::new(Semaphore::new(1));
        let request = || Request::new(Body::from("{}"));
        let held = read_json(request(), 1024, deadline, &bodies).await.unwrap();
        let failure = read_json(request(), 1024, deadline, &bodies).await.err().expect("the budget is spent");
        assert_eq!((failure.status().as_u16(), failure.code()), (503, "overloaded"));
        drop(held);
        assert!(read_json(request(), 1024, deadline, &bodies).await.is_ok());
    }

    #[tokio::test]
    async fn a_body_that_does_not_come_is_not_waited_for() {
        let never = Body::from_stream(futures_util::stream::pending::<Result<bytes::Bytes, std::io::Error>>());
        let deadline = Instant::now() + Duration::from_millis(20);
        let failure = read_json(Request::new(never), 10, deadline, &Arc::new(Semaphore::new(1))).await.err();
        assert_eq!(failure.expect("the body is missing").status(), 408);
    }
}
