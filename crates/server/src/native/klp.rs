//! What other clusters tell this one.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use rollcall_api::{
    KlpChanges, KlpMessage, KlpReceived, KlpRequest, KlpResponse, KlpResult, KlpResync, KlpStream, Problem,
};
use rollcall_registry::federation::teller::{self, Telling};
use rollcall_registry::federation::{FOREIGN_MESSAGES_MAX, TRUST_MIN_HUNDREDTHS};
use rollcall_registry::{ClusterKey, Peer, Received, Reception};
use rollcall_replica::Consistency;
use serde_json::Value;
use tokio::time::Instant;

use super::{Native, body_missing, json};
use crate::fault::{Faults, Fields};
use crate::federation::{self, Asked, Closing, Message, Own, take_in};
use crate::limits::BATCH_BYTES_MAX;
use crate::params;
use crate::reply::Failure;

/// A message may be so much older or younger than this node's clock says.
const CLOCK_WINDOW_MS: u64 = 300_000;

/// How long taking one in may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Longest question.
const ASK_BYTES_MAX: usize = 16 << 10;

/// Stretches of changes that are looked at for one answer: some tens of thousands of changes.
const STRETCHES_MAX: usize = 16;

/// Take what another cluster tells
///
/// A message proves by its signature whose it is: no token is asked for. Of several, all are taken in their order, or none
/// if one of them is not what it says. The answer says how far the sender has been heard, and so what it has to tell next.
#[utoipa::path(
    post, path = "/klp/messages", tag = "federation", operation_id = "klpMessages",
    request_body = KlpRequest,
    responses(
        (status = 200, description = "What became of each", body = KlpResponse),
        (status = 400, description = "Faulty; every fault is named", body = Problem),
        (status = 401, description = "`invalid_signature`", body = Problem),
        (status = 403, description = "`unknown_peer`, `own_message`: a loop, `wrong_target`: for another cluster, `hop_count_exceeded`: passed on, `not_trusted`, `not_received`, `peer_paused`, `timestamp_out_of_window`", body = Problem),
        (status = 409, description = "`message_replayed`: older than what its sender said last; `feature_level_too_low`", body = Problem),
        (status = 413, description = "`body_too_large`: more than 4 MiB", body = Problem),
        (status = 415, description = "`unsupported_media_type`: not JSON", body = Problem),
        (status = 503, description = "`no_leader`, `overloaded`: not applied", body = Problem),
        (status = 504, description = "`outcome_unknown`: may have been applied", body = Problem),
    ),
)]
pub(super) async fn messages(State(native): State<Native>, request: Request) -> Result<Response, Failure> {
    params::none(request.uri())?;
    let deadline = Instant::now() + PATIENCE;
    let body = native.body(request, BATCH_BYTES_MAX, deadline).await?.ok_or_else(body_missing)?;
    // Taking them apart and checking signatures takes some milliseconds for a full batch: not on a thread that answers
    // others.
    let reader = native.clone();
    let read = move || {
        let messages = parse(body.value).map_err(Failure::faulty)?;
        let peer = reader.sender(&messages)?;
        match messages.iter().position(|message| !message.is_signed()) {
            None => Ok((messages, peer)),
            Some(n) => {
                let detail = format!("messages[{n}].signature is not that of its source over this message");
                Err(Failure::new(StatusCode::UNAUTHORIZED, "invalid_signature", detail))
            }
        }
    };
    let (messages, peer) = match tokio::task::spawn_blocking(read).await {
        Ok(read) => read?,
        Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
    };
    let nonces: Vec<String> = messages.iter().map(|message| message.nonce.clone()).collect();
    let (results, received) = take_in(&native.replica, &peer, messages, deadline).await?;
    let results = nonces.into_iter().zip(results).map(|(nonce, reception)| KlpResult {
        nonce,
        accepted: matches!(reception, Reception::Applied | Reception::Already),
        code: reception.as_str().to_owned(),
    });
    Ok(json(StatusCode::OK, &KlpResponse { results: results.collect(), received: heard(&received) }))
}

