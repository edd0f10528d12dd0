//! Bodies taken apart, with faults in the shape that Pydantic gives them: `{"type", "loc", "msg", "input"}`.
//!
//! Members are taken by their camelCase name or, where that is missing, by their snake_case one; unknown ones are passed
//! over, because newer SDKs may send more.

use axum::http::StatusCode;
use rollcall_registry::ids::{NAME_BYTES_MAX, NameError, check_name};
use serde_json::{Map, Value, json};

use crate::reply::Failure;

/// Most faults that are named: a hostile body could hold one per few bytes.
const FAULTS_MAX: usize = 100;

/// Longest input that is shown with its fault, as JSON.
const INPUT_BYTES_MAX: usize = 1_024;

#[derive(Debug, Default)]
pub(super) struct Faults(Vec<Value>);

impl Faults {
    pub(super) fn push(&mut self, kind: &str, place: &[Value], message: &str, input: &Value) {
        if self.0.len() < FAULTS_MAX {
            let input = Some(input).filter(|input| input.to_string().len() <= INPUT_BYTES_MAX);
            self.0.push(json!({ "type": kind, "loc": place, "msg": message, "input": input }));
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn into_failure(self) -> Failure {
        let text = |fault: &Value| format!("{} {}", fault["loc"], fault["msg"].as_str().unwrap_or_default());
        let detail = self.0.iter().map(text).collect::<Vec<_>>().join("; ");
        let failure = Failure::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid_request", detail);
        failure.said(&json!({ "detail": self.0 }))
    }
}

/// An object, and where it stands.
pub(super) struct Fields<'f> {
    place: Vec<Value>,
    value: Value,
    faults: &'f mut Faults,
}

impl<'f> Fields<'f> {
    pub(super) fn open(place: Vec<Value>, value: Value, faults: &'f mut Faults) -> Option<Self> {
        if value.is_object() {
            return Some(Self { place, value, faults });
        }
        let message = "Input should be a valid dictionary or object to extract fields from";
        faults.push("model_attributes_type", &place, message, &value);
        None
    }

    fn members(&mut self) -> &mut Map<String, Value> {
        self.value.as_object_mut().expect("it was opened as an object")
    }

    pub(super) fn place(&self, member: &str) -> Vec<Value> {
        let mut place = self.place.clone();
        place.push(member.into());
        place
    }

    /// By either name.
    pub(super) fn take(&mut self, member: &str) -> Option<Value> {
        let snake = snake_case(member);
        let members = self.members();
        members.shift_remove(member).or_else(|| members.shift_remove(&snake))
    }

    /// One that is there, be it null.
    pub(super) fn required(&mut self, member: &str) -> Option<Value> {
        let taken = self.take(member);
        if taken.is_none() {
            let place = self.place(member);
            self.faults.push("missing", &place, "Field required", &self.value);
        }
        taken
    }

    fn fault(&mut self, member: &str, kind: &str, message: &str, value: &Value) {
        let place = self.place(member);
        self.faults.push(kind, &place, message, value);
    }

    pub(super) fn text(&mut self, member: &str) -> Option<String> {
        let value = self.required(member)?;
        self.as_text(member, value)
    }

    fn as_text(&mut self, member: &str, value: Value) -> Option<String> {
        match value {
            Value::String(text) => Some(text),
            other => {
                self.fault(member, "string_type", "Input should be a valid string", &other);
                None
            }
        }
    }

    pub(super) fn optional_text(&mut self, member: &str) -> Option<String> {
        let value = self.take(member).filter(|value| !value.is_null())?;
        self.as_text(member, value)
    }

    /// A text that the model takes as a name.
    pub(super) fn name(&mut self, member: &str) -> Option<String> {
        self.checked(member, |text| check_name(text, NAME_BYTES_MAX))
    }

    pub(super) fn optional_name(&mut self, member: &str) -> Option<String> {
        let text = self.optional_text(member)?;
        self.check(member, text, |text| check_name(text, NAME_BYTES_MAX))
    }

    pub(super) fn checked(
        &mut self,
        member: &str,
        check: impl FnOnce(&str) -> Result<(), NameError>,
    ) -> Option<String> {
        let text = self.text(member)?;
        self.check(member, text, check)
    }

    fn check(
        &mut self,
        member: &str,
        text: String,
        check: impl FnOnce(&str) -> Result<(), NameError>,
    ) -> Option<String> {
        match check(&text) {
            Ok(()) => Some(text),
            Err(error) => {
                let kind = match error {
                    NameError::Empty => "string_too_short",
                    NameError::TooLong { .. } => "string_too_long",
                    NameError::ControlCharacter | NameError::Reserved { .. } | NameError::NotPlain => "value_error",
                };
                self.fault(member, kind, &format!("String {error}"), &text.into());
                None
            }
        }
    }

