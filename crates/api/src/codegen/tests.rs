//! The CRDs are Cilium's, and the files in the tree are current.

use std::path::Path;

use serde_json::{Value, json};

use super::{crds, files};

fn root(crd: usize, version: usize) -> Value {
    let version = &crds()[crd].spec.versions[version];
    let schema = version.schema.as_ref().unwrap();
    serde_json::to_value(schema.open_api_v3_schema.as_ref().unwrap()).unwrap()
}

fn parse(yaml: &str) -> Value {
    serde_norway::from_str(yaml).unwrap()
}

/// What the API server would say to a manifest, as far as the schema goes.
fn refusal(crd: usize, yaml: &str) -> Option<String> {
    let object = parse(yaml);
    let api_version = object["apiVersion"].as_str().unwrap();
    let crd_object = &crds()[crd];
    let at = crd_object
        .spec
        .versions
        .iter()
        .position(|v| api_version == format!("cilium.io/{}", v.name))
        .expect("the version is served");
    let schema = root(crd, at);
    assert_eq!(unknown_fields(&schema, &object, ""), Vec::<String>::new());
    let is_cidr = |text: &str| text.parse::<ipnet::IpNet>().is_ok();
    let validator = jsonschema::options()
        .with_format("cidr", is_cidr)
        .should_validate_formats(true)
        .build(&schema)
        .unwrap();
    validator
        .iter_errors(&object)
        .next()
        .map(|e| format!("{}: {e}", e.instance_path))
}

/// Fields that the API server would drop.
fn unknown_fields(schema: &Value, object: &Value, path: &str) -> Vec<String> {
    match object {
        Value::Object(fields) if schema["properties"].is_object() => fields
            .iter()
            .flat_map(|(name, value)| {
                let path = format!("{path}.{name}");
                let child = &schema["properties"][name];
                if child.is_null() {
                    vec![path]
                } else {
                    unknown_fields(child, value, &path)
                }
            })
            .collect(),
        Value::Array(items) => {
            let each = items.iter();
            each.flat_map(|item| unknown_fields(&schema["items"], item, path))
                .collect()
        }
        _ => Vec::new(),
    }
}

#[test]
fn the_files_in_the_tree_are_current() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    for (path, content) in files() {
        let found = std::fs::read_to_string(root.join(&path)).unwrap_or_default();
        assert!(found == content, "{path} is stale: run `./x codegen`");
    }
}

#[test]
fn words_that_yaml_1_1_reads_as_booleans_are_quoted() {
    let (_, pool) = &files()[0];
    assert!(pool.contains("- \"Yes\"\n") && pool.contains("- \"No\"\n"));
    assert!(!pool.contains("- Yes\n") && !pool.contains("- No\n"));
}

#[test]
fn names_versions_and_columns_are_ciliums() {
    let crds = crds();
    let pool = serde_json::to_value(&crds[0].spec).unwrap();
    assert_eq!(
        crds[0].metadata.name.as_deref(),
        Some("ciliumloadbalancerippools.cilium.io")
    );
    assert_eq!(
        pool["names"],
        json!({
            "categories": ["cilium"], "kind": "CiliumLoadBalancerIPPool",
            "listKind": "CiliumLoadBalancerIPPoolList", "plural": "ciliumloadbalancerippools",
            "shortNames": ["ippools", "ippool", "lbippool", "lbippools"], "singular": "ciliumloadbalancerippool",
        })
    );
    assert_eq!(pool["scope"], "Cluster");
    let versions: Vec<Value> = pool["versions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|v| {
            json!([
                v["name"],
                v["served"],
                v["storage"],
                v["deprecated"],
                v["subresources"]
            ])
        })
        .collect();
    assert_eq!(
        versions,
        [
            json!(["v2", true, true, null, {"status": {}}]),
            json!(["v2alpha1", true, false, true, {"status": {}}]),
        ]
    );
    assert_eq!(root(0, 0), root(0, 1), "both versions have one schema");
    assert_eq!(
        pool["versions"][0]["additionalPrinterColumns"],
        json!([
            {"jsonPath": ".spec.disabled", "name": "Disabled", "type": "boolean"},
            {"jsonPath": ".status.conditions[?(@.type==\"cilium.io/PoolConflict\")].status", "name": "Conflicting", "type": "string"},
            {"jsonPath": ".status.conditions[?(@.type==\"cilium.io/IPsAvailable\")].message", "name": "IPs Available", "type": "string"},
            {"jsonPath": ".metadata.creationTimestamp", "name": "Age", "type": "date"},
        ])
    );
    let policy = serde_json::to_value(&crds[1].spec).unwrap();
    assert_eq!(
        crds[1].metadata.name.as_deref(),
        Some("ciliuml2announcementpolicies.cilium.io")
    );
    assert_eq!(policy["names"]["shortNames"], json!(["l2announcement"]));
    assert_eq!(policy["versions"][0]["name"], "v2alpha1");
    assert_eq!(policy["scope"], "Cluster");
}

