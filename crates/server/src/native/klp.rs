//! What other clusters tell this one.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use rollcall_api::{KlpReceived, KlpRequest, KlpResponse, KlpResult, KlpResync, KlpStream, Problem};
use rollcall_registry::federation::{FOREIGN_MESSAGES_MAX, TRUST_MIN_HUNDREDTHS};
use rollcall_registry::{
    ClusterKey, Command, FederationCommand, FederationOutcome, FederationRefusal, ForeignBatch, Outcome, Peer,
    Received, Reception, Refusal,
};
use serde_json::Value;
use tokio::time::Instant;

use super::{Native, body_missing, json};
use crate::fault::{Faults, Fields};
use crate::federation::{Message, Own};
use crate::limits::BATCH_BYTES_MAX;
use crate::params;
use crate::reply::Failure;

/// A message may be so much older or younger than this node's clock says.
const CLOCK_WINDOW_MS: u64 = 300_000;

/// How long taking one in may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// What goes into one command, in bytes of what is told.
const COMMAND_BYTES_MAX: usize = 256 << 10;

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
    let (mut results, mut received) = (Vec::with_capacity(nonces.len()), peer.received.clone());
    for batch in batches(&peer, messages) {
        let command = Command::Federation(FederationCommand::Receive(batch));
        let outcome = native.replica.submit(command, deadline).await?.outcome;
        match outcome {
            Outcome::Federation(outcome) => match *outcome {
                FederationOutcome::Received { results: some, received: now } => {
                    results.extend(some);
                    received = now;
                }
                other => unreachable!("what was received was answered by {other:?}"),
            },
            Outcome::Refused(Refusal::Federation(FederationRefusal::Unknown)) => return Err(unknown_peer()),
            Outcome::Refused(refusal) => return Err(refusal.into()),
            other => unreachable!("what was received was answered by {other:?}"),
        }
    }
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

/// In the parts in which they go into the log.
fn batches(peer: &Peer, messages: Vec<Message>) -> Vec<ForeignBatch> {
    let mut batches: Vec<ForeignBatch> = Vec::new();
    let mut bytes = 0;
    for message in messages {
        let size = message.bytes();
        let Message { source, told_at, ttl_ms, stream, said, .. } = message;
        let key = ClusterKey(*source.as_bytes());
        match batches.last_mut().filter(|last| bytes + size <= COMMAND_BYTES_MAX && last.told_at == told_at) {
            Some(batch) => batch.messages.push(said),
            None => {
                bytes = 0;
                let name = peer.name().clone();
                batches.push(ForeignBatch { peer: name, key, stream, told_at, ttl_ms, messages: vec![said] });
            }
        }
        bytes += size;
    }
    batches
}

fn unknown_peer() -> Failure {
    Failure::new(StatusCode::FORBIDDEN, "unknown_peer", "no peer with the key of the message's source is known here")
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
    fn sender(&self, messages: &[Message]) -> Result<Peer, Failure> {
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
        let peer = peer.ok_or_else(unknown_peer)?;
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
