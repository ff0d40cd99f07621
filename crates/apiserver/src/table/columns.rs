//! The columns of the built-in kinds. Source: kubernetes/pkg/printers/internalversion, as users see it.

use serde_json::{Value, json};
use time::OffsetDateTime;

use super::{Column, age, age_column, made, name_column};
use crate::kinds::Rules;
use crate::object::{list, text};

const NONE: &str = "<none>";

/// The columns of a built-in kind; custom resources bring their own.
pub(crate) fn columns_of(rules: Rules) -> Vec<Column> {
    match rules {
        Rules::Namespace => vec![
            name_column(),
            made("Status", 0, |ns, _| {
                json!(or(text(ns, "/status/phase"), "Active"))
            }),
            age_column(),
        ],
        Rules::Node => node(),
        Rules::Service => vec![
            name_column(),
            made("Type", 0, |svc, _| json!(text(svc, "/spec/type"))),
            made("Cluster-IP", 0, |svc, _| {
                json!(or(text(svc, "/spec/clusterIP"), NONE))
            }),
            made("External-IP", 0, external_ip),
            made("Port(s)", 0, service_ports),
            age_column(),
            made("Selector", 1, |svc, _| {
                json!(labels(svc.pointer("/spec/selector")))
            }),
        ],
        Rules::Secret => vec![
            name_column(),
            made("Type", 0, |secret, _| json!(text(secret, "/type"))),
            made("Data", 0, |secret, _| {
                json!(entries(secret, "/data").to_string())
            }),
            age_column(),
        ],
        Rules::ConfigMap => vec![
            name_column(),
            made("Data", 0, |map, _| {
                json!((entries(map, "/data") + entries(map, "/binaryData")).to_string())
            }),
            age_column(),
        ],
        Rules::Event | Rules::NewEvent => event(),
        Rules::EndpointSlice => vec![
            name_column(),
            made("AddressType", 0, |slice, _| {
                json!(text(slice, "/addressType"))
            }),
            made("Ports", 0, slice_ports),
            made("Endpoints", 0, |slice, _| {
                let endpoints = list(slice, "/endpoints").iter();
                let all = endpoints
                    .flat_map(|endpoint| list(endpoint, "/addresses"))
                    .filter_map(Value::as_str);
                json!(first_three(&all.map(str::to_owned).collect::<Vec<_>>()))
            }),
            age_column(),
        ],
        Rules::Lease => vec![
            name_column(),
            made("Holder", 0, |lease, _| {
                json!(text(lease, "/spec/holderIdentity"))
            }),
            age_column(),
        ],
        Rules::Definition => vec![
            name_column(),
            made("Created At", 0, |definition, _| {
                json!(text(definition, "/metadata/creationTimestamp"))
            }),
        ],
        Rules::Component => component(),
        Rules::Review | Rules::Custom => vec![name_column(), age_column()],
    }
}

fn node() -> Vec<Column> {
    vec![
        name_column(),
        made("Status", 0, node_status),
        made("Roles", 0, node_roles),
        age_column(),
        made("Version", 0, |node, _| {
            json!(text(node, "/status/nodeInfo/kubeletVersion"))
        }),
        made("Internal-IP", 1, |node, _| {
            json!(node_address(node, "InternalIP"))
        }),
        made("External-IP", 1, |node, _| {
            json!(node_address(node, "ExternalIP"))
        }),
        made("OS-Image", 1, |node, _| {
            json!(or(text(node, "/status/nodeInfo/osImage"), "<unknown>"))
        }),
        made("Kernel-Version", 1, |node, _| {
            json!(or(
                text(node, "/status/nodeInfo/kernelVersion"),
                "<unknown>"
            ))
        }),
        made("Container-Runtime", 1, |node, _| {
            json!(or(
                text(node, "/status/nodeInfo/containerRuntimeVersion"),
                "<unknown>"
            ))
        }),
    ]
}

fn event() -> Vec<Column> {
    vec![
        made("Last Seen", 0, |event, now| {
            json!(age(last_seen(event), now))
        }),
        made("Type", 0, |event, _| json!(text(event, "/type"))),
        made("Reason", 0, |event, _| json!(text(event, "/reason"))),
        made("Object", 0, |event, _| {
            let (kind, name) = (
                either(event, "/involvedObject/kind", "/regarding/kind"),
                either(event, "/involvedObject/name", "/regarding/name"),
            );
            json!(format!("{}/{name}", kind.to_lowercase()))
        }),
        made("Subobject", 1, |event, _| {
            json!(either(
                event,
                "/involvedObject/fieldPath",
                "/regarding/fieldPath"
            ))
        }),
        made("Source", 1, |event, _| {
            let (component, host) = (
                either(event, "/source/component", "/deprecatedSource/component"),
                either(event, "/source/host", "/deprecatedSource/host"),
            );
            let component = or(
                component,
                either(event, "/reportingComponent", "/reportingController"),
            );
            json!(if host.is_empty() {
                component.to_owned()
            } else {
                format!("{component}, {host}")
            })
        }),
        made("Message", 0, |event, _| {
            json!(either(event, "/message", "/note").trim())
        }),
        made("First Seen", 1, |event, now| {
            let first = or(
                either(event, "/firstTimestamp", "/deprecatedFirstTimestamp"),
                text(event, "/eventTime"),
            );
            json!(age(first, now))
        }),
        made("Count", 1, |event, _| {
            let count = event
                .pointer("/series/count")
                .or_else(|| event.get("count"))
                .or_else(|| event.get("deprecatedCount"))
                .and_then(Value::as_i64);
            json!(count.unwrap_or(1).to_string())
        }),
        Column {
            priority: 1,
            ..name_column()
        },
    ]
}

