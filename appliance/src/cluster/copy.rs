//! The copy of everything that each member keeps: what it serves from after a restart without the API, and what it can take over from.
//!
//! On disk: one line `fairlead-copy FORMAT BYTES SHA256`, then the copy as JSON.
//! Invariant: a copy that is not exactly what was written is not used, and the reason is said.

use std::{io, path::Path};

use fairlead_api::watch::builder::Change;
use fairlead_apiserver::{Copy, member::hash};
use kube::runtime::watcher::Event;
use serde::de::DeserializeOwned;

use super::disk;

/// Largest copy, on the wire and on disk: some 30,000 Services.
pub const MAX_BYTES: usize = 64 << 20;
const MAGIC: &str = "fairlead-copy";
const FORMAT: u32 = 1;

/// Why there is no copy.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// None was kept yet.
    #[error("no copy of the API was kept on this node yet")]
    Missing,
    /// Longer than any copy is.
    #[error("{bytes} bytes are more than a copy may have ({MAX_BYTES})")]
    TooLarge {
        /// Of it.
        bytes: u64,
    },
    /// Written by a later version.
    #[error("it has format {found}, this program reads {FORMAT}")]
    Format {
        /// As written.
        found: u32,
    },
    /// Not what was written.
    #[error("it is damaged: {what}")]
    Corrupt {
        /// What does not fit.
        what: String,
    },
    /// The disk refuses.
    #[error("the disk refuses")]
    Disk(#[source] io::Error),
}

impl CopyError {
    /// The closed word for logs and the book.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Missing => "CopyMissing",
            Self::TooLarge { .. } => "CopyTooLarge",
            Self::Format { .. } => "CopyFormat",
            Self::Corrupt { .. } => "CopyCorrupt",
            Self::Disk(_) => "CopyUnreadable",
        }
    }
}

/// Keeps a copy, given as JSON, in one step.
///
/// # Errors
/// [`CopyError::TooLarge`], [`CopyError::Disk`]; what was kept before stays.
pub fn keep(path: &Path, json: &[u8]) -> Result<(), CopyError> {
    if json.len() > MAX_BYTES {
        return Err(CopyError::TooLarge {
            bytes: u64::try_from(json.len()).unwrap_or(u64::MAX),
        });
    }
    let mut content = head(json).into_bytes();
    content.extend_from_slice(json);
    disk::replace(path, &content).map_err(CopyError::Disk)
}

fn head(json: &[u8]) -> String {
    format!("{MAGIC} {FORMAT} {} {}\n", json.len(), hash(json))
}

