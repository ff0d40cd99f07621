//! What each built-in kind demands besides its schema. Source: kubernetes/pkg/apis/*/validation.

use std::collections::HashSet;
use std::net::IpAddr;

use serde_json::{Value, json};

use super::names;
use crate::kinds::Rules;
use crate::object::{list, text};
use crate::status::Cause;

/// Largest content of one ConfigMap or Secret, in bytes.
const CONTENT_BYTES: usize = 1024 * 1024;
const SLICE_ENDPOINTS: usize = 1000;
const SLICE_PORTS: usize = 20_000;
const ENDPOINT_ADDRESSES: usize = 100;

/// Checks an object of a built-in kind other than Service; `old` is the object that is replaced.
pub(crate) fn check_kind(rules: Rules, new: &Value, old: Option<&Value>, causes: &mut Vec<Cause>) {
    match rules {
        Rules::Secret => check_secret(new, old, causes),
        Rules::ConfigMap => check_config_map(new, old, causes),
        Rules::EndpointSlice => check_slice(new, old, causes),
        Rules::Lease => check_lease(new, causes),
        Rules::Event => check_event(new, causes),
        Rules::NewEvent => check_new_event(new, old, causes),
        Rules::Node => check_node(new, old, causes),
        Rules::Namespace
        | Rules::Service
        | Rules::Definition
        | Rules::Review
        | Rules::Component
        | Rules::Custom => {}
    }
}

fn immutable(new: &Value, old: Option<&Value>, field: &str, causes: &mut Vec<Cause>) {
    let pointer = format!("/{}", field.replace('.', "/"));
    if let Some(old) = old
        && old.pointer(&pointer) != new.pointer(&pointer)
    {
        causes.push(Cause::invalid(
            field,
            new.pointer(&pointer).unwrap_or(&Value::Null),
            "field is immutable",
        ));
    }
}

/// Keys and size of `data`-like maps, and the `immutable` switch.
fn check_content(new: &Value, old: Option<&Value>, maps: &[&str], causes: &mut Vec<Cause>) {
    let mut bytes = 0;
    for map in maps {
        for (key, value) in new
            .get(map)
            .and_then(Value::as_object)
            .into_iter()
            .flatten()
        {
            bytes += value.as_str().map_or(0, str::len);
            if let Err(detail) = names::config_key(key) {
                causes.push(Cause::invalid(
                    &format!("{map}[{key}]"),
                    &json!(key),
                    &detail,
                ));
            }
        }
    }
    if bytes > CONTENT_BYTES {
        causes.push(Cause::too_long(maps[0], CONTENT_BYTES as u64));
    }
    if let Some(old) = old.filter(|old| old.get("immutable") == Some(&json!(true))) {
        let changed = maps
            .iter()
            .chain(&["immutable"])
            .find(|field| old.get(field) != new.get(field));
        if let Some(field) = changed {
            causes.push(Cause::forbidden(
                field,
                "field is immutable when `immutable` is set",
            ));
        }
    }
}

fn check_secret(new: &Value, old: Option<&Value>, causes: &mut Vec<Cause>) {
    check_content(new, old, &["data"], causes);
    immutable(new, old, "type", causes);
    let required: &[&str] = match text(new, "/type") {
        "kubernetes.io/tls" => &["tls.crt", "tls.key"],
        "kubernetes.io/ssh-auth" => &["ssh-privatekey"],
        "kubernetes.io/dockerconfigjson" => &[".dockerconfigjson"],
        _ => &[],
    };
    for key in required {
        if new.get("data").and_then(|data| data.get(key)).is_none() {
            causes.push(Cause::required(&format!("data[{key}]"), ""));
        }
    }
}

fn check_config_map(new: &Value, old: Option<&Value>, causes: &mut Vec<Cause>) {
    check_content(new, old, &["data", "binaryData"], causes);
    let keys = |map: &str| {
        new.get(map)
            .and_then(Value::as_object)
            .cloned()
            .unwrap_or_default()
    };
    let binary = keys("binaryData");
    for key in keys("data").keys().filter(|key| binary.contains_key(*key)) {
        causes.push(Cause::invalid(
            &format!("data[{key}]"),
            &json!(key),
            "duplicate of key present in binaryData",
        ));
    }
}

