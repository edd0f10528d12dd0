//! The cluster, for operators.

use std::time::Duration;

use axum::extract::State;
use axum::http::{StatusCode, Uri};
use axum::response::Response;
use rollcall_api::{ClusterStatusResponse, DigestResponse, Problem};
use tokio::time::Instant;

use super::{Native, json};
use crate::reply::Failure;
use crate::request::Context;
use crate::{params, translate};

/// How long a digest of an index yet to come is waited for.
const DIGEST_TIMEOUT: Duration = Duration::from_secs(5);

/// The cluster as the asked node sees it
///
/// Answered by any node, with or without a leader.
#[utoipa::path(
    get, path = "/api/cluster/status", tag = "cluster", operation_id = "clusterStatus",
    responses(
        (status = 200, description = "Members and progress", body = ClusterStatusResponse),
        (status = 400, description = "Faulty; every fault is named", body = Problem),
    ),
)]
pub(super) async fn status(State(native): State<Native>, uri: Uri) -> Result<Response, Failure> {
    params::none(&uri)?;
    Ok(json(StatusCode::OK, &translate::cluster_status(native.replica.status().await)))
}

/// A digest of the whole state
///
/// At exactly `index`, or where the node now is. Equal on all nodes at equal index.
#[utoipa::path(
    get, path = "/api/cluster/digest", tag = "cluster", operation_id = "clusterDigest",
    params(("index" = Option<u64>, Query, description = "Log index; waited for up to 5 s")),
    responses(
        (status = 200, description = "The digest", body = DigestResponse),
        (status = 400, description = "Faulty; every fault is named", body = Problem),
        (status = 410, description = "`digest_gone`: the node is past the index and no longer keeps it", body = Problem),
        (status = 504, description = "`index_not_reached`", body = Problem),
    ),
)]
pub(super) async fn digest(State(native): State<Native>, context: Context, uri: Uri) -> Result<Response, Failure> {
    let index = params::index(&uri)?;
    let deadline = context.deadline.min(Instant::now() + DIGEST_TIMEOUT);
    let (applied_index, digest) = native.replica.digest(index, deadline).await?;
    let answer = DigestResponse { applied_index, digest: digest.to_string(), epoch: native.epoch().0 };
    Ok(json(StatusCode::OK, &answer))
}
