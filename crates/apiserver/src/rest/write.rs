//! Create, replace, patch, delete.
//!
//! The handler decodes the request; everything that depends on the present state happens in an `Op` on the writer's thread,
//! so that what was checked is still true when it is stored.

pub(crate) mod definition;
mod delete;

use axum::body::Body;
use axum::http::{HeaderMap, Response, StatusCode, header};
use bytes::Bytes;
use serde_json::{Value, json};

pub(crate) use self::delete::{delete, delete_many};
use super::read::shaped;
use super::{Params, Part, Shape, Target, json as respond, stored, view, warn};
use crate::admit::{self, FieldValidation};
use crate::api::Api;
use crate::clock;
use crate::decode::{self, Sent};
use crate::engine::{Op, Outcome, Tx};
use crate::kinds::{Registry, Rules};
use crate::object;
use crate::patch::Patch;
use crate::removal;
use crate::status::{ApiError, Cause};

/// Tries at a free name for `generateName`; with 27^5 suffixes the first nearly always does.
const NAME_TRIES: usize = 8;
const SUFFIX: usize = 5;
/// As Kubernetes': without vowels and look-alikes, so that no name reads as a word.
const SUFFIX_CHARS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

fn dry_run(params: &Params) -> Result<bool, ApiError> {
    match params.text("dryRun") {
        "" => Ok(false),
        "All" => Ok(true),
        other => Err(ApiError::bad_request(format!(
            "dryRun: Unsupported value: {other:?}: supported values: \"All\""
        ))),
    }
}

/// The body as a value: JSON, protobuf as client-go sends it, or YAML for those who write it by hand. `definition` names the
/// body's type.
fn decode(
    registry: &Registry,
    headers: &HeaderMap,
    body: &[u8],
    definition: &str,
) -> Result<Sent, ApiError> {
    let media = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or("application/json");
    let bad = |error: &dyn std::fmt::Display| {
        ApiError::bad_request(format!("the body cannot be decoded: {error}"))
    };
    match media.split(';').next().unwrap_or_default().trim() {
        "application/json" | "" => decode::json(body).map_err(|error| bad(&error)),
        "application/yaml" => decode::yaml(body).map_err(|error| bad(&error)),
        "application/vnd.kubernetes.protobuf" => registry
            .protobuf
            .decode(body, definition, &registry.definitions)
            .map(|value| Sent {
                value,
                duplicates: Vec::new(),
            })
            .map_err(|error| bad(&error)),
        other => Err(ApiError::UnsupportedMediaType {
            detail: format!(
                "the body is {other}; accepted media types: application/json, application/yaml, \
                 application/vnd.kubernetes.protobuf"
            ),
        }),
    }
}

/// A request that writes, read in full.
pub(crate) struct Write<'a> {
    pub(crate) target: Target,
    pub(crate) params: Params,
    pub(crate) shape: Shape,
    pub(crate) headers: &'a HeaderMap,
    pub(crate) body: Bytes,
}

impl Write<'_> {
    /// The object that was sent.
    pub(crate) fn decode(&self, api: &Api) -> Result<Sent, ApiError> {
        let definition = &self.target.served.version().definition;
        decode(&api.registry, self.headers, &self.body, definition)
    }

    pub(crate) fn validation(&self) -> Result<FieldValidation, ApiError> {
        FieldValidation::parse(self.params.text("fieldValidation"))
    }
}

pub(crate) async fn create(api: &Api, write: Write<'_>) -> Result<Response<Body>, ApiError> {
    let validation = write.validation()?;
    let sent = write.decode(api)?;
    let dry_run = dry_run(&write.params)?;
    let target = &write.target;
    if target.served.kind.namespaced && target.namespace.is_none() {
        return Err(ApiError::MethodNotAllowed);
    }
    let place = target.clone();
    let op: Op = Box::new(move |tx| create_in(tx, &place, sent, validation));
    answer(target, write.shape, api.write(op, dry_run).await?)
}

pub(crate) async fn replace(
    api: &Api,
    write: Write<'_>,
    name: &str,
) -> Result<Response<Body>, ApiError> {
    let validation = write.validation()?;
    let mut sent = write.decode(api)?;
    let dry_run = dry_run(&write.params)?;
    let (place, name) = (write.target.clone(), name.to_owned());
    let op: Op = Box::new(move |tx| {
        let creates = place.served.kind.rules.put_creates() && place.part == Part::Whole;
        if creates && tx.get(&place.key(&name)).is_none() {
            check_name(&sent.value, &name)?;
            object::set_meta(&mut sent.value, "name", name.as_str());
            return create_in(tx, &place, sent, validation);
        }
        let duplicates = std::mem::take(&mut sent.duplicates);
        update(tx, &place, &name, (validation, &duplicates), move |_| {
            Ok(sent.value)
        })
    });
    answer(&write.target, write.shape, api.write(op, dry_run).await?)
}

