//! What the API answers when it refuses: one closed error enum and its `Status` object.
//!
//! Invariant: every refusal leaves as a `metav1.Status` whose code, reason and message are those a Kubernetes API server
//! would give, because clients (kubectl, kube-rs, client-go) decide by `code` and `reason`.
//! Next: `validate.rs` collects the causes, `rest.rs` turns the error into a response.

use axum::http::StatusCode;
use serde_json::{Value, json};

/// What is wrong with one field. The names are the `CauseType`s of Kubernetes (apimachinery `field.ErrorType`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CauseReason {
    Required,
    Invalid,
    NotSupported,
    Duplicate,
    Forbidden,
    TypeInvalid,
    TooLong,
    TooMany,
}

impl CauseReason {
    pub(crate) const fn reason(self) -> &'static str {
        match self {
            Self::Required => "FieldValueRequired",
            Self::Invalid => "FieldValueInvalid",
            Self::NotSupported => "FieldValueNotSupported",
            Self::Duplicate => "FieldValueDuplicate",
            Self::Forbidden => "FieldValueForbidden",
            Self::TypeInvalid => "FieldValueTypeInvalid",
            Self::TooLong => "FieldValueTooLong",
            Self::TooMany => "FieldValueTooMany",
        }
    }

    const fn words(self) -> &'static str {
        match self {
            Self::Required => "Required value",
            Self::Invalid | Self::TypeInvalid => "Invalid value",
            Self::NotSupported => "Unsupported value",
            Self::Duplicate => "Duplicate value",
            Self::Forbidden => "Forbidden",
            Self::TooLong => "Too long",
            Self::TooMany => "Too many",
        }
    }
}

/// One field that is wrong, and how to put it right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cause {
    pub(crate) reason: CauseReason,
    /// JSON path without a leading dot, as in `spec.ports[0].port`.
    pub(crate) field: String,
    /// `Invalid value: 70000: must be between 1 and 65535, inclusive`.
    pub(crate) message: String,
}

impl Cause {
    fn new(reason: CauseReason, field: &str, value: Option<&Value>, detail: &str) -> Self {
        let mut message = reason.words().to_owned();
        if let Some(value) = value {
            message.push_str(": ");
            message.push_str(&shown(value));
        }
        if !detail.is_empty() {
            message.push_str(": ");
            message.push_str(detail);
        }
        Self {
            reason,
            field: field.to_owned(),
            message,
        }
    }

    pub(crate) fn required(field: &str, detail: &str) -> Self {
        Self::new(CauseReason::Required, field, None, detail)
    }

    pub(crate) fn invalid(field: &str, value: &Value, detail: &str) -> Self {
        Self::new(CauseReason::Invalid, field, Some(value), detail)
    }

    pub(crate) fn type_invalid(field: &str, value: &Value, detail: &str) -> Self {
        Self::new(CauseReason::TypeInvalid, field, Some(value), detail)
    }

    pub(crate) fn duplicate(field: &str, value: &Value) -> Self {
        Self::new(CauseReason::Duplicate, field, Some(value), "")
    }

    pub(crate) fn forbidden(field: &str, detail: &str) -> Self {
        Self::new(CauseReason::Forbidden, field, None, detail)
    }

    pub(crate) fn not_supported(field: &str, value: &Value, supported: &[&str]) -> Self {
        let list: Vec<String> = supported.iter().map(|s| format!("\"{s}\"")).collect();
        let detail = format!("supported values: {}", list.join(", "));
        Self::new(CauseReason::NotSupported, field, Some(value), &detail)
    }

    pub(crate) fn too_long(field: &str, limit: u64) -> Self {
        let detail = format!("may not be more than {limit} bytes");
        Self::new(CauseReason::TooLong, field, None, &detail)
    }

    pub(crate) fn too_many(field: &str, n: usize, limit: u64) -> Self {
        let detail = format!("must have at most {limit} items");
        Self::new(CauseReason::TooMany, field, Some(&json!(n)), &detail)
    }
}

/// A value as an error message shows it: JSON, cut off where a person stops reading.
fn shown(value: &Value) -> String {
    const LONGEST: usize = 200;
    let text = value.to_string();
    match text.char_indices().nth(LONGEST) {
        Some((at, _)) => format!("{}...", &text[..at]),
        None => text,
    }
}

