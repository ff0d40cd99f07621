//! What is refused in a Service. Source: kubernetes/pkg/apis/core/validation, ValidateService and ValidateServiceUpdate.

use std::collections::HashSet;
use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::{Value, json};

use super::allocate::{Allocated, Family, NODE_PORTS};
use super::defaults::{has_health_port, is_external, is_headless};
use crate::object::{self, list, text};
use crate::status::Cause;
use crate::validate::{is_port, names};

const TYPES: &[&str] = &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
const POLICIES: &[&str] = &["Cluster", "Local"];
const PORT_RANGE: &str = "must be between 1 and 65535, inclusive";
const BAD_IP: &str = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
const BAD_CIDR: &str = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";

pub(super) fn check(
    new: &Value,
    old: Option<&Value>,
    allocated: &Allocated,
    causes: &mut Vec<Cause>,
) {
    one_of(new, "type", TYPES, causes);
    one_of(new, "sessionAffinity", &["ClientIP", "None"], causes);
    one_of(new, "internalTrafficPolicy", POLICIES, causes);
    one_of(new, "externalTrafficPolicy", POLICIES, causes);
    one_of(
        new,
        "ipFamilyPolicy",
        &["SingleStack", "PreferDualStack", "RequireDualStack"],
        causes,
    );
    one_of(
        new,
        "trafficDistribution",
        &["PreferClose", "PreferSameZone", "PreferSameNode"],
        causes,
    );
    check_ports(new, allocated, causes);
    check_selector(new, causes);
    check_affinity(new, causes);
    check_families(new, causes);
    check_cluster_ips(new, old, allocated, causes);
    check_external(new, causes);
    check_load_balancer(new, old, allocated, causes);
    for (n, ingress) in list(new, "/status/loadBalancer/ingress").iter().enumerate() {
        let ip = text(ingress, "/ip");
        if !ip.is_empty() && ip.parse::<IpAddr>().is_err() {
            causes.push(Cause::invalid(
                &format!("status.loadBalancer.ingress[{n}].ip"),
                &json!(ip),
                BAD_IP,
            ));
        }
    }
}

fn one_of(service: &Value, field: &str, supported: &[&str], causes: &mut Vec<Cause>) {
    if let Some(value) = service["spec"]
        .get(field)
        .filter(|value| !value.as_str().is_some_and(|v| supported.contains(&v)))
    {
        causes.push(Cause::not_supported(
            &format!("spec.{field}"),
            value,
            supported,
        ));
    }
}

/// Namespace and name, as the index of addresses names holders.
fn holder(service: &Value) -> (&str, &str) {
    (object::meta(service, "namespace"), object::name(service))
}

/// What earlier ports of the same Service have.
#[derive(Default)]
struct Seen {
    names: HashSet<String>,
    ports: HashSet<(String, String)>,
    node_ports: HashSet<(String, String)>,
}

fn check_ports(new: &Value, allocated: &Allocated, causes: &mut Vec<Cause>) {
    let ports = list(new, "/spec/ports");
    let kind = text(new, "/spec/type");
    if ports.is_empty() && kind != "ExternalName" && !is_headless(new) {
        causes.push(Cause::required("spec.ports", ""));
    }
    let mut seen = Seen::default();
    for (n, port) in ports.iter().enumerate() {
        let field = |name: &str| format!("spec.ports[{n}].{name}");
        check_port_name(ports.len() == 1, port, &field("name"), &mut seen, causes);
        match port.get("port") {
            None => causes.push(Cause::required(&field("port"), "")),
            Some(number) if !is_port(number) => {
                causes.push(Cause::invalid(&field("port"), number, PORT_RANGE));
            }
            Some(_) => {}
        }
        let protocol = &port["protocol"];
        if !matches!(protocol.as_str(), Some("TCP" | "UDP" | "SCTP")) {
            causes.push(Cause::not_supported(
                &field("protocol"),
                protocol,
                &["SCTP", "TCP", "UDP"],
            ));
        }
        match port.get("targetPort") {
            Some(number @ Value::Number(_)) if !is_port(number) => {
                causes.push(Cause::invalid(&field("targetPort"), number, PORT_RANGE));
            }
            Some(Value::String(name)) => {
                if let Err(detail) = names::port_name(name) {
                    causes.push(Cause::invalid(&field("targetPort"), &json!(name), &detail));
                }
            }
            _ => {}
        }
        if !seen
            .ports
            .insert((port["port"].to_string(), protocol.to_string()))
        {
            let twin = json!({ "port": port["port"], "protocol": protocol });
            causes.push(Cause::duplicate(&format!("spec.ports[{n}]"), &twin));
        }
        check_node_port(new, port, &field("nodePort"), allocated, &mut seen, causes);
    }
}

