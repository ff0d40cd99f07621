//! Lengths are decided once, for the fullest table.

use k8s_openapi::api::core::v1;
use serde_json::json;

use super::patch;

fn service(annotations: &str) -> v1::Service {
    let text =
        format!("metadata: {{name: web, namespace: shop, resourceVersion: '7'{annotations}}}");
    serde_norway::from_str(&text).unwrap()
}

#[test]
fn the_patch_fits_exactly_the_object_that_was_read() {
    assert_eq!(
        json!(patch(&service(""), 509).unwrap()),
        json!([
            {"op": "test", "path": "/metadata/resourceVersion", "value": "7"},
            {"op": "add", "path": "/metadata/annotations", "value": {"fairlead.io/maglev-table-size": "509"}},
        ])
    );
    assert_eq!(
        json!(patch(&service(", annotations: {a: b}"), 509).unwrap()[1]),
        json!({"op": "add", "path": "/metadata/annotations/fairlead.io~1maglev-table-size", "value": "509"})
    );
    let set = service(", annotations: {fairlead.io/maglev-table-size: '251'}");
    assert!(patch(&set, 509).is_none(), "a length that is there stays");
    let wrong = service(", annotations: {fairlead.io/maglev-table-size: 'big'}");
    assert!(
        patch(&wrong, 509).is_some(),
        "one that is none counts as none"
    );
}
