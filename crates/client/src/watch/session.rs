//! One watch over as many connections as it takes.

use std::collections::VecDeque;
use std::time::Duration;

use reqwest::header::{ACCEPT, HeaderName, HeaderValue};
use reqwest::{Method, Response};
use rollcall_api::watch::Snapshot;
use rollcall_api::{ResumePoint, ServiceUpdate};
use serde::de::DeserializeOwned;
use tokio::time::Instant;

use super::foreign::Foreign;
use super::sse::{Decoder, EVENT_SIZE_MAX, Frame, TooLarge};
use super::{InitCause, WatchEvent};
use crate::client::Client;
use crate::error::{Error, WatchFault, report};
use crate::query::{WatchQuery, WatchStart};
use crate::request::{EVENT_STREAM, NOT_OURS, Repeat, Request};

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// The longest pause that a node may ask for.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(60);

/// The least time a node is given to begin its answer; it may have to wait for what another node applied already.
const OPEN_TIMEOUT_MIN: Duration = Duration::from_secs(1);

/// Follows the roll: reads what a node tells, and finds another when it tells no more.
pub(super) struct Session {
    client: Client,
    parameters: Vec<(&'static str, String)>,
    /// What was told of other clusters, if that is asked for.
    foreign: Option<Foreign>,
    /// Where the next connection begins: after what was told last. `Snapshot` for as long as none is complete.
    start: WatchStart,
    /// Why the next snapshot is told.
    init_cause: InitCause,
    /// Position of the endpoint that is read from, or tried next.
    endpoint: usize,
    connection: Option<Connection>,
    /// The longest pause before the next try; what is made of it is drawn by lot, so that the watchers of a node that
    /// died do not come to the next one all at once.
    pause_max: Duration,
    /// Before this nothing is tried.
    retry_at: Instant,
    /// It was told that the connection is lost.
    interrupted: bool,
    /// What is to be told before more is read: of a new connection, or at the end of a snapshot of other clusters.
    announced: VecDeque<WatchEvent>,
    ended: bool,
}

struct Connection {
    endpoint: String,
    response: Response,
    decoder: Decoder,
}

impl Session {
    pub(super) fn new(client: Client, query: &WatchQuery) -> Self {
        Self {
            parameters: query.parameters(),
            foreign: query.federated.then(Foreign::default),
            start: query.start,
            init_cause: InitCause::Start,
            endpoint: client.endpoints_in_order().next().unwrap_or_default(),
            client,
            connection: None,
            pause_max: PAUSE_MIN,
            retry_at: Instant::now(),
            interrupted: false,
            announced: VecDeque::new(),
            ended: false,
        }
    }

    pub(super) fn resume_point(&self) -> Option<ResumePoint> {
        match self.start {
            WatchStart::After(point) => Some(point),
            WatchStart::Snapshot | WatchStart::AfterRevision(_) => None,
        }
    }

    /// Opens the first connection as any request is made.
    pub(super) async fn open(&mut self) -> Result<(), Error> {
        let opened = match self.client.open(&self.request()).await {
            Err(error) if self.is_start_over(&error) => {
                self.start_over();
                self.client.open(&self.request()).await
            }
            opened => opened,
        };
        let (endpoint, response) = opened?;
        self.endpoint = endpoint;
        self.connected(response);
        Ok(())
    }

    /// The next event; none after an error.
    pub(super) async fn next(&mut self) -> Option<Result<WatchEvent, Error>> {
        while !self.ended {
            if let Some(event) = self.announced.pop_front() {
                return Some(Ok(event));
            }
            let event = match self.read().await {
                Ok(event) => event.map(Ok),
                Err(error) => self.lost(error),
            };
            if event.is_some() {
                return event;
            }
        }
        None
    }

    /// One event of the connection, or one try to get a connection. None when there is nothing to be told of it.
    async fn read(&mut self) -> Result<Option<WatchEvent>, Error> {
        let Some(connection) = &mut self.connection else {
            self.connect().await?;
            return Ok(None);
        };
        let frame = connection.next(self.client.watch_silence_max()).await?;
        self.pause_max = PAUSE_MIN;
        self.take(&frame)
    }

    async fn connect(&mut self) -> Result<(), Error> {
        tokio::time::sleep_until(self.retry_at).await;
        let timeout =
            (self.client.timeout() / self.endpoint_count()).max(OPEN_TIMEOUT_MIN).min(self.client.timeout());
        let response = self.client.open_at(self.endpoint, &self.request(), timeout).await?;
        self.connected(response);
        Ok(())
    }

