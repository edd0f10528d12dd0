//! What operators lay down: orders, trust, rank weights and quotas.

use rollcall_api::{
    AlertTargetRequest, OrderRequest, ProtectionRequest, QuotaLimits, RankWeights, RankingRequest, TrustRequest,
};
use rollcall_registry::health::REASON_BYTES_MAX;
use rollcall_registry::ids::check_name;
use rollcall_registry::{AlertSecret, TARGET_INTERVAL_MS_MAX};
use serde_json::Value;

use super::REQUIRED;
use crate::fault::{Faults, Fields};

/// The body of an order.
pub(crate) fn order(body: Value) -> Result<OrderRequest, Faults> {
    let mut faults = Faults::default();
    let request = Fields::open("", body, &mut faults).map(|mut fields| {
        let reason = fields.checked("reason", |text| check_name(text, REASON_BYTES_MAX));
        fields.finish();
        OrderRequest { reason }
    });
    request.filter(|_| faults.is_empty()).ok_or(faults)
}

/// The body that says how far an owner is trusted.
pub(crate) fn trust(body: Value) -> Result<TrustRequest, Faults> {
    let mut faults = Faults::default();
    let request = Fields::open("", body, &mut faults).and_then(|mut fields| {
        let trust = stepped(&mut fields, "trust", 10, 100);
        if trust.is_none() {
            fields.missing("trust");
        }
        fields.finish();
        Some(TrustRequest { trust: trust?? })
    });
    request.filter(|_| faults.is_empty()).ok_or(faults)
}

/// The body that says by what a tenant's results are ranked.
pub(crate) fn ranking(body: Value) -> Result<RankingRequest, Faults> {
    let mut faults = Faults::default();
    let request = Fields::open("", body, &mut faults).and_then(|mut fields| {
        let weights = match fields.take("weights") {
            None => {
                fields.missing("weights");
                None
            }
            Some(weights) => {
                let path = fields.path("weights");
                Fields::open(path, weights, fields.faults).map(weights_of)
            }
        };
        fields.finish();
        Some(RankingRequest { weights: weights? })
    });
    request.filter(|_| faults.is_empty()).ok_or(faults)
}

/// The body that says when a tenant's leases are held.
pub(crate) fn protection(body: Value) -> Result<ProtectionRequest, Faults> {
    let mut faults = Faults::default();
    let request = Fields::open("", body, &mut faults).map(|mut fields| {
        let share = stepped(&mut fields, "share", 1, 1_000);
        match share {
            None => fields.missing("share"),
            Some(Some(0.0 | 1.0)) => {
                fields.fault("share", "must lie between 0 and 1: it is never all, and never nothing")
            }
            Some(_) => {}
        }
        let request = ProtectionRequest {
            share: share.flatten().unwrap_or_default(),
            window_ms: fields.number("window_ms", 1_000, 3_600_000),
            release_per_minute: fields.number("release_per_minute", 1, 6_000),
            leases_min: fields.number("leases_min", 1, 1_000_000),
        };
        fields.finish();
        request
    });
    request.filter(|_| faults.is_empty()).ok_or(faults)
}

/// The body that says where alerts go.
pub(crate) fn alert_target(body: Value) -> Result<AlertTargetRequest, Faults> {
    let mut faults = Faults::default();
    let request = Fields::open("", body, &mut faults).map(|mut fields| {
        let url = fields.text("url");
        if url.is_none() {
            fields.missing("url");
        }
        let request = AlertTargetRequest {
            url: url.unwrap_or_default(),
            format: fields.word("format"),
            secret: fields.text("secret"),
            interval_ms: fields.number("interval_ms", 0, TARGET_INTERVAL_MS_MAX),
        };
        if request.secret.as_ref().is_some_and(|secret| AlertSecret::parse(secret).is_none()) {
            fields.fault("secret", "must have 16 to 128 bytes and no control characters");
        }
        fields.finish();
        request
    });
    request.filter(|_| faults.is_empty()).ok_or(faults)
}

/// The body that says how much a tenant may have.
pub(crate) fn quota(body: Value) -> Result<QuotaLimits, Faults> {
    let mut faults = Faults::default();
    let limits = Fields::open("", body, &mut faults).map(|mut fields| {
        let mut number = |member, min, max| fields.number(member, min, max).map(u64::from);
        let registrations = number("registrations", 0, u32::MAX);
        let watchers = number("watchers", 0, u32::MAX);
        let requests_per_second = number("requests_per_second", 1, REQUESTS_PER_SECOND_MAX);
        let limits = QuotaLimits { registrations, bytes: fields.whole("bytes"), watchers, requests_per_second };
        if limits == QuotaLimits::default() && fields.faults.is_empty() {
            fields.fault("", "must name a limit; DELETE takes all of them back");
        }
        fields.finish();
        limits
    });
    limits.filter(|_| faults.is_empty()).ok_or(faults)
}

/// More than a node answers.
const REQUESTS_PER_SECOND_MAX: u32 = 1_000_000;

fn weights_of(mut fields: Fields<'_>) -> RankWeights {
    let mut weight = |member| stepped(&mut fields, member, 1, 1_000).flatten().unwrap_or(0.0);
    let weights = RankWeights {
        capability: weight("capability"),
        health: weight("health"),
        proximity: weight("proximity"),
        trust: weight("trust"),
    };
    fields.finish();
    weights
}

