//! Deletion: at once, or after those who asked to be waited for (finalizers) have let go.

use std::sync::Arc;

use axum::body::Body;
use axum::http::{Response, StatusCode};
use serde_json::{Value, json};

use super::{Write, dry_run};
use crate::api::Api;
use crate::clock;
use crate::engine::{Op, Outcome, Tx};
use crate::kinds::Rules;
use crate::object;
use crate::rest::{Params, Target, bytes, json as respond, view};
use crate::selector::Selector;
use crate::status::{self, ApiError};
use crate::store::Key;

/// Namespaces without which nothing here works.
const KEPT: &[&str] = &["default", "kube-system"];

/// What `DeleteOptions` ask, as far as it means something here. There is no garbage collector, so that a propagation policy
/// changes nothing, and nothing runs that a grace period could be for.
#[derive(Debug, Clone, Default)]
struct Options {
    uid: Option<String>,
    resource_version: Option<String>,
    dry_run: bool,
}

impl Options {
    fn parse(params: &Params, body: &[u8]) -> Result<Self, ApiError> {
        let asked_dry = dry_run(params)?;
        if body.iter().all(u8::is_ascii_whitespace) {
            return Ok(Self {
                dry_run: asked_dry,
                ..Self::default()
            });
        }
        let options: Value = serde_json::from_slice(body).map_err(|error| {
            ApiError::bad_request(format!("DeleteOptions cannot be decoded: {error}"))
        })?;
        let text = |pointer: &str| {
            options
                .pointer(pointer)
                .and_then(Value::as_str)
                .map(str::to_owned)
        };
        let dry = object::list(&options, "/dryRun")
            .iter()
            .any(|value| value == "All");
        Ok(Self {
            uid: text("/preconditions/uid"),
            resource_version: text("/preconditions/resourceVersion"),
            dry_run: dry || asked_dry,
        })
    }
}

pub(crate) async fn delete(
    api: &Api,
    write: Write<'_>,
    name: &str,
) -> Result<Response<Body>, ApiError> {
    let options = Options::parse(&write.params, &write.body)?;
    let dry_run = options.dry_run;
    let (place, name) = (write.target.clone(), name.to_owned());
    let op: Op = Box::new(move |tx| delete_one(tx, &place, &name, &options));
    let served = &write.target.served;
    let kind = &served.kind;
    Ok(match api.write(op, dry_run).await? {
        Outcome::Object { object, .. } => respond(StatusCode::OK, &view(served, &object)),
        Outcome::Deleted(last) => {
            let gone = status::deleted(
                &kind.plural,
                &kind.group,
                object::name(&last),
                object::meta(&last, "uid"),
            );
            respond(StatusCode::OK, &gone)
        }
        Outcome::DeletedMany(_) => return Err(ApiError::MethodNotAllowed),
    })
}

pub(crate) async fn delete_many(api: &Api, write: Write<'_>) -> Result<Response<Body>, ApiError> {
    let Write {
        target,
        params,
        body,
        ..
    } = write;
    let kind = target.served.kind.clone();
    if kind.namespaced && target.namespace.is_none() {
        return Err(ApiError::MethodNotAllowed);
    }
    let options = Options::parse(&params, &body)?;
    let dry_run = options.dry_run;
    let selector = Selector::parse(
        &kind,
        params.text("labelSelector"),
        params.text("fieldSelector"),
    )?;
    let place = target.clone();
    let op: Op = Box::new(move |tx| {
        let all = tx.list(&place.served.kind.resource, place.namespace.as_deref());
        let mut gone = Vec::new();
        for object in all.into_iter().filter(|object| selector.keeps(object)) {
            match delete_one(tx, &place, object::name(&object), &options)? {
                Outcome::Object { object, .. } | Outcome::Deleted(object) => gone.push(object),
                Outcome::DeletedMany(_) => {}
            }
        }
        Ok(Outcome::DeletedMany(gone))
    });
    let Outcome::DeletedMany(gone) = api.write(op, dry_run).await? else {
        return Err(ApiError::MethodNotAllowed);
    };
    let items: Vec<Value> = gone
        .iter()
        .map(|object| view(&target.served, object).into_owned())
        .collect();
    let list = json!({ "kind": kind.list_kind, "apiVersion": target.served.api_version(),
        "metadata": { "resourceVersion": api.shared.revision().to_string() }, "items": items });
    Ok(bytes(StatusCode::OK, list.to_string().into_bytes()))
}

