//! OpenAPI documents: v3, an index and one per group and version, and all of it as one v2 document (`openapi/v2.rs`).
//!
//! They say as much as kubectl asks for: the schemas (`explain`, the merge keys of `apply`), each path with its group, version
//! and kind, and that `fieldValidation` may be sent.

mod v2;

use serde_json::{Map, Value, json};

use crate::discovery::root;
use crate::kinds::{Registry, Served};

const REF: &str = "#/components/schemas/";

/// Every document with its path.
pub(crate) struct Documents {
    /// The index, one per group and version, and v2.
    pub(crate) json: Vec<(String, Value)>,
    /// v2 as client-go asks for it.
    pub(crate) v2_protobuf: Vec<u8>,
}

pub(crate) fn documents(registry: &Registry) -> Documents {
    let mut documents = Vec::new();
    let mut index = Map::new();
    for (group, versions) in registry.groups() {
        for version in versions {
            let name = root(group, version).trim_start_matches('/').to_owned();
            let document = document(registry, group, version);
            let hash = hash(&document);
            let url = format!("/openapi/v3/{name}?hash={hash}");
            index.insert(name.clone(), json!({ "serverRelativeURL": url }));
            documents.push((format!("/openapi/v3/{name}"), document));
        }
    }
    let v2 = v2::merge(documents.iter().map(|(_, document)| document));
    documents.push(("/openapi/v3".into(), json!({ "paths": index })));
    let v2_protobuf = v2::encode(&v2);
    documents.push(("/openapi/v2".into(), v2));
    Documents {
        json: documents,
        v2_protobuf,
    }
}

fn hash(document: &Value) -> String {
    use std::fmt::Write as _;

    use sha2::{Digest, Sha256};
    Sha256::digest(document.to_string())
        .iter()
        .fold(String::new(), |mut text, byte| {
            write!(text, "{byte:02X}").expect("writing to a String cannot fail");
            text
        })
}

fn document(registry: &Registry, group: &str, version: &str) -> Value {
    let mut paths = Map::new();
    let mut schemas = Map::new();
    for served in registry.of(group, version) {
        add_paths(&mut paths, &root(group, version), served);
        add_schema(
            &mut schemas,
            &registry.definitions,
            &served.version().definition,
        );
        let item = json!({ "$ref": format!("{REF}{}", served.version().definition) });
        if !served.kind.rules.verbs().contains(&"list") {
            continue;
        }
        let list = json!({
            "type": "object", "required": ["items"],
            "description": format!("{} is a list of {}", served.kind.list_kind, served.kind.kind),
            "properties": { "apiVersion": { "type": "string" }, "kind": { "type": "string" },
                "metadata": { "$ref": format!("{REF}io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta") },
                "items": { "type": "array", "items": item } },
            "x-kubernetes-group-version-kind": [{ "group": group, "version": version, "kind": served.kind.list_kind }],
        });
        schemas.insert(format!("{}List", served.version().definition), list);
    }
    add_schema(
        &mut schemas,
        &registry.definitions,
        "io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta",
    );
    json!({ "openapi": "3.0.0", "info": { "title": "Fairlead", "version": env!("CARGO_PKG_VERSION") },
        "paths": paths, "components": { "schemas": schemas } })
}

/// Adds a definition and everything it refers to, in the dialect of OpenAPI 3.0.
fn add_schema(schemas: &mut Map<String, Value>, definitions: &Map<String, Value>, name: &str) {
    if schemas.contains_key(name) {
        return;
    }
    let Some(definition) = definitions.get(name) else {
        return;
    };
    let mut schema = definition.clone();
    let mut named = Vec::new();
    into_3_0(&mut schema, &mut named);
    schemas.insert(name.to_owned(), schema);
    for name in named {
        add_schema(schemas, definitions, &name);
    }
}

