//! Payloads against schemas, by JSON Schema 2020-12 or the draft that the schema names.
//!
//! Schemas and payloads come from clients, and a validator recurses over both. So it runs on a thread of its own with a
//! stack that is deep enough for the largest that are let in, few run at once, and none is waited for for long. References
//! stay within the schema: nothing is fetched. Patterns are matched in linear time.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use jsonschema::{PatternOptions, Validator};
use quick_cache::Weighter;
use quick_cache::sync::Cache;
use rollcall_registry::{Definition, DefinitionContent};
use serde::Serialize;
use serde_json::Value;
use tokio::sync::{Semaphore, oneshot};

/// Payloads nested deeper are refused. With [`OBJECTS_MAX`] it bounds how deep a validator can recurse.
const PAYLOAD_DEPTH_MAX: usize = 32;

/// Schemas nested deeper are refused.
const SCHEMA_DEPTH_MAX: usize = 64;

/// Objects of a schema: each reference may lead through all others at every level of a payload.
const OBJECTS_MAX: usize = 2_000;

/// Four KiB for each step of the deepest recursion that these bounds allow. Only what is used takes memory.
const STACK_BYTES: usize = PAYLOAD_DEPTH_MAX * OBJECTS_MAX * (4 << 10);

/// Validations at once: they are the one kind of work whose length a client chooses, and the others need a processor too.
const VALIDATIONS_MAX: usize = 2;

/// Validations that wait for their turn.
const WAITING_MAX: usize = 256;

/// Nobody waits longer for one. The thread ends when it is done, and counts as long as that takes.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Violations that are named.
const VIOLATIONS_MAX: usize = 100;

/// Longest message: it may quote the payload.
const MESSAGE_BYTES_MAX: usize = 512;

/// A compiled pattern.
const PATTERN_BYTES_MAX: usize = 1 << 20;

/// Memory of compiled validators, which take some twenty times their schema's text.
const COMPILED_BYTES_MAX: u64 = 64 << 20;
const COMPILED_FACTOR: u64 = 20;

/// What of a payload is not as the schema says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Violation {
    /// JSON pointer into the payload.
    pub(crate) path: String,
    pub(crate) message: String,
    /// JSON pointer into the schema.
    pub(crate) schema_path: String,
}

/// Why a payload was not validated.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SchemaError {
    #[error("cannot be used for validation: {reason}")]
    Unusable { reason: String },
    #[error("is nested deeper than the {depth_max} levels that are validated")]
    PayloadTooDeep { depth_max: usize },
    #[error("cannot be validated within {} ms", limit.as_millis())]
    TooMuchWork { limit: Duration },
    #[error("too many validations are in work")]
    Busy,
}

#[derive(Clone, Debug)]
struct Bytes;

impl Weighter<Arc<str>, Arc<Validator>> for Bytes {
    fn weight(&self, schema: &Arc<str>, _: &Arc<Validator>) -> u64 {
        schema.len() as u64 * COMPILED_FACTOR
    }
}

/// Validates, and keeps compiled schemas by their text.
pub(crate) struct Validators {
    compiled: Arc<Cache<Arc<str>, Arc<Validator>, Bytes>>,
    running: Arc<Semaphore>,
    waiting: Semaphore,
}

impl Default for Validators {
    fn default() -> Self {
        Self {
            compiled: Arc::new(Cache::with_weighter(1_000, COMPILED_BYTES_MAX, Bytes)),
            running: Arc::new(Semaphore::new(VALIDATIONS_MAX)),
            waiting: Semaphore::new(WAITING_MAX),
        }
    }
}

impl Validators {
    /// What of the payload is not as the schema says; nothing if it is valid.
    pub(crate) async fn validate(
        &self,
        definition: &Definition,
        payload: Value,
    ) -> Result<Vec<Violation>, SchemaError> {
        match &definition.content {
            DefinitionContent::Schema(schema) => self.validate_text(&schema.schema, payload).await,
            DefinitionContent::Event(_) | DefinitionContent::Compatibility { .. } => Ok(Vec::new()),
        }
    }

