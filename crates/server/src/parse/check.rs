//! How instances ask to be checked, and what an operator says of the checks of a tenant.

use rollcall_api::{CheckType, ChecksRequest, HealthCheck};
use rollcall_registry::ids::check_name;
use serde_json::Value;

use super::{REQUIRED, URL_BYTES_MAX, name_rule};
use crate::fault::{Faults, Fields};
use crate::prober::plan::{self, INTERVAL_MS_MAX, INTERVAL_MS_MIN, THRESHOLD_MAX, TIMEOUT_MS_MAX, TIMEOUT_MS_MIN};

#[derive(Debug, thiserror::Error)]
enum PathError {
    #[error(transparent)]
    Text(#[from] rollcall_registry::NameError),
    #[error("must begin with /: it is below the url")]
    NoPath,
}

fn check_path(text: &str) -> Result<(), PathError> {
    check_name(text, URL_BYTES_MAX)?;
    if text.starts_with('/') { Ok(()) } else { Err(PathError::NoPath) }
}

/// What a registration with this URL and TTL asks for.
pub(super) fn health_check(mut fields: Fields<'_>, url: Option<&str>, ttl_ms: u32) -> HealthCheck {
    let check = HealthCheck {
        check_type: fields.word("type"),
        path: fields.checked("path", check_path),
        service: fields.checked("service", name_rule),
        interval_ms: fields.number("interval_ms", INTERVAL_MS_MIN, INTERVAL_MS_MAX),
        timeout_ms: fields.number("timeout_ms", TIMEOUT_MS_MIN, TIMEOUT_MS_MAX),
        passes_needed: fields.number("passes_needed", 1, THRESHOLD_MAX),
        failures_needed: fields.number("failures_needed", 1, THRESHOLD_MAX),
        renews: fields.boolean("renews"),
    };
    if let Some(url) = url {
        let check_type = check.check_type.unwrap_or_else(|| plan::usual_type(url));
        if let Err(error) = plan::check_target(url, check_type) {
            fields.fault("type", format!("cannot be {check_type} here: url {error}"));
        }
        if check.path.is_some() && check_type != CheckType::Http {
            fields.fault("path", format!("is of http, and this is checked by {check_type}"));
        }
        if check.service.is_some() && check_type != CheckType::Grpc {
            fields.fault("service", format!("is of grpc, and this is checked by {check_type}"));
        }
    }
    let interval_ms = plan::interval_ms(check.interval_ms, None, ttl_ms, true);
    if check.renews == Some(true) && interval_ms > ttl_ms / 2 {
        let message = format!("is {interval_ms}; to renew it must be at most half of ttl_ms, which is {ttl_ms}");
        fields.fault("interval_ms", message);
    }
    fields.finish();
    check
}

/// The body that says which of a tenant's instances are checked.
pub(crate) fn checks(body: Value) -> Result<ChecksRequest, Faults> {
    let mut faults = Faults::default();
    let request = Fields::open("", body, &mut faults).and_then(|mut fields| {
        let scope = match fields.take("scope") {
            None => {
                fields.fault("scope", REQUIRED);
                None
            }
            Some(scope) => match scope.as_str().map(str::parse) {
                Some(Ok(scope)) => Some(scope),
                Some(Err(error)) => {
                    fields.fault("scope", rollcall_api::service::UnknownWord::to_string(&error));
                    None
                }
                None => {
                    fields.fault("scope", "must be a string");
                    None
                }
            },
        };
        let interval_ms = fields.number("interval_ms", INTERVAL_MS_MIN, INTERVAL_MS_MAX);
        fields.finish();
        Some(ChecksRequest { scope: scope?, interval_ms })
    });
    request.filter(|_| faults.is_empty()).ok_or(faults)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn faults(url: &str, ttl_ms: u32, check: Value) -> Vec<String> {
        let mut faults = Faults::default();
        if let Some(fields) = Fields::open("health_check", check, &mut faults) {
            health_check(fields, Some(url), ttl_ms);
        }
        faults.into_vec().into_iter().map(|fault| fault.field).collect()
    }

    #[test]
    fn what_cannot_be_checked_is_refused_by_name() {
        let good = |url: &str, check: Value| assert_eq!(faults(url, 30_000, check), [""; 0], "{url}");
        good("http://a", json!({}));
        good("http://a", json!({"path": "/health?deep=1", "timeout_ms": 100, "renews": true}));
        good("grpc://a:1", json!({"service": "a.B", "passes_needed": 1, "failures_needed": 10}));
        good("mqtt://a", json!({"type": "tcp", "interval_ms": 3_600_000}));
        let cases = [
            ("urn:x", json!({}), vec!["type"]),
            ("klp://a", json!({}), vec!["type"]),
            ("ws://a", json!({"type": "http"}), vec!["type"]),
            ("http://a", json!({"type": "icmp"}), vec!["type"]),
            ("http://a", json!({"path": "health"}), vec!["path"]),
            ("http://a", json!({"path": "/a\nb"}), vec!["path"]),
            ("http://a", json!({"type": "tcp", "path": "/x", "service": "y"}), vec!["path", "service"]),
            ("http://a", json!({"interval_ms": 999, "timeout_ms": 10_001}), vec!["interval_ms", "timeout_ms"]),
            (
                "http://a",
                json!({"passes_needed": 0, "failures_needed": 11, "headers": {}}),
                vec!["passes_needed", "failures_needed", "headers"],
            ),
        ];
        for (url, check, expected) in cases {
            let found = faults(url, 30_000, check);
            let expected: Vec<_> = expected.into_iter().map(|field| format!("health_check.{field}")).collect();
            assert_eq!(found, expected, "{url}");
        }
    }

    #[test]
    fn what_renews_is_checked_often_enough() {
        let renewing = |ttl_ms, interval_ms: Option<u32>| {
            faults("http://a", ttl_ms, json!({"renews": true, "interval_ms": interval_ms}))
        };
        assert_eq!(renewing(10_000, Some(5_000)), [""; 0]);
        assert_eq!(renewing(10_000, Some(5_001)), ["health_check.interval_ms"]);
        assert_eq!(renewing(2_000, None), [""; 0]);
        assert_eq!(renewing(1_999, None), ["health_check.interval_ms"]);
    }

    #[test]
    fn a_tenant_says_whom_to_check() {
        let faults = |body: Value| -> Vec<String> {
            checks(body).unwrap_err().into_vec().into_iter().map(|fault| fault.field).collect()
        };
        assert!(checks(json!({"scope": "all", "interval_ms": 1_000})).is_ok());
        assert_eq!(faults(json!({})), ["scope"]);
        assert_eq!(faults(json!({"scope": "some", "interval_ms": 1, "x": 1})), ["scope", "interval_ms", "x"]);
        assert_eq!(faults(json!({"scope": 1})), ["scope"]);
    }
}
