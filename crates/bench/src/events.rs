//! Server-sent events of a watch, read as they come: of each only its kind, its revision and whether it is an end.
//!
//! A thousand watchers are told of one change at once, on the machine that is measured, so an event's JSON is not parsed.

use std::sync::Arc;
use std::time::Duration;

use hyper::Uri;
use memchr::{memchr, memmem};
use rollcall_api::ResumePoint;
use tokio::task::JoinSet;

use crate::error::{Error, RequestError};
use crate::http::{Call, Connection, Endpoint, Stream};

/// How many streams are opened at once.
const OPENERS: usize = 32;

/// Of a line that comes in parts so much is kept; what is looked for stands before.
const LINE_BYTES_KEPT: usize = 128;

/// What the data of a change begins with that tells of an expiry.
const EXPIRED: &[u8] = br#""update_type":"expired""#;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Synced,
    Bookmark,
    Change,
    Resync,
    /// A snapshot, or what later versions may tell.
    Other,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Event {
    pub(crate) kind: Kind,
    /// None without an id.
    pub(crate) revision: Option<u64>,
    pub(crate) expired: bool,
}

const NO_EVENT: Event = Event { kind: Kind::Other, revision: None, expired: false };

/// A watch that has told what there was at its beginning.
pub(crate) struct EventStream {
    stream: Stream,
    scanner: Scanner,
}

impl EventStream {
    /// Watches what fits a filter, which must be coded as a URI is; what was written before is part of the beginning.
    ///
    /// # Errors
    /// When the node refuses, or does not come to the end of the beginning in time.
    pub(crate) async fn open(endpoint: Arc<Endpoint>, timeout: Duration, filter: &str) -> Result<Self, RequestError> {
        let uri = format!("/api/services/watch?{filter}&consistency=linearizable");
        let call = Call::get(Uri::try_from(uri).expect("a filter is coded as a URI is"));
        let late = || RequestError::Timeout { endpoint: endpoint.authority.clone(), timeout_ms: timeout.as_millis() };
        let open = async {
            let stream = Connection::new(endpoint.clone(), timeout).stream(&call).await?;
            let (mut opened, mut synced) = (Self { stream, scanner: Scanner::default() }, false);
            while !synced {
                opened.next(|event| synced |= event.kind == Kind::Synced).await?;
            }
            Ok(opened)
        };
        tokio::time::timeout(timeout, open).await.map_err(|_| late())?
    }

    pub(crate) fn endpoint(&self) -> &Endpoint {
        self.stream.endpoint()
    }

    /// Waits for what comes next and tells each event of it.
    ///
    /// # Errors
    /// When nothing more will come.
    pub(crate) async fn next(&mut self, mut told: impl FnMut(Event)) -> Result<(), RequestError> {
        let ended = |why: &str| RequestError::Unexpected { what: format!("the watch has ended: {why}") };
        let part = self.stream.part().await?.ok_or_else(|| ended("the node closed it"))?;
        let mut cut = false;
        self.scanner.feed(&part, &mut |event| {
            cut |= event.kind == Kind::Resync;
            told(event);
        });
        if cut { Err(ended("it was too slow")) } else { Ok(()) }
    }
}

/// Opens that many watches at one node, each with the filter of its place.
///
/// # Errors
/// When one of them cannot be opened.
pub(crate) async fn open_all(
    endpoint: &Arc<Endpoint>,
    timeout: Duration,
    count: u32,
    filter: impl Fn(u32) -> String + Clone + Send + 'static,
) -> Result<Vec<EventStream>, Error> {
    let mut opening = JoinSet::new();
    for first in 0..OPENERS {
        let (endpoint, filter) = (endpoint.clone(), filter.clone());
        opening.spawn(async move {
            let mut opened = Vec::new();
            for place in (0..count).skip(first).step_by(OPENERS) {
                opened.push(EventStream::open(endpoint.clone(), timeout, &filter(place)).await?);
            }
            Ok(opened)
        });
    }
    let opened: Result<Vec<_>, RequestError> = opening.join_all().await.into_iter().collect();
    let opened = opened.map_err(|source| Error::Request { action: "open the watches", source })?;
    Ok(opened.into_iter().flatten().collect())
}

