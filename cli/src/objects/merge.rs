//! What `apply` sends: the merge patch that makes a live object as its manifest says.
//!
//! Fields of the manifest that differ are set. Fields that an earlier manifest had and this one has not are removed. All else is
//! somebody else's and stays. The earlier manifest is kept in the annotation that kubectl uses, so that both may be used in turn.

use serde_json::{Map, Value, json};

/// The manifest that was applied last.
pub const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// The manifest with itself as its annotation.
///
/// The annotation is left out of what it records, as by kubectl.
pub fn recorded(manifest: &Value) -> Value {
    let mut recorded = manifest.clone();
    // Also where there are none: so kubectl writes its record.
    if !recorded["metadata"]["annotations"].is_object() {
        recorded["metadata"]["annotations"] = json!({});
    }
    if let Some(annotations) = recorded["metadata"]["annotations"].as_object_mut() {
        annotations.remove(LAST_APPLIED);
    }
    let record = format!("{recorded}\n");
    recorded["metadata"]["annotations"][LAST_APPLIED] = json!(record);
    recorded
}

/// What was applied to a live object last.
pub fn last_applied(live: &Value) -> Option<Value> {
    let text = live["metadata"]["annotations"]
        .get(LAST_APPLIED)?
        .as_str()?;
    serde_json::from_str(text).ok()
}

/// The JSON merge patch (RFC 7396) from `live` to `wanted`; `None` when there is nothing to do. `before` is the earlier manifest.
pub fn patch(before: Option<&Value>, wanted: &Value, live: &Value) -> Option<Value> {
    let patch = changes(before.unwrap_or(&Value::Null), wanted, live);
    (!patch.is_empty()).then_some(Value::Object(patch))
}

fn changes(before: &Value, wanted: &Value, live: &Value) -> Map<String, Value> {
    let mut patch = Map::new();
    for (name, value) in wanted.as_object().into_iter().flatten() {
        let now = live.get(name).unwrap_or(&Value::Null);
        if value.is_object() && now.is_object() {
            let inner = changes(before.get(name).unwrap_or(&Value::Null), value, now);
            if !inner.is_empty() {
                patch.insert(name.clone(), Value::Object(inner));
            }
        } else if value != now {
            patch.insert(name.clone(), value.clone());
        }
    }
    for name in before.as_object().into_iter().flat_map(Map::keys) {
        if wanted.get(name).is_none() && live.get(name).is_some() {
            patch.insert(name.clone(), Value::Null);
        }
    }
    patch
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_wrote_stays_and_what_we_dropped_goes() {
        let before = json!({"metadata": {"labels": {"a": "1", "b": "1"}}, "spec": {"x": 1}});
        let wanted = json!({"metadata": {"labels": {"a": "2"}}, "spec": {"x": 1, "list": [1]}});
        let live = json!({"metadata": {"labels": {"a": "1", "b": "1", "theirs": "1"}, "uid": "u"}, "spec": {"x": 1, "y": 2},
            "status": {}});
        assert_eq!(
            patch(Some(&before), &wanted, &live),
            Some(json!({"metadata": {"labels": {"a": "2", "b": null}}, "spec": {"list": [1]}}))
        );
        assert_eq!(
            patch(
                Some(&wanted),
                &wanted,
                &json!({"metadata": {"labels": {"a": "2"}}, "spec": {"x": 1, "list": [1], "y": 3}})
            ),
            None
        );
        // Already gone.
        assert_eq!(
            patch(Some(&json!({"data": {"k": "v"}})), &json!({}), &json!({})),
            None
        );
    }

    #[test]
    fn a_manifest_carries_itself() {
        let once = recorded(&json!({"kind": "A", "metadata": {"name": "a"}}));
        let record = json!({"kind": "A", "metadata": {"annotations": {}, "name": "a"}});
        assert_eq!(last_applied(&once), Some(record));
        assert_eq!(recorded(&once), once, "the record is no part of itself");
    }

    proptest::proptest! {
        /// Applying makes every field of the manifest true, and a second time does nothing.
        #[test]
        fn applying_is_idempotent(before in objects(), wanted in objects(), live in objects()) {
            let mut now = live;
            if let Some(patch) = patch(Some(&before), &wanted, &now) {
                json_patch::merge(&mut now, &patch);
            }
            proptest::prop_assert_eq!(patch(Some(&wanted), &wanted, &now), None);
        }
    }

    fn objects() -> impl proptest::strategy::Strategy<Value = Value> {
        use proptest::prelude::*;
        let leaf = prop_oneof![(0..3i64).prop_map(|n| json!(n)), Just(json!(["x"]))];
        let object = leaf.prop_recursive(3, 12, 3, |inner| {
            proptest::collection::btree_map("[a-c]", inner, 0..3).prop_map(|map| json!(map))
        });
        proptest::collection::btree_map("[a-c]", object, 0..3).prop_map(|map| json!(map))
    }
}
