//! What Kubernetes fills in for a Service.

use serde_json::{Value, json};

use super::allocate::{Allocated, Family};
use crate::object::{self, list, text};
use crate::status::Cause;
use crate::validate::is_port;

/// Default of `sessionAffinityConfig.clientIP.timeoutSeconds`: three hours.
const AFFINITY_SECONDS: u64 = 10_800;

/// Whether Services of this type have node ports.
pub(super) fn has_node_ports(service: &Value) -> bool {
    match text(service, "/spec/type") {
        "NodePort" => true,
        "LoadBalancer" => {
            service.pointer("/spec/allocateLoadBalancerNodePorts") != Some(&json!(false))
        }
        _ => false,
    }
}

/// Whether nodes answer health checks for this Service on a port of its own.
pub(super) fn has_health_port(service: &Value) -> bool {
    text(service, "/spec/type") == "LoadBalancer"
        && text(service, "/spec/externalTrafficPolicy") == "Local"
}

pub(super) fn is_headless(service: &Value) -> bool {
    text(service, "/spec/clusterIP") == "None"
        || list(service, "/spec/clusterIPs")
            .first()
            .is_some_and(|ip| ip == "None")
}

/// Whether traffic from outside the cluster can reach it.
pub(super) fn is_external(service: &Value) -> bool {
    let kind = text(service, "/spec/type");
    matches!(kind, "NodePort" | "LoadBalancer")
        || (kind == "ClusterIP" && !list(service, "/spec/externalIPs").is_empty())
}

/// Fills in everything that needs no allocation, and takes over what an update left out.
pub(super) fn fill(new: &mut Value, old: Option<&Value>) {
    default(new, "type", json!("ClusterIP"));
    default(new, "sessionAffinity", json!("None"));
    if let Some(old) = old {
        carry_over(new, old);
        drop_what_the_type_has_not(new, old);
    }
    if text(new, "/spec/sessionAffinity") == "ClientIP" {
        let config = object::child_mut(&mut new["spec"], "sessionAffinityConfig");
        let client = config.entry("clientIP").or_insert_with(|| json!({}));
        if client.get("timeoutSeconds").is_none() {
            client["timeoutSeconds"] = json!(AFFINITY_SECONDS);
        }
    } else {
        remove(new, "sessionAffinityConfig");
    }
    for port in new
        .pointer_mut("/spec/ports")
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
    {
        if port.get("protocol").is_none_or(|protocol| protocol == "") {
            port["protocol"] = json!("TCP");
        }
        let unset = port
            .get("targetPort")
            .is_none_or(|target| *target == json!(0) || target == "");
        // Not from a bad port, which would then be reported twice.
        if unset && let Some(number) = port.get("port").filter(|number| is_port(number)).cloned() {
            port["targetPort"] = number;
        }
        if port.get("nodePort") == Some(&json!(0)) {
            port.as_object_mut().map(|fields| fields.remove("nodePort"));
        }
        if port.get("name") == Some(&json!("")) {
            port.as_object_mut().map(|fields| fields.remove("name"));
        }
    }
    if text(new, "/spec/type") != "ExternalName" {
        default(new, "internalTrafficPolicy", json!("Cluster"));
    }
    if is_external(new) {
        default(new, "externalTrafficPolicy", json!("Cluster"));
    }
    if text(new, "/spec/type") == "LoadBalancer" {
        default(new, "allocateLoadBalancerNodePorts", json!(true));
    }
    object::child_mut(object_of(new, "status"), "loadBalancer");
    normalise_cluster_ips(new, old);
}

fn object_of<'a>(object: &'a mut Value, field: &str) -> &'a mut Value {
    object::child_mut(object, field);
    &mut object[field]
}

fn default(service: &mut Value, field: &str, value: Value) {
    let spec = object::child_mut(service, "spec");
    if spec.get(field).is_none_or(|present| present == "") {
        spec.insert(field.to_owned(), value);
    }
}

fn remove(service: &mut Value, field: &str) {
    if let Some(spec) = service.get_mut("spec").and_then(Value::as_object_mut) {
        spec.remove(field);
    }
}

