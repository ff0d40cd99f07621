use serde_json::json;

use super::*;
use crate::kinds::Registry;

fn patched(current: &Value, patch: &Value) -> Value {
    let registry = Registry::new(&[]).unwrap();
    let schema = &registry
        .find("", "v1", "services")
        .unwrap()
        .version()
        .schema;
    let mut object = current.clone();
    merge(schema, &mut object, patch).unwrap();
    object
}

#[test]
fn ports_merge_by_number() {
    let current = json!({"spec": {"ports": [{"name": "a", "port": 80, "nodePort": 30001}, {"name": "b", "port": 443}]}});
    let patch =
        json!({"spec": {"ports": [{"port": 80, "targetPort": 8080}, {"port": 90, "name": "c"}]}});
    assert_eq!(
        patched(&current, &patch)["spec"]["ports"],
        json!([{"name": "a", "port": 80, "nodePort": 30001, "targetPort": 8080}, {"name": "b", "port": 443},
               {"name": "c", "port": 90}])
    );
}

#[test]
fn adding_a_second_protocol_keeps_the_first() {
    // What `kubectl apply` sends when 53/UDP joins 53/TCP.
    let current = json!({"spec": {"ports": [{"name": "dns-tcp", "port": 53, "protocol": "TCP"}]}});
    let patch = json!({"spec": {"$setElementOrder/ports": [{"port": 53}, {"port": 53}],
        "ports": [{"name": "dns", "port": 53, "protocol": "UDP"}]}});
    assert_eq!(
        patched(&current, &patch)["spec"]["ports"],
        json!([{"name": "dns-tcp", "port": 53, "protocol": "TCP"}, {"name": "dns", "port": 53, "protocol": "UDP"}])
    );
}

#[test]
fn one_of_two_protocols_goes_by_their_common_number() {
    let current = json!({"spec": {"ports": [{"port": 80}, {"name": "t", "port": 53, "protocol": "TCP"},
        {"name": "u", "port": 53, "protocol": "UDP"}]}});
    let names = |patch: Value| -> Vec<String> {
        let patched = patched(&current, &json!({ "spec": patch }));
        let ports = patched["spec"]["ports"].as_array().unwrap().iter();
        ports
            .map(|port| port["name"].as_str().unwrap_or("-").to_owned())
            .collect()
    };
    let gone = json!({"port": 53, "$patch": "delete"});
    assert_eq!(
        names(json!({"$setElementOrder/ports": [{"port": 80}], "ports": [gone, gone]})),
        ["-"]
    );
    let order = json!([{"port": 80}, {"port": 53}]);
    assert_eq!(
        names(json!({"$setElementOrder/ports": order, "ports": [gone]})),
        ["-", "t"]
    );
    let kept = json!({"name": "u", "port": 53, "protocol": "UDP"});
    assert_eq!(
        names(json!({"$setElementOrder/ports": order, "ports": [kept, gone]})),
        ["-", "u"]
    );
}

#[test]
fn changing_the_only_protocol_of_a_port_changes_it() {
    let current = json!({"spec": {"ports": [{"port": 53, "protocol": "TCP"}]}});
    let patch = json!({"spec": {"$setElementOrder/ports": [{"port": 53}], "ports": [{"port": 53, "protocol": "UDP"}]}});
    assert_eq!(
        patched(&current, &patch)["spec"]["ports"],
        json!([{"port": 53, "protocol": "UDP"}])
    );
}

#[test]
fn directives_delete_replace_and_order() {
    let current = json!({"metadata": {"finalizers": ["a", "b"], "labels": {"x": "1", "y": "2"}},
        "spec": {"ports": [{"port": 1}, {"port": 2}, {"port": 3}], "selector": {"app": "web"}}});
    let patch = json!({
        "metadata": {"$deleteFromPrimitiveList/finalizers": ["a"], "finalizers": ["c"], "labels": {"x": null}},
        "spec": {"$setElementOrder/ports": [{"port": 3}, {"port": 1}],
            "ports": [{"port": 2, "$patch": "delete"}],
            "selector": {"$patch": "replace", "tier": "a"}}});
    assert_eq!(
        patched(&current, &patch),
        json!({"metadata": {"finalizers": ["b", "c"], "labels": {"y": "2"}},
            "spec": {"ports": [{"port": 3}, {"port": 1}], "selector": {"tier": "a"}}})
    );
    let whole = json!({"spec": {"ports": [{"$patch": "replace"}, {"port": 9}]}});
    assert_eq!(
        patched(&current, &whole)["spec"]["ports"],
        json!([{"port": 9}])
    );
    let retained = json!({"spec": {"$retainKeys": ["type"], "type": "ClusterIP"}});
    assert_eq!(
        patched(&current, &retained)["spec"],
        json!({"type": "ClusterIP"})
    );
}

#[test]
fn conditions_merge_by_type_and_plain_lists_are_replaced() {
    let current = json!({"spec": {"externalIPs": ["192.0.2.1"]}, "status": {"conditions": [{"type": "A", "status": "True"}]}});
    let patch = json!({"spec": {"externalIPs": ["192.0.2.2"]},
        "status": {"conditions": [{"type": "B", "status": "False"}, {"type": "A", "reason": "r"}]}});
    assert_eq!(
        patched(&current, &patch),
        json!({"spec": {"externalIPs": ["192.0.2.2"]}, "status": {"conditions": [
            {"type": "A", "status": "True", "reason": "r"}, {"type": "B", "status": "False"}]}})
    );
}

#[test]
fn a_patch_without_its_merge_key_is_refused() {
    let registry = Registry::new(&[]).unwrap();
    let schema = &registry
        .find("", "v1", "services")
        .unwrap()
        .version()
        .schema;
    let mut object = json!({"spec": {"ports": [{"port": 1}]}});
    let error = merge(
        schema,
        &mut object,
        &json!({"spec": {"ports": [{"name": "x"}]}}),
    )
    .unwrap_err();
    assert!(
        error.contains("does not contain declared merge key: port"),
        "{error}"
    );
    let error = merge(schema, &mut object, &json!({"spec": {"$patch": "explode"}})).unwrap_err();
    assert!(error.contains("unknown directive"), "{error}");
}
