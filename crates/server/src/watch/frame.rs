//! What is told, as Server-Sent Events. The JSON in a frame is what WebSocket messages are cut from.

use bytes::Bytes;
use rollcall_api::{ResumePoint, UpdateType};
use rollcall_registry::{ChangeKind, Epoch, ForeignOrigin as Origin, Revision, View, WallTime};

use crate::render::{Rendering, rfc3339};

/// What comes before the JSON that both transports share.
const CHANGE: &str = r#"data: {"type":"service_update","#;
/// What comes after it.
const END: &str = "\n\n";

/// One of those that match at the beginning, and whose it is, unless it is this cluster's own.
pub(crate) type Present = (View, Option<Origin>);

/// One change as it is told to those whom it concerns in the same way.
#[derive(Clone, Debug)]
pub(super) struct Event {
    pub(super) revision: Revision,
    /// A whole server-sent event.
    pub(super) frame: Bytes,
}

/// What a change is to a watcher, by whether the instance matched before and matches now.
pub(super) fn update_type(kind: ChangeKind, matched: bool, matches: bool) -> Option<UpdateType> {
    let update = match kind {
        ChangeKind::Registered => UpdateType::Registered,
        ChangeKind::Updated => UpdateType::Updated,
        ChangeKind::StatusChanged => UpdateType::StatusChanged,
        ChangeKind::Deregistered => UpdateType::Deregistered,
        ChangeKind::Expired => UpdateType::Expired,
    };
    match (matched, matches) {
        (false, false) => None,
        (true, false) if !update.is_gone() => Some(UpdateType::Left),
        (_, true) | (true, false) => Some(update),
    }
}

/// Of another cluster's instance the revision is not this roll's, and nobody goes on after it: it comes without an id.
pub(super) fn change(
    rendering: &mut Rendering<'_>,
    (epoch, revision): (Epoch, Revision),
    update: UpdateType,
    view: &View,
    origin: Option<&Origin>,
    wall: WallTime,
) -> Event {
    let mut frame = Vec::with_capacity(view.instance.registration.bytes() + 1_024);
    head(&mut frame, "change", origin.is_none().then_some((epoch, revision)));
    frame.extend_from_slice(CHANGE.as_bytes());
    frame.extend_from_slice(br#""update_type":""#);
    frame.extend_from_slice(update.as_str().as_bytes());
    frame.extend_from_slice(br#"","service":"#);
    rendering.one(view, origin, None, &mut frame);
    let rest = format!(r#","revision":{revision},"timestamp":"{}"}}"#, rfc3339(wall));
    frame.extend_from_slice(rest.as_bytes());
    frame.extend_from_slice(END.as_bytes());
    Event { revision, frame: frame.into() }
}

/// What a change's frame says after its `type`, without the opening brace.
pub(crate) fn change_members(frame: &[u8]) -> &[u8] {
    let begin = memchr::memmem::find(frame, CHANGE.as_bytes()).expect("a change's frame holds its data");
    &frame[begin + CHANGE.len()..frame.len() - END.len()]
}

/// Appends one of the matches at the beginning. Without an id: who got only some of them must begin again.
pub(crate) fn snapshot(frames: &mut Vec<u8>, rendering: &mut Rendering<'_>, present: &Present, revision: Revision) {
    head(frames, "snapshot", None);
    frames.extend_from_slice(b"data: {");
    snapshot_members(frames, rendering, present, revision);
    frames.extend_from_slice(END.as_bytes());
}

/// Appends what a snapshot says, without the opening brace.
pub(crate) fn snapshot_members(
    text: &mut Vec<u8>,
    rendering: &mut Rendering<'_>,
    (view, origin): &Present,
    revision: Revision,
) {
    text.extend_from_slice(br#""service":"#);
    rendering.one(view, origin.as_ref(), None, text);
    text.extend_from_slice(format!(r#","revision":{revision}}}"#).as_bytes());
}

/// Appends that the matches at the beginning are all there.
pub(crate) fn synced(frames: &mut Vec<u8>, epoch: Epoch, revision: Revision) {
    reached(frames, "synced", Some((epoch, revision)), revision);
}

/// Appends that everything up to a revision was told.
pub(crate) fn bookmark(frames: &mut Vec<u8>, epoch: Epoch, revision: Revision) {
    reached(frames, "bookmark", Some((epoch, revision)), revision);
}

/// Appends that the watcher was cut. Without an id: the last one it saw stands.
pub(crate) fn resync(frames: &mut Vec<u8>, revision: Revision) {
    reached(frames, "resync", None, revision);
}

fn reached(frames: &mut Vec<u8>, event: &str, id: Option<(Epoch, Revision)>, revision: Revision) {
    head(frames, event, id);
    frames.extend_from_slice(format!(r#"data: {{"revision":{revision}}}"#).as_bytes());
    frames.extend_from_slice(END.as_bytes());
}

fn head(frames: &mut Vec<u8>, event: &str, id: Option<(Epoch, Revision)>) {
    frames.extend_from_slice(format!("event: {event}\n").as_bytes());
    if let Some((epoch, revision)) = id {
        let id = ResumePoint { epoch: epoch.0, revision: revision.0 };
        frames.extend_from_slice(format!("id: {id}\n").as_bytes());
    }
}
