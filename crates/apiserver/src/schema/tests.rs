use serde_json::{Map, Value, json};

use super::Schema;
use crate::status::Cause;

fn compile(schema: &Value) -> Schema {
    Schema::compile(schema, &Map::new()).unwrap()
}

fn causes(schema: &Value, value: &Value) -> Vec<String> {
    let mut causes: Vec<Cause> = Vec::new();
    compile(schema).check(value, "spec", &mut causes);
    causes
        .into_iter()
        .map(|c| format!("{}: {}", c.field, c.message))
        .collect()
}

#[test]
fn errors_read_as_kubernetes_writes_them() {
    let schema = json!({"type": "object", "required": ["cidr"], "properties": {
        "cidr": {"type": "string", "format": "cidr"},
        "mode": {"type": "string", "enum": ["Yes", "No"]},
        "port": {"type": "integer", "minimum": 1, "maximum": 65535},
        "names": {"type": "array", "maxItems": 1, "items": {"type": "string", "pattern": "^[a-z]+$"}},
    }});
    assert_eq!(causes(&schema, &json!({})), ["spec.cidr: Required value"]);
    assert_eq!(
        causes(&schema, &json!({"cidr": "10.0.0.0/8", "mode": "Maybe"})),
        ["spec.mode: Unsupported value: \"Maybe\": supported values: \"Yes\", \"No\""]
    );
    assert_eq!(
        causes(&schema, &json!({"cidr": "10.0.0.0", "port": 0})),
        [
            "spec.cidr: Invalid value: \"10.0.0.0\": spec.cidr in body must be of type cidr: \"10.0.0.0\"",
            "spec.port: Invalid value: 0: spec.port in body should be greater than or equal to 1",
        ]
    );
    assert_eq!(
        causes(&schema, &json!({"cidr": 5, "names": ["a", "B"]})),
        [
            "spec.cidr: Invalid value: 5: spec.cidr in body must be of type string: \"integer\"",
            "spec.names: Too many: 2: must have at most 1 items",
            "spec.names[1]: Invalid value: \"B\": spec.names[1] in body should match '^[a-z]+$'",
        ]
    );
}

#[test]
fn list_maps_refuse_twins() {
    let schema = json!({"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"],
        "items": {"type": "object", "properties": {"type": {"type": "string"}, "n": {"type": "integer"}}}});
    assert_eq!(
        causes(
            &schema,
            &json!([{"type": "a", "n": 1}, {"type": "a", "n": 2}])
        ),
        ["spec[1]: Duplicate value: {\"type\":\"a\"}"]
    );
}

#[test]
fn combinations_hold() {
    let schema = json!({"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "string"}},
        "oneOf": [{"required": ["a"]}, {"required": ["b"]}]});
    assert!(causes(&schema, &json!({"a": "x"})).is_empty());
    assert_eq!(causes(&schema, &json!({"a": "x", "b": "y"})).len(), 1);
    assert_eq!(causes(&schema, &json!({})).len(), 1);
}

#[test]
fn unknown_fields_are_dropped_and_named() {
    let schema = json!({"type": "object", "properties": {
        "known": {"type": "object", "properties": {"a": {"type": "string"}}},
        "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
        "labels": {"type": "object", "additionalProperties": {"type": "string"}},
        "list": {"type": "array", "items": {"type": "object", "properties": {"x": {"type": "integer"}}}},
    }});
    let mut value = json!({"known": {"a": "1", "b": 2}, "free": {"any": {"thing": 1}}, "labels": {"l": "v"},
        "list": [{"x": 1}, {"y": 2}], "other": 1});
    let mut unknown = Vec::new();
    compile(&schema).prune(&mut value, "spec", &mut unknown);
    unknown.sort();
    assert_eq!(unknown, ["spec.known.b", "spec.list[1].y", "spec.other"]);
    assert_eq!(
        value,
        json!({"known": {"a": "1"}, "free": {"any": {"thing": 1}}, "labels": {"l": "v"}, "list": [{"x": 1}, {}]})
    );
}

#[test]
fn defaults_fill_from_the_outside_in() {
    let schema = json!({"type": "object", "properties": {
        "outer": {"type": "object", "default": {}, "properties": {"inner": {"type": "boolean", "default": false}}},
        "kept": {"type": "string", "default": "d"},
        "nothing": {"type": "string", "nullable": true, "default": "d"},
        "list": {"type": "array", "items": {"type": "object", "properties": {"n": {"type": "integer", "default": 7}}}},
    }});
    let mut value = json!({"kept": "mine", "nothing": null, "list": [{}, {"n": 1}]});
    compile(&schema).fill_defaults(&mut value);
    assert_eq!(
        value,
        json!({"outer": {"inner": false}, "kept": "mine", "nothing": null, "list": [{"n": 7}, {"n": 1}]})
    );
}

#[test]
fn a_recursive_schema_is_refused_rather_than_followed() {
    let mut definitions = Map::new();
    definitions.insert(
        "A".into(),
        json!({"type": "object", "properties": {"again": {"$ref": "#/$defs/A"}}}),
    );
    let error = Schema::compile(&json!({"$ref": "#/$defs/A"}), &definitions).unwrap_err();
    assert!(error.detail.contains("recursive"), "{error}");
}
