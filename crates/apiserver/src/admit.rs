//! From what a client sent to what may be stored: shape, defaults, rules, in that order.

use serde_json::{Map, Value, json};

use crate::kinds::{Rules, Served};
use crate::object;
use crate::service::{self, Allocated};
use crate::status::{ApiError, Cause};
use crate::validate;

/// What becomes of unknown fields, as the client asks by `fieldValidation`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FieldValidation {
    Ignore,
    Warn,
    Strict,
}

impl FieldValidation {
    pub(crate) fn parse(word: &str) -> Result<Self, ApiError> {
        match word {
            "Ignore" => Ok(Self::Ignore),
            "" | "Warn" => Ok(Self::Warn),
            "Strict" => Ok(Self::Strict),
            other => Err(ApiError::bad_request(format!(
                "fieldValidation: Unsupported value: {other:?}: supported values: \"Ignore\", \"Strict\", \"Warn\""
            ))),
        }
    }
}

/// Brings an object into the shape of its schema; returns warnings about what was dropped. `duplicates` are fields that the
/// client sent twice.
pub(crate) fn shape(
    served: &Served,
    object: &mut Value,
    validation: FieldValidation,
    duplicates: &[String],
) -> Result<Vec<String>, ApiError> {
    let kind = &served.kind;
    let fields = name_type(served, object)?;
    // Field ownership is not kept, and an empty claim would only mislead.
    if let Some(Value::Object(meta)) = fields.get_mut("metadata") {
        meta.remove("managedFields");
        meta.remove("selfLink");
    }
    let schema = &served.version().schema;
    if kind.rules.is_built_in() {
        schema.drop_nulls(object);
    } else if let (Some(schema), Some(meta)) = (
        schema.properties.get("metadata"),
        object.get_mut("metadata"),
    ) {
        schema.drop_nulls(meta);
    }
    let mut unknown = Vec::new();
    schema.prune(object, "", &mut unknown);
    schema.fill_defaults(object);
    let duplicates = duplicates
        .iter()
        .map(|field| format!("duplicate field \"{field}\""));
    let unknown = unknown
        .into_iter()
        .map(|field| format!("unknown field \"{field}\""));
    let told = duplicates.chain(unknown);
    match validation {
        FieldValidation::Ignore => Ok(Vec::new()),
        FieldValidation::Warn => Ok(told.collect()),
        FieldValidation::Strict => {
            let told: Vec<String> = told.collect();
            if told.is_empty() {
                return Ok(told);
            }
            Err(ApiError::bad_request(format!(
                "{} in version \"{}\" cannot be handled as a {}: strict decoding error: {}",
                kind.kind,
                served.version().name,
                kind.kind,
                told.join(", ")
            )))
        }
    }
}

/// Fills in `apiVersion` and `kind` where they are missing and refuses other ones; returns the object's fields.
fn name_type<'a>(
    served: &Served,
    object: &'a mut Value,
) -> Result<&'a mut Map<String, Value>, ApiError> {
    let kind = &served.kind.kind;
    let Some(fields) = object.as_object_mut() else {
        return Err(ApiError::bad_request(format!(
            "the body must be a {kind} as a JSON object"
        )));
    };
    for (field, wanted) in [("apiVersion", served.api_version()), ("kind", kind.clone())] {
        match fields
            .get(field)
            .and_then(Value::as_str)
            .unwrap_or_default()
        {
            "" => drop(fields.insert(field.to_owned(), json!(wanted))),
            sent if sent == wanted => {}
            sent => {
                return Err(ApiError::bad_request(format!(
                    "the {field} in the data ({sent}) does not match the expected {field} ({wanted})"
                )));
            }
        }
    }
    Ok(fields)
}

/// Fills in what the kind's rules fill in and refuses what they refuse. `old` is the object that is replaced.
pub(crate) fn admit(
    served: &Served,
    new: &mut Value,
    old: Option<&Value>,
    allocated: &Allocated,
) -> Result<(), ApiError> {
    let rules = served.kind.rules;
    let mut causes = Vec::new();
    // Types first: the rules may rely on them.
    served.version().schema.check(new, "", &mut causes);
    if let (Rules::Custom, Some(old), false) = (rules, old, causes.is_empty()) {
        // Ratcheting: a definition may have become stricter since, and what was there before may stay as it was.
        let mut before = Vec::new();
        served.version().schema.check(old, "", &mut before);
        causes.retain(|cause| !before.contains(cause));
    }
    if causes.is_empty() {
        fill(rules, new, old);
        validate::check_metadata(&served.kind, new, old, &mut causes);
        if rules == Rules::Service {
            service::admit(new, old, allocated, &mut causes);
        } else {
            validate::check_kind(rules, new, old, &mut causes);
        }
        if causes.is_empty() {
            let schema = &served.version().schema;
            schema.check_rules(new, old, "", &mut causes);
        }
    }
    if causes.is_empty() {
        Ok(())
    } else {
        Err(invalid(served, new, causes))
    }
}

pub(crate) fn invalid(served: &Served, object: &Value, causes: Vec<Cause>) -> ApiError {
    ApiError::Invalid {
        group: served.kind.group.clone(),
        kind: served.kind.kind.clone(),
        name: object::name(object).to_owned(),
        causes,
    }
}

/// Defaults of the built-in kinds other than Service.
fn fill(rules: Rules, new: &mut Value, old: Option<&Value>) {
    match rules {
        Rules::Namespace => {
            let name = object::name(new).to_owned();
            let labels = object::meta_mut(new)
                .entry("labels")
                .or_insert_with(|| json!({}));
            labels["kubernetes.io/metadata.name"] = json!(name);
            if old.is_none() {
                new["spec"] = json!({ "finalizers": ["kubernetes"] });
                new["status"] = json!({ "phase": "Active" });
            }
        }
        Rules::Secret => {
            use base64::Engine as _;
            let written = new
                .as_object_mut()
                .and_then(|fields| fields.remove("stringData"));
            if let Some(Value::Object(texts)) = written {
                let data = object::child_mut(new, "data");
                for (key, text) in texts {
                    let text = text.as_str().unwrap_or_default();
                    data.insert(
                        key,
                        json!(base64::engine::general_purpose::STANDARD.encode(text)),
                    );
                }
            }
            if object::text(new, "/type").is_empty() {
                new["type"] = json!("Opaque");
            }
        }
        Rules::EndpointSlice => {
            for port in new
                .get_mut("ports")
                .and_then(Value::as_array_mut)
                .into_iter()
                .flatten()
            {
                for (field, default) in [("name", ""), ("protocol", "TCP")] {
                    if port.get(field).is_none() {
                        port[field] = json!(default);
                    }
                }
            }
        }
        Rules::Node
        | Rules::Service
        | Rules::ConfigMap
        | Rules::Event
        | Rules::NewEvent
        | Rules::Lease
        | Rules::Definition
        | Rules::Review
        | Rules::Component
        | Rules::Custom => {}
    }
}

/// Whether anything but metadata (and status, where that is a part of its own) differs.
pub(crate) fn desired_differs(served: &Served, new: &Value, old: &Value) -> bool {
    let aside = |name: &str| {
        matches!(name, "metadata" | "apiVersion" | "kind")
            || (name == "status" && served.version().status)
    };
    let (Some(new), Some(old)) = (new.as_object(), old.as_object()) else {
        return true;
    };
    let differs = |name: &String| !aside(name) && new.get(name) != old.get(name);
    new.keys().chain(old.keys()).any(differs)
}
