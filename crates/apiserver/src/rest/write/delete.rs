//! Requests to delete; `removal.rs` does it.

use axum::body::Body;
use axum::http::{Response, StatusCode};
use serde_json::{Value, json};

use super::{Write, decode, dry_run};
use crate::api::Api;
use crate::engine::{Op, Outcome, Tx};
use crate::kinds::Rules;
use crate::object;
use crate::removal::{self, Policy};
use crate::rest::{Target, bytes, json as respond, view};
use crate::selector::Selector;
use crate::status::{self, ApiError, Cause};

/// Namespaces without which nothing here works.
const KEPT: &[&str] = &["default", "kube-system"];

const OPTIONS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions";

/// What `DeleteOptions` ask, as far as it means something here: nothing runs that a grace period could be for.
#[derive(Debug, Clone)]
struct Options {
    policy: Policy,
    uid: Option<String>,
    resource_version: Option<String>,
    dry_run: bool,
}

impl Options {
    fn parse(api: &Api, write: &Write<'_>) -> Result<Self, ApiError> {
        let asked_dry = dry_run(&write.params)?;
        let body = &write.body;
        let options = if body.iter().all(u8::is_ascii_whitespace) {
            json!({})
        } else {
            decode(&api.registry, write.headers, body, OPTIONS)?.value
        };
        let text = |pointer: &str| {
            options
                .pointer(pointer)
                .and_then(Value::as_str)
                .map(str::to_owned)
        };
        let dry = object::list(&options, "/dryRun")
            .iter()
            .any(|value| value == "All");
        let policy = match text("/propagationPolicy") {
            Some(policy) => policy,
            None => write.params.text("propagationPolicy").to_owned(),
        };
        Ok(Self {
            policy: policy_of(&policy, &options["orphanDependents"])?,
            uid: text("/preconditions/uid"),
            resource_version: text("/preconditions/resourceVersion"),
            dry_run: dry || asked_dry,
        })
    }
}

fn policy_of(word: &str, orphan_dependents: &Value) -> Result<Policy, ApiError> {
    let refuse = |cause: Cause| ApiError::Invalid {
        group: "meta.k8s.io".into(),
        kind: "DeleteOptions".into(),
        name: String::new(),
        causes: vec![cause],
    };
    match (word, orphan_dependents.as_bool()) {
        ("", None) => Ok(Policy::Unsaid),
        // A boolean is the older way to say it.
        ("Orphan", None) | ("", Some(true)) => Ok(Policy::Orphan),
        ("Background", None) | ("", Some(false)) => Ok(Policy::Background),
        (_, Some(_)) => Err(refuse(Cause::invalid(
            "propagationPolicy",
            &json!(word),
            "orphanDependents and deletionPropagation cannot be both set",
        ))),
        ("Foreground", None) => Ok(Policy::Foreground),
        (other, None) => Err(refuse(Cause::not_supported(
            "propagationPolicy",
            &json!(other),
            &["Background", "Foreground", "Orphan"],
        ))),
    }
}

pub(crate) async fn delete(
    api: &Api,
    write: Write<'_>,
    name: &str,
) -> Result<Response<Body>, ApiError> {
    let options = Options::parse(api, &write)?;
    let dry_run = options.dry_run;
    let (place, name) = (write.target.clone(), name.to_owned());
    let op: Op = Box::new(move |tx| delete_one(tx, &place, &name, &options));
    let served = &write.target.served;
    let kind = &served.kind;
    Ok(match api.write(op, dry_run).await? {
        Outcome::Object { object, .. } => respond(StatusCode::OK, &view(served, &object)),
        // As Kubernetes has it: of these the object as it was, of all others a Status.
        Outcome::Deleted(last) if kind.rules == Rules::Service => {
            respond(StatusCode::OK, &view(served, &last))
        }
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
    let options = Options::parse(api, &write)?;
    let Write { target, params, .. } = write;
    let kind = target.served.kind.clone();
    if kind.namespaced && target.namespace.is_none() {
        return Err(ApiError::MethodNotAllowed);
    }
    let dry_run = options.dry_run;
    let selector = Selector::parse(
        &kind,
        params.text("labelSelector"),
        params.text("fieldSelector"),
    )?;
    let place = target.clone();
    let op: Op = Box::new(move |tx| {
        let all = tx.list(&place.served.kind.stored_in, place.namespace.as_deref());
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
    Ok(match removal::remove(tx, key, options.policy) {
        Some((last, true)) => Outcome::Deleted(last),
        Some((object, false)) => Outcome::Object {
            object,
            created: false,
            warnings: Vec::new(),
        },
        None => return Err(target.not_found(name)),
    })
}
