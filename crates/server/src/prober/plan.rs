//! What is tried of an instance, where and how often: from what it registered and what its tenant's operator says.

use reqwest::Url;
use rollcall_api::{CheckType, HealthCheck};
use rollcall_registry::{CheckScope, Instance, MetadataValue, RegistrationView, TenantChecks};

use super::verdict::Thresholds;

/// Names the health endpoint of a registration in its metadata, as the kAI registry has it.
pub(crate) const ENDPOINT: &str = "health_check_endpoint";

/// More often would say nothing that a heartbeat does not say better.
pub(crate) const INTERVAL_MS_MIN: u32 = 1_000;
/// Who is looked at less than once an hour is not watched.
pub(crate) const INTERVAL_MS_MAX: u32 = 3_600_000;
/// Long leases do not make a check a rarity.
const INTERVAL_MS_USUAL_MAX: u32 = 60_000;

pub(crate) const TIMEOUT_MS_MIN: u32 = 100;
pub(crate) const TIMEOUT_MS_MAX: u32 = 10_000;
const TIMEOUT_MS: u32 = 5_000;

pub(crate) const THRESHOLD_MAX: u32 = 10;
/// One answer may be luck.
const PASSES: u32 = 2;
/// As many as heartbeats may be lost.
const FAILURES: u32 = 3;

/// How an instance is checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) check_type: CheckType,
    pub(super) target: Target,
    /// Of `http`: path and query of the health endpoint.
    pub(super) endpoint: Option<Box<str>>,
    /// Of `grpc`.
    pub(super) service: Box<str>,
    pub(super) interval_ms: u32,
    pub(super) timeout_ms: u32,
    pub(super) needed: Thresholds,
    pub(super) renews: bool,
}

/// What a URL says of where to connect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    /// A name or an address, without brackets.
    pub(super) host: Box<str>,
    pub(super) port: u16,
    pub(super) tls: bool,
    /// As requests name it.
    pub(super) authority: Box<str>,
    /// Path and query.
    pub(super) path: Box<str>,
}

/// Why a URL cannot be checked in some way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TargetError {
    #[error("is no URL with a host")]
    NoHost,
    #[error("names no port, and its scheme has none of its own")]
    NoPort,
    #[error("must begin with http:// or https:// to be checked by http")]
    NotHttp,
    #[error("must begin with grpc://, grpcs://, http:// or https:// to be checked by grpc")]
    NotGrpc,
}

impl Target {
    fn of(url: &Url, check_type: CheckType) -> Result<Self, TargetError> {
        let host = url.host_str().filter(|host| !host.is_empty()).ok_or(TargetError::NoHost)?;
        let tls = match (check_type, url.scheme()) {
            (CheckType::Http, "http") | (CheckType::Grpc, "grpc" | "http") | (CheckType::Tcp, _) => false,
            (CheckType::Http, "https") | (CheckType::Grpc, "grpcs" | "https") => true,
            (CheckType::Http, _) => return Err(TargetError::NotHttp),
            (CheckType::Grpc, _) => return Err(TargetError::NotGrpc),
        };
        let port = url.port_or_known_default().or(match url.scheme() {
            "mqtt" => Some(1883),
            "mqtts" => Some(8883),
            _ => None,
        });
        let port = port.ok_or(TargetError::NoPort)?;
        let authority = url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let path = path_of(url);
        Ok(Self { host: bare.into(), port, tls, authority: authority.into(), path: path.into() })
    }
}

fn path_of(url: &Url) -> String {
    let path = if url.path().is_empty() { "/" } else { url.path() };
    match url.query() {
        Some(query) => format!("{path}?{query}"),
        None => path.to_owned(),
    }
}

/// A path below a URL's: it cannot lead to another host, whatever it says.
fn below(url: &Url, endpoint: &str) -> String {
    let (path, query) = endpoint.split_once('?').map_or((endpoint, None), |(path, query)| (path, Some(query)));
    let mut url = url.clone();
    url.set_path(&format!("{}{path}", url.path().trim_end_matches('/')));
    url.set_query(query);
    path_of(&url)
}

fn parse(url: &str) -> Result<Url, TargetError> {
    Url::parse(url).map_err(|_| TargetError::NoHost)
}

/// What a URL is usually checked by.
pub(crate) fn usual_type(url: &str) -> CheckType {
    let scheme = url.split(':').next().unwrap_or_default().to_ascii_lowercase();
    match scheme.as_str() {
        "http" | "https" => CheckType::Http,
        "grpc" | "grpcs" => CheckType::Grpc,
        _ => CheckType::Tcp,
    }
}

/// Whether a URL can be checked so.
pub(crate) fn check_target(url: &str, check_type: CheckType) -> Result<(), TargetError> {
    Target::of(&parse(url)?, check_type).map(drop)
}

