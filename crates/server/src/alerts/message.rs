//! What is sent: alerts as JSON, in our own form or in that of Alertmanager's API, and its signature.

use aws_lc_rs::hmac;
use rollcall_api::{AlertInfo, AlertKind, AlertsMessage};
use rollcall_registry::{AlertForm, Revision, TenantId, WallTime};
use serde_json::{Value, json};

use super::tracker::{Alert, Condition};
use crate::render::rfc3339;
use crate::translate;

/// Alertmanager takes an alert for over when it hears no more of it, unless it is told when it ends. Once a day somebody
/// should have looked.
const FIRING_MS: u64 = 86_400_000;

/// What says that something happened and cannot be over.
const ONCE_MS: u64 = 3_600_000;

/// Something to be told to one target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Notice {
    Instance(Alert),
    /// Protection from a mass expiry begins.
    Held {
        begun: u64,
        at: WallTime,
        suspects: usize,
    },
    /// It is over.
    Released {
        begun: u64,
        at: WallTime,
    },
    /// Changes that nobody can tell any more: the history does not reach back to them.
    Lost {
        from: Revision,
        to: Revision,
        at: WallTime,
    },
    /// An operator wants to see whether anything comes.
    Test {
        at: WallTime,
    },
}

impl Notice {
    /// As whoever takes it knows that it has it already.
    fn id(&self, epoch: u64) -> String {
        match self {
            Self::Instance(alert) => format!("{epoch}-r{}-{}", alert.revision, kind(alert.now).as_str()),
            Self::Held { begun, .. } => format!("{epoch}-p{begun}-protection_begun"),
            Self::Released { begun, .. } => format!("{epoch}-p{begun}-protection_ended"),
            Self::Lost { to, .. } => format!("{epoch}-r{to}-alerts_lost"),
            Self::Test { at } => format!("{epoch}-t{at}-test"),
        }
    }

    pub(super) fn kind(&self) -> AlertKind {
        match self {
            Self::Instance(alert) => kind(alert.now),
            Self::Held { .. } => AlertKind::ProtectionBegun,
            Self::Released { .. } => AlertKind::ProtectionEnded,
            Self::Lost { .. } => AlertKind::AlertsLost,
            Self::Test { .. } => AlertKind::Test,
        }
    }

    fn at(&self) -> WallTime {
        match self {
            Self::Instance(alert) => alert.wall,
            Self::Held { at, .. } | Self::Released { at, .. } | Self::Lost { at, .. } | Self::Test { at } => *at,
        }
    }

    /// For people, in one line.
    pub(super) fn summary(&self) -> String {
        match self {
            Self::Instance(alert) => {
                let registration = alert.instance.registration();
                let what = match alert.now {
                    Condition::Fine => "has recovered",
                    Condition::Degraded => "is degraded",
                    Condition::Error => "is in error",
                    Condition::Offline => "is offline",
                    Condition::Expired => "fell silent and was struck off",
                    Condition::Removed => "was taken off the roll",
                };
                format!("{} of {} {what}", registration.id, registration.name)
            }
            Self::Held { suspects, .. } => {
                format!("too many leases run out at once and are held, {suspects} instances so far")
            }
            Self::Released { .. } => "protection from a mass expiry is over".to_owned(),
            Self::Lost { from, to, .. } => {
                format!("what changed after revision {from} and up to {to} is no longer known and was not told")
            }
            Self::Test { .. } => "a test, as an operator asked for".to_owned(),
        }
    }

    fn info(&self, tenant: &TenantId, epoch: u64) -> AlertInfo {
        let instance = match self {
            Self::Instance(alert) => Some(alert),
            _ => None,
        };
        let text = |text: &str| text.to_owned();
        AlertInfo {
            id: self.id(epoch),
            kind: self.kind(),
            tenant: text(tenant.as_str()),
            at: rfc3339(self.at()),
            summary: self.summary(),
            service_id: instance.map(|alert| text(alert.instance.id())),
            service_name: instance.map(|alert| text(alert.instance.registration().name)),
            url: instance.map(|alert| text(alert.instance.registration().url)),
            status: instance.map(|alert| match alert.now {
                Condition::Expired | Condition::Removed => rollcall_api::Status::Offline,
                _ => translate::status_out(alert.instance.status()),
            }),
            previous: instance.map(|alert| kind(alert.before)),
            revision: instance.map(|alert| alert.revision.0),
        }
    }

