//! What a discovery asks for. Names and tags are looked up in the index; what the model has no index for is held against
//! each card that is left.

use axum::extract::Query as UrlQuery;
use axum::http::Uri;
use rollcall_registry::ids::{NAME_BYTES_MAX, check_name};
use rollcall_registry::selector::{Requirement, Selector};
use rollcall_registry::{Filter, Instance};

use super::card::{SETTINGS, Setting};
use super::shown::{Shown, key};
use crate::faces::AVAILABLE;
use crate::reply::Failure;

/// Most parameters of one question.
const PARAMETERS_MAX: usize = 256;

/// The role that every card has: it is never sent, and what is not sent is this.
const ROLE: &str = "worker";

/// A field that is compared with a text, exactly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Field {
    Description,
    Url,
    Transport,
    Version,
    ProtocolVersion,
    Setting(&'static str, Setting),
}

/// No field of a card is called so.
const FEDERATED: &str = "include_federated";

/// All of it must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) filter: Filter,
    /// Other clusters' agents too.
    pub(super) is_federated: bool,
    exact: Vec<(Field, String)>,
}

impl Wanted {
    /// None if no card can be what is asked for.
    pub(super) fn of(uri: &Uri) -> Result<Option<Self>, Failure> {
        let UrlQuery(parameters) = UrlQuery::<Vec<(String, String)>>::try_from_uri(uri)
            .map_err(|error| Failure::fault("", format!("the query does not parse: {error}")))?;
        if parameters.len() > PARAMETERS_MAX {
            let count = parameters.len();
            let detail = format!("has {count} parameters, at most {PARAMETERS_MAX} are allowed");
            return Err(Failure::fault("query", detail));
        }
        let mut wanted = Self::default();
        wanted.filter.statuses.extend(AVAILABLE);
        for (name, value) in parameters {
            if name == FEDERATED {
                wanted.is_federated = match value.as_str() {
                    "true" => true,
                    "false" => false,
                    _ => return Err(Failure::fault(FEDERATED, "must be one of true, false")),
                };
                continue;
            }
            if !wanted.add(&name, value) {
                return Ok(None);
            }
        }
        wanted.filter.tags.sort();
        wanted.filter.tags.dedup();
        Ok(Some(wanted))
    }

    /// Whether there can be a card that fulfills it.
    fn add(&mut self, name: &str, value: String) -> bool {
        let field = match name {
            "tags" | "name" => {
                if check_name(&value, NAME_BYTES_MAX).is_err() {
                    return false;
                }
                let value = value.into_boxed_str();
                if name == "tags" {
                    self.filter.tags.push(value);
                } else if !self.filter.names.contains(&value) {
                    self.filter.names.push(value);
                }
                // A card has one name. To the model several would mean any of them.
                return self.filter.names.len() <= 1;
            }
            "role" => return value == ROLE,
            // The original takes what stands there for the whole filter and falls over it.
            "filter_by" => return true,
            "description" => Field::Description,
            "url" => Field::Url,
            "transport" => Field::Transport,
            "version" => Field::Version,
            "protocol_version" => Field::ProtocolVersion,
            _ => {
                let setting = name.strip_prefix("capabilities.");
                let Some((name, setting)) = SETTINGS.into_iter().find(|(name, _)| setting == Some(*name)) else {
                    return false;
                };
                if let (Setting::Switch(_), "true") = (setting, value.as_str()) {
                    return self.labelled(name);
                }
                Field::Setting(name, setting)
            }
        };
        self.exact.push((field, value));
        true
    }

    fn labelled(&mut self, setting: &str) -> bool {
        let requirement = Requirement::In { key: key::setting(setting).into(), values: Box::new(["true".into()]) };
        let before = std::mem::take(&mut self.filter.selector).0.into_iter();
        self.filter.selector = Selector(before.chain([requirement]).collect());
        true
    }

    /// Whether an instance that the filter found is what is asked for in all else too.
    pub(super) fn fits(&self, instance: &Instance) -> bool {
        let shown = Shown::of(instance);
        self.exact.iter().all(|(field, value)| match field {
            Field::Description => shown.description() == *value,
            Field::Url => shown.url() == *value,
            Field::Transport => shown.transport() == value,
            Field::Version => shown.version() == value,
            Field::ProtocolVersion => shown.protocol_version() == value,
            Field::Setting(name, setting) => is_spelled(shown.setting((*name, *setting)), value),
        })
    }
}

/// Whether a value is what a client writes into a query for it: `true`, `4`, and nothing for none.
fn is_spelled(setting: Setting, value: &str) -> bool {
    match setting {
        Setting::Switch(on) | Setting::Declared(Some(on)) => value == if on { "true" } else { "false" },
        Setting::Count(count) => value.parse() == Ok(count),
        Setting::Declared(None) => value.is_empty(),
    }
}
