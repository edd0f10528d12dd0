//! Service objects as JSON text, straight from what the roll holds.
//!
//! All of an object but the time its lease has left and the time of its last heartbeat changes only with its revision.
//! That part is rendered once and kept for as long as it is asked for and there is room, so that an answer of a hundred
//! objects costs hardly more than copying them. The text is what `serde_json` makes of
//! [`rollcall_api::ServiceObject`], which the tests hold it to.

mod json;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use quick_cache::Weighter;
use quick_cache::sync::Cache;
use rollcall_api::CheckInfo;
use rollcall_registry::ForeignOrigin as Origin;
use rollcall_registry::{
    ClusterTime, Coordinates, Epoch, Instance, MetadataValue, Orders, Page, Registered, Revision, Score, State, View,
    WallTime,
};

use crate::federation::Source;
use crate::limits::RENDERED_BYTES_MAX;
use crate::translate::heartbeat_interval_ms;
pub(crate) use json::rfc3339;
use json::{Clock, Json};

/// What an object takes for itself in the cache: its entry and what the allocator adds.
const ENTRY_BYTES: usize = 96;

/// An object of usual size, to foresee how many there will be.
const USUAL_BYTES: usize = 1_024;

/// When an answer is rendered, for the times that it shows.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    epoch: Epoch,
    /// Cluster time and wall clock of the roll that was read: the same instant.
    now: ClusterTime,
    wall: WallTime,
    /// Cluster time as well as this node can tell.
    cluster_time: ClusterTime,
}

impl Moment {
    pub fn of(state: &State, cluster_time: ClusterTime) -> Self {
        Self { epoch: state.epoch(), now: state.now(), wall: state.wall(), cluster_time }
    }

    pub(crate) fn epoch(&self) -> Epoch {
        self.epoch
    }
}

/// A service object without its two times.
#[derive(Clone, Debug)]
struct Rendered {
    text: Arc<[u8]>,
    /// Where the first time belongs; the second one belongs at the end.
    split: u32,
    ttl_ms: u32,
}

/// Visible changes are counted, so that a revision of an epoch is one instance in one condition.
type Key = (Epoch, Revision);

#[derive(Clone, Debug)]
struct Bytes;

impl Weighter<Key, Rendered> for Bytes {
    fn weight(&self, _: &Key, rendered: &Rendered) -> u64 {
        (rendered.text.len() + ENTRY_BYTES) as u64
    }
}

/// Renders service objects and remembers those that are asked for.
#[derive(Debug)]
pub struct Renderer {
    rendered: Cache<Key, Rendered, Bytes>,
}

impl Default for Renderer {
    fn default() -> Self {
        Self::of_bytes(RENDERED_BYTES_MAX)
    }
}

impl Renderer {
    /// Remembers up to `bytes_max` bytes of text.
    pub fn of_bytes(bytes_max: usize) -> Self {
        let objects = bytes_max / (USUAL_BYTES + ENTRY_BYTES);
        Self { rendered: Cache::with_weighter(objects, bytes_max as u64, Bytes) }
    }

    /// Renders for one answer.
    pub fn at(&self, moment: Moment) -> Rendering<'_> {
        Rendering { renderer: self, moment, clock: Clock::default() }
    }

    fn rendered(&self, epoch: Epoch, instance: &Instance) -> Rendered {
        let key = (epoch, instance.revision);
        self.rendered.get(&key).unwrap_or_else(|| {
            let rendered = Rendered::new(instance);
            self.rendered.insert(key, rendered.clone());
            rendered
        })
    }
}

/// One answer in the making.
#[derive(Debug)]
pub struct Rendering<'a> {
    renderer: &'a Renderer,
    moment: Moment,
    clock: Clock,
}

