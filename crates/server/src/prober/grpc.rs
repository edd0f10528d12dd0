//! A check by the gRPC health protocol (`grpc.health.v1.Health/Check`), over HTTP/2. Its two messages have one field each and are
//! frozen, so that they are written and read by hand.

use std::future::poll_fn;
use std::pin::pin;
use std::time::{Duration, Instant};

use axum::http::header::{CONTENT_TYPE, TE, USER_AGENT};
use axum::http::{HeaderMap, Method, Request, Uri, Version};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use h2::RecvStream;
use h2::client::{self, SendRequest};
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field, string};

use super::dial::{Dialer, Wire};
use super::finding::{Broken, Finding, Part, Trouble};
use super::http::ms;
use super::plan::Plan;
use super::within;

const METHOD_PATH: &str = "/grpc.health.v1.Health/Check";

/// A message's flag and length.
const PREFIX_BYTES: usize = 5;

/// An answer is of two bytes; a later version of the protocol may say more.
const ANSWER_BYTES_MAX: usize = 1 << 10;

/// All headers of an answer together.
const HEADER_BYTES_MAX: u32 = 16 << 10;

/// `SERVING` of the answer's enum.
const SERVING: u64 = 1;

pub(super) async fn check(dialer: &Dialer, plan: &Plan) -> Result<Finding, Broken> {
    let limit = Duration::from_millis(plan.timeout_ms.into());
    let looked_up = tokio::time::timeout(limit, dialer.resolve(&plan.target)).await;
    let addresses = looked_up.unwrap_or(Err(Broken::Unknown))?;
    let roots = if plan.target.tls { Some(dialer.roots().await?) } else { None };
    let begun = Instant::now();
    let mut is_connected = false;
    let asked = within(plan, async {
        let stream = dialer.connect(&addresses).await?;
        let stream = Dialer::secure(&plan.target, roots, b"h2", stream).await?;
        is_connected = true;
        ask(stream, plan).await
    });
    let serving = asked.await;
    let connectivity = match serving {
        Err(trouble) if !is_connected => Err(trouble),
        Ok(()) | Err(_) => Ok(()),
    };
    // Whoever said how it is has answered, whatever it said.
    let answered = match serving {
        Ok(()) | Err(Trouble::NotServing | Trouble::GrpcStatus(_) | Trouble::HttpCode(_)) => {
            Some(ms(begun.elapsed()))
        }
        Err(_) => None,
    };
    Ok(Finding::of(&[(Part::Connectivity, connectivity), (Part::Serving, serving)], answered))
}

async fn ask(stream: Wire, plan: &Plan) -> Result<(), Trouble> {
    let mut builder = client::Builder::new();
    builder.enable_push(false).max_header_list_size(HEADER_BYTES_MAX).max_concurrent_streams(1);
    let (sender, connection) = builder.handshake(stream).await.map_err(|_| Trouble::NoAnswer)?;
    let mut connection = pin!(connection);
    let mut asked = pin!(call(sender, plan));
    tokio::select! {
        biased;
        answer = &mut asked => return answer,
        _ = &mut connection => {}
    }
    // What came before the end is handed over still.
    asked.await
}

async fn call(sender: SendRequest<Bytes>, plan: &Plan) -> Result<(), Trouble> {
    let broken = |_: h2::Error| Trouble::NoAnswer;
    let mut sender = sender.ready().await.map_err(broken)?;
    let (mut head, ()) = Request::new(()).into_parts();
    head.method = Method::POST;
    head.version = Version::HTTP_2;
    let scheme = if plan.target.tls { "https" } else { "http" };
    let uri = Uri::builder().scheme(scheme).authority(&*plan.target.authority).path_and_query(METHOD_PATH).build();
    head.uri = uri.map_err(|_| Trouble::NoAnswer)?;
    let fixed = [(CONTENT_TYPE, "application/grpc"), (TE, "trailers"), (USER_AGENT, super::http::AGENT)];
    for (name, value) in fixed {
        head.headers.insert(name, value.parse().map_err(|_| Trouble::NoAnswer)?);
    }
    let (answer, mut body) = sender.send_request(Request::from_parts(head, ()), false).map_err(broken)?;
    body.send_data(request(&plan.service), true).map_err(broken)?;
    let (head, mut body) = answer.await.map_err(broken)?.into_parts();
    if !head.status.is_success() {
        return Err(Trouble::HttpCode(head.status.as_u16()));
    }
    // An answer without a message says in its head what is wrong.
    check_status(&head.headers)?;
    let message = read(&mut body).await?;
    let trailers = poll_fn(|context| body.poll_trailers(context)).await.map_err(broken)?;
    check_status(&trailers.unwrap_or_default())?;
    if status_of(&message)? == SERVING { Ok(()) } else { Err(Trouble::NotServing) }
}

