//! The CustomResourceDefinitions of this program, as objects that clients can read.
//!
//! They come with the program: at each start the stored ones are made to say what it was built with. Nobody else changes
//! them, because the schema that requests are held to is compiled at the start.

use serde_json::{Value, json};

use crate::clock;
use crate::engine::{Op, Outcome, Tx};
use crate::kinds::{Kind, Registry};
use crate::object;
use crate::rest::Target;
use crate::status::ApiError;
use crate::store::Key;

const RESOURCE: &str = "customresourcedefinitions.apiextensions.k8s.io";

/// Creates, updates and removes what differs from `crds`; writes nothing when nothing does.
pub(crate) fn keep(registry: &Registry, crds: &[Value]) -> Op {
    let wanted: Vec<(Value, Value)> = crds
        .iter()
        .map(|crd| (crd.clone(), status(registry, crd)))
        .collect();
    Box::new(move |tx| {
        let mut last = None;
        for present in tx.list(&RESOURCE.into(), None) {
            let name = object::name(&present);
            if !wanted.iter().any(|(crd, _)| object::name(crd) == name) {
                tx.delete(key(name));
            }
        }
        for (crd, status) in &wanted {
            last = Some(put(tx, crd, status));
        }
        // What a start writes, nobody waits for.
        Ok(last.unwrap_or(Outcome::DeletedMany(Vec::new())))
    })
}

fn key(name: &str) -> Key {
    Key {
        resource: RESOURCE.into(),
        namespace: String::new(),
        name: name.to_owned(),
    }
}

fn put(tx: &mut Tx<'_>, crd: &Value, status: &Value) -> Outcome {
    let key = key(object::name(crd));
    let old = tx.get(&key);
    let mut new = json!({ "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": { "name": key.name }, "spec": crd["spec"], "status": status });
    new["spec"]["conversion"] = json!({ "strategy": "None" });
    for field in ["labels", "annotations"] {
        if let Some(map) = crd["metadata"].get(field).filter(|map| map.is_object()) {
            object::set_meta(&mut new, field, map.clone());
        }
    }
    let born = clock::timestamp();
    let (uid, created, generation) = match &old {
        Some(old) => {
            let generation = old["metadata"]["generation"].as_i64().unwrap_or(1);
            let changed = i64::from(old["spec"] != new["spec"]);
            (
                object::meta(old, "uid").to_owned(),
                object::meta(old, "creationTimestamp").to_owned(),
                generation + changed,
            )
        }
        None => (uuid::Uuid::new_v4().to_string(), born.clone(), 1),
    };
    object::set_meta(&mut new, "uid", uid);
    object::set_meta(&mut new, "creationTimestamp", created);
    object::set_meta(&mut new, "generation", generation);
    let since = old
        .as_ref()
        .map(|old| object::text(old, "/status/conditions/0/lastTransitionTime"))
        .filter(|since| !since.is_empty())
        .unwrap_or(&born);
    for condition in new["status"]["conditions"]
        .as_array_mut()
        .into_iter()
        .flatten()
    {
        condition["lastTransitionTime"] = json!(since);
    }
    if let Some(old) = &old {
        object::set_meta(
            &mut new,
            "resourceVersion",
            object::meta(old, "resourceVersion"),
        );
        if new == **old {
            return Outcome::Object {
                object: old.clone(),
                created: false,
                warnings: Vec::new(),
            };
        }
    }
    Outcome::Object {
        object: tx.put(key, new),
        created: old.is_none(),
        warnings: Vec::new(),
    }
}

/// The names that were taken, and that the kind is served: what clients wait for before they use it.
fn status(registry: &Registry, crd: &Value) -> Value {
    let name = object::name(crd);
    let stored: Vec<&str> = object::list(crd, "/spec/versions")
        .iter()
        .filter(|version| version["storage"] == json!(true))
        .map(|version| object::text(version, "/name"))
        .collect();
    let condition = |kind: &str, reason: &str, message: &str| json!({ "type": kind, "status": "True", "reason": reason, "message": message, "lastTransitionTime": "" });
    let kind = registry.kinds.iter().find(|kind| *kind.resource == *name);
    json!({
        "conditions": [
            condition("NamesAccepted", "NoConflicts", "no conflicts found"),
            condition("Established", "InitialNamesAccepted", "the initial names have been accepted"),
        ],
        "acceptedNames": kind.map(|kind| names(kind)),
        "storedVersions": stored,
    })
}

fn names(kind: &Kind) -> Value {
    let mut names = json!({ "plural": kind.plural, "singular": kind.singular, "kind": kind.kind,
        "listKind": kind.list_kind });
    for (field, words) in [
        ("shortNames", &kind.short_names),
        ("categories", &kind.categories),
    ] {
        if !words.is_empty() {
            names[field] = json!(words);
        }
    }
    names
}

/// The answer to those who would change one.
pub(crate) fn refuse(target: &Target) -> ApiError {
    ApiError::Forbidden {
        resource: RESOURCE.into(),
        name: target.name.clone().unwrap_or_default(),
        detail:
            "this API serves the definitions that it was built with; they change with its version"
                .into(),
    }
}
