//! Whether one version of a schema may follow another.
//!
//! A schema *covers* another one if it accepts everything that the other accepts. Backward compatible is a new version that
//! covers the one before, forward compatible one that is covered by it. In full this cannot be decided; here it is decided
//! keyword by keyword, and what cannot be told is said to be a fault: a version is let through only if it certainly fits.

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use rollcall_registry::Compatibility;
use serde_json::{Map, Value};

/// Pairs of schemas looked at: alternatives within alternatives multiply.
const STEPS_MAX: usize = 20_000;

/// Nesting of pairs, references counted.
const DEPTH_MAX: usize = 100;

/// Faults that are named.
const FAULTS_MAX: usize = 50;

/// Keywords that say nothing of what is accepted. `format` is one by the standard.
const ANNOTATIONS: &[&str] = &[
    "title",
    "description",
    "default",
    "examples",
    "deprecated",
    "readOnly",
    "writeOnly",
    "$comment",
    "$schema",
    "$id",
    "$anchor",
    "$dynamicAnchor",
    "$defs",
    "definitions",
    "format",
    "contentEncoding",
    "contentMediaType",
    "contentSchema",
];

const TYPES: [&str; 7] = ["null", "boolean", "object", "array", "number", "integer", "string"];

/// Where and why a new version does not fit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Incompatibility {
    /// Into the schema.
    pub(crate) path: Vec<String>,
    pub(crate) message: String,
}

/// All that speaks against `new` following `old`; nothing if it may.
pub(crate) fn incompatibilities(old: &Value, new: &Value, mode: Compatibility) -> Vec<Incompatibility> {
    let (backward, forward) = match mode {
        Compatibility::None => (false, false),
        Compatibility::Backward => (true, false),
        Compatibility::Forward => (false, true),
        Compatibility::Full => (true, true),
    };
    let mut faults = Vec::new();
    if (backward || forward) && !(is_comparable(old) && is_comparable(new)) {
        let message = "only schemas of the drafts 2019-09 and 2020-12 can be compared".to_owned();
        return vec![Incompatibility { path: vec!["$schema".to_owned()], message }];
    }
    if backward {
        faults.extend(Comparison::run(new, old, "what the version before accepts: "));
    }
    if forward {
        faults.extend(Comparison::run(old, new, "what only the new version accepts: "));
    }
    faults.truncate(FAULTS_MAX);
    faults
}

/// Before 2019-09 some keywords meant something else. What names no draft is of 2020-12.
fn is_comparable(schema: &Value) -> bool {
    match schema.get("$schema") {
        None => true,
        Some(draft) => draft.as_str().is_some_and(|draft| draft.contains("/2019-09/") || draft.contains("/2020-12/")),
    }
}

/// Whether some inner schema has a name of its own, from which local references count.
fn has_inner_id(schema: &Value, is_root: bool) -> bool {
    match schema {
        Value::Object(members) => {
            (!is_root && members.get("$id").is_some_and(Value::is_string))
                || members.values().any(|value| has_inner_id(value, false))
        }
        Value::Array(items) => items.iter().any(|item| has_inner_id(item, false)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    }
}

struct Comparison<'v> {
    wide_root: &'v Value,
    narrow_root: &'v Value,
    /// References may lead elsewhere than they seem to.
    misleading: bool,
    steps: usize,
    depth: usize,
    path: Vec<String>,
    /// Pairs under way: what refers to itself is as its rest is.
    open: BTreeSet<(usize, usize)>,
    faults: Vec<Incompatibility>,
}

type Object = Map<String, Value>;

fn no_annotations(schema: &Object) -> impl Iterator<Item = (&str, &Value)> {
    schema.iter().map(|(key, value)| (key.as_str(), value)).filter(|(key, _)| !ANNOTATIONS.contains(key))
}

fn has_references(value: &Value) -> bool {
    match value {
        Value::Object(members) => members.iter().any(|(key, value)| {
            matches!(key.as_str(), "$ref" | "$dynamicRef" | "$recursiveRef") || has_references(value)
        }),
        Value::Array(items) => items.iter().any(has_references),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    }
}

/// Equal, and meaning the same wherever they stand.
fn same(a: &Value, b: &Value) -> bool {
    a == b && !has_references(a)
}

fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Object(_) => "object",
        Value::Array(_) => "array",
        Value::String(_) => "string",
        // 1.0 is an integer to the standard.
        Value::Number(number) if number.is_f64() && number.as_f64().is_some_and(|n| n.fract() != 0.0) => "number",
        Value::Number(_) => "integer",
    }
}

/// The types that a schema may accept, `number` standing for all numbers.
fn types(schema: &Object) -> BTreeSet<&str> {
    let named = match schema.get("type") {
        Some(Value::String(one)) => Some(BTreeSet::from([one.as_str()])),
        Some(Value::Array(several)) => Some(several.iter().filter_map(Value::as_str).collect()),
        _ => None,
    };
    named
        .or_else(|| values(schema).map(|values| values.iter().map(|value| type_of(value)).collect()))
        .unwrap_or_else(|| TYPES.into())
}

/// The values that a schema names, if it names them all.
fn values(schema: &Object) -> Option<Vec<&Value>> {
    match (schema.get("const"), schema.get("enum")) {
        (Some(value), _) => Some(vec![value]),
        (None, Some(Value::Array(values))) => Some(values.iter().collect()),
        _ => None,
    }
}

fn number(schema: &Object, key: &str) -> Option<f64> {
    schema.get(key).and_then(Value::as_f64)
}

fn names(schema: &Object, key: &str) -> BTreeSet<String> {
    let list = schema.get(key).and_then(Value::as_array).into_iter().flatten();
    list.filter_map(Value::as_str).map(str::to_owned).collect()
}

fn member<'v>(schema: &'v Object, key: &str, name: &str) -> Option<&'v Value> {
    schema.get(key)?.as_object()?.get(name)
}

const ANYTHING: &Value = &Value::Bool(true);

impl<'v> Comparison<'v> {
    fn run(wide: &'v Value, narrow: &'v Value, prefix: &str) -> Vec<Incompatibility> {
        let mut comparison = Self {
            wide_root: wide,
            narrow_root: narrow,
            misleading: has_inner_id(wide, true) || has_inner_id(narrow, true),
            steps: 0,
            depth: 0,
            path: Vec::new(),
            open: BTreeSet::new(),
            faults: Vec::new(),
        };
        comparison.covers(wide, narrow);
        let told =
            |fault: Incompatibility| Incompatibility { message: format!("{prefix}{}", fault.message), ..fault };
        comparison.faults.into_iter().map(told).collect()
    }

    fn fault(&mut self, key: Option<&str>, message: impl Into<String>) {
        if self.faults.len() < FAULTS_MAX {
            let path = self.path.iter().cloned().chain(key.map(str::to_owned)).collect();
            self.faults.push(Incompatibility { path, message: message.into() });
        }
    }

    /// Whether one covers the other, without a word if it does not.
    fn would_cover(&mut self, wide: &'v Value, narrow: &'v Value) -> bool {
        let before = self.faults.len();
        // Faults may be full already, and then nothing would tell.
        if before >= FAULTS_MAX {
            return false;
        }
        self.covers(wide, narrow);
        let covers = self.faults.len() == before;
        self.faults.truncate(before);
        covers
    }

    fn within(&mut self, key: &str, name: Option<&str>, wide: &'v Value, narrow: &'v Value) {
        let length = self.path.len();
        self.path.extend([Some(key), name].into_iter().flatten().map(str::to_owned));
        self.covers(wide, narrow);
        self.path.truncate(length);
    }

    /// Names what speaks against it.
    fn covers(&mut self, wide: &'v Value, narrow: &'v Value) {
        if self.is_too_much() {
            return self.fault(None, "it is too much to compare");
        }
        if same(wide, narrow) || *narrow == Value::Bool(false) {
            return;
        }
        let pair = (std::ptr::from_ref(wide).addr(), std::ptr::from_ref(narrow).addr());
        if !self.open.insert(pair) {
            return;
        }
        self.depth += 1;
        self.covers_new(wide, narrow);
        self.depth -= 1;
        self.open.remove(&pair);
    }

    fn is_too_much(&mut self) -> bool {
        self.steps += 1;
        self.steps > STEPS_MAX || self.depth > DEPTH_MAX
    }