/// One message, or a list of them.
fn parse(body: Value) -> Result<Vec<Message>, Faults> {
    let mut faults = Faults::default();
    let is_one = body.as_object().is_some_and(|members| !members.contains_key("messages"));
    let mut messages = Vec::new();
    if is_one {
        messages.extend(Message::parse("", body, &mut faults));
    } else if let Some(mut fields) = Fields::open("", body, &mut faults) {
        match fields.list("messages", FOREIGN_MESSAGES_MAX) {
            Some(items) if !items.is_empty() => {
                for (n, item) in items.into_iter().enumerate() {
                    messages.extend(Message::parse(&format!("messages[{n}]"), item, fields.faults));
                }
            }
            Some(_) => fields.fault("messages", "must not be empty"),
            None => {}
        }
        fields.finish();
    }
    let heads = |message: &Message| (message.source, message.target.clone(), message.stream, message.ttl_ms);
    if messages.windows(2).any(|pair| heads(&pair[0]) != heads(&pair[1])) {
        faults.push("messages", "must all be of one source and one stream, for one target, and with one ttl");
    }
    if faults.is_empty() { Ok(messages) } else { Err(faults) }
}

/// Tell another cluster what it has not been told yet
///
/// The body is one signed message that asks for what came after a revision; the answer is as fresh as this cluster's roll is
/// when it is asked. It proves itself by its signatures, and its end by the question's nonce.
#[utoipa::path(
    post, path = "/klp/changes", tag = "federation", operation_id = "klpChanges",
    request_body = KlpMessage,
    responses(
        (status = 200, description = "What came after, as messages, and how far that reaches", body = KlpChanges),
        (status = 400, description = "Faulty; every fault is named", body = Problem),
        (status = 401, description = "`invalid_signature`", body = Problem),
        (status = 403, description = "`unknown_peer`, `own_message`, `wrong_target`, `hop_count_exceeded`, `not_trusted`, `not_sent`: it is told nothing, `peer_paused`, `timestamp_out_of_window`", body = Problem),
        (status = 409, description = "`resync_needed`: the terms or the roll are others, or what came after is not known any more; everything will be told anew", body = Problem),
        (status = 413, description = "`body_too_large`: more than 16 KiB", body = Problem),
        (status = 415, description = "`unsupported_media_type`: not JSON", body = Problem),
        (status = 503, description = "`no_leader`: another node may know more", body = Problem),
    ),
)]
pub(super) async fn changes(State(native): State<Native>, request: Request) -> Result<Response, Failure> {
    params::none(request.uri())?;
    let deadline = Instant::now() + PATIENCE;
    let body = native.body(request, ASK_BYTES_MAX, deadline).await?.ok_or_else(body_missing)?;
    let mut faults = Faults::default();
    let question = Message::parse_question(body.value, &mut faults);
    let question = question.filter(|_| faults.is_empty()).ok_or_else(|| Failure::faulty(faults))?;
    let peer = native.sender(std::slice::from_ref(&question))?;
    if !question.is_signed() {
        return Err(Failure::new(StatusCode::UNAUTHORIZED, "invalid_signature", "the signature is not its source's"));
    }
    let latest = Consistency { linearizable: true, ..Consistency::default() };
    native.replica.barrier(latest, deadline).await?;

    let Asked { after, told_at } = question.said;
    let present = native.replica.roll().read(rollcall_registry::State::revision);
    let (mut found, mut at) = (None, after);
    for _ in 0..STRETCHES_MAX {
        let batch = native.replica.roll().read(|state| {
            let peer = state.peer(peer.name()).filter(|now| now.since == peer.since && !now.leaving);
            let peer = peer.ok_or_else(federation::unknown_peer)?;
            if peer.paused {
                return Err(Failure::new(
                    StatusCode::FORBIDDEN,
                    "peer_paused",
                    "an operator has paused the peer here",
                ));
            }
            if !teller::is_told(peer) {
                return Err(Failure::new(
                    StatusCode::FORBIDDEN,
                    "not_sent",
                    "the peer is told nothing by this cluster",
                ));
            }
            let batch = teller::missing(state, peer, after, at).filter(|batch| batch.stream == question.stream);
            batch.ok_or_else(|| {
                let detail = "what came after is not known any more, or counted otherwise; everything is told anew";
                Failure::new(StatusCode::CONFLICT, "resync_needed", detail)
            })
        })?;
        at = batch.looked_at();
        let has_tellings = !batch.tellings.is_empty();
        found = Some(batch);
        if has_tellings || at >= present {
            break;
        }
        tokio::task::yield_now().await;
    }
    let mut batch = found.expect("at least one stretch is looked at");
    if batch.tellings.is_empty() && at < present {
        // It is brought over the long way of what is for others.
        batch.tellings.push(Telling::Bookmark { after, at });
    }
    let Some(own) = native.replica.roll().read(|state| state.cluster_seed()).map(|seed| Own::of(&seed)) else {
        return Err(federation::unknown_peer());
    };
    let say = move || {
        let target = federation::did(&question.source);
        let told = federation::words(&batch, &own, &target, told_at);
        let closing = Closing { after, at, present, count: told.messages.len() as u64 };
        let closing = federation::closing(question.stream, closing, &own, &target, question.told_at, &question.nonce);
        json(StatusCode::OK, &KlpChanges { messages: told.messages, closing })
    };
    match tokio::task::spawn_blocking(say).await {
        Ok(response) => Ok(response),
        Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
    }
}