fn check_status(headers: &HeaderMap) -> Result<(), Trouble> {
    let Some(status) = headers.get("grpc-status") else { return Ok(()) };
    match status.to_str().ok().and_then(|status| status.parse().ok()) {
        Some(0) => Ok(()),
        Some(status) => Err(Trouble::GrpcStatus(status)),
        None => Err(Trouble::NoAnswer),
    }
}

async fn read(body: &mut RecvStream) -> Result<BytesMut, Trouble> {
    let mut message = BytesMut::new();
    while let Some(piece) = body.data().await {
        let piece = piece.map_err(|_| Trouble::NoAnswer)?;
        if message.len() + piece.len() > ANSWER_BYTES_MAX {
            return Err(Trouble::NoAnswer);
        }
        message.extend_from_slice(&piece);
    }
    Ok(message)
}

/// `HealthCheckRequest { string service = 1; }` behind its prefix.
fn request(service: &str) -> Bytes {
    let mut message = BytesMut::new();
    if !service.is_empty() {
        string::encode(1, &service.to_owned(), &mut message);
    }
    let mut framed = BytesMut::with_capacity(PREFIX_BYTES + message.len());
    framed.put_u8(0);
    framed.put_u32(u32::try_from(message.len()).expect("a service name is short"));
    framed.put(message);
    framed.freeze()
}

/// `HealthCheckResponse { ServingStatus status = 1; }` behind its prefix.
fn status_of(framed: &[u8]) -> Result<u64, Trouble> {
    let mut message = framed;
    if message.len() < PREFIX_BYTES || message.get_u8() != 0 || message.get_u32() as usize != message.len() {
        return Err(Trouble::NoAnswer);
    }
    let mut status = 0;
    while message.has_remaining() {
        let (tag, wire_type) = decode_key(&mut message).map_err(|_| Trouble::NoAnswer)?;
        let read = match (tag, wire_type) {
            (1, WireType::Varint) => decode_varint(&mut message).map(|value| status = value),
            _ => skip_field(wire_type, tag, &mut message, DecodeContext::default()),
        };
        read.map_err(|_| Trouble::NoAnswer)?;
    }
    Ok(status)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_messages_are_those_of_the_protocol() {
        assert_eq!(&request("")[..], [0, 0, 0, 0, 0]);
        assert_eq!(&request("a.B")[..], [0, 0, 0, 0, 5, 0x0a, 3, b'a', b'.', b'B']);
        assert_eq!(status_of(&[0, 0, 0, 0, 2, 8, 1]), Ok(SERVING));
        assert_eq!(status_of(&[0, 0, 0, 0, 2, 8, 2]), Ok(2));
        assert_eq!(status_of(&[0, 0, 0, 0, 0]), Ok(0), "what is not said is unknown");
        // A later version may say more.
        assert_eq!(status_of(&[0, 0, 0, 0, 6, 0x12, 2, b'h', b'i', 8, 1]), Ok(SERVING));
    }

    #[test]
    fn what_is_no_message_is_no_answer() {
        for bad in [
            &[][..],
            &[0, 0, 0, 0],
            &[1, 0, 0, 0, 2, 8, 1],
            &[0, 0, 0, 0, 3, 8, 1],
            &[0, 0, 0, 0, 2, 8, 1, 0],
            &[0, 0, 0, 0, 1, 8],
            &[0, 0, 0, 0, 2, 0x0a, 200],
            &[0, 0, 0, 0, 1, 7],
        ] {
            assert_eq!(status_of(bad), Err(Trouble::NoAnswer), "{bad:?}");
        }
    }
}
