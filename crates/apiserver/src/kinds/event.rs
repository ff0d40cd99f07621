//! Events under their two names: core/v1 (as stored) and `events.k8s.io/v1`.
//!
//! Source: kubernetes/pkg/apis/events/v1/conversion.go.

use serde_json::Value;

/// Fields that have another name in `events.k8s.io`: the core name, the newer one.
const RENAMED: &[(&str, &str)] = &[
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("reportingComponent", "reportingController"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
];

/// A stored event as `events.k8s.io/v1` shows it, `apiVersion` aside.
pub(crate) fn to_new(event: &mut Value) {
    rename(event, |(core, new)| (core, new));
}

/// An `events.k8s.io/v1` event as it is stored, `apiVersion` aside.
pub(crate) fn to_core(event: &mut Value) {
    rename(event, |(core, new)| (new, core));
}

/// The stored name of a field that clients of `events.k8s.io` select by.
pub(crate) fn core_field(field: &str) -> String {
    let (head, rest) = field.split_once('.').unwrap_or((field, ""));
    let found = RENAMED.iter().find(|(_, new)| *new == head);
    let head = found.map_or(head, |(core, _)| core);
    if rest.is_empty() {
        head.to_owned()
    } else {
        format!("{head}.{rest}")
    }
}

fn rename<'a>(event: &mut Value, way: impl Fn((&'a str, &'a str)) -> (&'a str, &'a str)) {
    let Some(fields) = event.as_object_mut() else {
        return;
    };
    for &pair in RENAMED {
        let (from, to) = way(pair);
        if let Some(value) = fields.remove(from) {
            fields.insert(to.to_owned(), value);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn both_names_carry_the_same_content() {
        let core = json!({"metadata": {"name": "a"}, "involvedObject": {"name": "web"}, "message": "m", "reason": "R",
            "source": {"component": "c"}, "count": 2, "firstTimestamp": "t", "lastTimestamp": "u", "reportingComponent": "x"});
        let mut event = core.clone();
        to_new(&mut event);
        assert_eq!(event["regarding"]["name"], "web");
        assert_eq!(event["note"], "m");
        assert_eq!(event["deprecatedCount"], 2);
        assert!(event.get("involvedObject").is_none());
        to_core(&mut event);
        assert_eq!(event, core);
        assert_eq!(core_field("regarding.name"), "involvedObject.name");
        assert_eq!(core_field("reason"), "reason");
    }
}
