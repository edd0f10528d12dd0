//! What another cluster told goes into the log.

use axum::http::StatusCode;
use rollcall_registry::{
    ClusterKey, Command, FederationCommand, FederationOutcome, FederationRefusal, ForeignBatch, Outcome, Peer,
    Received, Reception, Refusal,
};
use rollcall_replica::Replica;
use tokio::time::Instant;

use super::message::Message;
use crate::reply::Failure;

/// What goes into one command, in bytes of what is told.
const COMMAND_BYTES_MAX: usize = 256 << 10;

/// Takes in what a peer told, in its order. Says what became of each, and how far the peer has been heard.
pub(crate) async fn take_in(
    replica: &Replica,
    peer: &Peer,
    messages: Vec<Message>,
    deadline: Instant,
) -> Result<(Vec<Reception>, Received), Failure> {
    let (mut results, mut received) = (Vec::with_capacity(messages.len()), peer.received.clone());
    for batch in batches(peer, messages) {
        let command = Command::Federation(FederationCommand::Receive(batch));
        let outcome = replica.submit(command, deadline).await?.outcome;
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
    Ok((results, received))
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

pub(crate) fn unknown_peer() -> Failure {
    Failure::new(StatusCode::FORBIDDEN, "unknown_peer", "no peer with the key of the message's source is known here")
}
