//! Who is present.

use std::time::Instant;

use axum::extract::State;
use axum::http::{StatusCode, Uri};
use axum::response::Response;
use rollcall_api::{DiscoverResponse, Problem};
use rollcall_registry::Query;

use super::{Native, json_text};
use crate::cursor::{Cursor, CursorError};
use crate::params::{self, Discovery};
use crate::render::{self, Moment};
use crate::reply::{self, Failure, Shown};
use crate::request::Context;

/// A page ends early rather than be larger than about this: a thousand of the largest registrations would be 64 MiB.
const PAGE_BYTES_MAX: usize = 16 << 20;

/// Find instances
///
/// A filter may be repeated or its values separated by commas. All tags and all capabilities must be there; of every
/// other filter any value will do. Without `status` everything but `offline` is found.
#[utoipa::path(
    get, path = "/api/services", tag = "services", operation_id = "discover",
    params(
        ("name" = Option<Vec<String>>, Query, description = "Service name"),
        ("type" = Option<Vec<rollcall_api::Kind>>, Query, description = "Sort of thing"),
        ("tags" = Option<Vec<String>>, Query, description = "All of these"),
        ("capabilities" = Option<Vec<String>>, Query, description = "All of these, by name"),
        ("status" = Option<Vec<rollcall_api::Status>>, Query, description = "Default: everything but `offline`"),
        ("visibility" = Option<Vec<rollcall_api::Visibility>>, Query, description = "Visibility"),
        ("owner" = Option<Vec<String>>, Query, description = "Owner"),
        ("protocol" = Option<Vec<rollcall_api::Protocol>>, Query, description = "Protocol"),
        ("version" = Option<Vec<String>>, Query, description = "Semver range (`^1.2`, `>=1.0, <2.0`, `1.x`); a comma belongs to the range"),
        ("consumed_event" = Option<Vec<String>>, Query, description = "Consumes it"),
        ("produced_event" = Option<Vec<String>>, Query, description = "Produces it"),
        ("region" = Option<Vec<String>>, Query, description = "Region"),
        ("zone" = Option<Vec<String>>, Query, description = "Zone"),
        ("selector" = Option<Vec<String>>, Query, description = "Over metadata: `env=prod,tier in (a,b),!canary`; all must hold"),
        ("limit" = Option<u32>, Query, minimum = 1, maximum = 1000, description = "Size of the page, default 50"),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the page before"),
        ("sort" = Option<String>, Query, description = "`id` (default) or `rank`"),
        ("consistency" = Option<String>, Query, description = "`local` (default) or `linearizable`"),
        ("min_revision" = Option<u64>, Query, description = "Wait until this revision is shown"),
        ("max_staleness_ms" = Option<u64>, Query, description = "Refuse rather than answer from older state"),
        ("include_federated" = Option<bool>, Query, description = "Other registries' instances too"),
        ("requester_id" = Option<String>, Query, description = "Who asks"),
    ),
    responses(
        (status = 200, description = "A page of matches", body = DiscoverResponse),
        (status = 400, description = "Faulty, every fault is named; `bad_cursor`", body = Problem),
        (status = 410, description = "`cursor_expired`: the revision that the pages show is no longer kept", body = Problem),
        (status = 503, description = "`not_ready`, `no_leader`, `too_stale`", body = Problem),
        (status = 504, description = "`revision_not_reached`", body = Problem),
    ),
)]
pub(super) async fn discover(State(native): State<Native>, context: Context, uri: Uri) -> Result<Response, Failure> {
    let begun = Instant::now();
    let Discovery { filter, sort, limit, cursor, mut consistency } = params::discovery(&uri)?;
    let tenant = context.tenant;
    let cursor =
        cursor.map(|text| Cursor::decode(&text, (&tenant, &filter, sort))).transpose().map_err(bad_cursor)?;
    if let Some(cursor) = &cursor {
        // A page at another node waits until that node has come as far as the page before.
        consistency.min_revision = consistency.min_revision.max(Some(cursor.revision));
        let epoch = native.replica.roll().read(|state| state.epoch());
        if epoch != cursor.epoch {
            return Err(cursor_expired());
        }
    }
    let freshness = native.replica.barrier(consistency, context.deadline).await?;

    let cluster_time = native.replica.cluster_time();
    let query = Query { tenant, filter, sort, after: cursor.as_ref().map(|cursor| cursor.position.clone()), limit };
    let (page, epoch, moment) = native.replica.roll().read(|state| {
        let page = match &cursor {
            None => Some(state.query(&query)),
            Some(cursor) if cursor.epoch == state.epoch() => state.query_at(&query, cursor.revision).ok(),
            Some(_) => None,
        };
        (page, state.epoch(), Moment::of(state, cluster_time))
    });
    let mut page = page.ok_or_else(cursor_expired)?;
    let (mut text, shown) = native.renderer.at(moment).found(&page.found, PAGE_BYTES_MAX);
    page.cut(query.sort, shown);
    let question = (&query.tenant, &query.filter, query.sort);
    let next_cursor = page.next.take().map(|position| Cursor::new(epoch, page.revision, position, question).encode());
    render::discovered(&mut text, &page, begun.elapsed(), next_cursor.as_deref());
    let mut response = json_text(StatusCode::OK, text);
    reply::show(&mut response, Shown { revision: page.revision, freshness });
    Ok(response)
}

fn bad_cursor(error: CursorError) -> Failure {
    Failure::new(StatusCode::BAD_REQUEST, "bad_cursor", format!("cursor {error}"))
}

fn cursor_expired() -> Failure {
    let detail = "the revision that this cursor's pages show is no longer kept; begin again";
    Failure::new(StatusCode::GONE, "cursor_expired", detail)
}
