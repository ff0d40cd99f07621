//! From files to objects: every document of every file, in order, created or merged into what is there.
//!
//! Invariant: a bad document stops nothing but itself; every error names file, document and, as far as the API says it, field.

use std::{
    fmt,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result};
use kube::{
    Api, Client,
    api::{DynamicObject, Patch, PatchParams, PostParams},
    core::{GroupVersionKind, Request, TypeMeta},
    discovery::{ApiResource, Scope, oneshot},
};
use serde::Deserialize as _;
use serde_json::Value;
use tracing::{error, info};

/// One API call.
const DEADLINE: Duration = Duration::from_secs(10);

/// A document of a file.
#[derive(Debug, Clone, PartialEq)]
pub struct Document {
    /// The file.
    pub file: PathBuf,
    /// Position in it, from 1.
    pub number: usize,
    /// Its content.
    pub object: Value,
}

/// What is wrong with a document or file.
#[derive(Debug)]
pub struct Bad {
    file: PathBuf,
    number: Option<usize>,
    what: String,
    why: String,
}

impl fmt::Display for Bad {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if let Some(number) = self.number {
            write!(f, ", document {number}")?;
        }
        if !self.what.is_empty() {
            write!(f, " ({})", self.what)?;
        }
        write!(f, ": {}", self.why)
    }
}

/// What applying a folder came to.
#[derive(Debug, Default)]
pub struct Applied {
    /// Objects created.
    pub n_created: usize,
    /// Objects changed.
    pub n_changed: usize,
    /// Objects that were already as written.
    pub n_same: usize,
    /// Documents that were refused.
    pub bad: Vec<Bad>,
}

/// The documents of a folder's `.yaml`, `.yml` and `.json` files, in the order of their names.
///
/// # Errors
/// Only a folder that cannot be read; unreadable files and documents are listed.
pub fn read(dir: &Path) -> Result<(Vec<Document>, Vec<Bad>)> {
    let entries = std::fs::read_dir(dir)
        .with_context(|| format!("--manifests: read the folder {}", dir.display()))?;
    let mut files = Vec::new();
    for entry in entries {
        let path = entry
            .with_context(|| format!("--manifests: read {}", dir.display()))?
            .path();
        let extension = path.extension().and_then(|e| e.to_str());
        if matches!(extension, Some("yaml" | "yml" | "json")) && path.is_file() {
            files.push(path);
        }
    }
    files.sort();
    let (mut documents, mut bad) = (Vec::new(), Vec::new());
    for file in files {
        match std::fs::read_to_string(&file) {
            Ok(text) => parse(&file, &text, &mut documents, &mut bad),
            Err(error) => bad.push(Bad {
                file,
                number: None,
                what: String::new(),
                why: format!("cannot be read: {error}"),
            }),
        }
    }
    Ok((documents, bad))
}

fn parse(file: &Path, text: &str, documents: &mut Vec<Document>, bad: &mut Vec<Bad>) {
    for (index, document) in serde_norway::Deserializer::from_str(text).enumerate() {
        let number = index + 1;
        let parsed = Value::deserialize(document);
        let fail = |why: String, what: String| Bad {
            file: file.to_owned(),
            number: Some(number),
            what,
            why,
        };
        match parsed {
            // An empty document between two separators.
            Ok(Value::Null) => {}
            Ok(object) => match flatten(&object) {
                Ok(objects) => documents.extend(objects.into_iter().map(|object| Document {
                    file: file.to_owned(),
                    number,
                    object,
                })),
                Err(why) => bad.push(fail(why, title(&object))),
            },
            Err(error) => {
                bad.push(fail(error.to_string(), String::new()));
                // The parser does not find the next document after a syntax error.
                return;
            }
        }
    }
}

/// The object itself, or the items of a `List`; checks that each can be addressed.
fn flatten(object: &Value) -> std::result::Result<Vec<Value>, String> {
    let items = match (object["kind"].as_str(), object["items"].as_array()) {
        (Some(kind), Some(items)) if kind.ends_with("List") => items.clone(),
        _ => vec![object.clone()],
    };
    for item in &items {
        for (pointer, field) in [
            ("/apiVersion", "apiVersion"),
            ("/kind", "kind"),
            ("/metadata/name", "metadata.name"),
        ] {
            match item.pointer(pointer) {
                Some(Value::String(text)) if !text.is_empty() => {}
                Some(Value::String(_)) | None => return Err(format!("{field}: is missing")),
                Some(_) => return Err(format!("{field}: must be a string")),
            }
        }
    }
    Ok(items)
}

/// `Service default/web`, as far as it is known.
fn title(object: &Value) -> String {
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str);
    match (
        text("/kind"),
        text("/metadata/namespace"),
        text("/metadata/name"),
    ) {
        (Some(kind), Some(namespace), Some(name)) => format!("{kind} {namespace}/{name}"),
        (Some(kind), None, Some(name)) => format!("{kind} {name}"),
        (Some(kind), _, None) => kind.to_owned(),
        (None, ..) => String::new(),
    }
}