    fn connected(&mut self, response: Response) {
        let endpoint = self.endpoint_name();
        if std::mem::take(&mut self.interrupted) {
            self.announced.push_back(WatchEvent::Resumed { endpoint: endpoint.clone() });
        }
        if self.start == WatchStart::Snapshot {
            let cause = std::mem::replace(&mut self.init_cause, InitCause::Incomplete);
            self.announced.push_back(WatchEvent::Init { cause });
        }
        if let Some(foreign) = &mut self.foreign {
            match self.start {
                WatchStart::Snapshot => foreign.clear(),
                WatchStart::After(_) | WatchStart::AfterRevision(_) => foreign.restart_snapshot(),
            }
        }
        self.connection = Some(Connection { endpoint, response, decoder: Decoder::default() });
    }

    /// What is to be told of an error: the end, the beginning of an interruption, or nothing.
    fn lost(&mut self, error: Error) -> Option<Result<WatchEvent, Error>> {
        self.connection = None;
        if self.is_start_over(&error) {
            self.start_over();
            return None;
        }
        if is_final(&error) {
            self.ended = true;
            return Some(Err(error));
        }
        let pause = self.pause_max.mul_f64(rand::random_range(0.0..=1.0));
        self.pause_max = (self.pause_max * 2).min(PAUSE_MAX);
        self.retry_at = Instant::now() + pause.max(retry_after(&error) / self.endpoint_count());
        self.endpoint = (self.endpoint + 1) % self.client.endpoints().len();
        if std::mem::replace(&mut self.interrupted, true) {
            tracing::debug!(error = report(&error), "a watch is still without a node");
            return None;
        }
        Some(Ok(WatchEvent::Interrupted { error }))
    }

    /// What an event means, and nothing if it was told before.
    fn take(&mut self, frame: &Frame) -> Result<Option<WatchEvent>, Error> {
        let is_beginning = self.start == WatchStart::Snapshot;
        match frame.event.as_str() {
            "snapshot" if is_beginning || self.foreign.is_some() => {
                let Snapshot { service, .. } = self.parse(frame)?;
                let foreign = self.foreign.as_mut().filter(|_| service.origin.is_some());
                match (foreign.map(|foreign| foreign.present(&service)), is_beginning) {
                    (_, true) => Ok(Some(WatchEvent::Present(Box::new(service)))),
                    (Some(update), false) => Ok(update.map(changed)),
                    (None, false) => Err(self.out_of_place(frame)),
                }
            }
            "synced" if is_beginning || self.foreign.is_some() => {
                let point = self.point(frame)?;
                let gone = self.foreign.as_mut().map(Foreign::synced).unwrap_or_default();
                if is_beginning {
                    self.start = WatchStart::After(point);
                    return Ok(Some(WatchEvent::Synced(point)));
                }
                let reached = self.reached(point);
                self.announced.extend(gone.into_iter().map(changed).chain(reached));
                Ok(None)
            }
            "change" if !is_beginning => {
                let update = self.parse::<ServiceUpdate>(frame)?;
                if let Some(foreign) = self.foreign.as_mut().filter(|_| update.service.origin.is_some()) {
                    return Ok(foreign.changed(update).map(changed));
                }
                let point = self.point(frame)?;
                if Some(point.revision) <= self.last_revision() {
                    return Ok(None);
                }
                self.start = WatchStart::After(point);
                Ok(Some(changed(update)))
            }
            "bookmark" if !is_beginning => {
                let point = self.point(frame)?;
                Ok(self.reached(point))
            }
            "resync" => Err(self.fault(WatchFault::TooSlow)),
            "snapshot" | "synced" | "change" => Err(self.out_of_place(frame)),
            // Later versions may tell more.
            _ => Ok(None),
        }
    }

    /// Everything up to a point was told.
    fn reached(&mut self, point: ResumePoint) -> Option<WatchEvent> {
        if Some(point.revision) < self.last_revision() {
            return None;
        }
        self.start = WatchStart::After(point);
        Some(WatchEvent::Bookmark(point))
    }

    fn parse<T: DeserializeOwned>(&self, frame: &Frame) -> Result<T, Error> {
        serde_json::from_slice(&frame.data).map_err(|source| Error::Answer {
            endpoint: self.endpoint_name(),
            status: 200,
            source,
        })
    }