#[test]
fn schemas_are_structural_and_prune() {
    for (crd, version) in [(0, 0), (0, 1), (1, 0)] {
        let text = root(crd, version).to_string();
        for absent in [
            "nullable",
            "x-kubernetes-preserve-unknown-fields",
            "$ref",
            "anyOf",
            "oneOf",
        ] {
            assert!(!text.contains(absent), "{absent} in {text}");
        }
        let conditions = &root(crd, version)["properties"]["status"]["properties"]["conditions"];
        assert_eq!(conditions["x-kubernetes-list-type"], "map");
        assert_eq!(conditions["x-kubernetes-list-map-keys"], json!(["type"]));
        assert_eq!(
            conditions["items"]["properties"]["message"]["maxLength"],
            32768
        );
    }
    let pool = root(0, 0);
    assert_eq!(pool["required"], json!(["metadata", "spec"]));
    let spec = &pool["properties"]["spec"];
    assert_eq!(spec["required"], Value::Null);
    assert_eq!(spec["properties"]["disabled"]["default"], false);
    assert_eq!(
        spec["properties"]["allowFirstLastIPs"]["enum"],
        json!(["Yes", "No"])
    );
    let block = &spec["properties"]["blocks"]["items"];
    assert_eq!(block["properties"]["cidr"]["format"], "cidr");
    assert_eq!(block["required"], Value::Null);
    let selector = &spec["properties"]["serviceSelector"];
    assert_eq!(selector["x-kubernetes-map-type"], "atomic");
    assert_eq!(
        selector["properties"]["matchLabels"]["additionalProperties"]["maxLength"],
        63
    );
    let expression = &selector["properties"]["matchExpressions"]["items"];
    assert_eq!(expression["required"], json!(["key", "operator"]));
    assert_eq!(
        expression["properties"]["operator"]["enum"],
        json!(["In", "NotIn", "Exists", "DoesNotExist"])
    );
    assert_eq!(root(1, 0)["required"], json!(["metadata"]));
}

#[test]
fn manifests_written_for_cilium_apply() {
    for version in ["v2", "v2alpha1"] {
        let pool = format!(
            "apiVersion: cilium.io/{version}
kind: CiliumLoadBalancerIPPool
metadata: {{name: blue-pool}}
spec:
  allowFirstLastIPs: \"No\"
  disabled: false
  blocks:
  - cidr: 20.0.10.0/24
  - cidr: 2004::0/64
  - start: 20.0.20.100
    stop: 20.0.20.200
  - start: 1.2.3.4
  serviceSelector:
    matchExpressions:
    - {{key: color, operator: In, values: [blue, cyan]}}
    matchLabels:
      io.kubernetes.service.namespace: tenant-a
"
        );
        assert_eq!(refusal(0, &pool), None);
    }
    let empty =
        "{apiVersion: cilium.io/v2, kind: CiliumLoadBalancerIPPool, metadata: {name: a}, spec: {}}";
    assert_eq!(refusal(0, empty), None);
    let policy = "apiVersion: cilium.io/v2alpha1
kind: CiliumL2AnnouncementPolicy
metadata: {name: policy1}
spec:
  serviceSelector:
    matchLabels: {color: blue}
  nodeSelector:
    matchExpressions:
    - {key: node-role.kubernetes.io/control-plane, operator: DoesNotExist}
  interfaces: ['^eth[0-9]+']
  externalIPs: true
  loadBalancerIPs: true
";
    assert_eq!(refusal(1, policy), None);
    let without =
        "{apiVersion: cilium.io/v2alpha1, kind: CiliumL2AnnouncementPolicy, metadata: {name: a}}";
    assert_eq!(refusal(1, without), None);
}

#[test]
fn malformed_manifests_are_refused_at_the_field() {
    let pool = |spec: &str| {
        format!(
            "{{apiVersion: cilium.io/v2, kind: CiliumLoadBalancerIPPool, metadata: {{name: a}}, spec: {spec}}}"
        )
    };
    let cases = [
        ("{allowFirstLastIPs: Maybe}", "/spec/allowFirstLastIPs"),
        ("{disabled: 'no'}", "/spec/disabled"),
        ("{blocks: [{cidr: 10.0.0.0}]}", "/spec/blocks/0/cidr"),
        ("{blocks: [{cidr: ''}]}", "/spec/blocks/0/cidr"),
        ("{blocks: {cidr: 10.0.0.0/8}}", "/spec/blocks"),
        (
            "{serviceSelector: {matchLabels: {a: 'b c'}}}",
            "/spec/serviceSelector/matchLabels/a",
        ),
        (
            "{serviceSelector: {matchExpressions: [{key: a, operator: Like}]}}",
            "/spec/serviceSelector/matchExpressions/0/operator",
        ),
        ("{serviceSelector: null}", "/spec/serviceSelector"),
    ];
    for (spec, field) in cases {
        let said = refusal(0, &pool(spec)).unwrap_or_default();
        assert!(said.starts_with(&format!("{field}: ")), "{spec}: {said}");
    }
}
