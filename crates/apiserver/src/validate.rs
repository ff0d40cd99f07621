//! Rules beyond the schema: names, labels, and what each built-in kind demands.
//!
//! Messages are Kubernetes' own (apimachinery validation), because people search for them.
//! Next: `service/check.rs` for Services, which have most of the rules.

mod kinds;
pub(crate) mod names;

use serde_json::Value;

pub(crate) use self::kinds::{check_kind, is_port};
use crate::kinds::{Kind, Rules};
use crate::object;
use crate::status::Cause;

/// All annotations of one object together, keys and values.
const ANNOTATION_BYTES: usize = 256 * 1024;

/// Checks `metadata`; `old` is the object that is replaced.
pub(crate) fn check_metadata(
    kind: &Kind,
    new: &Value,
    old: Option<&Value>,
    causes: &mut Vec<Cause>,
) {
    if old.is_none() {
        check_name(kind, new, causes);
    }
    check_map(new, "labels", causes, |key, value, field, causes| {
        if let Err(detail) = names::qualified(key) {
            causes.push(Cause::invalid(field, &Value::from(key), &detail));
        }
        if let Err(detail) = value.as_str().map_or(Ok(()), names::label_value) {
            causes.push(Cause::invalid(field, value, &detail));
        }
    });
    let mut bytes = 0;
    check_map(new, "annotations", causes, |key, value, field, causes| {
        bytes += key.len() + value.as_str().map_or(0, str::len);
        // Kubernetes is lenient about the case of annotation keys.
        if let Err(detail) = names::qualified(&key.to_lowercase()) {
            causes.push(Cause::invalid(field, &Value::from(key), &detail));
        }
    });
    if bytes > ANNOTATION_BYTES {
        causes.push(Cause::too_long(
            "metadata.annotations",
            ANNOTATION_BYTES as u64,
        ));
    }
    check_finalizers(new, old, causes);
    for (n, owner) in object::list(new, "/metadata/ownerReferences")
        .iter()
        .enumerate()
    {
        for field in ["apiVersion", "kind", "name", "uid"] {
            if object::text(owner, &format!("/{field}")).is_empty() {
                causes.push(Cause::required(
                    &format!("metadata.ownerReferences[{n}].{field}"),
                    "must not be empty",
                ));
            }
        }
    }
}

fn check_name(kind: &Kind, new: &Value, causes: &mut Vec<Cause>) {
    let name = object::name(new);
    let verdict = match kind.rules {
        _ if name.is_empty() => {
            causes.push(Cause::required(
                "metadata.name",
                "name or generateName is required",
            ));
            return;
        }
        Rules::Namespace | Rules::Service => names::label(name),
        _ => names::subdomain(name),
    };
    if let Err(detail) = verdict {
        causes.push(Cause::invalid(
            "metadata.name",
            &new["metadata"]["name"],
            &detail,
        ));
    }
}

fn check_map(
    object: &Value,
    name: &str,
    causes: &mut Vec<Cause>,
    mut check: impl FnMut(&str, &Value, &str, &mut Vec<Cause>),
) {
    let field = format!("metadata.{name}");
    let map = object["metadata"].get(name).and_then(Value::as_object);
    for (key, value) in map.into_iter().flatten() {
        check(key, value, &field, causes);
    }
}

fn check_finalizers(new: &Value, old: Option<&Value>, causes: &mut Vec<Cause>) {
    let finalizers = object::list(new, "/metadata/finalizers");
    for (n, finalizer) in finalizers.iter().enumerate() {
        if let Err(detail) = finalizer.as_str().map_or(Ok(()), names::qualified) {
            causes.push(Cause::invalid(
                &format!("metadata.finalizers[{n}]"),
                finalizer,
                &detail,
            ));
        }
    }
    // An object that is being deleted may lose finalizers, not gain any: else it might never go.
    if let Some(old) = old.filter(|old| object::is_terminating(old)) {
        let before = object::list(old, "/metadata/finalizers");
        if let Some(added) = finalizers
            .iter()
            .find(|finalizer| !before.contains(finalizer))
        {
            let detail = format!(
                "no new finalizers can be added if the object is being deleted, found new finalizers {added}"
            );
            causes.push(Cause::forbidden("metadata.finalizers", &detail));
        }
    }
}