fn check_slice(new: &Value, old: Option<&Value>, causes: &mut Vec<Cause>) {
    const TYPES: &[&str] = &["IPv4", "IPv6", "FQDN"];
    let kind = text(new, "/addressType");
    if kind.is_empty() {
        causes.push(Cause::required("addressType", ""));
    } else if !TYPES.contains(&kind) {
        causes.push(Cause::not_supported("addressType", &json!(kind), TYPES));
    }
    immutable(new, old, "addressType", causes);
    let endpoints = list(new, "/endpoints");
    if endpoints.len() > SLICE_ENDPOINTS {
        causes.push(Cause::too_many(
            "endpoints",
            endpoints.len(),
            SLICE_ENDPOINTS as u64,
        ));
        return;
    }
    for (n, endpoint) in endpoints.iter().enumerate() {
        let field = format!("endpoints[{n}].addresses");
        let addresses = list(endpoint, "/addresses");
        if addresses.is_empty() {
            causes.push(Cause::required(&field, "must contain at least 1 address"));
        } else if addresses.len() > ENDPOINT_ADDRESSES {
            causes.push(Cause::too_many(
                &field,
                addresses.len(),
                ENDPOINT_ADDRESSES as u64,
            ));
        }
        for (m, address) in addresses.iter().enumerate() {
            check_address(kind, address, &format!("{field}[{m}]"), causes);
        }
        if let Some(host) = endpoint.get("hostname").and_then(Value::as_str)
            && let Err(detail) = names::label(host)
        {
            causes.push(Cause::invalid(
                &format!("endpoints[{n}].hostname"),
                &json!(host),
                &detail,
            ));
        }
        if let Some(node) = endpoint.get("nodeName").and_then(Value::as_str)
            && let Err(detail) = names::subdomain(node)
        {
            causes.push(Cause::invalid(
                &format!("endpoints[{n}].nodeName"),
                &json!(node),
                &detail,
            ));
        }
    }
    check_slice_ports(list(new, "/ports"), causes);
}

fn check_address(kind: &str, address: &Value, field: &str, causes: &mut Vec<Cause>) {
    let address = address.as_str().unwrap_or_default();
    let refuse = |detail: &str| Some(Cause::invalid(field, &json!(address), detail));
    let cause = match (kind, address.parse::<IpAddr>()) {
        ("IPv4", Ok(IpAddr::V4(ip))) => unusable(IpAddr::V4(ip)).and_then(refuse),
        ("IPv6", Ok(IpAddr::V6(ip))) => unusable(IpAddr::V6(ip)).and_then(refuse),
        ("IPv4", _) => refuse("must be a valid IPv4 address"),
        ("IPv6", _) => refuse("must be a valid IPv6 address"),
        ("FQDN", _) => names::subdomain(address)
            .err()
            .and_then(|detail| refuse(&detail)),
        _ => None,
    };
    causes.extend(cause);
}

/// Why no endpoint can have this address.
fn unusable(ip: IpAddr) -> Option<&'static str> {
    if ip.is_unspecified() {
        return Some("may not be unspecified (0.0.0.0 or ::)");
    }
    if ip.is_loopback() {
        return Some("may not be in the loopback range (127.0.0.0/8, ::1/128)");
    }
    let (link_local, link_local_multicast) = match ip {
        IpAddr::V4(ip) => (ip.is_link_local(), ip.octets()[..3] == [224, 0, 0]),
        IpAddr::V6(ip) => (
            ip.is_unicast_link_local(),
            ip.segments()[0] & 0xff0f == 0xff02,
        ),
    };
    if link_local {
        return Some("may not be in the link-local range (169.254.0.0/16, fe80::/10)");
    }
    link_local_multicast
        .then_some("may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)")
}

fn check_slice_ports(ports: &[Value], causes: &mut Vec<Cause>) {
    if ports.len() > SLICE_PORTS {
        causes.push(Cause::too_many("ports", ports.len(), SLICE_PORTS as u64));
        return;
    }
    let mut seen = HashSet::new();
    for (n, port) in ports.iter().enumerate() {
        let name = text(port, "/name");
        if !seen.insert(name) {
            causes.push(Cause::duplicate(&format!("ports[{n}].name"), &json!(name)));
        }
        if !name.is_empty()
            && let Err(detail) = names::label(name)
        {
            causes.push(Cause::invalid(
                &format!("ports[{n}].name"),
                &json!(name),
                &detail,
            ));
        }
        if let Some(number) = port.get("port").filter(|number| !is_port(number)) {
            let detail = "must be between 1 and 65535, inclusive";
            causes.push(Cause::invalid(&format!("ports[{n}].port"), number, detail));
        }
        let protocol = port.get("protocol").unwrap_or(&Value::Null);
        if !matches!(protocol.as_str(), Some("TCP" | "UDP" | "SCTP")) {
            causes.push(Cause::not_supported(
                &format!("ports[{n}].protocol"),
                protocol,
                &["SCTP", "TCP", "UDP"],
            ));
        }
    }
}