    /// The resume point of an event. One of another epoch says nothing about what was told before.
    fn point(&mut self, frame: &Frame) -> Result<ResumePoint, Error> {
        let Some(point) = frame.id.as_deref().and_then(|id| id.parse::<ResumePoint>().ok()) else {
            return Err(self.fault(WatchFault::NoResumePoint { event: frame.event.clone() }));
        };
        match self.start {
            WatchStart::After(last) if last.epoch != point.epoch => {
                self.start_over();
                Err(self.fault(WatchFault::Restored))
            }
            _ => Ok(point),
        }
    }

    fn last_revision(&self) -> Option<u64> {
        match self.start {
            WatchStart::Snapshot => None,
            WatchStart::After(point) => Some(point.revision),
            WatchStart::AfterRevision(revision) => Some(revision),
        }
    }

    fn request(&self) -> Request {
        let request = Request::new(Method::GET, &["api", "services", "watch"], Repeat::Safe)
            .query(self.parameters.clone())
            .header(ACCEPT, HeaderValue::from_static(EVENT_STREAM));
        match self.start {
            WatchStart::Snapshot => request,
            WatchStart::AfterRevision(revision) => request.query(vec![("from_revision", revision.to_string())]),
            WatchStart::After(point) => {
                let point = HeaderValue::from_str(&point.to_string()).expect("digits and a dash are a header value");
                request.header(LAST_EVENT_ID, point)
            }
        }
    }

    /// Whether what comes after the last told revision is no longer to be had.
    fn is_start_over(&self, error: &Error) -> bool {
        error.code() == Some("revision_compacted") && self.start != WatchStart::Snapshot
    }

    fn start_over(&mut self) {
        self.start = WatchStart::Snapshot;
        self.init_cause = InitCause::HistoryGone;
    }

    fn out_of_place(&self, frame: &Frame) -> Error {
        self.fault(WatchFault::OutOfPlace { event: frame.event.clone() })
    }

    fn fault(&self, source: WatchFault) -> Error {
        Error::Watch { endpoint: self.endpoint_name(), source }
    }

    fn endpoint_name(&self) -> String {
        self.client.endpoints()[self.endpoint].to_string()
    }

    fn endpoint_count(&self) -> u32 {
        u32::try_from(self.client.endpoints().len()).unwrap_or(u32::MAX)
    }
}

impl Connection {
    /// The next event. Only waiting is silence: a consumer that was away finds what came meanwhile.
    async fn next(&mut self, silence_max: Duration) -> Result<Frame, Error> {
        let deadline = Instant::now() + silence_max;
        loop {
            match self.decoder.next() {
                Ok(Some(frame)) => return Ok(frame),
                Ok(None) => {}
                Err(TooLarge) => return Err(self.fault(WatchFault::TooLarge { size_max: EVENT_SIZE_MAX })),
            }
            match tokio::time::timeout_at(deadline, self.response.chunk()).await {
                Ok(Ok(Some(piece))) => self.decoder.push(&piece),
                Ok(Ok(None)) => return Err(self.fault(WatchFault::Ended)),
                Ok(Err(source)) => return Err(self.fault(WatchFault::Broken { source: source.without_url() })),
                Err(_) => {
                    let silence_ms = u64::try_from(silence_max.as_millis()).unwrap_or(u64::MAX);
                    return Err(self.fault(WatchFault::Silent { silence_ms }));
                }
            }
        }
    }

    fn fault(&self, source: WatchFault) -> Error {
        Error::Watch { endpoint: self.endpoint.clone(), source }
    }
}

fn changed(update: ServiceUpdate) -> WatchEvent {
    WatchEvent::Changed(Box::new(update))
}

/// Whether another try, or another node, would say the same.
fn is_final(error: &Error) -> bool {
    match error {
        Error::Refused { status: 408 | 410 | 429, .. } => false,
        Error::Refused { status, problem } => (400..500).contains(status) && problem.code != NOT_OURS,
        Error::Unreachable { .. } | Error::Timeout { .. } => false,
        Error::Watch { source, .. } => !source.is_healed(),
        Error::Answer { .. } | Error::Request { .. } | Error::Sign { .. } | Error::Id { .. } => true,
    }
}

/// How long the node wants to be left alone.
fn retry_after(error: &Error) -> Duration {
    match error {
        Error::Refused { problem, .. } => {
            Duration::from_millis(problem.retry_after_ms.unwrap_or_default()).min(RETRY_AFTER_MAX)
        }
        _ => Duration::ZERO,
    }
}
