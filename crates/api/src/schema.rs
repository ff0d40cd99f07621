//! What the derived schemas need to become Cilium's: condition lists, and what kube's derive says too much or too little.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};
use schemars::{Schema, SchemaGenerator, json_schema};

/// A list of `metav1.Condition`, one per type.
pub(crate) fn conditions(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "description": "Conditions, one per type.",
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["type"],
        "items": {
            "type": "object",
            "description": "One aspect of the state of this object.",
            "required": ["lastTransitionTime", "message", "reason", "status", "type"],
            "properties": {
                "lastTransitionTime": {
                    "type": "string", "format": "date-time",
                    "description": "When `status` last changed.",
                },
                "message": {
                    "type": "string", "maxLength": 32768,
                    "description": "Details for people; may be empty.",
                },
                "observedGeneration": {
                    "type": "integer", "format": "int64", "minimum": 0,
                    "description": "The `metadata.generation` that this condition is about.",
                },
                "reason": {
                    "type": "string", "minLength": 1, "maxLength": 1024,
                    "pattern": "^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$",
                    "description": "One word for programs.",
                },
                "status": {
                    "type": "string", "enum": ["True", "False", "Unknown"],
                    "description": "`True`, `False` or `Unknown`.",
                },
                "type": {
                    "type": "string", "maxLength": 316,
                    "pattern": CONDITION_TYPE,
                    "description": "What this condition is about.",
                },
            },
        },
    })
}

/// An optional DNS prefix with `/`, then a qualified name, as in Kubernetes.
const CONDITION_TYPE: &str = concat!(
    r"^([a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*/)?",
    r"(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])$",
);

/// Makes a derived CRD Cilium's: absent fields are absent (never `null`), the envelope is described,
/// and exactly `required` is required at the top.
pub(crate) fn finish(crd: &mut CustomResourceDefinition, required: &[&str]) {
    crd.metadata.labels.get_or_insert_default().insert(
        crate::names::label::MANAGED_BY.to_owned(),
        "fairlead".to_owned(),
    );
    crd.spec.names.list_kind = Some(format!("{}List", crd.spec.names.kind));
    for version in &mut crd.spec.versions {
        let root = version
            .schema
            .as_mut()
            .and_then(|s| s.open_api_v3_schema.as_mut());
        let Some(root) = root else { continue };
        each(root, &mut |node| node.nullable = None);
        root.title = None;
        root.required = Some(required.iter().map(|&r| r.to_owned()).collect());
        let envelope = root.properties.get_or_insert_default();
        for (name, kind) in [
            ("apiVersion", "string"),
            ("kind", "string"),
            ("metadata", "object"),
        ] {
            envelope.insert(
                name.to_owned(),
                JSONSchemaProps {
                    type_: Some(kind.to_owned()),
                    ..Default::default()
                },
            );
        }
    }
}

/// Visits a schema and everything below it.
fn each(node: &mut JSONSchemaProps, visit: &mut impl FnMut(&mut JSONSchemaProps)) {
    visit(node);
    for child in node.properties.iter_mut().flat_map(|p| p.values_mut()) {
        each(child, visit);
    }
    match &mut node.items {
        Some(JSONSchemaPropsOrArray::Schema(child)) => each(child, visit),
        Some(JSONSchemaPropsOrArray::Schemas(children)) => {
            for child in children {
                each(child, visit);
            }
        }
        None => {}
    }
    if let Some(JSONSchemaPropsOrBool::Schema(child)) = &mut node.additional_properties {
        each(child, visit);
    }
}