/// The text of a field of an event under its core name or under its newer one.
fn either<'a>(event: &'a Value, core: &str, new: &str) -> &'a str {
    or(text(event, core), text(event, new))
}

/// Source: `componentStatusColumnDefinitions`.
fn component() -> Vec<Column> {
    vec![
        name_column(),
        made("Status", 0, |component, _| {
            json!(match text(health_of(component), "/status") {
                "True" => "Healthy",
                "False" => "Unhealthy",
                _ => "Unknown",
            })
        }),
        made("Message", 0, |component, _| {
            json!(text(health_of(component), "/message"))
        }),
        made("Error", 0, |component, _| {
            json!(text(health_of(component), "/error"))
        }),
    ]
}

/// The condition `Healthy` of a ComponentStatus.
fn health_of(component: &Value) -> &Value {
    let mut all = list(component, "/conditions").iter();
    all.find(|condition| text(condition, "/type") == "Healthy")
        .unwrap_or(&Value::Null)
}

fn last_seen(event: &Value) -> &str {
    let series = text(event, "/series/lastObservedTime");
    or(
        or(
            series,
            either(event, "/lastTimestamp", "/deprecatedLastTimestamp"),
        ),
        text(event, "/eventTime"),
    )
}

const fn or<'a>(text: &'a str, other: &'a str) -> &'a str {
    if text.is_empty() { other } else { text }
}

fn entries(object: &Value, pointer: &str) -> usize {
    object
        .pointer(pointer)
        .and_then(Value::as_object)
        .map_or(0, serde_json::Map::len)
}

fn labels(map: Option<&Value>) -> String {
    let Some(map) = map.and_then(Value::as_object).filter(|map| !map.is_empty()) else {
        return NONE.to_owned();
    };
    let pairs: Vec<String> = map
        .iter()
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
        .collect();
    pairs.join(",")
}

fn external_ip(service: &Value, _now: OffsetDateTime) -> Value {
    let words = |pointer: &str| -> Vec<String> {
        list(service, pointer)
            .iter()
            .filter_map(Value::as_str)
            .map(str::to_owned)
            .collect()
    };
    let mut shown = match text(service, "/spec/type") {
        "ExternalName" => return json!(text(service, "/spec/externalName")),
        "LoadBalancer" => list(service, "/status/loadBalancer/ingress")
            .iter()
            .map(|ingress| or(text(ingress, "/ip"), text(ingress, "/hostname")).to_owned())
            .filter(|address| !address.is_empty())
            .collect(),
        _ => Vec::new(),
    };
    shown.extend(words("/spec/externalIPs"));
    match (shown.is_empty(), text(service, "/spec/type")) {
        (true, "LoadBalancer") => json!("<pending>"),
        (true, _) => json!(NONE),
        (false, _) => json!(shown.join(",")),
    }
}

fn service_ports(service: &Value, _now: OffsetDateTime) -> Value {
    let number = |port: &Value, field: &str| port.get(field).and_then(Value::as_u64).unwrap_or(0);
    let shown: Vec<String> = list(service, "/spec/ports")
        .iter()
        .map(|port| match number(port, "nodePort") {
            0 => format!("{}/{}", number(port, "port"), text(port, "/protocol")),
            node_port => format!(
                "{}:{node_port}/{}",
                number(port, "port"),
                text(port, "/protocol")
            ),
        })
        .collect();
    json!(if shown.is_empty() {
        NONE.to_owned()
    } else {
        shown.join(",")
    })
}

fn slice_ports(slice: &Value, _now: OffsetDateTime) -> Value {
    let number = |port: &Value| {
        port.get("port")
            .map_or_else(|| "*".to_owned(), Value::to_string)
    };
    let ports: Vec<String> = list(slice, "/ports").iter().map(number).collect();
    json!(first_three(&ports))
}

fn first_three(all: &[String]) -> String {
    const SHOWN: usize = 3;
    match all.len() {
        0 => "<unset>".to_owned(),
        n if n > SHOWN => format!("{} + {} more...", all[..SHOWN].join(","), n - SHOWN),
        _ => all.join(","),
    }
}

fn node_address<'a>(node: &'a Value, kind: &str) -> &'a str {
    let found = list(node, "/status/addresses")
        .iter()
        .find(|address| text(address, "/type") == kind);
    found.map_or(NONE, |address| text(address, "/address"))
}

fn node_status(node: &Value, _now: OffsetDateTime) -> Value {
    let ready = list(node, "/status/conditions")
        .iter()
        .find(|condition| text(condition, "/type") == "Ready");
    let status = match ready.map(|condition| text(condition, "/status")) {
        Some("True") => "Ready",
        Some(_) => "NotReady",
        None => "Unknown",
    };
    let cordoned = node.pointer("/spec/unschedulable") == Some(&json!(true));
    json!(if cordoned {
        format!("{status},SchedulingDisabled")
    } else {
        status.to_owned()
    })
}

fn node_roles(node: &Value, _now: OffsetDateTime) -> Value {
    let labels = node.pointer("/metadata/labels").and_then(Value::as_object);
    let keys = labels.into_iter().flat_map(serde_json::Map::keys);
    let roles: Vec<&str> = keys
        .filter_map(|key| key.strip_prefix("node-role.kubernetes.io/"))
        .filter(|role| !role.is_empty())
        .collect();
    json!(if roles.is_empty() {
        NONE.to_owned()
    } else {
        roles.join(",")
    })
}