    /// One alert that ends, one that begins, or both: an alert of Alertmanager's is known by its labels.
    fn labelled(&self, tenant: &TenantId) -> Vec<Value> {
        let at = self.at();
        let tenant = tenant.as_str();
        let one = |labels: Value, ends: WallTime| {
            let annotations = json!({"summary": self.summary()});
            json!({"labels": labels, "annotations": annotations, "startsAt": rfc3339(at), "endsAt": rfc3339(ends)})
        };
        let after = |ms: u64| WallTime(at.0.saturating_add(ms));
        match self {
            Self::Instance(alert) => {
                let registration = alert.instance.registration();
                let each = [(alert.before, at), (alert.now, after(FIRING_MS))];
                let spoken = each.into_iter().filter_map(|(condition, ends)| Some((label(condition)?, ends)));
                spoken
                    .map(|((name, severity), ends)| {
                        let labels = json!({"alertname": name, "severity": severity, "tenant": tenant,
                            "service": registration.name, "instance": registration.id});
                        one(labels, ends)
                    })
                    .collect()
            }
            Self::Held { .. } | Self::Released { .. } => {
                let ends = if matches!(self, Self::Held { .. }) { after(FIRING_MS) } else { at };
                let labels = json!({"alertname": "RollcallProtection", "severity": "critical", "tenant": tenant});
                vec![one(labels, ends)]
            }
            Self::Lost { .. } => {
                let labels = json!({"alertname": "RollcallAlertsLost", "severity": "warning", "tenant": tenant});
                vec![one(labels, after(ONCE_MS))]
            }
            Self::Test { .. } => {
                let labels = json!({"alertname": "RollcallTest", "severity": "none", "tenant": tenant});
                vec![one(labels, after(ONCE_MS))]
            }
        }
    }
}

pub(super) fn kind(condition: Condition) -> AlertKind {
    match condition {
        Condition::Fine => AlertKind::Recovered,
        Condition::Degraded => AlertKind::Degraded,
        Condition::Error => AlertKind::Error,
        Condition::Offline => AlertKind::Offline,
        Condition::Expired => AlertKind::Expired,
        Condition::Removed => AlertKind::Removed,
    }
}

/// Its name and severity in Alertmanager; none of what is no trouble.
fn label(condition: Condition) -> Option<(&'static str, &'static str)> {
    match condition {
        Condition::Fine | Condition::Removed => None,
        Condition::Degraded => Some(("RollcallDegraded", "warning")),
        Condition::Error => Some(("RollcallError", "critical")),
        Condition::Offline => Some(("RollcallOffline", "critical")),
        Condition::Expired => Some(("RollcallExpired", "critical")),
    }
}

/// The body of one request.
pub(crate) fn body<'a>(
    form: AlertForm,
    tenant: &TenantId,
    epoch: u64,
    notices: impl Iterator<Item = &'a Notice>,
) -> Vec<u8> {
    let body = match form {
        AlertForm::Json => {
            let alerts = notices.map(|notice| notice.info(tenant, epoch)).collect();
            serde_json::to_vec(&AlertsMessage { alerts })
        }
        AlertForm::Alertmanager => {
            let alerts: Vec<_> = notices.flat_map(|notice| notice.labelled(tenant)).collect();
            serde_json::to_vec(&alerts)
        }
    };
    body.expect("alerts have no failing serializer")
}