/// `$ref` may have no siblings in 3.0, so that a reference with a description is wrapped in `allOf`.
fn into_3_0(schema: &mut Value, named: &mut Vec<String>) {
    match schema {
        Value::Object(fields) => {
            if let Some(Value::String(target)) = fields.get("$ref") {
                named.push(target.rsplit('/').next().unwrap_or_default().to_owned());
                if fields.len() > 1 {
                    let target = fields.remove("$ref");
                    fields.insert("allOf".into(), json!([{ "$ref": target }]));
                }
            } else if fields.get("x-kubernetes-int-or-string") == Some(&json!(true)) {
                fields.insert("type".into(), json!("string"));
                fields.insert("format".into(), json!("int-or-string"));
            }
            fields
                .iter_mut()
                .filter(|(name, _)| *name != "allOf")
                .for_each(|(_, value)| into_3_0(value, named));
            if let Some(Value::Array(all)) = fields.get_mut("allOf") {
                for value in all {
                    into_3_0(value, named);
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| into_3_0(item, named)),
        _ => {}
    }
}

fn add_paths(paths: &mut Map<String, Value>, root: &str, served: &Served) {
    let kind = &served.kind;
    let collection = if kind.namespaced {
        format!("{root}/namespaces/{{namespace}}/{}", kind.plural)
    } else {
        format!("{root}/{}", kind.plural)
    };
    let object = format!("{collection}/{{name}}");
    let can = |verb: &str| kind.rules.verbs().contains(&verb);
    if kind.namespaced && can("list") {
        let everywhere = json!({ "get": operation(served, "list", &[]) });
        paths.insert(format!("{root}/{}", kind.plural), everywhere);
    }
    let writes = &["dryRun", "fieldManager", "fieldValidation"];
    let mut add = |path: &str, methods: &[(&str, &str, &str, &[&str])]| {
        let mut item = json!({});
        for (verb, method, action, parameters) in methods.iter().filter(|(verb, ..)| can(verb)) {
            item[*method] = operation(served, action, parameters);
            if *verb == "patch" {
                item[*method]["requestBody"] = patch_body(served);
            }
        }
        if item != json!({}) {
            paths.insert(path.to_owned(), with_parameters(item, path));
        }
    };
    let listing = &[
        "labelSelector",
        "fieldSelector",
        "limit",
        "continue",
        "watch",
    ];
    let selecting = &["labelSelector", "fieldSelector"];
    add(
        &collection,
        &[
            ("list", "get", "list", listing),
            ("create", "post", "post", writes),
            ("deletecollection", "delete", "deletecollection", selecting),
        ],
    );
    add(
        &object,
        &[
            ("get", "get", "get", &[]),
            ("update", "put", "put", writes),
            ("patch", "patch", "patch", writes),
            (
                "delete",
                "delete",
                "delete",
                &["dryRun", "propagationPolicy"],
            ),
        ],
    );
    if served.version().status {
        let status = format!("{object}/status");
        let mut part = json!({ "get": operation(served, "get", &[]), "put": operation(served, "put", writes),
            "patch": operation(served, "patch", writes) });
        part["patch"]["requestBody"] = patch_body(served);
        paths.insert(status.clone(), with_parameters(part, &status));
    }
}

fn with_parameters(mut path: Value, template: &str) -> Value {
    let named = ["namespace", "name"]
        .into_iter()
        .filter(|name| template.contains(&format!("{{{name}}}")));
    let parameters: Vec<Value> = named
        .map(|name| json!({ "name": name, "in": "path", "required": true, "schema": { "type": "string", "uniqueItems": true } }))
        .collect();
    path["parameters"] = json!(parameters);
    path
}

fn operation(served: &Served, action: &str, parameters: &[&str]) -> Value {
    let kind = &served.kind;
    let parameters: Vec<Value> = parameters
        .iter()
        .map(|name| json!({ "name": name, "in": "query", "schema": { "type": "string", "uniqueItems": true } }))
        .collect();
    let answer = format!(
        "{REF}{}{}",
        served.version().definition,
        if action == "list" { "List" } else { "" }
    );
    let content = json!({ "application/json": { "schema": { "$ref": answer } } });
    let mut operation = json!({
        "tags": [], "parameters": parameters,
        "responses": { "200": { "description": "OK", "content": content } },
        "x-kubernetes-action": action,
        "x-kubernetes-group-version-kind": { "group": kind.group, "version": served.version().name, "kind": kind.kind },
    });
    if matches!(action, "post" | "put") {
        let schema = json!({ "$ref": format!("{REF}{}", served.version().definition) });
        operation["requestBody"] =
            json!({ "required": true, "content": { "*/*": { "schema": schema } } });
    }
    operation
}

/// kubectl reads from here which kind of patch it may send.
fn patch_body(served: &Served) -> Value {
    let mut media = vec![
        "application/json-patch+json",
        "application/merge-patch+json",
    ];
    if served.kind.rules.is_built_in() {
        media.push("application/strategic-merge-patch+json");
    }
    let content: Map<String, Value> = media
        .into_iter()
        .map(|media| (media.to_owned(), json!({ "schema": { "type": "object" } })))
        .collect();
    json!({ "required": true, "content": content })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reference_in_a_document_resolves() {
        let registry = Registry::new(&[]).unwrap();
        for (path, document) in documents(&registry).json {
            if path == "/openapi/v2" {
                continue;
            }
            let mut named = Vec::new();
            let mut copy = document.clone();
            into_3_0(&mut copy, &mut named);
            for name in named {
                assert!(
                    !document["components"]["schemas"][&name].is_null(),
                    "{path}: {name} is missing"
                );
            }
        }
    }

    #[test]
    fn kubectl_finds_what_it_looks_for() {
        let registry = Registry::new(&[]).unwrap();
        let document = document(&registry, "", "v1");
        let patch = &document["paths"]["/api/v1/namespaces/{namespace}/services/{name}"]["patch"];
        assert_eq!(
            patch["x-kubernetes-group-version-kind"],
            json!({"group": "", "version": "v1", "kind": "Service"})
        );
        assert!(
            patch["parameters"]
                .as_array()
                .unwrap()
                .iter()
                .any(|p| p["name"] == "fieldValidation")
        );
        let ports = &document["components"]["schemas"]["io.k8s.api.core.v1.ServiceSpec"]["properties"]
            ["ports"];
        assert_eq!(ports["x-kubernetes-patch-merge-key"], "port");
    }

    #[test]
    fn v2_says_the_same_in_its_own_words() {
        let registry = Registry::new(&[]).unwrap();
        let all = documents(&registry).json;
        let (_, v2) = all.iter().find(|(path, _)| path == "/openapi/v2").unwrap();
        let spec = &v2["definitions"]["io.k8s.api.core.v1.Service"]["properties"]["spec"];
        assert_eq!(spec["$ref"], "#/definitions/io.k8s.api.core.v1.ServiceSpec");
        assert!(!v2.to_string().contains("#/components"));
        let patch = &v2["paths"]["/api/v1/namespaces/{namespace}/services/{name}"]["patch"];
        let strict = json!({"name": "fieldValidation", "in": "query", "type": "string", "uniqueItems": true});
        assert!(patch["parameters"].as_array().unwrap().contains(&strict));
        assert!(patch.get("requestBody").is_none());
    }
}