/// `clusterIP` and `clusterIPs` say the same; whichever the client gave counts.
fn normalise_cluster_ips(new: &mut Value, old: Option<&Value>) {
    let one = text(new, "/spec/clusterIP").to_owned();
    let many = list(new, "/spec/clusterIPs").to_vec();
    if one.is_empty() && many.is_empty() {
        remove(new, "clusterIP");
        remove(new, "clusterIPs");
    } else if one.is_empty() {
        new["spec"]["clusterIP"] = many[0].clone();
    } else if many.is_empty() {
        new["spec"]["clusterIPs"] = json!([one]);
    } else if let Some(old) = old {
        // Clients that know one of the two fields change that one only.
        let (old_one, old_many) = (text(old, "/spec/clusterIP"), list(old, "/spec/clusterIPs"));
        if one != old_one && many == old_many {
            new["spec"]["clusterIPs"] = json!([one]);
        }
    }
}

/// An update without allocated values keeps them: manifests do not name them.
fn carry_over(new: &mut Value, old: &Value) {
    let needs_ip = |service: &Value| text(service, "/spec/type") != "ExternalName";
    if needs_ip(new) && needs_ip(old) {
        let unset =
            text(new, "/spec/clusterIP").is_empty() && list(new, "/spec/clusterIPs").is_empty();
        for field in ["clusterIP", "clusterIPs"] {
            if unset && let Some(value) = old["spec"].get(field) {
                object::child_mut(new, "spec").insert(field.to_owned(), value.clone());
            }
        }
        for field in ["ipFamilies", "ipFamilyPolicy"] {
            if new["spec"].get(field).is_none()
                && let Some(value) = old["spec"].get(field)
            {
                object::child_mut(new, "spec").insert(field.to_owned(), value.clone());
            }
        }
    }
    if has_node_ports(new) && has_node_ports(old) {
        carry_over_node_ports(new, old);
    }
    if has_health_port(new)
        && has_health_port(old)
        && new["spec"].get("healthCheckNodePort").is_none()
        && let Some(port) = old["spec"].get("healthCheckNodePort")
    {
        object::child_mut(new, "spec").insert("healthCheckNodePort".into(), port.clone());
    }
}

/// Node ports are kept by the port's name, as Kubernetes does, unless another port took the number meanwhile.
fn carry_over_node_ports(new: &mut Value, old: &Value) {
    let number = |port: &Value| {
        port.get("nodePort")
            .and_then(Value::as_u64)
            .filter(|n| *n != 0)
    };
    let old_ports = list(old, "/spec/ports");
    let mut used: Vec<u64> = list(new, "/spec/ports").iter().filter_map(number).collect();
    for port in new
        .pointer_mut("/spec/ports")
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
    {
        let same_name = |other: &&Value| text(other, "/name") == text(port, "/name");
        let kept = old_ports
            .iter()
            .find(same_name)
            .and_then(number)
            .filter(|n| !used.contains(n));
        if let (None, Some(kept)) = (number(port), kept) {
            port["nodePort"] = json!(kept);
            used.push(kept);
        }
    }
}

/// A change of type sheds the fields that only the old type had, if the client did not touch them.
fn drop_what_the_type_has_not(new: &mut Value, old: &Value) {
    let kind = text(new, "/spec/type").to_owned();
    let unchanged = |new: &Value, field: &str| new["spec"].get(field) == old["spec"].get(field);
    if kind == "ExternalName" && text(old, "/spec/type") != "ExternalName" {
        if unchanged(new, "clusterIP") {
            remove(new, "clusterIP");
            remove(new, "clusterIPs");
        }
        for field in ["ipFamilies", "ipFamilyPolicy", "internalTrafficPolicy"] {
            if unchanged(new, field) {
                remove(new, field);
            }
        }
    }
    if kind != "ExternalName"
        && text(old, "/spec/type") == "ExternalName"
        && unchanged(new, "externalName")
    {
        remove(new, "externalName");
    }
    if has_node_ports(old) && !matches!(kind.as_str(), "NodePort" | "LoadBalancer") {
        let old_ports: Vec<Option<u64>> = list(old, "/spec/ports")
            .iter()
            .map(|port| port.get("nodePort").and_then(Value::as_u64))
            .collect();
        for port in new
            .pointer_mut("/spec/ports")
            .and_then(Value::as_array_mut)
            .into_iter()
            .flatten()
        {
            if old_ports.contains(&port.get("nodePort").and_then(Value::as_u64)) {
                port.as_object_mut().map(|fields| fields.remove("nodePort"));
            }
        }
    }
    if kind != "LoadBalancer" {
        for field in ["allocateLoadBalancerNodePorts", "loadBalancerClass"] {
            if unchanged(new, field) {
                remove(new, field);
            }
        }
    }
    if !is_external(new) && unchanged(new, "externalTrafficPolicy") {
        remove(new, "externalTrafficPolicy");
    }
    if has_health_port(old) && !has_health_port(new) && unchanged(new, "healthCheckNodePort") {
        remove(new, "healthCheckNodePort");
    }
}

