//! Around every request: its name, its trace, its share of the node, and an answer whatever happens.

use std::panic::AssertUnwindSafe;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::http::uri::PathAndQuery;
use axum::http::{HeaderValue, Method, Request, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt;
use parking_lot::Mutex;
use rollcall_api::header as names;
use rollcall_registry::TenantId;
use rollcall_replica::Course;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tower::ServiceExt;
use tracing::Instrument;
use tracing::field::Empty;

use crate::auth::{API_KEY, Gate, Identity};
use crate::limits::{READS_MAX, REQUESTS_MAX, WRITES_MAX};
use crate::listener::Counted;
use crate::metrics::{EdgeMetrics, Exceeded, Refused, Route};
use crate::native::{self, Native};
use crate::reply::{self, Failure};
use crate::slow::SlowLog;
use crate::{request, telemetry};

const LIVEZ: &str = "/livez";

/// What answers clients: nothing but `/livez` until the replica runs.
pub(crate) struct Edge {
    running: OnceLock<Running>,
    requests: Arc<Semaphore>,
    metrics: Arc<EdgeMetrics>,
    slow: SlowLog,
}

/// A request's share of the node, and what is found out about it on the way.
#[derive(Clone)]
pub(crate) struct InWork(Arc<Work>);

struct Work {
    request_id: String,
    requests: Arc<Semaphore>,
    metrics: Arc<EdgeMetrics>,
    state: Mutex<WorkState>,
}

#[derive(Default)]
struct WorkState {
    share: Option<Share>,
    rested: bool,
    tenant: Option<TenantId>,
    course: Option<Course>,
}

/// A place among the requests in work.
struct Share {
    _permit: OwnedSemaphorePermit,
    _counted: Counted,
}

impl InWork {
    fn new(edge: &Edge, request_id: String) -> Self {
        let (requests, metrics) = (edge.requests.clone(), edge.metrics.clone());
        Self(Arc::new(Work { request_id, requests, metrics, state: Mutex::default() }))
    }

    /// The request's name in logs and answers.
    pub(crate) fn request_id(&self) -> &str {
        &self.0.request_id
    }

    /// Takes a share if fewer than `max` requests are in work.
    fn begin(&self, max: usize) -> Result<(), Failure> {
        let work = &*self.0;
        let in_work = REQUESTS_MAX.saturating_sub(work.requests.available_permits());
        let permit = if in_work < max { work.requests.clone().try_acquire_owned().ok() } else { None };
        let permit = permit.ok_or_else(|| Failure::overloaded("requests in work"))?;
        work.state.lock().share =
            Some(Share { _permit: permit, _counted: Counted::new(work.metrics.in_work.clone()) });
        Ok(())
    }

    /// Gives the share back for a request that from now on waits.
    pub(crate) fn rest(&self) {
        let mut state = self.0.state.lock();
        (state.share, state.rested) = (None, true);
    }

    /// Takes a share again for a read that has waited.
    pub(crate) fn resume(&self) -> Result<(), Failure> {
        self.begin(READS_MAX)
    }

    /// Whose request it is.
    pub(crate) fn of(&self, tenant: &TenantId) {
        self.0.state.lock().tenant = Some(tenant.clone());
    }

    /// The way that its write took.
    pub(crate) fn written(&self, course: Course) {
        self.0.state.lock().course = Some(course);
    }

    fn end(&self) -> WorkState {
        std::mem::take(&mut *self.0.state.lock())
    }
}

struct Running {
    router: Router,
    /// Says no in the words of the contract that a path belongs to.
    refusals: Router,
    /// None: requests carry no identity.
    gate: Option<Gate>,
    node: HeaderValue,
}

impl Edge {
    pub(crate) fn new(metrics: Arc<EdgeMetrics>, slow: SlowLog) -> Self {
        Self { running: OnceLock::new(), requests: Arc::new(Semaphore::new(REQUESTS_MAX)), metrics, slow }
    }

    /// Opens the routes. Called once, when the replica runs. Without a gate nobody has to say who asks.
    pub(crate) fn open(&self, native: Native, gate: Option<Gate>) {
        let node = HeaderValue::from(native.replica.node_id());
        let refusals = native.refusals();
        let opened = self.running.set(Running { router: native.router(), refusals, gate, node });
        assert!(opened.is_ok(), "the edge was opened twice");
    }

    /// Answers one request. `crowded` says that it came on a connection beyond those that are served.
    pub(crate) async fn handle(&self, mut request: Request<Body>, crowded: bool) -> Response {
        let begun = Instant::now();
        trim_trailing_slashes(request.uri_mut());
        let route = Route::of(request.method(), request.uri().path());
        let work = InWork::new(self, request::request_id(request.headers()));
        let request_id = work.request_id();
        let traceparent = request.headers().get(names::TRACEPARENT).cloned();
        let write = !matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS);
        let path = request.uri().path_and_query().cloned();
        let method = request.method().clone();
        // Formatting a span costs more than many a request, so that there is none at the usual level: what goes wrong
        // names the request itself.
        let span = tracing::debug_span!(
            "request",
            otel.name = Empty,
            otel.kind = "server",
            otel.status_code = Empty,
            id = %request_id,
            tenant = Empty,
            http.request.method = %method,
            http.route = Empty,
            http.response.status_code = Empty,
            url.path = request.uri().path(),
        );
        telemetry::begin_request(&span, route, traceparent.as_ref());
        let named = span.clone();
        let mut response = async {
            let mut response = self.answer(request, route, crowded, &work).await;
            if let Some(failure) = reply::failure_of(&mut response) {
                self.metrics.refusals.get_or_create(&Refused { code: failure.code() }).inc();
                if let Some(exceeded) = failure.quota() {
                    self.metrics.quota_refusals.get_or_create(&Exceeded { quota: exceeded.quota.as_str() }).inc();
                }
                // A node that starts is asked again and again; that it is not ready is no failure.
                if failure.status().is_server_error() && failure.code() != "not_ready" {
                    tracing::warn!(
                        id = %request_id,
                        %method,
                        path = path.as_ref().map(PathAndQuery::path),
                        traceparent = traceparent.as_ref().and_then(|value| value.to_str().ok()),
                        code = failure.code(),
                        detail = %failure.detail(),
                        "the request failed"
                    );
                }
                response = failure.render(request_id, write);
            }
            let state = work.end();
            let batch = state.course.map(|course| course.batch);
            tracing::debug!(status = response.status().as_u16(), batch, "answered");
            telemetry::end_request(&named, response.status(), state.tenant.as_ref());
            self.note(route, request_id, response.status(), begun, &state);
            response
        }
        .instrument(span)
        .await;

        let headers = response.headers_mut();
        let request_id = HeaderValue::from_str(request_id).expect("a request id is visible ASCII");
        headers.insert(names::REQUEST_ID, request_id);
        if let Some(traceparent) = traceparent {
            headers.insert(names::TRACEPARENT, traceparent);
        }
        if let Some(running) = self.running.get() {
            headers.insert(names::NODE, running.node.clone());
        }
        response
    }

    /// Counts an answer, and tells of it if it was slow.
    fn note(&self, route: Route, id: &str, status: StatusCode, begun: Instant, state: &WorkState) {
        let now = Instant::now();
        // What waited because it was asked to is not slow.
        let took = (!state.rested).then(|| now.saturating_duration_since(begun));
        self.metrics.http.answered(route, status, took);
        let Some((took, untold)) = took.and_then(|took| Some((took, self.slow.tells(took, now)?))) else { return };
        let whole_ms = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        let ms = |from: Instant, to: Instant| whole_ms(to.saturating_duration_since(from));
        let course = state.course.map(|course| (course.taken_at.into_std(), course.decided_at.into_std()));
        tracing::warn!(
            id,
            route = route.template(),
            method = route.method(),
            tenant = state.tenant.as_ref().map(TenantId::as_str),
            status = status.as_u16(),
            ms = whole_ms(took),
            queue_ms = course.map(|(taken_at, _)| ms(begun, taken_at)),
            commit_ms = course.map(|(taken_at, decided_at)| ms(taken_at, decided_at)),
            apply_ms = course.map(|(_, decided_at)| ms(decided_at, now)),
            batch = state.course.map(|course| course.batch),
            untold,
            "a slow request"
        );
    }

    /// A place for a request, if its kind may have one: a node with too much work refuses reads first and heartbeats last.
    fn admit(request: &Request<Body>, work: &InWork) -> Result<(), Failure> {
        let path = request.uri().path();
        let max = if *request.method() == Method::GET {
            READS_MAX
        } else if is_heartbeat(request.method(), path) {
            REQUESTS_MAX
        } else {
            WRITES_MAX
        };
        work.begin(max)
    }

    async fn answer(&self, mut request: Request<Body>, route: Route, crowded: bool, work: &InWork) -> Response {
        let exempt = request.uri().path() == LIVEZ;
        if crowded && !exempt {
            return Failure::overloaded("connections").into_response();
        }
        let Some(running) = self.running.get() else {
            return if exempt { native::alive() } else { Failure::not_ready([]).into_response() };
        };
        if !exempt && let Err(failure) = Self::admit(&request, work) {
            return failure.into_response();
        }
        request.extensions_mut().insert(work.clone());
        let router = match running.identify(&mut request, route).await {
            Ok(()) => &running.router,
            Err(failure) => {
                request.extensions_mut().insert(failure);
                &running.refusals
            }
        };
        let answered = AssertUnwindSafe(router.clone().oneshot(request)).catch_unwind().await;
        match answered {
            Ok(Ok(response)) => response,
            Ok(Err(never)) => match never {},
            Err(panic) => {
                let message = panic
                    .downcast_ref::<String>()
                    .map(String::as_str)
                    .or_else(|| panic.downcast_ref::<&str>().copied())
                    .unwrap_or("no message");
                tracing::error!(panic = message, "a handler panicked");
                Failure::panicked().into_response()
            }
        }
    }
}