impl Rendering<'_> {
    /// Appends an instance as it stands or stood on the roll.
    pub fn service(&mut self, view: &View, out: &mut Vec<u8>) {
        let rendered = self.renderer.rendered(self.moment.epoch, &view.instance);
        let (before, between) = rendered.text.split_at(rendered.split as usize);
        out.extend_from_slice(before);
        self.left(view, out);
        out.extend_from_slice(between);
        self.heartbeat(view, rendered.ttl_ms, out);
    }

    /// Appends an instance: this cluster's own unless it has an origin, with what its rank came of if that is asked for.
    pub(crate) fn one(&mut self, view: &View, origin: Option<&Origin>, score: Option<&Score>, out: &mut Vec<u8>) {
        match origin {
            Some(origin) => self.foreign(view, origin, out),
            None => self.service(view, out),
        }
        if let Some(score) = score {
            ranked(score, out);
        }
    }

    /// As [`Self::service`], with who checks it.
    pub(crate) fn checked(&mut self, view: &View, check: Option<&CheckInfo>, out: &mut Vec<u8>) {
        self.service(view, out);
        let Some(check) = check else { return };
        assert_eq!(out.pop(), Some(b'}'), "an object ends with a brace");
        Json(out).raw(r#","check":"#);
        serde_json::to_writer(&mut *out, check).expect("writing into memory does not fail");
        Json(out).raw("}");
    }

    /// As [`Self::service`], of an instance that nobody asked for yet, or whose like never was on the roll.
    fn passing(&mut self, view: &View, out: &mut Vec<u8>) {
        until_left(&mut Json(out), &view.instance);
        self.left(view, out);
        until_heartbeat(&mut Json(out), &view.instance, &mut self.clock);
        self.heartbeat(view, view.instance.registration.ttl_ms(), out);
    }

    fn left(&self, view: &View, out: &mut Vec<u8>) {
        Json(out).number(self.moment.cluster_time.ms_until(view.deadline));
    }

    /// The last heartbeat moved the deadline to one TTL after itself. The wall clock then is today's less the cluster
    /// time since, which is exact but for the time that cluster time stood still.
    fn heartbeat(&mut self, view: &View, ttl_ms: u32, out: &mut Vec<u8>) {
        let Moment { now, wall, .. } = self.moment;
        let heartbeat = match view.deadline.0.checked_sub(ttl_ms.into()) {
            Some(beaten) => WallTime(wall.0.saturating_sub(ClusterTime(beaten).ms_until(now))),
            None => view.instance.registered_at,
        };
        self.clock.write(heartbeat, out);
        Json(out).raw("\"}");
    }

    /// Appends an instance of another cluster. It has no lease here: what is told of that is how long its cluster is believed.
    fn foreign(&mut self, view: &View, origin: &Origin, out: &mut Vec<u8>) {
        until_left(&mut Json(out), &view.instance);
        self.left(view, out);
        until_heartbeat(&mut Json(out), &view.instance, &mut self.clock);
        self.clock.write(origin.heard_at, out);
        Json(out).raw(r#"","origin":"#).text(origin.peer.as_str()).raw(r#","stale":"#);
        Json(out).raw(if self.moment.cluster_time > origin.stale_after { "true}" } else { "false}" });
    }

    /// The whole answer to a registration.
    pub(crate) fn registered(&mut self, view: &View, registered: &Registered) -> Vec<u8> {
        let registration = &view.instance.registration;
        let mut text = Vec::with_capacity(registration.bytes() + USUAL_BYTES);
        let mut json = Json(&mut text);
        json.raw(r#"{"success":true,"registration_id":"#).text(registration.id()).raw(r#","service":"#);
        self.passing(view, json.0);
        let ttl_ms = registration.ttl_ms();
        json.raw(r#","lease":{"id":"#).number(registered.lease.0).raw(r#","ttl_ms":"#).number(ttl_ms.into());
        json.raw(r#","heartbeat_interval_ms":"#).number(heartbeat_interval_ms(ttl_ms).into());
        json.raw(r#"},"revision":"#).number(registered.revision.0).raw("}");
        text
    }

    /// The beginning of an answer to discovery: as many of the found as fit into `bytes_max`, but at least one, with the
    /// scores that there are. Returns how many there are.
    pub fn found(&mut self, found: &[View], scores: &[Score], bytes_max: usize) -> (Vec<u8>, usize) {
        self.found_of(found, scores, &[], bytes_max)
    }

    /// As [`Self::found`], of which some may be other clusters'.
    pub(crate) fn found_of(
        &mut self,
        found: &[View],
        scores: &[Score],
        origins: &[Option<Origin>],
        bytes_max: usize,
    ) -> (Vec<u8>, usize) {
        let mut text = Vec::with_capacity(USUAL_BYTES);
        Json(&mut text).raw(r#"{"services":["#);
        for (n, view) in found.iter().enumerate() {
            let before = text.len();
            if n > 0 {
                text.push(b',');
            }
            self.one(view, origins.get(n).and_then(Option::as_ref), scores.get(n), &mut text);
            if n > 0 && text.len() > bytes_max {
                text.truncate(before);
                return (text, n);
            }
            if n == 0 {
                // What is found together is of like size.
                text.reserve((text.len() * found.len()).min(bytes_max) + USUAL_BYTES);
            }
        }
        (text, found.len())
    }
}

/// Adds to an object what its rank came of.
fn ranked(score: &Score, out: &mut Vec<u8>) {
    assert_eq!(out.pop(), Some(b'}'), "an object ends with a brace");
    rank(&mut Json(out), score);
    Json(out).raw("}");
}

/// What an answer to discovery says of other clusters.
#[derive(Clone, Copy, Default)]
pub(crate) struct Others<'a> {
    /// All of theirs that match.
    pub(crate) count: u64,
    /// Those that were asked.
    pub(crate) sources: Option<&'a [Source]>,
}

/// The rest of an answer to discovery.
pub(crate) fn discovered(
    text: &mut Vec<u8>,
    page: &Page,
    others: Others<'_>,
    searched: Duration,
    next_cursor: Option<&str>,
) {
    let mut json = Json(text);
    json.raw(r#"],"total_count":"#).number(page.total + others.count).raw(r#","search_time_ms":"#);
    json.float(searched.as_micros() as f64 / 1_000.0);
    json.raw(r#","federated_results":"#).raw(if others.count > 0 { "true" } else { "false" });
    json.raw(r#","local_count":"#).number(page.total).raw(r#","federated_count":"#).number(others.count);
    sources(json.0, others.sources);
    json.raw(r#","revision":"#).number(page.revision.0);
    json.option(r#","next_cursor":"#, next_cursor).raw("}");
}

/// Appends which other clusters were asked, if any were.
pub(crate) fn sources(text: &mut Vec<u8>, sources: Option<&[Source]>) {
    if let Some(sources) = sources {
        let sources: Vec<_> = sources.iter().map(Source::out).collect();
        let sources = serde_json::to_vec(&sources).expect("names and words have no failing serializer");
        text.extend_from_slice(br#","federated_sources":"#);
        text.extend_from_slice(&sources);
    }
}

impl Rendered {
    fn new(instance: &Instance) -> Self {
        let mut text = Vec::with_capacity(instance.registration.bytes() + USUAL_BYTES);
        let mut json = Json(&mut text);
        until_left(&mut json, instance);
        let split = u32::try_from(json.0.len()).expect("an object is some tens of kilobytes");
        until_heartbeat(&mut json, instance, &mut Clock::default());
        Self { text: text.into(), split, ttl_ms: instance.registration.ttl_ms() }
    }
}

/// What an instance says of itself, as one object.
pub(crate) fn said(instance: &Instance) -> Vec<u8> {
    let mut text = Vec::with_capacity(instance.registration.bytes() + USUAL_BYTES);
    write_said(&mut Json(&mut text), instance);
    text.push(b'}');
    text
}

/// From the opening brace to the time that the lease has left.
fn until_left(json: &mut Json<'_>, instance: &Instance) {
    write_said(json, instance);
    json.raw(r#","status":"#).text(instance.status().as_str());
    if instance.is_suspect() {
        json.raw(r#","suspect":true"#);
    }
    worked_out(json, instance);
    json.raw(r#","lease":{"id":"#).number(instance.lease.0);
    json.raw(r#","ttl_ms":"#).number(instance.registration.ttl_ms().into()).raw(r#","expires_in_ms":"#);
}

/// What the status was worked out from, unless it is simply what the instance says.
fn worked_out(json: &mut Json<'_>, instance: &Instance) {
    let (orders, observed) = (instance.seldom.orders(), instance.seldom.observed());
    if orders.is_empty() && observed.is_none() {
        return;
    }
    json.raw(r#","reported_status":"#).text(instance.reported_status.as_str());
    if !orders.is_empty() {
        json.raw(r#","operator":"#);
        operator(json, orders);
    }
    if let Some(observed) = observed {
        json.raw(r#","health":{"verdict":"#).text(observed.verdict.as_str());
        json.raw(r#","since":"#).text(&rfc3339(observed.since)).raw("}");
    }
}

fn operator(json: &mut Json<'_>, orders: &Orders) {
    let Orders { maintenance, drain } = orders;
    let each = [(r#""maintenance":{"#, maintenance), (r#""drain":{"#, drain)];
    let standing = each.into_iter().filter_map(|(name, order)| Some((name, order.as_ref()?)));
    json.raw("{").items(standing, |json, (name, order)| {
        json.raw(name);
        if let Some(reason) = &order.reason {
            json.raw(r#""reason":"#).text(reason).raw(",");
        }
        json.raw(r#""since":"#).text(&rfc3339(order.since)).raw("}")
    });
    json.raw("}");
}

/// What a rank came of.
fn rank(json: &mut Json<'_>, score: &Score) {
    let Score { total, suspect: _, capability, health, proximity, trust } = score;
    json.raw(r#","rank":{"score":"#).float(f64::from(*total) / 1e6);
    let parts = [
        (r#","capability":"#, capability),
        (r#","health":"#, health),
        (r#","proximity":"#, proximity),
        (r#","trust":"#, trust),
    ];
    for (name, thousandths) in parts {
        json.raw(name).float(f64::from(*thousandths) / 1e3);
    }
    json.raw("}");
}

/// From there to the time of the last heartbeat.
fn until_heartbeat(json: &mut Json<'_>, instance: &Instance, clock: &mut Clock) {
    json.raw(r#"},"revision":"#).number(instance.revision.0);
    json.raw(r#","created_revision":"#).number(instance.created_revision.0);
    json.raw(r#","registered_at":""#);
    clock.write(instance.registered_at, json.0);
    json.raw(r#"","heartbeat":""#);
}

/// A part of a place.
enum Where<'a> {
    Named(&'a str),
    Degrees(f64),
}

/// What the instance says of itself, from the opening brace on. JSON text on the roll was rendered by an edge.
fn write_said(json: &mut Json<'_>, instance: &Instance) {
    let registration = instance.registration();
    let extras = registration.extras;
    json.raw(r#"{"id":"#).text(registration.id);
    json.raw(r#","tenant":"#).text(instance.tenant.as_str());
    json.raw(r#","name":"#).text(registration.name);
    json.raw(r#","type":"#).text(registration.kind.as_str());
    json.option(r#","version":"#, registration.version);
    json.raw(r#","tags":"#).texts(registration.tags);
    json.raw(r#","url":"#).text(registration.url);
    json.raw(r#","protocol":"#).text(registration.protocol.as_str());
    json.raw(r#","endpoints":"#).raw(extras.endpoints.unwrap_or("[]"));
    if let Some(auth) = extras.auth {
        json.raw(r#","auth":"#).raw(auth);
    }
    json.option(r#","owner":"#, registration.owner);
    json.raw(r#","visibility":"#).text(registration.visibility.as_str());
    json.raw(r#","capabilities":["#).items(registration.capabilities, |json, capability| match capability.detail {
        None => json.text(capability.name),
        Some(detail) => json.raw(detail),
    });
    json.raw(r#"],"consumed_events":"#).texts(registration.consumed_events);
    json.raw(r#","produced_events":"#).texts(registration.produced_events);
    json.raw(r#","metadata":{"#).items(instance.metadata(), |json, (key, value)| {
        json.text(key).raw(":");
        match value {
            MetadataValue::Text(text) => json.text(text),
            MetadataValue::Json(value) => json.raw(value),
        }
    });
    let degrees = extras.coordinates.map(Coordinates::degrees);
    let locality = [
        (r#""region":"#, extras.region.map(Where::Named)),
        (r#""zone":"#, extras.zone.map(Where::Named)),
        (r#""latitude":"#, degrees.map(|[latitude, _]| Where::Degrees(latitude))),
        (r#""longitude":"#, degrees.map(|[_, longitude]| Where::Degrees(longitude))),
    ];
    let mut locality = locality.into_iter().filter_map(|(name, place)| Some((name, place?))).peekable();
    if locality.peek().is_some() {
        json.raw(r#"},"locality":{"#).items(locality, |json, (name, place)| match place {
            Where::Named(text) => json.raw(name).text(text),
            Where::Degrees(number) => json.raw(name).float(number),
        });
    }
    json.raw(r#"},"weight":"#).number(registration.weight.into());
    json.raw(r#","ttl_ms":"#).number(registration.ttl_ms.into());
    json.raw(r#","reap_after_ms":"#).number(registration.reap_after_ms.into());
    if let Some(health_check) = extras.health_check {
        json.raw(r#","health_check":"#).raw(health_check);
    }
    json.option(r#","signature":"#, extras.signature).option(r#","public_key":"#, extras.public_key);
}