/// How often one is checked whose registration says `named`, in a tenant that says `usual`.
pub(crate) fn interval_ms(named: Option<u32>, usual: Option<u32>, ttl_ms: u32, renews: bool) -> u32 {
    let by_lease = (ttl_ms / 3).clamp(INTERVAL_MS_MIN, INTERVAL_MS_USUAL_MAX);
    named.unwrap_or_else(|| match usual {
        // What the tenant finds often enough may be too seldom for the lease.
        Some(usual) if renews => usual.min(by_lease),
        Some(usual) => usual,
        None => by_lease,
    })
}

impl Plan {
    /// None: nobody asks for checks, or there is nothing that could be.
    pub(super) fn of(instance: &Instance, tenant: Option<TenantChecks>) -> Option<Self> {
        let scope = tenant.map_or(CheckScope::Asked, |tenant| tenant.scope);
        if scope == CheckScope::Nobody {
            return None;
        }
        let registration = instance.registration();
        let endpoint = endpoint(&registration);
        let asked: Option<HealthCheck> = match registration.extras.health_check {
            // The edge rendered it.
            Some(text) => serde_json::from_str(text).ok(),
            None if endpoint.is_some() || scope == CheckScope::All => Some(HealthCheck::default()),
            None => None,
        };
        let HealthCheck {
            check_type,
            path,
            service,
            interval_ms: named,
            timeout_ms,
            passes_needed,
            failures_needed,
            renews,
        } = asked?;
        let url = parse(registration.url).ok()?;
        let check_type = check_type.unwrap_or_else(|| usual_type(registration.url));
        let target = Target::of(&url, check_type).ok()?;
        let endpoint = path.as_deref().or(endpoint).filter(|_| check_type == CheckType::Http);
        let renews = renews.unwrap_or(false);
        let usual = tenant.and_then(|tenant| tenant.interval_ms);
        Some(Self {
            check_type,
            target,
            endpoint: endpoint.map(|endpoint| below(&url, endpoint).into()),
            service: service.unwrap_or_default().into(),
            interval_ms: interval_ms(named, usual, registration.ttl_ms, renews),
            timeout_ms: timeout_ms.unwrap_or(TIMEOUT_MS),
            needed: Thresholds {
                passes: passes_needed.unwrap_or(PASSES),
                failures: failures_needed.unwrap_or(FAILURES),
            },
            renews,
        })
    }
}

/// The endpoint that the registered metadata name. What is no path asks for nothing: metadata are free.
fn endpoint<'a>(registration: &RegistrationView<'a>) -> Option<&'a str> {
    let Some(MetadataValue::Text(endpoint)) = registration.metadata.get(ENDPOINT) else { return None };
    let is_path = endpoint.starts_with('/') && usual_type(registration.url) == CheckType::Http;
    is_path.then_some(endpoint)
}

#[cfg(test)]
mod tests {
    use rollcall_registry::registration::JsonText;
    use rollcall_registry::{
        InstanceId, LeaseId, Metadata, Registration, Revision, Seldom, ServiceName, Status, TenantId, WallTime,
    };

    use super::*;

    fn plan(
        url: &str,
        metadata: &[(&str, &str)],
        health_check: Option<&str>,
        tenant: Option<TenantChecks>,
    ) -> Option<Plan> {
        let (id, name) = (InstanceId::parse("a").unwrap(), ServiceName::parse("n").unwrap());
        let mut registration = Registration::new(id, name, url, 30_000);
        registration.metadata = Metadata::new(metadata.iter().map(|(key, text)| (*key, MetadataValue::Text(text))));
        registration.extras.health_check = health_check.map(|text| JsonText(text.into()));
        let instance = Instance {
            tenant: TenantId::parse("t").unwrap(),
            registration: registration.pack(),
            seldom: Seldom::default(),
            reported_status: Status::Active,
            presence: rollcall_registry::Presence::Present,
            lease: LeaseId(1),
            revision: Revision(1),
            created_revision: Revision(1),
            registered_at: WallTime(0),
        };
        Plan::of(&instance, tenant)
    }

    fn of(scope: CheckScope) -> Option<TenantChecks> {
        Some(TenantChecks { scope, interval_ms: Some(20_000) })
    }