pub(crate) fn is_port(value: &Value) -> bool {
    value
        .as_u64()
        .is_some_and(|port| (1..=65535).contains(&port))
}

fn check_lease(new: &Value, causes: &mut Vec<Cause>) {
    if let Some(seconds) = new
        .pointer("/spec/leaseDurationSeconds")
        .filter(|s| s.as_i64().is_none_or(|s| s <= 0))
    {
        causes.push(Cause::invalid(
            "spec.leaseDurationSeconds",
            seconds,
            "must be greater than 0",
        ));
    }
    if let Some(n) = new
        .pointer("/spec/leaseTransitions")
        .filter(|n| n.as_i64().is_none_or(|n| n < 0))
    {
        causes.push(Cause::invalid(
            "spec.leaseTransitions",
            n,
            "must be greater than or equal to 0",
        ));
    }
}

fn check_event(new: &Value, causes: &mut Vec<Cause>) {
    let namespace = text(new, "/involvedObject/namespace");
    let own = text(new, "/metadata/namespace");
    // Objects of the cluster have no namespace: their events live in "default".
    let fits =
        namespace == own || (namespace.is_empty() && matches!(own, "default" | "kube-system"));
    if !fits {
        causes.push(Cause::invalid(
            "involvedObject.namespace",
            &json!(namespace),
            "does not match event.namespace",
        ));
    }
}

/// Longest note of an event, and longest name of who reports it and what it did. Source: `ValidateEventCreate`.
const NOTE_BYTES: usize = 1024;
const WORD_BYTES: usize = 128;

/// `events.k8s.io` asks for more than core/v1 does, and lets only the series change.
fn check_new_event(new: &Value, old: Option<&Value>, causes: &mut Vec<Cause>) {
    let namespace = text(new, "/regarding/namespace");
    let own = text(new, "/metadata/namespace");
    let fits =
        namespace == own || (namespace.is_empty() && matches!(own, "default" | "kube-system"));
    if !fits {
        let detail = "does not match event.namespace";
        causes.push(Cause::invalid(
            "regarding.namespace",
            &json!(namespace),
            detail,
        ));
    }
    // What an older client wrote through core/v1 need not have what only the newer API asks for.
    if old.is_some() {
        return;
    }
    if text(new, "/eventTime").is_empty() {
        causes.push(Cause::required("eventTime", ""));
    }
    match text(new, "/reportingController") {
        "" => causes.push(Cause::required("reportingController", "")),
        name => {
            if let Err(detail) = names::qualified(name) {
                causes.push(Cause::invalid("reportingController", &json!(name), &detail));
            }
        }
    }
    for field in ["reportingInstance", "action", "reason"] {
        let word = text(new, &format!("/{field}"));
        if word.is_empty() {
            causes.push(Cause::required(field, ""));
        } else if word.len() > WORD_BYTES {
            let detail = format!("can have at most {WORD_BYTES} characters");
            causes.push(Cause::invalid(field, &json!(""), &detail));
        }
    }
    let kind = text(new, "/type");
    if !matches!(kind, "Normal" | "Warning") {
        let detail = format!("has invalid value: {kind}");
        causes.push(Cause::invalid("type", &json!(""), &detail));
    }
    if text(new, "/note").len() > NOTE_BYTES {
        let detail = format!("can have at most {NOTE_BYTES} characters");
        causes.push(Cause::invalid("message", &json!(""), &detail));
    }
}