impl Running {
    /// Puts into the request who asks, if they may. No handler is reached otherwise.
    async fn identify(&self, request: &mut Request<Body>, route: Route) -> Result<(), Failure> {
        let identity = match &self.gate {
            None => Identity::nobody(),
            Some(gate) => gate.admit(route, request.method(), request.uri().path(), request.headers()).await?,
        };
        // What proved it is nobody's business any more, and so reaches no log.
        if identity.0.is_some() {
            request.headers_mut().remove(header::AUTHORIZATION);
            request.headers_mut().remove(API_KEY);
        }
        request.extensions_mut().insert(identity);
        Ok(())
    }
}

/// Whether a request, of whichever contract, renews leases.
pub(crate) fn is_heartbeat(method: &Method, path: &str) -> bool {
    *method != Method::GET && (path.ends_with("/heartbeat") || path == "/api/heartbeats")
}

/// A path with slashes at its end means the path without: no client is redirected.
fn trim_trailing_slashes(uri: &mut Uri) {
    let trimmed = uri.path().trim_end_matches('/');
    if trimmed.len() == uri.path().len() || trimmed.is_empty() {
        return;
    }
    let path_and_query = match uri.query() {
        Some(query) => format!("{trimmed}?{query}"),
        None => trimmed.to_owned(),
    };
    let mut parts = std::mem::take(uri).into_parts();
    parts.path_and_query =
        Some(PathAndQuery::try_from(path_and_query).expect("a valid path is valid without its last slashes"));
    *uri = Uri::from_parts(parts).expect("only the path was changed");
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::routing::{get, post};

    #[test]
    fn slashes_at_the_end_do_not_count() {
        for (given, meant) in [
            ("/api/services/", "/api/services"),
            ("/api/services//?a=b/", "/api/services?a=b/"),
            ("/api/services", "/api/services"),
            ("/", "/"),
            ("//", "//"),
            ("http://h:1/livez/", "http://h:1/livez"),
        ] {
            let mut uri = given.parse().unwrap();
            trim_trailing_slashes(&mut uri);
            assert_eq!(uri.to_string(), meant, "{given}");
        }
    }

    #[tokio::test]
    async fn before_the_replica_runs_only_livez_answers() {
        let edge = Edge::new(Arc::default(), SlowLog::new(0));
        let ask =
            |path: &str| Request::builder().uri(path).header("x-request-id", "r-1").body(Body::empty()).unwrap();
        assert_eq!(edge.handle(ask("/livez"), false).await.status(), 200);
        assert_eq!(edge.handle(ask("/livez"), true).await.status(), 200);
        let response = edge.handle(ask("/api/services"), false).await;
        assert_eq!(response.status(), 503);
        assert_eq!(response.headers()["content-type"], "application/problem+json");
        assert_eq!(response.headers()["x-request-id"], "r-1");
        assert!(response.headers().contains_key("retry-after"));
        assert_eq!(edge.handle(ask("/readyz"), true).await.status(), 503);
    }

    fn running(router: Router) -> Edge {
        let edge = Edge::new(Arc::default(), SlowLog::new(0));
        let refusals = Router::new();
        assert!(edge.running.set(Running { router, refusals, gate: None, node: HeaderValue::from(1) }).is_ok());
        edge
    }

    async fn problem(response: Response) -> rollcall_api::Problem {
        let body = axum::body::to_bytes(response.into_body(), 1 << 16).await.unwrap();
        serde_json::from_slice(&body).unwrap()
    }

    #[tokio::test]
    async fn a_panic_costs_one_request_its_answer_and_nothing_else() {
        async fn boom() -> Response {
            panic!("boom")
        }
        let edge = running(Router::new().route("/boom", post(boom)).route(LIVEZ, get(async || native::alive())));
        let ask = |method: &str, path: &str| Request::builder().method(method).uri(path).body(Body::empty()).unwrap();
        let problem = problem(edge.handle(ask("POST", "/boom"), false).await).await;
        assert_eq!((problem.status, problem.code.as_str()), (500, "internal"));
        assert_eq!(problem.outcome, Some(rollcall_api::WriteOutcome::Unknown));
        assert!(!problem.detail.contains("boom"), "what a panic says is for the log");
        assert_eq!(edge.handle(ask("GET", LIVEZ), false).await.status(), 200);
        assert_eq!(edge.requests.available_permits(), REQUESTS_MAX);
    }

    #[tokio::test]
    async fn p11_reads_are_refused_first_and_heartbeats_last() {
        let edge = running(Router::new());
        let asks =
            [("GET", "/api/services"), ("POST", "/api/services/register"), ("POST", "/api/services/a/heartbeat")];
        let mut statuses = Vec::new();
        for in_work in [READS_MAX - 1, READS_MAX, WRITES_MAX, REQUESTS_MAX] {
            let _work = edge.requests.try_acquire_many(u32::try_from(in_work).unwrap()).unwrap();
            for (method, path) in asks {
                let request = Request::builder().method(method).uri(path).body(Body::empty()).unwrap();
                statuses.push(edge.handle(request, false).await.status().as_u16());
            }
        }
        // There is no route here: 404 is an answer.
        assert_eq!(statuses, [404, 404, 404, 503, 404, 404, 503, 503, 404, 503, 503, 503]);
    }

    #[tokio::test]
    async fn a_node_with_too_much_work_says_so_and_is_alive() {
        let edge = running(Router::new().route(LIVEZ, get(async || native::alive())));
        let _work = edge.requests.try_acquire_many(u32::try_from(REQUESTS_MAX).unwrap()).unwrap();
        let ask = |path: &str| Request::builder().method("POST").uri(path).body(Body::empty()).unwrap();
        let response = edge.handle(ask("/api/heartbeats"), false).await;
        assert_eq!(response.headers()["retry-after"], "1");
        let problem = problem(response).await;
        assert_eq!((problem.status, problem.code.as_str()), (503, "overloaded"));
        assert_eq!(problem.outcome, Some(rollcall_api::WriteOutcome::NotApplied));
        let alive = Request::builder().uri(LIVEZ).body(Body::empty()).unwrap();
        assert_eq!(edge.handle(alive, false).await.status(), 200);
    }
}
