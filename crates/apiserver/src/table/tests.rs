use serde_json::json;
use time::macros::datetime;

use super::*;
use crate::kinds::Rules;

fn row(rules: Rules, object: &Value) -> Vec<Value> {
    let now = datetime!(2026-01-02 00:00:00 UTC);
    let table = table(
        &columns_of(rules),
        std::slice::from_ref(object),
        &json!({}),
        Include::Metadata,
        true,
        now,
    );
    table["rows"][0]["cells"].as_array().unwrap().clone()
}

#[test]
fn ages_read_as_kubectl_writes_them() {
    for (seconds, text) in [
        (-5, "<invalid>"),
        (-1, "0s"),
        (119, "119s"),
        (120, "2m"),
        (125, "2m5s"),
        (599, "9m59s"),
        (600, "10m"),
        (3 * 3600 - 1, "179m"),
        (3 * 3600 + 60, "3h1m"),
        (8 * 3600, "8h"),
        (47 * 3600, "47h"),
        (48 * 3600, "2d"),
        (7 * 86400 + 3600, "7d1h"),
        (8 * 86400, "8d"),
        (729 * 86400, "729d"),
        (730 * 86400, "2y"),
        (800 * 86400, "2y70d"),
    ] {
        assert_eq!(human(seconds), text, "{seconds}");
    }
}

#[test]
fn services_look_as_in_any_cluster() {
    let service = json!({"metadata": {"name": "web", "creationTimestamp": "2026-01-01T23:59:00Z"},
        "spec": {"type": "LoadBalancer", "clusterIP": "10.96.0.7", "selector": {"app": "web", "tier": "a"},
            "ports": [{"port": 80, "protocol": "TCP", "nodePort": 30080}, {"port": 53, "protocol": "UDP"}]},
        "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}, {"ip": "2001:db8::1"}]}}});
    assert_eq!(
        row(Rules::Service, &service),
        [
            json!("web"),
            json!("LoadBalancer"),
            json!("10.96.0.7"),
            json!("192.0.2.1,2001:db8::1"),
            json!("80:30080/TCP,53/UDP"),
            json!("60s"),
            json!("app=web,tier=a")
        ]
    );
    let mut waiting = service.clone();
    waiting["status"] = json!({"loadBalancer": {}});
    assert_eq!(row(Rules::Service, &waiting)[3], json!("<pending>"));
    let headless =
        json!({"metadata": {"name": "h"}, "spec": {"type": "ClusterIP", "clusterIP": "None"}});
    assert_eq!(
        row(Rules::Service, &headless)[2..6],
        [
            json!("None"),
            json!("<none>"),
            json!("<none>"),
            json!("<unknown>")
        ]
    );
}

#[test]
fn nodes_and_slices_and_events_have_their_columns() {
    let node = json!({"metadata": {"name": "n", "labels": {"node-role.kubernetes.io/control-plane": ""}},
        "spec": {"unschedulable": true},
        "status": {"conditions": [{"type": "Ready", "status": "True"}],
            "addresses": [{"type": "InternalIP", "address": "192.0.2.9"}]}});
    let cells = row(Rules::Node, &node);
    assert_eq!(
        cells[1..3],
        [json!("Ready,SchedulingDisabled"), json!("control-plane")]
    );
    assert_eq!(cells[5..7], [json!("192.0.2.9"), json!("<none>")]);

    let slice = json!({"metadata": {"name": "s"}, "addressType": "IPv4", "ports": [{"port": 8080}],
        "endpoints": [{"addresses": ["10.0.0.1"]}, {"addresses": ["10.0.0.2"]}, {"addresses": ["10.0.0.3"]},
            {"addresses": ["10.0.0.4"]}]});
    assert_eq!(
        row(Rules::EndpointSlice, &slice)[3],
        json!("10.0.0.1,10.0.0.2,10.0.0.3 + 1 more...")
    );

    let event = json!({"metadata": {"name": "e"}, "involvedObject": {"kind": "Service", "name": "web"},
        "type": "Warning", "reason": "NoAddress", "message": "m\n", "lastTimestamp": "2026-01-01T23:59:30Z"});
    let cells = row(Rules::Event, &event);
    assert_eq!(
        cells[0..4],
        [
            json!("30s"),
            json!("Warning"),
            json!("NoAddress"),
            json!("service/web")
        ]
    );
}

#[test]
fn custom_columns_follow_their_paths() {
    let column = |kind: &str, path: &str| {
        parse_column(&json!({"name": "C", "type": kind, "jsonPath": path})).unwrap()
    };
    let object = json!({"spec": {"disabled": false}, "metadata": {"creationTimestamp": "2026-01-01T00:00:00Z"},
        "status": {"conditions": [{"type": "cilium.io/IPsAvailable", "message": "253"}]}});
    let now = datetime!(2026-01-02 00:00:00 UTC);
    let cell = |column: Column| column.cell(&object, now);
    assert_eq!(cell(column("boolean", ".spec.disabled")), json!(false));
    assert_eq!(cell(column("string", ".spec.missing")), Value::Null);
    assert_eq!(
        cell(column("date", ".metadata.creationTimestamp")),
        json!("24h")
    );
    let path = ".status.conditions[?(@.type==\"cilium.io/IPsAvailable\")].message";
    assert_eq!(cell(column("string", path)), json!("253"));
    assert_eq!(cell(column("integer", path)), json!(253));
    assert!(parse_column(&json!({"name": "C", "type": "colour", "jsonPath": ".a"})).is_err());
}