    async fn validate_text(&self, schema: &str, payload: Value) -> Result<Vec<Violation>, SchemaError> {
        if depth(&payload) > PAYLOAD_DEPTH_MAX {
            return Err(SchemaError::PayloadTooDeep { depth_max: PAYLOAD_DEPTH_MAX });
        }
        let _waiting = self.waiting.try_acquire().map_err(|_| SchemaError::Busy)?;
        let validating = async {
            let running = self.running.clone().acquire_owned().await.expect("the semaphore is never closed");
            let (compiled, schema) = (self.compiled.clone(), Arc::<str>::from(schema));
            let (sender, answer) = oneshot::channel();
            let work = move || {
                // Nobody may be waiting any more.
                drop(sender.send(run(&compiled, schema, &payload)));
                drop(running);
            };
            let spawned = thread::Builder::new().name("validate".to_owned()).stack_size(STACK_BYTES).spawn(work);
            spawned.map_err(|_| SchemaError::Busy)?;
            // A thread that panicked answers nothing; its panic is logged.
            answer.await.unwrap_or_else(|_| Err(unusable("the validator ran into a bug")))
        };
        let validated = tokio::time::timeout(TIMEOUT, validating).await;
        validated.unwrap_or(Err(SchemaError::TooMuchWork { limit: TIMEOUT }))
    }
}

fn unusable(reason: impl Into<String>) -> SchemaError {
    SchemaError::Unusable { reason: reason.into() }
}

fn run(
    compiled: &Cache<Arc<str>, Arc<Validator>, Bytes>,
    schema: Arc<str>,
    payload: &Value,
) -> Result<Vec<Violation>, SchemaError> {
    let validator = match compiled.get(&schema) {
        Some(validator) => validator,
        None => {
            let validator = Arc::new(compile(&schema)?);
            compiled.insert(schema, validator.clone());
            validator
        }
    };
    let violation = |error: jsonschema::ValidationError<'_>| Violation {
        path: error.instance_path().to_string(),
        message: shortened(error.to_string()),
        schema_path: error.schema_path().to_string(),
    };
    Ok(validator.iter_errors(payload).take(VIOLATIONS_MAX).map(violation).collect())
}

fn compile(schema: &str) -> Result<Validator, SchemaError> {
    let schema: Value = serde_json::from_str(schema).map_err(|error| unusable(error.to_string()))?;
    if depth(&schema) > SCHEMA_DEPTH_MAX {
        return Err(unusable(format!("it is nested deeper than {SCHEMA_DEPTH_MAX} levels")));
    }
    let objects = objects(&schema);
    if objects > OBJECTS_MAX {
        return Err(unusable(format!("it has {objects} objects, and at most {OBJECTS_MAX} are allowed")));
    }
    let options = jsonschema::options().offline();
    let options = options.with_pattern_options(PatternOptions::regex().size_limit(PATTERN_BYTES_MAX));
    options.build(&schema).map_err(|error| unusable(shortened(format!("at {}: {error}", error.instance_path()))))
}

fn shortened(mut text: String) -> String {
    if text.len() > MESSAGE_BYTES_MAX {
        let end = (0..=MESSAGE_BYTES_MAX).rev().find(|at| text.is_char_boundary(*at));
        text.truncate(end.unwrap_or_default());
        text.push('…');
    }
    text
}

fn depth(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        Value::Object(members) => 1 + members.values().map(depth).max().unwrap_or(0),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => 0,
    }
}