fn check_port_name(
    only: bool,
    port: &Value,
    field: &str,
    seen: &mut Seen,
    causes: &mut Vec<Cause>,
) {
    let name = text(port, "/name");
    if name.is_empty() {
        if !only {
            causes.push(Cause::required(field, ""));
        }
        return;
    }
    if let Err(detail) = names::label(name) {
        causes.push(Cause::invalid(field, &json!(name), &detail));
    } else if !seen.names.insert(name.to_owned()) {
        causes.push(Cause::duplicate(field, &json!(name)));
    }
}

fn check_node_port(
    new: &Value,
    port: &Value,
    field: &str,
    allocated: &Allocated,
    seen: &mut Seen,
    causes: &mut Vec<Cause>,
) {
    let Some(value) = port.get("nodePort") else {
        return;
    };
    let kind = text(new, "/spec/type");
    if !matches!(kind, "NodePort" | "LoadBalancer") {
        causes.push(Cause::forbidden(
            field,
            &format!("may not be used when `type` is '{kind}'"),
        ));
        return;
    }
    let protocol = text(port, "/protocol");
    if !seen
        .node_ports
        .insert((value.to_string(), protocol.to_owned()))
    {
        causes.push(Cause::duplicate(field, value));
    }
    check_node_port_number(new, value, protocol, field, allocated, causes);
}

fn check_node_port_number(
    new: &Value,
    value: &Value,
    protocol: &str,
    field: &str,
    allocated: &Allocated,
    causes: &mut Vec<Cause>,
) {
    match value
        .as_u64()
        .and_then(|port| u16::try_from(port).ok())
        .filter(|port| NODE_PORTS.contains(port))
    {
        None => {
            let detail = format!(
                "provided port is not in the valid range. The range of valid ports is {}-{}",
                NODE_PORTS.start(),
                NODE_PORTS.end()
            );
            causes.push(Cause::invalid(field, value, &detail));
        }
        Some(port) if allocated.port_taken(port, protocol, holder(new)) => {
            causes.push(Cause::invalid(
                field,
                value,
                "provided port is already allocated",
            ));
        }
        Some(_) => {}
    }
}

fn check_selector(new: &Value, causes: &mut Vec<Cause>) {
    for (key, value) in new
        .pointer("/spec/selector")
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
    {
        if let Err(detail) = names::qualified(key) {
            causes.push(Cause::invalid("spec.selector", &json!(key), &detail));
        }
        if let Err(detail) = value.as_str().map_or(Ok(()), names::label_value) {
            causes.push(Cause::invalid("spec.selector", value, &detail));
        }
    }
}

fn check_affinity(new: &Value, causes: &mut Vec<Cause>) {
    const LONGEST: i64 = 86_400;
    if let Some(seconds) = new.pointer("/spec/sessionAffinityConfig/clientIP/timeoutSeconds")
        && seconds.as_i64().is_none_or(|s| s <= 0 || s > LONGEST)
    {
        let field = "spec.sessionAffinityConfig.clientIP.timeoutSeconds";
        let detail = format!("must be greater than 0 and less than {LONGEST}");
        causes.push(Cause::invalid(field, seconds, &detail));
    }
}

