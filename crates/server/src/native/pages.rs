//! Pages for people. Static files of the program: what they show they ask for by the API, as anybody would.

use axum::Router;
use axum::extract::{FromRequestParts, Path, Request, State};
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use super::{Native, no_route_at};
use crate::faces::soorma;
use crate::reply::Failure;

/// Scripts and styles come from this server alone and nothing is inline, so that nothing a registration says can run.
const POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; \
     frame-ancestors 'none'",
);

macro_rules! file {
    ($name:literal, $media:literal) => {
        ($name, $media, include_str!(concat!("pages/", $name)))
    };
}

const DASHBOARD: File = file!("index.html", "text/html; charset=utf-8");
const DOCS: File = file!("docs.html", "text/html; charset=utf-8");
const PARTS: &[File] = &[
    file!("style.css", "text/css; charset=utf-8"),
    file!("common.js", "text/javascript; charset=utf-8"),
    file!("dashboard.js", "text/javascript; charset=utf-8"),
    file!("docs.js", "text/javascript; charset=utf-8"),
];

/// Name, media type, text.
type File = (&'static str, &'static str, &'static str);

pub(super) fn router() -> Router<Native> {
    Router::new().route("/", get(root)).route("/docs", get(docs)).route("/pages/{file}", get(part))
}

/// The cluster and the roll, live
///
/// A page, unless JSON is asked for or a token is brought: then Soorma's clients are told what service this is.
#[utoipa::path(
    get, path = "/", tag = "pages", operation_id = "dashboard",
    responses((status = 200, description = "A page", content_type = "text/html", body = String)),
)]
pub(super) async fn root(State(native): State<Native>, request: Request) -> Result<Response, Failure> {
    if is_program(request.headers()) {
        let (mut parts, _) = request.into_parts();
        return Ok(soorma::root(soorma::Caller::from_request_parts(&mut parts, &native).await?).await);
    }
    Ok(page(DASHBOARD))
}

fn is_program(headers: &HeaderMap) -> bool {
    let accepts = |media| {
        let accepted = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
        accepted.flat_map(|list| list.split(',')).any(|range| range.trim().starts_with(media))
    };
    !accepts("text/html") && (accepts("application/json") || headers.contains_key(header::AUTHORIZATION))
}

/// This contract, to read
#[utoipa::path(
    get, path = "/docs", tag = "pages", operation_id = "docs",
    responses((status = 200, description = "A page", content_type = "text/html", body = String)),
)]
pub(super) async fn docs() -> Response {
    page(DOCS)
}

async fn part(Path(name): Path<String>) -> Response {
    match PARTS.iter().find(|(known, ..)| *known == name) {
        Some(file) => page(*file),
        None => no_route_at(&format!("/pages/{name}")).into_response(),
    }
}

fn page((_, media, text): File) -> Response {
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static(media)),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
        // A node of another version brings its own.
        (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
    ];
    (headers, text).into_response()
}
