//! Who is present.

use std::sync::Arc;
use std::time::Instant;

use axum::extract::{Extension, State};
use axum::http::{StatusCode, Uri};
use axum::response::Response;
use rollcall_api::{DiscoverResponse, Problem};
use rollcall_registry::{FederatedPage, Filter, Query, Ranking, Revision, Sort};
use rollcall_replica::Consistency;

use super::{Native, json_text};
use crate::cursor::{self, Cursor, CursorError};
use crate::edge::InWork;
use crate::federation;
use crate::params::{self, Discovery, Federated, Poll};
use crate::render::{self, Moment, Others};
use crate::reply::{self, Failure, Shown};
use crate::request::Context;
use crate::watch::{Begin, Changes, Question, Told};

/// A page ends early rather than be larger than about this: a thousand of the largest registrations would be 64 MiB.
const PAGE_BYTES_MAX: usize = 16 << 20;

/// Find instances
///
/// A filter may be repeated or its values separated by commas. All tags and all capabilities must be there; of every
/// other filter any value will do. Without `status` everything but `offline` is found.
#[utoipa::path(
    get, path = "/api/services", tag = "services", operation_id = "discover",
    params(
        ("limit" = Option<u32>, Query, minimum = 1, maximum = 1000, description = "Size of the page, default 50"),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the page before"),
        ("sort" = Option<String>, Query, description = "`id` (default), `rank`: the best first, or `lease`: in the order of registration"),
        ("after_revision" = Option<u64>, Query, description = "Long poll: answer when something that is asked for changed after this revision"),
        ("wait_ms" = Option<u64>, Query, minimum = 0, maximum = 300000, description = "Long poll: answer after this time at the latest, default 30000"),
        ("consistency" = Option<String>, Query, description = "`local` (default) or `linearizable`"),
        ("min_revision" = Option<u64>, Query, description = "Wait until this revision is shown"),
        ("max_staleness_ms" = Option<u64>, Query, description = "Refuse rather than answer from older state"),
        ("include_federated" = Option<bool>, Query, description = "Instances of other clusters too, as these told of them"),
        ("federated" = Option<String>, Query, description = "`copy`: as `include_federated=true`; `live`: the other clusters are asked first for what they have not told yet, and `federated_sources` says which answered"),
        ("federated_timeout_ms" = Option<u64>, Query, minimum = 1, maximum = 10000, description = "How long each of them may take, with `federated=live`, default 1000"),
    ),
    responses(
        (status = 200, description = "A page of matches", body = DiscoverResponse),
        (status = 400, description = "Faulty, every fault is named; `bad_cursor`", body = Problem),
        (status = 429, description = "`too_many_watchers`: no room for another long poll; another node may have some", body = Problem),
        (status = 410, description = "`cursor_expired`: the revision that the pages show is no longer kept, or they would be ranked otherwise now", body = Problem),
        (status = 503, description = "`not_ready`, `no_leader`, `too_stale`", body = Problem),
        (status = 504, description = "`revision_not_reached`", body = Problem),
    ),
)]
pub(super) async fn discover(
    State(native): State<Native>,
    Extension(work): Extension<InWork>,
    mut context: Context,
    uri: Uri,
) -> Result<Response, Failure> {
    let Discovery { mut filter, sort, rank, explain, limit, cursor, poll, mut consistency, federated } =
        params::discovery(&uri)?;
    filter.viewer = context.viewer.clone();
    if let Some(poll) = poll {
        // What waits is no work.
        work.rest();
        let waited = native.poll(&context, &filter, poll).await?;
        work.resume()?;
        consistency.min_revision = consistency.min_revision.max(waited);
        context.restart();
    }
    let begun = Instant::now();
    let tenant = context.tenant;
    let is_federated = federated.is_asked();
    let question = cursor::Question { tenant: &tenant, filter: &filter, sort, rank: &rank, federated: is_federated };
    let cursor = cursor.map(|text| Cursor::decode(&text, question)).transpose().map_err(bad_cursor)?;
    if let Some(cursor) = &cursor {
        // A page at another node waits until that node has come as far as the page before.
        consistency.min_revision = consistency.min_revision.max(Some(cursor.revision));
        let epoch = native.replica.roll().read(|state| state.epoch());
        if epoch != cursor.epoch {
            return Err(cursor_expired());
        }
    }
    let sources = match federated {
        Federated::Live(_) => {
            work.rest();
            let sources = native.refresh(federated, &tenant).await;
            work.resume()?;
            sources
        }
        Federated::No | Federated::Copy => None,
    };
    let freshness = native.replica.barrier(consistency, context.deadline).await?;

    let cluster_time = native.replica.cluster_time();
    let after = cursor.as_ref().map(|cursor| cursor.position.clone());
    let mut query = Query { tenant, filter, sort, ranking: Ranking::default(), after, limit };
    let (page, epoch, ranked_by, moment) = native.replica.roll().read(|state| {
        query.ranking = rank.ranking(state, &query.tenant);
        let ranked_by = if sort == Sort::Rank { state.ranking_mark(&query.tenant, &query.ranking) } else { 0 };
        let revision = match &cursor {
            None => Some(None),
            // What was laid down in between, or a requester that moved, would put the pages into another order.
            Some(cursor) if cursor.epoch == state.epoch() && cursor.ranked_by == ranked_by => {
                Some(Some(cursor.revision))
            }
            Some(_) => None,
        };
        let page = revision.and_then(|revision| match (is_federated, revision) {
            (true, revision) => state.query_federated(&query, revision).ok(),
            (false, None) => Some(state.query(&query).into()),
            (false, Some(revision)) => state.query_at(&query, revision).ok().map(Into::into),
        });
        (page, state.epoch(), ranked_by, Moment::of(state, cluster_time))
    });
    let FederatedPage { mut page, mut origins, foreign } = page.ok_or_else(cursor_expired)?;
    origins.iter_mut().flatten().for_each(|origin| federation::freshen(origin, sources.as_deref()));
    let scores = if explain { &page.scores[..] } else { &[] };
    let (mut text, shown) = native.renderer.at(moment).found_of(&page.found, scores, &origins, PAGE_BYTES_MAX);
    page.cut(query.sort, shown);
    let question =
        cursor::Question { tenant: &query.tenant, filter: &query.filter, sort, rank: &rank, federated: is_federated };
    let next = |position| Cursor::new(epoch, page.revision, position, ranked_by, question).encode();
    let next_cursor = page.next.clone().map(next);
    let of_others = Others { count: foreign, sources: sources.as_deref() };
    render::discovered(&mut text, &page, of_others, begun.elapsed(), next_cursor.as_deref());
    let mut response = json_text(StatusCode::OK, text);
    reply::show(&mut response, Shown { revision: page.revision, freshness });
    Ok(response)
}

