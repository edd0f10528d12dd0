//! Who may see an instance: one rule, which queries, indexes and watches apply alike.
//!
//! Nothing crosses tenants, so that everybody in question is of the instance's tenant:
//!
//! | visibility   | seen by |
//! |--------------|---------|
//! | `public`     | all; other clusters are told of it too |
//! | `internal`   | all |
//! | `restricted` | its owner, whoever registered it, and whom its metadata names in `allowed_requesters` |
//! | `private`    | its owner, and whoever registered it |

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use crate::ids::PrincipalId;
use crate::instance::Instance;
use crate::metadata::MetadataValue;
use crate::registration::{RegistrationView, Visibility};

/// Where the metadata of a restricted registration names who may see it: a list of texts. It counts as it was registered;
/// a heartbeat changes nobody's rights.
pub const ALLOWED_REQUESTERS: &str = "allowed_requesters";

/// On whose behalf somebody looks.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Viewer {
    /// Whoever looks after the tenant, and everybody where requests carry no identity.
    #[default]
    All,
    /// One of the tenant.
    One {
        /// As owners and allowed requesters are named.
        name: Box<str>,
        /// As it is kept who registered what; none where it is not.
        principal: Option<PrincipalId>,
    },
}

impl Viewer {
    pub fn named(name: &str) -> Self {
        Self::One { name: name.into(), principal: None }
    }

    /// Whether the instance is shown to this viewer.
    pub fn sees(&self, instance: &Instance) -> bool {
        *self == Self::All || self.sees_registration(instance, &instance.registration())
    }

    /// As [`Self::sees`], of an instance whose registration is at hand.
    pub(crate) fn sees_registration(&self, instance: &Instance, registration: &RegistrationView<'_>) -> bool {
        match (self, registration.visibility) {
            (Self::All, _) | (_, Visibility::Public | Visibility::Internal) => true,
            (Self::One { name, principal }, visibility) => {
                registration.owner == Some(&**name)
                    || principal.as_ref().is_some_and(|own| registrant(instance, registration) == Some(own))
                    || visibility == Visibility::Restricted && allowed(registration).any(|one| one == in_json(name))
            }
        }
    }
}

/// Who registered an instance that is not shown to all.
pub(crate) fn registrant<'a>(instance: &'a Instance, registration: &RegistrationView<'_>) -> Option<&'a PrincipalId> {
    match registration.visibility {
        Visibility::Restricted | Visibility::Private => instance.seldom.registered_by(),
        Visibility::Public | Visibility::Internal => None,
    }
}

/// Whom a restricted registration names, each as JSON spells it between its quotes. Of all others nobody.
pub(crate) fn allowed<'a>(registration: &RegistrationView<'a>) -> impl Iterator<Item = &'a str> + use<'a> {
    let named = match registration.visibility {
        Visibility::Restricted => registration.metadata.get(ALLOWED_REQUESTERS),
        Visibility::Public | Visibility::Internal | Visibility::Private => None,
    };
    let list = match named {
        Some(MetadataValue::Json(json)) => json.strip_prefix('['),
        Some(MetadataValue::Text(_)) | None => None,
    };
    TextsOfList(list.unwrap_or_default())
}

/// A text as compact JSON spells it between its quotes. Names hold no control characters.
pub(crate) fn in_json(name: &str) -> Cow<'_, str> {
    if name.contains(['"', '\\']) { name.replace('\\', r"\\").replace('"', "\\\"").into() } else { name.into() }
}

/// The texts of a list in compact JSON, which an edge rendered; it ends where something else than a text stands.
struct TextsOfList<'a>(&'a str);

