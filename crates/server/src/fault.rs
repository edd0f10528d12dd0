//! Collecting every fault of a request while it is walked, so that the sender mends all of them at once.

use rollcall_api::Fault;
use serde_json::{Map, Value};

/// Most faults that are named one by one: a hostile body could hold one per few bytes.
const FAULTS_MAX: usize = 100;

/// The faults found so far.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    named: Vec<Fault>,
    unnamed: usize,
}

impl Faults {
    pub(crate) fn push(&mut self, field: impl Into<String>, message: impl Into<String>) {
        if self.named.len() == FAULTS_MAX {
            self.unnamed += 1;
            return;
        }
        self.named.push(Fault { field: field.into(), message: message.into() });
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.named.is_empty()
    }

    pub(crate) fn into_vec(self) -> Vec<Fault> {
        let mut named = self.named;
        if self.unnamed > 0 {
            named.push(Fault { field: String::new(), message: format!("and {} more", self.unnamed) });
        }
        named
    }
}

/// A JSON object that is taken apart member by member; what is left at the end is unknown. `null` counts as absent.
pub(crate) struct Fields<'f> {
    path: String,
    members: Map<String, Value>,
    pub(crate) faults: &'f mut Faults,
}

impl<'f> Fields<'f> {
    /// An object at `path` (empty for the whole body).
    pub(crate) fn open(path: impl Into<String>, value: Value, faults: &'f mut Faults) -> Option<Self> {
        let path = path.into();
        match value {
            Value::Object(members) => Some(Self { path, members, faults }),
            other => {
                faults.push(path, format!("must be an object, is {}", kind_of(&other)));
                None
            }
        }
    }

    pub(crate) fn path(&self, member: &str) -> String {
        if self.path.is_empty() { member.to_owned() } else { format!("{}.{member}", self.path) }
    }

    pub(crate) fn fault(&mut self, member: &str, message: impl Into<String>) {
        let path = self.path(member);
        self.faults.push(path, message);
    }

    fn wrong_type(&mut self, member: &str, wanted: &str, value: &Value) {
        self.fault(member, format!("must be {wanted}, is {}", kind_of(value)));
    }

    pub(crate) fn take(&mut self, member: &str) -> Option<Value> {
        self.take_nullable(member).filter(|value| !value.is_null())
    }

    /// As [`Self::take`], where null is not the same as nothing.
    pub(crate) fn take_nullable(&mut self, member: &str) -> Option<Value> {
        self.members.shift_remove(member)
    }

    /// Any text.
    pub(crate) fn text(&mut self, member: &str) -> Option<String> {
        match self.take(member)? {
            Value::String(text) => Some(text),
            other => {
                self.wrong_type(member, "a string", &other);
                None
            }
        }
    }

    /// Text that `check` accepts.
    pub(crate) fn checked<E: std::fmt::Display>(
        &mut self,
        member: &str,
        check: impl FnOnce(&str) -> Result<(), E>,
    ) -> Option<String> {
        let text = self.text(member)?;
        match check(&text) {
            Ok(()) => Some(text),
            Err(error) => {
                self.fault(member, error.to_string());
                None
            }
        }
    }

    /// One of an enum's words.
    pub(crate) fn word<T: std::str::FromStr<Err: std::fmt::Display>>(&mut self, member: &str) -> Option<T> {
        let text = self.text(member)?;
        match text.parse() {
            Ok(word) => Some(word),
            Err(error) => {
                self.fault(member, error.to_string());
                None
            }
        }
    }

    pub(crate) fn boolean(&mut self, member: &str) -> Option<bool> {
        match self.take(member)? {
            Value::Bool(value) => Some(value),
            other => {
                self.wrong_type(member, "true or false", &other);
                None
            }
        }
    }

    /// A whole number from `min` to `max`.
    pub(crate) fn number(&mut self, member: &str, min: u32, max: u32) -> Option<u32> {
        let value = self.take(member)?;
        let number = value.as_u64().and_then(|n| u32::try_from(n).ok()).filter(|n| (min..=max).contains(n));
        match (number, &value) {
            (Some(number), _) => Some(number),
            (None, Value::Number(_)) => {
                self.fault(member, format!("must be a whole number from {min} to {max}"));
                None
            }
            (None, other) => {
                self.wrong_type(member, "a number", other);
                None
            }
        }
    }

    /// A lease id.
    pub(crate) fn lease(&mut self, member: &str) -> Option<u64> {
        self.whole_or(member, LEASE_WANTED)
    }

    /// Any whole number.
    pub(crate) fn whole(&mut self, member: &str) -> Option<u64> {
        self.whole_or(member, "must be a whole number from 0 to 18446744073709551615")
    }

    fn whole_or(&mut self, member: &str, wanted: &str) -> Option<u64> {
        let number = self.take(member)?.as_u64();
        if number.is_none() {
            self.fault(member, wanted);
        }
        number
    }

    pub(crate) fn object(&mut self, member: &str) -> Option<Map<String, Value>> {
        match self.take(member)? {
            Value::Object(members) => Some(members),
            other => {
                self.wrong_type(member, "an object", &other);
                None
            }
        }
    }

    pub(crate) fn list(&mut self, member: &str, count_max: usize) -> Option<Vec<Value>> {
        match self.take(member)? {
            Value::Array(items) if items.len() <= count_max => Some(items),
            Value::Array(items) => {
                self.fault(member, format!("has {} entries, at most {count_max} are allowed", items.len()));
                None
            }
            other => {
                self.wrong_type(member, "a list", &other);
                None
            }
        }
    }

    /// A list of texts that `check` accepts.
    pub(crate) fn texts<E: std::fmt::Display>(
        &mut self,
        member: &str,
        count_max: usize,
        check: impl Fn(&str) -> Result<(), E>,
    ) -> Option<Vec<String>> {
        let items = self.list(member, count_max)?;
        let mut texts = Vec::with_capacity(items.len());
        for (n, item) in items.into_iter().enumerate() {
            match item {
                Value::String(text) => match check(&text) {
                    Ok(()) => texts.push(text),
                    Err(error) => self.fault(&format!("{member}[{n}]"), error.to_string()),
                },
                other => self.wrong_type(&format!("{member}[{n}]"), "a string", &other),
            }
        }
        Some(texts)
    }

    /// Another object inside this one.
    pub(crate) fn open_member(&mut self, member: &str) -> Option<Fields<'_>> {
        let value = self.take(member)?;
        Fields::open(self.path(member), value, self.faults)
    }

    /// Names what was not taken.
    pub(crate) fn finish(self) {
        for member in self.members.keys() {
            let path = if self.path.is_empty() { member.clone() } else { format!("{}.{member}", self.path) };
            self.faults.push(path, "unknown field");
        }
    }
}

pub(crate) const LEASE_WANTED: &str = "must be a lease id: a whole number from 0 to 18446744073709551615";

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}
