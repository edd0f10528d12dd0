//! What fits and what does not, keyword by keyword.

use serde_json::json;

use super::*;

fn covers(wide: Value, narrow: Value) -> Vec<String> {
    let faults = Comparison::run(&wide, &narrow, "");
    faults.into_iter().map(|fault| format!("/{} {}", fault.path.join("/"), fault.message)).collect()
}

#[track_caller]
fn fits(wide: Value, narrow: Value) {
    assert_eq!(covers(wide, narrow), [""; 0]);
}

#[track_caller]
fn differs(wide: Value, narrow: Value, fault: &str) {
    let faults = covers(wide, narrow);
    assert!(faults.iter().any(|text| text.contains(fault)), "{fault} in {faults:?}");
}

#[test]
fn a_property_may_be_added_but_not_demanded() {
    let old = json!({ "type": "object", "properties": { "a": { "type": "string" } }, "required": ["a"] });
    let optional =
        json!({ "type": "object", "properties": { "a": { "type": "string" }, "b": true }, "required": ["a"] });
    let demanded = json!({ "type": "object", "properties": { "a": { "type": "string" } }, "required": ["a", "b"] });
    fits(optional.clone(), old.clone());
    differs(demanded.clone(), old.clone(), "/required b is required");
    assert!(!incompatibilities(&old, &demanded, Compatibility::Backward).is_empty());
    assert!(incompatibilities(&old, &demanded, Compatibility::Forward).is_empty());
    assert!(incompatibilities(&old, &optional, Compatibility::Full).is_empty());
    assert!(incompatibilities(&old, &json!(false), Compatibility::None).is_empty());
}

#[test]
fn a_property_that_others_may_have_sent_may_not_be_narrowed() {
    let closed = json!({ "type": "object", "additionalProperties": false });
    let named = json!({ "type": "object", "properties": { "b": { "type": "string" } } });
    fits(named.clone(), closed.clone());
    differs(named, json!({ "type": "object" }), "/properties/b/type");
    differs(closed, json!({ "type": "object" }), "/additionalProperties nothing is accepted");
}

#[test]
fn types_values_and_bounds_may_be_widened() {
    fits(json!({ "type": ["string", "null"] }), json!({ "type": "string" }));
    differs(json!({ "type": "string" }), json!({ "type": ["string", "null"] }), "/type null is not accepted");
    fits(json!({ "type": "number" }), json!({ "type": "integer" }));
    differs(json!({ "type": "integer" }), json!({ "type": "number" }), "number is not accepted");
    fits(json!({ "enum": [1, 2, 3] }), json!({ "enum": [1, 3] }));
    fits(json!({ "type": "integer" }), json!({ "enum": [1, 3] }));
    differs(json!({ "enum": [1] }), json!({ "enum": [1, 3] }), "/enum");
    differs(json!({ "enum": [1] }), json!({ "type": "integer" }), "/enum only some");
    fits(json!({ "minimum": 1 }), json!({ "type": "integer", "exclusiveMinimum": 1 }));
    differs(json!({ "exclusiveMinimum": 1 }), json!({ "type": "integer", "minimum": 1 }), "tighter");
    fits(json!({ "minimum": 1, "maximum": 3 }), json!({ "enum": [1, 3] }));
    differs(json!({ "maxLength": 3 }), json!({ "type": "string" }), "tighter");
    fits(json!({ "maxLength": 3 }), json!({ "type": "integer" }));
    fits(
        json!({ "maxItems": 3, "items": { "type": "number" } }),
        json!({ "type": "array", "maxItems": 2, "items": { "type": "integer" } }),
    );
}

#[test]
fn annotations_do_not_count() {
    fits(json!({ "title": "b", "format": "date" }), json!({ "type": "string", "title": "a" }));
}

