//! What differs by nature is made equal: identities, times, versions, who wrote which field, and what a server chose by chance.
//! So is what means the same to every client: a field that is absent, and one that is null or empty.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde_json::{Map, Value, json};

use crate::peer::{Answer, Outcome};
use crate::step::Ask;

pub(crate) fn outcome(
    idx: usize,
    ask: &Ask,
    answer: Answer,
    kept: &BTreeMap<String, String>,
) -> Outcome {
    let mut body = answer.body;
    if ask.is_watch
        && let Value::Array(events) = &mut body
    {
        // Bookmarks come by the clock; those that end the initial events come by the request.
        events.retain(|event| event["type"] != "BOOKMARK" || is_initial_end(event));
        for event in events
            .iter_mut()
            .filter(|event| event["type"] == "BOOKMARK")
        {
            // The rest of the object is empty, more or less so.
            event["object"] = event["object"]["metadata"]["annotations"].take();
        }
    }
    value(&mut body, ask, kept);
    Outcome {
        label: format!("{idx} {}", ask.label()),
        code: answer.code,
        warnings: answer.warnings,
        body,
    }
}

/// Codes and reasons of simultaneous requests, in order.
pub(crate) fn race(idx: usize, first: &Ask, answers: &[Answer]) -> Outcome {
    let word = |answer: &Answer| format!("{} {}", answer.code, answer.body["reason"]);
    let mut words: Vec<String> = answers.iter().map(word).collect();
    words.sort();
    Outcome {
        label: format!("{idx} race of {}", first.label()),
        code: 0,
        warnings: Vec::new(),
        body: json!(words),
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(map) => map.is_empty(),
        Value::Bool(_) | Value::Number(_) => false,
    }
}

fn is_initial_end(event: &Value) -> bool {
    let end = "/object/metadata/annotations/k8s.io~1initial-events-end";
    event.pointer(end).is_some()
}

fn value(node: &mut Value, ask: &Ask, kept: &BTreeMap<String, String>) {
    match node {
        Value::Object(map) => {
            if let Some(Value::Object(metadata)) = map.get_mut("metadata") {
                self::metadata(metadata);
            }
            if map.get("kind") == Some(&json!("Table")) {
                table(map, ask);
            }
            if map.get("kind") == Some(&json!("Status")) {
                words(map);
            }
            chosen(map, ask);
            for child in map.values_mut() {
                value(child, ask, kept);
            }
            map.retain(|_, child| !is_empty(child));
            // Discovery is in no order.
            if let Some(Value::Array(verbs)) = map.get_mut("verbs") {
                verbs.sort_by_key(ToString::to_string);
            }
            if let Some(Value::Array(resources)) = map.get_mut("resources") {
                resources.sort_by_key(|resource| resource["name"].to_string());
            }
        }
        Value::Array(items) => {
            for item in items {
                value(item, ask, kept);
            }
        }
        Value::String(text) => {
            for name in ["rv", "uid", "continue"] {
                if let Some(known) = kept.get(name).filter(|known| !known.is_empty()) {
                    *text = text.replace(known.as_str(), &format!("<{name}>"));
                }
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

fn metadata(map: &mut Map<String, Value>) {
    map.remove("managedFields");
    for (key, stand_in) in [
        ("uid", "<uid>"),
        ("resourceVersion", "<rv>"),
        ("creationTimestamp", "<time>"),
        ("deletionTimestamp", "<time>"),
        ("continue", "<continue>"),
    ] {
        if let Some(Value::String(text)) = map.get_mut(key)
            && !text.is_empty()
        {
            stand_in.clone_into(text);
        }
    }
    if let (Some(Value::String(prefix)), Some(Value::String(name))) =
        (map.get("generateName").cloned(), map.get_mut("name"))
        && name.len() == prefix.len() + 5
        && name.starts_with(&prefix)
    {
        *name = format!("{prefix}<random>");
    }
    for key in ["uid"] {
        for owner in map
            .get_mut("ownerReferences")
            .and_then(Value::as_array_mut)
            .into_iter()
            .flatten()
        {
            owner[key] = json!("<uid>");
        }
    }
}

/// What a failure says to people: programs go by code, reason and causes.
fn words(status: &mut Map<String, Value>) {
    if let Some(message) = status.get_mut("message") {
        *message = json!("<words>");
    }
    if let Some(uid) = status
        .get_mut("details")
        .and_then(|details| details.get_mut("uid"))
    {
        *uid = json!("<uid>");
    }
    let causes = status
        .get_mut("details")
        .and_then(|details| details.get_mut("causes"));
    for cause in causes.and_then(Value::as_array_mut).into_iter().flatten() {
        cause["message"] = json!("<words>");
    }
}

/// Cells that tell an age, or what was chosen; and the columns' descriptions. A watch names its columns in the first event only.
fn table(table: &mut Map<String, Value>, ask: &Ask) {
    let columns = table
        .get_mut("columnDefinitions")
        .and_then(Value::as_array_mut);
    for column in columns.into_iter().flatten() {
        column["description"] = json!("<words>");
    }
    let rows = table.get_mut("rows").and_then(Value::as_array_mut);
    for row in rows.into_iter().flatten() {
        for cell in row["cells"].as_array_mut().into_iter().flatten() {
            let Some(text) = cell.as_str() else { continue };
            *cell = json!(if is_age(text) {
                "<age>".to_owned()
            } else if text.parse::<IpAddr>().is_ok() && !ask.body.contains(text) {
                "<ip>".to_owned()
            } else {
                ports(text, ask)
            });
        }
    }
}

/// `5s`, `2m3s`, `4y`.
fn is_age(text: &str) -> bool {
    let is_unit = |c: char| "smhdy".contains(c);
    text.ends_with(is_unit)
        && text.chars().all(|c| c.is_ascii_digit() || is_unit(c))
        && text.starts_with(|c: char| c.is_ascii_digit())
}

/// `80:31234/TCP` with a node port that the server chose.
fn ports(text: &str, ask: &Ask) -> String {
    let one = |port: &str| match port.split_once(':') {
        Some((port, rest)) if !ask.body.contains(&rest[..5.min(rest.len())]) => {
            let protocol = rest.split_once('/').map_or("", |(_, protocol)| protocol);
            format!("{port}:<port>/{protocol}")
        }
        _ => port.to_owned(),
    };
    text.split(',').map(one).collect::<Vec<_>>().join(",")
}

/// Cluster IPs and node ports that the request did not name.
fn chosen(map: &mut Map<String, Value>, ask: &Ask) {
    let is_asked = |text: &str| ask.body.contains(text);
    let hide = |value: &mut Value| {
        let Some(ip) = value.as_str().and_then(|text| text.parse::<IpAddr>().ok()) else {
            return;
        };
        if !is_asked(&ip.to_string()) {
            *value = json!(if ip.is_ipv4() { "<ipv4>" } else { "<ipv6>" });
        }
    };
    if let Some(ip) = map.get_mut("clusterIP") {
        hide(ip);
    }
    for ip in map
        .get_mut("clusterIPs")
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
    {
        hide(ip);
    }
    for key in ["nodePort", "healthCheckNodePort"] {
        if let Some(port) = map.get_mut(key)
            && port
                .as_u64()
                .is_some_and(|port| (30000..=33000).contains(&port) && !is_asked(&port.to_string()))
        {
            *port = json!("<port>");
        }
    }
}