/// Applies every document of a folder. Namespaces go first; otherwise the order is that of files and documents.
///
/// # Errors
/// Only a folder that cannot be read; what the API refuses is listed.
///
/// # Cancel safety
/// A dropped future has applied a part; applying again changes nothing that is as written.
pub async fn apply(client: &Client, dir: &Path) -> Result<Applied> {
    let (mut documents, bad) = read(dir)?;
    documents.sort_by_key(|document| document.object["kind"] != "Namespace");
    let mut applied = Applied {
        bad,
        ..Applied::default()
    };
    for document in &documents {
        let outcome = tokio::time::timeout(DEADLINE, apply_one(client, &document.object)).await;
        let what = title(&document.object);
        let why = match outcome {
            Ok(Ok(Outcome::Created)) => {
                info!("created {what}");
                applied.n_created += 1;
                continue;
            }
            Ok(Ok(Outcome::Changed)) => {
                info!("changed {what}");
                applied.n_changed += 1;
                continue;
            }
            Ok(Ok(Outcome::Same)) => {
                applied.n_same += 1;
                continue;
            }
            Ok(Ok(Outcome::UnknownKind(kind))) => {
                format!("kind: the API serves no {kind}: check apiVersion and kind")
            }
            Ok(Err(error)) => said(&error),
            Err(_elapsed) => format!("the API did not answer within {} s", DEADLINE.as_secs()),
        };
        applied.bad.push(Bad {
            file: document.file.clone(),
            number: Some(document.number),
            what,
            why,
        });
    }
    for bad in &applied.bad {
        error!(reason = "BadManifest", "{bad}");
    }
    Ok(applied)
}

/// The API's own sentence, which names the field; else the error with its causes.
fn said(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        other => fairlead_rt::root::chain(other),
    }
}

enum Outcome {
    Created,
    Changed,
    Same,
    UnknownKind(String),
}

async fn apply_one(client: &Client, object: &Value) -> kube::Result<Outcome> {
    let text = |pointer: &str| {
        object
            .pointer(pointer)
            .and_then(Value::as_str)
            .unwrap_or_default()
    };
    let types = TypeMeta {
        api_version: text("/apiVersion").to_owned(),
        kind: text("/kind").to_owned(),
    };
    let gvk = GroupVersionKind::try_from(&types)
        .map_err(|error| kube::Error::Service(Box::new(error)))?;
    let (resource, capabilities) = match oneshot::pinned_kind(client, &gvk).await {
        Ok(known) => known,
        Err(error) if is_unknown(&error) => {
            return Ok(Outcome::UnknownKind(format!(
                "{} of {}",
                gvk.kind, types.api_version
            )));
        }
        Err(error) => return Err(error),
    };
    let namespace = match text("/metadata/namespace") {
        "" => "default",
        namespace => namespace,
    };
    let api: Api<DynamicObject> = match capabilities.scope {
        Scope::Namespaced => Api::namespaced_with(client.clone(), namespace, &resource),
        Scope::Cluster => Api::all_with(client.clone(), &resource),
    };
    let name = text("/metadata/name");
    let Some(before) = api.get_opt(name).await? else {
        create(client, &api, object).await?;
        return Ok(Outcome::Created);
    };
    let params = PatchParams::default();
    let after = if is_core(&resource) {
        // Lists such as a Service's ports are merged by their key, so that allocated node ports stay.
        api.patch(name, &params, &Patch::Strategic(object)).await?
    } else {
        api.patch(name, &params, &Patch::Merge(object)).await?
    };
    Ok(
        if before.metadata.resource_version == after.metadata.resource_version {
            Outcome::Same
        } else {
            Outcome::Changed
        },
    )
}

fn is_unknown(error: &kube::Error) -> bool {
    match error {
        // The whole group or version.
        kube::Error::Api(status) => status.code == 404,
        kube::Error::Discovery(_) => true,
        _ => false,
    }
}

/// kube's create does not let the caller ask for strict field validation, without which a misspelt field passes unnoticed.
async fn create(
    client: &Client,
    api: &Api<DynamicObject>,
    object: &Value,
) -> kube::Result<DynamicObject> {
    let body = serde_json::to_vec(object).map_err(kube::Error::SerdeError)?;
    let url = format!("{}?fieldValidation=Strict", api.resource_url());
    let mut request = Request::new(api.resource_url())
        .create(&PostParams::default(), body)
        .map_err(kube::Error::BuildRequest)?;
    if let Ok(uri) = url.parse() {
        *request.uri_mut() = uri;
    }
    client.request(request).await
}

fn is_core(resource: &ApiResource) -> bool {
    matches!(
        resource.group.as_str(),
        "" | "discovery.k8s.io" | "coordination.k8s.io"
    )
}

#[cfg(test)]
mod tests;