    #[test]
    fn nobody_is_checked_who_did_not_ask() {
        assert_eq!(plan("http://a:1", &[], None, None), None);
        assert_eq!(plan("http://a:1", &[("health", "/x")], None, of(CheckScope::Asked)), None);
        assert!(plan("http://a:1", &[(ENDPOINT, "/x")], None, None).is_some());
        assert!(plan("http://a:1", &[], Some("{}"), None).is_some());
        assert!(plan("http://a:1", &[], None, of(CheckScope::All)).is_some());
        assert_eq!(plan("http://a:1", &[(ENDPOINT, "/x")], Some("{}"), of(CheckScope::Nobody)), None);
        // Free metadata that are no path ask for nothing, nor do those of what does not speak HTTP.
        for (url, endpoint) in
            [("http://a:1", "health"), ("http://a:1", "http://b/x"), ("http://a:1", "@b/"), ("grpc://a:1", "/x")]
        {
            assert_eq!(plan(url, &[(ENDPOINT, endpoint)], None, None), None, "{endpoint}");
        }
        assert_eq!(plan("urn:x", &[], None, of(CheckScope::All)), None, "there is nowhere to connect");
    }

    #[test]
    fn the_url_says_what_is_tried_and_where() {
        for (url, check_type, host, port, tls, authority) in [
            ("http://a", CheckType::Http, "a", 80, false, "a"),
            ("https://user:secret@A.example:8443/x", CheckType::Http, "a.example", 8443, true, "a.example:8443"),
            ("http://[::1]:9000/", CheckType::Http, "::1", 9000, false, "[::1]:9000"),
            ("http://0x7f.1/", CheckType::Http, "127.0.0.1", 80, false, "127.0.0.1"),
            ("grpc://a:50051", CheckType::Grpc, "a", 50051, false, "a:50051"),
            ("grpcs://a:50051", CheckType::Grpc, "a", 50051, true, "a:50051"),
            ("ws://a/socket", CheckType::Tcp, "a", 80, false, "a"),
            ("mqtt://a", CheckType::Tcp, "a", 1883, false, "a"),
            ("klp://a:7", CheckType::Tcp, "a", 7, false, "a:7"),
        ] {
            let plan = plan(url, &[], Some("{}"), None).unwrap_or_else(|| panic!("{url}"));
            assert_eq!(plan.check_type, check_type, "{url}");
            let Target { host: found, port: at, tls: secure, authority: named, .. } = plan.target;
            assert_eq!((&*found, at, secure, &*named), (host, port, tls, authority), "{url}");
        }
        assert_eq!(check_target("klp://a", CheckType::Tcp), Err(TargetError::NoPort));
        assert_eq!(check_target("urn:x", CheckType::Tcp), Err(TargetError::NoHost));
        assert_eq!(check_target("ws://a", CheckType::Http), Err(TargetError::NotHttp));
        assert_eq!(check_target("ws://a", CheckType::Grpc), Err(TargetError::NotGrpc));
    }

    #[test]
    fn an_endpoint_is_a_path_below_the_url_and_leads_nowhere_else() {
        for (url, endpoint, expected) in [
            ("http://a:1", "/health", "/health"),
            ("http://a:1/base/", "/health?deep=1", "/base/health?deep=1"),
            ("http://a:1/base?x=1#y", "/health", "/base/health"),
            ("http://a:1", "//b/health", "//b/health"),
            ("http://a:1", "/a b\u{e9}", "/a%20b%C3%A9"),
            ("http://a:1/base", "/../../x", "/x"),
        ] {
            let by_metadata = plan(url, &[(ENDPOINT, endpoint)], None, None).unwrap();
            assert_eq!((by_metadata.endpoint.as_deref(), &*by_metadata.target.host), (Some(expected), "a"));
        }
        let named = plan("http://a:1", &[(ENDPOINT, "/m")], Some(r#"{"path":"/p"}"#), None).unwrap();
        assert_eq!(named.endpoint.as_deref(), Some("/p"));
        let tcp = plan("http://a:1", &[(ENDPOINT, "/m")], Some(r#"{"type":"tcp"}"#), None).unwrap();
        assert_eq!(tcp.endpoint, None);
    }

    #[test]
    fn how_often_is_said_by_the_registration_the_tenant_or_the_lease() {
        let every = |health_check: &str, tenant| plan("http://a:1", &[], Some(health_check), tenant).unwrap();
        assert_eq!(every("{}", None).interval_ms, 10_000);
        assert_eq!(every("{}", of(CheckScope::Asked)).interval_ms, 20_000);
        assert_eq!(every(r#"{"interval_ms":7000}"#, of(CheckScope::All)).interval_ms, 7_000);
        assert_eq!(every(r#"{"renews":true}"#, of(CheckScope::All)).interval_ms, 10_000);
        assert_eq!(interval_ms(None, None, 86_400_000, false), 60_000);
        assert_eq!(interval_ms(None, None, 1_000, false), 1_000);
        let plan = every(r#"{"timeout_ms":700,"passes_needed":1,"failures_needed":4,"renews":true}"#, None);
        assert_eq!((plan.timeout_ms, plan.needed.passes, plan.needed.failures, plan.renews), (700, 1, 4, true));
    }
}
