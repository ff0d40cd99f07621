//! The built-in kinds. Their schemas come from the Kubernetes types themselves (k8s-openapi), not from a copy of ours.

use k8s_openapi::api::authentication::v1::SelfSubjectReview;
use k8s_openapi::api::authorization::v1::{
    LocalSubjectAccessReview, SelfSubjectAccessReview, SelfSubjectRulesReview, SubjectAccessReview,
};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{
    ComponentStatus, ConfigMap, Event, Namespace, Node, Secret, Service,
};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::events::v1::Event as NewEvent;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{DeleteOptions, ListMeta};
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use super::{Kind, Rules, Version, api_version};
use crate::schema::Schema;
use crate::table;

/// How strategic merge patch treats the lists of the built-in kinds that it does not replace whole: definition, field, and
/// the field that tells items apart ("" for a set of plain values). Source: `patchMergeKey` of the Kubernetes API types.
const MERGED_LISTS: &[(&str, &str, &str)] = &[
    ("io.k8s.api.core.v1.ServiceSpec", "ports", "port"),
    ("io.k8s.api.core.v1.NodeSpec", "podCIDRs", ""),
    ("io.k8s.api.core.v1.NodeStatus", "addresses", "type"),
    ("io.k8s.api.core.v1.NodeStatus", "conditions", "type"),
    ("io.k8s.api.core.v1.NamespaceStatus", "conditions", "type"),
    ("io.k8s.api.core.v1.ServiceStatus", "conditions", "type"),
    (
        "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta",
        "finalizers",
        "",
    ),
    (
        "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta",
        "ownerReferences",
        "uid",
    ),
];

struct BuiltIn {
    group: &'static str,
    kind: &'static str,
    plural: &'static str,
    short_names: &'static [&'static str],
    namespaced: bool,
    status: bool,
    rules: Rules,
    definition: &'static str,
}

const fn core(
    kind: &'static str,
    plural: &'static str,
    rules: Rules,
    definition: &'static str,
) -> BuiltIn {
    BuiltIn {
        group: "",
        kind,
        plural,
        short_names: &[],
        namespaced: true,
        status: false,
        rules,
        definition,
    }
}

const BUILT_IN: &[BuiltIn] = &[
    BuiltIn {
        namespaced: false,
        status: true,
        short_names: &["ns"],
        ..core(
            "Namespace",
            "namespaces",
            Rules::Namespace,
            "io.k8s.api.core.v1.Namespace",
        )
    },
    BuiltIn {
        namespaced: false,
        status: true,
        short_names: &["no"],
        ..core("Node", "nodes", Rules::Node, "io.k8s.api.core.v1.Node")
    },
    BuiltIn {
        status: true,
        short_names: &["svc"],
        ..core(
            "Service",
            "services",
            Rules::Service,
            "io.k8s.api.core.v1.Service",
        )
    },
    core(
        "Secret",
        "secrets",
        Rules::Secret,
        "io.k8s.api.core.v1.Secret",
    ),
    BuiltIn {
        short_names: &["cm"],
        ..core(
            "ConfigMap",
            "configmaps",
            Rules::ConfigMap,
            "io.k8s.api.core.v1.ConfigMap",
        )
    },
    BuiltIn {
        short_names: &["ev"],
        ..core("Event", "events", Rules::Event, "io.k8s.api.core.v1.Event")
    },
    BuiltIn {
        group: "discovery.k8s.io",
        ..core(
            "EndpointSlice",
            "endpointslices",
            Rules::EndpointSlice,
            "io.k8s.api.discovery.v1.EndpointSlice",
        )
    },
    BuiltIn {
        group: "coordination.k8s.io",
        ..core(
            "Lease",
            "leases",
            Rules::Lease,
            "io.k8s.api.coordination.v1.Lease",
        )
    },
    BuiltIn {
        group: "events.k8s.io",
        short_names: &["ev"],
        ..core(
            "Event",
            "events",
            Rules::NewEvent,
            "io.k8s.api.events.v1.Event",
        )
    },
    BuiltIn {
        group: "apiextensions.k8s.io",
        short_names: &["crd", "crds"],
        namespaced: false,
        ..core(
            "CustomResourceDefinition",
            "customresourcedefinitions",
            Rules::Definition,
            "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.CustomResourceDefinition",
        )
    },
    BuiltIn {
        short_names: &["cs"],
        namespaced: false,
        ..core(
            "ComponentStatus",
            "componentstatuses",
            Rules::Component,
            "io.k8s.api.core.v1.ComponentStatus",
        )
    },
    BuiltIn {
        group: "authentication.k8s.io",
        namespaced: false,
        ..core(
            "SelfSubjectReview",
            "selfsubjectreviews",
            Rules::Review,
            "io.k8s.api.authentication.v1.SelfSubjectReview",
        )
    },
    BuiltIn {
        namespaced: false,
        ..authorization(
            "SelfSubjectAccessReview",
            "selfsubjectaccessreviews",
            "io.k8s.api.authorization.v1.SelfSubjectAccessReview",
        )
    },
    BuiltIn {
        namespaced: false,
        ..authorization(
            "SelfSubjectRulesReview",
            "selfsubjectrulesreviews",
            "io.k8s.api.authorization.v1.SelfSubjectRulesReview",
        )
    },
    BuiltIn {
        namespaced: false,
        ..authorization(
            "SubjectAccessReview",
            "subjectaccessreviews",
            "io.k8s.api.authorization.v1.SubjectAccessReview",
        )
    },
    authorization(
        "LocalSubjectAccessReview",
        "localsubjectaccessreviews",
        "io.k8s.api.authorization.v1.LocalSubjectAccessReview",
    ),
];