/// Why a request was refused.
///
/// `Display` is the `message` of the `Status`; [`ApiError::reason`] its `reason`.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum ApiError {
    #[error("{resource} \"{name}\" not found")]
    NotFound { resource: String, name: String },
    #[error("the server could not find the requested resource")]
    NoSuchPath,
    #[error("{resource} \"{name}\" already exists")]
    AlreadyExists { resource: String, name: String },
    #[error("Operation cannot be fulfilled on {resource} \"{name}\": {detail}")]
    Conflict {
        resource: String,
        name: String,
        detail: String,
    },
    #[error("{} \"{name}\" is invalid: {}", qualified(kind, group), join(causes))]
    Invalid {
        group: String,
        kind: String,
        name: String,
        causes: Vec<Cause>,
    },
    #[error("{detail}")]
    BadRequest { detail: String },
    #[error("the server rejected our request due to an error in our request: {detail}")]
    UnprocessablePatch { detail: String },
    #[error("{resource} \"{name}\" is forbidden: {detail}")]
    Forbidden {
        resource: String,
        name: String,
        detail: String,
    },
    #[error("Unauthorized")]
    Unauthorized,
    #[error("the server does not allow this method on the requested resource")]
    MethodNotAllowed,
    #[error("{detail}")]
    UnsupportedMediaType { detail: String },
    #[error("only the following media types are accepted: application/json")]
    NotAcceptable,
    #[error("{detail}")]
    Expired {
        detail: String,
        /// A continue token that accepts an inconsistent rest of the list.
        go_on: Option<String>,
    },
    #[error("Request entity too large: limit is {limit} bytes")]
    TooLarge { limit: usize },
    #[error("too many {what}, please try again later")]
    TooManyRequests { what: &'static str },
    #[error("the request did not complete within the allowed time")]
    Timeout,
    #[error(
        "the API's store has no room left ({detail}); reads go on, writes work again once there is free space"
    )]
    StorageFull { detail: String },
    #[error("the API's store failed: {detail}")]
    StorageFailed { detail: String },
    #[error("the API server is shutting down")]
    ShuttingDown,
}

/// `Service`, `CiliumLoadBalancerIPPool.cilium.io`.
fn qualified(kind: &str, group: &str) -> String {
    if group.is_empty() {
        kind.to_owned()
    } else {
        format!("{kind}.{group}")
    }
}

fn join(causes: &[Cause]) -> String {
    let one = |cause: &Cause| format!("{}: {}", cause.field, cause.message);
    match causes {
        [only] => one(only),
        many => format!("[{}]", many.iter().map(one).collect::<Vec<_>>().join(", ")),
    }
}

impl ApiError {
    pub(crate) fn bad_request(detail: impl Into<String>) -> Self {
        Self::BadRequest {
            detail: detail.into(),
        }
    }