#[test]
fn references_are_followed_and_may_go_in_circles() {
    let list = |kind: &str| {
        json!({ "$ref": "#/$defs/node", "$defs": { "node": {
            "type": "object", "properties": { "value": { "type": kind }, "next": { "$ref": "#/$defs/node" } } } } })
    };
    fits(list("number"), list("integer"));
    differs(list("integer"), list("number"), "value/type");
    differs(json!({ "$ref": "http://x" }), json!({ "type": "string" }), "$ref");
    // The same text that means another thing.
    let named =
        |kind: &str| json!({ "properties": { "a": { "$ref": "#/$defs/a" } }, "$defs": { "a": { "type": kind } } });
    differs(named("string"), named("null"), "/properties/a/type");
}

#[test]
fn alternatives_are_compared_each_with_each() {
    let one_of =
        |kinds: &[&str]| json!({ "anyOf": kinds.iter().map(|kind| json!({ "type": kind })).collect::<Vec<_>>() });
    fits(one_of(&["string", "null", "array"]), one_of(&["null", "string"]));
    differs(one_of(&["string"]), one_of(&["null", "string"]), "/anyOf");
    fits(json!({ "type": ["string", "null"] }), one_of(&["null", "string"]));
    fits(json!({ "allOf": [{ "type": "string" }, { "maxLength": 5 }] }), json!({ "type": "string", "maxLength": 4 }));
    differs(
        json!({ "allOf": [{ "type": "string" }, { "maxLength": 5 }] }),
        json!({ "type": "string" }),
        "/allOf/1/maxLength",
    );
}

#[test]
fn what_cannot_be_told_is_a_fault() {
    differs(json!({ "pattern": "a" }), json!({ "type": "string", "pattern": "aa" }), "`pattern` cannot be compared");
    differs(json!({ "not": { "type": "string" } }), json!({ "type": "integer" }), "`not` cannot be compared");
    fits(json!({ "pattern": "a" }), json!({ "type": "string", "pattern": "a" }));
    differs(json!({ "$dynamicRef": "#a" }), json!({ "type": "string" }), "$ref");
}

#[test]
fn p11_what_contains_itself_ends() {
    let circle = json!({ "allOf": [{ "$ref": "#" }, { "type": "string" }] });
    assert!(!covers(circle.clone(), json!({ "type": "string", "maxLength": 1 })).is_empty());
    let other = json!({ "anyOf": [{ "$ref": "#" }, { "type": "null" }] });
    assert!(!covers(circle, other).is_empty());
}

#[test]
fn p11_what_multiplies_is_given_up() {
    let mut schema = json!({ "type": "string" });
    for _ in 0..30 {
        schema = json!({ "anyOf": [schema, schema, { "type": "null" }] });
        if schema.to_string().len() > 60_000 {
            break;
        }
    }
    let mut other = schema.clone();
    other["anyOf"][2] = json!({ "type": "integer" });
    assert!(!covers(schema, other).is_empty());
}

#[test]
fn what_depends_on_its_neighbours_is_not_taken_by_itself() {
    let closed = |names: &[&str]| {
        let properties: serde_json::Map<_, _> = names.iter().map(|name| ((*name).to_owned(), json!(true))).collect();
        json!({ "properties": properties, "unevaluatedProperties": false })
    };
    differs(closed(&["a"]), closed(&["a", "b"]), "`unevaluatedProperties` cannot be compared");
    fits(closed(&["a"]), closed(&["a"]));
    let holds = |least: u64| json!({ "contains": { "type": "string" }, "minContains": least });
    differs(json!({ "contains": { "type": "string" } }), holds(0), "`contains` cannot be compared");
    let patterned = json!({ "patternProperties": { "^x": { "type": "string" } }, "additionalProperties": false });
    differs(json!({ "additionalProperties": false }), patterned.clone(), "/patternProperties");
    fits(patterned.clone(), patterned);
}

#[test]
fn references_that_may_lead_elsewhere_are_not_followed() {
    let named = |kind: &str| {
        json!({ "properties": { "a": { "$id": "http://x/a", "$ref": "#/$defs/b", "$defs": { "b": { "type": kind } } } },
            "$defs": { "b": true } })
    };
    differs(named("string"), named("null"), "$ref");
    let old = json!({ "$schema": "http://json-schema.org/draft-07/schema#", "type": "string" });
    assert_eq!(incompatibilities(&old, &json!({ "type": "string" }), Compatibility::Backward).len(), 1);
}
