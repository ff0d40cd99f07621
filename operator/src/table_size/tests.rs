//! Lengths are decided once, for the fullest table.

use std::collections::BTreeMap;

use fairlead_model::{Backend, BackendState, Generation, Snapshot};
use k8s_openapi::api::core::v1;
use serde_json::json;

use super::{patch, wanted};

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

#[test]
fn one_length_for_all_goes_to_services_that_have_none() {
    let backend = |host: u8| Backend {
        addr: [10, 0, 0, host].into(),
        port: 80,
        state: BackendState::Active,
        node: None,
    };
    let given = |name: &str, table_size, n_backends: u8| {
        let object = serde_norway::from_str(&format!("metadata: {{name: {name}}}")).unwrap();
        let mut service = fairlead_api::convert::service(&object).unwrap().value;
        service.table_size = table_size;
        let backends = (1..=n_backends).map(backend).collect();
        service.backends.insert(String::new(), backends);
        (service.name.clone(), service)
    };
    let services = [
        given("new", None, 20),
        given("set", Some(251), 20),
        given("empty", None, 0),
    ];
    let snapshot = Snapshot {
        generation: Generation(1),
        services: services.into(),
        l2_policies: BTreeMap::new(),
        nodes: BTreeMap::new(),
    };
    let said = |fixed| {
        let all = wanted(&snapshot, fixed).into_iter();
        all.map(|(name, size)| (name.to_string(), size))
            .collect::<Vec<_>>()
    };
    assert_eq!(said(None), [("default/new".to_owned(), 2039)]);
    assert_eq!(said(Some(65_521)), [("default/new".to_owned(), 65_521)]);
}