const fn authorization(
    kind: &'static str,
    plural: &'static str,
    definition: &'static str,
) -> BuiltIn {
    BuiltIn {
        group: "authorization.k8s.io",
        ..core(kind, plural, Rules::Review, definition)
    }
}

/// OpenAPI definitions of the built-in kinds and of everything they refer to; `$ref`s are `#/components/schemas/NAME`.
pub(super) fn definitions() -> Map<String, Value> {
    let settings = SchemaSettings::draft2020_12().with(|settings| {
        settings.definitions_path = "/components/schemas".into();
    });
    let mut generator = settings.into_generator();
    generator.subschema_for::<Namespace>();
    generator.subschema_for::<Node>();
    generator.subschema_for::<Service>();
    generator.subschema_for::<Secret>();
    generator.subschema_for::<ConfigMap>();
    generator.subschema_for::<Event>();
    generator.subschema_for::<EndpointSlice>();
    generator.subschema_for::<Lease>();
    generator.subschema_for::<NewEvent>();
    generator.subschema_for::<CustomResourceDefinition>();
    generator.subschema_for::<ComponentStatus>();
    generator.subschema_for::<SelfSubjectReview>();
    generator.subschema_for::<SelfSubjectAccessReview>();
    generator.subschema_for::<SelfSubjectRulesReview>();
    generator.subschema_for::<SubjectAccessReview>();
    generator.subschema_for::<LocalSubjectAccessReview>();
    generator.subschema_for::<ListMeta>();
    generator.subschema_for::<DeleteOptions>();
    let mut definitions = generator.take_definitions(true);

    for (definition, field, key) in MERGED_LISTS {
        let schema = &mut definitions[*definition]["properties"][*field];
        assert!(schema.is_object(), "{definition} has a list {field}");
        schema["x-kubernetes-patch-strategy"] = json!("merge");
        if !key.is_empty() {
            schema["x-kubernetes-patch-merge-key"] = json!(key);
        }
    }
    for built_in in BUILT_IN {
        let schema = &mut definitions[built_in.definition];
        schema["x-kubernetes-group-version-kind"] =
            json!([{ "group": built_in.group, "version": "v1", "kind": built_in.kind }]);
        // The type says so because its Rust field is no Option; the API has never asked for it.
        if let Some(fields) = schema.as_object_mut() {
            fields.remove("required");
        }
    }
    // JSON numbers are quantities too, and clients send them.
    if let Some(quantity) = definitions.get_mut("io.k8s.apimachinery.pkg.api.resource.Quantity") {
        quantity["x-kubernetes-int-or-string"] = json!(true);
    }
    definitions
}

pub(super) fn kinds(definitions: &Map<String, Value>) -> Vec<Kind> {
    // Kubernetes decodes built-in kinds into Go structs, where nothing is required: what must be there, `rules` says.
    let mut lenient = definitions.clone();
    lenient.values_mut().for_each(drop_required);
    BUILT_IN
        .iter()
        .map(|built_in| kind(built_in, &lenient))
        .collect()
}

fn kind(built_in: &BuiltIn, definitions: &Map<String, Value>) -> Kind {
    // A definition holds schemas, which hold schemas: that recursion has no compiled form, and none is needed, since the only
    // definitions stored are those that `crd.rs` has read.
    let opaque = json!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true });
    let schema = match built_in.rules {
        Rules::Definition => &opaque,
        _ => &definitions[built_in.definition],
    };
    let schema = Schema::compile(schema, definitions)
        .expect("schemas of the built-in kinds are not recursive and use known types");
    let resource = match built_in.group {
        "" => built_in.plural.to_owned(),
        group => format!("{}.{group}", built_in.plural),
    };
    Kind {
        group: built_in.group.to_owned(),
        kind: built_in.kind.to_owned(),
        list_kind: format!("{}List", built_in.kind),
        plural: built_in.plural.to_owned(),
        singular: built_in.kind.to_lowercase(),
        short_names: built_in
            .short_names
            .iter()
            .map(|&name| name.to_owned())
            .collect(),
        categories: if built_in.rules == Rules::Service {
            vec!["all".to_owned()]
        } else {
            Vec::new()
        },
        namespaced: built_in.namespaced,
        rules: built_in.rules,
        stored_in: match built_in.rules {
            Rules::NewEvent => "events".into(),
            _ => resource.as_str().into(),
        },
        resource: resource.into(),
        versions: vec![Version {
            name: "v1".to_owned(),
            schema,
            status: built_in.status,
            columns: table::columns_of(built_in.rules),
            warning: None,
            definition: built_in.definition.to_owned(),
        }],
        stored_as: match built_in.rules {
            Rules::NewEvent => "v1".to_owned(),
            _ => api_version(built_in.group, "v1"),
        },
    }
}

fn drop_required(schema: &mut Value) {
    match schema {
        Value::Object(fields) => {
            if fields.get("required").is_some_and(Value::is_array) {
                fields.remove("required");
            }
            fields.values_mut().for_each(drop_required);
        }
        Value::Array(items) => items.iter_mut().for_each(drop_required),
        _ => {}
    }
}
