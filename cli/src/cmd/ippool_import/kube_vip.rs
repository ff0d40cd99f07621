//! kube-vip: the ConfigMap `kubevip` of its cloud provider, and what its DaemonSet says about announcing.

use serde_json::{Value, json};

use super::{Import, Kind, block, kind_of, name_of, namespaces};

pub(super) const KINDS: [Kind; 2] = [
    ("", "v1", "ConfigMap", "configmaps"),
    ("apps", "v1", "DaemonSet", "daemonsets"),
];

pub(super) fn translate(objects: &[Value], import: &mut Import) {
    for object in objects {
        match kind_of(object) {
            "ConfigMap" if name_of(object) == "kubevip" => config_map(object, import),
            "DaemonSet" if name_of(object).contains("kube-vip") => daemon_set(object, import),
            _ => {}
        }
    }
}

/// Keys are `cidr-WHERE` and `range-WHERE`; WHERE is a namespace or `global`, which serves the namespaces without their own.
fn config_map(object: &Value, import: &mut Import) {
    let data: Vec<(String, String)> = object["data"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(key, value)| (key.clone(), value.as_str().unwrap_or_default().to_owned()))
        .collect();
    let own = |prefix: &str, key: &str| key.strip_prefix(prefix).map(str::to_owned);
    let place = |key: &str| own("cidr-", key).or_else(|| own("range-", key));
    let mut places: Vec<String> = data.iter().filter_map(|(key, _)| place(key)).collect();
    places.sort();
    places.dedup();
    let named: Vec<String> = places.iter().filter(|p| *p != "global").cloned().collect();
    let skips_ends = data
        .iter()
        .any(|(key, value)| key == "skip-end-ips-in-cidr" && value == "true");
    for place in &places {
        let texts = data
            .iter()
            .filter(|(key, _)| *key == format!("cidr-{place}") || *key == format!("range-{place}"));
        let mut blocks = Vec::new();
        for text in texts.flat_map(|(_, value)| value.split(',')).map(str::trim) {
            if text.starts_with("0.0.0.0/") || text == "0.0.0.0" {
                import.note(format!(
                    "{place}: {text} asks DHCP for addresses, which has no equivalent"
                ));
            } else if !text.is_empty() {
                blocks.push(block(text));
            }
        }
        if blocks.is_empty() {
            continue;
        }
        let selector = if place != "global" {
            Some(json!({"matchExpressions": [namespaces("In", std::slice::from_ref(place))]}))
        } else if named.is_empty() {
            None
        } else {
            Some(json!({"matchExpressions": [namespaces("NotIn", &named)]}))
        };
        let pool = import.pool(&format!("kube-vip-{place}"), &blocks, selector);
        if skips_ends {
            pool["spec"]["allowFirstLastIPs"] = json!("No");
        }
    }
    for (key, value) in &data {
        let is_known = place(key).is_some() || key == "skip-end-ips-in-cidr";
        if !is_known {
            import.note(format!(
                "ConfigMap kubevip: {key}={value} has no equivalent"
            ));
        }
    }
}

fn daemon_set(object: &Value, import: &mut Import) {
    let containers = object["spec"]["template"]["spec"]["containers"].as_array();
    let variables = containers
        .into_iter()
        .flatten()
        .flat_map(|c| c["env"].as_array().into_iter().flatten());
    let read = |name: &str| {
        let mut each = variables.clone().filter(|v| v["name"] == json!(name));
        each.next()
            .and_then(|v| v["value"].as_str().map(str::to_owned))
    };
    let is_on = |name: &str| read(name).as_deref() == Some("true");
    if is_on("vip_arp") && is_on("svc_enable") {
        let interface = read("vip_servicesinterface").or_else(|| read("vip_interface"));
        let interface: Vec<String> = interface.into_iter().filter(|i| !i.is_empty()).collect();
        import.l2_policy("kube-vip", None, &interface);
    }
    if is_on("bgp_enable") {
        import.note("bgp_enable: BGP is not translated; write CiliumBGPClusterConfig and its kin");
    }
    if is_on("cp_enable") {
        import.note("cp_enable: the virtual address of the control plane has no equivalent; keep kube-vip for it");
    }
}