pub(super) fn heard(received: &Received) -> KlpReceived {
    KlpReceived {
        stream: received.stream.map(|stream| KlpStream { epoch: stream.epoch.0, since: stream.since.0 }),
        revision: received.position.0,
        resync: received.resync.map(|resync| KlpResync { at: resync.at.0, next: resync.next }),
        told_at_ms: received.told_at.0,
    }
}

impl Native {
    /// Who says so, if they are to be listened to: all but whether they are who they say.
    fn sender<T>(&self, messages: &[Message<T>]) -> Result<Peer, Failure> {
        let forbidden = |code, detail: String| Err(Failure::new(StatusCode::FORBIDDEN, code, detail));
        let first = messages.first().ok_or_else(body_missing)?;
        let key = ClusterKey(*first.source.as_bytes());
        let (own, peer) = self.replica.roll().read(|state| {
            let peer = state.peers().find(|peer| peer.terms.key == key && !peer.leaving).cloned();
            (state.cluster_seed(), peer)
        });
        let own = own.map(|seed| Own::of(&seed));
        if own.as_ref().is_some_and(|own| own.public_key == first.source) {
            return forbidden("own_message", "the message is this cluster's own: somebody passed it on".to_owned());
        }
        let peer = peer.ok_or_else(federation::unknown_peer)?;
        if own.as_ref().is_none_or(|own| own.did != first.target) {
            return forbidden("wrong_target", "the message is for another cluster".to_owned());
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let now = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
        for message in messages {
            if message.hop_count > 1 {
                return forbidden("hop_count_exceeded", "what is passed on is not taken".to_owned());
            }
            let trust = f64::from(peer.terms.trust.hundredths()) / 100.0;
            let wanted = message.trust_min.max(f64::from(TRUST_MIN_HUNDREDTHS) / 100.0);
            if trust < wanted {
                return forbidden("not_trusted", format!("the peer is trusted {trust}, and {wanted} is asked for"));
            }
            if message.told_at.0.abs_diff(now) > CLOCK_WINDOW_MS {
                let detail = format!(
                    "the message is of {} ms, {} ms off this node's clock; at most {CLOCK_WINDOW_MS} are allowed",
                    message.told_at,
                    message.told_at.0.abs_diff(now)
                );
                return forbidden("timestamp_out_of_window", detail);
            }
        }
        Ok(peer)
    }
}
