//! Manifests: files, folders or standard input, each with any number of objects.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use serde::Deserialize as _;
use serde_json::Value;

use crate::error::CliError;

/// The text at a JSON pointer, or "".
pub fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object
        .pointer(pointer)
        .and_then(Value::as_str)
        .unwrap_or_default()
}

/// The objects in a file, in the `.yaml`, `.yml` and `.json` files of a folder, or on standard input (`-`). The items of a
/// list count as objects of their own.
///
/// # Errors
/// [`CliError::BadManifest`], which names file, document and field.
pub fn read(path: &Path) -> Result<Vec<Value>, CliError> {
    let failed = |path: &Path, detail: String| CliError::BadManifest {
        path: PathBuf::from(path),
        detail,
    };
    if path == Path::new("-") {
        let mut text = String::new();
        std::io::stdin()
            .read_to_string(&mut text)
            .map_err(|error| failed(path, error.to_string()))?;
        return parse(&text).map_err(|detail| failed(path, detail));
    }
    let mut files = vec![path.to_owned()];
    if path.is_dir() {
        let entries = std::fs::read_dir(path).map_err(|error| failed(path, error.to_string()))?;
        files = entries
            .filter_map(|entry| Some(entry.ok()?.path()))
            .collect();
        files.retain(|file| {
            let extension = file.extension().and_then(|extension| extension.to_str());
            matches!(extension, Some("yaml" | "yml" | "json")) && file.is_file()
        });
        files.sort();
    }
    let mut objects = Vec::new();
    for file in files {
        let text =
            std::fs::read_to_string(&file).map_err(|error| failed(&file, error.to_string()))?;
        objects.extend(parse(&text).map_err(|detail| failed(&file, detail))?);
    }
    if objects.is_empty() {
        return Err(failed(path, "holds no object".into()));
    }
    Ok(objects)
}

fn parse(text: &str) -> Result<Vec<Value>, String> {
    let mut objects = Vec::new();
    for (n, document) in serde_norway::Deserializer::from_str(text).enumerate() {
        let at = |detail: &str| format!("document {}: {detail}", n + 1);
        let value = Value::deserialize(document).map_err(|error| at(&error.to_string()))?;
        if value.is_null() {
            // Nothing between two separators.
            continue;
        }
        let items = match value["items"].as_array() {
            Some(items) if self::text(&value, "/kind").ends_with("List") => items.clone(),
            _ => vec![value],
        };
        for item in items {
            for (pointer, field) in [
                ("/apiVersion", "apiVersion"),
                ("/kind", "kind"),
                ("/metadata/name", "metadata.name"),
            ] {
                if self::text(&item, pointer).is_empty() {
                    return Err(at(&format!("{field}: must be given")));
                }
            }
            objects.push(item);
        }
    }
    Ok(objects)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_and_lists_are_objects() {
        let all = parse("---\n---\napiVersion: v1\nkind: A\nmetadata: {name: a}\n---\napiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: B, metadata: {name: b}}\n").unwrap();
        let kinds: Vec<&str> = all.iter().map(|object| text(object, "/kind")).collect();
        assert_eq!(kinds, ["A", "B"]);
    }

    #[test]
    fn what_is_missing_is_named() {
        let error = parse("apiVersion: v1\nkind: A\n").unwrap_err();
        assert_eq!(error, "document 1: metadata.name: must be given");
        assert!(parse("a: [").unwrap_err().starts_with("document 1: "));
    }
}