fn check_families(new: &Value, causes: &mut Vec<Cause>) {
    let families = list(new, "/spec/ipFamilies");
    for (n, family) in families.iter().enumerate() {
        let field = format!("spec.ipFamilies[{n}]");
        if family.as_str().and_then(Family::parse).is_none() {
            causes.push(Cause::not_supported(&field, family, &["IPv4", "IPv6"]));
        } else if families[..n].contains(family) {
            causes.push(Cause::duplicate(&field, family));
        }
    }
}

fn check_cluster_ips(
    new: &Value,
    old: Option<&Value>,
    allocated: &Allocated,
    causes: &mut Vec<Cause>,
) {
    let ips = list(new, "/spec/clusterIPs");
    let kind = text(new, "/spec/type");
    if kind == "ExternalName" {
        if !ips.is_empty() {
            causes.push(Cause::forbidden(
                "spec.clusterIPs",
                "may not be set when type is 'ExternalName'",
            ));
        }
        return;
    }
    let before = causes.len();
    if let Some(old) = old.filter(|old| text(old, "/spec/type") != "ExternalName") {
        keeps_first(new, old, "clusterIPs", causes);
        keeps_first(new, old, "ipFamilies", causes);
    }
    if ips
        .first()
        .is_some_and(|first| *first != new["spec"]["clusterIP"])
    {
        causes.push(Cause::invalid(
            "spec.clusterIPs",
            &json!(ips),
            "first value must match `clusterIP`",
        ));
    }
    if ips.len() > 2 {
        causes.push(Cause::invalid(
            "spec.clusterIPs",
            &json!(ips),
            "may only hold up to 2 values",
        ));
    }
    if causes.len() > before {
        return;
    }
    check_each_ip(new, ips, allocated, causes);
}

fn check_each_ip(new: &Value, ips: &[Value], allocated: &Allocated, causes: &mut Vec<Cause>) {
    let kind = text(new, "/spec/type");
    for (n, value) in ips.iter().enumerate() {
        let field = format!("spec.clusterIPs[{n}]");
        match value.as_str().unwrap_or_default() {
            "None" if ips.len() > 1 => {
                causes.push(Cause::invalid(
                    &field,
                    value,
                    "'None' must be the first and only value",
                ));
            }
            "None" if kind != "ClusterIP" => {
                let detail = format!("may not be set to 'None' for {kind} services");
                causes.push(Cause::invalid(&field, value, &detail));
            }
            "None" => {}
            _ if ips[..n].contains(value) => causes.push(Cause::duplicate(&field, value)),
            ip => match ip.parse::<IpAddr>() {
                Ok(ip) => check_range(new, ip, value, &field, allocated, causes),
                Err(_) => causes.push(Cause::invalid(&field, value, BAD_IP)),
            },
        }
    }
}

/// The first address, and its family, stay for life.
fn keeps_first(new: &Value, old: &Value, name: &str, causes: &mut Vec<Cause>) {
    let first = |service: &Value| list(service, &format!("/spec/{name}")).first().cloned();
    if let (Some(new), Some(old)) = (first(new), first(old))
        && new != old
    {
        causes.push(Cause::invalid(
            &format!("spec.{name}[0]"),
            &new,
            "may not change once set",
        ));
    }
}

fn check_range(
    new: &Value,
    ip: IpAddr,
    value: &Value,
    field: &str,
    allocated: &Allocated,
    causes: &mut Vec<Cause>,
) {
    let detail = match allocated.cidr(Family::of(ip)) {
        None => format!(
            "failed to allocate IP {ip}: {} is not configured on this cluster",
            Family::of(ip).word()
        ),
        Some(cidr) if !cidr.contains(&ip) => format!(
            "failed to allocate IP {ip}: the provided IP is not in the valid range. The range of valid IPs is {cidr}"
        ),
        Some(_) if allocated.ip_taken(ip, holder(new)) => {
            format!("failed to allocate IP {ip}: provided IP is already allocated")
        }
        Some(_) => return,
    };
    causes.push(Cause::invalid(field, value, &detail));
}

