//! MetalLB: `IPAddressPool`, `L2Advertisement` and the rest of `metallb.io`, and the ConfigMap that came before them.

use std::net::Ipv4Addr;

use serde_json::{Value, json};

use super::{
    Import, Kind, block, kind_of, name_of, namespaces, on_request_note, only_on_request, strings,
};

/// Most /24s of a pool whose first and last addresses are reserved one by one.
const MAX_BUGGY: u32 = 256;

pub(super) const KINDS: [Kind; 8] = [
    ("metallb.io", "v1beta1", "IPAddressPool", "ipaddresspools"),
    (
        "metallb.io",
        "v1beta1",
        "L2Advertisement",
        "l2advertisements",
    ),
    (
        "metallb.io",
        "v1beta1",
        "BGPAdvertisement",
        "bgpadvertisements",
    ),
    ("metallb.io", "v1beta2", "BGPPeer", "bgppeers"),
    ("metallb.io", "v1beta1", "BFDProfile", "bfdprofiles"),
    ("metallb.io", "v1beta1", "Community", "communities"),
    (
        "metallb.io",
        "v1beta1",
        "ConfigurationState",
        "configurationstates",
    ),
    ("", "v1", "ConfigMap", "configmaps"),
];

pub(super) fn translate(objects: &[Value], import: &mut Import) {
    for object in objects {
        let name = name_of(object);
        let spec = &object["spec"];
        match kind_of(object) {
            "IPAddressPool" => pool(&name, spec, import),
            "L2Advertisement" => l2(&name, spec, import),
            kind @ ("BGPAdvertisement" | "BGPPeer" | "BFDProfile" | "Community") => {
                import.note(format!(
                    "{kind} {name}: BGP is not translated; write CiliumBGPClusterConfig and its kin"
                ));
            }
            "ConfigMap" => config_map(object, import),
            _ => {}
        }
    }
}

fn pool(name: &str, spec: &Value, import: &mut Import) {
    let addresses = strings(&spec["addresses"]);
    let allocation = &spec["serviceAllocation"];
    let selector = if spec["autoAssign"] == json!(false) {
        on_request_note(
            import,
            &format!("IPAddressPool {name} has autoAssign: false"),
            name,
        );
        Some(only_on_request(name))
    } else {
        selector(name, allocation, import)
    };
    let blocks: Vec<Value> = addresses.iter().map(|text| block(text)).collect();
    let pool = import.pool(name, &blocks, selector);
    // MetalLB searches low numbers first, and those without one last.
    if let Some(priority) = allocation["priority"].as_i64().filter(|p| *p > 0) {
        let ours = 1_000_000 - priority;
        pool["metadata"]["annotations"] = json!({"fairlead.io/priority": ours.to_string()});
    }
    if spec["avoidBuggyIPs"] == json!(true) {
        avoid_buggy(name, &addresses, import);
    }
}

