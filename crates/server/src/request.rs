//! What every request carries besides its body: tenant, deadline, conditions.

use std::time::Duration;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode};
use rollcall_api::watch::InvalidResumePoint;
use rollcall_api::{ResumePoint, header as names};
use rollcall_registry::{Actor, Command, Condition, Revision, TenantId, Viewer};
use rollcall_replica::Course;
use tokio::time::Instant;

use crate::auth::{Identity, Principal};
use crate::edge::{self, InWork};
use crate::fault::Faults;
use crate::native::{self, Native};
use crate::quotas::Sort;
use crate::reply::Failure;

const TIMEOUT_MS_DEFAULT: u64 = 10_000;
const TIMEOUT_MS_MAX: u64 = 60_000;
const REQUEST_ID_BYTES_MAX: usize = 128;
const TENANT_DEFAULT: &str = "default";

/// Whose request it is and how long it may take.
#[derive(Clone)]
pub(crate) struct Context {
    pub(crate) tenant: TenantId,
    pub(crate) identity: Identity,
    /// On whose behalf it looks.
    pub(crate) viewer: Viewer,
    pub(crate) deadline: Instant,
    timeout: Duration,
    work: InWork,
}

impl Context {
    /// Keeps the way that the request's write took, for whoever wonders where the time went.
    pub(crate) fn written(&self, course: Course) {
        self.work.written(course);
    }

    /// The request's name in logs and answers.
    pub(crate) fn request_id(&self) -> &str {
        self.work.request_id()
    }

    /// Counts the time anew, after a wait that was asked for.
    pub(crate) fn restart(&mut self) {
        self.deadline = Instant::now() + self.timeout;
    }

    /// Who asks; none where requests carry no identity.
    pub(crate) fn principal(&self) -> Option<&Principal> {
        self.identity.0.as_deref()
    }

    /// On whose behalf writes are; none where requests carry no identity.
    pub(crate) fn actor(&self) -> Option<Actor> {
        self.principal().map(Principal::actor)
    }

    /// A command on behalf of whoever asks.
    pub(crate) fn sign(&self, command: Command) -> Result<Command, Failure> {
        let Some(principal) = self.principal() else { return Ok(command) };
        if let Command::Register { registration, .. } | Command::RegisterSigned { registration, .. } = &command {
            principal.check_service(registration.view().name)?;
        }
        Ok(command.by(principal.actor()))
    }
}

impl FromRequestParts<Native> for Context {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, native: &Native) -> Result<Self, Failure> {
        let mut faults = Faults::default();
        let named = tenant(&parts.headers, &mut faults);
        let identity = identity(parts);
        match named {
            Some(named) => {
                let tenant = identity.0.as_ref().map_or(Ok(named.clone()), |principal| principal.tenant(named))?;
                let tenant = tenant.map_or_else(|| TenantId::parse(TENANT_DEFAULT), Ok);
                Self::new(tenant.expect("the default is a tenant"), identity, parts, native, faults)
            }
            None => {
                timeout(&parts.headers, &mut faults);
                Err(Failure::faulty(faults))
            }
        }
    }
}

fn identity(parts: &Parts) -> Identity {
    parts.extensions.get::<Identity>().cloned().expect("the edge says of every request whose it is")
}

impl Context {
    /// Of a request whose tenant is known otherwise than by its headers.
    pub(crate) fn of_tenant(tenant: TenantId, parts: &Parts, native: &Native) -> Result<Self, Failure> {
        Self::new(tenant, identity(parts), parts, native, Faults::default())
    }

    fn new(
        tenant: TenantId,
        identity: Identity,
        parts: &Parts,
        native: &Native,
        mut faults: Faults,
    ) -> Result<Self, Failure> {
        let timeout = timeout(&parts.headers, &mut faults);
        let Some(timeout) = timeout.filter(|_| faults.is_empty()) else { return Err(Failure::faulty(faults)) };
        if !native.tenants.is_empty() && !native.tenants.contains(&tenant) {
            let detail = format!("this cluster has no tenant `{tenant}`");
            return Err(Failure::new(StatusCode::FORBIDDEN, "unknown_tenant", detail));
        }
        let work = parts.extensions.get::<InWork>().cloned().expect("the edge gives every request its work");
        work.of(&tenant);
        if parts.uri.path() != native::QUOTA {
            let sort =
                if edge::is_heartbeat(&parts.method, parts.uri.path()) { Sort::Heartbeat } else { Sort::Other };
            native.quotas.admit(&tenant, sort)?;
        }
        let viewer = identity.0.as_ref().map_or(Viewer::All, |principal| principal.viewer());
        Ok(Self { tenant, identity, viewer, deadline: Instant::now() + timeout, timeout, work })
    }
}

/// The tenant that the header names, if there is one. None if it is none.
fn tenant(headers: &HeaderMap, faults: &mut Faults) -> Option<Option<TenantId>> {
    let Some(text) = single(headers, names::TENANT_ID, faults)? else { return Some(None) };
    TenantId::parse(text).map(Some).map_err(|error| faults.push("X-Tenant-ID", error.to_string())).ok()
}