fn objects(value: &Value) -> usize {
    match value {
        Value::Array(items) => items.iter().map(objects).sum(),
        Value::Object(members) => 1 + members.values().map(objects).sum::<usize>(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => 0,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    async fn validate(schema: &Value, payload: Value) -> Result<Vec<Violation>, SchemaError> {
        Validators::default().validate_text(&schema.to_string(), payload).await
    }

    fn reason(error: SchemaError) -> String {
        match error {
            SchemaError::Unusable { reason } => reason,
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn every_violation_is_named_with_its_place() {
        let schema = json!({
            "type": "object", "required": ["id"], "unevaluatedProperties": false,
            "properties": { "id": { "type": "integer" }, "tags": { "type": "array", "prefixItems": [{ "type": "string" }] } },
        });
        assert_eq!(validate(&schema, json!({ "id": 1, "tags": ["a", 2] })).await, Ok(Vec::new()));
        let violations = validate(&schema, json!({ "id": "x", "tags": [1], "more": true })).await.unwrap();
        let mut paths: Vec<_> = violations.iter().map(|violation| violation.path.as_str()).collect();
        paths.sort_unstable();
        assert_eq!(paths, ["", "/id", "/tags/0"], "{violations:?}");
    }

    #[tokio::test]
    async fn p11_nothing_is_fetched() {
        for reference in ["http://127.0.0.1:1/x.json", "file:///etc/passwd", "other.json"] {
            let error = validate(&json!({ "$ref": reference }), json!(1)).await.unwrap_err();
            assert!(!reason(error).is_empty(), "{reference}");
        }
    }

    #[tokio::test]
    async fn p11_a_schema_that_is_none_is_told_so() {
        let error = validate(&json!({ "type": "no such type" }), json!(1)).await.unwrap_err();
        assert!(reason(error).contains("no such type"));
        let error = validate(&json!({ "pattern": "(?=a)" }), json!("a")).await.unwrap_err();
        assert!(!reason(error).is_empty());
    }

    #[tokio::test]
    async fn p11_references_in_circles_end() {
        for schema in [
            json!({ "$ref": "#" }),
            json!({ "allOf": [{ "$ref": "#" }] }),
            json!({ "anyOf": [{ "$ref": "#/$defs/a" }], "$defs": { "a": { "not": { "$ref": "#" } } } }),
            json!({ "$dynamicAnchor": "n", "allOf": [{ "$dynamicRef": "#n" }] }),
        ] {
            let validated = validate(&schema, json!({ "a": [1] })).await;
            assert!(!matches!(validated, Err(SchemaError::TooMuchWork { .. })), "{schema}: {validated:?}");
        }
    }

    /// The deepest recursion that the bounds allow: through every object at every level of the payload.
    #[tokio::test]
    async fn p11_the_deepest_recursion_fits_its_stack() {
        let links = OBJECTS_MAX - 6;
        let mut definitions = serde_json::Map::new();
        for n in 0..links {
            definitions.insert(format!("a{n}"), json!({ "$ref": format!("#/$defs/a{}", n + 1) }));
        }
        definitions.insert(format!("a{links}"), json!({ "properties": { "x": { "$ref": "#/$defs/a0" } } }));
        let schema = json!({ "$ref": "#/$defs/a0", "$defs": definitions });
        assert!((OBJECTS_MAX - 5..=OBJECTS_MAX).contains(&objects(&schema)), "about as many as are allowed");
        let mut payload = json!(1);
        for _ in 0..PAYLOAD_DEPTH_MAX {
            payload = json!({ "x": payload });
        }
        let validated = validate(&schema, payload).await;
        assert!(!matches!(validated, Err(SchemaError::PayloadTooDeep { .. })), "{validated:?}");
    }

    #[tokio::test]
    async fn p11_what_doubles_at_every_step_is_not_waited_for_long() {
        let mut definitions = serde_json::Map::new();
        for n in 0..40 {
            let next = json!({ "$ref": format!("#/$defs/a{}", n + 1) });
            definitions.insert(format!("a{n}"), json!({ "anyOf": [next, { "allOf": [next] }] }));
        }
        definitions.insert("a40".to_owned(), json!({ "type": "string" }));
        let schema = json!({ "$ref": "#/$defs/a0", "$defs": definitions });
        let begun = std::time::Instant::now();
        drop(validate(&schema, json!(1)).await);
        assert!(begun.elapsed() < TIMEOUT * 10);
    }

    #[tokio::test]
    async fn p11_sizes_are_bounded() {
        let mut deep = json!(1);
        for _ in 0..=PAYLOAD_DEPTH_MAX {
            deep = json!([deep]);
        }
        assert!(matches!(validate(&json!(true), deep).await, Err(SchemaError::PayloadTooDeep { .. })));
        let many: Vec<_> = (0..OBJECTS_MAX).map(|_| json!({})).collect();
        assert!(reason(validate(&json!({ "anyOf": many }), json!(1)).await.unwrap_err()).contains("objects"));
    }
}