    /// An object without further form.
    pub(super) fn object(&mut self, member: &str) -> Option<Map<String, Value>> {
        let value = self.required(member)?;
        self.as_object(member, value)
    }

    pub(super) fn optional_object(&mut self, member: &str) -> Option<Map<String, Value>> {
        let value = self.take(member).filter(|value| !value.is_null())?;
        self.as_object(member, value)
    }

    fn as_object(&mut self, member: &str, value: Value) -> Option<Map<String, Value>> {
        match value {
            Value::Object(object) => Some(object),
            other => {
                self.fault(member, "dict_type", "Input should be a valid dictionary", &other);
                None
            }
        }
    }

    /// Each of a list that must be there, taken apart by `each`.
    pub(super) fn list<T>(
        &mut self,
        member: &str,
        count_max: usize,
        each: impl Fn(Vec<Value>, Value, &mut Faults) -> Option<T>,
    ) -> Option<Vec<T>> {
        let value = self.required(member)?;
        self.as_list(member, value, count_max, each)
    }

    /// As [`Self::list`], of one that may be null or missing.
    pub(super) fn optional_list<T>(
        &mut self,
        member: &str,
        count_max: usize,
        each: impl Fn(Vec<Value>, Value, &mut Faults) -> Option<T>,
    ) -> Option<Vec<T>> {
        let value = self.take(member).filter(|value| !value.is_null())?;
        self.as_list(member, value, count_max, each)
    }

    fn as_list<T>(
        &mut self,
        member: &str,
        value: Value,
        count_max: usize,
        each: impl Fn(Vec<Value>, Value, &mut Faults) -> Option<T>,
    ) -> Option<Vec<T>> {
        let Value::Array(items) = value else {
            self.fault(member, "list_type", "Input should be a valid list", &value);
            return None;
        };
        if items.len() > count_max {
            let message = format!("List should have at most {count_max} items, not {}", items.len());
            self.fault(member, "too_long", &message, &Value::Null);
            return None;
        }
        let place = self.place(member);
        let each = |(n, item): (usize, Value)| {
            let mut place = place.clone();
            place.push(n.into());
            each(place, item, self.faults)
        };
        Some(items.into_iter().enumerate().filter_map(each).collect())
    }

    /// Another object in this one, which must be there.
    pub(super) fn open_member(&mut self, member: &str) -> Option<Fields<'_>> {
        let value = self.required(member)?;
        Fields::open(self.place(member), value, self.faults)
    }
}

/// A name in a list.
pub(super) fn name(place: Vec<Value>, value: Value, faults: &mut Faults) -> Option<String> {
    match value {
        Value::String(text) => match check_name(&text, NAME_BYTES_MAX) {
            Ok(()) => Some(text),
            Err(error) => {
                faults.push("value_error", &place, &format!("String {error}"), &text.into());
                None
            }
        },
        other => {
            faults.push("string_type", &place, "Input should be a valid string", &other);
            None
        }
    }
}

fn snake_case(camel: &str) -> String {
    let mut snake = String::with_capacity(camel.len() + 4);
    for c in camel.chars() {
        if c.is_ascii_uppercase() {
            snake.push('_');
        }
        snake.push(c.to_ascii_lowercase());
    }
    snake
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_found_by_either_name() {
        let mut faults = Faults::default();
        let value = json!({ "agent_id": "a", "taskName": "t", "task_name": "u" });
        let mut fields = Fields::open(vec!["body".into()], value, &mut faults).unwrap();
        assert_eq!(fields.text("agentId").as_deref(), Some("a"));
        assert_eq!(fields.text("taskName").as_deref(), Some("t"), "the alias wins");
    }

    #[test]
    fn faults_say_where_and_what() {
        let mut faults = Faults::default();
        assert!(Fields::open(vec!["body".into()], json!({}), &mut faults).unwrap().open_member("agent").is_none());
        let fault = json!({ "type": "missing", "loc": ["body", "agent"], "msg": "Field required", "input": {} });
        assert_eq!(faults.0, [fault]);
    }

    #[test]
    fn a_large_input_is_not_repeated() {
        let mut faults = Faults::default();
        let large = json!({ "x": "y".repeat(INPUT_BYTES_MAX) });
        Fields::open(vec![], large, &mut faults).unwrap().text("name");
        assert_eq!(faults.0[0]["input"], Value::Null);
    }
}