/// All of `namespaces`, and the one selector of Services.
fn selector(name: &str, allocation: &Value, import: &mut Import) -> Option<Value> {
    let named = strings(&allocation["namespaces"]);
    let mut expressions: Vec<Value> = Vec::new();
    if !named.is_empty() {
        expressions.push(namespaces("In", &named));
    }
    if allocation["namespaceSelectors"]
        .as_array()
        .is_some_and(|l| !l.is_empty())
    {
        import.note(format!(
            "IPAddressPool {name}: namespaceSelectors have no equivalent (pools see labels of Services, not of namespaces);\nname the namespaces instead"
        ));
    }
    let of_services = allocation["serviceSelectors"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    if of_services.len() > 1 {
        import.note(format!(
            "IPAddressPool {name}: only the first of its {} serviceSelectors is used, as a pool has one",
            of_services.len()
        ));
    }
    let first = of_services.first().cloned().unwrap_or_else(|| json!({}));
    let more = first["matchExpressions"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    expressions.extend(more);
    let mut selector = json!({});
    if let Some(labels) = first.get("matchLabels") {
        selector["matchLabels"] = labels.clone();
    }
    if !expressions.is_empty() {
        selector["matchExpressions"] = json!(expressions);
    }
    (selector != json!({})).then_some(selector)
}

/// `.0` and `.255` of every /24, kept from everybody.
fn avoid_buggy(name: &str, addresses: &[String], import: &mut Import) {
    let mut blocks = Vec::new();
    for text in addresses {
        let Some((first, last)) = ends(text) else {
            continue;
        };
        if (last >> 8) - (first >> 8) >= MAX_BUGGY {
            import.note(format!(
                "IPAddressPool {name}: avoidBuggyIPs of {text} is left out, there are more than {MAX_BUGGY} of them"
            ));
            continue;
        }
        for net in (first >> 8)..=(last >> 8) {
            for ip in [net << 8, (net << 8) | 255] {
                if (first..=last).contains(&ip) {
                    blocks.push(json!({"start": Ipv4Addr::from_bits(ip).to_string()}));
                }
            }
        }
    }
    if !blocks.is_empty() {
        import.objects.push(json!({
            "apiVersion": "fairlead.io/v1alpha1", "kind": "AddressReservation",
            "metadata": {"name": format!("{name}-buggy-ips")}, "spec": {"blocks": blocks},
        }));
    }
}

/// First and last address of IPv4 text as MetalLB writes it.
fn ends(text: &str) -> Option<(u32, u32)> {
    if let Some((start, stop)) = text.split_once('-') {
        let read = |t: &str| t.trim().parse::<Ipv4Addr>().ok().map(Ipv4Addr::to_bits);
        return Some((read(start)?, read(stop)?));
    }
    let (address, len) = text.trim().split_once('/')?;
    let bits = address.parse::<Ipv4Addr>().ok()?.to_bits();
    let len: u32 = len.parse().ok().filter(|len| *len <= 32)?;
    let host = u32::MAX.checked_shr(len).unwrap_or(0);
    Some((bits & !host, bits | host))
}

fn l2(name: &str, spec: &Value, import: &mut Import) {
    let pools = strings(&spec["ipAddressPools"]);
    if !pools.is_empty()
        || spec["ipAddressPoolSelectors"]
            .as_array()
            .is_some_and(|l| !l.is_empty())
    {
        import.note(format!(
            "L2Advertisement {name}: it is limited to pools ({}), a policy is not;\nlimit it with serviceSelector if other Services must not be announced",
            if pools.is_empty() { "by selector".to_owned() } else { pools.join(", ") }
        ));
    }
    let interfaces = strings(&spec["interfaces"]);
    let nodes = spec["nodeSelectors"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    match &nodes[..] {
        [] => import.l2_policy(name, None, &interfaces),
        [one] => import.l2_policy(name, Some(one), &interfaces),
        // Any of them is enough, and so it is with policies.
        many => {
            for (n, one) in many.iter().enumerate() {
                import.l2_policy(&format!("{name}-{}", n + 1), Some(one), &interfaces);
            }
        }
    }
}

/// Before 0.13 everything stood in one ConfigMap.
fn config_map(object: &Value, import: &mut Import) {
    let Some(text) = object["data"]["config"]
        .as_str()
        .filter(|t| t.contains("address-pools"))
    else {
        return;
    };
    let Ok(config) = serde_norway::from_str::<Value>(text) else {
        import.note(format!(
            "ConfigMap {}: its config cannot be read",
            name_of(object)
        ));
        return;
    };
    let mut has_l2 = false;
    for old in config["address-pools"].as_array().into_iter().flatten() {
        let name = old["name"].as_str().unwrap_or("unnamed");
        let spec = json!({
            "addresses": old["addresses"], "autoAssign": old["auto-assign"], "avoidBuggyIPs": old["avoid-buggy-ips"],
        });
        pool(name, &spec, import);
        match old["protocol"].as_str() {
            Some("bgp") => import.note(format!("address pool {name}: BGP is not translated")),
            Some(_) | None => has_l2 = true,
        }
    }
    if config.get("peers").is_some() {
        import.note("peers: BGP is not translated; write CiliumBGPClusterConfig and its kin");
    }
    if has_l2 {
        import.l2_policy("metallb", None, &[]);
    }
}
