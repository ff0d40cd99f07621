//! PureLB: `ServiceGroup` and `LBNodeAgent`.

use serde_json::{Value, json};

use super::{Import, Kind, block, kind_of, name_of, on_request_note, only_on_request};

pub(super) const KINDS: [Kind; 4] = [
    ("purelb.io", "v2", "ServiceGroup", "servicegroups"),
    ("purelb.io", "v1", "ServiceGroup", "servicegroups"),
    ("purelb.io", "v2", "LBNodeAgent", "lbnodeagents"),
    ("purelb.io", "v1", "LBNodeAgent", "lbnodeagents"),
];

pub(super) fn translate(objects: &[Value], import: &mut Import) {
    let mut seen: Vec<(String, String)> = Vec::new();
    for object in objects {
        // A cluster shows an object in each version.
        let key = (kind_of(object).to_owned(), name_of(object));
        if seen.contains(&key) {
            continue;
        }
        match kind_of(object) {
            "ServiceGroup" => group(&key.1, &object["spec"], import),
            "LBNodeAgent" => agent(&key.1, &object["spec"], import),
            _ => continue,
        }
        seen.push(key);
    }
}

fn group(name: &str, spec: &Value, import: &mut Import) {
    if spec.get("netbox").is_some() {
        import.note(format!(
            "ServiceGroup {name}: Netbox as a source of addresses has no equivalent"
        ));
        return;
    }
    let mut blocks = Vec::new();
    for place in ["local", "remote"].map(|place| &spec[place]) {
        let single = [place, &place["v4pool"], &place["v6pool"]];
        let lists = [&place["v4pools"], &place["v6pools"]];
        let lists = lists
            .into_iter()
            .flat_map(|l| l.as_array().into_iter().flatten());
        for part in single.into_iter().chain(lists) {
            if let Some(text) = part["pool"].as_str() {
                blocks.push(block(text));
            }
            let aggregation = part["aggregation"].as_str();
            if let Some(text) = aggregation.filter(|t| *t != "default" && !t.is_empty()) {
                import.note(format!(
                    "ServiceGroup {name}: aggregation {text} has no equivalent in a pool; aggregate in CiliumBGPAdvertisement"
                ));
            }
        }
    }
    if blocks.is_empty() {
        import.note(format!("ServiceGroup {name}: no addresses in it"));
        return;
    }
    // Only the group `default` serves who asks for none.
    let selector = (name != "default").then(|| {
        on_request_note(
            import,
            &format!("ServiceGroup {name} serves only who names it"),
            name,
        );
        only_on_request(name)
    });
    import.pool(name, &blocks, selector);
}

fn agent(name: &str, spec: &Value, import: &mut Import) {
    let local = &spec["local"];
    let interface = local["localint"]
        .as_str()
        .or_else(|| local["localInterface"].as_str());
    let interface = interface.filter(|i| *i != "default" && !i.is_empty());
    let interface: Vec<String> = interface.map(str::to_owned).into_iter().collect();
    import.l2_policy(&format!("purelb-{name}"), None, &interface);
    if local["sendgarp"] == json!(false) {
        import.note(format!(
            "LBNodeAgent {name}: sendgarp: false has no equivalent, a VIP that moves is always announced"
        ));
    }
    import.note(format!(
        "LBNodeAgent {name}: routed addresses (its dummy interface) need BGP; write CiliumBGPClusterConfig and its kin"
    ));
}
