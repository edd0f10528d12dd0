//! `rollcall watch`: who comes, changes and goes, a line for each, until a signal.

use rollcall_api::{ResumePoint, ServiceObject};
use rollcall_client::{Client, InitCause, WatchEvent, WatchQuery};
use serde_json::{Value, json};

use super::{attempt, client};
use crate::args::{Global, Watch};
use crate::failure::{Failure, with_sources};
use crate::output::{self, Format};
use crate::process::Signals;

pub(super) async fn run(global: &Global, args: Watch) -> Result<(), Failure> {
    let (client, query, mut signals) = (client(global)?, WatchQuery::from(args), Signals::new()?);
    tokio::select! {
        followed = follow(&client, &query, global.output) => followed,
        _ = signals.next() => Ok(()),
    }
}

/// Ends when the reader goes away, or with what cannot be healed.
async fn follow(client: &Client, query: &WatchQuery, format: Format) -> Result<(), Failure> {
    let mut watch = attempt("watch", client.watch(query).await)?;
    while let Some(event) = watch.next().await {
        let event = attempt("watch", event)?;
        if let Some(note) = note(&event, watch.resume_point()) {
            output::note(&note);
        }
        let line = match format {
            Format::Table => line(&event),
            Format::Json => json_line(&event, watch.resume_point())?.map(|value| value.to_string()),
        };
        if let Some(line) = line
            && !output::print_while_read(&(line + "\n"))?
        {
            break;
        }
    }
    Ok(())
}

/// What people should know and is no line of its own.
fn note(event: &WatchEvent, resume_point: Option<ResumePoint>) -> Option<String> {
    let text = match event {
        WatchEvent::Interrupted { error } => format!("{}; trying to go on at another node", with_sources(error)),
        WatchEvent::Resumed { endpoint } => match resume_point {
            Some(point) => format!("going on after {point} at {endpoint}"),
            None => format!("going on at {endpoint}"),
        },
        WatchEvent::Init { cause: InitCause::HistoryGone } => {
            "the changes since then are no longer kept; beginning again with all who are present".to_owned()
        }
        WatchEvent::Init { cause: InitCause::Incomplete } => "beginning again with all who are present".to_owned(),
        _ => return None,
    };
    Some(text)
}

/// A line for people: revision, what happened, to whom, of which other cluster.
fn line(event: &WatchEvent) -> Option<String> {
    let of = |revision: u64, word: &str, service: &ServiceObject, more: &str| {
        let ServiceObject { id, name, status, url, origin, .. } = service;
        let origin = origin.as_ref().map(|origin| format!("from {origin}  ")).unwrap_or_default();
        let line = format!("{revision:<8}  {word:<14}  {id}  {name}  {status}  {url}  {origin}{more}");
        output::printable(line.trim_end())
    };
    match event {
        WatchEvent::Present(service) => Some(of(service.revision, "present", service, "")),
        WatchEvent::Synced(point) => Some(format!("{:<8}  synced", point.revision)),
        WatchEvent::Changed(update) => {
            Some(of(update.revision, update.update_type.as_str(), &update.service, &update.timestamp))
        }
        _ => None,
    }
}

/// A line for programs, worded as nodes word it. `resume_point` is what `--from-revision` takes.
fn json_line(event: &WatchEvent, resume_point: Option<ResumePoint>) -> Result<Option<Value>, Failure> {
    let mut line = match event {
        WatchEvent::Init { cause } => {
            let cause = match cause {
                InitCause::Start => "start",
                InitCause::Incomplete => "incomplete",
                InitCause::HistoryGone => "history_gone",
            };
            json!({"type": "init", "cause": cause})
        }
        WatchEvent::Present(service) => json!({"type": "snapshot", "service": service}),
        WatchEvent::Synced(point) => json!({"type": "synced", "revision": point.revision}),
        WatchEvent::Changed(update) => serde_json::to_value(update).map_err(|source| Failure::Render { source })?,
        WatchEvent::Bookmark(point) => json!({"type": "bookmark", "revision": point.revision}),
        _ => return Ok(None),
    };
    if let Some(point) = resume_point {
        line["resume_point"] = point.to_string().into();
    }
    Ok(Some(line))
}