    /// The machine-readable word of the `Status`; empty reasons do not exist.
    pub(crate) const fn reason(&self) -> &'static str {
        match self {
            Self::NotFound { .. } | Self::NoSuchPath => "NotFound",
            Self::AlreadyExists { .. } => "AlreadyExists",
            Self::Conflict { .. } => "Conflict",
            Self::Invalid { .. } | Self::UnprocessablePatch { .. } => "Invalid",
            Self::BadRequest { .. } => "BadRequest",
            Self::Forbidden { .. } => "Forbidden",
            Self::Unauthorized => "Unauthorized",
            Self::MethodNotAllowed => "MethodNotAllowed",
            Self::UnsupportedMediaType { .. } => "UnsupportedMediaType",
            Self::NotAcceptable => "NotAcceptable",
            Self::Expired { .. } => "Expired",
            Self::TooLarge { .. } => "RequestEntityTooLarge",
            Self::TooManyRequests { .. } => "TooManyRequests",
            Self::Timeout => "Timeout",
            Self::StorageFull { .. } => "StorageFull",
            Self::StorageFailed { .. } => "InternalError",
            Self::ShuttingDown => "ServiceUnavailable",
        }
    }

    pub(crate) const fn code(&self) -> StatusCode {
        match self {
            Self::NotFound { .. } | Self::NoSuchPath => StatusCode::NOT_FOUND,
            Self::AlreadyExists { .. } | Self::Conflict { .. } => StatusCode::CONFLICT,
            Self::Invalid { .. } | Self::UnprocessablePatch { .. } => {
                StatusCode::UNPROCESSABLE_ENTITY
            }
            Self::BadRequest { .. } => StatusCode::BAD_REQUEST,
            Self::Forbidden { .. } => StatusCode::FORBIDDEN,
            Self::Unauthorized => StatusCode::UNAUTHORIZED,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::UnsupportedMediaType { .. } => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::NotAcceptable => StatusCode::NOT_ACCEPTABLE,
            Self::Expired { .. } => StatusCode::GONE,
            Self::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::TooManyRequests { .. } => StatusCode::TOO_MANY_REQUESTS,
            Self::Timeout => StatusCode::GATEWAY_TIMEOUT,
            Self::StorageFull { .. } => StatusCode::INSUFFICIENT_STORAGE,
            Self::StorageFailed { .. } => StatusCode::INTERNAL_SERVER_ERROR,
            Self::ShuttingDown => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// The `metav1.Status` that says so.
    pub(crate) fn to_status(&self) -> Value {
        let metadata = match self {
            Self::Expired {
                go_on: Some(token), ..
            } => json!({ "continue": token }),
            _ => json!({}),
        };
        json!({
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": metadata,
            "status": "Failure",
            "message": self.to_string(),
            "reason": self.reason(),
            "details": self.details(),
            "code": self.code().as_u16(),
        })
    }

    fn details(&self) -> Value {
        match self {
            Self::NotFound { resource, name }
            | Self::AlreadyExists { resource, name }
            | Self::Conflict { resource, name, .. }
            | Self::Forbidden { resource, name, .. } => {
                // `ciliumloadbalancerippools.cilium.io`: the plural has no dot, the group may have many.
                let (plural, group) = resource.split_once('.').unwrap_or((resource, ""));
                let mut details = json!({ "name": name, "kind": plural });
                if !group.is_empty() {
                    details["group"] = json!(group);
                }
                details
            }
            Self::Invalid {
                group,
                kind,
                name,
                causes,
            } => {
                let causes: Vec<Value> = causes
                    .iter()
                    .map(|c| json!({ "reason": c.reason.reason(), "message": c.message, "field": c.field }))
                    .collect();
                json!({ "name": name, "group": group, "kind": kind, "causes": causes })
            }
            Self::TooManyRequests { .. } => json!({ "retryAfterSeconds": 1 }),
            _ => json!({}),
        }
    }
}

/// The answer to a deletion that has happened.
pub(crate) fn deleted(plural: &str, group: &str, name: &str, uid: &str) -> Value {
    let mut details = json!({ "name": name, "kind": plural, "uid": uid });
    if !group.is_empty() {
        details["group"] = json!(group);
    }
    json!({
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Success",
        "details": details,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_invalid_object_names_every_field() {
        let error = ApiError::Invalid {
            group: String::new(),
            kind: "Service".into(),
            name: "web".into(),
            causes: vec![
                Cause::invalid(
                    "spec.ports[0].port",
                    &json!(70000),
                    "must be between 1 and 65535, inclusive",
                ),
                Cause::required("spec.ports[1].name", ""),
            ],
        };
        let status = error.to_status();
        assert_eq!(
            status["message"],
            "Service \"web\" is invalid: [spec.ports[0].port: Invalid value: 70000: must be between 1 and 65535, \
             inclusive, spec.ports[1].name: Required value]"
        );
        assert_eq!(status["code"], 422);
        assert_eq!(
            status["details"]["causes"][1]["field"],
            "spec.ports[1].name"
        );
        assert_eq!(
            status["details"]["causes"][1]["reason"],
            "FieldValueRequired"
        );
    }

    #[test]
    fn details_split_plural_and_group_at_the_first_dot() {
        let error = ApiError::NotFound {
            resource: "pools.cilium.io".into(),
            name: "a".into(),
        };
        assert_eq!(
            error.to_status()["details"],
            json!({"name": "a", "kind": "pools", "group": "cilium.io"})
        );
    }
}