/// HMAC-SHA256 over the time in the header, a dot, and the body, in hexadecimal with what says so before it.
pub(crate) fn signature(secret: &str, timestamp: u64, body: &[u8]) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
    let mut context = hmac::Context::with_key(&key);
    context.update(timestamp.to_string().as_bytes());
    context.update(b".");
    context.update(body);
    let tag = context.sign();
    let hexadecimal: String = tag.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("v1={hexadecimal}")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rollcall_registry::{Instance, InstanceId, LeaseId, Presence, Registration, Seldom, ServiceName, Status};

    use super::*;

    fn tenant() -> TenantId {
        TenantId::parse("shop").unwrap()
    }

    fn notice(before: Condition, now: Condition) -> Notice {
        let (id, name) = (InstanceId::parse("ocr-1").unwrap(), ServiceName::parse("ocr").unwrap());
        let instance = Instance {
            tenant: tenant(),
            registration: Registration::new(id, name, "http://10.0.0.7", 1_000).pack(),
            seldom: Seldom::default(),
            reported_status: Status::Error,
            presence: Presence::Present,
            lease: LeaseId(1),
            revision: Revision(7),
            created_revision: Revision(1),
            registered_at: WallTime(0),
        };
        let (revision, wall, instance) = (Revision(7), WallTime(1_000), Arc::new(instance));
        Notice::Instance(Alert { before, now, revision, wall, instance })
    }

    fn parsed(form: AlertForm, notices: &[Notice]) -> Value {
        serde_json::from_slice(&body(form, &tenant(), 3, notices.iter())).unwrap()
    }

    #[test]
    fn an_alert_says_what_happened() {
        let told = parsed(AlertForm::Json, &[notice(Condition::Degraded, Condition::Error)]);
        let expected = json!({"alerts": [{
            "id": "3-r7-error", "kind": "error", "tenant": "shop", "at": "1970-01-01T00:00:01.000Z",
            "summary": "ocr-1 of ocr is in error", "service_id": "ocr-1", "service_name": "ocr",
            "url": "http://10.0.0.7", "status": "error", "previous": "degraded", "revision": 7,
        }]});
        assert_eq!(told, expected);
        let held = parsed(AlertForm::Json, &[Notice::Held { begun: 2, at: WallTime(0), suspects: 5 }]);
        assert_eq!(
            (&held["alerts"][0]["kind"], held["alerts"][0].get("service_id")),
            (&json!("protection_begun"), None)
        );
    }

    #[test]
    fn alertmanager_is_told_what_ends_and_what_begins() {
        let brief = |notices: &[Notice]| {
            let told = parsed(AlertForm::Alertmanager, notices);
            let each = told.as_array().unwrap().iter().map(|alert| {
                let ends = if alert["endsAt"] == alert["startsAt"] { "ends" } else { "begins" };
                format!("{} {ends}", alert["labels"]["alertname"].as_str().unwrap())
            });
            each.collect::<Vec<_>>()
        };
        assert_eq!(brief(&[notice(Condition::Fine, Condition::Degraded)]), ["RollcallDegraded begins"]);
        let worse = notice(Condition::Degraded, Condition::Error);
        assert_eq!(brief(&[worse]), ["RollcallDegraded ends", "RollcallError begins"]);
        let better = [notice(Condition::Expired, Condition::Fine), notice(Condition::Error, Condition::Removed)];
        assert_eq!(brief(&better), ["RollcallExpired ends", "RollcallError ends"]);
        let protection =
            [Notice::Held { begun: 1, at: WallTime(0), suspects: 5 }, Notice::Released { begun: 1, at: WallTime(9) }];
        assert_eq!(brief(&protection), ["RollcallProtection begins", "RollcallProtection ends"]);
        let told = parsed(AlertForm::Alertmanager, &[notice(Condition::Fine, Condition::Error)]);
        let expected = json!([{
            "labels": {"alertname": "RollcallError", "severity": "critical", "tenant": "shop", "service": "ocr",
                "instance": "ocr-1"},
            "annotations": {"summary": "ocr-1 of ocr is in error"},
            "startsAt": "1970-01-01T00:00:01.000Z", "endsAt": "1970-01-02T00:00:01.000Z",
        }]);
        assert_eq!(told, expected);
    }

    #[test]
    fn a_signature_is_one_that_others_work_out_too() {
        // By `printf '1700000000.{"alerts":[]}' | openssl dgst -sha256 -hmac 'a secret of some length'`.
        let expected = "v1=6b487ae793ffcec8455b540d7bb5c064ae9305857b16b9a26657971848a98725";
        assert_eq!(signature("a secret of some length", 1_700_000_000, br#"{"alerts":[]}"#), expected);
    }
}
