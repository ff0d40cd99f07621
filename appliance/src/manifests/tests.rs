use std::path::Path;

use super::{parse, read};

fn parsed(text: &str) -> (Vec<String>, Vec<String>) {
    let (mut documents, mut bad) = (Vec::new(), Vec::new());
    parse(Path::new("web.yaml"), text, &mut documents, &mut bad);
    let titles = documents
        .iter()
        .map(|d| format!("{}: {}", d.number, super::title(&d.object)));
    (
        titles.collect(),
        bad.iter().map(ToString::to_string).collect(),
    )
}

#[test]
fn documents_are_numbered_and_lists_are_taken_apart() {
    let (good, bad) = parsed(
        "
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
---
apiVersion: v1
kind: List
items:
- {apiVersion: v1, kind: Service, metadata: {name: web, namespace: shop}}
- {apiVersion: v1, kind: Service, metadata: {name: api, namespace: shop}}
",
    );
    assert_eq!(
        good,
        [
            "1: Namespace shop",
            "3: Service shop/web",
            "3: Service shop/api"
        ]
    );
    assert_eq!(bad, [""; 0]);
}

#[test]
fn errors_name_file_document_and_field() {
    let (good, bad) = parsed(
        "{apiVersion: v1, kind: Service, metadata: {name: web}}\n---\n{apiVersion: v1, kind: Service}\n---\nkind: [\n",
    );
    assert_eq!(good, ["1: Service web"]);
    assert_eq!(bad.len(), 2);
    assert_eq!(
        bad[0],
        "web.yaml, document 2 (Service): metadata.name: is missing"
    );
    assert!(
        bad[1].starts_with("web.yaml, document 3: ") && bad[1].contains("line"),
        "{}",
        bad[1]
    );
    let (_, bad) = parsed("apiVersion: v1\nkind: Service\nmetadata: {name: 7}\n");
    assert_eq!(
        bad,
        ["web.yaml, document 1 (Service): metadata.name: must be a string"]
    );
}

#[test]
fn files_come_in_the_order_of_their_names() {
    let dir = tempfile::TempDir::new().unwrap();
    for (name, text) in [
        (
            "b.yaml",
            "{apiVersion: v1, kind: Namespace, metadata: {name: b}}",
        ),
        (
            "a.json",
            "{\"apiVersion\": \"v1\", \"kind\": \"Namespace\", \"metadata\": {\"name\": \"a\"}}",
        ),
        ("README.md", "not a manifest"),
    ] {
        std::fs::write(dir.path().join(name), text).unwrap();
    }
    let (documents, bad) = read(dir.path()).unwrap();
    let names: Vec<_> = documents.iter().map(|d| super::title(&d.object)).collect();
    assert_eq!(names, ["Namespace a", "Namespace b"]);
    assert!(bad.is_empty());
    let text = format!(
        "{:#}",
        read(Path::new("/nonexistent/manifests")).unwrap_err()
    );
    assert!(
        text.contains("--manifests") && text.contains("/nonexistent/manifests"),
        "{text}"
    );
}
