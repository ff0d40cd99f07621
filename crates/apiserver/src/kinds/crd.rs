//! A CustomResourceDefinition (apiextensions.k8s.io/v1) becomes a kind.
//!
//! Conversion is `None`: versions differ in their `apiVersion` only, as Cilium's do. A schema or a CEL rule that cannot be held
//! to is refused here, when the definition is loaded.

use serde_json::{Map, Value, json};

use super::{Kind, Rules, Version, api_version};
use crate::config::OpenError;
use crate::object;
use crate::schema::Schema;
use crate::table;

/// The kind, and the OpenAPI definitions of its versions.
pub(super) fn parse(
    crd: &Value,
    core: &Map<String, Value>,
) -> Result<(Kind, Map<String, Value>), OpenError> {
    let must = |field: &str| match object::text(crd, &format!("/{}", field.replace('.', "/"))) {
        "" => Err(error(crd, field, "must be given")),
        text => Ok(text.to_owned()),
    };
    let namespaced = check_head(crd)?;
    let (group, plural, kind) = (
        must("spec.group")?,
        must("spec.names.plural")?,
        must("spec.names.kind")?,
    );
    if !group.contains('.') {
        return Err(error(
            crd,
            "spec.group",
            "must be a domain with at least one dot",
        ));
    }
    let name_or =
        |field: &str, other: String| match object::text(crd, &format!("/spec/names/{field}")) {
            "" => other,
            text => text.to_owned(),
        };
    let words = |field: &str| {
        let list = object::list(crd, &format!("/spec/names/{field}")).iter();
        list.filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let mut versions = Vec::new();
    let mut schemas = Map::new();
    for (n, version) in object::list(crd, "/spec/versions").iter().enumerate() {
        if is_true(version, "served") {
            let (version, schema) = parse_version(crd, n, version, core, &group, &kind)?;
            schemas.insert(version.definition.clone(), schema);
            versions.push(version);
        }
    }
    if versions.is_empty() {
        return Err(error(
            crd,
            "spec.versions",
            "must have a version with served: true",
        ));
    }
    let stored = storage_version(crd)?;
    let kind = Kind {
        list_kind: name_or("listKind", format!("{kind}List")),
        singular: name_or("singular", kind.to_lowercase()),
        short_names: words("shortNames"),
        categories: words("categories"),
        namespaced,
        rules: Rules::Custom,
        resource: format!("{plural}.{group}").into(),
        stored_in: format!("{plural}.{group}").into(),
        versions,
        stored_as: api_version(&group, stored),
        group,
        kind,
        plural,
    };
    Ok((kind, schemas))
}

/// The name of the version in which objects are kept.
fn storage_version(crd: &Value) -> Result<&str, OpenError> {
    let versions = object::list(crd, "/spec/versions").iter();
    let stored: Vec<&Value> = versions
        .filter(|version| is_true(version, "storage"))
        .collect();
    match stored.as_slice() {
        [one] => Ok(object::text(one, "/name")),
        _ => Err(error(
            crd,
            "spec.versions",
            "must have exactly one version with storage: true",
        )),
    }
}

fn is_true(version: &Value, field: &str) -> bool {
    version.get(field) == Some(&json!(true))
}

/// Refuses what is no definition that can be served here; tells whether its objects live in namespaces.
fn check_head(crd: &Value) -> Result<bool, OpenError> {
    for (field, wanted) in [
        ("kind", "CustomResourceDefinition"),
        ("apiVersion", "apiextensions.k8s.io/v1"),
    ] {
        if object::text(crd, &format!("/{field}")) != wanted {
            return Err(error(crd, field, &format!("must be {wanted}")));
        }
    }
    if object::text(crd, "/spec/conversion/strategy") == "Webhook" {
        return Err(error(
            crd,
            "spec.conversion.strategy",
            "only None is supported",
        ));
    }
    match object::text(crd, "/spec/scope") {
        "Namespaced" => Ok(true),
        "Cluster" => Ok(false),
        _ => Err(error(crd, "spec.scope", "must be Namespaced or Cluster")),
    }
}

fn parse_version(
    crd: &Value,
    n: usize,
    version: &Value,
    core: &Map<String, Value>,
    group: &str,
    kind: &str,
) -> Result<(Version, Value), OpenError> {
    let field = |rest: &str| format!("spec.versions[{n}].{rest}");
    let name = object::text(version, "/name").to_owned();
    if name.is_empty() {
        return Err(error(crd, &field("name"), "must be given"));
    }
    let Some(schema) = version.pointer("/schema/openAPIV3Schema") else {
        return Err(error(
            crd,
            &field("schema.openAPIV3Schema"),
            "must be given",
        ));
    };
    let mut schema = with_own_fields(schema);
    let compiled = Schema::compile(&schema, core).map_err(|bad| {
        let at = field("schema.openAPIV3Schema");
        let at = if bad.field.is_empty() {
            at
        } else {
            format!("{at}.{}", bad.field)
        };
        error(crd, &at, &bad.detail)
    })?;
    let mut columns = vec![table::name_column()];
    let printed = object::list(version, "/additionalPrinterColumns");
    for (m, column) in printed.iter().enumerate() {
        let at = field(&format!("additionalPrinterColumns[{m}]"));
        columns.push(table::parse_column(column).map_err(|detail| error(crd, &at, &detail))?);
    }
    if printed.is_empty() {
        columns.push(table::age_column());
    }
    let deprecated = is_true(version, "deprecated");
    let warning = deprecated.then(|| match object::text(version, "/deprecationWarning") {
        "" => format!("{group}/{name} {kind} is deprecated"),
        text => text.to_owned(),
    });
    schema["x-kubernetes-group-version-kind"] =
        json!([{ "group": group, "version": name, "kind": kind }]);
    let mut reversed: Vec<&str> = group.split('.').collect();
    reversed.reverse();
    let version = Version {
        definition: format!("{}.{name}.{kind}", reversed.join(".")),
        schema: compiled,
        status: version.pointer("/subresources/status").is_some(),
        columns,
        warning,
        name,
    };
    Ok((version, schema))
}

/// Whatever a definition says of `apiVersion`, `kind` and `metadata`, they are the API's own.
fn with_own_fields(schema: &Value) -> Value {
    let mut schema = schema.clone();
    let meta = "#/components/schemas/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";
    let properties = object::child_mut(&mut schema, "properties");
    // The words of Kubernetes, which `kubectl explain` shows.
    properties.insert(
        "apiVersion".into(),
        json!({ "type": "string", "description": "APIVersion defines the versioned \
        schema of this representation of an object." }),
    );
    properties.insert(
        "kind".into(),
        json!({ "type": "string", "description": "Kind is the kind of this object, in \
        CamelCase." }),
    );
    properties.insert("metadata".into(), json!({ "$ref": meta }));
    schema
}

pub(super) fn error(crd: &Value, field: &str, detail: &str) -> OpenError {
    let name = match object::name(crd) {
        "" => "(no name)",
        name => name,
    };
    OpenError::Crd {
        name: name.to_owned(),
        field: field.to_owned(),
        detail: detail.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::Registry;

    fn crd() -> Value {
        json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
            "metadata": {"name": "pools.example.io"},
            "spec": {"group": "example.io", "scope": "Cluster",
                "names": {"plural": "pools", "kind": "Pool", "shortNames": ["pl"], "categories": ["lb"]},
                "versions": [
                    {"name": "v2", "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object",
                        "properties": {"spec": {"type": "object"}}}},
                     "subresources": {"status": {}}},
                    {"name": "v2alpha1", "served": true, "storage": false, "deprecated": true,
                     "schema": {"openAPIV3Schema": {"type": "object"}}}]}})
    }

    #[test]
    fn all_served_versions_share_one_storage() {
        let registry = Registry::new(&[crd()]).unwrap();
        let old = registry.find("example.io", "v2alpha1", "pools").unwrap();
        assert_eq!(&*old.kind.resource, "pools.example.io");
        assert_eq!(old.kind.stored_as, "example.io/v2");
        assert_eq!(
            old.version().warning.as_deref(),
            Some("example.io/v2alpha1 Pool is deprecated")
        );
        let versions = registry
            .groups()
            .into_iter()
            .find(|(group, _)| *group == "example.io")
            .unwrap()
            .1;
        assert_eq!(versions, ["v2", "v2alpha1"]);
    }

    #[test]
    fn a_bad_definition_is_refused_with_its_field() {
        let refuse = |pointer: &str, value: Value| {
            let mut crd = crd();
            *crd.pointer_mut(pointer).unwrap() = value;
            Registry::new(&[crd]).unwrap_err().to_string()
        };
        let text = refuse("/spec/scope", json!("Galaxy"));
        assert_eq!(
            text,
            "CustomResourceDefinition pools.example.io: spec.scope: must be Namespaced or Cluster"
        );
        let text = refuse("/spec/versions/0/storage", json!(false));
        assert!(
            text.contains("spec.versions: must have exactly one version"),
            "{text}"
        );
        let text = refuse(
            "/spec/versions/0/schema/openAPIV3Schema/properties/spec/type",
            json!("thing"),
        );
        assert!(
            text.contains("spec.versions[0].schema.openAPIV3Schema.properties[spec]: unknown type"),
            "{text}"
        );
        let twice = Registry::new(&[crd(), crd()]).unwrap_err().to_string();
        assert!(twice.contains("defined twice"), "{twice}");
    }
}
