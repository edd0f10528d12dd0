//! The whole roll as one file, taken while the node serves.

use std::io;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, Uri, header};
use axum::response::Response;
use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use rollcall_api::{Problem, header as names};
use rollcall_replica::{Consistency, Moment};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use super::Native;
use crate::limits::{BACKUP_TIMEOUT, BACKUPS_MAX};
use crate::params;
use crate::reply::{self, Failure, Shown};
use crate::request::Context;

const BACKUP: HeaderValue = HeaderValue::from_static("application/octet-stream");

/// Back up the whole roll
///
/// At any node, learners too, while it serves: everything of all tenants that the node has applied, at one log index, as
/// `rollcall cluster verify` and `rollcall cluster restore` read it. It vouches for itself by checksums and an end frame:
/// a stream that was cut off is no backup.
#[utoipa::path(
    get, path = "/api/cluster/backup", tag = "cluster", operation_id = "clusterBackup",
    responses(
        (status = 200, description = "The backup. `Rollcall-Revision`, `Rollcall-Epoch` and `Rollcall-Applied-Index` tell what it holds",
            content_type = "application/octet-stream", body = String),
        (status = 429, description = "`too_many_backups` are being taken from this node; another node may have room", body = Problem),
        (status = 503, description = "`not_ready`", body = Problem),
    ),
)]
pub(super) async fn backup(State(native): State<Native>, context: Context, uri: Uri) -> Result<Response, Failure> {
    params::none(&uri)?;
    let place = native.backups.clone().try_acquire_owned().map_err(|_| {
        Failure::too_many_backups(format!("{BACKUPS_MAX} backups are being taken from this node, and no more are"))
    })?;
    let freshness = native.replica.barrier(Consistency::default(), context.deadline).await?;
    let backup = native.replica.backup().await.map_err(|error| {
        let detail = format!("no checkpoint could be written: {error}");
        Failure::new(StatusCode::SERVICE_UNAVAILABLE, "store_failed", detail)
    })?;
    let moment = backup.moment().clone();
    tracing::info!(revision = %moment.revision, epoch = %moment.epoch, "a backup is taken");
    let mut response = Response::new(Body::from_stream(bounded(backup.into_stream(), place)));
    describe(&mut response, &moment);
    reply::show(&mut response, Shown { revision: moment.revision, freshness });
    Ok(response)
}

/// Ends a reader that would hold on to an old state for ever, and gives back the place with the stream.
fn bounded(
    chunks: impl Stream<Item = io::Result<Bytes>> + Send + 'static,
    place: OwnedSemaphorePermit,
) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
    let until = Instant::now() + BACKUP_TIMEOUT;
    stream::unfold((Box::pin(chunks), place), move |(mut chunks, place)| async move {
        let chunk = match tokio::time::timeout_at(until, chunks.next()).await {
            Ok(chunk) => chunk?,
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        };
        if let Err(error) = &chunk {
            tracing::warn!(%error, "a backup was cut off");
        }
        Some((chunk, (chunks, place)))
    })
}

fn describe(response: &mut Response, moment: &Moment) {
    let name = format!("attachment; filename=\"rollcall-{}-{}.backup\"", moment.epoch, moment.revision);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, BACKUP);
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::CONTENT_DISPOSITION, HeaderValue::try_from(name).expect("a file name of digits"));
    headers.insert(names::EPOCH, HeaderValue::from(moment.epoch.0));
    headers.insert(names::APPLIED_INDEX, HeaderValue::from(moment.applied_index));
}