pub(crate) async fn patch(
    api: &Api,
    write: Write<'_>,
    name: &str,
) -> Result<Response<Body>, ApiError> {
    let validation = write.validation()?;
    let patch = Patch::parse(&write.target.served, write.headers, &write.body)?;
    let dry_run = dry_run(&write.params)?;
    let (place, name) = (write.target.clone(), name.to_owned());
    let op: Op = Box::new(move |tx| {
        let served = place.served.clone();
        update(
            tx,
            &place,
            &name,
            (validation, &patch.duplicates),
            |current| patch.apply(&served.version().schema, current),
        )
    });
    answer(&write.target, write.shape, api.write(op, dry_run).await?)
}

fn name_of(object: &Value) -> String {
    object::name(object).to_owned()
}

fn answer(target: &Target, shape: Shape, outcome: Outcome) -> Result<Response<Body>, ApiError> {
    let Outcome::Object {
        object,
        created,
        warnings,
    } = outcome
    else {
        return Err(ApiError::StorageFailed {
            detail: "a write ended as a deletion".into(),
        });
    };
    let code = if created {
        StatusCode::CREATED
    } else {
        StatusCode::OK
    };
    let mut response = respond(code, &shaped(target, &object, shape));
    warn(&mut response, &warnings);
    Ok(response)
}

/// The namespaces that always exist.
pub(crate) fn default_namespaces(registry: &Registry) -> Vec<Op> {
    let Some(served) = registry.find("", "v1", "namespaces") else {
        return Vec::new();
    };
    let make = |name: &'static str| -> Op {
        let target = Target {
            served: served.clone(),
            namespace: None,
            name: None,
            part: Part::Whole,
        };
        let sent = Sent {
            value: json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name } }),
            ..Sent::default()
        };
        Box::new(move |tx| create_in(tx, &target, sent, FieldValidation::Strict))
    };
    vec![make("default"), make("kube-system")]
}

fn create_in(
    tx: &mut Tx<'_>,
    target: &Target,
    sent: Sent,
    validation: FieldValidation,
) -> Result<Outcome, ApiError> {
    let served = &target.served;
    let kind = &served.kind;
    let mut object = sent.value;
    let warnings = admit::shape(served, &mut object, validation, &sent.duplicates)?;
    check_namespace(tx, target, &mut object)?;
    if !object::meta(&object, "resourceVersion").is_empty() {
        return Err(ApiError::bad_request(
            "resourceVersion should not be set on objects to be created",
        ));
    }
    if object::name(&object).is_empty() && !object::meta(&object, "generateName").is_empty() {
        let name = generate_name(tx, target, object::meta(&object, "generateName"));
        object::set_meta(&mut object, "name", name);
    }
    let key = target.key(object::name(&object));
    if tx.get(&key).is_some() {
        return Err(ApiError::AlreadyExists {
            resource: kind.resource.to_string(),
            name: key.name,
        });
    }
    let meta = object::meta_mut(&mut object);
    for field in [
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "generation",
    ] {
        meta.remove(field);
    }
    meta.insert("uid".into(), json!(uuid::Uuid::new_v4().to_string()));
    meta.insert("creationTimestamp".into(), json!(clock::timestamp()));
    if kind.rules.has_generation() {
        meta.insert("generation".into(), json!(1));
    }
    // What a status says is for controllers to say, through `/status`. Nodes report theirs when they register.
    if served.version().status && kind.rules != Rules::Node {
        object.as_object_mut().map(|fields| fields.remove("status"));
    }
    admit::admit(served, &mut object, None, tx.allocated)?;
    Ok(Outcome::Object {
        object: tx.put(key, stored(served, object)),
        created: true,
        warnings,
    })
}

/// The namespace of the path goes into the object; it must exist and not be on its way out.
fn check_namespace(tx: &Tx<'_>, target: &Target, object: &mut Value) -> Result<(), ApiError> {
    let Some(namespace) = &target.namespace else {
        object::meta_mut(object).remove("namespace");
        return Ok(());
    };
    match object::meta(object, "namespace") {
        "" => object::set_meta(object, "namespace", namespace.as_str()),
        own if own == namespace => {}
        own => {
            return Err(ApiError::bad_request(format!(
                "the namespace of the provided object does not match the namespace sent on the request ({own} != {namespace})"
            )));
        }
    }
    let key = crate::store::Key {
        resource: "namespaces".into(),
        namespace: String::new(),
        name: namespace.clone(),
    };
    let found = tx.get(&key).ok_or_else(|| ApiError::NotFound {
        resource: "namespaces".into(),
        name: namespace.clone(),
    })?;
    if object::is_terminating(&found) {
        return Err(ApiError::Forbidden {
            resource: target.served.kind.resource.to_string(),
            name: name_of(object),
            detail: format!(
                "unable to create new content in namespace {namespace} because it is being terminated"
            ),
        });
    }
    Ok(())
}