impl Native {
    /// Waits until something that the filter finds changed, or the time is over. Returns what the answer must show.
    async fn poll(&self, context: &Context, filter: &Filter, poll: Poll) -> Result<Option<Revision>, Failure> {
        let place = self.places.take(&context.tenant)?;
        let until = tokio::time::Instant::now() + poll.wait;
        let reached = Consistency { min_revision: Some(poll.after), ..Consistency::default() };
        self.reached(reached, until).await?;
        let question = Question { tenant: context.tenant.clone(), filters: Arc::new([filter.clone()]) };
        let leash = self.leash(context);
        let begin = Begin::After(poll.after);
        let Ok(mut watcher) = self.hub.watch(question, begin, place, leash.stop().clone()) else {
            // What changed since is not known, but what is there now is, and that is what is answered.
            return Ok(None);
        };
        let changed = async {
            loop {
                match watcher.next().await {
                    Some(Told::Changes(commits)) => return commits.last().map(Changes::last),
                    Some(Told::Bookmark(_) | Told::Snapshot { .. } | Told::Synced(_)) => {}
                    Some(Told::Resync(_)) | None => return None,
                }
            }
        };
        Ok(tokio::time::timeout_at(until, changed).await.unwrap_or(None))
    }
}

fn bad_cursor(error: CursorError) -> Failure {
    Failure::new(StatusCode::BAD_REQUEST, "bad_cursor", format!("cursor {error}"))
}

fn cursor_expired() -> Failure {
    let detail = "what this cursor's pages show is no longer kept, or is ranked otherwise now; begin again";
    Failure::new(StatusCode::GONE, "cursor_expired", detail)
}