fn timeout(headers: &HeaderMap, faults: &mut Faults) -> Option<Duration> {
    let Some(text) = single(headers, names::REQUEST_TIMEOUT_MS, faults)? else {
        return Some(Duration::from_millis(TIMEOUT_MS_DEFAULT));
    };
    match text.parse() {
        Ok(ms) if (1..=TIMEOUT_MS_MAX).contains(&ms) => Some(Duration::from_millis(ms)),
        _ => {
            faults.push("X-Request-Timeout-Ms", format!("must be a whole number from 1 to {TIMEOUT_MS_MAX}"));
            None
        }
    }
}

/// A header that may be given once; none and a fault if it is given twice or is no text.
fn single<'h>(headers: &'h HeaderMap, name: &'static str, faults: &mut Faults) -> Option<Option<&'h str>> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (None, _) => Some(None),
        (Some(value), None) if value.to_str().is_ok() => Some(value.to_str().ok()),
        (Some(_), None) => {
            faults.push(name, "must be visible ASCII");
            None
        }
        (Some(_), Some(_)) => {
            faults.push(name, "must not be given twice");
            None
        }
    }
}

/// The request's name in logs and answers: the sender's if it is usable, else a new one.
pub(crate) fn request_id(headers: &HeaderMap) -> String {
    let usable = |text: &&str| {
        !text.is_empty() && text.len() <= REQUEST_ID_BYTES_MAX && text.bytes().all(|b| b.is_ascii_graphic())
    };
    let sent = headers.get(names::REQUEST_ID).and_then(|value| value.to_str().ok()).filter(usable);
    sent.map_or_else(new_request_id, str::to_owned)
}

fn new_request_id() -> String {
    uuid::Builder::from_random_bytes(rand::random()).into_uuid().to_string()
}

/// Where a watcher goes on, as browsers tell it when they connect again. An empty one is none.
pub(crate) fn last_event_id(headers: &HeaderMap) -> Result<Option<ResumePoint>, Failure> {
    let mut faults = Faults::default();
    let text = single(headers, "last-event-id", &mut faults).flatten().filter(|text| !text.is_empty());
    let resume = text.map(str::parse).transpose();
    let resume = resume.unwrap_or_else(|error: InvalidResumePoint| {
        faults.push("Last-Event-ID", error.to_string());
        None
    });
    if faults.is_empty() { Ok(resume) } else { Err(Failure::faulty(faults)) }
}

/// What `If-Match` and `If-None-Match` ask of a write.
pub(crate) fn condition(headers: &HeaderMap) -> Result<Condition, Failure> {
    let mut faults = Faults::default();
    let wanted = single(headers, "if-match", &mut faults).flatten();
    let unwanted = single(headers, "if-none-match", &mut faults).flatten();
    let condition = match (wanted, unwanted) {
        (None, None) => Condition::None,
        (Some("*"), None) => Condition::Present,
        (Some(tag), None) => match entity_tag(tag) {
            Some(revision) => Condition::Unchanged(revision),
            None => {
                faults.push("If-Match", "must be `*` or one revision in double quotes");
                Condition::None
            }
        },
        (None, Some("*")) => Condition::Absent,
        (None, Some(_)) => {
            faults.push("If-None-Match", "must be `*`");
            Condition::None
        }
        (Some(_), Some(_)) => {
            faults.push("If-None-Match", "cannot be combined with If-Match");
            Condition::None
        }
    };
    if faults.is_empty() { Ok(condition) } else { Err(Failure::faulty(faults)) }
}

fn entity_tag(text: &str) -> Option<Revision> {
    let digits = text.strip_prefix('"')?.strip_suffix('"')?;
    let plain = digits.bytes().all(|b| b.is_ascii_digit());
    plain.then(|| digits.parse().ok().map(Revision)).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::{HeaderName, HeaderValue, header};

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn conditions_are_read() {
        let read = |pairs: &[_]| condition(&headers(pairs));
        assert_eq!(read(&[]).unwrap(), Condition::None);
        assert_eq!(read(&[("if-match", "*")]).unwrap(), Condition::Present);
        assert_eq!(read(&[("if-match", "\"17\"")]).unwrap(), Condition::Unchanged(Revision(17)));
        assert_eq!(read(&[("if-none-match", "*")]).unwrap(), Condition::Absent);
        for bad in ["17", "W/\"17\"", "\"17\", \"18\"", "\"\"", "\"+1\"", "\"99999999999999999999\""] {
            let header = HeaderMap::from_iter([(header::IF_MATCH, HeaderValue::from_static(bad))]);
            assert_eq!(condition(&header).unwrap_err().status(), StatusCode::BAD_REQUEST, "{bad}");
        }
        assert!(read(&[("if-none-match", "\"17\"")]).is_err());
        assert!(read(&[("if-match", "*"), ("if-none-match", "*")]).is_err());
    }

    #[test]
    fn unusable_request_ids_are_replaced() {
        assert_eq!(request_id(&headers(&[("x-request-id", "abc-1")])), "abc-1");
        for bad in ["", "a b"] {
            assert_eq!(request_id(&headers(&[("x-request-id", bad)])).len(), 36, "{bad:?}");
        }
    }

    #[test]
    fn deadlines_have_bounds() {
        let read = |text: &'static str| timeout(&headers(&[("x-request-timeout-ms", text)]), &mut Faults::default());
        assert_eq!(read("60000"), Some(Duration::from_secs(60)));
        for bad in ["0", "60001", "-1", "soon", ""] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }
}