impl<'a> Iterator for TextsOfList<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        let text = self.0.strip_prefix('"')?;
        let mut escaped = false;
        let end = text.bytes().position(|byte| {
            let ends = byte == b'"' && !escaped;
            escaped = byte == b'\\' && !escaped;
            ends
        })?;
        let rest = &text[end + 1..];
        self.0 = rest.strip_prefix(',').unwrap_or_default();
        Some(&text[..end])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metadata::Metadata;
    use crate::registration::{Registration, Status};
    use crate::{InstanceId, LeaseId, Presence, Revision, Seldom, ServiceName, TenantId, WallTime};

    fn instance(
        visibility: Visibility,
        owner: Option<&str>,
        allowed: Option<MetadataValue<'_>>,
        registered_by: Option<&str>,
    ) -> Instance {
        let registration = Registration {
            visibility,
            owner: owner.map(Into::into),
            metadata: Metadata::new(allowed.map(|allowed| (ALLOWED_REQUESTERS, allowed))),
            ..Registration::new(InstanceId::parse("i").unwrap(), ServiceName::parse("s").unwrap(), "http://a", 1_000)
        };
        Instance {
            tenant: TenantId::parse("t").unwrap(),
            registration: registration.pack(),
            seldom: Seldom::new(None, Vec::new(), registered_by.map(|by| PrincipalId::parse(by).unwrap())),
            reported_status: Status::Active,
            presence: Presence::Present,
            lease: LeaseId(1),
            revision: Revision(1),
            created_revision: Revision(1),
            registered_at: WallTime(1),
        }
    }

    #[test]
    fn the_rule_as_a_table() {
        use Visibility::{Internal, Private, Public, Restricted};
        let list = Some(MetadataValue::Json(r#"["friend","a \"b\" \\ c"]"#));
        let (own, foreign, none) = (Some("me"), Some("other"), None);
        // Visibility, owner, allowed requesters, who registered it; then whether each is shown it: all, me, a friend, a
        // stranger, me by my token.
        let table = [
            (Public, foreign, None, none, [true, true, true, true, true]),
            (Internal, foreign, None, none, [true, true, true, true, true]),
            (Private, own, list, none, [true, true, false, false, false]),
            (Private, foreign, list, none, [true, false, false, false, false]),
            (Private, none, None, none, [true, false, false, false, false]),
            (Private, none, None, Some("token:1"), [true, false, false, false, true]),
            (Private, foreign, None, Some("token:1"), [true, false, false, false, true]),
            (Private, foreign, None, Some("token:2"), [true, false, false, false, false]),
            // Whoever registers something in my name is no reason to hide it from me.
            (Private, own, None, Some("token:2"), [true, true, false, false, false]),
            (Restricted, own, None, none, [true, true, false, false, false]),
            (Restricted, foreign, list, Some("token:1"), [true, false, true, false, true]),
            (Restricted, none, list, none, [true, false, true, false, false]),
            // What is no list of texts names nobody.
            (Restricted, own, Some(MetadataValue::Text("friend")), none, [true, true, false, false, false]),
            (Restricted, own, Some(MetadataValue::Json("[1,\"friend\"]")), none, [true, true, false, false, false]),
            (Restricted, own, Some(MetadataValue::Json(r#"{"friend":1}"#)), none, [true, true, false, false, false]),
        ];
        let token = PrincipalId::parse("token:1").unwrap();
        let viewers = [
            Viewer::All,
            Viewer::named("me"),
            Viewer::named("friend"),
            Viewer::named("x"),
            Viewer::One { name: token.as_str().into(), principal: Some(token) },
        ];
        for (visibility, owner, allowed, by, expected) in table {
            let instance = instance(visibility, owner, allowed, by);
            let seen = viewers.each_ref().map(|viewer| viewer.sees(&instance));
            assert_eq!(seen, expected, "{visibility} {owner:?} {allowed:?} {by:?}");
        }
    }

    #[test]
    fn names_are_compared_as_json_spells_them() {
        let list = Some(MetadataValue::Json(r#"["a \"b\" \\ c","\\","x"]"#));
        let instance = instance(Visibility::Restricted, None, list, None);
        for name in ["a \"b\" \\ c", "\\", "x"] {
            assert!(Viewer::named(name).sees(&instance), "{name}");
        }
        for name in ["a", "\"", "a \\\"b\\\" \\\\ c", "\",\"x", ""] {
            assert!(!Viewer::named(name).sees(&instance), "{name}");
        }
    }
}