fn check_node(new: &Value, old: Option<&Value>, causes: &mut Vec<Cause>) {
    let cidrs = list(new, "/spec/podCIDRs");
    for (n, cidr) in cidrs.iter().enumerate() {
        if cidr
            .as_str()
            .and_then(|cidr| cidr.parse::<ipnet::IpNet>().ok())
            .is_none()
        {
            let detail = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";
            causes.push(Cause::invalid(&format!("spec.podCIDRs[{n}]"), cidr, detail));
        }
    }
    let provider = old.map_or("", |old| text(old, "/spec/providerID"));
    if !provider.is_empty() && provider != text(new, "/spec/providerID") {
        causes.push(Cause::forbidden(
            "spec.providerID",
            "node updates may not change providerID except from \"\" to valid",
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn causes(rules: Rules, new: &Value, old: Option<&Value>) -> Vec<String> {
        let mut causes = Vec::new();
        check_kind(rules, new, old, &mut causes);
        causes
            .into_iter()
            .map(|cause| format!("{}: {}", cause.field, cause.message))
            .collect()
    }

    #[test]
    fn slices_hold_addresses_of_their_type() {
        let slice = |kind: &str, address: &str| {
            json!({"addressType": kind, "endpoints": [{"addresses": [address]}],
                "ports": [{"name": "", "protocol": "TCP", "port": 80}]})
        };
        assert!(causes(Rules::EndpointSlice, &slice("IPv4", "192.0.2.1"), None).is_empty());
        assert!(causes(Rules::EndpointSlice, &slice("FQDN", "a.example"), None).is_empty());
        assert_eq!(
            causes(Rules::EndpointSlice, &slice("IPv4", "2001:db8::1"), None),
            [
                "endpoints[0].addresses[0]: Invalid value: \"2001:db8::1\": must be a valid IPv4 address"
            ]
        );
        assert_eq!(
            causes(Rules::EndpointSlice, &slice("IPv5", "x"), None),
            [
                "addressType: Unsupported value: \"IPv5\": supported values: \"IPv4\", \"IPv6\", \"FQDN\""
            ]
        );
        for bad in ["127.0.0.1", "0.0.0.0", "169.254.1.1", "224.0.0.5"] {
            assert_eq!(
                causes(Rules::EndpointSlice, &slice("IPv4", bad), None).len(),
                1,
                "{bad}"
            );
        }
        let moved = causes(
            Rules::EndpointSlice,
            &slice("IPv6", "2001:db8::1"),
            Some(&slice("IPv4", "192.0.2.1")),
        );
        assert_eq!(
            moved,
            ["addressType: Invalid value: \"IPv6\": field is immutable"]
        );
    }

    #[test]
    fn slice_ports_are_checked() {
        let slice = json!({"addressType": "IPv4", "endpoints": [{"addresses": []}],
            "ports": [{"name": "a", "protocol": "TCP", "port": 70000}, {"name": "a", "protocol": "ICMP", "port": 1}]});
        assert_eq!(
            causes(Rules::EndpointSlice, &slice, None),
            [
                "endpoints[0].addresses: Required value: must contain at least 1 address",
                "ports[0].port: Invalid value: 70000: must be between 1 and 65535, inclusive",
                "ports[1].name: Duplicate value: \"a\"",
                "ports[1].protocol: Unsupported value: \"ICMP\": supported values: \"SCTP\", \"TCP\", \"UDP\"",
            ]
        );
    }

    #[test]
    fn secrets_keep_their_type_and_their_keys() {
        let tls = json!({"type": "kubernetes.io/tls", "data": {"tls.crt": "YQ=="}});
        assert_eq!(
            causes(Rules::Secret, &tls, None),
            ["data[tls.key]: Required value"]
        );
        let opaque = json!({"type": "Opaque", "data": {"a/b": "YQ=="}});
        assert_eq!(
            causes(Rules::Secret, &opaque, Some(&json!({"type": "x"}))).len(),
            2
        );
        let frozen = json!({"type": "Opaque", "immutable": true, "data": {"a": "YQ=="}});
        let thawed = json!({"type": "Opaque", "immutable": true, "data": {"a": "Yg=="}});
        assert_eq!(
            causes(Rules::Secret, &thawed, Some(&frozen)),
            ["data: Forbidden: field is immutable when `immutable` is set"]
        );
    }

    #[test]
    fn leases_and_events_are_checked() {
        assert_eq!(
            causes(
                Rules::Lease,
                &json!({"spec": {"leaseDurationSeconds": 0}}),
                None
            )
            .len(),
            1
        );
        let event = json!({"metadata": {"namespace": "a"}, "involvedObject": {"namespace": "b"}});
        assert_eq!(causes(Rules::Event, &event, None).len(), 1);
        let node_event =
            json!({"metadata": {"namespace": "default"}, "involvedObject": {"kind": "Node"}});
        assert!(causes(Rules::Event, &node_event, None).is_empty());
    }
}