/// A number from 0 to `max` that is a whole number of `steps` to one. None if nothing is said, none within if it is faulty.
fn stepped(fields: &mut Fields<'_>, member: &str, max: u32, steps: u32) -> Option<Option<f64>> {
    let value = fields.take(member)?;
    let number = value.as_f64().filter(|number| is_stepped(*number, max, steps));
    if number.is_none() {
        fields.fault(member, stepped_rule(max, steps));
    }
    Some(number)
}

/// Whether a number is from 0 to `max` and, but for what decimals cost, a whole number of steps.
pub(crate) fn is_stepped(number: f64, max: u32, steps: u32) -> bool {
    let scaled = number * f64::from(steps);
    (0.0..=f64::from(max)).contains(&number) && (scaled - scaled.round()).abs() < 1e-6
}

pub(crate) fn stepped_rule(max: u32, steps: u32) -> String {
    format!("must be a number from 0 to {max} with at most {} decimals", steps.ilog10())
}

impl Fields<'_> {
    fn missing(&mut self, member: &str) {
        self.fault(member, REQUIRED);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn fields(result: Result<impl Sized, Faults>) -> Vec<String> {
        result.map(drop).unwrap_err().into_vec().into_iter().map(|fault| fault.field).collect()
    }

    #[test]
    fn numbers_have_bounds_and_steps() {
        for good in [json!(0), json!(10), json!(6.5), json!(9.99)] {
            assert!(trust(json!({ "trust": good })).is_ok(), "{good}");
        }
        for bad in [json!(-1), json!(10.01), json!(1.001), json!("5"), json!(1e300)] {
            assert_eq!(fields(trust(json!({ "trust": bad }))), ["trust"], "{bad}");
        }
        assert_eq!(fields(trust(json!({"x": 1}))), ["trust", "x"]);
    }

    #[test]
    fn weights_that_are_left_out_count_nothing() {
        let weights = ranking(json!({"weights": {"proximity": 1, "trust": 0.125}})).unwrap().weights;
        assert_eq!(weights, RankWeights { proximity: 1.0, trust: 0.125, ..RankWeights::default() });
        assert_eq!(fields(ranking(json!({}))), ["weights"]);
        assert_eq!(
            fields(ranking(json!({"weights": {"health": 2, "speed": 1}}))),
            ["weights.health", "weights.speed"]
        );
    }

    #[test]
    fn a_quota_names_limits() {
        let limits = quota(json!({"registrations": 0, "bytes": u64::MAX, "requests_per_second": 1})).unwrap();
        let expected = QuotaLimits {
            registrations: Some(0),
            bytes: Some(u64::MAX),
            watchers: None,
            requests_per_second: Some(1),
        };
        assert_eq!(limits, expected);
        assert_eq!(fields(quota(json!({}))), [""]);
        assert_eq!(fields(quota(json!({"watchers": null}))), [""]);
        let bad = json!({"registrations": -1, "bytes": 1.5, "watchers": "1", "requests_per_second": 0, "x": 1});
        assert_eq!(fields(quota(bad)), ["registrations", "watchers", "requests_per_second", "bytes", "x"]);
    }

    #[test]
    fn protection_is_within_bounds() {
        assert_eq!(protection(json!({"share": 0.3})).unwrap().share, 0.3);
        let whole = json!({"share": 0.001, "window_ms": 1000, "release_per_minute": 6000, "leases_min": 1});
        assert!(protection(whole).is_ok());
        assert_eq!(fields(protection(json!({}))), ["share"]);
        for share in [json!(0), json!(1), json!(0.0005), json!("x")] {
            assert_eq!(fields(protection(json!({ "share": share }))), ["share"], "{share}");
        }
        let bad = json!({"share": 0.3, "window_ms": 999, "release_per_minute": 0, "leases_min": 0, "x": 1});
        assert_eq!(fields(protection(bad)), ["window_ms", "release_per_minute", "leases_min", "x"]);
    }

    #[test]
    fn a_target_has_an_address_and_a_secret_that_is_worth_the_name() {
        let whole =
            json!({"url": "http://a", "format": "alertmanager", "secret": "0123456789abcdef", "interval_ms": 0});
        assert!(alert_target(whole).is_ok() && alert_target(json!({"url": "http://a"})).is_ok());
        assert_eq!(fields(alert_target(json!({}))), ["url"]);
        let bad = json!({"url": 1, "format": "xml", "secret": "short", "interval_ms": 86_400_001, "x": 1});
        assert_eq!(fields(alert_target(bad)), ["url", "url", "format", "interval_ms", "secret", "x"]);
    }

    #[test]
    fn a_reason_is_short() {
        assert_eq!(order(json!({})).unwrap(), OrderRequest::default());
        assert!(order(json!({"reason": "new disk"})).is_ok());
        assert_eq!(fields(order(json!({"reason": "x".repeat(257)}))), ["reason"]);
        assert_eq!(fields(order(json!({"reason": "", "y": 1}))), ["reason", "y"]);
    }
}
