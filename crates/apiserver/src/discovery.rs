//! What is served, told to clients: `/api`, `/apis`, `/version` and the OpenAPI documents.
//!
//! Everything is rendered once, when the API is opened, since kinds do not change while it runs.

use std::collections::HashMap;

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, Response, header};
use bytes::Bytes;
use serde_json::{Value, json};

use crate::api::version;
use crate::kinds::{Registry, Served, api_version};
use crate::openapi;

const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

const OPENAPI_V2: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";

/// Rendered documents by path.
pub(crate) struct Discovery {
    documents: HashMap<String, Bytes>,
    /// `/api` and `/apis` in one piece each, for clients that ask for that.
    aggregated: HashMap<&'static str, Bytes>,
    /// `/openapi/v2` in protobuf.
    openapi_v2: Bytes,
}

impl Discovery {
    pub(crate) fn new(registry: &Registry) -> Self {
        let mut documents = HashMap::new();
        let mut add = |path: String, value: &Value| {
            documents.insert(path, Bytes::from(value.to_string()));
        };
        let core =
            json!({ "kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": [] });
        add("/api".into(), &core);
        let groups: Vec<Value> = registry
            .groups()
            .iter()
            .filter(|(group, _)| !group.is_empty())
            .map(|(group, versions)| describe_group(group, versions))
            .collect();
        for group in &groups {
            let mut one = group.clone();
            one["kind"] = json!("APIGroup");
            one["apiVersion"] = json!("v1");
            add(
                format!("/apis/{}", group["name"].as_str().unwrap_or_default()),
                &one,
            );
        }
        add(
            "/apis".into(),
            &json!({ "kind": "APIGroupList", "apiVersion": "v1", "groups": groups }),
        );
        for (group, versions) in registry.groups() {
            for version in versions {
                let resources: Vec<Value> = registry
                    .of(group, version)
                    .into_iter()
                    .flat_map(resources)
                    .collect();
                let list = json!({ "kind": "APIResourceList", "apiVersion": "v1",
                    "groupVersion": api_version(group, version), "resources": resources });
                add(root(group, version), &list);
            }
        }
        let openapi = openapi::documents(registry);
        for (path, document) in &openapi.json {
            add(path.clone(), document);
        }
        let aggregated = [("/api", true), ("/apis", false)]
            .map(|(path, core)| (path, Bytes::from(aggregate(registry, core).to_string())))
            .into();
        Self {
            documents,
            aggregated,
            openapi_v2: openapi.v2_protobuf.into(),
        }
    }

    /// The document at `path`, if there is one.
    pub(crate) fn answer(&self, path: &str, headers: &HeaderMap) -> Option<Response<Body>> {
        if path == "/version" {
            return Some(version());
        }
        let path = if path.len() > 1 {
            path.trim_end_matches('/')
        } else {
            path
        };
        let accept = headers
            .get(header::ACCEPT)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default();
        let wants_aggregated = accept.split(',').any(|choice| {
            let mut parts = choice.split(';').map(str::trim);
            parts.next() == Some("application/json")
                && choice.contains("as=APIGroupDiscoveryList")
                && parts.any(|part| part == "v=v2")
        });
        let wants_protobuf = path == "/openapi/v2" && accept.contains("proto-openapi.spec.v2");
        let (document, media) = match self.aggregated.get(path).filter(|_| wants_aggregated) {
            Some(document) => (document, AGGREGATED),
            None if wants_protobuf => (&self.openapi_v2, OPENAPI_V2),
            None => (self.documents.get(path)?, "application/json"),
        };
        let mut response = Response::new(Body::from(document.clone()));
        response
            .headers_mut()
            .insert(header::CONTENT_TYPE, HeaderValue::from_static(media));
        response
            .headers_mut()
            .insert(header::VARY, HeaderValue::from_static("Accept"));
        Some(response)
    }
}

/// `/api/v1` or `/apis/GROUP/VERSION`.
pub(crate) fn root(group: &str, version: &str) -> String {
    if group.is_empty() {
        format!("/api/{version}")
    } else {
        format!("/apis/{group}/{version}")
    }
}

fn describe_group(group: &str, versions: &[&str]) -> Value {
    let describe =
        |version: &&str| json!({ "groupVersion": api_version(group, version), "version": version });
    let all: Vec<Value> = versions.iter().map(describe).collect();
    json!({ "name": group, "versions": all, "preferredVersion": all[0] })
}

const STATUS_VERBS: &[&str] = &["get", "patch", "update"];

fn resources(served: &Served) -> Vec<Value> {
    let kind = &served.kind;
    let mut whole = json!({ "name": kind.plural, "singularName": kind.singular, "namespaced": kind.namespaced,
        "kind": kind.kind, "verbs": kind.rules.verbs(), "storageVersionHash": "" });
    if !kind.short_names.is_empty() {
        whole["shortNames"] = json!(kind.short_names);
    }
    if !kind.categories.is_empty() {
        whole["categories"] = json!(kind.categories);
    }
    let status = served.version().status.then(|| {
        json!({ "name": format!("{}/status", kind.plural), "singularName": "", "namespaced": kind.namespaced,
            "kind": kind.kind, "verbs": STATUS_VERBS })
    });
    [whole].into_iter().chain(status).collect()
}

fn aggregate(registry: &Registry, core: bool) -> Value {
    let groups = registry.groups();
    let items: Vec<Value> = groups
        .iter()
        .filter(|(group, _)| group.is_empty() == core)
        .map(|(group, versions)| {
            let versions: Vec<Value> = versions
                .iter()
                .map(|version| {
                    let resources: Vec<Value> =
                        registry.of(group, version).into_iter().map(|served| aggregated_resource(group, served)).collect();
                    json!({ "version": version, "freshness": "Current", "resources": resources })
                })
                .collect();
            json!({ "metadata": { "name": group, "creationTimestamp": null }, "versions": versions })
        })
        .collect();
    json!({ "kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": items })
}

fn aggregated_resource(group: &str, served: &Served) -> Value {
    let kind = &served.kind;
    let response_kind =
        json!({ "group": group, "version": served.version().name, "kind": kind.kind });
    let mut resource = json!({
        "resource": kind.plural, "singularResource": kind.singular,
        "scope": if kind.namespaced { "Namespaced" } else { "Cluster" },
        "responseKind": response_kind, "verbs": kind.rules.verbs(),
    });
    if !kind.short_names.is_empty() {
        resource["shortNames"] = json!(kind.short_names);
    }
    if !kind.categories.is_empty() {
        resource["categories"] = json!(kind.categories);
    }
    if served.version().status {
        resource["subresources"] = json!([{ "subresource": "status", "responseKind": response_kind, "verbs": STATUS_VERBS }]);
    }
    resource
}