fn check_external(new: &Value, causes: &mut Vec<Cause>) {
    for (n, value) in list(new, "/spec/externalIPs").iter().enumerate() {
        let field = format!("spec.externalIPs[{n}]");
        match value.as_str().unwrap_or_default().parse::<IpAddr>() {
            Err(_) => causes.push(Cause::invalid(&field, value, BAD_IP)),
            Ok(ip) if ip.is_unspecified() || ip.is_loopback() => {
                causes.push(Cause::invalid(
                    &field,
                    value,
                    "may not be unspecified or in the loopback range",
                ));
            }
            Ok(_) => {}
        }
    }
    if text(new, "/spec/type") == "ExternalName" {
        let name = text(new, "/spec/externalName");
        // A trailing dot says that the name is complete.
        let bare = name.strip_suffix('.').unwrap_or(name);
        if bare.is_empty() {
            causes.push(Cause::required("spec.externalName", ""));
        } else if let Err(detail) = names::subdomain(bare) {
            causes.push(Cause::invalid("spec.externalName", &json!(name), &detail));
        }
    }
    if new["spec"].get("externalTrafficPolicy").is_some() && !is_external(new) {
        let value = &new["spec"]["externalTrafficPolicy"];
        let detail = "may only be set for externally-accessible services";
        causes.push(Cause::invalid("spec.externalTrafficPolicy", value, detail));
    }
}

fn check_load_balancer(
    new: &Value,
    old: Option<&Value>,
    allocated: &Allocated,
    causes: &mut Vec<Cause>,
) {
    let is_lb = text(new, "/spec/type") == "LoadBalancer";
    for field in [
        "allocateLoadBalancerNodePorts",
        "loadBalancerClass",
        "loadBalancerSourceRanges",
    ] {
        if !is_lb
            && new["spec"]
                .get(field)
                .is_some_and(|value| *value != json!([]))
        {
            let detail = "may only be used when `type` is 'LoadBalancer'";
            causes.push(Cause::forbidden(&format!("spec.{field}"), detail));
        }
    }
    for (n, range) in list(new, "/spec/loadBalancerSourceRanges")
        .iter()
        .enumerate()
    {
        if range
            .as_str()
            .unwrap_or_default()
            .trim()
            .parse::<IpNet>()
            .is_err()
        {
            causes.push(Cause::invalid(
                &format!("spec.loadBalancerSourceRanges[{n}]"),
                range,
                BAD_CIDR,
            ));
        }
    }
    let class = text(new, "/spec/loadBalancerClass");
    if is_lb
        && !class.is_empty()
        && let Err(detail) = names::qualified(class)
    {
        causes.push(Cause::invalid(
            "spec.loadBalancerClass",
            &json!(class),
            &detail,
        ));
    }
    let was_lb = old.filter(|old| is_lb && text(old, "/spec/type") == "LoadBalancer");
    if was_lb.is_some_and(|old| text(old, "/spec/loadBalancerClass") != class) {
        causes.push(Cause::invalid(
            "spec.loadBalancerClass",
            &json!(class),
            "may not change once set",
        ));
    }
    check_health_port(new, was_lb, allocated, causes);
}

fn check_health_port(
    new: &Value,
    old: Option<&Value>,
    allocated: &Allocated,
    causes: &mut Vec<Cause>,
) {
    let field = "spec.healthCheckNodePort";
    let Some(port) = new["spec"]
        .get("healthCheckNodePort")
        .filter(|port| **port != json!(0))
    else {
        return;
    };
    if !has_health_port(new) {
        let detail =
            "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'";
        causes.push(Cause::invalid(field, port, detail));
        return;
    }
    let before = old
        .filter(|old| has_health_port(old))
        .and_then(|old| old["spec"].get("healthCheckNodePort"));
    if before.is_some_and(|before| before != port) {
        causes.push(Cause::invalid(field, port, "field is immutable"));
    }
    check_node_port_number(new, port, "TCP", field, allocated, causes);
}