fn generate_name(tx: &Tx<'_>, target: &Target, prefix: &str) -> String {
    let one = || {
        let suffix: String = (0..SUFFIX)
            .map(|_| char::from(SUFFIX_CHARS[rand::random::<u32>() as usize % SUFFIX_CHARS.len()]))
            .collect();
        let cut = prefix
            .char_indices()
            .nth(63 - SUFFIX)
            .map_or(prefix.len(), |(at, _)| at);
        format!("{}{suffix}", &prefix[..cut])
    };
    (0..NAME_TRIES)
        .map(|_| one())
        .find(|name| tx.get(&target.key(name)).is_none())
        .unwrap_or_else(one)
}

fn check_name(object: &Value, name: &str) -> Result<(), ApiError> {
    match object::name(object) {
        "" => Ok(()),
        own if own == name => Ok(()),
        own => Err(ApiError::bad_request(format!(
            "the name of the object ({own}) does not match the name on the URL ({name})"
        ))),
    }
}

/// Replaces an object by what `make` makes of it, as far as the request's part allows.
fn update(
    tx: &mut Tx<'_>,
    target: &Target,
    name: &str,
    (validation, duplicates): (FieldValidation, &[String]),
    make: impl FnOnce(&Value) -> Result<Value, ApiError>,
) -> Result<Outcome, ApiError> {
    let served = &target.served;
    let kind = &served.kind;
    let key = target.key(name);
    let old = tx.get(&key).ok_or_else(|| target.not_found(name))?;
    let mut new = make(&view(served, &old))?;
    let warnings = admit::shape(served, &mut new, validation, duplicates)?;
    check_name(&new, name)?;
    if let ("", Some(namespace)) = (object::meta(&new, "namespace"), &target.namespace) {
        object::set_meta(&mut new, "namespace", namespace.as_str());
    }
    check_preconditions(target, &new, &old)?;
    if kind.namespaced && object::meta(&new, "namespace") != key.namespace {
        return Err(ApiError::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    let mut new = restrict(target, new, &old);
    keep_system_fields(&mut new, &old);
    admit::admit(served, &mut new, Some(&old), tx.allocated)?;
    let mut new = stored(served, new);
    if new == *old {
        return Ok(Outcome::Object {
            object: old,
            created: false,
            warnings,
        });
    }
    let relabelled = kind.rules == Rules::EndpointSlice
        && new["metadata"].get("labels") != old["metadata"].get("labels");
    if kind.rules.has_generation() && (relabelled || admit::desired_differs(served, &new, &old)) {
        let generation = old["metadata"]["generation"].as_i64().unwrap_or(0) + 1;
        object::set_meta(&mut new, "generation", generation);
    }
    let object = if removal::may_go(tx, &key, &new) {
        removal::finish(tx, key, new)
    } else {
        tx.put(key, new)
    };
    Ok(Outcome::Object {
        object,
        created: false,
        warnings,
    })
}

/// What only the server writes stays as it was.
fn keep_system_fields(new: &mut Value, old: &Value) {
    for field in [
        "uid",
        "creationTimestamp",
        "generation",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "name",
        "resourceVersion",
    ] {
        match old["metadata"].get(field) {
            Some(value) => object::set_meta(new, field, value.clone()),
            None => drop(object::meta_mut(new).remove(field)),
        }
    }
}

fn check_preconditions(target: &Target, new: &Value, old: &Value) -> Result<(), ApiError> {
    let kind = &target.served.kind;
    let conflict = |detail: &str| ApiError::Conflict {
        resource: kind.resource.to_string(),
        name: name_of(old),
        detail: detail.to_owned(),
    };
    match object::meta(new, "resourceVersion") {
        "" | "0" if kind.rules.overwrites_blindly() => {}
        "" | "0" => {
            let cause = Cause::invalid(
                "metadata.resourceVersion",
                &json!(0),
                "must be specified for an update",
            );
            return Err(admit::invalid(&target.served, new, vec![cause]));
        }
        version if version == object::meta(old, "resourceVersion") => {}
        _ => {
            return Err(conflict(
                "the object has been modified; please apply your changes to the latest version and try again",
            ));
        }
    }
    let (asked, present) = (object::meta(new, "uid"), object::meta(old, "uid"));
    if !asked.is_empty() && asked != present {
        let detail = format!(
            "Precondition failed: UID in precondition: {asked}, UID in object meta: {present}"
        );
        return Err(conflict(&detail));
    }
    Ok(())
}

/// The new object with everything that the request's part may not touch as it was.
fn restrict(target: &Target, mut new: Value, old: &Value) -> Value {
    let served = &target.served;
    if !served.version().status {
        return new;
    }
    match target.part {
        Part::Whole => {
            match old.get("status") {
                Some(status) => new["status"] = status.clone(),
                None => drop(
                    new.as_object_mut()
                        .and_then(|fields| fields.remove("status")),
                ),
            }
            new
        }
        Part::Status => {
            let mut merged = old.clone();
            match new.get("status") {
                Some(status) => merged["status"] = status.clone(),
                None => drop(
                    merged
                        .as_object_mut()
                        .and_then(|fields| fields.remove("status")),
                ),
            }
            if served.kind.rules.status_carries_metadata() {
                merged["metadata"] = new["metadata"].clone();
            }
            merged["apiVersion"] = new["apiVersion"].clone();
            merged
        }
    }
}