fn delete_one(
    tx: &mut Tx<'_>,
    target: &Target,
    name: &str,
    options: &Options,
) -> Result<Outcome, ApiError> {
    let kind = &target.served.kind;
    let key = target.key(name);
    let old = tx.get(&key).ok_or_else(|| target.not_found(name))?;
    for (field, asked) in [
        ("uid", &options.uid),
        ("resourceVersion", &options.resource_version),
    ] {
        let present = object::meta(&old, field);
        if let Some(asked) = asked.as_deref().filter(|asked| *asked != present) {
            return Err(ApiError::Conflict {
                resource: kind.resource.to_string(),
                name: name.to_owned(),
                detail: format!(
                    "Precondition failed: {field} in precondition: {asked}, {field} in object meta: {present}"
                ),
            });
        }
    }
    if kind.rules == Rules::Namespace && KEPT.contains(&name) {
        return Err(ApiError::Forbidden {
            resource: kind.resource.to_string(),
            name: name.to_owned(),
            detail: "this namespace may not be deleted".into(),
        });
    }
    let empty = kind.rules != Rules::Namespace || empty_namespace(tx, name);
    if empty && !object::has_finalizers(&old) {
        let last = finish(tx, kind.rules, key, (*old).clone());
        return Ok(Outcome::Deleted(last));
    }
    if object::is_terminating(&old) {
        return Ok(Outcome::Object {
            object: old,
            created: false,
            warnings: Vec::new(),
        });
    }
    let mut marked = (*old).clone();
    mark(&mut marked);
    if kind.rules == Rules::Namespace {
        marked["status"]["phase"] = json!("Terminating");
    }
    Ok(Outcome::Object {
        object: tx.put(key, marked),
        created: false,
        warnings: Vec::new(),
    })
}

/// Marks an object as on its way out.
fn mark(object: &mut Value) {
    object::set_meta(object, "deletionTimestamp", clock::timestamp());
    object::set_meta(object, "deletionGracePeriodSeconds", 0);
    if let Some(generation) = object["metadata"]["generation"].as_i64() {
        object::set_meta(object, "generation", generation + 1);
    }
}

/// Removes an object for good, and with the last object of a terminating namespace the namespace.
pub(super) fn finish(tx: &mut Tx<'_>, rules: Rules, key: Key, last: Value) -> Arc<Value> {
    let namespace = key.namespace.clone();
    let removed = tx.delete(key).unwrap_or_else(|| Arc::new(last));
    if rules != Rules::Namespace && !namespace.is_empty() {
        let key = Key {
            resource: "namespaces".into(),
            namespace: String::new(),
            name: namespace.clone(),
        };
        let terminating = tx
            .get(&key)
            .is_some_and(|ns| object::is_terminating(&ns) && !object::has_finalizers(&ns));
        if terminating && is_empty(tx, &namespace) {
            tx.delete(key);
        }
    }
    removed
}

/// Deletes what is in a namespace; `false` when something there waits for its finalizers.
fn empty_namespace(tx: &mut Tx<'_>, namespace: &str) -> bool {
    let mut all_gone = true;
    for (key, object) in contents(tx, namespace) {
        if object::has_finalizers(&object) {
            all_gone = false;
            if !object::is_terminating(&object) {
                let mut marked = (*object).clone();
                mark(&mut marked);
                tx.put(key, marked);
            }
        } else {
            tx.delete(key);
        }
    }
    all_gone
}

pub(super) fn is_empty(tx: &Tx<'_>, namespace: &str) -> bool {
    contents(tx, namespace).is_empty()
}

fn contents(tx: &Tx<'_>, namespace: &str) -> Vec<(Key, Arc<Value>)> {
    let mut all = Vec::new();
    for resource in tx.resources() {
        for object in tx.list(&resource, Some(namespace)) {
            let name = object::name(&object).to_owned();
            all.push((
                Key {
                    resource: resource.clone(),
                    namespace: namespace.to_owned(),
                    name,
                },
                object,
            ));
        }
    }
    all
}