/// Finds events in a text, in whatever parts it comes.
#[derive(Debug)]
struct Scanner {
    /// What its lines have told so far.
    event: Event,
    /// What the line that has no end yet begins with.
    begun: Vec<u8>,
}

impl Default for Scanner {
    fn default() -> Self {
        Self { event: NO_EVENT, begun: Vec::new() }
    }
}

impl Scanner {
    fn feed(&mut self, mut part: &[u8], told: &mut impl FnMut(Event)) {
        while let Some(end) = memchr(b'\n', part) {
            if self.begun.is_empty() {
                self.line(&part[..end], told);
            } else {
                self.begin(&part[..end]);
                let mut line = std::mem::take(&mut self.begun);
                self.line(&line, told);
                line.clear();
                self.begun = line;
            }
            part = &part[end + 1..];
        }
        self.begin(part);
    }

    fn begin(&mut self, part: &[u8]) {
        let room = LINE_BYTES_KEPT.saturating_sub(self.begun.len());
        self.begun.extend_from_slice(&part[..part.len().min(room)]);
    }

    fn line(&mut self, line: &[u8], told: &mut impl FnMut(Event)) {
        if line.is_empty() {
            told(std::mem::replace(&mut self.event, NO_EVENT));
        } else if let Some(kind) = line.strip_prefix(b"event: ") {
            self.event.kind = match kind {
                b"synced" => Kind::Synced,
                b"bookmark" => Kind::Bookmark,
                b"change" => Kind::Change,
                b"resync" => Kind::Resync,
                _ => Kind::Other,
            };
        } else if let Some(id) = line.strip_prefix(b"id: ") {
            let point = std::str::from_utf8(id).ok().and_then(|id| id.parse::<ResumePoint>().ok());
            self.event.revision = point.map(|point| point.revision);
        } else if self.event.kind == Kind::Change {
            self.event.expired |= memmem::find(&line[..line.len().min(LINE_BYTES_KEPT)], EXPIRED).is_some();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "event: snapshot\ndata: {\"service\":{},\"revision\":7}\n\n\
        event: synced\nid: 1-7\ndata: {\"revision\":7}\n\n\
        event: change\nid: 1-8\ndata: {\"type\":\"service_update\",\"update_type\":\"updated\",\"service\":{}}\n\n\
        event: change\nid: 1-19\ndata: {\"type\":\"service_update\",\"update_type\":\"expired\",\"service\":{}}\n\n\
        event: bookmark\nid: 1-20\ndata: {\"revision\":20}\n\n\
        event: resync\ndata: {\"revision\":20}\n\n";

    #[test]
    fn events_are_found_wherever_the_text_is_cut() {
        let event = |kind, revision, expired| Event { kind, revision, expired };
        let expected = [
            event(Kind::Other, None, false),
            event(Kind::Synced, Some(7), false),
            event(Kind::Change, Some(8), false),
            event(Kind::Change, Some(19), true),
            event(Kind::Bookmark, Some(20), false),
            event(Kind::Resync, None, false),
        ];
        for bytes in 1..=TEXT.len() {
            let (mut scanner, mut told) = (Scanner::default(), Vec::new());
            for part in TEXT.as_bytes().chunks(bytes) {
                scanner.feed(part, &mut |event| told.push(event));
            }
            assert_eq!(told, expected, "in parts of {bytes}");
        }
    }

    #[test]
    fn a_line_without_an_end_is_not_kept_in_full() {
        let mut scanner = Scanner::default();
        for _ in 0..100 {
            scanner.feed(&[b'x'; 100], &mut |_| ());
        }
        assert_eq!(scanner.begun.len(), LINE_BYTES_KEPT);
    }
}
