//! Who am I, and what may I do: reviews are asked by POST and answered at once.
//!
//! There is one user, the admin whose token every request has shown, and the admin may do everything. `kubectl auth can-i`
//! and `kubectl auth whoami` ask here.

use axum::body::Body;
use axum::http::{Response, StatusCode};
use serde_json::{Value, json};

use super::{Target, json as respond};
use crate::admit::{self, FieldValidation};
use crate::decode::Sent;
use crate::object::{list, text};
use crate::status::{ApiError, Cause};

/// As in the kubeconfig that is handed out.
const USER: &str = "admin";
/// Kubernetes' name for those whom no rule binds.
const MASTERS: &str = "system:masters";
const GROUPS: &[&str] = &[MASTERS, "system:authenticated"];

/// Answers a review.
pub(crate) fn answer(
    target: &Target,
    sent: Sent,
    validation: FieldValidation,
) -> Result<Response<Body>, ApiError> {
    let served = &target.served;
    let mut review = sent.value;
    admit::shape(served, &mut review, validation, &sent.duplicates)?;
    let mut causes = Vec::new();
    served.version().schema.check(&review, "", &mut causes);
    let kind = served.kind.kind.as_str();
    let asks_access = kind.ends_with("SubjectAccessReview");
    if causes.is_empty() && asks_access {
        check_access(kind, target.namespace.as_deref(), &review, &mut causes);
    }
    if !causes.is_empty() {
        return Err(admit::invalid(served, &review, causes));
    }
    review["status"] = match kind {
        "SelfSubjectReview" => json!({ "userInfo": { "username": USER, "groups": GROUPS } }),
        "SelfSubjectRulesReview" => json!({
            "resourceRules": [{ "verbs": ["*"], "apiGroups": ["*"], "resources": ["*"] }],
            "nonResourceRules": [{ "verbs": ["*"], "nonResourceURLs": ["*"] }],
            "incomplete": false,
        }),
        _ => access(kind, &review),
    };
    if review.get("metadata").is_none() {
        review["metadata"] = json!({});
    }
    Ok(respond(StatusCode::CREATED, &review))
}

/// Source: kubernetes/pkg/apis/authorization/validation.
fn check_access(kind: &str, namespace: Option<&str>, review: &Value, causes: &mut Vec<Cause>) {
    let has = |field: &str| review.pointer(field).is_some_and(Value::is_object);
    let (resource, other) = (
        has("/spec/resourceAttributes"),
        has("/spec/nonResourceAttributes"),
    );
    if resource && other {
        causes.push(Cause::invalid(
            "spec.nonResourceAttributes",
            &review["spec"]["nonResourceAttributes"],
            "cannot be specified in combination with resourceAttributes",
        ));
    }
    if !resource && !other {
        causes.push(Cause::invalid(
            "spec.resourceAttributes",
            &Value::Null,
            "exactly one of nonResourceAttributes or resourceAttributes must be specified",
        ));
    }
    if kind != "SelfSubjectAccessReview"
        && text(review, "/spec/user").is_empty()
        && list(review, "/spec/groups").is_empty()
    {
        causes.push(Cause::invalid(
            "spec.user",
            &json!(""),
            "at least one of user or group must be specified",
        ));
    }
    if kind == "LocalSubjectAccessReview" {
        let asked = text(review, "/spec/resourceAttributes/namespace");
        if Some(asked) != namespace {
            causes.push(Cause::invalid(
                "spec.resourceAttributes.namespace",
                &json!(asked),
                "must match metadata.namespace",
            ));
        }
    }
}

fn access(kind: &str, review: &Value) -> Value {
    let is_admin = kind == "SelfSubjectAccessReview"
        || text(review, "/spec/user") == USER
        || list(review, "/spec/groups")
            .iter()
            .any(|group| group == MASTERS);
    if is_admin {
        json!({ "allowed": true, "reason": "the admin may do everything" })
    } else {
        json!({ "allowed": false, "reason": "there is no user but the admin" })
    }
}
