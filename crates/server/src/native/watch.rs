//! The changes of the roll as Server-Sent Events.

use std::convert::Infallible;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Extension, State};
use axum::http::{HeaderMap, HeaderValue, Uri, header};
use axum::response::Response;
use bytes::Bytes;
use futures_util::stream;
use rollcall_api::{Problem, ResumePoint};
use rollcall_registry::{Epoch, Revision};
use rollcall_replica::{Consistency, Freshness};
use tokio::time::Instant;

use super::Native;
use super::health::STOPPING;
use crate::auth::Leash;
use crate::edge::InWork;
use crate::params::{self, Watch};
use crate::reply::{self, Failure, Shown};
use crate::request::{self, Context};
use crate::watch::{self, Begin, Compacted, Question, Told, Watcher};

const EVENT_STREAM: HeaderValue = HeaderValue::from_static("text/event-stream");

/// Watch for changes
///
/// Without a resume point: `event: snapshot` for each instance that matches now, `event: synced`, and from then on
/// `event: change` for each change. With `Last-Event-ID` or `from_revision`: the changes after it, and a bookmark as
/// soon as the present is reached. A node that has not come as far yet waits for it.
///
/// With `include_federated` there is `event: snapshot` for each instance of another cluster too, also after a resume point, and
/// then `event: change` for each of their changes. Both have `origin` in `service` and no `id`; `revision` of such a
/// change is that cluster's. `event: synced` ends a snapshot, and whoever of another cluster was not in it is not there any
/// more. Another snapshot may come at any time, in between this cluster's changes.
///
/// `event: bookmark` comes at least every 10 s. `event: resync` ends the stream of a watcher that is too slow: it goes on
/// after the last `id` it saw, or begins again if it saw none. `change`, `synced` and `bookmark` carry an `id`.
#[utoipa::path(
    get, path = "/api/services/watch", tag = "services", operation_id = "watch",
    params(
        ("from_revision" = Option<u64>, Query, description = "Go on after this revision"),
        ("epoch" = Option<u64>, Query, description = "The epoch of `from_revision`; without it that of now is assumed, also after a restore"),
        ("Last-Event-ID" = Option<String>, Header, description = "Go on after this event; wins over `from_revision`"),
        ("consistency" = Option<String>, Query, description = "How fresh the snapshot is: `local` (default) or `linearizable`"),
        ("min_revision" = Option<u64>, Query, description = "Wait until this revision is shown"),
        ("max_staleness_ms" = Option<u64>, Query, description = "Refuse rather than begin from older state"),
        ("include_federated" = Option<bool>, Query, description = "Instances of other clusters too, as these told of them"),
        ("requester_id" = Option<String>, Query, description = "Who asks"),
    ),
    responses(
        (status = 200, description = "The stream. `data` of `change` is a ServiceUpdate, of `snapshot` a Snapshot, of `synced`, `bookmark` and `resync` a Reached",
            content_type = "text/event-stream", body = String),
        (status = 400, description = "Faulty; every fault is named", body = Problem),
        (status = 410, description = "`revision_compacted`: what came after the resume point is no longer known in full; begin again without one", body = Problem),
        (status = 429, description = "`too_many_watchers` on this node or of this tenant; another node may have room", body = Problem),
        (status = 503, description = "`not_ready`, `no_leader`, `too_stale`", body = Problem),
        (status = 504, description = "`revision_not_reached`", body = Problem),
    ),
)]
pub(super) async fn watch(
    State(native): State<Native>,
    Extension(work): Extension<InWork>,
    context: Context,
    headers: HeaderMap,
    uri: Uri,
) -> Result<Response, Failure> {
    // What waits is no work: for a revision, and from then on for changes.
    work.rest();
    let Watch { mut filter, from_revision, epoch, mut consistency, federated } = params::watch(&uri)?;
    filter.viewer = context.viewer.clone();
    let resume = match request::last_event_id(&headers)? {
        Some(resume) => Some(resume),
        None => {
            from_revision.map(|revision| ResumePoint { epoch: epoch.unwrap_or_else(|| native.epoch().0), revision })
        }
    };
    let place = native.places.take(&context.tenant)?;
    let begin = native.begin(resume)?;
    if let Begin::After(revision) = begin {
        consistency.min_revision = consistency.min_revision.max(Some(revision));
    }
    let freshness = native.reached(consistency, context.deadline).await?;
    let leash = native.leash(&context);
    let question = Question { tenant: context.tenant, filters: Arc::new([filter]) };
    let watcher = native.hub.watch(question, begin, place, leash.stop().clone())?.federated(federated);
    let shown = Shown { revision: watcher.begins(), freshness };

    let events = stream::unfold(Events { native, watcher, _leash: leash }, |mut events| async {
        let frames = events.next().await?;
        Some((Ok::<_, Infallible>(frames), events))
    });
    let mut response = Response::new(Body::from_stream(events));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, EVENT_STREAM);
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    // nginx would hold events back until its buffer is full.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    reply::show(&mut response, shown);
    Ok(response)
}

impl Native {
    pub(super) fn epoch(&self) -> Epoch {
        self.replica.roll().read(|state| state.epoch())
    }

    /// A barrier that does not hold up a shutdown.
    pub(super) async fn reached(&self, wanted: Consistency, deadline: Instant) -> Result<Freshness, Failure> {
        tokio::select! {
            reached = self.replica.barrier(wanted, deadline) => Ok(reached?),
            () = self.draining.cancelled() => Err(Failure::not_ready([("running".to_owned(), STOPPING.to_owned())])),
        }
    }

    /// Where a watcher with a resume point begins.
    pub(super) fn begin(&self, resume: Option<ResumePoint>) -> Result<Begin, Failure> {
        let Some(ResumePoint { epoch, revision }) = resume else { return Ok(Begin::Now) };
        let own = self.epoch();
        if epoch != own.0 {
            let detail = format!("the roll was restored since: epoch {epoch} is over, this is epoch {own}");
            return Err(Failure::revision_compacted(format!("{detail}; begin again without a resume point")));
        }
        Ok(Begin::After(Revision(revision)))
    }
}

impl From<Compacted> for Failure {
    fn from(Compacted { oldest_known }: Compacted) -> Self {
        let detail = format!("what changed before revision {oldest_known} is no longer known here");
        Self::revision_compacted(format!("{detail}; begin again without a resume point"))
    }
}

/// A watcher's stream in the making.
struct Events {
    native: Native,
    watcher: Watcher,
    _leash: Leash,
}

impl Events {
    async fn next(&mut self) -> Option<Bytes> {
        let epoch = self.watcher.epoch();
        let mut frames = Vec::new();
        match self.watcher.next().await? {
            Told::Snapshot { found, revision, moment } => {
                let mut rendering = self.native.renderer.at(moment);
                found.iter().for_each(|present| watch::snapshot(&mut frames, &mut rendering, present, revision));
            }
            Told::Synced(revision) => watch::synced(&mut frames, epoch, revision),
            Told::Bookmark(revision) => watch::bookmark(&mut frames, epoch, revision),
            Told::Resync(revision) => watch::resync(&mut frames, revision),
            Told::Changes(commits) => match commits.as_slice() {
                // Not copied: the same bytes go to everybody.
                [commit] => return Some(commit.frames().clone()),
                commits => commits.iter().for_each(|commit| frames.extend_from_slice(commit.frames())),
            },
        }
        Some(frames.into())
    }
}
