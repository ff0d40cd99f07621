use serde_json::json;

use super::*;

fn schema(value: &Value) -> Schema {
    Schema::compile(value, &serde_json::Map::new()).unwrap()
}

fn told(schema: &Schema, new: &Value, old: Option<&Value>) -> Vec<String> {
    let mut causes = Vec::new();
    schema.check_rules(new, old, "", &mut causes);
    let line = |cause: Cause| format!("{}: {}", cause.field, cause.message);
    causes.into_iter().map(line).collect()
}

fn with_rule(rule: &Value) -> Schema {
    schema(
        &json!({"type": "object", "properties": {"spec": {"type": "object", "x-kubernetes-validations": [rule],
        "properties": {"min": {"type": "integer"}, "max": {"type": "integer"}, "name": {"type": "string"},
            "a-b": {"type": "string"}, "namespace": {"type": "string"}, "ips": {"type": "array", "items": {"type": "string"}}}}}}),
    )
}

#[test]
fn a_rule_that_fails_names_its_place_and_says_why() {
    let plain = with_rule(&json!({"rule": "self.min <= self.max"}));
    assert!(told(&plain, &json!({"spec": {"min": 1, "max": 2}}), None).is_empty());
    assert_eq!(
        told(&plain, &json!({"spec": {"min": 3, "max": 2}}), None),
        ["spec: Invalid value: \"object\": failed rule: self.min <= self.max"]
    );
    let named = with_rule(
        &json!({"rule": "!has(self.name) || self.name.startsWith('x')", "message": "must begin with x",
        "reason": "FieldValueForbidden", "fieldPath": ".name"}),
    );
    assert!(told(&named, &json!({"spec": {}}), None).is_empty());
    assert_eq!(
        told(&named, &json!({"spec": {"name": "y"}}), None),
        ["spec.name: Forbidden: must begin with x"]
    );
    let made = with_rule(
        &json!({"rule": "self.min > 0", "messageExpression": "'min is ' + string(self.min)"}),
    );
    assert_eq!(
        told(&made, &json!({"spec": {"min": 0}}), None),
        ["spec: Invalid value: \"object\": min is 0"]
    );
}

#[test]
fn a_field_that_is_not_there_is_an_error_of_the_rule() {
    let rule = with_rule(&json!({"rule": "self.min > 0"}));
    let told = told(&rule, &json!({"spec": {}}), None);
    assert_eq!(
        told,
        [
            "spec: Invalid value: \"object\": No such key: min evaluating rule: failed rule: self.min > 0"
        ]
    );
}

#[test]
fn transition_rules_look_at_changes_only() {
    let fixed = with_rule(&json!({"rule": "self == oldSelf", "message": "is immutable"}));
    let (a, b) = (json!({"spec": {"min": 1}}), json!({"spec": {"min": 2}}));
    assert!(told(&fixed, &a, None).is_empty());
    assert!(told(&fixed, &a, Some(&a)).is_empty());
    assert_eq!(
        told(&fixed, &b, Some(&a)),
        ["spec: Invalid value: \"object\": is immutable"]
    );
}

#[test]
fn what_was_there_before_a_rule_may_stay() {
    let rule = with_rule(&json!({"rule": "self.min > 5"}));
    let old = json!({"spec": {"min": 1}});
    assert!(told(&rule, &old, Some(&old)).is_empty());
    assert_eq!(
        told(&rule, &json!({"spec": {"min": 2}}), Some(&old)).len(),
        1
    );
}

#[test]
fn items_with_keys_know_what_they_were() {
    let list = schema(
        &json!({"type": "object", "properties": {"peers": {"type": "array", "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["name"], "items": {"type": "object",
            "x-kubernetes-validations": [{"rule": "self.asn == oldSelf.asn", "message": "asn is immutable"}],
            "properties": {"name": {"type": "string"}, "asn": {"type": "integer"}}}}}}),
    );
    let old = json!({"peers": [{"name": "a", "asn": 1}, {"name": "b", "asn": 2}]});
    let new = json!({"peers": [{"name": "c", "asn": 9}, {"name": "b", "asn": 3}, {"name": "a", "asn": 1}]});
    assert_eq!(
        told(&list, &new, Some(&old)),
        ["peers[1]: Invalid value: \"object\": asn is immutable"]
    );
}

#[test]
fn names_are_escaped_and_macros_and_strings_work() {
    for rule in [
        "self.a__dash__b == 'x'",
        "self.__namespace__ == 'n'",
        "self.ips.all(ip, isIP(ip))",
        "self.ips.exists_one(ip, ip.endsWith('.1'))",
        "!isCIDR(self.ips[0]) && isCIDR(self.ips[0] + '/24')",
        "self.ips.map(ip, ip.split('.')[3]) == ['1', '2']",
        "self.name.matches('^[a-z]+$') && self.name.upperAscii() == 'ABC'",
        "self.ips.size() == 2 && size(self.name) == 3",
        "type(self.min) == int",
    ] {
        let schema = with_rule(&json!({ "rule": rule }));
        let value = json!({"spec": {"a-b": "x", "namespace": "n", "name": "abc", "min": 1, "ips": ["192.0.2.1", "192.0.2.2"]}});
        assert_eq!(told(&schema, &value, None), [""; 0], "{rule}");
    }
}

#[test]
fn the_root_sees_the_name_and_nothing_else_of_metadata() {
    let root = schema(
        &json!({"type": "object", "x-kubernetes-validations": [{"rule": "self.metadata.name == 'default'",
        "message": "only one"}, {"rule": "!has(self.metadata.labels)"}],
        "properties": {"metadata": {"type": "object"}}}),
    );
    assert!(
        told(
            &root,
            &json!({"metadata": {"name": "default", "labels": {}}}),
            None
        )
        .is_empty()
    );
    assert_eq!(
        told(&root, &json!({"metadata": {"name": "x"}}), None),
        ["<nil>: Invalid value: \"object\": only one"]
    );
}

#[test]
fn what_cannot_be_evaluated_is_refused_when_it_is_loaded() {
    let refused = |rule: Value| {
        let schema = json!({"type": "object", "x-kubernetes-validations": [rule]});
        Schema::compile(&schema, &serde_json::Map::new())
            .unwrap_err()
            .to_string()
    };
    assert!(refused(json!({"rule": "self.a ="})).contains("x-kubernetes-validations[0]: rule"));
    assert!(
        refused(json!({"rule": "quantity(self.a) > 1"}))
            .ends_with("function \"quantity\" is not supported")
    );
    assert!(
        refused(json!({"rule": "request.user == 'x'"}))
            .ends_with("\"request\" is neither self nor oldSelf")
    );
    assert!(refused(json!({"rule": "true", "optionalOldSelf": true})).contains("optionalOldSelf"));
    assert!(refused(json!({"rule": "true", "reason": "Because"})).contains("reason"));
    assert!(refused(json!({"rule": "true", "fieldPath": "a b"})).contains("fieldPath"));
}