    fn covers_new(&mut self, wide: &'v Value, narrow: &'v Value) {
        let empty = || -> &'v Object {
            static EMPTY: std::sync::LazyLock<Object> = std::sync::LazyLock::new(Object::new);
            &EMPTY
        };
        let of = |value: &'v Value| match value {
            Value::Object(object) => Some(object),
            Value::Bool(true) => Some(empty()),
            _ => None,
        };
        let Some(wide) = of(wide) else { return self.fault(None, "nothing is accepted any more") };
        let Some(narrow) = of(narrow) else { return self.fault(None, "it is no schema") };
        if no_annotations(wide).next().is_none() {
            return;
        }
        match (self.target(self.wide_root, wide), self.target(self.narrow_root, narrow)) {
            (Reference::None, Reference::None) => self.covers_object(wide, narrow),
            (Reference::Unknown, _) | (_, Reference::Unknown) => {
                self.fault(
                    Some("$ref"),
                    "the reference cannot be compared: only local ones without keywords beside can",
                );
            }
            (Reference::To(wide), Reference::To(narrow)) => self.covers(wide, narrow),
            (Reference::To(target), Reference::None) => self.covers_against(target, narrow),
            (Reference::None, Reference::To(target)) => self.covers_from(wide, target),
        }
    }

    /// As [`Self::covers`], where only the wide one was a reference.
    fn covers_against(&mut self, wide: &'v Value, narrow: &'v Object) {
        match wide {
            Value::Bool(true) => {}
            Value::Object(wide) => match self.target(self.wide_root, wide) {
                Reference::None => self.covers_object(wide, narrow),
                Reference::To(_) | Reference::Unknown => {
                    self.fault(Some("$ref"), "a reference to a reference cannot be compared")
                }
            },
            _ => self.fault(None, "nothing is accepted any more"),
        }
    }

    fn covers_from(&mut self, wide: &'v Object, narrow: &'v Value) {
        match narrow {
            Value::Bool(false) => {}
            Value::Object(narrow) => match self.target(self.narrow_root, narrow) {
                Reference::None => self.covers_object(wide, narrow),
                Reference::To(_) | Reference::Unknown => {
                    self.fault(Some("$ref"), "a reference to a reference cannot be compared")
                }
            },
            _ => self.fault(None, "anything is accepted"),
        }
    }

    fn target(&self, root: &'v Value, schema: &'v Object) -> Reference<'v> {
        if schema.contains_key("$dynamicRef") || schema.contains_key("$recursiveRef") {
            return Reference::Unknown;
        }
        let Some(reference) = schema.get("$ref") else { return Reference::None };
        if self.misleading {
            return Reference::Unknown;
        }
        let pointer = reference.as_str().and_then(|text| text.strip_prefix('#'));
        let target = pointer
            .filter(|pointer| pointer.is_empty() || pointer.starts_with('/'))
            .and_then(|pointer| root.pointer(pointer));
        match target {
            Some(target) if no_annotations(schema).count() == 1 => Reference::To(target),
            _ => Reference::Unknown,
        }
    }

    fn covers_object(&mut self, wide: &'v Object, narrow: &'v Object) {
        // What is one of several is covered if each of them is, or if it is without them.
        for key in ["anyOf", "oneOf"] {
            if let Some(Value::Array(branches)) = narrow.get(key)
                && wide.get(key) != narrow.get(key)
            {
                let all = branches.iter().all(|branch| {
                    let before = self.faults.len();
                    if before >= FAULTS_MAX {
                        return false;
                    }
                    self.branch_covered(wide, branch);
                    let covered = self.faults.len() == before;
                    self.faults.truncate(before);
                    covered
                });
                if all {
                    return;
                }
            }
        }
        for (key, wanted) in no_annotations(wide) {
            self.keyword(key, wanted, wide, narrow);
        }
    }

    fn branch_covered(&mut self, wide: &'v Object, branch: &'v Value) {
        let too_much = self.is_too_much();
        self.depth += 1;
        match branch {
            _ if too_much => self.fault(None, "it is too much to compare"),
            Value::Bool(false) => {}
            Value::Object(branch) => match self.target(self.narrow_root, branch) {
                Reference::None => self.covers_object(wide, branch),
                Reference::To(target) => self.covers_from(wide, target),
                Reference::Unknown => self.fault(Some("$ref"), "the reference cannot be compared"),
            },
            _ => self.fault(None, "anything is accepted"),
        }
        self.depth -= 1;
    }

    /// Whether everything that `narrow` accepts fulfils one keyword of `wide`.
    fn keyword(&mut self, key: &str, wanted: &'v Value, wide: &'v Object, narrow: &'v Object) {
        // The same keyword says the same, unless what it says depends on others beside it.
        let depends = match key {
            "additionalProperties" | "items" | "unevaluatedProperties" | "unevaluatedItems" => true,
            "contains" => wide.get("minContains") != narrow.get("minContains"),
            _ => false,
        };
        if !depends && narrow.get(key).is_some_and(|value| same(value, wanted)) {
            return;
        }
        let accepted = types(narrow);
        let may_be = |names: &[&str]| names.iter().any(|name| accepted.contains(name));
        match key {
            "type" => {
                let allowed = types(wide);
                let more: Vec<_> = accepted
                    .iter()
                    .filter(|name| !(allowed.contains(*name) || **name == "integer" && allowed.contains("number")))
                    .copied()
                    .collect();
                if !more.is_empty() {
                    self.fault(Some(key), format!("{} is not accepted", more.join(", ")));
                }
            }
            "enum" | "const" => {
                let allowed = values(wide).unwrap_or_default();
                match values(narrow) {
                    Some(named) if named.iter().all(|value| allowed.contains(value)) => {}
                    Some(_) => self.fault(Some(key), "some of the values are not accepted"),
                    None => self.fault(Some(key), "only some values are accepted"),
                }
            }
            "required" if may_be(&["object"]) => {
                let missing: Vec<_> = names(wide, key).difference(&names(narrow, key)).cloned().collect();
                if !missing.is_empty() {
                    self.fault(Some(key), format!("{} is required", missing.join(", ")));
                }
            }
            "properties" if may_be(&["object"]) => {
                for (name, schema) in wanted.as_object().into_iter().flatten() {
                    match self.property(narrow, name) {
                        Some(property) => self.within(key, Some(name), schema, property),
                        None => {
                            self.fault(Some(key), format!("{name} cannot be compared because of patternProperties"))
                        }
                    }
                }
            }
            "additionalProperties" if may_be(&["object"]) => {
                if wide.get("patternProperties") != narrow.get("patternProperties") {
                    return self.fault(Some("patternProperties"), "they cannot be compared");
                }
                for (name, property) in narrow.get("properties").and_then(Value::as_object).into_iter().flatten() {
                    if member(wide, "properties", name).is_none() {
                        self.within(key, Some(name), wanted, property);
                    }
                }
                self.within(key, None, wanted, narrow.get(key).unwrap_or(ANYTHING));
            }
            "items" if may_be(&["array"]) => {
                if wide.get("prefixItems") != narrow.get("prefixItems") {
                    return self.fault(Some("prefixItems"), "they cannot be compared");
                }
                self.within(key, None, wanted, narrow.get(key).unwrap_or(ANYTHING));
            }
            "allOf" => {
                for (n, each) in wanted.as_array().into_iter().flatten().enumerate() {
                    let length = self.path.len();
                    self.path.extend([key.to_owned(), n.to_string()]);
                    self.object_covered(each, narrow);
                    self.path.truncate(length);
                }
            }
            "anyOf" => {
                let some = wanted.as_array().into_iter().flatten().any(|each| {
                    let before = self.faults.len();
                    if before >= FAULTS_MAX {
                        return false;
                    }
                    self.object_covered(each, narrow);
                    let covered = self.faults.len() == before;
                    self.faults.truncate(before);
                    covered
                });
                let each_of_its_own = || match narrow.get(key) {
                    Some(Value::Array(branches)) => Some((branches, wanted.as_array()?)),
                    _ => None,
                };
                let pairwise = !some
                    && each_of_its_own().is_some_and(|(branches, wanted)| {
                        branches.iter().all(|branch| wanted.iter().any(|each| self.would_cover(each, branch)))
                    });
                if !some && !pairwise {
                    self.fault(Some(key), "none of the alternatives certainly accepts it");
                }
            }
            "minimum" | "exclusiveMinimum" if may_be(&["number", "integer"]) => {
                let strict = key == "exclusiveMinimum";
                let least = wanted.as_f64().unwrap_or(f64::NAN);
                let holds = number(narrow, "minimum").is_some_and(|n| if strict { n > least } else { n >= least })
                    || number(narrow, "exclusiveMinimum").is_some_and(|n| n >= least)
                    || values_hold(narrow, |n| if strict { n > least } else { n >= least });
                self.bound(key, holds);
            }
            "maximum" | "exclusiveMaximum" if may_be(&["number", "integer"]) => {
                let strict = key == "exclusiveMaximum";
                let most = wanted.as_f64().unwrap_or(f64::NAN);
                let holds = number(narrow, "maximum").is_some_and(|n| if strict { n < most } else { n <= most })
                    || number(narrow, "exclusiveMaximum").is_some_and(|n| n <= most)
                    || values_hold(narrow, |n| if strict { n < most } else { n <= most });
                self.bound(key, holds);
            }
            "minLength" if may_be(&["string"]) => self.least(key, wanted, narrow),
            "minItems" if may_be(&["array"]) => self.least(key, wanted, narrow),
            "minProperties" if may_be(&["object"]) => self.least(key, wanted, narrow),
            "maxLength" if may_be(&["string"]) => self.most(key, wanted, narrow),
            "maxItems" if may_be(&["array"]) => self.most(key, wanted, narrow),
            "maxProperties" if may_be(&["object"]) => self.most(key, wanted, narrow),
            "uniqueItems" if *wanted == Value::Bool(false) => {}
            // They concern what narrow never accepts.
            "pattern" | "minLength" | "maxLength" if !may_be(&["string"]) => {}
            "multipleOf" | "minimum" | "maximum" | "exclusiveMinimum" | "exclusiveMaximum"
                if !may_be(&["number", "integer"]) => {}
            "items" | "prefixItems" | "contains" | "minContains" | "maxContains" | "uniqueItems" | "minItems"
            | "maxItems" | "unevaluatedItems"
                if !may_be(&["array"]) => {}
            "required"
            | "properties"
            | "additionalProperties"
            | "patternProperties"
            | "propertyNames"
            | "minProperties"
            | "maxProperties"
            | "dependentRequired"
            | "dependentSchemas"
            | "unevaluatedProperties"
                if !may_be(&["object"]) => {}
            _ => self.fault(Some(key), format!("`{key}` cannot be compared, and is not the same")),
        }
    }

    /// As [`Self::covers`], of a schema that is not a value of its own.
    fn object_covered(&mut self, wide: &'v Value, narrow: &'v Object) {
        let too_much = self.is_too_much();
        self.depth += 1;
        match wide {
            _ if too_much => self.fault(None, "it is too much to compare"),
            Value::Object(object) => match self.target(self.wide_root, object) {
                Reference::None => self.covers_object(object, narrow),
                Reference::To(target) => self.covers_against(target, narrow),
                Reference::Unknown => self.fault(Some("$ref"), "the reference cannot be compared"),
            },
            Value::Bool(true) => {}
            _ => self.fault(None, "nothing is accepted any more"),
        }
        self.depth -= 1;
    }

    /// What a schema says of one property; none if patterns may say something too.
    fn property(&self, schema: &'v Object, name: &str) -> Option<&'v Value> {
        if schema.contains_key("patternProperties") {
            return None;
        }
        Some(member(schema, "properties", name).or_else(|| schema.get("additionalProperties")).unwrap_or(ANYTHING))
    }

    fn bound(&mut self, key: &str, holds: bool) {
        if !holds {
            self.fault(Some(key), "the bound is tighter");
        }
    }

    fn least(&mut self, key: &str, wanted: &Value, narrow: &Object) {
        let holds = wanted.as_f64() <= number(narrow, key).or(Some(0.0));
        self.bound(key, holds);
    }

    fn most(&mut self, key: &str, wanted: &Value, narrow: &Object) {
        let holds = number(narrow, key).is_some_and(|n| Some(n) <= wanted.as_f64());
        self.bound(key, holds);
    }
}

/// Where a schema is nothing but a reference.
enum Reference<'v> {
    None,
    To(&'v Value),
    /// One that leads out of the document, or stands beside other keywords.
    Unknown,
}

fn values_hold(schema: &Object, holds: impl Fn(f64) -> bool) -> bool {
    values(schema).is_some_and(|values| values.iter().filter_map(|value| value.as_f64()).all(holds))
}