/// Settles `ipFamilies` and `ipFamilyPolicy`, and cuts the addresses to what they say.
pub(super) fn families(
    new: &mut Value,
    old: Option<&Value>,
    allocated: &Allocated,
    causes: &mut Vec<Cause>,
) {
    if text(new, "/spec/type") == "ExternalName" {
        return;
    }
    let here = allocated.families();
    let asked = families_of(new);
    let ips: Vec<Family> = list(new, "/spec/clusterIPs")
        .iter()
        .filter_map(|ip| Some(Family::of(ip.as_str()?.parse().ok()?)))
        .collect();
    // Without a selector nobody knows which families the endpoints of a headless Service have: it may have both.
    let open = is_headless(new) && list_is_empty(new, "/spec/selector") && asked.is_empty();
    let policy = match text(new, "/spec/ipFamilyPolicy") {
        "" if open && old.is_none() => "RequireDualStack".to_owned(),
        "" if asked.len() > 1 || ips.len() > 1 => "RequireDualStack".to_owned(),
        "" => "SingleStack".to_owned(),
        word => word.to_owned(),
    };
    let mut families = if asked.is_empty() { ips.clone() } else { asked };
    for (n, family) in families
        .iter()
        .enumerate()
        .filter(|(_, family)| !open && !here.contains(family))
    {
        let field = format!("spec.ipFamilies[{n}]");
        causes.push(Cause::invalid(
            &field,
            &json!(family.word()),
            "not configured on this cluster",
        ));
    }
    if families.is_empty() {
        families.extend(here.first());
    }
    if policy == "SingleStack" {
        one_family(new, old, &mut families, causes);
    } else if families.len() == 1 {
        let can_have = if open {
            vec![Family::V4, Family::V6]
        } else {
            here
        };
        families.extend(can_have.into_iter().find(|family| *family != families[0]));
    }
    if policy == "RequireDualStack" && families.len() < 2 {
        let detail = "this cluster is not configured for dual-stack services";
        causes.push(Cause::invalid(
            "spec.ipFamilyPolicy",
            &json!(policy),
            detail,
        ));
    }
    match_families(new, &ips, &families, causes);
    let words: Vec<&str> = families.iter().map(|family| family.word()).collect();
    new["spec"]["ipFamilies"] = json!(words);
    new["spec"]["ipFamilyPolicy"] = json!(policy);
}

/// The n-th address is of the n-th family.
fn match_families(new: &Value, ips: &[Family], families: &[Family], causes: &mut Vec<Cause>) {
    for (n, (ip, family)) in ips.iter().zip(families).enumerate() {
        if ip != family {
            let detail = format!(
                "expected an {} value as indicated by `ipFamilies[{n}]`",
                family.word()
            );
            causes.push(Cause::invalid(
                &format!("spec.clusterIPs[{n}]"),
                &new["spec"]["clusterIPs"][n],
                &detail,
            ));
        }
    }
}

pub(super) fn families_of(service: &Value) -> Vec<Family> {
    let words = list(service, "/spec/ipFamilies").iter();
    words
        .filter_map(|word| Family::parse(word.as_str()?))
        .collect()
}

/// From two families to one: the second goes, if it was there before; asked for anew, it contradicts the policy.
fn one_family(
    new: &mut Value,
    old: Option<&Value>,
    families: &mut Vec<Family>,
    causes: &mut Vec<Cause>,
) {
    if families.len() < 2 {
        return;
    }
    if old.is_some_and(|old| list(old, "/spec/ipFamilies").len() > 1) {
        families.truncate(1);
        if let Some(ips) = new
            .pointer_mut("/spec/clusterIPs")
            .and_then(Value::as_array_mut)
        {
            ips.truncate(1);
        }
    } else {
        let detail =
            "must be RequireDualStack or PreferDualStack when multiple ipFamilies are specified";
        causes.push(Cause::invalid(
            "spec.ipFamilyPolicy",
            &json!("SingleStack"),
            detail,
        ));
    }
}

fn list_is_empty(service: &Value, pointer: &str) -> bool {
    service
        .pointer(pointer)
        .and_then(Value::as_object)
        .is_none_or(serde_json::Map::is_empty)
}
