//! How a request's trace goes on over the wire between members. The member makes spans and knows nothing of whoever
//! collects them: what a span is called elsewhere it asks of whom it was given.

use serde::{Deserialize, Serialize};
use tracing::Span;

use crate::proposer::Pending;

/// Requests of a batch that its span names beside the one it belongs to.
const LINKS_MAX: usize = 32;

const SAMPLED: u8 = 1;

/// A span as W3C's trace context names it to another process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TraceContext {
    pub trace_id: u128,
    pub span_id: u64,
    pub flags: u8,
}

/// The way from spans to trace contexts and back. Given only where traces are collected: without it no span is made.
#[derive(Clone, Copy, Debug)]
pub struct TraceLink {
    pub context_of: fn(&Span) -> Option<TraceContext>,
    /// Makes a span the child of one in another process.
    pub adopt: fn(&Span, TraceContext),
}

impl TraceLink {
    fn sampled(self, span: &Span) -> bool {
        (self.context_of)(span).is_some_and(|context| context.flags & SAMPLED != 0)
    }
}

/// The span of a batch: in the trace of its first request that is traced, and linked to some of the others.
pub(crate) fn of_batch(link: Option<TraceLink>, batch: &[Pending], number: u64) -> Span {
    let Some(link) = link else { return Span::none() };
    let mut traced = batch.iter().map(Pending::span).filter(|span| link.sampled(span));
    let Some(first) = traced.next() else { return Span::none() };
    // Signed, or they would be collected as texts.
    let (number, requests) = (number.cast_signed(), batch.len().cast_signed());
    let span = tracing::debug_span!(parent: first, "batch", rollcall.batch = number, rollcall.requests = requests);
    traced.take(LINKS_MAX).for_each(|other| {
        span.follows_from(other);
    });
    span
}

/// The span of sending a batch to the leader, within the batch's.
pub(crate) fn of_forward(link: Option<TraceLink>, leader: u64) -> Span {
    if link.is_none() || Span::current().is_none() {
        return Span::none();
    }
    tracing::debug_span!("forward", otel.kind = "client", rollcall.leader = leader.cast_signed())
}

/// The current span's name for the leader.
pub(crate) fn to_peer(link: Option<TraceLink>) -> Option<TraceContext> {
    (link?.context_of)(&Span::current())
}

/// The span of a batch that came from a follower.
pub(crate) fn from_peer(link: Option<TraceLink>, context: Option<TraceContext>, from: u64) -> Span {
    let (Some(link), Some(context)) = (link, context) else { return Span::none() };
    let span =
        tracing::debug_span!(parent: None, "forwarded", otel.kind = "server", rollcall.follower = from.cast_signed());
    (link.adopt)(&span, context);
    span
}