/// The copy that was kept.
///
/// # Errors
/// [`CopyError`].
pub fn read(path: &Path) -> Result<Copy, CopyError> {
    let length = match std::fs::metadata(path) {
        Ok(meta) => meta.len(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(CopyError::Missing),
        Err(error) => return Err(CopyError::Disk(error)),
    };
    // The first line is shorter than 128 bytes.
    if length > MAX_BYTES as u64 + 128 {
        return Err(CopyError::TooLarge { bytes: length });
    }
    let content = std::fs::read(path).map_err(CopyError::Disk)?;
    let corrupt = |what: &str| CopyError::Corrupt {
        what: what.to_owned(),
    };
    let end = content.iter().take(128).position(|byte| *byte == b'\n');
    let end = end.ok_or_else(|| corrupt("it has no first line"))?;
    let (first, json) = (&content[..=end], &content[end + 1..]);
    let words = std::str::from_utf8(first).unwrap_or_default();
    let mut words = words.split_whitespace();
    let (magic, format) = (words.next(), words.next());
    let format: Option<u32> = format.and_then(|format| format.parse().ok());
    match (magic, format) {
        (Some(MAGIC), Some(FORMAT)) => {}
        (Some(MAGIC), Some(found)) => return Err(CopyError::Format { found }),
        _ => return Err(corrupt("its first line is not that of a copy")),
    }
    if first != head(json).as_bytes() {
        return Err(corrupt("length or checksum differ"));
    }
    serde_json::from_slice(json).map_err(|error| CopyError::Corrupt {
        what: error.to_string(),
    })
}

/// What an agent acts on, as the watches would have told it: four whole lists.
pub fn changes(copy: &Copy) -> Vec<Change> {
    let mut all = Vec::new();
    all.extend(list(copy, "services", Change::Service));
    all.extend(list(copy, "endpointslices.discovery.k8s.io", Change::Slice));
    all.extend(list(copy, "nodes", Change::Node));
    let policies = "ciliuml2announcementpolicies.cilium.io";
    all.extend(list(copy, policies, Change::L2Policy));
    all
}

fn list<K: DeserializeOwned>(
    copy: &Copy,
    resource: &str,
    wrap: fn(Event<K>) -> Change,
) -> Vec<Change> {
    let of_it = copy.objects.iter().filter(|o| o.resource == resource);
    let mut events = vec![Event::Init];
    for object in of_it {
        match serde_json::from_value(object.object.clone()) {
            Ok(object) => events.push(Event::InitApply(object)),
            Err(error) => tracing::warn!(
                reason = "CopyCorrupt",
                %error,
                "cannot read {resource} {}/{} of the copy",
                object.namespace,
                object.name
            ),
        }
    }
    events.push(Event::InitDone);
    events.into_iter().map(wrap).collect()
}

#[cfg(test)]
mod tests {
    use fairlead_api::watch::builder::SnapshotBuilder;
    use serde_json::json;

    use super::{changes, keep, read};

    fn copy() -> serde_json::Value {
        json!({
            "fence": {"number": 1, "node": "lb1"}, "mark": "1.lb1.7", "revision": 7,
            "authority": {"caCertificate": "", "caKey": "", "adminToken": ""},
            "objects": [
                {"resource": "nodes", "namespace": "", "name": "lb1",
                 "object": {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "lb1"}}},
                {"resource": "services", "namespace": "default", "name": "web", "object": {
                    "apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": "default"},
                    "spec": {"type": "LoadBalancer", "ports": [{"port": 80}]}}},
                {"resource": "services", "namespace": "default", "name": "odd", "object": {"spec": 7}},
            ],
        })
    }

    #[test]
    fn a_kept_copy_is_a_whole_snapshot() {
        let dir = tempfile::TempDir::new().unwrap();
        let path = dir.path().join("copy");
        assert_eq!(read(&path).unwrap_err().reason(), "CopyMissing");
        keep(&path, copy().to_string().as_bytes()).unwrap();
        let copy = read(&path).unwrap();
        let mut builder = SnapshotBuilder::default();
        for change in changes(&copy) {
            builder.apply(change);
        }
        let snapshot = builder.build().unwrap();
        assert_eq!(snapshot.generation.0, 1);
        assert_eq!((snapshot.services.len(), snapshot.nodes.len()), (1, 1));
    }

    #[test]
    fn every_damage_is_noticed_and_named() {
        let dir = tempfile::TempDir::new().unwrap();
        let path = dir.path().join("copy");
        keep(&path, copy().to_string().as_bytes()).unwrap();
        let whole = std::fs::read(&path).unwrap();
        for at in 0..whole.len() {
            let mut bad = whole.clone();
            bad[at] ^= 0x10;
            std::fs::write(&path, &bad).unwrap();
            let reason = read(&path).unwrap_err().reason();
            assert!(
                ["CopyCorrupt", "CopyFormat"].contains(&reason),
                "{at}: {reason}"
            );
            std::fs::write(&path, &whole[..at]).unwrap();
            assert_eq!(
                read(&path).unwrap_err().reason(),
                "CopyCorrupt",
                "cut at {at}"
            );
        }
        let newer = String::from_utf8(whole).unwrap().replacen(" 1 ", " 2 ", 1);
        std::fs::write(&path, newer).unwrap();
        assert_eq!(read(&path).unwrap_err().reason(), "CopyFormat");
    }
}
